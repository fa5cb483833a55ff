//! One check over time: when the next attempt is due, and when results turn it up or down.
//!
//! Timing follows keepalived's checkers: after a success, and after a failure that decided, the
//! next attempt comes `delay_loop` later; after a failure that is to be confirmed,
//! `delay_before_retry` later. A check that starts up (not `alpha`) goes down at its very first
//! failure if nothing has succeeded yet. Intended deviations: `rise` successes in a row bring it
//! up (keepalived: one), and each attempt has one deadline over all its steps.

use core::time::Duration;

use crate::time::Instant;
use crate::verdict::{Failure, Passed, Verdict};

/// How often a check runs, and how many results decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the end of a deciding attempt to the next.
    pub delay_loop: Duration,
    /// From a failure that is to be confirmed to the next attempt.
    pub delay_before_retry: Duration,
    /// Failures after the first before a check that is up goes down.
    pub retry: u32,
    /// Successes in a row before a check that is down comes up, 1 or more.
    pub rise: u32,
    /// The first attempt comes a random part of this after the start.
    pub warmup: Duration,
    /// Longest time of one attempt.
    pub deadline: Duration,
    /// Whether the check counts as failed until it succeeded.
    pub alpha: bool,
}

/// How many parts of `delay_loop` the random part of a delay is: checks that began together
/// drift apart, and none is ever late.
const JITTER_PARTS: u64 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for its time.
    Due(Instant),
    /// An attempt runs until this time at most.
    Running(Instant),
}

/// What the last change was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The check succeeded often enough.
    Up(Passed),
    /// It failed too often; the last reason.
    Down(Failure),
    /// It is still up, but adds something else to the weight.
    Weight(Passed),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Monitor {
    pace: Pace,
    phase: Phase,
    up: bool,
    /// Whether an attempt of this monitor has succeeded or failed.
    has_run: bool,
    /// Failures in a row while up, successes in a row while down.
    streak: u32,
    passed: Passed,
    last: Option<Failure>,
    random: u64,
}

impl Monitor {
    /// A check whose first attempt is due within `pace.warmup`. `seed` spreads checks that are
    /// made together; any number will do.
    pub fn new(now: Instant, pace: Pace, seed: u64) -> Monitor {
        let mut monitor = Monitor {
            pace,
            phase: Phase::Due(now),
            up: !pace.alpha,
            has_run: false,
            streak: 0,
            passed: Passed::default(),
            last: None,
            // Any odd multiplier spreads neighbouring seeds; the state must not be 0.
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        let wait = monitor.part_of(pace.warmup);
        monitor.phase = Phase::Due(now + wait);
        monitor
    }

    /// Whether the check counts as up.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether an attempt has ended yet.
    pub fn has_run(&self) -> bool {
        self.has_run
    }

    /// What it adds to the weight: nothing while down.
    pub fn delta(&self) -> i64 {
        if self.up { self.passed.delta } else { 0 }
    }

    /// Why the last attempt failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        self.last.as_ref()
    }

    /// When something is to be done: an attempt to be started, or one to be ended.
    pub fn next_timeout(&self) -> Instant {
        match self.phase {
            Phase::Due(at) | Phase::Running(at) => at,
        }
    }

