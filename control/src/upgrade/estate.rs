//! What runs, beside the connections: all that a successor goes on with.

use dataplane::time::Instant;
use serde::{Deserialize, Serialize};

use crate::api::{ServerKey, ServiceKey};
use crate::config::Config;
use crate::drains::{Drain, Drains};
use crate::recovery::rules::{Kept, Unreadable};
use crate::state::State;

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
}

/// A drain under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    service: ServiceKey,
    server: ServerKey,
    since: u64,
    deadline: Option<u64>,
    over: bool,
}

impl Estate {
    /// What runs now.
    pub fn of(state: &State) -> Estate {
        let kept = Kept {
            config: state.config.path.clone(),
            last: state.config.rules.clone(),
            running: state.model.running(),
        };
        let drained = |((service, server), drain): (crate::health::Subject, Drain)| Drained {
            service,
            server,
            since: drain.since.0,
            deadline: drain.deadline.map(|at| at.0),
            over: drain.over,
        };
        Estate {
            // Head and JSON: it is text.
            rules: String::from_utf8(kept.encode()).unwrap_or_default(),
            leases: String::new(),
            drains: state.drains.iter().map(drained).collect(),
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

    /// Goes on with everything that is not part of the rules.
    pub fn settle(&self, state: &mut State) {
        let drain = |d: &Drained| {
            let drain = Drain {
                since: Instant(d.since),
                deadline: d.deadline.map(Instant),
                over: d.over,
            };
            ((d.service, d.server), drain)
        };
        state.drains = self.drains.iter().map(drain).collect::<Drains>();
    }
}
