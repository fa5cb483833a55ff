//! The worker's loop between two ports, in a test's hands.
//!
//! A port of the loop is two devices, one to receive from and one to send to, so that the test
//! holds the far end of both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dataplane::command::{ControlEnd, channel};
use dataplane::packet::{DropReason, PortId, PuntClass};
use dpdk::clock::Clock;
use dpdk::eal::Eal;
use dpdk::mbuf::{Burst, Mbuf};
use dpdk::mempool::Mempool;
use dpdk::peers::Peers;
use dpdk::poll::{Idle, Lane, Loop, Parking, Rings};
use dpdk::port::{self, RunningPort, RxQueue, TxQueue};
use dpdk::pump::Bell;
use dpdk::ring::{self, Receiver, Sender};
use dpdk::sched::Eager;

use crate::play::{Became, Carrier};
use crate::support::rig::Rig;
use crate::{allocations, common};

/// Slots of each ring to and from the kernel.
pub const RING: u32 = 64;

/// A loop of two ports, and the far end of everything it is connected to.
pub struct Net {
    pub inner: Loop,
    pub control: ControlEnd,
    pub pool: Arc<Mempool>,
    /// By port, where frames are put in and come out. None at a capture file.
    pub wires: [(Option<TxQueue>, Option<RxQueue>); 2],
    /// By port, the punt queues.
    pub punted: [[Receiver; PuntClass::COUNT]; 2],
    /// By port, what the kernel sends.
    pub kernel: [Sender; 2],
    /// Closed last.
    pub ports: Vec<RunningPort>,
}

pub fn open(eal: &Eal, pool: &Mempool, device: &str) -> RunningPort {
    port::attach(eal, device).unwrap_or_else(|e| panic!("{e}"));
    common::run(eal, device.split(',').next().expect("a name"), pool)
}

/// A frame in an mbuf of its own.
pub fn carried(pool: &Mempool, frame: &[u8]) -> Burst {
    let mut mbuf = pool.alloc().expect("the pool has enough");
    assert!(mbuf.write(frame));
    let mut one = Burst::new();
    one.push(mbuf).unwrap();
    one
}

/// The frame with all its buffers.
pub fn whole(mbuf: &Mbuf) -> Vec<u8> {
    let mut bytes = vec![0; mbuf.wire_len() as usize];
    assert_eq!(mbuf.copy_to(&mut bytes), Some(bytes.len()));
    bytes
}

