//! The host beneath, which never changes: links, routes, neighbours, local addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use control::host::Host;
use control::update::Update;
use dataplane::addr::{Addr, Mac};
use dataplane::packet::PortId;
use dataplane::route::{FibBuilder, Link, LinkId, Neighbour, NeighbourId, NextHop, Prefix, Target};
use dataplane::time::Instant;
use mio::{Registry, Token};

use crate::scenario::Network;

/// What the workers are told once.
pub struct FixedNetwork {
    updates: Vec<Update>,
    local: Option<BTreeSet<IpAddr>>,
    counts: (u64, u64),
}

impl FixedNetwork {
    /// Reads the scenario's description.
    pub fn new(network: &Network) -> Result<FixedNetwork> {
        let mut updates = Vec::new();
        let mut local = BTreeSet::new();
        let mut fib = FibBuilder::new();
        let mut routes = 0;
        for (port, number) in network.ports.iter().zip(0..) {
            let mac = mac(&port.mac)?;
            updates.push(Update::PutMacs(PortId(number), Arc::new([mac])));
            let link = Link {
                port: PortId(number),
                vlan: 0,
                mac,
                mtu: port.mtu,
                up: true,
            };
            updates.push(Update::PutLink(LinkId(number), link));
            for text in &port.addresses {
                let (own, length) = text.split_once('/').context("an address has a length")?;
                let own = address(own)?;
                local.insert(own);
                let hop = |gateway| NextHop {
                    link: LinkId(number),
                    gateway,
                    mtu: port.mtu,
                    source: own.into(),
                };
                let net = Prefix::new(own.into(), length.parse()?).context(text.clone())?;
                fib.add(net, Target::Via(hop(None)));
                for gateway in network.gateways.iter().filter(|_| number == 0) {
                    let gateway = address(gateway)?;
                    if gateway.is_ipv4() == own.is_ipv4() {
                        let all = if own.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
                        let all = all.parse().map_err(anyhow::Error::msg)?;
                        fib.add(all, Target::Via(hop(Some(gateway.into()))));
                    }
                }
                routes += 2;
            }
        }
        for text in &network.local {
            local.insert(address(text)?);
        }
        for own in &local {
            fib.add(Prefix::host((*own).into()), Target::Local);
        }
        updates.push(Update::PutFib(Arc::new(fib.build())));
        for ((link, at, mac_text), id) in network.neighbours.iter().zip(0..) {
            let neighbour = Neighbour {
                link: LinkId(*link),
                addr: address(at)?.into(),
                mac: mac(mac_text)?,
            };
            updates.push(Update::PutNeighbour(NeighbourId(id), neighbour));
        }
        Ok(FixedNetwork {
            updates,
            local: Some(local),
            counts: (routes, network.neighbours.len() as u64),
        })
    }
}

fn address(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| format!("address {text:?}"))
}

fn mac(text: &str) -> Result<Mac> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|pair| u8::from_str_radix(pair, 16))
        .collect::<Result<_, _>>()?;
    let bytes = <[u8; 6]>::try_from(bytes).ok().context("six bytes")?;
    Ok(Mac(bytes))
}

impl Host for FixedNetwork {
    fn register(&mut self, _registry: &Registry, _token: Token) -> io::Result<()> {
        Ok(())
    }
    fn on_readable(&mut self, _now: Instant) -> bool {
        false
    }
    fn on_timer(&mut self, _now: Instant) {}
    fn next_timeout(&self) -> Option<Instant> {
        None
    }
    fn take_updates(&mut self) -> Vec<Update> {
        std::mem::take(&mut self.updates)
    }
    fn take_local_addresses(&mut self) -> Option<BTreeSet<IpAddr>> {
        self.local.take()
    }
    fn resolve(&mut self, _now: Instant, _link: LinkId, _addr: Addr) {}
    fn change_servers(&mut self, _now: Instant, _servers: &[(IpAddr, bool)]) {}
    fn is_synced(&self) -> bool {
        true
    }
    fn is_warm(&self) -> bool {
        true
    }
    fn counts(&self) -> (u64, u64) {
        self.counts
    }
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}
