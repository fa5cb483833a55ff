//! `rvsadm import-keepalived`: files in the styles found, with what comes of them beside them
//! (`import/NAME.conf`, `NAME.toml`, `NAME.report`), and what must hold of any file.
//!
//! With `UPDATE_EXPECTED=1` the expected files are written anew, to be read before they are
//! committed. Debian's `keepalived -t` says which of the files are right.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use control::cli::{Environment, Streams, SystemNames};
use control::config::{self, Config, Host};
use control::import::expand::Limits;
use control::import::files::{Alone, Disk};
use control::import::report::Class;
use control::import::tree::Node;
use control::import::{Import, import, keywords};
use proptest::prelude::*;

/// The files, and what `keepalived -t` ends with: 0, or 5 for what it warns of or refuses.
const FILES: [(&str, i32); 11] = [
    ("checks", 0),
    ("classic-dr", 0),
    ("cramped", 0),
    ("globals", 0),
    ("groups", 0),
    ("mistakes", 5),
    ("nat-sync-group", 0),
    ("omissions", 5),
    ("templates", 0),
    ("trackers", 0),
    ("unicast", 0),
];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import")
}

/// Imports a file of the directory, which the texts name without it.
fn run(name: &str) -> Import {
    std::env::set_current_dir(directory()).expect("the directory is there");
    let path = format!("{name}.conf");
    import(Path::new(&path), &Disk, "box", Limits::default()).expect("it can be read")
}

fn run_text(text: &str) -> Import {
    let path = Path::new("k.conf");
    import(path, &Alone(text.as_bytes()), "box", Limits::default()).expect("it is short")
}

/// What `rvsd` makes of a text when it has a port.
fn load(toml: &str) -> Result<Config, Vec<String>> {
    let host = Host {
        online: vec![0, 1, 2, 3],
        isolated: vec![],
        memory_mb: Some(16_384),
        ..Host::default()
    };
    let text = format!("{toml}\n[[port]]\nname = \"p\"\nnull = {{}}\n");
    config::parse(Path::new("import.toml"), &text, &host)
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

fn expect(file: &str, found: &str) {
    let path = directory().join(file);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, found).expect("the directory of tests is writable");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == found,
        "{file}, expected:\n{expected}\nfound:\n{found}"
    );
}

#[test]
fn files_become_what_stands_beside_them() {
    for (name, _) in FILES {
        let Import { toml, report } = run(name);
        expect(&format!("{name}.toml"), &toml);
        expect(&format!("{name}.report"), &report.to_string());
        if let Err(mistakes) = load(&toml) {
            panic!("{name}: {mistakes:#?}");
        }
    }
}

