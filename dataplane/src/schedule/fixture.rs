//! A small service for the schedulers' tests: destinations are named by their number.

use std::net::Ipv4Addr;

use super::{Loads, Scheduler};
use crate::addr::{Addr, Endpoint};
use crate::counters::WorkerCounters;
use crate::flow::Flow;
use crate::service::{
    DestId, Destination, ForwardingMethod, Protocol, ServiceId, ServiceKey, ServiceOptions, Tunnel,
    VirtualService,
};

/// A service, its scheduler and what the worker counts.
pub(super) struct Rig {
    pub service: VirtualService,
    pub scheduler: Box<dyn Scheduler>,
    pub counters: WorkerCounters,
}

fn dest(number: u32, weight: u32) -> Destination {
    let endpoint = Endpoint::new(Addr::v4([10, 0, 2, number as u8]), 80);
    let method = ForwardingMethod::Masquerade;
    Destination {
        id: DestId(number),
        endpoint,
        method,
        weight,
        upper: 0,
        lower: 0,
        tunnel: Tunnel::default(),
    }
}

impl Rig {
    /// A service with these (number, weight) pairs added in this order.
    pub fn new(scheduler: &str, added: &[(u32, u32)]) -> Rig {
        let vip = Endpoint::new(Addr::from(Ipv4Addr::new(10, 0, 0, 1)), 80);
        let mut rig = Rig {
            service: VirtualService {
                id: ServiceId(0),
                key: ServiceKey::new(Protocol::Tcp, vip),
                scheduler: super::find(scheduler).unwrap(),
                options: ServiceOptions::default(),
                destinations: added.iter().rev().map(|&(n, w)| dest(n, w)).collect(),
            },
            scheduler: super::new(scheduler).unwrap(),
            counters: WorkerCounters::new(256),
        };
        rig.scheduler.refresh(None, &rig.service);
        rig
    }

    fn change(&mut self, edit: impl FnOnce(&mut Vec<Destination>)) {
        let old = self.service.clone();
        edit(&mut self.service.destinations);
        self.scheduler.refresh(Some(&old), &self.service);
    }

    pub fn add(&mut self, number: u32, weight: u32) {
        self.change(|d| d.insert(0, dest(number, weight)));
    }

    pub fn edit(&mut self, number: u32, weight: u32) {
        self.change(|d| {
            d.iter_mut()
                .filter(|d| d.id.0 == number)
                .for_each(|d| d.weight = weight);
        });
    }

    pub fn delete(&mut self, numbers: &[u32]) {
        self.change(|d| d.retain(|d| !numbers.contains(&d.id.0)));
    }

    pub fn overload(&mut self, number: u32, yes: bool) {
        self.counters
            .dest(DestId(number))
            .unwrap()
            .overloaded
            .set(u32::from(yes));
    }

    pub fn load(&mut self, number: u32, active: u32, total: u32) {
        let c = self.counters.dest(DestId(number)).unwrap();
        c.active.set(active);
        c.total.set(total);
    }

    /// One choice, not counted; 0 for none.
    pub fn pick(&mut self) -> u32 {
        let flow = Flow {
            src: Addr::UNSPECIFIED,
            dst: Addr::UNSPECIFIED,
            src_port: 0,
            dst_port: 0,
            l3: 0,
            l4: 0,
            l3_len: 0,
            l4_len: 0,
            vlan: 0,
            protocol: 6,
            tcp_flags: 2,
            ttl: 64,
            tos: 0,
            is_v4: true,
            dont_fragment: false,
            has_options: false,
        };
        self.scheduler
            .pick(&self.service, Loads(&self.counters), &flow)
            .map_or(0, |i| self.service.destinations[i].id.0)
    }

    /// `n` choices; each leaves an active connection at its destination.
    pub fn picks(&mut self, n: usize) -> Vec<u32> {
        (0..n)
            .map(|_| {
                let number = self.pick();
                if let Some(c) = self.counters.dest(DestId(number)) {
                    c.active.set(c.active.get() + 1);
                    c.total.set(c.total.get() + 1);
                }
                number
            })
            .collect()
    }
}
