//! The command line as data: every command, option and word of `rvsadm`, one entry each.
//!
//! Parser ([`super::parse`]) and help ([`super::help`]) read these tables; a test walks them, so
//! that nothing is half added. Names, and which command takes which option, are ipvsadm's.

/// What is to be done: exactly one per line, and the first option of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `-A`.
    AddService,
    /// `-E`.
    EditService,
    /// `-D`.
    DeleteService,
    /// `-C`.
    Clear,
    /// `-R`.
    Restore,
    /// `-S`.
    Save,
    /// `-a`.
    AddServer,
    /// `-e`.
    EditServer,
    /// `-d`.
    DeleteServer,
    /// `-L`.
    List,
    /// `-Z`.
    Zero,
    /// `--set`.
    Set,
    /// `--start-daemon`.
    StartDaemon,
    /// `--stop-daemon`.
    StopDaemon,
    /// `-h`.
    Help,
    /// `-v`.
    Version,
}

/// A command as typed.
#[derive(Debug)]
pub struct CommandSpec {
    /// What it stands for.
    pub command: Command,
    /// Its letters; the first is shown in the help.
    pub short: &'static [char],
    /// Name behind `--`.
    pub long: &'static str,
    /// Name in messages.
    pub name: &'static str,
    /// Name of its argument, if it takes one.
    pub value: Option<&'static str>,
    /// Slots that must be given.
    pub requires: &'static [Slot],
    /// Whether this version carries it out.
    pub support: Support,
    /// Line for the help.
    pub help: &'static str,
}

/// What an option sets. Options of one slot exclude each other, a slot is set once, and messages
/// name it rather than the option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Not checked: any command takes it, any number of times.
    Free,
    /// `-n`.
    Numeric,
    /// `-c`.
    Connection,
    /// `-t`, `-u`, `--sctp-service`, `-f`.
    Service,
    /// `-s`.
    Scheduler,
    /// `-p`.
    Persistent,
    /// `-M`.
    Netmask,
    /// `-r`.
    Server,
    /// `-g`, `-i`, `-m`.
    Method,
    /// `-w`.
    Weight,
    /// `-x`.
    Upper,
    /// `-y`.
    Lower,
    /// `--mcast-interface`.
    McastInterface,
    /// `--timeout`.
    Timeout,
    /// `--daemon`.
    Daemon,
    /// `--stats`.
    Stats,
    /// `--rate`.
    Rate,
    /// `--thresholds`.
    Thresholds,
    /// `--persistent-conn`.
    PersistentConn,
    /// `--nosort`.
    NoSort,
    /// `--syncid`.
    SyncId,
    /// `--exact`.
    Exact,
    /// `-o`.
    OnePacket,
    /// `--pe`.
    Engine,
    /// `-b`.
    SchedFlags,
    /// `--mcast-group`.
    McastGroup,
    /// `--mcast-port`.
    McastPort,
    /// `--mcast-ttl`.
    McastTtl,
    /// `--sync-maxlen`.
    SyncMaxLen,
    /// `--tun-info`.
    TunInfo,
    /// `--tun-type`.
    TunType,
    /// `--tun-port`.
    TunPort,
    /// `--tun-nocsum`.
    TunNoCsum,
    /// `--tun-csum`.
    TunCsum,
    /// `--tun-remcsum`.
    TunRemCsum,
    /// `--conn-timeouts`, ours.
    ConnTimeouts,
    /// `--json`, ours.
    Json,
}

impl Slot {
    /// Name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Slot::Service => "service-address",
            Slot::Method => "forwarding-method",
            _ => OPTIONS
                .iter()
                .find(|o| o.slot == self)
                .map_or("", |o| o.long),
        }
    }
}

/// Whether this version carries an option out. All are parsed, so that mistakes are answered the
/// same way; the others are then refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It works.
    Now,
    /// It is refused.
    #[allow(dead_code, reason = "at present nothing is")]
    Later,
}

