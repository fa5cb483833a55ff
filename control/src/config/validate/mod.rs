//! From the file as written to [`Config`]: defaults, typed values, and every check that looks at
//! more than one value. Each mistake is noted with its line and the work goes on, so that one run
//! shows them all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataplane::conn::Layout;
use dataplane::settings::Settings;

use super::file::{At, File, Table, nearest};
use super::notify::Written;
use super::rules::SETTINGS;
use super::{
    Admin, Config, Device, DpdkConfig, Idle, Iova, Kernel, KernelTable, Lasting, Log, LogFormat,
    MemoryMode, Mistake, Port, Rules, Workers,
};

mod check;
mod health;
mod host;
mod mark;
mod notify;
mod pool;
mod port;
mod service;
mod strict;
mod sync;
mod track;
mod vip;
mod vrrp;

pub use host::Host;
use mark::marks;
use port::{interface_complaint, pci_devices, ports, vdevs};
use service::services;

/// Most workers: each has at least two of the 128 parts of the connection table.
const MAX_WORKERS: usize = 64;

/// Bytes that a connection takes in a large table, its part of index, timers and spare entries
/// included.
const BYTES_PER_CONNECTION: u64 = 160;

/// Notes of one run.
struct Notes<'a> {
    file: &'a Path,
    mistakes: &'a mut Vec<Mistake>,
    warnings: Vec<Mistake>,
    /// Commands that were found.
    commands: Vec<Written>,
}

impl Notes<'_> {
    fn mistake(&mut self, line: usize, text: impl Into<String>) {
        self.mistakes.push(Mistake {
            file: self.file.to_owned(),
            line,
            text: text.into(),
        });
    }

    fn warning(&mut self, line: usize, text: impl Into<String>) {
        self.warnings.push(Mistake {
            file: self.file.to_owned(),
            line,
            text: text.into(),
        });
    }
}

/// Builds the configuration. It is only fit for use if no mistake was added.
pub(super) fn validate(
    path: &Path,
    text: &str,
    file: &File,
    host: &Host,
    mistakes: &mut Vec<Mistake>,
) -> Config {
    let mut notes = Notes {
        file: path,
        mistakes,
        warnings: Vec::new(),
        commands: Vec::new(),
    };
    let memory = memory_mode(file);
    let workers = workers(file, memory, host, &mut notes);
    let ports = ports(file, workers.cores.len().max(1), &mut notes);
    let dpdk = dpdk(file, memory, &workers, &ports, host, &mut notes);
    let kernel = kernel(file, &mut notes);
    let admin = admin(file, &mut notes);
    let state = lasting(file, host, &mut notes);
    let log = log(file, &mut notes);
    let scripts = notify::scripts(file, &mut notes);
    let mut checks = BTreeMap::new();
    let mut told = (BTreeMap::new(), notify::Servers::new());
    let settings = settings(file);
    sync::threshold(file, &settings, &mut notes);
    let sync = sync::plan(file, &mut notes);
    let probes = health::probes(file, &mut notes);
    let rules = Rules {
        settings,
        marks: marks(file, &ports, &mut notes),
        services: services(file, &workers, &probes, &mut checks, &mut told, &mut notes),
    };
    let vrrp = vrrp::vrrp(file, &mut notes);
    let notify = notify::notify(file, &admin, told.0, told.1, &mut notes);
    let mut warnings = notes.warnings;
    warnings.sort_by_key(|w| w.line);
    Config {
        path: path.to_owned(),
        text: text.into(),
        dpdk,
        workers,
        ports,
        kernel,
        admin,
        state,
        log,
        rules,
        sync,
        probes,
        checks,
        vrrp,
        scripts,
        notify,
        commands: notes.commands,
        warnings,
    }
}

/// An integer whose range in the table of keys fits the type; 0 stands for one that was refused.
fn number<T: TryFrom<i64> + Default>(table: &Table, name: &str) -> T {
    table
        .integer(name)
        .and_then(|n| T::try_from(n).ok())
        .unwrap_or_default()
}

