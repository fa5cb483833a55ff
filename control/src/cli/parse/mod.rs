//! From words to an [`Action`]: what the operator typed becomes what the program runs on, and
//! every refusal that needs no daemon happens here, in ipvsadm's order.

mod draft;
mod words;

use self::draft::Draft;
use self::words::{Found, Words};
use super::drain;
use super::failure::Failure;
use super::names::Names;
use super::options::{Command, CommandSpec, WORDS, Word, WordSpec};
use crate::api::{Drainees, HandOver, MarkMatch, Request, ServiceKey};
use crate::model::MAX_TIMEOUT;

/// What to do, ready to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Ask for a change that is answered without output.
    Change(Request),
    /// List services.
    Services(Listing),
    /// List connections.
    Connections {
        /// Print numbers rather than names.
        numeric: bool,
        /// Head the columns of persistence engines (`--persistent-conn`).
        engine: bool,
    },
    /// List the time-outs.
    Timeouts,
    /// List the synchronisation daemons.
    Daemons,
    /// Print the services as commands.
    Save {
        /// Print numbers rather than names.
        numeric: bool,
    },
    /// Carry out the lines of standard input.
    Restore,
    /// Show the status.
    Status,
    /// Show totals and rates of everything.
    Stats {
        /// And the counters of each worker.
        workers: bool,
    },
    /// List the rules of marks.
    Marks,
    /// `health`.
    Health,
    /// `vrrp`.
    Vrrp,
    /// `drain`.
    Drain(drain::Order),
    /// `events`.
    Events {
        /// Those that come, too.
        follow: bool,
    },
    /// Show or change settings by the kernel's names.
    Sysctl(Request),
    /// Ask for a text (diff, save, reload).
    Text(Request),
    /// Capture packets.
    Capture(Request),
    /// Import a `keepalived.conf`.
    Import(Import),
}

/// Where an import comes from and goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Import {
    /// The `keepalived.conf`.
    pub file: String,
    /// The configuration; `None` is standard output.
    pub output: Option<String>,
    /// The report; `None` is standard error.
    pub report: Option<String>,
    /// The config-id; `None` is the host's name.
    pub id: Option<String>,
}

/// A listing of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Only this service.
    pub service: Option<ServiceKey>,
    /// Which columns.
    pub format: Format,
    /// Print numbers rather than names.
    pub numeric: bool,
    /// Print large numbers in full.
    pub exact: bool,
    /// Sort, or keep the order of the daemon.
    pub sorted: bool,
}

/// Columns of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Method, weight, connections.
    Plain,
    /// Counters.
    Stats,
    /// Rates.
    Rate,
    /// Thresholds.
    Thresholds,
    /// Persistent connections.
    PersistentConn,
    /// `--tun-info`.
    TunInfo,
}

/// A command line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What to do.
    pub action: Action,
    /// Print it as JSON.
    pub json: bool,
    /// Admin socket named on the line.
    pub socket: Option<String>,
}

/// Reads the words behind the program's name.
pub fn command_line(words: &[String], names: &dyn Names) -> Result<Line, Failure> {
    let (front, rest) = front_options(words)?;
    let mut line = match rest.first() {
        None => plain_list(),
        Some(first) if first.starts_with('-') || first.is_empty() => options(rest, names)?,
        Some(first) => match WORDS.iter().find(|w| w.name == first) {
            Some(spec) => word_command(spec, &rest[1..])?,
            None if rest.iter().any(|w| w.starts_with('-')) => options(rest, names)?,
            None => return Err(unknown_word(first)),
        },
    };
    line.socket = line.socket.or(front.socket);
    if front.json && !line.json {
        let lists = matches!(
            line.action,
            Action::Services(_)
                | Action::Connections { .. }
                | Action::Timeouts
                | Action::Daemons
                | Action::Status
                | Action::Stats { .. }
                | Action::Sysctl(_)
                | Action::Marks
                | Action::Health
                | Action::Vrrp
                | Action::Drain(_)
                | Action::Events { .. }
        );
        if !lists {
            return Err(Failure::Usage(
                "--json is only for listings and status".into(),
            ));
        }
        line.json = true;
    }
    Ok(line)
}

