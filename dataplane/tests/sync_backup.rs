//! What a worker makes of connections that a master tells of: as the kernel's backup did with the
//! same messages (`backup-replay.txt`, `backup-accepts.txt`), and what no recording shows.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use dataplane::addr::{Addr, Endpoint};
use dataplane::command::{Command, ConnectionView};
use dataplane::helper::sequence::Adjustment;
use dataplane::packet::{PortId, Verdict};
use dataplane::service::{DestId, Protocol};
use dataplane::sync::wire::{Message, Version};
use dataplane::sync::{Batch, EngineData, Outbox, Refusal, Sequence, SyncEntry, flag};
use dataplane::worker::Share;

#[path = "support/recorded.rs"]
mod recorded;
mod support;
use support::notation;
use support::rig::{PORT_MACS, Rig, addr, mac_of};

const VIP: &str = "192.168.40.200";
const NONE: EngineData<'static> = EngineData {
    data: b"",
    name: b"",
};

/// Gives workers what a message says, as the control side does.
fn receive(rigs: &mut [Rig], payload: &[u8]) {
    let message = Message::decode(payload).unwrap();
    let entries = message.entries().flatten();
    let sound = entries.filter(|(entry, engine)| entry.check(engine).is_ok());
    give(rigs, sound);
}

fn give<'a>(rigs: &mut [Rig], entries: impl Iterator<Item = (SyncEntry, EngineData<'a>)>) {
    let mut batch = Batch::default();
    for (entry, engine) in entries {
        batch.push(entry, &engine);
        if batch.is_full() {
            hand_out(rigs, std::mem::take(&mut batch));
        }
    }
    hand_out(rigs, batch);
}

fn hand_out(rigs: &mut [Rig], batch: Batch) {
    let batch = Arc::new(batch);
    for rig in rigs {
        rig.apply(Command::PutConnections(Arc::clone(&batch)));
    }
}

fn told(rig: &mut Rig, entry: SyncEntry) {
    give(std::slice::from_mut(rig), [(entry, NONE)].into_iter());
}

fn printed(c: &ConnectionView) -> String {
    let protocol = c.protocol.map_or("IP", Protocol::name);
    let (client, virtual_) = (c.client.to_string(), c.virtual_.to_string());
    format!(
        "{protocol:3} {:11} {client:18} {virtual_:18} {}",
        c.state, c.dest
    )
}

/// A row of `ipvsadm -Lnc` without the time left, and that in seconds.
fn row(line: &str) -> (String, u32) {
    let (protocol, rest) = line.split_once(' ').unwrap();
    let rest = rest.trim_start();
    let (time, rest) = rest.split_once(' ').unwrap();
    let (minutes, seconds) = time.split_once(':').unwrap();
    let expires = minutes.parse::<u32>().unwrap() * 60 + seconds.parse::<u32>().unwrap();
    (format!("{protocol:3} {}", rest.trim_start()), expires)
}

/// Whether a line is a row of `ipvsadm -Lnc`, and not of `/proc/net/ip_vs_conn_sync`.
fn is_row(line: &str) -> bool {
    line.split_whitespace().nth(1).is_some_and(|time| {
        time.split_once(':').is_some_and(|(m, s)| {
            s.len() == 2 && [m, s].iter().all(|n| n.bytes().all(|b| b.is_ascii_digit()))
        })
    })
}

fn compare(rig: &mut Rig, lines: &[&str], place: &str) -> usize {
    let mut want: Vec<_> = lines.iter().filter(|l| is_row(l)).map(|l| row(l)).collect();
    let rows = rig.connections();
    let mut got: Vec<_> = rows.iter().map(|c| (printed(c), c.expires)).collect();
    want.sort();
    got.sort();
    let names = |rows: &[(String, u32)]| rows.iter().map(|r| r.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&got).join("\n"), names(&want).join("\n"), "{place}");
    for (got, want) in got.iter().zip(&want) {
        assert!(
            got.1.abs_diff(want.1) <= 2,
            "{place}: {got:?}, recorded {}",
            want.1
        );
    }
    got.len()
}

