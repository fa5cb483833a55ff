//! Files of test vectors: `key value` lines. Each vector begins with its `name`; `#` begins a
//! comment, an indented line goes on with the value of the line before.

use std::path::PathBuf;

use super::rig::Rig;

/// One block.
pub struct Vector {
    /// File name and line where the block begins.
    pub place: String,
    /// Its lines, in order.
    pub lines: Vec<(String, String)>,
}

impl Vector {
    /// Value of the only line with this key.
    pub fn get<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        let mut found = self.all(key);
        let first = found.next();
        assert!(
            found.next().is_none(),
            "{}: more than one {key}",
            self.place
        );
        first
    }

    /// As [`Vector::get`], where the line has to be there.
    pub fn need<'a>(&'a self, key: &'a str) -> &'a str {
        self.get(key)
            .unwrap_or_else(|| panic!("{}: no line {key:?}", self.place))
    }

    /// Values of all lines with this key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// Name for messages.
    pub fn name(&self) -> String {
        format!(
            "{}: {}",
            self.place,
            self.get("name").unwrap_or("(no name)")
        )
    }
}

/// All vectors of one folder below `tests/vectors`, files in order of their names.
pub fn load(folder: &str) -> Vec<Vector> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&root)
        .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        .map(|f| f.unwrap().path())
        .filter(|f| f.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    let vectors: Vec<_> = files
        .iter()
        .flat_map(|f| {
            let name = f.file_name().unwrap().to_string_lossy().into_owned();
            parse(&name, &std::fs::read_to_string(f).unwrap())
        })
        .collect();
    assert!(!vectors.is_empty(), "no vectors in {}", root.display());
    vectors
}

fn parse(file: &str, text: &str) -> Vec<Vector> {
    let mut out: Vec<Vector> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim_end();
        if line.is_empty() {
            continue;
        }
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        if key == "name" {
            out.push(Vector {
                place: format!("{file}:{}", i + 1),
                lines: Vec::new(),
            });
        }
        let vector = out
            .last_mut()
            .unwrap_or_else(|| panic!("{file}: begins without a name"));
        if key.is_empty() {
            let last = vector.lines.last_mut().expect("a line to go on with");
            last.1 = format!("{} {}", last.1, value.trim());
        } else {
            vector.lines.push((key.to_owned(), value.trim().to_owned()));
        }
    }
    out
}

/// `tcp VIP:PORT SCHEDULER METHOD -> REAL:PORT [weight N], REAL:PORT …`
pub fn service(rig: &mut Rig, value: &str) {
    let (head, reals) = value.split_once("->").expect("-> real servers");
    let words: Vec<&str> = head.split_whitespace().collect();
    let [protocol, vip, scheduler, method] = words[..] else {
        panic!("service {value}")
    };
    let protocol = match protocol {
        "tcp" => "-t",
        "udp" => "-u",
        "sctp" => "--sctp-service",
        other => panic!("unknown protocol {other}"),
    };
    let method = match method {
        "masquerade" => "-m",
        "tunnel" => "-i",
        "direct" => "-g",
        other => panic!("unknown method {other}"),
    };
    rig.ipvsadm(&format!("-A {protocol} {vip} -s {scheduler}"));
    for real in reals.split(',').map(str::trim).filter(|r| !r.is_empty()) {
        let real = real.replace("weight", "-w");
        rig.ipvsadm(&format!("-a {protocol} {vip} -r {real} {method}"));
    }
}
