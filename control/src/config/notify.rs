//! What is told to whom, as validated.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::api::{ServerKey, ServiceKey};
use crate::script::{Account, Command, Settings, safety};

use super::{Config, Mistake};

/// What holds for all scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scripts {
    /// User of commands that name none.
    pub user: Option<Account>,
    /// Whether root's scripts have to be root's alone.
    pub secure: bool,
}

/// A command, and where the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Line of its key.
    pub line: usize,
    /// The command.
    pub command: Command,
}

/// What is told to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Socket of the stream.
    pub socket: PathBuf,
    /// Permissions of the socket, e.g. `0o660`.
    pub mode: u32,
    /// Group of the socket.
    pub group: Option<String>,
    /// Past events that are kept.
    pub history: usize,
    /// Whether changes of priority are events.
    pub priority_changes: bool,
    /// Named pipes.
    pub fifos: Fifos,
    /// Mails.
    pub mail: Option<Mail>,
    /// Longest time of a script.
    pub timeout: Duration,
    /// Scripts of virtual routers, by name.
    pub instances: BTreeMap<String, RouterScripts>,
    /// Scripts of sync groups, by name.
    pub groups: BTreeMap<String, RouterScripts>,
    /// Scripts of quorum.
    pub services: BTreeMap<ServiceKey, UpDown>,
    /// Scripts of servers.
    pub servers: BTreeMap<(ServiceKey, ServerKey), UpDown>,
}

/// Named pipes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fifos {
    /// For all events.
    pub all: Option<PathBuf>,
    /// For those of virtual routers and groups.
    pub vrrp: Option<PathBuf>,
    /// For those of servers and quorum.
    pub lvs: Option<PathBuf>,
}

/// Scripts of a virtual router or a sync group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterScripts {
    /// On becoming MASTER.
    pub master: Option<Command>,
    /// On becoming BACKUP.
    pub backup: Option<Command>,
    /// On a FAULT.
    pub fault: Option<Command>,
    /// When the daemon ends.
    pub stop: Option<Command>,
    /// When the router is taken away.
    pub deleted: Option<Command>,
    /// When a MASTER hears a lower priority.
    pub lower: Option<Command>,
    /// On every change, with arguments added.
    pub any: Option<Command>,
}

/// Scripts of something that is up or down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpDown {
    /// When it comes up.
    pub up: Option<Command>,
    /// When it goes down.
    pub down: Option<Command>,
}

/// Mails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Who gets them; never empty.
    pub to: Vec<String>,
    /// Sender, if it is not this host.
    pub from: Option<String>,
    /// Mail server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the session is protected.
    pub tls: MailTls,
    /// Authorities of the server's certificate, if they are not those of the system.
    pub ca_file: Option<PathBuf>,
    /// Who we log in as.
    pub login: Option<Login>,
    /// The name we introduce ourselves with, if it is not this host's.
    pub helo_name: Option<String>,
    /// For each answer.
    pub timeout: Duration,
    /// Our name in the subject, if it is not this host's.
    pub router_id: Option<String>,
    /// About virtual routers and groups.
    pub vrrp: bool,
    /// About servers and quorum.
    pub checker: bool,
    /// About routers that turn to FAULT.
    pub faults: bool,
}

/// How a session with a mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// Not at all.
    None,
    /// Begun in clear; nothing is said before both changed to TLS (RFC 3207).
    StartTls,
    /// From its beginning (RFC 8314).
    Implicit,
}

/// An account at a mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Its name.
    pub username: String,
    /// The file whose first line is its password.
    pub password_file: PathBuf,
}

impl Scripts {
    /// As the helpers are told, and a warning if they run as somebody else than they should.
    pub fn settings(&self, cores: &[u32]) -> (Settings, Option<String>) {
        let (account, warning) = match &self.user {
            Some(account) => (account.clone(), None),
            None => Account::of_scripts(),
        };
        let settings = Settings {
            account,
            secure: self.secure,
            cores: cores.to_vec(),
        };
        (settings, warning)
    }
}

/// Users that the commands of a configuration name.
pub fn accounts(config: &Config) -> Vec<Account> {
    let all = config.commands.iter();
    let mut accounts: Vec<Account> = all.filter_map(|w| w.command.account.clone()).collect();
    accounts.sort();
    accounts.dedup();
    accounts
}

/// What this host lacks for the commands of a configuration, a warning each: they fail when they
/// are to run, and the rest works on.
pub fn look(config: &Config) -> Vec<Mistake> {
    if config.commands.is_empty() {
        return Vec::new();
    }
    let (settings, warning) = config.scripts.settings(&[]);
    let note = |line, text| Mistake {
        file: config.path.clone(),
        line,
        text,
    };
    let needs_default = config.commands.iter().find(|w| w.command.account.is_none());
    let warning = needs_default.and_then(|w| Some(note(w.line, warning?)));
    let complaints = config.commands.iter().filter_map(|written| {
        let command = &written.command;
        let account = command.account.as_ref().unwrap_or(&settings.account);
        let complaint = account.complaint().or_else(|| {
            let as_root = settings.secure && account.is_root();
            safety::complaint(&safety::program(&command.argv), as_root)
        });
        Some(note(written.line, complaint?))
    });
    warning.into_iter().chain(complaints).collect()
}
