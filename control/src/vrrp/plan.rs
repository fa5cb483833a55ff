//! Names into numbers: the plan of the machines from the configuration and the devices there are.

use std::collections::BTreeMap;

use vrrp::config::Key;
use vrrp::group::Group;
use vrrp::router::Plan;
use vrrp::track::{self, FileValue, Health, Link, LinkDelays, ProcessCount, Tracker, TrackerId};

use crate::config::vrrp::{Instance, Track, Tracked, Vrrp};

/// Numbers from here on stand for interfaces that do not exist now.
const ABSENT: u32 = 0x8000_0000;

/// Numbers that stay the same from one plan to the next.
#[derive(Debug, Default)]
pub struct Numbers {
    absent: BTreeMap<String, u32>,
    trackers: BTreeMap<Tracked, TrackerId>,
}

impl Numbers {
    fn interface(&mut self, name: &str, index: impl Fn(&str) -> Option<u32>) -> u32 {
        let next = ABSENT + self.absent.len() as u32;
        index(name).unwrap_or_else(|| *self.absent.entry(name.to_owned()).or_insert(next))
    }

    /// The number of something tracked.
    pub fn tracker(&mut self, what: &Tracked) -> TrackerId {
        let next = TrackerId(self.trackers.len() as u32);
        *self.trackers.entry(what.clone()).or_insert(next)
    }

    fn tracked(&mut self, track: &[Track]) -> Vec<track::Tracked> {
        let of = |entry: &Track| track::Tracked {
            tracker: self.tracker(&entry.what),
            weight: entry.weight,
            reverse: entry.reverse,
        };
        track.iter().map(of).collect()
    }
}

/// Whether a key's interface exists.
pub fn exists(key: Key) -> bool {
    key.interface < ABSENT
}

/// The plan, and the keys of the instances in the order of the configuration.
pub fn plan(
    config: &Vrrp,
    numbers: &mut Numbers,
    index: impl Fn(&str) -> Option<u32>,
) -> (Plan, Vec<Key>) {
    let mut plan = Plan::default();
    let mut keys = Vec::new();
    let mut by_name = BTreeMap::new();
    for instance in &config.instances {
        let mut machine = instance.machine.clone();
        machine.key.interface = numbers.interface(&instance.interface, &index);
        machine.source = instance.source;
        machine.tracks_link = tracks_link(config, instance);
        machine.trackers = numbers.tracked(&instance.track);
        if let Some(own) = own_link(config, instance)
            && !instance.track.iter().any(|track| track.what == own)
        {
            let tracker = numbers.tracker(&own);
            machine.trackers.push(track::Tracked {
                tracker,
                weight: 0,
                reverse: false,
            });
        }
        by_name.insert(machine.name.clone(), machine.key);
        keys.push(machine.key);
        plan.instances.push(machine);
    }
    for group in &config.groups {
        plan.groups.push(Group {
            name: group.name.clone(),
            members: group
                .instances
                .iter()
                .filter_map(|name| by_name.get(name))
                .copied()
                .collect(),
            trackers: numbers.tracked(&group.track),
            tracking_weight: group.tracking_weight,
        });
    }
    for what in all_tracked(config) {
        plan.trackers
            .insert(numbers.tracker(&what), tracker(config, &what));
    }
    (plan, keys)
}

