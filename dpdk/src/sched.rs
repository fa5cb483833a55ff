//! Real-time priority of threads.

use std::io;
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
    /// 0: never.
    priority: u8,
    is_raised: bool,
    rested: Instant,
    set: Option<fn(u8) -> io::Result<()>>,
}

impl Eager {
    /// An ordinary thread, until it rests for the first time; with priority 0 for ever.
    pub fn new(priority: u8) -> Eager {
        Eager {
            priority,
            set: Some(make_realtime),
            ..Eager::default()
        }
    }

    /// The calling thread is about to sleep.
    #[inline]
    pub fn rest(&mut self, now: Instant) {
        self.rested = now;
        if self.priority > 0 && !self.is_raised {
            self.change(self.priority);
        }
    }

    /// The calling thread found work.
    #[inline]
    pub fn work(&mut self, now: Instant) {
        if self.is_raised && now.since(self.rested) > WORK {
            self.change(0);
        }
    }

    #[cold]
    fn change(&mut self, priority: u8) {
        match self.set.map_or(Ok(()), |set| set(priority)) {
            Ok(()) => self.is_raised = priority > 0,
            // The system does not allow it: not asked again.
            Err(_) => self.priority = 0,
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
            ..Eager::new(priority)
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
