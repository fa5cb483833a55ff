//! Synchronisation messages: recordings of the kernel's, and everything else that may arrive.
//!
//! The recordings are in `data/sync`, or where `RVS_SYNC_DIR` says; its README tells how they
//! were made.

use dataplane::addr::{Addr, Endpoint};
use dataplane::helper::sequence::Adjustment;
use dataplane::sync::wire::{
    BadEntry, Encoder, MAX_ENTRIES, Malformed, Message, NotWritten, Version,
};
use dataplane::sync::{EngineData, Sequence, SyncEntry, flag};
use proptest::prelude::*;
use recorded::{dir, payloads, recordings, told};

#[path = "support/recorded.rs"]
mod recorded;

#[test]
fn recordings_decode_to_what_they_tell_of() {
    let mut entries = 0;
    for pcap in recordings() {
        let mut found = Vec::new();
        for payload in payloads(&pcap) {
            let message = Message::decode(&payload).unwrap();
            let before = found.len();
            found.extend(message.entries().map(|entry| entry.unwrap().0));
            assert_eq!(found.len() - before, usize::from(message.count));
        }
        assert_eq!(
            found,
            told(&pcap.with_extension("txt")),
            "{}",
            pcap.display()
        );
        entries += found.len();
    }
    assert!(entries > 400, "only {entries} entries were recorded");
}

#[test]
fn recordings_encode_to_the_same_bytes() {
    for pcap in recordings() {
        for payload in payloads(&pcap) {
            let message = Message::decode(&payload).unwrap();
            let mut buffer = [0xff; 1472];
            let mut encoder = Encoder::new(message.version, message.syncid);
            for entry in message.entries() {
                let (entry, engine) = entry.unwrap();
                encoder.push(&mut buffer, &entry, &engine).unwrap();
            }
            let len = encoder.finish(&mut buffer);
            assert_eq!(buffer[..len], payload, "{}", pcap.display());
        }
    }
}

#[test]
fn engine_data_of_the_recording() {
    let payloads = payloads(&dir().join("sip-pe.pcap"));
    let entries = payloads
        .iter()
        .flat_map(|p| Message::decode(p).unwrap().entries());
    let data: Vec<_> = entries.map(|entry| entry.unwrap().1).collect();
    assert_eq!(data.len(), 6);
    assert_eq!(data[0].data, b"call-0@172.23.0.1");
    assert_eq!(data[5].data, b"call-2@172.23.0.3");
    assert!(data.iter().all(|engine| engine.name == b"sip"));
}

fn entry(n: u8) -> SyncEntry {
    SyncEntry {
        protocol: 6,
        flags: flag::NOOUTPUT | 3,
        state: 1,
        client: Endpoint::new(Addr::v4([10, 0, 1, n]), 1000 + u16::from(n)),
        virtual_: Endpoint::new(Addr::v4([10, 0, 0, 100]), 80),
        dest: Endpoint::new(Addr::v4([10, 0, 2, 11]), 8080),
        fwmark: 0,
        timeout: 900,
        sequence: None,
    }
}

fn long(n: u8) -> SyncEntry {
    let v6 = |last| Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n, last]);
    SyncEntry {
        client: Endpoint::new(v6(1), 1),
        virtual_: Endpoint::new(v6(2), 2),
        dest: Endpoint::new(v6(3), 3),
        ..entry(n)
    }
}

