//! Control's ends of the workers' rings: generations, acknowledgements, connection dumps.
//!
//! Every update gets the next generation and goes to all workers. While a worker's ring is full
//! its updates wait here, and a newer snapshot takes the place of an older one of the same
//! subject, so what waits is bounded by what there is to configure. What a worker retires is
//! freed here, on the control thread.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use dataplane::command::{Command, ConnectionBatch, ControlEnd, Envelope, Event, Outcome, Reply};
use dataplane::counters::WorkerCounters;
use dataplane::sync::{Batch, Collection};

use crate::update::{Subject, Update};

/// Rows of one batch of a connection dump.
pub const BATCH_ROWS: usize = 256;

/// A batch under way: names it when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// A worker did not take a command. Nothing changed there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerRefusal {
    /// Which worker.
    pub worker: usize,
    /// Which update.
    pub generation: u64,
    /// The first of the updates it stands for: it may have taken the place of unsent ones.
    pub first: u64,
    /// What it is about.
    pub subject: Subject,
    /// Why.
    pub reason: &'static str,
}

/// What came back from the workers.
#[derive(Debug, Default)]
pub struct Progress {
    /// Filled batches.
    pub batches: Vec<(Ticket, Box<ConnectionBatch>)>,
    /// Filled collections.
    pub collected: Vec<(Ticket, Box<Collection>)>,
    /// Refused updates.
    pub refusals: Vec<WorkerRefusal>,
}

/// All workers.
pub struct Workers {
    lanes: Vec<Lane>,
    counters: Vec<Arc<WorkerCounters>>,
    generation: u64,
}

impl Workers {
    /// Takes the control ends of all workers.
    pub fn new(ends: Vec<ControlEnd>) -> Workers {
        let counters = ends.iter().map(|end| Arc::clone(&end.counters)).collect();
        let workers = ends.len();
        let lane = |(worker, end)| Lane::new(end, (worker, workers));
        Workers {
            lanes: ends.into_iter().enumerate().map(lane).collect(),
            counters,
            generation: 0,
        }
    }

    /// Counters of all workers.
    pub fn counters(&self) -> &[Arc<WorkerCounters>] {
        &self.counters
    }

    /// Number of workers.
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Hands an update to every worker. Its generation is applied everywhere once
    /// [`Workers::applied`] has reached it.
    pub fn send(&mut self, update: &Update) -> u64 {
        self.generation += 1;
        for lane in &mut self.lanes {
            lane.queue(self.generation, update.clone());
            lane.flush();
        }
        self.generation
    }

    /// The generation of the last update.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The generation up to which every worker has taken everything over.
    pub fn applied(&self) -> u64 {
        self.lanes
            .iter()
            .filter_map(Lane::oldest_open)
            .min()
            .map_or(self.generation, |g| g - 1)
    }

    /// Whether anything is under way, so that [`Workers::poll`] is due soon.
    pub fn is_waiting(&self) -> bool {
        self.lanes
            .iter()
            .any(|lane| !lane.unsent.is_empty() || !lane.in_flight.is_empty())
    }

    /// Collects replies, frees what they carry, sends what waited. The work is bounded by the
    /// size of the rings.
    pub fn poll(&mut self) -> Progress {
        let mut progress = Progress::default();
        for (worker, lane) in self.lanes.iter_mut().enumerate() {
            lane.collect(worker, &mut progress);
            lane.flush();
        }
        progress
    }

    /// Asks a worker to fill a batch; `Err` gives it back when the ring has no room now.
    pub fn fill(
        &mut self,
        worker: usize,
        batch: Box<ConnectionBatch>,
    ) -> Result<Ticket, Box<ConnectionBatch>> {
        self.ask(worker, batch, Command::DumpConnections)
    }

    /// Asks a worker to fill a collection; `Err` gives it back when the ring has no room now.
    pub fn collect(
        &mut self,
        worker: usize,
        collection: Box<Collection>,
    ) -> Result<Ticket, Box<Collection>> {
        self.ask(worker, collection, Command::CollectConnections)
    }

    fn ask<T>(&mut self, worker: usize, what: T, command: fn(T) -> Command) -> Result<Ticket, T> {
        let Some(lane) = self.lanes.get_mut(worker) else {
            return Err(what);
        };
        if !lane.unsent.is_empty() || lane.end.commands.is_full() {
            return Err(what);
        }
        self.generation += 1;
        let sent = InFlight {
            generation: self.generation,
            update: None,
        };
        lane.push(sent, command(what));
        Ok(Ticket(self.generation))
    }

    /// Gives every worker connections that a master told of; `Err` gives them back while one of
    /// them has more to do already than the ring's `share`-th part. Nothing waits for it.
    pub fn put_connections(&mut self, batch: Arc<Batch>, share: usize) -> Result<(), Arc<Batch>> {
        let has_room = |lane: &Lane| {
            let commands = &lane.end.commands;
            lane.unsent.is_empty() && commands.len() < commands.capacity() / share.max(1)
        };
        if !self.lanes.iter().all(has_room) {
            return Err(batch);
        }
        self.generation += 1;
        for lane in &mut self.lanes {
            let sent = InFlight {
                generation: self.generation,
                update: None,
            };
            lane.push(sent, Command::PutConnections(Arc::clone(&batch)));
        }
        Ok(())
    }

