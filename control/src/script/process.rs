//! One program that a helper runs: started, timed, ended, and what it said.

use std::io::{self, ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dataplane::time::Instant;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::account::Identity;
use super::wire::{Outcome, Report};

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// From a SIGKILL to the next: a process in an uninterruptible sleep takes its time.
const AGAIN: Duration = Duration::from_secs(10);
/// What is kept of the output, bytes.
const KEPT: usize = 4096;
/// Where programs find programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// It was sent SIGTERM.
    Asked,
    /// It was sent SIGKILL.
    Killed,
}

/// See the module.
pub(super) struct Process {
    child: Child,
    group: Pid,
    pidfd: OwnedFd,
    output: PipeReader,
    said: Vec<u8>,
    stage: Stage,
    next: Instant,
}

impl Process {
    /// Starts a program in a process group of its own, without input, terminal or shell. `exit`
    /// becomes readable when it ends, `output` when it says something.
    pub fn start(
        argv: &[String],
        identity: &Identity,
        deadline: Instant,
        registry: &Registry,
        (exit, output): (Token, Token),
    ) -> io::Result<Process> {
        let (program, args) = argv.split_first().ok_or(ErrorKind::InvalidInput)?;
        let (reader, writer) = io::pipe()?;
        let mut child = Command::new(program)
            .args(args)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", &identity.home)
            .env("USER", &identity.user)
            .env("LOGNAME", &identity.user)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()?;
        let watched = watch(&child, &reader, registry, exit, output);
        let (group, pidfd) = watched.inspect_err(|_| {
            // It cannot be waited for later, so it is not left running now.
            let _ = child.kill();
            let _ = child.wait();
        })?;
        Ok(Process {
            child,
            group,
            pidfd,
            output: reader,
            said: Vec::new(),
            stage: Stage::Running,
            next: deadline,
        })
    }

    /// Its process, and process group.
    pub fn pid(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// When [`Process::on_timer`] wants to be called.
    pub fn next_timeout(&self) -> Instant {
        self.next
    }

    /// Its time is over, or the time that it had to end by itself.
    pub fn on_timer(&mut self, now: Instant) {
        match self.stage {
            Stage::Running => self.ask(now),
            Stage::Asked | Stage::Killed => {
                self.stage = Stage::Killed;
                self.signal(Signal::KILL);
                self.next = now + AGAIN;
            }
        }
    }

    /// Asks it to end.
    pub fn ask(&mut self, now: Instant) {
        if self.stage == Stage::Running {
            self.stage = Stage::Asked;
            self.signal(Signal::TERM);
            self.next = now + GRACE;
        }
    }

    /// Signals its whole group.
    pub fn signal(&self, signal: Signal) {
        // A group that is gone needs no signal.
        let _ = rustix::process::kill_process_group(self.group, signal);
    }

    /// Reads what it says: the beginning is kept, the rest thrown away.
    pub fn read(&mut self) {
        let mut buffer = [0; 4096];
        // A program that writes without end is read no faster than it is polled.
        for _ in 0..64 {
            match (&self.output).read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => {
                    let room = KEPT.saturating_sub(self.said.len()).min(n);
                    self.said
                        .extend_from_slice(buffer.get(..room).unwrap_or_default());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// How it ended, if it has.
    pub fn reap(&mut self, registry: &Registry) -> Option<Report> {
        let status = self.child.try_wait().ok()??;
        self.read();
        for fd in [self.pidfd.as_raw_fd(), self.output.as_raw_fd()] {
            let _ = registry.deregister(&mut SourceFd(&fd));
        }
        if self.stage != Stage::Running {
            // What it started may have outlived it.
            self.signal(Signal::KILL);
        }
        let outcome = match (self.stage, status.code(), status.signal()) {
            (Stage::Asked | Stage::Killed, _, _) => Outcome::TimedOut,
            (_, Some(code), _) => Outcome::Exit(code),
            (_, None, signal) => Outcome::Signal(signal.unwrap_or_default()),
        };
        Some(Report {
            outcome,
            output: String::from_utf8_lossy(&self.said).into_owned(),
        })
    }

    /// Asks to be told of more output: epoll is edge triggered.
    pub fn rearm(&self, registry: &Registry, output: Token) {
        let fd = self.output.as_raw_fd();
        let _ = registry.reregister(&mut SourceFd(&fd), output, Interest::READABLE);
    }
}

fn watch(
    child: &Child,
    reader: &PipeReader,
    registry: &Registry,
    exit: Token,
    output: Token,
) -> io::Result<(Pid, OwnedFd)> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(ErrorKind::InvalidData)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let flags = rustix::fs::fcntl_getfl(reader.as_fd())?;
    rustix::fs::fcntl_setfl(reader.as_fd(), flags | OFlags::NONBLOCK)?;
    registry.register(&mut SourceFd(&pidfd.as_raw_fd()), exit, Interest::READABLE)?;
    registry.register(
        &mut SourceFd(&reader.as_raw_fd()),
        output,
        Interest::READABLE,
    )?;
    Ok((pid, pidfd))
}
