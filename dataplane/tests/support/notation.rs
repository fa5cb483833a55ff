//! Packets as text, one layer after another:
//!
//! ```text
//! eth 02:..:01 > 02:..:fe | ip 203.0.113.7 > 10.0.0.1 ttl 64 | tcp 40000 > 80 syn seq 1
//! ```
//!
//! | layer | words |
//! |---|---|
//! | `eth SRC > DST` | `type N` (otherwise that of the next layer) |
//! | `vlan ID` | `pcp N`, `type N` |
//! | `ip SRC > DST` | `ttl N` (64), `tos N`, `id N` or `id *`, `df`, `mf`, `offset BYTES`, `proto N`, `len N`, `ihl N`, `version N`, `options HEX`, `csum bad` |
//! | `ip6 SRC > DST` | `ttl N` (64), `tos N`, `label N`, `proto N`, `len N`, `version N` |
//! | `hop`, `dest` | `units N` (8 bytes each, 1) |
//! | `routing` | `left N` (0) |
//! | `fragment` | `id N`, `offset BYTES`, `mf` |
//! | `tcp SPORT > DPORT` | `fin syn rst psh ack urg ece cwr`, `seq N` (1), `ack N`, `win N` (65535), `options HEX`, `csum bad`, `csum 0xNNNN` |
//! | `udp SPORT > DPORT` | SPORT `*`, `len N`, `csum none`, `csum bad`, `csum 0xNNNN` |
//! | `sctp SPORT > DPORT` | `tag N` (1), `csum bad`, `csum 0xNNNNNNNN`; chunks below, and behind each other |
//! | `chunk TYPE` | a name (`init`, `cookie-echo`, …) or number; `len N`, `flags N`, `value HEX`; padded to words |
//! | `icmp TYPE CODE`, `icmp6 TYPE CODE` | `word N`, `quote N` (bytes kept of what follows), `csum bad` |
//! | `data HEX`, whatever follows; `bytes N` | counting up from 0, or `from M` |
//! | `cut N` | only the first N bytes of the frame are left |
//! | `pad N` | the frame is filled up with zeros to N bytes |
//!
//! Lengths and checksums are right unless said otherwise. [`build`] makes the bytes, [`print`]
//! the text of bytes, leaving out what is usual; in an expected frame `id *` and `*` as the source
//! port of UDP stand for any.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the transport's checksum needs of the IP header above it.
#[derive(Clone, Copy)]
struct Above {
    src: IpAddr,
    dst: IpAddr,
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// The frame that `text` describes.
pub fn build(text: &str) -> Vec<u8> {
    build_like(text, &[])
}

/// As [`build`]; what `text` leaves open (`id *`) is taken from `actual`.
pub fn build_like(text: &str, actual: &[u8]) -> Vec<u8> {
    let layers: Vec<&str> = text.split('|').map(str::trim).collect();
    let inner = layers
        .iter()
        .take_while(|l| !l.starts_with("cut ") && !l.starts_with("pad "));
    let n = inner.count();
    let mut frame = layer(&layers[..n], None, actual);
    for l in &layers[n..] {
        let (word, len) = l.split_once(' ').unwrap();
        let len = number(len) as usize;
        assert!(
            word == "pad" || len <= frame.len(),
            "cut beyond the frame: {text}"
        );
        frame.resize(len, 0);
    }
    frame
}

pub fn number(word: &str) -> u64 {
    let parsed = match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => word.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("{word:?} is no number"))
}

