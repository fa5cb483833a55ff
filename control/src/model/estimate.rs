//! Statistics of services and servers.

use std::sync::Arc;

use dataplane::counters::WorkerCounters;

use crate::api;
use crate::api::ServiceKey;
use crate::stats::Counts;

use super::change::no_service;
use super::{Counters, Model, Refusal};

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
}
