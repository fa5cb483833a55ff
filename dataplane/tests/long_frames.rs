//! Frames that go on in other buffers: the core sees the first one, with all headers, and what it
//! does has to fit the rest, too.

use dataplane::command::Command;
use dataplane::flow::{Flow, Parsed};
use dataplane::packet::{DropReason, Packet, PortId, Verdict};
use dataplane::route::{Link, LinkId};
use dataplane::wire::checksum;
use proptest::prelude::*;

mod support;
use support::notation::{build, print};
use support::rig::{PORT_MACS, Rig};

const ETH: &str = "eth 02:04:c0:a8:28:fe > 52:54:..:01";

/// Bytes in the first buffer.
const HEAD: usize = 256;

/// Takes the beginning of a frame through the walk: verdict, what the first buffer holds then, and
/// whether the rest follows it.
fn process(rig: &mut Rig, frame: &[u8]) -> (Verdict, Vec<u8>, bool) {
    let mut room = vec![0; 128 + HEAD];
    room[128..].copy_from_slice(&frame[..HEAD]);
    let mut packet = Packet::new(&mut room, 128, HEAD as u16, PortId(0));
    packet.wire_len = frame.len() as u32;
    let mut out = [Verdict::Drop(DropReason::NotOurMac)];
    rig.worker
        .process(rig.now, std::slice::from_mut(&mut packet), &mut out);
    (out[0], packet.frame().to_vec(), packet.wire_len != 0)
}

fn rig(service: &str, rest: &str) -> Rig {
    let mut rig = Rig::new();
    rig.ipvsadm(&format!("-A {service} -s rr"));
    rig.ipvsadm(&format!("-a {service} {rest}"));
    rig.set_mtu(0, 9000);
    rig.set_mtu(1, 9000);
    rig
}

/// The frame as one, and the frame whose rest follows the first buffer, come out alike.
fn as_one(service: &str, rest: &str, frame: &str) {
    let frame = build(&format!("{ETH} | {frame}"));
    let (verdict, whole) = rig(service, rest).inject(0, &frame);
    let (same, mut head, tail) = process(&mut rig(service, rest), &frame);
    assert!(matches!(verdict, Verdict::Transmit(_)), "{verdict:?}");
    assert_eq!((same, tail), (verdict, true));
    head.extend(&frame[HEAD..]);
    assert_eq!(print(&head), print(&whole));
    assert!(head == whole, "the payload is as it came");
}

#[test]
fn all_methods_take_them() {
    let tcp = "ip 172.16.1.7 > 192.168.40.200 df | tcp 40000 > 443 syn | bytes 8000";
    as_one("-t 192.168.40.200:443", "-r 192.168.50.5:8443 -m", tcp);
    as_one("-t 192.168.40.200:443", "-r 192.168.50.5 -g", tcp);
    as_one("-t 192.168.40.200:443", "-r 192.168.50.5 -i", tcp);
    let udp = "ip6 2001:db8::7 > fd40::200 | udp 40000 > 53 | bytes 8000";
    as_one("-u [fd40::200]:53", "-r [fd50::5]:5353 -m", udp);
    as_one("-u [fd40::200]:53", "-r [fd50::5]:53 -i", udp);
}

#[test]
fn an_answer_has_no_tail() {
    let mut rig = rig("-t 192.168.40.200:443", "-r 192.168.50.5:8443 -m");
    let frame = |ip: &str| {
        build(&format!(
            "{ETH} | ip 172.16.1.7 > 192.168.40.200 {ip} | tcp 40000 > 443 syn | bytes 8000"
        ))
    };
    let (verdict, answer, tail) = process(&mut rig, &frame("ttl 1"));
    assert_eq!((verdict, tail), (Verdict::Transmit(PortId(0)), false));
    // All of the first buffer that an error may quote.
    assert_eq!((answer[23], answer.len()), (1, 14 + 28 + HEAD - 14));
    assert!(checksum::is_valid(&answer[34..]), "{}", print(&answer));
    rig.set_mtu(1, 1500);
    let (verdict, _, tail) = process(&mut rig, &frame("df"));
    assert_eq!((verdict, tail), (Verdict::Transmit(PortId(0)), false));
    let (verdict, _, tail) = process(&mut rig, &frame(""));
    assert_eq!((verdict, tail), (Verdict::Fragment(PortId(1), 1500), true));
}