fn values(written: &[At<String>]) -> Vec<String> {
    written.iter().map(|at| at.value.clone()).collect()
}

fn memory_mode(file: &File) -> MemoryMode {
    match file.section("dpdk").text("memory") {
        Some("no-huge") => MemoryMode::NoHuge,
        _ => MemoryMode::Hugepages,
    }
}

fn workers(file: &File, memory: MemoryMode, host: &Host, notes: &mut Notes<'_>) -> Workers {
    let table = file.section("workers");
    let line = table.line_of("cores");
    let cores = match table.integers("cores") {
        Some(written) => distinct_cores("workers.cores", written, host, notes),
        None => host
            .isolated
            .first()
            .or(host.online.last())
            .copied()
            .into_iter()
            .collect(),
    };
    match cores.len() {
        0 if table.integers("cores").is_some() => {
            notes.mistake(line, "cores is empty; name one core, such as cores = [1]");
        }
        0 if !table.mentions("cores") => {
            notes.mistake(
                line,
                "the cores of this host are unknown; name one: [workers] cores = [1]",
            );
        }
        0..=MAX_WORKERS => {}
        n => notes.mistake(
            line,
            format!("cores names {n} workers; name at most {MAX_WORKERS}"),
        ),
    }
    let default_connections = match memory {
        MemoryMode::Hugepages => 1_000_000,
        MemoryMode::NoHuge => 65_536,
    };
    let connections = table
        .integer("connections")
        .map_or(default_connections, |n| n as u32);
    if let Some(memory_mb) = host.memory_mb {
        let need_mb = (Layout::for_connections(connections).bytes() as u64) >> 20;
        let line = table.line_of("connections");
        let sum =
            format!("{connections} connections take {need_mb} MiB and the host has {memory_mb}");
        let fit = memory_mb / 2 * (1 << 20) / BYTES_PER_CONNECTION;
        if need_mb > memory_mb {
            notes.mistake(line, format!("{sum}; lower connections to {fit} or less"));
        } else if need_mb > memory_mb / 2 {
            notes.warning(
                line,
                format!("{sum}; consider lowering connections to {fit}"),
            );
        }
    }
    Workers {
        cores,
        idle: match table.text("idle") {
            Some("adaptive") => Idle::Adaptive,
            Some("poll") => Idle::Poll,
            _ => Idle::Auto,
        },
        idle_spin_polls: number(table, "idle_spin_polls"),
        idle_sleep: Duration::from_micros(number(table, "idle_sleep_us")),
        connections,
        max_services: number(table, "max_services"),
        max_servers: number(table, "max_servers"),
        max_routes: number(table, "max_routes"),
        max_neighbours: number(table, "max_neighbours"),
    }
}

/// Cores as written: each once, each online.
fn distinct_cores(what: &str, written: &[At<i64>], host: &Host, notes: &mut Notes<'_>) -> Vec<u32> {
    let mut cores = Vec::new();
    for At { value, line } in written {
        let core = *value as u32;
        if cores.contains(&core) {
            notes.mistake(
                *line,
                format!("{what} names core {core} twice; name it once"),
            );
            continue;
        }
        if !host.online.is_empty() && !host.online.contains(&core) {
            let online = join(&host.online);
            notes.mistake(
                *line,
                format!("{what} names core {core}, which is not online; online: {online}"),
            );
        }
        cores.push(core);
    }
    cores
}

