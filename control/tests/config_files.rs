//! The files in `configs/` are valid, and every key that the reader knows is shown and documented.

use std::path::{Path, PathBuf};

use control::config::{self, Config, Host, keys};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn parsed(name: &str, text: &str) -> Config {
    let host = Host {
        online: (0..8).collect(),
        isolated: vec![],
        memory_mb: Some(65_536),
        ..Host::default()
    };
    config::parse(Path::new(name), text, &host).unwrap_or_else(|mistakes| {
        panic!(
            "{}",
            mistakes
                .iter()
                .map(|m| format!("{m}\n"))
                .collect::<String>()
        )
    })
}

#[test]
fn shipped_files_are_valid_and_raise_no_warning() {
    for name in [
        "configs/rvsd.toml",
        "configs/demo.toml",
        "configs/demo-nat.toml",
        "configs/trex-memif.toml",
        "configs/vrrp-pair.toml",
        "configs/pair-active.toml",
        "configs/pair-standby.toml",
        "configs/ecmp-node.toml",
    ] {
        assert_eq!(parsed(name, &read(name)).warnings, [], "{name}");
    }
}

#[test]
fn the_files_of_the_pair_differ_in_priority_alone_and_comment_every_key() {
    let [active, standby] =
        ["active", "standby"].map(|kind| read(&format!("configs/pair-{kind}.toml")));
    let effective = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        lines.map(str::to_owned).collect()
    };
    let differing: Vec<_> = effective(&active)
        .into_iter()
        .zip(effective(&standby))
        .filter(|(a, s)| a != s)
        .collect();
    let priorities = ("priority = 150".to_owned(), "priority = 100".to_owned());
    assert_eq!(differing, [priorities.clone(), priorities]);
    for (name, text) in [("active", &active), ("standby", &standby)] {
        let (mut section, mut explained, mut before) = ("", Vec::new(), "");
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            } else if let Some((key, _)) = key_of(line) {
                if before.starts_with('#') {
                    explained.push((section, key));
                }
                let told = explained.contains(&(section, key));
                assert!(told, "pair-{name}.toml: {section} {key} has no comment");
            }
            before = line;
        }
    }
}

/// The key that a line sets, whether it is commented out or not.
fn key_of(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix('#').unwrap_or(line).split_once(" = ")?;
    let plain = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    plain.then_some((key, value))
}

#[test]
fn the_full_example_shows_every_key_with_its_default() {
    let text = read("configs/rvsd.toml");
    let mut section = "";
    let mut shown: Vec<(&str, &str, &str)> = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix('[') {
            section = heading.trim_matches(['[', ']']);
        } else if let Some((key, value)) = key_of(line) {
            shown.push((section, key, value));
        }
    }
    for section in keys::sections() {
        // What is shown once need not be shown again.
        if section.sibling().is_some() {
            continue;
        }
        for key in section.keys {
            if matches!(key.kind, keys::Kind::Table(_) | keys::Kind::Tables(_)) {
                continue;
            }
            let (path, name) = (section.path, key.name);
            // Keys of inline tables stand in the line of their table.
            let inline = path.starts_with("port.") || path == "service.sorry_server";
            if let Some((parent, table)) = path.rsplit_once('.').filter(|_| inline) {
                let line = shown.iter().find(|(s, k, _)| (*s, *k) == (parent, table));
                let (.., value) = line.unwrap_or_else(|| panic!("no {table} in configs/rvsd.toml"));
                let elsewhere = text.contains(&format!("or {name} = "));
                assert!(
                    value.contains(&format!("{name} = ")) || elsewhere,
                    "{path}.{name}: {value}"
                );
                continue;
            }
            let values: Vec<&str> = shown
                .iter()
                .filter(|(s, k, _)| (*s, *k) == (path, name))
                .map(|t| t.2)
                .collect();
            assert!(
                !values.is_empty(),
                "configs/rvsd.toml does not show {path}.{name}"
            );
            if let keys::Fallback::Value(default) = key.default {
                let commented = format!("#{name} = {default}\n");
                let explained =
                    text.contains(&commented) || text.contains(&format!("Default: {default}."));
                let set = values.contains(&default);
                assert!(
                    explained || set,
                    "configs/rvsd.toml hides the default of {path}.{name}, {default}"
                );
            }
        }
    }
}

#[test]
fn the_full_example_is_valid_with_every_key_switched_on() {
    // Except those of which a port or a table takes only one.
    let one_of = [
        "af_packet",
        "af_xdp",
        "memif",
        "vhost_user",
        "pcap",
        "null",
        "bond",
        "vdev",
        "mac",
        "vrf",
    ];
    let text = read("configs/rvsd.toml");
    let on: String = text
        .lines()
        .map(|line| match key_of(line) {
            Some((key, _)) if line.starts_with('#') && !one_of.contains(&key) => &line[1..],
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut config = parsed("all-on", &on);
    // With every default written out it means the same, but for what the example chooses.
    let plain = parsed("plain", &text);
    assert_eq!(config.rules, plain.rules);
    assert_eq!(config.ports, plain.ports);
    assert_eq!(config.workers, plain.workers);
    assert_eq!(config.kernel, plain.kernel);
    let pools = |c: &Config| {
        c.checks
            .values()
            .map(|c| c.pool.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(pools(&config), pools(&plain));
    assert_eq!(config.vrrp.delays, plain.vrrp.delays);
    assert_eq!(config.vrrp.groups, plain.vrrp.groups);
    let machines = |config: &Config| -> Vec<_> {
        let all = config.vrrp.instances.iter();
        all.map(|instance| instance.machine.clone()).collect()
    };
    assert_eq!(machines(&config), machines(&plain));
    config.dpdk.main_cores.clone_from(&plain.dpdk.main_cores);
    assert_eq!(config.dpdk, plain.dpdk);
}

#[test]
fn the_reference_is_the_table_of_keys() {
    let name = "docs/configuration.md";
    let text = read(name);
    let (begin, end) = ("<!-- keys: begin -->\n\n", "<!-- keys: end -->");
    let (before, rest) = text
        .split_once(begin)
        .expect("docs/configuration.md lost its first mark");
    let (inside, after) = rest
        .split_once(end)
        .expect("docs/configuration.md lost its last mark");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let new = [before, begin, &keys::reference(), end, after].concat();
        std::fs::write(root().join(name), new).expect("docs/configuration.md is writable");
    } else {
        let hint = "run the test again with UPDATE_DOCS=1";
        assert!(
            inside == keys::reference(),
            "docs/configuration.md is not up to date; {hint}"
        );
    }
}
