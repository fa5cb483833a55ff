//! One attempt on a socket: opens it, carries bytes, and ends with a verdict.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use dataplane::probe::Way;
use healthcheck::check::{Channel, Conversation, Step};
use healthcheck::{Failure, Instant, Verdict};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustls::ClientConfig;
use socket2::{Domain, Protocol, Socket, Type};

use super::path::{Path, Progress, Stream};
use super::spec::{Kind, Spec};
use super::tls::{Got, Session, Tls};

/// Most bytes read at one wake: one talkative server delays nobody else's check.
const SHARE: usize = 64 * 1024;

/// Why no attempt was made.
pub enum NotMade {
    /// For a reason of ours; says nothing about the server.
    Ours(io::Error),
    /// The server cannot be reached.
    Server(Failure),
}

/// What attempts stand on.
pub struct Ground<'a> {
    /// Where sockets of the kernel are waited for.
    pub registry: &'a Registry,
    /// Connections by the data path, if the file has an address for them.
    pub path: Option<&'a mut Path>,
    /// The time.
    pub now: Instant,
}

/// What happened to a channel.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// It may take bytes; for a new connection, it may be open.
    pub writable: bool,
    /// It has bytes, or its end.
    pub readable: bool,
}

impl Ready {
    /// Everything is to be looked at.
    pub const BOTH: Ready = Ready {
        writable: true,
        readable: true,
    };
}

/// Where an attempt goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Address and port.
    pub addr: SocketAddr,
    /// By the data path to this real server; otherwise by the kernel.
    pub way: Option<Way>,
}

/// What bytes go through.
enum Link {
    Kernel(Socket),
    /// Number of a connection of [`Path`].
    Path(u16),
}

/// [`Link`] to read from and to write to.
enum Io<'a> {
    Kernel(&'a Socket),
    Path(Stream<'a>),
    /// The path is gone, which happens to nobody who has a connection of it.
    Gone,
}

impl Link {
    fn io<'a>(&'a self, ground: &'a mut Ground<'_>) -> Io<'a> {
        match (self, &mut ground.path) {
            (Link::Kernel(socket), _) => Io::Kernel(socket),
            (Link::Path(number), Some(path)) => Io::Path(path.stream(ground.now, *number)),
            (Link::Path(_), None) => Io::Gone,
        }
    }

    fn close(&self, ground: &mut Ground<'_>) {
        match (self, &mut ground.path) {
            (Link::Path(number), Some(path)) => path.close(ground.now, *number),
            // The kernel forgets a socket that is closed: nobody else has it.
            (Link::Kernel(_), _) | (Link::Path(_), None) => {}
        }
    }

    /// Whether a stream is open by now.
    fn is_open(&self, ground: &Ground<'_>) -> io::Result<bool> {
        match (self, &ground.path) {
            (Link::Kernel(socket), _) => match socket.take_error()? {
                Some(e) => Err(e),
                None => Ok(socket.peer_addr().is_ok()),
            },
            (Link::Path(number), Some(path)) => match path.progress(*number) {
                Progress::Connecting => Ok(false),
                Progress::Open => Ok(true),
                Progress::Refused | Progress::Over => Err(refused()),
            },
            (Link::Path(_), None) => Err(refused()),
        }
    }
}

fn refused() -> io::Error {
    io::Error::new(ErrorKind::ConnectionRefused, "connection refused")
}

impl Read for Io<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Io::Kernel(socket) => socket.read(buffer),
            Io::Path(stream) => stream.read(buffer),
            Io::Gone => Ok(0),
        }
    }
}

