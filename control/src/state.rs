//! What the control thread owns: desired state, workers, the host's mirror, the loaded file.

use std::collections::BTreeSet;
use std::sync::Arc;

use dataplane::probe::Exchange;
use dataplane::sync::Collection;
use dataplane::time::Instant;
use mio::Waker;

use crate::api::{DaemonSpec, ErrorKind, ServiceKey, StatusView, SyncRole, WorkerView};
use crate::config::{self, Config, OperatorState, Plan, describe_server, describe_service};
use crate::drains::Drains;
use crate::health::{Event, Health};
use crate::host::Host;
use crate::logging::Dropped;
use crate::model::{Model, Refusal};
use crate::notify::{self, Notifier};
use crate::recovery::keeper::Keeper;
use crate::reload;
use crate::script::Scripts;
use crate::status::{self, PoolHandle, PortHandle, Sampler, Turns};
use crate::sync::Sync;
use crate::update::{Subject, Update};
use crate::upgrade::{Estate, Gaps, Launch};
use crate::vrrp::{Gate, Introductions, LeaseBook, Notice, Ready, Routers, Surroundings};
use crate::watchdog::{Heartbeats, PumpBeat};
use crate::workers::{Ticket, WorkerRefusal, Workers};

/// How long notifications have when the daemon ends.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(1);

/// What `rvsadm --version` shows of the daemon.
#[derive(Clone, Debug, Default)]
pub struct Version {
    /// Of the daemon.
    pub version: String,
    /// Commit it was built from.
    pub commit: String,
    /// DPDK it runs on.
    pub dpdk: String,
}

/// What became of a change: the updates it caused, and when all of them are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// It is in force once every worker has applied this generation.
    pub generation: u64,
    /// Its own updates came after this generation.
    after: u64,
    /// What they are about.
    subjects: Vec<Subject>,
}

impl Commit {
    /// A change without updates, in force with `generation`.
    pub fn nothing(generation: u64) -> Commit {
        Commit {
            generation,
            after: generation,
            subjects: Vec::new(),
        }
    }

    /// Whether a worker refused one of its updates, or a later one in the place of it.
    pub fn caused(&self, refusal: &WorkerRefusal) -> bool {
        refusal.first <= self.generation
            && refusal.generation > self.after
            && self.subjects.contains(&refusal.subject)
    }
}

/// See the module.
pub struct State {
    /// Desired state.
    pub model: Model,
    /// Rings to the workers.
    pub workers: Workers,
    /// Cores of the workers, by index.
    pub cores: Vec<u32>,
    /// Addresses, routes, neighbours.
    pub host: Box<dyn Host>,
    /// What runs scripts.
    pub scripts: Scripts,
    /// Who is told what happens.
    pub notifier: Notifier,
    /// Health checks, once the control loop runs.
    pub health: Option<Health>,
    /// Writes the rules that run to the disk.
    pub keeper: Keeper,
    /// Virtual routers, once there are any.
    pub routers: Option<Routers>,
    /// Places of virtual routers on the board that workers go by.
    pub leases: LeaseBook,
    /// Whether masters that live are left alone.
    gate: Gate,
    /// Addresses of masters that workers do not know yet.
    introductions: Introductions,
    /// What virtual routers need of this daemon.
    pub surroundings: Surroundings,
    /// Rung by threads that have something to tell.
    pub waker: Option<Arc<Waker>>,
    /// What a process before left, until it is taken over.
    pub estate: Option<Estate>,
    /// How this process was started; without it no other can take over.
    pub launch: Option<Arc<Launch>>,
    /// Drains under way.
    pub drains: Drains,
    /// Connection synchronisation, once the control loop runs.
    pub sync: Option<Sync>,
    /// The file as it was last loaded or saved.
    pub config: Arc<Config>,
    /// The file of the start, by which everything runs that only a restart changes.
    pub booted: Arc<Config>,
    /// Data ports.
    pub ports: Vec<PortHandle>,
    /// Pools of packet buffers.
    pub pools: Vec<PoolHandle>,
    /// Of this daemon.
    pub version: Version,
    /// Slots of the connection table, `size=` in listings.
    pub table_size: u64,
    /// How packets come to the worker that has their connection.
    pub steering: String,
    /// The NUMA nodes of the workers' cores.
    pub nodes: Vec<Option<u32>>,
    /// Most connections.
    pub capacity: u64,
    /// Rates of the workers.
    pub sampler: Sampler,
    /// Heartbeats of the workers.
    pub heartbeats: Heartbeats,
    /// Sign of life of the pump thread.
    pub pump: PumpBeat,
    /// How long turns of the control loop take.
    pub turns: Turns,
    /// Log lines lost.
    pub log_dropped: Dropped,
    /// Where checks of virtual addresses leave, until they begin.
    pub probes: Option<Arc<Exchange>>,
    /// When the daemon started.
    pub started: Instant,
    /// How long these ports take.
    pub gaps: Gaps,
}

