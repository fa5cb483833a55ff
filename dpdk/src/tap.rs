//! TAP devices: the kernel's end of a port (its "twin").
//!
//! Our own descriptor on `/dev/net/tun`, so that the device can outlive the process, no signals are
//! involved, and a control thread can wait for it together with everything else.

use core::ffi::{c_int, c_ulong};
use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use dataplane::addr::{Addr, Mac};
use thiserror::Error;

/// `TUNSETCARRIER`, `_IOW('T', 226, int)`; missing in libc.
const TUNSETCARRIER: c_ulong = 0x4004_54e2;
const TUNSETPERSIST: c_ulong = 0x4004_54cb;
const TUNSETIFF: c_ulong = 0x4004_54ca;
const TUNGETIFF: c_ulong = 0x8004_54d2;

/// Why a TAP device could not be opened or changed.
#[derive(Debug, Error)]
pub enum TapError {
    /// The kernel takes names of 1 to 15 bytes without `/` and blanks.
    #[error("TAP device {0:?}: the name must be 1 to 15 characters, without / and blanks")]
    Name(String),
    /// `/dev/net/tun` cannot be opened.
    #[error("/dev/net/tun: {0}; load the tun module and give the process CAP_NET_ADMIN")]
    Tun(io::Error),
    /// Its mode keeps this user out.
    #[error(
        "/dev/net/tun has mode {0:04o}, which keeps user {1} out; chmod 0666 /dev/net/tun (CAP_NET_ADMIN \
         guards it), and for the next start a udev rule with KERNEL==\"tun\", MODE=\"0666\""
    )]
    Mode(u32, u32),
    /// The service manager keeps this process out.
    #[error("/dev/net/tun: {0}; add DeviceAllow=/dev/net/tun rw to the service unit")]
    Device(io::Error),
    /// Another process has the device open.
    #[error("TAP device {0} is in use by another process")]
    InUse(String),
    /// The name belongs to an interface of another kind.
    #[error("interface {0} exists and is not a (single-queue) TAP device; choose another name")]
    NotATap(String),
    /// A change was refused.
    #[error("TAP device {name}: cannot {what}: {cause}")]
    Change {
        /// Name of the device.
        name: String,
        /// What was tried.
        what: &'static str,
        /// Why not.
        cause: io::Error,
    },
}

/// The permission bits of a file, if it is there.
fn mode_of(path: &str) -> Option<u32> {
    let found = std::fs::metadata(path).ok()?;
    Some(found.permissions().mode() & 0o7777)
}

/// Why `/dev/net/tun`, which has this mode, cannot be opened.
fn closed(cause: io::Error, mode: Option<u32>) -> TapError {
    match (cause.raw_os_error(), mode) {
        (Some(libc::EACCES), Some(mode)) => {
            TapError::Mode(mode, rustix::process::geteuid().as_raw())
        }
        // The cgroup's list of devices answers with EPERM.
        (Some(libc::EPERM), _) => TapError::Device(cause),
        _ => TapError::Tun(cause),
    }
}

/// An open TAP device. Frames are read and written whole, without blocking and without any header
/// before the Ethernet header.
///
/// Dropping it detaches; the device stays if it is persistent, and loses its carrier.
#[derive(Debug)]
pub struct Tap {
    tun: File,
    /// Any socket will do to configure interfaces with; this one is of the device's namespace.
    control: OwnedFd,
    name: String,
}

