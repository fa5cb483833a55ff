//! `rvsadm`: ipvsadm's command line, and more, against the admin API of `rvsd`.
//!
//! The way of a line: [`options`] (what there is, as data), [`parse`] (words to an action; every
//! refusal that needs no daemon), [`client`] (ask), [`print`] (show). [`run`] ties them together
//! and takes everything it touches as arguments, so that tests run the whole program in process.

mod address;
mod capture;
mod client;
mod drain;
mod events;
mod failure;
mod help;
mod import;
mod names;
mod options;
mod parse;
mod print;

use std::io::{self, BufRead, BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use self::client::Client;
use self::failure::{Failure, refusal};
pub use self::names::{Names, SystemNames};
use self::parse::{Action, Line, Listing};
use self::print::endpoint::Endpoints;
use self::print::{
    commands, connections, daemons, health, json, services, sort, status, totals, vrrp,
};
use crate::api::{DEFAULT_SOCKET, ErrorKind, Request, Response, ServiceView};

/// From so many changes on, a restore waits for the disk once and not for each.
const BATCH_FROM: usize = 16;

/// How long `rvsd` may take for one step of an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same for requests that read or write files (reload, save, diff).
const FILE_PATIENCE: Duration = Duration::from_secs(60);

/// What a new program may take beyond its deadline, until it has the ports and forwards.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(60);
/// Its deadline if none is given; rvsd has the same.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(120);

/// How long an answer may take that is no listing.
fn patience_for(request: &Request) -> Duration {
    match request {
        Request::Upgrade { deadline, .. } => {
            let given = deadline.map(|secs| Duration::from_secs(u64::from(secs)));
            given.unwrap_or(UPGRADE_DEADLINE) + UPGRADE_PATIENCE
        }
        _ => FILE_PATIENCE,
    }
}

/// What the program finds around itself.
pub struct Environment<'a> {
    /// Names of hosts and services.
    pub names: &'a dyn Names,
    /// Admin socket unless the line names another.
    pub socket: PathBuf,
    /// How long `rvsd` may take for one step of an answer.
    pub patience: Duration,
    /// Makes a stream that becomes readable when the operator wants an end.
    pub interrupt: &'a dyn Fn() -> io::Result<UnixStream>,
}

/// What the program reads and writes.
pub struct Streams<'a> {
    /// Lines of `-R`.
    pub input: &'a mut dyn BufRead,
    /// Listings.
    pub out: &'a mut dyn Write,
    /// Everything else.
    pub err: &'a mut dyn Write,
}

/// The program: arguments and environment of this process.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let socket = std::env::var_os("RVS_SOCKET").filter(|s| !s.is_empty());
    let environment = Environment {
        names: &SystemNames,
        socket: socket.map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from),
        patience: PATIENCE,
        interrupt: &signals,
    };
    let mut out = BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let streams = Streams {
        input: &mut io::stdin().lock(),
        out: &mut out,
        err: &mut io::stderr().lock(),
    };
    ExitCode::from(run(&words, &environment, streams))
}

/// A stream that becomes readable on SIGINT or SIGTERM.
fn signals() -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGINT, writer.try_clone()?)?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, writer)?;
    Ok(reader)
}

/// Carries a command line out, the program's name first. Returns the exit status.
pub fn run<'a>(words: &'a [String], environment: &'a Environment<'a>, streams: Streams<'a>) -> u8 {
    let (program, words) = match words {
        [program, words @ ..] => (program.as_str(), words),
        [] => ("rvsadm", words),
    };
    let line = match parse::command_line(words, environment.names) {
        Ok(line) => line,
        Err(failure) => {
            report(&failure, program, streams.err);
            return failure.status();
        }
    };
    let socket = line
        .socket
        .as_ref()
        .map_or_else(|| environment.socket.clone(), PathBuf::from);
    let mut session = Session {
        program,
        environment,
        socket,
        streams,
        client: None,
        changes: 0,
    };
    match line.action {
        Action::Restore => session.restore(),
        _ => session.carry_out(line),
    }
}

fn report(failure: &Failure, program: &str, err: &mut dyn Write) {
    if let Some(message) = failure.message(program) {
        // Nobody is left to tell if stderr is gone too.
        let _ = writeln!(err, "{message}");
    }
}

