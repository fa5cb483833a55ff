//! The kernel's hash functions, as far as schedulers depend on their exact values.

use crate::flow::Flow;
use crate::service::VirtualService;

/// `hash_32` (`linux/hash.h`): the top `bits` bits of a product with the golden ratio.
#[inline]
pub(super) const fn hash_32(value: u32, bits: u32) -> u32 {
    value.wrapping_mul(0x61c8_8647) >> (32 - bits)
}

/// `hsiphash_1u32` of a 64-bit kernel (`lib/siphash.c`): SipHash with one compression and three
/// final rounds, cut to 32 bits. Both halves of the key are `key`.
pub(super) fn hsiphash(value: u32, key: u64) -> u32 {
    let mut v = [
        0x736f_6d65_7073_6575 ^ key,
        0x646f_7261_6e64_6f6d ^ key,
        0x6c79_6765_6e65_7261 ^ key,
        0x7465_6462_7974_6573 ^ key,
    ];
    // The last block: the four bytes and, on top, how many there were.
    let block = 4 << 56 | u64::from(value);
    v[3] ^= block;
    round(&mut v);
    v[0] ^= block;
    v[2] ^= 0xff;
    for _ in 0..3 {
        round(&mut v);
    }
    (v[0] ^ v[1] ^ v[2] ^ v[3]) as u32
}

/// SipRound.
#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

/// What sh and mh hash of a client: its address, folded, and its port if the flag `sh-port` or
/// `mh-port` is set (`ip_vs_sh_get_port`).
#[inline]
pub(super) fn client(service: &VirtualService, flow: &Flow) -> u32 {
    // What an ICMP error quotes has ports, too, and nothing behind them.
    let port = match service.options.flags.port {
        true => flow.src_port,
        false => 0,
    };
    flow.src.fold().wrapping_add(u32::from(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(a: u8, b: u8, c: u8, d: u8) -> u32 {
        u32::from_be_bytes([a, b, c, d])
    }

    #[test]
    fn values_of_the_kernel() {
        assert_eq!(hash_32(ip(10, 0, 0, 100), 8), 248);
        assert_eq!(hash_32(ip(10, 0, 1, 2), 8), 82);
        assert_eq!(hash_32(ip(10, 0, 1, 2) + 40000, 8), 246);
        assert_eq!(hash_32(ip(10, 0, 0, 100), 10), 993);
        let keys = [2_654_435_761, 2_654_446_892];
        assert_eq!(hsiphash(0, keys[0]), 0x1d5a_77c2);
        assert_eq!(hsiphash(1, keys[0]), 0x16ec_66b2);
        assert_eq!(hsiphash(1, keys[1]), 0x8210_aad1);
        assert_eq!(hsiphash(ip(10, 0, 1, 2), keys[0]), 0xeb09_ef46);
    }
}
