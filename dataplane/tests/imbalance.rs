//! How evenly several workers balance, against one that sees everything: connections with
//! heavy-tailed durations come and go, each at the worker that its client falls to.
//!
//! `cargo test -p dataplane --test imbalance -- --nocapture` prints the table of
//! docs/architecture.md.

use core::time::Duration;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use dataplane::addr::{Addr, Endpoint};
use dataplane::changes::Changes;
use dataplane::counters::WorkerCounters;
use dataplane::dests::{self, DestState};
use dataplane::flow::Flow;
use dataplane::schedule::{self, Loads, Request, Scheduler, Seat};
use dataplane::service::{
    DestId, Destination, ForwardingMethod, Protocol, ServiceId, ServiceKey, ServiceOptions, Tunnel,
    VirtualService,
};
use dataplane::settings::Settings;
use dataplane::team::{AGE, Counts, Team};
use dataplane::time::Instant;

const DESTS: usize = 20;
const CONNECTIONS: usize = 25_000;
/// Between two new connections, on average.
const GAP: Duration = Duration::from_micros(40);
/// Between two exchanges of a worker without new connections.
const ROUND: Duration = Duration::from_micros(125);
/// How long a connection stays after it was closed (FIN_WAIT).
const LINGER: Duration = Duration::from_millis(40);
const TEAMS: [usize; 5] = [1, 2, 4, 8, 16];

/// Pseudo-random numbers (splitmix64): a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// From 0 to 1, without 0.
    fn part(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Pareto with shape 1.5: three times the least on average, and now and then a hundred times.
    fn duration(&mut self) -> Duration {
        let least = 0.05;
        Duration::from_secs_f64((least / self.part().powf(1.0 / 1.5)).min(100.0 * least))
    }
}

fn weight(dest: usize) -> u32 {
    [1, 2, 4, 3][dest % 4]
}

fn service(scheduler: &str) -> VirtualService {
    let vip = Endpoint::new(Addr::v4([10, 0, 0, 1]), 80);
    // ovf counts connections against weights, so they have to be as many.
    let unit = if scheduler == "ovf" { 30 } else { 1 };
    let dest = |n: usize| Destination {
        id: DestId(n as u32),
        endpoint: Endpoint::new(Addr::v4([10, 0, 2, n as u8]), 80),
        method: ForwardingMethod::Masquerade,
        weight: weight(n) * unit,
        last_weight: weight(n) * unit,
        upper: 0,
        lower: 0,
        tunnel: Tunnel::default(),
    };
    VirtualService {
        id: ServiceId(0),
        key: ServiceKey::new(Protocol::Tcp, vip),
        scheduler: schedule::find(scheduler).unwrap(),
        options: ServiceOptions::default(),
        destinations: (0..DESTS).map(dest).collect(),
        withdrawn: Vec::new(),
    }
}

/// A worker as far as it schedules.
struct Worker {
    counters: WorkerCounters,
    changes: Changes,
    scheduler: Box<dyn Scheduler>,
    states: Vec<DestState>,
}

impl Worker {
    fn new(service: &VirtualService, seat: Seat, team: Option<Team>) -> Worker {
        let mut worker = Worker {
            counters: WorkerCounters::new(DESTS),
            changes: Changes::new(1, DESTS),
            scheduler: schedule::new(service, seat).unwrap(),
            states: vec![DestState::default(); DESTS],
        };
        if let Some(team) = team {
            worker.changes.join(team);
        }
        for (state, dest) in worker.states.iter_mut().zip(&service.destinations) {
            state.configure(dest, None, &worker.counters.dests[dest.id.0 as usize], 0);
        }
        let loads = Loads::new(&worker.counters, &worker.changes, service.id);
        worker.scheduler.start(service, loads, None);
        let watch = worker.scheduler.watch();
        worker.changes.begin(service, watch);
        worker
    }

    fn exchange(&self, now: Instant) {
        let Some(team) = self.changes.team() else {
            return;
        };
        let own = |id: DestId| {
            let c = self.counters.dest(id).unwrap();
            Counts {
                active: c.active.get(),
                total: c.total.get(),
            }
        };
        team.exchange(now, own, |id| {
            dests::heard(&self.states, &self.counters, &self.changes, id);
        });
    }

    fn active(&self, dest: usize) -> u32 {
        self.counters.dests[dest].active.get()
    }

