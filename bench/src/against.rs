//! `--against OLD.json`: what became slower or faster than in an earlier run.
//!
//! Ratios to testpmd are compared, because the machine's pace moves with the day. What moved less
//! than both runs' own rounds did is not marked.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::report::{Report, Row};

/// Smaller changes are never marked.
const LEAST: f64 = 0.03;

/// Reads an earlier result.
///
/// # Errors
/// It is not there, or no result.
pub fn read(path: &Path) -> Result<Report> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| shown.to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{shown} is no result of make bench"))
}

/// A line for each row of either run, the first one about the runs.
pub fn lines(now: &Report, before: &Report) -> Vec<String> {
    let mut lines = vec![format!(
        "ratios against {}, {}, {}",
        before.commit, before.date, before.machine
    )];
    let is_same =
        |a: &Row, b: &Row| (&a.name, a.flows, a.destinations) == (&b.name, b.flows, b.destinations);
    for row in &now.rows {
        lines.push(match before.rows.iter().find(|old| is_same(old, row)) {
            Some(old) => changed(row, old),
            None => format!("{} {:>7.2}   new", name(row), row.ratio),
        });
    }
    for old in &before.rows {
        if !now.rows.iter().any(|row| is_same(row, old)) {
            lines.push(format!("{}           gone", name(old)));
        }
    }
    lines
}

fn name(row: &Row) -> String {
    let size = match (row.flows, row.destinations) {
        (0, 0) => String::new(),
        (0, n) => format!("{n} rs"),
        (flows, _) => flows.to_string(),
    };
    format!("{:<26} {size:>8}", row.name)
}

fn changed(row: &Row, old: &Row) -> String {
    let change = row.ratio / old.ratio - 1.0;
    // The spread is of all rounds; the middle of them moves by less than half of it.
    let noise = LEAST.max(row.spread.max(old.spread) / 2.0);
    let mark = match change {
        c if c > noise => "   slower",
        c if c < -noise => "   faster",
        _ => "",
    };
    let (was, is) = (old.ratio, row.ratio);
    format!(
        "{} {was:>7.2} {is:>7.2} {:>+6.1}%{mark}",
        name(row),
        change * 100.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rows: &[(&str, f64, f64)]) -> Report {
        let row = |(name, ratio, spread): &(&str, f64, f64)| Row {
            ratio: *ratio,
            spread: *spread,
            ..Row::new(name, 1000, &[1.0], &[1.0], &[1.0])
        };
        Report {
            rows: rows.iter().map(row).collect(),
            ..Report::default()
        }
    }

    #[test]
    fn only_what_moved_beyond_the_spread_is_marked() {
        let before = report(&[
            ("a", 4.0, 0.01),
            ("b", 4.0, 0.3),
            ("c", 4.0, 0.01),
            ("d", 4.0, 0.0),
            ("gone", 1.0, 0.0),
        ]);
        let now = report(&[
            ("a", 4.4, 0.01),
            ("b", 4.4, 0.01),
            ("c", 3.6, 0.02),
            ("d", 4.1, 0.0),
            ("new", 1.0, 0.0),
        ]);
        let lines = lines(&now, &before);
        let marks: Vec<&str> = lines[1..]
            .iter()
            .map(|line| line.split_whitespace().last().unwrap_or(""))
            .collect();
        assert_eq!(
            marks,
            ["slower", "+10.0%", "faster", "+2.5%", "new", "gone"]
        );
    }
}
