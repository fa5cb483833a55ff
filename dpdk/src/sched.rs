//! Real-time priority of threads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use dataplane::time::Instant;

/// Gives the calling thread `SCHED_FIFO` with this priority, 1 to 99: it runs before every
/// ordinary one. 0 makes it an ordinary one again.
///
/// # Errors
/// `EPERM` without `CAP_SYS_NICE` or a sufficient `RLIMIT_RTPRIO`.
pub fn make_realtime(priority: u8) -> io::Result<()> {
    let wanted = libc::sched_param {
        sched_priority: i32::from(priority),
    };
    let policy = match priority {
        0 => libc::SCHED_OTHER,
        _ => libc::SCHED_FIFO,
    };
    // SAFETY: 0 names the calling thread, and `wanted` is only read during the call.
    match unsafe { libc::sched_setscheduler(0, policy, &wanted) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How long a thread may work without a rest and keep its priority.
const WORK: Duration = Duration::from_millis(5);

/// Real-time priority for a thread that shares its core: it has it while it rests now and then, so
/// that it is there at once when something comes, and is an ordinary one while it works without a
/// rest, so that it takes the core from nobody.
#[derive(Debug, Default)]
pub struct Eager {
    /// What it has while it rests, 0 for none. Others may change it at any time.
    wanted: Arc<AtomicU8>,
    /// What it has now.
    priority: u8,
    /// The system does not allow it.
    is_refused: bool,
    rested: Instant,
    set: Option<fn(u8) -> io::Result<()>>,
}

impl Eager {
    /// An ordinary thread, until it rests while `wanted` is not 0. Threads may share `wanted`;
    /// another value counts from their next rest on.
    pub fn new(wanted: Arc<AtomicU8>) -> Eager {
        Eager {
            wanted,
            set: Some(make_realtime),
            ..Eager::default()
        }
    }

    /// The calling thread is about to sleep.
    #[inline]
    pub fn rest(&mut self, now: Instant) {
        self.rested = now;
        let wanted = self.wanted.load(Ordering::Relaxed);
        if wanted != self.priority && !self.is_refused {
            self.change(wanted);
        }
    }

    /// The calling thread found work.
    #[inline]
    pub fn work(&mut self, now: Instant) {
        if self.priority > 0 && now.since(self.rested) > WORK {
            self.change(0);
        }
    }

    #[cold]
    fn change(&mut self, priority: u8) {
        match self.set.map_or(Ok(()), |set| set(priority)) {
            Ok(()) => self.priority = priority,
            // Not asked again.
            Err(_) => self.is_refused = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    thread_local! {
        static WANTED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }

    fn note(priority: u8) -> io::Result<()> {
        WANTED.with_borrow_mut(|wanted| wanted.push(priority));
        Ok(())
    }

    fn eager(priority: u8, set: fn(u8) -> io::Result<()>) -> Eager {
        Eager {
            set: Some(set),
            ..Eager::new(Arc::new(AtomicU8::new(priority)))
        }
    }

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn a_thread_is_real_time_while_it_rests_now_and_then() {
        let mut eager = eager(49, note);
        eager.work(at(100));
        eager.rest(at(101));
        eager.rest(at(102));
        eager.work(at(107));
        eager.rest(at(107));
        eager.work(at(112));
        eager.work(at(113));
        eager.work(at(200));
        eager.rest(at(201));
        assert_eq!(WANTED.take(), [49, 0, 49]);
    }

    #[test]
    fn what_is_wanted_may_change_at_any_time() {
        let mut eager = eager(0, note);
        let wanted = Arc::clone(&eager.wanted);
        eager.rest(at(1));
        wanted.store(49, Ordering::Relaxed);
        eager.work(at(2));
        assert!(WANTED.take().is_empty(), "not before it rests");
        eager.rest(at(3));
        eager.rest(at(4));
        wanted.store(20, Ordering::Relaxed);
        eager.rest(at(5));
        wanted.store(0, Ordering::Relaxed);
        eager.work(at(6));
        eager.rest(at(7));
        eager.work(at(99));
        assert_eq!(WANTED.take(), [49, 20, 0]);
    }

    #[test]
    fn what_is_not_wanted_or_not_allowed_is_left() {
        let mut never = eager(0, note);
        never.rest(at(1));
        assert!(WANTED.take().is_empty());
        let mut refused = eager(49, |priority| {
            let _ = note(priority);
            Err(io::Error::from_raw_os_error(libc::EPERM))
        });
        refused.rest(at(1));
        refused.rest(at(2));
        refused.work(at(99));
        assert_eq!(WANTED.take(), [49]);
    }

    #[test]
    fn the_kernel_takes_it_and_back() {
        // SAFETY: 0 names the calling thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        if make_realtime(1).is_err() {
            // Without the right to it the thread stays what it is.
            assert_eq!(policy(), libc::SCHED_OTHER);
            return;
        }
        assert_eq!(policy(), libc::SCHED_FIFO);
        make_realtime(0).unwrap();
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
