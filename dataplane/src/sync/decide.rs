//! Whether a client's packet makes the master announce its connection
//! (`ip_vs_sync_conn_needed`).
//!
//! The worker asks in two steps. [`Pace`] answers "perhaps" or "no" from the number of packets alone
//! and is all that the usual packet pays for; [`Last::decide`] has all rules.

use super::wire::Version;
use crate::proto::{sctp, tcp};
use crate::service::Protocol;
use crate::time::{TICKS_PER_SECOND, Ticks, secs};

/// The sysctls that say when (`net.ipv4.vs.sync_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// First number of `sync_threshold`: at which packet of a connection it is announced.
    pub threshold: u32,
    /// Second number: after how many packets again; 0 for never.
    pub period: u32,
    /// `sync_refresh_period`, seconds: announced again when its end has moved by so much; 0 to go
    /// by packets alone.
    pub refresh_period: u32,
    /// `sync_retries`: how often an announcement is repeated in the meantime, 0 to 3.
    pub retries: u32,
    /// `sync_persist_mode`: of persistent connections only their templates.
    pub persist_mode: bool,
    /// `sync_version`.
    pub version: Version,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            threshold: 3,
            period: 50,
            refresh_period: 0,
            retries: 0,
            persist_mode: false,
            version: Version::V1,
        }
    }
}

/// At which numbers of packets an established connection may be due: a remainder without a
/// division. `n` is a multiple of `d` exactly if `n * ceil(2^64 / d) mod 2^64` is less than that
/// factor (Lemire, Kaser and Kurz, "Faster remainder by direct computation", 2019).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    factor: u64,
    below: u64,
    offset: u32,
}

impl Pace {
    /// Never: this worker announces nothing.
    pub const NEVER: Pace = Pace {
        factor: 0,
        below: 0,
        offset: 0,
    };

    /// By these rules.
    pub fn of(rules: &Rules) -> Pace {
        let (factor, below, offset) = match rules.period {
            // The time decides, so every packet is looked at.
            0 if rules.refresh_period != 0 => (0, 1, 0),
            0 => (1, 1, rules.threshold.wrapping_neg()),
            1 => (0, 1, 0),
            period => {
                let factor = u64::MAX / u64::from(period) + 1;
                let offset = period - rules.threshold % period;
                (factor, factor, offset)
            }
        };
        Pace {
            factor,
            below,
            offset,
        }
    }

    /// Whether a connection may be due with this packet of its client. (Once in 2^32 packets the
    /// count wraps and one period is cut short.)
    #[inline(always)]
    pub fn is_due(&self, packets: u32) -> bool {
        u64::from(packets.wrapping_add(self.offset)).wrapping_mul(self.factor) < self.below
    }
}

/// What of a connection decides.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// A persistence template.
    pub is_template: bool,
    /// A template is above it, directly or not.
    pub is_persistent: bool,
    /// Its protocol; `None` for a mark's template.
    pub protocol: Option<Protocol>,
    /// State number.
    pub state: u8,
    /// Timeout of its state, ticks.
    pub timeout: u32,
    /// Packets of its client, this one included.
    pub packets: u32,
}

/// Of a connection: when it was announced last, and in which state (`sync_endtime`, `old_state`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Last {
    /// When it would have ended then. `None`: it never was.
    end: Option<Ticks>,
    /// Repetitions since.
    retries: u8,
    /// State then.
    state: u8,
}

/// Least difference of ends that counts, whatever the timeout (10 s).
const LEAST: u32 = secs(10);

/// States of TCP that are announced.
const TCP: u16 = 1 << tcp::State::Established as u8
    | 1 << tcp::State::FinWait as u8
    | 1 << tcp::State::Close as u8
    | 1 << tcp::State::CloseWait as u8
    | 1 << tcp::State::TimeWait as u8;

/// States of SCTP that are announced.
const SCTP: u16 = 1 << sctp::State::Established as u8
    | 1 << sctp::State::ShutdownSent as u8
    | 1 << sctp::State::ShutdownReceived as u8
    | 1 << sctp::State::ShutdownAckSent as u8
    | 1 << sctp::State::Closed as u8;

