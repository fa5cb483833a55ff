//! What a backup does about adverts and about silence.

use core::net::IpAddr;

use super::{Cause, Instance, State};
use crate::config::Preempt;
use crate::output::Outputs;
use crate::packet::Advert;
use crate::time::Instant;
use crate::timers;

impl Instance {
    pub(super) fn advert_as_backup(&mut self, now: Instant, src: IpAddr, advert: &Advert<'_>) {
        let (priority, preempt) = (self.priority, self.config.preempt());
        let State::Backup(backup) = &mut self.state else {
            return;
        };
        if advert.priority == 0 {
            // RFC 5798, 6.4.2: only the skew is waited for. A second such advert does not start
            // the wait again.
            let skew = timers::skew(self.config.version, priority, self.interval);
            backup.master_down = backup.master_down.min(now + skew);
            // Not silence, but its word is what is gone by.
            backup.proof_from = now;
            return;
        }
        let is_accepted = if advert.priority >= priority {
            backup.preempt_at = None;
            true
        } else {
            let is_left = match preempt {
                Preempt::Never => true,
                Preempt::Now => false,
                Preempt::After(delay) => now < *backup.preempt_at.get_or_insert(now + delay),
            };
            is_left || self.facts.is_held
        };
        if !is_accepted {
            // The timer runs on: the lower master is taken over from at the old deadline.
            return;
        }
        if backup.master.is_none_or(|(known, _)| known != src) {
            self.raised = super::Raised::default();
        }
        backup.master = Some((src, advert.priority));
        backup.wants_master = false;
        self.learn(advert.interval);
        let down = now + self.master_down();
        if let State::Backup(backup) = &mut self.state {
            backup.wait(now, down);
        }
    }

    /// The master-down timer ended.
    pub(super) fn silence(&mut self, now: Instant, out: &mut Outputs) {
        let down = self.master_down();
        let State::Backup(backup) = &self.state else {
            return;
        };
        // Something came in when adverts were missing already: we are not deaf.
        let is_proven = self
            .facts
            .heard_at
            .is_some_and(|at| at >= backup.proof_from);
        let is_owner = self.config.is_owner() && self.config.starts_as_master;
        if let Some(until) = self.facts.unproven_until.filter(|until| now < *until)
            && self.config.needs_live_receive_path
            && !is_owner
            && let State::Backup(backup) = &mut self.state
        {
            // A switch's port that passes nothing yet, and not a master that says nothing.
            backup.wait(now, until.min(now + down));
            return;
        }
        if self.config.needs_live_receive_path && !is_proven && !is_owner {
            self.facts.is_deaf = true;
            self.evaluate(now, out);
            return;
        }
        if self.facts.is_grouped
            && let State::Backup(backup) = &mut self.state
        {
            // The group promotes all members when the last of them wants it.
            backup.wants_master = true;
            backup.wait(now, now + down);
            return;
        }
        self.become_master(now, Cause::MasterDown, out);
    }
}
