//! Addresses and numbers as an operator types them, by the rules of ipvsadm.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names::Names;
use crate::api::Protocol;

/// `HOST`, `HOST:PORT`, `[IPV6]:PORT` or a bare IPv6 address.
///
/// IPv4 addresses have one to four parts, decimal, octal or hexadecimal. Brackets need a port; a
/// bare address with several colons is IPv6 to its end. A name stands for an IPv4 address, in
/// brackets for an IPv6 one (so that what `-S` prints can be read again). No port: `None`.
pub fn host_port(
    text: &str,
    protocol: Protocol,
    names: &dyn Names,
) -> Option<(IpAddr, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once("]:")?;
        let addr = match host.parse::<Ipv6Addr>() {
            Ok(addr) => IpAddr::V6(addr),
            Err(_) if looks_like_name(host) => names.resolve_host(host, true)?,
            Err(_) => return None,
        };
        return Some((addr, Some(port_number(port, protocol, names)?)));
    }
    if let Ok(addr) = text.parse::<Ipv6Addr>() {
        return Some((IpAddr::V6(addr), None));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port_number(port, protocol, names)?)),
        None => (text, None),
    };
    let addr = match ipv4(host) {
        Some(addr) => IpAddr::V4(addr),
        None if looks_like_name(host) => names.resolve_host(host, false)?,
        None => return None,
    };
    Some((addr, port))
}

/// Whether asking a name server makes sense: a mistyped address is none of its business.
fn looks_like_name(host: &str) -> bool {
    host.starts_with(|c: char| c.is_ascii_alphanumeric())
        && host.contains(|c: char| c.is_ascii_alphabetic())
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

fn port_number(text: &str, protocol: Protocol, names: &dyn Names) -> Option<u16> {
    if let Some(port) = number(text, 0, u16::MAX.into()) {
        return u16::try_from(port).ok();
    }
    if text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return names.resolve_service(text, protocol);
    }
    None
}

/// A decimal number in a range; blanks and a sign in front are allowed.
pub fn number(text: &str, least: u32, most: u32) -> Option<u32> {
    let text = text.trim_start();
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|n| (least..=most).contains(n))
}

/// An IPv4 address in the historic forms: the last part fills the bytes that are left.
pub fn ipv4(text: &str) -> Option<Ipv4Addr> {
    // What follows a blank is not looked at.
    let text = text.split([' ', '\t', '\n']).next()?;
    let parts: Vec<u32> = text.split('.').map(ipv4_part).collect::<Option<_>>()?;
    let (last, bytes) = parts.split_last()?;
    if bytes.len() > 3 || bytes.iter().any(|&b| b > 255) {
        return None;
    }
    let room = 32 - 8 * bytes.len() as u32;
    if room < 32 && *last >= 1 << room {
        return None;
    }
    let high = bytes
        .iter()
        .zip([24, 16, 8])
        .fold(0, |sum, (b, shift)| sum | b << shift);
    Some(Ipv4Addr::from(high | last))
}

fn ipv4_part(part: &str) -> Option<u32> {
    let (digits, radix) = match part.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&part[2..], 16),
        [b'0', _, ..] => (&part[1..], 8),
        _ => (part, 10),
    };
    if !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One host of each family, one service.
    struct Few;

    impl Names for Few {
        fn host(&self, _: IpAddr) -> Option<String> {
            None
        }
        fn service(&self, _: u16, _: Protocol) -> Option<String> {
            None
        }
        fn resolve_host(&self, name: &str, ipv6: bool) -> Option<IpAddr> {
            let addr = if ipv6 { "fd00::1" } else { "10.0.0.1" };
            (name == "vip").then(|| addr.parse().expect("an address"))
        }
        fn resolve_service(&self, name: &str, protocol: Protocol) -> Option<u16> {
            (name == "domain" && protocol == Protocol::Udp).then_some(53)
        }
    }

    fn parsed(text: &str) -> Option<(String, Option<u16>)> {
        host_port(text, Protocol::Udp, &Few).map(|(addr, port)| (addr.to_string(), port))
    }

    fn good(text: &str, addr: &str, port: impl Into<Option<u16>>) {
        assert_eq!(
            parsed(text),
            Some((addr.to_string(), port.into())),
            "{text}"
        );
    }

    #[test]
    fn addresses_as_measured_on_the_original() {
        good("10.0.0.1", "10.0.0.1", None);
        good("10.0.0.1:80", "10.0.0.1", 80);
        good("10.1:80", "10.0.0.1", 80);
        good("1:70", "0.0.0.1", 70);
        good("0x0a.0.0.1:80", "10.0.0.1", 80);
        good("010.0.0.1:82", "8.0.0.1", 82);
        good("10.0.0.1 :70", "10.0.0.1", 70);
        good("10.0.0.1:+80", "10.0.0.1", 80);
        good("10.0.0.1: 80", "10.0.0.1", 80);
        good("10.0.0.1:080", "10.0.0.1", 80);
        good("10.0.0.1:65535", "10.0.0.1", 65535);
        good("[fd00::1]:80", "fd00::1", 80);
        good("fd00::1", "fd00::1", None);
        good("fd00::1:80", "fd00::1:80", None);
        good("[::ffff:10.0.0.7]:80", "::ffff:10.0.0.7", 80);
        good("vip:domain", "10.0.0.1", 53);
        good("[vip]:53", "fd00::1", 53);
    }

    #[test]
    fn what_the_original_refuses_is_refused() {
        for text in [
            "",
            ":80",
            "10.0.0.1:",
            "10.0.0.1:65536",
            "10.0.0.1:-80",
            "10.0.0.1:0x50",
            "*:70",
            "10.0.0.1:80:90",
            "10.0.0.1:70 ",
            " 10.0.0.1:70",
            "10.0.0.256:70",
            "10.0.0.1.5:70",
            "300.1.1.1:80",
            "[fd00::1]",
            "[fd00::1]:",
            "[fd00::1",
            "[fd00::1]x80",
            "[fd00::g]:80",
            "[fd00::1] :70",
            "[]:70",
            "nosuch:80",
            "10.0.0.1:nosuch",
            "10.0.0.1:http",
            "1.2.3.0x",
            "4294967296:1",
            "1..2:80",
            "10.0.0.1:99999",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_have_a_range() {
        assert_eq!(number("0", 0, 9), Some(0));
        assert_eq!(number(" +9", 0, 9), Some(9));
        for text in [
            "",
            "10",
            "-1",
            "1.5",
            "0x1",
            "abc",
            "99999999999",
            "1 ",
            "+",
        ] {
            assert_eq!(number(text, 0, 9), None, "{text}");
        }
    }
}
