//! Desired state: services, real servers, live settings. Pure: no I/O, no clock.
//!
//! Every change is checked here with the kernel's rules and becomes [`Update`]s. Callers apply
//! one or many [`Change`]s and then take the updates, so that a reload of a thousand servers
//! of a service is one snapshot of it. To make several changes or none, apply them to a clone.

mod bind;
mod build;
mod change;
mod check;
mod edit;
mod estimate;
mod listing;
mod marks;
mod origin;
mod pool;
mod roles;
mod steering;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::counters::WorkerCounters;
use dataplane::route::Prefix;
use dataplane::service::{DestId, ServiceId, VirtualService};
use dataplane::settings::Settings;
use dataplane::time::Instant;

use crate::api::{
    ErrorKind, MarkMatch, Method, Origin, ServerKey, ServerSpec, ServiceKey, ServiceSpec,
};
use crate::config::RunningMark;
use crate::ids::IdPool;
use crate::stats::{Counts, Estimator};
use crate::trash::Trash;

use edit::is_unused;
use estimate::Estimation;
use roles::Roles;
use steering::Steered;

pub use change::{Author, Change, Refusal};
pub use estimate::Statistics;
pub use listing::dead_service;
pub use pool::Pooled;
pub use weights::{Place, Weights};

/// Counters of all workers.
pub type Counters<'a> = &'a [Arc<WorkerCounters>];

/// Longest timeout, seconds (31 days, as ipvsadm has it).
pub const MAX_TIMEOUT: u32 = 2_678_400;

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
    /// Serves when there is no quorum; the pool of the service rules it, not the operator.
    is_sorry: bool,
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
    /// As the workers were told last.
    built: Option<Arc<VirtualService>>,
}

impl Service {
    /// Of a real server; the sorry server is none.
    fn server(&self, key: ServerKey) -> Option<usize> {
        self.real().position(|s| s.key == key)
    }

    /// Real servers. The sorry server stands behind them in the list.
    fn real(&self) -> impl DoubleEndedIterator<Item = &Server> {
        self.servers.iter().filter(|s| !s.is_sorry)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Model {
    services: BTreeMap<ServiceKey, Service>,
    marks: BTreeMap<MarkMatch, RunningMark>,
    /// Destinations of deleted rules, with the service whose connections they made.
    former_marks: BTreeSet<(ServiceKey, Prefix)>,
    /// Names of the ports, by number.
    ports: Vec<String>,
    trash: Trash,
    settings: Settings,
    local: BTreeSet<IpAddr>,
    /// Packets of clients are the host's.
    is_set_back: bool,
    service_ids: IdPool,
    dest_ids: IdPool,
    limits: Limits,
    age: u64,
    /// Of everything (`ip_vs_stats`).
    total: Estimator,
    estimation: Estimation,
    deleted: Vec<ServiceId>,
    changed: BTreeSet<ServiceKey>,
    /// Services that were added, edited or deleted since somebody asked.
    touched: BTreeSet<ServiceKey>,
    marks_changed: bool,
    roles: Roles,
    /// Of how many real servers each address is.
    addresses: HashMap<IpAddr, u32>,
    /// Those of which that may have changed from none or to none.
    addresses_touched: BTreeSet<IpAddr>,
    settings_changed: bool,
    steered: Steered,
}

impl Model {
    /// No service; the settings are sent with the first updates.
    pub fn new(limits: Limits, settings: Settings) -> Model {
        Model {
            services: BTreeMap::new(),
            marks: BTreeMap::new(),
            former_marks: BTreeSet::new(),
            ports: Vec::new(),
            trash: Trash::default(),
            settings,
            local: BTreeSet::new(),
            is_set_back: false,
            service_ids: IdPool::new(limits.services),
            dest_ids: IdPool::new(limits.servers),
            limits,
            age: 0,
            total: Estimator::default(),
            estimation: Estimation::default(),
            deleted: Vec::new(),
            changed: BTreeSet::new(),
            touched: BTreeSet::new(),
            marks_changed: false,
            roles: Roles::default(),
            addresses: HashMap::new(),
            addresses_touched: BTreeSet::new(),
            settings_changed: true,
            steered: Steered::default(),
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
            Change::SetState(service, key, state) => self.set_state(author, *service, *key, *state),
            Change::PutMark(rule, mark) => self.put_mark(author, rule, *mark),
            Change::DeleteMark(rule) => self.delete_mark(rule),
        }
    }

    /// Services that were added, edited (their servers, too) or deleted since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<ServiceKey> {
        std::mem::take(&mut self.touched)
    }

    /// Whether the host holds an address.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        self.local.contains(&addr)
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
        self.roles.start_anew();
    }

    /// Leaves packets of clients to the host, or takes them back; replies are translated either
    /// way. Whether that is new.
    pub fn set_back(&mut self, is_set_back: bool) -> bool {
        let is_new = std::mem::replace(&mut self.is_set_back, is_set_back) != is_set_back;
        if is_new {
            self.roles.start_anew();
        }
        is_new
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

    /// Frees deleted destinations that no connection is bound to any more; due every
    /// [`crate::trash::SCAN_PERIOD`].
    pub fn scan_trash(&mut self, now: Instant, counters: Counters<'_>) {
        for gone in self.trash.scan(now, |id| is_unused(counters, id)) {
            self.dest_ids.release(gone.id.0);
            self.roles.forget_server(gone.service, gone.server);
        }
        self.forget_marks(counters);
        self.settle(counters);
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
}
