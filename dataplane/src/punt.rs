//! Which class a packet for the kernel twin belongs to.

use crate::flow::Flow;
use crate::packet::PuntClass;
use crate::wire::ethernet;

const BGP: u16 = 179;
const BFD: [u16; 3] = [3784, 3785, 4784];

/// Class of a frame that is not IP.
pub fn class_of_ethertype(ethertype: u16) -> PuntClass {
    match ethertype {
        ethernet::TYPE_ARP => PuntClass::Control,
        // LLDP, LACP and other link protocols are few and precious.
        0x88cc | 0x8809 => PuntClass::Control,
        _ => PuntClass::Transit,
    }
}

/// Class of an IP packet. `is_local` says whether its destination is this host or a group.
pub fn class_of(flow: &Flow, icmp_type: Option<u8>, is_local: impl FnOnce() -> bool) -> PuntClass {
    match flow.protocol {
        VRRP => PuntClass::Advert,
        // Router and neighbour solicitation and advertisement, redirect (RFC 4861), MLD.
        58 if matches!(icmp_type, Some(130..=137 | 143)) => PuntClass::Control,
        6 if flow.src_port == BGP || flow.dst_port == BGP => PuntClass::Routing,
        17 if BFD.contains(&flow.dst_port) => PuntClass::Routing,
        89 => PuntClass::Routing,
        _ if is_local() => PuntClass::Host,
        _ => PuntClass::Transit,
    }
}

const VRRP: u8 = 112;
