//! Alarms of synchronisation: what is wrong and stays so until it is told that it is over. Each is
//! an event of [`crate::notify`] when it begins and when it ends.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use dataplane::time::Instant;

use super::peer::frame::Want;
use super::peer::link::Place;
use super::peer::machine::News;
use crate::notify::{Event, SyncAlarm};

/// Messages that are refused no more for so long are no alarm any more.
const QUIET: Duration = Duration::from_secs(10);

/// Between two looks at counters.
const LOOK: Duration = Duration::from_secs(1);

type Raised = (String, SyncAlarm, Option<IpAddr>);

/// See the module.
#[derive(Debug, Default)]
pub struct Alarms {
    raised: BTreeSet<Raised>,
    events: Vec<Event>,
    /// Messages that were refused, as counted last, and when the count last grew.
    refused: u64,
    grew: Option<Instant>,
    looked: Option<Instant>,
}

impl Alarms {
    /// What a link made known.
    pub fn note(&mut self, place: &Place, news: &News) {
        use SyncAlarm::{Gap, Key, Link, Peer};
        let interface = &place.interface;
        match news {
            News::Link(false) => self.raise(interface, Link, None, "no carrier".to_owned()),
            News::Link(true) => self.clear(interface, Link, None),
            News::Lost(peer) => {
                self.raise(interface, Peer, Some(*peer), "nothing is heard".to_owned());
            }
            News::Back(peer) => self.clear(interface, Peer, Some(*peer)),
            News::Left(peer) => {
                for alarm in [Peer, Gap] {
                    self.clear(interface, alarm, Some(*peer));
                }
            }
            News::Failed(peer, Want::Everything | Want::Recent(_), why) => {
                self.raise(interface, Gap, Some(*peer), why.clone());
            }
            News::Fetched(peer, Want::Everything | Want::Recent(_), ..) => {
                self.clear(interface, Gap, Some(*peer));
            }
            News::Refused(peer, why) => self.raise(interface, Key, Some(*peer), why.to_string()),
            News::Taken(peer) => self.clear(interface, Key, Some(*peer)),
            News::Found(_)
            | News::Gap(..)
            | News::Dropped(_)
            | News::Sockets(..)
            | News::Fetched(..)
            | News::Failed(..) => {}
        }
    }

    /// How many messages the backup on this interface has refused because of their trailers, since
    /// it was started; called as often as one likes.
    pub fn count(&mut self, now: Instant, interface: &str, refused: u64) {
        if self.looked.is_some_and(|at| now.since(at) < LOOK) {
            return;
        }
        self.looked = Some(now);
        let grew = refused > self.refused;
        self.refused = refused;
        if grew {
            self.grew = Some(now);
            let why = "messages are not sealed with the key of this node".to_owned();
            self.raise(interface, SyncAlarm::Key, None, why);
        } else if self.grew.is_none_or(|at| now.since(at) >= QUIET) {
            self.clear(interface, SyncAlarm::Key, None);
        }
    }

    /// Ends what nobody looks at any more: alarms of interfaces without a link, and those of a
    /// backup where none runs.
    pub fn settle<'a>(&mut self, has_backup: bool, places: impl Iterator<Item = &'a Place>) {
        let interfaces: Vec<&str> = places.map(|place| place.interface.as_str()).collect();
        let of_backup = |alarm: SyncAlarm, peer: Option<IpAddr>| {
            alarm == SyncAlarm::Gap || alarm == SyncAlarm::Key && peer.is_none()
        };
        let is_over = |(interface, alarm, peer): &Raised| {
            !has_backup && of_backup(*alarm, *peer)
                || peer.is_some() && !interfaces.contains(&interface.as_str())
                || *alarm == SyncAlarm::Link && !interfaces.contains(&interface.as_str())
        };
        let over: Vec<Raised> = self.raised.iter().filter(|r| is_over(r)).cloned().collect();
        for (interface, alarm, peer) in over {
            self.clear(&interface, alarm, peer);
        }
    }

    /// What began and what ended since the last call, in order.
    pub fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn raise(&mut self, interface: &str, alarm: SyncAlarm, peer: Option<IpAddr>, why: String) {
        if self.raised.insert((interface.to_owned(), alarm, peer)) {
            self.events.push(event(interface, alarm, peer, Some(why)));
        }
    }

    fn clear(&mut self, interface: &str, alarm: SyncAlarm, peer: Option<IpAddr>) {
        if self.raised.remove(&(interface.to_owned(), alarm, peer)) {
            self.events.push(event(interface, alarm, peer, None));
        }
    }
}