/// What [`State::new`] starts from.
pub struct Parts {
    /// Rings to the workers.
    pub workers: Workers,
    /// Cores of the workers, by index.
    pub cores: Vec<u32>,
    /// Data ports.
    pub ports: Vec<PortHandle>,
    /// Pools of packet buffers.
    pub pools: Vec<PoolHandle>,
    /// Addresses, routes, neighbours.
    pub host: Box<dyn Host>,
    /// Of this daemon.
    pub version: Version,
    /// Slots of the connection table, `size=` in listings.
    pub table_size: u64,
    /// How packets come to the worker that has their connection.
    pub steering: String,
    /// The NUMA nodes of the workers' cores.
    pub nodes: Vec<Option<u32>>,
    /// Log lines lost.
    pub log_dropped: Dropped,
    /// Where checks of virtual addresses leave.
    pub probes: Option<Arc<Exchange>>,
    /// What runs scripts.
    pub scripts: Scripts,
    /// What virtual routers need of this daemon.
    pub surroundings: Surroundings,
    /// Who is told what happens.
    pub notifier: Notifier,
}

impl State {
    /// The state after a start from `config` with `model`, which has its rules or those that
    /// outlived a crash. Nothing was sent to the workers yet; the first [`State::commit`] does.
    pub fn new(now: Instant, config: Config, model: Model, parts: Parts) -> State {
        let counters = parts.workers.counters();
        let config = Arc::new(config);
        State {
            model,
            sampler: Sampler::new(now, counters),
            heartbeats: Heartbeats::new(now, counters),
            pump: PumpBeat::new(now),
            turns: Turns::new(now),
            workers: parts.workers,
            cores: parts.cores,
            host: parts.host,
            scripts: parts.scripts,
            notifier: parts.notifier,
            health: None,
            estate: None,
            launch: None,
            drains: Drains::default(),
            keeper: Keeper::default(),
            routers: None,
            leases: LeaseBook::default(),
            gate: Gate::new(now),
            introductions: Introductions::default(),
            surroundings: parts.surroundings,
            waker: None,
            sync: None,
            capacity: u64::from(config.workers.connections),
            booted: Arc::clone(&config),
            config,
            ports: parts.ports,
            pools: parts.pools,
            version: parts.version,
            table_size: parts.table_size,
            steering: parts.steering,
            nodes: parts.nodes,
            log_dropped: parts.log_dropped,
            probes: parts.probes,
            started: now,
            gaps: Gaps::default(),
        }
    }

    /// Goes on with keeping the rules on the disk. `urgent`: somebody waits for it.
    pub fn keep(&mut self, now: Instant, urgent: bool) {
        let what = (&self.model, &self.drains);
        self.keeper.advance(now, urgent, &self.config, what);
    }

    /// Sends what changed to the workers and the mirror; what to wait for until it is all true.
    pub fn commit(&mut self, now: Instant) -> Commit {
        let counters = self.workers.counters();
        if let Some(health) = &mut self.health {
            health.follow(now, &mut self.model, &self.config.checks, counters);
        }
        self.tell_events();
        self.model.set_back(self.is_set_back());
        let after = self.workers.generation();
        let mut subjects = Vec::new();
        for update in self.model.take_updates() {
            subjects.push(update.subject());
            self.workers.send(&update);
        }
        let servers = self.model.take_address_changes();
        if !servers.is_empty() {
            self.host.change_servers(now, &servers);
        }
        Commit {
            generation: self.workers.generation(),
            after,
            subjects,
        }
    }

