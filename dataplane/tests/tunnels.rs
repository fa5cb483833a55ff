//! Tunnels of every kind, mixed families, both checksums: what a worker sends is taken apart
//! again, by a decoder of this file's own, and must be the client's packet one hop later.

use dataplane::packet::{Assist, PortId, Verdict};
use dataplane::wire::fragment::Fragments;
use proptest::prelude::*;

mod support;
use support::notation::{self, checksum};
use support::rig::Rig;

/// What a tunnel packet was, once taken apart.
struct Unwrapped {
    tos: u8,
    ttl: u8,
    /// DF, of an IPv4 outer packet.
    df: bool,
    /// Identification, of an IPv4 outer packet.
    id: u16,
    inner: Vec<u8>,
}

/// One's complement sum over a pseudo header and what follows it.
fn transport_sum(addresses: &[u8], protocol: u8, bytes: &[u8]) -> u16 {
    let len = (bytes.len() as u32).to_be_bytes();
    checksum(&[addresses, &len, &[0, 0, 0, protocol], bytes])
}

/// Takes an outer IP packet apart. `csum`: the tunnel's own header has a checksum.
fn unwrap(ip: &[u8], kind: &str, csum: bool) -> Unwrapped {
    let (tos, ttl, df, id, protocol, addresses, rest) = if ip[0] >> 4 == 4 {
        assert_eq!(checksum(&[&ip[..20]]), 0, "outer header checksum");
        assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip.len());
        let id = u16::from_be_bytes([ip[4], ip[5]]);
        (
            ip[1],
            ip[8],
            ip[6] & 0x40 != 0,
            id,
            ip[9],
            &ip[12..20],
            &ip[20..],
        )
    } else {
        assert_eq!(
            usize::from(u16::from_be_bytes([ip[4], ip[5]])) + 40,
            ip.len()
        );
        let tos = ip[0] << 4 | ip[1] >> 4;
        assert_eq!(ip[1] & 15 | ip[2] | ip[3], 0, "flow label");
        (tos, ip[7], false, 0, ip[6], &ip[8..40], &ip[40..])
    };
    let inner_of = |inner: &[u8], announced: u8| {
        let want = if inner[0] >> 4 == 4 { 4 } else { 41 };
        assert_eq!(announced, want);
        inner.to_vec()
    };
    let inner = match kind {
        "ipip" => inner_of(rest, protocol),
        "gre" => {
            assert_eq!(protocol, 47);
            assert_eq!(rest[0] & 0x80 != 0, csum);
            let len = if csum { 8 } else { 4 };
            if csum {
                assert_eq!(checksum(&[rest]), 0, "GRE checksum");
            }
            let announced = if rest[2..4] == [8, 0] { 4 } else { 41 };
            inner_of(&rest[len..], announced)
        }
        _ => {
            assert_eq!(protocol, 17);
            assert_eq!(rest[2..4], 6080u16.to_be_bytes());
            assert_eq!(
                usize::from(u16::from_be_bytes([rest[4], rest[5]])),
                rest.len()
            );
            assert_eq!(rest[6..8] != [0, 0], csum);
            if csum {
                assert_eq!(transport_sum(addresses, 17, rest), 0, "UDP checksum");
            }
            assert_eq!((rest[8], &rest[10..12]), (0, &[0u8, 0][..]));
            inner_of(&rest[12..], rest[9])
        }
    };
    Unwrapped {
        tos,
        ttl,
        df,
        id,
        inner,
    }
}

