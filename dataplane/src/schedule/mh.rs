//! mh: Maglev hashing (`ip_vs_mh.c`): destinations take turns in claiming slots, each in an
//! order of its own, so that few clients move when one comes or goes.

use super::hash::{self, hsiphash};
use super::usable::Usable;
use super::{Loads, Predecessor, Request, Scheduler, Seat, Watch};
use crate::addr::{Endpoint, Family};
use crate::service::{Destination, VirtualService};

pub(super) const NAME: &str = "mh";

/// Slots: the prime of `CONFIG_IP_VS_MH_TAB_INDEX` 12.
pub const SLOTS: usize = 4093;
const SLOTS_U32: u32 = SLOTS as u32;
/// Bits of a weight that count: half the index.
const WEIGHT_BITS: u32 = 6;
const KEY_1: u64 = 2_654_435_761;
const KEY_2: u64 = 2_654_446_892;
/// A slot of nobody.
const NOBODY: u32 = u32::MAX;

pub(super) fn new(service: &VirtualService, _: Seat) -> Box<dyn Scheduler> {
    Box::new(Maglev {
        table: populate(service.key.family(), &service.destinations),
        usable: Usable::new(service),
    })
}

struct Maglev {
    /// List positions by slot.
    table: Box<[u32]>,
    /// To know when looking any further is in vain.
    usable: Usable<u32>,
}

/// How many slots a destination claims when it is its turn, from the last weight that was not 0:
/// a server that is taken out keeps its slots (`ip_vs_mh_gcd_weight`, `ip_vs_mh_shift_weight`).
fn turns(dests: &[Destination]) -> impl Fn(&Destination) -> u32 {
    let weights = || dests.iter().map(|d| d.last_weight);
    let gcd = weights().fold(0, super::gcd).max(1);
    let largest = weights().max().unwrap_or(0) / gcd;
    let shift = (32 - largest.leading_zeros()).saturating_sub(WEIGHT_BITS);
    move |dest| match dest.last_weight {
        0 => 0,
        weight => ((weight / gcd) >> shift).max(1),
    }
}

/// The order in which a destination wants the slots: where it begins and how far it steps.
fn wishes(family: Family, dest: &Destination) -> (u32, u32) {
    let Endpoint { addr, port } = dest.endpoint;
    let folded = match (family, addr.family()) {
        // The kernel reads the address as one of the service's family: its first word.
        (Family::V4, Family::V6) => {
            let [a, b, c, d, ..] = addr.octets();
            u32::from_be_bytes([a, b, c, d])
        }
        _ => addr.fold(),
    };
    let own = folded.wrapping_add(u32::from(port));
    let start = hsiphash(own, KEY_1) % SLOTS_U32;
    let skip = hsiphash(own, KEY_2) % (SLOTS_U32 - 1) + 1;
    (start, skip)
}

/// Fills the table (`ip_vs_mh_populate`).
fn populate(family: Family, dests: &[Destination]) -> Box<[u32]> {
    let mut table = vec![NOBODY; SLOTS].into_boxed_slice();
    let turns = turns(dests);
    // Position, next slot wanted, step, turns. Those without a turn never claim a slot.
    let mut claims: Vec<(u32, u32, u32, u32)> = (0..)
        .zip(dests)
        .map(|(at, d)| {
            let (start, skip) = wishes(family, d);
            (at, start, skip, turns(d))
        })
        .filter(|&(.., turns)| turns > 0)
        .collect();
    let mut free = if claims.is_empty() { 0 } else { SLOTS };
    while free > 0 {
        for (at, slot, skip, turns) in &mut claims {
            for _ in 0..(*turns as usize).min(free) {
                while table[*slot as usize] != NOBODY {
                    *slot = (*slot + *skip) % SLOTS_U32;
                }
                table[*slot as usize] = *at;
                free -= 1;
            }
        }
    }
    table
}

impl Maglev {
    /// As in sh: the owner of the slot of a hashed value.
    fn owner(&self, request: &Request<'_>, value: u32) -> Result<usize, bool> {
        let slot = (hsiphash(value, KEY_1) % SLOTS_U32) as usize;
        let at = self.table.get(slot).map_or(usize::MAX, |&at| at as usize);
        match request.service.destinations.get(at) {
            None => Err(true),
            Some(d) if request.loads.usable(d) => Ok(at),
            Some(_) => Err(false),
        }
    }
}

