//! Writes what runs into the configuration file, and leaves everything else in it alone: comments,
//! order, other sections, keys that have not changed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use thiserror::Error;
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};

use super::rules::{SETTINGS, method_name, protocol_name};
use super::{Config, Host, Rules, Running, Server, Service, parse};
use crate::api::{
    Family, MarkMatch, Persistence, ServerKey, ServerSpec, ServiceKey, ServiceTimeouts, Tunnel,
};
use crate::schedulers::names_of;

/// Why nothing was saved. The file is as it was.
#[derive(Debug, Error)]
pub enum SaveError {
    /// Someone edited the file; their work would be lost.
    #[error(
        "{} was changed since it was loaded; look at `rvsadm diff`, then `rvsadm reload` and save again",
        .0.display()
    )]
    Changed(PathBuf),
    /// The file system refused.
    #[error("{}: {what}: {source}; check permissions and space of its directory", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// How it failed.
        source: io::Error,
    },
    /// What runs cannot be written so that a reload would read the same: nothing was written.
    #[error("what runs cannot be said in the file: {0}")]
    NotExpressible(String),
}

/// Writes what runs into the file that `loaded` came from, and returns the configuration that the
/// file now holds: the "last loaded" one from here on. Touches the disk; call it off the control
/// thread.
///
/// # Errors
/// See [`SaveError`]; the file is as it was then.
pub fn save(loaded: &Config, running: &Running) -> Result<Config, SaveError> {
    let path = fs::canonicalize(&loaded.path).map_err(io_error(&loaded.path, "cannot be found"))?;
    let on_disk = fs::read_to_string(&path).map_err(io_error(&path, "cannot be read"))?;
    let host = Host::probe();
    let rules = running.to_rules();
    if on_disk != *loaded.text {
        // An edit by hand that comes to what runs anyway is no loss.
        return match parse(&loaded.path, &on_disk, &host) {
            Ok(config) if config.rules == rules => Ok(config),
            _ => Err(SaveError::Changed(loaded.path.clone())),
        };
    }
    let text = render(loaded, &rules)?;
    let config = read_back(loaded, &text, &host, &rules)?;
    if text != on_disk {
        replace(&path, &text)?;
    }
    Ok(config)
}

fn io_error<'a>(path: &'a Path, what: &'static str) -> impl FnOnce(io::Error) -> SaveError + 'a {
    move |source| SaveError::Io {
        path: path.to_owned(),
        what,
        source,
    }
}

/// What is written must read as what runs, or it is not written.
fn read_back(loaded: &Config, text: &str, host: &Host, rules: &Rules) -> Result<Config, SaveError> {
    let config = parse(&loaded.path, text, host).map_err(|m| {
        SaveError::NotExpressible(m.first().map_or_else(String::new, |m| m.text.clone()))
    })?;
    if config.rules != *rules {
        let difference = super::render_diff(&config.rules, &rules.to_running());
        let line = difference
            .lines()
            .next()
            .unwrap_or("it reads differently")
            .trim()
            .to_owned();
        return Err(SaveError::NotExpressible(line));
    }
    Ok(config)
}

/// The text of the file with these rules in it.
///
/// # Errors
/// [`SaveError::NotExpressible`] if the loaded text cannot be edited.
pub fn render(loaded: &Config, rules: &Rules) -> Result<String, SaveError> {
    let mut document: DocumentMut = loaded
        .text
        .parse()
        .map_err(|e: toml_edit::TomlError| SaveError::NotExpressible(e.message().to_owned()))?;
    save_settings(&mut document, &loaded.rules, rules);
    if loaded.rules.marks != rules.marks {
        save_marks(document.as_table_mut(), loaded, rules);
    }
    if loaded.rules.services != rules.services {
        save_services(document.as_table_mut(), &loaded.rules, rules);
    }
    Ok(document.to_string())
}

