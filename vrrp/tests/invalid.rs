//! Refused adverts change nothing but a counter, however many come and whenever.

mod support;

use proptest::prelude::*;
use support::ip;
use support::rig::{KEY, OWN, Rig, config, config_v3, line};
use vrrp::config::{Config, VirtualAddress};
use vrrp::instance::{Input, Role};
use vrrp::packet::{Auth, Invalid, Outgoing, Received, Version};
use vrrp::timers::AdvertInterval;

/// Something that happens after a pause.
#[derive(Clone, Debug)]
enum Step {
    Valid(u8, u8),
    Fault(bool),
    Nothing,
}

/// A refused advert: what is wrong with it, and the priority that would have mattered.
#[derive(Clone, Copy, Debug)]
struct Bad {
    fault: usize,
    priority: u8,
    bit: usize,
}

/// What is wrong, and the reason that counts it.
const FAULTS: [Invalid; 8] = [
    Invalid::Ttl,
    Invalid::Version,
    Invalid::Interval,
    Invalid::Checksum,
    Invalid::Destination,
    Invalid::Length,
    Invalid::AuthType,
    Invalid::Type,
];

fn give_bad(rig: &mut Rig, bad: Bad) {
    let config = rig.instance.config().clone();
    let addresses: Vec<_> = config.addresses.iter().map(|a| a.addr).collect();
    let mut advert = Outgoing {
        version: config.version,
        vrid: KEY.vrid,
        priority: bad.priority,
        interval: config.interval,
        auth: Auth::None,
        form: vrrp::packet::ChecksumForm::Pseudo,
        addresses: &addresses,
        src: ip("10.77.0.9"),
        dst: ip("224.0.0.18"),
        ttl: 255,
    };
    let reason = match FAULTS[bad.fault] {
        // Version 3 has neither.
        Invalid::Interval | Invalid::AuthType if config.version == Version::V3 => Invalid::Ttl,
        reason => reason,
    };
    match reason {
        Invalid::Ttl => advert.ttl = 254,
        Invalid::Version => {
            advert.version = match config.version {
                Version::V2 => Version::V3,
                Version::V3 => Version::V2,
            };
            advert.interval = AdvertInterval::DEFAULT;
        }
        Invalid::Interval => advert.interval = AdvertInterval::from_wire(Version::V2, 9).unwrap(),
        Invalid::AuthType => advert.auth = Auth::password("guess"),
        Invalid::Destination => advert.dst = ip("224.0.0.19"),
        _ => {}
    }
    let mut packet = advert.packet(1);
    match reason {
        // In the addresses: everything else stays plausible.
        Invalid::Checksum => packet[28 + bad.bit / 8 % 4] ^= 1 << (bad.bit % 8),
        Invalid::Length => packet.truncate(packet.len() - 1),
        Invalid::Type => packet[20] += 1,
        _ => {}
    }
    let mut received = Received::from_ip(&packet);
    if reason == Invalid::Length {
        // A raw socket cuts nothing; the header says so.
        let total = packet.len() as u16;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        received = Received::from_ip(&packet);
    }
    let before = rig.instance.counters().invalid;
    let role = rig.role();
    rig.give(Input::Advert(received.unwrap()));
    let expected = match role {
        Role::Backup | Role::Master => reason,
        _ => Invalid::NotListening,
    };
    let after = rig.instance.counters().invalid;
    assert_eq!(
        after[expected],
        before[expected] + 1,
        "{expected:?}: {after:?}"
    );
    assert_eq!(after.total(), before.total() + 1);
}

/// The whole run as text, with every timer.
fn run(config: &Config, steps: &[(u64, Step)], bad: &[(usize, u64, Bad)]) -> Vec<String> {
    let mut rig = Rig::started(config.clone());
    let mut log = Vec::new();
    for (i, (pause, step)) in steps.iter().enumerate() {
        // The refused ones of this pause, at their parts of it.
        let mut mine: Vec<_> = bad.iter().filter(|(at, ..)| *at == i).collect();
        mine.sort_by_key(|(_, part, _)| *part);
        let mut passed = 0;
        for (_, part, bad) in mine {
            let at = pause * part / 1_000;
            rig.run_for(at - passed);
            passed = at;
            give_bad(&mut rig, *bad);
        }
        rig.run_for(pause - passed);
        match step {
            Step::Valid(priority, host) => rig.advert(*priority, &format!("10.77.0.{host}")),
            Step::Fault(is_fault) => rig.track(0, u32::from(*is_fault), 0),
            Step::Nothing => {}
        }
        while let Some((_, output)) = rig.out.pop() {
            log.push(format!("{i} {}", line(&output)));
        }
        log.push(format!(
            "{i} {:?} {:?}",
            rig.instance.state(),
            rig.instance.next_timeout()
        ));
    }
    let counters = *rig.instance.counters();
    log.push(format!(
        "{} {} {:?}",
        counters.adverts_sent,
        counters.adverts_received,
        rig.instance.heard()
    ));
    log
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (prop_oneof![Just(0u8), Just(100), any::<u8>()], 1u8..9)
            .prop_map(|(priority, host)| Step::Valid(priority, host)),
        1 => any::<bool>().prop_map(Step::Fault),
        3 => Just(Step::Nothing),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn refused_adverts_change_nothing(
        is_v2 in any::<bool>(),
        steps in proptest::collection::vec((0u64..2_500_000, step()), 1..20),
        bad in proptest::collection::vec(
            (0usize..20, 0u64..1_000, (0..FAULTS.len(), any::<u8>(), 0usize..32)), 1..60,
        ),
    ) {
        let config = if is_v2 { config() } else { config_v3(500) };
        let bad: Vec<_> = bad
            .into_iter()
            .map(|(at, part, (fault, priority, bit))| (at, part, Bad { fault, priority, bit }))
            .collect();
        prop_assert_eq!(run(&config, &steps, &bad), run(&config, &steps, &[]));
    }
}

#[test]
fn a_flood_of_refused_adverts_does_not_silence_a_master() {
    // What keepalived 2.2.7 fell for: 16 adverts with TTL 254 every 0.43 s.
    let mut rig = Rig::master(config());
    let before = rig.instance.counters().adverts_sent;
    for _ in 0..20 {
        rig.run_for(430_000);
        for _ in 0..16 {
            rig.advert_with(200, "10.77.0.3", |advert| advert.ttl = 254);
        }
    }
    assert_eq!(rig.instance.counters().adverts_sent - before, 8);
    assert_eq!(rig.instance.counters().invalid[Invalid::Ttl], 320);
}

#[test]
fn a_wrong_password_is_no_peer() {
    let mut config = config();
    config.auth = Auth::password("s3cr3t12");
    config.addresses = vec![VirtualAddress::host(ip("10.77.0.100"))];
    let mut rig = Rig::master(config);
    rig.advert_with(200, "10.77.0.3", |advert| {
        advert.auth = Auth::password("s3cr3t13")
    });
    rig.advert_with(200, "10.77.0.3", |advert| advert.auth = Auth::None);
    assert_eq!(rig.role(), Role::Master);
    assert_eq!(rig.instance.counters().invalid[Invalid::Password], 1);
    assert_eq!(rig.instance.counters().invalid[Invalid::AuthType], 1);
    rig.advert_with(200, "10.77.0.3", |advert| {
        advert.auth = Auth::password("s3cr3t12")
    });
    assert_eq!(rig.role(), Role::Backup);
    assert_ne!(OWN, "10.77.0.3");
}
