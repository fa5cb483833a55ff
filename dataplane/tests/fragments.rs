//! Packets in pieces: whatever the pieces and their order, a real server or a client puts the
//! same packet together as if it had come whole.

use dataplane::packet::Verdict;
use dataplane::wire::fragment::Fragments;
use proptest::prelude::*;

mod support;
use support::notation;
use support::rig::Rig;

/// Where a packet of a case is in its way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Request,
    Reply,
}

#[derive(Clone, Debug)]
struct Case {
    v4: bool,
    method: &'static str,
    way: Way,
    len: usize,
    mtu: u16,
    /// Which of the pieces that are left goes next.
    order: Vec<prop::sample::Index>,
}

prop_compose! {
    fn case()(
        v4 in any::<bool>(),
        (method, way) in prop_oneof![
            Just(("-m", Way::Request)), Just(("-m", Way::Reply)),
            Just(("-g", Way::Request)), Just(("-i", Way::Request)),
        ],
        len in 200usize..1400, mtu in 100u16..700,
        order in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) -> Case {
        Case { v4, method, way, len, mtu, order }
    }
}

/// One packet, whole: IPv6 with the fragment header that its pieces have.
fn whole(case: &Case) -> (u16, Vec<u8>) {
    let (client, vip, real) = match case.v4 {
        true => ("172.16.1.7", "192.168.40.200", "192.168.50.6"),
        false => ("2001:db8::7", "fd40::200", "fd50::6"),
    };
    let (port, head, src, dst, ports) = match case.way {
        Way::Request => (
            0,
            "eth 02:04:c0:a8:28:fe > 52:54:..:01",
            client,
            vip,
            "4000 > 53",
        ),
        Way::Reply => (
            1,
            "eth 02:04:c0:a8:32:06 > 52:54:..:02",
            real,
            client,
            "5353 > 4000",
        ),
    };
    let ip = match case.v4 {
        true => format!("ip {src} > {dst} id 77"),
        false => format!("ip6 {src} > {dst} | fragment id 77"),
    };
    (
        port,
        notation::build(&format!("{head} | {ip} | udp {ports} | bytes {}", case.len)),
    )
}

fn rig(case: &Case) -> Rig {
    let mut rig = Rig::new();
    let (vip, real) = match case.v4 {
        true => ("192.168.40.200", "192.168.50.6"),
        false => ("[fd40::200]", "[fd50::6]"),
    };
    let port = if case.method == "-m" { 5353 } else { 53 };
    rig.ipvsadm(&format!("-A -u {vip}:53 -s rr"));
    rig.ipvsadm(&format!("-a -u {vip}:53 -r {real}:{port} {}", case.method));
    if case.way == Way::Reply {
        let request = Case {
            way: Way::Request,
            len: 1,
            ..case.clone()
        };
        let (port, frame) = whole(&request);
        assert!(matches!(rig.inject(port, &frame).0, Verdict::Transmit(_)));
    }
    rig
}

/// The IP packet that left, out of its tunnel if it was in one.
fn sent(case: &Case, verdict: Verdict, frame: &[u8]) -> Vec<u8> {
    assert!(matches!(verdict, Verdict::Transmit(_)), "{verdict:?}");
    let outer = match (case.method, case.v4) {
        ("-i", true) => 20,
        ("-i", false) => 40,
        _ => 0,
    };
    frame[14 + outer..].to_vec()
}

/// Offset in the payload, and header and payload with all that a cut changes blanked.
fn open(case: &Case, ip: &[u8]) -> (usize, Vec<u8>, Vec<u8>) {
    let mut head = ip[..if case.v4 { 20 } else { 48 }].to_vec();
    let body = ip[head.len()..].to_vec();
    let offset = if case.v4 {
        assert_eq!(notation::checksum(&[&head]), 0, "header checksum");
        let field = u16::from_be_bytes([head[6], head[7]]);
        for at in [2, 3, 6, 7, 10, 11] {
            head[at] = 0;
        }
        (field & 0x1fff) * 8
    } else {
        let field = u16::from_be_bytes([head[42], head[43]]);
        for at in [4, 5, 42, 43] {
            head[at] = 0;
        }
        field & 0xfff8
    };
    (offset.into(), head, body)
}

fn run(case: &Case) {
    let (port, frame) = whole(case);
    let mut once = rig(case);
    let (verdict, out) = once.inject(port, &frame);
    let (_, want_head, want) = open(case, &sent(case, verdict, &out));

    let mut pieces = Vec::new();
    let mut cut = Fragments::new(&frame, 14, case.mtu).expect("a packet to cut");
    while let Some(len) = cut.next_len() {
        let mut piece = vec![0; len];
        cut.write(&mut piece).unwrap();
        pieces.push(piece);
    }
    let mut rig = rig(case);
    let mut got = vec![None; want.len()];
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut order = case.order.iter();
    let mut first_has_come = false;
    while !pieces.is_empty() {
        let next = pieces.remove(order.next().unwrap().index(pieces.len()));
        let field = if case.v4 {
            [next[20] & 0x1f, next[21]]
        } else {
            [next[56], next[57] & 0xf8]
        };
        first_has_come |= field == [0, 0];
        // As the poll loop: what waits is tried again after it.
        held.insert(0, next);
        held.retain(|piece| {
            let (verdict, out) = rig.inject(port, piece);
            assert_eq!(verdict == Verdict::Hold, !first_has_come);
            if verdict == Verdict::Hold {
                assert_eq!(&out, piece, "nothing has changed yet");
                return true;
            }
            let (offset, head, body) = open(case, &sent(case, verdict, &out));
            assert_eq!(head, want_head);
            for (at, byte) in (offset..).zip(body) {
                assert_eq!(got[at].replace(byte), None, "twice");
            }
            false
        });
        if first_has_come && !held.is_empty() {
            panic!("{} pieces wait though their first has come", held.len());
        }
    }
    let got: Vec<u8> = got
        .into_iter()
        .map(|byte| byte.expect("all of it"))
        .collect();
    assert_eq!(notation::to_hex(&got), notation::to_hex(&want));
    // Counted as one packet with all its bytes.
    let counts = |rig: &Rig| {
        let c = &rig.counters.dests[0];
        (c.in_pkts.get(), c.out_pkts.get())
    };
    assert_eq!(counts(&rig), counts(&once));
    if case.v4 {
        let bytes = |rig: &Rig| {
            let c = &rig.counters.dests[0];
            c.in_bytes.get() + c.out_bytes.get()
        };
        assert_eq!(bytes(&rig), bytes(&once));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_make_up_what_the_whole_would_have_been(case in case()) {
        run(&case);
    }
}
