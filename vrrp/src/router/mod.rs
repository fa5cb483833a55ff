//! All virtual routers of a host: who gets which input, and when the next timer is due.
//!
//! A driver feeds it what sockets, netlink, scripts and the clock say and carries out what stands
//! in [`Outputs`]. If the queue has no room left, what remains to be done waits inside, and
//! [`Router::next_timeout`] lies in the past until [`Router::run`] was called with room. The
//! driver drains sockets before it calls [`Router::run`], so that silence is never judged while
//! adverts wait unread.

mod plan;

pub use plan::{Plan, PlanError};

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use core::net::IpAddr;

use crate::addr::{Family, Mac};
use crate::announce::Claim;
use crate::config::{Config, Key};
use crate::counters::InvalidCounters;
use crate::group::Group;
use crate::instance::{GroupOrder, Input, Instance, Role};
use crate::output::{Output, Outputs};
use crate::packet::{self, Invalid, Received};
use crate::time::Instant;
use crate::track::{Observation, Summary, Tracked, Tracker, TrackerId};

/// The virtual routers of a host.
#[derive(Debug, Default)]
pub struct Router {
    slots: BTreeMap<Key, Slot>,
    groups: Vec<Grouped>,
    trackers: BTreeMap<TrackerId, Tracker>,
    interfaces: BTreeMap<u32, Interface>,
    /// When instances want to be called, the earliest first.
    timeouts: BTreeSet<(Instant, Key)>,
    /// Steps that wait for room in the queue of outputs.
    backlog: VecDeque<(Key, Input<'static>)>,
    /// Living masters are left alone.
    is_held: bool,
    /// Instances that may be master without listening, until then.
    resumable: BTreeMap<Key, Instant>,
    refused: InvalidCounters,
}

#[derive(Debug)]
struct Slot {
    instance: Instance,
    group: Option<usize>,
    /// Its trackers and its group's.
    tracked: Vec<Tracked>,
    timeout: Option<Instant>,
    /// To be forgotten when it has stopped.
    is_leaving: bool,
}

#[derive(Debug)]
struct Grouped {
    group: Group,
    role: Option<Role>,
}

/// What is known of an interface.
#[derive(Clone, Copy, Debug, Default)]
struct Interface {
    is_up: bool,
    mac: Mac,
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

impl Interface {
    fn source(&mut self, family: Family) -> &mut Option<IpAddr> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

impl Router {
    /// A host without virtual routers.
    pub fn new() -> Router {
        Router::default()
    }

    /// A message came in on an interface.
    ///
    /// Refused ones are counted: by the instance, or in [`Router::refused`] if there is none.
    pub fn receive(
        &mut self,
        now: Instant,
        interface: u32,
        received: Received<'_>,
        out: &mut Outputs,
    ) {
        self.drain(now, out);
        let vrid = match packet::peek_vrid(&received) {
            Ok(vrid) => vrid,
            Err(reason) => return self.refused.raise(reason),
        };
        let key = Key {
            interface,
            family: Family::of(received.src),
            vrid,
        };
        if !self.slots.contains_key(&key) {
            self.refused.raise(Invalid::UnknownVrid);
        } else if !out.has_room() {
            self.refused.raise(Invalid::Busy);
        } else {
            self.step(now, key, Input::Advert(received), out);
            self.drain(now, out);
        }
    }

    /// A broken IP packet came in where adverts were expected.
    pub fn refuse(&mut self, reason: Invalid) {
        self.refused.raise(reason);
    }

    /// An interface's state and MAC.
    pub fn link(&mut self, now: Instant, interface: u32, is_up: bool, mac: Mac, out: &mut Outputs) {
        let known = self.interfaces.entry(interface).or_default();
        (known.is_up, known.mac) = (is_up, mac);
        self.tell(interface, |_| Input::Link { is_up, mac });
        self.drain(now, out);
    }

    /// An interface's address of one family to send from.
    pub fn source(
        &mut self,
        now: Instant,
        interface: u32,
        family: Family,
        source: Option<IpAddr>,
        out: &mut Outputs,
    ) {
        *self.interfaces.entry(interface).or_default().source(family) = source;
        let keys = self.keys(|key| key.interface == interface && key.family == family);
        self.backlog
            .extend(keys.into_iter().map(|key| (key, Input::Source(source))));
        self.drain(now, out);
    }

