//! lblc: locality-based least connection (`ip_vs_lblc.c`): a destination address stays with its
//! server until that is too busy, so that caches see the same requests again.

use super::cache::Cache;
use super::locality::Locality;
use super::{Loads, Predecessor, Request, Scheduler, Seat, Watch};
use crate::addr::Endpoint;
use crate::service::VirtualService;
use crate::settings::Settings;
use crate::time::Instant;

pub(super) const NAME: &str = "lblc";

pub(super) fn new(service: &VirtualService, _: Seat) -> Box<dyn Scheduler> {
    Box::new(LocalityBased {
        locality: Locality::new(service),
        cache: Cache::new(),
    })
}

struct LocalityBased {
    locality: Locality,
    /// The server of each address. By endpoint: one that was deleted is found again when it
    /// comes back.
    cache: Cache<Endpoint>,
}

impl Scheduler for LocalityBased {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watch(&self) -> Watch {
        Watch::Counts
    }

    fn start(
        &mut self,
        service: &VirtualService,
        loads: Loads<'_>,
        before: Option<Predecessor<'_>>,
    ) {
        let Some(before) = before.and_then(Predecessor::same::<LocalityBased>) else {
            self.locality.fill(service, loads);
            return;
        };
        let old = before.scheduler;
        self.locality
            .succeed(&mut old.locality, before.kept, service, loads);
        core::mem::swap(&mut self.cache, &mut old.cache);
    }

    fn pick(&mut self, request: &Request<'_>) -> Option<usize> {
        let Request {
            service,
            loads,
            now,
            ..
        } = *request;
        let addr = request.destination();
        self.locality.catch_up(service, loads);
        let cached = self.cache.find(now, &addr, |_| ());
        if let Some(at) = cached.as_deref().and_then(|e| self.locality.position(e)) {
            let dest = service.destinations.get(at)?;
            // The overload flag is not asked for, as in the kernel.
            if dest.weight > 0 && !self.locality.is_busy(dest, loads) {
                return Some(at);
            }
        }
        let at = self.locality.best()?;
        let chosen = service.destinations.get(at)?.endpoint;
        match cached {
            Some(endpoint) => *endpoint = chosen,
            None => self.cache.insert(now, addr, chosen),
        }
        Some(at)
    }

    fn tend(&mut self, now: Instant, settings: &Settings) {
        self.cache.collect(now, settings.lblc_expiration, |_| ());
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use crate::addr::Addr;
    use crate::schedule::fixture::Rig;

    #[test]
    fn an_address_stays_until_its_server_is_busy() {
        let mut rig = Rig::new("lblc", &[(11, 1), (12, 1), (13, 1)]);
        assert_eq!(rig.picks(6), [13, 13, 12, 12, 11, 11]);
        // Nobody is below half of the weight any more.
        assert_eq!(rig.picks(3), [11, 11, 11]);
    }

    #[test]
    fn addresses_are_independent_and_sticky() {
        let mut rig = Rig::new("lblc", &[(11, 10), (12, 10)]);
        let to = |rig: &mut Rig, last| {
            rig.flow.dst = Addr::v4([198, 51, 100, last]);
            rig.picks(1)[0]
        };
        assert_eq!([to(&mut rig, 1), to(&mut rig, 2)], [12, 11]);
        rig.load(11, 9, 900);
        assert_eq!([to(&mut rig, 1), to(&mut rig, 2)], [12, 11]);
        assert_eq!(to(&mut rig, 3), 12);
    }

    #[test]
    fn overload_is_ignored_on_a_hit_but_weight_0_is_not() {
        let mut rig = Rig::new("lblc", &[(11, 10), (12, 10)]);
        assert_eq!(rig.pick(), 12);
        rig.overload(12, true);
        assert_eq!(rig.pick(), 12);
        rig.edit(12, 0);
        assert_eq!(rig.pick(), 11);
        rig.edit(12, 10);
        assert_eq!(rig.pick(), 11, "the entry was replaced");
        rig.edit(11, 0);
        assert_eq!(rig.pick(), 0);
    }

    #[test]
    fn a_deleted_server_is_found_again_if_nobody_took_its_place() {
        let mut rig = Rig::new("lblc", &[(11, 10), (12, 10)]);
        assert_eq!(rig.pick(), 12);
        rig.load(12, 1, 1);
        rig.delete(&[12]);
        rig.add(12, 10);
        assert_eq!(rig.pick(), 12);
        rig.delete(&[12]);
        assert_eq!(rig.pick(), 11);
        rig.add(12, 10);
        assert_eq!(rig.pick(), 11);
    }

    #[test]
    fn entries_are_forgotten_after_their_time() {
        let mut rig = Rig::new("lblc", &[(11, 10), (12, 10)]);
        rig.settings.lblc_expiration = 600;
        assert_eq!(rig.pick(), 12);
        rig.load(12, 2, 2);
        for seconds in [20 * 60, 9 * 60, 32 * 60] {
            rig.wait(Duration::from_secs(seconds));
            if seconds < 1800 {
                assert_eq!(rig.pick(), 12, "in use");
            }
        }
        assert_eq!(rig.pick(), 11);
    }

    #[test]
    fn a_quoted_packet_says_nothing_of_the_service_s_address() {
        let mut rig = Rig::new("lblc", &[(11, 10), (12, 10)]);
        rig.flow.src = Addr::v4([10, 0, 0, 1]);
        rig.is_quoted = true;
        assert_eq!(rig.picks(1), [12]);
        rig.is_quoted = false;
        assert_eq!(rig.picks(1), [11]);
        assert_eq!(rig.picks(1), [11]);
    }
}
