//! Requests into answers: what each admin action does to the state, and what it waits for.
//!
//! A change is answered when every worker has taken it over. Listings are made as the client
//! takes them. File work and captures run on helper threads and answer later.

mod drain;
mod dump;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dataplane::command::ConnectionBatch;
use dataplane::time::Instant;

use self::dump::Dump;
pub use self::upgrade::Prepared;
use crate::api::{self, DaemonSpec, ErrorKind, Request, Response, ServiceFrames};
use crate::capture::{Captures, Notice, Wanted};
use crate::config::{
    self, Config, Mistake, OperatorState, Running, describe_server, describe_service,
    save::SaveError,
};
use crate::files::Files;
use crate::model::{self, Author, Change, Refusal};
use crate::recovery::journal::Touch;
use crate::server::{ClientId, Server};
use crate::state::{Commit, State};
use crate::status;
use crate::sync::Sync;
use crate::sysctl;
use crate::workers::{Progress, Ticket, WorkerRefusal};

/// How long workers may take for a change, or for a batch of a listing.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// Frames of a listing made for one client in one turn of the loop.
const FRAMES_PER_TURN: usize = 4;

/// What a client waits for.
enum Pending {
    /// Every worker to take a change over.
    Applied {
        commit: Commit,
        deadline: Instant,
        answer: Response,
        /// Version of the rules that must be on the disk, too; 0 for none.
        kept: u64,
    },
    /// Room for more frames of a listing of these services.
    Services(ServiceFrames, std::vec::IntoIter<api::ServiceKey>),
    /// Connections, batch by batch.
    Dump(Dump),
    /// Its turn on the file thread, or the result from there.
    Files,
    /// The next notice about a capture.
    Capture,
    /// A successor to be prepared, or to fail.
    Upgrade,
}

/// Who wants something done with the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client, who gets the answer.
    Client(ClientId),
    /// SIGHUP; the answer goes to the log.
    Signal,
}

/// Something to be done with the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Reload { discard_live: bool },
    Diff,
    Save,
}

/// What the file thread came back with.
pub enum FileResult {
    /// The file as it is now.
    Loaded {
        /// The file wins over live changes.
        discard_live: bool,
        /// What is in it.
        config: Result<Box<Config>, Vec<Mistake>>,
    },
    /// File against running, as text.
    Compared(Result<String, Vec<Mistake>>),
    /// The file as it was written.
    Saved(Result<Box<Config>, SaveError>),
}

/// How a reload asked for by a signal has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignalReload {
    /// Every worker runs with it; what changed.
    Done(String),
    /// It was loaded, but not every worker runs with it: what changed, and why not.
    NotEverywhere(String, String),
    /// Nothing changed, and why.
    Failed(String),
}

/// A reload by signal that workers take over.
struct SignalWait {
    commit: Commit,
    deadline: Instant,
    text: String,
}

/// Answers under way.
pub struct Admin {
    pending: BTreeMap<ClientId, Pending>,
    files: Files<FileResult>,
    captures: Captures,
    wishes: VecDeque<(Asker, Wish)>,
    /// Whose job is on the file thread.
    asker: Option<Asker>,
    signal_waits: Vec<SignalWait>,
    signalled: Vec<SignalReload>,
    /// Connections that wait for the disk once, after all of their changes.
    batches: BTreeSet<ClientId>,
    upgrade: Option<upgrade::Ordered>,
}

impl Admin {
    /// Nothing is under way.
    pub fn new(files: Files<FileResult>, captures: Captures) -> Admin {
        Admin {
            pending: BTreeMap::new(),
            files,
            captures,
            wishes: VecDeque::new(),
            asker: None,
            signal_waits: Vec::new(),
            signalled: Vec::new(),
            batches: BTreeSet::new(),
            upgrade: None,
        }
    }

