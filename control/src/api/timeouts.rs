//! Timeouts of one service's connections in place of the common ones. Neither ipvsadm nor the
//! kernel has them.
//!
//! In words, as `--conn-timeouts` takes and `-S` prints them: `tcp=60,tcpfin=10,udp=5,sctp=30`.
//! What is left out is the common timeout.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Protocol, ServiceKey};

/// Largest one, seconds: 31 days, as for `--set`.
const MAX_TIMEOUT: u32 = 31 * 24 * 3600;

/// Timeouts of a service, seconds; 0 is the common one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceTimeouts {
    /// TCP ESTABLISHED.
    pub tcp: u32,
    /// TCP FIN_WAIT.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
    /// SCTP ESTABLISHED.
    pub sctp: u32,
}

/// One of [`ServiceTimeouts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneTimeout {
    /// Name in words.
    pub name: &'static str,
    /// Key in the configuration file.
    pub key: &'static str,
    /// Connections that have it.
    pub protocol: Protocol,
    /// Seconds, 0 for the common one.
    pub seconds: u32,
}

impl ServiceTimeouts {
    /// Each of them.
    pub fn each(&self) -> [OneTimeout; 4] {
        let one = |name, key, protocol, seconds| OneTimeout {
            name,
            key,
            protocol,
            seconds,
        };
        [
            one("tcp", "tcp_timeout", Protocol::Tcp, self.tcp),
            one("tcpfin", "tcp_fin_timeout", Protocol::Tcp, self.tcp_fin),
            one("udp", "udp_timeout", Protocol::Udp, self.udp),
            one("sctp", "sctp_timeout", Protocol::Sctp, self.sctp),
        ]
    }

    /// Whether all are the common ones.
    pub fn are_common(&self) -> bool {
        *self == ServiceTimeouts::default()
    }

    /// The first that no connection of the service ever has.
    pub fn misfit(&self, service: ServiceKey) -> Option<OneTimeout> {
        let protocol = service.protocol()?;
        let is_misfit = |one: &OneTimeout| one.seconds != 0 && one.protocol != protocol;
        self.each().into_iter().find(is_misfit)
    }

    /// The first that is longer than 31 days.
    pub fn too_long(&self) -> Option<OneTimeout> {
        let mut each = self.each().into_iter();
        each.find(|one| one.seconds > MAX_TIMEOUT)
    }
}

impl fmt::Display for ServiceTimeouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = self.each().into_iter().filter(|one| one.seconds != 0);
        for (i, one) in given.enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}={}", one.name, one.seconds)?;
        }
        Ok(())
    }
}

impl FromStr for ServiceTimeouts {
    type Err = String;

    fn from_str(text: &str) -> Result<ServiceTimeouts, String> {
        let mut timeouts = ServiceTimeouts::default();
        for part in text.split(',') {
            let (name, seconds) = part.split_once('=').unwrap_or((part, ""));
            let place = match name {
                "tcp" => &mut timeouts.tcp,
                "tcpfin" => &mut timeouts.tcp_fin,
                "udp" => &mut timeouts.udp,
                "sctp" => &mut timeouts.sctp,
                _ => {
                    return Err(format!(
                        "\"{part}\" is no timeout; write tcp=60,tcpfin=10,udp=5,sctp=30 or some of them"
                    ));
                }
            };
            let seconds = seconds.parse().ok();
            *place = seconds
                .filter(|n| (1..=MAX_TIMEOUT).contains(n))
                .ok_or_else(|| format!("timeout \"{part}\"; give 1 to {MAX_TIMEOUT} seconds"))?;
        }
        Ok(timeouts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        for text in [
            "tcp=60",
            "tcpfin=1,udp=2678400",
            "tcp=1,tcpfin=2,udp=3,sctp=4",
        ] {
            let read: ServiceTimeouts = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
        }
        assert_eq!(ServiceTimeouts::default().to_string(), "");
    }

    #[test]
    fn mistakes_say_what_to_write() {
        for text in [
            "",
            "tcp",
            "tcp=",
            "tcp=0",
            "udp=2678401",
            "icmp=3",
            "tcp=1,,",
        ] {
            let refused = text.parse::<ServiceTimeouts>().expect_err(text);
            assert!(
                refused.contains("; give 1") || refused.contains("; write"),
                "{refused}"
            );
        }
    }
}
