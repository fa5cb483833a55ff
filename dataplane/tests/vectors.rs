//! Runs the packet vectors: `vectors/parse` through the parser, `vectors/worker` through a
//! worker in the network of `support/rig.rs`. `support/notation.rs` explains how packets are
//! written, `vectors/README.md` the lines.

use dataplane::flow::{Flow, Parsed};
use dataplane::packet::{DropReason, Verdict};
use dataplane::wire::fragment::Fragments;

mod support;
use support::notation;
use support::rig::{self, Rig};
use support::vectors::{self, Vector};

#[test]
fn parse() {
    for vector in vectors::load("parse") {
        let frame = notation::build(vector.need("in"));
        let tci = vector.get("tci").map_or(0, |n| notation::number(n) as u16);
        let wire_len = vector
            .get("wire")
            .map_or(frame.len() as u64, notation::number);
        let parsed = Flow::parse(&frame, tci, wire_len as u32);
        assert_eq!(
            describe(&parsed),
            vector.need("parsed"),
            "{}",
            vector.name()
        );
        if let Parsed::Ip(flow) = parsed {
            let quoted = flow.parse_embedded(&frame).map(|q| {
                let (src, dst) = (
                    rig_endpoint(q.src, q.src_port),
                    rig_endpoint(q.dst, q.dst_port),
                );
                format!(
                    "{src} > {dst} protocol {} l3 {} l4 {}",
                    q.protocol, q.l3, q.l4
                )
            });
            assert_eq!(quoted.as_deref(), vector.get("quoted"), "{}", vector.name());
        }
    }
}

fn rig_endpoint(addr: dataplane::addr::Addr, port: u16) -> String {
    dataplane::addr::Endpoint::new(addr, port).to_string()
}

fn describe(parsed: &Parsed) -> String {
    let facts = |f: &Flow| {
        let (src, dst) = (
            rig_endpoint(f.src, f.src_port),
            rig_endpoint(f.dst, f.dst_port),
        );
        let mut text = format!("{src} > {dst} protocol {}", f.protocol);
        if f.protocol == 6 {
            text += &format!(" flags {:#04x}", f.tcp_flags);
        }
        text += &format!(" l3 {}+{} l4 {}+{}", f.l3, f.l3_len, f.l4, f.l4_len);
        if f.vlan != 0 {
            text += &format!(" vlan {}", f.vlan);
        }
        text
    };
    match parsed {
        Parsed::Ip(flow) => format!("ip {}", facts(flow)),
        Parsed::Fragment(flow, f) => {
            let more = if f.more { " more" } else { "" };
            format!(
                "fragment id {} offset {}{more} {}",
                f.id,
                f.offset,
                facts(flow)
            )
        }
        Parsed::NotIp { ethertype } => format!("not-ip {ethertype:#06x}"),
        Parsed::Bad(reason) => format!("bad {}", reason.name()),
    }
}

#[test]
fn worker() {
    for vector in vectors::load("worker") {
        Run::new(&vector).all();
    }
}

struct Run<'a> {
    vector: &'a Vector,
    rig: Rig,
    /// What left since the last `in`, not yet asked for by an `out`.
    left: Vec<Vec<u8>>,
    verdict: Option<Verdict>,
    /// Value of the last `in`.
    last: &'a str,
}

impl<'a> Run<'a> {
    fn new(vector: &'a Vector) -> Run<'a> {
        Run {
            vector,
            rig: Rig::new(),
            left: Vec::new(),
            verdict: None,
            last: "",
        }
    }

    fn all(mut self) {
        for (i, (key, value)) in self.vector.lines.iter().enumerate() {
            let place = format!("{}\n  line {}: {key} {value}", self.vector.name(), i + 1);
            match key.as_str() {
                "name" => {}
                "service" => vectors::service(&mut self.rig, value),
                "rule" => self.rig.ipvsadm(value),
                "set" => self.rig.set(value),
                "wait" => self.wait(notation::number(value)),
                "in" => {
                    self.last = value;
                    self.inject(value, &place);
                }
                "again" => self.again(value, &place),
                "verdict" => {
                    let verdict = self
                        .verdict
                        .take()
                        .unwrap_or_else(|| panic!("{place}: no in"));
                    assert_eq!(describe_verdict(verdict), *value, "{place}");
                }
                "out" => self.out(value, &place),
                "conn" => self.connection(value, &place),
                other => panic!("{place}: unknown key {other:?}"),
            }
        }
        self.nothing_is_left("the end");
    }

    /// Each `in` needs a `verdict`, and each frame that leaves an `out`.
    fn nothing_is_left(&self, place: &str) {
        let name = self.vector.name();
        assert!(self.verdict.is_none(), "{name}: no verdict before {place}");
        if let Some(frame) = self.left.first() {
            panic!(
                "{name}: no out before {place} for\n  {}",
                notation::print(frame)
            );
        }
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.rig.now = self.rig.now + std::time::Duration::from_secs(1);
            // All shards, in as many calls as that takes.
            (0..32).for_each(|_| self.rig.worker.expire(self.rig.now, 1000));
        }
    }

