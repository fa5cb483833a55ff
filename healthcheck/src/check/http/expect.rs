//! What answer is accepted.

use regex::bytes::{Regex, RegexBuilder};

use super::response::Response;
use crate::verdict::Failure;

/// Statuses from the first to the second, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange(pub u16, pub u16);

impl StatusRange {
    /// Success (RFC 9110, 15.3).
    pub const SUCCESS: StatusRange = StatusRange(200, 299);

    /// Reads "200" or "200-299", 100 to 599.
    ///
    /// # Errors
    /// One line.
    pub fn parse(text: &str) -> Result<StatusRange, String> {
        let wrong = || format!("status \"{text}\" is not N or N-M with numbers from 100 to 599");
        let number = |s: &str| s.trim().parse::<u16>().map_err(|_| wrong());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        match first >= 100 && last <= 599 && first <= last {
            true => Ok(StatusRange(first, last)),
            false => Err(wrong()),
        }
    }
}

/// What answer is accepted: all of it has to hold.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    /// Accepted statuses; none means [`StatusRange::SUCCESS`].
    pub statuses: Vec<StatusRange>,
    /// MD5 of the body in hexadecimal digits, as `genhash` prints it.
    pub digest: Option<String>,
    /// To be found in the first MiB of the body.
    pub regex: Option<Regex>,
    /// The expression must not be found.
    pub no_match: bool,
    /// Bytes of the body before the first at which a match may begin.
    pub min_offset: usize,
    /// No match may begin at or after this byte of the body; 0 means none is too late.
    pub max_offset: usize,
}

impl Expect {
    /// Compiles an expression.
    ///
    /// # Errors
    /// One line.
    pub fn regex(text: &str) -> Result<Regex, String> {
        let built = RegexBuilder::new(text).size_limit(1 << 20).build();
        built.map_err(|why| {
            let words: Vec<String> = why
                .to_string()
                .split_whitespace()
                .map(str::to_owned)
                .collect();
            format!("regex \"{text}\": {}", words.join(" "))
        })
    }

    pub(super) fn judge(&self, path: &str, response: &mut Response) -> Result<(), Failure> {
        let got = response.status().unwrap_or(0);
        let default = [StatusRange::SUCCESS];
        let statuses = if self.statuses.is_empty() {
            &default[..]
        } else {
            &self.statuses
        };
        let path = || path.to_owned();
        if !statuses.iter().any(|r| (r.0..=r.1).contains(&got)) {
            return Err(Failure::Status { got, path: path() });
        }
        if let Some(wanted) = &self.digest {
            let got = response.digest();
            if !got.eq_ignore_ascii_case(wanted) {
                return Err(Failure::Digest { got, path: path() });
            }
        }
        if let Some(regex) = &self.regex {
            let matched = self.is_found(regex, response.body());
            if matched == self.no_match {
                return Err(Failure::Regex {
                    matched,
                    path: path(),
                });
            }
        }
        Ok(())
    }

    fn is_found(&self, regex: &Regex, body: &[u8]) -> bool {
        let from = self.min_offset;
        let found = (from <= body.len())
            .then(|| regex.find_at(body, from))
            .flatten();
        found.is_some_and(|m| self.max_offset == 0 || m.start() < self.max_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(StatusRange::parse("404"), Ok(StatusRange(404, 404)));
        assert_eq!(StatusRange::parse("200-399"), Ok(StatusRange(200, 399)));
        for wrong in ["99", "600", "300-200", "x", ""] {
            assert!(StatusRange::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_expression_is_one_line() {
        assert_eq!(Expect::regex("(").unwrap_err().lines().count(), 1);
    }
}