/// Whether an option takes an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// None; `--option=x` is an error.
    None,
    /// Always: the rest of the word, or the next word whatever it looks like.
    Required(&'static str),
    /// The rest of the word, or the next word unless it begins with a dash.
    Optional(&'static str),
}

/// An option as typed.
#[derive(Debug)]
pub struct OptionSpec {
    /// What it stands for.
    pub id: Opt,
    /// Its letter.
    pub short: Option<char>,
    /// Name behind `--`.
    pub long: &'static str,
    /// Its argument.
    pub value: Value,
    /// What it sets.
    pub slot: Slot,
    /// Commands that take it; unused for [`Slot::Free`].
    pub on: &'static [Command],
    /// Whether this version carries it out.
    pub support: Support,
    /// Line for the help.
    pub help: &'static str,
}

impl OptionSpec {
    /// As an operator would type it.
    pub fn typed(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}"),
            None => format!("--{}", self.long),
        }
    }
}

/// Every option; its entry in [`OPTIONS`] says what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opt {
    Numeric,
    Connection,
    TcpService,
    UdpService,
    SctpService,
    MarkService,
    Ipv6,
    Scheduler,
    Persistent,
    Netmask,
    Server,
    Route,
    Tunnel,
    Masq,
    Weight,
    Upper,
    Lower,
    McastInterface,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    Sort,
    SyncId,
    Exact,
    OnePacket,
    Engine,
    SchedFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxLen,
    TunInfo,
    TunType,
    TunPort,
    TunNoCsum,
    TunCsum,
    TunRemCsum,
    ConnTimeouts,
    Json,
    Socket,
}

use Command::*;
use Support::Now;

const fn command(
    command: Command,
    short: &'static [char],
    long: &'static str,
    requires: &'static [Slot],
    help: &'static str,
) -> CommandSpec {
    CommandSpec {
        command,
        short,
        long,
        name: long,
        value: None,
        requires,
        support: Now,
        help,
    }
}

/// All commands.
pub const COMMANDS: &[CommandSpec] = &[
    command(
        AddService,
        &['A'],
        "add-service",
        &[Slot::Service],
        "add a virtual service",
    ),
    command(
        EditService,
        &['E'],
        "edit-service",
        &[Slot::Service],
        "replace the attributes of a virtual service; what is not given becomes the default",
    ),
    command(
        DeleteService,
        &['D'],
        "delete-service",
        &[Slot::Service],
        "delete a virtual service",
    ),
    CommandSpec {
        name: "flush",
        ..command(Clear, &['C'], "clear", &[], "delete all virtual services")
    },
    command(
        Restore,
        &['R'],
        "restore",
        &[],
        "carry out the lines of standard input",
    ),
    command(
        Save,
        &['S'],
        "save",
        &[],
        "print the services as lines that -R reads",
    ),
    command(
        AddServer,
        &['a'],
        "add-server",
        &[Slot::Service, Slot::Server],
        "add a real server to a service",
    ),
    command(
        EditServer,
        &['e'],
        "edit-server",
        &[Slot::Service, Slot::Server],
        "replace the attributes of a real server; what is not given becomes the default",
    ),
    command(
        DeleteServer,
        &['d'],
        "delete-server",
        &[Slot::Service, Slot::Server],
        "delete a real server from a service",
    ),
    command(
        List,
        &['L', 'l'],
        "list",
        &[],
        "list services, connections or time-outs",
    ),
    command(
        Zero,
        &['Z'],
        "zero",
        &[],
        "set the counters of one service or of all to zero",
    ),
    command(
        Set,
        &[],
        "set",
        &[],
        "TCP TCPFIN UDP: set the time-outs in seconds, 0 keeps a value",
    ),
    CommandSpec {
        value: Some("master|backup"),
        ..command(
            StartDaemon,
            &[],
            "start-daemon",
            &[],
            "start connection synchronisation",
        )
    },
    CommandSpec {
        value: Some("master|backup"),
        ..command(
            StopDaemon,
            &[],
            "stop-daemon",
            &[],
            "stop connection synchronisation",
        )
    },
    command(Help, &['h'], "help", &[], "print this text"),
    command(Version, &['v'], "version", &[], "print the version"),
];

const SERVICE: &[Command] = &[AddService, EditService];
const SERVER: &[Command] = &[AddServer, EditServer];
const ANY_SERVER: &[Command] = &[AddServer, EditServer, DeleteServer];
const ADDRESS: &[Command] = &[
    AddService,
    EditService,
    DeleteService,
    AddServer,
    EditServer,
    DeleteServer,
    List,
    Zero,
];
const LISTING: &[Command] = &[List];
const LISTING_AND_SAVE: &[Command] = &[List, Save];
const START: &[Command] = &[StartDaemon];
const SYNC: &[Command] = &[StartDaemon, StopDaemon, List];

