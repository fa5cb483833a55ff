//! Neighbours: what the kernel knows of them, and which of them are kept known.
//!
//! The kernel forgets neighbours that it does not use itself, and the data plane's traffic is
//! not its own. So those that matter (servers, gateways, what a worker asked for) are *wanted*:
//! the kernel is asked to confirm them every now and then, and the last MAC stays in use
//! meanwhile.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use dataplane::addr::{Addr, Mac};
use dataplane::route::{Fib, LinkId, Neighbour, NeighbourId};
use dataplane::time::Instant;

use super::message::Reachability;

/// A next hop: an address on a link.
pub type Hop = (LinkId, Addr);

/// First pause after a question that got no answer; doubles up to the refresh time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How long what a worker asked for is wanted.
const DEMAND: Duration = Duration::from_secs(600);
/// Least time between two questions that packets raise: the kernel gives up after three seconds.
const DEMAND_PAUSE: Duration = Duration::from_secs(3);
/// How long a neighbour that the kernel dropped may stay unconfirmed: the kernel asks three
/// times, a second apart.
const GRACE: Duration = Duration::from_secs(4);
/// Most next hops that workers' questions keep wanted.
const MAX_DEMANDS: usize = 65_536;

/// What workers are to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A neighbour and its MAC.
    Put(NeighbourId, Neighbour),
    /// A neighbour that is no more.
    Delete(NeighbourId),
    /// A wanted next hop that did not answer: its packets are to be answered, not to wait.
    Fail(Hop),
}

#[derive(Clone, Copy, Debug)]
struct Known {
    id: NeighbourId,
    mac: Mac,
    /// The kernel gave it up; when we do too.
    doubted_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// `None`: a server or gateway, wanted as long as it is one.
    until: Option<Instant>,
    due: Instant,
    tries: u32,
    /// When the kernel was asked last.
    asked: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Neighbours {
    known: HashMap<Hop, Known>,
    free: Vec<NeighbourId>,
    next: u32,
    capacity: u32,
    refresh: Duration,
    wanted: HashMap<Hop, Wanted>,
    /// When each wanted neighbour is due.
    schedule: BTreeSet<(Instant, Hop)>,
    /// When each doubted neighbour is given up.
    doubts: BTreeSet<(Instant, Hop)>,
    /// Seen in the current dump.
    seen: Option<BTreeSet<Hop>>,
    refused: bool,
}

impl Neighbours {
    /// Whether the MAC of every wanted neighbour is known.
    pub fn is_warm(&self) -> bool {
        self.wanted.keys().all(|hop| self.known.contains_key(hop))
    }

    /// Room for `capacity` neighbours; wanted ones are confirmed every `refresh`.
    pub fn new(capacity: u32, refresh: Duration) -> Neighbours {
        Neighbours {
            known: HashMap::new(),
            free: Vec::new(),
            next: 0,
            capacity,
            refresh,
            wanted: HashMap::new(),
            schedule: BTreeSet::new(),
            doubts: BTreeSet::new(),
            seen: None,
            refused: false,
        }
    }

    /// How many MACs are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no MAC is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// All that workers know.
    pub fn all(&self) -> impl Iterator<Item = (NeighbourId, Neighbour)> {
        self.known.iter().map(|(&(link, addr), k)| {
            (
                k.id,
                Neighbour {
                    link,
                    addr,
                    mac: k.mac,
                },
            )
        })
    }

    /// Whether there was no room for a neighbour.
    pub fn is_full(&self) -> bool {
        self.refused
    }

    /// The kernel tells of a neighbour.
    pub fn observe(&mut self, now: Instant, hop: Hop, state: Reachability, out: &mut Vec<Change>) {
        if let Some(seen) = &mut self.seen {
            seen.insert(hop);
        }
        match state {
            Reachability::Usable(mac) => self.learn(now, hop, mac, out),
            // Asked again while the last MAC is in use, or never known: nothing to tell.
            Reachability::Incomplete => {}
            Reachability::Failed => self.fail(now, hop, out),
        }
    }

