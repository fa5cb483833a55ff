//! VRRP: virtual routers, groups, and what priorities depend on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use vrrp::addr::{Family, is_link_local};
use vrrp::config::{Announcing, Config as Machine, ConfigError, Key, Preempt, Transport};
use vrrp::group::Group;
use vrrp::packet::{Auth, ChecksumPolicy, Peer, Version};
use vrrp::router::{Plan, PlanError};
use vrrp::timers::AdvertInterval;
use vrrp::track::LinkDelays;

use super::track::{Weights, named, process, script, tracked_file, tracks};
use super::vip::{address, addresses, interface, route, rule};
use super::{Notes, number, strict};
use crate::config::file::{File, Table, nearest};
use crate::config::vrrp::{Instance, Pace, SyncGroup, Tracked, Vrrp};

pub(super) fn vrrp(file: &File, notes: &mut Notes<'_>) -> Vrrp {
    let table = file.section("vrrp");
    let mut weights = Weights::new();
    let track = file.section("track");
    let mut out = Vrrp {
        rt_priority: number(table, "rt_priority"),
        takeover_wait: table.duration("takeover_wait").unwrap_or_default(),
        pace: pace(table, Pace::default()),
        scripts: named(
            track,
            "script",
            notes,
            &mut weights,
            Tracked::Script,
            script,
        ),
        files: named(
            track,
            "file",
            notes,
            &mut weights,
            Tracked::File,
            tracked_file,
        ),
        processes: named(
            track,
            "process",
            notes,
            &mut weights,
            Tracked::Process,
            process,
        ),
        ..Vrrp::default()
    };
    interfaces(table, &mut out, notes);
    let startup_delay = table.duration("startup_delay").unwrap_or_default();
    let defaults = table.table("defaults");
    let mut lines = BTreeMap::new();
    for written in table.tables("instance") {
        let Some(instance) = instance(written, defaults, startup_delay, &weights, notes) else {
            continue;
        };
        let name = instance.machine.name.clone();
        if let Some(first) = lines.insert(name.clone(), written) {
            let text = format!(
                "instance \"{name}\" is also in line {}; rename one",
                first.line
            );
            notes.mistake(written.line_of("name"), text);
        }
        out.instances.push(instance);
    }
    for written in table.tables("sync_group") {
        out.groups
            .extend(sync_group(written, &lines, &weights, notes));
    }
    check_groups(table, notes);
    check_addresses(&out.instances, &lines, notes);
    check_plan(&out, &lines, table, notes);
    out
}

/// Between two announcements.
fn pace(table: &Table, fallback: Pace) -> Pace {
    let time = |key: &str, fallback| table.duration(key).unwrap_or(fallback);
    Pace {
        garp: time("garp_interval", fallback.garp),
        gna: time("gna_interval", fallback.gna),
    }
}

/// `[[vrrp.interface]]`.
fn interfaces(table: &Table, out: &mut Vrrp, notes: &mut Notes<'_>) {
    for written in table.tables("interface") {
        let Some(name) = interface(written, "name", notes) else {
            continue;
        };
        let delays = LinkDelays {
            up: written.duration("up_delay").unwrap_or_default(),
            down: written.duration("down_delay").unwrap_or_default(),
        };
        let paces = written.mentions("garp_interval") || written.mentions("gna_interval");
        if out
            .paces
            .insert(name.clone(), pace(written, out.pace))
            .is_some()
        {
            let text = format!("interface \"{name}\" is listed twice; keep one");
            notes.mistake(written.line_of("name"), text);
        }
        // One that is there for its pace counts at once, as others.
        if !paces || written.mentions("up_delay") || written.mentions("down_delay") {
            out.delays.insert(name, delays);
        }
    }
}

/// An instance's value, or that of `[vrrp.defaults]`.
struct Layered<'a> {
    own: &'a Table,
    defaults: Option<&'a Table>,
}

impl Layered<'_> {
    fn pick<T>(&self, key: &str, read: impl Fn(&Table) -> Option<T>) -> Option<T> {
        match self.defaults {
            Some(defaults) if !self.own.mentions(key) => read(defaults),
            _ => read(self.own),
        }
    }

    fn boolean(&self, key: &str, fallback: bool) -> bool {
        self.pick(key, |t| t.boolean(key)).unwrap_or(fallback)
    }
}

