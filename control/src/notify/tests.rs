//! The thread with real sockets, pipes and scripts.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant as Clock;

use super::*;
use crate::api::{Protocol, ServerKey, ServiceKey};
use crate::config::notify::{Fifos, RouterScripts, UpDown};
use crate::script::{Command, Launch, Settings};

const PATIENCE: Duration = Duration::from_secs(30);

fn config(dir: &Path) -> Notify {
    Notify {
        socket: dir.join("events"),
        mode: 0o600,
        group: None,
        history: 3,
        priority_changes: false,
        fifos: Fifos::default(),
        mail: None,
        timeout: PATIENCE,
        instances: Default::default(),
        groups: Default::default(),
        services: Default::default(),
        servers: Default::default(),
    }
}

fn instance(state: RouterState) -> Event {
    Event::Instance {
        name: "VI_1".into(),
        state,
        priority: 100,
    }
}

fn service() -> ServiceKey {
    ServiceKey::new(Protocol::Tcp, [10, 0, 0, 1].into(), 80)
}

fn server(up: bool) -> Event {
    Event::Server {
        service: service(),
        server: ServerKey {
            addr: [10, 0, 0, 2].into(),
            port: 80,
        },
        up,
        why: None,
    }
}

fn connect(path: &Path) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

fn line(reader: &mut impl BufRead) -> serde_json::Value {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn everyone_hears_the_past_and_then_each_event_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let notifier = Notifier::start(&config, Scripts::default()).unwrap();
    let mut first = connect(&config.socket);
    assert_eq!(line(&mut first)["past"], 0);
    for state in [RouterState::Backup, RouterState::Master, RouterState::Fault] {
        notifier.tell(instance(state));
    }
    // Not asked for.
    notifier.tell(instance(RouterState::MasterPriority));
    notifier.tell(server(false));
    let seen: Vec<_> = (0..4).map(|_| line(&mut first)).collect();
    let states: Vec<_> = seen.iter().map(|l| l["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["BACKUP", "MASTER", "FAULT", "DOWN"]);
    let numbers: Vec<_> = seen.iter().map(|l| l["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let mut second = connect(&config.socket);
    assert_eq!(line(&mut second)["past"], 3);
    assert_eq!(line(&mut second), seen[1]);
    drop(first);
    notifier.tell(server(true));
    let later: Vec<_> = (0..3).map(|_| line(&mut second)).collect();
    assert_eq!(later[..2], seen[2..]);
    assert_eq!(later[2]["seq"], 5);
    drop(notifier);
    let start = Clock::now();
    while config.socket.exists() {
        assert!(start.elapsed() < PATIENCE, "the socket stays");
        std::thread::yield_now();
    }
}

#[test]
fn pipes_get_their_share() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| Some(dir.path().join(name));
    let mut config = config(dir.path());
    config.fifos = Fifos {
        all: path("all"),
        vrrp: path("vrrp"),
        lvs: path("lvs"),
    };
    let notifier = Notifier::start(&config, Scripts::default()).unwrap();
    let read = |name: &str| {
        let file = std::fs::File::open(dir.path().join(name)).unwrap();
        BufReader::new(file).lines().map(Result::unwrap)
    };
    let (mut all, mut vrrp, mut lvs) = (read("all"), read("vrrp"), read("lvs"));
    notifier.tell(server(false));
    notifier.tell(instance(RouterState::Master));
    let (up, master) = (
        "RS [10.0.0.2]:tcp:80 [10.0.0.1]:tcp:80 DOWN",
        "INSTANCE \"VI_1\" MASTER 100",
    );
    assert_eq!([all.next().unwrap(), all.next().unwrap()], [up, master]);
    assert_eq!(vrrp.next().unwrap(), master);
    assert_eq!(lvs.next().unwrap(), up);
}

fn command(words: &[&str]) -> Option<Command> {
    Some(Command {
        argv: words.iter().map(|word| (*word).to_owned()).collect(),
        account: None,
    })
}

/// A script that adds a line to a file, slowly: it would be overtaken by those after it.
fn writer(out: &Path, pause: &str, text: &str) -> Option<Command> {
    let script = format!("sleep {pause}; echo {text} \"$@\" >> {}", out.display());
    command(&["/bin/sh", "-c", &script, "sh"])
}

fn scripts() -> Scripts {
    let words = ["script::tests::as_helper", "--exact", "--nocapture"];
    let launch = Launch {
        program: std::env::current_exe().unwrap(),
        name: "rvs-test".into(),
        args: words.map(str::to_owned).into(),
        env: vec![("RVS_TEST_HELPER".into(), "1".into())],
    };
    let settings = Settings {
        account: "root".parse().unwrap(),
        secure: false,
        cores: Vec::new(),
    };
    Scripts::start(launch, settings, Vec::new()).unwrap()
}

#[test]
fn scripts_run_one_after_the_other_with_keepalived_s_arguments() {
    if rustix::process::geteuid().as_raw() != 0 {
        println!("skipped: scripts run as root here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out: PathBuf = dir.path().join("out");
    let mut config = config(dir.path());
    let own = RouterScripts {
        master: writer(&out, "0.3", "master"),
        backup: writer(&out, "0", "backup"),
        fault: writer(&out, "0.1", "fault"),
        any: writer(&out, "0", "any"),
        ..RouterScripts::default()
    };
    config.instances.insert("VI_1".into(), own);
    let notifier = Notifier::start(&config, scripts()).unwrap();
    for state in [RouterState::Backup, RouterState::Master, RouterState::Fault] {
        notifier.tell(instance(state));
    }
    // Taken away, and with it its scripts, which have one more thing to do.
    config.instances.clear();
    notifier.set(&config);
    notifier.tell(instance(RouterState::Deleted));
    assert!(notifier.finish(PATIENCE));
    let text = std::fs::read_to_string(&out).unwrap();
    let expected = "\
backup
any INSTANCE VI_1 BACKUP 100
master
any INSTANCE VI_1 MASTER 100
fault
any INSTANCE VI_1 FAULT 100
fault
any INSTANCE VI_1 FAULT 100
";
    assert_eq!(text, expected);
}

#[test]
fn a_script_that_hangs_holds_up_only_its_own() {
    if rustix::process::geteuid().as_raw() != 0 {
        println!("skipped: scripts run as root here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out: PathBuf = dir.path().join("out");
    let mut config = config(dir.path());
    config.timeout = Duration::from_millis(500);
    let hangs = RouterScripts {
        master: command(&["/bin/sleep", "600"]),
        backup: writer(&out, "0", "backup"),
        ..RouterScripts::default()
    };
    config.instances.insert("VI_1".into(), hangs);
    let key = ServerKey {
        addr: [10, 0, 0, 2].into(),
        port: 80,
    };
    let pair = UpDown {
        up: writer(&out, "0", "up"),
        down: writer(&out, "0", "down"),
    };
    config.servers.insert((service(), key), pair);
    let notifier = Notifier::start(&config, scripts()).unwrap();
    notifier.tell(instance(RouterState::Master));
    notifier.tell(instance(RouterState::Backup));
    notifier.tell(server(false));
    notifier.tell(server(true));
    assert!(!notifier.finish(Duration::from_millis(10)));
    assert!(notifier.finish(PATIENCE));
    let text = std::fs::read_to_string(&out).unwrap();
    assert_eq!(text, "down\nup\nbackup\n");
}
