//! From keywords to keys: what each keyword of keepalived means to `rvsd`.
//!
//! Each keyword gets an entry in the report. What is forgotten here is reported as unknown when
//! all is done, so nothing is dropped silently.

mod check;
mod events;
mod global;
mod ignored;
mod other_check;
mod pool;
mod script;
mod service;
mod sync;
mod target;
mod track;
mod values;
mod vip;
mod vrrp;

use std::collections::{BTreeMap, BTreeSet};

use self::events::Events;
use self::global::Globals;
use super::document::{Document, Table, Value};
use super::report::{Class, Report};
use super::tree::Node;

/// What is being made.
pub struct Mapper<'a> {
    /// The configuration.
    pub document: Document,
    /// What became of each keyword.
    pub report: Report,
    /// Kernel interfaces that are named.
    pub interfaces: BTreeSet<String>,
    /// Firewall marks that services have.
    pub marks: BTreeSet<i64>,
    groups: BTreeMap<String, &'a Node>,
    /// Keys of `https` checks about the certificate that they show.
    own_certificate: BTreeMap<&'static str, Value>,
    /// `track_file`s by name.
    files: BTreeMap<String, &'a Node>,
    events: Events,
    globals: Globals,
}

/// Blocks of the top level that become tables.
const BLOCKS: [&str; 13] = [
    "global_defs",
    "vrrp_instance",
    "vrrp_sync_group",
    "vrrp_script",
    "track_file",
    "vrrp_track_file",
    "vrrp_track_process",
    "interface_up_down_delays",
    "garp_group",
    "virtual_server",
    "virtual_server_group",
    "real_server",
    "SSL",
];

/// Maps a file.
pub fn map<'a>(nodes: &'a [Node], report: Report) -> Mapper<'a> {
    let mut mapper = Mapper {
        document: Document::default(),
        report,
        interfaces: BTreeSet::new(),
        marks: BTreeSet::new(),
        groups: BTreeMap::new(),
        own_certificate: BTreeMap::new(),
        files: BTreeMap::new(),
        events: Events::default(),
        globals: Globals::default(),
    };
    // What others refer to comes first, wherever it stands.
    for node in nodes {
        match node.keyword() {
            "global_defs" => mapper.global_defs(node),
            "virtual_server_group" => mapper.group(node),
            "SSL" => mapper.tls(node),
            "track_file" | "vrrp_track_file" => {
                let name = node.arg(0).unwrap_or_default();
                mapper.files.insert(name.to_owned(), node);
            }
            _ => {}
        }
    }
    mapper.put_globals();
    let globals = nodes.iter().filter(|n| n.keyword() == "global_defs");
    let mut said = globals.flat_map(|n| &n.children).rev();
    // Of several the last one counts.
    if let Some(daemon) = said.find(|n| n.keyword() == "lvs_sync_daemon") {
        mapper.sync_daemon(daemon, nodes);
    }
    mapper.vrrp(nodes);
    for node in nodes {
        match node.keyword() {
            "virtual_server" => mapper.virtual_server(node),
            "SSL"
            | "vrrp_instance"
            | "vrrp_sync_group"
            | "vrrp_script"
            | "track_file"
            | "vrrp_track_file"
            | "vrrp_track_process"
            | "interface_up_down_delays"
            | "global_defs"
            | "virtual_server_group" => {}
            _ => mapper.elsewhere(node, &BLOCKS),
        }
    }
    mapper.put_events();
    mapper.unused_groups();
    mapper.finish(nodes, None);
    mapper
}

impl<'a> Mapper<'a> {
    /// `virtual_server_group NAME`, which services name.
    fn group(&mut self, node: &'a Node) {
        let Some(name) = node.arg(0) else {
            self.report.lost(node, "it has no name");
            return;
        };
        if let Some(other) = self.groups.insert(name.to_owned(), node) {
            let note = format!("{} has the same name and wins", node.place);
            self.report.changed(other, note);
        }
    }

    /// Groups that no service names.
    fn unused_groups(&mut self) {
        for node in std::mem::take(&mut self.groups).into_values() {
            if !self.report.has(node) {
                let note = "no virtual_server names it, so nothing comes of it";
                self.report.left_out(node, note);
            }
        }
    }

    /// A keyword that is not among those that become something here.
    fn elsewhere(&mut self, node: &Node, known: &[&str]) {
        let word = node.keyword();
        if let Some((_, why)) = ignored::IGNORED
            .iter()
            .find(|(names, _)| names.contains(&word))
        {
            self.report.ignored(node, *why);
            return;
        }
        if let Some((_, why)) = ignored::LOST
            .iter()
            .find(|(names, _)| names.contains(&word))
        {
            self.report.lost(node, *why);
            return;
        }
        let near = crate::config::nearest(word, known.iter().copied());
        let note = match near {
            Some(near) => format!("no keyword here; did you mean {near}?"),
            None => "no keyword that is known here".to_owned(),
        };
        self.report.lost(node, note);
    }

    /// Every keyword without an entry shares the fate of its block, or is unknown.
    fn finish(&mut self, nodes: &[Node], block: Option<(&str, Class)>) {
        for node in nodes {
            if !self.report.has(node) {
                match block {
                    Some((name, Class::Lost { forwarding: false })) => {
                        self.report.ignored(node, format!("belongs to {name}"));
                    }
                    Some((name, Class::Lost { .. })) => {
                        self.report.lost(node, format!("belongs to {name}"));
                    }
                    _ => self.report.lost(node, "no keyword that is known here"),
                }
            }
            let class = self.report.class(node);
            self.finish(&node.children, class.map(|class| (node.keyword(), class)));
        }
    }

    /// Sets a key and says so.
    fn put(&mut self, table: &mut Table, name: &'static str, value: Value, node: &Node) {
        let over = table.set(name, value, node);
        self.report
            .overruled(&over, &format!("{} says it again and wins", node.place));
        self.report.taken(node, &format!("{}.{name}", table.path));
    }
}