fn instance(
    table: &Table,
    defaults: Option<&Table>,
    startup_delay: Duration,
    weights: &Weights,
    notes: &mut Notes<'_>,
) -> Option<Instance> {
    let own = Layered {
        own: table,
        defaults,
    };
    let name = table.text("name")?.to_owned();
    let interface = interface(table, "interface", notes)?;
    let vrid: u8 = number(table, "vrid");
    let vips = addresses(table, "vip", &interface, notes);
    let excluded = addresses(table, "vip_excluded", &interface, notes);
    let source = address(table, "source", notes);
    let peers = peers(table, notes);
    let first = vips.first().map(|vip| vip.addr.addr).or(source);
    let family = first
        .or(peers.first().map(|p| p.addr))
        .map_or(Family::V4, Family::of);
    if let Some(source) = source.filter(|source| Family::of(*source) != family) {
        let text =
            format!("source {source} is of another family than the addresses; give one of theirs");
        notes.mistake(table.line_of("source"), text);
    }
    // RFC 5798, 5.2.9; keepalived and we do not insist.
    let first = vips.first().map(|vip| vip.addr.addr);
    if let Some(first) = first.filter(|addr| addr.is_ipv6() && !is_link_local(*addr)) {
        let text = format!(
            "the first IPv6 address, {first}, is not link-local, which other makes of router may \
             refuse; put one of fe80::/10 first"
        );
        notes.warning(table.line_of("vip"), text);
    }
    let key = Key {
        interface: 0,
        family,
        vrid,
    };
    let mut machine = Machine::new(key);
    machine.name = name;
    machine.version = version(own.pick("version", |t| t.integer("version")));
    machine.priority = number(table, "priority");
    machine.starts_as_master = table.text("initial_state") == Some("master");
    let wanted = own.pick("advert_int", |t| t.duration("advert_int"));
    machine.interval = interval(table, machine.version, wanted, notes);
    machine.down_timer_adverts = own
        .pick("down_timer_adverts", |t| t.integer("down_timer_adverts"))
        .map_or(3, |n| n as u8);
    let strict = own.boolean("strict", false);
    machine.accept = own.boolean("accept", !strict);
    machine.preempt = preempt(table, notes);
    machine.virtual_mac = table.boolean("vmac").unwrap_or_default();
    machine.addresses = vips.iter().map(|vip| vip.addr).collect();
    machine.unadvertised = excluded.iter().map(|vip| vip.addr).collect();
    machine.auth = auth(table, notes);
    machine.checksum = match own
        .pick("checksum", |t| t.text("checksum").map(str::to_owned))
        .as_deref()
    {
        Some("rfc9568") => ChecksumPolicy::Rfc9568,
        Some("auto") => ChecksumPolicy::Auto,
        _ => ChecksumPolicy::Keepalived,
    };
    machine.transport = transport(table, &own, family, peers, notes);
    machine.startup_delay = startup_delay;
    machine.announcing = announcing(table, defaults);
    // RFC 5798, 6.4.3: a lower priority is no occasion for an advert, a higher one none for a last.
    machine.answers_lower = !own.boolean("lower_prio_no_advert", strict);
    machine.advert_before_yielding = own.boolean("higher_prio_send_advert", !strict);
    machine.owner_ignores = own.boolean("owner_ignore_adverts", strict);
    if strict {
        strict::check(table, &machine, notes);
    }
    let sends_from_base = table.boolean("vmac_xmit_base").unwrap_or_default();
    let is_unicast = matches!(machine.transport, Transport::Unicast { .. });
    if sends_from_base && !machine.virtual_mac {
        let text = "vmac_xmit_base means something with vmac only; add vmac = true or remove it";
        notes.mistake(table.line_of("vmac_xmit_base"), text);
    }
    if machine.virtual_mac && is_unicast && !sends_from_base {
        let text = "unicast adverts cannot come from a virtual MAC; add vmac_xmit_base = true";
        notes.mistake(table.line_of("vmac"), text);
    }
    Some(Instance {
        machine,
        interface,
        source,
        addresses: vips.into_iter().chain(excluded).collect(),
        routes: table
            .tables("route")
            .iter()
            .filter_map(|t| route(t, notes))
            .collect(),
        rules: table
            .tables("rule")
            .iter()
            .filter_map(|t| rule(t, family, notes))
            .collect(),
        sends_from_base,
        tracks_interface: table.boolean("track_primary").unwrap_or(true),
        track: tracks(table, weights, notes),
    })
}

