//! A daemon that is a test double: the admin API over a real socket, with the kernel's rules for
//! services and servers but no packets. And the program, run in process against it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use control::api::{
    self, ConnectionRow, DaemonSpec, DaemonView, ErrorKind, FrameDecoder, Origin, Protocol,
    Request, Response, ServerKey, ServerSpec, ServerView, ServiceKey, ServiceSpec, ServiceView,
    Stats, StatusView, SyncRole,
};
use control::cli::{self, Environment, Names, Streams};
use tempfile::TempDir;

/// Schedulers of the double: all that the recordings use.
const SCHEDULERS: &[&str] = &[
    "rr", "wrr", "lc", "wlc", "sed", "nq", "dh", "sh", "lblc", "lblcr", "fo", "ovf", "mh",
];

/// Rows in a frame: few, so that a listing comes in several.
const ROWS: usize = 7;

/// What packets would have done to a service or a server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub active: u32,
    pub inactive: u32,
    pub persistent: u32,
    pub stats: Stats,
    pub rates: Stats,
}

/// A service of the double.
#[derive(Debug)]
pub struct Service {
    key: ServiceKey,
    spec: ServiceSpec,
    /// Newest first.
    servers: Vec<(ServerKey, ServerSpec)>,
}

/// What the double knows.
#[derive(Debug)]
pub struct State {
    /// Newest first.
    pub services: Vec<Service>,
    /// Outlive their service, as the kernel's connections do.
    pub counts: HashMap<(ServiceKey, Option<ServerKey>), Counts>,
    pub connections: Vec<ConnectionRow>,
    pub timeouts: [u32; 3],
    pub table_size: u64,
    pub status: StatusView,
    /// Totals and rates of everything.
    pub totals: (Stats, Stats),
    pub settings: dataplane::settings::Settings,
    /// Synchronisation daemons that run.
    pub daemons: Vec<DaemonView>,
    /// Interfaces that are not there.
    pub missing: Vec<String>,
    /// Given with the next change.
    pub warnings: Vec<String>,
    /// Requests seen.
    pub requests: Vec<Request>,
}

impl Default for State {
    fn default() -> Self {
        State {
            services: Vec::new(),
            counts: HashMap::new(),
            connections: Vec::new(),
            timeouts: [900, 120, 300],
            table_size: 4096,
            status: StatusView::default(),
            totals: Default::default(),
            settings: Default::default(),
            daemons: Vec::new(),
            missing: vec!["nosuch0".to_owned()],
            warnings: Vec::new(),
            requests: Vec::new(),
        }
    }
}

impl State {
    /// Puts the services into an order, as a kernel's hash table would.
    pub fn reorder(&mut self, order: &[ServiceKey]) {
        self.services
            .sort_by_key(|s| order.iter().position(|key| *key == s.key));
    }

    fn find(&mut self, key: ServiceKey, missing: ErrorKind) -> Result<&mut Service, ErrorKind> {
        self.services
            .iter_mut()
            .find(|s| s.key == key)
            .ok_or(missing)
    }

