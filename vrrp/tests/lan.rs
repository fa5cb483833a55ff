//! Two and three routers on a simulated LAN: failover times, and never two masters for longer
//! than the protocol allows.

mod support;

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use support::ip;
use support::lan::{Lan, Trouble};
use support::rig::{config, config_ipv6, config_v3};
use vrrp::addr::Family;
use vrrp::config::{Config, Preempt, Transport};
use vrrp::instance::Role;
use vrrp::packet::{Peer, Version};
use vrrp::time::Instant;
use vrrp::timers;

/// Nodes of these priorities, the first with the lowest address. Unicast ones know each other.
fn nodes(base: &Config, priorities: &[u8]) -> Vec<(IpAddr, Config)> {
    let host = |i: usize| match base.key.family {
        Family::V4 => ip(&format!("10.77.0.{}", i + 1)),
        Family::V6 => ip(&format!("fe80::{}", i + 1)),
    };
    let node = |(i, priority): (usize, &u8)| {
        let mut config = Config {
            priority: *priority,
            ..base.clone()
        };
        if let Transport::Unicast { peers, .. } = &mut config.transport {
            let others = (0..priorities.len()).filter(|other| *other != i);
            *peers = others.map(|other| Peer::new(host(other))).collect();
        }
        (host(i), config)
    };
    priorities.iter().enumerate().map(node).collect()
}

/// The configurations that failover is measured with.
fn bases() -> Vec<Config> {
    let unicast = |config: Config| {
        let transport = Transport::Unicast {
            peers: Vec::new(),
            ttl: 64,
            check_source: true,
        };
        Config {
            transport,
            ..config
        }
    };
    vec![
        config(),
        config_v3(100),
        config_v3(10),
        config_ipv6(100),
        unicast(config()),
        unicast(config_ipv6(100)),
    ]
}

/// What every packet takes on the measured LAN, microseconds.
const WAY: u64 = 150;

fn measured(base: &Config) -> Lan {
    let mut lan = Lan::new(nodes(base, &[150, 100]), (WAY, WAY), 1);
    lan.run_for(5_000_000);
    assert_eq!(lan.masters(), [0]);
    lan
}

/// Time from the last advert of node 0 with a priority to the first of node 1.
fn failover(lan: &Lan) -> Duration {
    let last = lan
        .adverts
        .iter()
        .rfind(|(_, node, priority)| *node == 0 && *priority > 0)
        .unwrap();
    let first = lan
        .adverts
        .iter()
        .find(|(at, node, _)| *node == 1 && at > &last.0)
        .unwrap();
    first.0.since(last.0)
}

fn down(config: &Config) -> Duration {
    timers::master_down(config.version, 100, config.interval, 3)
}

#[test]
fn a_crash_costs_the_master_down_interval() {
    for base in bases() {
        for trouble in [
            Trouble::Kill(0),
            Trouble::Freeze(0),
            Trouble::Suspend(0),
            Trouble::Unplug(0),
        ] {
            let mut lan = measured(&base);
            lan.run_for(333_333);
            lan.trouble(trouble, 60_000_000);
            lan.run_for(8_000_000);
            assert_eq!(
                failover(&lan),
                down(&base) + Duration::from_micros(WAY),
                "{trouble:?}"
            );
            assert_eq!(lan.longest_both, Duration::ZERO, "{trouble:?}");
        }
    }
    // As measured with keepalived: 3.61 s and 0.36 s.
    assert_eq!(down(&bases()[0]), Duration::from_micros(3_609_375));
    assert_eq!(down(&bases()[1]), Duration::from_micros(360_937));
}

#[test]
fn a_stop_costs_the_skew() {
    for base in bases() {
        let mut lan = measured(&base);
        lan.run_for(333_333);
        let stopped = lan.now;
        lan.trouble(Trouble::Stop(0), 60_000_000);
        lan.run_for(4_000_000);
        let first = lan.adverts.iter().find(|(_, node, _)| *node == 1).unwrap();
        let skew = timers::skew(base.version, 100, base.interval);
        assert_eq!(first.0.since(stopped), skew + Duration::from_micros(WAY));
        assert_eq!(lan.longest_both, Duration::ZERO);
    }
}

#[test]
fn the_higher_router_comes_back_after_its_own_interval() {
    for base in bases() {
        let mut lan = measured(&base);
        lan.trouble(Trouble::Kill(0), 5_000_000);
        lan.run_for(5_000_000);
        assert_eq!(lan.masters(), [1]);
        let restarted = lan.now;
        lan.run_for(4_000_000);
        assert_eq!(lan.masters(), [0]);
        let first = lan
            .adverts
            .iter()
            .find(|(at, node, _)| *node == 0 && *at > restarted)
            .unwrap();
        let own = timers::master_down(base.version, 150, base.interval, 3);
        assert_eq!(first.0.since(restarted), own);
        // Both serve until the new master's advert has arrived.
        assert_eq!(lan.longest_both, Duration::from_micros(WAY));
    }
}

