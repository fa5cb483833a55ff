//! Names of hosts and services, both ways.
//!
//! Behind a trait because answers depend on the machine: tests bring their own.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use dns_lookup::{AddrFamily, AddrInfoHints, SockType, getaddrinfo, getnameinfo};

use crate::api::Protocol;

/// A source of names.
pub trait Names {
    /// Name of an address.
    fn host(&self, addr: IpAddr) -> Option<String>;
    /// Name of a port.
    fn service(&self, port: u16, protocol: Protocol) -> Option<String>;
    /// First address of a name, of the family asked for.
    fn resolve_host(&self, name: &str, ipv6: bool) -> Option<IpAddr>;
    /// Port of a service name.
    fn resolve_service(&self, name: &str, protocol: Protocol) -> Option<u16>;
}

/// The machine's own sources: hosts file, DNS, services file, as nsswitch orders them.
#[derive(Clone, Copy, Debug)]
pub struct SystemNames;

impl Names for SystemNames {
    fn host(&self, addr: IpAddr) -> Option<String> {
        let flags = libc::NI_NAMEREQD | libc::NI_NUMERICSERV;
        getnameinfo(&SocketAddr::new(addr, 0), flags)
            .ok()
            .map(|(host, _)| host)
    }

    fn service(&self, port: u16, protocol: Protocol) -> Option<String> {
        let mut flags = libc::NI_NUMERICHOST;
        if protocol == Protocol::Udp {
            flags |= libc::NI_DGRAM;
        }
        let any = SocketAddr::from(([0, 0, 0, 0], port));
        let (_, service) = getnameinfo(&any, flags).ok()?;
        // getnameinfo knows no SCTP: a name of TCP is one of SCTP too if it leads back here.
        let is_other =
            protocol == Protocol::Sctp && self.resolve_service(&service, protocol) != Some(port);
        (service.parse() != Ok(port) && !is_other).then_some(service)
    }

    fn resolve_host(&self, name: &str, ipv6: bool) -> Option<IpAddr> {
        let mut addrs = (name, 0).to_socket_addrs().ok()?;
        addrs.find(|a| a.is_ipv6() == ipv6).map(|a| a.ip())
    }

    fn resolve_service(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let kind = match protocol {
            Protocol::Tcp | Protocol::Sctp => SockType::Stream,
            Protocol::Udp => SockType::DGram,
        };
        let number = match protocol {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
            Protocol::Sctp => libc::IPPROTO_SCTP,
        };
        let hints = AddrInfoHints {
            address: AddrFamily::Inet.into(),
            socktype: kind.into(),
            protocol: number,
            ..AddrInfoHints::default()
        };
        let first = getaddrinfo(None, Some(name), Some(hints))
            .ok()?
            .next()?
            .ok()?;
        Some(first.sockaddr.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonsense_name_is_no_service() {
        assert_eq!(
            SystemNames.resolve_service("no-such-service", Protocol::Tcp),
            None
        );
    }

    #[test]
    fn a_port_without_a_name_has_none() {
        assert_eq!(SystemNames.service(64_999, Protocol::Udp), None);
    }
}
