//! The connection to `rvsd`. Everything has a deadline: a daemon that stalls costs the operator
//! seconds and one clear line, never a hung terminal.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::failure::Failure;
use crate::api::{ErrorKind, FrameDecoder, Request, Response, encode_request};

/// An open connection.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    decoder: FrameDecoder,
    path: String,
    patience: Duration,
}

impl Client {
    /// Connects to the admin socket at `path`; each later step may take `patience`.
    pub fn connect(path: &Path, patience: Duration) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        let stream = open(path, patience)
            .map_err(|err| Failure::Unreachable(why(&err, &shown, patience)))?;
        Ok(Client {
            stream,
            decoder: FrameDecoder::new(),
            path: shown,
            patience,
        })
    }

    /// Sends a request.
    pub fn send(&mut self, request: Request) -> Result<(), Failure> {
        self.stream
            .write_all(&encode_request(request))
            .map_err(|err| self.lost(&err))
    }

    /// Waits for the next frame of an answer.
    pub fn receive(&mut self) -> Result<Response, Failure> {
        loop {
            if let Some(response) = self.take()? {
                return Ok(response);
            }
            self.fill()?;
        }
    }

    /// The next frame, if it has arrived already.
    pub fn take(&mut self) -> Result<Option<Response>, Failure> {
        let unreadable = |what: &dyn std::fmt::Display| {
            Failure::Unreachable(format!(
                "answer of rvsd cannot be read ({what}); are rvsadm and rvsd of the same version?"
            ))
        };
        let Some(payload) = self.decoder.next().map_err(|err| unreadable(&err))? else {
            return Ok(None);
        };
        let response = serde_json::from_slice(&payload).map_err(|err| unreadable(&err))?;
        match response {
            Response::Error {
                error: ErrorKind::Version,
                message,
            } => Err(Failure::Unreachable(message)),
            response => Ok(Some(response)),
        }
    }

    /// Waits for bytes.
    pub fn fill(&mut self) -> Result<(), Failure> {
        let mut bytes = [0; 64 * 1024];
        let n = loop {
            match self.stream.read(&mut bytes) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|err| self.lost(&err))?,
            }
        };
        if n == 0 {
            return Err(Failure::Unreachable(format!(
                "rvsd at {} closed the connection before the end of its answer; see its log",
                self.path
            )));
        }
        self.decoder.push(&bytes[..n]);
        Ok(())
    }

    /// A request with a single frame as its answer.
    pub fn ask(&mut self, request: Request) -> Result<Response, Failure> {
        self.send(request)?;
        self.receive()
    }

    /// Changes how long a step may take.
    pub fn set_patience(&mut self, patience: Duration) -> Result<(), Failure> {
        self.patience = patience;
        self.stream
            .set_read_timeout(Some(patience))
            .map_err(|err| self.lost(&err))
    }

    /// Whether the daemon has hung up since the last answer: it does so to an idle connection.
    pub fn is_closed(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// To wait for, together with something else.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    fn lost(&self, err: &io::Error) -> Failure {
        Failure::Unreachable(match err.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                stalled(&self.path, self.patience)
            }
            _ => format!("connection to rvsd at {} is lost: {err}", self.path),
        })
    }
}

/// A blocking socket whose steps, the connect among them, end after `patience`.
fn open(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let addr = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Bounds the connect too: it waits while the daemon's queue of connections is full.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(patience))?;
    rustix::net::connect(&socket, &addr)?;
    Ok(UnixStream::from(socket))
}

fn why(err: &io::Error, path: &str, patience: Duration) -> String {
    const ELSEWHERE: &str = "another socket is chosen with --socket PATH or RVS_SOCKET";
    match err.kind() {
        io::ErrorKind::NotFound => {
            format!("no admin socket at {path}: is rvsd running? ({ELSEWHERE})")
        }
        io::ErrorKind::ConnectionRefused => {
            format!("nobody listens at {path}: rvsd is not running ({ELSEWHERE})")
        }
        io::ErrorKind::PermissionDenied => format!(
            "no permission to use {path}: run rvsadm as root or as a member of the socket's group"
        ),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => stalled(path, patience),
        _ => format!("cannot connect to rvsd at {path}: {err}"),
    }
}

fn stalled(path: &str, patience: Duration) -> String {
    format!(
        "rvsd at {path} does not answer (waited {} s): it is stalled or overloaded; see its log",
        patience.as_secs_f32()
    )
}
