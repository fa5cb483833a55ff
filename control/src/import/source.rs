//! The lines of a file and of those that it includes, without comments.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::comment;
use super::files::{Files, braces, directory};
use super::place::{Place, Refusal};
use super::report::Oddity;

/// Most files, and most of one inside the other. A loop is refused by name before that.
const MOST_FILES: usize = 1000;
const DEEPEST: usize = 50;

/// Most bytes of all files.
const MOST_BYTES: usize = 64 << 20;

/// Most patterns that braces make.
const MOST_PATTERNS: usize = 100;

/// `include` and its stricter forms. That nothing matches is told in all of them.
const INCLUDES: [&str; 6] = [
    "include", "includer", "includem", "includew", "includeb", "includea",
];

/// A line and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where.
    pub place: Place,
    /// Its text without comment, trimmed.
    pub text: String,
}

/// Reads a file and what it includes.
///
/// # Errors
/// A file that cannot be read, one that includes itself, too much of it all.
pub fn read(
    path: &Path,
    files: &dyn Files,
    oddities: &mut Vec<Oddity>,
) -> Result<Vec<Line>, Refusal> {
    let mut reader = Reader {
        files,
        oddities,
        lines: Vec::new(),
        open: Vec::new(),
        count: 0,
        bytes: 0,
    };
    let bytes = files.read(path).map_err(|why| Refusal {
        place: None,
        text: format!(
            "{}: cannot be read: {why}; name a keepalived.conf that you may read",
            path.display()
        ),
    })?;
    reader.file(path, &bytes, None)?;
    Ok(reader.lines)
}

struct Reader<'a> {
    files: &'a dyn Files,
    oddities: &'a mut Vec<Oddity>,
    lines: Vec<Line>,
    /// Files that are being read, the outermost first.
    open: Vec<PathBuf>,
    count: usize,
    bytes: usize,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, bytes: &[u8], from: Option<&Place>) -> Result<(), Refusal> {
        self.count += 1;
        self.bytes += bytes.len();
        let refuse = |text: String| Refusal {
            place: from.cloned(),
            text,
        };
        if self.open.iter().any(|open| open == path) {
            let text = format!("{} includes itself; take that out", path.display());
            return Err(refuse(text));
        }
        if self.count > MOST_FILES || self.open.len() >= DEEPEST || self.bytes > MOST_BYTES {
            let text = format!(
                "more than {MOST_FILES} files, {DEEPEST} of them inside each other, or {MOST_BYTES} bytes; is a file included again and again?"
            );
            return Err(refuse(text));
        }
        self.open.push(path.to_owned());
        let file: Arc<Path> = path.into();
        // Comments are often in another encoding: what is no UTF-8 matters only outside of them.
        let text = String::from_utf8_lossy(bytes);
        for (at, line) in text.split('\n').enumerate() {
            let place = Place {
                file: file.clone(),
                line: at + 1,
            };
            let text = comment::strip(line.trim_end_matches('\r'));
            let text = text.trim();
            if text.contains(char::REPLACEMENT_CHARACTER) {
                let what = "letters that are no UTF-8 were replaced; look at the value";
                self.oddities.push(Oddity::changed(&place, text, what));
            }
            match include(text) {
                Some(pattern) => self.include(path, pattern, text, &place)?,
                None if text.is_empty() => {}
                None => self.lines.push(Line {
                    place,
                    text: text.to_owned(),
                }),
            }
        }
        self.open.pop();
        Ok(())
    }

    fn include(
        &mut self,
        from: &Path,
        pattern: &str,
        text: &str,
        place: &Place,
    ) -> Result<(), Refusal> {
        let mut found = false;
        for pattern in braces(pattern, MOST_PATTERNS) {
            let path = directory(from).join(&pattern);
            // `./a` and `a` are one file to the search for loops.
            let path = path.strip_prefix(".").map(Path::to_owned).unwrap_or(path);
            for path in self.files.matching(&path) {
                found = true;
                match self.files.read(&path) {
                    Ok(bytes) => self.file(&path, &bytes, Some(place))?,
                    Err(why) => {
                        let what = format!("{} cannot be read: {why}", path.display());
                        self.oddities.push(Oddity::lost(place, text, &what));
                    }
                }
            }
        }
        let wild = pattern.contains(['*', '?', '[']);
        match (found, wild) {
            (true, _) => {}
            (false, true) => {
                let what = "no file matches, nothing is included";
                self.oddities.push(Oddity::changed(place, text, what));
            }
            (false, false) => {
                let what = "there is no such file";
                self.oddities.push(Oddity::lost(place, text, what));
            }
        }
        Ok(())
    }
}

