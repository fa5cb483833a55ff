//! Drains under way, as a file beside the rules: since when and until when.
//!
//! That a server is drained is part of the rules. Times count only within their boot, as they are of
//! `CLOCK_BOOTTIME`; no connection that a deadline could end outlives it either.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk;
use super::journal::Unwritten;
use crate::drains::{Drained, Drains};

/// Name of the file in the state directory.
const NAME: &str = "drains.json";

/// What fields an older version does not know it passes over.
#[derive(Serialize, Deserialize)]
struct Document {
    /// The boot that the times belong to.
    boot: [u8; 16],
    drains: Vec<Drained>,
}

/// The file, and what is in it.
pub(super) struct File {
    path: PathBuf,
    boot: [u8; 16],
    /// `None`: not known, or left by the run before.
    kept: Option<Vec<Drained>>,
}

impl File {
    pub fn beside(rules: &Path, boot: [u8; 16]) -> File {
        File {
            path: beside(rules),
            boot,
            kept: None,
        }
    }

    /// Writes what is not in it.
    pub fn keep(&mut self, drains: Vec<Drained>) -> Result<(), Unwritten> {
        if self.kept.as_ref() == Some(&drains) {
            return Ok(());
        }
        let written = write(&self.path, self.boot, drains.clone());
        self.kept = written.is_ok().then_some(drains);
        written.map_err(|why| Unwritten {
            path: self.path.clone(),
            what: "written",
            why,
        })
    }
}

/// The file beside that of the rules.
pub fn beside(rules: &Path) -> PathBuf {
    rules.with_file_name(NAME)
}

/// Writes them. No file is left if there are none.
///
/// # Errors
/// Of the file system.
pub fn write(path: &Path, boot: [u8; 16], drains: Vec<Drained>) -> std::io::Result<()> {
    if drains.is_empty() {
        return disk::remove(path);
    }
    let document = Document { boot, drains };
    disk::replace(path, &serde_json::to_vec(&document)?)
}

/// Those of this boot. What cannot be read is told in a line, and no loss but that of the deadlines.
pub fn read(path: &Path, boot: [u8; 16]) -> Drains {
    let unreadable = |why: &dyn std::fmt::Display| {
        tracing::warn!(
            event = "drain",
            "deadlines of drains are lost: {}: {why}; give them again",
            path.display()
        );
        Drains::default()
    };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Drains::default(),
        Err(why) => return unreadable(&why),
    };
    match serde_json::from_slice::<Document>(&bytes) {
        Ok(document) if document.boot == boot => Drains::read(&document.drains).again(),
        Ok(_) => Drains::default(),
        Err(why) => unreadable(&why),
    }
}

#[cfg(test)]
mod tests {
    use dataplane::time::Instant;

    use super::*;
    use crate::api::{Protocol, ServerKey, ServiceKey};

    #[test]
    fn what_is_written_is_read_in_the_same_boot() {
        let directory = tempfile::tempdir().unwrap();
        let path = beside(&directory.path().join("rules.json"));
        let subject = (
            ServiceKey::new(Protocol::Tcp, [10, 0, 0, 1].into(), 80),
            ServerKey {
                addr: [10, 0, 1, 1].into(),
                port: 8080,
            },
        );
        let (at, boot) = (Instant::from_secs, [7; 16]);
        assert_eq!(read(&path, boot).iter().count(), 0);
        let mut drains = Drains::default();
        drains.start(at(5), subject, Some(at(9)));
        // The deadline had come: what is left ends once more after a crash.
        assert_eq!(drains.take_over(at(9)), [subject]);
        write(&path, boot, drains.written()).unwrap();
        let mut found = read(&path, boot);
        let drain = found.get(&subject).unwrap();
        assert_eq!((drain.since, drain.deadline), (at(5), Some(at(9))));
        assert_eq!(found.take_over(at(10)), [subject]);
        assert_eq!(read(&path, [8; 16]).iter().count(), 0, "another boot");
        std::fs::write(&path, b"{").unwrap();
        assert_eq!(read(&path, boot).iter().count(), 0, "damaged");
        write(&path, boot, Vec::new()).unwrap();
        assert!(!path.exists());
    }
}
