//! With `expire_nodest_conn`, connections of a deleted real server end soon after the deletion
//! (`ip_vs_expire_nodest_conn_flush`): a round through the table, a little at a time. So do those of
//! a server whose time is over ([`Withdrawal::Over`]), whatever the setting.

use super::{Core, Worker};
use crate::conn::{Entry, SHARDS};
use crate::service::Withdrawal;

/// Entries looked at in one step: some microseconds.
const STEP: u32 = 256;

/// Where a round stands.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Shards still to be looked through.
    left: usize,
    shard: usize,
    entry: u32,
}

impl Sweep {
    /// Begins so many rounds; one under way begins anew, because what it has passed may be meant.
    pub(super) fn start(&mut self, rounds: usize) {
        self.left = self.left.max(rounds * SHARDS);
        self.entry = 0;
    }

    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.left == 0
    }
}

impl Worker {
    /// Looks at some entries. What controls others ends after them.
    #[cold]
    pub(super) fn sweep_on(&mut self) {
        for _ in 0..STEP {
            let sweep = &mut self.sweep;
            let (at, i) = (sweep.shard, sweep.entry);
            if sweep.is_idle() {
                return;
            }
            let Some(shard) = self.shards.get(at) else {
                return;
            };
            if i >= shard.touched() {
                sweep.left -= 1;
                sweep.shard = (at + 1) % SHARDS;
                sweep.entry = 0;
                continue;
            }
            sweep.entry += 1;
            let core = &self.core;
            let goes = shard
                .entry(i)
                .is_some_and(|e| e.is_valid() && core.is_to_end(e) && e.controls() == 0);
            if goes {
                core.counters.expired.add(1);
                self.end_with_template(at, i);
            }
        }
    }
}

impl Core {
    fn is_to_end(&self, entry: &Entry) -> bool {
        let dest = self.dests.get(entry.dest_id().0 as usize);
        let is_over = dest.is_some_and(|dest| dest.withdrawn == Some(Withdrawal::Over));
        is_over || (self.settings.expire_nodest_conn && self.is_deleted(entry))
    }
}
