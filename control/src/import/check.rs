//! What came out has to load: what `rvsd` would refuse is taken out again, and told.

use std::path::Path;

use super::document::{Document, Row, Table, Value};
use super::place::Place;
use super::report::{Oddity, Report};
use crate::config::{self, Host, Mistake};

/// Rounds of taking out; one mistake may hide another.
const ROUNDS: usize = 50;

/// A port, which the operator has yet to write.
const PORT: &str = "[[port]]\nname = \"any\"\nnull = {}\n";

/// A host that has what any configuration asks for.
fn host() -> Host {
    Host {
        online: (0..8).collect(),
        isolated: Vec::new(),
        memory_mb: None,
        ..Host::default()
    }
}

/// The mistakes of a text that came out.
pub fn mistakes(text: &str) -> Vec<Mistake> {
    let text = format!("{text}{PORT}");
    let parsed = config::parse(Path::new("import"), &text, &host());
    parsed.err().unwrap_or_default()
}

/// A mistake, what is taken out for it, and the keywords whose fault it is.
struct Wrong<'a> {
    row: Row,
    culprits: Vec<usize>,
    mistake: &'a Mistake,
}

/// Takes out what is refused.
pub fn check(document: &mut Document, report: &mut Report, header: &str, start: &Place) {
    for _ in 0..ROUNDS {
        let (text, rows) = document.render(header);
        let found = mistakes(&text);
        if found.is_empty() {
            return;
        }
        let row = |mistake: &Mistake| {
            let row = mistake.line.checked_sub(1).and_then(|at| rows.get(at));
            let row = row.copied().unwrap_or(Row::None);
            (meant(document, row, &mistake.text), row)
        };
        let mut wrong: Vec<Wrong<'_>> = Vec::new();
        for mistake in &found {
            let (row, told) = row(mistake);
            let culprits = match row {
                Row::Heading(at) if told != row => document.keywords(told, at),
                _ => document.keywords(row, usize::MAX),
            };
            wrong.push(Wrong {
                row,
                culprits,
                mistake,
            });
        }
        // From the end, so that what stands before keeps its number.
        wrong.sort_by_key(|wrong| std::cmp::Reverse(order(wrong.row)));
        wrong.dedup_by_key(|wrong| wrong.row);
        if wrong.iter().all(|wrong| wrong.row == Row::None) {
            for mistake in &found {
                report.odd(Oddity::lost(start, "the file as a whole", &mistake.text));
            }
            return;
        }
        for Wrong {
            row,
            culprits,
            mistake,
        } in wrong
        {
            let removed = document.remove(row);
            let left = document.all_keywords();
            let because = culprits.first().and_then(|id| report.place(*id)).cloned();
            for id in culprits.iter().copied() {
                report.lost_id(id, &format!("left out: {}", mistake.text));
            }
            let others = removed.iter().filter(|id| !culprits.contains(id));
            // What other tables say as well is not lost.
            for id in others.filter(|id| !left.contains(id)) {
                match &because {
                    Some(place) => report.lost_id(*id, &format!("left out because of {place}")),
                    None => report.lost_id(*id, &format!("left out: {}", mistake.text)),
                }
            }
        }
    }
    let note = "too many things that rvsd refuses; see what it says";
    report.odd(Oddity::lost(start, "the file as a whole", note));
}

/// Tables that mean something else without one of their keys: they go as a whole.
const WHOLE: [&str; 9] = [
    "service.check",
    "service.server",
    "service.server.check",
    "vrrp.instance.vip",
    "vrrp.instance.vip_excluded",
    "vrrp.instance.peers",
    "vrrp.instance.route",
    "vrrp.instance.track",
    "vrrp.sync_group.track",
];

/// A mistake about a list of tables is told at its first: the table that is meant has the address
/// that the text names, else it is the list's owner.
fn meant(document: &Document, row: Row, text: &str) -> Row {
    let at = match row {
        Row::Heading(at) => at,
        Row::Key(at, _) => match document.tables.get(at) {
            Some(table) if WHOLE.contains(&table.path) => return Row::Heading(at),
            _ => return row,
        },
        Row::None => return row,
    };
    let of_list = |path: &str| path == "vrrp.instance.vip" || path == "vrrp.instance.peers";
    let path = match document.tables.get(at) {
        Some(table) if of_list(table.path) => table.path,
        _ => return row,
    };
    let named = |table: &Table| match table.get("addr") {
        Some(Value::Text(addr)) => {
            let addr = addr.split('/').next().unwrap_or_default();
            text.split([' ', ',', ';', '"', '/'])
                .any(|word| word == addr)
        }
        _ => false,
    };
    let list = document.tables.iter().enumerate().skip(at);
    let list = list.take_while(|(_, table)| table.path == path);
    let named = list
        .filter(|(_, table)| named(table))
        .map(|(at, _)| at)
        .last();
    let owner = || {
        let before = document.tables[..at].iter();
        before
            .clone()
            .rposition(|table| table.path == "vrrp.instance")
    };
    named.or_else(owner).map_or(row, Row::Heading)
}

/// Headings come before the keys below them.
fn order(row: Row) -> (usize, usize) {
    match row {
        Row::None => (0, 0),
        Row::Heading(table) => (table, 0),
        Row::Key(table, key) => (table, key + 1),
    }
}
