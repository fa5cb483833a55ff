//! Whole sessions through a worker, against recordings of the kernel: which real server a packet
//! goes to, what an answer looks like, and every listing that was read in between.
//!
//! `RVS_GOLDEN_DIR` names another folder of recordings. Expiry times are compared to within three
//! seconds: the recorded ones hold the time that the experiment itself took.

use std::time::Duration;

use dataplane::addr::{Addr, Endpoint};
use dataplane::command::ConnectionView;
use dataplane::packet::Verdict;
use dataplane::service::{Persistence, Protocol, ServiceKey, VirtualService};
use serde_json::Value;

mod support;
use support::notation;
use support::rig::{PORT_MACS, Rig, mac_of};

/// What one packet takes in the recordings, about.
const PACKET_TIME: Duration = Duration::from_millis(12);

/// The same where the state was read after each.
const LISTED_TIME: Duration = Duration::from_millis(80);

fn folder() -> String {
    std::env::var("RVS_GOLDEN_DIR")
        .unwrap_or_else(|_| format!("{}/tests/data/golden", env!("CARGO_MANIFEST_DIR")))
}

fn load(name: &str) -> Value {
    let path = format!("{}/{name}.json", folder());
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap()
}

/// The frame of a step, as it comes in.
fn frame(step: &Value) -> (u16, Vec<u8>) {
    let text = |key: &str| step[key].as_str().unwrap_or_default();
    let src: Addr = text("src").parse::<std::net::IpAddr>().unwrap().into();
    let from_server = step["from"] == "server";
    let neighbour = if from_server {
        mac_of(&src)
    } else {
        mac_of(
            &"192.168.40.254"
                .parse::<std::net::Ipv4Addr>()
                .unwrap()
                .into(),
        )
    };
    let port = u16::from(from_server);
    let flags = text("flags").chars().map(|c| match c {
        'F' => "fin",
        'S' => "syn",
        'R' => "rst",
        'P' => "psh",
        'A' => "ack",
        'U' => "urg",
        'E' => "ece",
        _ => "cwr",
    });
    let flags: Vec<_> = flags.collect();
    let ip = if text("src").contains(':') {
        "ip6"
    } else {
        "ip"
    };
    let data = match text("payload") {
        "" => String::new(),
        hex => format!("| data {hex}"),
    };
    let line = format!(
        "eth {neighbour} > {} | {ip} {} > {} | {} {} > {} {} {data}",
        PORT_MACS[usize::from(port)],
        text("src"),
        text("dst"),
        text("proto"),
        step["sport"],
        step["dport"],
        flags.join(" "),
    );
    (port, notation::build(&line))
}

/// Source and destination as they are in a frame.
fn ends(frame: &[u8]) -> (Endpoint, Endpoint) {
    use dataplane::flow::{Flow, Parsed};
    match Flow::parse(frame, 0, frame.len() as u32) {
        Parsed::Ip(f) => (
            Endpoint::new(f.src, f.src_port),
            Endpoint::new(f.dst, f.dst_port),
        ),
        other => panic!("{other:?}"),
    }
}

/// As the recordings name it: `address:port` after translation, otherwise the server's address.
fn sent_to(rig: &Rig, verdict: Verdict, before: &[u8], after: &[u8]) -> Option<String> {
    if verdict != Verdict::Transmit(dataplane::packet::PortId(1)) {
        return None;
    }
    let (_, to) = ends(after);
    if ends(before).1.addr != to.addr {
        return Some(to.to_string());
    }
    let dests = rig.services().iter().flat_map(|s| &s.destinations);
    let by_mac = dests
        .map(|d| d.endpoint.addr)
        .find(|a| after[..6] == mac_of(a).0);
    Some(by_mac.expect("a server's MAC").to_string())
}

