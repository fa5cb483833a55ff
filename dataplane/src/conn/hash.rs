//! The keyed hash of the connection table.
//!
//! A key is the client endpoint, the other endpoint as seen in the packet, and the protocol.
//! Folded multiplication (a 64 x 64 -> 128 bit product, halves xored) with secret words is
//! non-linear: without the key nobody can choose flows that share a bucket. A CRC would be
//! linear, so that colliding flows could be computed without knowing it.

use crate::addr::{Addr, Endpoint, Family};

/// Secret of the hash, chosen at random when a region is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKey(pub [u64; 4]);

/// Hash of one tuple: which shard, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash {
    /// Shard, from the client endpoint alone.
    pub shard: u8,
    /// Upper half: bucket; lower half: tag.
    pub bits: u64,
}

impl KeyHash {
    /// Tag stored in a bucket slot; never 0, which means "empty".
    #[inline(always)]
    pub fn tag(self) -> u16 {
        self.bits as u16 | 1
    }

    /// Bucket among `count`, by multiply-shift, so that `count` need not be a power of two.
    #[inline(always)]
    pub fn bucket(self, count: u32) -> u32 {
        (((self.bits >> 32) * u64::from(count)) >> 32) as u32
    }
}

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// An IPv4 endpoint in 48 bits; address and port in host order.
#[inline(always)]
pub fn digest_v4(addr: u32, port: u16) -> u64 {
    u64::from(addr) << 16 | u64::from(port)
}

impl HashKey {
    /// Hashes (client, other, protocol). Ports in host order.
    #[inline(always)]
    pub fn hash(
        &self,
        protocol: u8,
        client: &Addr,
        client_port: u16,
        other: &Addr,
        other_port: u16,
    ) -> KeyHash {
        self.mix(
            protocol,
            self.digest(client, client_port),
            self.digest(other, other_port),
        )
    }

    /// As [`HashKey::hash`], for IPv4 endpoints as [`digest_v4`] makes them.
    #[inline(always)]
    pub fn hash_v4(&self, protocol: u8, client: u64, other: u64) -> KeyHash {
        self.mix(protocol, client, other)
    }

    /// As [`HashKey::hash`], for endpoints that are known to be of IPv6.
    #[inline(always)]
    pub fn hash_v6(&self, protocol: u8, client: &Endpoint, other: &Endpoint) -> KeyHash {
        let digest = |end: &Endpoint| self.digest_v6(&end.addr.octets(), end.port);
        self.mix(protocol, digest(client), digest(other))
    }

    #[inline(always)]
    fn mix(&self, protocol: u8, client: u64, other: u64) -> KeyHash {
        let k = &self.0;
        let by_client = fold(client ^ k[0], k[1]);
        let bits = fold(by_client ^ other ^ u64::from(protocol) << 48, k[2]);
        KeyHash {
            shard: (by_client >> 57) as u8,
            bits,
        }
    }

    /// 64 bits of an endpoint: exact for IPv4, keyed for IPv6.
    #[inline(always)]
    fn digest(&self, addr: &Addr, port: u16) -> u64 {
        match addr.family() {
            Family::V4 => digest_v4(addr.bits_v4(), port),
            Family::V6 => self.digest_v6(&addr.octets(), port),
        }
    }

    #[inline(always)]
    fn digest_v6(&self, addr: &[u8; 16], port: u16) -> u64 {
        let bits = u128::from_be_bytes(*addr);
        let (high, low) = ((bits >> 64) as u64, bits as u64);
        fold(high ^ self.0[3], low ^ self.0[1]).rotate_left(17) ^ u64::from(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey([
        0x9e37_79b9_7f4a_7c15,
        0xd1b5_4a32_d192_ed03,
        0xaef1_7502_108e_f2d9,
        7919,
    ]);

    #[test]
    fn the_shard_depends_on_the_client_alone() {
        let client = Addr::v4([203, 0, 113, 7]);
        let a = KEY.hash(6, &client, 40000, &Addr::v4([10, 0, 0, 1]), 80);
        let b = KEY.hash(6, &client, 40000, &Addr::v4([192, 168, 1, 10]), 8080);
        assert_eq!(a.shard, b.shard);
        assert_ne!(a.bits, b.bits);
        assert!(a.shard < 128);
    }

    #[test]
    fn the_short_way_for_ipv6_is_the_same() {
        let end = |last, port| {
            let mut octets = [0xfd; 16];
            octets[15] = last;
            Endpoint::new(Addr::v6(octets), port)
        };
        let (client, vip) = (end(7, 40000), end(1, 80));
        let long = KEY.hash(6, &client.addr, client.port, &vip.addr, vip.port);
        assert_eq!(KEY.hash_v6(6, &client, &vip), long);
    }

    #[test]
    fn the_short_way_for_ipv4_is_the_same() {
        let (client, vip) = (Addr::v4([203, 0, 113, 7]), Addr::v4([10, 0, 0, 1]));
        let (from, to) = (
            digest_v4(client.bits_v4(), 40000),
            digest_v4(vip.bits_v4(), 80),
        );
        let short = KEY.hash_v4(6, from, to);
        assert_eq!(KEY.hash(6, &client, 40000, &vip, 80), short);
    }

    #[test]
    fn sequential_clients_spread() {
        let vip = Addr::v4([10, 0, 0, 1]);
        let mut shards = [0u32; 128];
        let mut buckets = [0u32; 64];
        for i in 0..65536u32 {
            let client = Addr::v4((0x0a01_0000 + i / 64).to_be_bytes());
            let h = KEY.hash(6, &client, 1024 + (i % 64) as u16, &vip, 80);
            shards[h.shard as usize] += 1;
            buckets[h.bucket(64) as usize] += 1;
        }
        assert!(
            shards.iter().all(|&n| (380..650).contains(&n)),
            "{shards:?}"
        );
        assert!(
            buckets.iter().all(|&n| (850..1200).contains(&n)),
            "{buckets:?}"
        );
    }
}
