//! A service's servers as a pool.

use std::collections::BTreeSet;

use super::{Notes, number, service};
use crate::api::{ServerKey, ServerSpec, ServiceKey};
use crate::config::file::Table;
use crate::config::{Server, describe_server};
use crate::health::{Pool, Sorry};

/// What the keys of a pool say; `servers` are those of the service, `others` those that have the
/// other `inhibit_on_failure`.
pub(super) fn pool(
    table: &Table,
    key: Option<ServiceKey>,
    servers: &[Server],
    others: BTreeSet<ServerKey>,
    notes: &mut Notes<'_>,
) -> Pool {
    let (quorum, hysteresis) = (number(table, "quorum"), number(table, "hysteresis"));
    if hysteresis >= quorum && table.mentions("hysteresis") && hysteresis != 0 {
        notes.mistake(
            table.line_of("hysteresis"),
            format!(
                "hysteresis {hysteresis} is not below quorum {quorum}; give at most quorum - 1"
            ),
        );
    }
    let flag = |name| table.boolean(name).unwrap_or_default();
    let ha_suspend = flag("ha_suspend");
    if ha_suspend && key.is_some_and(|key| key.addr().is_none()) {
        notes.mistake(
            table.line_of("ha_suspend"),
            "ha_suspend goes by the address of the service, and a firewall mark has none; remove it",
        );
    }
    let inhibit = flag("inhibit_on_failure");
    let sorry = table.table("sorry_server").and_then(|sorry| {
        let server = service::server(sorry, key, notes)?;
        if servers.iter().any(|s| s.key == server.key) {
            let what = describe_server(&server.key);
            let text = format!(
                "sorry_server {what} is also a server of this service; give another address or port"
            );
            notes.mistake(sorry.line_of("address"), text);
        }
        Some(Sorry {
            server: server.key,
            spec: ServerSpec {
                weight: Sorry::WEIGHT,
                ..server.spec
            },
            inhibit: sorry.boolean("inhibit").unwrap_or(inhibit),
        })
    });
    Pool {
        quorum,
        hysteresis,
        sorry,
        inhibit,
        others,
        reschedule: flag("reschedule_failed"),
        omega: flag("omega"),
        ha_suspend,
    }
}
