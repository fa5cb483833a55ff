//! The thread that receives: sockets, messages, batches for the workers.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use crossbeam::channel::Sender;
use dataplane::sync::Batch;
use dataplane::sync::wire::Message;
use mio::{Events, Interest, Poll, Token, Waker};

use super::auth::{self, Opener};
use super::peer::counted::{Ledger, Receipts};
use super::{Counts, LOOK, count, socket};
use crate::api::SyncRole;
use crate::clock;

const WAKER: Token = Token(usize::MAX - 1);

/// Datagrams read from one socket before the others have their turn.
const SHARE: usize = 64;

/// What the thread works with.
pub struct Backup {
    pub sockets: Vec<UdpSocket>,
    pub interface: socket::Opener,
    pub opener: Opener,
    /// Messages of this group are taken, with 0 of every group.
    pub syncid: u8,
    /// Messages of this host alone.
    pub peer: Option<IpAddr>,
    pub batches: Sender<Arc<Batch>>,
    pub control: Arc<Waker>,
    pub counts: Arc<Counts>,
    /// For peers that ask what came.
    pub receipts: Option<Arc<Receipts>>,
    pub stop: Arc<AtomicBool>,
}

/// Sockets that the thread is told of.
fn register(poll: &Poll, sockets: Vec<UdpSocket>) -> io::Result<Vec<mio::net::UdpSocket>> {
    let mut registered = Vec::new();
    for (n, socket) in sockets.into_iter().enumerate() {
        let mut socket = mio::net::UdpSocket::from_std(socket);
        poll.registry()
            .register(&mut socket, Token(n), Interest::READABLE)?;
        registered.push(socket);
    }
    Ok(registered)
}

impl Backup {
    /// Starts the thread. It ends when `stop` is set and the waker is rung.
    pub fn start(mut self) -> io::Result<(JoinHandle<()>, Arc<Waker>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let sockets = register(&poll, std::mem::take(&mut self.sockets))?;
        let thread = std::thread::Builder::new().name("rvs-sync-backup".to_owned());
        let thread = thread.spawn(move || self.run(poll, sockets))?;
        Ok((thread, waker))
    }

    fn run(mut self, mut poll: Poll, mut sockets: Vec<mio::net::UdpSocket>) {
        let mut events = Events::with_capacity(64);
        let mut buffer = vec![0; 65536];
        let mut looked = clock::now();
        let mut ledger = Ledger::new(self.receipts.clone(), sockets.len());
        while !self.stop.load(Relaxed) {
            match poll.poll(&mut events, Some(LOOK)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(reason = %e, "the synchronisation backup ends: epoll failed");
                    return;
                }
                _ => {}
            }
            let now = clock::now();
            if now.since(looked) >= LOOK {
                looked = now;
                let other = self.counts.look(&mut self.interface, SyncRole::Backup);
                match other.map(|other| register(&poll, other)) {
                    None => {}
                    Some(Ok(other)) => sockets = other,
                    Some(Err(e)) => self.counts.refused_sockets(&mut self.interface, &e),
                }
            }
            if events.is_empty() {
                continue;
            }
            ledger.begin();
            // Every socket until it is empty: readiness is told once.
            let mut open: Vec<(usize, &mio::net::UdpSocket)> = sockets.iter().enumerate().collect();
            while !open.is_empty() && !self.stop.load(Relaxed) {
                let mut batch = Batch::default();
                open.retain(|socket| self.read(*socket, &mut buffer, &mut batch, &mut ledger));
                self.pass_on(batch, &mut ledger);
                let _ = self.control.wake();
            }
            ledger.end();
        }
    }

    /// Reads some datagrams; false if there are no more.
    fn read(
        &mut self,
        (n, socket): (usize, &mio::net::UdpSocket),
        buffer: &mut [u8],
        batch: &mut Batch,
        ledger: &mut Ledger,
    ) -> bool {
        for _ in 0..SHARE {
            match socket.recv_from(buffer) {
                Ok((len, from)) => {
                    let is_peers = self.peer.is_none_or(|peer| peer == from.ip());
                    match buffer.get(..len).filter(|_| is_peers) {
                        Some(bytes) => {
                            if self.take(bytes, batch, ledger) {
                                ledger.add(from.ip(), n);
                            }
                        }
                        None => count(&self.counts.refused, 1),
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The interface is down: there is nothing to read until it is up again.
                Err(_) => return false,
            }
        }
        true
    }

    /// Takes what makes sense of a datagram. False if it is no message, or for others.
    fn take(&mut self, bytes: &[u8], batch: &mut Batch, ledger: &mut Ledger) -> bool {
        count(&self.counts.messages, 1);
        let bytes = match self.opener.open(auth::wall(), bytes) {
            Ok(bytes) => bytes,
            Err(why) => {
                self.counts.unauthentic.count(why);
                return false;
            }
        };
        let Ok(message) = Message::decode(bytes) else {
            count(&self.counts.refused, 1);
            return false;
        };
        if self.syncid != 0 && message.syncid != self.syncid {
            return false;
        }
        for entry in message.entries() {
            match entry {
                Ok((entry, engine)) if entry.check(&engine).is_ok() => {
                    count(&self.counts.entries, 1);
                    batch.push(entry, &engine);
                    if batch.is_full() {
                        self.pass_on(std::mem::take(batch), ledger);
                    }
                }
                _ => count(&self.counts.refused, 1),
            }
        }
        true
    }

    /// Hands a batch to the control loop. A loop that is far behind loses it; a master of RVS is
    /// asked again, others tell of living connections again.
    fn pass_on(&self, batch: Batch, ledger: &mut Ledger) {
        let rows = batch.rows.len() as u64;
        if rows != 0 && self.batches.try_send(Arc::new(batch)).is_err() {
            count(&self.counts.lost, rows);
            ledger.dropped(rows);
        }
    }
}
