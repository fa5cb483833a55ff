//! DPDK's environment (EAL): arguments, start, worker lcores, end.
//!
//! EAL is one per process and cannot be started twice. [`Eal`] is the proof that it runs; whatever
//! needs it at creation (pools, rings, ports) asks for `&Eal`. Each such object is counted while it
//! lives, and [`Eal::cleanup`] refuses as long as any is left, so nothing can point into memory that
//! EAL has given back.

mod config;
mod error;
mod preflight;

use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::{Mutex, PoisonError};

pub use self::config::{EalConfig, HugepageFiles, Iova, Memory};
pub use self::error::EalError;

pub(crate) use self::preflight::full_bdf;
use crate::ffi;
use crate::host;
use crate::lcore;

const FRESH: u8 = 0;
const RUNNING: u8 = 1;
const ENDED: u8 = 2;

/// EAL is global, so these are.
static STATE: AtomicU8 = AtomicU8::new(FRESH);
static LIVE: AtomicUsize = AtomicUsize::new(0);
static WORKING: AtomicUsize = AtomicUsize::new(0);

/// Held by everything that points into EAL's memory.
#[derive(Debug)]
pub(crate) struct Live(());

impl Live {
    pub(crate) fn new() -> Live {
        LIVE.fetch_add(1, Ordering::SeqCst);
        Live(())
    }
}

impl Clone for Live {
    fn clone(&self) -> Live {
        Live::new()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Release: all use of the object comes before the cleanup that sees the count fall.
        LIVE.fetch_sub(1, Ordering::Release);
    }
}

/// What DPDK's last call on this thread complained about.
pub(crate) fn last_error() -> io::Error {
    // SAFETY: reads a thread-local number, at any time.
    io::Error::from_raw_os_error(unsafe { ffi::rvs_errno() })
}

/// A running EAL.
#[derive(Debug)]
pub struct Eal {
    worker_cores: Vec<usize>,
    /// EAL looks whether an lcore is busy and then sets it to work, without a lock.
    launching: Mutex<()>,
}

impl Eal {
    /// Checks the host, then starts EAL. The calling thread becomes the main lcore and is bound to
    /// `main_cores`, and so will be every thread it spawns from now on. Takes 0.1 to 0.3 s.
    ///
    /// # Errors
    /// What stands in the way; after a failure EAL cannot be tried again in this process.
    pub fn init(config: &EalConfig) -> Result<Eal, EalError> {
        config.preflight(&host::Host::this())?;
        let mut argv = Vec::new();
        for arg in std::iter::once("rvs".to_owned()).chain(config.args()) {
            argv.push(CString::new(arg.clone()).map_err(|_| EalError::Argument(arg))?);
        }
        if STATE
            .compare_exchange(FRESH, ENDED, Ordering::SeqCst, Ordering::SeqCst)
            .is_err()
        {
            return Err(EalError::AlreadyStarted);
        }
        // EAL keeps pointers to its arguments: they stay for ever, as EAL does.
        let mut argv: Vec<*mut c_char> = argv.into_iter().map(CString::into_raw).collect();
        let argc = argv.len() as c_int;
        argv.push(core::ptr::null_mut());
        let argv = argv.leak();
        // SAFETY: argc C strings and a closing null, never freed; called once (STATE).
        let rc = unsafe {
            ffi::rvs_log_to_stderr();
            ffi::rte_eal_init(argc, argv.as_mut_ptr())
        };
        if rc < 0 {
            return Err(explain_init(last_error()));
        }
        let failed = config.missing_vdevs();
        if !failed.is_empty() {
            // SAFETY: EAL runs and nothing has been made with it yet.
            unsafe { ffi::rte_eal_cleanup() };
            return Err(EalError::Vdev(failed));
        }
        STATE.store(RUNNING, Ordering::SeqCst);
        Ok(Eal {
            worker_cores: config.worker_cores.clone(),
            launching: Mutex::new(()),
        })
    }

    /// Number of worker lcores.
    pub fn workers(&self) -> usize {
        self.worker_cores.len()
    }

    /// Core of each worker.
    pub fn worker_cores(&self) -> &[usize] {
        &self.worker_cores
    }

    /// Version of DPDK that runs, `DPDK 22.11.11`.
    pub fn version(&self) -> String {
        // SAFETY: DPDK returns a constant C string.
        let text = unsafe { core::ffi::CStr::from_ptr(ffi::rvs_version()) };
        text.to_string_lossy().into_owned()
    }

    /// Ticks of the time stamp counter a second, as EAL measured them.
    pub fn tsc_hz(&self) -> u64 {
        // SAFETY: EAL runs.
        unsafe { ffi::rte_get_tsc_hz() }
    }

