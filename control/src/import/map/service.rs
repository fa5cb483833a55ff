//! `virtual_server` with its `real_server`s.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Mapper;
use super::check::{Heir, Inherited};
use super::pool::Forward;
use super::target::{Target, family};
use super::values::{address, boolean};
use crate::config::keys::{MAX_TIMEOUT, MAX_WEIGHT, SCHEDULERS};
use crate::import::document::{Table, Value};
use crate::import::tree::Node;
use crate::schedulers;

/// Keywords of a `virtual_server`, for suggestions.
const KEYWORDS: &[&str] = &[
    "lb_algo",
    "lvs_sched",
    "lb_kind",
    "lvs_method",
    "protocol",
    "persistence_timeout",
    "persistence_granularity",
    "persistence_engine",
    "delay_loop",
    "quorum",
    "hysteresis",
    "sorry_server",
    "inhibit_on_failure",
    "real_server",
    "alpha",
    "omega",
    "ha_suspend",
    "ops",
];

/// Keywords of a `real_server`, for suggestions.
const SERVER_KEYWORDS: &[&str] = &[
    "weight",
    "lb_kind",
    "lvs_method",
    "uthreshold",
    "lthreshold",
    "inhibit_on_failure",
    "TCP_CHECK",
    "HTTP_GET",
    "SSL_GET",
    "SMTP_CHECK",
    "DNS_CHECK",
    "UDP_CHECK",
    "PING_CHECK",
    "MISC_CHECK",
    "notify_up",
    "notify_down",
];

/// What all services of a `virtual_server` share.
struct Common<'a> {
    forward: Forward,
    weight: i64,
    inherited: Inherited,
    family: Option<&'static str>,
    servers: Vec<Real<'a>>,
    /// `[service.notify]`.
    notify: Table,
}

/// A `real_server` as far as it does not depend on the service.
struct Real<'a> {
    node: &'a Node,
    addr: IpAddr,
    port: Option<u16>,
    forward: Forward,
    keys: Table,
    checks: Vec<Heir>,
    /// `[service.server.notify]`.
    notify: Table,
}

impl<'a> Mapper<'a> {
    pub(super) fn virtual_server(&mut self, node: &'a Node) {
        let targets = self.targets(node);
        if targets.is_empty() {
            return;
        }
        let mut service = Table::of("service", node);
        service.comment = format!("{}: {}", node.place, node.text);
        let common = self.service(node, &mut service);
        if common.servers.is_empty() {
            let note = "it has no real_server: keepalived leaves it out, so does the import";
            self.report.left_out(node, note);
            return;
        }
        self.report.taken(node, "service");
        for target in &targets {
            self.put_service(node, target, &service, &common);
        }
    }

