//! What an instance was told about its surroundings, and what of it is a fault.

use core::net::IpAddr;

use super::{Backup, Cause, Instance, State};
use crate::addr::{Family, Mac};
use crate::config::{Config, Transport};
use crate::output::{Announced, Output, Outputs};
use crate::packet::Version;
use crate::time::Instant;
use crate::timers;
use crate::track::Summary;

/// How an instance is, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// It can be a router.
    Fine,
    /// A tracker whose failure would be a fault has said nothing yet.
    Pending,
    /// It is at fault.
    Fault,
}

/// Last reports.
#[derive(Debug)]
pub(super) struct Facts {
    /// The interface's state as reported.
    link_is_up: Option<bool>,
    /// The interface came up and nothing has come in since: until then silence says nothing.
    pub unproven_until: Option<Instant>,
    /// What of it counts.
    is_up: bool,
    /// The interface's address as reported.
    found: Option<IpAddr>,
    pub mac: Mac,
    /// Kept when it is gone, to send a last advert with.
    source: Option<IpAddr>,
    has_source: bool,
    pub track: Summary,
    /// When the receive path was last proven.
    pub heard_at: Option<Instant>,
    /// Silence was met without that proof.
    pub is_deaf: bool,
    pub group: Health,
    pub is_grouped: bool,
    /// The node leaves a living master alone.
    pub is_held: bool,
}

impl Facts {
    /// Nothing is known: a link that was not reported is down.
    pub fn new(is_grouped: bool) -> Facts {
        Facts {
            link_is_up: None,
            unproven_until: None,
            is_up: false,
            found: None,
            mac: Mac::default(),
            source: None,
            has_source: false,
            track: Summary::default(),
            heard_at: None,
            is_deaf: false,
            group: Health::Fine,
            is_grouped,
            is_held: false,
        }
    }

    /// True if it was down before, and is up now.
    pub fn set_link(&mut self, is_up: bool, config: &Config) -> bool {
        let was_down = self.link_is_up.replace(is_up) == Some(false);
        self.configure(config);
        was_down && is_up
    }

    pub fn set_source(&mut self, found: Option<IpAddr>, config: &Config) {
        self.found = found.filter(|addr| Family::of(*addr) == config.key.family);
        self.configure(config);
    }

    /// Weighs the reports as a configuration wants it.
    pub fn configure(&mut self, config: &Config) {
        self.is_up = self.link_is_up == Some(true) || !config.tracks_link;
        let source = config.source.or(self.found);
        self.has_source = source.is_some();
        self.source = source.or(self.source);
    }

    /// The address to send from, or the last there was.
    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// A fault of its own.
    fn own_fault(&self) -> Option<Cause> {
        if !self.is_up {
            Some(Cause::LinkDown)
        } else if !self.has_source {
            Some(Cause::NoSource)
        } else if self.track.faults > 0 {
            Some(Cause::TrackerFault)
        } else if self.is_deaf {
            Some(Cause::Deaf)
        } else {
            None
        }
    }

    pub fn own_health(&self) -> Health {
        match self.own_fault() {
            Some(_) => Health::Fault,
            None if self.track.pending > 0 => Health::Pending,
            None => Health::Fine,
        }
    }

    fn fault(&self) -> Option<Cause> {
        self.own_fault()
            .or((self.group == Health::Fault).then_some(Cause::GroupFault))
    }

    fn is_pending(&self) -> bool {
        self.track.pending > 0 || self.group == Health::Pending
    }
}

impl Instance {
    pub(super) fn start(&mut self, now: Instant, out: &mut Outputs) {
        if self.state != State::Init {
            return;
        }
        let stale = self.config.all_addresses().copied().collect::<Vec<_>>();
        if !stale.is_empty() {
            self.emit(Output::RemoveAddresses(stale), out);
        }
        self.facts.configure(&self.config);
        self.listens_from = now + self.config.startup_delay;
        self.looked = now;
        self.interval = self.config.interval;
        self.state = State::Waiting;
        self.evaluate(now, out);
    }

