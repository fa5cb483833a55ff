//! What nodes say over TCP: who wants a copy of a table asks, who has it answers with entries.
//!
//! ```text
//!  0   1    2      4
//! |1  |kind|0     |length | payload of so many bytes
//! ```
//!
//! An `Entries` frame is one message of synchronisation, version 1, followed by 4 bytes for each of
//! its entries: milliseconds since the last packet. Numbers are in network byte order.

use dataplane::sync::wire::{Encoder, Message, NotWritten, Version};
use dataplane::sync::{EngineData, SyncEntry, Wanted};
use dataplane::time::TICKS_PER_SECOND;

/// Of the format.
pub const VERSION: u8 = 1;
/// Bytes before the payload.
const HEADER: usize = 8;
/// Longest payload.
pub const MAX_PAYLOAD: usize = 65536 + 4 * 255;
/// Bytes of a message of entries: with the usual 36 there is room for the 255 that one may have.
const MESSAGE: usize = 12 << 10;

mod kind {
    pub const ASK: u8 = 1;
    pub const START: u8 = 2;
    pub const ENTRIES: u8 = 3;
    pub const END: u8 = 4;
    pub const REFUSE: u8 = 5;
}

/// Which entries are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// All.
    Everything,
    /// Those that had a packet in so many milliseconds and were announced.
    Recent(u32),
    /// Of those whose end has moved since they were announced.
    Moved(u32),
}

impl Want {
    /// What is asked for, in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Want::Everything => "transfer",
            Want::Recent(_) => "repair",
            Want::Moved(_) => "refresh",
        }
    }

    /// Which entries of a worker's table that are.
    pub fn of_table(self) -> Wanted {
        match self {
            Want::Everything => Wanted::default(),
            Want::Recent(ms) => Wanted {
                active_within: Some(ticks(ms)),
                moved_by: None,
            },
            // Half of the time between two such questions.
            Want::Moved(ms) => Wanted {
                active_within: Some(ticks(ms)),
                moved_by: Some(ticks(ms / 2)),
            },
        }
    }
}

/// Milliseconds to ticks.
pub fn ticks(ms: u32) -> u32 {
    (u64::from(ms) * u64::from(TICKS_PER_SECOND) / 1000) as u32
}

/// Ticks to milliseconds.
pub fn millis(ticks: u32) -> u32 {
    (u64::from(ticks) * 1000 / u64::from(TICKS_PER_SECOND)).min(u64::from(u32::MAX)) as u32
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Group of balancers.
    pub syncid: u8,
    /// The run of the node that asks.
    pub boot: u64,
    /// What it wants.
    pub want: Want,
}

/// Why a question is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No master runs here, or one of another group.
    NoMaster,
    /// Others are being answered.
    Busy,
}

/// A frame. Entries are read by [`entries`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// What is wanted.
    Ask(Ask),
    /// It begins.
    Start {
        /// The run of the node that answers.
        boot: u64,
        /// Entries in its table, about.
        connections: u64,
    },
    /// Some entries.
    Entries(&'a [u8]),
    /// That was all.
    End {
        /// So many entries.
        entries: u64,
        /// So many could not be said.
        unsaid: u64,
    },
    /// There is no answer.
    Refuse(Refusal),
}

/// Why what came is no frame. Nothing after it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoFrame {
    /// Of this version.
    Version(u8),
    /// Of a kind that is not known, or with something in the place of zeros.
    Kind(u8),
    /// Longer than any, or not of the length of its kind.
    Length(u32),
    /// A value that is not known.
    Value,
    /// An entry that cannot be read.
    Entry,
}

