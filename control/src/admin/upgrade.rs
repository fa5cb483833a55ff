//! `rvsadm upgrade`, up to the moment when a successor is prepared.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dataplane::conn::image;
use dataplane::time::Instant;

use super::{Admin, Begun, Pending, error};
use crate::api::{ErrorKind, HandOver};
use crate::model::Refusal;
use crate::server::{ClientId, Server};
use crate::state::State;
use crate::upgrade::{Attempt, Estate, Hello, PROTOCOL, Successor};

/// How long a program may take until it is prepared: zeroing hugepages takes 0.3 s for each GiB,
/// more on a busy host.
const DEADLINE: Duration = Duration::from_secs(120);

/// An upgrade that was ordered.
pub(super) struct Ordered {
    client: ClientId,
    attempt: Attempt,
    wish: HandOver,
}

/// A successor that waits for the ports, and who ordered it.
pub struct Prepared {
    /// Who gets the answer.
    pub client: ClientId,
    /// The new program.
    pub successor: Successor,
    /// Whether another node is to be master meanwhile.
    pub wish: HandOver,
    /// What was decided about that, for whoever gets the answer; empty: nothing to tell.
    pub decided: Option<String>,
}

impl Admin {
    pub(super) fn begin_upgrade(
        &mut self,
        state: &State,
        client: ClientId,
        binary: Option<PathBuf>,
        deadline: Option<u32>,
        wish: HandOver,
    ) -> Begun {
        let refuse = |kind, message: &str| Begun::Answer(error(Refusal::new(kind, message)));
        if self.upgrade.is_some() {
            return refuse(ErrorKind::Busy, "an upgrade is under way already");
        }
        let (Some(launch), Some(waker)) = (&state.launch, &state.waker) else {
            return refuse(
                ErrorKind::Failed,
                "this daemon does not know how it was started",
            );
        };
        let deadline = deadline.map_or(DEADLINE, |secs| Duration::from_secs(u64::from(secs)));
        let hello = Hello {
            protocol: PROTOCOL,
            version: state.version.version.clone(),
            prefix: launch.prefix.clone(),
            scatter: launch.scatter,
            table: launch.table.clone(),
            records: image::VERSION,
            estate: Estate::of(state),
        };
        let waker = Arc::clone(waker);
        match Attempt::start((**launch).clone(), binary, deadline, hello, waker) {
            Ok(attempt) => {
                tracing::info!(event = "upgrade", "a new program is being started");
                self.upgrade = Some(Ordered {
                    client,
                    attempt,
                    wish,
                });
                Begun::Wait(Pending::Upgrade)
            }
            Err(why) => refuse(ErrorKind::Failed, &format!("no thread for it: {why}")),
        }
    }

    /// The successor, once it is prepared; whoever ordered one that failed is told why.
    pub fn take_successor(&mut self, now: Instant, server: &mut Server) -> Option<Prepared> {
        let result = self.upgrade.as_ref()?.attempt.take()?;
        let Ordered { client, wish, .. } = self.upgrade.take()?;
        match result {
            Ok(successor) => Some(Prepared {
                client,
                successor,
                wish,
                decided: None,
            }),
            Err(why) => {
                self.upgrade_failed(now, server, client, &why);
                None
            }
        }
    }

    /// Tells whoever ordered it that rvsd goes on as before, and why.
    pub fn upgrade_failed(
        &mut self,
        now: Instant,
        server: &mut Server,
        client: ClientId,
        why: &str,
    ) {
        let message = format!("{why}\nnothing has changed: rvsd goes on as before");
        tracing::error!(event = "upgrade", "{message}");
        self.pending.remove(&client);
        let refusal = Refusal::new(ErrorKind::Failed, message);
        server.answer(now, client, &error(refusal));
    }

    /// Whoever ordered it is gone: nothing is to change unseen.
    pub(super) fn forget_upgrade(&mut self, client: ClientId) {
        let is_theirs = |ordered: &mut Ordered| ordered.client == client;
        if self.upgrade.take_if(is_theirs).is_some() {
            tracing::warn!(event = "upgrade", "given up: rvsadm has ended");
        }
    }
}
