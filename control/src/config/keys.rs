//! Every key of the configuration file: name, type, range, default and meaning, as plain values.
//!
//! The reader checks the file against this table, `docs/configuration.md` is printed from it, and
//! a test asks that `configs/rvsd.toml` shows each key. A new key is one line here, one place in
//! `validate` that reads it, and one line in `configs/rvsd.toml`; tests name what is missing.

use std::fmt::Write;

use dataplane::schedule;

mod check;
mod health;
mod hints;
mod host;
mod ipvs;
mod notify;
mod pool;
mod port;
mod service;
mod sync;
mod vrrp;

use health::HEALTH;
pub use hints::HINTS;
use host::{ADMIN, DPDK, KERNEL, LOG, STATE, WORKERS};
use ipvs::{IPVS, MARK, OVERLOAD, PUNT};
use notify::{ALERT, NOTIFY, SCRIPTS};
use port::PORT;
use service::SERVICE;
use sync::SYNC;
use vrrp::{TRACK, VRRP};

/// A table of the file: `[name]`, or `[[name]]` if it may occur several times.
#[derive(Debug)]
pub struct Section {
    /// Path as written between the brackets: `dpdk`, `service.server`.
    pub path: &'static str,
    /// Written `[[path]]`, any number of times.
    pub list: bool,
    /// Whether a reload applies changes; otherwise they wait for a restart.
    pub live: bool,
    /// What it is for.
    pub help: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// A key of a section.
#[derive(Debug)]
pub struct Key {
    /// Name.
    pub name: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// What holds when it is left out.
    pub default: Fallback,
    /// What it means, with its unit.
    pub help: &'static str,
}

/// Type and range of a value.
#[derive(Debug)]
pub enum Kind {
    /// Any text.
    Text,
    /// One of these words; the pairs are other spellings and what they stand for.
    Choice(
        &'static [&'static str],
        &'static [(&'static str, &'static str)],
    ),
    /// An integer in this range.
    Integer(i64, i64),
    /// A time in words, `10s` or `1m 30s`, of so many milliseconds.
    Duration(u64, u64),
    /// One of these words, or an integer in this range.
    ChoiceOrInteger(&'static [&'static str], i64, i64),
    /// `true` or `false`.
    Boolean,
    /// A list of texts.
    Texts,
    /// A list of integers in this range.
    Integers(i64, i64),
    /// A table, `[path]` or `{ … }`.
    Table(&'static Section),
    /// A list of tables, `[[path]]`.
    Tables(&'static Section),
}

/// What holds when a key is left out.
#[derive(Debug)]
pub enum Fallback {
    /// This value, written in TOML.
    Value(&'static str),
    /// A value that depends on other things, in words.
    Computed(&'static str),
    /// It must be there.
    Required,
    /// It must be there unless this other key is.
    RequiredUnless(&'static str),
}

use Fallback::{Computed, Required, RequiredUnless, Value};
use Kind::{
    Boolean, Choice, ChoiceOrInteger, Duration, Integer, Integers, Table, Tables, Text, Texts,
};

const fn key(name: &'static str, kind: Kind, default: Fallback, help: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        help,
    }
}

/// Largest value that the kernel's interface carries for weights and thresholds.
pub const MAX_WEIGHT: i64 = i32::MAX as i64;

/// Largest timeout, seconds: 31 days, as for `rvsadm --set`.
pub const MAX_TIMEOUT: i64 = 2_678_400;

/// Schedulers that a service may name: those of the core's table.
pub const SCHEDULERS: &[&str] = &SCHEDULER_NAMES;

const SCHEDULER_NAMES: [&str; schedule::SCHEDULERS.len()] = {
    let mut names = [""; schedule::SCHEDULERS.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = schedule::SCHEDULERS[i].0;
        i += 1;
    }
    names
};

/// The file as a whole.
pub static ROOT: Section = Section {
    path: "",
    list: false,
    live: false,
    help: "",
    keys: &[
        key("dpdk", Table(&DPDK), Computed("all defaults"), ""),
        key("workers", Table(&WORKERS), Computed("all defaults"), ""),
        key("port", Tables(&PORT), Required, ""),
        key("kernel", Table(&KERNEL), Computed("all defaults"), ""),
        key("admin", Table(&ADMIN), Computed("all defaults"), ""),
        key("state", Table(&STATE), Computed("all defaults"), ""),
        key("log", Table(&LOG), Computed("all defaults"), ""),
        key("ipvs", Table(&IPVS), Computed("all defaults"), ""),
        key("punt", Table(&PUNT), Computed("all defaults"), ""),
        key("overload", Table(&OVERLOAD), Computed("all defaults"), ""),
        key("sync", Table(&SYNC), Computed("none"), ""),
        key("health", Table(&HEALTH), Computed("all defaults"), ""),
        key("mark", Tables(&MARK), Computed("none"), ""),
        key("service", Tables(&SERVICE), Computed("none"), ""),
        key("vrrp", Table(&VRRP), Computed("no virtual router"), ""),
        key("track", Table(&TRACK), Computed("nothing"), ""),
        key("scripts", Table(&SCRIPTS), Computed("all defaults"), ""),
        key("notify", Table(&NOTIFY), Computed("all defaults"), ""),
        key("alert", Table(&ALERT), Computed("nothing"), ""),
    ],
};

/// Sections in the order of the file, nested ones after their parent.
pub fn sections() -> Vec<&'static Section> {
    fn walk(section: &'static Section, out: &mut Vec<&'static Section>) {
        for key in section.keys {
            if let Table(inner) | Tables(inner) = key.kind {
                out.push(inner);
                walk(inner, out);
            }
        }
    }
    let mut out = Vec::new();
    walk(&ROOT, &mut out);
    out
}

/// Range of an integer of a section, if the key is one.
pub fn range(section: &str, key: &str) -> Option<(i64, i64)> {
    let section = sections().into_iter().find(|s| s.path == section)?;
    match section.key(key)?.kind {
        Integer(min, max) => Some((min, max)),
        _ => None,
    }
}

impl Section {
    /// As it is written: `[dpdk]`, `[[port]]`.
    pub fn heading(&self) -> String {
        match (self.path, self.list) {
            ("", _) => "the file".into(),
            (path, true) => format!("[[{path}]]"),
            (path, false) => format!("[{path}]"),
        }
    }

    /// The section before this one that has the same keys, if there is one.
    pub fn sibling(&self) -> Option<&'static Section> {
        let names = |section: &Section| section.keys.iter().map(|k| k.name).collect::<Vec<_>>();
        let before = sections().into_iter().take_while(|s| s.path != self.path);
        before.into_iter().find(|s| names(s) == names(self))
    }

    /// A key by its name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|k| k.name == name)
    }
}

