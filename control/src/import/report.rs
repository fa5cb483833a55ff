//! What became of each keyword: taken over, changed or not supported, with its place.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::place::Place;
use super::tree::Node;

/// What became of a keyword. The worst of several counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It means the same.
    Taken,
    /// It is there, but not quite the same; the note says how.
    Changed,
    /// It is not there.
    Lost {
        /// Packets may go another way, or another host may serve the addresses.
        forwarding: bool,
    },
}

/// Something before keywords that deserves a line: a condition, an include, a brace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oddity {
    /// Where.
    pub place: Place,
    /// As written.
    pub text: String,
    /// What became of it.
    pub class: Class,
    /// Why.
    pub note: String,
}

impl Oddity {
    /// It was read otherwise than it stands there.
    pub fn changed(place: &Place, text: &str, note: &str) -> Oddity {
        Oddity::new(place, text, Class::Changed, note)
    }

    /// It was left out and should not have been.
    pub fn lost(place: &Place, text: &str, note: &str) -> Oddity {
        Oddity::new(place, text, Class::Lost { forwarding: true }, note)
    }

    fn new(place: &Place, text: &str, class: Class, note: &str) -> Oddity {
        Oddity {
            place: place.clone(),
            text: text.to_owned(),
            class,
            note: note.to_owned(),
        }
    }
}

/// What became of one keyword.
#[derive(Clone, Debug)]
struct Entry {
    place: Place,
    text: String,
    class: Class,
    notes: Vec<String>,
}

/// What became of all keywords.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By number of the keyword.
    entries: BTreeMap<usize, Entry>,
    oddities: Vec<Oddity>,
}

impl Report {
    /// With what was found before there were keywords.
    pub fn new(oddities: Vec<Oddity>) -> Report {
        Report {
            entries: BTreeMap::new(),
            oddities,
        }
    }

    /// It is taken over as `as_what`, a key.
    pub fn taken(&mut self, node: &Node, as_what: &str) {
        self.put(node, Class::Taken, as_what.to_owned());
    }

    /// It is taken over with another meaning, or something was added to make up for it.
    pub fn changed(&mut self, node: &Node, note: impl Into<String>) {
        self.put(node, Class::Changed, note.into());
    }

    /// Keepalived does nothing with a block, so nothing becomes of it.
    pub fn left_out(&mut self, node: &Node, note: &str) {
        self.changed(node, note);
        for child in &node.children {
            self.left_out(
                child,
                &format!("belongs to {}, which is left out", node.keyword()),
            );
        }
    }

    /// It is not taken over, which packets can tell.
    pub fn lost(&mut self, node: &Node, note: impl Into<String>) {
        self.put(node, Class::Lost { forwarding: true }, note.into());
    }

    /// It is not taken over, which no packet can tell.
    pub fn ignored(&mut self, node: &Node, note: impl Into<String>) {
        self.put(node, Class::Lost { forwarding: false }, note.into());
    }

    fn put(&mut self, node: &Node, class: Class, note: String) {
        let entry = self.entries.entry(node.id).or_insert_with(|| Entry {
            place: node.place.clone(),
            text: node.text.clone(),
            class,
            notes: Vec::new(),
        });
        if class > entry.class {
            entry.class = class;
        }
        if !entry.notes.contains(&note) {
            entry.notes.push(note);
        }
    }

    /// What was taken over for a keyword, by its number, turned out to be wrong.
    pub fn lost_id(&mut self, id: usize, note: &str) {
        self.add(id, Class::Lost { forwarding: true }, note);
    }

    /// What was taken over for a keyword, by its number, does nothing.
    pub fn ignored_id(&mut self, id: usize, note: &str) {
        self.add(id, Class::Lost { forwarding: false }, note);
    }

    /// What was taken over for a keyword, by its number, means something else.
    pub fn changed_id(&mut self, id: usize, note: &str) {
        self.add(id, Class::Changed, note);
    }

    /// Later keywords say something else, and count.
    pub fn overruled(&mut self, ids: &[usize], note: &str) {
        for id in ids {
            self.add(*id, Class::Changed, note);
        }
    }

    fn add(&mut self, id: usize, class: Class, note: &str) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.class = entry.class.max(class);
            if !entry.notes.iter().any(|n| n == note) {
                entry.notes.push(note.to_owned());
            }
        }
    }

    /// Something that no keyword stands for.
    pub fn odd(&mut self, oddity: Oddity) {
        self.oddities.push(oddity);
    }

    /// Numbers of all keywords that something is said about, with what became of them.
    pub fn keywords(&self) -> impl Iterator<Item = (usize, Class)> {
        self.entries.iter().map(|(id, entry)| (*id, entry.class))
    }

    /// Whether something is said about a keyword.
    pub fn has(&self, node: &Node) -> bool {
        self.entries.contains_key(&node.id)
    }

    /// Where a keyword stands.
    pub fn place(&self, id: usize) -> Option<&Place> {
        self.entries.get(&id).map(|entry| &entry.place)
    }

    /// What became of a keyword.
    pub fn class(&self, node: &Node) -> Option<Class> {
        self.entries.get(&node.id).map(|entry| entry.class)
    }

    /// How many there are of a class.
    pub fn count(&self, class: Class) -> usize {
        let entries = self.entries.values().map(|entry| entry.class);
        let oddities = self.oddities.iter().map(|oddity| oddity.class);
        entries.chain(oddities).filter(|c| *c == class).count()
    }

    /// Whether packets can tell that something is missing.
    pub fn is_incomplete(&self) -> bool {
        self.count(Class::Lost { forwarding: true }) > 0
    }
}

/// Headings of the report, in its order.
const CLASSES: [(Class, &str); 4] = [
    (
        Class::Lost { forwarding: true },
        "NOT SUPPORTED, and packets or the role of this host depend on it",
    ),
    (
        Class::Lost { forwarding: false },
        "NOT SUPPORTED, no packet depends on it",
    ),
    (Class::Changed, "CHANGED: read the note"),
    (Class::Taken, "TAKEN OVER"),
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (class, title) in CLASSES {
            let entries = self.entries.values().filter(|entry| entry.class == class);
            let of_entries =
                entries.map(|entry| line(&entry.place, &entry.text, &entry.notes.join("; ")));
            let oddities = self.oddities.iter().filter(|oddity| oddity.class == class);
            let of_oddities =
                oddities.map(|oddity| line(&oddity.place, &oddity.text, &oddity.note));
            let lines: Vec<String> = of_oddities.chain(of_entries).collect();
            if lines.is_empty() {
                continue;
            }
            if !std::mem::take(&mut first) {
                f.write_char('\n')?;
            }
            writeln!(f, "{title} ({})", lines.len())?;
            for line in lines {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

/// Passwords stay out of what people send around.
const SECRETS: [&str; 2] = ["auth_pass", "password"];

fn line(place: &Place, text: &str, note: &str) -> String {
    let keyword = text.split_whitespace().next().unwrap_or_default();
    let text = match SECRETS.contains(&keyword) {
        true => format!("{keyword} ..."),
        false => text.to_owned(),
    };
    let line = format!("{place}: {text}: {note}");
    // What a terminal would take for a command is shown as a blank.
    line.replace(char::is_control, " ")
}
