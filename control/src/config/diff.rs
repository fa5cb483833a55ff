//! What a reload changes, as a pure function of three things: the file as it was loaded last, the
//! file as it is now, and what runs.
//!
//! The difference between the two files is applied to what runs. What `rvsadm` added or changed
//! since belongs to the operator: where the file's change meets such an object, the object stays
//! and the plan says so in a line. With `discard_live` the file wins everywhere. Nothing is
//! deleted to be added again, so no connection loses its server.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write};

use dataplane::settings::Settings;

use super::rules::{
    SETTINGS, describe_server, describe_server_spec, describe_service, describe_service_spec,
};
use super::{Config, Rules, Running, RunningMark, RunningServer, RunningService, Server, Service};
use crate::api::{MarkMatch, Origin, ServerKey, ServiceKey, ServiceSpec};

/// What to do, in this order, and what is left undone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes, deletions first. What is added or edited has [`Origin::File`] afterwards.
    pub actions: Vec<Action>,
    /// Changes of the file that met live changes and were left out, a line each.
    pub kept: Vec<String>,
    /// Changes that wait for a restart, a line each; filled in from [`needs_restart`].
    pub restart: Vec<String>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Replaces the live settings.
    SetSettings(Settings),
    /// Adds a rule that marks packets, or gives it another mark.
    PutMark {
        /// Which packets.
        rule: MarkMatch,
        /// Their mark.
        mark: u32,
    },
    /// Removes a rule that marks packets.
    DeleteMark {
        /// Which packets.
        rule: MarkMatch,
    },
    /// Changes nothing that workers see: the rule now counts as this.
    SetMarkOrigin {
        /// Which packets.
        rule: MarkMatch,
        /// Where it now comes from.
        origin: Origin,
    },
    /// Adds a service without servers.
    AddService {
        /// Identity.
        key: ServiceKey,
        /// Attributes.
        spec: ServiceSpec,
    },
    /// Replaces a service's attributes.
    EditService {
        /// Identity.
        key: ServiceKey,
        /// New attributes.
        spec: ServiceSpec,
    },
    /// Removes a service and its servers.
    DeleteService {
        /// Identity.
        key: ServiceKey,
    },
    /// Adds a server at the end of the adding order (the head of the kernel's list).
    AddServer {
        /// The service it belongs to.
        service: ServiceKey,
        /// The server.
        server: Server,
    },
    /// Replaces a server's attributes; its place in the list stays.
    EditServer {
        /// The service it belongs to.
        service: ServiceKey,
        /// The server as it is to be.
        server: Server,
    },
    /// Removes a server.
    DeleteServer {
        /// The service it belongs to.
        service: ServiceKey,
        /// The server.
        key: ServerKey,
    },
    /// Changes nothing that workers see: the service (or one of its servers) now counts as this.
    SetOrigin {
        /// The service.
        service: ServiceKey,
        /// Its server, or `None` for the service itself.
        server: Option<ServerKey>,
        /// Where it now comes from.
        origin: Origin,
    },
}

impl Action {
    fn deletes(&self) -> bool {
        matches!(
            self,
            Action::DeleteMark { .. } | Action::DeleteService { .. } | Action::DeleteServer { .. }
        )
    }

    /// One line for the operator; `None` for what nobody sees.
    fn describe(&self) -> Option<String> {
        Some(match self {
            Action::SetSettings(_) => "changed: settings".into(),
            Action::PutMark { rule, mark } => format!("added: mark {mark} {rule}"),
            Action::DeleteMark { rule } => format!("deleted: mark of {rule}"),
            Action::SetMarkOrigin { .. } => return None,
            Action::AddService { key, spec } => {
                let spec = describe_service_spec(spec);
                format!("added: service {} {spec}", describe_service(key))
            }
            Action::EditService { key, spec } => {
                let spec = describe_service_spec(spec);
                format!("changed: service {} {spec}", describe_service(key))
            }
            Action::DeleteService { key } => format!("deleted: service {}", describe_service(key)),
            Action::AddServer { service, server } => {
                format!("added: {}", describe_both(service, server))
            }
            Action::EditServer { service, server } => {
                format!("changed: {}", describe_both(service, server))
            }
            Action::DeleteServer { service, key } => {
                format!("deleted: {}", name_both(service, key))
            }
            Action::SetOrigin { .. } => return None,
        })
    }
}

