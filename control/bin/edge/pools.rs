//! Packet buffers: one pool or, where workers and NICs are on several NUMA nodes, one on each.

use std::sync::Arc;

use anyhow::{Context, Result};
use control::config::{self, Config, MemoryMode};
use control::status::PoolHandle;
use dpdk::ahead;
use dpdk::eal::Eal;
use dpdk::mbuf::HEADROOM;
use dpdk::mempool::{self, Demand, Mempool};
use dpdk::peers::PEER_SLOTS;
use tracing::warn;

use super::{PUNT_SLOTS, WIRE_SLOTS};
use crate::numa::Nodes;

/// Mbufs a thread keeps for itself.
const CACHE: u32 = 256;

/// Name of the pool that feeds all ports; with the number of the node where there are several.
const POOL: &str = "rvs";

/// See the module.
pub(super) struct Pools {
    /// A frame may take several buffers.
    pub scatter: bool,
    /// For threads that belong nowhere, and for nodes without a pool.
    first: Arc<Mempool>,
    /// By node; empty unless there are several.
    by_node: Vec<(u32, Arc<Mempool>)>,
    /// For those who want to know how full they are.
    pub known: Vec<PoolHandle>,
}

impl Pools {
    /// Makes a pool on each node that has workers, or one if that is one.
    ///
    /// # Errors
    /// There is not enough memory for one.
    pub fn new(eal: &Eal, config: &Config, scatter: bool, nodes: &Nodes) -> Result<Pools> {
        let mut by_node = Vec::new();
        let mut known = Vec::new();
        let wanted = match config.dpdk.memory {
            MemoryMode::Hugepages => nodes.several([]),
            // EAL takes it all to be on one node.
            MemoryMode::NoHuge => Vec::new(),
        };
        for node in wanted {
            add(eal, config, scatter, node, &mut by_node, &mut known);
        }
        let first = match by_node.first() {
            Some((_, first)) => Arc::clone(first),
            None => {
                let pool = make(eal, config, scatter, POOL, None)?;
                let (size, rings) = (pool.available(), descriptors(config));
                known.push(handle(POOL, None, size, rings, pool.clone()));
                Arc::new(pool)
            }
        };
        Ok(Pools {
            scatter,
            first,
            by_node,
            known,
        })
    }

    /// Makes pools on the nodes of NICs that have none.
    pub fn extend(
        &mut self,
        eal: &Eal,
        config: &Config,
        nodes: &Nodes,
        nics: impl Iterator<Item = u32>,
    ) {
        if config.dpdk.memory != MemoryMode::Hugepages {
            return;
        }
        for node in nodes.several(nics) {
            if self.by_node.iter().all(|(has, _)| *has != node) {
                let (by_node, known) = (&mut self.by_node, &mut self.known);
                add(eal, config, self.scatter, node, by_node, known);
            }
        }
    }

    /// The pool of a node, or the first.
    pub fn of(&self, node: Option<u32>) -> &Arc<Mempool> {
        let own = self.by_node.iter().find(|(has, _)| Some(*has) == node);
        own.map_or(&self.first, |(_, pool)| pool)
    }
}

/// One more, if the node has memory for it.
fn add(
    eal: &Eal,
    config: &Config,
    scatter: bool,
    node: u32,
    by_node: &mut Vec<(u32, Arc<Mempool>)>,
    known: &mut Vec<PoolHandle>,
) {
    let name = format!("{POOL}-{node}");
    match make(eal, config, scatter, &name, Some(node)) {
        Ok(pool) => {
            let (size, rings) = (pool.available(), descriptors(config));
            known.push(handle(&name, Some(node), size, rings, pool.clone()));
            by_node.push((node, Arc::new(pool)));
        }
        Err(why) => warn!(
            event = "numa",
            node, "packet buffers of another node are used: {why:#}"
        ),
    }
}

/// For listings: a pool of `size` buffers of which rings may hold so many.
pub(super) fn handle(
    name: &str,
    node: Option<u32>,
    size: u32,
    rings: u32,
    pool: Mempool,
) -> PoolHandle {
    PoolHandle {
        name: name.to_owned(),
        node,
        size: u64::from(size),
        rings: u64::from(rings),
        free: Arc::new(move || u64::from(pool.available())),
    }
}

/// Descriptors of all queues: at most one of each kind for every worker, and one for what is urgent.
fn descriptors(config: &Config) -> u32 {
    let workers = config.dpdk.worker_cores.len() as u32;
    let of = |p: &config::Port| {
        let (rx, tx) = (u32::from(p.rx_descriptors), u32::from(p.tx_descriptors));
        let urgent = match p.device {
            config::Device::Pci(_) if p.offloads != config::Offloads::None => rx,
            _ if p.offloads == config::Offloads::All => rx,
            _ => 0,
        };
        workers * (rx + tx) + urgent
    };
    config.ports.iter().map(of).sum()
}

fn make(
    eal: &Eal,
    config: &Config,
    scatter: bool,
    name: &str,
    node: Option<u32>,
) -> Result<Mempool> {
    let ports = config.ports.len() as u32;
    let workers = config.dpdk.worker_cores.len() as u32;
    let count = mempool::size_for(Demand {
        descriptors: descriptors(config),
        ring_slots: ports * (workers * PUNT_SLOTS.iter().sum::<u32>() + WIRE_SLOTS)
            + ports * workers * ahead::MOST as u32
            + workers * (workers - 1) * PEER_SLOTS,
        threads: workers + 2,
        cache: CACHE,
        bursts: workers * (4 * (ports + 1) + workers),
    });
    let longest = config.ports.iter().map(config::Port::longest_frame).max();
    let longest = u16::try_from(longest.unwrap_or(0)).unwrap_or(u16::MAX);
    let room = match scatter {
        true => mempool::DATA_ROOM,
        false => mempool::DATA_ROOM.max(longest.saturating_add(HEADROOM)),
    };
    Mempool::new(eal, name, count, CACHE, room, node).with_context(|| {
        let place = node.map_or_else(String::new, |node| format!(" on NUMA node {node}"));
        format!(
            "{count} packet buffers of {room} bytes are needed for {ports} ports{place}; raise \
             memory_mb in [dpdk], or lower the descriptors or the mtu of the ports"
        )
    })
}
