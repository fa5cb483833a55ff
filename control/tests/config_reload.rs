//! Reload as a three-way merge, `rvsadm diff` and `rvsadm save`.

use std::path::Path;

use control::api::{
    Method, Origin, Protocol, SchedFlags, ServerKey, ServerSpec, ServiceKey, ServiceSpec,
    ServiceTimeouts, Tunnel, TunnelChecksum, TunnelKind,
};
use control::config::{
    self, Action, Config, Host, OperatorState, Rules, Running, RunningServer, RunningService,
    Server, Service, needs_restart, plan, render_diff, save,
};

const HEAD: &str = "[[port]]\nname = \"front\"\naf_packet = \"f0\"\n";

fn parse(text: &str) -> Config {
    parse_at(Path::new("test.toml"), &format!("{HEAD}{text}"))
}

fn parse_at(path: &Path, text: &str) -> Config {
    let host = Host {
        online: vec![0, 1],
        isolated: vec![],
        memory_mb: None,
        ..Host::default()
    };
    config::parse(path, text, &host).unwrap_or_else(|mistakes| {
        panic!(
            "{}",
            mistakes
                .iter()
                .map(|m| format!("{m}\n"))
                .collect::<String>()
        )
    })
}

/// Rules in short: `web wlc: a=1 b=2` is a service with two servers and their weights.
fn rules(lines: &[&str]) -> Rules {
    let mut rules = Rules::default();
    for line in lines {
        let (head, servers) = line.split_once(':').expect("NAME SCHEDULER: SERVERS");
        let (name, scheduler) = head.split_once(' ').expect("NAME SCHEDULER");
        let spec = ServiceSpec {
            scheduler: scheduler.into(),
            ..Default::default()
        };
        let servers = servers.split_whitespace().map(|s| {
            let (name, weight) = s.split_once('=').expect("SERVER=WEIGHT");
            server(name, weight.parse().expect("a weight"))
        });
        rules.services.insert(
            service_key(name),
            Service {
                spec,
                servers: servers.collect(),
            },
        );
    }
    rules
}

/// `a` is 10.1.0.97, and so on.
fn server_key(name: &str) -> ServerKey {
    let addr = [10, 1, 0, name.as_bytes()[0]].into();
    ServerKey { addr, port: 80 }
}

fn server(name: &str, weight: u32) -> Server {
    let spec = ServerSpec {
        method: Method::Masq,
        weight,
        upper: 0,
        lower: 0,
        tunnel: Tunnel::default(),
    };
    Server {
        key: server_key(name),
        spec,
        state: OperatorState::Up,
    }
}

fn service_key(name: &str) -> ServiceKey {
    let addr = [10, 0, 0, name.as_bytes()[0]].into();
    ServiceKey::new(Protocol::Tcp, addr, 80)
}

/// What `rvsadm -e` and `-E` do.
fn set_weight(running: &mut Running, service: &str, server: &str, weight: u32) {
    edit_server(running, service, server, |spec| spec.weight = weight);
}

fn edit_server(
    running: &mut Running,
    service: &str,
    server: &str,
    change: impl FnOnce(&mut ServerSpec),
) {
    let service = running
        .services
        .get_mut(&service_key(service))
        .expect("the service runs");
    let key = server_key(server);
    let server = service
        .servers
        .iter_mut()
        .find(|s| s.key == key)
        .expect("the server runs");
    change(&mut server.spec);
    if server.origin == Origin::File {
        server.origin = Origin::FileChanged;
    }
}

fn set_scheduler(running: &mut Running, service: &str, scheduler: &str) {
    let service = running
        .services
        .get_mut(&service_key(service))
        .expect("the service runs");
    service.spec.scheduler = scheduler.into();
    if service.origin == Origin::File {
        service.origin = Origin::FileChanged;
    }
}

/// `-a`.
fn add_server(running: &mut Running, service: &str, name: &str, weight: u32) {
    let Server { key, spec, state } = server(name, weight);
    let server = RunningServer {
        key,
        spec,
        state,
        origin: Origin::Live,
    };
    let service = running
        .services
        .get_mut(&service_key(service))
        .expect("the service runs");
    service.servers.push(server);
}