fn save_settings(document: &mut DocumentMut, old: &Rules, new: &Rules) {
    for setting in &SETTINGS {
        let wanted = (setting.get)(&new.settings);
        if (setting.get)(&old.settings) == wanted {
            continue;
        }
        let section = document
            .entry(setting.section)
            .or_insert_with(|| Item::Table(Table::new()));
        let item = match setting.boolean {
            true => value(wanted != 0),
            false => value(i64::from(wanted)),
        };
        if let Some(table) = section.as_table_like_mut() {
            put(table, setting.key, item);
        }
    }
}

/// Replaces a value and keeps the comment behind the old one.
fn put(table: &mut dyn toml_edit::TableLike, key: &str, mut item: Item) {
    if let (Some(old), Some(new)) = (table.get(key).and_then(Item::as_value), item.as_value_mut()) {
        *new.decor_mut() = old.decor().clone();
    }
    match table.get_mut(key) {
        Some(old) => *old = item,
        None => drop(table.insert(key, item)),
    }
}

/// Takes a list of tables out of its parent, whichever way it is written.
fn take_tables(parent: &mut Table, key: &str) -> Vec<Table> {
    match parent.remove(key).map(Item::into_array_of_tables) {
        Some(Ok(tables)) => tables.into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Edits the `[[service]]` tables in place: what stays keeps its text, what changed gets new
/// values, what is new comes last.
fn save_services(root: &mut Table, old: &Rules, new: &Rules) {
    let mut tables = Vec::new();
    let mut written: Vec<ServiceKey> = Vec::new();
    let end = root
        .iter()
        .filter_map(|(_, item)| last_position(item))
        .max()
        .unwrap_or(0)
        + 1;
    for mut table in take_tables(root, "service") {
        let Some(key) = service_key(&table) else {
            continue;
        };
        let Some(service) = new.services.get(&key) else {
            continue;
        };
        if let Some(old) = old.services.get(&key).filter(|old| *old != service) {
            edit_service(&mut table, &key, old, service);
        }
        written.push(key);
        tables.push(table);
    }
    for (key, service) in new
        .services
        .iter()
        .filter(|(key, _)| !written.contains(key))
    {
        let mut table = new_service(key, service);
        // Behind everything else, in the order of this list.
        set_positions(&mut table, end);
        tables.push(table);
    }
    if !tables.is_empty() {
        let tables: ArrayOfTables = tables.into_iter().collect();
        root.insert("service", Item::ArrayOfTables(tables));
    }
}

/// Edits the `[[mark]]` tables in the same way. The loaded rules are in the order of the tables.
fn save_marks(root: &mut Table, loaded: &Config, new: &Rules) {
    let end = root
        .iter()
        .filter_map(|(_, item)| last_position(item))
        .max()
        .unwrap_or(0)
        + 1;
    let mut left = new.marks.clone();
    let mut tables = ArrayOfTables::new();
    for mut table in take_tables(root, "mark") {
        let Some(rule) = mark_rule(&table) else {
            continue;
        };
        let Some(mark) = left.remove(&rule) else {
            continue;
        };
        if loaded.rules.marks.get(&rule) != Some(&mark) {
            put(&mut table, "mark", value(i64::from(mark)));
        }
        tables.push(table);
    }
    for (rule, mark) in &left {
        let mut table = new_mark(rule, *mark);
        table.set_position(Some(end));
        tables.push(table);
    }
    if !tables.is_empty() {
        root.insert("mark", Item::ArrayOfTables(tables));
    }
}

fn protocol_of(name: &str) -> crate::api::Protocol {
    match name {
        "tcp" => crate::api::Protocol::Tcp,
        "sctp" => crate::api::Protocol::Sctp,
        _ => crate::api::Protocol::Udp,
    }
}

/// Identity of a written rule; the file was valid when it was loaded.
fn mark_rule(table: &Table) -> Option<MarkMatch> {
    let text = |key| text_of(table, key);
    let family = match text("family") {
        Some("ipv6") => Some(Family::Ipv6),
        Some(_) => Some(Family::Ipv4),
        None => None,
    };
    let rule = MarkMatch {
        source: text("source").and_then(|t| t.parse().ok()),
        destination: text("destination").and_then(|t| t.parse().ok()),
        protocol: text("protocol").map(protocol_of),
        source_port: text("source_port").and_then(|t| t.parse().ok()),
        destination_port: text("destination_port").and_then(|t| t.parse().ok()),
        vlan: table
            .get("vlan")
            .and_then(Item::as_integer)
            .and_then(|n| n.try_into().ok()),
        port: text("port").map(str::to_owned),
        ..MarkMatch::default()
    };
    rule.checked(family).ok()
}

fn new_mark(rule: &MarkMatch, mark: u32) -> Table {
    let mut table = Table::new();
    table.decor_mut().set_prefix("\n");
    table.insert("mark", value(i64::from(mark)));
    let texts = [
        ("source", rule.source.map(|n| n.to_string())),
        ("destination", rule.destination.map(|n| n.to_string())),
        (
            "protocol",
            rule.protocol.map(|p| protocol_name(p).to_owned()),
        ),
        ("source_port", rule.source_port.map(|p| p.to_string())),
        (
            "destination_port",
            rule.destination_port.map(|p| p.to_string()),
        ),
        ("port", rule.port.clone()),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            table.insert(key, value(text));
        }
    }
    if rule.family == Family::Ipv6 {
        table.insert("family", value("ipv6"));
    }
    if let Some(vlan) = rule.vlan {
        table.insert("vlan", value(i64::from(vlan)));
    }
    table
}

/// The largest place in the document of a table or the tables in it.
fn last_position(item: &Item) -> Option<isize> {
    match item {
        Item::Table(table) => {
            let inner = table
                .iter()
                .filter_map(|(_, item)| last_position(item))
                .max();
            table.position().max(inner)
        }
        Item::ArrayOfTables(tables) => {
            let below = |t: &Table| t.iter().filter_map(|(_, item)| last_position(item)).max();
            tables
                .iter()
                .filter_map(|t| t.position().max(below(t)))
                .max()
        }
        _ => None,
    }
}

/// Puts a table and its servers at one place, where they keep their order.
fn set_positions(table: &mut Table, position: isize) {
    table.set_position(Some(position));
    if let Some(servers) = table
        .get_mut("server")
        .and_then(Item::as_array_of_tables_mut)
    {
        for server in servers.iter_mut() {
            server.set_position(Some(position));
        }
    }
}

fn text_of<'a>(table: &'a Table, key: &str) -> Option<&'a str> {
    table.get(key).and_then(Item::as_str)
}

