//! The answer to `rvsadm status`, made of counters.

use std::sync::Arc;
use std::time::Duration;

use dataplane::command::Command;
use dataplane::counters::{PortCounters, WorkerCounters};
use dataplane::packet::{DropReason, PuntClass};
use dataplane::time::Instant;

use crate::api::{BuffersView, CommandView, PortView, StatusView, WorkerView};
use crate::model::Counters;

/// What control knows of a data port; the edge keeps the counters up to date.
#[derive(Clone, Debug, Default)]
pub struct PortHandle {
    /// Name in the configuration.
    pub name: String,
    /// DPDK device.
    pub device: String,
    /// DPDK driver.
    pub driver: String,
    /// Kernel twin.
    pub twin: String,
    /// Its MAC.
    pub mac: String,
    /// MTU, bytes of layer 3.
    pub mtu: u16,
    /// What the device does for us, and what is done in software in its place.
    pub offloads: Vec<String>,
    /// What it could do besides.
    pub offers: Vec<String>,
    /// NUMA node of its NIC.
    pub node: Option<u32>,
    /// State and counters.
    pub counters: Arc<PortCounters>,
}

/// What control knows of a pool of packet buffers.
#[derive(Clone)]
pub struct PoolHandle {
    /// Its name.
    pub name: String,
    /// NUMA node, if there are several pools.
    pub node: Option<u32>,
    /// Buffers it has.
    pub size: u64,
    /// Most that rings of NICs and drivers hold.
    pub rings: u64,
    /// Counts those that are free now.
    pub free: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// A pool as listed.
pub fn buffers_view(pool: &PoolHandle) -> BuffersView {
    BuffersView {
        name: pool.name.clone(),
        node: pool.node,
        size: pool.size,
        free: (pool.free)(),
        rings: pool.rings,
    }
}

/// A port as listed.
pub fn port_view(port: &PortHandle) -> PortView {
    let c = &port.counters;
    let named = [
        ("rx", c.rx_packets.get()),
        ("rx-bytes", c.rx_bytes.get()),
        ("tx", c.tx_packets.get()),
        ("tx-bytes", c.tx_bytes.get()),
        ("missed", c.rx_missed.get()),
        ("no-mbuf", c.rx_no_mbuf.get()),
        ("rx-errors", c.rx_errors.get()),
        ("tx-errors", c.tx_errors.get()),
        ("twin-rx", c.twin_rx.get()),
        ("twin-tx", c.twin_tx.get()),
        ("twin-failed", c.twin_failed.get()),
        ("twin-dropped", c.twin_dropped.get()),
    ];
    PortView {
        name: port.name.clone(),
        device: port.device.clone(),
        driver: port.driver.clone(),
        twin: port.twin.clone(),
        mac: port.mac.clone(),
        mtu: port.mtu,
        offloads: port.offloads.clone(),
        offers: port.offers.clone(),
        node: port.node,
        link: c.link.get() != 0 && c.failed.get() == 0,
        speed: c.speed.get(),
        counters: named
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect(),
    }
}

/// Warnings about ports: devices that failed.
pub fn port_warnings(ports: &[PortHandle]) -> impl Iterator<Item = String> + '_ {
    ports.iter().filter(|p| p.counters.failed.get() != 0).map(|p| {
        format!(
            "port {} ({}) failed or was taken away; rvsd runs on without it, restart it once the \
             device is back",
            p.name, p.device
        )
    })
}

/// Warnings about NICs whose packets go to another NUMA node and back.
pub fn far_ports(ports: &[PortHandle], workers: &[WorkerView]) -> Vec<String> {
    let far = |port: &PortHandle| {
        let node = port.node?;
        let far = workers
            .iter()
            .filter(|w| w.node.is_some_and(|of| of != node));
        let cores: Vec<String> = far.map(|worker| worker.core.to_string()).collect();
        (!cores.is_empty()).then(|| {
            format!(
                "port {} ({}) is on NUMA node {node} and workers on cores {} are not: their packets \
                 cross over twice; name cores of node {node} in [workers], or move the card",
                port.name,
                port.device,
                cores.join(", ")
            )
        })
    };
    ports.iter().filter_map(far).collect()
}

