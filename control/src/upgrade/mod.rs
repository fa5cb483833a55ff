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
mod gaps;
mod predecessor;
mod successor;
mod wire;
mod yielding;

#[cfg(doc)]
use dataplane::conn::image;
use serde::{Deserialize, Serialize};

pub use estate::Estate;
pub use gaps::{Gaps, Kind, Measuring};
pub use predecessor::{Attempt, Launch, Successor};
pub use successor::{Handed, Predecessor, RESUME, TAKE_OVER, mirror, resumed};
pub use wire::{Wire, WireError};
pub use yielding::{Decision, Outlook, Progress, Yielding, decide};

/// Version of the messages; raised when an older program could not understand them.
pub const PROTOCOL: u32 = 1;

/// What a program that does not tell the version of its records has.
const fn first() -> u32 {
    1
}

/// Which versions of records meet, in words for the operator. Another layout of the table is no
/// matter, another record is.
fn other_records(writes: u32, reads: u32) -> String {
    format!(
        "connections would go over one by one, and the old program writes records of version \
         {writes} where the new one reads {reads}; restart it instead, or upgrade by a release \
         between the two"
    )
}

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
    /// Version of the records of connections that it writes ([`image::VERSION`]).
    #[serde(default = "first")]
    pub records: u32,
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
        /// Version of the records that it reads.
        #[serde(default = "first")]
        records: u32,
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
