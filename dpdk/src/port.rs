//! Ports: NICs and virtual devices.
//!
//! A [`Port`] is open but idle. [`Port::start`] sets it up and makes it a [`RunningPort`], which
//! lends its queues, each to one owner at a time. [`RunningPort::stop`] wants all of them back
//! first, so a queue handle never outlives the port.
//!
//! Unless a port is told otherwise ([`Offloads`]), frames arrive with their VLAN tag in place and leave
//! as they are. Checksums are changed by differences, which costs less than telling a NIC where they
//! are.

mod bond;
mod error;
mod events;
mod filter;
mod hotplug;
mod info;
mod queue;
mod stats;

use core::cell::Cell;
use core::ffi::{CStr, c_int};
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, Ordering};
use std::ffi::CString;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dataplane::addr::Mac;
use dataplane::toeplitz::{BUCKETS, KEY_BYTES};

pub use self::error::{PortError, Refused};
pub use self::events::PortEvents;
pub use self::filter::MacFilter;
pub use self::hotplug::{attach, detach};
pub use self::info::{Link, Offloads, PortConfig, PortInfo, PortSetup, Urgent};
pub use self::queue::{RxQueue, TxQueue};
pub use self::stats::PortStats;

use self::events::on_event;
use self::queue::Leases;
use crate::eal::{self, Eal};
use crate::ffi;
use crate::mbuf::HEADROOM;
use crate::mempool::Mempool;

/// Bytes of a frame around the bytes the MTU counts: Ethernet header and two VLAN tags.
const FRAME_OVERHEAD: u16 = 14 + 2 * 4;

const MAX_PORTS: usize = ffi::RVS_MAX_PORTS as usize;

/// Which of DPDK's ports have an owner here.
static OPEN: [AtomicBool; MAX_PORTS] = [const { AtomicBool::new(false) }; MAX_PORTS];

/// Ports come and go one at a time: DPDK's table of them has no lock of its own.
fn control() -> MutexGuard<'static, ()> {
    static CONTROL: Mutex<()> = Mutex::new(());
    CONTROL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// DPDK's number of the port with this name.
pub(crate) fn id_of(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let mut id = 0;
    // SAFETY: a C string and a number to fill; DPDK looks through a table that is always there.
    let rc = unsafe { ffi::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut id) };
    (rc == 0).then_some(id)
}

/// Names of all ports DPDK has.
pub fn names(_eal: &Eal) -> Vec<String> {
    // SAFETY: EAL runs (`_eal`); any number may be asked for, MAX_PORTS and above mean the end.
    let next = |from: u16| unsafe { ffi::rte_eth_find_next(from) };
    let mut names = Vec::new();
    let mut id = next(0);
    while usize::from(id) < MAX_PORTS {
        let mut name = [0; ffi::RVS_PORT_NAME as usize];
        // SAFETY: as above; a name with its NUL has at most RVS_PORT_NAME bytes.
        let rc = unsafe { ffi::rte_eth_dev_get_name_by_port(id, name.as_mut_ptr()) };
        if rc == 0 {
            // SAFETY: DPDK wrote a C string.
            let name = unsafe { CStr::from_ptr(name.as_ptr()) };
            names.push(name.to_string_lossy().into_owned());
        }
        id = next(id + 1);
    }
    names
}

/// A negative errno as an error.
fn errno(rc: c_int) -> io::Error {
    io::Error::from_raw_os_error(rc.saturating_neg())
}

/// The part that idle and running ports share; closes the device on drop.
#[derive(Debug)]
struct Device {
    id: u16,
    name: String,
    driver: String,
    events: Arc<PortEvents>,
    /// Null if the driver takes no callbacks.
    watch: *mut ffi::rvs_port_watch,
    _live: eal::Live,
    /// Control calls of one port must not run at the same time.
    _not_sync: PhantomData<Cell<()>>,
}

// SAFETY: DPDK's control calls may come from any thread, one at a time (not Sync); `watch` is ours.
unsafe impl Send for Device {}

