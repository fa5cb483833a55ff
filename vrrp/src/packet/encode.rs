//! An advert to be sent: the message, its IP packet, its Ethernet frame.

use core::net::IpAddr;

use super::{ADVERTISEMENT, Auth, ChecksumForm, HEADER_SIZE, Version, message_size};
use crate::PROTOCOL;
use crate::addr::{Family, Mac};
use crate::checksum::Sum;
use crate::timers::AdvertInterval;

/// TOS or traffic class of adverts: internetwork control (CS6).
pub const TRAFFIC_CLASS: u8 = 0xc0;

/// An advert to be sent. Source and destination are of one family, as are the addresses.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Version of the protocol.
    pub version: Version,
    /// Virtual router id.
    pub vrid: u8,
    /// Priority; 0 says that the master gives up.
    pub priority: u8,
    /// Time to the next advert.
    pub interval: AdvertInterval,
    /// Authentication, in version 2 over IPv4.
    pub auth: Auth,
    /// What the checksum is to cover in version 3 over IPv4.
    pub form: ChecksumForm,
    /// The virtual addresses, at most 255.
    pub addresses: &'a [IpAddr],
    /// Sender.
    pub src: IpAddr,
    /// The group or a peer.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
}

impl Outgoing<'_> {
    /// The message: what follows the IP header.
    pub fn message(&self) -> Vec<u8> {
        let family = Family::of(self.src);
        let count = self.addresses.len().min(255);
        let size = message_size(self.version, family, count);
        let mut message = Vec::with_capacity(size);
        let interval = self.interval.to_wire(self.version).to_be_bytes();
        let byte4 = match (self.version, family) {
            (Version::V2, Family::V4) => self.auth.kind(),
            (Version::V2, Family::V6) => 0,
            (Version::V3, _) => interval[0],
        };
        message.extend([
            self.version.number() << 4 | ADVERTISEMENT,
            self.vrid,
            self.priority,
            count as u8,
            byte4,
            interval[1],
            0,
            0,
        ]);
        for addr in &self.addresses[..count] {
            match addr {
                IpAddr::V4(v4) => message.extend(v4.octets()),
                IpAddr::V6(v6) => message.extend(v6.octets()),
            }
        }
        if (self.version, family) == (Version::V2, Family::V4) {
            message.extend(self.auth.data());
        }
        let checksum = self.checksum(family, &message).to_be_bytes();
        message[HEADER_SIZE - 2..HEADER_SIZE].copy_from_slice(&checksum);
        message
    }

    fn checksum(&self, family: Family, message: &[u8]) -> u16 {
        let sum = Sum::default().with(message);
        let is_plain = match (self.version, family) {
            (Version::V2, Family::V4) => true,
            (Version::V3, Family::V4) => self.form == ChecksumForm::Plain,
            (_, Family::V6) => false,
        };
        if is_plain {
            sum.field()
        } else {
            // 8 + 255 × 16 bytes at most.
            sum.pseudo(self.src, self.dst, PROTOCOL, message.len() as u16)
                .field()
        }
    }

    /// The message in an IP packet. `id` is the identification of IPv4: 1, 2, 3 …, never 0.
    pub fn packet(&self, id: u16) -> Vec<u8> {
        ip(self.src, self.dst, self.ttl, id, &self.message())
    }
}

/// Puts an IP header before a message. `id` is the identification of IPv4: 1, 2, 3 …, never 0.
pub fn ip(src: IpAddr, dst: IpAddr, ttl: u8, id: u16, message: &[u8]) -> Vec<u8> {
    let mut packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = [0; 20];
            header[..2].copy_from_slice(&[0x45, TRAFFIC_CLASS]);
            header[2..4].copy_from_slice(&((20 + message.len()) as u16).to_be_bytes());
            header[4..6].copy_from_slice(&id.to_be_bytes());
            header[8..10].copy_from_slice(&[ttl, PROTOCOL]);
            header[12..16].copy_from_slice(&src.octets());
            header[16..20].copy_from_slice(&dst.octets());
            let checksum = Sum::default().with(&header).field();
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            header.to_vec()
        }
        (src, dst) => {
            let mut header = [0; 40];
            header[..2].copy_from_slice(&[0x60 | TRAFFIC_CLASS >> 4, TRAFFIC_CLASS << 4]);
            header[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
            header[6..8].copy_from_slice(&[PROTOCOL, ttl]);
            header[8..24].copy_from_slice(&octets(src));
            header[24..40].copy_from_slice(&octets(dst));
            header.to_vec()
        }
    };
    packet.extend(message);
    packet
}

/// The 16 bytes of an IPv6 address.
fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Puts an Ethernet header before an IP packet. The sender of a virtual router with a MAC of its
/// own is [`Mac::virtual_router`].
pub fn ethernet(dst: Mac, src: Mac, packet: &[u8]) -> Vec<u8> {
    let kind: u16 = match packet.first().map(|first| first >> 4) {
        Some(6) => 0x86dd,
        _ => 0x0800,
    };
    let mut frame = Vec::with_capacity(14 + packet.len());
    frame.extend(dst.0);
    frame.extend(src.0);
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame
}
