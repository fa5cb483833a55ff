//! Work that may block (reading and writing the configuration file), on a thread of its own.

use std::sync::Arc;
use std::thread;

use crossbeam::channel::{Receiver, Sender, bounded};
use mio::Waker;

/// Something to do on the thread; what it returns comes back to the control loop.
pub type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// The thread and its queues. One job at a time; the caller keeps what waits.
pub struct Files<T> {
    jobs: Sender<Job<T>>,
    done: Receiver<T>,
    busy: bool,
}

impl<T: Send + 'static> Files<T> {
    /// Starts the thread; `waker` is rung when a result is there.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub fn start(waker: Arc<Waker>) -> std::io::Result<Files<T>> {
        let (jobs, queue) = bounded::<Job<T>>(1);
        let (results, done) = bounded(1);
        thread::Builder::new()
            .name("rvs-files".to_owned())
            .spawn(move || {
                for job in queue {
                    // Without a receiver or a poll there is no control loop to tell.
                    if results.send(job()).is_err() || waker.wake().is_err() {
                        return;
                    }
                }
            })?;
        Ok(Files {
            jobs,
            done,
            busy: false,
        })
    }

    /// Starts a job; gives it back while another one runs.
    pub fn run(&mut self, job: Job<T>) -> Result<(), Job<T>> {
        if self.busy {
            return Err(job);
        }
        self.busy = true;
        self.jobs.try_send(job).map_err(|e| e.into_inner())
    }

    /// The result of the job, once.
    pub fn take(&mut self) -> Option<T> {
        let result = self.done.try_recv().ok()?;
        self.busy = false;
        Some(result)
    }

    /// Whether a job runs.
    pub fn is_busy(&self) -> bool {
        self.busy
    }
}
