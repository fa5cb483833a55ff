//! What the driver of a port counts.

use core::ffi::CStr;

use super::{PortError, RunningPort};
use crate::ffi;

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

impl RunningPort {
    /// Counters.
    ///
    /// # Errors
    /// The driver's.
    pub fn stats(&self) -> Result<PortStats, PortError> {
        let device = self.device();
        let mut raw = ffi::rvs_port_stats::default();
        // SAFETY: the device is open.
        let rc = unsafe { ffi::rvs_port_stats(device.id, &mut raw) };
        device.check("be asked for its counters", rc)?;
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
}
