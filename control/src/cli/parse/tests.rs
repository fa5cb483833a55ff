//! Walks the tables, so that no entry is half added, and pins what the recordings cannot show.

use std::net::IpAddr;

use super::*;
use crate::api::{
    DaemonSpec, Method, Netmask, Protocol, ServerKey, ServerSpec, ServiceSpec, SyncRole, Tunnel,
    TunnelChecksum, TunnelKind,
};
use crate::cli::options::{COMMANDS, OPTIONS, Opt, OptionSpec, Slot, Support, Value};

struct NoNames;

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

fn line(words: &[&str]) -> Result<Line, Failure> {
    let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
    command_line(&words, &NoNames)
}

fn action(text: &str) -> Action {
    let words: Vec<&str> = text.split_whitespace().collect();
    line(&words)
        .unwrap_or_else(|err| panic!("{text}: {err:?}"))
        .action
}

fn refusal(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    match line(&words) {
        Ok(line) => panic!("{text}: {line:?}"),
        Err(failure) => failure.message("rvsadm").unwrap_or_default(),
    }
}

/// A value an option takes.
fn sample(option: &OptionSpec) -> &'static str {
    match option.id {
        Opt::TcpService | Opt::UdpService | Opt::SctpService => "10.0.0.1:80",
        Opt::Server => "10.0.0.2:80",
        Opt::McastGroup => "224.0.0.81",
        Opt::Netmask => "255.255.255.0",
        Opt::SchedFlags => "flag-1",
        Opt::TunType => "ipip",
        Opt::ConnTimeouts => "tcp=60",
        Opt::Engine => "sip",
        _ => "7",
    }
}

/// The shortest line of a command that passes all checks, without `but`.
fn least(command: &CommandSpec, but: Slot) -> Vec<String> {
    let mut words = vec![format!("--{}", command.long)];
    words.extend(command.value.map(|_| "master".to_string()));
    for (slot, text) in [
        (Slot::Service, "-t 10.0.0.1:80"),
        (Slot::Server, "-r 10.0.0.2:80"),
    ] {
        if command.requires.contains(&slot) && slot != but {
            words.extend(text.split(' ').map(str::to_string));
        }
    }
    if command.command == Command::Set {
        words.extend(["1", "2", "3"].map(str::to_string));
    }
    words
}

fn parse(words: &[String]) -> Result<Line, Failure> {
    command_line(words, &NoNames)
}

#[test]
fn every_command_is_parsed_under_each_of_its_names() {
    for command in COMMANDS {
        let words = least(command, Slot::Free);
        let by_name = parse(&words);
        if command.support == Support::Later {
            let message = by_name.expect_err("a later version's").message("rvsadm");
            assert!(message.is_some_and(|m| m.starts_with(&format!("--{}", command.long))));
            continue;
        }
        let by_name = by_name.unwrap_or_else(|err| panic!("--{}: {err:?}", command.long));
        for letter in command.short {
            let mut words = words.clone();
            words[0] = format!("-{letter}");
            assert_eq!(parse(&words).expect("the same"), by_name, "-{letter}");
        }
    }
}

