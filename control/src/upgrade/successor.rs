//! The side that takes over.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use dataplane::conn::image;
use dataplane::time::Instant;
use mio::{Events, Poll, Token};

use crate::clock;
use crate::host::Host;

use super::{Estate, Go, Hello, News, PROTOCOL, Wire, WireError, other_records};

/// Argument of a program that is to take over from the one at the other end of standard input.
pub const TAKE_OVER: &str = "--take-over";
/// Argument of a program that goes on with the estate that it reads from standard input.
pub const RESUME: &str = "--resume";

/// How long the kernel may take to list a full routing table.
const MIRRORED_WITHIN: Duration = Duration::from_secs(30);
/// How often timers of the mirror are looked at.
const TICK: Duration = Duration::from_millis(20);

/// The process that serves until we can.
#[derive(Debug)]
pub struct Predecessor {
    wire: Wire,
    /// What it said.
    pub hello: Hello,
}

impl Predecessor {
    /// Listens to it.
    ///
    /// # Errors
    /// Nobody speaks, or of what we do not understand.
    pub fn meet(mut wire: Wire) -> Result<Predecessor, WireError> {
        let hello: Hello = wire.receive(None)?;
        if hello.protocol != PROTOCOL {
            return Err(WireError::Unfit(format!(
                "rvsd {} hands over by protocol {}, this one takes {PROTOCOL}; restart it instead",
                hello.version, hello.protocol
            )));
        }
        Ok(Predecessor { wire, hello })
    }

    /// Says that nothing is in the way, and waits for the ports. `None`: it has changed its mind.
    ///
    /// # Errors
    /// What comes makes no sense.
    pub fn wait(
        mut self,
        version: &str,
        commit: &str,
        wants_records: bool,
    ) -> Result<Option<Handed>, WireError> {
        let prepared = News::Prepared {
            version: version.to_owned(),
            commit: commit.to_owned(),
            wants_records,
            records: image::VERSION,
        };
        let writes = self.hello.records;
        if wants_records && writes != image::VERSION {
            return Err(WireError::Unfit(other_records(writes, image::VERSION)));
        }
        self.wire.send(&prepared, &[])?;
        let go: Go = match self.wire.receive(None) {
            Err(WireError::Ended) => return Ok(None),
            other => other?,
        };
        let mut descriptors = self.wire.take_descriptors().into_iter();
        let mut next = |what: &str| {
            let missing = || WireError::Garbled(format!("no descriptor for {what}"));
            descriptors.next().ok_or_else(missing)
        };
        let mut twins = BTreeMap::new();
        for twin in go.twins {
            let descriptor = next(&twin)?;
            twins.insert(twin, descriptor);
        }
        let admin = match go.admin {
            Some(path) => Some((path, next("the admin socket")?)),
            None => None,
        };
        Ok(Some(Handed {
            wire: self.wire,
            estate: go.estate,
            stopped: Instant(go.stopped),
            twins,
            admin,
            records: go.records,
        }))
    }
}

/// What was handed over.
#[derive(Debug)]
pub struct Handed {
    /// Where to say that packets are forwarded.
    pub wire: Wire,
    /// What runs.
    pub estate: Estate,
    /// When forwarding stopped.
    pub stopped: Instant,
    /// Open twins, by name.
    pub twins: BTreeMap<String, OwnedFd>,
    /// Bytes of records that follow on the wire.
    pub records: usize,
    /// The admin socket and its path.
    pub admin: Option<(PathBuf, OwnedFd)>,
}

impl Wire {
    /// Says why this program does not take over.
    pub fn refuse(&mut self, why: &str) {
        // Whoever has ended needs no reason.
        let why = why.to_owned();
        let _ = self.send(&News::Refused { why }, &[]);
    }

    /// Says that packets are forwarded.
    pub fn serving(&mut self, since: Instant) {
        // A predecessor that has ended cannot be helped, and need not.
        let _ = self.send(&News::Serving { since: since.0 }, &[]);
    }
}

/// Lets a mirror read all that the kernel has.
///
/// # Errors
/// Of epoll, or the kernel does not answer.
pub fn mirror(host: &mut dyn Host) -> io::Result<()> {
    let until = clock::now() + MIRRORED_WITHIN;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(16);
    host.register(poll.registry(), Token(0))?;
    loop {
        let now = clock::now();
        while host.on_readable(now) {}
        if host.next_timeout().is_some_and(|due| due <= now) {
            host.on_timer(now);
        }
        if host.is_synced() {
            return Ok(());
        }
        if now >= until {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        match poll.poll(&mut events, Some(TICK)) {
            Err(why) if why.kind() != io::ErrorKind::Interrupted => return Err(why),
            _ => {}
        }
    }
}

/// What this program left for itself on standard input ([`super::Launch::resume`]): estate and
/// records of connections.
///
/// # Errors
/// It cannot be read.
pub fn resumed() -> io::Result<(Estate, Vec<u8>)> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    let end = bytes.iter().position(|&byte| byte == b'\n');
    let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
    let records = bytes.split_off(end + 1);
    Ok((serde_json::from_slice(&bytes)?, records))
}
