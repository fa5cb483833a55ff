//! A worker for tests: no thread, no packets; it applies commands when told to.

use std::collections::HashMap;
use std::sync::Arc;

use dataplane::addr::{Addr, Endpoint};
use dataplane::capture::Capture;
use dataplane::command::{
    Command, ConnectionBatch, ConnectionView, ControlEnd, Outcome, Reply, Retired, WorkerEnd,
    channel,
};
use dataplane::conn::SHARDS;
use dataplane::packet::{Packet, PortId, PuntClass, Verdict};
use dataplane::service::{ForwardingMethod, Protocol, ServiceId, VirtualService};
use dataplane::settings::Settings;
use dataplane::sync::{Age, Collection, EngineData, SyncEntry};
use dataplane::time::Instant;

/// See the module.
pub struct FakeWorker {
    /// Its rings.
    pub end: WorkerEnd,
    /// Services it has.
    pub services: HashMap<ServiceId, Arc<VirtualService>>,
    /// Settings it has.
    pub settings: Settings,
    /// Commands applied.
    pub applied: usize,
    /// Connections it pretends to hold.
    pub connections: u32,
    /// Connections that it was told of, and how old they were.
    pub taken: Vec<(SyncEntry, Age)>,
    /// Given a frame in each turn while it is there.
    pub capture: Option<Box<Capture>>,
    /// Says why it refuses a command, if it does.
    pub refuse: fn(&Command) -> Option<&'static str>,
}

impl FakeWorker {
    /// Both ends.
    pub fn new(max_dests: usize) -> (ControlEnd, FakeWorker) {
        let (control, end) = channel(max_dests);
        let fake = FakeWorker {
            end,
            services: HashMap::new(),
            settings: Settings::default(),
            applied: 0,
            connections: 0,
            taken: Vec::new(),
            capture: None,
            refuse: |_| None,
        };
        (control, fake)
    }

    /// One turn of its loop: the heartbeat and all commands that can be replied to.
    pub fn run(&mut self) {
        self.end.counters.heartbeat.add(1);
        if let Some(capture) = &mut self.capture {
            let mut room = [0; 60];
            let packet = Packet::new(&mut room, 0, 60, PortId(0));
            capture.received(Instant(0), 0, &packet);
            capture.decided(0, Verdict::Kernel(PuntClass::Host));
        }
        while !self.end.replies.is_full()
            && let Some(envelope) = self.end.commands.pop()
        {
            let generation = envelope.generation;
            let outcome = match (self.refuse)(&envelope.command) {
                Some(reason) => Outcome::Refused(reason, Retired::default()),
                None => self.apply(envelope.command),
            };
            self.applied += 1;
            self.end.counters.generation.set(generation);
            assert!(
                self.end
                    .replies
                    .push(Reply {
                        generation,
                        outcome
                    })
                    .is_ok()
            );
        }
    }

    fn apply(&mut self, command: Command) -> Outcome {
        let mut retired = Retired::default();
        match command {
            Command::PutService { service, scheduler } => {
                retired.service = self.services.insert(service.id, service);
                retired.scheduler = Some(scheduler);
            }
            Command::DeleteService(id) => retired.service = self.services.remove(&id),
            Command::StartCapture(capture) => retired.capture = self.capture.replace(capture),
            Command::StopCapture => retired.capture = self.capture.take(),
            Command::PutSettings(settings) => self.settings = settings,
            Command::PutConnections(batch) => {
                let rows = batch.rows.iter().map(|row| (row.entry, row.age));
                self.taken.extend(rows);
                retired.batch = Some(batch);
            }
            Command::CollectConnections(collection) => {
                return Outcome::Collected(self.collect(collection));
            }
            Command::DumpConnections(batch) => return Outcome::Connections(self.dump(batch)),
            _ => {}
        }
        Outcome::Done(retired)
    }

    /// The same as [`FakeWorker::dump`] shows; each has been idle for as many ticks as its number.
    fn collect(&self, mut collection: Box<Collection>) -> Box<Collection> {
        if collection.cursor.end < SHARDS as u32 {
            collection.cursor.done = true;
            return collection;
        }
        let wanted = collection.wanted.active_within.unwrap_or(u32::MAX);
        let room = collection.batch.rows.capacity();
        while collection.batch.rows.len() < room && collection.cursor.entry < self.connections {
            let n = collection.cursor.entry;
            let entry = SyncEntry {
                protocol: 6,
                flags: 0,
                state: 1,
                client: Endpoint::new(Addr::v4((0x0b00_0000 + n).to_be_bytes()), 40_000),
                virtual_: Endpoint::new(Addr::v4([10, 0, 0, 1]), 80),
                dest: Endpoint::new(Addr::v4([192, 168, 0, 1]), 8080),
                fwmark: 0,
                timeout: 900,
                sequence: None,
            };
            if n <= wanted {
                let none = EngineData::default();
                collection.batch.push_copy(entry, &none, n);
            }
            collection.cursor.entry += 1;
        }
        collection.cursor.done = collection.cursor.entry >= self.connections;
        collection
    }

    /// All are in the last shard.
    fn dump(&self, mut batch: Box<ConnectionBatch>) -> Box<ConnectionBatch> {
        if batch.cursor.end < SHARDS as u32 {
            batch.cursor.done = true;
            return batch;
        }
        while batch.rows.len() < batch.rows.capacity() && batch.cursor.entry < self.connections {
            let n = batch.cursor.entry;
            batch.rows.push(ConnectionView {
                protocol: Some(Protocol::Tcp),
                is_template: false,
                client: Endpoint::new(Addr::v4((0x0b00_0000 + n).to_be_bytes()), 40_000),
                virtual_: Endpoint::new(Addr::v4([10, 0, 0, 1]), 80),
                dest: Endpoint::new(Addr::v4([192, 168, 0, 1]), 8080),
                method: ForwardingMethod::Masquerade,
                state: "ESTABLISHED",
                expires: 900,
                data: None,
            });
            batch.cursor.entry += 1;
        }
        batch.cursor.done = batch.cursor.entry >= self.connections;
        batch
    }
}
