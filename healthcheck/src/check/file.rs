//! The number in a file (FILE_CHECK). Whoever writes the file decides: there are no retries.

use crate::verdict::{Failure, Passed, Verdict};

/// What the value in a tracked file says. With `weight` 0 only the value 0 is up; otherwise the
/// product is added to the server's weight, and a product of -2^31 or less is down.
pub fn judge(value: i64, weight: i64) -> Verdict {
    if weight == 0 {
        return match value {
            0 => Ok(Passed::default()),
            _ => Err(Failure::File(value)),
        };
    }
    let delta = value.saturating_mul(weight);
    match delta > i64::from(i32::MIN) {
        true => Ok(Passed { delta }),
        false => Err(Failure::File(value)),
    }
}

/// The number in the text of a file: the first word of it, 0 if it is empty.
///
/// # Errors
/// One line.
pub fn read(text: &str) -> Result<i64, String> {
    match text.split_ascii_whitespace().next() {
        None => Ok(0),
        Some(word) => word
            .parse()
            .map_err(|_| format!("\"{word}\" is not a whole number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(judge(0, 0), Ok(Passed::default()));
        assert_eq!(judge(1, 0), Err(Failure::File(1)));
        assert_eq!(judge(-3, 2), Ok(Passed { delta: -6 }));
        assert_eq!(
            judge(i64::from(i32::MIN), 1),
            Err(Failure::File(i32::MIN.into()))
        );
        assert_eq!(judge(i64::MIN, 2), Err(Failure::File(i64::MIN)));
        assert_eq!(read(" -5 and more\n"), Ok(-5));
        assert_eq!(read(""), Ok(0));
        assert!(read("up").is_err());
    }
}
