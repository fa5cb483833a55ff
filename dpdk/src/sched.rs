//! Real-time priority of a thread.

use std::io;

/// Gives the calling thread `SCHED_FIFO` with this priority, 1 to 99: it runs before every
/// ordinary one.
///
/// # Errors
/// `EPERM` without `CAP_SYS_NICE` or a sufficient `RLIMIT_RTPRIO`.
pub fn make_realtime(priority: u8) -> io::Result<()> {
    let wanted = libc::sched_param {
        sched_priority: i32::from(priority),
    };
    // SAFETY: 0 names the calling thread, and `wanted` is only read during the call.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &wanted) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
