//! A port on a veth pair in a namespace of its own: frames in and out, link, MAC filters, MTU.

#[path = "common/cable.rs"]
mod cable;
mod common;

use dataplane::addr::{Family, Mac};
use dataplane::packet::PortId;
use dpdk::mbuf::Burst;
use dpdk::port::{MacFilter, PortError};

use cable::Cable;

#[test]
fn frames_cross_a_veth_pair() {
    let _namespace = common::Namespace::enter();
    common::ip(&["link", "add", "far", "type", "veth", "peer", "name", "near"]);
    common::ip(&["link", "set", "near", "up"]);
    let mac = Mac([2, 0, 0, 0, 0, 0xaa]);
    common::ip(&["link", "set", "near", "address", &mac.to_string()]);

    let eal = common::start(&["net_af_packet0,iface=near,qpairs=2,qdisc_bypass=1"]);
    let pool = common::pool(&eal);
    // The far end is down: the port starts all the same.
    let mut port = common::run(&eal, "net_af_packet0", &pool);
    let info = port.info().unwrap();
    assert_eq!((info.driver.as_str(), info.mac), ("net_af_packet", mac));
    assert_eq!((info.max_rx_queues, info.max_tx_queues), (2, 2));
    common::ip(&["link", "set", "far", "up"]);
    common::until("the link", || port.link().unwrap().up);

    // The driver has neither filter; both requests are met by promiscuous mode.
    let vrrp = Mac::vrrp(Family::V4, 7);
    assert_eq!(port.accept_mac(vrrp).unwrap(), MacFilter::Promiscuous);
    let group = Mac([1, 0, 0x5e, 0, 0, 0x12]);
    assert_eq!(
        port.set_multicast(&[group]).unwrap(),
        MacFilter::Promiscuous
    );
    port.set_promiscuous(true).unwrap();
    assert!(matches!(
        port.set_mtu(9000),
        Err(PortError::Mtu {
            mtu: 9000,
            max: 1500,
            ..
        })
    ));
    port.set_mtu(1400).unwrap();
    assert_eq!((port.setup().mtu, port.info().unwrap().mtu), (1400, 1400));

    let cable = Cable::plug("far");
    let (mut rx, mut tx) = common::queues(&mut port);
    let (mut burst, mut ours) = (Burst::new(), Burst::new());
    for number in 1..=20 {
        cable.send(&common::frame(number, 60 + usize::from(number)));
    }
    common::until("20 frames from the cable", || {
        rx.receive(&mut burst);
        for mbuf in burst.drain() {
            // The kernel sends its own (neighbour discovery, MLD).
            if mbuf.frame().get(12..14) == Some(&[0x88, 0xb5]) {
                ours.push(mbuf).unwrap();
            }
        }
        ours.len() == 20
    });
    ours.with_packets(PortId(3), |packets| {
        for (packet, number) in packets.iter_mut().zip(1..) {
            assert_eq!(
                packet.frame(),
                common::frame(number, 60 + usize::from(number))
            );
            // Send it back where the cable can tell it from its own.
            packet.frame_mut()[0] = 0;
            assert!(packet.set_len(60));
        }
    });
    common::until("room for 20 frames", || {
        tx.send(&mut ours);
        ours.is_empty()
    });
    for number in 1..=20 {
        // Not the ones we sent, nor what the kernel says by itself.
        let frame = cable.receive(|f| f.get(12..14) == Some(&[0x88, 0xb5]) && f[0] == 0);
        assert_eq!((frame.len(), frame[20]), (60, number));
    }

    // A tag that the kernel has taken out is in the frame again.
    let mut tagged = common::frame(9, 60);
    tagged.splice(12..12, [0x81, 0x00, 0x60, 0x64]);
    cable.send(&tagged);
    common::until("the tagged frame", || {
        rx.receive(&mut burst);
        let found = burst.with_packets(PortId(3), |packets| {
            packets
                .iter()
                .any(|p| p.frame() == tagged && p.vlan_tci == 0)
        });
        burst.free();
        found
    });

    assert!(port.stats().unwrap().rx_packets >= 21);
    drop((rx, tx));
    let port = port.stop().unwrap();
    assert_eq!(pool.in_use(), 0);
    drop((port, pool));
    eal.cleanup().unwrap_or_else(|e| panic!("{e}"));
    common::remove_runtime_files();
}
