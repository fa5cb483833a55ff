//! Gratuitous ARP and unsolicited neighbour advertisements.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use vrrp::addr::Mac;
use vrrp::announce;
use vrrp::config::Key;
use vrrp::output::Announced;
use vrrp::time::Instant;

use super::{Driver, NAP};
use crate::config::vrrp::Pace;

/// How often it is looked up whether the host forwards IPv6.
const FORWARDING_PERIOD: Duration = Duration::from_secs(5);
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Without a pace so many leave at once, and as many after each tick: the announcements of hundreds
/// of routers shall not push adverts out of the queues of whoever hears them.
const BURST: usize = 32;
const TICK: Duration = Duration::from_millis(1);

/// Announcements of one interface that wait for their time, oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<(Key, Vec<u8>)>,
    /// How many may leave until `next`.
    room: usize,
    /// When more may.
    next: Instant,
}

impl Queue {
    /// Puts announcements of an instance behind those that wait, in the place of its older ones.
    pub(super) fn put(&mut self, key: Key, frames: impl Iterator<Item = Vec<u8>>) {
        self.forget(key);
        self.waiting.extend(frames.map(|frame| (key, frame)));
    }

    /// What an instance wanted said is not true any more.
    fn forget(&mut self, key: Key) {
        self.waiting.retain(|(of, _)| *of != key);
    }

    /// The next frame, if its time has come.
    fn take(&mut self, now: Instant, pace: Pace) -> Option<Vec<u8>> {
        if now >= self.next {
            (self.room, self.next) = (BURST, now + TICK);
        }
        let room = self.room.checked_sub(1)?;
        let (_, frame) = self.waiting.pop_front()?;
        self.room = room;
        let interval = interval(pace, &frame);
        if !interval.is_zero() {
            (self.room, self.next) = (0, now + interval);
        }
        Some(frame)
    }

    /// When there is something to do.
    fn due(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.next)
    }
}

/// The time after a frame.
fn interval(pace: Pace, frame: &[u8]) -> Duration {
    match frame.get(12..14) == Some(&IPV6) {
        true => pace.gna,
        false => pace.garp,
    }
}

impl Driver {
    pub(super) fn announce(&mut self, now: Instant, key: Key, what: Announced, rounds: u8) {
        let Some(slot) = self.slots.get(&key) else {
            return;
        };
        let config = &slot.config;
        let vmac = Mac::virtual_router(key.family, key.vrid);
        let mut frames = Vec::new();
        let is_router = forwards_ipv6(now, &mut self.is_router);
        match what {
            Announced::VirtualAddresses => {
                for address in &config.addresses {
                    let Some(port) = self.links.port(&address.device) else {
                        continue;
                    };
                    let at_vmac = config.machine.virtual_mac && address.device == config.interface;
                    let mac = if at_vmac { vmac } else { port.mac };
                    let frame = announce::frame(mac, address.addr.addr, is_router);
                    frames.push((port.index, frame));
                }
            }
            Announced::Source(addr) => {
                let mac = self.told.get(&key.interface).map(|told| told.mac);
                let frame = announce::frame(mac.unwrap_or_default(), addr, is_router);
                frames.push((key.interface, frame));
            }
        }
        // Round by round over all addresses of an interface.
        let indexes: BTreeSet<u32> = frames.iter().map(|(index, _)| *index).collect();
        for index in indexes {
            let here = frames.iter().filter(|(of, _)| *of == index);
            let round: Vec<&Vec<u8>> = here.map(|(_, frame)| frame).collect();
            let all = (0..rounds).flat_map(|_| round.iter().copied().cloned());
            self.queues.entry(index).or_default().put(key, all);
        }
        self.tend_announcements(now);
    }

    fn say(&self, index: u32, frame: &[u8]) {
        if let Some(socket) = self.sockets.get(&index) {
            // Lost as on the way: others follow.
            let _ = socket.send(frame);
        }
    }

