//! Two processes with one file prefix: the second is told who has it. Then a clean end.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use dpdk::eal::{Eal, EalError};

const PREFIX: &str = "RVS_TEST_PREFIX";

/// Run by the test below in a process of its own: holds the prefix until its input ends.
#[test]
fn holder() {
    let Ok(prefix) = std::env::var(PREFIX) else {
        return;
    };
    let eal = Eal::init(&dpdk::eal::EalConfig {
        file_prefix: prefix,
        ..common::config(&[])
    })
    .unwrap_or_else(|e| panic!("{e}"));
    println!("\nholding");
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().lines().next();
    eal.cleanup().unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_prefix_has_one_user() {
    if std::env::var_os(PREFIX).is_some() {
        return;
    }
    let config = common::config(&[]);
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder", "--nocapture"])
        .env(PREFIX, &config.file_prefix)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap() == "holding"),
        "the other process has started EAL"
    );

    let error = config.preflight(&dpdk::host::Host::this()).unwrap_err();
    let text = error.to_string();
    let EalError::PrefixInUse { pid, .. } = error else {
        panic!("{text}")
    };
    assert_eq!(pid, holder.id() as i32);
    // Refused before EAL was touched, so it can be started once the other has ended.
    assert!(matches!(
        Eal::init(&config),
        Err(EalError::PrefixInUse { .. })
    ));
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());

    let eal = Eal::init(&config).unwrap_or_else(|e| panic!("{e}"));
    {
        let pool = common::pool(&eal);
        let (mut tx, _rx) = dpdk::ring::single_producer(&eal, 64).unwrap();
        let mut burst = dpdk::mbuf::Burst::new();
        assert!(pool.alloc_burst(&mut burst, 32));
        assert_eq!(tx.send(&mut burst), 32);
    }
    eal.cleanup().unwrap_or_else(|e| panic!("{e}"));
    common::remove_runtime_files();
}
