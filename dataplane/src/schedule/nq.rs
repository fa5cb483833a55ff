//! nq: never queue (`ip_vs_nq.c`): an idle destination at once, the first in the list; otherwise
//! as sed.

use super::least::{self, Ratio};
use super::{Loads, Scheduler, Seat, sed};
use crate::service::{Destination, VirtualService};

pub(super) const NAME: &str = "nq";

pub(super) fn new(service: &VirtualService, seat: Seat) -> Box<dyn Scheduler> {
    least::new(NAME, service, rate, seat)
}

fn rate(loads: Loads<'_>, dest: &Destination) -> Option<Ratio> {
    let ratio = sed::rate(loads, dest)?;
    // No load at all is the same for every weight, so that the list's order decides.
    let load = if loads.active(dest) == 0 {
        0
    } else {
        ratio.load
    };
    Some(Ratio { load, ..ratio })
}

#[cfg(test)]
mod tests {
    use crate::schedule::fixture::Rig;

    #[test]
    fn idle_servers_first_in_list_order() {
        let mut rig = Rig::new("nq", &[(11, 1), (12, 2), (13, 3)]);
        assert_eq!(
            rig.picks(12),
            [13, 12, 11, 13, 13, 12, 13, 12, 13, 13, 12, 11]
        );
        rig.load(11, 0, 50);
        assert_eq!(rig.picks(1), [11]);
    }

    #[test]
    fn connections_that_close_at_once_never_leave_the_first() {
        let mut rig = Rig::new("nq", &[(11, 9), (12, 1)]);
        assert_eq!((rig.pick(), rig.pick()), (12, 12));
        rig.overload(12, true);
        assert_eq!(rig.pick(), 11);
        rig.overload(11, true);
        assert_eq!(rig.pick(), 0);
    }
}
