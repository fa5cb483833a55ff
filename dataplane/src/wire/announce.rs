//! Frames that tell a network where an address is: gratuitous ARP (RFC 5227, 3) and unsolicited
//! neighbour advertisements (RFC 4861, 7.2.6).

use arrayvec::ArrayVec;

use crate::addr::{Addr, Family, Mac};
use crate::wire::{checksum, icmp, ipv6};

/// Longest announcement: Ethernet, IPv6, advertisement with its option.
pub const MAX_LEN: usize = 14 + 40 + 32;

const BROADCAST: Mac = Mac([0xff; 6]);
/// Of ff02::1, all nodes.
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The frame that says: `addr` is at `mac`.
pub fn frame(mac: Mac, addr: Addr) -> ArrayVec<u8, MAX_LEN> {
    match addr.family() {
        Family::V4 => arp(mac, addr.octets_v4()),
        Family::V6 => advertisement(mac, &addr),
    }
}

fn ethernet(dst: Mac, src: Mac, ethertype: [u8; 2]) -> ArrayVec<u8, MAX_LEN> {
    dst.0.into_iter().chain(src.0).chain(ethertype).collect()
}

/// A request for the address that its sender has: hosts that know it take the new MAC over.
fn arp(mac: Mac, addr: [u8; 4]) -> ArrayVec<u8, MAX_LEN> {
    let mut frame = ethernet(BROADCAST, mac, [8, 6]);
    // Ethernet, IPv4, lengths of their addresses, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(addr);
    frame.extend([0; 6]);
    frame.extend(addr);
    frame
}

fn advertisement(mac: Mac, addr: &Addr) -> ArrayVec<u8, MAX_LEN> {
    const LEN: u16 = 32;
    /// Replaces what is known; nobody asked, and whether we are a router is for others to say.
    const OVERRIDE: u8 = 0x20;
    let mut message = ArrayVec::<u8, { LEN as usize }>::new();
    message.extend([136, 0, 0, 0, OVERRIDE, 0, 0, 0]);
    message.extend(addr.octets());
    // Target link-layer address, one unit of 8 bytes.
    message.extend([2, 1]);
    message.extend(mac.0);
    let all = Addr::v6(ALL_NODES);
    let sum = checksum::pseudo_header(addr, &all, icmp::PROTOCOL_V6, LEN);
    let sum = checksum::finish(checksum::add(sum, &message));
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    let header = ipv6::Header {
        traffic_class: 0,
        payload_len: LEN,
        next: icmp::PROTOCOL_V6,
        // Proof that no router passed it on.
        hop_limit: 255,
        src: addr.octets(),
        dst: ALL_NODES,
    };
    let mut frame = ethernet(ALL_NODES_MAC, mac, [0x86, 0xdd]);
    frame.extend(header.emit());
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    #[test]
    fn a_gratuitous_arp() {
        let got = frame(MAC, Addr::v4([10, 1, 0, 100]));
        let want = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2,
            0, 0, 0, 0, 7, 10, 1, 0, 100, 0, 0, 0, 0, 0, 0, 10, 1, 0, 100,
        ];
        assert_eq!(got[..], want);
    }

    #[test]
    fn an_unsolicited_advertisement() {
        let addr = Addr::v6([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        let got = frame(MAC, addr);
        assert_eq!(
            got[..14],
            [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 0x86, 0xdd]
        );
        assert_eq!(got[14..22], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!(
            (&got[22..38], &got[38..54]),
            (&addr.octets()[..], &ALL_NODES[..])
        );
        let message = &got[54..];
        assert_eq!(
            (message[0], message[4], &message[8..24]),
            (136, 0x20, &addr.octets()[..])
        );
        assert_eq!(message[24..], [2, 1, 2, 0, 0, 0, 0, 7]);
        let pseudo = checksum::pseudo_header(&addr, &Addr::v6(ALL_NODES), 58, 32);
        assert_eq!(checksum::fold(checksum::add(pseudo, message)), 0xffff);
    }
}