    /// Begins with a request; its answer comes now or later.
    pub fn request(
        &mut self,
        now: Instant,
        state: &mut State,
        server: &mut Server,
        client: ClientId,
        request: Request,
    ) {
        let wish = match &request {
            Request::Reload { discard_live } => Some(Wish::Reload {
                discard_live: *discard_live,
            }),
            Request::Diff => Some(Wish::Diff),
            Request::Save => Some(Wish::Save),
            _ => None,
        };
        if let Some(wish) = wish {
            self.pending.insert(client, Pending::Files);
            self.wishes.push_back((Asker::Client(client), wish));
            self.start_file_job(state);
            return;
        }
        let begun = match request {
            Request::Capture { .. } | Request::StopCapture => {
                self.begin_capture(now, state, client, request)
            }
            Request::Upgrade {
                binary,
                deadline,
                hand_over,
            } => self.begin_upgrade(state, client, binary, deadline, hand_over),
            Request::Batch => {
                self.batches.insert(client);
                Begun::Answer(Response::Ok {
                    warnings: Vec::new(),
                })
            }
            Request::EndBatch => {
                self.batches.remove(&client);
                Begun::Wait(Pending::Applied {
                    commit: Commit::nothing(state.workers.applied()),
                    deadline: now + DEADLINE,
                    answer: Response::Ok {
                        warnings: Vec::new(),
                    },
                    kept: state.keeper.wanted(),
                })
            }
            other => {
                let touched = Touch::by(&other);
                let mut begun = begin(now, state, other);
                if let Begun::Wait(Pending::Applied { kept, .. }) = &mut begun {
                    let version = state.keeper.note_change(touched);
                    *kept = match self.batches.contains(&client) {
                        true => 0,
                        false => version,
                    };
                }
                begun
            }
        };
        match begun {
            Begun::Answer(response) => server.answer(now, client, &response),
            Begun::Wait(pending) => {
                self.pending.insert(client, pending);
            }
        }
    }

    /// Whether somebody waits for the rules to be on the disk.
    pub fn waits_for_disk(&self, state: &State) -> bool {
        let waits = |pending: &Pending| match pending {
            Pending::Applied { kept, .. } => !state.keeper.is_settled(*kept),
            _ => false,
        };
        self.pending.values().any(waits)
    }

    fn begin_capture(
        &mut self,
        now: Instant,
        state: &mut State,
        client: ClientId,
        request: Request,
    ) -> Begun {
        let begun = match request {
            Request::Capture {
                port,
                file,
                filter,
                packets,
                seconds,
            } => {
                let ports: Vec<String> = state.ports.iter().map(|p| p.name.clone()).collect();
                let wanted = Wanted {
                    port,
                    file,
                    filter,
                    packets,
                    seconds,
                };
                self.captures.start(client, &wanted, &ports)
            }
            _ => self.captures.stop(now, client, &mut state.workers),
        };
        match begun {
            Ok(()) => Begun::Wait(Pending::Capture),
            Err(refusal) => Begun::Answer(error(refusal)),
        }
    }

    /// Tells clients what became of the capture.
    fn advance_capture(&mut self, now: Instant, state: &mut State, server: &mut Server) {
        for (client, notice) in self.captures.advance(now, &mut state.workers) {
            let response = match notice {
                Notice::Started => Response::Started {
                    warnings: Vec::new(),
                },
                Notice::Failed(message) => Response::Error {
                    error: ErrorKind::Failed,
                    message,
                },
                Notice::Ended(text) => Response::Text { text },
            };
            if response.is_last() {
                self.pending.remove(&client);
            }
            server.answer(now, client, &response);
        }
    }

    /// A connection is gone.
    pub fn forget(&mut self, now: Instant, state: &mut State, client: ClientId) {
        self.captures.forget(now, client, &mut state.workers);
        self.pending.remove(&client);
        self.batches.remove(&client);
        self.forget_upgrade(client);
        self.wishes
            .retain(|(asker, _)| *asker != Asker::Client(client));
    }

    /// SIGHUP.
    pub fn reload_by_signal(&mut self, state: &State) {
        self.wishes.push_back((
            Asker::Signal,
            Wish::Reload {
                discard_live: false,
            },
        ));
        self.start_file_job(state);
    }

    /// Reloads by signal that have ended.
    pub fn take_signalled(&mut self) -> Vec<SignalReload> {
        std::mem::take(&mut self.signalled)
    }

    fn start_file_job(&mut self, state: &State) {
        if self.files.is_busy() {
            return;
        }
        let Some((asker, wish)) = self.wishes.pop_front() else {
            return;
        };
        let (loaded, booted) = (Arc::clone(&state.config), Arc::clone(&state.booted));
        let job = file_job(wish, loaded, booted, state.model.running());
        // It is idle, as was checked.
        if self.files.run(job).is_ok() {
            self.asker = Some(asker);
        }
    }