#[test]
fn every_option_is_parsed_in_each_of_its_forms_or_refused_by_name() {
    for option in OPTIONS.iter().filter(|o| o.id != Opt::Ipv6) {
        let owner = option.on.first().copied().unwrap_or(Command::List);
        let command = COMMANDS
            .iter()
            .find(|c| c.command == owner)
            .expect("in the table");
        let value = sample(option);
        let mut forms = vec![vec![format!("--{}", option.long)]];
        if option.value != Value::None {
            forms = vec![
                vec![format!("--{}", option.long), value.to_string()],
                vec![format!("--{}={value}", option.long)],
            ];
        }
        if let Some(letter) = option.short {
            forms.push(match option.value {
                Value::None => vec![format!("-{letter}")],
                _ => vec![format!("-{letter}{value}")],
            });
            if option.value != Value::None {
                forms.push(vec![format!("-{letter}={value}")]);
                forms.push(vec![format!("-{letter}"), value.to_string()]);
            }
        }
        let results = forms.iter().map(|form| {
            let mut words = least(command, option.slot);
            // What an option needs beside itself.
            match option.slot {
                Slot::OnePacket => {
                    words[1..3].clone_from_slice(&["-u".into(), "10.0.0.1:80".into()])
                }
                Slot::TunType
                | Slot::TunCsum
                | Slot::TunNoCsum
                | Slot::TunRemCsum
                | Slot::TunPort => {
                    words.push("-i".into());
                }
                _ => {}
            }
            if matches!(
                option.slot,
                Slot::TunCsum | Slot::TunNoCsum | Slot::TunRemCsum | Slot::TunPort
            ) {
                words.extend(["--tun-type", "gue"].map(str::to_string));
                if option.slot != Slot::TunPort {
                    words.extend(["--tun-port", "7"].map(str::to_string));
                }
            }
            words.extend(form.iter().cloned());
            match parse(&words) {
                Ok(line) => format!("{line:?}"),
                Err(failure) => failure.message("rvsadm").unwrap_or_default(),
            }
        });
        let results: Vec<String> = results.collect();
        assert!(
            results.iter().all(|r| *r == results[0]),
            "--{}: {results:#?}",
            option.long
        );
        let refused = results[0].ends_with("is not supported by this version of rvsadm");
        assert_eq!(
            refused,
            option.support == Support::Later,
            "--{}: {}",
            option.long,
            results[0]
        );
        let parsed = results[0].starts_with("Line {");
        assert_eq!(
            parsed,
            option.support == Support::Now,
            "--{}: {}",
            option.long,
            results[0]
        );
    }
}

#[test]
fn a_server_gets_the_port_of_its_service_unless_translated() {
    let request = |text| match action(text) {
        Action::Change(Request::AddServer { server, spec, .. }) => (server, spec),
        other => panic!("{other:?}"),
    };
    let key = |port| ServerKey {
        addr: "10.0.0.2".parse().expect("an address"),
        port,
    };
    let spec = |method| ServerSpec {
        method,
        weight: 1,
        upper: 0,
        lower: 0,
        tunnel: Tunnel::default(),
    };
    let direct = (key(80), spec(Method::Route));
    assert_eq!(request("-a -t 10.0.0.1:80 -r 10.0.0.2:8080"), direct);
    assert_eq!(request("-a -t 10.0.0.1:80 -r 10.0.0.2"), direct);
    assert_eq!(
        request("-a -t 10.0.0.1:80 -r 10.0.0.2:1 -i"),
        (key(80), spec(Method::Tunnel))
    );
    assert_eq!(
        request("-a -t 10.0.0.1:80 -r 10.0.0.2:8080 -m"),
        (key(8080), spec(Method::Masq))
    );
    assert_eq!(
        request("-a -t 10.0.0.1:80 -r 10.0.0.2 -m"),
        (key(80), spec(Method::Masq))
    );
}

#[test]
fn an_edit_falls_back_to_the_defaults() {
    let Action::Change(Request::EditService { spec, .. }) = action("-E -u 10.0.0.1:53") else {
        panic!("not an edit")
    };
    assert_eq!(
        spec,
        ServiceSpec {
            scheduler: "wlc".into(),
            ..ServiceSpec::default()
        }
    );
}

#[test]
fn nothing_at_all_is_a_list() {
    assert_eq!(line(&[]).expect("a list"), line(&["-L"]).expect("a list"));
    assert!(line(&["--json"]).expect("a list").json);
}

#[test]
fn socket_and_json_go_in_front_of_everything() {
    let with = line(&["--socket", "/run/x", "--json", "-Ln"]).expect("a list");
    assert_eq!((with.socket.as_deref(), with.json), (Some("/run/x"), true));
    let with = line(&["--socket=/run/x", "status", "--json"]).expect("status");
    assert_eq!((with.socket.as_deref(), with.json), (Some("/run/x"), true));
    let behind = line(&["-Ln", "--json", "--socket", "/run/x"]).expect("a list");
    assert_eq!(
        (behind.socket.as_deref(), behind.json),
        (Some("/run/x"), true)
    );
    assert_eq!(
        refusal("--json -C"),
        "--json is only for listings and status"
    );
    assert_eq!(
        refusal("-C --json"),
        "Illegal 'json' option with the 'flush' command"
    );
    assert_eq!(refusal("--socket"), "--socket: missing argument");
}

