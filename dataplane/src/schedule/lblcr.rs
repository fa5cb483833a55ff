//! lblcr: locality-based least connection with replication (`ip_vs_lblcr.c`): as lblc, but an
//! address that is too much for one server gets a set of them, which shrinks again when it has
//! not changed for a while.

use core::time::Duration;

use super::cache::{Cache, HARD_LIMIT};
use super::least::Ratio;
use super::locality::Locality;
use super::{Loads, Predecessor, Request, Scheduler, Seat, Watch};
use crate::addr::Endpoint;
use crate::service::{DestId, Destination, VirtualService};
use crate::settings::Settings;
use crate::time::Instant;

pub(super) const NAME: &str = "lblcr";

/// Members that all sets together may have. The kernel has no such limit but its memory; when
/// none is left, sets do not grow.
const MEMBERS: usize = 4 * HARD_LIMIT;

pub(super) fn new(service: &VirtualService, _: Seat) -> Box<dyn Scheduler> {
    Box::new(Replicated {
        locality: Locality::new(service),
        sets: Sets {
            cache: Cache::new(),
            pool: Pool {
                members: Vec::with_capacity(MEMBERS),
                free: 0,
            },
        },
    })
}

/// The servers of an address.
#[derive(Clone, Copy)]
struct Set {
    /// The newest member, counted from 1 in the pool; 0 is none.
    newest: u32,
    size: u32,
    /// When a member was added or removed last.
    modified: Instant,
}

/// A server in a set.
#[derive(Clone, Copy)]
struct Member {
    endpoint: Endpoint,
    id: DestId,
    /// Its weight when it was last seen in the service: a deleted one keeps it.
    weight: u32,
    /// The next older member, or the next free place, counted from 1; 0 is the end.
    next: u32,
}

impl Member {
    fn of(dest: &Destination, next: u32) -> Member {
        Member {
            endpoint: dest.endpoint,
            id: dest.id,
            weight: dest.weight,
            next,
        }
    }
}

/// Places for members of all sets.
struct Pool {
    members: Vec<Member>,
    free: u32,
}

impl Pool {
    fn at(&self, link: u32) -> Option<&Member> {
        self.members.get((link as usize).checked_sub(1)?)
    }

    fn at_mut(&mut self, link: u32) -> Option<&mut Member> {
        self.members.get_mut((link as usize).checked_sub(1)?)
    }

    /// Links of a set's members, the newest first.
    fn links(&self, set: Set) -> impl Iterator<Item = u32> + '_ {
        let existing = |link: u32| (link != 0).then_some(link);
        core::iter::successors(existing(set.newest), move |&link| {
            existing(self.at(link)?.next)
        })
    }

    /// Adds a member; the set as it was if there is no place.
    fn add(&mut self, set: Set, dest: &Destination, now: Instant) -> Set {
        let member = Member::of(dest, set.newest);
        let free = self.free;
        let newest = if let Some(place) = self.at_mut(free) {
            let next = place.next;
            *place = member;
            self.free = next;
            free
        } else if self.members.len() < MEMBERS {
            self.members.push(member);
            self.members.len() as u32
        } else {
            return set;
        };
        Set {
            newest,
            size: set.size + 1,
            modified: now,
        }
    }

    /// Removes a member.
    fn remove(&mut self, set: Set, gone: u32, now: Instant) -> Set {
        let next = self.at(gone).map_or(0, |m| m.next);
        let before = self
            .links(set)
            .find(|&link| self.at(link).is_some_and(|m| m.next == gone));
        let mut newest = set.newest;
        match before.and_then(|link| self.at_mut(link)) {
            Some(member) => member.next = next,
            None => newest = next,
        }
        self.release(gone);
        Set {
            newest,
            size: set.size - 1,
            modified: now,
        }
    }

    fn release(&mut self, link: u32) {
        let free = self.free;
        if let Some(member) = self.at_mut(link) {
            member.next = free;
            self.free = link;
        }
    }

    /// Gives back all places of a set.
    fn dissolve(&mut self, set: Set) {
        let mut link = set.newest;
        while let Some(member) = self.at(link) {
            let next = member.next;
            self.release(link);
            link = next;
        }
    }
}

/// The cache and the members of its sets.
struct Sets {
    cache: Cache<Set>,
    pool: Pool,
}

struct Replicated {
    locality: Locality,
    sets: Sets,
}

