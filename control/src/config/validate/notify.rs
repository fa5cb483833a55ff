//! What is told to whom: scripts, streams, mails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Notes, number, values};
use crate::api::{ServerKey, ServiceKey};
use crate::config::Admin;
use crate::config::file::{At, File, Table};
use crate::config::notify::{
    Fifos, Login, Mail, MailTls, Notify, RouterScripts, Scripts, UpDown, Written,
};
use crate::script::{Account, Command};

pub(super) fn scripts(file: &File, notes: &mut Notes<'_>) -> Scripts {
    let table = file.section("scripts");
    Scripts {
        user: account(table, notes),
        secure: table.boolean("secure").unwrap_or(true),
    }
}

/// The user that a table names.
pub(super) fn account(table: &Table, notes: &mut Notes<'_>) -> Option<Account> {
    match table.text("user")?.parse() {
        Ok(account) => Some(account),
        Err(why) => {
            notes.mistake(table.line_of("user"), format!("user: {why}"));
            None
        }
    }
}

/// A command of a table, with the table's user.
pub(super) fn command(table: &Table, name: &str, notes: &mut Notes<'_>) -> Option<Command> {
    let argv = values(table.texts(name));
    let line = table.line_of(name);
    match argv.first() {
        None => {
            // A value of the wrong type was complained about already.
            if table.mentions(name) && line != table.line {
                let text = format!("{name} is empty; name a program and its arguments");
                notes.mistake(line, text);
            }
            return None;
        }
        Some(program) if !program.starts_with('/') => {
            let text = format!("{name} \"{program}\" is no full path; begin it with /");
            notes.mistake(line, text);
            return None;
        }
        Some(_) => {}
    }
    if argv.iter().any(|word| word.contains('\0')) {
        notes.mistake(line, format!("{name} holds a zero byte; remove it"));
        return None;
    }
    // A user that cannot be read is complained about once.
    let account = table.text("user").and_then(|user| user.parse().ok());
    let command = Command { argv, account };
    notes.commands.push(Written {
        line,
        command: command.clone(),
    });
    Some(command)
}

/// The scripts of a service and of its servers, into `out`.
pub(super) fn service(
    table: &Table,
    key: ServiceKey,
    out: &mut BTreeMap<ServiceKey, UpDown>,
    notes: &mut Notes<'_>,
) {
    if let Some(table) = table.table("notify") {
        out.insert(key, up_down(table, ("quorum_up", "quorum_down"), notes));
    }
}

/// The scripts of a server.
pub(super) fn server(table: &Table, notes: &mut Notes<'_>) -> Option<UpDown> {
    let table = table.table("notify")?;
    Some(up_down(table, ("up", "down"), notes))
}

fn up_down(table: &Table, (up, down): (&str, &str), notes: &mut Notes<'_>) -> UpDown {
    account(table, notes);
    UpDown {
        up: command(table, up, notes),
        down: command(table, down, notes),
    }
}

/// Scripts of the entries of a list, by name.
fn routers(tables: &[Table], notes: &mut Notes<'_>) -> BTreeMap<String, RouterScripts> {
    let mut out = BTreeMap::new();
    for entry in tables {
        if let (Some(name), Some(table)) = (entry.text("name"), entry.table("notify")) {
            account(table, notes);
            let mut command = |name| command(table, name, notes);
            let scripts = RouterScripts {
                master: command("master"),
                backup: command("backup"),
                fault: command("fault"),
                stop: command("stop"),
                deleted: command("deleted"),
                lower: command("master_rx_lower_pri"),
                any: command("any"),
            };
            out.insert(name.to_owned(), scripts);
        }
    }
    out
}

/// Scripts of servers.
pub(super) type Servers = BTreeMap<(ServiceKey, ServerKey), UpDown>;

pub(super) fn notify(
    file: &File,
    admin: &Admin,
    services: BTreeMap<ServiceKey, UpDown>,
    servers: Servers,
    notes: &mut Notes<'_>,
) -> Notify {
    let table = file.section("notify");
    let default_socket = || {
        let mut path = admin.socket.clone().into_os_string();
        path.push(".events");
        PathBuf::from(path)
    };
    let vrrp = file.section("vrrp");
    Notify {
        socket: path(table, "socket", notes).unwrap_or_else(default_socket),
        mode: admin.mode,
        group: admin.group.clone(),
        history: number(table, "history"),
        priority_changes: table.boolean("priority_changes").unwrap_or_default(),
        fifos: fifos(table, notes),
        mail: file
            .section("alert")
            .table("smtp")
            .and_then(|table| mail(table, notes)),
        timeout: file
            .section("scripts")
            .duration("timeout")
            .unwrap_or_default(),
        instances: routers(vrrp.tables("instance"), notes),
        groups: routers(vrrp.tables("sync_group"), notes),
        services,
        servers,
    }
}

pub(super) fn path(table: &Table, name: &str, notes: &mut Notes<'_>) -> Option<PathBuf> {
    let text = table.text(name)?;
    if !Path::new(text).is_absolute() {
        let text = format!("{name} \"{text}\" is no full path; begin it with /");
        notes.mistake(table.line_of(name), text);
        return None;
    }
    Some(text.into())
}

