//! Cores and lcores: lists of cores as the kernel writes them, affinity of threads, and the lcore
//! layout given to EAL.

use std::fmt::Write;
use std::io;
use std::num::NonZeroU64;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::ffi;

/// lcores EAL can have, the main one included.
pub const MAX_LCORES: usize = ffi::RVS_MAX_LCORES as usize;

/// Reads a list such as `0-3,8`, the form of `/sys/devices/system/cpu/isolated`. Parts that are no
/// numbers are skipped.
pub fn parse_list(text: &str) -> Vec<usize> {
    let mut cores = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse()) {
            cores.extend(first..=last);
        }
    }
    cores
}

/// Cores the calling thread may run on.
///
/// # Errors
/// The system call's.
pub fn affinity() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&core| set.is_set(core))
        .collect())
}

/// Lets the calling thread, and those it spawns from now on, run on `cores` only.
///
/// # Errors
/// `EINVAL` if none of them is online.
pub fn set_affinity(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &core in cores.iter().filter(|&&core| core < CpuSet::MAX_CPU) {
        set.set(core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// How much later than asked for the kernel may end a nap of the calling thread.
///
/// # Errors
/// The system call's.
pub fn set_timer_slack(slack: Duration) -> io::Result<()> {
    Ok(rustix::thread::set_current_timer_slack(NonZeroU64::new(
        slack.as_nanos() as u64,
    ))?)
}

/// CPU time the calling thread has used.
pub fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The cores of `available` that no worker uses, or all of them if nothing would be left: where the
/// main lcore and the control threads belong.
pub fn main_cores(available: &[usize], worker_cores: &[usize]) -> Vec<usize> {
    let free: Vec<usize> = available
        .iter()
        .copied()
        .filter(|core| !worker_cores.contains(core))
        .collect();
    if free.is_empty() {
        available.to_vec()
    } else {
        free
    }
}

/// The value of `--lcores`: lcore 0 floats over `main_cores`, lcore `1 + i` is worker `i`. Workers
/// may share a core.
pub(crate) fn layout(main_cores: &[usize], worker_cores: &[usize]) -> String {
    let main: Vec<String> = main_cores.iter().map(usize::to_string).collect();
    let mut out = format!("0@({})", main.join(","));
    for (worker, core) in worker_cores.iter().enumerate() {
        write!(out, ",{}@{core}", worker_lcore(worker)).expect("a String takes everything");
    }
    out
}

/// The lcore of a worker.
pub(crate) fn worker_lcore(worker: usize) -> u32 {
    1 + worker as u32
}

/// The lcore the calling thread is, if EAL knows it (its own threads and registered ones).
pub fn current() -> Option<u32> {
    // SAFETY: reads a thread-local number, at any time.
    let id = unsafe { ffi::rvs_lcore_id() };
    (id != u32::MAX).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(parse_list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(parse_list("5"), [5]);
        assert!(parse_list("\n").is_empty());
        assert!(parse_list("3-1,x").is_empty());
    }

    #[test]
    fn layouts() {
        assert_eq!(layout(&[0], &[]), "0@(0)");
        assert_eq!(layout(&[0, 1], &[2, 2, 3]), "0@(0,1),1@2,2@2,3@3");
    }

    #[test]
    fn main_cores_avoid_workers() {
        assert_eq!(main_cores(&[0, 1, 2, 3], &[2, 3]), [0, 1]);
        assert_eq!(main_cores(&[0, 1], &[0, 1]), [0, 1]);
    }
}
