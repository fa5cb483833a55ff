//! Packets of health checks that ask for the virtual address of one real server, on the way that
//! packets of clients take: out by a worker, and back before the kernel sees them. The kernel of
//! this host holds the virtual address and cannot talk to it.
//!
//! The threads at both ends are control's; a worker only sends what it is given
//! (`worker/probe.rs`).

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::addr::{Addr, Family};
use crate::service::{Tunnel, TunnelChecksum, TunnelKind};
use crate::wire::{ethernet, ipv4, ipv6};

/// Frames that wait in each direction. What is too much is lost, and TCP sends it again.
const SLOTS: usize = 4096;

const TCP: u8 = 6;

/// How a probe reaches its real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// The real server.
    pub server: Addr,
    /// Wrapped like this; without it the frame goes to the server's MAC as it is (direct routing).
    pub tunnel: Option<Tunnel>,
}

impl Way {
    /// Bytes of [`Way::header`].
    pub const LEN: usize = 24;

    /// What stands before the frame of a probe on its way to a worker.
    pub fn header(&self) -> [u8; Way::LEN] {
        let mut bytes = [0; Way::LEN];
        let tunnel = self.tunnel.unwrap_or_default();
        let kind = match (self.tunnel, tunnel.kind) {
            (None, _) => 0,
            (_, TunnelKind::IpIp) => 1,
            (_, TunnelKind::Gue) => 2,
            (_, TunnelKind::Gre) => 3,
        };
        let checksum = match tunnel.checksum {
            TunnelChecksum::None => 0,
            TunnelChecksum::Full => 1,
            TunnelChecksum::Remote => 2,
        };
        bytes[..16].copy_from_slice(&self.server.octets());
        bytes[16..18].copy_from_slice(&[kind, checksum]);
        bytes[18..20].copy_from_slice(&tunnel.port.to_be_bytes());
        bytes
    }

    /// Back from [`Way::header`].
    pub fn read(bytes: &[u8; Way::LEN]) -> Option<Way> {
        let (addr, rest) = bytes.split_first_chunk::<16>()?;
        let &[kind, checksum, high, low, ..] = rest else {
            return None;
        };
        let kind = match kind {
            0 => None,
            1 => Some(TunnelKind::IpIp),
            2 => Some(TunnelKind::Gue),
            3 => Some(TunnelKind::Gre),
            _ => return None,
        };
        let checksum = match checksum {
            0 => TunnelChecksum::None,
            1 => TunnelChecksum::Full,
            2 => TunnelChecksum::Remote,
            _ => return None,
        };
        Some(Way {
            server: Addr::v6(*addr),
            tunnel: kind.map(|kind| Tunnel {
                kind,
                port: u16::from_be_bytes([high, low]),
                checksum,
            }),
        })
    }

    /// An IP packet as it is given to a worker: this way, an Ethernet header whose MACs the worker
    /// writes, the packet.
    pub fn frame(&self, packet: &[u8]) -> Vec<u8> {
        let ethertype = match packet.first().map_or(0, |first| first >> 4) {
            6 => ethernet::TYPE_IPV6,
            _ => ethernet::TYPE_IPV4,
        };
        let mut frame = Vec::with_capacity(Way::LEN + ethernet::HEADER_LEN + packet.len());
        frame.extend_from_slice(&self.header());
        frame.extend_from_slice(&[0; 12]);
        frame.extend_from_slice(&ethertype.to_be_bytes());
        frame.extend_from_slice(packet);
        frame
    }
}

/// Wakes a thread.
type Bell = Box<dyn Fn() + Send + Sync>;

/// Where probes go out and their answers come back: between the thread that checks and the one
/// that moves frames between workers and the kernel.
pub struct Exchange {
    /// Addresses that probes come from.
    addresses: Box<[Addr]>,
    /// Whether this host holds each of them.
    held: Box<[AtomicBool]>,
    out: ArrayQueue<Vec<u8>>,
    back: ArrayQueue<Vec<u8>>,
    pump: OnceLock<Bell>,
    checker: OnceLock<Bell>,
}

