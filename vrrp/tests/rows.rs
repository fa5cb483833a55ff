//! The transition table of keepalived, one test per row, and the rules beside it.

mod support;

use std::time::Duration;

use support::ip;
use support::rig::{MAC, OWN, Rig, config, config_v3};
use vrrp::addr::Mac;
use vrrp::announce::Claim;
use vrrp::config::{Preempt, Transport, VirtualAddress};
use vrrp::instance::{GroupOrder, Input, Instance, Role, State};
use vrrp::output::{Output, Outputs};
use vrrp::packet::{ChecksumPolicy, Invalid, Peer, Version};
use vrrp::timers::AdvertInterval;

const LOWER: &str = "10.77.0.1";
const HIGHER: &str = "10.77.0.3";
/// Master-down interval and skew of priority 100, version 2, 1 s.
const DOWN: u64 = 3_609_375;
const SKEW: u64 = 609_375;

fn priority(priority: u8) -> vrrp::config::Config {
    vrrp::config::Config {
        priority,
        ..config()
    }
}

fn started_anew(config: vrrp::config::Config) -> Rig {
    let mut rig = Rig::new(config);
    rig.link(true);
    rig.give(Input::Source(Some(ip(OWN))));
    rig
}

// Init.

#[test]
fn row_01_an_owner_that_is_to_be_master_is_so_at_once() {
    let mut owner = priority(255);
    owner.starts_as_master = true;
    let mut rig = started_anew(owner);
    rig.give(Input::Start);
    assert_eq!(rig.said(), "remove 1, BACKUP start");
    assert_eq!(rig.timer(), 1);
    rig.run_for(1);
    assert_eq!(
        rig.said(),
        "send 255, add 1, announce x5, MASTER master-down"
    );
    // Only `state MASTER` does that; any owner waits otherwise.
    let mut rig = started_anew(priority(255));
    rig.give(Input::Start);
    assert_eq!(rig.timer(), 3_003_906);
}

#[test]
fn row_02_a_start_makes_a_backup_and_removes_what_is_stale() {
    let mut rig = started_anew(config());
    rig.give(Input::Start);
    assert_eq!(rig.said(), "remove 1, BACKUP start");
    assert_eq!(rig.timer(), DOWN);
}

#[test]
fn row_03_a_start_with_a_fault_is_a_fault() {
    let mut rig = Rig::new(config());
    rig.give(Input::Source(Some(ip(OWN))));
    rig.give(Input::Start);
    assert_eq!(rig.said(), "remove 1, FAULT link-down");

    let mut rig = Rig::new(config());
    rig.link(true);
    rig.give(Input::Start);
    assert_eq!(rig.said(), "remove 1, FAULT no-source");

    let mut rig = started_anew(config());
    rig.track(0, 1, 0);
    rig.give(Input::Start);
    assert_eq!(rig.said(), "remove 1, FAULT tracker-fault");
}

#[test]
fn a_configured_source_counts_and_a_link_may_not() {
    let mut own = config();
    (own.source, own.tracks_link) = (Some(ip(HIGHER)), false);
    let mut rig = Rig::new(own.clone());
    rig.give(Input::Start);
    assert_eq!(rig.said(), "remove 1, BACKUP start");
    rig.give(Input::Source(Some(ip(OWN))));
    rig.run_for(DOWN);
    let mut sources = Vec::new();
    while let Some((_, output)) = rig.out.pop() {
        if let Output::Send(advert) = output {
            sources.push(advert.src);
        }
    }
    assert_eq!(sources, [ip(HIGHER)]);
    // A reload weighs anew what was reported.
    own.tracks_link = true;
    rig.give(Input::Reload(Box::new(own)));
    assert!(rig.said().contains("FAULT link-down"));
}

#[test]
fn row_04_a_tracker_that_has_said_nothing_is_waited_for() {
    for (faults, then) in [(0, "BACKUP start"), (1, "FAULT tracker-fault")] {
        let mut rig = started_anew(config());
        rig.track(0, 0, 1);
        rig.give(Input::Start);
        assert_eq!(rig.said(), "remove 1");
        assert_eq!(rig.role(), Role::Waiting);
        rig.run_for(60_000_000);
        rig.advert(200, HIGHER);
        assert_eq!(rig.instance.counters().invalid[Invalid::NotListening], 1);
        rig.track(0, faults, 0);
        assert_eq!(rig.said(), then);
    }
}

// Backup.

#[test]
fn row_05_a_group_that_is_not_ready_makes_it_wait_again() {
    let mut rig = Rig::started(config());
    rig.instance = Instance::new(config(), true).unwrap();
    rig.link(true);
    rig.give(Input::Source(Some(ip(OWN))));
    rig.give(Input::Start);
    rig.log();
    assert!(!rig.instance.wants_master());
    rig.run_for(DOWN);
    assert_eq!((rig.said().as_str(), rig.role()), ("", Role::Backup));
    assert!(rig.instance.wants_master());
    assert_eq!(rig.timer(), DOWN);
    rig.give(Input::Group(GroupOrder::Promote));
    assert_eq!(rig.said(), "send 100, add 1, announce x5, MASTER group");
    assert_eq!(rig.timer(), 1_000_000);
}

