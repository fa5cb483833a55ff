//! Which end of a packet is the client: a read-only table of virtual and real endpoints.

/// See the module.
#[derive(Debug, Default)]
pub struct RoleTable {}
