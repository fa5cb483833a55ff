//! Writes the rules that run to the disk, on a thread of its own.
//!
//! Each change raises the version that is wanted. One write is under way at a time and has all
//! changes up to its moment, so many changes that come fast cost few writes. A write is a record in
//! the [journal](super::journal) if it is known what the changes touched, and costs in proportion to
//! that; else, and when the journal has become long, it is all rules.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use dataplane::time::Instant;
use mio::Waker;

use super::drains;
use super::journal::{self, Journal, Step, Touch, Unwritten};
use super::rules::Kept;
use crate::config::{Config, Running};
use crate::drains::{Drained, Drains};
use crate::model::Model;

/// When a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Pause between two writes that nobody waits for.
const PAUSE: Duration = Duration::from_millis(500);

/// Changes that touched more than this are written as all rules.
const MOST_TOUCHES: usize = 4096;

/// A journal shorter than this is not worth writing the rules anew, bytes.
const SHORT_JOURNAL: u64 = 64 << 10;

/// While somebody waits, a journal may become so many times as long as the rules.
const LONG: u64 = 4;

/// What is to be written, and drains under way beside it.
type Job = (What, Vec<Drained>);

/// What is to be written of the rules.
enum What {
    /// The file as it was loaded last, and what runs.
    Whole(Arc<Config>, Box<Running>),
    /// What changed since.
    Record(Vec<Step>),
}

impl What {
    fn write(self, journal: &mut Journal) -> Result<(), Unwritten> {
        match self {
            What::Whole(config, running) => {
                let kept = Kept {
                    config: config.path.clone(),
                    last: config.rules.clone(),
                    running: *running,
                };
                journal.begin(&kept.encode())
            }
            What::Record(steps) => journal.append(&steps),
        }
    }
}

/// How a write ended.
struct Written {
    result: Result<(), Unwritten>,
    /// It was all rules.
    is_whole: bool,
    /// Lengths of rules and journal now, bytes.
    lengths: (u64, u64),
}

struct Writer {
    jobs: Sender<Job>,
    done: Receiver<Written>,
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
    /// What changed since the last write began; `None`: anything may have.
    touched: Option<Vec<Touch>>,
    /// Lengths of the rules and of their journal, bytes.
    lengths: (u64, u64),
}

impl Keeper {
    /// Writes to `path` and to a journal and drains beside it, these with the boot that their times
    /// belong to; `waker` is rung after each write. What runs at the start is a change.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub fn start(path: PathBuf, boot: [u8; 16], waker: Arc<Waker>) -> io::Result<Keeper> {
        let (jobs, queue) = bounded::<Job>(1);
        let (results, done) = bounded(1);
        let mut drained = drains::File::beside(&path, boot);
        let mut journal = Journal::of(path);
        thread::Builder::new()
            .name("rvs-rules".to_owned())
            .spawn(move || {
                for (what, drains) in queue {
                    let is_whole = matches!(what, What::Whole(..));
                    let kept = drained.keep(drains);
                    let written = Written {
                        result: what.write(&mut journal).and(kept),
                        is_whole,
                        lengths: journal.lengths(),
                    };
                    if results.send(written).is_err() || waker.wake().is_err() {
                        return;
                    }
                }
            })?;
        Ok(Keeper {
            writer: Some(Writer { jobs, done }),
            wanted: 1,
            ..Keeper::default()
        })
    }

    /// The rules that run are others now; the version of them. `touched`: what the change touched,
    /// `None` if that is more than can be said.
    pub fn note_change(&mut self, touched: Option<Vec<Touch>>) -> u64 {
        match (&mut self.touched, touched) {
            (Some(before), Some(more)) if before.len() + more.len() <= MOST_TOUCHES => {
                before.extend(more);
            }
            _ => self.touched = None,
        }
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
    pub fn advance(
        &mut self,
        now: Instant,
        urgent: bool,
        config: &Arc<Config>,
        (model, drains): (&Model, &Drains),
    ) {
        if let Some(version) = self.under_way
            && let Some(writer) = &self.writer
            && let Ok(written) = writer.done.try_recv()
        {
            self.take(now, version, written);
        }
        let Some(writer) = &self.writer else {
            return;
        };
        if self.under_way.is_some() || !self.is_due(now, urgent) {
            return;
        }
        // Who waits does not wait for all rules, as long as that can be put off.
        let is_long = self.is_long(if urgent { LONG } else { 1 });
        let what = match self.touched.take().filter(|_| !is_long) {
            Some(touched) => What::Record(journal::steps(&touched, model)),
            None => What::Whole(Arc::clone(config), Box::new(model.running())),
        };
        if writer.jobs.try_send((what, drains.written())).is_ok() {
            self.under_way = Some(self.wanted);
            self.touched = Some(Vec::new());
        }
    }

    fn take(&mut self, now: Instant, version: u64, written: Written) {
        self.under_way = None;
        self.ended = now;
        self.lengths = written.lengths;
        let why = match written.result {
            Ok(()) => None,
            Err(why) => {
                // How the journal ends now is not known.
                self.touched = None;
                // All rules may find a place where a record found none.
                if !written.is_whole {
                    return;
                }
                Some(why)
            }
        };
        self.settled = version;
        let Some(why) = why else {
            if self.trouble.take().is_some() {
                tracing::info!(event = "state", "the rules that run are kept again");
            }
            return;
        };
        let text = format!("live changes would not outlive a crash: {why}");
        if self.trouble.as_ref() != Some(&text) {
            tracing::error!(event = "state", "{text}");
        }
        self.trouble = Some(text);
    }

    fn is_due(&self, now: Instant, urgent: bool) -> bool {
        let since = now.since(self.ended);
        if self.settled < self.wanted {
            return urgent || since >= PAUSE;
        }
        self.trouble.is_some() && since >= RETRY || self.is_long(1) && since >= PAUSE
    }

    /// Whether the journal is so many times as long as the rules.
    fn is_long(&self, times: u64) -> bool {
        let (rules, journal) = self.lengths;
        journal > times * rules.max(SHORT_JOURNAL)
    }
}