    /// Reads the block: what every service of it says goes into `table`.
    fn service(&mut self, node: &'a Node, table: &mut Table) -> Common<'a> {
        let mut common = Common {
            weight: 1,
            inherited: self.globals.inherited.clone(),
            forward: Forward::default(),
            family: None,
            servers: Vec::new(),
            notify: Table::single("service.notify", ""),
        };
        let scheduler = self.scheduler(node, table);
        let mut flags: Vec<String> = Vec::new();
        // What servers inherit stands anywhere in the block.
        for child in &node.children {
            match child.keyword() {
                "lb_algo" | "lvs_sched" | "real_server" => {}
                "lb_kind" | "lvs_method" => {
                    common.forward = self.forward(child, 0, &common.forward);
                }
                "flag-1" | "flag-2" | "flag-3" | "sh-port" | "sh-fallback" | "mh-port"
                | "mh-fallback" => self.scheduler_flag(child, &scheduler, &mut flags, table),
                "ops" => self.put(table, "one_packet", Value::Boolean(true), child),
                "protocol" => {}
                "persistence_timeout" | "persistence_granularity" | "persistence_engine" => {
                    self.persistence(child, table);
                }
                "weight" => {
                    if let Some(weight) = self.number(child, 0, MAX_WEIGHT) {
                        common.weight = weight;
                        self.report.taken(child, "service.server.weight");
                    }
                }
                "ip_family" => match child.arg(0).and_then(family) {
                    Some(family) => {
                        common.family = Some(family);
                        self.report.taken(child, "service.family");
                    }
                    None => self.report.lost(child, "neither inet nor inet6"),
                },
                _ if self.inheritance(child, &mut common.inherited) => {}
                _ if self.pool(child, table) => {}
                _ if self.service_events(child, &mut common.notify) => {}
                _ => self.elsewhere(child, KEYWORDS),
            }
        }
        self.sorry_server(node, table, &common.forward);
        for child in node
            .children
            .iter()
            .filter(|n| n.keyword() == "real_server")
        {
            let known = self.real_server(child, &common);
            common.servers.extend(known);
        }
        common
    }

    /// `lb_algo`; the name of what holds in the end.
    fn scheduler(&mut self, node: &Node, table: &mut Table) -> String {
        let mut scheduler = String::from("wlc");
        let lines = node.children.iter();
        for child in lines.filter(|n| matches!(n.keyword(), "lb_algo" | "lvs_sched")) {
            let Some(name) = self.word(child) else {
                continue;
            };
            if SCHEDULERS.contains(&name) && name != "none" {
                scheduler = name.to_owned();
                self.put(table, "scheduler", Value::text(name), child);
            } else {
                let note = format!("no scheduler of keepalived, which uses {scheduler} instead");
                self.report.changed(child, note);
            }
        }
        if !table.has("scheduler") {
            table.add("scheduler", Value::text(&*scheduler));
        }
        scheduler
    }

    fn scheduler_flag(
        &mut self,
        node: &Node,
        scheduler: &str,
        flags: &mut Vec<String>,
        table: &mut Table,
    ) {
        let name = node.keyword();
        if schedulers::flag(scheduler, name).is_err() {
            let note = format!("no flag of {scheduler}, which does nothing with it");
            self.report.changed(node, note);
            return;
        }
        if !flags.iter().any(|flag| flag == name) {
            flags.push(name.to_owned());
        }
        // All flags share the key.
        table.set("scheduler_flags", Value::Texts(flags.clone()), node);
        self.report.taken(node, "service.scheduler_flags");
    }

    fn persistence(&mut self, node: &Node, table: &mut Table) {
        const BARE: i64 = 360;
        match node.keyword() {
            "persistence_timeout" => {
                let timeout = match node.arg(0) {
                    Some(_) => self.number(node, 1, MAX_TIMEOUT),
                    None => Some(BARE),
                };
                if let Some(timeout) = timeout {
                    let value = Value::Integer(timeout);
                    self.put(table, "persistence_timeout", value, node);
                }
            }
            "persistence_granularity" => {
                if let Some(mask) = self.word(node) {
                    self.put(table, "netmask", Value::text(mask), node);
                    if !table.has("persistence_timeout") {
                        table.add("persistence_timeout", Value::Integer(BARE));
                    }
                }
            }
            _ => match self.word(node) {
                Some("sip") => {
                    self.put(table, "persistence_engine", Value::text("sip"), node);
                }
                Some(other) => {
                    let note = format!("\"{other}\" is no engine; known: sip");
                    self.report.lost(node, note);
                }
                None => {}
            },
        }
    }

    fn real_server(&mut self, node: &'a Node, common: &Common<'a>) -> Option<Real<'a>> {
        let Some(addr) = node.arg(0).and_then(|word| word.parse().ok()) else {
            let word = node.arg(0).unwrap_or_default();
            self.report
                .lost(node, format!("\"{word}\" is no IP address"));
            return None;
        };
        let port = match node.arg(1) {
            Some(_) => Some(self.number_at(node, 1, 0, 65_535)? as u16),
            None => None,
        };
        let mut keys = Table::of("service.server", node);
        let mut notify = Table::single("service.server.notify", "");
        keys.add("weight", Value::Integer(common.weight));
        let mut forward = common.forward.clone();
        let mut inherited = common.inherited.clone();
        // Its own values hold for all its checks, wherever they stand.
        for child in &node.children {
            match child.keyword() {
                "weight" => {
                    if let Some(weight) = self.number(child, 0, MAX_WEIGHT) {
                        self.put(&mut keys, "weight", Value::Integer(weight), child);
                    }
                }
                "lvs_method" => forward = self.forward(child, 0, &forward),
                "lb_kind" => {
                    let note =
                        "keepalived knows lvs_method here and ignores this, so does the import";
                    self.report.changed(child, note);
                }
                "uthreshold" => {
                    if let Some(upper) = self.number(child, 0, MAX_WEIGHT) {
                        self.put(&mut keys, "upper", Value::Integer(upper), child);
                    }
                }
                "lthreshold" => {
                    if let Some(lower) = self.number(child, 0, MAX_WEIGHT) {
                        self.put(&mut keys, "lower", Value::Integer(lower), child);
                    }
                }
                "inhibit_on_failure" => {
                    if let Some(yes) = self.flag(child) {
                        self.put(&mut keys, "inhibit_on_failure", Value::Boolean(yes), child);
                    }
                }
                "alpha" => {
                    inherited.alpha = child.arg(0).map_or(Some(true), boolean);
                    self.report.taken(child, "alpha of its checks");
                }
                _ if self.inheritance(child, &mut inherited) => {}
                _ if self.server_events(child, &mut notify) => {}
                word if super::check::is_check(word) => {}
                _ => self.elsewhere(child, SERVER_KEYWORDS),
            }
        }
        let mut checks = Vec::new();
        for child in node
            .children
            .iter()
            .filter(|n| super::check::is_check(n.keyword()))
        {
            checks.extend(self.check(child, &inherited));
        }
        Some(Real {
            node,
            addr,
            port,
            forward,
            keys,
            checks,
            notify,
        })
    }

