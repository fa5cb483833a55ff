//! Properties of the wire code: the parser against a slow one, no panic on any bytes,
//! incremental checksums against full ones, and messages that are right whatever they quote.

use dataplane::addr::{Addr, Endpoint};
use dataplane::flow::{Flow, Parsed};
use dataplane::packet::{DropReason, Packet, PortId};
use dataplane::service::{Tunnel, TunnelChecksum, TunnelKind};
use dataplane::wire::checksum;
use dataplane::wire::fragment::Fragments;
use dataplane::wire::icmp::{self, Answer, Towards};
use dataplane::wire::tunnel::{self, Choices, Outer};
use proptest::collection::vec;
use proptest::prelude::*;

mod support;
use support::notation;

/// A frame in the notation of the vectors, of every shape that the parser knows.
fn described() -> impl Strategy<Value = String> {
    let link = prop_oneof![
        4 => Just(String::new()),
        2 => (0u16..4096, 0u8..8).prop_map(|(v, p)| format!("| vlan {v} pcp {p} ")),
        1 => Just("| vlan 5 | vlan 6 ".to_owned()),
    ];
    let transport = prop_oneof![
        4 => (any::<u16>(), any::<u16>(), 0u8..64).prop_map(|(s, d, f)| {
            let names = ["fin", "syn", "rst", "psh", "ack", "urg"];
            let flags: Vec<_> = (0..6).filter(|i| f >> i & 1 == 1).map(|i| names[i]).collect();
            format!("tcp {s} > {d} {}", flags.join(" "))
        }),
        3 => (any::<u16>(), any::<u16>()).prop_map(|(s, d)| format!("udp {s} > {d}")),
        2 => (any::<u16>(), any::<u16>(), 0u8..20, 0u8..20).prop_map(|(s, d, first, second)| {
            format!("sctp {s} > {d} | chunk {first} value 010203 | chunk {second}")
        }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(t, c)| format!("icmp {t} {c}")),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(t, c)| format!("icmp6 {t} {c}")),
    ];
    let v4 = (
        any::<[u8; 4]>(),
        any::<[u8; 4]>(),
        any::<u8>(),
        any::<u8>(),
        any::<u16>(),
        0u8..8,
        0usize..4,
    )
        .prop_map(|(s, d, ttl, tos, id, bits, options)| {
            let mut text = format!(
                "ip {} > {} ttl {ttl} tos {tos} id {id}",
                std::net::Ipv4Addr::from(s),
                std::net::Ipv4Addr::from(d)
            );
            if bits & 1 != 0 {
                text += " df";
            }
            if bits & 6 == 2 {
                text += " mf";
            }
            if bits & 6 == 4 {
                text += " offset 64";
            }
            if options > 0 {
                text += &format!(" options {}", "94040102".repeat(options));
            }
            text
        });
    let v6 = (
        any::<[u8; 16]>(),
        any::<[u8; 16]>(),
        any::<u8>(),
        any::<u8>(),
        0usize..6,
    )
        .prop_map(|(s, d, ttl, tos, chain)| {
            // A generated address must not be an IPv4-mapped one: print that as IPv6 too.
            let head = format!(
                "ip6 {} > {} ttl {ttl} tos {tos}",
                std::net::Ipv6Addr::from(s),
                std::net::Ipv6Addr::from(d)
            );
            let chains = [
                "",
                " | hop units 2",
                " | hop | dest units 3 | routing",
                " | routing left 1",
                " | dest | fragment id 77 mf",
                " | fragment id 78 offset 128",
            ];
            head + chains[chain]
        });
    (link, prop_oneof![v4, v6], transport, 0usize..80, 0usize..20).prop_map(
        |(link, ip, transport, data, more)| {
            let text = format!("eth 02:..:01 > 02:..:02 {link}| {ip} | {transport} | bytes {data}");
            let len = notation::build(&text).len();
            format!("{text} | pad {}", len + more)
        },
    )
}

/// What the slow parser found.
#[derive(Debug, PartialEq)]
enum Slow {
    NotIp,
    Bad,
    Whole(Facts),
    Piece(Facts, u32, u16, bool),
}

#[derive(Debug, PartialEq)]
struct Facts {
    addresses: Vec<u8>,
    ports: (u16, u16),
    flags: u8,
    protocol: u8,
    l3: usize,
    l4: usize,
    end: usize,
    ttl: u8,
    tos: u8,
    dont_fragment: bool,
}

/// A cursor over bytes; reading beyond the end is `None`.
struct Cursor<'a>(&'a [u8], usize);

