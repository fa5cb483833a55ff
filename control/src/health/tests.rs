//! The driver on loopback sockets.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use dataplane::service::Withdrawal;
use dataplane::settings::Settings;
use dataplane::time::Instant;
use healthcheck::check::http::Version;
use healthcheck::check::udp::Reply;
use healthcheck::monitor::Pace;
use mio::{Poll, Token, Waker};
use socket2::{Domain, Socket, Type};

use super::attempt::{Attempt, Ground, Peer, Ready};
use super::{Checks, Event, Health, Kind, Pool, Port, Report, Sorry, Spec, Via, Web};
use crate::api::{Method, Protocol, ServerKey, ServerSpec, ServiceKey, ServiceSpec, Tunnel};
use crate::config::OperatorState;
use crate::model::{Author, Change, Limits, Model};
use crate::script::Scripts;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A model with one service, and its health.
struct Bench {
    model: Model,
    health: Health,
    checks: BTreeMap<ServiceKey, Checks>,
    _poll: Poll,
}

fn service() -> ServiceKey {
    ServiceKey::new(Protocol::Tcp, [192, 0, 2, 1].into(), 80)
}

fn server(port: u16) -> ServerKey {
    ServerKey {
        addr: LOOPBACK,
        port,
    }
}

fn spec(kind: Kind) -> Spec {
    Spec {
        kind,
        pace: Pace {
            delay_loop: Duration::from_millis(30),
            delay_before_retry: Duration::from_millis(10),
            retry: 1,
            rise: 1,
            warmup: Duration::ZERO,
            deadline: Duration::from_secs(5),
            alpha: false,
        },
        addr: None,
        port: Port::Server,
        via: Via::Server,
        source: None,
        interface: None,
        fwmark: 0,
    }
}

fn page(path: &str) -> Kind {
    Kind::Http(Web {
        tls: None,
        paths: vec![path.into()],
        host: None,
        version: Version::Http10,
        statuses: Vec::new(),
        digest: None,
        regex: None,
        no_match: false,
        min_offset: 0,
        max_offset: 0,
    })
}

impl Bench {
    fn new(specs: Vec<Spec>) -> Bench {
        let mut bench = Bench::held(specs);
        bench.health.begin();
        bench
    }

    /// Nothing has begun.
    fn held(specs: Vec<Spec>) -> Bench {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let limits = Limits {
            services: 4,
            servers: 16,
            workers: 1,
        };
        let common = specs.into();
        let own = BTreeMap::new();
        let mut bench = Bench {
            model: Model::new(limits, Settings::default()),
            health: Health::start(waker, Scripts::default(), None).unwrap(),
            checks: BTreeMap::from([(
                service(),
                Checks {
                    common,
                    own,
                    pool: Pool::default(),
                },
            )]),
            _poll: poll,
        };
        let spec = ServiceSpec {
            scheduler: "rr".into(),
            ..ServiceSpec::default()
        };
        bench.change(Change::AddService(service(), spec));
        bench
    }

    fn change(&mut self, change: Change) {
        let now = Instant::from_secs(1);
        self.model
            .apply(now, Author::Operator, &change, &[])
            .unwrap();
        self.health.follow(now, &mut self.model, &self.checks, &[]);
    }

    fn add(&mut self, port: u16) {
        let spec = ServerSpec {
            method: Method::Masq,
            weight: 7,
            upper: 0,
            lower: 0,
            tunnel: Tunnel::default(),
        };
        self.change(Change::AddServer(
            service(),
            server(port),
            spec,
            OperatorState::Up,
        ));
    }

    fn weight(&self, port: u16) -> u32 {
        let service = self.model.view(service(), &[]).unwrap();
        let found = service.servers.iter().find(|s| s.key == server(port));
        found.unwrap().spec.weight
    }

    /// Takes what is told for so long.
    fn idle(&mut self, time: Duration) {
        let end = Clock::now() + time;
        while Clock::now() < end {
            self.health.take(&mut self.model);
            std::thread::yield_now();
        }
    }

