//! Carrying a reload out: all of its plan, or nothing.

use dataplane::time::Instant;

use crate::config::{Action, Plan};
use crate::model::{Author, Change, Counters, Model, Refusal};

/// The model after the plan.
///
/// # Errors
/// The first action that the model refuses. `model` itself is never touched.
pub fn carry_out(
    model: &Model,
    plan: &Plan,
    now: Instant,
    counters: Counters<'_>,
) -> Result<Model, Refusal> {
    let mut next = model.clone();
    for action in &plan.actions {
        match action {
            Action::SetSettings(settings) => next.set_settings(*settings),
            Action::SetOrigin {
                service,
                server,
                origin,
            } => {
                next.set_origin(*service, *server, *origin);
            }
            Action::SetMarkOrigin { rule, origin } => next.set_mark_origin(rule, *origin),
            other => {
                if let Some(change) = change(other) {
                    next.apply(now, Author::File, &change, counters)?;
                }
            }
        }
    }
    Ok(next)
}

fn change(action: &Action) -> Option<Change> {
    Some(match action {
        Action::AddService { key, spec } => Change::AddService(*key, spec.clone()),
        Action::EditService { key, spec } => Change::EditService(*key, spec.clone()),
        Action::DeleteService { key } => Change::DeleteService(*key),
        Action::AddServer { service, server } => {
            Change::AddServer(*service, server.key, server.spec.clone(), server.state)
        }
        Action::EditServer { service, server } => {
            Change::EditServer(*service, server.key, server.spec.clone(), server.state)
        }
        Action::DeleteServer { service, key } => Change::DeleteServer(*service, *key),
        Action::PutMark { rule, mark } => Change::PutMark(rule.clone(), *mark),
        Action::DeleteMark { rule } => Change::DeleteMark(rule.clone()),
        Action::SetSettings(_) | Action::SetOrigin { .. } | Action::SetMarkOrigin { .. } => {
            return None;
        }
    })
}
