//! What can go wrong with a port.

use std::fmt;
use std::io;

use thiserror::Error;

/// Why something could not be done with a port. The message names the port and what to do.
#[derive(Debug, Error)]
pub enum PortError {
    /// DPDK does not know the name.
    #[error("port {port}: DPDK has no such port; it has {known}", known = list(.known))]
    Unknown {
        /// Name asked for.
        port: String,
        /// Names there are.
        known: Vec<String>,
    },
    /// Somebody in this process has the port.
    #[error("port {0} is already open")]
    AlreadyOpen(String),
    /// Fewer RX queues than asked for.
    #[error(
        "port {port} has {have} RX queues but {want} workers are configured; lower workers to {have}"
    )]
    TooFewRxQueues {
        /// Name of the port.
        port: String,
        /// Queues it has.
        have: u16,
        /// Queues asked for.
        want: u16,
    },
    /// Fewer TX queues than asked for.
    #[error(
        "port {port} has {have} TX queues but {want} workers are configured; lower workers to {have}"
    )]
    TooFewTxQueues {
        /// Name of the port.
        port: String,
        /// Queues it has.
        have: u16,
        /// Queues asked for.
        want: u16,
    },
    /// The driver does not do this MTU.
    #[error("port {port}: MTU {mtu} is outside of {min} to {max}, which its driver allows")]
    Mtu {
        /// Name of the port.
        port: String,
        /// MTU asked for, bytes.
        mtu: u16,
        /// Smallest, bytes.
        min: u16,
        /// Largest, bytes.
        max: u16,
    },
    /// Frames of this MTU do not fit into one buffer.
    #[error(
        "port {port}: frames of MTU {mtu} need {need} bytes but the buffers hold {room}; raise the \
         buffer size or lower the MTU"
    )]
    BufferTooSmall {
        /// Name of the port.
        port: String,
        /// MTU asked for, bytes.
        mtu: u16,
        /// Bytes a frame takes.
        need: u16,
        /// Bytes of frame a buffer holds.
        room: u16,
    },
    /// A call of the driver failed.
    #[error("port {port} ({driver}): cannot {what}: {cause}")]
    Driver {
        /// Name of the port.
        port: String,
        /// Name of its driver.
        driver: String,
        /// What was tried.
        what: String,
        /// What it said.
        cause: io::Error,
    },
    /// Queues are still lent.
    #[error("port {port} cannot be stopped: {queues} of its queues are still in use")]
    QueuesInUse {
        /// Name of the port.
        port: String,
        /// Queues not returned.
        queues: usize,
    },
    /// A device could not be attached or detached.
    #[error("device {device} cannot be {what}: {cause}")]
    Hotplug {
        /// Name or address.
        device: String,
        /// `attached` or `detached`.
        what: &'static str,
        /// What DPDK said.
        cause: io::Error,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// A port that could not change its state, and why. It is as it was before.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct Refused<P: fmt::Debug> {
    /// The port.
    pub port: P,
    /// The reason.
    #[source]
    pub error: PortError,
}
