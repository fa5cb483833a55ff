//! A walk through the tables of all workers, part by part: batches go out empty and come back
//! filled, several side by side, because an answer of a worker is heard once a millisecond.

use dataplane::command::DumpCursor;
use dataplane::time::Instant;

use crate::workers::{Ticket, Workers};

/// Parts that are under way at a time.
pub const LANES: usize = 8;

/// Parts of a worker's table.
const PARTS: u32 = 16;

/// A part of a worker's table.
struct Lane<B> {
    /// Whose, and where to go on; none if there is nothing to do.
    at: Option<(usize, DumpCursor)>,
    under_way: Option<(Ticket, Instant)>,
    spare: Option<Box<B>>,
}

/// See the module. `B` is what workers fill.
pub struct Walk<B> {
    /// The next part of a worker's table.
    worker: usize,
    part: u32,
    lanes: Vec<Lane<B>>,
}

impl<B> Default for Walk<B> {
    fn default() -> Walk<B> {
        let lane = |_| Lane {
            at: None,
            under_way: None,
            spare: None,
        };
        Walk {
            worker: 0,
            part: 0,
            lanes: (0..LANES).map(lane).collect(),
        }
    }
}

impl<B> Walk<B> {
    /// The lane that waits for this answer.
    pub fn lane_of(&self, ticket: Ticket) -> Option<usize> {
        let waits = |lane: &Lane<B>| lane.under_way.is_some_and(|(t, _)| t == ticket);
        self.lanes.iter().position(waits)
    }

    /// A batch came back to a lane; the next one goes on at its cursor. It may be used again.
    pub fn came_back(&mut self, lane: usize, cursor: DumpCursor, spare: Option<Box<B>>) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            let went_on = |(worker, _)| (worker, cursor);
            lane.at = lane.at.map(went_on).filter(|(_, cursor)| !cursor.done);
            lane.under_way = None;
            lane.spare = spare;
        }
    }

    /// Whether all parts of all workers were visited.
    pub fn is_over(&self, workers: usize) -> bool {
        self.worker >= workers && self.lanes.iter().all(|lane| lane.at.is_none())
    }

    /// Batches under way.
    pub fn under_way(&self) -> usize {
        let waits = |lane: &&Lane<B>| lane.under_way.is_some();
        self.lanes.iter().filter(waits).count()
    }

    /// The longest wait for a batch: for which worker, since when.
    pub fn slowest(&self) -> Option<(usize, Instant)> {
        let waits = |lane: &Lane<B>| Some((lane.at?.0, lane.under_way?.1));
        self.lanes
            .iter()
            .filter_map(waits)
            .min_by_key(|(_, since)| *since)
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

    /// Asks workers for what may be asked for. `make`: an empty batch. `ask` gives the batch to a
    /// worker, from the cursor on, or gives it back while the worker has much to do.
    pub fn advance(
        &mut self,
        now: Instant,
        workers: &mut Workers,
        make: impl Fn() -> Box<B>,
        ask: impl Fn(&mut Workers, usize, DumpCursor, Box<B>) -> Result<Ticket, Box<B>>,
    ) {
        for at in 0..LANES {
            if self.lanes[at].at.is_none() {
                self.lanes[at].at = self.next_part(workers.len());
            }
            let lane = &mut self.lanes[at];
            let (Some((worker, cursor)), None) = (lane.at, lane.under_way) else {
                continue;
            };
            let batch = lane.spare.take().unwrap_or_else(&make);
            match ask(workers, worker, cursor, batch) {
                Ok(ticket) => lane.under_way = Some((ticket, now)),
                // Its ring is full: the next turn tries again.
                Err(batch) => lane.spare = Some(batch),
            }
        }
    }
}