    fn change(&mut self, request: Request) -> Result<(), ErrorKind> {
        match request {
            Request::AddService { service, spec } => {
                if self.services.iter().any(|s| s.key == service) {
                    return Err(ErrorKind::ServiceExists);
                }
                known(&spec)?;
                self.services.insert(
                    0,
                    Service {
                        key: service,
                        spec,
                        servers: Vec::new(),
                    },
                );
            }
            Request::EditService { service, spec } => {
                let found = self.find(service, ErrorKind::NoService)?;
                known(&spec)?;
                found.spec = spec;
            }
            Request::DeleteService { service } => {
                self.find(service, ErrorKind::NoService)?;
                self.services.retain(|s| s.key != service);
            }
            Request::Clear => self.services.clear(),
            Request::AddServer {
                service,
                server,
                spec,
            } => {
                let found = self.find(service, ErrorKind::ServiceNotDefined)?;
                sane(server.addr, &spec)?;
                if found.servers.iter().any(|(key, _)| *key == server) {
                    return Err(ErrorKind::ServerExists);
                }
                found.servers.insert(0, (server, spec));
            }
            Request::EditServer {
                service,
                server,
                spec,
            } => {
                let found = self.find(service, ErrorKind::ServiceNotDefined)?;
                sane(server.addr, &spec)?;
                let known = found.servers.iter_mut().find(|(key, _)| *key == server);
                known.ok_or(ErrorKind::NoServer)?.1 = spec;
            }
            Request::DeleteServer { service, server } => {
                let found = self.find(service, ErrorKind::ServiceNotDefined)?;
                let before = found.servers.len();
                found.servers.retain(|(key, _)| *key != server);
                if found.servers.len() == before {
                    return Err(ErrorKind::NoServer);
                }
            }
            Request::Zero { service } => {
                if let Some(key) = service {
                    self.find(key, ErrorKind::NoService)?;
                }
                let zeroed = |key: &ServiceKey| service.is_none_or(|service| service == *key);
                for (_, counts) in self.counts.iter_mut().filter(|((key, _), _)| zeroed(key)) {
                    counts.stats = Stats::default();
                    counts.rates = Stats::default();
                }
            }
            Request::SetTimeouts { tcp, tcp_fin, udp } => {
                for (value, new) in self.timeouts.iter_mut().zip([tcp, tcp_fin, udp]) {
                    *value = if new == 0 { *value } else { new };
                }
            }
            Request::Batch | Request::EndBatch => {}
            Request::StartDaemon { daemon } => self.start_daemon(daemon)?,
            Request::StopDaemon { role } => {
                let before = self.daemons.len();
                self.daemons.retain(|daemon| daemon.role != role);
                if self.daemons.len() == before {
                    return Err(ErrorKind::NoDaemon);
                }
            }
            other => panic!("not a change: {other:?}"),
        }
        Ok(())
    }

    /// With the kernel's checks and its lengths for an MTU of 1500.
    fn start_daemon(&mut self, spec: DaemonSpec) -> Result<(), ErrorKind> {
        if self.missing.contains(&spec.interface) {
            return Err(ErrorKind::NoDevice);
        }
        let is_mixed = |service: &Service| {
            let mut servers = service.servers.iter();
            servers.any(|(key, _)| key.addr.is_ipv6() != service.key.is_ipv6())
        };
        if self.services.iter().any(is_mixed) {
            return Err(ErrorKind::Invalid);
        }
        if self.daemons.iter().any(|daemon| daemon.role == spec.role) {
            return Err(ErrorKind::DaemonRunning);
        }
        let least = if spec.role == SyncRole::Backup {
            1024
        } else {
            1
        };
        self.daemons.push(DaemonView {
            role: spec.role,
            interface: spec.interface,
            syncid: spec.syncid,
            maxlen: spec.maxlen.unwrap_or(1472).max(least),
            group: spec.group,
            port: spec.port,
            ttl: spec.ttl,
            messages: 0,
            entries: 0,
            lost: 0,
            refused: 0,
            authenticated: false,
            unsigned: 0,
            forged: 0,
            stale: 0,
            replayed: 0,
            cuts: 0,
            hellos_refused: Default::default(),
            peers: Vec::new(),
        });
        self.daemons.sort_by_key(|daemon| daemon.role);
        Ok(())
    }

