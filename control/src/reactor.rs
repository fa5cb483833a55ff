//! The control loop: waits for sockets, signals and timers, and never for anything else.
//!
//! Each wake reads the clock once for its work and does a bounded piece of everything that is due.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, Release},
};
use std::time::Duration;

use ::vrrp::config::Preempt;
use dataplane::command::Event as WorkerEvent;
use dataplane::time::Instant;
use mio::{Events, Poll, Token, Waker};

use crate::admin::{Admin, Prepared, SignalReload};
use crate::capture::Captures;
use crate::clock;
use crate::files::Files;
use crate::health::Health;
use crate::recovery::keeper::Keeper;
use crate::server::Server;
use crate::signals::Signals;
use crate::state::State;
use crate::sync::Sync;
use crate::timers::{Timer, Timers};
use crate::upgrade::{self, Decision, Launch, Measuring, Outlook, Progress, Yielding};
use crate::watchdog::ServiceManager;

const LISTENER: Token = Token(0);
const SIGNALS: Token = Token(1);
const WAKER: Token = Token(2);
const HOST: Token = Token(3);
const FIRST_CLIENT: Token = Token(16);

/// How often replies are looked for while workers have something under way.
const REPLY_POLL: Duration = Duration::from_millis(1);
/// Events taken from one worker at a time.
const EVENT_SHARE: usize = 256;

/// How far the start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// The kernel's state is read for the first time.
    Mirroring,
    /// Workers take over the configuration and that state, up to this generation.
    Applying(u64),
    /// The service manager was told.
    Done,
}

/// Ends or wakes a reactor from another thread.
#[derive(Clone)]
pub struct Handle {
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
}

impl Handle {
    /// Asks the loop to end, as SIGTERM does.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        // The loop also looks at the flag at every timer.
        let _ = self.waker.wake();
    }
}

/// See the module.
pub struct Reactor {
    poll: Poll,
    events: Events,
    signals: Option<Signals>,
    handle: Handle,
    server: Server,
    admin: Admin,
    state: State,
    timers: Timers,
    manager: ServiceManager,
    starting: Start,
    /// Lets packets in.
    open: Arc<AtomicBool>,
    /// There is work that waits for nothing.
    hurry: bool,
    host_readable: bool,
    /// A successor waits for the ports.
    prepared: Option<Prepared>,
    /// Told when packets are let in.
    on_open: Option<OnOpen>,
    /// Another node is to be master before the ports are let go of.
    yielding: Option<Yielding>,
    /// How long nothing is forwarded at this start.
    gap: Option<Measuring>,
}

/// Told when packets are let in, and when that was.
pub type OnOpen = Box<dyn FnOnce(Instant)>;

/// How a loop ended.
pub enum End {
    /// By a signal; all was given up.
    Stopped,
    /// A successor waits for the ports; nobody was told of an end.
    HandOver(Box<Parting>),
}

/// What a loop leaves to its successor.
pub struct Parting {
    /// Who ordered it, and the new program.
    pub prepared: Prepared,
    /// What was reigned over.
    pub state: State,
    /// Its clients.
    pub server: Server,
    /// What watches over us.
    pub manager: ServiceManager,
}