/// Identity of a written service; the file was valid when it was loaded.
fn service_key(table: &Table) -> Option<ServiceKey> {
    if let Some(mark) = table.get("fwmark") {
        let family = match text_of(table, "family") {
            Some("ipv6") => Family::Ipv6,
            _ => Family::Ipv4,
        };
        let mark = u32::try_from(mark.as_integer()?).ok()?;
        return Some(ServiceKey::Mark { mark, family });
    }
    let protocol = protocol_of(text_of(table, "protocol")?);
    let addr = text_of(table, "address")?.parse().ok()?;
    let port = u16::try_from(table.get("port")?.as_integer()?).ok()?;
    Some(ServiceKey::new(protocol, addr, port))
}

/// Identity of a written server. A port that validation forced to the service's is found by
/// address alone.
fn server_key(table: &Table, service: &ServiceKey, old: &Service) -> Option<ServerKey> {
    let addr = text_of(table, "address")?.parse().ok()?;
    let port = match table.get("port").and_then(Item::as_integer) {
        Some(port) => u16::try_from(port).ok()?,
        None => service.port(),
    };
    let key = ServerKey { addr, port };
    let forced = ServerKey {
        addr,
        port: service.port(),
    };
    [key, forced]
        .into_iter()
        .find(|key| old.servers.iter().any(|s| s.key == *key))
}

