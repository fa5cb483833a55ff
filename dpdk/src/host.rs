//! What this machine offers: hugepages, IOMMU, PCI drivers, cores, capabilities.
//!
//! Everything is read from files below a root, `/` in earnest and a temporary directory in tests.
//! [`check()`] turns the facts into findings for `rvsd --check-host`; EAL's preflight uses the facts.

mod check;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

pub use self::check::{Finding, Level, Needs, check};
pub(crate) use self::check::{MOUNT_HINT, bind_hint, reserve_hint};
use crate::lcore;

/// Where facts about a machine are read.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

/// Hugepages of one size on one NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hugepages {
    /// NUMA node.
    pub node: u32,
    /// Size of a page in KiB.
    pub page_kib: u64,
    /// Pages reserved.
    pub total: u64,
    /// Pages nobody uses.
    pub free: u64,
}

impl Hugepages {
    /// Free memory in MiB.
    pub fn free_mib(&self) -> u64 {
        self.free * self.page_kib / 1024
    }

    /// All memory in MiB, in use or not.
    pub fn total_mib(&self) -> u64 {
        self.total * self.page_kib / 1024
    }
}

/// The driver of a PCI device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PciDriver {
    /// There is no such device.
    Missing,
    /// The device has no driver.
    None,
    /// Name of the kernel driver.
    Bound(String),
}

impl PciDriver {
    /// Whether DPDK can drive the device: through vfio or uio, or beside its kernel driver
    /// (bifurcated: mlx4, mlx5, mana).
    pub fn is_usable(&self) -> bool {
        matches!(self, PciDriver::Bound(name) if matches!(
            name.as_str(),
            "vfio-pci" | "igb_uio" | "uio_pci_generic" | "mlx4_core" | "mlx5_core" | "mana"
        ))
    }
}

impl fmt::Display for PciDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PciDriver::Missing => f.write_str("not present"),
            PciDriver::None => f.write_str("bound to no driver"),
            PciDriver::Bound(name) => write!(f, "bound to {name}"),
        }
    }
}

/// A Linux capability, with its number in the masks of `/proc/self/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// `CAP_NET_ADMIN`.
    NetAdmin = 12,
    /// `CAP_NET_RAW`.
    NetRaw = 13,
    /// `CAP_IPC_LOCK`.
    IpcLock = 14,
    /// `CAP_SYS_ADMIN`.
    SysAdmin = 21,
    /// `CAP_SYS_NICE`.
    SysNice = 23,
}

impl Capability {
    /// Name as in capabilities(7).
    pub const fn name(self) -> &'static str {
        match self {
            Capability::NetAdmin => "CAP_NET_ADMIN",
            Capability::NetRaw => "CAP_NET_RAW",
            Capability::IpcLock => "CAP_IPC_LOCK",
            Capability::SysAdmin => "CAP_SYS_ADMIN",
            Capability::SysNice => "CAP_SYS_NICE",
        }
    }
}

impl Host {
    /// The machine we run on.
    pub fn this() -> Host {
        Host::at("/")
    }

