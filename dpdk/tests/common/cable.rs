//! A packet socket as the far end of a port.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A raw socket on an interface: the other end of the cable.
pub struct Cable(OwnedFd);

impl Cable {
    pub fn plug(interface: &str) -> Cable {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: a plain system call; the result is checked.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK,
                i32::from(all),
            )
        };
        assert!(fd >= 0, "root may open packet sockets");
        // SAFETY: a new descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = std::ffi::CString::new(interface).unwrap();
        // SAFETY: all-zero is a value of this plain struct, and the name is a C string.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        // SAFETY: a C string.
        address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
        // SAFETY: the address is a sockaddr_ll of the length given.
        let rc = unsafe {
            libc::bind(
                fd,
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        assert_eq!(rc, 0, "the interface exists");
        Cable(socket)
    }

    pub fn send(&self, frame: &[u8]) {
        let fd = self.0.as_raw_fd();
        // SAFETY: the slice is readable over its length.
        let n = unsafe { libc::send(fd, frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(
            n,
            frame.len() as isize,
            "{}",
            std::io::Error::last_os_error()
        );
    }

    /// The next frame of this kind at this end.
    pub fn receive(&self, is_it: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut frame = vec![0; 4096];
        super::common::until("a frame at the other end of the cable", || {
            frame.resize(4096, 0);
            let fd = self.0.as_raw_fd();
            // SAFETY: the slice is writable over its length.
            let n = unsafe { libc::recv(fd, frame.as_mut_ptr().cast(), frame.len(), 0) };
            frame.truncate(usize::try_from(n).unwrap_or(0));
            is_it(&frame)
        });
        frame
    }
}