    /// Takes what the file thread brought, and gives it the next job.
    pub fn collect_files(&mut self, now: Instant, state: &mut State, server: &mut Server) {
        while let Some(result) = self.files.take() {
            let asker = self.asker.take();
            let is_change = !matches!(result, FileResult::Compared(_));
            let outcome = finish_file_job(now, state, result);
            let kept = match is_change && outcome.is_ok() {
                true => state.keeper.note_change(None),
                false => 0,
            };
            match asker {
                None => {}
                Some(Asker::Signal) => match outcome {
                    Ok((text, commit)) => self.signal_waits.push(SignalWait {
                        commit,
                        deadline: now + DEADLINE,
                        text,
                    }),
                    Err(refusal) => self.signalled.push(SignalReload::Failed(refusal.message)),
                },
                Some(Asker::Client(client)) => match outcome {
                    Err(refusal) => {
                        tracing::warn!(event = "file", reason = refusal.message, "rvsadm");
                        self.pending.remove(&client);
                        server.answer(now, client, &error(refusal));
                    }
                    Ok((text, commit)) if self.pending.contains_key(&client) => {
                        let answer = Response::Text { text };
                        let deadline = now + DEADLINE;
                        self.pending.insert(
                            client,
                            Pending::Applied {
                                commit,
                                deadline,
                                answer,
                                kept,
                            },
                        );
                    }
                    Ok(_) => {}
                },
            }
            self.start_file_job(state);
        }
    }

    /// Passes on what the workers sent back.
    pub fn on_progress(
        &mut self,
        now: Instant,
        server: &mut Server,
        workers: usize,
        came: Progress,
    ) {
        for refusal in came.refusals {
            self.on_refusal(now, server, &refusal);
        }
        for (ticket, batch) in came.batches {
            self.on_batch(now, server, workers, ticket, batch);
        }
    }

    fn on_refusal(&mut self, now: Instant, server: &mut Server, refusal: &WorkerRefusal) {
        let message = format!(
            "worker {} refused the change: {}",
            refusal.worker, refusal.reason
        );
        // More than one waits for it when its update took the place of an unsent one.
        self.pending.retain(|client, pending| {
            let caused =
                matches!(pending, Pending::Applied { commit, .. } if commit.caused(refusal));
            if caused {
                let told = Refusal::new(ErrorKind::Failed, message.clone());
                server.answer(now, *client, &error(told));
            }
            !caused
        });
        let refused = |wait: &mut SignalWait| wait.commit.caused(refusal);
        for wait in self.signal_waits.extract_if(.., refused) {
            let ended = SignalReload::NotEverywhere(wait.text, message.clone());
            self.signalled.push(ended);
        }
    }

    /// Ends the wait for what every worker runs with by now, or ought to.
    fn advance_signal_waits(&mut self, now: Instant, state: &State) {
        let applied = state.workers.applied();
        let over =
            |wait: &mut SignalWait| wait.commit.generation <= applied || wait.deadline <= now;
        for wait in self.signal_waits.extract_if(.., over) {
            self.signalled.push(if wait.commit.generation <= applied {
                SignalReload::Done(wait.text)
            } else {
                SignalReload::NotEverywhere(wait.text, late(state))
            });
        }
    }

    fn on_batch(
        &mut self,
        now: Instant,
        server: &mut Server,
        workers: usize,
        ticket: Ticket,
        batch: Box<ConnectionBatch>,
    ) {
        let found = self
            .pending
            .iter_mut()
            .find_map(|(client, pending)| match pending {
                Pending::Dump(dump) => Some((*client, dump.lane_of(ticket)?, dump)),
                _ => None,
            });
        // Its client is gone.
        let Some((client, lane, dump)) = found else {
            return;
        };
        let rows = dump.take(lane, batch);
        let more = !dump.is_over(workers);
        if more && rows.is_empty() {
            return;
        }
        server.answer(now, client, &Response::Connections { rows, more });
        if !more {
            self.pending.remove(&client);
        }
    }

