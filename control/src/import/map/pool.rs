//! Forwarding methods, and the keywords of a service's servers as a pool.

use super::Mapper;
use crate::config::keys::MAX_WEIGHT;
use crate::import::document::{Table, Value};
use crate::import::tree::Node;

/// How packets reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    method: &'static str,
    /// Keys and values of a tunnel.
    tunnel: Vec<(&'static str, Value)>,
    ids: Vec<usize>,
}

impl Default for Forward {
    /// NAT, as in keepalived.
    fn default() -> Forward {
        Forward {
            method: "nat",
            tunnel: Vec::new(),
            ids: Vec::new(),
        }
    }
}

impl Forward {
    /// Whether the server may have another port than the service.
    pub fn is_nat(&self) -> bool {
        self.method == "nat"
    }

    /// Whether packets are encapsulated.
    pub fn is_tunnel(&self) -> bool {
        self.method == "tun"
    }

    fn pairs(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let method = ("method", Value::text(self.method));
        std::iter::once(method).chain(self.tunnel.iter().cloned())
    }

    /// Writes it into a table.
    pub fn put(&self, table: &mut Table) {
        for (name, value) in self.pairs() {
            table.set_for(name, value, &self.ids);
        }
    }
}

impl Mapper<'_> {
    /// `NAT`, `DR`, or `TUN [type …] [csum …]` from argument `at` on.
    pub(super) fn forward(&mut self, node: &Node, at: usize, before: &Forward) -> Forward {
        let words: Vec<&str> = node.args().iter().skip(at).map(String::as_str).collect();
        let method = match words.first() {
            Some(&"NAT") => "nat",
            Some(&"DR") => "dr",
            Some(&"TUN") => "tun",
            other => {
                let other = other.copied().unwrap_or_default();
                let note = format!(
                    "\"{other}\" is no method of keepalived (NAT, DR, TUN), which uses {} instead",
                    before.method
                );
                self.report.changed(node, note);
                return before.clone();
            }
        };
        let mut forward = Forward {
            method,
            tunnel: Vec::new(),
            ids: vec![node.id],
        };
        let mut rest = words.get(1..).unwrap_or_default().iter();
        while let Some(word) = rest.next() {
            let pair = match *word {
                "type" => rest
                    .next()
                    .filter(|kind| ["ipip", "gre", "gue"].contains(*kind))
                    .map(|kind| ("tun_type", Value::text(*kind))),
                "port" => rest
                    .next()
                    .and_then(|port| port.parse::<u16>().ok())
                    .map(|port| ("tun_port", Value::Integer(i64::from(port)))),
                "nocsum" => Some(("tun_checksum", Value::text("none"))),
                "csum" => Some(("tun_checksum", Value::text("full"))),
                "remcsum" => Some(("tun_checksum", Value::text("remote"))),
                _ => None,
            };
            match pair.filter(|_| method == "tun") {
                Some(pair) => forward.tunnel.push(pair),
                None => self
                    .report
                    .lost(node, format!("\"{word}\" is not understood")),
            }
        }
        self.report.taken(node, "service.server.method");
        forward
    }

    /// Keywords of the pool; false if it is none.
    pub(super) fn pool(&mut self, node: &Node, table: &mut Table) -> bool {
        let flag = |name| Some((name, Value::Boolean(true)));
        let pair = match node.keyword() {
            "quorum" => self
                .number(node, 1, MAX_WEIGHT)
                .map(|n| ("quorum", Value::Integer(n))),
            "hysteresis" => self
                .number(node, 0, MAX_WEIGHT)
                .map(|n| ("hysteresis", Value::Integer(n))),
            "alpha" => flag("alpha"),
            "omega" => flag("omega"),
            "ha_suspend" => flag("ha_suspend"),
            "inhibit_on_failure" => flag("inhibit_on_failure"),
            // Those are read together.
            "sorry_server" | "sorry_server_inhibit" | "sorry_server_lvs_method" => return true,
            _ => return false,
        };
        if let Some((name, value)) = pair {
            self.put(table, name, value, node);
        }
        true
    }

    /// After all others: the quorum has to exceed its hysteresis.
    fn settle_quorum(&mut self, node: &Node, table: &mut Table) {
        let number = |name| match table.get(name) {
            Some(Value::Integer(n)) => Some(*n),
            _ => None,
        };
        let (quorum, hysteresis) = (number("quorum").unwrap_or(1), number("hysteresis"));
        let Some(hysteresis) = hysteresis.filter(|h| *h >= quorum) else {
            return;
        };
        let line = node.children.iter().rfind(|n| n.keyword() == "hysteresis");
        if let Some(line) = line {
            table.set("hysteresis", Value::Integer(quorum - 1), line);
            let note = format!(
                "{hysteresis} is not below the quorum; it became {}",
                quorum - 1
            );
            self.report.changed(line, note);
        }
    }

    /// `sorry_server` and what belongs to it.
    pub(super) fn sorry_server(&mut self, node: &Node, table: &mut Table, common: &Forward) {
        self.settle_quorum(node, table);
        let find = |keyword: &str| node.children.iter().rfind(|n| n.keyword() == keyword);
        let Some(line) = find("sorry_server") else {
            for keyword in ["sorry_server_inhibit", "sorry_server_lvs_method"] {
                if let Some(line) = find(keyword) {
                    self.report
                        .changed(line, "there is no sorry_server to go with it");
                }
            }
            return;
        };
        for other in node
            .children
            .iter()
            .filter(|n| n.keyword() == "sorry_server")
        {
            if other.id != line.id {
                let note = format!("{} says it again and wins", line.place);
                self.report.changed(other, note);
            }
        }
        let Some(addr) = line
            .arg(0)
            .filter(|word| word.parse::<std::net::IpAddr>().is_ok())
        else {
            let word = line.arg(0).unwrap_or_default();
            self.report
                .lost(line, format!("\"{word}\" is no IP address"));
            return;
        };
        if addr
            .parse()
            .is_ok_and(|addr: std::net::IpAddr| addr.is_loopback())
        {
            let note = "RVS reaches no server on this host itself; name one on another host";
            self.report.lost(line, note);
            return;
        }
        let forward = match find("sorry_server_lvs_method") {
            Some(line) => self.forward(line, 0, common),
            None => common.clone(),
        };
        let mut pairs = vec![("address", Value::text(addr))];
        if line.arg(1).is_some() {
            let Some(port) = self.number_at(line, 1, 0, 65_535) else {
                return;
            };
            match forward.is_nat() {
                true => pairs.push(("port", Value::Integer(port))),
                false => self
                    .report
                    .changed(line, "packets keep the port of the service"),
            }
        }
        pairs.extend(forward.pairs());
        let inhibit = find("sorry_server_inhibit");
        pairs.push(("inhibit", Value::Boolean(inhibit.is_some())));
        if let Some(inhibit) = inhibit {
            self.report.taken(inhibit, "service.sorry_server.inhibit");
        }
        self.put(table, "sorry_server", Value::Inline(pairs), line);
    }
}
