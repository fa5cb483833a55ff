//! Every key of the configuration file: name, type, range, default and meaning, as plain values.
//!
//! The reader checks the file against this table, `docs/configuration.md` is printed from it, and
//! a test asks that `configs/rvsd.toml` shows each key. A new key is one line here, one place in
//! `validate` that reads it, and one line in `configs/rvsd.toml`; tests name what is missing.

use std::fmt::Write;

use dataplane::schedule;

mod check;
mod health;
mod notify;
mod pool;
mod sync;
mod vrrp;

use check::{CHECK, SERVER_CHECK};
use health::HEALTH;
use notify::{ALERT, NOTIFY, SCRIPTS, SERVER_NOTIFY, SERVICE_NOTIFY};
use sync::SYNC;
use vrrp::{TRACK, VRRP};

/// A table of the file: `[name]`, or `[[name]]` if it may occur several times.
#[derive(Debug)]
pub struct Section {
    /// Path as written between the brackets: `dpdk`, `service.server`.
    pub path: &'static str,
    /// Written `[[path]]`, any number of times.
    pub list: bool,
    /// Whether a reload applies changes; otherwise they wait for a restart.
    pub live: bool,
    /// What it is for.
    pub help: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// A key of a section.
#[derive(Debug)]
pub struct Key {
    /// Name.
    pub name: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// What holds when it is left out.
    pub default: Fallback,
    /// What it means, with its unit.
    pub help: &'static str,
}

/// Type and range of a value.
#[derive(Debug)]
pub enum Kind {
    /// Any text.
    Text,
    /// One of these words; the pairs are other spellings and what they stand for.
    Choice(
        &'static [&'static str],
        &'static [(&'static str, &'static str)],
    ),
    /// An integer in this range.
    Integer(i64, i64),
    /// A time in words, `10s` or `1m 30s`, of so many milliseconds.
    Duration(u64, u64),
    /// One of these words, or an integer in this range.
    ChoiceOrInteger(&'static [&'static str], i64, i64),
    /// `true` or `false`.
    Boolean,
    /// A list of texts.
    Texts,
    /// A list of integers in this range.
    Integers(i64, i64),
    /// A table, `[path]` or `{ … }`.
    Table(&'static Section),
    /// A list of tables, `[[path]]`.
    Tables(&'static Section),
}

/// What holds when a key is left out.
#[derive(Debug)]
pub enum Fallback {
    /// This value, written in TOML.
    Value(&'static str),
    /// A value that depends on other things, in words.
    Computed(&'static str),
    /// It must be there.
    Required,
    /// It must be there unless this other key is.
    RequiredUnless(&'static str),
}

use Fallback::{Computed, Required, RequiredUnless, Value};
use Kind::{
    Boolean, Choice, ChoiceOrInteger, Duration, Integer, Integers, Table, Tables, Text, Texts,
};

const fn key(name: &'static str, kind: Kind, default: Fallback, help: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        help,
    }
}

/// Largest value that the kernel's interface carries for weights and thresholds.
pub const MAX_WEIGHT: i64 = i32::MAX as i64;

/// Largest timeout, seconds: 31 days, as for `rvsadm --set`.
pub const MAX_TIMEOUT: i64 = 2_678_400;

/// Schedulers that a service may name: those of the core's table.
pub const SCHEDULERS: &[&str] = &SCHEDULER_NAMES;

const SCHEDULER_NAMES: [&str; schedule::SCHEDULERS.len()] = {
    let mut names = [""; schedule::SCHEDULERS.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = schedule::SCHEDULERS[i].0;
        i += 1;
    }
    names
};

/// The file as a whole.
pub static ROOT: Section = Section {
    path: "",
    list: false,
    live: false,
    help: "",
    keys: &[
        key("dpdk", Table(&DPDK), Computed("all defaults"), ""),
        key("workers", Table(&WORKERS), Computed("all defaults"), ""),
        key("port", Tables(&PORT), Required, ""),
        key("kernel", Table(&KERNEL), Computed("all defaults"), ""),
        key("admin", Table(&ADMIN), Computed("all defaults"), ""),
        key("state", Table(&STATE), Computed("all defaults"), ""),
        key("log", Table(&LOG), Computed("all defaults"), ""),
        key("ipvs", Table(&IPVS), Computed("all defaults"), ""),
        key("punt", Table(&PUNT), Computed("all defaults"), ""),
        key("overload", Table(&OVERLOAD), Computed("all defaults"), ""),
        key("sync", Table(&SYNC), Computed("none"), ""),
        key("health", Table(&HEALTH), Computed("all defaults"), ""),
        key("mark", Tables(&MARK), Computed("none"), ""),
        key("service", Tables(&SERVICE), Computed("none"), ""),
        key("vrrp", Table(&VRRP), Computed("no virtual router"), ""),
        key("track", Table(&TRACK), Computed("nothing"), ""),
        key("scripts", Table(&SCRIPTS), Computed("all defaults"), ""),
        key("notify", Table(&NOTIFY), Computed("all defaults"), ""),
        key("alert", Table(&ALERT), Computed("nothing"), ""),
    ],
};

static DPDK: Section = Section {
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

static WORKERS: Section = Section {
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

static PORT: Section = Section {
    path: "port",
    list: true,
    live: false,
    help: "A data port. Give exactly one of `pci`, `af_packet`, `af_xdp`, `memif`, `vhost_user`, `pcap`, `null`, `bond`, `vdev`.",
    keys: &[
        key(
            "name",
            Text,
            Required,
            "name in `rvsadm status` and `rvsadm capture`",
        ),
        key(
            "pci",
            Text,
            Computed("none"),
            "PCI address of a NIC bound to vfio-pci, `0000:03:00.0`",
        ),
        key(
            "af_packet",
            Text,
            Computed("none"),
            "kernel interface, reached by an AF_PACKET socket; works everywhere",
        ),
        key(
            "af_xdp",
            Text,
            Computed("none"),
            "kernel interface, reached by an AF_XDP socket",
        ),
        key(
            "memif",
            Table(&MEMIF),
            Computed("none"),
            "shared-memory port to another process on this host",
        ),
        key(
            "vhost_user",
            Text,
            Computed("none"),
            "path of a vhost-user socket that the other side (a switch, a hypervisor) listens on",
        ),
        key(
            "pcap",
            Table(&PCAP),
            Computed("none"),
            "packets from and to files, for tests",
        ),
        key(
            "null",
            Table(&NULL),
            Computed("none"),
            "no packets, or empty ones as fast as asked, for benches",
        ),
        key(
            "bond",
            Table(&BOND),
            Computed("none"),
            "several devices as one: failover, or more bandwidth",
        ),
        key(
            "vdev",
            Text,
            Computed("none"),
            "any other virtual device as DPDK writes it, `net_tap0,iface=x0`",
        ),
        key(
            "mac",
            Text,
            Computed("chosen by the driver at each start"),
            "own MAC address; for memif and vhost_user only, other devices have one",
        ),
        key(
            "twin",
            Text,
            Computed("`rvs-` and the name of the port"),
            "name of the kernel device that carries the port's addresses and routes; at most 15 characters",
        ),
        key(
            "mtu",
            Integer(576, 9216),
            Value("1500"),
            "largest packet in bytes, without its Ethernet header; at most 3542 on af_xdp; on af_packet the interface gets it, too",
        ),
        key(
            "rx_queues",
            Integer(0, 64),
            Value("0"),
            "receive queues; 0: one for each worker if the device spreads packets (RSS), else 1",
        ),
        key(
            "faces",
            Choice(&["both", "clients", "servers"], &[]),
            Value("\"both\""),
            "who is on this port; if every port says either clients or servers, NICs that take a key of ours (RSS) bring requests and replies of a client over IPv4 to one worker, and nothing is handed over",
        ),
        key(
            "rx_descriptors",
            Integer(64, 32_768),
            Value("1024"),
            "receive ring, packets per queue",
        ),
        key(
            "tx_descriptors",
            Integer(64, 32_768),
            Value("1024"),
            "transmit ring, packets per queue",
        ),
        key(
            "promiscuous",
            Boolean,
            Value("false"),
            "receive frames for any MAC; frames that are not ours are dropped all the same",
        ),
        key(
            "rx_csum_fixup",
            Boolean,
            Computed("true on af_packet and af_xdp"),
            "complete TCP, UDP and SCTP checksums that a virtual peer left to its hardware",
        ),
        key(
            "rx_gso_fixup",
            Boolean,
            Value("false"),
            "cut TCP packets of up to 64 KiB that a virtual peer left to its hardware (TSO) to the MTU; af_packet only, takes 64 MiB",
        ),
        key(
            "offloads",
            Choice(&["auto", "all", "none"], &[]),
            Value("\"auto\""),
            "checksums that the NIC verifies or works out, VLAN tags that it takes out and puts in, and a receive queue of its own for VRRP and ARP; auto: where the driver has a NIC do it, all: also where it does it itself",
        ),
        key(
            "twin_sysctls",
            Boolean,
            Value("true"),
            "set arp_ignore, arp_announce, rp_filter and send_redirects of the twin to values fit for a load balancer",
        ),
    ],
};

static MEMIF: Section = Section {
    path: "port.memif",
    list: false,
    live: false,
    help: "Written inline: `memif = { socket = \"/run/rvs/memif.sock\", id = 0, role = \"server\" }`. \
           A peer that misbehaves can crash `rvsd` ([why, and what to use then](operations.md#memif-ports)).",
    keys: &[
        key("socket", Text, Required, "path of the control socket"),
        key(
            "id",
            Integer(0, u32::MAX as i64),
            Value("0"),
            "interface number, the same on both sides",
        ),
        key(
            "role",
            Choice(
                &["server", "client"],
                &[("master", "server"), ("slave", "client")],
            ),
            Value("\"client\""),
            "who makes the socket",
        ),
    ],
};

static PCAP: Section = Section {
    path: "port.pcap",
    list: false,
    live: false,
    help: "Written inline: `pcap = { rx = \"in.pcap\", tx = \"out.pcap\" }`; either files or an interface.",
    keys: &[
        key(
            "rx",
            Text,
            Computed("nothing is received"),
            "file to read packets from",
        ),
        key(
            "tx",
            Text,
            Computed("sent packets are dropped"),
            "file to write packets to",
        ),
        key(
            "interface",
            Text,
            Computed("none"),
            "kernel interface, by libpcap",
        ),
        key(
            "infinite",
            Boolean,
            Value("false"),
            "read the file over and over",
        ),
    ],
};

static NULL: Section = Section {
    path: "port.null",
    list: false,
    live: false,
    help: "Written inline: `null = {}`.",
    keys: &[
        key(
            "size",
            Integer(60, 9216),
            Value("64"),
            "bytes of a received packet",
        ),
        key(
            "receive",
            Boolean,
            Value("false"),
            "receive packets (of undefined contents)",
        ),
    ],
};

static BOND: Section = Section {
    path: "port.bond",
    list: false,
    live: false,
    help: "Written inline: `bond = { mode = \"active-backup\", members = [\"0000:03:00.0\", \"0000:03:00.1\"] }`. \
           When another member takes over, the addresses of the twin are announced again.",
    keys: &[
        key(
            "mode",
            Choice(&["active-backup", "balance", "802.3ad"], &[]),
            Required,
            "one sends and the others stand by; all send, by a hash; the same agreed with the switch (LACP)",
        ),
        key(
            "members",
            Texts,
            Required,
            "PCI addresses, kernel interfaces (by AF_PACKET), or names of devices in `dpdk.vdevs`",
        ),
        key(
            "primary",
            Text,
            Computed("the first member, until it fails"),
            "the member that sends whenever its link is up; active-backup only",
        ),
        key(
            "xmit_policy",
            Choice(&["l2", "l23", "l34"], &[]),
            Value("\"l34\""),
            "what the hash is made of: MAC addresses, and IP addresses, or IP addresses and ports",
        ),
    ],
};

static KERNEL: Section = Section {
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

static ADMIN: Section = Section {
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

static STATE: Section = Section {
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

static LOG: Section = Section {
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

static IPVS: Section = Section {
    path: "ipvs",
    list: false,
    live: true,
    help: "Timeouts, and settings named as the kernel's sysctls (`net.ipv4.vs.*` and, for the last three, `net.ipv4.*`).",
    keys: &[
        key(
            "tcp_timeout",
            Integer(1, MAX_TIMEOUT),
            Value("900"),
            "seconds, TCP ESTABLISHED (`rvsadm --set`)",
        ),
        key(
            "tcp_fin_timeout",
            Integer(1, MAX_TIMEOUT),
            Value("120"),
            "seconds, TCP FIN_WAIT (`rvsadm --set`)",
        ),
        key(
            "udp_timeout",
            Integer(1, MAX_TIMEOUT),
            Value("300"),
            "seconds, UDP (`rvsadm --set`)",
        ),
        key(
            "am_droprate",
            Integer(0, MAX_WEIGHT),
            Value("10"),
            "`drop_packet = 3` drops one of so many packets that would open a connection; 0 drops none",
        ),
        key(
            "amemthresh",
            Integer(0, MAX_WEIGHT),
            Value("1024"),
            "free entries of the connection table below which the automatic defences start (the kernel counts pages of memory here)",
        ),
        key(
            "backup_only",
            Boolean,
            Value("false"),
            "while a backup daemon of synchronisation runs, packets of clients are left to the host",
        ),
        key(
            "cache_bypass",
            Boolean,
            Value("false"),
            "packets of a firewall-mark service without a usable server go to their own destination",
        ),
        key(
            "conn_reuse_mode",
            Integer(0, 3),
            Value("1"),
            "what a SYN on a closing connection does, bits: 1 schedule anew, 2 also in FIN_WAIT seen from one side",
        ),
        key(
            "drop_entry",
            Integer(0, 3),
            Value("0"),
            "drop half-open and idle connections: 0 off, 1 automatic (2: automatic and at work), 3 always",
        ),
        key(
            "drop_packet",
            Integer(0, 3),
            Value("0"),
            "drop a share of the packets that would open a connection: 0 off, 1 automatic (2: at work), 3 always",
        ),
        key(
            "expire_nodest_conn",
            Boolean,
            Value("false"),
            "end the connections of a deleted server instead of dropping their packets",
        ),
        key(
            "expire_quiescent_template",
            Boolean,
            Value("false"),
            "clients leave a persistent server whose weight is 0",
        ),
        key(
            "lblc_expiration",
            Integer(0, MAX_TIMEOUT),
            Value("86400"),
            "seconds after which `lblc` forgets an address that was not asked for",
        ),
        key(
            "lblcr_expiration",
            Integer(0, MAX_TIMEOUT),
            Value("86400"),
            "the same for `lblcr`",
        ),
        key(
            "nat_icmp_send",
            Boolean,
            Value("false"),
            "answer packets of NAT servers that belong to no connection with port unreachable",
        ),
        key(
            "pmtu_disc",
            Boolean,
            Value("true"),
            "path MTU discovery in tunnels",
        ),
        key(
            "run_estimation",
            Boolean,
            Value("true"),
            "estimate rates; false freezes rates and all displayed counters",
        ),
        key(
            "schedule_icmp",
            Boolean,
            Value("false"),
            "an ICMP error may open a connection for the packet it quotes",
        ),
        key(
            "secure_tcp",
            Integer(0, 3),
            Value("0"),
            "follow TCP by the table for SYN floods: 0 off, 1 automatic (2: at work), 3 always",
        ),
        key(
            "sloppy_sctp",
            Boolean,
            Value("false"),
            "schedule SCTP packets other than INIT, too",
        ),
        key(
            "sloppy_tcp",
            Boolean,
            Value("false"),
            "schedule TCP packets other than SYN, too",
        ),
        sync::THRESHOLD,
        sync::PERIOD,
        sync::REFRESH_PERIOD,
        sync::RETRIES,
        sync::PERSIST_MODE,
        sync::VERSION,
        sync::PORTS,
        sync::QLEN_MAX,
        sync::SOCK_SIZE,
        key(
            "icmp_msgs_per_sec",
            Integer(1, 10_000_000),
            Value("1000"),
            "ICMP answers of ours per second",
        ),
        key(
            "icmp_msgs_burst",
            Integer(1, 1_000_000),
            Value("50"),
            "ICMP answers of ours in one burst",
        ),
        key(
            "icmp_ratelimit",
            Integer(0, 1_000_000),
            Value("1000"),
            "milliseconds between ICMP answers of ours to one peer after a burst of six, 0 = no limit",
        ),
    ],
};

static PUNT: Section = Section {
    path: "punt",
    list: false,
    live: true,
    help: "Packets per second that may go to the kernel twins, by class; 0 is no limit. The first class is served first.",
    keys: &[
        key(
            "advert",
            Integer(0, u32::MAX as i64),
            Value("20000"),
            "VRRP adverts",
        ),
        key(
            "control",
            Integer(0, u32::MAX as i64),
            Value("20000"),
            "ARP, neighbour discovery, LACP, LLDP",
        ),
        key(
            "routing",
            Integer(0, u32::MAX as i64),
            Value("50000"),
            "BGP and BFD",
        ),
        key(
            "host",
            Integer(0, u32::MAX as i64),
            Value("100000"),
            "to an address of this host: checks, SSH, echo",
        ),
        key(
            "transit",
            Integer(0, u32::MAX as i64),
            Value("200000"),
            "packets the kernel is to forward",
        ),
    ],
};

static OVERLOAD: Section = Section {
    path: "overload",
    list: false,
    live: true,
    help: "What a worker does that has more packets than time.",
    keys: &[key(
        "hits_first",
        Boolean,
        Value("true"),
        "while a receive queue stays half full or fuller, or has 512 packets, a share of the packets that would open connections is refused (drop reason `overload`), so that known connections go on; 1 new connection for each 128 packets is always let in",
    )],
};

static MARK: Section = Section {
    path: "mark",
    list: true,
    live: true,
    help: "A rule that gives packets a firewall mark, for services with `fwmark`. What is left out is not asked; the most specific rule counts: the longest destination, then source prefix, then the fewest ports, then protocol, VLAN, port. Packets to an address that is not this host's are balanced, too.",
    keys: &[
        key("mark", Integer(1, u32::MAX as i64), Required, "the mark"),
        key(
            "source",
            Text,
            Computed("any"),
            "network that packets come from, `172.16.0.0/12`",
        ),
        key(
            "destination",
            Text,
            Computed("any"),
            "network that packets go to",
        ),
        key(
            "family",
            Choice(&["ipv4", "ipv6"], &[]),
            Computed("that of the networks, or `\"ipv4\"`"),
            "family of the packets",
        ),
        key(
            "protocol",
            Choice(&["tcp", "udp", "sctp"], &[]),
            Computed("any"),
            "transport protocol",
        ),
        key(
            "source_port",
            Text,
            Computed("any"),
            "ports that packets come from, `1024-65535`",
        ),
        key(
            "destination_port",
            Text,
            Computed("any"),
            "ports that packets go to, `80`",
        ),
        key(
            "vlan",
            Integer(0, 4094),
            Computed("any"),
            "VLAN, 0 for untagged packets",
        ),
        key(
            "port",
            Text,
            Computed("any"),
            "name of the `[[port]]` that packets come in by",
        ),
    ],
};

static SERVICE: Section = Section {
    path: "service",
    list: true,
    live: true,
    help: "A virtual service. It is live while the host holds the address (on a twin, or by a `local` route).",
    keys: &[
        key(
            "protocol",
            Choice(&["tcp", "udp", "sctp"], &[]),
            RequiredUnless("fwmark"),
            "transport protocol",
        ),
        key(
            "address",
            Text,
            RequiredUnless("fwmark"),
            "virtual address, IPv4 or IPv6",
        ),
        key(
            "port",
            Integer(0, 65_535),
            RequiredUnless("fwmark"),
            "virtual port",
        ),
        key(
            "fwmark",
            Integer(1, u32::MAX as i64),
            Computed("none"),
            "balance the packets with this firewall mark, of any protocol, instead of those to an address",
        ),
        key(
            "family",
            Choice(&["ipv4", "ipv6"], &[]),
            Computed("`\"ipv4\"`"),
            "family of the packets with the mark",
        ),
        key(
            "scheduler",
            Choice(SCHEDULERS, &[]),
            Value("\"wlc\""),
            "how a server is chosen",
        ),
        key(
            "scheduler_flags",
            Texts,
            Value("[]"),
            "flags of the scheduler: `sh-fallback`, `mh-fallback` (another server for one that takes no connection), `sh-port`, `mh-port` (the client's port counts, too)",
        ),
        key(
            "one_packet",
            Boolean,
            Value("false"),
            "choose anew for every packet (UDP)",
        ),
        key(
            "persistence_timeout",
            Integer(0, MAX_TIMEOUT),
            Value("0"),
            "seconds that a client stays with its server after its last new connection; 0 is not at all, port 0 needs it",
        ),
        key(
            "persistence_engine",
            Choice(&["none", "sip"], &[]),
            Value("\"none\""),
            "what tells clients apart beside their address: `sip` is the Call-ID of SIP messages in UDP, packets without one are dropped",
        ),
        key(
            "netmask",
            Text,
            Computed("the whole address"),
            "clients of one network stay together: a mask like `255.255.255.0`, or for IPv6 a prefix length like `64`",
        ),
        key(
            "tcp_timeout",
            Integer(0, MAX_TIMEOUT),
            Value("0"),
            "seconds, TCP ESTABLISHED in this service; 0 is that of `[ipvs]`",
        ),
        key(
            "tcp_fin_timeout",
            Integer(0, MAX_TIMEOUT),
            Value("0"),
            "seconds, TCP FIN_WAIT in this service; 0 is that of `[ipvs]`",
        ),
        key(
            "udp_timeout",
            Integer(0, MAX_TIMEOUT),
            Value("0"),
            "seconds, UDP in this service; 0 is that of `[ipvs]`",
        ),
        key(
            "sctp_timeout",
            Integer(0, MAX_TIMEOUT),
            Value("0"),
            "seconds, SCTP ESTABLISHED in this service; 0 is 900",
        ),
        pool::QUORUM,
        pool::HYSTERESIS,
        pool::SORRY_SERVER,
        pool::INHIBIT_ON_FAILURE,
        pool::RESCHEDULE_FAILED,
        pool::ALPHA,
        pool::OMEGA,
        pool::HA_SUSPEND,
        key(
            "check",
            Tables(&CHECK),
            Computed("none"),
            "health checks of servers that have none of their own, `[[service.check]]`",
        ),
        key("notify", Table(&SERVICE_NOTIFY), Computed("none"), ""),
        key(
            "server",
            Tables(&SERVER),
            Computed("none"),
            "real servers, `[[service.server]]`",
        ),
    ],
};

const METHOD: Key = key(
    "method",
    Choice(
        &["nat", "dr", "tun"],
        &[
            ("masq", "nat"),
            ("masquerade", "nat"),
            ("masquerading", "nat"),
            ("route", "dr"),
            ("gate", "dr"),
            ("gatewaying", "dr"),
            ("tunnel", "tun"),
            ("ipip", "tun"),
        ],
    ),
    Value("\"dr\""),
    "how packets reach it: `nat`, `dr` (direct routing) or `tun` (a tunnel); ipvsadm's `masq`, `route`, `tunnel` mean the same",
);

const TUN_TYPE: Key = key(
    "tun_type",
    Choice(&["ipip", "gre", "gue"], &[]),
    Value("\"ipip\""),
    "kind of tunnel, for `tun`: IP in IP, GRE, or GUE (UDP)",
);

const TUN_PORT: Key = key(
    "tun_port",
    Integer(1, 65_535),
    Computed("none"),
    "UDP port of a `gue` tunnel, which needs one",
);

const TUN_CHECKSUM: Key = key(
    "tun_checksum",
    Choice(
        &["none", "full", "remote"],
        &[("csum", "full"), ("remcsum", "remote"), ("nocsum", "none")],
    ),
    Value("\"none\""),
    "checksum of the headers of `gre` and `gue`; `remote` is for `gue`, and full for packets that pass through",
);

static SERVER: Section = Section {
    path: "service.server",
    list: true,
    live: true,
    help: "A real server of the service above it. Servers are added in the order of the file; as in IPVS the newest one is first in the list and wins ties.",
    keys: &[
        key("address", Text, Required, "real address"),
        key(
            "port",
            Integer(0, 65_535),
            Computed("port of the service"),
            "real port; `dr` and `tun` keep the service's; 0 is the packet's own",
        ),
        METHOD,
        key(
            "weight",
            Integer(0, MAX_WEIGHT),
            Value("1"),
            "share of new connections; 0 gives it none",
        ),
        key(
            "upper",
            Integer(0, MAX_WEIGHT),
            Value("0"),
            "no new connections from this many on; 0 is no limit",
        ),
        key(
            "lower",
            Integer(0, MAX_WEIGHT),
            Value("0"),
            "new connections again below this many; 0 is three quarters of `upper`",
        ),
        TUN_TYPE,
        TUN_PORT,
        TUN_CHECKSUM,
        key(
            "state",
            Choice(&["up", "drain"], &[]),
            Value("\"up\""),
            "`drain`: no new connections whatever the weight, existing ones go on",
        ),
        pool::SERVER_INHIBIT,
        key(
            "check",
            Tables(&SERVER_CHECK),
            Computed("those of the service"),
            "health checks, `[[service.server.check]]`",
        ),
        key("notify", Table(&SERVER_NOTIFY), Computed("none"), ""),
    ],
};

/// Keys that people bring along from elsewhere, and what to say about them:
/// (section, key, what to do).
pub const HINTS: &[(&str, &str, &str)] = &[
    ("", "vrrp_instance", "write [[vrrp.instance]]"),
    ("", "vrrp_script", "write [[track.script]]"),
    (
        "vrrp.instance",
        "virtual_router_id",
        "the key is called \"vrid\"",
    ),
    (
        "vrrp.instance",
        "virtual_ipaddress",
        "write [[vrrp.instance.vip]]",
    ),
    ("vrrp.instance", "nopreempt", "write preempt = false"),
    (
        "vrrp.instance",
        "state",
        "the key is called \"initial_state\"",
    ),
    (
        "vrrp.instance",
        "unicast_peer",
        "write [[vrrp.instance.peers]]",
    ),
    ("vrrp.instance", "use_vmac", "the key is called \"vmac\""),
    ("", "healthcheck", "write [[service.check]]"),
    ("", "virtual_server", "write [[service]]"),
    ("", "ports", "write [[port]], once per port"),
    ("", "services", "write [[service]], once per service"),
    (
        "service",
        "persistent",
        "the key is called \"persistence_timeout\"",
    ),
    ("service", "pe", "the key is called \"persistence_engine\""),
    ("service", "flags", "the key is called \"scheduler_flags\""),
    (
        "service",
        "sched_flags",
        "the key is called \"scheduler_flags\"",
    ),
    ("service", "healthcheck", "write [[service.check]]"),
    ("service", "ops", "the key is called \"one_packet\""),
    ("service", "lb_algo", "the key is called \"scheduler\""),
    ("service", "real_server", "write [[service.server]]"),
    (
        "service.server",
        "healthcheck",
        "write [[service.server.check]]",
    ),
    ("service.server", "lb_kind", "the key is called \"method\""),
    (
        "service.server",
        "forwarding",
        "the key is called \"method\"",
    ),
    (
        "service.server",
        "u_threshold",
        "the key is called \"upper\"",
    ),
    (
        "service.server",
        "l_threshold",
        "the key is called \"lower\"",
    ),
    (
        "port",
        "device",
        "write the device itself: pci = \"0000:03:00.0\" or af_packet = \"eth1\"",
    ),
    ("workers", "count", "name the cores: cores = [1]"),
    ("log", "level", "the key is called \"filter\""),
];

/// Sections in the order of the file, nested ones after their parent.
pub fn sections() -> Vec<&'static Section> {
    fn walk(section: &'static Section, out: &mut Vec<&'static Section>) {
        for key in section.keys {
            if let Table(inner) | Tables(inner) = key.kind {
                out.push(inner);
                walk(inner, out);
            }
        }
    }
    let mut out = Vec::new();
    walk(&ROOT, &mut out);
    out
}

/// Range of an integer of a section, if the key is one.
pub fn range(section: &str, key: &str) -> Option<(i64, i64)> {
    let section = sections().into_iter().find(|s| s.path == section)?;
    match section.key(key)?.kind {
        Integer(min, max) => Some((min, max)),
        _ => None,
    }
}

impl Section {
    /// As it is written: `[dpdk]`, `[[port]]`.
    pub fn heading(&self) -> String {
        match (self.path, self.list) {
            ("", _) => "the file".into(),
            (path, true) => format!("[[{path}]]"),
            (path, false) => format!("[{path}]"),
        }
    }

    /// The section before this one that has the same keys, if there is one.
    pub fn sibling(&self) -> Option<&'static Section> {
        let names = |section: &Section| section.keys.iter().map(|k| k.name).collect::<Vec<_>>();
        let before = sections().into_iter().take_while(|s| s.path != self.path);
        before.into_iter().find(|s| names(s) == names(self))
    }

    /// A key by its name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|k| k.name == name)
    }
}

impl Kind {
    /// In words, for messages and the reference.
    pub fn describe(&self) -> String {
        match self {
            Text => "text".into(),
            Choice(words, _) => quoted(words),
            Integer(min, max) => format!("integer from {min} to {max}"),
            Duration(min, max) => format!("time from {} to {}", time(*min), time(*max)),
            ChoiceOrInteger(words, min, max) => {
                format!("{} or integer from {min} to {max}", quoted(words))
            }
            Boolean => "true or false".into(),
            Texts => "list of texts".into(),
            Integers(min, max) => format!("list of integers from {min} to {max}"),
            Table(_) => "table".into(),
            Tables(_) => "list of tables".into(),
        }
    }
}

impl Kind {
    /// What to give instead of a value of another type.
    pub fn wanted(&self) -> String {
        match self {
            Text => "a text in quotes".into(),
            Duration(..) => "a time in quotes, such as \"10s\" or \"250ms\"".into(),
            Choice(words, _) => format!("one of {}", quoted(words)),
            Integer(..) => format!("an {}", self.describe()),
            Texts | Integers(..) | Tables(_) | Table(_) => format!("a {}", self.describe()),
            ChoiceOrInteger(..) | Boolean => self.describe(),
        }
    }
}

/// Milliseconds in words.
pub(super) fn time(ms: u64) -> String {
    let text = humantime::format_duration(std::time::Duration::from_millis(ms)).to_string();
    text.replace("1day", "1d")
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|w| format!("\"{w}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The tables of `docs/configuration.md`.
pub fn reference() -> String {
    let mut out = String::new();
    for section in sections() {
        let when = if section.live {
            "A reload applies changes."
        } else {
            "Changes need a restart."
        };
        let _ = write!(
            out,
            "### `{}`\n\n{} {when}\n\n",
            section.heading(),
            section.help
        );
        if section.sibling().is_some() {
            continue;
        }
        out.push_str("| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
        for key in section.keys {
            let default = match key.default {
                Value(text) => format!("`{text}`"),
                Computed(words) => words.to_owned(),
                Required => "required".to_owned(),
                RequiredUnless(other) => format!("required without `{other}`"),
            };
            let kind = key.kind.describe();
            let _ = writeln!(
                out,
                "| `{}` | {kind} | {default} | {} |",
                key.name, key.help
            );
        }
        out.push('\n');
    }
    out
}
