//! What `rvsd` does apart from the data plane: arguments, start, end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8};

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use dataplane::command::ControlEnd;
use dataplane::probe::Exchange;

use crate::clock;
use crate::config::{self, Config};
use crate::drains::Drains;
use crate::host::Host;
use crate::logging::Logging;
use crate::model::Model;
use crate::notify::Notifier;
use crate::reactor::{End, OnOpen, Reactor};
use crate::script::{Launch, Scripts};
use crate::server::{Limits, Server};
use crate::signals::Signals;
use crate::state::{Parts, State, Version};
use crate::status::{PoolHandle, PortHandle};
use crate::upgrade::{self, Estate, Gaps, Measuring};
use crate::vrrp::{Place, Sources, Surroundings};
use crate::workers::Workers;

/// Where the configuration is looked for.
pub const DEFAULT_CONFIG: &str = "/etc/rvs/rvsd.toml";

/// RVS: a layer-4 load balancer that behaves like Linux IPVS and runs on DPDK.
#[derive(Clone, Debug, Parser)]
#[command(name = "rvsd", disable_version_flag = true)]
pub struct Args {
    /// Configuration file.
    #[arg(value_name = "CONFIG", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Configuration file, for those who like to name it.
    #[arg(long = "config", value_name = "FILE", conflicts_with = "config")]
    named_config: Option<PathBuf>,
    /// Name all mistakes in the configuration, with their lines, and end.
    #[arg(long)]
    pub check_config: bool,
    /// Tell what this host lacks for the configuration, and how to fix it, and end.
    #[arg(long)]
    pub check_host: bool,
    /// Print sizes of the connection table for the configuration, and end.
    #[arg(long)]
    pub print_layout: bool,
    /// Take over from the process at the other end of standard input (`rvsadm upgrade` asks for it).
    #[arg(long, hide = true)]
    pub take_over: bool,
    /// Go on with what standard input says (after an upgrade that failed).
    #[arg(long, hide = true, conflicts_with = "take_over")]
    pub resume: bool,
    /// Print the version, and end.
    #[arg(long, short = 'V')]
    pub version: bool,
}

impl Args {
    /// All of them as they were given.
    pub fn words(&self) -> Vec<std::ffi::OsString> {
        std::env::args_os().skip(1).collect()
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        self.named_config.as_deref().unwrap_or(&self.config)
    }
}

/// Reads the configuration. All mistakes are in the error, a line each; warnings go to stderr.
///
/// # Errors
/// The file has mistakes.
pub fn load_config(path: &Path) -> Result<Config> {
    match config::load(path) {
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            Ok(config)
        }
        Err(mistakes) => {
            let lines: Vec<String> = mistakes.iter().map(|m| m.to_string()).collect();
            bail!("{}", lines.join("\n"))
        }
    }
}

/// Opens the admin socket. Done first: a second daemon is refused before it touches any port.
///
/// # Errors
/// Somebody listens there, or the socket cannot be made.
pub fn open_socket(config: &Config) -> Result<Server> {
    let admin = &config.admin;
    Ok(Server::bind(
        &admin.socket,
        admin.mode,
        admin.group.as_deref(),
        Limits::default(),
    )?)
}

/// Starts what runs scripts. Called before DPDK takes its memory.
///
/// # Errors
/// The system has no room for a thread.
pub fn start_scripts(config: &Config) -> Result<Scripts> {
    // What is to be said about the user was said when the file was read.
    let (settings, _) = config.scripts.settings(&config.dpdk.main_cores);
    let accounts = config::notify::accounts(config);
    Scripts::start(Launch::default(), settings, accounts).context("the thread for scripts")
}

/// What the start has found and made up to here.
pub struct Begun {
    /// The file.
    pub config: Config,
    /// The rules to start with.
    pub model: Model,
    /// Where they are kept from now on.
    pub rules_file: Option<PathBuf>,
    /// The boot that times in files belong to.
    pub boot: [u8; 16],
    /// Drains that were under way.
    pub drains: Drains,
    /// Where VRRP notes until when its adverts count.
    pub leases: Place,
    /// What goes before and after this process.
    pub succession: Succession,
}

/// What runs below control.
pub struct Dataplane {
    /// Rings of the workers.
    pub workers: Vec<ControlEnd>,
    /// Data ports in the order of the configuration.
    pub ports: Vec<PortHandle>,
    /// Pools of packet buffers.
    pub pools: Vec<PoolHandle>,
    /// Entries of the connection table.
    pub capacity: u32,
    /// Version of DPDK.
    pub dpdk: String,
    /// Gives the calling thread a real-time priority.
    pub realtime: Option<fn(u8) -> std::io::Result<()>>,
    /// Real-time priority of workers and pump while they rest.
    pub urgency: Arc<AtomicU8>,
    /// Workers take packets once this is set: when they know the services.
    pub open: Arc<AtomicBool>,
    /// How packets come to the worker that has their connection, in words.
    pub steering: String,
    /// The NUMA nodes of the workers' cores.
    pub nodes: Vec<Option<u32>>,
    /// Where checks of virtual addresses leave.
    pub probes: Option<Arc<Exchange>>,
}

