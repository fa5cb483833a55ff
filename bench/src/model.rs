//! What more workers than this machine has cores for would forward, from what was measured here.
//!
//! Workers share no cache line that one of them writes for each packet (`docs/performance.md` has
//! the list), so a packet costs a further worker what it costs the first, and three things more:
//!
//! - what the second core was seen to add to a packet here beyond what it added to testpmd, taken
//!   to come again with each further core: [`Measured::shared`];
//! - what a worker reads of the others' boards, a line of each all [`EXCHANGE`];
//! - without steering by the NIC: the packets that arrive at another worker than the one that has
//!   their connection, of all but one in W, cost handing over.
//!
//! What the machine itself gives less with more cores (clock, memory, threads of one core) is not
//! in it: testpmd loses the same.

use serde::{Deserialize, Serialize};

use crate::cores::Gain;

/// Time between two looks at the others' boards while packets come.
const EXCHANGE: f64 = 125_000.0;

/// Nanoseconds for a line that another core wrote.
const LINE: f64 = 100.0;

/// What the model is fed with, and what it must keep to. Nanoseconds of CPU time a packet.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Measured {
    /// A worker by itself.
    pub alone: f64,
    /// The same while another runs.
    pub both: f64,
    /// testpmd by itself, on the same kind of ports.
    pub testpmd_alone: f64,
    /// The same on two cores.
    pub testpmd_both: f64,
    /// What a packet costs both workers more if it is handed over; none if it was not measured.
    pub handover: Option<f64>,
}

/// Millions of packets a second.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Point {
    /// Workers.
    pub workers: u32,
    /// If NICs steer.
    pub by_nic: f64,
    /// If workers do; none if handing over was not measured.
    pub by_software: Option<f64>,
}

impl Measured {
    /// From both measurements; handing over is measured elsewhere.
    pub fn new(workers: Gain, testpmd: Gain) -> Measured {
        Measured {
            alone: workers.alone,
            both: workers.both,
            testpmd_alone: testpmd.alone,
            testpmd_both: testpmd.both,
            handover: None,
        }
    }

    /// Packets a second of two workers by those of one.
    pub fn gain(&self) -> f64 {
        2.0 * self.alone / self.both
    }

    /// The same of testpmd.
    pub fn testpmd_gain(&self) -> f64 {
        2.0 * self.testpmd_alone / self.testpmd_both
    }

    /// Nanoseconds that a packet costs more with each further worker, and not because the machine
    /// slows down.
    pub fn shared(&self) -> f64 {
        let by_machine = self.alone * self.testpmd_both / self.testpmd_alone;
        (self.both - by_machine).max(0.0)
    }

    /// What so many workers forward.
    pub fn point(&self, workers: u32) -> Point {
        let others = f64::from(workers.saturating_sub(1));
        let left = 1.0 - others * LINE / EXCHANGE;
        let rate = |ns: f64| f64::from(workers) * left * 1000.0 / ns;
        let ns = self.alone + others * self.shared();
        let elsewhere = others / f64::from(workers.max(1));
        Point {
            workers,
            by_nic: rate(ns),
            by_software: self.handover.map(|cost| rate(ns + elsewhere * cost)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: Measured = Measured {
        alone: 50.0,
        both: 55.0,
        testpmd_alone: 10.0,
        testpmd_both: 11.0,
        handover: Some(40.0),
    };

    #[test]
    fn what_the_machine_takes_is_not_shared_by_workers() {
        assert!(EVEN.shared().abs() < 1e-9, "{}", EVEN.shared());
        assert!((EVEN.gain() - EVEN.testpmd_gain()).abs() < 1e-9);
        let worse = Measured { both: 60.0, ..EVEN };
        assert!((worse.shared() - 5.0).abs() < 1e-9);
        assert!(worse.gain() < worse.testpmd_gain());
        // testpmd may lose more than workers do.
        let better = Measured { both: 52.0, ..EVEN };
        assert_eq!(better.shared(), 0.0);
    }

    #[test]
    fn workers_add_up_less_what_they_read_of_each_other() {
        assert_eq!(EVEN.point(1).by_nic, 20.0);
        assert_eq!(EVEN.point(1).by_software, Some(20.0));
        let sixteen = EVEN.point(16);
        // 15 lines of 100 ns all 125 us are 1.2 %.
        assert!((sixteen.by_nic - 16.0 * 20.0 * 0.988).abs() < 1e-6);
        // 15 of 16 packets cost 40 ns more: 87.5 in the place of 50.
        let software = sixteen.by_software.unwrap_or_default();
        assert!((software - sixteen.by_nic * 50.0 / 87.5).abs() < 1e-6);
        let worse = Measured { both: 60.0, ..EVEN }.point(8);
        assert!((worse.by_nic - 8.0 * (1.0 - 0.0056) * 1000.0 / 85.0).abs() < 1e-6);
    }
}
