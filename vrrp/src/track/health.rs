//! Health of the data plane: workers that poll, ports with link, services with servers.

use super::Verdict;

/// Counts what serves; all is well with enough of it. A node that lost its servers or workers
/// gives its addresses to one that has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    least: u32,
    /// `None` until first reported.
    usable: Option<u32>,
}

impl Health {
    /// All is well while at least `least` parts serve.
    pub const fn new(least: u32) -> Health {
        Health {
            least,
            usable: None,
        }
    }

    /// So many serve.
    pub fn observe(&mut self, usable: u32) {
        self.usable = Some(usable);
    }

    pub(super) fn is_like(&self, other: &Health) -> bool {
        self.least == other.least
    }

    /// What it says now.
    pub fn verdict(&self) -> Verdict {
        match self.usable {
            None => Verdict::Unknown,
            Some(usable) if usable >= self.least => Verdict::Up,
            Some(_) => Verdict::Down,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_is_well() {
        let mut health = Health::new(2);
        assert_eq!(health.verdict(), Verdict::Unknown);
        health.observe(1);
        assert_eq!(health.verdict(), Verdict::Down);
        health.observe(2);
        assert_eq!(health.verdict(), Verdict::Up);
    }
}
