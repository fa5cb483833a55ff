//! Routes of the kernel, and the forwarding table made of them.
//!
//! Per prefix the mirror keeps what the kernel keeps: candidates in the order of their metric.
//! The first whose devices are up is put into the [`Fib`]. Equal destinations (the same hops,
//! source and MTU, or the same nexthop object) share one numbered target, so a link or nexthop
//! object that changes under a million routes is one change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use dataplane::addr::{Addr, Family};
use dataplane::route::{Change, Fib, LinkId, NextHop, Prefix, Reject, Target, TargetId};

use super::addresses::Addresses;
use super::links::{Links, Role};
use super::message::{Hop, Hops, IfIndex, NextHopObject, Placement, Route, RouteKind, TABLE_LOCAL};

/// What targets are computed from, besides the routes.
pub struct World<'a> {
    /// Devices.
    pub links: &'a Links,
    /// Their addresses.
    pub addresses: &'a Addresses,
    /// Devices that lend a source address to those without one.
    pub lenders: &'a [IfIndex],
}

/// A prefix in one of the two tables that are mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    /// In the kernel's `local` table.
    local: bool,
    prefix: Prefix,
}

/// A destination as the kernel described it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Spec {
    Local(IfIndex),
    Group,
    Reject(Reject),
    Unicast {
        family: Family,
        source: Option<Addr>,
        mtu: Option<u32>,
        hops: Hops,
    },
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    metric: u32,
    target: TargetId,
    /// Number of the last dump that contained it, or during which it was told of.
    epoch: u32,
}

/// One candidate is the rule; the vector is for the others.
#[derive(Debug)]
enum Candidates {
    One(Candidate),
    Many(Vec<Candidate>),
}

impl Candidates {
    fn as_slice(&self) -> &[Candidate] {
        match self {
            Candidates::One(one) => std::slice::from_ref(one),
            Candidates::Many(many) => many,
        }
    }

    fn into_vec(self) -> Vec<Candidate> {
        match self {
            Candidates::One(one) => vec![one],
            Candidates::Many(many) => many,
        }
    }

