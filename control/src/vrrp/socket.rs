//! Sockets: frames of one interface in and out, unicast adverts, memberships of groups.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{SockaddrLike, bind};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockFilter, Socket, Type};
use vrrp::PROTOCOL;
use vrrp::output::Datagram;
use vrrp::packet::TRAFFIC_CLASS;

/// `ETH_P_ALL` in network byte order.
const ETH_P_ALL: i32 = (libc::ETH_P_ALL as u16).to_be() as i32;
/// Larger than any frame that is let in.
pub const FRAME: usize = 9 * 1024;

/// Receive buffer of an interface, bytes: a small frame takes the kernel about 1 KiB of it, and a
/// LAN has at most 510 virtual routers.
const RECEIVE_BUFFER: usize = 2 << 20;

/// Frames of one interface, both ways.
#[derive(Debug)]
pub struct FrameSocket {
    socket: Socket,
}

impl FrameSocket {
    /// One that yields adverts, ARP and neighbour advertisements.
    ///
    /// # Errors
    /// Of the system.
    pub fn listen(index: u32) -> io::Result<FrameSocket> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ETH_P_ALL)))?;
        // Until it is bound, it would get frames of all interfaces.
        socket.attach_filter(&[SockFilter::new(BPF_RETURN, 0, 0, 0)])?;
        socket.set_nonblocking(true)?;
        // Adverts of hundreds of routers come in one burst each interval. Without the right to ask
        // for so much it stays at the system's.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER);
        bind_to(&socket, index)?;
        let this = FrameSocket { socket };
        while this
            .receive(&mut [0; 64])
            .is_ok_and(|frame| frame.is_some())
        {}
        let filter = FILTER.map(|(code, t, f, k)| SockFilter::new(code, t, f, k));
        this.socket.attach_filter(&filter)?;
        Ok(this)
    }

    /// Lets `poll` tell when there is something to read.
    ///
    /// # Errors
    /// Of epoll.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.fd()), token, Interest::READABLE)
    }

    /// The opposite.
    pub fn deregister(&self, registry: &Registry) {
        // A descriptor that is closed next leaves epoll in any case.
        let _ = registry.deregister(&mut SourceFd(&self.fd()));
    }

    fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The next frame's length, if there is one.
    ///
    /// # Errors
    /// Of the system: the interface went down, for example.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        use std::io::Read;
        match (&self.socket).read(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(Some(0)),
            Err(e) => Err(e),
        }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// Of the system: the interface is down, its queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }
}

/// Binds a packet socket to an interface, for the protocol it was made with.
fn bind_to(socket: &Socket, index: u32) -> io::Result<()> {
    let addresses = getifaddrs().map_err(io::Error::from)?;
    let link = addresses
        .filter_map(|interface| interface.address?.as_link_addr().copied())
        .find(|link| link.ifindex() == index as usize);
    let link = link.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
    debug_assert_eq!(link.family(), Some(nix::sys::socket::AddressFamily::Packet));
    bind(socket.as_raw_fd(), &link).map_err(io::Error::from)
}

const BPF_RETURN: u16 = 0x06;
const BPF_LOAD_HALF: u16 = 0x28;
const BPF_LOAD_BYTE: u16 = 0x30;
const BPF_IF_EQUAL: u16 = 0x15;
const BPF_IF_GREATER: u16 = 0x25;
/// `SKF_AD_OFF`: what is beyond is no part of the frame.
const ABOUT: u32 = 0xffff_f000;

/// Whole frames to us or to a group, without VLAN tag, of VRRP or an IPsec authentication header
/// over IP, of ARP, or of neighbour advertisements: instruction, how many to leave out if true and
/// if false, value.
#[rustfmt::skip]
const FILTER: [(u16, u8, u8, u32); 19] = [
    (BPF_LOAD_BYTE, 0, 0, ABOUT + 48), // 0: VLAN tag?
    (BPF_IF_EQUAL, 0, 16, 0),          // 1
    (BPF_LOAD_BYTE, 0, 0, ABOUT + 4),  // 2: kind of packet
    (BPF_IF_GREATER, 14, 0, 2),        // 3: above 2: for another host, or ours
    (BPF_LOAD_HALF, 0, 0, 12),         // 4: Ethernet type
    (BPF_IF_EQUAL, 11, 0, 0x0806),     // 5
    (BPF_IF_EQUAL, 2, 0, 0x0800),      // 6
    (BPF_IF_EQUAL, 4, 0, 0x86dd),      // 7
    (BPF_RETURN, 0, 0, 0),             // 8
    (BPF_LOAD_BYTE, 0, 0, 23),         // 9: protocol of IPv4
    (BPF_IF_EQUAL, 6, 0, 112),         // 10
    (BPF_IF_EQUAL, 5, 6, 51),          // 11
    (BPF_LOAD_BYTE, 0, 0, 20),         // 12: next header of IPv6
    (BPF_IF_EQUAL, 3, 0, 112),         // 13
    (BPF_IF_EQUAL, 0, 3, 58),          // 14
    (BPF_LOAD_BYTE, 0, 0, 54),         // 15: type of ICMPv6
    (BPF_IF_EQUAL, 0, 1, 136),         // 16
    (BPF_RETURN, 0, 0, 0x4_0000),      // 17
    (BPF_RETURN, 0, 0, 0),             // 18
];

