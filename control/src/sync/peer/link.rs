//! The thread that has the sockets of the peers on one interface: it carries out what the
//! [machine](super::machine) decides.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use dataplane::counters::WorkerCounters;
use dataplane::sync::Batch;
use dataplane::time::Instant;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Protocol, Socket, Type};

use super::copies::Order;
use super::counted::{Receipts, SentBy};
use super::exchange::{Fetch, Giver, Serve, Step};
use super::frame::Ask;
use super::hello::{self, Hello};
use super::machine::{self, Input, Machine, Me, News, NotTaken, Output, Peer, Refusals, Roles};
use super::port_beside;
use super::record::Seals;
use crate::api::{DaemonSpec, SyncRole};
use crate::clock;
use crate::sync::auth::{self, Keys, Opener, Purpose, Sealer};
use crate::sync::socket::{self, Device};

const WAKER: Token = Token(0);
const HELLO: Token = Token(1);
const LISTENER: Token = Token(2);
const FETCH: Token = Token(3);
const FIRST_PEER: usize = 4;

/// Peers that may ask for copies at a time.
const MAX_SERVED: usize = 8;

/// Pause while something waits for the control loop.
const PAUSE: Duration = Duration::from_millis(1);

/// How often stalled streams are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// News that may wait for the control loop. It is rung with each.
const MAX_NEWS: usize = 256;

/// What a link is for: daemons with the same of all these share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Kernel interface.
    pub interface: String,
    /// Multicast group or peer.
    pub group: IpAddr,
    /// First UDP port of the synchronisation.
    pub port: u16,
    /// Group of balancers.
    pub syncid: u8,
    /// TTL of hellos.
    pub ttl: u8,
}

impl Place {
    /// Of a daemon.
    pub fn of(spec: &DaemonSpec) -> Place {
        Place {
            interface: spec.interface.clone(),
            group: spec.group,
            port: spec.port,
            syncid: spec.syncid,
            ttl: spec.ttl,
        }
    }

    /// What its own sockets are opened by.
    fn spec(&self) -> DaemonSpec {
        DaemonSpec {
            role: SyncRole::Backup,
            interface: self.interface.clone(),
            syncid: self.syncid,
            maxlen: None,
            group: self.group,
            port: port_beside(self.port),
            ttl: self.ttl,
            peers: true,
        }
    }
}

/// The sockets of a link.
pub struct Sockets {
    /// Hellos leave by it.
    pub sender: UdpSocket,
    /// Hellos come by it.
    pub receiver: UdpSocket,
    /// Peers connect to it.
    pub listener: std::net::TcpListener,
}

impl Sockets {
    /// Opens them, bound to the interface of a place.
    ///
    /// # Errors
    /// Of the system.
    pub fn open(place: &Place, device: &Device) -> io::Result<Sockets> {
        let spec = place.spec();
        let (domain, any): (Domain, IpAddr) = match spec.group {
            IpAddr::V4(_) => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
            IpAddr::V6(_) => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let listen = |port: u16| -> io::Result<Socket> {
            let kind = Type::STREAM.nonblocking().cloexec();
            let listener = Socket::new(domain, kind, Some(Protocol::TCP))?;
            listener.bind_device(Some(spec.interface.as_bytes()))?;
            listener.set_reuse_address(true)?;
            listener.bind(&SocketAddr::new(any, port).into())?;
            listener.listen(16)?;
            Ok(listener)
        };
        Ok(Sockets {
            sender: socket::sender(&spec, device, 0, 0)?,
            receiver: socket::receiver(&spec, device, 0, 0)?,
            // Somebody else may have the number; hellos say which it is.
            listener: listen(spec.port).or_else(|_| listen(0))?.into(),
        })
    }

    /// Has them watched.
    fn register(self, poll: &Poll) -> io::Result<(UdpSocket, mio::net::UdpSocket, TcpListener)> {
        self.listener.set_nonblocking(true)?;
        self.receiver.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(self.listener);
        let mut receiver = mio::net::UdpSocket::from_std(self.receiver);
        let registry = poll.registry();
        registry.register(&mut receiver, HELLO, Interest::READABLE)?;
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok((self.sender, receiver, listener))
    }
}

/// What runs here, for a link's thread.
#[derive(Clone, Default)]
pub struct Running {
    /// The master: which one it is, its group, and what it has sent.
    pub master: Option<(u32, Arc<SentBy>)>,
    /// The backup: what it has read, and how it is rung.
    pub backup: Option<(Arc<Receipts>, Arc<Waker>)>,
}

/// How a link stands.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Peers that were heard.
    pub peers: Vec<Peer>,
    /// The interface has its carrier.
    pub has_link: bool,
    /// Hellos that were not taken.
    pub refused: Refusals,
}

