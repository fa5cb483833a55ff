//! `rvsadm import-keepalived`: a `keepalived.conf` becomes a configuration of `rvsd` and a report.
//!
//! The way of a file: [`source`] (includes, comments), [`expand`] (conditions, definitions,
//! repetitions), [`tree`] (keywords and blocks, without a schema), [`map`] (what each means here),
//! [`document`] (text) and [`check`] (what `rvsd` would refuse is taken out again). Every line keeps
//! its place, and every keyword ends up in the [`report`]: nothing is dropped silently.

pub mod check;
pub mod document;
pub mod expand;
pub mod files;
pub mod map;
pub mod place;
pub mod report;
pub mod source;
pub mod tree;

mod comment;
mod define;
mod header;
mod repeat;
mod words;

use std::path::Path;

use self::expand::{Expander, Limits};
use self::files::Files;
use self::place::{Place, Refusal};
use self::report::{Oddity, Report};
use self::tree::{Builder, Node};

/// What came of a file.
#[derive(Debug)]
pub struct Import {
    /// The configuration; it lacks ports, which a `keepalived.conf` says nothing about.
    pub toml: String,
    /// What became of each keyword.
    pub report: Report,
}

/// Imports a file for the host with this config-id.
///
/// # Errors
/// A file that cannot be read, or that stands for too much.
pub fn import(path: &Path, files: &dyn Files, id: &str, limits: Limits) -> Result<Import, Refusal> {
    let (nodes, _, oddities) = keywords(path, files, id, limits)?;
    let mut mapper = map::map(&nodes, Report::new(oddities));
    let header = header::header(path, id, &mapper);
    let start = Place {
        file: path.into(),
        line: 1,
    };
    check::check(&mut mapper.document, &mut mapper.report, &header, &start);
    Ok(Import {
        toml: mapper.document.render(&header).0,
        report: mapper.report,
    })
}

/// The keywords of a file and of those that it includes, how many there are, and what was odd.
///
/// # Errors
/// A file that cannot be read, or that stands for too much.
pub fn keywords(
    path: &Path,
    files: &dyn Files,
    id: &str,
    limits: Limits,
) -> Result<(Vec<Node>, usize, Vec<Oddity>), Refusal> {
    let (mut of_source, mut of_lines, mut of_tree) = (Vec::new(), Vec::new(), Vec::new());
    let lines = source::read(path, files, &mut of_source)?;
    let start = Place {
        file: path.into(),
        line: 1,
    };
    let mut builder = Builder::new(start, &mut of_tree);
    let mut expander = Expander::new(id, limits, &mut of_lines);
    let mut current: Option<&Path> = None;
    for line in &lines {
        if current != Some(&line.place.file) {
            current = Some(&line.place.file);
            let directory = files.directory(&line.place.file);
            expander.set_directory(&directory.to_string_lossy());
        }
        expander.line(line, &mut |place, text| builder.line(place, text))?;
    }
    expander.finish(lines.last().map(|line| &line.place));
    let (nodes, count) = builder.finish();
    of_source.append(&mut of_lines);
    of_source.append(&mut of_tree);
    of_source.sort_by(|a, b| a.place.cmp(&b.place));
    Ok((nodes, count, of_source))
}