    /// Runs `work` on the lcore of worker `worker`. A panic in it ends the process with one line.
    ///
    /// # Errors
    /// No such worker, or it is still running (`EBUSY`).
    pub fn launch(
        &self,
        worker: usize,
        work: Box<dyn FnOnce() + Send + 'static>,
    ) -> Result<(), EalError> {
        self.check_worker(worker)?;
        let job = Box::into_raw(Box::new(Job { worker, work }));
        WORKING.fetch_add(1, Ordering::Relaxed);
        let _launching = self
            .launching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // SAFETY: EAL runs, the lcore exists (checked); `run_job` takes the box over.
        let rc = unsafe {
            ffi::rte_eal_remote_launch(Some(run_job), job.cast(), lcore::worker_lcore(worker))
        };
        if rc != 0 {
            WORKING.fetch_sub(1, Ordering::Relaxed);
            // SAFETY: the launch failed, so nobody else has the box.
            drop(unsafe { Box::from_raw(job) });
            return Err(EalError::Launch {
                worker,
                cause: io::Error::from_raw_os_error(-rc),
            });
        }
        Ok(())
    }

    /// Waits until worker `worker` has nothing to do.
    ///
    /// # Errors
    /// No such worker.
    pub fn wait(&self, worker: usize) -> Result<(), EalError> {
        self.check_worker(worker)?;
        // SAFETY: EAL runs and the lcore exists.
        unsafe { ffi::rte_eal_wait_lcore(lcore::worker_lcore(worker)) };
        Ok(())
    }

    fn check_worker(&self, worker: usize) -> Result<(), EalError> {
        let workers = self.workers();
        if worker < workers {
            Ok(())
        } else {
            Err(EalError::NoWorker { worker, workers })
        }
    }

    /// Gives everything back: memory, runtime files, devices. The process may go on without DPDK.
    ///
    /// # Errors
    /// `InUse` if ports, rings, pools, registered threads or workers are left; EAL then stays as it
    /// is until the process ends.
    pub fn cleanup(self) -> Result<(), EalError> {
        // First closed, then counted: a thread that registers counts itself before it looks.
        STATE.store(ENDED, Ordering::SeqCst);
        let (objects, workers) = (LIVE.load(Ordering::SeqCst), WORKING.load(Ordering::Acquire));
        if objects + workers > 0 {
            STATE.store(RUNNING, Ordering::SeqCst);
            return Err(EalError::InUse { objects, workers });
        }
        // SAFETY: called once (`self` is gone), and no object points into EAL's memory (the counts;
        // none can be made without `&Eal`).
        match unsafe { ffi::rte_eal_cleanup() } {
            0 => Ok(()),
            rc => Err(EalError::Cleanup(io::Error::from_raw_os_error(-rc))),
        }
    }
}

struct Job {
    worker: usize,
    work: Box<dyn FnOnce() + Send>,
}

extern "C" fn run_job(arg: *mut c_void) -> c_int {
    // SAFETY: `launch` made the box and gives it to exactly one call.
    let job = unsafe { Box::from_raw(arg.cast::<Job>()) };
    let (worker, work) = (job.worker, job.work);
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        // Unwinding must not cross into C, and a worker that is gone means packets that are gone.
        eprintln!("worker {worker} panicked; the process ends");
        process::abort();
    }
    WORKING.fetch_sub(1, Ordering::Release);
    0
}

/// Turns the failure of `rte_eal_init` into something to act on.
fn explain_init(cause: io::Error) -> EalError {
    let hint = match cause.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            "; run as root or with the capabilities of the unit file"
        }
        Some(libc::ENOMEM) => "; more memory is needed, or its NUMA node has none",
        Some(libc::EINVAL) => "; an argument was refused",
        Some(libc::EAGAIN) => "; a bus or the runtime directory could not be locked, try again",
        Some(libc::ENOTSUP) => "; a device could not be probed",
        _ => "",
    };
    EalError::Init { cause, hint }
}

/// Keeps the calling thread registered as an lcore: without that, each packet buffer it takes or
/// frees goes past the pool's cache and costs twice as much.
#[derive(Debug)]
pub struct Registered {
    _live: Live,
    /// Registration belongs to the thread.
    _thread: PhantomData<*const ()>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: the thread registered itself, and EAL runs (`_live`).
        unsafe { ffi::rte_thread_unregister() }
    }
}

/// Registers the calling thread (one that EAL did not make) until the guard is dropped.
///
/// # Errors
/// EAL does not run, or has no lcore left.
pub fn register_thread() -> Result<Registered, EalError> {
    let live = Live::new();
    if STATE.load(Ordering::SeqCst) != RUNNING {
        return Err(EalError::NotRunning);
    }
    // SAFETY: EAL runs, and `live` keeps it.
    match unsafe { ffi::rte_thread_register() } {
        0 => Ok(Registered {
            _live: live,
            _thread: PhantomData,
        }),
        _ => Err(EalError::Register(last_error())),
    }
}
