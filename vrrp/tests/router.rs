//! A host with many virtual routers: dispatch, timers, sync groups, trackers, reload, bounds.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use support::ip;
use support::rig::{MAC, config, line};
use vrrp::addr::{Family, Mac};
use vrrp::announce::Claim;
use vrrp::config::{Config, Key, VirtualAddress};
use vrrp::group::Group;
use vrrp::instance::Role;
use vrrp::output::{MAX_PER_STEP, Outputs};
use vrrp::packet::{Auth, ChecksumForm, Invalid, Outgoing, Received, Version};
use vrrp::router::{Plan, PlanError, Router};
use vrrp::time::Instant;
use vrrp::track::{Health, Link, LinkDelays, Observation, Script, Tracked, Tracker, TrackerId};

/// Master-down interval of priority 100, version 2, 1 s.
const DOWN: u64 = 3_609_375;
const SCRIPT: TrackerId = TrackerId(1);
const UPLINK: TrackerId = TrackerId(2);
const HEALTH: TrackerId = TrackerId(3);

fn key(vrid: u8) -> Key {
    Key {
        interface: 7,
        family: Family::V4,
        vrid,
    }
}

fn instance(vrid: u8) -> Config {
    let addresses = vec![VirtualAddress::host(ip(&format!("10.77.1.{vrid}")))];
    Config {
        key: key(vrid),
        name: format!("vr{vrid}"),
        addresses,
        ..config()
    }
}

fn plan(vrids: impl IntoIterator<Item = u8>) -> Plan {
    Plan {
        instances: vrids.into_iter().map(instance).collect(),
        ..Plan::default()
    }
}

fn group(name: &str, vrids: &[u8]) -> Group {
    Group {
        name: name.to_string(),
        members: vrids.iter().map(|vrid| key(*vrid)).collect(),
        trackers: Vec::new(),
        tracking_weight: false,
    }
}

struct Host {
    router: Router,
    out: Outputs,
    now: Instant,
}

impl Host {
    /// A host whose interface is up, with this plan in force.
    fn new(plan: Plan) -> Host {
        let now = Instant::default() + Duration::from_secs(1_000);
        let mut host = Host {
            router: Router::new(),
            out: Outputs::new(100_000),
            now,
        };
        host.link(true);
        host.router
            .source(now, 7, Family::V4, Some(ip("10.77.0.2")), &mut host.out);
        host.apply(plan);
        host
    }

    fn apply(&mut self, plan: Plan) {
        self.router.apply(self.now, plan, &mut self.out).unwrap();
    }

    fn link(&mut self, is_up: bool) {
        self.router.link(self.now, 7, is_up, MAC, &mut self.out);
    }

    fn observe(&mut self, id: TrackerId, seen: Observation) {
        self.router.observe(self.now, id, seen, &mut self.out);
    }

    fn advert(&mut self, vrid: u8, priority: u8) {
        self.advert_on(7, vrid, priority);
    }

    fn advert_on(&mut self, interface: u32, vrid: u8, priority: u8) {
        let advert = Outgoing {
            version: Version::V2,
            vrid,
            priority,
            interval: config().interval,
            auth: Auth::None,
            form: ChecksumForm::Pseudo,
            addresses: &[ip(&format!("10.77.1.{vrid}"))],
            src: ip("10.77.0.3"),
            dst: ip("224.0.0.18"),
            ttl: 255,
        };
        let packet = advert.packet(1);
        let received = Received::from_ip(&packet).unwrap();
        self.router
            .receive(self.now, interface, received, &mut self.out);
    }