/// Puts the pieces of an outer packet together again.
fn reassemble(pieces: &[Vec<u8>]) -> Vec<u8> {
    let first = &pieces[0][14..];
    let v4 = first[0] >> 4 == 4;
    let mut whole = first[..if v4 { 20 } else { 40 }].to_vec();
    let mut at = 0;
    for (i, piece) in pieces.iter().enumerate() {
        let ip = &piece[14..];
        let (field, body) = if v4 {
            assert_eq!(checksum(&[&ip[..20]]), 0);
            assert_eq!(ip[4..6], first[4..6], "identification");
            let field = u16::from_be_bytes([ip[6], ip[7]]);
            (((field & 0x1fff) * 8) | (field >> 13), &ip[20..])
        } else {
            assert_eq!((ip[6], &ip[44..48]), (44, &first[44..48]));
            (u16::from_be_bytes([ip[42], ip[43]]), &ip[48..])
        };
        assert_eq!(usize::from(field & 0xfff8), at);
        assert_eq!(field & 1 == 1, i + 1 < pieces.len());
        at += body.len();
        whole.extend(body);
    }
    if v4 {
        let len = whole.len() as u16;
        whole[2..4].copy_from_slice(&len.to_be_bytes());
        whole[6..8].fill(0);
        whole[10..12].fill(0);
        let sum = checksum(&[&whole[..20]]);
        whole[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let len = (whole.len() - 40) as u16;
        whole[4..6].copy_from_slice(&len.to_be_bytes());
        whole[6] = first[40];
    }
    whole
}

const CHECKSUMS: [&str; 3] = ["--tun-nocsum", "--tun-csum", "--tun-remcsum"];

#[derive(Clone, Debug)]
struct Case {
    inner_v4: bool,
    outer_v4: bool,
    kind: &'static str,
    checksum: usize,
    df: bool,
    tos: u8,
    ttl: u8,
    len: usize,
    pmtu_disc: bool,
    /// NICs work out UDP checksums.
    udp_sums: bool,
}

prop_compose! {
    fn case()(
        inner_v4 in any::<bool>(), outer_v4 in any::<bool>(),
        kind in prop_oneof![Just("ipip"), Just("gre"), Just("gue")],
        checksum in 0usize..3, df in any::<bool>(), tos in any::<u8>(), ttl in 2u8..,
        len in prop_oneof![0usize..1400, 1370usize..1473], pmtu_disc in any::<bool>(),
        udp_sums in any::<bool>(),
    ) -> Case {
        Case { inner_v4, outer_v4, kind, checksum, df, tos, ttl, len, pmtu_disc, udp_sums }
    }
}

fn run(case: &Case) {
    let (vip, client) = if case.inner_v4 {
        ("192.168.40.200:53", "ip 172.16.1.7 > 192.168.40.200 id 9")
    } else {
        ("[fd40::200]:53", "ip6 2001:db8::7 > fd40::200")
    };
    let real = if case.outer_v4 {
        "192.168.50.5:53"
    } else {
        "[fd50::5]:53"
    };
    let csum = case.kind != "ipip" && case.checksum != 0;
    let options = match case.kind {
        "ipip" => "--tun-type ipip".to_owned(),
        // GRE knows two.
        "gre" => format!("--tun-type gre {}", CHECKSUMS[case.checksum.min(1)]),
        _ => format!(
            "--tun-type gue --tun-port 6080 {}",
            CHECKSUMS[case.checksum]
        ),
    };
    let mut rig = Rig::new();
    rig.assist(Assist {
        udp_sums: case.udp_sums,
        ..Assist::default()
    });
    rig.change_settings(|s| s.pmtu_disc = case.pmtu_disc);
    rig.ipvsadm(&format!("-A -u {vip} -s rr"));
    rig.ipvsadm(&format!("-a -u {vip} -r {real} -i {options}"));

    let (len, tos, ttl) = (
        if case.inner_v4 {
            case.len
        } else {
            case.len.min(1452)
        },
        case.tos,
        case.ttl,
    );
    let df = if case.df && case.inner_v4 { " df" } else { "" };
    let frame = notation::build(&format!(
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | {client} ttl {ttl} tos {tos}{df} | udp 4000 > 53 | bytes {len}"
    ));
    let (verdict, out) = rig.inject(0, &frame);

    let ip = if case.outer_v4 { 20 } else { 40 };
    let overhead = ip
        + match case.kind {
            "ipip" => 0,
            "gre" => {
                if csum {
                    8
                } else {
                    4
                }
            }
            _ => 12,
        };
    let mtu = 1500 - overhead;
    let inner_len = frame.len() - 14;
    let answered = inner_len > mtu && (!case.inner_v4 || case.df && case.pmtu_disc);
    if answered {
        assert_eq!(verdict, Verdict::Transmit(PortId(0)));
        // Next-hop MTU of ICMP 3/4, MTU of ICMPv6 2/0.
        let (at, head) = if case.inner_v4 {
            (34 + 6, [3, 4])
        } else {
            (54 + 6, [2, 0])
        };
        assert_eq!(out[at - 6..at - 4], head);
        assert_eq!(usize::from(u16::from_be_bytes([out[at], out[at + 1]])), mtu);
        return;
    }
    let outer = match verdict {
        Verdict::Transmit(PortId(1)) => {
            assert!(inner_len <= mtu);
            out[14..].to_vec()
        }
        Verdict::Fragment(PortId(1), 1500) => {
            assert!(inner_len > mtu);
            let mut fragments = Fragments::new(&out, 14, 1500).expect("a packet to cut");
            let mut pieces = Vec::new();
            while let Some(len) = fragments.next_len() {
                let mut piece = vec![0; len];
                fragments.write(&mut piece).unwrap();
                assert!(piece.len() <= 1514);
                pieces.push(piece);
            }
            assert_eq!(pieces.len(), 2);
            reassemble(&pieces)
        }
        other => panic!("{other:?}"),
    };
    let got = unwrap(&outer, case.kind, csum);
    // One hop later, otherwise as it was.
    let want = notation::build(&format!(
        "eth 02:..:01 > 02:..:02 | {client} ttl {} tos {tos}{df} | udp 4000 > 53 | bytes {len}",
        ttl - 1
    ));
    assert_eq!(got.inner, want[14..]);
    assert_eq!(got.ttl, ttl - 1);
    assert_eq!(got.tos, if tos & 3 == 3 { tos & !1 } else { tos });
    let outer_df = case.outer_v4 && case.inner_v4 && case.df && case.pmtu_disc;
    assert_eq!(got.df, outer_df);
    if case.outer_v4 {
        assert_eq!(got.id == 0, outer_df, "identification {}", got.id);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tunnel_delivers_the_packet_one_hop_later(case in case()) {
        run(&case);
    }
}
