//! What carries a port: the members of a bond, and kernel interfaces below.
//!
//! The driver of af_packet ports knows no link: it says "up" whatever the cable does. So the
//! kernel is asked about the interfaces below a port, and a bond of such members, which sends by
//! one of them at a time, is told when that one has lost its carrier.

use std::time::{Duration, Instant};

use crate::port::RunningPort;
use crate::tap::is_interface_running;

/// How long a carrier has to be there before the preferred member is used again: a switch port
/// forwards later than it has a link.
const SETTLE: Duration = Duration::from_secs(1);

/// One kernel interface below a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// DPDK's name of the device on it.
    pub device: String,
    /// The kernel's name.
    pub interface: String,
}

/// The members of one port, looked at by the pump.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// Kernel interfaces below, if any.
    kernel: Vec<Member>,
    /// The device that sends whenever it can; the first of `kernel` if none is named.
    primary: Option<String>,
    /// Whether one member at a time sends.
    one_sends: bool,
    /// Who sent at the last look, by DPDK's number.
    active: Option<u16>,
    /// Since when the primary has had its carrier without sending.
    back_since: Option<Instant>,
}

impl Members {
    /// A port on one kernel interface, or on none.
    pub fn single(member: Option<Member>) -> Members {
        Members {
            kernel: member.into_iter().collect(),
            ..Members::default()
        }
    }

    /// A bond, with those of its members that are kernel interfaces; `primary` is a DPDK name.
    pub fn bond(kernel: Vec<Member>, primary: Option<String>, one_sends: bool) -> Members {
        Members {
            kernel,
            primary,
            one_sends,
            ..Members::default()
        }
    }

    /// Whether anything below has a carrier, as far as that is ours to ask.
    pub fn has_carrier(&self) -> bool {
        self.kernel.is_empty()
            || self
                .kernel
                .iter()
                .any(|m| is_interface_running(&m.interface))
    }

    /// Looks after a bond; true if another member sends than at the last look.
    pub fn look(&mut self, port: &mut RunningPort, now: Instant) -> bool {
        if !self.one_sends {
            return false;
        }
        if let Some(better) = self.better(port.active_member(), now) {
            match port.prefer_member(&better) {
                Ok(()) => tracing::info!(event = "bond", "{} sends by {better} now", port.name()),
                Err(why) => tracing::warn!(event = "bond", "{why}"),
            }
        }
        let active = port.active_member();
        let changed = self.active.is_some() && active != self.active;
        self.active = active;
        changed
    }

    /// The device that is to send in place of the active one.
    fn better(&mut self, active: Option<u16>, now: Instant) -> Option<String> {
        let active = active?;
        let sends = |m: &&Member| RunningPort::is_member(&m.device, active);
        let now_sending = self.kernel.iter().find(sends)?;
        let running = |m: &&Member| is_interface_running(&m.interface);
        if !running(&now_sending) {
            self.back_since = None;
            return self.kernel.iter().find(running).map(|m| m.device.clone());
        }
        // Only a member that is named is gone back to.
        let primary = self.primary.as_ref()?;
        let waiting = (now_sending.device != *primary)
            .then(|| self.kernel.iter().find(|m| m.device == *primary))
            .flatten()
            .filter(running);
        let Some(waiting) = waiting else {
            self.back_since = None;
            return None;
        };
        let since = *self.back_since.get_or_insert(now);
        (now.duration_since(since) >= SETTLE).then(|| waiting.device.clone())
    }
}
