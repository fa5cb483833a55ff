//! A listing of connections: batch by batch, as workers fill them and as its reader takes them.

use dataplane::command::{ConnectionBatch, ConnectionView, DumpCursor};
use dataplane::service::{Engine, Protocol};
use dataplane::time::Instant;

use super::DEADLINE;
use crate::api::{self, ConnectionRow, ErrorKind};
use crate::model::Refusal;
use crate::state::State;
use crate::workers::{self, Ticket};

/// A listing of connections under way.
pub struct Dump {
    /// The next part of a worker's table.
    worker: usize,
    part: u32,
    /// Parts that are listed side by side: an answer of a worker is heard once a millisecond.
    lanes: Box<[Lane; LANES]>,
}

/// Parts of a listing that are under way at a time.
const LANES: usize = 8;

/// Parts of a worker's table.
const PARTS: u32 = 16;

/// A part of a worker's table that is being listed.
#[derive(Default)]
struct Lane {
    /// Whose, and where to go on; none if there is nothing to do.
    at: Option<(usize, DumpCursor)>,
    under_way: Option<(Ticket, Instant)>,
    spare: Option<Box<ConnectionBatch>>,
}

impl Dump {
    /// From the beginning.
    pub fn new() -> Dump {
        Dump {
            worker: 0,
            part: 0,
            lanes: Default::default(),
        }
    }

    /// The lane that waits for this answer.
    pub fn lane_of(&self, ticket: Ticket) -> Option<usize> {
        let waits = |lane: &Lane| lane.under_way.is_some_and(|(t, _)| t == ticket);
        self.lanes.iter().position(waits)
    }

    /// The rows of a batch that came back to a lane.
    pub fn take(&mut self, lane: usize, mut batch: Box<ConnectionBatch>) -> Vec<ConnectionRow> {
        let rows = batch.rows.iter().map(|view| row(&batch, view)).collect();
        if let Some(lane) = self.lanes.get_mut(lane) {
            let went_on = |(worker, _)| (worker, batch.cursor);
            lane.at = lane.at.map(went_on).filter(|(_, cursor)| !cursor.done);
            lane.under_way = None;
            batch.rows.clear();
            batch.data.clear();
            lane.spare = Some(batch);
        }
        rows
    }

    /// Whether all parts of all workers were listed.
    pub fn is_over(&self, workers: usize) -> bool {
        self.worker >= workers && self.lanes.iter().all(|lane| lane.at.is_none())
    }

    /// The next part, if there is one.
    fn next_part(&mut self, workers: usize) -> Option<(usize, DumpCursor)> {
        if self.worker >= workers {
            return None;
        }
        let next = (self.worker, DumpCursor::part(self.part, PARTS));
        self.part += 1;
        if self.part == PARTS {
            (self.worker, self.part) = (self.worker + 1, 0);
        }
        Some(next)
    }

    /// Asks workers for what may be asked for.
    ///
    /// # Errors
    /// One does not answer.
    pub fn advance(
        &mut self,
        now: Instant,
        state: &mut State,
        has_room: bool,
    ) -> Result<(), Refusal> {
        let workers = state.workers.len();
        for at in 0..LANES {
            if self.lanes[at].at.is_none() && has_room {
                self.lanes[at].at = self.next_part(workers);
            }
            let lane = &mut self.lanes[at];
            let Some((worker, cursor)) = lane.at else {
                continue;
            };
            if let Some((_, since)) = lane.under_way {
                if now.since(since) >= DEADLINE {
                    return Err(Refusal::new(
                        ErrorKind::Busy,
                        format!(
                            "worker {worker} did not list its connections within {} s",
                            DEADLINE.as_secs()
                        ),
                    ));
                }
                continue;
            }
            if !has_room {
                continue;
            }
            let mut batch = lane.spare.take().unwrap_or_else(workers::batch);
            batch.cursor = cursor;
            match state.workers.fill(worker, batch) {
                Ok(ticket) => lane.under_way = Some((ticket, now)),
                // Its ring is full: the next turn tries again.
                Err(batch) => lane.spare = Some(batch),
            }
        }
        Ok(())
    }
}

fn row(batch: &ConnectionBatch, view: &ConnectionView) -> ConnectionRow {
    let at = |e: dataplane::addr::Endpoint| (e.addr.into(), e.port);
    ConnectionRow {
        protocol: view.protocol.map(|protocol| match protocol {
            Protocol::Tcp => api::Protocol::Tcp,
            Protocol::Udp => api::Protocol::Udp,
            Protocol::Sctp => api::Protocol::Sctp,
        }),
        expires: view.expires,
        state: view.state.to_owned(),
        client: at(view.client),
        virtual_: at(view.virtual_),
        dest: at(view.dest),
        // There is one engine.
        engine: batch.data_of(view).map(|data| api::EngineData {
            name: Engine::Sip.name().to_owned(),
            data: String::from_utf8_lossy(data).into_owned(),
        }),
    }
}
