//! What all trackers of an instance come to, and the priority that follows.

use super::{Tracked, Verdict};
use crate::config::OWNER;

/// Below this, the product of a file's number and its weight is a fault.
const FILE_FAULT: i64 = -254;

/// What all trackers of an instance come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Summary {
    /// To be added to the priority.
    pub weight: i32,
    /// Trackers that are a fault.
    pub faults: u32,
    /// Trackers whose failure would be a fault and that said nothing yet.
    pub pending: u32,
}

impl Summary {
    /// Adds a tracker's verdict.
    pub fn with(mut self, tracked: Tracked, verdict: Verdict) -> Summary {
        let Tracked {
            weight, reverse, ..
        } = tracked;
        let direction = if reverse { -1 } else { 1 };
        match (verdict, weight) {
            (Verdict::Unknown, 0) => self.pending += 1,
            (Verdict::Unknown, _) => {}
            (Verdict::Up, 0) => self.faults += u32::from(reverse),
            (Verdict::Down, 0) => self.faults += u32::from(!reverse),
            (Verdict::Up, 1..) | (Verdict::Down, ..0) => {
                self.weight += direction * i32::from(weight);
            }
            (Verdict::Up, ..0) | (Verdict::Down, 1..) => {}
            (Verdict::Value(value), 0) => self.faults += u32::from((value != 0) != reverse),
            (Verdict::Value(value), weight) => {
                let product = i64::from(value) * i64::from(weight) * i64::from(direction);
                if product <= FILE_FAULT {
                    self.faults += 1;
                } else {
                    // At most 253, which fits.
                    self.weight += product.min(253) as i32;
                }
            }
        }
        self
    }
}

/// Base priority and weights, 1 to 254. An owner's never changes.
pub fn effective_priority(base: u8, weight: i32) -> u8 {
    if base == OWNER {
        return OWNER;
    }
    // The clamp makes it fit.
    i32::from(base).saturating_add(weight).clamp(1, 254) as u8
}

#[cfg(test)]
mod tests {
    use super::super::TrackerId;
    use super::*;

    fn summary(weight: i16, reverse: bool, verdict: Verdict) -> (i32, u32, u32) {
        let tracked = Tracked {
            tracker: TrackerId(0),
            weight,
            reverse,
        };
        let s = Summary::default().with(tracked, verdict);
        (s.weight, s.faults, s.pending)
    }

    #[test]
    fn weights_and_faults() {
        use Verdict::{Down, Unknown, Up, Value};
        for (weight, reverse, verdict, expected) in [
            // Weight 0: a fault.
            (0, false, Up, (0, 0, 0)),
            (0, false, Down, (0, 1, 0)),
            (0, false, Unknown, (0, 0, 1)),
            (0, true, Up, (0, 1, 0)),
            (0, true, Down, (0, 0, 0)),
            // Above 0: added while all is well.
            (20, false, Up, (20, 0, 0)),
            (20, false, Down, (0, 0, 0)),
            (20, false, Unknown, (0, 0, 0)),
            (20, true, Up, (-20, 0, 0)),
            // Below 0: added while it is not.
            (-20, false, Up, (0, 0, 0)),
            (-20, false, Down, (-20, 0, 0)),
            (-20, true, Down, (20, 0, 0)),
            // Files: a number times the weight.
            (0, false, Value(0), (0, 0, 0)),
            (0, false, Value(3), (0, 1, 0)),
            (0, true, Value(0), (0, 1, 0)),
            (2, false, Value(-10), (-20, 0, 0)),
            (2, true, Value(-10), (20, 0, 0)),
            (1, false, Value(-253), (-253, 0, 0)),
            (1, false, Value(-254), (0, 1, 0)),
            (254, false, Value(i32::MIN), (0, 1, 0)),
            (254, false, Value(i32::MAX), (253, 0, 0)),
        ] {
            assert_eq!(
                summary(weight, reverse, verdict),
                expected,
                "weight {weight} reverse {reverse} {verdict:?}"
            );
        }
    }

    #[test]
    fn priorities_stay_in_range() {
        assert_eq!(effective_priority(100, 20), 120);
        assert_eq!(effective_priority(100, -100), 1);
        assert_eq!(effective_priority(250, 20), 254);
        assert_eq!(effective_priority(255, -20), 255);
        assert_eq!(effective_priority(100, i32::MAX), 254);
    }
}
