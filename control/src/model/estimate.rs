//! Statistics of services and servers.

use std::collections::BTreeMap;
use std::ops::{Add, Bound};
use std::sync::Arc;

use dataplane::counters::WorkerCounters;
use serde::{Deserialize, Serialize};

use crate::api;
use crate::api::{ServerKey, ServiceKey};
use crate::stats::{Counts, Estimator};

use super::change::no_service;
use super::{Counters, Model, Refusal, Service};

/// Servers looked at in one go: requests wait meanwhile.
const SHARE: usize = 4096;

/// Statistics on the way to a process that goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    total: Estimator,
    services: Vec<ServiceStatistics>,
}

/// Those of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ServiceStatistics {
    service: ServiceKey,
    own: Estimator,
    servers: Vec<(ServerKey, Estimator)>,
}

/// How far the snapshots of a period have been taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Estimation {
    /// All of them.
    #[default]
    Idle,
    /// Those up to this service.
    Services(Option<ServiceKey>),
    /// Those of services, and for the total those of destinations below this id.
    Total(u32, Counts),
}

impl Model {
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
    /// everything shown stays as it is. The work is [`Model::estimate_some`]'s.
    pub fn estimate(&mut self) {
        if self.settings.run_estimation && self.estimation == Estimation::Idle {
            self.estimation = Estimation::Services(None);
        }
    }

    /// Takes some of the snapshots that are due; true if there is more to do.
    pub fn estimate_some(&mut self, counters: Counters<'_>) -> bool {
        self.estimation = match self.estimation {
            Estimation::Idle => Estimation::Idle,
            Estimation::Services(after) => self.estimate_services(after, counters),
            Estimation::Total(from, sum) => self.estimate_total(from, sum, counters),
        };
        self.estimation != Estimation::Idle
    }

    fn estimate_services(
        &mut self,
        after: Option<ServiceKey>,
        counters: Counters<'_>,
    ) -> Estimation {
        let mut left = SHARE;
        let rest = (
            after.map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Unbounded,
        );
        for (key, service) in self.services.range_mut::<ServiceKey, _>(rest) {
            let mut total = service.removed;
            for server in &mut service.servers {
                let raw = Counts::of_dest(counters.iter().map(|c| &**c), server.id);
                server.estimator.tick(raw - server.base);
                total += raw - server.joined;
            }
            service.estimator.tick(total);
            left = left.saturating_sub(1 + service.servers.len());
            if left == 0 {
                return Estimation::Services(Some(*key));
            }
        }
        Estimation::Total(0, Counts::default())
    }

    fn estimate_total(&mut self, from: u32, mut sum: Counts, counters: Counters<'_>) -> Estimation {
        let to = self.dest_ids.used().min(from + SHARE as u32);
        for worker in counters {
            sum += Counts::of_worker(worker, from..to);
        }
        if to < self.dest_ids.used() {
            return Estimation::Total(to, sum);
        }
        self.total.tick(sum);
        Estimation::Idle
    }

    /// Statistics for a process that goes on, once the workers count no more.
    pub fn hand_over_statistics(&self, counters: Counters<'_>) -> Statistics {
        let of = |id| Counts::of_dest(counters.iter().map(|c| &**c), id);
        let service = |service: &Service| {
            let mut total = service.removed;
            let servers = service.servers.iter().rev().map(|server| {
                let raw = of(server.id);
                total += raw - server.joined;
                let estimator = server.estimator.handed_over(raw - server.base);
                (server.key, estimator)
            });
            let servers = servers.collect();
            ServiceStatistics {
                service: service.key,
                own: service.estimator.handed_over(total),
                servers,
            }
        };
        let ids = 0..self.dest_ids.used();
        let all = counters.iter().map(|c| Counts::of_worker(c, ids.clone()));
        Statistics {
            total: self
                .total
                .handed_over(all.fold(Counts::default(), Add::add)),
            services: self.services.values().map(service).collect(),
        }
    }

    /// Goes on with the statistics of the process before; what is not there any more is passed
    /// over.
    pub fn inherit_statistics(&mut self, statistics: &Statistics) {
        self.total = statistics.total;
        for from in &statistics.services {
            let Some(service) = self.services.get_mut(&from.service) else {
                continue;
            };
            service.estimator = from.own;
            let kept: BTreeMap<_, _> = from.servers.iter().copied().collect();
            for server in &mut service.servers {
                if let Some(estimator) = kept.get(&server.key) {
                    server.estimator = *estimator;
                }
            }
        }
    }

    /// The answer to `rvsadm stats`.
    pub fn stats(&self, counters: Counters<'_>) -> api::Response {
        let raw = |worker: &Arc<WorkerCounters>| {
            api::Stats::from(Counts::of_worker(worker, 0..self.dest_ids.used()))
        };
        api::Response::Stats {
            total: self.total.totals(),
            rates: self.total.rates(),
            workers: counters.iter().map(raw).collect(),
        }
    }
}
