//! The real loop on a real socket, with fake workers on a thread of their own.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant as WallClock;

use dataplane::command::Command;

use super::*;
use crate::api::{self, ErrorKind, FrameDecoder, Request, Response};
use crate::config;
use crate::fake::FakeWorker;
use crate::host::FixedHost;
use crate::recovery::rules::Kept;
use crate::server::{BindError, Limits};
use crate::state::{Parts, Version};
use crate::status::PortHandle;
use crate::workers::Workers;

const PATIENCE: Duration = Duration::from_secs(20);

const FILE: &str = r#"
[dpdk]
memory = "no-huge"

[workers]
max_services = 4

[[port]]
name = "p0"
null = {}

[[service]]
protocol = "tcp"
address = "10.0.0.1"
port = 80
scheduler = "wlc"

[[service.server]]
address = "192.168.0.1"
port = 8080
method = "nat"
weight = 2
"#;

/// A daemon without a data plane, in a directory of its own.
struct Rig {
    dir: tempfile::TempDir,
    handle: Handle,
    reactor: Option<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    /// While set, workers take no command.
    pause: Arc<AtomicBool>,
    /// Reloads asked for as SIGHUP does.
    hups: Arc<AtomicU32>,
}

impl Rig {
    fn start() -> Rig {
        Rig::with(FILE, 0, Limits::default())
    }

    fn with(file: &str, connections: u32, limits: Limits) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rvs.toml"), file).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let pause = Arc::new(AtomicBool::new(false));
        let hups = Arc::new(AtomicU32::new(0));
        let mut ends = Vec::new();
        let mut workers = Vec::new();
        for _ in 0..2 {
            let (end, mut fake) = FakeWorker::new(64);
            fake.connections = connections / 2;
            ends.push(end);
            let (stop, pause) = (Arc::clone(&stop), Arc::clone(&pause));
            workers.push(std::thread::spawn(move || {
                while !stop.load(Relaxed) {
                    if !pause.load(Relaxed) {
                        fake.run();
                    }
                    std::thread::park_timeout(Duration::from_micros(100));
                }
            }));
        }
        let (tell, told) = mpsc::channel();
        let path = dir.path().to_owned();
        let asked = Arc::clone(&hups);
        let reactor = std::thread::spawn(move || {
            let mut reactor = reactor(&path, ends, limits);
            tell.send(reactor.handle()).unwrap();
            let mut done = 0;
            while reactor.turn().unwrap() {
                let wanted = asked.load(Relaxed);
                if done < wanted {
                    done = wanted;
                    reactor.reload();
                }
            }
        });
        let handle = told.recv().unwrap();
        Rig {
            dir,
            handle,
            reactor: Some(reactor),
            workers,
            stop,
            pause,
            hups,
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("rvs.toml")
    }