    /// A machine whose `/proc`, `/sys` and `/dev` are below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Host {
        Host { root: root.into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    fn number(&self, path: &Path) -> Option<u64> {
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Names in a directory, sorted; none if it cannot be read.
    fn names(&self, path: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(path)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Hugepages by node and size. A machine without NUMA files counts as node 0.
    pub fn hugepages(&self) -> Vec<Hugepages> {
        let nodes = self.path("/sys/devices/system/node");
        let mut out = Vec::new();
        for name in self.names(&nodes) {
            if let Some(node) = name.strip_prefix("node").and_then(|n| n.parse().ok()) {
                self.add_hugepages(node, &nodes.join(&name).join("hugepages"), &mut out);
            }
        }
        if out.is_empty() {
            self.add_hugepages(0, &self.path("/sys/kernel/mm/hugepages"), &mut out);
        }
        out
    }

    fn add_hugepages(&self, node: u32, dir: &Path, out: &mut Vec<Hugepages>) {
        for name in self.names(dir) {
            let size = name
                .strip_prefix("hugepages-")
                .and_then(|n| n.strip_suffix("kB"));
            let Some(page_kib) = size.and_then(|n| n.parse().ok()) else {
                continue;
            };
            let count = |file| self.number(&dir.join(&name).join(file)).unwrap_or(0);
            out.push(Hugepages {
                node,
                page_kib,
                total: count("nr_hugepages"),
                free: count("free_hugepages"),
            });
        }
    }

    /// Mount points of hugetlbfs.
    pub fn hugepage_mounts(&self) -> Vec<PathBuf> {
        let mounts = self.read("/proc/mounts").unwrap_or_default();
        mounts
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ').skip(1);
                let (path, kind) = (words.next()?, words.next()?);
                (kind == "hugetlbfs").then(|| PathBuf::from(path))
            })
            .collect()
    }

    /// Number of IOMMU groups; none means no IOMMU or none switched on.
    pub fn iommu_groups(&self) -> usize {
        self.names(&self.path("/sys/kernel/iommu_groups")).len()
    }

    /// Whether the vfio-pci driver is there, as a module or built in.
    pub fn has_vfio_pci(&self) -> bool {
        self.path("/sys/bus/pci/drivers/vfio-pci").exists()
    }

    /// Driver of the PCI device `bdf` (`0000:01:00.0`).
    pub fn pci_driver(&self, bdf: &str) -> PciDriver {
        let device = self.path("/sys/bus/pci/devices").join(bdf);
        if !device.exists() {
            return PciDriver::Missing;
        }
        match fs::read_link(device.join("driver")) {
            Ok(target) => PciDriver::Bound(
                target
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
            ),
            Err(_) => PciDriver::None,
        }
    }

    /// NUMA node of the PCI device `bdf`, if the firmware says.
    pub fn pci_node(&self, bdf: &str) -> Option<u32> {
        let file = self
            .path("/sys/bus/pci/devices")
            .join(bdf)
            .join("numa_node");
        fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    /// NUMA node of a core, if the machine has nodes.
    pub fn core_node(&self, core: usize) -> Option<u32> {
        let nodes = self.path("/sys/devices/system/node");
        self.names(&nodes).into_iter().find_map(|name| {
            let node = name.strip_prefix("node")?.parse().ok()?;
            let cores = fs::read_to_string(nodes.join(&name).join("cpulist")).ok()?;
            lcore::parse_list(&cores).contains(&core).then_some(node)
        })
    }

    /// Limit of locked memory in bytes; `None` if there is none.
    pub fn memlock_limit(&self) -> Option<u64> {
        let limits = self.read("/proc/self/limits")?;
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max locked memory"))?;
        line["Max locked memory".len()..]
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    }

    /// Cores that are online.
    pub fn online_cores(&self) -> Vec<usize> {
        lcore::parse_list(
            &self
                .read("/sys/devices/system/cpu/online")
                .unwrap_or_default(),
        )
    }

    /// Cores the scheduler keeps free (`isolcpus=`).
    pub fn isolated_cores(&self) -> Vec<usize> {
        lcore::parse_list(
            &self
                .read("/sys/devices/system/cpu/isolated")
                .unwrap_or_default(),
        )
    }

    /// Whether this process has the capability in its effective set.
    pub fn has_capability(&self, capability: Capability) -> bool {
        let status = self.read("/proc/self/status").unwrap_or_default();
        status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask >> capability as u8 & 1 == 1)
    }

    /// Whether the time stamp counter runs at one rate in all power states.
    pub fn has_invariant_tsc(&self) -> bool {
        let info = self.read("/proc/cpuinfo").unwrap_or_default();
        info.lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|flags| {
                let has = |flag| flags.split_whitespace().any(|f| f == flag);
                has("constant_tsc") && has("nonstop_tsc")
            })
    }

    /// Whether TUN/TAP devices can be made.
    pub fn has_tun(&self) -> bool {
        self.path("/dev/net/tun").exists()
    }
}
