//! Which services steer their clients to one worker, and when a change of that is over.

use dataplane::addr::Endpoint;
use dataplane::route::Prefix;
use dataplane::service::Persistence as CorePersistence;
use dataplane::steering::{Member, Steering};

use crate::api::ServiceKey;

use super::build::{core_key, core_persistence};
use super::{Counters, Model};

/// Looks that every worker takes at its whole table after a change, before it is believed to have
/// no connection where an earlier table had it. The first may have begun while another worker
/// still went by that.
const LOOKS: u64 = 2;

/// The steering that workers have, and what is known about connections that are elsewhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Steered {
    pub(super) now: Steering,
    /// No endpoint is steered, so that one more or less changes nothing of it.
    pub(super) is_plain: bool,
    /// Workers were told of single endpoints since, which `now` does not have.
    pub(super) has_more: bool,
    /// Looks of each worker when `now` was known to be in force.
    looks: Vec<u64>,
    settled: bool,
}

impl Steered {
    /// New rules are on their way to the workers.
    pub(super) fn put(&mut self, steering: Steering) {
        *self = Steered {
            is_plain: steering.is_plain(),
            now: steering,
            ..Steered::default()
        };
    }
}

impl Model {
    /// Where packets of each endpoint meet. One worker has all of them.
    pub(super) fn build_steering(&self) -> Steering {
        if self.limits.workers <= 1 {
            return Steering::default();
        }
        let services = self.services.values().map(|service| {
            let persistence = service.spec.persistence.map(core_persistence);
            let servers = service.servers.iter();
            let servers = servers.map(|s| Endpoint::new(s.key.addr.into(), s.key.port));
            self.member(service.key, persistence.as_ref(), servers)
        });
        let trash = self.trash.iter().map(|(service, server, _)| {
            let server = Endpoint::new(server.addr.into(), server.port);
            self.member(service, None, [server])
        });
        let members: Vec<Member> = services.chain(trash).collect();
        let built = Steering::build(&members).after(&self.steered.now, self.steered.settled);
        match self.steered.has_more {
            true => built.after_unknown(),
            false => built,
        }
    }

    fn member(
        &self,
        key: ServiceKey,
        persistence: Option<&CorePersistence>,
        servers: impl IntoIterator<Item = Endpoint>,
    ) -> Member {
        // Connections outlive the rule that marked them.
        let former = self.former_marks.iter().filter(|(of, _)| *of == key);
        let mut marked: Vec<Prefix> = former.map(|(_, prefix)| *prefix).collect();
        let key = core_key(key);
        if key.mark() != 0 {
            let of_mark = self.mark_rules().filter(|rule| {
                let family = rule.destination.addr().family();
                rule.mark == key.mark() && family == key.family()
            });
            marked.extend(of_mark.map(|rule| rule.destination));
        }
        Member::of_service(&key, persistence, servers, marked)
    }

    /// Notices when no worker has a connection any more where an earlier table had it. Called
    /// so seldom that each has taken its commands meanwhile, or stands still and does not look.
    pub(super) fn settle(&mut self, counters: Counters<'_>) {
        if !self.steered.now.is_unsettled() || self.roles.anew {
            return;
        }
        let looks: Vec<u64> = counters.iter().map(|c| c.stray_looks.get()).collect();
        if self.steered.looks.len() != looks.len() {
            self.steered.looks = looks;
            return;
        }
        let mut both = looks.iter().zip(&self.steered.looks);
        let enough = both.all(|(now, then)| now - then >= LOOKS);
        if enough && counters.iter().all(|c| c.strays.get() == 0) {
            self.steered.settled = true;
            self.roles.start_anew();
        }
    }
}