const fn option(
    id: Opt,
    short: Option<char>,
    long: &'static str,
    value: Value,
    slot: Slot,
    on: &'static [Command],
    help: &'static str,
) -> OptionSpec {
    OptionSpec {
        id,
        short,
        long,
        value,
        slot,
        on,
        support: Now,
        help,
    }
}

use Value::{Optional, Required};

/// All options, in the order in which a line is checked: of several mistakes the first is named.
pub const OPTIONS: &[OptionSpec] = &[
    option(
        Opt::Numeric,
        Some('n'),
        "numeric",
        Value::None,
        Slot::Numeric,
        LISTING_AND_SAVE,
        "print addresses and ports as numbers",
    ),
    option(
        Opt::Connection,
        Some('c'),
        "connection",
        Value::None,
        Slot::Connection,
        LISTING,
        "list connections",
    ),
    option(
        Opt::TcpService,
        Some('t'),
        "tcp-service",
        Required("HOST[:PORT]"),
        Slot::Service,
        ADDRESS,
        "TCP service; IPv6 with a port in brackets",
    ),
    option(
        Opt::UdpService,
        Some('u'),
        "udp-service",
        Required("HOST[:PORT]"),
        Slot::Service,
        ADDRESS,
        "UDP service",
    ),
    option(
        Opt::SctpService,
        None,
        "sctp-service",
        Required("HOST[:PORT]"),
        Slot::Service,
        ADDRESS,
        "SCTP service",
    ),
    option(
        Opt::MarkService,
        Some('f'),
        "fwmark-service",
        Required("MARK"),
        Slot::Service,
        ADDRESS,
        "service of all packets with a firewall mark",
    ),
    option(
        Opt::Ipv6,
        Some('6'),
        "ipv6",
        Value::None,
        Slot::Free,
        &[],
        "the mark of -f is on IPv6 packets",
    ),
    option(
        Opt::Scheduler,
        Some('s'),
        "scheduler",
        Required("NAME"),
        Slot::Scheduler,
        SERVICE,
        "how a server is chosen, such as rr, wrr, lc, sh, mh (default wlc)",
    ),
    option(
        Opt::Persistent,
        Some('p'),
        "persistent",
        Optional("SECONDS"),
        Slot::Persistent,
        SERVICE,
        "a client stays with its server",
    ),
    option(
        Opt::Netmask,
        Some('M'),
        "netmask",
        Required("MASK"),
        Slot::Netmask,
        SERVICE,
        "clients of one network persist together",
    ),
    option(
        Opt::Server,
        Some('r'),
        "real-server",
        Required("HOST[:PORT]"),
        Slot::Server,
        ANY_SERVER,
        "real server; the port defaults to the service's",
    ),
    option(
        Opt::Route,
        Some('g'),
        "gatewaying",
        Value::None,
        Slot::Method,
        SERVER,
        "direct routing (default)",
    ),
    option(
        Opt::Tunnel,
        Some('i'),
        "ipip",
        Value::None,
        Slot::Method,
        SERVER,
        "tunnel",
    ),
    option(
        Opt::Masq,
        Some('m'),
        "masquerading",
        Value::None,
        Slot::Method,
        SERVER,
        "network address translation",
    ),
    option(
        Opt::Weight,
        Some('w'),
        "weight",
        Required("N"),
        Slot::Weight,
        SERVER,
        "weight (default 1; 0 takes no new connection)",
    ),
    option(
        Opt::Upper,
        Some('x'),
        "u-threshold",
        Required("N"),
        Slot::Upper,
        SERVER,
        "at so many connections the server takes no more (default 0, no limit)",
    ),
    option(
        Opt::Lower,
        Some('y'),
        "l-threshold",
        Required("N"),
        Slot::Lower,
        SERVER,
        "below so many connections it takes some again",
    ),
    option(
        Opt::McastInterface,
        None,
        "mcast-interface",
        Required("DEVICE"),
        Slot::McastInterface,
        START,
        "device of synchronisation messages",
    ),
    option(
        Opt::Timeout,
        None,
        "timeout",
        Value::None,
        Slot::Timeout,
        LISTING,
        "list the time-outs: tcp tcpfin udp",
    ),
    option(
        Opt::Daemon,
        None,
        "daemon",
        Value::None,
        Slot::Daemon,
        LISTING,
        "list the synchronisation daemons",
    ),
    option(
        Opt::Stats,
        None,
        "stats",
        Value::None,
        Slot::Stats,
        LISTING,
        "list counters",
    ),
    option(
        Opt::Rate,
        None,
        "rate",
        Value::None,
        Slot::Rate,
        LISTING,
        "list rates per second",
    ),
    option(
        Opt::Thresholds,
        None,
        "thresholds",
        Value::None,
        Slot::Thresholds,
        LISTING,
        "list connection thresholds",
    ),
    option(
        Opt::PersistentConn,
        None,
        "persistent-conn",
        Value::None,
        Slot::PersistentConn,
        LISTING,
        "list the number of persistent connections",
    ),
    option(
        Opt::NoSort,
        None,
        "nosort",
        Value::None,
        Slot::NoSort,
        LISTING,
        "do not sort: newest first",
    ),
    option(
        Opt::Sort,
        None,
        "sort",
        Value::None,
        Slot::Free,
        &[],
        "sort, as is the default",
    ),
    option(
        Opt::SyncId,
        None,
        "syncid",
        Required("ID"),
        Slot::SyncId,
        SYNC,
        "group of synchronising balancers",
    ),
    option(
        Opt::Exact,
        Some('X'),
        "exact",
        Value::None,
        Slot::Exact,
        LISTING,
        "print large numbers in full",
    ),
    option(
        Opt::OnePacket,
        Some('o'),
        "ops",
        Value::None,
        Slot::OnePacket,
        SERVICE,
        "schedule each UDP packet on its own",
    ),
    option(
        Opt::Engine,
        None,
        "pe",
        Required("NAME"),
        Slot::Engine,
        SERVICE,
        "persistence engine: sip, by the Call-ID of SIP messages",
    ),
    option(
        Opt::SchedFlags,
        Some('b'),
        "sched-flags",
        Required("FLAG,..."),
        Slot::SchedFlags,
        SERVICE,
        "flags of the scheduler: sh-fallback, sh-port, mh-fallback, mh-port",
    ),
    option(
        Opt::McastGroup,
        None,
        "mcast-group",
        Required("ADDRESS"),
        Slot::McastGroup,
        START,
        "multicast group of synchronisation messages",
    ),
    option(
        Opt::McastPort,
        None,
        "mcast-port",
        Required("PORT"),
        Slot::McastPort,
        START,
        "UDP port of synchronisation messages",
    ),
    option(
        Opt::McastTtl,
        None,
        "mcast-ttl",
        Required("N"),
        Slot::McastTtl,
        START,
        "TTL of synchronisation messages",
    ),
    option(
        Opt::SyncMaxLen,
        None,
        "sync-maxlen",
        Required("BYTES"),
        Slot::SyncMaxLen,
        START,
        "size of synchronisation messages",
    ),
    option(
        Opt::TunInfo,
        None,
        "tun-info",
        Value::None,
        Slot::TunInfo,
        LISTING,
        "list the kinds of tunnel",
    ),
    option(
        Opt::TunType,
        None,
        "tun-type",
        Required("TYPE"),
        Slot::TunType,
        SERVER,
        "kind of tunnel: ipip, gue or gre",
    ),
    option(
        Opt::TunPort,
        None,
        "tun-port",
        Required("PORT"),
        Slot::TunPort,
        SERVER,
        "UDP port of a gue tunnel",
    ),
    option(
        Opt::TunNoCsum,
        None,
        "tun-nocsum",
        Value::None,
        Slot::TunNoCsum,
        SERVER,
        "tunnel without checksum",
    ),
    option(
        Opt::TunCsum,
        None,
        "tun-csum",
        Value::None,
        Slot::TunCsum,
        SERVER,
        "tunnel with checksum",
    ),
    option(
        Opt::TunRemCsum,
        None,
        "tun-remcsum",
        Value::None,
        Slot::TunRemCsum,
        SERVER,
        "gue tunnel with remote checksum offload",
    ),
    option(
        Opt::ConnTimeouts,
        None,
        "conn-timeouts",
        Required("LIST"),
        Slot::ConnTimeouts,
        SERVICE,
        "timeouts of this service's connections, tcp=60,tcpfin=10,udp=5,sctp=30 or some of them",
    ),
    option(
        Opt::Json,
        None,
        "json",
        Value::None,
        Slot::Json,
        LISTING,
        "print a listing or the status as JSON",
    ),
    option(
        Opt::Socket,
        None,
        "socket",
        Required("PATH"),
        Slot::Free,
        &[],
        "admin socket of rvsd (also: environment variable RVS_SOCKET)",
    ),
];

