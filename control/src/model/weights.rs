//! The weight of a server: the one place where what the operator wants, what its health says and
//! what a drain asks meet.

use dataplane::service::Withdrawal;

use crate::config::OperatorState;

/// Where the pool of its service has put a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// In service.
    #[default]
    Serves,
    /// It failed: there with weight 0. Whether its clients leave it.
    Failed {
        /// As far as they can.
        leave: bool,
    },
    /// It lives, but others serve in its place: there with weight 0.
    Rests {
        /// Its clients leave it, as far as they can.
        leave: bool,
    },
    /// Not there: as if it were deleted.
    Removed,
}

/// What decides about a server's effective weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// As configured, or as set by `-a` and `-e`.
    pub configured: u32,
    /// What the operator wants.
    pub state: OperatorState,
    /// What the health of the service's servers says.
    pub place: Place,
    /// What checks add to the weight.
    pub delta: i64,
    /// The deadline of its drain has passed.
    pub over: bool,
    /// The last effective weight that was not 0.
    pub(super) last: u32,
}

impl Weights {
    /// Of a server that was just added.
    pub(super) fn new(configured: u32, state: OperatorState) -> Weights {
        Weights {
            configured,
            state,
            ..Weights::default()
        }
    }

    /// The same with what checks add now.
    pub fn with_delta(self, delta: i64) -> Weights {
        Weights { delta, ..self }
    }

    /// Whether the operator wants it to take nothing new: drained, or weight 0. No check ever
    /// changes that.
    pub fn is_drained(&self) -> bool {
        self.state == OperatorState::Drain || self.configured == 0
    }

    /// Its weight while it lives, which counts for quorum.
    pub fn living(&self) -> u32 {
        if self.is_drained() {
            return 0;
        }
        let weight = i64::from(self.configured).saturating_add(self.delta);
        weight.clamp(0, i64::from(i32::MAX)) as u32
    }

    /// What the schedulers see.
    pub fn effective(&self) -> u32 {
        match self.place {
            Place::Serves => self.living(),
            Place::Failed { .. } | Place::Rests { .. } | Place::Removed => 0,
        }
    }

    /// How it is out of service, if its connections are to know. Weight 0 alone is no reason, and
    /// a drained server that only rests keeps what it has.
    pub fn withdrawal(&self) -> Option<Withdrawal> {
        match self.place {
            _ if self.over => Some(Withdrawal::Over),
            Place::Failed { leave: true } => Some(Withdrawal::Failed),
            Place::Rests { leave: true } if !self.is_drained() => Some(Withdrawal::Failed),
            _ => None,
        }
    }

    /// Whether workers know it at all.
    pub fn is_there(&self) -> bool {
        self.place != Place::Removed
    }

    /// To be called when an input changed.
    pub(super) fn settle(&mut self) {
        let weight = self.effective();
        if weight != 0 {
            self.last = weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: [Place; 4] = [
        Place::Serves,
        Place::Failed { leave: true },
        Place::Rests { leave: true },
        Place::Removed,
    ];

    fn weights(configured: u32, state: OperatorState, place: Place, delta: i64) -> Weights {
        Weights {
            configured,
            state,
            place,
            delta,
            ..Weights::default()
        }
    }

    #[test]
    fn only_a_living_server_that_nobody_drains_has_weight() {
        for place in PLACES {
            for (state, configured) in [(OperatorState::Drain, 5), (OperatorState::Up, 0)] {
                let w = weights(configured, state, place, 7);
                assert_eq!((w.effective(), w.living()), (0, 0), "{w:?}");
            }
            let w = weights(5, OperatorState::Up, place, 0);
            let wanted = if place == Place::Serves { 5 } else { 0 };
            assert_eq!(w.effective(), wanted, "{w:?}");
        }
    }

    #[test]
    fn checks_add_to_the_weight_within_its_bounds() {
        for (delta, wanted) in [
            (0, 5),
            (7, 12),
            (-3, 2),
            (-9, 0),
            (i64::MAX, i32::MAX as u32),
        ] {
            let w = weights(5, OperatorState::Up, Place::Serves, delta);
            assert_eq!(w.effective(), wanted, "{delta}");
        }
    }

    #[test]
    fn clients_leave_what_failed_and_stay_with_what_is_drained() {
        let of = |state, place| weights(5, state, place, 0).withdrawal();
        let (up, drain) = (OperatorState::Up, OperatorState::Drain);
        let (failed, rests) = (Place::Failed { leave: true }, Place::Rests { leave: true });
        assert_eq!(of(up, Place::Serves), None);
        assert_eq!(of(drain, Place::Serves), None);
        assert_eq!(of(up, failed), Some(Withdrawal::Failed));
        assert_eq!(of(drain, failed), Some(Withdrawal::Failed));
        assert_eq!(of(up, rests), Some(Withdrawal::Failed));
        assert_eq!(of(drain, rests), None);
        assert_eq!(of(up, Place::Failed { leave: false }), None);
        let mut w = weights(5, drain, Place::Serves, 0);
        w.over = true;
        assert_eq!(w.withdrawal(), Some(Withdrawal::Over));
    }
}
