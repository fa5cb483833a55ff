//! Rules of firewall marks and persistent services in the file: read, reloaded, saved.

use std::path::Path;

use control::api::{Family, MarkMatch, Netmask, Origin, Persistence, ServiceKey};
use control::config::{self, Config, Host, Running, RunningMark, save};

const PORTS: &str = "[[port]]\nname = \"front\"\naf_packet = \"f0\"\n";

fn try_parse(text: &str) -> Result<Config, Vec<String>> {
    let host = Host {
        online: (0..4).collect(),
        isolated: vec![],
        memory_mb: Some(4096),
        ..Host::default()
    };
    let text = format!("{PORTS}{text}");
    config::parse(Path::new("test.toml"), &text, &host)
        .map_err(|all| all.iter().map(|m| m.text.clone()).collect())
}

fn parse(text: &str) -> Config {
    try_parse(text).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

fn rule(words: &str) -> MarkMatch {
    MarkMatch::from_words(words.split_whitespace()).expect("a rule")
}

const FILE: &str = r#"
# web
[[mark]]
mark = 1                     # the first
destination = "203.0.113.0/24"
protocol = "tcp"
destination_port = "80-89"

# gone soon
[[mark]]
mark = 2
family = "ipv6"
vlan = 7
port = "front"
"#;

#[test]
fn the_file_says_it_as_rvsadm_does() {
    let marks = parse(FILE).rules.marks;
    let words: Vec<String> = marks
        .iter()
        .map(|(r, mark)| format!("{mark} {r}"))
        .collect();
    assert_eq!(
        words,
        [
            "1 destination 203.0.113.0/24 protocol tcp destination-port 80-89",
            "2 family ipv6 vlan 7 port front"
        ]
    );
}

#[test]
fn mistakes_are_named_with_what_to_do() {
    let text = r#"
[[mark]]
mark = 1
destination = "203.0.113.0/33"
[[mark]]
mark = 1
source = "10.0.0.0/8"
destination = "2001:db8::/32"
[[mark]]
mark = 3
port = "back"
[[mark]]
mark = 4
destination_port = "80:90"
[[mark]]
mark = 5
vlan = 1
[[mark]]
mark = 6
vlan = 1
"#;
    let found = try_parse(text).expect_err("mistakes").join("\n");
    for what in [
        "destination \"203.0.113.0/33\" is no network; write 192.0.2.0/24",
        "source, destination and family are not of one family",
        "there is no [[port]] named \"back\"",
        "destination_port \"80:90\" is no port; write 80 or 8000-8999",
        "the packets of this rule are also in line",
    ] {
        assert!(found.contains(what), "{what}\n{found}");
    }
}

#[test]
fn a_reload_keeps_what_was_added_live() {
    let last = parse(FILE).rules;
    let mut running = last.to_running();
    let live = rule("source 172.16.0.0/12");
    let origin = Origin::Live;
    running
        .marks
        .insert(live.clone(), RunningMark { mark: 9, origin });
    let new = parse(
        &FILE
            .replace("mark = 1 ", "mark = 11 ")
            .replace("vlan = 7", "vlan = 8"),
    )
    .rules;
    let plan = config::plan(&last, &running, &new, false);
    plan.apply_to(&mut running);
    assert_eq!(
        plan.summary(),
        "deleted: mark of family ipv6 vlan 7 port front\n\
         added: mark 11 destination 203.0.113.0/24 protocol tcp destination-port 80-89\n\
         added: mark 2 family ipv6 vlan 8 port front\n"
    );
    assert_eq!(running.marks.remove(&live).map(|m| m.mark), Some(9));
    assert_eq!(running.to_rules(), new);
}

#[test]
fn a_rule_changed_live_meets_the_file() {
    let last = parse(FILE).rules;
    let web = rule("destination 203.0.113.0/24 protocol tcp destination-port 80-89");
    let changed = |running: &mut Running| {
        let origin = Origin::Live;
        running
            .marks
            .insert(web.clone(), RunningMark { mark: 7, origin });
    };
    let mut running = last.to_running();
    changed(&mut running);
    assert_eq!(config::plan(&last, &running, &last, false).actions, []);
    let shown = config::render_diff(&last, &running);
    let (minus, plus) = shown.split_once('\n').expect("two lines");
    assert!(
        minus.starts_with("- mark 1 ") && plus.starts_with("+ mark 7 "),
        "{shown}"
    );
    let new = parse(&FILE.replace("mark = 1 ", "mark = 11 ")).rules;
    let plan = config::plan(&last, &running, &new, false);
    assert!(
        plan.summary().starts_with("kept: mark 7"),
        "{}",
        plan.summary()
    );
    config::plan(&last, &running, &new, true).apply_to(&mut running);
    assert_eq!(running.to_rules(), new);
}

#[test]
fn save_edits_the_rules_in_place() {
    let loaded = parse(FILE);
    assert_eq!(
        save::render(&loaded, &loaded.rules).expect("it can be edited"),
        *loaded.text
    );
    let mut rules = loaded.rules.clone();
    let web = rule("destination 203.0.113.0/24 protocol tcp destination-port 80-89");
    rules.marks.retain(|r, _| *r == web);
    rules.marks.insert(web, 12);
    rules.marks.insert(
        rule("source fd00::/8 protocol sctp source-port 9 vlan 0"),
        3,
    );
    rules.marks.insert(rule("family ipv6"), 4);
    let text = save::render(&loaded, &rules).expect("it can be edited");
    assert!(
        text.contains("# web\n[[mark]]\nmark = 12                     # the first\n"),
        "{text}"
    );
    assert!(!text.contains("gone soon"), "{text}");
    let read = parse(text.strip_prefix(PORTS).expect("the ports first"));
    assert_eq!(read.rules, rules);
}

#[test]
fn persistent_and_marked_services_are_read_and_saved() {
    let text = r#"
[[service]]
fwmark = 5
family = "ipv6"
persistence_timeout = 90
netmask = "48"

[[service.server]]
address = "fd00::1"
method = "nat"

[[service]]
protocol = "tcp"
address = "10.0.0.1"
port = 0
persistence_timeout = 300
"#;
    let loaded = parse(text);
    let key = ServiceKey::Mark {
        mark: 5,
        family: Family::Ipv6,
    };
    let marked = &loaded.rules.services[&key];
    assert_eq!(
        marked.spec.persistence,
        Some(Persistence {
            timeout: 90,
            netmask: Netmask::V6(48)
        })
    );
    assert_eq!(marked.servers[0].key.port, 0);
    let saved = save::render(&parse(""), &loaded.rules).expect("it can be edited");
    let read = parse(saved.strip_prefix(PORTS).expect("the ports first"));
    assert_eq!(read.rules, loaded.rules);
    // Off again.
    let mut rules = loaded.rules.clone();
    if let Some(service) = rules.services.get_mut(&key) {
        service.spec.persistence = None;
    }
    let saved = save::render(&loaded, &rules).expect("it can be edited");
    let read = parse(saved.strip_prefix(PORTS).expect("the ports first"));
    assert_eq!(read.rules, rules);
}
