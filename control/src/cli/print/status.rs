//! `rvsadm status`: one screen an operator reads top down. Free to change; programs use `--json`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::api::{PortView, StatusView};

/// Port counters with a column of their own; the others are listed below when they are not zero.
const PORT_COLUMNS: [&str; 2] = ["rx", "tx"];

/// Age from which a worker's heartbeat is called out.
const STALLED_MS: u64 = 1000;

/// The same for the pump, which is looked at once a second.
const PUMP_STALLED_MS: u64 = 2500;

/// Prints the status.
pub fn print(out: &mut dyn Write, view: &StatusView) -> io::Result<()> {
    writeln!(out, "rvsd {}, up {}", view.version, duration(view.uptime))?;
    for warning in &view.warnings {
        writeln!(out, "WARNING: {warning}")?;
    }
    writeln!(out)?;
    overview(out, view)?;
    ports(out, view)?;
    workers(out, view)?;
    losses(out, view)?;
    drops(out, view)?;
    punted(out, view)
}

fn overview(out: &mut dyn Write, view: &StatusView) -> io::Result<()> {
    let (used, capacity) = view.connections;
    let percent = (used as f64) * 100.0 / (capacity.max(1) as f64);
    writeln!(out, "Connections  {used} of {capacity} ({percent:.1} %)")?;
    writeln!(
        out,
        "Services     {} with {} real servers",
        view.services, view.servers
    )?;
    writeln!(
        out,
        "Routes       {}, neighbours {}",
        view.routes, view.neighbours
    )?;
    if view.workers.len() > 1 {
        writeln!(out, "Steering     {}", view.steering)?;
    }
    buffers(out, view)?;
    numa(out, view)?;
    let pump = match view.pump_age_ms {
        age if age >= PUMP_STALLED_MS => format!("pump STALLED for {age} ms"),
        _ => "pump alive".to_string(),
    };
    writeln!(
        out,
        "Threads      {pump}, longest turn of control {} ms",
        view.control_turn_ms
    )
}

fn ports(out: &mut dyn Write, view: &StatusView) -> io::Result<()> {
    let mut rows = vec![row([
        "Port", "Link", "MTU", "MAC", "Twin", "Driver", "Device", "Offloads", "RX", "TX",
    ])];
    for port in &view.ports {
        let link = match (port.link, port.speed) {
            (false, _) => "DOWN".to_string(),
            (true, 0) => "up".to_string(),
            (true, speed) => format!("up {}", mbits(speed)),
        };
        let [rx, tx] = PORT_COLUMNS.map(|name| counter(port, name).to_string());
        rows.push(row([
            &port.name,
            &link,
            &port.mtu.to_string(),
            &port.mac,
            &port.twin,
            &port.driver,
            &port.device,
            &offloads(port),
            &rx,
            &tx,
        ]));
    }
    table(out, &rows)
}

/// Those in use, then in brackets what the device has besides.
fn offloads(port: &PortView) -> String {
    let used = port.offloads.join(",");
    match port.offers.as_slice() {
        [] => used,
        rest => format!("{used} [{}]", rest.join(","))
            .trim_start()
            .to_owned(),
    }
}

fn workers(out: &mut dyn Write, view: &StatusView) -> io::Result<()> {
    let mut rows = vec![row([
        "Worker", "Core", "Load", "RX pps", "TX pps", "RX", "TX", "Conns", "Handed", "",
    ])];
    for worker in &view.workers {
        let stalled = worker.heartbeat_age_ms >= STALLED_MS;
        let note = if stalled {
            format!("STALLED for {} ms", worker.heartbeat_age_ms)
        } else {
            String::new()
        };
        rows.push(row([
            &worker.id.to_string(),
            &worker.core.to_string(),
            &format!("{:.1} %", worker.load),
            &worker.rx_pps.to_string(),
            &worker.tx_pps.to_string(),
            &worker.rx.to_string(),
            &worker.tx.to_string(),
            &worker.connections.to_string(),
            &worker.handed_over.to_string(),
            &note,
        ]));
    }
    table(out, &rows)
}