impl Device {
    fn error(&self, what: impl Into<String>, rc: c_int) -> PortError {
        PortError::Driver {
            port: self.name.clone(),
            driver: self.driver.clone(),
            what: what.into(),
            cause: errno(rc),
        }
    }

    fn check(&self, what: &str, rc: c_int) -> Result<(), PortError> {
        if rc == 0 {
            Ok(())
        } else {
            Err(self.error(what, rc))
        }
    }

    fn info(&self) -> Result<PortInfo, PortError> {
        let raw = raw_info(self.id).map_err(|rc| self.error("be asked for its properties", rc))?;
        Ok(PortInfo {
            driver: self.driver.clone(),
            mac: Mac(raw.mac),
            max_rx_queues: raw.max_rx_queues,
            max_tx_queues: raw.max_tx_queues,
            mtu: raw.mtu,
            min_mtu: raw.min_mtu,
            max_mtu: raw.max_mtu,
            socket: u32::try_from(raw.socket).ok(),
            has_rss: raw.has_rss,
            takes_rss_key: raw.takes_rss_key,
            has_scatter: raw.has_scatter,
            has_multi_segments: raw.has_multi_segments,
            offers: Offloads::from_bits(raw.offers),
            has_link_interrupt: raw.has_link_interrupt,
            has_removal_interrupt: raw.has_removal_interrupt,
        })
    }

    fn link(&self) -> Result<Link, PortError> {
        let mut raw = ffi::rvs_link::default();
        // SAFETY: the device is open.
        let rc = unsafe { ffi::rvs_port_link(self.id, &mut raw) };
        self.check("be asked for its link", rc)?;
        Ok(Link {
            up: raw.up,
            mbps: (raw.mbps != u32::MAX && raw.mbps != 0).then_some(raw.mbps),
            full_duplex: raw.full_duplex,
        })
    }

    /// Refuses an MTU the driver or the buffers cannot do.
    fn check_mtu(
        &self,
        info: &PortInfo,
        mtu: u16,
        data_room: u16,
        scatter: bool,
    ) -> Result<(), PortError> {
        let (port, min, max) = (self.name.clone(), info.min_mtu, info.max_mtu);
        if mtu < min || mtu > max {
            return Err(PortError::Mtu {
                port,
                mtu,
                min,
                max,
            });
        }
        let (need, room) = (
            mtu.saturating_add(FRAME_OVERHEAD),
            data_room.saturating_sub(HEADROOM),
        );
        if need > room && !(scatter && info.has_scatter) {
            return Err(PortError::BufferTooSmall {
                port,
                mtu,
                need,
                room,
            });
        }
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _control = control();
        // SAFETY: the device is open and stopped (RunningPort sees to that), the watch is its own
        // and not used again.
        unsafe {
            if !self.watch.is_null() {
                ffi::rvs_port_unwatch(self.watch);
            }
            ffi::rte_eth_dev_close(self.id);
        }
        OPEN[usize::from(self.id)].store(false, Ordering::Release);
    }
}

fn raw_info(id: u16) -> Result<ffi::rvs_port_info, c_int> {
    // SAFETY: all-zero is a value of this plain struct.
    let mut raw: ffi::rvs_port_info = unsafe { core::mem::zeroed() };
    // SAFETY: DPDK checks the number and fills the struct.
    match unsafe { ffi::rvs_port_info(id, &mut raw) } {
        0 => Ok(raw),
        rc => Err(rc),
    }
}

/// A port that is open and idle. Dropping it closes the device; it is gone then until it is
/// attached again.
#[derive(Debug)]
pub struct Port {
    device: Box<Device>,
}