/// The pattern of an include line.
fn include(text: &str) -> Option<&str> {
    let (keyword, pattern) = text.split_once([' ', '\t'])?;
    let pattern = pattern.trim();
    (INCLUDES.contains(&keyword) && !pattern.is_empty()).then_some(pattern)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;

    use super::*;

    struct Memory(BTreeMap<PathBuf, &'static str>);

    impl Files for Memory {
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            let text = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
            Ok(text.as_bytes().to_vec())
        }

        fn matching(&self, pattern: &Path) -> Vec<PathBuf> {
            let pattern = glob::Pattern::new(pattern.to_str().expect("test")).expect("test");
            let paths = self.0.keys().filter(|path| pattern.matches_path(path));
            paths.cloned().collect()
        }

        fn directory(&self, path: &Path) -> PathBuf {
            directory(path)
        }
    }

    fn read_all(files: &[(&str, &'static str)]) -> (Result<Vec<String>, Refusal>, Vec<Oddity>) {
        let memory = Memory(files.iter().map(|(p, t)| (p.into(), *t)).collect());
        let mut oddities = Vec::new();
        let lines = read(Path::new(files[0].0), &memory, &mut oddities);
        let show = |line: Line| format!("{}: {}", line.place, line.text);
        (
            lines.map(|lines| lines.into_iter().map(show).collect()),
            oddities,
        )
    }

    #[test]
    fn files_are_included_where_the_line_stands() {
        let (lines, oddities) = read_all(&[
            ("k.conf", "one # x\r\ninclude d/*.conf\ninclude x{1,2}\ntwo"),
            ("d/a.conf", "a\ninclude b.inc"),
            ("d/b.inc", "\n b"),
            ("d/c.conf", "c"),
            ("x1", "x1"),
            ("x2", "x2"),
        ]);
        let expected = [
            "k.conf:1: one",
            "d/a.conf:1: a",
            "d/b.inc:2: b",
            "d/c.conf:1: c",
            "x1:1: x1",
            "x2:1: x2",
            "k.conf:4: two",
        ];
        assert_eq!(lines.expect("no loop"), expected);
        assert_eq!(oddities, []);
    }

    #[test]
    fn a_loop_is_refused_by_name() {
        let (lines, _) = read_all(&[
            ("k.conf", "a\ninclude d.conf"),
            ("d.conf", "include k.conf"),
        ]);
        let refusal = lines.expect_err("a loop").to_string();
        assert_eq!(refusal, "d.conf:1: k.conf includes itself; take that out");
    }

    #[test]
    fn what_is_not_there_is_told() {
        let (lines, oddities) = read_all(&[("k.conf", "include no.conf\nincludew conf.d/*\nx")]);
        assert_eq!(lines.expect("fine"), ["k.conf:3: x"]);
        assert_eq!(oddities.len(), 2);
    }

    #[test]
    fn comments_may_be_in_any_encoding() {
        let mut oddities = Vec::new();
        let text = crate::import::files::Alone(b"a # \xfc\xe4\nb \xfc");
        let lines = read(Path::new("k"), &text, &mut oddities).expect("readable");
        assert_eq!(lines.len(), 2);
        assert_eq!(oddities.len(), 1, "{oddities:?}");
    }
}
