//! The thread that owns the helpers: starts them, hands them their work, and notices their end.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command as Program, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError};
use dataplane::time::Instant;
use mio::{Events, Poll, Token, Waker};
use rustix::process::{Pid, Signal};

use super::account::Account;
use super::wire::{self, Answer, Report, Wire};
use super::{Command, Done, Order, Settings, Ticket, helper};
use crate::clock;

const WAKER: Token = Token(0);
/// A helper that ended is started again at once, unless it did not live this long: then after as
/// long.
const LEAST_LIFE: Duration = Duration::from_secs(1);
/// Longest sleep.
const NAP: Duration = Duration::from_secs(3600);

/// How a helper is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its name, `argv[0]`.
    pub name: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Added to its environment.
    pub env: Vec<(String, String)>,
}

impl Default for Launch {
    /// This binary, as a helper: the file that runs, even if another was installed since.
    fn default() -> Launch {
        Launch {
            program: "/proc/self/exe".into(),
            name: helper::NAME.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
        }
    }
}

/// Starts the thread; the waker tells it of orders.
pub(super) fn start(
    launch: Launch,
    settings: Settings,
    orders: Receiver<Order>,
) -> io::Result<Arc<Waker>> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    let mut keeper = Keeper {
        poll,
        _waker: Arc::clone(&waker),
        launch,
        settings,
        orders,
        helpers: BTreeMap::new(),
        tokens: 0,
        finish: None,
    };
    // The first helper is there before anything else of the process is.
    keeper.up(&keeper.settings.account.clone());
    std::thread::Builder::new()
        .name("rvs-scripts".to_owned())
        .spawn(move || keeper.run())?;
    Ok(waker)
}

/// A run that a helper has.
struct Work {
    /// None once it was cancelled.
    done: Option<Done>,
    /// Its process group, once it is known.
    group: Option<Pid>,
}

/// A helper that lives.
struct Alive {
    token: Token,
    child: Child,
    wire: Wire,
    born: Instant,
    work: HashMap<u64, Work>,
    /// Why it will end, if it said so.
    unable: Option<String>,
}

/// The helper of an account.
enum Helper {
    Alive(Alive),
    /// There is none until then, for this reason.
    Down(Instant, String),
}

struct Keeper {
    poll: Poll,
    /// A wake is lost if its last owner is dropped before epoll has told of it.
    _waker: Arc<Waker>,
    launch: Launch,
    settings: Settings,
    orders: Receiver<Order>,
    helpers: BTreeMap<Account, Helper>,
    tokens: usize,
    /// Who waits for everything to end, and how long.
    finish: Option<(Instant, Sender<()>)>,
}

