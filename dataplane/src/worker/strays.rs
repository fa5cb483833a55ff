//! Connections that are not where the role table has them: it had them here when they were made.
//!
//! While some class is unsettled, a worker looks through its connections for such, a little at a
//! time and over again. Control reads the counts, and settles the class when there are none left.

use super::deal::steered_by;
use super::steer::Way;
use super::{Core, Worker};
use crate::conn::{Entry, SHARDS, Side};
use crate::service::ForwardingMethod;

/// Entries looked at in one step, of which there are 8000 a second: some microseconds.
const STEP: u32 = 32;

/// Where a look stands.
#[derive(Debug, Default)]
pub(super) struct Strays {
    is_looking: bool,
    shard: usize,
    entry: u32,
    found: u32,
}

impl Strays {
    /// Begins anew, or ends.
    pub(super) fn start(&mut self, is_looking: bool) {
        *self = Strays {
            is_looking,
            ..Strays::default()
        };
    }

    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        !self.is_looking
    }
}

impl Worker {
    /// Looks at some entries.
    #[cold]
    pub(super) fn look_for_strays(&mut self) {
        for _ in 0..STEP {
            let at = &mut self.strays;
            let Some(shard) = self.shards.get(at.shard) else {
                return;
            };
            if at.entry < shard.touched() {
                let entry = shard.entry(at.entry).filter(|e| e.is_valid());
                at.found += u32::from(entry.is_some_and(|e| self.core.is_stray(e)));
                at.entry += 1;
                continue;
            }
            (at.shard, at.entry) = ((at.shard + 1) % SHARDS, 0);
            if at.shard == 0 {
                let counters = &self.core.counters;
                counters.strays.set(core::mem::take(&mut at.found));
                counters.stray_looks.add(1);
            }
        }
    }
}

impl Core {
    /// Whether packets of a connection, or new ones of a template's clients, go to another worker.
    fn is_stray(&self, entry: &Entry) -> bool {
        let is_elsewhere = |side, protocol, other| {
            let client = entry.client();
            let way = Way {
                side,
                protocol,
                client,
                other,
            };
            self.meeting(&way).owner != self.share.me()
        };
        let (protocol, other) = steered_by(entry);
        if entry.is_template() {
            let class = (self.roles.steering()).class(protocol, &other.addr, other.port);
            return class.mask.is_some() && is_elsewhere(Side::Reply, protocol, other);
        }
        is_elsewhere(Side::Request, protocol, other)
            || entry.method() == ForwardingMethod::Masquerade
                && is_elsewhere(Side::Reply, protocol, entry.dest())
    }
}
