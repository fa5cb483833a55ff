//! What the test programs share: a notation for packets, and files of test vectors.
//!
//! Nothing here uses the crate's own wire code, so that one can be checked by the other.
#![allow(dead_code)] // Each test program uses its part.

pub mod model;
pub mod notation;
pub mod rig;
pub mod team;
pub mod vectors;
