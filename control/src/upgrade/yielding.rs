//! Whether mastership goes to another node before the ports are let go of, and when it is there.
//!
//! Backups send no adverts, so VRRP alone does not tell whether anybody would take over. What counts
//! is a node of RVS on the channel of the peers that took the whole table and is alive.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use dataplane::time::Instant;

use crate::api::{HandOver, VrrpInstanceView, VrrpView};

/// How long a hand-over may take beyond the longest master-down interval.
const GRACE: Duration = Duration::from_secs(5);

/// Counter of an instance: how often it ceased to be master.
const RELEASED: &str = "released-master";

/// What is known before.
#[derive(Clone, Copy, Debug)]
pub struct Outlook<'a> {
    /// How long nothing will be forwarded.
    pub expected: Option<Duration>,
    /// How everything stands.
    pub view: &'a VrrpView,
    /// A node that can go on with all connections.
    pub standby: Option<IpAddr>,
    /// Instances that do not take back what another master has (`nopreempt`).
    pub nopreempt: &'a [&'a str],
}

/// What to do, and what to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The ports are let go of as things are.
    Stay(Option<String>),
    /// Another node is master first.
    HandOver(String),
}

fn is_master(instance: &&VrrpInstanceView) -> bool {
    instance.state == "MASTER"
}

/// How long peers of an instance wait from now on in the worst case: the last advert may be an
/// interval old.
fn patience(instance: &VrrpInstanceView) -> Duration {
    Duration::from_millis(2 * instance.interval_ms)
}

/// Whether masters are to hand over.
pub fn decide(wish: HandOver, outlook: &Outlook<'_>) -> Decision {
    let masters = || outlook.view.instances.iter().filter(is_master);
    let Some(patience) = masters().map(patience).min() else {
        let nobody = "no virtual router is master here: nothing to hand over";
        let asked = (wish == HandOver::Always).then(|| nobody.to_owned());
        return Decision::Stay(asked);
    };
    let expected = outlook.expected.unwrap_or_default();
    let names: Vec<&str> = masters().map(|one| one.name.as_str()).collect();
    let names = names.join(", ");
    let pause = format!(
        "a pause of {} ms is expected, and peers wait {} ms at least",
        expected.as_millis(),
        patience.as_millis()
    );
    let is_long = expected > patience;
    match (wish, outlook.standby) {
        (HandOver::Never, _) if is_long => Decision::Stay(Some(format!(
            "{pause}: another node may have taken over from {names}"
        ))),
        (HandOver::Never, _) => Decision::Stay(None),
        (HandOver::Auto, _) if !is_long => Decision::Stay(None),
        (HandOver::Auto, None) => Decision::Stay(Some(format!(
            "{pause}, but no living standby has the connections of {names}: not handed over \
             (--hand-over=always does it all the same)"
        ))),
        (_, standby) => {
            let to = match standby {
                Some(addr) => format!(" to {addr}"),
                None => String::new(),
            };
            let stays = masters().map(|one| one.name.as_str());
            let stays: Vec<&str> = stays
                .filter(|name| outlook.nopreempt.contains(name))
                .collect();
            let stays = match stays.as_slice() {
                [] => String::new(),
                stays => format!("; by nopreempt it keeps {}", stays.join(", ")),
            };
            Decision::HandOver(format!("{pause}: handed over {names}{to} before{stays}"))
        }
    }
}

/// A hand-over under way.
#[derive(Clone, Debug)]
pub struct Yielding {
    since: Instant,
    longest: Duration,
    /// Instances that were master, and how often they had ceased to be it.
    masters: BTreeMap<String, u64>,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not everybody has answered yet.
    Waits,
    /// Somebody else is master of everything.
    Done,
    /// Nobody is: what to say.
    Failed(String),
}

fn released(instance: &VrrpInstanceView) -> u64 {
    instance.counters.get(RELEASED).copied().unwrap_or_default()
}

impl Yielding {
    /// Begins; all masters of the view are told to give up.
    pub fn new(now: Instant, view: &VrrpView) -> Yielding {
        let masters = || view.instances.iter().filter(is_master);
        let longest = masters().map(|one| one.interval_ms).max();
        Yielding {
            since: now,
            // Three intervals and the skew, which is one at most.
            longest: Duration::from_millis(longest.unwrap_or_default() * 4) + GRACE,
            masters: masters()
                .map(|one| (one.name.clone(), released(one)))
                .collect(),
        }
    }

