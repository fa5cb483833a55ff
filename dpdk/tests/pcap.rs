//! Frames of a capture file come in, and go out into another, unchanged and in order.

mod common;
#[path = "common/pcap.rs"]
mod pcap;

use dataplane::packet::PortId;
use dpdk::mbuf::Burst;
use dpdk::port::MacFilter;

#[test]
fn a_capture_passes_through() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let mut frames: Vec<Vec<u8>> = (0..100)
        .map(|i| common::frame(i, 60 + usize::from(i)))
        .collect();
    // One that is longer than a buffer: it arrives in segments.
    frames.push(common::frame(100, 4000));
    std::fs::write(&input, pcap::write(&frames)).unwrap();

    let reader = format!("net_pcap0,rx_pcap={}", input.display());
    let writer = format!("net_pcap1,tx_pcap={}", output.display());
    let eal = common::start(&[&reader, &writer]);
    let pool = common::pool(&eal);
    let (mut rx_port, mut tx_port) = (
        common::run(&eal, "net_pcap0", &pool),
        common::run(&eal, "net_pcap1", &pool),
    );
    assert_eq!(rx_port.set_multicast(&[]).unwrap(), MacFilter::AllMulticast);
    let mut rx = rx_port.rx_queue(0).unwrap();
    let mut tx = tx_port.tx_queue(0).unwrap();

    let (mut burst, mut lengths) = (Burst::new(), Vec::new());
    while rx.receive(&mut burst) > 0 {
        burst.with_packets(PortId(0), |packets| {
            for packet in packets {
                lengths.push((packet.len(), packet.wire_len));
                // The first segment changes; the length over all of them follows.
                assert!(packet.pull(14) && packet.push(14));
                packet.frame_mut()[5] = 0;
            }
        });
        tx.send(&mut burst);
        assert!(burst.is_empty());
    }
    assert_eq!(pool.in_use(), 0);
    assert_eq!(lengths.len(), 101);
    assert_eq!(lengths[3], (63, 63));
    assert_eq!(lengths[100], (2048, 4000));

    drop((rx, tx));
    // Closing writes what the file still lacks.
    drop((rx_port, tx_port));
    let out = pcap::read(&std::fs::read(&output).unwrap());
    for frame in &mut frames {
        frame[5] = 0;
    }
    assert!(
        out == frames,
        "{} of {} frames were written",
        out.len(),
        frames.len()
    );
    drop(pool);
    eal.cleanup().unwrap_or_else(|e| panic!("{e}"));
    common::remove_runtime_files();
}