    fn views(&self, only: Option<ServiceKey>) -> Vec<ServiceView> {
        let counts = |service, server| {
            self.counts
                .get(&(service, server))
                .copied()
                .unwrap_or_default()
        };
        let wanted = self
            .services
            .iter()
            .filter(|s| only.is_none_or(|key| key == s.key));
        let view = |service: &Service| ServiceView {
            key: service.key,
            spec: service.spec.clone(),
            live: true,
            origin: Origin::Live,
            stats: counts(service.key, None).stats,
            rates: counts(service.key, None).rates,
            servers: service
                .servers
                .iter()
                .map(|(key, spec)| {
                    let counts = counts(service.key, Some(*key));
                    ServerView {
                        key: *key,
                        spec: spec.clone(),
                        configured_weight: spec.weight,
                        origin: Origin::Live,
                        active: counts.active,
                        inactive: counts.inactive,
                        persistent: counts.persistent,
                        stats: counts.stats,
                        rates: counts.rates,
                    }
                })
                .collect(),
        };
        wanted.map(view).collect()
    }

    /// The frames that answer a request.
    fn answer(&mut self, request: Request) -> Vec<Vec<u8>> {
        self.requests.push(request.clone());
        let text = |text: &str| {
            vec![api::encode(&Response::Text {
                text: text.to_string(),
            })]
        };
        match request {
            Request::ListServices { service } => {
                let views = self.views(service);
                if service.is_some() && views.is_empty() {
                    return vec![refused(ErrorKind::NoService)];
                }
                api::encode_services(self.table_size, views).collect()
            }
            Request::ListConnections => {
                let mut rows = self.connections.as_slice();
                let mut frames = Vec::new();
                loop {
                    let (batch, rest) = rows.split_at(rows.len().min(ROWS));
                    let more = !rest.is_empty();
                    let rows_of_frame = batch.to_vec();
                    frames.push(api::encode(&Response::Connections {
                        rows: rows_of_frame,
                        more,
                    }));
                    if !more {
                        return frames;
                    }
                    rows = rest;
                }
            }
            Request::GetTimeouts => {
                let [tcp, tcp_fin, udp] = self.timeouts;
                vec![api::encode(&Response::Timeouts { tcp, tcp_fin, udp })]
            }
            Request::Status => {
                vec![api::encode(&Response::Status(Box::new(
                    self.status.clone(),
                )))]
            }
            Request::Stats => {
                let (total, rates) = self.totals;
                let workers = vec![total];
                vec![api::encode(&Response::Stats {
                    total,
                    rates,
                    workers,
                })]
            }
            Request::Sysctl { set, names } => {
                let done = control::sysctl::set_and_list(&mut self.settings, false, &set, names);
                vec![api::encode(&match done {
                    Ok(rows) => Response::Sysctls { rows },
                    Err(message) => Response::Error {
                        error: ErrorKind::Invalid,
                        message,
                    },
                })]
            }
            Request::ListDaemons => vec![api::encode(&Response::Daemons {
                daemons: self.daemons.clone(),
            })],
            Request::Diff => text("+ service tcp 10.0.0.1:80"),
            Request::Save => text("saved 1 service\n"),
            Request::Reload { discard_live } => text(&format!("discard_live={discard_live}")),
            Request::StopCapture => text("12 packets"),
            change => match self.change(change) {
                Ok(()) => {
                    let warnings = std::mem::take(&mut self.warnings);
                    vec![api::encode(&Response::Ok { warnings })]
                }
                Err(error) => vec![refused(error)],
            },
        }
    }
}

fn known(spec: &ServiceSpec) -> Result<(), ErrorKind> {
    let has_engine = spec.engine.as_deref().is_none_or(|name| name == "sip");
    let known = SCHEDULERS.contains(&spec.scheduler.as_str()) && has_engine;
    if known {
        Ok(())
    } else {
        Err(ErrorKind::NoScheduler)
    }
}

fn sane(addr: IpAddr, spec: &ServerSpec) -> Result<(), ErrorKind> {
    if spec.lower > spec.upper {
        return Err(ErrorKind::Range);
    }
    if addr.is_unspecified() || addr.is_multicast() {
        return Err(ErrorKind::Invalid);
    }
    Ok(())
}

