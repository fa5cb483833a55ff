//! The servers of one service as a pool: carries what [`healthcheck::pool`] decides to the model.

use std::collections::BTreeMap;

use healthcheck::pool::{Action, Index, Member, Quorum};

use super::spec::Pool;
use super::{Event, Report};
use crate::api::{PoolView, ServerKey, ServiceKey, SorryView};
use crate::model::{Model, Place, Pooled};

/// See the module.
pub(super) struct Followed {
    service: ServiceKey,
    spec: Pool,
    /// In the order of the pool's members.
    servers: Vec<ServerKey>,
    index: BTreeMap<ServerKey, Index>,
    /// `None` before the first [`Followed::reload`].
    pool: Option<healthcheck::pool::Pool>,
    suspended: bool,
}

/// What a server is to its pool. One that nobody checks lives.
fn member(spec: &Pool, server: &Pooled, state: Option<&Report>) -> Member {
    let weights = server.weights.with_delta(state.map_or(0, |s| s.delta));
    Member {
        alive: state.is_none_or(|s| s.alive),
        weight: weights.living(),
        configured: weights.configured,
        inhibit: spec.inhibits(server.key),
    }
}

impl Followed {
    pub(super) fn new(service: ServiceKey) -> Followed {
        Followed {
            service,
            spec: Pool::default(),
            servers: Vec::new(),
            index: BTreeMap::new(),
            pool: None,
            suspended: false,
        }
    }

