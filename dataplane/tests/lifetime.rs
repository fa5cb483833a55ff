//! Connections over time, beside their packets: ends at deletion, defences, choices that wait.

use std::time::Duration;

use dataplane::packet::{DropReason, PortId, Verdict};
use dataplane::service::Protocol;

mod support;
use support::notation;
use support::rig::{Rig, addr, mac_of};

const VIP: &str = "192.168.40.200:443";

/// A segment of client number `n` to the virtual service.
fn segment(n: u16, flags: &str) -> Vec<u8> {
    notation::build(&format!(
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.{}.{} > 192.168.40.200 \
         | tcp 40000 > 443 {flags}",
        n >> 8,
        n & 0xff
    ))
}

fn rig(method: &str, servers: &[u8]) -> Rig {
    let mut rig = Rig::new();
    rig.ipvsadm(&format!("-A -t {VIP} -s rr"));
    for server in servers {
        rig.ipvsadm(&format!("-a -t {VIP} -r 192.168.50.{server}:443 {method}"));
    }
    rig
}

/// Lets time pass as a worker sees it: in turns of a millisecond.
fn pass(rig: &mut Rig, time: Duration) {
    for _ in 0..time.as_millis() {
        rig.now = rig.now + Duration::from_millis(1);
        rig.worker.expire(rig.now, 64);
    }
}

/// Connections by the last byte of their real server.
fn by_server(rig: &mut Rig) -> Vec<(u8, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    for row in rig.connections() {
        *counts.entry(row.dest.addr.octets_v4()[3]).or_insert(0) += 1;
    }
    counts.into_iter().collect()
}

#[test]
fn connections_of_a_deleted_server_end_soon_if_asked() {
    for (expire, left) in [(false, vec![(5, 50), (6, 50)]), (true, vec![(6, 50)])] {
        let mut rig = rig("-m", &[5, 6]);
        rig.change_settings(|s| s.expire_nodest_conn = expire);
        for n in 0..100 {
            rig.inject(0, &segment(n, "syn"));
            rig.inject(0, &segment(n, "ack"));
        }
        rig.ipvsadm(&format!("-d -t {VIP} -r 192.168.50.5:443"));
        // The kernel was seen to need 100 ms.
        pass(&mut rig, Duration::from_millis(100));
        assert_eq!(by_server(&mut rig), left, "expire_nodest_conn = {expire}");
    }
}

#[test]
fn drop_entry_ends_half_open_and_idle_connections() {
    let mut rig = rig("-m", &[5]);
    for n in 0..400 {
        rig.inject(0, &segment(n, "syn"));
    }
    // Two packets each, then silence.
    for n in 0..200 {
        rig.inject(0, &segment(n, "ack"));
    }
    let count = |rig: &mut Rig, state: &str| {
        rig.connections()
            .iter()
            .filter(|c| c.state == state)
            .count()
    };
    pass(&mut rig, Duration::from_secs(30));
    assert_eq!(
        (count(&mut rig, "ESTABLISHED"), count(&mut rig, "SYN_RECV")),
        (200, 200)
    );
    rig.change_settings(|s| s.drop_entry = 3);
    pass(&mut rig, Duration::from_secs(20));
    // A share of 1/32 a second: of 20 seconds' worth of looks 46 % found what they had not yet.
    let half_open = count(&mut rig, "SYN_RECV");
    assert!((60..160).contains(&half_open), "{half_open}");
    // Not yet idle for a minute.
    assert_eq!(count(&mut rig, "ESTABLISHED"), 200);
    pass(&mut rig, Duration::from_secs(60));
    let idle = count(&mut rig, "ESTABLISHED");
    assert!((60..190).contains(&idle), "{idle}");
    rig.change_settings(|s| s.drop_entry = 0);
    pass(&mut rig, Duration::from_secs(20));
    assert_eq!(count(&mut rig, "ESTABLISHED"), idle);
}

/// Of client number `n` to another service of the same address.
fn packet(n: u16, rest: &str) -> Vec<u8> {
    notation::build(&format!(
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.{}.{} > 192.168.40.200 | {rest}",
        n >> 8,
        n & 0xff
    ))
}

