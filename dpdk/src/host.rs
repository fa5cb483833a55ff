//! What this machine offers: hugepages, IOMMU, PCI drivers, cores, capabilities.
//!
//! Everything is read from files below a root, `/` in earnest and a temporary directory in tests.
//! [`check`] turns the facts into findings for `rvsd --check-host`; EAL's preflight uses the facts.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

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

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but slower or with something missing.
    Warn,
    /// Will not start.
    Fail,
}

/// One fact about the host, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// How to mend it, empty if there is nothing to mend.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        write!(f, "{level}  {}", self.what)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}

/// What a configuration needs from the host.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Hugepage memory in MiB, `None` if it runs without hugepages.
    pub hugepage_mib: Option<u64>,
    /// Whether EAL keeps hugepages as files, which takes a hugetlbfs mount.
    pub hugepage_mount: bool,
    /// PCI devices, `0000:01:00.0`.
    pub pci: Vec<String>,
    /// Cores of the workers.
    pub worker_cores: Vec<usize>,
}

/// Compares the host with what is needed. Findings come in a fixed order, good ones included.
pub fn check(host: &Host, needs: &Needs) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    check_hugepages(host, needs, &mut findings);
    check_pci(host, needs, &mut findings);
    check_cores(host, needs, &mut findings);
    check_process(host, needs, &mut findings);
    findings.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, what: impl Into<String>) {
        self.0.push(Finding {
            level: Level::Ok,
            what: what.into(),
            fix: String::new(),
        });
    }

    fn warn(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding {
            level: Level::Warn,
            what: what.into(),
            fix: fix.into(),
        });
    }

    fn fail(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding {
            level: Level::Fail,
            what: what.into(),
            fix: fix.into(),
        });
    }
}

fn check_hugepages(host: &Host, needs: &Needs, findings: &mut Findings) {
    let Some(need) = needs.hugepage_mib else {
        findings.warn(
            "memory is ordinary pages (no-huge)",
            "fine for tests; use hugepages for speed (about half the driver's cost per packet)",
        );
        return;
    };
    let pages = host.hugepages();
    for p in pages.iter().filter(|p| p.total > 0) {
        findings.ok(format!(
            "node {}: {} of {} hugepages of {} KiB are free ({} MiB)",
            p.node,
            p.free,
            p.total,
            p.page_kib,
            p.free_mib()
        ));
    }
    let free: u64 = pages.iter().map(Hugepages::free_mib).sum();
    if free < need {
        findings.fail(
            format!("{free} MiB of hugepages are free, {need} MiB are needed"),
            reserve_hint(need),
        );
    }
    if needs.hugepage_mount {
        match host.hugepage_mounts().first() {
            Some(mount) => findings.ok(format!("hugetlbfs is mounted at {}", mount.display())),
            None => findings.fail("hugetlbfs is not mounted", MOUNT_HINT),
        }
    }
}

/// How to mount hugetlbfs.
pub(crate) const MOUNT_HINT: &str =
    "mkdir -p /dev/hugepages && mount -t hugetlbfs nodev /dev/hugepages";

/// How to reserve `mib` MiB in pages of 2 MiB.
pub(crate) fn reserve_hint(mib: u64) -> String {
    format!(
        "reserve them: sysctl -w vm.nr_hugepages={}",
        mib.div_ceil(2)
    )
}

fn check_pci(host: &Host, needs: &Needs, findings: &mut Findings) {
    let mut needs_vfio = false;
    for bdf in &needs.pci {
        let driver = host.pci_driver(bdf);
        let what = format!("PCI device {bdf} is {driver}");
        match &driver {
            PciDriver::Missing => {
                findings.fail(what, "see `lspci -D` for the devices of this machine");
            }
            usable if usable.is_usable() => findings.ok(what),
            _ => findings.fail(what, bind_hint(bdf)),
        }
        needs_vfio |=
            !matches!(&driver, PciDriver::Bound(name) if name.starts_with("mlx") || name == "mana");
    }
    if !needs_vfio {
        return;
    }
    if host.has_vfio_pci() {
        findings.ok("the vfio-pci driver is loaded");
    } else {
        findings.fail("the vfio-pci driver is not loaded", "modprobe vfio-pci");
    }
    match host.iommu_groups() {
        0 => findings.fail(
            "there are no IOMMU groups",
            "switch the IOMMU on in the firmware and boot with intel_iommu=on or amd_iommu=on",
        ),
        n => findings.ok(format!("the IOMMU is on ({n} groups)")),
    }
}