/// What `rvsadm` does beyond ipvsadm: commands that are words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Ports, workers, losses.
    Status,
    /// Rules of firewall marks.
    Mark,
    /// Health of servers.
    Health,
    /// Virtual routers.
    Vrrp,
    /// Servers that are to be switched off.
    Drain,
    /// The opposite.
    Undrain,
    /// What happened.
    Events,
    /// Totals and rates of everything.
    Stats,
    /// Settings by the kernel's names.
    Sysctl,
    /// File against running.
    Diff,
    /// Running to file.
    Save,
    /// File to running.
    Reload,
    /// Another program in the place of the daemon's.
    Upgrade,
    /// Packets to a file.
    Capture,
    /// A keepalived.conf to a configuration.
    ImportKeepalived,
}

/// A command that is a word.
#[derive(Debug)]
pub struct WordSpec {
    /// What it stands for.
    pub word: Word,
    /// As typed.
    pub name: &'static str,
    /// Its arguments, for the help.
    pub arguments: &'static str,
    /// Its options.
    pub options: &'static [WordOption],
    /// Line for the help.
    pub help: &'static str,
}

/// An option of a word.
#[derive(Debug)]
pub struct WordOption {
    /// Name behind `--`.
    pub long: &'static str,
    /// Name of its argument.
    pub value: Option<&'static str>,
    /// Line for the help.
    pub help: &'static str,
}

