//! Health checks: the sockets and the clock around the machines of the `healthcheck` crate.
//!
//! Checks run on a thread of their own, so that neither ten thousand of them nor a slow one delay
//! the control loop. Control tells it which servers to check ([`Health::set`]) and hears what
//! became of each ([`Health::take`]). The servers of a service are a pool ([`followed`]), which decides
//! where each is in the table; [`Event`]s tell of what changed. What a check found outlives edits of its server: a server that
//! is deleted and added again while its service keeps its checks is as healthy as it was.

mod attempt;
mod driver;
mod event;
mod followed;
mod gauges;
mod local;
mod path;
mod spec;
mod target;
mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, unbounded};
use dataplane::probe::Exchange;
use dataplane::time::Instant;
use mio::Waker;

pub use event::Event;
pub use gauges::Gauges;
pub use spec::{Checks, Kind, Pool, Port, Sorry, Spec, Via, Web};
pub use target::Target;
pub use tls::{Identity, Tls};

use self::followed::Followed;
use crate::api::{CheckView, HealthView, PoolView, ServerKey, ServiceKey, ViaView};
use crate::config::describe_service;
use crate::model::{Counters, Model, Pooled};
use crate::script::Scripts;

/// A server of a service.
pub type Subject = (ServiceKey, ServerKey);

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
    /// What it asks by the data path, if it does.
    pub via: Option<ViaView>,
}

/// How a server stands; told when anything of it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which server of which service.
    pub subject: Subject,
    /// Whether all its checks are up.
    pub alive: bool,
    /// What its checks add to its weight.
    pub delta: i64,
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
            via: check.via,
        };
        HealthView {
            service: self.subject.0,
            server: self.subject.1,
            alive: self.alive,
            weight_delta: self.delta,
            checks: self.checks.iter().map(check).collect(),
        }
    }
}

/// What the thread is told.
enum Order {
    /// Check these servers of the service in this way, and no others.
    Set(ServiceKey, Vec<Target>),
    /// Check nothing of the service for now, or go on.
    Suspend(ServiceKey, bool),
    /// End.
    End,
}

/// See the module.
pub struct Health {
    orders: Sender<Order>,
    reports: Receiver<Report>,
    thread: Arc<Waker>,
    gauges: Arc<Gauges>,
    probes: Option<Arc<Exchange>>,
    states: BTreeMap<Subject, Report>,
    pools: BTreeMap<ServiceKey, Followed>,
    events: Vec<Event>,
    /// What the thread is told once packets come and go; `None` from then on.
    held: Option<Vec<Order>>,
    /// Servers whose checks go on from a process before; see [`Health::inherit`].
    inherited: BTreeMap<Subject, Stood>,
}

/// How the checks of a server stood in the process before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stood {
    /// Whether each was up, in the order of the file.
    pub ups: Vec<bool>,
    /// What they added to its weight.
    pub delta: i64,
}

impl Health {
    /// Starts the thread, which checks nothing before [`Health::begin`]; `control` is rung when a
    /// report is there. Checks of virtual addresses
    /// leave by `probes`.
    ///
    /// # Errors
    /// The system has no room for a thread or an epoll instance.
    pub fn start(
        control: Arc<Waker>,
        scripts: Scripts,
        probes: Option<Arc<Exchange>>,
    ) -> std::io::Result<Health> {
        let (orders, taken) = unbounded();
        let (told, reports) = unbounded();
        let gauges = Arc::<Gauges>::default();
        let thread = driver::start(
            taken,
            told,
            control,
            Arc::clone(&gauges),
            scripts,
            probes.clone(),
        )?;
        Ok(Health {
            orders,
            reports,
            thread,
            gauges,
            probes,
            states: BTreeMap::new(),
            pools: BTreeMap::new(),
            events: Vec::new(),
            held: Some(Vec::new()),
            inherited: BTreeMap::new(),
        })
    }

    /// Lets checks begin: before, no server could answer.
    pub fn begin(&mut self) {
        for order in self.held.take().into_iter().flatten() {
            self.order(order);
        }
    }

    /// Servers that stood so in the process before begin so here, where they are checked alike.
    pub fn inherit(&mut self, stood: BTreeMap<Subject, Stood>) {
        self.inherited = stood;
    }

    /// Follows the services of the model that changed: their servers are checked and pooled as the
    /// file says.
    pub fn follow(
        &mut self,
        now: Instant,
        model: &mut Model,
        checks: &BTreeMap<ServiceKey, Checks>,
        counters: Counters<'_>,
    ) {
        for service in model.take_touched() {
            self.follow_service(now, model, service, checks.get(&service), counters);
        }
    }

