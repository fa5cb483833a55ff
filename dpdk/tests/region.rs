//! What a process leaves in a region file, the next one finds.

mod common;

use std::path::Path;
use std::process::Command;

use dpdk::region::{Backing, Region, RegionError};

const FILE: &str = "RVS_TEST_REGION";
const LEN: usize = 3 << 20;

fn backing(path: &Path) -> Backing {
    Backing::File(path.to_owned())
}

/// Run by the test below in a process of its own: writes, and ends without any ceremony.
#[test]
fn writer() {
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    let region = Region::map(&backing(Path::new(&path)), LEN, false).unwrap();
    assert!(region.is_new());
    let bytes = region.into_bytes();
    (bytes[0], bytes[LEN - 1]) = (1, 2);
    std::process::abort();
}

#[test]
fn contents_outlive_the_process() {
    if std::env::var_os(FILE).is_some() {
        return;
    }
    let shared_memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = shared_memory.path().join("table");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer"])
        .env(FILE, &path)
        .status()
        .unwrap();
    assert!(!status.success(), "it aborts");

    let error = Region::map(&backing(&path), 2 * LEN, false).unwrap_err();
    assert!(matches!(error, RegionError::Size { .. }), "{error}");
    let region = Region::map(&backing(&path), LEN, true).unwrap();
    assert!(!region.is_new());
    let bytes = region.into_bytes();
    assert_eq!((bytes[0], bytes[1], bytes[LEN - 1]), (1, 0, 2));
}
