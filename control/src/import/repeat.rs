//! `~SEQ(var, start, step, end) text` and `~LST(var, a, b) text`: lines that are many.

use super::define::is_name;

/// A text to be repeated, with what its variables are each time.
#[derive(Debug, PartialEq, Eq)]
pub struct Repeat {
    /// The rest of the line.
    pub text: String,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Sequence {
        variable: String,
        next: i64,
        step: i64,
        end: i64,
        hexadecimal: bool,
    },
    List {
        variables: Vec<String>,
        /// In reverse order: the next is the last.
        values: Vec<Vec<String>>,
    },
}

/// Whether a line is one of these, right or wrong.
pub fn is_repeat(text: &str) -> bool {
    text.starts_with("~SEQ") || text.starts_with("~LST")
}

/// The arguments of a line and what follows them.
pub fn split(text: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, rest) = rest.split_once(')')?;
    Some((name, arguments, rest))
}

impl Repeat {
    /// Reads the arguments; `None` if they make no sense.
    pub fn parse(name: &str, arguments: &str, text: &str) -> Option<Repeat> {
        let kind = match name {
            "~SEQ" => sequence(arguments, false)?,
            "~SEQx" => sequence(arguments, true)?,
            "~LST" => list(arguments)?,
            _ => return None,
        };
        Some(Repeat {
            text: text.trim().to_owned(),
            kind,
        })
    }

    /// Hands over the next values of the variables; false if there are no more.
    pub fn next(&mut self, mut set: impl FnMut(&str, &str)) -> bool {
        match &mut self.kind {
            Kind::Sequence {
                variable,
                next,
                step,
                end,
                hexadecimal,
            } => {
                if (*step > 0 && *next > *end) || (*step < 0 && *next < *end) {
                    return false;
                }
                match (*hexadecimal, *next < 0) {
                    (false, _) => set(variable, &next.to_string()),
                    (true, false) => set(variable, &format!("{next:x}")),
                    (true, true) => set(variable, &format!("-{:x}", next.unsigned_abs())),
                }
                // Beyond the end in any case.
                *next = next.saturating_add(*step);
                true
            }
            Kind::List { variables, values } => match values.pop() {
                Some(values) => {
                    for (variable, value) in variables.iter().zip(&values) {
                        set(variable, value);
                    }
                    true
                }
                None => false,
            },
        }
    }
}

/// Numbers stay well within what can be counted without overflow.
const LARGEST: i64 = 1 << 40;

fn number(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let number = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(digits) => i64::from_str_radix(digits, 16).ok()?,
        None => digits.parse().ok()?,
    };
    (0..=LARGEST).contains(&number).then_some(sign * number)
}

fn sequence(arguments: &str, hexadecimal: bool) -> Option<Kind> {
    let mut arguments = arguments.split(',').map(str::trim);
    let variable = arguments.next().filter(|name| is_name(name))?.to_owned();
    let numbers: Option<Vec<i64>> = arguments.map(number).collect();
    let direction = |start: i64, end: i64| if end < start { -1 } else { 1 };
    let (next, step, end) = match numbers?[..] {
        [end] => {
            let start = if end < 0 { -1 } else { 1 };
            (start, start, end)
        }
        [start, end] => (start, direction(start, end), end),
        [start, step, end] if step != 0 => (start, step, end),
        _ => return None,
    };
    Some(Kind::Sequence {
        variable,
        next,
        step,
        end,
        hexadecimal,
    })
}

fn list(arguments: &str) -> Option<Kind> {
    let mut items = items(arguments)?.into_iter();
    let variables = items.next()?;
    let mut values: Vec<Vec<String>> = items.collect();
    let fits = values.iter().all(|v| v.len() == variables.len());
    if !fits || values.is_empty() || !variables.iter().all(|name| is_name(name)) {
        return None;
    }
    values.reverse();
    Some(Kind::List { variables, values })
}

/// `a, {b, c}`: a list of lists.
fn items(text: &str) -> Option<Vec<Vec<String>>> {
    let mut out = Vec::new();
    let mut rest = text.trim();
    loop {
        let (item, after) = match rest.strip_prefix('{') {
            Some(inner) => {
                let (inner, after) = inner.split_once('}')?;
                let values = inner.split(',').map(|v| v.trim().to_owned());
                (values.collect(), after.trim_start())
            }
            None => {
                let len = rest.find(',').unwrap_or(rest.len());
                let (value, after) = rest.split_at(len);
                (vec![value.trim().to_owned()], after)
            }
        };
        out.push(item);
        match after.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if after.is_empty() => return Some(out),
            None => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(line: &str) -> Option<Vec<String>> {
        let (name, arguments, rest) = split(line)?;
        let mut repeat = Repeat::parse(name, arguments, rest)?;
        let mut out = Vec::new();
        loop {
            let mut text = repeat.text.clone();
            let more = repeat.next(|name, value| text = text.replace(name, value));
            if !more {
                return Some(out);
            }
            out.push(text);
        }
    }

    #[test]
    fn sequences_count_as_keepalived_does() {
        for (line, expected) in [
            ("~SEQ(I,1,3) I", "1 2 3"),
            ("~SEQ( I , 1 , 3 )I", "1 2 3"),
            ("~SEQ(I, 0, 2, 5) I", "0 2 4"),
            ("~SEQ(I, 2) I", "1 2"),
            ("~SEQ(I, -3) I", "-1 -2 -3"),
            ("~SEQ(I, 3, 1) I", "3 2 1"),
            ("~SEQ(I, 1, -1, 3) I", ""),
            ("~SEQx(I, 144, 16, 192) I", "90 a0 b0 c0"),
            ("~SEQx(I, 0x12, -2, 0x0c) I", "12 10 e c"),
            ("~LST(A, 4, x) A", "4 x"),
            ("~LST({A,B}, {10,1}, {20, 4}) A.B", "10.1 20.4"),
        ] {
            let expected: Vec<&str> = expected.split_whitespace().collect();
            assert_eq!(all(line).expect(line), expected, "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_none() {
        for line in [
            "~SEQ(I,1,0,3) I",
            "~SEQ(I) I",
            "~SEQ(I,a) I",
            "~SEQ(9,1,2) I",
            "~SEQ(I,1,99999999999999) I",
            "~SEQ I",
            "~SEQ(I,1",
            "~LST(A) A",
            "~LST({A,B},{1},{2,3}) A",
            "~LST({A,B},{1,2)x",
            "~LSTx(A,1) A",
        ] {
            assert_eq!(all(line), None, "{line}");
        }
    }
}
