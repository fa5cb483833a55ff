//! DPDK's environment (EAL): arguments, start, worker lcores, end.
//!
//! EAL is one per process and cannot be started twice. [`Eal`] is the proof that it runs; whatever
//! needs it at creation (pools, rings, ports) asks for `&Eal`. Each such object is counted while it
//! lives, and [`Eal::cleanup`] refuses as long as any is left, so nothing can point into memory that
//! EAL has given back.

use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process;

use rustix::fs::{Access, access};
use thiserror::Error;

use crate::ffi;
use crate::host::{self, Hugepages, PciDriver};
use crate::lcore;

/// Where EAL takes its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Hugepages.
    Hugepages {
        /// MiB reserved at start; `None` takes pages as they are needed.
        mb: Option<u32>,
        /// What stays on hugetlbfs.
        files: HugepageFiles,
    },
    /// Ordinary pages: works everywhere, about twice the driver's cost per packet.
    NoHuge {
        /// MiB, all there will ever be.
        mb: u32,
    },
}

/// What EAL leaves on hugetlbfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugepageFiles {
    /// Nothing, not even while running (`--in-memory`). No mount is needed and no secondary process
    /// possible.
    None,
    /// Files are unlinked as soon as they are mapped (`--huge-unlink`).
    Unlinked,
    /// Files stay while the process runs and, if it is killed, until the prefix is used again.
    Kept,
}

/// How the NIC addresses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iova {
    /// `Va` without PCI devices, EAL's choice otherwise.
    Auto,
    /// Virtual addresses (vfio with an IOMMU, virtual ports).
    Va,
    /// Physical addresses.
    Pa,
}

/// What EAL is started with.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// Where memory comes from.
    pub memory: Memory,
    /// Keeps the runtime files of several processes apart.
    pub file_prefix: String,
    /// Cores the calling thread is to float on, with every thread it spawns later. See
    /// [`lcore::main_cores`].
    pub main_cores: Vec<usize>,
    /// Core of each worker; several workers may share one.
    pub worker_cores: Vec<usize>,
    /// Virtual ports, `net_af_packet0,iface=eth1`.
    pub vdevs: Vec<String>,
    /// PCI devices to use, `0000:01:00.0`, with driver arguments after a comma. With none, PCI is
    /// not even looked at.
    pub pci: Vec<String>,
    /// How the NIC addresses memory.
    pub iova: Iova,
    /// Values of `--log-level`, separated by blanks: `error`, or `notice pmd.net.i40e:debug`.
    pub log_level: String,
    /// Few large memory files instead of one a page; vhost-user peers need it.
    pub single_file_segments: bool,
    /// Whether the telemetry socket is opened.
    pub telemetry: bool,
    /// Arguments passed on as they are.
    pub extra_args: Vec<String>,
}

impl Default for EalConfig {
    /// Hugepages on demand and without files, one lcore on core 0, no ports, errors only.
    fn default() -> EalConfig {
        EalConfig {
            memory: Memory::Hugepages {
                mb: None,
                files: HugepageFiles::None,
            },
            file_prefix: "rvs".to_owned(),
            main_cores: vec![0],
            worker_cores: Vec::new(),
            vdevs: Vec::new(),
            pci: Vec::new(),
            iova: Iova::Auto,
            log_level: "error".to_owned(),
            single_file_segments: false,
            telemetry: false,
            extra_args: Vec::new(),
        }
    }
}

