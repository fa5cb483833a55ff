//! The kernel's devices and their addresses, followed by notifications.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use vrrp::addr::{Family, Mac, is_link_local};

use super::kernel::Kernel;
use crate::netlink::message::{self, Address, Device, IfIndex, Message};
use crate::netlink::wire::{Frames, NLMSG_OVERRUN};

/// Groups that are subscribed to (RTNLGRP_*): link, IPv4 address, IPv6 address.
const GROUPS: [u32; 3] = [1, 5, 9];
/// Larger than any datagram of the kernel's.
const BUFFER: usize = 64 << 10;
/// Most datagrams taken at a time.
const SHARE: usize = 256;

/// A device as VRRP sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its index.
    pub index: IfIndex,
    /// Up, with a carrier.
    pub is_up: bool,
    /// Its MAC.
    pub mac: Mac,
    /// The device beneath it, or itself: a twin carries its VLANs and macvlans.
    pub parent: IfIndex,
}

/// See the module.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
    devices: BTreeMap<IfIndex, Device>,
    addresses: Vec<Address>,
    buffer: Vec<u8>,
}

/// What was learned.
#[derive(Debug, Default)]
pub struct News {
    /// Anything changed.
    pub changed: bool,
    /// Addresses that went, with their device.
    pub lost: Vec<(IfIndex, IpAddr)>,
    /// There is more to read.
    pub more: bool,
}

impl Links {
    /// Subscribes and lists.
    ///
    /// # Errors
    /// Of the socket or the kernel.
    pub fn open(kernel: &mut Kernel) -> io::Result<Links> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        let mut links = Links {
            socket,
            devices: BTreeMap::new(),
            addresses: Vec::new(),
            buffer: vec![0; BUFFER],
        };
        links.list(kernel)?;
        Ok(links)
    }

    /// Lets `poll` tell when there is something to read.
    ///
    /// # Errors
    /// Of epoll.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
    }

    fn list(&mut self, kernel: &mut Kernel) -> io::Result<()> {
        let all = kernel.list()?;
        self.devices.clear();
        self.addresses.clear();
        for message in all {
            self.take(message, &mut News::default());
        }
        Ok(())
    }

    /// Reads what there is, a bounded amount.
    pub fn read(&mut self, kernel: &mut Kernel) -> News {
        let mut news = News::default();
        for _ in 0..SHARE {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = self.socket.recv_from(&mut &mut buffer[..], libc::MSG_TRUNC);
            let is_lost = match received {
                Ok((len, from)) if len <= buffer.len() && from.port_number() == 0 => {
                    let mut overrun = false;
                    for frame in Frames(&buffer[..len]) {
                        overrun |= frame.kind == NLMSG_OVERRUN;
                        if let Some(message) = message::parse(&frame) {
                            self.take(message, &mut news);
                        }
                    }
                    overrun
                }
                Ok((len, _)) => len > buffer.len(),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => true,
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => false,
                Err(_) => {
                    self.buffer = buffer;
                    return news;
                }
            };
            self.buffer = buffer;
            if is_lost {
                self.list_again(kernel, &mut news);
            }
        }
        news.more = true;
        news
    }

    /// Notifications were lost: the difference to a new list takes their place.
    fn list_again(&mut self, kernel: &mut Kernel, news: &mut News) {
        let before = self.addresses.clone();
        if let Err(reason) = self.list(kernel) {
            tracing::warn!(%reason, "the kernel does not list its devices and addresses");
        }
        let is_there = |old: &Address| self.addresses.iter().any(|new| is_same(new, old));
        let gone = before.iter().filter(|old| !is_there(old));
        news.lost
            .extend(gone.map(|old| (old.index, old.addr.into())));
        news.changed = true;
    }

    fn take(&mut self, message: Message, news: &mut News) {
        news.changed = true;
        match message {
            Message::Link(device) => drop(self.devices.insert(device.index, device)),
            Message::LinkGone(index) => {
                self.devices.remove(&index);
                self.addresses.retain(|address| address.index != index);
            }
            Message::Address(new) => {
                match self.addresses.iter_mut().find(|old| is_same(old, &new)) {
                    Some(old) => *old = new,
                    None => self.addresses.push(new),
                }
            }
            Message::AddressGone(gone) => {
                self.addresses.retain(|address| !is_same(address, &gone));
                news.lost.push((gone.index, gone.addr.into()));
            }
            _ => {}
        }
    }

    /// A device by its name.
    pub fn port(&self, name: &str) -> Option<Port> {
        let device = self.devices.values().find(|device| device.name == name)?;
        let parent = match device.kind {
            message::DeviceKind::Vlan { parent, .. } | message::DeviceKind::Macvlan { parent } => {
                parent
            }
            _ => device.index,
        };
        Some(Port {
            index: device.index,
            is_up: device.admin_up && device.carrier,
            mac: Mac(device.mac.0),
            parent,
        })
    }

    /// The name of a device.
    pub fn name(&self, index: IfIndex) -> Option<&str> {
        self.devices.get(&index).map(|device| device.name.as_str())
    }

    /// All macvlans, with their names.
    pub fn macvlans(&self) -> Vec<(IfIndex, String)> {
        let is_one = |d: &&Device| matches!(d.kind, message::DeviceKind::Macvlan { .. });
        let all = self.devices.values().filter(is_one);
        all.map(|device| (device.index, device.name.clone()))
            .collect()
    }

    /// The address that adverts leave from: the first of the device that is not one of `virtual_`;
    /// for IPv6 multicast its link-local one.
    pub fn source(
        &self,
        index: IfIndex,
        family: Family,
        is_virtual: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let mut own = self
            .addresses
            .iter()
            .filter(|address| address.index == index)
            .map(|address| (IpAddr::from(address.addr), address.preferred))
            .filter(|(addr, _)| Family::of(*addr) == family && !is_virtual(*addr));
        match family {
            Family::V4 => own.next().map(|(addr, _)| addr),
            Family::V6 => own
                .find(|(addr, ok)| *ok && is_link_local(*addr))
                .map(|(addr, _)| addr),
        }
    }
}

