//! Which end of a packet is the client: a read-only table of virtual and real endpoints.
//!
//! Every packet asks it twice, for its source and its destination, so it is a small open
//! table: 8 bytes a slot for IPv4. Each worker has its own; control changes single endpoints in it, and
//! builds it anew when much changes.
//!
//! Port 0 stands for every port of an address: services on port 0, servers that keep the packet's
//! port. What marks may match is a set of address ranges. Only a table that has either asks for
//! them, and only about what is not in the table itself.

use crate::addr::{Addr, Endpoint, Family};
use crate::conn::hash::digest_v4;
use crate::route::Prefix;
use crate::steering::{Class, Steering};

/// Role of an endpoint: it is a virtual service's, and live.
pub const VIRTUAL: u8 = 1;
/// Role of an endpoint: it is a real server's whose replies pass through us (NAT).
pub const REAL: u8 = 2;
/// Role of an endpoint: a rule may give packets to it a mark that has a service.
pub const MARKED: u8 = 4;
/// Not a role: beside port 0 of an address whose TCP port 21 is virtual. Passive FTP data comes to
/// port 20 and to any unprivileged port (`ip_vs_service_find`).
const FTP_DATA: u8 = 8;
/// Not a role: packets of the endpoint are steered by more or less than their client's endpoint
/// ([`Steering`]).
pub const STEERED: u8 = 16;
/// Beside [`REAL`]: the server was not deleted. Others keep their role while they may have
/// connections, but are none to `nat_icmp_send` (`ip_vs_has_real_service`).
pub const LIVE: u8 = 32;
/// Role of an endpoint: it would be virtual, but packets to it are left to the host, and only those
/// from it are looked at (`backup_only`).
pub const SET_BACK: u8 = 64;
/// First port that needs no privilege (`ip_unprivileged_port_start`).
pub const UNPRIVILEGED: u16 = 1024;

/// Whether FTP data may come to this port of an address with FTP.
pub fn is_ftp_data(port: u16) -> bool {
    port == 20 || port >= UNPRIVILEGED
}

/// One entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleEntry {
    /// IP protocol number.
    pub protocol: u8,
    /// The endpoint; port 0 is every port.
    pub endpoint: Endpoint,
    /// [`VIRTUAL`] or [`SET_BACK`], [`REAL`], or both.
    pub roles: u8,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot6 {
    addr: [u8; 16],
    port: u16,
    protocol: u8,
    roles: u8,
}

impl Slot6 {
    fn is(&self, protocol: u8, addr: &Addr, port: u16) -> bool {
        self.addr == addr.octets() && self.port == port && self.protocol == protocol
    }
}

/// The table. Slots with roles 0 are empty.
#[derive(Clone, Debug)]
pub struct RoleTable {
    /// Bit `port % 4096` is set if any endpoint has such a port: mostly all that a client's end
    /// is asked.
    ports: [u64; PORT_WORDS],
    v4: Box<[u64]>,
    v6: Box<[Slot6]>,
    /// Slots in use, IPv4 and IPv6.
    used: [usize; 2],
    /// Whether an endpoint that is not in the table may have a role all the same.
    wide: bool,
    /// IPv4 and IPv6 addresses that may be marked: ends included, sorted, apart from each other.
    marked: [Box<[(u128, u128)]>; 2],
    /// Where the packets of each endpoint meet.
    steering: Steering,
}

const PORT_WORDS: usize = 64;

const TCP: u8 = 6;
const FTP: u16 = 21;

impl Default for RoleTable {
    fn default() -> RoleTable {
        RoleTable::build(&[])
    }
}

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline(always)]
fn word4(protocol: u8, addr: &Addr, port: u16) -> u64 {
    digest_v4(addr.bits_v4(), port) << 16 | u64::from(protocol) << 8
}

#[inline(always)]
fn spread(word: u64) -> usize {
    (word.wrapping_mul(MIX) >> 32) as usize
}