impl Last {
    /// Of a connection that was received in this state.
    pub fn received(state: u8) -> Last {
        Last {
            state,
            ..Last::default()
        }
    }

    /// Whether it was announced by this master.
    pub fn was_told(&self) -> bool {
        self.end.is_some()
    }

    /// By how many ticks an end that was told is behind the one that it has now; `None` if none
    /// was told.
    pub fn behind(&self, deadline: Ticks) -> Option<u32> {
        let end = self.end?;
        Some(deadline.since(end).max(0) as u32)
    }

    /// Whether it is announced; if so, that is noted.
    pub fn decide(&mut self, rules: &Rules, subject: &Subject, now: Ticks) -> bool {
        let mut retries = 0;
        if !self.ends(rules, subject) {
            match self.may(rules, subject, now) {
                Some(n) => retries = n,
                None => return false,
            }
        }
        self.note(subject.state, subject.timeout, retries, now);
        true
    }

    /// [`Last::decide`] for an established connection that is not persistent: of all rules those of
    /// time and number are left.
    pub fn decide_established(
        &mut self,
        rules: &Rules,
        state: u8,
        timeout: u32,
        packets: u32,
        now: Ticks,
    ) -> bool {
        if !is_number(rules, packets, false) {
            return false;
        }
        let Some(retries) = self.refresh(rules, timeout, now) else {
            return false;
        };
        self.note(state, timeout, retries, now);
        true
    }

    fn note(&mut self, state: u8, timeout: u32, retries: u8, now: Ticks) {
        *self = Last {
            end: Some(now.plus(timeout)),
            retries,
            state,
        };
    }

    /// Whether a state has come that is told at once.
    fn ends(&self, rules: &Rules, subject: &Subject) -> bool {
        if subject.is_template || rules.persist_mode && subject.is_persistent {
            return false;
        }
        let (told, established) = match subject.protocol {
            Some(Protocol::Tcp) => (TCP, tcp::State::Established as u8),
            Some(Protocol::Sctp) => (SCTP, sctp::State::Established as u8),
            _ => return false,
        };
        let is_told = told >> (subject.state & 15) & 1 != 0;
        is_told && subject.state != established && subject.state != self.state
    }

    /// Whether it may be told by its age and its packets: then as which repetition.
    fn may(&self, rules: &Rules, subject: &Subject, now: Ticks) -> Option<u8> {
        if !subject.is_template {
            if rules.persist_mode && subject.is_persistent {
                return None;
            }
            let told = match subject.protocol {
                Some(Protocol::Tcp) => TCP,
                Some(Protocol::Sctp) => SCTP,
                _ => u16::MAX,
            };
            if told >> (subject.state & 15) & 1 == 0 {
                return None;
            }
        }
        let retries = self.refresh(rules, subject.timeout, now)?;
        is_number(rules, subject.packets, subject.is_template).then_some(retries)
    }

    /// The rule of `sync_refresh_period`; timeout in ticks.
    fn refresh(&self, rules: &Rules, timeout: u32, now: Ticks) -> Option<u8> {
        let (Some(end), 1..) = (self.end, rules.refresh_period) else {
            return Some(0);
        };
        let period = secs(rules.refresh_period);
        let moved = now.plus(timeout).since(end).unsigned_abs();
        if moved >= period.min(LEAST.max(timeout / 2)) {
            return Some(0);
        }
        let told_at = Ticks(end.0.wrapping_sub(timeout));
        let is_time = now.reached(told_at.plus(period / 8));
        (u32::from(self.retries) < rules.retries && is_time).then_some(self.retries + 1)
    }

    /// In one word, for the memory of a shard. `epoch` is of the master's run: what an earlier one
    /// noted does not count.
    pub fn pack(self, epoch: u16) -> u64 {
        let (end, known) = match self.end {
            Some(end) => (end.0, 0x80),
            None => (0, 0),
        };
        u64::from(end)
            | u64::from(self.state) << 32
            | u64::from(self.retries & 3 | known) << 40
            | u64::from(epoch) << 48
    }