    /// Takes over what the mirror learned.
    pub fn follow_host(&mut self, now: Instant) {
        for update in self.host.take_updates() {
            self.workers.send(&update);
        }
        if let Some(local) = self.host.take_local_addresses() {
            self.model.set_local_addresses(local);
            if let Some(health) = &mut self.health {
                health.follow_addresses(&self.model);
            }
            self.commit(now);
        }
    }

    /// Applies the difference between the loaded file and `new`; all of it or nothing. What to
    /// tell the operator, and what to wait for.
    ///
    /// # Errors
    /// The model refused a part. Everything is as it was.
    pub fn reload(
        &mut self,
        now: Instant,
        new: Config,
        discard_live: bool,
    ) -> Result<(String, Commit), Refusal> {
        let running = self.model.running();
        let mut plan: Plan = config::plan(&self.config.rules, &running, &new.rules, discard_live);
        plan.restart = config::needs_restart(&self.booted, &new);
        self.model = reload::carry_out(&self.model, &plan, now, self.workers.counters())
            .map_err(|r| Refusal::new(ErrorKind::Config, r.message))?;
        let old = std::mem::replace(&mut self.config, Arc::new(new));
        let (settings, _) = self.config.scripts.settings(&self.booted.dpdk.main_cores);
        self.scripts.set(settings);
        self.notifier.set(&self.config.notify);
        self.scripts.prepare(config::notify::accounts(&self.config));
        self.follow_checks(now, &old);
        if old.vrrp != self.config.vrrp {
            self.follow_vrrp_config();
        }
        let commit = self.commit(now);
        self.follow_plan();
        Ok((plan.summary(), commit))
    }

    /// Checks the servers of services whose checks differ from those of another file.
    fn follow_checks(&mut self, now: Instant, old: &Config) {
        let Some(health) = &mut self.health else {
            return;
        };
        let counters = self.workers.counters();
        let (old, new) = (&old.checks, &self.config.checks);
        let differs = |service: &&ServiceKey| old.get(service) != new.get(service);
        let services: BTreeSet<ServiceKey> = old
            .keys()
            .chain(new.keys())
            .filter(differs)
            .copied()
            .collect();
        for service in services {
            let checks = new.get(&service);
            health.follow_service(now, &mut self.model, service, checks, counters);
        }
    }

    /// Runs the virtual routers of the file. Their thread is started with the first of them.
    pub fn follow_vrrp_config(&mut self) {
        let config = Arc::new(self.config.vrrp.clone());
        let leases = self.leases.enter(&config);
        let places = self.leases.places();
        self.workers.send(&Update::PutLeases(Arc::new(leases)));
        match (&self.routers, &self.waker) {
            (Some(routers), _) => routers.apply(config, places),
            (None, Some(waker)) if !config.instances.is_empty() => {
                let surroundings = self.surroundings.clone();
                let board = self.leases.board();
                let held = self.gate.is_held();
                match Routers::start(Arc::clone(waker), surroundings, board, config, places, held) {
                    Ok(routers) => self.routers = Some(routers),
                    Err(reason) => tracing::error!(%reason, "VRRP does not run"),
                }
            }
            (None, _) => {}
        }
    }

    /// Leaves living masters alone until this node can go on with what they do, or has waited for as
    /// long as it is to.
    pub fn follow_gate(&mut self, now: Instant) {
        let Some(routers) = &self.routers else {
            return;
        };
        let ready = Ready {
            table: self.sync.as_ref().is_none_or(Sync::is_ready),
            checks: self.health.as_ref().is_none_or(Health::has_run),
            neighbours: self.host.is_warm(),
        };
        let longest = self.config.vrrp.takeover_wait;
        if !self.gate.judge(now, ready, longest) {
            return;
        }
        let is_held = self.gate.is_held();
        routers.hold(is_held);
        let missing = ready.missing();
        match (is_held, missing.is_empty()) {
            (true, _) => tracing::info!(
                event = "takeover-wait",
                "living masters are left alone until there is: {missing}"
            ),
            (false, true) => tracing::info!(
                event = "takeover-ready",
                "this node can go on with what a master does"
            ),
            (false, false) => tracing::warn!(
                event = "takeover-ready",
                "takeover_wait is over; still missing: {missing}"
            ),
        }
    }

