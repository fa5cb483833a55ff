//! One self-contained part of the table: index, entries, timers, free list.

use super::entry::{Entry, NIL, NewConnection, NewTemplate, flag};
use super::hash::{HashKey, KeyHash};
use super::index::{Index, REPLY};
use super::prefetch::{Line, prefetch};
use super::wheel::{SLOT_TICKS, Wheel};
use crate::addr::Endpoint;
use crate::service::ForwardingMethod;
use crate::time::{TICKS_PER_SECOND, Ticks, secs};

/// A shard of the connection table, owned by exactly one worker. Its size is a power of two, so
/// that the packet path finds one of them by a shift.
#[derive(Debug)]
#[repr(align(128))]
pub struct Shard {
    index: Index,
    entries: &'static mut [Entry],
    wheel: Wheel,
    /// Head of the list of entries given back.
    free: u32,
    /// Entries from here on were never used: memory is touched only when needed.
    fresh: u32,
    used: u32,
    /// Connections that it is for; it has more entries than that.
    share: u32,
    key: HashKey,
    /// The youngest connection, whose reply tuple is still to be put into the index: its bucket
    /// is far away and was asked for. [`NIL`] for none.
    owed: u32,
    owed_reply: KeyHash,
    /// Where [`Shard::next_quiet`] goes on.
    hand: u32,
}

const _: () = assert!(size_of::<Shard>().is_power_of_two());

/// No hash that is asked for.
const NO_HASH: KeyHash = KeyHash { shard: 0, bits: 0 };

/// What an entry that controls others has left when its own time is up, ticks.
const CONTROL_TIMEOUT: u32 = secs(60);

/// Ticks of the kernel's timers a second (`HZ`), as distributions have it.
const HZ: u32 = 250;

/// Entries whose ends lie closer together than this end together, the controlled ones first. The
/// kernel's timers run in slots, too, the wider the longer they are: 1, 8, 64... of its ticks
/// where there are 63 slots of them (`calc_wheel_index`), and within a slot the newest runs
/// first. So a template and the connection that was made with it end in one go there. Half a
/// slot is where that becomes more likely than the opposite, and a slot of ours is the least.
fn together(timeout: u32) -> u32 {
    let ticks = (timeout / TICKS_PER_SECOND).saturating_mul(HZ);
    let mut slot = 1;
    while ticks >= 63 * slot && slot < 8 * 8 * 8 * 8 * 8 {
        slot *= 8;
    }
    (slot * TICKS_PER_SECOND / HZ / 2).max(SLOT_TICKS)
}

/// Where the reply slot of a connection lies while a newer one has the same reply tuple: in a
/// bucket of its own, where no packet looks.
fn aside(reply: KeyHash) -> KeyHash {
    KeyHash {
        shard: reply.shard,
        bits: !reply.bits,
    }
}

/// What a packet is to the connection it was found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the client.
    Request,
    /// From the real server.
    Reply,
}

impl Shard {
    /// Puts a shard together. The memory may hold entries of an earlier run: see
    /// [`Shard::rebuild`].
    pub(super) fn new(
        index: Index,
        heads: &'static mut [u32],
        entries: &'static mut [Entry],
        key: HashKey,
        share: u32,
        now: Ticks,
    ) -> Shard {
        Shard {
            index,
            entries,
            wheel: Wheel::new(heads, now),
            free: NIL,
            fresh: 0,
            used: 0,
            share,
            key,
            owed: NIL,
            owed_reply: NO_HASH,
            hand: 0,
        }
    }

    /// A shard that another worker has: it holds nothing and takes nothing.
    pub fn absent(key: HashKey) -> Shard {
        Shard {
            index: Index::absent(),
            entries: &mut [],
            wheel: Wheel::new(&mut [], Ticks(0)),
            free: NIL,
            fresh: 0,
            used: 0,
            share: 0,
            key,
            owed: NIL,
            owed_reply: NO_HASH,
            hand: 0,
        }
    }

    /// Whether a reply may be of a connection that the index does not show yet.
    #[inline(always)]
    pub fn is_owed(&self) -> bool {
        self.owed != NIL
    }

    /// Puts the reply tuple of the youngest connection into the index.
    #[inline]
    pub fn settle(&mut self) {
        let i = core::mem::replace(&mut self.owed, NIL);
        if let Some(entry) = self.entries.get_mut(i as usize) {
            entry.flags &= !flag::OWED;
            // There is room for two slots of each entry.
            let _ = self.add_reply(i, self.owed_reply);
        }
    }

