//! What a worker announces, on its way to the thread that sends it.

use crossbeam::queue::ArrayQueue;

use super::{EngineData, SyncEntry};
use crate::counters::Counter;
use crate::service::Engine;

/// Announcements that may wait.
pub const CAPACITY: usize = 1 << 14;
/// Pieces of engine data that may wait.
const DATA_CAPACITY: usize = 1 << 9;
/// Longest piece.
const MAX_DATA: usize = 255;

/// An announcement. Data that an engine keeps follow in a queue of their own, as few have any.
#[derive(Clone, Copy, Debug)]
struct Announced {
    entry: SyncEntry,
    /// Number of its data, 0 for none.
    data: u32,
}

#[derive(Clone, Debug)]
struct Data {
    number: u32,
    engine: Engine,
    len: u8,
    bytes: [u8; MAX_DATA],
}

/// The queue from one worker to one thread. A full one forgets the oldest announcement: newer ones
/// are worth more, and what was forgotten is announced again later.
#[derive(Debug)]
pub struct Outbox {
    entries: ArrayQueue<Announced>,
    data: ArrayQueue<Data>,
    /// Announcements made.
    pub announced: Counter,
    /// Announcements forgotten. Only the worker writes either.
    pub lost: Counter,
}

impl Default for Outbox {
    fn default() -> Outbox {
        Outbox::new()
    }
}

impl Outbox {
    /// An empty one.
    pub fn new() -> Outbox {
        Outbox {
            entries: ArrayQueue::new(CAPACITY),
            data: ArrayQueue::new(DATA_CAPACITY),
            announced: Counter::default(),
            lost: Counter::default(),
        }
    }

    /// Puts an announcement in; called by the worker. True if an older one made room for it.
    pub fn put(&self, entry: SyncEntry, engine: Option<(Engine, &[u8])>) -> bool {
        self.announced.add(1);
        let mut data = 0;
        if let Some((engine, bytes)) = engine
            && let Ok(len) = u8::try_from(bytes.len())
        {
            data = (self.announced.get() as u32).max(1);
            let mut kept = Data {
                number: data,
                engine,
                len,
                bytes: [0; MAX_DATA],
            };
            if let Some(place) = kept.bytes.get_mut(..bytes.len()) {
                place.copy_from_slice(bytes);
            }
            // The announcement of data that are gone is passed over.
            self.data.force_push(kept);
        }
        let is_lost = self.entries.force_push(Announced { entry, data }).is_some();
        if is_lost {
            self.lost.add(1);
        }
        is_lost
    }

    /// Takes the oldest announcement out and shows it, with its engine data, to `see`; called by
    /// the one thread that sends. False if there is none.
    pub fn take(&self, see: impl FnOnce(&SyncEntry, &EngineData<'_>)) -> bool {
        let Some(Announced { entry, data }) = self.entries.pop() else {
            return false;
        };
        if data == 0 {
            see(&entry, &EngineData::default());
            return true;
        }
        // Numbers rise: older data are of announcements that were forgotten.
        while let Some(kept) = self.data.pop() {
            if kept.number == data {
                let engine = EngineData {
                    data: kept.bytes.get(..usize::from(kept.len)).unwrap_or(&[]),
                    name: kept.engine.name().as_bytes(),
                };
                see(&entry, &engine);
                break;
            }
            if kept.number > data {
                self.data.force_push(kept);
                break;
            }
        }
        true
    }

    /// Announcements that wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is room for what is announced again.
    pub fn is_half_empty(&self) -> bool {
        self.entries.len() < CAPACITY / 2
    }
}
