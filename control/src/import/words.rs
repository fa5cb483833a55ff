//! Lines into words.

use std::iter::Peekable;
use std::str::Chars;

/// The words of a line: blanks separate, double quotes keep together and join what they touch.
pub fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The words of a command: single quotes keep together as well, and backslashes escape as in
/// a shell's `$'…'`.
pub fn command(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars().peekable();
    while let Some(c) = letters.next() {
        match c {
            '\\' => {
                let escaped = escape(&mut letters);
                word.get_or_insert_default().extend(escaped);
            }
            '"' | '\'' if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && quote.is_none() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What follows a backslash; `None` at the end of the text.
fn escape(letters: &mut Peekable<Chars<'_>>) -> Option<char> {
    Some(match letters.next()? {
        'a' => '\x07',
        'b' => '\x08',
        'E' => '\x1b',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        'c' => char::from(letters.next()?.to_ascii_uppercase() as u8 ^ 0x40),
        'x' => number(letters, 16, 0, 8),
        c @ '0'..='7' => number(letters, 8, c as u32 - '0' as u32, 2),
        c => c,
    })
}

/// The letter whose number goes on for up to `most` digits; its low byte counts.
fn number(letters: &mut Peekable<Chars<'_>>, radix: u32, first: u32, most: usize) -> char {
    let mut number = first;
    for _ in 0..most {
        let Some(digit) = letters.peek().and_then(|c| c.to_digit(radix)) else {
            break;
        };
        number = (number * radix + digit) & 0xff;
        letters.next();
    }
    char::from(number as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn double_quotes_keep_words_together() {
        for (text, expected) in [
            ("  weight\t1 ", &["weight", "1"][..]),
            (r#"a "b c" d"#, &["a", "b c", "d"]),
            (r#"a "" b"#, &["a", "", "b"]),
            (r#"x"y z"w"#, &["xy zw"]),
            (r#"open "to the end"#, &["open", "to the end"]),
            (r"'a b'", &["'a", "b'"]),
            ("", &[]),
        ] {
            assert_eq!(split(text), expected, "{text}");
        }
    }

    #[test]
    fn commands_have_two_kinds_of_quotes_and_escapes() {
        for (text, expected) in [
            (r#"abcd" efg h jkl "mnop"#, &["abcd efg h jkl mnop"][..]),
            ("/bin/x 'a \"b' c", &["/bin/x", "a \"b", "c"]),
            (r"a\ b \x41\102\\", &["a b", "AB\\"]),
            (r"\n\cA\", &["\n\x01"]),
            ("'", &[""]),
        ] {
            assert_eq!(command(text), expected, "{text}");
        }
    }
}
