//! One attempt on a socket: opens it, carries bytes, and ends with a verdict.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use healthcheck::check::{Channel, Conversation, Step};
use healthcheck::{Failure, Verdict};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustls::ClientConfig;
use socket2::{Domain, Protocol, Socket, Type};

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

/// See the module.
pub struct Attempt {
    socket: Socket,
    conversation: Box<dyn Conversation>,
    addr: SocketAddr,
    token: Token,
    connecting: bool,
    tls: Option<(Arc<ClientConfig>, Session)>,
    outgoing: Vec<u8>,
}

impl Attempt {
    /// Opens the socket and begins to connect.
    pub fn begin(
        registry: &Registry,
        token: Token,
        spec: &Spec,
        addr: SocketAddr,
        conversation: Box<dyn Conversation>,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Attempt, NotMade> {
        let tls = match tls {
            Some(context) => Some(session(context, spec, addr).map_err(NotMade::Server)?),
            None => None,
        };
        let socket = open(registry, token, spec, addr, conversation.channel())?;
        Ok(Attempt {
            socket,
            conversation,
            addr,
            token,
            connecting: true,
            tls,
            outgoing: Vec::new(),
        })
    }

    /// Carries on after something happened on the socket; the verdict once there is one.
    pub fn on_event(&mut self, registry: &Registry, spec: &Spec, event: &Event) -> Option<Verdict> {
        if self.connecting {
            match self.socket.take_error() {
                Ok(Some(e)) | Err(e) => return Some(Err(failure(&e))),
                Ok(None) => {}
            }
            // Readiness may be left from before the connection was begun.
            let is_pending = self.is_stream() && self.socket.peer_addr().is_err();
            if !event.is_writable() || is_pending {
                return None;
            }
            self.connecting = false;
            // With TLS it is not open before the session is set up.
            if self.tls.is_none() {
                let step = self.conversation.opened();
                if let Some(verdict) = self.take(registry, spec, step) {
                    return Some(verdict);
                }
            }
        }
        if event.is_writable()
            && let Some(verdict) = self.write()
        {
            return Some(verdict);
        }
        match event.is_readable() || event.is_read_closed() || event.is_error() {
            true => self.read(registry, spec),
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
    pub fn end(mut self, registry: &Registry) {
        self.goodbye();
        // A socket that was never registered is not either now.
        let _ = registry.deregister(&mut SourceFd(&self.socket.as_raw_fd()));
    }

    fn take(&mut self, registry: &Registry, spec: &Spec, step: Step) -> Option<Verdict> {
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
                self.write()
            }
            Step::Reopen => {
                self.goodbye();
                let _ = registry.deregister(&mut SourceFd(&self.socket.as_raw_fd()));
                if let Some((context, _)) = self.tls.take() {
                    match session(context, spec, self.addr) {
                        Ok(tls) => self.tls = Some(tls),
                        Err(failure) => return Some(Err(failure)),
                    }
                }
                let channel = self.conversation.channel();
                match open(registry, self.token, spec, self.addr, channel) {
                    Ok(socket) => {
                        self.socket = socket;
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

    fn write(&mut self) -> Option<Verdict> {
        if let Some((_, session)) = &mut self.tls {
            return session.send(&self.socket).err().map(|e| Err(failure(&e)));
        }
        while !self.outgoing.is_empty() {
            match (&self.socket).write(&self.outgoing) {
                Ok(sent) => drop(self.outgoing.drain(..sent)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Some(Err(failure(&e))),
            }
        }
        None
    }

    /// What arrived; none if nothing has.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Got>, Failure> {
        if let Some((_, session)) = &mut self.tls {
            return Ok(match session.receive(&self.socket, buffer)? {
                Got::Nothing => None,
                got => Some(got),
            });
        }
        loop {
            return match (&self.socket).read(buffer) {
                Ok(0) if self.is_stream() => Ok(Some(Got::Closed)),
                Ok(n) => Ok(Some(Got::Bytes(n))),
                Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => Err(failure(&e)),
            };
        }
    }

    fn goodbye(&mut self) {
        if let Some((_, session)) = &mut self.tls
            && session.is_open()
        {
            session.close(&self.socket);
        }
    }

    fn read(&mut self, registry: &Registry, spec: &Spec) -> Option<Verdict> {
        let mut buffer = [0; 8192];
        let mut share = SHARE;
        while share > 0 {
            let step = match self.receive(&mut buffer) {
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
            if let Some(verdict) = self.take(registry, spec, step) {
                return Some(verdict);
            }
            if reopened {
                return None;
            }
        }
        // More is there: epoll is edge triggered, so ask to be told again.
        let fd = self.socket.as_raw_fd();
        match registry.reregister(&mut SourceFd(&fd), self.token, INTEREST) {
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
    registry: &Registry,
    token: Token,
    spec: &Spec,
    addr: SocketAddr,
    channel: Channel,
) -> Result<Socket, NotMade> {
    let socket = prepare(spec, addr, channel).map_err(NotMade::Ours)?;
    match socket.connect(&addr.into()) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => match e.kind() {
            ErrorKind::AddrNotAvailable => return Err(NotMade::Ours(e)),
            _ => return Err(NotMade::Server(failure(&e))),
        },
        _ => {}
    }
    registry
        .register(&mut SourceFd(&socket.as_raw_fd()), token, INTEREST)
        .map_err(NotMade::Ours)?;
    Ok(socket)
}

fn prepare(spec: &Spec, addr: SocketAddr, channel: Channel) -> io::Result<Socket> {
    let (kind, protocol) = match channel {
        Channel::Stream | Channel::Tls => (Type::STREAM, Protocol::TCP),
        Channel::Datagram => (Type::DGRAM, Protocol::UDP),
        Channel::Echo if addr.is_ipv6() => (Type::DGRAM, Protocol::ICMPV6),
        Channel::Echo => (Type::DGRAM, Protocol::ICMPV4),
    };
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
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
