//! `rvsadm capture`: at most one at a time, from its filter to its summary.
//!
//! The writer thread opens the file and says so; then the workers are told to copy frames. It
//! ends at a limit, by `StopCapture`, or with the connection that asked for it: the workers are
//! told to stop, the writer takes what is left in the queue, and its summary is the answer.

pub mod filter;
pub mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use dataplane::capture::{CaptureRing, Filter};
use dataplane::packet::PortId;
use dataplane::time::Instant;
use mio::Waker;

use crate::api::ErrorKind;
use crate::model::Refusal;
use crate::server::ClientId;
use crate::update::Update;
use crate::workers::Workers;

/// Frames between workers and writer: 4 MiB.
const QUEUE: usize = 2048;

/// Bounds of a capture that names none, and of any.
const MOST: writer::Limits = writer::Limits {
    packets: 10_000_000,
    time: Duration::from_secs(3600),
    bytes: 2 << 30,
};

/// How long workers may take to stop copying before the writer ends without them.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Port by name; `any` for all.
    pub port: String,
    /// Absolute path.
    pub file: String,
    /// As written.
    pub filter: String,
    /// 0 = the daemon's bound.
    pub packets: u64,
    /// 0 = the daemon's bound.
    pub seconds: u64,
}

enum Told {
    Opened(Result<(), String>),
    Ended(String),
}

struct Running {
    owner: ClientId,
    /// Who else waits for the end.
    stoppers: Vec<ClientId>,
    port: Option<PortId>,
    filter: Filter,
    ring: Arc<CaptureRing>,
    stop: Arc<AtomicBool>,
    /// Workers are to have stopped by this generation, or by this time.
    stopping: Option<(u64, Instant)>,
    told: mpsc::Receiver<Told>,
}

/// What a client is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It runs.
    Started,
    /// It could not begin.
    Failed(String),
    /// It is over.
    Ended(String),
}

/// The capture that runs, if one does.
pub struct Captures {
    waker: Arc<Waker>,
    running: Option<Running>,
}

impl Captures {
    /// None runs. `waker` is rung when a writer has something to tell.
    pub fn new(waker: Arc<Waker>) -> Captures {
        Captures {
            waker,
            running: None,
        }
    }