#[test]
fn row_05_an_advert_ends_the_wish_to_be_master() {
    let mut rig = Rig::started(config());
    rig.instance = Instance::new(config(), true).unwrap();
    rig.link(true);
    rig.give(Input::Source(Some(ip(OWN))));
    rig.give(Input::Start);
    rig.run_for(DOWN);
    assert!(rig.instance.wants_master());
    rig.advert(100, LOWER);
    assert!(!rig.instance.wants_master());
}

#[test]
fn row_06_silence_makes_a_master_that_adverts_first() {
    let mut config = config();
    config.announcing.refresh = Duration::from_secs(60);
    config.unadvertised = vec![VirtualAddress::host(ip("fd00::1"))];
    let mut rig = Rig::started(config);
    rig.run_for(DOWN - 1);
    assert_eq!(rig.role(), Role::Backup);
    rig.run_for(1);
    assert_eq!(
        rig.said(),
        "send 100, add 2, announce x5, MASTER master-down"
    );
    assert_eq!(rig.timer(), 1_000_000);
    // The burst comes again after five seconds, refreshes from then on every 60.
    rig.run_for(4_999_999);
    assert!(!rig.said().contains("announce"));
    rig.run_for(1);
    assert_eq!(rig.said(), "send 100, announce x5");
    rig.run_for(59_999_999);
    assert!(!rig.said().contains("announce"));
    rig.run_for(1);
    assert_eq!(rig.said(), "send 100, announce x1");
    rig.run_for(60_000_000);
    assert_eq!(
        rig.log()
            .iter()
            .filter(|line| line.starts_with("announce"))
            .count(),
        1
    );
}

#[test]
fn row_07_priority_zero_leaves_the_skew() {
    let mut rig = Rig::started(config());
    rig.advert(200, HIGHER);
    rig.run_for(500_000);
    rig.advert(0, HIGHER);
    assert_eq!(rig.timer(), SKEW);
    // keepalived sends it twice on a fault; the second does not start the wait again.
    rig.run_for(100_000);
    rig.advert(0, HIGHER);
    assert_eq!(rig.timer(), SKEW - 100_000);
    rig.run_for(SKEW - 100_000);
    assert_eq!(
        rig.said(),
        "send 100, add 1, announce x5, MASTER master-down"
    );
}

#[test]
fn row_08_adverts_of_at_least_our_priority_restart_the_wait() {
    for (theirs, src) in [(101, LOWER), (100, LOWER), (100, HIGHER)] {
        let mut rig = Rig::started(config());
        rig.run_for(1_000_000);
        rig.advert(theirs, src);
        assert_eq!(rig.timer(), DOWN);
        let State::Backup(backup) = rig.instance.state() else {
            panic!()
        };
        assert_eq!(backup.master, Some((ip(src), theirs)));
    }
}

#[test]
fn row_08_version_3_learns_the_interval() {
    let mut rig = Rig::started(config_v3(1000));
    rig.advert_with(200, HIGHER, |advert| {
        advert.interval = AdvertInterval::from_wire(Version::V3, 20).unwrap();
    });
    assert_eq!(rig.said(), "alarm interval-mismatch");
    // 3 × 200 ms + 156 × 200 / 256 ms.
    assert_eq!(rig.timer(), 721_875);
    rig.run_for(721_875);
    // As master its own interval counts again, and the peers are told so.
    assert_eq!(rig.role(), Role::Master);
    assert_eq!(rig.timer(), 1_000_000);
}

#[test]
fn row_08_version_2_refuses_another_interval() {
    let mut rig = Rig::started(config());
    rig.run_for(1_000_000);
    rig.advert_with(200, HIGHER, |advert| {
        advert.interval = AdvertInterval::from_wire(Version::V2, 2).unwrap();
    });
    assert_eq!(rig.timer(), DOWN - 1_000_000);
    assert_eq!(rig.instance.counters().invalid[Invalid::Interval], 1);
}

#[test]
fn row_08_nopreempt_accepts_a_lower_master() {
    let mut config = config();
    config.preempt = Preempt::Never;
    let mut rig = Rig::started(config);
    rig.run_for(1_000_000);
    rig.advert(50, HIGHER);
    assert_eq!(rig.timer(), DOWN);
}

#[test]
fn row_09_a_lower_master_is_preempted_at_the_old_deadline() {
    let mut rig = Rig::started(config());
    for _ in 0..3 {
        rig.run_for(1_000_000);
        rig.advert(99, HIGHER);
    }
    assert_eq!(rig.timer(), DOWN - 3_000_000);
    rig.run_for(DOWN - 3_000_000);
    assert_eq!(rig.role(), Role::Master);
}

#[test]
fn row_10_a_preempt_delay_accepts_the_lower_master_until_it_ends() {
    let mut config = config();
    config.preempt = Preempt::After(Duration::from_secs(2));
    let mut rig = Rig::started(config);
    rig.run_for(1_000_000);
    for (pause, timer) in [
        (0, DOWN),
        (1_000_000, DOWN),
        (999_999, DOWN),
        // The delay is over: discarded, the timer runs on.
        (1, DOWN - 1),
        (1_000_000, DOWN - 1_000_001),
    ] {
        rig.run_for(pause);
        rig.advert(50, LOWER);
        assert_eq!(rig.timer(), timer);
    }
}

