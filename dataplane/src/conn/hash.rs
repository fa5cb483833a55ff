//! The keyed hash of the connection table.
//!
//! A key is the client endpoint, the other endpoint as seen in the packet, and the protocol.
//! Folded multiplication (a 64 x 64 -> 128 bit product, halves xored) with secret words is
//! non-linear: without the key nobody can choose flows that share a bucket. A CRC would be
//! linear, so that colliding flows could be computed without knowing it.

use crate::addr::{Addr, Family};

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
        let bytes = addr.octets();
        let low = u64::from_be_bytes([
            bytes[8], bytes[9], bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15],
        ]);
        if addr.family() == Family::V4 {
            return digest_v4(low as u32, port);
        }
        let high = u64::from_be_bytes([
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
        ]);
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
