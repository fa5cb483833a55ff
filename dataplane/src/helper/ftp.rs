//! FTP control connections (RFC 959, RFC 2428): which data connection is announced in a segment,
//! and the words that announce it to the client (`ip_vs_ftp`).
//!
//! Only whole lines are read, each ending in CR LF within its segment. A line that is cut by the
//! end of a segment is passed on as it is.

use core::net::IpAddr;
use core::ops::Range;

use arrayvec::ArrayVec;

use crate::addr::{Addr, Endpoint, Family};

/// Port of control connections.
pub const PORT: u16 = 21;

/// How a client asked for the address of a passive data connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passive {
    /// PASV: the server answers with address and port (227).
    Pasv = 1,
    /// EPSV: it answers with the port alone (229).
    Epsv = 2,
}

impl Passive {
    /// From the number kept with a connection; 0 for none.
    pub const fn from_number(n: u8) -> Option<Passive> {
        match n {
            1 => Some(Passive::Pasv),
            2 => Some(Passive::Epsv),
            _ => None,
        }
    }
}

/// What a client's line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// PORT, EPRT: the server is to connect to this endpoint.
    Active(Endpoint),
    /// PASV, EPSV: the server is to name an endpoint.
    Passive(Passive),
}

/// What a server's line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Port that the server listens on.
    pub port: u16,
    /// Where in the payload address and port stand that have to be rewritten (227).
    pub text: Option<Range<usize>>,
}

/// The words for an endpoint in a 227 answer: six numbers of up to three digits.
pub type Words = ArrayVec<u8, 23>;

/// Commands of a client's segment, in order.
pub fn commands(payload: &[u8]) -> impl Iterator<Item = Command> {
    lines(payload).filter_map(|(_, line)| command(line))
}

/// The endpoint that a server's segment names in answer to `asked`.
pub fn named(payload: &[u8], asked: Passive) -> Option<Named> {
    lines(payload).find_map(|(at, line)| match asked {
        Passive::Pasv => {
            let (text, endpoint) = bracketed(strip(line, b"227 ")?)?;
            let port = six_numbers(text)?.port;
            let start = at + (line.len() - endpoint);
            Some(Named {
                port,
                text: Some(start..start + text.len()),
            })
        }
        Passive::Epsv => {
            let (text, _) = bracketed(strip(line, b"229 ")?)?;
            let port = extended(text).filter(|fields| fields[0].is_empty() && fields[1].is_empty());
            Some(Named {
                port: number(port?[2]).filter(|port| *port != 0)?,
                text: None,
            })
        }
    })
}

/// An IPv4 endpoint as a 227 answer writes it.
pub fn words(endpoint: &Endpoint) -> Words {
    let mut out = Words::new();
    let numbers = endpoint.addr.octets_v4().into_iter();
    for (i, n) in numbers.chain(endpoint.port.to_be_bytes()).enumerate() {
        let digits = [n / 100, n / 10 % 10, n % 10];
        let leading = digits[..2].iter().take_while(|d| **d == 0).count();
        let comma = (i > 0).then_some(b',');
        // Six numbers of three digits and five commas: there is room for all.
        out.extend(
            comma
                .into_iter()
                .chain(digits.into_iter().skip(leading).map(|d| b'0' + d)),
        );
    }
    out
}

/// Whole lines with their offsets, without CR LF.
fn lines(payload: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    core::iter::from_fn(move || {
        loop {
            let rest = payload.get(at..)?;
            let end = rest.iter().position(|b| *b == b'\n')?;
            let start = at;
            at += end + 1;
            if let Some(line) = rest.get(..end).and_then(|line| line.strip_suffix(b"\r")) {
                return Some((start, line));
            }
        }
    })
}

