//! Whole frames through a worker, byte for byte against recordings of the kernel: NAT, direct
//! routing and tunnels, both families, ICMP errors in both directions.
//!
//! Not compared: identifications, flow labels and GUE source ports that the kernel makes up, and
//! its own answers to packets that are the host's (they must be left to it).
//!
//! Runs every `packets-*` file of `data/golden`, or of the folder that `RVS_GOLDEN_DIR` names.

use std::path::Path;

use dataplane::packet::Verdict;
use dataplane::wire::fragment::Fragments;
use serde_json::Value;

mod support;
use support::notation::{self, hex};
use support::rig::Rig;

/// What the frames of one packet may be called.
fn side(port: u16) -> &'static str {
    if port == 0 { "client" } else { "server" }
}

/// Ports that a recording's rules use for GUE.
type Gue = [u16];

fn gue_ports(rules: &Value) -> Vec<u16> {
    let port = |rule: &Value| {
        let words: Vec<&str> = rule.as_str()?.split_whitespace().collect();
        let at = words.iter().position(|w| *w == "--tun-port")?;
        words.get(at + 1)?.parse().ok()
    };
    rules.as_array().unwrap().iter().filter_map(port).collect()
}

/// An IP packet or a piece of one, taken apart. Of IPv6 a fragment header only is looked at.
struct Piece {
    /// Up to the payload; what a cut changes is blank.
    head: Vec<u8>,
    protocol: u8,
    offset: usize,
    more: bool,
    body: Vec<u8>,
}

impl Piece {
    fn new(ip: &[u8]) -> Piece {
        let word = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
        if ip[0] >> 4 == 4 {
            let field = word(6);
            let (head, body) = ip.split_at(usize::from(ip[0] & 15) * 4);
            let mut head = head.to_vec();
            for at in [2, 3, 6, 7, 10, 11] {
                head[at] = 0;
            }
            return Piece {
                protocol: ip[9],
                offset: usize::from(field & 0x1fff) * 8,
                more: field & 0x2000 != 0,
                head,
                body: body.to_vec(),
            };
        }
        let mut head = ip[..40].to_vec();
        head[4..6].fill(0);
        // The kernel numbers the pieces that it makes of IPv6 anew.
        let (protocol, field, body) = match ip[6] {
            44 => (ip[40], word(42), &ip[48..]),
            protocol => (protocol, 0, &ip[40..]),
        };
        head[6] = protocol;
        Piece {
            protocol,
            offset: usize::from(field & 0xfff8),
            more: field & 1 != 0,
            head,
            body: body.to_vec(),
        }
    }

    /// Where the packet inside begins, if this is the beginning of a tunnel's.
    fn shim(&self, gue: &Gue) -> Option<usize> {
        let body = &self.body;
        match self.protocol {
            4 | 41 => Some(0),
            47 => Some(if body[0] & 0x80 != 0 { 8 } else { 4 }),
            17 => {
                let port = u16::from_be_bytes([body[2], body[3]]);
                (self.offset == 0 && gue.contains(&port)).then_some(12)
            }
            _ => None,
        }
    }
}

/// Blanks what the kernel makes up in packets of its own: messages it sends (`made`) and outer
/// headers of tunnels.
fn loosen(frame: &[u8], made: bool, gue: &Gue) -> Vec<u8> {
    let mut f = frame.to_vec();
    let v4 = f[12..14] == [8, 0];
    let piece = Piece::new(&f[14..]);
    // Of GUE only: a later piece of another UDP packet keeps its identification.
    let later_gue = piece.protocol == 17 && piece.offset != 0 && !gue.is_empty();
    let shim = piece.shim(gue);
    if piece.protocol == 17 && shim.is_some() {
        let udp = f.len() - piece.body.len();
        f[udp..udp + 2].fill(0); // Source port,
        f[udp + 6..udp + 8].fill(0); // and with it the checksum, which is verified apart.
    }
    if v4 && (shim.is_some() || later_gue || made) {
        f[18..20].fill(0); // Identification,
        f[24..26].fill(0); // and with it the checksum, which is verified apart.
    }
    if !v4 && (f[20] == 44 && shim.is_some() || later_gue) {
        f[58..62].fill(0); // Identification.
    }
    if !v4 && made {
        f[14..18].copy_from_slice(&[0x60, 0, 0, 0]);
    }
    f
}