pub fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "odd number of digits: {text}");
    let byte = |i| u8::from_str_radix(&text[i..i + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `02:00:00:00:00:01`; `02:..:01` leaves out zeros.
pub fn mac(text: &str) -> [u8; 6] {
    let full = match text.split_once(":..:") {
        Some((a, b)) => {
            let zeros = 6 - a.split(':').count() - b.split(':').count();
            format!("{a}{}:{b}", ":00".repeat(zeros))
        }
        None => text.to_owned(),
    };
    let bytes: Vec<u8> = full
        .split(':')
        .map(|b| u8::from_str_radix(b, 16).unwrap())
        .collect();
    bytes
        .try_into()
        .unwrap_or_else(|_| panic!("{text:?} is no MAC"))
}

fn print_mac(b: &[u8]) -> String {
    if b[1..5] == [0; 4] {
        return format!("{:02x}:..:{:02x}", b[0], b[5]);
    }
    b.iter()
        .map(|b| format!("{b:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

/// One's complement sum of 16-bit words, the slow and plain way.
pub fn checksum(pieces: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for piece in pieces {
        for pair in piece.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !(sum as u16)
}

fn pseudo(above: &Above, protocol: u8, len: usize) -> Vec<u8> {
    let mut p = match (above.src, above.dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => [s.octets(), d.octets()].concat(),
        (IpAddr::V6(s), IpAddr::V6(d)) => [s.octets(), d.octets()].concat(),
        _ => panic!("mixed families"),
    };
    p.extend((len as u32).to_be_bytes());
    p.extend([0, 0, 0, protocol]);
    p
}

/// Protocol number of a layer, `None` for data.
fn protocol_of(layer: Option<&&str>) -> Option<u8> {
    Some(match layer?.split_whitespace().next()? {
        "hop" => 0,
        "icmp" => 1,
        "ip" => 4,
        "tcp" => 6,
        "udp" => 17,
        "ip6" => 41,
        "routing" => 43,
        "fragment" => 44,
        "icmp6" => 58,
        "dest" => 60,
        "sctp" => 132,
        _ => return None,
    })
}

fn ethertype_of(layer: Option<&&str>) -> u16 {
    match layer.and_then(|l| l.split_whitespace().next()) {
        Some("ip") => 0x0800,
        Some("ip6") => 0x86dd,
        Some("vlan") => 0x8100,
        _ => 0x88b5,
    }
}

/// Bytes of `layers` and all below.
fn layer(layers: &[&str], above: Option<Above>, actual: &[u8]) -> Vec<u8> {
    let Some((first, rest)) = layers.split_first() else {
        return Vec::new();
    };
    let mut words = first.split_whitespace().peekable();
    let kind = words.next().expect("a layer");
    match kind {
        "eth" | "vlan" => link(kind, &mut words, rest, actual),
        "ip" => ip(&mut words, rest, actual),
        "ip6" => ip6(&mut words, rest, actual),
        "hop" | "dest" | "routing" | "fragment" => extension(kind, &mut words, rest, above, actual),
        "tcp" => tcp(&mut words, rest, above.expect("tcp is above ip"), actual),
        "udp" => udp(&mut words, rest, above.expect("udp is above ip"), actual),
        "sctp" => sctp(&mut words, rest),
        "chunk" => [chunk(&mut words), layer(rest, above, &[])].concat(),
        "icmp" | "icmp6" => icmp(kind, &mut words, rest, above, actual),
        "data" => [hex(words.next().unwrap_or("")), layer(rest, above, &[])].concat(),
        "bytes" => counting(&mut words),
        other => panic!("unknown layer {other:?}"),
    }
}

fn counting(words: &mut Words<'_>) -> Vec<u8> {
    let n = value(words);
    let from = match words.next() {
        Some("from") => value(words),
        None => 0,
        Some(other) => panic!("bytes: unknown word {other:?}"),
    };
    (from..from + n).map(|i| i as u8).collect()
}

fn below(actual: &[u8], n: usize) -> &[u8] {
    actual.get(n..).unwrap_or(&[])
}

fn pair<'a>(words: &mut Words<'a>) -> (&'a str, &'a str) {
    let src = words.next().expect("source");
    assert_eq!(words.next(), Some(">"));
    (src, words.next().expect("destination"))
}

fn value(words: &mut Words<'_>) -> u64 {
    number(words.next().expect("a value"))
}

fn link(kind: &str, words: &mut Words<'_>, rest: &[&str], actual: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut tci = 0u16;
    if kind == "eth" {
        let (src, dst) = pair(words);
        bytes.extend(mac(dst));
        bytes.extend(mac(src));
    } else {
        tci = value(words) as u16;
    }
    let mut ethertype = ethertype_of(rest.first());
    while let Some(word) = words.next() {
        match word {
            "type" => ethertype = value(words) as u16,
            "pcp" => tci |= (value(words) as u16) << 13,
            other => panic!("{kind}: unknown word {other:?}"),
        }
    }
    if kind == "vlan" {
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend(ethertype.to_be_bytes());
    let n = bytes.len();
    bytes.extend(layer(rest, None, below(actual, n)));
    bytes
}

fn ip(words: &mut Words<'_>, rest: &[&str], actual: &[u8]) -> Vec<u8> {
    let (src, dst) = pair(words);
    let (src, dst): (Ipv4Addr, Ipv4Addr) = (src.parse().unwrap(), dst.parse().unwrap());
    let mut h = vec![0u8; 20];
    h[8] = 64;
    h[9] = protocol_of(rest.first()).unwrap_or(253);
    let (mut field, mut len, mut ihl, mut version, mut flip) = (0u16, None, None, 4u8, 0u16);
    while let Some(word) = words.next() {
        match word {
            "ttl" => h[8] = value(words) as u8,
            "tos" => h[1] = value(words) as u8,
            "id" if words.peek() == Some(&"*") => {
                words.next();
                h[4..6].copy_from_slice(actual.get(4..6).unwrap_or(&[0, 0]));
            }
            "id" => h[4..6].copy_from_slice(&(value(words) as u16).to_be_bytes()),
            "df" => field |= 0x4000,
            "mf" => field |= 0x2000,
            "offset" => field |= (value(words) / 8) as u16,
            "proto" => h[9] = value(words) as u8,
            "len" => len = Some(value(words) as u16),
            "ihl" => ihl = Some(value(words) as u8),
            "version" => version = value(words) as u8,
            "options" => h.extend(hex(words.next().unwrap())),
            "csum" => {
                assert_eq!(words.next(), Some("bad"));
                flip = 0x5555;
            }
            other => panic!("ip: unknown word {other:?}"),
        }
    }
    let n = h.len();
    assert!(
        n.is_multiple_of(4) && n <= 60,
        "ip: options fill whole words"
    );
    let above = Above {
        src: src.into(),
        dst: dst.into(),
    };
    let payload = layer(rest, Some(above), below(actual, n));
    h[0] = version << 4 | ihl.unwrap_or((n / 4) as u8);
    h[2..4].copy_from_slice(&len.unwrap_or((n + payload.len()) as u16).to_be_bytes());
    h[6..8].copy_from_slice(&field.to_be_bytes());
    h[12..16].copy_from_slice(&src.octets());
    h[16..20].copy_from_slice(&dst.octets());
    let csum = checksum(&[&h]) ^ flip;
    h[10..12].copy_from_slice(&csum.to_be_bytes());
    h.extend(payload);
    h
}

fn ip6(words: &mut Words<'_>, rest: &[&str], actual: &[u8]) -> Vec<u8> {
    let (src, dst) = pair(words);
    let (src, dst): (Ipv6Addr, Ipv6Addr) = (src.parse().unwrap(), dst.parse().unwrap());
    let (mut ttl, mut tos, mut label, mut version) = (64u8, 0u32, 0u32, 6u32);
    let (mut next, mut len) = (protocol_of(rest.first()).unwrap_or(253), None);
    while let Some(word) = words.next() {
        match word {
            "ttl" => ttl = value(words) as u8,
            "tos" => tos = value(words) as u32,
            "label" => label = value(words) as u32,
            "proto" => next = value(words) as u8,
            "len" => len = Some(value(words) as u16),
            "version" => version = value(words) as u32,
            other => panic!("ip6: unknown word {other:?}"),
        }
    }
    let above = Above {
        src: src.into(),
        dst: dst.into(),
    };
    let payload = layer(rest, Some(above), below(actual, 40));
    let mut h = (version << 28 | tos << 20 | label).to_be_bytes().to_vec();
    h.extend(len.unwrap_or(payload.len() as u16).to_be_bytes());
    h.extend([next, ttl]);
    h.extend(src.octets());
    h.extend(dst.octets());
    h.extend(payload);
    h
}

fn extension(
    kind: &str,
    words: &mut Words<'_>,
    rest: &[&str],
    above: Option<Above>,
    actual: &[u8],
) -> Vec<u8> {
    let mut h = vec![0u8; 8];
    h[0] = protocol_of(rest.first()).unwrap_or(59);
    while let Some(word) = words.next() {
        match word {
            "units" => {
                let units = value(words) as usize;
                h[1] = (units - 1) as u8;
                h.resize(units * 8, 0);
            }
            "left" => h[3] = value(words) as u8,
            "id" => h[4..8].copy_from_slice(&(value(words) as u32).to_be_bytes()),
            "offset" => {
                let old = u16::from_be_bytes([h[2], h[3]]);
                h[2..4].copy_from_slice(&(old | value(words) as u16).to_be_bytes());
            }
            "mf" => h[3] |= 1,
            "proto" => h[0] = value(words) as u8,
            other => panic!("{kind}: unknown word {other:?}"),
        }
    }
    let n = h.len();
    h.extend(layer(rest, above, below(actual, n)));
    h
}

/// What `csum` asks for.
enum Csum {
    Right,
    Bad,
    Is(u16),
}

fn csum(words: &mut Words<'_>) -> Csum {
    match words.next() {
        Some("bad") => Csum::Bad,
        Some("none") => Csum::Is(0),
        Some(n) => Csum::Is(number(n) as u16),
        None => panic!("csum: a value"),
    }
}

fn set_csum(bytes: &mut [u8], at: usize, above: &Above, protocol: u8, csum: &Csum) {
    let mut right = checksum(&[&pseudo(above, protocol, bytes.len()), bytes]);
    if protocol == 17 && right == 0 {
        right = 0xffff;
    }
    let csum = match csum {
        Csum::Right => right,
        Csum::Bad => right ^ 0x5555,
        Csum::Is(n) => *n,
    };
    bytes[at..at + 2].copy_from_slice(&csum.to_be_bytes());
}

const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

fn tcp(words: &mut Words<'_>, rest: &[&str], above: Above, actual: &[u8]) -> Vec<u8> {
    let (sport, dport) = pair(words);
    let mut h = (number(sport) as u16).to_be_bytes().to_vec();
    h.extend((number(dport) as u16).to_be_bytes());
    h.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    let mut sum = Csum::Right;
    while let Some(word) = words.next() {
        match word {
            "seq" => h[4..8].copy_from_slice(&(value(words) as u32).to_be_bytes()),
            "win" => h[14..16].copy_from_slice(&(value(words) as u16).to_be_bytes()),
            "options" => h.extend(hex(words.next().unwrap())),
            "csum" => sum = csum(words),
            flag => {
                let bit = FLAGS.iter().position(|f| *f == flag);
                h[13] |= 1 << bit.unwrap_or_else(|| panic!("tcp: unknown word {flag:?}"));
                if flag == "ack"
                    && words
                        .peek()
                        .is_some_and(|w| w.as_bytes()[0].is_ascii_digit())
                {
                    h[8..12].copy_from_slice(&(value(words) as u32).to_be_bytes());
                }
            }
        }
    }
    assert!(h.len().is_multiple_of(4), "tcp: options fill whole words");
    h[12] = ((h.len() / 4) << 4) as u8;
    let n = h.len();
    h.extend(layer(rest, None, below(actual, n)));
    set_csum(&mut h, 16, &above, 6, &sum);
    h
}

fn udp(words: &mut Words<'_>, rest: &[&str], above: Above, actual: &[u8]) -> Vec<u8> {
    let (sport, dport) = pair(words);
    let mut h = match sport {
        "*" => actual.get(..2).unwrap_or(&[0, 0]).to_vec(),
        sport => (number(sport) as u16).to_be_bytes().to_vec(),
    };
    h.extend((number(dport) as u16).to_be_bytes());
    h.extend([0; 4]);
    let (mut sum, mut len) = (Csum::Right, None);
    while let Some(word) = words.next() {
        match word {
            "csum" => sum = csum(words),
            "len" => len = Some(value(words) as u16),
            other => panic!("udp: unknown word {other:?}"),
        }
    }
    h.extend(layer(rest, None, below(actual, 8)));
    let len = len.unwrap_or(h.len() as u16);
    h[4..6].copy_from_slice(&len.to_be_bytes());
    set_csum(&mut h, 6, &above, 17, &sum);
    h
}

/// Names of chunk types, by number.
const CHUNKS: [&str; 15] = [
    "data",
    "init",
    "init-ack",
    "sack",
    "heartbeat",
    "heartbeat-ack",
    "abort",
    "shutdown",
    "shutdown-ack",
    "error",
    "cookie-echo",
    "cookie-ack",
    "ecne",
    "cwr",
    "shutdown-complete",
];

/// CRC32c, bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ ((crc & 1) * 0x82f6_3b78)
        })
    })
}

fn sctp(words: &mut Words<'_>, rest: &[&str]) -> Vec<u8> {
    let (sport, dport) = pair(words);
    let mut h = (number(sport) as u16).to_be_bytes().to_vec();
    h.extend((number(dport) as u16).to_be_bytes());
    h.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    let (mut flip, mut given) = (0, None);
    while let Some(word) = words.next() {
        match word {
            "tag" => h[4..8].copy_from_slice(&(value(words) as u32).to_be_bytes()),
            "csum" if words.peek() == Some(&"bad") => {
                words.next();
                flip = 0x5555_5555;
            }
            "csum" => given = Some(value(words) as u32),
            other => panic!("sctp: unknown word {other:?}"),
        }
    }
    h.extend(layer(rest, None, &[]));
    // Least significant byte first (RFC 9260, appendix A).
    let right = (crc32c(&h) ^ flip).swap_bytes();
    h[8..12].copy_from_slice(&given.unwrap_or(right).to_be_bytes());
    h
}

fn chunk(words: &mut Words<'_>) -> Vec<u8> {
    let kind = words.next().expect("a chunk type");
    let named = CHUNKS.iter().position(|name| *name == kind);
    let kind = named.map_or_else(|| number(kind) as u8, |i| i as u8);
    let mut bytes = vec![kind, 0, 0, 0];
    let mut len = None;
    while let Some(word) = words.next() {
        match word {
            "flags" => bytes[1] = value(words) as u8,
            "len" => len = Some(value(words) as u16),
            "value" => bytes.extend(hex(words.next().unwrap())),
            other => panic!("chunk: unknown word {other:?}"),
        }
    }
    let len = len.unwrap_or(bytes.len() as u16);
    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn icmp(
    kind: &str,
    words: &mut Words<'_>,
    rest: &[&str],
    above: Option<Above>,
    actual: &[u8],
) -> Vec<u8> {
    let mut h = vec![value(words) as u8, value(words) as u8, 0, 0, 0, 0, 0, 0];
    let (mut flip, mut quote) = (0, usize::MAX);
    while let Some(word) = words.next() {
        match word {
            "word" => h[4..8].copy_from_slice(&(value(words) as u32).to_be_bytes()),
            "quote" => quote = value(words) as usize,
            "csum" => {
                assert_eq!(words.next(), Some("bad"));
                flip = 0x5555;
            }
            other => panic!("{kind}: unknown word {other:?}"),
        }
    }
    let mut payload = layer(rest, None, below(actual, 8));
    payload.truncate(quote);
    h.extend(payload);
    let over = match (kind, above) {
        ("icmp6", Some(above)) => pseudo(&above, 58, h.len()),
        _ => Vec::new(),
    };
    let csum = checksum(&[&over, &h]) ^ flip;
    h[2..4].copy_from_slice(&csum.to_be_bytes());
    h
}

/// The text of a frame, in the notation of [`build`]; what cannot be told stays `data`.
pub fn print(frame: &[u8]) -> String {
    if frame.len() < 14 {
        return format!("data {}", to_hex(frame));
    }
    let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
    let mut out = vec![format!(
        "eth {} > {}",
        print_mac(&frame[6..12]),
        print_mac(&frame[..6])
    )];
    print_type(ethertype, &frame[14..], &mut out);
    out.join(" | ")
}

fn print_type(ethertype: u16, bytes: &[u8], out: &mut Vec<String>) {
    match ethertype {
        0x0800 => print_ip(bytes, out, true),
        0x86dd => print_ip6(bytes, out, true),
        0x8100 if bytes.len() >= 4 => {
            let tci = u16::from_be_bytes([bytes[0], bytes[1]]);
            let pcp = if tci >> 13 > 0 {
                format!(" pcp {}", tci >> 13)
            } else {
                String::new()
            };
            out.push(format!("vlan {}{pcp}", tci & 0x1fff));
            print_type(u16::from_be_bytes([bytes[2], bytes[3]]), &bytes[4..], out);
        }
        _ => {
            if let Some(last) = out.last_mut() {
                *last += &format!(" type {ethertype:#06x}");
            }
            print_data(bytes, out);
        }
    }
}

fn print_data(bytes: &[u8], out: &mut Vec<String>) {
    let from = bytes.first().copied().unwrap_or(0);
    let counts = bytes.windows(2).all(|w| w[0].wrapping_add(1) == w[1]);
    if bytes.len() > 4 && counts {
        let from = if from == 0 {
            String::new()
        } else {
            format!(" from {from}")
        };
        out.push(format!("bytes {}{from}", bytes.len()));
    } else if !bytes.is_empty() {
        out.push(format!("data {}", to_hex(bytes)));
    }
}

fn word(text: &mut String, name: &str, value: u64, usual: u64) {
    if value != usual {
        *text += &format!(" {name} {value}");
    }
}

fn print_ip(b: &[u8], out: &mut Vec<String>, whole: bool) {
    let header = b.first().map_or(0, |b| usize::from(b & 15) * 4);
    if b.len() < 20 || b[0] >> 4 != 4 || header < 20 || header > b.len() {
        return print_data(b, out);
    }
    let addr = |i: usize| Ipv4Addr::new(b[i], b[i + 1], b[i + 2], b[i + 3]);
    let total = usize::from(u16::from_be_bytes([b[2], b[3]]));
    let field = u16::from_be_bytes([b[6], b[7]]);
    let mut text = format!("ip {} > {}", addr(12), addr(16));
    word(&mut text, "ttl", b[8].into(), 64);
    word(&mut text, "tos", b[1].into(), 0);
    word(&mut text, "id", u16::from_be_bytes([b[4], b[5]]).into(), 0);
    for (bit, name) in [(0x4000, " df"), (0x2000, " mf")] {
        if field & bit != 0 {
            text += name;
        }
    }
    word(&mut text, "offset", u64::from(field & 0x1fff) * 8, 0);
    if header > 20 {
        text += &format!(" options {}", to_hex(&b[20..header]));
    }
    if whole && total != b.len() {
        text += &format!(" len {total}");
    }
    if checksum(&[&b[..header]]) != 0 {
        text += " csum bad";
    }
    out.push(text);
    let end = total.clamp(header, b.len());
    let above = Above {
        src: addr(12).into(),
        dst: addr(16).into(),
    };
    let whole = whole || total == b.len();
    let whole = whole && field & 0x3fff == 0;
    if field & 0x1fff != 0 {
        print_data(&b[header..end], out);
    } else {
        print_transport(b[9], &b[header..end], &above, whole, out);
    }
    if end < b.len() {
        out.push(format!("pad {}", b.len()));
    }
}

fn print_ip6(b: &[u8], out: &mut Vec<String>, whole: bool) {
    if b.len() < 40 || b[0] >> 4 != 6 {
        return print_data(b, out);
    }
    let addr = |i: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&b[i..i + 16]).unwrap());
    let first = u32::from_be_bytes([b[0], b[1], b[2], b[3]]);
    let len = usize::from(u16::from_be_bytes([b[4], b[5]]));
    let mut text = format!("ip6 {} > {}", addr(8), addr(24));
    word(&mut text, "ttl", b[7].into(), 64);
    word(&mut text, "tos", (first >> 20 & 0xff).into(), 0);
    word(&mut text, "label", (first & 0xf_ffff).into(), 0);
    if whole && len != b.len() - 40 {
        text += &format!(" len {len}");
    }
    out.push(text);
    let end = (len + 40).min(b.len());
    let above = Above {
        src: addr(8).into(),
        dst: addr(24).into(),
    };
    let mut at = 40;
    let mut next = b[6];
    while let (0 | 43 | 60, Some(h)) = (next, b.get(at..at + 8)) {
        let units = usize::from(h[1]) + 1;
        let name = match next {
            0 => "hop",
            43 => "routing",
            _ => "dest",
        };
        out.push(format!("{name} units {units}"));
        next = h[0];
        at += units * 8;
    }
    let rest = b.get(at..end).unwrap_or(&[]);
    print_transport(next, rest, &above, whole || end == b.len(), out);
}