    /// The kernel forgot a neighbour, most likely because it does not use it itself.
    pub fn forgotten(&mut self, now: Instant, hop: Hop, out: &mut Vec<Change>) {
        if self.wanted.contains_key(&hop) {
            self.doubt(now, hop);
        } else {
            self.delete(hop, out);
        }
    }

    /// A dump begins.
    pub fn begin_dump(&mut self) {
        self.seen = Some(BTreeSet::new());
    }

    /// The dump is complete; what it did not contain is gone.
    pub fn end_dump(&mut self, now: Instant, out: &mut Vec<Change>) {
        let Some(seen) = self.seen.take() else { return };
        let gone: Vec<Hop> = self
            .known
            .keys()
            .filter(|hop| !seen.contains(hop))
            .copied()
            .collect();
        for hop in gone {
            self.forgotten(now, hop, out);
        }
    }

    /// Sets which servers and gateways are wanted.
    pub fn want(&mut self, now: Instant, wanted: &BTreeSet<Hop>) {
        let is_lasting = |w: &Wanted| w.until.is_none();
        let lost: Vec<Hop> = self
            .wanted
            .iter()
            .filter(|(hop, w)| is_lasting(w) && !wanted.contains(hop))
            .map(|(hop, _)| *hop)
            .collect();
        for hop in lost {
            // Connections may still use it for a while.
            if let Some(w) = self.wanted.get_mut(&hop) {
                w.until = Some(now + DEMAND);
            }
        }
        self.want_too(now, wanted);
    }

    /// Adds servers and gateways to those that are wanted.
    pub fn want_too(&mut self, now: Instant, wanted: &BTreeSet<Hop>) {
        for hop in wanted {
            match self.wanted.get_mut(hop) {
                Some(w) => w.until = None,
                None => self.enlist(now, *hop, None),
            }
        }
    }

    /// A worker met a next hop without a MAC. The kernel is asked as soon as it may have given up
    /// the last question, however long the pauses between our own have become.
    pub fn demand(&mut self, now: Instant, hop: Hop) {
        if let Some(w) = self.wanted.get_mut(&hop) {
            w.until = w.until.map(|_| now + DEMAND);
            let soonest = w.asked.map_or(now, |asked| (asked + DEMAND_PAUSE).max(now));
            let (due, tries) = (w.due, w.tries);
            if soonest < due && !self.known.contains_key(&hop) {
                self.reschedule(hop, soonest, tries);
            }
        } else if self.wanted.len() < MAX_DEMANDS {
            self.enlist(now, hop, Some(now + DEMAND));
        }
    }

    /// A link came up: all that is wanted on it is due.
    pub fn link_up(&mut self, now: Instant, link: LinkId) {
        let hops: Vec<Hop> = self
            .wanted
            .keys()
            .filter(|hop| hop.0 == link)
            .copied()
            .collect();
        for hop in hops {
            self.reschedule(hop, now, 0);
        }
    }

    /// A link is gone, with all on it.
    pub fn link_gone(&mut self, link: LinkId, out: &mut Vec<Change>) {
        let hops: Vec<Hop> = self
            .known
            .keys()
            .filter(|hop| hop.0 == link)
            .copied()
            .collect();
        for hop in hops {
            self.delete(hop, out);
        }
        let hops: Vec<Hop> = self
            .wanted
            .keys()
            .filter(|hop| hop.0 == link)
            .copied()
            .collect();
        for hop in hops {
            self.unlist(hop);
        }
    }

