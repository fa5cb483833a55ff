//! Copies of a table for a peer: what one worker copies out, others take in, with the time that is
//! left; and what a peer knows better stays.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use dataplane::addr::{Addr, Endpoint};
use dataplane::command::{Command, ConnectionView, Outcome};
use dataplane::service::Engine;
use dataplane::sync::wire::Message;
use dataplane::sync::{Batch, Collection, EngineData, Outbox, SyncEntry, Wanted, flag};
use dataplane::time::secs;
use dataplane::worker::Share;

#[path = "support/recorded.rs"]
mod recorded;
mod support;
use support::rig::{Rig, addr};

const VIP: &str = "192.168.40.200";

/// Everything that is wanted, in batches; none is larger than `room`.
fn collect(rig: &mut Rig, wanted: Wanted, room: usize) -> Vec<Batch> {
    let mut collection = Box::new(Collection::with_room(room));
    collection.wanted = wanted;
    let mut all = Vec::new();
    for _ in 0..1_000_000 {
        collection = match rig
            .worker
            .apply(rig.now, Command::CollectConnections(collection))
        {
            Outcome::Collected(collection) => collection,
            _ => panic!("no collection in the answer"),
        };
        assert!(collection.batch.rows.len() <= room);
        let next = Collection {
            cursor: collection.cursor,
            wanted,
            ..Collection::with_room(room)
        };
        all.push(std::mem::replace(&mut *collection, next).batch);
        if collection.cursor.done {
            return all;
        }
    }
    panic!("a copy without end");
}

fn give(rigs: &mut [Rig], batches: Vec<Batch>) {
    for batch in batches {
        let batch = Arc::new(batch);
        for rig in rigs.iter_mut() {
            rig.apply(Command::PutConnections(Arc::clone(&batch)));
        }
    }
}

fn announced(rig: &mut Rig, entries: &[SyncEntry]) {
    let mut batch = Batch::default();
    for entry in entries {
        batch.push(*entry, &EngineData::default());
    }
    give(std::slice::from_mut(rig), vec![batch]);
}

fn copied(rig: &mut Rig, entry: SyncEntry, idle: u32) {
    let mut batch = Batch::default();
    batch.push_copy(entry, &EngineData::default(), secs(idle));
    give(std::slice::from_mut(rig), vec![batch]);
}

fn printed(rigs: &mut [Rig]) -> Vec<String> {
    let mut all: Vec<ConnectionView> = rigs.iter_mut().flat_map(Rig::connections).collect();
    for row in &mut all {
        // Where they lie differs from table to table.
        row.data = row
            .data
            .map(|place| dataplane::command::DataRange { start: 0, ..place });
    }
    let mut all: Vec<String> = all.iter().map(|row| format!("{row:?}")).collect();
    all.sort();
    all
}

fn entry(n: u8) -> SyncEntry {
    SyncEntry {
        protocol: 6,
        flags: 0,
        state: 1,
        client: Endpoint::new(Addr::v4([10, 1, 1, n]), 1000 + u16::from(n)),
        virtual_: Endpoint::new(addr(VIP), 80),
        dest: Endpoint::new(Addr::v4([192, 168, 50, 5]), 8080),
        fwmark: 0,
        timeout: 900,
        sequence: None,
    }
}

fn closing(n: u8) -> SyncEntry {
    SyncEntry {
        flags: flag::INACTIVE,
        state: 4,
        timeout: 120,
        ..entry(n)
    }
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.ipvsadm("-A -t 192.168.40.200:80 -s rr");
    rig.ipvsadm("-a -t 192.168.40.200:80 -r 192.168.50.5:8080 -m");
    rig
}

/// Of a connection: name of its state, seconds left.
fn row(rig: &mut Rig, n: u8) -> (&'static str, u32) {
    let client = entry(n).client;
    let rows = rig.connections();
    let found = rows.iter().find(|row| row.client == client).unwrap();
    (found.state, found.expires)
}

/// Whatever the kernel's recordings make: both families, templates, marks, engine data, adjusted
/// streams. One worker's table becomes that of three, and keeps its times.
#[test]
fn a_copy_is_the_table() {
    let mut copied = 0;
    for pcap in recorded::recordings() {
        let Ok(text) = fs::read_to_string(pcap.with_extension("txt")) else {
            continue;
        };
        let mut from = Rig::new();
        from.rules(&text);
        let mut to: Vec<Rig> = (0..3).map(|n| Rig::with_share(Share::of(n, 3))).collect();
        to.iter_mut().for_each(|rig| rig.rules(&text));
        for payload in recorded::payloads(&pcap) {
            let mut batch = Batch::default();
            let message = Message::decode(&payload).unwrap();
            for (entry, engine) in message.entries().flatten() {
                if entry.check(&engine).is_ok() && !batch.is_full() {
                    batch.push(entry, &engine);
                }
            }
            give(std::slice::from_mut(&mut from), vec![batch]);
        }
        from.sleep(Duration::from_secs(7));
        to.iter_mut().for_each(|rig| rig.now = from.now);
        let name = pcap.display();
        let batches = collect(&mut from, Wanted::default(), 10);
        let own = printed(std::slice::from_mut(&mut from));
        assert_eq!(
            batches.iter().map(|b| b.rows.len()).sum::<usize>(),
            own.len(),
            "{name}"
        );
        copied += own.len();
        give(&mut to, batches);
        assert_eq!(printed(&mut to), own, "{name}");
        // A copy of the copy.
        let mut again = Rig::new();
        again.rules(&text);
        again.now = from.now;
        let batches = to
            .iter_mut()
            .flat_map(|rig| collect(rig, Wanted::default(), 32));
        let batches: Vec<Batch> = batches.collect();
        let has_data = |batch: &Batch| batch.rows.iter().any(|row| batch.data_of(row).is_some());
        if name.to_string().contains("sip-pe") {
            assert!(batches.iter().any(has_data), "{}", Engine::Sip.name());
        }
        give(std::slice::from_mut(&mut again), batches);
        assert_eq!(printed(std::slice::from_mut(&mut again)), own, "{name}");
    }
    assert!(copied >= 180, "only {copied} entries were copied");
}

