//! `global_defs`, and what instances and services take from it.

use std::time::Duration;

use super::Mapper;
use super::check::Inherited;
use super::values::{address, duration};
use crate::config::keys::MAX_TIMEOUT;
use crate::import::document::{Table, Value};
use crate::import::tree::Node;

/// Keywords of `global_defs`, for suggestions.
const KEYWORDS: &[&str] = &[
    "router_id",
    "notification_email",
    "notification_email_from",
    "smtp_server",
    "script_user",
    "enable_script_security",
    "vrrp_version",
    "vrrp_garp_master_delay",
    "vrrp_garp_master_repeat",
    "vrrp_garp_master_refresh",
    "vrrp_skip_check_adv_addr",
    "vrrp_strict",
    "lvs_timeouts",
    "lvs_sync_daemon",
    "lvs_flush",
    "vrrp_mcast_group4",
    "vrrp_mcast_group6",
];

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// What `global_defs` says.
#[derive(Debug)]
pub struct Globals {
    /// What checkers inherit; nothing yet, the services say more.
    pub inherited: Inherited,
    /// `[vrrp.defaults]`.
    pub defaults: Table,
    /// `[vrrp.defaults.garp]`.
    pub garp: Table,
    /// `[vrrp]`.
    pub vrrp: Table,
    /// `[ipvs]`.
    pub ipvs: Table,
    /// `vrrp_version`, 2 unless it is said.
    pub version: i64,
    /// `vrrp_strict`.
    pub strict: bool,
}

impl Default for Globals {
    fn default() -> Globals {
        Globals {
            inherited: Inherited::default(),
            defaults: Table::single(
                "vrrp.defaults",
                "keepalived's defaults where RVS has others, and global_defs",
            ),
            garp: Table::single("vrrp.defaults.garp", ""),
            vrrp: Table::single("vrrp", "global_defs"),
            ipvs: Table::single("ipvs", "global_defs: lvs_timeouts"),
            version: 2,
            strict: false,
        }
    }
}

