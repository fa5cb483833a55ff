//! How many announcements a second the master's thread packs and sends, and what one costs.
//!
//! ```text
//! cargo run --release -p control --example announce [RATE [SECONDS [KEY_FILE]]]
//! ```
//!
//! Workers' outboxes are filled with RATE new connections a second (200,000 unless said otherwise), or
//! as fast as they are emptied with RATE 0; the thread that `rvsd` runs packs them and sends them to a
//! socket on the loopback interface, which a reader empties. Printed: announcements sent a second,
//! processor time of the thread for each, what of it was the kernel's, and the share of one core that
//! RATE takes. With a key file messages are sealed.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use control::api::{DaemonSpec, SyncRole};
use control::sync::auth::KeyFiles;
use control::sync::{Plan, Role, Sync};
use control::workers::Workers;
use dataplane::addr::{Addr, Endpoint};
use dataplane::command::{Command, channel};
use dataplane::settings::Settings;
use dataplane::sync::{Outbox, SyncEntry};
use mio::{Poll, Token, Waker};

/// Workers that announce.
const WORKERS: usize = 2;

/// Receive buffer of the reader, bytes.
const BUFFER: usize = 4 << 20;

/// Connection number `n` of a worker: clients of a /8.
fn entry(worker: usize, n: u64) -> SyncEntry {
    let [.., a, b, c] = (n as u32).to_be_bytes();
    SyncEntry {
        protocol: 6,
        flags: 0,
        state: 1,
        client: Endpoint::new(Addr::v4([10, a, b, c]), 40_000 + worker as u16),
        virtual_: Endpoint::new(Addr::v4([192, 0, 2, 1]), 443),
        dest: Endpoint::new(Addr::v4([192, 0, 2, 10]), 443),
        fwmark: 0,
        timeout: 900,
        sequence: None,
    }
}

/// Processor time that the thread of this name has used: all of it in nanoseconds, and of that the
/// kernel's share.
fn used(name: &str) -> (u64, f64) {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has it");
    for task in tasks.flatten() {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let (stat, all) = (read("stat"), read("schedstat"));
        let Some((head, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        if !head.ends_with(name) {
            continue;
        }
        let words: Vec<f64> = rest.split_whitespace().flat_map(str::parse).collect();
        let all = all.split(' ').next().and_then(|n| n.parse().ok());
        // Without the state, which is a letter: user and system time are words 11 and 12 of `stat`.
        let (user, system) = (words[10], words[11]);
        return (all.unwrap_or(0), system / (user + system).max(1.0));
    }
    (0, 0.0)
}

/// Fills the outboxes: so many a second and no more than a quarter of what an outbox holds ahead.
fn fill(outboxes: &[Arc<Outbox>], rate: u64, stop: &AtomicBool) -> u64 {
    let start = Instant::now();
    let mut put = 0;
    while !stop.load(Relaxed) {
        let due = match rate {
            0 => u64::MAX,
            rate => rate * start.elapsed().as_micros() as u64 / 1_000_000,
        };
        let mut idle = true;
        for (worker, outbox) in outboxes.iter().enumerate() {
            for _ in 0..256 {
                let is_full = rate == 0 && outbox.len() > dataplane::sync::outbox::CAPACITY / 4;
                if put >= due || is_full {
                    break;
                }
                outbox.put(entry(worker, put), None);
                put += 1;
                idle = false;
            }
        }
        if idle {
            thread::sleep(Duration::from_micros(500));
        }
    }
    put
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| {
        let given = arguments.get(at).and_then(|a| a.parse().ok());
        given.unwrap_or(default)
    };
    let (rate, seconds) = (number(0, 200_000), number(1, 5).max(1));
    let reader = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket2::SockRef::from(&reader).set_recv_buffer_size(BUFFER)?;
    let plan = Plan {
        role: Role::Master,
        daemon: Some(DaemonSpec {
            role: SyncRole::Master,
            interface: "lo".to_owned(),
            syncid: 0,
            maxlen: None,
            group: Ipv4Addr::LOCALHOST.into(),
            port: reader.local_addr()?.port(),
            ttl: 1,
            peers: false,
        }),
        keys: KeyFiles {
            current: arguments.get(2).map(PathBuf::from),
            previous: None,
        },
    };
    let received = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&received);
    thread::spawn(move || {
        let mut room = [0; 65536];
        while reader.recv(&mut room).is_ok() {
            counted.fetch_add(1, Relaxed);
        }
    });

    let poll = Poll::new()?;
    let mut sync = Sync::new(Arc::new(Waker::new(poll.registry(), Token(0))?));
    let (ends, fakes): (Vec<_>, Vec<_>) = (0..WORKERS).map(|_| channel(4)).unzip();
    let mut workers = Workers::new(ends);
    let complaints = sync.follow(&plan, &Settings::default(), &mut workers);
    if !complaints.is_empty() {
        return Err(std::io::Error::other(complaints.join("; ")));
    }
    let outboxes: Vec<Arc<Outbox>> = fakes
        .iter()
        .filter_map(|end| match end.commands.pop()?.command {
            Command::StartMaster(outbox) => Some(outbox),
            _ => None,
        })
        .collect();

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| fill(&outboxes, rate, &stop));
        thread::sleep(Duration::from_millis(500));
        let sent = || sync.views().iter().map(|view| view.entries).sum::<u64>();
        let name = "rvs-sync-master";
        let (before, start, cpu) = (sent(), Instant::now(), used(name).0);
        thread::sleep(Duration::from_secs(seconds));
        let (entries, wall) = (sent() - before, start.elapsed());
        let (after, system) = used(name);
        stop.store(true, Relaxed);
        let each = (after - cpu) as f64 / entries.max(1) as f64;
        let lost: u64 = sync.views().iter().map(|view| view.lost).sum();
        println!(
            "{:.0} announcements/s sent, {each:.0} ns of processor time each ({:.0} % in the kernel), \
             {lost} lost; 200,000 a second take {:.0} % of a core; {} messages read",
            entries as f64 / wall.as_secs_f64(),
            100.0 * system,
            each * 200_000.0 / 1e9 * 100.0,
            received.load(Relaxed)
        );
    });
    Ok(())
}
