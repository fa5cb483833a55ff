//! A worker on frames in memory, without ports and without EAL: for counting instructions.
//!
//! `bench --walk nat-request --flows 1000` under callgrind, which collects inside
//! [`counted`] only, gives the same number in every run (`make instructions`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dataplane::command::Command;
use dataplane::counters::WorkerCounters;
use dataplane::packet::{DropReason, Packet, PortId, Verdict};
use dataplane::sync::Outbox;
use dataplane::time::Instant;
use dataplane::worker::{BURST, Limits, Worker};
use dpdk::poll::Probe;

use crate::audit::Expect;
use crate::rig::{self, Family, Method, Side};
use crate::rows::generator;
use crate::traffic::{
    ACK, Client, Generator, LEN4, LEN6, Random, Reply4, Reply6, Request4, Request6, SYN, Shape,
};

/// Bytes before and behind a frame, as in an mbuf.
const ROOM: usize = 128;

/// What can be walked, by the name of its row.
const ROWS: &[(&str, Family, Method, Side)] = &[
    ("nat-request", Family::V4, Method::Nat, Side::Request),
    ("nat-reply", Family::V4, Method::Nat, Side::Reply),
    ("dr-established", Family::V4, Method::Direct, Side::Request),
    ("tun-established", Family::V4, Method::Tunnel, Side::Request),
    ("nat6-request", Family::V6, Method::Nat, Side::Request),
    ("nat6-reply", Family::V6, Method::Nat, Side::Reply),
];

/// Behind the name of a row: with a master of connection synchronisation.
const SYNC: &str = "-sync";

/// Behind the name of a row: with the walk of a table that the TLB does not reach.
const FAR: &str = "-far";

/// Behind the name of a row: with a NIC that found the header checksums right.
const CHECKED: &str = "-checked";

/// Sends `packets` packets of a row through [`Worker::process`], after `flows` connections were
/// opened by as many SYN and ACK.
///
/// # Errors
/// An unknown row, or packets that did not leave as they should.
pub fn run(row: &str, flows: u32, packets: u64) -> Result<()> {
    let names: Vec<&str> = ROWS.iter().map(|r| r.0).collect();
    let (sync, far) = (row.ends_with(SYNC), row.ends_with(FAR));
    let checked = row.ends_with(CHECKED);
    let base = [SYNC, FAR, CHECKED]
        .iter()
        .fold(row, |row, suffix| row.trim_end_matches(suffix));
    let (_, family, method, side) = *ROWS
        .iter()
        .find(|r| r.0 == base)
        .with_context(|| format!("--walk {row}: no such row; known: {}", names.join(", ")))?;
    let limits = Limits::default();
    let counters = Arc::new(WorkerCounters::new(limits.dests));
    let mut now = Instant::from_secs(100);
    let mut worker = rig::new_worker(flows, counters, now, false)?;
    if far {
        worker.ask_in_groups();
    }
    if sync {
        let outbox = Arc::new(Outbox::new());
        drop(worker.apply(now, Command::StartMaster(outbox)));
    }
    let clients: Vec<Client> = (0..flows).map(Client::number).collect();
    let mut expect = Expect {
        family,
        method,
        side: Side::Request,
        is_new: true,
    };
    for flags in [SYN, ACK] {
        let count = u64::from(flows);
        match family {
            Family::V4 => walk::<Request4, LEN4>(
                &mut worker,
                &mut now,
                expect,
                (flags, false),
                &clients,
                count,
            ),
            Family::V6 => walk::<Request6, LEN6>(
                &mut worker,
                &mut now,
                expect,
                (flags, false),
                &clients,
                count,
            ),
        }?;
    }
    let mut clients = rig::clients_in(&worker, dataplane::proto::tcp::State::Established as u8);
    ensure!(
        clients.len() == flows as usize,
        "{} of {flows} connections are established",
        clients.len()
    );
    Random(7).shuffle(&mut clients);
    expect.side = side;
    expect.is_new = false;
    now = now + Duration::from_secs(1);
    let sent = match (family, side) {
        (Family::V4, Side::Request) => walk::<Request4, LEN4>(
            &mut worker,
            &mut now,
            expect,
            (ACK, checked),
            &clients,
            packets,
        ),
        (Family::V4, Side::Reply) => walk::<Reply4, LEN4>(
            &mut worker,
            &mut now,
            expect,
            (ACK, checked),
            &clients,
            packets,
        ),
        (Family::V6, Side::Request) => walk::<Request6, LEN6>(
            &mut worker,
            &mut now,
            expect,
            (ACK, checked),
            &clients,
            packets,
        ),
        (Family::V6, Side::Reply) => walk::<Reply6, LEN6>(
            &mut worker,
            &mut now,
            expect,
            (ACK, checked),
            &clients,
            packets,
        ),
    }?;
    println!("{row} {flows}: {sent} packets");
    Ok(())
}

/// Whole bursts of these clients' packets, `packets` of them or a few more; how many they were.
fn walk<S: Shape<LEN>, const LEN: usize>(
    worker: &mut Worker,
    now: &mut Instant,
    expect: Expect,
    (flags, checked): (u8, bool),
    clients: &[Client],
    packets: u64,
) -> Result<u64> {
    let mut generator: Generator<S, LEN> = generator(expect, flags, clients);
    let mut rooms = vec![[0u8; ROOM + 128 + ROOM]; BURST];
    let mut out = [Verdict::Drop(DropReason::Truncated); BURST];
    while generator.packets < packets {
        let mut burst: Vec<Packet<'_>> = rooms
            .iter_mut()
            .map(|room| Packet::new(room, ROOM as u16, LEN as u16, PortId(0)))
            .collect();
        generator.received(&mut burst);
        for packet in &mut burst {
            packet.checked.ipv4 = checked;
        }
        if expect.is_new {
            worker.process(*now, &mut burst, &mut out);
        } else {
            counted(worker, *now, &mut burst, &mut out);
        }
        generator.decided(&burst, &out);
        ensure!(
            out.iter().all(|v| matches!(v, Verdict::Transmit(_))),
            "a packet was not sent: {out:?}"
        );
        *now = *now + Duration::from_micros(2);
    }
    match generator.wrong {
        Some(why) => anyhow::bail!("{why}"),
        None => Ok(generator.packets),
    }
}

/// The frame of the call stack in which instructions are counted.
#[inline(never)]
fn counted(worker: &mut Worker, now: Instant, burst: &mut [Packet<'_>], out: &mut [Verdict]) {
    worker.process(now, burst, out);
}
