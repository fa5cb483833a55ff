//! DPDK for RVS: the edge where packets come from and go to, and the home of `unsafe`.
//!
//! | module | concept |
//! | --- | --- |
//! | [`eal`] | start and end of DPDK, worker lcores |
//! | [`lcore`] | cores, affinity |
//! | [`host`] | what the machine offers, and what it lacks |
//! | [`mempool`], [`mbuf`] | packet buffers: who owns them, how the core borrows their bytes |
//! | [`port`] | NICs and virtual ports, their queues |
//! | [`poll`] | the worker's loop |
//! | [`pump`] | frames between workers and kernel twins |
//! | [`ring`] | packet buffers between threads |
//! | [`tap`] | the kernel's end of a port |
//! | [`region`] | memory of the connection tables |
//! | [`clock`] | the time, once per burst |
//!
//! What DPDK's C headers offer is reached through `shim.h` only, so that differences between its
//! releases are met in one place. A packet buffer has one owner at any time ([`mbuf`]); the core
//! sees its bytes as a borrowed `Packet` and can neither free nor keep it.
#![deny(missing_docs)]

pub mod ahead;
pub mod clock;
pub mod eal;
mod ffi;
pub mod host;
pub mod lcore;
pub mod mbuf;
pub mod members;
pub mod mempool;
pub mod numa;
pub mod peers;
pub mod poll;
pub mod port;
pub mod pump;
pub mod region;
pub mod ring;
pub mod sched;
pub mod tap;
