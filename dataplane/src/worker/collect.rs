//! Copies of connections for a peer: what listings show one way, a backup that joined late or
//! missed announcements gets another way, whole.

use super::Worker;
use super::announce::announcement;
use crate::command::DumpCursor;
use crate::conn::Entry;
use crate::conn::entry::flag;
use crate::sync::Collection;
use crate::time::Ticks;

/// Entries looked at for one command, live or not: packets wait meanwhile.
const VISITS: u32 = 512;

impl Worker {
    /// Goes on through the table from a cursor. `see` is shown entries, live or not, with shard
    /// and number; at the first that it refuses the walk stops and will go on.
    pub(super) fn walk_table(
        &self,
        cursor: &mut DumpCursor,
        mut see: impl FnMut(usize, u32, &Entry) -> bool,
    ) {
        let mut visits = VISITS;
        while cursor.shard < cursor.end
            && let Some(shard) = self.shards.get(cursor.shard as usize)
        {
            while cursor.entry < shard.touched() {
                if visits == 0 {
                    return;
                }
                visits -= 1;
                if let Some(entry) = shard.entry(cursor.entry)
                    && !see(cursor.shard as usize, cursor.entry, entry)
                {
                    return;
                }
                cursor.entry += 1;
            }
            cursor.shard += 1;
            cursor.entry = 0;
        }
        cursor.done = true;
    }

    /// Copies wanted entries out until the collection is full. Half-open connections are not
    /// copied, as they are never announced.
    pub(super) fn collect(&self, now: Ticks, collection: &mut Collection) {
        let mut cursor = collection.cursor;
        self.walk_table(&mut cursor, |at, i, entry| {
            let unfit = flag::HALF_OPEN | flag::ONE_PACKET;
            let idle = idle(entry, now);
            let wanted = &collection.wanted;
            let is_wanted = entry.is_valid()
                && entry.flags & unfit == 0
                && wanted.active_within.is_none_or(|ticks| idle <= ticks)
                && (wanted.moved_by).is_none_or(|ticks| self.moved(at, i, entry, ticks));
            if !is_wanted {
                return true;
            }
            let Some(told) = announcement(entry) else {
                collection.unsaid += 1;
                return true;
            };
            let data = entry.engine_data().map(|at| self.core.engine_data.get(at));
            collection.put(told, data, idle)
        });
        collection.cursor = cursor;
    }
}

/// Ticks since an entry's time began last: since its last packet, if its state was not prolonged.
pub(super) fn idle(entry: &Entry, now: Ticks) -> u32 {
    let began = Ticks(entry.deadline.wrapping_sub(entry.timeout));
    now.since(began).max(0) as u32
}
