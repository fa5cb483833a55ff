//! Files and processes that priorities depend on: looked at by a thread of its own, because a file
//! system may be slow and timers may not.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use mio::Waker;
use vrrp::time::Instant;
use vrrp::track::Observation;

use crate::clock;
use crate::config::vrrp::{Matching, Process, Tracked, TrackedFile, Vrrp};

/// How often files are looked at.
const PERIOD: Duration = Duration::from_millis(100);
/// How many of these pass between two looks at the processes.
const PROCESS_TURNS: u32 = 5;
/// Most of a file that is read.
const FILE_MAX: u64 = 4096;

/// What is to be watched.
#[derive(Debug, Default)]
pub struct Watch {
    files: BTreeMap<String, TrackedFile>,
    processes: BTreeMap<String, Process>,
}

impl Watch {
    /// What of the configuration somebody depends on.
    pub fn of(config: &Vrrp, tracked: &[Tracked]) -> Watch {
        let mut watch = Watch::default();
        for what in tracked {
            match what {
                Tracked::File(name) => watch.files.extend(
                    config
                        .files
                        .get(name)
                        .map(|file| (name.clone(), file.clone())),
                ),
                Tracked::Process(name) => watch.processes.extend(
                    config
                        .processes
                        .get(name)
                        .map(|p| (name.clone(), p.clone())),
                ),
                Tracked::Interface(_) | Tracked::Script(_) | Tracked::Workers => {}
            }
        }
        watch
    }
}

