//! Running processes (`vrrp_track_process`).

use super::Verdict;

/// Counts processes; all is well within the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessCount {
    quorum: u32,
    quorum_max: u32,
    /// `None` until first counted.
    count: Option<u32>,
}

impl ProcessCount {
    /// All is well with at least `quorum` and at most `quorum_max` of them.
    pub const fn new(quorum: u32, quorum_max: u32) -> ProcessCount {
        ProcessCount {
            quorum,
            quorum_max,
            count: None,
        }
    }

    /// So many run.
    pub fn observe(&mut self, count: u32) {
        self.count = Some(count);
    }

    pub(super) fn is_like(&self, other: &ProcessCount) -> bool {
        (self.quorum, self.quorum_max) == (other.quorum, other.quorum_max)
    }

    /// What it says now.
    pub fn verdict(&self) -> Verdict {
        match self.count {
            None => Verdict::Unknown,
            Some(count) if (self.quorum..=self.quorum_max).contains(&count) => Verdict::Up,
            Some(_) => Verdict::Down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_and_too_many_are_failures() {
        let mut process = ProcessCount::new(1, 2);
        assert_eq!(process.verdict(), Verdict::Unknown);
        for (count, verdict) in [
            (0, Verdict::Down),
            (1, Verdict::Up),
            (2, Verdict::Up),
            (3, Verdict::Down),
        ] {
            process.observe(count);
            assert_eq!(process.verdict(), verdict, "{count}");
        }
    }
}