/// `-A`.
fn add_service(running: &mut Running, name: &str, scheduler: &str) {
    let spec = ServiceSpec {
        scheduler: scheduler.into(),
        ..Default::default()
    };
    let service = RunningService {
        spec,
        origin: Origin::Live,
        servers: vec![],
    };
    running.services.insert(service_key(name), service);
}

/// `-d`.
fn delete_server(running: &mut Running, service: &str, name: &str) {
    let service = running
        .services
        .get_mut(&service_key(service))
        .expect("the service runs");
    service.servers.retain(|s| s.key != server_key(name));
}

/// Reloads and shows what `rvsadm reload` would say and what then runs.
fn reload(last: &Rules, running: &mut Running, new: &Rules, discard: bool) -> String {
    let plan = plan(last, running, new, discard);
    plan.apply_to(running);
    plan.summary()
}

fn check(last: &[&str], live: impl Fn(&mut Running), new: &[&str], said: &str, runs: &[&str]) {
    let (last, new) = (rules(last), rules(new));
    let mut running = last.to_running();
    live(&mut running);
    assert_eq!(reload(&last, &mut running, &new, false), said);
    assert_eq!(running.to_rules(), rules(runs));
    // The same file again has nothing left to do.
    assert_eq!(
        reload(&new, &mut running, &new, false),
        "nothing to change\n"
    );
    assert_eq!(running.to_rules(), rules(runs));
}

#[test]
fn changes_of_the_file_are_applied() {
    check(
        &["v rr: a=1 b=1", "w rr: a=1"],
        |_| {},
        &["v wlc: b=5 c=1", "x rr: a=1"],
        "deleted: service tcp 10.0.0.118:80 server 10.1.0.97:80\n\
         deleted: service tcp 10.0.0.119:80\n\
         changed: service tcp 10.0.0.118:80 scheduler wlc\n\
         changed: service tcp 10.0.0.118:80 server 10.1.0.98:80 method nat weight 5\n\
         added: service tcp 10.0.0.118:80 server 10.1.0.99:80 method nat weight 1\n\
         added: service tcp 10.0.0.120:80 scheduler rr\n\
         added: service tcp 10.0.0.120:80 server 10.1.0.97:80 method nat weight 1\n",
        &["v wlc: b=5 c=1", "x rr: a=1"],
    );
}

#[test]
fn live_changes_stay_where_the_file_does_not_change() {
    check(
        &["v rr: a=1 b=1"],
        |running| {
            set_weight(running, "v", "a", 7);
            delete_server(running, "v", "b");
            add_server(running, "v", "c", 3);
            add_service(running, "w", "lc");
            set_scheduler(running, "v", "wrr");
        },
        &["v rr: a=1 b=1 d=4"],
        "added: service tcp 10.0.0.118:80 server 10.1.0.100:80 method nat weight 4\n",
        &["v wrr: a=7 c=3 d=4", "w lc:"],
    );
}

#[test]
fn what_was_changed_live_and_back_is_still_the_operators() {
    check(
        &["v rr: a=1"],
        |running| {
            set_weight(running, "v", "a", 7);
            set_weight(running, "v", "a", 1);
        },
        &["v rr: a=2"],
        "kept: service tcp 10.0.0.118:80 server 10.1.0.97:80 method nat weight 1: set live, \
         the file now has method nat weight 2\n",
        &["v rr: a=1"],
    );
}

#[test]
fn conflicts_are_kept_and_named() {
    check(
        &["v rr: a=1 b=1 c=1"],
        |running| {
            set_scheduler(running, "v", "lc");
            set_weight(running, "v", "a", 7);
            delete_server(running, "v", "b");
            set_weight(running, "v", "c", 3);
            add_server(running, "v", "d", 4);
        },
        &["v wlc: a=2 b=2 d=5"],
        "kept: service tcp 10.0.0.118:80 scheduler lc: set live, the file now has scheduler wlc\n\
         kept: service tcp 10.0.0.118:80 server 10.1.0.99:80 gone from the file, but changed live\n\
         kept: service tcp 10.0.0.118:80 server 10.1.0.97:80 method nat weight 7: set live, \
         the file now has method nat weight 2\n\
         kept: service tcp 10.0.0.118:80 server 10.1.0.98:80 deleted: changed in the file, \
         but deleted live\n\
         kept: service tcp 10.0.0.118:80 server 10.1.0.100:80 method nat weight 4: set live, \
         the file now has method nat weight 5\n",
        &["v lc: a=7 c=3 d=4"],
    );
}