impl Replicated {
    /// The member with the smallest overhead per weight, of those that take connections
    /// (`ip_vs_dest_set_min`): its position in the list.
    fn least(&mut self, set: Set, service: &VirtualService, loads: Loads<'_>) -> Option<usize> {
        let mut best: Option<(usize, Ratio)> = None;
        let mut link = set.newest;
        while let Some(member) = self.sets.pool.at_mut(link) {
            link = member.next;
            let Some(at) = self.locality.position(&member.endpoint) else {
                continue;
            };
            let Some(dest) = service.destinations.get(at) else {
                continue;
            };
            *member = Member::of(dest, member.next);
            if let Some(ratio) = super::wlc::rate(loads, dest)
                && best.is_none_or(|(_, least)| ratio.is_less(least))
            {
                best = Some((at, ratio));
            }
        }
        best.map(|(at, _)| at)
    }

    /// The member with the largest overhead per weight, deleted and overloaded ones included
    /// (`ip_vs_dest_set_max`).
    fn most(&self, set: Set, loads: Loads<'_>) -> Option<u32> {
        let mut worst: Option<(u32, Ratio)> = None;
        for link in self.sets.pool.links(set) {
            let member = self.sets.pool.at(link)?;
            let ratio = Ratio {
                load: loads.overhead_of(member.id),
                weight: member.weight,
            };
            if member.weight > 0 && worst.is_none_or(|(_, most)| most.is_less(ratio)) {
                worst = Some((link, ratio));
            }
        }
        worst.map(|(link, _)| link)
    }

    /// Chooses for an address that has a set; the set as it is then.
    fn pick_cached(&mut self, request: &Request<'_>, mut set: Set) -> (Option<usize>, Set) {
        let Request {
            service,
            loads,
            now,
            settings,
            ..
        } = *request;
        let least = self.least(set, service, loads);
        let quiet = Duration::from_secs(u64::from(settings.lblcr_expiration));
        if set.size > 1
            && now > set.modified + quiet
            && let Some(most) = self.most(set, loads)
        {
            set = self.sets.pool.remove(set, most, now);
        }
        let dest = |at: usize| service.destinations.get(at);
        let is_free = |at: &usize| dest(*at).is_some_and(|d| !self.locality.is_busy(d, loads));
        if let Some(at) = least.filter(is_free) {
            return (Some(at), set);
        }
        let chosen = self.locality.best();
        if let Some(dest) = chosen.and_then(dest) {
            let pool = &mut self.sets.pool;
            let is_in = pool
                .links(set)
                .any(|link| pool.at(link).is_some_and(|m| m.endpoint == dest.endpoint));
            if !is_in {
                set = pool.add(set, dest, now);
            }
        }
        (chosen, set)
    }
}

impl Scheduler for Replicated {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watch(&self) -> Watch {
        Watch::Counts
    }

    fn start(
        &mut self,
        service: &VirtualService,
        loads: Loads<'_>,
        before: Option<Predecessor<'_>>,
    ) {
        let Some(before) = before.and_then(Predecessor::same::<Replicated>) else {
            self.locality.fill(service, loads);
            return;
        };
        let old = before.scheduler;
        self.locality
            .succeed(&mut old.locality, before.kept, service, loads);
        core::mem::swap(&mut self.sets, &mut old.sets);
    }

    fn pick(&mut self, request: &Request<'_>) -> Option<usize> {
        let (service, now, addr) = (request.service, request.now, &request.destination());
        self.locality.catch_up(service, request.loads);
        let Sets { cache, pool } = &mut self.sets;
        if let Some(&mut set) = cache.find(now, addr, |set| pool.dissolve(set)) {
            let (chosen, set) = self.pick_cached(request, set);
            if let Some(place) = self.sets.cache.find(now, addr, |_| ()) {
                *place = set;
            }
            return chosen;
        }
        let at = self.locality.best()?;
        if cache.has_room() {
            let empty = Set {
                newest: 0,
                size: 0,
                modified: now,
            };
            let set = pool.add(empty, service.destinations.get(at)?, now);
            if set.size > 0 {
                cache.insert(now, *addr, set);
            }
        }
        Some(at)
    }