fn encode(version: Version, entries: &[(SyncEntry, EngineData<'_>)]) -> Vec<u8> {
    let mut buffer = vec![0; 1472];
    let mut encoder = Encoder::new(version, 7);
    for (entry, engine) in entries {
        encoder.push(&mut buffer, entry, engine).unwrap();
    }
    let len = encoder.finish(&mut buffer);
    buffer.truncate(len);
    buffer
}

fn decode(bytes: &[u8]) -> Vec<Result<SyncEntry, BadEntry>> {
    let message = Message::decode(bytes).unwrap();
    message
        .entries()
        .map(|e| e.map(|(entry, _)| entry))
        .collect()
}

const NONE: EngineData<'static> = EngineData {
    data: b"",
    name: b"",
};

/// One message with one entry of each shape, every byte by hand.
#[test]
fn all_options_byte_by_byte() {
    let moved = |at| Adjustment {
        at,
        after: 2,
        before: -1,
    };
    let sequence = Sequence {
        client: moved(1),
        server: moved(5),
    };
    let flags = flag::IN_SEQ | flag::OUT_SEQ;
    let first = SyncEntry {
        flags,
        sequence: Some(sequence),
        ..entry(1)
    };
    let engine = EngineData {
        data: b"abc",
        name: b"sip",
    };
    let bytes = encode(
        Version::V1,
        &[(first, NONE), (entry(2), engine), (entry(3), NONE)],
    );
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        "0007009c 03010000 0006003e 00000600 000103e9 00501f90 00000000 00000384 0a000101 \
         0a000064 0a00020b 0118 00000001 00000002 ffffffff 00000005 00000002 ffffffff 0000 \
         0006002e 00000083 000103ea 00501f90 00000000 00000384 0a000102 0a000064 0a00020b \
         0203616263 0303736970 0000 00060024 00000083 000103eb 00501f90 00000000 00000384 \
         0a000103 0a000064 0a00020b"
            .replace(' ', "")
    );
    let back: Vec<_> = Message::decode(&bytes)
        .unwrap()
        .entries()
        .map(Result::unwrap)
        .collect();
    assert_eq!(back, [(first, NONE), (entry(2), engine), (entry(3), NONE)]);
}

#[test]
fn version_0_keeps_sequence_data_in_the_order_of_the_host() {
    let moved = |at| Adjustment {
        at,
        after: 3,
        before: 0,
    };
    let sequence = Some(Sequence {
        client: moved(7),
        server: moved(9),
    });
    let old = |n| SyncEntry {
        timeout: 0,
        ..entry(n)
    };
    let adjusted = SyncEntry {
        flags: flag::OUT_SEQ,
        sequence,
        ..old(1)
    };
    let bytes = encode(Version::V0, &[(adjusted, NONE), (old(2), NONE)]);
    assert_eq!(bytes.len(), 4 + 24 + 24 + 24);
    assert_eq!(bytes[28..32], 7u32.to_ne_bytes());
    assert_eq!(decode(&bytes), [Ok(adjusted), Ok(old(2))]);
}

#[test]
fn what_version_0_cannot_say() {
    let mut buffer = [0; 1472];
    let mut encoder = Encoder::new(Version::V0, 1);
    let engine = EngineData {
        data: b"x",
        name: b"sip",
    };
    let mixed = SyncEntry {
        dest: long(1).dest,
        ..entry(1)
    };
    for (entry, engine) in [(long(1), NONE), (entry(1), engine), (mixed, NONE)] {
        let refused = encoder.push(&mut buffer, &entry, &engine);
        assert_eq!(refused, Err(NotWritten::Impossible));
    }
    assert!(encoder.is_empty());
}

#[test]
fn a_message_is_full_by_bytes_or_by_number() {
    let fill = |version, room: usize| {
        let mut buffer = vec![0; room];
        let mut encoder = Encoder::new(version, 1);
        let mut n = 0;
        while encoder.push(&mut buffer, &entry(1), &NONE).is_ok() {
            n += 1;
        }
        assert_eq!(
            encoder.push(&mut buffer, &entry(1), &NONE),
            Err(NotWritten::Full)
        );
        let len = encoder.finish(&mut buffer);
        assert_eq!(decode(&buffer[..len]).len(), n);
        (n, len)
    };
    assert_eq!(fill(Version::V1, 1472), (40, 8 + 40 * 36));
    assert_eq!(fill(Version::V1, 8 + 36), (1, 44));
    assert_eq!(fill(Version::V1, 43), (0, 8));
    assert_eq!(
        fill(Version::V1, 65507),
        (usize::from(MAX_ENTRIES), 8 + 255 * 36)
    );
    assert_eq!(
        fill(Version::V0, 65507),
        (usize::from(MAX_ENTRIES), 4 + 255 * 24)
    );
}

#[test]
fn headers_that_make_no_sense() {
    assert_eq!(Message::decode(&[]), Err(Malformed::Short(0)));
    assert_eq!(Message::decode(&[0, 1, 0]), Err(Malformed::Short(3)));
    let mut bytes = encode(Version::V1, &[(entry(1), NONE)]);
    bytes.push(0);
    assert_eq!(
        Message::decode(&bytes),
        Err(Malformed::Size { says: 44, have: 45 })
    );
    // Another version than 1 is taken for version 0, which has no entry then.
    let mut bytes = encode(Version::V1, &[(entry(1), NONE)]);
    for (at, value) in [(5, 2), (6, 1), (7, 1)] {
        let old = std::mem::replace(&mut bytes[at], value);
        assert_eq!(decode(&bytes), []);
        bytes[at] = old;
    }
    bytes[0] = 1;
    assert_eq!(Message::decode(&bytes).unwrap().version, Version::V0);
    // A header of version 0 alone.
    assert_eq!(decode(&[0, 1, 0, 4]), []);
    assert_eq!(decode(&[3, 1, 0, 4]), [Err(BadEntry::Length)]);
}

