//! The netlink socket around the mirror. Carries out, decides nothing, never blocks.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use dataplane::addr::{Addr, Family};
use dataplane::route::LinkId;
use dataplane::time::Instant;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::links::Holder;
use super::message::{self, AF_INET, AF_INET6, AF_UNSPEC, IfIndex};
use super::mirror::{Action, Config, Dump, Input, Mirror};
use super::wire::{
    self, Frame, Frames, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_OVERRUN, Request,
};
use crate::host::Host;
use crate::update::Update;

/// Groups that are subscribed to (RTNLGRP_*, linux/rtnetlink.h): link, neigh, IPv4 address,
/// IPv4 route, IPv4 rule, IPv6 address, IPv6 route, IPv6 rule, nexthop.
const GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 32];
/// Messages taken per call: some milliseconds of work.
const BUDGET: usize = 2_000;
/// Larger than any datagram of the kernel's.
const BUFFER: usize = 256 << 10;
/// Sequence number of requests whose answer is of no interest.
const UNANSWERED: u32 = 0;

/// Why the mirror cannot start.
#[derive(Debug, thiserror::Error)]
#[error("rtnetlink socket: {step}: {source}")]
pub struct OpenError {
    step: &'static str,
    source: io::Error,
}

/// See the module.
#[derive(Debug)]
pub struct Driver {
    socket: Socket,
    port: u32,
    sequence: u32,
    /// Sequence number and list of the running dump; `None` if it could not be asked for yet.
    running: Option<(u32, Dump)>,
    unsent: Option<Dump>,
    /// A row of the running dump was marked as inconsistent.
    interrupted: bool,
    buffer: Vec<u8>,
    mirror: Mirror,
    updates: Vec<Update>,
    local_changed: bool,
    warnings: BTreeSet<String>,
    actions: Vec<Action>,
}

impl Driver {
    /// Subscribes, and asks for the first list. `buffer_kib` is the size of the receive buffer.
    ///
    /// # Errors
    /// Of the socket, with the step that failed.
    pub fn open(config: Config, buffer_kib: u32) -> Result<Driver, OpenError> {
        let at = |step| move |source| OpenError { step, source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(at("open"))?;
        let address = socket.bind_auto().map_err(at("bind"))?;
        socket
            .set_non_blocking(true)
            .map_err(at("set non-blocking"))?;
        // Makes dumps obey their filters.
        socket
            .set_netlink_get_strict_chk(true)
            .map_err(at("set strict checking"))?;
        let size = (buffer_kib as usize) << 10;
        // More than net.core.rmem_max takes CAP_NET_ADMIN; without it, as much as is allowed.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(socket.as_fd(), size)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(socket.as_fd(), size))
            .map_err(|e| at("set the receive buffer")(e.into()))?;
        for group in GROUPS {
            socket.add_membership(group).map_err(at("subscribe"))?;
        }
        let mut actions = Vec::new();
        let mirror = Mirror::new(config, &mut actions);
        let mut driver = Driver {
            port: address.port_number(),
            socket,
            sequence: UNANSWERED,
            running: None,
            unsent: None,
            interrupted: false,
            buffer: vec![0; BUFFER],
            mirror,
            updates: Vec::new(),
            local_changed: false,
            warnings: BTreeSet::new(),
            actions,
        };
        driver.carry_out();
        Ok(driver)
    }

    /// The mirror, for listings.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Who holds an address of this host.
    pub fn holder(&self, addr: Addr) -> Option<Holder> {
        self.mirror.holder(addr)
    }

    /// Reads what is there, a bounded amount; true if there may be more.
    fn read(&mut self, now: Instant) -> bool {
        let mut taken = 0;
        while taken < BUDGET {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = self.socket.recv_from(&mut &mut buffer[..], libc::MSG_TRUNC);
            match received {
                Ok((len, _)) if len > buffer.len() => self.input(now, Input::Overrun),
                // Nobody but the kernel (port 0) has anything to say here.
                Ok((len, from)) if from.port_number() == 0 => {
                    for frame in Frames(&buffer[..len]) {
                        self.frame(now, &frame);
                        taken += 1;
                    }
                }
                Ok(_) => taken += 1,
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENOBUFS) => {
                        self.input(now, Input::Overrun);
                        taken += 1;
                    }
                    Some(libc::EINTR) => taken += 1,
                    _ => {
                        self.buffer = buffer;
                        return false;
                    }
                },
            }
            self.buffer = buffer;
        }
        true
    }

    fn frame(&mut self, now: Instant, frame: &Frame<'_>) {
        let of_dump = |s: &(u32, Dump)| s.0 == frame.sequence && frame.port == self.port;
        let dumping = self.running.filter(of_dump).is_some();
        match frame.kind {
            NLMSG_OVERRUN => self.input(now, Input::Overrun),
            NLMSG_DONE | NLMSG_ERROR if dumping => {
                let complete = frame.flags & NLM_F_DUMP_INTR == 0 && !self.interrupted;
                self.dump_end(now, frame, complete);
            }
            NLMSG_DONE | NLMSG_ERROR => {}
            _ => {
                self.interrupted |= dumping && frame.flags & NLM_F_DUMP_INTR != 0;
                match (message::parse(frame), dumping) {
                    (Some(message), true) => self.input(now, Input::Row(message)),
                    (Some(message), false) => self.input(now, Input::Notice(message)),
                    (None, _) => {}
                }
            }
        }
    }

    fn dump_end(&mut self, now: Instant, frame: &Frame<'_>, complete: bool) {
        let Some((_, dump)) = self.running else {
            return;
        };
        let error = wire::read_u32(frame.body, 0).map_or(0, |e| -(e as i32));
        if error == libc::ENOBUFS {
            // The queue was full when the dump began; it goes on as soon as we have read.
            return;
        }
        self.running = None;
        let complete = match error {
            0 => complete,
            libc::EAGAIN | libc::EBUSY | libc::EINTR => false,
            // The table is empty, or the kernel has no such thing: nothing to mirror.
            libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT => true,
            _ => {
                let reason = io::Error::from_raw_os_error(error);
                self.warnings
                    .insert(format!("the kernel does not list {dump:?}: {reason}"));
                true
            }
        };
        self.input(now, Input::DumpEnd { complete });
        // The next dump is asked for at once, so that the kernel fills it meanwhile.
        self.carry_out();
    }

    fn input(&mut self, now: Instant, input: Input) {
        self.mirror.handle(now, input, &mut self.actions);
    }

    fn advance(&mut self, now: Instant) {
        if let Some(dump) = self.unsent.take() {
            self.ask_dump(dump);
        }
        self.mirror.settle(now, &mut self.actions);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::Update(update) => self.updates.push(update),
                Action::LocalAddressesChanged => self.local_changed = true,
                Action::Ask(index, addr) => self.ask_neighbour(index, addr),
                Action::Dump(dump) => self.ask_dump(dump),
                Action::Warning(line) => {
                    self.warnings.insert(line);
                }
                Action::WarningGone(line) => {
                    self.warnings.remove(&line);
                }
            }
        }
    }

    fn ask_dump(&mut self, dump: Dump) {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.interrupted = false;
        if self.send(&dump_request(dump, self.sequence)).is_ok() {
            self.running = Some((self.sequence, dump));
        } else {
            self.unsent = Some(dump);
        }
    }

    /// `NTF_USE` makes the kernel resolve an unknown neighbour and confirm a stale one; one that
    /// is reachable is left alone. A lost request is made up for by the next.
    fn ask_neighbour(&mut self, index: IfIndex, addr: Addr) {
        const NDA_DST: u16 = 1;
        const NTF_USE: u8 = 1;

        let mut fixed = [0; 12];
        fixed[0] = family_number(addr.family());
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[10] = NTF_USE;
        let (v4, v6) = (addr.octets_v4(), addr.octets());
        let bytes = if addr.family() == Family::V4 {
            &v4[..]
        } else {
            &v6[..]
        };
        let request = Request::new(message::RTM_NEWNEIGH, NLM_F_CREATE, UNANSWERED, &fixed);
        let _ = self.send(&request.with(NDA_DST, bytes).finish());
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0)
    }
}

