//! A global allocator that counts what a thread asks of it while it is watched.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Calls of this thread, `None` while it is not watched. Needs neither memory nor a destructor.
    static CALLS: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The system's allocator, with an eye on it.
pub struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    CALLS.with(|calls| calls.set(calls.get().map(|n| n + 1)));
}

// SAFETY: every call is passed on to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the rules of `alloc`, which are the same there.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the block came from `System`, by one of the calls here; the rest is as for `alloc`.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count();
        // SAFETY: the block came from `System`, by one of the calls here.
        unsafe { System.dealloc(block, layout) }
    }
}

/// How often `work` asked for memory or gave some back, and its result.
pub fn during<R>(work: impl FnOnce() -> R) -> (u64, R) {
    CALLS.set(Some(0));
    let result = work();
    (CALLS.take().unwrap_or(0), result)
}
