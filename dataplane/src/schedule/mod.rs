//! Schedulers: choose a destination for a new connection. One file each, one line in the table.

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
        self.0.dest(dest.id).is_some_and(|c| c.overloaded.get() != 0)
    }
}

/// Picks a destination for a new connection. One value per service per worker.
pub trait Scheduler: Send {
    /// Name in `SCHEDULERS`.
    fn name(&self) -> &'static str;
    /// Called after the service's destinations changed in any way (added, edited, deleted).
    /// `old` is what the state was made for, `None` right after creation.
    fn refresh(&mut self, old: Option<&VirtualService>, new: &VirtualService);
    /// Index into `service.destinations`, or `None` when no destination is usable.
    fn pick(&mut self, service: &VirtualService, loads: Loads<'_>, flow: &Flow) -> Option<usize>;
}