    /// Frames came in on an interface: its receive path works. A driver says so at most every few
    /// milliseconds.
    pub fn frame_heard(&mut self, now: Instant, interface: u32, out: &mut Outputs) {
        self.tell(interface, |_| Input::FrameHeard);
        self.drain(now, out);
    }

    /// A frame of somebody else came in on an interface that came up before.
    pub fn arrived(&mut self, now: Instant, interface: u32, out: &mut Outputs) {
        self.tell(interface, |_| Input::Arrived);
        self.drain(now, out);
    }

    /// A frame on an interface said where an address is.
    pub fn claimed(&mut self, now: Instant, interface: u32, claim: Claim, out: &mut Outputs) {
        self.tell(interface, |_| Input::Claimed(claim));
        self.drain(now, out);
    }

    /// Somebody else removed an address from an interface.
    pub fn address_lost(&mut self, now: Instant, interface: u32, addr: IpAddr, out: &mut Outputs) {
        self.tell(interface, |_| Input::AddressLost(addr));
        self.drain(now, out);
    }

    /// An instance that the next [`Router::apply`] starts was master of a program that was killed,
    /// whose last adverts keep the peers waiting until then.
    pub fn resume(&mut self, key: Key, until: Instant) {
        self.resumable.insert(key, until);
    }

    /// Whether living masters are to be left alone for now ([`Input::Hold`]). Also for instances to
    /// come.
    pub fn hold(&mut self, now: Instant, is_held: bool, out: &mut Outputs) {
        if is_held == self.is_held {
            return;
        }
        self.is_held = is_held;
        let keys = self.keys(|_| true);
        self.backlog
            .extend(keys.into_iter().map(|key| (key, Input::Hold(is_held))));
        self.drain(now, out);
    }

    /// All masters give up ([`Input::HandOver`]).
    pub fn hand_over(&mut self, now: Instant, out: &mut Outputs) {
        let keys = self.keys(|_| true);
        self.backlog
            .extend(keys.into_iter().map(|key| (key, Input::HandOver)));
        self.drain(now, out);
    }

    /// No advert of an instance's last round could be sent.
    pub fn send_failed(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        self.backlog.push_back((key, Input::SendFailed));
        self.drain(now, out);
    }

    /// Something tracked was observed.
    pub fn observe(&mut self, now: Instant, id: TrackerId, seen: Observation, out: &mut Outputs) {
        let Some(tracker) = self.trackers.get_mut(&id) else {
            return;
        };
        let before = tracker.verdict();
        tracker.observe(now, seen);
        if tracker.verdict() != before {
            self.retrack(Some(id));
        }
        self.drain(now, out);
    }

    /// Ends all instances.
    pub fn stop(&mut self, now: Instant, out: &mut Outputs) {
        let keys = self.keys(|_| true);
        self.backlog
            .extend(keys.into_iter().map(|key| (key, Input::Stop)));
        self.drain(now, out);
    }

    /// Does what is due. Returns whether all of it was done; otherwise the queue is to be emptied
    /// and this called again.
    pub fn run(&mut self, now: Instant, out: &mut Outputs) -> bool {
        self.advance_trackers(now);
        loop {
            self.drain(now, out);
            let Some((at, key)) = self.timeouts.first().copied() else {
                break;
            };
            if at > now || !out.has_room() {
                break;
            }
            self.step(now, key, Input::Timer, out);
        }
        self.next_timeout().is_none_or(|at| at > now)
    }

    /// When to call [`Router::run`] next.
    pub fn next_timeout(&self) -> Option<Instant> {
        if !self.backlog.is_empty() {
            return Some(Instant::default());
        }
        let trackers = self
            .trackers
            .values()
            .filter_map(Tracker::next_timeout)
            .min();
        let instances = self.timeouts.first().map(|(at, _)| *at);
        trackers.into_iter().chain(instances).min()
    }

    /// One instance.
    pub fn instance(&self, key: Key) -> Option<&Instance> {
        self.slots.get(&key).map(|slot| &slot.instance)
    }

    /// All instances, by interface, family and virtual router id.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.slots.values().map(|slot| &slot.instance)
    }

    /// Messages that no instance judged.
    pub fn refused(&self) -> &InvalidCounters {
        &self.refused
    }