/// Whether a worker has so few free entries that automatic defences are at work.
pub fn is_short_of_entries(counters: Counters<'_>) -> bool {
    counters.iter().any(|c| c.short_of_entries.get() != 0)
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    cpu_ns: u64,
    rx: u64,
    tx: u64,
}

impl Sample {
    fn of(c: &WorkerCounters) -> Sample {
        Sample {
            cpu_ns: c.cpu_ns.get(),
            rx: c.rx_packets.get(),
            tx: c.tx_packets.get(),
        }
    }
}

/// Load and packet rates of the workers over the last interval.
#[derive(Debug)]
pub struct Sampler {
    at: Instant,
    last: Vec<Sample>,
    rates: Vec<(f64, u64, u64)>,
}

impl Sampler {
    /// Starts the first interval.
    pub fn new(now: Instant, counters: Counters<'_>) -> Sampler {
        Sampler {
            at: now,
            last: counters.iter().map(|c| Sample::of(c)).collect(),
            rates: vec![(0.0, 0, 0); counters.len()],
        }
    }

    /// Ends an interval.
    pub fn sample(&mut self, now: Instant, counters: Counters<'_>) {
        let wall = now.since(self.at);
        if wall < Duration::from_millis(1) {
            return;
        }
        for ((last, rate), c) in self.last.iter_mut().zip(&mut self.rates).zip(counters) {
            let new = Sample::of(c);
            let secs = wall.as_secs_f64();
            let per_second = |n: u64| (n as f64 / secs).round() as u64;
            let load = new.cpu_ns.wrapping_sub(last.cpu_ns) as f64 / 1e9 / secs * 100.0;
            *rate = (
                (load * 10.0).round() / 10.0,
                per_second(new.rx.wrapping_sub(last.rx)),
                per_second(new.tx.wrapping_sub(last.tx)),
            );
            *last = new;
        }
        self.at = now;
    }

    /// A worker as listed.
    pub fn view(&self, worker: usize, core: u32, c: &WorkerCounters, age: Duration) -> WorkerView {
        let (load, rx_pps, tx_pps) = self.rates.get(worker).copied().unwrap_or_default();
        WorkerView {
            id: worker as u32,
            core,
            node: None,
            load,
            rx_pps,
            tx_pps,
            rx: c.rx_packets.get(),
            tx: c.tx_packets.get(),
            connections: c.connections.get(),
            handed_over: c.handed_over.get(),
            heartbeat_age_ms: age.as_millis() as u64,
            longest_gap_us: c.longest_gap_ns.get() / 1000,
            long_gaps: c.long_gaps.get(),
            commands: commands(c),
        }
    }
}

fn commands(c: &WorkerCounters) -> Vec<CommandView> {
    let all = Command::KINDS.iter().zip(&c.commands);
    let came = all.filter(|(_, cost)| cost.count.get() > 0);
    came.map(|(name, cost)| CommandView {
        name: (*name).to_owned(),
        count: cost.count.get(),
        cpu_us: cost.cpu_ns.get() / 1000,
        longest_us: cost.longest_ns.get() as f64 / 1000.0,
        slow: cost.slow.get(),
    })
    .collect()
}

/// The longest turns of the control loop, in halves of a minute.
#[derive(Debug)]
pub struct Turns {
    since: Instant,
    longest: Duration,
    before: Duration,
}

impl Turns {
    /// None yet.
    pub fn new(now: Instant) -> Turns {
        Turns {
            since: now,
            longest: Duration::ZERO,
            before: Duration::ZERO,
        }
    }

    /// One turn has taken so long.
    pub fn note(&mut self, now: Instant, took: Duration) {
        if now.since(self.since) >= Duration::from_secs(30) {
            self.since = now;
            self.before = std::mem::take(&mut self.longest);
        }
        self.longest = self.longest.max(took);
    }

