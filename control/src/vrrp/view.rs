//! Machines as listed by `rvsadm vrrp`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use vrrp::addr::Family;
use vrrp::counters::InvalidCounters;
use vrrp::instance::State;
use vrrp::output::Alarm;
use vrrp::time::Instant;

use crate::api::{VrrpAlarmView, VrrpInstanceView, VrrpPeerView};
use crate::config::vrrp::Instance;

/// What a machine does not know about itself.
pub struct Extra<'a> {
    pub group: Option<&'a str>,
    pub since: Instant,
    pub cause: &'static str,
    pub alarms: &'a BTreeMap<&'static str, (u64, String)>,
    pub holds: bool,
    pub source: Option<IpAddr>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An alarm in one line, with what to do.
pub fn explain(alarm: &Alarm) -> String {
    match alarm {
        Alarm::AddressMismatch { peer } => format!(
            "{peer} adverts other addresses than ours; make the lists the same on all routers \
             (keepalived up to 2.3.2 ignores us otherwise)"
        ),
        Alarm::IntervalMismatch { peer } => format!(
            "{peer} adverts another interval than ours; make advert_int the same on all routers"
        ),
        Alarm::OwnAddress => "an advert came from our own address; look for a loop, or for the \
                              address on another host"
            .to_owned(),
        Alarm::LowerMaster { peer, priority } => {
            format!("{peer} with priority {priority} is master too; look whether it hears us")
        }
        Alarm::ForeignMac { claim, suppressed } => format!(
            "{} says that it has our address {} ({suppressed} claims before); if it is a real \
             server, set its arp_ignore to 1",
            claim.mac, claim.addr
        ),
    }
}

/// Counts that are not 0, by name.
pub fn counts(counters: &InvalidCounters) -> BTreeMap<String, u64> {
    let named = counters.iter().filter(|(_, count)| *count > 0);
    named
        .map(|(reason, count)| (reason.name().to_owned(), count))
        .collect()
}

/// An instance as listed.
pub fn of(
    now: Instant,
    machine: &vrrp::instance::Instance,
    config: &Instance,
    extra: Extra<'_>,
) -> VrrpInstanceView {
    let (key, state) = (machine.key(), machine.state());
    let counters = machine.counters();
    let (master, timer) = match state {
        State::Backup(backup) => (backup.master, Some(backup.master_down)),
        State::Master(master) => (None, Some(master.next_advert)),
        State::Init | State::Waiting | State::Fault(_) => (None, None),
    };
    let peer = |peer: &vrrp::instance::HeardPeer| VrrpPeerView {
        addr: peer.addr,
        priority: peer.priority,
        version: peer.version.number(),
        interval_ms: millis(peer.interval.duration()),
        heard_ms: millis(now.since(peer.at)),
        same_addresses: peer.same_addresses,
    };
    let counted = [
        ("adverts-sent", counters.adverts_sent),
        ("adverts-received", counters.adverts_received),
        ("zero-sent", counters.zero_sent),
        ("zero-received", counters.zero_received),
        ("lower-received", counters.lower_received),
        ("address-mismatches", counters.address_mismatches),
        ("interval-mismatches", counters.interval_mismatches),
        ("foreign-claims", counters.foreign_claims),
        ("held-up", counters.held_up),
        ("became-master", counters.became_master),
        ("released-master", counters.released_master),
    ];
    let alarm = |(name, (count, last)): (&&'static str, &(u64, String))| VrrpAlarmView {
        name: (*name).to_owned(),
        count: *count,
        last: last.clone(),
    };
    VrrpInstanceView {
        name: config.machine.name.clone(),
        interface: config.interface.clone(),
        family: match key.family {
            Family::V4 => crate::api::Family::Ipv4,
            Family::V6 => crate::api::Family::Ipv6,
        },
        vrid: key.vrid,
        version: config.machine.version.number(),
        state: state.role().to_string(),
        cause: extra.cause.to_owned(),
        since_ms: millis(now.since(extra.since)),
        priority: machine.priority(),
        base_priority: config.machine.priority,
        interval_ms: millis(config.machine.interval.duration()),
        source: extra.source,
        group: extra.group.map(str::to_owned),
        master: master.map(|(addr, _)| addr),
        master_priority: master.map(|(_, priority)| priority),
        timer_ms: timer.map(|at| millis(at.since(now))),
        lease_ms: machine
            .lease()
            .and_then(|lease| lease.until())
            .map(|at| millis(at.since(now))),
        addresses: config
            .addresses
            .iter()
            .map(|a| format!("{}/{}", a.addr.addr, a.addr.prefix_len))
            .collect(),
        holds: extra.holds,
        peers: machine.heard().iter().map(peer).collect(),
        counters: counted
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect(),
        invalid: counts(&counters.invalid),
        alarms: extra.alarms.iter().map(alarm).collect(),
    }
}
