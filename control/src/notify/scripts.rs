//! Scripts: those of one subject run strictly one after the other, in the order of its events.
//! Subjects do not wait for each other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Sender;
use mio::Waker;

use super::Order;
use super::event::{Event, RouterState, Subject};
use crate::config::notify::{Notify, RouterScripts};
use crate::script::{Command, Report, Scripts};

/// Scripts of one subject that wait; of more the oldest are left out.
const MOST: usize = 256;

#[derive(Default)]
struct Lane {
    /// With the time that each has.
    waiting: VecDeque<(Command, Duration)>,
    running: Option<Command>,
}

/// See the module.
pub struct Lanes {
    scripts: Scripts,
    orders: Sender<Order>,
    waker: Arc<Waker>,
    lanes: BTreeMap<Subject, Lane>,
}

impl Lanes {
    /// Nothing runs yet. Ends of scripts come back as orders.
    pub fn new(scripts: Scripts, orders: Sender<Order>, waker: Arc<Waker>) -> Lanes {
        Lanes {
            scripts,
            orders,
            waker,
            lanes: BTreeMap::new(),
        }
    }

    /// Runs these when those before them have ended.
    pub fn add(&mut self, subject: &Subject, commands: Vec<Command>, timeout: Duration) {
        if commands.is_empty() {
            return;
        }
        let lane = self.lanes.entry(subject.clone()).or_default();
        lane.waiting
            .extend(commands.into_iter().map(|c| (c, timeout)));
        let excess = lane.waiting.len().saturating_sub(MOST);
        for (command, _) in lane.waiting.drain(..excess) {
            tracing::warn!("script {command} is left out: {MOST} of its kind wait");
        }
        self.next(subject);
    }

    /// One has ended.
    pub fn ended(&mut self, subject: &Subject, report: &Report) {
        if let Some(lane) = self.lanes.get_mut(subject)
            && let Some(command) = lane.running.take()
            && !report.is_success()
        {
            tracing::warn!(reason = report.line(), "script {command} failed");
        }
        self.next(subject);
    }

    /// Whether nothing runs or waits.
    pub fn is_idle(&self) -> bool {
        self.lanes.is_empty()
    }

    fn next(&mut self, subject: &Subject) {
        let Some(lane) = self.lanes.get_mut(subject) else {
            return;
        };
        if lane.running.is_some() {
            return;
        }
        let Some((command, timeout)) = lane.waiting.pop_front() else {
            self.lanes.remove(subject);
            return;
        };
        lane.running = Some(command.clone());
        let of = subject.clone();
        let ended = move |report| Order::Ended(of, report);
        self.scripts
            .run_to(command, timeout, &self.orders, &self.waker, ended);
    }
}

/// The scripts that an event calls for, in their order.
pub fn commands(event: &Event, notify: &Notify) -> Vec<Command> {
    match event {
        Event::Instance {
            name,
            state,
            priority,
        } => {
            let scripts = notify.instances.get(name);
            scripts.map_or_else(Vec::new, |s| {
                of_router(s, "INSTANCE", name, *state, *priority)
            })
        }
        Event::Group { name, state } => {
            let scripts = notify.groups.get(name);
            scripts.map_or_else(Vec::new, |s| of_router(s, "GROUP", name, *state, 0))
        }
        Event::Server {
            service,
            server,
            up,
            ..
        } => {
            let scripts = notify.servers.get(&(*service, *server));
            let command = scripts.and_then(|s| if *up { s.up.clone() } else { s.down.clone() });
            command.into_iter().collect()
        }
        Event::Quorum { service, up, .. } => {
            let scripts = notify.services.get(service);
            let command = scripts.and_then(|s| if *up { s.up.clone() } else { s.down.clone() });
            command.into_iter().collect()
        }
        Event::Sync { .. } => Vec::new(),
    }
}

fn of_router(
    scripts: &RouterScripts,
    kind: &str,
    name: &str,
    state: RouterState,
    priority: u8,
) -> Vec<Command> {
    // A router that is taken away is at fault for scripts that know nothing else.
    let state = match state {
        RouterState::Deleted if scripts.deleted.is_none() => RouterState::Fault,
        state => state,
    };
    let own = match state {
        RouterState::Master => &scripts.master,
        RouterState::Backup => &scripts.backup,
        RouterState::Fault => &scripts.fault,
        RouterState::Stop => &scripts.stop,
        RouterState::Deleted => &scripts.deleted,
        RouterState::MasterRxLowerPri => &scripts.lower,
        RouterState::MasterPriority | RouterState::BackupPriority => &None,
    };
    let any = scripts.any.clone().map(|mut command| {
        let words = [kind, name, state.name(), &priority.to_string()];
        command.argv.extend(words.map(str::to_owned));
        command
    });
    own.clone().into_iter().chain(any).collect()
}