/// Why EAL could not be started, used or ended. Every message says what to do.
#[derive(Debug, Error)]
pub enum EalError {
    /// EAL was started before in this process.
    #[error("EAL was already started in this process; it can be started once only")]
    AlreadyStarted,
    /// EAL does not run.
    #[error("EAL does not run in this process")]
    NotRunning,
    /// An argument holds a NUL byte.
    #[error("EAL argument {0:?} holds a NUL byte")]
    Argument(String),
    /// More lcores than EAL can have.
    #[error("{workers} workers are configured but EAL can have {max}; lower workers to {max}")]
    TooManyWorkers {
        /// Workers configured.
        workers: usize,
        /// Workers possible.
        max: usize,
    },
    /// A core is not there.
    #[error("core {core} is not online; online are {online:?}")]
    CoreOffline {
        /// Core configured.
        core: usize,
        /// Cores of the machine.
        online: Vec<usize>,
    },
    /// Two virtual ports with one name.
    #[error("virtual port {0} is configured twice; number them net_xxx0, net_xxx1, …")]
    DuplicateVdev(String),
    /// The network interface of a virtual port is not there.
    #[error(
        "virtual port {vdev}: there is no network interface {interface} in this network namespace"
    )]
    NoInterface {
        /// Name of the port.
        vdev: String,
        /// Interface named in its arguments.
        interface: String,
    },
    /// A PCI device that DPDK cannot use.
    #[error("PCI device {bdf} is {driver}; {hint}")]
    Pci {
        /// Address of the device.
        bdf: String,
        /// Who has it.
        driver: PciDriver,
        /// What to do.
        hint: String,
    },
    /// hugetlbfs is not mounted.
    #[error("hugetlbfs is not mounted; {hint}, or keep no hugepage files", hint = host::MOUNT_HINT)]
    NoHugepageMount,
    /// No mount of hugetlbfs may be written to.
    #[error("no permission to write to {}; run as root or give the user that directory", .0.display())]
    HugepageMountAccess(PathBuf),
    /// Not enough free hugepages.
    #[error(
        "{free} MiB of hugepages are free ({reserved} MiB are reserved) but {need} MiB are needed; \
         {hint}, or run without hugepages"
    )]
    TooFewHugepages {
        /// MiB asked for.
        need: u64,
        /// MiB nobody uses.
        free: u64,
        /// MiB the kernel holds as hugepages.
        reserved: u64,
        /// What to do.
        hint: String,
    },
    /// Another process has the prefix.
    #[error(
        "EAL file prefix {prefix:?} is in use by process {pid}; stop it or choose another prefix"
    )]
    PrefixInUse {
        /// The prefix.
        prefix: String,
        /// The process that holds its lock.
        pid: i32,
    },
    /// EAL started but virtual ports failed.
    #[error(
        "virtual port {} could not be made; DPDK's own message is on stderr (driver installed? \
         arguments right?)",
        .0.join(", ")
    )]
    Vdev(Vec<String>),
    /// EAL failed for another reason.
    #[error("EAL did not start: {cause}; DPDK's own message is on stderr{hint}")]
    Init {
        /// What `rte_errno` says.
        cause: io::Error,
        /// The likely reason, or nothing.
        hint: &'static str,
    },
    /// No such worker.
    #[error("there is no worker {worker}: {workers} worker cores are configured")]
    NoWorker {
        /// Index asked for.
        worker: usize,
        /// Worker cores configured.
        workers: usize,
    },
    /// The worker's lcore is busy.
    #[error("worker {worker} could not be launched: {cause}")]
    Launch {
        /// Index of the worker.
        worker: usize,
        /// What EAL said.
        cause: io::Error,
    },
    /// A thread could not become an lcore.
    #[error("thread could not be registered with EAL: {0} (are all lcores in use?)")]
    Register(io::Error),
    /// Something still uses EAL.
    #[error("EAL is still in use by {objects} ports, rings or pools and {workers} running workers")]
    InUse {
        /// Live objects.
        objects: usize,
        /// Worker functions that have not returned.
        workers: usize,
    },
    /// EAL could not clean up.
    #[error("EAL did not end cleanly: {0}")]
    Cleanup(io::Error),
}

impl EalConfig {
    /// The arguments of EAL, without the program's name.
    pub fn args(&self) -> Vec<String> {
        let mut args = vec![
            format!(
                "--lcores={}",
                lcore::layout(&self.main_cores, &self.worker_cores)
            ),
            "--main-lcore=0".to_owned(),
            format!("--file-prefix={}", self.file_prefix),
        ];
        match self.memory {
            Memory::NoHuge { mb } => args.extend(["--no-huge".to_owned(), format!("-m{mb}")]),
            Memory::Hugepages { mb, files } => {
                args.extend(mb.map(|mb| format!("-m{mb}")));
                match files {
                    HugepageFiles::None => args.push("--in-memory".to_owned()),
                    HugepageFiles::Unlinked => args.push("--huge-unlink".to_owned()),
                    HugepageFiles::Kept => {}
                }
            }
        }
        match self.iova {
            Iova::Auto if self.pci.is_empty() => args.push("--iova-mode=va".to_owned()),
            Iova::Auto => {}
            Iova::Va => args.push("--iova-mode=va".to_owned()),
            Iova::Pa => args.push("--iova-mode=pa".to_owned()),
        }
        if self.pci.is_empty() {
            args.push("--no-pci".to_owned());
        }
        // Two words each: EAL's parser takes the value of -a only from the next word or glued on.
        for device in &self.pci {
            args.extend(["-a".to_owned(), device.clone()]);
        }
        args.extend(self.vdevs.iter().map(|vdev| format!("--vdev={vdev}")));
        args.extend(
            self.log_level
                .split_whitespace()
                .map(|level| format!("--log-level={level}")),
        );
        if self.single_file_segments {
            args.push("--single-file-segments".to_owned());
        }
        if !self.telemetry {
            args.push("--no-telemetry".to_owned());
        }
        args.extend(self.extra_args.iter().cloned());
        args
    }

