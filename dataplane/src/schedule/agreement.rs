//! Every scheduler with an index against the plain walk that the kernel does, under random
//! loads, flags and edits.

use proptest::prelude::*;

use super::fixture::Rig;
use super::{Loads, find};
use crate::service::Destination;

/// What may happen to a service. Destinations are named by number, 1 to 24.
#[derive(Clone, Copy, Debug)]
enum Event {
    Load(u32, u32, u32),
    Overload(u32, bool),
    Edit(u32, u32),
    Add(u32, u32),
    Delete(u32),
    Pick,
}

fn event() -> impl Strategy<Value = Event> {
    let number = 1u32..25;
    let weight = prop_oneof![0u32..5, Just(100_000)];
    prop_oneof![
        4 => (number.clone(), 0u32..4, 0u32..600)
            .prop_map(|(n, active, inactive)| Event::Load(n, active, active + inactive)),
        2 => (number.clone(), any::<bool>()).prop_map(|(n, yes)| Event::Overload(n, yes)),
        1 => (number.clone(), weight.clone()).prop_map(|(n, w)| Event::Edit(n, w)),
        1 => (number.clone(), weight).prop_map(|(n, w)| Event::Add(n, w)),
        1 => number.prop_map(Event::Delete),
        6 => Just(Event::Pick),
    ]
}

/// The first destination in the list that no other beats.
fn scan(
    rig: &Rig,
    takes: impl Fn(Loads<'_>, &Destination) -> bool,
    beats: impl Fn(Loads<'_>, &Destination, &Destination) -> bool,
) -> u32 {
    let loads = Loads::new(&rig.counters, &rig.changes, rig.service.id);
    let usable = |d: &&Destination| loads.usable(d) && takes(loads, d);
    let mut best: Option<&Destination> = None;
    for dest in rig.service.destinations.iter().filter(usable) {
        if best.is_none_or(|best| beats(loads, dest, best)) {
            best = Some(dest);
        }
    }
    best.map_or(0, |d| d.id.0)
}

/// The walk of `ip_vs_rr_schedule`, with the destination chosen last named by its number.
fn next_after(rig: &Rig, last: Option<u32>) -> u32 {
    let loads = Loads::new(&rig.counters, &rig.changes, rig.service.id);
    let list = &rig.service.destinations;
    let from = last.map_or(0, |n| 1 + list.iter().position(|d| d.id.0 == n).unwrap());
    let (before, behind) = list.split_at(from);
    let found = behind.iter().chain(before).find(|d| loads.usable(d));
    found.map_or(0, |d| d.id.0)
}

fn expected(rig: &Rig) -> u32 {
    let per_weight = |load: fn(Loads<'_>, &Destination) -> u64| {
        move |loads: Loads<'_>, a: &Destination, b: &Destination| {
            u128::from(load(loads, a)) * u128::from(b.weight)
                < u128::from(load(loads, b)) * u128::from(a.weight)
        }
    };
    let delay: fn(Loads<'_>, &Destination) -> u64 = |loads, d| u64::from(loads.active(d)) + 1;
    let all = |_: Loads<'_>, _: &Destination| true;
    let heavier = |_: Loads<'_>, a: &Destination, b: &Destination| a.weight > b.weight;
    match rig.service.scheduler {
        "lc" => scan(rig, all, |l, a, b| l.overhead(a) < l.overhead(b)),
        "wlc" => scan(rig, all, per_weight(|l, d| l.overhead(d))),
        "sed" => scan(rig, all, per_weight(delay)),
        "nq" => match scan(rig, |l, d| l.active(d) == 0, |_, _, _| false) {
            0 => scan(rig, all, per_weight(delay)),
            idle => idle,
        },
        "fo" => scan(rig, all, heavier),
        "ovf" => scan(rig, |l, d| l.active(d) <= d.weight, heavier),
        other => panic!("{other}: no scan for it"),
    }
}

/// Runs events; `check` sees the rig before each choice and what was chosen.
fn run(scheduler: &str, events: &[Event], mut check: impl FnMut(&Rig, u32) -> bool) -> bool {
    let mut rig = Rig::new(find(scheduler).unwrap(), &[(1, 1), (2, 2), (3, 3)]);
    events.iter().all(|event| {
        let is_in = |rig: &Rig, n| rig.service.destinations.iter().any(|d| d.id.0 == n);
        match *event {
            Event::Load(n, active, total) => rig.load(n, active, total),
            Event::Overload(n, yes) => rig.overload(n, yes),
            Event::Edit(n, weight) => rig.edit(n, weight),
            Event::Add(n, weight) if !is_in(&rig, n) => rig.add(n, weight),
            Event::Add(..) => {}
            Event::Delete(n) => rig.delete(&[n]),
            Event::Pick => {
                let chosen = rig.pick();
                return check(&rig, chosen);
            }
        }
        true
    })
}

proptest! {
    #[test]
    fn an_index_chooses_as_a_scan(events in proptest::collection::vec(event(), 1..120)) {
        for scheduler in ["lc", "wlc", "sed", "nq", "fo", "ovf"] {
            let agreed = run(scheduler, &events, |rig, chosen| chosen == expected(rig));
            prop_assert!(agreed, "{scheduler}");
        }
    }

    #[test]
    fn round_robin_walks_the_list(events in proptest::collection::vec(event(), 1..120)) {
        // Deletions move the cursor, which the tests of rr look at.
        let events: Vec<_> = events
            .into_iter()
            .filter(|e| !matches!(e, Event::Delete(_)))
            .collect();
        let mut last = None;
        let agreed = run("rr", &events, |rig, chosen| {
            let right = chosen == next_after(rig, last);
            last = Some(chosen).filter(|&n| n != 0).or(last);
            right
        });
        prop_assert!(agreed);
    }

    /// In one cycle each destination is chosen as often as its weight says.
    #[test]
    fn weighted_round_robin_keeps_the_shares(
        weights in proptest::collection::vec(0u32..20, 1..30),
        overloaded in proptest::collection::vec(any::<bool>(), 30),
    ) {
        let list: Vec<_> = (1..).zip(weights.iter().copied()).collect();
        let mut rig = Rig::new("wrr", &list);
        for (&(n, _), &yes) in list.iter().zip(&overloaded) {
            rig.overload(n, yes);
        }
        let usable = |n: usize| if overloaded[n] { 0 } else { weights[n] as usize };
        // The gcd is that of all weights, the overloaded ones included.
        let gcd = weights.iter().fold(0, |a, &b| super::gcd(a, b)).max(1) as usize;
        let cycle = (0..weights.len()).map(usable).sum::<usize>() / gcd;
        let mut counts = vec![0; weights.len()];
        for _ in 0..cycle {
            counts[rig.pick() as usize - 1] += gcd;
        }
        prop_assert_eq!(counts, (0..weights.len()).map(usable).collect::<Vec<_>>());
    }
}