#[test]
fn what_came_meanwhile_stays() {
    let mut rig = rig();
    rig.sleep(Duration::from_secs(2000));
    // Known by an announcement 100 s ago.
    announced(&mut rig, &[entry(1), entry(2), entry(3)]);
    rig.sleep(Duration::from_secs(100));
    copied(&mut rig, closing(1), 110);
    assert_eq!(row(&mut rig, 1), ("ESTABLISHED", 800), "the copy is older");
    copied(&mut rig, closing(2), 20);
    assert_eq!(row(&mut rig, 2), ("FIN_WAIT", 100), "the copy is newer");
    copied(&mut rig, entry(3), 60);
    assert_eq!(row(&mut rig, 3), ("ESTABLISHED", 840));
    // A new one keeps its age; one that has ended is not made.
    copied(&mut rig, entry(4), 890);
    assert_eq!(row(&mut rig, 4), ("ESTABLISHED", 10));
    copied(&mut rig, entry(5), 900);
    assert_eq!(rig.connections().len(), 4);
    // The end was announced and lost; the copy says so, although it seems a moment older.
    announced(&mut rig, &[entry(6)]);
    copied(&mut rig, closing(6), 1);
    assert_eq!(row(&mut rig, 6), ("FIN_WAIT", 119));
    copied(&mut rig, entry(6), 2);
    assert_eq!(
        row(&mut rig, 6).0,
        "FIN_WAIT",
        "the copy was under way for long"
    );
    let server = rig.counters.dest(dataplane::service::DestId(0)).unwrap();
    assert_eq!((server.active.get(), server.total.get()), (3, 5));
    // An announcement holds, whatever is known.
    announced(&mut rig, &[entry(6)]);
    assert_eq!(row(&mut rig, 6), ("ESTABLISHED", 900));
}

/// Another server: the newer one holds as well, and both are counted right.
#[test]
fn a_connection_that_led_elsewhere() {
    let mut rig = rig();
    rig.ipvsadm("-a -t 192.168.40.200:80 -r 192.168.50.6:8080 -m");
    rig.sleep(Duration::from_secs(2000));
    let other = |n| SyncEntry {
        dest: Endpoint::new(Addr::v4([192, 168, 50, 6]), 8080),
        ..entry(n)
    };
    announced(&mut rig, &[entry(1), entry(2)]);
    rig.sleep(Duration::from_secs(50));
    copied(&mut rig, other(1), 60);
    copied(&mut rig, other(2), 40);
    let mut dests: Vec<_> = rig
        .connections()
        .iter()
        .map(|row| (row.client, row.dest))
        .collect();
    dests.sort_by_key(|(client, _)| client.port);
    assert_eq!(
        dests,
        [
            (entry(1).client, entry(1).dest),
            (entry(2).client, other(2).dest)
        ]
    );
}

fn clients(batches: &[Batch]) -> Vec<u16> {
    let rows = batches.iter().flat_map(|batch| &batch.rows);
    let mut all: Vec<u16> = rows.map(|row| row.entry.client.port - 1000).collect();
    all.sort_unstable();
    all
}

#[test]
fn a_part_of_the_table() {
    let mut rig = rig();
    rig.sleep(Duration::from_secs(2000));
    for n in 1..=4 {
        announced(&mut rig, &[entry(n)]);
        rig.sleep(Duration::from_secs(10));
    }
    let within = |ticks| Wanted {
        active_within: Some(ticks),
        moved_by: None,
    };
    assert_eq!(clients(&collect(&mut rig, within(secs(25)), 2)), [3, 4]);
    assert_eq!(
        clients(&collect(&mut rig, Wanted::default(), 2)),
        [1, 2, 3, 4]
    );
    // Whose end has moved since backups were told: a backup asks for none.
    let moved = |ticks| Wanted {
        active_within: Some(secs(45)),
        moved_by: Some(ticks),
    };
    assert_eq!(clients(&collect(&mut rig, moved(0), 2)), [0; 0]);
    // A master that was backup knows what others have only in part.
    rig.apply(Command::StartMaster(Arc::new(Outbox::new())));
    assert_eq!(clients(&collect(&mut rig, moved(secs(5)), 2)), [1, 2, 3, 4]);
}
