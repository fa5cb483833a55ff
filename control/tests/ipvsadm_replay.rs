//! Replays what was recorded from ipvsadm and compares every byte and every exit status.
//!
//! What this version does not support is refused by name; its services are then left out of the
//! listings they would appear in.

mod ipvsadm_support;

use std::collections::HashSet;
use std::net::SocketAddr;

use control::api::{ConnectionRow, Family, Protocol, ServerKey, ServiceKey, Stats};
use ipvsadm_support::*;

/// How a line ends that belongs to a later version.
const REFUSAL: &str = " is not supported by this version of rvsadm\n";

/// Lines that rvsadm answers otherwise on purpose.
const OUR_OWN: &[(&str, &str)] = &[
    (
        "extra",
        "a word in front is a command of ours, and an unknown one is named",
    ),
    (
        "-A -t [10.0.0.9]:80",
        "an IPv4 address in brackets is refused rather than read as port 0",
    ),
    (
        "-A -t vip6.example.net:80",
        "IPv6 names are refused as there, only in brackets are they ours",
    ),
];

fn assert_refused_by_name(recording: &Recording, ours: &Output) {
    let line = recording.line();
    assert_eq!((ours.out.as_str(), ours.status), ("", 2), "{line}");
    let option = ours.err.split([' ', ':']).next().expect("an option");
    let named = recording.words.iter().any(|word| {
        let long = word.split('=').next().expect("a word");
        let cluster = !word.starts_with("--") && option.len() == 2;
        long == option || cluster && word.contains(&option[1..]) || long_name_of(option) == long
    });
    assert!(named, "{line}: {}", ours.err);
}

fn long_name_of(option: &str) -> &str {
    match option {
        "-p" => "--persistent",
        "-M" => "--netmask",
        "-b" => "--sched-flags",
        "-f" => "--fwmark-service",
        "-6" => "--ipv6",
        other => other,
    }
}

fn both(output: &Output) -> String {
    format!("{}{}", output.out, output.err)
}

#[test]
fn refused_lines_are_refused_with_the_same_words() {
    let daemon = Daemon::start();
    let mut seen = 0;
    for recording in recordings(&data().join("grammar.txt")) {
        let ours = daemon.run(&recording.words(), "");
        let line = recording.line();
        if OUR_OWN.iter().any(|(own, _)| *own == line) {
            assert_ne!(ours.status, 0, "{line}");
            continue;
        }
        assert_eq!(
            (ours.out.as_str(), ours.err.as_str(), ours.status),
            ("", recording.output.as_str(), recording.status),
            "{line}"
        );
        seen += 1;
    }
    assert!(seen > 200, "only {seen} lines were compared");
    assert_eq!(
        daemon.state().requests,
        [],
        "a refused line asked the daemon"
    );
}

#[test]
fn every_command_takes_the_same_options() {
    let daemon = Daemon::start();
    // The machine of these recordings had other names.
    daemon.state().missing.push("eth0".to_owned());
    for recording in recordings(&data().join("options.txt")) {
        let ours = daemon.run(&recording.words(), "");
        let line = recording.line();
        if ours.err.ends_with(REFUSAL) {
            assert!(recording.status != 2, "{line}: {}", recording.output);
            assert_refused_by_name(&recording, &ours);
        } else {
            let want = (recording.output.as_str(), recording.status);
            assert_eq!((ours.err.as_str(), ours.status), want, "{line}");
        }
        daemon.state().services.clear();
    }
}

#[test]
fn commands_that_build_on_each_other() {
    let daemon = Daemon::start();
    for recording in recordings(&data().join("flow.txt")) {
        let words = recording.words();
        let ours = run_with(&daemon.socket(), &words, &recording.input, &RecordedNames);
        let line = recording.line();
        let status = ours.status;
        assert_eq!(
            (both(&ours), status),
            (recording.output.clone(), recording.status),
            "{line}"
        );
    }
}

/// Options that name a service.
const OPTIONS: [&str; 4] = ["-t", "-u", "--sctp-service", "-f"];

/// Services that only a later version can make, as `-t ADDRESS` names them.
#[derive(Default)]
struct Refused(HashSet<(String, String)>);

impl Refused {
    fn note(&mut self, words: &[String]) {
        for pair in words.windows(2) {
            if OPTIONS.contains(&pair[0].as_str()) {
                self.0.insert((pair[0].clone(), pair[1].clone()));
            }
        }
    }

    fn has(&self, option: &str, addr: &str) -> bool {
        !OPTIONS.contains(&option) || self.0.contains(&(option.into(), addr.into()))
    }

