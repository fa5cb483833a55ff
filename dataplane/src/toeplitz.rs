//! Steering by the NIC: RSS keys with which requests and replies of a client reach one queue.
//!
//! RSS hashes source and destination together. The port that clients are on must go by the source
//! alone, the port that real servers are on by the destination, and both must come to the same
//! number. A Toeplitz hash is the sum (XOR) of the 32 bits of key that begin at each set bit of
//! the input; a redirection table of 128 entries looks at the last seven bits of it, so bit `i`
//! of the input counts by bits `i + 25` to `i + 31` of the key. A key that is zero wherever the
//! other end's bits would count, and has the same bits at the same distance from the client's
//! address and port in both keys, does what is wanted:
//!
//! ```text
//! input, IPv4   | source 0..31 | destination 32..63 | source port 64..79 | destination port 80..95
//! clients' port   key bits 31..56                     95..104
//! servers' port                  63..88                                    111..120
//! distance        31..56         31..56               31..40               31..40
//! ```
//!
//! IPv6 has its addresses elsewhere in the input and wants zeros where IPv4 must have ones; it is
//! steered in software. The hash is linear: who knows the key can choose clients of one queue. The
//! key is as random as that of the connection table, and only the spread over workers depends on it;
//! the connection table has a hash of its own.

use crate::addr::{Endpoint, Family};
use crate::conn::HashKey;

/// Bytes of a key. Longer ones (i40e, ice: 52) go on with zeros.
pub const KEY_BYTES: usize = 40;

/// Entries of the redirection table, or after how many it repeats itself.
pub const BUCKETS: usize = 128;

/// Which ends of the packets that come in by a port are clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facing {
    /// The sources: clients are on this port.
    Clients,
    /// The destinations: real servers are.
    Servers,
}

/// Distances from the first bit of the address at which the key may have ones.
const ADDRESS: core::ops::RangeInclusive<usize> = 31..=56;
/// The same for the port.
const PORT: core::ops::RangeInclusive<usize> = 31..=40;

/// A pair of keys, and the bucket that both give a client.
#[derive(Clone, Debug)]
pub struct Toeplitz {
    address: u64,
    port: u64,
    /// What each value of each byte adds: four of the address, two of the port.
    sums: [[u8; 256]; 6],
}

impl Toeplitz {
    /// The keys that go with a connection table: a process that takes the table over steers as the
    /// one before did.
    pub fn of_table(key: &HashKey) -> Toeplitz {
        // No connection has the reserved protocol number.
        Toeplitz::new([1, 2].map(|word| key.hash_v4(255, word, 0).bits))
    }

    /// Keys out of random bits.
    pub fn new(random: [u64; 2]) -> Toeplitz {
        // Bit `n` of the words is the key's bit at distance `n`. Both ends of the windows are set:
        // without the first one a bit of the client would not count at all.
        let window = |from: u64, bits: core::ops::RangeInclusive<usize>| {
            let allowed = bits.clone().fold(0, |all, bit| all | 1 << bit);
            from & allowed | 1 << bits.start() | 1 << bits.end()
        };
        let (address, port) = (window(random[0], ADDRESS), window(random[1], PORT));
        let mut sums = [[0; 256]; 6];
        for (byte, sums) in sums.iter_mut().enumerate() {
            let (key, first) = match byte {
                0..4 => (address, 8 * byte),
                _ => (port, 8 * (byte - 4)),
            };
            for (value, sum) in sums.iter_mut().enumerate() {
                for bit in (0..8).filter(|bit| value & 0x80 >> bit != 0) {
                    // The last of the seven bits is the least one.
                    let window = key >> (first + bit + 25) & 0x7f;
                    *sum ^= (window as u8).reverse_bits() >> 1;
                }
            }
        }
        Toeplitz {
            address,
            port,
            sums,
        }
    }

    /// The key for the NIC of such a port, first byte first.
    pub fn key(&self, facing: Facing) -> [u8; KEY_BYTES] {
        let (address_at, port_at) = match facing {
            Facing::Clients => (0, 64),
            Facing::Servers => (32, 80),
        };
        let mut key = [0; KEY_BYTES];
        for (word, at) in [(self.address, address_at), (self.port, port_at)] {
            for bit in (0..64).filter(|bit| word >> bit & 1 != 0) {
                if let Some(byte) = key.get_mut((at + bit) / 8) {
                    *byte |= 0x80 >> ((at + bit) % 8);
                }
            }
        }
        key
    }

