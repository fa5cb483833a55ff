//! What a node makes of its peers' hellos: who is there, who is gone, what was lost on the way, and
//! whose table is to be copied. Without sockets and clock.

mod refused;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dataplane::time::Instant;

use super::frame::Want;
use super::hello::{Hello, Sent};
use crate::sync::auth::Why;

pub use self::refused::{NotTaken, Refusals};

/// Between two hellos.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// A peer that missed so many of its hellos is lost.
const MISSED: u32 = 5;

/// How long a backup listens for masters before it takes it that there is none.
const LISTEN: Duration = Duration::from_millis(2500);

/// How often a backup asks what still lives. A connection whose client is silent for longer than
/// its timeout less this time may be forgotten here until its next packet.
const REFRESH: Duration = Duration::from_secs(20);

/// Longest way of an announcement: from the packet to the backup's table.
const DELAY: Duration = Duration::from_secs(3);

/// Longest pause after copies that failed.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Most peers that are remembered; the one heard longest ago makes room.
const MAX_PEERS: usize = 16;

/// Who this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Me {
    /// Group of balancers; a backup with 0 follows all.
    pub syncid: u8,
    /// This run.
    pub boot: u64,
}

/// What runs here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Announces.
    pub master: bool,
    /// Takes over.
    pub backup: bool,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Daemons were started or stopped.
    Roles(Roles),
    /// A hello came.
    Hello(SocketAddr, Box<Hello>),
    /// A hello that was not taken came from there.
    Refused(IpAddr, NotTaken),
    /// What came from a peer until everything was read that had come before its hello: messages
    /// by socket.
    Received(IpAddr, Vec<u64>),
    /// Entries that came were lost on the way to the workers.
    Dropped(u64),
    /// The copy that was asked for came whole, so many entries, or not.
    Fetched(Result<u64, String>),
    /// A peer took the whole table of this node.
    Given(IpAddr),
    /// The interface lost its carrier, or has it again.
    Link(bool),
    /// Time passed.
    Timer,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a hello.
    Hello,
    /// Say what came from this peer ([`Input::Received`]).
    Count(IpAddr),
    /// Ask a peer for a copy ([`Input::Fetched`]). There is one at a time.
    Fetch {
        /// Where.
        at: SocketAddr,
        /// Its group of balancers.
        syncid: u8,
        /// What.
        want: Want,
    },
    /// Tell the operator.
    Tell(News),
}

/// Something that the operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A node of RVS is there.
    Found(IpAddr),
    /// It said that it ends.
    Left(IpAddr),
    /// It has been silent.
    Lost(IpAddr),
    /// It speaks again.
    Back(IpAddr),
    /// Messages of it were lost.
    Gap(IpAddr, u64),
    /// Entries were lost here.
    Dropped(u64),
    /// It sends by so many sockets, and so many are listened to.
    Sockets(IpAddr, usize, usize),
    /// A copy came: of so many entries, in so much time.
    Fetched(IpAddr, Want, u64, Duration),
    /// No copy came. It will be asked for again.
    Failed(IpAddr, Want, String),
    /// Its hellos are not taken.
    Refused(IpAddr, Why),
    /// They are taken now, or it has been silent.
    Taken(IpAddr),
    /// The interface lost its carrier or has it again.
    Link(bool),
}

/// A copy that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Entries.
    pub entries: u64,
    /// How long it took.
    pub took: Duration,
}

/// What was counted of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often messages were found to be missing.
    pub gaps: u64,
    /// How many were.
    pub missed: u64,
    /// Whole tables that were copied.
    pub transfers: u64,
    /// Copies that mended a gap.
    pub repairs: u64,
    /// Copies that kept timers from running out.
    pub refreshes: u64,
    /// The last whole table.
    pub last: Option<Copied>,
}

/// A node that was heard.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where its hellos come from.
    pub at: SocketAddr,
    /// The last of them.
    pub hello: Hello,
    /// When it came.
    pub heard: Instant,
    /// Whether it has been silent for too long.
    pub is_lost: bool,
    /// What was counted.
    pub tally: Tally,
    stream: Option<Stream>,
    /// Which run of it took our whole table.
    given: Option<u64>,
}

