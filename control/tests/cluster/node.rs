//! A node: worker, virtual router, and synchronisation as the control side runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use control::sync::peer::frame::{self, Frame, Packer, Want};
use dataplane::addr::Addr;
use dataplane::command::{Command, Outcome};
use dataplane::lease::{Board, LOOK, Leases, Slot};
use dataplane::packet::Verdict;
use dataplane::sync::wire::{Encoder, Message, NotWritten, Version};
use dataplane::sync::{Age, Batch, Collection, EngineData, Outbox, Rules, SyncEntry, flag};
use dataplane::time::{Instant, secs};
use vrrp::addr::{Family, Mac};
use vrrp::config::{Config, Key, Preempt, VirtualAddress};
use vrrp::instance::Role;
use vrrp::output::{Announced, Output, Outputs};
use vrrp::packet::{Received, Version as VrrpVersion};
use vrrp::router::{Plan, Router};
use vrrp::timers::AdvertInterval;

use crate::peers::{Peers, SYNCID, source};
use crate::support::rig::{Rig, START};

pub const VIP: &str = "192.168.40.200";
/// Port of the service with address translation, and of that with direct routing.
pub const SERVICES: [u16; 2] = [80, 81];
/// Port of the servers of the first.
pub const SERVER_PORT: u16 = 8080;
pub const SERVERS: [&str; 3] = ["192.168.50.5", "192.168.50.6", "192.168.50.7"];

/// The one lease.
const SLOT: Slot = Slot(0);
/// How long an announcement waits for others, as in `control::sync`.
const AGE: Duration = Duration::from_secs(1);
/// Longest message.
const MAXLEN: usize = 1472;
/// How long a node that gave its addresses up drops packets for them.
const GRACE: Duration = Duration::from_secs(2);

/// What all nodes of a run have in common.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub interval: Duration,
    pub preempt: Preempt,
    pub rules: Rules,
}

/// What a node can do at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Running,
    /// Its control threads get no time; the worker goes on, what arrives for them waits.
    Frozen,
    Dead,
}

/// What the board says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {
    Free,
    /// The workers are told of the addresses first.
    Opening {
        until: vrrp::time::Instant,
        open_at: Instant,
        rounds: u8,
    },
    Open(vrrp::time::Instant),
    Ended {
        free_at: Instant,
    },
}

/// What a node wants from the network.
pub enum Act {
    /// To the other nodes.
    Advert(Vec<u8>),
    /// Clients, servers and routers are told that the addresses are here.
    Announce,
    /// To the other nodes.
    Sync(Vec<u8>),
    /// The same, beside it.
    Hello(Vec<u8>),
    /// A copy of a node's table, with the number of the question.
    Fetch(usize, u64, Want),
}

/// What waits while the node is frozen.
enum Waiting {
    Advert(Vec<u8>),
    Sync(usize, Vec<u8>),
    Hello(usize, Vec<u8>),
}

pub struct Node {
    pub number: usize,
    pub condition: Condition,
    pub is_plugged: bool,
    pub rig: Rig,
    router: Router,
    out: Outputs,
    board: Arc<Board>,
    lease: Lease,
    /// When it was ended before its time.
    ended_at: Instant,
    has_addresses: bool,
    /// How long control takes to tell the workers.
    introduction: Duration,
    pub peers: Peers,
    /// Living masters are left alone until the node has what it can have.
    is_held: bool,
    /// Connections that its master has told of, in messages and copies, and when it did first.
    pub told: BTreeMap<u16, Instant>,
    /// The master of synchronisation runs, the backup otherwise.
    outbox: Option<Arc<Outbox>>,
    taken: u64,
    encoder: Encoder,
    buffer: Vec<u8>,
    since: Instant,
    waiting: Vec<Waiting>,
    /// Where each client's connection goes: as its SYN was sent on here, or as this node was told.
    pub known: BTreeMap<u16, Ipv4Addr>,
    /// Packets of clients that went to servers.
    pub passed: u64,
    /// Entries given to the worker.
    given: u64,
}

fn key() -> Key {
    Key {
        interface: 1,
        family: Family::V4,
        vrid: 51,
    }
}

fn time(now: Instant) -> vrrp::time::Instant {
    vrrp::time::Instant(now.0)
}

