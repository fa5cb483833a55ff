use std::path::Path;

use dataplane::time::Instant;

use super::*;
use crate::api::{Origin, ServerKey, ServerSpec, ServiceKey};
use crate::config::Host;
use crate::model::{Author, Change};

const NOW: Instant = Instant::from_secs(1000);

fn text(weight: u32, more: &str) -> String {
    format!(
        r#"
[dpdk]
memory = "no-huge"
[[port]]
name = "p0"
null = {{}}
[ipvs]
tcp_timeout = 900
[[service]]
protocol = "tcp"
address = "10.0.0.1"
port = 80
scheduler = "wlc"
[[service.server]]
address = "192.168.0.1"
port = 8080
method = "nat"
weight = {weight}
[[service.server]]
address = "192.168.0.2"
port = 8080
method = "nat"
{more}
"#
    )
}

fn parsed(dir: &Path, text: &str) -> Config {
    let state = format!("[state]\ndirectory = \"{}\"\n", dir.display());
    let text = text.replacen("[[port]]", &format!("{state}[[port]]"), 1);
    let host = Host {
        online: vec![0, 1],
        ..Host::default()
    };
    config::parse(Path::new("/etc/rvs/rvsd.toml"), &text, &host).unwrap()
}

fn service() -> ServiceKey {
    ServiceKey::new(crate::api::Protocol::Tcp, "10.0.0.1".parse().unwrap(), 80)
}

fn server(last: u8) -> ServerKey {
    ServerKey {
        addr: [192, 168, 0, last].into(),
        port: 8080,
    }
}

/// A run that changed things live and then was killed.
fn crash(config: &Config) -> config::Running {
    let recovery = Recovery::begin(config, NOW, [1; 16]);
    let mut model = recovery.model(NOW, config).unwrap();
    let spec = |weight| ServerSpec {
        method: crate::api::Method::Masq,
        weight,
        ..ServerSpec::default()
    };
    let up = config::OperatorState::Up;
    for change in [
        Change::AddServer(service(), server(3), spec(5), up),
        Change::EditServer(service(), server(1), spec(7), up),
        Change::DeleteServer(service(), server(2)),
    ] {
        model.apply(NOW, Author::Operator, &change, &[]).unwrap();
    }
    model.set_timeouts(60, 0, 0).unwrap();
    let running = model.running();
    let kept = Kept {
        config: config.path.clone(),
        last: config.rules.clone(),
        running: running.clone(),
    };
    disk::replace(&recovery.rules_file().unwrap(), &kept.encode()).unwrap();
    assert_eq!(Kept::decode(&kept.encode()), Ok(kept));
    running
}

#[test]
fn live_changes_outlive_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let config = parsed(dir.path(), &text(1, ""));
    let before = crash(&config);
    let recovery = Recovery::begin(&config, NOW, [1; 16]);
    let after = recovery.model(NOW, &config).unwrap().running();
    assert_eq!(before, after);
    let servers = &after.services[&service()].servers;
    let told: Vec<_> = servers.iter().map(|s| (s.key, s.origin)).collect();
    assert_eq!(
        told,
        [(server(1), Origin::FileChanged), (server(3), Origin::Live)]
    );
    assert_eq!(after.settings.timeouts.tcp, 60);
    assert_eq!(rules::live_changes(&after, &config.rules), 4);

    // An orderly end: the file counts again.
    recovery.end();
    let recovery = Recovery::begin(&config, NOW, [1; 16]);
    let fresh = recovery.model(NOW, &config).unwrap().running();
    assert_eq!(fresh, config.rules.to_running());
}

/// What changed in the file meanwhile is applied as a reload does it.
#[test]
fn a_file_that_changed_meets_live_changes_as_in_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let old = parsed(dir.path(), &text(1, ""));
    let before = crash(&old);
    let more =
        "[[service]]\nprotocol = \"udp\"\naddress = \"10.0.0.1\"\nport = 53\nscheduler = \"rr\"\n";
    let new = parsed(dir.path(), &text(3, more));
    let after = Recovery::begin(&new, NOW, [1; 16])
        .model(NOW, &new)
        .unwrap()
        .running();
    let mut want = before.clone();
    config::plan(&old.rules, &before, &new.rules, false).apply_to(&mut want);
    assert_eq!(after, want);
    assert_eq!(after.services.len(), 2);
    // Live beats the file.
    assert_eq!(after.services[&service()].servers[0].spec.weight, 7);
}

#[test]
fn what_is_damaged_is_set_aside_and_the_file_counts() {
    let dir = tempfile::tempdir().unwrap();
    let config = parsed(dir.path(), &text(1, ""));
    crash(&config);
    let path = dir.path().join(RULES);
    let good = std::fs::read(&path).unwrap();
    for at in [0, 12, 20, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(Kept::decode(&bad).is_err(), "byte {at}");
    }
    assert_eq!(Kept::decode(b""), Err(rules::Unreadable::Foreign));
    assert_eq!(
        Kept::decode(&good[..good.len() - 9]),
        Err(rules::Unreadable::Damaged)
    );
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    let model = Recovery::begin(&config, NOW, [1; 16]).model(NOW, &config);
    assert_eq!(model.unwrap().running(), config.rules.to_running());
    assert!(!path.exists());
    let left = std::fs::read_dir(dir.path()).unwrap();
    let names: Vec<String> = left
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names.iter().any(|n| n.starts_with("rules.json.crashed-")),
        "{names:?}"
    );
}

