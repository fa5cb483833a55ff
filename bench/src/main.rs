//! `make bench`: what a packet costs a worker, next to DPDK's own testpmd.
//!
//! The worker's own loop ([`dpdk::poll::Loop::turn_with`]) runs between null ports. A probe writes
//! the headers of what the source hands out and checks samples of what leaves; everything else is
//! what `rvsd` runs: receive, parse, look up, state machine, timers, counters, rewrite, send, kernel
//! queues, commands, expiry. `docs/benchmark.md` explains rows and method.

mod against;
mod audit;
mod chart;
mod cores;
mod fill;
mod hugepages;
mod machine;
mod model;
mod pair;
mod pictures;
mod plot;
mod report;
mod rig;
mod rows;
mod testpmd;
mod traffic;
mod walk;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::cores::Cores;
use crate::hugepages::Reserved;
use crate::report::Report;
use crate::rig::Rig;
use crate::rows::{Bench, Options};
use crate::testpmd::Testpmd;

/// Nanoseconds per packet of one worker, against dpdk-testpmd.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// About a minute: fewer and shorter rounds.
    #[arg(long)]
    quick: bool,
    /// Exit 1 if a row is over its floor.
    #[arg(long)]
    enforce: bool,
    /// Copy the picture to docs/bench.png.
    #[arg(long)]
    publish: bool,
    /// Compare with the result of an earlier run.
    #[arg(long)]
    against: Option<PathBuf>,
    /// Only rows whose name contains this; nothing is written then.
    #[arg(long)]
    only: Option<String>,
    /// Only rows with this many connections; nothing is written then.
    #[arg(long)]
    flows: Option<u32>,
    /// Rounds of each row.
    #[arg(long)]
    rounds: Option<usize>,
    /// CPU seconds of the worker in each round.
    #[arg(long)]
    seconds: Option<f64>,
    /// Core of the worker and of testpmd; the last one if not given.
    #[arg(long)]
    core: Option<usize>,
    /// No measurement: send 65,536 packets of this row through a worker on frames in memory,
    /// for callgrind. Needs neither hugepages nor root.
    #[arg(long)]
    walk: Option<String>,
    /// No measurement: write a connection table with --flows connections to this file, for rvsd
    /// to take over.
    #[arg(long, requires = "flows")]
    fill: Option<PathBuf>,
    /// No measurement: draw lines or bars from a JSON description ("-" is standard input).
    #[arg(long, requires = "picture")]
    plot: Option<String>,
    /// PNG file that --plot writes.
    #[arg(long)]
    picture: Option<PathBuf>,
    /// Directory of the results.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the bench; false if floors are enforced and one was missed.
fn run(args: &Args) -> Result<bool> {
    if let (Some(from), Some(picture)) = (&args.plot, &args.picture) {
        plot::draw_file(from, picture)?;
        return Ok(true);
    }
    if let Some(row) = &args.walk {
        walk::run(row, args.flows.unwrap_or(1000), 1 << 16)?;
        return Ok(true);
    }
    if let (Some(file), Some(flows)) = (&args.fill, args.flows) {
        fill::run(file, flows)?;
        return Ok(true);
    }
    let cores = dpdk::lcore::affinity().context("cores of this process")?;
    let core = match args.core {
        Some(core) if !cores.contains(&core) => bail!("core {core} is not one of {cores:?}"),
        Some(core) => core,
        None => *cores.last().context("no core")?,
    };
    let main_core = cores.iter().copied().find(|&c| c != core).unwrap_or(core);
    let before = args.against.as_deref().map(against::read).transpose()?;
    let (rounds, seconds) = if args.quick { (3, 0.08) } else { (5, 0.4) };
    let options = Options {
        rounds: args.rounds.unwrap_or(rounds).max(1),
        cpu: Duration::from_secs_f64(args.seconds.unwrap_or(seconds)),
        reference: Duration::from_millis(if args.quick { 60 } else { 120 }),
        only: args.only.clone(),
        flows: args.flows,
        largest: rig::LARGEST,
    };

    let reserve = |largest| {
        let tables = (rig::table_bytes(largest) as u64).div_ceil(1 << 20);
        // The second testpmd is for two cores.
        Reserved::new(u64::from(rig::EAL_MB + 2 * testpmd::MB) + tables + 16)
    };
    let is_large = match args.flows {
        Some(flows) => flows == rig::LARGEST,
        None => !args.quick,
    };
    let mut largest = if is_large {
        rig::LARGEST
    } else {
        rig::LARGEST - 1
    };
    let reserved = match reserve(largest) {
        Err(e) if is_large && args.flows.is_none() => {
            println!("no rows of {} connections: {e:#}", rig::LARGEST);
            largest -= 1;
            reserve(largest)?
        }
        reserved => reserved?,
    };
    let options = Options { largest, ..options };
    let prefixes =
        ["bench", "testpmd", "testpmd2"].map(|p| format!("rvs-{p}-{}", std::process::id()));
    clean_up_on_signal(reserved.added(), prefixes.clone())?;
    let result = measure(core, main_core, options, prefixes.clone());
    remove_runtime_files(&prefixes);
    drop(reserved);
    let report = result?;

    let failed: Vec<_> = report
        .rows
        .iter()
        .filter(|r| report.passes(r) == Some(false))
        .collect();
    if args.only.is_none() && args.flows.is_none() {
        write(&report, &args.out, args.publish)?;
    }
    for row in &failed {
        println!("over its floor: {} {}", row.name, row.flows);
    }
    let mut keeps = failed.is_empty();
    for (line, is_met) in report.scaling() {
        println!("{line} {}", if is_met { "pass" } else { "FAIL" });
        keeps &= is_met;
    }
    report
        .model_lines()
        .iter()
        .for_each(|line| println!("{line}"));
    if let Some(before) = before {
        against::lines(&report, &before)
            .iter()
            .for_each(|line| println!("{line}"));
    }
    Ok(keeps || !args.enforce)
}

