//! Settings of the kernel's devices around a data port, made before the port starts.
//!
//! [`sysctls`] gives a twin the values that a load balancer needs, [`guard`] keeps the kernel
//! from answering on the device behind an af_packet port, [`owned`] marks the addresses that
//! RVS itself adds, so that those of a dead process can be told from the operator's.

use std::io;

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use crate::netlink::message::IfIndex;

pub mod guard;
pub mod owned;
pub mod sysctls;

pub use guard::{Guard, GuardError};
pub use owned::OwnedError;

/// The kernel's index of a device in the network namespace of this process.
fn index(device: &str) -> io::Result<IfIndex> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    Ok(rustix::net::netdevice::name_to_index(&socket, device)?)
}

fn exists(device: &str) -> bool {
    index(device).is_ok()
}