    /// What the kernel is to be asked for now, at most `budget`, with the MACs given up by now.
    pub fn due(&mut self, now: Instant, budget: usize, out: &mut Vec<Change>) -> Vec<Hop> {
        while let Some(&(until, hop)) = self.doubts.first().filter(|(until, _)| *until <= now) {
            self.doubts.remove(&(until, hop));
            self.delete(hop, out);
            out.push(Change::Fail(hop));
        }
        let mut ask = Vec::new();
        while ask.len() < budget {
            let Some(&(_, hop)) = self.schedule.first().filter(|(due, _)| *due <= now) else {
                break;
            };
            let Some(w) = self.wanted.get(&hop).copied() else {
                break;
            };
            if w.until.is_some_and(|until| until <= now) {
                self.unlist(hop);
                continue;
            }
            let settled = self
                .known
                .get(&hop)
                .is_some_and(|k| k.doubted_until.is_none());
            let pause = match settled {
                true => self.refresh,
                false => (FIRST_RETRY * (1 << w.tries.min(10))).min(self.refresh.max(FIRST_RETRY)),
            };
            self.reschedule(hop, now + pause, if settled { 0 } else { w.tries + 1 });
            if let Some(w) = self.wanted.get_mut(&hop) {
                w.asked = Some(now);
            }
            ask.push(hop);
        }
        ask
    }

    /// When [`Neighbours::due`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, Hop)>| set.first().map(|(at, _)| *at);
        first(&self.schedule)
            .into_iter()
            .chain(first(&self.doubts))
            .min()
    }

    fn learn(&mut self, now: Instant, hop: Hop, mac: Mac, out: &mut Vec<Change>) {
        let (link, addr) = hop;
        let (id, is_news) = match self.known.get_mut(&hop) {
            Some(known) => {
                if let Some(until) = known.doubted_until.take() {
                    self.doubts.remove(&(until, hop));
                }
                let is_news = known.mac != mac;
                known.mac = mac;
                (known.id, is_news)
            }
            None => {
                let Some(id) = self.new_id() else {
                    self.refused = true;
                    return;
                };
                self.known.insert(
                    hop,
                    Known {
                        id,
                        mac,
                        doubted_until: None,
                    },
                );
                (id, true)
            }
        };
        if is_news {
            out.push(Change::Put(id, Neighbour { link, addr, mac }));
        }
        if self.wanted.contains_key(&hop) {
            self.reschedule(hop, now + self.refresh, 0);
        }
    }

    fn fail(&mut self, now: Instant, hop: Hop, out: &mut Vec<Change>) {
        let is_wanted = self.wanted.contains_key(&hop);
        match self.known.get(&hop) {
            None if is_wanted => out.push(Change::Fail(hop)),
            None => {}
            // Removed by hand, or silent: the first time it is asked again at once, and the
            // traffic goes on meanwhile.
            Some(Known {
                doubted_until: None,
                ..
            }) if is_wanted => {
                self.doubt(now, hop);
            }
            Some(_) => {
                self.delete(hop, out);
                if is_wanted {
                    out.push(Change::Fail(hop));
                }
            }
        }
    }

    fn doubt(&mut self, now: Instant, hop: Hop) {
        let Some(known) = self.known.get_mut(&hop) else {
            return;
        };
        if known.doubted_until.is_none() {
            known.doubted_until = Some(now + GRACE);
            self.doubts.insert((now + GRACE, hop));
            self.reschedule(hop, now, 0);
        }
    }

    fn delete(&mut self, hop: Hop, out: &mut Vec<Change>) {
        let Some(known) = self.known.remove(&hop) else {
            return;
        };
        if let Some(until) = known.doubted_until {
            self.doubts.remove(&(until, hop));
        }
        self.free.push(known.id);
        self.refused = false;
        out.push(Change::Delete(known.id));
    }

    fn enlist(&mut self, now: Instant, hop: Hop, until: Option<Instant>) {
        self.wanted.insert(
            hop,
            Wanted {
                until,
                due: now,
                tries: 0,
                asked: None,
            },
        );
        self.schedule.insert((now, hop));
    }

    fn unlist(&mut self, hop: Hop) {
        if let Some(w) = self.wanted.remove(&hop) {
            self.schedule.remove(&(w.due, hop));
        }
    }