#[test]
fn every_file_is_tested() {
    let found = std::fs::read_dir(directory()).expect("the directory is there");
    let names = found.flatten().map(|entry| entry.path());
    let mut names: Vec<String> = names
        .filter(|path| path.extension().is_some_and(|e| e == "conf"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    let mut known: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    assert_eq!(names, known);
}

/// In a network namespace with the interfaces that the files name.
#[test]
fn keepalived_takes_the_files_for_what_we_do() {
    for (name, status) in FILES {
        let script = format!(
            "for i in eth0 eth1 eth2; do \
                 ip link add $i type veth peer name p$i && ip link set $i up || exit 99; done; \
             exec keepalived -t -f {name}.conf -i box"
        );
        let run = Command::new("unshare")
            .args(["-rn", "sh", "-c", &script])
            .current_dir(directory())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .expect("unshare of util-linux is there");
        let said = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(status), "{name}: {said}");
    }
}

/// What becomes of one line of a real service, as the lines of the TOML that it changes.
fn service(lines: &str) -> String {
    let text =
        format!("virtual_server 192.0.2.1 80 {{\n{lines}\nreal_server 10.0.0.1 80 {{\n}}\n}}");
    run_text(&text).toml
}

#[test]
fn defaults_are_those_of_keepalived() {
    let plain = service("");
    for line in [
        "protocol = \"udp\"",
        "scheduler = \"wlc\"",
        "method = \"nat\"",
        "weight = 1",
    ] {
        assert!(plain.contains(line), "{line} in {plain}");
    }
    assert!(service("persistence_timeout").contains("persistence_timeout = 360"));
    assert!(service("lb_kind dr\nprotocol TCP").contains("method = \"nat\""));
    assert!(service("lb_algo best").contains("scheduler = \"wlc\""));
    let text = "virtual_server 192.0.2.1 80 {\nprotocol TCP\nreal_server 10.0.0.1 80 {\nTCP_CHECK {\n}\n}\n}";
    let checked = run_text(text).toml;
    for line in [
        "delay_loop = \"60s\"",
        "timeout = \"5s\"",
        "retry = 1",
        "delay_before_retry = \"1s\"",
        "inhibit_on_failure = false",
        "reschedule_failed = false",
    ] {
        assert!(checked.contains(line), "{line} in {checked}");
    }
    let instance = "vrrp_instance V {\ninterface eth0\nvirtual_router_id 1\nstate MASTER\npriority 100\nvirtual_ipaddress {\n192.0.2.1\n}\n}";
    let Import { toml, report } = run_text(instance);
    for line in [
        "version = 2",
        "higher_prio_send_advert = false",
        "check_unicast_src = false",
        "master_refresh = \"0s\"",
    ] {
        assert!(toml.contains(line), "{line} in {toml}");
    }
    assert!(!toml.contains("initial_state"));
    assert!(
        report
            .to_string()
            .contains("no effect unless the priority is 255")
    );
}

#[test]
fn checks_inherit_from_server_and_service() {
    let text = "virtual_server 192.0.2.1 80 {
        delay_loop 7
        retry 4
        connect_timeout 9
        protocol TCP
        lb_kind NAT
        real_server 10.0.0.1 8080 {
            retry 3
            TCP_CHECK {
                connect_timeout 2
            }
        }
        real_server 10.0.0.2 8080 {
            TCP_CHECK {
            }
        }
    }";
    let config = load(&run_text(text).toml).expect("it loads");
    let checks = config.checks.values().next().expect("one service");
    let mut seen: Vec<(u64, u32, u64)> = Vec::new();
    for checks in checks.own.values() {
        for check in checks.iter() {
            let pace = &check.pace;
            let seconds = |time: std::time::Duration| time.as_secs();
            seen.push((seconds(pace.delay_loop), pace.retry, seconds(pace.deadline)));
        }
    }
    assert_eq!(seen, [(7, 3, 2), (7, 4, 9)]);
}

#[test]
fn what_is_not_taken_over_decides_the_exit_status() {
    for (text, incomplete) in [
        ("global_defs {\nenable_snmp_vrrp\n}", false),
        ("global_defs {\nlvs_sync_daemon eth0\n}", true),
        ("nonsense", true),
        ("include nothing.conf", true),
        ("}", true),
        ("@other nonsense", false),
        ("", false),
    ] {
        assert_eq!(run_text(text).report.is_incomplete(), incomplete, "{text}");
    }
}

#[test]
fn passwords_stay_out_of_the_report() {
    let text = "vrrp_instance V {\ninterface eth0\nvirtual_router_id 1\nauthentication {\nauth_type PASS\nauth_pass s3cr3t\n}\nvirtual_ipaddress {\n192.0.2.1\n}\n}";
    let Import { toml, report } = run_text(text);
    assert!(toml.contains("s3cr3t"));
    assert!(!report.to_string().contains("s3cr3t"));
}

#[test]
fn refusals_are_one_line_with_a_place_and_advice() {
    for (text, line) in [
        ("x\n~SEQ(A,1,999999) ~SEQ(B,1,999999) y", "k.conf:2: "),
        ("$A=$A\n\n${A}${A}", "k.conf:3: "),
        (&"a {".repeat(100), "k.conf:1: "),
    ] {
        let path = Path::new("k.conf");
        let refusal = import(path, &Alone(text.as_bytes()), "box", Limits::default());
        let refusal = refusal.expect_err(text).to_string();
        assert!(refusal.starts_with(line), "{refusal}");
        assert!(
            refusal.contains("; ") && refusal.lines().count() == 1,
            "{refusal}"
        );
    }
    let missing = import(Path::new("/no/k.conf"), &Disk, "box", Limits::default());
    let missing = missing.expect_err("it is not there").to_string();
    assert!(
        missing.starts_with("/no/k.conf: cannot be read: "),
        "{missing}"
    );
}

