//! Filters as the operator writes them: a part of tcpdump's language.
//!
//! As there, `not` binds strongest, `and` and `or` are equal and taken from left to right, words
//! side by side (`tcp port 80`) are one test, and a value without a keyword (`port 80 or 443`)
//! takes the words before the last value.

use std::iter::Peekable;
use std::net::IpAddr;
use std::vec;

use dataplane::addr::Addr;
use dataplane::capture::{End, Filter, STEPS, Step, Test};

/// What a filter may consist of, for messages.
const KNOWN: &str = "[src|dst] host ADDRESS, [src|dst] port NUMBER, vlan NUMBER, tcp, udp, sctp, \
                     icmp, icmp6, vrrp, ip, ip6, arp; joined by `and`, `or`, `not` and parentheses";

/// Reads a filter; an empty one passes everything.
///
/// # Errors
/// One line that says what was not understood and what would be.
pub fn parse(text: &str) -> Result<Filter, String> {
    let words = words(text);
    if words.is_empty() {
        return Ok(Filter::default());
    }
    let mut parser = Parser {
        words: words.into_iter().peekable(),
        steps: Vec::new(),
        last: None,
        depth: 0,
    };
    parser.alternatives()?;
    match parser.words.next().as_deref() {
        None => {}
        Some(")") => return Err("filter: a `)` has no `(` before it".to_owned()),
        Some(word) => {
            return Err(format!(
                "filter: `and` or `or` is missing in front of `{word}`"
            ));
        }
    }
    Filter::new(&parser.steps)
        .ok_or_else(|| format!("filter: at most {STEPS} tests and operators are possible"))
}

/// Parentheses and `!` may stand without spaces, as in `!(tcp)`.
fn words(text: &str) -> Vec<String> {
    let mut spaced = String::new();
    for c in text.chars() {
        match c {
            '(' | ')' | '!' => spaced.extend([' ', c, ' ']),
            _ => spaced.push(c),
        }
    }
    spaced.split_whitespace().map(str::to_owned).collect()
}

/// What a value belongs to.
#[derive(Clone, Copy, Debug)]
enum Keyword {
    Host(End),
    Port(End),
    Vlan,
}

struct Parser {
    words: Peekable<vec::IntoIter<String>>,
    /// In the order in which they are carried out.
    steps: Vec<Step>,
    /// The last value's keyword and the words beside it, for values without any.
    last: Option<(Vec<Test>, Keyword)>,
    depth: usize,
}

impl Parser {
    fn next_is(&mut self, any: &[&str]) -> bool {
        self.words
            .peek()
            .is_some_and(|word| any.contains(&word.as_str()))
    }

    fn alternatives(&mut self) -> Result<(), String> {
        self.one()?;
        loop {
            let step = if self.next_is(&["and", "&&"]) {
                Step::And
            } else if self.next_is(&["or", "||"]) {
                Step::Or
            } else {
                return Ok(());
            };
            self.words.next();
            self.one()?;
            self.steps.push(step);
        }
    }

    fn one(&mut self) -> Result<(), String> {
        let mut negated = false;
        while self.next_is(&["not", "!"]) {
            self.words.next();
            negated = !negated;
        }
        if self.next_is(&["("]) {
            self.words.next();
            self.depth += 1;
            if self.depth > STEPS {
                return Err(format!("filter: more than {STEPS} parentheses are open"));
            }
            self.alternatives()?;
            self.depth -= 1;
            if !self.next_is(&[")"]) {
                return Err("filter: a `)` is missing".to_owned());
            }
            self.words.next();
        } else {
            self.primitive()?;
        }
        if negated {
            self.steps.push(Step::Not);
        }
        Ok(())
    }

    /// Words side by side, which all have to fit.
    fn primitive(&mut self) -> Result<(), String> {
        let mut tests = Vec::new();
        let word = match self.words.peek() {
            None => {
                return Err(format!(
                    "filter: something is missing at its end; known: {KNOWN}"
                ));
            }
            Some(word) => word.clone(),
        };
        if self.is_operator() {
            return Err(format!("filter: something is missing before `{word}`"));
        }
        if let Some((beside, keyword)) = self.last.clone()
            && let Some(test) = bare(keyword, &word)
        {
            self.words.next();
            tests.extend(beside);
            tests.push(test?);
        }
        while self.words.peek().is_some() && !self.is_operator() {
            let (test, keyword) = self.test()?;
            if let Some(keyword) = keyword {
                self.last = Some((tests.clone(), keyword));
            }
            tests.push(test);
        }
        for (at, test) in tests.into_iter().enumerate() {
            self.steps.push(Step::Test(test));
            if at > 0 {
                self.steps.push(Step::And);
            }
        }
        Ok(())
    }

    fn is_operator(&mut self) -> bool {
        self.next_is(&["and", "&&", "or", "||", "not", "!", "(", ")"])
    }

