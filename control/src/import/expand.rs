//! Conditions, definitions and repetitions: from the lines of files to those that count.
//!
//! A line is looked at again after each replacement, because a parameter may hold a condition,
//! a definition, a repetition or several lines. How far that may go is limited.

use super::define::{self, Definitions};
use super::place::{Place, Refusal};
use super::repeat::{self, Repeat};
use super::report::Oddity;
use super::source::Line;

/// How much a file may grow by what it repeats.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Lines.
    pub lines: usize,
    /// Bytes.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            lines: 500_000,
            bytes: 64 << 20,
        }
    }
}

/// Replacements within replacements.
const DEEPEST: usize = 100;

/// Bytes of a line, in definitions of several lines of all of them.
const LONGEST: usize = 1 << 20;

/// What is still to be looked at.
enum Task {
    Text(String, usize),
    Repeat(Repeat, usize),
}

/// Lines on their way.
pub struct Expander<'a> {
    id: &'a str,
    limits: Limits,
    definitions: Definitions,
    /// A definition of several lines whose end has not come.
    open: Option<(String, String)>,
    oddities: &'a mut Vec<Oddity>,
}

impl<'a> Expander<'a> {
    /// For a host with this config-id.
    pub fn new(id: &'a str, limits: Limits, oddities: &'a mut Vec<Oddity>) -> Expander<'a> {
        let mut definitions = Definitions::default();
        definitions.set("_INSTANCE", id);
        definitions.set("_HASH", "#");
        definitions.set("_BANG", "!");
        Expander {
            id,
            limits,
            definitions,
            open: None,
            oddities,
        }
    }

    /// Sets `${_PWD}`.
    pub fn set_directory(&mut self, directory: &str) {
        self.definitions.set("_PWD", directory);
    }

    /// Hands over the lines that a line stands for.
    ///
    /// # Errors
    /// It stands for too much, or `take` refuses.
    pub fn line(
        &mut self,
        line: &Line,
        take: &mut dyn FnMut(&Place, &str) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let place = &line.place;
        let mut tasks = vec![Task::Text(line.text.clone(), 0)];
        while let Some(task) = tasks.pop() {
            let (text, depth) = match task {
                Task::Text(text, depth) => (text, depth),
                Task::Repeat(mut repeat, depth) => {
                    let definitions = &mut self.definitions;
                    if repeat.next(|name, value| definitions.set(name, value)) {
                        let text = repeat.text.clone();
                        tasks.push(Task::Repeat(repeat, depth));
                        tasks.push(Task::Text(text, depth + 1));
                    }
                    // Those that make nothing count, too: there may be many.
                    self.spend(place, 1)?;
                    continue;
                }
            };
            if depth > DEEPEST || text.len() > LONGEST {
                let what = "a definition that uses itself, or one too long; write it out";
                return Err(Refusal::at(place, what));
            }
            self.text(place, text.trim(), depth, &mut tasks, take)?;
        }
        Ok(())
    }

    /// At the end of all lines.
    pub fn finish(self, last: Option<&Place>) {
        if let (Some((name, _)), Some(place)) = (self.open, last) {
            let what = "the definition goes on after the last line of the file";
            self.oddities
                .push(Oddity::lost(place, &format!("${name}="), what));
        }
    }

    fn spend(&mut self, place: &Place, bytes: usize) -> Result<(), Refusal> {
        match (
            self.limits.lines.checked_sub(1),
            self.limits.bytes.checked_sub(bytes),
        ) {
            (Some(lines), Some(bytes)) => {
                self.limits = Limits { lines, bytes };
                Ok(())
            }
            _ => Err(Refusal::at(
                place,
                "what the file repeats is too much; shorten ~SEQ, ~LST and definitions",
            )),
        }
    }

    fn text(
        &mut self,
        place: &Place,
        text: &str,
        depth: usize,
        tasks: &mut Vec<Task>,
        take: &mut dyn FnMut(&Place, &str) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        if let Some((_, value)) = &mut self.open {
            let more = text.strip_suffix('\\');
            value.push('\n');
            value.push_str(more.unwrap_or(text).trim());
            if value.len() > LONGEST {
                return Err(Refusal::at(place, "a definition is too long; shorten it"));
            }
            if more.is_none()
                && let Some((name, value)) = self.open.take()
            {
                self.definitions.set(&name, value.trim_start_matches('\n'));
            }
            return Ok(());
        }
        if text.is_empty() {
            return Ok(());
        }
        if let Some(condition) = text.strip_prefix('@') {
            if let Some(rest) = self.condition(place, text, condition) {
                tasks.push(Task::Text(rest.to_owned(), depth));
            }
            return Ok(());
        }
        if let Some((name, value)) = define::definition(text) {
            match value.strip_suffix('\\') {
                Some(first) => self.open = Some((name.to_owned(), first.trim().to_owned())),
                None => self.definitions.set(name, value.trim()),
            }
            return Ok(());
        }
        if repeat::is_repeat(text) {
            return self.repeat(place, text, depth, tasks);
        }
        self.spend(place, text.len())?;
        match self.definitions.replace(text) {
            Some(replaced) => {
                if replaced.random {
                    let what = "a random number; its least value is taken";
                    self.oddities.push(Oddity::changed(place, text, what));
                }
                let lines = replaced.text.split('\n').rev();
                tasks.extend(lines.map(|line| Task::Text(line.to_owned(), depth + 1)));
                Ok(())
            }
            None => take(place, text),
        }
    }

    /// What follows `@ID` or `@^ID`, if it is for this host.
    fn condition<'t>(&mut self, place: &Place, text: &str, condition: &'t str) -> Option<&'t str> {
        let (id, rest) = condition
            .split_once(char::is_whitespace)
            .unwrap_or((condition, ""));
        let holds = match id.strip_prefix('^') {
            Some(other) => other != self.id,
            None => id == self.id,
        };
        if !holds {
            let what = format!(
                "left out: this is config-id \"{}\" (--config-id names another)",
                self.id
            );
            self.oddities.push(Oddity::changed(place, text, &what));
        }
        holds.then_some(rest)
    }

    fn repeat(
        &mut self,
        place: &Place,
        text: &str,
        depth: usize,
        tasks: &mut Vec<Task>,
    ) -> Result<(), Refusal> {
        self.spend(place, text.len())?;
        let parsed = repeat::split(text).and_then(|(name, arguments, rest)| {
            let mut arguments = arguments.to_owned();
            for _ in 0..DEEPEST {
                match self.definitions.replace(&arguments) {
                    Some(replaced) if replaced.text.len() <= LONGEST => arguments = replaced.text,
                    _ => break,
                }
            }
            Repeat::parse(name, &arguments, rest)
        });
        match parsed {
            Some(repeat) => tasks.push(Task::Repeat(repeat, depth)),
            None => {
                let what = "makes no sense to keepalived either; nothing is repeated";
                self.oddities.push(Oddity::lost(place, text, what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn expand_within(text: &str, limits: Limits) -> (Result<Vec<String>, Refusal>, Vec<Oddity>) {
        let (mut oddities, mut out) = (Vec::new(), Vec::new());
        let mut expander = Expander::new("box", limits, &mut oddities);
        let mut result = Ok(());
        for (at, text) in text.lines().enumerate() {
            let line = Line {
                place: Place {
                    file: Path::new("k").into(),
                    line: at + 1,
                },
                text: text.trim().to_owned(),
            };
            let mut take = |place: &Place, text: &str| {
                out.push(format!("{}:{text}", place.line));
                Ok(())
            };
            result = result.and_then(|()| expander.line(&line, &mut take));
        }
        expander.finish(None);
        (result.map(|()| out), oddities)
    }

    fn expand(text: &str) -> Vec<String> {
        expand_within(text, Limits::default()).0.expect("not much")
    }

    #[test]
    fn conditions_hold_for_one_host() {
        let text = "@box a\n@other b\n@^other c\n@^box d\n$IS=@box\n$IS e";
        assert_eq!(expand(text), ["1:a", "3:c", "6:e"]);
        let (_, oddities) = expand_within(text, Limits::default());
        assert_eq!(oddities.len(), 2, "what was left out is told");
    }

    #[test]
    fn definitions_are_resolved_where_they_are_used() {
        let text = "$A=10.2.${S}\n$S=0\n${A}.1\n$S=10\n${A}.1\n@box $P=7\np $P";
        assert_eq!(expand(text), ["3:10.2.0.1", "5:10.2.10.1", "7:p 7"]);
    }

    #[test]
    fn definitions_of_several_lines_nest() {
        let text = "$RS= \\\n real ${N} { \\\n  weight 1 \\\n }\n$VS= \\\nvirtual { \\\n$N=1 \\\n$RS \\\n@no x \\\n$N=2 \\\n$RS \\\n}\n$VS\nend";
        let expected = [
            "13:virtual {",
            "13:real 1 {",
            "13:weight 1",
            "13:}",
            "13:real 2 {",
            "13:weight 1",
            "13:}",
            "13:}",
            "14:end",
        ];
        assert_eq!(expand(text), expected);
    }

    #[test]
    fn a_definition_may_stand_behind_other_words() {
        assert_eq!(expand("$M= \\\n a \\\n b\npre$M"), ["4:prea", "4:b"]);
    }

    #[test]
    fn repetitions_nest() {
        let text = "~SEQ(X,1,2) ~LST(Y,a,b) n${X}${Y}\n$N=2\n$S=~SEQ(I,${N}) x${I}\n$S";
        assert_eq!(
            expand(text),
            ["1:n1a", "1:n1b", "1:n2a", "1:n2b", "4:x1", "4:x2"]
        );
    }

    #[test]
    fn bombs_are_refused() {
        let limits = Limits {
            lines: 1000,
            bytes: 10_000,
        };
        for bomb in [
            "~SEQ(A,1,100000) ~SEQ(B,1,100000) x",
            "~SEQ(A,1,100000) @no x",
            "~SEQ(A,1,100000)",
            "$R=a${R}\n${R}",
            "$R=${R}${R}\n${R}",
            "$A= \\\n $B \\\n $B\n$B= \\\n $A \\\n $A\n$A",
        ] {
            let refusal = expand_within(bomb, limits).0.expect_err(bomb).to_string();
            assert!(refusal.contains("; "), "no advice: {refusal}");
        }
    }

    #[test]
    fn a_wrong_repetition_is_told() {
        let (lines, oddities) = expand_within("~SEQ(1,2) x\ny", Limits::default());
        assert_eq!(lines.expect("little"), ["2:y"]);
        assert_eq!(oddities.len(), 1);
    }
}