    /// Goes on with every answer that can; true if some can go on at once.
    pub fn advance(&mut self, now: Instant, state: &mut State, server: &mut Server) -> bool {
        self.advance_capture(now, state, server);
        self.advance_signal_waits(now, state);
        let applied = state.workers.applied();
        let mut more = false;
        self.pending.retain(|client, pending| match pending {
            Pending::Files | Pending::Capture | Pending::Upgrade => true,
            Pending::Applied {
                commit,
                answer,
                kept,
                deadline,
            } if applied >= commit.generation
                && (state.keeper.is_settled(*kept) || now >= *deadline) =>
            {
                warn_unkept(state, *kept, answer);
                server.answer(now, *client, answer);
                false
            }
            Pending::Applied { deadline, .. } if now >= *deadline => {
                let told = Refusal::new(ErrorKind::Busy, late(state));
                server.answer(now, *client, &error(told));
                false
            }
            Pending::Applied { .. } => true,
            Pending::Services(frames, keys) => {
                for _ in 0..FRAMES_PER_TURN {
                    if !server.has_room(*client) {
                        return true;
                    }
                    // One that was deleted meanwhile is left out.
                    let counters = state.workers.counters();
                    let view = || keys.find_map(|key| state.model.view(key, counters));
                    let Some(frame) = frames.next(view) else {
                        return false;
                    };
                    let is_last = frames.is_done();
                    server.push(now, *client, &frame, is_last);
                    if is_last {
                        return false;
                    }
                }
                more = true;
                true
            }
            Pending::Dump(dump) => match dump.advance(now, state, server.has_room(*client)) {
                Ok(()) => true,
                Err(refusal) => {
                    server.answer(now, *client, &error(refusal));
                    false
                }
            },
        });
        more
    }
}

/// For who waited in vain for workers.
fn late(state: &State) -> String {
    format!(
        "worker {:?} did not take the change over within {} s; it is queued and takes effect when \
         the worker goes on",
        state.workers.laggards(),
        DEADLINE.as_secs()
    )
}

/// Tells the client if its change is in force but not on the disk.
fn warn_unkept(state: &State, kept: u64, answer: &mut Response) {
    let Response::Ok { warnings } = answer else {
        return;
    };
    if !state.keeper.is_settled(kept) {
        warnings.push(format!(
            "the change is in force, but not on the disk after {} s: a crash now would undo it",
            DEADLINE.as_secs()
        ));
    } else if let Some(why) = state.keeper.trouble().filter(|_| kept > 0) {
        warnings.push(why.to_owned());
    }
}

enum Begun {
    Answer(Response),
    Wait(Pending),
}

fn begin(now: Instant, state: &mut State, request: Request) -> Begun {
    let up = OperatorState::Up;
    let change = match request {
        Request::AddService { service, spec } => Change::AddService(service, spec),
        Request::EditService { service, spec } => Change::EditService(service, spec),
        Request::DeleteService { service } => Change::DeleteService(service),
        Request::Clear => Change::Clear,
        Request::AddServer {
            service,
            server,
            spec,
        } => Change::AddServer(service, server, spec, up),
        Request::EditServer {
            service,
            server,
            spec,
        } => Change::EditServer(service, server, spec, up),
        Request::DeleteServer { service, server } => Change::DeleteServer(service, server),
        Request::AddMark { matches, mark } => Change::PutMark(matches, mark),
        Request::DeleteMark { matches } => Change::DeleteMark(matches),
        Request::ListMarks => {
            let rules = state.model.marks();
            return Begun::Answer(Response::Marks { rules });
        }
        Request::Health => {
            let health = state.health.as_ref();
            let servers = health.iter().flat_map(|h| h.states());
            let servers = servers.map(|report| report.view()).collect();
            let pools = health.iter().flat_map(|h| h.pools()).collect();
            return Begun::Answer(Response::Health { servers, pools });
        }
        Request::Vrrp => {
            let view = Box::new(state.routers.as_ref().map(|r| r.view()).unwrap_or_default());
            return Begun::Answer(Response::Vrrp { view });
        }
        Request::Drain { servers, deadline } => {
            return drain::start(now, state, servers, deadline);
        }
        Request::Undrain { servers } => return drain::stop(now, state, servers),
        Request::Drains { servers } => return drain::list(now, state, servers),
        Request::StartDaemon { daemon } => return start_daemon(now, state, &daemon),
        Request::StopDaemon { role } => {
            let Some(sync) = &mut state.sync else {
                return Begun::Answer(error(no_sync()));
            };
            return match sync.stop(role, &mut state.workers) {
                Ok(()) => settled(now, state, Vec::new()),
                Err(refusal) => Begun::Answer(error(refusal)),
            };
        }
        Request::ListDaemons => {
            let daemons = state.sync.as_ref().map(Sync::views);
            return Begun::Answer(Response::Daemons {
                daemons: daemons.unwrap_or_default(),
            });
        }
        Request::ListServices { service } => return list(state, service),
        Request::ListConnections => return dump(state),
        Request::GetTimeouts => {
            let t = state.model.settings().timeouts;
            return Begun::Answer(Response::Timeouts {
                tcp: t.tcp,
                tcp_fin: t.tcp_fin,
                udp: t.udp,
            });
        }
        Request::SetTimeouts { tcp, tcp_fin, udp } => {
            return match state.model.set_timeouts(tcp, tcp_fin, udp) {
                Ok(()) => commit(now, state, Vec::new()),
                Err(refusal) => Begun::Answer(error(refusal)),
            };
        }
        Request::Zero { service } => {
            return Begun::Answer(match state.model.zero(service) {
                Ok(()) => Response::Ok {
                    warnings: Vec::new(),
                },
                Err(refusal) => error(refusal),
            });
        }
        Request::Sysctl { set, names } => return sysctl(now, state, &set, names),
        Request::Stats => return Begun::Answer(state.model.stats(state.workers.counters())),
        Request::Status => return Begun::Answer(Response::Status(Box::new(state.status(now)))),
        Request::Version => {
            let v = &state.version;
            return Begun::Answer(Response::Version {
                version: v.version.clone(),
                commit: v.commit.clone(),
                dpdk: v.dpdk.clone(),
            });
        }
        // Taken out before, because they need a helper thread.
        Request::Reload { .. }
        | Request::Diff
        | Request::Save
        | Request::Batch
        | Request::EndBatch
        | Request::Upgrade { .. }
        | Request::Capture { .. }
        | Request::StopCapture => {
            let message = "this is not answered here".to_owned();
            return Begun::Answer(Response::Error {
                error: ErrorKind::Failed,
                message,
            });
        }
    };
    let counters = state.workers.counters();
    if let Err(refusal) = state.model.apply(now, Author::Operator, &change, counters) {
        return Begun::Answer(error(refusal));
    }
    let warnings = match &change {
        Change::AddService(key, _) if !state.model.is_live(*key) => {
            vec![model::dead_service(*key)]
        }
        _ => Vec::new(),
    };
    log_change(&change);
    commit(now, state, warnings)
}