fn refused(error: ErrorKind) -> Vec<u8> {
    api::encode(&Response::Error {
        error,
        message: format!("{error:?}, in our own words"),
    })
}

/// A running double.
pub struct Daemon {
    directory: TempDir,
    state: Arc<Mutex<State>>,
}

impl Daemon {
    /// Starts with nothing configured.
    pub fn start() -> Self {
        Daemon::with(serve)
    }

    /// Starts one that treats each connection its own way.
    pub fn with(
        serve: impl Fn(UnixStream, &Mutex<State>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let listener = UnixListener::bind(directory.path().join("sock")).expect("a socket");
        let state = Arc::new(Mutex::new(State::default()));
        let (serve, shared) = (Arc::new(serve), Arc::clone(&state));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (serve, state) = (Arc::clone(&serve), Arc::clone(&shared));
                // A client that goes away is no failure of the double.
                std::thread::spawn(move || serve(stream, &state).ok());
            }
        });
        Daemon { directory, state }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    /// What it knows.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no connection panicked")
    }

    /// Runs the program against it.
    pub fn run(&self, words: &[&str], input: &str) -> Output {
        run(&self.socket(), words, input)
    }
}

/// Answers the requests of a connection.
pub fn serve(mut stream: UnixStream, state: &Mutex<State>) -> io::Result<()> {
    while let Some(payload) = read_frame(&mut stream)? {
        let frames = match api::decode_request(&payload) {
            Ok(request) => state
                .lock()
                .expect("no connection panicked")
                .answer(request),
            Err(refusal) => vec![api::encode(&refusal)],
        };
        for frame in frames {
            stream.write_all(&frame)?;
        }
    }
    Ok(())
}

/// The payload of the next frame, `None` at the end.
pub fn read_frame(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut decoder = FrameDecoder::new();
    let mut byte = [0];
    loop {
        if let Some(payload) = decoder.next().map_err(io::Error::other)? {
            return Ok(Some(payload));
        }
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        decoder.push(&byte);
    }
}

/// What the program printed and returned.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    pub out: String,
    pub err: String,
    pub status: u8,
}

/// The names of the machine on which `flow.txt` was recorded.
pub struct RecordedNames;

const HOSTS: &[(&str, &str)] = &[
    ("10.0.0.1", "vip.example.net"),
    ("10.0.0.1", "vip"),
    ("10.0.0.2", "real2"),
    (
        "10.0.0.3",
        "a-very-long-host-name.with.many.labels.example.org",
    ),
    ("fd00::1", "vip6.example.net"),
    (
        "fd00::2",
        "a-very-long-host-name6.with.many.labels.example.org",
    ),
];

const SERVICES: &[(u16, Protocol, &str)] = &[
    (80, Protocol::Tcp, "http"),
    (443, Protocol::Tcp, "https"),
    (443, Protocol::Udp, "https"),
    (53, Protocol::Udp, "domain"),
    (123, Protocol::Udp, "ntp"),
];

impl Names for RecordedNames {
    fn host(&self, addr: IpAddr) -> Option<String> {
        let found = HOSTS.iter().find(|(a, _)| *a == addr.to_string());
        found.map(|(_, name)| name.to_string())
    }

    fn service(&self, port: u16, protocol: Protocol) -> Option<String> {
        let found = SERVICES
            .iter()
            .find(|(p, q, _)| (*p, *q) == (port, protocol));
        found.map(|(.., name)| name.to_string())
    }

    fn resolve_host(&self, name: &str, ipv6: bool) -> Option<IpAddr> {
        let addr = |a: &str| a.parse::<IpAddr>().expect("an address of the table");
        HOSTS
            .iter()
            .filter(|(_, n)| *n == name)
            .map(|(a, _)| addr(a))
            .find(|a| a.is_ipv6() == ipv6)
    }