    /// The other way round.
    pub fn unpack(word: u64, epoch: u16) -> Last {
        if (word >> 48) as u16 != epoch {
            return Last::default();
        }
        let rest = (word >> 40) as u8;
        Last {
            end: (rest & 0x80 != 0).then_some(Ticks(word as u32)),
            retries: rest & 3,
            state: (word >> 32) as u8,
        }
    }
}

/// Whether the number of packets is one at which is told.
fn is_number(rules: &Rules, packets: u32, is_template: bool) -> bool {
    match (rules.period, rules.refresh_period) {
        (0, 0) => packets == rules.threshold,
        (0, _) => true,
        (period, _) => is_template || packets % period == rules.threshold,
    }
}

const _: () = assert!(TICKS_PER_SECOND >= 8);

#[cfg(test)]
mod tests {
    use super::*;

    const ESTABLISHED: u8 = tcp::State::Established as u8;

    fn rules(threshold: u32, period: u32, refresh_period: u32, retries: u32) -> Rules {
        Rules {
            threshold,
            period,
            refresh_period,
            retries,
            ..Rules::default()
        }
    }

    fn tcp(state: u8, packets: u32) -> Subject {
        Subject {
            is_template: false,
            is_persistent: false,
            protocol: Some(Protocol::Tcp),
            state,
            timeout: secs(900),
            packets,
        }
    }

    fn udp(packets: u32) -> Subject {
        Subject {
            protocol: Some(Protocol::Udp),
            timeout: secs(300),
            ..tcp(0, packets)
        }
    }

    /// At which of 60 packets, one each tenth of a second, a UDP connection is announced.
    fn announced(rules: Rules) -> Vec<u32> {
        let mut last = Last::default();
        let pace = Pace::of(&rules);
        let at = |n: u32| Ticks(7000 + n * TICKS_PER_SECOND / 10);
        let mut established = last;
        let due = (1..=60).filter(|&n| {
            let subject = tcp(ESTABLISHED, n);
            let (state, timeout) = (subject.state, udp(n).timeout);
            let is_told = last.decide(&rules, &udp(n), at(n));
            let short = established.decide_established(&rules, state, timeout, n, at(n));
            assert_eq!(short, is_told, "{rules:?}: {n}");
            is_told
        });
        let due: Vec<u32> = due.collect();
        assert!(due.iter().all(|&n| pace.is_due(n)), "{rules:?}: {due:?}");
        due
    }

    /// As measured with the kernel (ipvs-semantics, 6.3): 60 datagrams in 6 s.
    #[test]
    fn measured_numbers() {
        assert_eq!(announced(rules(3, 50, 0, 0)), [3, 53]);
        assert_eq!(announced(rules(3, 0, 0, 0)), [3]);
        assert_eq!(announced(rules(3, 0, 2, 0)).len(), 3);
        assert_eq!(announced(rules(0, 0, 0, 0)), []);
        assert_eq!(announced(rules(0, 1, 0, 0)).len(), 60);
    }

    /// An eighth of the period must have passed for a repetition, and the whole of it since the
    /// last one before the next announcement with its own repetitions.
    #[test]
    fn repetitions() {
        assert_eq!(announced(rules(3, 0, 4, 0)), [1, 41]);
        assert_eq!(announced(rules(3, 0, 4, 2)), [1, 6, 11, 51, 56]);
    }

    #[test]
    fn short_timeouts_are_refreshed_by_half_of_them() {
        let mut last = Last::default();
        let rules = rules(3, 0, 600, 0);
        let short = Subject {
            timeout: secs(40),
            ..udp(1)
        };
        assert!(last.decide(&rules, &short, Ticks(0)));
        assert!(!last.decide(&rules, &short, Ticks(secs(19))));
        assert!(last.decide(&rules, &short, Ticks(secs(20))));
        let other = Subject {
            timeout: secs(4),
            ..udp(1)
        };
        // A timeout that has changed moves the end as well as time does.
        assert!(last.decide(&rules, &other, Ticks(secs(20))));
        assert!(!last.decide(&rules, &other, Ticks(secs(29))));
        assert!(last.decide(&rules, &other, Ticks(secs(30))));
    }

