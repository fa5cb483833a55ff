//! Recordings of the kernel's synchronisation, in `data/sync` or where `RVS_SYNC_DIR` says. The
//! README there tells how they were made.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use dataplane::addr::Endpoint;
use dataplane::sync::SyncEntry;

/// The folder.
pub fn dir() -> PathBuf {
    std::env::var_os("RVS_SYNC_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sync"),
        PathBuf::from,
    )
}

/// The UDP payloads of a capture file.
pub fn payloads(pcap: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(pcap).unwrap();
    let mut rest = &bytes[24..];
    let mut found = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<16>() {
        let len = u32::from_le_bytes(*head[8..].first_chunk().unwrap()) as usize;
        let (frame, after) = after.split_at(len);
        let udp = match frame[12..14] {
            [0x08, 0] => 14 + usize::from(frame[14] & 15) * 4,
            _ => 14 + 40,
        };
        let end = udp + usize::from(u16::from_be_bytes([frame[udp + 4], frame[udp + 5]]));
        found.push(frame[udp + 8..end].to_vec());
        rest = after;
    }
    found
}

/// Capture files, in the order of their names.
pub fn recordings() -> Vec<PathBuf> {
    let files = fs::read_dir(dir())
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|ext| ext == "pcap"))
        .collect();
    files.sort();
    files
}

/// What stands behind `'key': ` in a line of a recording's text.
fn field<'t>(line: &'t str, key: &str) -> Option<&'t str> {
    let (_, rest) = line.split_once(&format!("'{key}': "))?;
    let end = rest.find([',', '}']).unwrap_or(rest.len());
    Some(rest[..end].trim_matches('\''))
}

fn number(line: &str, key: &str) -> u32 {
    field(line, key).map_or(0, |text| text.parse().unwrap())
}

fn endpoint(line: &str, key: &str) -> Endpoint {
    let (addr, port) = field(line, key).unwrap().split_once(' ').unwrap();
    let addr: std::net::IpAddr = addr.parse().unwrap();
    Endpoint::new(addr.into(), port.parse().unwrap())
}

/// The entries that a recording's text tells of.
pub fn told(text: &Path) -> Vec<SyncEntry> {
    let text = fs::read_to_string(text).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("    {"));
    lines
        .map(|line| {
            let flags = field(line, "flags").unwrap();
            let hex = flags.split_once("0x").unwrap().1;
            let hex = hex.split_once(' ').map_or(hex, |(hex, _)| hex);
            SyncEntry {
                protocol: number(line, "proto") as u8,
                flags: u32::from_str_radix(hex, 16).unwrap(),
                state: number(line, "state") as u16,
                client: endpoint(line, "client"),
                virtual_: endpoint(line, "virtual"),
                dest: endpoint(line, "dest"),
                fwmark: number(line, "fwmark"),
                timeout: number(line, "timeout"),
                sequence: None,
            }
        })
        .collect()
}
