//! Interfaces and their addresses: what the kernel says of them, told to the machines.

use std::collections::BTreeSet;

use std::net::IpAddr;

use vrrp::addr::{Family, Mac};
use vrrp::time::Instant;
use vrrp::track::Observation;

use super::{Driver, now};
use crate::config::vrrp::{Instance, Tracked};
use crate::vrrp::plan;

/// What instances of one interface were told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub is_up: bool,
    pub mac: Mac,
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

/// Frames that an interface has received.
fn received(interface: &str) -> u64 {
    let path = format!("/sys/class/net/{interface}/statistics/rx_packets");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

impl Driver {
    /// Tells the machines how their interfaces are, if that is new.
    pub(super) fn tell_links(&mut self, now: Instant) {
        let names: BTreeSet<String> = self
            .slots
            .values()
            .map(|slot| slot.config.interface.clone())
            .collect();
        for name in names {
            let Some(port) = self.links.port(&name) else {
                continue;
            };
            let new = Told {
                is_up: port.is_up,
                mac: port.mac,
                v4: self.source(port.index, Family::V4),
                v6: self.source(port.index, Family::V6),
            };
            let old = self.told.insert(port.index, new);
            if old.is_none_or(|old| (old.v4, old.v6) != (new.v4, new.v6)) {
                self.router
                    .source(now, port.index, Family::V4, new.v4, &mut self.out);
                self.router
                    .source(now, port.index, Family::V6, new.v6, &mut self.out);
            }
            match old {
                Some(Told { is_up: false, .. }) if new.is_up => {
                    self.unproven.insert(port.index, received(&name));
                }
                _ if new.is_up => {}
                _ => drop(self.unproven.remove(&port.index)),
            }
            if old.is_none_or(|old| (old.is_up, old.mac) != (new.is_up, new.mac)) {
                self.router
                    .link(now, port.index, new.is_up, new.mac, &mut self.out);
            }
        }
        self.told
            .retain(|index, _| self.links.name(*index).is_some());
    }

    /// Tells the machines of interfaces that came up and have had a frame since.
    pub(super) fn look_for_arrivals(&mut self, now: Instant) {
        let Driver {
            unproven,
            links,
            router,
            out,
            ..
        } = self;
        unproven.retain(|index, before| {
            let Some(name) = links.name(*index) else {
                return false;
            };
            let has_come = received(name) != *before;
            if has_come {
                router.arrived(now, *index, out);
            }
            !has_come
        });
    }

    /// Tells the machines how tracked interfaces are. Those that do not exist are down.
    pub(super) fn tell_tracked(&mut self, now: Instant) {
        for what in plan::all_tracked(&self.config) {
            if let Tracked::Interface(name) = &what {
                let is_up = self.links.port(name).is_some_and(|port| port.is_up);
                let id = self.numbers.tracker(&what);
                self.router
                    .observe(now, id, Observation::Link(is_up), &mut self.out);
            }
        }
    }

    pub(super) fn read_links(&mut self) {
        if !std::mem::take(&mut self.links_readable) {
            return;
        }
        let before: Vec<Option<u32>> = self.indexes();
        let news = self.links.read(&mut self.kernel);
        self.links_readable = news.more;
        if !news.changed || self.slots.is_empty() {
            return;
        }
        let now = now();
        for (index, addr) in news.lost {
            if let Some(at) = self.removing.iter().position(|gone| *gone == (index, addr)) {
                self.removing.swap_remove(at);
            } else if let Some(key) = self.homes.get(&(index, addr)).copied() {
                self.router
                    .address_lost(now, key.interface, addr, &mut self.out);
                self.carry_out(now);
            }
        }
        if self.indexes() != before {
            // Interfaces came, went or were made anew.
            self.plan(now);
        } else {
            self.open_sockets();
            self.tell_links(now);
            self.tell_tracked(now);
        }
        self.carry_out(now);
    }

    /// Numbers of all interfaces that the configuration names.
    fn indexes(&self) -> Vec<Option<u32>> {
        let of = |instance: &Instance| {
            let devices = instance.addresses.iter().map(|address| &address.device);
            let names: Vec<String> = devices.chain([&instance.interface]).cloned().collect();
            names
        };
        let names = self.config.instances.iter().flat_map(of);
        names
            .map(|name| self.links.port(&name).map(|port| port.index))
            .collect()
    }
}
