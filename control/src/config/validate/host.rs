//! The machine that a configuration is checked against.

use std::path::{Path, PathBuf};

/// What is known about the machine that the file is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Cores that are online; empty if unknown, and then cores are not checked.
    pub online: Vec<u32>,
    /// Cores kept free for pollers (`isolcpus`).
    pub isolated: Vec<u32>,
    /// Memory in MiB; `None` if unknown.
    pub memory_mb: Option<u64>,
    /// Where the service manager lets the daemon keep what lasts (`$STATE_DIRECTORY`).
    pub state_directory: Option<PathBuf>,
    /// Where it lets it keep what ends with the boot (`$RUNTIME_DIRECTORY`).
    pub runtime_directory: Option<PathBuf>,
}

impl Host {
    /// This machine.
    pub fn probe() -> Host {
        let cores = |name: &str| {
            std::fs::read_to_string(Path::new("/sys/devices/system/cpu").join(name))
                .map(|list| parse_cpu_list(&list))
                .unwrap_or_default()
        };
        let memory_mb = std::fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| {
                let total = text
                    .lines()
                    .find_map(|line| line.strip_prefix("MemTotal:"))?;
                let kib: u64 = total.trim().trim_end_matches("kB").trim().parse().ok()?;
                Some(kib / 1024)
            });
        Host {
            online: cores("online"),
            isolated: cores("isolated"),
            memory_mb,
            state_directory: first_directory("STATE_DIRECTORY"),
            runtime_directory: first_directory("RUNTIME_DIRECTORY"),
        }
    }
}

/// The first of the directories that systemd names in a variable, separated by colons.
fn first_directory(variable: &str) -> Option<PathBuf> {
    let text = std::env::var(variable).ok()?;
    let first = text.split(':').next().unwrap_or_default();
    first.starts_with('/').then(|| PathBuf::from(first))
}

/// `0-3,6` as the kernel writes sets of cores; what cannot be read is left out.
fn parse_cpu_list(list: &str) -> Vec<u32> {
    let mut cores = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            cores.extend(first..=last.min(first.saturating_add(8191)));
        }
    }
    cores
}