/// Reads the words of a line of `-R`.
pub fn restore_line(words: &[String], names: &dyn Names) -> Result<Line, Failure> {
    let line = options(words, names)?;
    if line.action == Action::Restore {
        return Err(Failure::TryHelp);
    }
    if line.socket.is_some() || line.json {
        let what = "--socket and --json go in front of -R, not into its lines";
        return Err(Failure::Usage(what.into()));
    }
    Ok(line)
}

fn plain_list() -> Line {
    let listing = Listing {
        service: None,
        format: Format::Plain,
        numeric: false,
        exact: false,
        sorted: true,
    };
    Line {
        action: Action::Services(listing),
        json: false,
        socket: None,
    }
}

/// Options of ours that stand in front of any command.
#[derive(Default)]
struct Front {
    socket: Option<String>,
    json: bool,
}

fn front_options(words: &[String]) -> Result<(Front, &[String]), Failure> {
    let mut front = Front::default();
    let mut rest = words;
    loop {
        rest = match rest {
            [first, tail @ ..] if first == "--json" => {
                front.json = true;
                tail
            }
            [first, path, tail @ ..] if first == "--socket" => {
                front.socket = Some(path.clone());
                tail
            }
            [first, tail @ ..] if first.starts_with("--socket=") => {
                front.socket = first.split_once('=').map(|(_, path)| path.to_string());
                tail
            }
            [first] if first == "--socket" => {
                let problem = "missing argument";
                return Err(Failure::BadOption {
                    word: first.clone(),
                    problem,
                });
            }
            _ => return Ok((front, rest)),
        };
    }
}

fn unknown_word(word: &str) -> Failure {
    let near = WORDS
        .iter()
        .map(|w| (strsim::damerau_levenshtein(w.name, word), w.name))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    let known: Vec<&str> = WORDS.iter().map(|w| w.name).collect();
    let hint = near
        .map(|(_, name)| format!("did you mean `{name}'? "))
        .unwrap_or_default();
    Failure::Refused {
        message: format!(
            "unknown command `{word}'; {hint}known: {}, and the options of ipvsadm (-h)",
            known.join(", ")
        ),
        status: 255,
    }
}

/// A line of ipvsadm's.
fn options(words: &[String], names: &dyn Names) -> Result<Line, Failure> {
    let mut words = Words::new(words);
    let command = first_command(&mut words)?;
    if let Command::Help | Command::Version = command.spec.command {
        let help = command.spec.command == Command::Help;
        let action = if help { Action::Help } else { Action::Version };
        return Ok(Line {
            action,
            json: false,
            socket: None,
        });
    }
    let mut draft = Draft::new(command.spec, command.value)?;
    while let Some(item) = words.next_item()? {
        match item.found {
            Found::Command(_) => {
                return Err(Failure::Usage(format!("invalid option `{}'", item.word)));
            }
            Found::Option(option) => draft.set(option, item.value, names)?,
        }
    }
    draft.finish(&words.leftover)
}

struct FirstCommand<'a> {
    spec: &'static CommandSpec,
    value: Option<&'a str>,
}

fn first_command<'a>(words: &mut Words<'a>) -> Result<FirstCommand<'a>, Failure> {
    match words.next_item() {
        Ok(Some(item)) => match item.found {
            Found::Command(spec) => Ok(FirstCommand {
                spec,
                value: item.value,
            }),
            Found::Option(_) => Err(Failure::TryHelp),
        },
        Ok(None) | Err(_) => Err(Failure::TryHelp),
    }
}

