//! Becoming master, being it and ceasing to be it.

use core::net::IpAddr;
use core::time::Duration;

use super::lease::Lease;
use super::{Announcements, Backup, Cause, Instance, Master, State};
use crate::announce::Claim;
use crate::output::{Alarm, Announced, Output, Outputs};
use crate::packet::Advert;
use crate::time::Instant;

/// Between two alarms about foreign MACs, and the announcements that go with them.
const CLAIM_INTERVAL: Duration = Duration::from_secs(1);
/// Adverts out of turn in one interval at most: somebody who sends many adverts must not make us
/// send more.
const REACTIONS: u32 = 4;

/// Claims of our addresses by others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claims {
    alarmed: Option<Instant>,
    suppressed: u64,
}

/// `at` unless the delay is zero.
fn after(now: Instant, delay: Duration) -> Option<Instant> {
    (!delay.is_zero()).then(|| now + delay)
}

impl Instance {
    /// Takes over: the advert first, then the addresses.
    pub(super) fn become_master(&mut self, now: Instant, cause: Cause, out: &mut Outputs) {
        self.interval = self.config.interval;
        let announcing = self.config.announcing;
        self.state = State::Master(Master {
            next_advert: now,
            lease: Lease::new(now, self.lease_length()),
            announcing: Announcements {
                again: after(now, announcing.delay).map(|at| (at, announcing.repeat)),
                refresh: after(now, announcing.refresh).map(|at| at + announcing.delay),
            },
            reacted: None,
        });
        self.counters.became_master += 1;
        self.send_advert(now, out);
        let addresses = self.config.all_addresses().copied().collect::<Vec<_>>();
        if !addresses.is_empty() {
            self.emit(self.addition(addresses), out);
        }
        self.announce(Announced::VirtualAddresses, announcing.repeat, out);
        self.entered(now, cause, out);
    }

    pub(super) fn addition(&self, addresses: Vec<crate::config::VirtualAddress>) -> Output {
        let accept = self.config.accept || self.config.is_owner();
        Output::AddAddresses {
            addresses,
            accept,
            virtual_mac: self.virtual_mac(),
        }
    }

    pub(super) fn master_timer(&mut self, now: Instant, out: &mut Outputs) {
        let State::Master(master) = &mut self.state else {
            return;
        };
        let is_due = master.next_advert <= now;
        let again = master.announcing.again.take_if(|(at, _)| *at <= now);
        let refresh = master.announcing.refresh.filter(|at| *at <= now);
        if refresh.is_some() {
            master.announcing.refresh = after(now, self.config.announcing.refresh);
        }
        if is_due {
            self.send_advert(now, out);
        }
        if let Some((_, rounds)) = again {
            self.announce(Announced::VirtualAddresses, rounds, out);
        }
        if refresh.is_some() {
            let rounds = self.config.announcing.refresh_repeat;
            self.announce(Announced::VirtualAddresses, rounds, out);
        }
    }

    pub(super) fn advert_as_master(
        &mut self,
        now: Instant,
        src: IpAddr,
        advert: &Advert<'_>,
        out: &mut Outputs,
    ) {
        let ours = (self.priority, self.facts.source());
        let theirs = (advert.priority, Some(src));
        if advert.priority == 0 {
            if self.may_react(now) {
                self.send_advert(now, out);
            }
        } else if theirs == ours {
            self.raise(|raised| &mut raised.own_address, Alarm::OwnAddress, out);
        } else if theirs > ours {
            // RFC 5798, 6.4.3: the greater priority wins, then the greater address.
            if self.config.advert_before_yielding {
                self.send_advert(now, out);
            }
            self.learn(advert.interval);
            self.give_way(now, Cause::HigherPriority, out);
            if let State::Backup(backup) = &mut self.state {
                backup.master = Some((src, advert.priority));
            }
        } else {
            self.lower_master(now, src, advert.priority, out);
        }
    }

    fn lower_master(&mut self, now: Instant, peer: IpAddr, priority: u8, out: &mut Outputs) {
        self.counters.lower_received += 1;
        self.raise(
            |raised| &mut raised.lower,
            Alarm::LowerMaster { peer, priority },
            out,
        );
        if self.config.answers_lower && self.may_react(now) {
            self.send_advert(now, out);
            self.announce_again(now, out);
            self.reaction.lower_master = true;
        }
    }

    /// Announces all addresses now and once more later, if master.
    pub(super) fn announce_again(&mut self, now: Instant, out: &mut Outputs) {
        let announcing = self.config.announcing;
        let State::Master(master) = &mut self.state else {
            return;
        };
        if announcing.lower_repeat > 0 && master.announcing.again.is_none() {
            let rounds = announcing.lower_repeat;
            master.announcing.again = after(now, announcing.lower_delay).map(|at| (at, rounds));
        }
        self.announce(Announced::VirtualAddresses, announcing.lower_repeat, out);
    }

    /// Whether an advert out of turn may be sent now.
    fn may_react(&mut self, now: Instant) -> bool {
        let least = self.config.interval.duration() / REACTIONS;
        let State::Master(master) = &mut self.state else {
            return false;
        };
        let may = master.reacted.is_none_or(|at| now.since(at) >= least);
        if may {
            master.reacted = Some(now);
        }
        may
    }

    /// Becomes backup without a word: somebody else is master, or has to be found.
    pub(super) fn give_way(&mut self, now: Instant, cause: Cause, out: &mut Outputs) {
        self.release(out);
        let master_down = now + self.master_down();
        self.enter(
            now,
            State::Backup(Backup::new(now, master_down)),
            cause,
            out,
        );
    }

    /// Lets the addresses go.
    pub(super) fn release(&mut self, out: &mut Outputs) {
        let addresses = self.config.all_addresses().copied().collect::<Vec<_>>();
        if !addresses.is_empty() {
            self.emit(Output::RemoveAddresses(addresses), out);
        }
        self.counters.released_master += 1;
        self.reaction.ceased = true;
    }

    /// A frame said that `claim.addr` is at `claim.mac`.
    pub(super) fn claimed(&mut self, now: Instant, claim: Claim, out: &mut Outputs) {
        let is_ours = self
            .config
            .all_addresses()
            .any(|address| address.addr == claim.addr);
        let is_own_mac = claim.mac == self.facts.mac || Some(claim.mac) == self.virtual_mac();
        if !is_ours || is_own_mac || !matches!(self.state, State::Master(_)) {
            return;
        }
        self.counters.foreign_claims += 1;
        if self
            .claims
            .alarmed
            .is_some_and(|at| now.since(at) < CLAIM_INTERVAL)
        {
            self.claims.suppressed += 1;
            return;
        }
        self.claims.alarmed = Some(now);
        let suppressed = core::mem::take(&mut self.claims.suppressed);
        self.emit(Output::Alarm(Alarm::ForeignMac { claim, suppressed }), out);
        self.announce(Announced::VirtualAddresses, 1, out);
    }
}