impl Host for Driver {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(
            &mut SourceFd(&self.socket.as_raw_fd()),
            token,
            Interest::READABLE,
        )
    }

    fn on_readable(&mut self, now: Instant) -> bool {
        let more = self.read(now);
        self.advance(now);
        more
    }

    fn on_timer(&mut self, now: Instant) {
        self.advance(now);
    }

    fn next_timeout(&self) -> Option<Instant> {
        match self.unsent {
            Some(_) => Some(Instant(0)),
            None => self.mirror.next_timeout(),
        }
    }

    fn take_updates(&mut self) -> Vec<Update> {
        std::mem::take(&mut self.updates)
    }

    fn take_local_addresses(&mut self) -> Option<BTreeSet<IpAddr>> {
        std::mem::take(&mut self.local_changed).then(|| self.mirror.local_addresses())
    }

    fn resolve(&mut self, now: Instant, link: LinkId, addr: Addr) {
        self.mirror.resolve(now, link, addr);
        self.advance(now);
    }

    fn change_servers(&mut self, now: Instant, servers: &[(IpAddr, bool)]) {
        for &(addr, is_there) in servers {
            self.mirror.change_server(now, addr.into(), is_there);
        }
        self.advance(now);
    }

    fn is_synced(&self) -> bool {
        self.mirror.is_synced()
    }

    fn is_warm(&self) -> bool {
        self.mirror.is_warm()
    }

    fn counts(&self) -> (u64, u64) {
        let (routes, neighbours) = self.mirror.counts();
        (routes as u64, neighbours as u64)
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.iter().cloned().collect()
    }
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

fn dump_request(dump: Dump, sequence: u32) -> Vec<u8> {
    const IFLA_EXT_MASK: u16 = 29;
    const RTEXT_FILTER_SKIP_STATS: u32 = 8;
    const RTA_TABLE: u16 = 15;

    let request = |kind, len, family| {
        let mut fixed = [0; 16];
        fixed[0] = family;
        Request::new(kind, NLM_F_DUMP, sequence, &fixed[..len])
    };
    match dump {
        Dump::Links => request(message::RTM_GETLINK, 16, AF_UNSPEC)
            .with(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes()),
        Dump::NextHops => request(message::RTM_GETNEXTHOP, 8, AF_UNSPEC),
        Dump::Addresses => request(message::RTM_GETADDR, 8, AF_UNSPEC),
        Dump::Routes(family, table) => request(message::RTM_GETROUTE, 12, family_number(family))
            .with(RTA_TABLE, &table.to_ne_bytes()),
        Dump::Neighbours => request(message::RTM_GETNEIGH, 12, AF_UNSPEC),
        Dump::Rules(family) => request(message::RTM_GETRULE, 12, family_number(family)),
    }
    .finish()
}
