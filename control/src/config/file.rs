//! The file as written: a tree of values whose keys, types and ranges agree with [`keys`], each
//! with its line. What the values mean together is `validate`'s business.
//!
//! serde would stop at the first value it dislikes; an operator wants to see all mistakes at once.
//! So the text is parsed by `toml` (which can go on after a syntax error) and walked against the
//! table. A value that is wrong is reported and left out, so that the checks that follow see its
//! default and say nothing more about it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Mistake;
use super::keys::{self, Fallback, Key, Kind, ROOT, Section};

/// A value and the line it stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Line, from 1.
    pub line: usize,
}

/// A value of the type that its key asks for.
#[derive(Debug)]
pub enum Value {
    /// Of `Text`, `Choice` (other spellings replaced) and `ChoiceOrInteger`.
    Text(String),
    /// Of `Integer` and `ChoiceOrInteger`.
    Integer(i64),
    /// Of `Duration`.
    Duration(Duration),
    /// Of `Boolean`.
    Boolean(bool),
    /// Of `Texts`.
    Texts(Vec<At<String>>),
    /// Of `Integers`.
    Integers(Vec<At<i64>>),
    /// Of `Table`.
    Table(Table),
    /// Of `Tables`.
    Tables(Vec<Table>),
}

/// A table as written; keys that are wrong or left out are not in it.
#[derive(Debug)]
pub struct Table {
    /// Line of its heading.
    pub line: usize,
    section: &'static Section,
    values: BTreeMap<&'static str, At<Value>>,
    /// Keys that were there but wrong: they are not "missing".
    wrong: Vec<&'static str>,
}

/// What [`read`] found.
#[derive(Debug)]
pub struct File {
    /// The file's top level.
    pub root: Table,
    /// Whether the text is TOML at all. If not, the tree is what could be saved of it.
    pub well_formed: bool,
}

impl File {
    /// A section of the top level; one of defaults if the file has none.
    pub fn section(&self, name: &str) -> &Table {
        self.root
            .table(name)
            .expect("`read` fills in every section that is left out")
    }
}

/// Reads a text. `path` is only named in mistakes.
pub fn read(path: &Path, text: &str) -> (File, Vec<Mistake>) {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        path,
        lines: Lines::of(text),
        mistakes: Vec::new(),
        strict: errors.is_empty(),
    };
    let mut root = reader.table(&ROOT, document.get_ref(), 0);
    for key in ROOT.keys {
        if let Kind::Table(section) = key.kind {
            let value = Value::Table(Table::empty(section));
            root.values.entry(key.name).or_insert(At { value, line: 0 });
        }
    }
    // A syntax error also spoils what it stands in: only the error itself is worth a line.
    let mut broken: Vec<Mistake> = Vec::new();
    for error in &errors {
        let line = error.span().map_or(0, |span| reader.lines.line(span.start));
        if broken.iter().all(|m| m.line != line) {
            let (what, advice) = (one_line(error.message()), syntax_advice(text, line));
            let text = format!("not TOML: {what}; {advice}");
            broken.push(Mistake {
                file: path.to_owned(),
                line,
                text,
            });
        }
    }
    reader
        .mistakes
        .retain(|m| broken.iter().all(|b| b.line != m.line));
    broken.append(&mut reader.mistakes);
    (
        File {
            root,
            well_formed: errors.is_empty(),
        },
        broken,
    )
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The slip that people make most: a word without quotes.
fn syntax_advice(text: &str, line: usize) -> &'static str {
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let value = line.split_once('=').map_or("", |(_, value)| value.trim());
    match value.starts_with(|c: char| c.is_alphabetic() || c == '/') {
        true => "put texts in quotes",
        false => "correct the line",
    }
}

/// Turns byte offsets into line numbers.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        let after = text
            .bytes()
            .enumerate()
            .filter(|(_, b)| *b == b'\n')
            .map(|(i, _)| i + 1);
        Lines(std::iter::once(0).chain(after).collect())
    }

    fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }
}

