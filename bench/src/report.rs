//! The result: rows, floors, table, JSON.

use serde::{Deserialize, Serialize};

use crate::model::{Measured, Point};

/// One row of `latest.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Connections in the table, 0 where that is no parameter.
    pub flows: u32,
    /// Real servers of the service, 0 where that is no parameter.
    pub destinations: u32,
    /// CPU time of the worker, all included (driver and generator too); median of the rounds.
    pub ns_per_packet: f64,
    /// The same of testpmd's macswap in the same rounds.
    pub testpmd_ns_per_packet: f64,
    /// Ours by theirs: median of the rounds' ratios, each to testpmd just before and after.
    pub ratio: f64,
    /// Largest less smallest round by the median.
    pub spread: f64,
    /// Median turn with a full burst, nanoseconds per packet.
    #[serde(skip)]
    pub burst: f64,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn round(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}

impl Row {
    /// Medians of rounds.
    pub fn new(name: &str, flows: u32, cpu: &[f64], bursts: &[f64], testpmd: &[f64]) -> Row {
        let (ns, reference) = (median(cpu), median(testpmd));
        let ratios: Vec<f64> = cpu.iter().zip(testpmd).map(|(o, t)| o / t).collect();
        let most = cpu.iter().copied().fold(f64::MIN, f64::max);
        let least = cpu.iter().copied().fold(f64::MAX, f64::min);
        Row {
            name: name.to_owned(),
            flows,
            destinations: 0,
            ns_per_packet: round(ns, 2),
            testpmd_ns_per_packet: round(reference, 2),
            ratio: round(median(&ratios), 2),
            spread: round((most - least) / ns, 3),
            burst: median(bursts),
        }
    }
}

/// The content of `latest.json`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Report {
    /// Processor, cores, core of the worker.
    pub machine: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Release of DPDK.
    pub dpdk: String,
    /// Commit, with `-dirty` when the tree was changed.
    pub commit: String,
    /// UTC.
    pub date: String,
    /// The rows.
    pub rows: Vec<Row>,
    /// Two workers on two cores.
    #[serde(default)]
    pub two_cores: Option<Measured>,
    /// One and two workers as measured, more by the model.
    #[serde(default)]
    pub workers: Vec<Point>,
}

/// Of testpmd's gain from a second core, workers must have at least so much.
const LEAST_GAIN: f64 = 0.93;

/// Most that handing a packet over may cost, nanoseconds of both workers.
const MOST_HANDOVER: f64 = 40.0;

/// Numbers of workers in the table of the model.
const WORKERS: [u32; 5] = [1, 2, 4, 8, 16];

/// What a row must not exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Floor {
    /// A ratio to testpmd.
    Ratio(f64),
}

impl Report {
    /// Takes what two cores gave, and works out what more would. Rows are complete.
    pub fn put_two_cores(&mut self, measured: Measured) {
        let measured = Measured {
            handover: self.handover(),
            ..measured
        };
        self.workers = WORKERS.iter().map(|&n| measured.point(n)).collect();
        self.two_cores = Some(measured);
    }

    /// What handing a packet over costs, by the rows of the pair.
    fn handover(&self) -> Option<f64> {
        let of = |name| self.rows.iter().find(|row| row.name == name);
        let (own, handed) = (of("pair-own")?, of("pair-handed-over")?);
        Some(round(handed.ns_per_packet - own.ns_per_packet, 2))
    }

    /// What workers gain from a second core by what testpmd does, and whether that is enough;
    /// what handing over costs, and whether that is little enough.
    pub fn scaling(&self) -> Vec<(String, bool)> {
        let mut lines = Vec::new();
        if let Some(two) = &self.two_cores {
            let share = two.gain() / two.testpmd_gain();
            let text = format!(
                "two cores: {:.2} times one (testpmd {:.2} times): {:.1} % of testpmd's gain, {:.0} % wanted",
                two.gain(),
                two.testpmd_gain(),
                share * 100.0,
                LEAST_GAIN * 100.0
            );
            lines.push((text, share >= LEAST_GAIN));
        }
        if let Some(cost) = self.handover() {
            let text =
                format!("a packet handed over: {cost:.1} ns more, {MOST_HANDOVER:.0} wanted");
            lines.push((text, cost <= MOST_HANDOVER));
        }
        lines
    }

