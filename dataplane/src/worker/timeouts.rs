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

/// Destinations that hear of new timeouts at a time: some microseconds.
const DESTS_TOLD: usize = 1024;

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
        self.timeouts_at = 0;
        self.tell_dests_timeouts();
    }

    /// Whether some destinations have not heard of the common timeouts yet.
    #[inline]
    pub(super) fn owes_timeouts(&self) -> bool {
        self.timeouts_at < self.dests.len()
    }

    /// Tells some more destinations: there may be a million, and packets wait meanwhile.
    pub(super) fn tell_dests_timeouts(&mut self) {
        let end = (self.timeouts_at + DESTS_TOLD).min(self.dests.len());
        for id in (self.timeouts_at as u32..end as u32).map(DestId) {
            let established = self.timeout(id, row_of(Protocol::Tcp), ESTABLISHED);
            if let Some(dest) = self.dests.get_mut(id.0 as usize) {
                dest.established = established;
            }
        }
        self.timeouts_at = end;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::command::Command;
    use crate::conn::{HashKey, Layout, region};
    use crate::counters::WorkerCounters;
    use crate::settings::{Settings, Timeouts};
    use crate::time::{Instant, Ticks};
    use crate::worker::{Limits, Worker};

    #[test]
    fn a_million_destinations_hear_of_a_timeout_step_by_step() {
        let limits = Limits {
            dests: 3 * DESTS_TOLD,
            ..Limits::default()
        };
        let layout = Layout::for_connections(1024);
        let memory = vec![0u8; layout.bytes() + 64].leak();
        let at = memory.as_ptr().align_offset(64);
        let memory = &mut memory[at..at + layout.bytes()];
        let key = HashKey([1, 2, 3, 4]);
        let shards = region::create(memory, layout, key, [0; 16], Ticks(0)).expect("new");
        let counters = Arc::new(WorkerCounters::new(limits.dests));
        let mut worker = Worker::new(shards, key, limits, counters, Settings::default());
        let known = |worker: &Worker, secs| {
            let ticks = time::secs(secs);
            let dests = worker.core.dests.iter();
            dests.filter(|dest| dest.established == ticks).count()
        };
        assert_eq!(known(&worker, 900), limits.dests);

        let tcp = |tcp| Settings {
            timeouts: Timeouts {
                tcp,
                ..Timeouts::default()
            },
            ..Settings::default()
        };
        let mut now = Instant::from_secs(1);
        worker.apply(now, Command::PutSettings(tcp(50)));
        assert_eq!(known(&worker, 50), DESTS_TOLD);
        // Another one before all have heard of the first.
        worker.apply(now, Command::PutSettings(tcp(60)));
        assert_eq!((known(&worker, 60), known(&worker, 50)), (DESTS_TOLD, 0));
        for _ in 0..20 {
            now = now + core::time::Duration::from_millis(1);
            worker.expire(now, 64);
        }
        assert_eq!(known(&worker, 60), limits.dests);
        assert!(!worker.core.owes_timeouts());
    }
}
