//! What the tests on virtual ports share. EAL is one per process, so each file is one test.
#![allow(dead_code)]

use std::fs::File;
use std::process::{Command, id};
use std::time::{Duration, Instant};

use dpdk::eal::{Eal, EalConfig, Memory};
use dpdk::mbuf::Burst;
use dpdk::mempool::{DATA_ROOM, Mempool};
use dpdk::port::{PortConfig, RunningPort, RxQueue, TxQueue};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// An EAL that works anywhere: ordinary memory, a prefix of its own, every lcore on every core.
pub fn config(vdevs: &[&str]) -> EalConfig {
    let cores = dpdk::lcore::affinity().expect("the kernel knows where we may run");
    EalConfig {
        memory: Memory::NoHuge { mb: 128 },
        file_prefix: format!("rvs-test-{}", id()),
        worker_cores: vec![*cores.last().expect("a thread may run somewhere")],
        main_cores: cores,
        vdevs: vdevs.iter().map(|v| (*v).to_owned()).collect(),
        ..EalConfig::default()
    }
}

/// EAL leaves the directory of its prefix behind.
pub fn remove_runtime_files() {
    let _ = std::fs::remove_dir_all(format!("/var/run/dpdk/rvs-test-{}", id()));
}

pub fn start(vdevs: &[&str]) -> Eal {
    Eal::init(&config(vdevs)).unwrap_or_else(|e| panic!("{e}"))
}

pub fn pool(eal: &Eal) -> Mempool {
    Mempool::new(eal, "test", 4095, 32, DATA_ROOM, None).unwrap_or_else(|e| panic!("{e}"))
}

/// One queue each way.
pub const SMALL: PortConfig = PortConfig {
    rx_queues: 1,
    tx_queues: 1,
    rx_descriptors: 256,
    tx_descriptors: 256,
    mtu: None,
    scatter: false,
    offloads: dpdk::port::Offloads::NONE,
    rss_key: None,
    urgent: false,
};

pub fn run(eal: &Eal, name: &str, pool: &Mempool) -> RunningPort {
    let port = dpdk::port::Port::open(eal, name).unwrap_or_else(|e| panic!("{e}"));
    port.start(&SMALL, pool).unwrap_or_else(|e| panic!("{e}"))
}

pub fn queues(port: &mut RunningPort) -> (RxQueue, TxQueue) {
    (
        port.rx_queue(0).expect("queue 0 is free"),
        port.tx_queue(0).expect("queue 0 is free"),
    )
}

/// Receives until `burst` holds `want`, or says what was awaited.
pub fn receive(rx: &mut RxQueue, burst: &mut Burst, want: usize, awaited: &str) {
    until(awaited, || {
        rx.receive(burst);
        burst.len() >= want
    });
}

/// Polls until `done`; fails after ten seconds with what was awaited.
pub fn until(awaited: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(
            Instant::now() < deadline,
            "ten seconds passed without {awaited}"
        );
        std::thread::yield_now();
    }
}

/// A frame of `len` bytes whose contents tell its number.
pub fn frame(number: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![number; len];
    bytes[..6].copy_from_slice(&[0xff; 6]);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    // An ethertype for local experiments: nobody else answers it.
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes
}

/// A network namespace of this test, entered by the calling thread, deleted on drop.
pub struct Namespace(String);

impl Namespace {
    pub fn enter() -> Namespace {
        let name = format!("rvs-dpdk-{}", id());
        ip(&["netns", "add", &name]);
        let file = File::open(format!("/var/run/netns/{name}")).expect("ip has just made it");
        let namespace = Namespace(name);
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&file),
            Some(LinkNameSpaceType::Network),
        )
        .expect("root may enter a namespace");
        namespace
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

pub fn ip(args: &[&str]) {
    run_command("ip", args);
}

pub fn run_command(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        out.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}
