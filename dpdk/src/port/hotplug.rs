//! Devices that come and go while EAL runs.

use core::ffi::{CStr, c_int};
use core::sync::atomic::Ordering;
use std::ffi::CString;

use super::{OPEN, PortError, control, errno, id_of};
use crate::eal::{self, Eal};
use crate::ffi;

/// Attaches a device at run time: a virtual port (`net_af_packet0,iface=eth1`) or a PCI device
/// (`0000:01:00.0`). Then [`Port::open`](super::Port::open) finds it by its name.
///
/// # Errors
/// DPDK's reason.
pub fn attach(_eal: &Eal, device: &str) -> Result<(), PortError> {
    let (name, args) = device.split_once(',').unwrap_or((device, ""));
    let _control = control();
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
    let _control = control();
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
