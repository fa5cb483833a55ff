//! The data-plane core of RVS: a function of (state, time, packet).
//!
//! No DPDK, thread, clock, lock or allocation after set-up lives here.
#![deny(unsafe_code)]

pub mod addr;
pub mod capture;
pub mod changes;
pub mod command;
pub mod conn;
pub mod counters;
pub mod dests;
pub mod flow;
pub mod forward;
pub mod fragments;
pub mod helper;
pub mod lease;
pub mod limit;
pub mod marks;
pub mod packet;
pub mod partial;
pub mod probe;
pub mod proto;
pub mod punt;
pub mod roles;
pub mod route;
pub mod schedule;
pub mod service;
pub mod settings;
pub mod steering;
pub mod sync;
pub mod team;
pub mod time;
pub mod toeplitz;
pub mod wire;
pub mod worker;
