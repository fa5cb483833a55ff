//! A start goes on from the rules on the disk to what their journal says.

use std::io;
use std::path::Path;

use super::super::rules;
use super::{MAGIC, Step, VERSION, beside, head};
use crate::config::Running;

/// How a journal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// After its last record.
    InOrder,
    /// So many bytes are the beginning of a record: its write did not come to its end.
    Torn(usize),
    /// What begins at this byte is no record, nor was it cut short: all from there is left out.
    Damaged(usize),
    /// It goes on from other rules.
    Stale,
    /// It is no journal, or one of another version.
    Foreign,
}

/// Takes `running`, which rules with the checksum `base` have, to what the journal beside the file
/// `rules` says. What is wrong with it is told in a line.
pub(in super::super) fn follow(rules: &Path, base: u32, running: &mut Running) {
    let path = beside(rules);
    let path = path.as_path();
    let journal = match std::fs::read(path) {
        Ok(journal) => journal,
        // Nothing has changed since.
        Err(why) if why.kind() == io::ErrorKind::NotFound => return,
        Err(why) => {
            return tracing::error!(
                event = "recovery",
                "{} cannot be read ({why}); live changes since {} was written are lost",
                path.display(),
                rules.display()
            );
        }
    };
    let (records, end) = replay(&journal, base, running);
    let (file, length) = (path.display(), journal.len());
    match end {
        // The rules were written whole, and a crash came before it was removed.
        End::InOrder | End::Stale => {}
        End::Torn(bytes) => tracing::warn!(
            event = "recovery",
            records,
            "{file}: the last {bytes} bytes are half a record and are cut off; its change had not \
             been answered"
        ),
        End::Damaged(at) => tracing::error!(
            event = "recovery",
            records,
            "{file} is damaged at byte {at} of {length}: live changes before that go on, the \
             others are lost"
        ),
        End::Foreign => tracing::error!(
            event = "recovery",
            "{file} is no journal that this rvsd reads (version {VERSION}); live changes since {} \
             was written are lost",
            rules.display()
        ),
    }
}

/// Carries out the records of a journal; how many there were, and how it ended.
pub(super) fn replay(journal: &[u8], base: u32, running: &mut Running) -> (usize, End) {
    let own = head(base);
    let Some(mut rest) = journal.strip_prefix(own.as_bytes()) else {
        return (0, end_of_foreign(journal, own.as_bytes()));
    };
    let mut records = 0;
    while !rest.is_empty() {
        let Some(end) = rest.iter().position(|&b| b == b'\n') else {
            return (records, End::Torn(rest.len()));
        };
        let (line, behind) = rest.split_at(end);
        let Some(steps) = steps_in(line) else {
            return (records, End::Damaged(journal.len() - rest.len()));
        };
        for step in steps {
            step.apply_to(running);
        }
        records += 1;
        rest = behind.get(1..).unwrap_or_default();
    }
    (records, End::InOrder)
}

/// What a file is that does not begin as the journal of these rules does.
fn end_of_foreign(journal: &[u8], own: &[u8]) -> End {
    if own.starts_with(journal) {
        return End::Torn(journal.len());
    }
    let line = journal.split(|&b| b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        [MAGIC, version, base] if version.parse() == Ok(VERSION) && base.len() == 8 => End::Stale,
        _ => End::Foreign,
    }
}

fn steps_in(line: &[u8]) -> Option<Vec<Step>> {
    let (sum, body) = line.split_at_checked(9)?;
    let sum = std::str::from_utf8(sum).ok()?.strip_suffix(' ')?;
    if u32::from_str_radix(sum, 16).ok()? != rules::checksum(body) {
        return None;
    }
    serde_json::from_slice(body).ok()
}
