//! The whole configuration of a host, and the way from one to the next.

use std::collections::{BTreeMap, BTreeSet};

use super::{Grouped, Router, Slot, tracked};
use crate::config::{Config, ConfigError, Key};
use crate::group::Group;
use crate::instance::{GroupOrder, Health, Input, Instance, Reaction, Role, State};
use crate::output::Outputs;
use crate::time::Instant;
use crate::track::{Tracker, TrackerId};

/// Everything that is configured.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The virtual routers.
    pub instances: Vec<Config>,
    /// The sync groups.
    pub groups: Vec<Group>,
    /// The trackers that instances and groups name.
    pub trackers: BTreeMap<TrackerId, Tracker>,
}

/// A mistake in a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A virtual router cannot be as configured.
    #[error("virtual router {name}: {error}")]
    Instance {
        /// Its name.
        name: String,
        /// What is wrong.
        error: ConfigError,
    },
    /// Two virtual routers with the same interface, family and id.
    #[error("virtual routers {0} and {1} have the same interface, family and id; change one id")]
    SameKey(String, String),
    /// A tracker that is not defined.
    #[error("{0} names tracker {1:?}, which is not defined")]
    UnknownTracker(String, TrackerId),
    /// A group that names a virtual router that does not exist.
    #[error("sync group {0} names {1}, which is not configured")]
    UnknownMember(String, Key),
    /// A virtual router in two groups, or twice in one.
    #[error("{1} is listed again by sync group {0}; a virtual router has at most one group")]
    TwoGroups(String, Key),
    /// Owners wait for nobody, others do: they cannot change together.
    #[error("sync group {0} mixes address owners (priority 255) with others; use one kind")]
    MixedOwners(String),
}

