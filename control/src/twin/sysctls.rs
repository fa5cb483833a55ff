//! Load-balancer values of a twin's sysctls.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

/// One setting of a twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Name below `net.FAMILY.conf.DEVICE`.
    pub name: &'static str,
    /// Value.
    pub value: u8,
    /// Why.
    pub why: &'static str,
}

/// What a twin gets. The kernel uses the larger of a device's value and that of `conf.all` for
/// arp_ignore, arp_announce, rp_filter and accept_dad, and either's for send_redirects.
pub const SETTINGS: &[Setting] = &[
    Setting {
        family: "ipv4",
        name: "arp_ignore",
        value: 1,
        why: "answer ARP only for addresses of the device that is asked: a virtual address on \
              another twin or on lo must not be claimed on this network",
    },
    Setting {
        family: "ipv4",
        name: "arp_announce",
        value: 2,
        why: "ask with an address of the network that is asked: a virtual address as source \
              would move other hosts' ARP entries",
    },
    Setting {
        family: "ipv4",
        name: "rp_filter",
        value: 0,
        why: "packets come in where the way back does not lead (several uplinks, the mirrored \
              table is not main); if conf.all asks for a check, 2 makes it the loose one",
    },
    Setting {
        family: "ipv4",
        name: "send_redirects",
        value: 0,
        why: "never tell a server that uses us as its gateway to go around us: NAT needs its \
              replies here",
    },
    Setting {
        family: "ipv6",
        name: "accept_dad",
        value: 0,
        why: "a virtual address serves at once: duplicate address detection would hold it back \
              for a second, and switch it off while the old holder still answers",
    },
];

/// A setting that could not be made.
#[derive(Debug)]
pub struct Failure {
    /// The setting, as `sysctl` names it.
    pub name: String,
    /// The value it was to get.
    pub value: u8,
    /// Why not.
    pub source: io::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot set {} = {}: {}",
            self.name, self.value, self.source
        )
    }
}

impl std::error::Error for Failure {}

/// Makes the settings of a twin in the network namespace of this process. Goes on after a
/// failure; IPv6 settings are left out where the kernel has no IPv6.
pub fn apply(device: &str) -> Vec<Failure> {
    let mut failures = Vec::new();
    for setting in SETTINGS {
        let (path, value) = (path(setting.family, device, setting.name), wanted(setting));
        if setting.family == "ipv6" && !path.exists() {
            continue;
        }
        if let Err(source) = fs::write(&path, value.to_string()) {
            let name = format!("net.{}.conf.{device}.{}", setting.family, setting.name);
            failures.push(Failure {
                name,
                value,
                source,
            });
        }
    }
    failures
}

fn wanted(setting: &Setting) -> u8 {
    if setting.name != "rp_filter" {
        return setting.value;
    }
    match read("ipv4", "all", "rp_filter").as_deref() {
        Some("0") | None => 0,
        Some(_) => 2,
    }
}

pub(super) fn path(family: &str, device: &str, name: &str) -> PathBuf {
    ["/proc/sys/net", family, "conf", device, name]
        .iter()
        .collect()
}

pub(super) fn read(family: &str, device: &str, name: &str) -> Option<String> {
    fs::read_to_string(path(family, device, name))
        .ok()
        .map(|v| v.trim().to_owned())
}
