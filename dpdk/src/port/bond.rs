//! The members of a bond (DPDK's bonding driver).

use super::{PortError, RunningPort, id_of};
use crate::ffi;

impl RunningPort {
    /// The member that sends in active-backup mode, by DPDK's number; `None` if the port is no
    /// bond.
    pub fn active_member(&self) -> Option<u16> {
        // SAFETY: the device is open; the driver checks that it is one of its own.
        let member = unsafe { ffi::rvs_bond_active(self.device().id) };
        u16::try_from(member).ok()
    }

    /// Makes a member, by its DPDK name, the one that sends.
    ///
    /// # Errors
    /// There is no such member, or the driver's reason.
    pub fn prefer_member(&mut self, member: &str) -> Result<(), PortError> {
        let device = self.device();
        // -19: what the driver says of a port that is not there (ENODEV).
        // SAFETY: the device is open; the driver checks both numbers.
        let rc = id_of(member).map_or(-19, |id| unsafe { ffi::rvs_bond_prefer(device.id, id) });
        device.check(&format!("send by its member {member}"), rc)
    }

    /// Whether this is the DPDK name of the member with that number.
    pub fn is_member(name: &str, number: u16) -> bool {
        id_of(name) == Some(number)
    }
}