    /// Drops entries that are not whole and rebuilds the rest ([`Shard::rebuild`]). Returns how
    /// many were dropped.
    pub(super) fn recover(&mut self, now: Ticks) -> u32 {
        let mut torn = 0;
        for entry in &mut *self.entries {
            if entry.is_valid() && !entry.is_whole(now) {
                entry.retire();
                torn += 1;
            }
            // Of no router: neighbours have other numbers now.
            entry.route_generation = 0;
        }
        self.rebuild();
        torn
    }

    /// Rebuilds index, timers and free list from the entries alone. Returns how many entries
    /// live; those whose identity makes no sense are given up.
    pub fn rebuild(&mut self) -> u32 {
        self.index.clear();
        self.wheel.clear();
        self.owed = NIL;
        self.free = NIL;
        self.used = 0;
        self.fresh = self.entries.len() as u32;
        let mut half_open = Vec::new();
        // The youngest after all others.
        let is_owed = |e: &Entry| e.is_valid() && e.flags & flag::OWED != 0;
        let youngest = self.entries.iter().position(is_owed).map(|i| i as u32);
        let others = (0..self.entries.len() as u32)
            .rev()
            .filter(|i| Some(*i) != youngest);
        for i in others.chain(youngest) {
            if Some(i) == youngest {
                self.entries[i as usize].flags &= !flag::OWED;
            }
            let live =
                self.entries[i as usize].is_valid() && self.entries[i as usize].makes_sense();
            if live && self.add_to_index(i, self.hashes(&self.entries[i as usize])) {
                self.used += 1;
                self.entries[i as usize].next = NIL;
                self.entries[i as usize].prev = NIL;
                if self.entries[i as usize].flags & flag::HALF_OPEN != 0 {
                    half_open.push(i);
                } else {
                    self.wheel.link(self.entries, i);
                }
            } else {
                self.give_back(i);
            }
        }
        self.uncover_orphans();
        // Their list is one by age.
        half_open.sort_by_key(|&i| self.wheel.left(&self.entries[i as usize]));
        for i in half_open {
            self.wheel.link_half_open(self.entries, i);
        }
        self.used
    }

    /// After a crash the one that hid a connection may be gone without having shown it.
    fn uncover_orphans(&mut self) {
        for i in 0..self.entries.len() as u32 {
            if self.entries[i as usize].is_valid()
                && self.has_flag(i, flag::HIDDEN)
                && let (_, Some(reply)) = self.hashes(&self.entries[i as usize])
                && self.rival(i, reply).is_none()
            {
                self.set_hidden(i, reply, false);
            }
        }
    }

    fn give_back(&mut self, i: u32) {
        if let Some(entry) = self.entries.get_mut(i as usize) {
            entry.retire();
            entry.next = self.free;
            entry.prev = NIL;
            self.free = i;
        }
    }

    #[inline(always)]
    fn request_hash(&self, e: &Entry) -> KeyHash {
        let (c, v) = (e.client(), e.virtual_());
        self.key
            .hash(e.protocol(), &c.addr, c.port, &v.addr, v.port)
    }

    #[inline(always)]
    fn reply_hash(&self, e: &Entry) -> KeyHash {
        let (c, d) = (e.client(), e.dest());
        self.key
            .hash(e.protocol(), &c.addr, c.port, &d.addr, d.port)
    }

    /// The visible connection other than `i` that has the reply tuple of `i`.
    ///
    /// A client endpoint may reach one real server by two virtual ones; its replies then belong
    /// to the newest connection, as in the kernel's chains. The older ones lie [`aside`] until it
    /// ends.
    fn rival(&self, i: u32, hash: KeyHash) -> Option<u32> {
        let entry = self.entry(i)?;
        let (client, dest, protocol) = (entry.client(), entry.dest(), entry.protocol());
        let is_rival = |slot: u32| {
            slot & REPLY != 0
                && slot != i | REPLY
                && self.is_match(slot, Side::Reply, protocol, &client, &dest)
        };
        self.index.find(hash, is_rival).map(|slot| slot & !REPLY)
    }