/// `  -> 192.168.50.5:8080            Masq    1      0          1` of `ipvsadm -Ln`.
fn compare_counts(rig: &Rig, lines: &[&str], place: &str) {
    let servers = lines
        .iter()
        .filter_map(|l| l.trim_start().strip_prefix("-> "));
    let mut want: Vec<(String, u32, u32)> = servers
        .filter_map(|l| {
            let words: Vec<&str> = l.split_whitespace().collect();
            let number = |n: usize| words[n].parse::<u32>().ok();
            (words.len() == 5).then_some(())?;
            Some((words[0].to_owned(), number(3)?, number(4)?))
        })
        .collect();
    let dests = rig.services().iter().flat_map(|s| &s.destinations);
    let mut got: Vec<(String, u32, u32)> = dests
        .map(|d| {
            let c = rig.counters.dest(d.id).unwrap();
            let (active, total) = (c.active.get(), c.total.get());
            (d.endpoint.to_string(), active, total - active)
        })
        .collect();
    want.sort();
    got.sort();
    assert_eq!(got, want, "{place}");
}

#[test]
fn recordings_make_the_table_of_the_kernels_backup() {
    let replay = fs::read_to_string(recorded::dir().join("backup-replay.txt")).unwrap();
    let mut compared = 0;
    for part in replay.split("== ").skip(1) {
        let (name, _) = part.split_once(':').unwrap();
        let pcap = recorded::dir().join(name);
        let lines: Vec<&str> = part.lines().skip(1).collect();
        let mut rig = Rig::new();
        let text = fs::read_to_string(pcap.with_extension("txt")).unwrap();
        rig.rules(&text);
        for payload in recorded::payloads(&pcap) {
            receive(std::slice::from_mut(&mut rig), &payload);
        }
        compared += compare(&mut rig, &lines, name);
        compare_counts(&rig, &lines, name);
        // Told again, nothing changes.
        for payload in recorded::payloads(&pcap) {
            receive(std::slice::from_mut(&mut rig), &payload);
        }
        compare(&mut rig, &lines, name);
        compare_counts(&rig, &lines, name);
        let conns = rig.counters.dests.iter().map(|d| d.conns.get());
        assert_eq!(conns.sum::<u64>(), 0, "they were not scheduled here");
    }
    assert!(compared >= 180, "only {compared} rows were compared");
}

/// Each connection is at the one worker that gets its client's packets.
#[test]
fn several_workers_share_what_is_told() {
    let replay = fs::read_to_string(recorded::dir().join("backup-replay.txt")).unwrap();
    for name in [
        "many.pcap",
        "persist.pcap",
        "fwmark-persist.pcap",
        "sip-pe.pcap",
    ] {
        let pcap = recorded::dir().join(name);
        let (_, part) = replay.split_once(&format!("== {name}")).unwrap();
        let part = part.split("== ").next().unwrap();
        let mut rigs: Vec<Rig> = (0..3).map(|n| Rig::with_share(Share::of(n, 3))).collect();
        let text = fs::read_to_string(pcap.with_extension("txt")).unwrap();
        for rig in &mut rigs {
            if name.starts_with("fwmark") {
                rig.nft("ip daddr 192.168.40.200 tcp dport { 80, 443 } meta mark set 77");
                rig.nft("ip6 daddr fd40::200 tcp dport { 80, 443 } meta mark set 78");
            }
            rig.rules(&text);
        }
        for payload in recorded::payloads(&pcap) {
            receive(&mut rigs, &payload);
        }
        let want = part.lines().filter(|l| is_row(l));
        let mut want: Vec<String> = want.map(|l| row(l).0).collect();
        let mut got: Vec<String> = Vec::new();
        for rig in &mut rigs {
            got.extend(rig.connections().iter().map(printed));
        }
        want.sort();
        got.sort();
        assert_eq!(got, want, "{name}");
        if name == "many.pcap" {
            assert!(rigs.iter_mut().all(|rig| rig.connections().len() > 20));
        }
    }
}

fn server_end(n: u8) -> Endpoint {
    Endpoint::new(Addr::v4([192, 168, 50, n]), 8080)
}

/// As `backup-accepts.txt` was made.
fn entry(n: u8) -> SyncEntry {
    SyncEntry {
        protocol: 6,
        flags: 0,
        state: 1,
        client: Endpoint::new(Addr::v4([10, 1, 1, n]), 1000 + u16::from(n)),
        virtual_: Endpoint::new(addr(VIP), 80),
        dest: server_end(5),
        fwmark: 0,
        timeout: 900,
        sequence: None,
    }
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    for rule in [
        "-A -t 192.168.40.200:80 -s rr",
        "-a -t 192.168.40.200:80 -r 192.168.50.5:8080 -m",
        "-A -t [fd40::200]:80 -s rr",
        "-a -t [fd40::200]:80 -r [fd50::5]:8080 -m",
    ] {
        rig.ipvsadm(rule);
    }
    rig
}