/// It begins for a reason, or it is over.
fn event(interface: &str, alarm: SyncAlarm, peer: Option<IpAddr>, why: Option<String>) -> Event {
    Event::Sync {
        interface: interface.to_owned(),
        alarm,
        peer,
        up: why.is_none(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::sync::auth::Why;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    fn place() -> Place {
        Place {
            interface: "eth1".to_owned(),
            group: PEER,
            port: 8848,
            syncid: 7,
            ttl: 1,
        }
    }

    /// What the events of these news say: the alarm, and whether it is over.
    fn told(alarms: &mut Alarms, news: &[News]) -> Vec<(SyncAlarm, bool)> {
        news.iter().for_each(|news| alarms.note(&place(), news));
        shown(alarms)
    }

    fn shown(alarms: &mut Alarms) -> Vec<(SyncAlarm, bool)> {
        let of = |event| match event {
            Event::Sync { alarm, up, why, .. } => {
                assert_eq!(up, why.is_none());
                (alarm, up)
            }
            other => panic!("{other:?}"),
        };
        alarms.take().into_iter().map(of).collect()
    }

    #[test]
    fn each_begins_once_and_ends_once() {
        use SyncAlarm::{Gap, Key, Link, Peer};
        let failed = || News::Failed(PEER, Want::Recent(3), "refused".to_owned());
        let fetched = |want| News::Fetched(PEER, want, 5, Duration::ZERO);
        for (alarm, begin, end) in [
            (Link, News::Link(false), News::Link(true)),
            (Peer, News::Lost(PEER), News::Back(PEER)),
            (Peer, News::Lost(PEER), News::Left(PEER)),
            (Gap, failed(), fetched(Want::Recent(4))),
            (Gap, failed(), fetched(Want::Everything)),
            (Key, News::Refused(PEER, Why::Key), News::Taken(PEER)),
        ] {
            let mut alarms = Alarms::default();
            let all = [end.clone(), begin.clone(), begin.clone(), end.clone(), end];
            assert_eq!(told(&mut alarms, &all), [(alarm, false), (alarm, true)]);
        }
        // What is asked for again and again mends nothing, and hurts nothing if it fails.
        let mut alarms = Alarms::default();
        let other = News::Failed(PEER, Want::Moved(3), "refused".to_owned());
        assert_eq!(told(&mut alarms, &[other, failed()]), [(Gap, false)]);
        assert_eq!(told(&mut alarms, &[fetched(Want::Moved(3))]), []);
    }

    #[test]
    fn refused_messages_are_an_alarm_while_they_come() {
        let mut alarms = Alarms::default();
        let mut at = |second: u64, refused| {
            alarms.count(Instant::from_secs(second), "eth1", refused);
            shown(&mut alarms)
        };
        assert_eq!(at(1, 0), []);
        assert_eq!(at(2, 5), [(SyncAlarm::Key, false)]);
        assert_eq!(at(3, 6), []);
        assert_eq!(at(12, 6), []);
        assert_eq!(at(13, 6), [(SyncAlarm::Key, true)]);
        // Another run counts anew.
        assert_eq!(at(20, 0), []);
        assert_eq!(at(21, 1), [(SyncAlarm::Key, false)]);
    }

    #[test]
    fn nobody_is_left_with_an_alarm_that_nobody_can_end() {
        use SyncAlarm::{Gap, Link, Peer};
        let mut alarms = Alarms::default();
        let failed = News::Failed(PEER, Want::Everything, "refused".to_owned());
        told(&mut alarms, &[failed, News::Lost(PEER), News::Link(false)]);
        let (here, none) = (place(), [] as [Place; 0]);
        alarms.settle(true, [&here].into_iter());
        assert_eq!(shown(&mut alarms), []);
        alarms.settle(false, [&here].into_iter());
        assert_eq!(shown(&mut alarms), [(Gap, true)]);
        alarms.settle(false, none.iter());
        let mut over = shown(&mut alarms);
        over.sort_unstable();
        assert_eq!(over, [(Link, true), (Peer, true)]);
    }
}