#[test]
fn a_master_that_was_frozen_does_not_disturb_its_successor() {
    // Frozen at any time of its interval and for any time.
    let base = config_v3(100);
    for at in (0..100_000).step_by(7_001) {
        for length in (250_000..500_000).step_by(10_007) {
            let mut lan = measured(&base);
            lan.run_for(at);
            lan.trouble(Trouble::Freeze(0), length);
            lan.run_for(length);
            let thawed = lan.now;
            let is_replaced = lan.masters().contains(&1);
            let sent = lan.adverts.len();
            lan.run_for(1_000);
            if is_replaced {
                assert_eq!(lan.masters(), [1], "frozen at {at} for {length}");
                let own = lan.adverts[sent..].iter().filter(|(_, node, _)| *node == 0);
                assert_eq!(own.count(), 0, "it listens before it sends");
            }
            assert!(lan.longest_both.is_zero(), "frozen at {at} for {length}");
            lan.run_for(2_000_000);
            assert_eq!(lan.masters(), [0]);
            let takeover = lan.nodes[0].history.last().unwrap();
            assert!(!is_replaced || takeover.0.since(thawed) >= Duration::from_millis(300));
        }
    }
}

#[test]
fn equal_priorities_do_not_flap() {
    for base in [config_v3(100), config_ipv6(100)] {
        let mut lan = Lan::new(nodes(&base, &[100, 100, 100]), (50, 2_000), 3);
        let changes = |lan: &Lan| {
            lan.nodes
                .iter()
                .map(|node| node.history.len())
                .sum::<usize>()
        };
        lan.run_for(2_000_000);
        // All ended their wait at once; the highest address stays.
        assert_eq!(lan.masters(), [2]);
        let before = changes(&lan);
        lan.run_for(10_000_000);
        assert_eq!(changes(&lan), before);
    }
}

#[test]
fn a_partition_has_a_master_on_each_side_and_heals_at_once() {
    let mut lan = measured(&config_v3(100));
    lan.trouble(Trouble::Block(0, 1), 5_000_000);
    lan.trouble(Trouble::Block(1, 0), 5_000_000);
    // Each host still hears others: nobody is deaf.
    lan.run_for(5_000_000);
    assert_eq!(lan.masters(), [0, 1]);
    lan.run_for(100_000 + WAY);
    assert_eq!(lan.masters(), [0]);
}

#[test]
fn a_deaf_router_is_at_fault_and_no_second_master() {
    let mut base = config_v3(100);
    base.needs_live_receive_path = true;
    let mut lan = measured(&base);
    lan.trouble(Trouble::Deafen(1), 5_000_000);
    lan.run_for(4_000_000);
    assert_eq!(lan.masters(), [0]);
    assert_eq!(lan.nodes[1].instance.state().role(), Role::Fault);
    lan.run_for(2_000_000);
    assert_eq!(
        lan.nodes[1].instance.state().role(),
        Role::Backup,
        "and back when it hears"
    );
    assert_eq!(lan.longest_both, Duration::ZERO);
    // Without the rule there are two.
    let mut lan = measured(&config_v3(100));
    lan.trouble(Trouble::Deafen(1), 5_000_000);
    lan.run_for(4_000_000);
    assert_eq!(lan.masters(), [0, 1]);
}

#[test]
fn a_router_that_was_suspended_does_not_take_its_own_sleep_for_silence() {
    for length in (10_000..1_000_000).step_by(9_001) {
        let mut lan = measured(&config_v3(100));
        lan.run_for(length % 100_000);
        lan.trouble(Trouble::Suspend(1), length);
        lan.run_for(3_000_000);
        assert_eq!(lan.masters(), [0]);
        assert_eq!(
            lan.nodes[1].instance.counters().became_master,
            0,
            "slept {length} µs"
        );
    }
}