    /// The table of workers.
    pub fn model_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for point in &self.workers {
            let how = if point.workers <= 1 {
                "measured"
            } else {
                "model"
            };
            let software = point.by_software.map_or(String::new(), |rate| {
                format!(", {rate:6.1} if packets are handed over")
            });
            lines.push(format!(
                "{:>2} workers ({how}): {:6.1} million packets a second{software}",
                point.workers, point.by_nic
            ));
        }
        lines
    }

    /// The floor of a row, if it has one.
    pub fn floor(&self, row: &Row) -> Option<Floor> {
        Some(match (row.name.as_str(), row.flows) {
            ("nat-established", 1_000) => Floor::Ratio(4.5),
            ("nat-established", 100_000) => Floor::Ratio(6.0),
            ("nat-established", 1_000_000) => Floor::Ratio(8.0),
            ("new-connection", _) => Floor::Ratio(50.0),
            ("dr-established", flows) => {
                let nat = |r: &&Row| r.name == "nat-established" && r.flows == flows;
                // As a ratio: the machine's pace differs from minute to minute.
                Floor::Ratio(self.rows.iter().find(nat)?.ratio)
            }
            _ => return None,
        })
    }

    /// Whether a row keeps its floor; `None` if it has none.
    pub fn passes(&self, row: &Row) -> Option<bool> {
        Some(match self.floor(row)? {
            Floor::Ratio(most) => row.ratio <= most,
        })
    }

    /// One line of the table.
    pub fn line(&self, row: &Row) -> String {
        let floor = match self.floor(row) {
            Some(Floor::Ratio(most)) => format!("{most:.1}x"),
            None => String::new(),
        };
        let verdict = match self.passes(row) {
            Some(true) => "pass",
            Some(false) => "FAIL",
            None => "",
        };
        let flows = match (row.flows, row.destinations) {
            (0, 0) => String::new(),
            (0, n) => format!("{n} rs"),
            (flows, _) => flows.to_string(),
        };
        format!(
            "{:<22} {flows:>8} {:>9.1} {:>9.1} {:>9.1} {:>7.2} {:>6.1}% {floor:>9} {verdict}",
            row.name,
            row.ns_per_packet,
            row.burst,
            row.testpmd_ns_per_packet,
            row.ratio,
            row.spread * 100.0,
        )
    }

    /// Head of the table.
    pub fn head() -> String {
        format!(
            "{:<22} {:>8} {:>9} {:>9} {:>9} {:>7} {:>7} {:>9}",
            "row", "flows", "ns/packet", "burst med", "testpmd", "ratio", "spread", "floor"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_medians() {
        let row = Row::new("x", 1, &[30.0, 20.0, 40.0], &[1.0], &[10.0, 11.0, 9.0]);
        assert_eq!((row.ns_per_packet, row.testpmd_ns_per_packet), (30.0, 10.0));
        // 30/10, 20/11, 40/9
        assert_eq!((row.ratio, row.spread), (3.0, 0.667));
    }

    #[test]
    fn floors() {
        let row = |name: &str, flows, ns: f64| Row::new(name, flows, &[ns], &[ns], &[10.0]);
        let report = Report {
            machine: String::new(),
            kernel: String::new(),
            dpdk: String::new(),
            commit: String::new(),
            date: String::new(),
            rows: vec![
                row("nat-established", 1_000, 45.0),
                row("nat-established", 100_000, 61.0),
                row("dr-established", 1_000, 45.1),
                row("tun-established", 1_000, 500.0),
            ],
            two_cores: None,
            workers: Vec::new(),
        };
        let verdicts: Vec<_> = report.rows.iter().map(|r| report.passes(r)).collect();
        assert_eq!(verdicts, [Some(true), Some(false), Some(false), None]);
    }

    #[test]
    fn scaling_is_judged_by_testpmds() {
        let row = |name: &str, ns: f64| Row::new(name, 1000, &[ns], &[ns], &[10.0]);
        let mut report = Report {
            rows: vec![row("pair-own", 60.0), row("pair-handed-over", 101.0)],
            ..Report::default()
        };
        let measured = Measured {
            alone: 50.0,
            both: 53.0,
            testpmd_alone: 10.0,
            testpmd_both: 10.0,
            handover: None,
        };
        report.put_two_cores(measured);
        let verdicts = |r: &Report| r.scaling().iter().map(|l| l.1).collect::<Vec<_>>();
        // 1.89 by 2 is enough, 41 ns are too many.
        assert_eq!(verdicts(&report), [true, false]);
        report.rows[1] = row("pair-handed-over", 99.0);
        report.put_two_cores(Measured {
            both: 54.0,
            ..measured
        });
        assert_eq!(verdicts(&report), [false, true]);
        assert_eq!(report.workers.len(), 5);
        assert!(report.workers[4].by_software < Some(report.workers[4].by_nic));
    }
}
