//! `rvsadm health`: a line for each check of each server, and one for each pool of which there is
//! something to say.

use std::io::{self, Write};

use crate::api::{CheckView, HealthView, PoolView, ViaView};
use crate::config::{describe_server, describe_service};

/// Prints servers in the order given, one line a check, then pools.
pub fn print(out: &mut dyn Write, servers: &[HealthView], pools: &[PoolView]) -> io::Result<()> {
    writeln!(
        out,
        "{:<6}{:<24} {:<24} Check",
        "State", "Service", "Server"
    )?;
    for view in servers {
        let state = if view.alive { "up" } else { "down" };
        let (service, server) = (
            describe_service(&view.service),
            describe_server(&view.server),
        );
        let mut line = |check: &str| writeln!(out, "{state:<6}{service:<24} {server:<24} {check}");
        if view.checks.is_empty() {
            line("not checked yet")?;
        }
        for check in &view.checks {
            line(&describe(check))?;
        }
    }
    let told: Vec<&PoolView> = pools.iter().filter(|pool| is_told(pool)).collect();
    if told.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{:<8}{:<24} Pool", "Quorum", "Service")?;
    for pool in told {
        let state = if pool.has_quorum { "yes" } else { "no" };
        let service = describe_service(&pool.service);
        writeln!(out, "{state:<8}{service:<24} {}", describe_pool(pool))?;
    }
    Ok(())
}

/// A pool that any living server is enough for is as its servers are.
fn is_told(pool: &PoolView) -> bool {
    let is_plain = pool.quorum <= 1 && pool.hysteresis == 0 && pool.sorry.is_none();
    !is_plain || !pool.has_quorum || pool.suspended
}

fn describe_pool(pool: &PoolView) -> String {
    let mut text = format!("living weight {} of {}", pool.weight, pool.quorum);
    if pool.hysteresis != 0 {
        text += &format!(", hysteresis {}", pool.hysteresis);
    }
    if let Some(sorry) = &pool.sorry {
        let does = if sorry.serves { "serves" } else { "waits" };
        text += &format!(", sorry server {} {does}", describe_server(&sorry.server));
    }
    if pool.suspended {
        text += ", not checked: this host does not hold the address";
    }
    text
}

fn describe(check: &CheckView) -> String {
    let state = match (check.up, check.has_run) {
        (_, false) => "not checked yet",
        (true, _) => "up",
        (false, _) => "down",
    };
    let mut text = format!("{} {state}", check.kind);
    if let Some(why) = &check.failure {
        text += &format!(": {why}");
    }
    if let Some(ViaView { vip, from }) = check.via {
        let from = from.map_or("no probe address".to_owned(), |from| from.to_string());
        text += &format!(" (via vip {vip} from {from})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Protocol, ServerKey, ServiceKey, SorryView};

    #[test]
    fn a_line_a_check() {
        let check = |up, has_run, failure: Option<&str>| CheckView {
            kind: "http".into(),
            up,
            has_run,
            failure: failure.map(str::to_owned),
            via: None,
        };
        let view = |checks: Vec<CheckView>| HealthView {
            service: ServiceKey::new(Protocol::Tcp, [10, 0, 0, 1].into(), 80),
            server: ServerKey {
                addr: [10, 0, 0, 2].into(),
                port: 8080,
            },
            alive: checks.iter().all(|c| c.up),
            weight_delta: 0,
            checks,
        };
        let by_vip = |from: Option<[u8; 4]>| CheckView {
            via: Some(ViaView {
                vip: ([10, 0, 0, 1], 80).into(),
                from: from.map(Into::into),
            }),
            ..check(false, true, Some("connection refused"))
        };
        let mut out = Vec::new();
        let servers = [
            view(vec![
                check(true, true, None),
                check(false, true, Some("status 503 for /")),
            ]),
            view(vec![check(true, false, None)]),
            view(vec![by_vip(Some([10, 0, 0, 7])), by_vip(None)]),
            view(vec![]),
        ];
        let pool = |quorum, sorry, has_quorum| PoolView {
            service: ServiceKey::new(Protocol::Tcp, [10, 0, 0, 1].into(), 80),
            quorum,
            hysteresis: quorum - 1,
            weight: 1,
            has_quorum,
            sorry,
            suspended: false,
        };
        let sorry = SorryView {
            server: servers[0].server,
            serves: true,
        };
        let pools = [pool(1, None, true), pool(2, Some(sorry), false)];
        print(&mut out, &servers, &pools).unwrap();
        let text = "\
State Service                  Server                   Check
down  tcp 10.0.0.1:80          10.0.0.2:8080            http up
down  tcp 10.0.0.1:80          10.0.0.2:8080            http down: status 503 for /
up    tcp 10.0.0.1:80          10.0.0.2:8080            http not checked yet
down  tcp 10.0.0.1:80          10.0.0.2:8080            http down: connection refused (via vip 10.0.0.1:80 from 10.0.0.7)
down  tcp 10.0.0.1:80          10.0.0.2:8080            http down: connection refused (via vip 10.0.0.1:80 from no probe address)
up    tcp 10.0.0.1:80          10.0.0.2:8080            not checked yet

Quorum  Service                  Pool
no      tcp 10.0.0.1:80          living weight 1 of 2, hysteresis 1, sorry server 10.0.0.2:8080 serves
";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}
