//! Schedulers and the TCP state machine, choice for choice and state for state, against
//! recordings of the kernel (`data/golden`).
//!
//! A model of connections stands in for the worker: it keeps the counts that schedulers look at
//! with the crate's own state machine, so a wrong transition shows up as a wrong choice.

use std::collections::HashMap;
use std::net::SocketAddr;

use dataplane::addr::{Addr, Endpoint};
use dataplane::counters::WorkerCounters;
use dataplane::flow::{Flow, Parsed};
use dataplane::proto::{self, Direction, Opening, tcp};
use dataplane::schedule::{self, Loads, Scheduler};
use dataplane::service::{
    DestId, Destination, ForwardingMethod, Protocol, ServiceId, ServiceKey, ServiceOptions, Tunnel,
    VirtualService,
};
use dataplane::settings::Settings;
use serde_json::Value;

mod support;

struct Connection {
    dest: usize,
    state: u8,
}

/// One service and what a worker would know of it.
struct Model {
    service: VirtualService,
    /// `None` while the service has a scheduler that this test leaves out.
    scheduler: Option<Box<dyn Scheduler>>,
    counters: WorkerCounters,
    /// By id: every destination there ever was.
    known: Vec<Destination>,
    connections: HashMap<Endpoint, Connection>,
    settings: Settings,
}

fn endpoint(text: &str) -> Endpoint {
    let addr: SocketAddr = text.parse().unwrap();
    Endpoint::new(addr.ip().into(), addr.port())
}

/// Options of one `ipvsadm` call: `-x value`, or `-x` alone.
struct Rule<'a>(Vec<&'a str>);

impl<'a> Rule<'a> {
    fn has(&self, option: &str) -> bool {
        self.0.contains(&option)
    }

    fn get(&self, option: &str) -> Option<&'a str> {
        let i = self.0.iter().position(|w| *w == option)?;
        self.0.get(i + 1).copied()
    }

    fn number(&self, option: &str, otherwise: u32) -> u32 {
        self.get(option).map_or(otherwise, |n| n.parse().unwrap())
    }
}

impl Model {
    fn new(settings: Settings) -> Model {
        Model {
            service: VirtualService {
                id: ServiceId(0),
                key: ServiceKey::new(Protocol::Tcp, Endpoint::new(Addr::UNSPECIFIED, 0)),
                scheduler: "rr",
                options: ServiceOptions::default(),
                destinations: Vec::new(),
            },
            scheduler: None,
            counters: WorkerCounters::new(64),
            known: Vec::new(),
            connections: HashMap::new(),
            settings,
        }
    }