impl Net {
    pub fn between_rings(eal: &Eal, pool: &Arc<Mempool>) -> Net {
        // The driver keeps the rings of a device that goes: no number comes twice.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let [in0, out0, in1, out1] = [(); 4].map(|()| {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            open(eal, pool, &format!("net_ring{number}"))
        });
        Net::new(eal, pool, [(in0, out0), (in1, out1)])
    }

    pub fn new(eal: &Eal, pool: &Arc<Mempool>, devices: [(RunningPort, RunningPort); 2]) -> Net {
        let (control, end) = channel(64);
        let (mut lanes, mut wires, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        let (mut punted, mut kernel) = (Vec::new(), Vec::new());
        for (number, (mut input, mut output)) in (0..).zip(devices) {
            let rings = [(); PuntClass::COUNT].map(|()| ring::single_producer(eal, RING).unwrap());
            let (punt, from_punt): (Vec<_>, Vec<_>) = rings.into_iter().unzip();
            let (to_wire, from_kernel) = ring::single_producer(eal, RING).unwrap();
            lanes.push(Lane::new(
                PortId(number),
                input.rx_queue(0).unwrap(),
                output.tx_queue(0).unwrap(),
                punt.try_into().unwrap(),
                from_kernel,
                false,
            ));
            wires.push((input.tx_queue(0), output.rx_queue(0)));
            punted.push(from_punt.try_into().unwrap());
            kernel.push(to_wire);
            ports.extend([input, output]);
        }
        Net {
            inner: Loop {
                worker: Rig::new().worker,
                end,
                lanes,
                pool: Arc::clone(pool),
                idle: Idle::Poll,
                rings: Rings::default(),
                stop: Arc::default(),
                bell: Bell::new().unwrap(),
                clock: Clock::new(eal.tsc_hz()),
                parking: Parking::default(),
                peers: Peers::default(),
                eager: Eager::default(),
            },
            control,
            pool: Arc::clone(pool),
            wires: wires.try_into().ok().unwrap(),
            punted: punted.try_into().unwrap(),
            kernel: kernel.try_into().unwrap(),
            ports,
        }
    }

    /// Exchanges the loop's worker with the rig's. A rig configures its worker with plain calls, so
    /// it has it between turns.
    pub fn swap(&mut self, rig: &mut Rig) {
        std::mem::swap(&mut self.inner.worker, &mut rig.worker);
        self.inner.end.counters = Arc::clone(self.inner.worker.counters());
    }

    /// One turn, which neither asks for memory nor gives some back.
    pub fn turn(&mut self, rig: &mut Rig) -> bool {
        self.swap(rig);
        let (calls, busy) = allocations::during(|| self.inner.turn(rig.now));
        self.swap(rig);
        assert_eq!(calls, 0, "allocations in a turn");
        busy
    }

    pub fn put(&mut self, port: usize, frame: &[u8]) {
        let mut one = carried(&self.pool, frame);
        let wire = self.wires[port].0.as_mut().expect("a ring");
        assert_eq!(wire.send(&mut one), 1);
    }

    /// Puts a frame in that takes a buffer for every `piece` bytes.
    pub fn put_in_pieces(&mut self, port: usize, frame: &[u8], piece: usize) {
        let mut pieces = frame.chunks(piece).map(|bytes| {
            let mut mbuf = self.pool.alloc().expect("the pool has enough");
            assert!(mbuf.write(bytes));
            mbuf
        });
        let mut whole = pieces.next().expect("a frame is not empty");
        pieces.for_each(|piece| whole.append(piece).expect("not too many"));
        let mut one = Burst::new();
        one.push(whole).unwrap();
        let wire = self.wires[port].0.as_mut().expect("a ring");
        assert_eq!(wire.send(&mut one), 1);
    }

    /// What left by a port.
    pub fn take(&mut self, port: usize) -> Vec<Vec<u8>> {
        let wire = self.wires[port].1.as_mut().expect("a ring");
        let (mut burst, mut frames) = (Burst::new(), Vec::new());
        while wire.receive(&mut burst) > 0 {
            frames.extend(burst.drain().map(|mbuf| whole(&mbuf)));
        }
        frames
    }

    pub fn take_punted(&mut self, port: usize, class: PuntClass) -> Vec<Vec<u8>> {
        let queue = &mut self.punted[port][class as usize];
        std::iter::from_fn(|| queue.receive_one().map(|mbuf| whole(&mbuf))).collect()
    }

    /// Gives queues and ports back; no mbuf may be left.
    pub fn end(self, eal: &Eal) {
        let Net {
            inner,
            pool,
            wires,
            punted,
            kernel,
            ports,
            ..
        } = self;
        drop((inner, wires, punted, kernel));
        for port in ports {
            let name = port.name().to_owned();
            drop(port.stop().unwrap_or_else(|e| panic!("{e}")));
            port::detach(eal, &name).unwrap_or_else(|e| panic!("{e}"));
        }
        assert_eq!(pool.in_use(), 0);
    }
}

impl Carrier for Net {
    fn carry(&mut self, rig: &mut Rig, port: u16, frame: &[u8], tci: u16) -> Became {
        let drops = |rig: &Rig| rig.counters.drops.each_ref().map(|c| c.get());
        let before = drops(rig);
        let mut sent = frame.to_vec();
        if tci != 0 {
            // A ring takes no tags out.
            let [a, b] = tci.to_be_bytes();
            sent.splice(12..12, [0x81, 0, a, b]);
        }
        self.put(port.into(), &sent);
        assert!(self.turn(rig));
        let mut became = Vec::new();
        for port in 0..2 {
            let left = self.take(port);
            if !left.is_empty() {
                became.push(Became::Left(port as u16, left));
            }
        }
        for (at, class) in (0..2).flat_map(|at| PuntClass::ALL.map(|class| (at, class))) {
            for frame in self.take_punted(at, class) {
                assert_eq!(at, usize::from(port), "to the twin of its port");
                assert_eq!(frame, sent, "as it came");
                became.push(Became::Punted(class));
            }
        }
        for (reason, (before, after)) in DropReason::ALL.iter().zip(before.iter().zip(drops(rig))) {
            // What is answered is counted by its reason, too.
            if after > *before && became.is_empty() {
                assert_eq!(after - before, 1);
                became.push(Became::Dropped(*reason));
            }
        }
        if became.is_empty() {
            assert_eq!(self.pool.in_use(), 1, "the loop keeps it");
            self.inner.parking = Parking::default();
            became.push(Became::Kept);
        }
        assert_eq!(became.len(), 1, "{became:?}");
        assert_eq!(self.pool.in_use(), 0);
        became.remove(0)
    }

    fn expire(&mut self, rig: &mut Rig) {
        // Eight shards a turn, and then some.
        for _ in 0..32 {
            assert!(!self.turn(rig), "nothing came");
        }
    }
}
