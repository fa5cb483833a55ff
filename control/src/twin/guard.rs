//! Keeps the kernel quiet on the device behind an af_packet port.
//!
//! AF_PACKET only copies: without this the kernel would answer each frame a second time. An
//! nftables chain at the device's ingress hook, which comes after AF_PACKET, drops all of it.

use std::fs;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::process::{Command, Stdio};

use super::sysctls;

/// Why a device could not be guarded.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// There is no `nft` program.
    #[error(
        "device {device}: the kernel would answer beside RVS, and the program nft, which stops \
         that, is missing: install nftables"
    )]
    NoNft {
        /// The device behind the port.
        device: String,
    },
    /// The device is not there (nft would wait for it).
    #[error("device {device} does not exist")]
    NoDevice {
        /// The device behind the port.
        device: String,
    },
    /// `nft` could not be run.
    #[error("device {device}: running nft: {source}")]
    Run {
        /// The device behind the port.
        device: String,
        /// Why.
        source: io::Error,
    },
    /// `nft` refused.
    #[error("device {device}: nft refused to drop the kernel's copy of received frames: {reason}")]
    Refused {
        /// The device behind the port.
        device: String,
        /// Its words.
        reason: String,
    },
}

/// A chain without a hook that says: IPv6 was on before the device was guarded. A process that
/// dies leaves it in its table, and its successor knows what to restore.
const IPV6_MARK: &str = "ipv6_was_on";

/// A guarded device. Dropping it takes the guard away.
#[derive(Debug)]
pub struct Guard {
    table: String,
    device: String,
    /// IPv6 was on before.
    restores_ipv6: bool,
}

impl Guard {
    /// Guards `device`, which is behind the port called `port`. What a dead process left for
    /// this port or this device is replaced in the same transaction.
    ///
    /// # Errors
    /// There is no such device, or `nft` is missing or refuses.
    pub fn install(port: &str, device: &str) -> Result<Guard, GuardError> {
        if !super::exists(device) {
            return Err(GuardError::NoDevice {
                device: device.into(),
            });
        }
        let table = table_name(port);
        let left = Leftovers::of(device, &nft(device, "list ruleset netdev\n")?);
        // The device needs no address of its own; link-local ones would be announced.
        let is_on = sysctls::read("ipv6", device, "disable_ipv6").as_deref() == Some("0");
        let restores_ipv6 = is_on || left.ipv6_was_on;
        nft(device, &script(&table, device, &left.tables, restores_ipv6))?;
        let guard = Guard {
            table,
            device: device.into(),
            restores_ipv6,
        };
        if is_on {
            // If that fails, the device's announcements are all that comes of it.
            let _ = fs::write(sysctls::path("ipv6", device, "disable_ipv6"), "1");
        }
        Ok(guard)
    }
}

impl Guard {
    /// The guard that a process which still runs has on `device` for the same port, if it has one.
    /// It is ours only if that process hands over.
    ///
    /// # Errors
    /// `nft` is missing or refuses.
    pub fn standing(port: &str, device: &str) -> Result<Option<ManuallyDrop<Guard>>, GuardError> {
        let table = table_name(port);
        let found = Leftovers::of(device, &nft(device, "list ruleset netdev\n")?);
        let guard = Guard {
            device: device.into(),
            restores_ipv6: found.ipv6_was_on,
            table,
        };
        let stands = found.tables == [guard.table.as_str()];
        let guard = ManuallyDrop::new(guard);
        Ok(stands.then_some(guard))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // At exit there is nobody left to tell; the next start replaces what stays.
        let _ = nft(
            &self.device,
            &format!("delete table netdev {}\n", self.table),
        );
        if self.restores_ipv6 {
            let _ = fs::write(sysctls::path("ipv6", &self.device, "disable_ipv6"), "0");
        }
    }
}

