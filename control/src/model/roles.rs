//! Which endpoints have which role, so that a change costs what it changes and not what there is.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use dataplane::addr::{Endpoint, Family};
use dataplane::helper::ftp;
use dataplane::roles::{self, RoleEntry};
use dataplane::service::Protocol;

use crate::api::{self, ServerKey, ServiceKey};
use crate::update::Update;

use super::Model;
use super::build::{core_protocol, real};

/// Endpoints told one by one; more of them at a time make a new table.
const SINGLY: usize = 64;

/// An IP protocol number and an endpoint.
type Place = (u8, Endpoint);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Roles {
    /// How many real servers there are of each endpoint, deleted ones included.
    reals: HashMap<Place, u32>,
    /// How many of them were not deleted.
    live: HashMap<Place, u32>,
    /// Whose roles may have changed since the workers were told.
    touched: BTreeSet<Place>,
    /// The workers need a new table.
    pub(super) anew: bool,
    /// Endpoints that the workers' table takes more, IPv4 and IPv6.
    room: [usize; 2],
}

impl Default for Roles {
    fn default() -> Roles {
        Roles {
            reals: HashMap::new(),
            live: HashMap::new(),
            touched: BTreeSet::new(),
            anew: true,
            room: [0; 2],
        }
    }
}

impl Roles {
    /// Something changed that many endpoints may depend on: addresses of the host, marks,
    /// persistence.
    pub fn start_anew(&mut self) {
        self.anew = true;
    }

    /// A real server is there that was not, and not among the deleted ones either.
    pub fn add_server(&mut self, service: ServiceKey, server: ServerKey) {
        for place in places(service, server) {
            *self.reals.entry(place).or_default() += 1;
            self.touched.insert(place);
        }
    }

    /// A real server is there that was not, or was deleted.
    pub fn enter_server(&mut self, service: ServiceKey, server: ServerKey) {
        for place in places(service, server) {
            *self.live.entry(place).or_default() += 1;
            self.touched.insert(place);
        }
    }

    /// A real server was deleted; its connections may go on.
    pub fn leave_server(&mut self, service: ServiceKey, server: ServerKey) {
        for place in places(service, server) {
            if let Some(n) = self.live.get_mut(&place) {
                *n -= 1;
                if *n == 0 {
                    self.live.remove(&place);
                }
            }
            self.touched.insert(place);
        }
    }

    /// A deleted real server is forgotten, and its service if that was deleted too.
    pub fn forget_server(&mut self, service: ServiceKey, server: ServerKey) {
        for place in places(service, server) {
            if let Some(n) = self.reals.get_mut(&place) {
                *n -= 1;
                if *n == 0 {
                    self.reals.remove(&place);
                }
            }
            self.touched.insert(place);
        }
        self.touch_service(service);
    }

    /// A service was added or deleted.
    pub fn touch_service(&mut self, service: ServiceKey) {
        match service {
            ServiceKey::Endpoint {
                protocol,
                addr,
                port,
            } => {
                let place = (
                    core_protocol(protocol).number(),
                    Endpoint::new(addr.into(), port),
                );
                self.touched.insert(place);
            }
            // Which addresses may be marked depends on it.
            ServiceKey::Mark { .. } => self.anew = true,
        }
    }

    /// Whether the table has to be made anew.
    fn is_anew(&self) -> bool {
        // What counts for every port is mixed into other entries.
        let is_wide = |(protocol, at): &Place| {
            at.port == 0 || (*protocol == Protocol::Tcp.number() && at.port == ftp::PORT)
        };
        let of = |family| {
            let same = |place: &&Place| place.1.addr.family() == family;
            self.touched.iter().filter(same).count()
        };
        self.anew
            || self.touched.len() > SINGLY
            || self.touched.iter().any(is_wide)
            || of(Family::V4) > self.room[0]
            || of(Family::V6) > self.room[1]
    }
}

fn places(service: ServiceKey, server: ServerKey) -> impl Iterator<Item = Place> {
    real(service, server).map(|e| (e.protocol, e.endpoint))
}

impl Model {
    /// What the workers have to be told of roles.
    pub(super) fn role_updates(&mut self) -> Vec<Update> {
        // Which endpoints are steered may depend on any of them.
        let is_steered = !self.steered.is_plain;
        if self.roles.is_anew() || (is_steered && !self.roles.touched.is_empty()) {
            let table = self.build_roles();
            self.steered.put(table.steering().clone());
            self.roles.anew = false;
            self.roles.touched.clear();
            self.roles.room = table.room();
            return vec![Update::PutRoles(Arc::new(table))];
        }
        let touched = std::mem::take(&mut self.roles.touched);
        self.steered.has_more |= !touched.is_empty();
        let entry = |&(protocol, endpoint): &Place| RoleEntry {
            protocol,
            endpoint,
            roles: self.roles_of(protocol, endpoint),
        };
        let entries: Vec<RoleEntry> = touched.iter().map(entry).collect();
        for e in entries.iter().filter(|e| e.roles != 0) {
            // It may be in the table already; then there is more room than we know of.
            self.roles.room[usize::from(e.endpoint.addr.family() == Family::V6)] -= 1;
        }
        entries.into_iter().map(Update::PutRole).collect()
    }

    fn roles_of(&self, protocol: u8, endpoint: Endpoint) -> u8 {
        let mut found = 0;
        if self.roles.reals.contains_key(&(protocol, endpoint)) {
            found |= roles::REAL;
        }
        if self.roles.live.contains_key(&(protocol, endpoint)) {
            found |= roles::LIVE;
        }
        let api = match Protocol::from_number(protocol) {
            Some(Protocol::Tcp) => api::Protocol::Tcp,
            Some(Protocol::Udp) => api::Protocol::Udp,
            Some(Protocol::Sctp) => api::Protocol::Sctp,
            None => return found,
        };
        let key = ServiceKey::new(api, endpoint.addr.into(), endpoint.port);
        let is_there = self.services.contains_key(&key) || self.trash.has_service(key);
        let vip = self.vip(key).filter(|_| is_there);
        found | vip.map_or(0, |vip| vip.roles)
    }
}
