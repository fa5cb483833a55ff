//! Captured frames of keepalived 2.2.7 both ways, and the order of the checks.

mod support;

use std::net::IpAddr;

use proptest::prelude::*;
use support::hex;
use vrrp::addr::{Family, Mac};
use vrrp::packet::{
    Advert, Auth, ChecksumForm, Expected, Invalid, Outgoing, Peer, Received, Sender, Version,
    ethernet,
};
use vrrp::timers::AdvertInterval;

const V2_PASSWORD: &str = "01005e000012 72295c13a568 0800 45c0 0028 0001 0000 ff70 d044 0a4d0001 \
    e0000012 21 33 96 01 01 01 01cd 0a4d0064 7333637233743132";
const V3: &str = "01005e000012 72295c13a568 0800 45c0 0020 0001 0000 ff70 d04c 0a4d0001 e0000012 \
    31 33 96 01 000a 4333 0a4d0064";
const V2_UNICAST: &str = "aeca6d8514f4 72295c13a568 0800 45c0 0028 0001 0000 ff70 a608 0a4d0001 \
    0a4d0002 21 33 96 01 00 01 3e19 0a4d0064 0000000000000000";
const V3_IPV6: &str = "333300000012 72295c13a568 86dd 6c025cb0 0028 70 ff \
    fe8000000000000070295cfffe13a568 ff020000000000000000000000000012 31 3d 96 02 0064 cb8f \
    fe800000000000000000000000000100 fd770000000000000000000000000100";
const V2_AH: &str = "01005e000012 72295c13a568 0800 45c0 0040 0001 0000 ff33 d069 0a4d0001 \
    e0000012 70 04 0000 0a4d0001 00000001 f7afbc8d81433cf315c3adeb 21 3e 96 01 02 01 3c0d \
    0a4d0065 0000000000000000";
const V3_VIRTUAL_MAC: &str = "01005e000012 00005e00013f 0800 45c0 0020 0001 0000 ff70 d04c \
    0a4d0001 e0000012 31 3f 96 01 0064 42cb 0a4d0066";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn interval(version: Version, field: u16) -> AdvertInterval {
    AdvertInterval::from_wire(version, field).unwrap()
}

/// The captured frames and what they were made from.
fn captured() -> Vec<(&'static str, &'static str, Mac, Mac, Outgoing<'static>)> {
    let a = Mac([0x72, 0x29, 0x5c, 0x13, 0xa5, 0x68]);
    let groups = [Family::V4, Family::V6].map(|f| Mac::multicast(f.group()).unwrap());
    let v2 = Outgoing {
        version: Version::V2,
        vrid: 51,
        priority: 150,
        interval: interval(Version::V2, 1),
        auth: Auth::password("s3cr3t12"),
        form: ChecksumForm::Pseudo,
        addresses: vec![ip("10.77.0.100")].leak(),
        src: ip("10.77.0.1"),
        dst: Family::V4.group(),
        ttl: 255,
    };
    let v3 = Outgoing {
        version: Version::V3,
        interval: interval(Version::V3, 10),
        auth: Auth::None,
        ..v2
    };
    let unicast = Outgoing {
        auth: Auth::None,
        dst: ip("10.77.0.2"),
        ..v2
    };
    let v6 = Outgoing {
        vrid: 61,
        interval: interval(Version::V3, 100),
        addresses: vec![ip("fe80::100"), ip("fd77::100")].leak(),
        src: ip("fe80::7029:5cff:fe13:a568"),
        dst: Family::V6.group(),
        ..v3
    };
    let virtual_mac = Outgoing {
        vrid: 63,
        interval: interval(Version::V3, 100),
        addresses: vec![ip("10.77.0.102")].leak(),
        ..v3
    };
    vec![
        ("v2 password", V2_PASSWORD, groups[0], a, v2),
        ("v3", V3, groups[0], a, v3),
        (
            "v2 unicast",
            V2_UNICAST,
            Mac([0xae, 0xca, 0x6d, 0x85, 0x14, 0xf4]),
            a,
            unicast,
        ),
        ("v3 ipv6", V3_IPV6, groups[1], a, v6),
        (
            "v3 virtual mac",
            V3_VIRTUAL_MAC,
            groups[0],
            Mac::virtual_router(Family::V4, 63),
            virtual_mac,
        ),
    ]
}

fn expected<'a>(sent: &Outgoing<'_>, peers: &'a [Peer]) -> Expected<'a> {
    Expected {
        version: sent.version,
        auth: sent.auth,
        interval: sent.interval,
        sender: match sent.dst.is_multicast() {
            true => Sender::Multicast(sent.dst),
            false => Sender::Unicast {
                peers,
                check_source: true,
            },
        },
        owner_ignores: false,
    }
}

