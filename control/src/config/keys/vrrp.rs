//! Keys of VRRP and of what priorities depend on: `[vrrp]` and `[track]`.

use super::Fallback::{Computed, Required, Value};
use super::Kind::{Boolean, Choice, Duration, Integer, Table, Tables, Text, Texts};
use super::notify::{GROUP_NOTIFY, INSTANCE_NOTIFY};
use super::{Section, key};

const DEFAULT: super::Fallback = Computed("that of `[vrrp.defaults]`");
const DEFAULT_GARP: super::Fallback = Computed("that of `[vrrp.defaults.garp]`");
/// Longest wait that an operator may ask for, milliseconds: an hour.
const HOUR: u64 = 3_600_000;
const MINUTE: u64 = 60_000;

/// `[vrrp]`.
pub static VRRP: Section = Section {
    path: "vrrp",
    list: false,
    live: true,
    help: "Virtual addresses that several hosts share (VRRP).",
    keys: &[
        key(
            "startup_delay",
            Duration(0, HOUR),
            Value("\"0s\""),
            "time after the start during which no advert is heard and none is missed",
        ),
        key(
            "takeover_wait",
            Duration(0, HOUR),
            Value("\"30s\""),
            "longest wait before this node takes over from a master that lives: until synchronisation has copied its table, every health check has run, and real servers are found; a master that is gone is replaced at once",
        ),
        key(
            "rt_priority",
            Integer(0, 99),
            Value("50"),
            "real-time priority of the VRRP thread, and one less of pump and workers while they nap, where the system allows it; 0 is none; a restart applies it",
        ),
        key(
            "garp_interval",
            Duration(0, MINUTE),
            Value("\"0s\""),
            "least time between two gratuitous ARPs on one interface, for switches that are slow to learn; 0 for none",
        ),
        key(
            "gna_interval",
            Duration(0, MINUTE),
            Value("\"0s\""),
            "the same for unsolicited neighbour advertisements",
        ),
        key(
            "defaults",
            Table(&DEFAULTS),
            Computed("all defaults"),
            "what instances have that do not say otherwise, `[vrrp.defaults]`",
        ),
        key(
            "interface",
            Tables(&INTERFACE),
            Computed("none"),
            "interfaces whose changes count late, or with a pace of their own, `[[vrrp.interface]]`",
        ),
        key(
            "instance",
            Tables(&INSTANCE),
            Computed("none"),
            "virtual routers, `[[vrrp.instance]]`",
        ),
        key(
            "sync_group",
            Tables(&GROUP),
            Computed("none"),
            "instances that are master together, `[[vrrp.sync_group]]`",
        ),
    ],
};

static DEFAULTS: Section = Section {
    path: "vrrp.defaults",
    list: false,
    live: true,
    help: "What instances have that do not say otherwise.",
    keys: &[
        key(
            "version",
            Integer(2, 3),
            Value("3"),
            "version of the protocol",
        ),
        key(
            "advert_int",
            Duration(10, 255_000),
            Value("\"1s\""),
            "time between adverts: whole seconds in version 2, 10 ms to 40.95 s in version 3",
        ),
        key(
            "mcast_group4",
            Text,
            Value("\"224.0.0.18\""),
            "group that adverts over IPv4 go to",
        ),
        key(
            "mcast_group6",
            Text,
            Value("\"ff02::12\""),
            "group that adverts over IPv6 go to",
        ),
        key(
            "down_timer_adverts",
            Integer(1, 100),
            Value("3"),
            "adverts that may be missed before a backup takes over",
        ),
        key(
            "checksum",
            Choice(&["keepalived", "rfc9568", "auto"], &[]),
            Value("\"keepalived\""),
            "checksum that version 3 sends over IPv4: with a pseudo-header, without, or as the peer does; both are accepted",
        ),
        key(
            "lower_prio_no_advert",
            Boolean,
            Value("false"),
            "a master does not answer adverts of a lower priority",
        ),
        key(
            "higher_prio_send_advert",
            Boolean,
            Value("true"),
            "a master sends a last advert before it gives way to a higher priority",
        ),
        key(
            "check_unicast_src",
            Boolean,
            Value("true"),
            "unicast adverts of others than the peers are refused",
        ),
        key(
            "owner_ignore_adverts",
            Boolean,
            Value("false"),
            "an instance of priority 255 ignores others' adverts",
        ),
        key(
            "accept",
            Boolean,
            Computed("false with strict, otherwise true"),
            "packets for the addresses that no service takes are the host's; if false they are dropped, but for ARP and neighbour discovery (RFC 5798, 6.1; on data ports)",
        ),
        key(
            "strict",
            Boolean,
            Value("false"),
            "instances are as RFC 5798 has them: what it lacks is refused, and other defaults hold (see vrrp.md)",
        ),
        key(
            "garp",
            Table(&DEFAULT_GARPS),
            Computed("all defaults"),
            "announcements of addresses, `[vrrp.defaults.garp]`",
        ),
    ],
};