    /// Makes the replies of a connection found again, or stops that, for a newer one.
    fn set_hidden(&mut self, i: u32, reply: KeyHash, hidden: bool) {
        let (from, to) = match hidden {
            true => (reply, aside(reply)),
            false => (aside(reply), reply),
        };
        self.index.remove(from, i | REPLY);
        // No room: its replies stay unknown, as those of any stranger.
        let _ = self.index.insert(to, i | REPLY);
        if let Some(entry) = self.entries.get_mut(i as usize) {
            entry.flags = entry.flags & !flag::HIDDEN | if hidden { flag::HIDDEN } else { 0 };
        }
    }

    /// Adds the reply tuple of a connection, which is the youngest that has it unless it is
    /// known to be hidden.
    fn add_reply(&mut self, i: u32, reply: KeyHash) -> bool {
        if self.has_flag(i, flag::HIDDEN) {
            return self.index.insert(aside(reply), i | REPLY);
        }
        let older = self.rival(i, reply);
        if !self.index.insert(reply, i | REPLY) {
            return false;
        }
        if let Some(older) = older {
            // What it hid itself may have ended since.
            let mut hides = false;
            self.for_each_hidden(i, reply, |_| hides = true);
            if let Some(entry) = self.entries.get_mut(older as usize)
                && !hides
            {
                entry.flags &= !flag::HIDES;
            }
            self.set_hidden(older, reply, true);
            if let Some(entry) = self.entries.get_mut(i as usize) {
                entry.flags |= flag::HIDES;
            }
        }
        true
    }

    fn has_flag(&self, i: u32, flag: u16) -> bool {
        self.entry(i).is_some_and(|e| e.flags & flag != 0)
    }

    /// Removes the reply tuple of a connection; one that it hid is visible then.
    fn remove_reply(&mut self, i: u32, reply: KeyHash, flags: u16) {
        if flags & flag::HIDDEN != 0 {
            self.index.remove(aside(reply), i | REPLY);
            self.forget_hidden(i, reply);
            return;
        }
        self.index.remove(reply, i | REPLY);
        if flags & flag::HIDES != 0 {
            self.uncover(i, reply);
        }
    }

    /// Visits the hidden connections with the reply tuple of `like`.
    fn for_each_hidden(&self, like: u32, reply: KeyHash, mut visit: impl FnMut(u32)) {
        let Some(entry) = self.entry(like) else {
            return;
        };
        let (client, dest, protocol) = (entry.client(), entry.dest(), entry.protocol());
        let _ = self.index.find(aside(reply), |slot| {
            if slot & REPLY != 0 && self.is_match(slot, Side::Reply, protocol, &client, &dest) {
                visit(slot & !REPLY);
            }
            false
        });
    }

    /// Of the hidden ones with its tuple `gone` is gone: a single one that is left hides nobody.
    #[cold]
    fn forget_hidden(&mut self, gone: u32, reply: KeyHash) {
        let (mut count, mut last) = (0, NIL);
        self.for_each_hidden(gone, reply, |i| (count, last) = (count + 1, i));
        if count == 1
            && let Some(entry) = self.entries.get_mut(last as usize)
        {
            entry.flags &= !flag::HIDES;
        }
    }

    /// Of the connections that `gone` hid the youngest: one that hid another itself. Of more than
    /// three with one reply tuple it may be another than the youngest.
    #[cold]
    fn uncover(&mut self, gone: u32, reply: KeyHash) {
        let mut found = None;
        self.for_each_hidden(gone, reply, |i| {
            if found.is_none() || self.has_flag(i, flag::HIDES) {
                found = Some(i);
            }
        });
        if let Some(i) = found {
            self.set_hidden(i, reply, false);
        }
    }

    /// Where an entry is found: by its requests and, with NAT, by its replies.
    #[inline(always)]
    fn hashes(&self, e: &Entry) -> (KeyHash, Option<KeyHash>) {
        let has_replies = e.method() == ForwardingMethod::Masquerade && !e.is_template();
        (
            self.request_hash(e),
            has_replies.then(|| self.reply_hash(e)),
        )
    }

    /// Prefetches the buckets of both.
    #[inline(always)]
    fn prefetch_buckets(&self, (request, reply): (KeyHash, Option<KeyHash>)) {
        self.prefetch_bucket(request);
        if let Some(reply) = reply {
            self.prefetch_bucket(reply);
        }
    }

