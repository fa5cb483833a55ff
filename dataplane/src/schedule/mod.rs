//! Schedulers: choose a destination for a new connection. One file each, one line in the table.
//!
//! Each follows the kernel's rule choice for choice: destinations are visited in the order of
//! `VirtualService::destinations` (newest first), and those with weight 0 or with the overload
//! flag set are passed over.

mod lc;
mod rr;
mod wlc;
mod wrr;

use crate::counters::WorkerCounters;
use crate::flow::Flow;
use crate::service::{Destination, VirtualService};

/// Loads of destinations as this worker sees them.
#[derive(Clone, Copy)]
pub struct Loads<'a>(pub &'a WorkerCounters);

impl Loads<'_> {
    /// Connections in an active state.
    #[inline]
    pub fn active(&self, dest: &Destination) -> u32 {
        self.0.dest(dest.id).map_or(0, |c| c.active.get())
    }

    /// All connections bound to the destination.
    #[inline]
    pub fn total(&self, dest: &Destination) -> u32 {
        self.0.dest(dest.id).map_or(0, |c| c.total.get())
    }

    /// Whether its overload flag is set.
    #[inline]
    pub fn overloaded(&self, dest: &Destination) -> bool {
        self.0
            .dest(dest.id)
            .is_some_and(|c| c.overloaded.get() != 0)
    }

    /// The kernel's load figure: active connections × 256 + all connections, so that an active
    /// connection weighs 257 and an inactive one 1 (`ip_vs_dest_conn_overhead`).
    #[inline]
    pub fn overhead(&self, dest: &Destination) -> u64 {
        u64::from(self.active(dest)) * 256 + u64::from(self.total(dest))
    }

    /// Whether new connections may go to it: weight not 0 and not overloaded.
    #[inline]
    pub fn usable(&self, dest: &Destination) -> bool {
        dest.weight != 0 && !self.overloaded(dest)
    }
}

/// Picks a destination for a new connection. One value per service per worker.
pub trait Scheduler: Send {
    /// Name in `SCHEDULERS`.
    fn name(&self) -> &'static str;
    /// Called after the service's destinations changed in any way (added, edited, deleted), and
    /// once before the first `pick`.
    ///
    /// `old` is the service as it was before the change. `None`: the service is new, and its
    /// destinations count as added one by one, the last of the list (the oldest) first, as
    /// `ipvsadm -R` does. `Some` on a fresh state: the service changed to this scheduler.
    fn refresh(&mut self, old: Option<&VirtualService>, new: &VirtualService);
    /// Index into `service.destinations`, or `None` when no destination is usable. `service` is
    /// the `new` of the last `refresh`.
    fn pick(&mut self, service: &VirtualService, loads: Loads<'_>, flow: &Flow) -> Option<usize>;
}

/// Makes a scheduler's state.
pub type NewScheduler = fn() -> Box<dyn Scheduler>;

/// Every scheduler by the name ipvsadm knows it by.
pub const SCHEDULERS: &[(&str, NewScheduler)] = &[
    (rr::NAME, rr::new),
    (wrr::NAME, wrr::new),
    (lc::NAME, lc::new),
    (wlc::NAME, wlc::new),
];

/// A fresh state of the named scheduler, `None` if there is none of that name.
pub fn new(name: &str) -> Option<Box<dyn Scheduler>> {
    SCHEDULERS
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, new)| new())
}

/// The table's own copy of a name, as `VirtualService::scheduler` wants it.
pub fn find(name: &str) -> Option<&'static str> {
    names().find(|n| *n == name)
}

/// Names of all schedulers.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCHEDULERS.iter().map(|(n, _)| *n)
}

#[cfg(test)]
mod fixture;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_makes_what_it_names() {
        for name in names() {
            assert_eq!(new(name).map(|s| s.name()), Some(name));
            assert_eq!(find(name), Some(name));
        }
        assert!(new("wlcc").is_none());
        assert_eq!(find("wlcc"), None);
    }
}