    /// Events of all workers, at most `limit` from each.
    pub fn events(&self, limit: usize) -> impl Iterator<Item = Event> + '_ {
        self.lanes
            .iter()
            .flat_map(move |lane| (0..limit).map_while(|_| lane.end.events.pop()))
    }

    /// Workers that have not taken everything over, for messages.
    pub fn laggards(&self) -> Vec<usize> {
        let waits = |lane: &Lane| lane.oldest_open().is_some();
        (0..self.lanes.len())
            .filter(|worker| waits(&self.lanes[*worker]))
            .collect()
    }
}

struct Unsent {
    /// The oldest generation that it stands for; it may have replaced earlier updates.
    first: u64,
    update: Update,
}

struct InFlight {
    generation: u64,
    /// The first update that it stands for, and what it is about. `None` for commands nobody
    /// waits for as an update.
    update: Option<(u64, Subject)>,
}

/// One worker's rings and what is under way on them.
struct Lane {
    end: ControlEnd,
    /// Number of the worker, and of all.
    seat: (usize, usize),
    unsent: BTreeMap<u64, Unsent>,
    /// The last unsent update about each subject.
    newest: HashMap<Subject, u64>,
    in_flight: VecDeque<InFlight>,
    /// `first` of every update that is unsent or in flight.
    open: BTreeSet<u64>,
}

impl Lane {
    fn new(end: ControlEnd, seat: (usize, usize)) -> Lane {
        Lane {
            end,
            seat,
            unsent: BTreeMap::new(),
            newest: HashMap::new(),
            in_flight: VecDeque::new(),
            open: BTreeSet::new(),
        }
    }

    fn oldest_open(&self) -> Option<u64> {
        self.open.first().copied()
    }

    fn queue(&mut self, generation: u64, update: Update) {
        let mut first = generation;
        let subject = update.subject();
        if let Some(earlier) = self.newest.get(&subject)
            && self
                .unsent
                .get(earlier)
                .is_some_and(|u| update.replaces(&u.update))
            && let Some(replaced) = self.unsent.remove(earlier)
        {
            first = replaced.first;
        }
        self.newest.insert(subject, generation);
        self.open.insert(first);
        self.unsent.insert(generation, Unsent { first, update });
    }

    fn flush(&mut self) {
        while !self.end.commands.is_full()
            && let Some((generation, unsent)) = self.unsent.pop_first()
        {
            let subject = unsent.update.subject();
            if self.newest.get(&subject) == Some(&generation) {
                self.newest.remove(&subject);
            }
            let update = Some((unsent.first, subject));
            let sent = InFlight { generation, update };
            let (worker, workers) = self.seat;
            self.push(sent, unsent.update.command(worker, workers));
        }
    }

    /// Only called when the ring has room; this is its only producer.
    fn push(&mut self, sent: InFlight, command: Command) {
        let pushed = self.end.commands.push(Envelope {
            generation: sent.generation,
            command,
        });
        debug_assert!(
            pushed.is_ok(),
            "room was checked and control is the only producer"
        );
        self.in_flight.push_back(sent);
    }

    fn collect(&mut self, worker: usize, progress: &mut Progress) {
        for _ in 0..self.end.replies.capacity() {
            let Some(Reply {
                generation,
                outcome,
            }) = self.end.replies.pop()
            else {
                break;
            };
            let mut update = None;
            while self
                .in_flight
                .front()
                .is_some_and(|sent| sent.generation <= generation)
            {
                update = self.in_flight.pop_front().and_then(|sent| sent.update);
                if let Some((first, _)) = update {
                    self.open.remove(&first);
                }
            }
            match outcome {
                // Retired parts are freed here.
                Outcome::Done(_retired) => {}
                Outcome::Refused(reason, _retired) => {
                    let (first, subject) = update.unwrap_or((generation, Subject::Nothing));
                    progress.refusals.push(WorkerRefusal {
                        worker,
                        generation,
                        first,
                        subject,
                        reason,
                    });
                }
                Outcome::Connections(batch) => {
                    progress.batches.push((Ticket(generation), batch));
                }
                Outcome::Collected(collection) => {
                    progress.collected.push((Ticket(generation), collection));
                }
            }
        }
    }
}

/// Bytes of engine data in a batch: some hundred Call-IDs, and far less than a frame holds.
const BATCH_DATA: usize = 1 << 16;