fn version(number: Option<i64>) -> Version {
    match number {
        Some(2) => Version::V2,
        _ => Version::V3,
    }
}

fn interval(
    table: &Table,
    version: Version,
    wanted: Option<Duration>,
    notes: &mut Notes<'_>,
) -> AdvertInterval {
    let Some(wanted) = wanted else {
        return AdvertInterval::DEFAULT;
    };
    match AdvertInterval::new(version, wanted) {
        Ok(interval) if interval.duration() == wanted => interval,
        result => {
            let near = result.unwrap_or_else(|e| e.nearest);
            let range = match version {
                Version::V2 => "whole seconds up to 255s",
                Version::V3 => "10ms to 40.95s in steps of 10ms",
            };
            let text = format!(
                "advert_int {wanted:?} cannot be sent in version {version}, which has {range}; \
                 give \"{near}\""
            );
            notes.mistake(table.line_of("advert_int"), text);
            AdvertInterval::DEFAULT
        }
    }
}

fn preempt(table: &Table, notes: &mut Notes<'_>) -> Preempt {
    let delay = table.duration("preempt_delay").unwrap_or_default();
    match table.boolean("preempt") {
        Some(false) => {
            if !delay.is_zero() {
                let text = "preempt_delay means nothing with preempt = false; remove one";
                notes.mistake(table.line_of("preempt_delay"), text);
            }
            Preempt::Never
        }
        _ if delay.is_zero() => Preempt::Now,
        _ => Preempt::After(delay),
    }
}

fn auth(table: &Table, notes: &mut Notes<'_>) -> Auth {
    let Some(auth) = table.table("auth") else {
        return Auth::None;
    };
    let line = auth.line_of("password");
    match (auth.text("type"), auth.text("password")) {
        (Some("pass"), Some(password)) => {
            if password.len() > 8 {
                let text = "the password is longer than eight bytes; what exceeds them is cut off, \
                            shorten it";
                notes.warning(line, text);
            }
            if password.is_empty() {
                notes.mistake(line, "password is empty; give one, or remove auth");
            }
            Auth::password(password)
        }
        (Some("pass"), None) => {
            if !auth.mentions("password") {
                notes.mistake(auth.line, "auth has no password; add password = \"…\"");
            }
            Auth::None
        }
        (_, Some(_)) => {
            notes.mistake(
                line,
                "password is for type \"pass\"; add type = \"pass\" or remove it",
            );
            Auth::None
        }
        _ => Auth::None,
    }
}

fn transport(
    table: &Table,
    own: &Layered<'_>,
    family: Family,
    peers: Vec<Peer>,
    notes: &mut Notes<'_>,
) -> Transport {
    if table.mentions("peers") {
        if table.mentions("mcast_group") {
            let text = "mcast_group and peers exclude each other; remove one";
            notes.mistake(table.line_of("mcast_group"), text);
        }
        return Transport::Unicast {
            peers,
            ttl: number(table, "unicast_ttl"),
            check_source: own.boolean("check_unicast_src", true),
        };
    }
    for key in ["unicast_ttl", "check_unicast_src"] {
        if table.mentions(key) {
            let text = format!("{key} is for unicast; add peers or remove it");
            notes.mistake(table.line_of(key), text);
        }
    }
    let key = match family {
        Family::V4 => "mcast_group4",
        Family::V6 => "mcast_group6",
    };
    let group = match own.defaults {
        Some(defaults) if !table.mentions("mcast_group") => address(defaults, key, notes),
        _ => address(table, "mcast_group", notes),
    };
    let group = group.unwrap_or(family.group());
    if let IpAddr::V6(v6) = group
        && v6.is_multicast()
        && v6.segments()[0] & 0xf != 2
    {
        let text = format!("group {group} is not of link-local scope; use one of ff02::/16");
        notes.mistake(table.line_of("mcast_group"), text);
    }
    Transport::Multicast { group }
}

