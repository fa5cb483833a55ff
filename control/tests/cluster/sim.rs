//! The network, its troubles, and what must hold whatever happens.
//!
//! Clients and the nodes' client side are one segment, servers and the nodes' other side another, and
//! the nodes hear each other on the first. Who gets packets for the virtual address is decided by the
//! last announcement that arrived. Time goes from event to event.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use control::sync::peer::frame::Want;
use dataplane::packet::{PortId, Verdict};
use dataplane::sync::Rules;
use dataplane::time::Instant;
use smoltcp::wire::{IpAddress, IpEndpoint};
use vrrp::config::Preempt;

use crate::host::{Clients, FIRST_PORT, Progress, Server};
use crate::node::{Act, Condition, Node, SERVER_PORT, SERVERS, SERVICES, Setup, VIP, entries, v4};
use crate::random::Random;
use crate::support::rig::{PORT_MACS, START, addr, mac_of};

/// Of workers and announcements, as in `control`.
const TICK: Duration = Duration::from_millis(10);
/// Of what goes by TCP.
const WAY: Duration = Duration::from_millis(1);
/// From when on nothing goes wrong any more.
const PEACE: Duration = Duration::from_secs(10);
/// From when on every backup that hears a master knows what that one told of. Until then connections
/// that last go on.
const SETTLED: Duration = Duration::from_secs(14);
/// Longest time in which a peer that asks for a copy waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// When all must be over.
const DEADLINE: Duration = Duration::from_secs(90);
/// Connections of a run.
const FLOWS: u64 = 14;

const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);

const SYN: u8 = 0x02;
const FIN_OR_RST: u8 = 0x05;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Kill(usize),
    /// A graceful end and a later start.
    Stop(usize),
    Freeze(usize),
    /// The node's link.
    Unplug(usize),
    /// No advert and no message between this node and the others.
    Isolate(usize),
    /// So many packets of a hundred are lost, and half as many come twice or late.
    Loss(u64),
}

#[derive(Clone, Debug)]
enum Event {
    Advert(usize, Vec<u8>),
    /// To the first, from the second.
    Sync(usize, usize, Vec<u8>),
    Hello(usize, usize, Vec<u8>),
    /// The first asks the second for a copy, by a question with this number; until when it waits.
    Ask(usize, usize, u64, Want, Instant),
    /// It came to the first, or not.
    Copy(usize, u64, Result<Vec<u8>, String>),
    /// A router or host hears that this node has the addresses: clients' side or servers'.
    Announced(usize, usize),
    /// To the node that has the addresses on this side.
    ToNode(u16, Vec<u8>),
    ToServer(usize, Vec<u8>),
    ToClients(Vec<u8>),
    Begin(Trouble, Duration),
    End(Trouble),
    Tick,
}

/// What is known of a client's connection.
#[derive(Default)]
struct Trail {
    /// Nodes that passed its packets.
    nodes: BTreeSet<usize>,
    /// Servers that its SYN went to.
    servers: BTreeSet<Ipv4Addr>,
    /// A node that nobody had told of it came to serve it, or its SYN went to two servers: it may
    /// break.
    excused: bool,
    /// An end of it was seen.
    closing: bool,
}

/// How often things happened, over all runs: checks of what never happens check nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub flows: u64,
    /// Connections that went on at another node.
    pub moved: u64,
    /// Connections that were allowed to break.
    pub excused: u64,
    /// Times that another node came to serve.
    pub takeovers: u64,
    /// Whole tables that were copied, and repairs.
    pub transfers: u64,
    pub repairs: u64,
    /// Connections that a master had told of and a backup had to know in the end.
    pub compared: u64,
    /// Events: the same in every run of a seed.
    pub events: u64,
    /// Virtual time at the end, nanoseconds.
    pub end: u64,
}

/// Two nodes that serve at once.
#[derive(Clone, Copy)]
struct Both {
    since: Option<Instant>,
    good_since: Instant,
}

