//! `address:port` as printed, with names or numbers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use crate::api::Protocol;
use crate::cli::names::Names;

/// Names of hosts that are remembered: a listing may have millions of clients.
const REMEMBERED: usize = 1 << 16;

/// Prints endpoints; asks for a name once as a rule.
pub struct Endpoints<'a> {
    names: Option<&'a dyn Names>,
    hosts: RefCell<HashMap<IpAddr, Option<String>>>,
    services: RefCell<HashMap<(u16, Protocol), Option<String>>>,
}

impl<'a> Endpoints<'a> {
    /// Names from `names`, or numbers.
    pub fn new(names: &'a dyn Names, numeric: bool) -> Self {
        Endpoints {
            names: (!numeric).then_some(names),
            hosts: RefCell::default(),
            services: RefCell::default(),
        }
    }

    /// In full; IPv6 in brackets.
    pub fn full(&self, addr: IpAddr, port: u16, protocol: Protocol) -> String {
        let host = self.host(addr).unwrap_or_else(|| addr.to_string());
        let port = self
            .service(port, protocol)
            .unwrap_or_else(|| port.to_string());
        if addr.is_ipv6() {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }

    /// For the columns of a listing, where an IPv4 endpoint is cut to 28 characters.
    pub fn column(&self, addr: IpAddr, port: u16, protocol: Protocol) -> String {
        let full = self.full(addr, port, protocol);
        if addr.is_ipv6() {
            full
        } else {
            full.chars().take(28).collect()
        }
    }

    fn host(&self, addr: IpAddr) -> Option<String> {
        let names = self.names?;
        let mut hosts = self.hosts.borrow_mut();
        if hosts.len() >= REMEMBERED {
            hosts.clear();
        }
        hosts
            .entry(addr)
            .or_insert_with(|| names.host(addr))
            .clone()
    }

    fn service(&self, port: u16, protocol: Protocol) -> Option<String> {
        let names = self.names?;
        let mut services = self.services.borrow_mut();
        services
            .entry((port, protocol))
            .or_insert_with(|| names.service(port, protocol))
            .clone()
    }
}