#[test]
fn row_11_a_higher_advert_cancels_the_delay() {
    let mut config = config();
    config.preempt = Preempt::After(Duration::from_secs(2));
    let mut rig = Rig::started(config);
    rig.advert(50, LOWER);
    rig.run_for(1_500_000);
    rig.advert(100, HIGHER);
    rig.run_for(1_000_000);
    // It starts anew with the next lower one.
    rig.advert(50, LOWER);
    assert_eq!(rig.timer(), DOWN);
    rig.run_for(1_999_999);
    rig.advert(50, LOWER);
    assert_eq!(rig.timer(), DOWN);
}

#[test]
fn row_12_a_priority_that_changes_moves_the_deadline() {
    let mut rig = Rig::started(config());
    rig.run_for(1_000_000);
    rig.track(28, 0, 0);
    assert_eq!(rig.said(), "priority 128");
    // Skew falls from 156/256 s to 128/256 s.
    assert_eq!(rig.timer(), DOWN - 1_000_000 - 109_375);
    rig.track(0, 0, 0);
    assert_eq!(rig.timer(), DOWN - 1_000_000);
    // Never into the past.
    rig.run_for(DOWN - 1_000_000 - 50_000);
    rig.track(100, 0, 0);
    assert_eq!(rig.timer(), 0);
}

// Master.

#[test]
fn row_13_adverts_keep_their_interval() {
    let mut rig = Rig::started(config());
    rig.run_for(DOWN);
    rig.log();
    rig.run_for(4_000_000);
    assert_eq!(rig.said(), "send 100, send 100, send 100, send 100");
    // A late one does not shift the following ones.
    rig.freeze_for(1_300_000);
    rig.give(Input::Timer);
    assert_eq!(
        (rig.said().as_str(), rig.timer()),
        ("send 100, announce x5", 700_000)
    );
}

#[test]
fn row_14_priority_zero_is_answered_at_once() {
    let mut rig = Rig::master(config());
    rig.advert(0, LOWER);
    assert_eq!((rig.said().as_str(), rig.timer()), ("send 100", 1_000_000));
    assert_eq!(rig.role(), Role::Master);
}

#[test]
fn row_15_a_lower_master_is_answered() {
    for (theirs, src) in [(99, HIGHER), (100, LOWER)] {
        let mut rig = Rig::started(config());
        rig.run_for(DOWN + 5_500_000);
        rig.log();
        rig.advert(theirs, src);
        assert_eq!(rig.said(), "alarm lower-master, send 100, announce x5");
        assert_eq!((rig.role(), rig.timer()), (Role::Master, 1_000_000));
        assert!(rig.reaction.lower_master);
        // The announcements come again five seconds later.
        rig.run_for(4_999_999);
        assert!(!rig.said().contains("announce"));
        rig.run_for(1);
        assert!(rig.said().contains("announce x5"));
        assert_eq!(rig.instance.counters().lower_received, 1);
    }
}

#[test]
fn row_15_another_answer_does_not_put_off_what_is_said_again() {
    let mut rig = Rig::started(config());
    rig.run_for(DOWN + 5_500_000);
    rig.advert(99, HIGHER);
    rig.run_for(2_000_000);
    rig.advert(99, HIGHER);
    rig.run_for(2_999_999);
    rig.log();
    rig.run_for(1);
    assert!(rig.said().contains("announce x5"));
}

#[test]
fn row_15_can_be_switched_off() {
    let mut config = config();
    config.answers_lower = false;
    let mut rig = Rig::master(config);
    rig.advert(99, HIGHER);
    assert_eq!(rig.said(), "alarm lower-master");
    assert!(!rig.reaction.lower_master);
}

#[test]
fn row_15_a_flood_is_answered_four_times_an_interval() {
    let mut rig = Rig::master(config());
    let before = rig.instance.counters().adverts_sent;
    for _ in 0..1_000 {
        rig.run_for(1_000);
        rig.advert(99, HIGHER);
        rig.advert(0, HIGHER);
    }
    assert_eq!(rig.instance.counters().adverts_sent - before, 4);
    assert_eq!(
        rig.log()
            .iter()
            .filter(|line| line.contains("announce"))
            .count(),
        4
    );
}

#[test]
fn row_16_a_higher_priority_or_address_takes_over() {
    for (theirs, src) in [(101, LOWER), (100, HIGHER)] {
        let mut rig = Rig::master(config());
        rig.advert(theirs, src);
        assert_eq!(rig.said(), "send 100, remove 1, BACKUP higher-priority");
        assert_eq!(rig.timer(), DOWN);
        assert!(rig.reaction.ceased);
        let State::Backup(backup) = rig.instance.state() else {
            panic!()
        };
        assert_eq!(backup.master, Some((ip(src), theirs)));
        // Announcements that were due are not.
        rig.advert(theirs, src);
        rig.run_for(1_000_000);
        assert_eq!(rig.said(), "");
    }
}