/// Runs the program in this process: status, standard output, standard error.
fn rvsadm(words: &[&str]) -> (u8, String, String) {
    let words: Vec<String> = std::iter::once(&"rvsadm")
        .chain(words)
        .map(ToString::to_string)
        .collect();
    let environment = Environment {
        names: &SystemNames,
        socket: "/nonexistent".into(),
        patience: std::time::Duration::from_secs(1),
        interrupt: &|| Err(std::io::ErrorKind::Unsupported.into()),
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let streams = Streams {
        input: &mut std::io::empty(),
        out: &mut out,
        err: &mut err,
    };
    let status = control::cli::run(&words, &environment, streams);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status, text(out), text(err))
}

#[test]
fn the_program_writes_where_it_is_told() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = |name: &str| {
        scratch
            .path()
            .join(name)
            .to_str()
            .expect("UTF-8")
            .to_owned()
    };
    let (good, bad) = (path("good.conf"), path("bad.conf"));
    let text = "@a virtual_server 192.0.2.1 80 {\n@a protocol TCP\n@a real_server 10.0.0.1 80 {\n@a }\n@a }\n";
    std::fs::write(&good, text).expect("written");
    std::fs::write(&bad, "nonsense\n").expect("written");

    let (status, out, err) = rvsadm(&["import-keepalived", &good, "--config-id", "a"]);
    assert_eq!(status, 0, "{err}");
    assert!(
        out.contains("[[service]]") && err.contains("TAKEN OVER"),
        "{out}{err}"
    );

    let (toml, report) = (path("out.toml"), path("report"));
    let words = ["import-keepalived", "-o", &toml, "--report", &report, &bad];
    let (status, out, err) = rvsadm(&words);
    assert_eq!((status, out.as_str()), (2, ""), "{err}");
    assert!(err.contains("1 not supported; packets can tell 1"), "{err}");
    assert!(
        std::fs::read_to_string(&toml)
            .expect("there")
            .contains("# [[port]]")
    );
    assert!(
        std::fs::read_to_string(&report)
            .expect("there")
            .contains("nonsense")
    );

    // It is there now, and may have been edited.
    let (status, _, err) = rvsadm(&words);
    assert_eq!(status, 1);
    assert!(err.contains("out.toml is there already; "), "{err}");
    let (status, _, err) = rvsadm(&["import-keepalived", "/nonexistent.conf"]);
    assert_eq!(status, 1);
    assert!(
        err.starts_with("/nonexistent.conf: cannot be read"),
        "{err}"
    );
    for words in [
        &["import-keepalived"][..],
        &["import-keepalived", "a", "b"],
        &["import-keepalived", "a", "-o"],
        &["import-keepalived", "a", "--report="],
    ] {
        assert_eq!(rvsadm(words).0, 2, "{words:?}");
    }
}

/// Words that mean something somewhere, and some that mean nothing anywhere.
const WORDS: &str = "global_defs vrrp_instance vrrp_sync_group vrrp_script track_file \
    vrrp_track_process virtual_server virtual_server_group real_server interface_up_down_delays \
    router_id vrrp_version vrrp_garp_master_delay vrrp_min_garp lvs_timeouts state MASTER BACKUP \
    interface eth0 virtual_router_id priority advert_int version use_vmac unicast_peer \
    unicast_src_ip authentication auth_type PASS AH auth_pass virtual_ipaddress \
    virtual_ipaddress_excluded virtual_routes nopreempt preempt_delay track_interface track_script \
    track_process notify_master group script interval weight rise fall user file init_file process \
    quorum param_match lb_algo rr wlc sh lb_kind lvs_method NAT DR TUN type gue gre port csum \
    protocol TCP UDP SCTP persistence_timeout persistence_granularity 255.255.255.0 \
    persistence_engine sip delay_loop retry warmup connect_timeout delay_before_retry \
    sorry_server sorry_server_inhibit hysteresis alpha omega ha_suspend inhibit_on_failure ops \
    sh-port flag-1 fwmark TCP_CHECK HTTP_GET SSL_GET SMTP_CHECK DNS_CHECK UDP_CHECK PING_CHECK \
    MISC_CHECK FILE_CHECK url path / digest status_code 200 200-299 virtualhost regex ( \
    connect_ip connect_port bindto bind_if helo_name name payload require_reply 0f misc_path \
    uthreshold lthreshold on off reverse dev label scope via table 0 1 2 80 255 300 0.5 -5 \
    99999999999 10.0.0.1 10.0.0.2 10.0.0.0/8 192.0.2.1/24 2001:db8::1 fe80::1 0.0.0.0 224.0.0.1 \
    nonsense";