impl Node {
    /// A node that starts now, with an empty table.
    pub fn start(
        now: Instant,
        (number, boot): (usize, u64),
        setup: &Setup,
        introduction: Duration,
    ) -> Node {
        let mut rig = Rig::new();
        assert!(now >= START);
        rig.now = now;
        rig.change_settings(|settings| settings.sync = setup.rules);
        for (port, method) in SERVICES.into_iter().zip(["-m", "-g"]) {
            rig.ipvsadm(&format!("-A -t {VIP}:{port} -s rr"));
            for server in SERVERS {
                let to = if method == "-m" { SERVER_PORT } else { port };
                rig.ipvsadm(&format!("-a -t {VIP}:{port} -r {server}:{to} {method}"));
            }
        }
        let board = Arc::new(Board::new(1));
        let vip: Addr = VIP.parse::<IpAddr>().unwrap().into();
        let leases = Leases::new(Arc::clone(&board), [(vip, SLOT)]);
        rig.apply(Command::PutLeases(Arc::new(leases)));
        let mut node = Node {
            number,
            condition: Condition::Running,
            is_plugged: true,
            rig,
            router: Router::new(),
            out: Outputs::new(1000),
            board,
            lease: Lease::Free,
            ended_at: now,
            has_addresses: false,
            introduction,
            peers: Peers::new(now, number, boot),
            is_held: true,
            told: BTreeMap::new(),
            outbox: None,
            taken: 0,
            encoder: Encoder::new(Version::V1, SYNCID),
            buffer: vec![0; MAXLEN],
            since: now,
            waiting: Vec::new(),
            known: BTreeMap::new(),
            passed: 0,
            given: 0,
        };
        node.router.hold(time(now), true, &mut node.out);
        node.start_router(now, setup);
        // Its first hello is one of the first turn.
        node.peers.set_role(now, false, &mut Vec::new());
        node
    }

    fn start_router(&mut self, now: Instant, setup: &Setup) {
        let (at, out) = (time(now), &mut self.out);
        let mac = Mac([2, 0, 0, 0, 0, 1 + self.number as u8]);
        self.router.link(at, 1, true, mac, out);
        let own = Some(source(self.number));
        self.router.source(at, 1, Family::V4, own, out);
        let mut config = Config::new(key());
        config.priority = 150 - 20 * self.number as u8;
        config.interval = AdvertInterval::new(VrrpVersion::V3, setup.interval).unwrap();
        config.preempt = setup.preempt;
        config.addresses = vec![VirtualAddress::host(VIP.parse().unwrap())];
        let plan = Plan {
            instances: vec![config],
            ..Plan::default()
        };
        self.router.apply(at, plan, out).unwrap();
    }

    /// Whether packets for the virtual address are served here now.
    pub fn serves(&self, now: Instant) -> bool {
        let is_open = matches!(self.lease, Lease::Open(until) if time(now) <= until);
        is_open && self.has_addresses && self.is_plugged && self.condition != Condition::Dead
    }

    /// Until when.
    pub fn lease_end(&self) -> Instant {
        match self.lease {
            Lease::Open(until) => Instant(until.0),
            _ => Instant(0),
        }
    }

    /// Whether a worker that looks at its leases as often as it has to serves nothing.
    pub fn is_without_lease(&self, now: Instant) -> bool {
        let then = Instant(now.0 - LOOK.as_nanos() as u64);
        self.board.has_ended(SLOT, then) && self.ended_at < then
    }

    fn end_lease(&mut self, now: Instant) {
        self.board.end(SLOT);
        self.ended_at = now;
    }

    pub fn advert(&mut self, now: Instant, packet: Vec<u8>, acts: &mut Vec<Act>) {
        match self.condition {
            Condition::Dead => {}
            Condition::Frozen => self.waiting.push(Waiting::Advert(packet)),
            Condition::Running => {
                let received = Received::from_ip(&packet).unwrap();
                self.router.receive(time(now), 1, received, &mut self.out);
                self.carry_out(now, acts);
            }
        }
    }

    /// Some frame came: the receive path works.
    pub fn heard(&mut self, now: Instant, acts: &mut Vec<Act>) {
        if self.condition == Condition::Running {
            self.router.frame_heard(time(now), 1, &mut self.out);
            self.router.arrived(time(now), 1, &mut self.out);
            self.carry_out(now, acts);
        }
    }

    pub fn plug(&mut self, now: Instant, is_plugged: bool, acts: &mut Vec<Act>) {
        self.is_plugged = is_plugged;
        if self.condition == Condition::Running {
            self.tell_link(now, acts);
        }
    }

