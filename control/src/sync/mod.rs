//! Connection synchronisation: the sockets and the clock around `dataplane::sync`.
//!
//! A master's thread empties the outboxes of the workers into messages and sends them; a backup's
//! thread reads messages and hands what it understood to the control loop, which gives it to the
//! workers as commands. Neither the workers nor the loop ever wait for a socket. What nodes of RVS do
//! for each other besides is in [`peer`].

mod alarms;
pub mod auth;
mod backup;
mod master;
mod pack;
pub mod peer;
mod socket;

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use dataplane::settings::Settings;
use dataplane::sync::wire::Version;
use dataplane::sync::{Batch, Collection, Outbox};
use dataplane::time::Instant;
use mio::Waker;

use self::alarms::Alarms;
use self::auth::{KeyFiles, Keys, Opener, Purpose, Sealer, Why};
use self::socket::Change;
use crate::api::{DaemonSpec, DaemonView, ErrorKind, PeerView, SyncRole};
use crate::clock;
use crate::model::Refusal;
use crate::notify::Event;
use crate::update::Update;
use crate::workers::{Ticket, Workers};

use self::peer::copies::Copies;
use self::peer::counted::{Receipts, SentBy};
use self::peer::link::{Link, Parts, Place, Sockets, View};
use self::peer::machine::Peer;

/// Batches that may wait for the workers. What does not fit is lost and counted.
const BATCHES: usize = 1024;

/// Batches of copies that may wait for the workers. The peer's stream waits for them.
const COPIES: usize = 256;

/// Part of a worker's ring that announcements may fill, and copies, which nobody hurries.
const SHARE: usize = 2;
const COPIES_SHARE: usize = 8;

/// Largest UDP payload over IPv4.
const MAX_PAYLOAD: u16 = 65535 - 28;

/// Least `--sync-maxlen` of a backup.
const LEAST_BACKUP: u16 = 1024;

/// What a file's `[sync]` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// When which half runs.
    pub role: Role,
    /// How; the role in it does not count.
    pub daemon: Option<DaemonSpec>,
    /// Keys of all daemons, also of those that `rvsadm` starts.
    pub keys: KeyFiles,
}

/// When which half runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Neither, unless `rvsadm` starts one.
    #[default]
    None,
    /// The master.
    Master,
    /// The backup.
    Backup,
    /// Both at once.
    Both,
    /// As a virtual router is: master with it, backup otherwise.
    Vrrp(String),
}

impl Plan {
    /// The daemons that are to run. `is_master`: the state of a virtual router by its name.
    fn wanted(&self, is_master: impl Fn(&str) -> bool) -> Vec<DaemonSpec> {
        use SyncRole::{Backup, Master};
        let roles: &[SyncRole] = match &self.role {
            Role::None => &[],
            Role::Master => &[Master],
            Role::Backup => &[Backup],
            Role::Both => &[Master, Backup],
            Role::Vrrp(name) if is_master(name) => &[Master],
            Role::Vrrp(_) => &[Backup],
        };
        let daemon = self.daemon.iter();
        daemon
            .flat_map(|daemon| {
                roles.iter().map(|&role| DaemonSpec {
                    role,
                    ..daemon.clone()
                })
            })
            .collect()
    }
}

/// Counters of a daemon, written by its thread.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    messages: AtomicU64,
    entries: AtomicU64,
    lost: AtomicU64,
    refused: AtomicU64,
    unauthentic: Unauthentic,
    /// Its interface is not there.
    is_cut: AtomicBool,
    /// How often it went.
    cuts: AtomicU64,
}

impl Counts {
    /// Looks at the interface and tells of a change; other sockets if it came back.
    fn look(&self, interface: &mut socket::Opener, role: SyncRole) -> Option<Vec<UdpSocket>> {
        let (name, state) = (interface.interface().to_owned(), role.name());
        match interface.look() {
            Change::None => None,
            Change::Gone => {
                self.is_cut.store(true, Relaxed);
                count(&self.cuts, 1);
                tracing::warn!(
                    event = "sync",
                    state,
                    "interface {name} is gone; the {state} daemon waits for it to come back"
                );
                None
            }
            Change::Back(sockets) => {
                self.is_cut.store(false, Relaxed);
                tracing::info!(event = "sync", state, "interface {name} is back");
                Some(sockets)
            }
            Change::Failed(e) => {
                tracing::debug!(event = "sync", state, reason = %e, "sockets on {name}");
                None
            }
        }
    }
}

