//! The stream: everyone connected to the socket is told of each event in order, after the past
//! ones. Somebody who does not read is disconnected and delays nobody.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use crate::config::notify::Notify;
use crate::server;

/// Bytes that wait for somebody who reads slowly.
const BACKLOG: usize = 4 << 20;
/// Most connections.
const MOST: usize = 256;

struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: the file is removed only if it is still ours.
    identity: (u64, u64),
}

impl Drop for Listener {
    fn drop(&mut self) {
        let found = std::fs::symlink_metadata(&self.path);
        if found.is_ok_and(|m| (m.dev(), m.ino()) == self.identity) {
            // Nothing can be done about a failure while ending.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

struct Reader {
    stream: UnixStream,
    unsent: Vec<u8>,
}

/// See the module.
#[derive(Default)]
pub struct Stream {
    listener: Option<Listener>,
    readers: BTreeMap<usize, Reader>,
    next: usize,
    past: VecDeque<Arc<str>>,
    kept: usize,
}

impl Stream {
    /// Listens where the configuration says; a socket that is the same stays.
    pub fn set(&mut self, notify: &Notify, registry: &Registry, token: Token) {
        self.kept = notify.history;
        self.past.truncate(self.kept);
        let is_there = self
            .listener
            .as_ref()
            .is_some_and(|l| l.path == notify.socket);
        if is_there {
            return;
        }
        self.listener = None;
        match listen(notify, registry, token) {
            Ok(listener) => self.listener = Some(listener),
            Err(why) => tracing::error!(reason = %why, "there is no stream of events"),
        }
    }

    /// Takes new connections, whose tokens begin with `first`.
    pub fn accept(&mut self, registry: &Registry, first: usize) {
        let Some(listener) = &self.listener else {
            return;
        };
        loop {
            let mut stream = match listener.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            if self.readers.len() >= MOST {
                continue;
            }
            self.next = self.next.max(first) + 1;
            let interest = Interest::READABLE | Interest::WRITABLE;
            if registry
                .register(&mut stream, Token(self.next), interest)
                .is_err()
            {
                continue;
            }
            let version = env!("CARGO_PKG_VERSION");
            let past = self.past.len();
            let hello =
                format!("{{\"type\":\"hello\",\"version\":\"{version}\",\"past\":{past}}}\n");
            let mut unsent = hello.into_bytes();
            for line in &self.past {
                unsent.extend_from_slice(line.as_bytes());
            }
            let mut reader = Reader { stream, unsent };
            if reader.send().is_ok() {
                self.readers.insert(self.next, reader);
            }
        }
    }

    /// Something happened on a connection.
    pub fn on_event(&mut self, token: Token) {
        let Some(reader) = self.readers.get_mut(&token.0) else {
            return;
        };
        if reader.is_gone() || reader.send().is_err() {
            self.readers.remove(&token.0);
        }
    }

    /// Tells everyone a line.
    pub fn tell(&mut self, line: &str) {
        let line: Arc<str> = format!("{line}\n").into();
        self.readers.retain(|_, reader| {
            reader.unsent.extend_from_slice(line.as_bytes());
            reader.send().is_ok() && reader.unsent.len() <= BACKLOG
        });
        self.past.push_back(line);
        while self.past.len() > self.kept {
            self.past.pop_front();
        }
    }
}

fn listen(notify: &Notify, registry: &Registry, token: Token) -> io::Result<Listener> {
    let path: &Path = &notify.socket;
    let bound = server::listen(path, notify.mode, notify.group.as_deref());
    let (mut listener, identity) = bound.map_err(io::Error::other)?;
    registry.register(&mut listener, token, Interest::READABLE)?;
    Ok(Listener {
        listener,
        path: path.to_owned(),
        identity,
    })
}

impl Reader {
    fn send(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads what nobody asked for, to see the end of it.
    fn is_gone(&mut self) -> bool {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return e.kind() != ErrorKind::WouldBlock,
            }
        }
    }
}
