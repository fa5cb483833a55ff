//! Comments: `#` or `!` to the end of the line, outside of double quotes.

/// The line without its comment. `\#` and `\!` are the letters themselves.
pub fn strip(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut quoted = false;
    let mut letters = line.chars().peekable();
    while let Some(c) = letters.next() {
        match c {
            '"' => quoted = !quoted,
            '\\' if !quoted => {
                if let Some(literal) = letters.next_if(|next| matches!(next, '#' | '!')) {
                    out.push(literal);
                    continue;
                }
            }
            '#' | '!' if !quoted => break,
            _ => {}
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_end_the_line_outside_of_quotes() {
        for (line, left) in [
            ("weight 1 # heavy", "weight 1 "),
            ("! all", ""),
            ("a#b", "a"),
            (r#"path "/a#b!c" ! x"#, r#"path "/a#b!c" "#),
            (r"path /a\#b\!c", "path /a#b!c"),
            // Single quotes protect nothing.
            ("path 'a#b'", "path 'a"),
            (r"tail\", r"tail\"),
            (r#""open # not a comment"#, r#""open # not a comment"#),
        ] {
            assert_eq!(strip(line), left, "{line}");
        }
    }
}
