//! A small service for the schedulers' tests: destinations are named by their number.

use std::net::Ipv4Addr;

use super::{Loads, Predecessor, Request, Scheduler, Seat, Watch};
use crate::addr::{Addr, Endpoint};
use crate::changes::Changes;
use crate::counters::WorkerCounters;
use crate::flow::Flow;
use crate::service::{
    DestId, Destination, ForwardingMethod, Protocol, ServiceId, ServiceKey, ServiceOptions, Tunnel,
    VirtualService,
};
use crate::settings::Settings;
use crate::time::Instant;

/// A service, its scheduler and what the worker counts.
pub(crate) struct Rig {
    pub service: VirtualService,
    pub scheduler: Box<dyn Scheduler>,
    pub counters: WorkerCounters,
    pub changes: Changes,
    pub flow: Flow,
    pub is_quoted: bool,
    pub now: Instant,
    pub settings: Settings,
}

pub(crate) fn dest(number: u32, weight: u32) -> Destination {
    let [.., high, low] = number.to_be_bytes();
    let endpoint = Endpoint::new(Addr::v4([10, 0, 2 + high, low]), 80);
    let method = ForwardingMethod::Masquerade;
    Destination {
        id: DestId(number),
        endpoint,
        method,
        weight,
        last_weight: weight,
        upper: 0,
        lower: 0,
        tunnel: Tunnel::default(),
    }
}

/// A service with these (number, weight) pairs added in this order.
pub(crate) fn service(scheduler: &str, added: &[(u32, u32)]) -> VirtualService {
    let vip = Endpoint::new(Addr::from(Ipv4Addr::new(10, 0, 0, 1)), 80);
    VirtualService {
        id: ServiceId(0),
        key: ServiceKey::new(Protocol::Tcp, vip),
        scheduler: super::find(scheduler).unwrap(),
        options: ServiceOptions::default(),
        destinations: added.iter().rev().map(|&(n, w)| dest(n, w)).collect(),
        withdrawn: Vec::new(),
    }
}

impl Rig {
    /// A service with these (number, weight) pairs added in this order.
    pub fn new(scheduler: &str, added: &[(u32, u32)]) -> Rig {
        let service = service(scheduler, added);
        let flow = Flow {
            src_port: 0,
            dst_port: 0,
            l4_len: 20,
            protocol: 6,
            tcp_flags: 2,
            ttl: 64,
            is_v4: true,
            ..Flow::EMPTY
        };
        let mut rig = Rig {
            scheduler: super::new(&service, Seat::alone(1)).unwrap(),
            service,
            counters: WorkerCounters::new(2048),
            changes: Changes::new(1, 2048),
            flow,
            is_quoted: false,
            now: Instant::from_secs(1000),
            settings: Settings::default(),
        };
        let loads = Loads::new(&rig.counters, &rig.changes, rig.service.id);
        rig.scheduler.start(&rig.service, loads, None);
        rig.changes.begin(&rig.service, rig.scheduler.watch());
        rig
    }

    /// Gives the service other destinations, as a worker does.
    pub fn change(&mut self, edit: impl FnOnce(&mut Vec<Destination>)) {
        let old = self.service.clone();
        self.service.destinations.edit(edit);
        let mut scheduler = super::new(&self.service, Seat::alone(1)).unwrap();
        core::mem::swap(&mut scheduler, &mut self.scheduler);
        let kept = self.service.destinations.kept_of(&old.destinations);
        let before = Predecessor {
            service: &old,
            scheduler: &mut *scheduler,
            kept,
        };
        let loads = Loads::new(&self.counters, &self.changes, self.service.id);
        self.scheduler.start(&self.service, loads, Some(before));
        let watch = self.scheduler.watch();
        self.changes.follow(&old, kept, &self.service, watch);
    }

    pub fn add(&mut self, number: u32, weight: u32) {
        self.change(|d| d.insert(0, dest(number, weight)));
    }

    pub fn edit(&mut self, number: u32, weight: u32) {
        self.change(|d| {
            for d in d.iter_mut().filter(|d| d.id.0 == number) {
                d.weight = weight;
                if weight != 0 {
                    d.last_weight = weight;
                }
            }
        });
    }

    pub fn delete(&mut self, numbers: &[u32]) {
        self.change(|d| d.retain(|d| !numbers.contains(&d.id.0)));
    }

    pub fn overload(&mut self, number: u32, yes: bool) {
        let id = DestId(number);
        let c = self.counters.dest(id).unwrap();
        c.overloaded.set(u32::from(yes));
        self.changes.note(id, Watch::Usable);
    }

    pub fn load(&mut self, number: u32, active: u32, total: u32) {
        let id = DestId(number);
        let c = self.counters.dest(id).unwrap();
        c.active.set(active);
        c.total.set(total);
        self.changes.note(id, Watch::Counts);
    }

    /// Lets time pass, with the periodic work of the scheduler twice a second.
    pub fn wait(&mut self, time: core::time::Duration) {
        for _ in 0..2 * time.as_secs() {
            self.now = self.now + core::time::Duration::from_millis(500);
            self.scheduler.tend(self.now, &self.settings);
        }
    }

    /// One choice, not counted; 0 for none.
    pub fn pick(&mut self) -> u32 {
        let request = Request {
            service: &self.service,
            loads: Loads::new(&self.counters, &self.changes, self.service.id),
            flow: &self.flow,
            is_quoted: self.is_quoted,
            now: self.now,
            settings: &self.settings,
        };
        self.scheduler
            .pick(&request)
            .map_or(0, |i| self.service.destinations[i].id.0)
    }

    /// `n` choices; each leaves an active connection at its destination.
    pub fn picks(&mut self, n: usize) -> Vec<u32> {
        (0..n)
            .map(|_| {
                let number = self.pick();
                if let Some(c) = self.counters.dest(DestId(number)) {
                    let (active, total) = (c.active.get(), c.total.get());
                    self.load(number, active + 1, total + 1);
                }
                number
            })
            .collect()
    }
}