static DEFAULT_GARPS: Section = Section {
    path: "vrrp.defaults.garp",
    list: false,
    live: true,
    help: "How often a master announces its addresses, by gratuitous ARP or unsolicited neighbour advertisements.",
    keys: &[
        key(
            "master_repeat",
            Integer(0, 255),
            Value("5"),
            "rounds on becoming master",
        ),
        key(
            "master_delay",
            Duration(0, HOUR),
            Value("\"5s\""),
            "the rounds again after this time; 0 for not at all",
        ),
        key(
            "master_refresh",
            Duration(0, 24 * HOUR),
            Value("\"60s\""),
            "time between refreshes; 0 for none",
        ),
        key(
            "master_refresh_repeat",
            Integer(0, 255),
            Value("1"),
            "rounds of a refresh",
        ),
        key(
            "lower_prio_repeat",
            Integer(0, 255),
            Value("5"),
            "rounds on hearing a master of lower priority",
        ),
        key(
            "lower_prio_delay",
            Duration(0, HOUR),
            Value("\"5s\""),
            "those rounds again after this time; 0 for not at all",
        ),
    ],
};

static INSTANCE_GARPS: Section = Section {
    path: "vrrp.instance.garp",
    list: false,
    live: true,
    help: "As in `[vrrp.defaults.garp]`, for one instance.",
    keys: &[
        key("master_repeat", Integer(0, 255), DEFAULT_GARP, ""),
        key("master_delay", Duration(0, HOUR), DEFAULT_GARP, ""),
        key("master_refresh", Duration(0, 24 * HOUR), DEFAULT_GARP, ""),
        key("master_refresh_repeat", Integer(0, 255), DEFAULT_GARP, ""),
        key("lower_prio_repeat", Integer(0, 255), DEFAULT_GARP, ""),
        key("lower_prio_delay", Duration(0, HOUR), DEFAULT_GARP, ""),
    ],
};

static INTERFACE: Section = Section {
    path: "vrrp.interface",
    list: true,
    live: true,
    help: "An interface whose changes count only when they last, or where addresses are announced at a pace of its own.",
    keys: &[
        key("name", Text, Required, "the interface"),
        key(
            "down_delay",
            Duration(0, HOUR),
            Value("\"0s\""),
            "how long it has to be down to count as down",
        ),
        key(
            "up_delay",
            Duration(0, HOUR),
            Value("\"0s\""),
            "how long it has to be up to count as up",
        ),
        key(
            "garp_interval",
            Duration(0, MINUTE),
            Computed("that of `[vrrp]`"),
            "least time between two gratuitous ARPs here",
        ),
        key(
            "gna_interval",
            Duration(0, MINUTE),
            Computed("that of `[vrrp]`"),
            "least time between two unsolicited neighbour advertisements here",
        ),
    ],
};

static GROUP: Section = Section {
    path: "vrrp.sync_group",
    list: true,
    live: true,
    help: "Instances that are master together or not at all.",
    keys: &[
        key("name", Text, Required, "name in logs and listings"),
        key("instances", Texts, Required, "names of the instances"),
        key(
            "tracking_weight",
            Boolean,
            Value("false"),
            "weights of trackers count; otherwise any failure is a fault, so that members keep their order",
        ),
        key(
            "track",
            Tables(&GROUP_TRACK),
            Computed("none"),
            "what all members depend on, `[[vrrp.sync_group.track]]`",
        ),
        key("notify", Table(&GROUP_NOTIFY), Computed("none"), ""),
    ],
};

