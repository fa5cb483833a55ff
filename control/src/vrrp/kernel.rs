//! What a master changes in the kernel: addresses, routes, macvlans. Each call waits for the
//! kernel's answer, which comes at once.

use std::io;
use std::net::IpAddr;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use vrrp::addr::Family;

use crate::config::vrrp::{Address, Route, Rule};
use crate::netlink::message::{
    self, AF_INET, AF_INET6, IfIndex, Message, RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_GETADDR,
    RTM_GETLINK, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE,
};
use crate::netlink::wire::{
    Frames, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLMSG_DONE, NLMSG_ERROR, Request, read_u32,
};
use crate::twin::owned;

const NLM_F_ACK: u16 = 4;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const IFA_F_NODAD: u32 = 0x02;
/// No route to the address's network comes with it.
const IFA_F_NOPREFIXROUTE: u32 = 0x200;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
/// `RTPROT_KEEPALIVED`, which iproute2 prints by name: routes of VRRP.
const ROUTE_PROTOCOL: u8 = 18;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const NLM_F_EXCL: u16 = 0x200;
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_PROTOCOL: u16 = 21;
/// `FR_ACT_TO_TBL`.
const TO_TABLE: u8 = 1;

const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_NOWHERE: u8 = 255;
const UNICAST: u8 = 1;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_MACVLAN_MODE: u16 = 1;
/// `MACVLAN_MODE_PRIVATE`.
const PRIVATE: u32 = 1;
const IFF_UP: u32 = 1;

/// A label is an interface name: at most this long.
const LABEL_MAX: usize = 15;

/// The way to ask the kernel.
#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
    sequence: u32,
}

impl Kernel {
    /// Opens it.
    ///
    /// # Errors
    /// Of the socket.
    pub fn open() -> io::Result<Kernel> {
        Ok(Kernel {
            socket: Socket::new(NETLINK_ROUTE)?,
            sequence: 0,
        })
    }

    /// All devices, then all addresses.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn list(&mut self) -> io::Result<Vec<Message>> {
        let mut all = self.ask(RTM_GETLINK, NLM_F_DUMP, &[0; 16], &[])?;
        all.extend(self.ask(RTM_GETADDR, NLM_F_DUMP, &[0; 8], &[])?);
        Ok(all)
    }

    /// Adds an address, or changes the one that is there. `is_macvlan`: its network is reached by
    /// the device beneath.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn add_address(
        &mut self,
        index: IfIndex,
        address: &Address,
        device: &str,
        is_macvlan: bool,
    ) -> io::Result<()> {
        let (fixed, mut attributes) = of_address(index, address);
        let mut flags = IFA_F_NODAD;
        if is_macvlan {
            flags |= IFA_F_NOPREFIXROUTE;
        }
        attributes.push((IFA_PROTO, vec![owned::PROTOCOL]));
        attributes.push((IFA_FLAGS, flags.to_ne_bytes().to_vec()));
        let default = format!("{device}{}", owned::LABEL);
        let label = address
            .label
            .clone()
            .or((default.len() <= LABEL_MAX).then_some(default));
        if let (true, Some(label)) = (address.addr.addr.is_ipv4(), label) {
            attributes.push((IFA_LABEL, format!("{label}\0").into_bytes()));
        }
        if address.addr.addr.is_ipv6() && address.addr.prefix_len == 128 {
            // Deprecated from the start: never chosen as a source. Preferred 0, valid for ever,
            // two times that the kernel fills in.
            let life = [0, u32::MAX, 0, 0].map(u32::to_ne_bytes).concat();
            attributes.push((IFA_CACHEINFO, life));
        }
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RTM_NEWADDR, flags | NLM_F_ACK, &fixed, &attributes)
            .map(drop)
    }

    /// Removes an address; one that is not there is removed already.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn remove_address(&mut self, index: IfIndex, address: &Address) -> io::Result<bool> {
        let (fixed, attributes) = of_address(index, address);
        match self.ask(RTM_DELADDR, NLM_F_ACK, &fixed, &attributes) {
            Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(false),
            result => result.map(|_| true),
        }
    }

    /// Adds a route, or changes the one that is there.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn add_route(&mut self, route: &Route, device: Option<IfIndex>) -> io::Result<()> {
        let scope = match route.via {
            Some(_) => SCOPE_UNIVERSE,
            None => SCOPE_LINK,
        };
        let (fixed, attributes) = of_route(route, device, scope);
        let flags = NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK;
        self.ask(RTM_NEWROUTE, flags, &fixed, &attributes).map(drop)
    }

    /// Removes a route; one that is not there is removed already.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn remove_route(&mut self, route: &Route, device: Option<IfIndex>) -> io::Result<()> {
        let (fixed, attributes) = of_route(route, device, SCOPE_NOWHERE);
        match self.ask(RTM_DELROUTE, NLM_F_ACK, &fixed, &attributes) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENODEV)) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Adds a rule; one that is there is added already.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn add_rule(&mut self, rule: &Rule) -> io::Result<()> {
        let (fixed, attributes) = of_rule(rule);
        // Without the flag the kernel would keep two of them.
        let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK;
        match self.ask(RTM_NEWRULE, flags, &fixed, &attributes) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Removes a rule; one that is not there is removed already.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn remove_rule(&mut self, rule: &Rule) -> io::Result<()> {
        let (fixed, attributes) = of_rule(rule);
        match self.ask(RTM_DELRULE, NLM_F_ACK, &fixed, &attributes) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Makes a macvlan in private mode, down.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn add_macvlan(&mut self, name: &str, parent: IfIndex, mac: [u8; 6]) -> io::Result<()> {
        let data = attribute(IFLA_MACVLAN_MODE, &PRIVATE.to_ne_bytes());
        let info = [
            attribute(IFLA_INFO_KIND, b"macvlan\0"),
            attribute(IFLA_INFO_DATA, &data),
        ];
        let attributes = [
            (IFLA_IFNAME, format!("{name}\0").into_bytes()),
            (IFLA_ADDRESS, mac.to_vec()),
            (IFLA_LINK, parent.to_ne_bytes().to_vec()),
            (IFLA_LINKINFO, info.concat()),
        ];
        let flags = NLM_F_CREATE | NLM_F_ACK;
        self.ask(RTM_NEWLINK, flags, &[0; 16], &attributes)
            .map(drop)
    }

    /// Switches a device on.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn set_up(&mut self, index: IfIndex) -> io::Result<()> {
        let mut fixed = of_link(index);
        fixed[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        fixed[12..].copy_from_slice(&IFF_UP.to_ne_bytes());
        self.ask(RTM_NEWLINK, NLM_F_ACK, &fixed, &[]).map(drop)
    }

    /// Removes a device.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn remove_link(&mut self, index: IfIndex) -> io::Result<()> {
        self.ask(RTM_DELLINK, NLM_F_ACK, &of_link(index), &[])
            .map(drop)
    }

    /// Sends a request and reads all of its answer.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        attributes: &[(u16, Vec<u8>)],
    ) -> io::Result<Vec<Message>> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let request = Request::new(kind, flags, self.sequence, fixed);
        let request = attributes
            .iter()
            .fold(request, |r, (kind, value)| r.with(*kind, value));
        self.socket
            .send_to(&request.finish(), &SocketAddr::new(0, 0), 0)?;
        let mut rows = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for frame in Frames(&datagram).filter(|frame| frame.sequence == self.sequence) {
                match frame.kind {
                    NLMSG_DONE => return Ok(rows),
                    NLMSG_ERROR => {
                        return match read_u32(frame.body, 0).map_or(0, |e| -(e as i32)) {
                            0 => Ok(rows),
                            error => Err(io::Error::from_raw_os_error(error)),
                        };
                    }
                    _ => rows.extend(message::parse(&frame)),
                }
            }
        }
    }
}

