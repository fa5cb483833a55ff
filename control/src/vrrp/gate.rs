//! When this node may take over from a living master: when it can go on with what that one does.

use std::time::Duration;

use dataplane::time::Instant;

/// How long the kernel asks for a neighbour that does not answer.
const NEIGHBOURS: Duration = Duration::from_secs(4);

/// What of this node is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Every master of the synchronisation has given its whole table.
    pub table: bool,
    /// Every health check has run once.
    pub checks: bool,
    /// The MAC of every next hop to a real server is known.
    pub neighbours: bool,
}

impl Ready {
    /// What is not, in words.
    pub fn missing(self) -> String {
        let all = [
            (self.table, "the table of its peers"),
            (self.checks, "the first round of its checks"),
            (self.neighbours, "the MACs of its real servers"),
        ];
        let missing = all.iter().filter(|(is_ready, _)| !is_ready);
        missing
            .map(|(_, what)| *what)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// See the module. It is closed until it was first judged.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// Since when something is missing; `None` if nothing is.
    since: Option<Instant>,
    is_held: bool,
}

impl Gate {
    /// Of a node that starts.
    pub fn new(now: Instant) -> Gate {
        Gate {
            since: Some(now),
            is_held: true,
        }
    }

    /// Whether living masters are left alone.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Judges anew; true if that changed something. `longest`: after that nothing is waited for.
    pub fn judge(&mut self, now: Instant, ready: Ready, longest: Duration) -> bool {
        let waited = now.since(self.since.unwrap_or(now));
        let neighbours = ready.neighbours || self.since.is_some() && waited >= NEIGHBOURS;
        let is_ready = ready.table && ready.checks && (neighbours || !self.is_held);
        if is_ready {
            self.since = None;
        } else {
            self.since.get_or_insert(now);
        }
        let is_held = !is_ready && waited < longest;
        std::mem::replace(&mut self.is_held, is_held) != is_held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Ready = Ready {
        table: true,
        checks: true,
        neighbours: true,
    };

    fn at(ms: u64) -> Instant {
        Instant(5_000_000_000 + ms * 1_000_000)
    }

    /// When it opens, of what is ready at which times, in milliseconds; looked at ten times a second.
    fn opens(longest: u64, ready: impl Fn(u64) -> Ready) -> Option<u64> {
        let mut gate = Gate::new(at(0));
        let longest = Duration::from_millis(longest);
        (0..1000).map(|n| n * 100).find(|&ms| {
            gate.judge(at(ms), ready(ms), longest);
            !gate.is_held()
        })
    }

    #[test]
    fn everything_is_waited_for_up_to_a_time() {
        assert_eq!(opens(30_000, |_| ALL), Some(0));
        let table = |from: u64| {
            move |ms| Ready {
                table: ms >= from,
                ..ALL
            }
        };
        assert_eq!(opens(30_000, table(7000)), Some(7000));
        assert_eq!(opens(30_000, table(70_000)), Some(30_000));
        assert_eq!(opens(0, table(7000)), Some(0));
        let checks = |ms| Ready {
            checks: ms >= 2500,
            ..ALL
        };
        assert_eq!(opens(30_000, checks), Some(2500));
        // A server that is dead has no MAC.
        let neighbours = |ms: u64| Ready {
            neighbours: ms >= 60_000,
            ..ALL
        };
        assert_eq!(opens(30_000, neighbours), Some(4000));
    }

    #[test]
    fn a_table_that_is_copied_anew_closes_it_again() {
        let mut gate = Gate::new(at(0));
        let longest = Duration::from_secs(10);
        assert!(gate.judge(at(0), ALL, longest) && !gate.is_held());
        let copied = Ready {
            table: false,
            ..ALL
        };
        assert!(gate.judge(at(60_000), copied, longest) && gate.is_held());
        assert!(!gate.judge(at(69_000), copied, longest));
        assert!(gate.judge(at(70_000), copied, longest) && !gate.is_held());
        // A server that comes later closes nothing.
        assert!(!gate.judge(
            at(71_000),
            Ready {
                neighbours: false,
                ..ALL
            },
            longest
        ));
        assert!(!gate.is_held());
        assert_eq!(copied.missing(), "the table of its peers");
    }
}
