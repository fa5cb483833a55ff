//! Links on the loopback interface, each with its own address, and the control loops around them.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};
use dataplane::sync::{Age, Batch};
use mio::{Poll, Token, Waker};

use super::copies::Copies;
use super::counted::{Ledger, Receipts, SentBy};
use super::link::{Link, Parts, Place, Sockets, View};
use super::machine::News;
use super::port_beside;
use crate::clock;
use crate::fake::FakeWorker;
use crate::sync::auth::{Key, Keys, Ring, Why};
use crate::sync::socket::Device;
use crate::workers::Workers;

/// A node: a link and the loop around it.
struct Node {
    addr: IpAddr,
    link: Link,
    copies: Copies,
    workers: Workers,
    fakes: Vec<FakeWorker>,
    copied: Receiver<Arc<Batch>>,
    news: Vec<News>,
    waker: Arc<Waker>,
    _poll: Poll,
}

fn sockets(own: &str, receiver: UdpSocket, peer: &UdpSocket) -> Sockets {
    let sender = UdpSocket::bind((own, 0)).unwrap();
    sender.set_nonblocking(true).unwrap();
    sender.connect(peer.local_addr().unwrap()).unwrap();
    Sockets {
        sender,
        receiver,
        listener: TcpListener::bind((own, 0)).unwrap(),
    }
}

fn node(own: &str, sockets: Sockets, key: &[u8], connections: u32) -> Node {
    let poll = Poll::new().unwrap();
    let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
    let (ends, mut fakes): (Vec<_>, Vec<_>) = (0..2).map(|_| FakeWorker::new(4)).unzip();
    fakes[1].connections = connections;
    fakes[1].end.counters.connections.set(connections.into());
    let workers = Workers::new(ends);
    let copies = Copies::default();
    let (batches, copied) = bounded(16);
    let place = Place {
        interface: "lo".to_owned(),
        group: own.parse().unwrap(),
        port: 8848,
        syncid: 7,
        ttl: 1,
    };
    let link = Link::start(Parts {
        place,
        sockets,
        device: Device::find("lo").unwrap(),
        batches,
        desk: copies.desk(),
        control: Arc::clone(&waker),
        counters: workers.counters().to_vec(),
        keys: Arc::new(Keys::new(Ring {
            current: (!key.is_empty()).then(|| Key::new(key)),
            previous: None,
        })),
    });
    Node {
        addr: own.parse().unwrap(),
        link: link.unwrap(),
        copies,
        workers,
        fakes,
        copied,
        news: Vec::new(),
        waker,
        _poll: poll,
    }
}

/// Two that hear each other. The first has so many connections.
fn two(connections: u32) -> (Node, Node) {
    keyed([b"", b""], connections)
}

fn keyed(keys: [&[u8]; 2], connections: u32) -> (Node, Node) {
    let (a, b) = ("127.0.0.1", "127.0.0.2");
    let (to_a, to_b) = (
        UdpSocket::bind((a, 0)).unwrap(),
        UdpSocket::bind((b, 0)).unwrap(),
    );
    let of_a = sockets(a, to_a.try_clone().unwrap(), &to_b);
    let of_b = sockets(b, to_b, &to_a);
    (
        node(a, of_a, keys[0], connections),
        node(b, of_b, keys[1], 0),
    )
}

impl Node {
    fn turn(&mut self) {
        self.fakes.iter_mut().for_each(FakeWorker::run);
        let collected = self.workers.poll().collected;
        for (ticket, collection) in collected {
            self.copies.collected(ticket, collection);
        }
        self.copies.advance(clock::now(), &mut self.workers);
        while let Ok(batch) = self.copied.try_recv() {
            self.workers.put_connections(batch, 1).unwrap();
        }
        self.news.extend(self.link.news());
    }

    fn start_master(&mut self, sockets: usize) -> Arc<SentBy> {
        let sent = Arc::new(SentBy::new(sockets));
        let given = Arc::clone(&sent);
        self.link
            .change(|running| running.master = Some((1, given)));
        sent
    }

    fn start_backup(&mut self, sockets: usize) -> (Arc<Receipts>, Ledger) {
        let receipts = Arc::new(Receipts::new(Arc::clone(self.link.waker())));
        let (given, waker) = (Arc::clone(&receipts), Arc::clone(&self.waker));
        self.link
            .change(|running| running.backup = Some((given, waker)));
        let ledger = Ledger::new(Some(Arc::clone(&receipts)), sockets);
        (receipts, ledger)
    }

    fn view(&self) -> View {
        self.link.view()
    }

    fn taken(&self) -> usize {
        self.fakes[0].taken.len()
    }
}

/// Turns both loops until something holds; the threads have clocks of their own.
fn wait(
    what: &str,
    a: &mut Node,
    b: &mut Node,
    mut holds: impl FnMut(&mut Node, &mut Node) -> bool,
) {
    let start = Instant::now();
    loop {
        a.turn();
        b.turn();
        if holds(a, b) {
            return;
        }
        let waits = start.elapsed() < Duration::from_secs(20);
        assert!(waits, "{what} never came: {:?} {:?}", a.news, b.news);
        std::thread::sleep(Duration::from_micros(200));
    }
}

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