/// How many of each hundred connections or templates of a kind are left when drop_entry has been
/// at work for 32 seconds, in which each entry is visited once on average: with e^-1 = 37 % of
/// the kinds that go when they are visited, with e^(-1/i) of idle ones after i packets.
#[test]
fn drop_entry_takes_whom_the_kernel_takes_at_its_rate() {
    let mut rig = rig("-m", &[5]);
    for (service, options) in [
        ("-u 192.168.40.200:53", ""),
        ("-u 192.168.40.200:54", "-p 600"),
        ("-u 192.168.40.200:55", "-p 600 -o"),
        ("-t 192.168.40.200:444", "-p 600"),
    ] {
        let port = service.rsplit(':').next().unwrap();
        rig.ipvsadm(&format!("-A {service} -s rr {options}"));
        rig.ipvsadm(&format!("-a {service} -r 192.168.50.5:{port} -m"));
    }
    let udp = |rig: &mut Rig, clients: std::ops::Range<u16>, port, packets| {
        for n in clients {
            for _ in 0..packets {
                rig.inject(0, &packet(n, &format!("udp 4000 > {port} | bytes 8")));
            }
        }
    };
    let tcp = |rig: &mut Rig, clients: std::ops::Range<u16>, port, words: &[&str]| {
        for n in clients {
            for word in words {
                match word.strip_prefix("server ") {
                    None => rig.inject(0, &packet(n, &format!("tcp 4000 > {port} {word}"))),
                    Some(word) => rig.inject(
                        1,
                        &notation::build(&format!(
                            "eth 02:04:c0:a8:32:05 > 52:54:..:02 | \
                             ip 192.168.50.5 > 172.16.{}.{} | tcp {port} > 4000 {word}",
                            n >> 8,
                            n & 0xff
                        )),
                    ),
                };
            }
        }
    };
    udp(&mut rig, 0..100, 53, 1);
    udp(&mut rig, 100..200, 53, 4);
    udp(&mut rig, 200..240, 53, 9);
    tcp(&mut rig, 300..400, 443, &["syn", "ack"]);
    let many = [
        "syn", "ack", "ack", "ack", "ack", "ack", "ack", "ack", "ack",
    ];
    tcp(&mut rig, 400..440, 443, &many);
    tcp(&mut rig, 500..540, 443, &["syn", "fin ack"]);
    // A template that has its connection, one of a one-packet service, one whose connection never
    // got an answer and has ended, and one whose connection did.
    udp(&mut rig, 600..640, 54, 9);
    udp(&mut rig, 600..640, 55, 1);
    tcp(&mut rig, 700..800, 444, &["syn", "server rst"]);
    tcp(&mut rig, 800..840, 444, &["syn", "ack", "server rst"]);
    pass(&mut rig, Duration::from_secs(61));
    tcp(&mut rig, 900..1000, 443, &["syn"]);
    udp(&mut rig, 1000..1040, 53, 1);
    rig.change_settings(|s| s.drop_entry = 3);
    pass(&mut rig, Duration::from_secs(32));
    let rows = rig.connections();
    let left = |clients: std::ops::Range<u16>, port, is_template| {
        let of = |row: &&dataplane::command::ConnectionView| {
            let [_, _, high, low] = row.client.addr.octets_v4();
            clients.contains(&u16::from_be_bytes([high, low]))
                && (row.virtual_.port, row.is_template) == (port, is_template)
        };
        rows.iter().filter(of).count()
    };
    let near = |left: usize, of_hundred: usize, what| {
        assert!(left.abs_diff(of_hundred) <= 12, "{what}: {left} are left");
    };
    near(left(0..100, 53, false), 37, "UDP, one packet");
    near(left(100..200, 53, false), 78, "UDP, four packets");
    near(left(300..400, 443, false), 61, "ESTABLISHED, two packets");
    near(left(900..1000, 443, false), 37, "SYN_RECV");
    near(left(700..800, 444, true), 37, "template without an answer");
    for (kept, what) in [
        (left(200..240, 53, false), "UDP, many packets"),
        (left(1000..1040, 53, false), "UDP, lately"),
        (left(400..440, 443, false), "ESTABLISHED, many packets"),
        (left(500..540, 443, false), "TIME_WAIT"),
        (left(600..640, 54, false), "UDP, with a template"),
        (left(600..640, 54, true), "template in use"),
        (left(600..640, 55, true), "template of a one-packet service"),
        (left(800..840, 444, true), "template with an answer"),
    ] {
        assert_eq!(kept, 40, "{what}");
    }
}

