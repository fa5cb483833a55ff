//! What comes from other nodes of RVS beside the kernel's protocol, and from the process before:
//! hellos, frames of copies, trailers of authentication, records of connections.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use control::sync::auth::{Key, Keys, Opener, Purpose, Ring, Sealer};
use control::sync::peer::frame::{self, Frame};
use control::sync::peer::hello::Hello;
use control::sync::peer::machine::{Input, Machine, Me, Output, Roles};
use control::sync::peer::record::Seals;
use dataplane::conn::region::{self, Layout};
use dataplane::conn::{HashKey, Shard, image};
use dataplane::sync::Batch;
use dataplane::time::{Instant, Ticks};

const KEY: HashKey = HashKey([0x5eed; 4]);

/// Connections that the table has room for.
const CONNECTIONS: u32 = 64;

/// By the wall clock, milliseconds.
const WALL: u64 = 1_700_000_000_000;

/// The first byte says which decoder sees the others.
pub fn peer(data: &[u8]) {
    match data.split_first() {
        Some((0, bytes)) => hello(bytes),
        Some((1, bytes)) => frames(bytes),
        Some((2, bytes)) => sealed(bytes),
        Some((_, bytes)) => records(bytes),
        None => {}
    }
}

/// Hellos one behind the other, each behind its length (16 bits). What is read is written the same
/// again, and a node lives by it.
fn hello(mut bytes: &[u8]) {
    let mut now = Instant::from_secs(1000);
    let mut machine = Machine::new(now, Me { syncid: 0, boot: 1 });
    let roles = Roles {
        master: false,
        backup: true,
    };
    machine.handle(now, Input::Roles(roles));
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (datagram, rest) = rest.split_at(length);
        bytes = rest;
        let Ok(hello) = Hello::decode(datagram) else {
            continue;
        };
        assert_eq!(hello.encode(), datagram, "written otherwise than read");
        let from = IpAddr::V4(Ipv4Addr::new(10, 0, 0, hello.node as u8));
        let sockets = hello.sent.len();
        let mut inputs = vec![
            Input::Hello((from, 1).into(), Box::new(hello)),
            Input::Timer,
        ];
        while let Some(input) = inputs.pop() {
            for output in machine.handle(now, input) {
                match output {
                    Output::Count(from) => inputs.push(Input::Received(from, vec![7; sockets])),
                    Output::Fetch { .. } => inputs.push(Input::Fetched(Ok(1))),
                    _ => {}
                }
            }
        }
        assert!(
            machine.peers().count() <= 16,
            "more peers than there is room for"
        );
        now = machine.next_timeout().max(now);
    }
}

/// Frames one behind the other: as they are, and as records. What is read is written the same
/// again, and every entry that makes sense goes into a batch.
fn frames(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((frame, len))) = frame::decode(rest) {
        let mut again = Vec::new();
        frame::encode(&mut again, &frame);
        assert_eq!(
            Some(&again[..]),
            rest.get(..len),
            "written otherwise than read"
        );
        if let Frame::Entries(payload) = frame {
            let mut batch = Batch::default();
            let mut seen = 0;
            let count = frame::entries(payload, |entry, engine, ms| {
                seen += 1;
                if entry.check(&engine).is_ok() {
                    batch.push_copy(entry, &engine, ms);
                }
            });
            assert!(
                count.is_err() || count.is_ok_and(|count| count >= seen),
                "more entries than were said"
            );
            for row in &batch.rows {
                assert_eq!(row.data.is_some(), batch.data_of(row).is_some());
            }
        }
        rest = rest.get(len..).unwrap_or(&[]);
    }
    let mut seals = seals(Arc::default());
    let mut rest = bytes;
    while let Ok(Some((_, len))) = seals.read(rest) {
        assert!(len <= rest.len(), "a record that ends behind what came");
        rest = rest.get(len..).unwrap_or(&[]);
    }
}

fn seals(keys: Arc<Keys>) -> Seals {
    let sealer = Sealer::new(Arc::clone(&keys), Purpose::Stream);
    Seals {
        sealer: sealer.expect("the system has random numbers"),
        opener: Opener::new(keys, Purpose::Stream),
    }
}

/// A message that is sealed, then changed, cut and sent again; and the bytes as they are.
fn sealed(bytes: &[u8]) {
    let keys = Arc::new(Keys::new(Ring {
        current: Some(Key::new(b"0123456789abcdef")),
        previous: Some(Key::new(b"fedcba9876543210")),
    }));
    let Seals {
        mut sealer,
        mut opener,
    } = seals(keys);
    assert!(opener.open(WALL, bytes).is_err(), "taken without the key");
    let [a, b, xor, message @ ..] = bytes else {
        return;
    };
    let mut whole = message.to_vec();
    sealer.seal(WALL, &mut whole);
    let at = usize::from(u16::from_be_bytes([*a, *b])) % whole.len();
    let mut changed = whole.clone();
    changed[at] ^= xor.max(&1);
    assert!(
        opener.open(WALL, &changed).is_err(),
        "taken although changed"
    );
    assert!(
        opener.open(WALL, &whole[..at]).is_err(),
        "taken although cut"
    );
    assert_eq!(opener.open(WALL, &whole), Ok(message));
    assert!(opener.open(WALL, &whole).is_err(), "taken twice");
}

/// Records of a table by the process before. Each is counted once, and what is taken over is
/// whole: written again, it is taken over again.
fn records(bytes: &[u8]) {
    thread_local! {
        static TABLE: RefCell<Vec<Shard>> = RefCell::new(table());
    }
    TABLE.with_borrow_mut(|shards| {
        let now = Ticks(1000);
        let first = image::decode(bytes, shards, &KEY, now);
        let all = bytes.len().div_ceil(image::RECORD) as u32;
        assert_eq!(first.entries + first.torn + first.lost, all);
        let again = image::encode((0..).zip(&*shards));
        assert_eq!(again.len(), first.entries as usize * image::RECORD);
        clear(shards);
        let second = image::decode(&again, shards, &KEY, now);
        assert_eq!((second.entries, second.torn), (first.entries, 0));
        clear(shards);
    });
}

fn table() -> Vec<Shard> {
    let layout = Layout::for_connections(CONNECTIONS);
    let bytes: &'static mut [u8] = vec![0; layout.bytes() + 64].leak();
    let skip = bytes.as_ptr().align_offset(64);
    let memory = &mut bytes[skip..skip + layout.bytes()];
    region::create(memory, layout, KEY, [0; 16], Ticks(0)).expect("new")
}

fn clear(shards: &mut [Shard]) {
    for shard in shards {
        for i in 0..shard.touched() {
            if shard.entry(i).is_some_and(|entry| entry.is_valid()) {
                shard.remove(i);
            }
        }
        assert!(shard.is_empty(), "entries that cannot be removed");
    }
}