fn name_both(service: &ServiceKey, server: &ServerKey) -> String {
    format!(
        "service {} server {}",
        describe_service(service),
        describe_server(server)
    )
}

fn describe_both(service: &ServiceKey, server: &Server) -> String {
    let spec = describe_server_spec(&server.spec, server.state);
    format!("{} {spec}", name_both(service, &server.key))
}

impl Plan {
    /// What `rvsadm reload` prints: a line per change, per conflict, per thing that waits.
    pub fn summary(&self) -> String {
        let done = self.actions.iter().filter_map(Action::describe);
        let kept = self.kept.iter().map(|line| format!("kept: {line}"));
        let restart = self
            .restart
            .iter()
            .map(|line| format!("needs restart: {line}"));
        let lines: Vec<String> = done.chain(kept).chain(restart).collect();
        match lines.is_empty() {
            true => "nothing to change\n".into(),
            false => lines.join("\n") + "\n",
        }
    }

    /// Carries the plan out on a copy of what runs. The model does the same on the real thing.
    pub fn apply_to(&self, running: &mut Running) {
        for action in &self.actions {
            action.apply_to(running);
        }
    }
}

impl Action {
    fn apply_to(&self, running: &mut Running) {
        match self {
            Action::SetSettings(settings) => running.settings = *settings,
            Action::PutMark { rule, mark } => {
                let (mark, origin) = (*mark, Origin::File);
                running
                    .marks
                    .insert(rule.clone(), RunningMark { mark, origin });
            }
            Action::DeleteMark { rule } => drop(running.marks.remove(rule)),
            Action::SetMarkOrigin { rule, origin } => {
                if let Some(mark) = running.marks.get_mut(rule) {
                    mark.origin = *origin;
                }
            }
            Action::AddService { key, spec } => {
                let servers = Vec::new();
                let service = RunningService {
                    spec: spec.clone(),
                    origin: Origin::File,
                    servers,
                };
                running.services.insert(*key, service);
            }
            Action::EditService { key, spec } => {
                if let Some(service) = running.services.get_mut(key) {
                    service.spec = spec.clone();
                    service.origin = Origin::File;
                }
            }
            Action::DeleteService { key } => drop(running.services.remove(key)),
            Action::AddServer { service, server } => {
                if let Some(service) = running.services.get_mut(service) {
                    service.servers.push(from_file(server));
                }
            }
            Action::EditServer { service, server } => {
                if let Some(old) = find_mut(running, service, &server.key) {
                    *old = from_file(server);
                }
            }
            Action::DeleteServer { service, key } => {
                if let Some(service) = running.services.get_mut(service) {
                    service.servers.retain(|s| s.key != *key);
                }
            }
            Action::SetOrigin {
                service,
                server: None,
                origin,
            } => {
                if let Some(service) = running.services.get_mut(service) {
                    service.origin = *origin;
                }
            }
            Action::SetOrigin {
                service,
                server: Some(key),
                origin,
            } => {
                if let Some(server) = find_mut(running, service, key) {
                    server.origin = *origin;
                }
            }
        }
    }
}

fn from_file(server: &Server) -> RunningServer {
    RunningServer {
        key: server.key,
        spec: server.spec.clone(),
        state: server.state,
        origin: Origin::File,
    }
}

fn find_mut<'a>(
    running: &'a mut Running,
    service: &ServiceKey,
    key: &ServerKey,
) -> Option<&'a mut RunningServer> {
    running
        .services
        .get_mut(service)?
        .servers
        .iter_mut()
        .find(|s| s.key == *key)
}

