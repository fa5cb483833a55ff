//! What was received and goes to the workers.

use super::{EngineData, SyncEntry};
use crate::command::DataRange;

/// Entries of one batch: packets wait while a worker takes it.
pub const BATCH: usize = 32;

/// How old an entry is that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Announced just now: it holds, whatever is known here.
    Announced,
    /// Copied from a master's table, so many ticks after its last packet: what is known here may
    /// be newer.
    Copied(u32),
}

/// An entry that was received.
#[derive(Clone, Copy, Debug)]
pub struct Synced {
    /// As it was announced.
    pub entry: SyncEntry,
    /// Where in the batch's data those are that an engine keeps with it.
    pub data: Option<DataRange>,
    /// How old it is.
    pub age: Age,
}

/// Entries for the workers, at most [`BATCH`]. Each takes those whose clients' packets it gets.
#[derive(Debug, Default)]
pub struct Batch {
    /// The entries, in the order in which they came.
    pub rows: Vec<Synced>,
    /// Engine data of all of them.
    pub data: Vec<u8>,
}

impl Batch {
    /// Whether it takes no more.
    pub fn is_full(&self) -> bool {
        self.rows.len() >= BATCH
    }

    /// Appends an entry that was announced.
    pub fn push(&mut self, entry: SyncEntry, engine: &EngineData<'_>) {
        self.append(entry, engine, Age::Announced);
    }

    /// Appends one that was copied, so many ticks after its last packet.
    pub fn push_copy(&mut self, entry: SyncEntry, engine: &EngineData<'_>, idle: u32) {
        self.append(entry, engine, Age::Copied(idle));
    }

    fn append(&mut self, entry: SyncEntry, engine: &EngineData<'_>, age: Age) {
        let range = DataRange {
            start: self.data.len() as u32,
            len: engine.data.len() as u16,
        };
        self.data.extend_from_slice(engine.data);
        self.rows.push(Synced {
            entry,
            data: (range.len != 0).then_some(range),
            age,
        });
    }

    /// Engine data of one of its rows.
    pub fn data_of(&self, row: &Synced) -> Option<&[u8]> {
        let range = row.data?;
        let start = range.start as usize;
        self.data.get(start..start + usize::from(range.len))
    }
}