    #[test]
    fn states_of_tcp() {
        let rules = Rules::default();
        let mut last = Last::default();
        let mut at =
            |state: tcp::State, packets| last.decide(&rules, &tcp(state as u8, packets), Ticks(0));
        assert!(!at(tcp::State::SynRecv, 3), "half-open ones never");
        assert!(!at(tcp::State::Established, 2));
        assert!(at(tcp::State::Established, 3));
        assert!(at(tcp::State::CloseWait, 4), "its end at once");
        assert!(!at(tcp::State::CloseWait, 5));
        assert!(at(tcp::State::CloseWait, 53));
        assert!(at(tcp::State::TimeWait, 54));
        assert!(!at(tcp::State::LastAck, 103));
    }

    #[test]
    fn states_of_sctp() {
        let rules = Rules::default();
        let mut last = Last::default();
        let mut at = |state: sctp::State, packets| {
            let subject = Subject {
                protocol: Some(Protocol::Sctp),
                ..tcp(state as u8, packets)
            };
            last.decide(&rules, &subject, Ticks(0))
        };
        assert!(!at(sctp::State::CookieEchoed, 3));
        assert!(!at(sctp::State::Established, 4));
        assert!(at(sctp::State::ShutdownReceived, 5));
        assert!(at(sctp::State::Closed, 6));
        assert!(!at(sctp::State::Rejected, 53));
    }

    #[test]
    fn templates_and_what_is_below_them() {
        let template = Subject {
            is_template: true,
            ..tcp(0, 17)
        };
        let below = Subject {
            is_persistent: true,
            ..tcp(ESTABLISHED, 3)
        };
        let mut last = Last::default();
        assert!(last.decide(&Rules::default(), &template, Ticks(0)));
        assert!(last.decide(&Rules::default(), &template, Ticks(0)));
        assert!(last.decide(&Rules::default(), &below, Ticks(0)));
        let only = Rules {
            persist_mode: true,
            ..Rules::default()
        };
        assert!(!last.decide(&only, &below, Ticks(0)));
        let closing = Subject {
            state: tcp::State::TimeWait as u8,
            ..below
        };
        assert!(!last.decide(&only, &closing, Ticks(0)));
        assert!(last.decide(&only, &template, Ticks(0)));
        // Without a period the threshold is for templates, too.
        assert!(!last.decide(&rules(3, 0, 0, 0), &template, Ticks(0)));
        let third = Subject {
            packets: 3,
            ..template
        };
        assert!(last.decide(&rules(3, 0, 0, 0), &third, Ticks(0)));
    }

    #[test]
    fn the_pace_is_a_remainder() {
        for (threshold, period) in [(0, 1), (0, 2), (3, 50), (49, 50), (1, 7), (0, 1 << 31)] {
            let pace = Pace::of(&rules(threshold, period, 0, 0));
            for n in (1..2000).chain((1 << 31) - 60..(1 << 31) + 60) {
                assert_eq!(pace.is_due(n), n % period == threshold, "{n} {period}");
            }
        }
        let by_time = Pace::of(&rules(3, 0, 10, 0));
        assert!((1..100).all(|n| by_time.is_due(n) && !Pace::NEVER.is_due(n)));
    }

    #[test]
    fn packed_and_unpacked() {
        for last in [
            Last::default(),
            Last::received(7),
            Last {
                end: Some(Ticks(u32::MAX)),
                retries: 3,
                state: 13,
            },
        ] {
            assert_eq!(Last::unpack(last.pack(9), 9), last);
            assert_eq!(Last::unpack(last.pack(9), 8), Last::default());
        }
        assert_eq!(Last::unpack(0, 1), Last::default());
    }
}