impl Scheduler for Maglev {
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
        match before.and_then(Predecessor::same::<Maglev>) {
            Some(old) => {
                let usable = &mut old.scheduler.usable;
                self.usable.succeed(usable, old.kept, service, loads);
            }
            None => self.usable.fill(service, loads),
        }
    }

    fn pick(&mut self, request: &Request<'_>) -> Option<usize> {
        let service = request.service;
        let client = hash::client(service, request.flow);
        let found = self.owner(request, client);
        if found != Err(false) || !service.options.flags.fallback {
            return found.ok();
        }
        if self.usable.catch_up(service, request.loads).root() == 0 {
            return None;
        }
        let home = hsiphash(client, KEY_1) % SLOTS_U32;
        (0..SLOTS_U32)
            .map(|offset| client.wrapping_add((offset + home) % SLOTS_U32))
            .map(|value| self.owner(request, value))
            .find(|found| *found != Err(false))
            .and_then(Result::ok)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::addr::Addr;
    use crate::schedule::fixture::{Rig, dest};

    /// Choices for clients 10.0.1.2 and so on.
    fn clients(rig: &mut Rig) -> Vec<u32> {
        (2..42)
            .map(|last| {
                rig.flow.src = Addr::v4([10, 0, 1, last]);
                rig.pick()
            })
            .collect()
    }

    fn rig(weights: [u32; 3]) -> Rig {
        let [a, b, c] = weights;
        let mut rig = Rig::new("mh", &[(11, a), (12, b), (13, c)]);
        rig.change(|dests| dests.iter_mut().for_each(|d| d.endpoint.port = 8080));
        rig
    }

    fn slots(dests: &[Destination]) -> Vec<usize> {
        let table = populate(Family::V4, dests);
        let of = |at| table.iter().filter(|&&owner| owner == at).count();
        (0..dests.len() as u32).map(of).collect()
    }

    #[test]
    fn permutations_of_the_kernel() {
        let wishes = |number| {
            let mut dest = dest(number, 1);
            dest.endpoint.port = 8080;
            wishes(Family::V4, &dest)
        };
        assert_eq!(wishes(11), (1105, 690));
        assert_eq!(wishes(12), (992, 3634));
        assert_eq!(wishes(13), (2099, 3377));
    }

    #[test]
    fn slots_of_the_kernel() {
        assert_eq!(
            slots(&rig([1, 2, 3]).service.destinations),
            [2047, 1364, 682]
        );
        assert_eq!(
            slots(&rig([4, 4, 4]).service.destinations),
            [1365, 1364, 1364]
        );
        assert_eq!(slots(&rig([0, 0, 0]).service.destinations), [0, 0, 0]);
    }

    #[test]
    fn choices_of_the_kernel() {
        let chosen = [
            11, 12, 13, 13, 12, 11, 13, 12, 12, 13, 12, 12, 12, 12, 13, 11, 11, 12, 13, 12, 13, 13,
            13, 12, 13, 13, 13, 12, 13, 11, 11, 13, 13, 12, 11, 13, 12, 12, 11, 13,
        ];
        assert_eq!(clients(&mut rig([1, 2, 3])), chosen);
        let equal = [
            11, 12, 12, 13, 12, 11, 13, 12, 11, 13, 12, 12, 12, 12, 13, 11, 11, 12, 12, 11, 13, 12,
            13, 12, 13, 13, 13, 12, 13, 11, 11, 11, 11, 12, 11, 11, 12, 11, 11, 13,
        ];
        let mut rig = rig([1, 1, 1]);
        assert_eq!(clients(&mut rig), equal);
        rig.edit(12, 0);
        let refused = equal.map(|c| if c == 12 { 0 } else { c });
        assert_eq!(clients(&mut rig), refused, "its slots stay its own");
        rig.service.options.flags.fallback = true;
        let fallback = [
            11, 13, 11, 13, 11, 11, 13, 11, 11, 13, 13, 11, 13, 11, 13, 11, 11, 11, 11, 11, 13, 11,
            13, 11, 13, 13, 13, 11, 13, 11, 11, 11, 11, 11, 11, 11, 13, 11, 11, 13,
        ];
        assert_eq!(clients(&mut rig), fallback);
        for number in [11, 13] {
            rig.overload(number, true);
        }
        assert_eq!(clients(&mut rig), [0; 40]);
        rig.overload(13, false);
        assert_eq!(clients(&mut rig), [13; 40]);
    }

    /// As the kernel was seen to choose.
    #[test]
    fn servers_of_the_other_family() {
        let mut rig = Rig::new("mh", &[(12, 1), (11, 1)]);
        let other = "fd02::12".parse::<core::net::Ipv6Addr>().unwrap();
        rig.change(|dests| {
            dests[0].endpoint = Endpoint::new(Addr::v4([10, 2, 0, 11]), 8080);
            dests[1].endpoint = Endpoint::new(other.into(), 8080);
        });
        rig.flow.src = Addr::v4([10, 8, 1, 44]);
        assert_eq!(rig.pick(), 11);
    }

    #[test]
    fn the_port_counts_only_if_told() {
        let mut rig = rig([1, 1, 1]);
        for told in [false, true] {
            rig.service.options.flags.port = told;
            let first = rig.pick();
            let moved = (1..100).any(|port| {
                rig.flow.src_port = port;
                rig.pick() != first
            });
            assert_eq!(moved, told);
        }
    }

    proptest! {
        /// Slots follow the weights, to within one turn and what the shift cuts off.
        #[test]
        fn slots_follow_the_weights(weights in proptest::collection::vec(1u32..=63, 1..30)) {
            let dests: Vec<_> = (0..).zip(&weights).map(|(n, &w)| dest(n, w)).collect();
            let sum: u32 = weights.iter().sum();
            for (got, &weight) in slots(&dests).into_iter().zip(&weights) {
                let share = f64::from(SLOTS_U32) * f64::from(weight) / f64::from(sum);
                prop_assert!((got as f64 - share).abs() <= f64::from(weight) + 1.0);
            }
        }

        /// Without one destination, few slots change but its own.
        #[test]
        fn others_keep_their_slots(count in 3u32..60, gone in 0usize..60) {
            let mut dests: Vec<_> = (0..count).map(|n| dest(n, 1)).collect();
            let gone = gone % dests.len();
            let before = populate(Family::V4, &dests);
            dests.remove(gone);
            let after = populate(Family::V4, &dests);
            let shifted = |at: u32| if at as usize > gone { at - 1 } else { at };
            let moved = before.iter().zip(&after)
                .filter(|&(&b, &a)| b as usize != gone && shifted(b) != a)
                .count();
            prop_assert!(moved < SLOTS / 10, "{moved} of {SLOTS}");
        }
    }
}
