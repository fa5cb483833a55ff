//! Connection synchronisation as IPVS has it: what its messages mean, and when a connection is
//! announced.
//!
//! A master tells its backups of connections in UDP datagrams ([`wire`]); whether a packet makes
//! it do so is decided by the rules of `ip_vs_sync_conn_needed` ([`decide`]). Sockets and time are
//! the control side's: a worker puts what it announces into a bounded queue ([`outbox`]) and takes
//! what was received as a command ([`Batch`]).

mod batch;
mod check;
mod collection;
pub mod decide;
pub mod outbox;
pub mod wire;

use crate::addr::Endpoint;
use crate::helper::sequence::Adjustment;
pub use batch::{Age, BATCH, Batch, Synced};
pub use check::Refusal;
pub use collection::{Collection, Wanted};
pub use decide::Rules;
pub use outbox::Outbox;

/// Flags of a connection as they travel (`IP_VS_CONN_F_*`).
pub mod flag {
    /// Bits of the forwarding method.
    pub const METHOD: u32 = 0x0007;
    /// Made by synchronisation.
    pub const SYNC: u32 = 0x0020;
    /// In a hash table: never sent.
    pub const HASHED: u32 = 0x0040;
    /// Replies have not been seen.
    pub const NOOUTPUT: u32 = 0x0080;
    /// Counted as inactive.
    pub const INACTIVE: u32 = 0x0100;
    /// Sequence numbers of the server are adjusted.
    pub const OUT_SEQ: u32 = 0x0200;
    /// Sequence numbers of the client are adjusted.
    pub const IN_SEQ: u32 = 0x0400;
    /// Either of them.
    pub const SEQUENCE: u32 = OUT_SEQ | IN_SEQ;
    /// The client's port is not known yet.
    pub const NO_CPORT: u32 = 0x0800;
    /// A persistence template.
    pub const TEMPLATE: u32 = 0x1000;
    /// One-packet scheduling.
    pub const ONE_PACKET: u32 = 0x2000;
}

/// How the numbers of both directions of a stream are moved. The kernel's fields are `init_seq`,
/// `delta` and `previous_delta`, in this order: [`Adjustment::at`], `after`, `before`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Of the client.
    pub client: Adjustment,
    /// Of the real server.
    pub server: Adjustment,
}

/// A connection or template as it is announced, of either version and family. Client, virtual and
/// real address are of one family. Engine data travel beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncEntry {
    /// IP protocol number; 0 for the template of a mark.
    pub protocol: u8,
    /// [`flag`] bits; version 0 keeps the lower sixteen.
    pub flags: u32,
    /// State number of the protocol's machine; of a template 0 or 1 (assured).
    pub state: u16,
    /// Client; of a template its network and port 0.
    pub client: Endpoint,
    /// Virtual address and port; of a mark's template the mark in the place of the address.
    pub virtual_: Endpoint,
    /// Real server.
    pub dest: Endpoint,
    /// Firewall mark of the packet that made it; version 0 has none.
    pub fwmark: u32,
    /// Timeout of its state, seconds; 0 leaves it to the receiver, as version 0 always does.
    pub timeout: u32,
    /// Adjustment of sequence numbers.
    pub sequence: Option<Sequence>,
}

impl SyncEntry {
    /// Whether it is a persistence template.
    pub fn is_template(&self) -> bool {
        self.flags & flag::TEMPLATE != 0
    }
}

/// What a persistence engine keeps with a template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineData<'a> {
    /// The data, at most 255 bytes; empty: none.
    pub data: &'a [u8],
    /// Name of the engine, at most 16 bytes.
    pub name: &'a [u8],
}