    fn ipvsadm(&mut self, args: &str) {
        let rule = Rule(args.split_whitespace().collect());
        let old = self.service.clone();
        match rule.0[0] {
            "-A" => {
                let (protocol, vip) = match rule.get("-t") {
                    Some(vip) => (Protocol::Tcp, vip),
                    None => (Protocol::Udp, rule.get("-u").unwrap()),
                };
                self.service.key = ServiceKey::new(protocol, endpoint(vip));
                self.service.options.one_packet = rule.has("-o");
                self.use_scheduler(rule.get("-s").unwrap(), None);
                return;
            }
            "-E" => return self.use_scheduler(rule.get("-s").unwrap(), Some(&old)),
            "-a" | "-e" => {
                let dest = self.destination(&rule);
                match self
                    .service
                    .destinations
                    .iter_mut()
                    .find(|d| d.id == dest.id)
                {
                    Some(place) => *place = dest,
                    None => self.service.destinations.insert(0, dest),
                }
            }
            "-d" => {
                let gone = endpoint(rule.get("-r").unwrap());
                self.service.destinations.retain(|d| d.endpoint != gone);
            }
            other => panic!("{other}: not used in these recordings"),
        }
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.refresh(Some(&old), &self.service);
        }
    }

    fn use_scheduler(&mut self, name: &str, old: Option<&VirtualService>) {
        self.scheduler = schedule::new(name);
        // A name this test leaves out still counts as another scheduler.
        self.service.scheduler = schedule::find(name).unwrap_or("(other)");
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.refresh(old, &self.service);
        }
    }

    /// The destination of an `-a` or `-e`; a known endpoint keeps its id.
    fn destination(&mut self, rule: &Rule<'_>) -> Destination {
        let endpoint = endpoint(rule.get("-r").unwrap());
        let upper = rule.number("-x", 0);
        let lower = rule.number("-y", 0);
        let known = self.known.iter().position(|d| d.endpoint == endpoint);
        let id = known.unwrap_or(self.known.len());
        let dest = Destination {
            id: DestId(id as u32),
            endpoint,
            method: ForwardingMethod::Masquerade,
            weight: rule.number("-w", 1),
            upper,
            lower: if lower == 0 { upper - upper / 4 } else { lower },
            tunnel: Tunnel::default(),
        };
        match known {
            Some(i) => self.known[i] = dest.clone(),
            None => self.known.push(dest.clone()),
        }
        dest
    }

    /// One more connection (or one less) bound to a destination.
    fn bind(&mut self, dest: usize, more: bool) {
        let c = &self.counters.dests[dest];
        let total = if more {
            c.total.get() + 1
        } else {
            c.total.get() - 1
        };
        c.total.set(total);
        let Destination { upper, lower, .. } = self.known[dest];
        if more && upper > 0 && total >= upper {
            c.overloaded.set(1);
        } else if !more && total < lower {
            c.overloaded.set(0);
        }
    }

    fn advance(&mut self, client: &Endpoint, direction: Direction, flags: u8) {
        let protocol = self.service.key.protocol().unwrap();
        let conn = self.connections.get_mut(client).expect("a connection");
        let state = proto::advance(protocol, conn.state, direction, flags);
        let was = proto::is_active(protocol, conn.state);
        let is = proto::is_active(protocol, state);
        let c = &self.counters.dests[conn.dest];
        c.active
            .set(c.active.get() + u32::from(is) - u32::from(was));
        conn.state = state;
    }

    fn unbind(&mut self, client: &Endpoint) {
        if let Some(conn) = self.connections.remove(client) {
            if proto::is_active(self.service.key.protocol().unwrap(), conn.state) {
                let c = &self.counters.dests[conn.dest];
                c.active.set(c.active.get() - 1);
            }
            self.bind(conn.dest, false);
        }
    }

    /// A client's packet: the server it goes to.
    fn client(&mut self, flow: &Flow) -> Option<Endpoint> {
        let protocol = self.service.key.protocol().unwrap();
        let client = Endpoint::new(flow.src, flow.src_port);
        let reuse = self.settings.conn_reuse_mode != 0
            && proto::is_opening(protocol, flow.tcp_flags)
            && self.connections.get(&client).is_some_and(|c| {
                matches!(
                    tcp::State::from_number(c.state),
                    tcp::State::TimeWait | tcp::State::Close
                )
            });
        if reuse {
            self.unbind(&client);
        }
        if !self.connections.contains_key(&client) {
            if proto::may_open(protocol, flow, &self.settings) != Opening::Allowed {
                return None;
            }
            let scheduler = self.scheduler.as_mut().expect("a scheduler");
            let i = scheduler.pick(&self.service, Loads(&self.counters), flow)?;
            let dest = self.service.destinations[i].id.0 as usize;
            self.connections.insert(
                client,
                Connection {
                    dest,
                    state: proto::INITIAL_STATE,
                },
            );
            self.bind(dest, true);
        }
        self.advance(&client, Direction::Input, flow.tcp_flags);
        let dest = self.known[self.connections[&client].dest].endpoint;
        if self.service.options.one_packet {
            self.unbind(&client);
        }
        Some(dest)
    }

    /// Active and inactive connections of each destination in an `ipvsadm -Ln` listing.
    fn compare(&self, listing: &str, place: &str) {
        for line in listing
            .lines()
            .filter(|l| l.trim_start().starts_with("-> 1"))
        {
            let words: Vec<_> = line.split_whitespace().collect();
            let dest = self
                .known
                .iter()
                .find(|d| d.endpoint == endpoint(words[1]))
                .unwrap();
            let c = &self.counters.dests[dest.id.0 as usize];
            let (active, total) = (c.active.get(), c.total.get());
            let shown = format!("{} {active} {}", dest.weight, total - active);
            assert_eq!(shown, words[3..].join(" "), "{place}: {}", words[1]);
        }
    }
}

