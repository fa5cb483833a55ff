//! Desired state: services, real servers, live settings. Pure: no I/O, no clock.
//!
//! Every change is checked here with the kernel's rules and becomes [`Update`]s. Callers apply
//! one or many [`Change`]s and then take the updates, so that a reload of a thousand servers
//! of a service is one snapshot of it. To make several changes or none, apply them to a clone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::addr::{Endpoint, Family};
use dataplane::counters::WorkerCounters;
use dataplane::helper::ftp;
use dataplane::marks::{MarkRule, Marks, Ports};
use dataplane::packet::PortId;
use dataplane::roles::{self, RoleEntry, RoleTable};
use dataplane::route::Prefix;
use dataplane::service::{
    DestId, Destination, ForwardingMethod, Persistence as CorePersistence, Protocol, ServiceId,
    ServiceKey as CoreKey, ServiceOptions, Tunnel, TunnelChecksum, TunnelKind, VirtualService,
};
use dataplane::settings::Settings;
use dataplane::time::Instant;

use crate::api::{
    self, ErrorKind, MarkMatch, MarkView, Method, Netmask, Origin, Persistence, ServerKey,
    ServerSpec, ServerView, ServiceKey, ServiceSpec, ServiceView,
};
use crate::config::{
    OperatorState, Rules, Running, RunningMark, RunningServer, RunningService, describe_server,
    describe_service,
};
use crate::ids::IdPool;
use crate::schedulers;
use crate::stats::{Counts, Estimator};
use crate::trash::{Trash, Trashed};
use crate::update::Update;

/// Persistence with several workers.
pub const PERSISTENCE_ALONE: &str =
    "persistence works with one worker only; give [workers] one core, or take persistence away";

/// Counters of all workers.
pub type Counters<'a> = &'a [Arc<WorkerCounters>];

/// Longest timeout, seconds (31 days, as ipvsadm has it).
pub const MAX_TIMEOUT: u32 = 2_678_400;

/// Shortest time after its deletion in which a destination's id is not used again, even when
/// ids are short: every worker has taken the deletion over by then or is reported as stuck.
const ID_QUARANTINE: Duration = Duration::from_secs(2);

/// Who makes a change; decides the origin of what it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// The configuration file.
    File,
    /// `rvsadm`.
    Operator,
}

/// One change of the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a service.
    AddService(ServiceKey, ServiceSpec),
    /// Replaces a service's attributes.
    EditService(ServiceKey, ServiceSpec),
    /// Removes a service and its servers.
    DeleteService(ServiceKey),
    /// Removes all services.
    Clear,
    /// Adds a server at the head of its service's list.
    AddServer(ServiceKey, ServerKey, ServerSpec, OperatorState),
    /// Replaces a server's attributes; its place in the list stays.
    EditServer(ServiceKey, ServerKey, ServerSpec, OperatorState),
    /// Removes a server.
    DeleteServer(ServiceKey, ServerKey),
    /// Adds a rule that marks packets, or gives it another mark.
    PutMark(MarkMatch, u32),
    /// Removes a rule that marks packets.
    DeleteMark(MarkMatch),
}

/// Why a change was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For the client to map to ipvsadm's message.
    pub kind: ErrorKind,
    /// One line that says what to do.
    pub message: String,
}

impl Refusal {
    /// Puts the two together.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Refusal {
        Refusal {
            kind,
            message: message.into(),
        }
    }
}

/// The three inputs of a server's effective weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// As configured, or as set by `-a` and `-e`.
    pub configured: u32,
    /// What the operator wants.
    pub state: OperatorState,
    /// What the health checks say.
    pub healthy: bool,
    /// The last effective weight that was not 0.
    last: u32,
}

impl Weights {
    /// What the schedulers see.
    pub fn effective(&self) -> u32 {
        self.state.effective_weight(self.configured, self.healthy)
    }

    /// To be called when an input changed.
    fn settle(&mut self) {
        let weight = self.effective();
        if weight != 0 {
            self.last = weight;
        }
    }
}

/// Capacities fixed at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most services.
    pub services: u32,
    /// Most destinations, deleted ones with connections included.
    pub servers: u32,
    /// Workers.
    pub workers: usize,
}

#[derive(Clone, Debug)]
struct Server {
    id: DestId,
    key: ServerKey,
    /// Its `weight` is not used; see `weights`.
    spec: ServerSpec,
    weights: Weights,
    origin: Origin,
    /// Raw counters at which the destination's own statistics start.
    base: Counts,
    /// Raw counters when it joined the service.
    joined: Counts,
    estimator: Estimator,
}

#[derive(Clone, Debug)]
struct Service {
    id: ServiceId,
    key: ServiceKey,
    /// Rises with every service that is added: newer ones are listed first.
    age: u64,
    spec: ServiceSpec,
    scheduler: &'static str,
    origin: Origin,
    /// Newest first.
    servers: Vec<Server>,
    /// What servers counted that were removed since.
    removed: Counts,
    estimator: Estimator,
}

