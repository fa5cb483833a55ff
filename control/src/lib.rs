//! The control side of RVS: desired state, admin API, configuration, netlink.
#![forbid(unsafe_code)]

pub mod admin;
pub mod api;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod drains;
#[cfg(test)]
mod fake;
pub mod files;
pub mod health;
pub mod host;
pub mod ids;
pub mod import;
pub mod logging;
pub mod model;
pub mod netlink;
pub mod notify;
pub mod pem;
pub mod reactor;
pub mod recovery;
pub mod reload;
pub mod schedulers;
pub mod script;
pub mod server;
pub mod signals;
pub mod state;
pub mod stats;
pub mod status;
pub mod sync;
pub mod sysctl;
pub mod timers;
pub mod trash;
pub mod twin;
pub mod update;
pub mod upgrade;
pub mod vrrp;
pub mod walk;
pub mod watchdog;
pub mod workers;