fn template(client: [u8; 4], protocol: u8) -> SyncEntry {
    SyncEntry {
        protocol,
        flags: flag::TEMPLATE,
        state: 0,
        client: Endpoint::new(Addr::v4(client), 0),
        timeout: 300,
        ..entry(0)
    }
}

#[test]
fn what_the_kernels_backup_was_told_by_hand() {
    let text = fs::read_to_string(recorded::dir().join("backup-accepts.txt")).unwrap();
    let moved = |at| Adjustment {
        at,
        after: 2,
        before: 3,
    };
    let long = SyncEntry {
        client: Endpoint::new(addr("2001:db8::3"), 1003),
        virtual_: Endpoint::new(addr("fd40::200"), 80),
        dest: Endpoint::new(addr("fd50::5"), 8080),
        ..entry(3)
    };
    let adjusted = SyncEntry {
        flags: flag::SEQUENCE,
        sequence: Some(Sequence {
            client: moved(1),
            server: moved(4),
        }),
        ..entry(5)
    };
    let udp = SyncEntry {
        protocol: 17,
        state: 0,
        timeout: 300,
        virtual_: Endpoint::new(addr(VIP), 53),
        dest: Endpoint::new(addr("192.168.50.5"), 53),
        ..entry(9)
    };
    let elsewhere = SyncEntry {
        virtual_: Endpoint::new(addr("192.168.40.222"), 80),
        flags: 3,
        ..entry(8)
    };
    let closing = SyncEntry {
        flags: flag::INACTIVE,
        state: 4,
        timeout: 0,
        ..entry(4)
    };
    let cases: [(&str, Vec<SyncEntry>); 10] = [
        ("v1, two IPv4 entries", vec![entry(1), entry(2)]),
        ("v1, IPv4 + IPv6", vec![entry(3), long]),
        ("v1, flag inactive", vec![closing]),
        (
            "v1, template with timeout 300",
            vec![template([10, 1, 1, 0], 0)],
        ),
        (
            "v1, template, protocol TCP",
            vec![template([10, 1, 2, 0], 6)],
        ),
        ("v1, sequence option", vec![adjusted, entry(6)]),
        (
            "v1, unknown server",
            vec![SyncEntry {
                dest: server_end(99),
                ..entry(7)
            }],
        ),
        ("v1, unknown service", vec![elsewhere]),
        ("v1, UDP entry", vec![udp]),
        (
            "v0, one entry",
            vec![SyncEntry {
                timeout: 0,
                ..entry(10)
            }],
        ),
    ];
    for (name, entries) in cases {
        let (_, part) = text.split_once(name).unwrap();
        let lines: Vec<&str> = part.lines().skip(1).map(str::trim_start).collect();
        let end = lines.iter().position(|l| l.contains(" bytes")).unwrap();
        let mut rig = rig();
        let sound = entries.into_iter().filter(|e| e.check(&NONE).is_ok());
        give(std::slice::from_mut(&mut rig), sound.map(|e| (e, NONE)));
        assert!(compare(&mut rig, &lines[..end], name) > 0);
    }
}

#[test]
fn what_a_backup_refuses() {
    let refused = |entry: SyncEntry| entry.check(&NONE).unwrap_err();
    let with = |change: fn(&mut SyncEntry)| {
        let mut entry = entry(1);
        change(&mut entry);
        entry
    };
    assert_eq!(refused(with(|e| e.state = 99)), Refusal::State(99));
    assert_eq!(refused(with(|e| e.state = 11)), Refusal::State(11));
    assert_eq!(refused(with(|e| e.protocol = 99)), Refusal::Protocol(99));
    assert_eq!(refused(with(|e| e.protocol = 0)), Refusal::Protocol(0));
    let once = flag::ONE_PACKET;
    assert_eq!(
        refused(with(|e| e.flags = flag::ONE_PACKET)),
        Refusal::Flags(once)
    );
    let both = flag::TEMPLATE | flag::NO_CPORT;
    assert_eq!(
        refused(with(|e| e.flags = flag::TEMPLATE | flag::NO_CPORT)),
        Refusal::Flags(both)
    );
    let late = |e: &mut SyncEntry| (e.flags, e.state) = (flag::TEMPLATE, 2);
    assert_eq!(refused(with(late)), Refusal::State(2));
    assert_eq!(with(|e| e.state = 10).check(&NONE), Ok(()));
    let other = EngineData {
        data: b"x",
        name: b"other",
    };
    assert_eq!(template([1; 4], 6).check(&other), Err(Refusal::Engine));
    let sip = EngineData {
        data: b"x",
        name: b"sip",
    };
    assert_eq!(template([1; 4], 17).check(&sip), Ok(()));
    assert_eq!(entry(1).check(&sip), Err(Refusal::Engine), "no template");
}

