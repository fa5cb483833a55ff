//! `rvsd`, the daemon: wires the control loop to the data plane.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Parser;
use control::clock;
use control::config::{self, Config};
use control::daemon::{self, Args, Begun, Dataplane, Outside, Succession};
use control::logging;
use control::model::Model;
use control::netlink::{self, Driver, Twin};
use control::reactor::End;
use control::recovery::Recovery;
use control::script;
use control::server::Server;
use control::signals::Signals;
use control::twin::{self, Guard};
use control::upgrade::{self, Estate, Kind, Launch, Measuring, Predecessor, Wire};
use dataplane::conn::Layout;
use dataplane::packet::PortId;
use dataplane::probe::Exchange;

mod edge;
mod hand_over;
mod memif;
mod numa;
mod offloads;
mod steering;
mod succeed;
mod table;

use edge::{Ground, Taps};
use numa::Nodes;
use table::Left;

fn main() -> ExitCode {
    if script::helper::is_wanted() {
        return script::helper::main();
    }
    let args = Args::parse();
    // Whoever started us that way hears why it is of no use.
    let mut to_predecessor = None;
    let acted = act(&args, &mut to_predecessor);
    if let (Err(why), Some(wire)) = (&acted, &mut to_predecessor) {
        wire.refuse(&format!("{why:#}"));
    }
    match acted {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rvsd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(args: &Args, to_predecessor: &mut Option<Wire>) -> Result<ExitCode> {
    if args.version {
        println!(
            "rvsd {} ({})",
            env!("CARGO_PKG_VERSION"),
            env!("RVS_COMMIT")
        );
        return Ok(ExitCode::SUCCESS);
    }
    let before = match (args.take_over, args.resume) {
        (true, _) => {
            let wire = Wire::of_stdin().context("--take-over is for `rvsadm upgrade`")?;
            *to_predecessor = Some(wire.try_clone()?);
            Before::Running(Box::new(Predecessor::meet(wire)?))
        }
        (_, true) => Before::Ourselves(Box::new(upgrade::resumed().context("standard input")?)),
        _ => Before::Nothing,
    };
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
    serve(args, config, before)?;
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

/// What goes before this process.
enum Before {
    /// Nothing, or one that has ended.
    Nothing,
    /// One that serves until we can.
    Running(Box<Predecessor>),
    /// We ourselves, until an upgrade failed.
    Ourselves(Box<(Estate, Vec<u8>)>),
}

/// What is there before the ports are.
struct Prelude {
    ground: Ground,
    server: Server,
    recovery: Recovery,
    model: Model,
    host: Box<Driver>,
    /// Twins that are open.
    taps: Taps,
    /// The table of the process before.
    left: Left,
    /// Guards that stand, by device.
    guards: BTreeMap<String, Guard>,
    succession: Succession,
}

fn serve(args: &Args, config: Config, before: Before) -> Result<()> {
    let program = std::env::current_exe().context("the path of this program")?;
    let cores = dpdk::lcore::affinity().context("the cores of this process")?;
    // First: from here on a signal undoes what the start has done so far.
    let mut signals = Signals::take().context("signal handlers")?;
    let logging = logging::start(&config.log)?;
    let launch = Launch {
        program,
        arguments: args.words(),
        cores,
        prefix: String::new(),
        scatter: false,
        table: None,
    };
    let (server, scripts) = match &before {
        Before::Running(_) => (None, daemon::start_scripts(&config)?),
        _ => {
            let server = daemon::open_socket(&config)?;
            // Its helpers are there before packets have memory.
            (Some(server), daemon::start_scripts(&config)?)
        }
    };
    let is_upgrade = matches!(before, Before::Running(_));
    let prelude = match (before, server) {
        (Before::Running(predecessor), _) => {
            match succeed::prepare(&config, *predecessor, launch)? {
                Some(prelude) => prelude,
                None => return Ok(()),
            }
        }
        (before, Some(server)) => begin(&config, before, server, launch)?,
        (_, None) => bail!("no admin socket"),
    };
    let Prelude {
        ground,
        server,
        recovery,
        mut model,
        host,
        taps,
        left,
        guards: standing,
        mut succession,
    } = prelude;
    // Taken away again when the daemon ends.
    let mut guards = Guards {
        standing,
        all: Vec::new(),
    };
    let probes = match config.probes.as_slice() {
        [] => None,
        addresses => Some(Arc::new(Exchange::new(addresses.iter().copied()))),
    };
    let kept: BTreeSet<IpAddr> = match is_upgrade {
        true => virtual_addresses(&config),
        false => BTreeSet::new(),
    };
    let mut renamed = None;
    let started = daemon::boot_id().and_then(|boot| {
        ground.start(
            &config,
            || {
                let mut table = match left {
                    Left::File => table::open(&config, &Nodes::of(&config), boot, &mut model)?,
                    Left::Records(made, records) => table::restore(*made, &mut model, &records),
                };
                renamed = table.renamed.take();
                Ok(table)
            },
            taps,
            probes.clone(),
            |port| {
                if signals.end().is_some() {
                    bail!("asked to end");
                }
                prepare_twin(port, &mut guards, &kept)
            },
        )
    });
    let mut edge = match started {
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
    succession.launch.prefix.clone_from(&edge.mark.prefix);
    succession.launch.scatter = edge.mark.scatter;
    succession.launch.table.clone_from(&config.state.table);
    if let Some((new, name)) = renamed {
        let tell = succession.on_open.take();
        succession.on_open = Some(Box::new(move |now| {
            // From here on it is the table that a crash leaves.
            if let Err(why) = std::fs::rename(&new, &name) {
                let (new, name) = (new.display(), name.display());
                tracing::warn!(event = "table", "{new} cannot be renamed to {name}: {why}");
            }
            if let Some(tell) = tell {
                tell(now);
            }
        }));
    }
    let launch = succession.launch.clone();
    let begun = Begun {
        model,
        rules_file: recovery.rules_file(),
        boot: recovery.boot(),
        drains: recovery.drains(),
        leases: recovery.leases(&config),
        config,
        succession,
    };
    let dataplane = Dataplane {
        workers: std::mem::take(&mut edge.workers),
        ports: std::mem::take(&mut edge.ports),
        pools: std::mem::take(&mut edge.buffers),
        capacity: begun.config.workers.connections,
        dpdk: edge.dpdk.clone(),
        realtime: Some(dpdk::sched::make_realtime),
        urgency: Arc::clone(&edge.urgency),
        open: edge.open.clone(),
        steering: edge.steering.clone(),
        nodes: edge.nodes.clone(),
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
    let parting = match run {
        Ok(End::HandOver(parting)) => parting,
        run => {
            if run.is_ok() {
                recovery.end();
            }
            // The ports are given back whatever ended the loop.
            return daemon::ended(run.map(drop), edge.stop());
        }
    };
    let parted = hand_over::part(*parting, edge, recovery, &launch);
    // They are the successor's.
    std::mem::forget(guards);
    parted
}

/// What a start finds of the run before.
fn begin(config: &Config, before: Before, server: Server, launch: Launch) -> Result<Prelude> {
    let boot = daemon::boot_id()?;
    let (estate, left) = match before {
        Before::Ourselves(ours) if ours.1.is_empty() => (Some(ours.0), Left::File),
        Before::Ourselves(ours) => {
            let table = table::beside(config, boot)?;
            (Some(ours.0), Left::Records(Box::new(table), ours.1))
        }
        _ => (None, Left::File),
    };
    let recovery = match &estate {
        Some(estate) => {
            let kept = estate.kept(config)?;
            Recovery::inherit(config, boot, kept, estate.leases.clone())
        }
        None => Recovery::begin(config, clock::now(), boot),
    };
    let begun = || -> Result<(Model, Box<Driver>, Ground)> {
        let model = recovery
            .model(clock::now(), config)
            .context("services of the configuration")?;
        // Before the ports: nothing that can fail stands between their start and the loop.
        let host = Box::new(Driver::open(
            mirrored(config),
            config.kernel.netlink_buffer_kib,
        )?);
        Ok((model, host, Ground::with_devices(config)?))
    };
    match begun() {
        Ok((model, host, ground)) => Ok(Prelude {
            ground,
            server,
            recovery,
            model,
            host,
            taps: Taps::new(),
            left,
            guards: BTreeMap::new(),
            succession: Succession {
                launch,
                estate,
                on_open: None,
                // Devices are looked for already, and touched next.
                gap: Measuring::new(Kind::Start, clock::now()),
            },
        }),
        Err(why) => {
            recovery.undo();
            Err(why)
        }
    }
}

/// Guards of this process, and those that stand already.
struct Guards {
    /// By device.
    standing: BTreeMap<String, Guard>,
    all: Vec<Guard>,
}

/// Addresses that are VRRP's.
fn virtual_addresses(config: &Config) -> BTreeSet<IpAddr> {
    let instances = config.vrrp.instances.iter();
    let addresses = instances.flat_map(|instance| &instance.addresses);
    addresses.map(|address| address.addr.addr).collect()
}

/// Gives a twin its load-balancer settings, takes addresses of a dead process off it except for
/// `kept` ones, and keeps the kernel from answering on the device behind an af_packet port.
fn prepare_twin(port: &config::Port, guards: &mut Guards, kept: &BTreeSet<IpAddr>) -> Result<()> {
    if port.twin_sysctls {
        for failure in twin::sysctls::apply(&port.twin) {
            tracing::warn!(port = %port.name, "{failure}");
        }
    }
    for addr in twin::owned::remove_all(&port.twin, kept)? {
        tracing::info!(port = %port.name, %addr, "removed an address that a dead process left");
    }
    for device in port.kernel_interfaces() {
        let guard = match guards.standing.remove(device) {
            Some(guard) => guard,
            None => Guard::install(&guard_name(port, device), device)?,
        };
        guards.all.push(guard);
    }
    Ok(())
}

/// The name of the guard on a device of a port; a bond has several.
fn guard_name(port: &config::Port, device: &str) -> String {
    match port.members() {
        [] => port.name.clone(),
        _ => format!("{}-{device}", port.name),
    }
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
