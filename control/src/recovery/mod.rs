//! What outlives the daemon on disk, and how a start goes on from it.
//!
//! In the state directory lie the rules as they run ([`rules`], written by the [`keeper`], with a
//! [`journal`] of changes since), [`drains`] with their deadlines, and a record of the run ([`run`]). A start that finds the record of a run that did not
//! end in order goes on with those rules: live changes are treated as a reload treats them, so
//! what the file changed since is applied to them. After three crashes within a minute they are
//! set aside, together with the connection table, and the file alone counts. One thing outlives
//! even an orderly end: a server that the operator has drained stays drained.
//!
//! Nothing here keeps the daemon from starting: what cannot be used is named in one line.

pub mod disk;
pub mod drains;
pub mod journal;
pub mod keeper;
pub mod rules;
pub mod run;

use std::path::PathBuf;

use dataplane::time::Instant;

use crate::config::{self, Config, OperatorState, Plan};
use crate::drains::Drains;
use crate::health::Subject;
use crate::model::{Author, Change, Limits, Model, Refusal};
use crate::reload;
use crate::vrrp::Place;

use self::rules::Kept;
use self::run::{Ended, Run};

/// Name of the rules in the state directory.
const RULES: &str = "rules.json";

/// What a start found of the run before.
#[derive(Debug, Default)]
pub struct Recovery {
    run: Option<Run>,
    directory: Option<PathBuf>,
    boot: [u8; 16],
    kept: Option<Kept>,
    /// Servers that the operator drained, whatever else is kept.
    drained: Vec<Subject>,
    /// What VRRP noted in a process that has handed over.
    leases: Option<String>,
}

impl Recovery {
    /// Looks at what the run before left, and notes that this one has begun.
    pub fn begin(config: &Config, now: Instant, boot: [u8; 16]) -> Recovery {
        let Some(directory) = &config.state.directory else {
            return Recovery::default();
        };
        let unusable = |what: &dyn std::fmt::Display| {
            tracing::warn!(
                event = "state",
                "state directory {}: {what}; live changes will not outlive a crash (see [state])",
                directory.display()
            );
            Recovery::default()
        };
        let run = match Run::begin(directory, now, boot) {
            Ok(run) => run,
            Err(why) => return unusable(&why),
        };
        let path = directory.join(RULES);
        let drained = match run.before() {
            // They are part of the rules.
            Ended::Crashed => Vec::new(),
            Ended::InOrder | Ended::CrashedAgain => drained(config, &path),
        };
        let kept = match run.before() {
            Ended::InOrder => None,
            Ended::Crashed => read(config, &path),
            Ended::CrashedAgain => {
                set_aside(&path, "rules that ran");
                set_aside(&journal::beside(&path), "journal of their changes");
                if let Some(table) = &config.state.table {
                    set_aside(table, "connection table");
                }
                tracing::error!(
                    event = "crash-loop",
                    "{} crashes within {} s: live changes and connections are set aside, rvsd \
                     starts from {} alone",
                    run::TOO_MANY,
                    run::WITHIN.as_secs(),
                    config.path.display()
                );
                None
            }
        };
        Recovery {
            run: Some(run),
            directory: Some(directory.clone()),
            boot,
            kept,
            drained,
            leases: None,
        }
    }

    /// Goes on after a process that has let go of the directory, with what ran there.
    pub fn inherit(config: &Config, boot: [u8; 16], kept: Kept, leases: String) -> Recovery {
        let directory = config.state.directory.as_ref();
        let run = directory.and_then(|directory| match Run::go_on(directory, boot) {
            Ok(run) => Some(run),
            Err(why) => {
                tracing::warn!(
                    event = "state",
                    "state directory {}: {why}; live changes will not outlive a crash (see [state])",
                    directory.display()
                );
                None
            }
        });
        Recovery {
            directory: directory.filter(|_| run.is_some()).cloned(),
            run,
            boot,
            kept: Some(kept),
            drained: Vec::new(),
            leases: Some(leases),
        }
    }

    /// Gives the directory to a process after this one.
    pub fn let_go(self) {}

    /// Where the rules are to be kept, if anywhere.
    pub fn rules_file(&self) -> Option<PathBuf> {
        self.directory.as_ref().map(|dir| dir.join(RULES))
    }

    /// The boot that times belong to.
    pub fn boot(&self) -> [u8; 16] {
        self.boot
    }

    /// Drains that were under way; those of a process that has handed over come another way.
    pub fn drains(&self) -> Drains {
        let found = self.rules_file().filter(|_| self.leases.is_none());
        found.map_or_else(Drains::default, |rules| {
            drains::read(&drains::beside(&rules), self.boot)
        })
    }

    /// Where VRRP notes until when its adverts keep the peers waiting: beside the connection table,
    /// which is in memory, or in the state directory if no file can be written there (hugetlbfs).
    pub fn leases(&self, config: &Config) -> Place {
        let table = config.state.table.as_ref();
        let beside = table.map(|table| disk::with_suffix(table, ".vrrp"));
        let paths = beside
            .into_iter()
            .chain(self.directory.as_ref().map(|dir| dir.join("vrrp")));
        let before = self.run.as_ref().map(Run::before);
        Place {
            paths: paths.collect(),
            boot: self.boot,
            may_resume: before == Some(Ended::Crashed),
            inherited: self.leases.clone(),
        }
    }

