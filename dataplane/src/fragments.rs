//! What became of the first piece of each packet that came in pieces, so that the others follow.
//!
//! Only the first piece has ports. It is balanced like a whole packet, and what was decided is
//! kept here under (source, destination, identification, protocol) until all pieces have passed
//! or a timeout. Nothing of a packet is kept, so the memory is small and fixed: a flood of
//! fragments can push others out, but costs no more.

use core::time::Duration;

use crate::addr::{Addr, Family};
use crate::conn::HashKey;
use crate::flow::{Flow, Fragment};
use crate::packet::{DropReason, PuntClass};
use crate::service::{DestId, ForwardingMethod};
use crate::time::Instant;

/// Packets that are followed at once.
const PACKETS: usize = 4096;

/// Entries that one packet may be in.
const WAYS: usize = 8;

/// How long pieces may follow their first, IPv4 (`net.ipv4.ipfrag_time`).
const TIME_V4: Duration = Duration::from_secs(30);

/// The same for IPv6 (`net.ipv6.ip6frag_time`).
const TIME_V6: Duration = Duration::from_secs(60);

/// What was decided about a first piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// To its own destination (`cache_bypass`).
    Onwards,
    /// To a real server.
    ToServer {
        /// Which.
        dest: DestId,
        /// How it is reached.
        method: ForwardingMethod,
        /// Its address, which NAT writes into each piece.
        real: Addr,
    },
    /// From a NAT server to a client.
    ToClient {
        /// Whose answer it is.
        dest: DestId,
        /// What NAT writes into each piece as its source.
        virtual_: Addr,
    },
    /// The kernel's.
    Kernel(PuntClass),
    /// Refused, as the others are.
    Dropped(DropReason),
    /// To the worker that has the connection.
    Worker(u8),
}

/// What the pieces of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    src: Addr,
    dst: Addr,
    id: u32,
    protocol: u8,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Key,
    fate: Fate,
    until: Instant,
    /// Bytes of payload that have passed, and all of them once the last piece has told.
    passed: u32,
    total: u32,
}

const NOBODY: Entry = Entry {
    key: Key {
        src: Addr::UNSPECIFIED,
        dst: Addr::UNSPECIFIED,
        id: 0,
        protocol: 0,
    },
    fate: Fate::Dropped(DropReason::Fragment),
    until: Instant(0),
    passed: 0,
    total: u32::MAX,
};

/// The table. Allocates in `new` only.
#[derive(Debug)]
pub struct Fragments {
    entries: Box<[Entry]>,
    hash: HashKey,
}

impl Fragments {
    /// An empty table; `hash` is secret, so that nobody can choose which entries collide.
    pub fn new(hash: HashKey) -> Fragments {
        Fragments {
            entries: vec![NOBODY; PACKETS].into_boxed_slice(),
            hash,
        }
    }

    /// Remembers what was decided about a first piece. If there is no room, the packet whose
    /// time is up soonest is forgotten.
    pub fn decided(&mut self, flow: &Flow, piece: Fragment, fate: Fate, now: Instant) {
        let key = key_of(flow, piece);
        let Some(ways) = self.ways(&key) else { return };
        let same = ways.iter().position(|e| e.key == key);
        let soonest = || (0..ways.len()).min_by_key(|i| ways.get(*i).map_or(0, |e| e.until.0));
        let Some(entry) = same.or_else(soonest).and_then(|i| ways.get_mut(i)) else {
            return;
        };
        let time = match flow.src.family() {
            Family::V4 => TIME_V4,
            Family::V6 => TIME_V6,
        };
        *entry = Entry {
            key,
            fate,
            until: now + time,
            ..NOBODY
        };
        entry.pass(flow, piece);
    }

    /// What becomes of a later piece; `None` if its first has not come yet.
    pub fn follow(&mut self, flow: &Flow, piece: Fragment, now: Instant) -> Option<Fate> {
        let key = key_of(flow, piece);
        let entry = self
            .ways(&key)?
            .iter_mut()
            .find(|e| e.key == key && now < e.until)?;
        let fate = entry.fate;
        entry.pass(flow, piece);
        Some(fate)
    }

    /// Forgets what was decided about a packet.
    pub fn forget(&mut self, flow: &Flow, piece: Fragment) {
        let key = key_of(flow, piece);
        let ways = self.ways(&key).unwrap_or(&mut []);
        if let Some(entry) = ways.iter_mut().find(|e| e.key == key) {
            *entry = NOBODY;
        }
    }

    /// Where the pieces of a packet meet: the owner of this shard knows about the first.
    pub fn shard(&self, flow: &Flow, piece: Fragment) -> u8 {
        let key = key_of(flow, piece);
        let (low, high) = (key.id as u16, (key.id >> 16) as u16);
        let hash = self.hash.hash(key.protocol, &key.src, low, &key.dst, high);
        hash.shard
    }

