//! What goes beyond ipvsadm: the connection to the daemon and its failures, words, JSON, captures.

mod ipvsadm_support;

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use control::api::{
    self, ConnectionRow, EngineData, ErrorKind, PortView, Protocol, Request, Response, StatusView,
    WorkerView,
};
use control::cli::{self, Environment, Streams};
use ipvsadm_support::*;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

const SERVICE: [&str; 3] = ["-A", "-t", "10.0.0.1:80"];

fn no_interrupt() -> io::Result<UnixStream> {
    UnixStream::pair().map(|(reader, writer)| {
        std::mem::forget(writer);
        reader
    })
}

/// Runs with little patience.
fn run_hastily(daemon: &Daemon, words: &[&str]) -> Output {
    let environment = Environment {
        names: &NoNames,
        socket: daemon.socket(),
        patience: Duration::from_millis(200),
        interrupt: &no_interrupt,
    };
    run_in(&environment, words, "")
}

fn row(n: u16) -> ConnectionRow {
    let addr = |text: &str| text.parse().expect("an address");
    ConnectionRow {
        protocol: Some(Protocol::Tcp),
        expires: 6001,
        state: "ESTABLISHED".into(),
        client: (addr("192.0.2.1"), n),
        virtual_: (addr("10.0.0.1"), 80),
        dest: (addr("10.0.0.2"), 8080),
        engine: None,
    }
}

// Reaching the daemon.

#[test]
fn no_socket_asks_whether_the_daemon_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = run(&directory.path().join("none"), &["-Ln"], "");
    assert_eq!((output.out.as_str(), output.status), ("", 2));
    assert!(
        output.err.starts_with("no admin socket at "),
        "{}",
        output.err
    );
    assert!(output.err.contains("is rvsd running?"), "{}", output.err);
    assert_eq!(output.err.lines().count(), 1);
}

#[test]
fn a_socket_left_behind_is_told_from_a_missing_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("sock");
    drop(UnixListener::bind(&path).expect("a socket"));
    let output = run(&path, &["-Ln"], "");
    assert!(output.err.contains("rvsd is not running"), "{}", output.err);
    assert_eq!(output.status, 2);
}

#[test]
fn a_closed_door_names_the_group() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o0)).expect("permissions");
    let output = daemon.run(&["-Ln"], "");
    // Root passes every door.
    if output.status != 0 {
        assert!(
            output.err.starts_with("no permission to use "),
            "{}",
            output.err
        );
        assert_eq!(output.status, 2);
    }
}

#[test]
fn the_line_chooses_the_socket() {
    let (daemon, other) = (Daemon::start(), Daemon::start());
    let path = other.socket();
    let path = path.to_str().expect("text");
    assert_eq!(
        daemon
            .run(&[&["--socket", path], &SERVICE[..]].concat(), "")
            .status,
        0
    );
    assert!(daemon.state().services.is_empty());
    assert_eq!(other.state().services.len(), 1);
}

#[test]
fn a_daemon_that_never_answers_costs_a_bounded_time() {
    let daemon = Daemon::with(|mut stream, _| {
        while read_frame(&mut stream)?.is_some() {}
        Ok(())
    });
    let output = run_hastily(&daemon, &["-Ln"]);
    assert!(
        output.err.contains("does not answer (waited 0.2 s)"),
        "{}",
        output.err
    );
    assert_eq!(output.status, 2);
}

#[test]
fn a_daemon_that_accepts_nobody_costs_a_bounded_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("sock");
    // Room for one connection that is not accepted; the next one would wait.
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None);
    let listener = listener.expect("a socket");
    let addr = SocketAddrUnix::new(&path).expect("an address");
    rustix::net::bind(&listener, &addr).expect("a name");
    rustix::net::listen(&listener, 0).expect("a queue");
    let _waiting = UnixStream::connect(&path).expect("a place in the queue");
    let environment = Environment {
        names: &NoNames,
        socket: path.clone(),
        patience: Duration::from_millis(50),
        interrupt: &no_interrupt,
    };
    let output = run_in(&environment, &["-Ln"], "");
    assert!(output.err.contains("does not answer"), "{}", output.err);
    assert_eq!(output.status, 2);
}