/// The share does not depend on how much there is.
#[test]
fn drop_entry_visits_few_as_often_as_many() {
    let (mut all, mut left) = (0, 0);
    for n in 3..40u16 {
        let mut rig = rig("-m", &[5]);
        rig.change_settings(|s| s.drop_entry = 3);
        for client in 0..n {
            rig.inject(0, &segment(client, "syn"));
        }
        pass(&mut rig, Duration::from_secs(32));
        all += usize::from(n);
        left += rig.connections().len();
    }
    let share = 100 * left / all;
    assert!((31..=43).contains(&share), "{share} % of {all} are left");
}

/// 1024 connections are what the table is for; the defences come when fewer than `amemthresh`
/// of them are free, and go again.
#[test]
fn automatic_defences_follow_the_table() {
    let mut rig = rig("-m", &[5]);
    rig.change_settings(|s| {
        s.drop_packet = 1;
        s.secure_tcp = 1;
        s.amemthresh = 24;
    });
    let accepted = |rig: &mut Rig, clients: std::ops::Range<u16>| {
        clients
            .filter(|n| rig.inject(0, &segment(*n, "syn")).0 == Verdict::Transmit(PortId(1)))
            .count()
    };
    assert_eq!(accepted(&mut rig, 0..1000), 1000);
    pass(&mut rig, Duration::from_millis(1100));
    // 24 are free: not yet fewer.
    assert_eq!(accepted(&mut rig, 1000..1012), 12);
    assert_eq!(rig.counters.short_of_entries.get(), 0);
    pass(&mut rig, Duration::from_millis(1100));
    assert_eq!(rig.counters.short_of_entries.get(), 1);
    // 12 are free: one of 24 / 12 is dropped.
    assert_eq!(accepted(&mut rig, 1012..1018), 3);
    // The secure table: the client's own ACK does not make a connection established.
    rig.inject(0, &segment(0, "ack"));
    assert!(rig.connections().iter().all(|c| c.state == "SYN_RECV"));
    pass(&mut rig, Duration::from_secs(62));
    assert_eq!(rig.connections().len(), 0);
    assert_eq!(accepted(&mut rig, 0..100), 100);
    rig.inject(0, &segment(0, "ack"));
    assert!(rig.connections().iter().any(|c| c.state == "ESTABLISHED"));
}

/// A packet whose server's MAC is not known waits and comes again; it is one choice, and one
/// connection, all the same.
#[test]
fn a_packet_that_waits_was_scheduled_once() {
    let mut rig = rig("-m", &[5, 6]);
    rig.forget_neighbours(1);
    let verdicts: Vec<_> = (0..3)
        .map(|_| rig.inject(0, &segment(1, "syn")).0)
        .collect();
    assert_eq!(verdicts, [Verdict::Wait; 3]);
    assert_eq!(by_server(&mut rig), [(6, 1)]);
    let counted = |rig: &Rig| {
        let sum = |f: fn(&dataplane::counters::DestCounters) -> u64| {
            rig.counters.dests.iter().map(f).sum::<u64>()
        };
        (sum(|d| d.conns.get()), sum(|d| d.in_pkts.get()))
    };
    assert_eq!(counted(&rig), (1, 0), "a packet that waits is not counted");
    for server in ["192.168.50.5", "192.168.50.6"] {
        rig.neighbour(1, server, mac_of(&addr(server)));
    }
    let (verdict, frame) = rig.inject(0, &segment(1, "syn"));
    assert_eq!(verdict, Verdict::Transmit(PortId(1)));
    assert_eq!(frame[..6], mac_of(&addr("192.168.50.6")).0);
    assert_eq!(counted(&rig), (1, 1));
    // The next client gets the next server.
    let (_, frame) = rig.inject(0, &segment(2, "syn"));
    assert_eq!(frame[..6], mac_of(&addr("192.168.50.5")).0);
    let row = rig.connections()[0];
    assert_eq!(
        (row.protocol, row.state, row.expires),
        (Some(Protocol::Tcp), "SYN_RECV", 60)
    );
}

