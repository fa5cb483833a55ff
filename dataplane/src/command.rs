//! The only way into and out of a running worker: commands, replies, events.
//!
//! Control allocates, the worker swaps, and what it held before goes back in the reply to be
//! freed by control. A worker neither allocates nor frees.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::addr::{Addr, Endpoint, Mac};
use crate::capture::Capture;
use crate::conn::SHARDS;
use crate::counters::WorkerCounters;
use crate::lease::Leases;
use crate::marks::Marks;
use crate::packet::PortId;
use crate::roles::{RoleEntry, RoleTable};
use crate::route::{Fib, Link, LinkId, Neighbour, NeighbourId};
use crate::schedule::Scheduler;
use crate::service::{ForwardingMethod, Protocol, ServiceId, VirtualService};
use crate::settings::Settings;
use crate::sync::{Batch, Collection, Outbox};

/// A command with the generation that its reply carries back.
pub struct Envelope {
    /// Rises by one per command; control waits for it on every worker.
    pub generation: u64,
    /// What to do.
    pub command: Command,
}

/// What control may ask of a worker. Each is applied whole between two bursts.
pub enum Command {
    /// Adds a service or replaces it. `scheduler` is a fresh state made for it, which takes over
    /// from the old one.
    PutService {
        /// The service.
        service: Arc<VirtualService>,
        /// Fresh scheduler state.
        scheduler: Box<dyn Scheduler>,
    },
    /// Removes a service; its connections stay bound to their (now unavailable) destinations.
    DeleteService(ServiceId),
    /// Replaces the table that tells clients from servers and which VIPs are live. To be the
    /// worker's alone, if single entries are to follow.
    PutRoles(Arc<RoleTable>),
    /// Gives one endpoint other roles; see [`RoleTable::put`].
    PutRole(RoleEntry),
    /// Replaces the rules that mark packets.
    PutMarks(Arc<Marks>),
    /// Replaces the forwarding table.
    PutFib(Arc<Fib>),
    /// Sets a link: (port, VLAN) with its source MAC and MTU.
    PutLink(LinkId, Link),
    /// Sets a neighbour.
    PutNeighbour(NeighbourId, Neighbour),
    /// Forgets a neighbour.
    DeleteNeighbour(NeighbourId),
    /// A next hop did not answer when the kernel asked for its MAC.
    FailNeighbour(LinkId, Addr),
    /// Replaces the unicast MACs that frames may be addressed to on a port.
    PutMacs(PortId, Box<[Mac]>),
    /// Replaces the addresses that are served under leases.
    PutLeases(Arc<Leases>),
    /// Replaces the live settings.
    PutSettings(Settings),
    /// Copies connections out, from `batch.cursor` on, until the batch is full.
    DumpConnections(Box<ConnectionBatch>),
    /// Copies frames from now on; replaces a running capture.
    StartCapture(Box<Capture>),
    /// Ends a capture.
    StopCapture,
    /// Announces connections from now on, into this outbox; replaces another one.
    StartMaster(Arc<Outbox>),
    /// Announces nothing any more.
    StopMaster,
    /// Takes over connections that a master announced; every worker is given all of them and
    /// takes its own.
    PutConnections(Arc<Batch>),
    /// Copies connections out for a peer, from `cursor` on, until the collection is full.
    CollectConnections(Box<Collection>),
    /// Does nothing: a barrier.
    Nop,
}

impl Command {
    /// What each kind of command is called, by [`Command::kind`].
    pub const KINDS: [&str; 21] = [
        "put-service",
        "delete-service",
        "put-roles",
        "put-role",
        "put-marks",
        "put-fib",
        "put-link",
        "put-neighbour",
        "delete-neighbour",
        "fail-neighbour",
        "put-macs",
        "put-leases",
        "put-settings",
        "dump-connections",
        "start-capture",
        "stop-capture",
        "start-master",
        "stop-master",
        "put-connections",
        "collect-connections",
        "nop",
    ];