    /// Waits until what is known of a server is like this.
    fn wait(&mut self, port: u16, what: impl Fn(&Report) -> bool) -> Report {
        let deadline = Clock::now() + Duration::from_secs(20);
        loop {
            self.health.take(&mut self.model);
            let subject = (service(), server(port));
            let state = self.health.states().find(|s| s.subject == subject);
            if let Some(state) = state.filter(|s| what(s)) {
                return state.clone();
            }
            assert!(Clock::now() < deadline, "the state stays {state:?}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn nothing_is_asked_before_packets_come_and_go() {
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut bench = Bench::held(vec![spec(Kind::Tcp)]);
    bench.add(port);
    bench.idle(Duration::from_millis(100));
    assert!(listener.accept().is_err(), "somebody asked");
    assert!(!bench.health.has_run());
    bench.health.begin();
    bench.wait(port, |report| {
        report.checks.iter().any(|check| check.has_run)
    });
    assert!(listener.accept().is_ok());
    assert!(bench.health.has_run());
}

/// Two servers that are checked, a sorry server, and how the first goes down and comes back.
#[test]
fn a_sorry_server_stands_in_while_there_is_no_quorum() {
    let first = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let second = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let [at, other] = [&first, &second].map(|l| l.local_addr().unwrap());
    let mut bench = Bench::new(vec![spec(Kind::Tcp)]);
    let pool = Pool {
        quorum: 14,
        sorry: Some(Sorry {
            server: server(9),
            spec: ServerSpec {
                method: Method::Masq,
                weight: Sorry::WEIGHT,
                ..ServerSpec::default()
            },
            inhibit: false,
        }),
        omega: true,
        ..Pool::default()
    };
    bench.checks.get_mut(&service()).unwrap().pool = pool;
    bench.add(at.port());
    bench.add(other.port());
    bench.wait(at.port(), |s| s.alive && has_run(s));
    bench.wait(other.port(), |s| s.alive && has_run(s));
    let ports = |bench: &Bench| {
        let servers = bench.model.view(service(), &[]).unwrap().servers;
        let mut ports: Vec<_> = servers
            .iter()
            .map(|s| (s.key.port, s.spec.weight))
            .collect();
        ports.sort_unstable();
        ports
    };
    let sorted = |mut ports: Vec<(u16, u32)>| {
        ports.sort_unstable();
        ports
    };
    let (a, b) = (at.port(), other.port());
    assert_eq!(ports(&bench), sorted(vec![(a, 7), (b, 7)]));
    bench.health.take_events();
    drop(first);
    bench.wait(a, |s| !s.alive);
    assert_eq!(ports(&bench), sorted(vec![(9, 1), (a, 0), (b, 0)]));
    let [down, lost] = &bench.health.take_events()[..] else {
        panic!("two events")
    };
    assert_eq!(
        *down,
        Event::Server {
            service: service(),
            server: server(a),
            up: false,
            why: Some("connection refused".into()),
        }
    );
    assert_eq!(
        *lost,
        Event::Quorum {
            service: service(),
            up: false,
            weight: 7,
            quorum: 14,
            sorry: Some(server(9)),
        }
    );
    let _first = TcpListener::bind(at).unwrap();
    bench.wait(a, |s| s.alive);
    assert_eq!(ports(&bench), sorted(vec![(a, 7), (b, 7)]));
    let ups = |events: Vec<Event>| {
        let up = |e: &Event| match e {
            Event::Server { up, .. } | Event::Quorum { up, .. } => *up,
        };
        events.iter().map(up).collect::<Vec<bool>>()
    };
    assert_eq!(ups(bench.health.take_events()), [true, true]);
    // Quorum goes by what the operator set, too.
    bench.change(Change::SetState(service(), server(b), OperatorState::Drain));
    assert_eq!(ports(&bench), sorted(vec![(9, 1), (a, 0), (b, 0)]));
    bench.change(Change::SetState(service(), server(b), OperatorState::Up));
    bench.health.take_events();
    // Omega: what ends is told to be down.
    bench.health.finish(&mut bench.model);
    assert_eq!(ups(bench.health.take_events()), [false, false, false]);
}

#[test]
fn a_failed_server_that_is_not_inhibited_leaves_the_table() {
    let closed = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let mut bench = Bench::new(vec![spec(Kind::Tcp)]);
    let checks = bench.checks.get_mut(&service()).unwrap();
    checks.pool.inhibit = false;
    bench.add(port);
    bench.wait(port, |s| !s.alive);
    let listed = |bench: &Bench| bench.model.view(service(), &[]).unwrap().servers.len();
    assert_eq!(listed(&bench), 0);
    // A reload of the file changes that at once.
    let checks = bench.checks.get_mut(&service()).unwrap();
    checks.pool.others.insert(server(port));
    let checks = checks.clone();
    let now = Instant::from_secs(2);
    let (health, model) = (&mut bench.health, &mut bench.model);
    health.follow_service(now, model, service(), Some(&checks), &[]);
    assert_eq!((listed(&bench), bench.weight(port)), (1, 0));
}

#[test]
fn nothing_is_checked_where_the_address_is_not() {
    let closed = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let mut bench = Bench::new(vec![spec(Kind::Tcp)]);
    let checks = bench.checks.get_mut(&service()).unwrap();
    checks.pool.ha_suspend = true;
    bench.add(port);
    // Twenty times the time in which it would have failed.
    bench.idle(Duration::from_millis(800));
    assert_eq!(bench.weight(port), 7);
    assert!(bench.health.pools().all(|p| p.suspended));
    let held = [service().addr().unwrap()].into();
    bench.model.set_local_addresses(held);
    bench.health.follow_addresses(&bench.model);
    bench.wait(port, |s| !s.alive);
    assert_eq!(bench.weight(port), 0);
}

#[test]
fn a_service_that_went_while_it_rested_is_checked_when_it_is_back() {
    let closed = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let mut bench = Bench::new(vec![spec(Kind::Tcp)]);
    let mut checks = bench.checks[&service()].clone();
    checks.pool.ha_suspend = true;
    bench.checks = BTreeMap::from([(service(), checks.clone())]);
    bench.add(port);
    assert!(bench.health.pools().all(|p| p.suspended));
    let (now, model) = (Instant::from_secs(1), &mut bench.model);
    bench
        .health
        .follow_service(now, model, service(), None, &[]);
    checks.pool.ha_suspend = false;
    bench
        .health
        .follow_service(now, model, service(), Some(&checks), &[]);
    bench.wait(port, |s| !s.alive);
}

fn has_run(report: &Report) -> bool {
    !report.checks.is_empty() && report.checks.iter().all(|c| c.has_run)
}

fn why(report: &Report) -> &str {
    report.checks[0].failure.as_deref().unwrap_or_default()
}

/// Answers every connection with this, in a thread that ends with the process.
fn answer_all(text: &'static str) -> u16 {
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1024];
            // The peer may be gone; the next one is served all the same.
            let _ = stream.read(&mut request);
            let _ = stream.write_all(text.as_bytes());
        }
    });
    port
}