fn join<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn dpdk(
    file: &File,
    memory: MemoryMode,
    workers: &Workers,
    ports: &[Port],
    host: &Host,
    notes: &mut Notes<'_>,
) -> DpdkConfig {
    let table = file.section("dpdk");
    let main_cores = main_cores(table, workers, host, notes);
    let file_prefix = table.text("file_prefix").unwrap_or_default().to_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if table.mentions("file_prefix") && (file_prefix.is_empty() || !file_prefix.chars().all(plain))
    {
        notes.mistake(
            table.line_of("file_prefix"),
            format!("file_prefix \"{file_prefix}\" is no file name; use letters, digits, - and _"),
        );
    }
    let vhost = ports
        .iter()
        .any(|p| matches!(p.device, Device::VhostUser { .. }));
    let default_mb = match memory {
        MemoryMode::Hugepages => 512,
        MemoryMode::NoHuge => 256,
    };
    for At { value, line } in table.texts("extra_args") {
        if value.is_empty() || value.contains(char::is_whitespace) {
            notes.mistake(
                *line,
                format!("extra_args holds \"{value}\"; give one word per item, no blanks"),
            );
        }
    }
    DpdkConfig {
        memory,
        memory_mb: table.integer("memory_mb").map_or(default_mb, |n| n as u32),
        file_prefix,
        main_cores,
        worker_cores: workers.cores.clone(),
        vdevs: vdevs(table, ports, notes),
        pci: pci_devices(table, ports, notes),
        iova: match table.text("iova") {
            Some("va") => Iova::Va,
            Some("pa") => Iova::Pa,
            _ => Iova::Auto,
        },
        log_level: match table.mentions("log_level") {
            true => values(table.texts("log_level")),
            false => vec!["error".into()],
        },
        single_file_segments: match table.mentions("single_file_segments") {
            true => table.boolean("single_file_segments").unwrap_or_default(),
            false => vhost && memory == MemoryMode::Hugepages,
        },
        telemetry: table.boolean("telemetry").unwrap_or_default(),
        extra_args: values(table.texts("extra_args")),
    }
}

fn main_cores(table: &Table, workers: &Workers, host: &Host, notes: &mut Notes<'_>) -> Vec<u32> {
    let Some(written) = table.integers("main_cores") else {
        let is_free = |core: &&u32| !workers.cores.contains(core) && !host.isolated.contains(core);
        let free: Vec<u32> = host.online.iter().filter(is_free).copied().collect();
        // A host with a single core shares it.
        return if free.is_empty() {
            workers.cores.clone()
        } else {
            free
        };
    };
    let line = table.line_of("main_cores");
    let cores = distinct_cores("dpdk.main_cores", written, host, notes);
    if cores.is_empty() {
        notes.mistake(
            line,
            "main_cores is empty; name a core or leave the key out",
        );
    }
    for core in cores.iter().filter(|core| workers.cores.contains(core)) {
        notes.warning(
            line,
            format!("main_cores shares core {core} with a worker; the worker loses time to it"),
        );
    }
    cores
}

fn kernel(file: &File, notes: &mut Notes<'_>) -> Kernel {
    let table = file.section("kernel");
    let vrf = table.text("vrf").map(str::to_owned);
    if let Some(vrf) = &vrf {
        let line = table.line_of("vrf");
        if table.mentions("table") {
            notes.mistake(
                line,
                "both table and vrf say which routes to mirror; keep one",
            );
        }
        if let Some(complaint) = interface_complaint(vrf) {
            notes.mistake(line, format!("vrf \"{vrf}\" {complaint}"));
        }
    }
    let number_of_table = table.integer("table").map(|n| n as u32);
    Kernel {
        table: match (vrf, number_of_table) {
            (Some(vrf), _) => KernelTable::Vrf(vrf),
            (None, None | Some(254)) => KernelTable::Main,
            (None, Some(n)) => KernelTable::Number(n),
        },
        neighbour_refresh: Duration::from_secs(number(table, "neighbour_refresh_s")),
        netlink_buffer_kib: number(table, "netlink_buffer_kib"),
    }
}