    /// Looks for what would make EAL fail, because EAL's own reasons are hard to read.
    ///
    /// # Errors
    /// The first obstacle found.
    pub fn preflight(&self, host: &host::Host) -> Result<(), EalError> {
        self.check_cores(host)?;
        self.check_vdevs()?;
        self.check_pci(host)?;
        self.check_memory(host)?;
        self.check_prefix()
    }

    fn check_cores(&self, host: &host::Host) -> Result<(), EalError> {
        let (workers, max) = (self.worker_cores.len(), lcore::MAX_LCORES - 1);
        if workers > max {
            return Err(EalError::TooManyWorkers { workers, max });
        }
        let online = host.online_cores();
        let offline = self
            .main_cores
            .iter()
            .chain(&self.worker_cores)
            .find(|c| !online.contains(c));
        match offline {
            Some(&core) if !online.is_empty() => Err(EalError::CoreOffline { core, online }),
            _ => Ok(()),
        }
    }

    fn check_vdevs(&self) -> Result<(), EalError> {
        for (i, vdev) in self.vdevs.iter().enumerate() {
            let name = vdev_name(vdev);
            if self.vdevs[..i].iter().any(|other| vdev_name(other) == name) {
                return Err(EalError::DuplicateVdev(name.to_owned()));
            }
            match required_interface(vdev) {
                Some(interface) if !interface_exists(interface) => {
                    return Err(EalError::NoInterface {
                        vdev: name.to_owned(),
                        interface: interface.to_owned(),
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_pci(&self, host: &host::Host) -> Result<(), EalError> {
        for device in &self.pci {
            let bdf = full_bdf(device.split(',').next().unwrap_or(device));
            let driver = host.pci_driver(&bdf);
            if !driver.is_usable() {
                let hint = match driver {
                    PciDriver::Missing => "see `lspci -D` for the devices of this machine".into(),
                    _ => host::bind_hint(&bdf),
                };
                return Err(EalError::Pci { bdf, driver, hint });
            }
        }
        Ok(())
    }

    fn check_memory(&self, host: &host::Host) -> Result<(), EalError> {
        let Memory::Hugepages { mb, files } = self.memory else {
            return Ok(());
        };
        if files != HugepageFiles::None {
            let mounts = host.hugepage_mounts();
            let Some(first) = mounts.first() else {
                return Err(EalError::NoHugepageMount);
            };
            if !mounts
                .iter()
                .any(|mount| access(mount, Access::WRITE_OK).is_ok())
            {
                return Err(EalError::HugepageMountAccess(first.clone()));
            }
        }
        let pages = host.hugepages();
        let need = mb.map_or(2, u64::from);
        let free: u64 = pages.iter().map(Hugepages::free_mib).sum();
        let reserved = pages.iter().map(|p| p.total * p.page_kib / 1024).sum();
        if free < need {
            let hint = host::reserve_hint(reserved + need - free);
            return Err(EalError::TooFewHugepages {
                need,
                free,
                reserved,
                hint,
            });
        }
        Ok(())
    }

    /// Two processes with one prefix fight over its configuration file; in-memory EALs have none.
    fn check_prefix(&self) -> Result<(), EalError> {
        if let Memory::Hugepages {
            files: HugepageFiles::None,
            ..
        } = self.memory
        {
            return Ok(());
        }
        match lock_holder(&runtime_dir().join(&self.file_prefix).join("config")) {
            Some(pid) => Err(EalError::PrefixInUse {
                prefix: self.file_prefix.clone(),
                pid,
            }),
            None => Ok(()),
        }
    }
}

/// The name in `net_null0,size=64`.
fn vdev_name(vdev: &str) -> &str {
    vdev.split(',').next().unwrap_or(vdev)
}

/// The interface that a virtual port of this kind cannot be made without.
fn required_interface(vdev: &str) -> Option<&str> {
    let mut words = vdev.split(',');
    let name = words.next()?;
    let attaches = name.starts_with("net_af_packet")
        || name.starts_with("eth_af_packet")
        || name.starts_with("net_af_xdp");
    if !attaches {
        return None;
    }
    words.find_map(|word| word.strip_prefix("iface="))
}

/// Asks the kernel, since `/sys` may show another network namespace.
fn interface_exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else {
        return false;
    };
    // SAFETY: the name is a C string.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

/// `01:00.0` with the domain that it leaves out.
pub(crate) fn full_bdf(bdf: &str) -> String {
    if bdf.matches(':').count() == 1 {
        format!("0000:{bdf}")
    } else {
        bdf.to_owned()
    }
}

/// Where EAL keeps the directories of the prefixes.
fn runtime_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/run/dpdk");
    }
    let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| "/tmp".into(), PathBuf::from);
    base.join("dpdk")
}

/// The process, other than this one, that holds a lock on a part of the file.
fn lock_holder(path: &Path) -> Option<i32> {
    let file = File::open(path).ok()?;
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and `lock` is a flock the kernel may fill.
    let rc = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut lock) };
    (rc == 0 && i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid)
}

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
        // EAL starts even if virtual ports fail.
        let failed = missing_vdevs(config);
        if !failed.is_empty() {
            // SAFETY: EAL runs and nothing has been made with it yet.
            unsafe { ffi::rte_eal_cleanup() };
            return Err(EalError::Vdev(failed));
        }
        STATE.store(RUNNING, Ordering::SeqCst);
        Ok(Eal {
            worker_cores: config.worker_cores.clone(),
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

/// The virtual ports asked for that have come to nothing.
fn missing_vdevs(config: &EalConfig) -> Vec<String> {
    config
        .vdevs
        .iter()
        .map(|vdev| vdev_name(vdev))
        .filter(|name| name.starts_with("net_") && crate::port::id_of(name).is_none())
        .map(str::to_owned)
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn no_huge() -> EalConfig {
        EalConfig {
            memory: Memory::NoHuge { mb: 128 },
            main_cores: vec![0, 1],
            worker_cores: vec![1, 1],
            vdevs: vec!["net_null0,size=64".into()],
            ..EalConfig::default()
        }
    }

    #[test]
    fn arguments_without_hugepages() {
        assert_eq!(
            no_huge().args(),
            [
                "--lcores=0@(0,1),1@1,2@1",
                "--main-lcore=0",
                "--file-prefix=rvs",
                "--no-huge",
                "-m128",
                "--iova-mode=va",
                "--no-pci",
                "--vdev=net_null0,size=64",
                "--log-level=error",
                "--no-telemetry",
            ]
        );
    }

    #[test]
    fn arguments_with_hugepages_and_pci() {
        let config = EalConfig {
            memory: Memory::Hugepages {
                mb: Some(512),
                files: HugepageFiles::Unlinked,
            },
            pci: vec!["0000:01:00.0,x=1".into()],
            log_level: "error lib.eal:info".into(),
            single_file_segments: true,
            telemetry: true,
            extra_args: vec!["--legacy-mem".into()],
            ..EalConfig::default()
        };
        assert_eq!(
            config.args()[3..],
            [
                "-m512",
                "--huge-unlink",
                "-a",
                "0000:01:00.0,x=1",
                "--log-level=error",
                "--log-level=lib.eal:info",
                "--single-file-segments",
                "--legacy-mem",
            ]
        );
        let memory = Memory::Hugepages {
            mb: None,
            files: HugepageFiles::None,
        };
        let args = EalConfig {
            memory,
            iova: Iova::Pa,
            ..config
        }
        .args();
        assert!(args.contains(&"--in-memory".to_owned()));
        assert!(args.contains(&"--iova-mode=pa".to_owned()));
    }

    #[test]
    fn preflight_names_the_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let host = host::Host::at(dir.path());
        let error = |config: EalConfig| config.preflight(&host).unwrap_err().to_string();

        let vdevs = vec!["net_null0".into(), "net_null0,size=64".into()];
        assert_eq!(
            error(EalConfig { vdevs, ..no_huge() }),
            "virtual port net_null0 is configured twice; number them net_xxx0, net_xxx1, …"
        );
        let vdevs = vec!["net_af_packet0,iface=rvs-absent".into()];
        assert_eq!(
            error(EalConfig { vdevs, ..no_huge() }),
            "virtual port net_af_packet0: there is no network interface rvs-absent in this network \
             namespace"
        );
        let pci = vec!["01:00.0".into()];
        assert_eq!(
            error(EalConfig { pci, ..no_huge() }),
            "PCI device 0000:01:00.0 is not present; see `lspci -D` for the devices of this machine"
        );
        let memory = Memory::Hugepages {
            mb: Some(512),
            files: HugepageFiles::None,
        };
        assert_eq!(
            error(EalConfig {
                memory,
                ..no_huge()
            }),
            "0 MiB of hugepages are free (0 MiB are reserved) but 512 MiB are needed; reserve them: \
             sysctl -w vm.nr_hugepages=256, or run without hugepages"
        );
        let memory = Memory::Hugepages {
            mb: Some(512),
            files: HugepageFiles::Kept,
        };
        assert!(
            error(EalConfig {
                memory,
                ..no_huge()
            })
            .starts_with("hugetlbfs is not mounted")
        );
    }

    #[test]
    fn cores_must_be_online() {
        let dir = tempfile::tempdir().unwrap();
        let cpu = dir.path().join("sys/devices/system/cpu");
        std::fs::create_dir_all(&cpu).unwrap();
        std::fs::write(cpu.join("online"), "0-1\n").unwrap();
        let config = EalConfig {
            worker_cores: vec![1, 4],
            ..no_huge()
        };
        assert_eq!(
            config
                .preflight(&host::Host::at(dir.path()))
                .unwrap_err()
                .to_string(),
            "core 4 is not online; online are [0, 1]"
        );
    }
}