#[test]
fn an_update_counts_active_and_inactive() {
    let mut rig = rig();
    for n in 1..=20 {
        told(&mut rig, entry(n));
    }
    let closing = |n| SyncEntry {
        flags: flag::INACTIVE,
        state: 5,
        timeout: 120,
        ..entry(n)
    };
    (1..=5).for_each(|n| told(&mut rig, closing(n)));
    let c = rig.counters.dest(DestId(0)).unwrap();
    assert_eq!((c.active.get(), c.total.get()), (15, 20));
    // They end by the time they were told, and are counted out.
    rig.sleep(Duration::from_secs(122));
    assert_eq!(rig.connections().len(), 15);
    rig.sleep(Duration::from_secs(800));
    assert_eq!(rig.connections().len(), 0);
    let c = rig.counters.dest(DestId(0)).unwrap();
    assert_eq!((c.active.get(), c.total.get()), (0, 0));
}

fn client_packet(rig: &mut Rig, client: &str, port: u16, flags: &str) -> (Verdict, Vec<u8>) {
    let neighbour = mac_of(&addr("192.168.40.254"));
    let line = format!(
        "eth {neighbour} > {} | ip {client} > {VIP} | tcp {port} > 80 {flags} | bytes 8",
        PORT_MACS[0]
    );
    rig.inject(0, &notation::build(&line))
}

fn reply(rig: &mut Rig, server: &str, client: &str, port: u16) -> Verdict {
    let line = format!(
        "eth {} > {} | ip {server} > {client} | tcp 8080 > {port} ack",
        mac_of(&addr(server)),
        PORT_MACS[1]
    );
    rig.inject(1, &notation::build(&line)).0
}

#[test]
fn a_take_over_goes_on_in_the_middle_of_a_stream() {
    let mut rig = rig();
    assert_eq!(
        client_packet(&mut rig, "10.1.1.9", 1009, "psh ack").0,
        Verdict::Kernel(dataplane::packet::PuntClass::Host)
    );
    told(&mut rig, entry(9));
    let (verdict, frame) = client_packet(&mut rig, "10.1.1.9", 1009, "psh ack");
    assert_eq!(verdict, Verdict::Transmit(PortId(1)));
    assert_eq!(frame[30..34], [192, 168, 50, 5]);
    assert_eq!(
        reply(&mut rig, "192.168.50.5", "10.1.1.9", 1009),
        Verdict::Transmit(PortId(0))
    );
    // As its master it tells of it next at packet 53: the count begins at the threshold.
    let outbox = Arc::new(Outbox::new());
    rig.apply(Command::StartMaster(Arc::clone(&outbox)));
    let mut announced = Vec::new();
    for n in 5..=60 {
        client_packet(&mut rig, "10.1.1.9", 1009, "ack");
        outbox.take(|entry, _| announced.push((n, entry.flags)));
    }
    assert_eq!(announced, [(53, flag::SYNC)]);
}

#[test]
fn another_server_replaces_a_connection_unless_it_is_an_end() {
    let mut rig = rig();
    rig.ipvsadm("-a -t 192.168.40.200:80 -r 192.168.50.6:8080 -m");
    told(&mut rig, entry(1));
    let end_elsewhere = SyncEntry {
        dest: server_end(6),
        flags: flag::INACTIVE,
        state: 5,
        ..entry(1)
    };
    told(&mut rig, end_elsewhere);
    assert_eq!(rig.connections()[0].dest, server_end(5));
    told(
        &mut rig,
        SyncEntry {
            dest: server_end(6),
            ..entry(1)
        },
    );
    let rows = rig.connections();
    assert_eq!((rows.len(), rows[0].dest), (1, server_end(6)));
    let totals: Vec<u32> = rig.counters.dests.iter().map(|d| d.total.get()).collect();
    assert_eq!(totals.iter().sum::<u32>(), 1);
}

