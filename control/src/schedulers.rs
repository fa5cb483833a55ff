//! Names of schedulers and of their flags, as far as people write and read them.

use dataplane::schedule;
use dataplane::service::SchedulerFlags;

use crate::api::SchedFlags;

/// Flags that have a name of their own with some scheduler: (scheduler, bit, name).
const NAMED: &[(&str, u8, &str)] = &[
    ("sh", 1, "sh-fallback"),
    ("sh", 2, "sh-port"),
    ("mh", 1, "mh-fallback"),
    ("mh", 2, "mh-port"),
];

/// Names that every flag has with every scheduler: (bit, name).
const NUMBERED: &[(u8, &str)] = &[(1, "flag-1"), (2, "flag-2"), (4, "flag-3")];

/// Why a word is no flag of a scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoFlag {
    /// It is one of this other scheduler.
    Of(&'static str),
    /// Nobody has such a flag.
    Unknown,
}

/// The flag of this name.
///
/// # Errors
/// See [`NoFlag`].
pub fn flag(scheduler: &str, name: &str) -> Result<SchedFlags, NoFlag> {
    if let Some(&(bit, _)) = NUMBERED.iter().find(|(_, known)| *known == name) {
        return Ok(SchedFlags(bit));
    }
    match NAMED.iter().find(|(.., known)| *known == name) {
        Some(&(owner, bit, _)) if owner == scheduler => Ok(SchedFlags(bit)),
        Some(&(owner, ..)) => Err(NoFlag::Of(owner)),
        None => Err(NoFlag::Unknown),
    }
}

/// Names that a scheduler's flags may be written by.
pub fn flags_of(scheduler: &str) -> Vec<&'static str> {
    let own = NAMED.iter().filter(|(owner, ..)| *owner == scheduler);
    let own = own.map(|&(.., name)| name);
    own.chain(NUMBERED.iter().map(|&(_, name)| name)).collect()
}

/// Names of the flags that are set, in ipvsadm's order.
pub fn names_of(scheduler: &str, flags: SchedFlags) -> Vec<&'static str> {
    let is_set = |(bit, _): &&(u8, &str)| flags.0 & bit != 0;
    let name = |&(bit, numbered): &(u8, &'static str)| {
        NAMED
            .iter()
            .find(|(owner, own, _)| *owner == scheduler && *own == bit)
            .map_or(numbered, |&(.., name)| name)
    };
    NUMBERED.iter().filter(is_set).map(name).collect()
}

impl SchedFlags {
    /// Both together.
    pub fn with(self, other: SchedFlags) -> SchedFlags {
        SchedFlags(self.0 | other.0)
    }

    /// As the schedulers of the data plane read them; none reads the third.
    pub fn core(self) -> SchedulerFlags {
        SchedulerFlags {
            fallback: self.0 & 1 != 0,
            port: self.0 & 2 != 0,
        }
    }
}

/// Names the nearest known scheduler and all of them.
pub fn unknown(name: &str) -> String {
    let near = schedule::names()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, known)| *distance < known.len())
        .map(|(_, known)| format!("; did you mean \"{known}\"?"));
    format!(
        "scheduler \"{name}\" is unknown{} known: {}",
        near.as_deref().unwrap_or(";"),
        schedule::names().collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered() {
        let told = unknown("wlcc");
        assert!(told.starts_with("scheduler \"wlcc\" is unknown; did you mean \"wlc\"? known: rr"));
        assert!(!unknown("x").contains("did you mean"), "{}", unknown("x"));
    }

    #[test]
    fn flags_have_the_name_that_the_scheduler_gives_them() {
        let all = SchedFlags(7);
        assert_eq!(names_of("sh", all), ["sh-fallback", "sh-port", "flag-3"]);
        assert_eq!(names_of("mh", SchedFlags(2)), ["mh-port"]);
        assert_eq!(names_of("wlc", all), ["flag-1", "flag-2", "flag-3"]);
        assert!(names_of("sh", SchedFlags(0)).is_empty());
    }

    #[test]
    fn every_name_is_read_back() {
        for scheduler in schedule::names() {
            for bits in 0..8 {
                let read = names_of(scheduler, SchedFlags(bits))
                    .into_iter()
                    .map(|name| flag(scheduler, name).unwrap())
                    .fold(SchedFlags(0), SchedFlags::with);
                assert_eq!(read, SchedFlags(bits), "{scheduler}");
            }
        }
        assert_eq!(flag("mh", "sh-port"), Err(NoFlag::Of("sh")));
        assert_eq!(flag("wlc", "mh-port"), Err(NoFlag::Of("mh")));
        assert_eq!(flag("sh", "bogus"), Err(NoFlag::Unknown));
    }

    #[test]
    fn the_schedulers_read_the_first_two() {
        let flags = flag("sh", "sh-fallback").unwrap().core();
        assert_eq!((flags.fallback, flags.port), (true, false));
        let flags = flag("mh", "mh-port").unwrap().core();
        assert_eq!((flags.fallback, flags.port), (false, true));
    }
}
