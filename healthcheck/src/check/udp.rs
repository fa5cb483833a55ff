//! A datagram and, if wanted, its reply (UDP_CHECK).
//!
//! Without `reply` silence is success: only an ICMP error, which the driver reports as an error of
//! the channel, says that nobody listens.

use super::{Channel, Conversation, Step};
use crate::verdict::{Failure, Passed, Verdict};

/// What a reply must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Least length, bytes.
    pub min: usize,
    /// Greatest length, bytes.
    pub max: usize,
    /// Values of the first bytes and which of their bits count.
    pub bytes: Vec<(u8, u8)>,
}

impl Default for Reply {
    fn default() -> Reply {
        Reply {
            min: 0,
            max: usize::MAX,
            bytes: Vec::new(),
        }
    }
}

impl Reply {
    /// Reads a pattern of hexadecimal digits, two a byte, blanks between bytes allowed; `x`
    /// stands for any digit.
    ///
    /// # Errors
    /// One line.
    pub fn pattern(text: &str) -> Result<Vec<(u8, u8)>, String> {
        let digits: Vec<char> = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        if !digits.len().is_multiple_of(2) {
            return Err(format!("\"{text}\" has an odd number of digits"));
        }
        let digit = |c: char| match (c, c.to_digit(16)) {
            ('x' | 'X', _) => Ok((0, 0)),
            (_, Some(value)) => Ok((value as u8, 0xf)),
            _ => Err(format!(
                "\"{c}\" in \"{text}\" is no hexadecimal digit and no x"
            )),
        };
        let byte = |pair: &[char]| {
            let ((high, high_mask), (low, low_mask)) = (digit(pair[0])?, digit(pair[1])?);
            Ok((high << 4 | low, high_mask << 4 | low_mask))
        };
        digits.chunks_exact(2).map(byte).collect()
    }

    fn refusal(&self, got: &[u8]) -> Option<String> {
        let (len, min, max) = (got.len(), self.min, self.max);
        if len < min || len > max {
            return Some(format!("a reply of {len} bytes, {min} to {max} are wanted"));
        }
        let differs = |((value, mask), got): (&(u8, u8), &u8)| value & mask != got & mask;
        let at = self.bytes.iter().zip(got).position(differs)?;
        Some(format!("byte {at} of the reply is {:#04x}", got.get(at)?))
    }
}

/// One datagram.
#[derive(Clone, Debug)]
pub struct Udp {
    payload: Vec<u8>,
    reply: Option<Reply>,
}

impl Udp {
    /// Sends `payload`; with `reply` waits for one like that.
    pub fn new(payload: Vec<u8>, reply: Option<Reply>) -> Udp {
        Udp { payload, reply }
    }
}

impl Conversation for Udp {
    fn channel(&self) -> Channel {
        Channel::Datagram
    }

    fn opened(&mut self) -> Step {
        Step::Send(core::mem::take(&mut self.payload))
    }

    fn received(&mut self, bytes: &[u8]) -> Step {
        match self.reply.as_ref().and_then(|wanted| wanted.refusal(bytes)) {
            Some(why) => Step::fail(Failure::Reply(why)),
            None => Step::Done(Ok(Passed::default())),
        }
    }

    fn closed(&mut self) -> Step {
        Step::Wait
    }

    fn expired(&mut self) -> Verdict {
        match self.reply {
            Some(_) => Err(Failure::Timeout("reply")),
            None => Ok(Passed::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(pattern: &str) -> Udp {
        let bytes = Reply::pattern(pattern).unwrap();
        Udp::new(
            b"ping".to_vec(),
            Some(Reply {
                min: 2,
                max: 4,
                bytes,
            }),
        )
    }

    #[test]
    fn without_a_wanted_reply_silence_is_success() {
        let mut udp = Udp::new(vec![1, 2], None);
        assert_eq!(udp.opened(), Step::Send(vec![1, 2]));
        assert_eq!(udp.expired(), Ok(Passed::default()));
    }

    #[test]
    fn a_reply_is_compared_by_length_and_masked_bytes() {
        assert_eq!(
            wanted("7x ff").received(&[0x75, 0xff, 9]),
            Step::Done(Ok(Passed::default()))
        );
        let other = Failure::Reply("byte 1 of the reply is 0xfe".into());
        assert_eq!(wanted("7x ff").received(&[0x75, 0xfe]), Step::fail(other));
        let short = Failure::Reply("a reply of 1 bytes, 2 to 4 are wanted".into());
        assert_eq!(wanted("7x").received(&[0x75]), Step::fail(short));
        assert_eq!(wanted("").expired(), Err(Failure::Timeout("reply")));
    }

    #[test]
    fn patterns_that_are_none_say_why() {
        assert!(Reply::pattern("abc").unwrap_err().contains("odd number"));
        assert!(Reply::pattern("zz").unwrap_err().contains("\"z\""));
    }
}
