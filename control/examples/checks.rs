//! How many TCP checks a second the checks' thread makes, what they cost, and how late they begin.
//!
//! ```text
//! cargo run --release -p control --example checks [SERVERS [DELAY_MS [SECONDS]]]
//! ```
//!
//! SERVERS addresses of 127.0.0.0/8 answer on one port; each is checked every DELAY_MS. The default
//! is 1,000 servers each 100 ms: 10,000 checks a second and a little more, since a delay is up to a
//! twentieth shorter.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use control::api::{Method, Protocol, ServerKey, ServerSpec, ServiceKey, ServiceSpec};
use control::config::OperatorState;
use control::health::{Checks, Health, Kind, Pool, Port, Spec, Via};
use control::model::{Author, Change, Limits, Model};
use dataplane::settings::Settings;
use dataplane::time::Instant;
use healthcheck::monitor::Pace;
use mio::{Poll, Token, Waker};

/// Jiffies of processor time that a thread of this process has used, by its name; 100 a second.
fn jiffies(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has it");
    let used = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (head, rest) = text.rsplit_once(')')?;
        head.ends_with(name).then_some(())?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        Some(words.get(11)?.parse::<u64>().ok()? + words.get(12)?.parse::<u64>().ok()?)
    });
    used.sum()
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse().unwrap_or(0));
    let mut argument = |default: u64| arguments.next().filter(|n| *n > 0).unwrap_or(default);
    let (servers, delay, seconds) = (argument(1000), argument(100), argument(20));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || listener.incoming().for_each(drop));

    let service = ServiceKey::new(Protocol::Tcp, [192, 0, 2, 1].into(), 80);
    let check = Spec {
        kind: Kind::Tcp,
        pace: Pace {
            delay_loop: Duration::from_millis(delay),
            delay_before_retry: Duration::from_millis(delay),
            retry: 1,
            rise: 1,
            warmup: Duration::from_millis(delay),
            deadline: Duration::from_secs(1),
            alpha: false,
        },
        addr: None,
        port: Port::Server,
        via: Via::Server,
        source: None,
        interface: None,
        fwmark: 0,
    };
    let checks = Checks {
        common: [check].into(),
        own: BTreeMap::new(),
        pool: Pool::default(),
    };
    let limits = Limits {
        services: 1,
        servers: servers as u32,
        workers: 1,
    };
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), Token(0))?);
    let (mut model, mut health) = (
        Model::new(limits, Settings::default()),
        Health::start(waker, control::script::Scripts::default(), None)?,
    );
    let now = Instant::from_secs(1);
    let mut apply = |change| {
        let done = model.apply(now, Author::Operator, &change, &[]);
        done.unwrap_or_else(|refusal| panic!("{refusal}"));
    };
    let spec = ServiceSpec {
        scheduler: "rr".into(),
        ..ServiceSpec::default()
    };
    apply(Change::AddService(service, spec));
    for n in 0..servers as u32 {
        let addr = IpAddr::V4(Ipv4Addr::from_bits(0x7f01_0001 + n));
        let spec = ServerSpec {
            method: Method::Masq,
            weight: 1,
            ..ServerSpec::default()
        };
        let key = ServerKey { addr, port };
        apply(Change::AddServer(service, key, spec, OperatorState::Up));
    }
    health.follow(now, &mut model, &BTreeMap::from([(service, checks)]), &[]);

    std::thread::sleep(Duration::from_secs(2));
    let (before, used, began) = (
        health.gauges().attempts(),
        jiffies("rvs-checks"),
        Clock::now(),
    );
    std::thread::sleep(Duration::from_secs(seconds));
    let (time, used) = (began.elapsed(), jiffies("rvs-checks") - used);
    let made = health.gauges().attempts() - before;
    let rate = made as f64 / time.as_secs_f64();
    let share = used as f64 / time.as_secs_f64();
    println!("{servers} servers each {delay} ms: {rate:.0} checks/s, {share:.0} % of a core");
    println!(
        "{:.1} us of processor time a check",
        used as f64 * 10_000.0 / made.max(1) as f64
    );
    for (name, per_mille) in [("p50", 500), ("p99", 990), ("p99.9", 999)] {
        let late = health.gauges().lateness(per_mille);
        println!("begun late, {name}: under {} us", late.as_micros());
    }
    health.take(&mut model);
    let dead = health.states().filter(|s| !s.alive).count();
    println!("servers that count as down: {dead}");
    Ok(())
}