#[test]
fn a_choice_whose_server_never_answers_is_forgotten() {
    let mut rig = rig("-m", &[5]);
    rig.forget_neighbours(1);
    assert_eq!(rig.inject(0, &segment(1, "syn")).0, Verdict::Wait);
    assert_eq!(rig.connections().len(), 1);
    pass(&mut rig, Duration::from_millis(3500));
    assert_eq!(rig.connections().len(), 0);
}

/// Answers of a direct-routing server that is this host, and of one whose answers pass by, are
/// followed: counted once, and the two-way state table holds from then on.
#[test]
fn answers_that_are_not_rewritten_are_followed() {
    let answer = notation::build(
        "eth 52:54:..:01 > 02:04:c0:a8:28:fe | ip 192.168.40.200 > 172.16.0.1 \
         | tcp 443 > 40000 syn ack 1",
    );
    let state = |rig: &mut Rig| rig.connections()[0].state;
    let answers = |rig: &Rig| rig.counters.dests[0].out_pkts.get();

    let mut local = rig("-g", &[1]);
    assert!(matches!(
        local.inject(0, &segment(1, "syn")).0,
        Verdict::Kernel(_)
    ));
    assert_eq!(local.inject_from_kernel(0, &answer), answer);
    assert_eq!(answers(&local), 1);
    local.inject(0, &segment(1, "fin ack 1"));
    assert_eq!(state(&mut local), "TIME_WAIT");

    let mut passing = rig("-g", &[5]);
    passing.inject(0, &segment(1, "syn"));
    let mut frame = answer.clone();
    frame[..12].copy_from_slice(&[[0x52, 0x54, 0, 0, 0, 2], [2, 4, 192, 168, 50, 5]].concat());
    assert!(matches!(passing.inject(1, &frame).0, Verdict::Kernel(_)));
    // The kernel forwards it: on its way out it is not counted again.
    assert_eq!(passing.inject_from_kernel(0, &answer), answer);
    assert_eq!(answers(&passing), 1);
    passing.inject(0, &segment(1, "ack 1"));
    passing.inject(0, &segment(1, "fin ack 1"));
    assert_eq!(state(&mut passing), "CLOSE_WAIT");
}

/// One client's endpoint reaches one real server by two addresses: replies belong to the newer
/// connection, from the first one on.
#[test]
fn replies_belong_to_the_newer_of_two_connections() {
    let mut rig = Rig::new();
    for vip in ["192.168.40.200:443", "192.168.40.201:443"] {
        rig.ipvsadm(&format!("-A -t {vip} -s rr"));
        rig.ipvsadm(&format!("-a -t {vip} -r 192.168.50.5:443 -m"));
    }
    let request = |vip, flags: &str| {
        notation::build(&format!(
            "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 172.16.0.1 > 192.168.40.{vip} \
             | tcp 40000 > 443 {flags}"
        ))
    };
    let reply = |flags: &str| {
        notation::build(&format!(
            "eth 02:04:c0:a8:32:05 > 52:54:..:02 | ip 192.168.50.5 > 172.16.0.1 \
             | tcp 443 > 40000 {flags}"
        ))
    };
    for flags in ["syn ack 2", "fin ack 2", "ack 2"] {
        rig.inject(0, &request(200, "syn"));
        rig.inject(0, &request(200, "ack 2"));
        assert_eq!(rig.inject(1, &reply(flags)).1[26..30], [192, 168, 40, 200]);
        rig.inject(0, &request(201, "syn"));
        for _ in 0..2 {
            let (verdict, frame) = rig.inject(1, &reply(flags));
            assert_eq!(verdict, Verdict::Transmit(PortId(0)));
            assert_eq!(frame[26..30], [192, 168, 40, 201], "{flags}");
        }
        rig.sleep(Duration::from_secs(1000));
        assert_eq!(rig.connections(), []);
    }
}