/// Sends unicast adverts from one address. That it is there also keeps the kernel from answering
/// peers' adverts with "protocol unreachable".
#[derive(Debug)]
pub struct UnicastSocket {
    socket: Socket,
}

impl UnicastSocket {
    /// Opens it.
    ///
    /// # Errors
    /// Of the system: the address is not there, for example.
    pub fn open(source: IpAddr) -> io::Result<UnicastSocket> {
        let domain = Domain::for_address(SocketAddr::new(source, 0));
        let protocol = Protocol::from(i32::from(PROTOCOL));
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        // Frames are read elsewhere.
        socket.set_recv_buffer_size(0)?;
        match source {
            IpAddr::V4(_) => socket.set_tos_v4(u32::from(TRAFFIC_CLASS))?,
            IpAddr::V6(_) => socket.set_tclass_v6(u32::from(TRAFFIC_CLASS))?,
        }
        socket.bind(&SocketAddr::new(source, 0).into())?;
        Ok(UnicastSocket { socket })
    }

    /// Sends an advert.
    ///
    /// # Errors
    /// Of the system: no route, for example.
    pub fn send(&self, advert: &Datagram) -> io::Result<()> {
        let ttl = u32::from(advert.ttl);
        match advert.dst {
            IpAddr::V4(_) => self.socket.set_ttl_v4(ttl)?,
            IpAddr::V6(_) => self.socket.set_unicast_hops_v6(ttl)?,
        }
        let to = SocketAddr::new(advert.dst, 0);
        self.socket.send_to(&advert.message, &to.into()).map(drop)
    }
}

/// Membership of a group on an interface, for as long as it lives.
#[derive(Debug)]
pub struct Membership {
    _socket: Socket,
}

impl Membership {
    /// Joins.
    ///
    /// # Errors
    /// Of the system.
    pub fn join(group: IpAddr, index: u32) -> io::Result<Membership> {
        let domain = Domain::for_address(SocketAddr::new(group, 0));
        let socket = Socket::new(domain, Type::DGRAM, None)?;
        match group {
            IpAddr::V4(group) => {
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?;
            }
            IpAddr::V6(group) => socket.join_multicast_v6(&group, index)?,
        }
        Ok(Membership { _socket: socket })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter over a frame as the kernel would.
    fn accepts(frame: &[u8], is_tagged: u32, kind: u32) -> bool {
        let (mut at, mut a) = (0, 0u32);
        loop {
            let (code, t, f, k) = FILTER[at];
            at += 1;
            match code {
                BPF_RETURN => return k != 0,
                BPF_LOAD_BYTE if k == ABOUT + 48 => a = is_tagged,
                BPF_LOAD_BYTE if k == ABOUT + 4 => a = kind,
                BPF_LOAD_BYTE => match frame.get(k as usize) {
                    Some(byte) => a = u32::from(*byte),
                    None => return false,
                },
                BPF_LOAD_HALF => match frame.get(k as usize..k as usize + 2) {
                    Some(two) => a = u32::from(u16::from_be_bytes([two[0], two[1]])),
                    None => return false,
                },
                BPF_IF_EQUAL => at += usize::from(if a == k { t } else { f }),
                BPF_IF_GREATER => at += usize::from(if a > k { t } else { f }),
                _ => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn frame(kind: u16, at: &[(usize, u8)]) -> Vec<u8> {
        let mut frame = vec![0; 64];
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        for (at, byte) in at {
            frame[*at] = *byte;
        }
        frame
    }

    #[test]
    fn the_filter_takes_what_is_needed_and_no_more() {
        let to_us = |frame: &[u8]| accepts(frame, 0, 0);
        assert!(to_us(&frame(0x0806, &[])), "ARP");
        assert!(to_us(&frame(0x0800, &[(23, 112)])), "VRRP");
        assert!(to_us(&frame(0x0800, &[(23, 51)])), "AH, to be counted");
        assert!(!to_us(&frame(0x0800, &[(23, 6)])), "TCP");
        assert!(to_us(&frame(0x86dd, &[(20, 112)])), "VRRP over IPv6");
        assert!(
            to_us(&frame(0x86dd, &[(20, 58), (54, 136)])),
            "advertisement"
        );
        assert!(
            !to_us(&frame(0x86dd, &[(20, 58), (54, 135)])),
            "solicitation"
        );
        assert!(!to_us(&frame(0x86dd, &[(20, 17)])), "UDP over IPv6");
        assert!(!to_us(&frame(0x88cc, &[])), "LLDP");
        let advert = frame(0x0800, &[(23, 112)]);
        assert!(!accepts(&advert, 1, 2), "of a VLAN");
        for (kind, is_taken) in [(0, true), (1, true), (2, true), (3, false), (4, false)] {
            assert_eq!(accepts(&advert, 0, kind), is_taken, "packet type {kind}");
        }
    }
}
