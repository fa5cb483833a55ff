//! Arguments of keywords: numbers, times, addresses, yes and no.

use std::net::IpAddr;
use std::time::Duration;

use super::Mapper;
use crate::import::document::Value;
use crate::import::tree::Node;

/// Keepalived's BOOL.
pub fn boolean(word: &str) -> Option<bool> {
    match word {
        "on" | "true" | "yes" => Some(true),
        "off" | "false" | "no" => Some(false),
        _ => None,
    }
}

/// Seconds with up to six digits behind the point.
pub fn timer(word: &str) -> Option<Duration> {
    let (whole, part) = word.split_once('.').unwrap_or((word, ""));
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && part.is_empty()) || !is_number(whole) || !is_number(part) {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let digits: String = part.chars().chain("000000".chars()).take(6).collect();
    let micros: u64 = digits.parse().ok()?;
    (whole < 1 << 32).then(|| Duration::from_secs(whole) + Duration::from_micros(micros))
}

/// As the configuration has it: whole seconds, or milliseconds.
pub fn duration(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis()),
    }
}

impl Mapper<'_> {
    /// Says that keepalived does not read the words behind the first `count` ones either.
    pub(super) fn only(&mut self, node: &Node, count: usize) {
        if node.args().len() > count {
            let rest = node.args()[count..].join(" ");
            self.report.changed(
                node,
                format!("\"{rest}\" was not read: a keyword ends with its line"),
            );
        }
    }

    /// A flag with or without BOOL.
    pub(super) fn flag(&mut self, node: &Node) -> Option<bool> {
        self.only(node, 1);
        match node.arg(0).map(boolean) {
            None => Some(true),
            Some(Some(yes)) => Some(yes),
            Some(None) => {
                let word = node.arg(0).unwrap_or_default();
                self.report
                    .lost(node, format!("\"{word}\" is neither on nor off"));
                None
            }
        }
    }

    /// A number in a range.
    pub(super) fn number(&mut self, node: &Node, least: i64, most: i64) -> Option<i64> {
        self.only(node, 1);
        self.number_at(node, 0, least, most)
    }

    /// The same, of several arguments.
    pub(super) fn number_at(
        &mut self,
        node: &Node,
        at: usize,
        least: i64,
        most: i64,
    ) -> Option<i64> {
        let word = node.arg(at).unwrap_or_default();
        let number = word.parse().ok();
        let number = number.filter(|n| (least..=most).contains(n));
        if number.is_none() {
            self.report.lost(
                node,
                format!("\"{word}\" is no number from {least} to {most}"),
            );
        }
        number
    }

    /// A time, put into a range.
    pub(super) fn time(
        &mut self,
        node: &Node,
        least: Duration,
        most: Duration,
    ) -> Option<Duration> {
        self.only(node, 1);
        self.time_at(node, 0, least, most)
    }

    /// The same, of several arguments.
    pub(super) fn time_at(
        &mut self,
        node: &Node,
        at: usize,
        least: Duration,
        most: Duration,
    ) -> Option<Duration> {
        let word = node.arg(at).unwrap_or_default();
        let Some(time) = timer(word) else {
            self.report
                .lost(node, format!("\"{word}\" is no time in seconds"));
            return None;
        };
        // Milliseconds are the finest that the configuration has.
        let millis = Duration::from_millis(time.as_micros().div_ceil(1000) as u64);
        let fitting = millis.clamp(least, most);
        if fitting != time {
            let (written, became) = (word, duration(fitting));
            self.report
                .changed(node, format!("{written} s became {became}"));
        }
        Some(fitting)
    }

    /// An address.
    pub(super) fn address(&mut self, node: &Node) -> Option<IpAddr> {
        self.only(node, 1);
        let word = node.arg(0).unwrap_or_default();
        let addr = word.parse().ok();
        if addr.is_none() {
            self.report
                .lost(node, format!("\"{word}\" is no IP address"));
        }
        addr
    }

    /// The first word.
    pub(super) fn word<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        self.only(node, 1);
        let word = node.arg(0);
        if word.is_none() {
            self.report.lost(node, "its value is missing");
        }
        word
    }
}

/// Of an address.
pub fn address(addr: IpAddr) -> Value {
    Value::text(addr.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_decimal_seconds() {
        for (word, micros) in [
            ("3", Some(3_000_000)),
            ("0.5", Some(500_000)),
            (".25", Some(250_000)),
            ("2.71828", Some(2_718_280)),
            ("1.", Some(1_000_000)),
            ("0.0000019", Some(1)),
            ("", None),
            (".", None),
            ("-1", None),
            ("1s", None),
            ("99999999999", None),
        ] {
            assert_eq!(timer(word), micros.map(Duration::from_micros), "{word}");
        }
        assert_eq!(duration(Duration::from_secs(90)), "90s");
        assert_eq!(duration(Duration::from_millis(2500)), "2500ms");
    }
}