/// What a reload of `new` has to do, when `last` was loaded before and `running` runs.
pub fn plan(last: &Rules, running: &Running, new: &Rules, discard_live: bool) -> Plan {
    let mut plan = Plan::default();
    plan_settings(
        &last.settings,
        &running.settings,
        &new.settings,
        discard_live,
        &mut plan,
    );
    plan_marks(last, running, new, discard_live, &mut plan);
    let keys: BTreeSet<&ServiceKey> = last
        .services
        .keys()
        .chain(running.services.keys())
        .chain(new.services.keys())
        .collect();
    for key in keys {
        let mut merge = Merge {
            key,
            discard_live,
            plan: &mut plan,
        };
        let (last, new) = (last.services.get(key), new.services.get(key));
        merge.service(last, running.services.get(key), new);
    }
    // Deletions free what additions may need.
    plan.actions.sort_by_key(|action| !action.deletes());
    plan
}

fn plan_settings(
    last: &Settings,
    running: &Settings,
    new: &Settings,
    discard: bool,
    plan: &mut Plan,
) {
    let mut wanted = *running;
    for setting in &SETTINGS {
        let [was, runs, wants] = [last, running, new].map(|s| (setting.get)(s));
        if runs == wants || (was == wants && !discard) {
            continue;
        }
        if runs == was || discard {
            (setting.set)(&mut wanted, wants);
        } else {
            let [runs, wants] = [runs, wants].map(|value| setting.show(value));
            let name = setting.name();
            plan.kept.push(format!(
                "{name} = {runs}: set live, the file now has {wants}"
            ));
        }
    }
    if wanted != *running {
        plan.actions.push(Action::SetSettings(wanted));
    }
}

fn plan_marks(last: &Rules, running: &Running, new: &Rules, discard: bool, plan: &mut Plan) {
    let all = last.marks.keys().chain(running.marks.keys());
    let rules: BTreeSet<&MarkMatch> = all.chain(new.marks.keys()).collect();
    for rule in rules {
        let (was, wants) = (last.marks.get(rule), new.marks.get(rule));
        let put = |mark: &u32| Action::PutMark {
            rule: rule.clone(),
            mark: *mark,
        };
        let action = match (running.marks.get(rule), wants) {
            (None, None) => continue,
            (None, Some(mark)) if was.is_none() || discard => put(mark),
            (None, Some(mark)) => {
                if was != Some(mark) {
                    let line = format!("mark of {rule}: changed in the file, but deleted live");
                    plan.kept.push(line);
                }
                continue;
            }
            (Some(runs), None) => {
                let untouched = runs.origin == Origin::File && was == Some(&runs.mark);
                if untouched || discard {
                    Action::DeleteMark { rule: rule.clone() }
                } else if was.is_none() {
                    continue;
                } else {
                    let line = format!(
                        "mark {} {rule}: gone from the file, but changed live",
                        runs.mark
                    );
                    plan.kept.push(line);
                    Action::SetMarkOrigin {
                        rule: rule.clone(),
                        origin: Origin::Live,
                    }
                }
            }
            (Some(runs), Some(mark)) => match meet(was, &runs.mark, runs.origin, mark, discard) {
                Meeting::Leave => continue,
                Meeting::Edit => put(mark),
                Meeting::Adopt => Action::SetMarkOrigin {
                    rule: rule.clone(),
                    origin: Origin::File,
                },
                Meeting::Conflict => {
                    let line = format!(
                        "mark {} {rule}: set live, the file now has {mark}",
                        runs.mark
                    );
                    plan.kept.push(line);
                    continue;
                }
            },
        };
        plan.actions.push(action);
    }
}

