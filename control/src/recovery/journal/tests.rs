use dataplane::settings::Settings;
use dataplane::time::Instant;
use proptest::prelude::*;

use super::follow::{End, replay};
use super::*;
use crate::api::{
    MarkMatch, Method, Protocol, Request, ServerKey, ServerSpec, ServiceKey, ServiceSpec,
};
use crate::config::{OperatorState, Running};
use crate::model::{Author, Change, Limits, Model};
use crate::recovery::rules::Kept;

const NOW: Instant = Instant::from_secs(1000);

/// Contents of a file of rules, as far as a journal cares.
const RULES: &[u8] = b"head\nbody";

fn service(port: u16) -> ServiceKey {
    ServiceKey::new(Protocol::Tcp, [10, 0, 0, 1].into(), port)
}

fn spec() -> ServiceSpec {
    ServiceSpec {
        scheduler: "wlc".to_owned(),
        ..ServiceSpec::default()
    }
}

fn server(last: u8) -> ServerKey {
    ServerKey {
        addr: [192, 168, 0, last].into(),
        port: 80,
    }
}

/// Two services with servers of the file.
fn model() -> Model {
    let limits = Limits {
        services: 16,
        servers: 64,
        workers: 1,
    };
    let mut model = Model::new(limits, Settings::default());
    let up = OperatorState::Up;
    for port in 80..82 {
        let add = Change::AddService(service(port), spec());
        model.apply(NOW, Author::File, &add, &[]).unwrap();
        for last in 1..3 {
            let spec = ServerSpec {
                method: Method::Masq,
                ..ServerSpec::default()
            };
            let add = Change::AddServer(service(port), server(last), spec, up);
            model.apply(NOW, Author::File, &add, &[]).unwrap();
        }
    }
    model
}

fn request() -> impl Strategy<Value = Request> {
    let server = (1u8..5).prop_map(server);
    (80u16..83, server, 0u32..4, 0usize..13).prop_map(|(port, server, n, kind)| {
        let service = service(port);
        let of_service = ServiceSpec {
            scheduler: ["rr", "wlc", "sh", "lc"][n as usize].to_owned(),
            ..ServiceSpec::default()
        };
        let of_server = ServerSpec {
            method: Method::Masq,
            weight: n,
            ..ServerSpec::default()
        };
        let drainee = crate::api::Drainees {
            addr: server.addr,
            port: Some(server.port),
            service: Some(service),
        };
        let matches = MarkMatch {
            vlan: Some(n as u16 + 1),
            ..MarkMatch::default()
        };
        match kind {
            0 => Request::AddService {
                service,
                spec: of_service,
            },
            1 => Request::EditService {
                service,
                spec: of_service,
            },
            2 => Request::DeleteService { service },
            3..6 => Request::AddServer {
                service,
                server,
                spec: of_server,
            },
            6 => Request::EditServer {
                service,
                server,
                spec: of_server,
            },
            7 => Request::Drain {
                servers: drainee,
                deadline: None,
            },
            8 => Request::Undrain { servers: drainee },
            9 => Request::DeleteServer { service, server },
            10 => Request::AddMark {
                matches,
                mark: n + 1,
            },
            11 => Request::DeleteMark { matches },
            _ => Request::SetTimeouts {
                tcp: 60 + n,
                tcp_fin: 0,
                udp: 0,
            },
        }
    })
}

/// Carries a request out as the admin side does; whether it was refused.
fn carry_out(model: &mut Model, request: Request) -> bool {
    let up = OperatorState::Up;
    let set = |d: crate::api::Drainees, state| {
        let port = d.port.unwrap();
        let addr = d.addr;
        Change::SetState(d.service.unwrap(), ServerKey { addr, port }, state)
    };
    let change = match request {
        Request::AddService { service, spec } => Change::AddService(service, spec),
        Request::EditService { service, spec } => Change::EditService(service, spec),
        Request::DeleteService { service } => Change::DeleteService(service),
        Request::AddServer {
            service,
            server,
            spec,
        } => Change::AddServer(service, server, spec, up),
        Request::EditServer {
            service,
            server,
            spec,
        } => Change::EditServer(service, server, spec, up),
        Request::Drain { servers, .. } => set(servers, OperatorState::Drain),
        Request::Undrain { servers } => set(servers, up),
        Request::DeleteServer { service, server } => Change::DeleteServer(service, server),
        Request::AddMark { matches, mark } => Change::PutMark(matches, mark),
        Request::DeleteMark { matches } => Change::DeleteMark(matches),
        Request::SetTimeouts { tcp, tcp_fin, udp } => {
            return model.set_timeouts(tcp, tcp_fin, udp).is_err();
        }
        other => panic!("{other:?}"),
    };
    model.apply(NOW, Author::Operator, &change, &[]).is_err()
}

