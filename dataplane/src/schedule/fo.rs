//! fo: weighted failover (`ip_vs_fo.c`): the largest weight, the first in the list of equals.

use super::least::{self, Ratio};
use super::{Loads, Scheduler, Seat};
use crate::service::{Destination, VirtualService};

pub(super) const NAME: &str = "fo";

pub(super) fn new(service: &VirtualService, _: Seat) -> Box<dyn Scheduler> {
    // All workers fill the same destinations up, in the same order.
    least::new(NAME, service, rate, Seat::alone(0))
}

/// The same load for all: then the largest weight has the smallest ratio. Also ovf's order.
pub(super) fn rate(loads: Loads<'_>, dest: &Destination) -> Option<Ratio> {
    loads.usable(dest).then_some(Ratio {
        load: 1,
        weight: dest.weight,
    })
}

#[cfg(test)]
mod tests {
    use crate::schedule::fixture::Rig;

    #[test]
    fn everything_goes_to_the_heaviest() {
        let mut rig = Rig::new("fo", &[(11, 5), (12, 5), (13, 1)]);
        assert_eq!(rig.picks(4), [12; 4]);
        rig.overload(12, true);
        assert_eq!(rig.picks(2), [11; 2]);
        rig.edit(13, 6);
        assert_eq!(rig.picks(2), [13; 2]);
        rig.delete(&[13]);
        rig.edit(11, 0);
        assert_eq!(rig.picks(1), [0]);
        rig.overload(12, false);
        assert_eq!(rig.picks(1), [12]);
    }
}