fn is_same(a: &Address, b: &Address) -> bool {
    (a.index, a.addr, a.prefix_len) == (b.index, b.addr, b.prefix_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::DeviceKind;

    /// As if the kernel had said this much.
    fn links(messages: impl IntoIterator<Item = Message>) -> (Links, News) {
        let mut links = Links {
            socket: Socket::new(NETLINK_ROUTE).unwrap(),
            devices: BTreeMap::new(),
            addresses: Vec::new(),
            buffer: Vec::new(),
        };
        let mut news = News::default();
        for message in messages {
            links.take(message, &mut news);
        }
        (links, news)
    }

    fn device(index: IfIndex, name: &str, kind: DeviceKind) -> Device {
        Device {
            index,
            name: name.to_owned(),
            mac: dataplane::addr::Mac([2, 0, 0, 0, 0, index as u8]),
            mtu: 1500,
            admin_up: true,
            carrier: true,
            master: 0,
            kind,
        }
    }

    fn address(index: IfIndex, addr: impl Into<IpAddr>, preferred: bool) -> Address {
        Address {
            index,
            addr: addr.into().into(),
            prefix_len: 24,
            scope: 0,
            preferred,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_device_is_up_with_a_carrier_and_known_by_what_is_beneath_it() {
        let vlan = DeviceKind::Vlan { parent: 3, id: 7 };
        let off = Device {
            carrier: false,
            ..device(4, "dark", DeviceKind::Other)
        };
        let shut = Device {
            admin_up: false,
            ..device(5, "shut", DeviceKind::Other)
        };
        let (mut links, _) = links([
            Message::Link(device(3, "front", DeviceKind::Other)),
            Message::Link(device(6, "front.7", vlan)),
            Message::Link(device(7, "own", DeviceKind::Macvlan { parent: 3 })),
            Message::Link(off),
            Message::Link(shut),
        ]);
        let port = |name| links.port(name).map(|port| (port.is_up, port.parent));
        assert_eq!(port("front"), Some((true, 3)));
        assert_eq!(port("front.7"), Some((true, 3)));
        assert_eq!(port("own"), Some((true, 3)));
        assert_eq!(
            [port("dark"), port("shut")],
            [Some((false, 4)), Some((false, 5))]
        );
        assert_eq!(links.macvlans(), [(7, "own".to_owned())]);
        links.take(Message::LinkGone(3), &mut News::default());
        assert_eq!((links.port("front"), links.name(3)), (None, None));
    }

    #[test]
    fn addresses_that_went_are_told_once() {
        let (mut links, news) = links([
            Message::Address(address(3, [10, 0, 0, 1], true)),
            Message::Address(address(3, [10, 0, 0, 2], true)),
            // Said again, with another flag.
            Message::Address(address(3, [10, 0, 0, 1], false)),
            Message::AddressGone(address(3, [10, 0, 0, 1], false)),
        ]);
        assert!(news.changed);
        assert_eq!(news.lost, [(3, ip("10.0.0.1"))]);
        let first = |links: &Links| links.source(3, Family::V4, |_| false);
        assert_eq!(first(&links), Some(ip("10.0.0.2")));
        links.take(Message::LinkGone(3), &mut News::default());
        assert_eq!(first(&links), None);
    }

    #[test]
    fn adverts_leave_from_an_address_that_is_not_virtual() {
        let (links, _) = links([
            Message::Address(address(2, [10, 9, 0, 1], true)),
            Message::Address(address(3, [10, 0, 0, 100], true)),
            Message::Address(address(3, [10, 0, 0, 1], true)),
            Message::Address(address(3, ip("fd00::1"), true)),
            Message::Address(address(3, ip("fe80::100"), true)),
            Message::Address(address(3, ip("fe80::2"), false)),
            Message::Address(address(3, ip("fe80::1"), true)),
        ]);
        let is_virtual = |addr| [ip("10.0.0.100"), ip("fe80::100")].contains(&addr);
        let source = |family| links.source(3, family, is_virtual);
        assert_eq!(source(Family::V4), Some(ip("10.0.0.1")));
        assert_eq!(source(Family::V6), Some(ip("fe80::1")));
        assert_eq!(links.source(4, Family::V4, is_virtual), None);
    }
}
