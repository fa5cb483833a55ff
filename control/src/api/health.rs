//! Health of servers, as listed.

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
}
