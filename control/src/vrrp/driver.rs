//! The thread: reads sockets, lets the machines decide, carries out what they want.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError};
use dataplane::lease::{self, Board};
use mio::{Events, Poll, Token, Waker};
use vrrp::addr::{Family, Mac};
use vrrp::announce::{self, Claim};
use vrrp::config::{Key, Transport, VirtualAddress};
use vrrp::instance::Role;
use vrrp::output::{Alarm, Announced, Datagram, Output, Outputs};
use vrrp::packet::{self, Received};
use vrrp::router::Router;
use vrrp::time::Instant;
use vrrp::track::Observation;

use super::kernel::Kernel;
use super::links::Links;
use super::plan::{self, Numbers};
use super::scripts::{Ended, Timetable};
use super::socket::{FRAME, FrameSocket, Membership, UnicastSocket};
use super::vitals::Vitals;
use super::watcher::Watch;
use super::{Notice, Order, macvlan, view};
use crate::api::VrrpView;
use crate::clock;
use crate::config::vrrp::{Address, Instance, Tracked, Vrrp};

const WAKER: Token = Token(usize::MAX - 1);
const NETLINK: Token = Token(usize::MAX - 2);
/// Longest sleep: listings are that old.
const NAP: Duration = Duration::from_millis(500);
/// Frames read from one interface between two looks at the timers.
const SHARE: usize = 256;
/// Room for what the machines want done.
const OUTPUTS: usize = 4096;
/// A worker that moved within this time counts as moving.
const PULSE: Duration = Duration::from_millis(50);
/// How long the last adverts get to leave through the data plane.
const FAREWELL: Duration = Duration::from_millis(30);
/// How long control gets to tell the workers of an address before it is announced all the same.
const INTRODUCTION: Duration = Duration::from_millis(100);
/// How long packets for an address that was given up are dropped: by then the kernel and all workers
/// know that it is gone.
const GRACE: Duration = Duration::from_secs(2);
/// How often it is looked up whether the host forwards IPv6.
const FORWARDING_PERIOD: Duration = Duration::from_secs(5);

/// What the driver is made with.
pub struct Parts {
    /// What it is told.
    pub orders: Receiver<Order>,
    /// What it tells.
    pub notices: Sender<Notice>,
    /// Rung when there are notices.
    pub control: Arc<Waker>,
    /// Files and processes to be watched.
    pub watch: Sender<Watch>,
    /// What was seen of them.
    pub seen: Receiver<(Tracked, Observation)>,
    /// Signs of life of the data plane.
    pub vitals: Vitals,
    /// Scripts to be run.
    pub scripts: Timetable,
    /// Those that have ended.
    pub ended: Receiver<Ended>,
    /// Until when workers may serve.
    pub board: Arc<Board>,
    /// How everything stands, for listings.
    pub view: Arc<Mutex<VrrpView>>,
}

/// What is known of an instance beside its machine.
struct Slot {
    config: Instance,
    group: Option<String>,
    role: Role,
    /// Since when.
    since: Instant,
    cause: &'static str,
    alarms: BTreeMap<&'static str, (u64, String)>,
    /// When a round of adverts was last sent.
    sent: Option<Instant>,
    /// Whether its addresses are on their interfaces.
    holds: bool,
    /// Its place on the board of leases.
    place: Option<lease::Slot>,
    lease: Lease,
}

/// What the board says about an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {
    /// Its addresses are nobody's business here.
    Free,
    /// It is master, but the workers do not know that the host holds the addresses: nothing is served
    /// or announced before they do, or this time has come.
    Opening {
        until: Instant,
        open_at: Instant,
        rounds: u8,
    },
    /// Workers serve.
    Open,
    /// Ended; free again then.
    Ended { free_at: Instant },
}

/// What instances of one interface were told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    is_up: bool,
    mac: Mac,
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

/// A round of adverts.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    any_left: bool,
    failed: bool,
}

