//! none: a service without a scheduler gives nobody a new connection.

use super::{Loads, Predecessor, Request, Scheduler, Seat};
use crate::service::VirtualService;

pub(super) const NAME: &str = "none";

pub(super) fn new(_: &VirtualService, _: Seat) -> Box<dyn Scheduler> {
    Box::new(NoScheduler)
}

struct NoScheduler;

impl Scheduler for NoScheduler {
    fn name(&self) -> &'static str {
        NAME
    }

    fn start(&mut self, _: &VirtualService, _: Loads<'_>, _: Option<Predecessor<'_>>) {}

    fn pick(&mut self, _: &Request<'_>) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use crate::schedule::fixture::Rig;

    #[test]
    fn nobody_is_chosen() {
        assert_eq!(Rig::new("none", &[(11, 1)]).pick(), 0);
    }
}
