//! One TCP connection without a socket of the kernel: packets in, packets out.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use healthcheck::Instant;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};
use smoltcp::time::Instant as StackTime;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

/// Longest packet: fits into any tunnel on an Ethernet.
const MTU: usize = 1280;
/// Bytes that wait to be read, and to be sent.
const BUFFERS: (usize, usize) = (16 * 1024, 4 * 1024);

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The other end has not answered.
    Connecting,
    /// Open, or was.
    Open,
    /// The other end refused it, or reset it.
    Refused,
    /// Both ends are done with it.
    Over,
}

/// See the module.
pub struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    wire: Wire,
    /// It was open once.
    opened: bool,
}

/// The packets of one connection.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) arrived: VecDeque<Vec<u8>>,
    pub(super) leaving: VecDeque<Vec<u8>>,
}

pub(super) fn stack_time(now: Instant) -> StackTime {
    StackTime::from_micros((now.0 / 1000) as i64)
}

fn own_time(at: StackTime) -> Instant {
    Instant(at.total_micros().max(0) as u64 * 1000)
}

impl Stack {
    /// Begins to connect; [`Stack::poll`] has the first packet.
    ///
    /// # Errors
    /// An end that cannot be one: port 0, no unicast address.
    pub fn connect(now: Instant, local: SocketAddr, remote: SocketAddr) -> io::Result<Stack> {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        // Nobody is to guess sequence numbers.
        config.random_seed = RandomState::new().build_hasher().finish();
        let mut interface = Interface::new(config, &mut wire, stack_time(now));
        interface.update_ip_addrs(|addrs| {
            // All the world is on this link: where packets go is known from elsewhere.
            let _ = addrs.push(IpCidr::new(IpAddress::from(local.ip()), 0));
        });
        let (receive, send) = BUFFERS;
        let mut tcp = Socket::new(
            SocketBuffer::new(vec![0; receive]),
            SocketBuffer::new(vec![0; send]),
        );
        // A request is written in one piece, and its answer waited for.
        tcp.set_nagle_enabled(false);
        tcp.connect(interface.context(), remote, local)
            .map_err(|e| io::Error::new(ErrorKind::AddrNotAvailable, e.to_string()))?;
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(tcp);
        Ok(Stack {
            interface,
            sockets,
            socket,
            wire,
            opened: false,
        })
    }

    /// A packet for this end.
    pub fn receive(&mut self, packet: Vec<u8>) {
        self.wire.arrived.push_back(packet);
    }

    /// Works through what arrived and what is due, and takes out what is to be sent.
    pub fn poll(&mut self, now: Instant) -> impl Iterator<Item = Vec<u8>> + '_ {
        let Stack {
            interface,
            sockets,
            wire,
            ..
        } = self;
        interface.poll(stack_time(now), wire, sockets);
        self.opened |= self.tcp().may_send();
        self.wire.leaving.drain(..)
    }

    /// When it wants to be polled next without a packet.
    pub fn next_timeout(&mut self) -> Option<Instant> {
        let at = self.interface.poll_at(StackTime::ZERO, &self.sockets)?;
        Some(own_time(at))
    }

    fn tcp(&self) -> &Socket<'static> {
        self.sockets.get(self.socket)
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        match self.tcp().state() {
            State::SynSent | State::SynReceived | State::Listen => Progress::Connecting,
            State::Closed if !self.opened => Progress::Refused,
            State::Closed | State::TimeWait => Progress::Over,
            _ => Progress::Open,
        }
    }

    /// Reads what arrived; 0 once the other end is done.
    ///
    /// # Errors
    /// `WouldBlock`; `ConnectionReset`.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let tcp = self.sockets.get_mut::<Socket<'static>>(self.socket);
        match tcp.recv_slice(buffer) {
            Ok(0) => Err(ErrorKind::WouldBlock.into()),
            Ok(n) => Ok(n),
            Err(RecvError::Finished) => Ok(0),
            Err(RecvError::InvalidState) if tcp.state() == State::Closed => Err(io::Error::new(
                ErrorKind::ConnectionReset,
                "connection reset by peer",
            )),
            Err(RecvError::InvalidState) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Queues bytes to be sent.
    ///
    /// # Errors
    /// `WouldBlock` while the queue is full or there is no connection yet; `BrokenPipe` after.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let tcp = self.sockets.get_mut::<Socket<'static>>(self.socket);
        match tcp.send_slice(bytes) {
            Ok(0) if !bytes.is_empty() => Err(ErrorKind::WouldBlock.into()),
            Ok(n) => Ok(n),
            Err(_) if tcp.state() == State::SynSent => Err(ErrorKind::WouldBlock.into()),
            Err(_) => Err(io::Error::new(ErrorKind::BrokenPipe, "broken pipe")),
        }
    }

    /// Nothing more is sent; what arrives is of no use.
    pub fn close(&mut self) {
        self.sockets.get_mut::<Socket<'static>>(self.socket).close();
    }

    /// Ends it at once, with a reset.
    pub fn abort(&mut self) {
        self.sockets.get_mut::<Socket<'static>>(self.socket).abort();
    }

    /// Whether it was open once.
    pub fn was_open(&self) -> bool {
        self.opened
    }
}

impl Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: StackTime) -> Option<(Arrived, Leaving<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: StackTime) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

/// A packet that arrived.
pub(super) struct Arrived(Vec<u8>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

/// Where packets leave.
pub(super) struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = vec![0; len];
        let result = write(&mut packet);
        self.0.push_back(packet);
        result
    }
}
