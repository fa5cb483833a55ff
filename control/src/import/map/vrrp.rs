//! `vrrp_instance`, `vrrp_sync_group` and what priorities depend on.

use std::net::IpAddr;
use std::time::Duration;

use super::Mapper;
use super::global::{garp, settle_garp};
use super::track::kind;
use super::values::{address, duration};
use crate::import::document::{Table, Value};
use crate::import::tree::Node;

/// Keywords of an instance, for suggestions.
const KEYWORDS: &[&str] = &[
    "state",
    "interface",
    "virtual_router_id",
    "priority",
    "advert_int",
    "authentication",
    "virtual_ipaddress",
    "virtual_ipaddress_excluded",
    "virtual_routes",
    "virtual_rules",
    "nopreempt",
    "preempt_delay",
    "unicast_src_ip",
    "unicast_peer",
    "mcast_src_ip",
    "track_interface",
    "track_script",
    "notify_master",
    "notify_backup",
    "notify_fault",
    "garp_master_delay",
];

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// What the lines of an instance say together.
pub(super) struct Instance {
    is_master: bool,
    priority: Option<i64>,
    version: Option<i64>,
    strict: bool,
    /// Tables behind the instance's own.
    pub inner: Vec<Table>,
    pub vips: Vec<Table>,
    pub excluded: Vec<Table>,
    /// `[vrrp.instance.notify]`.
    notify: Table,
}

