//! What a driver tells of its port by itself.

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::ffi;

/// What happened to a port, told by its driver. Set on EAL's interrupt thread, read anywhere.
#[derive(Debug, Default)]
pub struct PortEvents {
    link_changes: AtomicU32,
    removed: AtomicBool,
}

impl PortEvents {
    /// How often the driver told of a change of the link. Drivers without that never do; ask
    /// [`RunningPort::link`](super::RunningPort::link) from time to time.
    pub fn link_changes(&self) -> u32 {
        self.link_changes.load(Ordering::Acquire)
    }

    /// Whether the device has gone.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

pub(super) extern "C" fn on_event(event: ffi::rvs_port_event, context: *mut c_void) {
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