#[test]
fn half_an_answer_is_called_that() {
    let daemon = Daemon::with(|mut stream, _| {
        read_frame(&mut stream)?;
        let frame = api::encode(&Response::Timeouts {
            tcp: 1,
            tcp_fin: 2,
            udp: 3,
        });
        stream.write_all(&frame[..frame.len() - 3])
    });
    let output = run_hastily(&daemon, &["-L", "--timeout"]);
    assert!(
        output.err.contains("before the end of its answer"),
        "{}",
        output.err
    );
    assert_eq!(output.status, 2);
}

#[test]
fn answers_that_make_no_sense_are_one_line() {
    let answers: [&[u8]; 3] = [
        b"\0\0\0\x02{}",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x10{\"kind\":\"flown\"}",
    ];
    for answer in answers {
        let daemon = Daemon::with(move |mut stream, _| {
            read_frame(&mut stream)?;
            stream.write_all(answer)
        });
        for words in [&["-Ln"][..], &["-Lnc"], &["status"], &["diff"], &SERVICE] {
            let output = run_hastily(&daemon, words);
            assert!(
                output.err.contains("of the same version?"),
                "{words:?}: {}",
                output.err
            );
            assert_eq!(
                (output.err.lines().count(), output.status),
                (1, 2),
                "{words:?}"
            );
        }
    }
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let daemon = Daemon::with(|mut stream, _| {
        read_frame(&mut stream)?;
        stream.write_all(&api::encode(&Response::Timeouts {
            tcp: 1,
            tcp_fin: 2,
            udp: 3,
        }))
    });
    for words in [
        &["-Ln"][..],
        &["-Lnc"],
        &["status"],
        &["diff"],
        &SERVICE,
        &["-Sn"],
    ] {
        let output = run_hastily(&daemon, words);
        assert!(
            output.err.contains("wrong kind (Timeouts)"),
            "{words:?}: {}",
            output.err
        );
        assert_eq!((output.out.as_str(), output.status), ("", 2), "{words:?}");
    }
}

#[test]
fn another_version_of_the_daemon_says_so() {
    let daemon = Daemon::with(|mut stream, _| {
        read_frame(&mut stream)?;
        let message = "rvsadm speaks API version 1, rvsd 2".to_string();
        stream.write_all(&api::encode(&Response::Error {
            error: ErrorKind::Version,
            message,
        }))
    });
    for words in [&["-Ln"][..], &["status"], &SERVICE, &["-Z"]] {
        let output = run_hastily(&daemon, words);
        assert_eq!(
            output.err, "rvsadm speaks API version 1, rvsd 2\n",
            "{words:?}"
        );
        assert_eq!(output.status, 2, "{words:?}");
    }
}

#[test]
fn refusals_without_a_text_of_ipvsadm_are_the_daemons() {
    for error in [
        ErrorKind::Capacity,
        ErrorKind::Busy,
        ErrorKind::Failed,
        ErrorKind::Config,
    ] {
        let daemon = Daemon::with(move |mut stream, _| {
            read_frame(&mut stream)?;
            let message = "the reason".to_string();
            stream.write_all(&api::encode(&Response::Error { error, message }))
        });
        let output = run_hastily(&daemon, &SERVICE);
        assert_eq!(
            (output.err.as_str(), output.status),
            ("the reason\n", 255),
            "{error:?}"
        );
        let output = run_hastily(&daemon, &["reload"]);
        assert_eq!(
            (output.err.as_str(), output.status),
            ("the reason\n", 1),
            "{error:?}"
        );
    }
}

#[test]
fn warnings_are_shown_and_are_no_failure() {
    let daemon = Daemon::start();
    daemon.state().warnings = vec!["no port holds 10.0.0.1".into()];
    let output = daemon.run(&SERVICE, "");
    let want = Output {
        out: String::new(),
        err: "warning: no port holds 10.0.0.1\n".into(),
        status: 0,
    };
    assert_eq!(output, want);
}

#[test]
fn a_restore_survives_that_an_idle_connection_was_closed() {
    let (closed, seen) = mpsc::channel::<()>();
    let daemon = Daemon::with(move |mut stream, state| {
        read_frame(&mut stream)?;
        state.lock().expect("fine").requests.push(Request::Clear);
        stream.write_all(&api::encode(&Response::Ok {
            warnings: Vec::new(),
        }))?;
        stream.shutdown(Shutdown::Both)?;
        let _ = closed.send(());
        Ok(())
    });
    /// Gives the next line when the daemon has hung up.
    struct Slow(mpsc::Receiver<()>, u32);
    impl io::Read for Slow {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            if self.1 > 0 {
                self.0
                    .recv_timeout(Duration::from_secs(20))
                    .map_err(io::Error::other)?;
            }
            self.1 += 1;
            if self.1 > 3 {
                return Ok(0);
            }
            bytes[..3].copy_from_slice(b"-C\n");
            Ok(3)
        }
    }
    let environment = Environment {
        names: &NoNames,
        socket: daemon.socket(),
        patience: Duration::from_secs(20),
        interrupt: &no_interrupt,
    };
    let words = ["rvsadm", "-R"].map(str::to_string);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut input = io::BufReader::new(Slow(seen, 0));
    let streams = Streams {
        input: &mut input,
        out: &mut out,
        err: &mut err,
    };
    let status = cli::run(&words, &environment, streams);
    assert_eq!((status, String::from_utf8_lossy(&err).as_ref()), (0, ""));
    assert_eq!(daemon.state().requests.len(), 3);
}