/// An attribute within another.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::from((4 + value.len() as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn family(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// `ifinfomsg`.
fn of_link(index: IfIndex) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed
}

/// `ifaddrmsg` and the attributes that name an address.
fn of_address(index: IfIndex, address: &Address) -> ([u8; 8], Vec<(u16, Vec<u8>)>) {
    let addr = address.addr.addr;
    let mut fixed = [0; 8];
    (fixed[0], fixed[1], fixed[3]) = (family(addr), address.addr.prefix_len, address.scope);
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    let bytes = octets(addr);
    (
        fixed,
        vec![(IFA_LOCAL, bytes.clone()), (IFA_ADDRESS, bytes)],
    )
}

/// `rtmsg` and the attributes of a route.
fn of_route(route: &Route, device: Option<IfIndex>, scope: u8) -> ([u8; 12], Vec<(u16, Vec<u8>)>) {
    let mut fixed = [0; 12];
    (fixed[0], fixed[1]) = (family(route.to.addr), route.to.prefix_len);
    fixed[5..8].copy_from_slice(&[ROUTE_PROTOCOL, scope, UNICAST]);
    let mut attributes = vec![(RTA_TABLE, route.table.to_ne_bytes().to_vec())];
    if route.to.prefix_len > 0 {
        attributes.push((RTA_DST, octets(route.to.addr)));
    }
    attributes.extend(route.via.map(|via| (RTA_GATEWAY, octets(via))));
    attributes.extend(device.map(|index| (RTA_OIF, index.to_ne_bytes().to_vec())));
    attributes.extend(route.source.map(|source| (RTA_PREFSRC, octets(source))));
    attributes.extend(
        route
            .metric
            .map(|metric| (RTA_PRIORITY, metric.to_ne_bytes().to_vec())),
    );
    (fixed, attributes)
}

/// `fib_rule_hdr` and the attributes of a rule.
fn of_rule(rule: &Rule) -> ([u8; 12], Vec<(u16, Vec<u8>)>) {
    let mut fixed = [0; 12];
    fixed[0] = match rule.family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    };
    fixed[7] = TO_TABLE;
    let mut attributes = vec![
        (FRA_PRIORITY, rule.priority.to_ne_bytes().to_vec()),
        (FRA_TABLE, rule.table.to_ne_bytes().to_vec()),
        (FRA_PROTOCOL, vec![ROUTE_PROTOCOL]),
    ];
    for (at, kind, network) in [(1, FRA_DST, rule.to), (2, FRA_SRC, rule.from)] {
        if let Some(network) = network {
            fixed[at] = network.prefix_len;
            attributes.push((kind, octets(network.addr)));
        }
    }
    for (kind, name) in [(FRA_IIFNAME, &rule.iif), (FRA_OIFNAME, &rule.oif)] {
        attributes.extend(
            name.as_ref()
                .map(|name| (kind, format!("{name}\0").into_bytes())),
        );
    }
    if let Some((mark, mask)) = rule.mark {
        attributes.push((FRA_FWMARK, mark.to_ne_bytes().to_vec()));
        attributes.push((FRA_FWMASK, mask.to_ne_bytes().to_vec()));
    }
    (fixed, attributes)
}
