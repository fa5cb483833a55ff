//! SIGTERM, SIGINT and SIGHUP, taken from the start of the process on.
//!
//! What comes before the control loop runs is kept: a start looks between its steps whether it
//! is to end, and undoes what it did, instead of being cut off by the signal.

use std::io;

use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals as Source;

/// The signals of this process.
pub struct Signals {
    source: Source,
    end: Option<i32>,
    hangup: bool,
}

impl Signals {
    /// From here on none of them ends the process by itself.
    ///
    /// # Errors
    /// The system refuses the handlers.
    pub fn take() -> io::Result<Signals> {
        Ok(Signals {
            source: Source::new([SIGTERM, SIGINT, SIGHUP])?,
            end: None,
            hangup: false,
        })
    }

    /// Makes `token` readable when one comes.
    ///
    /// # Errors
    /// Of epoll.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.source, token, Interest::READABLE)
    }

    /// SIGTERM or SIGINT, if one has come.
    pub fn end(&mut self) -> Option<i32> {
        self.collect();
        self.end
    }

    /// Whether SIGHUP has come since this was asked last.
    pub fn take_hangup(&mut self) -> bool {
        self.collect();
        std::mem::take(&mut self.hangup)
    }

    fn collect(&mut self) {
        for signal in self.source.pending() {
            match signal {
                SIGHUP => self.hangup = true,
                _ => self.end = Some(signal),
            }
        }
    }
}
