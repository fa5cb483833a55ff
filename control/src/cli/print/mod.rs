//! What the operator reads. Formats of [`services`], [`connections`] and [`commands`] are
//! ipvsadm's to the byte, trailing blanks included; [`status`] and [`json`] are our own.

pub mod commands;
pub mod connections;
pub mod daemons;
pub mod endpoint;
pub mod health;
pub mod json;
pub mod services;
pub mod sort;
pub mod status;
pub mod totals;
pub mod vrrp;
