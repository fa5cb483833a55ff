//! One node that hears others, with a clock of its own.

use std::net::Ipv4Addr;

use super::*;

const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

struct Node {
    machine: Machine,
    now: Instant,
    sequence: u64,
}

impl Node {
    fn new(master: bool, backup: bool) -> Node {
        let now = Instant::from_secs(1000);
        let mut machine = Machine::new(now, Me { syncid: 7, boot: 1 });
        let roles = Roles { master, backup };
        assert_eq!(machine.handle(now, Input::Roles(roles)), [Output::Hello]);
        Node {
            machine,
            now,
            sequence: 0,
        }
    }

    fn backup() -> Node {
        Node::new(false, true)
    }

    fn handle(&mut self, input: Input) -> Vec<Output> {
        self.machine.handle(self.now, input)
    }

    /// A hello of a master that has sent so many messages.
    fn master(&mut self, from: IpAddr, messages: u64) -> Vec<Output> {
        self.hear(from, |hello| hello.sent[0].messages = messages)
    }

    fn hear(&mut self, from: IpAddr, change: impl Fn(&mut Hello)) -> Vec<Output> {
        self.sequence += 1;
        let mut hello = Hello {
            is_master: true,
            syncid: 7,
            boot: 100 + u64::from(from == TWO),
            run: 1,
            tcp_port: 9999,
            interval_ms: 1000,
            sequence: self.sequence,
            sent: vec![Sent::default()],
            ..Hello::default()
        };
        change(&mut hello);
        self.handle(Input::Hello((from, 5).into(), Box::new(hello)))
    }

    /// The same, and what was received by then.
    fn counted(&mut self, from: IpAddr, sent: u64, received: u64) -> Vec<Output> {
        let mut out = self.master(from, sent);
        assert!(out.contains(&Output::Count(from)), "{out:?}");
        out.extend(self.handle(Input::Received(from, vec![received])));
        out.retain(|o| !matches!(o, Output::Count(_) | Output::Hello));
        out
    }

    fn fetched(&mut self) -> Vec<Output> {
        self.handle(Input::Fetched(Ok(10)))
    }

    /// Lets time pass, as long as nothing but hellos is due.
    fn sleep(&mut self, ms: u64) -> Vec<Output> {
        let end = self.now + Duration::from_millis(ms);
        let mut out = Vec::new();
        while self.now < end {
            self.now = self.machine.next_timeout().max(self.now).min(end);
            out.extend(self.handle(Input::Timer));
        }
        out
    }

    fn tally(&self, of: IpAddr) -> Tally {
        self.machine.peers[&of].tally
    }

    fn is_ready(&self) -> bool {
        self.machine.is_ready(self.now)
    }
}

fn fetch(from: IpAddr, want: Want) -> Output {
    Output::Fetch {
        at: (from, 9999).into(),
        syncid: 7,
        want,
    }
}