    /// The model to start with: the file, and what outlived the run before.
    ///
    /// # Errors
    /// The rules of the file exceed a capacity.
    pub fn model(&self, now: Instant, config: &Config) -> Result<Model, Refusal> {
        if let Some(kept) = &self.kept {
            match with_kept(now, config, kept) {
                Ok(model) => {
                    let running = &kept.running;
                    tracing::info!(
                        event = "recovery",
                        services = running.services.len(),
                        live = rules::live_changes(running, &config.rules),
                        "going on with the rules of the last run, which did not end in order"
                    );
                    return Ok(model);
                }
                Err(why) => tracing::error!(
                    event = "recovery",
                    "the rules that ran are refused ({}); rvsd starts from {} alone",
                    why.message,
                    config.path.display()
                ),
            }
        }
        let mut model = from_file(now, config)?;
        for (service, server) in &self.drained {
            let change = Change::SetState(*service, *server, OperatorState::Drain);
            // What is not in the file any more need not be drained.
            if model.apply(now, Author::Operator, &change, &[]).is_ok() {
                tracing::info!(
                    event = "drain",
                    service = config::describe_service(service),
                    dest = config::describe_server(server),
                    "it was drained before the start; `rvsadm undrain` ends that"
                );
            }
        }
        Ok(model)
    }

    /// The start failed before anything ran: the next one finds what this one found.
    pub fn undo(self) {
        if let Some(run) = self.run {
            run.undo();
        }
    }

    /// The daemon ended in order: the next start begins with the file.
    pub fn end(self) {
        if let Some(run) = self.run {
            run.end();
        }
    }
}

/// Which servers were drained in the run before. Rules that cannot be used are no loss here: after
/// an orderly end they need not even be there.
fn drained(config: &Config, path: &std::path::Path) -> Vec<Subject> {
    let kept = std::fs::read(path).ok();
    let kept = kept.map(|bytes| Kept::load(path, &bytes));
    match kept {
        Some(Ok(kept)) if kept.config == config.path => rules::drained(&kept.running),
        _ => Vec::new(),
    }
}

/// Reads the rules that ran; what is wrong with them is told in a line.
fn read(config: &Config, path: &std::path::Path) -> Option<Kept> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(why) => {
            tracing::warn!(
                event = "recovery",
                "the last run did not end in order, and its rules cannot be read ({}: {why}); \
                 rvsd starts from {}",
                path.display(),
                config.path.display()
            );
            return None;
        }
    };
    match Kept::load(path, &bytes) {
        Ok(kept) if kept.config == config.path => Some(kept),
        Ok(kept) => {
            tracing::warn!(
                event = "recovery",
                "the rules of the last run belong to {}; rvsd starts from {}",
                kept.config.display(),
                config.path.display()
            );
            None
        }
        Err(why) => {
            tracing::error!(
                event = "recovery",
                "{}: {why}; rvsd starts from {}",
                path.display(),
                config.path.display()
            );
            set_aside(path, "damaged rules");
            set_aside(&journal::beside(path), "journal of their changes");
            None
        }
    }
}

fn set_aside(path: &std::path::Path, what: &str) {
    match disk::set_aside(path) {
        Ok(None) => {}
        Ok(Some(to)) => tracing::warn!(event = "set-aside", "{what}: kept as {}", to.display()),
        Err(why) => tracing::error!(
            event = "set-aside",
            "{what}: {} cannot be renamed ({why}); remove it by hand",
            path.display()
        ),
    }
}

fn empty(config: &Config) -> Model {
    let limits = Limits {
        services: config.workers.max_services,
        servers: config.workers.max_servers,
        workers: config.workers.cores.len(),
    };
    let mut empty = Model::new(limits, config.rules.settings);
    empty.set_ports(config.ports.iter().map(|p| p.name.clone()).collect());
    empty
}

/// The model of the file alone.
///
/// # Errors
/// Its rules exceed a capacity.
pub fn from_file(now: Instant, config: &Config) -> Result<Model, Refusal> {
    let empty = empty(config);
    let nothing = config::Rules {
        settings: config.rules.settings,
        ..config::Rules::default()
    };
    let plan = config::plan(&nothing, &empty.running(), &config.rules, false);
    reload::carry_out(&empty, &plan, now, &[])
}

/// What ran, after a reload of the file as it is now.
///
/// # Errors
/// The rules exceed a capacity.
pub fn with_kept(now: Instant, config: &Config, kept: &Kept) -> Result<Model, Refusal> {
    let mut running = kept.running.clone();
    let difference = config::plan(&kept.last, &running, &config.rules, false);
    difference.apply_to(&mut running);
    for line in difference.summary().lines() {
        if line != "nothing to change" {
            tracing::info!(event = "recovery", "since the file was loaded last: {line}");
        }
    }
    let mut empty = empty(config);
    empty.set_settings(running.settings);
    let nothing = config::Rules {
        settings: running.settings,
        ..config::Rules::default()
    };
    let mut plan: Plan = config::plan(&nothing, &empty.running(), &running.to_rules(), false);
    plan.actions.extend(rules::origins(&running));
    reload::carry_out(&empty, &plan, now, &[])
}

#[cfg(test)]
mod tests;
