//! What stands above the configuration: what the operator has yet to fill in.

use std::fmt::Write;
use std::path::Path;

use super::map::Mapper;

/// Most interfaces that are shown as ports.
const MOST: usize = 16;

/// The header, lines of comment.
pub fn header(path: &Path, id: &str, mapper: &Mapper<'_>) -> String {
    let mut text = format!(
        "# Made by rvsadm import-keepalived from {}, for config-id {}.\n",
        path.display().to_string().escape_debug(),
        id.escape_debug()
    );
    text += "# The report says what is not here and what means something else; read it first.\n";
    text += "#\n# A keepalived.conf says nothing about cores and NICs: fill this in (docs/configuration.md).\n";
    text += "#\n# [workers]\n# cores = [1]\n";
    let interfaces = mapper.interfaces.iter().map(String::as_str);
    let interfaces = interfaces.filter(|name| *name != "lo");
    let mut interfaces: Vec<&str> = interfaces.take(MOST).collect();
    if interfaces.is_empty() {
        interfaces.push("eth0");
    }
    for name in interfaces {
        let name = name.escape_debug();
        let _ = write!(
            text,
            "#\n# [[port]]\n# name = \"{name}\"\n# pci = \"0000:03:00.0\"\n# twin = \"{name}\"\n"
        );
    }
    text += "#\n# A twin takes over addresses and routes of the interface; with its name, too, nothing below\n";
    text += "# has to change. Interfaces that carry no balanced packets need no port.\n";
    if !mapper.marks.is_empty() {
        let marks: Vec<String> = mapper.marks.iter().map(i64::to_string).collect();
        let _ = write!(
            text,
            "#\n# Firewall marks {} come from rules here, not from iptables or nftables:\n\
             #\n# [[mark]]\n# mark = {}\n# destination = \"192.0.2.0/24\"\n# destination_port = \"80\"\n",
            marks.join(", "),
            marks[0]
        );
    }
    text
}