    /// The recorded output without them.
    fn filter(&self, output: &str) -> String {
        let mut keep = true;
        let kept = |line: &&str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                // A connection, not a service.
                ["TCP" | "UDP" | "SCTP" | "IP", expires, _, _, _, _] if expires.len() == 5 => {
                    return true;
                }
                ["TCP", addr, ..] => keep = !self.has("-t", addr),
                ["UDP", addr, ..] => keep = !self.has("-u", addr),
                ["FWM", mark, ..] => keep = !self.has("-f", mark),
                ["SCTP", addr, ..] => keep = !self.has("--sctp-service", addr),
                ["-A" | "-a", option, addr, ..] => keep = !self.has(option, addr),
                ["->", "RemoteAddress:Port", ..] => return true,
                ["->", ..] => {}
                _ => return true,
            }
            keep
        };
        output.split_inclusive('\n').filter(kept).collect()
    }
}

fn protocol_of(name: &str) -> Protocol {
    match name {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        other => panic!("{other}"),
    }
}

/// `IPv6` follows the mark of an IPv6 service.
fn service_key(protocol: &str, addr: &str, rest: &[&str]) -> ServiceKey {
    if protocol == "FWM" {
        let family = match rest.first() {
            Some(&"IPv6") => Family::Ipv6,
            _ => Family::Ipv4,
        };
        let mark = addr.parse().expect("a mark");
        return ServiceKey::Mark { mark, family };
    }
    let addr: SocketAddr = addr.parse().expect("an address");
    ServiceKey::new(protocol_of(protocol), addr.ip(), addr.port())
}

/// Gives the double the numbers that packets made in the recording.
fn feed(daemon: &Daemon, words: &[&str], listing: &str) {
    let mut state = daemon.state();
    if listing.starts_with("IPVS connection entries") {
        state.connections = listing.lines().skip(2).map(connection).collect();
        return;
    }
    let mut service = None;
    let mut order = Vec::new();
    for line in listing.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (key, numbers) = match fields[..] {
            [
                protocol @ ("TCP" | "UDP" | "SCTP" | "FWM"),
                addr,
                ref rest @ ..,
            ] => {
                order.push(service_key(protocol, addr, rest));
                service = order.last().copied();
                (None, rest)
            }
            ["->", addr, ref rest @ ..] if addr != "RemoteAddress:Port" => {
                let addr: SocketAddr = addr.parse().expect("an address");
                (
                    Some(ServerKey {
                        addr: addr.ip(),
                        port: addr.port(),
                    }),
                    rest,
                )
            }
            _ => continue,
        };
        let counts = state
            .counts
            .entry((service.expect("a service"), key))
            .or_default();
        let numbers: Vec<u64> = numbers.iter().filter_map(|n| n.parse().ok()).collect();
        let is = |option| words.contains(&option);
        match (&numbers[..], key) {
            (&[conns, in_pkts, out_pkts, in_bytes, out_bytes], _) => {
                let stats = Stats {
                    conns,
                    in_pkts,
                    out_pkts,
                    in_bytes,
                    out_bytes,
                };
                if is("--rate") {
                    counts.rates = stats
                } else {
                    counts.stats = stats
                }
            }
            (&[.., active, inactive], Some(_)) => {
                counts.active = active as u32;
                counts.inactive = inactive as u32;
                if is("--persistent-conn") {
                    counts.persistent = numbers[1] as u32;
                }
            }
            _ => {}
        }
    }
    if words.contains(&"--nosort") {
        state.reorder(&order);
    }
}

fn connection(line: &str) -> ConnectionRow {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [protocol, expires, state, client, service, server] = fields[..] else {
        panic!("{line}")
    };
    let (minutes, seconds) = expires.split_once(':').expect("MM:SS");
    let number = |n: &str| n.parse::<u32>().expect("a number");
    let endpoint = |text: &str| {
        let addr: SocketAddr = text.parse().expect("an endpoint");
        (addr.ip(), addr.port())
    };
    ConnectionRow {
        protocol: (protocol != "IP").then(|| protocol_of(protocol)),
        expires: number(minutes) * 60 + number(seconds),
        state: state.into(),
        client: endpoint(client),
        virtual_: endpoint(service),
        dest: endpoint(server),
        engine: None,
    }
}

