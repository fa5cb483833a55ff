//! twos: power of two choices (`ip_vs_twos.c`): two destinations drawn by weight, of which the
//! one with the smaller overhead per weight is taken.

use super::least::Ratio;
use super::usable::Usable;
use super::{Loads, Predecessor, Request, Scheduler, Seat, Watch, wlc};
use crate::service::VirtualService;

pub(super) const NAME: &str = "twos";

pub(super) fn new(service: &VirtualService, seat: Seat) -> Box<dyn Scheduler> {
    Box::new(TwoChoices {
        usable: Usable::new(service),
        random: Random(seat.seed),
    })
}

struct TwoChoices {
    usable: Usable<u64>,
    random: Random,
}

/// SplitMix64 (Steele, Lea and Flood 2014): a counter that is mixed well.
struct Random(u64);

impl Random {
    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * u128::from(bound)) >> 64) as u64
    }
}

impl Scheduler for TwoChoices {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watch(&self) -> Watch {
        Watch::Usable
    }

    fn start(
        &mut self,
        service: &VirtualService,
        loads: Loads<'_>,
        before: Option<Predecessor<'_>>,
    ) {
        match before.and_then(Predecessor::same::<TwoChoices>) {
            Some(old) => {
                let usable = &mut old.scheduler.usable;
                self.usable.succeed(usable, old.kept, service, loads);
            }
            None => self.usable.fill(service, loads),
        }
    }

    fn pick(&mut self, request: &Request<'_>) -> Option<usize> {
        let Request { service, loads, .. } = *request;
        let weights = self.usable.catch_up(service, loads);
        let sum = weights.root();
        if sum == 0 {
            return None;
        }
        // 0 is drawn too and goes to the first in the list, as 1 does.
        let [first, second] = [(); 2].map(|()| {
            let mut left = self.random.below(sum + 1).max(1);
            weights.find(|half| {
                let is_in = left <= half;
                if !is_in {
                    left -= half;
                }
                is_in
            })
        });
        let ratio =
            |at: usize| -> Option<Ratio> { wlc::rate(loads, service.destinations.get(at)?) };
        Some(if ratio(second)?.is_less(ratio(first)?) {
            second
        } else {
            first
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::schedule::fixture::Rig;

    /// How often each of 11, 12, 13 is chosen in 60,000 draws, while the loads stay.
    fn counts(rig: &mut Rig) -> [i32; 3] {
        let mut counts = [0; 3];
        for _ in 0..60_000 {
            counts[rig.pick() as usize - 11] += 1;
        }
        counts
    }

    fn close(got: [i32; 3], expected: [i32; 3]) {
        // Four standard deviations are below 500.
        let near = got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 500);
        assert!(near, "{got:?} is not near {expected:?}");
    }

    #[test]
    fn equal_loads_are_drawn_by_weight() {
        let mut rig = Rig::new("twos", &[(11, 100), (12, 200), (13, 300)]);
        close(counts(&mut rig), [10_000, 20_000, 30_000]);
    }

    #[test]
    fn the_less_loaded_of_two_is_taken() {
        let mut rig = Rig::new("twos", &[(11, 100), (12, 100), (13, 100)]);
        rig.load(11, 0, 5);
        rig.load(12, 1, 1);
        // 13 whenever it is drawn, 5 of 9; 12 only when drawn twice, 1 of 9.
        close(counts(&mut rig), [20_000, 6_667, 33_333]);
    }

    #[test]
    fn zero_makes_the_first_of_the_list_a_little_more_likely() {
        let mut rig = Rig::new("twos", &[(11, 1), (12, 1), (13, 1)]);
        close(counts(&mut rig), [15_000, 15_000, 30_000]);
    }

    #[test]
    fn unusable_destinations_are_not_drawn() {
        let mut rig = Rig::new("twos", &[(11, 10), (12, 10), (13, 0)]);
        assert_eq!(counts(&mut rig)[2], 0);
        rig.overload(12, true);
        assert_eq!(counts(&mut rig), [60_000, 0, 0]);
        rig.overload(11, true);
        assert_eq!(rig.pick(), 0);
    }
}
