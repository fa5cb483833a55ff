//! The thread that writes captured frames to a pcapng file.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use dataplane::capture::{CaptureRing, Direction, Record, SNAP};
use dataplane::packet::Verdict;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};

/// How often the queue is looked at when it was empty.
const LOOK: Duration = Duration::from_millis(2);

/// When a capture ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// After so many frames.
    pub packets: u64,
    /// After so long.
    pub time: Duration,
    /// After so many bytes of file, about.
    pub bytes: u64,
}

/// Opens the file. A file of that name is overwritten; a link or a device is not followed.
///
/// # Errors
/// One line with the path.
pub fn open(path: &Path) -> Result<File, String> {
    let at = |error: io::Error| format!("{}: {error}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(at)?;
    if file.metadata().map_err(at)?.is_file() {
        Ok(file)
    } else {
        Err(format!(
            "{}: not a regular file; give the path of one",
            path.display()
        ))
    }
}

/// Writes what comes by `ring` until a limit is reached or `stop` is set and the ring is empty.
/// `ports` are the names of all data ports; `epoch` is the wall-clock time of boot. Returns the
/// summary for the operator.
pub fn run(
    file: impl Write,
    ports: &[String],
    ring: &Arc<CaptureRing>,
    stop: &AtomicBool,
    limits: Limits,
    epoch: Duration,
) -> String {
    let mut book = Book::default();
    let ended = match write_all(file, ports, ring, stop, limits, epoch, &mut book) {
        Ok(why) => why.to_owned(),
        Err(error) => format!("the file could not be written: {error}"),
    };
    format!(
        "{} packets captured ({} received, {} sent, {} of them dropped), {} lost because the \
         writer was too slow; ended: {ended}",
        book.received + book.sent,
        book.received,
        book.sent,
        book.dropped,
        ring.lost(),
    )
}

#[derive(Debug, Default)]
struct Book {
    received: u64,
    sent: u64,
    dropped: u64,
}

fn write_all(
    file: impl Write,
    ports: &[String],
    ring: &CaptureRing,
    stop: &AtomicBool,
    limits: Limits,
    epoch: Duration,
    book: &mut Book,
) -> Result<&'static str, PcapError> {
    let started = Instant::now();
    let mut writer = PcapNgWriter::new(BufWriter::new(file))?;
    for name in ports {
        let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, SNAP as u32);
        interface
            .options
            .push(InterfaceDescriptionOption::IfName(Cow::Borrowed(name)));
        interface
            .options
            .push(InterfaceDescriptionOption::IfTsResol(9));
        writer.write_pcapng_block(interface)?;
    }
    let mut bytes = 0;
    let ended = loop {
        // Asked before the ring is emptied: what was pushed before the stop is written.
        let stopping = stop.load(Relaxed);
        let mut full = None;
        while full.is_none()
            && let Some(record) = ring.pop()
        {
            bytes += writer.write_pcapng_block(block(&record, epoch))? as u64;
            match record.direction {
                Direction::In => book.received += 1,
                Direction::Out => book.sent += 1,
            }
            book.dropped += u64::from(matches!(record.verdict, Some(Verdict::Drop(_))));
            if book.received + book.sent >= limits.packets {
                full = Some("packet limit");
            } else if bytes >= limits.bytes {
                full = Some("size limit");
            }
        }
        if let Some(limit) = full {
            break limit;
        }
        if stopping {
            break "stopped";
        }
        if started.elapsed() >= limits.time {
            break "time limit";
        }
        std::thread::park_timeout(LOOK);
    };
    writer.get_mut().flush().map_err(PcapError::IoError)?;
    Ok(ended)
}

fn block(record: &Record, epoch: Duration) -> EnhancedPacketBlock<'_> {
    let frame = record.frame();
    let (data, wire_len) = match (record.vlan_tci, frame.split_at_checked(12)) {
        (0, _) | (_, None) => (Cow::Borrowed(frame), record.wire_len),
        // The driver took the tag out; the file shows the frame as it was on the wire.
        (tci, Some((addresses, rest))) => {
            let tag = tci.to_be_bytes();
            let whole = [addresses, &[0x81, 0x00], &tag, rest].concat();
            (Cow::Owned(whole), record.wire_len + 4)
        }
    };
    let mut options = vec![EnhancedPacketOption::Flags(match record.direction {
        Direction::In => 1,
        Direction::Out => 2,
    })];
    if let Some(comment) = record.verdict.and_then(comment) {
        options.push(EnhancedPacketOption::Comment(Cow::Owned(comment)));
    }
    EnhancedPacketBlock {
        interface_id: u32::from(record.port.0),
        timestamp: epoch + Duration::from_nanos(record.time.0),
        original_len: wire_len,
        data,
        options,
    }
}

