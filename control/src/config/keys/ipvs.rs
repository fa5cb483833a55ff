//! Keys of how packets are treated, whatever the service: `[ipvs]`, `[punt]`, `[overload]`, `[[mark]]`.

use super::Fallback::{Computed, Required, Value};
use super::Kind::{Boolean, Choice, Integer, Text};
use super::{MAX_TIMEOUT, MAX_WEIGHT, Section, key, sync};

pub(super) static IPVS: Section = Section {
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

pub(super) static PUNT: Section = Section {
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

pub(super) static OVERLOAD: Section = Section {
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

pub(super) static MARK: Section = Section {
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