    fn reschedule(&mut self, hop: Hop, due: Instant, tries: u32) {
        if let Some(w) = self.wanted.get_mut(&hop) {
            self.schedule.remove(&(w.due, hop));
            (w.due, w.tries) = (due, tries);
            self.schedule.insert((due, hop));
        }
    }

    fn new_id(&mut self) -> Option<NeighbourId> {
        if let Some(id) = self.free.pop() {
            return Some(id);
        }
        if self.next == self.capacity {
            return None;
        }
        self.next += 1;
        Some(NeighbourId(self.next - 1))
    }
}

/// The next hops of these servers.
pub fn next_hops<'a>(fib: &Fib, servers: impl IntoIterator<Item = &'a Addr>) -> BTreeSet<Hop> {
    let mut hops = BTreeSet::new();
    for server in servers {
        let Some(target) = fib.find(*server) else {
            continue;
        };
        hops.extend(
            target
                .hops()
                .map(|hop| (hop.link, hop.gateway.unwrap_or(*server))),
        );
    }
    hops
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: Hop = (LinkId(0), Addr::v4([10, 0, 0, 1]));
    const OTHER: Hop = (LinkId(0), Addr::v4([10, 0, 0, 2]));

    fn at(secs: u64) -> Instant {
        Instant::from_secs(100 + secs)
    }

    fn usable(last: u8) -> Reachability {
        Reachability::Usable(Mac([2, 0, 0, 0, 0, last]))
    }

    fn neighbours() -> Neighbours {
        Neighbours::new(2, Duration::from_secs(20))
    }

    fn put(id: u32, hop: Hop, last: u8) -> Change {
        let mac = Mac([2, 0, 0, 0, 0, last]);
        Change::Put(
            NeighbourId(id),
            Neighbour {
                link: hop.0,
                addr: hop.1,
                mac,
            },
        )
    }

    #[test]
    fn what_nobody_wants_comes_and_goes_with_the_kernel() {
        let (mut n, mut out) = (neighbours(), Vec::new());
        n.observe(at(0), HOP, Reachability::Incomplete, &mut out);
        n.observe(at(0), HOP, usable(1), &mut out);
        n.observe(at(1), HOP, usable(1), &mut out);
        n.observe(at(2), HOP, usable(9), &mut out);
        n.forgotten(at(3), HOP, &mut out);
        assert_eq!(
            out,
            [
                put(0, HOP, 1),
                put(0, HOP, 9),
                Change::Delete(NeighbourId(0))
            ]
        );
        assert_eq!(n.next_timeout(), None);
    }

    #[test]
    fn wanted_ones_are_asked_for_with_growing_pauses_and_then_refreshed() {
        let (mut n, mut out) = (neighbours(), Vec::new());
        n.want(at(0), &BTreeSet::from([HOP]));
        let mut asked = Vec::new();
        for second in 0..40 {
            if !n.due(at(second), 10, &mut out).is_empty() {
                asked.push(second);
            }
        }
        assert_eq!(asked, [0, 1, 3, 7, 15, 31]);
        n.observe(at(40), HOP, usable(1), &mut out);
        assert!(n.due(at(59), 10, &mut out).is_empty());
        assert_eq!(n.due(at(60), 10, &mut out), [HOP]);
        assert_eq!(n.next_timeout(), Some(at(80)));
    }

    #[test]
    fn a_wanted_one_that_the_kernel_drops_keeps_its_mac_while_it_is_asked_again() {
        let (mut n, mut out) = (neighbours(), Vec::new());
        n.want(at(0), &BTreeSet::from([HOP]));
        n.observe(at(0), HOP, usable(1), &mut out);
        out.clear();
        n.forgotten(at(5), HOP, &mut out);
        assert_eq!(n.due(at(5), 10, &mut out), [HOP]);
        n.observe(at(5), HOP, Reachability::Incomplete, &mut out);
        n.observe(at(6), HOP, usable(1), &mut out);
        assert!(out.is_empty(), "workers saw nothing of it: {out:?}");
        n.observe(at(10), HOP, Reachability::Failed, &mut out);
        assert!(out.is_empty(), "one failure is asked about");
        n.observe(at(13), HOP, Reachability::Failed, &mut out);
        assert_eq!(out, [Change::Delete(NeighbourId(0)), Change::Fail(HOP)]);
        n.observe(at(16), HOP, Reachability::Failed, &mut out);
        assert_eq!(out.last(), Some(&Change::Fail(HOP)), "each failure is told");
        assert_eq!(out.len(), 3);
    }

    #[test]
    fn an_unanswered_doubt_ends() {
        let (mut n, mut out) = (neighbours(), Vec::new());
        n.want(at(0), &BTreeSet::from([HOP]));
        n.observe(at(0), HOP, usable(1), &mut out);
        out.clear();
        n.forgotten(at(5), HOP, &mut out);
        n.due(at(8), 10, &mut out);
        assert!(out.is_empty());
        n.due(at(9), 10, &mut out);
        assert_eq!(out, [Change::Delete(NeighbourId(0)), Change::Fail(HOP)]);
    }

    #[test]
    fn packets_for_a_silent_hop_make_it_asked_again_before_its_pause_is_over() {
        let (mut n, mut out) = (neighbours(), Vec::new());
        n.want(at(0), &BTreeSet::from([HOP]));
        for second in [0, 1, 3, 7] {
            assert_eq!(n.due(at(second), 10, &mut out), [HOP]);
        }
        assert_eq!(n.next_timeout(), Some(at(15)));
        n.demand(at(8), HOP);
        assert!(n.due(at(8), 10, &mut out).is_empty(), "it is being asked");
        assert_eq!(n.due(at(10), 10, &mut out), [HOP]);
        n.demand(at(20), HOP);
        assert_eq!(n.due(at(20), 10, &mut out), [HOP]);
        // One that is known but was not yet told to the worker needs no question.
        n.observe(at(21), HOP, usable(1), &mut out);
        n.demand(at(25), HOP);
        assert_eq!(n.next_timeout(), Some(at(41)));
    }

    #[test]
    fn what_nobody_wants_fails_without_a_word() {
        let (mut n, mut out) = (neighbours(), Vec::new());
        n.observe(at(0), HOP, Reachability::Failed, &mut out);
        assert!(out.is_empty());
        n.demand(at(1), HOP);
        n.observe(at(4), HOP, Reachability::Failed, &mut out);
        assert_eq!(out, [Change::Fail(HOP)]);
    }

    #[test]
    fn a_demand_ends_and_a_full_table_says_so() {
        let (mut n, mut out) = (neighbours(), Vec::new());
        n.demand(at(0), HOP);
        assert_eq!(n.due(at(0), 10, &mut out), [HOP]);
        assert!(n.due(at(601), 10, &mut out).is_empty());
        assert_eq!(n.next_timeout(), None);
        for last in 1..=3 {
            n.observe(
                at(700),
                (LinkId(1), Addr::v4([10, 1, 0, last])),
                usable(last),
                &mut out,
            );
        }
        assert!(n.is_full());
        assert_eq!(n.len(), 2);
        n.link_gone(LinkId(1), &mut out);
        assert!(!n.is_full() && n.is_empty());
    }

    #[test]
    fn a_dump_removes_what_it_does_not_contain() {
        let (mut n, mut out) = (neighbours(), Vec::new());
        n.observe(at(0), HOP, usable(1), &mut out);
        n.observe(at(0), OTHER, usable(2), &mut out);
        out.clear();
        n.begin_dump();
        n.observe(at(1), OTHER, usable(2), &mut out);
        n.end_dump(at(1), &mut out);
        assert_eq!(out, [Change::Delete(NeighbourId(0))]);
    }
}