    fn add_to_index(&mut self, i: u32, (request, reply): (KeyHash, Option<KeyHash>)) -> bool {
        if !self.index.insert(request, i) {
            return false;
        }
        if let Some(reply) = reply
            && !self.add_reply(i, reply)
        {
            self.index.remove(request, i);
            return false;
        }
        true
    }

    /// Adds a live connection; `None` if the shard is full. It has no timer until the caller
    /// has set its deadline and called [`Shard::rearm`].
    pub fn insert(&mut self, new: &NewConnection) -> Option<u32> {
        self.insert_as(|entry| entry.fill(new))
    }

    /// As [`Shard::insert`], for a template.
    pub fn insert_template(&mut self, new: &NewTemplate) -> Option<u32> {
        self.insert_as(|entry| entry.fill_template(new))
    }

    /// Ends an entry here, to be adopted by another shard; `None` if it is not live.
    pub fn take(&mut self, i: u32) -> Option<Entry> {
        // Before its copy is made: its reply tuple may be owed.
        self.settle();
        let copy = self.entry_mut(i).filter(|e| e.is_valid())?.copy()?;
        self.remove(i);
        Some(copy)
    }

    /// Goes on with an entry of another shard; `None` if there is no room. It is in no timer and
    /// under what controlled it: see [`Shard::rebuild`].
    pub fn adopt(&mut self, entry: Entry) -> Option<u32> {
        self.insert_as(|place| {
            *place = entry;
            place.begin_anew();
        })
    }

    #[inline(always)]
    fn insert_as(&mut self, fill: impl FnOnce(&mut Entry)) -> Option<u32> {
        self.settle();
        let from_list = self.free != NIL;
        let i = if from_list { self.free } else { self.fresh };
        let entry = self.entries.get_mut(i as usize)?;
        let next_free = entry.next;
        fill(entry);
        let hashes = self.hashes(&self.entries[i as usize]);
        self.prefetch_buckets(hashes);
        let (request, reply) = hashes;
        if !self.index.insert(request, i) {
            if from_list {
                self.entries[i as usize].next = next_free;
            }
            return None;
        }
        if let Some(reply) = reply {
            (self.owed, self.owed_reply) = (i, reply);
            self.entries[i as usize].flags |= flag::OWED;
        }
        if from_list {
            self.free = next_free;
        } else {
            self.fresh += 1;
        }
        self.used += 1;
        self.entries[i as usize].publish();
        Some(i)
    }

    /// Ends a connection.
    pub fn remove(&mut self, i: u32) {
        self.settle();
        let Some(entry) = self.entries.get(i as usize) else {
            return;
        };
        if !entry.is_valid() {
            return;
        }
        entry.retire();
        let flags = entry.flags;
        // Both buckets and the neighbour in the list are far away more often than not: all at once.
        let (request, reply) = self.hashes(entry);
        self.prefetch_buckets((request, reply));
        self.prefetch_whole(entry.next);
        self.index.remove(request, i);
        if let Some(reply) = reply {
            self.remove_reply(i, reply, flags);
        }
        self.wheel.unlink(self.entries, i);
        self.used -= 1;
        self.give_back(i);
    }

    /// Moves an entry to the timer list that its state and deadline ask for. `half_open`:
    /// SYN_RECV, which may be given up when the table is full.
    pub fn rearm(&mut self, i: u32, half_open: bool) {
        self.wheel.unlink(self.entries, i);
        if half_open {
            self.wheel.link_half_open(self.entries, i);
        } else {
            self.wheel.link(self.entries, i);
        }
    }

    /// Leaves the requests of a connection to a newer one with the same tuple of client and
    /// service. Replies are still found.
    pub fn leave_requests(&mut self, i: u32) {
        if let Some(entry) = self.entries.get(i as usize) {
            self.index.remove(self.request_hash(entry), i);
        }
    }

    /// Takes a template out of use: it is never found again, and its timer goes on.
    pub fn disable_template(&mut self, i: u32) {
        let Some(entry) = self.entries.get(i as usize) else {
            return;
        };
        let (old, _) = self.hashes(entry);
        self.index.remove(old, i);
        self.entries[i as usize].disable_template();
        let (new, _) = self.hashes(&self.entries[i as usize]);
        // A full index: the entry is found by its timer alone, which is all that it needs.
        let _ = self.index.insert(new, i);
    }