    /// The deadline of the attempt that is to be started now, if one is due.
    pub fn start(&mut self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Due(at) if at <= now => {
                let deadline = now + self.pace.deadline;
                self.phase = Phase::Running(deadline);
                Some(deadline)
            }
            _ => None,
        }
    }

    /// Puts off an attempt that could not be made for a reason of our own (no socket, suspended):
    /// says nothing about the server.
    pub fn put_off(&mut self, now: Instant) {
        let wait = self.loop_delay();
        self.phase = Phase::Due(now + wait);
    }

    /// Takes another pace and keeps the state: a reload. A check that waits longer than the new
    /// pace allows is due earlier; one whose attempt was under way, which the caller has ended, is
    /// due at once.
    pub fn set_pace(&mut self, now: Instant, pace: Pace) {
        self.pace = pace;
        self.phase = match self.phase {
            Phase::Due(at) => Phase::Due(at.min(now + pace.delay_loop)),
            Phase::Running(_) => Phase::Due(now),
        };
    }

    /// Takes the result of the attempt that was started.
    pub fn finish(&mut self, now: Instant, verdict: Verdict) -> Option<Change> {
        let first = !core::mem::replace(&mut self.has_run, true);
        let (change, wait) = match verdict {
            Ok(passed) => {
                self.last = None;
                (self.succeeded(passed), self.loop_delay())
            }
            Err(failure) => {
                self.last = Some(failure.clone());
                self.failed(first, failure)
            }
        };
        self.phase = Phase::Due(now + wait);
        change
    }

    fn succeeded(&mut self, passed: Passed) -> Option<Change> {
        let before = core::mem::replace(&mut self.passed, passed);
        if self.up {
            self.streak = 0;
            return (before != passed).then_some(Change::Weight(passed));
        }
        self.streak += 1;
        if self.streak < self.pace.rise {
            return None;
        }
        (self.up, self.streak) = (true, 0);
        Some(Change::Up(passed))
    }

    fn failed(&mut self, first: bool, failure: Failure) -> (Option<Change>, Duration) {
        if !self.up {
            self.streak = 0;
            return (None, self.loop_delay());
        }
        self.streak += 1;
        if self.streak <= self.pace.retry && !first {
            return (None, self.pace.delay_before_retry);
        }
        (self.up, self.streak) = (false, 0);
        (Some(Change::Down(failure)), self.loop_delay())
    }

    fn loop_delay(&mut self) -> Duration {
        let whole = self.pace.delay_loop;
        let random = self.part_of(whole / JITTER_PARTS as u32);
        whole - random
    }

    /// A random part of `whole` (xorshift64, Marsaglia 2003).
    fn part_of(&mut self, whole: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let nanos = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(((u128::from(self.random) * u128::from(nanos)) >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace() -> Pace {
        Pace {
            delay_loop: Duration::from_secs(10),
            delay_before_retry: SECOND,
            retry: 2,
            rise: 1,
            warmup: Duration::ZERO,
            deadline: Duration::from_secs(5),
            alpha: false,
        }
    }

    /// Runs attempts with these results, each taking no time; returns when each was made.
    fn run(monitor: &mut Monitor, results: &str) -> Vec<(Instant, Option<bool>)> {
        let mut seen = Vec::new();
        for result in results.chars() {
            let now = monitor.next_timeout();
            monitor.start(now).expect("an attempt is due at its time");
            let verdict = match result {
                'o' => Ok(Passed::default()),
                _ => Err(Failure::Exit(1)),
            };
            let change = monitor.finish(now, verdict);
            let change = change.map(|c| matches!(c, Change::Up(_)));
            seen.push((now, change));
        }
        seen
    }

    fn changes(seen: &[(Instant, Option<bool>)]) -> String {
        let name = |c: &Option<bool>| match c {
            Some(true) => 'U',
            Some(false) => 'D',
            None => '-',
        };
        seen.iter().map(|(_, c)| name(c)).collect()
    }

    #[test]
    fn failures_in_a_row_bring_it_down() {
        let mut m = Monitor::new(Instant(0), pace(), 1);
        let seen = run(&mut m, "oxxoxxxxo");
        assert_eq!(changes(&seen), "------D-U");
        // Retries are a second apart and exact; what follows a decision waits for delay_loop.
        assert_eq!(seen[5].0.since(seen[4].0), SECOND);
        let after = seen[7].0.since(seen[6].0);
        assert!(after <= pace().delay_loop && after >= pace().delay_loop * 19 / 20);
    }

    #[test]
    fn checks_that_began_together_drift_apart() {
        let second = |seed| {
            let mut m = Monitor::new(Instant(0), pace(), seed);
            run(&mut m, "o");
            m.next_timeout()
        };
        assert_ne!(second(1), second(2));
        assert!(second(1) < Instant(0) + pace().delay_loop);
    }

    #[test]
    fn a_success_has_no_failure_to_show() {
        let mut m = Monitor::new(Instant(0), pace(), 1);
        run(&mut m, "ox");
        assert_eq!(m.failure(), Some(&Failure::Exit(1)));
        run(&mut m, "o");
        assert_eq!(m.failure(), None);
    }

    #[test]
    fn the_first_failure_of_all_is_enough() {
        let mut m = Monitor::new(Instant(0), pace(), 1);
        assert!(m.is_up() && !m.has_run());
        assert_eq!(changes(&run(&mut m, "xo")), "DU");
    }

    #[test]
    fn what_was_counted_before_a_change_does_not_count_after_it() {
        let slow = Pace { rise: 3, ..pace() };
        let mut m = Monitor::new(Instant(0), slow, 1);
        // Three failures to go down, then three successes to come up, and so on.
        assert_eq!(changes(&run(&mut m, "oxxxoooxxx")), "---D--U--D");
    }

    #[test]
    fn alpha_is_down_until_it_succeeded() {
        let alpha = Pace {
            alpha: true,
            rise: 3,
            ..pace()
        };
        let mut m = Monitor::new(Instant(0), alpha, 1);
        assert!(!m.is_up());
        assert_eq!(changes(&run(&mut m, "oxooxooo")), "-------U");
    }

    #[test]
    fn worst_detection_time_is_the_formula() {
        // delay_loop + (retry + 1) * deadline + retry * delay_before_retry.
        let mut m = Monitor::new(Instant(0), pace(), 7);
        run(&mut m, "o");
        let dead = Instant(1);
        let mut now = m.next_timeout();
        let down = loop {
            let deadline = m.start(now).expect("due");
            let change = m.finish(deadline, Err(Failure::Timeout("answer")));
            if change.is_some() {
                break deadline;
            }
            now = m.next_timeout();
        };
        assert!(down.since(dead) <= Duration::from_secs(10 + 3 * 5 + 2));
    }

    #[test]
    fn checks_made_together_start_apart() {
        let pace = Pace {
            warmup: Duration::from_secs(10),
            ..pace()
        };
        let mut due: Vec<u64> = (0..1000)
            .map(|seed| Monitor::new(Instant(0), pace, seed).next_timeout().0)
            .collect();
        due.sort_unstable();
        let busiest = due.windows(20).map(|w| w[19] - w[0]).min();
        assert!(due[0] < 1_000_000_000 && due[999] > 9_000_000_000);
        // 20 of 1,000 in 10 s are 200 ms on the average.
        assert!(busiest > Some(30_000_000), "{busiest:?}");
    }

    #[test]
    fn a_weight_that_changes_is_told_once() {
        let mut m = Monitor::new(Instant(0), pace(), 1);
        let mut at = |delta| {
            let now = m.next_timeout();
            m.start(now);
            m.finish(now, Ok(Passed { delta }))
        };
        assert_eq!(at(0), None);
        assert_eq!(at(5), Some(Change::Weight(Passed { delta: 5 })));
        assert_eq!(at(5), None);
        assert_eq!(m.delta(), 5);
        assert_eq!(changes(&run(&mut m, "xxx")), "--D");
        assert_eq!(
            m.delta(),
            0,
            "a server that is down has no weight to add to"
        );
    }

    #[test]
    fn another_pace_keeps_the_state() {
        let mut m = Monitor::new(Instant(0), pace(), 1);
        run(&mut m, "ox");
        let now = m.next_timeout();
        m.start(now).expect("due");
        m.set_pace(now, Pace { retry: 1, ..pace() });
        assert_eq!(
            m.next_timeout(),
            now,
            "the attempt that was ended is made again"
        );
        assert_eq!(changes(&run(&mut m, "x")), "D");
        m.set_pace(
            now,
            Pace {
                delay_loop: SECOND,
                ..pace()
            },
        );
        assert!(m.next_timeout() <= now + SECOND);
    }

    #[test]
    fn what_could_not_be_tried_says_nothing() {
        let mut m = Monitor::new(Instant(0), pace(), 1);
        m.start(Instant(0));
        m.put_off(Instant(0));
        assert!(m.is_up() && !m.has_run());
        let wait = m.next_timeout().since(Instant(0));
        assert!(wait <= pace().delay_loop && wait >= pace().delay_loop * 19 / 20);
    }
}