#[test]
fn words_take_their_options_only() {
    assert_eq!(action("status"), Action::Status);
    assert_eq!(action("diff"), Action::Text(Request::Diff));
    assert_eq!(action("save"), Action::Text(Request::Save));
    assert_eq!(
        action("reload"),
        Action::Text(Request::Reload {
            discard_live: false
        })
    );
    let discard = Action::Text(Request::Reload { discard_live: true });
    assert_eq!(action("reload --discard-live"), discard);
    assert_eq!(
        refusal("diff --json"),
        "diff: unknown option `--json'; options of diff: none"
    );
    assert_eq!(
        refusal("reload --discard"),
        "reload: unknown option `--discard'; options of reload: --discard-live"
    );
    assert_eq!(
        refusal("reload --discard-live=1"),
        "reload: --discard-live takes no value"
    );
    assert_eq!(refusal("status now"), "unexpected argument now");
    assert_eq!(action("stats --workers"), Action::Stats { workers: true });
    let texts = |words: &[&str]| words.iter().map(|w| w.to_string()).collect::<Vec<_>>();
    assert_eq!(
        action("sysctl a=1 b net.ipv4.vs.c=2"),
        Action::Sysctl(Request::Sysctl {
            set: vec![
                ("a".into(), "1".into()),
                ("net.ipv4.vs.c".into(), "2".into())
            ],
            names: texts(&["b"]),
        })
    );
    assert_eq!(
        refusal("capture wan"),
        "usage: rvsadm capture PORT FILE [FILTER...]"
    );
    let zero = "capture: --packets needs a number of at least 1";
    assert_eq!(refusal("capture wan f --packets 0"), zero);
    assert_eq!(refusal("capture wan f --packets"), zero);
    assert!(refusal("statuss").starts_with("unknown command `statuss'; did you mean `status'?"));
    assert!(!refusal("frobnicate").contains("did you mean"));
}

#[test]
fn a_capture_gets_an_absolute_file_and_its_filter_in_one_piece() {
    let words = "capture wan /tmp/x.pcapng tcp port 80 --packets 10 --seconds=5";
    let Action::Capture(Request::Capture {
        port,
        file,
        filter,
        packets,
        seconds,
    }) = action(words)
    else {
        panic!("not a capture")
    };
    assert_eq!((port.as_str(), file.as_str()), ("wan", "/tmp/x.pcapng"));
    assert_eq!((filter.as_str(), packets, seconds), ("tcp port 80", 10, 5));
    let Action::Capture(Request::Capture { file, .. }) = action("capture wan x.pcapng") else {
        panic!("not a capture")
    };
    assert!(
        file.starts_with('/') && file.ends_with("/x.pcapng"),
        "{file}"
    );
}

#[test]
fn synchronisation_daemons() {
    let start = |text: &str| match action(text) {
        Action::Change(Request::StartDaemon { daemon }) => daemon,
        other => panic!("{text}: {other:?}"),
    };
    let least = start("--start-daemon backup");
    assert_eq!(
        (least.role, least.interface.as_str()),
        (SyncRole::Backup, "eth0")
    );
    let whole = start(
        "--start-daemon master --mcast-interface eth1 --syncid 9 --sync-maxlen 1000 --mcast-group \
         239.1.1.1 --mcast-port 9999 --mcast-ttl 3",
    );
    let want = DaemonSpec {
        role: SyncRole::Master,
        interface: "eth1".into(),
        syncid: 9,
        maxlen: Some(1000),
        group: "239.1.1.1".parse().expect("an address"),
        port: 9999,
        ttl: 3,
        peers: true,
    };
    assert_eq!(whole, want);
    let stop = Request::StopDaemon {
        role: SyncRole::Backup,
    };
    assert_eq!(action("--stop-daemon backup"), Action::Change(stop));
}

