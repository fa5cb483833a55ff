//! Addresses on twins that are RVS's own, not the operator's: virtual addresses of VRRP.
//!
//! Twins outlive the process, so the addresses of a dead master would stay and be answered for
//! by two. Each is marked when it is added: by the address protocol (`IFA_PROTO`, Linux 5.18)
//! 112, VRRP's protocol number, or, for IPv4 on older kernels, by the label `DEVICE:vrrp`.
//! Before a port starts, what carries the mark is removed.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use dataplane::addr::{Addr, Family};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::netlink::message::{AF_INET, AF_INET6, IfIndex, RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR};
use crate::netlink::wire::{
    Attributes, Frame, Frames, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLMSG_DONE, NLMSG_ERROR,
    Request, read_text, read_u8, read_u32,
};

/// `IFA_PROTO` of our addresses.
pub const PROTOCOL: u8 = 112;
/// Label of our IPv4 addresses after the device's name.
pub const LABEL: &str = ":vrrp";
/// A label is an interface name: at most this long.
const LABEL_MAX: usize = 15;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const IFA_F_NODAD: u32 = 2;
const NLM_F_ACK: u16 = 4;
const SEQUENCE: u32 = 1;

/// Why an address could not be added or removed.
#[derive(Debug, thiserror::Error)]
#[error("{what} on {device}: {source}")]
pub struct OwnedError {
    what: String,
    device: String,
    source: io::Error,
}

/// Adds an address of ours, without duplicate address detection.
///
/// # Errors
/// Of the kernel.
pub fn add(device: &str, addr: Addr, prefix_len: u8) -> Result<(), OwnedError> {
    let fail = |source| OwnedError {
        what: format!("adding address {addr}/{prefix_len}"),
        device: device.into(),
        source,
    };
    let index = super::index(device).map_err(fail)?;
    let label = format!("{device}{LABEL}");
    let mut request = change(
        RTM_NEWADDR,
        NLM_F_CREATE | NLM_F_REPLACE,
        index,
        addr,
        prefix_len,
    )
    .with(IFA_PROTO, &[PROTOCOL])
    .with(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
    if addr.family() == Family::V4 && label.len() <= LABEL_MAX {
        request = request.with(IFA_LABEL, format!("{label}\0").as_bytes());
    }
    ask(&Socket::new(NETLINK_ROUTE).map_err(fail)?, request)
        .map(drop)
        .map_err(fail)
}

/// Removes addresses of ours from a device, except those of `keep`; returns them.
///
/// # Errors
/// Of the kernel, at the first address that cannot be removed.
pub fn remove_all(device: &str, keep: &BTreeSet<IpAddr>) -> Result<Vec<IpAddr>, OwnedError> {
    let fail = |what: String| {
        move |source| OwnedError {
            what,
            device: device.into(),
            source,
        }
    };
    let listing = || fail("listing addresses".into());
    let index = super::index(device).map_err(listing())?;
    let socket = Socket::new(NETLINK_ROUTE).map_err(listing())?;
    let list = Request::new(RTM_GETADDR, NLM_F_DUMP, SEQUENCE, &[0; 8]);
    let mut ours = Vec::new();
    for body in ask(&socket, list).map_err(listing())? {
        ours.extend(owned(&body, index, device));
    }
    ours.retain(|(addr, _)| !keep.contains(&IpAddr::from(*addr)));
    for (addr, prefix_len) in &ours {
        let request = change(RTM_DELADDR, 0, index, *addr, *prefix_len);
        match ask(&socket, request) {
            // An IPv4 address goes with the first of its network.
            Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
            result => {
                result.map_err(fail(format!("removing address {addr}/{prefix_len}")))?;
            }
        }
    }
    Ok(ours.into_iter().map(|(addr, _)| addr.into()).collect())
}

/// The address in an `ifaddrmsg`, if it is on this device and carries the mark.
fn owned(body: &[u8], index: IfIndex, device: &str) -> Option<(Addr, u8)> {
    if read_u32(body, 4)? != index {
        return None;
    }
    let find = |kind| Attributes::after(body, 8).find(kind);
    let value = find(IFA_LOCAL).or(find(IFA_ADDRESS))?;
    let addr = match value.len() {
        4 => Addr::v4(value.try_into().ok()?),
        _ => Addr::v6(value.try_into().ok()?),
    };
    let by_protocol = find(IFA_PROTO) == Some(&[PROTOCOL][..]);
    let by_label = find(IFA_LABEL)
        .map(read_text)
        .is_some_and(|l| l == format!("{device}{LABEL}"));
    (by_protocol || by_label).then_some((addr, read_u8(body, 1)?))
}

fn change(kind: u16, flags: u16, index: IfIndex, addr: Addr, prefix_len: u8) -> Request {
    let (v4, v6) = (addr.octets_v4(), addr.octets());
    let (family, bytes) = match addr.family() {
        Family::V4 => (AF_INET, &v4[..]),
        Family::V6 => (AF_INET6, &v6[..]),
    };
    let mut fixed = [0; 8];
    (fixed[0], fixed[1]) = (family, prefix_len);
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    Request::new(kind, flags | NLM_F_ACK, SEQUENCE, &fixed)
        .with(IFA_LOCAL, bytes)
        .with(IFA_ADDRESS, bytes)
}

/// Sends a request and reads all of its answer. Used at start only: it waits for the kernel.
fn ask(socket: &Socket, request: Request) -> io::Result<Vec<Vec<u8>>> {
    socket.send_to(&request.finish(), &SocketAddr::new(0, 0), 0)?;
    let mut rows = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for Frame { kind, body, .. } in Frames(&datagram) {
            match kind {
                NLMSG_DONE => return Ok(rows),
                NLMSG_ERROR => {
                    return match read_u32(body, 0).map_or(0, |e| -(e as i32)) {
                        0 => Ok(rows),
                        error => Err(io::Error::from_raw_os_error(error)),
                    };
                }
                _ => rows.push(body.to_vec()),
            }
        }
    }
}