static INSTANCE: Section = Section {
    path: "vrrp.instance",
    list: true,
    live: true,
    help: "A virtual router: addresses that one of several hosts has.",
    keys: &[
        key("name", Text, Required, "name in logs and listings"),
        key(
            "interface",
            Text,
            Required,
            "kernel interface that adverts cross: the twin of a data port or any other",
        ),
        key(
            "vrid",
            Integer(1, 255),
            Required,
            "virtual router id, the same on all hosts",
        ),
        key(
            "priority",
            Integer(1, 255),
            Value("100"),
            "the highest becomes master; 255 is for the owner of the addresses",
        ),
        key(
            "initial_state",
            Choice(&["backup", "master"], &[]),
            Value("\"backup\""),
            "`master` lets priority 255 take over without waiting; means nothing to others",
        ),
        key("version", Integer(2, 3), DEFAULT, "version of the protocol"),
        key(
            "advert_int",
            Duration(10, 255_000),
            DEFAULT,
            "time between adverts",
        ),
        key(
            "down_timer_adverts",
            Integer(1, 100),
            DEFAULT,
            "adverts that may be missed",
        ),
        key(
            "auth",
            Table(&AUTH),
            Computed("none"),
            "authentication of version 2, `{ type = \"pass\", password = \"…\" }`",
        ),
        key(
            "source",
            Text,
            Computed("the interface's first address; for IPv6 multicast its link-local one"),
            "address that adverts come from",
        ),
        key("mcast_group", Text, DEFAULT, "group that adverts go to"),
        key(
            "peers",
            Tables(&PEER),
            Computed("none: multicast"),
            "the other hosts; with peers adverts are unicast",
        ),
        key(
            "unicast_ttl",
            Integer(1, 255),
            Value("255"),
            "TTL or hop limit of unicast adverts",
        ),
        key(
            "check_unicast_src",
            Boolean,
            DEFAULT,
            "unicast adverts of others than the peers are refused",
        ),
        key(
            "checksum",
            Choice(&["keepalived", "rfc9568", "auto"], &[]),
            DEFAULT,
            "checksum that version 3 sends over IPv4",
        ),
        key(
            "vip",
            Tables(&VIP),
            Computed("none"),
            "virtual addresses that adverts name, `[[vrrp.instance.vip]]`; all of one family, which is that of the adverts",
        ),
        key(
            "vip_excluded",
            Tables(&EXCLUDED),
            Computed("none"),
            "virtual addresses of either family that adverts do not name, `[[vrrp.instance.vip_excluded]]`",
        ),
        key(
            "route",
            Tables(&ROUTE),
            Computed("none"),
            "routes that go with the addresses, `[[vrrp.instance.route]]`",
        ),
        key(
            "rule",
            Tables(&RULE),
            Computed("none"),
            "routing rules that go with the addresses, `[[vrrp.instance.rule]]`",
        ),
        key(
            "accept",
            Boolean,
            DEFAULT,
            "packets for the addresses that no service takes are the host's",
        ),
        key(
            "strict",
            Boolean,
            DEFAULT,
            "the instance is as RFC 5798 has it",
        ),
        key(
            "preempt",
            Boolean,
            Value("true"),
            "take over from a master of lower priority",
        ),
        key(
            "preempt_delay",
            Duration(0, 1_000_000),
            Value("\"0s\""),
            "but only after hearing it for so long",
        ),
        key(
            "vmac",
            Boolean,
            Value("false"),
            "addresses live at the virtual router's MAC, 00:00:5e:00:01:VRID, on a macvlan of the interface",
        ),
        key(
            "vmac_xmit_base",
            Boolean,
            Value("false"),
            "with vmac: adverts are sent by the interface and not from the virtual MAC",
        ),
        key(
            "lower_prio_no_advert",
            Boolean,
            DEFAULT,
            "do not answer adverts of a lower priority",
        ),
        key(
            "higher_prio_send_advert",
            Boolean,
            DEFAULT,
            "a last advert before giving way",
        ),
        key(
            "owner_ignore_adverts",
            Boolean,
            DEFAULT,
            "priority 255 ignores others' adverts",
        ),
        key(
            "track_primary",
            Boolean,
            Value("true"),
            "the instance is at fault while its interface is down",
        ),
        key(
            "track",
            Tables(&TRACK_ENTRY),
            Computed("none"),
            "what the priority depends on, `[[vrrp.instance.track]]`",
        ),
        key(
            "garp",
            Table(&INSTANCE_GARPS),
            DEFAULT_GARP,
            "announcements of addresses, `[vrrp.instance.garp]`",
        ),
        key("notify", Table(&INSTANCE_NOTIFY), Computed("none"), ""),
    ],
};

static AUTH: Section = Section {
    path: "vrrp.instance.auth",
    list: false,
    live: true,
    help: "Authentication of version 2. The password is sent in clear: it tells clusters on one LAN apart and protects nothing.",
    keys: &[
        key(
            "type",
            Choice(&["none", "pass"], &[("PASS", "pass")]),
            Value("\"none\""),
            "none, or a password",
        ),
        key(
            "password",
            Text,
            Computed("none"),
            "at most eight bytes; what exceeds them is cut off with a warning",
        ),
    ],
};

