//! A queue of its own for ARP and VRRP, on a TAP device of DPDK's own: its driver says that it takes
//! the rules, and makes filters of the kernel of them. Where the kernel has no such filters the port
//! is as it would be without.

#[allow(dead_code)] // nothing is received by it
#[path = "common/cable.rs"]
mod cable;
mod common;

use dpdk::mbuf::Burst;
use dpdk::port::{Port, PortConfig, RxQueue};

use cable::Cable;

/// A frame with this EtherType, and at this IPv4 protocol if it is one of IPv4; `mark` tells it
/// from others.
fn frame(ethertype: u16, protocol: u8, mark: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend([0x45, 0, 0, 28, 0, 1, 0, 0, 255, protocol, 0, 0]);
    frame.extend([192, 0, 2, 1, 192, 0, 2, 2]);
    frame.resize(59, 0);
    frame.push(mark);
    frame
}

/// Whether the frame with this mark came by a queue.
fn came_by(queue: &mut RxQueue, mark: u8) -> bool {
    let mut burst = Burst::new();
    queue.receive(&mut burst);
    burst
        .drain()
        .any(|mbuf| mbuf.frame().get(59) == Some(&mark))
}

#[test]
fn what_is_urgent_comes_by_its_own_queue_or_by_the_only_one() {
    let _namespace = common::Namespace::enter();
    let eal = common::start(&["net_tap0,iface=near"]);
    let pool = common::pool(&eal);
    let port = Port::open(&eal, "net_tap0").unwrap();
    let config = PortConfig {
        urgent: true,
        ..common::SMALL
    };
    let mut port = port.start(&config, &pool).unwrap();
    let (queues, urgent) = (port.setup().rx_queues, port.setup().urgent);
    assert_eq!(queues, 1);
    common::ip(&["link", "set", "near", "up"]);
    let mut own = urgent.map(|urgent| {
        assert_eq!(urgent.queue, 1);
        assert!(urgent.names().any(|name| name == "vrrp"));
        port.rx_queue(urgent.queue).unwrap()
    });
    assert!(own.is_some() || port.rx_queue(1).is_none());
    let mut first = port.rx_queue(0).unwrap();
    let cable = Cable::plug("near");
    for (ethertype, protocol, mark) in [(0x0806, 0, 1), (0x0800, 112, 2)] {
        cable.send(&frame(ethertype, protocol, mark));
        let queue = own.as_mut().unwrap_or(&mut first);
        common::until("what is urgent", || came_by(queue, mark));
    }
    // All else may come by any.
    cable.send(&frame(0x0800, 17, 3));
    common::until("the rest", || {
        came_by(&mut first, 3) || own.as_mut().is_some_and(|own| came_by(own, 3))
    });
    drop((first, own));
    drop((port.stop().unwrap(), pool));
    eal.cleanup().unwrap_or_else(|e| panic!("{e}"));
    common::remove_runtime_files();
}
