//! `rvsadm upgrade`: another program takes over while nothing of what runs is lost.
//!
//! The daemon that runs is the *predecessor*. It starts the new program, the *successor*, with a
//! socket in the place of its standard input ([`wire`]), and goes on as before:
//!
//! ```text
//!  predecessor                              successor
//!  Hello: what runs            ───────────►  reads configuration and rules, starts DPDK without
//!  serves                                    ports, mirrors the kernel
//!                              ◄───────────  Prepared (or Refused: why)
//!  stops workers, lets go of ports
//!  Go: what runs, twins, admin socket ────►  attaches ports, maps the connection table, serves
//!                              ◄───────────  Serving
//!  ends
//! ```
//!
//! Whatever goes wrong before `Go` costs nothing: the successor is killed, the predecessor has never
//! stopped. What goes wrong after it brings the program of the predecessor back: it is executed anew
//! and goes on from the same [`Estate`], as after a crash.

mod estate;
mod predecessor;
mod successor;
mod wire;

use serde::{Deserialize, Serialize};

pub use estate::Estate;
pub use predecessor::{Attempt, Launch, Successor};
pub use successor::{Handed, Predecessor, RESUME, TAKE_OVER, mirror, resumed};
pub use wire::{Wire, WireError};

/// Version of the messages; raised when an older program could not understand them.
pub const PROTOCOL: u32 = 1;

/// What the predecessor says first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Version of the predecessor.
    pub version: String,
    /// Under what it keeps the runtime files of DPDK.
    pub prefix: String,
    /// Whether long frames take several of its packet buffers.
    pub scatter: bool,
    /// The file of the connection table, if it is one.
    #[serde(default)]
    pub table: Option<std::path::PathBuf>,
    /// What runs now. It may change until [`Go`].
    pub estate: Estate,
}

/// The ports are free.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Go {
    /// What runs.
    pub estate: Estate,
    /// When forwarding stopped, nanoseconds of `CLOCK_BOOTTIME`.
    pub stopped: u64,
    /// Twins whose descriptors come with this, in their order.
    pub twins: Vec<String>,
    /// How many bytes of records (`dataplane::conn::image`) follow, if the table does not go over
    /// as it lies.
    #[serde(default)]
    pub records: usize,
    /// The path of the admin socket whose descriptor comes after those.
    pub admin: Option<std::path::PathBuf>,
}

/// What the successor says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum News {
    /// Nothing is in the way.
    Prepared {
        /// Version of the successor.
        version: String,
        /// Commit it was built from.
        commit: String,
        /// It cannot go on with the table as it lies: each connection is to be sent.
        #[serde(default)]
        wants_records: bool,
    },
    /// It cannot go on.
    Refused {
        /// Why, in a line or more.
        why: String,
    },
    /// Packets are forwarded.
    Serving {
        /// Since when, nanoseconds of `CLOCK_BOOTTIME`.
        since: u64,
    },
}