#[test]
fn a_service_that_the_file_drops_keeps_what_was_added_live() {
    check(
        &["v rr: a=1 b=1", "w rr: a=1", "x rr: a=1"],
        |running| {
            add_server(running, "v", "c", 1);
            set_scheduler(running, "w", "lc");
        },
        &[],
        "deleted: service tcp 10.0.0.118:80 server 10.1.0.97:80\n\
         deleted: service tcp 10.0.0.118:80 server 10.1.0.98:80\n\
         deleted: service tcp 10.0.0.120:80\n\
         kept: service tcp 10.0.0.118:80 with its live servers: gone from the file, \
         but servers were added or changed live\n\
         kept: service tcp 10.0.0.119:80 with its servers: gone from the file, but changed live\n",
        &["v rr: c=1", "w lc: a=1"],
    );
}

#[test]
fn a_service_deleted_live_comes_back_only_when_asked() {
    let (last, new) = (rules(&["v rr: a=1"]), rules(&["v rr: a=2"]));
    let mut running = Running::default();
    let said = "kept: service tcp 10.0.0.118:80 deleted: changed in the file, but deleted live\n";
    assert_eq!(reload(&last, &mut running, &new, false), said);
    assert!(running.services.is_empty());
    let said = "added: service tcp 10.0.0.118:80 scheduler rr\n\
                added: service tcp 10.0.0.118:80 server 10.1.0.97:80 method nat weight 2\n";
    assert_eq!(reload(&new, &mut running, &new, true), said);
    assert_eq!(running, new.to_running());
}

#[test]
fn what_is_added_to_both_becomes_the_files() {
    let (last, new) = (rules(&[]), rules(&["v rr: a=1"]));
    let mut running = Running::default();
    add_service(&mut running, "v", "rr");
    add_server(&mut running, "v", "a", 1);
    assert_eq!(
        reload(&last, &mut running, &new, false),
        "nothing to change\n"
    );
    assert_eq!(running, new.to_running(), "the origin is the file");
    // So that the file may drop it.
    reload(&new, &mut running, &last, false);
    assert_eq!(running, Running::default());
}

#[test]
fn settings_are_merged_one_by_one() {
    let last = parse("[ipvs]\ntcp_timeout = 100\nudp_timeout = 100\n").rules;
    let new = parse("[ipvs]\ntcp_timeout = 200\nudp_timeout = 200\nsloppy_tcp = true\n").rules;
    let mut running = last.to_running();
    running.settings.timeouts.tcp = 150;
    running.settings.timeouts.tcp_fin = 77;
    let said = "changed: settings\nkept: ipvs.tcp_timeout = 150: set live, the file now has 200\n";
    let mut kept = running.clone();
    assert_eq!(reload(&last, &mut kept, &new, false), said);
    let timeouts = kept.settings.timeouts;
    assert_eq!(
        (timeouts.tcp, timeouts.tcp_fin, timeouts.udp),
        (150, 77, 200)
    );
    assert!(kept.settings.sloppy_tcp);
    assert_eq!(
        reload(&last, &mut running, &new, true),
        "changed: settings\n"
    );
    assert_eq!(running.settings, new.settings);
}

#[test]
fn the_rest_needs_a_restart_and_says_so() {
    let text = "[workers]\nconnections = 5000\n[admin]\nmode = \"0660\"\n[[port]]\nname = \"b\"\nnull = {}\n";
    let (old, new) = (parse(""), parse(text));
    assert_eq!(needs_restart(&old, &old), [""; 0]);
    let expected = [
        "dpdk.vdevs (with those of ports) runs as \
         [\"net_af_packet0,iface=f0,blocksz=65536,framesz=2048,framecnt=8192\"], the file has \
         [\"net_af_packet0,iface=f0,blocksz=65536,framesz=2048,framecnt=8192\", \
         \"net_null0,size=64,no-rx=1\"]",
        "workers.connections runs as 1000000, the file has 5000",
        "port b is new in the file",
        "admin.mode runs as \"0600\", the file has \"0660\"",
    ];
    assert_eq!(needs_restart(&old, &new), expected);
    let mut plan = plan(&old.rules, &old.rules.to_running(), &new.rules, false);
    assert_eq!(plan.summary(), "nothing to change\n");
    plan.restart = needs_restart(&old, &new);
    assert!(
        plan.summary()
            .contains("needs restart: port b is new in the file\n")
    );
}

