//! SCTP through a worker with NAT: whatever is in the packet, the CRC of what leaves is right if
//! that of what came was, in both directions.

use std::cell::RefCell;

use dataplane::packet::Verdict;
use proptest::collection::vec;
use proptest::prelude::*;

mod support;
use support::notation::{build, crc32c, to_hex};
use support::rig::Rig;

/// Bytes of Ethernet and IPv4.
const L4: usize = 34;

/// The CRC of a packet computed bit by bit, and the one that it carries.
fn sums(frame: &[u8]) -> ([u8; 4], [u8; 4]) {
    let mut l4 = frame[L4..].to_vec();
    let carried = l4[8..12].try_into().unwrap();
    l4[8..12].fill(0);
    (crc32c(&l4).to_le_bytes(), carried)
}

#[test]
fn rewritten_packets_have_the_crc_of_their_bytes() {
    let rig = RefCell::new(Rig::new());
    // One server keeps the port, the other has a port of its own.
    for rule in [
        "-A --sctp-service 192.168.40.200:3868 -s rr",
        "-a --sctp-service 192.168.40.200:3868 -r 192.168.50.5:3868 -m",
        "-a --sctp-service 192.168.40.200:3868 -r 192.168.50.6:65000 -m",
    ] {
        rig.borrow_mut().ipvsadm(rule);
    }
    let config = ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(client in 1024u16..1224, payload in vec(any::<u8>(), 1..300), tag: u32)| {
        let mut rig = rig.borrow_mut();
        let chunk = format!("tag {tag} | chunk 1 value {}", to_hex(&payload));
        let request = build(&format!(
            "eth 02:..:fe > 52:54:..:01 | ip 172.16.1.7 > 192.168.40.200 \
             | sctp {client} > 3868 {chunk}"
        ));
        let (verdict, sent) = rig.inject(0, &request);
        prop_assert!(matches!(verdict, Verdict::Transmit(_)), "{:?}", verdict);
        let (right, carried) = sums(&sent);
        prop_assert_eq!(right, carried);
        prop_assert_eq!(&sent[L4 + 12..], &request[L4 + 12..]);

        let server = [sent[30], sent[31], sent[32], sent[33]].map(|b| b.to_string()).join(".");
        let port = u16::from_be_bytes([sent[L4 + 2], sent[L4 + 3]]);
        let reply = build(&format!(
            "eth 02:..:05 > 52:54:..:02 | ip {server} > 172.16.1.7 | sctp {port} > {client} {chunk}"
        ));
        let (verdict, sent) = rig.inject(1, &reply);
        prop_assert!(matches!(verdict, Verdict::Transmit(_)), "{:?}", verdict);
        prop_assert_eq!(u16::from_be_bytes([sent[L4], sent[L4 + 1]]), 3868);
        let (right, carried) = sums(&sent);
        prop_assert_eq!(right, carried);
    });
}
