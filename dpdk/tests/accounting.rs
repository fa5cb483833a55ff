//! No mbuf is lost, whatever happens to it: forwarded, dropped, left over by a full queue, parked in
//! a ring that goes away, or held by a worker that ends.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::packet::PortId;
use dpdk::eal::{self, EalError};
use dpdk::mbuf::{BURST, Burst, HEADROOM};
use dpdk::mempool::{Mempool, MempoolError};
use dpdk::port::{self, Link, MacFilter, Port, PortConfig, PortError};
use dpdk::ring;

#[test]
fn every_mbuf_comes_back() {
    let eal = common::start(&["net_null0,size=64", "net_null1,no-rx=1", "net_ring0"]);
    let pool = common::pool(&eal);
    assert_eq!((pool.available(), pool.in_use()), (4095, 0));

    once_per_process(&eal);
    bursts_and_mbufs(&pool);
    frames_are_lent_and_written_back(&pool);
    rings(&eal, &pool);
    refusals(&eal, &pool);
    forward(&eal, &pool);
    full_queue(&eal, &pool);
    worker(&eal, &pool);
    hotplug(&eal, &pool);

    let error = eal.cleanup().unwrap_err();
    assert!(
        matches!(
            error,
            EalError::InUse {
                objects: 1,
                workers: 0
            }
        ),
        "{error}"
    );
    drop(pool);
    common::remove_runtime_files();
}

fn once_per_process(_eal: &dpdk::eal::Eal) {
    let error = eal::Eal::init(&common::config(&[])).unwrap_err();
    assert!(matches!(error, EalError::AlreadyStarted), "{error}");
}

fn bursts_and_mbufs(pool: &Mempool) {
    let mut burst = Burst::new();
    assert!(pool.alloc_burst(&mut burst, BURST));
    assert!(
        !pool.alloc_burst(&mut burst, 1),
        "a full burst takes no more"
    );
    assert_eq!(pool.in_use(), 32);
    let extra = pool.alloc().unwrap();
    let extra = burst.push(extra).unwrap_err();
    assert_eq!(pool.in_use(), 33);
    drop(extra);
    assert_eq!(pool.in_use(), 32);

    // Half of the drained ones are dropped one by one, five kept, the rest freed by the iterator.
    let mut kept = Burst::new();
    let mut drain = burst.drain();
    for i in 0..16 {
        let mbuf = drain.next().unwrap();
        if i % 3 == 0 && kept.len() < 5 {
            kept.push(mbuf).unwrap();
        }
    }
    assert_eq!(drain.len(), 16);
    drop(drain);
    assert!(burst.is_empty());
    assert_eq!(pool.in_use(), 5);
    drop(kept.pop());
    assert_eq!(pool.in_use(), 4);
    kept.free();
    assert_eq!((kept.len(), pool.in_use()), (0, 0));

    // All or nothing.
    let mut bursts: Vec<Burst> = (0..127).map(|_| Burst::new()).collect();
    assert!(bursts.iter_mut().all(|b| pool.alloc_burst(b, BURST)));
    let mut last = Burst::new();
    assert!(!pool.alloc_burst(&mut last, 32), "only 31 are left");
    assert!(last.is_empty() && pool.alloc_burst(&mut last, 31) && pool.alloc().is_none());
    drop((bursts, last));
    assert_eq!(pool.in_use(), 0);
}

fn frames_are_lent_and_written_back(pool: &Mempool) {
    let mut burst = Burst::new();
    for i in 0..3 {
        let mut mbuf = pool.alloc().unwrap();
        assert!(mbuf.write(&common::frame(i, 60 + usize::from(i))));
        assert!(!mbuf.write(&[0; 4096]), "longer than the room");
        burst.push(mbuf).unwrap();
    }
    let lengths = burst.with_packets(PortId(7), |packets| {
        assert!(
            packets
                .iter()
                .all(|p| p.port == PortId(7) && p.vlan_tci == 0)
        );
        assert_eq!(packets[1].wire_len, 61);
        let lengths: Vec<u16> = packets.iter().map(|p| p.len()).collect();
        assert!(packets[0].push(20), "the headroom is part of the room");
        packets[0].frame_mut()[0] = 0xaa;
        assert!(packets[1].pull(14));
        assert!(packets[2].set_len(1000));
        assert!(!packets[2].push(HEADROOM + 1));
        lengths
    });
    assert_eq!(lengths, [60, 61, 62]);
    let mbufs: Vec<_> = burst.drain().collect();
    assert_eq!((mbufs[0].frame().len(), mbufs[0].wire_len()), (80, 80));
    assert_eq!((mbufs[0].frame()[0], mbufs[0].frame()[20]), (0xaa, 0xff));
    assert_eq!(mbufs[1].frame(), [1; 47]);
    assert_eq!((mbufs[2].frame().len(), mbufs[2].segments()), (1000, 1));
    drop(mbufs);

    let mut mbuf = pool.alloc().unwrap();
    mbuf.set_frame(u16::MAX, u16::MAX);
    assert!(mbuf.frame().is_empty(), "cut to the room");
    drop(mbuf);
    assert_eq!(pool.in_use(), 0);
}

