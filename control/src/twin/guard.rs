//! Keeps the kernel quiet on the device behind an af_packet port.
//!
//! AF_PACKET only copies: without this the kernel would answer each frame a second time. An
//! nftables chain at the device's ingress hook, which comes after AF_PACKET, drops all of it.

use std::fs;
use std::io::{self, Write};
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

/// A guarded device. Dropping it takes the guard away.
#[derive(Debug)]
pub struct Guard {
    table: String,
    device: String,
    /// `disable_ipv6` as it was before, if we changed it.
    ipv6: Option<String>,
}

impl Guard {
    /// Guards `device`, which is behind the port called `port`. What a dead process left for
    /// this port is replaced in the same transaction.
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
        nft(device, &script(&table, device))?;
        let mut guard = Guard {
            table,
            device: device.into(),
            ipv6: None,
        };
        // The device needs no address of its own; link-local ones would be announced.
        let before = sysctls::read("ipv6", device, "disable_ipv6");
        if before.as_deref() == Some("0")
            && fs::write(sysctls::path("ipv6", device, "disable_ipv6"), "1").is_ok()
        {
            guard.ipv6 = before;
        }
        Ok(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // At exit there is nobody left to tell; the next start replaces what stays.
        let _ = nft(
            &self.device,
            &format!("delete table netdev {}\n", self.table),
        );
        if let Some(value) = &self.ipv6 {
            let _ = fs::write(sysctls::path("ipv6", &self.device, "disable_ipv6"), value);
        }
    }
}

/// `rvs_PORT`, with what nftables does not take in a name replaced.
fn table_name(port: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("rvs_{}", port.chars().map(plain).collect::<String>())
}

/// One transaction: adding first makes the deletion succeed whether or not the table exists.
fn script(table: &str, device: &str) -> String {
    format!(
        "add table netdev {table}\n\
         delete table netdev {table}\n\
         add table netdev {table}\n\
         add chain netdev {table} ingress {{ type filter hook ingress device \"{device}\" \
         priority -500; policy drop; }}\n"
    )
}

fn nft(device: &str, script: &str) -> Result<(), GuardError> {
    // A service's PATH may lack the directory of administration programs.
    let Some(mut child) = ["nft", "/usr/sbin/nft"].iter().find_map(|program| {
        let mut command = Command::new(program);
        command
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
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
        Err(_) => return child.map(drop).map_err(run),
    };
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).map_err(run)?;
    }
    let output = child.wait_with_output().map_err(run)?;
    if output.status.success() {
        return Ok(());
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
        assert!(script("rvs_wan", "eth1").contains("device \"eth1\" priority -500; policy drop;"));
    }
}