fn measure(
    core: usize,
    main_core: usize,
    options: Options,
    prefixes: [String; 3],
) -> Result<Report> {
    let mut report = Report {
        machine: machine::name(core),
        kernel: machine::kernel(),
        dpdk: machine::dpdk(),
        commit: machine::commit(),
        date: machine::date(),
        ..Report::default()
    };
    println!(
        "{}, Linux {}, DPDK {}, {}",
        report.machine, report.kernel, report.dpdk, report.commit
    );
    let testpmd = Testpmd::start(&[core], main_core, &prefixes[1])?;
    let cores = match core == main_core {
        true => vec![core],
        false => vec![core, main_core],
    };
    let eal = rig::start_eal(&cores, &prefixes[0])?;
    println!("{}", Report::head());

    let (give, take) = mpsc::channel();
    let (finish, finished) = mpsc::channel();
    let (mut rig, ports) = Rig::new(&eal, cores.len(), options.largest)?;
    let mut two = None;
    if options.wants(rows::TWO_CORES, pair::FLOWS)
        && let Some(workers) = Cores::new(&eal, &mut rig)?
    {
        two = Some((workers, Testpmd::start(&cores, main_core, &prefixes[2])?));
    }
    eal.launch(
        0,
        Box::new(move || {
            let mut bench = Bench {
                rig,
                ports,
                testpmd,
                two,
                options,
            };
            let result = bench.run(|row| drop(give.send(row)));
            drop(give);
            // The second core's worker ends with it.
            drop(bench);
            let _ = finish.send(result);
        }),
    )?;
    for row in take {
        report.rows.push(row);
        if let Some(row) = report.rows.last() {
            println!("{}", report.line(row));
        }
    }
    let result = finished.recv().context("the worker ended early")?;
    for worker in 0..cores.len() {
        eal.wait(worker)?;
    }
    if let Err(e) = eal.cleanup() {
        eprintln!("bench: {e}");
    }
    if let Some(two_cores) = result? {
        report.put_two_cores(two_cores);
    }
    Ok(report)
}

fn write(report: &Report, out: &Path, publish: bool) -> Result<()> {
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let json = out.join("latest.json");
    fs::write(&json, serde_json::to_string_pretty(report)? + "\n")
        .with_context(|| json.display().to_string())?;
    let png = out.join("latest.png");
    match chart::draw(report, &png) {
        Ok(()) => {
            println!("{} {}", json.display(), png.display());
            for picture in pictures::draw(report, out)? {
                println!("{}", picture.display());
            }
        }
        Err(e) => println!("{}; no picture: {e:#}", json.display()),
    }
    if publish {
        fs::copy(&png, "docs/bench.png").context("docs/bench.png")?;
        let plots = Path::new("docs/plots");
        fs::create_dir_all(plots).context("docs/plots")?;
        pictures::draw(report, plots)?;
    }
    Ok(())
}

/// Testpmd ends by itself when its input does.
fn clean_up_on_signal(added: u64, prefixes: [String; 3]) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            hugepages::give_back(added);
            remove_runtime_files(&prefixes);
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// EAL leaves the directory of its prefix behind.
fn remove_runtime_files(prefixes: &[String]) {
    for prefix in prefixes {
        let _ = fs::remove_dir_all(Path::new("/var/run/dpdk").join(prefix));
    }
}
