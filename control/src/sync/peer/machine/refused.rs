//! Hellos that are not taken: how many for which reason, and who sends them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane::time::Instant;

use super::{INTERVAL, MAX_PEERS, MISSED};
use crate::api::HellosRefused;
use crate::sync::auth::Why;

/// Why a hello is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// Its trailer.
    Seal(Why),
    /// It is none, or of another version.
    Garbled,
}

impl NotTaken {
    /// Whether it stays so until somebody does something: a single hello that came twice, or that
    /// was damaged on the way, says nothing.
    fn is_lasting(self) -> bool {
        matches!(
            self,
            NotTaken::Seal(Why::Unsigned | Why::Key | Why::Forged | Why::Stale)
        )
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    /// By reason.
    pub counts: HellosRefused,
    /// Who is refused for a lasting reason, and when he last was.
    senders: BTreeMap<IpAddr, (Why, Instant)>,
}

impl Refusals {
    /// One was refused. The reason, if it lasts and its sender was not known for it.
    pub fn add(&mut self, now: Instant, from: IpAddr, why: NotTaken) -> Option<Why> {
        let counts = &mut self.counts;
        let counter = match why {
            NotTaken::Seal(Why::Unsigned) => &mut counts.unsigned,
            NotTaken::Seal(Why::Key | Why::Forged) => &mut counts.forged,
            NotTaken::Seal(Why::Stale) => &mut counts.stale,
            NotTaken::Seal(Why::Replayed | Why::Crowded) => &mut counts.replayed,
            NotTaken::Garbled => &mut counts.garbled,
        };
        *counter += 1;
        let NotTaken::Seal(reason) = why else {
            return None;
        };
        if !why.is_lasting() {
            return None;
        }
        if let Some(known) = self.senders.get_mut(&from) {
            *known = (reason, now);
            return None;
        }
        // Anybody can send as anybody: the list stays short, and says no more when it is full.
        if self.senders.len() >= MAX_PEERS {
            return None;
        }
        self.senders.insert(from, (reason, now));
        Some(reason)
    }

    /// A hello of this node was taken; whether it was refused before.
    pub fn remove(&mut self, from: IpAddr) -> bool {
        self.senders.remove(&from).is_some()
    }

    /// Who has sent none for as long as a peer has to be silent to be lost.
    pub fn silent(&mut self, now: Instant) -> Vec<IpAddr> {
        let mut over = Vec::new();
        self.senders.retain(|addr, (_, at)| {
            let is_over = now >= *at + INTERVAL * MISSED;
            over.extend(is_over.then_some(*addr));
            !is_over
        });
        over
    }

    /// Who is refused, and why.
    pub fn senders(&self) -> impl Iterator<Item = (IpAddr, Why)> + '_ {
        self.senders.iter().map(|(addr, (why, _))| (*addr, *why))
    }
}