/// Starts the thread. It ends when `orders` is closed.
///
/// # Errors
/// The system has no room for a thread.
pub fn start(
    orders: Receiver<Watch>,
    seen: Sender<(Tracked, Observation)>,
    driver: Arc<Waker>,
) -> io::Result<()> {
    let mut watcher = Watcher {
        watch: Watch::default(),
        told: BTreeMap::new(),
        counts: BTreeMap::new(),
        seen,
        driver,
    };
    std::thread::Builder::new()
        .name("rvs-track".to_owned())
        .spawn(move || {
            let mut turn = 0u32;
            loop {
                let is_idle = watcher.watch.files.is_empty() && watcher.watch.processes.is_empty();
                let wait = if is_idle {
                    Duration::from_secs(3600)
                } else {
                    PERIOD
                };
                match orders.recv_timeout(wait) {
                    Ok(watch) => {
                        watcher.take(watch);
                        turn = 0;
                    }
                    Err(RecvTimeoutError::Timeout) => turn = turn.wrapping_add(1),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                watcher.look(turn.is_multiple_of(PROCESS_TURNS));
            }
        })?;
    Ok(())
}

struct Watcher {
    watch: Watch,
    told: BTreeMap<Tracked, Observation>,
    counts: BTreeMap<String, Debounced>,
    seen: Sender<(Tracked, Observation)>,
    driver: Arc<Waker>,
}

impl Watcher {
    fn take(&mut self, watch: Watch) {
        for (name, file) in &watch.files {
            let is_new = !self.watch.files.contains_key(name);
            if let Some(init) = file
                .init
                .filter(|_| is_new && (file.overwrite || !file.path.exists()))
                && let Err(reason) = fs::write(&file.path, format!("{init}\n"))
            {
                tracing::warn!(
                    "tracked file {}: the first value cannot be written ({reason}); create it",
                    file.path.display()
                );
            }
        }
        self.counts
            .retain(|name, _| watch.processes.contains_key(name));
        // A driver that planned anew has to be told again.
        self.told.clear();
        self.watch = watch;
    }

    fn look(&mut self, with_processes: bool) {
        let mut news = Vec::new();
        for (name, file) in &self.watch.files {
            news.push((
                Tracked::File(name.clone()),
                Observation::File(number(&file.path)),
            ));
        }
        if with_processes && !self.watch.processes.is_empty() {
            let running = running();
            let now = Instant(clock::now().0);
            for (name, wanted) in &self.watch.processes {
                let found = running
                    .iter()
                    .filter(|process| is_match(wanted, process))
                    .count();
                let counted = self.counts.entry(name.clone()).or_default();
                let count = counted.take(now, wanted, found as u32);
                news.push((Tracked::Process(name.clone()), Observation::Process(count)));
            }
        }
        let mut is_new = false;
        for (what, seen) in news {
            if self.told.insert(what.clone(), seen) != Some(seen) {
                // A driver that is gone needs no news.
                let _ = self.seen.send((what, seen));
                is_new = true;
            }
        }
        if is_new {
            let _ = self.driver.wake();
        }
    }
}

/// The number that a file begins with; 0 if there is none.
fn number(path: &Path) -> i32 {
    use std::io::Read;
    let read = || -> io::Result<String> {
        let mut text = String::new();
        fs::File::open(path)?
            .take(FILE_MAX)
            .read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    let first = text
        .split_whitespace()
        .next()
        .and_then(|word| word.parse::<i64>().ok());
    first
        .unwrap_or(0)
        .clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// A process that runs.
#[derive(Debug)]
struct Running {
    /// The kernel's name of it, at most 15 characters.
    name: String,
    /// Its command line.
    words: Vec<String>,
}

/// All processes; zombies are not among them.
fn running() -> Vec<Running> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let read = |entry: fs::DirEntry| {
        let is_process = entry
            .file_name()
            .to_str()?
            .bytes()
            .all(|b| b.is_ascii_digit());
        let path = entry.path();
        let words = is_process.then(|| fs::read(path.join("cmdline")).ok())??;
        // Neither zombies nor the kernel's own threads have a command line.
        let words: Vec<String> = words
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let name = fs::read_to_string(path.join("comm")).ok()?;
        (!words.is_empty()).then(|| Running {
            name: name.trim_end().to_owned(),
            words,
        })
    };
    entries.filter_map(read).collect()
}

fn is_match(wanted: &Process, found: &Running) -> bool {
    let is_named = match wanted.full_command {
        true => found.words.first() == Some(&wanted.command),
        false => found.name == wanted.command,
    };
    let Some(params) = wanted.params.as_ref().filter(|_| is_named) else {
        return is_named;
    };
    let given = found.words.get(1..).unwrap_or_default();
    match (wanted.matching, params.split_last()) {
        (Matching::Exact, _) => given == params,
        (_, None) => true,
        (Matching::Partial, _) => given.starts_with(params),
        (Matching::Initial, Some((last, before))) => {
            given.starts_with(before)
                && given
                    .get(before.len())
                    .is_some_and(|word| word.starts_with(last.as_str()))
        }
    }
}

/// A count of processes that changes between enough and not enough only when that lasts.
#[derive(Debug, Default)]
struct Debounced {
    told: Option<u32>,
    /// Since when it was otherwise.
    since: Option<Instant>,
}

impl Debounced {
    fn take(&mut self, now: Instant, wanted: &Process, count: u32) -> u32 {
        let is_well = |count: u32| (wanted.quorum..=wanted.quorum_max).contains(&count);
        let told = *self.told.get_or_insert(count);
        if is_well(told) == is_well(count) {
            self.since = None;
            self.told = Some(count);
            return count;
        }
        let delay = if is_well(count) {
            wanted.fork_delay
        } else {
            wanted.terminate_delay
        };
        let since = *self.since.get_or_insert(now);
        if now.since(since) >= delay {
            (self.told, self.since) = (Some(count), None);
            return count;
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(matching: Matching, params: &[&str]) -> Process {
        Process {
            command: "bird".to_owned(),
            full_command: false,
            params: Some(params.iter().map(|&word| word.to_owned()).collect()),
            matching,
            quorum: 1,
            quorum_max: 2,
            fork_delay: Duration::from_millis(10),
            terminate_delay: Duration::from_millis(20),
        }
    }

    #[test]
    fn arguments_are_compared_as_wanted() {
        let found = Running {
            name: "bird".to_owned(),
            words: ["/usr/sbin/bird", "-f", "-d"].map(str::to_owned).to_vec(),
        };
        let matches = |matching, params: &[&str]| is_match(&wanted(matching, params), &found);
        assert!(matches(Matching::Exact, &["-f", "-d"]));
        assert!(!matches(Matching::Exact, &["-f"]));
        // The words are keepalived's: "partial" is the first arguments, "initial" the beginning of the last.
        assert!(matches(Matching::Partial, &["-f"]));
        assert!(!matches(Matching::Partial, &["-"]));
        assert!(matches(Matching::Initial, &["-f", "-"]));
        assert!(!matches(Matching::Initial, &["-d"]));
        let full = |command: &str| Process {
            command: command.to_owned(),
            full_command: true,
            params: None,
            ..wanted(Matching::Exact, &[])
        };
        assert!(is_match(&full("/usr/sbin/bird"), &found));
        assert!(!is_match(&full("bird"), &found));
    }

    #[test]
    fn short_changes_of_a_count_do_not_count() {
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        let (wanted, mut count) = (wanted(Matching::Exact, &[]), Debounced::default());
        let mut take = |ms, n| count.take(at(ms), &wanted, n);
        assert_eq!(take(0, 1), 1, "the first counts at once");
        assert_eq!(take(1, 2), 2, "still enough");
        assert_eq!([take(2, 0), take(21, 0), take(22, 0)], [2, 2, 0]);
        assert_eq!(
            [take(30, 1), take(35, 0), take(36, 1), take(46, 1)],
            [0, 0, 0, 1]
        );
    }

    #[test]
    fn our_own_process_is_found() {
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        assert!(
            running()
                .iter()
                .any(|process| process.name == name.trim_end())
        );
    }

    #[test]
    fn numbers_in_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(number(&path), 0, "no file");
        for (text, value) in [
            ("-7\n", -7),
            ("  3 x", 3),
            ("x", 0),
            ("", 0),
            ("99999999999", i32::MAX),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(number(&path), value, "{text:?}");
        }
    }
}
