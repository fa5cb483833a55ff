//! Keys of connection synchronisation: the daemon, and the kernel's `sync_*` sysctls.

use super::Fallback::{Computed, Value};
use super::Kind::{Boolean, Integer, Text};
use super::{Key, MAX_WEIGHT, Section, key};

pub(super) static SYNC: Section = Section {
    path: "sync",
    list: false,
    live: true,
    help: "Connection synchronisation, as `rvsadm --start-daemon` starts it. Nodes of kernel IPVS and RVS understand each other.",
    keys: &[
        key(
            "role",
            Text,
            Value("\"none\""),
            "`none`, `master`, `backup`, `both`, or `vrrp:NAME`: master while that virtual router is, backup otherwise",
        ),
        key(
            "interface",
            Text,
            Computed("must be there with a role"),
            "kernel interface that messages go by",
        ),
        key(
            "syncid",
            Integer(0, 255),
            Value("0"),
            "group of balancers; a backup with 0 takes messages of all",
        ),
        key(
            "group",
            Text,
            Value("\"224.0.0.81\""),
            "multicast group (IPv4 or IPv6), or the address of the one peer",
        ),
        key(
            "port",
            Integer(1, 65535),
            Value("8848"),
            "UDP port; with `sync_ports` the first of several",
        ),
        key("ttl", Integer(1, 255), Value("1"), "TTL of messages"),
        key(
            "peers",
            Boolean,
            Value("true"),
            "speak to other nodes of RVS besides, by UDP and TCP on the port 1000 above `port`: whole tables for who joins, repair of what was lost, an alarm when the link is gone",
        ),
        key(
            "maxlen",
            Integer(1, 65507),
            Computed("1472 (IPv6: 1452)"),
            "largest message, bytes of UDP payload; with IP and UDP headers it should fit the MTU of the interface",
        ),
        key(
            "key_file",
            Text,
            Computed("none"),
            "file with a secret of at least 16 random bytes, mode 0600: messages are sealed with it, and only sealed ones are taken, so none of kernel nodes. The clocks of all nodes have to agree to five minutes. A reload reads it again",
        ),
        key(
            "previous_key_file",
            Text,
            Computed("none"),
            "second key that is taken while keys are exchanged (docs/sync.md)",
        ),
    ],
};

pub(super) const THRESHOLD: Key = key(
    "sync_threshold",
    Integer(0, MAX_WEIGHT),
    Value("3"),
    "at which packet of its client a connection is announced; less than `sync_period` (first number of the sysctl)",
);

pub(super) const PERIOD: Key = key(
    "sync_period",
    Integer(0, MAX_WEIGHT),
    Value("50"),
    "after how many packets again, 0 = never (second number of the sysctl `sync_threshold`)",
);

pub(super) const REFRESH_PERIOD: Key = key(
    "sync_refresh_period",
    Integer(0, super::MAX_TIMEOUT),
    Value("0"),
    "seconds: announced again when the end of the connection has moved by so much; 0 = by packets alone",
);

pub(super) const RETRIES: Key = key(
    "sync_retries",
    Integer(0, 3),
    Value("0"),
    "with `sync_refresh_period`: announcements repeated in between, an eighth of the period apart",
);

pub(super) const PERSIST_MODE: Key = key(
    "sync_persist_mode",
    Boolean,
    Value("false"),
    "of persistent connections announce only the templates",
);

pub(super) const VERSION: Key = key(
    "sync_version",
    Integer(0, 1),
    Value("1"),
    "format of messages; 0 is that of Linux before 2.6.39: IPv4 only, no timeouts. A backup takes both",
);

pub(super) const PORTS: Key = key(
    "sync_ports",
    Integer(1, 64),
    Value("1"),
    "UDP ports, read when a daemon starts; a power of two if the other node is a kernel's",
);

pub(super) const QLEN_MAX: Key = key(
    "sync_qlen_max",
    Integer(0, MAX_WEIGHT),
    Value("0"),
    "messages that may wait for a socket, 0 = 4096; read when a daemon starts",
);

pub(super) const SOCK_SIZE: Key = key(
    "sync_sock_size",
    Integer(0, MAX_WEIGHT),
    Value("0"),
    "bytes of the socket buffers, 0 = the system's default; read when a daemon starts",
);
