//! One port with its twin, started; and what is in use of it.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use control::config::{self, Config};
use control::status::PortHandle;
use dataplane::addr::Mac;
use dataplane::counters::PortCounters;
use dataplane::packet::PortId;
use dpdk::eal::Eal;
use dpdk::members::{Member, Members};
use dpdk::mempool::Mempool;
use dpdk::poll::{Lane, Way};
use dpdk::port::{Port, PortConfig, PortInfo, RunningPort};
use dpdk::pump::Twin;
use dpdk::ring;
use dpdk::tap::{self, Tap};
use tracing::{info, warn};

use super::pools::{self, Pools};
use super::{LONG_BUFFERS, PUNT_SLOTS, WIRE_SLOTS};
use crate::numa::Nodes;
use crate::offloads;
use crate::steering::Steering;

/// The smallest ring of a device that does not say how large its is: QEMU's and virtio-user's.
const USUAL_RING: u16 = 256;

/// Buffers for packets that are cut to segments when they come: each is back at once.
fn make_long_pool(eal: &Eal, port: &config::Port) -> Result<(String, Mempool)> {
    let name = format!("long-{}", port.name);
    let name: String = name.chars().take(25).collect();
    let pool = Mempool::new(eal, &name, LONG_BUFFERS, 64, u16::MAX, None)
        .context("rx_gso_fixup needs 64 MiB more; raise memory_mb in [dpdk]")?;
    Ok((name, pool))
}

