//! Keys of what health checks have in common.

use super::Fallback::Computed;
use super::Kind::Texts;
use super::{Section, key};

pub(super) static HEALTH: Section = Section {
    path: "health",
    list: false,
    live: false,
    help: "What all health checks have in common.",
    keys: &[key(
        "probe_addresses",
        Texts,
        Computed("none"),
        "addresses that checks with `via = \"vip\"` come from, one of each family at most: held by this host on a data port (a twin), reached by the servers, and used for nothing else over TCP",
    )],
};
