//! What rvsd and a helper say to each other: lines of JSON on a socket pair.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream as StdStream;

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::account::Identity;

/// Longest line, bytes: a command is a few hundred.
const LONGEST: usize = 1 << 20;

/// To a helper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// The first one: who to be, and on which cores.
    Become(Identity, Vec<u32>),
    /// Run a program.
    Run(Run),
    /// End a run.
    Cancel(u64),
}

/// A program to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub id: u64,
    pub argv: Vec<String>,
    pub timeout_ms: u64,
    /// Refuse what others than root can change, if it would run as root.
    pub secure: bool,
}

/// From a helper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// It cannot be who it should be, and ends.
    Unable(String),
    /// A run has this process (and process group).
    Started(u64, i32),
    /// A run is over.
    Ended(u64, Report),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With this exit status.
    Exit(i32),
    /// By this signal, which was not ours.
    Signal(i32),
    /// It was ended because its time was over.
    TimedOut,
    /// It could not be started: one line that says why.
    NotRun(String),
}

/// How a run ended, and what it had to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The beginning of what it wrote to its standard output and error.
    pub output: String,
}

impl Report {
    /// Of a run that was none.
    pub fn not_run(why: impl Into<String>) -> Report {
        Report {
            outcome: Outcome::NotRun(why.into()),
            output: String::new(),
        }
    }

    /// Whether it ended with status 0.
    pub fn is_success(&self) -> bool {
        self.outcome == Outcome::Exit(0)
    }

    /// What went wrong, one line: `exit status 2: no such host`.
    pub fn line(&self) -> String {
        let what = match &self.outcome {
            Outcome::Exit(code) => format!("exit status {code}"),
            Outcome::Signal(number) => format!("ended by signal {number}"),
            Outcome::TimedOut => "not done in time".to_owned(),
            Outcome::NotRun(why) => return why.clone(),
        };
        let mut lines = self.output.lines().map(str::trim);
        match lines.find(|line| !line.is_empty()) {
            Some(said) => format!("{what}: {}", said.escape_debug()),
            None => what,
        }
    }
}

/// One end of the socket pair; it never blocks.
pub(super) struct Wire {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

impl Wire {
    /// Takes an end over.
    pub fn new(stream: StdStream, registry: &Registry, token: Token) -> io::Result<Wire> {
        stream.set_nonblocking(true)?;
        let mut stream = UnixStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, token, interest)?;
        Ok(Wire {
            stream,
            inbox: Vec::new(),
            outbox: Vec::new(),
        })
    }

    /// Queues a message and sends what can be sent. An end that is gone shows when it is read.
    pub fn send(&mut self, message: &impl Serialize) {
        // Enums of texts and numbers always have a form in JSON.
        if serde_json::to_writer(&mut self.outbox, message).is_ok() {
            self.outbox.push(b'\n');
        }
        self.flush();
    }

    /// Sends what is queued.
    pub fn flush(&mut self) {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(sent) => drop(self.outbox.drain(..sent)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Messages that have arrived, and whether the other end is still there. What cannot be read
    /// is the end, too: nothing after it can be trusted.
    pub fn receive<T: DeserializeOwned>(&mut self) -> (Vec<T>, bool) {
        let mut buffer = [0; 16 * 1024];
        let mut open = true;
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => open = false,
                Ok(n) => {
                    self.inbox
                        .extend_from_slice(buffer.get(..n).unwrap_or_default());
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => open &= e.kind() == ErrorKind::WouldBlock,
            }
            break;
        }
        let mut messages = Vec::new();
        while let Some(end) = self.inbox.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.inbox.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(message) => messages.push(message),
                Err(_) => return (messages, false),
            }
        }
        (messages, open && self.inbox.len() <= LONGEST)
    }

    /// Takes it off a poll.
    pub fn deregister(&mut self, registry: &Registry) {
        // One that was never registered is not either now.
        let _ = registry.deregister(&mut self.stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_the_log() {
        let line = |outcome, output: &str| {
            let output = output.to_owned();
            Report { outcome, output }.line()
        };
        assert_eq!(
            line(Outcome::Exit(2), "\n no route\nmore"),
            "exit status 2: no route"
        );
        assert_eq!(line(Outcome::Signal(9), ""), "ended by signal 9");
        assert_eq!(
            line(Outcome::TimedOut, "\x1b[1m"),
            "not done in time: \\u{1b}[1m"
        );
        assert_eq!(line(Outcome::NotRun("gone".into()), "x"), "gone");
    }

    #[test]
    fn messages_cross_and_nonsense_is_the_end() {
        let poll = mio::Poll::new().unwrap();
        let (a, b) = StdStream::pair().unwrap();
        let mut a = Wire::new(a, poll.registry(), Token(0)).unwrap();
        let mut b = Wire::new(b, poll.registry(), Token(1)).unwrap();
        a.send(&Answer::Started(1, 42));
        a.send(&Answer::Ended(1, Report::not_run("line\nbreak")));
        let (messages, open) = b.receive::<Answer>();
        assert!(open);
        assert!(matches!(
            &messages[..],
            [Answer::Started(1, 42), Answer::Ended(1, report)]
                if report.outcome == Outcome::NotRun("line\nbreak".into())
        ));
        b.send(&"what?");
        assert!(!a.receive::<Answer>().1);
        drop(a);
        assert!(!b.receive::<Answer>().1);
    }
}
