//! Daemons on the loopback interface: what a master sends, a backup hands to the workers.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dataplane::addr::{Addr, Endpoint};
use dataplane::command::Command;
use dataplane::sync::SyncEntry;
use dataplane::sync::wire::{Encoder, Message};
use mio::{Poll, Token};

use super::*;
use crate::fake::FakeWorker;

fn entry(n: u16) -> SyncEntry {
    SyncEntry {
        protocol: 6,
        flags: 0,
        state: 1,
        client: Endpoint::new(Addr::v4([10, 0, 0, 1]), n),
        virtual_: Endpoint::new(Addr::v4([10, 0, 0, 100]), 80),
        dest: Endpoint::new(Addr::v4([10, 0, 1, 1]), 80),
        fwmark: 0,
        timeout: 900,
        sequence: None,
    }
}

/// A daemon on `lo`, where messages to a host's own address arrive.
fn spec(role: SyncRole, port: u16) -> DaemonSpec {
    DaemonSpec {
        role,
        interface: "lo".to_owned(),
        syncid: 7,
        maxlen: None,
        group: Ipv4Addr::LOCALHOST.into(),
        port,
        ttl: 1,
        peers: true,
    }
}

struct Node {
    sync: Sync,
    workers: Workers,
    fakes: Vec<FakeWorker>,
    settings: Settings,
    _poll: Poll,
}

impl Node {
    fn new(workers: usize) -> Node {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let (ends, fakes) = (0..workers).map(|_| FakeWorker::new(4)).unzip();
        Node {
            sync: Sync::new(waker),
            workers: Workers::new(ends),
            fakes,
            settings: Settings::default(),
            _poll: poll,
        }
    }

    fn start(&mut self, spec: &DaemonSpec) -> Result<Vec<String>, Refusal> {
        self.sync.start(spec, &self.settings, &mut self.workers)
    }

    fn stop(&mut self, role: SyncRole) -> Result<(), Refusal> {
        self.sync.stop(role, &mut self.workers)
    }

    fn view(&self, role: SyncRole) -> DaemonView {
        let mut views = self.sync.views().into_iter();
        views.find(|view| view.role == role).unwrap()
    }
}

