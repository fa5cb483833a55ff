//! Destinations as a worker sees them on the packet path, and the counts of their connections.

use crate::addr::{Addr, Family};
use crate::changes::{Changes, Watch};
use crate::counters::{DestCounters, WorkerCounters};
use crate::packet::PortId;
use crate::route::ResolvedHop;
use crate::service::{
    DestId, Destination, ForwardingMethod, Tunnel, TunnelChecksum, TunnelKind, Withdrawal,
};
use crate::wire::tunnel::{self, Front};
use crate::wire::{ethernet, gre, ipv4};

/// What the packet path needs of a destination.
#[derive(Clone, Copy, Debug)]
pub struct DestState {
    /// Its address.
    pub addr: Addr,
    /// Its port, 0 to keep the packet's.
    pub port: u16,
    /// How it is reached by new connections.
    pub method: ForwardingMethod,
    /// Source of outer headers towards it.
    pub source: Addr,
    /// Neighbour that its packets go to, valid while `generation` is the router's.
    pub hop: u32,
    /// Route generation of `hop`.
    pub generation: u32,
    /// Largest IP packet on the way to it.
    pub mtu: u16,
    /// Timeout of its established TCP connections, ticks: its service's own or the common one.
    pub established: u32,
    /// Still part of its service.
    pub available: bool,
    /// Out of service although it is part of it.
    pub withdrawn: Option<Withdrawal>,
    /// Its connections go on as they are: it is available and not withdrawn.
    pub steady: bool,
    /// Its service has timeouts of its own.
    pub has_own_timeouts: bool,
    /// Its service keeps no connections of UDP.
    pub one_packet: bool,
    /// Effective weight.
    pub weight: u32,
    /// How its packets are wrapped if they are.
    pub tunnel: Tunnel,
    upper: u32,
    lower: u32,
}

impl Default for DestState {
    fn default() -> DestState {
        DestState {
            addr: Addr::UNSPECIFIED,
            port: 0,
            method: ForwardingMethod::Local,
            source: Addr::UNSPECIFIED,
            hop: u32::MAX,
            generation: 0,
            mtu: 0,
            established: 0,
            available: false,
            withdrawn: None,
            steady: false,
            has_own_timeouts: false,
            one_packet: false,
            weight: 0,
            tunnel: Tunnel::default(),
            upper: 0,
            lower: 0,
        }
    }
}

impl DestState {
    /// Takes over what control configured and sets the overload flag as an edit does: set at or
    /// above the upper threshold, cleared below the lower one, kept between them. `others` is the
    /// number of connections that other workers have to it.
    pub fn configure(
        &mut self,
        dest: &Destination,
        withdrawn: Option<Withdrawal>,
        counters: &DestCounters,
        others: u32,
    ) {
        self.addr = dest.endpoint.addr;
        self.port = dest.endpoint.port;
        self.method = dest.method;
        self.generation = 0;
        self.available = true;
        self.withdrawn = withdrawn;
        self.steady = withdrawn.is_none();
        self.weight = dest.weight;
        self.tunnel = dest.tunnel;
        self.upper = dest.upper;
        self.lower = if dest.lower == 0 {
            dest.upper - dest.upper / 4
        } else {
            dest.lower
        };
        let total = counters.total.get().saturating_add(others);
        if self.upper == 0 || total < self.lower {
            counters.overloaded.set(0);
        } else if total >= self.upper {
            counters.overloaded.set(1);
        }
    }
}

impl DestState {
    /// It is no part of its service any more.
    pub fn leave(&mut self) {
        (self.available, self.steady, self.withdrawn) = (false, false, None);
    }
}

/// The way out to a destination with every question answered: what a packet of an established
/// connection needs, one cache line. Derived from [`DestState`] and the router, and valid while
/// `epoch` is the worker's.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Exit {
    /// Destination and source MAC, as they begin a frame.
    pub macs: [u8; 12],
    /// Where frames leave.
    pub port: PortId,
    /// VLAN id of the tag that the NIC puts in, 0 for none.
    pub tci: u16,
    /// Longest IP packet that may go as it is; 0 if none may without further questions.
    pub most: u16,
    /// Longest IPv4 packet that may go in an IPv4 packet (IP in IP, GRE without checksum); 0 if
    /// none may.
    pub most_inside: u16,
    /// Bytes of [`Exit::shim`] in use, 0 or 4.
    pub shim_len: u16,
    /// When it was made.
    pub epoch: u32,
    /// Timeout of established connections, ticks.
    pub established: u32,
    /// The outer header.
    pub front: Front,
    /// What stands between outer and inner header.
    pub shim: [u8; 4],
}

const _: () = assert!(size_of::<Exit>() == 64);

impl Exit {
    /// None, of no epoch.
    pub const NONE: Exit = Exit {
        macs: [0; 12],
        port: PortId(0),
        tci: 0,
        most: 0,
        most_inside: 0,
        shim_len: 0,
        epoch: 0,
        established: 0,
        front: Front::EMPTY,
        shim: [0; 4],
    };

