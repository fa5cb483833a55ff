//! What priorities depend on: `[track]`, and who names it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::vip::interface;
use super::vrrp::advice;
use super::{Notes, notify, number};
use crate::config::file::Table;
use crate::config::vrrp::{Matching, Process, Script, Track, Tracked, TrackedFile};

/// Weight and direction of trackers that are defined once and named often.
pub(super) type Weights = BTreeMap<Tracked, (i16, bool)>;

/// The entries of `[[track.KIND]]`, with what those who name them take over.
pub(super) fn named<T>(
    track: &Table,
    kind: &str,
    notes: &mut Notes<'_>,
    weights: &mut Weights,
    id: impl Fn(String) -> Tracked,
    read: impl Fn(&Table, &mut Notes<'_>) -> Option<T>,
) -> BTreeMap<String, T> {
    let mut out = BTreeMap::new();
    for written in track.tables(kind) {
        let (Some(name), entry) = (written.text("name"), read(written, notes)) else {
            continue;
        };
        let weight = (
            number(written, "weight"),
            written.boolean("reverse").unwrap_or_default(),
        );
        if weights.insert(id(name.to_owned()), weight).is_some() {
            let text = format!("{kind} \"{name}\" is listed twice; rename one");
            notes.mistake(written.line_of("name"), text);
        }
        out.extend(entry.map(|entry| (name.to_owned(), entry)));
    }
    out
}

pub(super) fn script(table: &Table, notes: &mut Notes<'_>) -> Option<Script> {
    notify::account(table, notes);
    // Whether this host can run it is looked at with all other commands.
    let _ = notify::command(table, "command", notes);
    let command: Vec<String> = super::values(table.texts("command"));
    if command.is_empty() {
        return None;
    }
    let interval = table.duration("interval").unwrap_or_default();
    Some(Script {
        command,
        interval,
        timeout: table.duration("timeout").unwrap_or(interval),
        rise: number(table, "rise"),
        fall: number(table, "fall"),
        init_fail: table.boolean("init_fail").unwrap_or_default(),
        user: table.text("user").map(str::to_owned),
    })
}

pub(super) fn tracked_file(table: &Table, notes: &mut Notes<'_>) -> Option<TrackedFile> {
    let path = PathBuf::from(table.text("path")?);
    if !path.is_absolute() {
        let text = format!(
            "path \"{}\" is no full path; begin it with /",
            path.display()
        );
        notes.mistake(table.line_of("path"), text);
    }
    let overwrite = table.boolean("init_overwrite").unwrap_or_default();
    if overwrite && !table.mentions("init") {
        let text = "init_overwrite without init writes nothing; add init or remove it";
        notes.mistake(table.line_of("init_overwrite"), text);
    }
    Some(TrackedFile {
        path,
        init: table.integer("init").and_then(|n| i32::try_from(n).ok()),
        overwrite,
    })
}

pub(super) fn process(table: &Table, notes: &mut Notes<'_>) -> Option<Process> {
    let command = table.text("command")?.to_owned();
    let full_command = table.boolean("full_command").unwrap_or_default();
    if !full_command && command.len() > 15 {
        let text = format!(
            "command \"{command}\" has {} characters and the kernel keeps 15 of a program's name; \
             shorten it, or set full_command = true",
            command.len()
        );
        notes.mistake(table.line_of("command"), text);
    }
    let params = table
        .mentions("params")
        .then(|| super::values(table.texts("params")));
    if params.is_none() && table.mentions("match") {
        let text = "match compares params; add params or remove it";
        notes.mistake(table.line_of("match"), text);
    }
    let quorum = number(table, "quorum");
    let quorum_max = table.integer("quorum_max").map_or(u32::MAX, |n| n as u32);
    if quorum_max < quorum {
        let text = format!("quorum_max {quorum_max} is below quorum {quorum}; raise it");
        notes.mistake(table.line_of("quorum_max"), text);
    }
    Some(Process {
        command,
        full_command,
        params,
        matching: match table.text("match") {
            Some("initial") => Matching::Initial,
            Some("partial") => Matching::Partial,
            _ => Matching::Exact,
        },
        quorum,
        quorum_max,
        fork_delay: table.duration("fork_delay").unwrap_or_default(),
        terminate_delay: table.duration("terminate_delay").unwrap_or_default(),
    })
}

pub(super) fn tracks(table: &Table, weights: &Weights, notes: &mut Notes<'_>) -> Vec<Track> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for written in table.tables("track") {
        let Some(what) = tracked(written, weights, notes) else {
            continue;
        };
        if !seen.insert(what.clone()) {
            let text = "this is tracked already; remove one";
            notes.mistake(written.line, text);
        }
        let (weight, reverse) = weights.get(&what).copied().unwrap_or_default();
        out.push(Track {
            weight: written.integer("weight").map_or(weight, |n| n as i16),
            reverse: written.boolean("reverse").unwrap_or(reverse),
            what,
        });
    }
    out
}

fn tracked(table: &Table, weights: &Weights, notes: &mut Notes<'_>) -> Option<Tracked> {
    let kind = table.text("kind")?;
    if kind == "workers" {
        if table.mentions("name") {
            let text = "the workers are tracked as a whole; remove name";
            notes.mistake(table.line_of("name"), text);
        }
        return Some(Tracked::Workers);
    }
    if !table.mentions("name") {
        let text = format!("the {kind} has no name; add name = \"…\"");
        notes.mistake(table.line, text);
    }
    let name = table.text("name")?.to_owned();
    let what = match kind {
        "interface" => return Some(Tracked::Interface(interface(table, "name", notes)?)),
        "script" => Tracked::Script(name.clone()),
        "file" => Tracked::File(name.clone()),
        _ => Tracked::Process(name.clone()),
    };
    if !weights.contains_key(&what) {
        let advice = advice(
            &name,
            weights.keys().filter_map(|known| name_of(known, &what)),
        );
        let text = format!("there is no [[track.{kind}]] named \"{name}\"; {advice}");
        notes.mistake(table.line_of("name"), text);
        return None;
    }
    Some(what)
}

/// The name of a tracker of the same kind as another.
fn name_of<'a>(known: &'a Tracked, like: &Tracked) -> Option<&'a str> {
    match (known, like) {
        (Tracked::Script(name), Tracked::Script(_))
        | (Tracked::File(name), Tracked::File(_))
        | (Tracked::Process(name), Tracked::Process(_)) => Some(name),
        _ => None,
    }
}