/// Method and NOOUTPUT are the local server's, not what was told.
#[test]
fn the_method_is_that_of_the_server_here() {
    let mut rig = Rig::new();
    rig.ipvsadm("-A -t 192.168.40.200:80 -s rr");
    rig.ipvsadm("-a -t 192.168.40.200:80 -r 192.168.50.5:80 -g");
    let dest = Endpoint::new(addr("192.168.50.5"), 80);
    told(&mut rig, SyncEntry { dest, ..entry(1) });
    let (verdict, frame) = client_packet(&mut rig, "10.1.1.1", 1001, "ack");
    assert_eq!(verdict, Verdict::Transmit(PortId(1)));
    assert_eq!(
        frame[30..34],
        [192, 168, 40, 200],
        "the address is left alone"
    );
    // A FIN is looked up in the table for requests alone.
    client_packet(&mut rig, "10.1.1.1", 1001, "fin ack");
    assert_eq!(rig.connections()[0].state, "FIN_WAIT");
}

#[test]
fn a_server_that_comes_later_gets_its_connections() {
    let mut rig = rig();
    for server in ["192.168.50.7", "192.168.50.8"] {
        rig.neighbour(1, server, mac_of(&addr(server)));
    }
    let unbound = SyncEntry {
        dest: server_end(7),
        ..entry(1)
    };
    told(&mut rig, unbound);
    let counted = |rig: &Rig| {
        rig.counters
            .dests
            .iter()
            .map(|d| d.total.get())
            .sum::<u32>()
    };
    assert_eq!((rig.connections().len(), counted(&rig)), (1, 0));
    // Its packets go where they were told to go.
    let (verdict, frame) = client_packet(&mut rig, "10.1.1.1", 1001, "ack");
    assert_eq!(verdict, Verdict::Transmit(PortId(1)));
    assert_eq!(frame[30..34], [192, 168, 50, 7]);
    told(
        &mut rig,
        SyncEntry {
            flags: 2,
            dest: server_end(8),
            ..entry(2)
        },
    );
    let (verdict, _) = client_packet(&mut rig, "10.1.1.2", 1002, "ack");
    assert!(
        matches!(verdict, Verdict::Drop(_)),
        "a tunnel to nobody: {verdict:?}"
    );
    rig.ipvsadm("-a -t 192.168.40.200:80 -r 192.168.50.7:8080 -m");
    rig.ipvsadm("-a -t 192.168.40.200:80 -r 192.168.50.8:8080 -m");
    assert_eq!(counted(&rig), 0);
    // The next packet binds the one, the next message the other.
    let (verdict, _) = client_packet(&mut rig, "10.1.1.1", 1001, "ack");
    assert_eq!((verdict, counted(&rig)), (Verdict::Transmit(PortId(1)), 1));
    told(
        &mut rig,
        SyncEntry {
            flags: 2,
            dest: server_end(8),
            ..entry(2)
        },
    );
    assert_eq!((rig.connections().len(), counted(&rig)), (2, 2));
    let (verdict, _) = client_packet(&mut rig, "10.1.1.2", 1002, "ack");
    assert_eq!(verdict, Verdict::Transmit(PortId(1)));
    rig.sleep(Duration::from_secs(1000));
    assert_eq!((rig.connections().len(), counted(&rig)), (0, 0));
}

#[test]
fn clients_stay_with_the_server_of_their_template() {
    let mut rig = Rig::new();
    rig.ipvsadm("-A -t 192.168.40.200:80 -s rr -p 300 -M 255.255.255.0");
    for n in [5, 6, 7] {
        rig.ipvsadm(&format!(
            "-a -t 192.168.40.200:80 -r 192.168.50.{n}:8080 -m"
        ));
    }
    told(
        &mut rig,
        SyncEntry {
            dest: server_end(6),
            ..template([10, 1, 1, 0], 6)
        },
    );
    let persistent = |rig: &Rig| {
        rig.counters
            .dests
            .iter()
            .map(|d| d.persistent.get())
            .sum::<u32>()
    };
    assert_eq!(persistent(&rig), 1);
    for n in 1..9 {
        let (_, frame) = client_packet(&mut rig, &format!("10.1.1.{n}"), 1000, "syn");
        assert_eq!(frame[30..34], [192, 168, 50, 6]);
    }
    assert_eq!(persistent(&rig), 1);
}