impl Counts {
    /// New sockets cannot be watched: until they can, it is as if the interface were not there.
    fn refused_sockets(&self, interface: &mut socket::Opener, why: &io::Error) {
        self.is_cut.store(true, Relaxed);
        tracing::warn!(
            event = "sync",
            reason = %why,
            "new sockets on {} cannot be watched; they are opened again in a second",
            interface.interface()
        );
        interface.again();
    }
}

/// Between two looks at the interface.
const LOOK: Duration = Duration::from_secs(1);

/// Messages that were refused because of their trailer.
#[derive(Debug, Default)]
struct Unauthentic {
    unsigned: AtomicU64,
    forged: AtomicU64,
    stale: AtomicU64,
    replayed: AtomicU64,
}

impl Unauthentic {
    fn count(&self, why: Why) {
        let counter = match why {
            Why::Unsigned => &self.unsigned,
            Why::Key | Why::Forged => &self.forged,
            Why::Stale => &self.stale,
            Why::Replayed | Why::Crowded => &self.replayed,
        };
        count(counter, 1);
    }

    /// Those that will go on until somebody does something.
    fn lasting(&self) -> u64 {
        let counters = [&self.unsigned, &self.forged, &self.stale];
        counters.iter().map(|counter| counter.load(Relaxed)).sum()
    }
}

fn count(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// A daemon that runs.
struct Running {
    spec: DaemonSpec,
    maxlen: u16,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    waker: Option<Arc<Waker>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(waker) = &self.waker {
            let _ = waker.wake();
        }
        if let Some(thread) = self.thread.take() {
            // It looks at the flag every few milliseconds, and never blocks.
            let _ = thread.join();
        }
    }
}

/// See the module.
pub struct Sync {
    /// Rung when batches are there.
    control: Arc<Waker>,
    /// By worker; kept from one run to the next.
    outboxes: Vec<Arc<Outbox>>,
    master: Option<Running>,
    backup: Option<Running>,
    batches: (Sender<Arc<Batch>>, Receiver<Arc<Batch>>),
    /// Taken from there, but the workers had no room.
    waiting: Option<Arc<Batch>>,
    /// The same of copies.
    copied: (Sender<Arc<Batch>>, Receiver<Arc<Batch>>),
    copied_waiting: Option<Arc<Batch>>,
    /// Copies that peers want of us.
    copies: Copies,
    /// Where other nodes of RVS are spoken to.
    links: Vec<Link>,
    /// Masters that were started.
    runs: u32,
    /// Whether the master writes the old format.
    is_old: Arc<AtomicBool>,
    plan: Plan,
    /// Virtual routers that are master here.
    masters: Vec<String>,
    keys: Arc<Keys>,
    /// What is wrong with the key files.
    wrong_keys: Vec<String>,
    alarms: Alarms,
}

impl Sync {
    /// With no daemon. `control` is rung when something was received.
    pub fn new(control: Arc<Waker>) -> Sync {
        Sync {
            control,
            outboxes: Vec::new(),
            master: None,
            backup: None,
            batches: bounded(BATCHES),
            waiting: None,
            copied: bounded(COPIES),
            copied_waiting: None,
            copies: Copies::default(),
            links: Vec::new(),
            runs: 0,
            is_old: Arc::default(),
            plan: Plan::default(),
            masters: Vec::new(),
            keys: Arc::default(),
            wrong_keys: Vec::new(),
            alarms: Alarms::default(),
        }
    }

    fn place(&mut self, role: SyncRole) -> &mut Option<Running> {
        match role {
            SyncRole::Master => &mut self.master,
            SyncRole::Backup => &mut self.backup,
        }
    }

