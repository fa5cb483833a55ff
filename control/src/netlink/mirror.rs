//! The mirror: what the kernel says goes in, what workers are to be told comes out.
//!
//! A machine without socket or clock. [`Mirror::handle`] takes one message in and does little;
//! [`Mirror::settle`], called after each batch and when [`Mirror::next_timeout`] has come, does
//! a bounded piece of what follows from it.
//!
//! Order of a synchronisation: subscribe (the driver does), then dump devices, nexthop objects,
//! addresses, routes, neighbours, rules, one after the other, while notifications go on. After
//! an overrun everything is dumped again. The kernel drops IPv4 routes without a word when a
//! device goes down or an address they need goes away; routes are then dumped again.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::addr::{Addr, Family, Mac};
use dataplane::packet::PortId;
use dataplane::route::{Fib, LinkId, Prefix};
use dataplane::time::Instant;

use super::addresses::Addresses;
use super::links::{Holder, Links, Twin};
use super::message::{
    Address, Device, DeviceKind, IfIndex, Message, NextHopObject, Rule, TABLE_LOCAL, TABLE_MAIN,
};
use super::neighbours::{self, Neighbours};
use super::routes::{Routes, World};
use super::rules::Rules;
use crate::config::KernelTable;
use crate::update::Update;

/// Least time between two forwarding tables: each makes workers look up their routes again.
const PUBLISH_PAUSE: Duration = Duration::from_millis(20);
/// How long the next hop of a server that is gone stays wanted at least.
const REVIEW_PAUSE: Duration = Duration::from_secs(10);
/// How long a burst of changes is waited for before routes are dumped again.
const RESYNC_PAUSE: Duration = Duration::from_millis(100);
/// Routes looked at per step.
const ROUTE_BUDGET: usize = 2_000;
/// Neighbours asked for per step.
const ASK_BUDGET: usize = 64;
/// A `local` route is written out into at most this many addresses.
const MAX_LOCAL: u32 = 1_024;

/// What is mirrored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The data ports' devices.
    pub twins: Vec<Twin>,
    /// The table of routes.
    pub table: KernelTable,
    /// Capacity of the workers' neighbour tables.
    pub max_neighbours: u32,
    /// How often wanted neighbours are confirmed.
    pub refresh: Duration,
}

/// A list to be asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    /// Devices.
    Links,
    /// Nexthop objects.
    NextHops,
    /// Addresses.
    Addresses,
    /// One table's routes.
    Routes(Family, u32),
    /// Neighbours.
    Neighbours,
    /// Rules.
    Rules(Family),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The kernel notifies.
    Notice(Message),
    /// A row of the running dump.
    Row(Message),
    /// The running dump ended; `complete` is false if it has to be done again.
    DumpEnd {
        /// It contained everything.
        complete: bool,
    },
    /// Notifications were lost.
    Overrun,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Tell all workers.
    Update(Update),
    /// [`Mirror::local_addresses`] changed.
    LocalAddressesChanged,
    /// Have the kernel resolve or confirm a neighbour.
    Ask(IfIndex, Addr),
    /// Ask the kernel for a list. One at a time: the next follows the end of this one.
    Dump(Dump),
    /// Tell the operator.
    Warning(String),
    /// A warning no longer holds.
    WarningGone(String),
}

/// See the module.
#[derive(Debug)]
pub struct Mirror {
    table: KernelTable,
    links: Links,
    addresses: Addresses,
    routes: Routes,
    neighbours: Neighbours,
    rules: Rules,
    ports: Vec<PortId>,
    /// The number of the mirrored table; `None` while its VRF does not exist.
    number: Option<u32>,
    /// Devices whose addresses serve as source where a device has none.
    lenders: Vec<IfIndex>,
    servers: BTreeSet<Addr>,
    /// Dumps to come; the first one runs.
    dumps: VecDeque<Dump>,
    /// Everything is to be dumped again.
    restart: bool,
    seen_devices: HashSet<IfIndex>,
    seen_addresses: HashSet<(IfIndex, Addr, u8)>,
    object_epoch: u32,
    resync_at: Option<Instant>,
    /// The first synchronisation is complete.
    synced: bool,
    published: Arc<Fib>,
    unpublished: bool,
    published_at: Option<Instant>,
    retarget: bool,
    rewant: bool,
    /// Servers whose next hops were not looked up yet.
    fresh: BTreeSet<Addr>,
    /// When it is looked which next hops are not wanted any more.
    review_at: Option<Instant>,
    macs: BTreeMap<PortId, Vec<Mac>>,
    warnings: BTreeSet<String>,
}

