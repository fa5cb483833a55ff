//! Which worker owns which part of the connection table.
//!
//! A connection lives in the shard that its client endpoint hashes to, and a shard belongs to one
//! worker. A packet that arrives anywhere else is handed over (`Verdict::HandOver`).
//!
//! Where NICs bring plain packets over IPv4 to the right worker, the first pass takes that for
//! granted and looks in its own shards; only a miss asks whose the packet is.

use arrayvec::ArrayVec;

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

/// A shard's place in the row that is cut into equal parts for the workers.
///
/// The buckets by which NICs steer ([`Toeplitz`](crate::toeplitz::Toeplitz)) are numbers of
/// shards. Of a client's port the last bit decides the first one of the bucket, the last two the
/// first two, and so on: equal parts of the buckets would give each worker as many of a client's
/// ports in a row. But Linux takes every other port for its connections, and what the bits before
/// add hangs on the key. So the bits of the place depend on those below them, too: with
/// `x` (11 + 18 `x`), whose carries no key's sums undo. Ports in a row still spread evenly, since
/// bit i of the place is bit i of the bucket plus a function of the bits below. The numbers are
/// those that spread every other port best, whatever the key: of 64 such ports two workers have
/// 24 to 40 each, four 10 to 22.
const fn place(shard: usize) -> usize {
    shard * (11 + 18 * shard) % SHARDS
}

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

    /// What `worker` of so many gets: as many shards as the others.
    ///
    /// # Panics
    /// There is no such worker, or there are more of them than shards.
    pub fn of(worker: usize, workers: usize) -> Share {
        assert!(
            worker < workers && workers <= SHARDS,
            "worker {worker} of {workers}"
        );
        let owner = |shard| place(shard) * workers / SHARDS;
        let own: ArrayVec<u8, SHARDS> = (0..SHARDS)
            .filter(|shard| owner(*shard) == worker)
            .map(|shard| shard as u8)
            .collect();
        let mut owners = [0; SHARDS];
        let mut mine = EACH;
        let mut plain_v4 = EACH;
        let mut seen = [0; SHARDS];
        for shard in 0..SHARDS {
            let of = owner(shard);
            owners[shard] = of as u8;
            if of != worker {
                plain_v4[shard] = ELSEWHERE | of as u8;
                // The first of another's with the first of mine: all of mine in turn.
                mine[shard] = own[seen[of] % own.len()];
            }
            seen[of] += 1;
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
        for workers in [1, 2, 3, 8, 100, SHARDS] {
            one_owner_each(workers);
        }
    }

    fn one_owner_each(workers: usize) {
        let shares: Vec<Share> = (0..workers).map(|n| Share::of(n, workers)).collect();
        let least = SHARDS / workers;
        for share in &shares {
            let own = |shard: &u8| share.elsewhere(*shard).is_none();
            let count = (0..SHARDS as u8).filter(own).count();
            assert!((least..=least + 1).contains(&count), "{count} shards");
        }
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
    }

    #[test]
    fn who_trusts_the_nics_looks_at_home() {
        assert_eq!(Share::of(0, 1), Share::ALL);
        let shares: Vec<Share> = (0..3).map(|n| Share::of(n, 3)).collect();
        let trusting = shares[1].behind_nics();
        for shard in 0..SHARDS as u8 {
            let strict = shares[1].elsewhere(shard).map_or(Ok(shard), Err);
            assert_eq!(shares[1].plain_v4(shard), strict);
            assert_eq!(trusting.plain_v4(shard), Ok(trusting.mine(shard)));
            assert_eq!(trusting.elsewhere(shard), shares[1].elsewhere(shard));
        }
    }
}