    /// Begins one; notices for `owner` follow.
    ///
    /// # Errors
    /// Another one runs, there is no such port, the filter or the path cannot be used.
    pub fn start(
        &mut self,
        owner: ClientId,
        wanted: &Wanted,
        ports: &[String],
    ) -> Result<(), Refusal> {
        if self.running.is_some() {
            let message = "a capture runs already; end it or wait for its end";
            return Err(Refusal::new(ErrorKind::Busy, message));
        }
        let invalid = |message: String| Refusal::new(ErrorKind::Invalid, message);
        let port = match ports.iter().position(|name| *name == wanted.port) {
            Some(index) => Some(PortId(index as u16)),
            None if wanted.port == "any" => None,
            None => {
                let known = ports.join(", ");
                let message = format!("there is no port {}; known: {known}, any", wanted.port);
                return Err(invalid(message));
            }
        };
        let filter = filter::parse(&wanted.filter).map_err(invalid)?;
        let path = PathBuf::from(&wanted.file);
        if !path.is_absolute() {
            return Err(invalid(format!("{}: give an absolute path", wanted.file)));
        }
        let ring = Arc::new(CaptureRing::new(QUEUE));
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, told) = mpsc::channel();
        let (queue, stopped) = (Arc::clone(&ring), Arc::clone(&stop));
        let (names, waker) = (ports.to_vec(), Arc::clone(&self.waker));
        let limits = limits(wanted);
        std::thread::Builder::new()
            .name("rvs-capture".to_owned())
            .spawn(move || {
                let tell = |what| {
                    // Without a control loop nobody waits for it.
                    let _ = tell.send(what);
                    let _ = waker.wake();
                };
                match writer::open(&path) {
                    Err(why) => tell(Told::Opened(Err(why))),
                    Ok(file) => {
                        tell(Told::Opened(Ok(())));
                        let epoch = crate::clock::boot_time();
                        let summary = writer::run(file, &names, &queue, &stopped, limits, epoch);
                        tell(Told::Ended(format!("{summary}; file {}", path.display())));
                    }
                }
            })
            .map_err(|e| {
                Refusal::new(ErrorKind::Failed, format!("no thread for the capture: {e}"))
            })?;
        let stoppers = Vec::new();
        self.running = Some(Running {
            owner,
            stoppers,
            port,
            filter,
            ring,
            stop,
            stopping: None,
            told,
        });
        Ok(())
    }

    /// `StopCapture`; the summary follows as a notice.
    ///
    /// # Errors
    /// None runs.
    pub fn stop(
        &mut self,
        now: Instant,
        client: ClientId,
        workers: &mut Workers,
    ) -> Result<(), Refusal> {
        let Some(running) = &mut self.running else {
            return Err(Refusal::new(ErrorKind::Failed, "no capture runs"));
        };
        running.stoppers.push(client);
        running.begin_stop(now, workers);
        Ok(())
    }

    /// A connection is gone: its capture ends.
    pub fn forget(&mut self, now: Instant, client: ClientId, workers: &mut Workers) {
        if let Some(running) = self.running.as_mut().filter(|r| r.owner == client) {
            running.begin_stop(now, workers);
        }
    }

    /// Goes on; what is to be told to whom.
    pub fn advance(&mut self, now: Instant, workers: &mut Workers) -> Vec<(ClientId, Notice)> {
        let mut notices = Vec::new();
        let Some(running) = &mut self.running else {
            return notices;
        };
        let mut over = false;
        match running.told.try_recv() {
            Ok(Told::Opened(Ok(()))) => {
                // Not if it was stopped while the file was being opened.
                if running.stopping.is_none() {
                    workers.send(&Update::StartCapture {
                        port: running.port,
                        filter: Box::new(running.filter),
                        ring: Arc::clone(&running.ring),
                    });
                }
                notices.push((running.owner, Notice::Started));
            }
            Ok(Told::Opened(Err(why))) => {
                over = true;
                notices.extend(running.tell_all(Notice::Failed(why)));
            }
            Ok(Told::Ended(summary)) => {
                over = true;
                workers.send(&Update::StopCapture);
                notices.extend(running.tell_all(Notice::Ended(summary)));
            }
            Err(mpsc::TryRecvError::Empty) => {}
            Err(mpsc::TryRecvError::Disconnected) => {
                over = true;
                workers.send(&Update::StopCapture);
                let why = "the writer of the capture ended by itself".to_owned();
                notices.extend(running.tell_all(Notice::Failed(why)));
            }
        }
        if let Some((generation, deadline)) = running.stopping
            && (workers.applied() >= generation || now >= deadline)
        {
            running.stop.store(true, Relaxed);
        }
        if over {
            self.running = None;
        }
        notices
    }
}

impl Running {
    fn begin_stop(&mut self, now: Instant, workers: &mut Workers) {
        if self.stopping.is_none() {
            let generation = workers.send(&Update::StopCapture);
            self.stopping = Some((generation, now + PATIENCE));
        }
    }

    fn tell_all(&self, notice: Notice) -> Vec<(ClientId, Notice)> {
        let all = std::iter::once(self.owner).chain(self.stoppers.iter().copied());
        all.map(|client| (client, notice.clone())).collect()
    }
}

impl Drop for Running {
    /// A writer whose daemon ends closes its file properly.
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn limits(wanted: &Wanted) -> writer::Limits {
    let bound = |asked: u64, most: u64| if asked == 0 { most } else { asked.min(most) };
    writer::Limits {
        packets: bound(wanted.packets, MOST.packets),
        time: Duration::from_secs(bound(wanted.seconds, MOST.time.as_secs())),
        bytes: MOST.bytes,
    }
}