#[test]
fn diff_shows_the_file_against_what_runs() {
    let file = rules(&[
        "v rr: a=1 b=1 c=1",
        "w rr: a=1",
        "x rr: a=1",
        "z rr: a=1 b=1",
    ]);
    let mut running = file.to_running();
    assert_eq!(render_diff(&file, &running), "");
    running.settings.timeouts.tcp = 1200;
    running.settings.pmtu_disc = false;
    set_weight(&mut running, "v", "a", 7);
    delete_server(&mut running, "v", "b");
    add_server(&mut running, "v", "d", 1);
    set_scheduler(&mut running, "w", "lc");
    running.services.remove(&service_key("x"));
    add_service(&mut running, "y", "wlc");
    let z = running.services.get_mut(&service_key("z")).expect("z runs");
    z.servers[0].state = OperatorState::Drain;
    z.servers.reverse();
    let expected = "\
- ipvs.tcp_timeout = 900
+ ipvs.tcp_timeout = 1200
- ipvs.pmtu_disc = true
+ ipvs.pmtu_disc = false
  service tcp 10.0.0.118:80
-   server 10.1.0.97:80 method nat weight 1
+   server 10.1.0.97:80 method nat weight 7
-   server 10.1.0.98:80 method nat weight 1
+   server 10.1.0.100:80 method nat weight 1
- service tcp 10.0.0.119:80 scheduler rr
+ service tcp 10.0.0.119:80 scheduler lc
- service tcp 10.0.0.120:80 scheduler rr
-   server 10.1.0.97:80 method nat weight 1
+ service tcp 10.0.0.121:80 scheduler wlc
  service tcp 10.0.0.122:80
-   server 10.1.0.97:80 method nat weight 1
+   server 10.1.0.97:80 method nat weight 1 state drain
-   order of adding 10.1.0.97:80 10.1.0.98:80
+   order of adding 10.1.0.98:80 10.1.0.97:80
";
    assert_eq!(render_diff(&file, &running), expected);
}

/// Enough randomness for a test, the same on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn one_of<'a>(&mut self, names: &[&'a str]) -> &'a str {
        names[self.below(names.len() as u64) as usize]
    }

    fn rules(&mut self) -> Rules {
        let mut rules = Rules::default();
        rules.settings.timeouts.tcp = 900 + self.below(2) as u32;
        for name in ["v", "w", "x"] {
            if self.below(3) == 0 {
                continue;
            }
            let spec = ServiceSpec {
                scheduler: self.one_of(&["rr", "lc", "sh"]).into(),
                flags: SchedFlags(self.below(4) as u8),
                engine: (self.below(3) == 0).then(|| "sip".into()),
                timeouts: ServiceTimeouts {
                    tcp: 60 * self.below(2) as u32,
                    ..Default::default()
                },
                ..Default::default()
            };
            let mut servers = Vec::new();
            for name in ["a", "b", "c"] {
                if self.below(3) != 0 {
                    servers.push(server(name, self.below(2) as u32));
                }
            }
            if self.below(2) == 0 {
                servers.reverse();
            }
            rules
                .services
                .insert(service_key(name), Service { spec, servers });
        }
        rules
    }

    /// One that fits together.
    fn tunnel(&mut self) -> Tunnel {
        let (kind, port) = match self.below(3) {
            0 => (TunnelKind::Ipip, 0),
            1 => (TunnelKind::Gre, 0),
            _ => (TunnelKind::Gue, 6080 + self.below(2) as u16),
        };
        let checksum = match (kind, self.below(3)) {
            (TunnelKind::Ipip, _) | (_, 0) => TunnelChecksum::None,
            (TunnelKind::Gue, 1) => TunnelChecksum::Remote,
            _ => TunnelChecksum::Full,
        };
        Tunnel {
            kind,
            port,
            checksum,
        }
    }

    /// Some `rvsadm` calls.
    fn disturb(&mut self, running: &mut Running) {
        for _ in 0..self.below(6) {
            let (service, server) = (
                self.one_of(&["v", "w", "x"]),
                self.one_of(&["a", "b", "c", "d"]),
            );
            let there = running.services.get(&service_key(service));
            let has = there.is_some_and(|s| s.servers.iter().any(|s| s.key == server_key(server)));
            match (self.below(5), there.is_some(), has) {
                (_, false, _) => add_service(running, service, "lc"),
                (0, true, _) => drop(running.services.remove(&service_key(service))),
                (1, true, _) => set_scheduler(running, service, "wlc"),
                (2, true, true) => delete_server(running, service, server),
                (3, true, true) => {
                    let tunnel = self.tunnel();
                    edit_server(running, service, server, |spec| {
                        (spec.method, spec.tunnel) = (Method::Tunnel, tunnel);
                    });
                }
                (_, true, true) => set_weight(running, service, server, 5),
                (_, true, false) => add_server(running, service, server, 5),
            }
        }
        if self.below(3) == 0 {
            running.settings.timeouts.tcp = 5;
        }
    }
}

