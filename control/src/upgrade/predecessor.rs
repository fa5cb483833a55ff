//! The side that runs: starts the new program and waits until it is prepared, on a thread of its
//! own.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::conn::image;
use mio::Waker;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::{Estate, Go, Hello, News, RESUME, TAKE_OVER, Wire, WireError, other_records};

/// What systemd names the process it watches by: the new one is another.
const WATCHED: &str = "WATCHDOG_PID";

/// How long a program may take from its last word to its end.
const END_PATIENCE: Duration = Duration::from_millis(500);

/// How this process was started, and what one beside it has to know.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program, as it was found at the start.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The cores it was started on.
    pub cores: Vec<usize>,
    /// Under what it keeps the runtime files of DPDK.
    pub prefix: String,
    /// Whether long frames take several of its packet buffers.
    pub scatter: bool,
    /// The file of its connection table, if it has one.
    pub table: Option<PathBuf>,
}

impl Launch {
    fn command(&self, program: &Path, how: &str) -> Command {
        let mut command = Command::new(program);
        let plain = |word: &&OsString| *word != TAKE_OVER && *word != RESUME;
        command
            .args(self.arguments.iter().filter(plain))
            .arg(how)
            .env_remove(WATCHED);
        command
    }

    /// Lets the calling thread, and what it starts, run where this process was started.
    fn spread(&self) {
        let mut set = CpuSet::new();
        for core in self.cores.iter().filter(|core| **core < CpuSet::MAX_CPU) {
            set.set(*core);
        }
        // Without it the new one has fewer cores, and says so if they are too few.
        let _ = sched_setaffinity(None, &set);
    }

    /// Executes this program anew in this process, to go on with `estate` and with the connections
    /// of `records` if its table does not outlive it. Returns only if that fails.
    pub fn resume(&self, estate: &Estate, records: &[u8]) -> io::Error {
        let kept = rustix::fs::memfd_create("rvs-estate", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(io::Error::from)
            .and_then(|memory| {
                let mut file = std::fs::File::from(memory);
                // JSON has no line end of its own.
                serde_json::to_writer(&mut file, estate)?;
                io::Write::write_all(&mut file, b"\n")?;
                io::Write::write_all(&mut file, records)?;
                io::Seek::rewind(&mut file)?;
                Ok(file)
            });
        match kept {
            Ok(file) => {
                self.spread();
                close_fds::set_fds_cloexec_threadsafe(3, &[]);
                // This very file, even if another one has its name now.
                self.command(Path::new("/proc/self/exe"), RESUME)
                    .arg0(&self.program)
                    .stdin(file)
                    .exec()
            }
            Err(why) => why,
        }
    }
}

/// A successor under way.
pub struct Attempt {
    news: Receiver<Result<Successor, String>>,
}

impl Attempt {
    /// Starts `binary`, or the program of this process, which is prepared within `deadline` or
    /// killed. `waker` is rung when there is a result.
    ///
    /// # Errors
    /// The system has no room for a thread.
    pub fn start(
        launch: Launch,
        binary: Option<PathBuf>,
        deadline: Duration,
        hello: Hello,
        waker: Arc<Waker>,
    ) -> io::Result<Attempt> {
        let (result, news) = sync_channel(1);
        thread::Builder::new()
            .name("rvs-upgrade".to_owned())
            .spawn(move || {
                let program = binary.unwrap_or_else(|| launch.program.clone());
                let brought = bring_up(&launch, &program, deadline, &hello);
                // Nobody waits: then it is killed.
                let _ = result.send(brought);
                let _ = waker.wake();
            })?;
        Ok(Attempt { news })
    }

    /// The successor that is prepared, or why there is none.
    pub fn take(&self) -> Option<Result<Successor, String>> {
        self.news.try_recv().ok()
    }
}

/// A program that is prepared to take over. Dropping it ends it.
#[derive(Debug)]
pub struct Successor {
    /// Its version.
    pub version: String,
    /// It needs each connection.
    pub wants_records: bool,
    program: PathBuf,
    child: Child,
    wire: Wire,
    is_free: bool,
}

impl Successor {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives it what it waits for; since when it serves, nanoseconds of `CLOCK_BOOTTIME`.
    ///
    /// # Errors
    /// Why it does not serve; it is dead then.
    pub fn go(
        &mut self,
        go: &Go,
        descriptors: &[std::os::fd::BorrowedFd<'_>],
        records: &[u8],
        within: Duration,
    ) -> Result<u64, String> {
        let sent = self.wire.send(go, descriptors);
        let answer = match sent.and_then(|()| self.wire.send_bytes(records)) {
            Ok(()) => self.wire.receive(Some(within)),
            Err(why) => Err(WireError::Io(why)),
        };
        match answer {
            Ok(News::Serving { since }) => {
                self.is_free = true;
                Ok(since)
            }
            other => Err(self.failed(other, within)),
        }
    }

    /// Ends it, and says why it is of no use.
    fn failed(&mut self, answer: Result<News, WireError>, within: Duration) -> String {
        let name = self.program.display();
        match answer {
            Ok(News::Refused { why }) => format!("{name} does not start: {why}"),
            Err(WireError::Late) => format!(
                "{name} was not ready within {} s and is killed; see the log for how far it came",
                within.as_secs()
            ),
            Err(WireError::Ended) => match ended(&mut self.child) {
                Some(status) => format!(
                    "{name} ended before it was ready ({status}); what it said is in the log"
                ),
                None => format!("{name} is no rvsd that can take over"),
            },
            Err(WireError::Unfit(why)) => format!("{name} cannot take over: {why}"),
            Err(why) => format!("{name} is no rvsd that can take over: {why}"),
            Ok(_) => format!("{name} is no rvsd that can take over: it says what makes no sense"),
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.is_free {
            // It has ended by itself otherwise.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How a program that has closed its end has ended.
fn ended(child: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + END_PATIENCE;
    while Instant::now() < until {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

fn bring_up(
    launch: &Launch,
    program: &Path,
    deadline: Duration,
    hello: &Hello,
) -> Result<Successor, String> {
    launch.spread();
    let (wire, theirs) = Wire::pair().map_err(|why| format!("no socket: {why}"))?;
    // Nobody executes anything with a descriptor of ours, and some libraries forget to say so.
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
    let mut command = launch.command(program, TAKE_OVER);
    let child = command.stdin(theirs).spawn().map_err(|why| {
        format!(
            "{} cannot be started: {why}; name a program that can with --binary",
            program.display()
        )
    })?;
    // Its end is open in this process as long as the command is.
    drop(command);
    let mut successor = Successor {
        version: String::new(),
        wants_records: false,
        program: program.to_owned(),
        child,
        wire,
        is_free: false,
    };
    let answer = match successor.wire.send(hello, &[]) {
        Ok(()) => successor.wire.receive(Some(deadline)),
        Err(why) => match why.kind() {
            io::ErrorKind::BrokenPipe => Err(WireError::Ended),
            _ => Err(WireError::Io(why)),
        },
    };
    match answer {
        Ok(News::Prepared {
            version,
            wants_records,
            records,
            ..
        }) => {
            if wants_records && records != image::VERSION {
                let why = WireError::Unfit(other_records(image::VERSION, records));
                return Err(successor.failed(Err(why), deadline));
            }
            (successor.version, successor.wants_records) = (version, wants_records);
            Ok(successor)
        }
        other => Err(successor.failed(other, deadline)),
    }
}
