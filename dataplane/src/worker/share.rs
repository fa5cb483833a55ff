//! Which worker owns which part of the connection table.
//!
//! A connection lives in the shard that its client endpoint hashes to, and a shard belongs to one
//! worker. A packet that arrives anywhere else is handed over (`Verdict::HandOver`).

use crate::conn::SHARDS;

/// The table's shards dealt to workers, as one of the workers sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    me: u8,
    owners: [u8; SHARDS],
}

impl Share {
    /// Everything, for the only worker.
    pub const ALL: Share = Share {
        me: 0,
        owners: [0; SHARDS],
    };

    /// What `worker` of so many gets: shards are dealt like cards.
    ///
    /// # Panics
    /// There is no such worker, or there are more of them than shards.
    pub fn of(worker: usize, workers: usize) -> Share {
        assert!(
            worker < workers && workers <= SHARDS,
            "worker {worker} of {workers}"
        );
        let mut owners = [0; SHARDS];
        for (shard, owner) in owners.iter_mut().enumerate() {
            *owner = (shard % workers) as u8;
        }
        Share {
            me: worker as u8,
            owners,
        }
    }

    /// The worker that owns a shard.
    #[inline(always)]
    pub fn owner(&self, shard: u8) -> u8 {
        self.owners[usize::from(shard) % SHARDS]
    }

    /// The owner, if it is somebody else.
    #[inline(always)]
    pub fn elsewhere(&self, shard: u8) -> Option<u8> {
        let owner = self.owner(shard);
        (owner != self.me).then_some(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_one_owner() {
        let shares: Vec<Share> = (0..3).map(|n| Share::of(n, 3)).collect();
        for shard in 0..SHARDS as u8 {
            let owners = shares.iter().filter(|s| s.elsewhere(shard).is_none());
            assert_eq!(owners.count(), 1, "shard {shard}");
            let owner = shares[0].owner(shard);
            assert!(shares.iter().all(|s| s.owner(shard) == owner));
        }
        assert_eq!(Share::of(0, 1), Share::ALL);
    }
}
