//! New masters' addresses on their way to the workers, and what waits for that.
//!
//! A packet that comes for a new address before the workers know it would be the kernel's, which resets
//! connections that it does not know. So an address is announced when all of them do; and whatever else
//! follows a change of roles, such as synchronisation, which joins threads, comes after that.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use dataplane::time::Instant;
use vrrp::instance::Role;

use super::Notice;

/// How long control gets to tell the workers of a new master's addresses before they are announced all
/// the same: what comes for them is the kernel's then.
pub const LONGEST: Duration = Duration::from_secs(1);

/// Addresses that a master put on an interface.
#[derive(Debug)]
struct Introduced {
    instance: String,
    addresses: Vec<IpAddr>,
    since: Instant,
    /// Workers know them once they have applied this; none before the mirror has heard of them.
    generation: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Introductions {
    waiting: Vec<Introduced>,
    /// Routers that became master (true) or ceased to be it, in order.
    changed: VecDeque<(String, bool)>,
}

impl Introductions {
    /// Takes in what a router tells.
    pub fn hear(&mut self, now: Instant, notice: Notice) {
        match notice {
            Notice::Holds {
                instance,
                addresses,
            } => self.waiting.push(Introduced {
                instance,
                addresses,
                since: now,
                generation: None,
            }),
            Notice::Instance { instance, new, .. } => {
                if new != Role::Master {
                    self.waiting.retain(|other| other.instance != instance);
                }
                self.changed.push_back((instance, new == Role::Master));
            }
            _ => {}
        }
    }

    /// Instances whose addresses all workers know since the last call. `is_local`: whether the model
    /// counts an address as this host's; `sent` and `applied`: generations of the workers.
    pub fn take_known(
        &mut self,
        now: Instant,
        is_local: impl Fn(IpAddr) -> bool,
        sent: u64,
        applied: u64,
    ) -> Vec<String> {
        let mut known = Vec::new();
        self.waiting.retain_mut(|new| {
            if new.generation.is_none() && new.addresses.iter().all(|addr| is_local(*addr)) {
                new.generation = Some(sent);
            }
            let is_known = new
                .generation
                .is_some_and(|generation| applied >= generation);
            if is_known {
                known.push(new.instance.clone());
            }
            !is_known && now.since(new.since) < LONGEST
        });
        known
    }

    /// The next router that became master or ceased to be it, if its addresses are known.
    pub fn next_change(&mut self) -> Option<(String, bool)> {
        let (instance, _) = self.changed.front()?;
        let waits = self.waiting.iter().any(|new| new.instance == *instance);
        if waits {
            return None;
        }
        self.changed.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use vrrp::instance::Cause;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    fn holds(instance: &str) -> Notice {
        Notice::Holds {
            instance: instance.into(),
            addresses: vec![IpAddr::from([192, 0, 2, 1])],
        }
    }

    fn becomes(instance: &str, new: Role) -> Notice {
        Notice::Instance {
            instance: instance.into(),
            group: None,
            old: Role::Backup,
            new,
            cause: Cause::MasterDown,
            priority: 100,
        }
    }

    fn all(introductions: &mut Introductions) -> Vec<(String, bool)> {
        std::iter::from_fn(|| introductions.next_change()).collect()
    }

    #[test]
    fn addresses_come_before_what_follows_a_change() {
        let mut new = Introductions::default();
        new.hear(at(0), holds("a"));
        new.hear(at(0), becomes("a", Role::Master));
        new.hear(at(0), becomes("b", Role::Fault));
        assert!(new.take_known(at(1), |_| false, 5, 5).is_empty());
        assert!(all(&mut new).is_empty(), "the mirror has not heard of it");
        assert!(new.take_known(at(2), |_| true, 6, 5).is_empty());
        assert!(all(&mut new).is_empty(), "a worker has not");
        assert!(new.take_known(at(3), |_| true, 9, 5).is_empty());
        assert_eq!(new.take_known(at(4), |_| true, 9, 6), ["a"]);
        assert!(new.take_known(at(5), |_| true, 9, 9).is_empty(), "once");
        let (a, b) = (("a".to_owned(), true), ("b".to_owned(), false));
        assert_eq!(all(&mut new), [a, b]);
    }

    #[test]
    fn nothing_waits_for_what_never_comes() {
        let mut new = Introductions::default();
        new.hear(at(0), holds("a"));
        new.hear(at(0), becomes("a", Role::Master));
        new.take_known(at(999), |_| false, 5, 5);
        assert!(all(&mut new).is_empty());
        assert!(new.take_known(at(1000), |_| false, 5, 5).is_empty());
        assert_eq!(all(&mut new).len(), 1);
    }

    #[test]
    fn a_master_that_gives_up_waits_for_nothing() {
        let mut new = Introductions::default();
        new.hear(at(0), holds("a"));
        new.hear(at(0), becomes("a", Role::Master));
        new.hear(at(1), becomes("a", Role::Backup));
        let changes = [("a".to_owned(), true), ("a".to_owned(), false)];
        assert_eq!(all(&mut new), changes);
        assert!(new.take_known(at(2), |_| true, 5, 5).is_empty());
    }
}