    fn from_vec(all: Vec<Candidate>) -> Option<Candidates> {
        match all[..] {
            [] => None,
            [one] => Some(Candidates::One(one)),
            _ => Some(Candidates::Many(all)),
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    spec: Option<Spec>,
    users: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Routes {
    table: BTreeMap<Key, Candidates>,
    numbers: HashMap<Spec, TargetId>,
    slots: Vec<Slot>,
    free: Vec<TargetId>,
    objects: HashMap<u32, NextHopObject>,
    object_epochs: HashMap<u32, u32>,
    fib: Fib,
    fib_changed: bool,
    /// Prefixes of this host, with the device that holds them.
    local: BTreeMap<Key, IfIndex>,
    local_changed: bool,
    /// Prefixes with more than one candidate.
    contested: BTreeSet<Key>,
    epoch: u32,
    /// While a dump runs: what was deleted since it began. A row that the kernel wrote before
    /// the deletion may be read after it.
    deleted: Option<HashSet<(Key, u32, Spec)>>,
    /// Where the search for routes that the last dump did not contain goes on.
    sweep: Option<Bound<Key>>,
    /// Where the new choice among candidates goes on.
    review: Option<Bound<Key>>,
}

impl Routes {
    /// Takes a route in. `dumped` tells a row of a dump from a notification.
    pub fn put(&mut self, route: &Route, placement: Placement, dumped: bool, world: &World<'_>) {
        let Some(key) = key(route) else { return };
        let spec = spec(route);
        if let Some(deleted) = &mut self.deleted {
            let id = (key, route.metric, spec.clone());
            if !dumped {
                deleted.remove(&id);
            } else if deleted.contains(&id) {
                return;
            }
        }
        let target = self.number(spec, world);
        let new = Candidate {
            metric: route.metric,
            target,
            epoch: self.epoch,
        };
        let mut all = self.take(key);
        if let Some(same) = all
            .iter_mut()
            .find(|c| (c.metric, c.target) == (new.metric, target))
        {
            same.epoch = self.epoch;
            self.release(target);
        } else {
            match self.replaced(&all, &new, placement, route.prefix.addr().family()) {
                Some(at) => {
                    let old = std::mem::replace(&mut all[at], new);
                    self.bury(key, &old);
                }
                None if placement == Placement::First => {
                    let at = all.iter().position(|c| c.metric >= new.metric);
                    all.insert(at.unwrap_or(all.len()), new);
                }
                None => {
                    let at = all.iter().position(|c| c.metric > new.metric);
                    all.insert(at.unwrap_or(all.len()), new);
                }
            }
        }
        self.give_back(key, all);
    }

    /// Takes a route out.
    pub fn remove(&mut self, route: &Route, world: &World<'_>) {
        let Some(key) = key(route) else { return };
        let spec = spec(route);
        let mut all = self.take(key);
        let exact = self.numbers.get(&spec).copied();
        let is_exact = |c: &Candidate| c.metric == route.metric && Some(c.target) == exact;
        if let Some(at) = all.iter().position(is_exact) {
            let old = all.remove(at);
            self.bury(key, &old);
        } else if let Some((at, rest)) = self.without_hops(&all, route) {
            let target = self.number(rest, world);
            let old = all[at];
            all[at].target = target;
            self.bury(key, &old);
        } else {
            if let Some(deleted) = &mut self.deleted {
                deleted.insert((key, route.metric, spec));
            }
            if let Some(at) = all.iter().position(|c| c.metric == route.metric) {
                let old = all.remove(at);
                self.bury(key, &old);
            }
        }
        self.give_back(key, all);
    }

    /// Sets a nexthop object; [`Routes::retarget`] is to follow.
    pub fn put_object(&mut self, id: u32, object: NextHopObject) {
        self.objects.insert(id, object);
        self.object_epochs.insert(id, self.epoch);
    }

    /// Forgets a nexthop object; [`Routes::retarget`] is to follow.
    pub fn remove_object(&mut self, id: u32) {
        self.objects.remove(&id);
    }

    /// Computes all targets anew, after a change of devices, addresses or nexthop objects.
    pub fn retarget(&mut self, world: &World<'_>) {
        let mut usability_changed = false;
        for at in 0..self.slots.len() {
            let Some(spec) = &self.slots[at].spec else {
                continue;
            };
            let id = TargetId(at as u32);
            let new = self.target(spec, world);
            let old = self.fib.target(id);
            if old != Some(&new) {
                let was_usable = old.is_some_and(|t| *t != Target::Unusable);
                usability_changed |= was_usable != (new != Target::Unusable);
                self.fib.change(Change::Target(id, new));
                self.fib_changed = true;
            }
        }
        if usability_changed && !self.contested.is_empty() {
            self.review = Some(Bound::Unbounded);
        }
    }

    /// A dump of routes and nexthop objects begins.
    pub fn begin_dump(&mut self) {
        self.epoch += 1;
        self.deleted = Some(HashSet::new());
        self.sweep = None;
    }

    /// The dump is complete: what it did not contain goes, piece by piece in [`Routes::step`].
    pub fn end_dump(&mut self) {
        self.deleted = None;
        self.sweep = Some(Bound::Unbounded);
    }

    /// The dump of nexthop objects is complete.
    pub fn end_object_dump(&mut self, epoch_before: u32) {
        let epochs = &self.object_epochs;
        self.objects
            .retain(|id, _| epochs.get(id).is_some_and(|e| *e > epoch_before));
        let objects = &self.objects;
        self.object_epochs.retain(|id, _| objects.contains_key(id));
    }

    /// The number of the current dump.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether [`Routes::step`] has work left.
    pub fn is_busy(&self) -> bool {
        self.sweep.is_some() || self.review.is_some()
    }

    /// Does at most `budget` of the work that is left.
    pub fn step(&mut self, budget: usize) {
        if let Some(from) = self.sweep {
            let mut stale = Vec::new();
            let mut seen = 0;
            let mut last = None;
            for (key, all) in self.table.range((from, Bound::Unbounded)).take(budget) {
                seen += 1;
                last = Some(*key);
                if all.as_slice().iter().any(|c| c.epoch != self.epoch) {
                    stale.push(*key);
                }
            }
            self.sweep = last.filter(|_| seen == budget).map(Bound::Excluded);
            for key in stale {
                self.drop_stale(key);
            }
        } else if let Some(from) = self.review {
            let keys: Vec<Key> = self
                .contested
                .range((from, Bound::Unbounded))
                .take(budget)
                .copied()
                .collect();
            let last = keys.last().copied().filter(|_| keys.len() == budget);
            self.review = last.map(Bound::Excluded);
            for key in keys {
                self.elect(key);
            }
        }
    }

    /// The table as it stands.
    pub fn fib(&self) -> &Fib {
        &self.fib
    }

    /// Whether the table changed since the last call.
    pub fn take_fib_changed(&mut self) -> bool {
        std::mem::take(&mut self.fib_changed)
    }

    /// Prefixes of this host, with the device that holds them.
    pub fn local(&self) -> impl Iterator<Item = (Prefix, IfIndex)> {
        self.local.iter().map(|(key, index)| (key.prefix, *index))
    }

    /// Whether [`Routes::local`] changed since the last call.
    pub fn take_local_changed(&mut self) -> bool {
        std::mem::take(&mut self.local_changed)
    }

    /// All gateways that routes lead to.
    pub fn gateways(&self) -> BTreeSet<(LinkId, Addr)> {
        let used = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.users > 0);
        let targets = used.filter_map(|(at, _)| self.fib.target(TargetId(at as u32)));
        targets
            .flat_map(Target::hops)
            .filter_map(|h| Some((h.link, h.gateway?)))
            .collect()
    }

    /// Whether a route asks for this source address.
    pub fn is_source(&self, addr: Addr) -> bool {
        self.slots.iter().any(
            |slot| matches!(slot.spec, Some(Spec::Unicast { source: Some(s), .. }) if s == addr),
        )
    }

    /// Which candidate a new one replaces.
    fn replaced(
        &self,
        all: &[Candidate],
        new: &Candidate,
        placement: Placement,
        family: Family,
    ) -> Option<usize> {
        let mut rivals = all
            .iter()
            .enumerate()
            .filter(|(_, c)| c.metric == new.metric);
        match family {
            // Several routes of one metric may stand side by side; the first is used.
            Family::V4 => rivals.next().filter(|_| placement == Placement::Replace),
            // Those with gateways are one multipath route, always told whole; the others are
            // one per device.
            Family::V6 => {
                rivals.find(
                    |(_, c)| match (self.hops(c.target), self.hops(new.target)) {
                        (Some(old), Some(new)) => {
                            (is_routed(old) && is_routed(new)) || devices(old) == devices(new)
                        }
                        _ => true,
                    },
                )
            }
        }
        .map(|(at, _)| at)
    }

    /// The kernel tells of one lost hop of an IPv6 multipath route as of a deleted route.
    fn without_hops(&self, all: &[Candidate], route: &Route) -> Option<(usize, Spec)> {
        let Hops::List(gone) = &route.hops else {
            return None;
        };
        all.iter()
            .enumerate()
            .filter(|(_, c)| c.metric == route.metric)
            .find_map(|(at, c)| {
                let spec = self.slots.get(c.target.0 as usize)?.spec.as_ref()?;
                let Spec::Unicast {
                    family: Family::V6,
                    source,
                    mtu,
                    hops: Hops::List(list),
                } = spec
                else {
                    return None;
                };
                let is_gone = |h: &Hop| {
                    gone.iter()
                        .any(|g| (g.index, g.gateway) == (h.index, h.gateway))
                };
                let rest: Vec<Hop> = list.iter().filter(|h| !is_gone(h)).copied().collect();
                let (source, mtu) = (*source, *mtu);
                if rest.is_empty() || rest.len() == list.len() {
                    return None;
                }
                let (family, hops) = (Family::V6, Hops::List(rest));
                Some((
                    at,
                    Spec::Unicast {
                        family,
                        source,
                        mtu,
                        hops,
                    },
                ))
            })
    }

    fn hops(&self, target: TargetId) -> Option<&Hops> {
        match self.slots.get(target.0 as usize)?.spec.as_ref()? {
            Spec::Unicast { hops, .. } => Some(hops),
            _ => None,
        }
    }

    fn drop_stale(&mut self, key: Key) {
        let (kept, gone): (Vec<_>, Vec<_>) = self
            .take(key)
            .into_iter()
            .partition(|c| c.epoch == self.epoch);
        for candidate in gone {
            self.release(candidate.target);
        }
        self.give_back(key, kept);
    }

    fn take(&mut self, key: Key) -> Vec<Candidate> {
        self.table
            .remove(&key)
            .map_or_else(Vec::new, Candidates::into_vec)
    }

    fn give_back(&mut self, key: Key, all: Vec<Candidate>) {
        if all.len() > 1 {
            self.contested.insert(key);
        } else {
            self.contested.remove(&key);
        }
        if let Some(all) = Candidates::from_vec(all) {
            self.table.insert(key, all);
        }
        self.elect(key);
    }

    /// Puts the best usable candidate of a prefix into the table.
    fn elect(&mut self, key: Key) {
        let all = self.table.get(&key).map_or(&[][..], Candidates::as_slice);
        let usable = |c: &&Candidate| self.fib.target(c.target) != Some(&Target::Unusable);
        let best = all.iter().find(usable).or(all.first()).map(|c| c.target);
        let holder = best.and_then(|t| match self.slots.get(t.0 as usize)?.spec {
            Some(Spec::Local(index)) => Some(index),
            _ => None,
        });
        let held = match holder {
            Some(index) => self.local.insert(key, index),
            None => self.local.remove(&key),
        };
        self.local_changed |= held != holder;
        let current = match key.local {
            true => self.fib.get_local(key.prefix),
            false => self.fib.get(key.prefix),
        };
        if current == best {
            return;
        }
        self.fib_changed = true;
        self.fib.change(match (key.local, best) {
            (true, Some(target)) => Change::PutLocal(key.prefix, target),
            (true, None) => Change::DeleteLocal(key.prefix),
            (false, Some(target)) => Change::Put(key.prefix, target),
            (false, None) => Change::Delete(key.prefix),
        });
    }

    /// Releases a deleted candidate, and remembers it while a dump runs.
    fn bury(&mut self, key: Key, old: &Candidate) {
        let spec = self
            .slots
            .get(old.target.0 as usize)
            .and_then(|slot| slot.spec.clone());
        if let (Some(deleted), Some(spec)) = (&mut self.deleted, spec) {
            deleted.insert((key, old.metric, spec));
        }
        self.release(old.target);
    }

    /// The number of a destination, one user more.
    fn number(&mut self, spec: Spec, world: &World<'_>) -> TargetId {
        if let Some(id) = self.numbers.get(&spec) {
            self.slots[id.0 as usize].users += 1;
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            TargetId(self.slots.len() as u32 - 1)
        });
        let target = self.target(&spec, world);
        self.fib.change(Change::Target(id, target));
        self.slots[id.0 as usize] = Slot {
            spec: Some(spec.clone()),
            users: 1,
        };
        self.numbers.insert(spec, id);
        id
    }

    /// One user less.
    fn release(&mut self, id: TargetId) {
        let slot = &mut self.slots[id.0 as usize];
        slot.users -= 1;
        if slot.users == 0 {
            if let Some(spec) = slot.spec.take() {
                self.numbers.remove(&spec);
            }
            self.free.push(id);
        }
    }

    fn target(&self, spec: &Spec, world: &World<'_>) -> Target {
        match spec {
            Spec::Local(_) | Spec::Group => Target::Local,
            Spec::Reject(reject) => Target::Reject(*reject),
            Spec::Unicast {
                family,
                source,
                mtu,
                hops,
            } => {
                let mut all = Vec::new();
                if !self.collect(hops, 1, &mut all) {
                    return Target::Reject(Reject::Blackhole);
                }
                join(&all, *family, *source, *mtu, world)
            }
        }
    }

    /// Adds the hops with their weights; false if the object is a blackhole.
    fn collect(&self, hops: &Hops, weight: u32, all: &mut Vec<Hop>) -> bool {
        let id = match hops {
            Hops::List(list) => {
                all.extend(list);
                return true;
            }
            Hops::Object(id) => id,
        };
        match self.objects.get(id) {
            Some(NextHopObject::Hop(hop)) => all.push(Hop { weight, ..*hop }),
            Some(NextHopObject::Blackhole) => return false,
            Some(NextHopObject::Group(members)) => {
                for (member, weight) in members {
                    if let Some(NextHopObject::Hop(hop)) = self.objects.get(member) {
                        all.push(Hop {
                            weight: *weight,
                            ..*hop
                        });
                    }
                }
            }
            // The kernel tells of the object first; if it was missed, a new dump is on its way.
            None => {}
        }
        true
    }
}

/// The target of these hops: those on links that are up share the traffic.
fn join(
    hops: &[Hop],
    family: Family,
    source: Option<Addr>,
    mtu: Option<u32>,
    world: &World<'_>,
) -> Target {
    let mut usable = Vec::new();
    let mut foreign = false;
    for hop in hops {
        match world.links.role(hop.index) {
            Role::Link {
                id,
                up: true,
                mtu: link_mtu,
            } => {
                let own = || world.addresses.source(hop.index, family, world.lenders);
                let next = NextHop {
                    link: id,
                    gateway: hop.gateway,
                    mtu: mtu.map_or(link_mtu, |m| m.min(u32::from(link_mtu)) as u16),
                    source: source.unwrap_or_else(own),
                };
                usable.push((next, hop.weight));
            }
            Role::Foreign { up: true } => foreign = true,
            Role::Gone if hop.index == 0 => foreign = true,
            _ => {}
        }
    }
    match usable[..] {
        [] if foreign => Target::Foreign,
        _ => Target::multipath(&usable),
    }
}

/// `None` for prefixes that are not for forwarding: multicast, and IPv6 link-local, whose
/// meaning depends on the device.
fn key(route: &Route) -> Option<Key> {
    let addr = route.prefix.addr();
    let link_local = addr.is_link_local_v6() && route.kind != RouteKind::Local;
    if addr.is_multicast() || link_local {
        return None;
    }
    Some(Key {
        local: route.table == TABLE_LOCAL,
        prefix: route.prefix,
    })
}

fn spec(route: &Route) -> Spec {
    match route.kind {
        RouteKind::Local => match &route.hops {
            Hops::List(list) => Spec::Local(list.first().map_or(0, |h| h.index)),
            Hops::Object(_) => Spec::Local(0),
        },
        RouteKind::Group => Spec::Group,
        RouteKind::Reject(reject) => Spec::Reject(reject),
        RouteKind::Unicast => Spec::Unicast {
            family: route.prefix.addr().family(),
            source: route.source,
            mtu: route.mtu,
            hops: route.hops.clone(),
        },
    }
}

fn is_routed(hops: &Hops) -> bool {
    match hops {
        Hops::Object(_) => true,
        Hops::List(list) => list.iter().all(|h| h.gateway.is_some()),
    }
}

fn devices(hops: &Hops) -> Vec<IfIndex> {
    match hops {
        Hops::Object(_) => Vec::new(),
        Hops::List(list) => list.iter().map(|h| h.index).collect(),
    }
}
