//! Routes, neighbours and links, as mirrored from the kernel.
//!
//! Control builds a [`Fib`], an immutable snapshot that shares almost all of its memory with the
//! one before, and hands it to each worker. A worker's [`Router`] joins it with links and
//! neighbours: address in, port, VLAN and MAC out.

mod failed;
mod fib;
mod router;
mod trie;

use crate::addr::{Addr, Mac};
use crate::packet::PortId;

pub use fib::{
    Change, Fib, FibBuilder, Lookup, NextHop, NextHops, Prefix, Reject, Target, TargetId,
};
pub use router::{MAX_LINKS, ResolvedHop, Route, Router, Unresolved};

/// A (port, VLAN) pair; dense index given by control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u16);

/// Where frames leave: a data port, or an 802.1Q VLAN on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The port.
    pub port: PortId,
    /// VLAN id, 0 for untagged.
    pub vlan: u16,
    /// Source MAC of frames we send.
    pub mac: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Port and device are up.
    pub up: bool,
}

/// Stable index of a neighbour, given by control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NeighbourId(pub u32);

/// A resolved next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The link it is on.
    pub link: LinkId,
    /// Its address.
    pub addr: Addr,
    /// Its MAC.
    pub mac: Mac,
}