fn service_line(service: &VirtualService) -> String {
    let name = match service.key {
        ServiceKey::Endpoint { protocol, endpoint } => format!("{:4} {endpoint}", protocol.name()),
        ServiceKey::Mark { mark, .. } => format!("FWM  {mark}"),
    };
    let persistent = match service.options.persistence {
        None => String::new(),
        Some(Persistence { timeout, mask, .. }) => {
            let is_v4 = service.key.family() == dataplane::addr::Family::V4;
            let mask = match (mask, is_v4) {
                (u32::MAX, true) | (128, false) => String::new(),
                (mask, true) => format!(" mask {}", std::net::Ipv4Addr::from(mask)),
                (len, false) => format!(" mask {len}"),
            };
            format!(" persistent {timeout}{mask}")
        }
    };
    let once = if service.options.one_packet {
        " ops"
    } else {
        ""
    };
    let flags: Vec<String> = [
        (service.options.flags.fallback, "fallback"),
        (service.options.flags.port, "port"),
    ]
    .into_iter()
    .filter(|(set, _)| *set)
    .map(|(_, flag)| format!("{}-{flag}", service.scheduler))
    .collect();
    let flags = match flags.join(",") {
        none if none.is_empty() => none,
        some => format!(" ({some})"),
    };
    format!("{name} {}{flags}{persistent}{once}\n", service.scheduler)
}

/// `ipvsadm -Ln`, or `-Ln --persistent-conn`.
fn services(rig: &Rig, persistent: bool) -> String {
    let mut out = String::from("IP Virtual Server version 1.2.1 (size=4096)\n");
    out += if persistent {
        "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn \n  -> RemoteAddress:Port\n"
    } else {
        "Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
    };
    let mut all: Vec<_> = rig.services().to_vec();
    all.sort_by_key(|s| (s.key.mark(), s.key));
    for service in &mut all {
        out += &service_line(service);
        service
            .destinations
            .edit(|list| list.sort_by_key(|d| d.endpoint));
        for d in &service.destinations {
            let c = rig.counters.dest(d.id).unwrap();
            let (active, total) = (c.active.get(), c.total.get());
            let name = format!("  -> {:28}", d.endpoint.to_string());
            let counts = format!("{active:<10} {:<10}\n", total - active);
            out += &if persistent {
                format!("{name} {:<9} {:<11} {counts}", d.weight, c.persistent.get())
            } else {
                format!("{name} {:7} {:<6} {counts}", d.method.name(), d.weight)
            };
        }
    }
    out
}

/// A row of `-Lnc` without its expiry, and that in seconds.
fn row(line: &str) -> (String, i64) {
    let (minutes, seconds) = line[4..10].trim().split_once(':').unwrap();
    let expires = minutes.parse::<i64>().unwrap() * 60 + seconds.parse::<i64>().unwrap();
    (format!("{}{}", &line[..4], &line[10..]), expires)
}

fn printed(c: &ConnectionView) -> String {
    let protocol = c.protocol.map_or("IP", Protocol::name);
    let expires = format!("{:02}:{:02}", c.expires / 60, c.expires % 60);
    let (client, virtual_) = (c.client.to_string(), c.virtual_.to_string());
    format!(
        "{protocol:3} {expires:6} {:11} {client:18} {virtual_:18} {}",
        c.state, c.dest
    )
}

fn compare_connections(rig: &mut Rig, text: &str, place: &str) {
    let mut want: Vec<_> = text.lines().skip(2).map(row).collect();
    let mut got: Vec<_> = rig.connections().iter().map(|c| row(&printed(c))).collect();
    want.sort();
    got.sort();
    let names = |rows: &[(String, i64)]| rows.iter().map(|r| r.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&got).join("\n"), names(&want).join("\n"), "{place}");
    for (got, want) in got.iter().zip(&want) {
        assert!(
            (got.1 - want.1).abs() <= 3,
            "{place}: {got:?}, recorded {}",
            want.1
        );
    }
}