impl Service {
    fn server(&self, key: ServerKey) -> Option<usize> {
        self.servers.iter().position(|s| s.key == key)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Model {
    services: BTreeMap<ServiceKey, Service>,
    marks: BTreeMap<MarkMatch, RunningMark>,
    /// Names of the ports, by number.
    ports: Vec<String>,
    trash: Trash,
    settings: Settings,
    local: BTreeSet<IpAddr>,
    service_ids: IdPool,
    dest_ids: IdPool,
    limits: Limits,
    age: u64,
    /// Of everything (`ip_vs_stats`).
    total: Estimator,
    deleted: Vec<ServiceId>,
    changed: BTreeSet<ServiceKey>,
    marks_changed: bool,
    roles_changed: bool,
    settings_changed: bool,
}

impl Model {
    /// No service; the settings are sent with the first updates.
    pub fn new(limits: Limits, settings: Settings) -> Model {
        Model {
            services: BTreeMap::new(),
            marks: BTreeMap::new(),
            ports: Vec::new(),
            trash: Trash::default(),
            settings,
            local: BTreeSet::new(),
            service_ids: IdPool::new(limits.services),
            dest_ids: IdPool::new(limits.servers),
            limits,
            age: 0,
            total: Estimator::default(),
            deleted: Vec::new(),
            changed: BTreeSet::new(),
            marks_changed: false,
            roles_changed: true,
            settings_changed: true,
        }
    }

    /// Makes one change.
    ///
    /// # Errors
    /// As the kernel refuses it (`ipvs-semantics.md`, 3.11 and 7.4), or because a capacity is
    /// used up. Nothing changed then.
    pub fn apply(
        &mut self,
        now: Instant,
        author: Author,
        change: &Change,
        counters: Counters<'_>,
    ) -> Result<(), Refusal> {
        match change {
            Change::AddService(key, spec) => self.add_service(author, *key, spec),
            Change::EditService(key, spec) => self.edit_service(author, *key, spec),
            Change::DeleteService(key) => self.delete_service(now, *key, counters),
            Change::Clear => {
                for key in self.services.keys().copied().collect::<Vec<_>>() {
                    self.delete_service(now, key, counters)?;
                }
                Ok(())
            }
            Change::AddServer(service, key, spec, state) => {
                self.add_server(now, author, *service, (*key, spec, *state), counters)
            }
            Change::EditServer(service, key, spec, state) => {
                self.edit_server(author, *service, (*key, spec, *state))
            }
            Change::DeleteServer(service, key) => self.delete_server(now, *service, *key, counters),
            Change::PutMark(rule, mark) => self.put_mark(author, rule, *mark),
            Change::DeleteMark(rule) => self.delete_mark(rule),
        }
    }

    fn add_service(
        &mut self,
        author: Author,
        key: ServiceKey,
        spec: &ServiceSpec,
    ) -> Result<(), Refusal> {
        if self.services.contains_key(&key) {
            return Err(Refusal::new(
                ErrorKind::ServiceExists,
                format!(
                    "service {} exists already; edit it with -E",
                    describe_service(&key)
                ),
            ));
        }
        let scheduler = check_service(key, spec, self.limits)?;
        let Some(id) = self.service_ids.take() else {
            return Err(Refusal::new(
                ErrorKind::Capacity,
                format!(
                    "all {} services are in use; raise max_services and restart",
                    self.limits.services
                ),
            ));
        };
        self.age += 1;
        self.services.insert(
            key,
            Service {
                id: ServiceId(id),
                key,
                age: self.age,
                spec: spec.clone(),
                scheduler,
                origin: origin_of_new(author),
                servers: Vec::new(),
                removed: Counts::default(),
                estimator: Estimator::default(),
            },
        );
        self.changed.insert(key);
        self.roles_changed = true;
        Ok(())
    }

    fn edit_service(
        &mut self,
        author: Author,
        key: ServiceKey,
        spec: &ServiceSpec,
    ) -> Result<(), Refusal> {
        let service = self.services.get_mut(&key).ok_or_else(|| no_service(key))?;
        service.scheduler = check_service(key, spec, self.limits)?;
        service.spec = spec.clone();
        service.origin = origin_of_edited(author, service.origin);
        self.changed.insert(key);
        Ok(())
    }

    fn delete_service(
        &mut self,
        now: Instant,
        key: ServiceKey,
        counters: Counters<'_>,
    ) -> Result<(), Refusal> {
        let service = self.services.remove(&key).ok_or_else(|| no_service(key))?;
        for server in service.servers {
            self.trash
                .put(now, key, trashed(service.id, server, counters));
        }
        self.service_ids.release(service.id.0);
        self.deleted.push(service.id);
        self.changed.remove(&key);
        self.roles_changed = true;
        Ok(())
    }

    fn add_server(
        &mut self,
        now: Instant,
        author: Author,
        service_key: ServiceKey,
        (key, spec, state): (ServerKey, &ServerSpec, OperatorState),
        counters: Counters<'_>,
    ) -> Result<(), Refusal> {
        let service = self
            .services
            .get_mut(&service_key)
            .ok_or_else(|| not_defined(service_key))?;
        check_server(service_key, key, spec)?;
        if service.server(key).is_some() {
            return Err(Refusal::new(
                ErrorKind::ServerExists,
                format!(
                    "server {} of {} exists already; edit it with -e",
                    describe_server(&key),
                    describe_service(&service_key)
                ),
            ));
        }
        check_address(service_key, key, self.local.contains(&key.addr))?;
        let mut weights = Weights {
            configured: spec.weight,
            state,
            healthy: true,
            last: 0,
        };
        let origin = origin_of_new(author);
        let (id, base, estimator) = match self.trash.revive(service_key, key) {
            Some(old) => {
                weights.last = old.last_weight;
                let raw = Counts::of_dest(counters.iter().map(|c| &**c), old.id);
                if old.service == service.id {
                    (old.id, raw - old.counted, old.estimator)
                } else {
                    (old.id, raw, Estimator::default())
                }
            }
            None => {
                let id = match self.dest_ids.take() {
                    Some(id) => DestId(id),
                    None => self
                        .trash
                        .reclaim(now, ID_QUARANTINE, |id| is_unused(counters, id))
                        .ok_or_else(|| no_dest_left(self.limits))?,
                };
                let raw = Counts::of_dest(counters.iter().map(|c| &**c), id);
                (id, raw, Estimator::default())
            }
        };
        weights.settle();
        let joined = Counts::of_dest(counters.iter().map(|c| &**c), id);
        let server = Server {
            id,
            key,
            spec: spec.clone(),
            weights,
            origin,
            base,
            joined,
            estimator,
        };
        service.servers.insert(0, server);
        self.changed.insert(service_key);
        self.roles_changed = true;
        Ok(())
    }

    fn edit_server(
        &mut self,
        author: Author,
        service_key: ServiceKey,
        (key, spec, state): (ServerKey, &ServerSpec, OperatorState),
    ) -> Result<(), Refusal> {
        let service = self
            .services
            .get_mut(&service_key)
            .ok_or_else(|| not_defined(service_key))?;
        check_server(service_key, key, spec)?;
        let server = service
            .servers
            .iter_mut()
            .find(|s| s.key == key)
            .ok_or_else(|| no_server(service_key, key))?;
        server.weights.configured = spec.weight;
        server.weights.state = state;
        server.weights.settle();
        self.roles_changed |= server.spec.method != spec.method;
        server.spec = spec.clone();
        server.origin = origin_of_edited(author, server.origin);
        self.changed.insert(service_key);
        Ok(())
    }

    fn delete_server(
        &mut self,
        now: Instant,
        service_key: ServiceKey,
        key: ServerKey,
        counters: Counters<'_>,
    ) -> Result<(), Refusal> {
        let service = self
            .services
            .get_mut(&service_key)
            .ok_or_else(|| not_defined(service_key))?;
        let at = service
            .server(key)
            .ok_or_else(|| no_server(service_key, key))?;
        let server = service.servers.remove(at);
        let raw = Counts::of_dest(counters.iter().map(|c| &**c), server.id);
        service.removed += raw - server.joined;
        self.trash
            .put(now, service_key, trashed(service.id, server, counters));
        self.changed.insert(service_key);
        self.roles_changed = true;
        Ok(())
    }

    fn put_mark(&mut self, author: Author, rule: &MarkMatch, mark: u32) -> Result<(), Refusal> {
        let refuse = |why: String| {
            let text = format!("mark {mark} {rule}: {why}");
            Err(Refusal::new(ErrorKind::Invalid, text))
        };
        if mark == 0 {
            return refuse("a mark is 1 or more".into());
        }
        if let Some(name) = rule.port.as_ref().filter(|name| !self.ports.contains(name)) {
            return refuse(format!(
                "there is no port \"{name}\"; there are {}",
                self.ports.join(", ")
            ));
        }
        if let Err(why) = rule.clone().checked(Some(rule.family)) {
            return refuse(why);
        }
        let old = self.marks.get(rule);
        if let (Some(old), Author::Operator) = (old, author) {
            let why = format!(
                "its packets have mark {} already; delete that first",
                old.mark
            );
            return refuse(why);
        }
        let origin = origin_of_new(author);
        self.marks
            .insert(rule.clone(), RunningMark { mark, origin });
        self.marks_changed = true;
        self.roles_changed = true;
        Ok(())
    }

    fn delete_mark(&mut self, rule: &MarkMatch) -> Result<(), Refusal> {
        if self.marks.remove(rule).is_none() {
            return Err(Refusal::new(
                ErrorKind::Invalid,
                format!("no rule marks the packets with {rule}; see `rvsadm mark list`"),
            ));
        }
        self.marks_changed = true;
        self.roles_changed = true;
        Ok(())
    }

    /// Says what the ports are called, for rules that name one.
    pub fn set_ports(&mut self, names: Vec<String>) {
        self.ports = names;
    }

    /// The rules that mark packets, as listed.
    pub fn marks(&self) -> Vec<MarkView> {
        let view = |(rule, m): (&MarkMatch, &RunningMark)| MarkView {
            mark: m.mark,
            matches: rule.clone(),
            origin: m.origin,
        };
        self.marks.iter().map(view).collect()
    }

    /// Says where a rule that marks packets counts as coming from.
    pub fn set_mark_origin(&mut self, rule: &MarkMatch, origin: Origin) {
        if let Some(mark) = self.marks.get_mut(rule) {
            mark.origin = origin;
        }
    }

    /// The rules as workers have them.
    fn mark_rules(&self) -> impl Iterator<Item = MarkRule> + '_ {
        self.marks.iter().map(|(rule, m)| {
            let any = match rule.family {
                api::Family::Ipv4 => IpAddr::from([0; 4]),
                api::Family::Ipv6 => IpAddr::from([0; 16]),
            };
            let any = Prefix::new(any.into(), 0).unwrap_or_else(|| Prefix::host(any.into()));
            let input = rule.port.as_ref();
            MarkRule {
                source: rule.source.map_or(any, |n| n.prefix()),
                destination: rule.destination.map_or(any, |n| n.prefix()),
                protocol: rule.protocol.map(|p| core_protocol(p).number()),
                source_ports: rule.source_port.map_or(Ports::ANY, Ports::from),
                destination_ports: rule.destination_port.map_or(Ports::ANY, Ports::from),
                vlan: rule.vlan,
                input: input
                    .and_then(|name| self.ports.iter().position(|p| p == name))
                    .map(|i| PortId(i as u16)),
                mark: m.mark,
            }
        })
    }

    /// Destinations of packets whose mark has a service, also one that was deleted and may have
    /// connections left.
    fn marked_destinations(&self) -> Vec<Prefix> {
        let deleted = self.trash.iter().map(|(service, ..)| service);
        let keys: BTreeSet<ServiceKey> = self.services.keys().copied().chain(deleted).collect();
        let has_service = |rule: &MarkRule| {
            let family = match rule.destination.addr().family() {
                Family::V4 => api::Family::Ipv4,
                Family::V6 => api::Family::Ipv6,
            };
            let mark = rule.mark;
            keys.contains(&ServiceKey::Mark { mark, family })
        };
        let mut found: Vec<Prefix> = self
            .mark_rules()
            .filter(has_service)
            .map(|rule| rule.destination)
            .collect();
        found.dedup();
        found
    }

    /// Says where a service, or one of its servers, counts as coming from.
    pub fn set_origin(
        &mut self,
        service_key: ServiceKey,
        server: Option<ServerKey>,
        origin: Origin,
    ) {
        let Some(service) = self.services.get_mut(&service_key) else {
            return;
        };
        match server {
            None => service.origin = origin,
            Some(key) => {
                for server in service.servers.iter_mut().filter(|s| s.key == key) {
                    server.origin = origin;
                }
            }
        }
    }

    /// What runs was written to the file as these rules: each object that is in them as it runs
    /// now comes from the file. What changed since the file was written does not.
    pub fn adopt(&mut self, saved: &Rules) {
        for (rule, mark) in &mut self.marks {
            mark.origin = match saved.marks.get(rule) {
                Some(file) if *file == mark.mark => Origin::File,
                Some(_) => Origin::FileChanged,
                None => Origin::Live,
            };
        }
        for service in self.services.values_mut() {
            let in_file = saved.services.get(&service.key);
            service.origin = match in_file {
                Some(file) if file.spec == service.spec => Origin::File,
                Some(_) => Origin::FileChanged,
                None => Origin::Live,
            };
            for server in &mut service.servers {
                let spec = ServerSpec {
                    weight: server.weights.configured,
                    ..server.spec.clone()
                };
                let file = in_file.and_then(|f| f.servers.iter().find(|s| s.key == server.key));
                server.origin = match file {
                    Some(f) if f.spec == spec && f.state == server.weights.state => Origin::File,
                    Some(_) => Origin::FileChanged,
                    None => Origin::Live,
                };
            }
        }
    }

    /// What a health check found out.
    ///
    /// # Errors
    /// The service or the server is gone.
    pub fn set_health(
        &mut self,
        service_key: ServiceKey,
        key: ServerKey,
        healthy: bool,
    ) -> Result<(), Refusal> {
        let service = self
            .services
            .get_mut(&service_key)
            .ok_or_else(|| not_defined(service_key))?;
        let server = service
            .servers
            .iter_mut()
            .find(|s| s.key == key)
            .ok_or_else(|| no_server(service_key, key))?;
        if server.weights.healthy != healthy {
            server.weights.healthy = healthy;
            server.weights.settle();
            self.changed.insert(service_key);
        }
        Ok(())
    }

    /// The addresses this host holds. They decide which services are live and which real
    /// servers are this host itself.
    pub fn set_local_addresses(&mut self, local: BTreeSet<IpAddr>) {
        if local == self.local {
            return;
        }
        for service in self.services.values() {
            let moved = service.servers.iter().any(|s| {
                s.spec.method != Method::Masq
                    && local.contains(&s.key.addr) != self.local.contains(&s.key.addr)
            });
            if moved {
                self.changed.insert(service.key);
            }
        }
        self.local = local;
        self.roles_changed = true;
    }

    /// `--set`: 0 keeps a value.
    ///
    /// # Errors
    /// `Range` beyond [`MAX_TIMEOUT`].
    pub fn set_timeouts(&mut self, tcp: u32, tcp_fin: u32, udp: u32) -> Result<(), Refusal> {
        let longest = tcp.max(tcp_fin).max(udp);
        if longest > MAX_TIMEOUT {
            return Err(Refusal::new(
                ErrorKind::Range,
                format!("timeout {longest} is longer than {MAX_TIMEOUT} s (31 days)"),
            ));
        }
        let mut settings = self.settings;
        for (now, wanted) in [
            (&mut settings.timeouts.tcp, tcp),
            (&mut settings.timeouts.tcp_fin, tcp_fin),
            (&mut settings.timeouts.udp, udp),
        ] {
            if wanted != 0 {
                *now = wanted;
            }
        }
        self.set_settings(settings);
        Ok(())
    }

    /// Replaces the live settings.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings_changed |= settings != self.settings;
        self.settings = settings;
    }