/// How one object of the file (a service or a server, without what hangs below it) meets the
/// running one. `T` is its attributes.
enum Meeting {
    /// Both sides are content.
    Leave,
    /// They agree, but the running one does not count as the file's yet.
    Adopt,
    /// The file's change is to be made.
    Edit,
    /// The file's change meets a live change.
    Conflict,
}

fn meet<T: PartialEq>(
    last: Option<&T>,
    running: &T,
    origin: Origin,
    new: &T,
    discard: bool,
) -> Meeting {
    if running == new {
        return if origin == Origin::File {
            Meeting::Leave
        } else {
            Meeting::Adopt
        };
    }
    let untouched = origin == Origin::File && last == Some(running);
    match last {
        _ if discard || untouched => Meeting::Edit,
        // The file did not change here; the difference is the operator's.
        Some(last) if last == new => Meeting::Leave,
        _ => Meeting::Conflict,
    }
}

struct Merge<'a> {
    key: &'a ServiceKey,
    discard_live: bool,
    plan: &'a mut Plan,
}

impl Merge<'_> {
    fn act(&mut self, action: Action) {
        self.plan.actions.push(action);
    }

    fn keep(&mut self, why: &str) {
        self.plan
            .kept
            .push(format!("service {} {why}", describe_service(self.key)));
    }

    fn keep_server(&mut self, server: &ServerKey, why: &str) {
        self.plan
            .kept
            .push(format!("{} {why}", name_both(self.key, server)));
    }

    fn set_origin(&mut self, server: Option<ServerKey>, origin: Origin) {
        self.act(Action::SetOrigin {
            service: *self.key,
            server,
            origin,
        });
    }

    fn service(
        &mut self,
        last: Option<&Service>,
        running: Option<&RunningService>,
        new: Option<&Service>,
    ) {
        match (last, running, new) {
            (_, None, None) => {}
            (None, None, Some(new)) => self.add(new),
            (Some(_), None, Some(new)) if self.discard_live => self.add(new),
            (Some(last), None, Some(new)) => {
                if last != new {
                    self.keep("deleted: changed in the file, but deleted live");
                }
            }
            (None, Some(_), None) if !self.discard_live => {}
            (_, Some(running), None) => self.remove(last, running),
            (last, Some(running), Some(new)) => self.merge(last, running, new),
        }
    }

    fn add(&mut self, new: &Service) {
        self.act(Action::AddService {
            key: *self.key,
            spec: new.spec.clone(),
        });
        for server in &new.servers {
            self.act(Action::AddServer {
                service: *self.key,
                server: server.clone(),
            });
        }
    }

    /// The service is gone from the file.
    fn remove(&mut self, last: Option<&Service>, running: &RunningService) {
        let touched =
            running.origin != Origin::File || last.is_none_or(|last| last.spec != running.spec);
        let live: Vec<&RunningServer> = running
            .servers
            .iter()
            .filter(|s| is_touched(last, s))
            .collect();
        if self.discard_live || (!touched && live.is_empty()) {
            self.act(Action::DeleteService { key: *self.key });
            return;
        }
        // From here on it is the operator's.
        self.set_origin(None, Origin::Live);
        if touched {
            self.keep("with its servers: gone from the file, but changed live");
        } else {
            self.keep(
                "with its live servers: gone from the file, but servers were added or changed live",
            );
        }
        for server in &running.servers {
            if touched || live.iter().any(|s| s.key == server.key) {
                self.set_origin(Some(server.key), Origin::Live);
            } else {
                self.act(Action::DeleteServer {
                    service: *self.key,
                    key: server.key,
                });
            }
        }
    }

    fn merge(&mut self, last: Option<&Service>, running: &RunningService, new: &Service) {
        let last_spec = last.map(|s| &s.spec);
        match meet(
            last_spec,
            &running.spec,
            running.origin,
            &new.spec,
            self.discard_live,
        ) {
            Meeting::Leave => {}
            Meeting::Adopt => self.set_origin(None, Origin::File),
            Meeting::Edit => {
                self.act(Action::EditService {
                    key: *self.key,
                    spec: new.spec.clone(),
                });
            }
            Meeting::Conflict => {
                let runs = describe_service_spec(&running.spec);
                let wants = describe_service_spec(&new.spec);
                self.keep(&format!("{runs}: set live, the file now has {wants}"));
            }
        }
        for server in &running.servers {
            if !new.servers.iter().any(|s| s.key == server.key) {
                self.remove_server(last, server);
            }
        }
        for server in &new.servers {
            let was = last.and_then(|s| s.servers.iter().find(|s| s.key == server.key));
            let runs = running.servers.iter().find(|s| s.key == server.key);
            self.server(was, runs, server);
        }
    }

    fn remove_server(&mut self, last: Option<&Service>, running: &RunningServer) {
        let was_in_file = last.is_some_and(|s| s.servers.iter().any(|s| s.key == running.key));
        if self.discard_live || (was_in_file && !is_touched(last, running)) {
            self.act(Action::DeleteServer {
                service: *self.key,
                key: running.key,
            });
        } else if was_in_file {
            self.keep_server(&running.key, "gone from the file, but changed live");
            self.set_origin(Some(running.key), Origin::Live);
        }
    }

    fn server(&mut self, last: Option<&Server>, running: Option<&RunningServer>, new: &Server) {
        let Some(running) = running else {
            match last {
                Some(last) if !self.discard_live => {
                    if last != new {
                        let why = "deleted: changed in the file, but deleted live";
                        self.keep_server(&new.key, why);
                    }
                }
                _ => self.act(Action::AddServer {
                    service: *self.key,
                    server: new.clone(),
                }),
            }
            return;
        };
        let [was, runs, wants] = [
            last.map(|s| (&s.spec, s.state)),
            Some((&running.spec, running.state)),
            Some((&new.spec, new.state)),
        ];
        let (Some(runs), Some(wants)) = (runs, wants) else {
            return;
        };
        match meet(
            was.as_ref(),
            &runs,
            running.origin,
            &wants,
            self.discard_live,
        ) {
            Meeting::Leave => {}
            Meeting::Adopt => self.set_origin(Some(new.key), Origin::File),
            Meeting::Edit => {
                self.act(Action::EditServer {
                    service: *self.key,
                    server: new.clone(),
                });
            }
            Meeting::Conflict => {
                let [runs, wants] =
                    [runs, wants].map(|(spec, state)| describe_server_spec(spec, state));
                self.keep_server(
                    &new.key,
                    &format!("{runs}: set live, the file now has {wants}"),
                );
            }
        }
    }
}