/// A port that nobody has.
fn free_port() -> u16 {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// Waits until something holds; the threads have clocks of their own.
fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{what} never came"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Outbox of a worker, datagrams, commands of another node's workers.
#[test]
fn what_one_node_announces_the_other_takes() {
    for ports in [1, 4] {
        let port = free_port();
        let mut active = Node::new(2);
        let mut standby = Node::new(3);
        active.settings.sync_ports = ports;
        standby.settings.sync_ports = ports;
        standby.start(&spec(SyncRole::Backup, port)).unwrap();
        active.start(&spec(SyncRole::Master, port)).unwrap();
        for fake in &mut active.fakes {
            let envelope = fake.end.commands.pop().unwrap();
            let Command::StartMaster(outbox) = envelope.command else {
                panic!("no outbox");
            };
            let which = Arc::strong_count(&outbox) as u16;
            assert!(which > 1);
            for n in 0..500 {
                outbox.put(entry(n), None);
            }
        }
        let mut seen = vec![Vec::new(); 3];
        wait("1000 entries at each worker", || {
            standby.sync.deliver(&mut standby.workers);
            for (fake, seen) in standby.fakes.iter_mut().zip(&mut seen) {
                while let Some(envelope) = fake.end.commands.pop() {
                    if let Command::PutConnections(batch) = envelope.command {
                        seen.extend(batch.rows.iter().map(|row| row.entry));
                    }
                }
            }
            seen.iter().all(|seen| seen.len() == 1000)
        });
        for seen in &mut seen {
            seen.sort_by_key(|entry| entry.client.port);
            let want: Vec<SyncEntry> = (0..500).flat_map(|n| [entry(n); 2]).collect();
            assert_eq!(*seen, want);
        }
        // Counted after they are sent: they may be there before.
        wait("the count of the last message", || {
            active.view(SyncRole::Master).entries == 1000
        });
        let (sent, taken) = (
            active.view(SyncRole::Master),
            standby.view(SyncRole::Backup),
        );
        assert_eq!((sent.entries, sent.lost), (1000, 0));
        assert_eq!((taken.entries, taken.lost, taken.refused), (1000, 0, 0));
        assert_eq!(sent.messages, taken.messages);
        // A message in a slow second is possible, one for each entry is not.
        assert!(sent.messages < 100, "{} messages", sent.messages);
    }
}

/// A message that is not full waits a second for others, but not when the daemon ends.
#[test]
fn what_waits_is_sent_at_the_end() {
    let port = free_port();
    let (mut active, mut standby) = (Node::new(1), Node::new(1));
    standby.start(&spec(SyncRole::Backup, port)).unwrap();
    active.start(&spec(SyncRole::Master, port)).unwrap();
    let envelope = active.fakes[0].end.commands.pop().unwrap();
    let Command::StartMaster(outbox) = envelope.command else {
        panic!("no outbox");
    };
    for n in 0..3 {
        outbox.put(entry(n), None);
    }
    active.stop(SyncRole::Master).unwrap();
    wait("three entries", || {
        standby.view(SyncRole::Backup).entries == 3
    });
    // Nothing of an earlier run is sent later.
    assert!(outbox.is_empty());
}

#[test]
fn a_backup_takes_what_makes_sense_and_its_group_alone() {
    let port = free_port();
    let mut node = Node::new(1);
    node.start(&spec(SyncRole::Backup, port)).unwrap();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut buffer = vec![0; 1472];
    let mut send = |syncid, entry: SyncEntry, cut: usize| {
        let mut encoder = Encoder::new(Version::V1, syncid);
        encoder
            .push(&mut buffer, &entry, &Default::default())
            .unwrap();
        let len = encoder.finish(&mut buffer) - cut;
        sender.send_to(&buffer[..len], ("127.0.0.1", port)).unwrap();
    };
    send(7, entry(1), 0);
    send(8, entry(2), 0);
    send(7, entry(3), 1);
    send(
        7,
        SyncEntry {
            state: 99,
            ..entry(4)
        },
        0,
    );
    send(7, entry(5), 0);
    wait("all five", || node.view(SyncRole::Backup).messages == 5);
    let view = node.view(SyncRole::Backup);
    assert_eq!((view.entries, view.refused), (2, 2));
    let mut clients = Vec::new();
    wait("two entries", || {
        node.sync.deliver(&mut node.workers);
        while let Some(envelope) = node.fakes[0].end.commands.pop() {
            if let Command::PutConnections(batch) = envelope.command {
                clients.extend(batch.rows.iter().map(|row| row.entry.client.port));
            }
        }
        clients.len() == 2
    });
    assert_eq!(clients, [1, 5]);
}

/// Workers that take nothing lose nothing that was handed out: it waits, then in the queue, then
/// the thread counts what it cannot hand over.
#[test]
fn workers_that_stand_still_bound_what_waits() {
    let mut node = Node::new(1);
    let batch = || {
        let mut batch = Batch::default();
        batch.push(entry(1), &Default::default());
        Arc::new(batch)
    };
    for _ in 0..BATCHES {
        node.sync.batches.0.try_send(batch()).unwrap();
    }
    assert!(node.sync.batches.0.try_send(batch()).is_err());
    assert!(node.sync.deliver(&mut node.workers));
    let handed = node.fakes[0].end.commands.len();
    assert_eq!(handed, node.fakes[0].end.commands.capacity() / 2);
    assert!(node.sync.waiting.is_some());
    let mut rounds = 0;
    while node.sync.deliver(&mut node.workers) {
        node.fakes[0].run();
        node.workers.poll();
        rounds += 1;
        assert!(rounds < 10);
    }
    node.fakes[0].run();
    assert_eq!(node.fakes[0].applied, BATCHES);
}

#[test]
fn starting_and_stopping() {
    let mut node = Node::new(1);
    let port = free_port();
    let kind = |done: Result<Vec<String>, Refusal>| done.map_err(|refusal| refusal.kind);
    assert_eq!(
        node.stop(SyncRole::Master).unwrap_err().kind,
        ErrorKind::NoDaemon
    );
    let elsewhere = DaemonSpec {
        interface: "nosuch0".to_owned(),
        ..spec(SyncRole::Master, port)
    };
    assert_eq!(kind(node.start(&elsewhere)), Err(ErrorKind::NoDevice));
    for role in [SyncRole::Master, SyncRole::Backup] {
        assert_eq!(kind(node.start(&spec(role, port))), Ok(Vec::new()));
        assert_eq!(
            kind(node.start(&spec(role, port))),
            Err(ErrorKind::DaemonRunning)
        );
    }
    let roles: Vec<SyncRole> = node.sync.views().iter().map(|view| view.role).collect();
    assert_eq!(roles, [SyncRole::Master, SyncRole::Backup]);
    assert_eq!(node.view(SyncRole::Master).maxlen, 1472);
    node.stop(SyncRole::Master).unwrap();
    node.stop(SyncRole::Backup).unwrap();
    assert_eq!(node.sync.views(), []);
    node.fakes[0].run();
    assert_eq!(node.fakes[0].applied, 2, "started, stopped");
}

#[test]
fn lengths_as_the_kernel_takes_them() {
    let with = |role, asked, mtu, group: &str| {
        let spec = DaemonSpec {
            maxlen: asked,
            group: group.parse().unwrap(),
            ..spec(role, 1)
        };
        maxlen(&spec, mtu)
    };
    use SyncRole::{Backup, Master};
    let v4 = "224.0.0.81";
    assert_eq!(with(Master, None, 9000, v4), 1472);
    assert_eq!(with(Master, None, 9000, "ff02::81"), 1452);
    assert_eq!(with(Master, Some(400), 1500, v4), 400);
    assert_eq!(with(Backup, None, 1500, v4), 1472);
    assert_eq!(with(Backup, None, 9000, v4), 8972);
    assert_eq!(with(Backup, None, 576, v4), 1472);
    assert_eq!(with(Backup, Some(1000), 1500, v4), 1024);
    assert_eq!(with(Backup, Some(65535), 1500, v4), 65507);
}

#[test]
fn the_file_and_a_virtual_router_say_what_runs() {
    let mut node = Node::new(1);
    let daemon = spec(SyncRole::Master, free_port());
    let running =
        |node: &Node| -> Vec<SyncRole> { node.sync.views().iter().map(|view| view.role).collect() };
    let follow = |node: &mut Node, role: Role| {
        let plan = Plan {
            role,
            daemon: Some(daemon.clone()),
            ..Plan::default()
        };
        node.sync.follow(&plan, &node.settings, &mut node.workers)
    };
    use SyncRole::{Backup, Master};
    assert_eq!(follow(&mut node, Role::Both), [""; 0]);
    assert_eq!(running(&node), [Master, Backup]);
    follow(&mut node, Role::Vrrp("front".to_owned()));
    assert_eq!(running(&node), [Backup]);
    for (router, is_master, want) in [
        ("other", true, Backup),
        ("front", true, Master),
        ("other", false, Master),
        ("front", false, Backup),
    ] {
        let Node {
            sync,
            settings,
            workers,
            ..
        } = &mut node;
        assert_eq!(
            sync.router_changed(router, is_master, settings, workers),
            [""; 0]
        );
        assert_eq!(running(&node), [want], "{router} {is_master}");
    }
    follow(&mut node, Role::None);
    assert_eq!(running(&node), []);
    // What a file asks for and cannot be had is told.
    let plan = Plan {
        role: Role::Master,
        daemon: Some(DaemonSpec {
            interface: "nosuch0".into(),
            ..daemon
        }),
        ..Plan::default()
    };
    let told = node.sync.follow(&plan, &node.settings, &mut node.workers);
    assert!(told[0].contains("\"nosuch0\" is not there"), "{told:?}");
}

/// The group is joined and messages leave by the interface; they do not come back.
#[test]
fn multicast_sockets() {
    let device = socket::Device::find("lo").unwrap();
    for group in ["224.0.0.81", "ff02::81"] {
        let spec = DaemonSpec {
            group: group.parse().unwrap(),
            ..spec(SyncRole::Master, free_port())
        };
        let receiver = socket::receiver(&spec, &device, 0, 65536).unwrap();
        assert_eq!(receiver.local_addr().unwrap().ip(), spec.group);
        match socket::sender(&spec, &device, 0, 65536) {
            Ok(sender) => assert_eq!(sender.peer_addr().unwrap().ip(), spec.group),
            // A host without IPv6 addresses.
            Err(e) => assert!(spec.group.is_ipv6(), "{e}"),
        }
    }
    assert!(Message::decode(&[]).is_err());
}

/// A key file, as `Plan` names it.
fn key_file(dir: &tempfile::TempDir, name: &str, key: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.path().join(name);
    std::fs::write(&path, key).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn sealer(key: &str) -> Sealer {
    let ring = auth::Ring {
        current: Some(auth::Key::new(key.as_bytes())),
        previous: None,
    };
    Sealer::new(Arc::new(Keys::new(ring)), Purpose::Entries).unwrap()
}

const KEY: &str = "0123456789abcdef";
const NEXT: &str = "fedcba9876543210";

/// A backup with a key takes what its nodes sealed, once, and counts what it refuses; a reload with
/// other keys reaches it while it runs.
#[test]
fn a_backup_with_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(1);
    let port = free_port();
    let mut plan = Plan {
        role: Role::Backup,
        daemon: Some(spec(SyncRole::Backup, port)),
        keys: KeyFiles {
            current: Some(key_file(&dir, "key", KEY)),
            previous: None,
        },
    };
    let follow = |node: &mut Node, plan: &Plan| {
        let Node {
            sync,
            settings,
            workers,
            ..
        } = node;
        sync.follow(plan, settings, workers)
    };
    assert_eq!(follow(&mut node, &plan), [""; 0]);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let message = |n| {
        let mut buffer = vec![0; 1472];
        let mut encoder = Encoder::new(Version::V1, 7);
        encoder
            .push(&mut buffer, &entry(n), &Default::default())
            .unwrap();
        let len = encoder.finish(&mut buffer);
        buffer.truncate(len);
        buffer
    };
    let mut sent = 0;
    let mut send = |node: &Node, bytes: &[u8]| {
        socket.send_to(bytes, ("127.0.0.1", port)).unwrap();
        sent += 1;
        let fates = || {
            let view = node.view(SyncRole::Backup);
            assert!(view.authenticated);
            let refused = [view.unsigned, view.forged, view.stale, view.replayed];
            (
                view.messages,
                [[view.entries].as_slice(), &refused].concat(),
            )
        };
        // A message counts when it comes, and a moment later its fate.
        wait("the message and its fate", || {
            let (messages, fates) = fates();
            messages == sent && fates.iter().sum::<u64>() == sent
        });
        fates().1
    };
    let sealed = |sealer: &mut Sealer, wall, n| {
        let mut bytes = message(n);
        sealer.seal(wall, &mut bytes);
        bytes
    };
    let (mut ours, mut other) = (sealer(KEY), sealer(NEXT));
    assert_eq!(send(&node, &message(1)), [0, 1, 0, 0, 0]);
    let good = sealed(&mut ours, auth::wall(), 2);
    assert_eq!(send(&node, &good), [1, 1, 0, 0, 0]);
    assert_eq!(send(&node, &good), [1, 1, 0, 0, 1]);
    let old = sealed(&mut ours, auth::wall() - 400_000, 3);
    assert_eq!(send(&node, &old), [1, 1, 0, 1, 1]);
    let foreign = sealed(&mut other, auth::wall(), 4);
    assert_eq!(send(&node, &foreign), [1, 1, 1, 1, 1]);
    plan.keys.previous = Some(key_file(&dir, "next", NEXT));
    assert_eq!(follow(&mut node, &plan), [""; 0]);
    assert_eq!(send(&node, &foreign), [2, 1, 1, 1, 1]);
    // The same names, another content; what was heard is still known.
    key_file(&dir, "key", NEXT);
    plan.keys.previous = None;
    assert_eq!(follow(&mut node, &plan), [""; 0]);
    assert_eq!(send(&node, &foreign), [2, 1, 1, 1, 2]);
    let late = sealed(&mut ours, auth::wall(), 5);
    assert_eq!(send(&node, &late), [2, 1, 2, 1, 2]);
}

/// Two nodes with a key understand each other, and no message is longer than `maxlen`.
#[test]
fn sealed_from_outbox_to_command() {
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyFiles {
        current: Some(key_file(&dir, "key", KEY)),
        previous: None,
    };
    let port = free_port();
    let socket = std::net::UdpSocket::bind(("127.0.0.1", port)).unwrap();
    let mut active = Node::new(1);
    let plan = Plan {
        role: Role::Master,
        daemon: Some(DaemonSpec {
            maxlen: Some(400),
            ..spec(SyncRole::Master, port)
        }),
        keys,
    };
    let Node {
        sync,
        settings,
        workers,
        ..
    } = &mut active;
    assert_eq!(sync.follow(&plan, settings, workers), [""; 0]);
    let envelope = active.fakes[0].end.commands.pop().unwrap();
    let Command::StartMaster(outbox) = envelope.command else {
        panic!("no outbox");
    };
    for n in 0..50 {
        outbox.put(entry(n), None);
    }
    let mut opener = Opener::new(Arc::clone(&active.sync.keys), Purpose::Entries);
    let mut buffer = vec![0; 65536];
    let (mut taken, mut last) = (0, 0);
    while taken < 50 {
        let len = socket.recv(&mut buffer).unwrap();
        assert!(len <= 400, "{len}");
        assert!(Message::decode(&buffer[..len]).is_err(), "in clear");
        let opened = opener.open(auth::wall(), &buffer[..len]).unwrap();
        last = opened.len();
        taken += Message::decode(opened).unwrap().entries().count();
    }
    assert!(last > 0);
    // What was sent is counted a moment later.
    wait("the count", || active.view(SyncRole::Master).entries == 50);
    let view = active.view(SyncRole::Master);
    assert_eq!((view.lost, view.authenticated), (0, true));
}

/// Without its keys no daemon runs that was to have them, whoever asks for it; with the file in
/// place the next reload starts it.
#[test]
fn never_in_clear_in_place_of_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(1);
    let daemon = spec(SyncRole::Backup, free_port());
    let plan = Plan {
        role: Role::Backup,
        daemon: Some(daemon.clone()),
        keys: KeyFiles {
            current: Some(dir.path().join("key")),
            previous: None,
        },
    };
    let follow = |node: &mut Node| {
        let Node {
            sync,
            settings,
            workers,
            ..
        } = node;
        sync.follow(&plan, settings, workers)
    };
    let told = follow(&mut node);
    assert!(told[0].contains("No such file"), "{told:?}");
    assert!(
        told[1].contains("no backup daemon without its keys"),
        "{told:?}"
    );
    assert!(node.start(&daemon).is_err());
    assert_eq!(node.sync.warnings().len(), 1);
    key_file(&dir, "key", KEY);
    assert_eq!(follow(&mut node), [""; 0]);
    assert!(node.view(SyncRole::Backup).authenticated);
    assert_eq!(node.sync.warnings().len(), 0);
    // A file that is bad later leaves what was read in use.
    key_file(&dir, "key", "short");
    assert!(follow(&mut node)[0].contains("too short"));
    assert!(node.view(SyncRole::Backup).authenticated);
}