/// One line for a change by an operator.
fn log_change(change: &Change) {
    let service_event = match change {
        Change::AddService(key, _) => Some(("add-service", key)),
        Change::EditService(key, _) => Some(("edit-service", key)),
        Change::DeleteService(key) => Some(("delete-service", key)),
        _ => None,
    };
    let server_event = match change {
        Change::AddServer(service, key, spec, _) => Some(("add-server", service, key, Some(spec))),
        Change::EditServer(service, key, spec, _) => {
            Some(("edit-server", service, key, Some(spec)))
        }
        Change::DeleteServer(service, key) => Some(("delete-server", service, key, None)),
        _ => None,
    };
    if let Some((event, key)) = service_event {
        tracing::info!(event, service = describe_service(key), "rvsadm");
    } else if let Some((event, service, key, spec)) = server_event {
        tracing::info!(
            event,
            service = describe_service(service),
            dest = describe_server(key),
            weight = spec.map(|s| s.weight),
            "rvsadm"
        );
    } else if let Change::SetState(service, key, state) = change {
        tracing::info!(
            event = state.name(),
            service = describe_service(service),
            dest = describe_server(key),
            "rvsadm"
        );
    } else if let Change::PutMark(rule, mark) = change {
        tracing::info!(event = "add-mark", mark, rule = %rule, "rvsadm");
    } else if let Change::DeleteMark(rule) = change {
        tracing::info!(event = "delete-mark", rule = %rule, "rvsadm");
    } else {
        tracing::info!(event = "clear", "rvsadm");
    }
}

fn commit(now: Instant, state: &mut State, warnings: Vec<String>) -> Begun {
    let commit = state.commit(now);
    let answer = Response::Ok { warnings };
    Begun::Wait(Pending::Applied {
        commit,
        deadline: now + DEADLINE,
        answer,
        kept: 0,
    })
}

/// Waits for what was sent to the workers.
fn settled(now: Instant, state: &State, warnings: Vec<String>) -> Begun {
    Begun::Wait(Pending::Applied {
        commit: Commit::nothing(state.workers.generation()),
        deadline: now + DEADLINE,
        answer: Response::Ok { warnings },
        kept: 0,
    })
}

fn no_sync() -> Refusal {
    Refusal::new(ErrorKind::Failed, "the daemon is still starting".to_owned())
}