    /// Which kind it is: a position in [`Command::KINDS`].
    pub fn kind(&self) -> usize {
        match self {
            Command::PutService { .. } => 0,
            Command::DeleteService(_) => 1,
            Command::PutRoles(_) => 2,
            Command::PutRole(_) => 3,
            Command::PutMarks(_) => 4,
            Command::PutFib(_) => 5,
            Command::PutLink(..) => 6,
            Command::PutNeighbour(..) => 7,
            Command::DeleteNeighbour(_) => 8,
            Command::FailNeighbour(..) => 9,
            Command::PutMacs(..) => 10,
            Command::PutLeases(_) => 11,
            Command::PutSettings(_) => 12,
            Command::DumpConnections(_) => 13,
            Command::StartCapture(_) => 14,
            Command::StopCapture => 15,
            Command::StartMaster(_) => 16,
            Command::StopMaster => 17,
            Command::PutConnections(_) => 18,
            Command::CollectConnections(_) => 19,
            Command::Nop => 20,
        }
    }
}

/// What a worker sends back, one per command.
pub struct Reply {
    /// Of the command.
    pub generation: u64,
    /// The result and what is to be freed.
    pub outcome: Outcome,
}

/// Result of a command.
pub enum Outcome {
    /// Done; the parts are control's to free.
    Done(Retired),
    /// Refused: an id was beyond the capacity set at start. Nothing changed; the parts of the
    /// command come back.
    Refused(&'static str, Retired),
    /// The batch of `DumpConnections`, filled.
    Connections(Box<ConnectionBatch>),
    /// The collection of `CollectConnections`, filled.
    Collected(Box<Collection>),
}

/// Parts that a worker no longer needs.
#[derive(Default)]
pub struct Retired {
    /// A replaced or deleted service.
    pub service: Option<Arc<VirtualService>>,
    /// A replaced or unused scheduler state.
    pub scheduler: Option<Box<dyn Scheduler>>,
    /// The old forwarding table.
    pub fib: Option<Arc<Fib>>,
    /// The old role table.
    pub roles: Option<Arc<RoleTable>>,
    /// The old rules of marks.
    pub marks: Option<Arc<Marks>>,
    /// The old MAC list.
    pub macs: Option<Box<[Mac]>>,
    /// The old leases.
    pub leases: Option<Arc<Leases>>,
    /// A capture that ended.
    pub capture: Option<Box<Capture>>,
    /// The outbox of a master that ended.
    pub outbox: Option<Arc<Outbox>>,
    /// Connections that were taken over.
    pub batch: Option<Arc<Batch>>,
}

/// What a worker tells control unasked. Lossy: a full queue drops the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A packet needed this next hop and its MAC is unknown.
    Resolve {
        /// The link it is on.
        link: LinkId,
        /// The address to resolve.
        addr: Addr,
    },
}

/// One connection as listed by `-Lnc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionView {
    /// Transport protocol; none for the template of a mark.
    pub protocol: Option<Protocol>,
    /// Whether it is a persistence template.
    pub is_template: bool,
    /// Client; of a template its network, with port 0.
    pub client: Endpoint,
    /// Virtual address and port; the mark in its place in the template of one.
    pub virtual_: Endpoint,
    /// Real server.
    pub dest: Endpoint,
    /// How it is reached.
    pub method: ForwardingMethod,
    /// Name of the state as ipvsadm prints it.
    pub state: &'static str,
    /// Seconds until it expires, cut to whole ones.
    pub expires: u32,
    /// Where in the batch's data those are that an engine made a template by.
    pub data: Option<DataRange>,
}

/// A part of [`ConnectionBatch::data`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRange {
    /// Where it begins.
    pub start: u32,
    /// Its length, bytes.
    pub len: u16,
}

