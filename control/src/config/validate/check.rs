//! Health checks.

use std::net::IpAddr;
use std::sync::Arc;

use healthcheck::check::dns::Query;
use healthcheck::check::http::{Expect, Request, StatusRange, Version};
use healthcheck::check::udp::Reply;
use healthcheck::monitor::Pace;

use super::{Notes, notify, number};
use crate::api::ServerKey;
use crate::config::describe_server;
use crate::config::file::{At, Table};
use crate::health::{Identity, Kind, Port, Spec, Tls, Via, Web};

/// Keys that belong to one type of check alone.
const OWNERS: &[(&str, &[&str])] = &[
    (
        "http",
        &[
            "paths",
            "host",
            "http_version",
            "status",
            "digest",
            "regex",
            "regex_no_match",
            "regex_min_offset",
            "regex_max_offset",
        ],
    ),
    (
        "https",
        &["sni", "verify", "ca_file", "cert_file", "key_file"],
    ),
    ("script", &["command", "user", "dynamic"]),
    ("file", &["path", "weight"]),
    ("smtp", &["helo_name"]),
    ("dns", &["query_name", "query_type"]),
    ("udp", &["payload", "reply", "reply_min", "reply_max"]),
];

/// Keys of checks that ask over the network.
const NETWORK: &[&str] = &["address", "port", "source", "interface", "fwmark", "via"];

/// Keys for the kernel, by which checks of the virtual address do not go.
const KERNEL: &[&str] = &["source", "interface", "fwmark"];

/// Types that ask over TCP, the one protocol of probes.
const STREAMS: &[&str] = &["tcp", "http", "https", "smtp"];

/// The checks of a service or of a server. `alpha` holds for those that do not have it.
pub(super) fn checks(table: &Table, alpha: bool, notes: &mut Notes<'_>) -> Arc<[Spec]> {
    let tables = table.tables("check").iter();
    let one = |table| check(table, alpha, notes);
    tables.filter_map(one).collect()
}

/// Complains about checks of a server on port 0 that name no port.
pub(super) fn need_ports(checks: &[Spec], server: ServerKey, line: usize, notes: &mut Notes<'_>) {
    let lacks = |c: &&Spec| c.port == Port::Server && c.kind.has_port();
    if let Some(check) = checks.iter().find(lacks).filter(|_| server.port == 0) {
        let (what, kind) = (describe_server(&server), check.kind.name());
        let text = format!("server {what} has port 0 and its {kind} check no port; add port to it");
        notes.mistake(line, text);
    }
}

fn check(table: &Table, alpha: bool, notes: &mut Notes<'_>) -> Option<Spec> {
    let name = table.text("type")?.to_owned();
    // What is asked over TLS is asked in the same way.
    let is_its = |owner: &str| owner == name || (owner == "http" && name == "https");
    for (owner, keys) in OWNERS.iter().filter(|(owner, _)| !is_its(owner)) {
        for key in keys.iter().filter(|key| table.mentions(key)) {
            let text = format!("{key} is for {owner} checks, this is {name}; remove it");
            notes.mistake(table.line_of(key), text);
        }
    }
    if name == "ping" && table.mentions("port") {
        notes.mistake(table.line_of("port"), "a ping has no port; remove it");
    }
    if matches!(name.as_str(), "script" | "file") {
        for key in NETWORK.iter().filter(|key| table.mentions(key)) {
            let text = format!("{key} means nothing to a {name} check; remove it");
            notes.mistake(table.line_of(key), text);
        }
    }
    let kind = match name.as_str() {
        "http" => Kind::Http(web(table, None, notes)),
        "https" => {
            let tls = tls(table, notes);
            Kind::Http(web(table, Some(tls), notes))
        }
        "script" => script(table, notes)?,
        "file" => number_file(table, notes)?,
        "smtp" => Kind::Smtp(helo(table, notes)),
        "dns" => Kind::Dns(query(table, notes)?),
        "udp" => udp(table, notes),
        "ping" => Kind::Ping,
        _ => Kind::Tcp,
    };
    Some(Spec {
        kind,
        pace: pace(table, alpha, notes),
        addr: address(table, "address", notes),
        port: match table.integer("port") {
            Some(port) => Port::Is(port as u16),
            None => Port::Server,
        },
        via: via(table, &name, notes),
        source: address(table, "source", notes),
        interface: table.text("interface").map(str::to_owned),
        fwmark: number(table, "fwmark"),
    })
}

