//! `rvsadm import-keepalived`: reads files, writes the configuration and the report.

use std::path::Path;

use super::Session;
use super::failure::Failure;
use super::parse::Import;
use crate::import::expand::Limits;
use crate::import::files::Disk;
use crate::import::import;
use crate::import::report::Class;

/// Imports a file. What was written stays written when packets can tell that something is missing;
/// the exit status is 2 then.
pub fn run(session: &mut Session<'_>, what: &Import) -> Result<(), Failure> {
    let id = what.id.clone().unwrap_or_else(host_name);
    let refused = |message: String| Failure::Refused { message, status: 1 };
    let done = import(Path::new(&what.file), &Disk, &id, Limits::default())
        .map_err(|refusal| refused(refusal.to_string()))?;
    if let Some(path) = what
        .output
        .as_deref()
        .filter(|path| Path::new(path).exists())
    {
        let message = format!("{path} is there already; name another file or remove it");
        return Err(refused(message));
    }
    let report = done.report.to_string();
    for (path, text) in [(&what.output, &done.toml), (&what.report, &report)] {
        if let Some(path) = path {
            std::fs::write(path, text).map_err(|why| {
                refused(format!(
                    "{path} cannot be written: {why}; name another file"
                ))
            })?;
        }
    }
    if what.output.is_none() {
        session.streams.out.write_all(done.toml.as_bytes())?;
        session.streams.out.flush()?;
    }
    if what.report.is_none() {
        let _ = session.streams.err.write_all(report.as_bytes());
    }
    let count = |class| done.report.count(class);
    let lost = count(Class::Lost { forwarding: true });
    let ignored = count(Class::Lost { forwarding: false });
    let (taken, changed) = (count(Class::Taken), count(Class::Changed));
    let summary = format!(
        "{}: {taken} taken over, {changed} changed, {} not supported",
        what.file,
        lost + ignored
    );
    if done.report.is_incomplete() {
        let message = format!("{summary}; packets can tell {lost} of those, see the report");
        return Err(Failure::Refused { message, status: 2 });
    }
    session.note(&summary);
    Ok(())
}

/// The host's name up to the first dot, as keepalived takes it.
fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}