// Listings.

#[test]
fn connections_are_printed_as_they_arrive() {
    let (proceed, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let daemon = Daemon::with(move |mut stream, _| {
        read_frame(&mut stream)?;
        let batch = |n, more| {
            api::encode(&Response::Connections {
                rows: vec![row(n)],
                more,
            })
        };
        stream.write_all(&batch(1, true))?;
        // The second batch leaves only after the first was seen on the other side.
        wait.lock()
            .expect("one user")
            .recv_timeout(Duration::from_secs(20))
            .map_err(io::Error::other)?;
        stream.write_all(&batch(2, false))
    });
    /// Says when the first row was printed.
    struct Watch(Vec<u8>, mpsc::Sender<()>);
    impl Write for Watch {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            if self.0.windows(11).any(|w| w == b"192.0.2.1:1") {
                let _ = self.1.send(());
            }
            Ok(())
        }
    }
    let mut out = Watch(Vec::new(), proceed);
    let mut err = Vec::new();
    let environment = Environment {
        names: &NoNames,
        socket: daemon.socket(),
        patience: Duration::from_secs(20),
        interrupt: &no_interrupt,
    };
    let words = ["rvsadm", "-Lnc"].map(str::to_string);
    let streams = Streams {
        input: &mut io::empty(),
        out: &mut out,
        err: &mut err,
    };
    assert_eq!(
        cli::run(&words, &environment, streams),
        0,
        "{}",
        String::from_utf8_lossy(&err)
    );
    let text = String::from_utf8(out.0).expect("text");
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(
        text.contains(
            "TCP 100:01 ESTABLISHED 192.0.2.1:1        10.0.0.1:80        10.0.0.2:8080\n"
        ),
        "{text}"
    );
}

#[test]
fn a_service_in_several_frames_is_printed_once() {
    let daemon = Daemon::start();
    let mut lines = "-A -t 10.0.0.1:80\n".to_string();
    for n in 0..3000 {
        lines += &format!("-a -t 10.0.0.1:80 -r 10.1.{}.{} -m\n", n / 250, n % 250 + 1);
    }
    assert_eq!(daemon.run(&["-R"], &lines).status, 0);
    let output = daemon.run(&["-Ln"], "");
    let count = |start| output.out.lines().filter(|l| l.starts_with(start)).count();
    assert_eq!((count("TCP "), count("  -> 10.1.")), (1, 3000));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let daemon = Daemon::start();
    daemon.state().connections = (0..500).map(row).collect();
    let (reader, mut writer) = UnixStream::pair().expect("a pair");
    drop(reader);
    let mut err = Vec::new();
    let environment = Environment {
        names: &NoNames,
        socket: daemon.socket(),
        patience: Duration::from_secs(20),
        interrupt: &no_interrupt,
    };
    let words = ["rvsadm", "-Lnc"].map(str::to_string);
    let streams = Streams {
        input: &mut io::empty(),
        out: &mut writer,
        err: &mut err,
    };
    assert_eq!(cli::run(&words, &environment, streams), 0);
    assert_eq!(String::from_utf8_lossy(&err), "");
}

