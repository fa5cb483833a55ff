//! Drains under way: since when, and until when.
//!
//! What a drained server does is the model's affair ([`crate::model::Weights`]); here is only what
//! time adds to it.

use std::collections::BTreeMap;

use dataplane::time::Instant;
use serde::{Deserialize, Serialize};

use crate::api::{ServerKey, ServiceKey};
use crate::health::Subject;

/// One drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When it began.
    pub since: Instant,
    /// When what is left of its connections ends.
    pub deadline: Option<Instant>,
    /// That has come.
    pub over: bool,
}

/// A drain as it is written down. Times are of `CLOCK_BOOTTIME`, nanoseconds: a step of the wall clock
/// moves none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    service: ServiceKey,
    server: ServerKey,
    since: u64,
    deadline: Option<u64>,
    over: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Drains {
    under_way: BTreeMap<Subject, Drain>,
}

impl Drains {
    /// A drain begins, or gets another deadline.
    pub fn start(&mut self, now: Instant, subject: Subject, deadline: Option<Instant>) {
        let drain = self.under_way.entry(subject).or_insert(Drain {
            since: now,
            deadline,
            over: false,
        });
        drain.deadline = deadline;
    }

    /// Forgets those of which this is not true any more; whether there were any.
    pub fn keep(&mut self, is_drained: impl Fn(&Subject) -> bool) -> bool {
        let before = self.under_way.len();
        self.under_way.retain(|subject, _| is_drained(subject));
        self.under_way.len() != before
    }

    /// All of them, to be written down.
    pub fn written(&self) -> Vec<Drained> {
        let written = |((service, server), drain): (Subject, Drain)| Drained {
            service,
            server,
            since: drain.since.0,
            deadline: drain.deadline.map(|at| at.0),
            over: drain.over,
        };
        self.iter().map(written).collect()
    }

    /// As they were written down.
    pub fn read(drains: &[Drained]) -> Drains {
        let read = |d: &Drained| {
            let drain = Drain {
                since: Instant(d.since),
                deadline: d.deadline.map(Instant),
                over: d.over,
            };
            ((d.service, d.server), drain)
        };
        drains.iter().map(read).collect()
    }

    /// Those whose deadline came before are told of again: what they had may have come back.
    pub fn again(mut self) -> Drains {
        self.under_way
            .values_mut()
            .for_each(|drain| drain.over = false);
        self
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Subject, Drain)> + '_ {
        let drains = self.under_way.iter();
        drains.map(|(subject, drain)| (*subject, *drain))
    }

    /// The drain of a server.
    pub fn get(&self, subject: &Subject) -> Option<Drain> {
        self.under_way.get(subject).copied()
    }

    /// Those whose deadline has come since the last call.
    pub fn take_over(&mut self, now: Instant) -> Vec<Subject> {
        let due = |drain: &Drain| !drain.over && drain.deadline.is_some_and(|at| at <= now);
        let over = self.under_way.iter_mut().filter(|(_, drain)| due(drain));
        over.map(|(subject, drain)| {
            drain.over = true;
            *subject
        })
        .collect()
    }
}

impl FromIterator<(Subject, Drain)> for Drains {
    fn from_iter<T: IntoIterator<Item = (Subject, Drain)>>(drains: T) -> Drains {
        Drains {
            under_way: drains.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Protocol, ServerKey, ServiceKey};

    fn subject(n: u8) -> Subject {
        let service = ServiceKey::new(Protocol::Tcp, [10, 0, 0, n].into(), 80);
        let server = ServerKey {
            addr: [10, 0, 1, n].into(),
            port: 8080,
        };
        (service, server)
    }

    #[test]
    fn a_deadline_comes_once_and_may_be_put_off() {
        let mut drains = Drains::default();
        let at = Instant::from_secs;
        drains.start(at(0), subject(1), Some(at(10)));
        drains.start(at(0), subject(2), None);
        drains.start(at(5), subject(1), Some(at(20)));
        assert_eq!(drains.take_over(at(10)), []);
        assert_eq!(drains.take_over(at(20)), [subject(1)]);
        assert_eq!(drains.take_over(at(30)), []);
        let drain = drains.get(&subject(1)).unwrap();
        assert_eq!((drain.since, drain.over), (at(0), true));
        drains.keep(|s| *s != subject(1));
        assert_eq!(drains.get(&subject(1)), None);
    }
}
