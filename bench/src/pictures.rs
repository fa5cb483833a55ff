//! What `make bench` draws besides the bars: cost against connections, new connections against
//! real servers and services, throughput against workers.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::plot::{self, Drawing, Series};
use crate::report::{Report, Row};

/// Rows with a point for each number of connections.
const BY_FLOWS: [&str; 4] = [
    "nat-request",
    "nat-reply",
    "dr-established",
    "tun-established",
];

/// Schedulers of the picture of real servers: one line each.
const SCHEDULERS: [&str; 5] = ["rr", "wrr", "wlc", "sh", "mh"];

/// Prefix of the rows of new connections.
const NEW: &str = "new-connection-";

/// The row of new connections to one of many services, and how many they are.
pub const SERVICES: &str = "new-connection-services";

/// Draws all for which there are rows, and returns the files.
///
/// # Errors
/// A picture cannot be written.
pub fn draw(report: &Report, out: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for (name, drawing) in [
        ("flows.png", by_flows(report)),
        ("new-servers.png", by_servers(report)),
        ("new-services.png", by_services(report)),
        ("workers.png", by_workers(report)),
    ] {
        if drawing.series.iter().any(|series| series.points.len() > 1) {
            let file = out.join(name);
            plot::draw(&drawing, &file)?;
            files.push(file);
        }
    }
    Ok(files)
}

fn note(report: &Report) -> String {
    format!(
        "{}; Linux {}; DPDK {}; {}",
        report.machine, report.kernel, report.dpdk, report.commit
    )
}

/// A line through those rows that `point` has a place for.
fn line(report: &Report, name: &str, point: impl Fn(&Row) -> Option<(f64, f64)>) -> Series {
    let mut points: Vec<_> = report.rows.iter().filter_map(point).collect();
    points.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    Series {
        name: name.to_owned(),
        points,
        model: false,
    }
}

fn by_flows(report: &Report) -> Drawing {
    let of = |name: &str| {
        line(report, name, |row| {
            (row.name == name && row.flows > 0).then(|| (f64::from(row.flows), row.ns_per_packet))
        })
    };
    let testpmd = |row: &Row| {
        (row.name == BY_FLOWS[0]).then(|| (f64::from(row.flows), row.testpmd_ns_per_packet))
    };
    let mut series: Vec<Series> = BY_FLOWS.into_iter().map(of).collect();
    series.push(line(report, "testpmd macswap", testpmd));
    Drawing {
        title: "CPU nanoseconds per 64-byte packet against connections".to_owned(),
        note: note(report),
        x: "connections".to_owned(),
        y: "ns a packet".to_owned(),
        log_x: true,
        series,
        ..Drawing::default()
    }
}

/// Thousands of new connections a second of one core.
fn rate(row: &Row) -> f64 {
    1e6 / row.ns_per_packet
}

fn by_servers(report: &Report) -> Drawing {
    let of = |name: &str| {
        line(report, name, |row| {
            let is_it = row.name.strip_prefix(NEW) == Some(name) && row.destinations > 0;
            is_it.then(|| (f64::from(row.destinations), rate(row)))
        })
    };
    Drawing {
        title: "New connections a second, one worker, against real servers".to_owned(),
        note: note(report),
        x: "real servers of the service".to_owned(),
        y: "thousand a second".to_owned(),
        log_x: true,
        series: SCHEDULERS.into_iter().map(of).collect(),
        ..Drawing::default()
    }
}

fn by_services(report: &Report) -> Drawing {
    let point = |row: &Row| {
        (row.name == SERVICES).then(|| {
            (
                f64::from(row.destinations) / f64::from(crate::rig::SERVERS as u32),
                rate(row),
            )
        })
    };
    Drawing {
        title: "New connections a second, one worker, against services".to_owned(),
        note: note(report),
        x: "services, all of which get connections".to_owned(),
        y: "thousand a second".to_owned(),
        log_x: true,
        series: vec![line(report, "rr, 4 real servers each", point)],
        ..Drawing::default()
    }
}

fn by_workers(report: &Report) -> Drawing {
    let Some(two) = &report.two_cores else {
        return Drawing::default();
    };
    let model = |name: &str, points: Vec<(f64, f64)>| Series {
        name: name.to_owned(),
        points,
        model: true,
    };
    let at = |workers: u32| f64::from(workers);
    let nic = report.workers.iter().map(|p| (at(p.workers), p.by_nic));
    let software = report
        .workers
        .iter()
        .filter_map(|p| Some((at(p.workers), p.by_software?)));
    let measured = vec![(1.0, 1000.0 / two.alone), (2.0, 2000.0 / two.both)];
    Drawing {
        title: "Packets a second against workers, NAT, 1,000 connections".to_owned(),
        note: note(report),
        x: "workers".to_owned(),
        y: "million packets a second".to_owned(),
        series: vec![
            Series {
                name: "measured".to_owned(),
                points: measured,
                model: false,
            },
            model("model, steered by NICs", nic.collect()),
            model("model, steered by workers", software.collect()),
        ],
        ..Drawing::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Measured;

    #[test]
    fn lines_have_their_rows() {
        let row = |name: &str, flows, destinations, ns: f64| Row {
            destinations,
            ..Row::new(name, flows, &[ns], &[ns], &[10.0])
        };
        let mut report = Report {
            rows: vec![
                row("nat-request", 100_000, 0, 60.0),
                row("nat-request", 1_000, 0, 50.0),
                row("new-connection-rr", 0, 100, 500.0),
                row("new-connection-rr", 0, 3, 400.0),
                row(SERVICES, 0, 4, 400.0),
                row("pair-own", 1_000, 0, 60.0),
                row("pair-handed-over", 1_000, 0, 90.0),
            ],
            ..Report::default()
        };
        assert_eq!(
            by_flows(&report).series[0].points,
            [(1_000.0, 50.0), (100_000.0, 60.0)]
        );
        assert_eq!(
            by_servers(&report).series[0].points,
            [(3.0, 2500.0), (100.0, 2000.0)]
        );
        assert_eq!(by_services(&report).series[0].points, [(1.0, 2500.0)]);
        assert!(by_workers(&report).series.is_empty());
        report.put_two_cores(Measured {
            alone: 50.0,
            both: 52.0,
            testpmd_alone: 10.0,
            testpmd_both: 10.0,
            handover: None,
        });
        let workers = by_workers(&report).series;
        assert_eq!(
            workers.iter().map(|s| s.points.len()).collect::<Vec<_>>(),
            [2, 5, 5]
        );
    }
}