    fn run_for(&mut self, micros: u64) {
        let end = self.now + Duration::from_micros(micros);
        while let Some(at) = self.router.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            assert!(self.router.run(self.now, &mut self.out));
        }
        self.now = end;
    }

    fn roles(&self) -> Vec<Role> {
        self.router
            .instances()
            .map(|instance| instance.state().role())
            .collect()
    }

    /// `vrid: output` for each output since the last call that is neither lease nor announcement.
    fn log(&mut self) -> Vec<String> {
        let mut log = Vec::new();
        while let Some((key, output)) = self.out.pop() {
            let line = line(&output);
            if !line.starts_with("lease") && !line.starts_with("announce") {
                log.push(format!("{}: {line}", key.vrid));
            }
        }
        log
    }
}

#[test]
fn adverts_reach_the_instance_of_their_interface_family_and_id() {
    let mut host = Host::new(plan([1, 2]));
    host.advert(2, 200);
    let received = |host: &Host, vrid| {
        host.router
            .instance(key(vrid))
            .unwrap()
            .counters()
            .adverts_received
    };
    assert_eq!((received(&host, 1), received(&host, 2)), (0, 1));
    host.advert(3, 200);
    host.advert_on(8, 2, 200);
    assert_eq!(host.router.refused()[Invalid::UnknownVrid], 2);
    let short = Received::from_ip(&[
        0x45, 0, 0, 21, 0, 0, 0, 0, 255, 112, 0, 0, 10, 0, 0, 1, 224, 0, 0, 18, 0x21,
    ])
    .unwrap();
    host.router.receive(host.now, 7, short, &mut host.out);
    assert_eq!(host.router.refused()[Invalid::Truncated], 1);
}

#[test]
fn the_next_timer_is_that_of_the_first_instance() {
    let mut all = plan(1..=200);
    for (i, config) in all.instances.iter_mut().enumerate() {
        config.priority = 1 + i as u8;
    }
    let mut host = Host::new(all);
    host.log();
    host.run_for(3_000_000);
    assert!(host.roles().iter().all(|role| *role == Role::Backup));
    // Skew by skew, the highest priority first.
    for priority in (1..=200u64).rev() {
        let deadline = 3_000_000 + (256 - priority) * 1_000_000 / 256;
        let passed = host
            .now
            .since(Instant::default() + Duration::from_secs(1_000));
        host.run_for(deadline - passed.as_micros() as u64);
        let masters = host
            .roles()
            .iter()
            .filter(|role| **role == Role::Master)
            .count();
        assert_eq!(masters as u64, 201 - priority);
    }
}

#[test]
fn an_interface_is_a_matter_of_all_its_instances() {
    let mut host = Host::new(plan([1, 2]));
    host.run_for(DOWN);
    assert_eq!(host.roles(), [Role::Master; 2]);
    host.log();
    host.link(false);
    assert_eq!(
        host.log(),
        [
            "1: send 0",
            "1: send 0",
            "1: remove 1",
            "1: FAULT link-down",
            "2: send 0",
            "2: send 0",
            "2: remove 1",
            "2: FAULT link-down"
        ]
    );
    // Another interface's and another family's are not ours.
    host.router.link(host.now, 8, true, MAC, &mut host.out);
    host.router
        .source(host.now, 7, Family::V6, None, &mut host.out);
    assert_eq!(host.log(), [""; 0]);
    // One that is added later knows the interface.
    let mut more = plan([1, 2, 3]);
    more.instances[2].key.interface = 8;
    host.apply(more);
    assert_eq!(host.log(), ["3: remove 1", "3: FAULT no-source"]);
}

#[test]
fn a_full_queue_makes_steps_wait() {
    let mut host = Host::new(plan(1..=100));
    host.run_for(DOWN);
    assert_eq!(host.roles(), [Role::Master; 100]);
    host.out = Outputs::new(MAX_PER_STEP + 10);
    host.router.stop(host.now, &mut host.out);
    let mut log = Vec::new();
    let mut rounds = 0;
    loop {
        let is_done = host.router.run(host.now, &mut host.out);
        if !host.out.has_room() {
            // Nobody fetched: an advert is refused, and counted.
            host.advert(1, 200);
        }
        log.extend(host.log());
        rounds += 1;
        if is_done {
            break;
        }
        assert!(host.router.next_timeout().is_some_and(|at| at <= host.now));
    }
    assert!(rounds > 5);
    assert!(host.router.refused()[Invalid::Busy] > 0);
    for vrid in 1..=100 {
        let own: Vec<_> = log
            .iter()
            .filter(|l| l.starts_with(&format!("{vrid}: ")))
            .collect();
        let own: Vec<_> = own.iter().filter_map(|l| l.split(": ").nth(1)).collect();
        assert_eq!(own, ["send 0", "remove 1", "STOP stop"]);
    }
}