/// Everything that something depends on.
pub fn all_tracked(config: &Vrrp) -> Vec<Tracked> {
    let instances = config.instances.iter();
    let own = instances
        .clone()
        .filter_map(|instance| own_link(config, instance));
    let named = instances
        .flat_map(|instance| &instance.track)
        .chain(config.groups.iter().flat_map(|group| &group.track))
        .map(|track| track.what.clone());
    let mut all: Vec<Tracked> = own.chain(named).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Its own interface counts at once.
fn tracks_link(config: &Vrrp, instance: &Instance) -> bool {
    instance.tracks_interface && !config.delays.contains_key(&instance.interface)
}

/// Its own interface counts late: it is a tracker then.
fn own_link(config: &Vrrp, instance: &Instance) -> Option<Tracked> {
    let counts_late = instance.tracks_interface && config.delays.contains_key(&instance.interface);
    counts_late.then(|| Tracked::Interface(instance.interface.clone()))
}

fn tracker(config: &Vrrp, what: &Tracked) -> Tracker {
    match what {
        Tracked::Interface(name) => {
            let delays = config.delays.get(name).copied();
            Tracker::Link(Link::new(delays.unwrap_or(LinkDelays::default())))
        }
        Tracked::Script(name) => {
            let script = config.scripts.get(name);
            let (rise, fall) = script.map_or((1, 1), |s| (s.rise, s.fall));
            let init_fail = script.is_some_and(|s| s.init_fail);
            Tracker::Script(track::Script::new(rise, fall, init_fail))
        }
        Tracked::File(name) => {
            let init = config.files.get(name).and_then(|file| file.init);
            Tracker::File(FileValue::new(init.unwrap_or_default()))
        }
        Tracked::Process(name) => {
            let process = config.processes.get(name);
            let (least, most) = process.map_or((1, u32::MAX), |p| (p.quorum, p.quorum_max));
            Tracker::Process(ProcessCount::new(least, most))
        }
        Tracked::Workers => Tracker::Health(Health::new(1)),
    }
}

#[cfg(test)]
pub(in crate::vrrp) mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, Host};

    /// The virtual routers of a file.
    pub(in crate::vrrp) fn parsed(text: &str) -> Vrrp {
        let host = Host {
            online: vec![0, 1],
            isolated: vec![],
            memory_mb: None,
            runtime_directory: None,
            state_directory: None,
        };
        let base = "[workers]\ncores = [1]\n[[port]]\nname = \"p\"\naf_packet = \"f0\"\n";
        let config = config::parse(Path::new("t"), &format!("{base}{text}"), &host);
        config
            .unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
            .vrrp
    }

    const PAIR: &str = r#"
[[vrrp.interface]]
name = "in"
down_delay = "1s"

[[vrrp.instance]]
name = "a"
interface = "out"
vrid = 1
vip = [{ addr = "10.0.0.1" }]
track = [{ kind = "file", name = "f", weight = -5 }, { kind = "workers" }]

[[vrrp.instance]]
name = "b"
interface = "in"
vrid = 2
vip = [{ addr = "10.1.0.1" }]

[[vrrp.sync_group]]
name = "g"
instances = ["a", "b"]
track = [{ kind = "interface", name = "up" }]

[[track.file]]
name = "f"
path = "/f"
init = 3
"#;

    #[test]
    fn names_become_numbers_that_stay() {
        let config = parsed(PAIR);
        let mut numbers = Numbers::default();
        let index = |name: &str| (name == "out").then_some(7);
        let (first, keys) = plan(&config, &mut numbers, index);
        assert_eq!(first.check(), Ok(()));
        assert_eq!((keys[0].interface, keys[0].vrid), (7, 1));
        assert!(exists(keys[0]) && !exists(keys[1]));
        assert_eq!(first.groups[0].members, keys);
        let weights: Vec<i16> = first.instances[0]
            .trackers
            .iter()
            .map(|t| t.weight)
            .collect();
        assert_eq!(weights, [-5, 0]);
        // An interface whose changes count late is a tracker.
        assert!(first.instances[0].tracks_link && !first.instances[1].tracks_link);
        assert_eq!(first.instances[1].trackers.len(), 1);
        assert_eq!(first.trackers.len(), 4, "file, workers, \"in\" and \"up\"");
        let (second, again) = plan(&config, &mut numbers, index);
        assert_eq!((again, second.instances), (keys, first.instances));
        let (_, there) = plan(&config, &mut numbers, |name| Some(name.len() as u32));
        assert!(there.iter().all(|key| exists(*key)));
    }
}
