//! Scripts that priorities depend on: when each is run, and what becomes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam::channel::Sender;
use mio::Waker;
use vrrp::time::Instant;
use vrrp::track::Observation;

use crate::config::vrrp::{Script, Tracked, Vrrp};
use crate::script::{Command, Report, Scripts};

/// A script's run has ended.
pub struct Ended {
    /// Its name.
    pub name: String,
    /// How.
    pub report: Report,
}

/// One script.
#[derive(Debug)]
struct Running {
    script: Script,
    next: Instant,
    /// A run that has not ended is not joined by another.
    is_running: bool,
    /// What the last run had to say, if it failed.
    failure: Option<String>,
}

/// All scripts that somebody depends on.
pub struct Timetable {
    scripts: Scripts,
    ended: Sender<Ended>,
    waker: Option<Arc<Waker>>,
    running: BTreeMap<String, Running>,
}

impl Timetable {
    /// Nothing is run yet.
    pub fn new(scripts: Scripts, ended: Sender<Ended>) -> Timetable {
        Timetable {
            scripts,
            ended,
            waker: None,
            running: BTreeMap::new(),
        }
    }

    /// What is rung when a run has ended.
    pub fn set_waker(&mut self, waker: Arc<Waker>) {
        self.waker = Some(waker);
    }

    /// Runs these from now on. One that stays as it was keeps its time.
    pub fn plan(&mut self, now: Instant, config: &Vrrp, tracked: &[Tracked]) {
        let mut old = std::mem::take(&mut self.running);
        for what in tracked {
            let Tracked::Script(name) = what else {
                continue;
            };
            let Some(script) = config.scripts.get(name) else {
                continue;
            };
            let known = old.remove(name).filter(|known| known.script == *script);
            let running = known.unwrap_or_else(|| Running {
                script: script.clone(),
                next: now,
                is_running: false,
                failure: None,
            });
            self.running.insert(name.clone(), running);
        }
        let accounts = self.running.values().filter_map(|r| account(&r.script));
        self.scripts.prepare(accounts.collect());
    }

    /// When the next of them is to be run.
    pub fn next(&self) -> Option<Instant> {
        let waiting = self.running.values().filter(|running| !running.is_running);
        waiting.map(|running| running.next).min()
    }

    /// Runs what is due.
    pub fn run(&mut self, now: Instant) {
        let Some(waker) = &self.waker else {
            return;
        };
        for (name, running) in &mut self.running {
            if running.is_running || running.next > now {
                continue;
            }
            running.is_running = true;
            running.next = now + running.script.interval;
            let command = Command {
                argv: running.script.command.clone(),
                account: account(&running.script),
            };
            let name = name.clone();
            let make = move |report| Ended { name, report };
            self.scripts
                .run_to(command, running.script.timeout, &self.ended, waker, make);
        }
    }

    /// A run has ended; what that is to those who track it.
    pub fn take(&mut self, ended: Ended) -> Option<(Tracked, Observation)> {
        let running = self.running.get_mut(&ended.name)?;
        running.is_running = false;
        let is_success = ended.report.is_success();
        let failure = (!is_success).then(|| ended.report.line());
        if failure != running.failure {
            match &failure {
                Some(why) => tracing::warn!(script = ended.name, "tracked script failed: {why}"),
                None => tracing::info!(script = ended.name, "tracked script succeeds again"),
            }
            running.failure = failure;
        }
        Some((Tracked::Script(ended.name), Observation::Script(is_success)))
    }
}

/// The user that a script names.
fn account(script: &Script) -> Option<crate::script::Account> {
    // The configuration was checked.
    script.user.as_ref().and_then(|user| user.parse().ok())
}