/// What control has to do with besides the data plane.
pub struct Outside {
    /// The kernel's addresses, routes and neighbours.
    pub host: Box<dyn Host>,
    /// What runs scripts.
    pub scripts: Scripts,
}

/// Which boot times belong to: the id that the kernel gave it.
///
/// # Errors
/// `/proc` cannot be read.
pub fn boot_id() -> Result<[u8; 16]> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).context(path)?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16).context(path)?;
    Ok(number.to_be_bytes())
}

/// The result of a daemon whose loop ended with `run` and whose data plane stopped with `stop`;
/// neither error hides the other.
///
/// # Errors
/// One of the two, or both in one.
pub fn ended(run: Result<()>, stop: Result<()>) -> Result<()> {
    match (run, stop) {
        (Err(run), Err(stop)) => Err(anyhow!("{run:#}; then, while stopping: {stop:#}")),
        (run, stop) => run.and(stop),
    }
}

/// What is asked of the loop besides serving.
pub struct Succession {
    /// How this process was started.
    pub launch: upgrade::Launch,
    /// What the process before left.
    pub estate: Option<Estate>,
    /// Told when packets are let in.
    pub on_open: Option<OnOpen>,
    /// Since when nothing is forwarded.
    pub gap: Measuring,
}

/// Runs the control loop until a signal or a successor ends it.
///
/// # Errors
/// Epoll fails, or there is no room for a thread.
pub fn run(
    begun: Begun,
    server: Server,
    dataplane: Dataplane,
    outside: Outside,
    commit: &str,
    logging: &Logging,
    signals: Signals,
) -> Result<End> {
    let now = clock::now();
    let (config, succession) = (begun.config, begun.succession);
    let version = Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: commit.to_owned(),
        dpdk: dataplane.dpdk,
    };
    let counters = |end: &ControlEnd| std::sync::Arc::clone(&end.counters);
    let surroundings = Surroundings {
        sources: Sources {
            workers: dataplane.workers.iter().map(counters).collect(),
            ports: dataplane
                .ports
                .iter()
                .map(|port| std::sync::Arc::clone(&port.counters))
                .collect(),
            ..Sources::default()
        },
        scripts: outside.scripts.clone(),
        realtime: dataplane.realtime,
        urgency: dataplane.urgency,
        memory: begun.leases,
    };
    let notifier = Notifier::start(&config.notify, outside.scripts.clone());
    let notifier = notifier.context("the thread for notifications")?;
    let parts = Parts {
        surroundings,
        workers: Workers::new(dataplane.workers),
        cores: config.workers.cores.clone(),
        ports: dataplane.ports,
        pools: dataplane.pools,
        host: outside.host,
        version,
        table_size: u64::from(dataplane.capacity),
        steering: dataplane.steering,
        nodes: dataplane.nodes,
        log_dropped: logging.dropped(),
        probes: dataplane.probes,
        scripts: outside.scripts,
        notifier,
    };
    let mut state = State::new(now, config, begun.model, parts);
    state.drains = begun.drains;
    state.estate = succession.estate;
    let port = |port: &config::Port| format!("{} {}", port.name, port.device_name);
    let ports = state.config.ports.iter().map(port).collect();
    state.gaps = Gaps::open(state.config.state.directory.as_ref(), ports);
    let mut reactor = Reactor::new(now, server, state).context("control loop")?;
    reactor.open_when_ready(dataplane.open);
    reactor.allow_upgrade(succession.launch);
    reactor.measure(succession.gap);
    if let Some(tell) = succession.on_open {
        reactor.tell_when_open(tell);
    }
    if let Some(file) = begun.rules_file {
        reactor
            .keep_rules(file, begun.boot)
            .context("thread for the rules")?;
    }
    reactor.take_signals(signals).context("signal handlers")?;
    reactor.run().context("control loop")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::try_parse_from(std::iter::once(&"rvsd").chain(words)).unwrap()
    }

    #[test]
    fn no_error_hides_another() {
        let failed = |words: &'static str| Err(anyhow!(words));
        let told = |run, stop| ended(run, stop).map_err(|e| format!("{e:#}"));
        assert_eq!(told(Ok(()), Ok(())), Ok(()));
        assert_eq!(told(failed("loop"), Ok(())), Err("loop".to_owned()));
        assert_eq!(told(Ok(()), failed("port")), Err("port".to_owned()));
        assert_eq!(
            told(failed("loop"), failed("port")),
            Err("loop; then, while stopping: port".to_owned())
        );
    }

    #[test]
    fn the_file_may_stand_alone_or_be_named() {
        assert_eq!(args(&[]).config(), Path::new(DEFAULT_CONFIG));
        assert_eq!(args(&["a.toml"]).config(), Path::new("a.toml"));
        assert_eq!(args(&["--config", "b.toml"]).config(), Path::new("b.toml"));
        let check = args(&["--check-config", "c.toml"]);
        assert!(check.check_config && check.config() == Path::new("c.toml"));
        assert!(Args::try_parse_from(["rvsd", "--bogus"]).is_err());
    }
}
