//! Cutting a TCP packet as a NIC would.

use dataplane::wire::segment::Segments;
use proptest::prelude::*;

mod support;
use support::notation::{build, print};

fn cut(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(frame, mtu).expect("a packet to cut");
    let mut out = Vec::new();
    while let Some(len) = segments.next_len() {
        assert_eq!(segments.write(&mut vec![0; len - 1]), None, "no room");
        let mut buffer = vec![0xa5; len];
        assert_eq!(segments.write(&mut buffer), Some(len));
        out.push(buffer);
    }
    out
}

#[test]
fn numbers_flags_and_checksums() {
    let ip = "ip 10.0.0.1 > 10.0.0.2 df id";
    // The sender has left the checksum undone.
    let frame = build(&format!(
        "eth 02:..:01 > 02:..:02 | {ip} 7 | tcp 5 > 6 ack 9 psh fin cwr seq 4294967000 \
         options 0101080a0000000100000002 csum 0x1234 | bytes 3000"
    ));
    let options = "options 0101080a0000000100000002";
    let want = [
        format!("{ip} 7 | tcp 5 > 6 ack 9 cwr seq 4294967000 {options} | bytes 1448"),
        format!("{ip} 8 | tcp 5 > 6 ack 9 seq 1152 {options} | bytes 1448 from 1448"),
        format!("{ip} 9 | tcp 5 > 6 ack 9 psh fin seq 2600 {options} | bytes 104 from 2896"),
    ];
    let got = cut(&frame, 1500);
    assert_eq!(got.len(), 3);
    for (got, want) in got.iter().zip(want) {
        let want = build(&format!("eth 02:..:01 > 02:..:02 | {want}"));
        assert_eq!(print(got), print(&want));
        assert!(*got == want);
    }
}

#[test]
fn over_ipv6_with_a_tag() {
    let head = "eth 02:..:01 > 02:..:02 | vlan 7 | ip6 fd00::1 > fd00::2";
    let frame = build(&format!("{head} | tcp 5 > 6 ack 9 seq 100 | bytes 2000"));
    let want = [
        format!("{head} | tcp 5 > 6 ack 9 seq 100 | bytes 1440"),
        format!("{head} | tcp 5 > 6 ack 9 seq 1540 | bytes 560 from 1440"),
    ];
    assert_eq!(cut(&frame, 1500), want.map(|text| build(&text)));
}

#[test]
fn what_is_not_cut() {
    let eth = "eth 02:..:01 > 02:..:02";
    for text in [
        "ip 10.0.0.1 > 10.0.0.2 | tcp 5 > 6 ack 9 | bytes 1460",
        "ip 10.0.0.1 > 10.0.0.2 | udp 5 > 6 | bytes 3000",
        "ip 10.0.0.1 > 10.0.0.2 mf | tcp 5 > 6 ack 9 | bytes 3004",
        "ip 10.0.0.1 > 10.0.0.2 | icmp 8 0 | bytes 3000",
    ] {
        let frame = build(&format!("{eth} | {text}"));
        assert!(Segments::new(&frame, 1500).is_none(), "{text}");
    }
    let frame = build(&format!(
        "{eth} | ip 10.0.0.1 > 10.0.0.2 | tcp 5 > 6 ack 9 | bytes 3000"
    ));
    assert!(Segments::new(&frame, 40).is_none(), "no room for payload");
    assert!(Segments::new(&frame[..2000], 1500).is_none(), "not whole");
}

proptest! {
    #[test]
    fn any_packet_of_any_mtu(len in 1usize..9000, mtu in 41u16..2000, noise: [u8; 60]) {
        let text = format!(
            "eth 02:..:01 > 02:..:02 | ip 10.0.0.1 > 10.0.0.2 | tcp 5 > 6 ack 9 | bytes {len}"
        );
        let mut frame = build(&text);
        if let Some(mut segments) = Segments::new(&frame, mtu) {
            let mut payload = Vec::new();
            while let Some(next) = segments.next_len() {
                let mut piece = vec![0; next];
                segments.write(&mut piece).unwrap();
                prop_assert!(piece.len() <= usize::from(mtu) + 14);
                payload.extend_from_slice(&piece[54..]);
            }
            prop_assert_eq!(&payload[..], &frame[54..]);
        } else {
            prop_assert!(len + 40 <= usize::from(mtu));
        }
        // Headers of noise: refused or cut, without a panic.
        frame[14..74.min(14 + len)].copy_from_slice(&noise[..60.min(len)]);
        if let Some(mut segments) = Segments::new(&frame, mtu) {
            let mut piece = vec![0; 65536];
            while segments.next_len().is_some() && segments.write(&mut piece).is_some() {}
        }
    }
}
