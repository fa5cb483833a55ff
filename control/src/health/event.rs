//! What is told to whoever wants to hear of servers that come and go.

use std::net::SocketAddr;

use crate::api::{ServerKey, ServiceKey};
use crate::config::{describe_server, describe_service};

/// Something became of a server or of a service. Events are made in the order in which things
/// happen; [`crate::state::State::tell`] gets each of them once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A real server is up or down by its checks.
    Server {
        /// Of which service.
        service: ServiceKey,
        /// Which server.
        server: ServerKey,
        /// Up or down.
        up: bool,
        /// Why its check failed, or that it left (`omega`).
        why: Option<String>,
    },
    /// Quorum of a service is gained or lost.
    Quorum {
        /// Which service.
        service: ServiceKey,
        /// Gained or lost.
        up: bool,
        /// Weight of its living servers.
        weight: u64,
        /// What is needed.
        quorum: u32,
        /// The sorry server that serves from now on.
        sorry: Option<ServerKey>,
    },
}

impl Event {
    /// One line of the log.
    pub fn log(&self) {
        match self {
            Event::Server {
                service,
                server,
                up,
                why,
            } => {
                let (service, dest) = (describe_service(service), describe_server(server));
                match up {
                    true => tracing::info!(service, dest, event = "server-up", "it is in service"),
                    false => tracing::warn!(
                        service,
                        dest,
                        event = "server-down",
                        reason = why.as_deref().unwrap_or("a check has not passed yet"),
                        "it is out of service"
                    ),
                }
            }
            Event::Quorum {
                service,
                up,
                weight,
                quorum,
                sorry,
            } => {
                let service = describe_service(service);
                let sorry = sorry.map(|s| SocketAddr::new(s.addr, s.port).to_string());
                match up {
                    true => tracing::info!(
                        service,
                        event = "quorum-up",
                        weight,
                        quorum,
                        "enough servers live"
                    ),
                    false => tracing::warn!(
                        service,
                        event = "quorum-down",
                        weight,
                        quorum,
                        dest = sorry,
                        "{}",
                        match sorry {
                            Some(_) => "too few servers live; the sorry server serves",
                            None => "too few servers live",
                        }
                    ),
                }
            }
        }
    }
}
