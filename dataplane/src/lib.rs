//! The data-plane core of RVS: a function of (state, time, packet).
//!
//! No DPDK, thread, clock, lock or allocation after set-up lives here.
#![deny(unsafe_code)]

pub mod addr;
pub mod command;
pub mod counters;
pub mod flow;
pub mod packet;
pub mod proto;
pub mod roles;
pub mod route;
pub mod schedule;
pub mod service;
pub mod settings;
pub mod time;
pub mod wire;
