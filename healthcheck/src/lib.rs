//! Health checks as sans-IO state machines: no socket, clock, thread or process in here.
//!
//! Four layers, each usable without the next:
//!
//! * [`check`]: one attempt. A [`Conversation`](check::Conversation) is told what arrived and says
//!   what to send, until it has a [`Verdict`].
//! * [`monitor`]: one check over time. When the next attempt is due, and how many results in a
//!   row turn it up or down.
//! * [`server`]: one real server, which is alive while all of its monitors are up.
//! * [`pool`]: one virtual service: quorum with hysteresis, sorry server, which server is in the
//!   table at which weight.
//!
//! A driver owns the sockets. For each monitor that is due it starts an attempt, carries out the
//! steps, ends it at its deadline and hands the verdict back. Times are nanoseconds of a clock
//! that never jumps ([`Instant`]).
#![forbid(unsafe_code)]

pub mod check;
pub mod monitor;
pub mod pool;
pub mod server;
mod time;
mod verdict;

pub use time::Instant;
pub use verdict::{Failure, Passed, Verdict};