impl Reactor {
    /// A loop around these parts; the first state is sent to the workers.
    ///
    /// # Errors
    /// Of epoll, or of the thread for files.
    pub fn new(now: Instant, mut server: Server, mut state: State) -> io::Result<Reactor> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        server.register(poll.registry(), LISTENER, FIRST_CLIENT)?;
        state.host.register(poll.registry(), HOST)?;
        let captures = Captures::new(Arc::clone(&waker));
        let admin = Admin::new(Files::start(Arc::clone(&waker))?, captures);
        state.health = Some(Health::start(
            Arc::clone(&waker),
            state.scripts.clone(),
            state.probes.take(),
        )?);
        state.waker = Some(Arc::clone(&waker));
        state.sync = Some(Sync::new(Arc::clone(&waker)));
        let estate = state.estate.take();
        if let Some(estate) = &estate {
            estate.settle(&mut state);
        }
        state.follow_host(now);
        state.commit(now);
        state.follow_plan();
        if let Some(estate) = &estate {
            state.go_on_with(&estate.daemons);
        }
        Ok(Reactor {
            poll,
            events: Events::with_capacity(256),
            signals: None,
            handle: Handle {
                waker,
                stop: Arc::default(),
            },
            server,
            admin,
            state,
            timers: Timers::new(now),
            manager: ServiceManager::from_environment(),
            starting: Start::Mirroring,
            open: Arc::default(),
            hurry: true,
            host_readable: true,
            prepared: None,
            on_open: None,
            yielding: None,
            gap: None,
        })
    }

    /// Obeys the signals of the process, those too that came before.
    ///
    /// # Errors
    /// Of epoll.
    pub fn take_signals(&mut self, mut signals: Signals) -> io::Result<()> {
        signals.register(self.poll.registry(), SIGNALS)?;
        self.signals = Some(signals);
        self.on_signals();
        Ok(())
    }

    /// Calls this once packets are let in.
    pub fn tell_when_open(&mut self, tell: OnOpen) {
        self.on_open = Some(tell);
    }

    /// Measures how long the ports take.
    pub fn measure(&mut self, gap: Measuring) {
        self.gap = Some(gap);
    }

    /// Lets another program take over when that is ordered.
    pub fn allow_upgrade(&mut self, launch: Launch) {
        self.state.launch = Some(Arc::new(launch));
    }

    /// Sets a flag when every worker has the configuration of the start.
    pub fn open_when_ready(&mut self, open: Arc<AtomicBool>) {
        self.open = open;
    }

    /// Keeps the rules that run in a file from now on, on every change, and drains beside it.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub fn keep_rules(&mut self, file: PathBuf, boot: [u8; 16]) -> io::Result<()> {
        let waker = Arc::clone(&self.handle.waker);
        self.state.keeper = Keeper::start(file, boot, waker)?;
        Ok(())
    }

    /// For ending the loop from elsewhere.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What it owns.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Runs until a signal, [`Handle::stop`] or a successor ends it.
    ///
    /// # Errors
    /// Of epoll; nothing else ends the loop.
    pub fn run(mut self) -> io::Result<End> {
        while self.turn()? {}
        if let Some(prepared) = self.prepared.take_if(|_| !self.handle.stop.load(Relaxed)) {
            return Ok(End::HandOver(Box::new(Parting {
                prepared,
                state: self.state,
                server: self.server,
                manager: self.manager,
            })));
        }
        self.manager.stopping();
        self.state.finish();
        tracing::info!(event = "stop", "rvsd ends");
        Ok(End::Stopped)
    }

    /// Whether a successor is prepared and nothing is under way that it would not hear of.
    fn may_hand_over(&mut self, now: Instant) -> bool {
        if self.prepared.is_none() {
            self.prepared = self.admin.take_successor(now, &mut self.server);
        }
        self.prepared.is_some()
            && self.starting == Start::Done
            && self.yields(now)
            && self.state.keeper.is_idle()
    }

    /// Sees to it that another node is master first, if it is to be; whether that is done.
    fn yields(&mut self, now: Instant) -> bool {
        let (Some(prepared), Some(routers)) = (&mut self.prepared, &self.state.routers) else {
            return true;
        };
        let view = routers.view();
        let Some(yielding) = &self.yielding else {
            if prepared.decided.is_some() {
                return true;
            }
            let instances = self.state.config.vrrp.instances.iter();
            let nopreempt: Vec<&str> = instances
                .filter(|one| one.machine.preempt() == Preempt::Never)
                .map(|one| one.machine.name.as_str())
                .collect();
            let outlook = Outlook {
                expected: self.state.gaps.expected(),
                view: &view,
                standby: self.state.sync.as_ref().and_then(Sync::standby),
                nopreempt: &nopreempt,
            };
            let decision = upgrade::decide(prepared.wish, &outlook);
            if let Decision::Stay(Some(line)) | Decision::HandOver(line) = &decision {
                tracing::info!(event = "upgrade", "{line}");
            }
            return match decision {
                Decision::Stay(line) => {
                    prepared.decided = Some(line.unwrap_or_default());
                    true
                }
                Decision::HandOver(line) => {
                    prepared.decided = Some(line);
                    self.yielding = Some(Yielding::new(now, &view));
                    routers.hand_over(true);
                    false
                }
            };
        };
        match yielding.look(now, &view) {
            Progress::Waits => false,
            Progress::Done => true,
            Progress::Failed(why) => {
                routers.hand_over(false);
                self.yielding = None;
                if let Some(prepared) = self.prepared.take() {
                    let (admin, server) = (&mut self.admin, &mut self.server);
                    admin.upgrade_failed(now, server, prepared.client, &why);
                }
                false
            }
        }
    }

    /// Looks whether the gap of this start is over. Checks begin then.
    fn follow_gap(&mut self, now: Instant) {
        let ports = &self.state.ports;
        let up = ports.iter().filter(|port| port.counters.link.get() != 0);
        let (up, all) = (up.count(), ports.len());
        let may_check = match &self.gap {
            Some(gap) => gap.may_check(now, up, all),
            None => self.starting == Start::Done,
        };
        if may_check && let Some(health) = &mut self.state.health {
            health.begin();
        }
        let Some(gap) = &mut self.gap else {
            return;
        };
        if let Some((kind, took)) = gap.look(now, up, all) {
            self.gap = None;
            self.state.gaps.note(kind, took);
            self.state.gaps.save();
            let ms = took.as_millis() as u64;
            tracing::info!(event = "ports", ms, "packets were let in and links are up");
        }
    }

    /// One wake: waits, then does what is due. False when the loop is to end.
    ///
    /// # Errors
    /// Of epoll.
    pub fn turn(&mut self) -> io::Result<bool> {
        let timeout = self.timeout(clock::now());
        if let Err(e) = self.poll.poll(&mut self.events, Some(timeout))
            && e.kind() != io::ErrorKind::Interrupted
        {
            return Err(e);
        }
        let now = clock::now();
        self.hurry = false;
        let mut woken = false;
        let mut signalled = false;
        for event in &self.events {
            match event.token() {
                WAKER => woken = true,
                SIGNALS => signalled = true,
                HOST => self.host_readable = true,
                _ => self.server.on_event(event),
            }
        }
        if signalled {
            self.on_signals();
        }
        if woken {
            self.admin
                .collect_files(now, &mut self.state, &mut self.server);
            self.state.follow_health(now);
        }
        // Waiting batches go when the workers have taken others, whose replies wake the loop.
        self.state.follow_sync(now);
        self.follow_host(now);
        self.serve(now);
        self.state.follow_vrrp(now);
        self.state.follow_gate(now);
        self.state.follow_backup(now);
        self.do_timers(now);
        self.finish_start(now);
        self.follow_gap(now);
        self.finish_signal_reloads();
        self.state
            .surroundings
            .sources
            .control
            .fetch_add(1, Relaxed);
        let took = clock::now().since(now);
        self.state.turns.note(now, took);
        Ok(!self.handle.stop.load(Relaxed) && !self.may_hand_over(now))
    }

    fn timeout(&self, now: Instant) -> Duration {
        if self.hurry {
            return Duration::ZERO;
        }
        let mut due = self.timers.next();
        if let Some(host) = self.state.host.next_timeout() {
            due = due.min(host);
        }
        let wait = due.since(now);
        if self.state.workers.is_waiting() {
            wait.min(REPLY_POLL)
        } else {
            wait
        }
    }

    fn on_signals(&mut self) {
        let Some(signals) = &mut self.signals else {
            return;
        };
        if let Some(signal) = signals.end() {
            tracing::info!(event = "signal", reason = signal, "asked to end");
            self.handle.stop.store(true, Relaxed);
        }
        if signals.take_hangup() {
            self.reload();
        }
    }

    /// What SIGHUP does.
    pub fn reload(&mut self) {
        if self.starting == Start::Done {
            self.manager.reloading();
        }
        self.admin.reload_by_signal(&self.state);
    }

    fn follow_host(&mut self, now: Instant) {
        if self.host_readable {
            self.host_readable = self.state.host.on_readable(now);
            self.hurry |= self.host_readable;
        }
        if self.state.host.next_timeout().is_some_and(|due| due <= now) {
            self.state.host.on_timer(now);
        }
        self.state.follow_host(now);
    }

    fn serve(&mut self, now: Instant) {
        let mut collected = Vec::new();
        if self.state.workers.is_waiting() {
            let mut progress = self.state.workers.poll();
            collected = std::mem::take(&mut progress.collected);
            for refusal in &progress.refusals {
                tracing::error!(
                    worker = refusal.worker,
                    generation = refusal.generation,
                    reason = refusal.reason,
                    "worker refused an update"
                );
            }
            let workers = self.state.workers.len();
            self.admin
                .on_progress(now, &mut self.server, workers, progress);
        }
        self.state.tend_copies(now, collected);
        let step = self.server.step(now, self.poll.registry());
        for client in step.gone {
            self.admin.forget(now, &mut self.state, client);
        }
        for (client, request) in step.requests {
            self.admin
                .request(now, &mut self.state, &mut self.server, client, request);
        }
        self.hurry |= step.more;
        let urgent = self.admin.waits_for_disk(&self.state);
        self.state.keep(now, urgent);
        self.hurry |= self.admin.advance(now, &mut self.state, &mut self.server);
        self.hurry |= self.server.take_hurry();
    }

    fn do_timers(&mut self, now: Instant) {
        if self.timers.is_due(now, Timer::Events) {
            for event in self.state.workers.events(EVENT_SHARE) {
                match event {
                    WorkerEvent::Resolve { link, addr } => {
                        self.state.host.resolve(now, link, addr);
                    }
                }
            }
        }
        if self.timers.is_due(now, Timer::Heartbeat) {
            self.server.expire(now);
            self.check_heartbeats(now);
            self.state.follow_drains(now);
        }
        if self.timers.is_due(now, Timer::Estimate) {
            self.state.model.estimate();
        }
        let counters = self.state.workers.counters();
        self.hurry |= self.state.model.estimate_some(counters);
        if self.timers.is_due(now, Timer::Trash) {
            self.state
                .model
                .scan_trash(now, self.state.workers.counters());
            self.state.commit(now);
        }
    }

    fn check_heartbeats(&mut self, now: Instant) {
        let state = &mut self.state;
        let counters = state.workers.counters();
        state.sampler.sample(now, counters);
        for turn in state.heartbeats.check(now, counters) {
            if turn.stuck {
                tracing::error!(
                    worker = turn.worker,
                    event = "stuck",
                    "heartbeat stands still"
                );
            } else {
                tracing::info!(
                    worker = turn.worker,
                    event = "alive",
                    "heartbeat moves again"
                );
            }
        }
        match state.check_pump(now) {
            Some(true) => tracing::error!(event = "stuck", "the pump thread stands still"),
            Some(false) => tracing::info!(event = "alive", "the pump thread moves again"),
            None => {}
        }
        if state.heartbeats.all_alive() && state.pump.is_alive() {
            self.manager.feed_watchdog();
        }
    }

    /// Tells the service manager once every worker runs with the configuration of the start.
    fn finish_start(&mut self, now: Instant) {
        let generation = match self.starting {
            Start::Done => return,
            // What the mirror has sent up to here is all the kernel had.
            Start::Mirroring if self.state.host.is_synced() => self.state.workers.generation(),
            Start::Mirroring => return,
            Start::Applying(generation) => generation,
        };
        self.starting = Start::Applying(generation);
        let state = &mut self.state;
        state.heartbeats.check(now, state.workers.counters());
        if state.workers.applied() >= generation && state.heartbeats.all_started() {
            self.starting = Start::Done;
            self.open.store(true, Release);
            let opened = clock::now();
            if let Some(gap) = &mut self.gap {
                gap.opened(opened);
            }
            if let Some(tell) = self.on_open.take() {
                tell(opened);
            }
            state.follow_vrrp_config();
            self.manager.ready(&self.summary());
            tracing::info!(event = "ready", generation, "{}", self.summary());
        }
    }

    fn summary(&self) -> String {
        let (services, servers) = self.state.model.counts();
        let workers = self.state.workers.len();
        format!("serving {services} services with {servers} real servers on {workers} workers")
    }

    fn finish_signal_reloads(&mut self) {
        for ended in self.admin.take_signalled() {
            let (done, trouble) = match ended {
                SignalReload::Done(text) => (text, String::new()),
                SignalReload::NotEverywhere(text, why) => (text, why),
                SignalReload::Failed(why) => (
                    String::new(),
                    why + "\nreload failed; everything is as it was",
                ),
            };
            for line in done.lines() {
                tracing::info!(event = "reload", "{line}");
            }
            for line in trouble.lines() {
                tracing::error!(event = "reload", "{line}");
            }
            // The end of the start says it otherwise.
            if self.starting == Start::Done {
                self.manager.ready(&self.summary());
            }
        }
    }
}

#[cfg(test)]
mod tests;
