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

/// Blanks what the kernel makes up in packets of its own: messages it sends (`made`) and outer
/// headers of tunnels.
fn loosen(frame: &[u8], made: bool) -> Vec<u8> {
    let mut f = frame.to_vec();
    let v4 = f[12..14] == [8, 0];
    if v4 && f[23] == 17 && is_gue(&f) {
        f[34..36].fill(0); // Source port,
        f[40..42].fill(0); // and with it the checksum, which is verified apart.
    }
    if v4 && (is_tunnel(&f) || made) {
        f[18..20].fill(0); // Identification,
        f[24..26].fill(0); // and with it the checksum, which is verified apart.
    }
    if !v4 && made {
        f[14..18].copy_from_slice(&[0x60, 0, 0, 0]);
    }
    f
}

/// An IPv4 packet of a tunnel's, or a piece of one.
fn is_tunnel(f: &[u8]) -> bool {
    matches!(f[23], 4 | 47) || f[23] == 17 && (is_gue(f) || f[21] != 0)
}

/// The first piece, or all, of a packet to the port that the recordings use for GUE.
fn is_gue(f: &[u8]) -> bool {
    let later = u16::from_be_bytes([f[20], f[21]]) & 0x1fff != 0;
    !later && f[36..38] == 6080u16.to_be_bytes()
}

/// Checks the checksum of a whole GUE packet.
fn check_gue(f: &[u8], place: &str) {
    if f[12..14] == [8, 0] && f[23] == 17 && f[20] & 0x20 == 0 && is_gue(f) && f[40..42] != [0, 0] {
        let len = (f.len() - 34) as u16;
        let pseudo = [&f[26..34], &[0, 17], &len.to_be_bytes()].concat();
        assert_eq!(notation::checksum(&[&pseudo, &f[34..]]), 0, "{place}");
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
        Verdict::Kernel(_) | Verdict::Drop(_) | Verdict::Wait | Verdict::Hold => Vec::new(),
    }
}

/// IPv4 packets put together from their pieces and taken out of their tunnels, again and again
/// until neither is left. Lengths, fragment fields, header checksums and what the kernel makes up
/// are blanked: how a packet was cut is not compared.
fn put_together(packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut whole: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<(Vec<u8>, usize)> = None;
    for mut ip in packets {
        let field = u16::from_be_bytes([ip[6], ip[7]]);
        let (offset, more) = (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0);
        let body = ip.split_off(20);
        ip[2..4].fill(0);
        ip[6..8].fill(0);
        ip[10..12].fill(0);
        let (head, payload) = match open.take() {
            Some((mut so_far, have)) => {
                assert_eq!((offset, &so_far[..20]), (have, &ip[..]), "the next piece");
                so_far.extend(&body);
                (so_far, have + body.len())
            }
            None => {
                assert_eq!(offset, 0, "the first piece");
                let len = body.len();
                ip.extend(body);
                (ip, len)
            }
        };
        match more {
            true => open = Some((head, payload)),
            false => whole.push(head),
        }
    }
    assert!(open.is_none(), "a last piece");
    if !whole.iter().all(|ip| is_wrapped(ip)) {
        return whole;
    }
    let inner = whole.into_iter().map(|ip| {
        let shim = match ip[9] {
            4 => 0,
            47 => 4,
            _ => 12,
        };
        ip[20 + shim..].to_vec()
    });
    put_together(inner.collect())
}

/// A whole IPv4 packet that holds another.
fn is_wrapped(ip: &[u8]) -> bool {
    matches!(ip[9], 4 | 47) || ip[9] == 17 && ip[22..24] == 6080u16.to_be_bytes()
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
            pieces.extend(got.into_iter().map(|(side, frame)| {
                assert_eq!(side, "server", "{place}");
                frame[14..].to_vec()
            }));
            if step["fragment"] == "last" {
                let want = step["out"].as_array().unwrap().iter();
                let want = want.map(|o| hex(o["frame"].as_str().unwrap())[14..].to_vec());
                let want = put_together(want.collect());
                assert_eq!(put_together(pieces.split_off(0)), want, "{place}");
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
                notation::to_hex(&loosen(got, made)),
                notation::to_hex(&loosen(&want, made)),
                "{place}\n  got  {}\n  want {}",
                notation::print(got),
                notation::print(&want)
            );
            if got[12..14] == [8, 0] {
                assert_eq!(notation::checksum(&[&got[14..34]]), 0, "{place}");
                check_gue(got, &place);
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