fn sorted(mut rules: Rules) -> Rules {
    rules
        .services
        .values_mut()
        .for_each(|s| s.servers.sort_by_key(|s| s.key));
    rules
}

fn live_objects(running: &Running, new: &Rules) -> Vec<(ServiceKey, RunningServer)> {
    let mut out = Vec::new();
    for (key, service) in &running.services {
        for server in service.servers.iter().filter(|s| s.origin != Origin::File) {
            let in_file = new
                .services
                .get(key)
                .and_then(|s| s.servers.iter().find(|s| s.key == server.key));
            // One that the file agrees with becomes the file's: all the same, but for the origin.
            if in_file.is_none_or(|s| s.spec != server.spec) {
                out.push((*key, server.clone()));
            }
        }
    }
    out
}

#[test]
fn merging_keeps_its_promises_for_random_files_and_live_changes() {
    for seed in 0..5000 {
        let mut dice = Dice(seed);
        let (last, new) = (dice.rules(), dice.rules());

        // Nobody changed anything live: the new file runs.
        let mut running = last.to_running();
        let quiet = plan(&last, &running, &new, false);
        quiet.apply_to(&mut running);
        assert_eq!(
            sorted(running.to_rules()),
            sorted(new.clone()),
            "seed {seed}"
        );
        assert_eq!(quiet.kept, [""; 0]);
        let deleted = |key: &ServerKey, of: &ServiceKey| {
            let same = Action::DeleteServer {
                service: *of,
                key: *key,
            };
            quiet.actions.contains(&same)
                || quiet.actions.contains(&Action::DeleteService { key: *of })
        };
        for action in &quiet.actions {
            if let Action::AddServer { service, server } = action {
                assert!(
                    !deleted(&server.key, service),
                    "seed {seed}: deleted to be added again"
                );
            }
        }

        // Live changes stay.
        let mut running = last.to_running();
        dice.disturb(&mut running);
        let before = running.clone();
        plan(&last, &running, &new, false).apply_to(&mut running);
        for (key, server) in live_objects(&before, &new) {
            let after = running.services.get(&key).map(|s| &s.servers);
            let after = after.and_then(|s| s.iter().find(|s| s.key == server.key));
            let spec = after.map(|s| &s.spec);
            assert_eq!(spec, Some(&server.spec), "seed {seed}");
        }
        let again = plan(&new, &running, &new, false);
        assert_eq!(
            again.actions,
            [],
            "seed {seed}: a reload is not finished after one run"
        );

        // Unless they are to be discarded.
        plan(&last, &running, &new, true).apply_to(&mut running);
        assert_eq!(
            sorted(running.to_rules()),
            sorted(new.clone()),
            "seed {seed}"
        );
        let services = running.services.values();
        assert!(
            services.clone().all(|s| s.origin == Origin::File),
            "seed {seed}"
        );
        assert!(
            services
                .flat_map(|s| &s.servers)
                .all(|s| s.origin == Origin::File),
            "seed {seed}"
        );
        assert_eq!(plan(&new, &running, &new, true).actions, [], "seed {seed}");
    }
}

