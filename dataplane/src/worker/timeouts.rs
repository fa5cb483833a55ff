//! How long connections live: by the common timeouts, or by those of their own service.
//!
//! A service's timeouts are kept by real server, which belongs to one service for life: they are
//! found from any connection, and hold for what is left of a deleted server, too.

use super::{Core, PROTOCOLS};
use crate::proto::{self, sctp, tcp};
use crate::service::{DestId, Protocol, ServiceTimeouts};
use crate::time;

/// Row of a protocol in [`Core::timeouts`].
pub(super) const fn row_of(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    }
}

const ESTABLISHED: u8 = tcp::State::Established as u8;

impl Core {
    /// Timeout of a connection in this state, ticks.
    #[inline(always)]
    pub(super) fn timeout(&self, id: DestId, row: usize, state: u8) -> u32 {
        let common = self
            .timeouts
            .get(row)
            .map_or(0, |states| states[usize::from(state & 15)]);
        match self.dests.get(id.0 as usize) {
            Some(dest) if dest.has_own_timeouts => {
                self.own_timeout(id, row, state).unwrap_or(common)
            }
            _ => common,
        }
    }

    /// What the service of a real server says of a state, ticks.
    fn own_timeout(&self, id: DestId, row: usize, state: u8) -> Option<u32> {
        let own = self.own_timeouts.get(id.0 as usize)?;
        let secs = match *PROTOCOLS.get(row)? {
            Protocol::Tcp if state == ESTABLISHED => own.tcp,
            Protocol::Tcp if state == tcp::State::FinWait as u8 => own.tcp_fin,
            Protocol::Udp => own.udp,
            Protocol::Sctp if state == sctp::State::Established as u8 => own.sctp,
            Protocol::Tcp | Protocol::Sctp => 0,
        };
        (secs != 0).then(|| time::secs(secs))
    }

    /// Gives a real server the timeouts of its service.
    pub(super) fn put_own_timeouts(&mut self, id: DestId, own: ServiceTimeouts) {
        if let Some(place) = self.own_timeouts.get_mut(id.0 as usize) {
            *place = own;
        }
        if let Some(dest) = self.dests.get_mut(id.0 as usize) {
            dest.has_own_timeouts = own != ServiceTimeouts::default();
        }
        let established = self.timeout(id, row_of(Protocol::Tcp), ESTABLISHED);
        if let Some(dest) = self.dests.get_mut(id.0 as usize) {
            dest.established = established;
        }
    }

    /// Fills the table of common timeouts (`ipvsadm --set`). Existing connections take a new one
    /// with their next packet.
    pub(super) fn use_timeouts(&mut self) {
        let before = self.timeouts;
        for (row, protocol) in self.timeouts.iter_mut().zip(PROTOCOLS) {
            for (state, ticks) in row.iter_mut().enumerate() {
                *ticks = proto::timeout_ticks(protocol, state as u8, &self.settings.timeouts);
            }
        }
        if before == self.timeouts {
            return;
        }
        for id in (0..self.dests.len() as u32).map(DestId) {
            let established = self.timeout(id, row_of(Protocol::Tcp), ESTABLISHED);
            if let Some(dest) = self.dests.get_mut(id.0 as usize) {
                dest.established = established;
            }
        }
    }
}
