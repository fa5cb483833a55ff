//! Scripts of the operator: checks, trackers, notifications.
//!
//! `rvsd` never forks: its memory is DPDK's, and a fork would make every packet buffer
//! copy-on-write under the workers. Scripts are started by *helpers* instead: this same binary,
//! executed under another name ([`helper`]) before DPDK starts, one for each user that scripts run
//! as. A helper gives up its rights for those of that user, and then runs what it is told
//! over a socket pair ([`wire`]): a program and its words, without a shell, in a process group of
//! its own, with a time limit. A thread of `rvsd` ([`keeper`]) owns the helpers, notices when one
//! dies and starts another. When `rvsd` ends, however it ends, its helpers see their socket
//! close, end their scripts and follow.
//!
//! [`Scripts`] is the handle that the rest of `rvsd` has: [`Scripts::run`] returns at once, and the
//! outcome comes to a closure on the keeper's thread, which hands it on by a channel and a waker.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam::channel::Sender;
use mio::Waker;

mod account;
pub mod helper;
mod keeper;
mod process;
pub mod safety;
mod wire;

pub use account::Account;
pub use keeper::Launch;
pub use wire::{Outcome, Report};

/// A program of the operator and whose rights it has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Command {
    /// The program, by its absolute path, and its arguments. Never empty.
    pub argv: Vec<String>,
    /// The user it runs as; none is that of [`Settings`].
    pub account: Option<Account>,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.argv.join(" "))
    }
}

/// What holds for all scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The user of commands that name none.
    pub account: Account,
    /// Whether a program that somebody but root can change is refused to run as root.
    pub secure: bool,
    /// Cores for scripts; empty means those of the daemon.
    pub cores: Vec<u32>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            account: Account::of_scripts().0,
            secure: true,
            cores: Vec::new(),
        }
    }
}

/// Names a run, for [`Scripts::cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What becomes of a run; called once, on the keeper's thread, and must not block.
pub type Done = Box<dyn FnOnce(Report) + Send>;

/// What the keeper is told.
enum Order {
    Set(Settings),
    Prepare(Vec<Account>),
    Run(Ticket, Command, Duration, Done),
    Cancel(Ticket),
    Finish(Duration, Sender<()>),
}

struct Line {
    orders: Sender<Order>,
    keeper: Arc<Waker>,
    tickets: AtomicU64,
}

/// A handle on the keeper; clones are the same. The keeper and its helpers end when the last one is
/// dropped. The default one has no keeper: nothing runs.
#[derive(Clone, Default)]
pub struct Scripts(Option<Arc<Line>>);

impl fmt::Debug for Scripts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scripts({})", self.0.is_some())
    }
}

impl Scripts {
    /// Starts the keeper, and helpers for the default user and for `accounts`: before DPDK takes
    /// its memory.
    ///
    /// # Errors
    /// The system has no room for a thread or an epoll instance. A helper that does not start is
    /// logged and tried again.
    pub fn start(
        launch: Launch,
        settings: Settings,
        accounts: Vec<Account>,
    ) -> io::Result<Scripts> {
        let (orders, taken) = crossbeam::channel::unbounded();
        let keeper = keeper::start(launch, settings, taken)?;
        let scripts = Scripts(Some(Arc::new(Line {
            orders,
            keeper,
            tickets: AtomicU64::new(0),
        })));
        scripts.prepare(accounts);
        Ok(scripts)
    }

    /// Starts helpers for users that a new configuration names.
    pub fn prepare(&self, accounts: Vec<Account>) {
        self.tell(Order::Prepare(accounts));
    }

    /// Takes other settings, for what is run from now on.
    pub fn set(&self, settings: Settings) {
        self.tell(Order::Set(settings));
    }

    /// Runs a command for `timeout` at most; then it is asked to end (SIGTERM to its process
    /// group), and two seconds later ended. Programs start in the order of these calls, and do not
    /// wait for each other.
    pub fn run(&self, command: Command, timeout: Duration, done: Done) -> Ticket {
        let Some(line) = &self.0 else {
            done(Report::not_run("no scripts run here"));
            return Ticket(0);
        };
        let ticket = Ticket(line.tickets.fetch_add(1, Relaxed) + 1);
        self.tell(Order::Run(ticket, command, timeout, done));
        ticket
    }

    /// As [`Scripts::run`], with the outcome as a message: `make` turns the report into one.
    pub fn run_to<T: Send + 'static>(
        &self,
        command: Command,
        timeout: Duration,
        to: &Sender<T>,
        waker: &Arc<Waker>,
        make: impl FnOnce(Report) -> T + Send + 'static,
    ) -> Ticket {
        let (to, waker) = (to.clone(), Arc::clone(waker));
        let done = move |report| {
            // A receiver that is gone wants no news.
            let _ = to.send(make(report));
            let _ = waker.wake();
        };
        self.run(command, timeout, Box::new(done))
    }

    /// Ends a run as if its time were over. Nobody is told what became of it.
    pub fn cancel(&self, ticket: Ticket) {
        self.tell(Order::Cancel(ticket));
    }

    /// Waits until everything that was started has ended, `patience` at most; whether it has.
    pub fn finish(&self, patience: Duration) -> bool {
        let (tell, told) = crossbeam::channel::bounded(1);
        self.tell(Order::Finish(patience, tell));
        // Without a keeper the sender is dropped with the order.
        told.recv_timeout(patience + Duration::from_millis(200))
            .is_ok()
    }

    fn tell(&self, order: Order) {
        let Some(line) = &self.0 else {
            return;
        };
        match line.orders.send(order) {
            Ok(()) => {
                // A keeper that cannot be woken looks at its orders at its next event.
                let _ = line.keeper.wake();
            }
            Err(refused) => {
                if let Order::Run(_, _, _, done) = refused.into_inner() {
                    done(Report::not_run("the thread that runs scripts has ended"));
                }
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The keeper finds its channel without a sender. This one must go before it is woken.
        self.orders = crossbeam::channel::bounded(0).0;
        let _ = self.keeper.wake();
    }
}

#[cfg(test)]
mod tests;
