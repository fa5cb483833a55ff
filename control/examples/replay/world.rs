//! Control, its admin socket and one worker under a clock of their own.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use control::admin::Admin;
use control::capture::Captures;
use control::cli::{self, Environment, Streams, SystemNames};
use control::config::{self, Config};
use control::files::Files;
use control::recovery;
use control::server::{Limits as ServerLimits, Server};
use control::state::{Parts, State, Version};
use control::timers::{Timer, Timers};
use control::workers::Workers;
use dataplane::command::{Reply, WorkerEnd, channel};
use dataplane::conn::region;
use dataplane::conn::{HashKey, Layout};
use dataplane::packet::{DropReason, Packet, PortId, Verdict};
use dataplane::time::Instant;
use dataplane::wire::fragment::Fragments;
use dataplane::worker::{Limits, Worker};
use mio::{Events, Poll, Token, Waker};
use tempfile::TempDir;

use crate::network::FixedNetwork;
use crate::scenario::{Action, Answer, Scenario, Step};

/// Bytes before and behind a frame in its buffer, as in an mbuf.
const ROOM: usize = 128;
/// Longest stretch of time passed at once: connections end about when they should.
const STRIDE: Duration = Duration::from_millis(16);
/// Calls of `Worker::expire` that look at all shards once.
const ROUND: usize = 17;
/// What a piece that is kept is called.
const HOLD: &str = "hold";
/// When a scenario starts.
const START: Instant = Instant::from_secs(1000);

/// See the module.
pub struct World {
    dir: TempDir,
    poll: Poll,
    events: Events,
    server: Server,
    admin: Admin,
    state: State,
    timers: Timers,
    worker: Worker,
    end: WorkerEnd,
    ports: usize,
    now: Instant,
    /// Later pieces of packets whose first has not come, with their ports.
    held: Vec<(u16, Vec<u8>)>,
}