/// The announcements of one run of a peer's master.
#[derive(Clone, Debug)]
struct Stream {
    boot: u64,
    run: u32,
    /// By socket: how many more were received than sent when counting began.
    base: Option<Vec<i64>>,
    /// By socket: how many are missing since.
    missing: Vec<i64>,
    /// What the hello said whose count is being waited for.
    said: Option<(Instant, Vec<Sent>)>,
    /// What was announced until then has come.
    clean: Instant,
    /// The whole table came.
    is_complete: bool,
    /// Announcements since then are missing.
    gap: Option<Instant>,
    /// When timers were last brought up to date.
    refreshed: Instant,
    next_try: Instant,
    failures: u32,
}

impl Stream {
    fn new(now: Instant, hello: &Hello) -> Stream {
        Stream {
            boot: hello.boot,
            run: hello.run,
            base: None,
            missing: Vec::new(),
            said: None,
            clean: now,
            is_complete: false,
            gap: None,
            refreshed: now,
            next_try: now,
            failures: 0,
        }
    }

    /// Compares what was sent with what came; how many messages are newly missing.
    fn compare(&mut self, received: &[u64]) -> u64 {
        let Some((at, sent)) = self.said.take() else {
            return 0;
        };
        let pairs = sent.iter().zip(received);
        let ahead: Vec<i64> = pairs
            .map(|(sent, received)| received.wrapping_sub(sent.messages) as i64)
            .collect();
        let Some(base) = &self.base else {
            self.missing = vec![0; ahead.len()];
            self.base = Some(ahead);
            self.clean = at;
            return 0;
        };
        let mut new = 0;
        for ((base, ahead), missing) in base.iter().zip(&ahead).zip(&mut self.missing) {
            let now_missing = base.saturating_sub(*ahead);
            // A peer may say any number.
            let more = now_missing.saturating_sub(*missing).max(0);
            new = u64::saturating_add(new, more as u64);
            *missing = now_missing.max(*missing);
        }
        if new == 0 && self.gap.is_none() {
            self.clean = at;
        } else if new != 0 {
            self.gap.get_or_insert(self.clean);
        }
        new
    }

    /// What to ask for now.
    fn want(&self, now: Instant) -> Option<Want> {
        // What gets lost during a copy shows only in what was sent by its beginning.
        let has_begun = self.said.is_some() || self.base.is_some();
        if now < self.next_try || !has_begun {
            return None;
        }
        let ms = |time: Duration| time.as_millis().min(u128::from(u32::MAX)) as u32;
        if !self.is_complete {
            Some(Want::Everything)
        } else if let Some(since) = self.gap {
            Some(Want::Recent(ms(now.since(since) + DELAY)))
        } else {
            let since = now.since(self.refreshed);
            (since >= REFRESH).then(|| Want::Moved(ms(since + DELAY)))
        }
    }
}

impl Peer {
    /// Whether its whole table came, of a master; others have none to give.
    pub fn is_complete(&self) -> bool {
        self.stream.as_ref().is_none_or(|stream| stream.is_complete)
    }

    /// Whether announcements are missing that were not asked for again yet.
    pub fn has_gap(&self) -> bool {
        self.stream.as_ref().is_some_and(|s| s.gap.is_some())
    }

    /// Whether it lives, takes over what we announce, and was given all that we had before.
    pub fn is_in_step(&self) -> bool {
        !self.is_lost && self.hello.is_backup && self.given == Some(self.hello.boot)
    }

    fn silence(&self) -> Duration {
        Duration::from_millis(self.hello.interval_ms.into()) * MISSED
    }
}

/// A copy under way.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    peer: IpAddr,
    boot: u64,
    run: u32,
    want: Want,
    since: Instant,
    /// The gap that it mends.
    gap: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    me: Me,
    roles: Roles,
    /// Since when a backup runs here.
    listens: Instant,
    peers: BTreeMap<IpAddr, Peer>,
    next_hello: Instant,
    fetch: Option<Fetch>,
    has_link: bool,
    refused: Refusals,
    out: Vec<Output>,
}

impl Machine {
    /// Without peers; nothing runs yet.
    pub fn new(now: Instant, me: Me) -> Machine {
        Machine {
            me,
            roles: Roles::default(),
            listens: now,
            peers: BTreeMap::new(),
            next_hello: now,
            fetch: None,
            has_link: true,
            refused: Refusals::default(),
            out: Vec::new(),
        }
    }

    /// The nodes that were heard.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// Whether the interface has its carrier.
    pub fn has_link(&self) -> bool {
        self.has_link
    }