pub struct Sim {
    now: Instant,
    setup: Setup,
    random: Random,
    nodes: Vec<Node>,
    clients: Clients,
    servers: Vec<Server>,
    events: BTreeMap<(Instant, u64), Event>,
    serial: u64,
    /// Who has the addresses, as clients' and servers' side see it.
    holders: [Option<usize>; 2],
    isolated: Vec<usize>,
    loss: u64,
    trails: Vec<Trail>,
    both: Vec<Both>,
    last_server: Option<usize>,
    /// Nodes that were started.
    boots: u64,
    is_settled: bool,
    report: Report,
    traced: bool,
}

impl Sim {
    pub fn new(seed: u64) -> Sim {
        let mut random = Random::new(seed);
        let now = START;
        let (threshold, period, refresh_period) =
            random.of(&[(3, 50, 0), (3, 10, 0), (1, 2, 0), (3, 0, 2), (2, 5, 1)]);
        let setup = Setup {
            interval: Duration::from_millis(random.of(&[100, 200])),
            preempt: random.of(&[Preempt::Never, Preempt::Never, Preempt::Now]),
            rules: Rules {
                threshold,
                period,
                refresh_period,
                ..Rules::default()
            },
        };
        let count = 2 + random.below(2) as usize;
        let vip: Ipv4Addr = VIP.parse().unwrap();
        let server = |(n, own): (u64, &str)| {
            let addrs = [own.parse().unwrap(), vip];
            Server::new(now, &addrs, [SERVER_PORT, SERVICES[1]], seed * 16 + n)
        };
        let mut sim = Sim {
            now,
            setup,
            nodes: Vec::new(),
            clients: Clients::new(now, CLIENT, seed * 16 + 15),
            servers: (0..).zip(SERVERS).map(server).collect(),
            events: BTreeMap::new(),
            serial: 0,
            holders: [None; 2],
            isolated: Vec::new(),
            loss: 0,
            trails: Vec::new(),
            both: vec![
                Both {
                    since: None,
                    good_since: now,
                };
                count * count
            ],
            last_server: None,
            boots: 0,
            is_settled: false,
            report: Report::default(),
            traced: std::env::var_os("RVS_TRACE").is_some(),
            random,
        };
        for number in 0..count {
            let node = sim.fresh_node(number);
            sim.nodes.push(node);
        }
        sim.plan_flows(vip);
        sim.plan_troubles(count);
        sim.at(now, Event::Tick);
        sim
    }

    fn fresh_node(&mut self, number: usize) -> Node {
        let introduction = self.random.millis(0, 100);
        self.boots += 1;
        Node::start(self.now, (number, self.boots), &self.setup, introduction)
    }

    fn plan_flows(&mut self, vip: Ipv4Addr) {
        for _ in 0..FLOWS {
            let at = self.now + self.random.millis(1500, 8000);
            let port = self.random.of(&SERVICES);
            let service = IpEndpoint::new(IpAddress::Ipv4(vip), port);
            let pieces = 2 + self.random.below(30) as u32;
            let endless = self.random.percent(60);
            self.clients.plan(at, service, pieces, endless);
            self.trails.push(Trail::default());
        }
        self.report.flows = FLOWS;
    }

    fn plan_troubles(&mut self, count: usize) {
        let mut at = Duration::from_secs(3);
        loop {
            at += self.random.millis(0, 2500);
            let length = self.random.millis(50, 3000);
            if at + length >= PEACE {
                break;
            }
            // Of the nodes the first is master most of the time.
            let node = match self.random.percent(50) {
                true => 0,
                false => self.random.below(count as u64) as usize,
            };
            let trouble = match self.random.below(6) {
                0 => Trouble::Kill(node),
                1 => Trouble::Stop(node),
                2 => Trouble::Freeze(node),
                3 => Trouble::Unplug(node),
                4 => Trouble::Isolate(node),
                _ => Trouble::Loss(1 + self.random.below(20)),
            };
            self.at(self.now + at, Event::Begin(trouble, length));
        }
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.serial += 1;
        self.events.insert((at, self.serial), event);
    }