/// A command of ours.
fn word_command(spec: &WordSpec, words: &[String]) -> Result<Line, Failure> {
    let mut line = plain_list();
    let mut plain: Vec<&String> = Vec::new();
    let long_output = String::from("--output");
    let (mut discard_live, mut workers, mut packets, mut seconds) = (false, false, 0, 0);
    let mut import = Import::default();
    let (mut no_wait, mut deadline, mut service) = (false, None, None);
    let (mut binary, mut hand_over) = (None, HandOver::default());
    let mut follow = false;
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let word = match spec.word {
            // The one letter among the words.
            Word::ImportKeepalived if word == "-o" => &long_output,
            _ => word,
        };
        let Some(name) = word.strip_prefix("--") else {
            plain.push(word);
            continue;
        };
        let (name, attached) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let Some(option) = spec.options.iter().find(|o| o.long == name) else {
            let known: Vec<String> = spec
                .options
                .iter()
                .map(|o| format!("--{}", o.long))
                .collect();
            let known = if known.is_empty() {
                "none".to_string()
            } else {
                known.join(", ")
            };
            return Err(Failure::Usage(format!(
                "{}: unknown option `{word}'; options of {0}: {known}",
                spec.name
            )));
        };
        let value = match (option.value, attached) {
            (None, None) => None,
            (None, Some(_)) => {
                return Err(Failure::Usage(format!(
                    "{}: --{name} takes no value",
                    spec.name
                )));
            }
            (Some(_), Some(value)) => Some(value),
            (Some(_), None) => rest.next().map(String::as_str),
        };
        let count = || match value.and_then(|v| v.parse::<u64>().ok()).filter(|n| *n > 0) {
            Some(count) => Ok(count),
            None => Err(Failure::Usage(format!(
                "{}: --{name} needs a number of at least 1",
                spec.name
            ))),
        };
        let text = || match value {
            Some(value) if !value.is_empty() => Ok(Some(value.to_owned())),
            _ => Err(Failure::Usage(format!(
                "{}: --{name} needs a value",
                spec.name
            ))),
        };
        match name {
            "binary" => binary = text()?,
            "output" => import.output = text()?,
            "report" => import.report = text()?,
            "config-id" => import.id = text()?,
            "packets" => packets = count()?,
            "no-wait" => no_wait = true,
            "deadline" => deadline = Some(deadline_of(value.unwrap_or_default())?),
            "hand-over" => {
                hand_over = HandOver::from_name(value.unwrap_or_default()).ok_or_else(|| {
                    Failure::Usage("upgrade: --hand-over is auto, always or never".into())
                })?
            }
            "service" => service = Some(service_of(value.unwrap_or_default())?),
            "seconds" => seconds = count()?,
            "discard-live" => discard_live = true,
            "workers" => workers = true,
            "json" => line.json = true,
            "follow" => follow = true,
            other => unreachable!("--{other} is in the table of {} but not here", spec.name),
        }
    }
    let server = match (spec.word, plain.as_slice()) {
        (Word::Drain | Word::Undrain, [server]) => {
            let server = server_of(server, service)?;
            plain.clear();
            Some(server)
        }
        _ => None,
    };
    if !matches!(
        spec.word,
        Word::Capture | Word::Sysctl | Word::Mark | Word::ImportKeepalived
    ) && let Some(extra) = plain.first()
    {
        return Err(Failure::Usage(format!("unexpected argument {extra}")));
    }
    line.action = match spec.word {
        Word::Status => Action::Status,
        Word::Stats => Action::Stats { workers },
        Word::Sysctl => Action::Sysctl(sysctl(&plain)),
        Word::Mark => mark(&plain, spec)?,
        Word::Health => Action::Health,
        Word::Vrrp => Action::Vrrp,
        Word::Drain if server.is_none() && (deadline.is_some() || service.is_some()) => {
            let what = "drain: name a server, ADDRESS or ADDRESS:PORT";
            return Err(Failure::Usage(what.into()));
        }
        Word::Drain => Action::Drain(drain::Order {
            servers: server,
            deadline,
            waits: !no_wait,
        }),
        Word::Undrain => match server {
            Some(servers) => Action::Text(Request::Undrain { servers }),
            None => {
                let what = "undrain: name a server, ADDRESS or ADDRESS:PORT";
                return Err(Failure::Usage(what.into()));
            }
        },
        Word::Events => Action::Events { follow },
        Word::Diff => Action::Text(Request::Diff),
        Word::Save => Action::Text(Request::Save),
        Word::Reload => Action::Text(Request::Reload { discard_live }),
        Word::Upgrade => Action::Text(Request::Upgrade {
            binary: match binary {
                Some(file) => Some(absolute(spec.name, &file)?.into()),
                None => None,
            },
            deadline,
            hand_over,
        }),
        Word::ImportKeepalived => {
            let [file] = plain.as_slice() else {
                return Err(Failure::Usage(format!(
                    "usage: rvsadm import-keepalived {} [-o OUT.toml] [--report FILE] [--config-id ID]",
                    spec.arguments
                )));
            };
            import.file = file.to_string();
            Action::Import(import)
        }
        Word::Capture => {
            let [port, file, filter @ ..] = plain.as_slice() else {
                return Err(Failure::Usage(format!(
                    "usage: rvsadm capture {}",
                    spec.arguments
                )));
            };
            let filter: Vec<&str> = filter.iter().map(|w| w.as_str()).collect();
            Action::Capture(Request::Capture {
                port: port.to_string(),
                file: absolute(spec.name, file)?,
                filter: filter.join(" "),
                packets,
                seconds,
            })
        }
    };
    Ok(line)
}