/// Guards of dead processes on a device.
#[derive(Debug, Default, PartialEq, Eq)]
struct Leftovers {
    tables: Vec<String>,
    ipv6_was_on: bool,
}

impl Leftovers {
    /// Reads what `nft list ruleset netdev` prints.
    fn of(device: &str, listing: &str) -> Leftovers {
        let mut left = Leftovers::default();
        let device = format!("\"{device}\"");
        for table in listing.split("table netdev ").skip(1) {
            let name = table.split_whitespace().next().unwrap_or_default();
            if name.starts_with("rvs_") && table.contains(&device) {
                left.tables.push(name.to_owned());
                left.ipv6_was_on |= table.contains(&format!("chain {IPV6_MARK} "));
            }
        }
        left
    }
}

/// `rvs_PORT`, with what nftables does not take in a name replaced.
fn table_name(port: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("rvs_{}", port.chars().map(plain).collect::<String>())
}

/// One transaction: adding first makes the deletion succeed whether or not the table exists.
fn script(table: &str, device: &str, left: &[String], ipv6_was_on: bool) -> String {
    let mut script = String::new();
    for old in left.iter().map(String::as_str).chain([table]) {
        script += &format!("add table netdev {old}\ndelete table netdev {old}\n");
    }
    script += &format!(
        "add table netdev {table}\n\
         add chain netdev {table} ingress {{ type filter hook ingress device \"{device}\" \
         priority -500; policy drop; }}\n"
    );
    if ipv6_was_on {
        script += &format!("add chain netdev {table} {IPV6_MARK}\n");
    }
    script
}

/// Runs a script; what it prints.
fn nft(device: &str, script: &str) -> Result<String, GuardError> {
    // A service's PATH may lack the directory of administration programs.
    let Some(mut child) = ["nft", "/usr/sbin/nft"].iter().find_map(|program| {
        let mut command = Command::new(program);
        command
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        match command.stderr(Stdio::piped()).spawn() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            result => Some(result),
        }
    }) else {
        return Err(GuardError::NoNft {
            device: device.into(),
        });
    };
    let run = |source| GuardError::Run {
        device: device.into(),
        source,
    };
    let mut child = match &mut child {
        Ok(_) => child.map_err(run)?,
        Err(_) => return child.map(|_| String::new()).map_err(run),
    };
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).map_err(run)?;
    }
    let output = child.wait_with_output().map_err(run)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let reason = words.lines().next().unwrap_or("no reason given").to_owned();
    Err(GuardError::Refused {
        device: device.into(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_fit_for_nftables() {
        assert_eq!(table_name("wan-0.7"), "rvs_wan_0_7");
        let script = script("rvs_wan", "eth1", &[], false);
        assert!(script.contains("device \"eth1\" priority -500; policy drop;"));
        assert!(!script.contains(IPV6_MARK));
    }

    #[test]
    fn what_dead_processes_left_on_a_device_is_found() {
        let chain = |device| {
            format!(
                "\tchain ingress {{\n\t\ttype filter hook ingress device \"{device}\" priority -500; \
                 policy drop;\n\t}}\n"
            )
        };
        let mark = format!("\n\tchain {IPV6_MARK} {{\n\t}}\n");
        let listing = format!(
            "table netdev rvs_old {{\n{}{mark}}}\ntable netdev rvs_lan {{\n{}{mark}}}\n\
             table netdev mine {{\n{}}}\n",
            chain("eth1"),
            chain("eth10"),
            chain("eth1"),
        );
        let left = Leftovers {
            tables: vec!["rvs_old".to_owned()],
            ipv6_was_on: true,
        };
        assert_eq!(Leftovers::of("eth1", &listing), left);
        assert_eq!(Leftovers::of("eth2", &listing), Leftovers::default());
        let script = script("rvs_wan", "eth1", &left.tables, true);
        assert!(script.contains("delete table netdev rvs_old\n"), "{script}");
        assert!(script.contains(IPV6_MARK), "{script}");
    }
}
