//! What every worker is told: one update, from which each worker gets its own [`Command`].

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use dataplane::addr::{Addr, Endpoint, Mac};
use dataplane::capture::{Capture, CaptureRing, Filter};
use dataplane::command::Command;
use dataplane::lease::Leases;
use dataplane::marks::Marks;
use dataplane::packet::PortId;
use dataplane::roles::{RoleEntry, RoleTable};
use dataplane::route::{Fib, Link, LinkId, Neighbour, NeighbourId};
use dataplane::schedule::Seat;
use dataplane::service::{ServiceId, VirtualService};
use dataplane::settings::Settings;
use dataplane::sync::Outbox;

/// A change for all workers. A later update of the same [`Subject`] replaces an earlier one
/// that was not sent yet, because each is a whole snapshot.
#[derive(Clone, Debug)]
pub enum Update {
    /// Adds or replaces a service.
    PutService(Arc<VirtualService>),
    /// Removes a service.
    DeleteService(ServiceId),
    /// Replaces the role table.
    PutRoles(Arc<RoleTable>),
    /// Gives one endpoint other roles.
    PutRole(RoleEntry),
    /// Replaces the rules that mark packets.
    PutMarks(Arc<Marks>),
    /// Replaces the forwarding table.
    PutFib(Arc<Fib>),
    /// Sets a link.
    PutLink(LinkId, Link),
    /// Sets a neighbour.
    PutNeighbour(NeighbourId, Neighbour),
    /// Forgets a neighbour.
    DeleteNeighbour(NeighbourId),
    /// A next hop did not answer.
    FailNeighbour(LinkId, Addr),
    /// Replaces a port's unicast MACs.
    PutMacs(PortId, Arc<[Mac]>),
    /// Replaces the addresses that are served under leases.
    PutLeases(Arc<Leases>),
    /// Replaces the live settings.
    PutSettings(Settings),
    /// Copies frames to a queue.
    StartCapture {
        /// Of this port, or of all.
        port: Option<PortId>,
        /// That pass this.
        filter: Box<Filter>,
        /// To here.
        ring: Arc<CaptureRing>,
    },
    /// Ends that.
    StopCapture,
    /// Announces connections, each worker into its outbox.
    StartMaster(Arc<[Arc<Outbox>]>),
    /// Announces nothing any more.
    StopMaster,
    /// Does nothing: a barrier.
    Nop,
}

/// What an update is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A service.
    Service(ServiceId),
    /// The role table.
    Roles,
    /// An endpoint in it.
    Role(u8, Endpoint),
    /// The rules that mark packets.
    Marks,
    /// The forwarding table.
    Fib,
    /// A link.
    Link(LinkId),
    /// A neighbour.
    Neighbour(NeighbourId),
    /// A next hop without a MAC.
    NextHop(LinkId, Addr),
    /// MACs of a port.
    Macs(PortId),
    /// The addresses that are served under leases.
    Leases,
    /// The live settings.
    Settings,
    /// The capture.
    Capture,
    /// Synchronisation.
    Sync,
    /// Nothing.
    Nothing,
}

impl Update {
    /// What it is about.
    pub fn subject(&self) -> Subject {
        match self {
            Update::PutService(service) => Subject::Service(service.id),
            Update::DeleteService(id) => Subject::Service(*id),
            Update::PutRoles(_) => Subject::Roles,
            Update::PutRole(entry) => Subject::Role(entry.protocol, entry.endpoint),
            Update::PutMarks(_) => Subject::Marks,
            Update::PutFib(_) => Subject::Fib,
            Update::PutLink(id, _) => Subject::Link(*id),
            Update::PutNeighbour(id, _) | Update::DeleteNeighbour(id) => Subject::Neighbour(*id),
            Update::FailNeighbour(link, addr) => Subject::NextHop(*link, *addr),
            Update::PutMacs(port, _) => Subject::Macs(*port),
            Update::PutLeases(_) => Subject::Leases,
            Update::PutSettings(_) => Subject::Settings,
            Update::StartCapture { .. } | Update::StopCapture => Subject::Capture,
            Update::StartMaster(_) | Update::StopMaster => Subject::Sync,
            Update::Nop => Subject::Nothing,
        }
    }

    /// Whether it makes `earlier`, which is about the same and still unsent, superfluous.
    pub fn replaces(&self, earlier: &Update) -> bool {
        match (self, earlier) {
            (Update::Nop, _) | (_, Update::Nop) => false,
            // An id went from one service to another: the deletion in between must be seen.
            (Update::PutService(_), Update::DeleteService(_)) => false,
            (Update::PutService(new), Update::PutService(old)) => new.key == old.key,
            (new, old) => new.subject() == old.subject(),
        }
    }

    /// The command for one of so many workers. It is made anew for each: schedulers that draw lots
    /// must not draw the same ones everywhere, and those that go round must not start together.
    pub fn command(&self, worker: usize, workers: usize) -> Command {
        let seat = || Seat {
            worker,
            workers,
            seed: random(),
        };
        match self {
            Update::PutService(service) => Command::PutService {
                service: Arc::clone(service),
                scheduler: dataplane::schedule::new(service, seat())
                    .expect("the model only takes names of known schedulers"),
            },
            Update::DeleteService(id) => Command::DeleteService(*id),
            // Each worker has its own: single endpoints are changed in it.
            Update::PutRoles(roles) => Command::PutRoles(Arc::new((**roles).clone())),
            Update::PutRole(entry) => Command::PutRole(*entry),
            Update::PutMarks(marks) => Command::PutMarks(Arc::clone(marks)),
            Update::PutFib(fib) => Command::PutFib(Arc::clone(fib)),
            Update::PutLink(id, link) => Command::PutLink(*id, *link),
            Update::PutNeighbour(id, neighbour) => Command::PutNeighbour(*id, *neighbour),
            Update::DeleteNeighbour(id) => Command::DeleteNeighbour(*id),
            Update::FailNeighbour(link, addr) => Command::FailNeighbour(*link, *addr),
            Update::PutMacs(port, macs) => Command::PutMacs(*port, macs.iter().copied().collect()),
            Update::PutLeases(leases) => Command::PutLeases(Arc::clone(leases)),
            Update::PutSettings(settings) => Command::PutSettings(*settings),
            Update::StartCapture { port, filter, ring } => {
                Command::StartCapture(Box::new(Capture::new(*port, **filter, Arc::clone(ring))))
            }
            Update::StopCapture => Command::StopCapture,
            Update::StartMaster(outboxes) => match outboxes.get(worker) {
                Some(outbox) => Command::StartMaster(Arc::clone(outbox)),
                None => Command::StopMaster,
            },
            Update::StopMaster => Command::StopMaster,
            Update::Nop => Command::Nop,
        }
    }
}

/// A number that nobody can guess, from the random keys of the standard library's hash maps.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
