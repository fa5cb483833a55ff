//! A new configuration: machines, slots and macvlans with the devices there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dataplane::lease;
use vrrp::config::Key;
use vrrp::instance::Role;
use vrrp::time::Instant;

use super::lease::Lease;
use super::{Driver, Slot, who};
use crate::config::vrrp::{Address, Instance, Vrrp};
use crate::vrrp::watcher::Watch;
use crate::vrrp::{Notice, macvlan, plan};

impl Driver {
    /// Takes another configuration.
    pub(super) fn apply(
        &mut self,
        now: Instant,
        config: Arc<Vrrp>,
        places: BTreeMap<String, lease::Slot>,
    ) {
        let old = std::mem::replace(&mut self.config, config);
        (self.places, self.workers_are_well) = (places, None);
        self.plan(now);
        // After what becomes of its members.
        for group in &old.groups {
            if !self.config.groups.iter().any(|new| new.name == group.name) {
                self.tell(Notice::Group {
                    group: group.name.clone(),
                    new: Role::Stopped,
                });
            }
        }
    }

    /// Makes the machines as configured, with the devices there are.
    pub(super) fn plan(&mut self, now: Instant) {
        self.make_macvlans();
        let links = &self.links;
        let index = |name: &str| links.port(name).map(|port| port.index);
        let (plan, keys) = plan::plan(&self.config, &mut self.numbers, index);
        let all = self.config.instances.iter().map(who);
        self.parts.memory.plan(all);
        let mut slots = BTreeMap::new();
        let mut changed_ways = Vec::new();
        for (key, config) in keys.iter().zip(&self.config.instances) {
            let name = &config.machine.name;
            let mut groups = self.config.groups.iter();
            let group = groups.find(|group| group.instances.contains(name));
            let group = group.map(|group| group.name.clone());
            let place = self.places.get(name).copied();
            let slot = match self.slots.remove(key) {
                Some(old) => {
                    let was = &old.config;
                    if old.holds && (&was.routes, &was.rules) != (&config.routes, &config.rules) {
                        changed_ways.push((*key, was.clone()));
                    }
                    Slot {
                        place,
                        config: config.clone(),
                        group,
                        ..old
                    }
                }
                None => Slot {
                    config: config.clone(),
                    group,
                    role: Role::Stopped,
                    since: now,
                    cause: "start",
                    alarms: BTreeMap::new(),
                    sent: None,
                    holds: false,
                    place,
                    lease: Lease::Free,
                    is_left: self.parts.memory.is_inherited(),
                },
            };
            slots.insert(*key, slot);
        }
        // Those that are left stop; what they still want done needs to know their addresses.
        let leaving = std::mem::take(&mut self.slots);
        let mut changed = BTreeMap::new();
        for (key, slot) in &slots {
            changed.insert(*key, slot.config.clone());
        }
        self.slots = slots;
        for (key, slot) in leaving {
            self.slots.entry(key).or_insert(slot);
        }
        for (key, slot) in self.slots.iter().filter(|(key, _)| plan::exists(**key)) {
            if self.router.instance(*key).is_none()
                && let Some(until) = self.parts.memory.take(&slot.who())
            {
                self.router.resume(*key, until);
            }
        }
        self.open_sockets();
        self.tell_links(now);
        if let Err(mistakes) = self.router.apply(now, plan, &mut self.out) {
            // The configuration was checked, so that two interfaces of one name are left.
            for mistake in mistakes {
                tracing::error!(event = "vrrp", "{mistake}; nothing changed");
            }
        }
        self.carry_out(now);
        for (key, old) in changed_ways {
            self.change_ways(key, &old);
        }
        let board = &self.parts.board;
        self.slots.retain(|key, slot| {
            let stays = changed.contains_key(key);
            if let (false, Some(place)) = (stays, slot.place) {
                board.free(place);
            }
            stays
        });
        // What only those had who have left by now.
        self.open_sockets();
        let tracked = plan::all_tracked(&self.config);
        self.parts.scripts.plan(now, &self.config, &tracked);
        // The watcher ends only with us.
        let _ = self.parts.watch.send(Watch::of(&self.config, &tracked));
        self.tell_tracked(now);
        self.remove_macvlans();
        self.is_shown = false;
    }

    /// Where an address of an instance is put: the macvlan if it has one, in the place of the
    /// instance's interface.
    pub(super) fn device_of(&self, key: Key, config: &Instance, address: &Address) -> String {
        match config.machine.virtual_mac && address.device == config.interface {
            true => macvlan::name(key),
            false => address.device.clone(),
        }
    }

    fn make_macvlans(&mut self) {
        let links = &self.links;
        let index = |name: &str| links.port(name).map(|port| port.index);
        let (_, keys) = plan::plan(&self.config, &mut self.numbers, index);
        let mut is_new = false;
        for (key, config) in keys.into_iter().zip(&self.config.instances) {
            let name = macvlan::name(key);
            if !config.machine.virtual_mac || !plan::exists(key) || links.port(&name).is_some() {
                continue;
            }
            is_new = true;
            if let Err(reason) = macvlan::make(&mut self.kernel, key) {
                tracing::warn!(
                    instance = %config.machine.name,
                    "the macvlan {name} for the virtual MAC cannot be made: {reason}; load the \
                     kernel module macvlan, or remove vmac"
                );
            }
        }
        if is_new {
            self.links.read(&mut self.kernel);
            for (key, config) in self.slots_planned() {
                let port = self.links.port(&macvlan::name(key));
                if let Some(port) = port.filter(|port| config.machine.virtual_mac && !port.is_up) {
                    // It is told by the next look at the links if that failed.
                    let _ = self.kernel.set_up(port.index);
                }
            }
        }
    }

    fn slots_planned(&mut self) -> Vec<(Key, Instance)> {
        let links = &self.links;
        let index = |name: &str| links.port(name).map(|port| port.index);
        let (_, keys) = plan::plan(&self.config, &mut self.numbers, index);
        keys.into_iter()
            .zip(self.config.instances.iter().cloned())
            .collect()
    }

    /// Removes the macvlans of instances that are gone.
    pub(super) fn remove_macvlans(&mut self) {
        let wanted: BTreeSet<String> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.config.machine.virtual_mac)
            .map(|(key, _)| macvlan::name(*key))
            .collect();
        for (index, name) in self.links.macvlans() {
            if macvlan::is_ours(&name) && !wanted.contains(&name) {
                // A device that went by itself is gone as well.
                let _ = self.kernel.remove_link(index);
            }
        }
    }
}