fn edit_service(table: &mut Table, key: &ServiceKey, old: &Service, new: &Service) {
    if old.spec.scheduler != new.spec.scheduler {
        put(table, "scheduler", value(new.spec.scheduler.as_str()));
    }
    if flag_names(old) != flag_names(new) {
        put(table, "scheduler_flags", flags(new));
    }
    if old.spec.one_packet != new.spec.one_packet {
        put(table, "one_packet", value(new.spec.one_packet));
    }
    if old.spec.persistence != new.spec.persistence {
        put_persistence(table, new.spec.persistence);
    }
    if old.spec.engine != new.spec.engine {
        put_engine(table, new.spec.engine.as_deref());
    }
    if old.spec.timeouts != new.spec.timeouts {
        put_timeouts(table, new.spec.timeouts);
    }
    if old.servers == new.servers {
        return;
    }
    let mut written: Vec<(ServerKey, Table)> = Vec::new();
    for table in take_tables(table, "server") {
        written.extend(server_key(&table, key, old).map(|key| (key, table)));
    }
    let mut tables = ArrayOfTables::new();
    for server in &new.servers {
        let found = written.iter().position(|(key, _)| *key == server.key);
        let before = old.servers.iter().find(|s| s.key == server.key);
        let mut table = match (found, before) {
            (Some(at), Some(before)) => {
                let (_, mut table) = written.swap_remove(at);
                edit_server(&mut table, before, server);
                table
            }
            _ => new_server(key, server),
        };
        // All behind the service's own keys, in the order of this list.
        table.set_position(None);
        tables.push(table);
    }
    if !tables.is_empty() {
        table.insert("server", Item::ArrayOfTables(tables));
    }
}

fn put_persistence(table: &mut Table, persistence: Option<Persistence>) {
    match persistence {
        Some(p) => put(table, "persistence_timeout", value(i64::from(p.timeout))),
        None => drop(table.remove("persistence_timeout")),
    }
    match persistence.map(|p| p.netmask).filter(|m| !m.is_full()) {
        Some(mask) => put(table, "netmask", value(mask.to_string())),
        None => drop(table.remove("netmask")),
    }
}

fn put_engine(table: &mut Table, engine: Option<&str>) {
    match engine {
        Some(name) => put(table, "persistence_engine", value(name)),
        None => drop(table.remove("persistence_engine")),
    }
}

fn put_timeouts(table: &mut Table, timeouts: ServiceTimeouts) {
    for one in timeouts.each() {
        match one.seconds {
            0 => drop(table.remove(one.key)),
            seconds => put(table, one.key, value(i64::from(seconds))),
        }
    }
}

fn edit_server(table: &mut Table, old: &Server, new: &Server) {
    if old.spec.method != new.spec.method {
        put(table, "method", value(method_name(new.spec.method)));
    }
    for (key, was, is) in [
        ("weight", old.spec.weight, new.spec.weight),
        ("upper", old.spec.upper, new.spec.upper),
        ("lower", old.spec.lower, new.spec.lower),
    ] {
        if was != is {
            put(table, key, value(i64::from(is)));
        }
    }
    for ((key, was), (_, is)) in tunnel_keys(&old.spec).iter().zip(tunnel_keys(&new.spec)) {
        match is {
            _ if *was == is => {}
            Some(text) => put(table, key, tunnel_value(key, &text)),
            None => drop(table.remove(key)),
        }
    }
    if old.state != new.state {
        put(table, "state", value(new.state.name()));
    }
}

