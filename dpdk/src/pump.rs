//! The pump: one thread that moves frames between workers and the kernel twins, so that no
//! worker makes a system call for them and the control loop is never held up by them.
//!
//! Frames for the kernel come in one queue for each class and worker and are written in order
//! of class: a transfer that the kernel forwards delays no advert. The pump also keeps house for
//! the ports: link state, carrier of the twin, counters, a device that was taken away.

use core::sync::atomic::{AtomicBool, Ordering, fence};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::counters::PortCounters;
use dataplane::packet::PuntClass;
use dataplane::probe::Exchange;
use dataplane::wire::announce;
use rustix::event::{EventfdFlags, epoll, eventfd};

use crate::mbuf::{BURST, Burst, Mbuf};
use crate::members::Members;
use crate::mempool::Mempool;
use crate::port::RunningPort;
use crate::ring::{Receiver, Sender};
use crate::sched::Eager;
use crate::tap::{self, Tap};

/// Frames of one class written before the higher classes are looked at again.
const PUNT_BATCH: usize = 8;

/// Frames read from one twin in a row.
const READ_BATCH: usize = 32;

/// More than any frame of a twin.
const LONGEST_FRAME: usize = 65536 + 32;

/// How often link and counters are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(100);

/// Wakes the pump when it sleeps; costs a load when it does not.
#[derive(Clone, Debug)]
pub struct Bell {
    asleep: Arc<AtomicBool>,
    event: Arc<OwnedFd>,
}

impl Bell {
    /// A new bell.
    ///
    /// # Errors
    /// The system's, when no descriptor is left.
    pub fn new() -> io::Result<Bell> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Bell {
            asleep: Arc::new(AtomicBool::new(false)),
            event: Arc::new(event),
        })
    }

    /// Wakes the pump. Call after the ring was filled.
    #[inline]
    pub fn ring(&self) {
        // Pairs with the fence in `Pump::wait`: either we see it asleep, or it sees the ring.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // A full eventfd is awake enough.
            let _ = rustix::io::write(&*self.event, &1u64.to_ne_bytes());
        }
    }
}

/// One port with its kernel twin.
pub struct Twin {
    /// The port, for link and counters; its queues are lent to the workers.
    pub port: RunningPort,
    /// The kernel's end.
    pub tap: Tap,
    /// Frames for the kernel: for each worker, a queue by class.
    pub punt: Vec<[Receiver; PuntClass::COUNT]>,
    /// Frames of the kernel for the wire.
    pub to_wire: Sender,
    /// Where state and counters are published.
    pub counters: Arc<PortCounters>,
    /// Last carrier set.
    pub carrier: bool,
    /// What is below the port.
    pub members: Members,
    /// The device was taken away: nothing is read from it any more.
    pub lost: bool,
}

/// The pump thread's state.
pub struct Pump {
    /// The ports.
    pub twins: Vec<Twin>,
    /// Buffers for frames of the kernel.
    pub pool: Arc<Mempool>,
    /// Rung by workers.
    pub bell: Bell,
    /// Set to end the thread.
    pub stop: Arc<AtomicBool>,
    /// Checks that leave by the workers, if there are any.
    pub probes: Option<Arc<Exchange>>,
    /// Whether it is there at once when others want the core.
    pub eager: Eager,
}

/// Whether a worker has a frame of the pump from a check: it carries its mark. Frames of the
/// kernel have another.
pub(crate) const PROBE: u32 = 1;
const OF_KERNEL: u32 = 0;

/// A copy of a frame for a worker.
fn carry(pool: &Mempool, frame: &[u8], mark: u32) -> Option<Mbuf> {
    let mut mbuf = pool.carry(frame)?;
    mbuf.set_mark(mark);
    Some(mbuf)
}

