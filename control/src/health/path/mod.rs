//! Connections of checks that ask for the virtual address by the data path.
//!
//! Each is a small TCP stack of its own ([`stack`]), known by its port at the probe address: by
//! that port its packets find their real server, and answers their connection.

mod stack;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dataplane::addr::Family;
use dataplane::probe::{Exchange, Way};
use healthcheck::Instant;

pub use self::stack::Progress;
use self::stack::Stack;

/// Ports of our end.
const PORTS: std::ops::Range<u16> = 1024..65535;
/// How long a connection may take to end after its check is over.
const FAREWELL: Duration = Duration::from_secs(2);

/// Shortest time to the next poll without a packet.
const TICK: Duration = Duration::from_millis(1);

/// A connection.
struct Line {
    stack: Stack,
    way: Way,
    /// Number of the check, while one waits for it.
    owner: Option<usize>,
    /// When it ends by force, once nobody waits for it.
    ends: Instant,
    /// When the stack is polled next; what the heap has for other times is out of date.
    due: Option<Instant>,
}

/// See the module.
pub struct Path {
    exchange: Arc<Exchange>,
    lines: HashMap<u16, Line>,
    due: BinaryHeap<Reverse<(Instant, u16)>>,
    next_port: u16,
    /// Checks whose connections have news.
    news: Vec<usize>,
}

impl Path {
    /// Probes that leave here.
    pub fn new(exchange: Arc<Exchange>) -> Path {
        Path {
            exchange,
            lines: HashMap::new(),
            due: BinaryHeap::new(),
            next_port: PORTS.start,
            news: Vec::new(),
        }
    }

    /// The probe address that asks for `remote`, if there is one of its family.
    pub fn address(&self, remote: SocketAddr) -> Option<IpAddr> {
        let family = match remote {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        };
        self.exchange.address(family).map(IpAddr::from)
    }

    /// Begins to connect to `remote` at the real server that this way leads to; the number of the
    /// connection.
    ///
    /// # Errors
    /// This host has no probe address of that family, or no port is left.
    pub fn connect(
        &mut self,
        now: Instant,
        owner: usize,
        way: Way,
        remote: SocketAddr,
    ) -> io::Result<u16> {
        let local = self.address(remote).ok_or_else(|| {
            let family = if remote.is_ipv4() { "IPv4" } else { "IPv6" };
            io::Error::new(
                ErrorKind::AddrNotAvailable,
                format!("[health] probe_addresses has no {family} address"),
            )
        })?;
        if !self.exchange.holds(local.into()) {
            return Err(io::Error::new(
                ErrorKind::AddrNotAvailable,
                format!(
                    "this host does not hold the probe address {}; add it to a twin",
                    local
                ),
            ));
        }
        let port = self.free_port()?;
        let stack = Stack::connect(now, SocketAddr::new(local, port), remote)?;
        let line = Line {
            stack,
            way,
            owner: Some(owner),
            ends: now,
            due: None,
        };
        self.lines.insert(port, line);
        self.poll(now, port);
        Ok(port)
    }

    fn free_port(&mut self) -> io::Result<u16> {
        for _ in PORTS {
            let port = self.next_port;
            self.next_port = match port + 1 {
                next if next < PORTS.end => next,
                _ => PORTS.start,
            };
            if !self.lines.contains_key(&port) {
                return Ok(port);
            }
        }
        Err(io::Error::new(
            ErrorKind::AddrInUse,
            "all ports of the probe address are in use",
        ))
    }

    /// Takes what came back, and does what is due.
    pub fn turn(&mut self, now: Instant) {
        while let Some(packet) = self.exchange.next_answer() {
            let port = port_of(&packet);
            let line = port.and_then(|port| Some((port, self.lines.get_mut(&port)?)));
            // Of a connection that was given up.
            let Some((port, line)) = line else { continue };
            line.stack.receive(packet);
            self.news.extend(line.owner);
            self.poll(now, port);
        }
        while let Some(&Reverse((at, port))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            let Some(line) = self.lines.get_mut(&port) else {
                continue;
            };
            if line.due != Some(at) {
                continue;
            }
            if line.owner.is_none() && line.ends <= now {
                line.stack.abort();
            }
            self.news.extend(line.owner);
            self.poll(now, port);
        }
    }

    /// Checks that have to look at their connections, since the last call.
    pub fn take_news(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.news)
    }

    /// When [`Path::turn`] has something to do without a packet.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Lets a connection work, sends what it has to send, and forgets it once it is over.
    fn poll(&mut self, now: Instant, port: u16) {
        let Some(line) = self.lines.get_mut(&port) else {
            return;
        };
        for packet in line.stack.poll(now) {
            self.exchange.send(&line.way, &packet);
        }
        let is_over = matches!(line.stack.progress(), Progress::Refused | Progress::Over);
        if line.owner.is_none() && is_over && (line.stack.was_open() || line.ends <= now) {
            self.lines.remove(&port);
            return;
        }
        // One that wants it at once has had it.
        let next = line.stack.next_timeout().map(|at| at.max(now + TICK));
        let next = match line.owner {
            None => Some(next.map_or(line.ends, |at| at.min(line.ends))),
            Some(_) => next,
        };
        if next != line.due {
            line.due = next;
            self.due.extend(next.map(|at| Reverse((at, port))));
        }
    }

    /// How far a connection is.
    pub fn progress(&self, port: u16) -> Progress {
        let line = self.lines.get(&port);
        line.map_or(Progress::Over, |line| line.stack.progress())
    }

    /// Ends a connection: nobody waits for it any more.
    pub fn close(&mut self, now: Instant, port: u16) {
        if let Some(line) = self.lines.get_mut(&port) {
            line.owner = None;
            line.ends = now + FAREWELL;
            line.stack.close();
            self.poll(now, port);
        }
    }

    /// What is read and written in a connection.
    pub fn stream(&mut self, now: Instant, port: u16) -> Stream<'_> {
        Stream {
            path: self,
            now,
            port,
        }
    }
}

/// A connection as bytes.
pub struct Stream<'a> {
    path: &'a mut Path,
    now: Instant,
    port: u16,
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(line) = self.path.lines.get_mut(&self.port) else {
            return Ok(0);
        };
        let read = line.stack.read(buffer);
        if matches!(read, Ok(1..)) {
            // There is room for more: the other end has to hear of it.
            self.path.poll(self.now, self.port);
        }
        read
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(line) = self.path.lines.get_mut(&self.port) else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        let written = line.stack.write(bytes)?;
        self.path.poll(self.now, self.port);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Destination port of a TCP segment, which [`Exchange::take`] has seen to be one.
fn port_of(packet: &[u8]) -> Option<u16> {
    let first = *packet.first()?;
    let header = match first >> 4 {
        4 => usize::from(first & 15) * 4,
        _ => 40,
    };
    let port = packet.get(header + 2..header + 4)?;
    Some(u16::from_be_bytes([port[0], port[1]]))
}

#[cfg(test)]
mod tests;