/// Kinds of trouble and how long each lasts at most, in thousandths of an interval.
fn troubles(is_peaceful: bool) -> impl Strategy<Value = Vec<(u64, Trouble, u64)>> {
    let node = || 0usize..3;
    let calm = prop_oneof![
        node().prop_map(Trouble::Freeze),
        node().prop_map(Trouble::Kill),
        node().prop_map(Trouble::Stop),
    ];
    let any = prop_oneof![
        node().prop_map(Trouble::Freeze),
        node().prop_map(Trouble::Kill),
        node().prop_map(Trouble::Stop),
        node().prop_map(Trouble::Suspend),
        node().prop_map(Trouble::Unplug),
        node().prop_map(Trouble::Deafen),
        (node(), node()).prop_map(|(i, j)| Trouble::Block(i, j)),
        (5u32..100).prop_map(Trouble::Loss),
    ];
    let kind = if is_peaceful {
        calm.boxed()
    } else {
        any.boxed()
    };
    proptest::collection::vec((0u64..8_000, kind, 1u64..12_000), 1..8)
}

fn shaken(
    base: &Config,
    preempts: [bool; 3],
    priorities: [u8; 3],
    seed: u64,
    troubles: &[(u64, Trouble, u64)],
) -> Lan {
    let mut nodes = nodes(base, &priorities);
    for ((_, config), preempts) in nodes.iter_mut().zip(preempts) {
        config.preempt = if preempts {
            Preempt::Now
        } else {
            Preempt::Never
        };
    }
    let interval = base.interval.duration().as_micros() as u64;
    let mut lan = Lan::new(nodes, (10, interval / 40), seed);
    lan.run_for(5 * interval);
    for (pause, trouble, length) in troubles {
        lan.run_for(pause * interval / 1_000);
        lan.trouble(*trouble, length * interval / 1_000);
    }
    // Until all trouble is over, for the time in which a plugged router hears nothing, and then for
    // two master-down intervals.
    lan.run_for(12 * interval + 3_000_000);
    lan.run_for(10 * interval);
    lan
}

fn base(is_v2: bool) -> Config {
    let mut base = if is_v2 { config() } else { config_v3(100) };
    base.needs_live_receive_path = true;
    base
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever happened: then one router is master, and stays it; it has the highest
    /// priority if all preempt. While two could hear each other they never served together for longer than an
    /// advert's interval and the way there and back.
    #[test]
    fn one_master_is_found_and_two_do_not_last(
        is_v2 in any::<bool>(), preempts in any::<[bool; 3]>(), priorities in any::<[u8; 3]>(),
        seed in any::<u64>(), troubles in troubles(false),
    ) {
        let base = base(is_v2);
        let priorities = priorities.map(|p| p.clamp(1, 254));
        let mut lan = shaken(&base, preempts, priorities, seed, &troubles);
        let interval = base.interval.duration();
        prop_assert!(
            lan.longest_both_in_peace <= interval + interval / 20,
            "{:?}", lan.longest_both_in_peace
        );
        let masters = lan.masters();
        prop_assert_eq!(masters.len(), 1, "{:?}", masters);
        if preempts == [true; 3] {
            // Among equals whoever came first stays.
            prop_assert_eq!(Some(&priorities[masters[0]]), priorities.iter().max());
        }
        let changes: Vec<usize> = lan.nodes.iter().map(|node| node.history.len()).collect();
        lan.run_for(20 * interval.as_micros() as u64);
        let after: Vec<usize> = lan.nodes.iter().map(|node| node.history.len()).collect();
        prop_assert_eq!(changes, after);
        prop_assert!(lan.serves(masters[0]));
    }

    /// Without loss and partitions, whoever crashes, stops or is frozen: two serve together only
    /// while an advert and its answer are on the way. A lower master that is frozen just when it
    /// is preempted serves until its lease ends. (A suspended node loses what is sent to it.)
    #[test]
    fn without_loss_two_masters_meet_only_on_the_way(
        is_v2 in any::<bool>(), preempts in any::<bool>(), priorities in any::<[u8; 3]>(),
        seed in any::<u64>(), troubles in troubles(true),
    ) {
        let base = base(is_v2);
        let priorities = priorities.map(|p| p.clamp(1, 254));
        let lan = shaken(&base, [preempts; 3], priorities, seed, &troubles);
        let interval = base.interval.duration();
        let most = if preempts { interval * 3 + interval / 100 } else { interval / 20 };
        prop_assert!(lan.longest_both <= most, "{:?}", lan.longest_both);
    }
}

#[test]
fn the_simulated_lan_notices_two_masters() {
    // The checks above can fail: peers that use different intervals in version 2 ignore each other.
    let mut two = nodes(&config(), &[150, 100]);
    two[1].1.interval =
        vrrp::timers::AdvertInterval::new(Version::V2, Duration::from_secs(2)).unwrap();
    let mut lan = Lan::new(two, (WAY, WAY), 1);
    lan.run_for(20_000_000);
    assert_eq!(lan.masters(), [0, 1]);
    assert!(lan.longest_both_in_peace > Duration::from_secs(5));
    assert!(lan.now > Instant::default());
}
