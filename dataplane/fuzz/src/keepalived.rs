//! The import of a `keepalived.conf`: what must hold of any bytes. Nothing is included: the text is
//! all there is.

use std::path::Path;

use control::import::check::mistakes;
use control::import::expand::Limits;
use control::import::files::Alone;
use control::import::{import as run, keywords};

/// Far less than a file may stand for, so that bombs are refused soon.
const LIMITS: Limits = Limits {
    lines: 2000,
    bytes: 200_000,
};

/// Imports `data`: every keyword is in the report, and what comes out loads.
pub fn import(data: &[u8]) {
    let (path, files) = (Path::new("keepalived.conf"), Alone(data));
    let (keywords, done) = (
        keywords(path, &files, "box", LIMITS),
        run(path, &files, "box", LIMITS),
    );
    let Ok((_, count, _)) = keywords else {
        assert!(done.is_err(), "refused once and not twice");
        return;
    };
    let done = done.expect("what was read once is read again");
    assert_eq!(done.report.keywords().count(), count, "keywords are lost");
    let text = done.report.to_string();
    let is_plain = |c: char| c == '\n' || !c.is_control();
    assert!(text.chars().all(is_plain), "the report has control characters");
    let mistakes = mistakes(&done.toml);
    assert!(mistakes.is_empty(), "{mistakes:?} in {}", done.toml);
}
