//! Schedulers, thresholds and the TCP state machine, choice for choice and state for state,
//! against recordings of the kernel.
//!
//! Every recording whose name fits a family is replayed. They are taken from `data/golden`, or
//! from the folder that the environment variable `RVS_GOLDEN_DIR` names.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use dataplane::flow::{Flow, Parsed};
use dataplane::schedule;
use serde_json::Value;

use support::model::Model;

mod support;

/// Where recordings are read from, and whether they are the project's own.
fn folder() -> (PathBuf, bool) {
    match std::env::var_os("RVS_GOLDEN_DIR") {
        Some(dir) => (dir.into(), false),
        None => {
            let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden");
            (own.into(), true)
        }
    }
}

/// Names of all recordings there, without their extension.
fn recordings() -> BTreeSet<String> {
    let (dir, _) = folder();
    let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    files
        .filter_map(|file| file.unwrap().file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".json")?.to_owned()))
        .collect()
}

fn load(name: &str) -> Value {
    let path = folder().0.join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The recorded packet as a frame, parsed.
fn flow(step: &Value) -> Flow {
    let text = |key: &str| step[key].as_str().unwrap().to_owned();
    let flags: Vec<_> = step["flags"]
        .as_str()
        .unwrap_or("")
        .chars()
        .map(|c| match c {
            'F' => "fin",
            'S' => "syn",
            'R' => "rst",
            'P' => "psh",
            'A' => "ack",
            'U' => "urg",
            'E' => "ece",
            _ => "cwr",
        })
        .collect();
    let ip = if text("src").contains(':') {
        "ip6"
    } else {
        "ip"
    };
    let frame = support::notation::build(&format!(
        "eth 02:..:01 > 02:..:02 | {ip} {} > {} | {} {} > {} {}",
        text("src"),
        text("dst"),
        text("proto"),
        step["sport"],
        step["dport"],
        flags.join(" ")
    ));
    match Flow::parse(&frame, 0, frame.len() as u32) {
        Parsed::Ip(flow) => flow,
        other => panic!("{other:?}: {step}"),
    }
}

fn set(model: &mut Model, name: &str, value: &Value) {
    let number = value
        .as_u64()
        .or_else(|| value.as_str()?.parse().ok())
        .unwrap_or_else(|| panic!("sysctl {name}: {value}"));
    let settings = &mut model.settings;
    match name {
        "conn_reuse_mode" => settings.conn_reuse_mode = number as u32,
        "sloppy_tcp" => settings.sloppy_tcp = number != 0,
        "lblc_expiration" => settings.lblc_expiration = number as u32,
        "lblcr_expiration" => settings.lblcr_expiration = number as u32,
        other => panic!("sysctl {other} is not modelled here"),
    }
}

/// State and timeout right after a packet, where the recording has them. The kernel's listing
/// cuts to whole seconds a moment later, so it shows one less.
fn check_state(model: &Model, step: &Value, flow: &Flow, place: &str) {
    let Some(expected) = step["state_after"].as_str() else {
        return;
    };
    let (state, left) = model.state(flow, step["from"] == "client");
    assert_eq!(state, expected, "{place}");
    let left = left - 1;
    let shown = format!("{:02}:{:02}", left / 60, left % 60);
    assert_eq!(Some(&*shown), step["expires_after"].as_str(), "{place}");
}

/// Replays a recording; returns how many packets were compared.
fn replay(name: &str) -> usize {
    let recording = load(name);
    let mut model = Model::default();
    for (key, value) in recording["sysctl"].as_object().unwrap() {
        set(&mut model, key, value);
    }
    for rule in recording["rules"].as_array().unwrap() {
        model.ipvsadm(rule.as_str().unwrap());
    }
    let mut compared = 0;
    for (i, step) in recording["steps"].as_array().unwrap().iter().enumerate() {
        let place = format!("{name}, step {i}: {step}");
        if let Some(args) = step["ipvsadm"].as_str() {
            model.ipvsadm(args);
        } else if let Some([name, value]) = step["sysctl"].as_array().map(Vec::as_slice) {
            set(&mut model, name.as_str().unwrap(), value);
        } else if let Some(seconds) = step["sleep"].as_f64() {
            model.sleep(Duration::from_secs_f64(seconds));
        } else if step["read"] == "ipvsadm -Ln" {
            model.compare(step["text"].as_str().unwrap(), &place);
        } else if step["from"] == "client" {
            let flow = flow(step);
            let to = model.client(&flow);
            assert_eq!(to.as_deref(), step["to"].as_str(), "{place}");
            check_state(&model, step, &flow, &place);
            compared += 1;
        } else if step["from"] == "server" {
            let flow = flow(step);
            if model.server(&flow) {
                check_state(&model, step, &flow, &place);
                compared += 1;
            }
        }
    }
    compared
}

/// Replays all recordings that belong to a family. The project's own are at least `files`, with
/// `packets` compared; of others there may be any number.
fn family(belongs: impl Fn(&str) -> bool, files: usize, packets: usize) {
    let names: Vec<_> = recordings().into_iter().filter(|n| belongs(n)).collect();
    let compared: usize = names.iter().map(|name| replay(name)).sum();
    if folder().1 {
        assert!(names.len() >= files, "only {names:?}");
        assert!(compared >= packets, "only {compared} packets compared");
    }
    println!("{compared} packets of {names:?}");
}

/// Whether a name is that of a scheduler, a hyphen, and what `fits`.
fn of_scheduler(name: &str, fits: impl Fn(&str) -> bool) -> bool {
    schedule::names().any(|s| {
        name.strip_prefix(s)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(&fits)
    })
}

#[test]
fn every_scheduler_spreads_new_connections_as_the_kernel() {
    family(|n| of_scheduler(n, |rest| rest.starts_with("syn")), 13, 780);
}

#[test]
fn every_scheduler_follows_connections_that_close() {
    family(
        |n| of_scheduler(n, |rest| rest.starts_with("close")),
        11,
        2000,
    );
}

#[test]
fn edits_in_mid_flight() {
    family(
        |n| of_scheduler(n, |rest| rest.starts_with("weights")),
        4,
        460,
    );
}

#[test]
fn flags_of_the_hashing_schedulers() {
    family(
        |n| of_scheduler(n, |rest| rest.starts_with("flags-")),
        4,
        240,
    );
}

#[test]
fn thresholds() {
    family(
        |n| of_scheduler(n, |rest| rest.starts_with("threshold")),
        3,
        360,
    );
}

#[test]
fn failover_and_no_server_left() {
    let fits = |rest: &str| rest.starts_with("allzero") || rest.starts_with("failover");
    family(|n| of_scheduler(n, fits), 4, 140);
}

/// The service goes through several schedulers while its connections live.
#[test]
fn a_changed_scheduler_starts_anew() {
    family(|n| n.starts_with("scheduler-change"), 1, 49);
}

#[test]
fn one_packet_services_and_udp() {
    family(
        |n| n.starts_with("ops-") || n.starts_with("udp-entries"),
        2,
        40,
    );
}

#[test]
fn tcp_states() {
    family(|n| n.starts_with("tcp-states"), 1, 61);
}

#[test]
fn packets_without_connection_and_reused_ports() {
    family(
        |n| n.starts_with("no-syn") || n.starts_with("conn-reuse"),
        4,
        4,
    );
}