/// All words.
pub const WORDS: &[WordSpec] = &[
    WordSpec {
        word: Word::Status,
        name: "status",
        arguments: "",
        options: &[WordOption {
            long: "json",
            value: None,
            help: "print it as JSON",
        }],
        help: "ports, workers, connections, losses and drops by reason",
    },
    WordSpec {
        word: Word::Stats,
        name: "stats",
        arguments: "",
        options: &[
            WordOption {
                long: "workers",
                value: None,
                help: "a row for each worker too, as /proc/net/ip_vs_stats_percpu",
            },
            WordOption {
                long: "json",
                value: None,
                help: "print it as JSON",
            },
        ],
        help: "totals and rates of everything, in hexadecimal as /proc/net/ip_vs_stats",
    },
    WordSpec {
        word: Word::Sysctl,
        name: "sysctl",
        arguments: "[NAME[=VALUE]...]",
        options: &[WordOption {
            long: "json",
            value: None,
            help: "print it as JSON",
        }],
        help: "show or change the settings of net.ipv4.vs while rvsd runs",
    },
    WordSpec {
        word: Word::Mark,
        name: "mark",
        arguments: "list | add MARK [MATCH...] | delete [MARK] [MATCH...]",
        options: &[WordOption {
            long: "json",
            value: None,
            help: "print the list as JSON",
        }],
        help: "rules that give packets a firewall mark; MATCH: source NET, destination NET, \
               protocol NAME, source-port PORTS, destination-port PORTS, vlan N, port NAME, \
               family ipv6",
    },
    WordSpec {
        word: Word::Health,
        name: "health",
        arguments: "",
        options: &[WordOption {
            long: "json",
            value: None,
            help: "print it as JSON",
        }],
        help: "which servers are checked, how each check stands and why it failed",
    },
    WordSpec {
        word: Word::Vrrp,
        name: "vrrp",
        arguments: "",
        options: &[WordOption {
            long: "json",
            value: None,
            help: "print it as JSON",
        }],
        help: "virtual routers: state, priority, peers, addresses, what was refused and why",
    },
    WordSpec {
        word: Word::Drain,
        name: "drain",
        arguments: "[SERVER[:PORT]]",
        options: &[
            WordOption {
                long: "deadline",
                value: Some("TIME"),
                help: "end what is left of its connections after so long, 10m",
            },
            WordOption {
                long: "service",
                value: Some("SERVICE"),
                help: "only in this service, tcp:10.0.0.1:80 or mark:5; otherwise in all",
            },
            WordOption {
                long: "no-wait",
                value: None,
                help: "do not wait until it can be switched off",
            },
            WordOption {
                long: "json",
                value: None,
                help: "print how far it is as JSON, and do not wait",
            },
        ],
        help: "give a server nothing new, and tell when it can be switched off; without SERVER: \
               which servers are drained",
    },
    WordSpec {
        word: Word::Undrain,
        name: "undrain",
        arguments: "SERVER[:PORT]",
        options: &[WordOption {
            long: "service",
            value: Some("SERVICE"),
            help: "only in this service",
        }],
        help: "let a drained server take connections again",
    },
    WordSpec {
        word: Word::Events,
        name: "events",
        arguments: "",
        options: &[
            WordOption {
                long: "follow",
                value: None,
                help: "go on with what happens from now on, until Ctrl-C",
            },
            WordOption {
                long: "json",
                value: None,
                help: "print the lines of the stream as they are",
            },
        ],
        help: "what happened to virtual routers, servers and quorum, oldest first",
    },
    WordSpec {
        word: Word::Diff,
        name: "diff",
        arguments: "",
        options: &[],
        help: "what the configuration file and the running services do not share",
    },
    WordSpec {
        word: Word::Save,
        name: "save",
        arguments: "",
        options: &[],
        help: "write the running services to the configuration file",
    },
    WordSpec {
        word: Word::Reload,
        name: "reload",
        arguments: "",
        options: &[WordOption {
            long: "discard-live",
            value: None,
            help: "undo what rvsadm added or changed since the file was loaded",
        }],
        help: "load the configuration file again",
    },
    WordSpec {
        word: Word::Upgrade,
        name: "upgrade",
        arguments: "",
        options: &[
            WordOption {
                long: "binary",
                value: Some("FILE"),
                help: "this program; without, the one that lies where rvsd was started from",
            },
            WordOption {
                long: "deadline",
                value: Some("TIME"),
                help: "how long it may take until it is ready for the ports, 2m",
            },
            WordOption {
                long: "hand-over",
                value: Some("auto|always|never"),
                help: "let a standby be master meanwhile: if the pause is longer than it waits and \
                       it is in step, always, or never",
            },
        ],
        help: "let a new rvsd take over without losing a connection; the old one goes on if the new \
               one fails",
    },
    WordSpec {
        word: Word::Capture,
        name: "capture",
        arguments: "PORT FILE [FILTER...]",
        options: &[
            WordOption {
                long: "packets",
                value: Some("N"),
                help: "end after so many packets",
            },
            WordOption {
                long: "seconds",
                value: Some("N"),
                help: "end after so many seconds",
            },
        ],
        help: "write packets of a port to a pcapng file until Ctrl-C",
    },
    WordSpec {
        word: Word::ImportKeepalived,
        name: "import-keepalived",
        arguments: "FILE",
        options: &[
            WordOption {
                long: "output",
                value: Some("OUT.toml"),
                help: "(or -o) write the configuration there and not to standard output",
            },
            WordOption {
                long: "report",
                value: Some("FILE"),
                help: "write the report there and not to standard error",
            },
            WordOption {
                long: "config-id",
                value: Some("ID"),
                help: "take the lines of @ID; without it ID is this host's name up to the first dot",
            },
        ],
        help: "make a configuration of rvsd from a keepalived.conf, and a report of what became of \
               each keyword; needs no rvsd",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_names_are_unique() {
        let mut letters: Vec<char> = OPTIONS.iter().filter_map(|o| o.short).collect();
        letters.extend(COMMANDS.iter().flat_map(|c| c.short));
        let mut names: Vec<&str> = OPTIONS.iter().map(|o| o.long).collect();
        names.extend(COMMANDS.iter().map(|c| c.long));
        let (all_letters, all_names) = (letters.len(), names.len());
        letters.sort_unstable();
        letters.dedup();
        names.sort_unstable();
        names.dedup();
        assert_eq!((letters.len(), names.len()), (all_letters, all_names));
    }

    #[test]
    fn options_of_one_slot_are_taken_by_the_same_commands() {
        for option in OPTIONS.iter().filter(|o| o.slot != Slot::Free) {
            let first = OPTIONS
                .iter()
                .find(|o| o.slot == option.slot)
                .expect("itself at least");
            assert_eq!(option.on, first.on, "--{}", option.long);
            assert!(!option.on.is_empty(), "--{}", option.long);
            assert!(!option.slot.name().is_empty(), "--{}", option.long);
        }
    }
}