fn long(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Reads the frame at the front; with it, how many bytes it takes. `None`: more has to come.
///
/// # Errors
/// See [`NoFrame`].
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, NoFrame> {
    let Some(&[version, kind, zero, nil, a, b, c, d]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    if version != VERSION {
        return Err(NoFrame::Version(version));
    }
    if [zero, nil] != [0, 0] || !(kind::ASK..=kind::REFUSE).contains(&kind) {
        return Err(NoFrame::Kind(kind));
    }
    let exact = match kind {
        kind::ASK | kind::START | kind::END => Some(16),
        kind::REFUSE => Some(1),
        _ => None,
    };
    let len = length as usize;
    if len > MAX_PAYLOAD || exact.is_some_and(|exact| exact != len) {
        return Err(NoFrame::Length(length));
    }
    let Some(payload) = bytes.get(HEADER..HEADER + len) else {
        return Ok(None);
    };
    let frame = body(kind, payload).ok_or(NoFrame::Value)?;
    Ok(Some((frame, HEADER + len)))
}

fn body(kind: u8, payload: &[u8]) -> Option<Frame<'_>> {
    Some(match kind {
        kind::ASK => {
            let [syncid, what, 0, 0, a, b, c, d] = *payload.first_chunk()? else {
                return None;
            };
            let ms = u32::from_be_bytes([a, b, c, d]);
            Frame::Ask(Ask {
                syncid,
                boot: long(payload.get(8..)?)?,
                want: match (what, ms) {
                    (0, 0) => Want::Everything,
                    (1, ms) => Want::Recent(ms),
                    (2, ms) => Want::Moved(ms),
                    _ => return None,
                },
            })
        }
        kind::START => Frame::Start {
            boot: long(payload)?,
            connections: long(payload.get(8..)?)?,
        },
        kind::ENTRIES => Frame::Entries(payload),
        kind::END => Frame::End {
            entries: long(payload)?,
            unsaid: long(payload.get(8..)?)?,
        },
        kind::REFUSE => Frame::Refuse(match payload {
            [1] => Refusal::NoMaster,
            [2] => Refusal::Busy,
            _ => return None,
        }),
        _ => return None,
    })
}

/// Reads the payload of an `Entries` frame: each entry with its engine's data and the milliseconds
/// since its last packet. Those that make no sense here are passed over, by this or by the caller
/// ([`SyncEntry::check`]). How many there are.
///
/// # Errors
/// [`NoFrame::Entry`]; some entries may have been shown before.
pub fn entries(
    payload: &[u8],
    mut see: impl FnMut(SyncEntry, EngineData<'_>, u32),
) -> Result<u8, NoFrame> {
    let size = match payload {
        [_, _, a, b, ..] => usize::from(u16::from_be_bytes([*a, *b])),
        _ => return Err(NoFrame::Entry),
    };
    let (message, times) = payload.split_at_checked(size).ok_or(NoFrame::Entry)?;
    let message = Message::decode(message).map_err(|_| NoFrame::Entry)?;
    if message.version != Version::V1 || times.len() != usize::from(message.count) * 4 {
        return Err(NoFrame::Entry);
    }
    let (times, _) = times.as_chunks::<4>();
    let mut times = times.iter().map(|bytes| u32::from_be_bytes(*bytes));
    for entry in message.entries() {
        let idle = times.next().ok_or(NoFrame::Entry)?;
        match entry {
            Ok((entry, engine)) => see(entry, engine, idle),
            Err(why) if why.ends_message() => return Err(NoFrame::Entry),
            Err(_) => {}
        }
    }
    Ok(message.count)
}

fn header(out: &mut Vec<u8>, kind: u8, len: usize) {
    out.extend([VERSION, kind, 0, 0]);
    out.extend((len as u32).to_be_bytes());
}

/// Appends a frame.
pub fn encode(out: &mut Vec<u8>, frame: &Frame<'_>) {
    match frame {
        Frame::Ask(ask) => {
            header(out, kind::ASK, 16);
            let (what, ms) = match ask.want {
                Want::Everything => (0, 0),
                Want::Recent(ms) => (1, ms),
                Want::Moved(ms) => (2, ms),
            };
            out.extend([ask.syncid, what, 0, 0]);
            out.extend(ms.to_be_bytes());
            out.extend(ask.boot.to_be_bytes());
        }
        Frame::Start { boot, connections } => {
            header(out, kind::START, 16);
            out.extend(boot.to_be_bytes());
            out.extend(connections.to_be_bytes());
        }
        Frame::Entries(payload) => {
            header(out, kind::ENTRIES, payload.len());
            out.extend(*payload);
        }
        Frame::End { entries, unsaid } => {
            header(out, kind::END, 16);
            out.extend(entries.to_be_bytes());
            out.extend(unsaid.to_be_bytes());
        }
        Frame::Refuse(why) => {
            header(out, kind::REFUSE, 1);
            out.push(match why {
                Refusal::NoMaster => 1,
                Refusal::Busy => 2,
            });
        }
    }
}

/// Packs entries into frames.
#[derive(Debug)]
pub struct Packer {
    syncid: u8,
    encoder: Encoder,
    buffer: Vec<u8>,
    idle: Vec<u8>,
    /// Entries packed.
    pub entries: u64,
    /// Entries that the format has no words for.
    pub unsaid: u64,
}

impl Packer {
    /// For this group of balancers.
    pub fn new(syncid: u8) -> Packer {
        Packer {
            syncid,
            encoder: Encoder::new(Version::V1, syncid),
            buffer: vec![0; MESSAGE],
            idle: Vec::new(),
            entries: 0,
            unsaid: 0,
        }
    }

    /// Appends an entry; full frames go to `out`.
    pub fn push(&mut self, out: &mut Vec<u8>, entry: &SyncEntry, engine: &EngineData<'_>, ms: u32) {
        let mut pushed = self.encoder.push(&mut self.buffer, entry, engine);
        if pushed == Err(NotWritten::Full) {
            self.flush(out);
            pushed = self.encoder.push(&mut self.buffer, entry, engine);
        }
        match pushed {
            Ok(()) => {
                self.idle.extend(ms.to_be_bytes());
                self.entries += 1;
            }
            Err(_) => self.unsaid += 1,
        }
    }

    /// Writes what waits for others to go with it.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        if self.encoder.is_empty() {
            return;
        }
        let len = self.encoder.finish(&mut self.buffer);
        header(out, kind::ENTRIES, len + self.idle.len());
        out.extend(&self.buffer[..len]);
        out.append(&mut self.idle);
        self.encoder = Encoder::new(Version::V1, self.syncid);
    }
}

