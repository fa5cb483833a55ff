//! How long ports take: from the moment when nothing is forwarded any more (a start: when the first
//! port is touched) until packets are let in and every link is up that comes up.
//!
//! What was measured is kept in the state directory for each set of ports, so that an upgrade knows
//! what it costs before it begins.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use dataplane::time::Instant;
use serde::{Deserialize, Serialize};

use crate::recovery::disk;

/// Name of the file in the state directory.
const FILE: &str = "ports.json";

/// Sets of ports that are remembered.
const MOST: usize = 8;

/// How long a link may take after packets were let in; one that takes longer has no cable.
const LINKS_WITHIN: Duration = Duration::from_secs(15);

/// How long health checks wait for links in which some never come up.
const CHECKS_WITHIN: Duration = Duration::from_secs(3);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A start with nothing before it.
    Start,
    /// A process has handed its ports over.
    Upgrade,
}

/// Measures one gap.
#[derive(Clone, Copy, Debug)]
pub struct Measuring {
    kind: Kind,
    since: Instant,
    opened: Option<Instant>,
    /// How many links were up, and since when.
    up: (usize, Instant),
}

impl Measuring {
    /// Nothing is forwarded since then.
    pub fn new(kind: Kind, since: Instant) -> Measuring {
        Measuring {
            kind,
            since,
            opened: None,
            up: (0, since),
        }
    }

    /// Packets are let in.
    pub fn opened(&mut self, now: Instant) {
        self.opened.get_or_insert(now);
    }

    /// Whether servers can be asked how they are: they answer once links are up.
    pub fn may_check(&self, now: Instant, up: usize, all: usize) -> bool {
        let is_late = |opened| up >= all || now.since(opened) >= CHECKS_WITHIN;
        self.opened.is_some_and(is_late)
    }

    /// So many links of so many are up now. The gap, once it is over.
    pub fn look(&mut self, now: Instant, up: usize, all: usize) -> Option<(Kind, Duration)> {
        if up > self.up.0 {
            self.up = (up, now);
        }
        let opened = self.opened?;
        let is_over = up >= all || now.since(opened) >= LINKS_WITHIN;
        let end = opened.max(self.up.1);
        is_over.then(|| (self.kind, end.since(self.since)))
    }
}

/// What was measured of a set of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// DPDK's names of the devices, in the order of the configuration.
    ports: Vec<String>,
    /// Milliseconds of the last start.
    #[serde(default)]
    start_ms: Option<u64>,
    /// Milliseconds of the last upgrade.
    #[serde(default)]
    upgrade_ms: Option<u64>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Gaps {
    file: Option<PathBuf>,
    ports: Vec<String>,
    /// The last used is the last.
    records: Vec<Record>,
}

impl Gaps {
    /// What is known of these ports. A file that cannot be read is as good as none.
    pub fn open(directory: Option<&PathBuf>, ports: Vec<String>) -> Gaps {
        let file = directory.map(|directory| directory.join(FILE));
        let text = file.as_ref().and_then(|file| fs::read(file).ok());
        let records = text.and_then(|text| serde_json::from_slice(&text).ok());
        Gaps {
            file,
            ports,
            records: records.unwrap_or_default(),
        }
    }

    /// How long the next upgrade will take: as long as the last one, or as the last start.
    pub fn expected(&self) -> Option<Duration> {
        let record = self.records.iter().find(|one| one.ports == self.ports)?;
        let ms = record.upgrade_ms.or(record.start_ms)?;
        Some(Duration::from_millis(ms))
    }

    /// Notes what was measured.
    pub fn note(&mut self, kind: Kind, gap: Duration) {
        let known = self.records.iter().position(|one| one.ports == self.ports);
        let mut record = match known {
            Some(at) => self.records.remove(at),
            None => Record {
                ports: self.ports.clone(),
                ..Record::default()
            },
        };
        let ms = Some(u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
        match kind {
            Kind::Start => record.start_ms = ms,
            Kind::Upgrade => record.upgrade_ms = ms,
        }
        self.records.push(record);
        let surplus = self.records.len().saturating_sub(MOST);
        self.records.drain(..surplus);
    }

    /// Writes what is known to the disk, on a thread of its own: nothing waits for it.
    pub fn save(&self) {
        let (Some(file), Ok(text)) = (self.file.clone(), serde_json::to_vec(&self.records)) else {
            return;
        };
        let write = move || {
            if let Err(why) = disk::replace(&file, &text) {
                let file = file.display();
                tracing::warn!(
                    event = "state",
                    "{file}: {why}; an upgrade after the next start goes by that start"
                );
            }
        };
        let thread = std::thread::Builder::new().name("rvs-gaps".to_owned());
        if let Err(why) = thread.spawn(write) {
            tracing::warn!(event = "state", "no thread to write {FILE}: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(7_000_000_000 + ms * 1_000_000)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_gap_ends_with_the_last_link_or_with_the_doors() {
        let mut quick = Measuring::new(Kind::Start, at(0));
        assert_eq!(quick.look(at(80), 2, 2), None, "closed");
        quick.opened(at(100));
        assert_eq!(quick.look(at(101), 2, 2), Some((Kind::Start, ms(100))));
        let mut slow = Measuring::new(Kind::Upgrade, at(0));
        slow.opened(at(100));
        assert_eq!(slow.look(at(100), 1, 2), None);
        assert_eq!(slow.look(at(4000), 1, 2), None);
        assert_eq!(slow.look(at(4200), 2, 2), Some((Kind::Upgrade, ms(4200))));
        assert!(!slow.may_check(at(3099), 1, 2) && slow.may_check(at(3100), 1, 2));
        assert!(
            slow.may_check(at(101), 2, 2)
                && !Measuring::new(Kind::Start, at(0)).may_check(at(9000), 2, 2)
        );
        // A port without a cable is not waited for.
        let mut bare = Measuring::new(Kind::Start, at(0));
        bare.opened(at(100));
        assert_eq!(bare.look(at(3000), 1, 2), None);
        assert_eq!(bare.look(at(15_000), 1, 2), None);
        assert_eq!(bare.look(at(15_100), 1, 2), Some((Kind::Start, ms(3000))));
    }

    #[test]
    fn what_was_measured_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let ports = |n: usize| vec![format!("0000:0{n}:00.0")];
        let mut gaps = Gaps::open(Some(&path), ports(1));
        assert_eq!(gaps.expected(), None);
        gaps.note(Kind::Start, ms(4000));
        assert_eq!(gaps.expected(), Some(ms(4000)));
        gaps.note(Kind::Upgrade, ms(3500));
        gaps.note(Kind::Start, ms(9000));
        assert_eq!(gaps.expected(), Some(ms(3500)), "the last upgrade");
        gaps.save();
        let file = path.join(FILE);
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while !file.exists() {
            assert!(std::time::Instant::now() < until, "nothing was written");
            std::thread::yield_now();
        }
        let open = |n| Gaps::open(Some(&path), ports(n));
        assert_eq!(open(1).expected(), Some(ms(3500)));
        assert_eq!(open(2).expected(), None, "other ports");
        let mut many = open(1);
        for n in 2..=MOST {
            many.ports = ports(n);
            many.note(Kind::Start, ms(1));
        }
        many.ports = ports(1);
        assert_eq!(many.expected(), Some(ms(3500)));
        many.ports = ports(0);
        many.note(Kind::Start, ms(1));
        many.ports = ports(1);
        assert_eq!(many.expected(), None, "only so many sets");
        fs::write(&file, "[{").unwrap();
        assert_eq!(open(1).expected(), None);
    }
}
