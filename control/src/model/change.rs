//! Changes of the desired state, and refusals of them.

use crate::api::{ErrorKind, MarkMatch, Origin, ServerKey, ServerSpec, ServiceKey, ServiceSpec};
use crate::config::{OperatorState, describe_server, describe_service};

use super::Limits;

/// Who makes a change; decides the origin of what it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// The configuration file.
    File,
    /// `rvsadm`.
    Operator,
}

/// One change of the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a service.
    AddService(ServiceKey, ServiceSpec),
    /// Replaces a service's attributes.
    EditService(ServiceKey, ServiceSpec),
    /// Removes a service and its servers.
    DeleteService(ServiceKey),
    /// Removes all services.
    Clear,
    /// Adds a server at the head of its service's list.
    AddServer(ServiceKey, ServerKey, ServerSpec, OperatorState),
    /// Replaces a server's attributes; its place in the list stays.
    EditServer(ServiceKey, ServerKey, ServerSpec, OperatorState),
    /// Drains a server, or ends that; all else of it stays.
    SetState(ServiceKey, ServerKey, OperatorState),
    /// Removes a server.
    DeleteServer(ServiceKey, ServerKey),
    /// Adds a rule that marks packets, or gives it another mark.
    PutMark(MarkMatch, u32),
    /// Removes a rule that marks packets.
    DeleteMark(MarkMatch),
}

/// Why a change was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For the client to map to ipvsadm's message.
    pub kind: ErrorKind,
    /// One line that says what to do.
    pub message: String,
}

impl Refusal {
    /// Puts the two together.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Refusal {
        Refusal {
            kind,
            message: message.into(),
        }
    }
}

pub(super) fn origin_of_new(author: Author) -> Origin {
    match author {
        Author::File => Origin::File,
        Author::Operator => Origin::Live,
    }
}

pub(super) fn origin_of_edited(author: Author, before: Origin) -> Origin {
    match (author, before) {
        (Author::File, _) => Origin::File,
        (Author::Operator, Origin::Live) => Origin::Live,
        (Author::Operator, Origin::File | Origin::FileChanged) => Origin::FileChanged,
    }
}

pub(super) fn no_service(key: ServiceKey) -> Refusal {
    Refusal::new(
        ErrorKind::NoService,
        format!("there is no service {}", describe_service(&key)),
    )
}

pub(super) fn not_defined(key: ServiceKey) -> Refusal {
    Refusal::new(
        ErrorKind::ServiceNotDefined,
        format!(
            "there is no service {}; add it with -A",
            describe_service(&key)
        ),
    )
}

pub(super) fn no_server(service: ServiceKey, key: ServerKey) -> Refusal {
    Refusal::new(
        ErrorKind::NoServer,
        format!(
            "service {} has no server {}",
            describe_service(&service),
            describe_server(&key)
        ),
    )
}

pub(super) fn no_dest_left(limits: Limits) -> Refusal {
    Refusal::new(
        ErrorKind::Capacity,
        format!(
            "all {} real servers are in use (deleted ones count while they have connections); \
             raise max_servers and restart",
            limits.servers
        ),
    )
}
