//! Checks that ask nobody over the network: a script, a file.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use healthcheck::check::{file, script};
use healthcheck::{Failure, Verdict};

use crate::script::{Outcome, Report};

/// What a script's end says about a server of this configured weight.
pub fn judge(report: &Report, dynamic: bool, weight: u32) -> Verdict {
    let ended = match report.outcome {
        Outcome::Exit(status) => script::Ended::Exit(status),
        Outcome::Signal(number) => script::Ended::Signal(number),
        Outcome::TimedOut => script::Ended::TimedOut,
        // A server that cannot be checked is not known to be well.
        Outcome::NotRun(_) => return Err(Failure::Script(report.line())),
    };
    script::judge(ended, dynamic, weight).map_err(|_| Failure::Script(report.line()))
}

/// What the number in a file says. A file that is not there holds 0, as an empty one.
pub fn read(path: &Path, weight: i64) -> Verdict {
    /// A number has at most 20 digits.
    const LONGEST: u64 = 64;
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
    let unreadable = |why: String| Failure::Script(format!("{}: {why}", path.display()));
    match read {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(unreadable(e.to_string())),
        _ => {}
    }
    file::judge(file::read(&text).map_err(unreadable)?, weight)
}

#[cfg(test)]
mod tests {
    use healthcheck::Passed;

    use super::*;

    #[test]
    fn scripts() {
        let report = |outcome| Report {
            outcome,
            output: "disk full\n".into(),
        };
        let passed = |delta| Ok(Passed { delta });
        assert_eq!(judge(&report(Outcome::Exit(0)), false, 5), passed(0));
        assert_eq!(judge(&report(Outcome::Exit(12)), true, 4), passed(6));
        let failed = |outcome| judge(&report(outcome), true, 5).unwrap_err().to_string();
        assert_eq!(failed(Outcome::Exit(1)), "exit status 1: disk full");
        assert_eq!(failed(Outcome::NotRun("no".into())), "no");
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        assert_eq!(read(&path, 0), Ok(Passed::default()));
        std::fs::write(&path, "3\n").unwrap();
        assert_eq!(read(&path, 2), Ok(Passed { delta: 6 }));
        assert_eq!(read(&path, 0), Err(Failure::File(3)));
        std::fs::write(&path, "many").unwrap();
        let failed = read(&path, 1).unwrap_err().to_string();
        assert_eq!(
            failed,
            format!("{}: \"many\" is not a whole number", path.display())
        );
        assert!(read(dir.path(), 1).is_err());
    }
}