    /// Packets that are followed now.
    #[cfg(test)]
    fn len(&self, now: Instant) -> usize {
        self.entries.iter().filter(|e| now < e.until).count()
    }

    fn ways(&mut self, key: &Key) -> Option<&mut [Entry]> {
        let (high, low) = ((key.id >> 16) as u16, key.id as u16);
        let hash = self.hash.hash(key.protocol, &key.src, high, &key.dst, low);
        let set = hash.bucket((PACKETS / WAYS) as u32) as usize;
        self.entries.get_mut(set * WAYS..(set + 1) * WAYS)
    }
}

impl Entry {
    /// Counts a piece; after the last one the identification may mean another packet.
    fn pass(&mut self, flow: &Flow, piece: Fragment) {
        self.passed = self.passed.saturating_add(u32::from(flow.l4_len));
        if !piece.more {
            self.total = u32::from(piece.offset) + u32::from(flow.l4_len);
        }
        // IPv6 counts from the fragment header on: headers behind it are part of the payload.
        if self.passed >= self.total {
            *self = NOBODY;
        }
    }
}

fn key_of(flow: &Flow, piece: Fragment) -> Key {
    Key {
        src: flow.src,
        dst: flow.dst,
        id: piece.id,
        protocol: flow.protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table() -> Fragments {
        Fragments::new(HashKey([
            0x9e37_79b9_7f4a_7c15,
            0xd1b5_4a32_d192_ed03,
            0xaef1_7502_108e_f2d9,
            7919,
        ]))
    }

    fn flow(last: u8, len: u16) -> Flow {
        Flow {
            src: Addr::v4([10, 0, 0, last]),
            dst: Addr::v4([10, 1, 0, 1]),
            l4_len: len,
            protocol: 17,
            ..Flow::EMPTY
        }
    }

    fn piece(id: u32, offset: u16, more: bool) -> Fragment {
        Fragment { id, offset, more }
    }

    const FATE: Fate = Fate::Kernel(PuntClass::Host);

    #[test]
    fn pieces_follow_until_all_have_passed() {
        let (mut t, now) = (table(), Instant::from_secs(5));
        assert_eq!(t.follow(&flow(1, 80), piece(7, 800, false), now), None);
        t.decided(&flow(1, 400), piece(7, 0, true), FATE, now);
        for (other, id) in [(2, 7), (1, 8)] {
            assert_eq!(t.follow(&flow(other, 8), piece(id, 400, true), now), None);
        }
        // The last one before the one in the middle.
        assert_eq!(
            t.follow(&flow(1, 80), piece(7, 800, false), now),
            Some(FATE)
        );
        assert_eq!(t.len(now), 1);
        assert_eq!(
            t.follow(&flow(1, 400), piece(7, 400, true), now),
            Some(FATE)
        );
        assert_eq!(t.len(now), 0);
        assert_eq!(t.follow(&flow(1, 400), piece(7, 400, true), now), None);
    }

    #[test]
    fn time_runs_out_and_a_new_first_piece_decides_anew() {
        let (mut t, now) = (table(), Instant::from_secs(5));
        let drop = Fate::Dropped(DropReason::NoDestination);
        t.decided(&flow(1, 400), piece(7, 0, true), FATE, now);
        t.decided(&flow(1, 400), piece(7, 0, true), drop, now);
        assert_eq!(t.len(now), 1);
        let late = now + Duration::from_secs(29);
        assert_eq!(t.follow(&flow(1, 8), piece(7, 400, true), late), Some(drop));
        let late = now + Duration::from_secs(30);
        assert_eq!(t.follow(&flow(1, 8), piece(7, 400, true), late), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_flood_costs_no_memory_and_newcomers_still_pass(
            seed in any::<u32>(),
            count in 1u32..20_000,
        ) {
            let (mut t, now) = (table(), Instant::from_secs(5));
            let room = t.entries.len();
            for i in 0..count {
                let id = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9));
                let at = now + Duration::from_micros(u64::from(i));
                t.decided(&flow(i as u8, 400), piece(id, 0, true), FATE, at);
                // The newest is never the one that was forgotten.
                prop_assert_eq!(
                    t.follow(&flow(i as u8, 8), piece(id, 400, true), at),
                    Some(FATE)
                );
            }
            prop_assert!(t.len(now) <= PACKETS);
            prop_assert!(t.len(now) >= (count as usize).min(PACKETS) / 2);
            prop_assert_eq!(t.entries.len(), room);
            prop_assert_eq!(t.len(now + Duration::from_secs(100)), 0);
        }
    }
}
