//! Routers on a simulated LAN with a virtual clock: delay, loss, partitions, stalled and suspended
//! nodes. The same seed gives the same run.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use vrrp::config::Config;
use vrrp::instance::{Input, Instance, Role};
use vrrp::output::{Output, Outputs};
use vrrp::packet::Received;
use vrrp::time::Instant;

use super::rig::MAC;

/// What a node can do at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Running,
    /// Its control thread gets no time; the data plane goes on, received packets wait.
    Frozen,
    /// The whole node gets no time and received packets are lost; its clock goes on.
    Suspended,
    /// The process was killed.
    Dead,
}

/// What happens to the LAN, and for how long.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    Freeze(usize),
    Suspend(usize),
    Kill(usize),
    /// A graceful stop and a later start.
    Stop(usize),
    /// The node's link.
    Unplug(usize),
    /// Nothing from the first reaches the second.
    Block(usize, usize),
    /// Nothing reaches the node; it can send.
    Deafen(usize),
    /// That many packets of a hundred are lost.
    Loss(u32),
}

pub struct Node {
    pub instance: Instance,
    pub condition: Condition,
    config: Config,
    source: IpAddr,
    is_plugged: bool,
    is_deaf: bool,
    inbox: Vec<Vec<u8>>,
    has_addresses: bool,
    lease: Option<Instant>,
    /// Every state it told of, and when.
    pub history: Vec<(Instant, Role)>,
}

/// Two nodes and how long both served at once.
#[derive(Clone, Copy, Default)]
struct Pair {
    both_since: Option<Instant>,
    good_since: Instant,
}

#[derive(Clone, Copy)]
enum Event {
    End(Trouble),
    Noise,
}

pub struct Lan {
    pub now: Instant,
    pub nodes: Vec<Node>,
    /// Shortest and longest way of a packet, microseconds.
    delay: (u64, u64),
    loss: u32,
    blocked: Vec<(usize, usize)>,
    wire: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    events: BTreeMap<(Instant, u64), Event>,
    pairs: Vec<Pair>,
    out: Outputs,
    seed: u64,
    serial: u64,
    /// Every advert that left: when, from which node, its priority.
    pub adverts: Vec<(Instant, usize, u8)>,
    /// The longest that two nodes served at once.
    pub longest_both: Duration,
    /// The same, counted only while both ran and heard each other.
    pub longest_both_in_peace: Duration,
}

/// How often a LAN makes some other noise.
const NOISE: Duration = Duration::from_millis(5);

impl Lan {
    /// Nodes with these sources and configurations, all started at once.
    pub fn new(nodes: Vec<(IpAddr, Config)>, delay: (u64, u64), seed: u64) -> Lan {
        let now = Instant::default() + Duration::from_secs(1_000);
        let nodes: Vec<Node> = nodes
            .into_iter()
            .map(|(source, config)| Node {
                instance: Instance::new(config.clone(), false).unwrap(),
                condition: Condition::Running,
                config,
                source,
                is_plugged: true,
                is_deaf: false,
                inbox: Vec::new(),
                has_addresses: false,
                lease: None,
                history: Vec::new(),
            })
            .collect();
        let pairs = vec![
            Pair {
                both_since: None,
                good_since: now
            };
            nodes.len() * nodes.len()
        ];
        let mut lan = Lan {
            now,
            nodes,
            delay,
            loss: 0,
            blocked: Vec::new(),
            wire: BTreeMap::new(),
            events: BTreeMap::new(),
            pairs,
            out: Outputs::new(1_000),
            seed: seed | 1,
            serial: 0,
            adverts: Vec::new(),
            longest_both: Duration::ZERO,
            longest_both_in_peace: Duration::ZERO,
        };
        lan.at(now + NOISE, Event::Noise);
        for i in 0..lan.nodes.len() {
            lan.start(i);
        }
        lan
    }

