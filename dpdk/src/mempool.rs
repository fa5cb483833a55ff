//! Pools of packet buffers.

use core::ffi::c_int;
use core::ptr::NonNull;
use std::ffi::CString;
use std::io;

use thiserror::Error;

use crate::eal::{self, Eal};
use crate::ffi;
use crate::mbuf::{BURST, Burst, HEADROOM, Mbuf};

/// Bytes of a usual data room: headroom and 2 KiB of frame.
pub const DATA_ROOM: u16 = ffi::RVS_DEFAULT_DATA_ROOM as u16;

/// Why a pool could not be made.
#[derive(Debug, Error)]
pub enum MempoolError {
    /// The name cannot be passed on.
    #[error("mbuf pool {0:?}: the name must be 1 to 25 characters without NUL")]
    Name(String),
    /// DPDK refused.
    #[error(
        "mbuf pool {name}: {count} buffers of {data_room} bytes ({megabytes} MB) could not be made: \
         {cause}; raise the memory given to EAL or lower the number of buffers"
    )]
    Create {
        /// Name of the pool.
        name: String,
        /// Buffers asked for.
        count: u32,
        /// Bytes of each data room.
        data_room: u16,
        /// About what it takes.
        megabytes: u64,
        /// What DPDK said.
        cause: io::Error,
    },
}

/// A pool of mbufs with a cache per lcore. It lives until EAL is cleaned up, whatever happens to
/// the handles: an mbuf may come back at any time.
#[derive(Clone, Debug)]
pub struct Mempool {
    pool: NonNull<ffi::rte_mempool>,
    data_room: u16,
    _live: eal::Live,
}

// SAFETY: DPDK's pools (ring based, multi producer and consumer) may be used by any thread, and the
// cache a call uses is the calling lcore's own.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Makes a pool of `count` mbufs with `data_room` bytes each (headroom included) on NUMA node
    /// `socket` (`None`: any). Each lcore keeps up to `cache` of them at hand, cut to what DPDK
    /// takes (512, and two thirds of `count`).
    ///
    /// # Errors
    /// A name that is taken, or not enough memory.
    pub fn new(
        _eal: &Eal,
        name: &str,
        count: u32,
        cache: u32,
        data_room: u16,
        socket: Option<u32>,
    ) -> Result<Mempool, MempoolError> {
        let c_name = CString::new(name)
            .ok()
            .filter(|n| (1..=25).contains(&n.as_bytes().len()))
            .ok_or_else(|| MempoolError::Name(name.to_owned()))?;
        let cache = cache.min(ffi::RVS_MAX_POOL_CACHE).min(count / 3 * 2);
        let socket = socket.map_or(-1, |s| s as c_int);
        // SAFETY: EAL runs (`_eal`), the name is a C string; everything else is checked by DPDK.
        let pool = unsafe {
            ffi::rte_pktmbuf_pool_create(c_name.as_ptr(), count, cache, 0, data_room, socket)
        };
        match NonNull::new(pool) {
            Some(pool) => Ok(Mempool {
                pool,
                data_room,
                _live: eal::Live::new(),
            }),
            None => Err(MempoolError::Create {
                name: name.to_owned(),
                count,
                data_room,
                megabytes: (u64::from(count) * (u64::from(data_room) + 192)) >> 20,
                cause: eal::last_error(),
            }),
        }
    }

    /// One mbuf with an empty frame, or none if the pool is empty.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        let mut mbuf = core::ptr::null_mut();
        // SAFETY: the pool lives; one slot is given for one mbuf.
        if unsafe { ffi::rvs_mbuf_alloc_bulk(self.pool.as_ptr(), &mut mbuf, 1) } != 0 {
            return None;
        }
        // SAFETY: DPDK has just given us a live mbuf.
        NonNull::new(mbuf).map(|mbuf| unsafe { Mbuf::from_raw(mbuf) })
    }

    /// A copy of a frame, in as many mbufs as it takes; none if the pool has too few.
    #[must_use]
    pub fn carry(&self, frame: &[u8]) -> Option<Mbuf> {
        let piece = usize::from(self.data_room.saturating_sub(HEADROOM)).max(1);
        let mut pieces = frame.chunks(piece);
        let copy = |bytes: &[u8]| {
            let mut mbuf = self.alloc()?;
            mbuf.write(bytes).then_some(mbuf)
        };
        let mut whole = copy(pieces.next().unwrap_or(&[]))?;
        for bytes in pieces {
            whole.append(copy(bytes)?).ok()?;
        }
        Some(whole)
    }

    /// Appends `n` mbufs with empty frames to `burst`: all or, if the pool has too few or the burst
    /// has no room for them, none and false.
    #[inline]
    #[must_use]
    pub fn alloc_burst(&self, burst: &mut Burst, n: usize) -> bool {
        if n > burst.spare() {
            return false;
        }
        // SAFETY: the pool lives; there is room for n pointers (checked), n <= 32.
        let rc =
            unsafe { ffi::rvs_mbuf_alloc_bulk(self.pool.as_ptr(), burst.spare_ptr(), n as u32) };
        if rc != 0 {
            return false;
        }
        // SAFETY: DPDK wrote n live mbufs there and they are ours.
        unsafe { burst.grow(n) };
        true
    }

    /// Mbufs that can be had now, including those in the caches of all lcores. Walks all caches.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives.
        unsafe { ffi::rte_mempool_avail_count(self.pool.as_ptr()) }
    }

    /// Mbufs that somebody holds: NIC queues, rings, bursts. Walks all caches.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives.
        unsafe { ffi::rte_mempool_in_use_count(self.pool.as_ptr()) }
    }

    /// Bytes of each data room, headroom included.
    pub fn data_room(&self) -> u16 {
        self.data_room
    }

    pub(crate) fn as_ptr(&self) -> *mut ffi::rte_mempool {
        self.pool.as_ptr()
    }
}

/// What a pool must be able to feed at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// Descriptors of all RX and TX queues together: the NIC may hold that many.
    pub descriptors: u32,
    /// Slots of all mbuf rings together.
    pub ring_slots: u32,
    /// Threads with a cache: workers, the main lcore, registered threads.
    pub threads: u32,
    /// Size of each of their caches.
    pub cache: u32,
    /// Bursts a worker may hold at once: one received, one for each port, one to be freed.
    pub bursts: u32,
}

/// How many mbufs suffice so that a queue never starves: the sum of the demand, rounded up to
/// `2^n - 1`, which wastes no memory in the pool's ring.
pub fn size_for(demand: Demand) -> u32 {
    // A cache is flushed when it holds one and a half times its size.
    let cached = demand.threads * (demand.cache + demand.cache.div_ceil(2));
    let in_hand = demand.threads * demand.bursts * BURST as u32;
    let need = demand.descriptors + demand.ring_slots + cached + in_hand;
    (need + 1).next_power_of_two() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size_for(Demand::default()), 0);
        // 2 ports x 2 queues x (1024 + 1024), two rings of 512, 3 threads.
        let demand = Demand {
            descriptors: 2 * 2 * 2048,
            ring_slots: 1024,
            threads: 3,
            cache: 256,
            bursts: 4,
        };
        // 8192 + 1024 + 3 * 384 + 3 * 128 = 10752
        assert_eq!(size_for(demand), 16383);
        // Exactly 2^n - 1 is enough; one more doubles it.
        assert_eq!(
            size_for(Demand {
                descriptors: 1023,
                ..Demand::default()
            }),
            1023
        );
        assert_eq!(
            size_for(Demand {
                descriptors: 1024,
                ..Demand::default()
            }),
            2047
        );
    }
}