/// Checks the checksum of a whole GUE packet.
fn check_gue(f: &[u8], gue: &Gue, place: &str) {
    let piece = Piece::new(&f[14..]);
    let body = &piece.body;
    if piece.protocol == 17 && !piece.more && piece.shim(gue).is_some() && body[6..8] != [0, 0] {
        let addresses = if f[12..14] == [8, 0] {
            &f[26..34]
        } else {
            &f[22..54]
        };
        let pseudo = [addresses, &[0, 17], &(body.len() as u16).to_be_bytes()].concat();
        assert_eq!(notation::checksum(&[&pseudo, body]), 0, "{place}");
    }
}

/// The frames that leave, with their sides.
fn leaving(verdict: Verdict, frame: Vec<u8>) -> Vec<(&'static str, Vec<u8>)> {
    match verdict {
        Verdict::Transmit(port) => vec![(side(port.0), frame)],
        Verdict::Fragment(port, mtu) => {
            let mut fragments = Fragments::new(&frame, 14, mtu).expect("a packet to cut");
            let mut out = Vec::new();
            while let Some(len) = fragments.next_len() {
                let mut buffer = vec![0; len];
                fragments.write(&mut buffer).unwrap();
                out.push((side(port.0), buffer));
            }
            out
        }
        _ => Vec::new(),
    }
}

/// Packets put together from their pieces and taken out of their tunnels, again and again until
/// neither is left. How they were cut and wrapped is not compared.
fn put_together(packets: Vec<Vec<u8>>, gue: &Gue) -> Vec<Vec<u8>> {
    let mut whole: Vec<Piece> = Vec::new();
    for ip in packets {
        let piece = Piece::new(&ip);
        match whole.last_mut().filter(|open| open.more) {
            Some(open) => {
                assert_eq!(
                    (piece.offset, &piece.head),
                    (open.body.len(), &open.head),
                    "the next piece"
                );
                open.body.extend(piece.body);
                open.more = piece.more;
            }
            None => {
                assert_eq!(piece.offset, 0, "the first piece");
                whole.push(piece);
            }
        }
    }
    assert!(whole.iter().all(|piece| !piece.more), "a last piece");
    let inner: Option<Vec<Vec<u8>>> = whole
        .iter()
        .map(|piece| Some(piece.body[piece.shim(gue)?..].to_vec()))
        .collect();
    match inner {
        Some(inner) if !inner.is_empty() => put_together(inner, gue),
        _ => whole
            .into_iter()
            .map(|piece| [piece.head, piece.body].concat())
            .collect(),
    }
}

/// Steps that are the host's own business.
fn is_for_the_host(step: &Value) -> bool {
    let text = format!("{}{}", step["icmp"], step["note"]);
    [
        "echo request",
        "a port without service",
        "that no connection knows",
    ]
    .iter()
    .any(|t| text.contains(t))
}

fn sysctl(rig: &mut Rig, name: &str, value: &Value) {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let number = number.unwrap_or_else(|| panic!("sysctl {name}: {value}")) as u32;
    rig.change_settings(|s| match name {
        "conn_reuse_mode" => s.conn_reuse_mode = number,
        "expire_nodest_conn" => s.expire_nodest_conn = number != 0,
        "nat_icmp_send" => s.nat_icmp_send = number != 0,
        "pmtu_disc" => s.pmtu_disc = number != 0,
        "sloppy_tcp" => s.sloppy_tcp = number != 0,
        other => panic!("sysctl {other} is not modelled here"),
    });
}