fn comment(verdict: Verdict) -> Option<String> {
    match verdict {
        Verdict::Drop(reason) => Some(format!("dropped: {} ({})", reason.name(), reason.help())),
        Verdict::Kernel(class) => Some(format!("to the kernel ({})", class.name())),
        Verdict::HandOver { .. } => None,
        Verdict::Wait => Some("waits for the MAC of the next hop".to_owned()),
        Verdict::Hold => Some("waits for the first piece of its packet".to_owned()),
        Verdict::Fragment(_, mtu) => Some(format!("cut to {mtu} bytes")),
        Verdict::Transmit(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::capture::{Capture, Filter};
    use dataplane::packet::{DropReason, Packet, PortId};
    use pcap_file::pcapng::{Block, PcapNgReader};

    const EPOCH: Duration = Duration::from_secs(1_700_000_000);

    fn limits(packets: u64) -> Limits {
        Limits {
            packets,
            time: Duration::from_secs(600),
            bytes: 1 << 30,
        }
    }

    fn filled(frames: u8) -> Arc<CaptureRing> {
        let ring = Arc::new(CaptureRing::new(64));
        let mut capture = Capture::new(None, Filter::default(), Arc::clone(&ring));
        for n in 0..frames {
            let mut room = [n; 60];
            let mut packet = Packet::new(&mut room, 0, 60, PortId(u16::from(n % 2)));
            packet.vlan_tci = u16::from(n) * 7;
            let now = dataplane::time::Instant(1_000_000_001 + u64::from(n));
            capture.received(now, 0, &packet);
            capture.decided(0, Verdict::Drop(DropReason::NoRoute));
            capture.sent(now, PortId(0), &packet);
        }
        ring
    }

    #[test]
    fn both_directions_verdict_and_nanoseconds_are_in_the_file() {
        let ring = filled(2);
        let mut bytes = Vec::new();
        let ports = ["front".to_owned(), "back".to_owned()];
        let stop = AtomicBool::new(true);
        let told = run(&mut bytes, &ports, &ring, &stop, limits(100), EPOCH);
        assert!(
            told.starts_with("4 packets captured (2 received, 2 sent, 2 of them"),
            "{told}"
        );
        assert!(told.ends_with("ended: stopped"), "{told}");

        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let mut packets = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap() {
                packets.push(packet.into_owned());
            }
        }
        assert_eq!(reader.interfaces().len(), 2);
        assert!(
            reader.interfaces()[1]
                .options
                .contains(&InterfaceDescriptionOption::IfTsResol(9))
        );
        assert_eq!(packets.len(), 4);
        assert_eq!(
            packets[0].timestamp,
            EPOCH + Duration::from_nanos(1_000_000_001)
        );
        assert_eq!(packets[0].options[0], EnhancedPacketOption::Flags(1));
        assert!(matches!(
            &packets[0].options[1],
            EnhancedPacketOption::Comment(text) if text.starts_with("dropped: no-route")
        ));
        assert_eq!(packets[1].options, [EnhancedPacketOption::Flags(2)]);
        assert_eq!((packets[0].data.len(), packets[0].original_len), (60, 60));
        // The second frame had a tag, which is back in its place.
        assert_eq!((packets[2].interface_id, packets[2].original_len), (1, 64));
        assert_eq!(packets[2].data[12..16], [0x81, 0, 0, 7]);
    }

    #[test]
    fn limits_end_it_and_errors_are_told() {
        let stop = AtomicBool::new(false);
        let ports = ["front".to_owned(), "back".to_owned()];
        let told = run(Vec::new(), &ports, &filled(4), &stop, limits(3), EPOCH);
        assert!(
            told.starts_with("3 packets") && told.ends_with("packet limit"),
            "{told}"
        );
        let small = Limits {
            bytes: 100,
            ..limits(1000)
        };
        let told = run(Vec::new(), &ports, &filled(4), &stop, small, EPOCH);
        assert!(told.ends_with("size limit"), "{told}");
        let short = Limits {
            time: Duration::ZERO,
            ..limits(1000)
        };
        let told = run(Vec::new(), &ports, &filled(4), &stop, short, EPOCH);
        assert!(
            told.starts_with("8 packets") && told.ends_with("time limit"),
            "{told}"
        );
        let full = io::Cursor::new([0u8; 16]);
        let mut full = full;
        let told = run(
            &mut full.get_mut()[..],
            &[],
            &filled(1),
            &stop,
            limits(1),
            EPOCH,
        );
        assert!(told.contains("could not be written"), "{told}");
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(open(&link).is_err());
        assert!(
            open(Path::new("/dev/null"))
                .unwrap_err()
                .contains("regular")
        );
        assert!(
            open(&dir.path().join("no/such"))
                .unwrap_err()
                .contains("no/such")
        );
        open(&dir.path().join("file")).unwrap();
    }
}
