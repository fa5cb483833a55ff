//! Addresses and routes of an instance, put on their interfaces and taken off.

use std::io;
use std::net::IpAddr;

use vrrp::config::{Key, VirtualAddress};

use super::Driver;
use super::lease::Lease;
use crate::config::vrrp::{Address, Instance, Route, Rule};
use crate::vrrp::Notice;

impl Driver {
    /// Puts addresses on their interfaces; those that are there now.
    pub(super) fn add_addresses(&mut self, key: Key, addresses: &[VirtualAddress]) -> Vec<IpAddr> {
        let mut there = Vec::new();
        let Some(slot) = self.slots.get_mut(&key) else {
            return there;
        };
        slot.holds = true;
        let config = slot.config.clone();
        let mut failed = None;
        for address in config
            .addresses
            .iter()
            .filter(|a| addresses.contains(&a.addr))
        {
            let device = self.device_of(key, &config, address);
            let done = match self.links.port(&device) {
                Some(port) => {
                    let is_macvlan = device != address.device;
                    self.kernel
                        .add_address(port.index, address, &device, is_macvlan)
                }
                None => Err(io::Error::from_raw_os_error(libc::ENODEV)),
            };
            let addr = address.addr.addr;
            match done {
                Ok(()) => there.push(addr),
                Err(reason) => {
                    failed = Some(format!(
                        "address {addr} cannot be put on {device}: {reason}"
                    ));
                }
            }
        }
        failed = self.add_ways(&config.routes, &config.rules).or(failed);
        match failed {
            Some(text) => self.trouble(key, "kernel", text),
            None => self.recovered(key, "kernel"),
        }
        there
    }

    /// Adds routes and rules; what went wrong last, if anything did.
    fn add_ways(&mut self, routes: &[Route], rules: &[Rule]) -> Option<String> {
        let mut failed = None;
        for route in routes {
            let index = route.device.as_ref().and_then(|name| self.links.port(name));
            if let Err(reason) = self.kernel.add_route(route, index.map(|port| port.index)) {
                let (to, len) = (route.to.addr, route.to.prefix_len);
                failed = Some(format!("route to {to}/{len} cannot be added: {reason}"));
            }
        }
        for rule in rules {
            if let Err(reason) = self.kernel.add_rule(rule) {
                let priority = rule.priority;
                failed = Some(format!("rule {priority} cannot be added: {reason}"));
            }
        }
        failed
    }

    fn remove_ways(&mut self, routes: &[Route], rules: &[Rule]) {
        for rule in rules {
            // One that somebody else removed is gone as well.
            let _ = self.kernel.remove_rule(rule);
        }
        for route in routes {
            let index = route.device.as_ref().and_then(|name| self.links.port(name));
            // A route that went with its interface is gone as well.
            let _ = self
                .kernel
                .remove_route(route, index.map(|port| port.index));
        }
    }

    /// Another configuration of a master has other routes and rules than the `old` one.
    pub(super) fn change_ways(&mut self, key: Key, old: &Instance) {
        let Some(slot) = self.slots.get(&key).filter(|slot| slot.holds) else {
            return;
        };
        let new = slot.config.clone();
        let (routes, rules) = (
            without(&old.routes, &new.routes),
            without(&old.rules, &new.rules),
        );
        self.remove_ways(&routes, &rules);
        let (routes, rules) = (
            without(&new.routes, &old.routes),
            without(&new.rules, &old.rules),
        );
        match self.add_ways(&routes, &rules) {
            Some(text) => self.trouble(key, "kernel", text),
            None => self.recovered(key, "kernel"),
        }
    }

    /// Asks control to say when workers know the addresses, if nothing is served before.
    pub(super) fn introduce(&mut self, key: Key, addresses: Vec<IpAddr>) {
        let Some(slot) = self.slots.get(&key) else {
            return;
        };
        if matches!(slot.lease, Lease::Opening { .. }) {
            let instance = slot.config.machine.name.clone();
            self.tell(Notice::Holds {
                instance,
                addresses,
            });
        }
    }

    pub(super) fn remove_addresses(&mut self, key: Key, addresses: &[VirtualAddress]) {
        self.hush(key);
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let config = slot.config.clone();
        let is_all = config.addresses.iter().all(|a| addresses.contains(&a.addr));
        if is_all {
            slot.holds = false;
            self.remove_ways(&config.routes, &config.rules);
        }
        let old = |addr: &VirtualAddress| Address {
            addr: *addr,
            device: config.interface.clone(),
            scope: 0,
            label: None,
        };
        for addr in addresses {
            // One that a reload took away is on the interface that it had.
            let known = config.addresses.iter().find(|a| a.addr == *addr);
            let address = known.cloned().unwrap_or_else(|| old(addr));
            let home = self
                .homes
                .iter()
                .find(|((_, a), k)| *a == addr.addr && **k == key);
            let device = self.device_of(key, &config, &address);
            let index = self.links.port(&device).map(|port| port.index);
            let Some(index) = index.or(home.map(|((index, _), _)| *index)) else {
                continue;
            };
            match self.kernel.remove_address(index, &address) {
                Ok(true) => self.removing.push((index, addr.addr)),
                Ok(false) => {}
                Err(reason) => {
                    let text = format!("address {} cannot be removed: {reason}", addr.addr);
                    self.trouble(key, "kernel", text);
                }
            }
        }
    }
}

/// Those of some that are not among the others.
fn without<T: Clone + PartialEq>(some: &[T], others: &[T]) -> Vec<T> {
    let missing = some.iter().filter(|one| !others.contains(one));
    missing.cloned().collect()
}