    /// The live settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// `-Z`: one service with its servers, or all.
    ///
    /// # Errors
    /// `NoService`.
    pub fn zero(&mut self, key: Option<ServiceKey>) -> Result<(), Refusal> {
        if let Some(key) = key
            && !self.services.contains_key(&key)
        {
            return Err(no_service(key));
        }
        if key.is_none() {
            self.total.zero();
        }
        for service in self
            .services
            .values_mut()
            .filter(|s| key.is_none_or(|k| k == s.key))
        {
            service.estimator.zero();
            for server in &mut service.servers {
                server.estimator.zero();
            }
        }
        Ok(())
    }

    /// Ends a statistics period; due every [`crate::stats::PERIOD`]. Without `run_estimation`
    /// everything shown stays as it is.
    pub fn estimate(&mut self, counters: Counters<'_>) {
        if !self.settings.run_estimation {
            return;
        }
        for service in self.services.values_mut() {
            let mut total = service.removed;
            for server in &mut service.servers {
                let raw = Counts::of_dest(counters.iter().map(|c| &**c), server.id);
                server.estimator.tick(raw - server.base);
                total += raw - server.joined;
            }
            service.estimator.tick(total);
        }
        let mut total = Counts::default();
        for worker in counters {
            total += Counts::of_worker(worker, self.dest_ids.used());
        }
        self.total.tick(total);
    }

    /// The answer to `rvsadm stats`.
    pub fn stats(&self, counters: Counters<'_>) -> api::Response {
        let raw = |worker: &Arc<WorkerCounters>| {
            api::Stats::from(Counts::of_worker(worker, self.dest_ids.used()))
        };
        api::Response::Stats {
            total: self.total.totals(),
            rates: self.total.rates(),
            workers: counters.iter().map(raw).collect(),
        }
    }

    /// Frees deleted destinations that no connection is bound to any more; due every
    /// [`crate::trash::SCAN_PERIOD`].
    pub fn scan_trash(&mut self, now: Instant, counters: Counters<'_>) {
        for id in self.trash.scan(now, |id| is_unused(counters, id)) {
            self.dest_ids.release(id.0);
            self.roles_changed = true;
        }
    }

    /// What the workers have to be told since the last call: deletions, services, roles,
    /// settings, in an order in which each is harmless alone.
    pub fn take_updates(&mut self) -> Vec<Update> {
        let mut updates: Vec<Update> = self.deleted.drain(..).map(Update::DeleteService).collect();
        for key in std::mem::take(&mut self.changed) {
            if let Some(service) = self.services.get(&key) {
                updates.push(Update::PutService(Arc::new(self.build(service))));
            }
        }
        if std::mem::take(&mut self.marks_changed) {
            let rules: Vec<MarkRule> = self.mark_rules().collect();
            updates.push(Update::PutMarks(Arc::new(Marks::build(&rules))));
        }
        if std::mem::take(&mut self.roles_changed) {
            updates.push(Update::PutRoles(Arc::new(self.build_roles())));
        }
        if std::mem::take(&mut self.settings_changed) {
            updates.push(Update::PutSettings(self.settings));
        }
        updates
    }

    fn build(&self, service: &Service) -> VirtualService {
        VirtualService {
            id: service.id,
            key: core_key(service.key),
            scheduler: service.scheduler,
            options: ServiceOptions {
                one_packet: service.spec.one_packet,
                flags: service.spec.flags.core(),
                persistence: service.spec.persistence.map(core_persistence),
            },
            destinations: service
                .servers
                .iter()
                .map(|s| Destination {
                    id: s.id,
                    endpoint: Endpoint::new(s.key.addr.into(), s.key.port),
                    method: self.method(s),
                    weight: s.weights.effective(),
                    last_weight: s.weights.last,
                    upper: s.spec.upper,
                    lower: s.spec.lower,
                    tunnel: core_tunnel(s.spec.tunnel),
                })
                .collect(),
        }
    }

    /// The method given to new connections. A server that is this host takes DR and TUN
    /// packets unchanged; NAT still rewrites them before the kernel gets them.
    fn method(&self, server: &Server) -> ForwardingMethod {
        match server.spec.method {
            Method::Masq => ForwardingMethod::Masquerade,
            _ if self.local.contains(&server.key.addr) => ForwardingMethod::Local,
            Method::Route => ForwardingMethod::DirectRoute,
            Method::Tunnel => ForwardingMethod::Tunnel,
            Method::Local => ForwardingMethod::Local,
        }
    }

    fn build_roles(&self) -> RoleTable {
        let entries: Vec<RoleEntry> = self.role_entries().collect();
        RoleTable::build_with_marks(&entries, &self.marked_destinations())
    }