#[test]
fn tunnels() {
    let tunnel = |options: &str| {
        let line = format!("-a -t 10.0.0.1:80 -r 10.0.0.2 -i {options}");
        match action(&line) {
            Action::Change(Request::AddServer { spec, .. }) => {
                (spec.tunnel.kind, spec.tunnel.port, spec.tunnel.checksum)
            }
            other => panic!("{line}: {other:?}"),
        }
    };
    use {TunnelChecksum as Csum, TunnelKind as Kind};
    assert_eq!(tunnel(""), (Kind::Ipip, 0, Csum::None));
    assert_eq!(tunnel("--tun-type ipip"), (Kind::Ipip, 0, Csum::None));
    assert_eq!(tunnel("--tun-type gre"), (Kind::Gre, 0, Csum::None));
    assert_eq!(
        tunnel("--tun-csum --tun-type gre"),
        (Kind::Gre, 0, Csum::Full)
    );
    assert_eq!(
        tunnel("--tun-type gue --tun-port 6080 --tun-nocsum"),
        (Kind::Gue, 6080, Csum::None)
    );
    assert_eq!(
        tunnel("--tun-type gue --tun-port 65535 --tun-remcsum"),
        (Kind::Gue, 65535, Csum::Remote)
    );
    assert!(matches!(
        action("-Ln --tun-info"),
        Action::Services(Listing {
            format: Format::TunInfo,
            ..
        })
    ));
}

/// `-6` makes it a service of another family, with the full mask of that.
#[test]
fn a_mask_before_the_family_is_forgotten() {
    let mask = |line: &str| match action(line) {
        Action::Change(Request::AddService { spec, .. }) => {
            spec.persistence.map(|persistence| persistence.netmask)
        }
        other => panic!("{line}: {other:?}"),
    };
    for (line, want) in [
        ("-A -f 7 -6 -p 30 -M 64", Netmask::V6(64)),
        ("-A -f 7 -p 30 -M 64 -6", Netmask::V6(128)),
        ("-A -f 7 -p 30 -M 255.255.0.0 -6", Netmask::V6(128)),
    ] {
        assert_eq!(mask(line), Some(want), "{line}");
    }
}

#[test]
fn rules_of_marks_are_read_in_words() {
    let matches = |text: &str| MarkMatch::from_words(text.split_whitespace()).expect("a rule");
    let web = "destination 10.0.0.0/8 destination-port 80";
    assert_eq!(
        action(&format!("mark add 7 {web}")),
        Action::Text(Request::AddMark {
            matches: matches(web),
            mark: 7
        })
    );
    for text in [format!("mark delete {web}"), format!("mark delete 7 {web}")] {
        let request = Request::DeleteMark {
            matches: matches(web),
        };
        assert_eq!(action(&text), Action::Text(request), "{text}");
    }
    assert_eq!(action("mark list"), Action::Marks);
    assert!(refusal("mark").contains("rvsadm mark list | add"));
    assert!(refusal("mark add 0 vlan 1").contains("`0' is no mark"));
    assert!(refusal("mark add 1 dport 80").contains("unknown word"));
}

#[test]
fn no_line_panics() {
    use proptest::prelude::*;
    let word = prop_oneof![
        "[ -~]{0,12}",
        "-[A-Za-z6=]{1,5}",
        "--[a-z-]{1,8}(=.{0,5})?",
        proptest::sample::select(vec![
            "-A",
            "-E",
            "-D",
            "-C",
            "-a",
            "-e",
            "-d",
            "-L",
            "-S",
            "-R",
            "-Z",
            "--set",
            "-t",
            "-u",
            "-r",
            "10.0.0.1:80",
            "[::1]:80",
            "-s",
            "rr",
            "-p",
            "-i",
            "-m",
            "7",
            "--",
            "--json",
        ])
        .prop_map(str::to_string),
    ];
    let lines = proptest::collection::vec(word, 0..8);
    proptest!(|(words in lines)| {
        let _ = command_line(&words, &NoNames);
        let _ = restore_line(&words, &NoNames);
    });
}
