//! What EAL is started with, and how that is written as arguments.

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

/// An address that no device has: with it as the only one that is allowed, EAL knows the bus and
/// touches nothing on it.
const NO_DEVICE: &str = "ffff:ff:1f.7";

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
    /// Whether devices are left alone at the start, to be attached when another process has let go
    /// of them ([`crate::port::attach`]).
    pub attach_later: bool,
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
            attach_later: false,
            extra_args: Vec::new(),
        }
    }
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
            Memory::NoHuge { mb } => {
                args.extend(["--no-huge".to_owned(), "-m".to_owned(), mb.to_string()])
            }
            Memory::Hugepages { mb, files } => {
                args.extend(
                    mb.into_iter()
                        .flat_map(|mb| ["-m".to_owned(), mb.to_string()]),
                );
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
        // Two words each: older and newer parsers agree on that for short options.
        if self.attach_later && !self.pci.is_empty() {
            args.extend(["-a".to_owned(), NO_DEVICE.to_owned()]);
        }
        if !self.attach_later {
            for device in &self.pci {
                args.extend(["-a".to_owned(), device.clone()]);
            }
            args.extend(self.vdevs.iter().map(|vdev| format!("--vdev={vdev}")));
        }
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
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two workers on a core without hugepages.
    pub(in crate::eal) fn no_huge() -> EalConfig {
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
                "-m",
                "128",
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
                "-m",
                "512",
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
}