fn pace(table: &Table, alpha: bool, notes: &mut Notes<'_>) -> Pace {
    let time = |name| table.duration(name).unwrap_or_default();
    let (delay_loop, deadline) = (time("delay_loop"), time("timeout"));
    if deadline > delay_loop && table.mentions("timeout") {
        notes.warning(
            table.line_of("timeout"),
            "timeout is longer than delay_loop: attempts of a silent server come that much later",
        );
    }
    Pace {
        delay_loop,
        delay_before_retry: time("delay_before_retry"),
        retry: number(table, "retry"),
        rise: number(table, "rise"),
        warmup: table.duration("warmup").unwrap_or(delay_loop),
        deadline,
        alpha: table.boolean("alpha").unwrap_or(alpha),
    }
}

fn via(table: &Table, name: &str, notes: &mut Notes<'_>) -> Via {
    if table.text("via") != Some("vip") {
        return Via::Server;
    }
    if !STREAMS.contains(&name) {
        let text = format!("via = \"vip\" is for checks over TCP, this is {name}; remove it");
        notes.mistake(table.line_of("via"), text);
    }
    for key in KERNEL.iter().filter(|key| table.mentions(key)) {
        let text = format!("{key} is for checks through the kernel; remove it or via = \"vip\"");
        notes.mistake(table.line_of(key), text);
    }
    Via::Vip
}

fn address(table: &Table, name: &str, notes: &mut Notes<'_>) -> Option<IpAddr> {
    let text = table.text(name)?;
    let addr = text.parse().ok();
    if addr.is_none() {
        let text =
            format!("{name} \"{text}\" is no IP address; write it like 192.0.2.1 or 2001:db8::1");
        notes.mistake(table.line_of(name), text);
    }
    addr
}

fn tls(table: &Table, notes: &mut Notes<'_>) -> Tls {
    let sni = table.text("sni").map(str::to_owned);
    if let Some(name) = sni.as_ref().filter(|name| !Tls::is_name(name)) {
        let text = format!(
            "sni \"{}\" is no host name; correct it",
            name.escape_debug()
        );
        notes.mistake(table.line_of("sni"), text);
    }
    let verify = table.boolean("verify").unwrap_or_default();
    if !verify && table.mentions("ca_file") {
        let text = "ca_file does nothing without verify; add verify = true or remove it";
        notes.mistake(table.line_of("ca_file"), text);
    }
    Tls {
        sni,
        verify,
        ca_file: table.text("ca_file").map(Into::into),
        own: identity(table, notes),
    }
}

fn identity(table: &Table, notes: &mut Notes<'_>) -> Option<Identity> {
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if table.mentions(one) && !table.mentions(other) {
            let text = format!("{one} does nothing without {other}; add it or remove {one}");
            notes.mistake(table.line_of(one), text);
        }
    }
    Some(Identity {
        certificates: table.text("cert_file")?.into(),
        key: table.text("key_file")?.into(),
    })
}

fn script(table: &Table, notes: &mut Notes<'_>) -> Option<Kind> {
    if !table.mentions("command") {
        let text = "a script check needs a program; add command = [\"/full/path\", \"argument\"]";
        notes.mistake(table.line, text);
    }
    notify::account(table, notes);
    let command = notify::command(table, "command", notes)?;
    let dynamic = table.boolean("dynamic").unwrap_or_default();
    Some(Kind::Script { command, dynamic })
}

fn number_file(table: &Table, notes: &mut Notes<'_>) -> Option<Kind> {
    if !table.mentions("path") {
        let text = "a file check needs a file; add path = \"/full/path\"";
        notes.mistake(table.line, text);
    }
    Some(Kind::File {
        path: notify::path(table, "path", notes)?,
        weight: table.integer("weight").unwrap_or_default(),
    })
}

