//! One service and its connections, without packets: what schedulers, thresholds and the state
//! machine decide, for comparison with recordings of the kernel.
//!
//! The counts are kept by the crate's own functions, so a wrong transition or a change that the
//! scheduler does not hear of shows up as a wrong choice.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use dataplane::addr::{Addr, Endpoint, Family};
use dataplane::changes::Changes;
use dataplane::counters::WorkerCounters;
use dataplane::dests::{self, DestState};
use dataplane::flow::Flow;
use dataplane::proto::{self, Direction, Opening, tcp};
use dataplane::schedule::{self, Loads, Predecessor, Request, Scheduler, Seat};
use dataplane::service::{
    DestId, Destination, Destinations, ForwardingMethod, Protocol, SchedulerFlags, ServiceId,
    ServiceKey, ServiceOptions, Tunnel, VirtualService,
};
use dataplane::settings::Settings;
use dataplane::time::{Instant, TICKS_PER_SECOND};

/// Most destinations of a recording.
const DESTS: usize = 1024;

/// Client, and what it talks to.
type Pair = (Endpoint, Endpoint);

struct Connection {
    dest: usize,
    state: u8,
    method: ForwardingMethod,
    protocol: Protocol,
    deadline: Instant,
}

/// One service and what a worker would know of it.
pub struct Model {
    service: VirtualService,
    scheduler: Option<Box<dyn Scheduler>>,
    counters: WorkerCounters,
    changes: Changes,
    /// By id: every destination there ever was.
    known: Vec<Destination>,
    states: Vec<DestState>,
    connections: HashMap<Pair, Connection>,
    pub settings: Settings,
    pub now: Instant,
}

/// `address:port`, or an address alone with port 0.
fn endpoint(text: &str) -> Endpoint {
    match text.parse::<SocketAddr>() {
        Ok(addr) => Endpoint::new(addr.ip().into(), addr.port()),
        Err(_) => Endpoint::new(super::rig::addr(text), 0),
    }
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

    fn options(&self) -> ServiceOptions {
        let flags: Vec<_> = self.get("-b").unwrap_or("").split(',').collect();
        let has = |name: &str| flags.iter().any(|f| f.ends_with(name));
        ServiceOptions {
            one_packet: self.has("-o"),
            flags: SchedulerFlags {
                fallback: has("-fallback") || has("flag-1"),
                port: has("-port") || has("flag-2"),
            },
            ..ServiceOptions::default()
        }
    }
}

impl Default for Model {
    fn default() -> Model {
        Model {
            service: VirtualService {
                id: ServiceId(0),
                key: ServiceKey::new(Protocol::Tcp, Endpoint::new(Addr::UNSPECIFIED, 0)),
                scheduler: "wlc",
                options: ServiceOptions::default(),
                destinations: Destinations::default(),
                withdrawn: Vec::new(),
            },
            scheduler: None,
            counters: WorkerCounters::new(DESTS),
            changes: Changes::new(1, DESTS),
            known: Vec::new(),
            states: Vec::new(),
            connections: HashMap::new(),
            settings: Settings::default(),
            now: Instant::from_secs(1000),
        }
    }
}

impl Model {
    /// One `ipvsadm` call.
    pub fn ipvsadm(&mut self, args: &str) {
        let rule = Rule(args.split_whitespace().collect());
        let old = self.service.clone();
        match rule.0[0] {
            command @ ("-A" | "-E") => {
                self.service.key = match (rule.get("-t"), rule.get("-u"), rule.get("-f")) {
                    (Some(vip), _, _) => ServiceKey::new(Protocol::Tcp, endpoint(vip)),
                    (_, Some(vip), _) => ServiceKey::new(Protocol::Udp, endpoint(vip)),
                    // The recordings have one service each, so that all packets have its mark.
                    (_, _, Some(mark)) => ServiceKey::Mark {
                        family: if rule.has("-6") {
                            Family::V6
                        } else {
                            Family::V4
                        },
                        mark: mark.parse().unwrap(),
                    },
                    _ => panic!("{args}: no service"),
                };
                self.service.options = rule.options();
                let name = rule.get("-s").unwrap_or("wlc");
                self.service.scheduler = schedule::find(name).expect("a known scheduler");
                return self.put((command == "-E").then_some(old));
            }
            "-a" | "-e" => {
                let dest = self.destination(&rule);
                let put =
                    |list: &mut Vec<Destination>| match list.iter_mut().find(|d| d.id == dest.id) {
                        Some(place) => *place = dest,
                        None => list.insert(0, dest),
                    };
                self.service.destinations.edit(put);
            }
            "-d" => {
                let gone = endpoint(rule.get("-r").unwrap());
                let list = &mut self.service.destinations;
                list.edit(|list| list.retain(|d| d.endpoint != gone));
            }
            other => panic!("{other}: not used in these recordings"),
        }
        self.put(Some(old));
    }