#[test]
fn row_16_silently_and_learning_the_interval() {
    let mut config = config_v3(1000);
    config.advert_before_yielding = false;
    let mut rig = Rig::master(config);
    rig.advert_with(101, LOWER, |advert| {
        advert.interval = AdvertInterval::from_wire(Version::V3, 20).unwrap();
    });
    assert_eq!(
        rig.said(),
        "remove 1, BACKUP higher-priority, alarm interval-mismatch"
    );
    assert_eq!(rig.timer(), 721_875);
}

#[test]
fn row_17_our_own_address_is_an_alarm() {
    let mut rig = Rig::master(config());
    rig.advert(100, OWN);
    assert_eq!(
        (rig.said().as_str(), rig.role()),
        ("alarm own-address", Role::Master)
    );
    rig.advert(100, OWN);
    assert_eq!(rig.said(), "", "once until the state changes");
}

#[test]
fn row_18_a_fault_gives_up_with_two_adverts() {
    type Break = fn(&mut Rig);
    let faults: [(&str, Break); 3] = [
        ("link-down", |rig| rig.link(false)),
        ("no-source", |rig| rig.give(Input::Source(None))),
        ("tracker-fault", |rig| rig.track(0, 1, 0)),
    ];
    for (cause, break_it) in faults {
        let mut rig = Rig::master(config());
        break_it(&mut rig);
        assert_eq!(
            rig.said(),
            format!("send 0, send 0, remove 1, FAULT {cause}")
        );
        assert!(rig.reaction.ceased);
        assert_eq!(rig.instance.next_timeout(), None);
        assert_eq!(rig.instance.counters().zero_sent, 2);
    }
}

#[test]
fn row_19_a_backup_faults_silently() {
    let mut rig = Rig::started(config());
    rig.link(false);
    assert_eq!(rig.said(), "FAULT link-down");
    assert_eq!(rig.instance.next_timeout(), None);
}

#[test]
fn row_20_when_all_faults_are_gone_it_listens() {
    let mut rig = Rig::started(config());
    rig.link(false);
    rig.track(0, 1, 0);
    rig.log();
    rig.run_for(10_000_000);
    rig.link(true);
    assert_eq!(rig.said(), "", "one fault is left");
    assert_eq!(
        rig.instance.state(),
        &State::Fault(vrrp::instance::Cause::TrackerFault)
    );
    rig.track(0, 0, 0);
    assert_eq!(rig.said(), "BACKUP cleared");
    assert_eq!(rig.timer(), DOWN);
}

#[test]
fn row_20_unicast_announces_its_source_and_an_owner_waits_less() {
    let mut config = priority(255);
    config.starts_as_master = true;
    let peers = vec![Peer::new(ip(LOWER)), Peer::new(ip(HIGHER))];
    config.transport = Transport::Unicast {
        peers,
        ttl: 64,
        check_source: true,
    };
    let mut rig = Rig::started(config);
    rig.link(false);
    rig.log();
    rig.link(true);
    assert_eq!(rig.said(), format!("BACKUP cleared, announce {OWN}"));
    assert_eq!(rig.timer(), 1_003_906);
    rig.run_for(1_003_906);
    assert_eq!(
        rig.said(),
        format!(
            "send 255 to {LOWER}, send 255 to {HIGHER}, add 1, announce x5, MASTER master-down"
        )
    );
}

#[test]
fn row_21_adverts_are_ignored_at_fault() {
    let mut rig = Rig::started(config());
    rig.link(false);
    rig.log();
    rig.advert(200, HIGHER);
    assert_eq!((rig.said().as_str(), rig.role()), ("", Role::Fault));
    assert_eq!(rig.instance.counters().invalid[Invalid::NotListening], 1);
    assert_eq!(rig.instance.counters().adverts_received, 0);
}

#[test]
fn row_22_an_address_that_somebody_removed_is_given_up() {
    let mut rig = Rig::master(config());
    rig.give(Input::AddressLost(ip("10.77.0.101")));
    assert_eq!(rig.said(), "", "not ours");
    rig.give(Input::AddressLost(ip("10.77.0.100")));
    assert_eq!(rig.said(), "remove 1, BACKUP address-lost");
    rig.run_for(DOWN);
    assert_eq!(rig.role(), Role::Master);
}

#[test]
fn row_23_a_master_that_stops_says_so_before_it_lets_go() {
    let mut rig = Rig::master(config());
    rig.give(Input::Stop);
    assert_eq!(rig.said(), "send 0, remove 1, STOP stop");
    assert_eq!(rig.instance.lease(), None);
    let mut rig = Rig::started(config());
    rig.give(Input::Stop);
    assert_eq!(rig.said(), "STOP stop");
    rig.give(Input::Stop);
    assert_eq!(rig.said(), "");
    rig.give(Input::Start);
    assert_eq!(rig.said(), "remove 1, BACKUP start");
}

