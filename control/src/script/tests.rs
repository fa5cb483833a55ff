//! Helpers as real processes: this test binary is the helper, too.

use std::time::{Duration, Instant as Clock};

use crossbeam::channel::{Receiver, unbounded};

use rustix::process::Pid;

use super::*;

/// Not a test by itself: the helper of the others.
#[test]
fn as_helper() {
    if std::env::var_os("RVS_TEST_HELPER").is_some() {
        let _ = helper::main();
        std::process::exit(0);
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(60);

struct Bench {
    scripts: Scripts,
    reports: Receiver<(u32, Report)>,
    told: crossbeam::channel::Sender<(u32, Report)>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(Settings {
            secure: false,
            ..Settings::default()
        })
    }

    fn with(settings: Settings) -> Bench {
        let words = ["script::tests::as_helper", "--exact", "--nocapture"];
        let launch = Launch {
            program: std::env::current_exe().unwrap(),
            name: "rvs-test".into(),
            args: words.map(str::to_owned).into(),
            env: vec![("RVS_TEST_HELPER".into(), "1".into())],
        };
        let (told, reports) = unbounded();
        let dir = tempfile::tempdir().unwrap();
        // Scripts of other users have to get there.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        Bench {
            scripts: Scripts::start(launch, settings, Vec::new()).unwrap(),
            reports,
            told,
            dir,
        }
    }

    fn run(&self, number: u32, argv: &[&str], timeout: Duration) -> Ticket {
        self.run_as(number, argv, None, timeout)
    }

    fn run_as(
        &self,
        number: u32,
        argv: &[&str],
        account: Option<Account>,
        timeout: Duration,
    ) -> Ticket {
        let told = self.told.clone();
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let done = move |report| drop(told.send((number, report)));
        let command = Command { argv, account };
        self.scripts.run(command, timeout, Box::new(done))
    }

    fn shell(&self, number: u32, script: &str, timeout: Duration) -> Ticket {
        self.run(number, &["/bin/sh", "-c", script], timeout)
    }

    fn next(&self) -> (u32, Report) {
        self.reports.recv_timeout(PATIENCE).unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The number that a script wrote into a file.
    fn pid(&self, name: &str) -> i32 {
        let start = Clock::now();
        loop {
            let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
            if let Ok(pid) = text.trim().parse() {
                return pid;
            }
            assert!(start.elapsed() < PATIENCE, "{name} holds {text:?}");
            std::thread::yield_now();
        }
    }
}

fn is_alive(pid: i32) -> bool {
    // A zombie has ended.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    !state.is_empty() && !state.starts_with('Z')
}

fn wait_until_gone(pid: i32) {
    let start = Clock::now();
    while is_alive(pid) {
        assert!(start.elapsed() < PATIENCE, "process {pid} lives on");
        std::thread::yield_now();
    }
}

fn report(outcome: Outcome, output: &str) -> Report {
    let output = output.to_owned();
    Report { outcome, output }
}

#[test]
fn statuses_signals_and_words() {
    let bench = Bench::new();
    bench.shell(1, "exit 0", LONG);
    assert_eq!(bench.next(), (1, report(Outcome::Exit(0), "")));
    bench.shell(2, "echo no; echo more >&2; exit 3", LONG);
    assert_eq!(bench.next(), (2, report(Outcome::Exit(3), "no\nmore\n")));
    bench.shell(3, "kill -9 $$", LONG);
    assert_eq!(bench.next(), (3, report(Outcome::Signal(9), "")));
    // Words are words: there is no shell between.
    bench.run(4, &["/bin/echo", "a b", "$HOME", "*", ""], LONG);
    assert_eq!(
        bench.next(),
        (4, report(Outcome::Exit(0), "a b $HOME * \n"))
    );
}

#[test]
fn the_environment_is_always_the_same() {
    let bench = Bench::new();
    bench.run(1, &["/usr/bin/env"], LONG);
    let (_, report) = bench.next();
    let mut names: Vec<&str> = report
        .output
        .lines()
        .filter_map(|l| l.split('=').next())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LOGNAME", "PATH", "USER"]);
    bench.shell(2, "pwd; umask; ls /proc/self/fd | wc -l; cat", LONG);
    let (_, report) = bench.next();
    // Input, output, error and the directory that ls reads.
    assert_eq!(report.output, "/\n0022\n4\n");
}

#[test]
fn what_cannot_run_says_why() {
    let bench = Bench::new();
    let why = |argv: &[&str]| {
        bench.run(1, argv, LONG);
        bench.next().1.line()
    };
    assert_eq!(why(&["/no/such"]), "script /no/such does not exist");
    assert_eq!(why(&["true"]), "script true: write its full path");
    let path = bench.path("text");
    std::fs::write(&path, "no program\n").unwrap();
    assert_eq!(
        why(&[&path]),
        format!("script {path} is not executable; chmod +x it")
    );
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, open).unwrap();
    assert!(why(&[&path]).contains("no #! line"));
    std::fs::write(&path, "#!/no/such/interpreter\n").unwrap();
    assert!(why(&[&path]).contains("interpreter"));
}

#[test]
fn a_script_that_hangs_is_ended_with_all_it_started() {
    let bench = Bench::new();
    let (outer, inner) = (bench.path("outer"), bench.path("inner"));
    let script = format!("sleep 600 & echo $! > {inner}; echo $$ > {outer}; wait");
    let start = Clock::now();
    bench.shell(1, &script, Duration::from_millis(300));
    let pids = [bench.pid("outer"), bench.pid("inner")];
    assert_eq!(bench.next(), (1, report(Outcome::TimedOut, "")));
    assert!(start.elapsed() >= Duration::from_millis(300));
    for pid in pids {
        wait_until_gone(pid);
    }
}