fn rings(eal: &eal::Eal, pool: &Mempool) {
    let (mut tx, mut rx) = ring::single_producer(eal, 40).unwrap();
    assert_eq!((tx.capacity(), rx.is_empty()), (40, true));
    let mut burst = Burst::new();
    assert!(pool.alloc_burst(&mut burst, 32));
    assert_eq!((tx.send(&mut burst), burst.len()), (32, 0));
    assert!(pool.alloc_burst(&mut burst, 32));
    assert_eq!((tx.send(&mut burst), burst.len(), tx.len()), (8, 24, 40));
    assert_eq!((rx.receive(&mut burst), burst.len()), (8, 32));
    assert!(rx.receive_one().is_some());
    assert_eq!(pool.in_use(), 32 + 31);
    // 31 are in the ring when both halves go.
    drop((tx, rx, burst));
    assert_eq!(pool.in_use(), 0);

    let (tx, mut rx) = ring::multi_producer(eal, 1024).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (mut tx, pool) = (tx.clone(), pool.clone());
            scope.spawn(move || {
                let _registered = eal::register_thread().unwrap();
                assert!(dpdk::lcore::current().is_some());
                let mut burst = Burst::new();
                for _ in 0..10 {
                    assert!(pool.alloc_burst(&mut burst, 32));
                    assert_eq!(tx.send(&mut burst), 32);
                }
            });
        }
    });
    let mut burst = Burst::new();
    let mut received = 0;
    while rx.receive(&mut burst) > 0 {
        received += burst.len();
        burst.free();
    }
    assert_eq!((received, pool.in_use()), (640, 0));
}

fn refusals(eal: &eal::Eal, pool: &Mempool) {
    let error = Port::open(eal, "net_absent0").unwrap_err();
    assert_eq!(
        error.to_string(),
        "port net_absent0: DPDK has no such port; it has net_null0, net_null1, net_ring0"
    );
    let port = Port::open(eal, "net_ring0").unwrap();
    assert!(matches!(
        Port::open(eal, "net_ring0"),
        Err(PortError::AlreadyOpen(_))
    ));
    let config = PortConfig {
        rx_queues: 100,
        ..common::SMALL
    };
    let refused = port.start(&config, pool).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "port net_ring0 has 16 RX queues but 100 workers are configured; lower workers to 16"
    );
    let config = PortConfig {
        tx_queues: 17,
        ..common::SMALL
    };
    let refused = refused.port.start(&config, pool).unwrap_err();
    assert!(matches!(
        refused.error,
        PortError::TooFewTxQueues {
            have: 16,
            want: 17,
            ..
        }
    ));
    let config = PortConfig {
        mtu: Some(9000),
        ..common::SMALL
    };
    let refused = refused.port.start(&config, pool).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "port net_ring0: frames of MTU 9000 need 9022 bytes but the buffers hold 2048; raise the \
         buffer size or lower the MTU"
    );

    let mut port = refused.port.start(&common::SMALL, pool).unwrap();
    assert!(port.rx_queue(1).is_none(), "there is one queue");
    let rx = port.rx_queue(0).unwrap();
    assert!(port.rx_queue(0).is_none(), "it has an owner");
    let refused = port.stop().unwrap_err();
    assert!(
        matches!(refused.error, PortError::QueuesInUse { queues: 1, .. }),
        "{refused}"
    );
    drop(rx);
    let port = refused.port.stop().unwrap();
    // Stopped and started again.
    let port = port.start(&common::SMALL, pool).unwrap();
    assert_eq!(port.setup().rx_queues, 1);
    assert_eq!(pool.in_use(), 0);

    let error = Mempool::new(eal, "test", 100, 0, 2176, None).unwrap_err();
    assert!(matches!(error, MempoolError::Create { .. }), "{error}");
    let error = Mempool::new(eal, "huge", 1 << 20, 0, 2176, None).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("mbuf pool huge: 1048576 buffers"),
        "{error}"
    );
    let error = eal.launch(5, Box::new(|| ())).unwrap_err();
    assert!(
        matches!(
            error,
            EalError::NoWorker {
                worker: 5,
                workers: 1
            }
        ),
        "{error}"
    );
    // The port is closed here: net_ring0 is gone until it is attached again.
}