    /// Starts a daemon. What the operator should know although it worked.
    ///
    /// # Errors
    /// It runs already, there is no such device, or its sockets cannot be opened.
    pub fn start(
        &mut self,
        spec: &DaemonSpec,
        settings: &Settings,
        workers: &mut Workers,
    ) -> Result<Vec<String>, Refusal> {
        let name = spec.role.name();
        if self.place(spec.role).is_some() {
            let told = format!("a {name} daemon runs already; stop it first");
            return Err(Refusal::new(ErrorKind::DaemonRunning, told));
        }
        if !self.wrong_keys.is_empty() && self.keys.ring().current.is_none() {
            // Never in clear in place of what was asked for.
            let told = format!("no {name} daemon without its keys: {}", self.wrong_keys[0]);
            return Err(Refusal::new(ErrorKind::Failed, told));
        }
        let device = socket::Device::find(&spec.interface).map_err(|_| {
            let told = format!("interface \"{}\" is not there; see ip link", spec.interface);
            Refusal::new(ErrorKind::NoDevice, told)
        })?;
        let maxlen = maxlen(spec, device.mtu);
        let mut warnings = Vec::new();
        let headers = headers(spec.group);
        if spec.role == SyncRole::Master && u32::from(maxlen) + headers > device.mtu {
            warnings.push(format!(
                "messages of {maxlen} bytes do not fit the MTU of {} ({}) and are cut; set maxlen \
                 to {}",
                spec.interface,
                device.mtu,
                device.mtu.saturating_sub(headers)
            ));
        }
        let ports = settings.sync_ports.clamp(1, 64) as u16;
        let counts = Arc::new(Counts::default());
        let stop = Arc::new(AtomicBool::new(false));
        let failed = |e: io::Error| {
            let told = format!(
                "sockets of the {name} daemon on {}: {e}; check its addresses and that nobody \
                 else has port {}",
                spec.interface, spec.port
            );
            Refusal::new(ErrorKind::Failed, told)
        };
        let buffer = settings.sync_sock_size as usize;
        let link = self.link(spec, &device, workers, &mut warnings);
        let mut running = Running {
            spec: spec.clone(),
            maxlen,
            counts: Arc::clone(&counts),
            stop: Arc::clone(&stop),
            waker: None,
            thread: None,
        };
        match spec.role {
            SyncRole::Master => {
                let opened = socket::Opener::open(spec, &device, ports, buffer);
                let (interface, sockets) = opened.map_err(failed)?;
                if self.outboxes.len() != workers.len() {
                    self.outboxes = (0..workers.len()).map(|_| Arc::default()).collect();
                }
                self.note_settings(settings);
                let seal = |_| Sealer::new(Arc::clone(&self.keys), Purpose::Entries);
                let sealers: Result<Vec<_>, _> = (0..ports).map(seal).collect();
                self.runs += 1;
                let sent = Arc::new(SentBy::new(ports.into()));
                let master = master::Master {
                    sockets,
                    interface,
                    sealers: sealers.map_err(|_| failed(io::Error::other("no random numbers")))?,
                    outboxes: self.outboxes.clone(),
                    syncid: spec.syncid,
                    maxlen,
                    queue: settings.sync_qlen_max as usize,
                    is_old: Arc::clone(&self.is_old),
                    counts,
                    sent: Arc::clone(&sent),
                    stop,
                };
                running.thread = Some(master.start().map_err(failed)?);
                workers.send(&Update::StartMaster(self.outboxes.clone().into()));
                if let Some(link) = link.and_then(|n| self.links.get(n)) {
                    link.change(|running| running.master = Some((self.runs, sent)));
                }
            }
            SyncRole::Backup => {
                let opened = socket::Opener::open(spec, &device, ports, buffer);
                let (interface, sockets) = opened.map_err(failed)?;
                let peer = (!spec.group.is_multicast()).then_some(spec.group);
                let link = link.and_then(|n| self.links.get(n));
                let receipts = link.map(|link| Arc::new(Receipts::new(Arc::clone(link.waker()))));
                let backup = backup::Backup {
                    sockets,
                    interface,
                    opener: Opener::new(Arc::clone(&self.keys), Purpose::Entries),
                    syncid: spec.syncid,
                    peer,
                    batches: self.batches.0.clone(),
                    control: Arc::clone(&self.control),
                    counts,
                    receipts: receipts.clone(),
                    stop,
                };
                let (thread, waker) = backup.start().map_err(failed)?;
                if let (Some(link), Some(receipts)) = (link, receipts) {
                    let backup = Some((receipts, Arc::clone(&waker)));
                    link.change(|running| running.backup = backup);
                }
                (running.thread, running.waker) = (Some(thread), Some(waker));
            }
        }
        tracing::info!(
            event = "sync",
            state = name,
            syncid = spec.syncid,
            group = %spec.group,
            port = spec.port,
            "synchronisation daemon started on {}",
            spec.interface
        );
        *self.place(spec.role) = Some(running);
        Ok(warnings)
    }