fn command(line: &[u8]) -> Option<Command> {
    if let Some(rest) = strip(line, b"PORT ") {
        return six_numbers(rest.trim_ascii()).map(Command::Active);
    }
    if let Some(rest) = strip(line, b"EPRT ") {
        return eprt(rest.trim_ascii()).map(Command::Active);
    }
    if strip(line, b"PASV").is_some_and(<[u8]>::is_empty) {
        return Some(Command::Passive(Passive::Pasv));
    }
    // EPSV ALL asks for nothing yet.
    let family = strip(line, b"EPSV")?.trim_ascii();
    matches!(family, b"" | b"1" | b"2").then_some(Command::Passive(Passive::Epsv))
}

/// What follows a word, in letters of either case.
fn strip<'a>(line: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = line.split_at_checked(word.len())?;
    head.eq_ignore_ascii_case(word).then_some(rest)
}

/// What stands in the first round brackets, and how many bytes are left from there on.
fn bracketed(rest: &[u8]) -> Option<(&[u8], usize)> {
    let open = rest.iter().position(|b| *b == b'(')?;
    let inner = rest.get(open + 1..)?;
    let close = inner.iter().position(|b| *b == b')')?;
    Some((inner.get(..close)?, inner.len()))
}

/// A decimal number without sign.
fn number(text: &[u8]) -> Option<u16> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    text.iter().try_fold(0u16, |n, digit| {
        n.checked_mul(10)?.checked_add(u16::from(digit - b'0'))
    })
}

/// `h1,h2,h3,h4,p1,p2` (RFC 959, 4.1.2). A port of 0 names nothing.
fn six_numbers(text: &[u8]) -> Option<Endpoint> {
    let mut octets = [0u8; 6];
    let mut fields = text.split(|b| *b == b',');
    for octet in &mut octets {
        *octet = u8::try_from(number(fields.next()?)?).ok()?;
    }
    let [a, b, c, d, high, low] = octets;
    let port = u16::from_be_bytes([high, low]);
    (fields.next().is_none() && port != 0).then_some(Endpoint::new(Addr::v4([a, b, c, d]), port))
}

/// The three fields between four delimiters (RFC 2428, 2).
fn extended(text: &[u8]) -> Option<[&[u8]; 3]> {
    let (delimiter, rest) = text.split_first()?;
    let inner = rest.strip_suffix(&[*delimiter])?;
    if !(33..=126).contains(delimiter) {
        return None;
    }
    let mut fields = inner.split(|b| b == delimiter);
    let three = [fields.next()?, fields.next()?, fields.next()?];
    fields.next().is_none().then_some(three)
}