impl Pump {
    /// Runs until `stop` is set (and the bell rung), then gives the twins back.
    ///
    /// # Errors
    /// epoll could not be set up.
    pub fn run(mut self) -> io::Result<Vec<Twin>> {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = epoll::EventData::new_u64(u64::MAX);
        epoll::add(&poller, &*self.bell.event, wake, epoll::EventFlags::IN)?;
        for (i, twin) in self.twins.iter().enumerate() {
            let data = epoll::EventData::new_u64(i as u64);
            epoll::add(&poller, twin.tap.as_fd(), data, epoll::EventFlags::IN)?;
        }
        let mut events = Vec::with_capacity(64);
        let mut frame = vec![0; LONGEST_FRAME];
        let began = Instant::now();
        let mut next_housekeeping = began;
        if let Some(probes) = &self.probes {
            let bell = self.bell.clone();
            probes.wake_pump_by(move || bell.ring());
        }
        while !self.stop.load(Ordering::Acquire) {
            if Instant::now() >= next_housekeeping {
                let pool = &self.pool;
                self.twins.iter_mut().for_each(|twin| twin.keep_house(pool));
                next_housekeeping = Instant::now() + HOUSEKEEPING;
            }
            let probes = self.probes.clone();
            let probes = probes.as_deref();
            let sent = probes.is_some_and(|probes| self.send_probes(probes));
            let wrote = self
                .twins
                .iter_mut()
                .fold(false, |any, twin| twin.write_some(&mut frame, probes) | any);
            let read = self.twins.iter_mut().fold(false, |any, twin| {
                twin.read_some(&self.pool, &mut frame) | any
            });
            for twin in self.twins.iter().filter(|twin| twin.lost) {
                // Its descriptor would report an error for ever. Gone already: done before.
                let _ = epoll::delete(&poller, twin.tap.as_fd());
            }
            let now = dataplane::time::Instant(began.elapsed().as_nanos() as u64);
            if wrote || read || sent {
                self.eager.work(now);
            } else {
                self.eager.rest(now);
                let left = next_housekeeping.saturating_duration_since(Instant::now());
                self.wait(&poller, &mut events, left)?;
            }
        }
        Ok(self.twins)
    }

    /// Takes probes to a worker, by the ring of a twin: whichever takes it knows all ways.
    fn send_probes(&mut self, probes: &Exchange) -> bool {
        let Some(twin) = self.twins.first_mut() else {
            return false;
        };
        let mut burst = Burst::new();
        while !burst.is_full()
            && let Some(frame) = probes.next_probe()
        {
            // Without a buffer it is lost, and the check sends it again.
            if let Some(mbuf) = carry(&self.pool, &frame, PROBE) {
                drop(burst.push(mbuf));
            }
        }
        let sent = !burst.is_empty();
        twin.to_wire.send(&mut burst);
        sent
    }

    fn has_nothing_to_move(&self) -> bool {
        let probes = self.probes.as_ref();
        self.twins.iter().all(Twin::has_nothing_to_write) && !probes.is_some_and(|p| p.has_probes())
    }

