//! The configuration that comes out, as text, with the line that each key came from.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::tree::Node;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Integer(i64),
    /// Yes or no.
    Boolean(bool),
    /// A list of texts.
    Texts(Vec<String>),
    /// A table on one line.
    Inline(Vec<(&'static str, Value)>),
}

impl Value {
    /// Of any text.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }
}

/// A key, and the keywords that it stands for.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: Value,
    /// Numbers of the keywords.
    pub ids: Vec<usize>,
}

/// A table, `[path]` or `[[path]]`.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its path.
    pub path: &'static str,
    /// Whether there may be several.
    pub list: bool,
    /// What stands above it: the keyword that it came from.
    pub comment: String,
    /// Its keys in order.
    pub keys: Vec<Key>,
    /// Numbers of the keywords.
    pub ids: Vec<usize>,
}

impl Table {
    /// `[path]` without keys.
    pub fn single(path: &'static str, comment: impl Into<String>) -> Table {
        Table {
            path,
            list: false,
            comment: comment.into(),
            keys: Vec::new(),
            ids: Vec::new(),
        }
    }

    /// `[[path]]` for a keyword, without keys.
    pub fn of(path: &'static str, node: &Node) -> Table {
        Table {
            list: true,
            ids: vec![node.id],
            ..Table::single(path, format!("{}: {}", node.place, node.text))
        }
    }

    /// `[[path]]` for a keyword that its keys repeat: the place is comment enough.
    pub fn leaf(path: &'static str, node: &Node) -> Table {
        Table {
            comment: node.place.to_string(),
            ..Table::of(path, node)
        }
    }

    /// Sets a key for a keyword. Returns the keywords whose value it replaces.
    pub fn set(&mut self, name: &'static str, value: Value, node: &Node) -> Vec<usize> {
        self.replace(name, value, vec![node.id])
    }

    /// Sets a key for several keywords.
    pub fn set_for(&mut self, name: &'static str, value: Value, ids: &[usize]) {
        self.replace(name, value, ids.to_vec());
    }

    /// Sets a key that no keyword asks for.
    pub fn add(&mut self, name: &'static str, value: Value) {
        self.replace(name, value, Vec::new());
    }

    fn replace(&mut self, name: &'static str, value: Value, ids: Vec<usize>) -> Vec<usize> {
        if let Some(key) = self.keys.iter_mut().find(|key| key.name == name) {
            key.value = value;
            return std::mem::replace(&mut key.ids, ids);
        }
        self.keys.push(Key { name, value, ids });
        Vec::new()
    }

    /// Changes the value of a key; the keywords stay.
    pub fn amend(&mut self, name: &str, value: Value) {
        if let Some(key) = self.keys.iter_mut().find(|key| key.name == name) {
            key.value = value;
        }
    }

    /// Takes a key out.
    pub fn drop_key(&mut self, name: &str) {
        self.keys.retain(|key| key.name != name);
    }

    /// Whether it has a key.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The value of a key.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.keys
            .iter()
            .find(|key| key.name == name)
            .map(|key| &key.value)
    }

    /// Stands for the keywords of another that says the same, too.
    pub fn share(&mut self, other: &Table) {
        self.ids.extend(&other.ids);
        for (one, other) in self.keys.iter_mut().zip(&other.keys) {
            one.ids.extend(&other.ids);
        }
    }

    /// Whether both say the same, wherever it came from.
    pub fn says_the_same(&self, other: &Table) -> bool {
        let pair = |key: &Key| (key.name, key.value.clone());
        self.keys.iter().map(pair).eq(other.keys.iter().map(pair))
    }
}

/// What a line of the text shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// A comment or nothing.
    None,
    /// The heading of a table.
    Heading(usize),
    /// A key of a table.
    Key(usize, usize),
}

/// All tables in order; one belongs to the last before it whose path it continues.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// The tables.
    pub tables: Vec<Table>,
}

impl Document {
    /// The text behind `header`, and what each of its lines shows.
    pub fn render(&self, header: &str) -> (String, Vec<Row>) {
        let mut text = String::new();
        let mut rows = Vec::new();
        let mut line = |content: &str, row: Row| {
            text.push_str(content);
            text.push('\n');
            rows.push(row);
        };
        header.lines().for_each(|content| line(content, Row::None));
        for (at, table) in self.tables.iter().enumerate() {
            line("", Row::None);
            if !table.comment.is_empty() {
                line(&format!("# {}", one_line(&table.comment)), Row::None);
            }
            let heading = match table.list {
                true => format!("[[{}]]", table.path),
                false => format!("[{}]", table.path),
            };
            line(&heading, Row::Heading(at));
            for (nth, key) in table.keys.iter().enumerate() {
                let content = format!("{} = {}", key.name, written(&key.value));
                line(&content, Row::Key(at, nth));
            }
        }
        (text, rows)
    }

