//! What outlives the process of a master: until when its last adverts keep the peers waiting.
//!
//! One line of fixed width for each instance, in a file that is small and best on a tmpfs. A change
//! is one write of twenty digits into the page cache: it outlives the process, not the machine, and
//! need not more. A program that was killed and is started again before that time goes on as master;
//! no peer has noticed. Times are of `CLOCK_BOOTTIME`, and count only within the boot that they name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use vrrp::addr::Family;
use vrrp::time::Instant;

/// Digits of a time, which a line begins with.
const DIGITS: usize = 20;
/// A line with its end: time, boot, family, virtual router id, interface.
const LINE: usize = 96;

/// Which instance: interface, family and virtual router id, as its peers know it.
pub type Who = (String, Family, u8);

/// Where the file may be, and which boot this is.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The first that can be written to is taken; without one nothing outlives the process.
    pub paths: Vec<PathBuf>,
    /// Id of the boot.
    pub boot: [u8; 16],
    /// Whether what is found counts: not after crash upon crash, nor after an orderly end.
    pub may_resume: bool,
    /// What a process that handed over had noted ([`Memory::text`]); counts in the place of a file.
    pub inherited: Option<String>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Memory {
    place: Place,
    file: Option<File>,
    /// The line of each instance, and its time.
    lines: BTreeMap<Who, (usize, Instant)>,
    /// What the process before left.
    left: BTreeMap<Who, Instant>,
}

impl Memory {
    /// Reads what the process before left.
    pub fn open(place: Place) -> Memory {
        let mut paths = place.paths.iter();
        let text = match &place.inherited {
            Some(text) => Some(text.clone()),
            None => paths.find_map(|path| fs::read_to_string(path).ok()),
        };
        let boot = hex(place.boot);
        let left = match place.may_resume || place.inherited.is_some() {
            true => text
                .iter()
                .flat_map(|text| text.lines())
                .filter_map(|line| read(line, &boot)),
            false => {
                return Memory {
                    place,
                    ..Memory::default()
                };
            }
        };
        let left = left.filter(|(_, until)| until.0 > 0).collect();
        Memory {
            place,
            left,
            ..Memory::default()
        }
    }

    /// Until when an instance that is made now may resume; asked once.
    pub fn take(&mut self, who: &Who) -> Option<Instant> {
        self.left.remove(who)
    }

    /// Whether the process before handed over, so that what it put on interfaces is still there.
    pub fn is_inherited(&self) -> bool {
        self.place.inherited.is_some()
    }

    /// All lines, for a process that goes on.
    pub fn text(&self) -> String {
        let boot = hex(self.place.boot);
        let mut rows: Vec<_> = self.lines.iter().collect();
        rows.sort_by_key(|(_, (line, _))| *line);
        let mut text = String::with_capacity(rows.len() * LINE);
        for ((interface, family, vrid), (_, until)) in rows {
            let start = text.len();
            let family = match family {
                Family::V4 => 4,
                Family::V6 => 6,
            };
            // Writing to a String does not fail.
            let _ = write!(
                text,
                "{} {boot} {family} {vrid} {interface}",
                digits(*until)
            );
            let len = text.len() - start;
            text.extend(std::iter::repeat_n(' ', (LINE - 1).saturating_sub(len)));
            text.push('\n');
        }
        text
    }

    /// These are the instances from now on.
    pub fn plan(&mut self, all: impl Iterator<Item = Who>) {
        let old = std::mem::take(&mut self.lines);
        let known = |who: &Who| old.get(who).map(|(_, until)| *until);
        self.lines = all
            .enumerate()
            .map(|(line, who)| {
                let until = known(&who).or(self.left.get(&who).copied());
                (who, (line, until.unwrap_or_default()))
            })
            .collect();
        if old.len() == self.lines.len() && old.keys().eq(self.lines.keys()) && self.file.is_some()
        {
            self.lines = old;
            return;
        }
        self.file = None;
        if self.lines.is_empty() {
            return;
        }
        let mut why = None;
        for path in &self.place.paths {
            match self.write(path) {
                Ok(file) => {
                    self.file = Some(file);
                    return;
                }
                Err(reason) => why = Some((path, reason)),
            }
        }
        if let Some((path, reason)) = why {
            tracing::warn!(
                event = "state",
                "{}: {reason}; a master that is killed comes back as a backup",
                path.display()
            );
        }
    }