/// What the two sides of a link share.
struct Shared {
    running: Mutex<Running>,
    view: Mutex<View>,
    /// See [`Machine::is_ready`].
    is_ready: AtomicBool,
    stop: AtomicBool,
}

/// What a link works with.
pub struct Parts {
    /// Where it is.
    pub place: Place,
    /// Its sockets.
    pub sockets: Sockets,
    /// The interface that they are bound to.
    pub device: Device,
    /// For copies that come.
    pub batches: Sender<Arc<Batch>>,
    /// For copies that are wanted.
    pub desk: Sender<Order>,
    /// The control loop's.
    pub control: Arc<Waker>,
    /// To count connections.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// What everything is sealed with.
    pub keys: Arc<Keys>,
}

/// A link that runs. Dropped, it says goodbye and ends.
pub struct Link {
    place: Place,
    shared: Arc<Shared>,
    waker: Arc<Waker>,
    news: Receiver<News>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // It never blocks.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Starts the thread.
    ///
    /// # Errors
    /// Of epoll, or no room for a thread.
    pub fn start(parts: Parts) -> io::Result<Link> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (tell, news) = bounded(MAX_NEWS);
        let shared = Arc::new(Shared {
            running: Mutex::default(),
            view: Mutex::default(),
            is_ready: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let place = parts.place.clone();
        let driver = Driver::new(poll, parts, Arc::clone(&shared), Arc::clone(&waker), tell)?;
        let thread = std::thread::Builder::new().name("rvs-sync-peers".to_owned());
        Ok(Link {
            place,
            shared,
            waker,
            news,
            thread: Some(thread.spawn(move || driver.run())?),
        })
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Rung, it looks what is new.
    pub fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    /// What runs has changed.
    pub fn change(&self, change: impl FnOnce(&mut Running)) {
        change(&mut lock(&self.shared.running));
        self.shared.is_ready.store(false, Relaxed);
        let _ = self.waker.wake();
    }

    /// Whether neither a master nor a backup needs it.
    pub fn is_idle(&self) -> bool {
        let running = lock(&self.shared.running);
        running.master.is_none() && running.backup.is_none()
    }

    /// Whether this node knows what it can know ([`Machine::is_ready`]).
    pub fn is_ready(&self) -> bool {
        self.shared.is_ready.load(Relaxed)
    }

    /// How it stands.
    pub fn view(&self) -> View {
        lock(&self.shared.view).clone()
    }

    /// What happened since the last call.
    pub fn news(&self) -> impl Iterator<Item = News> + '_ {
        self.news.try_iter()
    }
}

/// The thread.
struct Driver {
    poll: Poll,
    place: Place,
    /// Number of the interface that the sockets are bound to.
    index: u32,
    sender: UdpSocket,
    receiver: mio::net::UdpSocket,
    listener: TcpListener,
    tcp_port: u16,
    hellos: Seals,
    streams: Seals,
    batches: Sender<Arc<Batch>>,
    desk: Sender<Order>,
    control: Arc<Waker>,
    counters: Vec<Arc<WorkerCounters>>,
    shared: Arc<Shared>,
    waker: Arc<Waker>,
    news: Sender<News>,
    machine: Machine,
    me: Me,
    node: u64,
    sequence: u64,
    running: Running,
    /// Peers whose count is awaited, with the number of the question.
    counting: Vec<(IpAddr, u64)>,
    dropped: u64,
    fetch: Option<Fetch>,
    served: BTreeMap<usize, Serve>,
    next_token: usize,
}

/// The MAC of an interface as a number; 0 if it has none.
fn mac_of(interface: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/address"));
    let digits = text.unwrap_or_default().trim().replace(':', "");
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// Whether an interface is up and has its carrier. It cannot be read while it is down.
fn has_carrier(interface: &str) -> bool {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/carrier"));
    text.is_ok_and(|text| text.trim() == "1")
}

impl Driver {
    fn new(
        poll: Poll,
        parts: Parts,
        shared: Arc<Shared>,
        waker: Arc<Waker>,
        news: Sender<News>,
    ) -> io::Result<Driver> {
        let (sender, receiver, listener) = parts.sockets.register(&poll)?;
        let tcp_port = listener.local_addr()?.port();
        let seals = |purpose| {
            let keys = || Arc::clone(&parts.keys);
            let sealer = Sealer::new(keys(), purpose);
            let opener = Opener::new(keys(), purpose);
            sealer.map(|sealer| Seals { sealer, opener })
        };
        let (hellos, streams) = seals(Purpose::Hello)
            .and_then(|hellos| Ok((hellos, seals(Purpose::Stream)?)))
            .map_err(|_| io::Error::other("the system has no random numbers"))?;
        let me = Me {
            syncid: parts.place.syncid,
            boot: RandomState::new().build_hasher().finish(),
        };
        Ok(Driver {
            poll,
            node: mac_of(&parts.place.interface),
            place: parts.place,
            index: parts.device.index,
            sender,
            receiver,
            listener,
            tcp_port,
            hellos,
            streams,
            batches: parts.batches,
            desk: parts.desk,
            control: parts.control,
            counters: parts.counters,
            shared,
            waker,
            news,
            machine: Machine::new(clock::now(), me),
            me,
            sequence: 0,
            running: Running::default(),
            counting: Vec::new(),
            dropped: 0,
            fetch: None,
            served: BTreeMap::new(),
            next_token: FIRST_PEER,
        })
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(64);
        let mut busy = false;
        while !self.shared.stop.load(Relaxed) {
            let wait = self.wait(clock::now(), busy);
            if let Err(e) = self.poll.poll(&mut events, Some(wait))
                && e.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(reason = %e, "the peers of synchronisation are left: epoll failed");
                return;
            }
            let now = clock::now();
            self.follow_running(now);
            self.follow_counts(now);
            self.read_hellos(now);
            self.accept(now);
            if now >= self.machine.next_timeout() {
                self.follow_interface();
                let link = Input::Link(has_carrier(&self.place.interface));
                self.handle(now, link);
                self.handle(now, Input::Timer);
            }
            busy = self.step_fetch(now);
            busy |= self.step_served(now);
            *lock(&self.shared.view) = View {
                peers: self.machine.peers().cloned().collect(),
                has_link: self.machine.has_link(),
                refused: self.machine.refused().clone(),
            };
            let is_ready = self.machine.is_ready(now);
            if self.shared.is_ready.swap(is_ready, Relaxed) != is_ready {
                let _ = self.control.wake();
            }
        }
        self.say_hello(true);
    }

    fn wait(&self, now: Instant, busy: bool) -> Duration {
        let due = self.machine.next_timeout().since(now);
        let has_streams = self.fetch.is_some() || !self.served.is_empty();
        match (busy, has_streams) {
            (true, _) => due.min(PAUSE),
            (false, true) => due.min(LOOK),
            (false, false) => due,
        }
    }

    fn handle(&mut self, now: Instant, input: Input) {
        for output in self.machine.handle(now, input) {
            match output {
                Output::Hello => self.say_hello(false),
                Output::Count(from) => self.ask_count(from),
                Output::Fetch { at, syncid, want } => {
                    let boot = self.me.boot;
                    let ask = Ask { syncid, boot, want };
                    if let Err(e) = self.begin_fetch(now, at, ask) {
                        self.handle(now, Input::Fetched(Err(e.to_string())));
                    }
                }
                Output::Tell(news) => {
                    // Nobody is kept waiting; what is lost was counted.
                    let _ = self.news.try_send(news);
                    let _ = self.control.wake();
                }
            }
        }
    }

    /// Sockets stay bound to an interface that was removed: one that comes in its place gets its
    /// own.
    fn follow_interface(&mut self) {
        let Ok(device) = Device::find(&self.place.interface) else {
            return;
        };
        if device.index == self.index {
            return;
        }
        let opened = Sockets::open(&self.place, &device);
        let Ok((sender, receiver, listener)) = opened.and_then(|s| s.register(&self.poll)) else {
            // The next look tries again: it may have no address yet.
            return;
        };
        self.tcp_port = listener.local_addr().map_or(0, |addr| addr.port());
        (self.sender, self.receiver, self.listener) = (sender, receiver, listener);
        self.index = device.index;
    }

    fn follow_running(&mut self, now: Instant) {
        self.running = lock(&self.shared.running).clone();
        if self.running.backup.is_none() {
            self.fetch = None;
            self.counting.clear();
        }
        let roles = Roles {
            master: self.running.master.is_some(),
            backup: self.running.backup.is_some(),
        };
        self.handle(now, Input::Roles(roles));
    }

    fn say_hello(&mut self, leaves: bool) {
        self.sequence += 1;
        let master = self.running.master.as_ref();
        let connections = self.counters.iter().map(|c| c.connections.get()).sum();
        let hello = Hello {
            is_master: master.is_some(),
            is_backup: self.running.backup.is_some(),
            leaves,
            syncid: self.me.syncid,
            node: self.node,
            boot: self.me.boot,
            run: master.map_or(0, |(run, _)| *run),
            tcp_port: self.tcp_port,
            interval_ms: machine::INTERVAL.as_millis() as u16,
            sequence: self.sequence,
            connections,
            sent: master.map_or_else(Vec::new, |(_, sent)| sent.get()),
        };
        // One that cannot be sent is one that is lost: the peer sees it.
        let mut bytes = hello.encode();
        self.hellos.sealer.seal(auth::wall(), &mut bytes);
        let _ = self.sender.send(&bytes);
    }

    fn read_hellos(&mut self, now: Instant) {
        let mut bytes = [0; hello::MAX + auth::TRAILER + 1];
        loop {
            match self.receiver.recv_from(&mut bytes) {
                Ok((len, from)) => {
                    let sealed = bytes.get(..len).unwrap_or(&[]);
                    let opened = self.hellos.opener.open(auth::wall(), sealed);
                    let hello = opened.map_err(NotTaken::Seal).and_then(|bytes| {
                        let hello = Hello::decode(bytes);
                        hello.map_err(|_| NotTaken::Garbled)
                    });
                    let input = match hello {
                        Ok(hello) => Input::Hello(from, Box::new(hello)),
                        Err(why) => Input::Refused(from.ip(), why),
                    };
                    self.handle(now, input);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn ask_count(&mut self, from: IpAddr) {
        if let Some((receipts, backup)) = &self.running.backup {
            self.counting.retain(|(other, _)| *other != from);
            self.counting.push((from, receipts.ask()));
            let _ = backup.wake();
        }
    }

    fn follow_counts(&mut self, now: Instant) {
        let Some((receipts, _)) = &self.running.backup else {
            return;
        };
        if self.counting.is_empty() {
            return;
        }
        let mut published = receipts.read();
        let is_answered = |(_, question): &mut (IpAddr, u64)| *question <= published.answered;
        let answered: Vec<_> = self.counting.extract_if(.., is_answered).collect();
        if published.dropped > self.dropped {
            let new = published.dropped - self.dropped;
            self.handle(now, Input::Dropped(new));
        }
        self.dropped = published.dropped;
        for (from, _) in answered {
            let received = published.messages.remove(&from);
            // A host that never sent anything.
            let received = received.unwrap_or_else(|| vec![0; published.sockets]);
            self.handle(now, Input::Received(from, received));
        }
    }

    fn begin_fetch(&mut self, now: Instant, at: SocketAddr, ask: Ask) -> io::Result<()> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(at), kind, Some(Protocol::TCP))?;
        socket.bind_device(Some(self.place.interface.as_bytes()))?;
        // The peer knows us by where hellos come from.
        let mut own = self.sender.local_addr()?;
        own.set_port(0);
        socket.bind(&own.into())?;
        match socket.connect(&at.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        let mut stream = TcpStream::from_std(socket.into());
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, FETCH, both)?;
        self.fetch = Some(Fetch::new(now, stream, &mut self.streams, ask));
        Ok(())
    }

    /// Goes on with a copy that comes; true if it is to be looked at again soon.
    fn step_fetch(&mut self, now: Instant) -> bool {
        let Some(fetch) = &mut self.fetch else {
            return false;
        };
        let done = match fetch.step(now, &mut self.streams, &self.batches) {
            Step::Waits => return false,
            Step::Busy => {
                let _ = self.control.wake();
                return true;
            }
            Step::Done(entries) => Ok(entries),
            Step::Failed(why) => Err(why),
        };
        let _ = self.control.wake();
        let _ = self.poll.registry().deregister(fetch.stream());
        self.fetch = None;
        self.handle(now, Input::Fetched(done));
        self.fetch.is_some()
    }

    fn accept(&mut self, now: Instant) {
        while let Ok((mut stream, from)) = self.listener.accept() {
            let is_known = self.machine.peers().any(|peer| peer.at.ip() == from.ip());
            if !is_known || self.served.len() >= MAX_SERVED {
                continue;
            }
            let token = self.next_token;
            self.next_token += 1;
            let both = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            if registry.register(&mut stream, Token(token), both).is_ok() {
                self.served.insert(token, Serve::new(now, stream, from));
            }
        }
    }

    /// Goes on with copies that are given; true if they are to be looked at again soon.
    fn step_served(&mut self, now: Instant) -> bool {
        let is_master = self.running.master.is_some();
        let giver = Giver {
            syncid: is_master.then_some(self.me.syncid),
            boot: self.me.boot,
            connections: self.counters.iter().map(|c| c.connections.get()).sum(),
            desk: &self.desk,
            control: &self.control,
            own: &self.waker,
        };
        let registry = self.poll.registry();
        let mut busy = false;
        let mut given = Vec::new();
        self.served.retain(|_, serve| {
            let peer = serve.from.ip();
            match serve.step(now, &mut self.streams, &giver) {
                Step::Waits => return true,
                Step::Busy => {
                    busy = true;
                    return true;
                }
                Step::Done(entries) => {
                    tracing::debug!(event = "sync", %peer, entries, "copied connections to a peer");
                    if serve.is_whole() {
                        given.push(peer);
                    }
                }
                Step::Failed(why) => {
                    tracing::info!(event = "sync", %peer, reason = why, "a copy was not taken");
                }
            }
            let _ = registry.deregister(serve.stream());
            false
        });
        for peer in given {
            self.handle(now, Input::Given(peer));
        }
        busy
    }
}