impl Port {
    /// Opens a port by the name of its virtual device (`net_af_packet0`) or its PCI address.
    ///
    /// # Errors
    /// No such port, or somebody has it.
    pub fn open(eal: &Eal, name: &str) -> Result<Port, PortError> {
        let _control = control();
        let found = id_of(name).or_else(|| id_of(&eal::full_bdf(name)));
        let Some(id) = found.filter(|&id| usize::from(id) < MAX_PORTS) else {
            return Err(PortError::Unknown {
                port: name.to_owned(),
                known: names(eal),
            });
        };
        if OPEN[usize::from(id)].swap(true, Ordering::AcqRel) {
            return Err(PortError::AlreadyOpen(name.to_owned()));
        }
        let raw = match raw_info(id) {
            Ok(raw) => raw,
            Err(rc) => {
                OPEN[usize::from(id)].store(false, Ordering::Release);
                return Err(PortError::Driver {
                    port: name.to_owned(),
                    driver: "unknown driver".to_owned(),
                    what: "be asked for its properties".to_owned(),
                    cause: errno(rc),
                });
            }
        };
        let events = Arc::new(PortEvents::default());
        let context = Arc::as_ptr(&events).cast_mut().cast();
        // SAFETY: the port exists; `events` lives until Device's drop has unwatched.
        let watch = unsafe { ffi::rvs_port_watch(id, Some(on_event), context) };
        // SAFETY: the shim ends the name with a NUL.
        let driver = unsafe { CStr::from_ptr(raw.driver.as_ptr()) }
            .to_string_lossy()
            .into_owned();
        let device = Device {
            id,
            name: name.to_owned(),
            driver,
            events,
            watch,
            _live: eal::Live::new(),
            _not_sync: PhantomData,
        };
        Ok(Port {
            device: Box::new(device),
        })
    }

    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.device.name
    }

    /// What it is and can do.
    ///
    /// # Errors
    /// The driver's, such as `ENODEV` when it was removed.
    pub fn info(&self) -> Result<PortInfo, PortError> {
        self.device.info()
    }

    /// Sets the port up and starts it. Received frames take their buffers from `pool`. The link may
    /// be down.
    ///
    /// # Errors
    /// What the port cannot do, or the driver's reason with the step that failed.
    pub fn start(self, config: &PortConfig, pool: &Mempool) -> Result<RunningPort, Refused<Port>> {
        let started = self
            .set_up(config, pool, false)
            .and_then(|setup| self.set_apart(config, pool, setup));
        match started {
            Ok(setup) => Ok(RunningPort {
                leases: Arc::new(Leases::new(
                    setup.rx_queues + u16::from(setup.urgent.is_some()),
                    setup.tx_queues,
                )),
                device: Some(self.device),
                setup,
                data_room: pool.data_room(),
                scatter: config.scatter,
            }),
            Err(error) => Err(Refused { port: self, error }),
        }
    }

    /// Gives a port that runs a queue more for what is urgent, if that is wanted. The driver says
    /// what it can do only once the port runs, so it is set up once more; if it does not do it
    /// then, the port is set up as it was.
    fn set_apart(
        &self,
        config: &PortConfig,
        pool: &Mempool,
        setup: PortSetup,
    ) -> Result<PortSetup, PortError> {
        let (device, queue) = (&self.device, setup.rx_queues);
        let least = |kinds: u32| kinds & Urgent::LEAST == Urgent::LEAST;
        // SAFETY: the device runs and has a first queue.
        let offered = || unsafe { ffi::rvs_urgent_offered(device.id, 0) };
        if !config.urgent || queue >= device.info()?.max_rx_queues || !least(offered()) {
            return Ok(setup);
        }
        self.halt()?;
        if let Ok(setup) = self.set_up(config, pool, true) {
            // SAFETY: the device runs.
            let spread = || unsafe { ffi::rvs_port_spread(device.id, queue) } == 0;
            // SAFETY: the device runs, with a queue behind those of `setup`.
            let set = || unsafe { ffi::rvs_urgent_set(device.id, queue) };
            let kinds = match !setup.rss || spread() {
                true => set(),
                false => 0,
            };
            if least(kinds) {
                let urgent = Urgent::new(queue, kinds);
                return Ok(PortSetup { urgent, ..setup });
            }
            // SAFETY: the device is open.
            unsafe { ffi::rvs_urgent_clear(device.id) };
            self.halt()?;
        }
        self.set_up(config, pool, false)
    }

    fn halt(&self) -> Result<(), PortError> {
        // SAFETY: the device is open, and no queue of it was lent yet.
        let rc = unsafe { ffi::rte_eth_dev_stop(self.device.id) };
        self.device.check("be stopped", rc)
    }

    fn set_up(
        &self,
        config: &PortConfig,
        pool: &Mempool,
        urgent_queue: bool,
    ) -> Result<PortSetup, PortError> {
        let device = &self.device;
        let info = device.info()?;
        if config.rx_queues > info.max_rx_queues {
            return Err(PortError::TooFewRxQueues {
                port: device.name.clone(),
                have: info.max_rx_queues,
                want: config.rx_queues,
            });
        }
        if config.tx_queues > info.max_tx_queues {
            return Err(PortError::TooFewTxQueues {
                port: device.name.clone(),
                have: info.max_tx_queues,
                want: config.tx_queues,
            });
        }
        if let Some(mtu) = config.mtu {
            device.check_mtu(&info, mtu, pool.data_room(), config.scatter)?;
        }
        let offloads = Offloads::from_bits(config.offloads.bits() & info.offers.bits());
        let key = config.rss_key.as_ref().filter(|_| info.takes_rss_key);
        let mut conf = ffi::rvs_port_conf {
            pool: pool.as_ptr(),
            rx_queues: config.rx_queues,
            tx_queues: config.tx_queues,
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            mtu: config.mtu.unwrap_or(0),
            scatter: config.scatter,
            offloads: offloads.bits(),
            rss_key: key.map_or(core::ptr::null(), |key| key.as_ptr()),
            urgent_queue,
        };
        let (mut step, mut rss) = (ffi::RVS_STEP_INFO, false);
        // SAFETY: the device is open and stopped, the pool lives as long as EAL, the key as long
        // as the call.
        let rc = unsafe { ffi::rvs_port_configure(device.id, &mut conf, &mut step, &mut rss) };
        if rc != 0 {
            let what = match step {
                ffi::RVS_STEP_CONFIGURE => format!(
                    "be configured with {} RX and {} TX queues",
                    config.rx_queues, config.tx_queues
                ),
                ffi::RVS_STEP_DESCRIPTORS => format!(
                    "have {} RX and {} TX descriptors",
                    config.rx_descriptors, config.tx_descriptors
                ),
                ffi::RVS_STEP_RX_QUEUE => format!(
                    "set up its RX queues with {} descriptors and buffers of {} bytes",
                    conf.rx_descriptors,
                    pool.data_room()
                ),
                ffi::RVS_STEP_TX_QUEUE => {
                    format!(
                        "set up its TX queues with {} descriptors",
                        conf.tx_descriptors
                    )
                }
                _ => "be asked for its properties".to_owned(),
            };
            return Err(device.error(what, rc));
        }
        // SAFETY: open and configured.
        device.check("be started", unsafe { ffi::rte_eth_dev_start(device.id) })?;
        Ok(PortSetup {
            rx_queues: conf.rx_queues,
            tx_queues: conf.tx_queues,
            rx_descriptors: conf.rx_descriptors,
            tx_descriptors: conf.tx_descriptors,
            mtu: device.info().map_or(info.mtu, |now| now.mtu),
            offloads,
            rss,
            urgent: None,
        })
    }
}

