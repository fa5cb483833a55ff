//! What instances want done: values for a driver, in a bounded queue.

use std::collections::VecDeque;

use core::net::IpAddr;

use crate::addr::Mac;
use crate::announce::Claim;
use crate::config::{Key, MAX_PEERS, VirtualAddress};
use crate::instance::{Cause, Role};
use crate::packet;
use crate::time::Instant;

/// Most outputs that one step of an instance makes: three rounds of adverts to all peers and a
/// change of state each way.
pub const MAX_PER_STEP: usize = 3 * MAX_PEERS + 16;

/// An advert to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Sender.
    pub src: IpAddr,
    /// The group or a peer.
    pub dst: IpAddr,
    /// TTL or hop limit; TOS or traffic class is [`packet::TRAFFIC_CLASS`], with IPv4 not to be
    /// fragmented by anybody who can help it.
    pub ttl: u8,
    /// MAC to send from, if it is not the interface's.
    pub virtual_mac: Option<Mac>,
    /// What follows the IP header.
    pub message: Vec<u8>,
}

impl Datagram {
    /// The whole IP packet. `id` is the identification of IPv4: 1, 2, 3 …, never 0.
    pub fn packet(&self, id: u16) -> Vec<u8> {
        packet::ip(self.src, self.dst, self.ttl, id, &self.message)
    }
}

/// What is to be announced by [`announce::frame`](crate::announce::frame).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// Every virtual address, the unadvertised too, round by round.
    VirtualAddresses,
    /// The instance's own source address, so that unicast peers find it at once.
    Source(IpAddr),
}

/// Something an operator should know. Each kind is raised once until the state or the master
/// changes, but for `ForeignMac`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// The peer's addresses are not ours. keepalived up to 2.3.2 refuses such adverts, so that
    /// there may be two masters.
    AddressMismatch {
        /// The peer.
        peer: IpAddr,
    },
    /// The peer's interval is not ours; ours follows its (version 3).
    IntervalMismatch {
        /// The peer.
        peer: IpAddr,
    },
    /// An advert of our priority came from our own address: a loop, or an address given twice.
    OwnAddress,
    /// A peer of lower priority is master too.
    LowerMaster {
        /// The peer.
        peer: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// A foreign MAC claims one of our addresses. At most one a second; `suppressed` counts what
    /// came between.
    ForeignMac {
        /// Address and MAC.
        claim: Claim,
        /// Claims since the last alarm that raised none.
        suppressed: u64,
    },
}

impl Alarm {
    /// Name in logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Alarm::AddressMismatch { .. } => "address-mismatch",
            Alarm::IntervalMismatch { .. } => "interval-mismatch",
            Alarm::OwnAddress => "own-address",
            Alarm::LowerMaster { .. } => "lower-master",
            Alarm::ForeignMac { .. } => "foreign-mac",
        }
    }
}

/// Something to be done. A driver does it in the order of the queue: an advert with priority 0
/// leaves before the addresses go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send an advert.
    Send(Datagram),
    /// The data plane may serve the addresses until then, and no longer without a new lease. It
    /// ends before any peer that waits for silence can take over.
    Lease {
        /// The end.
        until: Instant,
    },
    /// Add these addresses.
    AddAddresses {
        /// The addresses.
        addresses: Vec<VirtualAddress>,
        /// Whether to answer to them; otherwise only what is forwarded for them is accepted.
        accept: bool,
        /// MAC to receive and answer with, if it is not the interface's.
        virtual_mac: Option<Mac>,
    },
    /// Remove these addresses, and the lease with them if they are all.
    RemoveAddresses(Vec<VirtualAddress>),
    /// Announce by ARP or neighbour advertisement.
    Announce {
        /// What.
        what: Announced,
        /// How many rounds.
        rounds: u8,
    },
    /// The state changed: tell whoever wants to know.
    State {
        /// The new state.
        role: Role,
        /// Why.
        cause: Cause,
        /// The effective priority.
        priority: u8,
    },
    /// All members of a sync group came to have this state.
    GroupState {
        /// The group.
        name: String,
        /// The state.
        role: Role,
    },
    /// The effective priority changed.
    Priority(u8),
    /// Tell the operator.
    Alarm(Alarm),
}

/// The queue between machines and driver. It holds a fixed number of outputs; a machine is not
/// asked for more while there is no room for the most it could put out.
#[derive(Debug)]
pub struct Outputs {
    queue: VecDeque<(Key, Output)>,
    capacity: usize,
}

impl Outputs {
    /// An empty queue for `capacity` outputs, at least [`MAX_PER_STEP`].
    pub fn new(capacity: usize) -> Outputs {
        let capacity = capacity.max(MAX_PER_STEP);
        Outputs {
            queue: VecDeque::with_capacity(capacity),
            capacity,
        }
    }

    /// Whether one more step of an instance fits.
    pub fn has_room(&self) -> bool {
        self.queue.len() + MAX_PER_STEP <= self.capacity
    }

    /// Takes the oldest output and whose it is.
    pub fn pop(&mut self) -> Option<(Key, Output)> {
        self.queue.pop_front()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn push(&mut self, key: Key, output: Output) {
        // Every caller asked `has_room` before the step.
        debug_assert!(
            self.queue.len() < self.capacity,
            "a step put out more than MAX_PER_STEP"
        );
        self.queue.push_back((key, output));
    }
}