impl Cursor<'_> {
    fn u8(&mut self) -> Option<u8> {
        self.1 += 1;
        self.0.get(self.1 - 1).copied()
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from(self.u8()?) << 8 | u16::from(self.u8()?))
    }

    fn bytes(&mut self, n: usize) -> Option<Vec<u8>> {
        (0..n).map(|_| self.u8()).collect()
    }
}

/// The parser again, field by field, with the rules of `Flow::parse` and none of its tricks.
fn slow(frame: &[u8]) -> Slow {
    slow_frame(frame).unwrap_or(Slow::Bad)
}

fn slow_frame(frame: &[u8]) -> Option<Slow> {
    let mut c = Cursor(frame, 12);
    let mut ethertype = c.u16()?;
    if ethertype == 0x8100 {
        c.u16()?;
        ethertype = c.u16()?;
    }
    match ethertype {
        0x0800 => slow_ipv4(frame, c.1),
        0x86dd => slow_ipv6(frame, c.1),
        _ => Some(Slow::NotIp),
    }
}

fn slow_transport(packet: &[u8], facts: &mut Facts) {
    let mut c = Cursor(packet, facts.l4);
    if ![6, 17, 132].contains(&facts.protocol) {
        return;
    }
    if let (Some(s), Some(d)) = (c.u16(), c.u16()) {
        facts.ports = (s, d);
    }
    if facts.protocol == 6 {
        facts.flags = Cursor(packet, facts.l4 + 13).u8().unwrap_or(0);
    }
}

fn slow_ipv4(frame: &[u8], l3: usize) -> Option<Slow> {
    let mut c = Cursor(frame, l3);
    let first = c.u8()?;
    let tos = c.u8()?;
    let total = usize::from(c.u16()?);
    let id = c.u16()?;
    let field = c.u16()?;
    let ttl = c.u8()?;
    let protocol = c.u8()?;
    c.u16()?;
    let addresses = c.bytes(8)?;
    let header = usize::from(first % 16) * 4;
    let end = l3 + total;
    if first / 16 != 4 || header < 20 || total < header || end > frame.len() {
        return None;
    }
    if notation::checksum(&[&frame[l3..l3 + header]]) != 0 {
        return None;
    }
    let mut facts = Facts {
        addresses,
        ports: (0, 0),
        flags: 0,
        protocol,
        l3,
        l4: l3 + header,
        end,
        ttl,
        tos,
        dont_fragment: field & 0x4000 != 0,
    };
    let (more, offset) = (field & 0x2000 != 0, (field & 0x1fff) * 8);
    if offset == 0 {
        slow_transport(&frame[..end], &mut facts);
    }
    Some(match (more, offset) {
        (false, 0) => Slow::Whole(facts),
        _ => Slow::Piece(facts, id.into(), offset, more),
    })
}

fn slow_ipv6(frame: &[u8], l3: usize) -> Option<Slow> {
    let mut c = Cursor(frame, l3);
    let (a, b) = (c.u8()?, c.u8()?);
    c.u16()?;
    let payload = usize::from(c.u16()?);
    let mut protocol = c.u8()?;
    let ttl = c.u8()?;
    let addresses = c.bytes(32)?;
    let end = l3 + 40 + payload;
    if a / 16 != 6 || end > frame.len() || end > 65535 {
        return None;
    }
    let packet = &frame[..end];
    let mut l4 = l3 + 40;
    let mut piece = None;
    for _ in 0..8 {
        let Some(h) = packet.get(l4..l4 + 8) else {
            break;
        };
        let len = match protocol {
            0 | 60 => usize::from(h[1]) * 8 + 8,
            43 if h[3] == 0 => usize::from(h[1]) * 8 + 8,
            44 => 8,
            _ => break,
        };
        if l4 + len > end {
            break;
        }
        if protocol == 44 {
            let field = u16::from_be_bytes([h[2], h[3]]);
            let id = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
            piece = Some((id, field / 8 * 8, field % 2 == 1));
        }
        protocol = h[0];
        l4 += len;
        if piece.is_some_and(|(_, offset, _)| offset > 0) {
            break;
        }
    }
    let tos = a % 16 * 16 + b / 16;
    let mut facts = Facts {
        addresses,
        ports: (0, 0),
        flags: 0,
        protocol,
        l3,
        l4,
        end,
        ttl,
        tos,
        dont_fragment: true,
    };
    if piece.is_none_or(|(_, offset, _)| offset == 0) {
        slow_transport(packet, &mut facts);
    }
    Some(match piece {
        None | Some((_, 0, false)) => Slow::Whole(facts),
        Some((id, offset, more)) => Slow::Piece(facts, id, offset, more),
    })
}

