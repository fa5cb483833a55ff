//! The worker's side of leases: with none ended, one comparison a burst.
//!
//! While one has, each frame is looked at before and after the walk: what comes in for such an
//! address is dropped (packets, ARP and neighbour discovery), and what would leave in its name, too,
//! be it forwarded or the kernel's.

use std::sync::Arc;

use super::{Core, Worker};
use crate::addr::Addr;
use crate::lease::Leases;
use crate::packet::{DropReason, Packet, PuntClass, Verdict};
use crate::time::Instant;

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Router solicitation to redirect (RFC 4861, 4): how hosts find each other, whatever they accept.
const DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;

/// A worker's leases.
pub(super) struct Watch {
    leases: Arc<Leases>,
    /// When the next lease may end, or the board is looked at again.
    look_at: Instant,
}

impl Default for Watch {
    /// Nothing to look out for, ever.
    fn default() -> Watch {
        Watch {
            leases: Arc::new(Leases::none()),
            look_at: Instant(u64::MAX),
        }
    }
}

impl Watch {
    /// Goes by other leases; returns the old ones.
    pub fn put(&mut self, leases: Arc<Leases>) -> Arc<Leases> {
        self.look_at = match leases.is_empty() {
            true => Instant(u64::MAX),
            false => Instant(0),
        };
        core::mem::replace(&mut self.leases, leases)
    }

    /// Whether it is time to look.
    #[inline(always)]
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.look_at
    }

    /// Looks; whether a lease has ended.
    #[cold]
    fn look(&mut self, now: Instant) -> bool {
        self.look_at = self.leases.next_look(now);
        self.is_due(now)
    }

    /// The same leases, for who asks more of them.
    pub fn leases(&self) -> Arc<Leases> {
        Arc::clone(&self.leases)
    }

    /// Whether one of a frame's addresses is without lease: those that it is for, or those that it
    /// comes from.
    fn is_without(&self, now: Instant, frame: &[u8], comes: bool) -> bool {
        let mut found = false;
        for addr in named(frame, comes).into_iter().flatten() {
            found |= self.leases.has_ended(addr, now);
        }
        found
    }
}

/// The Ethernet type of a frame, behind a VLAN tag if there is one, and what follows it.
fn payload(frame: &[u8]) -> (Option<u16>, &[u8]) {
    let kind = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    let (kind, packet) = match kind(12) {
        Some(VLAN) => (kind(16), frame.get(18..)),
        other => (other, frame.get(14..)),
    };
    (kind, packet.unwrap_or_default())
}

/// Addresses that a frame is for (`comes`), or that it is from. An ARP or neighbour message is for
/// the address it asks or tells about, and from the one that it says the sender has.
fn named(frame: &[u8], comes: bool) -> [Option<Addr>; 2] {
    let (kind, packet) = payload(frame);
    let v4 = |at: usize| Some(Addr::v4(*packet.get(at..)?.first_chunk()?));
    let v6 = |at: usize| Some(Addr::v6(*packet.get(at..)?.first_chunk()?));
    match kind {
        Some(ARP) if comes => [v4(24), None],
        Some(ARP) => [v4(14), None],
        Some(IPV4) => [v4(if comes { 16 } else { 12 }), None],
        Some(IPV6) => {
            let target = match (packet.get(6), packet.get(40)) {
                (Some(&ICMPV6), Some(&SOLICITATION)) if comes => v6(48),
                (Some(&ICMPV6), Some(&ADVERTISEMENT)) if !comes => v6(48),
                _ => None,
            };
            [v6(if comes { 24 } else { 8 }), target]
        }
        _ => [None, None],
    }
}

impl Core {
    /// Hands a packet that no service takes to the kernel, unless it is for an address that only
    /// services may use. ARP and neighbour discovery are no packets for an address in this sense.
    pub(super) fn punt_unclaimed(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        class: PuntClass,
    ) -> Verdict {
        match is_closed(&self.leases, packet.frame()) {
            true => self.dropped(DropReason::NotAccepted),
            false => self.punt(now, packet.port, class),
        }
    }
}

/// Whether a frame is an IP packet for an address that is for services alone.
fn is_closed(leases: &Leases, frame: &[u8]) -> bool {
    let (kind, packet) = payload(frame);
    let is_discovery = packet.get(6) == Some(&ICMPV6)
        && packet.get(40).is_some_and(|kind| DISCOVERY.contains(kind));
    let is_packet = match kind {
        Some(IPV4) => true,
        Some(IPV6) => !is_discovery,
        _ => false,
    };
    let [to, _] = named(frame, true);
    is_packet && to.is_some_and(|to| leases.is_closed(to))
}

impl Worker {
    /// As [`Worker::process`], at a time to look at the leases.
    #[cold]
    pub(super) fn process_watched(
        &mut self,
        now: Instant,
        packets: &mut [Packet<'_>],
        out: &mut [Verdict],
    ) {
        if !self.watch.look(now) {
            return self.process_free(now, packets, out);
        }
        for (packet, verdict) in packets.iter_mut().zip(out) {
            let (one, verdict) = (
                core::slice::from_mut(packet),
                core::slice::from_mut(verdict),
            );
            self.process_one_watched(now, one, verdict);
        }
    }

    fn process_one_watched(
        &mut self,
        now: Instant,
        one: &mut [Packet<'_>],
        verdict: &mut [Verdict],
    ) {
        let is_without = |watch: &Watch, one: &[Packet<'_>], comes| {
            one.first()
                .is_some_and(|packet| watch.is_without(now, packet.frame(), comes))
        };
        if is_without(&self.watch, one, true) {
            verdict.fill(self.core.dropped(DropReason::NoLease));
            return;
        }
        self.process_free(now, one, verdict);
        for (packet, verdict) in one.iter().zip(verdict) {
            *verdict = self.leaving(now, packet, *verdict);
        }
    }

    /// A packet does not leave in the name of an address without lease.
    fn leaving(&self, now: Instant, packet: &Packet<'_>, verdict: Verdict) -> Verdict {
        let leaves = matches!(verdict, Verdict::Transmit(_) | Verdict::Fragment(..));
        match leaves && self.watch.is_without(now, packet.frame(), false) {
            true => self.core.dropped(DropReason::NoLease),
            false => verdict,
        }
    }

    /// What becomes of a packet that another worker handed over on its way here, for which
    /// `verdict` was found.
    pub(super) fn watched(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        verdict: Verdict,
    ) -> Verdict {
        match self.watch.is_due(now) && self.watch.look(now) {
            true => self.leaving(now, packet, verdict),
            false => verdict,
        }
    }

    /// Whether a frame of the kernel's must not leave: it is in the name of an address without
    /// lease.
    pub(super) fn is_withheld(&mut self, now: Instant, packet: &Packet<'_>) -> bool {
        self.watch.is_due(now)
            && self.watch.look(now)
            && self.watch.is_without(now, packet.frame(), false)
    }
}