fn web(table: &Table, tls: Option<Tls>, notes: &mut Notes<'_>) -> Web {
    let mut paths: Vec<String> = Vec::new();
    let host = table.text("host").map(str::to_owned);
    let complaint = host
        .as_deref()
        .map(|host| Request::new("/", host, Version::Http10).complaint());
    if let Some(why) = complaint.flatten() {
        notes.mistake(table.line_of("host"), format!("host: {why}; correct it"));
    }
    let version = match table.text("http_version") {
        Some("1.0c") => Version::Http10Close,
        Some("1.1") => Version::Http11,
        _ => Version::Http10,
    };
    for At { value, line } in table.texts("paths") {
        match Request::new(value, "", version).complaint() {
            Some(why) => notes.mistake(*line, format!("paths: {why}; correct it")),
            None => paths.push(value.clone()),
        }
    }
    if paths.is_empty() {
        paths.push("/".into());
    }
    let mut statuses = Vec::new();
    for At { value, line } in table.texts("status") {
        match StatusRange::parse(value) {
            Ok(range) => statuses.push(range),
            Err(why) => notes.mistake(*line, format!("{why}; correct it")),
        }
    }
    let digest = table.text("digest").map(str::to_owned);
    let is_md5 = |d: &String| d.len() == 32 && d.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(digest) = digest.as_ref().filter(|d| !is_md5(d)) {
        let text = format!("digest \"{digest}\" is no MD5; give 32 hexadecimal digits");
        notes.mistake(table.line_of("digest"), text);
    }
    let regex = table.text("regex").map(str::to_owned);
    if let Some(Err(why)) = regex.as_deref().map(Expect::regex) {
        notes.mistake(table.line_of("regex"), format!("{why}; correct it"));
    }
    Web {
        tls,
        paths,
        host,
        version,
        statuses,
        digest,
        regex,
        no_match: table.boolean("regex_no_match").unwrap_or_default(),
        min_offset: number(table, "regex_min_offset"),
        max_offset: number(table, "regex_max_offset"),
    }
}

fn helo(table: &Table, notes: &mut Notes<'_>) -> String {
    let name = table.text("helo_name").unwrap_or_default();
    if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let text = format!(
            "helo_name \"{}\" is no host name; correct it",
            name.escape_debug()
        );
        notes.mistake(table.line_of("helo_name"), text);
    }
    name.to_owned()
}

fn query(table: &Table, notes: &mut Notes<'_>) -> Option<Query> {
    // A type that was refused says nothing about the name.
    let (name, kind) = (table.text("query_name")?, table.text("query_type"));
    match Query::new(name, kind.unwrap_or("SOA")) {
        Ok(query) => Some(query),
        Err(why) => {
            let text = format!("query_name: {why}; correct it");
            notes.mistake(table.line_of("query_name"), text);
            None
        }
    }
}

fn udp(table: &Table, notes: &mut Notes<'_>) -> Kind {
    let mut pattern = |name| {
        let read = Reply::pattern(table.text(name).unwrap_or_default());
        if let Err(why) = &read {
            notes.mistake(table.line_of(name), format!("{name}: {why}; correct it"));
        }
        read.unwrap_or_default()
    };
    let (payload, bytes) = (pattern("payload"), pattern("reply"));
    if payload.iter().any(|(_, mask)| *mask != 0xff) {
        let text = "payload: what is sent has no x; give digits";
        notes.mistake(table.line_of("payload"), text);
    }
    let reply = table.mentions("reply").then(|| Reply {
        min: number(table, "reply_min"),
        max: number(table, "reply_max"),
        bytes,
    });
    if reply.is_none() {
        for key in ["reply_min", "reply_max"]
            .into_iter()
            .filter(|k| table.mentions(k))
        {
            let text = format!("{key} does nothing without reply; add reply = \"\" or remove it");
            notes.mistake(table.line_of(key), text);
        }
    }
    Kind::Udp(payload.iter().map(|(byte, _)| *byte).collect(), reply)
}