    fn keys(&self, is_meant: impl Fn(&Key) -> bool) -> Vec<Key> {
        self.slots.keys().copied().filter(is_meant).collect()
    }

    /// Tells all instances of an interface.
    fn tell(&mut self, interface: u32, what: impl Fn(Key) -> Input<'static>) {
        let keys = self.keys(|key| key.interface == interface);
        self.backlog
            .extend(keys.into_iter().map(|key| (key, what(key))));
    }

    /// Takes the steps that wait, as long as there is room.
    fn drain(&mut self, now: Instant, out: &mut Outputs) {
        while out.has_room() {
            let Some((key, input)) = self.backlog.pop_front() else {
                break;
            };
            if matches!(input, Input::Group(GroupOrder::Promote)) && !self.may_promote(key) {
                continue;
            }
            self.step(now, key, input, out);
        }
    }

    /// Whether its group still wants what it wanted when the order was given.
    fn may_promote(&self, key: Key) -> bool {
        let group = self.slots.get(&key).and_then(|slot| slot.group);
        group.is_some_and(|group| Group::is_ready(&self.members(group)))
    }

    fn members(&self, group: usize) -> Vec<&Instance> {
        let members = self
            .groups
            .get(group)
            .map(|grouped| &grouped.group.members[..]);
        let members = members.unwrap_or_default().iter();
        members.filter_map(|key| self.instance(*key)).collect()
    }

    fn step(&mut self, now: Instant, key: Key, input: Input<'_>, out: &mut Outputs) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let reaction = slot.instance.handle(now, input, out);
        let timeout = slot.instance.next_timeout();
        if timeout != slot.timeout {
            if let Some(at) = slot.timeout {
                self.timeouts.remove(&(at, key));
            }
            self.timeouts.extend(timeout.map(|at| (at, key)));
            slot.timeout = timeout;
        }
        let group = slot.group;
        if slot.is_leaving && slot.instance.state().role() == Role::Stopped {
            self.slots.remove(&key);
            return;
        }
        let Some(group) = group else { return };
        let members = self.members(group);
        let role = Group::role(&members);
        let orders = Group::orders(&members, key, reaction);
        self.backlog.extend(
            orders
                .into_iter()
                .map(|(key, order)| (key, Input::Group(order))),
        );
        if let (Some(role), Some(grouped)) = (role, self.groups.get_mut(group))
            && grouped.role.replace(role) != Some(role)
        {
            out.push(
                key,
                Output::GroupState {
                    name: grouped.group.name.clone(),
                    role,
                },
            );
        }
    }

    fn advance_trackers(&mut self, now: Instant) {
        let mut changed = Vec::new();
        for (id, tracker) in &mut self.trackers {
            let before = tracker.verdict();
            tracker.advance(now);
            if tracker.verdict() != before {
                changed.push(*id);
            }
        }
        for id in changed {
            self.retrack(Some(id));
        }
    }

    /// Adds up the trackers again of all instances that `id` matters to; of all if none is named.
    fn retrack(&mut self, id: Option<TrackerId>) {
        let matters = |slot: &Slot| match id {
            Some(id) => slot.tracked.iter().any(|tracked| tracked.tracker == id),
            None => true,
        };
        let slots = self.slots.iter().filter(|(_, slot)| matters(slot));
        let summaries = slots.map(|(key, slot)| (*key, Input::Track(self.summary(slot))));
        self.backlog.extend(summaries.collect::<Vec<_>>());
    }

    fn summary(&self, slot: &Slot) -> Summary {
        slot.tracked
            .iter()
            .fold(Summary::default(), |sum, tracked| {
                match self.trackers.get(&tracked.tracker) {
                    Some(tracker) => sum.with(*tracked, tracker.verdict()),
                    None => sum,
                }
            })
    }
}

/// What an instance depends on: its group's trackers, and its own that are not among those.
fn tracked(config: &Config, group: Option<&Group>) -> Vec<Tracked> {
    let Some(group) = group else {
        return config.trackers.clone();
    };
    let is_groups = |own: &&Tracked| group.trackers.iter().any(|t| t.tracker == own.tracker);
    let own = config.trackers.iter().filter(|own| !is_groups(own));
    let all = group.trackers.iter().chain(own);
    all.map(|tracked| match group.tracking_weight {
        true => *tracked,
        false => Tracked {
            weight: 0,
            ..*tracked
        },
    })
    .collect()
}
