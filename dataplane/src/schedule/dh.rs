//! dh: destination hashing (`ip_vs_dh.c`). Weights only tell whether a destination is used.

use super::hash::hash_32;
use super::{Loads, Predecessor, Request, Scheduler, Seat};
use crate::service::VirtualService;

pub(super) const NAME: &str = "dh";

/// Logarithm of the table's size (`CONFIG_IP_VS_DH_TAB_BITS`).
const BITS: u32 = 8;

pub(super) fn new(service: &VirtualService, _: Seat) -> Box<dyn Scheduler> {
    Box::new(DestinationHashing {
        count: service.destinations.len(),
    })
}

/// The kernel fills its buckets with the list, over and over: bucket `i` is the destination at
/// `i` modulo their number, which needs no table.
struct DestinationHashing {
    count: usize,
}

impl Scheduler for DestinationHashing {
    fn name(&self) -> &'static str {
        NAME
    }

    fn start(&mut self, _: &VirtualService, _: Loads<'_>, _: Option<Predecessor<'_>>) {}

    fn pick(&mut self, request: &Request<'_>) -> Option<usize> {
        let bucket = hash_32(request.destination().fold(), BITS) as usize;
        let at = bucket.checked_rem(self.count)?;
        let dest = request.service.destinations.get(at)?;
        request.loads.usable(dest).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use crate::addr::Addr;
    use crate::schedule::fixture::Rig;

    #[test]
    fn the_address_decides_and_nobody_steps_in() {
        let mut rig = Rig::new("dh", &[(11, 1), (12, 7), (13, 1)]);
        rig.flow.dst = Addr::v4([10, 0, 0, 100]);
        assert_eq!(rig.picks(2), [11, 11]);
        rig.overload(11, true);
        assert_eq!(rig.pick(), 0);
        rig.overload(11, false);
        rig.edit(11, 0);
        assert_eq!(rig.pick(), 0);
        // Bucket 248 of two destinations is the first.
        rig.delete(&[11]);
        assert_eq!(rig.pick(), 13);
        rig.delete(&[12, 13]);
        assert_eq!(rig.pick(), 0);
    }

    /// As live comparisons with the kernel showed.
    #[test]
    fn of_a_quoted_packet_the_client_decides() {
        let mut rig = Rig::new("dh", &[(11, 1), (12, 7), (13, 1)]);
        rig.flow.src = Addr::v4([10, 0, 0, 100]);
        rig.flow.dst = Addr::v4([198, 51, 100, 1]);
        assert_ne!(rig.pick(), 11);
        rig.is_quoted = true;
        assert_eq!(rig.pick(), 11);
    }

    #[test]
    fn all_addresses_spread_evenly() {
        let mut rig = Rig::new("dh", &[(11, 1), (12, 7), (13, 1)]);
        let mut got = [0; 3];
        for n in 0..=255 {
            rig.flow.dst = Addr::v4([198, 51, 100, n]);
            got[rig.pick() as usize - 11] += 1;
        }
        assert!(got.iter().all(|&n| (75..=96).contains(&n)), "{got:?}");
    }
}
