//! `rvsadm events`: prints the stream of notifications.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use super::Session;
use super::failure::Failure;

/// Prints past events, and with `follow` those that come until Ctrl-C.
pub fn run(session: &mut Session<'_>, follow: bool, json: bool) -> Result<(), Failure> {
    let interrupt = (session.environment.interrupt)()
        .map_err(|err| Failure::Unreachable(format!("cannot watch for Ctrl-C: {err}")))?;
    let mut path = session.socket.clone().into_os_string();
    path.push(".events");
    let path = PathBuf::from(path);
    let shown = path.display();
    let stream = UnixStream::connect(&path).map_err(|err| {
        Failure::Unreachable(format!(
            "no stream of events at {shown}: {err}; is rvsd running, and does [notify] socket name \
             another?"
        ))
    })?;
    let patience = session.environment.patience;
    let lost = |err: io::Error| Failure::Unreachable(format!("the stream at {shown} broke: {err}"));
    stream.set_read_timeout(Some(patience)).map_err(lost)?;
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line).map_err(lost)?;
    let hello: Option<Value> = serde_json::from_str(&line).ok();
    let past = hello.and_then(|hello| hello.get("past")?.as_u64());
    let Some(past) = past else {
        return Err(Failure::Unreachable(format!(
            "what listens at {shown} is no stream of events"
        )));
    };
    for _ in 0..past {
        line.clear();
        if lines.read_line(&mut line).map_err(lost)? == 0 {
            return Ok(());
        }
        print(session, &line, json)?;
    }
    if !follow {
        return Ok(());
    }
    loop {
        session.streams.out.flush()?;
        if lines.buffer().is_empty() {
            let mut fds = [
                PollFd::new(&interrupt, PollFlags::IN),
                PollFd::new(lines.get_ref(), PollFlags::IN),
            ];
            match poll(&mut fds, None::<&Timespec>) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(err) => return Err(lost(err.into())),
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
            if fds[1].revents().is_empty() {
                continue;
            }
        }
        line.clear();
        if lines.read_line(&mut line).map_err(lost)? == 0 {
            return Err(Failure::Unreachable(format!(
                "rvsd closed the stream at {shown}"
            )));
        }
        print(session, &line, json)?;
    }
}

fn print(session: &mut Session<'_>, line: &str, json: bool) -> io::Result<()> {
    let out = &mut session.streams.out;
    match serde_json::from_str(line) {
        Ok(event) if !json => writeln!(out, "{}", in_words(&event)),
        _ => out.write_all(line.as_bytes()),
    }
}

/// Time, what it is about, its state, and the rest as `name=value`.
fn in_words(event: &Value) -> String {
    let text = |name: &str| match event.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let kind = text("type");
    let about = match kind.as_str() {
        "server" => format!("{} of {}", text("server"), text("service")),
        "quorum" => text("service"),
        "sync" => match text("peer") {
            peer if peer.is_empty() => format!("{} on {}", text("alarm"), text("interface")),
            peer => format!("{} {peer} on {}", text("alarm"), text("interface")),
        },
        _ => text("name"),
    };
    let mut line = format!("{} {kind} {about} {}", text("time"), text("state"));
    for name in ["priority", "weight", "quorum", "sorry_server", "reason"] {
        if event.get(name).is_some() && name != kind {
            line = format!("{line} {name}={}", text(name));
        } else if name == "quorum" && event.get(name).is_some() {
            line = format!("{line} needed={}", text(name));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let read = |line| in_words(&serde_json::from_str(line).unwrap());
        assert_eq!(
            read(
                r#"{"seq":1,"time":"T","type":"instance","name":"VI_1","state":"MASTER","priority":100}"#
            ),
            "T instance VI_1 MASTER priority=100"
        );
        assert_eq!(
            read(
                r#"{"seq":3,"time":"T","type":"sync","alarm":"peer","interface":"eth1","peer":"10.0.0.2","state":"DOWN","reason":"nothing is heard"}"#
            ),
            "T sync peer 10.0.0.2 on eth1 DOWN reason=nothing is heard"
        );
        assert_eq!(
            read(
                r#"{"seq":4,"time":"T","type":"sync","alarm":"link","interface":"eth1","state":"UP"}"#
            ),
            "T sync link on eth1 UP"
        );
        assert_eq!(
            read(
                r#"{"seq":2,"time":"T","type":"server","service":"tcp 10.0.0.1:80","server":"10.0.0.2:80","state":"DOWN","reason":"refused"}"#
            ),
            "T server 10.0.0.2:80 of tcp 10.0.0.1:80 DOWN reason=refused"
        );
        assert_eq!(
            read(
                r#"{"seq":3,"time":"T","type":"quorum","service":"tcp 10.0.0.1:80","state":"DOWN","weight":0,"quorum":1}"#
            ),
            "T quorum tcp 10.0.0.1:80 DOWN weight=0 needed=1"
        );
    }
}