impl Kind {
    /// In words, for messages and the reference.
    pub fn describe(&self) -> String {
        match self {
            Text => "text".into(),
            Choice(words, _) => quoted(words),
            Integer(min, max) => format!("integer from {min} to {max}"),
            Duration(min, max) => format!("time from {} to {}", time(*min), time(*max)),
            ChoiceOrInteger(words, min, max) => {
                format!("{} or integer from {min} to {max}", quoted(words))
            }
            Boolean => "true or false".into(),
            Texts => "list of texts".into(),
            Integers(min, max) => format!("list of integers from {min} to {max}"),
            Table(_) => "table".into(),
            Tables(_) => "list of tables".into(),
        }
    }
}

impl Kind {
    /// What to give instead of a value of another type.
    pub fn wanted(&self) -> String {
        match self {
            Text => "a text in quotes".into(),
            Duration(..) => "a time in quotes, such as \"10s\" or \"250ms\"".into(),
            Choice(words, _) => format!("one of {}", quoted(words)),
            Integer(..) => format!("an {}", self.describe()),
            Texts | Integers(..) | Tables(_) | Table(_) => format!("a {}", self.describe()),
            ChoiceOrInteger(..) | Boolean => self.describe(),
        }
    }
}

/// Milliseconds in words.
pub(super) fn time(ms: u64) -> String {
    let text = humantime::format_duration(std::time::Duration::from_millis(ms)).to_string();
    text.replace("1day", "1d")
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|w| format!("\"{w}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The tables of `docs/configuration.md`.
pub fn reference() -> String {
    let mut out = String::new();
    for section in sections() {
        let when = if section.live {
            "A reload applies changes."
        } else {
            "Changes need a restart."
        };
        let _ = write!(
            out,
            "### `{}`\n\n{} {when}\n\n",
            section.heading(),
            section.help
        );
        if section.sibling().is_some() {
            continue;
        }
        out.push_str("| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
        for key in section.keys {
            let default = match key.default {
                Value(text) => format!("`{text}`"),
                Computed(words) => words.to_owned(),
                Required => "required".to_owned(),
                RequiredUnless(other) => format!("required without `{other}`"),
            };
            let kind = key.kind.describe();
            let _ = writeln!(
                out,
                "| `{}` | {kind} | {default} | {} |",
                key.name, key.help
            );
        }
        out.push('\n');
    }
    out
}
