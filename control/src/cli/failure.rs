//! How a line of `rvsadm` can fail, with ipvsadm's messages and exit statuses.

use std::io;

use crate::api::ErrorKind;

/// Why a line was not carried out.
#[derive(Debug)]
pub enum Failure {
    /// The line makes no sense, or not to this version; ends a restore.
    Usage(String),
    /// No command in front; ends a restore.
    TryHelp,
    /// An option that does not exist or lacks its argument; a restore goes on.
    BadOption {
        /// The word as typed.
        word: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// `rvsd` refused; a restore goes on.
    Refused {
        /// For stderr.
        message: String,
        /// Exit status.
        status: u8,
    },
    /// `rvsd` cannot be asked; ends a restore.
    Unreachable(String),
    /// Standard output cannot be written.
    Output(io::Error),
}

impl Failure {
    /// Exit status of a program that ends with this.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Usage(_) | Failure::Unreachable(_) => 2,
            Failure::TryHelp | Failure::BadOption { .. } => 255,
            Failure::Refused { status, .. } => *status,
            // Whoever read the output has seen enough: `rvsadm -Lnc | head` is no failure.
            Failure::Output(err) if err.kind() == io::ErrorKind::BrokenPipe => 0,
            Failure::Output(_) => 1,
        }
    }

    /// Whether the lines after it are still carried out by a restore.
    pub fn lets_restore_go_on(&self) -> bool {
        matches!(self, Failure::BadOption { .. } | Failure::Refused { .. })
    }

    /// The lines for stderr, `None` if there is nothing to say.
    pub fn message(&self, program: &str) -> Option<String> {
        match self {
            Failure::Usage(message) | Failure::Unreachable(message) => Some(message.clone()),
            Failure::Refused { message, .. } => Some(message.clone()),
            Failure::TryHelp => Some(format!(
                "Try `{program} -h' or '{program} --help' for more information."
            )),
            Failure::BadOption { word, problem } => Some(format!("{word}: {problem}")),
            Failure::Output(err) if err.kind() == io::ErrorKind::BrokenPipe => None,
            Failure::Output(err) => Some(format!("cannot write to standard output: {err}")),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(err: io::Error) -> Self {
        Failure::Output(err)
    }
}

/// A refusal of `rvsd` for a command of ipvsadm: its text where ipvsadm has one, ours otherwise.
pub fn refusal(error: ErrorKind, message: String, listing: bool) -> Failure {
    let text = match error {
        ErrorKind::ServiceExists => "Service already exists",
        ErrorKind::NoService => "No such service",
        ErrorKind::ServiceNotDefined => "Service not defined",
        ErrorKind::ServerExists => "Destination already exists",
        ErrorKind::NoServer => "No such destination",
        ErrorKind::NoScheduler => "Scheduler or persistence engine not found",
        ErrorKind::Invalid => {
            "Invalid operation.  Possibly wrong module version, address not unicast, ..."
        }
        ErrorKind::Range => "Numerical result out of range",
        ErrorKind::DaemonRunning => "Daemon has already run",
        ErrorKind::NoDaemon => "No daemon is running",
        ErrorKind::NoDevice => "No such device",
        ErrorKind::Version => return Failure::Unreachable(message),
        ErrorKind::Capacity
        | ErrorKind::Malformed
        | ErrorKind::Config
        | ErrorKind::Busy
        | ErrorKind::Failed => &message,
    };
    let status = if listing && error == ErrorKind::NoService {
        1
    } else {
        255
    };
    Failure::Refused {
        message: text.to_string(),
        status,
    }
}
