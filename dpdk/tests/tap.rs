//! A TAP device that outlives its owner, in a namespace of its own.

mod common;

use std::os::fd::AsFd;

use dataplane::addr::Mac;
use dpdk::tap::{Tap, TapError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What `ip link` says about the device.
fn link(name: &str) -> String {
    common::run_command("ip", &["-o", "link", "show", name])
}

#[test]
fn a_twin_persists() {
    let _namespace = common::Namespace::enter();
    let mac = Mac([2, 0, 0, 0, 0, 0xbb]);
    let tap = Tap::open("twin0").unwrap();
    tap.set_persistent(true).unwrap();
    tap.set_mac(mac).unwrap();
    tap.set_mtu(1400).unwrap();
    tap.set_carrier(false).unwrap();
    tap.set_up(true).unwrap();
    assert!(link("twin0").contains("NO-CARRIER"));
    tap.set_carrier(true).unwrap();
    let text = link("twin0");
    assert!(
        !text.contains("NO-CARRIER") && text.contains("LOWER_UP"),
        "{text}"
    );
    assert!(
        text.contains("mtu 1400") && text.contains(&mac.to_string()),
        "{text}"
    );
    common::ip(&["address", "add", "192.0.2.1/24", "dev", "twin0"]);

    // A second owner is refused, a stranger's name too.
    assert!(matches!(Tap::open("twin0"), Err(TapError::InUse(_))));
    common::ip(&[
        "link", "add", "dummy7", "type", "veth", "peer", "name", "dummy8",
    ]);
    let error = Tap::open("dummy7").unwrap_err();
    assert!(matches!(error, TapError::NotATap(_)), "{error}");

    // The kernel asks for 192.0.2.2 over the device, and hears us.
    let socket = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
    socket.send_to(b"x", "192.0.2.2:9").unwrap();
    let mut frame = [0; 2048];
    common::until("an ARP request", || {
        let mut fds = [PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN)];
        let ready = poll(
            &mut fds,
            Some(&Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            }),
        )
        .unwrap();
        // Neighbour discovery comes by as well.
        ready == 1 && tap.read(&mut frame).is_ok() && frame[12..14] == [0x08, 0x06]
    });
    assert_eq!(
        (&frame[6..12], &frame[38..42]),
        (&mac.0[..], &[192, 0, 2, 2][..])
    );
    // Answer it: the datagram follows.
    let mut answer = [0; 42];
    answer[..6].copy_from_slice(&frame[6..12]);
    answer[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xcc]);
    answer[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2]);
    answer[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 0xcc]);
    answer[28..32].copy_from_slice(&[192, 0, 2, 2]);
    answer[32..38].copy_from_slice(&frame[6..12]);
    answer[38..42].copy_from_slice(&[192, 0, 2, 1]);
    assert_eq!(tap.write(&answer).unwrap(), 42);
    common::until("the datagram", || {
        tap.read(&mut frame).is_ok() && frame[12..14] == [0x08, 0x00] && frame[23] == 17
    });
    assert_eq!(frame[..6], [2, 0, 0, 0, 0, 0xcc]);

    // It stays without its owner, with everything it had, but without a link.
    let index = tap.index().unwrap();
    drop(tap);
    assert!(link("twin0").contains("NO-CARRIER"));
    let tap = Tap::open("twin0").unwrap();
    assert_eq!(tap.index().unwrap(), index);
    assert!(common::run_command("ip", &["address", "show", "twin0"]).contains("192.0.2.1/24"));
    tap.set_carrier(true).unwrap();
    assert!(link("twin0").contains("LOWER_UP"));
    // Not persistent any more: gone with its owner.
    tap.set_persistent(false).unwrap();
    drop(tap);
    let gone = std::process::Command::new("ip")
        .args(["link", "show", "twin0"])
        .output()
        .unwrap();
    assert!(!gone.status.success());
}
