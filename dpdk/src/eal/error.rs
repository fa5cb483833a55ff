//! What can go wrong with EAL.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::host::{self, PciDriver};

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
