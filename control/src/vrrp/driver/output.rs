//! What the machines want done: each in its order.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::time::Duration;

use vrrp::addr::Mac;
use vrrp::config::Key;
use vrrp::output::{Alarm, Announced, Datagram, Output};
use vrrp::packet;
use vrrp::time::Instant;

use super::Driver;
use super::lease::Lease;
use crate::vrrp::socket::UnicastSocket;
use crate::vrrp::{Notice, view};

/// A worker that moved within this time counts as moving.
const PULSE: Duration = Duration::from_millis(50);

/// A round of adverts.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    any_left: bool,
    failed: bool,
}

impl Driver {
    /// Does what the machines want, in their order.
    pub(super) fn carry_out(&mut self, now: Instant) {
        // What could not be sent makes the machines want more.
        while !self.out.is_empty() {
            let mut rounds: BTreeMap<Key, Round> = BTreeMap::new();
            while let Some((key, output)) = self.out.pop() {
                self.act(now, key, output, &mut rounds);
            }
            for (key, round) in rounds {
                if round.failed && !round.any_left {
                    self.router.send_failed(now, key, &mut self.out);
                }
            }
        }
    }

    fn act(&mut self, now: Instant, key: Key, output: Output, rounds: &mut BTreeMap<Key, Round>) {
        match output {
            Output::Send(advert) => {
                // Whoever hears that we give up may take over at once.
                if advert.message.get(2) == Some(&0) {
                    self.end_lease(now, key);
                }
                let round = rounds.entry(key).or_default();
                match self.send(now, key, &advert) {
                    Ok(()) => {
                        round.any_left = true;
                        self.recovered(key, "advert");
                    }
                    Err(reason) => {
                        round.failed = true;
                        self.trouble(
                            key,
                            "advert",
                            format!("no advert to {}: {reason}", advert.dst),
                        );
                    }
                }
            }
            Output::Lease { until } => self.renew(now, key, until),
            Output::AddAddresses { addresses, .. } => {
                let there = self.add_addresses(key, &addresses);
                self.introduce(key, there);
            }
            Output::RemoveAddresses(addresses) => {
                let is_all = self.slots.get(&key).is_some_and(|slot| {
                    slot.config
                        .addresses
                        .iter()
                        .all(|a| addresses.contains(&a.addr))
                });
                if is_all {
                    self.end_lease(now, key);
                }
                self.remove_addresses(key, &addresses);
            }
            Output::Announce { what, rounds } => {
                match self.slots.get_mut(&key).map(|slot| &mut slot.lease) {
                    // Said when it is true.
                    Some(Lease::Opening { rounds: later, .. })
                        if what == Announced::VirtualAddresses =>
                    {
                        *later = (*later).max(rounds);
                    }
                    _ => self.announce(now, key, what, rounds),
                }
            }
            Output::State {
                role,
                cause,
                priority,
            } => {
                let Some(slot) = self.slots.get_mut(&key) else {
                    return;
                };
                let old = std::mem::replace(&mut slot.role, role);
                (slot.since, slot.cause) = (now, cause.name());
                let instance = slot.config.machine.name.clone();
                tracing::info!(instance, vrid = key.vrid, state = %role, event = cause.name(), priority, "{}", cause.help());
                let group = slot.group.clone();
                self.tell(Notice::Instance {
                    instance,
                    group,
                    old,
                    new: role,
                    cause,
                    priority,
                });
            }
            Output::GroupState { name, role } => {
                tracing::info!(group = name, state = %role, "the sync group changed");
                self.tell(Notice::Group {
                    group: name,
                    new: role,
                });
            }
            Output::Priority(priority) => {
                let Some(slot) = self.slots.get(&key) else {
                    return;
                };
                let (instance, state) = (slot.config.machine.name.clone(), slot.role);
                tracing::info!(instance, vrid = key.vrid, state = %state, event = "priority", priority, "the effective priority changed");
                self.tell(Notice::Priority {
                    instance,
                    state,
                    priority,
                });
            }
            Output::Alarm(alarm) => self.alarm(key, alarm),
        }
        self.is_shown = false;
    }

    pub(super) fn tell(&mut self, notice: Notice) {
        // Control ends after us.
        let _ = self.parts.notices.send(notice);
        let _ = self.parts.control.wake();
    }

    /// Says once what is wrong.
    pub(super) fn trouble(&mut self, key: Key, what: &'static str, text: String) {
        if self.troubles.get(&(key, what)) != Some(&text) {
            let instance = self
                .slots
                .get(&key)
                .map_or("?", |slot| &slot.config.machine.name);
            tracing::warn!(instance, vrid = key.vrid, event = what, "{text}");
            self.troubles.insert((key, what), text);
        }
    }

    pub(super) fn recovered(&mut self, key: Key, what: &'static str) {
        if self.troubles.remove(&(key, what)).is_some() {
            let instance = self
                .slots
                .get(&key)
                .map_or("?", |slot| &slot.config.machine.name);
            tracing::info!(instance, vrid = key.vrid, event = what, "it works again");
        }
    }

    pub(super) fn send(&mut self, now: Instant, key: Key, advert: &Datagram) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(&key) else {
            return Ok(());
        };
        let before = slot.sent.replace(now);
        let sends_from_base = slot.config.sends_from_base;
        if let Some(before) = before {
            // What was handed to a data plane that stands still does not leave.
            self.parts.vitals.look(now);
            let since = before.min(now - PULSE);
            if !self.parts.vitals.moved_since(now, since) {
                return Err(io::Error::other("the data plane stands still"));
            }
        }
        if !advert.dst.is_multicast() {
            let socket = match self.unicast.entry(advert.src) {
                Entry::Occupied(open) => open.into_mut(),
                Entry::Vacant(place) => place.insert(UnicastSocket::open(advert.src)?),
            };
            return socket.send(advert);
        }
        let told = self.told.get(&key.interface);
        let own = told.map(|told| told.mac).unwrap_or_default();
        let mac = advert
            .virtual_mac
            .filter(|_| !sends_from_base)
            .unwrap_or(own);
        let dst = Mac::multicast(advert.dst).unwrap_or(Mac::BROADCAST);
        let frame = packet::ethernet(dst, mac, &advert.packet(self.id));
        self.id = self.id.checked_add(1).unwrap_or(1);
        let socket = self.sockets.get(&key.interface);
        let socket = socket.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        socket.send(&frame)
    }

    fn alarm(&mut self, key: Key, alarm: Alarm) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let text = view::explain(&alarm);
        let entry = slot.alarms.entry(alarm.name()).or_default();
        *entry = (entry.0 + 1, text.clone());
        let instance = slot.config.machine.name.clone();
        tracing::warn!(instance, vrid = key.vrid, event = alarm.name(), "{text}");
        let priority = self.router.instance(key).map_or(0, |i| i.priority());
        self.tell(Notice::Alarm {
            instance,
            alarm: alarm.name(),
            text,
            priority,
        });
    }
}

#[cfg(test)]
mod tests;