/// A journal, what ran before it, and after each of its records with the length it had then.
struct Written {
    start: Running,
    bytes: Vec<u8>,
    states: Vec<(usize, Running)>,
}

impl Written {
    /// Carries writes of several changes each out, as the keeper does.
    fn of(writes: &[Vec<Request>]) -> Written {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.json");
        let mut model = model();
        let start = model.running();
        let mut journal = Journal::of(path.clone());
        journal.begin(RULES).unwrap();
        let mut states = Vec::new();
        for requests in writes {
            let mut touches = Vec::new();
            for request in requests {
                let touched = Touch::by(request).unwrap();
                if !carry_out(&mut model, request.clone()) {
                    touches.extend(touched);
                }
            }
            journal.append(&steps(&touches, &model)).unwrap();
            states.push((journal.lengths().1 as usize, model.running()));
        }
        let bytes = std::fs::read(beside(&path)).unwrap();
        assert_eq!(bytes.len(), journal.lengths().1 as usize);
        Written {
            start,
            bytes,
            states,
        }
    }

    /// What ran after the last whole record of the first `length` bytes.
    fn after(&self, length: usize) -> &Running {
        let whole = self.states.iter().rev().find(|(end, _)| *end <= length);
        whole.map_or(&self.start, |(_, running)| running)
    }

    fn replayed(&self, bytes: &[u8]) -> (Running, End) {
        let mut running = self.start.clone();
        let (_, end) = replay(bytes, rules::base_of(RULES), &mut running);
        (running, end)
    }
}