    fn total(&self, dest: usize) -> u32 {
        self.counters.dests[dest].total.get()
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Close,
    Gone,
}

/// What a run showed.
#[derive(Debug)]
struct Outcome {
    /// How far the most loaded destination is above the average load per weight, on average.
    above: f64,
    /// Connections that each destination got.
    picks: Vec<u32>,
    /// The most connections at a time, by destination.
    most: Vec<u32>,
    refused: usize,
}

fn run(scheduler: &str, workers: usize, together: bool, upper: u32) -> Outcome {
    let mut service = service(scheduler);
    service.destinations.edit(|list| {
        list.iter_mut()
            .for_each(|dest| dest.upper = upper * dest.weight);
    });
    let seats: Vec<Option<Team>> = if together && workers > 1 {
        let seats = Team::gather(workers, DESTS).into_iter();
        seats.map(Some).collect()
    } else {
        (0..workers).map(|_| None).collect()
    };
    let mut team: Vec<Worker> = seats
        .into_iter()
        .enumerate()
        .map(|(worker, team)| {
            let seed = 77 + worker as u64;
            let seat = Seat {
                worker,
                workers,
                seed,
            };
            Worker::new(&service, seat, team)
        })
        .collect();
    let settings = Settings::default();
    let mut random = Random(42);
    let mut ends = BinaryHeap::new();
    let mut now = Instant::from_secs(10);
    let mut exchange_at = now;
    let mut outcome = Outcome {
        above: 0.0,
        picks: vec![0; DESTS],
        most: vec![0; DESTS],
        refused: 0,
    };
    let (mut sum, mut samples) = (0.0, 0.0);
    let weighs = !matches!(scheduler, "rr" | "lc" | "dh");
    for n in 0..CONNECTIONS {
        // The same connections for every team: the numbers are drawn in any case.
        now = now + GAP.mul_f64(-random.part().ln());
        let (client, address) = (random.below(3000) as u32, random.below(200) as u8);
        let (place, duration) = (random.below(1 << 32) as usize, random.duration());
        // With the timers, and before a choice.
        while exchange_at <= now {
            exchange_at = exchange_at + ROUND;
            team.iter().for_each(|w| w.exchange(exchange_at));
        }
        while let Some(Reverse((at, _, what, worker, dest))) = ends.pop() {
            if at > now {
                ends.push(Reverse((at, n, what, worker, dest)));
                break;
            }
            let w: &Worker = &team[worker];
            let id = DestId(dest);
            match what {
                End::Close => {
                    dests::turn(&w.counters, &w.changes, id, false);
                    ends.push(Reverse((at + LINGER, n, End::Gone, worker, dest)));
                }
                End::Gone => dests::unbind(&w.states, &w.counters, &w.changes, id, false),
            }
        }
        let worker = place % workers;
        let w = &mut team[worker];
        w.exchange(now);
        let flow = Flow {
            src: Addr::v4((0xc0a8_0000 + client).to_be_bytes()),
            dst: Addr::v4([198, 51, 100, address]),
            src_port: 2000 + (place % 50_000) as u16,
            dst_port: 80,
            protocol: 6,
            tcp_flags: 2,
            is_v4: true,
            ..Flow::EMPTY
        };
        let at = w.scheduler.pick(&Request {
            service: &service,
            loads: Loads::new(&w.counters, &w.changes, service.id),
            flow: &flow,
            is_quoted: false,
            now,
            settings: &settings,
        });
        let Some(at) = at else {
            outcome.refused += 1;
            continue;
        };
        let id = service.destinations[at].id;
        dests::bind(&w.states, &w.counters, &w.changes, id, true);
        dests::turn(&w.counters, &w.changes, id, true);
        ends.push(Reverse((now + duration, n, End::Close, worker, id.0)));
        outcome.picks[at] += 1;
        let all: u32 = team.iter().map(|w| w.total(at)).sum();
        outcome.most[at] = outcome.most[at].max(all);
        if n > CONNECTIONS / 4 && n % 50 == 0 {
            let loads = |d: usize| team.iter().map(|w| w.active(d)).sum::<u32>();
            let of = |d: usize| {
                if weighs {
                    service.destinations[d].weight
                } else {
                    1
                }
            };
            let weights = (0..DESTS).map(of).sum::<u32>();
            let average = f64::from((0..DESTS).map(loads).sum::<u32>()) / f64::from(weights);
            let per_weight = |d: usize| f64::from(loads(d)) / f64::from(of(d));
            let most = (0..DESTS).map(per_weight).fold(0.0, f64::max);
            sum += most / average - 1.0;
            samples += 1.0;
        }
    }
    outcome.above = sum / samples;
    outcome
}

/// In hundredths, what `above` is with each team.
fn row(scheduler: &str, together: bool) -> Vec<f64> {
    let above = |&n: &usize| 100.0 * run(scheduler, n, together, 0).above;
    TEAMS.iter().map(above).collect()
}

#[test]
fn those_that_count_see_everybody() {
    println!("| scheduler | 1 worker | 2 | 4 | 8 | 16 |");
    // The most that the most loaded one may be above the average, in hundredths.
    for (scheduler, bound) in [
        ("lc", 4.0),
        ("wlc", 7.0),
        ("sed", 6.0),
        ("nq", 6.0),
        ("twos", 4.0),
        ("ovf", 15.0),
        ("lblc", 60.0),
        ("lblcr", 60.0),
        ("rr", 15.0),
        ("wrr", 20.0),
    ] {
        let row = row(scheduler, true);
        let cells: Vec<_> = row.iter().map(|above| format!("{above:.1} %")).collect();
        println!("| {scheduler} | {} |", cells.join(" | "));
        assert!(
            row.iter().all(|&above| above < bound),
            "{scheduler}: {row:?}"
        );
    }
    // Each for itself, they fill up the first destination once for each worker.
    let apart = run("ovf", 16, false, 0).above;
    assert!(apart > 3.0, "{apart}");
}

#[test]
fn hashes_and_failover_are_the_same_on_every_worker() {
    for scheduler in ["sh", "dh", "mh", "fo"] {
        let one = run(scheduler, 1, true, 0).picks;
        assert_eq!(run(scheduler, 16, true, 0).picks, one, "{scheduler}");
    }
}

/// A destination takes no more than its upper threshold, and what comes while the workers do not
/// know of each other's last connections.
#[test]
fn thresholds_hold_for_the_sum() {
    const UPPER: u32 = 60;
    let late = (AGE.as_secs_f64() / GAP.as_secs_f64()).ceil() as u32;
    for workers in TEAMS {
        let outcome = run("wlc", workers, true, UPPER);
        assert!(outcome.refused > 1000, "{workers} workers: {outcome:?}");
        let error = if workers == 1 { 0 } else { late };
        for (dest, &most) in outcome.most.iter().enumerate() {
            let upper = UPPER * weight(dest);
            assert!(
                most >= upper && most <= upper + error,
                "{workers} workers: {outcome:?}"
            );
        }
    }
}
