//! Schedulers: choose a destination for a new connection. One file each, one line in the table.
//!
//! Each follows the kernel's rule choice for choice: destinations are visited in the order of
//! `VirtualService::destinations` (newest first), and those with weight 0 or with the overload
//! flag set are passed over.
//!
//! Tables and trees are built by [`new`] on the control side, for one list of destinations; a
//! changed list comes with a new state, which takes over from the one before it.

mod cache;
mod dh;
mod fo;
mod hash;
mod lblc;
mod lblcr;
mod lc;
mod least;
mod locality;
mod mh;
mod none;
mod nq;
mod ovf;
mod positions;
mod rr;
mod sed;
mod sh;
mod tree;
mod twos;
mod usable;
mod wlc;
mod wrr;

use core::any::Any;

use crate::addr::Addr;
use crate::changes::Changes;
pub use crate::changes::Watch;
use crate::counters::WorkerCounters;
use crate::flow::Flow;
use crate::service::{DestId, Destination, Kept, ServiceId, VirtualService};
use crate::settings::Settings;
use crate::team::Counts;
use crate::time::Instant;

/// How many destinations a scheduler takes, if that is limited (`ip_vs_mh_reassign`).
pub fn most_destinations(name: &str) -> Option<usize> {
    (name == mh::NAME).then_some(mh::SLOTS)
}

/// Loads of a service's destinations, as this worker knows them: its own connections and, as far
/// as they have told, those of the others.
#[derive(Clone, Copy)]
pub struct Loads<'a> {
    counters: &'a WorkerCounters,
    changes: &'a Changes,
    service: ServiceId,
}

impl<'a> Loads<'a> {
    /// Of the destinations of `service`.
    #[inline]
    pub fn new(
        counters: &'a WorkerCounters,
        changes: &'a Changes,
        service: ServiceId,
    ) -> Loads<'a> {
        Loads {
            counters,
            changes,
            service,
        }
    }

    /// Connections in an active state.
    #[inline]
    pub fn active(&self, dest: &Destination) -> u32 {
        self.of(dest.id).active
    }

    /// All connections bound to the destination.
    #[inline]
    pub fn total(&self, dest: &Destination) -> u32 {
        self.of(dest.id).total
    }

    /// Whether its overload flag is set.
    #[inline]
    pub fn overloaded(&self, dest: &Destination) -> bool {
        self.counters
            .dest(dest.id)
            .is_some_and(|c| c.overloaded.get() != 0)
    }

    /// The kernel's load figure: active connections × 256 + all connections, so that an active
    /// connection weighs 257 and an inactive one 1 (`ip_vs_dest_conn_overhead`).
    #[inline]
    pub fn overhead(&self, dest: &Destination) -> u64 {
        self.overhead_of(dest.id)
    }

    /// The same for one that may have been deleted.
    #[inline]
    pub fn overhead_of(&self, id: DestId) -> u64 {
        let all = self.of(id);
        u64::from(all.active) * 256 + u64::from(all.total)
    }

    #[inline]
    fn of(&self, id: DestId) -> Counts {
        let others = self.changes.others(id);
        self.counters.dest(id).map_or(others, |own| Counts {
            active: own.active.get().saturating_add(others.active),
            total: own.total.get().saturating_add(others.total),
        })
    }

    /// Whether new connections may go to it: weight not 0 and not overloaded.
    #[inline]
    pub fn usable(&self, dest: &Destination) -> bool {
        dest.weight != 0 && !self.overloaded(dest)
    }

    /// Takes one destination whose load changed in a way that the scheduler watches: its index
    /// in the list.
    #[inline]
    pub fn next_changed(&self) -> Option<usize> {
        self.changes.next(self.service)
    }
}

/// What a choice is made from.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The service; its destinations are those the scheduler was started with.
    pub service: &'a VirtualService,
    /// How busy they are.
    pub loads: Loads<'a>,
    /// The packet, as it came from the client.
    pub flow: &'a Flow,
    /// No packet came, but an ICMP error about what would answer it (`schedule_icmp`).
    pub is_quoted: bool,
    /// When it came.
    pub now: Instant,
    /// The worker's settings.
    pub settings: &'a Settings,
}

impl Request<'_> {
    /// The address that schedulers by destination go by. They read the quoted packet as it stands
    /// in the kernel (`ip_vs_dh_schedule`, `ip_vs_lblc_schedule`), whose destination is the client.
    pub fn destination(&self) -> Addr {
        match self.is_quoted {
            true => self.flow.src,
            false => self.flow.dst,
        }
    }
}

