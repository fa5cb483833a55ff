//! The rules that run, as a file: a line with version and checksum, then JSON.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crc::{CRC_32_ISCSI, Crc};
use dataplane::settings::Settings;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::journal;
use crate::api::{MarkMatch, Origin, ServerKey, ServerSpec, ServiceKey, ServiceSpec};
use crate::config::{
    Action, OperatorState, Rules, Running, RunningMark, RunningServer, RunningService, SETTINGS,
};
use crate::health::Subject;

/// Version of the file; raised when an older daemon could not read it.
const VERSION: u32 = 1;

/// First word of the file.
const MAGIC: &str = "rvs-rules";

const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Of a body, or of a record of the journal.
pub(super) fn checksum(body: &[u8]) -> u32 {
    CRC32C.checksum(body)
}

/// What the journal of a file with these contents calls it.
pub(super) fn base_of(bytes: &[u8]) -> u32 {
    checksum(split(bytes).map_or(&[], |(_, body)| body))
}

/// Settings, written by name.
pub(super) mod settings {
    use std::collections::BTreeMap;

    use dataplane::settings::Settings;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::config::SETTINGS;

    pub(in super::super) fn serialize<S: Serializer>(
        settings: &Settings,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let named = SETTINGS.iter().map(|s| (s.name(), (s.get)(settings)));
        serializer.collect_map(named)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Settings, D::Error> {
        let mut settings = Settings::default();
        for (name, value) in BTreeMap::<String, u32>::deserialize(deserializer)? {
            let found = SETTINGS.iter().find(|s| s.name() == name);
            let unknown = || Error::custom(format!("no setting is named {name}"));
            (found.ok_or_else(unknown)?.set)(&mut settings, value);
        }
        Ok(settings)
    }
}

/// First line and body.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&b| b == b'\n')?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

/// Why a file cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Unreadable {
    /// It does not begin as it ought to.
    #[error("this is no file of rules that rvsd keeps")]
    Foreign,
    /// Of another version.
    #[error("it has version {0}, this rvsd reads {VERSION}")]
    Version(u32),
    /// Contents and checksum do not fit.
    #[error("it is damaged (its checksum is wrong)")]
    Damaged,
    /// Its checksum is right, its contents are not.
    #[error("it cannot be understood: {0}")]
    Contents(String),
}

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The configuration file that the daemon ran with.
    pub config: PathBuf,
    /// The rules of that file as it was loaded last.
    pub last: Rules,
    /// What ran.
    pub running: Running,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    config: PathBuf,
    last: Written,
    running: Written,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(with = "settings")]
    settings: Settings,
    marks: Vec<WrittenMark>,
    services: Vec<WrittenService>,
}

/// A rule that marks packets.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenMark {
    rule: MarkMatch,
    mark: u32,
    origin: Origin,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenService {
    key: ServiceKey,
    spec: ServiceSpec,
    origin: Origin,
    /// In the order of adding.
    servers: Vec<WrittenServer>,
}

/// A real server.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenServer {
    /// Identity.
    pub(super) key: ServerKey,
    spec: ServerSpec,
    drain: bool,
    origin: Origin,
}

impl Kept {
    /// The file's contents.
    pub fn encode(&self) -> Vec<u8> {
        let document = Document {
            config: self.config.clone(),
            last: Written::of(&self.last.to_running()),
            running: Written::of(&self.running),
        };
        // Nothing in it can fail to be JSON: no map has keys other than text.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let head = format!("{MAGIC} {VERSION} {:08x}\n", checksum(&body));
        [head.as_bytes(), &body].concat()
    }

    /// Reads the contents of the file at `path`, and what its journal says has changed since.
    ///
    /// # Errors
    /// See [`Unreadable`]. A journal that cannot be used is told in a line; it is never an error.
    pub fn load(path: &Path, bytes: &[u8]) -> Result<Kept, Unreadable> {
        let mut kept = Kept::decode(bytes)?;
        journal::follow(path, base_of(bytes), &mut kept.running);
        Ok(kept)
    }

    /// Reads such contents.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn decode(bytes: &[u8]) -> Result<Kept, Unreadable> {
        let (head, body) = split(bytes).ok_or(Unreadable::Foreign)?;
        let head = String::from_utf8_lossy(head);
        let words: Vec<&str> = head.split(' ').collect();
        let [MAGIC, version, sum] = words[..] else {
            return Err(Unreadable::Foreign);
        };
        let version: u32 = version.parse().map_err(|_| Unreadable::Foreign)?;
        if version != VERSION {
            return Err(Unreadable::Version(version));
        }
        if u32::from_str_radix(sum, 16) != Ok(checksum(body)) {
            return Err(Unreadable::Damaged);
        }
        let document: Document =
            serde_json::from_slice(body).map_err(|e| Unreadable::Contents(e.to_string()))?;
        Ok(Kept {
            config: document.config,
            last: document.last.running().to_rules(),
            running: document.running.running(),
        })
    }
}

