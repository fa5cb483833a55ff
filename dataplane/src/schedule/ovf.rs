//! ovf: weighted overflow (`ip_vs_ovf.c`): as fo, among those with no more active connections
//! than their weight. So a destination of weight w gets w + 1.

use super::least::{self, Ratio};
use super::{Loads, Scheduler, Seat, fo};
use crate::service::{Destination, VirtualService};

pub(super) const NAME: &str = "ovf";

pub(super) fn new(service: &VirtualService, _: Seat) -> Box<dyn Scheduler> {
    // All workers fill the same destinations up, in the same order.
    least::new(NAME, service, rate, Seat::alone(0))
}

fn rate(loads: Loads<'_>, dest: &Destination) -> Option<Ratio> {
    fo::rate(loads, dest).filter(|_| loads.active(dest) <= dest.weight)
}

#[cfg(test)]
mod tests {
    use crate::schedule::fixture::Rig;

    #[test]
    fn flows_over_to_the_next_heaviest() {
        let mut rig = Rig::new("ovf", &[(11, 2), (12, 2), (13, 1)]);
        assert_eq!(rig.picks(10), [12, 12, 12, 11, 11, 11, 13, 13, 0, 0]);
        rig.load(11, 2, 3);
        assert_eq!(rig.picks(2), [11, 0]);
    }

    #[test]
    fn inactive_connections_take_no_room() {
        let mut rig = Rig::new("ovf", &[(11, 2), (12, 1)]);
        rig.load(11, 0, 500);
        assert_eq!(rig.pick(), 11);
        rig.overload(11, true);
        assert_eq!(rig.pick(), 12);
        rig.edit(12, 0);
        assert_eq!(rig.pick(), 0);
    }
}
