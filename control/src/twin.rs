//! Settings of the kernel's devices around a data port, made before the port starts.
//!
//! [`sysctls`] gives a twin the values that a load balancer needs, [`guard`] keeps the kernel
//! from answering on the device behind an af_packet port, [`owned`] marks the addresses that
//! RVS itself adds, so that those of a dead process can be told from the operator's.

pub mod guard;
pub mod owned;
pub mod sysctls;

pub use guard::{Guard, GuardError};
pub use owned::OwnedError;
