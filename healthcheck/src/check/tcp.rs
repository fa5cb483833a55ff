//! A TCP connection that opens is the answer (TCP_CHECK).

use super::{Channel, Conversation, Step};
use crate::verdict::{Failure, Passed, Verdict};

/// Sends nothing; passes as soon as the connection is open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Conversation for Tcp {
    fn channel(&self) -> Channel {
        Channel::Stream
    }

    fn opened(&mut self) -> Step {
        Step::Done(Ok(Passed::default()))
    }

    fn received(&mut self, _: &[u8]) -> Step {
        Step::Wait
    }

    fn closed(&mut self) -> Step {
        Step::fail(Failure::Closed("the connection was open"))
    }

    fn expired(&mut self) -> Verdict {
        Err(Failure::Timeout("answer to the SYN"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_connection_is_enough() {
        assert_eq!(Tcp.opened(), Step::Done(Ok(Passed::default())));
        assert_eq!(Tcp.expired(), Err(Failure::Timeout("answer to the SYN")));
    }
}
