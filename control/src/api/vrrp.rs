//! Virtual routers, as listed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Family;

/// All virtual routers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpView {
    /// By name.
    pub instances: Vec<VrrpInstanceView>,
    /// Adverts that no instance judged, by reason; reasons without any are left out.
    pub refused: BTreeMap<String, u64>,
}

/// A virtual router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpInstanceView {
    /// Name in the configuration.
    pub name: String,
    /// Interface that adverts cross.
    pub interface: String,
    /// Family of the adverts.
    pub family: Family,
    /// Virtual router id.
    pub vrid: u8,
    /// Version of the protocol.
    pub version: u8,
    /// `MASTER`, `BACKUP`, `FAULT`, `INIT` or `STOP`.
    pub state: String,
    /// Why it has this state.
    pub cause: String,
    /// How long, milliseconds.
    pub since_ms: u64,
    /// Effective priority.
    pub priority: u8,
    /// Configured priority.
    pub base_priority: u8,
    /// Configured interval, milliseconds.
    pub interval_ms: u64,
    /// Address that adverts come from.
    pub source: Option<IpAddr>,
    /// Sync group.
    pub group: Option<String>,
    /// Of a backup: the master it heard last.
    pub master: Option<IpAddr>,
    /// Its priority.
    pub master_priority: Option<u8>,
    /// Milliseconds to the next advert of a master, or to the end of a backup's patience.
    pub timer_ms: Option<u64>,
    /// Of a master: how long the data plane may go on to serve, milliseconds.
    pub lease_ms: Option<u64>,
    /// Virtual addresses with prefix lengths, those that adverts do not name last.
    pub addresses: Vec<String>,
    /// Whether this host holds them.
    pub holds: bool,
    /// Routers heard, the latest last.
    pub peers: Vec<VrrpPeerView>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// Refused adverts by reason; reasons without any are left out.
    pub invalid: BTreeMap<String, u64>,
    /// Alarms that were raised.
    pub alarms: Vec<VrrpAlarmView>,
}

/// A router that was heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpPeerView {
    /// Its address.
    pub addr: IpAddr,
    /// Its priority when it was last heard; 0 if it gave up.
    pub priority: u8,
    /// Its version.
    pub version: u8,
    /// Its interval, milliseconds.
    pub interval_ms: u64,
    /// How long ago it was heard, milliseconds.
    pub heard_ms: u64,
    /// Whether it has our addresses.
    pub same_addresses: bool,
}

/// An alarm that was raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpAlarmView {
    /// `foreign-mac`, `address-mismatch` …
    pub name: String,
    /// How often.
    pub count: u64,
    /// What the last one said.
    pub last: String,
}
