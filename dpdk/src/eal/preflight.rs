//! What would make EAL fail, found before it is tried.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::{EalConfig, EalError, HugepageFiles, Memory};
use crate::host::{self, Hugepages, PciDriver};
use crate::lcore;

impl EalConfig {
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
        let reserved = pages.iter().map(Hugepages::total_mib).sum();
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

    /// The virtual ports that have come to nothing: EAL starts without them.
    pub(super) fn missing_vdevs(&self) -> Vec<String> {
        if self.attach_later {
            return Vec::new();
        }
        self.vdevs
            .iter()
            .map(|vdev| vdev_name(vdev))
            .filter(|name| name.starts_with("net_") && crate::port::id_of(name).is_none())
            .map(str::to_owned)
            .collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eal::Memory;
    use crate::eal::config::tests::no_huge;

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
