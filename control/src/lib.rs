//! The control side of RVS: desired state, admin API, configuration, netlink.
#![forbid(unsafe_code)]

pub mod api;
pub mod config;