    /// Follows one service.
    pub fn follow_service(
        &mut self,
        now: Instant,
        model: &mut Model,
        service: ServiceKey,
        checks: Option<&Checks>,
        counters: Counters<'_>,
    ) {
        let servers = model.servers_of(service);
        let target = |server: &Pooled| {
            let checks = checks?.of(server.key);
            (!checks.is_empty()).then(|| Target::new(service, server, checks))
        };
        let targets: Vec<Target> = servers.iter().filter_map(target).collect();
        let rests = checks.is_some_and(|checks| checks.pool.ha_suspend) && !model.is_live(service);
        if rests && !targets.is_empty() {
            // Before the thread knows what to check, or it would begin at once.
            self.order(Order::Suspend(service, true));
        }
        if !targets.is_empty() || self.states_of(service).next().is_some() {
            self.set(service, targets);
        }
        let checks = checks.filter(|_| model.has_service(service));
        let Some(checks) = checks else {
            if let Some(mut gone) = self.pools.remove(&service) {
                if gone.set_suspended(false) {
                    self.order(Order::Suspend(service, false));
                }
                gone.retire(model, &mut self.events);
                // Without a sorry server there is nothing to refuse.
                let _ = model.set_sorry(now, service, None, counters);
            }
            return;
        };
        let (states, events) = (&self.states, &mut self.events);
        let state = |server| states.get(&(service, server));
        let sorry = checks.pool.sorry.as_ref();
        let sorry = match model.set_sorry(now, service, sorry, counters) {
            Ok(()) => sorry.is_some(),
            Err(refusal) => {
                tracing::error!(
                    service = describe_service(&service),
                    reason = refusal.message,
                    "there is no sorry server"
                );
                false
            }
        };
        let followed = self.pools.entry(service);
        let followed = followed.or_insert_with(|| Followed::new(service));
        followed.reload(model, &checks.pool, sorry, servers, state, events);
        self.follow_suspension(model, service);
    }

    /// Addresses came or went: services that are checked only where their address is.
    pub fn follow_addresses(&mut self, model: &Model) {
        if let Some(probes) = &self.probes {
            probes.follow(|addr| model.is_local(addr.into()));
        }
        let services: Vec<ServiceKey> = self.pools.keys().copied().collect();
        for service in services {
            self.follow_suspension(model, service);
        }
    }

    fn follow_suspension(&mut self, model: &Model, service: ServiceKey) {
        let Some(followed) = self.pools.get_mut(&service) else {
            return;
        };
        let suspended = followed.waits_for_address() && !model.is_live(service);
        if followed.set_suspended(suspended) {
            self.order(Order::Suspend(service, suspended));
            tracing::info!(
                service = describe_service(&service),
                event = if suspended { "suspend" } else { "resume" },
                "health checks"
            );
        }
    }

    fn states_of(&self, service: ServiceKey) -> impl Iterator<Item = (&Subject, &Report)> {
        let of = move |((s, _), _): &(&Subject, &Report)| *s == service;
        self.states.iter().filter(of)
    }

    fn order(&mut self, order: Order) {
        if let Some(held) = &mut self.held {
            return held.push(order);
        }
        // The thread ends only with the process.
        let _ = self.orders.send(order);
        let _ = self.thread.wake();
    }

    fn set(&mut self, service: ServiceKey, mut targets: Vec<Target>) {
        let is_target = |server: &ServerKey| targets.iter().any(|t| t.server == *server);
        let gone: Vec<Subject> = self
            .states_of(service)
            .map(|(subject, _)| *subject)
            .filter(|(_, server)| !is_target(server))
            .collect();
        for subject in gone {
            // Nobody checks it any more: nothing speaks against it.
            self.states.remove(&subject);
        }
        for target in &mut targets {
            let subject = (service, target.server);
            let stood = self.inherited.remove(&subject);
            let stood = stood.filter(|stood| target.begin_as(&stood.ups));
            self.states.entry(subject).or_insert_with(|| Report {
                subject,
                alive: !target.checks.iter().any(|check| check.pace.alpha),
                delta: stood.map_or(0, |stood| stood.delta),
                checks: Vec::new(),
            });
        }
        self.order(Order::Set(service, targets));
    }

    /// Takes over what was found since the last call; whether the model may have changed.
    pub fn take(&mut self, model: &mut Model) -> bool {
        let mut changed = false;
        while let Ok(report) = self.reports.try_recv() {
            let (service, server) = report.subject;
            // One that crossed the order that ended its checks is of nobody now.
            let Some(state) = self.states.get_mut(&report.subject) else {
                continue;
            };
            *state = report;
            if let Some(followed) = self.pools.get_mut(&service) {
                followed.take(model, server, state, &mut self.events);
                changed = true;
            }
        }
        changed
    }

    /// What became of servers and of quorum since the last call, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The daemon ends: what `omega` wants to be told.
    pub fn finish(&mut self, model: &mut Model) {
        for (_, followed) in std::mem::take(&mut self.pools) {
            followed.retire(model, &mut self.events);
        }
    }

    /// How the thread keeps up.
    pub fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// All servers that are checked.
    pub fn states(&self) -> impl Iterator<Item = &Report> {
        self.states.values()
    }

    /// Whether every check has run.
    pub fn has_run(&self) -> bool {
        // Before its first report nothing is known of a server's checks.
        let has_run = |report: &Report| {
            !report.checks.is_empty() && report.checks.iter().all(|check| check.has_run)
        };
        self.held.is_none() && self.states.values().all(has_run)
    }

    /// The services that the file has checks or a pool for.
    pub fn pools(&self) -> impl Iterator<Item = PoolView> + '_ {
        self.pools.values().map(Followed::view)
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