    /// Takes over what virtual routers tell: the one place where their changes pass, in order.
    pub fn follow_vrrp(&mut self, now: Instant) {
        let Some(routers) = &self.routers else {
            return;
        };
        for notice in routers.take() {
            self.tell_notice(&notice);
            self.introductions.hear(now, notice);
        }
        let (model, workers) = (&self.model, &self.workers);
        let known = self.introductions.take_known(
            now,
            |addr| model.is_local(addr),
            workers.generation(),
            workers.applied(),
        );
        for instance in known {
            routers.live(instance);
        }
        while let Some((instance, is_master)) = self.introductions.next_change() {
            self.router_changed(&instance, is_master);
        }
    }

    fn tell_notice(&self, notice: &Notice) {
        if let Some(event) = notify::Event::of_notice(notice, &self.config.vrrp) {
            self.notifier.tell(event);
        }
    }

    /// Takes over what the health checks found.
    pub fn follow_health(&mut self, now: Instant) {
        let Some(health) = &mut self.health else {
            return;
        };
        if health.take(&mut self.model) {
            self.commit(now);
        }
    }

    /// Tells of what became of servers and of quorum.
    fn tell_events(&mut self) {
        let events = self.health.as_mut().map(Health::take_events);
        for event in events.into_iter().flatten() {
            self.tell(&event);
        }
    }

    /// The one place that every event of health passes, in order.
    pub fn tell(&mut self, event: &Event) {
        event.log();
        self.notifier.tell(notify::Event::from(event));
    }

    /// The daemon ends.
    pub fn finish(&mut self) {
        if let Some(health) = &mut self.health {
            health.finish(&mut self.model);
        }
        self.tell_events();
        // Whoever takes over with the last adverts knows all connections by then.
        if let Some(sync) = &mut self.sync {
            // It may not run.
            let _ = sync.stop(SyncRole::Master, &mut self.workers);
        }
        // Their last adverts and notices come before scripts are waited for.
        if let Some(routers) = self.routers.take() {
            for notice in routers.finish() {
                self.tell_notice(&notice);
            }
        }
        // As keepalived gives them; a script that takes longer is ended with us.
        self.notifier.finish(LAST_WORDS);
    }

    /// Another process goes on: nobody is told of an end. Until when adverts count.
    pub fn leave(&mut self) -> String {
        // While packets are forwarded and adverts sent: scripts may take a while. The socket of the
        // stream is free then.
        self.notifier.finish(LAST_WORDS);
        self.notifier = Notifier::default();
        self.sync = None;
        let routers = self.routers.take();
        routers.map(Routers::leave).unwrap_or_default()
    }

    /// Ends what is left of the connections of servers whose drain has come to its deadline.
    pub fn follow_drains(&mut self, now: Instant) {
        let model = &self.model;
        let is_less = self.drains.keep(|(service, server)| {
            let server = model.server_of(*service, *server);
            server.is_some_and(|s| s.weights.state == OperatorState::Drain)
        });
        let over = self.drains.take_over(now);
        if is_less || !over.is_empty() {
            self.keeper.note_change(Some(Vec::new()));
        }
        for (service, server) in &over {
            tracing::info!(
                service = describe_service(service),
                dest = describe_server(server),
                event = "drain-over",
                "the deadline has come: what is left of its connections ends"
            );
            // It is there, as was just seen.
            let _ = self.model.end_connections(*service, *server, true);
        }
        if !over.is_empty() {
            self.commit(now);
        }
    }

    /// Whether clients' packets are the host's now (`backup_only`, `sysctl_backup_only`).
    fn is_set_back(&self) -> bool {
        let has_backup = self.sync.as_ref().is_some_and(Sync::has_backup);
        has_backup && self.model.settings().backup_only
    }

    /// Tells the workers when a backup was started or has ended that others of this node's packets
    /// are theirs now.
    pub fn follow_backup(&mut self, now: Instant) {
        if self.model.set_back(self.is_set_back()) {
            self.commit(now);
        }
    }

