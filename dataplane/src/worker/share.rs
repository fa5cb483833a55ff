//! Which worker owns which part of the connection table.
//!
//! A connection lives in the shard that its client endpoint hashes to, and a shard belongs to one
//! worker. A packet that arrives anywhere else is handed over (`Verdict::HandOver`).
//!
//! Where NICs bring plain packets over IPv4 to the right worker, the first pass takes that for
//! granted and looks in its own shards; only a miss asks whose the packet is.

use crate::conn::SHARDS;

/// In [`Share::plain_v4`]: the rest is a worker's number. Shards are fewer.
const ELSEWHERE: u8 = 0x80;
const _: () = assert!(SHARDS <= ELSEWHERE as usize);

/// Each shard is where it belongs.
const EACH: [u8; SHARDS] = {
    let mut each = [0; SHARDS];
    let mut shard = 0;
    while shard < SHARDS {
        each[shard] = shard as u8;
        shard += 1;
    }
    each
};

/// The table's shards dealt to workers, as one of the workers sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    me: u8,
    team: u8,
    owners: [u8; SHARDS],
    /// Where the first pass looks for plain packets over IPv4: one of this worker's shards, or
    /// [`ELSEWHERE`] and the owner.
    plain_v4: [u8; SHARDS],
    /// For each shard one of this worker's.
    mine: [u8; SHARDS],
}

impl Share {
    /// Everything, for the only worker.
    pub const ALL: Share = Share {
        me: 0,
        team: 1,
        owners: [0; SHARDS],
        plain_v4: EACH,
        mine: EACH,
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
        let mut mine = [0; SHARDS];
        let mut plain_v4 = EACH;
        for shard in 0..SHARDS {
            owners[shard] = (shard % workers) as u8;
            if shard % workers != worker {
                plain_v4[shard] = ELSEWHERE | owners[shard];
            }
            let near = shard - shard % workers + worker;
            mine[shard] = if near < SHARDS { near } else { near - workers } as u8;
        }
        Share {
            me: worker as u8,
            team: workers as u8,
            owners,
            plain_v4,
            mine,
        }
    }

    /// The same where the NICs steer IPv4.
    #[must_use]
    pub fn behind_nics(self) -> Share {
        Share {
            plain_v4: self.mine,
            ..self
        }
    }

    /// Number of the worker that sees it so.
    #[inline(always)]
    pub fn me(&self) -> u8 {
        self.me
    }

    /// How many workers there are.
    #[inline(always)]
    pub fn team(&self) -> u8 {
        self.team
    }

    /// The shard in which this worker keeps what would be in that one: that one, if it is its own.
    #[inline(always)]
    pub fn mine(&self, shard: u8) -> u8 {
        self.mine[usize::from(shard) % SHARDS]
    }

    /// The worker that owns a shard.
    #[inline(always)]
    pub fn owner(&self, shard: u8) -> u8 {
        self.owners[usize::from(shard) % SHARDS]
    }

    /// Where the first pass looks for a plain packet over IPv4 that belongs in this shard: the
    /// shard of this worker's, or else the worker that has it.
    #[inline(always)]
    pub fn plain_v4(&self, shard: u8) -> Result<u8, u8> {
        match self.plain_v4[usize::from(shard) % SHARDS] {
            place if place & ELSEWHERE == 0 => Ok(place),
            place => Err(place & !ELSEWHERE),
        }
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
            for s in &shares {
                assert_eq!(s.elsewhere(s.mine(shard)), None);
                assert_eq!(s.mine(s.mine(shard)), s.mine(shard));
            }
        }
        assert_eq!(Share::of(0, 1), Share::ALL);
        let trusting = shares[1].behind_nics();
        for shard in 0..SHARDS as u8 {
            let strict = shares[1].elsewhere(shard).map_or(Ok(shard), Err);
            assert_eq!(shares[1].plain_v4(shard), strict);
            assert_eq!(trusting.plain_v4(shard), Ok(trusting.mine(shard)));
            assert_eq!(trusting.elsewhere(shard), shares[1].elsewhere(shard));
        }
    }
}
