//! A listing of connections: batch by batch, as workers fill them and as its reader takes them.

use dataplane::command::{ConnectionBatch, ConnectionView};
use dataplane::service::{Engine, Protocol};
use dataplane::time::Instant;

use super::DEADLINE;
use crate::api::{self, ConnectionRow, ErrorKind};
use crate::model::Refusal;
use crate::state::State;
use crate::walk::Walk;
use crate::workers::{self, Ticket};

/// A listing of connections under way.
pub struct Dump {
    walk: Walk<ConnectionBatch>,
}

impl Dump {
    /// From the beginning.
    pub fn new() -> Dump {
        Dump {
            walk: Walk::default(),
        }
    }

    /// The lane that waits for this answer.
    pub fn lane_of(&self, ticket: Ticket) -> Option<usize> {
        self.walk.lane_of(ticket)
    }

    /// The rows of a batch that came back to a lane.
    pub fn take(&mut self, lane: usize, mut batch: Box<ConnectionBatch>) -> Vec<ConnectionRow> {
        let rows = batch.rows.iter().map(|view| row(&batch, view)).collect();
        batch.rows.clear();
        batch.data.clear();
        self.walk.came_back(lane, batch.cursor, Some(batch));
        rows
    }

    /// Whether all parts of all workers were listed.
    pub fn is_over(&self, workers: usize) -> bool {
        self.walk.is_over(workers)
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
        if let Some((worker, since)) = self.walk.slowest()
            && now.since(since) >= DEADLINE
        {
            return Err(Refusal::new(
                ErrorKind::Busy,
                format!(
                    "worker {worker} did not list its connections within {} s",
                    DEADLINE.as_secs()
                ),
            ));
        }
        if has_room {
            let workers = &mut state.workers;
            self.walk.advance(
                now,
                workers,
                workers::batch,
                |workers, worker, at, mut batch| {
                    batch.cursor = at;
                    workers.fill(worker, batch)
                },
            );
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