#[test]
fn a_call_stays_with_its_server() {
    let mut rig = Rig::new();
    rig.ipvsadm("-A -u 192.168.40.200:5060 -s rr -p 60 --pe sip");
    for n in [5, 6] {
        rig.ipvsadm(&format!(
            "-a -u 192.168.40.200:5060 -r 192.168.50.{n}:5060 -m"
        ));
    }
    for payload in recorded::payloads(&recorded::dir().join("sip-pe.pcap")) {
        receive(std::slice::from_mut(&mut rig), &payload);
    }
    let mut call = |client: &str, id: &str| {
        let text = format!("INVITE sip:x SIP/2.0\r\nCall-ID: {id}\r\n\r\n");
        let hex: String = text.bytes().map(|b| format!("{b:02x}")).collect();
        let line = format!(
            "eth {} > {} | ip {client} > {VIP} | udp 7000 > 5060 | data {hex}",
            mac_of(&addr("192.168.40.254")),
            PORT_MACS[0]
        );
        rig.inject(0, &notation::build(&line)).1[33]
    };
    assert_eq!(call("172.23.0.1", "call-0@172.23.0.1"), 6);
    assert_eq!(call("172.23.0.2", "call-1@172.23.0.2"), 5);
    assert_eq!(call("172.23.0.3", "call-2@172.23.0.3"), 6);
}

/// Sequence numbers go on to be moved: an FTP control connection changes hands.
#[test]
fn adjusted_sequence_numbers_go_on() {
    let mut rig = Rig::new();
    rig.ipvsadm("-A -t 192.168.40.200:21 -s rr");
    rig.ipvsadm("-a -t 192.168.40.200:21 -r 192.168.50.5:21 -m");
    let server = Adjustment {
        at: 1000,
        after: 3,
        before: 0,
    };
    let control = SyncEntry {
        virtual_: Endpoint::new(addr(VIP), 21),
        dest: Endpoint::new(addr("192.168.50.5"), 21),
        flags: flag::OUT_SEQ,
        sequence: Some(Sequence {
            server,
            ..Sequence::default()
        }),
        ..entry(1)
    };
    told(&mut rig, control);
    let line = format!(
        "eth {} > {} | ip 192.168.50.5 > 10.1.1.1 | tcp 21 > 1001 psh ack seq 2000 ack 500 | bytes 9",
        mac_of(&addr("192.168.50.5")),
        PORT_MACS[1]
    );
    let (verdict, frame) = rig.inject(1, &notation::build(&line));
    assert_eq!(verdict, Verdict::Transmit(PortId(0)));
    assert_eq!(frame[38..42], 2003u32.to_be_bytes());
}

/// A full table makes room as it does for new connections, and never grows.
#[test]
fn more_than_fits() {
    let mut rig = rig();
    let many = (0..4000u32).map(|n| {
        let [_, _, high, low] = n.to_be_bytes();
        let client = Endpoint::new(Addr::v4([10, 9, high, low]), 5000);
        (SyncEntry { client, ..entry(1) }, NONE)
    });
    give(std::slice::from_mut(&mut rig), many);
    let (taken, refused) = (rig.counters.synced.get(), rig.counters.sync_refused.get());
    assert_eq!(taken, 4000);
    let lives = rig.connections().len() as u64;
    assert_eq!(lives, taken - refused);
    assert!((1024..=2048).contains(&lives), "{lives}");
    assert_eq!(
        u64::from(rig.counters.dest(DestId(0)).unwrap().total.get()),
        lives
    );
}

/// Messages of version 0 leave the timeout to the receiver.
#[test]
fn version_0() {
    let mut rig = rig();
    let payloads = recorded::payloads(&recorded::dir().join("version0.pcap"));
    assert_eq!(Message::decode(&payloads[0]).unwrap().version, Version::V0);
    rig.change_settings(|s| s.timeouts.tcp_fin = 77);
    told(
        &mut rig,
        SyncEntry {
            timeout: 0,
            state: 4,
            flags: flag::INACTIVE,
            ..entry(1)
        },
    );
    assert_eq!(rig.connections()[0].expires, 77);
    told(
        &mut rig,
        SyncEntry {
            timeout: 0,
            ..template([10, 1, 1, 0], 6)
        },
    );
    let rows = rig.connections();
    let template = rows.iter().find(|c| c.is_template).unwrap();
    assert_eq!(template.expires, 180);
    told(
        &mut rig,
        SyncEntry {
            timeout: u32::MAX,
            ..entry(3)
        },
    );
    assert!(rig.connections().iter().any(|c| c.expires == 2_678_400));
}
