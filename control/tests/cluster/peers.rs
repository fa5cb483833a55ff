//! What a node says to other nodes of RVS beside the kernel's protocol: the machine that `rvsd` runs,
//! and in the place of its sockets the network of the simulation.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use control::sync::peer::frame::Want;
use control::sync::peer::hello::{Hello, Sent};
use control::sync::peer::machine::{Input, Machine, Me, News, Output, Roles};
use dataplane::time::Instant;

use crate::node::Act;

/// Group of balancers.
pub const SYNCID: u8 = 7;
/// Where copies are to be had.
const PORT: u16 = 9848;

pub fn source(number: usize) -> IpAddr {
    Ipv4Addr::new(192, 168, 40, 2 + number as u8).into()
}

fn number_of(addr: IpAddr) -> usize {
    match addr {
        IpAddr::V4(addr) => usize::from(addr.octets()[3]) - 2,
        IpAddr::V6(_) => unreachable!("no node has {addr}"),
    }
}

/// How often something came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Whole tables that came.
    pub transfers: u64,
    /// Copies that mended a gap.
    pub repairs: u64,
    /// Gaps that were found.
    pub gaps: u64,
    /// Copies that did not come.
    pub failed: u64,
}

pub struct Peers {
    number: usize,
    machine: Machine,
    boot: u64,
    /// Masters that ran.
    run: u32,
    sequence: u64,
    sent: Sent,
    is_master: bool,
    /// Messages by sender, since the backup runs.
    received: BTreeMap<IpAddr, u64>,
    /// The number of the copy that is waited for.
    fetches: u64,
    pub tally: Tally,
}

impl Peers {
    pub fn new(now: Instant, number: usize, boot: u64) -> Peers {
        let me = Me {
            syncid: SYNCID,
            boot,
        };
        Peers {
            number,
            machine: Machine::new(now, me),
            boot,
            run: 0,
            sequence: 0,
            sent: Sent::default(),
            is_master: false,
            received: BTreeMap::new(),
            // Of no two runs the same.
            fetches: boot << 32,
            tally: Tally::default(),
        }
    }

    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// Whether everything came that can be had.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.machine.is_ready(now)
    }

    /// Whether the table of a node came, and nothing of it is known to be missing.
    pub fn is_whole(&self, of: usize) -> bool {
        let mut peers = self.machine.peers();
        let peer = peers.find(|peer| peer.at.ip() == source(of));
        peer.is_some_and(|peer| !peer.is_lost && peer.is_complete() && !peer.has_gap())
    }

    pub fn timeout(&self) -> Instant {
        self.machine.next_timeout()
    }

    /// One half of synchronisation ends, the other begins.
    pub fn set_role(&mut self, now: Instant, is_master: bool, acts: &mut Vec<Act>) {
        self.is_master = is_master;
        self.received.clear();
        if is_master {
            self.run += 1;
            self.sent = Sent::default();
        }
        let roles = Roles {
            master: is_master,
            backup: !is_master,
        };
        self.handle(now, Input::Roles(roles), acts);
    }

    /// The own master sent a message of so many entries.
    pub fn sent(&mut self, entries: u64) {
        self.sent.messages += 1;
        self.sent.entries += entries;
    }

    /// The own backup read a message.
    pub fn received(&mut self, from: usize) {
        *self.received.entry(source(from)).or_default() += 1;
    }

    pub fn link(&mut self, now: Instant, is_up: bool, acts: &mut Vec<Act>) {
        self.handle(now, Input::Link(is_up), acts);
    }

    pub fn run(&mut self, now: Instant, acts: &mut Vec<Act>) {
        if now >= self.machine.next_timeout() {
            self.handle(now, Input::Timer, acts);
        }
    }

    pub fn hello(&mut self, now: Instant, from: usize, datagram: &[u8], acts: &mut Vec<Act>) {
        let hello = Hello::decode(datagram).expect("a hello of ours");
        let from = SocketAddr::new(source(from), PORT);
        self.handle(now, Input::Hello(from, Box::new(hello)), acts);
    }

    /// What became of a copy; false if nobody waits for it any more.
    pub fn fetched(
        &mut self,
        now: Instant,
        number: u64,
        done: Result<u64, String>,
        acts: &mut Vec<Act>,
    ) {
        if number == self.fetches {
            self.handle(now, Input::Fetched(done), acts);
        }
    }

    /// Whether a copy with this number is still waited for.
    pub fn waits_for(&self, number: u64) -> bool {
        !self.is_master && number == self.fetches
    }

    /// Says goodbye.
    pub fn leave(&mut self, acts: &mut Vec<Act>) {
        acts.push(Act::Hello(self.say(true)));
    }

    fn say(&mut self, leaves: bool) -> Vec<u8> {
        self.sequence += 1;
        let hello = Hello {
            is_master: self.is_master,
            is_backup: !self.is_master,
            leaves,
            syncid: SYNCID,
            node: self.number as u64,
            boot: self.boot,
            run: self.run,
            tcp_port: PORT,
            interval_ms: 1000,
            sequence: self.sequence,
            connections: 0,
            sent: match self.is_master {
                true => vec![self.sent],
                false => Vec::new(),
            },
        };
        hello.encode()
    }

    fn handle(&mut self, now: Instant, input: Input, acts: &mut Vec<Act>) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.machine.handle(now, input) {
                match output {
                    Output::Hello => acts.push(Act::Hello(self.say(false))),
                    // Nothing waits unread here.
                    Output::Count(from) => {
                        let received = self.received.get(&from).copied().unwrap_or(0);
                        inputs.push_back(Input::Received(from, vec![received]));
                    }
                    Output::Fetch { at, want, .. } => {
                        self.fetches += 1;
                        acts.push(Act::Fetch(number_of(at.ip()), self.fetches, want));
                    }
                    Output::Tell(news) => self.count(&news),
                }
            }
        }
    }

    fn count(&mut self, news: &News) {
        let tally = &mut self.tally;
        match news {
            News::Fetched(_, Want::Everything, ..) => tally.transfers += 1,
            News::Fetched(_, Want::Recent(_), ..) => tally.repairs += 1,
            News::Gap(..) => tally.gaps += 1,
            News::Failed(..) => tally.failed += 1,
            _ => {}
        }
    }
}