#[cfg(test)]
mod tests {
    use dataplane::addr::{Addr, Endpoint};
    use dataplane::sync::flag;
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame<'static>> {
        let want = prop_oneof![
            Just(Want::Everything),
            any::<u32>().prop_map(Want::Recent),
            any::<u32>().prop_map(Want::Moved),
        ];
        prop_oneof![
            (any::<u8>(), any::<u64>(), want).prop_map(|(syncid, boot, want)| Frame::Ask(Ask {
                syncid,
                boot,
                want
            })),
            (any::<u64>(), any::<u64>())
                .prop_map(|(boot, connections)| Frame::Start { boot, connections }),
            (any::<u64>(), any::<u64>())
                .prop_map(|(entries, unsaid)| Frame::End { entries, unsaid }),
            Just(Frame::Refuse(Refusal::NoMaster)),
            Just(Frame::Refuse(Refusal::Busy)),
            prop::collection::vec(any::<u8>(), 0..500)
                .prop_map(|bytes| Frame::Entries(bytes.leak())),
        ]
    }

    fn entry(n: u32, is_long: bool) -> SyncEntry {
        let end = |base: u8, port| {
            let [_, b, c, d] = n.to_be_bytes();
            let addr = match is_long {
                true => Addr::v6([base, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, b, c, d]),
                false => Addr::v4([base, b, c, d]),
            };
            Endpoint::new(addr, port)
        };
        SyncEntry {
            protocol: 17,
            flags: flag::TEMPLATE,
            state: 0,
            client: end(10, 0),
            virtual_: end(11, 80),
            dest: end(12, 80),
            fwmark: n,
            timeout: 60,
            sequence: None,
        }
    }

    /// All frames of a stream of bytes that come piece by piece.
    fn read(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let (mut have, mut frames) = (Vec::new(), Vec::new());
        for part in bytes.chunks(piece.max(1)) {
            have.extend(part);
            while let Some((frame, len)) = decode(&have).unwrap() {
                let mut again = Vec::new();
                encode(&mut again, &frame);
                assert_eq!(again, have[..len]);
                frames.push(again);
                have.drain(..len);
            }
        }
        assert!(have.is_empty());
        frames
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            frames in prop::collection::vec(any_frame(), 1..8),
            piece in 1usize..900,
        ) {
            let mut bytes = Vec::new();
            let mut want = Vec::new();
            for frame in &frames {
                let from = bytes.len();
                encode(&mut bytes, frame);
                want.push(bytes[from..].to_vec());
            }
            prop_assert_eq!(read(&bytes, piece), want);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
            let mut seen = 0;
            let _ = entries(&bytes, |_, _, _| seen += 1);
            prop_assert!(seen <= 255);
        }

        #[test]
        fn damaged_entries_are_survived(
            many in 1u32..60,
            at in any::<prop::sample::Index>(),
            byte: u8,
            cut in 0usize..50,
        ) {
            let mut packer = Packer::new(7);
            let mut bytes = Vec::new();
            for n in 0..many {
                let name = EngineData { data: b"call", name: b"sip" };
                packer.push(&mut bytes, &entry(n, n % 3 == 0), &name, n);
            }
            packer.flush(&mut bytes);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(bytes.len() - cut);
            if let Ok(Some((Frame::Entries(payload), _))) = decode(&bytes) {
                let _ = entries(payload, |_, _, _| ());
            }
        }
    }

    #[test]
    fn entries_keep_their_times_and_their_data() {
        let mut packer = Packer::new(7);
        let mut bytes = Vec::new();
        let data = [7; 255];
        for n in 0..2000 {
            let long = EngineData {
                data: &data,
                name: b"sip",
            };
            let engine = if n % 5 == 0 {
                long
            } else {
                EngineData::default()
            };
            packer.push(&mut bytes, &entry(n, n % 2 == 0), &engine, n * 7);
        }
        packer.flush(&mut bytes);
        packer.flush(&mut bytes);
        assert_eq!((packer.entries, packer.unsaid), (2000, 0));
        let mut next = 0;
        for frame in read(&bytes, 1000) {
            let Ok(Some((Frame::Entries(payload), _))) = decode(&frame) else {
                panic!("another kind");
            };
            entries(payload, |read, engine, ms| {
                assert_eq!((read, ms), (entry(next, next % 2 == 0), next * 7));
                assert_eq!(engine.data.len(), if next % 5 == 0 { 255 } else { 0 });
                next += 1;
            })
            .unwrap();
        }
        assert_eq!(next, 2000);
    }

    #[test]
    fn what_is_refused() {
        let refused = |bytes: &[u8]| decode(bytes).unwrap_err();
        assert_eq!(refused(&[2, 1, 0, 0, 0, 0, 0, 16]), NoFrame::Version(2));
        assert_eq!(refused(&[1, 6, 0, 0, 0, 0, 0, 0]), NoFrame::Kind(6));
        assert_eq!(refused(&[1, 1, 1, 0, 0, 0, 0, 16]), NoFrame::Kind(1));
        assert_eq!(refused(&[1, 1, 0, 0, 0, 0, 0, 17]), NoFrame::Length(17));
        // Before anything of it has come.
        assert_eq!(refused(&[1, 3, 0, 0, 1, 0, 0, 0]), NoFrame::Length(1 << 24));
        assert_eq!(refused(&[1, 5, 0, 0, 0, 0, 0, 1, 9]), NoFrame::Value);
        assert_eq!(decode(&[1, 3, 0, 0, 0, 0, 0]), Ok(None));
        assert_eq!(entries(&[0, 0, 0], |_, _, _| ()), Err(NoFrame::Entry));
    }
}