    /// What has become of it.
    pub fn look(&self, now: Instant, view: &VrrpView) -> Progress {
        let mut waits = Vec::new();
        for instance in &view.instances {
            let name = &instance.name;
            let Some(before) = self.masters.get(name) else {
                continue;
            };
            let has_released = released(instance) > *before;
            match instance.state.as_str() {
                // It waited for a master as long as any backup does.
                "MASTER" if has_released => {
                    return Progress::Failed(format!(
                        "nobody took over {name} when it was handed over, so it is master here \
                         again; is the standby alive? --hand-over=never upgrades all the same"
                    ));
                }
                "BACKUP" if has_released && instance.master.is_some() => {}
                "MASTER" | "BACKUP" => waits.push(name.as_str()),
                // At fault or gone: there is nothing that a pause could harm.
                _ => {}
            }
        }
        if waits.is_empty() {
            return Progress::Done;
        }
        if now.since(self.since) < self.longest {
            return Progress::Waits;
        }
        Progress::Failed(format!(
            "no master of {} was heard in {} s; see `rvsadm vrrp` on both nodes",
            waits.join(", "),
            self.longest.as_secs()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(name: &str, state: &str, interval_ms: u64) -> VrrpInstanceView {
        VrrpInstanceView {
            name: name.to_owned(),
            interface: "tf0".to_owned(),
            family: crate::api::Family::Ipv4,
            vrid: 1,
            version: 3,
            state: state.to_owned(),
            cause: "start".to_owned(),
            since_ms: 0,
            priority: 100,
            base_priority: 100,
            interval_ms,
            source: None,
            group: None,
            master: None,
            master_priority: None,
            timer_ms: None,
            lease_ms: None,
            addresses: Vec::new(),
            holds: false,
            peers: Vec::new(),
            counters: BTreeMap::new(),
            invalid: BTreeMap::new(),
            alarms: Vec::new(),
        }
    }

    fn view(instances: Vec<VrrpInstanceView>) -> VrrpView {
        VrrpView {
            instances,
            ..VrrpView::default()
        }
    }

    const PEER: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 2)));

    fn at(ms: u64) -> Instant {
        Instant(3_000_000_000 + ms * 1_000_000)
    }

    /// What is decided about a pause of so many milliseconds: S stays, with a line s, H hands over.
    fn decided(wish: HandOver, view: &VrrpView, expected: u64, standby: Option<IpAddr>) -> char {
        let outlook = Outlook {
            expected: Some(Duration::from_millis(expected)),
            view,
            standby,
            nopreempt: &[],
        };
        match decide(wish, &outlook) {
            Decision::Stay(None) => 'S',
            Decision::Stay(Some(_)) => 's',
            Decision::HandOver(_) => 'H',
        }
    }

    #[test]
    fn a_long_pause_goes_to_a_standby_in_step() {
        use HandOver::{Always, Auto, Never};
        // The shortest interval of a master counts, not that of a backup.
        let both = view(vec![
            instance("a", "MASTER", 5000),
            instance("b", "MASTER", 1000),
            instance("c", "BACKUP", 100),
        ]);
        let rows = [
            (Auto, 2000, PEER, 'S'),
            (Auto, 2001, PEER, 'H'),
            (Auto, 2001, None, 's'),
            (Auto, 300, None, 'S'),
            (Always, 300, PEER, 'H'),
            (Always, 300, None, 'H'),
            (Never, 2001, PEER, 's'),
            (Never, 2000, PEER, 'S'),
        ];
        for (wish, expected, standby, what) in rows {
            let got = decided(wish, &both, expected, standby);
            assert_eq!(got, what, "{wish:?} {expected} {standby:?}");
        }
        let none = view(vec![instance("c", "BACKUP", 100)]);
        assert_eq!(decided(Auto, &none, 9000, PEER), 'S');
        assert_eq!(decided(Always, &none, 9000, PEER), 's');
    }

    fn after(name: &str, state: &str, released: u64, master: Option<IpAddr>) -> VrrpInstanceView {
        let mut one = instance(name, state, 1000);
        one.counters.insert(RELEASED.to_owned(), released);
        one.master = master;
        one
    }

    #[test]
    fn it_is_done_when_another_master_of_each_was_heard() {
        let before = view(vec![
            after("a", "MASTER", 4, None),
            after("b", "MASTER", 0, None),
        ]);
        let yielding = Yielding::new(at(0), &before);
        // The listing is as old as it may be.
        assert_eq!(yielding.look(at(1), &before), Progress::Waits);
        let half = view(vec![
            after("a", "BACKUP", 5, PEER),
            after("b", "BACKUP", 1, None),
        ]);
        assert_eq!(yielding.look(at(500), &half), Progress::Waits);
        let whole = view(vec![
            after("a", "BACKUP", 5, PEER),
            after("b", "BACKUP", 1, PEER),
        ]);
        assert_eq!(yielding.look(at(700), &whole), Progress::Done);
        let fault = view(vec![
            after("a", "BACKUP", 5, PEER),
            after("b", "FAULT", 1, None),
        ]);
        assert_eq!(yielding.look(at(700), &fault), Progress::Done);
        assert!(matches!(yielding.look(at(8999), &half), Progress::Waits));
        assert!(matches!(
            yielding.look(at(9000), &half),
            Progress::Failed(_)
        ));
    }

    #[test]
    fn it_has_failed_when_the_old_master_is_it_again() {
        let before = view(vec![after("a", "MASTER", 4, None)]);
        let yielding = Yielding::new(at(0), &before);
        let again = view(vec![after("a", "MASTER", 5, None)]);
        match yielding.look(at(3700), &again) {
            Progress::Failed(why) => assert!(why.contains("nobody took over a"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
