//! The thread: reads sockets, lets the machines decide, carries out what they want.

mod addresses;
mod announce;
mod interfaces;
mod lease;
mod output;
mod reload;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError};
use dataplane::lease::Board;
use interfaces::Told;
use lease::Lease;
use mio::{Events, Poll, Token, Waker};
use vrrp::config::Key;
use vrrp::instance::Role;
use vrrp::output::Outputs;
use vrrp::router::Router;
use vrrp::time::Instant;
use vrrp::track::Observation;

use super::kernel::Kernel;
use super::links::Links;
use super::memory::{Memory, Who};
use super::plan::Numbers;
use super::scripts::{Ended, Timetable};
use super::socket::{FrameSocket, Membership, UnicastSocket};
use super::vitals::Vitals;
use super::watcher::Watch;
use super::{Notice, Order, view};
use crate::api::VrrpView;
use crate::clock;
use crate::config::vrrp::{Instance, Tracked, Vrrp};

const WAKER: Token = Token(usize::MAX - 1);
const NETLINK: Token = Token(usize::MAX - 2);
/// Longest sleep: listings are that old.
const NAP: Duration = Duration::from_millis(500);
/// The same while masters hand over.
const HURRIED_NAP: Duration = Duration::from_millis(20);
/// Room for what the machines want done.
const OUTPUTS: usize = 4096;
/// How long the last adverts get to leave through the data plane.
const FAREWELL: Duration = Duration::from_millis(30);

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
    /// Until when adverts keep the peers waiting, for the process after this one.
    pub memory: Memory,
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
    place: Option<dataplane::lease::Slot>,
    lease: Lease,
    /// Its addresses may be on their interfaces because the process before left them there.
    is_left: bool,
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
    /// Interfaces that came up and have had no frame since: how many they had had by then.
    unproven: BTreeMap<u32, u64>,
    /// Interfaces with frames to read.
    readable: BTreeSet<u32>,
    links_readable: bool,
    /// Announcements that wait, by interface.
    queues: BTreeMap<u32, announce::Queue>,
    /// Addresses that we removed and whose notification is still to come.
    removing: Vec<(u32, IpAddr)>,
    /// Identification of the next IPv4 packet.
    id: u16,
    is_router: (Instant, bool),
    workers_are_well: Option<bool>,
    looked: Instant,
    shown: Instant,
    is_shown: bool,
    /// Living masters are left alone.
    is_held: bool,
    /// Masters here have given up for as long as this lasts.
    hands_over: bool,
    /// Places on the board of leases, by instance.
    places: BTreeMap<String, dataplane::lease::Slot>,
    /// Why something could not be done, told once for each instance until it changes.
    troubles: BTreeMap<(Key, &'static str), String>,
}

/// What became of the orders.
enum Orders {
    /// All are carried out.
    Done,
    /// Everything is to be given up.
    End,
    /// Another process goes on.
    Leave,
}

impl Slot {
    /// As peers, and the process after this one, know it.
    fn who(&self) -> Who {
        who(&self.config)
    }
}

fn who(config: &Instance) -> Who {
    let key = config.machine.key;
    (config.interface.clone(), key.family, key.vrid)
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
            unproven: BTreeMap::new(),
            readable: BTreeSet::new(),
            links_readable: true,
            queues: BTreeMap::new(),
            removing: Vec::new(),
            id: 1,
            is_router: (Instant::default(), false),
            workers_are_well: None,
            looked: now(),
            shown: Instant::default(),
            is_shown: false,
            is_held: false,
            hands_over: false,
            places: BTreeMap::new(),
            troubles: BTreeMap::new(),
        };
        Ok((driver, waker))
    }

    /// Runs until it is told to end; what it noted, if it is to leave.
    pub fn run(mut self) -> String {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = self.timeout(now());
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(reason = %e, "VRRP ends: epoll failed");
                    self.end();
                    return String::new();
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
            match self.take_orders() {
                Orders::Done => {}
                Orders::End => {
                    self.end();
                    return String::new();
                }
                Orders::Leave => return self.parts.memory.text(),
            }
            self.take_seen();
            let now = now();
            self.look(now);
            while !self.router.run(now, &mut self.out) {
                self.carry_out(now);
            }
            self.carry_out(now);
            self.tend_leases(now);
            self.tend_announcements(now);
            self.show(now);
        }
    }

    fn timeout(&self, now: Instant) -> Duration {
        if !self.readable.is_empty() || self.links_readable {
            return Duration::ZERO;
        }
        let nap = self.nap();
        let due = self.router.next_timeout().map_or(nap, |at| at.since(now));
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
        let said = self.announcement_timeout(now);
        due.min(said)
            .min(nap)
            .min(look)
            .min(script)
            .min(lease.min().unwrap_or(NAP))
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

    fn take_orders(&mut self) -> Orders {
        loop {
            match self.parts.orders.try_recv() {
                Ok(Order::Apply(config, places)) => self.apply(now(), config, places),
                Ok(Order::Live(instance)) => {
                    let mut slots = self.slots.iter();
                    let found = slots.find(|(_, slot)| slot.config.machine.name == instance);
                    if let Some(key) = found.map(|(key, _)| *key) {
                        self.open(now(), key);
                    }
                }
                Ok(Order::Hold(is_held)) => {
                    self.is_held = is_held;
                    self.hold();
                }
                Ok(Order::HandOver(hands_over)) => {
                    self.hands_over = hands_over;
                    self.hold();
                    if hands_over {
                        self.router.hand_over(now(), &mut self.out);
                    }
                }
                Ok(Order::End) | Err(TryRecvError::Disconnected) => return Orders::End,
                Ok(Order::Leave) => return Orders::Leave,
                Err(TryRecvError::Empty) => return Orders::Done,
            }
        }
    }

    fn hold(&mut self) {
        let is_held = self.is_held || self.hands_over;
        self.router.hold(now(), is_held, &mut self.out);
    }

    /// How old a listing may be: somebody waits for what becomes of a handing over.
    fn nap(&self) -> Duration {
        if self.hands_over { HURRIED_NAP } else { NAP }
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
        self.look_for_arrivals(now);
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

    /// Shows how everything stands.
    fn show(&mut self, now: Instant) {
        if self.is_shown && now.since(self.shown) < self.nap() {
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
