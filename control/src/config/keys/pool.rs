//! Keys of a service's servers as a pool: quorum, sorry server, what becomes of a failed server.

use super::Fallback::{Computed, Required, Value};
use super::Kind::{Boolean, Integer, Table, Text};
use super::service::{METHOD, TUN_CHECKSUM, TUN_PORT, TUN_TYPE};
use super::{Key, Section, key};

/// Largest quorum: weights are 31 bits wide.
const MAX_QUORUM: i64 = super::MAX_WEIGHT;

pub(super) const QUORUM: Key = key(
    "quorum",
    Integer(1, MAX_QUORUM),
    Value("1"),
    "weight of living servers that the service needs; if all servers together weigh less, that much",
);

pub(super) const HYSTERESIS: Key = key(
    "hysteresis",
    Integer(0, MAX_QUORUM),
    Value("0"),
    "quorum is lost below `quorum - hysteresis` and gained from `quorum + hysteresis` on; less than `quorum`",
);

pub(super) const SORRY_SERVER: Key = key(
    "sorry_server",
    Table(&SORRY),
    Computed("none"),
    "server that takes new connections while there is no quorum, in place of all others",
);

pub(super) const INHIBIT_ON_FAILURE: Key = key(
    "inhibit_on_failure",
    Boolean,
    Value("true"),
    "a failed server stays with weight 0, so that its connections can finish; otherwise it is removed until it is up",
);

pub(super) const SERVER_INHIBIT: Key = key(
    "inhibit_on_failure",
    Boolean,
    Computed("that of the service"),
    "it stays with weight 0 when it failed; otherwise it is removed until it is up",
);

pub(super) const RESCHEDULE_FAILED: Key = key(
    "reschedule_failed",
    Boolean,
    Value("true"),
    "clients leave a failed server: persistent ones with their next connection, UDP flows with their next packet, TCP with the next SYN; otherwise it is like any server with weight 0",
);

pub(super) const ALPHA: Key = key(
    "alpha",
    Boolean,
    Value("false"),
    "`alpha` of the checks of this service that do not have it: its servers are down until they were checked",
);

pub(super) const OMEGA: Key = key(
    "omega",
    Boolean,
    Value("false"),
    "servers and quorum are told to be down when `rvsd` ends and when the service or a server is removed",
);

pub(super) const HA_SUSPEND: Key = key(
    "ha_suspend",
    Boolean,
    Value("false"),
    "while this host does not hold the address (VRRP, for instance), nothing is checked and all stays as it was; not for firewall marks",
);

static SORRY: Section = Section {
    path: "service.sorry_server",
    list: false,
    live: true,
    help: "Written inline: `sorry_server = { address = \"10.20.0.99\", port = 8080, method = \"nat\" }`. It is not checked.",
    keys: &[
        key("address", Text, Required, "real address"),
        key(
            "port",
            Integer(0, 65_535),
            Computed("port of the service"),
            "real port; `dr` and `tun` keep the service's",
        ),
        METHOD,
        key(
            "inhibit",
            Boolean,
            Computed("`inhibit_on_failure` of the service"),
            "while it is not needed it is there with weight 0, so that its connections can finish; otherwise it is removed",
        ),
        TUN_TYPE,
        TUN_PORT,
        TUN_CHECKSUM,
    ],
};