static PEER: Section = Section {
    path: "vrrp.instance.peers",
    list: true,
    live: true,
    help: "A host that unicast adverts go to.",
    keys: &[
        key("addr", Text, Required, "its address"),
        key(
            "min_ttl",
            Integer(0, 255),
            Value("0"),
            "lowest TTL or hop limit that is accepted from it",
        ),
        key(
            "max_ttl",
            Integer(0, 255),
            Value("255"),
            "highest TTL or hop limit that is accepted from it",
        ),
    ],
};

static VIP: Section = Section {
    path: "vrrp.instance.vip",
    list: true,
    live: true,
    help: "A virtual address.",
    keys: &[
        key(
            "addr",
            Text,
            Required,
            "the address, alone or with a prefix length, `10.0.0.1/24`",
        ),
        key(
            "dev",
            Text,
            Computed("the instance's interface"),
            "kernel interface that gets it: the twin of a data port",
        ),
        key(
            "scope",
            Choice(&["global", "site", "link", "host"], &[]),
            Value("\"global\""),
            "scope of an IPv4 address",
        ),
        key(
            "label",
            Text,
            Computed("`DEV:vrrp`"),
            "label of an IPv4 address: the interface, a colon and a word",
        ),
    ],
};

static EXCLUDED: Section = Section {
    path: "vrrp.instance.vip_excluded",
    list: true,
    live: true,
    help: "A virtual address that adverts do not name.",
    keys: VIP.keys,
};

static RULE: Section = Section {
    path: "vrrp.instance.rule",
    list: true,
    live: true,
    help: "A rule of policy routing that is there while the instance is master. It holds for what the kernel sends and forwards; workers route by the tables of `[kernel]`.",
    keys: &[
        key(
            "priority",
            Integer(1, 32_765),
            Required,
            "its place among the rules, the lowest first",
        ),
        key(
            "from",
            Text,
            Computed("any"),
            "source, `10.1.0.0/16` or an address",
        ),
        key("to", Text, Computed("any"), "destination"),
        key(
            "iif",
            Text,
            Computed("any"),
            "interface that packets came in by",
        ),
        key(
            "oif",
            Text,
            Computed("any"),
            "interface that the sending socket is bound to",
        ),
        key(
            "fwmark",
            Integer(0, u32::MAX as i64),
            Computed("any"),
            "mark of the packets",
        ),
        key(
            "fwmask",
            Integer(0, u32::MAX as i64),
            Value("4294967295"),
            "bits of the mark that count",
        ),
        key(
            "family",
            Choice(&["ipv4", "ipv6"], &[]),
            Computed("that of from and to, else of the instance"),
            "family of the packets",
        ),
        key(
            "table",
            Integer(1, u32::MAX as i64),
            Required,
            "routing table for such packets",
        ),
    ],
};

static ROUTE: Section = Section {
    path: "vrrp.instance.route",
    list: true,
    live: true,
    help: "A route that is there while the instance is master.",
    keys: &[
        key(
            "to",
            Text,
            Required,
            "destination, `10.1.0.0/16` or `default`",
        ),
        key("via", Text, Computed("none"), "next hop"),
        key("dev", Text, Computed("the kernel's choice"), "interface"),
        key(
            "src",
            Text,
            Computed("the kernel's choice"),
            "preferred source address",
        ),
        key(
            "metric",
            Integer(0, u32::MAX as i64),
            Computed("the kernel's"),
            "metric",
        ),
        key(
            "table",
            Integer(1, u32::MAX as i64),
            Value("254"),
            "routing table",
        ),
    ],
};

static TRACK_ENTRY: Section = Section {
    path: "vrrp.instance.track",
    list: true,
    live: true,
    help: "Something that the priority depends on. Weight 0: failure is a fault. Above: added while all is well. Below: added while it is not. The number in a file is multiplied by it.",
    keys: &[
        key(
            "kind",
            Choice(&["interface", "script", "file", "process", "workers"], &[]),
            Required,
            "an interface, a `[[track]]` entry of this kind, or the workers of this daemon",
        ),
        key(
            "name",
            Text,
            Computed("none"),
            "name of the interface or of the entry",
        ),
        key(
            "weight",
            Integer(-254, 254),
            Computed("that of the entry; 0 for interfaces and workers"),
            "see above",
        ),
        key(
            "reverse",
            Boolean,
            Computed("that of the entry"),
            "turns the direction around",
        ),
    ],
};

static GROUP_TRACK: Section = Section {
    path: "vrrp.sync_group.track",
    list: true,
    live: true,
    help: "As `[[vrrp.instance.track]]`, for all members of a group.",
    keys: TRACK_ENTRY.keys,
};

