//! `rvsadm capture`: starts a capture, waits for its end or for Ctrl-C, prints its summary.

use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};

use super::Session;
use super::client::Client;
use super::failure::Failure;
use crate::api::{Request, Response};

/// Runs a capture. The connection stays open meanwhile: if it closes, `rvsd` ends the capture, so
/// that a killed `rvsadm` leaves none behind.
pub fn run(session: &mut Session<'_>, request: Request) -> Result<(), Failure> {
    let interrupt = (session.environment.interrupt)()
        .map_err(|err| Failure::Unreachable(format!("cannot watch for Ctrl-C: {err}")))?;
    let mut client = session.connect()?;
    client.send(request)?;
    match client.receive()? {
        Response::Started { warnings } => {
            session.warn(&warnings);
            session.note("capturing; Ctrl-C ends it");
        }
        end => return session.text(end),
    }
    let end = match wait(&mut client, &interrupt)? {
        Some(end) => end,
        None => match session.connect()?.ask(Request::StopCapture)? {
            summary @ Response::Text { .. } => summary,
            // It ended by itself a moment ago: its own answer is on its way.
            _ => client.receive()?,
        },
    };
    session.text(end)
}

/// The end of the capture, as long as it takes, or `None` on Ctrl-C.
fn wait(client: &mut Client, interrupt: &UnixStream) -> Result<Option<Response>, Failure> {
    loop {
        if let Some(end) = client.take()? {
            return Ok(Some(end));
        }
        let mut fds = [
            PollFd::new(interrupt, PollFlags::IN),
            PollFd::new(client.stream(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(Failure::Unreachable(format!("cannot wait for rvsd: {err}"))),
        }
        if !fds[0].revents().is_empty() {
            return Ok(None);
        }
        if !fds[1].revents().is_empty() {
            client.fill()?;
        }
    }
}
