//! An AF_XDP port on a veth pair. Needs a kernel with XDP sockets and the net_af_xdp driver.

mod common;

use dataplane::packet::PortId;
use dpdk::eal::{Eal, EalError};
use dpdk::mbuf::Burst;

#[test]
fn frames_arrive_by_xdp() {
    let _namespace = common::Namespace::enter();
    common::ip(&["link", "add", "far", "type", "veth", "peer", "name", "near"]);
    common::ip(&["link", "set", "near", "up"]);
    common::ip(&["link", "set", "far", "up"]);
    let config = common::config(&["net_af_xdp0,iface=near,force_copy=1"]);
    let eal = match Eal::init(&config) {
        Ok(eal) => eal,
        Err(EalError::Vdev(_)) => {
            eprintln!("skipped: no net_af_xdp driver, or a kernel without XDP sockets");
            return;
        }
        Err(e) => panic!("{e}"),
    };
    let pool = common::pool(&eal);
    let mut port = common::run(&eal, "net_af_xdp0", &pool);
    assert_eq!(port.info().unwrap().max_rx_queues, 1);
    let (mut rx, _tx) = common::queues(&mut port);
    // The kernel's own first words on a new link (neighbour discovery, MLD) will do.
    common::ip(&["address", "add", "192.0.2.1/24", "dev", "far"]);
    let socket = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
    socket.send_to(b"x", "192.0.2.2:9").unwrap();
    let mut burst = Burst::new();
    common::until("an ARP request", || {
        rx.receive(&mut burst);
        let found = burst.with_packets(PortId(0), |packets| {
            packets
                .iter()
                .any(|p| p.frame().get(12..14) == Some(&[0x08, 0x06]))
        });
        burst.free();
        found
    });
    common::remove_runtime_files();
}
