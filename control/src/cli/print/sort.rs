//! The order of a sorted listing.
//!
//! ipvsadm subtracts 32-bit values into a signed integer, so that values more than 2^31 apart
//! compare the wrong way round, and the order of such addresses depends on the order they come in
//! and on the way of sorting. Scripts compare listings, so this follows it: the same comparison,
//! in a merge sort that halves from the top, as the C library's `qsort` does.

use std::net::IpAddr;

use crate::api::{Protocol, ServerView, ServiceView};

/// Services by mark, family, protocol, address and port; their servers by address and port.
pub fn sort(services: &mut Vec<ServiceView>) {
    merge_sort(services, &|a, b| {
        let (a, b) = (&a.key, &b.key);
        let marks = a.mark().unwrap_or(0).wrapping_sub(b.mark().unwrap_or(0)) as i32;
        let unspecified = IpAddr::from([0; 4]);
        first_difference([
            marks,
            i32::from(a.is_ipv6()) - i32::from(b.is_ipv6()),
            number(a.protocol()) - number(b.protocol()),
            addresses(
                a.addr().unwrap_or(unspecified),
                b.addr().unwrap_or(unspecified),
            ),
            i32::from(a.port()) - i32::from(b.port()),
        ])
    });
    for service in services {
        merge_sort(&mut service.servers, &by_address);
    }
}

fn by_address(a: &ServerView, b: &ServerView) -> i32 {
    first_difference([
        addresses(a.key.addr, b.key.addr),
        i32::from(a.key.port) - i32::from(b.key.port),
    ])
}

fn first_difference<const N: usize>(differences: [i32; N]) -> i32 {
    differences.into_iter().find(|d| *d != 0).unwrap_or(0)
}

fn number(protocol: Option<Protocol>) -> i32 {
    match protocol {
        // The kernel says TCP of a mark.
        Some(Protocol::Tcp) | None => 6,
        Some(Protocol::Udp) => 17,
        Some(Protocol::Sctp) => 132,
    }
}

/// Word by word; an IPv4 address is the first word.
fn addresses(a: IpAddr, b: IpAddr) -> i32 {
    let (a, b) = (words(a), words(b));
    let pairs = a.into_iter().zip(b);
    pairs
        .map(|(a, b)| a.wrapping_sub(b) as i32)
        .find(|d| *d != 0)
        .unwrap_or(0)
}

fn words(addr: IpAddr) -> [u32; 4] {
    match addr {
        IpAddr::V4(addr) => [addr.to_bits(), 0, 0, 0],
        IpAddr::V6(addr) => {
            let bits = addr.to_bits();
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
        }
    }
}

/// The standard library may reject a comparison that contradicts itself, hence our own.
fn merge_sort<T>(items: &mut Vec<T>, compare: &impl Fn(&T, &T) -> i32) {
    if items.len() < 2 {
        return;
    }
    let mut right = items.split_off(items.len() / 2);
    merge_sort(items, compare);
    merge_sort(&mut right, compare);
    let mut left = std::mem::take(items).into_iter().peekable();
    let mut right = right.into_iter().peekable();
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let smaller = if compare(a, b) <= 0 {
            &mut left
        } else {
            &mut right
        };
        items.extend(smaller.next());
    }
    items.extend(left);
    items.extend(right);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(addrs: &[&str]) -> Vec<String> {
        let mut addrs: Vec<IpAddr> = addrs
            .iter()
            .map(|a| a.parse().expect("an address"))
            .collect();
        merge_sort(&mut addrs, &|a, b| addresses(*a, *b));
        addrs.iter().map(IpAddr::to_string).collect()
    }

    // Orders before and after as printed by ipvsadm 1.31 with and without --nosort.

    #[test]
    fn addresses_far_apart_sort_as_the_original_does() {
        assert_eq!(
            sorted(&[
                "127.255.255.255",
                "150.0.0.2",
                "60.0.0.3",
                "10.0.0.1",
                "192.168.1.1",
                "220.0.0.1",
                "200.0.0.1",
                "128.0.0.1",
                "100.0.0.1",
                "1.0.0.1",
            ]),
            [
                "127.255.255.255",
                "150.0.0.2",
                "192.168.1.1",
                "200.0.0.1",
                "220.0.0.1",
                "1.0.0.1",
                "10.0.0.1",
                "60.0.0.3",
                "100.0.0.1",
                "128.0.0.1",
            ]
        );
        assert_eq!(
            sorted(&[
                "60.0.0.3",
                "150.0.0.2",
                "10.0.0.1",
                "192.168.1.1",
                "220.0.0.1",
                "200.0.0.1",
                "128.0.0.1",
                "100.0.0.1",
                "1.0.0.1",
            ]),
            [
                "192.168.1.1",
                "200.0.0.1",
                "220.0.0.1",
                "1.0.0.1",
                "10.0.0.1",
                "60.0.0.3",
                "100.0.0.1",
                "128.0.0.1",
                "150.0.0.2",
            ]
        );
    }

    #[test]
    fn ipv6_addresses_sort_word_by_word() {
        assert_eq!(
            sorted(&[
                "::5",
                "0:0:1::5",
                "1::2",
                "1::7fff:0",
                "1::8000:0",
                "1:0:8000::1",
                "1:7000::1",
                "1:8000::1",
                "1::7000:0:0:1",
                "1::8000:0:0:1",
                "1::1",
                "ffff::1",
                "7fff::1",
                "8000::1",
                "2::1",
            ]),
            [
                "ffff::1",
                "::5",
                "0:0:1::5",
                "1::2",
                "1::7fff:0",
                "1::8000:0",
                "1:0:8000::1",
                "1::7000:0:0:1",
                "1::8000:0:0:1",
                "1::1",
                "1:7000::1",
                "1:8000::1",
                "2::1",
                "7fff::1",
                "8000::1",
            ]
        );
    }

    #[test]
    fn equal_items_keep_their_order() {
        let mut items = vec![(2, 'a'), (1, 'b'), (2, 'c'), (1, 'd'), (1, 'e')];
        merge_sort(&mut items, &|a, b| a.0 - b.0);
        assert_eq!(items, [(1, 'b'), (1, 'd'), (1, 'e'), (2, 'a'), (2, 'c')]);
    }
}
