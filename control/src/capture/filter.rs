//! Filters as the operator writes them: a small part of tcpdump's language.

use std::net::IpAddr;

use dataplane::capture::{End, Filter, TERMS, Term, Test};

/// What a filter may consist of, for messages.
const KNOWN: &str = "[src|dst] host ADDRESS, [src|dst] port NUMBER, vlan NUMBER, tcp, udp, sctp, \
                     icmp, icmp6, vrrp, ip, ip6, arp; joined by `and`, each after `not` if need be";

/// Reads a filter; an empty one passes everything.
///
/// # Errors
/// One line that says what was not understood and what would be.
pub fn parse(text: &str) -> Result<Filter, String> {
    let mut words = text.split_whitespace().peekable();
    let mut terms = Vec::new();
    while words.peek().is_some() {
        if !terms.is_empty() {
            // `and` is what stands between terms anyway.
            words.next_if(|word| matches!(*word, "and" | "&&"));
        }
        let negated = words.next_if(|word| matches!(*word, "not" | "!")).is_some();
        terms.push(Term {
            negated,
            test: test(&mut words)?,
        });
    }
    Filter::new(&terms).ok_or_else(|| format!("filter: at most {TERMS} tests are possible"))
}

fn test<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Test, String> {
    let mut next = || words.next();
    let word =
        next().ok_or_else(|| format!("filter: something is missing at its end; known: {KNOWN}"))?;
    let (end, word) = match word {
        "src" => (End::Source, next().unwrap_or_default()),
        "dst" => (End::Destination, next().unwrap_or_default()),
        other => (End::Any, other),
    };
    let simple = match word {
        "host" => return Ok(Test::Host(end, address(next().unwrap_or_default())?)),
        "port" => {
            return Ok(Test::Port(
                end,
                number(word, next().unwrap_or_default(), 65_535)?,
            ));
        }
        "vlan" => Test::Vlan(number(word, next().unwrap_or_default(), 4094)?),
        "tcp" => Test::Protocol(6),
        "udp" => Test::Protocol(17),
        "sctp" => Test::Protocol(132),
        "icmp" => Test::Protocol(1),
        "icmp6" => Test::Protocol(58),
        "vrrp" => Test::Protocol(112),
        "ip" => Test::EtherType(0x0800),
        "ip6" => Test::EtherType(0x86dd),
        "arp" => Test::EtherType(0x0806),
        "or" | "||" => return Err(format!("filter: `or` is not possible; known: {KNOWN}")),
        // tcpdump also takes a bare address.
        other => match other.parse::<IpAddr>() {
            Ok(addr) => return Ok(Test::Host(end, addr.into())),
            Err(_) => return Err(format!("filter: `{other}` is not known; known: {KNOWN}")),
        },
    };
    match end {
        End::Any => Ok(simple),
        _ => Err(format!(
            "filter: `{word}` has no source or destination; known: {KNOWN}"
        )),
    }
}

fn address(word: &str) -> Result<dataplane::addr::Addr, String> {
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

    #[test]
    fn filters_are_read_as_tcpdump_reads_them() {
        let host = |end, s: &str| Test::Host(end, s.parse::<IpAddr>().unwrap().into());
        let yes = |test| Term {
            negated: false,
            test,
        };
        for (text, terms) in [
            ("", vec![]),
            (
                "tcp and port 80",
                vec![yes(Test::Protocol(6)), yes(Test::Port(End::Any, 80))],
            ),
            ("sctp", vec![yes(Test::Protocol(132))]),
            (
                "udp dst port 53",
                vec![
                    yes(Test::Protocol(17)),
                    yes(Test::Port(End::Destination, 53)),
                ],
            ),
            ("src host fd00::1", vec![yes(host(End::Source, "fd00::1"))]),
            (
                "dst 10.0.0.1 && vlan 7",
                vec![yes(host(End::Destination, "10.0.0.1")), yes(Test::Vlan(7))],
            ),
            (
                "not arp",
                vec![Term {
                    negated: true,
                    test: Test::EtherType(0x0806),
                }],
            ),
        ] {
            assert_eq!(parse(text), Ok(Filter::new(&terms).unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, told) in [
            ("tcp or udp", "`or`"),
            ("host", "`host `: not an IP"),
            ("port http", "`port http`"),
            ("port 65536", "65535"),
            ("ether broadcast", "`ether`"),
            ("tcp and", "missing at its end"),
            ("src tcp", "no source"),
            (&"tcp ".repeat(TERMS + 1), "at most 16"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