/// Live changes in the journal go on after a crash; a tail that was torn is cut off, and rules that
/// cannot be used take their journal with them.
#[test]
fn a_crash_goes_on_from_rules_and_journal() {
    let dir = tempfile::tempdir().unwrap();
    let config = parsed(dir.path(), &text(1, ""));
    let recovery = Recovery::begin(&config, NOW, [1; 16]);
    let path = recovery.rules_file().unwrap();
    let mut model = recovery.model(NOW, &config).unwrap();
    let mut files = journal::Journal::of(path.clone());
    let kept = Kept {
        config: config.path.clone(),
        last: config.rules.clone(),
        running: model.running(),
    };
    files.begin(&kept.encode()).unwrap();
    model.set_timeouts(61, 0, 0).unwrap();
    let steps = |model: &Model| journal::steps(&[journal::Touch::Settings], model);
    files.append(&steps(&model)).unwrap();
    let answered = model.running();
    model.set_timeouts(62, 0, 0).unwrap();
    files.append(&steps(&model)).unwrap();
    let beside = journal::beside(&path);
    let whole = std::fs::read(&beside).unwrap();
    std::fs::write(&beside, &whole[..whole.len() - 1]).unwrap();
    drop(recovery);

    let start = || Recovery::begin(&config, NOW, [1; 16]).model(NOW, &config);
    assert_eq!(start().unwrap().running(), answered);
    std::fs::write(&path, "nothing").unwrap();
    assert_eq!(start().unwrap().running(), config.rules.to_running());
    assert!(!beside.exists());
}

#[test]
fn after_three_crashes_the_file_alone_counts() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("table");
    let mut config = parsed(dir.path(), &text(1, ""));
    config.state.table = Some(table.clone());
    crash(&config);
    // The start after the first crash, after the second, and so on.
    for n in 1..=4 {
        std::fs::write(&table, "entries").unwrap();
        let recovery = Recovery::begin(&config, NOW, [1; 16]);
        let running = recovery.model(NOW, &config).unwrap().running();
        let is_fresh = running == config.rules.to_running();
        // Nobody wrote the rules of the third start, so the fourth has none either.
        assert_eq!(is_fresh, n >= 3, "start {n}");
        assert_eq!(table.exists(), n != 3, "start {n}");
    }
    let names = |start: &str| {
        let left = std::fs::read_dir(dir.path()).unwrap();
        let names = left.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n.starts_with(start)).count()
    };
    assert_eq!(names("rules.json.crashed-"), 1);
    assert_eq!(names("table.crashed-"), 1);
}

/// A directory that cannot be used costs a line, not the start.
#[test]
fn without_a_directory_everything_else_works() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = parsed(file.path(), &text(1, ""));
    let recovery = Recovery::begin(&config, NOW, [1; 16]);
    assert_eq!(recovery.rules_file(), None);
    let model = recovery.model(NOW, &config).unwrap();
    assert_eq!(model.running(), config.rules.to_running());
}

#[test]
fn a_drained_server_stays_drained_over_every_kind_of_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = parsed(dir.path(), &text(1, ""));
    let recovery = Recovery::begin(&config, NOW, [1; 16]);
    let mut model = recovery.model(NOW, &config).unwrap();
    let quiet = ServerSpec {
        method: crate::api::Method::Masq,
        weight: 0,
        ..ServerSpec::default()
    };
    let (up, drain) = (config::OperatorState::Up, config::OperatorState::Drain);
    for change in [
        Change::SetState(service(), server(1), drain),
        Change::EditServer(service(), server(2), quiet, up),
    ] {
        model.apply(NOW, Author::Operator, &change, &[]).unwrap();
    }
    let keep = |recovery: &Recovery, model: &Model| {
        let kept = Kept {
            config: config.path.clone(),
            last: config.rules.clone(),
            running: model.running(),
        };
        disk::replace(&recovery.rules_file().unwrap(), &kept.encode()).unwrap();
    };
    keep(&recovery, &model);
    recovery.end();
    let are_drained = |model: &Model| model.servers(None).all(|(_, s)| s.weights.is_drained());
    // In order, twice, then after crashes until the rules are set aside.
    for _ in 0..2 {
        let recovery = Recovery::begin(&config, NOW, [1; 16]);
        let model = recovery.model(NOW, &config).unwrap();
        assert!(are_drained(&model));
        keep(&recovery, &model);
        recovery.end();
    }
    for crash in 0..=run::TOO_MANY {
        let recovery = Recovery::begin(&config, NOW, [1; 16]);
        let mut model = recovery.model(NOW, &config).unwrap();
        assert!(are_drained(&model), "crash {crash}: {:?}", model.running());
        // What the file says is drained is the file's affair.
        model.adopt(&model.running().to_rules());
        assert_eq!(rules::drained(&model.running()), []);
    }
}
