//! The device that has a virtual router's MAC: a macvlan on the instance's interface.

use std::fs;
use std::io;

use vrrp::addr::{Family, Mac};
use vrrp::config::Key;

use super::kernel::Kernel;

const PREFIX_V4: &str = "vrrp.";
const PREFIX_V6: &str = "vrrp6.";

/// Its name: family, virtual router id and the number of the interface beneath.
pub fn name(key: Key) -> String {
    let prefix = match key.family {
        Family::V4 => PREFIX_V4,
        Family::V6 => PREFIX_V6,
    };
    format!("{prefix}{}.{}", key.vrid, key.interface)
}

/// Whether a macvlan of this name is one of these.
pub fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX_V4) || name.starts_with(PREFIX_V6)
}

/// Makes it, down, with the settings that it needs before it comes up.
///
/// # Errors
/// Of the kernel.
pub fn make(kernel: &mut Kernel, key: Key) -> io::Result<()> {
    let name = name(key);
    let Mac(mac) = Mac::virtual_router(key.family, key.vrid);
    kernel.add_macvlan(&name, key.interface, mac)?;
    // Answer for the addresses of this device alone, take packets that come back another way, and
    // make no link-local address of the MAC: all routers of the group would make the same.
    for (family, setting, value) in [
        ("ipv4", "arp_ignore", "1"),
        ("ipv4", "rp_filter", "0"),
        ("ipv4", "accept_local", "1"),
        ("ipv6", "addr_gen_mode", "1"),
        ("ipv6", "accept_dad", "0"),
        ("ipv6", "accept_ra", "0"),
    ] {
        // A kernel without the family has no such file.
        let _ = fs::write(
            format!("/proc/sys/net/{family}/conf/{name}/{setting}"),
            value,
        );
    }
    Ok(())
}
