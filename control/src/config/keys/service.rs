//! Keys of `[[service]]` and `[[service.server]]`.

use super::Fallback::{Computed, Required, RequiredUnless, Value};
use super::Kind::{Boolean, Choice, Integer, Table, Tables, Text, Texts};
use super::check::{CHECK, SERVER_CHECK};
use super::notify::{SERVER_NOTIFY, SERVICE_NOTIFY};
use super::{Key, MAX_TIMEOUT, MAX_WEIGHT, SCHEDULERS, Section, key, pool};

pub(super) static SERVICE: Section = Section {
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

pub(super) const METHOD: Key = key(
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

pub(super) const TUN_TYPE: Key = key(
    "tun_type",
    Choice(&["ipip", "gre", "gue"], &[]),
    Value("\"ipip\""),
    "kind of tunnel, for `tun`: IP in IP, GRE, or GUE (UDP)",
);

pub(super) const TUN_PORT: Key = key(
    "tun_port",
    Integer(1, 65_535),
    Computed("none"),
    "UDP port of a `gue` tunnel, which needs one",
);

pub(super) const TUN_CHECKSUM: Key = key(
    "tun_checksum",
    Choice(
        &["none", "full", "remote"],
        &[("csum", "full"), ("remcsum", "remote"), ("nocsum", "none")],
    ),
    Value("\"none\""),
    "checksum of the headers of `gre` and `gue`; `remote` is for `gue`, and full for packets that pass through",
);

pub(super) static SERVER: Section = Section {
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
