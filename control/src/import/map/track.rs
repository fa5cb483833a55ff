//! What priorities depend on: `vrrp_script`, `track_file`, `vrrp_track_process`, and who names them.

use std::time::Duration;

use super::values::{boolean, duration};
use super::vrrp::{DAY, HOUR};
use super::{Mapper, script};
use crate::import::document::{Table, Value};
use crate::import::tree::Node;
use crate::import::words;

/// Keywords of scripts, files and processes, for suggestions.
const TRACKERS: &[&str] = &[
    "script",
    "interval",
    "timeout",
    "weight",
    "rise",
    "fall",
    "user",
    "init_fail",
    "file",
    "init_file",
    "process",
    "param_match",
    "quorum",
    "quorum_max",
    "full_command",
];

impl Mapper<'_> {
    /// `track_interface` and its like.
    pub(super) fn tracks(&mut self, node: &Node, path: &'static str, out: &mut Vec<Table>) {
        let Some(kind) = kind(node.keyword()) else {
            return;
        };
        self.report.taken(node, path);
        for child in &node.children {
            let mut table = Table::leaf(path, child);
            table.add("kind", Value::text(kind));
            table.set("name", Value::text(child.keyword()), child);
            if kind == "interface" {
                self.interfaces.insert(child.keyword().to_owned());
            }
            self.report.taken(child, path);
            self.weight(child, child.args(), &mut table, 254);
            out.push(table);
        }
    }

    /// `weight N [reverse]`.
    fn weight(&mut self, node: &Node, words: &[String], table: &mut Table, most: i64) {
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "weight" => {
                    let number = words.next().and_then(|n| n.parse::<i64>().ok());
                    let Some(number) = number else {
                        self.report.lost(node, "weight needs a number");
                        continue;
                    };
                    let fitting = number.clamp(-most, most);
                    if fitting != number {
                        self.report
                            .changed(node, format!("weight {number} became {fitting}"));
                    }
                    table.set("weight", Value::Integer(fitting), node);
                }
                "reverse" => drop(table.set("reverse", Value::Boolean(true), node)),
                "noreverse" => drop(table.set("reverse", Value::Boolean(false), node)),
                other => {
                    let note = format!("\"{other}\" is not understood");
                    self.report.lost(node, note);
                }
            }
        }
    }

    pub(super) fn tracked_script(&mut self, node: &Node) {
        let mut table = Table::of("track.script", node);
        if !self.name(node, &mut table) {
            return;
        }
        for child in &node.children {
            match child.keyword() {
                "script" => match script::command(child) {
                    Some(command) => {
                        let words = Value::Texts(command.words);
                        self.put(&mut table, "command", words, child);
                        if let Some(note) = command.note {
                            self.report.changed(child, note);
                        }
                    }
                    None => self.report.lost(child, "it names no program"),
                },
                "interval" | "timeout" => {
                    let name = match child.keyword() {
                        "interval" => "interval",
                        _ => "timeout",
                    };
                    let least = Duration::from_millis(100);
                    if let Some(time) = self.time(child, least, DAY) {
                        self.put(&mut table, name, Value::Text(duration(time)), child);
                    }
                }
                "rise" | "fall" => {
                    let name = if child.keyword() == "rise" {
                        "rise"
                    } else {
                        "fall"
                    };
                    if let Some(count) = self.number(child, 1, 1_000_000) {
                        self.put(&mut table, name, Value::Integer(count), child);
                    }
                }
                "weight" => {
                    self.report.taken(child, "track.script.weight");
                    self.weight(child, &child.words, &mut table, 253);
                }
                "user" => {
                    if let Some(user) = child.arg(0) {
                        let user = match child.arg(1) {
                            Some(group) => format!("{user}:{group}"),
                            None => user.to_owned(),
                        };
                        self.put(&mut table, "user", Value::Text(user), child);
                    }
                }
                "init_fail" => self.put(&mut table, "init_fail", Value::Boolean(true), child),
                _ => self.elsewhere(child, TRACKERS),
            }
        }
        self.document.tables.push(table);
    }

    pub(super) fn tracked_file(&mut self, node: &Node) {
        let mut table = Table::of("track.file", node);
        if !self.name(node, &mut table) {
            return;
        }
        for child in &node.children {
            match child.keyword() {
                "file" => match words::command(&child.text).into_iter().nth(1) {
                    Some(path) => self.put(&mut table, "path", Value::Text(path), child),
                    None => self.report.lost(child, "its value is missing"),
                },
                "weight" => {
                    self.report.taken(child, "track.file.weight");
                    self.weight(child, &child.words, &mut table, 254);
                }
                "init_file" => {
                    let mut value = 0;
                    let mut overwrite = None;
                    for word in child.args() {
                        match word.parse::<i32>() {
                            Ok(number) => value = i64::from(number),
                            Err(_) if word == "overwrite" => overwrite = Some(true),
                            Err(_) => {
                                let note = format!("\"{word}\" is not understood");
                                self.report.lost(child, note);
                            }
                        }
                    }
                    self.put(&mut table, "init", Value::Integer(value), child);
                    if overwrite.is_some() {
                        self.put(&mut table, "init_overwrite", Value::Boolean(true), child);
                    }
                }
                _ => self.elsewhere(child, TRACKERS),
            }
        }
        self.document.tables.push(table);
    }

    pub(super) fn tracked_process(&mut self, node: &Node) {
        let mut table = Table::of("track.process", node);
        if !self.name(node, &mut table) {
            return;
        }
        for child in &node.children {
            match child.keyword() {
                "process" => {
                    let mut words = words::command(&child.text).into_iter().skip(1);
                    let Some(command) = words.next() else {
                        self.report.lost(child, "its value is missing");
                        continue;
                    };
                    self.put(&mut table, "command", Value::Text(command), child);
                    let params: Vec<String> = words.collect();
                    if !params.is_empty() {
                        self.put(&mut table, "params", Value::Texts(params), child);
                    }
                }
                "param_match" => match child.arg(0) {
                    Some(word @ ("initial" | "partial")) => {
                        self.put(&mut table, "match", Value::text(word), child);
                    }
                    _ => self.report.lost(child, "neither initial nor partial"),
                },
                "quorum" | "quorum_max" => {
                    let name = match child.keyword() {
                        "quorum" => "quorum",
                        _ => "quorum_max",
                    };
                    if let Some(count) = self.number(child, 0, 1_000_000) {
                        self.put(&mut table, name, Value::Integer(count), child);
                    }
                }
                "fork_delay" | "terminate_delay" | "delay" => {
                    let Some(time) = self.time(child, Duration::ZERO, HOUR) else {
                        continue;
                    };
                    let time = Value::Text(duration(time));
                    if child.keyword() != "terminate_delay" {
                        self.put(&mut table, "fork_delay", time.clone(), child);
                    }
                    if child.keyword() != "fork_delay" {
                        self.put(&mut table, "terminate_delay", time, child);
                    }
                }
                "weight" => {
                    self.report.taken(child, "track.process.weight");
                    self.weight(child, &child.words, &mut table, 254);
                }
                "full_command" => {
                    let yes = child.arg(0).map_or(Some(true), boolean);
                    let yes = Value::Boolean(yes.unwrap_or(true));
                    self.put(&mut table, "full_command", yes, child);
                }
                _ => self.elsewhere(child, TRACKERS),
            }
        }
        self.document.tables.push(table);
    }
}

/// What a `track_…` block names.
pub(super) fn kind(word: &str) -> Option<&'static str> {
    Some(match word {
        "track_interface" => "interface",
        "track_script" => "script",
        "track_file" => "file",
        "track_process" => "process",
        _ => return None,
    })
}