impl Tap {
    /// Opens the TAP device `name` in the network namespace of the calling thread; makes it if it
    /// does not exist. An existing one keeps its addresses, routes and state.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn open(name: &str) -> Result<Tap, TapError> {
        let valid = (1..libc::IFNAMSIZ).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_graphic() && b != b'/' && b != b'%');
        if !valid {
            return Err(TapError::Name(name.to_owned()));
        }
        let tun = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(|cause| closed(cause, mode_of("/dev/net/tun")))?;
        let mut request = request(name);
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
        // SAFETY: TUNSETIFF reads (and fills in the name of) an ifreq.
        if unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &mut request) } != 0 {
            let cause = io::Error::last_os_error();
            return Err(match cause.raw_os_error() {
                Some(libc::EBUSY) => TapError::InUse(name.to_owned()),
                Some(libc::EINVAL) => TapError::NotATap(name.to_owned()),
                _ => TapError::Change {
                    name: name.to_owned(),
                    what: "be attached",
                    cause,
                },
            });
        }
        Ok(Tap {
            tun,
            control: control_socket()?,
            name: name.to_owned(),
        })
    }

    /// A TAP device that another process had open; `tun` is its descriptor.
    ///
    /// # Errors
    /// The descriptor is none of `/dev/net/tun`, or not of the device `name`.
    pub fn adopt(name: &str, tun: OwnedFd) -> Result<Tap, TapError> {
        let mut attached = request("");
        // SAFETY: TUNGETIFF fills an ifreq; another kind of file refuses it.
        let rc = unsafe { libc::ioctl(tun.as_raw_fd(), TUNGETIFF, &mut attached) };
        if rc != 0 || attached.ifr_name != request(name).ifr_name {
            return Err(TapError::NotATap(name.to_owned()));
        }
        Ok(Tap {
            tun: File::from(tun),
            control: control_socket()?,
            name: name.to_owned(),
        })
    }

    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's number of the device.
    ///
    /// # Errors
    /// The device is gone.
    pub fn index(&self) -> Result<u32, TapError> {
        let name = CString::new(self.name.as_str()).unwrap_or_default();
        // SAFETY: a C string.
        match unsafe { libc::if_nametoindex(name.as_ptr()) } {
            0 => Err(self.error("be found")),
            index => Ok(index),
        }
    }

    /// Whether the device stays when nobody has it open.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_persistent(&self, on: bool) -> Result<(), TapError> {
        // SAFETY: TUNSETPERSIST takes a number.
        let rc = unsafe { libc::ioctl(self.tun.as_raw_fd(), TUNSETPERSIST, c_int::from(on)) };
        self.check(rc, "become persistent")
    }

    /// Whether the kernel sees a link. Off while nobody serves the device, so that routing daemons
    /// withdraw what leads there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_carrier(&self, on: bool) -> Result<(), TapError> {
        let value = c_int::from(on);
        // SAFETY: TUNSETCARRIER reads an int.
        let rc = unsafe { libc::ioctl(self.tun.as_raw_fd(), TUNSETCARRIER, &value) };
        self.check(rc, "change its carrier")
    }

    /// Sets the Ethernet address, that of the port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_mac(&self, mac: Mac) -> Result<(), TapError> {
        let mut request = request(&self.name);
        let mut data = [0; 14];
        for (to, from) in data.iter_mut().zip(mac.0) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_hwaddr = libc::sockaddr {
            sa_family: libc::ARPHRD_ETHER,
            sa_data: data,
        };
        self.configure(libc::SIOCSIFHWADDR, &mut request, "set its address")
    }

    /// The Ethernet address that it has now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mac(&self) -> Result<Mac, TapError> {
        let mut request = request(&self.name);
        self.configure(libc::SIOCGIFHWADDR, &mut request, "tell its address")?;
        // SAFETY: SIOCGIFHWADDR has filled this member.
        let [a, b, c, d, e, f, ..] = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data;
        Ok(Mac([a, b, c, d, e, f].map(|octet| octet as u8)))
    }

    /// Sets the MTU, bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), TapError> {
        let mut request = request(&self.name);
        request.ifr_ifru.ifru_mtu = c_int::from(mtu);
        self.configure(libc::SIOCSIFMTU, &mut request, "set its MTU")
    }

    /// Brings the interface up, or down.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_up(&self, up: bool) -> Result<(), TapError> {
        let mut request = request(&self.name);
        self.configure(libc::SIOCGIFFLAGS, &mut request, "read its flags")?;
        // SAFETY: SIOCGIFFLAGS has filled this member.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let bit = libc::IFF_UP as i16;
        request.ifr_ifru.ifru_flags = if up { flags | bit } else { flags & !bit };
        self.configure(libc::SIOCSIFFLAGS, &mut request, "go up or down")
    }

    /// Reads one frame that the kernel sends; a longer one is cut to `frame`.
    ///
    /// # Errors
    /// `WouldBlock` if there is none.
    pub fn read(&self, frame: &mut [u8]) -> io::Result<usize> {
        (&self.tun).read(frame)
    }

    /// Gives one frame to the kernel.
    ///
    /// # Errors
    /// `EIO` while the interface is down, `EINVAL` if shorter than an Ethernet header.
    pub fn write(&self, frame: &[u8]) -> io::Result<usize> {
        (&self.tun).write(frame)
    }

    fn configure(
        &self,
        call: c_ulong,
        request: &mut libc::ifreq,
        what: &'static str,
    ) -> Result<(), TapError> {
        // SAFETY: the SIOC*IF* calls used here read or fill an ifreq.
        let rc = unsafe { libc::ioctl(self.control.as_raw_fd(), call, request) };
        self.check(rc, what)
    }

    fn check(&self, rc: c_int, what: &'static str) -> Result<(), TapError> {
        if rc == 0 {
            Ok(())
        } else {
            Err(self.error(what))
        }
    }

    fn error(&self, what: &'static str) -> TapError {
        TapError::Change {
            name: self.name.clone(),
            what,
            cause: io::Error::last_os_error(),
        }
    }
}