struct Reader<'a> {
    path: &'a Path,
    lines: Lines,
    mistakes: Vec<Mistake>,
    /// Missing keys are mistakes, too (not so in what is left of a broken file).
    strict: bool,
}

impl Reader<'_> {
    fn complain(&mut self, line: usize, text: String) {
        self.mistakes.push(Mistake {
            file: self.path.to_owned(),
            line,
            text,
        });
    }

    fn line_of<T>(&self, spanned: &Spanned<T>) -> usize {
        self.lines.line(spanned.span().start)
    }

    fn table(&mut self, section: &'static Section, table: &DeTable<'_>, line: usize) -> Table {
        let mut read = Table {
            line,
            section,
            values: BTreeMap::new(),
            wrong: Vec::new(),
        };
        for (name, value) in table.iter() {
            let at = self.line_of(name);
            let Some(key) = section.key(name.get_ref()) else {
                // In what is left of a broken file, a key here has probably lost its heading.
                let lost = section.path.is_empty() && !self.strict;
                if !lost {
                    self.complain(at, unknown_key(section, name.get_ref()));
                }
                continue;
            };
            match self.value(section, key, value) {
                Some(value) => drop(read.values.insert(key.name, At { value, line: at })),
                None => read.wrong.push(key.name),
            }
        }
        for key in section.keys {
            let required = match key.default {
                Fallback::Required => true,
                Fallback::RequiredUnless(other) => !table.contains_key(other),
                Fallback::Value(_) | Fallback::Computed(_) => false,
            };
            if required && self.strict && !table.contains_key(key.name) {
                self.complain(line, missing_key(section, key));
            }
        }
        read
    }

    fn value(
        &mut self,
        section: &Section,
        key: &Key,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<Value> {
        let line = self.line_of(value);
        match (&key.kind, value.get_ref()) {
            (Kind::Text, DeValue::String(s)) => Some(Value::Text(s.to_string())),
            (Kind::Choice(words, others), DeValue::String(s)) => {
                self.choice(key, words, others, s, line).map(Value::Text)
            }
            (Kind::ChoiceOrInteger(words, ..), DeValue::String(s)) => {
                self.choice(key, words, &[], s, line).map(Value::Text)
            }
            (
                Kind::Integer(min, max) | Kind::ChoiceOrInteger(_, min, max),
                number @ DeValue::Integer(_),
            ) => self
                .integer(key, number, *min..=*max, line)
                .map(Value::Integer),
            (Kind::Duration(min, max), DeValue::String(s)) => self
                .duration(key, s, *min..=*max, line)
                .map(Value::Duration),
            (Kind::Boolean, DeValue::Boolean(b)) => Some(Value::Boolean(*b)),
            (Kind::Texts, DeValue::Array(items)) => self.texts(key, items).map(Value::Texts),
            (Kind::Integers(min, max), DeValue::Array(items)) => {
                self.integers(key, items, *min..=*max).map(Value::Integers)
            }
            (Kind::Table(inner), DeValue::Table(table)) => {
                Some(Value::Table(self.table(inner, table, line)))
            }
            (Kind::Tables(inner), DeValue::Array(items)) => {
                self.tables(inner, items).map(Value::Tables)
            }
            (Kind::Tables(inner), DeValue::Table(_)) => {
                let path = inner.path;
                self.complain(line, format!("[{path}] is a list; write [[{path}]]"));
                None
            }
            (_, found) => {
                let (name, wanted) = (key.name, key.kind.wanted());
                let found = describe_found(found);
                let advice = match section.path {
                    "" if found != "a table" => format!("; write [{name}]"),
                    _ => format!("; give {wanted}"),
                };
                self.complain(line, format!("{name} is {found}{advice}"));
                None
            }
        }
    }

    fn choice(
        &mut self,
        key: &Key,
        words: &[&str],
        others: &[(&str, &str)],
        found: &str,
        line: usize,
    ) -> Option<String> {
        if words.contains(&found) {
            return Some(found.to_owned());
        }
        if let Some((_, word)) = others.iter().find(|(other, _)| *other == found) {
            return Some((*word).to_owned());
        }
        let known = words.join(", ");
        let spelled = words
            .iter()
            .copied()
            .chain(others.iter().map(|(other, _)| *other));
        let advice = match nearest(found, spelled) {
            Some(word) => format!("did you mean \"{word}\"? known: {known}"),
            None => format!("known: {known}"),
        };
        self.complain(
            line,
            format!("{} \"{found}\" is unknown; {advice}", key.name),
        );
        None
    }

    fn integer(
        &mut self,
        key: &Key,
        value: &DeValue<'_>,
        range: std::ops::RangeInclusive<i64>,
        line: usize,
    ) -> Option<i64> {
        let DeValue::Integer(number) = value else {
            let found = describe_found(value);
            let text = format!("{} holds {found}; give integers only", key.name);
            self.complain(line, text);
            return None;
        };
        let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
        if let Some(n) = parsed.filter(|n| range.contains(n)) {
            return Some(n);
        }
        let (min, max) = range.into_inner();
        let text = format!(
            "{} {} is out of range; give {min} to {max}",
            key.name,
            number.as_str()
        );
        self.complain(line, text);
        None
    }

    fn duration(
        &mut self,
        key: &Key,
        found: &str,
        range: std::ops::RangeInclusive<u64>,
        line: usize,
    ) -> Option<Duration> {
        let name = key.name;
        let Ok(time) = humantime::parse_duration(found) else {
            let text = format!("{name} \"{found}\" is no time; write it like \"10s\" or \"250ms\"");
            self.complain(line, text);
            return None;
        };
        if u64::try_from(time.as_millis()).is_ok_and(|ms| range.contains(&ms)) {
            return Some(time);
        }
        let (min, max) = (keys::time(*range.start()), keys::time(*range.end()));
        let text = format!("{name} \"{found}\" is out of range; give {min} to {max}");
        self.complain(line, text);
        None
    }

    fn texts(&mut self, key: &Key, items: &[Spanned<DeValue<'_>>]) -> Option<Vec<At<String>>> {
        let mut out = Vec::new();
        for item in items {
            let line = self.line_of(item);
            match item.get_ref() {
                DeValue::String(s) => out.push(At {
                    value: s.to_string(),
                    line,
                }),
                other => {
                    let found = describe_found(other);
                    self.complain(line, format!("{} holds {found}; give texts only", key.name));
                }
            }
        }
        (out.len() == items.len()).then_some(out)
    }

    fn integers(
        &mut self,
        key: &Key,
        items: &[Spanned<DeValue<'_>>],
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<Vec<At<i64>>> {
        let mut out = Vec::new();
        for item in items {
            let line = self.line_of(item);
            if let Some(value) = self.integer(key, item.get_ref(), range.clone(), line) {
                out.push(At { value, line });
            }
        }
        (out.len() == items.len()).then_some(out)
    }

    fn tables(
        &mut self,
        inner: &'static Section,
        items: &[Spanned<DeValue<'_>>],
    ) -> Option<Vec<Table>> {
        let mut out = Vec::new();
        for item in items {
            let line = self.line_of(item);
            match item.get_ref() {
                DeValue::Table(table) => out.push(self.table(inner, table, line)),
                other => {
                    let (found, path) = (describe_found(other), inner.path);
                    self.complain(line, format!("{path} holds {found}; write [[{path}]]"));
                }
            }
        }
        (out.len() == items.len()).then_some(out)
    }
}

fn describe_found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => format!("the text \"{s}\""),
        DeValue::Integer(n) => format!("the number {}", n.as_str()),
        DeValue::Float(n) => format!("the number {}", n.as_str()),
        DeValue::Boolean(b) => format!("{b}"),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

fn unknown_key(section: &Section, name: &str) -> String {
    let what = if section.path.is_empty() {
        "section"
    } else {
        "key"
    };
    let place = match section.path {
        "" => String::new(),
        _ => format!(" in {}", section.heading()),
    };
    let hint = keys::HINTS
        .iter()
        .find(|(path, key, _)| *path == section.path && *key == name);
    let advice = if let Some((_, _, hint)) = hint {
        (*hint).to_owned()
    } else if let Some(near) = nearest(name, section.keys.iter().map(|k| k.name)) {
        format!("did you mean \"{near}\"?")
    } else if let Some(home) = keys::sections().iter().find(|s| s.key(name).is_some()) {
        format!("it belongs into {}", home.heading())
    } else {
        let known: Vec<_> = section.keys.iter().map(|k| k.name).collect();
        format!("known: {}", known.join(", "))
    };
    format!("unknown {what} \"{name}\"{place}; {advice}")
}

fn missing_key(section: &Section, key: &Key) -> String {
    match key.kind {
        Kind::Tables(inner) => format!("there is no {0}; add one", inner.heading()),
        _ => {
            let (heading, name, wanted) = (section.heading(), key.name, key.kind.describe());
            format!("{heading} has no {name}; add {name} = … ({wanted})")
        }
    }
}

/// The known word that someone most likely meant, if any is close enough.
pub(crate) fn nearest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let found = found.to_lowercase();
    known
        .map(|word| (strsim::damerau_levenshtein(&found, word), word))
        .filter(|(distance, word)| *distance <= (word.len().max(found.len()) / 3).max(1))
        .filter(|(distance, word)| *distance < word.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

impl Table {
    fn empty(section: &'static Section) -> Table {
        Table {
            line: 0,
            section,
            values: BTreeMap::new(),
            wrong: Vec::new(),
        }
    }

    fn fixed_default(&self, name: &str) -> Option<&'static str> {
        match self.section.key(name).map(|k| &k.default) {
            Some(Fallback::Value(text)) => Some(text),
            _ => None,
        }
    }

    /// Line of a key, or of the heading when the key is left out.
    pub fn line_of(&self, name: &str) -> usize {
        self.values.get(name).map_or(self.line, |at| at.line)
    }

    /// Whether the key is written, rightly or wrongly.
    pub fn mentions(&self, name: &str) -> bool {
        self.values.contains_key(name) || self.wrong.contains(&name)
    }

    /// A text, as written or by default.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name) {
            Some(At {
                value: Value::Text(text),
                ..
            }) => Some(text),
            Some(_) => None,
            None => self.fixed_default(name).map(|text| text.trim_matches('"')),
        }
    }

    /// An integer, as written or by default.
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.values.get(name) {
            Some(At {
                value: Value::Integer(n),
                ..
            }) => Some(*n),
            Some(_) => None,
            None => self.fixed_default(name).and_then(|text| text.parse().ok()),
        }
    }

    /// A time, as written or by default.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        match self.values.get(name) {
            Some(At {
                value: Value::Duration(time),
                ..
            }) => Some(*time),
            Some(_) => None,
            None => self
                .fixed_default(name)
                .and_then(|text| humantime::parse_duration(text.trim_matches('"')).ok()),
        }
    }

    /// A boolean, as written or by default.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        match self.values.get(name) {
            Some(At {
                value: Value::Boolean(b),
                ..
            }) => Some(*b),
            Some(_) => None,
            None => self.fixed_default(name).and_then(|text| text.parse().ok()),
        }
    }

    /// A list of texts; empty when left out.
    pub fn texts(&self, name: &str) -> &[At<String>] {
        match self.values.get(name) {
            Some(At {
                value: Value::Texts(texts),
                ..
            }) => texts,
            _ => &[],
        }
    }

    /// A list of integers, if it is written.
    pub fn integers(&self, name: &str) -> Option<&[At<i64>]> {
        match self.values.get(name) {
            Some(At {
                value: Value::Integers(integers),
                ..
            }) => Some(integers),
            _ => None,
        }
    }

    /// A table, if it is written.
    pub fn table(&self, name: &str) -> Option<&Table> {
        match self.values.get(name) {
            Some(At {
                value: Value::Table(table),
                ..
            }) => Some(table),
            _ => None,
        }
    }

    /// Tables of a list, in the order of the file.
    pub fn tables(&self, name: &str) -> &[Table] {
        match self.values.get(name) {
            Some(At {
                value: Value::Tables(tables),
                ..
            }) => tables,
            _ => &[],
        }
    }
}
