//! Counts that threads share: what a master has sent by each socket, what a backup has read.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use mio::Waker;

use super::hello::Sent;
use crate::sync::count;

/// What a master has sent, by socket. Only its thread writes.
#[derive(Debug)]
pub struct SentBy(Box<[(AtomicU64, AtomicU64)]>);

impl SentBy {
    /// Nothing yet, by so many sockets.
    pub fn new(sockets: usize) -> SentBy {
        SentBy((0..sockets).map(|_| Default::default()).collect())
    }

    /// A message of so many entries is on its way.
    pub fn add(&self, socket: usize, entries: u64) {
        if let Some((messages, all)) = self.0.get(socket) {
            count(all, entries);
            count(messages, 1);
        }
    }

    /// As it stands. Called by others it may be a little less than what was sent, never more.
    pub fn get(&self) -> Vec<Sent> {
        let read = |(messages, entries): &(AtomicU64, AtomicU64)| Sent {
            messages: messages.load(Relaxed),
            entries: entries.load(Relaxed),
        };
        self.0.iter().map(read).collect()
    }
}

/// Most hosts whose messages are counted one by one.
const MAX_SENDERS: usize = 64;

/// What a backup has read, by sender and socket. The backup's thread counts for itself; who wants to
/// know asks ([`Receipts::ask`]) and gets the counts of when nothing was left to be read.
#[derive(Debug)]
pub struct Receipts {
    asked: AtomicU64,
    published: Mutex<Published>,
    /// Of who asks.
    waker: Arc<Waker>,
}

/// See [`Receipts`].
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The question that this answers.
    pub answered: u64,
    /// Sockets that are read.
    pub sockets: usize,
    /// Messages by sender and socket.
    pub messages: HashMap<IpAddr, Vec<u64>>,
    /// Entries that the control loop had no room for.
    pub dropped: u64,
}

impl Receipts {
    /// None; `waker` is rung with each answer.
    pub fn new(waker: Arc<Waker>) -> Receipts {
        Receipts {
            asked: AtomicU64::new(0),
            published: Mutex::default(),
            waker,
        }
    }

    /// Asks; the answer to this question has this number or a higher one. The backup's thread is
    /// to be rung.
    pub fn ask(&self) -> u64 {
        self.asked.fetch_add(1, Relaxed) + 1
    }

    /// The last answer.
    pub fn read(&self) -> Published {
        let published = self.published.lock();
        published.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The backup's end of [`Receipts`].
#[derive(Debug)]
pub struct Ledger {
    receipts: Option<Arc<Receipts>>,
    own: Published,
    /// The question of before the present reading.
    question: u64,
}

impl Ledger {
    /// Nothing was read yet from so many sockets.
    pub fn new(receipts: Option<Arc<Receipts>>, sockets: usize) -> Ledger {
        Ledger {
            receipts,
            own: Published {
                sockets,
                ..Published::default()
            },
            question: 0,
        }
    }

    /// Reading begins: whatever was asked until now is answered when it ends.
    pub fn begin(&mut self) {
        if let Some(receipts) = &self.receipts {
            self.question = receipts.asked.load(Relaxed);
        }
    }

    /// A message came.
    pub fn add(&mut self, from: IpAddr, socket: usize) {
        if self.receipts.is_none() {
            return;
        }
        let messages = &mut self.own.messages;
        if messages.len() >= MAX_SENDERS && !messages.contains_key(&from) {
            return;
        }
        let sockets = self.own.sockets;
        let by_socket = messages.entry(from).or_insert_with(|| vec![0; sockets]);
        if let Some(count) = by_socket.get_mut(socket) {
            *count += 1;
        }
    }

    /// Entries were dropped that had come.
    pub fn dropped(&mut self, entries: u64) {
        self.own.dropped += entries;
    }

    /// Nothing is left to be read.
    pub fn end(&mut self) {
        let Some(receipts) = &self.receipts else {
            return;
        };
        if self.question == self.own.answered {
            return;
        }
        self.own.answered = self.question;
        let published = receipts.published.lock();
        *published.unwrap_or_else(PoisonError::into_inner) = self.own.clone();
        let _ = receipts.waker.wake();
    }
}
