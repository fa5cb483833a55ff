//! The admin socket: connections, framing and their limits. It knows no request's meaning.
//!
//! Every call does bounded work: [`Server::step`] accepts a few connections and reads a few
//! kilobytes of each. A client has at most one request under way; its next one is read when the
//! answer is complete and mostly read, and answers beyond [`Limits::output`] wait until the client
//! has taken some.
//! Whatever one client does, sends or fails to read costs it its own connection at most.

mod output;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataplane::time::Instant;
use mio::event::Event;
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use self::output::Output;
use crate::api::{self, ErrorKind, FrameDecoder, Request, Response};

/// Names a connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(usize);

/// What a client may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most connections at a time.
    pub clients: usize,
    /// Bytes of answers kept for a client before more are made.
    pub output: usize,
    /// How long a client may stop inside a request, or not read why it was refused.
    pub stall: Duration,
    /// How long it may stop reading its answer: a listing may be on its way to somebody who
    /// reads a page at a time. No more than `output` is kept for it meanwhile.
    pub reading: Duration,
    /// How long a connection may stay unused.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            clients: 64,
            output: 256 * 1024,
            stall: Duration::from_secs(10),
            reading: Duration::from_secs(600),
            idle: Duration::from_secs(300),
        }
    }
}

/// Bytes read from one client in one step.
const READ_SHARE: usize = 64 * 1024;
/// Connections accepted in one step.
const ACCEPT_SHARE: usize = 16;

/// Why the admin socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens on it.
    #[error("another rvsd listens on {path}; stop it, or give this one its own [admin] socket")]
    Running {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{path} exists and is no socket; remove it, or change [admin] socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The group is not in `/etc/group`.
    #[error(
        "group \"{group}\" of the admin socket is not in /etc/group; create it, or give its number"
    )]
    Group {
        /// Its name.
        group: String,
    },
    /// A system call failed.
    #[error("admin socket {path}: cannot {what}: {error}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

struct Client {
    stream: UnixStream,
    decoder: FrameDecoder,
    output: Output,
    readable: bool,
    /// A request is being answered.
    busy: bool,
    /// Nothing more will come from it.
    ended: bool,
    /// The answer to come is the last: what else comes in is thrown away, so that the other side
    /// can finish sending and then read why, and the connection ends when it has.
    closing: bool,
    /// It was told what was wrong with its request.
    refused: bool,
    /// Our direction is closed.
    said_all: bool,
    /// When bytes last moved, or an answer became complete.
    moved: Instant,
}

impl Client {
    fn unwritten(&self) -> usize {
        self.output.unwritten()
    }

    fn refuse(&mut self, message: String) {
        self.output.push(&api::encode(&Response::Error {
            error: ErrorKind::Malformed,
            message,
        }));
        self.closing = true;
        self.refused = true;
    }

    /// Whether its next request may be looked at: not before it has read the earlier answers.
    fn takes_requests(&self) -> bool {
        !self.busy && !self.closing && self.unwritten() <= READ_SHARE
    }

    /// Writes what it takes; an error is the end of the connection.
    fn flush(&mut self, now: Instant) -> io::Result<()> {
        if self.output.write_to(&mut self.stream)? > 0 {
            self.moved = now;
        }
        Ok(())
    }

    /// Reads up to [`READ_SHARE`] bytes.
    fn fill(&mut self, now: Instant) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        let mut left = READ_SHARE;
        while self.readable && left > 0 {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.ended = true;
                    self.readable = false;
                }
                Ok(n) => {
                    left = left.saturating_sub(n);
                    if !self.closing {
                        self.decoder.push(&buffer[..n]);
                        self.moved = now;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// One step of the end of a connection; true when it is over.
    fn finish(&mut self, now: Instant) -> io::Result<bool> {
        if self.unwritten() > 0 {
            return Ok(false);
        }
        if !self.said_all {
            self.said_all = true;
            self.stream.shutdown(std::net::Shutdown::Write)?;
        }
        self.fill(now)?;
        Ok(self.ended)
    }

    /// The next request, if one is complete and none is under way.
    fn next_request(&mut self, now: Instant) -> io::Result<Option<Request>> {
        if !self.takes_requests() {
            return Ok(None);
        }
        loop {
            match self.decoder.next() {
                Ok(Some(payload)) => match api::decode_request(&payload) {
                    Ok(request) => {
                        self.busy = true;
                        return Ok(Some(request));
                    }
                    Err(refusal) => {
                        self.output.push(&api::encode(&refusal));
                        if self.unwritten() > READ_SHARE {
                            self.closing = true;
                            self.refused = true;
                            return Ok(None);
                        }
                    }
                },
                Ok(None) if self.readable => {
                    self.fill(now)?;
                    if self.readable {
                        // Its share of this step is used up.
                        return Ok(None);
                    }
                }
                Ok(None) if self.ended => {
                    if self.decoder.is_partial() {
                        self.refuse("the connection ended inside a request".to_owned());
                    } else {
                        self.closing = true;
                    }
                    return Ok(None);
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    self.refuse(error.to_string());
                    return Ok(None);
                }
            }
        }
    }
}

/// What a step brought.
#[derive(Debug, Default)]
pub struct Step {
    /// Requests, each to be answered through [`Server::answer`] or [`Server::push`].
    pub requests: Vec<(ClientId, Request)>,
    /// Connections that are gone; their requests need no answer.
    pub gone: Vec<ClientId>,
    /// There is more to do at once.
    pub more: bool,
}

/// See the module.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our socket file.
    identity: (u64, u64),
    token: Token,
    acceptable: bool,
    next: usize,
    clients: BTreeMap<ClientId, Client>,
    gone: Vec<ClientId>,
    /// A client became free for its next request, which may be here already.
    hurry: bool,
    limits: Limits,
}

impl Server {
    /// Opens the socket. A file left by a dead process is replaced.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(
        path: &Path,
        mode: u32,
        group: Option<&str>,
        limits: Limits,
    ) -> Result<Server, BindError> {
        let (listener, identity) = listen(path, mode, group)?;
        Ok(Server::on(path, listener, identity, limits))
    }

