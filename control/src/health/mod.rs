//! Health checks: the sockets and the clock around the machines of the `healthcheck` crate.
//!
//! Checks run on a thread of their own, so that neither ten thousand of them nor a slow one delay
//! the control loop. Control tells it which servers to check ([`Health::set`]) and hears what
//! became of each ([`Health::take`]). What a check found outlives edits of its server: a server that
//! is deleted and added again while its service keeps its checks is as healthy as it was.

mod attempt;
mod driver;
mod spec;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, unbounded};
use mio::Waker;

pub use spec::{Checks, Kind, Pool, Port, Sorry, Spec, Web};

use crate::api::{CheckView, HealthView, ServerKey, ServiceKey};
use crate::model::Model;

/// A server of a service.
pub type Subject = (ServiceKey, ServerKey);

/// A server and how it is checked.
#[derive(Clone, Debug)]
pub struct Target {
    /// Which server.
    pub server: ServerKey,
    /// Its address; a port of 0 means that each check names one.
    pub addr: SocketAddr,
    /// Never empty.
    pub checks: Arc<[Spec]>,
}

/// How one check of a server stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckState {
    /// Its kind: `tcp`, `http`.
    pub kind: &'static str,
    /// Whether it counts as up.
    pub up: bool,
    /// Whether an attempt has ended yet.
    pub has_run: bool,
    /// Why the last attempt failed, if it did.
    pub failure: Option<String>,
}

/// How a server stands; told when anything of it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which server of which service.
    pub subject: Subject,
    /// Whether all its checks are up.
    pub alive: bool,
    /// Its checks in the order of the file.
    pub checks: Vec<CheckState>,
}

impl Report {
    /// As listed.
    pub fn view(&self) -> HealthView {
        let check = |check: &CheckState| CheckView {
            kind: check.kind.to_owned(),
            up: check.up,
            has_run: check.has_run,
            failure: check.failure.clone(),
        };
        HealthView {
            service: self.subject.0,
            server: self.subject.1,
            alive: self.alive,
            checks: self.checks.iter().map(check).collect(),
        }
    }
}

/// What the thread is told.
enum Order {
    /// Check these servers of the service in this way, and no others.
    Set(ServiceKey, Vec<Target>),
    /// End.
    End,
}

/// See the module.
pub struct Health {
    orders: Sender<Order>,
    reports: Receiver<Report>,
    thread: Arc<Waker>,
    states: BTreeMap<Subject, Report>,
}

impl Health {
    /// Starts the thread; `control` is rung when a report is there.
    ///
    /// # Errors
    /// The system has no room for a thread or an epoll instance.
    pub fn start(control: Arc<Waker>) -> std::io::Result<Health> {
        let (orders, taken) = unbounded();
        let (told, reports) = unbounded();
        let thread = driver::start(taken, told, control)?;
        Ok(Health {
            orders,
            reports,
            thread,
            states: BTreeMap::new(),
        })
    }

    /// Follows the services of the model that changed: their servers are checked as the file says.
    pub fn follow(&mut self, model: &mut Model, checks: &BTreeMap<ServiceKey, Checks>) {
        for service in model.take_touched() {
            self.follow_service(model, service, checks.get(&service));
        }
    }

    /// Follows one service.
    pub fn follow_service(
        &mut self,
        model: &mut Model,
        service: ServiceKey,
        checks: Option<&Checks>,
    ) {
        let has_states = self.states_of(service).next().is_some();
        let Some(checks) = checks.filter(|c| !c.is_empty()) else {
            if has_states {
                self.set(model, service, Vec::new());
            }
            return;
        };
        let servers = model.servers_of(service);
        let targets = servers.into_iter().filter_map(|server| {
            let checks = checks.of(server);
            (!checks.is_empty()).then(|| Target {
                server,
                addr: SocketAddr::new(server.addr, server.port),
                checks,
            })
        });
        let targets: Vec<Target> = targets.collect();
        if !targets.is_empty() || has_states {
            self.set(model, service, targets);
        }
    }

    fn states_of(&self, service: ServiceKey) -> impl Iterator<Item = (&Subject, &Report)> {
        let of = move |((s, _), _): &(&Subject, &Report)| *s == service;
        self.states.iter().filter(of)
    }

    fn set(&mut self, model: &mut Model, service: ServiceKey, targets: Vec<Target>) {
        let is_target = |server: &ServerKey| targets.iter().any(|t| t.server == *server);
        let gone: Vec<Subject> = self
            .states_of(service)
            .map(|(subject, _)| *subject)
            .filter(|(_, server)| !is_target(server))
            .collect();
        for subject in gone {
            self.states.remove(&subject);
            // Nobody checks it any more: nothing speaks against it. It may also be gone altogether.
            let _ = model.set_health(subject.0, subject.1, true);
        }
        for target in &targets {
            let subject = (service, target.server);
            let state = self.states.entry(subject).or_insert_with(|| Report {
                subject,
                alive: !target.checks.iter().any(|check| check.pace.alpha),
                checks: Vec::new(),
            });
            let _ = model.set_health(service, target.server, state.alive);
        }
        // The thread ends only with the process.
        let _ = self.orders.send(Order::Set(service, targets));
        let _ = self.thread.wake();
    }

    /// Takes over what was found since the last call; whether the model changed.
    pub fn take(&mut self, model: &mut Model) -> bool {
        let mut changed = false;
        while let Ok(report) = self.reports.try_recv() {
            let (service, server) = report.subject;
            // One that crossed the order that ended its checks is of nobody now.
            if let Some(state) = self.states.get_mut(&report.subject) {
                changed |= model.set_health(service, server, report.alive).is_ok();
                *state = report;
            }
        }
        changed
    }

    /// All servers that are checked.
    pub fn states(&self) -> impl Iterator<Item = &Report> {
        self.states.values()
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        // A thread that has ended already needs no order.
        let _ = self.orders.send(Order::End);
        let _ = self.thread.wake();
    }
}

#[cfg(test)]
mod tests;
