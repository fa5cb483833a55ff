//! What the machines want done, and what becomes of the lease by it. The interface does not exist, so
//! that nothing leaves.

use std::net::IpAddr;
use std::sync::Arc;

use crossbeam::channel::{Receiver, unbounded};
use dataplane::counters::WorkerCounters;
use dataplane::lease::{Board, Slot};
use mio::{Poll, Token, Waker};
use vrrp::config::VirtualAddress;

use super::super::Parts;
use super::*;
use crate::config::vrrp::Vrrp;
use crate::script::Scripts;
use crate::vrrp::memory::{Memory, Place};
use crate::vrrp::plan::tests::parsed;
use crate::vrrp::scripts::Timetable;
use crate::vrrp::vitals::{Sources, Vitals};
use crate::vrrp::{LeaseBook, Notice};

const TWO: &str = r#"
[[vrrp.instance]]
name = "a"
interface = "nosuch0"
vrid = 1
vip = [{ addr = "192.0.2.1" }, { addr = "192.0.2.2" }]
"#;

fn at(ms: u64) -> Instant {
    Instant::from_micros(10_000_000 + ms * 1000)
}

fn address(last: u8) -> VirtualAddress {
    VirtualAddress::host([192, 0, 2, last].into())
}

/// An advert of this priority.
fn advert(priority: u8) -> Datagram {
    Datagram {
        src: IpAddr::from([192, 0, 2, 9]),
        dst: IpAddr::from([224, 0, 0, 18]),
        ttl: 255,
        virtual_mac: None,
        message: vec![0x31, 1, priority, 2, 0, 10, 0, 0],
    }
}

struct Rig {
    driver: Driver,
    notices: Receiver<Notice>,
    board: Arc<Board>,
    place: Slot,
    key: Key,
    worker: Arc<WorkerCounters>,
    _control: Poll,
}

impl Rig {
    fn new() -> Rig {
        let config = parsed(TWO);
        let mut book = LeaseBook::default();
        book.enter(&config);
        let poll = Poll::new().unwrap();
        let control = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let worker = Arc::new(WorkerCounters::new(1));
        let sources = Sources {
            workers: vec![Arc::clone(&worker)],
            ..Sources::default()
        };
        let (told, notices) = unbounded();
        let (ended, ends) = unbounded();
        let (mut driver, _) = Driver::new(Parts {
            orders: unbounded().1,
            notices: told,
            control,
            watch: unbounded().0,
            seen: unbounded().1,
            vitals: Vitals::new(at(0), sources),
            scripts: Timetable::new(Scripts::default(), ended),
            ended: ends,
            board: book.board(),
            memory: Memory::open(Place::default()),
            view: Arc::default(),
        })
        .unwrap();
        driver.apply(at(0), Arc::new(config), book.places());
        let key = *driver.slots.keys().next().unwrap();
        notices.try_iter().for_each(drop);
        Rig {
            driver,
            notices,
            board: book.board(),
            place: book.places()["a"],
            key,
            worker,
            _control: poll,
        }
    }

    fn act(&mut self, ms: u64, output: Output) {
        self.driver
            .act(at(ms), self.key, output, &mut BTreeMap::new());
    }

    /// A lease up to 2 s that workers serve under from 100 ms on.
    fn open(&mut self) {
        self.act(0, Output::Lease { until: at(2000) });
        self.driver.open(at(100), self.key);
    }

    fn is_closed(&self, ms: u64) -> bool {
        let now = dataplane::time::Instant(at(ms).0);
        self.board.has_ended(self.place, now)
    }

    fn lease(&self) -> Lease {
        self.driver.slots[&self.key].lease
    }
}

#[test]
fn nothing_is_served_before_workers_know_or_after_the_lease() {
    let mut rig = Rig::new();
    assert!(!rig.is_closed(0), "without a lease nothing is known");
    rig.act(0, Output::Lease { until: at(2000) });
    assert!(rig.is_closed(0), "workers do not know the addresses");
    rig.driver.tend_leases(at(999));
    assert!(rig.is_closed(999), "control gets time to tell them");
    rig.driver.tend_leases(at(1000));
    assert!(!rig.is_closed(1000) && !rig.is_closed(2000) && rig.is_closed(2001));
    rig.act(1500, Output::Lease { until: at(2500) });
    assert!(!rig.is_closed(2500) && rig.is_closed(2501));
}

