//! Writes the rules that run to the disk, on a thread of its own.
//!
//! Each change raises the version that is wanted. One snapshot is under way at a time and has all
//! changes up to its moment, so many changes that come fast cost few writes.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use dataplane::time::Instant;
use mio::Waker;

use super::disk;
use super::rules::Kept;
use crate::config::{Config, Running};

/// When a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Pause between two writes that nobody waits for.
const PAUSE: Duration = Duration::from_millis(500);

/// What is to be written.
pub struct Snapshot {
    /// The file as it was loaded last.
    pub config: Arc<Config>,
    /// What runs.
    pub running: Running,
}

struct Writer {
    jobs: Sender<Snapshot>,
    done: Receiver<io::Result<()>>,
    path: PathBuf,
}

/// See the module. The default writes nothing and is always done.
#[derive(Default)]
pub struct Keeper {
    writer: Option<Writer>,
    /// Version of the rules that run.
    wanted: u64,
    /// Version that is being written.
    under_way: Option<u64>,
    /// Up to this version writes have ended, well or not.
    settled: u64,
    /// Why the last one did not end well.
    trouble: Option<String>,
    /// When the last one ended.
    ended: Instant,
}

impl Keeper {
    /// Writes to `path`; `waker` is rung after each write. What runs at the start is a change.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub fn start(path: PathBuf, waker: Arc<Waker>) -> io::Result<Keeper> {
        let (jobs, queue) = bounded::<Snapshot>(1);
        let (results, done) = bounded(1);
        let file = path.clone();
        thread::Builder::new()
            .name("rvs-rules".to_owned())
            .spawn(move || {
                for snapshot in queue {
                    let kept = Kept {
                        config: snapshot.config.path.clone(),
                        last: snapshot.config.rules.clone(),
                        running: snapshot.running,
                    };
                    let written = disk::replace(&file, &kept.encode());
                    if results.send(written).is_err() || waker.wake().is_err() {
                        return;
                    }
                }
            })?;
        Ok(Keeper {
            writer: Some(Writer { jobs, done, path }),
            wanted: 1,
            ..Keeper::default()
        })
    }

    /// The rules that run are others now; the version of them.
    pub fn note_change(&mut self) -> u64 {
        self.wanted += 1;
        self.wanted
    }

    /// Version of the rules that run.
    pub fn wanted(&self) -> u64 {
        self.wanted
    }

    /// Whether there is no more to wait for: the version is on the disk, or [`Keeper::trouble`]
    /// says why not.
    pub fn is_settled(&self, version: u64) -> bool {
        self.writer.is_none() || self.settled >= version
    }

    /// Whether nothing is being written.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_none()
    }

    /// Why the rules that run are not on the disk.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Takes the results, and begins with what is to be written. `urgent`: somebody waits for it.
    pub fn advance(&mut self, now: Instant, urgent: bool, snapshot: impl FnOnce() -> Snapshot) {
        let Some(writer) = &self.writer else {
            return;
        };
        if let Some(version) = self.under_way
            && let Ok(written) = writer.done.try_recv()
        {
            self.under_way = None;
            self.settled = version;
            self.ended = now;
            match written {
                Ok(()) if self.trouble.take().is_some() => {
                    tracing::info!(event = "state", "the rules that run are kept again");
                }
                Ok(()) => {}
                Err(why) => {
                    let path = writer.path.display();
                    let text = format!(
                        "live changes would not outlive a crash: {path} cannot be written: {why}"
                    );
                    if self.trouble.as_ref() != Some(&text) {
                        tracing::error!(event = "state", "{text}");
                    }
                    self.trouble = Some(text);
                }
            }
        }
        if self.under_way.is_some() {
            return;
        }
        let since = now.since(self.ended);
        let is_due = if self.settled < self.wanted {
            urgent || since >= PAUSE
        } else {
            self.trouble.is_some() && since >= RETRY
        };
        if is_due && writer.jobs.try_send(snapshot()).is_ok() {
            self.under_way = Some(self.wanted);
        }
    }
}
