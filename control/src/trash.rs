//! Deleted destinations that connections may still be bound to.
//!
//! A destination that comes back to the same service gets its old id, so its connections and
//! counters go on (`ipvs-semantics.md`, 3.8). An id is free again when a scan found no
//! connection and [`GRACE`] has passed since.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use dataplane::service::{DestId, ServiceId};
use dataplane::time::Instant;

use crate::api::{ServerKey, ServiceKey};
use crate::stats::{Counts, Estimator};

/// Time between two scans.
pub const SCAN_PERIOD: Duration = Duration::from_secs(60);

/// How long a destination without connections is kept.
pub const GRACE: Duration = Duration::from_secs(120);

/// What is kept of a deleted destination.
#[derive(Clone, Debug)]
pub struct Trashed {
    /// Its id.
    pub id: DestId,
    /// The service object it was in; statistics go on only if it is the same one.
    pub service: ServiceId,
    /// Its address and port.
    pub server: ServerKey,
    /// What it had counted.
    pub counted: Counts,
    /// Its last weight that was not 0.
    pub last_weight: u32,
    /// Its snapshot and rates.
    pub estimator: Estimator,
}

/// A destination that is forgotten: its id is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// Its id.
    pub id: DestId,
    /// The service it was in.
    pub service: ServiceKey,
    /// Its address and port.
    pub server: ServerKey,
}

#[derive(Clone, Debug)]
struct Entry {
    trashed: Trashed,
    since: Instant,
    /// When a scan first found it without connections.
    unused: Option<Instant>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Trash {
    entries: BTreeMap<(ServiceKey, ServerKey), Entry>,
}

impl Trash {
    /// Keeps a deleted destination.
    pub fn put(&mut self, now: Instant, service: ServiceKey, trashed: Trashed) {
        let key = (service, trashed.server);
        self.entries.insert(
            key,
            Entry {
                trashed,
                since: now,
                unused: None,
            },
        );
    }

    /// Takes a destination out that is added again.
    pub fn revive(&mut self, service: ServiceKey, server: ServerKey) -> Option<Trashed> {
        self.entries
            .remove(&(service, server))
            .map(|entry| entry.trashed)
    }

    /// Stamps what has become unused and takes out what has been so for [`GRACE`].
    pub fn scan(&mut self, now: Instant, is_unused: impl Fn(DestId) -> bool) -> Vec<Forgotten> {
        let mut freed = Vec::new();
        self.entries.retain(|&(service, server), entry| {
            if !is_unused(entry.trashed.id) {
                entry.unused = None;
                return true;
            }
            let since = *entry.unused.get_or_insert(now);
            if now.since(since) < GRACE {
                return true;
            }
            freed.push(Forgotten {
                id: entry.trashed.id,
                service,
                server,
            });
            false
        });
        freed
    }

    /// For want of ids: takes out the unused destination that was deleted longest ago, if that
    /// was at least `age` ago.
    pub fn reclaim(
        &mut self,
        now: Instant,
        age: Duration,
        is_unused: impl Fn(DestId) -> bool,
    ) -> Option<Forgotten> {
        let key = self
            .entries
            .iter()
            .filter(|(_, e)| now.since(e.since) >= age && is_unused(e.trashed.id))
            .min_by_key(|(_, e)| e.since)
            .map(|(key, _)| *key)?;
        let entry = self.entries.remove(&key)?;
        Some(Forgotten {
            id: entry.trashed.id,
            service: key.0,
            server: key.1,
        })
    }

    /// Whether a destination of this service is in it.
    pub fn has_service(&self, service: ServiceKey) -> bool {
        let first = ServerKey {
            addr: IpAddr::from([0; 4]),
            port: 0,
        };
        let mut from = self.entries.range((service, first)..);
        from.next().is_some_and(|((found, _), _)| *found == service)
    }

    /// All of it.
    pub fn iter(&self) -> impl Iterator<Item = (ServiceKey, ServerKey, &Trashed)> {
        self.entries
            .iter()
            .map(|((service, server), e)| (*service, *server, &e.trashed))
    }
}
