//! Copies of the table for peers: the control loop asks the workers, the peers' thread sends.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use dataplane::sync::{Collection, Wanted};
use dataplane::time::Instant;
use mio::Waker;

use crate::walk::{LANES, Walk};
use crate::workers::{Ticket, Workers};

/// Entries of one collection: packets wait while a worker fills it.
const ROWS: usize = 256;

/// Collections that wait for the peers' thread.
const WAITING: usize = 4 * LANES;

/// A worker that has not filled a collection in this time is stuck.
const DEADLINE: Duration = Duration::from_secs(5);

/// A part of a copy.
pub enum Piece {
    /// Entries.
    Part(Box<Collection>),
    /// That was all.
    End,
}

/// What is wanted, and where it goes. When the other end of `pieces` is dropped, the copy ends.
pub struct Order {
    /// Which entries.
    pub wanted: Wanted,
    /// For them.
    pub pieces: Sender<Piece>,
    /// Rung when some are there.
    pub waker: Arc<Waker>,
}

/// Where the pieces of an order come from.
pub fn pieces() -> (Sender<Piece>, Receiver<Piece>) {
    bounded(WAITING)
}

struct Job {
    order: Order,
    walk: Walk<Collection>,
}

/// See the module.
pub struct Copies {
    orders: (Sender<Order>, Receiver<Order>),
    jobs: Vec<Job>,
}

impl Default for Copies {
    fn default() -> Copies {
        Copies {
            orders: bounded(16),
            jobs: Vec::new(),
        }
    }
}

impl Copies {
    /// For who wants copies; the control loop is to be rung with each order.
    pub fn desk(&self) -> Sender<Order> {
        self.orders.0.clone()
    }

    /// A collection came back from a worker. Nobody may want it any more.
    pub fn collected(&mut self, ticket: Ticket, collection: Box<Collection>) {
        let found = self.jobs.iter_mut().enumerate();
        let found = found.filter_map(|(n, job)| Some((n, job.walk.lane_of(ticket)?)));
        let Some((n, lane)) = found.last() else {
            return;
        };
        let job = &mut self.jobs[n];
        job.walk.came_back(lane, collection.cursor, None);
        if job.order.pieces.try_send(Piece::Part(collection)).is_err() {
            // Whoever wanted it has gone: there was room.
            self.jobs.remove(n);
            return;
        }
        let _ = job.order.waker.wake();
    }

    /// Asks the workers for more, as far as what was filled is taken.
    pub fn advance(&mut self, now: Instant, workers: &mut Workers) {
        let orders = self.orders.1.try_iter();
        self.jobs.extend(orders.map(|order| Job {
            order,
            walk: Walk::default(),
        }));
        self.jobs.retain_mut(|job| job.advance(now, workers));
    }
}

impl Job {
    /// False if it is over.
    fn advance(&mut self, now: Instant, workers: &mut Workers) -> bool {
        let pieces = &self.order.pieces;
        if self.walk.is_over(workers.len()) {
            return match pieces.try_send(Piece::End) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => {
                    let _ = self.order.waker.wake();
                    false
                }
                Err(TrySendError::Full(_)) => true,
            };
        }
        if let Some((worker, since)) = self.walk.slowest()
            && now.since(since) >= DEADLINE
        {
            tracing::warn!(
                event = "sync",
                worker,
                "it did not copy its connections in time"
            );
            return false;
        }
        let free = WAITING - pieces.len();
        if free >= LANES + self.walk.under_way() {
            let wanted = self.order.wanted;
            self.walk.advance(
                now,
                workers,
                || Box::new(Collection::with_room(ROWS)),
                |workers, worker, at, mut collection| {
                    (collection.cursor, collection.wanted) = (at, wanted);
                    workers.collect(worker, collection)
                },
            );
        }
        true
    }
}