    /// Which endpoints are ours and which are real servers, whatever their method is now: their
    /// connections keep the one they were made with. Deleted ones that may still have
    /// connections are included. A virtual endpoint counts only while this host holds its
    /// address. A pair may occur twice.
    fn role_entries(&self) -> impl Iterator<Item = RoleEntry> + '_ {
        let services = self.services.values().flat_map(|service| {
            let reals = service.servers.iter();
            let reals = reals.flat_map(|s| real(service.key, s.key));
            self.vip(service.key).into_iter().chain(reals)
        });
        let trash = self.trash.iter().flat_map(|(service, server, _)| {
            self.vip(service).into_iter().chain(real(service, server))
        });
        services.chain(trash)
    }

    fn vip(&self, key: ServiceKey) -> Option<RoleEntry> {
        match key {
            ServiceKey::Endpoint {
                protocol,
                addr,
                port,
            } if self.is_live(key) => Some(RoleEntry {
                protocol: core_protocol(protocol).number(),
                endpoint: Endpoint::new(addr.into(), port),
                roles: roles::VIRTUAL,
            }),
            _ => None,
        }
    }

    /// Whether packets reach the service: this host holds its address, or a rule gives its mark.
    pub fn is_live(&self, key: ServiceKey) -> bool {
        match key {
            ServiceKey::Endpoint { addr, .. } => self.local.contains(&addr),
            ServiceKey::Mark { mark, family } => {
                let mut rules = self.marks.iter();
                rules.any(|(rule, m)| m.mark == mark && rule.family == family)
            }
        }
    }

    /// Whether there is such a service.
    pub fn has_service(&self, key: ServiceKey) -> bool {
        self.services.contains_key(&key)
    }

    /// Numbers of services and of their real servers.
    pub fn counts(&self) -> (u64, u64) {
        let servers: usize = self.services.values().map(|s| s.servers.len()).sum();
        (self.services.len() as u64, servers as u64)
    }

    /// Addresses of all real servers, whose neighbours are to be kept warm.
    pub fn server_addresses(&self) -> BTreeSet<IpAddr> {
        self.services
            .values()
            .flat_map(|s| &s.servers)
            .map(|s| s.key.addr)
            .collect()
    }

    /// A line for each service whose address no port of this host holds.
    pub fn dead_services(&self) -> Vec<String> {
        let dead = self.services.keys().filter(|key| !self.is_live(**key));
        dead.map(|key| dead_service(*key)).collect()
    }

    /// What runs, for a comparison with the file.
    pub fn running(&self) -> Running {
        let services = self.services.values().map(|service| {
            let servers = service.servers.iter().rev().map(|s| RunningServer {
                key: s.key,
                spec: ServerSpec {
                    weight: s.weights.configured,
                    ..s.spec.clone()
                },
                state: s.weights.state,
                origin: s.origin,
            });
            let running = RunningService {
                spec: service.spec.clone(),
                origin: service.origin,
                servers: servers.collect(),
            };
            (service.key, running)
        });
        Running {
            settings: self.settings,
            marks: self.marks.clone(),
            services: services.collect(),
        }
    }

    /// Services as listed, in the kernel's order: by hash bucket, newest first inside one.
    ///
    /// # Errors
    /// `NoService` for a named one.
    pub fn list(
        &self,
        key: Option<ServiceKey>,
        counters: Counters<'_>,
    ) -> Result<Vec<ServiceView>, Refusal> {
        let mut found: Vec<&Service> = match key {
            Some(key) => vec![self.services.get(&key).ok_or_else(|| no_service(key))?],
            None => self.services.values().collect(),
        };
        found.sort_by_key(|s| (bucket(s.key), std::cmp::Reverse(s.age)));
        Ok(found
            .into_iter()
            .map(|service| self.view(service, counters))
            .collect())
    }

    fn view(&self, service: &Service, counters: Counters<'_>) -> ServiceView {
        ServiceView {
            key: service.key,
            spec: service.spec.clone(),
            live: self.is_live(service.key),
            origin: service.origin,
            stats: service.estimator.totals(),
            rates: service.estimator.rates(),
            servers: service
                .servers
                .iter()
                .map(|s| server_view(s, counters))
                .collect(),
        }
    }
}

fn server_view(server: &Server, counters: Counters<'_>) -> ServerView {
    let gauges = counters.iter().filter_map(|c| c.dest(server.id));
    let (active, total, persistent) = gauges.fold((0u32, 0u32, 0u32), |(a, t, p), dest| {
        (
            a.saturating_add(dest.active.get()),
            t.saturating_add(dest.total.get()),
            p.saturating_add(dest.persistent.get()),
        )
    });
    ServerView {
        key: server.key,
        spec: ServerSpec {
            weight: server.weights.effective(),
            ..server.spec.clone()
        },
        configured_weight: server.weights.configured,
        origin: server.origin,
        active,
        inactive: total.saturating_sub(active),
        persistent,
        stats: server.estimator.totals(),
        rates: server.estimator.rates(),
    }
}

/// Says that a service gets no packets, and what to do.
pub fn dead_service(key: ServiceKey) -> String {
    let name = describe_service(&key);
    match key.addr() {
        Some(addr) => format!(
            "no port of this host holds {addr}: packets for {name} stay with the kernel until \
             `ip addr add {addr} dev TWIN`"
        ),
        None => format!("no rule gives packets {name}; add one with `rvsadm mark add`"),
    }
}

fn is_unused(counters: Counters<'_>, id: DestId) -> bool {
    counters
        .iter()
        .filter_map(|c| c.dest(id))
        .all(|d| d.total.get() == 0 && d.persistent.get() == 0)
}

fn trashed(service: ServiceId, server: Server, counters: Counters<'_>) -> Trashed {
    let raw = Counts::of_dest(counters.iter().map(|c| &**c), server.id);
    Trashed {
        id: server.id,
        service,
        server: server.key,
        counted: raw - server.base,
        last_weight: server.weights.last,
        estimator: server.estimator,
    }
}

/// A server of a marked service is one for each protocol. One of FTP is one on every port, since its
/// data connections come from anywhere, and so is one of a service on port 0: connections of a
/// persistent one go to the port that the client asked for.
fn real(service: ServiceKey, server: ServerKey) -> impl Iterator<Item = RoleEntry> {
    let only = service.protocol().map(core_protocol);
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let protocols = protocols
        .into_iter()
        .filter(move |p| only.is_none_or(|only| only == *p));
    let is_ftp = only == Some(Protocol::Tcp) && service.port() == ftp::PORT;
    let on_every_port = is_ftp || service.port() == 0;
    let ports = [Some(server.port), on_every_port.then_some(0)];
    protocols.flat_map(move |protocol| {
        ports.into_iter().flatten().map(move |port| RoleEntry {
            protocol: protocol.number(),
            endpoint: Endpoint::new(server.addr.into(), port),
            roles: roles::REAL,
        })
    })
}

fn core_protocol(protocol: api::Protocol) -> Protocol {
    match protocol {
        api::Protocol::Tcp => Protocol::Tcp,
        api::Protocol::Udp => Protocol::Udp,
        api::Protocol::Sctp => Protocol::Sctp,
    }
}

fn core_persistence(persistence: Persistence) -> CorePersistence {
    CorePersistence {
        timeout: persistence.timeout,
        mask: match persistence.netmask {
            Netmask::V4(mask) => mask.to_bits(),
            Netmask::V6(len) => len.into(),
        },
    }
}

fn core_key(key: ServiceKey) -> CoreKey {
    match key {
        ServiceKey::Endpoint {
            protocol,
            addr,
            port,
        } => CoreKey::new(core_protocol(protocol), Endpoint::new(addr.into(), port)),
        ServiceKey::Mark { mark, family } => CoreKey::Mark {
            family: match family {
                api::Family::Ipv4 => Family::V4,
                api::Family::Ipv6 => Family::V6,
            },
            mark,
        },
    }
}

/// Bucket of the kernel's service tables, which decides the order of an unsorted listing:
/// addresses (`ip_vs_svc_hashkey`; the kernel also mixes in an address of its own), then marks
/// (`ip_vs_svc_fwm_hashkey`).
fn bucket(key: ServiceKey) -> u16 {
    match key {
        ServiceKey::Endpoint {
            protocol,
            addr,
            port,
        } => {
            let protocol = u32::from(core_protocol(protocol).number());
            let addr = dataplane::addr::Addr::from(addr).fold();
            let port = u32::from(port);
            ((protocol ^ addr ^ (port >> 8) ^ port) & 0xff) as u16
        }
        ServiceKey::Mark { mark, .. } => 0x100 | (mark & 0xff) as u16,
    }
}

fn origin_of_new(author: Author) -> Origin {
    match author {
        Author::File => Origin::File,
        Author::Operator => Origin::Live,
    }
}