/// How to give a PCI device to vfio-pci.
pub(crate) fn bind_hint(bdf: &str) -> String {
    format!("bind it: modprobe vfio-pci && dpdk-devbind.py --bind=vfio-pci {bdf}")
}

fn check_cores(host: &Host, needs: &Needs, findings: &mut Findings) {
    let (online, isolated) = (host.online_cores(), host.isolated_cores());
    for core in &needs.worker_cores {
        if !online.contains(core) {
            findings.fail(
                format!("worker core {core} is not online"),
                format!("choose among {online:?}"),
            );
        } else if isolated.contains(core) {
            findings.ok(format!("worker core {core} is isolated"));
        } else {
            findings.warn(
                format!("worker core {core} is not isolated: others may run there"),
                format!("boot with isolcpus={core} nohz_full={core} rcu_nocbs={core}"),
            );
        }
    }
    check_nodes(host, needs, findings);
    if host.has_invariant_tsc() {
        findings.ok("the TSC is invariant");
    } else {
        findings.warn(
            "the TSC is not invariant: the clock is read by system call, 1 ns a packet slower",
            "in a guest, let the hypervisor pass `invtsc` through",
        );
    }
}

fn check_nodes(host: &Host, needs: &Needs, findings: &mut Findings) {
    for bdf in &needs.pci {
        let Some(home) = host.pci_node(bdf) else {
            continue;
        };
        for &core in &needs.worker_cores {
            match host.core_node(core) {
                Some(node) if node != home => findings.warn(
                    format!(
                        "worker core {core} is on node {node}, PCI device {bdf} on node {home}"
                    ),
                    "choose worker cores of the device's node",
                ),
                _ => {}
            }
        }
    }
}