    fn client(&self) -> Client {
        let stream = UnixStream::connect(self.dir.path().join("sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client {
            stream,
            decoder: FrameDecoder::new(),
        }
    }

    fn ask(&self, request: Request) -> Response {
        self.client().ask(request)
    }

    fn services(&self) -> Vec<api::ServiceView> {
        match self.ask(Request::ListServices { service: None }) {
            Response::Services { services, .. } => services,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until `done` holds.
    fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = WallClock::now() + PATIENCE;
        while !done() {
            assert!(WallClock::now() < deadline, "waited in vain for: {what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.handle.stop();
        for thread in self
            .reactor
            .take()
            .into_iter()
            .chain(self.workers.drain(..))
        {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "a thread of the rig panicked"
            );
        }
    }
}

fn reactor(dir: &Path, ends: Vec<dataplane::command::ControlEnd>, limits: Limits) -> Reactor {
    let now = clock::now();
    let config = config::load(&dir.join("rvs.toml")).unwrap();
    let parts = Parts {
        surroundings: crate::vrrp::Surroundings::default(),
        workers: Workers::new(ends),
        cores: vec![0, 1],
        ports: vec![PortHandle {
            name: "p0".into(),
            device: "net_null0".into(),
            driver: "net_null".into(),
            twin: "rvs-p0".into(),
            mac: "02:00:00:00:00:01".into(),
            mtu: 1500,
            offloads: Vec::new(),
            offers: Vec::new(),
            node: None,
            counters: Default::default(),
        }],
        pools: Vec::new(),
        host: Box::new(FixedHost::new([ip("10.0.0.1")])),
        version: Version {
            version: "0.1.0".into(),
            ..Version::default()
        },
        table_size: 4096,
        steering: String::new(),
        nodes: Vec::new(),
        log_dropped: Default::default(),
        probes: None,
        scripts: Default::default(),
        notifier: Default::default(),
    };
    let model = crate::recovery::from_file(now, &config).unwrap();
    let state = State::new(now, config, model, parts);
    let server = Server::bind(&dir.join("sock"), 0o600, None, limits).unwrap();
    let mut reactor = Reactor::new(now, server, state).unwrap();
    reactor.keep_rules(dir.join("rules.json"), [7; 16]).unwrap();
    reactor
}

struct Client {
    stream: UnixStream,
    decoder: FrameDecoder,
}

impl Client {
    fn send(&mut self, request: Request) {
        self.stream
            .write_all(&api::encode_request(request))
            .unwrap();
    }

    /// The next frame, `None` at the end of the stream.
    fn next(&mut self) -> Option<Response> {
        let mut buffer = [0; 65536];
        loop {
            if let Some(payload) = self.decoder.next().unwrap() {
                return Some(serde_json::from_slice(&payload).unwrap());
            }
            match self.stream.read(&mut buffer).unwrap() {
                0 => return None,
                n => self.decoder.push(&buffer[..n]),
            }
        }
    }

    fn answer(&mut self) -> Response {
        self.next()
            .expect("an answer, not the end of the connection")
    }

    fn ask(&mut self, request: Request) -> Response {
        self.send(request);
        self.answer()
    }

    fn connections(&mut self) -> Vec<api::ConnectionRow> {
        self.send(Request::ListConnections);
        let mut all = Vec::new();
        loop {
            let Response::Connections { rows, more } = self.answer() else {
                panic!()
            };
            assert!(rows.len() <= api::ROWS_PER_FRAME);
            all.extend(rows);
            if !more {
                return all;
            }
        }
    }
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn key(port: u16) -> api::ServiceKey {
    api::ServiceKey::new(api::Protocol::Tcp, ip("10.0.0.1"), port)
}

fn add(port: u16) -> Request {
    let spec = api::ServiceSpec {
        scheduler: "rr".into(),
        ..Default::default()
    };
    Request::AddService {
        service: key(port),
        spec,
    }
}

fn add_server(port: u16, last: u8) -> Request {
    Request::AddServer {
        service: key(port),
        server: api::ServerKey {
            addr: IpAddr::from([192, 168, 0, last]),
            port: 80,
        },
        spec: api::ServerSpec {
            method: api::Method::Masq,
            weight: 1,
            upper: 0,
            lower: 0,
            tunnel: api::Tunnel::default(),
        },
    }
}

fn ok() -> Response {
    Response::Ok {
        warnings: Vec::new(),
    }
}

fn refused(response: Response) -> (ErrorKind, String) {
    match response {
        Response::Error { error, message } => (error, message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn services_are_added_listed_and_deleted() {
    let rig = Rig::start();
    let mut client = rig.client();
    let services = rig.services();
    assert_eq!(services.len(), 1, "the one of the file");
    assert_eq!(
        (services[0].live, services[0].origin),
        (true, api::Origin::File)
    );
    assert_eq!(services[0].servers[0].spec.weight, 2);
    assert_eq!(client.ask(add(81)), ok());
    assert_eq!(client.ask(add_server(81, 1)), ok());
    assert_eq!(client.ask(add_server(81, 2)), ok());
    assert_eq!(refused(client.ask(add(81))).0, ErrorKind::ServiceExists);
    assert_eq!(
        refused(client.ask(add_server(82, 2))).0,
        ErrorKind::ServiceNotDefined
    );
    let services = rig.services();
    let new = services.iter().find(|s| s.key == key(81)).unwrap();
    let lasts: Vec<_> = new.servers.iter().map(|s| s.key.addr.to_string()).collect();
    assert_eq!(lasts, ["192.168.0.2", "192.168.0.1"], "newest first");
    let away = api::ServiceKey::new(api::Protocol::Tcp, ip("10.9.9.9"), 80);
    let spec = api::ServiceSpec {
        scheduler: "rr".into(),
        ..Default::default()
    };
    match client.ask(Request::AddService {
        service: away,
        spec,
    }) {
        Response::Ok { warnings } => assert!(warnings[0].contains("10.9.9.9"), "{warnings:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        client.ask(Request::DeleteService { service: key(81) }),
        ok()
    );
    assert_eq!(client.ask(Request::Zero { service: None }), ok());
    assert_eq!(client.ask(Request::Clear), ok());
    assert!(rig.services().is_empty());
}

#[test]
fn timeouts_status_and_version_are_answered() {
    let rig = Rig::start();
    let mut client = rig.client();
    assert_eq!(
        client.ask(Request::SetTimeouts {
            tcp: 0,
            tcp_fin: 7,
            udp: 0
        }),
        ok()
    );
    assert_eq!(
        client.ask(Request::GetTimeouts),
        Response::Timeouts {
            tcp: 900,
            tcp_fin: 7,
            udp: 300
        }
    );
    let Response::Status(status) = client.ask(Request::Status) else {
        panic!()
    };
    assert_eq!(
        (status.workers.len(), status.services, status.servers),
        (2, 1, 1)
    );
    assert!(matches!(
        client.ask(Request::Version),
        Response::Version { .. }
    ));
}

#[test]
fn sysctls_are_live_changes_that_a_diff_shows() {
    let rig = Rig::start();
    let mut client = rig.client();
    let rows = |rows: &[(&str, &str)]| Response::Sysctls {
        rows: rows
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
    };
    let set = |name: &str, value: &str| Request::Sysctl {
        set: vec![(name.to_owned(), value.to_owned())],
        names: Vec::new(),
    };
    assert_eq!(
        client.ask(set("net.ipv4.vs.secure_tcp", "3")),
        rows(&[("secure_tcp", "3")])
    );
    let (kind, message) = refused(client.ask(set("conntrack", "1")));
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(message.starts_with("sysctl conntrack stays 0"), "{message}");
    let Response::Text { text } = client.ask(Request::Diff) else {
        panic!()
    };
    assert_eq!(text, "- ipvs.secure_tcp = 0\n+ ipvs.secure_tcp = 3\n");
    let Response::Stats { workers, .. } = client.ask(Request::Stats) else {
        panic!()
    };
    assert_eq!(workers.len(), 2);
}

#[test]
fn a_change_is_answered_when_all_workers_have_it_or_as_busy() {
    let rig = Rig::start();
    assert_eq!(rig.ask(add(81)), ok());
    rig.pause.store(true, Relaxed);
    let mut waiting = rig.client();
    waiting.send(add(82));
    // Others are served meanwhile, and what waits is part of the desired state.
    rig.until("the new service is wanted", || rig.services().len() == 3);
    let (kind, message) = refused(waiting.answer());
    assert_eq!(kind, ErrorKind::Busy);
    assert!(message.contains("queued"), "{message}");
    let mut later = rig.client();
    later.send(Request::DeleteService { service: key(82) });
    rig.until("the service is not wanted any more", || {
        rig.services().len() == 2
    });
    rig.pause.store(false, Relaxed);
    assert_eq!(later.answer(), ok());
}

#[test]
fn requests_of_a_connection_are_answered_in_order() {
    let rig = Rig::start();
    let mut client = rig.client();
    let mut bytes = Vec::new();
    for request in [add(81), Request::GetTimeouts, add(81), Request::Version] {
        bytes.extend(api::encode_request(request));
    }
    // In pieces, so that frames and reads do not coincide.
    for piece in bytes.chunks(37) {
        client.stream.write_all(piece).unwrap();
    }
    assert_eq!(client.answer(), ok());
    assert!(matches!(client.answer(), Response::Timeouts { .. }));
    assert_eq!(refused(client.answer()).0, ErrorKind::ServiceExists);
    assert!(matches!(client.answer(), Response::Version { .. }));
}

#[test]
fn a_request_that_ends_with_its_connection_half_closed_is_answered() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send(add(81));
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer(), ok());
    assert_eq!(client.next(), None);
}

#[test]
fn bad_requests_are_told_and_harm_nobody() {
    let rig = Rig::start();
    let mut bystander = rig.client();
    assert_eq!(bystander.ask(add(81)), ok());

    let mut garbage = rig.client();
    let payload = b"{\"version\":1,\"request\":{\"op\":\"make-coffee\"}}";
    garbage
        .stream
        .write_all(&(payload.len() as u32).to_be_bytes())
        .unwrap();
    garbage.stream.write_all(payload).unwrap();
    let (kind, message) = refused(garbage.answer());
    assert_eq!(kind, ErrorKind::Malformed);
    assert!(message.contains("make-coffee"), "{message}");
    assert!(matches!(
        garbage.ask(Request::Version),
        Response::Version { .. }
    ));

    let mut old = rig.client();
    let frame = api::encode(&api::RequestFrame {
        version: 999,
        request: Request::Version,
    });
    old.stream.write_all(&frame).unwrap();
    assert_eq!(refused(old.answer()).0, ErrorKind::Version);

    let mut oversized = rig.client();
    oversized.stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert_eq!(refused(oversized.answer()).0, ErrorKind::Malformed);
    assert_eq!(oversized.next(), None);

    // All of it can be sent, and then the reason read.
    let mut flood = rig.client();
    flood.stream.write_all(&(2u32 << 20).to_be_bytes()).unwrap();
    flood.stream.write_all(&vec![b'x'; 2 << 20]).unwrap();
    assert_eq!(refused(flood.answer()).0, ErrorKind::Malformed);
    assert_eq!(flood.next(), None);

    let mut half = rig.client();
    half.stream
        .write_all(&api::encode_request(add(99))[..20])
        .unwrap();
    half.stream.shutdown(Shutdown::Write).unwrap();
    let (kind, message) = refused(half.answer());
    assert_eq!(kind, ErrorKind::Malformed);
    assert!(message.contains("ended inside"), "{message}");
    assert_eq!(half.next(), None);

    assert_eq!(
        bystander.ask(Request::DeleteService { service: key(81) }),
        ok()
    );
}

#[test]
fn a_client_that_stops_inside_a_request_is_ended() {
    let limits = Limits {
        stall: Duration::from_millis(10),
        ..Limits::default()
    };
    let rig = Rig::with(FILE, 0, limits);
    let mut half = rig.client();
    half.stream.write_all(&[0, 0]).unwrap();
    let (kind, message) = refused(half.answer());
    assert_eq!(kind, ErrorKind::Malformed);
    assert!(message.contains("did not come"), "{message}");
    assert_eq!(half.next(), None);
}

#[test]
fn an_unused_connection_is_ended() {
    let limits = Limits {
        idle: Duration::from_millis(10),
        ..Limits::default()
    };
    let rig = Rig::with(FILE, 0, limits);
    assert_eq!(rig.client().next(), None);
}

#[test]
fn more_clients_than_allowed_are_refused_by_name() {
    let rig = Rig::with(
        FILE,
        0,
        Limits {
            clients: 2,
            ..Limits::default()
        },
    );
    let mut first = rig.client();
    let mut second = rig.client();
    assert!(matches!(
        first.ask(Request::Version),
        Response::Version { .. }
    ));
    assert!(matches!(
        second.ask(Request::Version),
        Response::Version { .. }
    ));
    let mut third = rig.client();
    let (kind, message) = refused(third.answer());
    assert_eq!(kind, ErrorKind::Busy);
    assert!(message.contains("2 admin clients"), "{message}");
    assert!(matches!(
        first.ask(Request::Version),
        Response::Version { .. }
    ));
    drop(second);
    rig.until("room for another client", || {
        let mut next = rig.client();
        next.send(Request::Version);
        matches!(next.next(), Some(Response::Version { .. }))
    });
}

#[test]
fn a_hundred_thousand_connections_are_listed_past_a_stalled_client() {
    const CONNECTIONS: u32 = 100_000;
    let rig = Rig::with(FILE, CONNECTIONS, Limits::default());
    let mut stalled = rig.client();
    stalled.send(Request::ListConnections);
    let mut gone = rig.client();
    gone.send(Request::ListConnections);
    assert!(matches!(
        gone.answer(),
        Response::Connections { more: true, .. }
    ));
    drop(gone);
    let rows = rig.client().connections();
    assert_eq!(rows.len(), CONNECTIONS as usize);
    let clients: BTreeSet<_> = rows.iter().map(|row| row.client).collect();
    assert_eq!(
        clients.len(),
        CONNECTIONS as usize / 2,
        "each worker has the same clients"
    );
    assert_eq!(rig.ask(add(81)), ok());
    // The stalled one goes on where it stopped.
    let mut all = 0;
    while let Response::Connections { rows, more } = stalled.answer() {
        all += rows.len();
        if !more {
            break;
        }
    }
    assert_eq!(all, CONNECTIONS as usize);
}

#[test]
fn a_client_that_never_reads_is_dropped() {
    let limits = Limits {
        reading: Duration::from_millis(10),
        ..Limits::default()
    };
    let rig = Rig::with(FILE, 100_000, limits);
    let mut stalled = rig.client();
    stalled.send(Request::ListConnections);
    assert!(matches!(
        stalled.answer(),
        Response::Connections { more: true, .. }
    ));
    let probe = stalled.stream.try_clone().unwrap();
    probe.set_nonblocking(true).unwrap();
    // Once the daemon has closed, writing fails; nothing is read until then.
    rig.until(
        "the daemon gives up",
        || matches!((&probe).write(&[0]), Err(e) if e.kind() == io::ErrorKind::BrokenPipe),
    );
    assert_eq!(rig.ask(add(81)), ok());
}

#[test]
fn a_listing_waits_for_a_slow_reader_while_half_requests_are_ended() {
    const CONNECTIONS: u32 = 100_000;
    let limits = Limits {
        stall: Duration::from_millis(10),
        ..Limits::default()
    };
    let rig = Rig::with(FILE, CONNECTIONS, limits);
    let mut slow = rig.client();
    slow.send(Request::ListConnections);
    assert!(matches!(
        slow.answer(),
        Response::Connections { more: true, .. }
    ));
    // It began to stall later than the slow one to read, and both were looked at.
    let mut half = rig.client();
    half.stream.write_all(&[0, 0]).unwrap();
    assert_eq!(refused(half.answer()).0, ErrorKind::Malformed);
    let mut frames = 1;
    while let Response::Connections { more: true, .. } = slow.answer() {
        frames += 1;
    }
    assert!(frames > CONNECTIONS as usize / api::ROWS_PER_FRAME / 2);
    assert!(matches!(
        slow.ask(Request::Version),
        Response::Version { .. }
    ));
}

#[test]
fn requests_are_not_taken_from_who_reads_no_answers() {
    let rig = Rig::start();
    let mut greedy = rig.client();
    greedy.stream.set_nonblocking(true).unwrap();
    let mut asked = Vec::new();
    for _ in 0..1000 {
        asked.extend(api::encode_request(Request::Status));
    }
    // The daemon stops reading: what it does not take stays here.
    let (mut sent, mut full_since) = (0, WallClock::now());
    while full_since.elapsed() < Duration::from_millis(100) {
        let from = sent % asked.len();
        match greedy.stream.write(&asked[from..]) {
            Ok(n) => {
                sent += n;
                full_since = WallClock::now();
            }
            Err(_) => std::thread::yield_now(),
        }
        assert!(sent < 64 << 20, "it takes requests without end");
    }
    let frame = api::encode_request(Request::Status).len();
    greedy.stream.set_nonblocking(false).unwrap();
    for _ in 0..sent / frame {
        assert!(matches!(greedy.answer(), Response::Status(_)));
    }
}

#[test]
fn a_reload_changes_what_the_file_changed_and_keeps_live_changes() {
    let rig = Rig::start();
    assert_eq!(rig.ask(add(81)), ok());
    let text = FILE.replace("weight = 2", "weight = 5");
    std::fs::write(rig.file(), &text).unwrap();
    match rig.ask(Request::Diff) {
        Response::Text { text } => assert!(text.contains("10.0.0.1:81"), "{text}"),
        other => panic!("{other:?}"),
    }
    match rig.ask(Request::Reload {
        discard_live: false,
    }) {
        Response::Text { text } => assert!(text.contains("weight 5"), "{text}"),
        other => panic!("{other:?}"),
    }
    let services = rig.services();
    assert_eq!(services.len(), 2);
    let weight = |services: &[api::ServiceView]| {
        services.iter().find(|s| s.key == key(80)).unwrap().servers[0]
            .spec
            .weight
    };
    assert_eq!(weight(&services), 5);
    match rig.ask(Request::Save) {
        Response::Text { text } => assert!(text.starts_with("saved to"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert!(
        std::fs::read_to_string(rig.file())
            .unwrap()
            .contains("port = 81")
    );
    assert!(rig.services().iter().all(|s| s.origin == api::Origin::File));
    match rig.ask(Request::Diff) {
        Response::Text { text } => assert!(!text.contains("10.0.0.1:81"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.ask(add(82)), ok());
    rig.ask(Request::Reload { discard_live: true });
    assert_eq!(rig.services().len(), 2, "82 was live");
}

#[test]
fn what_needs_a_restart_is_told_until_it_came() {
    let rig = Rig::start();
    let told = "needs restart: workers.max_services runs as 4, the file has 5\n";
    std::fs::write(
        rig.file(),
        FILE.replace("max_services = 4", "max_services = 5"),
    )
    .unwrap();
    let reload = Request::Reload {
        discard_live: false,
    };
    for request in [Request::Diff, reload.clone(), reload.clone(), Request::Diff] {
        assert_eq!(text(rig.ask(request)), told);
    }
    std::fs::write(rig.file(), FILE).unwrap();
    assert_eq!(text(rig.ask(Request::Diff)), "");
    assert_eq!(text(rig.ask(reload)), "nothing to change\n");
}

#[test]
fn a_reload_that_fails_leaves_everything_as_it_was() {
    let rig = Rig::start();
    for port in 81..84 {
        assert_eq!(rig.ask(add(port)), ok());
    }
    let before = rig.services();
    let second = "\n[[service]]\nprotocol = \"udp\"\naddress = \"10.0.0.1\"\nport = 53\n";
    for (file, expected) in [
        (FILE.replace("wlc", "wlcc"), "wlcc"),
        (FILE.replace("weight = 2", "wieght = 3\nwidth = 1"), "width"),
        ("[[[".to_owned(), "rvs.toml"),
        // Right in itself, but with what was added live it is one service too many.
        (
            FILE.replace("weight = 2", "weight = 9") + second,
            "max_services",
        ),
    ] {
        std::fs::write(rig.file(), &file).unwrap();
        let (kind, message) = refused(rig.ask(Request::Reload {
            discard_live: false,
        }));
        assert_eq!(kind, ErrorKind::Config, "{message}");
        assert!(message.contains(expected), "{message}");
        assert_eq!(rig.services(), before);
    }
    std::fs::remove_file(rig.file()).unwrap();
    assert_eq!(
        refused(rig.ask(Request::Reload {
            discard_live: false
        }))
        .0,
        ErrorKind::Config
    );
    assert_eq!(refused(rig.ask(Request::Save)).0, ErrorKind::Config);
    assert_eq!(rig.services(), before);
}

#[test]
fn a_hangup_reloads() {
    let rig = Rig::start();
    std::fs::write(rig.file(), FILE.replace("weight = 2", "weight = 6")).unwrap();
    rig.hups.fetch_add(1, Relaxed);
    rig.until("the new weight", || {
        rig.services()[0].servers[0].spec.weight == 6
    });
    std::fs::write(rig.file(), "nonsense").unwrap();
    rig.hups.fetch_add(1, Relaxed);
    // The file thread takes one job after another: this one comes after the hangup's.
    rig.ask(Request::Diff);
    assert_eq!(rig.services()[0].servers[0].spec.weight, 6);
}

/// A loop without a thread: the test makes its turns, and its workers'.
struct Bench {
    dir: tempfile::TempDir,
    reactor: Reactor,
    fakes: Vec<FakeWorker>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rvs.toml"), FILE).unwrap();
        let (ends, fakes) = (0..2).map(|_| FakeWorker::new(64)).unzip();
        let reactor = reactor(dir.path(), ends, Limits::default());
        Bench {
            dir,
            reactor,
            fakes,
        }
    }

    fn client(&mut self) -> Client {
        let stream = UnixStream::connect(self.dir.path().join("sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let clients = self.reactor.server.len();
        self.until("the client is known", |b| b.reactor.server.len() > clients);
        Client {
            stream,
            decoder: FrameDecoder::new(),
        }
    }

    /// Makes turns of the loop, not of the workers.
    fn until(&mut self, what: &str, done: impl Fn(&Bench) -> bool) {
        let deadline = WallClock::now() + PATIENCE;
        while !done(self) {
            assert!(WallClock::now() < deadline, "waited in vain for: {what}");
            self.reactor.turn().unwrap();
        }
    }

    /// Makes turns of all until nothing is under way.
    fn settle(&mut self) {
        loop {
            self.fakes.iter_mut().for_each(FakeWorker::run);
            self.reactor.turn().unwrap();
            let Reactor { admin, state, .. } = &self.reactor;
            let is_waiting = state.workers.is_waiting() || admin.waits_for_disk(state);
            if !is_waiting && !self.reactor.hurry {
                return;
            }
        }
    }

    fn services(&self) -> u64 {
        self.reactor.state.model.counts().0
    }
}

#[test]
fn a_refusal_is_told_to_the_client_that_caused_it() {
    let mut bench = Bench::new();
    bench.settle();
    let mut later = bench.client();
    let mut first = bench.client();
    first.send(add(81));
    bench.until("the first change", |b| b.services() == 2);
    later.send(add(82));
    bench.until("the second change", |b| b.services() == 3);
    bench.fakes[1].refuse = |command| {
        matches!(command, Command::PutService { service, .. } if service.key.port() == 81)
            .then_some("not today")
    };
    bench.settle();
    let (kind, message) = refused(first.answer());
    assert_eq!(kind, ErrorKind::Failed);
    assert!(
        message.contains("worker 1 refused the change: not today"),
        "{message}"
    );
    assert_eq!(later.answer(), ok());
}

/// Whether the service manager was told READY since it was asked last.
fn ready(told: &mpsc::Receiver<String>) -> bool {
    told.try_iter().filter(|state| state == "READY=1").count() > 0
}

#[test]
fn a_reload_by_signal_is_over_when_the_workers_have_it() {
    let mut bench = Bench::new();
    let (tell, told) = mpsc::channel();
    bench.reactor.manager = ServiceManager::new(false, move |states| {
        for state in states {
            tell.send(state.to_string()).unwrap();
        }
    });
    bench.settle();
    bench.settle();
    assert!(ready(&told), "after the start");

    let weight = |weight: &str| FILE.replace("weight = 2", weight);
    std::fs::write(bench.dir.path().join("rvs.toml"), weight("weight = 6")).unwrap();
    bench.reactor.reload();
    let began = told.try_recv();
    assert_eq!(began.as_deref(), Ok("RELOADING=1"));
    bench.until("the change is under way", |b| {
        b.reactor.state.workers.is_waiting()
    });
    for _ in 0..3 {
        bench.reactor.turn().unwrap();
    }
    assert!(!ready(&told), "no worker has it yet");
    bench.settle();
    assert!(ready(&told));

    // A mistake changes nothing, which is done at once.
    std::fs::write(bench.dir.path().join("rvs.toml"), "nonsense").unwrap();
    bench.reactor.reload();
    let deadline = WallClock::now() + PATIENCE;
    while !ready(&told) {
        assert!(WallClock::now() < deadline, "the failed reload ends");
        bench.reactor.turn().unwrap();
    }
}

fn capture(rig: &Rig, packets: u64) -> Request {
    Request::Capture {
        port: "p0".into(),
        file: rig
            .dir
            .path()
            .join("frames.pcapng")
            .to_str()
            .unwrap()
            .into(),
        filter: String::new(),
        packets,
        seconds: 0,
    }
}

fn text(response: Response) -> String {
    match response {
        Response::Text { text } => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_capture_ends_at_its_limit_by_request_or_with_its_connection() {
    let rig = Rig::start();
    let mut client = rig.client();
    assert!(matches!(
        client.ask(capture(&rig, 3)),
        Response::Started { .. }
    ));
    let summary = text(client.answer());
    assert!(
        summary.starts_with("3 packets captured (3 received"),
        "{summary}"
    );
    assert!(summary.contains("packet limit"), "{summary}");
    assert!(
        std::fs::metadata(rig.dir.path().join("frames.pcapng"))
            .unwrap()
            .len()
            > 200
    );

    assert!(matches!(
        client.ask(capture(&rig, 0)),
        Response::Started { .. }
    ));
    assert_eq!(refused(rig.ask(capture(&rig, 0))).0, ErrorKind::Busy);
    let told = text(rig.ask(Request::StopCapture));
    assert!(told.contains("ended: stopped"), "{told}");
    assert_eq!(text(client.answer()), told, "both are told");
    assert_eq!(refused(rig.ask(Request::StopCapture)).0, ErrorKind::Failed);

    assert!(matches!(
        client.ask(capture(&rig, 0)),
        Response::Started { .. }
    ));
    drop(client);
    rig.until("the capture without a client has ended", || {
        matches!(rig.client().ask(capture(&rig, 1)), Response::Started { .. })
    });
}

#[test]
fn a_capture_that_cannot_begin_is_refused() {
    let rig = Rig::start();
    let with = |change: &dyn Fn(&mut String, &mut String, &mut String)| {
        let Request::Capture {
            mut port,
            mut file,
            mut filter,
            packets,
            seconds,
        } = capture(&rig, 1)
        else {
            panic!()
        };
        change(&mut port, &mut file, &mut filter);
        refused(rig.ask(Request::Capture {
            port,
            file,
            filter,
            packets,
            seconds,
        }))
    };
    assert!(
        with(&|port, _, _| *port = "p9".into())
            .1
            .contains("p0, any")
    );
    assert!(
        with(&|_, file, _| *file = "here".into())
            .1
            .contains("absolute")
    );
    assert!(
        with(&|_, _, filter| *filter = "tcp or".into())
            .1
            .contains("missing at its end")
    );
    let (kind, message) = with(&|_, file, _| file.push_str("/no/such"));
    assert_eq!(kind, ErrorKind::Failed);
    assert!(message.contains("no/such"), "{message}");
}

#[test]
fn one_daemon_owns_a_socket() {
    let rig = Rig::start();
    let path = rig.dir.path().join("sock");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let second = Server::bind(&path, 0o600, None, Limits::default());
    assert!(matches!(second, Err(BindError::Running { .. })));
    assert!(rig.services().len() == 1, "the first goes on");

    let stale = rig.dir.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let server = Server::bind(&stale, 0o660, None, Limits::default()).unwrap();
    assert_eq!(
        std::fs::metadata(&stale).unwrap().permissions().mode() & 0o777,
        0o660
    );
    drop(server);
    assert!(!stale.exists(), "removed at the end");

    let other = rig.dir.path().join("file");
    std::fs::write(&other, "x").unwrap();
    let refused = Server::bind(&other, 0o600, None, Limits::default());
    assert!(matches!(refused, Err(BindError::NotASocket { .. })));
    let nobody = Server::bind(&stale, 0o600, Some("no-such-group"), Limits::default());
    assert!(matches!(nobody, Err(BindError::Group { .. })));
    let path = rig.dir.path().join("new/sock");
    Server::bind(&path, 0o600, Some("root"), Limits::default()).unwrap();
}

/// An answer to a change means that the change is on the disk; a disk that takes nothing costs a
/// warning and nothing else.
#[test]
fn what_was_answered_is_on_the_disk() {
    let rig = Rig::start();
    let path = rig.dir.path().join("rules.json");
    let kept = || {
        let kept = Kept::load(&path, &std::fs::read(&path).unwrap()).unwrap();
        let tcp = kept.running.settings.timeouts.tcp;
        (kept.running.services.len(), tcp)
    };
    let set = |tcp| Request::SetTimeouts {
        tcp,
        tcp_fin: 0,
        udp: 0,
    };
    for port in 81..84 {
        assert_eq!(rig.ask(add(port)), ok());
        assert_eq!(kept().0, usize::from(port) - 79);
    }
    assert_eq!(rig.ask(Request::DeleteService { service: key(83) }), ok());
    assert_eq!(rig.ask(set(61)), ok());
    assert_eq!(kept(), (3, 61));

    // In a batch only the end waits.
    let mut client = rig.client();
    assert_eq!(client.ask(Request::Batch), ok());
    for tcp in 100..200 {
        assert_eq!(client.ask(set(tcp)), ok());
    }
    assert_eq!(client.ask(Request::EndBatch), ok());
    assert_eq!(kept(), (3, 199));

    // All of that is in the journal. One that takes nothing is no loss: the rules are written whole.
    let journal = rig.dir.path().join("rules.journal");
    let whole = Kept::decode(&std::fs::read(&path).unwrap()).unwrap();
    assert!(whole.running.services.len() < 3);
    rig.ask(Request::Reload {
        discard_live: false,
    });
    assert!(
        !journal.exists(),
        "a reload changes more than a record tells"
    );
    std::os::unix::fs::symlink("/dev/full", &journal).unwrap();
    assert_eq!(rig.ask(set(198)), ok());
    assert_eq!(kept(), (3, 198));
    assert!(!journal.exists());

    // The new file cannot be made.
    let in_the_way = rig.dir.path().join("rules.json.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let answer = rig.ask(Request::Clear);
    let Response::Ok { warnings } = answer else {
        panic!("{answer:?}");
    };
    assert!(warnings[0].contains("cannot be written"), "{warnings:?}");
    assert_eq!((rig.services().len(), kept().0), (0, 3));
    let Response::Status(status) = rig.ask(Request::Status) else {
        panic!();
    };
    assert!(status.warnings.iter().any(|w| w.contains("outlive")));
    std::fs::remove_dir(in_the_way).unwrap();
    assert_eq!(rig.ask(set(62)), ok());
    assert_eq!(kept(), (0, 62));
}
