//! Health of servers, as listed.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{ServerKey, ServiceKey};

/// A server that is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// Of which service.
    pub service: ServiceKey,
    /// Which server.
    pub server: ServerKey,
    /// Whether all its checks are up.
    pub alive: bool,
    /// What its checks add to its weight.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub weight_delta: i64,
    /// Its checks in the order of the file; none before the first word of the checks' thread.
    pub checks: Vec<CheckView>,
}

/// A check of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckView {
    /// `tcp`, `http`, as in the file.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it counts as up.
    pub up: bool,
    /// Whether an attempt has ended yet.
    pub has_run: bool,
    /// Why the last attempt failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What it asks by the data path; none for one that asks the server's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<ViaView>,
}

/// How a check asks for a virtual address (`via = "vip"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViaView {
    /// The virtual address and port that are asked for.
    pub vip: SocketAddr,
    /// The probe address that it comes from; none if the file has none of this family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// The servers of a service as a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolView {
    /// Which service.
    pub service: ServiceKey,
    /// Weight of living servers that is needed.
    pub quorum: u32,
    /// Distance of losing and gaining from it.
    pub hysteresis: u32,
    /// Weight of living servers.
    pub weight: u64,
    /// Whether there is quorum.
    pub has_quorum: bool,
    /// Its sorry server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sorry: Option<SorryView>,
    /// Nothing is checked, as this host does not hold the address.
    #[serde(default)]
    pub suspended: bool,
}

/// A sorry server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SorryView {
    /// Which one.
    pub server: ServerKey,
    /// Whether it serves.
    pub serves: bool,
}
