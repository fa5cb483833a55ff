//! Keys of what is told to whom: `[scripts]`, `[notify]`, `[alert]`, and the scripts of virtual
//! routers, services and servers.

use super::Fallback::{Computed, Required, Value};
use super::Kind::{Boolean, Choice, Duration, Integer, Table, Text, Texts};
use super::{Key, Section, key};

/// `[scripts]`.
pub static SCRIPTS: Section = Section {
    path: "scripts",
    list: false,
    live: true,
    help: "What holds for all scripts: checks, trackers, notifications. They run without a shell, in an environment of `PATH`, `HOME`, `USER` and `LOGNAME`, in `/`, as processes of a helper that has the rights of their user only.",
    keys: &[
        key(
            "user",
            Text,
            Computed("`rvs_script` if the host has it, otherwise the daemon's user"),
            "user and group of scripts that name none, `user` or `user:group`",
        ),
        key(
            "secure",
            Boolean,
            Value("true"),
            "a script does not run as root if anybody else can write to it or to a directory above it",
        ),
        key(
            "timeout",
            Duration(10, 3_600_000),
            Value("\"60s\""),
            "longest time of a notification's script; then it is ended (SIGTERM, and SIGKILL 2 s later)",
        ),
    ],
};

/// `[notify]`.
pub static NOTIFY: Section = Section {
    path: "notify",
    list: false,
    live: true,
    help: "The stream of events: state changes of virtual routers, servers and quorum, in order. See notifications.md.",
    keys: &[
        key(
            "socket",
            Text,
            Computed("the admin socket's path and `.events`"),
            "Unix socket of the stream: a line of JSON per event to everyone connected; mode and group as the admin socket",
        ),
        key(
            "history",
            Integer(0, 100_000),
            Value("1000"),
            "past events that a new connection is told first",
        ),
        key(
            "priority_changes",
            Boolean,
            Value("false"),
            "changes of a virtual router's priority are events, too (`MASTER_PRIORITY`, `BACKUP_PRIORITY`)",
        ),
        key("fifo", Table(&FIFO), Computed("none"), ""),
    ],
};

static FIFO: Section = Section {
    path: "notify.fifo",
    list: false,
    live: true,
    help: "Named pipes with a line per event in keepalived's format; made if they are not there. A pipe that nobody empties loses lines.",
    keys: &[
        key(
            "all",
            Text,
            Computed("none"),
            "path of the pipe for all events",
        ),
        key(
            "vrrp",
            Text,
            Computed("none"),
            "path of the pipe for events of virtual routers and sync groups",
        ),
        key(
            "lvs",
            Text,
            Computed("none"),
            "path of the pipe for events of servers and quorum",
        ),
    ],
};

/// `[alert]`.
pub static ALERT: Section = Section {
    path: "alert",
    list: false,
    live: true,
    help: "Alerts.",
    keys: &[key("smtp", Table(&SMTP), Computed("no mail"), "")],
};

static SMTP: Section = Section {
    path: "alert.smtp",
    list: false,
    live: true,
    help: "A mail per state change, each state once.",
    keys: &[
        key("to", Texts, Required, "addresses of those who get it"),
        key(
            "from",
            Text,
            Computed("`rvsd@` and the host's name"),
            "address of the sender",
        ),
        key(
            "server",
            Text,
            Value("\"127.0.0.1:25\""),
            "mail server, `host:port`; the port is 25 if there is none, with `tls` 587 (starttls) or 465 (implicit)",
        ),
        key(
            "tls",
            Choice(&["none", "starttls", "implicit"], &[]),
            Value("\"none\""),
            "protection of the session: none, changed to before anything is said, or from the beginning; the certificate has to be good",
        ),
        key(
            "ca_file",
            Text,
            Computed("the system's"),
            "authorities of the server's certificate (PEM)",
        ),
        key(
            "username",
            Text,
            Computed("no login"),
            "who to log in as; needs tls",
        ),
        key(
            "password_file",
            Text,
            Computed("none"),
            "file whose first line is the password; read with each mail",
        ),
        key(
            "helo_name",
            Text,
            Computed("the host's name"),
            "the name we introduce ourselves with",
        ),
        key(
            "connect_timeout",
            Duration(10, 600_000),
            Value("\"30s\""),
            "how long the server has for each answer",
        ),
        key(
            "router_id",
            Text,
            Computed("the host's name"),
            "our name in the subject",
        ),
        key(
            "vrrp",
            Boolean,
            Value("false"),
            "mails about virtual routers and sync groups",
        ),
        key(
            "checker",
            Boolean,
            Value("true"),
            "mails about servers and quorum",
        ),
        key(
            "faults",
            Boolean,
            Value("true"),
            "mails about virtual routers that turn to FAULT",
        ),
    ],
};

const USER: Key = key(
    "user",
    Text,
    Computed("that of `[scripts]`"),
    "user and group of these scripts, `user` or `user:group`",
);

/// `[vrrp.instance.notify]`.
pub static INSTANCE_NOTIFY: Section = Section {
    path: "vrrp.instance.notify",
    list: false,
    live: true,
    help: "Scripts of a virtual router, each a list of the full path and arguments. They run one after the other in the order of the changes, the one of the state first.",
    keys: ROUTER_KEYS,
};

/// `[vrrp.sync_group.notify]`.
pub static GROUP_NOTIFY: Section = Section {
    path: "vrrp.sync_group.notify",
    list: false,
    live: true,
    help: "Scripts of a sync group. The keys are those of `[vrrp.instance.notify]`.",
    keys: ROUTER_KEYS,
};

const ROUTER_KEYS: &[Key] = &[
    key("master", Texts, Computed("none"), "run on becoming MASTER"),
    key("backup", Texts, Computed("none"), "run on becoming BACKUP"),
    key("fault", Texts, Computed("none"), "run on a FAULT"),
    key("stop", Texts, Computed("none"), "run when the daemon ends"),
    key(
        "deleted",
        Texts,
        Computed("`fault`"),
        "run when a reload takes the router away",
    ),
    key(
        "master_rx_lower_pri",
        Texts,
        Computed("none"),
        "run when a MASTER hears an advert of a lower priority",
    ),
    key(
        "any",
        Texts,
        Computed("none"),
        "run after every change, with four more arguments: `INSTANCE` or `GROUP`, the name, `MASTER`, `BACKUP`, `FAULT`, `STOP` or `DELETED`, and the priority",
    ),
    USER,
];

/// `[service.notify]`.
pub static SERVICE_NOTIFY: Section = Section {
    path: "service.notify",
    list: false,
    live: true,
    help: "Scripts of a service, each a list of the full path and arguments.",
    keys: &[
        key(
            "quorum_up",
            Texts,
            Computed("none"),
            "run when enough servers are alive; at the start, too",
        ),
        key(
            "quorum_down",
            Texts,
            Computed("none"),
            "run when too few servers are alive",
        ),
        USER,
    ],
};

/// `[service.server.notify]`.
pub static SERVER_NOTIFY: Section = Section {
    path: "service.server.notify",
    list: false,
    live: true,
    help: "Scripts of a server, each a list of the full path and arguments.",
    keys: &[
        key(
            "up",
            Texts,
            Computed("none"),
            "run when the server's checks are up again",
        ),
        key(
            "down",
            Texts,
            Computed("none"),
            "run when one of the server's checks is down",
        ),
        USER,
    ],
};