    fn random(&mut self, below: u64) -> u64 {
        // xorshift64*, Vigna.
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        (self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below.max(1)
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.serial += 1;
        self.events.insert((at, self.serial), event);
    }

    fn start(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.instance = Instance::new(node.config.clone(), false).unwrap();
        node.inbox.clear();
        let (source, is_up) = (node.source, node.is_plugged);
        self.give(i, Input::Link { is_up, mac: MAC });
        self.give(i, Input::Source(Some(source)));
        self.give(i, Input::Start);
    }

    /// Begins a trouble and ends it after `micros`.
    pub fn trouble(&mut self, trouble: Trouble, micros: u64) {
        match trouble {
            Trouble::Freeze(i) => self.change_condition(i, Condition::Frozen),
            Trouble::Suspend(i) => self.change_condition(i, Condition::Suspended),
            Trouble::Kill(i) if self.nodes[i].condition != Condition::Running => {}
            Trouble::Kill(i) => {
                self.change_condition(i, Condition::Dead);
                let node = &mut self.nodes[i];
                (node.has_addresses, node.lease) = (false, None);
            }
            Trouble::Stop(i) => {
                if self.nodes[i].condition == Condition::Running {
                    self.give(i, Input::Stop);
                    self.change_condition(i, Condition::Dead);
                }
            }
            Trouble::Unplug(i) => self.plug(i, false),
            Trouble::Block(i, j) => self.blocked.push((i, j)),
            Trouble::Deafen(i) => self.nodes[i].is_deaf = true,
            Trouble::Loss(percent) => self.loss = percent,
        }
        self.at(
            self.now + Duration::from_micros(micros),
            Event::End(trouble),
        );
    }

    fn change_condition(&mut self, i: usize, condition: Condition) {
        if self.nodes[i].condition == Condition::Running {
            self.nodes[i].condition = condition;
        }
    }

    fn plug(&mut self, i: usize, is_plugged: bool) {
        self.nodes[i].is_plugged = is_plugged;
        if self.nodes[i].condition == Condition::Running {
            self.give(
                i,
                Input::Link {
                    is_up: is_plugged,
                    mac: MAC,
                },
            );
        }
    }

    fn end(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Freeze(i) if self.nodes[i].condition == Condition::Frozen => self.resume(i),
            Trouble::Suspend(i) if self.nodes[i].condition == Condition::Suspended => {
                self.resume(i);
            }
            Trouble::Kill(i) | Trouble::Stop(i) if self.nodes[i].condition == Condition::Dead => {
                self.nodes[i].condition = Condition::Running;
                self.start(i);
            }
            Trouble::Unplug(i) => self.plug(i, true),
            Trouble::Block(i, j) => self.blocked.retain(|pair| *pair != (i, j)),
            Trouble::Deafen(i) => self.nodes[i].is_deaf = false,
            Trouble::Loss(_) => self.loss = 0,
            _ => {}
        }
    }

    /// What waited is read before the time is looked at, as a driver does.
    fn resume(&mut self, i: usize) {
        self.nodes[i].condition = Condition::Running;
        let is_up = self.nodes[i].is_plugged;
        for packet in std::mem::take(&mut self.nodes[i].inbox) {
            self.give(i, Input::Advert(Received::from_ip(&packet).unwrap()));
        }
        self.give(i, Input::Link { is_up, mac: MAC });
    }

    fn give(&mut self, i: usize, input: Input<'_>) {
        let node = &mut self.nodes[i];
        node.instance.handle(self.now, input, &mut self.out);
        while let Some((_, output)) = self.out.pop() {
            match output {
                Output::Send(datagram) => {
                    self.adverts.push((self.now, i, datagram.message[2]));
                    self.send(i, datagram.dst, datagram.packet(1));
                }
                Output::Lease { until } => self.nodes[i].lease = Some(until),
                Output::AddAddresses { .. } => self.nodes[i].has_addresses = true,
                Output::RemoveAddresses(_) => {
                    (self.nodes[i].has_addresses, self.nodes[i].lease) = (false, None);
                }
                Output::State { role, .. } => self.nodes[i].history.push((self.now, role)),
                _ => {}
            }
        }
    }

    fn send(&mut self, from: usize, dst: IpAddr, packet: Vec<u8>) {
        for to in 0..self.nodes.len() {
            let is_lost = self.random(100) < u64::from(self.loss);
            let way = self.delay.0 + self.random(self.delay.1 - self.delay.0 + 1);
            let is_meant = dst.is_multicast() || dst == self.nodes[to].source;
            if from != to && is_meant && !is_lost && self.is_open(from, to) {
                self.serial += 1;
                let at = self.now + Duration::from_micros(way);
                self.wire.insert((at, self.serial), (to, packet.clone()));
            }
        }
    }