    fn wait(
        &self,
        poller: &OwnedFd,
        events: &mut Vec<epoll::Event>,
        timeout: Duration,
    ) -> io::Result<()> {
        self.bell.asleep.store(true, Ordering::Relaxed);
        // Pairs with the fence in `Bell::ring`.
        fence(Ordering::SeqCst);
        if self.has_nothing_to_move() {
            let timeout = rustix::time::Timespec {
                tv_sec: 0,
                tv_nsec: timeout.subsec_nanos().max(1_000_000).into(),
            };
            events.clear();
            match epoll::wait(
                poller,
                rustix::buffer::spare_capacity(events),
                Some(&timeout),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(cause) => return Err(cause.into()),
            }
            let mut count = [0; 8];
            // Empty: somebody else's event woke us.
            let _ = rustix::io::read(&*self.bell.event, &mut count);
        }
        self.bell.asleep.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Twin {
    fn has_nothing_to_write(&self) -> bool {
        self.punt.iter().flatten().all(Receiver::is_empty)
    }

    /// Writes a batch of the highest class that has frames. `whole` is room for one frame.
    fn write_some(&mut self, whole: &mut [u8], probes: Option<&Exchange>) -> bool {
        let mut wrote = false;
        for _ in 0..8 {
            let Some(queue) = (0..PuntClass::COUNT)
                .flat_map(|class| (0..self.punt.len()).map(move |worker| (worker, class)))
                .find(|&(worker, class)| !self.punt[worker][class].is_empty())
            else {
                break;
            };
            wrote = true;
            for _ in 0..PUNT_BATCH {
                let Some(mbuf) = self.punt[queue.0][queue.1].receive_one() else {
                    break;
                };
                let frame = match mbuf.segments() {
                    1 => mbuf.frame(),
                    _ => mbuf
                        .copy_to(whole)
                        .and_then(|len| whole.get(..len))
                        .unwrap_or(&[]),
                };
                if probes.is_some_and(|probes| probes.take(frame)) {
                    continue;
                }
                match self.tap.write(frame) {
                    Ok(_) => self.counters.twin_tx.add(1),
                    Err(_) => self.counters.twin_failed.add(1),
                }
            }
        }
        wrote
    }

    /// Reads what the kernel sends and queues it for the wire.
    fn read_some(&mut self, pool: &Mempool, frame: &mut [u8]) -> bool {
        let mut burst = Burst::new();
        if self.lost {
            return false;
        }
        for _ in 0..READ_BATCH {
            let len = match self.tap.read(frame) {
                Ok(len) if len > 0 => len,
                Ok(_) => break,
                // EIO: the device is down.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.raw_os_error() == Some(libc::EIO) => break,
                Err(cause) => {
                    self.lost = true;
                    tracing::error!(
                        event = "twin",
                        "kernel twin {} is gone ({cause}); restart rvsd to make it again",
                        self.tap.name()
                    );
                    break;
                }
            };
            self.counters.twin_rx.add(1);
            match carry(pool, &frame[..len], OF_KERNEL) {
                // READ_BATCH fits into a burst.
                Some(mbuf) => drop(burst.push(mbuf)),
                None => self.counters.twin_dropped.add(1),
            }
        }
        if burst.is_empty() {
            return false;
        }
        self.to_wire.send(&mut burst);
        self.counters.twin_dropped.add(burst.len() as u64);
        true
    }

    /// Tells the network where the twin's addresses are now.
    fn announce(&mut self, pool: &Mempool) {
        let Ok(mac) = self.tap.mac() else {
            // Deleted by hand: reading from it says so.
            return;
        };
        let addrs = tap::addresses_of(self.tap.name());
        tracing::info!(
            event = "announce",
            "announcing {} addresses of {}",
            addrs.len(),
            self.tap.name()
        );
        for addrs in addrs.chunks(BURST) {
            let mut burst = Burst::new();
            for addr in addrs {
                if let Some(mbuf) = carry(pool, &announce::frame(mac, *addr), OF_KERNEL) {
                    // A chunk fits into a burst.
                    drop(burst.push(mbuf));
                }
            }
            self.to_wire.send(&mut burst);
            self.counters.twin_dropped.add(burst.len() as u64);
        }
    }

    fn keep_house(&mut self, pool: &Mempool) {
        self.counters.rounds.add(1);
        let removed = self.port.events().is_removed();
        let link = if removed { None } else { self.port.link().ok() };
        let up = link.is_some_and(|link| link.up) && self.members.has_carrier();
        let moved = !removed && self.members.look(&mut self.port, Instant::now());
        self.counters.link.set(u32::from(up));
        self.counters
            .speed
            .set(link.and_then(|link| link.mbps).unwrap_or(0));
        self.counters.failed.set(u32::from(removed));
        let is_new = up && !self.carrier;
        if up != self.carrier && self.tap.set_carrier(up).is_ok() {
            self.carrier = up;
        }
        // Switches have to learn where the addresses are now.
        if is_new || moved && up {
            self.announce(pool);
        }
        if let (false, Ok(stats)) = (removed, self.port.stats()) {
            self.counters.rx_packets.set(stats.rx_packets);
            self.counters.rx_bytes.set(stats.rx_bytes);
            self.counters.rx_missed.set(stats.rx_missed);
            self.counters.rx_errors.set(stats.rx_errors);
            self.counters.rx_no_mbuf.set(stats.rx_no_mbuf);
            self.counters.tx_packets.set(stats.tx_packets);
            self.counters.tx_bytes.set(stats.tx_bytes);
            self.counters.tx_errors.set(stats.tx_errors);
        }
    }

    /// Port and device, for somebody who serves them without a break.
    pub fn part(self) -> (RunningPort, Tap) {
        (self.port, self.tap)
    }

    /// The device stays, with its addresses and routes, but shows that nobody serves the port.
    pub fn retire(self) -> RunningPort {
        // A twin that was deleted by hand has no carrier to take.
        let _ = self.tap.set_carrier(false);
        self.counters.link.set(0);
        self.port
    }
}
