//! Frames to addresses that are not the port's own: filters, and what to do without them.

use core::ffi::c_int;

use dataplane::addr::Mac;

use super::{PortError, RunningPort};
use crate::ffi;

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

impl RunningPort {
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
}

/// Whether the driver cannot do a thing at all, or has no room for more of it.
fn is_unsupported(rc: c_int) -> bool {
    [libc::ENOTSUP, libc::ENOSPC, libc::ENOSYS].contains(&rc.saturating_neg())
}
