//! The mirror of the kernel's addresses, routes and neighbours.
//!
//! The operator uses `ip addr`, `ip route`, FRR or BIRD on the kernel twins; the kernel tells
//! through rtnetlink what changed; workers get it as [`Update`](crate::update::Update)s.
//!
//! [`wire`] cuts datagrams into messages and attributes, [`message`] turns them into values,
//! [`mirror`] is the state machine (no socket, no clock) and [`driver`] the socket around it.
//! The mirror is made of [`links`] (devices), [`addresses`], [`routes`] (which become the
//! [`Fib`](dataplane::route::Fib)), [`neighbours`] and [`rules`].

pub mod addresses;
pub mod driver;
pub mod links;
pub mod message;
pub mod mirror;
pub mod neighbours;
pub mod routes;
pub mod rules;
pub mod wire;

pub use driver::{Driver, OpenError};
pub use links::{Holder, Twin};
pub use mirror::{Action, Config, Dump, Input, Mirror};
