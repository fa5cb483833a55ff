//! Keywords and their blocks, whatever they mean.

use super::place::{Place, Refusal};
use super::report::Oddity;
use super::words;

/// Blocks within blocks; keepalived's go four deep.
const DEEPEST: usize = 32;

/// Most keywords of all files together.
const MOST: usize = 1_000_000;

/// A keyword with what stands behind it and in its block.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its number, in the order of the text.
    pub id: usize,
    /// Where it was written.
    pub place: Place,
    /// As written, without its block.
    pub text: String,
    /// Its words; the first is the keyword. Never empty.
    pub words: Vec<String>,
    /// What is in its block.
    pub children: Vec<Node>,
    /// Whether it has one.
    pub has_block: bool,
}

impl Node {
    /// The first word.
    pub fn keyword(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The words behind it.
    pub fn args(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// One of those, counted from 0.
    pub fn arg(&self, at: usize) -> Option<&str> {
        self.args().get(at).map(String::as_str)
    }
}

/// Builds the tree line by line.
#[derive(Debug)]
pub struct Builder<'a> {
    /// Blocks that are open, the file first; each with the keyword that it belongs to.
    open: Vec<Node>,
    /// The last line may still get a block.
    may_open: bool,
    count: usize,
    oddities: &'a mut Vec<Oddity>,
}

impl<'a> Builder<'a> {
    /// An empty file.
    pub fn new(place: Place, oddities: &'a mut Vec<Oddity>) -> Builder<'a> {
        let file = Node {
            id: usize::MAX,
            place,
            text: String::new(),
            words: vec![String::new()],
            children: Vec::new(),
            has_block: true,
        };
        Builder {
            open: vec![file],
            may_open: false,
            count: 0,
            oddities,
        }
    }

    /// Takes a line without comment.
    ///
    /// # Errors
    /// Too deep or too many keywords.
    pub fn line(&mut self, place: &Place, text: &str) -> Result<(), Refusal> {
        let mut rest = text;
        while let Some((at, brace)) = first_brace(rest) {
            self.keyword(place, &rest[..at])?;
            match brace {
                '{' => self.open(place)?,
                _ => self.close(place),
            }
            rest = &rest[at + 1..];
        }
        self.keyword(place, rest)
    }

    fn keyword(&mut self, place: &Place, text: &str) -> Result<(), Refusal> {
        let words = words::split(text);
        if words.is_empty() {
            return Ok(());
        }
        if self.count >= MOST {
            return Err(Refusal::at(
                place,
                format!("more than {MOST} keywords; split the file"),
            ));
        }
        let node = Node {
            id: self.count,
            place: place.clone(),
            text: text.trim().to_owned(),
            words,
            children: Vec::new(),
            has_block: false,
        };
        self.count += 1;
        self.may_open = true;
        if let Some(block) = self.open.last_mut() {
            block.children.push(node);
        }
        Ok(())
    }

    fn open(&mut self, place: &Place) -> Result<(), Refusal> {
        let may_open = std::mem::take(&mut self.may_open);
        let block = self.open.last_mut().filter(|_| may_open);
        let Some(mut node) = block.and_then(|block| block.children.pop()) else {
            // What follows belongs to nothing, but is not lost: it is taken for this level.
            self.oddities
                .push(Oddity::lost(place, "{", "a block without a keyword"));
            return Ok(());
        };
        if self.open.len() > DEEPEST {
            let text = format!("more than {DEEPEST} blocks inside each other; is a }} missing?");
            return Err(Refusal::at(place, text));
        }
        node.has_block = true;
        self.open.push(node);
        Ok(())
    }

    fn close(&mut self, place: &Place) {
        self.may_open = false;
        if self.open.len() < 2 {
            self.oddities
                .push(Oddity::lost(place, "}", "no block is open here"));
            return;
        }
        self.close_last();
    }

    fn close_last(&mut self) {
        if let Some(node) = self.open.pop()
            && let Some(block) = self.open.last_mut()
        {
            block.children.push(node);
        }
    }

    /// The keywords of the file and how many there are on all levels.
    pub fn finish(mut self) -> (Vec<Node>, usize) {
        while self.open.len() > 1 {
            if let Some(node) = self.open.last() {
                let what = "its block is not closed; is a } missing?";
                self.oddities
                    .push(Oddity::lost(&node.place, &node.text, what));
            }
            self.close_last();
        }
        let nodes = self.open.pop().map(|file| file.children);
        (nodes.unwrap_or_default(), self.count)
    }
}

/// The first brace outside of double quotes.
fn first_brace(text: &str) -> Option<(usize, char)> {
    let mut quoted = false;
    text.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        !quoted && matches!(c, '{' | '}')
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn build(text: &str) -> (Vec<Node>, Vec<Oddity>) {
        let mut oddities = Vec::new();
        let place = |line| Place {
            file: Path::new("k").into(),
            line,
        };
        let mut builder = Builder::new(place(0), &mut oddities);
        for (at, line) in text.lines().enumerate() {
            builder.line(&place(at + 1), line).expect("small");
        }
        let (nodes, _) = builder.finish();
        (nodes, oddities)
    }

    /// `a b {c {} d}`: words, and blocks in braces.
    fn show(nodes: &[Node]) -> String {
        let each = nodes.iter().map(|node| {
            let words = node.words.join(" ");
            match node.has_block {
                true => format!("{words}{{{}}}", show(&node.children)),
                false => words,
            }
        });
        each.collect::<Vec<_>>().join(";")
    }

    #[test]
    fn braces_stand_where_they_like() {
        for text in [
            "a x {\n b {\n c 1\n }\n}\nd",
            "a x\n{\n b\n {\n  c 1\n }}\n d",
            "a x{b{c 1}}d",
            "a x { b {\n c 1 }\n } d",
        ] {
            let (nodes, oddities) = build(text);
            assert_eq!(show(&nodes), "a x{b{c 1}};d", "{text}");
            assert_eq!(oddities, []);
        }
    }

    #[test]
    fn braces_in_quotes_are_letters() {
        let (nodes, _) = build("a \"{ }\" {\n b\n}");
        assert_eq!(show(&nodes), "a { }{b}");
    }

    #[test]
    fn unbalanced_braces_are_told_and_the_rest_is_read() {
        for (text, tree, line) in [
            ("a {\n b\n}\n}\nc", "a{b};c", 4),
            ("a {\n b {\n c\n }\n", "a{b{c}}", 1),
            ("{\n a\n", "a", 1),
            ("a { } {\n b\n", "a{};b", 1),
        ] {
            let (nodes, oddities) = build(text);
            assert_eq!(show(&nodes), tree, "{text}");
            assert_eq!(oddities.len(), 1, "{text}");
            assert_eq!(oddities[0].place.line, line, "{text}");
        }
    }

    #[test]
    fn places_are_those_of_the_lines() {
        let (nodes, _) = build("a {\n b\n c } d");
        assert_eq!(nodes[0].children[1].place.line, 3);
        assert_eq!(nodes[1].place.line, 3);
        assert_eq!(nodes[0].children[1].id, 2);
    }

    #[test]
    fn depth_is_limited() {
        let mut oddities = Vec::new();
        let place = Place {
            file: Path::new("k").into(),
            line: 1,
        };
        let mut builder = Builder::new(place.clone(), &mut oddities);
        assert!(builder.line(&place, &"a{".repeat(DEEPEST)).is_ok());
        assert!(builder.line(&place, "a{").is_err());
    }

    /// A tree to be written down in many ways.
    #[derive(Clone, Debug)]
    struct Plant(Vec<String>, Option<Vec<Plant>>);

    fn plants() -> impl Strategy<Value = Vec<Plant>> {
        let words = proptest::collection::vec("[a-z0-9._:/-]{1,6}|[a-z]{1,3}[ {}#!][a-z]", 1..4);
        let leaf = words.clone().prop_map(|words| Plant(words, None));
        let plant = leaf.prop_recursive(4, 40, 5, move |inner| {
            let block = proptest::option::of(proptest::collection::vec(inner, 0..5));
            (words.clone(), block).prop_map(|(words, block)| Plant(words, block))
        });
        proptest::collection::vec(plant, 0..5)
    }

    /// Writes with the style that the bits say.
    fn write(plants: &[Plant], styles: &mut impl Iterator<Item = u8>, out: &mut String) {
        for Plant(words, block) in plants {
            let style = styles.next().unwrap_or_default();
            let words = words
                .iter()
                .map(|w| match w.contains([' ', '{', '}', '#', '!']) {
                    true => format!("\"{w}\""),
                    false => w.clone(),
                });
            let gap = if style & 1 == 0 { " " } else { " \t" };
            *out += &words.collect::<Vec<_>>().join(gap);
            let end = ["\n", "\r\n", " # a } comment\n", " ! {\n"][usize::from(style >> 1 & 3)];
            if let Some(block) = block {
                *out += ["{", " { ", "\n{\n", " {\r\n"][usize::from(style >> 3 & 3)];
                write(block, styles, out);
                *out += "}";
                // Another brace or keyword may follow on the same line.
                *out += ["", end][usize::from(style >> 5 & 1)];
            } else {
                *out += end;
            }
        }
    }

    fn expected(plants: &[Plant]) -> String {
        let each = plants.iter().map(|Plant(words, block)| match block {
            Some(block) => format!("{}{{{}}}", words.join(" "), expected(block)),
            None => words.join(" "),
        });
        each.collect::<Vec<_>>().join(";")
    }

    proptest! {
        #[test]
        fn a_tree_is_read_however_it_is_written(
            plants in plants(),
            styles in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut text = String::new();
            write(&plants, &mut styles.into_iter(), &mut text);
            let mut oddities = Vec::new();
            let files = crate::import::files::Alone(text.as_bytes());
            let lines = crate::import::source::read(Path::new("k"), &files, &mut oddities)
                .expect("readable");
            let place = Place { file: Path::new("k").into(), line: 0 };
            let mut builder = Builder::new(place, &mut oddities);
            for line in &lines {
                builder.line(&line.place, &line.text).expect("small");
            }
            let (nodes, _) = builder.finish();
            prop_assert_eq!(show(&nodes), expected(&plants), "{}", text);
            prop_assert!(oddities.is_empty());
        }
    }
}
