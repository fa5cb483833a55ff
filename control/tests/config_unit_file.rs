//! `configs/rvsd.service` by systemd's own tools, where they are installed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Highest exposure that is accepted, in tenths: 3.0.
const THRESHOLD: &str = "30";

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/rvsd.service")
}

/// Output of `systemd-analyze` and whether it was content; `None` if it is not installed.
fn analyze(arguments: &[&str]) -> Option<(bool, String)> {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(unit())
        .output()
        .ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

#[test]
fn the_unit_is_rated_three_or_better() {
    let threshold = format!("--threshold={THRESHOLD}");
    match analyze(&["security", "--offline=true", "--no-pager", &threshold]) {
        None => println!("not checked: lacks systemd-analyze (package systemd)"),
        Some((content, text)) => assert!(content, "{text}"),
    }
}

#[test]
fn systemd_understands_every_line_of_the_unit() {
    match analyze(&["verify", "--man=no"]) {
        None => println!("not checked: lacks systemd-analyze (package systemd)"),
        Some((_, text)) => {
            let complaints: Vec<&str> = text
                .lines()
                .filter(|l| l.contains("rvsd.service:"))
                .collect();
            // The program need not be installed where the test runs.
            let about_the_unit: Vec<&&str> = complaints
                .iter()
                .filter(|l| !l.contains("is not executable"))
                .collect();
            assert!(about_the_unit.is_empty(), "{about_the_unit:#?}");
        }
    }
}

#[test]
fn the_unit_says_what_the_daemon_relies_on() {
    let text = std::fs::read_to_string(unit()).expect("the unit is there");
    for line in [
        "Type=notify",
        "ExecReload=/usr/bin/rvsadm reload",
        "User=rvs",
        "RuntimeDirectory=rvs",
        "RuntimeDirectoryPreserve=restart",
        "StateDirectory=rvs",
        "LimitMEMLOCK=infinity",
        // VRRP's thread asks for SCHED_FIFO, up to the highest `[vrrp] rt_priority`.
        "LimitRTPRIO=99",
        "RestrictRealtime=no",
        // The start after the third crash within a minute has to come, whatever the pace of crashes.
        "StartLimitIntervalSec=0",
        "Restart=on-failure",
        "DeviceAllow=/dev/net/tun rw",
        "DeviceAllow=char-vfio rw",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing");
    }
    assert!(text.contains("\nWatchdogSec="));
    let socket = Path::new(control::api::DEFAULT_SOCKET);
    assert_eq!(
        socket.parent(),
        Some(Path::new("/run/rvs")),
        "RuntimeDirectory must hold the socket"
    );
}
