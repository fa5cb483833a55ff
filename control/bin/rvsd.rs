//! `rvsd`, the daemon: wires the control loop to the data plane.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Parser;
use control::clock;
use control::config::{self, Config};
use control::daemon::{self, Args, Begun, Dataplane, Outside};
use control::logging;
use control::model::Model;
use control::netlink::{self, Driver, Twin};
use control::recovery::Recovery;
use control::script;
use control::signals::Signals;
use control::twin::{self, Guard};
use dataplane::conn::Layout;
use dataplane::packet::PortId;
use dataplane::probe::Exchange;

mod edge;
mod memif;
mod steering;
mod table;

use edge::Edge;

fn main() -> ExitCode {
    if script::helper::is_wanted() {
        return script::helper::main();
    }
    let args = Args::parse();
    match act(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rvsd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(args: &Args) -> Result<ExitCode> {
    if args.version {
        println!(
            "rvsd {} ({})",
            env!("CARGO_PKG_VERSION"),
            env!("RVS_COMMIT")
        );
        return Ok(ExitCode::SUCCESS);
    }
    let config = daemon::load_config(args.config())?;
    if args.check_config {
        println!("{}: no mistakes", args.config().display());
        return Ok(ExitCode::SUCCESS);
    }
    if args.print_layout {
        print!(
            "{}",
            Layout::for_connections(config.workers.connections).describe()
        );
        return Ok(ExitCode::SUCCESS);
    }
    if args.check_host {
        return Ok(check_host(&config));
    }
    serve(config)?;
    Ok(ExitCode::SUCCESS)
}

fn check_host(config: &Config) -> ExitCode {
    use dpdk::host::{self, Host, Level, Needs};
    let eal = edge::eal_config(config);
    let hugepages = config.dpdk.memory == control::config::MemoryMode::Hugepages;
    let needs = Needs {
        hugepage_mib: hugepages.then(|| u64::from(config.dpdk.memory_mb)),
        hugepage_mount: false,
        pci: eal.pci,
        worker_cores: eal.worker_cores,
    };
    let findings = host::check(&Host::this(), &needs);
    for finding in &findings {
        println!("{finding}");
    }
    let fails = findings.iter().any(|finding| finding.level == Level::Fail);
    if fails {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn serve(config: Config) -> Result<()> {
    // First: from here on a signal undoes what the start has done so far.
    let mut signals = Signals::take().context("signal handlers")?;
    let logging = logging::start(&config.log)?;
    let server = daemon::open_socket(&config)?;
    // Its helpers are there before packets have memory.
    let scripts = daemon::start_scripts(&config)?;
    let recovery = Recovery::begin(&config, clock::now(), daemon::boot_id()?);
    // Taken away again when the daemon ends.
    let mut guards = Vec::new();
    let probes = match config.probes.as_slice() {
        [] => None,
        addresses => Some(Arc::new(Exchange::new(addresses.iter().copied()))),
    };
    let started = start(
        &config,
        &recovery,
        probes.clone(),
        &mut guards,
        &mut signals,
    );
    let (mut edge, model, host) = match started {
        Ok(started) => started,
        Err(why) => {
            recovery.undo();
            if signals.end().is_some() {
                tracing::info!(event = "stop", "asked to end before the start was complete");
                return Ok(());
            }
            return Err(why);
        }
    };
    let begun = Begun {
        model,
        rules_file: recovery.rules_file(),
        leases: recovery.leases(&config),
        config,
    };
    let dataplane = Dataplane {
        workers: std::mem::take(&mut edge.workers),
        ports: std::mem::take(&mut edge.ports),
        pools: std::mem::take(&mut edge.pools),
        capacity: begun.config.workers.connections,
        dpdk: edge.dpdk.clone(),
        realtime: Some(dpdk::sched::make_realtime),
        open: edge.open.clone(),
        steering: edge.steering.clone(),
        probes,
    };
    let run = daemon::run(
        begun,
        server,
        dataplane,
        Outside { host, scripts },
        env!("RVS_COMMIT"),
        &logging,
        signals,
    );
    if run.is_ok() {
        recovery.end();
    }
    // The ports are given back whatever ended the loop.
    daemon::ended(run, edge.stop())
}

/// Everything that may fail before the control loop runs.
fn start(
    config: &Config,
    recovery: &Recovery,
    probes: Option<Arc<Exchange>>,
    guards: &mut Vec<Guard>,
    signals: &mut Signals,
) -> Result<(Edge, Model, Box<Driver>)> {
    let mut model = recovery
        .model(clock::now(), config)
        .context("services of the configuration")?;
    // Before the ports: nothing that can fail stands between their start and the loop.
    let host = Box::new(Driver::open(
        mirrored(config),
        config.kernel.netlink_buffer_kib,
    )?);
    let table = table::open(config, daemon::boot_id()?, &mut model)?;
    let edge = edge::start(config, table, probes, |port| {
        if signals.end().is_some() {
            bail!("asked to end");
        }
        prepare_twin(port, guards)
    })?;
    Ok((edge, model, host))
}

/// Gives a twin its load-balancer settings, takes addresses of a dead process off it, and keeps
/// the kernel from answering on the device behind an af_packet port.
fn prepare_twin(port: &config::Port, guards: &mut Vec<Guard>) -> Result<()> {
    if port.twin_sysctls {
        for failure in twin::sysctls::apply(&port.twin) {
            tracing::warn!(port = %port.name, "{failure}");
        }
    }
    for addr in twin::owned::remove_all(&port.twin)? {
        tracing::info!(port = %port.name, %addr, "removed an address that a dead process left");
    }
    for device in port.kernel_interfaces() {
        // A bond has several.
        let name = match port.members() {
            [] => port.name.clone(),
            _ => format!("{}-{device}", port.name),
        };
        guards.push(Guard::install(&name, device)?);
    }
    Ok(())
}

fn mirrored(config: &Config) -> netlink::Config {
    let twins = config.ports.iter().zip(0..).map(|(port, number)| Twin {
        port: PortId(number),
        device: port.twin.clone(),
    });
    netlink::Config {
        twins: twins.collect(),
        table: config.kernel.table.clone(),
        max_neighbours: config.workers.max_neighbours,
        refresh: config.kernel.neighbour_refresh,
    }
}