#[test]
fn row_24_a_master_that_was_held_up_listens_before_it_sends() {
    // 3 × 1 s and the skew of priority 255, from the last advert.
    let mut rig = Rig::started(config());
    rig.run_for(DOWN);
    rig.log();
    rig.freeze_for(3_003_906);
    rig.give(Input::Timer);
    assert_eq!(rig.said(), "send 100", "just in time");
    rig.freeze_for(3_003_907);
    // Whatever comes first.
    rig.advert(90, LOWER);
    assert_eq!(rig.said(), "remove 1, BACKUP lease-expired");
    assert_eq!(rig.instance.counters().held_up, 1);
    rig.run_for(1_000_000);
    rig.advert(90, LOWER);
    assert_eq!((rig.said().as_str(), rig.role()), ("", Role::Backup));
}

// Beside the table.

#[test]
fn a_backup_that_was_held_up_listens_again() {
    let mut rig = Rig::started(config());
    rig.advert(200, HIGHER);
    // The whole time starts anew, and not what was left of it.
    rig.run_for(1_500_000);
    rig.freeze_for(DOWN + 1);
    rig.give(Input::Timer);
    assert_eq!((rig.role(), rig.timer()), (Role::Backup, DOWN));
    rig.run_for(DOWN);
    assert_eq!(rig.role(), Role::Master, "then silence counts");
}

#[test]
fn time_that_a_backup_did_not_listen_is_no_silence() {
    let mut rig = Rig::started(config());
    rig.advert(200, HIGHER);
    rig.run_for(1_500_000);
    // Its last look was at 1 s.
    rig.freeze_for(2_600_000);
    rig.give(Input::Timer);
    assert_eq!((rig.role(), rig.timer()), (Role::Backup, DOWN - 1_000_000));
    // A short delay changes nothing.
    rig.freeze_for(1_500_000);
    rig.give(Input::Timer);
    assert_eq!(rig.timer(), DOWN - 2_500_000);
}

#[test]
fn leases_end_before_any_peer_takes_over() {
    for (version, millis, length) in [
        (Version::V2, 1000, 3_003_906),
        (Version::V3, 100, 300_390),
        (Version::V3, 10, 30_039),
    ] {
        let mut config = config_v3(millis);
        config.version = version;
        let mut rig = Rig::started(config);
        rig.run_for(4_000_000);
        let lease = rig.instance.lease().unwrap();
        let State::Master(master) = rig.instance.state() else {
            panic!()
        };
        let sent = master.next_advert - Duration::from_millis(millis);
        assert_eq!(
            lease.until().unwrap().since(sent),
            Duration::from_micros(length)
        );
        // And it was put out with each advert.
        let mut leases = Vec::new();
        while let Some((_, output)) = rig.out.pop() {
            if let Output::Lease { until } = output {
                leases.push(until);
            }
        }
        assert_eq!(leases.last(), lease.until().as_ref());
        assert_eq!(leases.len() as u64, rig.instance.counters().adverts_sent);
    }
}

#[test]
fn adverts_that_cannot_be_sent_end_the_lease() {
    let mut rig = Rig::master(config());
    let until = rig.instance.lease().unwrap().until();
    rig.run_for(1_000_000);
    assert!(rig.instance.lease().unwrap().until() > until);
    rig.give(Input::SendFailed);
    assert_eq!(rig.instance.lease().unwrap().until(), until);
    while rig.role() == Role::Master {
        let next = rig.instance.next_timeout().unwrap();
        rig.run_for(next.since(rig.now).as_micros() as u64);
        rig.give(Input::SendFailed);
        assert!(rig.now < until.unwrap() + Duration::from_secs(1));
    }
    assert!(rig.said().ends_with("remove 1, BACKUP lease-expired"));
}

#[test]
fn silence_counts_only_if_something_was_heard() {
    let mut deaf = config();
    deaf.needs_live_receive_path = true;
    let mut rig = Rig::started(deaf.clone());
    rig.run_for(DOWN);
    assert_eq!(rig.said(), "FAULT deaf");
    // A frame shows that the path works; then it listens.
    rig.give(Input::FrameHeard);
    assert_eq!(rig.said(), "BACKUP cleared");
    assert_eq!(rig.timer(), DOWN);
    rig.run_for(2_000_000);
    rig.give(Input::FrameHeard);
    rig.run_for(DOWN - 2_000_000);
    assert_eq!(rig.role(), Role::Master);

    // What came before an advert was missing is no proof: the path may have broken since.
    let mut rig = Rig::started(deaf.clone());
    rig.advert(200, HIGHER);
    rig.run_for(1_500_000);
    rig.give(Input::FrameHeard);
    rig.run_for(DOWN - 1_500_000);
    assert_eq!(rig.said(), "FAULT deaf");

    // A master that gives up needs no proof.
    let mut rig = Rig::started(deaf.clone());
    rig.advert(0, HIGHER);
    rig.run_for(SKEW);
    assert_eq!(rig.role(), Role::Master);

    // Nor does one that is preempted: it is heard.
    let mut rig = Rig::started(deaf);
    for _ in 0..3 {
        rig.run_for(1_000_000);
        rig.advert(50, HIGHER);
    }
    rig.run_for(DOWN - 3_000_000);
    assert_eq!(rig.role(), Role::Master);

    // Nor does an owner: nobody else may have its addresses.
    let mut owner = priority(255);
    (owner.starts_as_master, owner.needs_live_receive_path) = (true, true);
    let mut rig = Rig::started(owner);
    rig.run_for(DOWN);
    assert_eq!(rig.role(), Role::Master);
}

