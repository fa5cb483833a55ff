//! The documents that go in and come out.

use serde::{Deserialize, Serialize};

/// What there is, and what happens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Around the balancer.
    pub network: Network,
    /// Text of the configuration file, without ports.
    pub config: String,
    /// In order.
    pub steps: Vec<Step>,
}

/// Ports, addresses and neighbours.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Data ports, numbered from 0.
    pub ports: Vec<Port>,
    /// Next hops of the default routes, behind port 0.
    pub gateways: Vec<String>,
    /// Addresses of the host besides those of its ports.
    pub local: Vec<String>,
    /// Port, address, MAC.
    pub neighbours: Vec<(u16, String, String)>,
}

/// A port.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its MAC.
    pub mac: String,
    /// Bytes of layer 3.
    pub mtu: u16,
    /// With prefix length.
    pub addresses: Vec<String>,
}

/// One step, `at` so many seconds after the start; earlier times count as now.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// When.
    pub at: f64,
    /// What.
    #[serde(rename = "do")]
    pub action: Action,
}

/// What happens.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// A call of `rvsadm`: its words, and what it reads.
    Rvsadm(String, String),
    /// A frame (hexadecimal) comes in by a port.
    Frame(u16, String),
    /// The configuration file has this text now and is loaded again.
    Reload(String),
    /// Nothing but time passing.
    Wait,
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Of `rvsadm`.
    Rvsadm {
        /// Exit status.
        status: u8,
        /// Standard output.
        out: String,
        /// Standard error.
        err: String,
    },
    /// Of a frame.
    Frame {
        /// `transmit`, `kernel`, `wait`, or the name of a drop reason.
        verdict: &'static str,
        /// Frames that leave: port and bytes (hexadecimal).
        out: Vec<(u16, String)>,
    },
    /// Of a reload.
    Reload {
        /// What was said, or why not.
        text: String,
    },
    /// Of a wait.
    Wait,
}