    /// What a worker does with a changed service.
    fn put(&mut self, old: Option<VirtualService>) {
        for dest in &self.service.destinations {
            let i = dest.id.0 as usize;
            self.states[i].configure(dest, None, &self.counters.dests[i], 0);
        }
        let mut fresh = schedule::new(&self.service, Seat::alone(1)).unwrap();
        let loads = Loads::new(&self.counters, &self.changes, self.service.id);
        match (&old, &mut self.scheduler) {
            (Some(service), Some(scheduler)) => {
                let kept = self.service.destinations.kept_of(&service.destinations);
                let before = Predecessor {
                    service,
                    scheduler: &mut **scheduler,
                    kept,
                };
                fresh.start(&self.service, loads, Some(before));
                let watch = fresh.watch();
                self.changes.follow(service, kept, &self.service, watch);
            }
            _ => {
                fresh.start(&self.service, loads, None);
                self.changes.begin(&self.service, fresh.watch());
            }
        }
        self.scheduler = Some(fresh);
    }

    /// The destination of an `-a` or `-e`; a known endpoint keeps its id.
    fn destination(&mut self, rule: &Rule<'_>) -> Destination {
        let endpoint = endpoint(rule.get("-r").unwrap());
        let known = self.known.iter().position(|d| d.endpoint == endpoint);
        let id = known.unwrap_or(self.known.len());
        let weight = rule.number("-w", 1);
        let last = known.map_or(0, |i| self.known[i].last_weight);
        let dest = Destination {
            id: DestId(id as u32),
            endpoint,
            method: match () {
                () if rule.has("-m") => ForwardingMethod::Masquerade,
                () if rule.has("-i") => ForwardingMethod::Tunnel,
                () => ForwardingMethod::DirectRoute,
            },
            weight,
            last_weight: if weight == 0 { last } else { weight },
            upper: rule.number("-x", 0),
            lower: rule.number("-y", 0),
            tunnel: Tunnel::default(),
        };
        match known {
            Some(i) => self.known[i] = dest.clone(),
            None => {
                self.known.push(dest.clone());
                self.states.push(DestState::default());
            }
        }
        dest
    }

    fn advance(&mut self, pair: &Pair, from_client: bool, flags: u8) {
        let conn = self.connections.get_mut(pair).expect("a connection");
        let direction = match (from_client, conn.method) {
            (false, _) => Direction::Output,
            (true, ForwardingMethod::Masquerade) => Direction::Input,
            (true, _) => Direction::InputOnly,
        };
        let state = proto::advance(conn.protocol, conn.state, direction, flags, None);
        let was = proto::is_active(conn.protocol, conn.state);
        let is = proto::is_active(conn.protocol, state);
        conn.state = state;
        let ticks = proto::timeout_ticks(conn.protocol, state, &self.settings.timeouts);
        let seconds = u64::from(ticks / TICKS_PER_SECOND);
        conn.deadline = self.now + Duration::from_secs(seconds);
        if was != is {
            let id = DestId(conn.dest as u32);
            dests::turn(&self.counters, &self.changes, id, is);
        }
    }

    fn unbind(&mut self, pair: &Pair) {
        if let Some(conn) = self.connections.remove(pair) {
            let active = proto::is_active(conn.protocol, conn.state);
            let id = DestId(conn.dest as u32);
            dests::unbind(&self.states, &self.counters, &self.changes, id, active);
        }
    }

    fn schedule(&mut self, flow: &Flow) -> Option<usize> {
        let scheduler = self.scheduler.as_mut().expect("a scheduler");
        let at = scheduler.pick(&Request {
            service: &self.service,
            loads: Loads::new(&self.counters, &self.changes, self.service.id),
            flow,
            is_quoted: false,
            now: self.now,
            settings: &self.settings,
        })?;
        let dest = self.service.destinations[at].id;
        dests::bind(&self.states, &self.counters, &self.changes, dest, true);
        Some(dest.0 as usize)
    }

