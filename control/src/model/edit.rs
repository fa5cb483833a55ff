//! Services and servers are added, edited and deleted.

use std::time::Duration;

use dataplane::service::{DestId, ServiceId};
use dataplane::time::Instant;

use crate::api::{ErrorKind, Origin, ServerKey, ServerSpec, ServiceKey, ServiceSpec};
use crate::config::{OperatorState, describe_server, describe_service};
use crate::stats::{Counts, Estimator};
use crate::trash::Trashed;

use super::change::{
    no_dest_left, no_server, no_service, not_defined, origin_of_edited, origin_of_new,
};
use super::check::{check_address, check_count, check_server, check_service};
use super::{Author, Counters, Model, Refusal, Server, Service, Weights};

/// Shortest time after its deletion in which a destination's id is not used again, even when
/// ids are short: every worker has taken the deletion over by then or is reported as stuck.
const ID_QUARANTINE: Duration = Duration::from_secs(2);

impl Model {
    pub(super) fn add_service(
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
        let scheduler = check_service(key, spec)?;
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
                built: None,
            },
        );
        self.changed.insert(key);
        self.touched.insert(key);
        self.roles.touch_service(key);
        if spec.persistence.is_some() {
            self.roles.start_anew();
        }
        Ok(())
    }

    pub(super) fn edit_service(
        &mut self,
        author: Author,
        key: ServiceKey,
        spec: &ServiceSpec,
    ) -> Result<(), Refusal> {
        let service = self.services.get_mut(&key).ok_or_else(|| no_service(key))?;
        let scheduler = check_service(key, spec)?;
        check_count(key, scheduler, service.servers.len())?;
        service.scheduler = scheduler;
        if service.spec.persistence != spec.persistence {
            self.roles.start_anew();
        }
        service.spec = spec.clone();
        service.origin = origin_of_edited(author, service.origin);
        self.changed.insert(key);
        self.touched.insert(key);
        Ok(())
    }

    pub(super) fn delete_service(
        &mut self,
        now: Instant,
        key: ServiceKey,
        counters: Counters<'_>,
    ) -> Result<(), Refusal> {
        let service = self.services.remove(&key).ok_or_else(|| no_service(key))?;
        for server in service.servers {
            self.leave_address(server.key.addr);
            if server.weights.is_there() {
                self.roles.leave_server(key, server.key);
            }
            self.trash
                .put(now, key, trashed(service.id, server, counters));
        }
        self.service_ids.release(service.id.0);
        self.deleted.push(service.id);
        self.changed.remove(&key);
        self.touched.insert(key);
        self.roles.touch_service(key);
        Ok(())
    }

    pub(super) fn add_server(
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
        check_count(service_key, service.scheduler, service.servers.len() + 1)?;
        let sorry = service.servers.iter().any(|s| s.key == key && s.is_sorry);
        if sorry && author == Author::Operator {
            return Err(Refusal::new(
                ErrorKind::ServerExists,
                format!(
                    "{} is the sorry server of {}; take it out of the file first",
                    describe_server(&key),
                    describe_service(&service_key)
                ),
            ));
        }
        check_address(service_key, key, self.local.contains(&key.addr))?;
        if sorry {
            // The file no longer calls it that: its pool follows.
            self.drop_server(now, service_key, key, true, counters)?;
        }
        let newcomer = Newcomer {
            key,
            spec,
            weights: Weights::new(spec.weight, state),
            origin: origin_of_new(author),
            is_sorry: false,
        };
        self.enter(now, service_key, newcomer, counters)?;
        self.touched.insert(service_key);
        Ok(())
    }

    /// Puts a server into a service that has none of this key: at the head of its list, or at the
    /// end if it is the sorry server.
    pub(super) fn enter(
        &mut self,
        now: Instant,
        service_key: ServiceKey,
        newcomer: Newcomer<'_>,
        counters: Counters<'_>,
    ) -> Result<(), Refusal> {
        let Newcomer {
            key,
            spec,
            mut weights,
            origin,
            is_sorry,
        } = newcomer;
        let service = self
            .services
            .get_mut(&service_key)
            .ok_or_else(|| not_defined(service_key))?;
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
                    None => {
                        let gone = self
                            .trash
                            .reclaim(now, ID_QUARANTINE, |id| is_unused(counters, id))
                            .ok_or_else(|| no_dest_left(self.limits))?;
                        self.roles.forget_server(gone.service, gone.server);
                        gone.id
                    }
                };
                self.roles.add_server(service_key, key);
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
            is_sorry,
            origin,
            base,
            joined,
            estimator,
        };
        match is_sorry {
            true => service.servers.push(server),
            false => service.servers.insert(0, server),
        }
        if weights.is_there() {
            self.roles.enter_server(service_key, key);
        }
        self.changed.insert(service_key);
        self.enter_address(key.addr);
        Ok(())
    }

    pub(super) fn edit_server(
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
            .find(|s| s.key == key && !s.is_sorry)
            .ok_or_else(|| no_server(service_key, key))?;
        server.weights.configured = spec.weight;
        server.weights.state = state;
        server.weights.over &= server.weights.is_drained();
        server.weights.settle();
        server.spec = spec.clone();
        server.origin = origin_of_edited(author, server.origin);
        self.changed.insert(service_key);
        self.touched.insert(service_key);
        Ok(())
    }

    pub(super) fn delete_server(
        &mut self,
        now: Instant,
        service_key: ServiceKey,
        key: ServerKey,
        counters: Counters<'_>,
    ) -> Result<(), Refusal> {
        self.drop_server(now, service_key, key, false, counters)?;
        self.touched.insert(service_key);
        Ok(())
    }

    /// Takes a real server or the sorry server out of a service.
    pub(super) fn drop_server(
        &mut self,
        now: Instant,
        service_key: ServiceKey,
        key: ServerKey,
        is_sorry: bool,
        counters: Counters<'_>,
    ) -> Result<(), Refusal> {
        let service = self
            .services
            .get_mut(&service_key)
            .ok_or_else(|| not_defined(service_key))?;
        let is_it = |s: &Server| s.key == key && s.is_sorry == is_sorry;
        let at = service
            .servers
            .iter()
            .position(is_it)
            .ok_or_else(|| no_server(service_key, key))?;
        let server = service.servers.remove(at);
        if server.weights.is_there() {
            self.roles.leave_server(service_key, key);
        }
        let raw = Counts::of_dest(counters.iter().map(|c| &**c), server.id);
        service.removed += raw - server.joined;
        self.trash
            .put(now, service_key, trashed(service.id, server, counters));
        self.changed.insert(service_key);
        self.leave_address(key.addr);
        Ok(())
    }
}

/// A server that enters a service.
pub(super) struct Newcomer<'a> {
    pub(super) key: ServerKey,
    pub(super) spec: &'a ServerSpec,
    pub(super) weights: Weights,
    pub(super) origin: Origin,
    pub(super) is_sorry: bool,
}

pub(super) fn is_unused(counters: Counters<'_>, id: DestId) -> bool {
    counters
        .iter()
        .filter_map(|c| c.dest(id))
        .all(|d| d.total.get() == 0 && d.persistent.get() == 0)
}

pub(super) fn trashed(service: ServiceId, server: Server, counters: Counters<'_>) -> Trashed {
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
