//! Cutting a TCP packet into segments, as a NIC does for a sender that leaves it to it (TSO).
//!
//! A veth or virtio peer on the same host hands over packets of up to 64 KiB where the wire would
//! see segments of its MTU. This is the step that the missing hardware would have done.

use crate::flow::{Flow, Parsed};
use crate::wire::{checksum, ipv4, tcp};

/// Most bytes before the payload: layer 2 with a tag, IPv4 and TCP with all options.
const MAX_HEAD: usize = 18 + 60 + 60;

/// FIN and PSH belong to the last segment.
const LAST_ONLY: u8 = 0x01 | 0x08;
/// CWR is told once.
const FIRST_ONLY: u8 = 0x80;
/// IP protocol number of TCP.
const TCP: u8 = 6;

/// The segments of one packet, written one by one into buffers of the caller's.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    head: [u8; MAX_HEAD],
    head_len: usize,
    flow: Flow,
    /// Payload not written yet.
    rest: &'a [u8],
    /// Payload of every segment but the last.
    step: usize,
    seq: u32,
    id: u16,
    flags: u8,
}

impl<'a> Segments<'a> {
    /// Cuts the packet in `frame` to segments whose IP packets have at most `mtu` bytes. `None` if
    /// it is no whole TCP packet, fits as it is, or cannot be cut.
    pub fn new(frame: &'a [u8], mtu: u16) -> Option<Segments<'a>> {
        let Parsed::Ip(flow) = Flow::parse(frame, 0, frame.len() as u32) else {
            return None;
        };
        if flow.protocol != TCP || flow.l3_len <= mtu || !flow.has_l4_header() {
            return None;
        }
        let l4 = usize::from(flow.l4);
        let transport = frame.get(l4..l4 + usize::from(flow.l4_len))?;
        let header_len = usize::from(*transport.get(12)? >> 4) * 4;
        let head_len = l4 + header_len;
        let step = usize::from(mtu).checked_sub(head_len - usize::from(flow.l3))?;
        let rest = transport.get(header_len..)?;
        if header_len < tcp::HEADER_LEN || step == 0 {
            return None;
        }
        let mut head = [0; MAX_HEAD];
        head.get_mut(..head_len)?
            .copy_from_slice(frame.get(..head_len)?);
        let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let (high, low) = (word(l4 + 4)?, word(l4 + 6)?);
        Some(Segments {
            head,
            head_len,
            rest,
            step,
            seq: u32::from(high) << 16 | u32::from(low),
            id: word(usize::from(flow.l3) + 4)?,
            flags: flow.tcp_flags,
            flow,
        })
    }

    /// Bytes of the next frame, `None` when all are written.
    pub fn next_len(&self) -> Option<usize> {
        (!self.rest.is_empty()).then(|| self.head_len + self.rest.len().min(self.step))
    }

    /// Writes the next frame to the beginning of `target` and returns its length; `None` if there
    /// is none, or no room for it, and then it is still the next.
    pub fn write(&mut self, target: &mut [u8]) -> Option<usize> {
        let len = self.next_len()?;
        let frame = target.get_mut(..len)?;
        let (payload, rest) = self.rest.split_at_checked(len - self.head_len)?;
        frame
            .get_mut(..self.head_len)?
            .copy_from_slice(self.head.get(..self.head_len)?);
        frame.get_mut(self.head_len..)?.copy_from_slice(payload);
        let (l3, l4) = (usize::from(self.flow.l3), usize::from(self.flow.l4));
        let ip = frame.get_mut(l3..)?;
        if self.flow.is_v4 {
            ip.get_mut(2..4)?
                .copy_from_slice(&((len - l3) as u16).to_be_bytes());
            ip.get_mut(4..6)?.copy_from_slice(&self.id.to_be_bytes());
            ipv4::fill_checksum(ip);
        } else {
            // What stands between the fixed header and TCP counts as payload.
            let payload_len = (len - l3 - crate::wire::ipv6::HEADER_LEN) as u16;
            ip.get_mut(4..6)?
                .copy_from_slice(&payload_len.to_be_bytes());
        }
        let segment = frame.get_mut(l4..)?;
        segment
            .get_mut(4..8)?
            .copy_from_slice(&self.seq.to_be_bytes());
        let mut flags = self.flags;
        if !rest.is_empty() {
            flags &= !LAST_ONLY;
        }
        *segment.get_mut(13)? = flags;
        let (src, dst) = (&self.flow.src, &self.flow.dst);
        checksum::fill_transport(src, dst, self.flow.protocol, segment);
        self.flags &= !FIRST_ONLY;
        self.seq = self.seq.wrapping_add(payload.len() as u32);
        self.id = self.id.wrapping_add(1);
        self.rest = rest;
        Some(len)
    }
}