fn forward(eal: &eal::Eal, pool: &Mempool) {
    let mut input = common::run(eal, "net_null0", pool);
    let mut output = common::run(eal, "net_null1", pool);
    assert_eq!(input.info().unwrap().driver, "net_null");
    assert!(matches!(input.link().unwrap(), Link { up: true, .. }));
    assert_eq!(input.set_multicast(&[]).unwrap(), MacFilter::AllMulticast);
    let (mut rx, _tx) = common::queues(&mut input);
    let (_rx, mut tx) = common::queues(&mut output);

    let (mut burst, mut out, mut dropped) = (Burst::new(), Burst::new(), Burst::new());
    let mut seen = 0;
    for _ in 0..1000 {
        seen += rx.receive(&mut burst);
        burst.with_packets(PortId(0), |packets| {
            assert!(packets.iter().all(|p| p.len() == 64))
        });
        for (i, mbuf) in burst.drain().enumerate() {
            let target = if i % 4 == 0 { &mut dropped } else { &mut out };
            target.push(mbuf).unwrap();
        }
        dropped.free();
        tx.send(&mut out);
        assert!(out.is_empty(), "net_null takes everything");
    }
    assert_eq!(seen, 32_000);
    assert_eq!(output.stats().unwrap().tx_packets, 24_000);
    assert_eq!(input.stats().unwrap().rx_packets, 32_000);
    assert!(
        output
            .extended_stats()
            .unwrap()
            .contains(&("tx_good_packets".into(), 24_000))
    );
    assert_eq!(pool.in_use(), 0);
    // A burst that is left behind is freed by an early return.
    rx.receive(&mut burst);
    assert_eq!(pool.in_use(), 32);
    drop(burst);
    assert_eq!(pool.in_use(), 0);
}

/// net_ring gives back what its ring has no room for.
fn full_queue(eal: &eal::Eal, pool: &Mempool) {
    port::attach(eal, "net_ring1").unwrap();
    let mut port = common::run(eal, "net_ring1", pool);
    let (mut rx, mut tx) = common::queues(&mut port);
    let mut burst = Burst::new();
    let mut sent = 0;
    loop {
        let missing = burst.spare();
        assert!(pool.alloc_burst(&mut burst, missing));
        // Number the last, to see that the rest stays in order.
        let n = tx.send(&mut burst);
        sent += n;
        if n < 32 {
            break;
        }
    }
    assert_eq!(burst.len(), 32 - sent % 32);
    assert_eq!(pool.in_use() as usize, sent + burst.len());
    burst.free();
    let mut back = 0;
    while rx.receive(&mut burst) > 0 {
        back += burst.len();
        burst.free();
    }
    assert_eq!((back, pool.in_use()), (sent, 0));
    // Frames that wait in the device when it closes are DPDK's to free: leave none.
}

fn worker(eal: &eal::Eal, pool: &Mempool) {
    let counter = Arc::new(AtomicU64::new(0));
    let (pool_there, counted) = (pool.clone(), Arc::clone(&counter));
    let work = move || {
        assert_eq!(dpdk::lcore::current(), Some(1));
        let mut held = Burst::new();
        assert!(pool_there.alloc_burst(&mut held, 32));
        counted.fetch_add(held.len() as u64, Ordering::Relaxed);
    };
    eal.launch(0, Box::new(work)).unwrap();
    eal.wait(0).unwrap();
    assert_eq!((counter.load(Ordering::Relaxed), pool.in_use()), (32, 0));

    // A worker that runs is not launched twice.
    let (go, gone) = std::sync::mpsc::channel::<()>();
    eal.launch(0, Box::new(move || assert!(gone.recv().is_err())))
        .unwrap();
    let error = eal.launch(0, Box::new(|| ())).unwrap_err();
    assert!(
        matches!(error, EalError::Launch { worker: 0, .. }),
        "{error}"
    );
    drop(go);
    eal.wait(0).unwrap();
}

fn hotplug(eal: &eal::Eal, pool: &Mempool) {
    port::attach(eal, "net_null5,size=128").unwrap();
    let port = common::run(eal, "net_null5", pool);
    assert!(matches!(
        port::detach(eal, "net_null5"),
        Err(PortError::AlreadyOpen(_))
    ));
    drop(port.stop().unwrap());
    port::detach(eal, "net_null5").unwrap();
    assert!(!port::names(eal).contains(&"net_null5".to_owned()));
    let error = port::attach(eal, "net_absent0").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("device net_absent0 cannot be attached"),
        "{error}"
    );
}
