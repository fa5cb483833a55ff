//! Frames of a capture file come in, and go out into another, unchanged and in order.

mod common;

use dataplane::packet::PortId;
use dpdk::mbuf::Burst;
use dpdk::port::MacFilter;

/// A classic pcap file, Ethernet, microseconds, in this machine's byte order.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65535, 1] {
        file.extend(word.to_ne_bytes());
    }
    for (i, frame) in frames.iter().enumerate() {
        let len = frame.len() as u32;
        for word in [i as u32, 0, len, len] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(frame);
    }
    file
}

/// The frames of such a file.
fn frames_of(file: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let len = u32::from_ne_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
        frames.push(file[at + 16..at + 16 + len].to_vec());
        at += 16 + len;
    }
    frames
}

#[test]
fn a_capture_passes_through() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let mut frames: Vec<Vec<u8>> = (0..100)
        .map(|i| common::frame(i, 60 + usize::from(i)))
        .collect();
    // One that is longer than a buffer: it arrives in segments.
    frames.push(common::frame(100, 4000));
    std::fs::write(&input, pcap(&frames)).unwrap();

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
    let out = frames_of(&std::fs::read(&output).unwrap());
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
