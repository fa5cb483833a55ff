//! Files that are old or new, never half of either, whatever happens meanwhile.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Replaces a file: when this returns, the new contents are on the disk under the name, and at
/// any time before that the old ones are.
///
/// # Errors
/// Of the file system; the old contents are there then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = with_suffix(path, ".new");
    let written = create(&new, bytes).and_then(|_| fs::rename(&new, path));
    if let Err(why) = written {
        // Best effort: a full disk gets its room back.
        let _ = fs::remove_file(&new);
        return Err(why);
    }
    sync_directory(path)
}

/// Writes a file from its beginning, and opens it to go on at its end. Its name is not yet safe.
///
/// # Errors
/// Of the file system.
pub(super) fn create(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// Removes a file for good; it need not be there.
///
/// # Errors
/// Of the file system.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    }
    sync_directory(path)
}

/// Renames a file, so that its name is free and what it holds can be looked at; its new name.
/// Only the last one is kept: they are large. `None` if there is no such file.
///
/// # Errors
/// Of the file system.
pub fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    if !path.try_exists()? {
        return Ok(None);
    }
    for older in aside(path)? {
        fs::remove_file(older)?;
    }
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let to = with_suffix(path, &format!("{ASIDE}{now}"));
    fs::rename(path, &to)?;
    sync_directory(path)?;
    Ok(Some(to))
}

const ASIDE: &str = ".crashed-";

/// What [`set_aside`] made of a file before.
fn aside(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut start = path.file_name().unwrap_or_default().to_owned();
    start.push(ASIDE);
    let entries = fs::read_dir(directory(path))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let start = start.to_string_lossy().into_owned();
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&start)
    };
    Ok(paths.filter(is_one).collect())
}

/// A path with something behind its last name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Makes the names in a file's directory safe.
///
/// # Errors
/// Of the file system.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        // The new file cannot be made: a directory has its name.
        fs::create_dir(dir.path().join("f.new")).unwrap();
        assert!(replace(&path, b"newer").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn only_the_last_one_set_aside_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table");
        assert_eq!(set_aside(&path).unwrap(), None);
        fs::write(&path, "first").unwrap();
        fs::write(dir.path().join("table.crashed-2020-01-01T00:00:00Z"), "old").unwrap();
        let to = set_aside(&path).unwrap().unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