/// Where a dump goes on. Start with the default, which is for all, or with [`DumpCursor::part`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DumpCursor {
    /// Next shard.
    pub shard: u32,
    /// Next entry in it.
    pub entry: u32,
    /// The shard before which it ends.
    pub end: u32,
    /// Set when everything was visited.
    pub done: bool,
}

impl Default for DumpCursor {
    fn default() -> DumpCursor {
        DumpCursor {
            shard: 0,
            entry: 0,
            end: u32::MAX,
            done: false,
        }
    }
}

impl DumpCursor {
    /// The `part`-th of `parts` equal parts of the table: parts may be dumped side by side.
    pub fn part(part: u32, parts: u32) -> DumpCursor {
        let at = |part: u32| SHARDS as u32 * part / parts.max(1);
        DumpCursor {
            shard: at(part),
            end: at(part + 1),
            ..DumpCursor::default()
        }
    }
}

/// A batch of copied connections; `rows` and `data` are pushed up to its capacity, never grown.
#[derive(Debug, Default)]
pub struct ConnectionBatch {
    /// Where to start, then where to go on.
    pub cursor: DumpCursor,
    /// The rows.
    pub rows: Vec<ConnectionView>,
    /// Engine data of the rows, likewise up to its capacity.
    pub data: Vec<u8>,
}

impl ConnectionBatch {
    /// Engine data of one of its rows.
    pub fn data_of(&self, row: &ConnectionView) -> Option<&[u8]> {
        let range = row.data?;
        let start = range.start as usize;
        self.data.get(start..start + usize::from(range.len))
    }
}

/// The control side's end of one worker.
#[derive(Clone)]
pub struct ControlEnd {
    /// Commands to the worker. Full: keep the newest and retry.
    pub commands: Arc<ArrayQueue<Envelope>>,
    /// Its replies, one per command, in order.
    pub replies: Arc<ArrayQueue<Reply>>,
    /// Its events.
    pub events: Arc<ArrayQueue<Event>>,
    /// Its counters.
    pub counters: Arc<WorkerCounters>,
}

/// The worker's end. It takes no command while `replies` is full, so nothing is freed there.
pub struct WorkerEnd {
    /// Commands from control.
    pub commands: Arc<ArrayQueue<Envelope>>,
    /// Replies to it.
    pub replies: Arc<ArrayQueue<Reply>>,
    /// Events to it.
    pub events: Arc<ArrayQueue<Event>>,
    /// Counters, written by this worker alone.
    pub counters: Arc<WorkerCounters>,
}

/// Both ends of a worker's rings. `max_dests` sizes the counters.
pub fn channel(max_dests: usize) -> (ControlEnd, WorkerEnd) {
    let control = ControlEnd {
        commands: Arc::new(ArrayQueue::new(1024)),
        replies: Arc::new(ArrayQueue::new(1024)),
        events: Arc::new(ArrayQueue::new(1024)),
        counters: Arc::new(WorkerCounters::new(max_dests)),
    };
    let worker = WorkerEnd {
        commands: Arc::clone(&control.commands),
        replies: Arc::clone(&control.replies),
        events: Arc::clone(&control.events),
        counters: Arc::clone(&control.counters),
    };
    (control, worker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_dump_are_the_whole() {
        for parts in [1, 7, 16, 128] {
            let all: Vec<u32> = (0..parts)
                .map(|part| DumpCursor::part(part, parts))
                .flat_map(|cursor| cursor.shard..cursor.end)
                .collect();
            assert_eq!(all, (0..SHARDS as u32).collect::<Vec<_>>(), "{parts}");
        }
    }

    #[test]
    fn kinds_have_names_of_their_own() {
        let mut names = Command::KINDS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Command::KINDS.len());
        for (command, name) in [
            (Command::StopMaster, "stop-master"),
            (Command::DeleteService(ServiceId(1)), "delete-service"),
            (Command::DumpConnections(Box::default()), "dump-connections"),
            (Command::Nop, "nop"),
        ] {
            assert_eq!(Command::KINDS[command.kind()], name);
        }
    }
}
