//! Keys of health checks.

use super::Fallback::{Computed, Required, Value};
use super::Kind::{Boolean, Choice, Duration, Integer, Text, Texts};
use super::{Key, Section, key};

pub(super) static CHECK: Section = Section {
    path: "service.check",
    list: true,
    live: true,
    help: "A health check of the servers of the service above it, those too that `rvsadm` adds. A server takes new connections while all its checks are up. Checks leave through the kernel, by its routes, but for those with `via = \"vip\"`.",
    keys: CHECK_KEYS,
};

pub(super) static SERVER_CHECK: Section = Section {
    path: "service.server.check",
    list: true,
    live: true,
    help: "A health check of the server above it, which then has none of `[[service.check]]`. The keys are those of `[[service.check]]`.",
    keys: CHECK_KEYS,
};

/// Longest interval of a check, milliseconds: a day.
const MAX_INTERVAL: u64 = 86_400_000;

const CHECK_KEYS: &[Key] = &[
    key(
        "type",
        Choice(
            &[
                "tcp", "http", "https", "smtp", "dns", "udp", "ping", "script", "file",
            ],
            &[],
        ),
        Required,
        "what is asked: a connection, pages, pages over TLS, an SMTP session, a name, a datagram, an ICMP echo (needs the sysctl `net.ipv4.ping_group_range`), a script's exit status, a number in a file",
    ),
    key(
        "delay_loop",
        Duration(10, MAX_INTERVAL),
        Value("\"10s\""),
        "from one attempt to the next; up to a twentieth less, so that checks do not fire together",
    ),
    key(
        "timeout",
        Duration(10, MAX_INTERVAL),
        Value("\"5s\""),
        "for a whole attempt, from the first packet to the last",
    ),
    key(
        "retry",
        Integer(0, 1000),
        Value("1"),
        "failures after the first before a server that was up is down",
    ),
    key(
        "delay_before_retry",
        Duration(10, MAX_INTERVAL),
        Value("\"1s\""),
        "from a failure that is to be confirmed to the next attempt",
    ),
    key(
        "rise",
        Integer(1, 1000),
        Value("1"),
        "successes in a row before a server that was down is up",
    ),
    key(
        "warmup",
        Duration(0, MAX_INTERVAL),
        Computed("`delay_loop`"),
        "the first attempt comes a random part of this after the start",
    ),
    key(
        "alpha",
        Boolean,
        Computed("that of the service"),
        "the server is down until the check succeeded; otherwise it is up until it failed",
    ),
    key(
        "address",
        Text,
        Computed("the server's, with `via = \"vip\"` the service's"),
        "address to check",
    ),
    key(
        "port",
        Integer(1, 65_535),
        Computed("the server's, with `via = \"vip\"` the service's"),
        "port to check; a server on port 0 needs one",
    ),
    key(
        "via",
        Choice(&["server", "vip"], &[]),
        Value("\"server\""),
        "tcp, http, https, smtp: `vip` asks for the virtual address at this very server, by the way that clients' packets take (`dr`, `tun`); needs `probe_addresses` in `[health]`",
    ),
    key(
        "source",
        Text,
        Computed("the kernel's choice"),
        "address of our end",
    ),
    key(
        "interface",
        Text,
        Computed("the kernel's choice"),
        "kernel interface of our end: a twin, for example",
    ),
    key(
        "fwmark",
        Integer(0, u32::MAX as i64),
        Value("0"),
        "mark of the check's packets, for the kernel's routing rules",
    ),
    key(
        "paths",
        Texts,
        Value("[\"/\"]"),
        "http: pages, each asked for on a connection of its own",
    ),
    key(
        "host",
        Text,
        Computed("address and port"),
        "http: the virtual host",
    ),
    key(
        "http_version",
        Choice(&["1.0", "1.0c", "1.1"], &[]),
        Value("\"1.0\""),
        "http: version of the request; `1.0c` asks to close the connection",
    ),
    key(
        "status",
        Texts,
        Value("[\"200-299\"]"),
        "http: accepted statuses and ranges of them",
    ),
    key(
        "digest",
        Text,
        Computed("any"),
        "http: MD5 of the body in hexadecimal digits",
    ),
    key(
        "regex",
        Text,
        Computed("any"),
        "http: expression (Rust's syntax) that the first MiB of the body matches",
    ),
    key(
        "regex_no_match",
        Boolean,
        Value("false"),
        "http: the body must not match",
    ),
    key(
        "regex_min_offset",
        Integer(0, 1 << 20),
        Value("0"),
        "http: first byte of the body at which a match may begin",
    ),
    key(
        "regex_max_offset",
        Integer(0, 1 << 20),
        Value("0"),
        "http: first byte at which no match may begin any more; 0 is none",
    ),
    key(
        "helo_name",
        Text,
        Value("\"localhost\""),
        "smtp: the name we introduce ourselves with",
    ),
    key(
        "query_name",
        Text,
        Value("\".\""),
        "dns: the name that is asked for",
    ),
    key(
        "query_type",
        Choice(&["A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA"], &[]),
        Value("\"SOA\""),
        "dns: the type that is asked for",
    ),
    key(
        "payload",
        Text,
        Value("\"\""),
        "udp: what is sent, hexadecimal digits",
    ),
    key(
        "reply",
        Text,
        Computed("none is needed"),
        "udp: first bytes of the reply, hexadecimal digits, `x` for any; without it only an ICMP error is a failure",
    ),
    key(
        "reply_min",
        Integer(0, 65_535),
        Value("0"),
        "udp: least bytes of the reply",
    ),
    key(
        "reply_max",
        Integer(0, 65_535),
        Value("65535"),
        "udp: most bytes of the reply",
    ),
    key(
        "sni",
        Text,
        Computed("`host`, if it is a name"),
        "https: server name of the TLS session, and in the certificate if that is verified",
    ),
    key(
        "verify",
        Boolean,
        Value("false"),
        "https: the certificate has to be valid now, for the server name or else the address, and issued by a known authority",
    ),
    key(
        "ca_file",
        Text,
        Computed("the system's authorities"),
        "https: PEM file of the authorities that count for `verify`",
    ),
    key(
        "cert_file",
        Text,
        Computed("none"),
        "https: PEM file with our certificate, for servers that ask for one; needs `key_file`",
    ),
    key(
        "key_file",
        Text,
        Computed("none"),
        "https: PEM file with the private key of `cert_file`, not encrypted",
    ),
    key(
        "command",
        Texts,
        Computed("none"),
        "script: the program by its full path, and its arguments; status 0 is success",
    ),
    key(
        "user",
        Text,
        Computed("that of `[scripts]`"),
        "script: user and group that it runs as, `user` or `user:group`",
    ),
    key(
        "dynamic",
        Boolean,
        Value("false"),
        "script: statuses 2 to 255 are success, too, and the server's weight is the status less 2",
    ),
    key(
        "path",
        Text,
        Computed("none"),
        "file: the file; one that is missing or empty holds 0",
    ),
    key(
        "weight",
        Integer(-254, 254),
        Value("0"),
        "file: the number in the file times this is added to the server's weight; with 0 any number but 0 is a failure",
    ),
];