/// Keys of a tunnel with what is to be written, `None` for defaults.
fn tunnel_keys(spec: &ServerSpec) -> [(&'static str, Option<String>); 3] {
    let (none, tunnel) = (Tunnel::default(), spec.tunnel);
    let kind = (tunnel.kind != none.kind).then(|| tunnel.kind.name().to_owned());
    let port = (tunnel.port != 0).then(|| tunnel.port.to_string());
    let checksum = (tunnel.checksum != none.checksum).then(|| tunnel.checksum.name().to_owned());
    [
        ("tun_type", kind),
        (TUN_PORT, port),
        ("tun_checksum", checksum),
    ]
}

fn tunnel_value(key: &str, text: &str) -> Item {
    match text.parse::<i64>() {
        Ok(number) if key == TUN_PORT => value(number),
        _ => value(text),
    }
}

const TUN_PORT: &str = "tun_port";

fn new_service(key: &ServiceKey, service: &Service) -> Table {
    let mut table = Table::new();
    table.decor_mut().set_prefix("\n");
    match *key {
        ServiceKey::Endpoint {
            protocol,
            addr,
            port,
        } => {
            table.insert("protocol", value(protocol_name(protocol)));
            table.insert("address", value(addr.to_string()));
            table.insert("port", value(i64::from(port)));
        }
        ServiceKey::Mark { mark, family } => {
            table.insert("fwmark", value(i64::from(mark)));
            if family == Family::Ipv6 {
                table.insert("family", value("ipv6"));
            }
        }
    }
    table.insert("scheduler", value(service.spec.scheduler.as_str()));
    if !flag_names(service).is_empty() {
        table.insert("scheduler_flags", flags(service));
    }
    if service.spec.one_packet {
        table.insert("one_packet", value(true));
    }
    put_persistence(&mut table, service.spec.persistence);
    put_engine(&mut table, service.spec.engine.as_deref());
    put_timeouts(&mut table, service.spec.timeouts);
    if !service.servers.is_empty() {
        let servers: ArrayOfTables = service.servers.iter().map(|s| new_server(key, s)).collect();
        table.insert("server", Item::ArrayOfTables(servers));
    }
    table
}

fn flag_names(service: &Service) -> Vec<&'static str> {
    names_of(&service.spec.scheduler, service.spec.flags)
}

fn flags(service: &Service) -> Item {
    value(
        flag_names(service)
            .into_iter()
            .collect::<toml_edit::Array>(),
    )
}

fn new_server(service: &ServiceKey, server: &Server) -> Table {
    let mut table = Table::new();
    table.decor_mut().set_prefix("\n");
    table.insert("address", value(server.key.addr.to_string()));
    if server.key.port != service.port() {
        table.insert("port", value(i64::from(server.key.port)));
    }
    table.insert("method", value(method_name(server.spec.method)));
    table.insert("weight", value(i64::from(server.spec.weight)));
    for (key, threshold) in [("upper", server.spec.upper), ("lower", server.spec.lower)] {
        if threshold != 0 {
            table.insert(key, value(i64::from(threshold)));
        }
    }
    for (key, text) in tunnel_keys(&server.spec) {
        if let Some(text) = text {
            table.insert(key, tunnel_value(key, &text));
        }
    }
    if server.state != super::OperatorState::Up {
        table.insert("state", value(server.state.name()));
    }
    table
}

/// Replaces the file in one step: a reader sees the old text or the new one, also after a crash.
/// Mode and owner stay.
fn replace(path: &Path, text: &str) -> Result<(), SaveError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let result = write_and_rename(path, &temporary, directory, text);
    if result.is_err() {
        // Best effort: the error that matters is the one above.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn write_and_rename(
    path: &Path,
    temporary: &Path,
    dir: &Path,
    text: &str,
) -> Result<(), SaveError> {
    let old = fs::metadata(path).map_err(io_error(path, "cannot be read"))?;
    // Left by a process that died here.
    match fs::remove_file(temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(io_error(temporary, "cannot be removed")(e));
        }
        _ => {}
    }
    let failed = |e| io_error(temporary, "cannot be written")(e);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)
        .map_err(io_error(dir, "cannot make a file in it"))?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    let new = file.metadata().map_err(failed)?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        fchown(&file, Some(old.uid()), Some(old.gid())).map_err(failed)?;
    }
    file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))
        .map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(temporary, path).map_err(io_error(path, "cannot be replaced"))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error(dir, "cannot be synced"))
}
