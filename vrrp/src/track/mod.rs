//! Trackers: what lowers or raises a priority, or is a fault.
//!
//! A tracker is a pure counter that the driver feeds: link states, exit codes, numbers in files,
//! processes, health of the data plane. Each yields a [`Verdict`]; how much it means to an
//! instance says its [`Tracked`] entry, and [`Summary`] adds them up.

mod file;
mod health;
mod link;
mod process;
mod script;
mod summary;

pub use file::FileValue;
pub use health::Health;
pub use link::{Link, LinkDelays};
pub use process::ProcessCount;
pub use script::Script;
pub use summary::{Summary, effective_priority};

use crate::time::Instant;

/// Names a tracker among those of one [`Router`](crate::router::Router).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackerId(pub u32);

/// How much a tracker means to an instance or group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// The tracker.
    pub tracker: TrackerId,
    /// 0: failure is a fault. Above: added to the priority while all is well. Below: added while
    /// it is not. A file's number is multiplied by it.
    pub weight: i16,
    /// Turns the direction around; with weight 0, being well is the fault.
    pub reverse: bool,
}

/// What a tracker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Unknown,
    /// All is well.
    Up,
    /// It is not.
    Down,
    /// A number (files).
    Value(i32),
}

/// One tracker with its counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracker {
    /// An interface is up and running.
    Link(Link),
    /// A script exits with 0.
    Script(Script),
    /// A number in a file.
    File(FileValue),
    /// A process runs.
    Process(ProcessCount),
    /// The data plane serves.
    Health(Health),
}

impl Tracker {
    /// What it says now.
    pub fn verdict(&self) -> Verdict {
        match self {
            Tracker::Link(link) => link.verdict(),
            Tracker::Script(script) => script.verdict(),
            Tracker::File(file) => file.verdict(),
            Tracker::Process(process) => process.verdict(),
            Tracker::Health(health) => health.verdict(),
        }
    }

    /// When its verdict changes by itself.
    pub fn next_timeout(&self) -> Option<Instant> {
        match self {
            Tracker::Link(link) => link.next_timeout(),
            _ => None,
        }
    }

    /// Whether what one counted is of use to the other: same kind, same thresholds.
    pub(crate) fn is_like(&self, other: &Tracker) -> bool {
        match (self, other) {
            (Tracker::Link(a), Tracker::Link(b)) => a.is_like(b),
            (Tracker::Script(a), Tracker::Script(b)) => a.is_like(b),
            (Tracker::File(_), Tracker::File(_)) => true,
            (Tracker::Process(a), Tracker::Process(b)) => a.is_like(b),
            (Tracker::Health(a), Tracker::Health(b)) => a.is_like(b),
            _ => false,
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Instant) {
        if let Tracker::Link(link) = self {
            link.advance(now);
        }
    }
}

/// What a driver saw of a tracked thing. What does not fit the tracker is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The interface is up and running, or not.
    Link(bool),
    /// The script ended with success (exit code 0 in time), or not.
    Script(bool),
    /// The number in the file; what cannot be read is 0.
    File(i32),
    /// So many matching processes run.
    Process(u32),
    /// So many parts of the data plane serve.
    Health(u32),
}

impl Tracker {
    /// Takes note of an observation.
    pub fn observe(&mut self, now: Instant, seen: Observation) {
        match (self, seen) {
            (Tracker::Link(link), Observation::Link(is_up)) => link.observe(now, is_up),
            (Tracker::Script(script), Observation::Script(is_success)) => {
                script.observe(is_success);
            }
            (Tracker::File(file), Observation::File(value)) => file.observe(value),
            (Tracker::Process(process), Observation::Process(count)) => process.observe(count),
            (Tracker::Health(health), Observation::Health(usable)) => health.observe(usable),
            _ => {}
        }
    }
}
