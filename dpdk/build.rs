//! Finds DPDK with pkg-config, compiles the C shim and binds its header.
//!
//! Only `cargo:rustc-link-lib` and `-search` lines are printed (never link arguments): they reach
//! every binary that uses this crate and none that does not.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Oldest release that has every function the shim calls.
const OLDEST: &str = "22.11";

/// The core libraries the shim uses. Drivers are plugins that EAL loads by itself at run time.
const LIBRARIES: &[&str] = &[
    "rte_ethdev",
    "rte_mbuf",
    "rte_mempool",
    "rte_ring",
    "rte_eal",
];

fn main() {
    for file in ["build.rs", "src/shim.c", "src/shim.h"] {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");

    let found = pkg_config::Config::new()
        .atleast_version(OLDEST)
        .cargo_metadata(false)
        .probe("libdpdk")
        .unwrap_or_else(|e| {
            panic!("libdpdk >= {OLDEST} is needed (Debian and Ubuntu: apt install dpdk-dev): {e}")
        });
    println!("cargo:version={}", found.version);

    // The pkg-config crate drops the forced include of rte_config.h and -march: ask again.
    let flags = raw_cflags();
    let mut shim = cc::Build::new();
    shim.file("src/shim.c")
        .opt_level(3)
        .flag("-Wall")
        .flag("-Wextra");
    for flag in &flags {
        // -I becomes -isystem: DPDK's inline functions are not ours to warn about.
        match flag.strip_prefix("-I") {
            Some(dir) => shim.flag("-isystem").flag(dir),
            None => shim.flag(flag),
        };
    }
    shim.compile("rvsshim");

    for dir in &found.link_paths {
        println!("cargo:rustc-link-search=native={}", dir.display());
    }
    for library in LIBRARIES {
        println!("cargo:rustc-link-lib=dylib={library}");
    }

    let bindings = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    bindgen::Builder::default()
        .header("src/shim.h")
        .clang_args(&flags)
        .allowlist_item("(rvs|RVS)_.*")
        .allowlist_function("rte_pktmbuf_(free_bulk|pool_create)")
        .allowlist_function("rte_mempool_(avail|in_use)_count")
        .allowlist_function("rte_ring_free")
        .allowlist_function("rte_eal_(init|cleanup|remote_launch|wait_lcore|hotplug_(add|remove))")
        .allowlist_function("rte_eth_dev_(start|stop|close|set_mtu)")
        .allowlist_function("rte_eth_(dev_get_(port_by_name|name_by_port)|find_next)")
        .allowlist_function("rte_eth_(promiscuous|allmulticast)_(enable|disable)")
        .allowlist_function("rte_(thread_(un)?register|get_tsc_hz)")
        // Pointers to these are passed around, never looked into.
        .blocklist_type("rte_(mbuf|mempool|ring)")
        .raw_line("#[repr(C)] pub struct rte_mbuf([u8; 0]);")
        .raw_line("#[repr(C)] pub struct rte_mempool([u8; 0]);")
        .raw_line("#[repr(C)] pub struct rte_ring([u8; 0]);")
        .prepend_enum_name(false)
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(true)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .generate()
        .expect("bindgen could not read src/shim.h (libclang-dev installed?)")
        .write_to_file(bindings.join("bindings.rs"))
        .expect("OUT_DIR is writable");
}

/// Every word of `pkg-config --cflags libdpdk`.
fn raw_cflags() -> Vec<String> {
    let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let out = Command::new(&tool)
        .args(["--cflags", "libdpdk"])
        .output()
        .unwrap_or_else(|e| panic!("cannot run {tool}: {e}"));
    assert!(out.status.success(), "{tool} --cflags libdpdk failed");
    String::from_utf8_lossy(&out.stdout)
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}
