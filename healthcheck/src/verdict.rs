//! What one attempt found out.

use core::fmt;

/// The result of one attempt.
pub type Verdict = Result<Passed, Failure>;

/// The server did what was asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Passed {
    /// What the check adds to the server's weight while it is up.
    pub delta: i64,
}

/// Why an attempt failed: one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing (more) arrived before the attempt's deadline; what was waited for.
    Timeout(&'static str),
    /// The connection could not be opened or broke; the operating system's words.
    Io(String),
    /// The TLS session could not be set up, or its certificate is not accepted.
    Tls(String),
    /// The peer closed the connection before it had answered; what was waited for.
    Closed(&'static str),
    /// The answer is not one of this protocol.
    Malformed(String),
    /// The status of an HTTP answer is not among the expected ones.
    Status {
        /// What the server said.
        got: u16,
        /// The path that was asked for.
        path: String,
    },
    /// The body's digest is another one.
    Digest {
        /// In hexadecimal digits.
        got: String,
        /// The path that was asked for.
        path: String,
    },
    /// The body does not match the expression, or matches one that it must not match.
    Regex {
        /// Whether it matched.
        matched: bool,
        /// The path that was asked for.
        path: String,
    },
    /// An SMTP server answered with another code.
    Smtp {
        /// The command that was answered, or "the connection".
        to: &'static str,
        /// The line it answered with.
        line: String,
    },
    /// A DNS server answered with an error (RFC 1035, 4.1.1 RCODE).
    Rcode(u16),
    /// A UDP reply of the wrong length or with other bytes.
    Reply(String),
    /// A script ended with this status.
    Exit(i32),
    /// A script was ended by this signal.
    Signal(i32),
    /// A script did not succeed or a file cannot be read; what became of it.
    Script(String),
    /// A file holds this value, which means "down".
    File(i64),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Timeout(what) => write!(f, "no {what} in time"),
            Failure::Io(why) => f.write_str(why),
            Failure::Tls(why) => write!(f, "TLS: {why}"),
            Failure::Closed(what) => write!(f, "closed before {what}"),
            Failure::Malformed(why) => f.write_str(why),
            Failure::Status { got, path } => write!(f, "status {got} for {path}"),
            Failure::Digest { got, path } => write!(f, "digest {got} of {path}"),
            Failure::Regex {
                matched: true,
                path,
            } => {
                write!(f, "{path} matches what it must not match")
            }
            Failure::Regex { path, .. } => write!(f, "{path} does not match"),
            Failure::Smtp { to, line } => write!(f, "\"{line}\" in answer to {to}"),
            Failure::Rcode(code) => write!(f, "DNS error {code} ({})", rcode(*code)),
            Failure::Reply(why) => f.write_str(why),
            Failure::Exit(code) => write!(f, "exit status {code}"),
            Failure::Signal(number) => write!(f, "ended by signal {number}"),
            Failure::Script(why) => f.write_str(why),
            Failure::File(value) => write!(f, "the file holds {value}"),
        }
    }
}

fn rcode(code: u16) -> &'static str {
    match code {
        1 => "format error",
        2 => "server failure",
        3 => "no such name",
        4 => "not implemented",
        5 => "refused",
        _ => "see RFC 6895, 2.3",
    }
}