#[test]
fn a_server_goes_down_and_comes_back() {
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    let mut bench = Bench::new(vec![spec(Kind::Tcp)]);
    bench.add(at.port());
    bench.wait(at.port(), |s| s.alive && has_run(s));
    assert_eq!(bench.weight(at.port()), 7);
    drop(listener);
    let down = bench.wait(at.port(), |s| !s.alive);
    assert_eq!(why(&down), "connection refused");
    assert_eq!(bench.weight(at.port()), 0);
    let _listener = TcpListener::bind(at).unwrap();
    bench.wait(at.port(), |s| s.alive);
    assert_eq!(bench.weight(at.port()), 7);
}

#[test]
fn a_failed_server_stays_failed_when_it_is_added_again() {
    let closed = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let mut bench = Bench::new(vec![spec(Kind::Tcp)]);
    bench.add(port);
    bench.wait(port, |s| !s.alive);
    let key = server(port);
    let now = Instant::from_secs(2);
    let delete = Change::DeleteServer(service(), key);
    bench
        .model
        .apply(now, Author::Operator, &delete, &[])
        .unwrap();
    // Control had no time between the two.
    bench.add(port);
    assert_eq!(bench.weight(port), 0);
    // Without checks nothing speaks against it.
    bench.checks.clear();
    bench
        .health
        .follow_service(now, &mut bench.model, service(), None, &[]);
    assert_eq!(bench.weight(port), 7);
    assert_eq!(bench.health.states().count(), 0);
}

