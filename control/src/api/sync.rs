//! Daemons of connection synchronisation, as they are started and listed.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// Which half of synchronisation. Both may run on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncRole {
    /// Announces connections.
    Master,
    /// Takes over what a master announces.
    Backup,
}

impl SyncRole {
    /// Its name in listings.
    pub const fn name(self) -> &'static str {
        match self {
            SyncRole::Master => "master",
            SyncRole::Backup => "backup",
        }
    }
}

/// Group that daemons use unless told otherwise (`IP_VS_SYNC_GROUP`).
pub const SYNC_GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 81));

/// UDP port that daemons use unless told otherwise (`IP_VS_SYNC_PORT`).
pub const SYNC_PORT: u16 = 8848;

/// `--start-daemon`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaemonSpec {
    /// Which half.
    pub role: SyncRole,
    /// Kernel interface that messages go by.
    pub interface: String,
    /// Group of balancers; a backup with 0 takes messages of all.
    #[serde(default)]
    pub syncid: u8,
    /// Largest message, bytes of UDP payload; none: by the interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maxlen: Option<u16>,
    /// Multicast group, or the address of the one peer.
    #[serde(default = "group")]
    pub group: IpAddr,
    /// UDP port; of several daemons the first.
    #[serde(default = "port")]
    pub port: u16,
    /// TTL of messages.
    #[serde(default = "ttl")]
    pub ttl: u8,
    /// Whether other nodes of RVS are spoken to besides, on the port 1000 above.
    #[serde(default = "peers")]
    pub peers: bool,
}

fn peers() -> bool {
    true
}

fn group() -> IpAddr {
    SYNC_GROUP
}

fn port() -> u16 {
    SYNC_PORT
}

fn ttl() -> u8 {
    1
}

/// A daemon as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonView {
    /// Which half.
    pub role: SyncRole,
    /// Kernel interface.
    pub interface: String,
    /// Group of balancers.
    pub syncid: u8,
    /// Largest message, bytes of UDP payload.
    pub maxlen: u16,
    /// Multicast group or peer.
    pub group: IpAddr,
    /// First UDP port.
    pub port: u16,
    /// TTL of messages.
    pub ttl: u8,
    /// Datagrams sent or received.
    #[serde(default)]
    pub messages: u64,
    /// Connections announced or taken.
    #[serde(default)]
    pub entries: u64,
    /// Connections lost on the way: by a full outbox or queue, or a failed send. A master announces
    /// them again.
    #[serde(default)]
    pub lost: u64,
    /// Datagrams and connections that made no sense.
    #[serde(default)]
    pub refused: u64,
    /// Messages are sealed, and only sealed ones are taken.
    #[serde(default)]
    pub authenticated: bool,
    /// Datagrams that were refused because they are not sealed: of a node without a key, or the
    /// kernel's.
    #[serde(default)]
    pub unsigned: u64,
    /// Because they were sealed with another key, or changed.
    #[serde(default)]
    pub forged: u64,
    /// Because they are too old, or the clocks differ by more than five minutes.
    #[serde(default)]
    pub stale: u64,
    /// Because they came before.
    #[serde(default)]
    pub replayed: u64,
    /// How often its interface went away.
    #[serde(default)]
    pub cuts: u64,
    /// Hellos of other nodes of RVS that were not taken.
    #[serde(default)]
    pub hellos_refused: HellosRefused,
    /// Nodes of RVS with the other half.
    #[serde(default)]
    pub peers: Vec<PeerView>,
}

/// Hellos that were not taken, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HellosRefused {
    /// Not sealed: of a node without a key.
    pub unsigned: u64,
    /// Sealed with another key, or changed.
    pub forged: u64,
    /// Too old, or the clocks differ by more than five minutes.
    pub stale: u64,
    /// They came before.
    pub replayed: u64,
    /// No hellos, or of another version.
    pub garbled: u64,
}

/// Another node of RVS, as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Where it is.
    pub addr: IpAddr,
    /// The MAC of its interface.
    pub node: String,
    /// Whether it was heard lately.
    pub alive: bool,
    /// Milliseconds since then.
    pub heard_ms: u64,
    /// Entries in its table.
    pub connections: u64,
    /// Its whole table came; of a backup, nothing is to come.
    pub complete: bool,
    /// It lives, takes over, and has taken the whole table of this node.
    #[serde(default)]
    pub in_step: bool,
    /// How often messages were found to be missing.
    pub gaps: u64,
    /// Messages that were.
    pub missed: u64,
    /// Copies that mended that.
    pub repairs: u64,
    /// Whole tables that were copied.
    pub transfers: u64,
    /// Copies that kept timers from running out.
    pub refreshes: u64,
    /// Entries of the last whole table.
    pub copied: u64,
    /// Milliseconds that it took.
    pub copied_ms: u64,
}
