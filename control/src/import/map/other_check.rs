//! Checkers that need no socket: scripts and files.

use super::Mapper;
use super::check::{Heir, Inherited, paced};
use super::events::user;
use super::script;
use crate::import::document::{Table, Value};
use crate::import::tree::Node;
use crate::import::words;

/// Keywords of these checkers, for suggestions.
const KEYWORDS: &[&str] = &[
    "misc_path",
    "misc_timeout",
    "misc_dynamic",
    "user",
    "track_file",
    "weight",
    "dynamic",
];

impl Mapper<'_> {
    pub(super) fn other_check(&mut self, node: &Node, inherited: &Inherited) -> Vec<Heir> {
        let table = match node.keyword() {
            "MISC_CHECK" => self.misc_check(node, inherited),
            "FILE_CHECK" => self.file_check(node),
            _ => {
                let note = "there is no BFD in RVS; a routing daemon can run it on the twins";
                self.report.lost(node, note);
                None
            }
        };
        let heir = |table| Heir {
            table,
            has_port: false,
            id: node.id,
        };
        table.map(heir).into_iter().collect()
    }

    fn misc_check(&mut self, node: &Node, inherited: &Inherited) -> Option<Table> {
        let mut keys = Table::of("service.server.check", node);
        keys.add("type", Value::text("script"));
        let mut own = Inherited {
            // Of a script it is misc_timeout that counts.
            connect_timeout: None,
            ..inherited.clone()
        };
        let mut special = Vec::new();
        for child in &node.children {
            match child.keyword() {
                "misc_timeout" => {
                    let least = std::time::Duration::from_millis(10);
                    let most = std::time::Duration::from_secs(86_400);
                    own.connect_timeout = self.time(child, least, most);
                    self.report.taken(child, "service.server.check.timeout");
                }
                _ if self.pace_of_check(child, &mut own) => {}
                _ => special.push(child),
            }
        }
        let mut keys = paced(keys, "script", &own);
        self.report.taken(node, "service.server.check, type script");
        for child in special {
            match child.keyword() {
                "misc_path" => match script::command(child) {
                    Some(command) => {
                        let words = Value::Texts(command.words);
                        self.put(&mut keys, "command", words, child);
                        if let Some(note) = command.note {
                            self.report.changed(child, note);
                        }
                    }
                    None => self.report.lost(child, "it names no program"),
                },
                "misc_dynamic" => self.put(&mut keys, "dynamic", Value::Boolean(true), child),
                "user" => match user(child.args()) {
                    Some(user) => self.put(&mut keys, "user", Value::Text(user), child),
                    None => self.report.lost(child, "its value is missing"),
                },
                _ => self.elsewhere(child, KEYWORDS),
            }
        }
        if !keys.has("command") {
            self.report.lost(node, "it has no misc_path");
            return None;
        }
        Some(keys)
    }

    fn file_check(&mut self, node: &Node) -> Option<Table> {
        let mut keys = Table::of("service.server.check", node);
        keys.add("type", Value::text("file"));
        // Keepalived is told of changes at once; here the file is read again and again.
        keys.add("delay_loop", Value::text("1s"));
        keys.add("retry", Value::Integer(0));
        self.report.taken(node, "service.server.check, type file");
        for child in &node.children {
            match child.keyword() {
                "track_file" => {
                    let Some(name) = self.word(child) else {
                        continue;
                    };
                    match self.files.get(name).copied() {
                        Some(file) => {
                            self.tracked_path(file, child, &mut keys);
                        }
                        None => {
                            let note = format!("there is no track_file {name}");
                            self.report.lost(child, note);
                        }
                    }
                }
                "dynamic" => self.report.taken(child, "weight is not 0"),
                _ => {}
            }
        }
        for child in &node.children {
            match child.keyword() {
                "weight" => {
                    let number = child.arg(0).and_then(|n| n.parse::<i64>().ok());
                    let Some(number) = number else {
                        self.report.lost(child, "weight needs a number");
                        continue;
                    };
                    self.put_weight(number, child, &mut keys);
                }
                "track_file" | "dynamic" => {}
                _ => self.elsewhere(child, KEYWORDS),
            }
        }
        if !keys.has("path") {
            self.report.lost(node, "it has no track_file");
            return None;
        }
        Some(keys)
    }

    /// Path and weight of a `track_file`.
    fn tracked_path(&mut self, file: &Node, child: &Node, keys: &mut Table) {
        let line = |keyword: &str| file.children.iter().rfind(|n| n.keyword() == keyword);
        let path = line("file").and_then(|n| words::command(&n.text).into_iter().nth(1));
        let Some(path) = path else {
            self.report.lost(child, "the track_file names no file");
            return;
        };
        self.put(keys, "path", Value::Text(path), child);
        let weight = line("weight");
        let number = weight.and_then(|n| n.arg(0)?.parse::<i64>().ok());
        self.put_weight(number.unwrap_or(1), weight.unwrap_or(child), keys);
        self.report.taken(child, "service.server.check.path");
    }

    fn put_weight(&mut self, number: i64, node: &Node, keys: &mut Table) {
        let number = match node.args().iter().any(|word| word == "reverse") {
            true => number.saturating_neg(),
            false => number,
        };
        let fitting = number.clamp(-254, 254);
        if fitting != number {
            self.report
                .changed(node, format!("weight {number} became {fitting}"));
        }
        keys.set("weight", Value::Integer(fitting), node);
        self.report.taken(node, "service.server.check.weight");
    }
}