/// Whether a running server is not just as the last file had it.
fn is_touched(last: Option<&Service>, running: &RunningServer) -> bool {
    let was = last.and_then(|s| s.servers.iter().find(|s| s.key == running.key));
    running.origin != Origin::File
        || was.is_none_or(|was| was.spec != running.spec || was.state != running.state)
}

/// Lines for everything that differs between the running configuration and a new one and that a
/// reload cannot change. The rules are applied all the same.
pub fn needs_restart(running: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let (a, b) = (&running.dpdk, &new.dpdk);
    compare(&mut lines, "dpdk.memory", &a.memory, &b.memory);
    compare(&mut lines, "dpdk.memory_mb", &a.memory_mb, &b.memory_mb);
    compare(
        &mut lines,
        "dpdk.file_prefix",
        &a.file_prefix,
        &b.file_prefix,
    );
    compare(&mut lines, "dpdk.main_cores", &a.main_cores, &b.main_cores);
    compare(
        &mut lines,
        "dpdk.vdevs (with those of ports)",
        &a.vdevs,
        &b.vdevs,
    );
    compare(&mut lines, "dpdk.pci (with those of ports)", &a.pci, &b.pci);
    compare(&mut lines, "dpdk.iova", &a.iova, &b.iova);
    compare(&mut lines, "dpdk.log_level", &a.log_level, &b.log_level);
    let (one, other) = (a.single_file_segments, b.single_file_segments);
    compare(&mut lines, "dpdk.single_file_segments", &one, &other);
    compare(&mut lines, "dpdk.telemetry", &a.telemetry, &b.telemetry);
    compare(&mut lines, "dpdk.extra_args", &a.extra_args, &b.extra_args);
    let (a, b) = (&running.workers, &new.workers);
    compare(&mut lines, "workers.cores", &a.cores, &b.cores);
    compare(&mut lines, "workers.idle", &a.idle, &b.idle);
    compare(
        &mut lines,
        "workers.idle_spin_polls",
        &a.idle_spin_polls,
        &b.idle_spin_polls,
    );
    compare(
        &mut lines,
        "workers.idle_sleep_us",
        &a.idle_sleep,
        &b.idle_sleep,
    );
    compare(
        &mut lines,
        "workers.connections",
        &a.connections,
        &b.connections,
    );
    compare(
        &mut lines,
        "workers.max_services",
        &a.max_services,
        &b.max_services,
    );
    compare(
        &mut lines,
        "workers.max_servers",
        &a.max_servers,
        &b.max_servers,
    );
    compare(
        &mut lines,
        "workers.max_routes",
        &a.max_routes,
        &b.max_routes,
    );
    compare(
        &mut lines,
        "workers.max_neighbours",
        &a.max_neighbours,
        &b.max_neighbours,
    );
    let (a, b) = (&running.probes, &new.probes);
    compare(&mut lines, "health.probe_addresses", a, b);
    compare_ports(&mut lines, running, new);
    let (a, b) = (&running.kernel, &new.kernel);
    compare(&mut lines, "kernel.table", &a.table, &b.table);
    let (one, other) = (a.neighbour_refresh, b.neighbour_refresh);
    compare(&mut lines, "kernel.neighbour_refresh_s", &one, &other);
    compare(
        &mut lines,
        "kernel.netlink_buffer_kib",
        &a.netlink_buffer_kib,
        &b.netlink_buffer_kib,
    );
    let (a, b) = (&running.admin, &new.admin);
    compare(&mut lines, "admin.socket", &a.socket, &b.socket);
    let [one, other] = [a.mode, b.mode].map(|mode| format!("{mode:04o}"));
    compare(&mut lines, "admin.mode", &one, &other);
    compare(&mut lines, "admin.group", &a.group, &b.group);
    let (a, b) = (&running.state, &new.state);
    compare(&mut lines, "state.directory", &a.directory, &b.directory);
    compare(&mut lines, "state.table", &a.table, &b.table);
    let (a, b) = (&running.vrrp, &new.vrrp);
    if !a.instances.is_empty() {
        compare(
            &mut lines,
            "vrrp.rt_priority",
            &a.rt_priority,
            &b.rt_priority,
        );
    }
    let (a, b) = (&running.log, &new.log);
    compare(&mut lines, "log.format", &a.format, &b.format);
    compare(&mut lines, "log.filter", &a.filter, &b.filter);
    compare(&mut lines, "log.file", &a.file, &b.file);
    lines
}