#[test]
fn a_group_becomes_master_together() {
    let mut two = plan([1, 2]);
    two.groups = vec![group("g", &[1, 2])];
    two.instances[1].priority = 50;
    let mut host = Host::new(two);
    assert_eq!(
        host.log(),
        [
            "1: remove 1",
            "1: BACKUP start",
            "2: remove 1",
            "2: BACKUP start",
            "2: group g BACKUP"
        ]
    );
    host.run_for(DOWN);
    assert_eq!(
        host.roles(),
        [Role::Backup; 2],
        "the other has not waited long enough"
    );
    host.run_for(200_000);
    assert_eq!(host.roles(), [Role::Master; 2]);
    assert_eq!(
        host.log(),
        [
            "1: send 100",
            "1: add 1",
            "1: MASTER group",
            "2: send 50",
            "2: add 1",
            "2: MASTER group",
            "2: group g MASTER"
        ]
    );
}

#[test]
fn a_member_whose_peer_lives_holds_the_group_back() {
    let mut two = plan([1, 2]);
    two.groups = vec![group("g", &[1, 2])];
    let mut host = Host::new(two);
    for _ in 0..20 {
        host.run_for(1_000_000);
        host.advert(2, 200);
    }
    assert_eq!(host.roles(), [Role::Backup; 2]);
    assert!(host.router.instance(key(1)).unwrap().wants_master());
    host.run_for(2 * DOWN);
    assert_eq!(host.roles(), [Role::Master; 2]);
}

#[test]
fn a_group_yields_together_and_fails_together() {
    let mut three = plan([1, 2, 3]);
    three.groups = vec![group("g", &[1, 2])];
    let mut host = Host::new(three);
    host.run_for(2 * DOWN);
    assert_eq!(host.roles(), [Role::Master; 3]);
    host.log();
    host.advert(1, 200);
    assert_eq!(
        host.log(),
        [
            "1: send 100",
            "1: remove 1",
            "1: BACKUP higher-priority",
            "2: remove 1",
            "2: BACKUP group",
            "2: group g BACKUP"
        ]
    );
    assert_eq!(host.roles(), [Role::Backup, Role::Backup, Role::Master]);
    // The other members are told of lower masters too.
    host.run_for(2 * DOWN);
    assert_eq!(host.roles(), [Role::Master; 3]);
    while host.out.pop().is_some() {}
    host.advert(2, 50);
    let announcing: Vec<_> = std::iter::from_fn(|| host.out.pop())
        .filter(|(_, output)| line(output).starts_with("announce"))
        .map(|(key, _)| key.vrid)
        .collect();
    assert_eq!(announcing, [2, 1]);
}

#[test]
fn a_fault_of_one_member_is_one_of_all() {
    let mut two = plan([1, 2]);
    two.groups = vec![group("g", &[1, 2])];
    two.instances[0].trackers = vec![Tracked {
        tracker: SCRIPT,
        weight: 20,
        reverse: false,
    }];
    two.trackers = BTreeMap::from([(SCRIPT, Tracker::Script(Script::new(1, 1, false)))]);
    let mut host = Host::new(two);
    // In a group weights do not count: the script is waited for, by all.
    assert_eq!(host.roles(), [Role::Waiting; 2]);
    host.observe(SCRIPT, Observation::Script(true));
    assert_eq!(host.roles(), [Role::Backup; 2]);
    host.run_for(2 * DOWN);
    assert_eq!(host.roles(), [Role::Master; 2]);
    host.log();
    host.observe(SCRIPT, Observation::Script(false));
    assert_eq!(
        host.log(),
        [
            "1: send 0",
            "1: send 0",
            "1: remove 1",
            "1: FAULT tracker-fault",
            "2: send 0",
            "2: send 0",
            "2: remove 1",
            "2: FAULT group-fault",
            "2: group g FAULT"
        ]
    );
    host.observe(SCRIPT, Observation::Script(true));
    assert_eq!(
        host.log(),
        [
            "1: BACKUP cleared",
            "2: BACKUP cleared",
            "2: group g BACKUP"
        ]
    );
}

