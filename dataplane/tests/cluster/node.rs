//! A node: worker, virtual router, and synchronisation as the control side runs it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use dataplane::addr::Addr;
use dataplane::command::Command;
use dataplane::lease::{Board, LOOK, Leases, Slot};
use dataplane::packet::Verdict;
use dataplane::sync::wire::{Encoder, Message, NotWritten, Version};
use dataplane::sync::{Batch, Outbox, Rules, SyncEntry, flag};
use dataplane::time::Instant;
use vrrp::addr::{Family, Mac};
use vrrp::config::{Config, Key, Preempt, VirtualAddress};
use vrrp::instance::Role;
use vrrp::output::{Announced, Output, Outputs};
use vrrp::packet::{Received, Version as VrrpVersion};
use vrrp::router::{Plan, Router};
use vrrp::timers::AdvertInterval;

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
}

/// What waits while the node is frozen.
enum Waiting {
    Advert(Vec<u8>),
    Sync(Vec<u8>),
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

fn source(number: usize) -> IpAddr {
    Ipv4Addr::new(192, 168, 40, 2 + number as u8).into()
}

impl Node {
    /// A node that starts now, with an empty table.
    pub fn start(now: Instant, number: usize, setup: &Setup, introduction: Duration) -> Node {
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
            outbox: None,
            taken: 0,
            encoder: Encoder::new(Version::V1, 7),
            buffer: vec![0; MAXLEN],
            since: now,
            waiting: Vec::new(),
            known: BTreeMap::new(),
            passed: 0,
            given: 0,
        };
        node.start_router(now, setup);
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
    }

    /// Ends the router; the process ends behind it.
    pub fn stop(&mut self, now: Instant, acts: &mut Vec<Act>) {
        if self.condition == Condition::Running {
            self.router.stop(time(now), &mut self.out);
            self.carry_out(now, acts);
        }
        self.condition = Condition::Dead;
    }

    /// What waited is read before the clock is looked at, as a driver does.
    pub fn thaw(&mut self, now: Instant, acts: &mut Vec<Act>) {
        self.condition = Condition::Running;
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting {
                Waiting::Advert(packet) => self.advert(now, packet, acts),
                Waiting::Sync(message) => self.sync(now, message),
            }
        }
        self.tell_link(now, acts);
    }

    /// When the virtual router wants to be called.
    pub fn timeout(&self) -> Option<Instant> {
        let running = self.condition == Condition::Running;
        let at = self.router.next_timeout().filter(|_| running)?;
        Some(Instant(at.0))
    }

    /// Timers of the virtual router.
    pub fn run(&mut self, now: Instant, acts: &mut Vec<Act>) {
        self.router.run(time(now), &mut self.out);
        self.carry_out(now, acts);
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
                Output::State { role, .. } => self.change_role(role == Role::Master),
                _ => {}
            }
        }
    }

    /// `role = "vrrp:NAME"`: one half of synchronisation runs at a time.
    fn change_role(&mut self, is_master: bool) {
        if is_master == self.outbox.is_some() {
            return;
        }
        self.encoder = Encoder::new(Version::V1, 7);
        self.taken = 0;
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
                    *encoder = Encoder::new(Version::V1, 7);
                    *since = now;
                    encoder.push(buffer, entry, engine).unwrap();
                }
            });
            acts.extend(full.map(Act::Sync));
            if !some {
                break;
            }
            self.taken += 1;
        }
        if !self.encoder.is_empty() && now.since(self.since) >= AGE {
            let len = self.encoder.finish(&mut self.buffer);
            acts.push(Act::Sync(self.buffer[..len].to_vec()));
            self.encoder = Encoder::new(Version::V1, 7);
        }
    }

    /// A message of another node.
    pub fn sync(&mut self, now: Instant, message: Vec<u8>) {
        match self.condition {
            Condition::Dead => return,
            Condition::Frozen => return self.waiting.push(Waiting::Sync(message)),
            Condition::Running => {}
        }
        if self.outbox.is_some() {
            // No backup runs.
            return;
        }
        self.rig.now = now;
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
