//! wlc: weighted least connection (`ip_vs_wlc.c`): the smallest overhead per weight.

use super::least::{self, Ratio};
use super::{Loads, Scheduler, Seat};
use crate::service::{Destination, VirtualService};

pub(super) const NAME: &str = "wlc";

pub(super) fn new(service: &VirtualService, seat: Seat) -> Box<dyn Scheduler> {
    least::new(NAME, service, rate, seat)
}

/// Also the base choice of lblc and lblcr.
pub(super) fn rate(loads: Loads<'_>, dest: &Destination) -> Option<Ratio> {
    loads.usable(dest).then(|| Ratio {
        load: loads.overhead(dest),
        weight: dest.weight,
    })
}

#[cfg(test)]
mod tests {
    use crate::schedule::fixture::Rig;

    #[test]
    fn follows_the_weights() {
        let mut rig = Rig::new("wlc", &[(11, 1), (12, 2), (13, 3)]);
        assert_eq!(
            rig.picks(12),
            [13, 12, 11, 13, 12, 13, 13, 12, 11, 13, 12, 13]
        );
    }

    #[test]
    fn inactive_connections_count_too() {
        let mut rig = Rig::new("wlc", &[(11, 1), (12, 2)]);
        rig.load(12, 0, 4);
        rig.load(11, 0, 2);
        assert_eq!(rig.pick(), 12);
        rig.load(12, 0, 5);
        assert_eq!(rig.pick(), 11);
    }

    #[test]
    fn unusable_destinations_are_passed_over() {
        let mut rig = Rig::new("wlc", &[(11, 1), (12, 0), (13, 1)]);
        rig.load(11, 5, 5);
        rig.overload(13, true);
        assert_eq!(rig.pick(), 11);
        rig.edit(11, 0);
        assert_eq!(rig.pick(), 0);
        rig.edit(12, u32::MAX);
        rig.load(12, u32::MAX, u32::MAX);
        assert_eq!(rig.pick(), 12);
    }
}