    /// Sends something on a way of the usual length; it may be lost, late or come twice.
    fn send(&mut self, event: Event) {
        if self.random.percent(self.loss) {
            return;
        }
        let copies = 1 + u64::from(self.random.percent(self.loss / 2));
        for _ in 0..copies {
            let mut way = self
                .random
                .between(Duration::from_micros(50), Duration::from_micros(500));
            if self.random.percent(self.loss / 2) {
                way += self.random.millis(0, 8);
            }
            self.at(self.now + way, event.clone());
        }
    }

    /// Runs to the end; what must hold and did not.
    pub fn run(mut self) -> Result<Report, String> {
        let said = match self.run_to_end() {
            Ok(()) => return Ok(self.report),
            Err(said) => said,
        };
        let at = self.now.since(START);
        Err(format!("at {at:?}: {said} ({:?})", self.setup))
    }

    fn run_to_end(&mut self) -> Result<(), String> {
        let (settled, deadline) = (START + SETTLED, START + DEADLINE);
        loop {
            let next = self.next();
            self.observe(next)?;
            self.now = self.now.max(next);
            if self.now >= settled && !self.is_settled {
                self.is_settled = true;
                self.compare()?;
            }
            if self.is_settled {
                self.clients.end();
            }
            self.happen()?;
            self.observe(self.now)?;
            if self.is_settled && self.is_over() {
                break;
            }
            if self.now >= deadline {
                return Err(self.unfinished());
            }
        }
        self.audit()?;
        for node in &self.nodes {
            self.report.transfers += node.peers.tally.transfers;
            self.report.repairs += node.peers.tally.repairs;
        }
        self.report.end = self.now.0;
        for trail in &self.trails {
            self.report.excused += u64::from(trail.excused);
            self.report.moved += u64::from(!trail.excused && trail.nodes.len() > 1);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let flows = self.clients.flows.iter().zip(&self.trails);
        flows.into_iter().all(|(flow, trail)| {
            trail.excused || matches!(flow.progress, Progress::Done | Progress::Broken)
        })
    }

    fn unfinished(&self) -> String {
        let flows = self.clients.flows.iter().zip(&self.trails).enumerate();
        let mut open = flows.filter(|(_, (flow, trail))| {
            !trail.excused && !matches!(flow.progress, Progress::Done | Progress::Broken)
        });
        match open.next() {
            Some((i, (flow, _))) => {
                let progress = flow.progress;
                format!("flow {i} to {}, {progress:?}, does not end", flow.service)
            }
            None => "no flow is open".to_owned(),
        }
    }

    fn next(&mut self) -> Instant {
        let now = self.now;
        let event = self.events.keys().next().map(|(at, _)| *at);
        let nodes = self.nodes.iter().filter_map(Node::timeout);
        let servers = self.servers.iter_mut().filter_map(|s| s.timeout(now));
        let stacks = servers.chain(self.clients.timeout(now));
        let next = event.into_iter().chain(nodes).min();
        let next = stacks.chain(next).min();
        next.unwrap_or(now + TICK).max(now)
    }

    /// Everything of this moment.
    fn happen(&mut self) -> Result<(), String> {
        while let Some(first) = self.events.first_entry().filter(|e| e.key().0 <= self.now) {
            let event = first.remove();
            self.report.events += 1;
            self.event(event)?;
        }
        for i in 0..self.nodes.len() {
            if self.nodes[i].timeout().is_some_and(|at| at <= self.now) {
                self.with(i, |node, now, acts| node.run(now, acts))?;
            }
        }
        for i in 0..self.servers.len() {
            for packet in self.servers[i].poll(self.now) {
                self.by_server(i, packet)?;
            }
        }
        let packets = self.clients.poll(self.now)?;
        for packet in packets {
            self.look(&packet, true)?;
            let frame = framed("192.168.40.254", 0, &packet);
            self.send(Event::ToNode(0, frame));
        }
        self.look_for_broken()
    }

    /// Lets a node do something and carries out what it wants.
    fn with(
        &mut self,
        i: usize,
        what: impl FnOnce(&mut Node, Instant, &mut Vec<Act>),
    ) -> Result<(), String> {
        let mut acts = Vec::new();
        what(&mut self.nodes[i], self.now, &mut acts);
        let is_plugged = self.nodes[i].is_plugged;
        for act in acts {
            match act {
                Act::Announce if is_plugged => {
                    for side in 0..2 {
                        self.send(Event::Announced(side, i));
                    }
                }
                Act::Advert(packet) => self.tell_others(i, |to| Event::Advert(to, packet.clone())),
                Act::Sync(message) => {
                    self.judge_message(i, &message)?;
                    self.tell_others(i, |to| Event::Sync(to, i, message.clone()));
                }
                Act::Hello(hello) => {
                    self.tell_others(i, |to| Event::Hello(to, i, hello.clone()));
                }
                Act::Fetch(of, number, want) => {
                    let until = self.now + PATIENCE;
                    self.at(self.now + WAY, Event::Ask(i, of, number, want, until));
                }
                Act::Announce => {}
            }
        }
        Ok(())
    }

    fn is_open(&self, from: usize, to: usize) -> bool {
        let all = |i: &usize| self.nodes[*i].is_plugged && !self.isolated.contains(i);
        [from, to].iter().all(all)
    }

    fn tell_others(&mut self, from: usize, event: impl Fn(usize) -> Event) {
        for to in 0..self.nodes.len() {
            if to != from && self.is_open(from, to) {
                self.send(event(to));
            }
        }
    }

    fn event(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick => {
                for i in 0..self.nodes.len() {
                    if self.nodes[i].condition != Condition::Dead {
                        self.with(i, |node, now, acts| node.tick(now, acts))?;
                    }
                    let hears = (0..self.nodes.len()).any(|j| i != j && self.is_open(i, j));
                    if hears {
                        self.with(i, |node, now, acts| node.heard(now, acts))?;
                    }
                }
                if self.now.since(START).as_millis().is_multiple_of(1000) {
                    self.audit()?;
                }
                self.at(self.now + TICK, Event::Tick);
                Ok(())
            }
            Event::Advert(to, packet) => {
                self.with(to, |node, now, acts| node.advert(now, packet, acts))
            }
            Event::Sync(to, from, message) => {
                self.with(to, |node, now, _| node.sync(now, from, message))
            }
            Event::Hello(to, from, hello) => {
                self.with(to, |node, now, acts| node.hello(now, from, hello, acts))
            }
            Event::Ask(by, of, number, want, until) => {
                self.ask((by, of), number, want, until);
                Ok(())
            }
            Event::Copy(to, number, copy) if self.nodes[to].condition == Condition::Frozen => {
                let again = self.now + Duration::from_millis(100);
                self.at(again, Event::Copy(to, number, copy));
                Ok(())
            }
            Event::Copy(to, number, copy) => {
                self.with(to, |node, now, acts| node.fetched(now, number, copy, acts))
            }
            Event::Announced(side, node) => {
                self.holders[side] = Some(node);
                Ok(())
            }
            Event::ToNode(side, frame) => self.node_gets(side, &frame),
            Event::ToServer(i, packet) => {
                self.servers[i].receive(packet);
                Ok(())
            }
            Event::ToClients(packet) => {
                self.clients.receive(packet);
                Ok(())
            }
            Event::Begin(trouble, length) => {
                if self.begin(trouble)? {
                    self.at(self.now + length, Event::End(trouble));
                }
                Ok(())
            }
            Event::End(trouble) => self.end(trouble),
        }
    }

