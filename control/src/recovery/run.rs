//! The record of a run: a file that is there while the daemon runs, and is removed when it ends
//! in order. Who finds one at its start knows that the run before crashed.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataplane::time::Instant;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::disk;

/// So many crashes ...
pub const TOO_MANY: usize = 3;
/// ... within this time are a loop.
pub const WITHIN: Duration = Duration::from_secs(60);

/// How the run before ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By a signal or a command, or there was none.
    InOrder,
    /// Killed, or the machine stopped.
    Crashed,
    /// And so did those before it: [`TOO_MANY`] of them [`WITHIN`] a short time.
    CrashedAgain,
}

/// Times are of `CLOCK_BOOTTIME`, which no step of the wall clock changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The boot that the times belong to.
    boot: [u8; 16],
    /// When a start found that the run before had crashed, nanoseconds.
    crashes: Vec<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Run {
    file: PathBuf,
    before: Ended,
    /// What the file held; `None` if it was not there.
    found: Option<Vec<u8>>,
    /// Locked: two daemons do not share a directory.
    _directory: File,
}

impl Run {
    /// Notes in a directory that a run has begun. The directory is made if need be.
    ///
    /// # Errors
    /// It cannot be written to, or another daemon uses it.
    pub fn begin(directory: &Path, now: Instant, boot: [u8; 16]) -> io::Result<Run> {
        let (lock, file) = lock(directory)?;
        let found = read(&file)?;
        let (before, record) = follow(found.as_deref(), now, boot);
        // It was made by us: there is nothing that could not be JSON.
        let bytes = serde_json::to_vec(&record).unwrap_or_default();
        disk::replace(&file, &bytes)?;
        Ok(Run {
            file,
            before,
            found,
            _directory: lock,
        })
    }

    /// Goes on with the record of a process that hands over: its run did not end.
    ///
    /// # Errors
    /// It cannot be written to, or another daemon uses it.
    pub fn go_on(directory: &Path, boot: [u8; 16]) -> io::Result<Run> {
        let (lock, file) = lock(directory)?;
        let found = read(&file)?;
        if found.is_none() {
            let fresh = Record {
                boot,
                crashes: Vec::new(),
            };
            disk::replace(&file, &serde_json::to_vec(&fresh).unwrap_or_default())?;
        }
        Ok(Run {
            file,
            before: Ended::Crashed,
            found,
            _directory: lock,
        })
    }

    /// How the run before ended.
    pub fn before(&self) -> Ended {
        self.before
    }

    /// Puts back what was there.
    pub fn undo(self) {
        let done = match &self.found {
            Some(bytes) => disk::replace(&self.file, bytes),
            None => disk::remove(&self.file),
        };
        self.told(done);
    }

    /// Notes that the run ended in order.
    pub fn end(self) {
        self.told(disk::remove(&self.file));
    }

    fn told(&self, done: io::Result<()>) {
        if let Err(why) = done {
            tracing::warn!(event = "state", "{}: {why}", self);
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())
    }
}

/// Locks a directory, which is made if need be; the lock and the path of the record.
fn lock(directory: &Path) -> io::Result<(File, PathBuf)> {
    fs::create_dir_all(directory)?;
    let lock = File::open(directory)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        rustix::io::Errno::WOULDBLOCK => {
            io::Error::other("another rvsd uses it; give each its own")
        }
        other => other.into(),
    })?;
    Ok((lock, directory.join("run.json")))
}

fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// What a record says about the run before, and the record of the new one.
fn follow(found: Option<&[u8]>, now: Instant, boot: [u8; 16]) -> (Ended, Record) {
    let fresh = Record {
        boot,
        crashes: Vec::new(),
    };
    let Some(bytes) = found else {
        return (Ended::InOrder, fresh);
    };
    // One that cannot be read says at least that there was a run.
    let old: Record = serde_json::from_slice(bytes).unwrap_or_default();
    let is_recent = |at: &u64| old.boot == boot && now.since(Instant(*at)) < WITHIN;
    let mut crashes: Vec<u64> = old.crashes.iter().copied().filter(is_recent).collect();
    crashes.push(now.0);
    if crashes.len() >= TOO_MANY {
        return (Ended::CrashedAgain, fresh);
    }
    (Ended::Crashed, Record { boot, crashes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: [u8; 16] = [7; 16];

    fn begin(dir: &Path, secs: u64) -> Run {
        Run::begin(dir, Instant::from_secs(secs), BOOT).unwrap()
    }

    #[test]
    fn three_crashes_within_a_minute_are_a_loop() {
        let dir = tempfile::tempdir().unwrap();
        let at = |secs| begin(dir.path(), secs).before();
        let told = [100, 110, 120, 130, 140, 150].map(at);
        use Ended::{Crashed, CrashedAgain, InOrder};
        // After a loop the count begins anew.
        let want = [InOrder, Crashed, Crashed, CrashedAgain, Crashed, Crashed];
        assert_eq!(told, want);
        begin(dir.path(), 160).end();
        assert_eq!(at(170), InOrder);
    }

    #[test]
    fn slow_crashes_are_no_loop() {
        let dir = tempfile::tempdir().unwrap();
        let told: Vec<Ended> = (1..6).map(|n| begin(dir.path(), n * 31).before()).collect();
        assert_eq!(told[1..], [Ended::Crashed; 4]);
        // Times of another boot mean nothing.
        let run = Run::begin(dir.path(), Instant::from_secs(160), [8; 16]).unwrap();
        assert_eq!(run.before(), Ended::Crashed);
    }

    #[test]
    fn a_start_that_fails_is_no_crash() {
        let dir = tempfile::tempdir().unwrap();
        begin(dir.path(), 100).undo();
        assert_eq!(begin(dir.path(), 101).before(), Ended::InOrder);
        for secs in 102..110 {
            let run = begin(dir.path(), secs);
            assert_eq!(run.before(), Ended::Crashed);
            run.undo();
        }
    }

    #[test]
    fn what_cannot_be_read_was_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("run.json"), "{").unwrap();
        assert_eq!(begin(dir.path(), 100).before(), Ended::Crashed);
    }

    #[test]
    fn a_directory_has_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let _first = begin(dir.path(), 100);
        let why = Run::begin(dir.path(), Instant::from_secs(101), BOOT).unwrap_err();
        assert!(why.to_string().contains("another rvsd"), "{why}");
    }
}
