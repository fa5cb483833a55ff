//! Defences against floods (`update_defense_level`, `ip_vs_random_dropentry`, `todrop_entry`).
//!
//! Once a second it is judged whether entries are short. The kernel looks at free memory there;
//! a connection here needs nothing but its entry, so what counts is how many of those are free.

use core::time::Duration;

use super::Worker;
use crate::conn::template::ASSURED;
use crate::conn::{Entry, SHARDS, Shard};
use crate::proto::{self, Pressure};
use crate::service::Protocol;
use crate::settings::Settings;
use crate::time::{self, Instant, Ticks};

/// Time between two judgements.
const PERIOD: Duration = Duration::from_secs(1);

/// Share of the table that is visited in a second: one in so many.
const VISITED: u32 = 32;

/// How often a place is drawn at random for one visit: entries are where others are not.
const DRAWS: u32 = 1024;

/// How long a connection is left alone after its last packet, ticks.
const IDLE: u32 = time::secs(60);

/// What the defences do at the moment.
#[derive(Debug, Default)]
pub(super) struct Defences {
    due: Instant,
    /// The secure TCP table is in use.
    pub(super) secure_tcp: bool,
    drop_entries: bool,
    /// One of so many opening packets is dropped; 0: none.
    drop_rate: u32,
    drop_counter: i64,
    /// Entries still to be visited in this second, and how many in one step.
    owed: u32,
    per_step: u32,
    /// What was too little for a visit, in parts of [`VISITED`].
    rest: u32,
    /// Entries of the fullest shard that were ever used.
    most: u32,
    /// By number of packets: how many idle connections are passed over before one is dropped.
    passed: [u32; 9],
    random: u64,
}

impl Defences {
    /// Judges by the number of free entries.
    fn judge(&mut self, settings: &Settings, free: u32) {
        let threshold = settings.amemthresh;
        let short = free < threshold;
        let at_work = |mode| match mode {
            0 => false,
            3 => true,
            _ => short,
        };
        self.secure_tcp = at_work(settings.secure_tcp);
        self.drop_entries = at_work(settings.drop_entry);
        self.drop_rate = match settings.drop_packet {
            3 => settings.am_droprate,
            1 | 2 if short => {
                let rate = threshold / (threshold - free);
                self.drop_counter = i64::from(rate);
                rate
            }
            _ => 0,
        };
    }

    /// Whether a packet that would open a connection is to be dropped.
    #[inline]
    pub(super) fn drops_packet(&mut self) -> bool {
        if self.drop_rate == 0 {
            return false;
        }
        self.drop_counter -= 1;
        if self.drop_counter > 0 {
            return false;
        }
        self.drop_counter = i64::from(self.drop_rate);
        true
    }

    fn next_random(&mut self) -> u64 {
        // SplitMix64: any start is as good as another.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Whether this connection or template is to go. `one_packet`: it is of a one-packet service,
    /// whose templates have no connections that would show that they are in use.
    fn drops_entry(&mut self, entry: &Entry, one_packet: bool, now: Ticks) -> bool {
        if entry.controls() > 0 {
            return false;
        }
        let pressure = match Protocol::from_number(entry.protocol()) {
            _ if entry.is_template() && one_packet => Pressure::DropIdle,
            _ if entry.is_template() && entry.state & ASSURED == 0 => Pressure::Drop,
            _ if entry.is_template() => Pressure::Keep,
            Some(protocol) => proto::under_pressure(protocol, entry.state),
            None => Pressure::Keep,
        };
        match pressure {
            Pressure::Drop => true,
            Pressure::Keep => false,
            Pressure::DropIdle => {
                let last_packet = Ticks(entry.deadline.wrapping_sub(entry.timeout));
                now.since(last_packet) >= IDLE as i32 && self.drops_idle(entry.in_pkts)
            }
        }
    }

    /// Of idle connections with n packets from the client every n-th goes; none with more than 8.
    fn drops_idle(&mut self, packets: u32) -> bool {
        let Some(passed) = self
            .passed
            .get_mut(packets as usize)
            .filter(|_| packets > 0)
        else {
            return false;
        };
        if *passed > 1 {
            *passed -= 1;
            return false;
        }
        *passed = packets;
        true
    }
}

impl Worker {
    /// Judges anew, now.
    pub(super) fn judge(&mut self) {
        let size: u32 = self.shards.iter().map(Shard::share).sum();
        let free = size.saturating_sub(self.connections());
        let core = &mut self.core;
        core.defences.judge(&core.settings, free);
        let short = free < core.settings.amemthresh;
        core.counters.short_of_entries.set(u32::from(short));
    }