    /// An entry is due that controls others. It waits for a moment, in which what it controls may
    /// end with it ([`together`]); then it gets another minute instead of its end, for good
    /// (`ip_vs_conn_expire`). `false` if it controls none.
    #[inline(always)]
    pub fn prolong(&mut self, i: u32, now: Ticks) -> bool {
        let Some(entry) = self.entries.get_mut(i as usize) else {
            return false;
        };
        if entry.controls() == 0 {
            return false;
        }
        let due = Ticks(entry.deadline);
        let last = due.plus(together(entry.timeout));
        if now.reached(last) {
            entry.timeout = CONTROL_TIMEOUT;
            entry.deadline = now.plus(CONTROL_TIMEOUT).0;
            self.rearm(i, false);
        } else {
            self.wheel.unlink(self.entries, i);
            self.wheel.link_at(self.entries, i, last);
        }
        true
    }

    /// Next connection that is due, unlinked from its timer but still live.
    pub fn next_due(&mut self, now: Ticks, budget: &mut u32) -> Option<u32> {
        self.wheel.next_due(self.entries, now, budget)
    }

    /// The half-open connection to give up first.
    pub fn oldest_half_open(&self) -> Option<u32> {
        self.wheel.oldest_half_open()
    }

    /// The next entry, in the order of their places and around, that is one of those asked for and
    /// had no packet for a second; `None` when it is not among the next `most`. Another call goes
    /// on behind it.
    pub fn next_quiet(&mut self, most: u32, is: impl Fn(&Entry) -> bool) -> Option<u32> {
        for _ in 0..most.min(self.fresh) {
            let i = self.hand % self.fresh;
            self.hand = i + 1;
            let goes = self.entry(i).is_some_and(|entry| {
                let since = i64::from(entry.timeout) - i64::from(self.wheel.left(entry));
                entry.is_valid() && since >= i64::from(TICKS_PER_SECOND) && is(entry)
            });
            if goes {
                return Some(i);
            }
        }
        None
    }

    /// Prefetches the entry that [`Shard::next_due`] will look at first.
    pub fn prefetch_due(&self) {
        if let Some(i) = self.wheel.first() {
            self.prefetch_whole(i);
        }
    }

    /// After [`Shard::prefetch_due`]: prefetches what the end of that entry will touch, if it is
    /// its turn.
    pub fn prefetch_end(&self, now: Ticks) {
        if let Some(entry) = self.wheel.first().and_then(|i| self.entry(i))
            && now.reached(Ticks(entry.armed))
        {
            self.prefetch_buckets(self.hashes(entry));
            self.prefetch_whole(entry.next);
        }
    }

    /// Prefetches both lines of an entry.
    fn prefetch_whole(&self, i: u32) {
        if let Some(entry) = self.entries.get(i as usize) {
            prefetch(entry);
            prefetch(&entry.next);
        }
    }