fn origin_of_edited(author: Author, before: Origin) -> Origin {
    match (author, before) {
        (Author::File, _) => Origin::File,
        (Author::Operator, Origin::Live) => Origin::Live,
        (Author::Operator, Origin::File | Origin::FileChanged) => Origin::FileChanged,
    }
}

fn no_service(key: ServiceKey) -> Refusal {
    Refusal::new(
        ErrorKind::NoService,
        format!("there is no service {}", describe_service(&key)),
    )
}

fn not_defined(key: ServiceKey) -> Refusal {
    Refusal::new(
        ErrorKind::ServiceNotDefined,
        format!(
            "there is no service {}; add it with -A",
            describe_service(&key)
        ),
    )
}

fn no_server(service: ServiceKey, key: ServerKey) -> Refusal {
    Refusal::new(
        ErrorKind::NoServer,
        format!(
            "service {} has no server {}",
            describe_service(&service),
            describe_server(&key)
        ),
    )
}

fn no_dest_left(limits: Limits) -> Refusal {
    Refusal::new(
        ErrorKind::Capacity,
        format!(
            "all {} real servers are in use (deleted ones count while they have connections); \
             raise max_servers and restart",
            limits.servers
        ),
    )
}

fn check_service(
    key: ServiceKey,
    spec: &ServiceSpec,
    limits: Limits,
) -> Result<&'static str, Refusal> {
    let name = describe_service(&key);
    if key.mark() == Some(0) {
        return Err(Refusal::new(
            ErrorKind::Invalid,
            format!("service {name}: a mark is 1 or more"),
        ));
    }
    if key.mark().is_none() && key.port() == 0 && spec.persistence.is_none() {
        return Err(Refusal::new(
            ErrorKind::Invalid,
            format!("service {name}: port 0 is for persistent services; give -p"),
        ));
    }
    if let Some(p) = spec.persistence {
        check_persistence(key, p)?;
        if limits.workers > 1 {
            // Connections of one client would have to meet on the worker of its template.
            return Err(Refusal::new(
                ErrorKind::Failed,
                format!("service {name}: {PERSISTENCE_ALONE}"),
            ));
        }
    }
    if spec.one_packet && key.protocol() == Some(api::Protocol::Tcp) {
        return Err(Refusal::new(
            ErrorKind::Invalid,
            format!("service {name}: one-packet scheduling is only for UDP"),
        ));
    }
    dataplane::schedule::find(&spec.scheduler).ok_or_else(|| {
        Refusal::new(
            ErrorKind::NoScheduler,
            format!("service {name}: {}", schedulers::unknown(&spec.scheduler)),
        )
    })
}

fn check_persistence(key: ServiceKey, persistence: Persistence) -> Result<(), Refusal> {
    let name = describe_service(&key);
    let Persistence { timeout, netmask } = persistence;
    if !(1..=MAX_TIMEOUT).contains(&timeout) {
        return Err(Refusal::new(
            ErrorKind::Range,
            format!("service {name}: persistence of {timeout} s; give 1 to {MAX_TIMEOUT}"),
        ));
    }
    let fits = match netmask {
        Netmask::V4(_) => !key.is_ipv6(),
        Netmask::V6(len) => key.is_ipv6() && (1..=128).contains(&len),
    };
    if fits {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorKind::Invalid,
        format!(
            "service {name}: netmask {netmask} does not fit; IPv4 takes a dotted mask, \
             IPv6 a length from 1 to 128"
        ),
    ))
}

/// What is wrong with a server whether it is new or edited.
fn check_server(service: ServiceKey, key: ServerKey, spec: &ServerSpec) -> Result<(), Refusal> {
    let refuse = |kind, what: String| {
        let (server, service) = (describe_server(&key), describe_service(&service));
        Err(Refusal::new(
            kind,
            format!("server {server} of {service}: {what}"),
        ))
    };
    let most = i32::MAX as u32;
    if spec.weight > most {
        return refuse(
            ErrorKind::Range,
            format!("weight {} is above {most}", spec.weight),
        );
    }
    if spec.lower > spec.upper {
        return refuse(
            ErrorKind::Range,
            format!(
                "lower threshold {} is above the upper one, {}",
                spec.lower, spec.upper
            ),
        );
    }
    if spec.upper > most {
        return refuse(
            ErrorKind::Invalid,
            format!("threshold {} is above {most}", spec.upper),
        );
    }
    if spec.method == Method::Local {
        return refuse(
            ErrorKind::Invalid,
            "method \"local\" is found out, not asked for".into(),
        );
    }
    if service.is_ipv6() != key.addr.is_ipv6() && spec.method != Method::Tunnel {
        return refuse(
            ErrorKind::Invalid,
            "different address family is allowed only for tunnelling servers (-i)".into(),
        );
    }
    if let Some(what) = tunnel_complaint(spec) {
        return refuse(ErrorKind::Invalid, what.into());
    }
    if spec.method != Method::Masq && key.port != service.port() && service.mark().is_none() {
        return refuse(
            ErrorKind::Invalid,
            format!(
                "direct routing and tunnels keep the port: it must be {}",
                service.port()
            ),
        );
    }
    Ok(())
}

/// What does not fit in the description of a tunnel.
fn tunnel_complaint(spec: &ServerSpec) -> Option<&'static str> {
    let api::Tunnel {
        kind,
        port,
        checksum,
    } = spec.tunnel;
    if spec.method != Method::Tunnel {
        let none = spec.tunnel == api::Tunnel::default();
        return (!none).then_some("tunnel options are for tunnels (-i)");
    }
    match (kind, checksum) {
        (api::TunnelKind::Gue, _) if port == 0 => Some("a gue tunnel needs a port (--tun-port)"),
        (api::TunnelKind::Gue, _) => None,
        (kind, _) if port != 0 => Some(match kind {
            api::TunnelKind::Gre => "a gre tunnel has no port",
            _ => "an ipip tunnel has no port",
        }),
        (_, api::TunnelChecksum::None) => None,
        (api::TunnelKind::Gre, api::TunnelChecksum::Full) => None,
        (api::TunnelKind::Gre, _) => Some("the remote checksum is for gue tunnels"),
        _ => Some("an ipip tunnel has no checksum"),
    }
}

fn core_tunnel(tunnel: api::Tunnel) -> Tunnel {
    Tunnel {
        kind: match tunnel.kind {
            api::TunnelKind::Ipip => TunnelKind::IpIp,
            api::TunnelKind::Gue => TunnelKind::Gue,
            api::TunnelKind::Gre => TunnelKind::Gre,
        },
        port: tunnel.port,
        checksum: match tunnel.checksum {
            api::TunnelChecksum::None => TunnelChecksum::None,
            api::TunnelChecksum::Full => TunnelChecksum::Full,
            api::TunnelChecksum::Remote => TunnelChecksum::Remote,
        },
    }
}

