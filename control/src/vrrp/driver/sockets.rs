//! Sockets: which there are, and what comes in by them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mio::Token;
use vrrp::addr::Family;
use vrrp::announce::Claim;
use vrrp::config::Transport;
use vrrp::packet::Received;
use vrrp::time::Instant;

use super::{Driver, now};
use crate::vrrp::plan;
use crate::vrrp::socket::{FRAME, FrameSocket, Membership, UnicastSocket};

/// Frames read from one interface between two looks at the timers.
const SHARE: usize = 256;

impl Driver {
    pub(super) fn open_sockets(&mut self) {
        let mut homes = BTreeMap::new();
        let mut wanted = BTreeSet::new();
        let mut groups = BTreeSet::new();
        let mut sources = BTreeSet::new();
        for (key, slot) in self.slots.iter().filter(|(key, _)| plan::exists(**key)) {
            wanted.insert(key.interface);
            if let Transport::Multicast { group } = slot.config.machine.transport {
                groups.insert((key.interface, group));
            }
            for address in &slot.config.addresses {
                if let Some(port) = self.links.port(&address.device) {
                    wanted.insert(port.index);
                    homes.insert((port.index, address.addr.addr), *key);
                }
                let device = self.device_of(*key, &slot.config, address);
                if let Some(port) = self.links.port(&device) {
                    homes.insert((port.index, address.addr.addr), *key);
                }
            }
        }
        for (key, slot) in &self.slots {
            if let Transport::Unicast { .. } = slot.config.machine.transport {
                sources.extend(
                    slot.config
                        .source
                        .or(self.source(key.interface, key.family)),
                );
            }
        }
        self.homes = homes;
        let registry = self.poll.registry();
        self.sockets.retain(|index, socket| {
            let keeps = wanted.contains(index);
            if !keeps {
                socket.deregister(registry);
            }
            keeps
        });
        for index in wanted {
            if self.sockets.contains_key(&index) {
                continue;
            }
            let opened = FrameSocket::listen(index).and_then(|socket| {
                socket
                    .register(registry, Token(index as usize))
                    .map(|()| socket)
            });
            match opened {
                Ok(socket) => {
                    self.sockets.insert(index, socket);
                    self.readable.insert(index);
                }
                Err(reason) => {
                    let name = self.links.name(index).unwrap_or("?");
                    tracing::error!(
                        interface = name,
                        "no packet socket for VRRP: {reason}; rvsd needs CAP_NET_RAW"
                    );
                }
            }
        }
        self.memberships.retain(|at, _| groups.contains(at));
        for (index, group) in groups {
            if self.memberships.contains_key(&(index, group)) {
                continue;
            }
            match Membership::join(group, index) {
                Ok(membership) => drop(self.memberships.insert((index, group), membership)),
                Err(reason) => {
                    let name = self.links.name(index).unwrap_or("?");
                    tracing::warn!(
                        interface = name,
                        "joining {group}: {reason}; adverts that a switch filters will not come"
                    );
                }
            }
        }
        self.unicast.retain(|source, _| sources.contains(source));
        for source in sources {
            if !self.unicast.contains_key(&source)
                && let Ok(socket) = UnicastSocket::open(source)
            {
                self.unicast.insert(source, socket);
            }
        }
    }

    pub(super) fn source(&self, index: u32, family: Family) -> Option<IpAddr> {
        let is_virtual = |addr: IpAddr| {
            self.slots.values().any(|slot| {
                slot.config
                    .addresses
                    .iter()
                    .any(|own| own.addr.addr == addr)
            })
        };
        self.links.source(index, family, is_virtual)
    }

    pub(super) fn read_frames(&mut self) {
        for index in std::mem::take(&mut self.readable) {
            let now = now();
            for _ in 0..SHARE {
                let mut frame = [0; FRAME];
                let received = match self.sockets.get(&index) {
                    Some(socket) => socket.receive(&mut frame),
                    None => Ok(None),
                };
                match received {
                    Ok(Some(len)) => {
                        // Looked at again until there is nothing left.
                        self.readable.insert(index);
                        self.frame(now, index, frame.get(..len).unwrap_or_default());
                    }
                    // An interface that is down says so once; the link tells, too.
                    Ok(None) | Err(_) => {
                        self.readable.remove(&index);
                        break;
                    }
                }
            }
            self.carry_out(now);
        }
    }

    fn frame(&mut self, now: Instant, index: u32, frame: &[u8]) {
        if let Some(claim) = Claim::from_frame(frame) {
            return self.claimed(now, index, claim);
        }
        let kind = frame.get(12..14);
        if !matches!(kind, Some([0x08, 0x00] | [0x86, 0xdd])) {
            return;
        }
        let packet = frame.get(14..).unwrap_or_default();
        // Neighbour advertisements that claim nothing are not meant for us.
        if kind == Some(&[0x86, 0xdd]) && packet.get(6) == Some(&58) {
            return;
        }
        match Received::from_ip(packet) {
            Ok(received) => self.router.receive(now, index, received, &mut self.out),
            Err(reason) => self.router.refuse(reason),
        }
        if !self.out.has_room() {
            self.carry_out(now);
        }
    }

    fn claimed(&mut self, now: Instant, index: u32, claim: Claim) {
        let Some(key) = self.homes.get(&(index, claim.addr)).copied() else {
            return;
        };
        // The machine knows the MAC of its own interface; the address may be on another.
        let name = self.links.name(index).map(str::to_owned);
        let own = name
            .and_then(|name| self.links.port(&name))
            .map(|port| port.mac);
        if own != Some(claim.mac) {
            self.router
                .claimed(now, key.interface, claim, &mut self.out);
            self.carry_out(now);
        }
    }
}
