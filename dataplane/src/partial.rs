//! Partial transport checksums: a veth or virtio peer on the same host leaves TCP and UDP
//! checksums to "the hardware", so that the field holds the sum of the pseudo header alone, and
//! that of SCTP zero.
//! Ports that sit on kernel devices complete them before the packet is looked at.

use crate::flow::{Flow, Parsed};
use crate::packet::Packet;
use crate::wire::{checksum, sctp};

/// Completes the checksum of a TCP, UDP or SCTP packet if it is partial; true if it was.
pub fn complete(packet: &mut Packet<'_>) -> bool {
    let Parsed::Ip(flow) = Flow::parse(packet.frame(), packet.vlan_tci, packet.wire_len) else {
        return false;
    };
    if !flow.has_ports() {
        return false;
    }
    let end = flow.l4 as usize + flow.l4_len as usize;
    let Some(l4) = packet.frame_mut().get_mut(flow.l4 as usize..end) else {
        return false;
    };
    if flow.protocol == sctp::PROTOCOL {
        return sctp::is_partial(l4) && sctp::fill_checksum(l4);
    }
    checksum::is_partial(&flow.src, &flow.dst, flow.protocol, l4)
        && checksum::fill_transport(&flow.src, &flow.dst, flow.protocol, l4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Addr;
    use crate::packet::PortId;

    /// A UDP packet 10.0.0.1:1000 > 10.0.0.2:2000 "hi", with this checksum field.
    fn frame(sum: [u8; 2]) -> Vec<u8> {
        let mut f = vec![0u8; 12];
        f.extend([8, 0]);
        let mut ip = vec![
            0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        let header = checksum::of(&ip).to_be_bytes();
        ip[10..12].copy_from_slice(&header);
        f.extend(ip);
        f.extend([3, 232, 7, 208, 0, 10]);
        f.extend(sum);
        f.extend(*b"hi");
        f
    }

    #[test]
    fn only_partial_sums_are_completed() {
        let (src, dst) = (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2]));
        let pseudo = checksum::fold(checksum::pseudo_header(&src, &dst, 17, 10)).to_ne_bytes();
        let mut room = frame(pseudo);
        let len = room.len() as u16;
        let mut packet = Packet::new(&mut room, 0, len, PortId(0));
        assert!(complete(&mut packet));
        assert!(!complete(&mut packet), "it is whole now");
        let sum = checksum::add(
            checksum::pseudo_header(&src, &dst, 17, 10),
            &packet.frame()[34..],
        );
        assert_eq!(checksum::fold(sum), 0xffff);
        let mut other = frame([0x12, 0x34]);
        let mut wrong = Packet::new(&mut other, 0, len, PortId(0));
        assert!(!complete(&mut wrong), "a wrong sum stays wrong");
    }

    #[test]
    fn sctp_left_to_hardware_has_no_checksum_yet() {
        let mut room = frame([0; 2]);
        room.truncate(34);
        room[14 + 2..14 + 4].copy_from_slice(&36u16.to_be_bytes());
        room[14 + 9] = sctp::PROTOCOL;
        room[14 + 10..14 + 12].fill(0);
        let header = checksum::of(&room[14..34]).to_be_bytes();
        room[14 + 10..14 + 12].copy_from_slice(&header);
        room.extend([3, 232, 7, 208, 0, 0, 0, 1, 0, 0, 0, 0, 11, 0, 0, 4]);
        let len = room.len() as u16;
        let mut packet = Packet::new(&mut room, 0, len, PortId(0));
        assert!(complete(&mut packet));
        assert!(!complete(&mut packet), "it is whole now");
        let l4 = packet.frame()[34..].to_vec();
        assert_eq!(sctp::checksum(&l4).unwrap(), l4[8..12]);
    }
}
