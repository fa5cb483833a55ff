//! A bond over two null devices: who sends, and that it is noticed when that changes. (Rings will
//! not do, as they take no address.)

mod common;

use std::time::Instant;

use dpdk::mbuf::Burst;
use dpdk::members::Members;

#[test]
fn one_member_sends() {
    let eal = common::start(&[
        "net_null0,no-rx=1",
        "net_null1,no-rx=1",
        "net_bonding0,mode=1,slave=net_null0,slave=net_null1,primary=net_null0",
    ]);
    let pool = common::pool(&eal);
    let mut port = common::run(&eal, "net_bonding0", &pool);
    assert_eq!(port.info().unwrap().driver, "net_bonding");
    common::until("the link", || port.link().unwrap().up);
    let first = port.active_member().expect("it is a bond");

    // The second look is the first that can see a change.
    let mut members = Members::bond(Vec::new(), None, true);
    assert!(members.has_carrier());
    assert!(!members.look(&mut port, Instant::now()));
    assert!(!members.look(&mut port, Instant::now()));
    common::until("another member to send", || {
        port.prefer_member("net_null1").unwrap();
        port.active_member() != Some(first)
    });
    assert!(members.look(&mut port, Instant::now()), "it is noticed");
    assert!(!members.look(&mut port, Instant::now()), "once");
    assert!(port.prefer_member("net_null7").is_err(), "no such member");

    let (mut rx, mut tx) = common::queues(&mut port);
    let mut burst = Burst::new();
    for number in 1..=8 {
        let mut mbuf = pool.alloc().expect("the pool has enough");
        assert!(mbuf.write(&common::frame(number, 100)));
        burst.push(mbuf).unwrap();
    }
    assert_eq!(tx.send(&mut burst), 8);
    assert_eq!(rx.receive(&mut burst), 0);
    assert_eq!(port.stats().unwrap().tx_packets, 8);
    drop((rx, tx));
    drop(port.stop().unwrap_or_else(|e| panic!("{e}")));
    drop(pool);
    eal.cleanup().unwrap_or_else(|e| panic!("{e}"));
    common::remove_runtime_files();
}
