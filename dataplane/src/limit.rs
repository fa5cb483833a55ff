//! Token buckets: for packets to the kernel and for answers of ours.

use crate::addr::Addr;
use crate::settings::Settings;
use crate::time::Instant;

/// A token bucket that is refilled by time.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Tokens a second; 0 = no limit.
    rate: u32,
    burst: u32,
    /// Tokens in billionths.
    level: u64,
    last: Instant,
}

const TOKEN: u64 = 1_000_000_000;

impl Bucket {
    /// A full bucket.
    pub fn new(rate: u32, burst: u32) -> Bucket {
        Bucket {
            rate,
            burst,
            level: u64::from(burst) * TOKEN,
            last: Instant(0),
        }
    }

    /// Takes a token if there is one.
    #[inline]
    pub fn take(&mut self, now: Instant) -> bool {
        if self.rate == 0 {
            return true;
        }
        let passed = now.0.saturating_sub(self.last.0);
        self.last = now;
        let full = u64::from(self.burst.max(1)) * TOKEN;
        self.level = self
            .level
            .saturating_add(passed.saturating_mul(u64::from(self.rate)))
            .min(full);
        if self.level < TOKEN {
            return false;
        }
        self.level -= TOKEN;
        true
    }
}

/// Limits ICMP answers as the kernel does: `icmp_msgs_per_sec` with its burst over all, and
/// `icmp_ratelimit` with a burst of six for each peer. Peers share 1024 buckets by hash.
#[derive(Debug)]
pub struct AnswerLimit {
    all: Bucket,
    peers: Box<[Bucket]>,
    /// Milliseconds between two tokens of a peer, 0: peers are not limited. Their buckets get
    /// one a second, of a time that is scaled by this.
    pace: u64,
}

const PEERS: usize = 1024;

impl AnswerLimit {
    /// With the settings' rates.
    pub fn new(settings: &Settings) -> AnswerLimit {
        let mut limit = AnswerLimit {
            all: Bucket::new(1, 1),
            peers: vec![Bucket::new(1, 6); PEERS].into_boxed_slice(),
            pace: 0,
        };
        limit.set(settings);
        limit
    }

    /// Changes the rates.
    pub fn set(&mut self, settings: &Settings) {
        self.all = Bucket::new(settings.icmp_msgs_per_sec, settings.icmp_msgs_burst);
        self.pace = u64::from(settings.icmp_ratelimit);
    }

    /// Whether an answer may go to `peer` now.
    pub fn allow(&mut self, peer: &Addr, now: Instant) -> bool {
        let slot = peer.fold().wrapping_mul(0x9e37_79b1) >> 22;
        if let Some(paced) = now.0.checked_div(self.pace) {
            let paced = Instant(paced.saturating_mul(1000));
            let peer = self.peers.get_mut(slot as usize);
            if !peer.is_some_and(|bucket| bucket.take(paced)) {
                return false;
            }
        }
        self.all.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    #[test]
    fn a_peer_gets_six_at_once_then_one_a_second() {
        let mut limit = AnswerLimit::new(&Settings::default());
        let peer = Addr::v4([10, 0, 0, 1]);
        let now = Instant::from_secs(100);
        let got = (0..20).filter(|_| limit.allow(&peer, now)).count();
        assert_eq!(got, 6);
        assert!(!limit.allow(&peer, now + Duration::from_millis(900)));
        assert!(limit.allow(&peer, now + Duration::from_millis(1100)));
    }

    #[test]
    fn the_time_between_answers_to_a_peer_can_be_set() {
        let mut settings = Settings::default();
        let peer = Addr::v4([10, 0, 0, 1]);
        let now = Instant::from_secs(100);
        let mut count = |icmp_ratelimit| {
            settings.icmp_ratelimit = icmp_ratelimit;
            let mut limit = AnswerLimit::new(&settings);
            let mut taken = 0;
            for i in 0..40 {
                taken += u32::from(limit.allow(&peer, now + Duration::from_millis(100) * i));
            }
            taken
        };
        // 3.9 seconds.
        assert_eq!(count(0), 40);
        assert_eq!(count(500), 6 + 7);
        assert_eq!(count(1000), 6 + 3);
    }

    #[test]
    fn the_whole_is_limited_too() {
        let mut limit = AnswerLimit::new(&Settings::default());
        let now = Instant::from_secs(100);
        let peers = (0..500u32).map(|i| Addr::v4(i.to_be_bytes()));
        assert_eq!(peers.filter(|p| limit.allow(p, now)).count(), 50);
    }
}