    /// The keywords that a row stands for: those of a key, or of a heading. If the key has none,
    /// those of the heading `instead`.
    pub fn keywords(&self, row: Row, instead: usize) -> Vec<usize> {
        let of_table = |at: usize| self.tables.get(at).map(|table| table.ids.clone());
        let ids = match row {
            Row::None => None,
            Row::Heading(at) => of_table(at),
            Row::Key(at, nth) => {
                let table = self.tables.get(at);
                let key = table.and_then(|table| table.keys.get(nth));
                key.map(|key| key.ids.clone())
                    .filter(|ids| !ids.is_empty())
                    .or_else(|| of_table(at))
            }
        };
        ids.filter(|ids| !ids.is_empty())
            .or_else(|| of_table(instead))
            .unwrap_or_default()
    }

    /// The keywords of all tables and keys.
    pub fn all_keywords(&self) -> BTreeSet<usize> {
        let of_table = |table: &Table| {
            let of_keys = table.keys.iter().flat_map(|key| key.ids.clone());
            table.ids.iter().copied().chain(of_keys).collect::<Vec<_>>()
        };
        self.tables.iter().flat_map(of_table).collect()
    }

    /// Takes out what a row shows, with what belongs to it. Returns the keywords.
    pub fn remove(&mut self, row: Row) -> Vec<usize> {
        let keywords = |table: &Table| {
            let of_keys = table.keys.iter().flat_map(|key| key.ids.clone());
            table.ids.iter().copied().chain(of_keys).collect::<Vec<_>>()
        };
        match row {
            Row::None => Vec::new(),
            Row::Key(at, nth) => match self.tables.get_mut(at) {
                Some(table) if nth < table.keys.len() => table.keys.remove(nth).ids,
                _ => Vec::new(),
            },
            Row::Heading(at) => {
                let Some(table) = self.tables.get(at) else {
                    return Vec::new();
                };
                let inner = format!("{}.", table.path);
                let after = self.tables.iter().skip(at + 1);
                let inside = after.take_while(|t| t.path.starts_with(&inner)).count();
                let removed = self.tables.drain(at..=at + inside);
                removed.flat_map(|table| keywords(&table)).collect()
            }
        }
    }
}

/// As TOML has it, on one line.
fn written(value: &Value) -> String {
    match value {
        Value::Text(text) => quoted(text),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(yes) => yes.to_string(),
        Value::Texts(texts) => {
            let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
            format!("[{}]", texts.join(", "))
        }
        Value::Inline(keys) => {
            let keys = keys
                .iter()
                .map(|(name, value)| format!("{name} = {}", written(value)));
            format!("{{ {} }}", keys.collect::<Vec<_>>().join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => drop(write!(out, "\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A comment must not end before its time.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_survives(text in any::<String>()) {
            let mut table = Table::single("a", text.clone());
            table.add("key", Value::text(text.clone()));
            table.add("list", Value::Texts(vec![text.clone()]));
            table.add("inline", Value::Inline(vec![("x", Value::text(text.clone()))]));
            let (written, rows) = Document { tables: vec![table] }.render("# header");
            prop_assert_eq!(written.lines().count(), rows.len());
            let read: toml::Table = written.parse().expect("TOML");
            prop_assert_eq!(read["a"]["key"].as_str(), Some(&*text));
            prop_assert_eq!(read["a"]["list"][0].as_str(), Some(&*text));
            prop_assert_eq!(read["a"]["inline"]["x"].as_str(), Some(&*text));
        }
    }

    #[test]
    fn a_table_goes_with_what_belongs_to_it() {
        let paths = [
            "service",
            "service.server",
            "service.server.check",
            "service",
        ];
        let tables = paths.map(|path| Table {
            list: true,
            ..Table::single(path, "")
        });
        let left = |row| {
            let mut document = Document {
                tables: tables.to_vec(),
            };
            document.remove(row);
            document.tables.iter().map(|t| t.path).collect::<Vec<_>>()
        };
        assert_eq!(left(Row::Heading(0)), ["service"]);
        assert_eq!(left(Row::Heading(1)), ["service", "service"]);
        assert_eq!(left(Row::Heading(3)), paths[..3]);
    }
}