/// Starts a port. `tap`: its twin, if it is open already.
#[allow(clippy::too_many_arguments)] // what a start is made of, passed once
pub(super) fn start_port(
    eal: &Eal,
    pools: &mut Pools,
    nodes: &Nodes,
    config: &Config,
    number: PortId,
    port: Port,
    steering: &mut Steering,
    tap: Option<Tap>,
    prepare_twin: &mut impl FnMut(&config::Port) -> Result<()>,
) -> Result<(PortHandle, Mac, Vec<Lane>, Twin)> {
    let wanted = &config.ports[usize::from(number.0)];
    let team = config.dpdk.worker_cores.len();
    let info = port.info()?;
    let workers = u16::try_from(team).context("too many workers")?;
    // Without RSS everything comes by the first queue, and what the others have is for nothing.
    let most = if info.has_rss { info.max_rx_queues } else { 1 };
    // The driver of af_packet ports names 1500 as its most, whatever its ring takes.
    let by_kernel = wanted.is_af_packet() && wanted.mtu > info.max_mtu;
    let setup = PortConfig {
        rx_queues: match wanted.rx_queues {
            0 => workers.min(most),
            asked => asked,
        },
        tx_queues: workers.min(info.max_tx_queues),
        rx_descriptors: wanted.rx_descriptors,
        tx_descriptors: wanted.tx_descriptors,
        mtu: (wanted.mtu != info.mtu && !by_kernel).then_some(wanted.mtu),
        scatter: pools.scatter,
        // The copies that `rx_gso_fixup` makes have no place for a tag.
        offloads: offloads::wanted(
            wanted.offloads,
            !wanted.rx_gso_fixup,
            &info.driver,
            info.offers,
        ),
        rss_key: steering.key(wanted),
        urgent: offloads::wants_urgent(wanted, &info.driver),
    };
    let long = match wanted.rx_gso_fixup {
        true => {
            let (name, pool) = make_long_pool(eal, wanted)?;
            let rings = u32::from(setup.rx_queues) * u32::from(setup.rx_descriptors);
            let shown = pools::handle(&name, None, LONG_BUFFERS, rings, pool.clone());
            pools.known.push(shown);
            Some(pool)
        }
        false => None,
    };
    let node = node_of(wanted, &info);
    let near = pools.of(node.or(nodes.worker(0)));
    let received = long.as_ref().unwrap_or(near);
    let mut port = port
        .start(&setup, received)
        .map_err(|refused| refused.error)?;
    // A bond has the address of a member, and only now.
    let info = PortInfo {
        mac: port.info()?.mac,
        ..info
    };
    // Now, as the start of a bond gives its members the driver's default.
    for interface in wanted.kernel_interfaces().filter(|_| by_kernel) {
        tap::set_interface_mtu(interface, wanted.mtu)
            .with_context(|| format!("{interface} does not take an MTU of {}", wanted.mtu))?;
    }
    if wanted.promiscuous
        && let Err(why) = port.set_promiscuous(true)
    {
        warn!("{why}; the port goes on without");
    }
    // Adverts and neighbour discovery come to groups; a port without filters sees them anyway.
    if let Err(why) = port.set_all_multicast(true) {
        tracing::debug!("{why}; taken to see all group frames anyway");
        // The bonding driver filters by itself, whatever its members see.
        if !wanted.members().is_empty()
            && let Err(why) = port.set_promiscuous(true)
        {
            warn!("{why}; frames for groups may be missed");
        }
    }
    let counters = Arc::new(PortCounters::default());
    if let Ok(link) = port.link() {
        counters.link.set(u32::from(link.up));
        counters.speed.set(link.mbps.unwrap_or(0));
    }
    let tap = match tap {
        Some(tap) => tap,
        None => Tap::open(&wanted.twin)?,
    };
    tap.set_persistent(true)?;
    // Before the device is up: a later change of carrier reaches its routes up to a second late.
    let carrier = port.link().is_ok_and(|link| link.up);
    tap.set_carrier(carrier)?;
    // Setting the one it has makes the kernel forget all neighbours.
    if tap.mac()? != info.mac {
        tap.set_mac(info.mac)?;
    }
    tap.set_mtu(wanted.mtu)?;
    prepare_twin(wanted)?;
    tap.set_up(true)?;

    let (to_wire, from_kernel) = ring::single_producer(eal, WIRE_SLOTS)?;
    let mut from_kernel = Some(from_kernel);
    let rx = Queues::new(setup.rx_queues, team, number);
    steering.set_up(&mut port, wanted, |worker| rx.of(worker));
    let tx = Queues::new(setup.tx_queues, team, number);
    let mut lanes = Vec::new();
    let mut punt = Vec::new();
    for worker in 0..team {
        let mut senders = Vec::new();
        let mut receivers = Vec::new();
        for slots in PUNT_SLOTS {
            let (sender, receiver) = ring::single_producer(eal, slots)?;
            senders.push(sender);
            receivers.push(receiver);
        }
        let each = "one ring for each class";
        punt.push(receivers.try_into().map_err(|_| anyhow!(each))?);
        let rx = match rx.of(worker) {
            Some(queue) => Some(port.rx_queue(queue).context("a receive queue is in use")?),
            None => None,
        };
        let tx = match tx.of(worker) {
            Some(queue) => Way::from(port.tx_queue(queue).context("a transmit queue is in use")?),
            None => Way::Worker(tx.stand_in(worker)),
        };
        let mut lane = Lane::new(
            number,
            rx,
            tx,
            senders.try_into().map_err(|_| anyhow!(each))?,
            from_kernel.take_if(|_| worker == usize::from(number.0) % team),
            wanted.rx_csum_fixup,
        );
        // Handed over to whom it concerns, as from any queue.
        let urgent = port
            .setup()
            .urgent
            .filter(|_| worker == usize::from(number.0) % team);
        if let Some(urgent) = urgent {
            let queue = port.rx_queue(urgent.queue);
            lane.urgent = Some(queue.context("the urgent queue is in use")?);
        }
        lane.ring = sure_ring(wanted);
        lane.cuts_to = wanted.rx_gso_fixup.then_some(wanted.mtu);
        lanes.push(lane);
    }

    let handle = PortHandle {
        name: wanted.name.clone(),
        device: wanted.device_name.clone(),
        driver: info.driver.clone(),
        twin: wanted.twin.clone(),
        mac: info.mac.to_string(),
        mtu: wanted.mtu,
        offloads: in_use(&port, &info, pools.scatter, wanted),
        offers: not_in_use(&port, &info),
        node,
        counters: Arc::clone(&counters),
    };
    if let Some(urgent) = port.setup().urgent {
        let kinds: Vec<&str> = urgent.names().collect();
        let kinds = kinds.join(", ");
        info!(port = %handle.name, "a queue of its own is kept for {kinds}");
    }
    info!(
        port = %handle.name,
        driver = %handle.driver,
        mac = %handle.mac,
        twin = %handle.twin,
        "port started"
    );
    let twin = Twin {
        port,
        tap,
        punt,
        to_wire,
        counters,
        carrier,
        members: members_of(wanted),
        lost: false,
    };
    Ok((handle, info.mac, lanes, twin))
}