impl Keeper {
    fn run(&mut self) {
        let mut events = Events::with_capacity(64);
        loop {
            let timeout = self.next_timeout().map_or(NAP, |at| at.since(clock::now()));
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(reason = %e, "no scripts run any more: epoll failed");
                    return;
                }
                _ => {}
            }
            for event in &events {
                if event.token() != WAKER {
                    self.on_helper(event.token());
                }
            }
            if !self.obey() {
                return;
            }
            self.on_timer();
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let down = self.helpers.values().filter_map(|helper| match helper {
            Helper::Down(until, _) => Some(*until),
            Helper::Alive(_) => None,
        });
        down.chain(self.finish.iter().map(|(until, _)| *until))
            .min()
    }

    fn on_timer(&mut self) {
        let now = clock::now();
        let due = self.helpers.iter().filter_map(|(account, helper)| {
            let is_due = matches!(helper, Helper::Down(until, _) if *until <= now);
            is_due.then(|| account.clone())
        });
        for account in due.collect::<Vec<_>>() {
            self.up(&account);
        }
        let idle = self.helpers.values().all(|helper| match helper {
            Helper::Alive(alive) => alive.work.is_empty(),
            Helper::Down(..) => true,
        });
        if let Some((until, _)) = &self.finish
            && (idle || *until <= now)
            && let Some((_, tell)) = self.finish.take()
            && idle
        {
            // Who does not wait any more need not know.
            let _ = tell.send(());
        }
    }

    /// False once nobody is there to give orders.
    fn obey(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Set(settings)) => self.settings = settings,
                Ok(Order::Prepare(accounts)) => {
                    for account in accounts {
                        self.up(&account);
                    }
                }
                Ok(Order::Run(ticket, command, timeout, done)) => {
                    self.start(ticket, command, timeout, done);
                }
                Ok(Order::Cancel(ticket)) => self.cancel(ticket),
                Ok(Order::Finish(patience, tell)) => {
                    self.finish = Some((clock::now() + patience, tell));
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn start(&mut self, ticket: Ticket, command: Command, timeout: Duration, done: Done) {
        let account = command.account.as_ref().unwrap_or(&self.settings.account);
        let account = account.clone();
        if !self.helpers.contains_key(&account) {
            self.up(&account);
        }
        match self.helpers.get_mut(&account) {
            Some(Helper::Alive(alive)) => {
                let (done, group) = (Some(done), None);
                alive.work.insert(ticket.0, Work { done, group });
                alive.wire.send(&wire::Order::Run(wire::Run {
                    id: ticket.0,
                    argv: command.argv,
                    timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
                    secure: self.settings.secure,
                }));
            }
            Some(Helper::Down(_, why)) => done(Report::not_run(why.as_str())),
            None => done(Report::not_run("there is no helper for it")),
        }
    }

    fn cancel(&mut self, ticket: Ticket) {
        for helper in self.helpers.values_mut() {
            if let Helper::Alive(alive) = helper
                && let Some(work) = alive.work.get_mut(&ticket.0)
            {
                work.done = None;
                alive.wire.send(&wire::Order::Cancel(ticket.0));
            }
        }
    }

    /// Sees that a helper for this account runs.
    fn up(&mut self, account: &Account) {
        if let Some(Helper::Alive(_)) = self.helpers.get(account) {
            return;
        }
        self.tokens += 1;
        let token = Token(self.tokens);
        let helper = match self.launch(account, token) {
            Ok(alive) => Helper::Alive(alive),
            Err(why) => {
                let known =
                    matches!(self.helpers.get(account), Some(Helper::Down(_, old)) if *old == why);
                if !known {
                    tracing::error!(user = %account, reason = %why, "its scripts do not run");
                }
                Helper::Down(clock::now() + 10 * LEAST_LIFE, why)
            }
        };
        self.helpers.insert(account.clone(), helper);
    }

    fn launch(&self, account: &Account, token: Token) -> Result<Alive, String> {
        let identity = account.resolve()?;
        let unable = |e: io::Error| format!("no helper for scripts of {account}: {e}");
        let (ours, theirs) = UnixStream::pair().map_err(unable)?;
        // Nobody executes anything with a descriptor of ours, and some libraries forget to say so.
        close_fds::set_fds_cloexec_threadsafe(3, &[]);
        let launch = &self.launch;
        // Nothing but arguments and environment, so that no fork is needed (posix_spawn).
        let child = Program::new(&launch.program)
            .arg0(&launch.name)
            .args(&launch.args)
            .envs(launch.env.iter().map(|(name, value)| (name, value)))
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(unable)?;
        let mut wire = Wire::new(ours, self.poll.registry(), token).map_err(unable)?;
        wire.send(&wire::Order::Become(identity, self.settings.cores.clone()));
        Ok(Alive {
            token,
            child,
            wire,
            born: clock::now(),
            work: HashMap::new(),
            unable: None,
        })
    }

    fn on_helper(&mut self, token: Token) {
        let found = self.helpers.iter_mut().find_map(|(account, helper)| {
            let Helper::Alive(alive) = helper else {
                return None;
            };
            (alive.token == token).then(|| (account.clone(), alive))
        });
        let Some((account, alive)) = found else {
            return;
        };
        alive.wire.flush();
        let (answers, open) = alive.wire.receive::<Answer>();
        for answer in answers {
            alive.take(answer);
        }
        if !open {
            self.lost(&account);
        }
    }

    /// A helper ended: so do its scripts, and the next one comes.
    fn lost(&mut self, account: &Account) {
        let Some(Helper::Alive(mut alive)) = self.helpers.remove(account) else {
            return;
        };
        alive.wire.deregister(self.poll.registry());
        // One that only closed its socket is of no use either.
        let _ = alive.child.kill();
        let how = match alive.child.wait() {
            Ok(status) => status.to_string(),
            Err(e) => e.to_string(),
        };
        let why = match &alive.unable {
            Some(why) => why.clone(),
            None => format!("the helper for scripts of {account} ended ({how})"),
        };
        for work in alive.work.into_values() {
            if let Some(group) = work.group {
                // It may be over already.
                let _ = rustix::process::kill_process_group(group, Signal::KILL);
            }
            if let Some(done) = work.done {
                done(Report::not_run(why.as_str()));
            }
        }
        tracing::error!(user = %account, reason = %why, "script helper is started again");
        let now = clock::now();
        let again = match now.since(alive.born) < LEAST_LIFE {
            true => now + LEAST_LIFE,
            false => now,
        };
        self.helpers
            .insert(account.clone(), Helper::Down(again, why));
    }
}

impl Alive {
    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Unable(why) => self.unable = Some(why),
            Answer::Started(id, pid) => {
                if let Some(work) = self.work.get_mut(&id) {
                    work.group = Pid::from_raw(pid);
                }
            }
            Answer::Ended(id, report) => {
                if let Some(done) = self.work.remove(&id).and_then(|work| work.done) {
                    done(report);
                }
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Their sockets close: they end their scripts and then themselves. That is waited for, so
        // that nothing of ours is left when rvsd is gone.
        let helpers = std::mem::take(&mut self.helpers);
        let mut children = Vec::new();
        for helper in helpers.into_values() {
            if let Helper::Alive(alive) = helper {
                children.push(alive.child);
            }
        }
        for mut child in children {
            let _ = child.wait();
        }
    }
}
