//! The exit status of a program (MISC_CHECK).

use crate::verdict::{Failure, Passed, Verdict};

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// It was ended because its time was over.
    TimedOut,
}

/// What the end of a program says about a server of this configured weight. With `dynamic`,
/// statuses 2 to 255 are success and set the weight: a lone check gives the server the weight
/// status - 2, several add up.
pub fn judge(ended: Ended, dynamic: bool, weight: u32) -> Verdict {
    match ended {
        Ended::Exit(0) => Ok(Passed::default()),
        Ended::Exit(status @ 2..=255) if dynamic => Ok(Passed {
            delta: i64::from(status) - 2 - i64::from(weight),
        }),
        Ended::Exit(status) => Err(Failure::Exit(status)),
        Ended::Signal(number) => Err(Failure::Signal(number)),
        Ended::TimedOut => Err(Failure::Timeout("end of the script")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let ok = |delta| Ok(Passed { delta });
        for (ended, dynamic, verdict) in [
            (Ended::Exit(0), false, ok(0)),
            (Ended::Exit(0), true, ok(0)),
            (Ended::Exit(1), true, Err(Failure::Exit(1))),
            (Ended::Exit(2), false, Err(Failure::Exit(2))),
            (Ended::Exit(2), true, ok(-10)),
            (Ended::Exit(255), true, ok(243)),
            (Ended::Signal(9), true, Err(Failure::Signal(9))),
            (
                Ended::TimedOut,
                false,
                Err(Failure::Timeout("end of the script")),
            ),
        ] {
            assert_eq!(judge(ended, dynamic, 10), verdict, "{ended:?} {dynamic}");
        }
    }
}