    fn on(path: &Path, listener: UnixListener, identity: (u64, u64), limits: Limits) -> Server {
        Server {
            listener,
            path: path.to_owned(),
            identity,
            token: Token(0),
            acceptable: true,
            next: 0,
            clients: BTreeMap::new(),
            gone: Vec::new(),
            hurry: false,
            limits,
        }
    }

    /// Goes on with a socket that a process before listened at.
    ///
    /// # Errors
    /// Of the system.
    pub fn adopt(path: &Path, listener: OwnedFd, limits: Limits) -> io::Result<Server> {
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Server::on(
            path,
            UnixListener::from_std(listener),
            (metadata.dev(), metadata.ino()),
            limits,
        ))
    }

    /// The socket, for a process that goes on with it.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives a client its last answer and waits until it has taken it, or for a while. Another
    /// process has the socket.
    pub fn say_last(mut self, id: ClientId, response: &Response, within: Duration) {
        // The file stays.
        self.identity = (0, 0);
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        client.output.push(&api::encode(response));
        let until = std::time::Instant::now() + within;
        while client.output.unwritten() > 0 && std::time::Instant::now() < until {
            if client.output.write_to(&mut client.stream).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Registers the listener under `token`; connections take `first_client` and later ones.
    ///
    /// # Errors
    /// Of epoll.
    pub fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        first_client: Token,
    ) -> io::Result<()> {
        self.token = token;
        self.next = first_client.0;
        registry.register(&mut self.listener, token, Interest::READABLE)
    }

    /// Notes what became possible; the work is done by [`Server::step`].
    pub fn on_event(&mut self, event: &Event) {
        if event.token() == self.token {
            self.acceptable = true;
            return;
        }
        let id = ClientId(event.token().0);
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        if event.is_write_closed() || event.is_error() {
            // Both directions: nobody is left to take an answer.
            self.clients.remove(&id);
            self.gone.push(id);
            return;
        }
        client.readable |= event.is_readable() || event.is_read_closed();
    }

    /// Accepts, writes, reads; at most one request of each client.
    pub fn step(&mut self, now: Instant, registry: &Registry) -> Step {
        let mut step = Step::default();
        self.accept(now, registry);
        let mut gone = Vec::new();
        for (id, client) in &mut self.clients {
            let requests = &mut step.requests;
            let over = client.flush(now).and_then(|()| {
                if let Some(request) = client.next_request(now)? {
                    requests.push((*id, request));
                }
                client.flush(now)?;
                if client.closing {
                    client.finish(now)
                } else {
                    Ok(false)
                }
            });
            if over.unwrap_or(true) {
                gone.push(*id);
            } else {
                step.more |= client.readable && client.takes_requests();
            }
        }
        for id in gone {
            self.clients.remove(&id);
            self.gone.push(id);
        }
        step.more |= self.acceptable;
        step.gone = std::mem::take(&mut self.gone);
        let gone = &step.gone;
        step.requests.retain(|(id, _)| !gone.contains(id));
        step
    }

    fn accept(&mut self, now: Instant, registry: &Registry) {
        for _ in 0..ACCEPT_SHARE {
            if !self.acceptable {
                return;
            }
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // Also when descriptors are short: the next event or timer tries again.
                Err(_) => {
                    self.acceptable = false;
                    return;
                }
            };
            if self.clients.len() >= self.limits.clients {
                let message = format!(
                    "{} admin clients are connected already; try again when some have ended",
                    self.limits.clients
                );
                let refusal = api::encode(&Response::Error {
                    error: ErrorKind::Busy,
                    message,
                });
                // A new socket takes these few bytes; if not, closing says as much.
                let _ = stream.write(&refusal);
                continue;
            }
            let id = ClientId(self.next);
            self.next += 1;
            let interest = Interest::READABLE | Interest::WRITABLE;
            if registry
                .register(&mut stream, Token(id.0), interest)
                .is_err()
            {
                continue;
            }
            self.clients.insert(
                id,
                Client {
                    stream,
                    decoder: FrameDecoder::new(),
                    output: Output::default(),
                    readable: true,
                    busy: false,
                    ended: false,
                    closing: false,
                    refused: false,
                    said_all: false,
                    moved: now,
                },
            );
        }
    }

    /// Adds a frame to a client's answer. Nothing happens if it is gone.
    pub fn answer(&mut self, now: Instant, id: ClientId, response: &Response) {
        self.push(now, id, &api::encode(response), response.is_last());
    }

    /// As [`Server::answer`], with an encoded frame.
    pub fn push(&mut self, now: Instant, id: ClientId, frame: &[u8], is_last: bool) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        if client.unwritten() == 0 {
            // The deadline for reading starts with the first byte there is to read.
            client.moved = now;
        }
        client.output.push(frame);
        debug_assert!(
            client.unwritten() <= self.limits.output + 2 * api::MAX_FRAME,
            "has_room was not asked before more of a listing was made"
        );
        if is_last {
            client.busy = false;
            client.moved = now;
            self.hurry |= client.readable || client.ended || client.decoder.is_partial();
        }
        if client.flush(now).is_err() {
            self.clients.remove(&id);
            self.gone.push(id);
        }
    }

    /// Whether a client has taken enough of its answer for more of it to be made.
    pub fn has_room(&self, id: ClientId) -> bool {
        self.clients
            .get(&id)
            .is_some_and(|c| c.unwritten() < self.limits.output)
    }

    /// Whether another step is due at once since answers were completed.
    pub fn take_hurry(&mut self) -> bool {
        std::mem::take(&mut self.hurry)
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Ends connections that stall or are not used; due about once a second.
    pub fn expire(&mut self, now: Instant) {
        self.acceptable = true;
        let mut gone = Vec::new();
        for (id, client) in &mut self.clients {
            let quiet = now.since(client.moved);
            if client.unwritten() > 0 || client.closing {
                let patience = if client.unwritten() > 0 && !client.refused {
                    self.limits.reading
                } else {
                    self.limits.stall
                };
                if quiet >= patience {
                    gone.push(*id);
                }
            } else if !client.busy && client.decoder.is_partial() {
                if quiet >= self.limits.stall {
                    let secs = self.limits.stall.as_secs();
                    client.refuse(format!(
                        "the rest of the request did not come within {secs} s"
                    ));
                }
            } else if !client.busy && quiet >= self.limits.idle {
                gone.push(*id);
            }
        }
        for id in gone {
            self.clients.remove(&id);
            self.gone.push(id);
        }
    }
}

