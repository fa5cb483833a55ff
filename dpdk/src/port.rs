//! Ports: NICs and virtual devices.
//!
//! A [`Port`] is open but idle. [`Port::start`] sets it up and makes it a [`RunningPort`], which
//! lends its queues, each to one owner at a time. [`RunningPort::stop`] wants all of them back
//! first, so a queue handle never outlives the port.
//!
//! All offloads are off: frames arrive with their VLAN tag in place and leave as they are.

use core::cell::Cell;
use core::ffi::{CStr, c_int, c_void};
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::ffi::CString;
use std::fmt;
use std::io;
use std::sync::Arc;

use dataplane::addr::Mac;
use thiserror::Error;

use crate::eal::{self, Eal};
use crate::ffi;
use crate::mbuf::{Burst, HEADROOM};
use crate::mempool::Mempool;

/// Bytes of a frame around the bytes the MTU counts: Ethernet header and two VLAN tags.
const FRAME_OVERHEAD: u16 = 14 + 2 * 4;

/// Why something could not be done with a port. The message names the port and what to do.
#[derive(Debug, Error)]
pub enum PortError {
    /// DPDK does not know the name.
    #[error("port {port}: DPDK has no such port; it has {known}", known = list(.known))]
    Unknown {
        /// Name asked for.
        port: String,
        /// Names there are.
        known: Vec<String>,
    },
    /// Somebody in this process has the port.
    #[error("port {0} is already open")]
    AlreadyOpen(String),
    /// Fewer RX queues than asked for.
    #[error(
        "port {port} has {have} RX queues but {want} workers are configured; lower workers to {have}"
    )]
    TooFewRxQueues {
        /// Name of the port.
        port: String,
        /// Queues it has.
        have: u16,
        /// Queues asked for.
        want: u16,
    },
    /// Fewer TX queues than asked for.
    #[error(
        "port {port} has {have} TX queues but {want} are needed (one for each worker and one for \
         the kernel twin); lower workers to fit"
    )]
    TooFewTxQueues {
        /// Name of the port.
        port: String,
        /// Queues it has.
        have: u16,
        /// Queues asked for.
        want: u16,
    },
    /// The driver does not do this MTU.
    #[error("port {port}: MTU {mtu} is outside of {min} to {max}, which its driver allows")]
    Mtu {
        /// Name of the port.
        port: String,
        /// MTU asked for, bytes.
        mtu: u16,
        /// Smallest, bytes.
        min: u16,
        /// Largest, bytes.
        max: u16,
    },
    /// Frames of this MTU do not fit into one buffer.
    #[error(
        "port {port}: frames of MTU {mtu} need {need} bytes but the buffers hold {room}; raise the \
         buffer size or lower the MTU"
    )]
    BufferTooSmall {
        /// Name of the port.
        port: String,
        /// MTU asked for, bytes.
        mtu: u16,
        /// Bytes a frame takes.
        need: u16,
        /// Bytes of frame a buffer holds.
        room: u16,
    },
    /// A call of the driver failed.
    #[error("port {port} ({driver}): cannot {what}: {cause}")]
    Driver {
        /// Name of the port.
        port: String,
        /// Name of its driver.
        driver: String,
        /// What was tried.
        what: String,
        /// What it said.
        cause: io::Error,
    },
    /// Queues are still lent.
    #[error("port {port} cannot be stopped: {queues} of its queues are still in use")]
    QueuesInUse {
        /// Name of the port.
        port: String,
        /// Queues not returned.
        queues: usize,
    },
    /// A device could not be attached or detached.
    #[error("device {device} cannot be {what}: {cause}")]
    Hotplug {
        /// Name or address.
        device: String,
        /// `attached` or `detached`.
        what: &'static str,
        /// What DPDK said.
        cause: io::Error,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// A port that could not change its state, and why. It is as it was before.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct Refused<P: fmt::Debug> {
    /// The port.
    pub port: P,
    /// The reason.
    #[source]
    pub error: PortError,
}

/// What a port is and can do.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// Name of the driver, `net_af_packet`.
    pub driver: String,
    /// Address of the port.
    pub mac: Mac,
    /// RX queues it can have.
    pub max_rx_queues: u16,
    /// TX queues it can have.
    pub max_tx_queues: u16,
    /// MTU now, bytes.
    pub mtu: u16,
    /// Smallest MTU, bytes.
    pub min_mtu: u16,
    /// Largest MTU, bytes.
    pub max_mtu: u16,
    /// NUMA node, if it has one.
    pub socket: Option<u32>,
    /// Whether it can spread flows over its RX queues.
    pub has_rss: bool,
    /// Whether it tells of link changes by itself.
    pub has_link_interrupt: bool,
    /// Whether it tells of its removal by itself.
    pub has_removal_interrupt: bool,
}