#[test]
fn who_joins_gets_the_whole_table() {
    whole_table([b"", b""]);
}

#[test]
fn who_joins_with_the_key_gets_the_whole_table() {
    whole_table([KEY, KEY]);
}

#[test]
fn nodes_with_other_keys_do_not_know_each_other() {
    let (mut a, mut b) = keyed([KEY, b"fedcba9876543210fedcba9876543210"], 100);
    a.start_master(1);
    let (_receipts, _ledger) = b.start_backup(1);
    wait("a backup alone", &mut a, &mut b, |_, b| b.link.is_ready());
    assert!(a.view().peers.is_empty() && b.view().peers.is_empty());
    assert_eq!(b.taken(), 0);
    // Each says so.
    for node in [&a, &b] {
        let refused = node.view().refused;
        assert!(refused.counts.forged > 0, "{refused:?}");
        let lines = node.link.warnings();
        assert!(lines[0].contains("sealed with another key"), "{lines:?}");
    }
    let told = |news: &[News], of| news.contains(&News::Refused(of, Why::Key));
    assert!(
        told(&b.news, a.addr) && told(&a.news, b.addr),
        "{:?}",
        b.news
    );
}

fn whole_table(keys: [&[u8]; 2]) {
    let (mut a, mut b) = keyed(keys, 100_000);
    a.start_master(1);
    let (_receipts, mut ledger) = b.start_backup(1);
    assert!(!b.link.is_ready());
    wait("the table", &mut a, &mut b, |_, b| {
        ledger.begin();
        ledger.end();
        // On a busy machine it may have thought itself alone before the first hello had its turn.
        b.link.is_ready() && b.fakes.iter().all(|fake| fake.taken.len() == 100_000)
    });
    let mut idle: Vec<u32> = Vec::new();
    for (entry, age) in &b.fakes[0].taken {
        let Age::Copied(ticks) = age else {
            panic!("{entry:?} was not copied");
        };
        let number = entry.client.addr.bits_v4() - 0x0b00_0000;
        // Milliseconds travel.
        assert!(number - ticks <= 1, "{number} {ticks}");
        idle.push(number);
    }
    idle.sort_unstable();
    assert_eq!(idle, (0..100_000).collect::<Vec<u32>>());
    let peer = b.view().peers[0].clone();
    assert_eq!(peer.hello.connections, 100_000);
    assert_eq!((peer.at.ip(), peer.tally.transfers), (a.addr, 1));
    assert!(a.view().peers[0].hello.is_backup);
    // One that ends says so.
    let addr = a.addr;
    drop(a);
    let start = Instant::now();
    while !b.news.contains(&News::Left(addr)) {
        b.turn();
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", b.news);
    }
}

/// Messages that were sent and did not come: what had a packet lately is copied again.
#[test]
fn a_gap_is_found_and_mended() {
    let (mut a, mut b) = two(5000);
    let sent = a.start_master(2);
    let (_receipts, mut ledger) = b.start_backup(2);
    let mut read = |from: IpAddr, messages: [u64; 2]| {
        ledger.begin();
        for (socket, n) in messages.into_iter().enumerate() {
            (0..n).for_each(|_| ledger.add(from, socket));
        }
        ledger.end();
    };
    let addr = a.addr;
    sent.add(0, 3);
    wait("the table", &mut a, &mut b, |_, b| {
        read(addr, [0, 0]);
        b.link.is_ready() && b.taken() == 5000
    });
    (0..5).for_each(|_| sent.add(0, 3));
    sent.add(1, 3);
    read(addr, [4, 0]);
    wait("the repair", &mut a, &mut b, |_, b| {
        read(addr, [0, 0]);
        b.view().peers[0].tally.repairs > 0
    });
    let tally = b.view().peers[0].tally;
    assert_eq!((tally.missed, tally.repairs), (2, 1), "{:?}", b.news);
    // A part of the table: each connection is idle for its number of ticks, 128 a second.
    let again = b.taken() - 5000;
    assert!((3 * 128..60 * 128).contains(&again), "{again} copied again");
    assert!(b.link.is_ready());
}

#[test]
fn a_master_that_is_no_more_gives_nothing() {
    let (mut a, mut b) = two(100);
    a.start_master(1);
    wait("a", &mut a, &mut b, |_, b| !b.view().peers.is_empty());
    let (_receipts, _ledger) = b.start_backup(1);
    a.link.change(|running| running.master = None);
    wait("a backup without masters", &mut a, &mut b, |_, b| {
        b.link.is_ready()
    });
    assert_eq!(b.taken(), 0);
}

#[test]
fn ports_beside() {
    assert_eq!(port_beside(8848), 9848);
    assert_eq!(port_beside(64535), 65535);
    assert_eq!(port_beside(64536), 63536);
}
