//! Where and of what the figures are.

use std::fs;
use std::process::Command;

fn output(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    (out.status.success() && !text.is_empty()).then_some(text)
}

/// Processor and number of cores.
pub fn name(core: usize) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = info.lines().find(|l| l.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| "unknown processor".to_owned());
    let mhz = field("cpu MHz").map_or(String::new(), |m| {
        format!(" {:.0} MHz", m.parse().unwrap_or(0.0))
    });
    let cores = info.lines().filter(|l| l.starts_with("processor")).count();
    let guest = if info.contains(" hypervisor") {
        ", virtual"
    } else {
        ""
    };
    format!("{model}{mhz}, {cores} cores{guest}, worker on core {core}")
}

/// Release of the kernel.
pub fn kernel() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

/// Release of DPDK.
pub fn dpdk() -> String {
    output("pkg-config", &["--modversion", "libdpdk"]).unwrap_or_else(|| "unknown".to_owned())
}

/// Commit, `-dirty` if tracked files differ from it.
pub fn commit() -> String {
    let args = [
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ];
    output("git", &args).unwrap_or_else(|| "unknown".to_owned())
}

/// Now, UTC.
pub fn date() -> String {
    output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]).unwrap_or_else(|| "unknown".to_owned())
}
