//! Queues of a running port, lent to one owner at a time.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::RunningPort;
use crate::ffi;
use crate::mbuf::Burst;

impl RunningPort {
    /// Lends RX queue `queue`; `None` if there is no such queue or it is lent.
    pub fn rx_queue(&mut self, queue: u16) -> Option<RxQueue> {
        let lease = Leases::take(&self.leases, Direction::Rx, queue)?;
        Some(RxQueue {
            port: self.device().id,
            lease,
        })
    }

    /// Lends TX queue `queue`; `None` if there is no such queue or it is lent.
    pub fn tx_queue(&mut self, queue: u16) -> Option<TxQueue> {
        let lease = Leases::take(&self.leases, Direction::Tx, queue)?;
        Some(TxQueue {
            port: self.device().id,
            lease,
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    Rx,
    Tx,
}

/// Which queues of a port are lent.
#[derive(Debug)]
pub(super) struct Leases {
    rx: Box<[AtomicBool]>,
    tx: Box<[AtomicBool]>,
}

impl Leases {
    pub(super) fn new(rx: u16, tx: u16) -> Leases {
        let all = |n: u16| (0..n).map(|_| AtomicBool::new(false)).collect();
        Leases {
            rx: all(rx),
            tx: all(tx),
        }
    }

    fn slot(&self, direction: Direction, queue: u16) -> Option<&AtomicBool> {
        match direction {
            Direction::Rx => self.rx.get(usize::from(queue)),
            Direction::Tx => self.tx.get(usize::from(queue)),
        }
    }

    fn take(leases: &Arc<Leases>, direction: Direction, queue: u16) -> Option<Lease> {
        // Acquire: what the last owner did with the queue comes before what the next does.
        let lent = leases.slot(direction, queue)?.swap(true, Ordering::Acquire);
        (!lent).then(|| Lease {
            leases: Arc::clone(leases),
            direction,
            queue,
        })
    }

    pub(super) fn count(&self) -> usize {
        self.rx
            .iter()
            .chain(&self.tx)
            .filter(|lent| lent.load(Ordering::Acquire))
            .count()
    }
}

/// The right to use one queue, returned on drop.
#[derive(Debug)]
struct Lease {
    leases: Arc<Leases>,
    direction: Direction,
    queue: u16,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(lent) = self.leases.slot(self.direction, self.queue) {
            lent.store(false, Ordering::Release);
        }
    }
}

/// A receive queue. Its port runs as long as this lives.
#[derive(Debug)]
pub struct RxQueue {
    port: u16,
    lease: Lease,
}

impl RxQueue {
    /// Appends the frames that have arrived, as many as fit, to `burst`; returns how many.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst) -> usize {
        let spare = burst.spare();
        if spare == 0 {
            return 0;
        }
        // SAFETY: the port runs and the queue is ours alone (lease); room for `spare` pointers.
        let n = unsafe {
            ffi::rvs_rx_burst(self.port, self.lease.queue, burst.spare_ptr(), spare as u16)
        };
        // SAFETY: the driver wrote n live mbufs and gave them away.
        unsafe { burst.grow(usize::from(n)) };
        usize::from(n)
    }

    /// Number of the queue.
    pub fn index(&self) -> u16 {
        self.lease.queue
    }
}

/// A transmit queue. Its port runs as long as this lives.
#[derive(Debug)]
pub struct TxQueue {
    port: u16,
    lease: Lease,
}

impl TxQueue {
    /// Hands frames from the front of `burst` to the NIC; returns how many. What it did not take
    /// stays in the burst, in order, and is the caller's.
    #[inline]
    pub fn send(&mut self, burst: &mut Burst) -> usize {
        if burst.is_empty() {
            return 0;
        }
        // SAFETY: the port runs and the queue is ours alone (lease); the burst holds `len` mbufs.
        let sent = unsafe {
            ffi::rvs_tx_burst(
                self.port,
                self.lease.queue,
                burst.as_mut_ptr(),
                burst.len() as u16,
            )
        };
        // SAFETY: the first `sent` belong to the driver now.
        unsafe { burst.forget_front(usize::from(sent)) };
        usize::from(sent)
    }

    /// Number of the queue.
    pub fn index(&self) -> u16 {
        self.lease.queue
    }
}