#[test]
fn save_edits_in_place() {
    let text = r#"# my balancer
[[port]]                 # the only one
name = "front"
af_packet = "f0"

[ipvs]
tcp_timeout = 900        # a quarter of an hour
# udp_timeout = 300

# the shop
[[service]]
protocol = "tcp"
address = "10.0.0.118"
port = 80
scheduler = "rr"         # simple

# old machine
[[service.server]]
address = "10.1.0.97"
method = "masq"          # replies come back here
weight = 3               # of 10

# to be removed
[[service.server]]
address = "10.1.0.98"
method = "nat"

# going away
[[service]]
protocol = "tcp"
address = "10.0.0.119"
port = 80

# at the end
[log]
filter = "debug"
"#;
    let loaded = parse_at(Path::new("test.toml"), text);
    assert_eq!(
        save::render(&loaded, &loaded.rules).expect("it can be edited"),
        text
    );
    let mut running = loaded.rules.to_running();
    running.settings.timeouts.tcp = 1200;
    running.settings.timeouts.udp = 60;
    set_scheduler(&mut running, "v", "wlc");
    set_weight(&mut running, "v", "a", 7);
    delete_server(&mut running, "v", "b");
    add_server(&mut running, "v", "c", 1);
    running.services.remove(&service_key("w"));
    add_service(&mut running, "x", "lc");
    add_server(&mut running, "x", "a", 1);
    let expected = r#"# my balancer
[[port]]                 # the only one
name = "front"
af_packet = "f0"

[ipvs]
tcp_timeout = 1200        # a quarter of an hour
udp_timeout = 60
# udp_timeout = 300

# the shop
[[service]]
protocol = "tcp"
address = "10.0.0.118"
port = 80
scheduler = "wlc"         # simple

# old machine
[[service.server]]
address = "10.1.0.97"
method = "masq"          # replies come back here
weight = 7               # of 10

[[service.server]]
address = "10.1.0.99"
method = "nat"
weight = 1

# at the end
[log]
filter = "debug"

[[service]]
protocol = "tcp"
address = "10.0.0.120"
port = 80
scheduler = "lc"

[[service.server]]
address = "10.1.0.97"
method = "nat"
weight = 1
"#;
    let saved = save::render(&loaded, &running.to_rules()).expect("it can be edited");
    assert_eq!(saved, expected);
    assert_eq!(
        parse_at(Path::new("test.toml"), &saved).rules,
        running.to_rules()
    );
}

#[test]
fn whatever_runs_can_be_saved_and_read_back() {
    for seed in 0..500 {
        let mut dice = Dice(seed);
        let mut running = dice.rules().to_running();
        dice.disturb(&mut running);
        // From nothing, then from that to something else.
        let first = save::render(&parse(""), &running.to_rules()).expect("it can be edited");
        let first = parse_at(Path::new("test.toml"), &first);
        assert_eq!(
            first.rules,
            running.to_rules(),
            "seed {seed}:\n{}",
            first.text
        );
        dice.disturb(&mut running);
        for service in running.services.values_mut() {
            service.servers.reverse();
        }
        let second = save::render(&first, &running.to_rules()).expect("it can be edited");
        let second = parse_at(Path::new("test.toml"), &second);
        assert_eq!(
            second.rules,
            running.to_rules(),
            "seed {seed}:\n{}",
            second.text
        );
        assert_eq!(second.ports, first.ports);
    }
}

#[test]
fn inline_tables_can_be_saved() {
    let text = "service = [{ protocol = \"tcp\", address = \"10.0.0.118\", port = 80, \
                server = [{ address = \"10.1.0.97\" }] }]\nipvs = { tcp_timeout = 5 }\n";
    let loaded = parse_at(Path::new("test.toml"), &format!("{text}{HEAD}"));
    let mut running = loaded.rules.to_running();
    set_weight(&mut running, "v", "a", 9);
    add_server(&mut running, "v", "b", 9);
    add_service(&mut running, "w", "rr");
    running.settings.timeouts.tcp = 6;
    running.settings.timeouts.udp = 7;
    running.settings.punt_limits[0] = 8;
    let saved = save::render(&loaded, &running.to_rules()).expect("it can be edited");
    assert_eq!(
        parse_at(Path::new("test.toml"), &saved).rules,
        running.to_rules(),
        "{saved}"
    );
}

