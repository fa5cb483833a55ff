//! A script's exit codes, counted (`vrrp_script`).

use super::Verdict;

/// Counts results so that one odd result changes nothing.
///
/// The counter runs from 0 to rise + fall − 1; all is well from `rise` on. Each result moves it
/// by one; a crossing in either direction goes to the end of the scale, so that the way back
/// takes the full count again. The first result decides alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    rise: u32,
    fall: u32,
    /// `None` before the first result.
    count: Option<u32>,
}

impl Script {
    /// `rise` successes in a row make a failed script well, `fall` failures a good one failed;
    /// both at least 1. `init_fail`: it starts as failed, not as unknown.
    pub fn new(rise: u32, fall: u32, init_fail: bool) -> Script {
        Script {
            rise: rise.max(1),
            fall: fall.max(1),
            count: init_fail.then_some(0),
        }
    }

    /// A run ended. A timeout is a failure.
    pub fn observe(&mut self, is_success: bool) {
        let (rise, top) = (self.rise, self.rise.saturating_add(self.fall) - 1);
        self.count = Some(match (self.count, is_success) {
            (None, true) => top,
            (None, false) => 0,
            (Some(count), true) if count + 1 >= rise && count < rise => top,
            (Some(count), true) => (count + 1).min(top),
            (Some(count), false) if count <= rise => 0,
            (Some(count), false) => count - 1,
        });
    }

    pub(super) fn is_like(&self, other: &Script) -> bool {
        (self.rise, self.fall) == (other.rise, other.fall)
    }

    /// What it says now.
    pub fn verdict(&self) -> Verdict {
        match self.count {
            None => Verdict::Unknown,
            Some(count) if count >= self.rise => Verdict::Up,
            Some(_) => Verdict::Down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Verdicts after each result: `+` success, `-` failure; `U` up, `D` down.
    fn verdicts(mut script: Script, results: &str) -> String {
        results
            .chars()
            .map(|result| {
                script.observe(result == '+');
                if script.verdict() == Verdict::Up {
                    'U'
                } else {
                    'D'
                }
            })
            .collect()
    }

    #[test]
    fn results_are_counted() {
        let script = || Script::new(2, 3, false);
        assert_eq!(script().verdict(), Verdict::Unknown);
        assert_eq!(verdicts(script(), "+"), "U");
        assert_eq!(verdicts(script(), "-"), "D");
        // Three failures in a row; a success in between starts the count again, step by step.
        assert_eq!(verdicts(script(), "+---"), "UUUD");
        assert_eq!(verdicts(script(), "+--+--"), "UUUUUD");
        assert_eq!(verdicts(script(), "+--++---"), "UUUUUUUD");
        // Two successes in a row.
        assert_eq!(verdicts(script(), "-++"), "DDU");
        assert_eq!(verdicts(script(), "-+-++"), "DDDDU");
        // Risen anew, it takes three failures again.
        assert_eq!(verdicts(script(), "-++---"), "DDUUUD");
        assert_eq!(verdicts(Script::new(1, 1, false), "+-+-"), "UDUD");
    }

    #[test]
    fn init_fail_is_a_verdict() {
        assert_eq!(Script::new(2, 1, true).verdict(), Verdict::Down);
        assert_eq!(verdicts(Script::new(2, 1, true), "++"), "DU");
    }
}