impl World {
    /// The balancer right after its start.
    pub fn new(scenario: &Scenario) -> Result<World> {
        let dir = tempfile::tempdir()?;
        let ports = scenario.network.ports.len();
        let config = load(&dir, &scenario.config, ports)?;
        let (control_end, end) = channel(config.workers.max_servers as usize);
        let worker = worker(&config, &end, ports)?;
        let layout = Layout::for_connections(config.workers.connections);
        let parts = Parts {
            surroundings: control::vrrp::Surroundings::default(),
            workers: Workers::new(vec![control_end]),
            cores: vec![0],
            ports: Vec::new(),
            pools: Vec::new(),
            host: Box::new(FixedNetwork::new(&scenario.network)?),
            version: Version::default(),
            table_size: u64::from(layout.connections),
            steering: String::new(),
            nodes: Vec::new(),
            log_dropped: Default::default(),
            probes: None,
            scripts: Default::default(),
            notifier: Default::default(),
        };
        let model = recovery::from_file(START, &config)?;
        let mut state = State::new(START, config, model, parts);
        let poll = Poll::new()?;
        let mut server = Server::bind(&dir.path().join("sock"), 0o600, None, server_limits())?;
        server.register(poll.registry(), Token(0), Token(16))?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(1))?);
        let captures = Captures::new(Arc::clone(&waker));
        let admin = Admin::new(Files::start(waker)?, captures);
        state.follow_host(START);
        state.commit(START);
        let mut world = World {
            dir,
            poll,
            events: Events::with_capacity(64),
            server,
            admin,
            state,
            timers: Timers::new(START),
            worker,
            end,
            ports,
            now: START,
            held: Vec::new(),
        };
        world.settle()?;
        Ok(world)
    }

    /// Carries one step out.
    pub fn carry_out(&mut self, step: &Step) -> Result<Answer> {
        let at = START + Duration::from_secs_f64(step.at.max(0.0));
        self.pass_time(at)?;
        match &step.action {
            Action::Rvsadm(words, input) => self.rvsadm(words, input),
            Action::Frame(port, frame) => self.frame(*port, frame),
            Action::Reload(text) => {
                let config = load(&self.dir, text, self.ports)?;
                let text = match self.state.reload(self.now, config, false) {
                    Ok((text, _)) => text,
                    Err(refusal) => refusal.message,
                };
                self.settle()?;
                Ok(Answer::Reload { text })
            }
            Action::Wait => Ok(Answer::Wait),
        }
    }

    fn pass_time(&mut self, until: Instant) -> Result<()> {
        loop {
            for _ in 0..ROUND {
                self.worker.expire(self.now, u32::MAX);
            }
            self.do_timers();
            self.settle()?;
            if self.now >= until {
                return Ok(());
            }
            self.now = until.min(self.now + STRIDE);
        }
    }

    fn do_timers(&mut self) {
        if self.timers.is_due(self.now, Timer::Estimate) {
            self.state.model.estimate();
            while self
                .state
                .model
                .estimate_some(self.state.workers.counters())
            {}
        }
        if self.timers.is_due(self.now, Timer::Trash) {
            self.state
                .model
                .scan_trash(self.now, self.state.workers.counters());
            self.state.commit(self.now);
        }
    }

    /// The worker takes over what control sent, and control what the worker answered.
    fn settle(&mut self) -> Result<()> {
        while self.state.workers.is_waiting() {
            while let Some(envelope) = self.end.commands.pop() {
                let outcome = self.worker.apply(self.now, envelope.command);
                self.end.counters.generation.set(envelope.generation);
                let reply = Reply {
                    generation: envelope.generation,
                    outcome,
                };
                if self.end.replies.push(reply).is_err() {
                    return Err(anyhow!("the ring of replies is full"));
                }
            }
            let progress = self.state.workers.poll();
            if let Some(refusal) = progress.refusals.first() {
                return Err(anyhow!("the worker refused: {}", refusal.reason));
            }
            self.admin
                .on_progress(self.now, &mut self.server, 1, progress);
        }
        Ok(())
    }

    /// Runs the program on a thread of its own and serves its socket meanwhile.
    fn rvsadm(&mut self, words: &str, input: &str) -> Result<Answer> {
        let words: Vec<String> = std::iter::once("ipvsadm")
            .chain(words.split_whitespace())
            .map(str::to_owned)
            .collect();
        let socket = self.dir.path().join("sock");
        let input = input.to_owned();
        let program = std::thread::spawn(move || run_program(&words, socket, &input));
        while !program.is_finished() {
            self.serve()?;
        }
        program.join().map_err(|_| anyhow!("rvsadm panicked"))
    }

    fn serve(&mut self) -> Result<()> {
        self.poll
            .poll(&mut self.events, Some(Duration::from_millis(1)))?;
        for event in &self.events {
            self.server.on_event(event);
        }
        let now = self.now;
        loop {
            let step = self.server.step(now, self.poll.registry());
            for client in step.gone {
                self.admin.forget(now, &mut self.state, client);
            }
            for (client, request) in step.requests {
                self.admin
                    .request(now, &mut self.state, &mut self.server, client, request);
            }
            self.settle()?;
            let more = self.admin.advance(now, &mut self.state, &mut self.server);
            if !(step.more || more || self.server.take_hurry()) {
                return Ok(());
            }
        }
    }

    /// As the poll loop does it: pieces of packets that overtook their first are kept, and follow
    /// it.
    fn frame(&mut self, port: u16, text: &str) -> Result<Answer> {
        let frame = from_hex(text).context("a frame in hexadecimal digits")?;
        let seen = self.worker.first_fragments();
        let (verdict, mut out) = self.process(port, &frame)?;
        if self.worker.first_fragments() != seen {
            for (port, frame) in std::mem::take(&mut self.held) {
                let (verdict, more) = self.process(port, &frame)?;
                if verdict == HOLD {
                    self.held.push((port, frame));
                }
                out.extend(more);
            }
        }
        if verdict == HOLD {
            self.held.push((port, frame));
        }
        Ok(Answer::Frame { verdict, out })
    }

    fn process(&mut self, port: u16, frame: &[u8]) -> Result<(&'static str, Vec<(u16, String)>)> {
        let mut room = vec![0xa5; ROOM + frame.len() + ROOM];
        room[ROOM..ROOM + frame.len()].copy_from_slice(frame);
        let mut packet = Packet::new(&mut room, ROOM as u16, frame.len() as u16, PortId(port));
        let mut verdict = [Verdict::Drop(DropReason::NotOurMac)];
        self.worker
            .process(self.now, std::slice::from_mut(&mut packet), &mut verdict);
        Ok(match verdict[0] {
            Verdict::Transmit(to) => ("transmit", vec![(to.0, to_hex(packet.frame()))]),
            Verdict::Fragment(to, mtu) => ("transmit", fragments(packet.frame(), to, mtu)?),
            Verdict::Kernel(_) => ("kernel", Vec::new()),
            Verdict::Wait => ("wait", Vec::new()),
            Verdict::HandOver { .. } => bail!("a packet for another worker, and there is one"),
            Verdict::Hold => (HOLD, Vec::new()),
            Verdict::Drop(reason) => (reason.name(), Vec::new()),
        })
    }
}