#[test]
fn a_page_is_judged_and_alpha_waits_for_it() {
    let good = answer_all("HTTP/1.0 200 OK\r\n\r\nok");
    let bad = answer_all("HTTP/1.0 503 Busy\r\nContent-Length: 0\r\n\r\n");
    let mut check = spec(page("/"));
    check.pace.alpha = true;
    let mut bench = Bench::new(vec![check]);
    bench.add(good);
    assert_eq!(bench.weight(good), 0, "nothing is known yet");
    bench.wait(good, |s| s.alive);
    bench.add(bad);
    let down = bench.wait(bad, has_run);
    assert_eq!((down.alive, why(&down)), (false, "status 503 for /"));
    assert_eq!((bench.weight(good), bench.weight(bad)), (7, 0));
}

#[test]
fn silence_ends_at_the_deadline() {
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut check = spec(Kind::Smtp("lb.example".into()));
    check.pace.deadline = Duration::from_millis(50);
    let mut bench = Bench::new(vec![check]);
    bench.add(port);
    let down = bench.wait(port, |s| !s.alive);
    assert_eq!(why(&down), "no banner in time");
}

#[test]
fn datagrams_are_answered_or_refused() {
    let socket = UdpSocket::bind((LOOPBACK, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    let echo = socket.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((n, from)) = echo.recv_from(&mut buffer) {
            if &buffer[..n] == b"end" {
                return;
            }
            let _ = echo.send_to(&buffer[..n], from);
        }
    });
    let reply = Reply {
        bytes: vec![(b'h', 0xff)],
        ..Reply::default()
    };
    let mut bench = Bench::new(vec![spec(Kind::Udp(b"hello".to_vec(), Some(reply)))]);
    bench.add(port);
    bench.wait(port, |s| s.alive && has_run(s));
    let end = UdpSocket::bind((LOOPBACK, 0)).unwrap();
    end.send_to(b"end", SocketAddr::new(LOOPBACK, port))
        .unwrap();
    drop(socket);
    let down = bench.wait(port, |s| !s.alive);
    assert_eq!(why(&down), "connection refused");
}

#[test]
fn another_pace_goes_on_where_the_check_was() {
    let closed = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let mut bench = Bench::new(vec![spec(Kind::Tcp)]);
    bench.add(port);
    bench.wait(port, |s| !s.alive);
    let mut slower = spec(Kind::Tcp);
    slower.pace.delay_loop = Duration::from_secs(3600);
    // One that began anew would be up until then.
    slower.pace.warmup = Duration::from_secs(3600);
    let checks = Checks {
        common: vec![slower].into(),
        own: BTreeMap::new(),
        pool: Pool::default(),
    };
    bench.health.follow_service(
        Instant::from_secs(2),
        &mut bench.model,
        service(),
        Some(&checks),
        &[],
    );
    bench.idle(Duration::from_millis(300));
    let state = bench.wait(port, has_run);
    assert!(!state.alive, "a reload is no reason to trust it again");
    let _open = TcpListener::bind((LOOPBACK, port)).unwrap();
    bench.idle(Duration::from_millis(300));
    let state = bench.wait(port, has_run);
    assert!(!state.alive, "an hour has not passed");
    let (now, model) = (Instant::from_secs(3), &mut bench.model);
    let quick = &bench.checks[&service()];
    bench
        .health
        .follow_service(now, model, service(), Some(quick), &[]);
    bench.wait(port, |s| s.alive);
}