#[test]
fn json_listings_keep_their_shape() {
    let daemon = Daemon::start();
    daemon.run(&SERVICE, "");
    daemon.run(
        &[
            "-a",
            "-t",
            "10.0.0.1:80",
            "-r",
            "[fd00::2]:80",
            "-i",
            "-x",
            "9",
            "-y",
            "3",
        ],
        "",
    );
    daemon.state().connections = (1..=8).map(row).collect();
    let json = |words: &[&str]| -> serde_json::Value {
        let output = daemon.run(words, "");
        assert_eq!((output.err.as_str(), output.status), ("", 0), "{words:?}");
        assert!(output.out.ends_with('\n'), "{words:?}");
        serde_json::from_str(&output.out).unwrap_or_else(|err| panic!("{words:?}: {err}"))
    };
    let zero = serde_json::json!(
        {"conns": 0, "in_pkts": 0, "out_pkts": 0, "in_bytes": 0, "out_bytes": 0}
    );
    let services = serde_json::json!({
        "table_size": 4096,
        "services": [{
            "protocol": "tcp", "address": "10.0.0.1", "port": 80, "scheduler": "wlc",
            "flags": [], "one_packet": false, "live": true, "origin": "live", "stats": zero, "rates": zero,
            "servers": [{
                "address": "fd00::2", "port": 80, "method": "tunnel", "weight": 1,
                "configured_weight": 1, "upper_threshold": 9, "lower_threshold": 3, "active": 0,
                "inactive": 0, "persistent": 0, "origin": "live", "stats": zero, "rates": zero,
                "tunnel": {"kind": "ipip", "port": 0, "checksum": "none"},
            }],
        }],
    });
    for words in [
        &["--json"][..],
        &["-L", "--json"],
        &["-Ln", "--stats", "--json"],
    ] {
        assert_eq!(json(words), services, "{words:?}");
    }
    let connections = json(&["-Lnc", "--json"]);
    let connections = connections["connections"].as_array().expect("an array");
    assert_eq!(connections.len(), 8);
    assert_eq!(
        connections[7],
        serde_json::json!({
            "protocol": "tcp", "expires": 6001, "state": "ESTABLISHED",
            "client": {"address": "192.0.2.1", "port": 8},
            "virtual": {"address": "10.0.0.1", "port": 80},
            "server": {"address": "10.0.0.2", "port": 8080},
        })
    );
    daemon.state().connections.clear();
    assert_eq!(
        json(&["-Lc", "--json"]),
        serde_json::json!({"connections": []})
    );
    let timeouts = serde_json::json!({"tcp": 900, "tcp_fin": 120, "udp": 300});
    assert_eq!(json(&["-L", "--timeout", "--json"]), timeouts);
    assert_eq!(
        json(&["-L", "--daemon", "--json"]),
        serde_json::json!({"daemons": []})
    );
}

#[test]
fn timeouts_of_a_service_are_shown_and_saved_if_it_has_any() {
    let daemon = Daemon::start();
    let run = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        daemon.run(&words, "")
    };
    run("-A -t 10.0.0.1:80");
    let added = run("-A -f 7 -s rr --conn-timeouts udp=5,tcp=60");
    assert_eq!((added.err.as_str(), added.status), ("", 0));
    let listed = run("-Ln").out;
    let ends = listed.ends_with("\nTCP  10.0.0.1:80 wlc\nFWM  7 rr timeouts tcp=60,udp=5\n");
    assert!(ends, "{listed}");
    let saved = run("-Sn").out;
    let want = "-A -t 10.0.0.1:80 -s wlc\n-A -f 7 -s rr --conn-timeouts tcp=60,udp=5\n";
    assert_eq!(saved, want);
    run("-C");
    let restored = daemon.run(&["-R"], want);
    assert_eq!((restored.err.as_str(), restored.status), ("", 0));
    assert_eq!(run("-Sn").out, want);
    let json: serde_json::Value = serde_json::from_str(&run("-L --json").out).expect("JSON");
    let timeouts = serde_json::json!({"tcp": 60, "tcp_fin": 0, "udp": 5, "sctp": 0});
    assert_eq!(json["services"][1]["timeouts"], timeouts);
    for (line, told) in [
        (
            "-A -u 10.0.0.1:53 --conn-timeouts tcp=5",
            "timeout tcp is of no use",
        ),
        (
            "-A -u 10.0.0.1:53 --conn-timeouts udp=0",
            "give 1 to 2678400",
        ),
    ] {
        let refused = run(line);
        assert!(
            refused.status == 2 && refused.err.contains(told),
            "{}",
            refused.err
        );
    }
}

