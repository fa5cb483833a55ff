//! Parameters: `$NAME=value`, used as `$NAME` before a blank and as `${NAME}` anywhere.

use std::collections::HashMap;

/// All that are defined so far.
#[derive(Debug, Default)]
pub struct Definitions(HashMap<String, String>);

/// A line with its parameters replaced, once: values are not looked at again.
#[derive(Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The text; values of several lines have line feeds in them.
    pub text: String,
    /// `${_RANDOM}` was among them.
    pub random: bool,
}

impl Definitions {
    /// Defines, or defines anew.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// Replaces what is defined; `None` if nothing is. Other names stay as they are.
    pub fn replace(&self, text: &str) -> Option<Replaced> {
        let mut out = String::new();
        let mut rest = text;
        let (mut any, mut random) = (false, false);
        while let Some(at) = rest.find('$') {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            match self.at(from) {
                Some((value, len)) => {
                    any = true;
                    match value {
                        Value::Text(value) => out.push_str(value),
                        Value::Random(least) => {
                            random = true;
                            out.push_str(least);
                        }
                    }
                    rest = &from[len..];
                }
                None => {
                    out.push('$');
                    rest = &from[1..];
                }
            }
        }
        out.push_str(rest);
        any.then_some(Replaced { text: out, random })
    }

    /// The value of the parameter that `text` begins with, and how long its name is.
    fn at<'a>(&'a self, text: &'a str) -> Option<(Value<'a>, usize)> {
        if let Some(inner) = text.strip_prefix("${") {
            let end = inner.find('}')?;
            let name = &inner[..end];
            let len = 2 + end + 1;
            if let Some(range) = name.strip_prefix("_RANDOM") {
                let mut words = range.split_ascii_whitespace();
                let least = words.next().unwrap_or("0");
                let is_number = least.bytes().all(|b| b.is_ascii_digit());
                return is_number.then_some((Value::Random(least), len));
            }
            return Some((Value::Text(self.0.get(name)?), len));
        }
        let name = name(&text[1..])?;
        let after = text[1 + name.len()..].chars().next();
        if !after.is_none_or(char::is_whitespace) {
            return None;
        }
        Some((Value::Text(self.0.get(name)?), 1 + name.len()))
    }
}

enum Value<'a> {
    Text(&'a str),
    /// Of a random number: the least that it may be.
    Random(&'a str),
}

/// The name that `text` begins with.
fn name(text: &str) -> Option<&str> {
    let is_letter = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let len = text.bytes().take_while(|b| is_letter(*b)).count();
    let name = &text[..len];
    (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).then_some(name)
}

/// `$NAME=value`: the name and what follows the sign.
pub fn definition(text: &str) -> Option<(&str, &str)> {
    let after = text.strip_prefix('$')?;
    let name = name(after)?;
    let value = after[name.len()..].strip_prefix('=')?;
    Some((name, value))
}

/// Whether a name may be defined: for the variables of `~SEQ` and `~LST`.
pub fn is_name(text: &str) -> bool {
    name(text) == Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> Option<String> {
        let mut known = Definitions::default();
        for (name, value) in [("A", "1"), ("BASE", "10.2.${SUB}"), ("SUB", "0"), ("E", "")] {
            known.set(name, value);
        }
        known.replace(text).map(|r| r.text)
    }

    #[test]
    fn names_are_replaced_as_keepalived_does() {
        for (text, expected) in [
            ("a${A}b", Some("a1b")),
            ("x_$A y", Some("x_1 y")),
            ("x_$A", Some("x_1")),
            ("$AB x", None),
            ("$A.5", None),
            ("${NO}", None),
            ("${BASE}.7", Some("10.2.${SUB}.7")),
            ("e${E}e", Some("ee")),
            ("\"${A}\"", Some("\"1\"")),
            ("${_RANDOM 5 9}", Some("5")),
            ("${_RANDOM}", Some("0")),
            ("$ ${ $", None),
        ] {
            assert_eq!(replaced(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn definitions_have_no_blank_before_the_sign() {
        assert_eq!(definition("$A=1 2"), Some(("A", "1 2")));
        assert_eq!(definition("$A="), Some(("A", "")));
        for text in ["$A =1", "$ A=1", "$9=1", "$A-B=1", "A=1"] {
            assert_eq!(definition(text), None, "{text}");
        }
    }
}
