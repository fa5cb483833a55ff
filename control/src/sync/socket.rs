//! The sockets: bound to their interface, so that messages go nowhere else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};

use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::api::{DaemonSpec, SyncRole};

/// A kernel interface.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Its number.
    pub index: u32,
    /// Its MTU, bytes; 1500 if unknown.
    pub mtu: u32,
}

impl Device {
    /// The interface of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn find(name: &str) -> io::Result<Device> {
        let any = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        let index = rustix::net::netdevice::name_to_index(&any, name)?;
        let mtu = std::fs::read_to_string(format!("/sys/class/net/{name}/mtu"));
        let mtu = mtu.ok().and_then(|text| text.trim().parse().ok());
        Ok(Device {
            index,
            mtu: mtu.unwrap_or(1500),
        })
    }
}

/// What opens the sockets of a daemon, and opens them again when its interface is another one: sockets
/// stay bound to one that was removed, and its group is left with it.
#[derive(Debug)]
pub struct Opener {
    spec: DaemonSpec,
    ports: u16,
    /// `sync_sock_size`.
    buffer: usize,
    /// The interface that the sockets are bound to.
    index: u32,
    is_gone: bool,
}

/// What has become of the interface since it was looked at last.
#[derive(Debug)]
pub enum Change {
    /// Nothing.
    None,
    /// It is not there any more.
    Gone,
    /// It is there again; sockets for it.
    Back(Vec<UdpSocket>),
    /// It is there again, but sockets cannot be had yet.
    Failed(io::Error),
}

impl Opener {
    /// For these ports of this interface; and the sockets.
    ///
    /// # Errors
    /// Of the system.
    pub fn open(
        spec: &DaemonSpec,
        device: &Device,
        ports: u16,
        buffer: usize,
    ) -> io::Result<(Opener, Vec<UdpSocket>)> {
        let opener = Opener {
            spec: spec.clone(),
            ports,
            buffer,
            index: device.index,
            is_gone: false,
        };
        let sockets = opener.sockets(device)?;
        Ok((opener, sockets))
    }

    fn sockets(&self, device: &Device) -> io::Result<Vec<UdpSocket>> {
        let open = match self.spec.role {
            SyncRole::Master => sender,
            SyncRole::Backup => receiver,
        };
        let open = |n| open(&self.spec, device, n, self.buffer);
        (0..self.ports).map(open).collect()
    }

    /// The sockets that were opened last cannot be used: the next look opens others.
    pub fn again(&mut self) {
        self.is_gone = true;
    }

    /// Looks whether the interface is still the one that the sockets are bound to.
    pub fn look(&mut self) -> Change {
        let Ok(device) = Device::find(&self.spec.interface) else {
            let was_there = !std::mem::replace(&mut self.is_gone, true);
            return if was_there {
                Change::Gone
            } else {
                Change::None
            };
        };
        if device.index == self.index && !self.is_gone {
            return Change::None;
        }
        match self.sockets(&device) {
            Ok(sockets) => {
                (self.index, self.is_gone) = (device.index, false);
                Change::Back(sockets)
            }
            Err(e) => Change::Failed(e),
        }
    }

    /// Its interface.
    pub fn interface(&self) -> &str {
        &self.spec.interface
    }
}

fn open(group: IpAddr, interface: &str) -> io::Result<Socket> {
    let domain = match group {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(domain, kind, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    Ok(socket)
}

/// `scope`: of a link-local address.
fn at(addr: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match addr {
        IpAddr::V4(addr) => SocketAddrV4::new(addr, port).into(),
        IpAddr::V6(addr) => SocketAddrV6::new(addr, port, 0, scope).into(),
    }
}

/// The socket of port number `n` that messages are sent by. They do not come back to this host.
///
/// # Errors
/// Of the system.
pub fn sender(spec: &DaemonSpec, device: &Device, n: u16, buffer: usize) -> io::Result<UdpSocket> {
    let socket = open(spec.group, &spec.interface)?;
    let hops = u32::from(spec.ttl);
    match spec.group {
        IpAddr::V4(group) if group.is_multicast() => {
            let any = Ipv4Addr::UNSPECIFIED;
            sockopt::set_ip_multicast_if_with_ifindex(&socket, &group, &any, device.index)?;
            socket.set_multicast_loop_v4(false)?;
            socket.set_multicast_ttl_v4(hops)?;
        }
        IpAddr::V4(_) => sockopt::set_ip_ttl(&socket, hops.max(1))?,
        IpAddr::V6(group) if group.is_multicast() => {
            socket.set_multicast_if_v6(device.index)?;
            socket.set_multicast_loop_v6(false)?;
            socket.set_multicast_hops_v6(hops)?;
        }
        IpAddr::V6(_) => sockopt::set_ipv6_unicast_hops(&socket, Some(spec.ttl.max(1)))?,
    }
    if buffer != 0 {
        socket.set_send_buffer_size(buffer)?;
    }
    let port = spec
        .port
        .checked_add(n)
        .ok_or(io::ErrorKind::InvalidInput)?;
    socket.connect(&at(spec.group, port, device.index).into())?;
    Ok(socket.into())
}

/// The socket of port number `n` that messages come by.
///
/// # Errors
/// Of the system.
pub fn receiver(
    spec: &DaemonSpec,
    device: &Device,
    n: u16,
    buffer: usize,
) -> io::Result<UdpSocket> {
    let socket = open(spec.group, &spec.interface)?;
    socket.set_reuse_address(true)?;
    if buffer != 0 {
        socket.set_recv_buffer_size(buffer)?;
    }
    let local = match spec.group {
        group if group.is_multicast() => group,
        // From the one peer to whatever address we have there.
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let port = spec
        .port
        .checked_add(n)
        .ok_or(io::ErrorKind::InvalidInput)?;
    socket.bind(&at(local, port, device.index).into())?;
    match spec.group {
        IpAddr::V4(group) if group.is_multicast() => {
            let any = Ipv4Addr::UNSPECIFIED;
            sockopt::set_ip_add_membership_with_ifindex(&socket, &group, &any, device.index)?;
        }
        IpAddr::V6(group) if group.is_multicast() => {
            socket.join_multicast_v6(&group, device.index)?;
        }
        _ => {}
    }
    Ok(socket.into())
}