#[test]
fn trackers_change_priorities() {
    let mut one = plan([1, 2]);
    one.instances[0].trackers = vec![
        Tracked {
            tracker: SCRIPT,
            weight: -30,
            reverse: false,
        },
        Tracked {
            tracker: UPLINK,
            weight: 0,
            reverse: false,
        },
        Tracked {
            tracker: HEALTH,
            weight: 10,
            reverse: false,
        },
    ];
    let delays = LinkDelays {
        up: Duration::ZERO,
        down: Duration::from_millis(300),
    };
    one.trackers = BTreeMap::from([
        (SCRIPT, Tracker::Script(Script::new(1, 2, false))),
        (UPLINK, Tracker::Link(Link::new(delays))),
        (HEALTH, Tracker::Health(Health::new(2))),
    ]);
    let mut host = Host::new(one.clone());
    assert_eq!(host.roles(), [Role::Waiting, Role::Backup]);
    host.observe(UPLINK, Observation::Link(true));
    host.observe(HEALTH, Observation::Health(2));
    host.observe(SCRIPT, Observation::Script(false));
    host.log();
    let priority = |host: &Host| host.router.instance(key(1)).unwrap().priority();
    assert_eq!(priority(&host), 80);
    host.observe(HEALTH, Observation::Health(1));
    assert_eq!(
        (priority(&host), host.log()),
        (70, vec!["1: priority 70".to_string()])
    );
    // A debounced link needs a timer.
    host.observe(UPLINK, Observation::Link(false));
    host.run_for(299_999);
    assert_eq!(host.roles(), [Role::Backup; 2]);
    host.run_for(1);
    assert_eq!(host.roles(), [Role::Fault, Role::Backup]);
    // Observations that do not fit or belong to nobody are no matter.
    host.observe(SCRIPT, Observation::Health(9));
    host.observe(TrackerId(99), Observation::Script(true));
    assert_eq!(host.log(), ["1: FAULT tracker-fault"]);
    // A reload keeps what was counted.
    host.apply(one);
    assert_eq!(priority(&host), 70);
    assert_eq!(host.roles(), [Role::Fault, Role::Backup]);
}

#[test]
fn a_reload_touches_what_changed() {
    let mut host = Host::new(plan([1, 2, 3]));
    host.run_for(DOWN);
    host.log();
    let mut next = plan([2, 3, 4]);
    next.instances[1]
        .addresses
        .push(VirtualAddress::host(ip("10.77.2.3")));
    host.apply(next.clone());
    assert_eq!(
        host.log(),
        [
            "1: send 0",
            "1: remove 1",
            "1: STOP stop",
            "3: send 100",
            "3: add 1",
            "4: remove 1",
            "4: BACKUP start"
        ]
    );
    assert!(host.router.instance(key(1)).is_none());
    assert_eq!(host.roles(), [Role::Master, Role::Master, Role::Backup]);
    // Nothing changed: nothing is said.
    host.apply(next);
    assert_eq!(host.log(), [""; 0]);
}