pub struct Driver {
    poll: Poll,
    parts: Parts,
    kernel: Kernel,
    links: Links,
    router: Router,
    out: Outputs,
    config: Arc<Vrrp>,
    numbers: Numbers,
    slots: BTreeMap<Key, Slot>,
    /// Who has an address, by the interface that it is put on: for what others say about it.
    homes: BTreeMap<(u32, IpAddr), Key>,
    sockets: BTreeMap<u32, FrameSocket>,
    unicast: BTreeMap<IpAddr, UnicastSocket>,
    memberships: BTreeMap<(u32, IpAddr), Membership>,
    told: BTreeMap<u32, Told>,
    /// Interfaces with frames to read.
    readable: BTreeSet<u32>,
    links_readable: bool,
    /// Addresses that we removed and whose notification is still to come.
    removing: Vec<(u32, IpAddr)>,
    /// Identification of the next IPv4 packet.
    id: u16,
    is_router: (Instant, bool),
    workers_are_well: Option<bool>,
    looked: Instant,
    shown: Instant,
    is_shown: bool,
    /// Places on the board of leases, by instance.
    places: BTreeMap<String, lease::Slot>,
    /// Why something could not be done, told once for each instance until it changes.
    troubles: BTreeMap<(Key, &'static str), String>,
}

fn now() -> Instant {
    Instant(clock::now().0)
}

impl Driver {
    /// A driver without instances, and what wakes it.
    ///
    /// # Errors
    /// Of sockets and epoll.
    pub fn new(mut parts: Parts) -> io::Result<(Driver, Arc<Waker>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        parts.scripts.set_waker(Arc::clone(&waker));
        let mut kernel = Kernel::open()?;
        let links = Links::open(&mut kernel)?;
        links.register(poll.registry(), NETLINK)?;
        let driver = Driver {
            poll,
            parts,
            kernel,
            links,
            router: Router::new(),
            out: Outputs::new(OUTPUTS),
            config: Arc::default(),
            numbers: Numbers::default(),
            slots: BTreeMap::new(),
            homes: BTreeMap::new(),
            sockets: BTreeMap::new(),
            unicast: BTreeMap::new(),
            memberships: BTreeMap::new(),
            told: BTreeMap::new(),
            readable: BTreeSet::new(),
            links_readable: true,
            removing: Vec::new(),
            id: 1,
            is_router: (Instant::default(), false),
            workers_are_well: None,
            looked: now(),
            shown: Instant::default(),
            is_shown: false,
            places: BTreeMap::new(),
            troubles: BTreeMap::new(),
        };
        Ok((driver, waker))
    }

