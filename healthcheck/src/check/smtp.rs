//! SMTP: the banner, HELO and QUIT (SMTP_CHECK; RFC 5321, 4.2).
//!
//! Unlike keepalived's check, replies of several lines are understood (RFC 5321, 4.2.1).

use super::{Channel, Conversation, Step};
use crate::verdict::{Failure, Passed, Verdict};

/// Longest reply that is read, bytes. RFC 5321, 4.5.3.1.5 allows lines of 512.
const LONGEST: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Banner,
    Helo,
    Quit,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Banner => "the connection",
            Stage::Helo => "HELO",
            Stage::Quit => "QUIT",
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Stage::Banner => "banner",
            Stage::Helo => "answer to HELO",
            Stage::Quit => "answer to QUIT",
        }
    }
}

/// One SMTP session without a mail.
#[derive(Clone, Debug)]
pub struct Smtp {
    helo: String,
    stage: Stage,
    seen: Vec<u8>,
}

impl Smtp {
    /// A session that introduces itself as `helo_name`.
    pub fn new(helo_name: &str) -> Smtp {
        Smtp {
            helo: format!("HELO {helo_name}\r\n"),
            stage: Stage::Banner,
            seen: Vec::new(),
        }
    }

    fn reply(&mut self, line: &str) -> Step {
        let code = line.get(..3).unwrap_or_default();
        let (stage, next) = match (self.stage, code) {
            (Stage::Banner, "220") => (Stage::Helo, self.helo.clone()),
            (Stage::Helo, "250") => (Stage::Quit, "QUIT\r\n".into()),
            // Whatever it says: it has shown that it works.
            (Stage::Quit, _) => return Step::Done(Ok(Passed::default())),
            _ => {
                let (to, line) = (self.stage.name(), line.to_owned());
                return Step::fail(Failure::Smtp { to, line });
            }
        };
        self.stage = stage;
        Step::Send(next.into_bytes())
    }
}

impl Conversation for Smtp {
    fn channel(&self) -> Channel {
        Channel::Stream
    }

    fn opened(&mut self) -> Step {
        Step::Wait
    }

    fn received(&mut self, bytes: &[u8]) -> Step {
        self.seen.extend_from_slice(bytes);
        while let Some(end) = self.seen.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.seen.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            // "250-" is followed by more lines, "250 " and "250" end the reply.
            if line.as_bytes().get(3) == Some(&b'-') && self.stage != Stage::Quit {
                continue;
            }
            // What the server says before it was asked is dropped with the reply.
            self.seen.clear();
            return self.reply(line);
        }
        if self.seen.len() > LONGEST {
            let why = format!(
                "a line of over {LONGEST} bytes in answer to {}",
                self.stage.name()
            );
            return Step::fail(Failure::Malformed(why));
        }
        Step::Wait
    }

    fn closed(&mut self) -> Step {
        Step::fail(Failure::Closed(self.stage.wanted()))
    }

    fn expired(&mut self) -> Verdict {
        Err(Failure::Timeout(self.stage.wanted()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session() {
        let mut smtp = Smtp::new("lb.example");
        assert_eq!(smtp.opened(), Step::Wait);
        assert_eq!(smtp.received(b"220-mail.example\r\n220"), Step::Wait);
        let helo = Step::Send(b"HELO lb.example\r\n".to_vec());
        assert_eq!(smtp.received(b" ready\r\n"), helo);
        let quit = Step::Send(b"QUIT\r\n".to_vec());
        assert_eq!(smtp.received(b"250 hello\r\n"), quit);
        assert_eq!(
            smtp.received(b"221 bye\r\n"),
            Step::Done(Ok(Passed::default()))
        );
    }

    #[test]
    fn another_code_fails() {
        let mut smtp = Smtp::new("lb.example");
        let failed = Failure::Smtp {
            to: "the connection",
            line: "554 no".into(),
        };
        assert_eq!(smtp.received(b"554 no\r\n"), Step::fail(failed));
    }

    #[test]
    fn silence_and_an_early_end_say_where() {
        let mut smtp = Smtp::new("lb.example");
        assert_eq!(smtp.expired(), Err(Failure::Timeout("banner")));
        smtp.received(b"220 ready\r\n");
        assert_eq!(smtp.closed(), Step::fail(Failure::Closed("answer to HELO")));
    }

    #[test]
    fn endless_lines_end() {
        let mut smtp = Smtp::new("lb.example");
        let step = (0..5).map(|_| smtp.received(&[b'x'; 1024])).last();
        assert!(matches!(step, Some(Step::Done(Err(Failure::Malformed(_))))));
    }
}