#[test]
fn after_the_link_came_up_silence_counts_from_the_first_frame() {
    let mut config = config_v3(10);
    config.needs_live_receive_path = true;
    let down = {
        let mut rig = Rig::started(config.clone());
        rig.said();
        rig.timer()
    };
    let link = |is_up| Input::Link {
        is_up,
        mac: Mac([2, 0, 0, 0, 0, 9]),
    };
    // The own receive path works all the time; the port of the switch passes nothing for a while.
    let replugged = || {
        let mut rig = Rig::started(config.clone());
        rig.run_for(down / 4);
        rig.give(link(false));
        rig.give(link(true));
        rig.said();
        rig
    };
    let silent = |rig: &mut Rig, time: u64| {
        for _ in 0..time / 10_000 {
            rig.give(Input::FrameHeard);
            rig.run_for(10_000);
        }
    };
    // A lone node.
    let mut rig = replugged();
    silent(&mut rig, 2_900_000);
    assert_eq!(rig.role(), Role::Backup);
    silent(&mut rig, 200_000);
    assert_eq!(rig.role(), Role::Master);
    // Somebody is there, but no master.
    let mut rig = replugged();
    silent(&mut rig, 1_000_000);
    rig.give(Input::Arrived);
    silent(&mut rig, down - 20_000);
    assert_eq!(rig.role(), Role::Backup);
    silent(&mut rig, 40_000);
    assert_eq!(rig.role(), Role::Master);
    // A master is there.
    let mut rig = replugged();
    silent(&mut rig, 1_000_000);
    rig.advert(200, HIGHER);
    assert_eq!(rig.timer(), down);
    silent(&mut rig, down + 20_000);
    assert_eq!(rig.role(), Role::Master, "it died");
    // A link that was up all the time is no reason to wait.
    let mut rig = Rig::started(config.clone());
    rig.give(link(true));
    silent(&mut rig, down + 20_000);
    assert_eq!(rig.role(), Role::Master);
}

#[test]
fn a_startup_delay_shifts_everything() {
    let mut config = config();
    config.startup_delay = Duration::from_millis(1_500);
    let mut rig = Rig::started(config);
    assert_eq!(rig.timer(), 1_500_000 + DOWN);
    rig.run_for(1_000_000);
    rig.advert(200, HIGHER);
    assert_eq!(rig.instance.counters().invalid[Invalid::NotListening], 1);
    assert_eq!(rig.timer(), 500_000 + DOWN);
    rig.run_for(500_000);
    rig.advert(200, HIGHER);
    assert_eq!(rig.instance.counters().adverts_received, 1);
    assert_eq!(rig.timer(), DOWN);
}

#[test]
fn down_timer_adverts_count() {
    let mut config = config();
    config.down_timer_adverts = 7;
    let mut rig = Rig::started(config.clone());
    assert_eq!(rig.timer(), 7_609_375);
    // And so does the lease, even if a single advert is all.
    config.down_timer_adverts = 1;
    let mut rig2 = Rig::started(config);
    rig2.run_for(1_609_375 + 100_000_000);
    assert_eq!(rig2.role(), Role::Master);
    assert_eq!(rig2.instance.counters().became_master, 1);
    rig.run_for(1);
}

#[test]
fn sub_second_intervals_down_to_ten_milliseconds() {
    let mut rig = Rig::started(config_v3(10));
    // 30 ms + 156 × 10 / 256 ms.
    assert_eq!(rig.timer(), 36_093);
    rig.run_for(36_093 + 1_000_000);
    assert_eq!(rig.instance.counters().adverts_sent, 101);
}

#[test]
fn accept_mode_is_told_to_who_adds_the_addresses() {
    let silent = |priority| {
        let mut config = support::rig::config();
        (config.accept, config.priority) = (false, priority);
        let mut rig = Rig::started(config);
        rig.run_for(DOWN);
        rig.said().contains("silently")
    };
    assert!(silent(100));
    assert!(!silent(255), "the owner always answers");
}

#[test]
fn checksums_follow_the_policy() {
    let form = |policy: ChecksumPolicy, hear_plain: bool| {
        let mut config = config_v3(1000);
        config.checksum = policy;
        let mut rig = Rig::started(config);
        if hear_plain {
            rig.advert_with(200, HIGHER, |advert| {
                advert.form = vrrp::packet::ChecksumForm::Plain;
            });
        }
        rig.log();
        rig.run_for(4_000_000);
        let Some((_, Output::Send(datagram))) = rig.out.pop() else {
            panic!()
        };
        let packet = datagram.packet(1);
        let received = vrrp::packet::Received::from_ip(&packet).unwrap();
        vrrp::packet::Advert::decode(&received).unwrap().form
    };
    use vrrp::packet::ChecksumForm::{Plain, Pseudo};
    assert_eq!(form(ChecksumPolicy::Keepalived, true), Pseudo);
    assert_eq!(form(ChecksumPolicy::Rfc9568, false), Plain);
    assert_eq!(form(ChecksumPolicy::Auto, false), Pseudo);
    assert_eq!(form(ChecksumPolicy::Auto, true), Plain);
}