    /// Prefetches the bucket of a hash.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: KeyHash) {
        if let Some(bucket) = self.index.bucket(hash) {
            prefetch(bucket);
        }
    }

    /// The bucket of a hash, to be prefetched, and which it is.
    #[inline(always)]
    pub fn home(&self, hash: KeyHash) -> (u32, Line) {
        let home = self.index.home(hash);
        (home as u32, self.index.line(home))
    }

    /// The slot of the entry that the hash most likely leads to, and the entry, to be prefetched.
    /// `home` is the bucket ([`Shard::home`]).
    #[inline(always)]
    pub fn candidate(&self, home: u32, hash: KeyHash) -> Option<(u32, Line)> {
        let slot = self.index.candidate(home as usize, hash)?;
        Some((slot, Line::of_nth(self.entries, (slot & !REPLY) as usize)))
    }

    /// As [`Shard::candidate`], if that found none.
    pub fn displaced(&self, home: u32, hash: KeyHash) -> Option<(u32, Line)> {
        let slot = self.index.displaced(home as usize, hash)?;
        Some((slot, Line::of_nth(self.entries, (slot & !REPLY) as usize)))
    }

    /// The entry that the next new connection gets.
    pub fn next_free(&self) -> Line {
        let number = if self.free != NIL {
            self.free
        } else {
            self.fresh
        };
        self.entry(number).map_or(Line::nowhere(), Line::of)
    }

    /// Whether `slot` leads to the connection of this tuple, seen from this side.
    ///
    /// From the client's side the other endpoint is the virtual one. From the server's side it
    /// is the real one for NAT, and the virtual one where replies are not rewritten.
    #[inline(always)]
    pub fn is_match(
        &self,
        slot: u32,
        side: Side,
        protocol: u8,
        client: &Endpoint,
        other: &Endpoint,
    ) -> bool {
        let Some(entry) = self.entries.get((slot & !REPLY) as usize) else {
            return false;
        };
        let (c, o) = (client, other);
        match (side, slot & REPLY != 0) {
            (Side::Request, false) => {
                entry.is_request_of(protocol, &c.addr, c.port, &o.addr, o.port)
            }
            (Side::Reply, true) => entry.is_reply_of(protocol, &c.addr, c.port, &o.addr, o.port),
            (Side::Reply, false) => {
                entry.method() != ForwardingMethod::Masquerade
                    && entry.is_request_of(protocol, &c.addr, c.port, &o.addr, o.port)
            }
            (Side::Request, true) => false,
        }
    }

    /// As [`Shard::is_match`] for an IPv4 packet, with addresses as they lie in the frame and
    /// both ports in one word, the source port in its lower half. It may say no where the other
    /// says yes (replies that are not rewritten), never yes where the other says no.
    #[inline(always)]
    pub fn is_match_v4(
        &self,
        slot: u32,
        side: Side,
        protocol: u8,
        (src, dst): (u32, u32),
        ports: u32,
    ) -> bool {
        let Some(entry) = self.entries.get((slot & !REPLY) as usize) else {
            return false;
        };
        match side {
            Side::Request => slot & REPLY == 0 && entry.is_request_of_v4(protocol, src, dst, ports),
            Side::Reply => slot & REPLY != 0 && entry.is_reply_of_v4(protocol, dst, src, ports),
        }
    }

    /// The entry that a slot of this side leads to. A slot of the other side leads nowhere.
    #[inline(always)]
    pub fn entry_of_slot(&mut self, slot: u32, side: Side) -> Option<&mut Entry> {
        let mark = match side {
            Side::Request => 0,
            Side::Reply => REPLY,
        };
        // With the wrong mark the number is beyond all entries.
        self.entries.get_mut((slot ^ mark) as usize)
    }

    /// Looks a connection up.
    #[inline]
    pub fn lookup(
        &self,
        hash: KeyHash,
        side: Side,
        protocol: u8,
        client: &Endpoint,
        other: &Endpoint,
    ) -> Option<u32> {
        let owed = self.owed | REPLY;
        if side == Side::Reply && self.is_match(owed, side, protocol, client, other) {
            // The youngest is the one that replies belong to.
            return Some(self.owed);
        }
        self.index
            .find(hash, |slot| {
                self.is_match(slot, side, protocol, client, other)
            })
            .map(|slot| slot & !REPLY)
    }

    /// Looks up the one of several entries with a client's tuple that `is_it` knows.
    pub fn lookup_one(
        &self,
        hash: KeyHash,
        (protocol, client, other): (u8, &Endpoint, &Endpoint),
        is_it: impl Fn(&Entry) -> bool,
    ) -> Option<u32> {
        self.index.find(hash, |slot| {
            self.is_match(slot, Side::Request, protocol, client, other)
                && self.entry(slot).is_some_and(&is_it)
        })
    }

    /// An entry by index.
    #[inline(always)]
    pub fn entry(&self, i: u32) -> Option<&Entry> {
        self.entries.get(i as usize)
    }

    /// An entry by index, to be changed.
    #[inline(always)]
    pub fn entry_mut(&mut self, i: u32) -> Option<&mut Entry> {
        self.entries.get_mut(i as usize)
    }

    /// What index and entries occupy.
    pub fn bytes(&self) -> usize {
        self.index.bytes() + size_of_val::<[Entry]>(self.entries)
    }

    /// Live connections.
    pub fn len(&self) -> u32 {
        self.used
    }

    /// Whether no connection lives.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Entries that could live.
    pub fn capacity(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Connections that it is for: capacity without the spare entries.
    pub fn share(&self) -> u32 {
        self.share
    }

    /// Number of entries that were ever used: where a dump may stop.
    pub fn touched(&self) -> u32 {
        self.fresh
    }

    /// Slots of the index, sorted (tests compare a rebuilt index with the old one).
    pub fn index_contents(&self) -> Vec<u32> {
        let mut contents = self.index.contents();
        if self.owed != NIL {
            contents.push(self.owed | REPLY);
            contents.sort_unstable();
        }
        contents
    }
}