    /// Takes the servers as they are now, and how they stand. `sorry`: there is a sorry server.
    pub(super) fn reload<'a>(
        &mut self,
        model: &mut Model,
        spec: &Pool,
        sorry: bool,
        servers: Vec<Pooled>,
        state: impl Fn(ServerKey) -> Option<&'a Report>,
        events: &mut Vec<Event>,
    ) {
        if self.spec.omega {
            let left = self.servers.iter().filter(|key| {
                let stays = servers.iter().any(|s| s.key == **key);
                !stays && self.is_up(**key)
            });
            let left: Vec<Event> = left.map(|key| self.left(*key)).collect();
            events.extend(left);
        }
        self.spec = spec.clone();
        let quorum = Quorum {
            quorum: spec.quorum,
            hysteresis: spec.hysteresis,
            sorry,
        };
        let members = servers.iter().map(|server| {
            let before = self.index.get(&server.key).copied();
            (member(spec, server, state(server.key)), before)
        });
        let members: Vec<(Member, Option<Index>)> = members.collect();
        self.servers = servers.iter().map(|s| s.key).collect();
        self.index = (0..).zip(&self.servers).map(|(i, key)| (*key, i)).collect();
        let mut actions = Vec::new();
        match &mut self.pool {
            Some(pool) => pool.reload(quorum, &members, &mut actions),
            None => {
                let members = members.into_iter().map(|(member, _)| member).collect();
                let pool = healthcheck::pool::Pool::new(quorum, members, &mut actions);
                self.pool = Some(pool);
            }
        }
        self.tell(&actions, &state, events);
        for index in 0..self.servers.len() {
            self.place(model, index, &state);
        }
        self.place_sorry(model);
    }

    /// Takes how one of the servers stands now.
    pub(super) fn take(
        &mut self,
        model: &mut Model,
        server: ServerKey,
        state: &Report,
        events: &mut Vec<Event>,
    ) {
        let found = self.index.get(&server).copied();
        let (Some(index), Some(pooled), Some(pool)) = (
            found,
            model.server_of(self.service, server),
            self.pool.as_mut(),
        ) else {
            return;
        };
        let mut actions = Vec::new();
        pool.set(
            index,
            member(&self.spec, &pooled, Some(state)),
            &mut actions,
        );
        // Another delta may be all that is new.
        let of = |key| (key == server).then_some(state);
        self.place(model, index, &of);
        for action in &actions {
            match *action {
                Action::Put(i, _) | Action::Inhibit(i) | Action::Rest(i) | Action::Remove(i)
                    if i != index =>
                {
                    self.replace(model, i);
                }
                Action::Sorry(_) => self.place_sorry(model),
                _ => {}
            }
        }
        self.tell(&actions, of, events);
    }

    /// Where the pool has a server.
    fn place_of(&self, index: Index) -> Place {
        let leave = self.spec.reschedule;
        let pool = self.pool.as_ref();
        match pool.and_then(|pool| pool.placed(index)) {
            Some(Action::Inhibit(_)) => Place::Failed { leave },
            Some(Action::Rest(_)) => Place::Rests { leave },
            Some(Action::Remove(_)) => Place::Removed,
            _ => Place::Serves,
        }
    }

    fn place<'a>(
        &self,
        model: &mut Model,
        index: Index,
        state: &impl Fn(ServerKey) -> Option<&'a Report>,
    ) {
        if let Some(key) = self.servers.get(index) {
            let delta = state(*key).map_or(0, |s| s.delta);
            // It may be gone since; then its service is followed anew.
            let _ = model.place(self.service, *key, self.place_of(index), delta);
        }
    }

    /// As [`Followed::place`] with the delta that it has.
    fn replace(&self, model: &mut Model, index: Index) {
        let key = self.servers.get(index).copied();
        if let Some(server) = key.and_then(|key| model.server_of(self.service, key)) {
            let delta = server.weights.delta;
            let _ = model.place(self.service, server.key, self.place_of(index), delta);
        }
    }

    fn place_sorry(&self, model: &mut Model) {
        let Some(sorry) = &self.spec.sorry else {
            return;
        };
        let serves = self.pool.as_ref().is_some_and(|p| p.sorry_serves());
        let leave = self.spec.reschedule;
        let place = match (serves, sorry.inhibit) {
            (true, _) => Place::Serves,
            (false, true) => Place::Rests { leave },
            (false, false) => Place::Removed,
        };
        model.place_sorry(self.service, place);
    }

    fn tell<'a>(
        &self,
        actions: &[Action],
        state: impl Fn(ServerKey) -> Option<&'a Report>,
        events: &mut Vec<Event>,
    ) {
        let Some(pool) = &self.pool else { return };
        let sorry = self.spec.sorry.as_ref().map(|s| s.server);
        let service = self.service;
        events.extend(actions.iter().filter_map(|action| match *action {
            Action::Server(index, up) => {
                let server = *self.servers.get(index)?;
                let report = state(server).filter(|_| !up);
                let why = report.and_then(|s| s.checks.iter().find_map(|c| c.failure.clone()));
                Some(Event::Server {
                    service,
                    server,
                    up,
                    why,
                })
            }
            Action::Quorum(up, weight) => Some(Event::Quorum {
                service,
                up,
                weight,
                quorum: pool.needs().quorum,
                sorry: sorry.filter(|_| pool.sorry_serves()),
            }),
            _ => None,
        }));
    }

    fn is_up(&self, server: ServerKey) -> bool {
        let index = self.index.get(&server).copied();
        let placed = index.and_then(|i| self.pool.as_ref()?.placed(i));
        matches!(placed, Some(Action::Put(..) | Action::Rest(_)))
    }

    fn left(&self, server: ServerKey) -> Event {
        Event::Server {
            service: self.service,
            server,
            up: false,
            why: Some("it was taken out".to_owned()),
        }
    }

    /// The service is not pooled any more, or the daemon ends.
    pub(super) fn retire(self, model: &mut Model, events: &mut Vec<Event>) {
        if self.spec.omega {
            let up = self.servers.iter().filter(|key| self.is_up(**key));
            events.extend(up.map(|key| self.left(*key)));
            if let Some(pool) = self.pool.as_ref().filter(|pool| pool.has_quorum()) {
                events.push(Event::Quorum {
                    service: self.service,
                    up: false,
                    weight: 0,
                    quorum: pool.needs().quorum,
                    sorry: None,
                });
            }
        }
        for key in &self.servers {
            // Nothing speaks against it any more. It may also be gone altogether.
            let _ = model.place(self.service, *key, Place::Serves, 0);
        }
    }

    /// Whether checks wait until this host holds the address.
    pub(super) fn waits_for_address(&self) -> bool {
        self.spec.ha_suspend
    }

    /// Whether that is new.
    pub(super) fn set_suspended(&mut self, suspended: bool) -> bool {
        std::mem::replace(&mut self.suspended, suspended) != suspended
    }

    /// As listed.
    pub(super) fn view(&self) -> PoolView {
        let pool = self.pool.as_ref();
        let sorry = self.spec.sorry.as_ref();
        PoolView {
            service: self.service,
            quorum: pool.map_or(0, |p| p.needs().quorum),
            hysteresis: self.spec.hysteresis,
            weight: pool.map_or(0, |p| p.live_weight()),
            has_quorum: pool.is_some_and(|p| p.has_quorum()),
            sorry: sorry.map(|s| SorryView {
                server: s.server,
                serves: pool.is_some_and(|p| p.sorry_serves()),
            }),
            suspended: self.suspended,
        }
    }
}
