//! The files that are read: the disk, or none for tests and fuzzing.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest file that is read, bytes.
const LONGEST: u64 = 16 << 20;

/// Where files come from.
pub trait Files {
    /// The bytes of a file.
    ///
    /// # Errors
    /// As the system says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The files that match a pattern with `*`, `?` and `[…]`, sorted.
    fn matching(&self, pattern: &Path) -> Vec<PathBuf>;

    /// The directory of a file, as `${_PWD}` names it.
    fn directory(&self, path: &Path) -> PathBuf;
}

/// The file system.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(LONGEST + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > LONGEST {
            true => Err(io::Error::other(format!("longer than {LONGEST} bytes"))),
            false => Ok(bytes),
        }
    }

    fn matching(&self, pattern: &Path) -> Vec<PathBuf> {
        let found = pattern.to_str().map(glob::glob);
        let Some(Ok(found)) = found else {
            return Vec::new();
        };
        let files = found.flatten().filter(|path| path.is_file());
        let mut files: Vec<PathBuf> = files.collect();
        files.sort();
        files
    }

    fn directory(&self, path: &Path) -> PathBuf {
        let directory = directory(path);
        std::path::absolute(&directory).unwrap_or(directory)
    }
}

/// One text and nothing beside it: what it includes is not there.
#[derive(Clone, Copy, Debug)]
pub struct Alone<'a>(pub &'a [u8]);

impl Files for Alone<'_> {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.to_vec())
    }

    fn matching(&self, _: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    fn directory(&self, path: &Path) -> PathBuf {
        directory(path)
    }
}

/// The directory that a file is in, which relative names in it start from.
pub fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The patterns that one with braces stands for: `a{b,{c,}}` is `ab`, `ac` and `a`. At most
/// `limit` of them; braces that are not closed are letters.
pub fn braces(pattern: &str, limit: usize) -> Vec<String> {
    let mut out = Vec::new();
    let mut todo = vec![pattern.to_owned()];
    while let Some(pattern) = todo.pop() {
        match split(&pattern) {
            Some((before, choices, after)) if out.len() + todo.len() + choices.len() <= limit => {
                let each = choices.iter().rev();
                todo.extend(each.map(|choice| format!("{before}{choice}{after}")));
            }
            _ => out.push(pattern),
        }
    }
    out
}

/// The first group of braces and what stands around it.
fn split(pattern: &str) -> Option<(&str, Vec<&str>, &str)> {
    let open = pattern.find('{')?;
    let (mut depth, mut start) = (0, open + 1);
    let mut choices = Vec::new();
    for (at, c) in pattern.char_indices().skip_while(|(at, _)| *at < open) {
        match c {
            '{' => depth += 1,
            ',' if depth == 1 => {
                choices.push(&pattern[start..at]);
                start = at + 1;
            }
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            choices.push(&pattern[start..at]);
            return Some((&pattern[..open], choices, &pattern[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_choices() {
        assert_eq!(braces("x{1,2}.conf", 10), ["x1.conf", "x2.conf"]);
        let nested = braces("{foo/{,cat,dog},bar}", 10);
        assert_eq!(nested, ["foo/", "foo/cat", "foo/dog", "bar"]);
        assert_eq!(braces("plain", 10), ["plain"]);
        assert_eq!(braces("a{b", 10), ["a{b"]);
    }

    #[test]
    fn braces_make_no_more_than_the_limit() {
        let bomb = "{a,b}".repeat(40);
        assert!(braces(&bomb, 100).len() <= 100);
    }
}