fn facts(flow: &Flow) -> Facts {
    let skip = if flow.is_v4 { 12 } else { 0 };
    assert_eq!(flow.l3_len, flow.l4 - flow.l3 + flow.l4_len);
    let least = if flow.is_v4 { 20 } else { 40 };
    assert!(flow.l4 - flow.l3 == least || flow.has_options);
    Facts {
        addresses: [&flow.src.octets()[skip..], &flow.dst.octets()[skip..]].concat(),
        ports: (flow.src_port, flow.dst_port),
        flags: flow.tcp_flags,
        protocol: flow.protocol,
        l3: flow.l3.into(),
        l4: flow.l4.into(),
        end: usize::from(flow.l3) + usize::from(flow.l3_len),
        ttl: flow.ttl,
        tos: flow.tos,
        dont_fragment: flow.dont_fragment,
    }
}

fn quick(frame: &[u8]) -> Slow {
    match Flow::parse(frame, 0, frame.len() as u32) {
        Parsed::Ip(flow) => Slow::Whole(facts(&flow)),
        Parsed::Fragment(flow, f) => Slow::Piece(facts(&flow), f.id, f.offset, f.more),
        Parsed::NotIp { .. } => Slow::NotIp,
        Parsed::Bad(_) => Slow::Bad,
    }
}

/// Everything that reads or edits a received frame, for its panics alone.
fn exercise(frame: &[u8], tci: u16) {
    let mut room = vec![0u8; 128 + frame.len() + 128];
    room[128..128 + frame.len()].copy_from_slice(frame);
    let flow = match Flow::parse(frame, tci, frame.len() as u32) {
        Parsed::Ip(flow) | Parsed::Fragment(flow, _) => flow,
        _ => return,
    };
    let _ = (
        flow.has_l4_header(),
        flow.has_ports(),
        icmp::may_answer(&flow, frame),
    );
    let (a, b) = (Addr::v4([10, 0, 0, 1]), Addr::v6([1; 16]));
    if let Some(quoted) = flow.parse_embedded(frame) {
        for new in [a, b] {
            for towards in [Towards::Server, Towards::Client] {
                let mut copy = frame.to_vec();
                let _ = icmp::translate(&mut copy, &flow, &quoted, towards(Endpoint::new(new, 9)));
            }
        }
    }
    if let Some(mut fragments) = Fragments::new(frame, flow.l3.into(), 60) {
        let mut buffer = [0; 128];
        while fragments.write(&mut buffer).is_some() {}
    }
    for (start, addr) in [(128u16, a), (128, b), (0, a)] {
        let mut room = room[usize::from(128 - start)..].to_vec();
        let mut p = Packet::new(&mut room, start, frame.len() as u16, PortId(0));
        let _ = icmp::build(&mut p, &flow, Answer::TooBig { mtu: 1400 }, addr, 7);
        let mut p = Packet::new(&mut room, start, frame.len() as u16, PortId(0));
        let outer = Outer {
            src: addr,
            dst: addr,
            tunnel: Tunnel {
                kind: TunnelKind::Gue,
                port: 6080,
                checksum: TunnelChecksum::Full,
            },
        };
        let choices = Choices {
            udp_sums: false,
            copy_df: true,
            id: 7,
            cut: Some(8),
        };
        let _ = tunnel::encapsulate(&mut p, &flow, &outer, choices);
    }
}

