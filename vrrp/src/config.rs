//! What an operator says about one virtual router.

mod check;

pub use check::ConfigError;

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use crate::addr::Family;
use crate::packet::{Auth, ChecksumPolicy, Peer, Version};
use crate::timers::AdvertInterval;
use crate::track::Tracked;

/// Priority of the address owner (RFC 5798, 5.2.4): never beaten, never changed by trackers.
pub const OWNER: u8 = 255;
/// Priority if none is configured.
pub const DEFAULT_PRIORITY: u8 = 100;
/// Most unicast peers of an instance. It bounds what one step puts out.
pub const MAX_PEERS: usize = 32;

/// What identifies a virtual router on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Kernel index of the interface that adverts cross.
    pub interface: u32,
    /// IPv4 and IPv6 are virtual routers of their own.
    pub family: Family,
    /// Virtual router id, 1 to 255.
    pub vrid: u8,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "vrid {} ({:?}, interface {})",
            self.vrid, self.family, self.interface
        )
    }
}

/// An address of the virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualAddress {
    /// The address.
    pub addr: IpAddr,
    /// Its prefix length.
    pub prefix_len: u8,
}

impl VirtualAddress {
    /// A single address: /32 or /128.
    pub const fn host(addr: IpAddr) -> VirtualAddress {
        VirtualAddress {
            addr,
            prefix_len: Family::of(addr).bits(),
        }
    }
}

/// What to do about a master of lower priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preempt {
    /// Leave it (`nopreempt`).
    Never,
    /// Take over when its adverts have been ignored for one master-down interval.
    Now,
    /// Leave it for this long after it was first heard, then as `Now` (`preempt_delay`).
    After(Duration),
}

/// How adverts travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// To everybody on the link who joined the group, with TTL 255.
    Multicast {
        /// The group, 224.0.0.18 or ff02::12 unless configured otherwise.
        group: IpAddr,
    },
    /// To each peer.
    Unicast {
        /// The other routers.
        peers: Vec<Peer>,
        /// TTL or hop limit of what is sent.
        ttl: u8,
        /// Whether adverts of others than `peers` are refused.
        check_source: bool,
    },
}

/// How often addresses are announced by gratuitous ARP or neighbour advertisements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcing {
    /// Rounds over all addresses on becoming master (`garp_master_repeat`).
    pub repeat: u8,
    /// The rounds again after this time; zero for not at all (`garp_master_delay`).
    pub delay: Duration,
    /// From then on in this interval; zero for not at all (`garp_master_refresh`).
    pub refresh: Duration,
    /// Rounds of a refresh (`garp_master_refresh_repeat`).
    pub refresh_repeat: u8,
    /// Rounds on hearing a lower priority's advert (`garp_lower_prio_repeat`).
    pub lower_repeat: u8,
    /// The rounds again after this time; zero for not at all (`garp_lower_prio_delay`).
    pub lower_delay: Duration,
}

impl Default for Announcing {
    /// keepalived's, but with a refresh: switches and hosts that missed a takeover learn of it
    /// within a minute.
    fn default() -> Announcing {
        Announcing {
            repeat: 5,
            delay: Duration::from_secs(5),
            refresh: Duration::from_secs(60),
            refresh_repeat: 1,
            lower_repeat: 5,
            lower_delay: Duration::from_secs(5),
        }
    }
}

/// One virtual router as configured. [`Config::new`] yields the defaults; [`Config::check`] says
/// what cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name for people.
    pub name: String,
    /// Interface, family and virtual router id.
    pub key: Key,
    /// Version of the protocol.
    pub version: Version,
    /// 1 to 254; [`OWNER`] for the owner of the addresses.
    pub priority: u8,
    /// Whether an owner becomes master at once (`state MASTER`). Nothing to other priorities.
    pub starts_as_master: bool,
    /// Time between two adverts as master. Version 2 peers need the same, version 3 peers learn
    /// it.
    pub interval: AdvertInterval,
    /// Adverts that may be missed before a backup takes over; 3 by the RFCs.
    pub down_timer_adverts: u8,
    /// What to do about a master of lower priority.
    pub preempt: Preempt,
    /// Whether a master that is not the owner answers to the addresses (RFC 5798, 6.1,
    /// `Accept_Mode`). On by default, as in keepalived: they are service addresses.
    pub accept: bool,
    /// Whether adverts and announcements bear the virtual router's MAC (RFC 5798, 7.3).
    pub virtual_mac: bool,
    /// Address to send from in place of the interface's.
    pub source: Option<IpAddr>,
    /// Whether the instance is at fault while its interface is down.
    pub tracks_link: bool,
    /// Addresses named in adverts, in this order. The first of IPv6 is link-local.
    pub addresses: Vec<VirtualAddress>,
    /// Addresses of either family that go with the others but are not named.
    pub unadvertised: Vec<VirtualAddress>,
    /// Password of version 2.
    pub auth: Auth,
    /// Form of the checksum in version 3 over IPv4.
    pub checksum: ChecksumPolicy,
    /// Multicast or unicast.
    pub transport: Transport,
    /// Time after the start during which nothing is heard or counted.
    pub startup_delay: Duration,
    /// How often addresses are announced.
    pub announcing: Announcing,
    /// Whether a master answers an advert of lower priority with one of its own and announces its
    /// addresses again.
    pub answers_lower: bool,
    /// Whether a master sends a last advert before it gives way to a higher priority, so that the
    /// other hears of it.
    pub advert_before_yielding: bool,
    /// Whether an owner ignores others' adverts.
    pub owner_ignores: bool,
    /// Whether silence counts as a dead master only if frames were received meanwhile
    /// ([`Input::FrameHeard`](crate::instance::Input::FrameHeard)). Without that proof the
    /// instance is at fault, because it may itself be deaf. After its interface came up it also waits
    /// for a frame of somebody else ([`Input::Arrived`](crate::instance::Input::Arrived)), for
    /// two master-down intervals and three seconds at most.
    pub needs_live_receive_path: bool,
    /// What the priority depends on.
    pub trackers: Vec<Tracked>,
}

impl Config {
    /// A virtual router of version 3 with the defaults and no address yet.
    pub fn new(key: Key) -> Config {
        Config {
            name: key.to_string(),
            key,
            version: Version::V3,
            priority: DEFAULT_PRIORITY,
            starts_as_master: false,
            interval: AdvertInterval::DEFAULT,
            down_timer_adverts: 3,
            preempt: Preempt::Now,
            accept: true,
            virtual_mac: false,
            source: None,
            tracks_link: true,
            addresses: Vec::new(),
            unadvertised: Vec::new(),
            auth: Auth::None,
            checksum: ChecksumPolicy::Keepalived,
            transport: Transport::Multicast {
                group: key.family.group(),
            },
            startup_delay: Duration::ZERO,
            announcing: Announcing::default(),
            answers_lower: true,
            advert_before_yielding: true,
            owner_ignores: false,
            needs_live_receive_path: true,
            trackers: Vec::new(),
        }
    }

    /// Whether this is the owner of the addresses.
    pub const fn is_owner(&self) -> bool {
        self.priority == OWNER
    }

    /// All addresses, the unadvertised ones last.
    pub fn all_addresses(&self) -> impl Iterator<Item = &VirtualAddress> {
        self.addresses.iter().chain(&self.unadvertised)
    }

    /// What to do about a master of lower priority; an owner always takes over.
    pub const fn preempt(&self) -> Preempt {
        if self.is_owner() {
            Preempt::Now
        } else {
            self.preempt
        }
    }
}
