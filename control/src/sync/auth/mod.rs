//! Authentication of what nodes tell each other, with protection against replay.
//!
//! A [`Sealer`] appends a trailer to a datagram or frame: who sealed it (a random number of this
//! run), its running number, the time, which key, and HMAC-SHA256 (RFC 2104, cut to 16 bytes as in
//! RFC 4868) over what it is for, the message and the trailer so far. An [`Opener`] takes a message
//! only if one of its keys made the code, if it is not older than [`TOLERANCE`] by the own clock,
//! and if no message of this sender with this number came before ([`window`]). Whoever did not
//! speak for longer than messages stay fresh is forgotten: nothing of his can come again.
//!
//! ```text
//!  0  sender   8 bytes, random
//!  8  number   8 bytes, big endian, from 1
//! 16  time     8 bytes, big endian, milliseconds since 1970
//! 24  key      4 bytes, see Key::hint
//! 28  "RVA1"
//! 32  code    16 bytes
//! ```

mod keys;
mod window;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};

pub use self::keys::{BadKey, Key, KeyFiles, Keys, Ring};
use self::window::Window;

/// Bytes that a [`Sealer`] appends.
pub const TRAILER: usize = 48;
/// Of these, the code.
const CODE: usize = 16;
/// Of these, what the code covers.
const COVERED: usize = TRAILER - CODE;
/// Ends the covered part: a trailer of this layout.
const MARK: [u8; 4] = *b"RVA1";

/// By how much the clocks of two nodes may differ, and how long a message may be on its way (the
/// usual tolerance of Kerberos, RFC 4120).
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// Senders that are remembered: each node has one for each port, and another after a restart.
const SENDERS: usize = 4096;

/// What a message is for. One kind is never taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Connections by UDP.
    Entries,
    /// Nodes that look for each other.
    Hello,
    /// Frames of a stream between two nodes.
    Stream,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Purpose::Entries => b"rvs sync entries",
            Purpose::Hello => b"rvs sync hello",
            Purpose::Stream => b"rvs sync stream",
        }
    }
}

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It has no trailer: a node without a key, or the kernel's.
    #[error("not authenticated")]
    Unsigned,
    /// Sealed with a key that is not known here.
    #[error("sealed with another key")]
    Key,
    /// The code is wrong.
    #[error("forged or damaged")]
    Forged,
    /// Its time is more than [`TOLERANCE`] off.
    #[error("too old, or the clocks differ")]
    Stale,
    /// It came before, or is too far behind what came.
    #[error("replayed")]
    Replayed,
    /// More senders at once than are remembered.
    #[error("too many senders")]
    Crowded,
}

/// Milliseconds since 1970 by the wall clock.
pub fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// Seals messages for one purpose. What needs an order of its own (a socket, a stream) has one of
/// its own.
#[derive(Debug)]
pub struct Sealer {
    keys: Arc<Keys>,
    purpose: Purpose,
    sender: [u8; 8],
    number: u64,
}

impl Sealer {
    /// With the keys of the moment, whatever they are.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(keys: Arc<Keys>, purpose: Purpose) -> Result<Sealer, ring::error::Unspecified> {
        let mut sender = [0; 8];
        SystemRandom::new().fill(&mut sender)?;
        Ok(Sealer {
            keys,
            purpose,
            sender,
            number: 0,
        })
    }

    /// Appends the trailer, at `wall` milliseconds since 1970. Without a key nothing.
    pub fn seal(&mut self, wall: u64, message: &mut Vec<u8>) {
        let ring = self.keys.ring();
        let Some(key) = &ring.current else { return };
        self.number += 1;
        message.extend_from_slice(&self.sender);
        message.extend_from_slice(&self.number.to_be_bytes());
        message.extend_from_slice(&wall.to_be_bytes());
        message.extend_from_slice(&key.hint);
        message.extend_from_slice(&MARK);
        let code = key.code(self.purpose.label(), message);
        message.extend_from_slice(&code.as_ref()[..CODE]);
    }

    /// Bytes that [`Sealer::seal`] appends.
    pub fn room(&self) -> usize {
        match self.keys.ring().current {
            Some(_) => TRAILER,
            None => 0,
        }
    }
}

/// Of a sender: when it spoke last, and what came.
#[derive(Debug)]
struct Heard {
    /// Latest time in a message of its, milliseconds since 1970.
    time: u64,
    window: Window,
}

/// Opens sealed messages of one purpose.
#[derive(Debug)]
pub struct Opener {
    keys: Arc<Keys>,
    purpose: Purpose,
    senders: HashMap<[u8; 8], Heard>,
}

impl Opener {
    /// With the keys of the moment, whatever they are.
    pub fn new(keys: Arc<Keys>, purpose: Purpose) -> Opener {
        Opener {
            keys,
            purpose,
            senders: HashMap::new(),
        }
    }

    /// The message without its trailer, at `wall` milliseconds since 1970. Without a key it is taken
    /// as it is.
    ///
    /// # Errors
    /// See [`Why`]. Of what is refused nothing is remembered.
    pub fn open<'a>(&mut self, wall: u64, bytes: &'a [u8]) -> Result<&'a [u8], Why> {
        let ring = self.keys.ring();
        if ring.current.is_none() {
            return Ok(bytes);
        }
        let (covered, code) = bytes.split_last_chunk::<CODE>().ok_or(Why::Unsigned)?;
        let (message, trailer) = covered.split_last_chunk::<COVERED>().ok_or(Why::Unsigned)?;
        let (sender, rest) = word(trailer);
        let (number, rest) = word(rest);
        let (time, rest) = word(rest);
        let (hint, mark) = rest.split_at_checked(4).unwrap_or((&[], &[]));
        if mark != MARK {
            return Err(Why::Unsigned);
        }
        let mut has_hint = false;
        let is_genuine = ring.keys().filter(|key| key.hint == hint).any(|key| {
            has_hint = true;
            key.is_code(self.purpose.label(), covered, code)
        });
        if !is_genuine {
            return Err(if has_hint { Why::Forged } else { Why::Key });
        }
        let time = u64::from_be_bytes(time);
        let tolerance = TOLERANCE.as_millis() as u64;
        if time.abs_diff(wall) > tolerance {
            return Err(Why::Stale);
        }
        let number = u64::from_be_bytes(number);
        if let Some(heard) = self.senders.get_mut(&sender) {
            if !heard.window.take(number) {
                return Err(Why::Replayed);
            }
            heard.time = heard.time.max(time);
            return Ok(message);
        }
        if self.senders.len() >= SENDERS {
            // All that they sent is stale by now.
            self.senders
                .retain(|_, heard| heard.time.saturating_add(tolerance) >= wall);
        }
        if self.senders.len() >= SENDERS {
            return Err(Why::Crowded);
        }
        let window = Window::beginning(number);
        self.senders.insert(sender, Heard { time, window });
        Ok(message)
    }
}

/// The first eight bytes, and the rest.
fn word(bytes: &[u8]) -> ([u8; 8], &[u8]) {
    match bytes.split_first_chunk() {
        Some((word, rest)) => (*word, rest),
        None => ([0; 8], &[]),
    }
}

#[cfg(test)]
mod tests;
