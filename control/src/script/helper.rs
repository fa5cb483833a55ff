//! The helper process: takes orders from its standard input and runs programs.
//!
//! It is a single thread around epoll. It ends when rvsd does: the socket closes, whatever ended
//! the other side.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use dataplane::time::Instant;
use mio::{Events, Poll, Token};
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::account::Identity;
use super::process::Process;
use super::wire::{Answer, Order, Report, Run, Wire};
use super::{safety, wire};
use crate::clock;

/// The name (`argv[0]`) under which this binary is a helper.
pub const NAME: &str = "rvsd-scripts";

const ORDERS: Token = Token(0);
/// Programs at a time: beyond that something is wrong, and more would make it worse.
const MOST: usize = 512;
/// How long programs have to end when rvsd has.
const LAST: Duration = Duration::from_secs(1);
/// Longest sleep.
const NAP: Duration = Duration::from_secs(3600);

/// Whether this process was started as a helper.
pub fn is_wanted() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}

/// What a helper does, start to end.
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{NAME}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    // What is meant for rvsd is not meant for us: a service manager signals all processes of a
    // service, and rvsd may have scripts to run before it ends.
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    std::env::set_current_dir("/")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let _ = rustix::thread::set_name(c"rvs-scripts");
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let poll = Poll::new()?;
    let wire = Wire::new(stream, poll.registry(), ORDERS)?;
    let mut helper = Helper {
        poll,
        wire,
        identity: None,
        programs: BTreeMap::new(),
        names: 0,
    };
    helper.run()
}

struct Helper {
    poll: Poll,
    wire: Wire,
    /// Who it is, once it was told.
    identity: Option<Identity>,
    /// By name: tokens are made of it. With the number that rvsd knows.
    programs: BTreeMap<usize, (u64, Process)>,
    names: usize,
}

fn tokens(name: usize) -> (Token, Token) {
    (Token(2 * name), Token(2 * name + 1))
}

impl Helper {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            self.wait(&mut events, NAP)?;
            let (orders, open) = self.wire.receive::<wire::Order>();
            for order in orders {
                if !self.obey(order) {
                    return Ok(());
                }
            }
            self.wire.flush();
            if !open {
                return self.end(&mut events);
            }
        }
    }

    /// Waits for something to happen and deals with what happened to programs.
    fn wait(&mut self, events: &mut Events, most: Duration) -> io::Result<()> {
        let now = clock::now();
        let due = self.programs.values().map(|(_, p)| p.next_timeout()).min();
        let timeout = due.map_or(most, |due| due.since(now).min(most));
        match self.poll.poll(events, Some(timeout)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in &*events {
            let Token(token) = event.token();
            match token % 2 == 0 {
                true => self.reap(token / 2),
                false => self.read(token / 2),
            }
        }
        let now = clock::now();
        for (_, program) in self.programs.values_mut() {
            if program.next_timeout() <= now {
                program.on_timer(now);
            }
        }
        Ok(())
    }

    fn reap(&mut self, name: usize) {
        let Some((id, program)) = self.programs.get_mut(&name) else {
            return;
        };
        if let Some(report) = program.reap(self.poll.registry()) {
            let answer = Answer::Ended(*id, report);
            self.programs.remove(&name);
            self.wire.send(&answer);
        }
    }

    fn read(&mut self, name: usize) {
        if let Some((_, program)) = self.programs.get_mut(&name) {
            program.read();
            program.rearm(self.poll.registry(), tokens(name).1);
        }
    }

    /// False if it cannot go on.
    fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Become(identity, cores) => {
                keep_to(&cores);
                if let Err(why) = identity.take_on() {
                    self.wire.send(&Answer::Unable(why));
                    return false;
                }
                self.identity = Some(identity);
            }
            Order::Run(run) => {
                let id = run.id;
                let answer = match self.start(run) {
                    Ok(pid) => Answer::Started(id, pid),
                    Err(why) => Answer::Ended(id, Report::not_run(why)),
                };
                self.wire.send(&answer);
            }
            Order::Cancel(id) => {
                let now = clock::now();
                let its = |(of, _): &&mut (u64, Process)| *of == id;
                if let Some((_, program)) = self.programs.values_mut().find(its) {
                    program.ask(now);
                }
            }
        }
        true
    }

    fn start(&mut self, run: Run) -> Result<i32, String> {
        let Some(identity) = &self.identity else {
            return Err("the helper was not told who to be".into());
        };
        if self.programs.len() >= MOST {
            return Err(format!(
                "{MOST} scripts run already; find out why they do not end"
            ));
        }
        let path = safety::program(&run.argv);
        if let Some(why) = safety::complaint(&path, run.secure && identity.uid == 0) {
            return Err(why);
        }
        let deadline = clock::now() + Duration::from_millis(run.timeout_ms);
        let name = self.names + 1;
        let registry = self.poll.registry();
        let program = Process::start(&run.argv, identity, deadline, registry, tokens(name));
        let program = program.map_err(|e| describe(&path, &e))?;
        let pid = program.pid();
        self.names = name;
        self.programs.insert(name, (run.id, program));
        Ok(pid)
    }

    /// Asks everything to end, and after a while ends it.
    fn end(&mut self, events: &mut Events) -> io::Result<()> {
        let now = clock::now();
        let until: Instant = now + LAST;
        for (_, program) in self.programs.values_mut() {
            program.ask(now);
        }
        while !self.programs.is_empty() && clock::now() < until {
            self.wait(events, until.since(clock::now()))?;
        }
        for (_, program) in self.programs.values() {
            program.signal(Signal::KILL);
        }
        Ok(())
    }
}

/// Keeps this process and what it starts to these cores.
fn keep_to(cores: &[u32]) {
    let mut set = rustix::thread::CpuSet::new();
    for core in cores {
        if (*core as usize) < rustix::thread::CpuSet::MAX_CPU {
            set.set(*core as usize);
        }
    }
    if set.count() > 0 {
        // Cores that are not there: it runs where it did.
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}

fn describe(path: &Path, e: &io::Error) -> String {
    let shown = path.display();
    match e.raw_os_error() {
        Some(libc::ENOEXEC) => {
            format!("script {shown} has no #! line and is no program; add one")
        }
        Some(libc::ENOENT) => format!("script {shown}: its interpreter (#! line) does not exist"),
        _ => format!("script {shown} cannot be started: {e}"),
    }
}