fn writes(each: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<Request>>> {
    proptest::collection::vec(proptest::collection::vec(request(), each), 1..10)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 15, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_journal_that_is_cut_anywhere_has_all_that_was_answered(writes in writes(0..6)) {
        let written = Written::of(&writes);
        let mut whole = vec![head(0).len()];
        whole.extend(written.states.iter().map(|(end, _)| *end));
        for cut in 0..=written.bytes.len() {
            let (running, end) = written.replayed(&written.bytes[..cut]);
            prop_assert_eq!(&running, written.after(cut), "cut at {}", cut);
            let begun = whole.iter().rev().find(|end| **end <= cut).copied().unwrap_or(0);
            let want = match cut - begun {
                0 if cut > 0 => End::InOrder,
                torn => End::Torn(torn),
            };
            prop_assert_eq!(end, want, "cut at {}", cut);
        }
    }

    #[test]
    fn a_damaged_journal_ends_before_the_damage(
        writes in writes(1..5), at in any::<prop::sample::Index>(), bit in 0u32..8,
    ) {
        let written = Written::of(&writes);
        let mut bad = written.bytes.clone();
        let at = at.index(bad.len());
        bad[at] ^= 1 << bit;
        let (running, end) = written.replayed(&bad);
        // A digit of a checksum in the other case says the same.
        if end == End::InOrder {
            prop_assert!(bad[at].is_ascii_uppercase());
            prop_assert_eq!(&running, written.after(bad.len()));
        } else {
            let want = match at < head(0).len() {
                true => &written.start,
                false => written.after(at),
            };
            prop_assert_eq!(&running, want);
        }
    }
}

fn one() -> Vec<Vec<Request>> {
    let spec = spec();
    let service = service(90);
    vec![vec![Request::AddService { service, spec }]]
}

#[test]
fn other_journals_say_nothing() {
    let written = Written::of(&one());
    assert_eq!(
        written.replayed(&written.bytes),
        (written.states[0].1.clone(), End::InOrder)
    );
    let mut running = written.start.clone();
    assert_eq!(replay(&written.bytes, 7, &mut running), (0, End::Stale));
    for foreign in [&b"something\nelse"[..], b"rvs-journal 2 00000000\n", b"\n"] {
        assert_eq!(replay(foreign, 7, &mut running), (0, End::Foreign));
    }
    assert_eq!(running, written.start);
}

/// A record in the middle was answered; those behind it are not taken without it.
#[test]
fn damage_in_the_middle_is_told_with_its_place() {
    let mut writes = one();
    writes.extend(one());
    let written = Written::of(&writes);
    let mut bad = written.bytes.clone();
    let at = head(0).len();
    bad[at + 12] ^= 1;
    let (running, end) = written.replayed(&bad);
    assert_eq!((&running, end), (&written.start, End::Damaged(at)));
}

/// The disk of a keeper: rules and journal in a directory.
struct Disk {
    dir: tempfile::TempDir,
    model: Model,
    journal: Journal,
}

impl Disk {
    fn new() -> Disk {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::of(dir.path().join("rules.json"));
        let model = model();
        Disk {
            dir,
            model,
            journal,
        }
    }

    fn journal_path(&self) -> PathBuf {
        beside(&self.journal.rules)
    }

    fn begin(&mut self) -> Result<(), Unwritten> {
        let kept = Kept {
            config: "/etc/rvs/rvsd.toml".into(),
            last: model().running().to_rules(),
            running: self.model.running(),
        };
        self.journal.begin(&kept.encode())
    }

    fn add(&mut self, port: u16) -> Result<(), Unwritten> {
        let spec = spec();
        let service = service(port);
        self.change(Request::AddService { service, spec })
    }

    fn delete(&mut self, port: u16) -> Result<(), Unwritten> {
        let service = service(port);
        self.change(Request::DeleteService { service })
    }

    fn change(&mut self, request: Request) -> Result<(), Unwritten> {
        let touched = Touch::by(&request).unwrap();
        assert!(!carry_out(&mut self.model, request));
        self.journal.append(&steps(&touched, &self.model))
    }

    /// What a start finds.
    fn found(&self) -> Running {
        let path = &self.journal.rules;
        let bytes = std::fs::read(path).unwrap();
        Kept::load(path, &bytes).unwrap().running
    }
}

#[test]
fn rules_written_whole_begin_another_journal() {
    let mut disk = Disk::new();
    disk.begin().unwrap();
    assert_eq!(disk.found(), disk.model.running());
    for port in 90..93 {
        disk.add(port).unwrap();
        assert_eq!(disk.found(), disk.model.running());
    }
    let long = disk.journal.lengths();
    disk.begin().unwrap();
    assert!(!disk.journal_path().exists());
    assert_eq!(
        (disk.journal.lengths().1, disk.found()),
        (0, disk.model.running())
    );
    disk.delete(90).unwrap();
    assert_eq!(disk.found(), disk.model.running());
    let short = disk.journal.lengths();
    assert!(short.0 > long.0 && short.1 < long.1, "{long:?} {short:?}");
}

/// Killed after the rules were written whole, before their old journal went: it has nothing to say
/// of them. Killed before that, the old rules are there with all of it.
#[test]
fn a_crash_in_the_middle_of_writing_whole_loses_nothing() {
    let mut disk = Disk::new();
    disk.begin().unwrap();
    disk.add(90).unwrap();
    disk.delete(81).unwrap();
    let rules = std::fs::read(&disk.journal.rules).unwrap();
    let journal = std::fs::read(disk.journal_path()).unwrap();
    disk.begin().unwrap();
    let new = std::fs::read(&disk.journal.rules).unwrap();
    std::fs::write(disk.journal_path(), &journal).unwrap();
    assert_eq!(disk.found(), disk.model.running());
    std::fs::write(&disk.journal.rules, &rules).unwrap();
    std::fs::write(
        disk.dir.path().join("rules.json.new"),
        &new[..new.len() / 2],
    )
    .unwrap();
    assert_eq!(disk.found(), disk.model.running());
}

/// The old journal must not come back when the rules are once more what it goes on from.
#[test]
fn a_journal_does_not_outlive_its_rules() {
    let mut disk = Disk::new();
    disk.begin().unwrap();
    disk.add(90).unwrap();
    assert!(!carry_out(
        &mut disk.model,
        Request::DeleteService {
            service: service(90)
        }
    ));
    disk.begin().unwrap();
    assert_eq!(disk.found(), disk.model.running());
}

/// A disk without room for a record: the rules before are found, and once there is room, all.
#[test]
fn a_full_disk_and_a_name_that_is_taken_cost_no_rules() {
    let mut disk = Disk::new();
    disk.begin().unwrap();
    let before = disk.model.running();
    std::os::unix::fs::symlink("/dev/full", disk.journal_path()).unwrap();
    let full = disk.add(90).unwrap_err().to_string();
    assert!(
        full.contains("rules.journal cannot be written: No space"),
        "{full}"
    );
    disk.begin().unwrap();
    assert_eq!(disk.found(), disk.model.running());
    assert_ne!(disk.found(), before);

    std::fs::create_dir(disk.journal_path()).unwrap();
    let taken = disk.add(91).unwrap_err().to_string();
    assert!(taken.contains("rules.journal cannot be written"), "{taken}");
    // What is in the way is told even though the rules are there now.
    let taken = disk.begin().unwrap_err().to_string();
    assert!(taken.contains("rules.journal cannot be removed"), "{taken}");
    assert_eq!(disk.found(), disk.model.running());
    std::fs::remove_dir(disk.journal_path()).unwrap();
    disk.add(92).unwrap();
    assert_eq!(disk.found(), disk.model.running());
}
