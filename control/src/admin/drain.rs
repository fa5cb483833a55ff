//! Requests about drained servers.

use std::time::Duration;

use dataplane::time::Instant;

use super::{Begun, Refusal, commit, error, log_change};
use crate::api::{DrainView, Drainees, ErrorKind, Response, ServerKey, ServiceKey};
use crate::config::{OperatorState, describe_service};
use crate::model::{Author, Change, Model, Pooled};
use crate::state::State;

fn found(model: &Model, servers: Drainees) -> Vec<(ServiceKey, Pooled)> {
    let all = model.servers(servers.service);
    all.filter(|(service, s)| servers.has(*service, s.key))
        .collect()
}

fn none(servers: Drainees) -> Begun {
    let message = match servers.service {
        Some(service) => format!(
            "{} has no server {servers}; see `rvsadm -Ln`",
            describe_service(&service)
        ),
        None => format!("no service has a server {servers}; see `rvsadm -Ln`"),
    };
    Begun::Answer(error(Refusal::new(ErrorKind::NoServer, message)))
}

fn set(
    now: Instant,
    state: &mut State,
    (service, server): (ServiceKey, ServerKey),
    wanted: OperatorState,
) -> Result<(), Refusal> {
    let change = Change::SetState(service, server, wanted);
    let counters = state.workers.counters();
    state
        .model
        .apply(now, Author::Operator, &change, counters)?;
    log_change(&change);
    Ok(())
}

/// Drains servers; `deadline` in seconds.
pub(super) fn start(
    now: Instant,
    state: &mut State,
    servers: Drainees,
    deadline: Option<u32>,
) -> Begun {
    let subjects = found(&state.model, servers);
    if subjects.is_empty() {
        return none(servers);
    }
    let deadline = deadline.map(|secs| now + Duration::from_secs(secs.into()));
    let mut warnings = Vec::new();
    for (service, server) in subjects {
        let subject = (service, server.key);
        if let Err(refusal) = set(now, state, subject, OperatorState::Drain) {
            return Begun::Answer(error(refusal));
        }
        state.drains.start(now, subject, deadline);
        let timeout = state.model.persistence_of(service);
        if let Some(timeout) = timeout.filter(|_| deadline.is_none()) {
            warnings.push(format!(
                "{} is persistent: clients that know the server come back to it until {timeout} s \
                 after their last new connection; give --deadline to end that",
                describe_service(&service)
            ));
        }
    }
    // One whose deadline is now does not wait for the next second.
    state.follow_drains(now);
    commit(now, state, warnings)
}

/// Ends drains.
pub(super) fn stop(now: Instant, state: &mut State, servers: Drainees) -> Begun {
    let subjects = found(&state.model, servers);
    if subjects.is_empty() {
        return none(servers);
    }
    let mut warnings = Vec::new();
    for (service, server) in subjects {
        if let Err(refusal) = set(now, state, (service, server.key), OperatorState::Up) {
            return Begun::Answer(error(refusal));
        }
        if server.weights.configured == 0 {
            warnings.push(format!(
                "its weight in {} is 0: it takes nothing new until -e gives it another",
                describe_service(&service)
            ));
        }
    }
    state.follow_drains(now);
    commit(now, state, warnings)
}

/// How far drained servers are.
pub(super) fn list(now: Instant, state: &State, servers: Option<Drainees>) -> Begun {
    let only = servers.and_then(|s| s.service);
    let is_meant = |service, key| servers.is_none_or(|s| s.has(service, key));
    let all = state.model.servers(only);
    let drained = all.filter(|(service, s)| s.weights.is_drained() && is_meant(*service, s.key));
    let counters = state.workers.counters();
    let row = |(service, server): (ServiceKey, Pooled)| {
        let drain = state.drains.get(&(service, server.key));
        let load = state.model.load_of(service, server.key, counters);
        let (active, total, templates) = load.unwrap_or_default();
        DrainView {
            service,
            server: server.key,
            active,
            inactive: total.saturating_sub(active),
            templates,
            since: drain.map(|d| now.since(d.since).as_secs()),
            left: drain.and_then(|d| Some(d.deadline?.since(now).as_secs())),
        }
    };
    let rows: Vec<DrainView> = drained.map(row).collect();
    if let Some(servers) = servers.filter(|_| rows.is_empty()) {
        return Begun::Answer(error(Refusal::new(
            ErrorKind::NoServer,
            format!("no drained server is {servers}; `rvsadm drain` lists them"),
        )));
    }
    Begun::Answer(Response::Drains { rows })
}