/// A port that is started. Dropping it stops and closes it, unless queues are still lent: then it
/// is left running until the process ends.
#[derive(Debug)]
pub struct RunningPort {
    /// Taken out only by `stop` and drop.
    device: Option<Box<Device>>,
    leases: Arc<Leases>,
    setup: PortSetup,
    data_room: u16,
    scatter: bool,
}

impl RunningPort {
    fn device(&self) -> &Device {
        self.device
            .as_ref()
            .expect("only stop and drop, which end the port, take the device")
    }

    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.device().name
    }

    /// What it is and can do.
    ///
    /// # Errors
    /// The driver's, such as `ENODEV` when it was removed.
    pub fn info(&self) -> Result<PortInfo, PortError> {
        self.device().info()
    }

    /// How it is set up.
    pub fn setup(&self) -> PortSetup {
        self.setup
    }

    /// What its driver tells of it.
    pub fn events(&self) -> Arc<PortEvents> {
        Arc::clone(&self.device().events)
    }

    /// Takes each bucket of the hash to a queue. The port must have been started with this key;
    /// what it says of its key, table and kinds of packets is compared with what it was told.
    ///
    /// # Errors
    /// The driver's, or it does something else.
    pub fn steer(
        &mut self,
        key: &[u8; KEY_BYTES],
        queues: &[u16; BUCKETS],
    ) -> Result<(), PortError> {
        const { assert!(KEY_BYTES == ffi::RVS_RSS_KEY as usize) };
        const { assert!(BUCKETS == ffi::RVS_RSS_BUCKETS as usize) };
        let device = self.device();
        // SAFETY: the device runs; key and table have the sizes the shim reads.
        let rc = unsafe { ffi::rvs_port_steer(device.id, key.as_ptr(), queues.as_ptr()) };
        device.check("steer by a key and a table of ours", rc)
    }

    /// State of the link, without waiting for it.
    ///
    /// # Errors
    /// The driver's.
    pub fn link(&self) -> Result<Link, PortError> {
        self.device().link()
    }

    /// Changes the port's own address.
    ///
    /// # Errors
    /// The driver's.
    pub fn set_mac(&mut self, mac: Mac) -> Result<(), PortError> {
        let device = self.device();
        // SAFETY: the device is open, the address has six bytes.
        let rc = unsafe { ffi::rvs_port_mac_set(device.id, mac.0.as_ptr()) };
        device.check(&format!("take the address {mac}"), rc)
    }

    /// Changes the MTU, bytes. Some drivers do that only before they are started.
    ///
    /// # Errors
    /// Outside of what the driver or the buffers can do, or the driver's reason.
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), PortError> {
        let device = self.device();
        device.check_mtu(&device.info()?, mtu, self.data_room, self.scatter)?;
        // SAFETY: the device is open.
        let rc = unsafe { ffi::rte_eth_dev_set_mtu(device.id, mtu) };
        device.check(&format!("change its MTU to {mtu}"), rc)?;
        self.setup.mtu = mtu;
        Ok(())
    }

    /// Stops the port. Every queue must have been returned (dropped).
    ///
    /// # Errors
    /// Queues in use, or the driver's reason; the port goes on then.
    pub fn stop(mut self) -> Result<Port, Refused<RunningPort>> {
        if let Err(error) = self.halt() {
            return Err(Refused { port: self, error });
        }
        let device = self
            .device
            .take()
            .expect("only stop and drop take the device");
        Ok(Port { device })
    }

    fn halt(&self) -> Result<(), PortError> {
        let device = self.device();
        match self.leases.count() {
            0 => {
                if self.setup.urgent.is_some() {
                    // SAFETY: the device is open.
                    unsafe { ffi::rvs_urgent_clear(device.id) };
                }
                // SAFETY: the device is open and nobody polls it: all queues are back and only
                // `&mut self` lends them.
                device.check("be stopped", unsafe { ffi::rte_eth_dev_stop(device.id) })
            }
            queues => Err(PortError::QueuesInUse {
                port: device.name.clone(),
                queues,
            }),
        }
    }
}

impl Drop for RunningPort {
    fn drop(&mut self) {
        if self.device.is_some() && self.halt().is_err() {
            // Closing would free what the lent queues use.
            core::mem::forget(self.device.take());
        }
    }
}
