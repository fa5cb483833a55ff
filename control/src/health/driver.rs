//! The thread: waits for sockets and due times, and lets the monitors decide.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError, unbounded};
use dataplane::probe::Exchange;
use healthcheck::monitor::{Change, Monitor};
use healthcheck::{Failure, Instant, Verdict};
use mio::{Events, Poll, Token, Waker};

use super::attempt::{Attempt, Ground, NotMade, Peer, Ready};
use super::local;
use super::path::Path;
use super::spec::{Kind, Spec, Web};
use super::tls::Contexts;
use super::{CheckState, Gauges, Order, Report, Subject, Target};
use crate::api::{ServiceKey, ViaView};
use crate::clock;
use crate::config::{describe_server, describe_service};
use crate::script::{self, Scripts, Ticket};

const WAKER: Token = Token(usize::MAX - 1);
/// Longest sleep when nothing is due.
const NAP: Duration = Duration::from_secs(3600);
/// Attempts begun in one turn; between turns what has arrived is read.
const SHARE: usize = 256;

/// Starts the thread; the waker tells it of orders.
pub fn start(
    orders: Receiver<Order>,
    reports: Sender<Report>,
    control: Arc<Waker>,
    gauges: Arc<Gauges>,
    scripts: Scripts,
    probes: Option<Arc<Exchange>>,
) -> io::Result<Arc<Waker>> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    if let Some(probes) = &probes {
        let waker = Arc::clone(&waker);
        // A wake that is under way is as good.
        probes.wake_checker_by(move || drop(waker.wake()));
    }
    let mut driver = Driver {
        poll,
        waker: Arc::clone(&waker),
        scripts,
        ended: unbounded(),
        contexts: Contexts::default(),
        path: probes.map(Path::new),
        orders,
        reports,
        control,
        gauges,
        checks: HashMap::new(),
        servers: HashMap::new(),
        suspended: HashSet::new(),
        due: BinaryHeap::new(),
        ids: 0,
    };
    std::thread::Builder::new()
        .name("rvs-checks".to_owned())
        .spawn(move || driver.run())?;
    Ok(waker)
}

/// A check and the attempt that is under way.
struct Check {
    owner: Subject,
    spec: Spec,
    peer: Peer,
    monitor: Monitor,
    attempt: Option<Attempt>,
    /// The script that runs, and the number of the attempt that it is.
    script: Option<Ticket>,
    attempts: u64,
    /// Why none could be made of late, for a reason of ours; logged when it changes.
    hindered: Option<String>,
}

/// The checks of a server, in the order of the file.
struct Server {
    target: Target,
    checks: Vec<usize>,
    told: Option<Report>,
}

/// A script that ended: token of its check, number of the attempt, how it ended.
type Ended = (usize, u64, script::Report);

struct Driver {
    poll: Poll,
    /// Ours, for scripts that end.
    waker: Arc<Waker>,
    scripts: Scripts,
    /// Of the check with this token, in the attempt of this number.
    ended: (Sender<Ended>, Receiver<Ended>),
    contexts: Contexts,
    /// Connections by the data path.
    path: Option<Path>,
    orders: Receiver<Order>,
    reports: Sender<Report>,
    control: Arc<Waker>,
    gauges: Arc<Gauges>,
    /// By token.
    checks: HashMap<usize, Check>,
    servers: HashMap<Subject, Server>,
    /// Services of which nothing is checked for now.
    suspended: HashSet<ServiceKey>,
    /// When a check wants to be looked at; entries that are out of date are passed over.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    ids: usize,
}

fn now() -> Instant {
    Instant(clock::now().0)
}