#[inline(always)]
fn spread6(protocol: u8, addr: &Addr, port: u16) -> usize {
    let b = addr.octets();
    let high = u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    let low = u64::from_be_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]);
    spread(
        high.wrapping_mul(MIX).rotate_left(23) ^ low ^ u64::from(port) << 8 ^ u64::from(protocol),
    )
}

impl RoleTable {
    /// Builds a table; roles of equal endpoints are joined.
    pub fn build(entries: &[RoleEntry]) -> RoleTable {
        RoleTable::build_with_marks(entries, &[])
    }

    /// As [`RoleTable::build`], with the destinations that rules of marks may match.
    pub fn build_with_marks(entries: &[RoleEntry], marked: &[Prefix]) -> RoleTable {
        RoleTable::build_steered(entries, marked, Steering::default())
    }

    /// As [`RoleTable::build_with_marks`], for several workers.
    pub fn build_steered(
        entries: &[RoleEntry],
        marked: &[Prefix],
        steering: Steering,
    ) -> RoleTable {
        let is_ftp =
            |e: &&RoleEntry| e.protocol == TCP && e.endpoint.port == FTP && e.roles & VIRTUAL != 0;
        let data = entries.iter().filter(is_ftp).map(|e| RoleEntry {
            endpoint: Endpoint::new(e.endpoint.addr, 0),
            roles: FTP_DATA,
            ..*e
        });
        let mut all: Vec<RoleEntry> = entries.iter().copied().chain(data).collect();
        for e in all.iter_mut().filter(|e| e.roles != 0) {
            let Endpoint { addr, port } = e.endpoint;
            if steering.class(e.protocol, &addr, port) != Class::default() {
                e.roles |= STEERED;
            }
        }
        let wide = !marked.is_empty() || all.iter().any(|e| e.roles != 0 && e.endpoint.port == 0);
        let mut table = RoleTable::exact(&all);
        table.steering = steering;
        if wide {
            table.wide = true;
            table.marked = [Family::V4, Family::V6].map(|family| ranges(marked, family));
            // What is in the table is not asked for anywhere else.
            for e in &mut all {
                let v4 = e.endpoint.addr.family() == Family::V4;
                let Endpoint { addr, port } = e.endpoint;
                e.roles |= table.wide_roles(v4, e.protocol, &addr, port);
            }
            table = RoleTable {
                ports: [u64::MAX; PORT_WORDS],
                wide,
                marked: table.marked,
                steering: table.steering,
                ..RoleTable::exact(&all)
            };
        }
        table
    }