/// How to set up a port.
#[derive(Clone, Copy, Debug)]
pub struct PortConfig {
    /// RX queues.
    pub rx_queues: u16,
    /// TX queues.
    pub tx_queues: u16,
    /// Descriptors of each RX queue; the driver may want another number.
    pub rx_descriptors: u16,
    /// Descriptors of each TX queue; the driver may want another number.
    pub tx_descriptors: u16,
    /// MTU in bytes; `None` leaves the driver's default.
    pub mtu: Option<u16>,
}

impl Default for PortConfig {
    /// One queue of 1024 descriptors each way.
    fn default() -> PortConfig {
        PortConfig {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
        }
    }
}

/// How a running port is set up.
#[derive(Clone, Copy, Debug)]
pub struct PortSetup {
    /// RX queues.
    pub rx_queues: u16,
    /// TX queues.
    pub tx_queues: u16,
    /// Descriptors of each RX queue.
    pub rx_descriptors: u16,
    /// Descriptors of each TX queue.
    pub tx_descriptors: u16,
    /// MTU in bytes.
    pub mtu: u16,
    /// Whether flows are spread over the RX queues by the port (RSS, both directions of a flow to
    /// the same queue). False with one queue, and for drivers that spread by other means.
    pub rss: bool,
}

/// Counters of a port since it was started, as its driver counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames dropped because a queue was full: the workers are too slow.
    pub rx_missed: u64,
    /// Frames with errors.
    pub rx_errors: u64,
    /// Frames dropped because the pool was empty.
    pub rx_no_mbuf: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames the driver could not send.
    pub tx_errors: u64,
}

/// State of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether frames can pass.
    pub up: bool,
    /// Speed in Mbit/s, if known.
    pub mbps: Option<u32>,
    /// Full duplex.
    pub full_duplex: bool,
}

/// How a port was made to receive frames to an address that is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacFilter {
    /// The address is in the NIC's filter.
    Filter,
    /// The NIC has no room for it: all multicast frames are received.
    AllMulticast,
    /// The NIC has no room for it: all frames are received.
    Promiscuous,
    /// The port has no filter and sees everything anyway.
    Unfiltered,
}

/// What happened to a port, told by its driver. Set on EAL's interrupt thread, read anywhere.
#[derive(Debug, Default)]
pub struct PortEvents {
    link_changes: AtomicU32,
    removed: AtomicBool,
}

impl PortEvents {
    /// How often the driver told of a change of the link. Drivers without that never do; ask
    /// [`RunningPort::link`] from time to time.
    pub fn link_changes(&self) -> u32 {
        self.link_changes.load(Ordering::Acquire)
    }