fn word() -> impl Strategy<Value = String> {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    prop_oneof![
        9 => proptest::sample::select(words).prop_map(str::to_owned),
        1 => "[a-z0-9\\\\'.:/é\u{1}-]{1,5}",
    ]
}

fn line() -> impl Strategy<Value = String> {
    proptest::collection::vec(word(), 1..4).prop_map(|words| words.join(" "))
}

fn tree() -> impl Strategy<Value = String> {
    let leaf = line().prop_map(|line| format!("{line}\n"));
    let block = leaf.prop_recursive(4, 60, 8, |inner| {
        (line(), proptest::collection::vec(inner, 0..8))
            .prop_map(|(line, inner)| format!("{line} {{\n{}}}\n", inner.concat()))
    });
    proptest::collection::vec(block, 0..6).prop_map(|blocks| blocks.concat())
}

/// A file that makes sense but for what may stand in its blocks.
fn plausible() -> impl Strategy<Value = String> {
    let lines = |most| proptest::collection::vec(line(), 0..most).prop_map(|l| l.join("\n"));
    let instance = (lines(6), lines(3)).prop_map(|(a, b)| {
        format!("vrrp_instance V {{\ninterface eth0\nvirtual_router_id 1\n{a}\nvirtual_ipaddress {{\n10.1.1.1\n{b}\n}}\n}}\n")
    });
    let checker = (
        proptest::sample::select(vec![
            "TCP_CHECK",
            "HTTP_GET",
            "UDP_CHECK",
            "DNS_CHECK",
            "SMTP_CHECK",
        ]),
        lines(4),
        lines(4),
    )
        .prop_map(|(name, a, b)| format!("{name} {{\n{a}\nurl {{\n{b}\n}}\n}}\n"));
    let service = (lines(6), lines(5), checker).prop_map(|(a, b, check)| {
        format!("virtual_server 10.2.2.2 80 {{\nprotocol TCP\n{a}\nreal_server 10.3.3.3 80 {{\n{b}\n{check}}}\n}}\n")
    });
    proptest::collection::vec(prop_oneof![instance, service], 1..4).prop_map(|b| b.concat())
}

fn walk<'a>(nodes: &'a [Node], out: &mut Vec<&'a Node>) {
    for node in nodes {
        out.push(node);
        walk(&node.children, out);
    }
}

fn nothing_is_dropped(text: &str) -> Result<(), TestCaseError> {
    let path = Path::new("k.conf");
    let files = Alone(text.as_bytes());
    let (nodes, count, _) = keywords(path, &files, "box", Limits::default()).expect("short");
    let mut all = Vec::new();
    walk(&nodes, &mut all);
    prop_assert_eq!(all.len(), count);
    let Import { toml, report } = run_text(text);
    let fate: BTreeMap<usize, Class> = report.keywords().collect();
    for node in all {
        prop_assert!(
            fate.contains_key(&node.id),
            "{} is lost in {}",
            node.text,
            text
        );
    }
    prop_assert_eq!(fate.len(), count);
    if let Err(mistakes) = load(&toml) {
        prop_assert!(false, "{:?}\nof\n{}\nmade of\n{}", mistakes, toml, text);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_keyword_is_in_the_report_and_the_rest_loads(text in tree()) {
        nothing_is_dropped(&text)?;
    }

    #[test]
    fn so_it_is_with_files_that_make_sense(text in plausible()) {
        nothing_is_dropped(&text)?;
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let limits = Limits { lines: 1000, bytes: 100_000 };
        if let Ok(done) = import(Path::new("k"), &Alone(&bytes), "box", limits) {
            prop_assert!(load(&done.toml).is_ok());
        }
    }
}
