//! Servers of a service as its pool has them, and what drains ask.

use dataplane::probe::Way;
use dataplane::service::ForwardingMethod;
use dataplane::time::Instant;

use crate::api::{ErrorKind, Origin, ServerKey, ServiceKey};
use crate::config::{OperatorState, describe_server, describe_service};
use crate::health::Sorry;

use super::build::core_tunnel;
use super::change::{no_server, not_defined, origin_of_edited};
use super::edit::Newcomer;
use super::listing::load;
use super::{Author, Counters, Model, Place, Refusal, Server, Weights};

/// A real server as the pool of its service needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooled {
    /// Which one.
    pub key: ServerKey,
    /// What its weight is made of.
    pub weights: Weights,
    /// How clients' packets reach it, if they reach it unchanged.
    pub way: Option<Way>,
}

impl Model {
    /// The real servers of a service, none if there is no such service.
    pub fn servers_of(&self, service: ServiceKey) -> Vec<Pooled> {
        let service = self.services.get(&service);
        let pooled = |s| self.pooled(s);
        service.map_or_else(Vec::new, |s| s.real().map(pooled).collect())
    }

    /// Seconds that clients of a persistent service stay with their server.
    pub fn persistence_of(&self, service: ServiceKey) -> Option<u32> {
        let spec = &self.services.get(&service)?.spec;
        spec.persistence.map(|p| p.timeout)
    }

    /// Active connections, all connections and templates of a real server.
    pub fn load_of(
        &self,
        service: ServiceKey,
        key: ServerKey,
        counters: Counters<'_>,
    ) -> Option<(u32, u32, u32)> {
        let service = self.services.get(&service)?;
        let server = service.real().find(|s| s.key == key)?;
        Some(load(server, counters))
    }

    /// The real servers of all services, or of one.
    pub fn servers(
        &self,
        only: Option<ServiceKey>,
    ) -> impl Iterator<Item = (ServiceKey, Pooled)> + '_ {
        let services = self.services.keys().copied();
        let services = services.filter(move |key| only.is_none_or(|only| only == *key));
        services.flat_map(|key| self.servers_of(key).into_iter().map(move |s| (key, s)))
    }

    /// One real server of a service.
    pub fn server_of(&self, service: ServiceKey, key: ServerKey) -> Option<Pooled> {
        let service = self.services.get(&service)?;
        let server = service.real().find(|s| s.key == key)?;
        Some(self.pooled(server))
    }

    fn pooled(&self, server: &Server) -> Pooled {
        let tunnel = match self.method(server) {
            ForwardingMethod::DirectRoute => Some(None),
            ForwardingMethod::Tunnel => Some(Some(core_tunnel(server.spec.tunnel))),
            _ => None,
        };
        Pooled {
            key: server.key,
            weights: server.weights,
            way: tunnel.map(|tunnel| Way {
                server: server.key.addr.into(),
                tunnel,
            }),
        }
    }

    /// Where the health of the service's servers puts one of them, and what its checks add to its
    /// weight.
    ///
    /// # Errors
    /// The service or the server is gone.
    pub fn place(
        &mut self,
        service: ServiceKey,
        key: ServerKey,
        place: Place,
        delta: i64,
    ) -> Result<(), Refusal> {
        self.change_weights(service, key, false, |w| {
            (w.place, w.delta) = (place, delta);
        })
    }

    /// Whether the sorry server serves, and where it is while it does not.
    pub fn place_sorry(&mut self, service: ServiceKey, place: Place) {
        let sorry = self.sorry_of(service).map(|s| s.key);
        if let Some(key) = sorry {
            // It is there.
            let _ = self.change_weights(service, key, true, |w| w.place = place);
        }
    }

    /// Ends the connections of a drained server, or lets those that it will have live.
    ///
    /// # Errors
    /// The service or the server is gone.
    pub fn end_connections(
        &mut self,
        service: ServiceKey,
        key: ServerKey,
        over: bool,
    ) -> Result<(), Refusal> {
        self.change_weights(service, key, false, |w| w.over = over)
    }

    fn change_weights(
        &mut self,
        service_key: ServiceKey,
        key: ServerKey,
        is_sorry: bool,
        change: impl FnOnce(&mut Weights),
    ) -> Result<(), Refusal> {
        let service = self
            .services
            .get_mut(&service_key)
            .ok_or_else(|| not_defined(service_key))?;
        let is_it = |s: &&mut Server| s.key == key && s.is_sorry == is_sorry;
        let server = service
            .servers
            .iter_mut()
            .find(is_it)
            .ok_or_else(|| no_server(service_key, key))?;
        let before = server.weights;
        change(&mut server.weights);
        server.weights.settle();
        if server.weights == before {
            return Ok(());
        }
        self.changed.insert(service_key);
        match (before.is_there(), server.weights.is_there()) {
            (true, false) => self.roles.leave_server(service_key, key),
            (false, true) => self.roles.enter_server(service_key, key),
            _ => {}
        }
        Ok(())
    }

    /// Drains a server or ends that.
    pub(super) fn set_state(
        &mut self,
        author: Author,
        service_key: ServiceKey,
        key: ServerKey,
        state: OperatorState,
    ) -> Result<(), Refusal> {
        let service = self
            .services
            .get_mut(&service_key)
            .ok_or_else(|| not_defined(service_key))?;
        let server = service
            .servers
            .iter_mut()
            .find(|s| s.key == key && !s.is_sorry)
            .ok_or_else(|| no_server(service_key, key))?;
        if server.weights.state == state {
            return Ok(());
        }
        server.weights.state = state;
        server.weights.over = false;
        server.weights.settle();
        server.origin = origin_of_edited(author, server.origin);
        self.changed.insert(service_key);
        self.touched.insert(service_key);
        Ok(())
    }

    fn sorry_of(&self, service: ServiceKey) -> Option<&Server> {
        let service = self.services.get(&service)?;
        service.servers.iter().find(|s| s.is_sorry)
    }

    /// Gives a service its sorry server, or takes it away. It is not there before it is placed.
    ///
    /// # Errors
    /// All numbers of real servers are in use.
    pub fn set_sorry(
        &mut self,
        now: Instant,
        service: ServiceKey,
        sorry: Option<&Sorry>,
        counters: Counters<'_>,
    ) -> Result<(), Refusal> {
        let old = self.sorry_of(service);
        let is_same = match (old, sorry) {
            (Some(old), Some(new)) => old.key == new.server && old.spec == new.spec,
            (old, new) => old.is_none() && new.is_none(),
        };
        if is_same || !self.services.contains_key(&service) {
            return Ok(());
        }
        if let Some(key) = old.map(|s| s.key) {
            self.drop_server(now, service, key, true, counters)?;
        }
        let Some(sorry) = sorry else { return Ok(()) };
        if self.server_of(service, sorry.server).is_some() {
            let (what, of) = (describe_server(&sorry.server), describe_service(&service));
            return Err(Refusal::new(
                ErrorKind::ServerExists,
                format!(
                    "the sorry server {what} of {of} is also a server of it; delete that first"
                ),
            ));
        }
        let newcomer = Newcomer {
            key: sorry.server,
            spec: &sorry.spec,
            weights: Weights {
                place: Place::Removed,
                ..Weights::new(sorry.spec.weight, OperatorState::Up)
            },
            origin: Origin::File,
            is_sorry: true,
        };
        self.enter(now, service, newcomer, counters)
    }
}
