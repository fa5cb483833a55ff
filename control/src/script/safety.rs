//! Whether a program may run as root: only root can have put it there.
//!
//! The rule of keepalived's script security: every directory on the way, and the program itself,
//! belongs to root, and nobody else can write to it. Both the path as written and what its
//! links lead to are looked at. Scripts of other users are not looked at: whoever changed one
//! gains the rights of that user only.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What speaks against running the program at `path`, one line; `as_root` if it would have root's
/// rights and is to be protected.
pub fn complaint(path: &Path, as_root: bool) -> Option<String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Some(format!("script {shown}: write its full path"));
    }
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Some(format!("script {shown} does not exist"));
        }
        Err(e) => return Some(format!("script {shown} cannot be reached: {e}")),
    };
    match real.metadata() {
        Ok(meta) if !meta.is_file() => return Some(format!("script {shown} is no file")),
        Ok(meta) if meta.mode() & 0o111 == 0 => {
            return Some(format!("script {shown} is not executable; chmod +x it"));
        }
        Ok(_) => {}
        Err(e) => return Some(format!("script {shown} cannot be read: {e}")),
    }
    if !as_root {
        return None;
    }
    let parts = path.ancestors().chain(real.ancestors());
    let why = parts.into_iter().find_map(|part| open_to_others(part, 0))?;
    Some(format!(
        "script {shown} does not run as root: {why}; give it to root, or name another user"
    ))
}

/// Why somebody but `owner` can change what is at `part`.
fn open_to_others(part: &Path, owner: u32) -> Option<String> {
    let shown = part.display();
    // Links cannot be written to: who owns one can only replace it, and the directory it is in says
    // who can do that.
    let meta = match part.symlink_metadata() {
        Ok(meta) => meta,
        Err(e) => return Some(format!("{shown} cannot be read: {e}")),
    };
    let mode = meta.mode();
    if meta.uid() != owner {
        return Some(format!("{shown} belongs to user {}", meta.uid()));
    }
    if meta.file_type().is_symlink() {
        return None;
    }
    if mode & 0o002 != 0 {
        return Some(format!("{shown} can be written by everybody"));
    }
    // A group of root's own is root.
    if mode & 0o020 != 0 && meta.gid() != 0 {
        return Some(format!("{shown} can be written by group {}", meta.gid()));
    }
    None
}

/// The program of a command, for [`complaint`].
pub fn program(argv: &[String]) -> PathBuf {
    argv.first().map(PathBuf::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_missing_or_no_program() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        let says = |path: &Path| complaint(path, false);
        assert_eq!(
            says(Path::new("bin/true")).unwrap(),
            "script bin/true: write its full path"
        );
        assert!(says(&script).unwrap().ends_with("does not exist"));
        fs::write(&script, "#!/bin/sh\n").unwrap();
        chmod(&script, 0o644);
        assert!(says(&script).unwrap().contains("not executable"));
        chmod(&script, 0o755);
        assert_eq!(says(&script), None);
        assert!(says(dir.path()).unwrap().ends_with("is no file"));
    }

    #[test]
    fn each_part_of_the_way_is_roots_alone() {
        let dir = tempfile::tempdir().unwrap();
        let owner = dir.path().metadata().unwrap().uid();
        let script = dir.path().join("script");
        fs::write(&script, "").unwrap();
        chmod(&script, 0o755);
        assert_eq!(open_to_others(&script, owner), None);
        let says = open_to_others(&script, owner + 1).unwrap();
        assert!(
            says.ends_with(&format!("belongs to user {owner}")),
            "{says}"
        );
        chmod(&script, 0o757);
        let says = open_to_others(&script, owner).unwrap();
        assert!(says.ends_with("can be written by everybody"), "{says}");
        // A temporary directory is below one that everybody can write to.
        chmod(&script, 0o755);
        let says = complaint(&script, true).unwrap();
        assert!(says.contains("does not run as root: /"), "{says}");
        // Through a link the same.
        let link = dir.path().join("link");
        symlink(&script, &link).unwrap();
        assert!(complaint(&link, true).is_some());
        assert_eq!(complaint(&link, false), None);
    }

    #[test]
    fn programs_of_the_system_are_safe() {
        // Links on the way: /bin is one on this system.
        assert_eq!(complaint(Path::new("/bin/true"), true), None);
    }
}