/// The state that served a service before, and the service as it was.
pub struct Predecessor<'a> {
    /// The service before the change.
    pub service: &'a VirtualService,
    /// What scheduled it.
    pub scheduler: &'a mut dyn Scheduler,
    /// Destinations that the change left as they were. What changed about their loads since the
    /// scheduler last looked is still noted, at their places in the new list.
    pub kept: Kept,
}

/// The same, of a scheduler whose kind is known.
struct Before<'a, T> {
    service: &'a VirtualService,
    scheduler: &'a mut T,
    kept: Kept,
}

impl<'a> Predecessor<'a> {
    /// If it was a scheduler of the same kind.
    fn same<T: Scheduler>(self) -> Option<Before<'a, T>> {
        let any: &mut dyn Any = self.scheduler;
        Some(Before {
            service: self.service,
            scheduler: any.downcast_mut()?,
            kept: self.kept,
        })
    }
}

/// Picks a destination for a new connection. One value per service, worker and list of
/// destinations.
pub trait Scheduler: Any + Send {
    /// Name in `SCHEDULERS`.
    fn name(&self) -> &'static str;
    /// Which changes of loads it needs to hear of.
    fn watch(&self) -> Watch {
        Watch::Nothing
    }
    /// Called once, before the first `pick`. `service` is the one that the state was made for.
    ///
    /// `before` is `None` for a new service: its destinations count as added one by one, the
    /// last of the list (the oldest) first, as `ipvsadm -R` does. Otherwise what has to outlive
    /// a change is taken over, if the scheduler was the same.
    fn start(
        &mut self,
        service: &VirtualService,
        loads: Loads<'_>,
        before: Option<Predecessor<'_>>,
    );
    /// Index into the service's destinations, or `None` when the connection is refused.
    fn pick(&mut self, request: &Request<'_>) -> Option<usize>;
    /// Called now and then, several times a minute, for what is to be done without packets.
    fn tend(&mut self, _now: Instant, _settings: &Settings) {}
}

/// Which of several workers a state is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its number.
    pub worker: usize,
    /// How many there are, at least 1.
    pub workers: usize,
    /// For what is random. Every state is to have its own.
    pub seed: u64,
}

impl Seat {
    /// Of the only worker.
    pub const fn alone(seed: u64) -> Seat {
        Seat {
            worker: 0,
            workers: 1,
            seed,
        }
    }

    /// How far into a round of so many steps this worker begins: the first one, or the only one,
    /// at the start as the kernel does, the others evenly behind it, so that not all of them send
    /// their first connections to the same destination.
    fn start_of(self, round: usize) -> usize {
        let share = round as u128 * self.worker as u128 / self.workers.max(1) as u128;
        share as usize
    }
}

/// Makes a scheduler's state for a service.
pub type NewScheduler = fn(&VirtualService, Seat) -> Box<dyn Scheduler>;

/// Every scheduler by the name ipvsadm knows it by.
pub const SCHEDULERS: &[(&str, NewScheduler)] = &[
    (rr::NAME, rr::new),
    (wrr::NAME, wrr::new),
    (lc::NAME, lc::new),
    (wlc::NAME, wlc::new),
    (dh::NAME, dh::new),
    (sh::NAME, sh::new),
    (mh::NAME, mh::new),
    (sed::NAME, sed::new),
    (nq::NAME, nq::new),
    (fo::NAME, fo::new),
    (ovf::NAME, ovf::new),
    (lblc::NAME, lblc::new),
    (lblcr::NAME, lblcr::new),
    (twos::NAME, twos::new),
    (none::NAME, none::new),
];

/// A fresh state of the service's scheduler, `None` if there is none of its name. Allocates all
/// that the state will ever need.
pub fn new(service: &VirtualService, seat: Seat) -> Option<Box<dyn Scheduler>> {
    SCHEDULERS
        .iter()
        .find(|(n, _)| *n == service.scheduler)
        .map(|(_, new)| new(service, seat))
}

/// The table's own copy of a name, as `VirtualService::scheduler` wants it.
pub fn find(name: &str) -> Option<&'static str> {
    names().find(|n| *n == name)
}

/// Names of all schedulers.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCHEDULERS.iter().map(|(n, _)| *n)
}

/// Greatest common divisor; that of 0 and a number is the number.
fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod agreement;
#[cfg(test)]
pub(crate) mod fixture;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_makes_what_it_names() {
        for name in names() {
            let service = fixture::service(name, &[(11, 1), (12, 2)]);
            assert_eq!(new(&service, Seat::alone(0)).map(|s| s.name()), Some(name));
            assert_eq!(find(name), Some(name));
        }
        assert_eq!(find("wlcc"), None);
    }
}