/// Three entries, of which the second is spoilt.
fn spoilt(at: usize, bytes: &[u8]) -> Vec<Result<SyncEntry, BadEntry>> {
    let engine = EngineData {
        data: b"abcdef",
        name: b"",
    };
    let mut message = encode(
        Version::V1,
        &[(entry(1), NONE), (entry(2), engine), (entry(3), NONE)],
    );
    message[44 + at..44 + at + bytes.len()].copy_from_slice(bytes);
    decode(&message)
}

#[test]
fn entries_that_make_no_sense() {
    let ends = |why| vec![Ok(entry(1)), Err(why)];
    let skips = |why| vec![Ok(entry(1)), Err(why), Ok(entry(3))];
    assert_eq!(spoilt(0, &[2]), ends(BadEntry::Format), "an unknown type");
    assert_eq!(
        spoilt(0, &[1]),
        ends(BadEntry::Length),
        "too short for IPv6"
    );
    assert_eq!(
        spoilt(2, &[0x10]),
        ends(BadEntry::Format),
        "another version"
    );
    assert_eq!(spoilt(3, &[35]), ends(BadEntry::Length));
    assert_eq!(spoilt(3, &[0]), ends(BadEntry::Length));
    assert_eq!(
        spoilt(2, &[0x0f, 0xff]),
        ends(BadEntry::Length),
        "behind the end"
    );
    assert_eq!(spoilt(3, &[37]), ends(BadEntry::Option), "half an option");
    assert_eq!(
        spoilt(36, &[2, 0]),
        ends(BadEntry::Option),
        "an empty option"
    );
    assert_eq!(
        spoilt(36, &[2, 7]),
        ends(BadEntry::Option),
        "longer than the entry"
    );
    assert_eq!(
        spoilt(36, &[1, 6]),
        ends(BadEntry::Option),
        "no sequence data"
    );
    assert_eq!(
        spoilt(36, &[2, 2, 0, 0, 2, 2]),
        ends(BadEntry::Option),
        "twice"
    );
    assert_eq!(spoilt(36, &[4]), skips(BadEntry::Unknown(4)));
    assert_eq!(spoilt(36, &[0x44]).len(), 3, "unknown but optional");
    assert!(spoilt(36, &[0x44]).iter().all(Result::is_ok));
    let name = [3, 17]
        .iter()
        .chain(&[b'x'; 17])
        .copied()
        .collect::<Vec<u8>>();
    let mut message = encode(Version::V1, &[(entry(1), NONE)]);
    message.extend(&name);
    message[3] += 19;
    message[8 + 3] += 19;
    assert_eq!(
        decode(&message),
        [Err(BadEntry::Option)],
        "a name of 17 bytes"
    );
    message[3] -= 1;
    message[11] -= 1;
    message[45] -= 1;
    message.pop();
    assert_eq!(decode(&message), [Ok(entry(1))]);
}

#[test]
fn an_ipv4_address_in_an_ipv6_entry() {
    let mut message = encode(Version::V1, &[(long(1), NONE), (long(2), NONE)]);
    message[8 + 24..8 + 40].copy_from_slice(&Addr::v4([1, 2, 3, 4]).octets());
    assert_eq!(decode(&message), [Err(BadEntry::Mapped), Ok(long(2))]);
}

#[test]
fn the_count_may_say_too_much_or_too_little() {
    let mut message = encode(Version::V1, &[(entry(1), NONE), (entry(2), NONE)]);
    message[4] = 1;
    assert_eq!(decode(&message), [Ok(entry(1))]);
    message[4] = 255;
    assert_eq!(
        decode(&message),
        [Ok(entry(1)), Ok(entry(2)), Err(BadEntry::Length)]
    );
}