    /// An instance keeps its peers waiting until then; `Instant::default()` if it does not.
    pub fn note(&mut self, who: &Who, until: Instant) {
        let Some((line, known)) = self.lines.get_mut(who) else {
            return;
        };
        if std::mem::replace(known, until) == until {
            return;
        }
        let at = (*line * LINE) as u64;
        if let Some(file) = &self.file
            && let Err(reason) = file.write_all_at(digits(until).as_bytes(), at)
        {
            tracing::warn!(event = "state", %reason, "a master that is killed comes back as a backup");
            self.file = None;
        }
    }

    /// Writes all lines under the name at once.
    fn write(&self, path: &Path) -> io::Result<File> {
        let text = self.text();
        let new = path.with_extension("new");
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, path)?;
        Ok(file)
    }
}

fn digits(until: Instant) -> String {
    format!("{:0DIGITS$}", until.0)
}

fn hex(boot: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(boot))
}

/// A line of this boot.
fn read(line: &str, boot: &str) -> Option<(Who, Instant)> {
    let mut words = line.split_whitespace();
    let until = words
        .next()
        .filter(|word| word.len() == DIGITS)?
        .parse()
        .ok()?;
    words.next().filter(|word| *word == boot)?;
    let family = match words.next()? {
        "4" => Family::V4,
        "6" => Family::V6,
        _ => return None,
    };
    let vrid = words.next()?.parse().ok()?;
    let interface = words.next()?.to_owned();
    words
        .next()
        .is_none()
        .then_some(((interface, family, vrid), Instant(until)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(vrid: u8) -> Who {
        ("rvs-front.4094x".to_owned(), Family::V4, vrid)
    }

    fn place(path: &Path, boot: u8) -> Place {
        Place {
            paths: vec![PathBuf::from("/nowhere/leases"), path.to_owned()],
            boot: [boot; 16],
            may_resume: true,
            inherited: None,
        }
    }

    #[test]
    fn the_last_time_of_each_instance_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let mut memory = Memory::open(place(&path, 7));
        memory.plan([who(1), who(2), who(3)].into_iter());
        memory.note(&who(1), Instant(5));
        memory.note(&who(2), Instant(u64::MAX));
        memory.note(&who(2), Instant(6));
        memory.note(&who(3), Instant(9));
        memory.note(&who(3), Instant::default());
        memory.note(&who(4), Instant(1));
        // Killed: nothing is closed in order.
        let mut next = Memory::open(place(&path, 7));
        assert_eq!(next.take(&who(1)), Some(Instant(5)));
        assert_eq!(next.take(&who(1)), None, "once");
        // What was not asked for yet stays, whatever is planned.
        next.plan([who(9), who(2)].into_iter());
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * LINE as u64);
        // A process that hands over says the same without a file.
        let mut heir = Memory::open(Place {
            inherited: Some(next.text()),
            boot: [7; 16],
            ..Place::default()
        });
        assert!(heir.is_inherited() && !next.is_inherited());
        assert_eq!(heir.take(&who(2)), Some(Instant(6)));
        let mut third = Memory::open(place(&path, 7));
        let all = [1, 2, 3, 9].map(|vrid| third.take(&who(vrid)));
        assert_eq!(all, [None, Some(Instant(6)), None, None]);
        // A plan of the same instances writes nothing anew.
        next.note(&who(9), Instant(8));
        next.plan([who(2), who(9)].into_iter());
        assert_eq!(
            Memory::open(place(&path, 7)).take(&who(9)),
            Some(Instant(8))
        );
    }

    #[test]
    fn times_of_another_boot_and_after_a_crash_loop_mean_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let mut memory = Memory::open(place(&path, 7));
        memory.plan([who(1)].into_iter());
        memory.note(&who(1), Instant(5));
        assert_eq!(Memory::open(place(&path, 8)).take(&who(1)), None);
        let loops = Place {
            may_resume: false,
            ..place(&path, 7)
        };
        assert_eq!(Memory::open(loops).take(&who(1)), None);
        for damage in ["", "x", &"9".repeat(LINE), "00000000000000000005 07 4 1 e"] {
            fs::write(&path, damage).unwrap();
            assert_eq!(
                Memory::open(place(&path, 7)).take(&who(1)),
                None,
                "{damage}"
            );
        }
    }
}
