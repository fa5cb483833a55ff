//! Cuts a command line into options by popt's rules.
//!
//! Letters cluster (`-Lnc`), an argument may follow its letter at once (`-w3`, `-w=3`) or as the
//! next word, `--name=value` and `--name value` mean the same, `--` ends the options, and what is
//! no option is kept for later wherever it stands.

use crate::cli::failure::Failure;
use crate::cli::options::{COMMANDS, CommandSpec, OPTIONS, OptionSpec, Value};

/// An entry of one of the tables.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// A command.
    Command(&'static CommandSpec),
    /// An option.
    Option(&'static OptionSpec),
}

impl Found {
    fn by_letter(letter: char) -> Option<Found> {
        let option = OPTIONS
            .iter()
            .find(|o| o.short == Some(letter))
            .map(Found::Option);
        option.or_else(|| {
            COMMANDS
                .iter()
                .find(|c| c.short.contains(&letter))
                .map(Found::Command)
        })
    }

    fn by_name(name: &str) -> Option<Found> {
        let option = OPTIONS.iter().find(|o| o.long == name).map(Found::Option);
        option.or_else(|| COMMANDS.iter().find(|c| c.long == name).map(Found::Command))
    }

    fn value(self) -> Value {
        match self {
            Found::Command(command) => command.value.map_or(Value::None, Value::Required),
            Found::Option(option) => option.value,
        }
    }
}

/// An option as found on the line.
#[derive(Debug)]
pub struct Item<'a> {
    /// What it is.
    pub found: Found,
    /// Its argument, empty if it has none.
    pub value: Option<&'a str>,
    /// The word it stands in.
    pub word: &'a str,
}

/// A command line being read from front to back.
#[derive(Debug)]
pub struct Words<'a> {
    rest: std::slice::Iter<'a, String>,
    /// The word whose letters are being read, and those still to be read.
    cluster: Option<(&'a str, &'a str)>,
    options_ended: bool,
    /// Words that are neither options nor their arguments.
    pub leftover: Vec<&'a str>,
}

impl<'a> Words<'a> {
    /// Starts at the first word.
    pub fn new(words: &'a [String]) -> Self {
        Words {
            rest: words.iter(),
            cluster: None,
            options_ended: false,
            leftover: Vec::new(),
        }
    }

    /// The next option, `None` at the end of the line.
    pub fn next_item(&mut self) -> Result<Option<Item<'a>>, Failure> {
        loop {
            if let Some((word, letters)) = self.cluster.take()
                && !letters.is_empty()
            {
                return self.letter(word, letters).map(Some);
            }
            let Some(word) = self.rest.next() else {
                return Ok(None);
            };
            if self.options_ended || word == "-" || !word.starts_with('-') {
                self.leftover.push(word);
            } else if word == "--" {
                self.options_ended = true;
            } else if let Some(name) = word.strip_prefix("--") {
                return self.name(word, name).map(Some);
            } else {
                self.cluster = Some((word, &word[1..]));
            }
        }
    }

    fn letter(&mut self, word: &'a str, letters: &'a str) -> Result<Item<'a>, Failure> {
        let mut chars = letters.chars();
        let found = chars
            .next()
            .and_then(Found::by_letter)
            .ok_or_else(|| unknown(word))?;
        let rest = chars.as_str();
        let attached = (!rest.is_empty()).then(|| rest.strip_prefix('=').unwrap_or(rest));
        let value = match found.value() {
            Value::None => {
                self.cluster = Some((word, rest));
                None
            }
            kind => self.argument(word, attached, kind)?,
        };
        Ok(Item { found, value, word })
    }

    fn name(&mut self, word: &'a str, name: &'a str) -> Result<Item<'a>, Failure> {
        let (name, attached) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let found = Found::by_name(name).ok_or_else(|| unknown(word))?;
        let value = self.argument(word, attached, found.value())?;
        Ok(Item { found, value, word })
    }

    fn argument(
        &mut self,
        word: &str,
        attached: Option<&'a str>,
        kind: Value,
    ) -> Result<Option<&'a str>, Failure> {
        let bad = |problem| Failure::BadOption {
            word: word.to_string(),
            problem,
        };
        match (kind, attached) {
            (Value::None, Some(_)) => Err(bad("option does not take an argument")),
            (Value::None, None) => Ok(None),
            (_, Some(value)) => Ok(Some(value)),
            (Value::Required(_), None) => match self.rest.next() {
                Some(value) => Ok(Some(value)),
                None => Err(bad("missing argument")),
            },
            (Value::Optional(_), None) => match self.rest.as_slice().first() {
                Some(value) if !value.starts_with('-') => Ok(self.rest.next().map(String::as_str)),
                _ => Ok(None),
            },
        }
    }
}

fn unknown(word: &str) -> Failure {
    Failure::BadOption {
        word: word.to_string(),
        problem: "unknown option",
    }
}