    /// The longest of the last half minute to minute.
    pub fn longest(&self) -> Duration {
        self.longest.max(self.before)
    }
}

/// Fills in what is summed over the workers: drops, punted packets, connections.
pub fn sum_workers(view: &mut StatusView, counters: Counters<'_>, capacity: u64) {
    for reason in DropReason::ALL {
        let count = counters
            .iter()
            .map(|c| c.drops[*reason as usize].get())
            .sum::<u64>();
        if count > 0 {
            view.drops
                .push((reason.name().to_owned(), count, reason.help().to_owned()));
        }
    }
    for class in PuntClass::ALL {
        let count = counters
            .iter()
            .map(|c| c.punted[class as usize].get())
            .sum();
        view.punted.push((class.name().to_owned(), count));
    }
    view.connections = (counters.iter().map(|c| c.connections.get()).sum(), capacity);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_and_rates_are_of_the_last_interval() {
        let counters = [Arc::new(WorkerCounters::new(1))];
        let mut sampler = Sampler::new(Instant::from_secs(10), &counters);
        counters[0].cpu_ns.set(500_000_000);
        counters[0].rx_packets.add(3000);
        sampler.sample(Instant::from_secs(12), &counters);
        let view = sampler.view(0, 3, &counters[0], Duration::from_millis(7));
        assert_eq!(
            (view.load, view.rx_pps, view.rx, view.core),
            (25.0, 1500, 3000, 3)
        );
        assert_eq!(view.heartbeat_age_ms, 7);
        sampler.sample(Instant::from_secs(13), &counters);
        assert_eq!(sampler.view(0, 3, &counters[0], Duration::ZERO).load, 0.0);
    }

    #[test]
    fn long_turns_are_remembered_for_a_while() {
        let ms = Duration::from_millis;
        let mut turns = Turns::new(Instant::from_secs(10));
        turns.note(Instant::from_secs(11), ms(90));
        turns.note(Instant::from_secs(39), ms(2));
        assert_eq!(turns.longest(), ms(90));
        turns.note(Instant::from_secs(41), ms(3));
        assert_eq!(turns.longest(), ms(90));
        turns.note(Instant::from_secs(72), ms(1));
        assert_eq!(turns.longest(), ms(3));
    }

    #[test]
    fn a_nic_on_another_node_than_its_workers_is_named() {
        let port = |name: &str, node| PortHandle {
            name: name.to_owned(),
            device: "0000:81:00.0".to_owned(),
            node,
            ..PortHandle::default()
        };
        let worker = |core, node| WorkerView {
            core,
            node,
            ..WorkerView::default()
        };
        let ports = [
            port("near", Some(0)),
            port("far", Some(1)),
            port("vdev", None),
        ];
        let workers = [worker(2, Some(0)), worker(3, Some(0)), worker(9, None)];
        let told = far_ports(&ports, &workers);
        let text = "port far (0000:81:00.0) is on NUMA node 1 and workers on cores 2, 3 are not:";
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(text), "{told:?}");
    }

    #[test]
    fn drops_are_summed_by_name_and_zero_ones_left_out() {
        let counters = [
            Arc::new(WorkerCounters::new(1)),
            Arc::new(WorkerCounters::new(1)),
        ];
        counters[0].drops[DropReason::NoRoute as usize].add(1);
        counters[1].drops[DropReason::NoRoute as usize].add(1);
        counters[1].punted[PuntClass::Host as usize].add(4);
        let mut view = StatusView::default();
        sum_workers(&mut view, &counters, 1000);
        assert_eq!(view.drops.len(), 1);
        assert_eq!((view.drops[0].0.as_str(), view.drops[0].1), ("no-route", 2));
        assert_eq!(view.punted[3], ("host".to_owned(), 4));
        assert_eq!(view.connections, (0, 1000));
    }
}