fn admin(file: &File, notes: &mut Notes<'_>) -> Admin {
    let table = file.section("admin");
    let socket = table.text("socket").unwrap_or_default();
    // sun_path holds 108 bytes with the final zero.
    if !socket.starts_with('/') || socket.len() > 107 {
        let text =
            format!("socket \"{socket}\" will not do; give an absolute path of at most 107 bytes");
        notes.mistake(table.line_of("socket"), text);
    }
    let written = table.text("mode").unwrap_or_default();
    let mode = u32::from_str_radix(written, 8)
        .ok()
        .filter(|mode| *mode <= 0o777);
    let line = table.line_of("mode");
    match mode {
        None if table.text("mode").is_some() => {
            let text =
                format!("mode \"{written}\" is no permission; write octal digits like \"0660\"");
            notes.mistake(line, text);
        }
        Some(mode) if mode & 0o002 != 0 => {
            let text = format!(
                "mode {written} lets every user of this host rule the load balancer; use 0660 and a group"
            );
            notes.warning(line, text);
        }
        _ => {}
    }
    let group = table.text("group").map(str::to_owned);
    if group.as_deref() == Some("") {
        notes.mistake(
            table.line_of("group"),
            "group is empty; name a group or leave the key out",
        );
    }
    Admin {
        socket: PathBuf::from(socket),
        mode: mode.unwrap_or(0o600),
        group,
    }
}

fn lasting(file: &File, host: &Host, notes: &mut Notes<'_>) -> Lasting {
    let table = file.section("state");
    let mut path = |key: &str, default: Option<PathBuf>| match table.text(key) {
        None => default,
        Some("") => None,
        Some(written) => {
            if !written.starts_with('/') {
                let text = format!(
                    "{key} \"{written}\" is no absolute path; give one, or \"\" to do without"
                );
                notes.mistake(table.line_of(key), text);
            }
            Some(PathBuf::from(written))
        }
    };
    let directory = path("directory", host.state_directory.clone());
    let beside = host.runtime_directory.as_ref().map(|dir| dir.join("table"));
    Lasting {
        directory,
        table: path("table", beside),
    }
}

fn log(file: &File, notes: &mut Notes<'_>) -> Log {
    let table = file.section("log");
    let filter = table.text("filter").unwrap_or_default().to_owned();
    if let Some(complaint) = filter_complaint(&filter) {
        notes.mistake(
            table.line_of("filter"),
            format!("filter \"{filter}\": {complaint}"),
        );
    }
    let file = table.text("file").map(PathBuf::from);
    if let Some(path) = file.as_ref().filter(|path| !path.is_absolute()) {
        let path = path.display();
        notes.mistake(
            table.line_of("file"),
            format!("file \"{path}\" is no absolute path; give one, or leave it out for stderr"),
        );
    }
    let format = match table.text("format") {
        Some("json") => LogFormat::Json,
        _ => LogFormat::Human,
    };
    Log {
        format,
        filter,
        file,
    }
}

/// `tracing` takes any word for the name of a module, so that a misspelt level would silence
/// the log: a word alone must be a level.
fn filter_complaint(filter: &str) -> Option<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in filter.split(',').map(str::trim) {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if !LEVELS.contains(&level.to_lowercase().as_str()) {
            let advice = match nearest(level, LEVELS.into_iter()) {
                Some(near) => format!("did you mean \"{near}\"? "),
                None => String::new(),
            };
            let known = LEVELS.join(", ");
            return Some(format!("\"{level}\" is no level; {advice}known: {known}"));
        }
    }
    let parsed = tracing_subscriber::filter::EnvFilter::builder().parse(filter);
    parsed
        .err()
        .map(|e| format!("{e}; write it like info,control::netlink=debug"))
}

fn settings(file: &File) -> Settings {
    let mut settings = Settings::default();
    for setting in &SETTINGS {
        let table = file.section(setting.section);
        let value = match setting.boolean {
            true => table.boolean(setting.key).map(u32::from),
            false => table
                .integer(setting.key)
                .and_then(|n| u32::try_from(n).ok()),
        };
        if let Some(value) = value {
            (setting.set)(&mut settings, value);
        }
    }
    settings
}