    fn tend(&mut self, now: Instant, settings: &Settings) {
        let Sets { cache, pool } = &mut self.sets;
        cache.collect(now, settings.lblcr_expiration, |set| pool.dissolve(set));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Addr;
    use crate::schedule::fixture::Rig;

    #[test]
    fn an_address_gets_more_servers_when_they_are_busy() {
        let mut rig = Rig::new("lblcr", &[(11, 1), (12, 1), (13, 1)]);
        assert_eq!(rig.picks(6), [13, 13, 12, 12, 11, 11]);
        // The whole set is in use from now on, the least loaded first.
        rig.load(13, 0, 2);
        assert_eq!(rig.pick(), 13);
    }

    #[test]
    fn members_that_take_no_connection_are_passed_over() {
        let mut rig = Rig::new("lblcr", &[(11, 2), (12, 2)]);
        assert_eq!(rig.picks(3), [12, 12, 12]);
        assert_eq!(rig.picks(1), [11], "12 is busy");
        rig.overload(11, true);
        assert_eq!(rig.pick(), 12, "the only one of the set, busy or not");
        rig.overload(11, false);
        assert_eq!(rig.pick(), 11);
        rig.edit(11, 0);
        assert_eq!(rig.pick(), 12);
        rig.delete(&[12]);
        assert_eq!(rig.pick(), 0);
    }

    #[test]
    fn a_quiet_set_loses_its_most_loaded_member() {
        let mut rig = Rig::new("lblcr", &[(11, 10), (12, 10), (13, 10)]);
        rig.settings.lblcr_expiration = 600;
        assert_eq!(rig.pick(), 13);
        rig.load(13, 11, 11);
        assert_eq!(rig.pick(), 12);
        rig.load(12, 5, 5);
        rig.load(11, 9, 9);
        assert_eq!(rig.pick(), 12);
        // Ten minutes later 13 is dropped; it is not missed until the others have more to do.
        rig.now = rig.now + Duration::from_secs(601);
        assert_eq!(rig.pick(), 12);
        rig.load(13, 0, 0);
        assert_eq!(rig.pick(), 12, "13 has left the set");
    }

    #[test]
    fn a_set_that_changed_keeps_its_members() {
        let mut rig = Rig::new("lblcr", &[(11, 10), (12, 10)]);
        rig.settings.lblcr_expiration = 600;
        assert_eq!(rig.pick(), 12);
        rig.load(12, 11, 11);
        assert_eq!(rig.pick(), 11);
        rig.load(11, 1, 1);
        rig.now = rig.now + Duration::from_secs(600);
        assert_eq!(rig.pick(), 11);
        rig.load(12, 0, 0);
        assert_eq!(rig.pick(), 12, "still a member");
    }

    #[test]
    fn entries_and_their_sets_are_forgotten() {
        let mut rig = Rig::new("lblcr", &[(11, 10), (12, 10)]);
        rig.settings.lblcr_expiration = 600;
        for last in 0..200 {
            rig.flow.dst = Addr::v4([198, 51, 100, last]);
            rig.load(12, 0, 0);
            assert_eq!(rig.pick(), 12);
            rig.load(12, 11, 11);
            assert_eq!(rig.pick(), 11);
        }
        let count = |rig: &mut Rig| {
            let any: &mut dyn core::any::Any = &mut *rig.scheduler;
            let sets = &any.downcast_mut::<Replicated>().unwrap().sets;
            let mut free = 0;
            let mut link = sets.pool.free;
            while let Some(member) = sets.pool.at(link) {
                free += 1;
                link = member.next;
            }
            (sets.cache.len(), sets.pool.members.len() - free)
        };
        assert_eq!(count(&mut rig), (200, 400));
        // A changed list takes all of it over.
        rig.edit(11, 9);
        rig.wait(Duration::from_secs(29 * 60));
        assert_eq!(count(&mut rig), (200, 400));
        rig.wait(Duration::from_secs(2 * 60));
        assert_eq!(count(&mut rig), (0, 0));
    }

    #[test]
    fn a_quoted_packet_says_nothing_of_the_service_s_address() {
        let mut rig = Rig::new("lblcr", &[(11, 10), (12, 10)]);
        rig.flow.src = Addr::v4([10, 0, 0, 1]);
        rig.is_quoted = true;
        assert_eq!(rig.picks(1), [12]);
        rig.is_quoted = false;
        assert_eq!(rig.picks(1), [11]);
        assert_eq!(rig.picks(1), [11]);
    }
}
