//! Two workers on two cores, each with a queue of its own that brings packets of its own clients,
//! as from a NIC that steers: what the second core adds, next to what it adds to testpmd.
//!
//! Each worker runs alone first, then both at the same time. What counts is CPU time a packet, so
//! that a core that does something else for a moment takes nothing from the result.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dpdk::eal::Eal;
use dpdk::lcore;
use dpdk::poll::Loop;
use dpdk::port::RunningPort;

use crate::audit::Expect;
use crate::pair::{self, Pair, Source};
use crate::rig::{Family, Method, Rig, Side};
use crate::rows::generator;
use crate::testpmd::Testpmd;
use crate::traffic::{ACK, Generator, LEN4, Request4, SYN};

/// Source and sink of the two.
pub const PORTS: [&str; 2] = ["net_null5", "net_null6"];

/// Turns between two looks at the CPU time.
const TURNS: u32 = 256;

/// A worker with its clients.
struct Seat {
    worker: Loop,
    generator: Generator<Request4, LEN4>,
}

/// When those who run at the same time have all measured.
struct Together {
    start: Barrier,
    running: AtomicUsize,
}

/// What one was asked to do.
struct Order {
    cpu: Duration,
    together: Arc<Together>,
}

/// What the second core adds.
#[derive(Clone, Copy, Debug)]
pub struct Gain {
    /// CPU time a packet of a worker by itself, nanoseconds.
    pub alone: f64,
    /// The same while both run.
    pub both: f64,
}

impl Gain {
    /// The round in the middle by what it gained: one, so that both figures are of one moment.
    pub fn middle(mut rounds: Vec<Gain>) -> Gain {
        rounds.sort_unstable_by(|a, b| (a.alone / a.both).total_cmp(&(b.alone / b.both)));
        let middle = rounds.get(rounds.len() / 2).copied();
        middle.unwrap_or(Gain {
            alone: f64::NAN,
            both: f64::NAN,
        })
    }
}

impl Seat {
    /// A turn; the time is the real one.
    #[inline(always)]
    fn turn(&mut self) {
        let now = self.worker.clock.now();
        self.worker.turn_with(now, &mut Source(&mut self.generator));
    }

    /// Nanoseconds a packet over `cpu`. Goes on until the others have measured, too.
    fn run(&mut self, order: &Order) -> f64 {
        order.together.start.wait();
        let (began, first) = (lcore::thread_cpu_time(), self.generator.packets);
        let used = loop {
            for _ in 0..TURNS {
                self.turn();
            }
            let used = lcore::thread_cpu_time() - began;
            if used >= order.cpu {
                break used;
            }
        };
        let packets = self.generator.packets - first;
        order.together.running.fetch_sub(1, Ordering::Relaxed);
        while order.together.running.load(Ordering::Relaxed) > 0 {
            self.turn();
        }
        used.as_nanos() as f64 / packets as f64
    }
}

/// The second worker's core: it measures when it is asked to, and sleeps otherwise.
pub struct Second {
    orders: Option<Sender<Order>>,
    results: Receiver<f64>,
}

/// Both, ready to measure.
pub struct Cores {
    first: Seat,
    second: Second,
    /// Kept open.
    _ports: [RunningPort; 2],
}

impl Cores {
    /// Opens the connections of both, and sends the second one to its core.
    ///
    /// # Errors
    /// The second core does not take it, or packets went elsewhere than they should.
    pub fn new(eal: &Eal, rig: &mut Rig) -> Result<Option<Cores>> {
        let Some(Pair { loops, ports }) = rig.cores.take() else {
            return Ok(None);
        };
        let expect = Expect {
            family: Family::V4,
            method: Method::Nat,
            side: Side::Request,
            is_new: true,
        };
        let mut seats = Vec::new();
        for (worker, clients) in loops.into_iter().zip(pair::clients()) {
            let mut worker = worker;
            for flags in [SYN, ACK] {
                let mut opening = generator::<Request4, LEN4>(expect, flags, &clients);
                while opening.packets < opening.round() {
                    let now = worker.clock.now();
                    worker.turn_with(now, &mut Source(&mut opening));
                }
            }
            let handed = worker.end.counters.handed_over.get();
            let live = u64::from(worker.worker.connections());
            ensure!(
                handed == 0 && live == clients.len() as u64,
                "audit: {handed} packets handed over, {live} connections of {}",
                clients.len()
            );
            let generator = generator::<Request4, LEN4>(expect, ACK, &clients);
            seats.push(Seat { worker, generator });
        }
        let (Some(mut second), Some(first)) = (seats.pop(), seats.pop()) else {
            return Ok(None);
        };
        let (orders, todo) = channel::<Order>();
        let (done, results) = channel();
        eal.launch(
            1,
            Box::new(move || {
                for order in todo {
                    if done.send(second.run(&order)).is_err() {
                        break;
                    }
                }
                // Its queues go back to the ports before anybody hears that this is over.
                drop(second);
                drop(done);
            }),
        )?;
        let second = Second {
            orders: Some(orders),
            results,
        };
        Ok(Some(Cores {
            first,
            second,
            _ports: ports,
        }))
    }

    fn order(cpu: Duration, count: usize) -> Order {
        let together = Together {
            start: Barrier::new(count),
            running: AtomicUsize::new(count),
        };
        Order {
            cpu,
            together: Arc::new(together),
        }
    }

    /// One round: each alone, then both.
    ///
    /// # Errors
    /// The second worker is gone, or one handed packets over.
    pub fn measure(&mut self, cpu: Duration) -> Result<Gain> {
        let one = self.first.run(&Cores::order(cpu, 1));
        self.ask(Cores::order(cpu, 1))?;
        let other = self.answer()?;
        let order = Cores::order(cpu, 2);
        let together = Order {
            cpu,
            together: Arc::clone(&order.together),
        };
        self.ask(order)?;
        let both = (self.first.run(&together) + self.answer()?) / 2.0;
        ensure!(
            self.first.worker.end.counters.handed_over.get() == 0,
            "audit: packets were handed over"
        );
        Ok(Gain {
            alone: (one + other) / 2.0,
            both,
        })
    }

    fn ask(&self, order: Order) -> Result<()> {
        let orders = self.second.orders.as_ref();
        orders
            .and_then(|orders| orders.send(order).ok())
            .context("second core")
    }

    fn answer(&self) -> Result<f64> {
        self.second.results.recv().context("second core")
    }
}

impl Drop for Second {
    /// The ports are closed next.
    fn drop(&mut self) {
        self.orders = None;
        while self.results.recv().is_ok() {}
    }
}

/// The same of testpmd.
///
/// # Errors
/// It has ended.
pub fn testpmd(pmd: &mut Testpmd, wall: Duration) -> Result<Gain> {
    let mut run = |cores: &[usize]| {
        pmd.use_cores(cores)?;
        pmd.run(wall)
    };
    Ok(Gain {
        alone: (run(&[1])? + run(&[2])?) / 2.0,
        both: run(&[1, 2])?,
    })
}
