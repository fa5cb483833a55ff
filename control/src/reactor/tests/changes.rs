//! Changes by requests: listed, refused, busy, kept on the disk.

use super::*;

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