    fn pace(&self, index: u32) -> Pace {
        let name = self.links.name(index);
        let own = name.and_then(|name| self.config.paces.get(name));
        own.copied().unwrap_or(self.config.pace)
    }

    /// Sends what has waited for its time.
    pub(super) fn tend_announcements(&mut self, now: Instant) {
        let due: Vec<u32> = self.queues.keys().copied().collect();
        for index in due {
            let pace = self.pace(index);
            while let Some(queue) = self.queues.get_mut(&index)
                && let Some(frame) = queue.take(now, pace)
            {
                self.say(index, &frame);
            }
        }
        self.queues
            .retain(|_, queue| queue.due().is_some() || now < queue.next);
    }

    /// Drops the announcements of an instance that wait.
    pub(super) fn hush(&mut self, key: Key) {
        for queue in self.queues.values_mut() {
            queue.forget(key);
        }
    }

    /// How long until an announcement is due.
    pub(super) fn announcement_timeout(&self, now: Instant) -> Duration {
        let due = self.queues.values().filter_map(Queue::due);
        due.min().map_or(NAP, |at| at.since(now))
    }
}

/// Whether the host forwards IPv6, looked up every few seconds.
fn forwards_ipv6(now: Instant, known: &mut (Instant, bool)) -> bool {
    if known.0 == Instant::default() || now.since(known.0) >= FORWARDING_PERIOD {
        let text = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding");
        *known = (now, text.is_ok_and(|text| text.trim() == "1"));
    }
    known.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use vrrp::addr::Family;

    fn key(vrid: u8) -> Key {
        Key {
            interface: 1,
            family: Family::V4,
            vrid,
        }
    }

    fn frame(kind: [u8; 2], last: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(kind);
        frame.push(last);
        frame
    }

    #[test]
    fn announcements_leave_at_their_pace_and_not_when_they_are_no_longer_true() {
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        let pace = Pace {
            garp: Duration::from_millis(10),
            gna: Duration::from_millis(30),
        };
        let (arp, na) = ([8, 6], IPV6);
        let mut queue = Queue::default();
        queue.put(
            key(1),
            [frame(arp, 1), frame(na, 2), frame(arp, 3)].into_iter(),
        );
        queue.put(key(2), [frame(arp, 4)].into_iter());
        let mut last = |ms| {
            queue
                .take(at(ms), pace)
                .and_then(|frame| frame.last().copied())
        };
        assert_eq!([last(0), last(0), last(9)], [Some(1), None, None]);
        assert_eq!([last(10), last(39), last(40)], [Some(2), None, Some(3)]);
        assert_eq!(last(60), Some(4));
        assert_eq!(queue.due(), None);
        // A burst takes the place of what is left of the one before it.
        queue.put(key(1), [frame(arp, 1), frame(arp, 1)].into_iter());
        queue.put(key(2), [frame(arp, 2)].into_iter());
        queue.put(key(1), [frame(arp, 3)].into_iter());
        assert_eq!(queue.waiting.len(), 2);
        queue.forget(key(2));
        assert_eq!(queue.take(at(99), pace), Some(frame(arp, 3)));
        assert_eq!(queue.take(at(999), pace), None);
    }

    #[test]
    fn a_great_burst_is_spread() {
        let mut queue = Queue::default();
        let mut left = |ms: u64, new: usize| {
            let now = Instant::from_micros(ms * 1000);
            queue.put(key(new as u8), (0..new).map(|_| frame([8, 6], 1)));
            let mut count = 0;
            while queue.take(now, Pace::default()).is_some() {
                count += 1;
            }
            count
        };
        // Those of several instances count together.
        assert_eq!([left(5, 20), left(5, 21), left(5, 0)], [20, 12, 0]);
        assert_eq!([left(6, 40), left(7, 0), left(8, 0)], [32, 17, 0]);
    }
}
