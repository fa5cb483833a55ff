//! The health of one real server: alive while every check of it is up.

use crate::monitor::Monitor;

/// Largest weight of a server.
pub const MAX_WEIGHT: i64 = i32::MAX as i64;

/// The health of one real server.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// Its checks; none means always alive.
    pub checks: Vec<Monitor>,
    /// Configured weight.
    pub weight: u32,
}

impl Server {
    /// Whether all its checks are up.
    pub fn is_alive(&self) -> bool {
        self.checks.iter().all(Monitor::is_up)
    }

    /// The weight with what its checks add to it now. Always computed from the configured one, so
    /// that nothing accumulates.
    pub fn effective_weight(&self) -> u32 {
        let deltas = self.checks.iter().map(Monitor::delta);
        let weight = deltas.fold(i64::from(self.weight), i64::saturating_add);
        weight.clamp(0, MAX_WEIGHT) as u32
    }
}
