//! Clients: order of answers, bad requests, limits, slow readers.

use super::*;

#[test]
fn requests_of_a_connection_are_answered_in_order() {
    let rig = Rig::start();
    let mut client = rig.client();
    let mut bytes = Vec::new();
    for request in [add(81), Request::GetTimeouts, add(81), Request::Version] {
        bytes.extend(api::encode_request(request));
    }
    // In pieces, so that frames and reads do not coincide.
    for piece in bytes.chunks(37) {
        client.stream.write_all(piece).unwrap();
    }
    assert_eq!(client.answer(), ok());
    assert!(matches!(client.answer(), Response::Timeouts { .. }));
    assert_eq!(refused(client.answer()).0, ErrorKind::ServiceExists);
    assert!(matches!(client.answer(), Response::Version { .. }));
}

#[test]
fn a_request_that_ends_with_its_connection_half_closed_is_answered() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send(add(81));
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer(), ok());
    assert_eq!(client.next(), None);
}

#[test]
fn bad_requests_are_told_and_harm_nobody() {
    let rig = Rig::start();
    let mut bystander = rig.client();
    assert_eq!(bystander.ask(add(81)), ok());

    let mut garbage = rig.client();
    let payload = b"{\"version\":1,\"request\":{\"op\":\"make-coffee\"}}";
    garbage
        .stream
        .write_all(&(payload.len() as u32).to_be_bytes())
        .unwrap();
    garbage.stream.write_all(payload).unwrap();
    let (kind, message) = refused(garbage.answer());
    assert_eq!(kind, ErrorKind::Malformed);
    assert!(message.contains("make-coffee"), "{message}");
    assert!(matches!(
        garbage.ask(Request::Version),
        Response::Version { .. }
    ));

    let mut old = rig.client();
    let frame = api::encode(&api::RequestFrame {
        version: 999,
        request: Request::Version,
    });
    old.stream.write_all(&frame).unwrap();
    assert_eq!(refused(old.answer()).0, ErrorKind::Version);

    let mut oversized = rig.client();
    oversized.stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert_eq!(refused(oversized.answer()).0, ErrorKind::Malformed);
    assert_eq!(oversized.next(), None);

    // All of it can be sent, and then the reason read.
    let mut flood = rig.client();
    flood.stream.write_all(&(2u32 << 20).to_be_bytes()).unwrap();
    flood.stream.write_all(&vec![b'x'; 2 << 20]).unwrap();
    assert_eq!(refused(flood.answer()).0, ErrorKind::Malformed);
    assert_eq!(flood.next(), None);

    let mut half = rig.client();
    half.stream
        .write_all(&api::encode_request(add(99))[..20])
        .unwrap();
    half.stream.shutdown(Shutdown::Write).unwrap();
    let (kind, message) = refused(half.answer());
    assert_eq!(kind, ErrorKind::Malformed);
    assert!(message.contains("ended inside"), "{message}");
    assert_eq!(half.next(), None);

    assert_eq!(
        bystander.ask(Request::DeleteService { service: key(81) }),
        ok()
    );
}

#[test]
fn a_client_that_stops_inside_a_request_is_ended() {
    let limits = Limits {
        stall: Duration::from_millis(10),
        ..Limits::default()
    };
    let rig = Rig::with(FILE, 0, limits);
    let mut half = rig.client();
    half.stream.write_all(&[0, 0]).unwrap();
    let (kind, message) = refused(half.answer());
    assert_eq!(kind, ErrorKind::Malformed);
    assert!(message.contains("did not come"), "{message}");
    assert_eq!(half.next(), None);
}

#[test]
fn an_unused_connection_is_ended() {
    let limits = Limits {
        idle: Duration::from_millis(10),
        ..Limits::default()
    };
    let rig = Rig::with(FILE, 0, limits);
    assert_eq!(rig.client().next(), None);
}

#[test]
fn more_clients_than_allowed_are_refused_by_name() {
    let rig = Rig::with(
        FILE,
        0,
        Limits {
            clients: 2,
            ..Limits::default()
        },
    );
    let mut first = rig.client();
    let mut second = rig.client();
    assert!(matches!(
        first.ask(Request::Version),
        Response::Version { .. }
    ));
    assert!(matches!(
        second.ask(Request::Version),
        Response::Version { .. }
    ));
    let mut third = rig.client();
    let (kind, message) = refused(third.answer());
    assert_eq!(kind, ErrorKind::Busy);
    assert!(message.contains("2 admin clients"), "{message}");
    assert!(matches!(
        first.ask(Request::Version),
        Response::Version { .. }
    ));
    drop(second);
    rig.until("room for another client", || {
        let mut next = rig.client();
        next.send(Request::Version);
        matches!(next.next(), Some(Response::Version { .. }))
    });
}

