//! In-place edits of a packet that belongs to a connection: NAT, tunnels, layer 2.

pub mod link;
pub mod nat;

pub use link::send;
