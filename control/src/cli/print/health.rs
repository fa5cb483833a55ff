//! `rvsadm health`: a line for each check of each server.

use std::io::{self, Write};

use crate::api::{CheckView, HealthView};
use crate::config::{describe_server, describe_service};

/// Prints servers in the order given, one line a check.
pub fn print(out: &mut dyn Write, servers: &[HealthView]) -> io::Result<()> {
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
    Ok(())
}

fn describe(check: &CheckView) -> String {
    let state = match (check.up, check.has_run) {
        (_, false) => "not checked yet",
        (true, _) => "up",
        (false, _) => "down",
    };
    let kind = &check.kind;
    match &check.failure {
        Some(why) => format!("{kind} {state}: {why}"),
        None => format!("{kind} {state}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Protocol, ServerKey, ServiceKey};

    #[test]
    fn a_line_a_check() {
        let check = |up, has_run, failure: Option<&str>| CheckView {
            kind: "http".into(),
            up,
            has_run,
            failure: failure.map(str::to_owned),
        };
        let view = |checks: Vec<CheckView>| HealthView {
            service: ServiceKey::new(Protocol::Tcp, [10, 0, 0, 1].into(), 80),
            server: ServerKey {
                addr: [10, 0, 0, 2].into(),
                port: 8080,
            },
            alive: checks.iter().all(|c| c.up),
            checks,
        };
        let mut out = Vec::new();
        let servers = [
            view(vec![
                check(true, true, None),
                check(false, true, Some("status 503 for /")),
            ]),
            view(vec![check(true, false, None)]),
            view(vec![]),
        ];
        print(&mut out, &servers).unwrap();
        let text = "\
State Service                  Server                   Check
down  tcp 10.0.0.1:80          10.0.0.2:8080            http up
down  tcp 10.0.0.1:80          10.0.0.2:8080            http down: status 503 for /
up    tcp 10.0.0.1:80          10.0.0.2:8080            http not checked yet
up    tcp 10.0.0.1:80          10.0.0.2:8080            not checked yet
";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}
