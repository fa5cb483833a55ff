//! Ethernet II frames with at most one 802.1Q tag.

use crate::addr::Mac;

/// Bytes of the untagged header.
pub const HEADER_LEN: usize = 14;
/// Bytes of an 802.1Q tag.
pub const TAG_LEN: usize = 4;
/// Type of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// Type of ARP.
pub const TYPE_ARP: u16 = 0x0806;
/// Type of an 802.1Q tag.
pub const TYPE_VLAN: u16 = 0x8100;
/// Type of an 802.1ad service tag (QinQ).
pub const TYPE_QINQ: u16 = 0x88a8;
/// Type of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;
/// VLAN id within the tag control information.
pub const VLAN_MASK: u16 = 0x0fff;

/// Destination MAC.
#[inline(always)]
pub fn dst(frame: &[u8]) -> Option<Mac> {
    frame.first_chunk::<6>().map(|b| Mac(*b))
}

/// Source MAC.
#[inline(always)]
pub fn src(frame: &[u8]) -> Option<Mac> {
    frame
        .get(6..12)
        .and_then(|b| b.first_chunk::<6>())
        .map(|b| Mac(*b))
}

/// Writes both MACs; nothing if the frame is shorter than that.
#[inline(always)]
pub fn set_macs(frame: &mut [u8], dst: Mac, src: Mac) {
    if let Some(b) = frame.first_chunk_mut::<12>() {
        b[..6].copy_from_slice(&dst.0);
        b[6..].copy_from_slice(&src.0);
    }
}

/// Exchanges the two MACs: the frame goes back to its sender.
#[inline]
pub fn swap_macs(frame: &mut [u8]) {
    if let (Some(d), Some(s)) = (dst(frame), src(frame)) {
        set_macs(frame, s, d);
    }
}

/// Writes the type field that stands `l3 - 2` bytes into the frame.
#[inline(always)]
pub fn set_type(frame: &mut [u8], l3: usize, ethertype: u16) {
    if let Some(b) = frame.get_mut(l3.wrapping_sub(2)..l3) {
        b.copy_from_slice(&ethertype.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_and_type() {
        let mut f = [0u8; 14];
        let (a, b) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        set_macs(&mut f, a, b);
        set_type(&mut f, 14, TYPE_IPV6);
        assert_eq!(f, [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd]);
        swap_macs(&mut f);
        assert_eq!((dst(&f), src(&f)), (Some(b), Some(a)));
        assert_eq!(dst(&f[..5]), None);
        assert_eq!(src(&f[..11]), None);
        set_macs(&mut f[..11], a, b);
        set_type(&mut f, 0, 1);
        assert_eq!(dst(&f), Some(b));
    }
}