/// `|1|132.235.1.2|6275|`, `|2|1080::8:800:200C:417A|5282|`.
fn eprt(text: &[u8]) -> Option<Endpoint> {
    let [family, addr, port] = extended(text)?;
    let addr: IpAddr = core::str::from_utf8(addr).ok()?.parse().ok()?;
    let addr = Addr::from(addr);
    let family = match family {
        b"1" => Family::V4,
        b"2" => Family::V6,
        _ => return None,
    };
    let port = number(port).filter(|port| *port != 0)?;
    (addr.family() == family).then_some(Endpoint::new(addr, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        let addr: core::net::SocketAddr = text.parse().unwrap();
        Endpoint::new(addr.ip().into(), addr.port())
    }

    fn all(payload: &str) -> Vec<Command> {
        commands(payload.as_bytes()).collect()
    }

    #[test]
    fn clients_ask() {
        let active = |text| vec![Command::Active(endpoint(text))];
        assert_eq!(all("PORT 10,0,1,2,4,210\r\n"), active("10.0.1.2:1234"));
        assert_eq!(all("port 10,0,1,2,4,210 \r\n"), active("10.0.1.2:1234"));
        assert_eq!(all("EPRT |1|10.0.1.2|1234|\r\n"), active("10.0.1.2:1234"));
        assert_eq!(
            all("eprt $2$2001:db8::7$5282$\r\n"),
            active("[2001:db8::7]:5282")
        );
        let pasv = Command::Passive(Passive::Pasv);
        let epsv = Command::Passive(Passive::Epsv);
        assert_eq!(all("PASV\r\n"), [pasv]);
        for text in ["EPSV\r\n", "epsv 1\r\n", "EPSV 2\r\n"] {
            assert_eq!(all(text), [epsv], "{text}");
        }
        assert_eq!(all("TYPE I\r\nPASV\r\nEPSV\r\nRETR x\r\n"), [pasv, epsv]);
    }

    #[test]
    fn what_is_not_quite_a_command_asks_for_nothing() {
        for text in [
            "",
            "PASV",
            "PASV\r",
            "PASV\n",
            "XPASV\r\n",
            "PASV 1\r\n",
            "EPSV ALL\r\n",
            "EPSV3\r\n",
            "PORT 10,0,1,2,4\r\n",
            "PORT 10,0,1,2,4,210,1\r\n",
            "PORT 10,0,1,256,4,210\r\n",
            "PORT 10,0,1,2,0,0\r\n",
            "PORT 10,0,1,-2,4,210\r\n",
            "PORT 10,0,1,,4,210\r\n",
            "PORT 99999999999999999999,0,1,2,3,4\r\n",
            "EPRT |1|10.0.1.2|1234\r\n",
            "EPRT |1|10.0.1.2|0|\r\n",
            "EPRT |1|10.0.1.2|65536|\r\n",
            "EPRT |2|10.0.1.2|1234|\r\n",
            "EPRT |1|2001:db8::7|1234|\r\n",
            "EPRT |3|10.0.1.2|1234|\r\n",
            "EPRT |2|::ffff:10.0.1.2|1234|\r\n",
            "EPRT  1 10.0.1.2 1234 \r\n",
            "PORT 10,0,1,2,4,210",
        ] {
            assert_eq!(all(text), [], "{text:?}");
        }
    }

    #[test]
    fn servers_name() {
        let line = b"227 Entering Passive Mode (192,168,50,5,195,80).\r\n";
        let found = named(line, Passive::Pasv).unwrap();
        assert_eq!(found.port, 50000);
        assert_eq!(&line[found.text.unwrap()], b"192,168,50,5,195,80");
        let behind = b"200 Type set.\r\n227 =(1,2,3,4,5,6)\r\n226 done\r\n";
        let found = named(behind, Passive::Pasv).unwrap();
        assert_eq!(&behind[found.text.unwrap()], b"1,2,3,4,5,6");
        let line = b"229 Entering Extended Passive Mode (|||6446|)\r\n";
        let port = Named {
            port: 6446,
            text: None,
        };
        assert_eq!(named(line, Passive::Epsv), Some(port));
        // Each answers its own question.
        assert_eq!(named(line, Passive::Pasv), None);
    }

    #[test]
    fn what_is_not_quite_an_answer_names_nothing() {
        for text in [
            "227 Entering Passive Mode (192,168,50,5,195,80)",
            "227 Entering Passive Mode 192,168,50,5,195,80\r\n",
            "227 Entering Passive Mode (192,168,50,5,195,80\r\n",
            "227 Entering Passive Mode (192,168,50,5,195)\r\n",
            "227 Entering Passive Mode (192,168,50,5,0,0)\r\n",
            "227-Entering Passive Mode (192,168,50,5,195,80)\r\n",
            " 227 Entering Passive Mode (192,168,50,5,195,80)\r\n",
            "227\r\n",
            "22",
        ] {
            assert_eq!(named(text.as_bytes(), Passive::Pasv), None, "{text:?}");
        }
        for text in [
            "229 (||6446|)\r\n",
            "229 (|1||6446|)\r\n",
            "229 (|||0|)\r\n",
            "229 (|||65536|)\r\n",
            "229 ()\r\n",
            "229 (|)\r\n",
        ] {
            assert_eq!(named(text.as_bytes(), Passive::Epsv), None, "{text:?}");
        }
    }

    #[test]
    fn endpoints_in_words() {
        for (text, want) in [
            ("10.0.0.100:50000", "10,0,0,100,195,80"),
            ("255.255.255.255:65535", "255,255,255,255,255,255"),
            ("1.0.20.3:9", "1,0,20,3,0,9"),
        ] {
            assert_eq!(&words(&endpoint(text))[..], want.as_bytes());
        }
    }
}
