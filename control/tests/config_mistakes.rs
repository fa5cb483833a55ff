//! Bad files against the exact lines that an operator sees: `config/NAME.toml` and
//! `config/NAME.expected`. With `UPDATE_EXPECTED=1` the lines are written anew, to be read before
//! they are committed.

use std::path::{Path, PathBuf};

use control::config::{self, Host, Mistake};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

/// Four cores and 16 GiB.
fn host() -> Host {
    Host {
        online: vec![0, 1, 2, 3],
        isolated: vec![],
        memory_mb: Some(16_384),
        ..Host::default()
    }
}

fn lines(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|m| format!("{m}\n")).collect()
}

fn expect_lines(name: &str, found: &str) {
    let path = directory().join(format!("{name}.expected"));
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, found).expect("the directory of tests is writable");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == found,
        "{name}.toml, expected:\n{expected}\nfound:\n{found}"
    );
}

fn check(name: &str) {
    let file = format!("{name}.toml");
    let text = std::fs::read_to_string(directory().join(&file)).expect("the file is there");
    let found = match config::parse(Path::new(&file), &text, &host()) {
        Ok(config) => lines(&config.warnings),
        Err(mistakes) => lines(&mistakes),
    };
    expect_lines(name, &found);
    for line in found.lines() {
        let after_place = line.splitn(3, ':').nth(2).expect("file, line and text");
        let has_advice = after_place.contains("; ") || after_place.contains("did you mean");
        assert!(has_advice, "no advice: {line}");
    }
}

#[test]
fn unknown_keys() {
    check("unknown-keys");
}

#[test]
fn virtual_routers() {
    check("vrrp");
}

#[test]
fn checks_of_virtual_addresses() {
    check("probes");
}

#[test]
fn health_checks() {
    check("checks");
}

#[test]
fn scripts_and_notifications() {
    check("notify");
}

#[test]
fn pools() {
    check("pools");
}

#[test]
fn types_and_ranges() {
    check("types");
}

#[test]
fn cross_checks() {
    check("cross-checks");
}

#[test]
fn syntax() {
    check("syntax");
}

#[test]
fn empty() {
    let found = config::parse(Path::new("empty.toml"), "# nothing\n", &host());
    let text = "empty.toml: there is no [[port]]; add one\n";
    assert_eq!(
        found.map_err(|m| lines(&m)).map(|_| ()),
        Err(text.to_owned())
    );
}

#[test]
fn shapes() {
    check("shapes");
}

#[test]
fn warnings() {
    check("warnings");
}

#[test]
fn a_file_that_is_not_there() {
    let found = config::load(Path::new("/nonexistent/rvsd.toml")).map_err(|m| lines(&m));
    let text = "/nonexistent/rvsd.toml: cannot be read: No such file or directory (os error 2); \
                give the path with --config\n";
    assert_eq!(found.map(|_| ()), Err(text.to_owned()));
}

#[test]
fn no_text_makes_the_reader_panic() {
    // Every prefix of every file, and every file with some byte of it replaced.
    for entry in std::fs::read_dir(directory())
        .expect("the directory is there")
        .flatten()
    {
        let Ok(text) = std::fs::read_to_string(entry.path()) else {
            continue;
        };
        for cut in (0..text.len()).filter(|cut| text.is_char_boundary(*cut)) {
            let _ = config::parse(Path::new("x"), &text[..cut], &host());
        }
        for (at, byte) in (0..text.len())
            .step_by(5)
            .flat_map(|at| b"\"[]=#\n0{".map(|byte| (at, byte)))
        {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = byte;
            if let Ok(text) = String::from_utf8(bytes) {
                let _ = config::parse(Path::new("x"), &text, &host());
            }
        }
    }
}