fn start_daemon(now: Instant, state: &mut State, daemon: &DaemonSpec) -> Begun {
    // The protocol has no words for a server of the other family (`ip_vs_genl_new_daemon`).
    if let Some((service, server)) = state.model.mixed_server() {
        let told = format!(
            "service {} has the server {} of the other address family, which the protocol cannot \
             tell of; delete it first",
            describe_service(&service),
            describe_server(&server)
        );
        return Begun::Answer(error(Refusal::new(ErrorKind::Invalid, told)));
    }
    let Some(sync) = &mut state.sync else {
        return Begun::Answer(error(no_sync()));
    };
    match sync.start(daemon, state.model.settings(), &mut state.workers) {
        Ok(warnings) => settled(now, state, warnings),
        Err(refusal) => Begun::Answer(error(refusal)),
    }
}

/// Changes settings by their sysctls' names, and answers with them as they then are.
fn sysctl(now: Instant, state: &mut State, set: &[(String, String)], names: Vec<String>) -> Begun {
    let mut settings = *state.model.settings();
    let short = status::is_short_of_entries(state.workers.counters());
    let answer = match sysctl::set_and_list(&mut settings, short, set, names) {
        Ok(rows) => Response::Sysctls { rows },
        Err(message) => {
            return Begun::Answer(error(Refusal::new(ErrorKind::Invalid, message)));
        }
    };
    if set.is_empty() {
        return Begun::Answer(answer);
    }
    for (name, value) in set {
        tracing::info!(event = "sysctl", name, value, "rvsadm");
    }
    state.model.set_settings(settings);
    if let Some(sync) = &state.sync {
        sync.note_settings(&settings);
    }
    let (commit, deadline) = (state.commit(now), now + DEADLINE);
    Begun::Wait(Pending::Applied {
        commit,
        deadline,
        answer,
        kept: 0,
    })
}

fn list(state: &State, service: Option<api::ServiceKey>) -> Begun {
    match state.model.list(service) {
        Ok(services) => {
            let frames = ServiceFrames::new(state.table_size);
            Begun::Wait(Pending::Services(frames, services.into_iter()))
        }
        Err(refusal) => Begun::Answer(error(refusal)),
    }
}

fn dump(state: &State) -> Begun {
    if state.workers.is_empty() {
        return Begun::Answer(Response::Connections {
            rows: Vec::new(),
            more: false,
        });
    }
    Begun::Wait(Pending::Dump(Dump::new()))
}

fn file_job(
    wish: Wish,
    loaded: Arc<Config>,
    booted: Arc<Config>,
    running: Running,
) -> Box<dyn FnOnce() -> FileResult + Send> {
    Box::new(move || match wish {
        Wish::Reload { discard_live } => {
            let config = config::load(&loaded.path).map(Box::new);
            FileResult::Loaded {
                discard_live,
                config,
            }
        }
        Wish::Diff => FileResult::Compared(
            config::load(&loaded.path).map(|file| compare(&file, &booted, &running)),
        ),
        Wish::Save => FileResult::Saved(config::save::save(&loaded, &running).map(Box::new)),
    })
}

/// The file against what runs, also where only a restart changes that.
fn compare(file: &Config, booted: &Config, running: &Running) -> String {
    let mut text = config::render_diff(&file.rules, running);
    for line in config::needs_restart(booted, file) {
        text += &format!("needs restart: {line}\n");
    }
    text
}

/// What to tell, and what to wait for.
fn finish_file_job(
    now: Instant,
    state: &mut State,
    result: FileResult,
) -> Result<(String, Commit), Refusal> {
    let unreadable = |mistakes: Vec<Mistake>| {
        let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
        Refusal::new(ErrorKind::Config, lines.join("\n"))
    };
    match result {
        FileResult::Loaded {
            discard_live,
            config,
        } => state.reload(now, *config.map_err(unreadable)?, discard_live),
        FileResult::Compared(text) => {
            let applied = Commit::nothing(state.workers.applied());
            Ok((text.map_err(unreadable)?, applied))
        }
        FileResult::Saved(saved) => {
            let saved = saved.map_err(|e| Refusal::new(ErrorKind::Config, e.to_string()))?;
            let text = format!("saved to {}", saved.path.display());
            state.model.adopt(&saved.rules);
            state.config = Arc::from(saved);
            Ok((text, Commit::nothing(state.workers.applied())))
        }
    }
}

fn error(refusal: Refusal) -> Response {
    Response::Error {
        error: refusal.kind,
        message: refusal.message,
    }
}
