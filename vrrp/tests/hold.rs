//! A node that is not ready leaves a living master alone, and replaces one that is gone at once.

mod support;

use core::time::Duration;

use support::rig::{Rig, config_v3};
use vrrp::config::{Config, Preempt};
use vrrp::instance::{Input, Role};

const PEER: &str = "10.77.0.9";

/// Adverts of this priority every 100 ms, for so long.
fn hear(rig: &mut Rig, priority: u8, millis: u64) {
    for _ in 0..millis / 100 {
        rig.advert(priority, PEER);
        rig.run_for(100_000);
    }
}

fn config(priority: u8) -> Config {
    Config {
        priority,
        ..config_v3(100)
    }
}

fn held(config: Config) -> Rig {
    let mut rig = Rig::new(config);
    rig.give(Input::Hold(true));
    rig.link(true);
    rig.give(Input::Source(Some(support::ip(support::rig::OWN))));
    rig.give(Input::Start);
    rig.log();
    rig
}

#[test]
fn a_living_master_is_left_alone() {
    let mut rig = held(config(200));
    hear(&mut rig, 100, 20_000);
    assert_eq!(rig.role(), Role::Backup);
    rig.give(Input::Hold(false));
    hear(&mut rig, 100, 500);
    assert_eq!(
        rig.role(),
        Role::Master,
        "three intervals and the skew later"
    );
    // Who is master stays it.
    rig.give(Input::Hold(true));
    hear(&mut rig, 100, 5000);
    assert_eq!(rig.role(), Role::Master);
}

#[test]
fn a_master_that_is_gone_is_replaced_at_once() {
    let mut rig = held(config(200));
    hear(&mut rig, 100, 2000);
    // One interval has passed since the last advert: two and the skew are left.
    rig.run_for(221_000 - 1000);
    assert_eq!(rig.role(), Role::Backup);
    rig.run_for(3000);
    assert_eq!(rig.role(), Role::Master);
    // One that gives up is, too.
    let mut rig = held(config(200));
    hear(&mut rig, 100, 2000);
    rig.advert(0, PEER);
    rig.run_for(30_000);
    assert_eq!(rig.role(), Role::Master);
}

/// RFC 5798, 6.4.1: an owner takes the addresses at its start; one that is held listens first.
#[test]
fn an_owner_waits_as_well() {
    let owner = Config {
        starts_as_master: true,
        ..config(255)
    };
    let mut rig = Rig::started(owner.clone());
    rig.run_for(1000);
    assert_eq!(rig.role(), Role::Master);
    let mut rig = held(owner.clone());
    hear(&mut rig, 100, 3000);
    assert_eq!(rig.role(), Role::Backup);
    rig.give(Input::Hold(false));
    hear(&mut rig, 100, 400);
    assert_eq!(rig.role(), Role::Master);
    // Nobody is there.
    let mut rig = held(owner);
    rig.run_for(400_000);
    assert_eq!(rig.role(), Role::Master);
}

/// A delay runs on meanwhile.
#[test]
fn a_delay_is_not_added() {
    let mut rig = held(Config {
        preempt: Preempt::After(Duration::from_secs(5)),
        ..config(200)
    });
    hear(&mut rig, 100, 6000);
    assert_eq!(rig.role(), Role::Backup);
    rig.give(Input::Hold(false));
    hear(&mut rig, 100, 500);
    assert_eq!(rig.role(), Role::Master);
}

/// A master that hands over says so, and leaves whoever takes over alone until that is over.
#[test]
fn a_master_hands_over_and_takes_back() {
    let mut rig = Rig::started(config(200));
    rig.run_for(400_000);
    assert_eq!(rig.role(), Role::Master);
    rig.log();
    rig.give(Input::Hold(true));
    rig.give(Input::HandOver);
    let said = rig.said();
    assert_eq!(said, "send 0, remove 1, BACKUP handed-over");
    // The peer waits for its skew, and lives.
    rig.run_for(60_000);
    hear(&mut rig, 100, 20_000);
    assert_eq!(rig.role(), Role::Backup);
    // A backup has nothing to hand over.
    rig.log();
    rig.give(Input::HandOver);
    assert_eq!(rig.said(), "");
    rig.give(Input::Hold(false));
    hear(&mut rig, 100, 500);
    assert_eq!(rig.role(), Role::Master);
    // Nobody is there: it is master again after one master-down interval.
    rig.give(Input::Hold(true));
    rig.give(Input::HandOver);
    rig.run_for(321_000);
    assert_eq!(rig.role(), Role::Backup);
    rig.run_for(3000);
    assert_eq!(rig.role(), Role::Master);
}
