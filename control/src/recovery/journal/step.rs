//! What a record says: steps from what ran to what runs.

use dataplane::settings::Settings;
use serde::{Deserialize, Serialize};

use super::super::rules::{self, WrittenMark, WrittenServer};
use crate::api::{Drainees, Origin, Request, ServerKey, ServiceKey, ServiceSpec};
use crate::config::{Running, RunningService};
use crate::model::Model;

/// Something whose state is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// A service, without its servers.
    Service(ServiceKey),
    /// A service that goes.
    NoService(ServiceKey),
    /// A server.
    Server(ServiceKey, ServerKey),
    /// A server that goes.
    NoServer(ServiceKey, ServerKey),
    /// The rules that mark packets.
    Marks,
    /// Timeouts and sysctls.
    Settings,
}

impl Touch {
    /// What a request touches if it is carried out; `None`: more than is worth a journal.
    pub fn by(request: &Request) -> Option<Vec<Touch>> {
        let touch = match request {
            Request::AddService { service, .. } | Request::EditService { service, .. } => {
                Touch::Service(*service)
            }
            Request::DeleteService { service } => Touch::NoService(*service),
            Request::AddServer {
                service, server, ..
            }
            | Request::EditServer {
                service, server, ..
            } => Touch::Server(*service, *server),
            Request::DeleteServer { service, server } => Touch::NoServer(*service, *server),
            Request::Drain { servers, .. } | Request::Undrain { servers } => only(servers)?,
            Request::AddMark { .. } | Request::DeleteMark { .. } => Touch::Marks,
            Request::SetTimeouts { .. } | Request::Sysctl { .. } => Touch::Settings,
            _ => return None,
        };
        Some(vec![touch])
    }
}

/// The one server that is drained.
fn only(servers: &Drainees) -> Option<Touch> {
    let (addr, port) = (servers.addr, servers.port?);
    Some(Touch::Server(servers.service?, ServerKey { addr, port }))
}

/// One step from what ran to what runs.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(in super::super) enum Step {
    /// A service is like this; its servers stay as they are.
    Service {
        /// Identity.
        key: ServiceKey,
        /// Attributes.
        spec: Box<ServiceSpec>,
        /// Where it came from.
        origin: Origin,
    },
    /// A service is gone, with its servers.
    NoService {
        /// Identity.
        key: ServiceKey,
    },
    /// A server is like this; a new one comes last.
    Server {
        /// Its service.
        service: ServiceKey,
        /// All of it.
        server: Box<WrittenServer>,
    },
    /// A server is gone.
    NoServer {
        /// Its service.
        service: ServiceKey,
        /// Identity.
        key: ServerKey,
    },
    /// These are the rules that mark packets.
    Marks {
        /// All of them.
        marks: Vec<WrittenMark>,
    },
    /// These are the settings.
    Settings {
        /// All of them.
        #[serde(with = "rules::settings")]
        settings: Settings,
    },
}

/// The steps that take what ran before these touches to what `model` has now. What was touched and
/// is gone by now needs no step: its end is a later touch.
pub(in super::super) fn steps(touches: &[Touch], model: &Model) -> Vec<Step> {
    let step = |touch: &Touch| {
        Some(match *touch {
            Touch::Service(key) => {
                let (spec, origin) = model.running_service(key)?;
                let spec = Box::new(spec);
                Step::Service { key, spec, origin }
            }
            Touch::NoService(key) => Step::NoService { key },
            Touch::Server(service, key) => {
                let server = model.running_server(service, key)?;
                let server = Box::new(WrittenServer::of(&server));
                Step::Server { service, server }
            }
            Touch::NoServer(service, key) => Step::NoServer { service, key },
            Touch::Marks => Step::Marks {
                marks: WrittenMark::all(model.running_marks()),
            },
            Touch::Settings => Step::Settings {
                settings: *model.settings(),
            },
        })
    };
    touches.iter().filter_map(step).collect()
}

impl Step {
    /// Takes it.
    pub fn apply_to(self, running: &mut Running) {
        match self {
            Step::Service { key, spec, origin } => {
                let new = || RunningService {
                    spec: ServiceSpec::default(),
                    origin,
                    servers: Vec::new(),
                };
                let service = running.services.entry(key).or_insert_with(new);
                (service.spec, service.origin) = (*spec, origin);
            }
            Step::NoService { key } => {
                running.services.remove(&key);
            }
            Step::Server { service, server } => {
                if let Some(service) = running.services.get_mut(&service) {
                    let server = server.running();
                    match service.servers.iter_mut().find(|s| s.key == server.key) {
                        Some(old) => *old = server,
                        None => service.servers.push(server),
                    }
                }
            }
            Step::NoServer { service, key } => {
                if let Some(service) = running.services.get_mut(&service) {
                    service.servers.retain(|s| s.key != key);
                }
            }
            Step::Marks { marks } => running.marks = WrittenMark::running(marks),
            Step::Settings { settings } => running.settings = settings,
        }
    }
}
