//! What changed since the rules were written whole: a file beside them that only grows.
//!
//! Its first line names the rules that it goes on from, by their checksum; of other rules it says
//! nothing. Each further line is a record with a checksum of its own: the changes of one write, as
//! what is now in their places. Replaying ends at the first record that is cut short or damaged; what
//! stood before it is a state that was there. When the rules are written whole the journal goes.

mod follow;
mod step;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{disk, rules};

pub(super) use follow::follow;
pub use step::Touch;
pub(super) use step::{Step, steps};

/// Version of the file.
const VERSION: u32 = 1;

/// First word of the file.
const MAGIC: &str = "rvs-journal";

/// What could not be written, and why.
#[derive(Debug, Error)]
#[error("{} cannot be {what}: {why}", .path.display())]
pub struct Unwritten {
    pub(super) path: PathBuf,
    pub(super) what: &'static str,
    pub(super) why: io::Error,
}

/// Where the journal of the rules in a file is.
pub(super) fn beside(rules: &Path) -> PathBuf {
    rules.with_extension("journal")
}

fn head(base: u32) -> String {
    format!("{MAGIC} {VERSION} {base:08x}\n")
}

fn record(steps: &[Step]) -> Vec<u8> {
    // As the rules: nothing in it can fail to be JSON, which has no line breaks here.
    let body = serde_json::to_vec(steps).unwrap_or_default();
    let sum = format!("{:08x} ", rules::checksum(&body));
    [sum.as_bytes(), &body, b"\n"].concat()
}

/// The file of the rules and its journal, being written.
#[derive(Debug)]
pub(super) struct Journal {
    rules: PathBuf,
    /// Checksum of the rules as they were written last.
    base: u32,
    /// What goes on from them, once there is some.
    file: Option<File>,
    /// What both have, bytes.
    lengths: (u64, u64),
}

impl Journal {
    /// Of rules in this file, of which nothing is written yet.
    pub fn of(rules: PathBuf) -> Journal {
        Journal {
            rules,
            base: 0,
            file: None,
            lengths: (0, 0),
        }
    }

    /// Writes the rules whole and begins anew. The old journal must go: should the rules once be
    /// the same again, it would say something of them.
    ///
    /// # Errors
    /// Of the file system. If it was the rules that could not be written, those before are there
    /// with their journal.
    pub fn begin(&mut self, bytes: &[u8]) -> Result<(), Unwritten> {
        disk::replace(&self.rules, bytes).map_err(|why| Unwritten {
            path: self.rules.clone(),
            what: "written",
            why,
        })?;
        self.base = rules::base_of(bytes);
        self.file = None;
        self.lengths = (bytes.len() as u64, 0);
        let path = beside(&self.rules);
        disk::remove(&path).map_err(|why| Unwritten {
            path,
            what: "removed",
            why,
        })
    }

    /// Writes a record: when this returns it is on the disk. After a failure the rules have to be
    /// written whole, as the journal may end in the middle of the record.
    ///
    /// # Errors
    /// Of the file system.
    pub fn append(&mut self, steps: &[Step]) -> Result<(), Unwritten> {
        let path = beside(&self.rules);
        self.write(&path, &record(steps)).map_err(|why| Unwritten {
            path,
            what: "written",
            why,
        })
    }

    fn write(&mut self, path: &Path, record: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(record)?;
            file.sync_data()?;
            self.lengths.1 += record.len() as u64;
            return Ok(());
        }
        let bytes = [head(self.base).as_bytes(), record].concat();
        self.file = Some(disk::create(path, &bytes)?);
        disk::sync_directory(path)?;
        self.lengths.1 = bytes.len() as u64;
        Ok(())
    }

    /// How long the rules and their journal are, bytes.
    pub fn lengths(&self) -> (u64, u64) {
        self.lengths
    }
}
