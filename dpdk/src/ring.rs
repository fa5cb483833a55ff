//! Rings of mbufs between threads: workers and the pump to the kernel twins.
//!
//! A ring is made as two halves. What is still in it when both are gone is freed.

use core::ffi::c_int;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::ffi::CString;
use std::io;
use std::process;
use std::sync::Arc;

use thiserror::Error;

use crate::eal::{self, Eal};
use crate::ffi;
use crate::mbuf::{Burst, Mbuf};

/// Why a ring could not be made.
#[derive(Debug, Error)]
#[error("mbuf ring of {capacity} slots could not be made: {cause}; raise the memory given to EAL")]
pub struct RingError {
    /// Slots asked for.
    pub capacity: u32,
    /// What DPDK said.
    pub cause: io::Error,
}

#[derive(Debug)]
struct Ring {
    ring: NonNull<ffi::rte_ring>,
    capacity: u32,
    _live: eal::Live,
}

// SAFETY: the ring's ends may be used from different threads; that each end is used as its kind
// demands (one thread, or any number) is what the handle types below enforce.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    fn new(_eal: &Eal, capacity: u32, single_producer: bool) -> Result<Arc<Ring>, RingError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Rings are named for the whole EAL; the name says nothing to us.
        let name = CString::new(format!("rvs{}_{number}", process::id()))
            .expect("a formatted number holds no NUL");
        let any_socket: c_int = -1;
        // SAFETY: EAL runs (`_eal`) and the name is a C string.
        let ring = unsafe {
            ffi::rvs_ring_create(name.as_ptr(), capacity, any_socket, single_producer, true)
        };
        NonNull::new(ring)
            .map(|ring| {
                Arc::new(Ring {
                    ring,
                    capacity,
                    _live: eal::Live::new(),
                })
            })
            .ok_or_else(|| RingError {
                capacity,
                cause: eal::last_error(),
            })
    }

    /// # Safety
    /// No other thread may enqueue at the same time if the ring has a single producer.
    #[inline]
    unsafe fn send(&self, burst: &mut Burst) -> usize {
        // SAFETY: the ring lives, the pointer spans `len` mbufs; the caller keeps the producer rule.
        let sent = unsafe {
            ffi::rvs_ring_enqueue(self.ring.as_ptr(), burst.as_mut_ptr(), burst.len() as u32)
        } as usize;
        // SAFETY: the ring owns the first `sent` now.
        unsafe { burst.forget_front(sent) };
        sent
    }

    /// # Safety
    /// No other thread may dequeue at the same time.
    #[inline]
    unsafe fn receive(&self, burst: &mut Burst) -> usize {
        let spare = burst.spare() as u32;
        // SAFETY: the ring lives and there is room for `spare` pointers; the caller keeps the
        // consumer rule.
        let n = unsafe { ffi::rvs_ring_dequeue(self.ring.as_ptr(), burst.spare_ptr(), spare) };
        // SAFETY: the ring gave n live mbufs (only `send` fills it) away to us.
        unsafe { burst.grow(n as usize) };
        n as usize
    }

    fn len(&self) -> usize {
        // SAFETY: the ring lives.
        unsafe { ffi::rvs_ring_count(self.ring.as_ptr()) as usize }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut burst = Burst::new();
        // SAFETY: both halves are gone, so this is the only user.
        while unsafe { self.receive(&mut burst) } > 0 {
            burst.free();
        }
        // SAFETY: as above, and the ring is empty.
        unsafe { ffi::rte_ring_free(self.ring.as_ptr()) }
    }
}

/// A ring with one sending thread at a time. Holds exactly `capacity` mbufs.
///
/// # Errors
/// Not enough memory.
pub fn single_producer(eal: &Eal, capacity: u32) -> Result<(Sender, Receiver), RingError> {
    let ring = Ring::new(eal, capacity, true)?;
    Ok((Sender(Arc::clone(&ring)), Receiver(ring)))
}

/// A ring that any number of threads send to. Holds exactly `capacity` mbufs.
///
/// # Errors
/// Not enough memory.
pub fn multi_producer(eal: &Eal, capacity: u32) -> Result<(SharedSender, Receiver), RingError> {
    let ring = Ring::new(eal, capacity, false)?;
    Ok((SharedSender(Arc::clone(&ring)), Receiver(ring)))
}

/// The sending half of a single-producer ring.
#[derive(Debug)]
pub struct Sender(Arc<Ring>);

impl Sender {
    /// Moves mbufs from the front of `burst` into the ring; returns how many. What found no room
    /// stays in the burst, in order.
    #[inline]
    pub fn send(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: this is the only sender (not Clone) and `&mut self` its only user.
        unsafe { self.0.send(burst) }
    }

    /// Slots of the ring.
    pub fn capacity(&self) -> usize {
        self.0.capacity as usize
    }

    /// Mbufs in the ring.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the ring is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A sending half of a multi-producer ring; clone it for each thread.
#[derive(Clone, Debug)]
pub struct SharedSender(Arc<Ring>);

impl SharedSender {
    /// Moves mbufs from the front of `burst` into the ring; returns how many. What found no room
    /// stays in the burst, in order.
    #[inline]
    pub fn send(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: the ring was made for several producers.
        unsafe { self.0.send(burst) }
    }

    /// Slots of the ring.
    pub fn capacity(&self) -> usize {
        self.0.capacity as usize
    }

    /// Mbufs in the ring.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the ring is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The receiving half of a ring.
#[derive(Debug)]
pub struct Receiver(Arc<Ring>);

impl Receiver {
    /// Appends as many mbufs as there are and as fit to `burst`; returns how many.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst) -> usize {
        // SAFETY: this is the only receiver (not Clone) and `&mut self` its only user.
        unsafe { self.0.receive(burst) }
    }

    /// Takes one out.
    #[inline]
    pub fn receive_one(&mut self) -> Option<Mbuf> {
        let mut mbuf = core::ptr::null_mut();
        // SAFETY: the only receiver; room for one pointer.
        let n = unsafe { ffi::rvs_ring_dequeue(self.0.ring.as_ptr(), &mut mbuf, 1) };
        // SAFETY: n = 1 means a live mbuf that is ours now; otherwise the pointer is still null.
        NonNull::new(mbuf)
            .filter(|_| n == 1)
            .map(|mbuf| unsafe { Mbuf::from_raw(mbuf) })
    }

    /// Slots of the ring.
    pub fn capacity(&self) -> usize {
        self.0.capacity as usize
    }

    /// Mbufs in the ring.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the ring is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