    fn resolve_service(&self, name: &str, protocol: Protocol) -> Option<u16> {
        SERVICES
            .iter()
            .find(|(_, q, n)| (*q, *n) == (protocol, name))
            .map(|(port, ..)| *port)
    }
}

/// The names of a machine that knows none.
pub struct NoNames;

impl Names for NoNames {
    fn host(&self, _: IpAddr) -> Option<String> {
        None
    }
    fn service(&self, _: u16, _: Protocol) -> Option<String> {
        None
    }
    fn resolve_host(&self, _: &str, _: bool) -> Option<IpAddr> {
        None
    }
    fn resolve_service(&self, _: &str, _: Protocol) -> Option<u16> {
        None
    }
}

/// Runs the program as `ipvsadm`, without names, against the daemon at `socket`.
pub fn run(socket: &Path, words: &[&str], input: &str) -> Output {
    run_with(socket, words, input, &NoNames)
}

/// Runs the program as `ipvsadm`.
pub fn run_with(socket: &Path, words: &[&str], input: &str, names: &dyn Names) -> Output {
    let never = || {
        UnixStream::pair().map(|(reader, writer)| {
            std::mem::forget(writer);
            reader
        })
    };
    let environment = Environment {
        names,
        socket: socket.to_path_buf(),
        patience: Duration::from_secs(20),
        interrupt: &never,
    };
    run_in(&environment, words, input)
}

/// Runs the program as `ipvsadm` in an environment.
pub fn run_in(environment: &Environment<'_>, words: &[&str], input: &str) -> Output {
    let words: Vec<String> = std::iter::once(&"ipvsadm")
        .chain(words)
        .map(|w| w.to_string())
        .collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let streams = Streams {
        input: &mut input.as_bytes(),
        out: &mut out,
        err: &mut err,
    };
    let status = cli::run(&words, environment, streams);
    let text = |bytes| String::from_utf8(bytes).expect("output is text");
    Output {
        out: text(out),
        err: text(err),
        status,
    }
}

/// A command and what it printed, as in the files of `data/ipvsadm`.
#[derive(Debug)]
pub struct Recording {
    /// Words behind the program's name.
    pub words: Vec<String>,
    /// Input of `-R`.
    pub input: String,
    /// Remark behind the command.
    pub note: String,
    /// Both outputs.
    pub output: String,
    pub status: u8,
}

impl Recording {
    /// The words as the program takes them.
    pub fn words(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }

    /// As typed.
    pub fn line(&self) -> String {
        self.words.join(" ")
    }
}

/// The directory of recordings.
pub fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ipvsadm")
}

/// All recordings of a file.
pub fn recordings(path: &Path) -> Vec<Recording> {
    let text = std::fs::read_to_string(path)
        .unwrap_or_else(|err| panic!("recording {}: {err}", path.display()));
    let mut all: Vec<Recording> = Vec::new();
    for line in text.split_inclusive('\n') {
        if let Some(command) = line.strip_prefix("$ ipvsadm") {
            all.push(command_line(command.trim_end_matches('\n')));
            continue;
        }
        let last = all.last_mut().expect("a file begins with a command");
        match line
            .trim_end()
            .strip_prefix("[exit status ")
            .and_then(|l| l.strip_suffix(']'))
        {
            Some(status) => last.status = status.parse().expect("a status"),
            None => last.output += line,
        }
    }
    all
}

fn command_line(line: &str) -> Recording {
    let (line, note) = line.split_once("   # ").unwrap_or((line, ""));
    let (line, input) = line.split_once(" <").unwrap_or((line, ""));
    let input = input.trim_start();
    let input = input
        .replace("\\n", "\n")
        .replace("\\t", "\t")
        .replace("\\r", "\r");
    Recording {
        words: shell_words(line),
        input,
        note: note.into(),
        output: String::new(),
        status: 0,
    }
}

/// Splits at blanks; quotes of either kind keep theirs.
fn shell_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(q)) if c == q => quote = None,
            (' ', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
