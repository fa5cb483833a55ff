//! `rvsadm vrrp`: virtual routers, a line each, and below it what is out of the ordinary.

use std::io::{self, Write};
use std::time::Duration;

use crate::api::{VrrpInstanceView, VrrpView};

/// Prints virtual routers in the order given.
pub fn print(out: &mut dyn Write, view: &VrrpView) -> io::Result<()> {
    writeln!(
        out,
        "{:<7}{:<16} {:<15} {:>4} {:>4} {:>8}  {:<10} Addresses",
        "State", "Name", "Interface", "VRID", "Prio", "Interval", "Since"
    )?;
    for instance in &view.instances {
        let i = instance;
        writeln!(
            out,
            "{:<7}{:<16} {:<15} {:>4} {:>4} {:>8}  {:<10} {}",
            i.state,
            i.name,
            i.interface,
            i.vrid,
            i.priority,
            format!("{}ms", i.interval_ms),
            ago(i.since_ms),
            i.addresses.join(" ")
        )?;
        details(out, instance)?;
    }
    if !view.refused.is_empty() {
        writeln!(out, "Refused, of no instance: {}", counts(&view.refused))?;
    }
    Ok(())
}

fn details(out: &mut dyn Write, i: &VrrpInstanceView) -> io::Result<()> {
    let mut words = vec![i.cause.clone()];
    if i.priority != i.base_priority {
        words.push(format!("configured priority {}", i.base_priority));
    }
    words.extend(i.group.as_ref().map(|group| format!("group {group}")));
    words.extend(i.source.map(|source| format!("from {source}")));
    match (i.state.as_str(), i.master, i.master_priority) {
        ("BACKUP", Some(master), Some(priority)) => {
            words.push(format!("master {master} with priority {priority}"));
        }
        ("BACKUP", ..) => words.push("no master heard".to_owned()),
        _ => {}
    }
    words.extend(i.lease_ms.map(|ms| format!("lease {ms}ms")));
    writeln!(out, "       {}", words.join(", "))?;
    for peer in &i.peers {
        let same = if peer.same_addresses {
            ""
        } else {
            ", other addresses"
        };
        writeln!(
            out,
            "       peer {} priority {} version {} interval {}ms, heard {} ago{same}",
            peer.addr,
            peer.priority,
            peer.version,
            peer.interval_ms,
            ago(peer.heard_ms)
        )?;
    }
    writeln!(out, "       {}", counts(&i.counters))?;
    if !i.invalid.is_empty() {
        writeln!(out, "       refused: {}", counts(&i.invalid))?;
    }
    for alarm in &i.alarms {
        writeln!(
            out,
            "       alarm {} ({} times): {}",
            alarm.name, alarm.count, alarm.last
        )?;
    }
    Ok(())
}

fn counts(counters: &std::collections::BTreeMap<String, u64>) -> String {
    let counted = counters.iter().filter(|(_, count)| **count > 0);
    let words: Vec<String> = counted
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    match words.is_empty() {
        true => "nothing counted".to_owned(),
        false => words.join(", "),
    }
}

/// Whole seconds from one on.
fn ago(ms: u64) -> String {
    let time = match ms {
        0..1000 => Duration::from_millis(ms),
        _ => Duration::from_secs(ms / 1000),
    };
    humantime::format_duration(time)
        .to_string()
        .replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Family, VrrpAlarmView, VrrpPeerView};

    #[test]
    fn what_matters_is_there() {
        let count = |pairs: &[(&str, u64)]| {
            pairs
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect()
        };
        let view = VrrpView {
            instances: vec![VrrpInstanceView {
                name: "web".into(),
                interface: "rvs-front".into(),
                family: Family::Ipv4,
                vrid: 51,
                version: 3,
                state: "BACKUP".into(),
                cause: "higher-priority".into(),
                since_ms: 62_500,
                priority: 90,
                base_priority: 100,
                interval_ms: 100,
                source: Some([192, 0, 2, 2].into()),
                group: Some("pair".into()),
                master: Some([192, 0, 2, 3].into()),
                master_priority: Some(99),
                timer_ms: Some(300),
                lease_ms: None,
                addresses: vec!["192.0.2.80/24".into()],
                holds: false,
                peers: vec![VrrpPeerView {
                    addr: [192, 0, 2, 3].into(),
                    priority: 99,
                    version: 3,
                    interval_ms: 100,
                    heard_ms: 40,
                    same_addresses: false,
                }],
                counters: count(&[("adverts-received", 7), ("adverts-sent", 0)]),
                invalid: count(&[("ttl", 2)]),
                alarms: vec![VrrpAlarmView {
                    name: "address-mismatch".into(),
                    count: 1,
                    last: "look".into(),
                }],
            }],
            refused: count(&[("unknown-vrid", 3)]),
        };
        let mut out = Vec::new();
        print(&mut out, &view).unwrap();
        let text = "\
State  Name             Interface       VRID Prio Interval  Since      Addresses
BACKUP web              rvs-front         51   90    100ms  1m2s       192.0.2.80/24
       higher-priority, configured priority 100, group pair, from 192.0.2.2, master 192.0.2.3 with priority 99
       peer 192.0.2.3 priority 99 version 3 interval 100ms, heard 40ms ago, other addresses
       adverts-received 7
       refused: ttl 2
       alarm address-mismatch (1 times): look
Refused, of no instance: unknown-vrid 3
";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}