fn print_chunks(mut b: &[u8], out: &mut Vec<String>) {
    while let [kind, flags, high, low, ..] = *b {
        let len = usize::from(u16::from_be_bytes([high, low]));
        let padded = len.next_multiple_of(4);
        if len < 4 || padded > b.len() {
            break;
        }
        let name = CHUNKS.get(usize::from(kind));
        let name = name.map_or_else(|| kind.to_string(), |n| (*n).to_owned());
        let mut text = format!("chunk {name}");
        word(&mut text, "flags", flags.into(), 0);
        if len > 4 {
            text += &format!(" value {}", to_hex(&b[4..len]));
        }
        out.push(text);
        b = &b[padded..];
    }
    print_data(b, out);
}

fn print_transport(protocol: u8, b: &[u8], above: &Above, whole: bool, out: &mut Vec<String>) {
    let u16_at = |i: usize| u16::from_be_bytes([b[i], b[i + 1]]);
    let u32_at = |i: usize| u32::from_be_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
    let wrong = |field: u16| {
        let none = protocol == 17 && field == 0;
        let over = pseudo(above, protocol, b.len());
        match (none, whole, checksum(&[&over, b])) {
            (true, ..) => " csum none".to_owned(),
            (_, true, 0) => String::new(),
            _ => format!(" csum {field:#06x}"),
        }
    };
    match protocol {
        6 if b.len() >= 20 && usize::from(b[12] >> 4) * 4 <= b.len() && b[12] >> 4 >= 5 => {
            let header = usize::from(b[12] >> 4) * 4;
            let mut text = format!("tcp {} > {}", u16_at(0), u16_at(2));
            for (i, name) in FLAGS
                .iter()
                .enumerate()
                .filter(|(i, _)| b[13] >> i & 1 == 1)
            {
                text += &format!(" {name}");
                if i == 4 && u32_at(8) != 0 {
                    text += &format!(" {}", u32_at(8));
                }
            }
            word(&mut text, "seq", u32_at(4).into(), 1);
            word(&mut text, "win", u16_at(14).into(), 0xffff);
            if header > 20 {
                text += &format!(" options {}", to_hex(&b[20..header]));
            }
            out.push(text + &wrong(u16_at(16)));
            print_data(&b[header..], out);
        }
        17 if b.len() >= 8 => {
            let mut text = format!("udp {} > {}", u16_at(0), u16_at(2));
            if whole {
                word(&mut text, "len", u16_at(4).into(), b.len() as u64);
            }
            out.push(text + &wrong(u16_at(6)));
            print_data(&b[8..], out);
        }
        132 if b.len() >= 12 => {
            let mut text = format!("sctp {} > {}", u16_at(0), u16_at(2));
            word(&mut text, "tag", u32_at(4).into(), 1);
            let mut zeroed = b.to_vec();
            zeroed[8..12].fill(0);
            if whole && crc32c(&zeroed).to_le_bytes() != b[8..12] {
                text += &format!(" csum {:#010x}", u32_at(8));
            }
            out.push(text);
            print_chunks(&b[12..], out);
        }
        1 | 58 if b.len() >= 8 => {
            let name = if protocol == 1 { "icmp" } else { "icmp6" };
            let mut text = format!("{name} {} {}", b[0], b[1]);
            word(&mut text, "word", u32_at(4).into(), 0);
            let over = if protocol == 58 {
                pseudo(above, 58, b.len())
            } else {
                Vec::new()
            };
            if whole && checksum(&[&over, b]) != 0 {
                text += " csum bad";
            }
            out.push(text);
            match (protocol, b[0]) {
                (1, 3 | 4 | 5 | 11 | 12) => print_ip(&b[8..], out, false),
                (58, 0..128) => print_ip6(&b[8..], out, false),
                _ => print_data(&b[8..], out),
            }
        }
        4 => print_ip(b, out, whole),
        41 => print_ip6(b, out, whole),
        _ => {
            if let Some(last) = out.last_mut() {
                *last += &format!(" proto {protocol}");
            }
            print_data(b, out);
        }
    }
}