/// Replays a recording; returns how many packets were compared.
fn replay(name: &str) -> usize {
    let recording = load(name);
    let mut rig = Rig::new();
    for (key, value) in recording["sysctl"].as_object().unwrap() {
        sysctl(&mut rig, key, value);
    }
    for rule in recording["nft"].as_array().unwrap() {
        rig.nft(rule.as_str().unwrap());
    }
    for prefix in recording["local"].as_array().unwrap() {
        rig.local(prefix.as_str().unwrap());
    }
    for rule in recording["rules"].as_array().unwrap() {
        rig.ipvsadm(rule.as_str().unwrap());
    }
    let mut compared = 0;
    for (i, step) in recording["steps"].as_array().unwrap().iter().enumerate() {
        let place = format!("{name}, step {i}: {step}");
        if let Some(args) = step["ipvsadm"].as_str() {
            rig.ipvsadm(args);
        } else if let Some([key, value]) = step["sysctl"].as_array().map(Vec::as_slice) {
            sysctl(&mut rig, key.as_str().unwrap(), value);
        } else if let Some(seconds) = step["sleep"].as_f64() {
            rig.sleep(Duration::from_secs_f64(seconds));
        } else if let Some(command) = step["read"].as_str() {
            let text = step["text"].as_str().unwrap();
            match command {
                "ipvsadm -Lnc" => compare_connections(&mut rig, text, &place),
                "ipvsadm -Ln" => assert_eq!(services(&rig, false), text, "{place}"),
                "ipvsadm -Ln --persistent-conn" => {
                    assert_eq!(services(&rig, true), text, "{place}");
                }
                // Compared by the control side's tests.
                "ipvsadm -Ln --stats" | "ipvsadm -Ln --thresholds" => {}
                other => panic!("{place}: {other}"),
            }
        } else if !step["from"].is_null() {
            let (port, frame) = frame(step);
            let (verdict, after) = rig.inject(port, &frame);
            if step["from"] == "client" {
                let to = sent_to(&rig, verdict, &frame, &after);
                assert_eq!(to.as_deref(), step["to"].as_str(), "{place}\n{verdict:?}");
            } else {
                // What is left to the kernel it forwards as it is.
                let (src, dst) = ends(&after);
                let reply = format!("{} {} > {} {}", src.addr, src.port, dst.addr, dst.port);
                assert_eq!(Some(reply.as_str()), step["reply"].as_str(), "{place}");
            }
            if let Some(state) = step["state_after"].as_str() {
                compare_state(&mut rig, step, state, &place);
            }
            compared += 1;
            let is_listed = !step["state_after"].is_null();
            rig.sleep(if is_listed { LISTED_TIME } else { PACKET_TIME });
        }
    }
    compared
}

/// State and expiry of the connection of a step's packet.
fn compare_state(rig: &mut Rig, step: &Value, state: &str, place: &str) {
    let (src, sport) = (
        step["src"].as_str().unwrap(),
        step["sport"].as_u64().unwrap(),
    );
    let (dst, dport) = (
        step["dst"].as_str().unwrap(),
        step["dport"].as_u64().unwrap(),
    );
    let is = |c: &ConnectionView, addr: &str, port: u64| {
        c.client.addr.to_string() == addr && u64::from(c.client.port) == port
    };
    let all = rig.connections();
    let found = all.iter().find(|c| is(c, src, sport) || is(c, dst, dport));
    let found = found.unwrap_or_else(|| panic!("{place}: no connection"));
    assert_eq!(found.state, state, "{place}");
    let (minutes, seconds) = step["expires_after"]
        .as_str()
        .unwrap()
        .split_once(':')
        .unwrap();
    let expires: u32 = minutes.parse::<u32>().unwrap() * 60 + seconds.parse::<u32>().unwrap();
    assert!(
        expires.abs_diff(found.expires) <= 1,
        "{place}: {}",
        found.expires
    );
}

fn sysctl(rig: &mut Rig, key: &str, value: &Value) {
    let value = value
        .as_u64()
        .or_else(|| value.as_str()?.parse().ok())
        .unwrap();
    rig.change_settings(|s| match key {
        "expire_quiescent_template" => s.expire_quiescent_template = value != 0,
        "expire_nodest_conn" => s.expire_nodest_conn = value != 0,
        "conn_reuse_mode" => s.conn_reuse_mode = value as u32,
        "sloppy_tcp" => s.sloppy_tcp = value != 0,
        other => panic!("sysctl {other}"),
    });
}

