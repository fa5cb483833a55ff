//! The Call-ID of SIP messages (RFC 3261, 20.8), which the persistence engine `sip` keeps its
//! templates by.
//!
//! It is read as the kernel's tracker of SIP reads it (`ip_vs_sip_fill_param`): the first header
//! of that name behind a line end decides, wherever it stands, and one that is malformed counts
//! as none. The first line is the request or the status, never a header.

/// Longest Call-ID that is kept, bytes (`IP_VS_PEDATA_MAXLEN`).
pub const MAX_CALL_ID: usize = 255;

const NAME: &[u8] = b"call-id";
/// Its compact form (RFC 3261, 7.3.3).
const SHORT_NAME: u8 = b'i';

/// The Call-ID of a message, if it has one that is whole and not too long.
pub fn call_id(message: &[u8]) -> Option<&[u8]> {
    let mut rest = message;
    loop {
        rest = next_line(rest)?;
        if let Some(behind) = behind_name(rest) {
            let value = behind_colon(behind)?;
            let len = call_id_len(value)?;
            let (call_id, after) = value.split_at_checked(len)?;
            let is_ended = matches!(after, [b'\r' | b'\n', ..]);
            return (is_ended && len <= MAX_CALL_ID).then_some(call_id);
        }
    }
}

/// What stands behind the next line end.
fn next_line(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|b| matches!(b, b'\r' | b'\n'))?;
    match text.get(end..)? {
        [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => Some(rest),
        [] => None,
    }
}

/// What stands behind the header's name, if the line begins with it. The compact one is a letter
/// that no other follows.
fn behind_name(line: &[u8]) -> Option<&[u8]> {
    if let Some((name, rest)) = line.split_at_checked(NAME.len())
        && name.eq_ignore_ascii_case(NAME)
    {
        return Some(rest);
    }
    let (letter, rest) = line.split_first()?;
    let is_short = letter.eq_ignore_ascii_case(&SHORT_NAME)
        && rest.first().is_some_and(|next| !next.is_ascii_alphabetic());
    is_short.then_some(rest)
}

/// The value behind the colon.
fn behind_colon(text: &[u8]) -> Option<&[u8]> {
    match skip_blanks(text) {
        [b':', rest @ ..] => Some(skip_blanks(rest)),
        _ => None,
    }
}

/// Blanks, and a line end that a blank follows: the header goes on there (RFC 3261, 7.3.1).
fn skip_blanks(mut text: &[u8]) -> &[u8] {
    loop {
        text = match text {
            [b' ', rest @ ..] => rest,
            [b'\r', b'\n', b' ' | b'\t', ..] => skip_indent(text.get(2..).unwrap_or(&[])),
            [b'\r' | b'\n', b' ' | b'\t', ..] => skip_indent(text.get(1..).unwrap_or(&[])),
            _ => return text,
        };
    }
}

fn skip_indent(text: &[u8]) -> &[u8] {
    let indent = text.iter().take_while(|b| matches!(b, b' ' | b'\t'));
    text.get(indent.count()..).unwrap_or(&[])
}

/// Bytes of `word [ "@" word ]` (RFC 3261, 25.1), `None` for none.
fn call_id_len(value: &[u8]) -> Option<usize> {
    let word = |text: &[u8]| text.iter().take_while(|b| is_word(**b)).count();
    let first = word(value);
    if first == 0 {
        return None;
    }
    match value.get(first..) {
        Some([b'@', rest @ ..]) => match word(rest) {
            0 => None,
            second => Some(first + 1 + second),
        },
        _ => Some(first),
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~()<>:\\\"/[]?{}".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(message: &str) -> Option<&str> {
        call_id(message.as_bytes()).map(|id| core::str::from_utf8(id).unwrap())
    }

    #[test]
    fn names_are_long_or_short_and_of_any_case() {
        for name in ["Call-ID", "call-id", "CALL-ID", "i", "I"] {
            for colon in [":", ": ", " : ", ":   ", " :\r\n ", ":\n\t"] {
                let message = format!(
                    "INVITE sip:b@example.net SIP/2.0\r\nVia: x\r\n{name}{colon}a84b@host-1\r\n\r\n"
                );
                assert_eq!(found(&message), Some("a84b@host-1"), "{message:?}");
            }
        }
        assert_eq!(found("x\nCall-ID: a\nContact: y\n"), Some("a"));
    }

    #[test]
    fn the_value_is_a_word_or_two() {
        for (value, want) in [
            ("abc", Some("abc")),
            (
                "a.b!c%d*e_f+g`h'i~j(k)<l>:\\\"/[]?{}",
                Some("a.b!c%d*e_f+g`h'i~j(k)<l>:\\\"/[]?{}"),
            ),
            ("a@b", Some("a@b")),
            ("a@", None),
            ("@b", None),
            ("", None),
            ("a b", None),
            ("a@b@c", None),
            ("a;x=1", None),
            ("a ", None),
        ] {
            assert_eq!(
                found(&format!("x\r\nCall-ID: {value}\r\n")),
                want,
                "{value:?}"
            );
        }
    }

    #[test]
    fn it_has_to_end_within_the_message_and_after_255_bytes_at_most() {
        assert_eq!(found("x\r\nCall-ID: abc"), None);
        let of = |len| format!("x\r\ni: {}\r\n", "a".repeat(len));
        assert_eq!(found(&of(255)).map(str::len), Some(255));
        assert_eq!(found(&of(256)), None);
    }

    #[test]
    fn what_is_no_header_of_that_name() {
        for message in [
            "",
            "\r\n",
            // The first line.
            "Call-ID: abc\r\n",
            // The line before goes on.
            "x\r\nSubject: y\r\n Call-ID: abc\r\n",
            // Another name.
            "x\r\nIn-Reply-To: abc\r\n",
            "x\r\nMy-Call-ID: abc\r\n",
            // A name that only begins so ends the search, as in the kernel.
            "x\r\nCall-IDs: abc\r\nCall-ID: def\r\n",
            "x\r\nCall-ID abc\r\nCall-ID: def\r\n",
        ] {
            assert_eq!(found(message), None, "{message:?}");
        }
        assert_eq!(found("x\r\nia: no\r\ni: yes\r\n"), Some("yes"));
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_read_without_harm(message in proptest::collection::vec(
            prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), Just(b'i'), Just(b'@'), any::<u8>()
            ], 0..200,
        )) {
            if let Some(id) = call_id(&message) {
                prop_assert!(!id.is_empty() && id.len() <= MAX_CALL_ID);
                prop_assert!(id.iter().all(|b| is_word(*b) || *b == b'@'));
            }
        }

        #[test]
        fn a_call_id_is_found_among_other_headers(
            before in proptest::collection::vec("[A-HJ-Z][a-z]{0,8}: [ -~]{0,20}", 0..5),
            id in "[a-zA-Z0-9.-]{1,40}(@[a-z0-9.]{1,20})?",
            after in proptest::collection::vec("[A-Z][a-z]{0,8}: [ -~]{0,20}", 0..3),
        ) {
            let lines: Vec<String> = ["REGISTER sip:x SIP/2.0".to_string()]
                .into_iter()
                .chain(before)
                .chain([format!("Call-ID: {id}")])
                .chain(after)
                .collect();
            let message = lines.join("\r\n") + "\r\n\r\n";
            prop_assert_eq!(found(&message), Some(id.as_str()));
        }
    }
}