/// A new server's address is unicast or this host's own.
fn check_address(service: ServiceKey, key: ServerKey, is_local: bool) -> Result<(), Refusal> {
    let is_unicast = match key.addr {
        IpAddr::V4(a) => !(a.octets()[0] == 0 || a.is_multicast() || a.is_broadcast()),
        IpAddr::V6(a) => !(a.is_unspecified() || a.is_multicast() || a.is_unicast_link_local()),
    };
    if is_unicast || is_local {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorKind::Invalid,
        format!(
            "server {} of {}: the address is not a unicast address",
            describe_server(&key),
            describe_service(&service)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trash;
    use dataplane::marks::Marked;

    const START: Instant = Instant::from_secs(1000);

    struct Bench {
        model: Model,
        counters: Vec<Arc<WorkerCounters>>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            Bench::with(Limits {
                services: 4,
                servers: 4,
                workers: 1,
            })
        }

        fn with(limits: Limits) -> Bench {
            let mut model = Model::new(limits, Settings::default());
            model.set_local_addresses(BTreeSet::from([ip("10.0.0.1"), ip("fd00::1")]));
            model.take_updates();
            let counters = (0..2).map(|_| Arc::new(WorkerCounters::new(8))).collect();
            Bench {
                model,
                counters,
                now: START,
            }
        }

        fn by(&mut self, author: Author, change: Change) -> Result<(), ErrorKind> {
            let before = format!("{:?}", self.model.running());
            let done = self.model.apply(self.now, author, &change, &self.counters);
            if done.is_err() {
                assert_eq!(
                    before,
                    format!("{:?}", self.model.running()),
                    "a refusal left a mark"
                );
            }
            done.map_err(|refusal| refusal.kind)
        }

        fn live(&mut self, change: Change) -> Result<(), ErrorKind> {
            self.by(Author::Operator, change)
        }

        fn add(&mut self, server: &str) -> Result<(), ErrorKind> {
            self.live(Change::AddServer(
                http(),
                rs(server),
                nat(1),
                OperatorState::Up,
            ))
        }

        fn service(&mut self) -> Arc<VirtualService> {
            let updates = self.model.take_updates();
            let found = updates.into_iter().find_map(|u| match u {
                Update::PutService(service) => Some(service),
                _ => None,
            });
            found.expect("a service was changed")
        }

        fn list(&self) -> Vec<ServiceView> {
            self.model.list(None, &self.counters).unwrap()
        }

        fn roles(&self, endpoint: &str) -> u8 {
            let at: std::net::SocketAddr = endpoint.parse().unwrap();
            let endpoint = Endpoint::new(at.ip().into(), at.port());
            let of = self.model.role_entries().filter(|e| e.endpoint == endpoint);
            of.fold(0, |roles, e| roles | e.roles)
        }

        fn tick(&mut self) {
            self.model.estimate(&self.counters);
        }
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn vs(protocol: api::Protocol, addr: &str, port: u16) -> ServiceKey {
        ServiceKey::new(protocol, ip(addr), port)
    }

    fn http() -> ServiceKey {
        vs(api::Protocol::Tcp, "10.0.0.1", 80)
    }

    fn rr() -> ServiceSpec {
        ServiceSpec {
            scheduler: "rr".into(),
            ..ServiceSpec::default()
        }
    }

    fn rs(s: &str) -> ServerKey {
        let at: std::net::SocketAddr = s.parse().unwrap();
        ServerKey {
            addr: at.ip(),
            port: at.port(),
        }
    }

    fn spec(method: Method, weight: u32) -> ServerSpec {
        ServerSpec {
            method,
            weight,
            upper: 0,
            lower: 0,
            tunnel: api::Tunnel::default(),
        }
    }

    fn nat(weight: u32) -> ServerSpec {
        spec(Method::Masq, weight)
    }

    fn with_http() -> Bench {
        let mut b = Bench::new();
        b.live(Change::AddService(http(), rr())).unwrap();
        b
    }

    #[test]
    fn servers_are_prepended_and_an_edit_keeps_their_place() {
        let mut b = with_http();
        b.add("192.168.0.1:80").unwrap();
        b.add("192.168.0.2:80").unwrap();
        b.add("192.168.0.3:80").unwrap();
        b.live(Change::EditServer(
            http(),
            rs("192.168.0.2:80"),
            nat(5),
            OperatorState::Up,
        ))
        .unwrap();
        let service = b.service();
        let last: Vec<_> = service
            .destinations
            .iter()
            .map(|d| (d.endpoint.addr.octets()[15], d.weight))
            .collect();
        assert_eq!(last, [(3, 1), (2, 5), (1, 1)]);
        assert!(
            b.model.take_updates().is_empty(),
            "one snapshot for four changes"
        );
    }

    #[test]
    fn refusals_are_the_kernels() {
        use ErrorKind::*;
        let mut b = with_http();
        let other = vs(api::Protocol::Udp, "10.0.0.1", 80);
        let up = OperatorState::Up;
        let one = rs("192.168.0.1:80");
        let bad = ServiceSpec {
            scheduler: "wlcc".into(),
            ..ServiceSpec::default()
        };
        b.add("192.168.0.1:80").unwrap();
        for (change, kind) in [
            (Change::AddService(http(), bad.clone()), ServiceExists),
            (Change::AddService(other, bad.clone()), NoScheduler),
            (Change::EditService(http(), bad), NoScheduler),
            (Change::EditService(other, rr()), NoService),
            (Change::DeleteService(other), NoService),
            (Change::AddServer(other, one, nat(1), up), ServiceNotDefined),
            (
                Change::EditServer(other, one, nat(1), up),
                ServiceNotDefined,
            ),
            (Change::DeleteServer(other, one), ServiceNotDefined),
            (Change::AddServer(http(), one, nat(1), up), ServerExists),
            (
                Change::EditServer(http(), rs("192.168.0.1:81"), nat(1), up),
                NoServer,
            ),
            (Change::DeleteServer(http(), rs("192.168.0.9:80")), NoServer),
            (
                Change::AddServer(http(), rs("224.0.0.1:80"), nat(1), up),
                Invalid,
            ),
            (
                Change::AddServer(http(), rs("255.255.255.255:80"), nat(1), up),
                Invalid,
            ),
            (
                Change::AddServer(http(), rs("0.0.0.0:80"), nat(1), up),
                Invalid,
            ),
            (
                Change::AddServer(http(), rs("[fd00::9]:80"), nat(1), up),
                Invalid,
            ),
            (
                Change::AddServer(http(), rs("1.2.3.4:81"), spec(Method::Route, 1), up),
                Invalid,
            ),
            (
                Change::AddServer(http(), rs("1.2.3.4:80"), spec(Method::Local, 1), up),
                Invalid,
            ),
            (
                Change::AddServer(
                    http(),
                    rs("1.2.3.4:80"),
                    ServerSpec { lower: 1, ..nat(1) },
                    up,
                ),
                Range,
            ),
            (
                Change::EditServer(
                    http(),
                    one,
                    ServerSpec {
                        upper: 2,
                        lower: 3,
                        ..nat(1)
                    },
                    up,
                ),
                Range,
            ),
            (
                Change::AddServer(http(), rs("1.2.3.4:80"), nat(1 << 31), up),
                Range,
            ),
            (
                Change::AddService(vs(api::Protocol::Tcp, "10.0.0.1", 0), rr()),
                Invalid,
            ),
            (
                Change::AddService(
                    vs(api::Protocol::Tcp, "10.0.0.1", 1),
                    ServiceSpec {
                        one_packet: true,
                        ..rr()
                    },
                ),
                Invalid,
            ),
        ] {
            let shown = format!("{change:?}");
            assert_eq!(b.live(change), Err(kind), "{shown}");
        }
        let gue = |method, port| ServerSpec {
            tunnel: api::Tunnel {
                kind: api::TunnelKind::Gue,
                port,
                checksum: api::TunnelChecksum::Remote,
            },
            ..spec(method, 1)
        };
        for wrong in [
            gue(Method::Tunnel, 0),
            gue(Method::Masq, 6080),
            gue(Method::Route, 0),
        ] {
            let change = Change::AddServer(http(), rs("10.1.0.8:80"), wrong, up);
            assert_eq!(b.live(change), Err(Invalid));
        }
        let tunnel = Change::AddServer(http(), rs("[fd00::9]:80"), spec(Method::Tunnel, 1), up);
        assert_eq!(b.live(tunnel), Ok(()));
        assert_eq!(
            b.model
                .set_timeouts(MAX_TIMEOUT + 1, 0, 0)
                .unwrap_err()
                .kind,
            Range
        );
    }

    #[test]
    fn capacities_are_refused_by_name() {
        let mut b = with_http();
        for port in 1..4 {
            b.live(Change::AddService(
                vs(api::Protocol::Udp, "10.0.0.1", port),
                rr(),
            ))
            .unwrap();
        }
        let fifth = Change::AddService(vs(api::Protocol::Udp, "10.0.0.1", 9), rr());
        assert_eq!(b.live(fifth.clone()), Err(ErrorKind::Capacity));
        for n in 1..=4 {
            b.add(&format!("192.168.0.{n}:80")).unwrap();
        }
        assert_eq!(b.add("192.168.0.5:80"), Err(ErrorKind::Capacity));
        b.live(Change::DeleteService(vs(api::Protocol::Udp, "10.0.0.1", 1)))
            .unwrap();
        assert_eq!(b.live(fifth), Ok(()));
    }

    #[test]
    fn ids_of_unused_deleted_servers_are_taken_when_ids_are_short() {
        let mut b = with_http();
        for n in 1..=4 {
            b.add(&format!("192.168.0.{n}:80")).unwrap();
        }
        let id = b.service().destinations[3].id;
        b.counters[0].dests[id.0 as usize].total.set(1);
        b.live(Change::DeleteServer(http(), rs("192.168.0.1:80")))
            .unwrap();
        b.now = b.now + Duration::from_secs(10);
        assert_eq!(
            b.add("192.168.0.5:80"),
            Err(ErrorKind::Capacity),
            "it has a connection"
        );
        b.counters[0].dests[id.0 as usize].total.set(0);
        b.add("192.168.0.5:80").unwrap();
        assert_eq!(b.service().destinations[0].id, id);
        b.live(Change::DeleteServer(http(), rs("192.168.0.5:80")))
            .unwrap();
        assert_eq!(
            b.add("192.168.0.6:80"),
            Err(ErrorKind::Capacity),
            "it was deleted just now"
        );
    }

    #[test]
    fn answers_of_servers_are_known_whatever_the_protocol() {
        for protocol in [api::Protocol::Tcp, api::Protocol::Udp, api::Protocol::Sctp] {
            let mut b = with_http();
            let service = ServiceKey::Endpoint {
                protocol,
                addr: ip("10.0.0.1"),
                port: 99,
            };
            let spec = ServiceSpec {
                scheduler: "rr".into(),
                ..ServiceSpec::default()
            };
            b.live(Change::AddService(service, spec)).unwrap();
            let server = rs("192.168.0.1:99");
            b.live(Change::AddServer(
                service,
                server,
                nat(1),
                OperatorState::Up,
            ))
            .unwrap();
            let of = |at: IpAddr| {
                let number = core_protocol(protocol).number();
                b.model.build_roles().of(true, number, &at.into(), 99)
            };
            assert_eq!(of(ip("10.0.0.1")), roles::VIRTUAL, "{protocol:?}");
            assert_eq!(of(ip("192.168.0.1")), roles::REAL, "{protocol:?}");
        }
    }

    #[test]
    fn a_server_of_a_service_on_port_0_answers_from_any_port() {
        let at = |port| {
            let mut b = with_http();
            let service = ServiceKey::Endpoint {
                protocol: api::Protocol::Tcp,
                addr: ip("10.0.0.1"),
                port,
            };
            let spec = ServiceSpec {
                scheduler: "rr".into(),
                persistence: Some(Persistence {
                    timeout: 30,
                    netmask: Netmask::V4(std::net::Ipv4Addr::BROADCAST),
                }),
                ..ServiceSpec::default()
            };
            b.live(Change::AddService(service, spec)).unwrap();
            let server = rs("192.168.0.1:9000");
            let add = Change::AddServer(service, server, nat(1), OperatorState::Up);
            b.live(add).unwrap();
            let addr = ip("192.168.0.1").into();
            b.model.build_roles().of(true, 6, &addr, 443)
        };
        assert_eq!((at(0), at(99)), (roles::REAL, 0));
    }

    #[test]
    fn a_deleted_server_comes_back_with_its_id_and_its_counters() {
        let mut b = with_http();
        b.add("192.168.0.1:80").unwrap();
        let id = b.service().destinations[0].id;
        let counter = &b.counters[0].dests[id.0 as usize];
        counter.in_pkts.add(10);
        counter.total.set(2);
        b.tick();
        b.live(Change::DeleteServer(http(), rs("192.168.0.1:80")))
            .unwrap();
        assert_eq!(
            b.roles("192.168.0.1:80"),
            roles::REAL,
            "its connections go on"
        );
        // Counted by a worker that had not seen the deletion yet: not shown afterwards.
        b.counters[1].dests[id.0 as usize].in_pkts.add(5);
        b.now = b.now + Duration::from_secs(3600);
        b.model.scan_trash(b.now, &b.counters);
        b.add("192.168.0.1:80").unwrap();
        assert_eq!(b.service().destinations[0].id, id);
        b.counters[1].dests[id.0 as usize].in_pkts.add(1);
        b.tick();
        let view = &b.list()[0];
        assert_eq!(view.servers[0].stats.in_pkts, 11);
        assert_eq!(view.servers[0].inactive, 2);
        assert_eq!(
            view.stats.in_pkts, 11,
            "10 before the deletion, 1 after the return"
        );
    }

    #[test]
    fn a_new_service_object_starts_from_nothing_but_keeps_connections() {
        let mut b = with_http();
        b.add("192.168.0.1:80").unwrap();
        let id = b.service().destinations[0].id;
        b.counters[0].dests[id.0 as usize].conns.add(96);
        b.counters[0].dests[id.0 as usize].total.set(96);
        b.tick();
        b.live(Change::Clear).unwrap();
        assert_eq!(
            b.roles("10.0.0.1:80"),
            roles::VIRTUAL,
            "packets of its connections are ours"
        );
        b.live(Change::AddService(http(), rr())).unwrap();
        b.add("192.168.0.1:80").unwrap();
        b.tick();
        let view = &b.list()[0];
        assert_eq!((view.servers[0].stats.conns, view.stats.conns), (0, 0));
        assert_eq!(view.servers[0].inactive, 96);
        assert_eq!(b.service().destinations[0].id, id);
    }

    #[test]
    fn an_id_is_free_two_minutes_after_a_scan_found_no_connection() {
        let mut b = with_http();
        b.add("192.168.0.1:80").unwrap();
        let id = b.service().destinations[0].id;
        b.counters[1].dests[id.0 as usize].total.set(1);
        b.live(Change::DeleteServer(http(), rs("192.168.0.1:80")))
            .unwrap();
        let scan = |b: &mut Bench, secs: u64| {
            b.now = START + Duration::from_secs(secs);
            b.model.scan_trash(b.now, &b.counters);
            b.model.trash.iter().count()
        };
        assert_eq!(scan(&mut b, 600), 1);
        b.counters[1].dests[id.0 as usize].total.set(0);
        assert_eq!(scan(&mut b, 660), 1);
        assert_eq!(scan(&mut b, 779), 1);
        // In use again (an entry taken over from elsewhere): the time starts anew.
        b.counters[0].dests[id.0 as usize].persistent.set(1);
        assert_eq!(scan(&mut b, 780), 1);
        b.counters[0].dests[id.0 as usize].persistent.set(0);
        assert_eq!(scan(&mut b, 840), 1);
        assert_eq!(scan(&mut b, 959), 1);
        assert_eq!(scan(&mut b, 840 + trash::GRACE.as_secs()), 0);
        assert_eq!(b.roles("192.168.0.1:80"), 0);
        let updates = b.model.take_updates();
        assert!(
            matches!(updates.last(), Some(Update::PutRoles(_))),
            "{updates:?}"
        );
    }

    #[test]
    fn services_are_live_while_the_host_holds_the_address() {
        let mut b = with_http();
        let away = vs(api::Protocol::Tcp, "10.0.0.99", 80);
        b.live(Change::AddService(away, rr())).unwrap();
        assert_eq!(
            (b.roles("10.0.0.1:80"), b.roles("10.0.0.99:80")),
            (roles::VIRTUAL, 0)
        );
        assert_eq!(b.model.dead_services().len(), 1);
        b.model.take_updates();
        b.model
            .set_local_addresses(BTreeSet::from([ip("10.0.0.99")]));
        assert_eq!(
            (b.roles("10.0.0.1:80"), b.roles("10.0.0.99:80")),
            (0, roles::VIRTUAL)
        );
        let updates = b.model.take_updates();
        assert!(matches!(updates[..], [Update::PutRoles(_)]), "{updates:?}");
        b.model
            .set_local_addresses(BTreeSet::from([ip("10.0.0.99")]));
        assert!(b.model.take_updates().is_empty(), "nothing changed");
    }

    #[test]
    fn a_server_that_is_this_host_gets_packets_unchanged_unless_by_nat() {
        let mut b = with_http();
        let up = OperatorState::Up;
        b.live(Change::AddServer(
            http(),
            rs("10.0.0.7:80"),
            spec(Method::Route, 1),
            up,
        ))
        .unwrap();
        b.live(Change::AddServer(http(), rs("10.0.0.7:81"), nat(1), up))
            .unwrap();
        let methods =
            |s: &VirtualService| -> Vec<_> { s.destinations.iter().map(|d| d.method).collect() };
        use ForwardingMethod::{DirectRoute, Local, Masquerade};
        assert_eq!(methods(&b.service()), [Masquerade, DirectRoute]);
        b.model
            .set_local_addresses(BTreeSet::from([ip("10.0.0.1"), ip("10.0.0.7")]));
        assert_eq!(methods(&b.service()), [Masquerade, Local]);
        assert_eq!(
            b.list()[0].servers[1].spec.method,
            Method::Route,
            "listed as configured"
        );
    }

    #[test]
    fn origins_follow_who_touched_what() {
        let mut b = Bench::new();
        let up = OperatorState::Up;
        let (one, two) = (rs("192.168.0.1:80"), rs("192.168.0.2:80"));
        b.by(Author::File, Change::AddService(http(), rr()))
            .unwrap();
        b.by(
            Author::File,
            Change::AddServer(http(), one, nat(3), OperatorState::Drain),
        )
        .unwrap();
        b.live(Change::AddServer(http(), two, nat(1), up)).unwrap();
        let origins = |b: &Bench| {
            let view = &b.list()[0];
            (view.origin, view.servers[1].origin, view.servers[0].origin)
        };
        assert_eq!(origins(&b), (Origin::File, Origin::File, Origin::Live));
        let server = b.list()[0].servers[1].clone();
        assert_eq!((server.spec.weight, server.configured_weight), (0, 3));
        b.live(Change::EditServer(http(), one, nat(4), up)).unwrap();
        b.live(Change::EditServer(http(), two, nat(4), up)).unwrap();
        assert_eq!(
            origins(&b),
            (Origin::File, Origin::FileChanged, Origin::Live)
        );
        b.live(Change::EditService(http(), rr())).unwrap();
        assert_eq!(origins(&b).0, Origin::FileChanged);
        b.by(Author::File, Change::EditServer(http(), one, nat(3), up))
            .unwrap();
        assert_eq!(origins(&b).1, Origin::File);
    }

    #[test]
    fn weight_is_made_of_three_inputs() {
        let mut b = with_http();
        b.add("192.168.0.1:80").unwrap();
        let one = rs("192.168.0.1:80");
        b.model.set_health(http(), one, false).unwrap();
        assert_eq!(b.service().destinations[0].weight, 0);
        b.live(Change::EditServer(http(), one, nat(7), OperatorState::Up))
            .unwrap();
        assert_eq!(b.service().destinations[0].weight, 0, "still down");
        b.model.set_health(http(), one, true).unwrap();
        assert_eq!(b.service().destinations[0].weight, 7);
        b.model.set_health(http(), one, true).unwrap();
        assert!(b.model.take_updates().is_empty());
    }

    #[test]
    fn the_total_is_of_everything_and_freezes_without_estimation() {
        let mut b = with_http();
        b.add("10.0.1.1:80").unwrap();
        let id = b.service().destinations[0].id;
        let total = |b: &Bench| {
            let api::Response::Stats { total, rates, .. } = b.model.stats(&b.counters) else {
                panic!()
            };
            (total.in_pkts, rates.in_pkts)
        };
        b.counters[1].dests[id.0 as usize].in_pkts.add(400);
        b.tick();
        assert_eq!(total(&b), (400, 50));
        // What a deleted server counted stays part of it.
        b.live(Change::DeleteServer(http(), rs("10.0.1.1:80")))
            .unwrap();
        b.tick();
        assert_eq!(total(&b), (400, 37));
        b.model.set_settings(Settings {
            run_estimation: false,
            ..Settings::default()
        });
        b.counters[0].dests[id.0 as usize].in_pkts.add(1);
        b.tick();
        assert_eq!(total(&b), (400, 37));
        b.model.set_settings(Settings::default());
        // Of one service: the total is not touched.
        b.model.zero(Some(http())).unwrap();
        b.tick();
        assert_eq!(total(&b).0, 401);
        b.model.zero(None).unwrap();
        assert_eq!(total(&b), (0, 0));
    }

    #[test]
    fn zero_moves_the_base_of_one_service_or_all() {
        let mut b = with_http();
        b.add("192.168.0.1:80").unwrap();
        b.counters[0].dests[0].in_bytes.add(100);
        b.tick();
        assert_eq!(b.list()[0].stats.in_bytes, 100);
        assert!(b.list()[0].rates.in_bytes > 0);
        b.model.zero(Some(http())).unwrap();
        assert_eq!(b.list()[0].stats, api::Stats::default());
        assert_eq!(b.list()[0].servers[0].rates, api::Stats::default());
        let other = vs(api::Protocol::Tcp, "10.0.0.2", 80);
        assert_eq!(
            b.model.zero(Some(other)).unwrap_err().kind,
            ErrorKind::NoService
        );
    }

    #[test]
    fn a_marked_service_needs_no_address_and_its_servers_no_port() {
        let mut b = Bench::new();
        let mark = |mark, family| ServiceKey::Mark { mark, family };
        let five = mark(5, api::Family::Ipv4);
        b.live(Change::AddService(five, rr())).unwrap();
        b.live(Change::AddService(mark(5, api::Family::Ipv6), rr()))
            .unwrap();
        assert_eq!(
            b.live(Change::AddService(mark(0, api::Family::Ipv4), rr())),
            Err(ErrorKind::Invalid)
        );
        let up = OperatorState::Up;
        b.live(Change::AddServer(five, rs("192.168.0.1:0"), nat(1), up))
            .unwrap();
        let direct = spec(Method::Route, 1);
        b.live(Change::AddServer(five, rs("192.168.0.2:8080"), direct, up))
            .unwrap();
        let core = CoreKey::Mark {
            family: Family::V4,
            mark: 5,
        };
        let updates = b.model.take_updates();
        let service = updates.iter().find_map(|u| match u {
            Update::PutService(service) if service.key == core => Some(service),
            _ => None,
        });
        assert_eq!(service.map(|s| s.destinations.len()), Some(2));
        assert_eq!(
            b.model.dead_services().len(),
            2,
            "no rule marks packets yet"
        );
        assert_eq!(b.list().len(), 2);
    }

    #[test]
    fn rules_of_marks_are_built_and_make_their_services_live() {
        let mut b = Bench::new();
        b.model.set_ports(vec!["lan".into(), "wan".into()]);
        let rule = |text: &str| MarkMatch::from_words(text.split_whitespace()).unwrap();
        let web = rule("destination 203.0.113.0/24 protocol tcp port wan");
        let five = ServiceKey::Mark {
            mark: 5,
            family: api::Family::Ipv4,
        };
        b.live(Change::AddService(five, rr())).unwrap();
        b.model.take_updates();
        b.live(Change::PutMark(web.clone(), 5)).unwrap();
        assert!(b.model.is_live(five));
        let updates = b.model.take_updates();
        let [Update::PutMarks(marks), Update::PutRoles(table)] = &updates[..] else {
            panic!("{updates:?}");
        };
        let mut packet = Marked {
            src: ip("10.0.0.9").into(),
            dst: ip("203.0.113.7").into(),
            src_port: 1,
            dst_port: 80,
            protocol: 6,
            vlan: 0,
            input: PortId(1),
        };
        assert_eq!(marks.classify(&packet), 5);
        packet.input = PortId(0);
        assert_eq!(marks.classify(&packet), 0);
        assert_eq!(table.of(true, 6, &packet.dst, 80), roles::MARKED);
        // An operator does not overwrite a rule, the file does.
        let again = Change::PutMark(web.clone(), 6);
        assert_eq!(b.live(again.clone()), Err(ErrorKind::Invalid));
        b.by(Author::File, again).unwrap();
        assert_eq!(b.model.marks()[0].origin, Origin::File);
        assert!(!b.model.is_live(five));
        let lost = Change::PutMark(rule("port dmz"), 5);
        assert_eq!(b.live(lost), Err(ErrorKind::Invalid));
        b.live(Change::DeleteMark(web.clone())).unwrap();
        assert_eq!(b.live(Change::DeleteMark(web)), Err(ErrorKind::Invalid));
    }

    #[test]
    fn timeouts_keep_what_is_zero() {
        let mut b = Bench::new();
        b.model.set_timeouts(0, 30, 0).unwrap();
        let t = b.model.settings().timeouts;
        assert_eq!((t.tcp, t.tcp_fin, t.udp), (900, 30, 300));
        assert!(matches!(
            b.model.take_updates()[..],
            [Update::PutSettings(_)]
        ));
    }

    #[test]
    fn the_unsorted_listing_has_the_kernels_order() {
        let mut b = Bench::new();
        // Same bucket: the newer one first; otherwise by bucket.
        let keys = [("10.0.0.1", 80), ("10.0.1.1", 80), ("10.0.0.2", 80)]
            .map(|(a, p)| vs(api::Protocol::Udp, a, p));
        for key in keys {
            b.live(Change::AddService(key, rr())).unwrap();
        }
        let mut expected: Vec<_> = keys.iter().enumerate().collect();
        expected.sort_by_key(|(age, key)| (bucket(**key), std::cmp::Reverse(*age)));
        let listed: Vec<_> = b.list().into_iter().map(|s| s.key).collect();
        assert_eq!(
            listed,
            expected.into_iter().map(|(_, k)| *k).collect::<Vec<_>>()
        );
        assert_eq!(bucket(vs(api::Protocol::Tcp, "10.0.0.1", 80)), 6 ^ 1 ^ 80);
    }

    #[test]
    fn deletions_are_sent_before_what_may_reuse_their_place() {
        let mut b = with_http();
        b.add("192.168.0.1:80").unwrap();
        b.model.take_updates();
        b.live(Change::DeleteService(http())).unwrap();
        b.live(Change::AddService(http(), rr())).unwrap();
        let updates = b.model.take_updates();
        assert!(
            matches!(
                updates[..],
                [
                    Update::DeleteService(_),
                    Update::PutService(_),
                    Update::PutRoles(_)
                ]
            ),
            "{updates:?}"
        );
    }
}