    /// Hellos that were not taken.
    pub fn refused(&self) -> &Refusals {
        &self.refused
    }

    /// Whether this node knows what it can know: no backup runs, or every master that is there has
    /// given its whole table.
    pub fn is_ready(&self, now: Instant) -> bool {
        if !self.roles.backup {
            return true;
        }
        let gives = |p: &&Peer| !p.is_lost && p.stream.is_some() && p.hello.tcp_port != 0;
        let mut masters = self.peers().filter(gives);
        match masters.next() {
            Some(first) => first.is_complete() && masters.all(Peer::is_complete),
            None => now.since(self.listens) >= LISTEN,
        }
    }

    /// When to come back with [`Input::Timer`].
    pub fn next_timeout(&self) -> Instant {
        let lost = self.peers().filter(|p| !p.is_lost);
        lost.map(|peer| peer.heard + peer.silence())
            .fold(self.next_hello, Instant::min)
    }

    /// Takes a step.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Output> {
        match input {
            Input::Roles(roles) => self.set_roles(now, roles),
            Input::Hello(from, hello) => self.hello(now, from, *hello),
            Input::Refused(from, why) => {
                if let Some(why) = self.refused.add(now, from, why) {
                    self.tell(News::Refused(from, why));
                }
            }
            Input::Received(from, received) => self.received(from, &received),
            Input::Dropped(entries) => self.dropped(entries),
            Input::Fetched(done) => self.fetched(now, done),
            Input::Given(to) => {
                if let Some(peer) = self.peers.get_mut(&to) {
                    peer.given = Some(peer.hello.boot);
                }
            }
            Input::Link(is_up) => {
                if is_up != self.has_link {
                    self.has_link = is_up;
                    self.tell(News::Link(is_up));
                }
            }
            Input::Timer => self.timer(now),
        }
        self.plan(now);
        std::mem::take(&mut self.out)
    }

    fn tell(&mut self, news: News) {
        self.out.push(Output::Tell(news));
    }

    fn set_roles(&mut self, now: Instant, roles: Roles) {
        if roles.backup && !self.roles.backup {
            self.listens = now;
            // Masters heard before owe their tables; their next hello may be late.
            let masters = self.peers.values_mut().filter(|peer| peer.hello.is_master);
            for peer in masters {
                peer.stream = Some(Stream::new(now, &peer.hello));
            }
        }
        if !roles.backup {
            self.peers.values_mut().for_each(|peer| peer.stream = None);
            self.fetch = None;
        }
        if !roles.master {
            self.peers.values_mut().for_each(|peer| peer.given = None);
        }
        if self.roles != roles {
            self.roles = roles;
            self.next_hello = now;
            self.timer(now);
        }
    }

    fn timer(&mut self, now: Instant) {
        if now >= self.next_hello {
            self.next_hello = now + INTERVAL;
            self.out.push(Output::Hello);
        }
        for addr in self.refused.silent(now) {
            self.tell(News::Taken(addr));
        }
        for (addr, peer) in &mut self.peers {
            if !peer.is_lost && now >= peer.heard + peer.silence() {
                peer.is_lost = true;
                self.out.push(Output::Tell(News::Lost(*addr)));
            }
        }
    }

    fn hello(&mut self, now: Instant, from: SocketAddr, hello: Hello) {
        let addr = from.ip();
        let all = [self.me.syncid, hello.syncid].contains(&0);
        if hello.boot == self.me.boot || !all && hello.syncid != self.me.syncid {
            return;
        }
        if self.refused.remove(addr) {
            self.tell(News::Taken(addr));
        }
        let known = self.peers.get(&addr);
        let is_old =
            |peer: &Peer| peer.hello.boot == hello.boot && peer.hello.sequence >= hello.sequence;
        if known.is_some_and(is_old) {
            return;
        }
        if hello.leaves {
            if self.peers.remove(&addr).is_some() {
                self.tell(News::Left(addr));
            }
            return;
        }
        if known.is_none() {
            self.make_room();
            self.tell(News::Found(addr));
            // It need not wait for the next one to know us.
            self.out.push(Output::Hello);
        }
        let follows = self.roles.backup && hello.is_master;
        let peer = self.peers.entry(addr).or_insert_with(|| Peer {
            at: from,
            hello: hello.clone(),
            heard: now,
            is_lost: false,
            tally: Tally::default(),
            stream: None,
            given: None,
        });
        let was_lost = std::mem::take(&mut peer.is_lost);
        let is_other = |s: &Stream| (s.boot, s.run) != (hello.boot, hello.run);
        if !follows || peer.stream.as_ref().is_some_and(is_other) {
            peer.stream = None;
        }
        (peer.at, peer.heard) = (from, now);
        if follows {
            let stream = (peer.stream).get_or_insert_with(|| Stream::new(now, &hello));
            stream.said = Some((now, hello.sent.clone()));
            self.out.push(Output::Count(addr));
        }
        peer.hello = hello;
        if was_lost {
            self.tell(News::Back(addr));
        }
    }

    fn make_room(&mut self) {
        if self.peers.len() < MAX_PEERS {
            return;
        }
        let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.heard);
        if let Some(oldest) = oldest.map(|(addr, _)| *addr) {
            self.peers.remove(&oldest);
        }
    }

    fn received(&mut self, from: IpAddr, received: &[u64]) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        let Some(stream) = &mut peer.stream else {
            return;
        };
        let sockets = peer.hello.sent.len();
        let is_first = stream.base.is_none();
        let missing = stream.compare(received);
        if missing != 0 {
            peer.tally.gaps += 1;
            peer.tally.missed = peer.tally.missed.saturating_add(missing);
            self.tell(News::Gap(from, missing));
        }
        if is_first && sockets > received.len() {
            self.tell(News::Sockets(from, sockets, received.len()));
        }
    }

    /// Whose entries they were is not known: everybody is asked.
    fn dropped(&mut self, entries: u64) {
        for peer in self.peers.values_mut() {
            if let Some(stream) = &mut peer.stream {
                stream.gap.get_or_insert(stream.clean);
                peer.tally.gaps += 1;
            }
        }
        self.tell(News::Dropped(entries));
    }

    fn fetched(&mut self, now: Instant, done: Result<u64, String>) {
        let Some(fetch) = self.fetch.take() else {
            return;
        };
        let took = now.since(fetch.since);
        let Some(peer) = self.peers.get_mut(&fetch.peer) else {
            return;
        };
        let Some(stream) = &mut peer.stream else {
            return;
        };
        if (stream.boot, stream.run) != (fetch.boot, fetch.run) {
            return;
        }
        let news = match done {
            Ok(entries) => {
                stream.failures = 0;
                stream.refreshed = fetch.since;
                match fetch.want {
                    Want::Everything => {
                        stream.is_complete = true;
                        peer.tally.transfers += 1;
                        peer.tally.last = Some(Copied { entries, took });
                    }
                    Want::Recent(_) => peer.tally.repairs += 1,
                    Want::Moved(_) => peer.tally.refreshes += 1,
                }
                News::Fetched(fetch.peer, fetch.want, entries, took)
            }
            Err(why) => {
                stream.gap = match (fetch.gap, stream.gap) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                let pause = INTERVAL * (1 << stream.failures.min(5));
                stream.next_try = now + pause.min(MAX_PAUSE);
                stream.failures += 1;
                News::Failed(fetch.peer, fetch.want, why)
            }
        };
        self.tell(news);
    }

    /// Asks for the next copy, the most needed one first.
    fn plan(&mut self, now: Instant) {
        if self.fetch.is_some() {
            return;
        }
        let rank = |want: &Want| match want {
            Want::Everything => 0,
            Want::Recent(_) => 1,
            Want::Moved(_) => 2,
        };
        let wanted = self.peers.iter().filter(|(_, peer)| !peer.is_lost);
        let next = wanted
            .filter(|(_, peer)| peer.hello.tcp_port != 0)
            .filter_map(|(addr, peer)| Some((*addr, peer.stream.as_ref()?.want(now)?)))
            .min_by_key(|(_, want)| rank(want));
        let Some((addr, want)) = next else { return };
        let Some(peer) = self.peers.get_mut(&addr) else {
            return;
        };
        let Some(stream) = &mut peer.stream else {
            return;
        };
        self.fetch = Some(Fetch {
            peer: addr,
            boot: stream.boot,
            run: stream.run,
            want,
            since: now,
            gap: stream.gap.take(),
        });
        let mut at = peer.at;
        at.set_port(peer.hello.tcp_port);
        self.out.push(Output::Fetch {
            at,
            syncid: peer.hello.syncid,
            want,
        });
    }
}

#[cfg(test)]
mod tests;
