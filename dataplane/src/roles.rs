//! Which end of a packet is the client: a read-only table of virtual and real endpoints.
//!
//! Every packet asks it twice, for its source and its destination, so it is a small open
//! table: 8 bytes a slot for IPv4. Control builds it anew on every change and workers share it.

use crate::addr::{Addr, Endpoint, Family};
use crate::conn::hash::digest_v4;

/// Role of an endpoint: it is a virtual service's, and live.
pub const VIRTUAL: u8 = 1;
/// Role of an endpoint: it is a real server's whose replies pass through us (NAT).
pub const REAL: u8 = 2;

/// One entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleEntry {
    /// IP protocol number.
    pub protocol: u8,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// [`VIRTUAL`], [`REAL`] or both.
    pub roles: u8,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot6 {
    addr: [u8; 16],
    port: u16,
    protocol: u8,
    roles: u8,
}

/// The table. Slots with roles 0 are empty.
#[derive(Debug)]
pub struct RoleTable {
    /// Bit `port % 4096` is set if any endpoint has such a port: mostly all that a client's end
    /// is asked.
    ports: [u64; PORT_WORDS],
    v4: Box<[u64]>,
    v6: Box<[Slot6]>,
}

const PORT_WORDS: usize = 64;

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
        let of = |family| {
            let n = entries
                .iter()
                .filter(|e| e.endpoint.addr.family() == family)
                .count();
            // At most a quarter full: a miss, the common answer, ends at the first slot.
            (n * 4).next_power_of_two().max(8)
        };
        let mut v4 = vec![0u64; of(Family::V4)].into_boxed_slice();
        let mut v6 = vec![Slot6::default(); of(Family::V6)].into_boxed_slice();
        let mut ports = [0; PORT_WORDS];
        for e in entries.iter().filter(|e| e.roles != 0) {
            let Endpoint { addr, port } = e.endpoint;
            ports[usize::from(port >> 6) % PORT_WORDS] |= 1 << (port & 63);
            if addr.family() == Family::V4 {
                let word = word4(e.protocol, &addr, port);
                let mut at = spread(word) & (v4.len() - 1);
                while v4[at] != 0 && v4[at] & !0xff != word {
                    at = (at + 1) & (v4.len() - 1);
                }
                v4[at] |= word | u64::from(e.roles);
            } else {
                let mut at = spread6(e.protocol, &addr, port) & (v6.len() - 1);
                let is = |s: &Slot6| {
                    s.addr == addr.octets() && s.port == port && s.protocol == e.protocol
                };
                while v6[at].roles != 0 && !is(&v6[at]) {
                    at = (at + 1) & (v6.len() - 1);
                }
                v6[at] = Slot6 {
                    addr: addr.octets(),
                    port,
                    protocol: e.protocol,
                    roles: v6[at].roles | e.roles,
                };
            }
        }
        RoleTable { ports, v4, v6 }
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
        let word = endpoint << 16 | u64::from(protocol) << 8;
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

    /// Roles of an endpoint of the given family, 0 for none.
    #[inline(always)]
    pub fn of(&self, is_v4: bool, protocol: u8, addr: &Addr, port: u16) -> u8 {
        if is_v4 {
            return self.of_v4(protocol, digest_v4(addr.bits_v4(), port));
        }
        if !self.may_have(port) {
            return 0;
        }
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
}
