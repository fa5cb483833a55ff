//! `Flow`: what the hot path needs to know of a packet, and the only parser it calls.

use crate::addr::Addr;

/// A parsed packet. Offsets are bytes from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, host order (0 if the protocol has none).
    pub src_port: u16,
    /// Destination port, host order.
    pub dst_port: u16,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the transport header.
    pub l4: u16,
    /// Length of the IP packet in bytes (headers included), as its header says.
    pub l3_len: u16,
    /// IP protocol number of the transport (after IPv6 extension headers).
    pub protocol: u8,
    /// TCP flags byte (0 for other protocols).
    pub tcp_flags: u8,
    /// IPv4: true.
    pub is_v4: bool,
}