    /// The way to an available destination whose next hop is `hop`; an IP packet on it has at
    /// most `mtu` bytes, an outer one at most `path_mtu`.
    pub fn new(dest: &DestState, hop: &ResolvedHop, mtu: u16, path_mtu: u16, epoch: u32) -> Exit {
        let mut exit = Exit {
            macs: hop.macs,
            port: hop.port,
            tci: hop.tci,
            most: mtu,
            epoch,
            established: dest.established,
            ..Exit::NONE
        };
        let is_v4 = dest.addr.family() == Family::V4 && dest.source.family() == Family::V4;
        let (shim_len, protocol) = match (dest.tunnel.kind, dest.tunnel.checksum) {
            (TunnelKind::IpIp, _) => (0, tunnel::IPV4_INSIDE),
            (TunnelKind::Gre, TunnelChecksum::None) => (4, gre::PROTOCOL),
            _ => return exit,
        };
        let inside = path_mtu.saturating_sub(ipv4::HEADER_LEN as u16 + shim_len);
        if !is_v4 || inside < ipv4::MIN_MTU {
            return exit;
        }
        exit.most_inside = inside;
        exit.shim_len = shim_len;
        let [high, low] = ethernet::TYPE_IPV4.to_be_bytes();
        exit.shim = [0, 0, high, low];
        exit.front = Front::new(dest.source.octets_v4(), dest.addr.octets_v4(), protocol);
        exit
    }
}

/// Counts a new connection (`ip_vs_bind_dest`). `scheduled`: it was chosen here, not synced.
pub fn bind(
    dests: &[DestState],
    counters: &WorkerCounters,
    changes: &Changes,
    id: DestId,
    scheduled: bool,
) {
    let Some(c) = counters.dest(id) else { return };
    let total = c.total.get().saturating_add(1);
    c.total.set(total);
    if scheduled {
        c.conns.add(1);
    }
    let upper = dests.get(id.0 as usize).map_or(0, |d| d.upper);
    if upper != 0 && total.saturating_add(changes.others(id).total) >= upper {
        c.overloaded.set(1);
        changes.note(id, Watch::Usable);
    }
    changes.note(id, Watch::Counts);
}

/// Counts the end of a connection (`ip_vs_unbind_dest`).
pub fn unbind(
    dests: &[DestState],
    counters: &WorkerCounters,
    changes: &Changes,
    id: DestId,
    was_active: bool,
) {
    let Some(c) = counters.dest(id) else { return };
    let total = c.total.get().saturating_sub(1);
    c.total.set(total);
    if was_active {
        c.active.set(c.active.get().saturating_sub(1));
    }
    let lower = dests.get(id.0 as usize).map_or(0, |d| d.lower);
    let all = total.saturating_add(changes.others(id).total);
    if (all < lower || lower == 0) && c.overloaded.get() != 0 {
        c.overloaded.set(0);
        changes.note(id, Watch::Usable);
    }
    changes.note(id, Watch::Counts);
}

/// Takes over what other workers told of their connections: thresholds go by the sum.
pub fn heard(dests: &[DestState], counters: &WorkerCounters, changes: &Changes, id: DestId) {
    let Some(c) = counters.dest(id) else { return };
    let all = c.total.get().saturating_add(changes.others(id).total);
    let bounds = dests
        .get(id.0 as usize)
        .map_or((0, 0), |d| (d.upper, d.lower));
    let is_over = match bounds {
        (1.., lower) if all < lower => 0,
        (upper @ 1.., _) if all >= upper => 1,
        _ => c.overloaded.get(),
    };
    if is_over != c.overloaded.get() {
        c.overloaded.set(is_over);
        changes.tell_scheduler(id, Watch::Usable);
    }
    changes.tell_scheduler(id, Watch::Counts);
}

/// Counts a connection that became active or inactive.
pub fn turn(counters: &WorkerCounters, changes: &Changes, id: DestId, active: bool) {
    let Some(c) = counters.dest(id) else { return };
    let n = c.active.get();
    c.active.set(if active {
        n.saturating_add(1)
    } else {
        n.saturating_sub(1)
    });
    changes.note(id, Watch::Counts);
}

/// Counts a new template. Templates are no connections: thresholds do not see them.
pub fn bind_template(counters: &DestCounters) {
    counters.persistent.set(counters.persistent.get() + 1);
}

/// Counts the end of a template.
pub fn unbind_template(counters: &WorkerCounters, id: DestId) {
    if let Some(c) = counters.dest(id) {
        c.persistent.set(c.persistent.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Endpoint;

    #[test]
    fn the_overload_flag_has_hysteresis() {
        let counters = WorkerCounters::new(1);
        let dest = Destination {
            id: DestId(0),
            endpoint: Endpoint::new(Addr::v4([10, 0, 2, 11]), 80),
            method: ForwardingMethod::Masquerade,
            weight: 1,
            last_weight: 1,
            upper: 4,
            lower: 0,
            tunnel: Tunnel::default(),
        };
        let mut dests = [DestState::default()];
        let changes = Changes::new(1, 1);
        let c = &counters.dests[0];
        dests[0].configure(&dest, None, c, 0);
        for n in 1..=4 {
            assert_eq!(c.overloaded.get(), 0, "before connection {n}");
            bind(&dests, &counters, &changes, DestId(0), true);
        }
        assert_eq!(c.overloaded.get(), 1);
        unbind(&dests, &counters, &changes, DestId(0), false);
        assert_eq!(c.overloaded.get(), 1, "3 is not below 4 - 4/4");
        unbind(&dests, &counters, &changes, DestId(0), false);
        assert_eq!(c.overloaded.get(), 0);
    }
}