/// `[track]`.
pub static TRACK: Section = Section {
    path: "track",
    list: false,
    live: true,
    help: "What priorities may depend on.",
    keys: &[
        key(
            "script",
            Tables(&SCRIPT),
            Computed("none"),
            "scripts, `[[track.script]]`",
        ),
        key(
            "file",
            Tables(&FILE),
            Computed("none"),
            "numbers in files, `[[track.file]]`",
        ),
        key(
            "process",
            Tables(&PROCESS),
            Computed("none"),
            "processes, `[[track.process]]`",
        ),
    ],
};

static SCRIPT: Section = Section {
    path: "track.script",
    list: true,
    live: true,
    help: "A program that says by its exit code whether all is well: 0 if it is. It is run without a shell.",
    keys: &[
        key("name", Text, Required, "name for `[[vrrp.instance.track]]`"),
        key(
            "command",
            Texts,
            Required,
            "the program by its full path, and its arguments",
        ),
        key(
            "interval",
            Duration(100, 24 * HOUR),
            Value("\"1s\""),
            "time between two starts",
        ),
        key(
            "timeout",
            Duration(100, 24 * HOUR),
            Computed("interval"),
            "it has to end in this time, else it failed",
        ),
        key(
            "rise",
            Integer(1, 1_000_000),
            Value("1"),
            "successes in a row after which all is well",
        ),
        key(
            "fall",
            Integer(1, 1_000_000),
            Value("1"),
            "failures in a row after which it is not",
        ),
        key(
            "init_fail",
            Boolean,
            Value("false"),
            "it counts as failed until it first succeeded; otherwise instances wait for its first result",
        ),
        key(
            "weight",
            Integer(-253, 253),
            Value("0"),
            "weight for those who track it and name none",
        ),
        key(
            "reverse",
            Boolean,
            Value("false"),
            "turns the direction around",
        ),
        key(
            "user",
            Text,
            Computed("the user of scripts"),
            "user and group that it runs as, `user` or `user:group`",
        ),
    ],
};

static FILE: Section = Section {
    path: "track.file",
    list: true,
    live: true,
    help: "A number in a file. Times its weight it is added to the priority; with weight 0 any number but 0 is a fault.",
    keys: &[
        key("name", Text, Required, "name for `[[vrrp.instance.track]]`"),
        key(
            "path",
            Text,
            Required,
            "the file; one that is missing or holds no number counts as 0",
        ),
        key(
            "weight",
            Integer(-254, 254),
            Value("1"),
            "weight for those who track it and name none",
        ),
        key(
            "reverse",
            Boolean,
            Value("false"),
            "turns the direction around",
        ),
        key(
            "init",
            Integer(-2_147_483_647, 2_147_483_647),
            Computed("none"),
            "write this number into the file if there is none",
        ),
        key(
            "init_overwrite",
            Boolean,
            Value("false"),
            "write it at each start, whatever the file holds",
        ),
    ],
};

static PROCESS: Section = Section {
    path: "track.process",
    list: true,
    live: true,
    help: "Processes that have to run.",
    keys: &[
        key("name", Text, Required, "name for `[[vrrp.instance.track]]`"),
        key(
            "command",
            Text,
            Required,
            "name of the program, or with `full_command` the first word of its command line",
        ),
        key(
            "full_command",
            Boolean,
            Value("false"),
            "compare with the command line and not with the kernel's name of the program (15 characters)",
        ),
        key(
            "params",
            Texts,
            Computed("any"),
            "arguments that it has to have",
        ),
        key(
            "match",
            Choice(&["exact", "initial", "partial"], &[]),
            Value("\"exact\""),
            "as in keepalived: arguments are these and no others, begin with these and the last may go on (initial), or begin with these (partial)",
        ),
        key(
            "quorum",
            Integer(0, 1_000_000),
            Value("1"),
            "least number of them",
        ),
        key(
            "quorum_max",
            Integer(0, 1_000_000),
            Computed("any"),
            "greatest number of them",
        ),
        key(
            "fork_delay",
            Duration(0, HOUR),
            Value("\"0s\""),
            "how long enough of them have to run to count",
        ),
        key(
            "terminate_delay",
            Duration(0, HOUR),
            Value("\"0s\""),
            "how long too few have to run to count",
        ),
        key(
            "weight",
            Integer(-254, 254),
            Value("1"),
            "weight for those who track it and name none",
        ),
        key(
            "reverse",
            Boolean,
            Value("false"),
            "turns the direction around",
        ),
    ],
};