/// The NUMA node of a NIC. What is made of software lies with whoever polls it.
pub(super) fn node_of(wanted: &config::Port, info: &PortInfo) -> Option<u32> {
    match wanted.device {
        config::Device::Pci(_) => info.socket,
        _ => None,
    }
}

/// What is below a port.
fn members_of(wanted: &config::Port) -> Members {
    let member = |device: &str, interface: &str| Member {
        device: device.to_owned(),
        interface: interface.to_owned(),
    };
    match &wanted.device {
        config::Device::AfPacket { interface } => {
            Members::single(Some(member(&wanted.device_name, interface)))
        }
        config::Device::Bond {
            mode,
            members,
            primary,
            ..
        } => {
            let kernel = members
                .iter()
                .filter_map(|m| Some(member(&m.device, m.interface.as_deref()?)));
            let one_sends = *mode == config::BondMode::ActiveBackup;
            Members::bond(kernel.collect(), primary.clone(), one_sends)
        }
        _ => Members::default(),
    }
}

/// What the device offers besides, by the same names.
fn not_in_use(port: &RunningPort, info: &PortInfo) -> Vec<String> {
    let rest = info.offers.without(port.setup().offloads);
    rest.names().map(str::to_owned).collect()
}

/// Frames that a receive ring of the port has room for, whatever was asked of its driver.
fn sure_ring(port: &config::Port) -> u16 {
    match port.device {
        config::Device::VhostUser { .. } | config::Device::Vdev(_) => {
            port.rx_ring().min(USUAL_RING)
        }
        _ => port.rx_ring(),
    }
}

/// What is in use, as `rvsadm status` names it.
fn in_use(
    port: &RunningPort,
    info: &PortInfo,
    scatter: bool,
    wanted: &config::Port,
) -> Vec<String> {
    let in_use = [
        ("rss", port.setup().rss),
        ("scatter", scatter && info.has_scatter),
        ("multi-seg", scatter && info.has_multi_segments),
        ("csum-fixup", wanted.rx_csum_fixup),
        ("gso-fixup", wanted.rx_gso_fixup),
        ("urgent-queue", port.setup().urgent.is_some()),
    ];
    let names = in_use.iter().filter(|(_, used)| *used);
    let names = names.map(|(name, _)| *name);
    let of_frames = port.setup().offloads.names();
    names.chain(of_frames).map(str::to_owned).collect()
}

/// Which worker has which queue of a port. With fewer queues than workers, each port starts with
/// another worker, so that one-queue ports are spread over them.
struct Queues {
    queues: usize,
    team: usize,
    first: usize,
}

impl Queues {
    fn new(queues: u16, team: usize, port: PortId) -> Queues {
        let queues = usize::from(queues);
        let first = if queues < team {
            usize::from(port.0) % team
        } else {
            0
        };
        Queues {
            queues,
            team,
            first,
        }
    }

    /// The queue of a worker, if it has one.
    fn of(&self, worker: usize) -> Option<u16> {
        let queue = (worker + self.team - self.first) % self.team;
        (queue < self.queues).then_some(queue as u16)
    }

    /// The worker that sends for one that has no queue.
    fn stand_in(&self, worker: usize) -> usize {
        (worker % self.queues.max(1) + self.first) % self.team
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_has_one_worker_and_every_worker_a_way() {
        for team in 1..9 {
            for queues in 1..12 {
                for port in 0..5 {
                    let q = Queues::new(queues, team, PortId(port));
                    let mut owned: Vec<u16> = (0..team).filter_map(|w| q.of(w)).collect();
                    owned.sort_unstable();
                    let used = queues.min(team as u16);
                    assert_eq!(owned, (0..used).collect::<Vec<_>>());
                    for w in (0..team).filter(|&w| q.of(w).is_none()) {
                        assert!(q.of(q.stand_in(w)).is_some());
                    }
                }
            }
        }
    }
}
