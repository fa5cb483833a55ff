//! Keys of how rvsd sits on its host: `[dpdk]`, `[workers]`, `[kernel]`, `[admin]`, `[state]`, `[log]`.

use super::Fallback::{Computed, Value};
use super::Kind::{Boolean, Choice, ChoiceOrInteger, Integer, Integers, Text, Texts};
use super::{Section, key};

pub(super) static DPDK: Section = Section {
    path: "dpdk",
    list: false,
    live: false,
    help: "How DPDK's environment (EAL) starts.",
    keys: &[
        key(
            "memory",
            Choice(&["hugepages", "no-huge"], &[]),
            Value("\"hugepages\""),
            "where packet memory comes from; `no-huge` needs no preparation and is about half as fast",
        ),
        key(
            "memory_mb",
            Integer(64, 1 << 20),
            Computed("512, or 256 with `no-huge`"),
            "packet memory in MiB",
        ),
        key(
            "file_prefix",
            Text,
            Value("\"rvs\""),
            "name of EAL's runtime directory; two daemons on one host need two",
        ),
        key(
            "main_cores",
            Integers(0, 1023),
            Computed("all online, not isolated cores that run no worker"),
            "cores for everything that is no worker: control, pump, helpers",
        ),
        key(
            "vdevs",
            Texts,
            Value("[]"),
            "virtual devices that are no ports (members of a bond, say), as DPDK writes them; created before the ports",
        ),
        key(
            "pci",
            Texts,
            Value("[]"),
            "PCI devices besides those of ports that DPDK may touch; every other one is left alone",
        ),
        key(
            "iova",
            Choice(&["auto", "va", "pa"], &[]),
            Value("\"auto\""),
            "addresses that devices use: virtual (needs an IOMMU for PCI ports) or physical; `auto` is `va` without PCI ports and DPDK's choice with them",
        ),
        key(
            "log_level",
            Texts,
            Computed("`[\"error\"]`"),
            "DPDK's own log levels: `notice`, `lib.eal:info`, `pmd.*:debug`",
        ),
        key(
            "single_file_segments",
            Boolean,
            Computed("true if a port is vhost_user on hugepages"),
            "one file descriptor for all packet memory, as vhost-user backends want",
        ),
        key(
            "telemetry",
            Boolean,
            Value("false"),
            "DPDK's telemetry thread and socket",
        ),
        key(
            "extra_args",
            Texts,
            Value("[]"),
            "more EAL arguments, one word each, passed on unchecked",
        ),
    ],
};

pub(super) static WORKERS: Section = Section {
    path: "workers",
    list: false,
    live: false,
    help: "The poll-mode workers and the capacities fixed at start.",
    keys: &[
        key(
            "cores",
            Integers(0, 1023),
            Computed("the first isolated core, else the last online one"),
            "a worker on each of these cores",
        ),
        key(
            "idle",
            Choice(&["auto", "adaptive", "poll"], &[]),
            Value("\"auto\""),
            "when nothing arrives: `poll` on, or `adaptive`: sleep after some empty polls; `auto` polls if any port is a PCI device",
        ),
        key(
            "idle_spin_polls",
            Integer(1, 1_000_000),
            Value("64"),
            "empty polls before the first sleep",
        ),
        key(
            "idle_sleep_us",
            Integer(1, 10_000),
            Value("400"),
            "longest sleep in microseconds; shortened so that the receive ring cannot overflow",
        ),
        key(
            "connections",
            Integer(1024, 1 << 27),
            Computed("1000000, or 65536 with `no-huge`"),
            "capacity of the connection table; about 150 bytes each from a million on, 170 at 65536",
        ),
        key(
            "max_services",
            Integer(1, 65_536),
            Value("4096"),
            "capacity for virtual services",
        ),
        key(
            "max_servers",
            Integer(1, 1 << 20),
            Value("16384"),
            "capacity for real servers of all services, deleted ones with living connections included",
        ),
        key(
            "max_routes",
            Integer(16, 1 << 24),
            Value("1200000"),
            "capacity for routes mirrored from the kernel",
        ),
        key(
            "max_neighbours",
            Integer(16, 1 << 20),
            Value("16384"),
            "capacity for neighbours mirrored from the kernel",
        ),
    ],
};

pub(super) static KERNEL: Section = Section {
    path: "kernel",
    list: false,
    live: false,
    help: "What is mirrored from the kernel: routes and neighbours stay the kernel's.",
    keys: &[
        key(
            "table",
            ChoiceOrInteger(&["main"], 1, u32::MAX as i64),
            Value("\"main\""),
            "routing table to mirror: `\"main\"` or its number",
        ),
        key(
            "vrf",
            Text,
            Computed("none"),
            "mirror the table of this VRF device instead; the twins must be enslaved to it",
        ),
        key(
            "neighbour_refresh_s",
            Integer(1, 3600),
            Value("20"),
            "seconds between probes that keep the MACs of servers and gateways known",
        ),
        key(
            "netlink_buffer_kib",
            Integer(64, 1 << 20),
            Value("8192"),
            "receive buffer of the netlink socket in KiB; a full routing table that flaps needs it",
        ),
    ],
};

pub(super) static ADMIN: Section = Section {
    path: "admin",
    list: false,
    live: false,
    help: "The socket that `rvsadm` speaks to. Who may write to it rules the load balancer.",
    keys: &[
        key(
            "socket",
            Text,
            Value("\"/run/rvs/rvsd.sock\""),
            "path, absolute",
        ),
        key("mode", Text, Value("\"0600\""), "permissions, octal"),
        key(
            "group",
            Text,
            Computed("the daemon's"),
            "group of the socket",
        ),
    ],
};

pub(super) static STATE: Section = Section {
    path: "state",
    list: false,
    live: false,
    help: "What outlives the daemon, so that a crash or a restart ends no connection. Under systemd both are on by themselves (`StateDirectory=`, `RuntimeDirectory=`).",
    keys: &[
        key(
            "directory",
            Text,
            Computed("the first of `$STATE_DIRECTORY`, else none"),
            "directory of the rules that run, with live changes, on a file system that lasts; `\"\"` for none",
        ),
        key(
            "table",
            Text,
            Computed("`table` in the first of `$RUNTIME_DIRECTORY`, else none"),
            "file of the connection table, on hugetlbfs or tmpfs; `\"\"` keeps the table in memory that ends with the daemon",
        ),
    ],
};

pub(super) static LOG: Section = Section {
    path: "log",
    list: false,
    live: false,
    help: "The daemon's log.",
    keys: &[
        key(
            "format",
            Choice(&["human", "json"], &[]),
            Value("\"human\""),
            "form of a line",
        ),
        key(
            "filter",
            Text,
            Value("\"info\""),
            "level, and exceptions by module: `info,control::netlink=debug`",
        ),
        key(
            "file",
            Text,
            Computed("standard error"),
            "file to append to",
        ),
    ],
};