fn check_process(host: &Host, needs: &Needs, findings: &mut Findings) {
    let wanted = [
        (
            Capability::NetAdmin,
            Level::Fail,
            "kernel twins and nft rules cannot be made",
        ),
        (
            Capability::NetRaw,
            Level::Warn,
            "af_packet ports cannot be opened",
        ),
        (
            Capability::IpcLock,
            Level::Warn,
            "memory cannot be locked for DMA",
        ),
        (
            Capability::SysNice,
            Level::Warn,
            "threads cannot be moved to their cores and nodes",
        ),
    ];
    for (capability, level, without) in wanted {
        let name = format!("{capability:?}");
        if host.has_capability(capability) {
            findings.ok(format!("capability {name}"));
        } else {
            findings.0.push(Finding {
                level,
                what: format!("capability {name} is missing: {without}"),
                fix: "run as root, or set AmbientCapabilities= in the service unit".to_owned(),
            });
        }
    }
    if host.has_tun() {
        findings.ok("/dev/net/tun is there");
    } else {
        findings.fail("/dev/net/tun is missing: no kernel twins", "modprobe tun");
    }
    let locked = host.memlock_limit();
    match locked {
        // vfio pins all memory that the NIC may reach.
        Some(bytes)
            if !needs.pci.is_empty()
                && !host.has_capability(Capability::IpcLock)
                && bytes >> 20 < needs.hugepage_mib.unwrap_or(64) =>
        {
            findings.fail(
                format!("locked memory is limited to {} KiB", bytes >> 10),
                "set LimitMEMLOCK=infinity in the service unit, or ulimit -l unlimited",
            );
        }
        Some(bytes) => findings.ok(format!("locked memory is limited to {} KiB", bytes >> 10)),
        None => findings.ok("locked memory is not limited"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A machine made of files.
    fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::at(dir.path());
        (dir, host)
    }

    const NODE0: &str = "sys/devices/system/node/node0/hugepages/hugepages-2048kB";
    const NODE1: &str = "sys/devices/system/node/node1/hugepages/hugepages-2048kB";

    fn levels(findings: &[Finding], word: &str) -> Vec<Level> {
        findings
            .iter()
            .filter(|f| f.what.contains(word))
            .map(|f| f.level)
            .collect()
    }

    #[test]
    fn hugepages_by_node() {
        let (_dir, host) = fake(&[
            (&format!("{NODE0}/nr_hugepages"), "128\n"),
            (&format!("{NODE0}/free_hugepages"), "100\n"),
            (&format!("{NODE1}/nr_hugepages"), "64\n"),
            (&format!("{NODE1}/free_hugepages"), "64\n"),
            (
                "proc/mounts",
                "sysfs /sys sysfs rw 0 0\nnodev /mnt/huge hugetlbfs rw 0 0\n",
            ),
        ]);
        assert_eq!(
            host.hugepages(),
            [
                Hugepages {
                    node: 0,
                    page_kib: 2048,
                    total: 128,
                    free: 100
                },
                Hugepages {
                    node: 1,
                    page_kib: 2048,
                    total: 64,
                    free: 64
                }
            ]
        );
        assert_eq!(host.hugepage_mounts(), [PathBuf::from("/mnt/huge")]);
        let needs = Needs {
            hugepage_mib: Some(300),
            hugepage_mount: true,
            ..Needs::default()
        };
        assert_eq!(levels(&check(&host, &needs), "huge"), [Level::Ok; 3]);
        let needs = Needs {
            hugepage_mib: Some(400),
            ..needs
        };
        let findings = check(&host, &needs);
        let fail = findings.iter().find(|f| f.level == Level::Fail).unwrap();
        assert_eq!(
            fail.to_string(),
            "FAIL  328 MiB of hugepages are free, 400 MiB are needed; reserve them: sysctl -w \
             vm.nr_hugepages=200"
        );
    }

    #[test]
    fn hugepages_without_numa() {
        let dir = "sys/kernel/mm/hugepages/hugepages-1048576kB";
        let (_dir, host) = fake(&[
            (&format!("{dir}/nr_hugepages"), "2"),
            (&format!("{dir}/free_hugepages"), "1"),
        ]);
        assert_eq!(host.hugepages()[0].free_mib(), 1024);
    }

    #[test]
    fn pci_drivers() {
        let (dir, host) = fake(&[
            ("sys/bus/pci/devices/0000:01:00.0/numa_node", "1\n"),
            ("sys/bus/pci/devices/0000:02:00.0/numa_node", "-1\n"),
            ("sys/bus/pci/drivers/vfio-pci/new_id", ""),
            ("sys/kernel/iommu_groups/0/type", "DMA"),
            ("sys/devices/system/node/node0/cpulist", "0-1\n"),
            ("sys/devices/system/node/node1/cpulist", "2-3\n"),
        ]);
        symlink(
            "../../drivers/vfio-pci",
            dir.path().join("sys/bus/pci/devices/0000:01:00.0/driver"),
        )
        .unwrap();
        assert!(host.pci_driver("0000:01:00.0").is_usable());
        assert_eq!(host.pci_driver("0000:02:00.0"), PciDriver::None);
        assert_eq!(host.pci_driver("0000:03:00.0"), PciDriver::Missing);
        assert_eq!(
            (host.pci_node("0000:01:00.0"), host.pci_node("0000:02:00.0")),
            (Some(1), None)
        );
        let needs = Needs {
            pci: vec![
                "0000:01:00.0".into(),
                "0000:02:00.0".into(),
                "0000:03:00.0".into(),
            ],
            worker_cores: vec![0, 2],
            ..Needs::default()
        };
        let findings = check(&host, &needs);
        assert_eq!(
            levels(&findings, ":00.0 is"),
            [Level::Ok, Level::Fail, Level::Fail]
        );
        assert_eq!(
            levels(&findings, "worker core 0 is on node 0, PCI"),
            [Level::Warn]
        );
        assert_eq!(levels(&findings, "worker core 2 is on node"), []);
        assert_eq!(levels(&findings, "vfio-pci driver"), [Level::Ok]);
        assert_eq!(levels(&findings, "IOMMU"), [Level::Ok]);
    }

    #[test]
    fn cores_and_process() {
        let (_dir, host) = fake(&[
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("sys/devices/system/cpu/isolated", "2-3\n"),
            (
                "proc/cpuinfo",
                "processor : 0\nflags : fpu constant_tsc nonstop_tsc\n",
            ),
            ("proc/self/status", "Name:\tx\nCapEff:\t0000000000003000\n"),
            (
                "proc/self/limits",
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max locked memory         8388608              8388608              bytes\n",
            ),
        ]);
        let needs = Needs {
            worker_cores: vec![1, 2, 9],
            ..Needs::default()
        };
        let findings = check(&host, &needs);
        assert_eq!(
            levels(&findings, "worker core"),
            [Level::Warn, Level::Ok, Level::Fail]
        );
        assert_eq!(levels(&findings, "TSC"), [Level::Ok]);
        assert!(host.has_capability(Capability::NetAdmin));
        assert!(!host.has_capability(Capability::SysNice));
        assert_eq!(levels(&findings, "tun"), [Level::Fail]);
        assert_eq!(host.memlock_limit(), Some(8 << 20));
    }
}
