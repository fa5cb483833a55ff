//! Where memory belongs on a machine with several NUMA nodes: with the core of the worker that uses
//! it. On all other machines nothing here does anything.

use std::ops::Range;

use control::config::Config;
use dataplane::conn::{Layout, SHARDS};
use dataplane::worker::Share;
use dpdk::host::Host;
use dpdk::numa::{self, PIECE};
use tracing::warn;

/// The cores of the workers and their nodes; no node where the kernel tells none.
#[derive(Clone, Debug)]
pub struct Nodes(Vec<(u32, Option<u32>)>);

impl Nodes {
    /// As the kernel tells them.
    pub fn of(config: &Config) -> Nodes {
        let host = Host::this();
        let cores = config.dpdk.worker_cores.iter();
        Nodes(
            cores
                .map(|&core| (core, host.core_node(core as usize)))
                .collect(),
        )
    }

    /// Of one worker.
    pub fn worker(&self, worker: usize) -> Option<u32> {
        self.0.get(worker)?.1
    }

    /// Of all workers.
    pub fn all(&self) -> Vec<Option<u32>> {
        self.0.iter().map(|(_, node)| *node).collect()
    }

    /// The nodes that workers, or ports on `others`, are on, if there are several.
    pub fn several(&self, others: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let own = self.0.iter().filter_map(|(_, node)| *node);
        let mut nodes: Vec<u32> = own.chain(others).collect();
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.len() < 2 {
            nodes.clear();
        }
        nodes
    }

    /// Makes something of a worker where its memory belongs: there what is touched first comes from
    /// the worker's node.
    pub fn near<T: Send>(&self, worker: usize, make: impl FnOnce() -> T + Send) -> T {
        match self.0.get(worker) {
            Some(&(core, Some(_))) if !self.several([]).is_empty() => {
                numa::on_core(core as usize, make)
            }
            _ => make(),
        }
    }

    /// Has each worker's part of the connection table on its node. Where shards are smaller than a
    /// hugepage it goes where the middle of it is wanted.
    pub fn place_table(&self, bytes: &mut [u8], layout: Layout) {
        if self.several([]).is_empty() {
            return;
        }
        for (range, node) in self.stretches(layout, bytes.len()) {
            if let Err(why) = numa::place(bytes, range, node) {
                warn!(
                    event = "numa",
                    "the connection table lies where the kernel puts it: {why}"
                );
                return;
            }
        }
    }

    /// Stretches of a table and the nodes they belong on, in whole pieces.
    fn stretches(&self, layout: Layout, len: usize) -> Vec<(Range<usize>, u32)> {
        let share = Share::of(0, self.0.len());
        let mut all: Vec<(Range<usize>, u32)> = Vec::new();
        for start in (0..len).step_by(PIECE) {
            let end = (start + PIECE).min(len);
            let shard = layout.shard_at((start + end) / 2).min(SHARDS - 1);
            let Some(node) = self.worker(usize::from(share.owner(shard as u8))) else {
                continue;
            };
            match all.last_mut() {
                Some((range, last)) if *last == node && range.end == start => range.end = end,
                _ => all.push((start..end, node)),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(of_workers: &[Option<u32>]) -> Nodes {
        Nodes((0..).zip(of_workers.iter().copied()).collect())
    }

    #[test]
    fn each_shard_has_its_middle_where_its_worker_is() {
        let layout = Layout::for_connections(10_000_000);
        let nodes = nodes(&[Some(0), Some(1)]);
        let len = layout.bytes();
        let all = nodes.stretches(layout, len);
        assert_eq!(all.first().map(|(range, _)| range.start), Some(0));
        assert_eq!(all.last().map(|(range, _)| range.end), Some(len));
        assert!(
            all.windows(2)
                .all(|w| w[0].0.end == w[1].0.start && w[0].1 != w[1].1)
        );
        let share = Share::of(0, 2);
        let mut seen = [0; 2];
        for at in (PIECE / 2..len).step_by(PIECE) {
            let (_, node) = all.iter().find(|(range, _)| range.contains(&at)).unwrap();
            let shard = layout.shard_at(at).min(SHARDS - 1);
            assert_eq!(*node, u32::from(share.owner(shard as u8)));
            seen[*node as usize] += 1;
        }
        assert!(seen.iter().all(|&n| n > len / PIECE / 3), "{seen:?}");
    }

    #[test]
    fn unknown_nodes_and_a_single_one_place_nothing() {
        let layout = Layout::for_connections(1000);
        assert_eq!(nodes(&[None, None]).stretches(layout, 1 << 24), []);
        assert_eq!(nodes(&[Some(0), Some(0)]).several([0]), [0; 0]);
        assert_eq!(nodes(&[Some(3), None]).several([]), [0; 0]);
        assert_eq!(nodes(&[Some(0), Some(0)]).several([1]), [0, 1]);
        assert_eq!(nodes(&[Some(1), Some(0)]).several([]), [0, 1]);
    }

    /// Each worker's own things are made on its core, if there is a reason.
    #[test]
    fn made_near_the_worker() {
        let cores = dpdk::lcore::affinity().unwrap();
        let core = *cores.last().unwrap() as u32;
        let cores_of_maker = |nodes: Nodes| nodes.near(0, || dpdk::lcore::affinity().unwrap());
        let far = Nodes(vec![(core, Some(0)), (0, Some(1))]);
        assert_eq!(cores_of_maker(far), [core as usize]);
        let near = Nodes(vec![(core, Some(0)), (0, Some(0))]);
        assert_eq!(cores_of_maker(near), cores);
    }
}