fn control_socket() -> Result<OwnedFd, TapError> {
    // SAFETY: a plain system call; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(TapError::Tun(io::Error::last_os_error()));
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tun.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.tun.as_raw_fd()
    }
}

/// Sets the MTU of any interface of this namespace, bytes.
///
/// # Errors
/// The kernel's.
pub fn set_interface_mtu(name: &str, mtu: u16) -> io::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_mtu = c_int::from(mtu);
    ask(libc::SIOCSIFMTU, &mut request)
}

/// Whether an interface of this namespace is up and has a carrier; not, if there is none.
pub fn is_interface_running(name: &str) -> bool {
    let mut request = request(name);
    let is_there = ask(libc::SIOCGIFFLAGS, &mut request).is_ok();
    // SAFETY: SIOCGIFFLAGS has filled this member, or the name stands there, plain bytes.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    is_there && flags & libc::IFF_RUNNING as i16 != 0
}

/// The addresses of an interface of this namespace; none if it cannot be asked.
pub fn addresses_of(name: &str) -> Vec<Addr> {
    let mut all = Vec::new();
    let mut list: *mut libc::ifaddrs = core::ptr::null_mut();
    // SAFETY: fills the pointer with a list that is ours to free.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return all;
    }
    let mut next = list;
    // SAFETY: every pointer is null or into the list, which lives until it is freed below; an
    // address has the type that its family says.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: as above; a name is a C string.
        let is_ours = unsafe { CStr::from_ptr(entry.ifa_name) }.to_bytes() == name.as_bytes();
        // SAFETY: as above.
        let Some(family) = (unsafe { entry.ifa_addr.as_ref() }).filter(|_| is_ours) else {
            continue;
        };
        match i32::from(family.sa_family) {
            libc::AF_INET => {
                // SAFETY: as above.
                let addr = unsafe { *entry.ifa_addr.cast::<libc::sockaddr_in>() };
                all.push(Addr::v4(addr.sin_addr.s_addr.to_ne_bytes()));
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let addr = unsafe { *entry.ifa_addr.cast::<libc::sockaddr_in6>() };
                all.push(Addr::v6(addr.sin6_addr.s6_addr));
            }
            _ => {}
        }
    }
    // SAFETY: the list from above, no longer used.
    unsafe { libc::freeifaddrs(list) };
    all
}

/// One question about an interface, or one change.
fn ask(call: c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: a plain system call; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the SIOC*IF* calls used here read or fill an ifreq.
    match unsafe { libc::ioctl(socket.as_raw_fd(), call, request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A request about the interface `name`, which is shorter than the field.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: all-zero is a value of this plain struct.
    let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_cannot_be_opened_says_what_to_do() {
        let says = |code, mode| closed(io::Error::from_raw_os_error(code), mode).to_string();
        let kept_out = says(libc::EACCES, Some(0o600));
        assert!(
            kept_out.starts_with("/dev/net/tun has mode 0600, "),
            "{kept_out}"
        );
        assert!(
            kept_out.contains("; chmod 0666 /dev/net/tun ("),
            "{kept_out}"
        );
        let unit = says(libc::EPERM, Some(0o666));
        assert!(
            unit.ends_with("add DeviceAllow=/dev/net/tun rw to the service unit"),
            "{unit}"
        );
        let missing = says(libc::ENOENT, None);
        assert!(missing.contains("load the tun module"), "{missing}");
    }

    #[test]
    fn names_the_kernel_would_refuse() {
        for name in ["", "sixteen-letters-", "a/b", "a b", "tap%d"] {
            assert!(
                matches!(Tap::open(name), Err(TapError::Name(_))),
                "{name:?}"
            );
        }
    }
}