    /// Whether packets pass from one to the other.
    fn is_open(&self, from: usize, to: usize) -> bool {
        self.nodes[from].is_plugged
            && self.nodes[to].is_plugged
            && !self.nodes[to].is_deaf
            && !self.blocked.contains(&(from, to))
    }

    fn receive(&mut self, to: usize, packet: Vec<u8>) {
        match self.nodes[to].condition {
            Condition::Running => {
                self.give(to, Input::Advert(Received::from_ip(&packet).unwrap()));
            }
            Condition::Frozen => self.nodes[to].inbox.push(packet),
            Condition::Suspended | Condition::Dead => {}
        }
    }

    /// Whether the node's data plane serves the addresses.
    pub fn serves(&self, i: usize) -> bool {
        let node = &self.nodes[i];
        matches!(node.condition, Condition::Running | Condition::Frozen)
            && node.has_addresses
            && node.is_plugged
            && node.lease.is_some_and(|until| self.now <= until)
    }

    /// Nodes that are master.
    pub fn masters(&self) -> Vec<usize> {
        let is_master = |i: &usize| self.nodes[*i].instance.state().role() == Role::Master;
        (0..self.nodes.len()).filter(is_master).collect()
    }

    /// Runs for so many microseconds.
    pub fn run_for(&mut self, micros: u64) {
        let end = self.now + Duration::from_micros(micros);
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.observe(next);
            self.now = self.now.max(next);
            self.happen();
            self.observe(self.now);
        }
        self.observe(end);
        self.now = end;
    }

    fn next(&self) -> Option<Instant> {
        let wire = self.wire.keys().next().map(|(at, _)| *at);
        let event = self.events.keys().next().map(|(at, _)| *at);
        let running = self
            .nodes
            .iter()
            .filter(|node| node.condition == Condition::Running);
        let timers = running.filter_map(|node| node.instance.next_timeout());
        wire.into_iter().chain(event).chain(timers).min()
    }

    /// Everything of this moment: packets first, then timers.
    fn happen(&mut self) {
        while let Some(entry) = self
            .wire
            .first_entry()
            .filter(|entry| entry.key().0 <= self.now)
        {
            let (to, packet) = entry.remove();
            self.receive(to, packet);
        }
        while let Some(entry) = self.events.first_entry().filter(|e| e.key().0 <= self.now) {
            match entry.remove() {
                Event::End(trouble) => self.end(trouble),
                Event::Noise => self.make_noise(),
            }
        }
        for i in 0..self.nodes.len() {
            let due = self.nodes[i]
                .instance
                .next_timeout()
                .is_some_and(|at| at <= self.now);
            if due && self.nodes[i].condition == Condition::Running {
                self.give(i, Input::Timer);
            }
        }
    }

    /// Every host sends something now and then, whatever becomes of its router.
    fn make_noise(&mut self) {
        for to in 0..self.nodes.len() {
            let hears = (0..self.nodes.len()).any(|from| from != to && self.is_open(from, to));
            if hears && self.nodes[to].condition == Condition::Running {
                self.give(to, Input::FrameHeard);
                self.give(to, Input::Arrived);
            }
        }
        self.at(self.now + NOISE, Event::Noise);
    }

    /// Looks at who served from the last moment until `until`, in which nothing happens but the
    /// end of leases.
    fn observe(&mut self, until: Instant) {
        let count = self.nodes.len();
        for i in 0..count {
            for j in i + 1..count {
                let is_peaceful = self.loss == 0
                    && self.is_open(i, j)
                    && self.is_open(j, i)
                    && [i, j]
                        .iter()
                        .all(|n| self.nodes[*n].condition == Condition::Running);
                let both = self.serves(i) && self.serves(j);
                let lease = self.nodes[i]
                    .lease
                    .min(self.nodes[j].lease)
                    .unwrap_or_default();
                let pair = &mut self.pairs[i * count + j];
                if both {
                    let since = *pair.both_since.get_or_insert(self.now);
                    let end = until.min(lease);
                    self.longest_both = self.longest_both.max(end.since(since));
                    if is_peaceful {
                        let peace = end.since(since.max(pair.good_since));
                        self.longest_both_in_peace = self.longest_both_in_peace.max(peace);
                    }
                } else {
                    pair.both_since = None;
                }
                if !is_peaceful {
                    pair.good_since = until;
                }
            }
        }
    }
}
