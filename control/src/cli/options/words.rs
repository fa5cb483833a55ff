//! Commands that are words: what `rvsadm` does beyond ipvsadm.

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