impl Plan {
    /// Everything that is wrong.
    ///
    /// # Errors
    /// At least one mistake.
    pub fn check(&self) -> Result<(), Vec<PlanError>> {
        let mut errors = Vec::new();
        let mut keys = BTreeMap::new();
        for config in &self.instances {
            if let Some(other) = keys.insert(config.key, config) {
                errors.push(PlanError::SameKey(other.name.clone(), config.name.clone()));
            }
            let mistakes = config.check().err().unwrap_or_default().into_iter();
            errors.extend(mistakes.map(|error| PlanError::Instance {
                name: config.name.clone(),
                error,
            }));
            let unknown = config
                .trackers
                .iter()
                .filter(|t| !self.trackers.contains_key(&t.tracker));
            errors
                .extend(unknown.map(|t| PlanError::UnknownTracker(config.name.clone(), t.tracker)));
        }
        let mut grouped = BTreeSet::new();
        for group in &self.groups {
            let name = || group.name.clone();
            let mut owners = BTreeSet::new();
            for key in &group.members {
                match keys.get(key) {
                    Some(config) => drop(owners.insert(config.is_owner())),
                    None => errors.push(PlanError::UnknownMember(name(), *key)),
                }
                if !grouped.insert(*key) {
                    errors.push(PlanError::TwoGroups(name(), *key));
                }
            }
            if owners.len() > 1 {
                errors.push(PlanError::MixedOwners(name()));
            }
            let unknown = group
                .trackers
                .iter()
                .filter(|t| !self.trackers.contains_key(&t.tracker));
            errors.extend(unknown.map(|t| PlanError::UnknownTracker(name(), t.tracker)));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

impl Router {
    /// Makes the host as planned: instances that are not planned stop, new ones start, others go
    /// on with what changed. Trackers of the same kind keep what they counted.
    ///
    /// # Errors
    /// Everything that is wrong; then nothing changed.
    pub fn apply(
        &mut self,
        now: Instant,
        plan: Plan,
        out: &mut Outputs,
    ) -> Result<(), Vec<PlanError>> {
        plan.check()?;
        self.retire(&plan);
        self.take_trackers(plan.trackers);
        self.take_groups(plan.groups);
        let mut starting = Vec::new();
        for config in plan.instances {
            let key = config.key;
            if self.take_instance(config) {
                starting.push(key);
            }
        }
        for key in &starting {
            self.prime(now, *key, out);
        }
        for group in 0..self.groups.len() {
            self.tell_health(now, group, out);
        }
        self.ungroup();
        self.retrack(None);
        self.resumable.clear();
        self.backlog
            .extend(starting.into_iter().map(|key| (key, Input::Start)));
        self.drain(now, out);
        Ok(())
    }

    /// Stops what is not planned.
    fn retire(&mut self, plan: &Plan) {
        let planned: BTreeSet<Key> = plan.instances.iter().map(|config| config.key).collect();
        for (key, slot) in &mut self.slots {
            if !planned.contains(key) {
                (slot.is_leaving, slot.group) = (true, None);
                slot.instance.set_grouped(false);
                self.backlog.push_back((*key, Input::Stop));
            }
        }
    }

    fn take_groups(&mut self, planned: Vec<Group>) {
        let old = core::mem::take(&mut self.groups);
        let role_of = |name: &str| {
            let known = old.iter().find(|grouped| grouped.group.name == name);
            known.map_or(Some(Role::Stopped), |grouped| grouped.role)
        };
        let groups = planned.into_iter().map(|group| Grouped {
            role: role_of(&group.name),
            group,
        });
        self.groups = groups.collect();
    }

    /// Takes a planned instance in; returns whether it has to be started.
    fn take_instance(&mut self, config: Config) -> bool {
        let key = config.key;
        let group = self
            .groups
            .iter()
            .position(|g| g.group.members.contains(&key));
        let tracked = tracked(
            &config,
            group.and_then(|i| self.groups.get(i)).map(|g| &g.group),
        );
        let Some(slot) = self.slots.get_mut(&key) else {
            // `check` found nothing wrong, so there is an instance.
            let Ok(instance) = Instance::new(config, group.is_some()) else {
                return false;
            };
            let slot = Slot {
                instance,
                group,
                tracked,
                timeout: None,
                is_leaving: false,
            };
            self.slots.insert(key, slot);
            return true;
        };
        (slot.group, slot.tracked) = (group, tracked);
        slot.instance.set_grouped(group.is_some());
        if slot.is_leaving || *slot.instance.config() != config {
            self.backlog
                .push_back((key, Input::Reload(Box::new(config))));
        }
        core::mem::take(&mut slot.is_leaving)
    }

    /// Tells a new instance what is known before it starts, so that it starts in the right state.
    fn prime(&mut self, now: Instant, key: Key, out: &mut Outputs) {
        let mut interface = self
            .interfaces
            .get(&key.interface)
            .copied()
            .unwrap_or_default();
        let source = *interface.source(key.family);
        let (is_up, mac) = (interface.is_up, interface.mac);
        let Some(summary) = self.slots.get(&key).map(|slot| self.summary(slot)) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        if *slot.instance.state() != State::Init {
            // It is to stop first, and knows all that.
            return;
        }
        if let Some(until) = self.resumable.remove(&key) {
            slot.instance.handle(now, Input::Resume(until), out);
        }
        // None of them puts anything out before the start.
        for input in [
            Input::Link { is_up, mac },
            Input::Source(source),
            Input::Track(summary),
            Input::Hold(self.is_held),
        ] {
            slot.instance.handle(now, input, out);
        }
    }

    /// Tells members of a group that have not started how the others are.
    fn tell_health(&mut self, now: Instant, group: usize, out: &mut Outputs) {
        let members = self.members(group);
        let Some(first) = members.first().map(|member| member.key()) else {
            return;
        };
        for (key, order) in Group::orders(&members, first, Reaction::default()) {
            match self.slots.get_mut(&key) {
                Some(slot) if *slot.instance.state() == State::Init => {
                    slot.instance.handle(now, Input::Group(order), out);
                }
                _ => self.backlog.push_back((key, Input::Group(order))),
            }
        }
    }

    /// Instances without a group forget how it was.
    fn ungroup(&mut self) {
        let fine = || Input::Group(GroupOrder::Health(Health::Fine));
        let free = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.group.is_none() && !slot.is_leaving);
        let free = free.filter(|(_, slot)| slot.instance.group_health() != Health::Fine);
        self.backlog
            .extend(free.map(|(key, _)| (*key, fine())).collect::<Vec<_>>());
    }

    fn take_trackers(&mut self, planned: BTreeMap<TrackerId, Tracker>) {
        let mut old = core::mem::take(&mut self.trackers);
        self.trackers = planned
            .into_iter()
            .map(|(id, new)| match old.remove(&id) {
                Some(kept) if kept.is_like(&new) => (id, kept),
                _ => (id, new),
            })
            .collect();
    }
}