    /// Where the packets of each endpoint meet.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    fn exact(entries: &[RoleEntry]) -> RoleTable {
        let of = |family| {
            let n = entries
                .iter()
                .filter(|e| e.endpoint.addr.family() == family)
                .count();
            // At most a quarter full: a miss, the common answer, ends at the first slot.
            (n * 4).next_power_of_two().max(64)
        };
        let mut v4 = vec![0u64; of(Family::V4)].into_boxed_slice();
        let mut v6 = vec![Slot6::default(); of(Family::V6)].into_boxed_slice();
        let mut ports = [0; PORT_WORDS];
        let mut used = [0; 2];
        for e in entries.iter().filter(|e| e.roles != 0) {
            let Endpoint { addr, port } = e.endpoint;
            ports[usize::from(port >> 6) % PORT_WORDS] |= 1 << (port & 63);
            if addr.family() == Family::V4 {
                let word = word4(e.protocol, &addr, port);
                let mut at = spread(word) & (v4.len() - 1);
                while v4[at] != 0 && v4[at] & !0xff != word {
                    at = (at + 1) & (v4.len() - 1);
                }
                used[0] += usize::from(v4[at] == 0);
                v4[at] |= word | u64::from(e.roles);
            } else {
                let mut at = spread6(e.protocol, &addr, port) & (v6.len() - 1);
                let is = |s: &Slot6| {
                    s.addr == addr.octets() && s.port == port && s.protocol == e.protocol
                };
                while v6[at].roles != 0 && !is(&v6[at]) {
                    at = (at + 1) & (v6.len() - 1);
                }
                used[1] += usize::from(v6[at].roles == 0);
                v6[at] = Slot6 {
                    addr: addr.octets(),
                    port,
                    protocol: e.protocol,
                    roles: v6[at].roles | e.roles,
                };
            }
        }
        RoleTable {
            ports,
            v4,
            v6,
            used,
            wide: false,
            marked: Default::default(),
            steering: Steering::default(),
        }
    }

    /// Endpoints that may be added, IPv4 and IPv6, before the table is half full.
    pub fn room(&self) -> [usize; 2] {
        let room = |slots: usize, used| (slots / 2).saturating_sub(used);
        [
            room(self.v4.len(), self.used[0]),
            room(self.v6.len(), self.used[1]),
        ]
    }

    /// Gives an endpoint these roles and no others; none take it out. False if there is no room.
    ///
    /// Not for port 0, nor for port 21 of TCP: what they mean for other ports was mixed in when the
    /// table was built.
    #[must_use]
    pub fn put(&mut self, entry: &RoleEntry) -> bool {
        let Endpoint { addr, port } = entry.endpoint;
        let is_v4 = addr.family() == Family::V4;
        if entry.roles == 0 {
            if is_v4 {
                self.take_v4(word4(entry.protocol, &addr, port));
            } else {
                self.take_v6(entry.protocol, &addr, port);
            }
            return true;
        }
        let is_new = self.slot(is_v4, entry.protocol, &addr, port) == 0;
        if is_new && self.room()[usize::from(!is_v4)] == 0 {
            return false;
        }
        let mut roles = entry.roles;
        if self.wide {
            roles |= self.wide_roles(is_v4, entry.protocol, &addr, port);
        }
        self.used[usize::from(!is_v4)] += usize::from(is_new);
        self.ports[usize::from(port >> 6) % PORT_WORDS] |= 1 << (port & 63);
        if is_v4 {
            let word = word4(entry.protocol, &addr, port);
            let at = self.find_v4(word);
            self.v4[at] = word | u64::from(roles);
        } else {
            let at = self.find_v6(entry.protocol, &addr, port);
            self.v6[at] = Slot6 {
                addr: addr.octets(),
                port,
                protocol: entry.protocol,
                roles,
            };
        }
        true
    }

    /// The slot of an endpoint, or the empty one where it would be.
    fn find_v4(&self, word: u64) -> usize {
        let mask = self.v4.len() - 1;
        let mut at = spread(word) & mask;
        while self.v4[at] != 0 && self.v4[at] & !0xff != word {
            at = (at + 1) & mask;
        }
        at
    }

    fn find_v6(&self, protocol: u8, addr: &Addr, port: u16) -> usize {
        let mask = self.v6.len() - 1;
        let mut at = spread6(protocol, addr, port) & mask;
        while self.v6[at].roles != 0 && !self.v6[at].is(protocol, addr, port) {
            at = (at + 1) & mask;
        }
        at
    }

    /// Empties a slot. Those behind it that would not be found any more move up.
    fn take_v4(&mut self, word: u64) {
        let mask = self.v4.len() - 1;
        let mut hole = self.find_v4(word);
        if self.v4[hole] == 0 {
            return;
        }
        self.used[0] -= 1;
        let mut at = (hole + 1) & mask;
        while self.v4[at] != 0 {
            let home = spread(self.v4[at] & !0xff) & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.v4[hole] = self.v4[at];
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.v4[hole] = 0;
    }

    fn take_v6(&mut self, protocol: u8, addr: &Addr, port: u16) {
        let mask = self.v6.len() - 1;
        let mut hole = self.find_v6(protocol, addr, port);
        if self.v6[hole].roles == 0 {
            return;
        }
        self.used[1] -= 1;
        let mut at = (hole + 1) & mask;
        while self.v6[at].roles != 0 {
            let Slot6 {
                addr,
                port,
                protocol,
                ..
            } = self.v6[at];
            let home = spread6(protocol, &Addr::v6(addr), port) & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.v6[hole] = self.v6[at];
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.v6[hole] = Slot6::default();
    }

    /// Roles of an endpoint that is not in the table.
    #[cold]
    fn wide_roles(&self, is_v4: bool, protocol: u8, addr: &Addr, port: u16) -> u8 {
        let any = self.slot(is_v4, protocol, addr, 0);
        let mut roles = any & (VIRTUAL | REAL);
        if any & FTP_DATA != 0 && is_ftp_data(port) {
            roles |= VIRTUAL;
        }
        if self.is_marked(is_v4, addr) {
            roles |= MARKED;
        }
        if roles != 0 && self.steering.class(protocol, addr, port) != Class::default() {
            roles |= STEERED;
        }
        roles
    }

    fn is_marked(&self, is_v4: bool, addr: &Addr) -> bool {
        let bits = u128::from_be_bytes(addr.octets());
        let ranges = &self.marked[usize::from(!is_v4)];
        let at = ranges.partition_point(|(first, _)| *first <= bits);
        at.checked_sub(1)
            .and_then(|i| ranges.get(i))
            .is_some_and(|(_, last)| bits <= *last)
    }

    /// Whether a real server listens on this very port (`ip_vs_has_real_service`). One of FTP has
    /// the role on every port.
    pub fn is_server_port(&self, is_v4: bool, protocol: u8, addr: &Addr, port: u16) -> bool {
        port != 0 && self.slot(is_v4, protocol, addr, port) & LIVE != 0
    }

    /// What is beside an endpoint in the table itself, 0 for nothing.
    fn slot(&self, is_v4: bool, protocol: u8, addr: &Addr, port: u16) -> u8 {
        if is_v4 {
            self.slot_v4(digest_v4(addr.bits_v4(), port) << 16 | u64::from(protocol) << 8)
        } else {
            self.slot_v6(protocol, addr, port)
        }
    }

    #[inline(always)]
    fn slot_v4(&self, word: u64) -> u8 {
        let mut at = spread(word);
        loop {
            let Some(&slot) = self.v4.get(at & (self.v4.len() - 1)) else {
                return 0;
            };
            if slot & !0xff == word {
                return slot as u8;
            }
            if slot == 0 {
                return 0;
            }
            at += 1;
        }
    }

    #[inline(always)]
    fn slot_v6(&self, protocol: u8, addr: &Addr, port: u16) -> u8 {
        let octets = addr.octets();
        let mut at = spread6(protocol, addr, port);
        loop {
            let Some(slot) = self.v6.get(at & (self.v6.len() - 1)) else {
                return 0;
            };
            if slot.roles == 0 {
                return 0;
            }
            if slot.addr == octets && slot.port == port && slot.protocol == protocol {
                return slot.roles;
            }
            at += 1;
        }
    }

    /// Whether any endpoint may have this port.
    #[inline(always)]
    fn may_have(&self, port: u16) -> bool {
        self.ports[usize::from(port >> 6) % PORT_WORDS] >> (port & 63) & 1 != 0
    }

    /// Roles of an IPv4 endpoint as [`digest_v4`] makes it, 0 for none.
    #[inline(always)]
    pub fn of_v4(&self, protocol: u8, endpoint: u64) -> u8 {
        if !self.may_have(endpoint as u16) {
            return 0;
        }
        // Most of what is in the table is where it belongs.
        let word = endpoint << 16 | u64::from(protocol) << 8;
        match self.v4.get(spread(word) & (self.v4.len() - 1)) {
            Some(slot) if slot ^ word <= 0xff => *slot as u8,
            _ => self.of_v4_elsewhere(protocol, endpoint),
        }
    }

    /// The same where the first slot tells nothing.
    #[inline(never)]
    fn of_v4_elsewhere(&self, protocol: u8, endpoint: u64) -> u8 {
        let roles = self.slot_v4(endpoint << 16 | u64::from(protocol) << 8);
        if roles == 0 && self.wide {
            let addr = Addr::v4(((endpoint >> 16) as u32).to_be_bytes());
            return self.wide_roles(true, protocol, &addr, endpoint as u16);
        }
        roles
    }

    /// Roles of an endpoint of the given family, 0 for none.
    #[inline(always)]
    pub fn of(&self, is_v4: bool, protocol: u8, addr: &Addr, port: u16) -> u8 {
        if is_v4 {
            return self.of_v4(protocol, digest_v4(addr.bits_v4(), port));
        }
        if !self.may_have(port) {
            return 0;
        }
        let roles = self.slot_v6(protocol, addr, port);
        if roles == 0 && self.wide {
            return self.wide_roles(false, protocol, addr, port);
        }
        roles
    }
}

/// The addresses of the prefixes of a family as ranges that do not touch.
fn ranges(prefixes: &[Prefix], family: Family) -> Box<[(u128, u128)]> {
    let mut all: Vec<(u128, u128)> = prefixes
        .iter()
        .filter(|p| p.addr().family() == family)
        .map(|p| {
            let bits = match family {
                Family::V4 => 32,
                Family::V6 => 128,
            };
            let first = u128::from_be_bytes(p.addr().octets());
            let hosts = 1u128
                .checked_shl(u32::from(bits - p.len()))
                .map_or(u128::MAX, |n| n - 1);
            (first, first | hosts)
        })
        .collect();
    all.sort_unstable();
    let mut joined: Vec<(u128, u128)> = Vec::with_capacity(all.len());
    for (first, last) in all {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_list() {
        let mut entries = Vec::new();
        for i in 0..500u32 {
            let addr = if i % 3 == 0 {
                let mut b = [0u8; 16];
                b[0] = 0xfd;
                b[12..].copy_from_slice(&i.to_be_bytes());
                Addr::v6(b)
            } else {
                Addr::v4((0x0a00_0000 + i / 7).to_be_bytes())
            };
            let roles = if i % 2 == 0 { VIRTUAL } else { REAL };
            entries.push(RoleEntry {
                protocol: if i % 5 == 0 { 17 } else { 6 },
                endpoint: Endpoint::new(addr, 80 + (i % 11) as u16),
                roles,
            });
        }
        let table = RoleTable::build(&entries);
        for e in &entries {
            let want = entries
                .iter()
                .filter(|o| o.endpoint == e.endpoint && o.protocol == e.protocol)
                .fold(0, |acc, o| acc | o.roles);
            let v4 = e.endpoint.addr.family() == Family::V4;
            assert_eq!(
                table.of(v4, e.protocol, &e.endpoint.addr, e.endpoint.port),
                want
            );
            assert_eq!(table.of(v4, e.protocol, &e.endpoint.addr, 9999), 0);
        }
    }

    fn roles(table: &RoleTable, protocol: u8, endpoint: &str) -> u8 {
        let at: core::net::SocketAddr = endpoint.parse().unwrap();
        table.of(at.is_ipv4(), protocol, &at.ip().into(), at.port())
    }

    fn entry(protocol: u8, endpoint: &str, roles: u8) -> RoleEntry {
        let at: core::net::SocketAddr = endpoint.parse().unwrap();
        RoleEntry {
            protocol,
            endpoint: Endpoint::new(at.ip().into(), at.port()),
            roles,
        }
    }

    #[test]
    fn port_zero_is_every_port() {
        let table = RoleTable::build(&[
            entry(6, "10.0.0.1:0", VIRTUAL),
            entry(6, "10.0.0.1:80", REAL),
            entry(17, "[fd00::1]:0", REAL),
        ]);
        assert_eq!(roles(&table, 6, "10.0.0.1:443"), VIRTUAL);
        assert_eq!(roles(&table, 6, "10.0.0.1:0"), VIRTUAL);
        assert_eq!(roles(&table, 6, "10.0.0.1:80"), VIRTUAL | REAL);
        assert_eq!(roles(&table, 17, "10.0.0.1:443"), 0);
        assert_eq!(roles(&table, 6, "10.0.0.2:443"), 0);
        assert_eq!(roles(&table, 17, "[fd00::1]:5060"), REAL);
    }

    #[test]
    fn ftp_takes_its_data_ports() {
        let table = RoleTable::build(&[entry(6, "10.0.0.1:21", VIRTUAL)]);
        for (port, want) in [
            (20, VIRTUAL),
            (22, 0),
            (1023, 0),
            (1024, VIRTUAL),
            (65535, VIRTUAL),
        ] {
            let got = roles(&table, 6, &format!("10.0.0.1:{port}")) & VIRTUAL;
            assert_eq!(got, want, "{port}");
        }
        assert_eq!(roles(&table, 6, "10.0.0.2:1024"), 0);
        // Plain services cost nothing more.
        assert!(!RoleTable::build(&[entry(6, "10.0.0.1:80", VIRTUAL)]).wide);
    }

    proptest::proptest! {
        /// One by one as all at once, also where every port of an address has a role.
        #[test]
        fn single_changes(
            first in proptest::collection::vec((0u8..40, 0u8..3), 0..30),
            changes in proptest::collection::vec((0u8..40, 0u8..4), 0..60),
            wide in proptest::bool::ANY,
        ) {
            let endpoint = |n: u8| if n.is_multiple_of(2) {
                format!("10.0.{}.1:{}", n % 5, 80 + u16::from(n / 5))
            } else {
                format!("[fd00::{}]:{}", n % 5, 80 + u16::from(n / 5))
            };
            let every_port = [entry(6, "10.0.1.1:0", VIRTUAL), entry(6, "[fd00::3]:0", REAL)];
            let fixed = if wide { &every_port[..] } else { &[] };
            let all = |now: &std::collections::BTreeMap<u8, u8>| {
                let named = now.iter().map(|(&n, &roles)| entry(6, &endpoint(n), roles));
                named.chain(fixed.iter().copied()).collect::<Vec<_>>()
            };
            let mut now: std::collections::BTreeMap<u8, u8> = first.into_iter().collect();
            let mut table = RoleTable::build(&all(&now));
            let mut room = table.room();
            for (n, roles) in changes {
                let same = &mut room[usize::from(n % 2)];
                *same = same.saturating_sub(1);
                let left = table.room();
                proptest::prop_assert!(left[0] >= room[0] && left[1] >= room[1]);
                proptest::prop_assert!(table.put(&entry(6, &endpoint(n), roles)));
                now.insert(n, roles);
            }
            let fresh = RoleTable::build(&all(&now));
            for n in 0..40 {
                let at = endpoint(n);
                proptest::prop_assert_eq!(super::tests::roles(&table, 6, &at), super::tests::roles(&fresh, 6, &at), "{}", at);
            }
        }

        /// Against the list of prefixes itself.
        #[test]
        fn marked_addresses(
            prefixes in proptest::collection::vec((0u32..64, 20u8..=32, proptest::bool::ANY), 0..12),
            probes in proptest::collection::vec(0u32..1 << 15, 1..40),
        ) {
            let addr = |n: u32, v6: bool| if v6 {
                Addr::v6((u128::from(n) << 96).to_be_bytes())
            } else {
                Addr::v4(n.to_be_bytes())
            };
            let prefixes: Vec<Prefix> = prefixes
                .iter()
                .map(|&(n, len, v6)| Prefix::new(addr(n << 9, v6), len).unwrap())
                .collect();
            let table = RoleTable::build_with_marks(&[entry(6, "0.0.1.1:80", REAL)], &prefixes);
            for n in probes {
                for v6 in [false, true] {
                    let a = addr(n, v6);
                    let want = if prefixes.iter().any(|p| p.contains(a)) { MARKED } else { 0 };
                    let got = table.of(!v6, 6, &a, 80) & MARKED;
                    proptest::prop_assert_eq!(got, want, "{} in {:?}", a, prefixes);
                }
            }
        }
    }
}
