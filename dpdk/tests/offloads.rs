//! What a port does with frames when it is told to, on a TAP device of DPDK's own: its driver looks
//! at checksums, and works them out, as a NIC would.

#[path = "common/cable.rs"]
mod cable;
mod common;

use dataplane::addr::Addr;
use dataplane::packet::{Checked, PortId};
use dataplane::wire::{checksum, ipv4};
use dpdk::mbuf::Burst;
use dpdk::port::{Offloads, Port, PortConfig};

use cable::Cable;

const ENDS: (Addr, Addr) = (Addr::v4([192, 0, 2, 1]), Addr::v4([192, 0, 2, 2]));

/// A UDP datagram of 9 bytes from this port, right in all its checksums.
fn frame(src_port: u16) -> Vec<u8> {
    let mut udp = Vec::new();
    for word in [src_port, 5000, 17, 0] {
        udp.extend(word.to_be_bytes());
    }
    udp.extend(*b"offloaded");
    assert!(checksum::fill_transport(&ENDS.0, &ENDS.1, 17, &mut udp));
    let header = ipv4::Header {
        tos: 0,
        total_len: 20 + udp.len() as u16,
        id: 1,
        dont_fragment: true,
        ttl: 64,
        protocol: 17,
        src: ENDS.0.octets_v4(),
        dst: ENDS.1.octets_v4(),
    };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend(header.emit());
    frame.extend(udp);
    frame.resize(60, 0);
    frame
}

#[test]
fn checksums_are_looked_at_and_worked_out() {
    let _namespace = common::Namespace::enter();
    let eal = common::start(&["net_tap0,iface=near"]);
    let pool = common::pool(&eal);
    let port = Port::open(&eal, "net_tap0").unwrap();
    let offers = port.info().unwrap().offers;
    let wanted = Offloads::RX_IPV4_SUM
        .with(Offloads::RX_TRANSPORT_SUMS)
        .with(Offloads::TX_UDP_SUM);
    assert!(
        offers.has(wanted),
        "{:?}",
        offers.names().collect::<Vec<_>>()
    );
    assert!(!offers.has(Offloads::TAGS));
    let config = PortConfig {
        offloads: wanted.with(Offloads::TAGS),
        ..common::SMALL
    };
    let mut port = port.start(&config, &pool).unwrap();
    assert_eq!(port.setup().offloads, wanted, "no more than it offers");
    common::ip(&["link", "set", "near", "up"]);
    let (mut rx, mut tx) = common::queues(&mut port);
    let cable = Cable::plug("near");

    let mut wrong_header = frame(2);
    wrong_header[24] ^= 0x55;
    let mut wrong_payload = frame(3);
    wrong_payload[44] ^= 0x55;
    let checked = |ipv4, transport| Checked {
        ipv4,
        transport,
        partial: false,
    };
    for (frame, want) in [
        (frame(1), checked(true, true)),
        (wrong_header, checked(false, true)),
        (wrong_payload, checked(true, false)),
    ] {
        cable.send(&frame);
        let mut burst = Burst::new();
        let mut found = Checked::default();
        common::until("the frame", || {
            rx.receive(&mut burst);
            let is_here = burst.with_assisted_packets(PortId(0), true, |packets| {
                let ours = packets.iter().find(|packet| packet.frame() == frame);
                found = ours.map_or(found, |packet| packet.checked);
                ours.is_some()
            });
            burst.free();
            is_here
        });
        assert_eq!(found, want);
    }

    // The sum of the pseudo header in the field, and the rest left to the port.
    let want = frame(7);
    let mut owed = want.clone();
    let pseudo = checksum::fold(checksum::pseudo_header(&ENDS.0, &ENDS.1, 17, 17));
    owed[40..42].copy_from_slice(&pseudo.to_ne_bytes());
    let mut burst = Burst::new();
    assert!(pool.alloc_burst(&mut burst, 1));
    let mut mbuf = burst.pop().unwrap();
    assert!(mbuf.write(&owed));
    drop(burst.push(mbuf));
    burst.with_assisted_packets(PortId(0), true, |packets| packets[0].owed_udp = 20);
    common::until("room for the frame", || tx.send(&mut burst) == 1);
    let is_it = |f: &[u8]| f.get(34..36) == Some(&7u16.to_be_bytes());
    assert_eq!(cable.receive(is_it), want);

    drop((rx, tx));
    drop((port.stop().unwrap(), pool));
    eal.cleanup().unwrap_or_else(|e| panic!("{e}"));
    common::remove_runtime_files();
}