#[test]
fn a_script_that_ignores_sigterm_is_killed() {
    let bench = Bench::new();
    let start = Clock::now();
    let script = "trap '' TERM; echo deaf; while :; do sleep 0.05; done";
    bench.shell(1, script, Duration::from_millis(200));
    assert_eq!(bench.next(), (1, report(Outcome::TimedOut, "deaf\n")));
    assert!(start.elapsed() >= Duration::from_millis(2200));
}

#[test]
fn scripts_do_not_wait_for_each_other_and_a_flood_of_output_stops_nobody() {
    let bench = Bench::new();
    bench.run(1, &["/usr/bin/yes"], Duration::from_millis(500));
    bench.shell(2, "exit 0", LONG);
    assert_eq!(bench.next(), (2, report(Outcome::Exit(0), "")));
    let (number, flood) = bench.next();
    assert_eq!((number, flood.outcome), (1, Outcome::TimedOut));
    assert_eq!(flood.output, "y\n".repeat(2048));
}

#[test]
fn a_cancelled_script_ends_and_nobody_is_told() {
    let bench = Bench::new();
    let path = bench.path("pid");
    let ticket = bench.shell(1, &format!("echo $$ > {path}; exec sleep 600"), LONG);
    let pid = bench.pid("pid");
    bench.scripts.cancel(ticket);
    wait_until_gone(pid);
    bench.shell(2, "exit 0", LONG);
    assert_eq!(bench.next().0, 2);
}

#[test]
fn another_helper_follows_one_that_died() {
    let bench = Bench::new();
    let path = bench.path("pids");
    bench.shell(1, &format!("echo $$ > {path}; exec sleep 600"), LONG);
    let script = bench.pid("pids");
    bench.shell(2, "echo $PPID", LONG);
    let (_, said) = bench.next();
    let helper: i32 = said.output.trim().parse().unwrap();
    let pid = Pid::from_raw(helper).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let (number, lost) = bench.next();
    assert_eq!(number, 1);
    assert!(lost.line().contains("ended (signal: 9"), "{}", lost.line());
    wait_until_gone(script);
    let start = Clock::now();
    loop {
        bench.shell(3, "echo $PPID", LONG);
        let (_, report) = bench.next();
        if report.is_success() {
            assert_ne!(report.output.trim(), helper.to_string());
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{}", report.line());
        std::thread::yield_now();
    }
}

#[test]
fn the_end_of_the_last_handle_ends_helpers_and_scripts() {
    let bench = Bench::new();
    let path = bench.path("pids");
    // Deaf to SIGTERM, so that the helper has to kill it.
    let script = format!("trap '' TERM; echo $$ > {path}; while :; do sleep 0.05; done");
    bench.shell(1, &script, LONG);
    let pid = bench.pid("pids");
    bench.shell(2, "echo $PPID", LONG);
    let helper: i32 = bench.next().1.output.trim().parse().unwrap();
    assert!(!bench.scripts.finish(Duration::from_millis(10)));
    drop(bench.scripts);
    wait_until_gone(pid);
    wait_until_gone(helper);
}

#[test]
fn finish_waits_for_what_runs() {
    let bench = Bench::new();
    bench.shell(1, "sleep 0.3", LONG);
    assert!(bench.scripts.finish(PATIENCE));
    assert_eq!(bench.next().0, 1);
}

#[test]
fn each_user_has_a_helper_and_only_its_rights() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: only root can run scripts as somebody else");
        return;
    }
    let bench = Bench::new();
    let nobody: Account = "nobody".parse().unwrap();
    bench.run_as(1, &["/usr/bin/id", "-un"], Some(nobody.clone()), LONG);
    assert_eq!(bench.next(), (1, report(Outcome::Exit(0), "nobody\n")));
    bench.run_as(2, &["/usr/bin/id", "-G"], Some(nobody.clone()), LONG);
    let group = nix::unistd::User::from_name("nobody").unwrap().unwrap().gid;
    assert_eq!(
        bench.next(),
        (2, report(Outcome::Exit(0), &format!("{group}\n")))
    );
    let words = ["/bin/sh", "-c", "grep -E '^Cap(Prm|Eff)' /proc/self/status"];
    bench.run_as(3, &words, Some(nobody), LONG);
    let none = "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n";
    assert_eq!(bench.next(), (3, report(Outcome::Exit(0), none)));
    let nosuch: Account = "nosuchuser".parse().unwrap();
    bench.run_as(4, &["/bin/true"], Some(nosuch), LONG);
    assert_eq!(
        bench.next().1.line(),
        "this host has no user nosuchuser; add it"
    );
}

#[test]
fn a_program_that_others_can_change_does_not_run_as_root() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: only root's scripts are protected");
        return;
    }
    let root: Account = "root".parse().unwrap();
    let bench = Bench::with(Settings {
        account: root,
        secure: true,
        cores: Vec::new(),
    });
    let path = bench.path("script");
    std::fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o757);
    std::fs::set_permissions(&path, mode).unwrap();
    bench.run(1, &[&path], LONG);
    let line = bench.next().1.line();
    let expected = format!(
        "script {path} does not run as root: {path} can be written by everybody; give it to \
         root, or name another user"
    );
    assert_eq!(line, expected);
    let nobody: Account = "nobody".parse().unwrap();
    bench.run_as(2, &[&path], Some(nobody), LONG);
    assert_eq!(bench.next(), (2, report(Outcome::Exit(0), "")));
}