fn compare<T: Debug + PartialEq>(lines: &mut Vec<String>, what: &str, running: &T, new: &T) {
    if running != new {
        lines.push(format!("{what} runs as {running:?}, the file has {new:?}"));
    }
}

fn compare_ports(lines: &mut Vec<String>, running: &Config, new: &Config) {
    for port in &running.ports {
        match new.ports.iter().find(|p| p.name == port.name) {
            None => lines.push(format!("port {} runs, the file has it no more", port.name)),
            Some(other) if other != port => {
                lines.push(format!("port {} is different in the file", port.name));
            }
            Some(_) => {}
        }
    }
    for port in &new.ports {
        if !running.ports.iter().any(|p| p.name == port.name) {
            lines.push(format!("port {} is new in the file", port.name));
        }
    }
    let common = |a: &Config, b: &Config| -> Vec<String> {
        let in_both = |p: &&super::Port| b.ports.iter().any(|q| q.name == p.name);
        a.ports
            .iter()
            .filter(in_both)
            .map(|p| p.name.clone())
            .collect()
    };
    compare(
        lines,
        "order of ports",
        &common(running, new),
        &common(new, running),
    );
}

/// What `rvsadm diff` prints: `-` is in the file only, `+` runs only, a line without either names
/// the service whose servers differ. Empty if file and running agree.
pub fn render_diff(file: &Rules, running: &Running) -> String {
    let mut out = String::new();
    for setting in &SETTINGS {
        let (name, wants) = (setting.name(), (setting.get)(&file.settings));
        let runs = (setting.get)(&running.settings);
        if wants != runs {
            let _ = writeln!(out, "- {name} = {}", setting.show(wants));
            let _ = writeln!(out, "+ {name} = {}", setting.show(runs));
        }
    }
    let running = running.to_rules();
    for (sign, rules, others) in [
        ('-', &file.marks, &running.marks),
        ('+', &running.marks, &file.marks),
    ] {
        let differing = rules
            .iter()
            .filter(|(rule, mark)| others.get(rule) != Some(mark));
        for (rule, mark) in differing {
            let _ = writeln!(out, "{sign} mark {mark} {rule}");
        }
    }
    let keys: BTreeSet<&ServiceKey> = file
        .services
        .keys()
        .chain(running.services.keys())
        .collect();
    for key in keys {
        render_service(
            &mut out,
            key,
            file.services.get(key),
            running.services.get(key),
        );
    }
    out
}

