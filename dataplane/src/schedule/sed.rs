//! sed: shortest expected delay (`ip_vs_sed.c`): the fewest active connections per weight, this
//! one included.

use super::least::{self, Ratio};
use super::{Loads, Scheduler, Seat};
use crate::service::{Destination, VirtualService};

pub(super) const NAME: &str = "sed";

pub(super) fn new(service: &VirtualService, seat: Seat) -> Box<dyn Scheduler> {
    least::new(NAME, service, rate, seat)
}

/// Also what nq does while nobody is idle.
pub(super) fn rate(loads: Loads<'_>, dest: &Destination) -> Option<Ratio> {
    loads.usable(dest).then(|| Ratio {
        load: u64::from(loads.active(dest)) + 1,
        weight: dest.weight,
    })
}

#[cfg(test)]
mod tests {
    use crate::schedule::fixture::Rig;

    #[test]
    fn a_heavy_server_is_ahead_even_when_all_are_idle() {
        let mut rig = Rig::new("sed", &[(11, 1), (12, 2), (13, 3)]);
        assert_eq!(
            rig.picks(12),
            [13, 12, 13, 13, 12, 11, 13, 12, 13, 13, 12, 11]
        );
    }

    #[test]
    fn inactive_connections_do_not_count() {
        let mut rig = Rig::new("sed", &[(11, 1), (12, 2)]);
        rig.load(12, 0, 1000);
        assert_eq!(rig.pick(), 12);
        rig.load(12, 2, 1000);
        assert_eq!(rig.pick(), 11);
    }

    #[test]
    fn unusable_destinations_are_passed_over() {
        let mut rig = Rig::new("sed", &[(11, 1), (12, 0), (13, 9)]);
        rig.overload(13, true);
        assert_eq!(rig.pick(), 11);
        rig.overload(13, false);
        assert_eq!(rig.pick(), 13);
        rig.edit(11, 0);
        rig.edit(13, 0);
        assert_eq!(rig.pick(), 0);
    }
}