/// What is on which NUMA node, if there are several.
fn numa(out: &mut dyn Write, view: &StatusView) -> io::Result<()> {
    let workers = view.workers.iter();
    let workers = workers.map(|w| (w.node, format!("core {}", w.core)));
    let ports = view.ports.iter().map(|p| (p.node, p.name.clone()));
    let mut by_node: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (node, name) in workers.chain(ports) {
        if let Some(node) = node {
            by_node.entry(node).or_default().push(name);
        }
    }
    if by_node.len() > 1 {
        for (node, names) in by_node {
            writeln!(out, "NUMA node {node}  {}", names.join(", "))?;
        }
    }
    Ok(())
}

fn buffers(out: &mut dyn Write, view: &StatusView) -> io::Result<()> {
    for pool in &view.buffers {
        writeln!(
            out,
            "Buffers      {} of {} free in pool {}",
            pool.free, pool.size, pool.name
        )?;
    }
    Ok(())
}

/// Counters of ports that are not plain traffic: missed, no-mbuf, tx-full ...
fn losses(out: &mut dyn Write, view: &StatusView) -> io::Result<()> {
    let mut rows = vec![row(["Port", "Counter", "Count"])];
    for port in &view.ports {
        for (name, count) in &port.counters {
            if *count > 0 && !PORT_COLUMNS.contains(&name.as_str()) {
                rows.push(row([&port.name, name, &count.to_string()]));
            }
        }
    }
    if view.log_dropped > 0 {
        rows.push(row(["log", "lines dropped", &view.log_dropped.to_string()]));
    }
    table(out, &rows)
}

fn drops(out: &mut dyn Write, view: &StatusView) -> io::Result<()> {
    let mut rows = vec![row(["Drops", "Count", "Meaning"])];
    let mut drops: Vec<_> = view.drops.iter().collect();
    drops.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
    rows.extend(
        drops
            .iter()
            .map(|(reason, count, help)| row([reason, &count.to_string(), help])),
    );
    if rows.len() == 1 {
        return writeln!(out, "\nDrops        none");
    }
    table(out, &rows)
}

fn punted(out: &mut dyn Write, view: &StatusView) -> io::Result<()> {
    let mut rows = vec![row(["To the kernel", "Packets"])];
    rows.extend(
        view.punted
            .iter()
            .map(|(class, count)| row([class, &count.to_string()])),
    );
    table(out, &rows)
}

fn counter(port: &PortView, name: &str) -> u64 {
    port.counters
        .iter()
        .find(|(n, _)| n == name)
        .map_or(0, |(_, count)| *count)
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|c| c.to_string()).collect()
}