    /// Goes to or from fault as the facts want it.
    pub(super) fn evaluate(&mut self, now: Instant, out: &mut Outputs) {
        let fault = self.facts.fault();
        match (&self.state, fault) {
            (State::Init, _) => {}
            (State::Fault(known), Some(cause)) => {
                // Still at fault, perhaps for another reason: nothing to tell.
                if *known != cause {
                    self.state = State::Fault(cause);
                }
            }
            (State::Waiting | State::Backup(_), Some(cause)) => {
                self.enter(now, State::Fault(cause), cause, out);
            }
            (State::Master(_), Some(cause)) => {
                // Twice, as keepalived does: the second is an insurance against loss.
                self.send_zero(out);
                self.send_zero(out);
                self.release(out);
                self.enter(now, State::Fault(cause), cause, out);
            }
            (State::Waiting | State::Fault(_), None) if self.facts.is_pending() => {}
            (State::Waiting, None) => self.listen(now, Cause::Start, out),
            (State::Fault(_), None) => self.listen(now, Cause::Cleared, out),
            (State::Backup(_) | State::Master(_), None) => {}
        }
    }

    /// Becomes backup for the first time or after a fault.
    fn listen(&mut self, now: Instant, cause: Cause, out: &mut Outputs) {
        self.interval = self.config.interval;
        if self.resume_until.take().is_some_and(|until| now <= until) {
            return self.resume(now, out);
        }
        let is_owner = self.config.is_owner() && self.config.starts_as_master;
        let is_eager = is_owner && !self.facts.is_held;
        let wait = match cause {
            // RFC 5798, 6.4.1: the owner does not wait. A start-up delay still counts.
            Cause::Start if is_eager => core::time::Duration::from_micros(1),
            _ if is_eager => {
                let Self {
                    config,
                    priority,
                    interval,
                    ..
                } = self;
                config.interval.duration() + timers::skew(config.version, *priority, *interval)
            }
            _ => self.master_down(),
        };
        let master_down = now.max(self.listens_from) + wait;
        self.enter(
            now,
            State::Backup(Backup::new(now, master_down)),
            cause,
            out,
        );
        let is_unicast = matches!(self.config.transport, Transport::Unicast { .. });
        match self.facts.source() {
            Some(source) if is_unicast && cause == Cause::Cleared => {
                self.announce(Announced::Source(source), 1, out);
            }
            _ => {}
        }
    }

    /// Goes on as master after a restart that no peer can have noticed: all of them still wait for
    /// the next advert.
    fn resume(&mut self, now: Instant, out: &mut Outputs) {
        // The one before has listened.
        self.listens_from = now;
        if self.facts.is_grouped {
            // The group promotes all members when the last of them resumes.
            let mut backup = Backup::new(now, now + self.master_down());
            backup.wants_master = true;
            return self.enter(now, State::Backup(backup), Cause::Resume, out);
        }
        self.become_master(now, Cause::Resume, out);
    }

    pub(super) fn frame_heard(&mut self, now: Instant, out: &mut Outputs) {
        self.facts.heard_at = Some(now);
        if core::mem::take(&mut self.facts.is_deaf) {
            self.look(now, out);
            self.evaluate(now, out);
        }
    }

    /// The first frame since the interface came up: the silence begins here, unless it began later.
    pub(super) fn arrived(&mut self, now: Instant) {
        if self.facts.unproven_until.take().is_none() {
            return;
        }
        let down = self.master_down();
        if let State::Backup(backup) = &mut self.state {
            backup.listen_until(now + down);
        }
    }

    /// Learns the master's interval from an accepted advert, in version 3.
    pub(super) fn learn(&mut self, interval: timers::AdvertInterval) {
        if self.config.version == Version::V3 {
            self.interval = interval;
        }
    }
}