fn load(name: &str) -> Value {
    let path = format!(
        "{}/tests/data/golden/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap()
}

/// The recorded packet as a frame, parsed.
fn flow(step: &Value) -> Flow {
    let text = |key: &str| step[key].as_str().unwrap().to_owned();
    let flags: Vec<_> = step["flags"]
        .as_str()
        .unwrap_or("")
        .chars()
        .map(|c| match c {
            'F' => "fin",
            'S' => "syn",
            'R' => "rst",
            'P' => "psh",
            'A' => "ack",
            'U' => "urg",
            'E' => "ece",
            _ => "cwr",
        })
        .collect();
    let frame = support::notation::build(&format!(
        "eth 02:..:01 > 02:..:02 | ip {} > {} | {} {} > {} {}",
        text("src"),
        text("dst"),
        text("proto"),
        step["sport"],
        step["dport"],
        flags.join(" ")
    ));
    match Flow::parse(&frame, 0, frame.len() as u32) {
        Parsed::Ip(flow) => flow,
        other => panic!("{other:?}: {step}"),
    }
}

/// Replays a recording; returns how many packets were compared.
fn replay(name: &str) -> usize {
    let recording = load(name);
    let mut settings = Settings::default();
    for (key, value) in recording["sysctl"].as_object().unwrap() {
        let value = value
            .as_u64()
            .or_else(|| value.as_str()?.parse().ok())
            .unwrap();
        match key.as_str() {
            "conn_reuse_mode" => settings.conn_reuse_mode = value as u32,
            "sloppy_tcp" => settings.sloppy_tcp = value != 0,
            other => panic!("{name}: sysctl {other}"),
        }
    }
    let mut model = Model::new(settings);
    for rule in recording["rules"].as_array().unwrap() {
        model.ipvsadm(rule.as_str().unwrap());
    }
    let mut compared = 0;
    for (i, step) in recording["steps"].as_array().unwrap().iter().enumerate() {
        let place = format!("{name}, step {i}: {step}");
        if let Some(args) = step["ipvsadm"].as_str() {
            model.ipvsadm(args);
        } else if step["read"] == "ipvsadm -Ln" && model.scheduler.is_some() {
            model.compare(step["text"].as_str().unwrap(), &place);
        } else if step["from"] == "client" && model.scheduler.is_some() {
            let flow = flow(step);
            let to = model.client(&flow).map(|e| e.to_string());
            assert_eq!(to.as_deref(), step["to"].as_str(), "{place}");
            model.check_state(step, &Endpoint::new(flow.src, flow.src_port), &place);
            compared += 1;
        } else if step["from"] == "server" && !model.service.options.one_packet {
            let flow = flow(step);
            let client = Endpoint::new(flow.dst, flow.dst_port);
            model.advance(&client, Direction::Output, flow.tcp_flags);
            model.check_state(step, &client, &place);
            compared += 1;
        }
    }
    compared
}

impl Model {
    /// State and timeout right after a packet, where the recording has them. The kernel's
    /// listing cuts to whole seconds a moment later, so it shows one less.
    fn check_state(&self, step: &Value, client: &Endpoint, place: &str) {
        let Some(expected) = step["state_after"].as_str() else {
            return;
        };
        let state = self.connections[client].state;
        assert_eq!(proto::state_name(Protocol::Tcp, state), expected, "{place}");
        let ticks = proto::timeout_ticks(Protocol::Tcp, state, &self.settings.timeouts);
        let left = ticks / dataplane::time::secs(1) - 1;
        let shown = format!("{:02}:{:02}", left / 60, left % 60);
        assert_eq!(
            Some(shown.as_str()),
            step["expires_after"].as_str(),
            "{place}"
        );
    }
}

macro_rules! recordings {
    ($($test:ident $name:literal $least:literal,)*) => {
        $(#[test] fn $test() {
            let compared = replay($name);
            assert!(compared >= $least, "only {compared} packets compared");
        })*
    };
}

recordings! {
    rr_syn "rr-syn" 60,
    rr_close "rr-close" 200,
    rr_allzero "rr-allzero" 4,
    wrr_syn "wrr-syn" 60,
    wrr_close "wrr-close" 200,
    wrr_weights "wrr-weights" 120,
    lc_syn "lc-syn" 60,
    lc_close "lc-close" 200,
    wlc_syn "wlc-syn" 60,
    wlc_close "wlc-close" 200,
    wlc_allzero "wlc-allzero" 4,
    wlc_weights "wlc-weights" 120,
    wlc_threshold "wlc-threshold" 120,
    ops_wrr "ops-wrr" 30,
    tcp_states "tcp-states" 61,
    no_syn "no-syn" 1,
    no_syn_sloppy "no-syn-sloppy" 1,
    conn_reuse "conn-reuse" 1,
    conn_reuse_mode0 "conn-reuse-mode0" 1,
}

/// The service goes through every scheduler while its connections live; the counts come from
/// the recording for those that are not here yet.
#[test]
fn a_changed_scheduler_starts_anew() {
    let recording = load("scheduler-change");
    let mut model = Model::new(Settings::default());
    for rule in recording["rules"].as_array().unwrap() {
        model.ipvsadm(rule.as_str().unwrap());
    }
    let mut compared = 0;
    for (i, step) in recording["steps"].as_array().unwrap().iter().enumerate() {
        if let Some(args) = step["ipvsadm"].as_str() {
            model.ipvsadm(args);
        } else if let Some(to) = step["to"].as_str() {
            let flow = flow(step);
            if model.scheduler.is_some() {
                let chosen = model.client(&flow).unwrap().to_string();
                assert_eq!(chosen, to, "step {i}: {step}");
                compared += 1;
            } else {
                let dest = model
                    .known
                    .iter()
                    .position(|d| d.endpoint == endpoint(to))
                    .unwrap();
                let client = Endpoint::new(flow.src, flow.src_port);
                let state = proto::INITIAL_STATE;
                model.connections.insert(client, Connection { dest, state });
                model.bind(dest, true);
                model.advance(&client, Direction::Input, flow.tcp_flags);
            }
        }
    }
    assert_eq!(compared, 28);
}