#[test]
fn other_addresses_are_accepted_and_alarmed_once_per_master() {
    let mut rig = Rig::started(config());
    let other = vec![ip("10.77.0.101")].leak();
    for _ in 0..3 {
        rig.advert_with(200, HIGHER, |advert| advert.addresses = other);
    }
    assert_eq!(rig.said(), "alarm address-mismatch");
    assert_eq!(rig.instance.counters().address_mismatches, 3);
    assert!(!rig.instance.heard()[0].same_addresses);
    rig.advert_with(200, LOWER, |advert| advert.addresses = other);
    assert_eq!(rig.said(), "alarm address-mismatch", "another master");
    // The order is no difference, the number is.
    let mut two = config();
    two.addresses.push(VirtualAddress::host(ip("10.77.0.99")));
    let mut rig = Rig::started(two);
    let turned = vec![ip("10.77.0.99"), ip("10.77.0.100")].leak();
    rig.advert_with(200, HIGHER, |advert| advert.addresses = turned);
    assert_eq!(rig.said(), "");
    let twice = vec![ip("10.77.0.99"), ip("10.77.0.99")].leak();
    rig.advert_with(200, HIGHER, |advert| advert.addresses = twice);
    assert_eq!(rig.said(), "alarm address-mismatch");
}

#[test]
fn an_owner_that_ignores_adverts_stays() {
    let mut owner = priority(255);
    owner.owner_ignores = true;
    let mut rig = Rig::master(owner);
    rig.advert(255, HIGHER);
    assert_eq!((rig.said().as_str(), rig.role()), ("", Role::Master));
    assert_eq!(rig.instance.counters().invalid[Invalid::OwnerIgnores], 1);
    // Others do not, whatever they were told.
    let mut other = config();
    other.owner_ignores = true;
    let mut rig = Rig::master(other);
    rig.advert(255, HIGHER);
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn a_foreign_mac_is_an_alarm_at_most_once_a_second() {
    let claim = |addr: &str, mac| {
        Input::Claimed(Claim {
            addr: ip(addr),
            mac,
        })
    };
    let foreign = Mac([2, 0, 0, 0, 0, 9]);
    let mut config = config();
    config.virtual_mac = true;
    let mut rig = Rig::master(config.clone());
    rig.give(claim("10.77.0.100", MAC));
    rig.give(claim("10.77.0.100", Mac([0, 0, 0x5e, 0, 1, 51])));
    rig.give(claim("10.77.0.101", foreign));
    assert_eq!(rig.said(), "", "our own MACs, another address");
    for _ in 0..5 {
        rig.give(claim("10.77.0.100", foreign));
    }
    assert_eq!(rig.said(), "alarm foreign-mac, announce x1");
    rig.freeze_for(999_999);
    rig.give(claim("10.77.0.100", foreign));
    rig.log();
    rig.freeze_for(1);
    rig.give(claim("10.77.0.100", foreign));
    let alarm = rig.out.pop();
    assert!(
        matches!(
            &alarm,
            Some((
                _,
                Output::Alarm(vrrp::output::Alarm::ForeignMac { suppressed: 5, .. })
            ))
        ),
        "{alarm:?}"
    );
    assert_eq!(rig.instance.counters().foreign_claims, 7);
    // A backup knows that the address is elsewhere.
    let mut rig = Rig::started(config);
    rig.give(claim("10.77.0.100", foreign));
    assert_eq!(rig.said(), "");
}

#[test]
fn a_reload_keeps_the_master_and_changes_addresses_by_difference() {
    let mut rig = Rig::master(config());
    let mut new = config();
    new.addresses = vec![VirtualAddress::host(ip("10.77.0.101"))];
    new.priority = 120;
    rig.give(Input::Reload(Box::new(new.clone())));
    assert_eq!(
        rig.said(),
        "priority 120, remove 1, send 120, add 1, announce x5"
    );
    assert_eq!((rig.role(), rig.timer()), (Role::Master, 1_000_000));
    // The same again: an advert at once, nothing else.
    rig.give(Input::Reload(Box::new(new)));
    assert_eq!(rig.said(), "send 120");
}

#[test]
fn a_reload_moves_a_backups_deadline_by_what_changed() {
    let mut rig = Rig::started(config());
    rig.run_for(1_000_000);
    let mut new = config();
    new.interval = AdvertInterval::from_wire(Version::V2, 2).unwrap();
    rig.give(Input::Reload(Box::new(new)));
    assert_eq!((rig.said().as_str(), rig.timer()), ("", DOWN + 2_000_000));
    let mut wrong = config();
    wrong.priority = 0;
    rig.give(Input::Reload(Box::new(wrong)));
    assert_eq!(rig.instance.config().priority, 100, "ignored");
}

#[test]
fn a_reload_keeps_the_interval_that_was_learned() {
    let mut rig = Rig::started(config_v3(100));
    rig.advert_with(200, HIGHER, |advert| {
        advert.interval = AdvertInterval::from_wire(Version::V3, 20).unwrap();
    });
    let learned = rig.timer();
    assert!(learned > 600_000, "{learned}");
    rig.give(Input::Reload(Box::new(config_v3(100))));
    assert_eq!(rig.timer(), learned);
}

#[test]
fn heard_routers_are_remembered_within_bounds() {
    let mut rig = Rig::started(config());
    for i in 0..100 {
        rig.advert(200, &format!("10.77.1.{i}"));
    }
    rig.advert(150, "10.77.1.90");
    assert_eq!(rig.instance.heard().len(), 16);
    let last = rig.instance.heard().last().unwrap();
    assert_eq!((last.addr, last.priority), (ip("10.77.1.90"), 150));
}

#[test]
fn a_group_orders_its_members() {
    use vrrp::instance::Health;
    let mut rig = Rig::master(config());
    rig.give(Input::Group(GroupOrder::Announce));
    assert_eq!(rig.said(), "announce x5");
    rig.give(Input::Group(GroupOrder::Yield));
    assert_eq!(rig.said(), "remove 1, BACKUP group");
    let mut rig = Rig::master(config());
    rig.give(Input::Group(GroupOrder::Health(Health::Fault)));
    assert_eq!(rig.said(), "send 0, send 0, remove 1, FAULT group-fault");
    rig.give(Input::Group(GroupOrder::Health(Health::Pending)));
    assert_eq!(rig.said(), "");
    rig.give(Input::Group(GroupOrder::Health(Health::Fine)));
    assert_eq!(rig.said(), "BACKUP cleared");
}

#[test]
fn the_other_family_is_no_source() {
    let mut rig = Rig::started(config());
    rig.give(Input::Source(Some(ip("fe80::1"))));
    assert_eq!(rig.said(), "FAULT no-source");
}

#[test]
fn outputs_are_bounded() {
    let mut out = Outputs::new(0);
    assert!(out.has_room());
    let mut config = config();
    let peers: Vec<Peer> = (1..=32).map(|i| Peer::new([10, 77, 1, i].into())).collect();
    config.transport = Transport::Unicast {
        peers,
        ttl: 255,
        check_source: true,
    };
    let mut rig = Rig::started(config);
    rig.run_for(DOWN);
    while let Some((_, output)) = rig.out.pop() {
        drop(output);
    }
    // The step with the most outputs: a reload of a master that is also a fault of its group.
    std::mem::swap(&mut rig.out, &mut out);
    let mut new = rig.instance.config().clone();
    new.addresses = vec![VirtualAddress::host(ip("10.77.0.101"))];
    new.priority = 200;
    rig.give(Input::Reload(Box::new(new)));
    assert!(!rig.out.has_room());
}

// After a kill: its adverts still keep the peers waiting.

/// An instance that is told until when it may resume, with a link and a source.
fn resuming(config: vrrp::config::Config, micros: u64) -> Rig {
    let mut rig = started_anew(config);
    let until = rig.now + Duration::from_micros(micros);
    rig.give(Input::Resume(until));
    rig
}

#[test]
fn a_master_that_was_killed_resumes_before_its_peers_can_notice() {
    let mut rig = resuming(config(), 1_000_000);
    rig.give(Input::Start);
    assert_eq!(
        rig.said(),
        "remove 1, send 100, add 1, announce x5, MASTER resume"
    );
    assert_eq!(rig.timer(), 1_000_000);
    // It is a master like any other: the next fault is no occasion to resume.
    rig.link(false);
    rig.link(true);
    assert_eq!(
        rig.said(),
        "send 0, send 0, remove 1, FAULT link-down, BACKUP cleared"
    );
}

#[test]
fn it_listens_when_the_time_is_over() {
    for (late, role) in [(1_000_000, Role::Master), (1_000_001, Role::Backup)] {
        let mut rig = resuming(config(), 1_000_000);
        rig.freeze_for(late);
        rig.give(Input::Start);
        assert_eq!(rig.role(), role, "{late}");
    }
    // A fault at the start does not change that.
    for (late, then) in [
        (900_000, "send 100, add 1, announce x5, MASTER resume"),
        (1_100_000, "BACKUP cleared"),
    ] {
        let mut rig = resuming(config(), 1_000_000);
        rig.link(false);
        rig.give(Input::Start);
        assert_eq!(rig.said(), "remove 1, FAULT link-down");
        rig.freeze_for(late);
        rig.link(true);
        assert_eq!(rig.said(), then);
    }
}

#[test]
fn a_start_up_delay_does_not_deafen_a_master_that_resumes() {
    let mut delayed = config();
    delayed.startup_delay = Duration::from_secs(60);
    let mut rig = resuming(delayed, 1_000_000);
    rig.give(Input::Start);
    rig.log();
    rig.advert(150, HIGHER);
    assert_eq!(rig.said(), "send 100, remove 1, BACKUP higher-priority");
}

#[test]
fn a_deadline_that_a_better_priority_moves_into_the_past_is_now() {
    let mut rig = Rig::started(priority(1));
    // 3.996 s at priority 1, 3.020 s at 251.
    rig.run_for(3_900_000);
    rig.track(250, 0, 0);
    assert_eq!(rig.said(), "priority 251");
    rig.run_for(0);
    assert_eq!(rig.role(), Role::Master);
}
