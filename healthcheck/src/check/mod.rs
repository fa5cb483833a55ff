//! The conversations: what one attempt of each kind of check sends, and what it accepts.

pub mod dns;
pub mod file;
pub mod http;
pub mod ping;
pub mod script;
pub mod smtp;
pub mod tcp;
pub mod udp;

use crate::verdict::{Failure, Verdict};

/// What the driver opens for an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A TCP connection.
    Stream,
    /// A TCP connection with a TLS session on it.
    Tls,
    /// A connected UDP socket, so that ICMP errors arrive.
    Datagram,
    /// An ICMP or ICMPv6 echo socket: messages without the ICMP header, see [`ping`].
    Echo,
}

/// What the driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for what arrives.
    Wait,
    /// Send this, then wait.
    Send(Vec<u8>),
    /// Close the channel and open it again: the next part of the same attempt.
    Reopen,
    /// Close the channel; the attempt is over.
    Done(Verdict),
}

impl Step {
    fn fail(failure: Failure) -> Step {
        Step::Done(Err(failure))
    }
}

/// One attempt. The driver reports what happens in the order in which it happens; after
/// [`Step::Done`] it reports nothing more. An error of the channel ends the attempt with
/// [`Failure::Io`] or [`Failure::Tls`] without asking.
pub trait Conversation: Send {
    /// What is to be opened.
    fn channel(&self) -> Channel;

    /// The channel is open (for TLS: the session is set up).
    fn opened(&mut self) -> Step;

    /// Bytes of a stream as they come, or one datagram.
    fn received(&mut self, bytes: &[u8]) -> Step;

    /// The peer closed its side of the stream.
    fn closed(&mut self) -> Step;

    /// The deadline has come.
    fn expired(&mut self) -> Verdict;
}