#[test]
fn the_last_advert_ends_a_lease() {
    let mut rig = Rig::new();
    rig.open();
    rig.act(200, Output::Send(advert(100)));
    assert!(!rig.is_closed(200));
    rig.act(300, Output::Send(advert(0)));
    assert!(rig.is_closed(301), "who hears it may serve at once");
    // By then no packet for the addresses is on the way here.
    rig.driver.tend_leases(at(2299));
    assert!(rig.is_closed(2299));
    rig.driver.tend_leases(at(2300));
    assert!(!rig.is_closed(2300), "they are somebody else's");
    assert_eq!(rig.lease(), Lease::Free);
}

#[test]
fn the_last_address_ends_a_lease() {
    let mut rig = Rig::new();
    rig.open();
    rig.act(200, Output::RemoveAddresses(vec![address(1)]));
    assert!(!rig.is_closed(200), "the other is served");
    let all = vec![address(1), address(2)];
    rig.act(300, Output::RemoveAddresses(all));
    assert!(rig.is_closed(301));
}

#[test]
fn an_instance_that_goes_leaves_no_lease() {
    let mut rig = Rig::new();
    rig.open();
    rig.act(300, Output::Send(advert(0)));
    rig.driver
        .apply(at(400), Arc::<Vrrp>::default(), BTreeMap::new());
    assert!(!rig.is_closed(400), "nobody would free it later");
}

#[test]
fn control_is_asked_for_addresses_and_announcements_wait_for_it() {
    let mut rig = Rig::new();
    rig.act(0, Output::Lease { until: at(1000) });
    let add = || Output::AddAddresses {
        addresses: vec![address(1), address(2)],
        accept: true,
        virtual_mac: None,
    };
    let announce = |rounds| Output::Announce {
        what: Announced::VirtualAddresses,
        rounds,
    };
    rig.act(1, add());
    let asked = rig.notices.try_iter().collect::<Vec<_>>();
    let holds = Notice::Holds {
        instance: "a".into(),
        // The interface is not there: none could be put on it.
        addresses: Vec::new(),
    };
    assert_eq!(asked, [holds]);
    rig.act(2, announce(5));
    rig.act(3, announce(1));
    let waits = Lease::Opening {
        until: at(1000),
        open_at: at(1000),
        rounds: 5,
    };
    assert_eq!(rig.lease(), waits);
    let there = vec![address(1).addr];
    rig.driver.introduce(rig.key, there.clone());
    let asked = rig.notices.try_iter().collect::<Vec<_>>();
    let holds = Notice::Holds {
        instance: "a".into(),
        addresses: there,
    };
    assert_eq!(asked, [holds]);
    rig.driver.open(at(50), rig.key);
    assert_eq!(rig.lease(), Lease::Open);
    rig.act(60, add());
    assert_eq!(rig.notices.try_iter().count(), 0, "workers know them");
}

#[test]
fn no_advert_leaves_through_a_data_plane_that_stands_still() {
    let mut rig = Rig::new();
    let why = |rig: &mut Rig, ms| {
        let sent = rig.driver.send(at(ms), rig.key, &advert(100));
        sent.unwrap_err().to_string()
    };
    // A worker counts as moving until the next advert at least.
    let there_is_no_interface = why(&mut rig, 0);
    assert_eq!(why(&mut rig, 100), there_is_no_interface);
    assert_eq!(why(&mut rig, 300), "the data plane stands still");
    rig.worker.heartbeat.add(1);
    assert_eq!(why(&mut rig, 400), there_is_no_interface);
    assert_eq!(why(&mut rig, 500), there_is_no_interface);
    assert_eq!(why(&mut rig, 600), "the data plane stands still");
}

#[test]
fn what_is_given_up_is_not_announced_any_more() {
    let mut rig = Rig::new();
    rig.open();
    let waits = |rig: &Rig| rig.driver.announcement_timeout(at(200)) < Duration::from_millis(500);
    let queue = rig.driver.queues.entry(1).or_default();
    queue.put(rig.key, std::iter::repeat_n(vec![0; 60], 3));
    assert!(waits(&rig));
    rig.act(200, Output::RemoveAddresses(vec![address(1), address(2)]));
    assert!(!waits(&rig));
}