impl Write for Io<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Io::Kernel(socket) => socket.write(bytes),
            Io::Path(stream) => stream.write(bytes),
            Io::Gone => Err(ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// See the module.
pub struct Attempt {
    link: Link,
    conversation: Box<dyn Conversation>,
    peer: Peer,
    token: Token,
    connecting: bool,
    tls: Option<(Arc<ClientConfig>, Session)>,
    outgoing: Vec<u8>,
}

impl Attempt {
    /// Opens the socket and begins to connect.
    pub fn begin(
        ground: &mut Ground<'_>,
        token: Token,
        spec: &Spec,
        peer: Peer,
        conversation: Box<dyn Conversation>,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Attempt, NotMade> {
        let tls = match tls {
            Some(context) => Some(session(context, spec, peer.addr).map_err(NotMade::Server)?),
            None => None,
        };
        let link = open(ground, token, spec, peer, conversation.channel())?;
        Ok(Attempt {
            link,
            conversation,
            peer,
            token,
            connecting: true,
            tls,
            outgoing: Vec::new(),
        })
    }

    /// Carries on after something happened on the channel; the verdict once there is one.
    pub fn on_ready(
        &mut self,
        ground: &mut Ground<'_>,
        spec: &Spec,
        ready: Ready,
    ) -> Option<Verdict> {
        if self.connecting {
            let is_open = match self.link.is_open(ground) {
                Ok(is_open) => is_open,
                Err(e) => return Some(Err(failure(&e))),
            };
            // Readiness may be left from before the connection was begun.
            if !ready.writable || self.is_stream() && !is_open {
                return None;
            }
            self.connecting = false;
            // With TLS it is not open before the session is set up.
            if self.tls.is_none() {
                let step = self.conversation.opened();
                if let Some(verdict) = self.take(ground, spec, step) {
                    return Some(verdict);
                }
            }
        }
        if ready.writable
            && let Some(verdict) = self.write(ground)
        {
            return Some(verdict);
        }
        match ready.readable {
            true => self.read(ground, spec),
            false => None,
        }
    }

    /// The deadline has come.
    pub fn expire(&mut self) -> Verdict {
        match self.connecting && self.is_stream() {
            true => Err(Failure::Timeout("answer to the SYN")),
            false if self.tls.as_ref().is_some_and(|(_, s)| !s.is_open()) => {
                Err(Failure::Timeout("TLS session"))
            }
            false => self.conversation.expired(),
        }
    }

    fn is_stream(&self) -> bool {
        matches!(self.conversation.channel(), Channel::Stream | Channel::Tls)
    }

    /// Has to be called before it is dropped.
    pub fn end(mut self, ground: &mut Ground<'_>) {
        self.goodbye(ground);
        self.link.close(ground);
    }

    fn take(&mut self, ground: &mut Ground<'_>, spec: &Spec, step: Step) -> Option<Verdict> {
        match step {
            Step::Wait => None,
            Step::Send(bytes) => {
                match &mut self.tls {
                    Some((_, session)) => {
                        if let Err(failure) = session.write(&bytes) {
                            return Some(Err(failure));
                        }
                    }
                    None => self.outgoing.extend(bytes),
                }
                self.write(ground)
            }
            Step::Reopen => {
                self.goodbye(ground);
                self.link.close(ground);
                if let Some((context, _)) = self.tls.take() {
                    match session(context, spec, self.peer.addr) {
                        Ok(tls) => self.tls = Some(tls),
                        Err(failure) => return Some(Err(failure)),
                    }
                }
                let channel = self.conversation.channel();
                match open(ground, self.token, spec, self.peer, channel) {
                    Ok(link) => {
                        self.link = link;
                        self.outgoing.clear();
                        self.connecting = true;
                        None
                    }
                    Err(NotMade::Ours(e)) => Some(Err(failure(&e))),
                    Err(NotMade::Server(failure)) => Some(Err(failure)),
                }
            }
            Step::Done(verdict) => Some(verdict),
        }
    }

    fn write(&mut self, ground: &mut Ground<'_>) -> Option<Verdict> {
        let mut io = self.link.io(ground);
        if let Some((_, session)) = &mut self.tls {
            return session.send(io).err().map(|e| Err(failure(&e)));
        }
        while !self.outgoing.is_empty() {
            match io.write(&self.outgoing) {
                Ok(sent) => drop(self.outgoing.drain(..sent)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Some(Err(failure(&e))),
            }
        }
        None
    }

    /// What arrived; none if nothing has.
    fn receive(
        &mut self,
        ground: &mut Ground<'_>,
        buffer: &mut [u8],
    ) -> Result<Option<Got>, Failure> {
        let is_stream = self.is_stream();
        let mut io = self.link.io(ground);
        if let Some((_, session)) = &mut self.tls {
            return Ok(match session.receive(io, buffer)? {
                Got::Nothing => None,
                got => Some(got),
            });
        }
        loop {
            return match io.read(buffer) {
                Ok(0) if is_stream => Ok(Some(Got::Closed)),
                Ok(n) => Ok(Some(Got::Bytes(n))),
                Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => Err(failure(&e)),
            };
        }
    }

    fn goodbye(&mut self, ground: &mut Ground<'_>) {
        if let Some((_, session)) = &mut self.tls
            && session.is_open()
        {
            session.close(self.link.io(ground));
        }
    }

    fn read(&mut self, ground: &mut Ground<'_>, spec: &Spec) -> Option<Verdict> {
        let mut buffer = [0; 8192];
        let mut share = SHARE;
        while share > 0 {
            let step = match self.receive(ground, &mut buffer) {
                Ok(None | Some(Got::Nothing)) => return None,
                Ok(Some(Got::Opened)) => self.conversation.opened(),
                Ok(Some(Got::Closed)) => self.conversation.closed(),
                Ok(Some(Got::Bytes(n))) => {
                    share = share.saturating_sub(n.max(1));
                    self.conversation
                        .received(buffer.get(..n).unwrap_or(&buffer))
                }
                Err(failure) => return Some(Err(failure)),
            };
            let reopened = step == Step::Reopen;
            if let Some(verdict) = self.take(ground, spec, step) {
                return Some(verdict);
            }
            if reopened {
                return None;
            }
        }
        // More is there: epoll is edge triggered, so ask to be told again.
        let Link::Kernel(socket) = &self.link else {
            // What else there is comes with the next packet: a connection of the path holds little.
            return None;
        };
        let fd = socket.as_raw_fd();
        match ground
            .registry
            .reregister(&mut SourceFd(&fd), self.token, INTEREST)
        {
            Ok(()) => None,
            Err(e) => Some(Err(failure(&e))),
        }
    }
}

const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// A session that is to be set up, and what the next one needs.
fn session(
    context: Arc<ClientConfig>,
    spec: &Spec,
    addr: SocketAddr,
) -> Result<(Arc<ClientConfig>, Session), Failure> {
    let name = match &spec.kind {
        Kind::Http(web) => {
            let tls = web.tls.clone().unwrap_or_default();
            tls.name(web.host.as_deref(), addr.ip())
        }
        _ => Tls::default().name(None, addr.ip()),
    };
    let session = Session::new(Arc::clone(&context), name)?;
    Ok((context, session))
}

pub(super) fn failure(e: &io::Error) -> Failure {
    // The number in brackets tells an operator nothing.
    let text = e.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    Failure::Io(text.to_lowercase())
}

fn open(
    ground: &mut Ground<'_>,
    token: Token,
    spec: &Spec,
    peer: Peer,
    channel: Channel,
) -> Result<Link, NotMade> {
    if let Some(way) = peer.way {
        let Some(path) = &mut ground.path else {
            let text = "the check goes by the virtual address, and rvsd was started without \
                        probe_addresses in [health]; restart it";
            return Err(NotMade::Ours(io::Error::other(text)));
        };
        let number = path.connect(ground.now, token.0, way, peer.addr);
        return number.map(Link::Path).map_err(NotMade::Ours);
    }
    let socket = prepare(spec, peer.addr, channel).map_err(NotMade::Ours)?;
    match socket.connect(&peer.addr.into()) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => match e.kind() {
            ErrorKind::AddrNotAvailable => return Err(NotMade::Ours(e)),
            _ => return Err(NotMade::Server(failure(&e))),
        },
        _ => {}
    }
    ground
        .registry
        .register(&mut SourceFd(&socket.as_raw_fd()), token, INTEREST)
        .map_err(NotMade::Ours)?;
    Ok(Link::Kernel(socket))
}

fn prepare(spec: &Spec, addr: SocketAddr, channel: Channel) -> io::Result<Socket> {
    let (kind, protocol) = match channel {
        Channel::Stream | Channel::Tls => (Type::STREAM, Protocol::TCP),
        Channel::Datagram => (Type::DGRAM, Protocol::UDP),
        Channel::Echo if addr.is_ipv6() => (Type::DGRAM, Protocol::ICMPV6),
        Channel::Echo => (Type::DGRAM, Protocol::ICMPV4),
    };
    let kind = kind.nonblocking();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if let Some(interface) = &spec.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if spec.fwmark != 0 {
        socket.set_mark(spec.fwmark)?;
    }
    if let Some(source) = spec.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}
