//! What tells the packets of a connection from those of others with the same tag.

use zerocopy::FromZeros;

use super::*;
use crate::service::{DestId, ForwardingMethod};

fn live(client: &str, virtual_: &str, dest: &str) -> Entry {
    let end = |s: &str| {
        let at: std::net::SocketAddr = s.parse().expect("an endpoint");
        Endpoint::new(at.ip().into(), at.port())
    };
    let mut entry = Entry::new_zeroed();
    entry.fill(&NewConnection {
        protocol: Protocol::Tcp,
        client: end(client),
        virtual_: end(virtual_),
        dest: end(dest),
        dest_id: DestId(1),
        method: ForwardingMethod::Masquerade,
        flags: 0,
    });
    entry.publish();
    entry
}

fn ports(from: u16, to: u16) -> u32 {
    u32::from(from) | u32::from(to) << 16
}

/// Each part of a tuple counts, on both sides, in the short questions and in the others.
#[test]
fn tuples_v4() {
    let entry = live(
        "172.16.1.7:40000",
        "192.168.40.200:443",
        "192.168.50.5:8443",
    );
    let [client, virtual_, dest, other] = [
        [172, 16, 1, 7],
        [192, 168, 40, 200],
        [192, 168, 50, 5],
        [10, 9, 8, 7],
    ]
    .map(u32::from_ne_bytes);
    let (request, reply) = (ports(40000, 443), ports(8443, 40000));
    let is = |reply: bool, (client, other, ports): (u32, u32, u32)| {
        let both = match reply {
            false => [
                entry.has_request_tuple_v4(client, other, ports),
                entry.is_request_of_v4(6, client, other, ports),
            ],
            true => [
                entry.has_reply_tuple_v4(client, other, ports),
                entry.is_reply_of_v4(6, client, other, ports),
            ],
        };
        assert_eq!(both[0], both[1]);
        both[0]
    };
    assert!(is(false, (client, virtual_, request)) && is(true, (client, dest, reply)));
    for wrong in [
        (other, virtual_, request),
        (client, other, request),
        (client, dest, request),
        (virtual_, client, request),
        (client, virtual_, ports(40001, 443)),
        (client, virtual_, ports(40000, 80)),
        (client, virtual_, ports(443, 40000)),
    ] {
        assert!(!is(false, wrong), "{wrong:x?}");
    }
    for wrong in [
        (other, dest, reply),
        (client, other, reply),
        (client, virtual_, reply),
        (dest, client, reply),
        (client, dest, ports(8443, 40001)),
        (client, dest, ports(80, 40000)),
        (client, dest, ports(40000, 8443)),
    ] {
        assert!(!is(true, wrong), "{wrong:x?}");
    }
    entry.retire();
    assert!(!is(false, (client, virtual_, request)) && !is(true, (client, dest, reply)));
}

#[test]
fn tuples_v6() {
    let entry = live("[2001:db8::7]:40000", "[fd40::200]:443", "[fd50::5]:8443");
    let of = |s: &str| {
        s.parse::<std::net::Ipv6Addr>()
            .expect("an address")
            .octets()
    };
    let pair = |src: &str, dst: &str| -> [u8; 32] {
        let both = [of(src), of(dst)].concat();
        both.try_into().expect("two addresses")
    };
    let (client, virtual_, dest) = ("2001:db8::7", "fd40::200", "fd50::5");
    let (request, reply) = (ports(40000, 443), ports(8443, 40000));
    assert!(entry.has_request_tuple_v6(&pair(client, virtual_), request));
    assert!(entry.has_reply_tuple_v6(&pair(dest, client), reply));
    for (src, dst) in [(client, dest), ("::7", virtual_), (virtual_, client)] {
        assert!(!entry.has_request_tuple_v6(&pair(src, dst), request));
    }
    for (src, dst) in [(virtual_, client), (dest, "::7"), (client, dest)] {
        assert!(!entry.has_reply_tuple_v6(&pair(src, dst), reply));
    }
    for wrong in [
        ports(40000, 80),
        ports(1, 443),
        ports(443, 40000),
        ports(80, 40000),
    ] {
        assert!(!entry.has_request_tuple_v6(&pair(client, virtual_), wrong));
        assert!(!entry.has_reply_tuple_v6(&pair(dest, client), wrong));
    }
    entry.retire();
    assert!(!entry.has_request_tuple_v6(&pair(client, virtual_), request));
    assert!(!entry.has_reply_tuple_v6(&pair(dest, client), reply));
}