impl Exchange {
    /// Probes come from these addresses, at most one of each family.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Exchange {
        let addresses: Box<[Addr]> = addresses.into_iter().map(Addr::from).collect();
        Exchange {
            held: addresses.iter().map(|_| AtomicBool::new(false)).collect(),
            addresses,
            out: ArrayQueue::new(SLOTS),
            back: ArrayQueue::new(SLOTS),
            pump: OnceLock::new(),
            checker: OnceLock::new(),
        }
    }

    /// The address that probes of a family come from.
    pub fn address(&self, family: Family) -> Option<Addr> {
        let mut all = self.addresses.iter().copied();
        all.find(|addr| addr.family() == family)
    }

    /// Takes over which of its addresses this host holds: nobody answers for another.
    pub fn follow(&self, is_held: impl Fn(Addr) -> bool) {
        for (addr, held) in self.addresses.iter().zip(&self.held) {
            held.store(is_held(*addr), Ordering::Relaxed);
        }
    }

    /// Whether this host holds an address.
    pub fn holds(&self, addr: Addr) -> bool {
        let mut all = self.addresses.iter().zip(&self.held);
        all.any(|(one, held)| *one == addr && held.load(Ordering::Relaxed))
    }

    /// How the thread that takes probes to a worker is woken; the first call counts.
    pub fn wake_pump_by(&self, bell: impl Fn() + Send + Sync + 'static) {
        let _ = self.pump.set(Box::new(bell));
    }

    /// How the thread that reads answers is woken; the first call counts.
    pub fn wake_checker_by(&self, bell: impl Fn() + Send + Sync + 'static) {
        let _ = self.checker.set(Box::new(bell));
    }

    /// Sends an IP packet; lost if too many wait.
    pub fn send(&self, way: &Way, packet: &[u8]) {
        let _ = self.out.push(way.frame(packet));
        if let Some(wake) = self.pump.get() {
            wake();
        }
    }

    /// Whether a packet waits to be taken to a worker.
    pub fn has_probes(&self) -> bool {
        !self.out.is_empty()
    }

    /// The next frame for a worker.
    pub fn next_probe(&self) -> Option<Vec<u8>> {
        self.out.pop()
    }

    /// The next IP packet that came back.
    pub fn next_answer(&self) -> Option<Vec<u8>> {
        self.back.pop()
    }

    /// Takes a frame that is on its way to the kernel if it is a TCP segment for an address of
    /// ours; the kernel would refuse it, for its source is an address of this host.
    pub fn take(&self, frame: &[u8]) -> bool {
        let Some(packet) = segment(frame, &self.addresses) else {
            return false;
        };
        let _ = self.back.push(packet.to_vec());
        if let Some(wake) = self.checker.get() {
            wake();
        }
        true
    }
}

/// The whole IP packet in a frame, if it carries a TCP segment to one of these addresses.
fn segment<'a>(frame: &'a [u8], to: &[Addr]) -> Option<&'a [u8]> {
    let (header, rest) = frame.split_first_chunk::<{ ethernet::HEADER_LEN }>()?;
    let (ethertype, packet) = match u16::from_be_bytes([header[12], header[13]]) {
        ethernet::TYPE_VLAN => {
            let (tag, rest) = rest.split_first_chunk::<4>()?;
            (u16::from_be_bytes([tag[2], tag[3]]), rest)
        }
        ethertype => (ethertype, rest),
    };
    let (protocol, dst, len) = match ethertype {
        ethernet::TYPE_IPV4 => {
            let h = packet.first_chunk::<{ ipv4::HEADER_LEN }>()?;
            let dst = Addr::v4([h[16], h[17], h[18], h[19]]);
            // A piece of a packet is nothing that a check can read.
            let whole = u16::from_be_bytes([h[6], h[7]]) & 0x3fff == 0;
            let len = u16::from_be_bytes([h[2], h[3]]);
            (whole.then_some(h[9])?, dst, usize::from(len))
        }
        ethernet::TYPE_IPV6 => {
            let h = packet.first_chunk::<{ ipv6::HEADER_LEN }>()?;
            let (_, dst) = h.split_last_chunk::<16>()?;
            let len = usize::from(u16::from_be_bytes([h[4], h[5]])) + ipv6::HEADER_LEN;
            (h[6], Addr::v6(*dst), len)
        }
        _ => return None,
    };
    if protocol != TCP || !to.contains(&dst) {
        return None;
    }
    // Without the padding of a short frame.
    packet.get(..len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_survive_their_header() {
        let server = Addr::v4([10, 2, 0, 11]);
        let tunnel = |kind, port, checksum| {
            Some(Tunnel {
                kind,
                port,
                checksum,
            })
        };
        for tunnel in [
            None,
            tunnel(TunnelKind::IpIp, 0, TunnelChecksum::None),
            tunnel(TunnelKind::Gre, 0, TunnelChecksum::Full),
            tunnel(TunnelKind::Gue, 6080, TunnelChecksum::Remote),
        ] {
            let way = Way { server, tunnel };
            assert_eq!(Way::read(&way.header()), Some(way));
        }
        assert_eq!(Way::read(&[9; Way::LEN]), None);
    }

    /// An Ethernet frame with the beginning of an IPv4 packet of 40 bytes, padded.
    fn frame(dst: [u8; 4], protocol: u8, pieces: u8) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[17] = 40;
        frame[20] = pieces;
        frame[23] = protocol;
        frame[30..34].copy_from_slice(&dst);
        frame
    }

    #[test]
    fn only_segments_for_the_probe_address_are_taken() {
        let exchange = Exchange::new([IpAddr::from([10, 1, 0, 7])]);
        assert!(!exchange.take(&frame([10, 1, 0, 8], TCP, 0)));
        assert!(!exchange.take(&frame([10, 1, 0, 7], 1, 0)), "a ping");
        assert!(!exchange.take(&frame([10, 1, 0, 7], TCP, 0x20)), "a piece");
        assert!(!exchange.take(&frame([10, 1, 0, 7], TCP, 0)[..40]), "cut");
        assert_eq!(exchange.next_answer(), None);
        assert!(exchange.take(&frame([10, 1, 0, 7], TCP, 0x40)));
        assert_eq!(exchange.next_answer().map(|p| p.len()), Some(40));
        let mut tagged = frame([10, 1, 0, 7], TCP, 0);
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        assert!(exchange.take(&tagged));
    }
}
