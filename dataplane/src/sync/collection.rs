//! A copy of what a worker has, for a peer that joined late or missed something.

use super::{Batch, EngineData, SyncEntry};
use crate::command::DumpCursor;

/// Bytes of engine data of one collection: some hundred Call-IDs.
const DATA: usize = 1 << 15;

/// Which entries are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only those with a packet in so many ticks.
    pub active_within: Option<u32>,
    /// Only those that a backup knows by an announcement or an earlier copy, and whose end has
    /// moved by so many ticks since they were announced last.
    pub moved_by: Option<u32>,
}

/// Entries that a worker copies out, from a cursor on.
#[derive(Debug)]
pub struct Collection {
    /// Where to go on.
    pub cursor: DumpCursor,
    /// Which of them.
    pub wanted: Wanted,
    /// The entries; filled up to its capacity, never grown.
    pub batch: Batch,
    /// Entries that the format has no words for: addresses of both families.
    pub unsaid: u32,
}

impl Collection {
    /// An empty one with room for so many entries.
    pub fn with_room(rows: usize) -> Collection {
        Collection {
            cursor: DumpCursor::default(),
            wanted: Wanted::default(),
            batch: Batch {
                rows: Vec::with_capacity(rows),
                data: Vec::with_capacity(DATA),
            },
            unsaid: 0,
        }
    }

    /// Takes an entry that had its last packet so many ticks ago; false if it is for the next
    /// collection.
    pub(crate) fn put(&mut self, entry: SyncEntry, data: Option<&[u8]>, idle: u32) -> bool {
        let Batch { rows, data: kept } = &mut self.batch;
        let data = data.unwrap_or(&[]);
        let has_room = rows.len() < rows.capacity() && data.len() <= kept.capacity() - kept.len();
        if has_room {
            let engine = EngineData { data, name: b"" };
            self.batch.push_copy(entry, &engine, idle);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Addr, Endpoint};

    #[test]
    fn nothing_grows() {
        let end = Endpoint::new(Addr::v4([1; 4]), 1);
        let entry = SyncEntry {
            protocol: 17,
            flags: super::super::flag::TEMPLATE,
            state: 0,
            client: end,
            virtual_: end,
            dest: end,
            fwmark: 0,
            timeout: 1,
            sequence: None,
        };
        let mut collection = Collection::with_room(200);
        let (rows, data) = {
            let Batch { rows, data } = &collection.batch;
            (rows.capacity(), data.capacity())
        };
        let piece = [7; 255];
        let taken = (0..1000).filter(|_| collection.put(entry, Some(&piece), 0));
        assert_eq!(taken.count(), data / 255);
        let taken = (0..1000).filter(|_| collection.put(entry, None, 0));
        assert_eq!(taken.count(), rows - data / 255);
        let Batch { rows: r, data: d } = &collection.batch;
        assert_eq!((r.capacity(), d.capacity()), (rows, data));
    }
}
