//! How a server is checked, as validated. Compared at a reload: what did not change goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use healthcheck::check::Conversation;
use healthcheck::check::dns::{Dns, Query};
use healthcheck::check::http::{Expect, Http, Request, StatusRange, Url, Version};
use healthcheck::check::ping::Ping;
use healthcheck::check::smtp::Smtp;
use healthcheck::check::tcp::Tcp;
use healthcheck::check::udp::{Reply, Udp};
use healthcheck::monitor::Pace;

use super::tls::Tls;
use crate::api::{ServerKey, ServerSpec};
use crate::script::Command;

/// The checks of a service: those of the service hold for servers without checks of their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checks {
    /// `[[service.check]]`.
    pub common: Arc<[Spec]>,
    /// `[[service.server.check]]`.
    pub own: BTreeMap<ServerKey, Arc<[Spec]>>,
    /// What its servers are together.
    pub pool: Pool,
}

/// The servers of a service as a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Weight of living servers that is needed.
    pub quorum: u32,
    /// Distance of losing and gaining from `quorum`, below `quorum`.
    pub hysteresis: u32,
    /// Serves while there is no quorum.
    pub sorry: Option<Sorry>,
    /// A failed server stays with weight 0 instead of leaving.
    pub inhibit: bool,
    /// Servers for which it is the other way round.
    pub others: BTreeSet<ServerKey>,
    /// Clients leave a failed server, where they can.
    pub reschedule: bool,
    /// What ends is told to be down first.
    pub omega: bool,
    /// Nothing is checked while this host does not hold the address.
    pub ha_suspend: bool,
}

impl Default for Pool {
    fn default() -> Pool {
        Pool {
            quorum: 1,
            hysteresis: 0,
            sorry: None,
            inhibit: true,
            others: BTreeSet::new(),
            reschedule: true,
            omega: false,
            ha_suspend: false,
        }
    }
}

impl Pool {
    /// Whether this server stays with weight 0 when it failed.
    pub fn inhibits(&self, server: ServerKey) -> bool {
        self.inhibit != self.others.contains(&server)
    }
}

/// The server that is there for when no others are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sorry {
    /// Identity.
    pub server: ServerKey,
    /// How it is reached.
    pub spec: ServerSpec,
    /// While it is not needed it stays with weight 0 instead of leaving.
    pub inhibit: bool,
}

impl Sorry {
    /// Its weight while it serves.
    pub const WEIGHT: u32 = 1;
}

impl Checks {
    /// Whether no server is checked.
    pub fn is_empty(&self) -> bool {
        self.common.is_empty() && self.own.is_empty()
    }

    /// Whether the file says anything about the health of this service.
    pub fn are_default(&self) -> bool {
        self.is_empty() && self.pool == Pool::default()
    }

    /// Those of a server.
    pub fn of(&self, server: ServerKey) -> Arc<[Spec]> {
        Arc::clone(self.own.get(&server).unwrap_or(&self.common))
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// What is asked.
    pub kind: Kind,
    /// How often, and what decides.
    pub pace: Pace,
    /// Checked instead of the server's address.
    pub addr: Option<IpAddr>,
    /// Checked instead of the server's port.
    pub port: Port,
    /// By which way.
    pub via: Via,
    /// Address of our end.
    pub source: Option<IpAddr>,
    /// Interface of our end.
    pub interface: Option<String>,
    /// Mark of our packets (`SO_MARK`), 0 for none.
    pub fwmark: u32,
}

/// Port of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The server's.
    Server,
    /// This one.
    Is(u16),
}

/// Which way a check takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// To the server's own address, through the kernel.
    #[default]
    Server,
    /// To the virtual address at this server, through a worker.
    Vip,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A connection.
    Tcp,
    /// Pages.
    Http(Web),
    /// A session without a mail, introduced with this name.
    Smtp(String),
    /// A name, and a type by its name.
    Dns(Query),
    /// A datagram, and the reply that is wanted.
    Udp(Vec<u8>, Option<Reply>),
    /// An echo.
    Ping,
    /// The exit status of a program.
    Script {
        /// The program.
        command: Command,
        /// Whether statuses from 2 on are success and set the weight.
        dynamic: bool,
    },
    /// The number in a file.
    File {
        /// The file.
        path: PathBuf,
        /// What the number is multiplied with; with 0 it only says up or down.
        weight: i64,
    },
}

/// Pages and what is to be in them.
#[derive(Clone, Debug, PartialEq)]
pub struct Web {
    /// Asked over TLS.
    pub tls: Option<Tls>,
    /// At least one.
    pub paths: Vec<String>,
    /// Value of the Host field; otherwise address and port.
    pub host: Option<String>,
    /// Form of the request.
    pub version: Version,
    /// Accepted statuses.
    pub statuses: Vec<StatusRange>,
    /// MD5 of the body.
    pub digest: Option<String>,
    /// Expression, known to compile.
    pub regex: Option<String>,
    /// It must not match.
    pub no_match: bool,
    /// First byte at which a match may begin.
    pub min_offset: usize,
    /// First byte at which no match may begin; 0 is none.
    pub max_offset: usize,
}

impl Kind {
    /// As in the file.
    pub const fn name(&self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Http(Web { tls: None, .. }) => "http",
            Kind::Http(_) => "https",
            Kind::Smtp(_) => "smtp",
            Kind::Dns(_) => "dns",
            Kind::Udp(..) => "udp",
            Kind::Ping => "ping",
            Kind::Script { .. } => "script",
            Kind::File { .. } => "file",
        }
    }

    /// Whether it asks a port at all.
    pub const fn has_port(&self) -> bool {
        !matches!(self, Kind::Ping | Kind::Script { .. } | Kind::File { .. })
    }

    /// One attempt against this address, if it is one over the network; `number` differs from
    /// attempt to attempt.
    pub fn converse(
        &self,
        addr: std::net::SocketAddr,
        number: u64,
    ) -> Option<Box<dyn Conversation>> {
        Some(match self {
            Kind::Tcp => Box::new(Tcp),
            Kind::Http(web) => Box::new(Http::new(web.urls(addr), web.tls.is_some())),
            Kind::Smtp(helo) => Box::new(Smtp::new(helo)),
            Kind::Dns(query) => Box::new(Dns::new(query.clone(), number as u16)),
            Kind::Udp(payload, reply) => Box::new(Udp::new(payload.clone(), reply.clone())),
            Kind::Ping => Box::new(Ping::new(addr.is_ipv6(), number as u16, number)),
            Kind::Script { .. } | Kind::File { .. } => return None,
        })
    }
}

impl Web {
    /// The requests to a server at this address, without the default port.
    pub fn urls(&self, addr: std::net::SocketAddr) -> Vec<Url> {
        let usual = if self.tls.is_some() { 443 } else { 80 };
        let own = || match addr.port() {
            port if port == usual && addr.is_ipv6() => format!("[{}]", addr.ip()),
            port if port == usual => addr.ip().to_string(),
            _ => addr.to_string(),
        };
        let host = self.host.clone().unwrap_or_else(own);
        let expect = Expect {
            statuses: self.statuses.clone(),
            digest: self.digest.clone(),
            regex: self.regex.as_deref().and_then(|r| Expect::regex(r).ok()),
            no_match: self.no_match,
            min_offset: self.min_offset,
            max_offset: self.max_offset,
        };
        let url = |path: &String| Url {
            request: Request::new(path, &host, self.version),
            expect: expect.clone(),
        };
        self.paths.iter().map(url).collect()
    }
}