/// What an announcement keyword says, global or of an instance.
pub enum Garp {
    /// A count of rounds.
    Count(&'static str),
    /// A time.
    Time(&'static str, Duration),
}

/// The key of an announcement keyword, without `vrrp_`.
pub fn garp(word: &str) -> Option<Garp> {
    Some(match word {
        "garp_master_delay" => Garp::Time("master_delay", HOUR),
        "garp_master_repeat" => Garp::Count("master_repeat"),
        "garp_master_refresh" => Garp::Time("master_refresh", DAY),
        "garp_master_refresh_repeat" => Garp::Count("master_refresh_repeat"),
        "garp_lower_prio_delay" => Garp::Time("lower_prio_delay", HOUR),
        "garp_lower_prio_repeat" => Garp::Count("lower_prio_repeat"),
        _ => return None,
    })
}

/// What is said on hearing a lower master is what is said on becoming one, unless it is given.
pub fn settle_garp(garp: &mut Table) {
    for (name, like) in [
        ("lower_prio_delay", "master_delay"),
        ("lower_prio_repeat", "master_repeat"),
    ] {
        if let Some(value) = garp.get(like).cloned().filter(|_| !garp.has(name)) {
            garp.add(name, value);
        }
    }
}

impl Mapper<'_> {
    pub(super) fn global_defs(&mut self, node: &Node) {
        self.report
            .taken(node, "[vrrp.defaults], [ipvs] and others");
        let mut globals = std::mem::take(&mut self.globals);
        for child in &node.children {
            self.global(child, &mut globals);
        }
        self.globals = globals;
    }

    fn global(&mut self, node: &Node, globals: &mut Globals) {
        let word = node.keyword();
        if let Some(garp) = word.strip_prefix("vrrp_").and_then(garp) {
            self.put_garp(node, garp, &mut globals.garp);
            return;
        }
        let defaults = &mut globals.defaults;
        match word {
            // It needs to know the instances.
            "lvs_sync_daemon" => {}
            "lvs_timeouts" => self.timeouts(node, &mut globals.ipvs),
            "vrrp_version" => {
                if let Some(version) = self.number(node, 2, 3) {
                    globals.version = version;
                    self.put(defaults, "version", Value::Integer(version), node);
                }
            }
            "vrrp_mcast_group4" | "vrrp_mcast_group6" => {
                let name = match word {
                    "vrrp_mcast_group4" => "mcast_group4",
                    _ => "mcast_group6",
                };
                if let Some(addr) = self.address(node) {
                    self.put(defaults, name, address(addr), node);
                }
            }
            "vrrp_down_timer_adverts" => {
                if let Some(count) = self.number(node, 1, 100) {
                    let value = Value::Integer(count);
                    self.put(defaults, "down_timer_adverts", value, node);
                }
            }
            "vrrp_lower_prio_no_advert" => {
                self.put_flag(node, "lower_prio_no_advert", defaults);
            }
            "vrrp_higher_prio_send_advert" => {
                self.put_flag(node, "higher_prio_send_advert", defaults);
            }
            "vrrp_check_unicast_src" => self.put_flag(node, "check_unicast_src", defaults),
            "vrrp_owner_ignore_adverts" => {
                self.put_flag(node, "owner_ignore_adverts", defaults);
            }
            "v3_checksum_as_v2" => {
                if self.flag(node) == Some(true) {
                    self.put(defaults, "checksum", Value::text("rfc9568"), node);
                }
            }
            "vrrp_min_garp" => {
                if self.flag(node) == Some(true) {
                    let garp = &mut globals.garp;
                    self.put(garp, "master_repeat", Value::Integer(1), node);
                    self.put(garp, "master_delay", Value::text("0s"), node);
                }
            }
            "vrrp_startup_delay" => {
                if let Some(time) = self.time(node, Duration::ZERO, HOUR) {
                    let value = Value::Text(duration(time));
                    self.put(&mut globals.vrrp, "startup_delay", value, node);
                }
            }
            "vrrp_strict" => {
                globals.strict = self.flag(node) == Some(true);
                self.report.taken(node, "see the instances");
            }
            "vrrp_skip_check_adv_addr" => self.report.ignored(
                node,
                "lists of addresses that differ are an alarm and no reason to refuse an advert",
            ),
            "vrrp_garp_interval" | "vrrp_gna_interval" => {
                let name = match word {
                    "vrrp_garp_interval" => "garp_interval",
                    _ => "gna_interval",
                };
                self.pace(node, name, &mut globals.vrrp);
            }
            "vrrp_garp_extra_if" => self
                .report
                .lost(node, "announcements on other interfaces are not supported"),
            "vmac_prefix" | "vmac_addr_prefix" => self
                .report
                .ignored(node, "the names of devices for virtual MACs are RVS's own"),
            _ if self.global_events(node) => {}
            _ => self.elsewhere(node, KEYWORDS),
        }
    }

    /// Time between announcements: steps of a millisecond here.
    pub(super) fn pace(&mut self, node: &Node, name: &'static str, table: &mut Table) {
        let Some(time) = self.time(node, Duration::ZERO, Duration::from_secs(60)) else {
            return;
        };
        let whole = Duration::from_millis(time.as_nanos().div_ceil(1_000_000) as u64);
        self.put(table, name, Value::Text(duration(whole)), node);
        if whole != time {
            self.report
                .changed(node, format!("rounded up to {}", duration(whole)));
        }
    }

    fn put_flag(&mut self, node: &Node, name: &'static str, table: &mut Table) {
        if let Some(yes) = self.flag(node) {
            self.put(table, name, Value::Boolean(yes), node);
        }
    }

    /// An announcement keyword into its table.
    pub(super) fn put_garp(&mut self, node: &Node, garp: Garp, table: &mut Table) {
        match garp {
            Garp::Count(name) => {
                if let Some(count) = self.number(node, 0, 255) {
                    self.put(table, name, Value::Integer(count), node);
                }
            }
            Garp::Time(name, most) => {
                if let Some(time) = self.time(node, Duration::ZERO, most) {
                    self.put(table, name, Value::Text(duration(time)), node);
                }
            }
        }
    }

    fn timeouts(&mut self, node: &Node, ipvs: &mut Table) {
        let mut words = node.args().iter().enumerate();
        while let Some((at, word)) = words.next() {
            let name = match word.as_str() {
                "tcp" => "tcp_timeout",
                "tcpfin" => "tcp_fin_timeout",
                "udp" => "udp_timeout",
                other => {
                    let note = format!("\"{other}\" is neither tcp nor tcpfin nor udp");
                    self.report.lost(node, note);
                    continue;
                }
            };
            words.next();
            if let Some(seconds) = self.number_at(node, at + 1, 1, MAX_TIMEOUT) {
                self.put(ipvs, name, Value::Integer(seconds), node);
            }
        }
    }

    /// Writes what does not belong to instances.
    pub(super) fn put_globals(&mut self) {
        for table in [&self.globals.ipvs, &self.globals.vrrp] {
            if !table.keys.is_empty() {
                self.document.tables.push(table.clone());
            }
        }
    }

    /// Writes the defaults of instances, those of keepalived included.
    pub(super) fn put_vrrp_defaults(&mut self) {
        let mut defaults = self.globals.defaults.clone();
        let mut garp = self.globals.garp.clone();
        for (name, value) in [
            ("version", Value::Integer(self.globals.version)),
            ("higher_prio_send_advert", Value::Boolean(false)),
            ("check_unicast_src", Value::Boolean(false)),
        ] {
            if !defaults.has(name) {
                defaults.add(name, value);
            }
        }
        settle_garp(&mut garp);
        if !garp.has("master_refresh") {
            garp.add("master_refresh", Value::text("0s"));
        }
        self.document.tables.push(defaults);
        self.document.tables.push(garp);
    }
}