fn server_of(text: &str, service: Option<ServiceKey>) -> Result<Drainees, Failure> {
    let read = drain::server(text).map(|(addr, port)| Drainees {
        addr,
        port,
        service,
    });
    read.ok_or_else(|| {
        Failure::Usage(format!(
            "`{text}' is no server; give ADDRESS or ADDRESS:PORT, IPv6 with a port in brackets"
        ))
    })
}

fn service_of(text: &str) -> Result<ServiceKey, Failure> {
    drain::service(text).ok_or_else(|| {
        Failure::Usage(format!(
            "`{text}' is no service; write tcp:10.0.0.1:80, udp:[fd00::1]:53 or mark:5 (mark6:5)"
        ))
    })
}

/// Seconds.
fn deadline_of(text: &str) -> Result<u32, Failure> {
    let time = humantime::parse_duration(text).ok();
    let secs = time.and_then(|t| u32::try_from(t.as_secs()).ok());
    secs.filter(|secs| *secs <= MAX_TIMEOUT).ok_or_else(|| {
        Failure::Usage(format!(
            "`{text}' is no deadline; give a time like 90s or 10m, at most 31 days"
        ))
    })
}

fn mark(words: &[&String], spec: &WordSpec) -> Result<Action, Failure> {
    let usage = |what: String| Failure::Usage(format!("mark: {what}"));
    let words: Vec<&str> = words.iter().map(|w| w.as_str()).collect();
    let number = |text: &str| text.parse::<u32>().ok();
    let read = |words: &[&str]| MarkMatch::from_words(words.iter().copied()).map_err(usage);
    Ok(match words[..] {
        ["list"] => Action::Marks,
        ["add", mark, ref rest @ ..] => {
            let mark = number(mark)
                .filter(|n| *n > 0)
                .ok_or_else(|| usage(format!("`{mark}' is no mark; give 1 to {}", u32::MAX)))?;
            let matches = read(rest)?;
            Action::Text(Request::AddMark { matches, mark })
        }
        ["delete", ref rest @ ..] => {
            // The mark does not identify the rule, but stands in the list.
            let rest = match rest {
                [mark, rest @ ..] if number(mark).is_some() => rest,
                rest => rest,
            };
            let matches = read(rest)?;
            Action::Text(Request::DeleteMark { matches })
        }
        _ => return Err(usage(format!("write rvsadm mark {}", spec.arguments))),
    })
}

/// `NAME=VALUE` sets, `NAME` shows. Which there are is for the daemon to say.
fn sysctl(words: &[&String]) -> Request {
    let pair = |word: &&String| {
        let (name, value) = word.split_once('=')?;
        Some((name.trim().to_string(), value.trim().to_string()))
    };
    Request::Sysctl {
        set: words.iter().filter_map(pair).collect(),
        names: words
            .iter()
            .filter(|word| !word.contains('='))
            .map(|word| word.to_string())
            .collect(),
    }
}

/// The daemon has a working directory of its own, so it gets no relative path.
fn absolute(command: &str, file: &str) -> Result<String, Failure> {
    let path = std::path::absolute(file)
        .map_err(|err| Failure::Usage(format!("{command}: file `{file}': {err}")))?;
    match path.into_os_string().into_string() {
        Ok(path) => Ok(path),
        Err(path) => Err(Failure::Usage(format!(
            "{command}: path {path:?} is not UTF-8"
        ))),
    }
}

#[cfg(test)]
mod tests;