#[test]
fn an_instance_that_comes_back_before_it_was_gone_starts_anew() {
    let mut host = Host::new(plan([1]));
    host.run_for(DOWN);
    host.out = Outputs::new(0);
    // No room: the stop waits.
    host.router.run(host.now, &mut host.out);
    while host.out.has_room() {
        host.run_for(1_000_000);
    }
    host.apply(plan([]));
    host.apply(plan([1]));
    assert_eq!(host.roles(), [Role::Master]);
    host.out = Outputs::new(1_000);
    host.router.run(host.now, &mut host.out);
    assert_eq!(
        host.log(),
        [
            "1: send 0",
            "1: remove 1",
            "1: STOP stop",
            "1: remove 1",
            "1: BACKUP start"
        ]
    );
}

#[test]
fn a_bad_plan_changes_nothing_and_names_every_mistake() {
    let mut host = Host::new(plan([1]));
    host.log();
    let mut bad = plan([1, 2, 3, 3]);
    bad.instances[0].priority = 0;
    bad.instances[1].priority = 255;
    bad.instances[2].trackers = vec![Tracked {
        tracker: UPLINK,
        weight: 0,
        reverse: false,
    }];
    bad.groups = vec![group("a", &[2, 3]), group("b", &[3, 9])];
    let errors = host.router.apply(host.now, bad, &mut host.out).unwrap_err();
    assert_eq!(
        errors,
        [
            PlanError::Instance {
                name: "vr1".into(),
                error: vrrp::config::ConfigError::Priority
            },
            PlanError::UnknownTracker("vr3".into(), UPLINK),
            PlanError::SameKey("vr3".into(), "vr3".into()),
            PlanError::MixedOwners("a".into()),
            PlanError::TwoGroups("b".into(), key(3)),
            PlanError::UnknownMember("b".into(), key(9)),
        ]
    );
    assert_eq!(host.log(), [""; 0]);
    assert_eq!(host.roles(), [Role::Backup]);
}

#[test]
fn claims_and_lost_addresses_reach_their_instance() {
    let mut host = Host::new(plan([1, 2]));
    host.run_for(DOWN);
    host.log();
    let claim = Claim {
        addr: ip("10.77.1.2"),
        mac: Mac([2, 0, 0, 0, 0, 9]),
    };
    host.router.claimed(host.now, 7, claim, &mut host.out);
    host.router.claimed(host.now, 8, claim, &mut host.out);
    assert_eq!(host.log(), ["2: alarm foreign-mac"]);
    host.router
        .address_lost(host.now, 7, ip("10.77.1.1"), &mut host.out);
    assert_eq!(host.log(), ["1: remove 1", "1: BACKUP address-lost"]);
    let until = |host: &Host| {
        host.router
            .instance(key(2))
            .unwrap()
            .lease()
            .unwrap()
            .until()
    };
    let before = until(&host);
    host.run_for(1_000_000);
    host.router.send_failed(host.now, key(2), &mut host.out);
    assert_eq!(until(&host), before);
}

#[test]
fn frames_prove_the_receive_path_of_their_interface() {
    let mut all = plan([1]);
    all.instances[0].needs_live_receive_path = true;
    let mut host = Host::new(all.clone());
    host.run_for(2_000_000);
    host.router.frame_heard(host.now, 8, &mut host.out);
    host.run_for(2_000_000);
    assert_eq!(host.roles(), [Role::Fault]);
    let mut host = Host::new(all);
    host.run_for(2_000_000);
    host.router.frame_heard(host.now, 7, &mut host.out);
    host.run_for(2_000_000);
    assert_eq!(host.roles(), [Role::Master]);
}