/// A worker that gets a table with connections counts them as the one did that made them.
#[test]
fn a_table_that_was_taken_over_is_counted() {
    use dataplane::addr::Endpoint;
    use dataplane::conn::entry::flag;
    use dataplane::conn::{HashKey, Layout, NewConnection, NewTemplate, region};
    use dataplane::counters::WorkerCounters;
    use dataplane::service::{DestId, ForwardingMethod};
    use dataplane::settings::Settings;
    use dataplane::time::Ticks;
    use dataplane::worker::{Limits, Worker};

    let layout = Layout::for_connections(1000);
    let memory = vec![0u8; layout.bytes() + 64].leak();
    let skip = memory.as_ptr().align_offset(64);
    let memory = &mut memory[skip..skip + layout.bytes()];
    let key = HashKey([3; 4]);
    let mut shards = region::create(memory, layout, key, [0; 16], Ticks(0)).unwrap();
    let client = |n: u8| addr(&format!("172.16.0.{n}"));
    let server = Endpoint::new(addr("192.168.50.5"), 443);
    let virtual_ = Endpoint::new(addr("192.168.40.200"), 443);
    for n in 0..10 {
        let new = NewConnection {
            protocol: Protocol::Tcp,
            client: Endpoint::new(client(n), 40_000),
            virtual_,
            dest: server,
            dest_id: DestId(u32::from(n % 2)),
            method: ForwardingMethod::Masquerade,
            flags: if n < 4 { flag::INACTIVE } else { 0 },
        };
        shards[usize::from(n)].insert(&new).unwrap();
    }
    let template = NewTemplate {
        protocol: 6,
        client: client(1),
        tag: 0,
        virtual_,
        dest: server,
        dest_id: DestId(1),
        method: ForwardingMethod::Masquerade,
        fwmark: 0,
    };
    shards[0].insert_template(&template).unwrap();
    let counters = std::sync::Arc::new(WorkerCounters::new(4));
    let limits = Limits {
        services: 4,
        dests: 4,
        neighbours: 4,
        ports: 1,
    };
    let counted = std::sync::Arc::clone(&counters);
    drop(Worker::new(
        shards,
        key,
        limits,
        counted,
        Settings::default(),
    ));
    let of = |id| {
        let c = counters.dest(DestId(id)).unwrap();
        (c.total.get(), c.active.get(), c.persistent.get())
    };
    assert_eq!([of(0), of(1), of(2)], [(5, 3, 0), (5, 3, 1), (0, 0, 0)]);
    assert_eq!(counters.connections.get(), 11);
    // They are not new: nothing was scheduled here.
    assert_eq!(counters.dest(DestId(0)).unwrap().conns.get(), 0);
}

/// A table full of connections that are over, as that of a busy web service is (TIME_WAIT lasts two
/// minutes), has room for new ones; those in the middle of their handshake stay.
#[test]
fn connections_that_are_over_make_room_first() {
    let mut rig = rig("-m", &[5, 6]);
    for n in 0..4000 {
        for flags in ["syn", "ack", "rst"] {
            rig.inject(0, &segment(n, flags));
        }
    }
    let full = rig.connections().len();
    assert!((1024..4000).contains(&full), "{full}");
    pass(&mut rig, Duration::from_millis(1500));
    let refused = rig.counters.drops[DropReason::TableFull as usize].get();
    let half_open = |rig: &mut Rig| {
        let rows = rig.connections();
        rows.iter().filter(|c| c.state == "SYN_RECV").count()
    };
    for n in 5000..5200 {
        rig.inject(0, &segment(n, "syn"));
    }
    assert_eq!(half_open(&mut rig), 200);
    assert_eq!(rig.connections().len(), full);
    assert_eq!(
        rig.counters.drops[DropReason::TableFull as usize].get(),
        refused
    );
}

/// What ended just now may still have packets under way, and stays.
#[test]
fn nobody_makes_room_within_a_second() {
    let mut rig = rig("-m", &[5, 6]);
    for n in 0..4000 {
        for flags in ["syn", "ack", "rst"] {
            rig.inject(0, &segment(n, flags));
        }
    }
    let full = rig.connections().len();
    rig.inject(0, &segment(5000, "syn"));
    assert!(rig.connections().iter().all(|c| c.state != "SYN_RECV"));
    assert_eq!(rig.connections().len(), full);
}