/// `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        cases: usual.cases.max(1000),
        failure_persistence: None,
        ..usual
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_parser_agrees_with_a_slow_one(text in described()) {
        let frame = notation::build(&text);
        prop_assert_eq!(quick(&frame), slow(&frame), "{}", text);
    }

    #[test]
    fn and_on_damaged_frames(
        text in described(),
        hits in vec((0usize..80, any::<u8>()), 1..6),
        cut in 0usize..200,
    ) {
        let mut frame = notation::build(&text);
        for (at, byte) in hits {
            if let Some(b) = frame.get_mut(at) {
                *b = byte;
            }
        }
        // Damage shows the checksum first; repair it now and then to get further.
        let repaired = repair(&frame);
        for mut frame in [frame, repaired] {
            prop_assert_eq!(quick(&frame), slow(&frame));
            exercise(&frame, 0);
            frame.truncate(frame.len().saturating_sub(cut));
            prop_assert_eq!(quick(&frame), slow(&frame));
            exercise(&frame, 0);
        }
    }

    #[test]
    fn nothing_panics_on_any_bytes(bytes in vec(any::<u8>(), 0..200), tci in any::<u16>()) {
        let _ = Flow::parse(&bytes, tci, bytes.len() as u32);
        let _ = Flow::parse(&bytes, tci, u32::MAX);
        let _ = notation::print(&bytes);
        for head in ["0800", "86dd", "81000005" ] {
            let mut frame = vec![2; 12];
            frame.extend(notation::hex(head));
            frame.extend(&bytes);
            let frame = repair(&frame);
            prop_assert_eq!(quick(&frame), slow(&frame));
            exercise(&frame, tci);
        }
    }

    #[test]
    fn the_notation_reads_what_it_prints(text in described()) {
        let frame = notation::build(&text);
        // Pieces and odd chains print as data; whole plain packets come back as they were.
        if text.contains("mf") || text.contains("offset") || text.contains("left")
            || text.contains("vlan 5 | vlan 6") || text.contains("icmp")
        {
            return Ok(());
        }
        let printed = notation::print(&frame);
        let again = notation::build(&printed);
        prop_assert_eq!(&again[..], &frame[..again.len()], "{}\n{}", text, printed);
    }

    #[test]
    fn an_incremental_checksum_is_the_full_one(
        mut bytes in vec(any::<u8>(), 40..120),
        new in vec(any::<u8>(), 20),
        at in 0usize..10,
    ) {
        // The checksum stands at 0, the change behind it.
        bytes[..2].fill(0);
        bytes[2] |= 1; // Not all zero: that sum has two spellings.
        let before = checksum::of(&bytes);
        let at = 4 + at * 2;
        let changed = at..at + new.len().min(bytes.len() - at) / 2 * 2;
        let new = &new[..changed.len()];
        let delta = checksum::delta(&bytes[changed.clone()], new);
        bytes[changed].copy_from_slice(new);
        prop_assert_eq!(checksum::apply(before, delta), checksum::of(&bytes));
        prop_assert_eq!(checksum::apply(checksum::apply(before, delta), !delta), before);
        prop_assert_eq!(checksum::of(&bytes), notation::checksum(&[&bytes]));
    }

    #[test]
    fn deltas_combine(csum in 0u16..0xffff, a in any::<(u16, u16)>(), b in any::<(u16, u16)>()) {
        let (da, db) = (checksum::delta_word(a.0, a.1), checksum::delta_word(b.0, b.1));
        let one_by_one = checksum::apply(checksum::apply(csum, da), db);
        prop_assert_eq!(checksum::apply(csum, checksum::combine(da, db)), one_by_one);
        prop_assert_eq!(da, checksum::delta(&a.0.to_be_bytes(), &a.1.to_be_bytes()));
    }

    #[test]
    fn an_answer_is_well_formed_and_quotes_what_caused_it(
        text in described(),
        which in 0usize..4,
        start in prop_oneof![Just(128u16), Just(0u16)],
    ) {
        let frame = notation::build(&text);
        let Parsed::Ip(flow) = Flow::parse(&frame, 0, frame.len() as u32) else { return Ok(()) };
        let answers = [
            Answer::PortUnreachable,
            Answer::HostUnreachable,
            Answer::TimeExceeded,
            Answer::TooBig { mtu: 1400 },
        ];
        let mut room = vec![0u8; 512];
        let from = usize::from(start);
        room[from..from + frame.len()].copy_from_slice(&frame);
        let mut packet = Packet::new(&mut room, start, frame.len() as u16, PortId(0));
        let source = if flow.is_v4 { Addr::v4([10, 0, 0, 9]) } else { Addr::v6([9; 16]) };
        prop_assert!(icmp::build(&mut packet, &flow, answers[which], source, 5));
        let out = packet.frame();
        let Parsed::Ip(answer) = Flow::parse(out, 0, out.len() as u32) else {
            return Err(TestCaseError::fail(notation::print(out)));
        };
        prop_assert_eq!((answer.src, answer.dst, answer.ttl), (source, flow.src, 64));
        prop_assert_eq!((answer.l3, answer.is_icmp()), (flow.l3, true));
        prop_assert_eq!(usize::from(answer.l3 + answer.l3_len), out.len());
        prop_assert!(!notation::print(out).contains("icmp csum bad"));
        prop_assert_eq!((&out[..6], &out[6..12]), (&frame[6..12], &frame[..6]));
        let quote = &out[usize::from(answer.l4) + 8..];
        let original = &frame[usize::from(flow.l3)..usize::from(flow.l3 + flow.l3_len)];
        prop_assert_eq!(quote, &original[..quote.len()]);
        prop_assert!(!icmp::may_answer(&answer, out));
    }

    #[test]
    fn translating_an_error_and_back_is_the_identity(text in described(), keep in 28usize..200) {
        // Quote the described packet in an error to its sender.
        let frame = notation::build(&text);
        let Parsed::Ip(flow) = Flow::parse(&frame, 0, frame.len() as u32) else { return Ok(()) };
        let ip = &frame[usize::from(flow.l3)..usize::from(flow.l3 + flow.l3_len)];
        let quote = notation::to_hex(&ip[..keep.min(ip.len())]);
        let message = if flow.is_v4 {
            format!("ip 10.9.9.9 > {} | icmp 3 3 | data {quote}", flow.src)
        } else {
            format!("ip6 fd99::9 > {} | icmp6 1 4 | data {quote}",
                    std::net::Ipv6Addr::from(flow.src.octets()))
        };
        let error = notation::build(&format!("eth 02:..:01 > 02:..:02 | {message}"));
        let Parsed::Ip(outer) = Flow::parse(&error, 0, error.len() as u32) else {
            return Err(TestCaseError::fail(message));
        };
        let Some(quoted) = outer.parse_embedded(&error) else { return Ok(()) };
        prop_assert_eq!((quoted.src, quoted.dst), (flow.src, flow.dst));
        prop_assert_eq!((quoted.src_port, quoted.dst_port), (flow.src_port, flow.dst_port));
        let addr = if flow.is_v4 { Addr::v4([10, 1, 2, 3]) } else { Addr::v6([7; 16]) };
        let mut there = error.clone();
        let new = Endpoint::new(addr, 8080);
        prop_assert_eq!(icmp::translate(&mut there, &outer, &quoted, Towards::Server(new)), Ok(()));
        let Parsed::Ip(outer2) = Flow::parse(&there, 0, there.len() as u32) else {
            return Err(TestCaseError::fail(notation::print(&there)));
        };
        let quoted2 = outer2.parse_embedded(&there).unwrap();
        prop_assert_eq!((outer2.dst, quoted2.src), (addr, addr));
        prop_assert!(matches!(quoted.protocol, 6 | 17 | 132) == (quoted2.src_port == 8080)
                     || quoted.src_port == 8080);
        // Back again; a quoted header checksum that was wrong has been repaired.
        let old = Endpoint::new(flow.src, quoted.src_port);
        let mut back = there.clone();
        prop_assert_eq!(icmp::translate(&mut back, &outer2, &quoted2, Towards::Server(old)), Ok(()));
        prop_assert_eq!(notation::print(&back), notation::print(&error));
        // A damaged message is refused and stays as it is.
        let mut damaged = error.clone();
        damaged[usize::from(outer.l4) + 5] ^= 0x10;
        let before = damaged.clone();
        prop_assert_eq!(
            icmp::translate(&mut damaged, &outer, &quoted, Towards::Server(new)),
            Err(DropReason::IcmpChecksum)
        );
        prop_assert_eq!(damaged, before);
    }

    #[test]
    fn fragments_make_up_the_packet(len in 0usize..600, mtu in 28u16..700, options in 0usize..4) {
        let options = match options {
            0 => String::new(),
            n => format!(" options {}", "01".repeat(n * 4)),
        };
        let frame = notation::build(&format!(
            "eth 02:..:01 > 02:..:02 | ip 10.0.0.1 > 10.0.0.2 id 7{options} | udp 1 > 2 | bytes {len}"
        ));
        let Some(mut fragments) = Fragments::new(&frame, 14, mtu) else {
            prop_assert!(mtu < 48);
            return Ok(());
        };
        let mut payload = Vec::new();
        let mut buffer = [0u8; 1024];
        let mut last = true;
        while let Some(n) = fragments.write(&mut buffer) {
            prop_assert!(n - 14 <= usize::from(mtu));
            let (flow, offset, more) = match Flow::parse(&buffer[..n], 0, n as u32) {
                Parsed::Ip(flow) => (flow, 0, false),
                Parsed::Fragment(flow, f) => (flow, f.offset, f.more),
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            };
            prop_assert_eq!(usize::from(offset), payload.len());
            payload.extend(&buffer[usize::from(flow.l4)..n]);
            last = more;
        }
        prop_assert!(!last);
        prop_assert!(frame.ends_with(&payload));
    }
}

/// The frame with a right IPv4 header checksum, if there is a header to have one.
fn repair(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let l3 = if frame.get(12..14) == Some(&[0x81, 0]) {
        18
    } else {
        14
    };
    if let Some(ip) = frame.get_mut(l3..) {
        let header = ip.first().map_or(0, |b| usize::from(b & 15) * 4);
        if header >= 20 && header <= ip.len() {
            ip[10..12].fill(0);
            let sum = notation::checksum(&[&ip[..header]]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
    frame
}
