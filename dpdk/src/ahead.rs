//! How deep a receive queue is: as much of it as matters is taken out ahead of its turn.
//!
//! Few drivers can count what waits (neither af_packet, memif, tap nor virtio), and what a queue is
//! said to hold is not always what the device beneath holds. Taking it out tells, for every device,
//! and costs nothing but the time until the packets are needed. They keep their order.

use std::collections::VecDeque;

use crate::mbuf::{BURST, Burst};
use crate::port::RxQueue;

/// Most packets taken ahead of a queue: with so many it is deep, whatever it can hold. That is some
/// milliseconds of work on slow devices.
pub const MOST: usize = 512;

/// What was taken out of a receive queue and has not had its turn.
#[derive(Debug)]
pub(crate) struct Ahead {
    bursts: VecDeque<Burst>,
}

impl Ahead {
    pub(crate) fn new() -> Ahead {
        Ahead {
            bursts: VecDeque::with_capacity(MOST / BURST),
        }
    }

    /// Takes the next frames into the empty `burst`, from the queue if none were taken ahead;
    /// returns how many.
    #[inline]
    pub(crate) fn receive(&mut self, queue: &mut RxQueue, burst: &mut Burst) -> usize {
        if self.bursts.is_empty() {
            return queue.receive(burst);
        }
        self.receive_taken(burst)
    }

    #[cold]
    fn receive_taken(&mut self, burst: &mut Burst) -> usize {
        *burst = self.bursts.pop_front().unwrap_or_default();
        burst.len()
    }

    /// Whether the queue holds [`MOST`] packets, or half of the `ring` descriptors it has if that is
    /// less. What it holds is taken out, up to that.
    #[cold]
    pub(crate) fn is_deep(&mut self, queue: &mut RxQueue, ring: u16) -> bool {
        let deep = (usize::from(ring) / 2 / BURST).clamp(1, MOST / BURST);
        while self.bursts.len() < deep {
            let mut next = Burst::new();
            let n = queue.receive(&mut next);
            if n > 0 {
                self.bursts.push_back(next);
            }
            if n < BURST {
                return false;
            }
        }
        true
    }
}