/// A recorded message with some bytes changed, cut or lengthened; its size field may be put right.
fn hostile(seed: &mut u64, base: &[u8]) -> Vec<u8> {
    let mut next = || {
        // xorshift64: good enough to pick bytes.
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    };
    let mut bytes = base.to_vec();
    for _ in 0..next() % 6 {
        let at = next() as usize % bytes.len();
        bytes[at] = match next() % 4 {
            0 => 0,
            1 => 0xff,
            2 => bytes[at] ^ (1 << (next() % 8)),
            _ => next() as u8,
        };
    }
    match next() % 8 {
        0 => bytes.truncate(4 + next() as usize % (bytes.len() - 3)),
        1 => bytes.resize(bytes.len() + next() as usize % 70, 0x41),
        _ => {}
    }
    if next() % 16 != 0 {
        let size = (bytes.len() as u16).to_be_bytes();
        bytes[2..4].copy_from_slice(&size);
    }
    bytes
}

/// A million messages as a bad neighbour may send them: reading ends, and what was read can be
/// written again and then reads the same.
#[test]
fn a_million_hostile_messages() {
    let all: Vec<Vec<u8>> = recordings()
        .iter()
        .flat_map(|pcap| payloads(pcap))
        .collect();
    let bases: Vec<&[u8]> = all.iter().map(|m| &m[..m.len().min(300)]).collect();
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let (mut read, mut refused) = (0u32, 0u32);
    let mut buffer = [0; 2048];
    for n in 0..1_000_000 {
        let bytes = hostile(&mut seed, bases[n % bases.len()]);
        let Ok(message) = Message::decode(&bytes) else {
            refused += 1;
            continue;
        };
        let mut encoder = Encoder::new(message.version, message.syncid);
        let mut seen = 0;
        for entry in message.entries() {
            seen += 1;
            match entry {
                Ok((entry, engine)) => {
                    read += 1;
                    if encoder.push(&mut buffer, &entry, &engine).is_err() {
                        encoder = Encoder::new(message.version, message.syncid);
                        encoder.push(&mut buffer, &entry, &engine).unwrap();
                    }
                }
                Err(_) => refused += 1,
            }
        }
        assert!(seen <= message.count);
        let len = encoder.finish(&mut buffer);
        let again = Message::decode(&buffer[..len]).unwrap();
        assert!(again.entries().all(|entry| entry.is_ok()));
    }
    assert!(
        read > 1_000_000 && refused > 100_000,
        "{read} read, {refused} refused"
    );
}

prop_compose! {
    fn adjustments()(at in any::<u32>(), after in any::<i32>(), before in any::<i32>()) -> Adjustment {
        Adjustment { at, after, before }
    }
}

prop_compose! {
    fn entries()(
        (protocol, state, flags) in (any::<u8>(), any::<u16>(), any::<u32>()),
        is_long in any::<bool>(),
        (ports, addrs) in (any::<[u16; 3]>(), any::<[[u8; 16]; 3]>()),
        (fwmark, timeout) in (any::<u32>(), any::<u32>()),
        sequence in proptest::option::of((adjustments(), adjustments())),
        data in proptest::collection::vec(any::<u8>(), 0..=255),
        name in proptest::collection::vec(any::<u8>(), 0..=16),
    ) -> (SyncEntry, Vec<u8>, Vec<u8>) {
        let end = |n: usize| {
            let [_, b, c, d, ..] = addrs[n];
            // Never an IPv4-mapped one.
            let mut long = addrs[n];
            long[0] |= 0x20;
            let addr = if is_long { Addr::v6(long) } else { Addr::v4([b, c, d, 1]) };
            Endpoint::new(addr, ports[n])
        };
        let sequence = sequence.map(|(client, server)| Sequence { client, server });
        let flags = flags & !flag::HASHED;
        (SyncEntry {
            protocol, flags, state, client: end(0), virtual_: end(1), dest: end(2), fwmark, timeout,
            sequence,
        }, data, name)
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_the_same(entries in proptest::collection::vec(entries(), 0..20)) {
        let mut buffer = vec![0xaa; 65507];
        let mut encoder = Encoder::new(Version::V1, 9);
        for (entry, data, name) in &entries {
            encoder.push(&mut buffer, entry, &EngineData { data, name }).unwrap();
        }
        let len = encoder.finish(&mut buffer);
        let message = Message::decode(&buffer[..len]).unwrap();
        prop_assert_eq!((message.version, message.syncid), (Version::V1, 9));
        let back: Vec<_> = message.entries().map(|e| {
            let (entry, engine) = e.unwrap();
            (entry, engine.data.to_vec(), engine.name.to_vec())
        }).collect();
        prop_assert_eq!(back, entries);
    }
}
