//! Plays the packet vectors of `dataplane/tests/vectors/worker` through whatever carries a frame
//! past the worker: a loop between two ports, or a plain call.

use std::time::Duration;

use dataplane::packet::{DropReason, PuntClass};

use crate::support::notation;
use crate::support::rig::Rig;
use crate::support::vectors::{self, Vector};

/// Where the vectors are.
const FOLDER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../dataplane/tests/vectors/worker"
);

/// What became of a frame.
#[derive(Debug)]
pub enum Became {
    /// It left by a port, in pieces if there are several.
    Left(u16, Vec<Vec<u8>>),
    /// It is in the punt queue of its class.
    Punted(PuntClass),
    /// It was dropped and counted.
    Dropped(DropReason),
    /// It waits for its next hop, or for the first piece of its packet.
    Kept,
}

/// Carries frames past the rig's worker.
pub trait Carrier {
    /// Carries one frame that came in by `port`, with a tag that the driver took out.
    fn carry(&mut self, rig: &mut Rig, port: u16, frame: &[u8], tci: u16) -> Became;
    /// Lets everything expire that is due at the rig's time.
    fn expire(&mut self, rig: &mut Rig);
}

/// Plays all vectors, each in a network of its own; returns how many frames went in.
pub fn all(carrier: &mut impl Carrier) -> usize {
    let vectors = vectors::load(FOLDER);
    vectors.iter().map(|vector| one(vector, carrier)).sum()
}

fn one(vector: &Vector, carrier: &mut impl Carrier) -> usize {
    let mut rig = Rig::new();
    let (mut last, mut frames) = ("", 0);
    let mut became: Option<Became> = None;
    for (key, value) in &vector.lines {
        let place = format!("{}\n  {key} {value}", vector.name());
        match key.as_str() {
            // What the table then holds, the vectors' own test asks.
            "name" | "conn" => {}
            "service" => vectors::service(&mut rig, value),
            "rule" => rig.ipvsadm(value),
            "set" => rig.set(value),
            "wait" => {
                for _ in 0..notation::number(value) {
                    rig.now = rig.now + Duration::from_secs(1);
                    carrier.expire(&mut rig);
                }
            }
            "in" => {
                last = value;
                frames += 1;
                became = Some(inject(&mut rig, carrier, value));
            }
            "again" => {
                let (n, verdict) = value.split_once(' ').expect("a number and a verdict");
                for _ in 0..notation::number(n) {
                    frames += 1;
                    check(&inject(&mut rig, carrier, last), verdict, &place);
                }
            }
            "verdict" => check(became.as_ref().expect("an in before"), value, &place),
            "out" => match &mut became {
                Some(Became::Left(_, frames)) if !frames.is_empty() => {
                    expect_frame(&frames.remove(0), value, &place);
                }
                other => panic!("{place}\n  nothing more left: {other:?}"),
            },
            other => panic!("{place}: unknown key {other:?}"),
        }
    }
    frames
}

/// `[port N |] [tci N |] eth … | …`
fn inject(rig: &mut Rig, carrier: &mut impl Carrier, value: &str) -> Became {
    let (mut port, mut tci, mut packet) = (0, 0, value);
    while let Some((word, rest)) = packet.split_once('|') {
        match word.trim().split_once(' ') {
            Some(("port", n)) => port = notation::number(n) as u16,
            Some(("tci", n)) => tci = notation::number(n) as u16,
            _ => break,
        }
        packet = rest.trim();
    }
    carrier.carry(rig, port, &notation::build(packet), tci)
}

fn check(became: &Became, verdict: &str, place: &str) {
    let words: Vec<&str> = verdict.split_whitespace().collect();
    let is_as_told = match (became, &words[..]) {
        (Became::Left(port, frames), ["transmit", "port", n]) => {
            frames.len() == 1 && u64::from(*port) == notation::number(n)
        }
        (Became::Left(port, frames), ["fragment", "port", n, "mtu", mtu]) => {
            // 18: Ethernet header with a tag.
            let longest = 18 + notation::number(mtu) as usize;
            frames.len() > 1
                && frames.iter().all(|f| f.len() <= longest)
                && u64::from(*port) == notation::number(n)
        }
        (Became::Punted(class), ["kernel", name]) => class.name() == *name,
        (Became::Dropped(reason), ["drop", name]) => reason.name() == *name,
        (Became::Kept, ["wait" | "hold"]) => true,
        _ => false,
    };
    assert!(is_as_told, "{place}\n  {became:?}");
}

/// Fails with both frames as text unless they are the same.
pub fn expect_frame(got: &[u8], text: &str, place: &str) {
    let want = notation::build_like(text, got);
    assert!(
        got == want,
        "{place}\n  got  {}\n  want {}",
        notation::print(got),
        notation::print(&want)
    );
}