#[test]
fn captured_frames_are_understood() {
    for (name, frame, _, _, sent) in captured() {
        let frame = hex(frame);
        let received = Received::from_ip(&frame[14..]).unwrap();
        let peers = [Peer::new(sent.src)];
        let advert = expected(&sent, &peers).check(&received).expect(name);
        assert_eq!(Advert::decode(&received), Ok(advert), "{name}");
        assert_eq!(
            (
                advert.version,
                advert.vrid,
                advert.priority,
                advert.interval,
                advert.form
            ),
            (
                sent.version,
                sent.vrid,
                sent.priority,
                sent.interval,
                sent.form
            ),
            "{name}"
        );
        assert!(
            advert.addresses.iter().eq(sent.addresses.iter().copied()),
            "{name}"
        );
    }
}

#[test]
fn captured_frames_are_reproduced() {
    for (name, frame, dst, src, sent) in captured() {
        let mut frame = hex(frame);
        if sent.src.is_ipv6() {
            // The kernel that sent it chose a flow label.
            frame[15] &= 0xf0;
            frame[16..18].fill(0);
        }
        assert_eq!(ethernet(dst, src, &sent.packet(1)), frame, "{name}");
    }
}

#[test]
fn an_authentication_header_is_refused_by_name() {
    let frame = hex(V2_AH);
    let received = Received::from_ip(&frame[14..]).unwrap();
    assert_eq!(Advert::decode(&received), Err(Invalid::AuthHeader));
}

#[test]
fn both_checksums_of_version_3_are_accepted() {
    for (checksum, form) in [
        ([0x43, 0x33], Some(ChecksumForm::Pseudo)),
        ([0x2e, 0x10], Some(ChecksumForm::Plain)),
        ([0x43, 0x34], None),
    ] {
        let mut frame = hex(V3);
        frame[40..42].copy_from_slice(&checksum);
        let received = Received::from_ip(&frame[14..]).unwrap();
        assert_eq!(
            Advert::decode(&received).map(|advert| advert.form).ok(),
            form
        );
    }
    // Plain is what RFC 9568 wants sent.
    let (.., sent) = captured().remove(1);
    let plain = Outgoing {
        form: ChecksumForm::Plain,
        ..sent
    };
    assert_eq!(plain.message()[6..8], [0x2e, 0x10]);
}

#[test]
fn only_padding_of_a_short_frame_may_follow() {
    let frame = hex(V3);
    let with = |extra: usize| {
        let mut packet = frame[14..].to_vec();
        packet.resize(packet.len() + extra, 0);
        Received::from_ip(&packet).and_then(|r| Advert::decode(&r).map(|_| ()))
    };
    // 32 bytes: 14 fill the frame to 46; 10 and 6 if one or two VLAN tags were taken off.
    for (extra, result) in [
        (0, Ok(())),
        (14, Ok(())),
        (10, Ok(())),
        (6, Ok(())),
        (1, Err(Invalid::Length)),
        (4, Err(Invalid::Length)),
        (13, Err(Invalid::Length)),
        (18, Err(Invalid::Length)),
    ] {
        assert_eq!(with(extra), result, "{extra} bytes more");
    }
    // A message of 46 bytes and more has no padding.
    let mut long = hex(V3_IPV6)[14..].to_vec();
    long.extend([0; 2]);
    let received = Received::from_ip(&long).unwrap();
    assert_eq!(Advert::decode(&received), Err(Invalid::Length));
}

type Spoil = fn(&mut Spoilt);

/// Ways to spoil a multicast advert of version 2, in the order in which they are noticed.
const FAULTS: [(Invalid, Spoil); 11] = [
    (Invalid::AuthHeader, |s| s.authenticated = true),
    (Invalid::Length, |s| s.message.push(0)),
    (Invalid::Ttl, |s| s.ttl = 254),
    (Invalid::Version, |s| s.version = Version::V3),
    (Invalid::AuthType, |s| s.message[4] = 2),
    (Invalid::Password, |s| s.message[19] ^= 1),
    (Invalid::Interval, |s| s.message[5] = 2),
    (Invalid::Type, |s| s.message[0] = 0x22),
    (Invalid::IpLength, |s| s.declared += 1),
    (Invalid::Checksum, |s| s.message[6] ^= 0x80),
    (Invalid::Destination, |s| s.dst = ip("224.0.0.19")),
];

struct Spoilt {
    authenticated: bool,
    message: Vec<u8>,
    ttl: u8,
    version: Version,
    declared: usize,
    dst: IpAddr,
    owner_ignores: bool,
}

fn judge(faults: &[bool], owner_ignores: bool) -> Result<(), Invalid> {
    let (.., sent) = captured().remove(0);
    let message = sent.message();
    let mut spoilt = Spoilt {
        authenticated: false,
        declared: message.len(),
        message,
        ttl: 255,
        version: Version::V2,
        dst: sent.dst,
        owner_ignores,
    };
    for ((_, spoil), is_there) in FAULTS.iter().zip(faults) {
        if *is_there {
            spoil(&mut spoilt);
        }
    }
    let received = Received {
        src: sent.src,
        dst: spoilt.dst,
        ttl: spoilt.ttl,
        authenticated: spoilt.authenticated,
        header_size: 20,
        declared: spoilt.declared,
        message: &spoilt.message,
    };
    let expected = Expected {
        version: spoilt.version,
        owner_ignores: spoilt.owner_ignores,
        ..expected(&sent, &[])
    };
    expected.check(&received).map(|_| ())
}

