//! What a port is, how it is to be set up, and how it is.

use dataplane::addr::Mac;
use dataplane::toeplitz::KEY_BYTES;

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
    /// What flows are spread by over several RX queues, if the port takes one; `None`: a key that
    /// takes both directions of a flow to the same queue.
    pub rss_key: Option<[u8; KEY_BYTES]>,
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
            rss_key: None,
        }
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
    /// Whether flows are spread over the RX queues by the port (RSS). False with one queue, and for drivers that spread by other means.
    pub rss: bool,
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