/// All recordings of the folder, whatever their names: another folder may have others.
#[test]
fn every_recording() {
    let folder = folder();
    for file in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder}: {e}")) {
        let file = file.unwrap().file_name().into_string().unwrap();
        if let Some(name) = file.strip_suffix(".json")
            && !name.starts_with("packets-")
        {
            assert!(replay(name) > 0, "{name} holds no packet");
        }
    }
}

macro_rules! recordings {
    ($($test:ident $name:literal $least:literal,)*) => {
        $(#[test] fn $test() {
            let compared = replay($name);
            assert!(compared >= $least, "only {compared} packets compared");
        })*
    };
}

recordings! {
    persist_rr "persist-rr" 30,
    persist_rr_m24 "persist-rr-m24" 30,
    persist_v6_m64 "persist-v6-m64" 30,
    persist_anyport "persist-anyport" 30,
    persist_ftp "persist-ftp" 30,
    persist_two_services "persist-two-services" 30,
    persist_deleted "persist-deleted" 30,
    persist_weight0 "persist-weight0" 30,
    persist_weight0_expire "persist-weight0-expire" 30,
    persist_fwmark "persist-fwmark" 30,
    persist_fwmark_m16 "persist-fwmark-m16" 30,
    fwmark_wrr "fwmark-wrr" 30,
    udp_entries "udp-entries" 20,
    ops_wrr "ops-wrr" 31,
    conn_reuse_mode0 "conn-reuse-mode0" 22,
    conn_reuse "conn-reuse" 22,
    dh_close "dh-close" 143,
    dh_syn "dh-syn" 60,
    fo_close "fo-close" 235,
    fo_failover "fo-failover" 72,
    fo_syn "fo-syn" 60,
    lblc_close "lblc-close" 143,
    lblc_syn "lblc-syn" 60,
    lblcr_close "lblcr-close" 143,
    lblcr_syn "lblcr-syn" 60,
    lc_close "lc-close" 235,
    lc_syn "lc-syn" 60,
    mh_close "mh-close" 235,
    mh_flags_mh_fallback "mh-flags-mh-fallback" 60,
    mh_flags_mh_port "mh-flags-mh-port" 60,
    mh_syn "mh-syn" 60,
    mh_weights "mh-weights" 106,
    no_syn_sloppy "no-syn-sloppy" 10,
    no_syn "no-syn" 10,
    nodest_expire "nodest-expire" 42,
    nodest "nodest" 42,
    nq_close "nq-close" 235,
    nq_syn "nq-syn" 60,
    ovf_close "ovf-close" 140,
    ovf_failover "ovf-failover" 60,
    ovf_syn "ovf-syn" 60,
    rr_allzero "rr-allzero" 4,
    rr_close "rr-close" 235,
    rr_syn "rr-syn" 60,
    scheduler_change "scheduler-change" 49,
    sed_close "sed-close" 235,
    sed_syn "sed-syn" 60,
    sh_close "sh-close" 235,
    sh_flags_sh_fallback "sh-flags-sh-fallback" 60,
    sh_flags_sh_port "sh-flags-sh-port" 60,
    sh_syn "sh-syn" 60,
    sh_threshold_fallback "sh-threshold-fallback" 130,
    sh_threshold "sh-threshold" 109,
    sh_weights "sh-weights" 118,
    tcp_states "tcp-states" 61,
    wlc_allzero "wlc-allzero" 4,
    wlc_close "wlc-close" 235,
    wlc_syn "wlc-syn" 60,
    wlc_threshold "wlc-threshold" 130,
    wlc_weights "wlc-weights" 120,
    wrr_close "wrr-close" 235,
    wrr_syn "wrr-syn" 60,
    wrr_weights "wrr-weights" 124,
}
