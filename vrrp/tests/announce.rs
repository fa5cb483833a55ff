//! Announcements as keepalived 2.2.7 sends them, and what is heard of others'.

mod support;

use std::net::IpAddr;

use proptest::prelude::*;
use support::hex;
use vrrp::addr::Mac;
use vrrp::announce::{Claim, frame};

const ARP: &str = "ffffffffffff 72295c13a568 0806 0001 0800 06 04 0001 72295c13a568 0a4d0064 \
    ffffffffffff 0a4d0064";
const ADVERTISEMENT: &str = "333300000001 72295c13a568 86dd 60000000 0020 3a ff \
    fe800000000000000000000000000100 ff020000000000000000000000000001 88 00 e3f8 20000000 \
    fe800000000000000000000000000100 02 01 72295c13a568";
const MAC: Mac = Mac([0x72, 0x29, 0x5c, 0x13, 0xa5, 0x68]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn captured_announcements_are_reproduced() {
    assert_eq!(frame(MAC, ip("10.77.0.100"), false), hex(ARP));
    assert_eq!(frame(MAC, ip("fe80::100"), false), hex(ADVERTISEMENT));
    let router = frame(MAC, ip("fe80::100"), true);
    assert_eq!(router[58], 0xa0, "router and override");
}

#[test]
fn announcements_are_understood() {
    let heard = |frame: &str| Claim::from_frame(&hex(frame));
    assert_eq!(
        heard(ARP),
        Some(Claim {
            addr: ip("10.77.0.100"),
            mac: MAC
        })
    );
    assert_eq!(
        heard(ADVERTISEMENT),
        Some(Claim {
            addr: ip("fe80::100"),
            mac: MAC
        })
    );
}

#[test]
fn what_claims_nothing_is_ignored() {
    let spoilt = |frame: &str, at: usize, value: u8| {
        let mut frame = hex(frame);
        frame[at] = value;
        Claim::from_frame(&frame)
    };
    assert_eq!(spoilt(ARP, 13, 0), None, "IPv4");
    assert_eq!(spoilt(ARP, 21, 3), None, "a reverse request");
    assert_eq!(spoilt(ARP, 18, 8), None, "other address sizes");
    assert_eq!(spoilt(ADVERTISEMENT, 21, 254), None, "forwarded");
    assert_eq!(spoilt(ADVERTISEMENT, 54, 135), None, "a solicitation");
    assert_eq!(spoilt(ADVERTISEMENT, 60, 1), None, "a wrong checksum");
    let mut probe = hex(ARP);
    probe[28..32].fill(0);
    assert_eq!(
        Claim::from_frame(&probe),
        None,
        "an address probe (RFC 5227)"
    );
}

proptest! {
    #[test]
    fn any_frame_is_read(
        kind in prop_oneof![Just(ARP), Just(ADVERTISEMENT)],
        edits in proptest::collection::vec((0usize..90, any::<u8>()), 0..8),
        len in 0usize..100,
    ) {
        let mut frame = hex(kind);
        for (at, value) in edits {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(len);
        let _ = Claim::from_frame(&frame);
    }
}