impl Mirror {
    /// Knows nothing yet; the first dump is asked for.
    pub fn new(config: Config, out: &mut Vec<Action>) -> Mirror {
        let mut mirror = Mirror {
            links: Links::new(&config.twins),
            ports: config.twins.iter().map(|t| t.port).collect(),
            table: config.table,
            addresses: Addresses::default(),
            routes: Routes::default(),
            neighbours: Neighbours::new(config.max_neighbours, config.refresh),
            rules: Rules::default(),
            number: None,
            lenders: Vec::new(),
            servers: BTreeSet::new(),
            dumps: VecDeque::new(),
            restart: false,
            seen_devices: HashSet::new(),
            seen_addresses: HashSet::new(),
            object_epoch: 0,
            resync_at: None,
            synced: false,
            published: Arc::default(),
            unpublished: false,
            published_at: None,
            retarget: false,
            rewant: false,
            fresh: BTreeSet::new(),
            review_at: None,
            macs: BTreeMap::new(),
            warnings: BTreeSet::new(),
        };
        mirror.dump(Dump::Links, out);
        mirror
    }

    /// Takes one message in.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Vec<Action>) {
        match input {
            Input::Notice(message) => self.message(now, message, false, out),
            Input::Row(message) => self.message(now, message, true, out),
            Input::DumpEnd { complete } => self.dump_end(now, complete, out),
            Input::Overrun => {
                self.restart = true;
                if self.dumps.is_empty() {
                    self.restart_dumps(out);
                }
            }
        }
    }

    /// Does a piece of what is due; call again when [`Mirror::next_timeout`] says so.
    pub fn settle(&mut self, now: Instant, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.retarget) {
            self.routes
                .retarget(&world(&self.links, &self.addresses, &self.lenders));
        }
        self.routes.step(ROUTE_BUDGET);
        if self.dumps.is_empty() && self.resync_at.is_some_and(|at| at <= now) {
            self.resync_at = None;
            let list = self.route_dumps();
            self.run(list, out);
        }
        self.unpublished |= self.routes.take_fib_changed();
        let local_changed = self.synced && self.routes.take_local_changed();
        // An address and what its packets do change together.
        let due = local_changed || self.published_at.is_none_or(|at| at + PUBLISH_PAUSE <= now);
        if self.synced && self.unpublished && due {
            self.publish(now, out);
        }
        if local_changed {
            self.review_local(out);
            out.push(Action::LocalAddressesChanged);
        }
        let review = self.review_at.take_if(|at| *at <= now).is_some();
        if std::mem::take(&mut self.rewant) || review {
            self.review_at = None;
            self.fresh.clear();
            let mut hops = neighbours::next_hops(self.routes.fib(), &self.servers);
            hops.extend(self.routes.gateways());
            self.neighbours.want(now, &hops);
        }
        let fresh = std::mem::take(&mut self.fresh);
        let hops = neighbours::next_hops(self.routes.fib(), &fresh);
        self.neighbours.want_too(now, &hops);
        self.ask(now, out);
    }

    /// When [`Mirror::settle`] has to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.routes.is_busy() || self.retarget || self.rewant || !self.fresh.is_empty() {
            return Some(Instant(0));
        }
        let publish = (self.synced && self.unpublished).then(|| {
            self.published_at
                .map_or(Instant(0), |at| at + PUBLISH_PAUSE)
        });
        let resync = self.resync_at.filter(|_| self.dumps.is_empty());
        [
            publish,
            resync,
            self.review_at,
            self.neighbours.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// There are real servers with this address from now on, or no longer. Their next hops are kept
    /// known.
    pub fn change_server(&mut self, now: Instant, addr: Addr, is_there: bool) {
        if is_there {
            self.servers.insert(addr);
            self.fresh.insert(addr);
        } else if self.servers.remove(&addr) {
            self.fresh.remove(&addr);
            // Whether another needs its next hop takes a look at all of them.
            self.review_at.get_or_insert(now + REVIEW_PAUSE);
        }
    }

    /// A worker met a next hop without a MAC.
    pub fn resolve(&mut self, now: Instant, link: LinkId, addr: Addr) {
        self.neighbours.demand(now, (link, addr));
    }

    /// Whether everything was read once.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Whether the MAC of every next hop to a real server is known.
    pub fn is_warm(&self) -> bool {
        self.neighbours.is_warm()
    }

    /// The table that workers were told last.
    pub fn fib(&self) -> &Arc<Fib> {
        &self.published
    }

    /// Numbers of routes and of known neighbours.
    pub fn counts(&self) -> (usize, usize) {
        (self.published.len(), self.neighbours.len())
    }

    /// The addresses of this host: of its devices, and those of `local` routes of up to 1024
    /// addresses.
    pub fn local_addresses(&self) -> BTreeSet<IpAddr> {
        let prefixes = self.routes.local().filter_map(|(prefix, _)| hosts(prefix));
        prefixes.flatten().map(IpAddr::from).collect()
    }

    /// Who holds an address of this host.
    pub fn holder(&self, addr: Addr) -> Option<Holder> {
        let holding = self
            .routes
            .local()
            .filter(|(prefix, _)| prefix.contains(addr));
        holding
            .max_by_key(|(prefix, _)| prefix.len())
            .map(|(_, index)| self.links.holder(index))
    }

    /// All that a new worker has to be told.
    pub fn snapshot(&self) -> Vec<Update> {
        let links = self.links.all().map(|(id, link)| Update::PutLink(id, link));
        let macs = self
            .macs
            .iter()
            .map(|(p, macs)| Update::PutMacs(*p, macs.as_slice().into()));
        let known = self
            .neighbours
            .all()
            .map(|(id, n)| Update::PutNeighbour(id, n));
        let fib = Update::PutFib(Arc::clone(&self.published));
        links.chain(macs).chain(known).chain([fib]).collect()
    }

    fn message(&mut self, now: Instant, message: Message, dumped: bool, out: &mut Vec<Action>) {
        match message {
            Message::Link(device) => self.put_device(now, device, dumped, out),
            Message::LinkGone(index) => {
                if self.links.remove(index).is_some() {
                    self.renumber(now, out);
                    self.check_table(out);
                    self.resync(now);
                }
            }
            Message::Address(address) => {
                self.seen_addresses.insert(address_id(&address));
                self.retarget |= self.addresses.put(address);
            }
            Message::AddressGone(address) => self.address_gone(now, &address),
            Message::Route(route, placement) if self.mirrors(route.table) => {
                let world = world(&self.links, &self.addresses, &self.lenders);
                self.routes.put(&route, placement, dumped, &world);
            }
            Message::RouteGone(route) if self.mirrors(route.table) => {
                let world = world(&self.links, &self.addresses, &self.lenders);
                self.routes.remove(&route, &world);
            }
            Message::Route(..) | Message::RouteGone(_) => {}
            Message::NextHop(id, object) => self.put_object(id, object),
            Message::NextHopGone(id) => {
                self.routes.remove_object(id);
                self.retarget = true;
                // The kernel removes the routes of an object with it, and does not say so.
                self.resync(now);
            }
            Message::Neighbour(n) => {
                if let Some(link) = self.links.link(n.index) {
                    self.change_neighbours(out, |all, changes| {
                        all.observe(now, (link, n.addr), n.state, changes);
                    });
                }
            }
            Message::NeighbourGone(n) => {
                if let Some(link) = self.links.link(n.index) {
                    self.change_neighbours(out, |all, changes| {
                        all.forgotten(now, (link, n.addr), changes);
                    });
                }
            }
            Message::Rule(rule) => self.put_rule(&rule, out),
            Message::RuleGone(rule) => {
                let gone = self.rules.remove(&rule, self.number);
                out.extend(gone.map(Action::WarningGone));
            }
        }
    }

    fn put_device(&mut self, now: Instant, device: Device, dumped: bool, out: &mut Vec<Action>) {
        let index = device.index;
        let (up, master) = (device.admin_up, device.master);
        let table = self.number;
        let old = self.links.put(device);
        // Also by a notice: a device made while the list was under way may not be in it.
        self.seen_devices.insert(index);
        if dumped {
            return;
        }
        let silent_loss = old.is_some_and(|old| (old.admin_up && !up) || old.master != master);
        self.renumber(now, out);
        if table != self.number {
            self.check_table(out);
            self.resync(now);
        }
        if silent_loss {
            self.resync(now);
        }
    }

    fn put_object(&mut self, id: u32, object: NextHopObject) {
        self.routes.put_object(id, object);
        self.retarget = true;
    }

    fn put_rule(&mut self, rule: &Rule, out: &mut Vec<Action>) {
        let warning = self.rules.put(rule, self.number);
        out.extend(warning.map(Action::Warning));
    }

    fn address_gone(&mut self, now: Instant, address: &Address) {
        if !self.addresses.remove(address) {
            return;
        }
        self.retarget = true;
        let last = !self.addresses.any(address.index, Family::V4);
        if address.addr.family() == Family::V4 && (last || self.routes.is_source(address.addr)) {
            self.resync(now);
        }
    }

    /// Finds out what the devices' links are now, and tells.
    fn renumber(&mut self, now: Instant, out: &mut Vec<Action>) {
        let (changed, warnings) = self.links.renumber();
        self.number = self.find_table();
        self.lenders = self.find_lenders();
        for (id, link) in changed {
            out.push(Action::Update(Update::PutLink(id, link)));
            if link.up {
                self.neighbours.link_up(now, id);
            } else if self.links.index(id).is_none() {
                self.change_neighbours(out, |all, changes| all.link_gone(id, changes));
            }
        }
        for port in self.ports.clone() {
            let macs = self.links.macs(port);
            if !macs.is_empty() && self.macs.get(&port) != Some(&macs) {
                out.push(Action::Update(Update::PutMacs(
                    port,
                    macs.as_slice().into(),
                )));
                self.macs.insert(port, macs);
            }
        }
        out.extend(warnings.into_iter().map(Action::Warning));
        (self.retarget, self.rewant) = (true, true);
    }

    fn change_neighbours(
        &mut self,
        out: &mut Vec<Action>,
        change: impl FnOnce(&mut Neighbours, &mut Vec<neighbours::Change>),
    ) {
        const FULL: &str = "the neighbour table is full: raise workers.max_neighbours";
        let mut changes = Vec::new();
        change(&mut self.neighbours, &mut changes);
        out.extend(changes.into_iter().map(|change| {
            Action::Update(match change {
                neighbours::Change::Put(id, neighbour) => Update::PutNeighbour(id, neighbour),
                neighbours::Change::Delete(id) => Update::DeleteNeighbour(id),
                neighbours::Change::Fail((link, addr)) => Update::FailNeighbour(link, addr),
            })
        }));
        self.warn(FULL, self.neighbours.is_full(), out);
    }

    fn publish(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.published = Arc::new(self.routes.fib().clone());
        self.published_at = Some(now);
        (self.unpublished, self.rewant) = (false, true);
        out.push(Action::Update(Update::PutFib(Arc::clone(&self.published))));
    }

    fn ask(&mut self, now: Instant, out: &mut Vec<Action>) {
        let mut hops = Vec::new();
        self.change_neighbours(out, |all, changes| hops = all.due(now, ASK_BUDGET, changes));
        for (link, addr) in hops {
            if let (true, Some(index)) = (self.links.is_up(link), self.links.index(link)) {
                out.push(Action::Ask(index, addr));
            }
        }
    }

    /// Warns of `local` routes that make no virtual address live because they are too wide.
    fn review_local(&mut self, out: &mut Vec<Action>) {
        const START: &str = "local route ";
        let wide: BTreeSet<String> = self
            .routes
            .local()
            .filter(|(prefix, _)| hosts(*prefix).is_none() && !is_loopback(*prefix))
            .map(|(prefix, _)| {
                format!(
                    "{START}{prefix} is too wide to make virtual addresses live: \
                     split it into routes of at most {MAX_LOCAL} addresses"
                )
            })
            .collect();
        let gone: Vec<String> = self
            .warnings
            .iter()
            .filter(|w| w.starts_with(START) && !wide.contains(*w))
            .cloned()
            .collect();
        for line in wide {
            self.warn(&line, true, out);
        }
        for line in gone {
            self.warn(&line, false, out);
        }
    }

    /// Raises or takes back a warning.
    fn warn(&mut self, line: &str, holds: bool, out: &mut Vec<Action>) {
        if holds && !self.warnings.contains(line) {
            self.warnings.insert(line.into());
            out.push(Action::Warning(line.into()));
        } else if !holds && self.warnings.remove(line) {
            out.push(Action::WarningGone(line.into()));
        }
    }

    fn resync(&mut self, now: Instant) {
        self.resync_at.get_or_insert(now + RESYNC_PAUSE);
    }

    fn dump_end(&mut self, now: Instant, complete: bool, out: &mut Vec<Action>) {
        let Some(ended) = self.dumps.front().copied() else {
            return;
        };
        if self.restart {
            return self.restart_dumps(out);
        }
        if !complete {
            return self.dump(ended, out);
        }
        self.dumps.pop_front();
        match ended {
            Dump::Links => {
                let seen = std::mem::take(&mut self.seen_devices);
                self.links.retain(|index| seen.contains(&index));
                self.renumber(now, out);
                self.check_table(out);
                let list = self.route_dumps();
                let rest = [
                    Dump::Neighbours,
                    Dump::Rules(Family::V4),
                    Dump::Rules(Family::V6),
                ];
                self.dumps
                    .extend([Dump::Addresses].into_iter().chain(list).chain(rest));
            }
            Dump::NextHops => {
                self.routes.end_object_dump(self.object_epoch);
                self.retarget = true;
            }
            Dump::Addresses => {
                let seen = std::mem::take(&mut self.seen_addresses);
                self.addresses.retain(|a| seen.contains(&address_id(a)));
                self.retarget = true;
            }
            Dump::Routes(..) => {}
            Dump::Neighbours => self.change_neighbours(out, |all, changes| {
                all.end_dump(now, changes);
            }),
            Dump::Rules(_) => {}
        }
        let was_route = matches!(ended, Dump::Routes(..) | Dump::NextHops);
        if was_route && !self.dumps.iter().any(|d| matches!(d, Dump::Routes(..))) {
            self.routes.end_dump();
        }
        match self.dumps.front().copied() {
            Some(next) => self.dump(next, out),
            None => self.synced = true,
        }
    }

    fn restart_dumps(&mut self, out: &mut Vec<Action>) {
        self.restart = false;
        self.resync_at = None;
        self.dumps.clear();
        self.dump(Dump::Links, out);
    }

    fn run(&mut self, list: Vec<Dump>, out: &mut Vec<Action>) {
        self.dumps.extend(list);
        if let Some(first) = self.dumps.front().copied() {
            self.dump(first, out);
        }
    }

    /// Starts a dump, or starts it again.
    fn dump(&mut self, dump: Dump, out: &mut Vec<Action>) {
        if self.dumps.front() != Some(&dump) {
            self.dumps.push_front(dump);
        }
        match dump {
            Dump::Links => self.seen_devices.clear(),
            Dump::Addresses => self.seen_addresses.clear(),
            Dump::NextHops => {
                self.object_epoch = self.routes.epoch();
                self.routes.begin_dump();
            }
            Dump::Neighbours => self.neighbours.begin_dump(),
            Dump::Rules(Family::V4) => {
                out.extend(self.rules.clear().into_iter().map(Action::WarningGone));
            }
            Dump::Routes(..) | Dump::Rules(Family::V6) => {}
        }
        out.push(Action::Dump(dump));
    }

    fn route_dumps(&self) -> Vec<Dump> {
        let is_vrf = matches!(self.table, KernelTable::Vrf(_));
        let local = Some(TABLE_LOCAL).filter(|_| !is_vrf);
        let tables = local.into_iter().chain(self.number);
        let routes =
            tables.flat_map(|t| [Dump::Routes(Family::V4, t), Dump::Routes(Family::V6, t)]);
        [Dump::NextHops].into_iter().chain(routes).collect()
    }

    fn check_table(&mut self, out: &mut Vec<Action>) {
        if let KernelTable::Vrf(name) = self.table.clone() {
            let line = format!(
                "VRF device {name} does not exist: no route is mirrored until \
                 `ip link add {name} type vrf table N`"
            );
            self.warn(&line, self.number.is_none(), out);
        }
    }

    fn find_table(&self) -> Option<u32> {
        match &self.table {
            KernelTable::Main => Some(TABLE_MAIN),
            KernelTable::Number(number) => Some(*number),
            KernelTable::Vrf(name) => match self.links.by_name(name)?.kind {
                DeviceKind::Vrf { table } => Some(table),
                _ => None,
            },
        }
    }

    fn mirrors(&self, table: u32) -> bool {
        // In a VRF, the addresses of its devices are in its own table.
        let with_local = !matches!(self.table, KernelTable::Vrf(_));
        Some(table) == self.number || (with_local && table == TABLE_LOCAL)
    }

    /// Devices whose addresses serve as source where a device has none: the loopback (or VRF)
    /// device and the twins.
    fn find_lenders(&self) -> Vec<IfIndex> {
        let first = match &self.table {
            KernelTable::Vrf(name) => self.links.by_name(name),
            _ => self.links.by_name("lo"),
        };
        let twins = self
            .ports
            .iter()
            .filter_map(|port| self.links.index(LinkId(port.0)));
        first.map(|d| d.index).into_iter().chain(twins).collect()
    }
}

fn world<'a>(links: &'a Links, addresses: &'a Addresses, lenders: &'a [IfIndex]) -> World<'a> {
    World {
        links,
        addresses,
        lenders,
    }
}

fn address_id(address: &Address) -> (IfIndex, Addr, u8) {
    (address.index, address.addr, address.prefix_len)
}

/// The addresses of a prefix, if they are not too many.
fn hosts(prefix: Prefix) -> Option<impl Iterator<Item = Addr>> {
    let bits = match prefix.addr().family() {
        Family::V4 => 32 - prefix.len(),
        Family::V6 => 128 - prefix.len(),
    };
    let count = 1u32
        .checked_shl(u32::from(bits))
        .filter(|n| *n <= MAX_LOCAL)?;
    let first = prefix.addr();
    Some((0..count).map(move |i| match first.family() {
        Family::V4 => Addr::v4((first.bits_v4() + i).to_be_bytes()),
        Family::V6 => Addr::v6((u128::from_be_bytes(first.octets()) + u128::from(i)).to_be_bytes()),
    }))
}

fn is_loopback(prefix: Prefix) -> bool {
    IpAddr::from(prefix.addr()).is_loopback()
}