impl Written {
    fn of(running: &Running) -> Written {
        let services = running.services.iter().map(|(key, s)| WrittenService {
            key: *key,
            spec: s.spec.clone(),
            origin: s.origin,
            servers: s.servers.iter().map(WrittenServer::of).collect(),
        });
        Written {
            settings: running.settings,
            marks: WrittenMark::all(&running.marks),
            services: services.collect(),
        }
    }

    fn running(self) -> Running {
        let services = self.services.into_iter().map(|s| {
            let service = RunningService {
                spec: s.spec,
                origin: s.origin,
                servers: s.servers.into_iter().map(WrittenServer::running).collect(),
            };
            (s.key, service)
        });
        Running {
            settings: self.settings,
            marks: WrittenMark::running(self.marks),
            services: services.collect(),
        }
    }
}

impl WrittenMark {
    pub(super) fn all(marks: &BTreeMap<MarkMatch, RunningMark>) -> Vec<WrittenMark> {
        let written = |(rule, m): (&MarkMatch, &RunningMark)| WrittenMark {
            rule: rule.clone(),
            mark: m.mark,
            origin: m.origin,
        };
        marks.iter().map(written).collect()
    }

    pub(super) fn running(written: Vec<WrittenMark>) -> BTreeMap<MarkMatch, RunningMark> {
        let running = |m: WrittenMark| {
            let (mark, origin) = (m.mark, m.origin);
            (m.rule, RunningMark { mark, origin })
        };
        written.into_iter().map(running).collect()
    }
}

impl WrittenServer {
    pub(super) fn of(server: &RunningServer) -> WrittenServer {
        WrittenServer {
            key: server.key,
            spec: server.spec.clone(),
            drain: server.state == OperatorState::Drain,
            origin: server.origin,
        }
    }

    pub(super) fn running(self) -> RunningServer {
        RunningServer {
            key: self.key,
            spec: self.spec,
            state: match self.drain {
                true => OperatorState::Drain,
                false => OperatorState::Up,
            },
            origin: self.origin,
        }
    }
}

/// Real servers that take nothing new because of what the operator did since the file was loaded.
pub fn drained(running: &Running) -> Vec<Subject> {
    let services = running.services.iter();
    let drained = services.flat_map(|(key, service)| {
        let servers = service.servers.iter().filter(|s| {
            let is_drained = s.state == OperatorState::Drain || s.spec.weight == 0;
            is_drained && s.origin != Origin::File
        });
        servers.map(|s| (*key, s.key))
    });
    drained.collect()
}

/// What gives each object its origin again, after all were added as the file's.
pub fn origins(running: &Running) -> Vec<Action> {
    let marks = running.marks.iter().map(|(rule, m)| Action::SetMarkOrigin {
        rule: rule.clone(),
        origin: m.origin,
    });
    let services = running.services.iter().flat_map(|(&service, s)| {
        let servers = s.servers.iter().map(|s| (Some(s.key), s.origin));
        let all = std::iter::once((None, s.origin)).chain(servers);
        all.map(move |(server, origin)| Action::SetOrigin {
            service,
            server,
            origin,
        })
    });
    marks.chain(services).collect()
}

/// How many objects are not as the file has them, deleted ones included.
pub fn live_changes(running: &Running, file: &Rules) -> usize {
    let is_live = |origin: &Origin| *origin != Origin::File;
    let services = running.services.values();
    let origins = services.flat_map(|s| s.servers.iter().map(|s| s.origin).chain([s.origin]));
    let marks = running.marks.values().map(|m| m.origin);
    let changed = origins.chain(marks).filter(is_live).count();
    let deleted = file
        .services
        .iter()
        .map(|(key, s)| match running.services.get(key) {
            None => 1,
            Some(now) => {
                let is_gone = |key| now.servers.iter().all(|s| s.key != key);
                s.servers.iter().filter(|s| is_gone(s.key)).count()
            }
        });
    let settings = SETTINGS
        .iter()
        .filter(|s| (s.get)(&running.settings) != (s.get)(&file.settings));
    let marks = file.marks.keys();
    let deleted_marks = marks.filter(|rule| !running.marks.contains_key(*rule));
    changed + deleted.sum::<usize>() + settings.count() + deleted_marks.count()
}