impl Driver {
    fn run(&mut self) {
        let mut events = Events::with_capacity(1024);
        loop {
            let due = self.due.peek().map(|Reverse((at, _))| *at);
            let on_path = self.path.as_ref().and_then(Path::next_timeout);
            let next = due.into_iter().chain(on_path).min();
            let timeout = next.map_or(NAP, |at| at.since(now()));
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(reason = %e, "health checks end: epoll failed");
                    return;
                }
                _ => {}
            }
            for event in &events {
                if event.token() != WAKER {
                    self.on_event(event);
                }
            }
            if !self.take_orders() {
                return;
            }
            self.take_scripts();
            self.do_due();
            self.take_news();
        }
    }

    /// Lets the connections of the data path work, and their checks look at them.
    fn take_news(&mut self) {
        let Some(path) = &mut self.path else { return };
        path.turn(now());
        for id in path.take_news() {
            self.on_ready(id, Ready::BOTH);
        }
    }

    /// False once control is gone.
    fn take_orders(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Set(service, targets)) => self.set(service, targets),
                Ok(Order::Suspend(service, true)) => drop(self.suspended.insert(service)),
                Ok(Order::Suspend(service, false)) => drop(self.suspended.remove(&service)),
                Err(TryRecvError::Empty) => return true,
                Ok(Order::End) | Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn set(&mut self, service: ServiceKey, targets: Vec<Target>) {
        let keeps = |subject: &Subject, server: &Server| {
            subject.0 != service
                || targets
                    .iter()
                    .any(|t| t.server == subject.1 && t.is_checked_as(&server.target))
        };
        let gone = self.servers.iter().filter(|(s, server)| !keeps(s, server));
        for subject in gone.map(|(s, _)| *s).collect::<Vec<_>>() {
            let again = targets.iter().find(|t| t.server == subject.1);
            let old = self.servers.remove(&subject);
            let old = old.into_iter().flat_map(|server| server.checks);
            let old: Vec<Check> = old.filter_map(|id| self.end(id)).collect();
            if let Some(target) = again {
                self.add((service, target.server), target, &old);
            }
        }
        for target in targets {
            let subject = (service, target.server);
            if let Some(server) = self.servers.get_mut(&subject) {
                server.target.weight = target.weight;
            }
            if !self.servers.contains_key(&subject) {
                self.add(subject, &target, &[]);
            }
        }
    }

    fn ground(&mut self) -> Ground<'_> {
        Ground {
            registry: self.poll.registry(),
            path: self.path.as_mut(),
            now: now(),
        }
    }

    /// Takes a check out.
    fn end(&mut self, id: usize) -> Option<Check> {
        let mut check = self.checks.remove(&id)?;
        if let Some(attempt) = check.attempt.take() {
            attempt.end(&mut self.ground());
        }
        if let Some(ticket) = check.script.take() {
            self.scripts.cancel(ticket);
        }
        Some(check)
    }

    /// Begins to check a server. A check that differs from one of `old` only in its pace goes on
    /// from where that one was.
    fn add(&mut self, subject: Subject, target: &Target, old: &[Check]) {
        let now = now();
        let mut ids = Vec::new();
        for spec in target.checks.iter() {
            self.ids += 1;
            let same = old.iter().find(|c| is_same(&c.spec, spec));
            let mut monitor = match same {
                Some(check) => check.monitor.clone(),
                None => Monitor::new(now, spec.pace, self.ids as u64),
            };
            if same.is_some() {
                monitor.set_pace(now, spec.pace);
            }
            let check = Check {
                owner: subject,
                peer: target.peer(spec),
                spec: spec.clone(),
                monitor,
                attempt: None,
                script: None,
                attempts: self.ids as u64,
                hindered: same.and_then(|check| check.hindered.clone()),
            };
            self.due
                .push(Reverse((check.monitor.next_timeout(), self.ids)));
            self.checks.insert(self.ids, check);
            ids.push(self.ids);
        }
        let server = Server {
            target: target.clone(),
            checks: ids,
            told: None,
        };
        self.servers.insert(subject, server);
        self.tell(subject);
    }

    fn do_due(&mut self) {
        let now = now();
        for _ in 0..SHARE {
            match self.due.peek() {
                Some(Reverse((at, _))) if *at <= now => {}
                _ => return,
            }
            let Some(Reverse((at, id))) = self.due.pop() else {
                return;
            };
            let Some(check) = self.checks.get_mut(&id) else {
                continue;
            };
            if check.monitor.next_timeout() != at {
                continue;
            }
            match check.attempt.as_mut().map(Attempt::expire) {
                Some(verdict) => self.finish(id, verdict),
                None => {
                    self.gauges.note(now.since(at));
                    self.begin(id, now);
                }
            }
        }
    }

    fn begin(&mut self, id: usize, now: Instant) {
        let Some(check) = self.checks.get_mut(&id) else {
            return;
        };
        let Some(deadline) = check.monitor.start(now) else {
            return;
        };
        if self.suspended.contains(&check.owner.0) {
            check.monitor.put_off(now);
            self.due.push(Reverse((check.monitor.next_timeout(), id)));
            return;
        }
        check.attempts += 1;
        let Some(conversation) = check.spec.kind.converse(check.peer.addr, check.attempts) else {
            return self.begin_locally(id);
        };
        let context = match &check.spec.kind {
            Kind::Http(Web { tls: Some(tls), .. }) => self.contexts.get(now, tls).map(Some),
            _ => Ok(None),
        };
        let mut ground = Ground {
            registry: self.poll.registry(),
            path: self.path.as_mut(),
            now,
        };
        let (ground, peer) = (&mut ground, check.peer);
        let begun = match context {
            Ok(tls) => Attempt::begin(ground, Token(id), &check.spec, peer, conversation, tls),
            Err(why) => Err(NotMade::Ours(io::Error::other(why))),
        };
        match begun {
            Ok(attempt) => {
                check.attempt = Some(attempt);
                check.hindered = None;
                self.due.push(Reverse((deadline, id)));
            }
            Err(NotMade::Ours(e)) => {
                check.monitor.put_off(now);
                self.due.push(Reverse((check.monitor.next_timeout(), id)));
                if let Some(why) = is_news(&mut check.hindered, &e) {
                    log_hindered(check, &why);
                }
            }
            Err(NotMade::Server(failure)) => self.finish(id, Err(failure)),
        }
    }

    /// Begins an attempt that asks nobody over the network.
    fn begin_locally(&mut self, id: usize) {
        let Some(check) = self.checks.get_mut(&id) else {
            return;
        };
        match &check.spec.kind {
            Kind::File { path, weight } => {
                let verdict = local::read(path, *weight);
                self.finish(id, verdict);
            }
            Kind::Script { command, .. } => {
                let (attempt, timeout) = (check.attempts, check.spec.pace.deadline);
                let ended = move |report| (id, attempt, report);
                let (to, waker) = (&self.ended.0, &self.waker);
                let ticket = self
                    .scripts
                    .run_to(command.clone(), timeout, to, waker, ended);
                check.script = Some(ticket);
            }
            _ => {}
        }
    }

    fn take_scripts(&mut self) {
        while let Ok((id, attempt, report)) = self.ended.1.try_recv() {
            let Some(check) = self.checks.get_mut(&id) else {
                continue;
            };
            let Kind::Script { dynamic, .. } = check.spec.kind else {
                continue;
            };
            // What a cancelled one still had to say is nobody's.
            if check.attempts != attempt || check.script.take().is_none() {
                continue;
            }
            let server = self.servers.get(&check.owner);
            let weight = server.map_or(0, |server| server.target.weight);
            self.finish(id, local::judge(&report, dynamic, weight));
        }
    }

    fn on_event(&mut self, event: &mio::event::Event) {
        let Token(id) = event.token();
        let ready = Ready {
            writable: event.is_writable(),
            readable: event.is_readable() || event.is_read_closed() || event.is_error(),
        };
        self.on_ready(id, ready);
    }

    fn on_ready(&mut self, id: usize, ready: Ready) {
        let Some(check) = self.checks.get_mut(&id) else {
            return;
        };
        let mut ground = Ground {
            registry: self.poll.registry(),
            path: self.path.as_mut(),
            now: now(),
        };
        let (spec, attempt) = (&check.spec, check.attempt.as_mut());
        if let Some(verdict) = attempt.and_then(|a| a.on_ready(&mut ground, spec, ready)) {
            self.finish(id, verdict);
        }
    }

    fn finish(&mut self, id: usize, verdict: Verdict) {
        let attempt = self.checks.get_mut(&id).and_then(|c| c.attempt.take());
        if let Some(attempt) = attempt {
            attempt.end(&mut self.ground());
        }
        let Some(check) = self.checks.get_mut(&id) else {
            return;
        };
        let change = match self.suspended.contains(&check.owner.0) {
            true => {
                check.monitor.put_off(now());
                None
            }
            false => check.monitor.finish(now(), verdict),
        };
        self.due.push(Reverse((check.monitor.next_timeout(), id)));
        let owner = check.owner;
        if let Some(change) = change {
            log(check, &change);
        }
        self.tell(owner);
    }

    /// Tells control how a server stands, if it is told anything new by that.
    fn tell(&mut self, subject: Subject) {
        let Some(server) = self.servers.get_mut(&subject) else {
            return;
        };
        let checks = server.checks.iter().filter_map(|id| self.checks.get(id));
        let path = self.path.as_ref();
        let mut delta = 0i64;
        let state = |check: &Check| {
            delta = delta.saturating_add(check.monitor.delta());
            CheckState {
                kind: check.spec.kind.name(),
                up: check.monitor.is_up(),
                has_run: check.monitor.has_run(),
                failure: check.monitor.failure().map(Failure::to_string),
                via: check.peer.way.map(|_| ViaView {
                    vip: check.peer.addr,
                    from: path.and_then(|path| path.address(check.peer.addr)),
                }),
            }
        };
        let checks: Vec<CheckState> = checks.map(state).collect();
        let report = Report {
            subject,
            alive: checks.iter().all(|c| c.up),
            delta,
            checks,
        };
        if server.told.as_ref() != Some(&report) {
            server.told = Some(report.clone());
            // Without control there is nobody to tell.
            let _ = self.reports.send(report);
            let _ = self.control.wake();
        }
    }
}

/// Whether two checks ask the same in the same way, however often.
fn is_same(a: &Spec, b: &Spec) -> bool {
    let b = Spec {
        pace: a.pace,
        ..b.clone()
    };
    *a == b
}

/// What hinders a check, if it is something else than before.
fn is_news(before: &mut Option<String>, error: &io::Error) -> Option<String> {
    let why = error.to_string();
    match before.replace(why.clone()).as_ref() == Some(&why) {
        true => None,
        false => Some(why),
    }
}

fn log_hindered(check: &Check, why: &str) {
    let (service, server) = check.owner;
    tracing::warn!(
        service = describe_service(&service),
        dest = describe_server(&server),
        reason = why,
        "{} checks cannot be made; the server stays as it is",
        check.spec.kind.name()
    );
}

fn log(check: &Check, change: &Change) {
    let (service, server) = check.owner;
    let (service, dest) = (describe_service(&service), describe_server(&server));
    let kind = check.spec.kind.name();
    match change {
        Change::Up(_) => tracing::info!(service, dest, event = "up", "{kind} check passes"),
        Change::Down(why) => {
            tracing::warn!(service, dest, event = "down", "{kind} check fails: {why}");
        }
        Change::Weight(_) => {}
    }
}