    fn put_service(&mut self, node: &Node, target: &Target, read: &Table, common: &Common<'a>) {
        let mut service = Table {
            keys: Vec::new(),
            ..read.clone()
        };
        self.put_target(node, target, &mut service, common);
        service.keys.extend(read.keys.iter().cloned());
        if target.port() == 0
            && matches!(target, Target::Address(..))
            && !service.has("persistence_timeout")
        {
            service.add("persistence_timeout", Value::Integer(360));
            let note =
                "port 0 is for persistent services: keepalived sets 360 s, so does the import";
            self.report.changed(node, note);
        }
        let has_checks = common.servers.iter().any(|real| !real.checks.is_empty());
        if has_checks {
            // What keepalived does with a failed server, where RVS does otherwise by itself.
            if !service.has("inhibit_on_failure") {
                service.add("inhibit_on_failure", Value::Boolean(false));
            }
            service.add("reschedule_failed", Value::Boolean(false));
        }
        let mut servers: Vec<(Table, Vec<Table>, &Table)> = Vec::new();
        let mut seen = BTreeSet::new();
        for real in &common.servers {
            let (server, checks) = self.server(target, real);
            let port = match server.get("port") {
                Some(Value::Integer(port)) => *port,
                _ => i64::from(target.port()),
            };
            if !seen.insert((real.addr, port)) {
                let note = "the same server again: keepalived leaves it out, so does the import";
                self.report.left_out(real.node, note);
                continue;
            }
            servers.push((server, checks, &real.notify));
        }
        // Checks that all servers have are written once.
        let shared = match servers.as_slice() {
            [(_, first, _), rest @ ..] if !rest.is_empty() && !first.is_empty() => rest
                .iter()
                .all(|(_, checks, _)| {
                    checks.len() == first.len()
                        && checks.iter().zip(first).all(|(a, b)| a.says_the_same(b))
                })
                .then(|| {
                    let mut shared = first.clone();
                    for (_, checks, _) in rest {
                        for (one, other) in shared.iter_mut().zip(checks) {
                            one.share(other);
                        }
                    }
                    shared
                }),
            _ => None,
        };
        let document = &mut self.document.tables;
        document.push(service);
        if !common.notify.keys.is_empty() {
            document.push(common.notify.clone());
        }
        for check in shared.iter().flatten() {
            document.push(Table {
                path: "service.check",
                comment: "the same for all servers".to_owned(),
                ..check.clone()
            });
        }
        for (server, checks, notify) in servers {
            document.push(server);
            if !notify.keys.is_empty() {
                document.push(notify.clone());
            }
            if shared.is_none() {
                document.extend(checks);
            }
        }
    }

    fn put_target(
        &mut self,
        node: &Node,
        target: &Target,
        service: &mut Table,
        common: &Common<'a>,
    ) {
        match target {
            Target::Address(addr, port) => {
                let protocol = self.protocol(node);
                service.add("protocol", Value::text(protocol));
                service.set("address", address(*addr), node);
                service.set("port", Value::Integer(i64::from(*port)), node);
            }
            Target::Mark(mark, own) => {
                service.set("fwmark", Value::Integer(*mark), node);
                let of_servers = common
                    .servers
                    .iter()
                    .find(|real| !real.forward.is_tunnel())
                    .map(|real| if real.addr.is_ipv6() { "ipv6" } else { "ipv4" });
                let family = own.or(common.family).or(of_servers).unwrap_or("ipv4");
                service.add("family", Value::text(family));
                self.marks.insert(*mark);
                let note = "RVS gives marks itself: write [[mark]] rules in place of those of iptables or nftables";
                self.report.changed(node, note);
                for child in node.children.iter().filter(|n| n.keyword() == "protocol") {
                    let note = "a mark is for any protocol, here as in keepalived";
                    self.report.changed(child, note);
                }
            }
        }
    }

