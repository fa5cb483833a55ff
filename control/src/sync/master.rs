//! The thread that sends: outboxes, messages, sockets.

use std::collections::VecDeque;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::sync::Outbox;
use dataplane::sync::wire::{Message, Version};

use super::auth::{self, Sealer};
use super::pack::Packer;
use super::peer::counted::SentBy;
use super::socket::Opener;
use super::{Counts, LOOK, count};
use crate::api::SyncRole;
use crate::clock;

/// Pause while nothing waits: an outbox takes what comes in it many times over.
const PAUSE: Duration = Duration::from_millis(10);

/// Announcements taken from one outbox before the others have their turn.
const SHARE: usize = 256;

/// And when the daemon ends: whatever is there, though workers may go on announcing.
const LAST_SHARE: usize = 1 << 15;

/// Messages that may wait for a socket if `sync_qlen_max` does not say.
const QUEUE: usize = 4096;

/// Between two lines about sends that fail.
const QUIET: Duration = Duration::from_secs(60);

/// What the thread works with.
pub struct Master {
    pub sockets: Vec<UdpSocket>,
    pub interface: Opener,
    /// By socket.
    pub sealers: Vec<Sealer>,
    pub outboxes: Vec<Arc<Outbox>>,
    pub syncid: u8,
    pub maxlen: u16,
    /// Messages that may wait for one socket; 0: [`QUEUE`].
    pub queue: usize,
    pub is_old: Arc<AtomicBool>,
    pub counts: Arc<Counts>,
    /// What was sent by each socket.
    pub sent: Arc<SentBy>,
    pub stop: Arc<AtomicBool>,
}

/// A message that waits for its socket.
struct Waiting {
    message: Vec<u8>,
    entries: u64,
}

/// Messages on their way, by socket.
struct Line {
    sockets: Vec<UdpSocket>,
    sealers: Vec<Sealer>,
    /// The message at hand with its trailer.
    sealed: Vec<u8>,
    waiting: Vec<VecDeque<Waiting>>,
    most: usize,
    counts: Arc<Counts>,
    sent: Arc<SentBy>,
    complained: Option<dataplane::time::Instant>,
}

impl Line {
    /// Sends a message, or lets it wait behind others; a full queue loses it.
    fn send(&mut self, port: usize, message: &[u8]) {
        let entries = entries(message);
        let mut sealed = std::mem::take(&mut self.sealed);
        sealed.clear();
        sealed.extend_from_slice(message);
        self.sealers[port].seal(auth::wall(), &mut sealed);
        let is_free = self.waiting.get(port).is_some_and(VecDeque::is_empty);
        if !is_free || !self.try_send(port, &sealed, entries) {
            let waiting = &mut self.waiting[port];
            if waiting.len() < self.most {
                waiting.push_back(Waiting {
                    message: sealed.clone(),
                    entries,
                });
            } else {
                self.lose(port, entries);
            }
        }
        self.sealed = sealed;
    }

    /// Sends what waits, as far as sockets take it.
    fn retry(&mut self) {
        for port in 0..self.waiting.len() {
            while let Some(next) = self.waiting[port].pop_front() {
                if !self.try_send(port, &next.message, next.entries) {
                    self.waiting[port].push_front(next);
                    break;
                }
            }
        }
    }

    /// False if the socket takes nothing now. A message that cannot be sent at all is lost.
    fn try_send(&mut self, port: usize, message: &[u8], entries: u64) -> bool {
        loop {
            match self.sockets[port].send(message) {
                Ok(_) => {
                    count(&self.counts.messages, 1);
                    count(&self.counts.entries, entries);
                    self.sent.add(port, entries);
                    return true;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // The device's queue is full.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return false,
                Err(e) => {
                    self.lose(port, entries);
                    self.complain(&e);
                    return true;
                }
            }
        }
    }

    /// A message does not leave. Backups of RVS notice: it counts as sent.
    fn lose(&mut self, port: usize, entries: u64) {
        count(&self.counts.lost, entries);
        self.sent.add(port, entries);
    }

    fn complain(&mut self, error: &io::Error) {
        let now = clock::now();
        if self.complained.is_none_or(|then| now.since(then) >= QUIET) {
            self.complained = Some(now);
            tracing::warn!(
                event = "sync",
                reason = %error,
                "synchronisation messages cannot be sent; is the link up?"
            );
        }
    }
}

fn entries(message: &[u8]) -> u64 {
    Message::decode(message).map_or(0, |message| message.count.into())
}

impl Master {
    /// Starts the thread. It ends soon after `stop` is set.
    pub fn start(self) -> io::Result<JoinHandle<()>> {
        let thread = std::thread::Builder::new().name("rvs-sync-master".to_owned());
        thread.spawn(move || self.run())
    }

    fn version(&self) -> Version {
        match self.is_old.load(Relaxed) {
            true => Version::V0,
            false => Version::V1,
        }
    }

    fn run(mut self) {
        let ports = self.sockets.len();
        let trailer = self.sealers.first().map_or(0, Sealer::room) as u16;
        let room = self.maxlen.saturating_sub(trailer);
        let mut packer = Packer::new(ports, self.syncid, room, self.version());
        let mut line = Line {
            waiting: (0..ports).map(|_| VecDeque::new()).collect(),
            sockets: std::mem::take(&mut self.sockets),
            sealers: std::mem::take(&mut self.sealers),
            sealed: Vec::new(),
            most: if self.queue == 0 { QUEUE } else { self.queue },
            counts: Arc::clone(&self.counts),
            sent: Arc::clone(&self.sent),
            complained: None,
        };
        let mut looked = clock::now();
        loop {
            // Looked at first: what was announced before is sent before the thread ends, for a peer
            // that takes over now.
            let is_last = self.stop.load(Relaxed);
            let share = if is_last { LAST_SHARE } else { SHARE };
            let now = clock::now();
            if now.since(looked) >= LOOK {
                looked = now;
                if let Some(sockets) = self.counts.look(&mut self.interface, SyncRole::Master) {
                    line.sockets = sockets;
                }
            }
            packer.set_version(self.version(), |port, message| line.send(port, message));
            line.retry();
            let mut busy = false;
            for outbox in &self.outboxes {
                for _ in 0..share {
                    let some = outbox.take(|entry, engine| {
                        let sent = |port: usize, message: &[u8]| line.send(port, message);
                        if !packer.push(now, entry, engine, sent) {
                            count(&self.counts.refused, 1);
                        }
                    });
                    if !some {
                        break;
                    }
                }
                busy |= !outbox.is_empty();
            }
            if is_last {
                packer.close(|port, message| line.send(port, message));
                line.retry();
                return;
            }
            packer.tend(now, |port, message| line.send(port, message));
            if !busy {
                std::thread::sleep(PAUSE);
            }
        }
    }
}
