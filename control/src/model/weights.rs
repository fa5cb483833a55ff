//! The weight of a server.

use crate::config::OperatorState;

/// The three inputs of a server's effective weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// As configured, or as set by `-a` and `-e`.
    pub configured: u32,
    /// What the operator wants.
    pub state: OperatorState,
    /// What the health checks say.
    pub healthy: bool,
    /// The last effective weight that was not 0.
    pub(super) last: u32,
}

impl Weights {
    /// What the schedulers see.
    pub fn effective(&self) -> u32 {
        self.state.effective_weight(self.configured, self.healthy)
    }

    /// To be called when an input changed.
    pub(super) fn settle(&mut self) {
        let weight = self.effective();
        if weight != 0 {
            self.last = weight;
        }
    }
}