/// As the kernel was recorded to list it.
#[test]
fn templates_of_an_engine_are_listed_with_its_data() {
    let daemon = Daemon::start();
    let mut template = row(0);
    template.protocol = Some(Protocol::Udp);
    template.state = "NONE".into();
    template.expires = 58;
    template.client = ("10.0.1.2".parse().expect("an address"), 0);
    template.virtual_ = ("10.0.0.100".parse().expect("an address"), 5060);
    template.dest = ("10.0.2.15".parse().expect("an address"), 5060);
    template.engine = Some(EngineData {
        name: "sip".into(),
        data: "abc123@host".into(),
    });
    let mut plain = template.clone();
    plain.engine = None;
    daemon.state().connections = vec![template, plain];
    let with = "pro expire state       source             virtual            destination        pe name          pe_data\n\
        UDP 00:58  NONE        10.0.1.2:0         10.0.0.100:5060    10.0.2.15:5060   sip                abc123@host\n\
        UDP 00:58  NONE        10.0.1.2:0         10.0.0.100:5060    10.0.2.15:5060\n";
    let listed = daemon.run(&["-Lnc", "--persistent-conn"], "").out;
    assert!(listed.ends_with(with), "{listed}");
    let listed = daemon.run(&["-Lnc"], "").out;
    assert!(!listed.contains("sip"), "{listed}");
    let json = daemon.run(&["-Lnc", "--json"], "").out;
    assert!(
        json.contains(r#""engine":{"name":"sip","data":"abc123@host"}"#),
        "{json}"
    );
}

#[test]
fn sysctls_are_listed_set_and_refused_by_name() {
    let daemon = Daemon::start();
    let output = daemon.run(&["sysctl", "secure_tcp", "net.ipv4.vs.drop_entry=3"], "");
    assert_eq!(
        output.out, "drop_entry = 3\nsecure_tcp = 0\n",
        "{}",
        output.err
    );
    assert_eq!(daemon.state().settings.drop_entry, 3);
    let output = daemon.run(&["sysctl", "--json", "drop_entry", "sync_threshold"], "");
    let json: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(
        json,
        serde_json::json!({"drop_entry": 3, "sync_threshold": "3 50"})
    );
    let output = daemon.run(&["sysctl"], "");
    assert_eq!(output.out.lines().count(), 33, "{}", output.out);
    let output = daemon.run(&["sysctl", "drop_entri"], "");
    assert!(
        output.err.contains("did you mean \"drop_entry\"?"),
        "{}",
        output.err
    );
    assert_eq!(output.status, 1);
}

#[test]
fn stats_are_a_table_or_json() {
    let daemon = Daemon::start();
    daemon.state().totals.0.in_pkts = 255;
    let output = daemon.run(&["stats", "--workers"], "");
    assert_eq!(output.out.matches(" FF ").count(), 2, "{}", output.out);
    let output = daemon.run(&["stats", "--json"], "");
    let json: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(json["total"]["in_pkts"], 255);
    assert_eq!(json["workers"][0]["in_pkts"], 255);
}

#[test]
fn status_is_a_table_or_json() {
    let daemon = Daemon::start();
    daemon.state().status = StatusView {
        version: "9.9".into(),
        ports: vec![PortView {
            name: "wan".into(),
            counters: vec![("rx".into(), 5), ("missed".into(), 2)],
            ..PortView::default()
        }],
        workers: vec![WorkerView {
            id: 3,
            load: 50.0,
            ..WorkerView::default()
        }],
        drops: vec![("no-route".into(), 4, "no route leads there".into())],
        connections: (1, 10),
        warnings: vec!["a rule is not mirrored".into()],
        ..StatusView::default()
    };
    let output = daemon.run(&["status"], "");
    assert_eq!((output.err.as_str(), output.status), ("", 0));
    for text in [
        "rvsd 9.9",
        "WARNING: a rule",
        "1 of 10",
        "missed",
        "no route leads there",
    ] {
        assert!(output.out.contains(text), "{text}: {}", output.out);
    }
    let output = daemon.run(&["status", "--json"], "");
    let json: serde_json::Value = serde_json::from_str(&output.out).expect("JSON");
    assert_eq!(json["ports"][0]["counters"]["missed"], 2);
    assert_eq!(json["workers"][0]["id"], 3);
    let drop =
        serde_json::json!({"reason": "no-route", "count": 4, "help": "no route leads there"});
    assert_eq!(json["drops"][0], drop);
    assert_eq!(
        json["connections"],
        serde_json::json!({"used": 1, "capacity": 10})
    );
}

// Words.

#[test]
fn words_print_the_text_of_the_daemon() {
    let daemon = Daemon::start();
    let said = |words: &[&str]| {
        let output = daemon.run(words, "");
        assert_eq!((output.err.as_str(), output.status), ("", 0), "{words:?}");
        output.out
    };
    assert_eq!(said(&["diff"]), "+ service tcp 10.0.0.1:80\n");
    assert_eq!(said(&["save"]), "saved 1 service\n");
    assert_eq!(said(&["reload"]), "discard_live=false\n");
    assert_eq!(said(&["reload", "--discard-live"]), "discard_live=true\n");
}

/// Treats a connection as a daemon does that captures until it is told to stop.
fn capture(mut stream: UnixStream, state: &Mutex<State>) -> io::Result<()> {
    let payload = read_frame(&mut stream)?.unwrap_or_default();
    let request = api::decode_request(&payload).expect("a request");
    let summary = |n| {
        api::encode(&Response::Text {
            text: format!("{n} packets"),
        })
    };
    match request {
        Request::StopCapture => {
            state.lock().expect("fine").requests.push(request);
            stream.write_all(&summary(7))
        }
        Request::Capture { packets, .. } => {
            state.lock().expect("fine").requests.push(request);
            let warnings = vec!["slow disk".to_string()];
            stream.write_all(&api::encode(&Response::Started { warnings }))?;
            if packets > 0 {
                stream.write_all(&summary(packets))?;
            }
            read_frame(&mut stream).map(|_| ())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_capture_ends_by_itself() {
    let daemon = Daemon::with(capture);
    let output = daemon.run(&["capture", "wan", "/tmp/x", "--packets", "3"], "");
    assert_eq!((output.out.as_str(), output.status), ("3 packets\n", 0));
    assert_eq!(
        output.err,
        "warning: slow disk\ncapturing; Ctrl-C ends it\n"
    );
}

#[test]
fn ctrl_c_ends_a_capture_with_its_summary() {
    let daemon = Daemon::with(capture);
    let (reader, mut writer) = UnixStream::pair().expect("a pair");
    writer.write_all(b"!").expect("a signal");
    let environment = Environment {
        names: &NoNames,
        socket: daemon.socket(),
        patience: Duration::from_secs(20),
        interrupt: &|| reader.try_clone(),
    };
    let output = run_in(&environment, &["capture", "wan", "/tmp/x", "udp"], "");
    assert_eq!(
        (output.out.as_str(), output.status),
        ("7 packets\n", 0),
        "{}",
        output.err
    );
    let state = daemon.state();
    let [Request::Capture { filter, .. }, Request::StopCapture] = &state.requests[..] else {
        panic!("{:?}", state.requests)
    };
    assert_eq!(filter, "udp");
}

#[test]
fn a_refused_capture_gives_the_reason() {
    let daemon = Daemon::with(|mut stream, _| {
        read_frame(&mut stream)?;
        let message = "port \"wam\" is unknown; known: wan".to_string();
        stream.write_all(&api::encode(&Response::Error {
            error: ErrorKind::Invalid,
            message,
        }))
    });
    let output = run_hastily(&daemon, &["capture", "wam", "/tmp/x"]);
    assert_eq!(
        (output.err.as_str(), output.status),
        ("port \"wam\" is unknown; known: wan\n", 1)
    );
}

#[test]
fn help_and_version_need_no_daemon() {
    let directory = tempfile::tempdir().expect("a directory");
    for words in [["-h"], ["--help"], ["-v"], ["--version"]] {
        let output = run(&directory.path().join("none"), &words, "");
        assert_eq!((output.err.as_str(), output.status), ("", 0), "{words:?}");
        assert!(output.out.starts_with("rvsadm "), "{words:?}");
    }
}

/// A long restore waits for the disk once, a short one with each line.
#[test]
fn a_long_restore_is_a_batch() {
    for (lines, batches) in [(15, 0), (40, 1)] {
        let daemon = Daemon::start();
        let text: String = (0..lines)
            .map(|n| format!("-A -t 10.0.0.1:{} -s rr\n", 1000 + n))
            .collect();
        let output = daemon.run(&["-R"], &text);
        assert_eq!((output.status, output.err.as_str()), (0, ""));
        let state = daemon.state();
        let count = |wanted: &Request| state.requests.iter().filter(|r| *r == wanted).count();
        let (begun, ended) = (count(&Request::Batch), count(&Request::EndBatch));
        assert_eq!((begun, ended), (batches, batches), "{lines} lines");
        if batches > 0 {
            assert_eq!(state.requests.last(), Some(&Request::EndBatch));
        }
        assert_eq!(state.services.len(), lines);
    }
}