    /// Runs the synchronisation daemons that the file asks for; what does not work is logged.
    pub fn follow_plan(&mut self) {
        if let Some(sync) = &mut self.sync {
            let settings = self.model.settings();
            sync.note_settings(settings);
            complain(sync.follow(&self.config.sync, settings, &mut self.workers));
        }
    }

    /// A virtual router became master here, or ceased to be it: synchronisation follows if the
    /// file says so (`role = "vrrp:NAME"`).
    pub fn router_changed(&mut self, name: &str, is_master: bool) {
        if let Some(sync) = &mut self.sync {
            let settings = self.model.settings();
            let complaints = sync.router_changed(name, is_master, settings, &mut self.workers);
            complain(complaints);
        }
    }

    /// Goes on with daemons that ran by command in the process before.
    pub fn go_on_with(&mut self, daemons: &[DaemonSpec]) {
        if let Some(sync) = &mut self.sync {
            let settings = self.model.settings();
            complain(sync.go_on(daemons, settings, &mut self.workers));
        }
    }

    /// Gives the workers what a master told of; true if some waits for room.
    pub fn follow_sync(&mut self, now: Instant) -> bool {
        let Some(sync) = &mut self.sync else {
            return false;
        };
        for alarm in sync.take_alarms(now) {
            self.notifier.tell(alarm);
        }
        sync.deliver(&mut self.workers)
    }

    /// Gives peers what workers copied for them.
    pub fn tend_copies(&mut self, now: Instant, collected: Vec<(Ticket, Box<Collection>)>) {
        if let Some(sync) = &mut self.sync {
            sync.tend(now, collected, &mut self.workers);
        }
    }

    /// Looks whether the pump thread moves; whether it is stuck, if that is new.
    pub fn check_pump(&mut self, now: Instant) -> Option<bool> {
        let rounds = self.ports.iter().map(|port| port.counters.rounds.get());
        self.pump.check(now, rounds.sum())
    }

    /// The answer to `rvsadm status`.
    pub fn status(&self, now: Instant) -> StatusView {
        let counters = self.workers.counters();
        let (services, servers) = self.model.counts();
        let (routes, neighbours) = self.host.counts();
        let workers = counters.iter().enumerate().map(|(i, c)| {
            let core = self.cores.get(i).copied().unwrap_or_default();
            WorkerView {
                node: self.nodes.get(i).copied().flatten(),
                ..self.sampler.view(i, core, c, self.heartbeats.age(now, i))
            }
        });
        let mut view = StatusView {
            steering: self.steering.clone(),
            version: self.version.version.clone(),
            uptime: now.since(self.started).as_secs(),
            ports: self.ports.iter().map(status::port_view).collect(),
            workers: workers.collect(),
            buffers: self.pools.iter().map(status::buffers_view).collect(),
            routes,
            neighbours,
            services,
            servers,
            pump_age_ms: self.pump.age(now).as_millis() as u64,
            control_turn_ms: self.turns.longest().as_millis() as u64,
            log_dropped: self.log_dropped.get(),
            ..StatusView::default()
        };
        status::sum_workers(&mut view, counters, self.capacity);
        view.warnings.extend(status::port_warnings(&self.ports));
        let far = status::far_ports(&self.ports, &view.workers);
        view.warnings.extend(far);
        if status::is_short_of_entries(counters) {
            view.warnings.push(format!(
                "fewer than {} entries of the connection table are free (amemthresh); raise \
                 [workers] connections and restart",
                self.model.settings().amemthresh
            ));
        }
        view.warnings
            .extend(self.keeper.trouble().map(str::to_owned));
        view.warnings.extend(self.host.warnings());
        let sync = self.sync.iter();
        view.warnings.extend(sync.flat_map(Sync::warnings));
        let routers = self.routers.iter();
        view.warnings
            .extend(routers.flat_map(|routers| routers.warnings()));
        view.warnings.extend(self.model.dead_services());
        view
    }
}

fn complain(complaints: Vec<String>) {
    for complaint in complaints {
        tracing::warn!(event = "sync", "{complaint}");
    }
}
