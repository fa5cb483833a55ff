//! Log lines, human or JSON, written by a thread of their own. A full queue drops lines and
//! counts them; nobody ever waits for a log.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Lines kept for the writer before new ones are dropped.
const QUEUE: usize = 8192;

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error("log file {path}: {error}; change [log] file or its directory's permissions")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The filter cannot be read.
    #[error("log filter \"{filter}\" cannot be read: {error}; try \"info\"")]
    Filter {
        /// The filter.
        filter: String,
        /// Why.
        error: String,
    },
    /// Something has set a subscriber already.
    #[error("logging was started twice")]
    Twice,
}

/// Keeps the writer alive; dropping it writes what is queued.
pub struct Logging {
    _writer: WorkerGuard,
    dropped: Dropped,
}

impl Logging {
    /// How many lines were dropped.
    pub fn dropped(&self) -> Dropped {
        self.dropped.clone()
    }
}

/// Number of log lines that were dropped because the queue was full.
#[derive(Clone, Default)]
pub struct Dropped(Option<ErrorCounter>);

impl Dropped {
    /// The number.
    pub fn get(&self) -> u64 {
        self.0
            .as_ref()
            .map_or(0, |counter| counter.dropped_lines() as u64)
    }
}

/// Starts the writer thread and sends all tracing events of the process to it.
///
/// # Errors
/// See [`LogError`].
pub fn start(log: &Log) -> Result<Logging, LogError> {
    let filter = EnvFilter::try_new(&log.filter).map_err(|error| LogError::Filter {
        filter: log.filter.clone(),
        error: error.to_string(),
    })?;
    let sink: Box<dyn Write + Send> = match &log.file {
        None => Box::new(io::stderr()),
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            Box::new(file.map_err(|error| LogError::File {
                path: path.clone(),
                error,
            })?)
        }
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE)
        .thread_name("rvs-log")
        .finish(sink);
    let dropped = Dropped(Some(writer.error_counter()));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(writer);
    let started = match log.format {
        LogFormat::Human => tracing::subscriber::set_global_default(builder.finish()),
        LogFormat::Json => {
            tracing::subscriber::set_global_default(builder.json().flatten_event(true).finish())
        }
    };
    started.map_err(|_| LogError::Twice)?;
    Ok(Logging {
        _writer: guard,
        dropped,
    })
}