mod on_disk {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        path: PathBuf,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("rvsd.toml");
        fs::write(&path, format!("# kept\n[workers]\ncores = [0]\n{HEAD}"))
            .expect("it is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("it is ours");
        Place { dir, path }
    }

    impl Place {
        fn load(&self) -> Config {
            config::load(&self.path).unwrap_or_else(|m| panic!("{}", m[0]))
        }

        fn text(&self) -> String {
            fs::read_to_string(&self.path).expect("it is readable")
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.dir.path())
                .expect("it is readable")
                .flatten();
            let mut names: Vec<_> = entries
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        }
    }

    #[test]
    fn save_replaces_the_file_in_one_step_and_keeps_its_mode() {
        let place = place();
        let loaded = place.load();
        let before = fs::metadata(&place.path).expect("it is there");
        let mut running = loaded.rules.to_running();
        add_service(&mut running, "v", "rr");
        let saved = save::save(&loaded, &running).expect("it can be saved");
        assert_eq!(saved.rules, running.to_rules());
        assert_eq!(*saved.text, place.text());
        assert!(place.text().starts_with("# kept\n"));
        let after = fs::metadata(&place.path).expect("it is there");
        assert_eq!(after.permissions().mode() & 0o7777, 0o640);
        assert_ne!(after.ino(), before.ino());
        assert_eq!(place.names(), ["rvsd.toml"]);
        // What was saved counts as loaded: the next save and the next reload find nothing to do.
        let again = save::save(&saved, &running).expect("it can be saved");
        let unchanged = fs::metadata(&place.path).expect("it is there");
        assert_eq!(unchanged.ino(), after.ino());
        assert_eq!(again.rules, place.load().rules);
    }

    #[test]
    fn a_file_edited_by_hand_is_not_overwritten() {
        let place = place();
        let loaded = place.load();
        let mut running = loaded.rules.to_running();
        add_service(&mut running, "v", "rr");
        let edited = place.text() + "[ipvs]\ntcp_timeout = 5\n";
        fs::write(&place.path, &edited).expect("it is writable");
        let error = save::save(&loaded, &running)
            .expect_err("the edit would be lost")
            .to_string();
        assert!(error.ends_with("look at `rvsadm diff`, then `rvsadm reload` and save again"));
        assert_eq!(place.text(), edited);
        // Unless it says just what runs.
        running.services.clear();
        running.settings.timeouts.tcp = 5;
        let saved = save::save(&loaded, &running).expect("nothing is lost");
        assert_eq!(
            (place.text(), &*saved.text),
            (edited.clone(), edited.as_str())
        );
    }

    #[test]
    fn a_link_stays_a_link() {
        let place = place();
        let link = place.dir.path().join("link.toml");
        symlink(&place.path, &link).expect("links can be made");
        let loaded = config::load(&link).expect("it is valid");
        let mut running = loaded.rules.to_running();
        add_service(&mut running, "v", "rr");
        save::save(&loaded, &running).expect("it can be saved");
        assert!(
            fs::symlink_metadata(&link)
                .expect("it is there")
                .is_symlink()
        );
        assert!(place.text().contains("[[service]]"));
    }

    #[test]
    fn what_the_file_cannot_say_is_refused_and_changes_nothing() {
        let place = place();
        let loaded = place.load();
        let mut running = loaded.rules.to_running();
        add_service(&mut running, "v", "nonesuch");
        let before = place.text();
        let error = save::save(&loaded, &running)
            .expect_err("no such scheduler")
            .to_string();
        assert!(
            error.contains("scheduler \"nonesuch\" is unknown"),
            "{error}"
        );
        assert_eq!(
            (place.text(), place.names()),
            (before, vec!["rvsd.toml".to_owned()])
        );
    }

    #[test]
    fn a_directory_that_is_gone_is_an_error() {
        let place = place();
        let loaded = place.load();
        fs::remove_file(&place.path).expect("it is there");
        let error = save::save(&loaded, &Running::default()).expect_err("the file is gone");
        assert!(error.to_string().contains("cannot be found"), "{error}");
    }
}