fn replay(path: &Path) -> usize {
    let name = path.file_stem().unwrap().to_string_lossy();
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let recording: Value = serde_json::from_str(&text).unwrap();
    let mut rig = Rig::new();
    for rule in recording["rules"].as_array().unwrap() {
        rig.ipvsadm(rule.as_str().unwrap());
    }
    for (name, value) in recording["sysctl"].as_object().into_iter().flatten() {
        sysctl(&mut rig, name, value);
    }
    let gue = gue_ports(&recording["rules"]);
    let mut compared = 0;
    let mut pieces = Vec::new();
    for (i, step) in recording["steps"].as_array().unwrap().iter().enumerate() {
        if let Some(args) = step["ipvsadm"].as_str() {
            rig.ipvsadm(args);
            continue;
        }
        if let Some([name, value]) = step["sysctl"].as_array().map(Vec::as_slice) {
            sysctl(&mut rig, name.as_str().unwrap(), value);
            continue;
        }
        let Some(frame) = step["frame"].as_str() else {
            continue;
        };
        let frame = hex(frame);
        let port = u16::from(step["from"] == "server");
        let (verdict, after) = rig.inject(port, &frame);
        let place = format!(
            "{name}, step {i}: {}\n  {verdict:?}",
            notation::print(&frame)
        );
        if is_for_the_host(step) {
            assert!(matches!(verdict, Verdict::Kernel(_)), "{place}");
            continue;
        }
        if !step["fragment"].is_null() {
            // The kernel reassembles and cuts again; here each piece goes its way.
            let got = leaving(verdict, after);
            assert!(!got.is_empty(), "{place}");
            pieces.extend(got);
            if step["fragment"] == "last" {
                let outs = step["out"].as_array().unwrap();
                let want: Vec<_> = outs
                    .iter()
                    .map(|o| hex(o["frame"].as_str().unwrap()))
                    .collect();
                let ip = |frames: Vec<Vec<u8>>| {
                    let packets = frames.into_iter().map(|f| f[14..].to_vec());
                    put_together(packets.collect(), &gue)
                };
                let (sides, got): (Vec<_>, Vec<_>) = pieces.drain(..).unzip();
                assert!(
                    sides.iter().all(|side| outs[0]["side"] == **side),
                    "{place}"
                );
                let want = ip(want);
                assert_eq!(ip(got), want, "{place}");
                compared += want.len();
            }
            continue;
        }
        let is_icmp = matches!((frame[12], frame[23], frame[20]), (8, 1, _) | (0x86, _, 58));
        let got = leaving(verdict, after);
        let want = step["out"].as_array().cloned().unwrap_or_default();
        assert_eq!(got.len(), want.len(), "{place}");
        for ((side, got), want) in got.iter().zip(&want) {
            assert_eq!(want["side"], *side, "{place}");
            let made = !is_icmp && !want["icmp"].is_null();
            let want = hex(want["frame"].as_str().unwrap());
            assert_eq!(
                notation::to_hex(&loosen(got, made, &gue)),
                notation::to_hex(&loosen(&want, made, &gue)),
                "{place}\n  got  {}\n  want {}",
                notation::print(got),
                notation::print(&want)
            );
            if got[12..14] == [8, 0] {
                assert_eq!(notation::checksum(&[&got[14..34]]), 0, "{place}");
                check_gue(got, &gue, &place);
            }
            compared += 1;
        }
    }
    compared
}

#[test]
fn recordings() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden");
    let dir = std::env::var("RVS_GOLDEN_DIR").unwrap_or_else(|_| own.to_owned());
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{dir}: {e}"));
    let mut paths: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("packets-") && name.ends_with(".json")
        })
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{dir}: no packets-*.json");
    for path in &paths {
        let compared = replay(path);
        assert!(
            compared >= 8,
            "{}: only {compared} frames compared",
            path.display()
        );
    }
    if dir == own {
        assert_eq!(paths.len(), 10, "{paths:?}");
    }
}