    /// The part of the defences that is due; called about `steps` times a second.
    pub(super) fn defend(&mut self, now: Instant, steps: u32) {
        if now >= self.core.defences.due {
            self.core.defences.due = now + PERIOD;
            self.judge();
            let touched: u32 = self.shards.iter().map(Shard::touched).sum();
            let most = self.shards.iter().map(Shard::touched).max();
            let defences = &mut self.core.defences;
            defences.most = most.unwrap_or(0);
            (defences.owed, defences.rest) = match defences.drop_entries {
                true => {
                    let parts = touched.saturating_add(defences.rest);
                    (parts / VISITED, parts % VISITED)
                }
                false => (0, 0),
            };
            defences.per_step = defences.owed.div_ceil(steps.max(1));
        }
        if self.core.defences.owed > 0 {
            self.thin_out(now.ticks());
        }
    }

    /// Visits some entries at random and ends those that can be done without.
    #[cold]
    fn thin_out(&mut self, now: Ticks) {
        let visits = self.core.defences.per_step.min(self.core.defences.owed);
        self.core.defences.owed -= visits;
        for _ in 0..visits {
            let Some((at, i)) = self.draw() else {
                continue;
            };
            let core = &mut self.core;
            let entry = self.shards.get(at).and_then(|shard| shard.entry(i));
            let goes = entry.is_some_and(|e| {
                let dest = core.dests.get(e.dest_id().0 as usize);
                let one_packet = dest.is_some_and(|dest| dest.one_packet);
                e.is_valid() && core.defences.drops_entry(e, one_packet, now)
            });
            if goes {
                self.core.counters.reclaimed.add(1);
                self.end_with_template(at, i);
            }
        }
    }

    /// Shard and number of an entry, each that was ever used as likely as the others.
    fn draw(&mut self) -> Option<(usize, u32)> {
        let defences = &mut self.core.defences;
        (0..DRAWS).find_map(|_| {
            let random = defences.next_random();
            let at = random as usize % SHARDS;
            let i = ((random >> 32) % u64::from(defences.most.max(1))) as u32;
            let shard = self.shards.get(at)?;
            (i < shard.touched()).then_some((at, i))
        })
    }

    /// Ends an entry before its time; what controls it goes with it if nobody else needs that,
    /// but for an assured template (`ip_vs_conn_del` with a controller).
    pub(super) fn end_with_template(&mut self, shard: usize, i: u32) {
        let entry = self.shards.get(shard).and_then(|s| s.entry(i));
        let above = entry.and_then(Entry::controller);
        self.end(shard, i);
        let Some(above) = above else { return };
        let template = self.shards.get(above.shard());
        let is_idle = template
            .and_then(|s| s.entry(above.entry()))
            .filter(|e| e.is_valid() && e.controls() == 0)
            .is_some_and(|e| !e.is_template() || e.state & ASSURED == 0);
        if is_idle {
            self.end(above.shard(), above.entry());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(settings: Settings, free: u32) -> Defences {
        let mut defences = Defences::default();
        defences.judge(&settings, free);
        defences
    }

    fn pattern(defences: &mut Defences, n: usize) -> String {
        (0..n)
            .map(|_| if defences.drops_packet() { 'd' } else { '.' })
            .collect()
    }

    /// What the kernel did at rate 3: drop, pass, pass, and so on.
    #[test]
    fn always_on_drops_the_first_and_then_one_of_the_rate() {
        let settings = Settings {
            drop_packet: 3,
            am_droprate: 3,
            ..Settings::default()
        };
        assert_eq!(pattern(&mut judged(settings, u32::MAX), 9), "d..d..d..");
        let every = Settings {
            am_droprate: 1,
            ..settings
        };
        assert_eq!(pattern(&mut judged(every, 0), 3), "ddd");
        let none = Settings {
            am_droprate: 0,
            ..settings
        };
        assert_eq!(pattern(&mut judged(none, 0), 3), "...");
    }

    #[test]
    fn the_automatic_rate_follows_the_free_entries() {
        for mode in [1, 2] {
            let settings = Settings {
                drop_packet: mode,
                amemthresh: 100,
                ..Settings::default()
            };
            assert_eq!(pattern(&mut judged(settings, 100), 4), "....");
            // 100 / (100 - 75) = 4, and the counter starts there.
            assert_eq!(pattern(&mut judged(settings, 75), 8), "...d...d");
            assert_eq!(pattern(&mut judged(settings, 0), 3), "ddd");
        }
    }

    #[test]
    fn modes() {
        for (mode, free, on) in [
            (0, 0, false),
            (1, 0, true),
            (2, 0, true),
            (1, 1024, false),
            (2, 1024, false),
            (3, u32::MAX, true),
        ] {
            let settings = Settings {
                drop_entry: mode,
                secure_tcp: mode,
                ..Settings::default()
            };
            let defences = judged(settings, free);
            let now = (defences.drop_entries, defences.secure_tcp);
            assert_eq!(now, (on, on), "mode {mode}, {free} free");
        }
    }

    #[test]
    fn of_idle_connections_every_nth_goes() {
        let mut defences = Defences::default();
        let mut gone = |packets, times| (0..times).filter(|_| defences.drops_idle(packets)).count();
        assert_eq!([gone(0, 9), gone(9, 9), gone(u32::MAX, 9)], [0, 0, 0]);
        assert_eq!([gone(1, 9), gone(3, 9), gone(8, 16)], [9, 3, 2]);
    }
}
