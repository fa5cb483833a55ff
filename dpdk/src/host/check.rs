//! Facts turned into findings: what is right, what is slow, what will not start.

use std::fmt;

use super::{Capability, Host, Hugepages, PciDriver};

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
    // What others use stays theirs.
    let reserved: u64 = pages.iter().map(Hugepages::total_mib).sum();
    if free < need {
        findings.fail(
            format!("{free} MiB of hugepages are free, {need} MiB are needed"),
            reserve_hint(reserved + need - free),
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
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

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
             vm.nr_hugepages=228"
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
