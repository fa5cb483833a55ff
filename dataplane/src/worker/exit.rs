//! Exits: what the usual path needs of a destination, worked out beforehand.
//!
//! An exit holds until something changes that it was made from. Whatever is applied to a worker
//! begins a new epoch, and so does the word of a router about a path MTU; a route that was looked
//! up makes the exit of one destination old. The walk, which asks every question itself, makes an
//! exit anew after it has sent a packet there.

use super::Core;
use crate::dests::Exit;
use crate::route::NeighbourId;
use crate::service::DestId;
use crate::time::Instant;

impl Core {
    /// Nothing that was worked out before is to be believed.
    pub(super) fn begin_epoch(&mut self) {
        self.epoch = self.epoch.wrapping_add(1).max(1);
    }

    /// Makes the exit of a destination anew if it is old.
    #[inline(always)]
    pub(super) fn tend_exit(&mut self, now: Instant, id: DestId) {
        let is_old = |exit: &Exit| exit.epoch != self.epoch;
        if self.exits.get(id.0 as usize).is_some_and(is_old) {
            self.make_exit(now, id);
        }
    }

    #[cold]
    fn make_exit(&mut self, now: Instant, id: DestId) {
        let (Some(dest), Some(exit)) = (
            self.dests.get(id.0 as usize),
            self.exits.get_mut(id.0 as usize),
        ) else {
            return;
        };
        let is_current = dest.available && dest.generation == self.router.generation();
        let hop = self.router.plain_hop(NeighbourId(dest.hop));
        *exit = match hop.filter(|_| is_current) {
            Some(hop) => {
                let mtu = dest.mtu.min(hop.mtu);
                // Should it grow again meanwhile, the walk sends what is longer.
                let path_mtu = self.paths.limit(id, mtu, now);
                Exit::new(dest, hop, mtu, path_mtu, self.epoch)
            }
            None => Exit {
                epoch: self.epoch,
                ..Exit::NONE
            },
        };
    }

    /// The route to a destination was looked up.
    pub(super) fn forget_exit(&mut self, id: DestId) {
        if let Some(exit) = self.exits.get_mut(id.0 as usize) {
            exit.epoch = 0;
        }
    }
}
