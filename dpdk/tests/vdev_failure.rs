//! A virtual port that cannot be made is named in the error.

mod common;

use dpdk::eal::{self, Eal, EalError};

#[test]
fn the_failing_port_is_named() {
    assert!(matches!(eal::register_thread(), Err(EalError::NotRunning)));
    let config = common::config(&["net_null0", "net_pcap0,rx_pcap=/nonexistent/rvs.pcap"]);
    let error = Eal::init(&config).unwrap_err();
    common::remove_runtime_files();
    assert!(
        error
            .to_string()
            .starts_with("virtual port net_pcap0 could not be made;"),
        "{error}"
    );
    // EAL had its one chance.
    assert!(matches!(
        Eal::init(&common::config(&[])),
        Err(EalError::AlreadyStarted)
    ));
    assert!(matches!(eal::register_thread(), Err(EalError::NotRunning)));
}