/// An empty batch to fill.
pub fn batch() -> Box<ConnectionBatch> {
    Box::new(ConnectionBatch {
        rows: Vec::with_capacity(BATCH_ROWS),
        data: Vec::with_capacity(BATCH_DATA),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeWorker;
    use dataplane::addr::{Addr, Endpoint};
    use dataplane::service::ServiceOptions;
    use dataplane::service::{Destinations, Protocol, ServiceId, ServiceKey, VirtualService};
    use dataplane::settings::Settings;

    fn service(id: u32, port: u16, one_packet: bool) -> Update {
        Update::PutService(Arc::new(VirtualService {
            id: ServiceId(id),
            key: ServiceKey::new(Protocol::Udp, Endpoint::new(Addr::v4([10, 0, 0, 1]), port)),
            scheduler: "rr",
            options: ServiceOptions {
                one_packet,
                ..ServiceOptions::default()
            },
            destinations: Destinations::default(),
            withdrawn: Vec::new(),
        }))
    }

    fn two() -> (Workers, Vec<FakeWorker>) {
        let fakes: Vec<_> = (0..2).map(|_| FakeWorker::new(16)).collect();
        let ends = fakes.iter().map(|(control, _)| control.clone()).collect();
        (
            Workers::new(ends),
            fakes.into_iter().map(|(_, fake)| fake).collect(),
        )
    }

    #[test]
    fn a_generation_counts_when_every_worker_has_it() {
        let (mut workers, mut fakes) = two();
        let g = workers.send(&service(1, 80, false));
        assert!(workers.is_waiting());
        fakes[0].run();
        workers.poll();
        assert_eq!((workers.applied(), workers.laggards()), (g - 1, vec![1]));
        fakes[1].run();
        workers.poll();
        assert_eq!((workers.applied(), workers.is_waiting()), (g, false));
        assert_eq!(fakes[0].services.len(), 1);
    }

    #[test]
    fn a_full_ring_keeps_the_newest_snapshot_of_each_subject() {
        let (mut workers, mut fakes) = two();
        let capacity = fakes[0].end.commands.capacity();
        for _ in 0..capacity {
            workers.send(&Update::Nop);
        }
        let first = workers.send(&service(1, 80, false));
        workers.send(&Update::PutSettings(Settings::default()));
        for i in 0..500 {
            workers.send(&service(1, 80, i % 2 == 0));
        }
        let last = workers.generation();
        assert_eq!(workers.lanes[0].unsent.len(), 2);
        assert_eq!(workers.applied(), 0);
        // The ring has room again: one command is sent, the snapshot is still outstanding, and
        // so is the first update that it replaced.
        fakes.iter_mut().for_each(|f| f.run());
        workers.poll();
        assert_eq!(workers.applied(), first - 1);
        fakes.iter_mut().for_each(|f| f.run());
        workers.poll();
        assert_eq!(workers.applied(), last);
        let applied = &fakes[1].services[&ServiceId(1)];
        assert!(!applied.options.one_packet, "the last snapshot won");
        assert_eq!(fakes[1].applied, capacity + 2);
    }

    #[test]
    fn a_deletion_between_two_services_of_one_id_is_kept() {
        let (mut workers, mut fakes) = two();
        for _ in 0..fakes[0].end.commands.capacity() {
            workers.send(&Update::Nop);
        }
        workers.send(&service(1, 80, false));
        workers.send(&Update::DeleteService(ServiceId(1)));
        workers.send(&service(1, 81, false));
        workers.send(&service(1, 81, true));
        let waiting: Vec<_> = workers.lanes[0]
            .unsent
            .values()
            .map(|u| format!("{:?}", u.update))
            .collect();
        assert_eq!(waiting.len(), 2, "{waiting:?}");
        assert!(waiting[0].starts_with("DeleteService"), "{waiting:?}");
        fakes.iter_mut().for_each(|f| f.run());
        workers.poll();
        fakes.iter_mut().for_each(|f| f.run());
        workers.poll();
        assert_eq!(workers.applied(), workers.generation());
    }

    #[test]
    fn a_refusal_names_worker_and_generation() {
        let (mut workers, mut fakes) = two();
        fakes[1].refuse = |_| Some("service id is beyond the capacity");
        let generation = workers.send(&service(1, 80, false));
        fakes.iter_mut().for_each(|f| f.run());
        let progress = workers.poll();
        let reason = "service id is beyond the capacity";
        assert_eq!(
            progress.refusals,
            [WorkerRefusal {
                worker: 1,
                generation,
                first: generation,
                subject: Subject::Service(ServiceId(1)),
                reason
            }]
        );
        assert_eq!(workers.applied(), generation);
    }

    #[test]
    fn a_worker_that_cannot_reply_gets_nothing_freed_on_it() {
        let (mut workers, mut fakes) = two();
        let capacity = fakes[0].end.replies.capacity();
        for _ in 0..capacity + 10 {
            workers.send(&Update::Nop);
        }
        fakes[0].run();
        for _ in 0..10 {
            workers.send(&Update::Nop);
        }
        fakes[0].run();
        assert_eq!(
            fakes[0].applied, capacity,
            "it waits while its replies are not drained"
        );
        workers.poll();
        fakes[0].run();
        assert!(fakes[0].applied > capacity);
    }
}