impl Mapper<'_> {
    /// All of VRRP, in the order that the configuration wants.
    pub(super) fn vrrp(&mut self, nodes: &[Node]) {
        let of = |keywords: &[&str]| {
            let found = nodes.iter().filter(|n| keywords.contains(&n.keyword()));
            found.collect::<Vec<_>>()
        };
        let instances = of(&["vrrp_instance"]);
        if instances.is_empty() {
            for table in [self.globals.defaults.clone(), self.globals.garp.clone()] {
                if !table.keys.is_empty() {
                    self.document.tables.push(table);
                }
            }
        } else {
            self.put_vrrp_defaults();
        }
        for node in of(&["interface_up_down_delays"]) {
            self.delays(node);
        }
        for node in of(&["garp_group"]) {
            self.garp_group(node);
        }
        for node in of(&["vrrp_script"]) {
            self.tracked_script(node);
        }
        for node in of(&["track_file", "vrrp_track_file"]) {
            self.tracked_file(node);
        }
        for node in of(&["vrrp_track_process"]) {
            self.tracked_process(node);
        }
        for node in instances {
            self.instance(node);
        }
        for node in of(&["vrrp_sync_group"]) {
            self.sync_group(node);
        }
    }

    /// The name of a block.
    pub(super) fn name(&mut self, node: &Node, table: &mut Table) -> bool {
        match node.arg(0) {
            Some(name) => {
                table.set("name", Value::text(name), node);
                self.report.taken(node, table.path);
                self.only(node, 1);
                true
            }
            None => {
                self.report.lost(node, "it has no name");
                false
            }
        }
    }

    fn instance(&mut self, node: &Node) {
        let mut table = Table::of("vrrp.instance", node);
        if !self.name(node, &mut table) {
            return;
        }
        let mut instance = Instance {
            strict: self.globals.strict,
            is_master: false,
            priority: None,
            version: None,
            inner: Vec::new(),
            vips: Vec::new(),
            excluded: Vec::new(),
            notify: Table::single("vrrp.instance.notify", ""),
        };
        let mut garp_keys = Table::single("vrrp.instance.garp", "");
        for child in &node.children {
            match garp(child.keyword()) {
                Some(garp) => self.put_garp(child, garp, &mut garp_keys),
                None => self.instance_line(child, &mut table, &mut instance),
            }
        }
        self.settle(node, &mut table, &mut instance);
        settle_garp(&mut garp_keys);
        self.document.tables.push(table);
        let tables = &mut self.document.tables;
        tables.append(&mut instance.vips);
        tables.append(&mut instance.excluded);
        tables.append(&mut instance.inner);
        for table in [garp_keys, instance.notify] {
            if !table.keys.is_empty() {
                tables.push(table);
            }
        }
    }

    fn instance_line(&mut self, node: &Node, table: &mut Table, instance: &mut Instance) {
        match node.keyword() {
            "state" => match self.word(node) {
                Some("MASTER") => {
                    instance.is_master = true;
                    self.report.taken(node, "vrrp.instance.initial_state");
                }
                Some("BACKUP") => self.report.taken(node, "the default"),
                Some(other) => {
                    let note = format!("\"{other}\" is neither MASTER nor BACKUP; BACKUP is used");
                    self.report.changed(node, note);
                }
                None => {}
            },
            "interface" => {
                if let Some(name) = self.word(node) {
                    self.interfaces.insert(name.to_owned());
                    self.put(table, "interface", Value::text(name), node);
                }
            }
            "virtual_router_id" => {
                if let Some(vrid) = self.number(node, 1, 255) {
                    self.put(table, "vrid", Value::Integer(vrid), node);
                }
            }
            "priority" => {
                if let Some(priority) = self.number(node, 1, 255) {
                    instance.priority = Some(priority);
                    self.put(table, "priority", Value::Integer(priority), node);
                }
            }
            "version" => {
                if let Some(version) = self.number(node, 2, 3) {
                    instance.version = Some(version);
                    self.put(table, "version", Value::Integer(version), node);
                }
            }
            "advert_int" => {
                let most = Duration::from_secs(255);
                if let Some(time) = self.time(node, Duration::from_millis(10), most) {
                    let value = Value::Text(duration(time));
                    self.put(table, "advert_int", value, node);
                }
            }
            "down_timer_adverts" => {
                if let Some(count) = self.number(node, 1, 100) {
                    let value = Value::Integer(count);
                    self.put(table, "down_timer_adverts", value, node);
                }
            }
            "use_vmac" => {
                self.put(table, "vmac", Value::Boolean(true), node);
                if !node.args().is_empty() {
                    let note = "the device's name and MAC are RVS's own";
                    self.report.changed(node, note);
                }
            }
            "vmac_xmit_base" => {
                self.put(table, "vmac_xmit_base", Value::Boolean(true), node);
            }
            "mcast_src_ip" | "unicast_src_ip" => {
                if let Some(addr) = self.address(node) {
                    self.put(table, "source", address(addr), node);
                }
            }
            "mcast_dst_ip" => {
                if let Some(addr) = self.address(node) {
                    self.put(table, "mcast_group", address(addr), node);
                }
            }
            "unicast_ttl" => {
                if let Some(ttl) = self.number(node, 1, 255) {
                    self.put(table, "unicast_ttl", Value::Integer(ttl), node);
                }
            }
            "unicast_peer" => {
                self.report.taken(node, "vrrp.instance.peers");
                for child in &node.children {
                    self.peer(child, instance);
                }
            }
            "authentication" => self.authentication(node, table),
            "virtual_ipaddress" | "virtual_ipaddress_excluded" => {
                let path = match node.keyword() {
                    "virtual_ipaddress" => "vrrp.instance.vip",
                    _ => "vrrp.instance.vip_excluded",
                };
                self.report.taken(node, path);
                for child in &node.children {
                    self.virtual_address(child, path, instance);
                }
            }
            "virtual_routes" => {
                self.report.taken(node, "vrrp.instance.route");
                for child in &node.children {
                    self.route(child, instance);
                }
            }
            "virtual_rules" => {
                self.report.taken(node, "vrrp.instance.rule");
                for child in &node.children {
                    self.rule(child, instance);
                }
            }
            "nopreempt" => self.put(table, "preempt", Value::Boolean(false), node),
            "preempt" => self.put(table, "preempt", Value::Boolean(true), node),
            "preempt_delay" => {
                let most = Duration::from_secs(1000);
                if let Some(time) = self.time(node, Duration::ZERO, most) {
                    let value = Value::Text(duration(time));
                    self.put(table, "preempt_delay", value, node);
                }
            }
            "accept" | "no_accept" => {
                let yes = Value::Boolean(node.keyword() == "accept");
                self.put(table, "accept", yes, node);
            }
            "lower_prio_no_advert"
            | "higher_prio_send_advert"
            | "check_unicast_src"
            | "owner_ignore_adverts" => {
                let name = match node.keyword() {
                    "lower_prio_no_advert" => "lower_prio_no_advert",
                    "higher_prio_send_advert" => "higher_prio_send_advert",
                    "check_unicast_src" => "check_unicast_src",
                    _ => "owner_ignore_adverts",
                };
                if let Some(yes) = self.flag(node) {
                    self.put(table, name, Value::Boolean(yes), node);
                }
            }
            "v3_checksum_as_v2" => {
                if self.flag(node) == Some(true) {
                    self.put(table, "checksum", Value::text("rfc9568"), node);
                }
            }
            "old_unicast_checksum" => match node.arg(0) {
                Some("never") => self.report.taken(node, "never so"),
                _ => self.report.lost(
                    node,
                    "the checksum of keepalived before 1.3.7 is not supported; update the peer",
                ),
            },
            "strict_mode" => {
                instance.strict = self.flag(node) == Some(true);
                self.report.taken(node, "see the instance");
            }
            "dont_track_primary" => {
                self.put(table, "track_primary", Value::Boolean(false), node);
            }
            "track_src_ip" => self.report.taken(
                node,
                "always so: without its source address an instance is at fault",
            ),
            "skip_check_adv_addr" => self.report.ignored(
                node,
                "lists of addresses that differ are an alarm and no reason to refuse an advert",
            ),
            "promote_secondaries" => self
                .report
                .lost(node, "set the sysctl promote_secondaries of the interface"),
            "timer_expired_backup" => self.report.taken(
                node,
                "always so: a master that was held up comes back as a backup",
            ),
            "use_vmac_addr" => self
                .report
                .ignored(node, "the MAC of a virtual router is that of the RFC"),
            "unicast_fault_no_peer" => self.report.ignored(node, "without peers it is multicast"),
            "garp_extra_if" => self
                .report
                .lost(node, "announcements on other interfaces are not supported"),
            "use_ipvlan" => self
                .report
                .lost(node, "ipvlan is not supported; vmac = true uses a macvlan"),
            word if kind(word).is_some() => {
                self.tracks(node, "vrrp.instance.track", &mut instance.inner);
            }
            _ if self.vrrp_events(node, &mut instance.notify) => {}
            _ => self.elsewhere(node, KEYWORDS),
        }
    }

    /// What follows from the lines together, as keepalived sees it.
    fn settle(&mut self, node: &Node, table: &mut Table, instance: &mut Instance) {
        let line = |keyword: &str| node.children.iter().rfind(|n| n.keyword() == keyword);
        let owner = match (instance.priority, instance.is_master) {
            (Some(priority), _) => priority == 255,
            (None, true) => {
                table.add("priority", Value::Integer(255));
                self.report
                    .changed(node, "MASTER without a priority is priority 255");
                true
            }
            (None, false) => {
                table.add("priority", Value::Integer(100));
                false
            }
        };
        if let Some(state) = line("state").filter(|_| instance.is_master) {
            match owner {
                true => {
                    table.set("initial_state", Value::text("master"), state);
                }
                false => self.report.changed(
                    state,
                    "no effect unless the priority is 255, here as in keepalived: the highest priority becomes master",
                ),
            }
        }
        for keyword in ["nopreempt", "preempt_delay"] {
            let key = if keyword == "nopreempt" {
                "preempt"
            } else {
                keyword
            };
            let never = table.get("preempt") == Some(&Value::Boolean(false));
            let note = match (keyword, owner, instance.is_master) {
                (_, true, _) => "priority 255 takes over at once, in keepalived, too; left out",
                ("nopreempt", _, true) => "keepalived drops it with state MASTER; left out",
                ("preempt_delay", ..) if never => "does nothing with nopreempt; left out",
                _ => continue,
            };
            if let Some(line) = line(keyword) {
                table.drop_key(key);
                self.report.changed(line, note);
            }
        }
        let is_ipv6 = is_ipv6(instance.vips.first());
        self.settle_addresses(is_ipv6, instance);
        let mut version = instance.version.unwrap_or(self.globals.version);
        if is_ipv6 && version == 2 {
            version = 3;
            table.add("version", Value::Integer(3));
            if let Some(line) = line("version") {
                self.report.changed(line, "IPv6 needs version 3");
            }
        }
        self.settle_interval(version, table, line("advert_int"));
        if let Some(auth) = line("authentication").filter(|_| version == 3 && table.has("auth")) {
            table.drop_key("auth");
            let note = "version 3 has no authentication; keepalived leaves it out, too";
            self.report.changed(auth, note);
        }
        if instance.strict {
            self.strict(node, line("strict_mode"), table, version);
        }
    }

    /// Addresses that keepalived ignores.
    fn settle_addresses(&mut self, is_ipv6: bool, instance: &mut Instance) {
        let mut seen: Vec<String> = Vec::new();
        let report = &mut self.report;
        let mut keep = |vip: &Table| {
            let addr = match vip.get("addr") {
                Some(Value::Text(addr)) => addr.split('/').next().unwrap_or_default().to_owned(),
                _ => String::new(),
            };
            let is_vip = vip.path == "vrrp.instance.vip";
            let note = if is_vip && is_ipv6_vip(vip) != is_ipv6 {
                "of another family than the first: keepalived ignores it, so does the import"
            } else if seen.contains(&addr) {
                "the same address again: keepalived ignores it, so does the import"
            } else {
                seen.push(addr);
                return true;
            };
            for id in &vip.ids {
                report.changed_id(*id, note);
            }
            false
        };
        instance.vips.retain(&mut keep);
        instance.excluded.retain(&mut keep);
    }

    /// Version 2 has whole seconds, version 3 steps of 10 ms.
    fn settle_interval(&mut self, version: i64, table: &mut Table, line: Option<&Node>) {
        let (Some(line), true) = (line, table.has("advert_int")) else {
            return;
        };
        let Some(time) = line.arg(0).and_then(super::values::timer) else {
            return;
        };
        let millis = time.as_millis() as u64;
        let fitting = match version {
            2 => ((millis + 500) / 1000).clamp(1, 255) * 1000,
            _ => ((millis + 5) / 10).clamp(1, 4095) * 10,
        };
        let fitting = Duration::from_millis(fitting);
        if fitting != time {
            table.amend("advert_int", Value::Text(duration(fitting)));
            let note = format!("version {version} sends {}", duration(fitting));
            self.report.changed(line, note);
        }
    }

    /// `vrrp_strict` and `strict_mode`: what keepalived leaves out then is left out.
    fn strict(&mut self, node: &Node, line: Option<&Node>, table: &mut Table, version: i64) {
        let told = line.unwrap_or(node);
        let of = |keyword: &str| node.children.iter().rfind(|n| n.keyword() == keyword);
        if let Some(peers) = of("unicast_peer") {
            let note =
                "strict: keepalived refuses an instance with unicast peers; here it is not strict";
            self.report.lost(peers, note);
            return;
        }
        table.add("strict", Value::Boolean(true));
        self.report.changed(
            told,
            "strict: defaults and refusals are those of vrrp.instance.strict",
        );
        let owner = table.get("priority") == Some(&Value::Integer(255));
        for (keyword, key) in [
            ("authentication", "auth"),
            ("preempt_delay", "preempt_delay"),
            ("down_timer_adverts", "down_timer_adverts"),
            ("vmac_xmit_base", "vmac_xmit_base"),
            ("lower_prio_no_advert", "lower_prio_no_advert"),
            ("higher_prio_send_advert", "higher_prio_send_advert"),
            ("accept", "accept"),
        ] {
            if keyword == "accept" && (version == 3 || owner) {
                continue;
            }
            if table.has(key) {
                table.drop_key(key);
                if let Some(line) = of(keyword) {
                    let note = "strict: keepalived leaves it out, so does the import";
                    self.report.changed(line, note);
                }
            }
        }
        // Those of global_defs hold otherwise.
        for (key, value) in [
            ("higher_prio_send_advert", false),
            ("lower_prio_no_advert", true),
        ] {
            table.add(key, Value::Boolean(value));
        }
        if self.globals.defaults.has("down_timer_adverts") {
            table.add("down_timer_adverts", Value::Integer(3));
        }
    }

    fn authentication(&mut self, node: &Node, table: &mut Table) {
        let find = |keyword: &str| node.children.iter().rfind(|n| n.keyword() == keyword);
        let (kind, pass) = (find("auth_type"), find("auth_pass"));
        self.report.taken(node, "vrrp.instance.auth");
        match kind.and_then(|kind| kind.arg(0)) {
            Some("PASS") | None => {}
            Some(other) => {
                let note = match other {
                    "AH" => "IPsec AH is not supported; change all hosts to PASS or none first"
                        .to_owned(),
                    other => format!("\"{other}\" is neither PASS nor AH"),
                };
                for line in [kind, pass].into_iter().flatten() {
                    self.report.lost(line, note.clone());
                }
                return;
            }
        }
        let Some(password) = pass.and_then(|pass| pass.arg(0)) else {
            if let Some(kind) = kind {
                self.report
                    .changed(kind, "there is no password: no authentication");
            }
            return;
        };
        let (Some(kind), Some(pass)) = (kind, pass) else {
            if let Some(pass) = pass {
                self.report
                    .changed(pass, "there is no auth_type: no authentication");
            }
            return;
        };
        let mut end = password.len().min(8);
        while !password.is_char_boundary(end) {
            end -= 1;
        }
        let auth = vec![
            ("type", Value::text("pass")),
            ("password", Value::text(&password[..end])),
        ];
        table.set_for("auth", Value::Inline(auth), &[node.id, kind.id, pass.id]);
        self.report.taken(kind, "vrrp.instance.auth");
        match end < password.len() {
            true => self.report.changed(
                pass,
                "only its first eight bytes are sent, by keepalived, too",
            ),
            false => self.report.taken(pass, "vrrp.instance.auth"),
        }
        self.only(pass, 1);
    }

    fn peer(&mut self, node: &Node, instance: &mut Instance) {
        let mut table = Table::leaf("vrrp.instance.peers", node);
        if node.keyword().parse::<IpAddr>().is_err() {
            self.report.lost(node, "no IP address");
            return;
        }
        table.set("addr", Value::text(node.keyword()), node);
        let mut words = node.args().iter().enumerate();
        while let Some((at, word)) = words.next() {
            let name = match word.as_str() {
                "min_ttl" => "min_ttl",
                "max_ttl" => "max_ttl",
                other => {
                    self.report
                        .lost(node, format!("\"{other}\" is not understood"));
                    continue;
                }
            };
            words.next();
            if let Some(ttl) = self.number_at(node, at + 1, 0, 255) {
                table.set(name, Value::Integer(ttl), node);
            }
        }
        self.report.taken(node, "vrrp.instance.peers");
        instance.inner.push(table);
    }

    fn sync_group(&mut self, node: &Node) {
        let mut table = Table::of("vrrp.sync_group", node);
        if !self.name(node, &mut table) {
            return;
        }
        let mut inner = Vec::new();
        let mut notify = Table::single("vrrp.sync_group.notify", "");
        for child in &node.children {
            match child.keyword() {
                "group" => {
                    // Names may share a line.
                    let words = child.children.iter().flat_map(|n| n.words.clone());
                    let names: Vec<String> = words.collect();
                    let mut ids = vec![child.id];
                    for member in &child.children {
                        ids.push(member.id);
                        self.report.taken(member, "vrrp.sync_group.instances");
                    }
                    table.set_for("instances", Value::Texts(names), &ids);
                    self.report.taken(child, "vrrp.sync_group.instances");
                }
                "sync_group_tracking_weight" => {
                    self.put(&mut table, "tracking_weight", Value::Boolean(true), child);
                }
                "global_tracking" => self
                    .report
                    .ignored(child, "no longer a keyword of keepalived"),
                word if kind(word).is_some() => {
                    self.tracks(child, "vrrp.sync_group.track", &mut inner);
                }
                _ if self.vrrp_events(child, &mut notify) => {}
                _ => self.elsewhere(child, &["group", "track_script", "notify_master"]),
            }
        }
        self.document.tables.push(table);
        self.document.tables.append(&mut inner);
        if !notify.keys.is_empty() {
            self.document.tables.push(notify);
        }
    }

    /// `garp_group`: a pace for interfaces.
    fn garp_group(&mut self, node: &Node) {
        self.report.taken(node, "vrrp.interface");
        let mut pace = Table::leaf("vrrp.interface", node);
        let mut names = Vec::new();
        for child in &node.children {
            match child.keyword() {
                "garp_interval" => self.pace(child, "garp_interval", &mut pace),
                "gna_interval" => self.pace(child, "gna_interval", &mut pace),
                "interface" => {
                    names.extend(child.args().iter().map(|name| (name.clone(), child.id)));
                    self.report.taken(child, "vrrp.interface.name");
                }
                "interfaces" => {
                    for line in &child.children {
                        names.extend(line.words.iter().map(|name| (name.clone(), line.id)));
                        self.report.taken(line, "vrrp.interface.name");
                    }
                    self.report.taken(child, "vrrp.interface.name");
                }
                _ => self.elsewhere(child, &["garp_interval", "gna_interval", "interfaces"]),
            }
        }
        if names.len() > 1 {
            self.report
                .changed(node, "each interface has the pace by itself");
        }
        for (name, id) in names {
            let known = self.document.tables.iter_mut().find(|table| {
                table.path == "vrrp.interface"
                    && table.get("name") == Some(&Value::Text(name.clone()))
            });
            if let Some(known) = known {
                for (key, value) in [
                    ("garp_interval", pace.get("garp_interval")),
                    ("gna_interval", pace.get("gna_interval")),
                ] {
                    if let Some(value) = value {
                        known.add(key, value.clone());
                    }
                }
                continue;
            }
            let mut table = pace.clone();
            self.interfaces.insert(name.clone());
            table.set_for("name", Value::Text(name), &[id]);
            self.document.tables.push(table);
        }
    }

    fn delays(&mut self, node: &Node) {
        self.report.taken(node, "vrrp.interface");
        for child in &node.children {
            let mut table = Table::leaf("vrrp.interface", child);
            let name = child.keyword();
            self.interfaces.insert(name.to_owned());
            table.set("name", Value::text(name), child);
            let Some(down) = self.time_at(child, 0, Duration::ZERO, HOUR) else {
                continue;
            };
            let up = match child.arg(1) {
                Some(_) => self.time_at(child, 1, Duration::ZERO, HOUR),
                None => Some(down),
            };
            table.set("down_delay", Value::Text(duration(down)), child);
            let up = Value::Text(duration(up.unwrap_or(down)));
            table.set("up_delay", up, child);
            self.report.taken(child, "vrrp.interface");
            self.document.tables.push(table);
        }
    }
}

fn is_ipv6_vip(vip: &Table) -> bool {
    matches!(vip.get("addr"), Some(Value::Text(addr)) if addr.contains(':'))
}

fn is_ipv6(first: Option<&Table>) -> bool {
    first.is_some_and(is_ipv6_vip)
}