    /// TCP between two nodes: what is lost is sent again, and who waits too long gives up.
    fn ask(&mut self, (by, of): (usize, usize), number: u64, want: Want, until: Instant) {
        if !self.nodes[by].peers.waits_for(number) {
            return;
        }
        let asker = self.nodes[by].condition;
        let giver = self.nodes[of].condition;
        let copy = match giver {
            Condition::Dead if self.is_open(by, of) => Err("connection refused".to_owned()),
            Condition::Running if self.is_open(by, of) && asker == Condition::Running => {
                self.nodes[of].give(self.now, want)
            }
            _ if self.now >= until => Err("nothing comes any more".to_owned()),
            _ => {
                let again = self.now + Duration::from_millis(100);
                return self.at(again, Event::Ask(by, of, number, want, until));
            }
        };
        // Announcements overtake it.
        let way = WAY + self.random.millis(0, 50);
        self.at(self.now + way, Event::Copy(by, number, copy));
    }

    /// When all hear each other for a while a backup knows every connection that lasts and that its
    /// master told of, whatever was lost before, and whenever it came.
    fn compare(&mut self) -> Result<(), String> {
        let count = self.nodes.len();
        let ends = |node: &mut Node, state: Option<&str>| -> BTreeMap<u16, Ipv4Addr> {
            let rows = node.rig.connections();
            let rows = (rows.iter()).filter(|row| state.is_none_or(|state| row.state == state));
            rows.map(|row| (row.client.port, v4(&row.dest.addr)))
                .collect()
        };
        for i in 0..count {
            if !self.nodes[i].serves(self.now) {
                continue;
            }
            let told = self.nodes[i].told.clone();
            let rows = ends(&mut self.nodes[i], Some("ESTABLISHED"));
            for j in (0..count).filter(|j| *j != i) {
                if !self.nodes[j].peers.is_whole(i) {
                    return Err(format!("node {j} has not the table of node {i}"));
                }
                // In any state: it may have seen the FIN that this one was not told of.
                let known = ends(&mut self.nodes[j], None);
                let lately = self.now.since(START) - Duration::from_millis(200);
                let was_told =
                    |port: &u16| told.get(port).is_some_and(|at| at.since(START) < lately);
                for (port, dest) in rows.iter().filter(|(port, _)| was_told(port)) {
                    self.report.compared += 1;
                    if known.get(port) != Some(dest) {
                        let found = self.nodes[j].rig.connections();
                        let found = found.iter().find(|row| row.client.port == *port);
                        return Err(format!(
                            "node {i} told of {port} at {dest}, node {j} has {found:?}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.traced {
            println!("{:?} {}", self.now.since(START), what());
        }
    }

    /// False if it cannot begin now.
    fn begin(&mut self, trouble: Trouble) -> Result<bool, String> {
        self.trace(|| format!("{trouble:?} begins"));
        match trouble {
            Trouble::Kill(i) | Trouble::Stop(i) | Trouble::Freeze(i)
                if self.nodes[i].condition != Condition::Running =>
            {
                return Ok(false);
            }
            Trouble::Kill(i) => self.nodes[i].condition = Condition::Dead,
            Trouble::Stop(i) => self.with(i, |node, now, acts| node.stop(now, acts))?,
            Trouble::Freeze(i) => self.nodes[i].condition = Condition::Frozen,
            Trouble::Unplug(i) if !self.nodes[i].is_plugged => return Ok(false),
            Trouble::Unplug(i) => self.with(i, |node, now, acts| node.plug(now, false, acts))?,
            Trouble::Isolate(i) => self.isolated.push(i),
            Trouble::Loss(percent) => self.loss = percent,
        }
        Ok(true)
    }

    fn end(&mut self, trouble: Trouble) -> Result<(), String> {
        self.trace(|| format!("{trouble:?} ends"));
        match trouble {
            Trouble::Kill(i) | Trouble::Stop(i) => {
                let is_plugged = self.nodes[i].is_plugged;
                self.nodes[i] = self.fresh_node(i);
                self.with(i, |node, now, acts| node.plug(now, is_plugged, acts))
            }
            Trouble::Freeze(i) if self.nodes[i].condition == Condition::Frozen => {
                self.with(i, |node, now, acts| node.thaw(now, acts))
            }
            Trouble::Freeze(_) => Ok(()),
            Trouble::Unplug(i) => self.with(i, |node, now, acts| node.plug(now, true, acts)),
            Trouble::Isolate(i) => {
                let at = self.isolated.iter().position(|other| *other == i);
                at.map(|at| self.isolated.swap_remove(at));
                Ok(())
            }
            Trouble::Loss(_) => {
                self.loss = 0;
                Ok(())
            }
        }
    }

    /// A frame for the virtual address, or from a server that answers by the node that has it.
    fn node_gets(&mut self, side: u16, frame: &[u8]) -> Result<(), String> {
        let Some(i) = self.holders[usize::from(side)] else {
            return Ok(());
        };
        let (now, node) = (self.now, &mut self.nodes[i]);
        if node.condition == Condition::Dead || !node.is_plugged {
            return Ok(());
        }
        let (src_port, dst_port, flags) = segment(&frame[14..]);
        let port = if side == 0 { src_port } else { dst_port };
        let server = Ipv4Addr::from(u32::from_be_bytes(frame[26..30].try_into().unwrap()));
        let serves = node.serves(now);
        let withheld = node.is_without_lease(now);
        let (verdict, sent) = node.inject(now, side, frame);
        let Some(flow) = usize::from(port).checked_sub(usize::from(FIRST_PORT)) else {
            return Err(format!("a frame of port {port}"));
        };
        let known = node.known.get(&port).copied();
        let trail = &mut self.trails[flow];
        let live = !trail.closing;
        let Verdict::Transmit(out) = verdict else {
            if serves && live {
                // Of a SYN nobody has to know, of all else whoever serves it.
                let knows = match side {
                    0 => known.is_some(),
                    _ => known == Some(server),
                };
                if knows {
                    return Err(format!("node {i} knows flow {flow}, and said {verdict:?}"));
                }
                trail.excused |= flags & (SYN | ACK) != SYN;
            }
            return Ok(());
        };
        if withheld {
            return Err(format!(
                "node {i} sent a packet of flow {flow} without a lease"
            ));
        }
        let packet = sent[14..].to_vec();
        if out == PortId(0) {
            self.send(Event::ToClients(packet));
            return Ok(());
        }
        node.passed += 1;
        trail.nodes.insert(i);
        let is_for = |server: &&str| mac_of(&addr(server)).0 == sent[..6];
        let Some(to) = SERVERS.iter().position(is_for) else {
            return Err(format!("node {i} sent a packet of flow {flow} to nobody"));
        };
        let server: Ipv4Addr = SERVERS[to].parse().unwrap();
        match known {
            Some(known) if known != server => {
                return Err(format!(
                    "node {i} sent flow {flow} to {server}, not to {known}"
                ));
            }
            Some(_) => {}
            None if flags & (SYN | ACK) == SYN => {
                node.known.insert(port, server);
                trail.servers.insert(server);
                trail.excused |= trail.servers.len() > 1;
            }
            None if live => {
                return Err(format!(
                    "node {i} sent on what it does not know, flow {flow}"
                ));
            }
            None => {}
        }
        self.send(Event::ToServer(to, packet));
        Ok(())
    }

    fn by_server(&mut self, i: usize, packet: Vec<u8>) -> Result<(), String> {
        self.look(&packet, false)?;
        let (src_port, ..) = segment(&packet);
        if src_port == SERVICES[1] {
            // Direct routing: past the nodes.
            self.send(Event::ToClients(packet));
        } else {
            let frame = framed(SERVERS[i], 1, &packet);
            self.send(Event::ToNode(1, frame));
        }
        Ok(())
    }

    /// A segment leaves an end.
    fn look(&mut self, packet: &[u8], by_client: bool) -> Result<(), String> {
        let (src_port, dst_port, flags) = segment(packet);
        let port = if by_client { src_port } else { dst_port };
        let flow = usize::from(port - FIRST_PORT);
        let trail = &mut self.trails[flow];
        if flags & RST != 0 && !trail.excused && !trail.closing {
            return Err(format!(
                "flow {flow} was reset (by its client: {by_client})"
            ));
        }
        trail.closing |= flags & FIN_OR_RST != 0;
        Ok(())
    }

    fn look_for_broken(&self) -> Result<(), String> {
        for (i, (flow, trail)) in self.clients.flows.iter().zip(&self.trails).enumerate() {
            if flow.progress == Progress::Broken && !trail.excused {
                return Err(format!("flow {i} to {} was broken", flow.service));
            }
        }
        Ok(())
    }

    /// A master tells of a connection as it forwards it.
    fn judge_message(&self, i: usize, message: &[u8]) -> Result<(), String> {
        for (entry, _) in entries(message) {
            let told = v4(&entry.dest.addr);
            let known = self.nodes[i].known.get(&entry.client.port);
            if known != Some(&told) {
                let port = entry.client.port;
                return Err(format!("node {i} told of {port} at {told}, not {known:?}"));
            }
        }
        Ok(())
    }

    fn audit(&mut self) -> Result<(), String> {
        for node in self.nodes.iter_mut() {
            if node.condition != Condition::Dead {
                let number = node.number;
                node.audit().map_err(|e| format!("node {number}: {e}"))?;
            }
        }
        Ok(())
    }

    /// Looks at who serves from the last moment until `until`, in which nothing happens but the end
    /// of leases: nodes that hear each other settle it within an interval.
    fn observe(&mut self, until: Instant) -> Result<(), String> {
        let (now, count) = (self.now, self.nodes.len());
        let serving = (0..count).find(|i| self.nodes[*i].serves(now));
        if serving.is_some() && serving != self.last_server {
            self.trace(|| format!("node {serving:?} serves"));
            self.report.takeovers += u64::from(self.last_server.is_some());
            self.last_server = serving;
        }
        for i in 0..count {
            for j in i + 1..count {
                let (a, b) = (&self.nodes[i], &self.nodes[j]);
                let runs = |node: &Node| node.condition == Condition::Running;
                let is_peaceful = self.loss == 0 && self.is_open(i, j) && runs(a) && runs(b);
                let pair = &mut self.both[i * count + j];
                if a.serves(now) && b.serves(now) {
                    let since = *pair.since.get_or_insert(now);
                    let end = until.min(a.lease_end()).min(b.lease_end());
                    let begin = since.max(pair.good_since);
                    let allowed = self.setup.interval + self.setup.interval / 20;
                    if is_peaceful && end > begin && end.since(begin) > allowed {
                        let both = end.since(begin);
                        return Err(format!("nodes {i} and {j} both served for {both:?}"));
                    }
                } else {
                    pair.since = None;
                }
                if !is_peaceful {
                    pair.good_since = until;
                }
            }
        }
        Ok(())
    }
}

/// Ports and flags of a TCP segment in an IPv4 packet.
fn segment(packet: &[u8]) -> (u16, u16, u8) {
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    (port(20), port(22), packet[33])
}

/// A packet as a host sends it to a node.
fn framed(from: &str, side: usize, packet: &[u8]) -> Vec<u8> {
    let mut frame = PORT_MACS[side].0.to_vec();
    frame.extend(mac_of(&addr(from)).0);
    frame.extend([8, 0]);
    frame.extend(packet);
    frame
}
