//! What an instance counts.

use core::ops::Index;

use crate::packet::Invalid;

/// Refused adverts by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidCounters([u64; Invalid::COUNT]);

impl Default for InvalidCounters {
    fn default() -> InvalidCounters {
        InvalidCounters([0; Invalid::COUNT])
    }
}

impl InvalidCounters {
    /// Counts one.
    pub(crate) fn raise(&mut self, reason: Invalid) {
        self.0[reason as usize] += 1;
    }

    /// Every reason with its count, in the order of the checks.
    pub fn iter(&self) -> impl Iterator<Item = (Invalid, u64)> + '_ {
        Invalid::ALL.iter().map(|reason| (*reason, self[*reason]))
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Index<Invalid> for InvalidCounters {
    type Output = u64;
    fn index(&self, reason: Invalid) -> &u64 {
        &self.0[reason as usize]
    }
}

/// Counters of an instance since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Rounds of adverts sent; with unicast a round is one per peer.
    pub adverts_sent: u64,
    /// Valid adverts received.
    pub adverts_received: u64,
    /// Rounds with priority 0 sent.
    pub zero_sent: u64,
    /// Valid adverts with priority 0 received.
    pub zero_received: u64,
    /// Valid adverts of a lower priority received as master: two masters at once.
    pub lower_received: u64,
    /// Valid adverts whose addresses are not the configured ones.
    pub address_mismatches: u64,
    /// Valid version 3 adverts whose interval is not the configured one.
    pub interval_mismatches: u64,
    /// Claims of our addresses by a foreign MAC while master.
    pub foreign_claims: u64,
    /// Times that the program was held up for so long that it had to listen again.
    pub held_up: u64,
    /// Times that it became master.
    pub became_master: u64,
    /// Times that it ceased to be master.
    pub released_master: u64,
    /// Refused adverts.
    pub invalid: InvalidCounters,
}