impl Drop for Server {
    /// Removes the socket file if it is still ours.
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours {
            // Nothing can be done about a failure while ending.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path`, with this mode and group; the device and inode of the socket say later whether
/// it is still the same.
pub(crate) fn listen(
    path: &Path,
    mode: u32,
    group: Option<&str>,
) -> Result<(UnixListener, (u64, u64)), BindError> {
    let failed = |what| {
        move |error| BindError::Io {
            path: path.to_owned(),
            what,
            error,
        }
    };
    let gid = group.map(group_id).transpose()?;
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(failed("create its directory"))?;
    }
    remove_stale(path)?;
    // The file must not be open to others even for the moment before its mode is set.
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(umask);
    let listener = bound.map_err(failed("listen"))?;
    std::os::unix::fs::chown(path, None, gid).map_err(failed("set its group"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(failed("set its mode"))?;
    let metadata = std::fs::symlink_metadata(path).map_err(failed("find"))?;
    Ok((listener, (metadata.dev(), metadata.ino())))
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket {
            path: path.to_owned(),
        });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::Running {
            path: path.to_owned(),
        }),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|error| BindError::Io {
                path: path.to_owned(),
                what: "remove what a dead process left",
                error,
            }),
        Err(error) => Err(BindError::Io {
            path: path.to_owned(),
            what: "find out whether somebody listens",
            error,
        }),
    }
}

fn group_id(group: &str) -> Result<u32, BindError> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let unknown = || BindError::Group {
        group: group.to_owned(),
    };
    let groups = std::fs::read_to_string("/etc/group").map_err(|_| unknown())?;
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    });
    found.ok_or_else(unknown)
}