fn peers(table: &Table, notes: &mut Notes<'_>) -> Vec<Peer> {
    let peer = |written: &Table| {
        Some(Peer {
            addr: address(written, "addr", notes)?,
            min_ttl: number(written, "min_ttl"),
            max_ttl: number(written, "max_ttl"),
        })
    };
    table.tables("peers").iter().filter_map(peer).collect()
}

fn announcing(table: &Table, defaults: Option<&Table>) -> Announcing {
    let own = table.table("garp");
    let common = defaults.and_then(|d| d.table("garp"));
    let plain = Announcing::default();
    let count = |key: &str, fallback: u8| {
        let read = |t: &Table| t.mentions(key).then(|| number(t, key));
        own.and_then(read)
            .or(common.and_then(read))
            .unwrap_or(fallback)
    };
    let time = |key: &str, fallback: Duration| {
        let read = |t: &Table| t.mentions(key).then(|| t.duration(key)).flatten();
        own.and_then(read)
            .or(common.and_then(read))
            .unwrap_or(fallback)
    };
    Announcing {
        repeat: count("master_repeat", plain.repeat),
        delay: time("master_delay", plain.delay),
        refresh: time("master_refresh", plain.refresh),
        refresh_repeat: count("master_refresh_repeat", plain.refresh_repeat),
        lower_repeat: count("lower_prio_repeat", plain.lower_repeat),
        lower_delay: time("lower_prio_delay", plain.lower_delay),
    }
}

pub(super) fn advice<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest(found, known) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "add it or correct the name".to_owned(),
    }
}

fn sync_group(
    table: &Table,
    instances: &BTreeMap<String, &Table>,
    weights: &Weights,
    notes: &mut Notes<'_>,
) -> Option<SyncGroup> {
    let name = table.text("name")?.to_owned();
    let mut members = Vec::new();
    for member in table.texts("instances") {
        let known = &member.value;
        if instances.contains_key(known) {
            members.push(known.clone());
            continue;
        }
        let advice = advice(known, instances.keys().map(String::as_str));
        let text = format!("there is no [[vrrp.instance]] named \"{known}\"; {advice}");
        notes.mistake(member.line, text);
    }
    if table.mentions("instances") && table.texts("instances").is_empty() {
        notes.mistake(
            table.line_of("instances"),
            "the group has no instances; name some",
        );
    }
    if members.len() == 1 {
        let text = "a group of one instance does nothing; name another or remove the group";
        notes.warning(table.line_of("instances"), text);
    }
    Some(SyncGroup {
        name,
        instances: members,
        tracking_weight: table.boolean("tracking_weight").unwrap_or_default(),
        track: tracks(table, weights, notes),
    })
}

fn check_groups(table: &Table, notes: &mut Notes<'_>) {
    let mut names = BTreeMap::new();
    let mut homes: BTreeMap<&str, usize> = BTreeMap::new();
    for group in table.tables("sync_group") {
        let Some(name) = group.text("name") else {
            continue;
        };
        if let Some(first) = names.insert(name, group.line) {
            let text = format!("group \"{name}\" is also in line {first}; rename one");
            notes.mistake(group.line_of("name"), text);
        }
        for member in group.texts("instances") {
            if let Some(first) = homes.insert(&member.value, member.line) {
                let text = format!(
                    "instance \"{}\" has a group in line {first}; it can have one, remove it here",
                    member.value
                );
                notes.mistake(member.line, text);
            }
        }
    }
}