    /// Runs until it is told to end.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = self.timeout(now());
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(reason = %e, "VRRP ends: epoll failed");
                    return self.end();
                }
                _ => {}
            }
            for event in &events {
                match event.token() {
                    WAKER => {}
                    NETLINK => self.links_readable = true,
                    Token(index) => drop(self.readable.insert(index as u32)),
                }
            }
            // What came in first: silence is not judged while adverts wait unread.
            self.read_links();
            self.read_frames();
            if !self.take_orders() {
                return self.end();
            }
            self.take_seen();
            let now = now();
            self.look(now);
            while !self.router.run(now, &mut self.out) {
                self.carry_out(now);
            }
            self.carry_out(now);
            self.tend_leases(now);
            self.show(now);
        }
    }

    /// Opens what waited long enough for control, and frees what ended long ago.
    fn tend_leases(&mut self, now: Instant) {
        let mut open = Vec::new();
        for (key, slot) in &mut self.slots {
            match slot.lease {
                Lease::Opening { open_at, .. } if open_at <= now => open.push(*key),
                Lease::Ended { free_at } if free_at <= now => {
                    slot.lease = Lease::Free;
                    if let Some(place) = slot.place {
                        self.parts.board.free(place);
                    }
                }
                _ => {}
            }
        }
        for key in open {
            self.open(now, key);
        }
    }

    /// Lets the workers serve an instance's addresses and tells the LAN.
    fn open(&mut self, now: Instant, key: Key) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let Lease::Opening { until, rounds, .. } = slot.lease else {
            return;
        };
        slot.lease = Lease::Open;
        if let Some(place) = slot.place {
            self.parts
                .board
                .renew(place, dataplane::time::Instant(until.0));
        }
        self.announce(now, key, Announced::VirtualAddresses, rounds);
    }

    /// Until when workers may serve an instance's addresses.
    fn renew(&mut self, now: Instant, key: Key, end: Instant) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let Some(place) = slot.place else {
            return;
        };
        match &mut slot.lease {
            Lease::Open => self
                .parts
                .board
                .renew(place, dataplane::time::Instant(end.0)),
            Lease::Opening { until, .. } => *until = end,
            Lease::Free | Lease::Ended { .. } => {
                // Nothing is let through before the workers know the addresses.
                self.parts.board.end(place);
                slot.lease = Lease::Opening {
                    until: end,
                    open_at: now + INTRODUCTION,
                    rounds: 0,
                };
            }
        }
    }

    /// Workers stop to serve an instance's addresses.
    fn end_lease(&mut self, now: Instant, key: Key) {
        if let Some(slot) = self.slots.get_mut(&key)
            && let Some(place) = slot.place
            && slot.lease != Lease::Free
        {
            self.parts.board.end(place);
            slot.lease = Lease::Ended {
                free_at: now + GRACE,
            };
        }
    }

    fn timeout(&self, now: Instant) -> Duration {
        if !self.readable.is_empty() || self.links_readable {
            return Duration::ZERO;
        }
        let due = self.router.next_timeout().map_or(NAP, |at| at.since(now));
        let look = match self.slots.is_empty() {
            true => NAP,
            false => self.look_period().saturating_sub(now.since(self.looked)),
        };
        // A lease that opens or is freed by itself is not urgent.
        let lease = self.slots.values().map(|slot| match slot.lease {
            Lease::Opening { open_at, .. } => open_at.since(now),
            _ => NAP,
        });
        let script = self.parts.scripts.next().map_or(NAP, |at| at.since(now));
        due.min(look).min(script).min(lease.min().unwrap_or(NAP))
    }

    /// How often the receive path has to be proven: several times in half a master-down interval.
    fn look_period(&self) -> Duration {
        let shortest = self
            .slots
            .values()
            .map(|slot| slot.config.machine.interval.duration());
        let period = shortest.min().unwrap_or(NAP) / 5;
        period.clamp(Duration::from_millis(5), Duration::from_millis(100))
    }

    /// False when it is to end.
    fn take_orders(&mut self) -> bool {
        loop {
            match self.parts.orders.try_recv() {
                Ok(Order::Apply(config, places)) => {
                    (self.config, self.places) = (config, places);
                    self.workers_are_well = None;
                    self.plan(now());
                }
                Ok(Order::Live(instance)) => {
                    let mut slots = self.slots.iter();
                    let found = slots.find(|(_, slot)| slot.config.machine.name == instance);
                    if let Some(key) = found.map(|(key, _)| *key) {
                        self.open(now(), key);
                    }
                }
                Ok(Order::End) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    /// Makes the machines as configured, with the devices there are.
    fn plan(&mut self, now: Instant) {
        self.make_macvlans();
        let links = &self.links;
        let index = |name: &str| links.port(name).map(|port| port.index);
        let (plan, keys) = plan::plan(&self.config, &mut self.numbers, index);
        let mut slots = BTreeMap::new();
        for (key, config) in keys.iter().zip(&self.config.instances) {
            let name = &config.machine.name;
            let mut groups = self.config.groups.iter();
            let group = groups.find(|group| group.instances.contains(name));
            let group = group.map(|group| group.name.clone());
            let place = self.places.get(name).copied();
            let slot = match self.slots.remove(key) {
                Some(old) => Slot {
                    place,
                    config: config.clone(),
                    group,
                    ..old
                },
                None => Slot {
                    config: config.clone(),
                    group,
                    role: Role::Stopped,
                    since: now,
                    cause: "start",
                    alarms: BTreeMap::new(),
                    sent: None,
                    holds: false,
                    place,
                    lease: Lease::Free,
                },
            };
            slots.insert(*key, slot);
        }
        // Those that are left stop; what they still want done needs to know their addresses.
        let leaving = std::mem::take(&mut self.slots);
        let mut changed = BTreeMap::new();
        for (key, slot) in &slots {
            changed.insert(*key, slot.config.clone());
        }
        self.slots = slots;
        for (key, slot) in leaving {
            self.slots.entry(key).or_insert(slot);
        }
        self.open_sockets();
        self.tell_links(now);
        if let Err(mistakes) = self.router.apply(now, plan, &mut self.out) {
            // The configuration was checked, so that two interfaces of one name are left.
            for mistake in mistakes {
                tracing::error!(event = "vrrp", "{mistake}; nothing changed");
            }
        }
        self.carry_out(now);
        let board = &self.parts.board;
        self.slots.retain(|key, slot| {
            let stays = changed.contains_key(key);
            if let (false, Some(place)) = (stays, slot.place) {
                board.free(place);
            }
            stays
        });
        let tracked = plan::all_tracked(&self.config);
        self.parts.scripts.plan(now, &self.config, &tracked);
        // The watcher ends only with us.
        let _ = self.parts.watch.send(Watch::of(&self.config, &tracked));
        self.tell_tracked(now);
        self.remove_macvlans();
        self.is_shown = false;
    }

    /// Where an address of an instance is put: the macvlan if it has one, in the place of the
    /// instance's interface.
    fn device_of(&self, key: Key, config: &Instance, address: &Address) -> String {
        match config.machine.virtual_mac && address.device == config.interface {
            true => macvlan::name(key),
            false => address.device.clone(),
        }
    }

    fn make_macvlans(&mut self) {
        let links = &self.links;
        let index = |name: &str| links.port(name).map(|port| port.index);
        let (_, keys) = plan::plan(&self.config, &mut self.numbers, index);
        let mut is_new = false;
        for (key, config) in keys.into_iter().zip(&self.config.instances) {
            let name = macvlan::name(key);
            if !config.machine.virtual_mac || !plan::exists(key) || links.port(&name).is_some() {
                continue;
            }
            is_new = true;
            if let Err(reason) = macvlan::make(&mut self.kernel, key) {
                tracing::warn!(
                    instance = %config.machine.name,
                    "the macvlan {name} for the virtual MAC cannot be made: {reason}; load the \
                     kernel module macvlan, or remove vmac"
                );
            }
        }
        if is_new {
            self.links.read(&mut self.kernel);
            for (key, config) in self.slots_planned() {
                let port = self.links.port(&macvlan::name(key));
                if let Some(port) = port.filter(|port| config.machine.virtual_mac && !port.is_up) {
                    // It is told by the next look at the links if that failed.
                    let _ = self.kernel.set_up(port.index);
                }
            }
        }
    }

    fn slots_planned(&mut self) -> Vec<(Key, Instance)> {
        let links = &self.links;
        let index = |name: &str| links.port(name).map(|port| port.index);
        let (_, keys) = plan::plan(&self.config, &mut self.numbers, index);
        keys.into_iter()
            .zip(self.config.instances.iter().cloned())
            .collect()
    }

    /// Removes the macvlans of instances that are gone.
    fn remove_macvlans(&mut self) {
        let wanted: BTreeSet<String> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.config.machine.virtual_mac)
            .map(|(key, _)| macvlan::name(*key))
            .collect();
        for (index, name) in self.links.macvlans() {
            if macvlan::is_ours(&name) && !wanted.contains(&name) {
                // A device that went by itself is gone as well.
                let _ = self.kernel.remove_link(index);
            }
        }
    }

    fn open_sockets(&mut self) {
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

    fn source(&self, index: u32, family: Family) -> Option<IpAddr> {
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

    /// Tells the machines how their interfaces are, if that is new.
    fn tell_links(&mut self, now: Instant) {
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
            if old.is_none_or(|old| (old.is_up, old.mac) != (new.is_up, new.mac)) {
                self.router
                    .link(now, port.index, new.is_up, new.mac, &mut self.out);
            }
        }
        self.told
            .retain(|index, _| self.links.name(*index).is_some());
    }

    /// Tells the machines how tracked interfaces are. Those that do not exist are down.
    fn tell_tracked(&mut self, now: Instant) {
        for what in plan::all_tracked(&self.config) {
            if let Tracked::Interface(name) = &what {
                let is_up = self.links.port(name).is_some_and(|port| port.is_up);
                let id = self.numbers.tracker(&what);
                self.router
                    .observe(now, id, Observation::Link(is_up), &mut self.out);
            }
        }
    }

    fn read_links(&mut self) {
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

    fn read_frames(&mut self) {
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

    fn take_seen(&mut self) {
        while let Ok((what, seen)) = self.parts.seen.try_recv() {
            let id = self.numbers.tracker(&what);
            self.router.observe(now(), id, seen, &mut self.out);
        }
        while let Ok(ended) = self.parts.ended.try_recv() {
            if let Some((what, seen)) = self.parts.scripts.take(ended) {
                let id = self.numbers.tracker(&what);
                self.router.observe(now(), id, seen, &mut self.out);
            }
        }
        self.parts.scripts.run(now());
    }

    /// Looks at the data plane: whether what comes in would be seen.
    fn look(&mut self, now: Instant) {
        if now.since(self.looked) < self.look_period() {
            return;
        }
        let before = std::mem::replace(&mut self.looked, now);
        self.parts.vitals.look(now);
        if self
            .parts
            .vitals
            .moved_since(now, before + Duration::from_nanos(1))
        {
            let interfaces: Vec<u32> = self
                .told
                .iter()
                .filter(|(_, told)| told.is_up)
                .map(|(index, _)| *index)
                .collect();
            for index in interfaces
                .into_iter()
                .filter(|index| !self.readable.contains(index))
            {
                self.router.frame_heard(now, index, &mut self.out);
            }
        }
        let is_well = self.parts.vitals.is_well(now);
        if self.workers_are_well != Some(is_well) {
            self.workers_are_well = Some(is_well);
            let id = self.numbers.tracker(&Tracked::Workers);
            let seen = Observation::Health(u32::from(is_well));
            self.router.observe(now, id, seen, &mut self.out);
        }
    }

    /// Does what the machines want, in their order.
    fn carry_out(&mut self, now: Instant) {
        // What could not be sent makes the machines want more.
        while !self.out.is_empty() {
            let mut rounds: BTreeMap<Key, Round> = BTreeMap::new();
            while let Some((key, output)) = self.out.pop() {
                self.act(now, key, output, &mut rounds);
            }
            for (key, round) in rounds {
                if round.failed && !round.any_left {
                    self.router.send_failed(now, key, &mut self.out);
                }
            }
        }
    }

    fn act(&mut self, now: Instant, key: Key, output: Output, rounds: &mut BTreeMap<Key, Round>) {
        match output {
            Output::Send(advert) => {
                // Whoever hears that we give up may take over at once.
                if advert.message.get(2) == Some(&0) {
                    self.end_lease(now, key);
                }
                let round = rounds.entry(key).or_default();
                match self.send(now, key, &advert) {
                    Ok(()) => {
                        round.any_left = true;
                        self.recovered(key, "advert");
                    }
                    Err(reason) => {
                        round.failed = true;
                        self.trouble(
                            key,
                            "advert",
                            format!("no advert to {}: {reason}", advert.dst),
                        );
                    }
                }
            }
            Output::Lease { until } => self.renew(now, key, until),
            Output::AddAddresses { addresses, .. } => {
                self.add_addresses(key, &addresses);
                self.introduce(key, &addresses);
            }
            Output::RemoveAddresses(addresses) => {
                let is_all = self.slots.get(&key).is_some_and(|slot| {
                    slot.config
                        .addresses
                        .iter()
                        .all(|a| addresses.contains(&a.addr))
                });
                if is_all {
                    self.end_lease(now, key);
                }
                self.remove_addresses(key, &addresses);
            }
            Output::Announce { what, rounds } => {
                match self.slots.get_mut(&key).map(|slot| &mut slot.lease) {
                    // Said when it is true.
                    Some(Lease::Opening { rounds: later, .. })
                        if what == Announced::VirtualAddresses =>
                    {
                        *later = (*later).max(rounds);
                    }
                    _ => self.announce(now, key, what, rounds),
                }
            }
            Output::State {
                role,
                cause,
                priority,
            } => {
                let Some(slot) = self.slots.get_mut(&key) else {
                    return;
                };
                let old = std::mem::replace(&mut slot.role, role);
                (slot.since, slot.cause) = (now, cause.name());
                let instance = slot.config.machine.name.clone();
                tracing::info!(instance, vrid = key.vrid, state = %role, event = cause.name(), priority, "{}", cause.help());
                let group = slot.group.clone();
                self.tell(Notice::Instance {
                    instance,
                    group,
                    old,
                    new: role,
                    cause,
                    priority,
                });
            }
            Output::GroupState { name, role } => {
                tracing::info!(group = name, state = %role, "the sync group changed");
                self.tell(Notice::Group {
                    group: name,
                    new: role,
                });
            }
            Output::Priority(priority) => {
                let Some(slot) = self.slots.get(&key) else {
                    return;
                };
                let (instance, state) = (slot.config.machine.name.clone(), slot.role);
                tracing::info!(instance, vrid = key.vrid, state = %state, event = "priority", priority, "the effective priority changed");
                self.tell(Notice::Priority {
                    instance,
                    state,
                    priority,
                });
            }
            Output::Alarm(alarm) => self.alarm(key, alarm),
        }
        self.is_shown = false;
    }

    fn tell(&mut self, notice: Notice) {
        // Control ends after us.
        let _ = self.parts.notices.send(notice);
        let _ = self.parts.control.wake();
    }

    /// Says once what is wrong.
    fn trouble(&mut self, key: Key, what: &'static str, text: String) {
        if self.troubles.get(&(key, what)) != Some(&text) {
            let instance = self
                .slots
                .get(&key)
                .map_or("?", |slot| &slot.config.machine.name);
            tracing::warn!(instance, vrid = key.vrid, event = what, "{text}");
            self.troubles.insert((key, what), text);
        }
    }

    fn recovered(&mut self, key: Key, what: &'static str) {
        if self.troubles.remove(&(key, what)).is_some() {
            let instance = self
                .slots
                .get(&key)
                .map_or("?", |slot| &slot.config.machine.name);
            tracing::info!(instance, vrid = key.vrid, event = what, "it works again");
        }
    }

    fn send(&mut self, now: Instant, key: Key, advert: &Datagram) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(&key) else {
            return Ok(());
        };
        let before = slot.sent.replace(now);
        let sends_from_base = slot.config.sends_from_base;
        if let Some(before) = before {
            // What was handed to a data plane that stands still does not leave.
            self.parts.vitals.look(now);
            let since = before.min(now - PULSE);
            if !self.parts.vitals.moved_since(now, since) {
                return Err(io::Error::other("the data plane stands still"));
            }
        }
        if !advert.dst.is_multicast() {
            let socket = match self.unicast.entry(advert.src) {
                Entry::Occupied(open) => open.into_mut(),
                Entry::Vacant(place) => place.insert(UnicastSocket::open(advert.src)?),
            };
            return socket.send(advert);
        }
        let told = self.told.get(&key.interface);
        let own = told.map(|told| told.mac).unwrap_or_default();
        let mac = advert
            .virtual_mac
            .filter(|_| !sends_from_base)
            .unwrap_or(own);
        let dst = Mac::multicast(advert.dst).unwrap_or(Mac::BROADCAST);
        let frame = packet::ethernet(dst, mac, &advert.packet(self.id));
        self.id = self.id.checked_add(1).unwrap_or(1);
        let socket = self.sockets.get(&key.interface);
        let socket = socket.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        socket.send(&frame)
    }

    fn add_addresses(&mut self, key: Key, addresses: &[VirtualAddress]) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
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
            if let Err(reason) = done {
                let addr = address.addr.addr;
                failed = Some(format!(
                    "address {addr} cannot be put on {device}: {reason}"
                ));
            }
        }
        for route in &config.routes {
            let index = route.device.as_ref().and_then(|name| self.links.port(name));
            if let Err(reason) = self.kernel.add_route(route, index.map(|port| port.index)) {
                let (to, len) = (route.to.addr, route.to.prefix_len);
                failed = Some(format!("route to {to}/{len} cannot be added: {reason}"));
            }
        }
        match failed {
            Some(text) => self.trouble(key, "kernel", text),
            None => self.recovered(key, "kernel"),
        }
    }

    /// Asks control to say when workers know the addresses, if nothing is served before.
    fn introduce(&mut self, key: Key, addresses: &[VirtualAddress]) {
        let Some(slot) = self.slots.get(&key) else {
            return;
        };
        if matches!(slot.lease, Lease::Opening { .. }) {
            let instance = slot.config.machine.name.clone();
            let addresses = addresses.iter().map(|address| address.addr).collect();
            self.tell(Notice::Holds {
                instance,
                addresses,
            });
        }
    }

    fn remove_addresses(&mut self, key: Key, addresses: &[VirtualAddress]) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let config = slot.config.clone();
        let is_all = config.addresses.iter().all(|a| addresses.contains(&a.addr));
        if is_all {
            slot.holds = false;
            for route in &config.routes {
                let index = route.device.as_ref().and_then(|name| self.links.port(name));
                // A route that went with its interface is gone as well.
                let _ = self
                    .kernel
                    .remove_route(route, index.map(|port| port.index));
            }
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

    fn announce(&mut self, now: Instant, key: Key, what: Announced, rounds: u8) {
        let Some(slot) = self.slots.get(&key) else {
            return;
        };
        let config = &slot.config;
        let vmac = Mac::virtual_router(key.family, key.vrid);
        let mut frames = Vec::new();
        let is_router = forwards_ipv6(now, &mut self.is_router);
        match what {
            Announced::VirtualAddresses => {
                for address in &config.addresses {
                    let Some(port) = self.links.port(&address.device) else {
                        continue;
                    };
                    let at_vmac = config.machine.virtual_mac && address.device == config.interface;
                    let mac = if at_vmac { vmac } else { port.mac };
                    let frame = announce::frame(mac, address.addr.addr, is_router);
                    frames.push((port.index, frame));
                }
            }
            Announced::Source(addr) => {
                let mac = self.told.get(&key.interface).map(|told| told.mac);
                let frame = announce::frame(mac.unwrap_or_default(), addr, is_router);
                frames.push((key.interface, frame));
            }
        }
        for _ in 0..rounds {
            for (index, frame) in &frames {
                if let Some(socket) = self.sockets.get(index) {
                    // Lost as on the way: others follow.
                    let _ = socket.send(frame);
                }
            }
        }
    }

    fn alarm(&mut self, key: Key, alarm: Alarm) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let text = view::explain(&alarm);
        let entry = slot.alarms.entry(alarm.name()).or_default();
        *entry = (entry.0 + 1, text.clone());
        let instance = slot.config.machine.name.clone();
        tracing::warn!(instance, vrid = key.vrid, event = alarm.name(), "{text}");
        let priority = self.router.instance(key).map_or(0, |i| i.priority());
        self.tell(Notice::Alarm {
            instance,
            alarm: alarm.name(),
            text,
            priority,
        });
    }

    /// Shows how everything stands.
    fn show(&mut self, now: Instant) {
        if self.is_shown && now.since(self.shown) < NAP {
            return;
        }
        (self.is_shown, self.shown) = (true, now);
        let mut new = VrrpView::default();
        for instance in self.router.instances() {
            if let Some(slot) = self.slots.get(&instance.key()) {
                let extra = view::Extra {
                    group: slot.group.as_deref(),
                    since: slot.since,
                    cause: slot.cause,
                    alarms: &slot.alarms,
                    holds: slot.holds,
                    source: slot
                        .config
                        .source
                        .or(self.source(instance.key().interface, instance.key().family)),
                };
                new.instances
                    .push(view::of(now, instance, &slot.config, extra));
            }
        }
        new.instances.sort_by(|a, b| a.name.cmp(&b.name));
        new.refused = view::counts(self.router.refused());
        *self
            .parts
            .view
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// Gives everything up: the last adverts leave, the addresses go.
    fn end(mut self) {
        let now = now();
        self.router.stop(now, &mut self.out);
        self.carry_out(now);
        while !self.router.run(now, &mut self.out) {
            self.carry_out(now);
        }
        self.carry_out(now);
        self.slots.clear();
        self.remove_macvlans();
        // The data plane ends after us and still has to send what the kernel handed it.
        std::thread::sleep(FAREWELL);
    }
}

/// Whether the host forwards IPv6, looked up every few seconds.
fn forwards_ipv6(now: Instant, known: &mut (Instant, bool)) -> bool {
    if known.0 == Instant::default() || now.since(known.0) >= FORWARDING_PERIOD {
        let text = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding");
        *known = (now, text.is_ok_and(|text| text.trim() == "1"));
    }
    known.1
}