fn render_service(
    out: &mut String,
    key: &ServiceKey,
    file: Option<&Service>,
    running: Option<&Service>,
) {
    let name = describe_service(key);
    let head = |sign: char, service: &Service| {
        format!(
            "{sign} service {name} {}\n",
            describe_service_spec(&service.spec)
        )
    };
    let server = |sign: char, server: &Server| {
        let spec = describe_server_spec(&server.spec, server.state);
        format!("{sign}   server {} {spec}\n", describe_server(&server.key))
    };
    let same_spec = match (file, running) {
        (Some(file), Some(running)) => file.spec == running.spec,
        _ => false,
    };
    let mut body = String::new();
    let servers =
        |service: Option<&Service>| service.map(|s| s.servers.clone()).unwrap_or_default();
    let (in_file, runs) = (servers(file), servers(running));
    for one in in_file.iter().filter(|s| !runs.contains(s)) {
        body += &server('-', one);
        // The changed one right below what it was.
        if let Some(other) = runs.iter().find(|s| s.key == one.key) {
            body += &server('+', other);
        }
    }
    for one in runs
        .iter()
        .filter(|s| !in_file.iter().any(|f| f.key == s.key))
    {
        body += &server('+', one);
    }
    let order = |from: &[Server], other: &[Server]| -> Vec<ServerKey> {
        from.iter()
            .map(|s| s.key)
            .filter(|k| other.iter().any(|s| s.key == *k))
            .collect()
    };
    let (order_in_file, order_running) = (order(&in_file, &runs), order(&runs, &in_file));
    if order_in_file != order_running {
        for (sign, order) in [('-', order_in_file), ('+', order_running)] {
            let order: Vec<String> = order.iter().map(describe_server).collect();
            let _ = writeln!(body, "{sign}   order of adding {}", order.join(" "));
        }
    }
    if same_spec {
        if !body.is_empty() {
            let _ = writeln!(out, "  service {name}");
        }
    } else {
        *out += &file.map(|s| head('-', s)).unwrap_or_default();
        *out += &running.map(|s| head('+', s)).unwrap_or_default();
    }
    *out += &body;
}
