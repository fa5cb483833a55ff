//! A daemon without a data plane, in threads or turn by turn, and its clients.

use super::*;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const FILE: &str = r#"
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
pub(super) struct Rig {
    pub(super) dir: tempfile::TempDir,
    pub(super) handle: Handle,
    pub(super) reactor: Option<JoinHandle<()>>,
    pub(super) workers: Vec<JoinHandle<()>>,
    pub(super) stop: Arc<AtomicBool>,
    /// While set, workers take no command.
    pub(super) pause: Arc<AtomicBool>,
    /// Reloads asked for as SIGHUP does.
    pub(super) hups: Arc<AtomicU32>,
}

impl Rig {
    pub(super) fn start() -> Rig {
        Rig::with(FILE, 0, Limits::default())
    }

    pub(super) fn with(file: &str, connections: u32, limits: Limits) -> Rig {
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

    pub(super) fn file(&self) -> PathBuf {
        self.dir.path().join("rvs.toml")
    }

    pub(super) fn client(&self) -> Client {
        let stream = UnixStream::connect(self.dir.path().join("sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client {
            stream,
            decoder: FrameDecoder::new(),
        }
    }

    pub(super) fn ask(&self, request: Request) -> Response {
        self.client().ask(request)
    }

    pub(super) fn services(&self) -> Vec<api::ServiceView> {
        match self.ask(Request::ListServices { service: None }) {
            Response::Services { services, .. } => services,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until `done` holds.
    pub(super) fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
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

pub(super) fn reactor(
    dir: &Path,
    ends: Vec<dataplane::command::ControlEnd>,
    limits: Limits,
) -> Reactor {
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

pub(super) struct Client {
    pub(super) stream: UnixStream,
    pub(super) decoder: FrameDecoder,
}

impl Client {
    pub(super) fn send(&mut self, request: Request) {
        self.stream
            .write_all(&api::encode_request(request))
            .unwrap();
    }

    /// The next frame, `None` at the end of the stream.
    pub(super) fn next(&mut self) -> Option<Response> {
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

    pub(super) fn answer(&mut self) -> Response {
        self.next()
            .expect("an answer, not the end of the connection")
    }

    pub(super) fn ask(&mut self, request: Request) -> Response {
        self.send(request);
        self.answer()
    }

    pub(super) fn connections(&mut self) -> Vec<api::ConnectionRow> {
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

pub(super) fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub(super) fn key(port: u16) -> api::ServiceKey {
    api::ServiceKey::new(api::Protocol::Tcp, ip("10.0.0.1"), port)
}

pub(super) fn add(port: u16) -> Request {
    let spec = api::ServiceSpec {
        scheduler: "rr".into(),
        ..Default::default()
    };
    Request::AddService {
        service: key(port),
        spec,
    }
}

pub(super) fn add_server(port: u16, last: u8) -> Request {
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

pub(super) fn ok() -> Response {
    Response::Ok {
        warnings: Vec::new(),
    }
}

pub(super) fn text(response: Response) -> String {
    match response {
        Response::Text { text } => text,
        other => panic!("{other:?}"),
    }
}

pub(super) fn refused(response: Response) -> (ErrorKind, String) {
    match response {
        Response::Error { error, message } => (error, message),
        other => panic!("{other:?}"),
    }
}

/// A loop without a thread: the test makes its turns, and its workers'.
pub(super) struct Bench {
    pub(super) dir: tempfile::TempDir,
    pub(super) reactor: Reactor,
    pub(super) fakes: Vec<FakeWorker>,
}

impl Bench {
    pub(super) fn new() -> Bench {
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

    pub(super) fn client(&mut self) -> Client {
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
    pub(super) fn until(&mut self, what: &str, done: impl Fn(&Bench) -> bool) {
        let deadline = WallClock::now() + PATIENCE;
        while !done(self) {
            assert!(WallClock::now() < deadline, "waited in vain for: {what}");
            self.reactor.turn().unwrap();
        }
    }

    /// Makes turns of all until nothing is under way.
    pub(super) fn settle(&mut self) {
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

    pub(super) fn services(&self) -> u64 {
        self.reactor.state.model.counts().0
    }
}