    fn test(&mut self) -> Result<(Test, Option<Keyword>), String> {
        let mut next = || self.words.next().unwrap_or_default();
        let word = next();
        let (end, word) = match word.as_str() {
            "src" => (End::Source, next()),
            "dst" => (End::Destination, next()),
            _ => (End::Any, word),
        };
        let with = |keyword, value: &str| Ok((valued(keyword, value)?, Some(keyword)));
        let simple = match word.as_str() {
            "host" => return with(Keyword::Host(end), &next()),
            "port" => return with(Keyword::Port(end), &next()),
            "vlan" if end == End::Any => return with(Keyword::Vlan, &next()),
            // tcpdump also takes a bare address.
            other if other.parse::<IpAddr>().is_ok() => return with(Keyword::Host(end), other),
            "vlan" => Test::Vlan(0),
            "tcp" => Test::Protocol(6),
            "udp" => Test::Protocol(17),
            "sctp" => Test::Protocol(132),
            "icmp" => Test::Protocol(1),
            "icmp6" => Test::Protocol(58),
            "vrrp" => Test::Protocol(112),
            "ip" => Test::EtherType(0x0800),
            "ip6" => Test::EtherType(0x86dd),
            "arp" => Test::EtherType(0x0806),
            other => return Err(format!("filter: `{other}` is not known; known: {KNOWN}")),
        };
        match end {
            End::Any => Ok((simple, None)),
            _ => Err(format!(
                "filter: `{word}` has no source or destination; known: {KNOWN}"
            )),
        }
    }
}

/// The test of a value that stands without a keyword, if the word is a value that fits.
fn bare(last: Keyword, word: &str) -> Option<Result<Test, String>> {
    let fits = match last {
        Keyword::Host(_) => word.parse::<IpAddr>().is_ok(),
        Keyword::Port(_) | Keyword::Vlan => word.bytes().all(|b| b.is_ascii_digit()),
    };
    fits.then(|| valued(last, word))
}

fn valued(keyword: Keyword, word: &str) -> Result<Test, String> {
    Ok(match keyword {
        Keyword::Host(end) => Test::Host(end, address(word)?),
        Keyword::Port(end) => Test::Port(end, number("port", word, 65_535)?),
        Keyword::Vlan => Test::Vlan(number("vlan", word, 4094)?),
    })
}

fn address(word: &str) -> Result<Addr, String> {
    let addr = word.parse::<IpAddr>();
    addr.map(Into::into)
        .map_err(|_| format!("filter: `host {word}`: not an IP address"))
}

fn number(what: &str, word: &str, most: u16) -> Result<u16, String> {
    let number = word.parse().ok().filter(|n| *n <= most);
    number.ok_or_else(|| format!("filter: `{what} {word}`: not a number from 0 to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Step = Step::Test(Test::Protocol(6));
    const UDP: Step = Step::Test(Test::Protocol(17));
    const ARP: Step = Step::Test(Test::EtherType(0x0806));

    fn host(end: End, s: &str) -> Step {
        Step::Test(Test::Host(end, s.parse::<IpAddr>().unwrap().into()))
    }

    fn port(number: u16) -> Step {
        Step::Test(Test::Port(End::Any, number))
    }

    #[test]
    fn filters_are_read_as_tcpdump_reads_them() {
        use Step::{And, Not, Or};
        let to = |n| Step::Test(Test::Port(End::Destination, n));
        let vlan = |n| Step::Test(Test::Vlan(n));
        for (text, steps) in [
            ("", vec![]),
            ("sctp", vec![Step::Test(Test::Protocol(132))]),
            ("tcp and port 80", vec![TCP, port(80), And]),
            ("udp dst port 53", vec![UDP, to(53), And]),
            ("src host fd00::1", vec![host(End::Source, "fd00::1")]),
            (
                "dst 10.0.0.1 && vlan 7",
                vec![host(End::Destination, "10.0.0.1"), vlan(7), And],
            ),
            ("not arp", vec![ARP, Not]),
            ("not not arp", vec![ARP]),
            ("!tcp port 22", vec![TCP, port(22), And, Not]),
            // Equal, from left to right.
            ("tcp or udp and arp", vec![TCP, UDP, Or, ARP, And]),
            ("tcp and udp or arp", vec![TCP, UDP, And, ARP, Or]),
            ("tcp || (udp && arp)", vec![TCP, UDP, ARP, And, Or]),
            ("not (tcp or udp)", vec![TCP, UDP, Or, Not]),
            ("((tcp))and(!udp)", vec![TCP, UDP, Not, And]),
            // One test each.
            (
                "udp port 53 or tcp port 80",
                vec![UDP, port(53), And, TCP, port(80), And, Or],
            ),
            // Values without a keyword.
            ("port 80 or 443", vec![port(80), port(443), Or]),
            (
                "tcp dst port 80 or 443",
                vec![TCP, to(80), And, TCP, to(443), And, Or],
            ),
            (
                "src 10.0.0.1 or 10.0.0.2",
                vec![
                    host(End::Source, "10.0.0.1"),
                    host(End::Source, "10.0.0.2"),
                    Or,
                ],
            ),
            (
                "port 80 and 10.0.0.1",
                vec![port(80), host(End::Any, "10.0.0.1"), And],
            ),
        ] {
            assert_eq!(parse(text), Ok(Filter::new(&steps).unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let long = vec!["tcp"; STEPS].join(" or ");
        let deep = "(".repeat(100_000);
        for (text, told) in [
            ("ether broadcast", "`ether`"),
            ("host", "`host `: not an IP"),
            ("port http", "`port http`"),
            ("port 65536", "65535"),
            ("port 80 or 65536", "65535"),
            ("443", "`443` is not known"),
            ("tcp and", "missing at its end"),
            ("tcp not udp", "missing in front of `not`"),
            ("tcp (udp)", "missing in front of `(`"),
            ("or tcp", "missing before `or`"),
            ("tcp or and udp", "missing before `and`"),
            ("(tcp", "`)` is missing"),
            ("()", "missing before `)`"),
            ("tcp)", "no `(`"),
            ("src tcp", "no source"),
            ("src vlan 7", "no source"),
            (&long, "at most 64"),
            (&deep, "more than 64"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
