//! Ports between two processes: memif, and virtio-user on a vhost-user socket. The other process
//! returns every frame.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::thread;

use dataplane::packet::PortId;
use dpdk::mbuf::Burst;

/// Tells the other process which port to make.
const VDEV: &str = "RVS_TEST_ECHO";

/// Run by the tests below in a process of its own: sends back what comes until its input ends.
#[test]
fn echo() {
    let Ok(vdev) = std::env::var(VDEV) else {
        return;
    };
    let eal = common::start(&[&vdev]);
    let pool = common::pool(&eal);
    let mut port = common::run(&eal, vdev.split(',').next().unwrap(), &pool);
    let (mut rx, mut tx) = common::queues(&mut port);
    println!("\nready");
    std::io::stdout().flush().unwrap();
    let input = thread::spawn(|| std::io::stdin().lines().next());
    let mut burst = Burst::new();
    while !input.is_finished() {
        if rx.receive(&mut burst) == 0 {
            thread::yield_now();
        }
        tx.send(&mut burst);
    }
    common::remove_runtime_files();
}

fn other_process(vdev: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "echo", "--nocapture"])
        .env(VDEV, vdev)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap() == "ready"),
        "the other process has its port"
    );
    // It goes on writing; somebody must read.
    thread::spawn(move || lines.count());
    child
}

#[test]
fn frames_return_from_another_process() {
    if std::env::var_os(VDEV).is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (memif, vhost) = (dir.path().join("memif"), dir.path().join("vhost"));
    let mut others = [
        other_process(&format!(
            "net_memif0,role=server,id=0,socket-abstract=no,socket={}",
            memif.display()
        )),
        other_process(&format!("net_vhost0,iface={},queues=1", vhost.display())),
    ];
    let memif = format!(
        "net_memif0,role=client,id=0,socket-abstract=no,socket={}",
        memif.display()
    );
    let virtio = format!("net_virtio_user0,path={},queues=1", vhost.display());
    let eal = common::start(&[&memif, &virtio]);
    let pool = common::pool(&eal);

    for (name, driver) in [
        ("net_memif0", "net_memif"),
        ("net_virtio_user0", "net_virtio_user"),
    ] {
        let mut port = common::run(&eal, name, &pool);
        assert_eq!(port.info().unwrap().driver, driver);
        common::until(&format!("the link of {name}"), || port.link().unwrap().up);
        let (mut rx, mut tx) = common::queues(&mut port);
        let (mut out, mut back) = (Burst::new(), Burst::new());
        for number in 0..32 {
            let mut mbuf = pool.alloc().unwrap();
            assert!(mbuf.write(&common::frame(number, 200 + usize::from(number))));
            out.push(mbuf).unwrap();
        }
        common::until(&format!("room for 32 frames in {name}"), || {
            tx.send(&mut out);
            out.is_empty()
        });
        common::receive(
            &mut rx,
            &mut back,
            32,
            &format!("the return of 32 frames by {name}"),
        );
        back.with_packets(PortId(0), |packets| {
            for (packet, number) in packets.iter().zip(0..) {
                assert_eq!(
                    packet.frame(),
                    common::frame(number, 200 + usize::from(number))
                );
            }
        });
        drop((rx, tx));
        let port = port.stop().unwrap();
        drop((port, back));
    }
    for other in &mut others {
        drop(other.stdin.take());
        assert!(other.wait().unwrap().success());
    }
    assert_eq!(pool.in_use(), 0);
    common::remove_runtime_files();
}