fn fifos(table: &Table, notes: &mut Notes<'_>) -> Fifos {
    let Some(table) = table.table("fifo") else {
        return Fifos::default();
    };
    let fifos = Fifos {
        all: path(table, "all", notes),
        vrrp: path(table, "vrrp", notes),
        lvs: path(table, "lvs", notes),
    };
    let named = [
        ("all", &fifos.all),
        ("vrrp", &fifos.vrrp),
        ("lvs", &fifos.lvs),
    ];
    for (i, (name, path)) in named.iter().enumerate() {
        let before = named.iter().take(i);
        let same = before.into_iter().find(|(_, p)| p.is_some() && p == path);
        if let Some((other, _)) = same {
            let text = format!("{name} is the pipe of {other}, too; give it one of its own");
            notes.mistake(table.line_of(name), text);
        }
    }
    fifos
}

fn mail(table: &Table, notes: &mut Notes<'_>) -> Option<Mail> {
    let is_address = |text: &str| text.parse::<lettre::Address>().is_ok();
    for At { value, line } in table.texts("to") {
        if !is_address(value) {
            let text = format!(
                "\"{}\" is no mail address; correct it",
                value.escape_debug()
            );
            notes.mistake(*line, text);
        }
    }
    let to = values(table.texts("to"));
    if to.is_empty() && table.mentions("to") {
        let text = "to is empty; name somebody, or remove [alert.smtp]";
        notes.mistake(table.line_of("to"), text);
    }
    let from = table.text("from").map(str::to_owned);
    if let Some(from) = from.as_ref().filter(|from| !is_address(from)) {
        let text = format!(
            "from \"{}\" is no mail address; correct it",
            from.escape_debug()
        );
        notes.mistake(table.line_of("from"), text);
    }
    for name in ["helo_name", "router_id"] {
        let written = table.text(name);
        if let Some(text) = written.filter(|t| t.is_empty() || t.contains(char::is_control)) {
            let text = format!("{name} \"{}\" is no name; correct it", text.escape_debug());
            notes.mistake(table.line_of(name), text);
        }
    }
    let server = table.text("server").unwrap_or_default();
    let tls = match table.text("tls") {
        Some("starttls") => MailTls::StartTls,
        Some("implicit") => MailTls::Implicit,
        _ => MailTls::None,
    };
    let login = login(table, tls, notes);
    let ca_file = table.text("ca_file").map(PathBuf::from);
    if ca_file.is_some() && tls == MailTls::None {
        let text = "ca_file means something with tls only; add tls = \"starttls\" or remove it";
        notes.mistake(table.line_of("ca_file"), text);
    }
    // RFC 5321, RFC 6409, RFC 8314.
    let usual = match tls {
        MailTls::None => 25,
        MailTls::StartTls => 587,
        MailTls::Implicit => 465,
    };
    let Some((host, port)) = host_and_port(server, usual) else {
        let text =
            format!("server \"{server}\" is no host and port; write it like mail.example.org:25");
        notes.mistake(table.line_of("server"), text);
        return None;
    };
    Some(Mail {
        to,
        from,
        host,
        port,
        tls,
        ca_file,
        login,
        helo_name: table.text("helo_name").map(str::to_owned),
        timeout: table.duration("connect_timeout").unwrap_or_default(),
        router_id: table.text("router_id").map(str::to_owned),
        vrrp: table.boolean("vrrp").unwrap_or_default(),
        checker: table.boolean("checker").unwrap_or_default(),
        faults: table.boolean("faults").unwrap_or_default(),
    })
}

fn login(table: &Table, tls: MailTls, notes: &mut Notes<'_>) -> Option<Login> {
    let (username, file) = (table.text("username"), table.text("password_file"));
    if username.is_some() != file.is_some() {
        let (key, other) = match username {
            Some(_) => ("username", "password_file"),
            None => ("password_file", "username"),
        };
        let text = format!("a login needs both; add {other} or remove {key}");
        notes.mistake(table.line_of(key), text);
    }
    let (username, file) = (username?, PathBuf::from(file?));
    if tls == MailTls::None {
        let text = "the password would be sent in clear; add tls = \"starttls\" or \"implicit\"";
        notes.mistake(table.line_of("username"), text);
    }
    if !file.is_absolute() {
        let text = format!(
            "password_file \"{}\" is no full path; begin it with /",
            file.display()
        );
        notes.mistake(table.line_of("password_file"), text);
    }
    Some(Login {
        username: username.to_owned(),
        password_file: file,
    })
}

/// `host`, `host:25`, `192.0.2.1:25`, `2001:db8::1`, `[2001:db8::1]:25`.
fn host_and_port(text: &str, usual: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':'))
        }
        None if text.parse::<std::net::Ipv6Addr>().is_ok() => (text, None),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None => usual,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    (!host.is_empty() && host.chars().all(plain)).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_servers() {
        let read = |text| host_and_port(text, 25).map(|(host, port)| format!("{host} {port}"));
        for (text, read_as) in [
            ("mail", "mail 25"),
            ("mail.example.org:587", "mail.example.org 587"),
            ("192.0.2.1:2525", "192.0.2.1 2525"),
            ("2001:db8::1", "2001:db8::1 25"),
            ("[2001:db8::1]:26", "2001:db8::1 26"),
        ] {
            assert_eq!(read(text).as_deref(), Some(read_as));
        }
        for wrong in ["", ":25", "mail:0", "mail:x", "a b", "[::1", "a:b:c"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }
}