    /// The link of a daemon, by its number; made if there is none. Without it a daemon does what a
    /// kernel's does.
    fn link(
        &mut self,
        spec: &DaemonSpec,
        device: &socket::Device,
        workers: &Workers,
        warnings: &mut Vec<String>,
    ) -> Option<usize> {
        if !spec.peers {
            return None;
        }
        let place = Place::of(spec);
        let found = self.links.iter().position(|link| *link.place() == place);
        if found.is_some() {
            return found;
        }
        let started = Sockets::open(&place, device).and_then(|sockets| {
            Link::start(Parts {
                place,
                sockets,
                device: *device,
                batches: self.copied.0.clone(),
                desk: self.copies.desk(),
                control: Arc::clone(&self.control),
                counters: workers.counters().to_vec(),
                keys: Arc::clone(&self.keys),
            })
        });
        match started {
            Ok(link) => {
                self.links.push(link);
                Some(self.links.len() - 1)
            }
            Err(e) => {
                warnings.push(format!(
                    "nodes of RVS are not spoken to on {}: {e}; check that nobody else has port \
                     {}, or set peers = false",
                    spec.interface,
                    peer::port_beside(spec.port)
                ));
                None
            }
        }
    }

    /// Leaves peers that no daemon needs.
    fn leave_idle(&mut self) {
        self.links.retain(|link| !link.is_idle());
    }

    /// Stops a daemon.
    ///
    /// # Errors
    /// It does not run.
    pub fn stop(&mut self, role: SyncRole, workers: &mut Workers) -> Result<(), Refusal> {
        self.end(role, workers)?;
        self.leave_idle();
        Ok(())
    }

    fn end(&mut self, role: SyncRole, workers: &mut Workers) -> Result<(), Refusal> {
        let Some(running) = self.place(role).take() else {
            let told = format!("no {} daemon runs", role.name());
            return Err(Refusal::new(ErrorKind::NoDaemon, told));
        };
        let place = Place::of(&running.spec);
        if let Some(link) = self.links.iter().find(|link| *link.place() == place) {
            link.change(|running| match role {
                SyncRole::Master => running.master = None,
                SyncRole::Backup => running.backup = None,
            });
        }
        drop(running);
        if role == SyncRole::Master {
            workers.send(&Update::StopMaster);
            // What was not sent is not sent later.
            for outbox in &self.outboxes {
                while outbox.take(|_, _| ()) {}
            }
        }
        let state = role.name();
        tracing::info!(event = "sync", state, "synchronisation daemon stopped");
        Ok(())
    }

    /// Takes over settings that the master's thread goes by.
    pub fn note_settings(&self, settings: &Settings) {
        self.is_old
            .store(settings.sync.version == Version::V0, Relaxed);
    }

    /// Whether a backup runs.
    pub fn has_backup(&self) -> bool {
        self.backup.is_some()
    }

