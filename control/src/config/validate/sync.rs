//! `[sync]`, and what the sysctls of synchronisation must be together.

use std::net::IpAddr;
use std::path::PathBuf;

use dataplane::settings::Settings;

use super::super::file::{File, Table};
use super::Notes;
use super::number;
use crate::api::{DaemonSpec, SYNC_GROUP, SyncRole};
use crate::sync::auth::KeyFiles;
use crate::sync::{Plan, Role};

/// Longest name of a kernel interface.
const MAX_INTERFACE: usize = 15;

/// Which daemons run, and how.
pub(super) fn plan(file: &File, notes: &mut Notes<'_>) -> Plan {
    let table = file.section("sync");
    let line = |key| table.line_of(key);
    let text = table.text("role").unwrap_or("none");
    let role = match text {
        "none" => Role::None,
        "master" => Role::Master,
        "backup" => Role::Backup,
        "both" => Role::Both,
        other => match other.strip_prefix("vrrp:").filter(|name| !name.is_empty()) {
            Some(name) => Role::Vrrp(name.to_owned()),
            None => {
                let known = "none, master, backup, both, vrrp:NAME";
                let told = format!("sync.role: \"{other}\" is no role; known: {known}");
                notes.mistake(line("role"), told);
                Role::None
            }
        },
    };
    let interface = table.text("interface").unwrap_or_default().to_owned();
    if role != Role::None && interface.is_empty() {
        notes.mistake(
            line("role"),
            "sync.interface is missing; name the kernel interface that messages go by",
        );
    }
    if interface.len() > MAX_INTERFACE {
        let told = format!("sync.interface: \"{interface}\" is longer than {MAX_INTERFACE} bytes");
        notes.mistake(line("interface"), told);
    }
    let group = match table.text("group").map(str::parse::<IpAddr>) {
        Some(Ok(group)) => group,
        None => SYNC_GROUP,
        Some(Err(_)) => {
            let group = table.text("group").unwrap_or_default();
            let told =
                format!("sync.group: \"{group}\" is no address; write 224.0.0.81 or ff02::81");
            notes.mistake(line("group"), told);
            SYNC_GROUP
        }
    };
    let daemon = DaemonSpec {
        role: SyncRole::Master,
        interface,
        syncid: number(table, "syncid"),
        maxlen: table.integer("maxlen").and_then(|n| u16::try_from(n).ok()),
        group,
        port: number(table, "port"),
        ttl: number(table, "ttl"),
        peers: table.boolean("peers").unwrap_or(true),
    };
    Plan {
        daemon: (role != Role::None).then_some(daemon),
        role,
        keys: keys(table, notes),
    }
}

/// Where the keys are; the files are read when they are used.
fn keys(table: &Table, notes: &mut Notes<'_>) -> KeyFiles {
    let mut file = |key| {
        let path = PathBuf::from(table.text(key)?);
        if !path.is_absolute() {
            let told = format!(
                "sync.{key}: \"{}\" is no full path; begin it with /",
                path.display()
            );
            notes.mistake(table.line_of(key), told);
        }
        Some(path)
    };
    let files = KeyFiles {
        current: file("key_file"),
        previous: file("previous_key_file"),
    };
    if files.current.is_none() && files.previous.is_some() {
        let told = "sync.previous_key_file goes with key_file; add key_file or remove it";
        notes.mistake(table.line_of("previous_key_file"), told);
    }
    files
}

/// The threshold is a remainder.
pub(super) fn threshold(file: &File, settings: &Settings, notes: &mut Notes<'_>) {
    let (threshold, period) = (settings.sync.threshold, settings.sync.period);
    if period != 0 && threshold >= period {
        notes.mistake(
            file.section("ipvs").line_of("sync_threshold"),
            format!(
                "ipvs.sync_threshold {threshold} is not less than sync_period {period}; lower it, or set \
                 sync_period to 0"
            ),
        );
    }
}