fn server_limits() -> ServerLimits {
    ServerLimits {
        idle: Duration::MAX / 4,
        ..ServerLimits::default()
    }
}

/// The configuration: the scenario's text and ports that nobody uses.
fn load(dir: &TempDir, text: &str, ports: usize) -> Result<Config> {
    let path = dir.path().join("rvs.toml");
    let ports: String = (0..ports)
        .map(|n| format!("[[port]]\nname = \"p{n}\"\nnull = {{}}\n"))
        .collect();
    std::fs::write(&path, format!("{text}\n{ports}"))?;
    config::load(&path).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(|m| m.text.clone()).collect();
        anyhow!("configuration: {}", lines.join("; "))
    })
}

fn worker(config: &Config, end: &WorkerEnd, ports: usize) -> Result<Worker> {
    let layout = Layout::for_connections(config.workers.connections);
    let bytes = vec![0u8; layout.bytes() + 64].leak();
    let skip = bytes.as_ptr().align_offset(64);
    let memory = &mut bytes[skip..skip + layout.bytes()];
    let key = HashKey([
        0x9e37_79b9_7f4a_7c15,
        0xd1b5_4a32_d192_ed03,
        0xaef1_7502_108e_f2d9,
        7919,
    ]);
    let shards = region::create(memory, layout, key, [7; 16], START.ticks())?;
    let limits = Limits {
        services: config.workers.max_services as usize,
        dests: config.workers.max_servers as usize,
        neighbours: config.workers.max_neighbours as usize,
        ports,
    };
    let counters = Arc::clone(&end.counters);
    Ok(Worker::new(
        shards,
        key,
        limits,
        counters,
        *config.settings(),
    ))
}

fn run_program(words: &[String], socket: PathBuf, input: &str) -> Answer {
    let environment = Environment {
        names: &SystemNames,
        socket,
        patience: Duration::from_secs(20),
        interrupt: &|| UnixStream::pair().map(|(reader, _)| reader),
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let streams = Streams {
        input: &mut io::Cursor::new(input),
        out: &mut out,
        err: &mut err,
    };
    let status = cli::run(words, &environment, streams);
    Answer::Rvsadm {
        status,
        out: String::from_utf8_lossy(&out).into_owned(),
        err: String::from_utf8_lossy(&err).into_owned(),
    }
}

/// What the poll loop would cut the packet to.
fn fragments(frame: &[u8], to: PortId, mtu: u16) -> Result<Vec<(u16, String)>> {
    let mut fragments = Fragments::new(frame, 14, mtu).context("a packet that can be cut")?;
    let mut out = Vec::new();
    while let Some(len) = fragments.next_len() {
        let mut buffer = vec![0; len];
        fragments.write(&mut buffer).context("a fragment")?;
        out.push((to.0, to_hex(&buffer)));
    }
    Ok(out)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok())
        .collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