/// An address can be held by one virtual router alone.
fn check_addresses(
    instances: &[Instance],
    lines: &BTreeMap<String, &Table>,
    notes: &mut Notes<'_>,
) {
    let mut holders: BTreeMap<(IpAddr, &str), &str> = BTreeMap::new();
    for instance in instances {
        let name = instance.machine.name.as_str();
        for address in &instance.addresses {
            let place = (address.addr.addr, address.device.as_str());
            let Some(other) = holders.insert(place, name).filter(|other| *other != name) else {
                continue;
            };
            let text = format!(
                "address {} is also of instance \"{other}\"; remove one",
                place.0
            );
            notes.mistake(lines.get(name).map_or(0, |t| t.line_of("vip")), text);
        }
    }
}

/// What the machines themselves refuse.
fn check_plan(vrrp: &Vrrp, lines: &BTreeMap<String, &Table>, table: &Table, notes: &mut Notes<'_>) {
    let mut interfaces: Vec<&str> = Vec::new();
    let mut plan = Plan::default();
    let mut keys = BTreeMap::new();
    for instance in &vrrp.instances {
        let place = interfaces.iter().position(|i| *i == instance.interface);
        let place = place.unwrap_or_else(|| {
            interfaces.push(&instance.interface);
            interfaces.len() - 1
        });
        let mut machine = instance.machine.clone();
        machine.key.interface = place as u32 + 1;
        keys.insert(machine.name.clone(), machine.key);
        plan.instances.push(machine);
    }
    for group in &vrrp.groups {
        plan.groups.push(Group {
            name: group.name.clone(),
            members: group
                .instances
                .iter()
                .filter_map(|name| keys.get(name).copied())
                .collect(),
            trackers: Vec::new(),
            tracking_weight: group.tracking_weight,
        });
    }
    for error in plan.check().err().unwrap_or_default() {
        let line = |name: &str, key: &str| lines.get(name).map_or(table.line, |t| t.line_of(key));
        match error {
            // Found with more to say, or told about already.
            PlanError::Instance {
                error: ConfigError::Vrid | ConfigError::Priority | ConfigError::Source(_),
                ..
            }
            | PlanError::TwoGroups(..)
            | PlanError::UnknownMember(..)
            | PlanError::UnknownTracker(..) => {}
            PlanError::Instance { name, error } => {
                notes.mistake(line(&name, key_of(&error)), told(&error));
            }
            PlanError::SameKey(first, second) => {
                let at = line(&first, "vrid");
                let text = format!(
                    "instances \"{first}\" (line {at}) and \"{second}\" have the same interface, \
                     family and vrid; change one vrid"
                );
                notes.mistake(line(&second, "vrid"), text);
            }
            error @ PlanError::MixedOwners(_) => {
                let PlanError::MixedOwners(name) = &error else {
                    continue;
                };
                let group = table.tables("sync_group").iter();
                let group = group.into_iter().find(|t| t.text("name") == Some(name));
                notes.mistake(
                    group.map_or(0, |t| t.line_of("instances")),
                    error.to_string(),
                );
            }
        }
    }
}

/// The key that a mistake is about.
fn key_of(error: &ConfigError) -> &'static str {
    match error {
        ConfigError::Vrid => "vrid",
        ConfigError::Priority => "priority",
        ConfigError::Interval { .. } => "advert_int",
        ConfigError::DownTimerAdverts(_) => "down_timer_adverts",
        ConfigError::Auth => "auth",
        ConfigError::TooManyAddresses(_)
        | ConfigError::AddressFamily(_)
        | ConfigError::DuplicateAddress(_)
        | ConfigError::PrefixLength(..) => "vip",
        ConfigError::Group(..) => "mcast_group",
        ConfigError::NoPeers
        | ConfigError::TooManyPeers(_)
        | ConfigError::Peer(_)
        | ConfigError::DuplicatePeer(_)
        | ConfigError::PeerTtl(..) => "peers",
        ConfigError::Ttl => "unicast_ttl",
        ConfigError::OwnerPreempt => "preempt",
        ConfigError::Source(_) => "source",
    }
}

/// The mistake in the words of the file.
fn told(error: &ConfigError) -> String {
    match error {
        ConfigError::Peer(addr) => {
            format!("peer {addr} is of the other family or no unicast address; correct it")
        }
        ConfigError::PeerTtl(..) => format!("{error}; swap them"),
        error => error.to_string().replace("unadvertised", "vip_excluded"),
    }
}
