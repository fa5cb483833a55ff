//! What runs, beside the connections: all that a successor goes on with.

use serde::{Deserialize, Serialize};

use crate::api::{DaemonSpec, ServerKey, ServiceKey};
use crate::config::Config;
use crate::drains::{Drained, Drains};
use crate::health::{Health, Report, Stood, Subject};
use crate::model::Statistics;
use crate::recovery::rules::{Kept, Unreadable};
use crate::state::State;
use crate::sync::Sync;

/// See the module. Times are of `CLOCK_BOOTTIME`, nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estate {
    /// The rules with live changes, as [`Kept::encode`] writes them.
    pub rules: String,
    /// Until when adverts of VRRP keep the peers waiting; filled in when they have ended here.
    #[serde(default)]
    pub leases: String,
    /// Drains under way.
    #[serde(default)]
    pub drains: Vec<Drained>,
    /// How health checks stand.
    #[serde(default)]
    pub checks: Vec<Checked>,
    /// Daemons of connection synchronisation that run by command.
    #[serde(default)]
    pub daemons: Vec<DaemonSpec>,
    /// Totals and rates; filled in when nothing is counted here any more.
    #[serde(default)]
    pub statistics: Option<Statistics>,
}

/// How the checks of a server stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    service: ServiceKey,
    server: ServerKey,
    ups: Vec<bool>,
    delta: i64,
}

impl Estate {
    /// What runs now.
    pub fn of(state: &State) -> Estate {
        let kept = Kept {
            config: state.config.path.clone(),
            last: state.config.rules.clone(),
            running: state.model.running(),
        };
        let checks = state.health.iter().flat_map(Health::states);
        let daemons = state.sync.as_ref().map(Sync::by_command);
        Estate {
            // Head and JSON: it is text.
            rules: String::from_utf8(kept.encode()).unwrap_or_default(),
            leases: String::new(),
            drains: state.drains.written(),
            checks: checks.map(Checked::of).collect(),
            daemons: daemons.unwrap_or_default(),
            statistics: None,
        }
    }

    /// The rules.
    ///
    /// # Errors
    /// They are of another version.
    pub fn kept(&self, config: &Config) -> Result<Kept, Unreadable> {
        let mut kept = Kept::decode(self.rules.as_bytes())?;
        // It is the same daemon, wherever its file lies.
        kept.config.clone_from(&config.path);
        Ok(kept)
    }

    /// Goes on with everything that is not part of the rules, before anything runs.
    pub fn settle(&self, state: &mut State) {
        if let Some(health) = &mut state.health {
            let checks = self.checks.iter();
            health.inherit(checks.map(Checked::stood).collect());
        }
        if let Some(statistics) = &self.statistics {
            state.model.inherit_statistics(statistics);
        }
        state.drains = Drains::read(&self.drains);
    }
}

impl Checked {
    fn of(report: &Report) -> Checked {
        let (service, server) = report.subject;
        Checked {
            service,
            server,
            ups: report.checks.iter().map(|check| check.up).collect(),
            delta: report.delta,
        }
    }

    fn stood(&self) -> (Subject, Stood) {
        let stood = Stood {
            ups: self.ups.clone(),
            delta: self.delta,
        };
        ((self.service, self.server), stood)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Protocol;
    use dataplane::time::Instant;

    /// What a version before or after this one says is understood as far as it goes.
    #[test]
    fn messages_may_lack_what_is_new_and_have_what_is_unknown() {
        let lean: Estate = serde_json::from_str(r#"{"rules":"r","tomorrow":[1]}"#).unwrap();
        let expected = Estate {
            rules: "r".to_owned(),
            ..Estate::default()
        };
        assert_eq!(lean, expected);
    }

    #[test]
    fn drains_and_checks_survive_the_way() {
        let service = ServiceKey::new(Protocol::Tcp, [10, 0, 0, 1].into(), 80);
        let server = ServerKey {
            addr: [10, 0, 1, 1].into(),
            port: 8080,
        };
        let report = Report {
            subject: (service, server),
            alive: false,
            delta: -7,
            checks: [true, false]
                .map(|up| crate::health::CheckState {
                    kind: "tcp",
                    up,
                    has_run: true,
                    failure: None,
                    via: None,
                })
                .into(),
        };
        let estate = Estate {
            checks: vec![Checked::of(&report)],
            drains: {
                let mut drains = Drains::default();
                let at = Instant::from_secs;
                drains.start(at(5), (service, server), Some(at(9)));
                drains.written()
            },
            ..Estate::default()
        };
        let sent = serde_json::to_string(&estate).unwrap();
        let came: Estate = serde_json::from_str(&sent).unwrap();
        assert_eq!(came, estate);
        let stood = Stood {
            ups: vec![true, false],
            delta: -7,
        };
        assert_eq!(came.checks[0].stood(), ((service, server), stood));
    }
}
