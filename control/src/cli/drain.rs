//! `rvsadm drain`: drains servers and shows how far they are, until they can be switched off.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Session;
use super::failure::Failure;
use super::print::json;
use crate::api::{DrainView, Drainees, Family, Protocol, Request, Response, ServiceKey};
use crate::config::{describe_server, describe_service};

/// What to do about drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Which servers; none lists those that are drained.
    pub servers: Option<Drainees>,
    /// Seconds until what is left ends.
    pub deadline: Option<u32>,
    /// Says how far they are until nothing is left.
    pub waits: bool,
}

/// Between two looks.
const PAUSE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Drains, and waits for the end or for Ctrl-C.
pub fn run(session: &mut Session<'_>, order: Order, json: bool) -> Result<(), Failure> {
    let Order {
        servers,
        deadline,
        waits,
    } = order;
    if let Some(servers) = servers {
        let answer = session
            .client()?
            .ask(Request::Drain { servers, deadline })?;
        session.text(answer)?;
    }
    let interrupt = (session.environment.interrupt)()
        .map_err(|err| Failure::Unreachable(format!("cannot watch for Ctrl-C: {err}")))?;
    let mut shown: Vec<DrainView> = Vec::new();
    loop {
        let rows = match session.client()?.ask(Request::Drains { servers })? {
            Response::Drains { rows } => rows,
            Response::Error { message, .. } => {
                return Err(Failure::Refused { message, status: 1 });
            }
            other => return Err(super::unexpected(other, false)),
        };
        if json {
            return Ok(json::drains(session.streams.out, &rows)?);
        }
        let out = &mut *session.streams.out;
        if servers.is_none() && rows.is_empty() {
            writeln!(out, "no server is drained")?;
        }
        for row in &rows {
            let before = shown.iter().find(|s| is_same(s, row));
            if before.is_none_or(|before| load(before) != load(row)) {
                writeln!(out, "{}", line(row))?;
            }
        }
        out.flush()?;
        let is_done = rows.iter().all(DrainView::is_done);
        if servers.is_none() || !waits || is_done {
            return Ok(());
        }
        shown = rows;
        let mut fds = [PollFd::new(&interrupt, PollFlags::IN)];
        match poll(&mut fds, Some(&PAUSE)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => {
                session.note("it stays drained; `rvsadm undrain` ends that");
                return Ok(());
            }
            Err(err) => return Err(Failure::Unreachable(format!("cannot wait: {err}"))),
        }
    }
}

fn is_same(a: &DrainView, b: &DrainView) -> bool {
    (a.service, a.server) == (b.service, b.server)
}

fn load(row: &DrainView) -> (u32, u32, u32) {
    (row.active, row.inactive, row.templates)
}

fn line(row: &DrainView) -> String {
    let (server, service) = (describe_server(&row.server), describe_service(&row.service));
    let seconds = |s: u64| humantime::format_duration(Duration::from_secs(s));
    if row.is_done() {
        let after = row.since.map(|s| format!(" after {}", seconds(s)));
        let after = after.unwrap_or_default();
        return format!(
            "{server} of {service}: no connection left{after}; it is safe to switch it off"
        );
    }
    let left = match row.left {
        Some(0) => "; they are ended".to_owned(),
        Some(left) => format!("; what is left ends in {}", seconds(left)),
        None => String::new(),
    };
    let DrainView {
        active,
        inactive,
        templates,
        ..
    } = row;
    format!(
        "{server} of {service}: {active} active and {inactive} other connections, {templates} \
         templates{left}"
    )
}

/// `ADDRESS` or `ADDRESS:PORT`, IPv6 with a port in brackets.
pub fn server(text: &str) -> Option<(IpAddr, Option<u16>)> {
    let addr = || text.parse::<IpAddr>().ok().map(|addr| (addr, None));
    let both = || text.parse::<SocketAddr>().ok();
    addr().or_else(|| both().map(|at| (at.ip(), Some(at.port()))))
}

/// `tcp:10.0.0.1:80`, `udp:[fd00::1]:53`, `mark:5`, `mark6:5`.
pub fn service(text: &str) -> Option<ServiceKey> {
    let (kind, rest) = text.split_once(':')?;
    let mark = |family| {
        let mark = rest.parse().ok().filter(|mark| *mark != 0)?;
        Some(ServiceKey::Mark { mark, family })
    };
    let protocol = match kind {
        "mark" => return mark(Family::Ipv4),
        "mark6" => return mark(Family::Ipv6),
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    let at: SocketAddr = rest.parse().ok()?;
    Some(ServiceKey::new(protocol, at.ip(), at.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ServerKey;

    #[test]
    fn servers_and_services_are_named_as_in_lists() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(server("10.0.0.1"), Some((ip("10.0.0.1"), None)));
        assert_eq!(server("10.0.0.1:80"), Some((ip("10.0.0.1"), Some(80))));
        assert_eq!(server("[fd00::1]:80"), Some((ip("fd00::1"), Some(80))));
        assert_eq!(server("fd00::1"), Some((ip("fd00::1"), None)));
        assert_eq!(server("web1"), None);
        let tcp = ServiceKey::new(Protocol::Tcp, ip("fd00::1"), 80);
        assert_eq!(service("tcp:[fd00::1]:80"), Some(tcp));
        let mark = ServiceKey::Mark {
            mark: 7,
            family: Family::Ipv6,
        };
        assert_eq!(service("mark6:7"), Some(mark));
        for wrong in ["10.0.0.1:80", "tcp:10.0.0.1", "icmp:10.0.0.1:80", "mark:0"] {
            assert_eq!(service(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_line_says_what_is_left_and_when_it_is_safe() {
        let mut row = DrainView {
            service: ServiceKey::new(Protocol::Tcp, [10, 0, 0, 1].into(), 80),
            server: ServerKey {
                addr: [10, 0, 1, 1].into(),
                port: 8080,
            },
            active: 2,
            inactive: 1,
            templates: 0,
            since: Some(3),
            left: Some(90),
        };
        assert_eq!(
            line(&row),
            "10.0.1.1:8080 of tcp 10.0.0.1:80: 2 active and 1 other connections, 0 templates; \
             what is left ends in 1m 30s"
        );
        (row.active, row.inactive) = (0, 0);
        assert_eq!(
            line(&row),
            "10.0.1.1:8080 of tcp 10.0.0.1:80: no connection left after 3s; it is safe to switch \
             it off"
        );
    }
}
