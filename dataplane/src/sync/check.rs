//! Which entries a backup takes.

use super::{EngineData, SyncEntry, flag};
use crate::service::{Engine, Protocol};

/// Why an entry that reads well is not taken (`ip_vs_proc_sync_conn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// One-packet scheduling, or a template without its client's port.
    Flags(u32),
    /// No protocol that is balanced here.
    Protocol(u8),
    /// No state of its protocol.
    State(u16),
    /// Data of a persistence engine that there is not here.
    Engine,
}

/// States that a template has.
const TEMPLATE_STATES: u16 = 2;

/// How many states a protocol has.
const fn states(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => 11,
        Protocol::Udp => 1,
        Protocol::Sctp => 14,
    }
}

impl SyncEntry {
    /// Whether it makes sense here.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn check(&self, engine: &EngineData<'_>) -> Result<(), Refusal> {
        let no_port = self.is_template() && self.flags & flag::NO_CPORT != 0;
        if no_port || self.flags & flag::ONE_PACKET != 0 {
            return Err(Refusal::Flags(self.flags));
        }
        let protocol = Protocol::from_number(self.protocol);
        let states = match protocol {
            _ if self.is_template() => TEMPLATE_STATES,
            Some(protocol) => states(protocol),
            None => 0,
        };
        // The template of a mark has no protocol.
        if protocol.is_none() && !(self.is_template() && self.protocol == 0) {
            return Err(Refusal::Protocol(self.protocol));
        }
        if self.state >= states {
            return Err(Refusal::State(self.state));
        }
        let name = core::str::from_utf8(engine.name).unwrap_or_default();
        let is_known = Engine::find(name).is_some() && self.is_template();
        if !engine.data.is_empty() && !is_known {
            return Err(Refusal::Engine);
        }
        Ok(())
    }
}