#[test]
fn members_of_a_group_resume_together_or_listen() {
    let resumed = |vrids: &[u8]| {
        let mut host = Host::new(Plan::default());
        for vrid in vrids {
            let until = host.now + Duration::from_secs(1);
            host.router.resume(key(*vrid), until);
        }
        let mut both = plan([1, 2]);
        both.groups = vec![group("g", &[1, 2])];
        host.apply(both);
        let role = |vrid| host.router.instance(key(vrid)).unwrap().state().role();
        [role(1), role(2)]
    };
    assert_eq!(resumed(&[1, 2]), [Role::Master, Role::Master]);
    assert_eq!(resumed(&[2]), [Role::Backup, Role::Backup]);
    // What a plan does not start is forgotten.
    let mut host = Host::new(plan([1]));
    host.router
        .resume(key(1), host.now + Duration::from_secs(9));
    host.router
        .resume(key(2), host.now + Duration::from_secs(9));
    host.apply(plan([]));
    host.apply(plan([1, 2]));
    assert_eq!(
        host.router.instance(key(2)).unwrap().state().role(),
        Role::Backup
    );
}

#[test]
fn a_tracker_of_the_group_counts_once() {
    let lowers = Tracked {
        tracker: SCRIPT,
        weight: -10,
        reverse: false,
    };
    let mut one = plan([1]);
    one.trackers = BTreeMap::from([(SCRIPT, Tracker::Script(Script::new(1, 1, false)))]);
    one.instances[0].trackers = vec![lowers];
    one.groups = vec![Group {
        trackers: vec![lowers],
        tracking_weight: true,
        ..group("g", &[1])
    }];
    let mut host = Host::new(one);
    host.observe(SCRIPT, Observation::Script(false));
    let priority = host.router.instance(key(1)).map(|one| one.priority());
    assert_eq!(priority, Some(90));
}

#[test]
fn an_order_of_a_group_that_is_out_of_date_is_dropped() {
    let mut both = plan([1, 2]);
    both.instances[1].key.interface = 8;
    both.instances[1].trackers = vec![Tracked {
        tracker: SCRIPT,
        weight: 0,
        reverse: false,
    }];
    both.trackers = BTreeMap::from([(SCRIPT, Tracker::Script(Script::new(1, 1, false)))]);
    both.groups = vec![Group {
        members: vec![key(1), both.instances[1].key],
        ..group("g", &[])
    }];
    let mut host = Host::new(Plan::default());
    let source = Some(ip("10.78.0.2"));
    let out = &mut host.out;
    host.router.source(host.now, 8, Family::V4, source, out);
    for instance in &both.instances {
        let until = host.now + Duration::from_secs(1);
        host.router.resume(instance.key, until);
    }
    host.apply(both);
    host.observe(SCRIPT, Observation::Script(true));
    assert_eq!(host.roles(), [Role::Fault; 2], "the link of one is missing");
    host.log();
    // The link comes up, and before the other hears of it and both are to be master, the script
    // fails.
    host.out = Outputs::new(MAX_PER_STEP);
    host.router.link(host.now, 8, true, MAC, &mut host.out);
    host.observe(SCRIPT, Observation::Script(false));
    let mut log = host.log();
    while !host.router.run(host.now, &mut host.out) {
        log.extend(host.log());
    }
    log.extend(host.log());
    assert_eq!(
        log,
        [
            "2: BACKUP resume",
            "1: BACKUP resume",
            "1: group g BACKUP",
            "2: FAULT tracker-fault",
            "1: FAULT group-fault",
            "1: group g FAULT"
        ]
    );
}

#[test]
fn a_group_waits_for_a_tracker_that_a_reload_brings() {
    let mut two = plan([1, 2]);
    two.groups = vec![group("g", &[1, 2])];
    let mut host = Host::new(two.clone());
    host.run_for(DOWN / 2);
    two.instances[0].trackers = vec![Tracked {
        tracker: SCRIPT,
        weight: 0,
        reverse: false,
    }];
    two.trackers = BTreeMap::from([(SCRIPT, Tracker::Script(Script::new(1, 1, false)))]);
    host.apply(two);
    // Backups go on as such, but nobody is promoted before the script has said something.
    host.run_for(3 * DOWN);
    assert_eq!(host.roles(), [Role::Backup; 2]);
    host.observe(SCRIPT, Observation::Script(true));
    host.run_for(DOWN);
    assert_eq!(host.roles(), [Role::Master; 2]);
}
