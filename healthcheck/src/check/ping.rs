//! ICMP echo (PING_CHECK). The socket is one of Linux' ping sockets: the kernel fills in identifier
//! and checksum, and hands over replies to this socket only.

use super::{Channel, Conversation, Step};
use crate::verdict::{Failure, Passed, Verdict};

/// Bytes of an echo message after its header, as keepalived sends.
const BODY: usize = 128;
/// RFC 792 and RFC 4443, 4.1 and 4.2.
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// One echo request and its reply.
#[derive(Clone, Debug)]
pub struct Ping {
    ipv6: bool,
    sequence: u16,
    body: [u8; BODY],
}

impl Ping {
    /// `sequence` is in network byte order on the wire; `seed` makes the body.
    pub fn new(ipv6: bool, sequence: u16, seed: u64) -> Ping {
        let mut body = [0; BODY];
        let words = (1u64..).map(|n| seed.wrapping_add(n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for (to, word) in body.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        Ping {
            ipv6,
            sequence,
            body,
        }
    }

    fn is_reply(&self, message: &[u8]) -> bool {
        let kind = if self.ipv6 { ECHO_REPLY_V6 } else { ECHO_REPLY };
        let sequence = self.sequence.to_be_bytes();
        message.get(..2) == Some(&[kind, 0])
            && message.get(6..8) == Some(&sequence)
            && message.get(8..) == Some(&self.body)
    }
}

impl Conversation for Ping {
    fn channel(&self) -> Channel {
        Channel::Echo
    }

    fn opened(&mut self) -> Step {
        let kind = if self.ipv6 {
            ECHO_REQUEST_V6
        } else {
            ECHO_REQUEST
        };
        let [high, low] = self.sequence.to_be_bytes();
        let mut message = vec![kind, 0, 0, 0, 0, 0, high, low];
        message.extend_from_slice(&self.body);
        Step::Send(message)
    }

    fn received(&mut self, message: &[u8]) -> Step {
        // A late reply to an earlier request is none to this one.
        match self.is_reply(message) {
            true => Step::Done(Ok(Passed::default())),
            false => Step::Wait,
        }
    }

    fn closed(&mut self) -> Step {
        Step::Wait
    }

    fn expired(&mut self) -> Verdict {
        Err(Failure::Timeout("echo reply"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reply_to_this_request_counts() {
        for (ipv6, reply) in [(false, ECHO_REPLY), (true, ECHO_REPLY_V6)] {
            let mut ping = Ping::new(ipv6, 0x102, 9);
            let Step::Send(mut message) = ping.opened() else {
                panic!("a request is sent")
            };
            assert_eq!(message.len(), 8 + BODY);
            assert_eq!(ping.received(&message), Step::Wait, "our own request");
            message[0] = reply;
            let late = Ping::new(ipv6, 0x101, 9).received(&message);
            assert_eq!(late, Step::Wait);
            assert_eq!(ping.received(&message[..20]), Step::Wait);
            assert_eq!(ping.received(&message), Step::Done(Ok(Passed::default())));
        }
    }
}