    /// The protocol; the last word counts. Without any it is UDP, which few who left it out mean.
    fn protocol(&mut self, node: &Node) -> &'static str {
        let mut protocol = "udp";
        if !node.children.iter().any(|n| n.keyword() == "protocol") {
            let note =
                "without a protocol keepalived takes UDP, so does the import; was TCP meant?";
            self.report.changed(node, note);
        }
        for child in node.children.iter().filter(|n| n.keyword() == "protocol") {
            let word = child.arg(0).unwrap_or_default().to_ascii_lowercase();
            let known = ["tcp", "udp", "sctp"].into_iter().find(|p| *p == word);
            match known {
                Some(known) => {
                    protocol = known;
                    self.report.taken(child, "service.protocol");
                }
                None => {
                    let note = format!("\"{word}\" is no protocol; {protocol} is used");
                    self.report.lost(child, note);
                }
            }
        }
        protocol
    }

    /// A server of one service, with its checks.
    fn server(&mut self, target: &Target, real: &Real<'_>) -> (Table, Vec<Table>) {
        let mut server = Table {
            keys: Vec::new(),
            ..real.keys.clone()
        };
        server.set("address", address(real.addr), real.node);
        let keeps_port = !real.forward.is_nat();
        let mut effective = real.port.unwrap_or_else(|| target.port());
        if keeps_port {
            if effective != target.port() {
                let note = match target {
                    Target::Mark(..) => "packets keep their port; the port is that of its checks",
                    _ => {
                        "packets keep the port of the service, so does keepalived; the port is that of its checks"
                    }
                };
                self.report.changed(real.node, note);
                effective = target.port();
            }
        } else if let Some(port) = real.port {
            server.set("port", Value::Integer(i64::from(port)), real.node);
        }
        real.forward.put(&mut server);
        server.keys.extend(real.keys.keys.iter().cloned());
        self.report.taken(real.node, "service.server");
        let mut checks = Vec::new();
        for check in &real.checks {
            let mut table = check.table.clone();
            if check.has_port && !table.has("port") {
                match real.port.filter(|port| *port != 0) {
                    Some(port) if port != effective => {
                        table.add("port", Value::Integer(i64::from(port)));
                    }
                    None if effective == 0 => {
                        self.report.lost_id(
                            check.id,
                            "no port to check: the server has none and connect_port is missing",
                        );
                        continue;
                    }
                    _ => {}
                }
            }
            checks.push(table);
        }
        (server, checks)
    }

    /// Values that servers and checks inherit.
    pub(super) fn inheritance(&mut self, node: &Node, inherited: &mut Inherited) -> bool {
        use std::time::Duration;
        const MOST: Duration = Duration::from_secs(86_400);
        const LEAST: Duration = Duration::from_millis(10);
        let what = match node.keyword() {
            "delay_loop" => {
                let time = self.time(node, LEAST, MOST);
                inherited.delay_loop = time.or(inherited.delay_loop);
                "delay_loop of its checks"
            }
            "delay_before_retry" => {
                let time = self.time(node, LEAST, MOST);
                inherited.delay_before_retry = time.or(inherited.delay_before_retry);
                "delay_before_retry of its checks"
            }
            "connect_timeout" => {
                let time = self.time(node, LEAST, MOST);
                inherited.connect_timeout = time.or(inherited.connect_timeout);
                "timeout of its checks"
            }
            "warmup" => {
                let time = self.time(node, Duration::ZERO, MOST);
                inherited.warmup = time.or(inherited.warmup);
                "warmup of its checks"
            }
            "retry" => {
                inherited.retry = self.number(node, 0, 1000).or(inherited.retry);
                "retry of its checks"
            }
            "virtualhost" => {
                inherited.host = self.word(node).map(str::to_owned);
                "host of its checks"
            }
            _ => return false,
        };
        self.report.taken(node, what);
        true
    }
}