    /// Whether the device has gone.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

extern "C" fn on_event(event: ffi::rvs_port_event, context: *mut c_void) {
    // SAFETY: `context` is the PortEvents that `Device::events` keeps until after unwatch.
    let events = unsafe { &*context.cast::<PortEvents>() };
    match event {
        ffi::RVS_EVENT_LINK => {
            events.link_changes.fetch_add(1, Ordering::Release);
        }
        ffi::RVS_EVENT_REMOVED => events.removed.store(true, Ordering::Release),
        _ => {}
    }
}

const MAX_PORTS: usize = ffi::RVS_MAX_PORTS as usize;

/// Which of DPDK's ports have an owner here.
static OPEN: [AtomicBool; MAX_PORTS] = [const { AtomicBool::new(false) }; MAX_PORTS];

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

/// Attaches a device at run time: a virtual port (`net_af_packet0,iface=eth1`) or a PCI device
/// (`0000:01:00.0`). Then [`Port::open`] finds it by its name.
///
/// # Errors
/// DPDK's reason.
pub fn attach(_eal: &Eal, device: &str) -> Result<(), PortError> {
    let (name, args) = device.split_once(',').unwrap_or((device, ""));
    hotplug(name, "attached", |bus, name| {
        let args = CString::new(args).unwrap_or_default();
        // SAFETY: EAL runs (`_eal`) and all three are C strings.
        unsafe { ffi::rte_eal_hotplug_add(bus.as_ptr(), name.as_ptr(), args.as_ptr()) }
    })
}

/// Detaches the device `name` of a port that was closed (dropped).
///
/// # Errors
/// `AlreadyOpen` if the port still has an owner, or DPDK's reason.
pub fn detach(_eal: &Eal, name: &str) -> Result<(), PortError> {
    if id_of(name).is_some_and(|id| OPEN[usize::from(id)].load(Ordering::Acquire)) {
        return Err(PortError::AlreadyOpen(name.to_owned()));
    }
    hotplug(name, "detached", |bus, name| {
        // SAFETY: EAL runs (`_eal`) and both are C strings; nobody here uses the port (checked).
        unsafe { ffi::rte_eal_hotplug_remove(bus.as_ptr(), name.as_ptr()) }
    })
}

fn hotplug(
    name: &str,
    what: &'static str,
    call: impl FnOnce(&CStr, &CStr) -> c_int,
) -> Result<(), PortError> {
    let failed = |cause| PortError::Hotplug {
        device: name.to_owned(),
        what,
        cause,
    };
    let is_pci = name.contains(':');
    let full = if is_pci {
        eal::full_bdf(name)
    } else {
        name.to_owned()
    };
    let c_name = CString::new(full).map_err(|e| failed(e.into()))?;
    match call(if is_pci { c"pci" } else { c"vdev" }, &c_name) {
        0 => Ok(()),
        rc => Err(failed(errno(rc))),
    }
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

    fn stats(&self) -> Result<PortStats, PortError> {
        let mut raw = ffi::rvs_port_stats::default();
        // SAFETY: the device is open.
        let rc = unsafe { ffi::rvs_port_stats(self.id, &mut raw) };
        self.check("be asked for its counters", rc)?;
        Ok(PortStats {
            rx_packets: raw.rx_packets,
            rx_bytes: raw.rx_bytes,
            rx_missed: raw.rx_missed,
            rx_errors: raw.rx_errors,
            rx_no_mbuf: raw.rx_no_mbuf,
            tx_packets: raw.tx_packets,
            tx_bytes: raw.tx_bytes,
            tx_errors: raw.tx_errors,
        })
    }

    /// Refuses an MTU the driver or the buffers cannot do.
    fn check_mtu(&self, info: &PortInfo, mtu: u16, data_room: u16) -> Result<(), PortError> {
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
        if need > room {
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
        match self.set_up(config, pool) {
            Ok(setup) => Ok(RunningPort {
                leases: Arc::new(Leases::new(setup.rx_queues, setup.tx_queues)),
                device: Some(self.device),
                setup,
                data_room: pool.data_room(),
            }),
            Err(error) => Err(Refused { port: self, error }),
        }
    }

    fn set_up(&self, config: &PortConfig, pool: &Mempool) -> Result<PortSetup, PortError> {
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
            device.check_mtu(&info, mtu, pool.data_room())?;
        }
        let mut conf = ffi::rvs_port_conf {
            pool: pool.as_ptr(),
            rx_queues: config.rx_queues,
            tx_queues: config.tx_queues,
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            mtu: config.mtu.unwrap_or(0),
        };
        let (mut step, mut rss) = (ffi::RVS_STEP_INFO, false);
        // SAFETY: the device is open and stopped, the pool lives as long as EAL.
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
            rss,
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

    /// Lends RX queue `queue`; `None` if there is no such queue or it is lent.
    pub fn rx_queue(&mut self, queue: u16) -> Option<RxQueue> {
        let lease = Leases::take(&self.leases, Direction::Rx, queue)?;
        Some(RxQueue {
            port: self.device().id,
            lease,
        })
    }

    /// Lends TX queue `queue`; `None` if there is no such queue or it is lent.
    pub fn tx_queue(&mut self, queue: u16) -> Option<TxQueue> {
        let lease = Leases::take(&self.leases, Direction::Tx, queue)?;
        Some(TxQueue {
            port: self.device().id,
            lease,
        })
    }

    /// State of the link, without waiting for it.
    ///
    /// # Errors
    /// The driver's.
    pub fn link(&self) -> Result<Link, PortError> {
        self.device().link()
    }

    /// Counters.
    ///
    /// # Errors
    /// The driver's.
    pub fn stats(&self) -> Result<PortStats, PortError> {
        self.device().stats()
    }

    /// Everything else the driver counts, by its own names.
    ///
    /// # Errors
    /// The driver's.
    pub fn extended_stats(&self) -> Result<Vec<(String, u64)>, PortError> {
        let device = self.device();
        let what = "be asked for its extended counters";
        // SAFETY: the device is open; no room asks for the number only.
        let count = unsafe {
            ffi::rvs_port_xstats(device.id, core::ptr::null_mut(), core::ptr::null_mut(), 0)
        };
        let room = usize::try_from(count).map_err(|_| device.error(what, count))?;
        if room == 0 {
            return Ok(Vec::new());
        }
        let mut names = vec![[0; 64]; room];
        let mut values = vec![0; room];
        // SAFETY: both have room for `room` entries.
        let count = unsafe {
            ffi::rvs_port_xstats(
                device.id,
                names.as_mut_ptr(),
                values.as_mut_ptr(),
                room as u32,
            )
        };
        let have = usize::try_from(count).map_err(|_| device.error(what, count))?;
        let name = |bytes: &[core::ffi::c_char; 64]| {
            // SAFETY: the shim ends every name with a NUL; unused ones are zeros.
            unsafe { CStr::from_ptr(bytes.as_ptr()) }
                .to_string_lossy()
                .into_owned()
        };
        Ok(names.iter().map(name).zip(values).take(have).collect())
    }

    /// Receives frames to any address, or no longer.
    ///
    /// # Errors
    /// The driver's; `ENOTSUP` mostly means that the port has no filter at all.
    pub fn set_promiscuous(&mut self, on: bool) -> Result<(), PortError> {
        let device = self.device();
        // SAFETY: the device is open.
        let rc = unsafe {
            if on {
                ffi::rte_eth_promiscuous_enable(device.id)
            } else {
                ffi::rte_eth_promiscuous_disable(device.id)
            }
        };
        device.check("change its promiscuous mode", rc)
    }

    /// Receives frames to any group address, or no longer.
    ///
    /// # Errors
    /// The driver's; `ENOTSUP` mostly means that the port has no filter at all.
    pub fn set_all_multicast(&mut self, on: bool) -> Result<(), PortError> {
        let device = self.device();
        // SAFETY: the device is open.
        let rc = unsafe {
            if on {
                ffi::rte_eth_allmulticast_enable(device.id)
            } else {
                ffi::rte_eth_allmulticast_disable(device.id)
            }
        };
        device.check("change its all-multicast mode", rc)
    }

    /// Receives frames to `mac` too (a VRRP address, say): by the filter, else by promiscuous mode.
    ///
    /// # Errors
    /// The driver's, if it is not that it lacks filters.
    pub fn accept_mac(&mut self, mac: Mac) -> Result<MacFilter, PortError> {
        let device = self.device();
        // SAFETY: the device is open, the address has six bytes.
        match unsafe { ffi::rvs_port_mac_add(device.id, mac.0.as_ptr()) } {
            0 => Ok(MacFilter::Filter),
            rc if is_unsupported(rc) => self.fall_back_to_promiscuous(),
            rc => Err(device.error(format!("receive for {mac}"), rc)),
        }
    }

    /// Takes `mac` out of the filter again. Promiscuous mode, if it was needed, stays.
    ///
    /// # Errors
    /// The driver's.
    pub fn forget_mac(&mut self, mac: Mac) -> Result<(), PortError> {
        let device = self.device();
        // SAFETY: the device is open, the address has six bytes.
        match unsafe { ffi::rvs_port_mac_remove(device.id, mac.0.as_ptr()) } {
            rc if rc == 0 || is_unsupported(rc) => Ok(()),
            rc => Err(device.error(format!("no longer receive for {mac}"), rc)),
        }
    }

    /// Receives frames to these group addresses, in place of those set before: by the filter, else
    /// all multicast, else promiscuous mode.
    ///
    /// # Errors
    /// The driver's, if it is not that it lacks filters.
    pub fn set_multicast(&mut self, groups: &[Mac]) -> Result<MacFilter, PortError> {
        let macs: Vec<u8> = groups.iter().flat_map(|mac| mac.0).collect();
        let device = self.device();
        // SAFETY: the device is open; `macs` holds six bytes for each group.
        let rc =
            unsafe { ffi::rvs_port_multicast_set(device.id, macs.as_ptr(), groups.len() as u32) };
        match rc {
            0 => return Ok(MacFilter::Filter),
            rc if is_unsupported(rc) => {}
            rc => return Err(device.error("set its multicast filter", rc)),
        }
        // SAFETY: the device is open.
        match unsafe { ffi::rte_eth_allmulticast_enable(device.id) } {
            0 => Ok(MacFilter::AllMulticast),
            rc if is_unsupported(rc) => self.fall_back_to_promiscuous(),
            rc => Err(device.error("receive all multicast frames", rc)),
        }
    }

    fn fall_back_to_promiscuous(&mut self) -> Result<MacFilter, PortError> {
        let device = self.device();
        // SAFETY: the device is open.
        match unsafe { ffi::rte_eth_promiscuous_enable(device.id) } {
            0 => Ok(MacFilter::Promiscuous),
            rc if is_unsupported(rc) => Ok(MacFilter::Unfiltered),
            rc => Err(device.error("become promiscuous", rc)),
        }
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
        device.check_mtu(&device.info()?, mtu, self.data_room)?;
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
            // SAFETY: the device is open and nobody polls it: all queues are back and only `&mut
            // self` lends them.
            0 => device.check("be stopped", unsafe { ffi::rte_eth_dev_stop(device.id) }),
            queues => Err(PortError::QueuesInUse {
                port: device.name.clone(),
                queues,
            }),
        }
    }
}

/// Whether the driver cannot do a thing at all, or has no room for more of it.
fn is_unsupported(rc: c_int) -> bool {
    [libc::ENOTSUP, libc::ENOSPC, libc::ENOSYS].contains(&rc.saturating_neg())
}

impl Drop for RunningPort {
    fn drop(&mut self) {
        if self.device.is_some() && self.halt().is_err() {
            // Closing would free what the lent queues use.
            core::mem::forget(self.device.take());
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    Rx,
    Tx,
}

/// Which queues of a port are lent.
#[derive(Debug)]
struct Leases {
    rx: Box<[AtomicBool]>,
    tx: Box<[AtomicBool]>,
}

impl Leases {
    fn new(rx: u16, tx: u16) -> Leases {
        let all = |n: u16| (0..n).map(|_| AtomicBool::new(false)).collect();
        Leases {
            rx: all(rx),
            tx: all(tx),
        }
    }

    fn slot(&self, direction: Direction, queue: u16) -> Option<&AtomicBool> {
        match direction {
            Direction::Rx => self.rx.get(usize::from(queue)),
            Direction::Tx => self.tx.get(usize::from(queue)),
        }
    }

    fn take(leases: &Arc<Leases>, direction: Direction, queue: u16) -> Option<Lease> {
        // Acquire: what the last owner did with the queue comes before what the next does.
        let lent = leases.slot(direction, queue)?.swap(true, Ordering::Acquire);
        (!lent).then(|| Lease {
            leases: Arc::clone(leases),
            direction,
            queue,
        })
    }

    fn count(&self) -> usize {
        self.rx
            .iter()
            .chain(&self.tx)
            .filter(|lent| lent.load(Ordering::Acquire))
            .count()
    }
}

/// The right to use one queue, returned on drop.
#[derive(Debug)]
struct Lease {
    leases: Arc<Leases>,
    direction: Direction,
    queue: u16,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(lent) = self.leases.slot(self.direction, self.queue) {
            lent.store(false, Ordering::Release);
        }
    }
}

/// A receive queue. Its port runs as long as this lives.
#[derive(Debug)]
pub struct RxQueue {
    port: u16,
    lease: Lease,
}

impl RxQueue {
    /// Appends the frames that have arrived, as many as fit, to `burst`; returns how many.
    #[inline]
    pub fn receive(&mut self, burst: &mut Burst) -> usize {
        let spare = burst.spare();
        if spare == 0 {
            return 0;
        }
        // SAFETY: the port runs and the queue is ours alone (lease); room for `spare` pointers.
        let n = unsafe {
            ffi::rvs_rx_burst(self.port, self.lease.queue, burst.spare_ptr(), spare as u16)
        };
        // SAFETY: the driver wrote n live mbufs and gave them away.
        unsafe { burst.grow(usize::from(n)) };
        usize::from(n)
    }

    /// Number of the queue.
    pub fn index(&self) -> u16 {
        self.lease.queue
    }
}

/// A transmit queue. Its port runs as long as this lives.
#[derive(Debug)]
pub struct TxQueue {
    port: u16,
    lease: Lease,
}

impl TxQueue {
    /// Hands frames from the front of `burst` to the NIC; returns how many. What it did not take
    /// stays in the burst, in order, and is the caller's.
    #[inline]
    pub fn send(&mut self, burst: &mut Burst) -> usize {
        if burst.is_empty() {
            return 0;
        }
        // SAFETY: the port runs and the queue is ours alone (lease); the burst holds `len` mbufs.
        let sent = unsafe {
            ffi::rvs_tx_burst(
                self.port,
                self.lease.queue,
                burst.as_mut_ptr(),
                burst.len() as u16,
            )
        };
        // SAFETY: the first `sent` belong to the driver now.
        unsafe { burst.forget_front(usize::from(sent)) };
        usize::from(sent)
    }

    /// Number of the queue.
    pub fn index(&self) -> u16 {
        self.lease.queue
    }
}
