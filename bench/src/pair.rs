//! Two workers that share a table. In turns on one core: what handing a packet over costs both
//! together, without the way of its cache lines from one core to another. On two cores: see
//! [`crate::cores`].

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use dataplane::addr::Addr;
use dataplane::command;
use dataplane::packet::{Packet, PortId, PuntClass};
use dataplane::time::Instant;
use dataplane::worker::{Limits, Share};
use dpdk::clock::Clock;
use dpdk::eal::Eal;
use dpdk::mempool::Mempool;
use dpdk::peers::Peers;
use dpdk::poll::{Idle, Lane, Loop, Parking, Probe, Rings, Way};
use dpdk::port::{Port, PortConfig, RunningPort, RxQueue};
use dpdk::pump::Bell;
use dpdk::ring;
use dpdk::sched::Eager;

use crate::audit::Totals;
use crate::rig::{self, Family, Method};
use crate::traffic::{Client, Generator, LEN4, Request4};

/// Source and sink of the two.
pub const PORTS: [&str; 2] = ["net_null3", "net_null4"];

/// Connections that their table is for.
pub const FLOWS: u32 = 1000;

/// The two.
pub struct Pair {
    /// Their loops.
    pub loops: [Loop; 2],
    /// Source and sink.
    pub ports: [RunningPort; 2],
}

/// The generator without its look at what was decided: that is the other worker's.
pub struct Source<'a>(pub &'a mut Generator<Request4, LEN4>);

impl Probe for Source<'_> {
    #[inline(always)]
    fn received(&mut self, packets: &mut [Packet<'_>]) {
        self.0.received(packets);
    }
}

impl Pair {
    /// Opens their ports, source and sink, and makes them. The first `receivers` of them get a
    /// receive queue.
    ///
    /// # Errors
    /// What is missing.
    pub fn new(
        eal: &Eal,
        ports: [&str; 2],
        receivers: u16,
        pool: &Arc<Mempool>,
        clock: &Clock,
    ) -> Result<Pair> {
        let time = clock.clone().now();
        let config = PortConfig {
            rx_queues: receivers,
            tx_queues: 2,
            ..PortConfig::default()
        };
        let open = |name| -> Result<RunningPort> {
            let port = Port::open(eal, name)?.start(&config, pool);
            Ok(port.map_err(|refused| refused.error)?)
        };
        let mut ports = [open(ports[0])?, open(ports[1])?];
        let mut shards = rig::table(FLOWS, time)?
            .into_iter()
            .enumerate()
            .partition::<Vec<_>, _>(|(n, _)| n % 2 == 0);
        let mut own = [&mut shards.0, &mut shards.1].into_iter();
        let mut peers = Peers::connect(eal, 2)?.into_iter();
        let mut make = |number: usize| -> Result<Loop> {
            let mut lanes = Vec::new();
            for (i, port) in ports.iter_mut().enumerate() {
                let number = number as u16;
                let rx = (number < receivers)
                    .then(|| port.rx_queue(number))
                    .flatten();
                let tx = port.tx_queue(number).context("tx queue")?;
                lanes.push(lane(eal, i, rx, tx.into())?);
            }
            let limits = Limits::default();
            let (_control, end) = command::channel(limits.dests);
            let shards = own
                .next()
                .map(|all| all.drain(..).map(|(_, s)| s).collect());
            let worker = rig::set_up_worker(
                Share::of(number, 2),
                shards.unwrap_or_default(),
                Arc::clone(&end.counters),
                time,
            )?;
            Ok(Loop {
                worker,
                end,
                lanes,
                pool: Arc::clone(pool),
                idle: Idle::Poll,
                rings: Rings::default(),
                stop: Arc::new(AtomicBool::new(false)),
                bell: Bell::new()?,
                clock: clock.clone(),
                parking: Parking::default(),
                peers: peers.next().context("rings of two workers")?,
                eager: Eager::default(),
            })
        };
        let loops = [make(0)?, make(1)?];
        Ok(Pair { loops, ports })
    }

    /// A turn of each.
    #[inline(always)]
    pub fn turn(&mut self, now: Instant, probe: &mut impl Probe) {
        let [first, second] = &mut self.loops;
        first.turn_with(now, probe);
        second.turn(now);
    }

    /// Frames that the first worker received.
    pub fn received(&self) -> u64 {
        self.loops[0].end.counters.rx_packets.get()
    }

    /// Counters of each.
    pub fn totals(&self) -> [Totals; 2] {
        self.loops
            .each_ref()
            .map(|worker| Totals::of(worker.worker.counters()))
    }

    /// Frames that the sink took.
    ///
    /// # Errors
    /// The port's.
    pub fn sunk(&self) -> Result<u64> {
        Ok(self.ports[1].stats()?.tx_packets)
    }

    /// Packets handed over so far.
    pub fn handed(&self) -> u64 {
        self.loops[0].end.counters.handed_over.get()
    }

    /// Compares with what was counted before a run of `packets` packets, of which `handed` were
    /// to be handed over.
    ///
    /// # Errors
    /// The counter that does not fit.
    pub fn audit(&self, before: &[Totals; 2], packets: u64, handed: u64) -> Result<()> {
        let after = self.totals();
        let sum = |of: fn(&Totals) -> u64| {
            let total = |totals: &[Totals; 2]| totals.iter().map(of).sum::<u64>();
            total(&after) - total(before)
        };
        for (what, have, want) in [
            ("frames received", sum(|t| t.received), packets),
            ("frames sent", sum(|t| t.sent), packets),
            ("frames lost", sum(|t| t.lost), 0),
            ("packets from clients", sum(|t| t.from_clients.0), packets),
            (
                "packets of the second worker",
                after[1].from_clients.0 - before[1].from_clients.0,
                handed,
            ),
        ] {
            ensure!(
                have == want,
                "audit: {what}: counted {have}, should be {want}"
            );
        }
        Ok(())
    }
}

/// Clients whose connections are the first worker's, and the second's.
pub fn clients() -> [Vec<Client>; 2] {
    let vip = Family::V4.vip(Method::Nat);
    let vip = Addr::v4([vip[0], vip[1], vip[2], vip[3]]);
    let is_first = |c: &Client| {
        let client = Addr::v4(c.addr.to_be_bytes());
        let hash = rig::KEY.hash(6, &client, c.port, &vip, rig::VIRTUAL_PORT);
        Share::of(0, 2).elsewhere(hash.shard).is_none()
    };
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        (0..FLOWS).map(Client::number).partition(is_first);
    // Whole bursts: between two of them nothing is under way.
    let few = first.len().min(second.len()) / 32 * 32;
    first.truncate(few);
    second.truncate(few);
    [first, second]
}

/// A lane of a port of the bench.
///
/// # Errors
/// Not enough memory.
pub fn lane(eal: &Eal, port: usize, rx: Option<RxQueue>, tx: Way) -> Result<Lane> {
    let mut punt = Vec::new();
    for _ in 0..PuntClass::COUNT {
        // Nothing may be punted here; what is stays in the ring and fails the audit.
        punt.push(ring::single_producer(eal, 64)?.0);
    }
    let punt = <[_; PuntClass::COUNT]>::try_from(punt)
        .ok()
        .context("punt rings")?;
    let (_, from_kernel) = ring::single_producer(eal, 64)?;
    Ok(Lane::new(
        PortId(port as u16),
        rx,
        tx,
        punt,
        from_kernel,
        false,
    ))
}