    /// The entry of the redirection table for a client's TCP and UDP packets and the replies to
    /// it, below [`BUCKETS`]; `None` for what the NIC does not steer.
    #[inline]
    pub fn bucket(&self, client: &Endpoint) -> Option<u8> {
        if client.addr.family() != Family::V4 {
            return None;
        }
        let [.., a, b, c, d] = client.addr.octets();
        let [e, f] = client.port.to_be_bytes();
        let sum = |i: usize, byte: u8| self.sums[i][usize::from(byte)];
        Some(sum(0, a) ^ sum(1, b) ^ sum(2, c) ^ sum(3, d) ^ sum(4, e) ^ sum(5, f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Addr;
    use crate::worker::Share;
    use proptest::prelude::*;

    /// The hash as it is defined (Microsoft's RSS specification).
    fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
        let bit = |bytes: &[u8], i: usize| bytes[i / 8] >> (7 - i % 8) & 1;
        let mut hash = 0;
        for i in (0..8 * input.len()).filter(|&i| bit(input, i) != 0) {
            let window = (i..i + 32).fold(0u32, |w, i| w << 1 | u32::from(bit(key, i)));
            hash ^= window;
        }
        hash
    }

    fn input(src: ([u8; 4], u16), dst: ([u8; 4], u16)) -> Vec<u8> {
        let ports = [src.1.to_be_bytes(), dst.1.to_be_bytes()];
        [&src.0[..], &dst.0, &ports.concat()].concat()
    }

    #[test]
    fn reference_hash_is_the_published_one() {
        // The key and the first vector of the specification.
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
            0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
            0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        let input = input(([66, 9, 149, 187], 2794), ([161, 142, 100, 80], 1766));
        assert_eq!(toeplitz(&key, &input), 0x51cc_c178);
    }

    proptest! {
        #[test]
        fn both_ports_and_software_agree(
            random: [u64; 2],
            client: ([u8; 4], u16),
            others: [([u8; 4], u16); 2],
        ) {
            let keys = Toeplitz::new(random);
            let end = Endpoint::new(Addr::v4(client.0), client.1);
            let bucket = u32::from(keys.bucket(&end).expect("IPv4"));
            let request = toeplitz(&keys.key(Facing::Clients), &input(client, others[0]));
            let reply = toeplitz(&keys.key(Facing::Servers), &input(others[1], client));
            prop_assert_eq!(request % BUCKETS as u32, bucket);
            prop_assert_eq!(reply % BUCKETS as u32, bucket);
        }
    }

    proptest! {
        /// Ports in a row, and every other port, as Linux has them: whatever the key and the
        /// client, no worker of those that share 64 ports has more or less than its part by so
        /// much.
        #[test]
        fn ports_spread_over_the_workers(random: [u64; 2], addr: [u8; 4], first: u16) {
            let keys = Toeplitz::new(random);
            for (step, off) in [
                // Seven aligned runs of 2^k ports at most. Each is less than one away from even,
                // and even for a power of two that is no more than 2^k.
                (1, [(2, 1), (3, 7), (4, 2), (8, 4), (16, 6)]),
                // Runs, too, but not even: this is what all keys were tried for.
                (2, [(2, 8), (3, 9), (4, 6), (8, 4), (16, 3)]),
            ] {
                // Where a run would be of all 64 ports.
                let first = if step == 2 { first & !0x7f } else { first };
                for (workers, most) in off {
                    let share = Share::of(0, workers);
                    let mut count = [0usize; 16];
                    for n in 0..64 {
                        let port = first.wrapping_add(step * n);
                        let end = Endpoint::new(Addr::v4(addr), port);
                        let owner = share.owner(keys.bucket(&end).expect("IPv4"));
                        count[usize::from(owner)] += 1;
                    }
                    for count in &count[..workers] {
                        let off = (count * workers).abs_diff(64);
                        prop_assert!(
                            off <= most * workers,
                            "{workers} workers, step {step}: {count} of 64"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn clients_spread_over_the_buckets() {
        // Many ports of few hosts, few ports of many hosts, as clients behind NAT and without.
        for (hosts, ports) in [(4u16, 4096u16), (4096, 4)] {
            for seed in 1..20 {
                let keys = Toeplitz::new(
                    [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9]
                        .map(|n: u64| n.wrapping_mul(seed)),
                );
                let mut count = [0u32; BUCKETS];
                for (host, port) in (0..hosts).flat_map(|h| (0..ports).map(move |p| (h, p))) {
                    let [x, y] = host.to_be_bytes();
                    let end = Endpoint::new(Addr::v4([10, 1, x, y]), 30_000 + port);
                    count[usize::from(keys.bucket(&end).expect("IPv4"))] += 1;
                }
                // 128 a bucket; what matters is the share of a worker, a sum of many buckets.
                let share = Share::of(0, 2);
                let of = |w| (0..).zip(&count).filter(move |(b, _)| share.owner(*b) == w);
                let shares = [0, 1].map(|w| of(w).map(|(_, n)| n).sum::<u32>());
                assert!(shares[0].abs_diff(shares[1]) < 4000, "{seed}: {shares:?}");
                assert!(count.iter().all(|&n| n < 1024), "{seed}: {count:?}");
            }
        }
    }

    #[test]
    fn ipv6_is_not_for_the_nic() {
        let end = Endpoint::new(Addr::v6([0xfd; 16]), 80);
        assert_eq!(Toeplitz::new([3, 5]).bucket(&end), None);
    }
}