#[test]
fn recorded_session() {
    let daemon = Daemon::start();
    let mut refused = Refused::default();
    // Recordings of one's own: `rules` and the numbered files in one folder.
    let (folder, files) = match std::env::var_os("RVS_IPVSADM_DIR").map(std::path::PathBuf::from) {
        Some(folder) => (folder.clone(), folder),
        None => (data(), data().join("recorded")),
    };
    let rules = std::fs::read_to_string(folder.join("rules")).expect("the rules");
    for rule in rules.lines() {
        let recording = Recording {
            words: rule
                .split_whitespace()
                .skip(1)
                .map(str::to_string)
                .collect(),
            input: String::new(),
            note: String::new(),
            output: String::new(),
            status: 0,
        };
        if refused
            .filter(rule.trim_start_matches("ipvsadm "))
            .is_empty()
        {
            continue;
        }
        let ours = daemon.run(&recording.words(), "");
        if ours.status == 0 {
            assert_eq!(both(&ours), "", "{rule}");
            continue;
        }
        assert!(ours.err.ends_with(REFUSAL), "{rule}: {}", ours.err);
        assert_refused_by_name(&recording, &ours);
        refused.note(&recording.words);
        // A service of which a server is missing could not be compared.
        let service: Vec<&str> = recording.words().into_iter().skip(1).take(2).collect();
        daemon.run(&[&["-D"], &service[..]].concat(), "");
    }
    let mut files: Vec<_> = std::fs::read_dir(files)
        .expect("recordings")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    let mut compared = 0;
    for file in files {
        for recording in recordings(&file) {
            compared += usize::from(replay(&daemon, &recording, &mut refused));
        }
    }
    assert!(compared > 45, "only {compared} recordings were compared");
}

/// Whether the recording could be compared.
fn replay(daemon: &Daemon, recording: &Recording, refused: &mut Refused) -> bool {
    let line = recording.line();
    let words = recording.words();
    if line == "--version" {
        assert!(daemon.run(&words, "").out.starts_with("rvsadm "));
        return false;
    }
    if recording.note.contains("save, clear, restore") {
        let saved = daemon.run(&["-Sn"], "");
        assert_eq!(daemon.run(&["-C"], "").status, 0);
        let restored = daemon.run(&["-R"], &saved.out);
        assert_eq!((both(&restored).as_str(), restored.status), ("", 0));
    }
    let want = refused.filter(&recording.output);
    if !recording.note.contains("after zeroing") {
        feed(daemon, &words, &want);
    }
    let ours = daemon.run(&words, "");
    if ours.err.ends_with(REFUSAL) {
        assert_refused_by_name(recording, &ours);
        refused.note(&recording.words);
        return false;
    }
    let about_refused = words
        .windows(2)
        .any(|pair| OPTIONS.contains(&pair[0]) && refused.has(pair[0], pair[1]));
    if about_refused {
        return false;
    }
    assert_eq!(
        (both(&ours), ours.status),
        (want, recording.status),
        "{line}   # {}",
        recording.note
    );
    true
}

/// The recordings of listings with flags belong to persistent services; these are the same lines
/// without persistence.
#[test]
fn scheduler_flags_are_listed_and_saved() {
    let daemon = Daemon::start();
    for line in [
        "-A -u 192.168.40.200:5060 -s sh -b sh-port,sh-fallback",
        "-A -t 192.168.40.201:80 -s mh -b mh-port",
        "-A -t 192.168.40.202:80 -s wlc -b flag-1,flag-3",
        "-E -t 192.168.40.202:80 -s rr",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let ours = daemon.run(&words, "");
        assert_eq!((ours.err.as_str(), ours.status), ("", 0), "{line}");
    }
    let listing = daemon.run(&["-Ln"], "").out;
    let services: Vec<_> = listing.lines().skip(3).collect();
    let expected = [
        "TCP  192.168.40.201:80 mh (mh-port)",
        "TCP  192.168.40.202:80 rr",
        "UDP  192.168.40.200:5060 sh (sh-fallback,sh-port)",
    ];
    assert_eq!(services, expected);
    let saved = daemon.run(&["-Sn"], "").out;
    let expected = [
        "-A -t 192.168.40.201:80 -s mh -b mh-port",
        "-A -t 192.168.40.202:80 -s rr",
        "-A -u 192.168.40.200:5060 -s sh -b sh-fallback,sh-port",
    ];
    assert_eq!(saved.lines().collect::<Vec<_>>(), expected);
    daemon.state().services.clear();
    assert_eq!(daemon.run(&["-R"], &saved).status, 0);
    assert_eq!(daemon.run(&["-Sn"], "").out, saved);
}