    fn tell_link(&mut self, now: Instant, acts: &mut Vec<Act>) {
        let mac = Mac([2, 0, 0, 0, 0, 1 + self.number as u8]);
        let is_up = self.is_plugged;
        self.router.link(time(now), 1, is_up, mac, &mut self.out);
        self.carry_out(now, acts);
        self.peers.link(now, is_up, acts);
    }

    /// Ends the router; the process ends behind it.
    pub fn stop(&mut self, now: Instant, acts: &mut Vec<Act>) {
        if self.condition == Condition::Running {
            self.router.stop(time(now), &mut self.out);
            self.carry_out(now, acts);
            self.peers.leave(acts);
        }
        self.condition = Condition::Dead;
    }

    /// What waited is read before the clock is looked at, as a driver does.
    pub fn thaw(&mut self, now: Instant, acts: &mut Vec<Act>) {
        self.condition = Condition::Running;
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Advert(packet) => self.advert(now, packet, acts),
                Waiting::Sync(from, message) => self.sync(now, from, message),
                Waiting::Hello(from, hello) => self.hello(now, from, hello, acts),
            }
        }
        self.tell_link(now, acts);
    }

    /// When the virtual router wants to be called.
    pub fn timeout(&self) -> Option<Instant> {
        let running = self.condition == Condition::Running;
        let router = self.router.next_timeout().map(|at| Instant(at.0));
        let all = router.into_iter().chain([self.peers.timeout()]);
        all.min().filter(|_| running)
    }

    /// Timers of the virtual router.
    pub fn run(&mut self, now: Instant, acts: &mut Vec<Act>) {
        self.router.run(time(now), &mut self.out);
        self.carry_out(now, acts);
        self.peers.run(now, acts);
    }

    fn carry_out(&mut self, now: Instant, acts: &mut Vec<Act>) {
        while let Some((_, output)) = self.out.pop() {
            match output {
                Output::Send(datagram) => acts.push(Act::Advert(datagram.packet(1))),
                Output::Lease { until } => match &mut self.lease {
                    Lease::Open(end) => {
                        *end = until;
                        self.board.renew(SLOT, Instant(until.0));
                    }
                    Lease::Opening { until: end, .. } => *end = until,
                    Lease::Free | Lease::Ended { .. } => {
                        self.end_lease(now);
                        self.lease = Lease::Opening {
                            until,
                            open_at: now + self.introduction,
                            rounds: 0,
                        };
                    }
                },
                Output::AddAddresses { .. } => self.has_addresses = true,
                Output::RemoveAddresses(_) => {
                    self.has_addresses = false;
                    if self.lease != Lease::Free {
                        self.end_lease(now);
                        let free_at = now + GRACE;
                        self.lease = Lease::Ended { free_at };
                    }
                }
                Output::Announce {
                    what: Announced::VirtualAddresses,
                    rounds: n,
                } => match &mut self.lease {
                    Lease::Opening { rounds, .. } => *rounds = (*rounds).max(n),
                    _ => (0..n).for_each(|_| acts.push(Act::Announce)),
                },
                Output::State { role, .. } => self.change_role(now, role == Role::Master, acts),
                _ => {}
            }
        }
    }

    /// `role = "vrrp:NAME"`: one half of synchronisation runs at a time.
    fn change_role(&mut self, now: Instant, is_master: bool, acts: &mut Vec<Act>) {
        if is_master == self.outbox.is_some() {
            return;
        }
        self.encoder = Encoder::new(Version::V1, SYNCID);
        self.taken = 0;
        self.told.clear();
        self.peers.set_role(now, is_master, acts);
        if is_master {
            let outbox = Arc::new(Outbox::new());
            self.outbox = Some(Arc::clone(&outbox));
            self.rig.apply(Command::StartMaster(outbox));
        } else {
            self.rig.apply(Command::StopMaster);
            self.outbox = None;
        }
    }

    /// Every few milliseconds: timers of the worker, leases, announcements.
    pub fn tick(&mut self, now: Instant, acts: &mut Vec<Act>) {
        self.rig.now = now;
        for _ in 0..12 {
            self.rig.worker.expire(now, 4096);
        }
        if self.condition != Condition::Running {
            return;
        }
        match self.lease {
            Lease::Opening {
                until,
                open_at,
                rounds,
            } if open_at <= now => {
                self.lease = Lease::Open(until);
                self.board.renew(SLOT, Instant(until.0));
                (0..rounds).for_each(|_| acts.push(Act::Announce));
            }
            Lease::Ended { free_at } if free_at <= now => {
                self.lease = Lease::Free;
                self.board.free(SLOT);
            }
            _ => {}
        }
        self.announce(now, acts);
        if self.is_held && self.peers.is_ready(now) {
            self.is_held = false;
            self.router.hold(time(now), false, &mut self.out);
            self.carry_out(now, acts);
        }
    }

    /// Outbox into messages.
    fn announce(&mut self, now: Instant, acts: &mut Vec<Act>) {
        let Some(outbox) = self.outbox.clone() else {
            return;
        };
        loop {
            let mut full = None;
            let (encoder, buffer, since) = (&mut self.encoder, &mut self.buffer, &mut self.since);
            let some = outbox.take(|entry, engine| {
                if encoder.is_empty() {
                    *since = now;
                }
                if encoder.push(buffer, entry, engine) == Err(NotWritten::Full) {
                    let len = encoder.finish(buffer);
                    full = Some(buffer[..len].to_vec());
                    *encoder = Encoder::new(Version::V1, SYNCID);
                    *since = now;
                    encoder.push(buffer, entry, engine).unwrap();
                }
            });
            if let Some(message) = full {
                self.say(message, acts);
            }
            if !some {
                break;
            }
            self.taken += 1;
        }
        if !self.encoder.is_empty() && now.since(self.since) >= AGE {
            let len = self.encoder.finish(&mut self.buffer);
            let message = self.buffer[..len].to_vec();
            self.encoder = Encoder::new(Version::V1, SYNCID);
            self.say(message, acts);
        }
    }

    /// Sends a message.
    fn say(&mut self, message: Vec<u8>, acts: &mut Vec<Act>) {
        let (mut count, at) = (0, self.rig.now);
        for (entry, _) in entries(&message) {
            self.told.entry(entry.client.port).or_insert(at);
            count += 1;
        }
        self.peers.sent(count);
        acts.push(Act::Sync(message));
    }

    /// A message of another node.
    pub fn sync(&mut self, now: Instant, from: usize, message: Vec<u8>) {
        match self.condition {
            Condition::Dead => return,
            Condition::Frozen => return self.waiting.push(Waiting::Sync(from, message)),
            Condition::Running => {}
        }
        if self.outbox.is_some() {
            // No backup runs.
            return;
        }
        self.rig.now = now;
        self.peers.received(from);
        let mut batch = Batch::default();
        for (entry, engine) in entries(&message) {
            entry.check(&engine).unwrap();
            self.note(&entry);
            batch.push(entry, &engine);
            self.given += 1;
            if batch.is_full() {
                let full = std::mem::take(&mut batch);
                self.rig.apply(Command::PutConnections(Arc::new(full)));
            }
        }
        self.rig.apply(Command::PutConnections(Arc::new(batch)));
    }

    /// A hello of another node.
    pub fn hello(&mut self, now: Instant, from: usize, hello: Vec<u8>, acts: &mut Vec<Act>) {
        match self.condition {
            Condition::Dead => {}
            Condition::Frozen => self.waiting.push(Waiting::Hello(from, hello)),
            Condition::Running => self.peers.hello(now, from, &hello, acts),
        }
    }

    /// What another node gets that asks for a copy: frames, as they go over TCP.
    pub fn give(&mut self, now: Instant, want: Want) -> Result<Vec<u8>, String> {
        if self.outbox.is_none() {
            return Err("no master runs there".to_owned());
        }
        self.rig.now = now;
        let boot = self.peers.boot();
        let (mut bytes, mut packer) = (Vec::new(), Packer::new(SYNCID));
        let start = Frame::Start {
            boot,
            connections: 0,
        };
        frame::encode(&mut bytes, &start);
        let mut cursor = Default::default();
        loop {
            let mut collection = Box::new(Collection::with_room(4));
            (collection.cursor, collection.wanted) = (cursor, want.of_table());
            let command = Command::CollectConnections(collection);
            let Outcome::Collected(filled) = self.rig.worker.apply(now, command) else {
                panic!("no collection in the answer");
            };
            for row in &filled.batch.rows {
                let Age::Copied(idle) = row.age else {
                    panic!("a copy that is none");
                };
                self.told.entry(row.entry.client.port).or_insert(now);
                let data = EngineData::default();
                packer.push(&mut bytes, &row.entry, &data, frame::millis(idle));
            }
            if filled.cursor.done {
                break;
            }
            cursor = filled.cursor;
        }
        packer.flush(&mut bytes);
        let end = Frame::End {
            entries: packer.entries,
            unsaid: packer.unsaid,
        };
        frame::encode(&mut bytes, &end);
        Ok(bytes)
    }

    /// What became of a copy.
    pub fn fetched(
        &mut self,
        now: Instant,
        number: u64,
        copy: Result<Vec<u8>, String>,
        acts: &mut Vec<Act>,
    ) {
        if !self.peers.waits_for(number) {
            return;
        }
        self.rig.now = now;
        let done = copy.map(|bytes| self.take_copy(&bytes));
        self.peers.fetched(now, number, done, acts);
    }

    /// Gives a copy to the worker; of how many entries it is.
    fn take_copy(&mut self, mut bytes: &[u8]) -> u64 {
        let (mut count, mut clients) = (0, BTreeSet::new());
        while let Some((frame, len)) = frame::decode(bytes).expect("frames of ours") {
            if let Frame::Entries(payload) = frame {
                let mut batches = vec![Batch::default()];
                let read = frame::entries(payload, |entry, engine, ms| {
                    entry.check(&engine).unwrap();
                    if batches.last().is_some_and(Batch::is_full) {
                        batches.push(Batch::default());
                    }
                    if let Some(batch) = batches.last_mut() {
                        batch.push_copy(entry, &engine, frame::ticks(ms));
                    }
                    clients.insert(entry.client.port);
                    // One that has ended meanwhile is passed over.
                    self.given += u64::from(frame::ticks(ms) < secs(entry.timeout.max(1)));
                });
                count += u64::from(read.unwrap());
                for batch in batches {
                    self.rig.apply(Command::PutConnections(Arc::new(batch)));
                }
            }
            bytes = &bytes[len..];
        }
        // It has to know what its table says now, which may be newer than the copy.
        for row in self.rig.connections() {
            if clients.contains(&row.client.port) {
                self.known.insert(row.client.port, v4(&row.dest.addr));
            }
        }
        count
    }

    /// What this node has to know from now on.
    fn note(&mut self, entry: &SyncEntry) {
        let dest = v4(&entry.dest.addr);
        let port = entry.client.port;
        let differs = self.known.get(&port).is_some_and(|known| *known != dest);
        // The end of a connection that another one has replaced.
        if !differs || entry.flags & flag::INACTIVE == 0 {
            self.known.insert(port, dest);
        }
    }

    pub fn inject(&mut self, now: Instant, port: u16, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.rig.now = now;
        self.rig.inject(port, frame)
    }

    /// Whether all counters fit each other.
    pub fn audit(&mut self) -> Result<(), String> {
        let rows = self.rig.connections();
        let counters = Arc::clone(&self.rig.counters);
        let equal = |what: &str, a: u64, b: u64| match a == b {
            true => Ok(()),
            false => Err(format!("{what}: {a} and {b}")),
        };
        let counted = counters.connections.get();
        equal("connections", counted, rows.len() as u64)?;
        let mut passed = 0;
        for service in self.rig.services() {
            for dest in &service.destinations {
                let c = counters.dest(dest.id).unwrap();
                let end = service.key.endpoint().unwrap();
                let own = rows
                    .iter()
                    .filter(|row| row.dest == dest.endpoint && row.virtual_ == end);
                let is_active = |state| ["ESTABLISHED", "SYN_RECV"].contains(&state);
                let active = own.clone().filter(|row| is_active(row.state));
                equal("bound", c.total.get().into(), own.count() as u64)?;
                equal("active", c.active.get().into(), active.count() as u64)?;
                passed += c.in_pkts.get();
            }
        }
        equal("packets of clients", passed, self.passed)?;
        equal("entries taken", counters.synced.get(), self.given)?;
        equal("entries refused", counters.sync_refused.get(), 0)?;
        if let Some(outbox) = &self.outbox {
            let (told, left) = (outbox.announced.get(), outbox.len() as u64);
            equal("announced", told, outbox.lost.get() + self.taken + left)?;
        }
        Ok(())
    }
}

/// What a message says.
pub fn entries(
    message: &[u8],
) -> impl Iterator<Item = (SyncEntry, dataplane::sync::EngineData<'_>)> {
    let message = Message::decode(message).expect("a message of ours");
    message
        .entries()
        .map(|entry| entry.expect("an entry of ours"))
}

pub fn v4(addr: &Addr) -> Ipv4Addr {
    addr.octets_v4().into()
}
