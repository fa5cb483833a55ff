//! What came out has to load: what `rvsd` would refuse is taken out again, and told.

use std::path::Path;

use super::document::{Document, Row};
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
    }
}

/// The mistakes of a text that came out.
pub fn mistakes(text: &str) -> Vec<Mistake> {
    let text = format!("{text}{PORT}");
    let parsed = config::parse(Path::new("import"), &text, &host());
    parsed.err().unwrap_or_default()
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
            row.copied().unwrap_or(Row::None)
        };
        let mut wrong: Vec<(Row, &Mistake)> = found.iter().map(|m| (row(m), m)).collect();
        // From the end, so that what stands before keeps its number.
        wrong.sort_by_key(|(row, _)| std::cmp::Reverse(order(*row)));
        wrong.dedup_by_key(|(row, _)| *row);
        if wrong.iter().all(|(row, _)| *row == Row::None) {
            for mistake in &found {
                report.odd(Oddity::lost(start, "the file as a whole", &mistake.text));
            }
            return;
        }
        for (row, mistake) in wrong {
            for id in document.remove(row) {
                report.lost_id(id, &format!("left out: {}", mistake.text));
            }
        }
    }
    let note = "too many things that rvsd refuses; see what it says";
    report.odd(Oddity::lost(start, "the file as a whole", note));
}

/// Headings come before the keys below them.
fn order(row: Row) -> (usize, usize) {
    match row {
        Row::None => (0, 0),
        Row::Heading(table) => (table, 0),
        Row::Key(table, key) => (table, key + 1),
    }
}