/// A route's own MTU may be more than its link takes, which may change while connections last.
#[test]
fn the_link_has_the_last_word() {
    let mut rig = rig("-t 192.168.40.200:443", "-r 192.168.50.5:8443 -m");
    let way = |side: u16, rest: &str| match side {
        0 => format!("{ETH} | ip 172.16.1.7 > 192.168.40.200 df | tcp 40000 > 443 {rest}"),
        _ => format!(
            "eth 02:04:c0:a8:32:05 > 52:54:..:02 | ip 192.168.50.5 > 172.16.1.7 df \
             | tcp 8443 > 40000 {rest}"
        ),
    };
    let goes = |rig: &mut Rig, side: u16, rest: &str| {
        let (verdict, _) = rig.inject(side, &build(&way(side, rest)));
        verdict == Verdict::Transmit(PortId(1 - side))
    };
    for (side, rest) in [(0, "syn"), (1, "syn ack"), (0, "ack")] {
        assert!(goes(&mut rig, side, rest));
    }
    let long = "ack | bytes 2000";
    for mtu in [9000, 1500, 9000] {
        for link in 0..2 {
            rig.apply(Command::PutLink(
                LinkId(link),
                Link {
                    port: PortId(link),
                    vlan: 0,
                    mac: PORT_MACS[usize::from(link)],
                    mtu,
                    up: true,
                },
            ));
        }
        // The second of each finds its way worked out.
        for side in [0, 1, 0, 1] {
            assert!(goes(&mut rig, side, "ack"));
            assert_eq!(goes(&mut rig, side, long), mtu == 9000, "{side} {mtu}");
        }
    }
}

/// A sum over the payload cannot be made: UDP goes without one, other packets do not go.
#[test]
fn what_needs_the_payload() {
    let udp = build(&format!(
        "{ETH} | ip 172.16.1.7 > 192.168.40.200 | udp 40000 > 53 csum none | bytes 8000"
    ));
    let mut nat = rig("-u 192.168.40.200:53", "-r 192.168.50.5:5353 -m");
    let (verdict, head, _) = process(&mut nat, &udp);
    assert_eq!(verdict, Verdict::Transmit(PortId(1)));
    assert_eq!(head[40..42], [0, 0], "no checksum");
    let gre = "-r 192.168.50.5 -i --tun-type gre --tun-csum";
    let mut tunnel = rig("-u 192.168.40.200:53", gre);
    let (verdict, ..) = process(&mut tunnel, &udp);
    assert_eq!(verdict, Verdict::Drop(DropReason::NoHeadroom));
}

proptest! {
    /// Parsing the beginning tells the same as parsing all of it; less on the wire than the
    /// packet says is a cut frame.
    #[test]
    fn the_beginning_says_it_all(
        len in 200usize..3000,
        head in 192usize..3000,
        six: bool,
        tagged: bool,
        missing in 1u32..100,
    ) {
        let ip = if six { "ip6 2001:db8::7 > fd40::200" } else { "ip 172.16.1.7 > 192.168.40.200" };
        let tag = if tagged { "vlan 7 | " } else { "" };
        let frame = build(&format!("{ETH} | {tag}{ip} | tcp 40000 > 443 ack | bytes {len}"));
        let head = head.min(frame.len());
        let wire = frame.len() as u32;
        prop_assert_eq!(
            Flow::parse(&frame[..head], 0, wire),
            Flow::parse(&frame, 0, wire)
        );
        prop_assert_eq!(
            Flow::parse(&frame[..head.min(191)], 0, wire),
            Parsed::Bad(DropReason::Truncated)
        );
        if head as u32 <= wire - missing {
            prop_assert_eq!(
                Flow::parse(&frame[..head], 0, wire - missing),
                Parsed::Bad(DropReason::Truncated)
            );
        }
    }
}