fn news(out: Vec<Output>) -> Vec<News> {
    let told = out.into_iter().filter_map(|o| match o {
        Output::Tell(news) => Some(news),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_hello_a_second() {
    let mut node = Node::new(true, false);
    let hellos = node.sleep(10_000);
    assert_eq!(hellos, vec![Output::Hello; 10]);
    // A new peer hears of us at once.
    let out = node.hear(ONE, |hello| hello.is_master = false);
    assert_eq!(out, [Output::Tell(News::Found(ONE)), Output::Hello]);
    let out = node.hear(ONE, |hello| hello.is_master = false);
    assert_eq!(out, []);
    assert!(node.is_ready(), "a master alone waits for nothing");
}

#[test]
fn who_joins_gets_the_whole_table_first() {
    let mut node = Node::backup();
    assert!(!node.is_ready());
    let out = node.counted(ONE, 50, 0);
    assert!(out.contains(&fetch(ONE, Want::Everything)), "{out:?}");
    // One after the other.
    assert_eq!(node.counted(TWO, 7, 0), [Output::Tell(News::Found(TWO))]);
    node.sleep(3000);
    assert!(!node.is_ready());
    let out = node.fetched();
    assert!(out.contains(&fetch(TWO, Want::Everything)), "{out:?}");
    assert!(!node.is_ready());
    node.fetched();
    assert!(node.is_ready());
    let last = node.tally(ONE).last.unwrap();
    assert_eq!((last.entries, last.took), (10, Duration::from_secs(3)));
    // Another run of its master, or of the whole node: again.
    assert_eq!(node.counted(ONE, 50, 0), []);
    let out = node.hear(ONE, |hello| hello.run = 2);
    assert_eq!(out, [Output::Count(ONE), fetch(ONE, Want::Everything)]);
    assert!(!node.is_ready());
    // What was under way when it changed once more does not count.
    node.hear(ONE, |hello| hello.boot = 9);
    let out = node.fetched();
    assert!(out.contains(&fetch(ONE, Want::Everything)), "{out:?}");
}

#[test]
fn a_backup_alone_is_ready_soon() {
    let mut node = Node::backup();
    node.sleep(2000);
    assert!(!node.is_ready());
    node.sleep(1000);
    assert!(node.is_ready());
    // Neither backups nor masters of other groups have anything to give.
    let mut node = Node::backup();
    node.hear(ONE, |hello| hello.is_master = false);
    node.hear(TWO, |hello| hello.syncid = 8);
    assert_eq!(node.machine.peers().count(), 1);
    node.sleep(3000);
    assert!(node.is_ready());
}

#[test]
fn a_master_that_was_heard_before_is_waited_for() {
    let mut node = Node::new(true, false);
    node.master(ONE, 5);
    let roles = Roles {
        master: false,
        backup: true,
    };
    assert_eq!(node.handle(Input::Roles(roles)), [Output::Hello]);
    // Its hellos are late; nothing is asked for before the next, as its count would be unknown.
    let out = node.sleep(2800);
    assert!(out.iter().all(|o| *o == Output::Hello), "{out:?}");
    assert!(!node.is_ready());
    let out = node.counted(ONE, 6, 0);
    assert!(out.contains(&fetch(ONE, Want::Everything)), "{out:?}");
    node.fetched();
    assert!(node.is_ready());
}

#[test]
fn own_hellos_and_old_ones_are_passed_over() {
    let mut node = Node::backup();
    assert_eq!(node.hear(ONE, |hello| hello.boot = 1), []);
    node.master(ONE, 5);
    assert_eq!(node.hear(ONE, |hello| hello.sequence = 1), []);
    assert_eq!(node.machine.peers[&ONE].hello.sent[0].messages, 5);
}

#[test]
fn what_is_missing_is_asked_for_again() {
    let mut node = Node::backup();
    node.counted(ONE, 50, 3);
    node.fetched();
    // More came than the hello knew of.
    for (sent, received) in [(60, 13), (70, 24), (80, 34)] {
        node.now = node.now + INTERVAL;
        assert_eq!(node.counted(ONE, sent, received), [], "{sent} {received}");
    }
    // The last time that all had come was two seconds ago.
    node.now = node.now + INTERVAL * 2;
    let out = node.counted(ONE, 100, 51);
    let repair = fetch(ONE, Want::Recent(5000));
    assert_eq!(out, [Output::Tell(News::Gap(ONE, 2)), repair]);
    assert!(!node.machine.peers[&ONE].has_gap());
    // More are lost while it is under way, and it fails.
    node.now = node.now + INTERVAL;
    assert_eq!(
        node.counted(ONE, 110, 60),
        [Output::Tell(News::Gap(ONE, 1))]
    );
    let out = node.handle(Input::Fetched(Err("gone".to_owned())));
    assert_eq!(
        news(out),
        [News::Failed(ONE, Want::Recent(5000), "gone".to_owned())]
    );
    node.now = node.now + INTERVAL;
    let out = node.counted(ONE, 110, 60);
    assert_eq!(out, [fetch(ONE, Want::Recent(7000))]);
    node.fetched();
    let tally = node.tally(ONE);
    assert_eq!((tally.gaps, tally.missed, tally.repairs), (2, 3, 1));
    // What is missing stays missing and is no gap again.
    assert_eq!(node.counted(ONE, 120, 70), []);
}

#[test]
fn what_the_workers_had_no_room_for_is_asked_for_again() {
    let mut node = Node::backup();
    node.counted(ONE, 0, 0);
    node.fetched();
    let out = node.handle(Input::Dropped(40));
    assert_eq!(
        out,
        [
            Output::Tell(News::Dropped(40)),
            fetch(ONE, Want::Recent(3000))
        ]
    );
}

#[test]
fn pauses_grow() {
    let mut node = Node::backup();
    node.counted(ONE, 0, 0);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        node.handle(Input::Fetched(Err("refused".to_owned())));
        let since = node.now;
        loop {
            node.now = node.now + Duration::from_millis(500);
            if node.master(ONE, 0).contains(&fetch(ONE, Want::Everything)) {
                break;
            }
        }
        pauses.push(node.now.since(since).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
}

#[test]
fn timers_are_kept_from_running_out() {
    let mut node = Node::backup();
    node.counted(ONE, 0, 0);
    node.fetched();
    let mut asked = Vec::new();
    for second in 1..70 {
        node.now = node.now + INTERVAL;
        for o in node.counted(ONE, 0, 0) {
            let Output::Fetch { want, .. } = o else {
                panic!("{o:?}");
            };
            asked.push((second, want));
            node.fetched();
        }
    }
    let moved = Want::Moved(23_000);
    assert_eq!(asked, [(20, moved), (40, moved), (60, moved)]);
    assert_eq!(node.tally(ONE).refreshes, 3);
}

#[test]
fn silence_is_told_once_and_what_was_missed_is_mended() {
    let mut node = Node::backup();
    node.counted(ONE, 10, 10);
    node.fetched();
    node.sleep(4900);
    assert_eq!(news(node.sleep(60_000)), [News::Lost(ONE)]);
    assert!(node.machine.peers[&ONE].is_lost);
    assert!(node.is_ready(), "nobody is waited for who is not there");
    // The same run: only what it announced meanwhile.
    let out = node.counted(ONE, 30, 10);
    let told = [News::Back(ONE), News::Gap(ONE, 20)];
    let refresh = fetch(ONE, Want::Moved(67_900));
    assert!(out.contains(&refresh), "{out:?}");
    assert_eq!(news(out), told);
    assert_eq!(
        node.fetched().last(),
        Some(&fetch(ONE, Want::Recent(67_900)))
    );
    // One that says so is no loss.
    node.fetched();
    let out = node.hear(ONE, |hello| hello.leaves = true);
    assert_eq!(out, [Output::Tell(News::Left(ONE))]);
    assert!(!node.sleep(60_000).iter().any(|o| *o != Output::Hello));
}

#[test]
fn no_more_peers_than_fit() {
    let mut node = Node::backup();
    for n in 0..100 {
        node.now = node.now + Duration::from_millis(1);
        node.master(IpAddr::V4(Ipv4Addr::new(10, 1, 0, n)), 0);
    }
    assert_eq!(node.machine.peers().count(), MAX_PEERS);
    assert!(
        node.machine
            .peers
            .contains_key(&IpAddr::from([10, 1, 0, 99]))
    );
}

#[test]
fn a_backup_that_listens_to_fewer_sockets_says_so() {
    let mut node = Node::backup();
    node.hear(ONE, |hello| hello.sent = vec![Sent::default(); 4]);
    let out = node.handle(Input::Received(ONE, vec![0]));
    assert_eq!(news(out), [News::Sockets(ONE, 4, 1)]);
}

#[test]
fn a_carrier_that_goes_and_comes() {
    let mut node = Node::backup();
    assert_eq!(news(node.handle(Input::Link(false))), [News::Link(false)]);
    assert_eq!(node.handle(Input::Link(false)), []);
    assert_eq!(news(node.handle(Input::Link(true))), [News::Link(true)]);
}

#[test]
fn a_standby_is_in_step_once_it_has_the_table() {
    let mut node = Node::new(true, false);
    let backup = |boot: u64| {
        move |hello: &mut Hello| {
            (hello.is_master, hello.is_backup, hello.boot) = (false, true, boot);
        }
    };
    let is_in_step = |node: &Node| node.machine.peers[&ONE].is_in_step();
    node.hear(ONE, backup(50));
    assert!(!is_in_step(&node));
    node.handle(Input::Given(ONE));
    node.handle(Input::Given(TWO));
    assert!(is_in_step(&node) && node.machine.peers.len() == 1);
    node.sleep(6000);
    assert!(!is_in_step(&node), "it is silent");
    node.hear(ONE, backup(50));
    assert!(is_in_step(&node));
    // It was started anew, empty.
    node.hear(ONE, backup(51));
    assert!(!is_in_step(&node));
    node.handle(Input::Given(ONE));
    assert!(is_in_step(&node));
    // It does not take over any more.
    node.hear(ONE, |hello| hello.boot = 51);
    assert!(!is_in_step(&node));
    node.hear(ONE, backup(51));
    node.handle(Input::Roles(Roles::default()));
    assert!(!is_in_step(&node), "what it has is another master's");
}

#[test]
fn hellos_that_are_not_taken_are_told_once_and_counted() {
    let mut node = Node::backup();
    let refuse = |node: &mut Node, why| news(node.handle(Input::Refused(ONE, why)));
    let key = NotTaken::Seal(Why::Key);
    // Doubled and damaged ones happen on any link.
    assert_eq!(refuse(&mut node, NotTaken::Garbled), []);
    assert_eq!(refuse(&mut node, NotTaken::Seal(Why::Replayed)), []);
    assert_eq!(refuse(&mut node, key), [News::Refused(ONE, Why::Key)]);
    assert_eq!(refuse(&mut node, key), []);
    let senders: Vec<_> = node.machine.refused().senders().collect();
    assert_eq!(senders, [(ONE, Why::Key)]);
    // It gets the key.
    assert_eq!(
        news(node.master(ONE, 0)),
        [News::Taken(ONE), News::Found(ONE)]
    );
    // Another one is silent after a while.
    let unsigned = NotTaken::Seal(Why::Unsigned);
    let out = node.handle(Input::Refused(TWO, unsigned));
    assert_eq!(news(out), [News::Refused(TWO, Why::Unsigned)]);
    assert!(news(node.sleep(4900)).is_empty());
    assert!(news(node.sleep(1100)).contains(&News::Taken(TWO)));
    let counts = node.machine.refused().counts;
    assert_eq!((counts.unsigned, counts.forged, counts.stale), (1, 2, 0));
    assert_eq!((counts.replayed, counts.garbled), (1, 1));
    // Whoever makes up addresses fills no memory.
    for n in 0..100 {
        let from = IpAddr::V4(Ipv4Addr::new(10, 1, 0, n));
        node.handle(Input::Refused(from, key));
    }
    assert_eq!(node.machine.refused().senders().count(), MAX_PEERS);
}
