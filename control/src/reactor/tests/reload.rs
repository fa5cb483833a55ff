//! Reloads: what changes, what is told, when they are over.

use super::*;

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