    /// What runs by command, as it was started: what the file asks for is not among it.
    pub fn by_command(&self) -> Vec<DaemonSpec> {
        let running = [&self.master, &self.backup].into_iter().flatten();
        match self.plan.role {
            Role::None => running.map(|running| running.spec.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// Starts what ran by command in the process before, unless the file asks for others now.
    pub fn go_on(
        &mut self,
        daemons: &[DaemonSpec],
        settings: &Settings,
        workers: &mut Workers,
    ) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.plan.role != Role::None {
            return complaints;
        }
        for daemon in daemons {
            match self.start(daemon, settings, workers) {
                Ok(warnings) => complaints.extend(warnings),
                Err(refusal) => complaints.push(refusal.message),
            }
        }
        complaints
    }

    /// Daemons that run, the master first.
    pub fn views(&self) -> Vec<DaemonView> {
        [&self.master, &self.backup]
            .into_iter()
            .flatten()
            .map(|running| {
                let Running { spec, counts, .. } = running;
                let forgotten = match spec.role {
                    SyncRole::Master => self.outboxes.iter().map(|o| o.lost.get()).sum(),
                    SyncRole::Backup => 0,
                };
                let link = self.link_of(spec).map(Link::view).unwrap_or_default();
                DaemonView {
                    role: spec.role,
                    interface: spec.interface.clone(),
                    syncid: spec.syncid,
                    maxlen: running.maxlen,
                    group: spec.group,
                    port: spec.port,
                    ttl: spec.ttl,
                    messages: counts.messages.load(Relaxed),
                    entries: counts.entries.load(Relaxed),
                    lost: forgotten + counts.lost.load(Relaxed),
                    refused: counts.refused.load(Relaxed),
                    authenticated: self.keys.ring().current.is_some(),
                    unsigned: counts.unauthentic.unsigned.load(Relaxed),
                    forged: counts.unauthentic.forged.load(Relaxed),
                    stale: counts.unauthentic.stale.load(Relaxed),
                    replayed: counts.unauthentic.replayed.load(Relaxed),
                    cuts: counts.cuts.load(Relaxed),
                    hellos_refused: link.refused.counts,
                    peers: peers(spec.role, &link),
                }
            })
            .collect()
    }

    fn link_of(&self, spec: &DaemonSpec) -> Option<&Link> {
        let place = Place::of(spec);
        self.links.iter().find(|link| *link.place() == place)
    }

    /// What is wrong and has not been put right, in lines for the operator.
    pub fn warnings(&self) -> Vec<String> {
        let cut = [&self.master, &self.backup].into_iter().flatten();
        let cut = cut.filter(|running| running.counts.is_cut.load(Relaxed));
        let cut = cut.map(|running| {
            let (role, interface) = (running.spec.role.name(), &running.spec.interface);
            format!("the {role} daemon's interface {interface} is not there")
        });
        let links = self.links.iter().flat_map(Link::warnings);
        self.wrong_keys
            .iter()
            .cloned()
            .chain(cut)
            .chain(links)
            .collect()
    }

    /// Whether a backup that runs knows what it can know: every master that is there has given its
    /// whole table.
    pub fn is_ready(&self) -> bool {
        self.links.iter().all(Link::is_ready)
    }

    /// A node that can go on with all connections of this one ([`Peer::is_in_step`]).
    pub fn standby(&self) -> Option<IpAddr> {
        let peers = self.links.iter().flat_map(|link| link.view().peers);
        let mut standby = peers.filter(Peer::is_in_step);
        standby.next().map(|peer| peer.at.ip())
    }

    /// Logs what happened on the links since the last call, and says which alarms began and ended.
    pub fn take_alarms(&mut self, now: Instant) -> Vec<Event> {
        for link in &self.links {
            for news in link.news() {
                news.log(link.place());
                self.alarms.note(link.place(), &news);
            }
        }
        if let Some(backup) = &self.backup {
            let refused = backup.counts.unauthentic.lasting();
            self.alarms.count(now, &backup.spec.interface, refused);
        }
        let places = self.links.iter().map(Link::place);
        self.alarms.settle(self.backup.is_some(), places);
        self.alarms.take()
    }

    /// Takes what workers copied for peers and asks them for more.
    pub fn tend(
        &mut self,
        now: Instant,
        collected: Vec<(Ticket, Box<Collection>)>,
        workers: &mut Workers,
    ) {
        for (ticket, collection) in collected {
            self.copies.collected(ticket, collection);
        }
        self.copies.advance(now, workers);
    }

    /// Gives the workers what was received, announcements first, as far as they have room; true if
    /// some waits.
    pub fn deliver(&mut self, workers: &mut Workers) -> bool {
        let announced = (&mut self.waiting, &self.batches.1, SHARE);
        let copied = (&mut self.copied_waiting, &self.copied.1, COPIES_SHARE);
        for (waiting, batches, share) in [announced, copied] {
            while let Some(batch) = waiting.take().or_else(|| batches.try_recv().ok()) {
                if let Err(batch) = workers.put_connections(batch, share) {
                    *waiting = Some(batch);
                    return true;
                }
            }
        }
        false
    }

    /// Runs what a file asks for from now on. Complaints about what did not work.
    pub fn follow(
        &mut self,
        plan: &Plan,
        settings: &Settings,
        workers: &mut Workers,
    ) -> Vec<String> {
        let waited = !self.wrong_keys.is_empty() && plan.role != Role::None;
        // The files may be others although their names are the same.
        let mut complaints = self.load_keys(&plan.keys, settings, workers);
        if self.plan != *plan || waited {
            self.plan = plan.clone();
            complaints.extend(self.arrange(settings, workers));
        }
        complaints
    }

    /// Reads the keys. If they are of no use, those of before stay in use.
    fn load_keys(
        &mut self,
        files: &KeyFiles,
        settings: &Settings,
        workers: &mut Workers,
    ) -> Vec<String> {
        self.wrong_keys.clear();
        let ring = match files.load() {
            Ok(ring) => ring,
            Err(wrong) => {
                self.wrong_keys = wrong.iter().map(ToString::to_string).collect();
                return self.wrong_keys.clone();
            }
        };
        let old = self.keys.ring();
        if *old == ring {
            return Vec::new();
        }
        tracing::info!(event = "sync", current = ?ring.current, previous = ?ring.previous, "keys");
        let is_other = old.current.is_some() != ring.current.is_some();
        self.keys.set(ring);
        let mut complaints = Vec::new();
        for role in [SyncRole::Master, SyncRole::Backup] {
            // Messages have less room with a trailer.
            if is_other && let Some(running) = self.place(role) {
                let spec = running.spec.clone();
                let _ = self.stop(role, workers);
                if let Err(refusal) = self.start(&spec, settings, workers) {
                    complaints.push(refusal.message);
                }
            }
        }
        complaints
    }

    /// A virtual router became master, or ceased to be it. Complaints about what did not work.
    pub fn router_changed(
        &mut self,
        name: &str,
        is_master: bool,
        settings: &Settings,
        workers: &mut Workers,
    ) -> Vec<String> {
        self.masters.retain(|other| other != name);
        if is_master {
            self.masters.push(name.to_owned());
        }
        match &self.plan.role {
            Role::Vrrp(router) if router == name => self.arrange(settings, workers),
            _ => Vec::new(),
        }
    }

    /// Stops what the plan does not want and starts what it wants.
    fn arrange(&mut self, settings: &Settings, workers: &mut Workers) -> Vec<String> {
        let wanted = self
            .plan
            .wanted(|name| self.masters.iter().any(|m| m == name));
        for role in [SyncRole::Master, SyncRole::Backup] {
            let place = self.place(role).as_ref();
            if place.is_some_and(|running| !wanted.contains(&running.spec)) {
                let _ = self.end(role, workers);
            }
        }
        let mut complaints = Vec::new();
        for spec in wanted {
            if self.place(spec.role).is_some() {
                continue;
            }
            match self.start(&spec, settings, workers) {
                Ok(warnings) => complaints.extend(warnings),
                Err(refusal) => complaints.push(refusal.message),
            }
        }
        self.leave_idle();
        complaints
    }
}

/// Other nodes on the link of a daemon that have the other half of it.
fn peers(role: SyncRole, link: &View) -> Vec<PeerView> {
    let now = clock::now();
    let others = link.peers.iter().filter(|peer| match role {
        SyncRole::Master => peer.hello.is_backup,
        SyncRole::Backup => peer.hello.is_master,
    });
    others.map(|peer| peer.view(now)).collect()
}

/// Bytes of IP and UDP headers.
fn headers(group: IpAddr) -> u32 {
    match group {
        IpAddr::V4(_) => 28,
        IpAddr::V6(_) => 48,
    }
}

/// `--sync-maxlen`, or what the kernel takes in its place.
fn maxlen(spec: &DaemonSpec, mtu: u32) -> u16 {
    let headers = headers(spec.group);
    match (spec.maxlen, spec.role) {
        (Some(asked), SyncRole::Master) => asked.clamp(1, MAX_PAYLOAD),
        (Some(asked), SyncRole::Backup) => asked.clamp(LEAST_BACKUP, MAX_PAYLOAD),
        (None, SyncRole::Master) => (1500 - headers) as u16,
        (None, SyncRole::Backup) => (mtu.clamp(1500, 65535) - headers) as u16,
    }
}

#[cfg(test)]
mod tests;