#[test]
fn everything_has_run_once_the_slowest_check_has() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let silent = silent
        .local_addr()
        .map(|addr| (addr.port(), silent))
        .unwrap();
    let quick = answer_all("HTTP/1.0 200 OK\r\n\r\n");
    let mut check = spec(page("/"));
    check.pace.deadline = Duration::from_secs(2);
    let mut bench = Bench::new(vec![check]);
    assert!(bench.health.has_run(), "there is nothing to wait for");
    bench.add(quick);
    bench.add(silent.0);
    assert!(!bench.health.has_run(), "nothing is known yet");
    bench.wait(quick, has_run);
    assert!(!bench.health.has_run(), "one still waits for its page");
    bench.wait(silent.0, has_run);
    assert!(bench.health.has_run());
}

#[test]
fn a_connection_that_does_not_stand_yet_is_no_success() {
    // Has room for one that nobody takes. The others get no answer to their SYN.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::new(LOOPBACK, 0).into()).unwrap();
    full.listen(0).unwrap();
    let addr = full.local_addr().unwrap().as_socket().unwrap();
    let poll = Poll::new().unwrap();
    let mut ground = Ground {
        registry: poll.registry(),
        path: None,
        now: healthcheck::Instant(0),
    };
    let (spec, peer) = (spec(Kind::Tcp), Peer { addr, way: None });
    let mut attempts = Vec::new();
    for number in 0..4 {
        let asks = spec.kind.converse(addr, number).unwrap();
        let begun = Attempt::begin(&mut ground, Token(1), &spec, peer, asks, None);
        attempts.push(begun.ok().unwrap());
    }
    // Readiness may be that of another connection.
    let ready = |attempt: &mut Attempt| attempt.on_ready(&mut ground, &spec, Ready::BOTH);
    let verdicts: Vec<bool> = attempts
        .iter_mut()
        .map(ready)
        .map(|v| v.is_some())
        .collect();
    assert!(verdicts[0] && !verdicts[3], "{verdicts:?}");
}

#[test]
fn an_attempt_that_was_under_way_says_nothing_once_checks_rest() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut hasty = spec(page("/"));
    hasty.pace.deadline = Duration::from_millis(400);
    let mut bench = Bench::new(vec![hasty]);
    bench.checks.get_mut(&service()).unwrap().pool.ha_suspend = true;
    let held = [service().addr().unwrap()].into();
    bench.model.set_local_addresses(held);
    bench.add(port);
    let (_asked, _) = silent.accept().unwrap();
    bench.model.set_local_addresses([].into());
    bench.health.follow_addresses(&bench.model);
    bench.idle(Duration::from_millis(1200));
    assert_eq!(
        bench.weight(port),
        7,
        "the deadline came while checks rested"
    );
    // Nor is anything asked meanwhile.
    silent.set_nonblocking(true).unwrap();
    assert!(silent.accept().is_err());
}

#[test]
fn clients_leave_a_failed_server_unless_the_file_says_otherwise() {
    for reschedule in [true, false] {
        let mut bench = Bench::new(vec![spec(Kind::Tcp)]);
        bench.checks.get_mut(&service()).unwrap().pool.reschedule = reschedule;
        let closed = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let port = closed.local_addr().unwrap().port();
        drop(closed);
        bench.add(port);
        bench.wait(port, |s| !s.alive);
        let server = bench.model.server_of(service(), server(port)).unwrap();
        let wanted = reschedule.then_some(Withdrawal::Failed);
        assert_eq!(server.weights.withdrawal(), wanted);
    }
}

#[test]
fn an_end_is_told_only_to_who_asked_for_it() {
    for omega in [true, false] {
        let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut bench = Bench::new(vec![spec(Kind::Tcp)]);
        bench.checks.get_mut(&service()).unwrap().pool.omega = omega;
        bench.add(port);
        bench.wait(port, |s| s.alive && has_run(s));
        bench.health.take_events();
        bench.health.finish(&mut bench.model);
        // The server, and the quorum.
        assert_eq!(bench.health.take_events().len(), if omega { 2 } else { 0 });
    }
}
