//! What a port is, how it is to be set up, and how it is.

use core::num::NonZeroU8;

use dataplane::addr::Mac;
use dataplane::toeplitz::KEY_BYTES;

use crate::ffi;

/// What a port does, or may do, with the contents of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads(u32);

impl Offloads {
    /// Nothing.
    pub const NONE: Offloads = Offloads(0);
    /// It looks at the header checksums of IPv4 packets that come.
    pub const RX_IPV4_SUM: Offloads = Offloads(ffi::RVS_RX_IPV4_SUM);
    /// It looks at the checksums of TCP segments and UDP datagrams that come.
    pub const RX_TRANSPORT_SUMS: Offloads = Offloads(ffi::RVS_RX_TCP_SUM | ffi::RVS_RX_UDP_SUM);
    /// It takes 802.1Q tags out of frames that come, and puts them into those that leave.
    pub const TAGS: Offloads = Offloads(ffi::RVS_VLAN_STRIP | ffi::RVS_VLAN_INSERT);
    /// It works out the checksums of UDP datagrams that leave.
    pub const TX_UDP_SUM: Offloads = Offloads(ffi::RVS_TX_UDP_SUM);

    const NAMES: [(u32, &str); 8] = [
        (ffi::RVS_RX_IPV4_SUM, "rx-ipv4-sum"),
        (ffi::RVS_RX_UDP_SUM, "rx-udp-sum"),
        (ffi::RVS_RX_TCP_SUM, "rx-tcp-sum"),
        (ffi::RVS_VLAN_STRIP, "vlan-strip"),
        (ffi::RVS_TX_IPV4_SUM, "tx-ipv4-sum"),
        (ffi::RVS_TX_UDP_SUM, "tx-udp-sum"),
        (ffi::RVS_TX_TCP_SUM, "tx-tcp-sum"),
        (ffi::RVS_VLAN_INSERT, "vlan-insert"),
    ];

    /// Whether all of `other` are among these.
    pub const fn has(self, other: Offloads) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those of `other`.
    #[must_use]
    pub const fn with(self, other: Offloads) -> Offloads {
        Offloads(self.0 | other.0)
    }

    /// These without those of `other`.
    #[must_use]
    pub const fn without(self, other: Offloads) -> Offloads {
        Offloads(self.0 & !other.0)
    }

    /// Their names in listings.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let is_in = move |(bit, _): &(u32, &str)| self.0 & bit != 0;
        Offloads::NAMES
            .into_iter()
            .filter(is_in)
            .map(|(_, name)| name)
    }

    pub(super) const fn from_bits(bits: u32) -> Offloads {
        Offloads(bits)
    }

    pub(super) const fn bits(self) -> u32 {
        self.0
    }
}

/// What a port is and can do.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// Name of the driver, `net_af_packet`.
    pub driver: String,
    /// Address of the port.
    pub mac: Mac,
    /// RX queues it can have.
    pub max_rx_queues: u16,
    /// TX queues it can have.
    pub max_tx_queues: u16,
    /// MTU now, bytes.
    pub mtu: u16,
    /// Smallest MTU, bytes.
    pub min_mtu: u16,
    /// Largest MTU, bytes.
    pub max_mtu: u16,
    /// NUMA node, if it has one.
    pub socket: Option<u32>,
    /// Whether it can spread flows over its RX queues.
    pub has_rss: bool,
    /// Whether it spreads TCP and UDP over IPv4 by a key and a table of our choice, as
    /// [`RunningPort::steer`](super::RunningPort::steer) wants it.
    pub takes_rss_key: bool,
    /// Whether it spreads a long frame over several buffers.
    pub has_scatter: bool,
    /// Whether it sends a frame out of several buffers.
    pub has_multi_segments: bool,
    /// What else it can do with frames.
    pub offers: Offloads,
    /// Whether it tells of link changes by itself.
    pub has_link_interrupt: bool,
    /// Whether it tells of its removal by itself.
    pub has_removal_interrupt: bool,
}

/// How to set up a port.
#[derive(Clone, Copy, Debug)]
pub struct PortConfig {
    /// RX queues.
    pub rx_queues: u16,
    /// TX queues.
    pub tx_queues: u16,
    /// Descriptors of each RX queue; the driver may want another number.
    pub rx_descriptors: u16,
    /// Descriptors of each TX queue; the driver may want another number.
    pub tx_descriptors: u16,
    /// MTU in bytes; `None` leaves the driver's default.
    pub mtu: Option<u16>,
    /// A frame may take several buffers, received and sent, where the driver can do that.
    pub scatter: bool,
    /// What it is to do with the contents of frames; what it does not offer is left out.
    pub offloads: Offloads,
    /// What flows are spread by over several RX queues, if the port takes one; `None`: a key that
    /// takes both directions of a flow to the same queue.
    pub rss_key: Option<[u8; KEY_BYTES]>,
    /// A queue of its own for frames that must not wait behind others, where the port can do that.
    pub urgent: bool,
}

impl Default for PortConfig {
    /// One queue of 1024 descriptors each way.
    fn default() -> PortConfig {
        PortConfig {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            scatter: false,
            offloads: Offloads::NONE,
            rss_key: None,
            urgent: false,
        }
    }
}

/// A queue of its own for frames that must not wait behind others: ARP, VRRP, neighbour discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Urgent {
    /// Number of the RX queue, behind those that flows are spread over.
    pub queue: u16,
    /// Of `rvs_urgent`.
    kinds: NonZeroU8,
}

impl Urgent {
    /// None for no kinds.
    pub(super) fn new(queue: u16, kinds: u32) -> Option<Urgent> {
        let kinds = NonZeroU8::new(kinds as u8)?;
        Some(Urgent { queue, kinds })
    }

    /// What a port must be able to keep apart, or the queue is not worth having.
    pub(super) const LEAST: u32 = ffi::RVS_URGENT_ARP | ffi::RVS_URGENT_VRRP4;

    const NAMES: [(u32, &str); 4] = [
        (ffi::RVS_URGENT_ARP, "arp"),
        (ffi::RVS_URGENT_VRRP4, "vrrp"),
        (ffi::RVS_URGENT_VRRP6, "vrrp6"),
        (ffi::RVS_URGENT_ND, "nd"),
    ];

    /// What comes by it.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let is_in = move |(bit, _): &(u32, &str)| u32::from(self.kinds.get()) & bit != 0;
        let named = Urgent::NAMES.into_iter().filter(is_in);
        named.map(|(_, name)| name)
    }
}

/// How a running port is set up.
#[derive(Clone, Copy, Debug)]
pub struct PortSetup {
    /// RX queues.
    pub rx_queues: u16,
    /// TX queues.
    pub tx_queues: u16,
    /// Descriptors of each RX queue.
    pub rx_descriptors: u16,
    /// Descriptors of each TX queue.
    pub tx_descriptors: u16,
    /// MTU in bytes.
    pub mtu: u16,
    /// What it does with the contents of frames.
    pub offloads: Offloads,
    /// Whether flows are spread over the RX queues by the port (RSS). False with one queue, and for drivers that spread by other means.
    pub rss: bool,
    /// What does not come by those queues.
    pub urgent: Option<Urgent>,
}

/// State of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether frames can pass.
    pub up: bool,
    /// Speed in Mbit/s, if known.
    pub mbps: Option<u32>,
    /// Full duplex.
    pub full_duplex: bool,
}