/// A running program.
struct Session<'a> {
    program: &'a str,
    environment: &'a Environment<'a>,
    socket: PathBuf,
    streams: Streams<'a>,
    /// Opened by the first line that needs it, used by all.
    client: Option<Client>,
    /// Changes of a restore so far.
    changes: usize,
}

impl Session<'_> {
    /// Carries a line out, reports a failure, returns the exit status.
    fn carry_out(&mut self, line: Line) -> u8 {
        match self.try_line(line) {
            Ok(()) => 0,
            Err(failure) => self.fail(&failure),
        }
    }

    fn fail(&mut self, failure: &Failure) -> u8 {
        // What is there to see comes first.
        let _ = self.streams.out.flush();
        report(failure, self.program, self.streams.err);
        failure.status()
    }

    fn try_line(&mut self, line: Line) -> Result<(), Failure> {
        match line.action {
            Action::Help => write!(self.streams.out, "{}", help::text())?,
            Action::Version => writeln!(self.streams.out, "{}", help::version())?,
            Action::Change(request) => self.change(request)?,
            Action::Services(listing) => self.list_services(listing, line.json)?,
            Action::Connections { numeric, engine } => {
                self.list_connections(numeric, engine, line.json)?;
            }
            Action::Timeouts => self.list_timeouts(line.json)?,
            Action::Daemons => self.list_daemons(line.json)?,
            Action::Save { numeric } => self.save(numeric)?,
            Action::Restore => return Err(Failure::TryHelp),
            Action::Status => self.status(line.json)?,
            Action::Stats { workers } => self.stats(workers, line.json)?,
            Action::Sysctl(request) => self.sysctl(request, line.json)?,
            Action::Marks => self.list_marks(line.json)?,
            Action::Drain(order) => drain::run(self, order, line.json)?,
            Action::Health => self.list_health(line.json)?,
            Action::Vrrp => self.list_vrrp(line.json)?,
            Action::Events { follow } => events::run(self, follow, line.json)?,
            Action::Text(request) => {
                let patience = self.environment.patience.max(patience_for(&request));
                let client = self.client()?;
                client.set_patience(patience)?;
                let answer = client.ask(request)?;
                self.text(answer)?;
            }
            Action::Capture(request) => capture::run(self, request)?,
            Action::Import(import) => import::run(self, &import)?,
        }
        Ok(self.streams.out.flush()?)
    }

    fn connect(&self) -> Result<Client, Failure> {
        Client::connect(&self.socket, self.environment.patience)
    }

    /// The connection, for a new request.
    fn client(&mut self) -> Result<&mut Client, Failure> {
        self.client = self.client.take().filter(|client| !client.is_closed());
        if self.client.is_none() {
            self.client = Some(self.connect()?);
        }
        Ok(self.client.as_mut().expect("connected above"))
    }

    fn warn(&mut self, warnings: &[String]) {
        for warning in warnings {
            self.note(&format!("warning: {warning}"));
        }
    }

    fn note(&mut self, line: &str) {
        let _ = writeln!(self.streams.err, "{line}");
    }

    fn change(&mut self, request: Request) -> Result<(), Failure> {
        match self.client()?.ask(request)? {
            Response::Ok { warnings } => {
                self.warn(&warnings);
                Ok(())
            }
            other => Err(unexpected(other, false)),
        }
    }

    /// Prints the text a command of ours is answered with.
    fn text(&mut self, answer: Response) -> Result<(), Failure> {
        match answer {
            Response::Ok { warnings } => self.warn(&warnings),
            Response::Text { text } => {
                write!(self.streams.out, "{text}")?;
                if !text.is_empty() && !text.ends_with('\n') {
                    writeln!(self.streams.out)?;
                }
            }
            Response::Error { message, .. } => {
                return Err(Failure::Refused { message, status: 1 });
            }
            other => return Err(unexpected(other, false)),
        }
        Ok(self.streams.out.flush()?)
    }

    fn list_services(&mut self, listing: Listing, json: bool) -> Result<(), Failure> {
        let request = Request::ListServices {
            service: listing.service,
        };
        let (table_size, mut services) = self.fetch_services(request)?;
        if listing.sorted {
            sort::sort(&mut services);
        }
        if json {
            return Ok(json::services(self.streams.out, table_size, &services)?);
        }
        let endpoints = Endpoints::new(self.environment.names, listing.numeric);
        Ok(services::print(
            self.streams.out,
            listing,
            table_size,
            &services,
            &endpoints,
        )?)
    }

    fn save(&mut self, numeric: bool) -> Result<(), Failure> {
        let (_, mut services) = self.fetch_services(Request::ListServices { service: None })?;
        sort::sort(&mut services);
        let endpoints = Endpoints::new(self.environment.names, numeric);
        Ok(commands::print(self.streams.out, &services, &endpoints)?)
    }

    fn fetch_services(&mut self, request: Request) -> Result<(u64, Vec<ServiceView>), Failure> {
        let client = self.client()?;
        client.send(request)?;
        let mut all: Vec<ServiceView> = Vec::new();
        loop {
            let (table_size, part) = match client.receive()? {
                Response::ServicesPart { services } => (None, services),
                Response::Services {
                    table_size,
                    services,
                } => (Some(table_size), services),
                other => return Err(unexpected(other, true)),
            };
            for service in part {
                match all.last_mut() {
                    Some(last) if last.key == service.key => last.servers.extend(service.servers),
                    _ => all.push(service),
                }
            }
            if let Some(table_size) = table_size {
                return Ok((table_size, all));
            }
        }
    }

    /// Prints rows as they arrive: there may be millions.
    fn list_connections(&mut self, numeric: bool, engine: bool, json: bool) -> Result<(), Failure> {
        self.client()?.send(Request::ListConnections)?;
        // Back in its place only after the last frame: what follows half an answer is no answer.
        let mut client = self.client.take().expect("used for the request above");
        let out = &mut *self.streams.out;
        let endpoints = Endpoints::new(self.environment.names, numeric);
        let mut document = None;
        let mut first = true;
        loop {
            let (rows, more) = match client.receive()? {
                Response::Connections { rows, more } => (rows, more),
                other => return Err(unexpected(other, true)),
            };
            if first && json {
                document = Some(json::Connections::begin(out)?);
            } else if first {
                connections::title(out, engine)?;
            }
            first = false;
            for row in &rows {
                match &mut document {
                    Some(document) => document.row(out, row)?,
                    None => connections::row(out, row, engine, &endpoints)?,
                }
            }
            if !more {
                break;
            }
            out.flush()?;
        }
        self.client = Some(client);
        match document {
            Some(document) => Ok(document.end(out)?),
            None => Ok(()),
        }
    }

    fn list_daemons(&mut self, json: bool) -> Result<(), Failure> {
        let daemons = match self.client()?.ask(Request::ListDaemons)? {
            Response::Daemons { daemons } => daemons,
            other => return Err(unexpected(other, true)),
        };
        match json {
            true => json::daemons(self.streams.out, &daemons)?,
            false => daemons::print(self.streams.out, &daemons)?,
        }
        Ok(())
    }

    fn list_timeouts(&mut self, json: bool) -> Result<(), Failure> {
        match self.client()?.ask(Request::GetTimeouts)? {
            Response::Timeouts { tcp, tcp_fin, udp } if json => {
                json::timeouts(self.streams.out, tcp, tcp_fin, udp)?;
            }
            Response::Timeouts { tcp, tcp_fin, udp } => {
                writeln!(
                    self.streams.out,
                    "Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}"
                )?;
            }
            other => return Err(unexpected(other, true)),
        }
        Ok(())
    }

    fn status(&mut self, json: bool) -> Result<(), Failure> {
        match self.client()?.ask(Request::Status)? {
            Response::Status(view) if json => json::status(self.streams.out, &view)?,
            Response::Status(view) => status::print(self.streams.out, &view)?,
            Response::Error { message, .. } => {
                return Err(Failure::Refused { message, status: 1 });
            }
            other => return Err(unexpected(other, false)),
        }
        Ok(())
    }

    fn stats(&mut self, per_worker: bool, json: bool) -> Result<(), Failure> {
        match self.client()?.ask(Request::Stats)? {
            Response::Stats {
                total,
                rates,
                workers,
            } => {
                let out = &mut *self.streams.out;
                match (json, per_worker) {
                    (true, _) => json::totals(out, total, rates, &workers)?,
                    (false, true) => totals::print_workers(out, &total, &rates, &workers)?,
                    (false, false) => totals::print(out, &total, &rates)?,
                }
            }
            other => return Err(unexpected(other, false)),
        }
        Ok(())
    }

    fn sysctl(&mut self, request: Request, json: bool) -> Result<(), Failure> {
        match self.client()?.ask(request)? {
            Response::Sysctls { rows } if json => json::sysctls(self.streams.out, &rows)?,
            Response::Sysctls { rows } => {
                for (name, value) in rows {
                    writeln!(self.streams.out, "{name} = {value}")?;
                }
            }
            Response::Error { message, .. } => {
                return Err(Failure::Refused { message, status: 1 });
            }
            other => return Err(unexpected(other, false)),
        }
        Ok(())
    }

    fn list_health(&mut self, json: bool) -> Result<(), Failure> {
        match self.client()?.ask(Request::Health)? {
            Response::Health { servers, pools } if json => {
                json::health(self.streams.out, &servers, &pools)?;
            }
            Response::Health { servers, pools } => {
                health::print(self.streams.out, &servers, &pools)?;
            }
            other => return Err(unexpected(other, false)),
        }
        Ok(())
    }

    fn list_vrrp(&mut self, json: bool) -> Result<(), Failure> {
        match self.client()?.ask(Request::Vrrp)? {
            Response::Vrrp { view } if json => json::vrrp(self.streams.out, &view)?,
            Response::Vrrp { view } => vrrp::print(self.streams.out, &view)?,
            other => return Err(unexpected(other, false)),
        }
        Ok(())
    }

    fn list_marks(&mut self, json: bool) -> Result<(), Failure> {
        match self.client()?.ask(Request::ListMarks)? {
            Response::Marks { rules } if json => json::marks(self.streams.out, &rules)?,
            Response::Marks { rules } => {
                for rule in rules {
                    writeln!(self.streams.out, "{} {}", rule.mark, rule.matches)?;
                }
            }
            other => return Err(unexpected(other, false)),
        }
        Ok(())
    }

    /// Carries the lines of standard input out. The status is that of the last line, or of the
    /// line that ended it.
    fn restore(&mut self) -> u8 {
        let status = self.restore_lines();
        // One wait for the disk, for all of them.
        match self.changes >= BATCH_FROM && self.client.is_some() {
            true => match self.change(Request::EndBatch) {
                Ok(()) => status,
                Err(failure) => self.fail(&failure),
            },
            false => status,
        }
    }

    fn restore_lines(&mut self) -> u8 {
        let mut last = 0;
        let mut text = String::new();
        loop {
            text.clear();
            match self.streams.input.read_line(&mut text) {
                Ok(0) => return last,
                Ok(_) => {}
                Err(err) => {
                    let what = format!("cannot read standard input: {err}");
                    return self.fail(&Failure::Usage(what));
                }
            }
            let mut words: Vec<String> = text.split_whitespace().map(str::to_string).collect();
            if words
                .first()
                .is_some_and(|w| w == "ipvsadm" || w == "rvsadm")
            {
                words.remove(0);
            }
            // Comments, which ipvsadm leaves to its restore script, are none of our business.
            if words.first().is_none_or(|w| w.starts_with('#')) {
                continue;
            }
            let result = parse::restore_line(&words, self.environment.names).and_then(|line| {
                let ends = matches!(line.action, Action::Help | Action::Version);
                self.try_line(line).map(|()| ends)
            });
            let result = result.and_then(|ends| {
                self.changes += 1;
                match self.changes == BATCH_FROM {
                    true => self.change(Request::Batch).map(|()| ends),
                    false => Ok(ends),
                }
            });
            last = match result {
                Ok(true) => return 0,
                Ok(false) => 0,
                Err(failure) => {
                    let status = self.fail(&failure);
                    if !failure.lets_restore_go_on() {
                        return status;
                    }
                    status
                }
            };
        }
    }
}

/// A refusal, or an answer to another question.
fn unexpected(response: Response, listing: bool) -> Failure {
    match response {
        Response::Error {
            error: ErrorKind::Version,
            message,
        } => Failure::Unreachable(message),
        Response::Error { error, message } => refusal(error, message, listing),
        other => {
            let text = format!("{other:?}");
            let kind = text.split([' ', '(']).next().unwrap_or_default();
            Failure::Unreachable(format!(
                "rvsd gave an answer of the wrong kind ({kind}); are rvsadm and rvsd of the same version?"
            ))
        }
    }
}