/// Prints a blank line and the rows in columns, numbers to the right; nothing without rows below
/// the title.
fn table(out: &mut dyn Write, rows: &[Vec<String>]) -> io::Result<()> {
    let [title, body @ ..] = rows else {
        return Ok(());
    };
    if body.is_empty() {
        return Ok(());
    }
    let column = |i: usize| rows.iter().filter_map(move |r| r.get(i));
    let widths: Vec<usize> = (0..title.len())
        .map(|i| column(i).map(|c| c.chars().count()).max().unwrap_or(0))
        .collect();
    let is_number =
        |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit()) && !cell.contains(':');
    let right: Vec<bool> = (0..title.len())
        .map(|i| column(i).skip(1).all(is_number))
        .collect();
    writeln!(out)?;
    for row in rows {
        let mut line = String::new();
        for ((cell, width), right) in row.iter().zip(&widths).zip(&right) {
            line += &if *right {
                format!("{cell:>width$}  ")
            } else {
                format!("{cell:width$}  ")
            };
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn mbits(speed: u32) -> String {
    if speed >= 1000 && speed.is_multiple_of(100) {
        format!("{}G", f64::from(speed) / 1000.0)
    } else {
        format!("{speed}M")
    }
}

fn duration(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{}:{:02}:{:02}", rest / 3600, rest % 3600 / 60, rest % 60);
    match days {
        0 => clock,
        1 => format!("1 day {clock}"),
        _ => format!("{days} days {clock}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BuffersView, WorkerView};

    #[test]
    fn a_busy_balancer_on_one_screen() {
        let view = StatusView {
            steering: "by the NICs (RSS), IPv6 in software".into(),
            version: "0.1.0".into(),
            uptime: 2 * 86_400 + 3723,
            ports: vec![
                PortView {
                    name: "wan".into(),
                    device: "0000:01:00.0".into(),
                    driver: "net_virtio".into(),
                    twin: "rvs-wan".into(),
                    mac: "02:00:00:00:00:01".into(),
                    mtu: 1500,
                    link: true,
                    speed: 10_000,
                    offloads: vec!["rss".into(), "multi-seg".into()],
                    offers: vec!["tx-tcp-sum".into()],
                    node: Some(1),
                    counters: vec![
                        ("rx".into(), 123_456),
                        ("tx".into(), 99),
                        ("missed".into(), 3),
                    ],
                },
                PortView {
                    name: "lan".into(),
                    mtu: 9000,
                    ..PortView::default()
                },
            ],
            workers: vec![WorkerView {
                core: 3,
                node: Some(0),
                load: 12.34,
                rx_pps: 1_000_000,
                heartbeat_age_ms: 2500,
                connections: 17,
                ..WorkerView::default()
            }],
            buffers: vec![BuffersView {
                name: "rvs".into(),
                size: 16383,
                free: 16000,
                rings: 4096,
                node: None,
            }],
            drops: vec![
                (
                    "no-neighbour".into(),
                    2,
                    "the next hop has no known MAC".into(),
                ),
                (
                    "no-route".into(),
                    11,
                    "no route leads to the address".into(),
                ),
            ],
            punted: vec![("arp".into(), 5)],
            connections: (17, 1000),
            routes: 4,
            neighbours: 3,
            services: 1,
            servers: 2,
            pump_age_ms: 900,
            control_turn_ms: 4,
            log_dropped: 0,
            warnings: vec!["VIP 10.0.0.1 is held by no port".into()],
        };
        let mut out = Vec::new();
        print(&mut out, &view).expect("a vector takes every write");
        let want = "\
rvsd 0.1.0, up 2 days 1:02:03
WARNING: VIP 10.0.0.1 is held by no port

Connections  17 of 1000 (1.7 %)
Services     1 with 2 real servers
Routes       4, neighbours 3
Buffers      16000 of 16383 free in pool rvs
NUMA node 0  core 3
NUMA node 1  wan
Threads      pump alive, longest turn of control 4 ms

Port  Link     MTU  MAC                Twin     Driver      Device        Offloads                        RX  TX
wan   up 10G  1500  02:00:00:00:00:01  rvs-wan  net_virtio  0000:01:00.0  rss,multi-seg [tx-tcp-sum]  123456  99
lan   DOWN    9000                                                                                         0   0

Worker  Core    Load   RX pps  TX pps  RX  TX  Conns  Handed
     0     3  12.3 %  1000000       0   0   0     17       0  STALLED for 2500 ms

Port  Counter  Count
wan   missed       3

Drops         Count  Meaning
no-route         11  no route leads to the address
no-neighbour      2  the next hop has no known MAC

To the kernel  Packets
arp                  5
";
        assert_eq!(String::from_utf8(out).expect("text"), want);
    }

    #[test]
    fn a_quiet_balancer_prints_no_empty_tables() {
        let mut out = Vec::new();
        let view = StatusView {
            pump_age_ms: 3000,
            ..StatusView::default()
        };
        print(&mut out, &view).expect("a vector takes every write");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("pump STALLED for 3000 ms,"), "{text}");
        assert!(text.ends_with("\nDrops        none\n"), "{text}");
        assert!(!text.contains("To the kernel"), "{text}");
    }
}