proptest! {
    /// Whatever is wrong at once, the first check of the list names the reason. (What spoils the
    /// message also spoils its checksum, which comes late.)
    #[test]
    fn the_first_check_that_fails_names_the_reason(
        faults in proptest::array::uniform11(any::<bool>()),
        owner_ignores in any::<bool>(),
    ) {
        let first = FAULTS.iter().zip(faults).find(|(_, is_there)| *is_there);
        let reason = match first {
            Some(((reason, _), _)) => Err(*reason),
            None if owner_ignores => Err(Invalid::OwnerIgnores),
            None => Ok(()),
        };
        prop_assert_eq!(judge(&faults, owner_ignores), reason);
    }

    /// What was encoded is decoded to the same.
    #[test]
    fn adverts_survive_the_wire(
        v3 in any::<bool>(), is_v6 in any::<bool>(), vrid in any::<u8>(), priority in any::<u8>(),
        field in 1u16..4096, plain in any::<bool>(), password in any::<[u8; 8]>(),
        octets in proptest::collection::vec(any::<[u8; 16]>(), 0..255),
        src in any::<[u8; 16]>(), dst in any::<[u8; 16]>(), ttl in any::<u8>(), id in any::<u16>(),
    ) {
        let addr = |octets: [u8; 16]| -> IpAddr {
            match is_v6 {
                true => octets.into(),
                false => [octets[0], octets[1], octets[2], octets[3]].into(),
            }
        };
        let version = if v3 { Version::V3 } else { Version::V2 };
        let addresses: Vec<IpAddr> = octets.into_iter().map(addr).collect();
        let sent = Outgoing {
            version,
            vrid,
            priority,
            interval: interval(version, if v3 { field } else { 1 + field % 255 }),
            auth: if v3 || is_v6 { Auth::None } else { Auth::Password(password) },
            form: if plain && v3 && !is_v6 { ChecksumForm::Plain } else { ChecksumForm::Pseudo },
            addresses: &addresses,
            src: addr(src),
            dst: addr(dst),
            ttl,
        };
        let packet = sent.packet(id);
        let received = Received::from_ip(&packet).unwrap();
        prop_assert_eq!((received.src, received.dst, received.ttl), (sent.src, sent.dst, ttl));
        let advert = Advert::decode(&received).unwrap();
        prop_assert_eq!(
            (advert.version, advert.vrid, advert.priority, advert.interval),
            (version, vrid, priority, sent.interval)
        );
        // Both forms are valid at once if the pseudo-header sums up to nothing.
        prop_assert!(advert.form == sent.form || advert.form == ChecksumForm::Pseudo);
        prop_assert!(advert.addresses.iter().eq(addresses.iter().copied()));
    }

    /// Any bytes are judged without a panic.
    #[test]
    fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(received) = Received::from_ip(&bytes) {
            let _ = Advert::decode(&received);
        }
    }
}

#[test]
fn unicast_senders_are_peers_within_their_ttl() {
    let (.., sent) = captured().remove(2);
    let message = sent.message();
    let judge = |src: &str, ttl: u8, dst: &str, check_source: bool| {
        let peers = [Peer {
            addr: ip("10.77.0.1"),
            min_ttl: 250,
            max_ttl: 254,
        }];
        let received = Received {
            src: ip(src),
            dst: ip(dst),
            ttl,
            authenticated: false,
            header_size: 20,
            declared: message.len(),
            message: &message,
        };
        let mut expected = expected(&sent, &peers);
        expected.sender = Sender::Unicast {
            peers: &peers,
            check_source,
        };
        expected.check(&received).map(|_| ())
    };
    assert_eq!(judge("10.77.0.1", 250, "10.77.0.2", true), Ok(()));
    assert_eq!(judge("10.77.0.1", 254, "10.77.0.2", true), Ok(()));
    assert_eq!(
        judge("10.77.0.1", 249, "10.77.0.2", true),
        Err(Invalid::PeerTtl)
    );
    assert_eq!(
        judge("10.77.0.1", 255, "10.77.0.2", true),
        Err(Invalid::PeerTtl)
    );
    assert_eq!(
        judge("10.77.0.3", 255, "10.77.0.2", true),
        Err(Invalid::NotAPeer)
    );
    assert_eq!(judge("10.77.0.3", 1, "10.77.0.2", false), Ok(()));
    assert_eq!(
        judge("10.77.0.1", 250, "224.0.0.18", true),
        Err(Invalid::Destination)
    );
}

#[test]
fn a_zero_interval_is_refused() {
    let (.., sent) = captured().remove(1);
    let mut message = sent.message();
    message[5] = 0;
    let received = Received {
        src: sent.src,
        dst: sent.dst,
        ttl: 255,
        authenticated: false,
        header_size: 20,
        declared: message.len(),
        message: &message,
    };
    assert_eq!(Advert::decode(&received), Err(Invalid::Interval));
    assert_eq!(
        expected(&sent, &[]).check(&received),
        Err(Invalid::Interval)
    );
}