    /// `[port N |] [tci N |] eth … | …`
    fn inject(&mut self, value: &str, place: &str) {
        self.nothing_is_left(place);
        let (mut port, mut tci, mut packet) = (0, 0, value);
        while let Some((word, rest)) = packet.split_once('|') {
            match word.trim().split_once(' ') {
                Some(("port", n)) => port = notation::number(n) as u16,
                Some(("tci", n)) => tci = notation::number(n) as u16,
                _ => break,
            }
            packet = rest.trim();
        }
        let frame = notation::build(packet);
        let drops = |rig: &Rig, r: DropReason| rig.counters.drops[r as usize].get();
        let before: Vec<u64> = DropReason::ALL
            .iter()
            .map(|r| drops(&self.rig, *r))
            .collect();
        let (verdict, after) = self.rig.inject_tagged(port, &frame, tci);
        if let Verdict::Drop(reason) = verdict {
            let counted = drops(&self.rig, reason) - before[reason as usize];
            assert_eq!(counted, 1, "{place}\n  {reason:?} counted");
        }
        self.verdict = Some(verdict);
        self.left = match verdict {
            Verdict::Transmit(_) => vec![after],
            Verdict::Fragment(_, mtu) => cut(&after, mtu),
            _ => Vec::new(),
        };
    }

    /// `N VERDICT`: the last `in` N times more.
    fn again(&mut self, value: &str, place: &str) {
        let (n, verdict) = value.split_once(' ').expect("a number and a verdict");
        for _ in 0..notation::number(n) {
            self.inject(self.last, place);
            let got = self.verdict.take().map(describe_verdict);
            assert_eq!(got.as_deref(), Some(verdict), "{place}");
            self.left.clear();
        }
    }

    fn out(&mut self, value: &str, place: &str) {
        assert!(!self.left.is_empty(), "{place}: nothing more left");
        let got = self.left.remove(0);
        let want = notation::build_like(value, &got);
        assert_eq!(
            notation::to_hex(&got),
            notation::to_hex(&want),
            "{place}\n  got  {}\n  want {}",
            notation::print(&got),
            notation::print(&want)
        );
    }

    /// `none`, `count N`, or `VIP:PORT CLIENT:PORT -> REAL:PORT STATE SECONDSs`.
    fn connection(&mut self, value: &str, place: &str) {
        let found = self.rig.connections();
        let count = match value.split_once(' ') {
            None => Some(0),
            Some(("count", n)) => Some(notation::number(n)),
            Some(_) => None,
        };
        let shown: Vec<String> = found
            .iter()
            .map(|c| {
                let (v, p, d) = (c.virtual_, c.client, c.dest);
                format!("{v} {p} -> {d} {} {}s", c.state, c.expires)
            })
            .collect();
        match count {
            Some(n) => assert_eq!(found.len() as u64, n, "{place}\n  {shown:#?}"),
            None => assert!(shown.iter().any(|s| s == value), "{place}\n  {shown:#?}"),
        }
    }
}

fn cut(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let l3 = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    let mut fragments = Fragments::new(frame, l3, mtu).expect("a packet to cut");
    let mut out = Vec::new();
    while let Some(len) = fragments.next_len() {
        let mut buffer = vec![0; len];
        assert_eq!(fragments.write(&mut buffer), Some(len));
        out.push(buffer);
    }
    out
}

fn describe_verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Transmit(port) => format!("transmit port {}", port.0),
        Verdict::Fragment(port, mtu) => format!("fragment port {} mtu {mtu}", port.0),
        Verdict::Kernel(class) => format!("kernel {}", class.name()),
        Verdict::Drop(reason) => format!("drop {}", reason.name()),
        Verdict::Wait => "wait".to_owned(),
        Verdict::Hold => "hold".to_owned(),
        Verdict::HandOver { .. } => panic!("there is one worker"),
    }
}

/// The rig and the vectors speak of the same addresses.
#[test]
fn macs_follow_from_addresses() {
    assert_eq!(
        rig::mac_of(&rig::addr("192.168.50.6")).to_string(),
        "02:04:c0:a8:32:06"
    );
    assert_eq!(
        rig::mac_of(&rig::addr("fd50::6")).to_string(),
        "02:10:00:00:00:06"
    );
}