    /// A client's packet: where it goes, as the recordings name it.
    pub fn client(&mut self, flow: &Flow) -> Option<String> {
        let protocol = Protocol::from_number(flow.protocol)?;
        let pair = (
            Endpoint::new(flow.src, flow.src_port),
            Endpoint::new(flow.dst, flow.dst_port),
        );
        let reuse = self.settings.conn_reuse_mode != 0
            && proto::is_opening(flow)
            && self.connections.get(&pair).is_some_and(|c| {
                matches!(
                    tcp::State::from_number(c.state),
                    tcp::State::TimeWait | tcp::State::Close
                )
            });
        if reuse {
            self.unbind(&pair);
        }
        if !self.connections.contains_key(&pair) {
            if proto::may_open(protocol, flow, &self.settings) != Opening::Allowed {
                return None;
            }
            let dest = self.schedule(flow)?;
            self.connections.insert(
                pair,
                Connection {
                    dest,
                    state: proto::INITIAL_STATE,
                    method: self.known[dest].method,
                    protocol,
                    deadline: self.now,
                },
            );
        }
        let (dest, method) = (self.connections[&pair].dest, self.connections[&pair].method);
        let id = self.known[dest].id;
        if !self.service.destinations.iter().any(|d| d.id == id) {
            // The server was deleted: dropped, while `expire_nodest_conn` is 0.
            return None;
        }
        self.advance(&pair, true, flow.tcp_flags);
        if self.service.options.one_packet {
            self.unbind(&pair);
        }
        let to = self.known[dest].endpoint;
        Some(match method {
            ForwardingMethod::Masquerade => to.to_string(),
            _ => to.addr.to_string(),
        })
    }

    /// Where answers seem to come from.
    fn virtual_(&self) -> Endpoint {
        let own = self.service.key.endpoint();
        own.unwrap_or(Endpoint::new(Addr::UNSPECIFIED, 0))
    }

    /// A server's answer. Those of one-packet services belong to nothing.
    pub fn server(&mut self, flow: &Flow) -> bool {
        let client = Endpoint::new(flow.dst, flow.dst_port);
        let pair = (client, self.virtual_());
        if self.connections.contains_key(&pair) {
            self.advance(&pair, false, flow.tcp_flags);
        }
        self.connections.contains_key(&pair)
    }

    /// Lets time pass; connections whose time is up end.
    pub fn sleep(&mut self, time: Duration) {
        self.now = self.now + time;
        let ended: Vec<Pair> = self
            .connections
            .iter()
            .filter(|(_, c)| c.deadline <= self.now)
            .map(|(pair, _)| *pair)
            .collect();
        for pair in ended {
            self.unbind(&pair);
        }
    }

    /// Weight, active and inactive connections of each destination in an `ipvsadm -Ln` listing.
    pub fn compare(&self, listing: &str, place: &str) {
        for line in listing
            .lines()
            .filter(|l| l.trim_start().starts_with("-> "))
        {
            let words: Vec<_> = line.split_whitespace().collect();
            if words[1].starts_with("Remote") {
                continue;
            }
            let shown_endpoint = endpoint(words[1]);
            let dest = self.known.iter().find(|d| d.endpoint == shown_endpoint);
            let dest = dest.unwrap_or_else(|| panic!("{place}: {}", words[1]));
            let c = &self.counters.dests[dest.id.0 as usize];
            let (active, total) = (c.active.get(), c.total.get());
            let shown = format!("{} {active} {}", dest.weight, total - active);
            assert_eq!(shown, words[3..].join(" "), "{place}: {}", words[1]);
        }
    }

    /// State and seconds left of a packet's connection.
    pub fn state(&self, flow: &Flow, from_client: bool) -> (&'static str, u64) {
        let ends = [
            Endpoint::new(flow.src, flow.src_port),
            Endpoint::new(flow.dst, flow.dst_port),
        ];
        let pair = if from_client {
            (ends[0], ends[1])
        } else {
            (ends[1], self.virtual_())
        };
        let conn = &self.connections[&pair];
        let name = proto::state_name(conn.protocol, conn.state);
        (name, conn.deadline.since(self.now).as_secs())
    }
}