#[test]
fn a_hundred_thousand_connections_are_listed_past_a_stalled_client() {
    const CONNECTIONS: u32 = 100_000;
    let rig = Rig::with(FILE, CONNECTIONS, Limits::default());
    let mut stalled = rig.client();
    stalled.send(Request::ListConnections);
    let mut gone = rig.client();
    gone.send(Request::ListConnections);
    assert!(matches!(
        gone.answer(),
        Response::Connections { more: true, .. }
    ));
    drop(gone);
    let rows = rig.client().connections();
    assert_eq!(rows.len(), CONNECTIONS as usize);
    let clients: BTreeSet<_> = rows.iter().map(|row| row.client).collect();
    assert_eq!(
        clients.len(),
        CONNECTIONS as usize / 2,
        "each worker has the same clients"
    );
    assert_eq!(rig.ask(add(81)), ok());
    // The stalled one goes on where it stopped.
    let mut all = 0;
    while let Response::Connections { rows, more } = stalled.answer() {
        all += rows.len();
        if !more {
            break;
        }
    }
    assert_eq!(all, CONNECTIONS as usize);
}

#[test]
fn a_client_that_never_reads_is_dropped() {
    let limits = Limits {
        reading: Duration::from_millis(10),
        ..Limits::default()
    };
    let rig = Rig::with(FILE, 100_000, limits);
    let mut stalled = rig.client();
    stalled.send(Request::ListConnections);
    assert!(matches!(
        stalled.answer(),
        Response::Connections { more: true, .. }
    ));
    let probe = stalled.stream.try_clone().unwrap();
    probe.set_nonblocking(true).unwrap();
    // Once the daemon has closed, writing fails; nothing is read until then.
    rig.until(
        "the daemon gives up",
        || matches!((&probe).write(&[0]), Err(e) if e.kind() == io::ErrorKind::BrokenPipe),
    );
    assert_eq!(rig.ask(add(81)), ok());
}

#[test]
fn a_listing_waits_for_a_slow_reader_while_half_requests_are_ended() {
    const CONNECTIONS: u32 = 100_000;
    let limits = Limits {
        stall: Duration::from_millis(10),
        ..Limits::default()
    };
    let rig = Rig::with(FILE, CONNECTIONS, limits);
    let mut slow = rig.client();
    slow.send(Request::ListConnections);
    assert!(matches!(
        slow.answer(),
        Response::Connections { more: true, .. }
    ));
    // It began to stall later than the slow one to read, and both were looked at.
    let mut half = rig.client();
    half.stream.write_all(&[0, 0]).unwrap();
    assert_eq!(refused(half.answer()).0, ErrorKind::Malformed);
    let mut frames = 1;
    while let Response::Connections { more: true, .. } = slow.answer() {
        frames += 1;
    }
    assert!(frames > CONNECTIONS as usize / api::ROWS_PER_FRAME / 2);
    assert!(matches!(
        slow.ask(Request::Version),
        Response::Version { .. }
    ));
}

#[test]
fn requests_are_not_taken_from_who_reads_no_answers() {
    let rig = Rig::start();
    let mut greedy = rig.client();
    greedy.stream.set_nonblocking(true).unwrap();
    let mut asked = Vec::new();
    for _ in 0..1000 {
        asked.extend(api::encode_request(Request::Status));
    }
    // The daemon stops reading: what it does not take stays here.
    let (mut sent, mut full_since) = (0, WallClock::now());
    while full_since.elapsed() < Duration::from_millis(100) {
        let from = sent % asked.len();
        match greedy.stream.write(&asked[from..]) {
            Ok(n) => {
                sent += n;
                full_since = WallClock::now();
            }
            Err(_) => std::thread::yield_now(),
        }
        assert!(sent < 64 << 20, "it takes requests without end");
    }
    let frame = api::encode_request(Request::Status).len();
    greedy.stream.set_nonblocking(false).unwrap();
    for _ in 0..sent / frame {
        assert!(matches!(greedy.answer(), Response::Status(_)));
    }
}

#[test]
fn one_daemon_owns_a_socket() {
    let rig = Rig::start();
    let path = rig.dir.path().join("sock");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let second = Server::bind(&path, 0o600, None, Limits::default());
    assert!(matches!(second, Err(BindError::Running { .. })));
    assert!(rig.services().len() == 1, "the first goes on");

    let stale = rig.dir.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let server = Server::bind(&stale, 0o660, None, Limits::default()).unwrap();
    assert_eq!(
        std::fs::metadata(&stale).unwrap().permissions().mode() & 0o777,
        0o660
    );
    drop(server);
    assert!(!stale.exists(), "removed at the end");

    let other = rig.dir.path().join("file");
    std::fs::write(&other, "x").unwrap();
    let refused = Server::bind(&other, 0o600, None, Limits::default());
    assert!(matches!(refused, Err(BindError::NotASocket { .. })));
    let nobody = Server::bind(&stale, 0o600, Some("no-such-group"), Limits::default());
    assert!(matches!(nobody, Err(BindError::Group { .. })));
    let path = rig.dir.path().join("new/sock");
    Server::bind(&path, 0o600, Some("root"), Limits::default()).unwrap();
}
