//! Checkers: each becomes a check, one with several pages or hosts as many.

use std::time::Duration;

use super::Mapper;
use super::values::{address, boolean, duration};
use crate::import::document::{Table, Value};
use crate::import::tree::Node;
use crate::import::words;

/// Checkers, for suggestions and to tell them from other keywords.
const CHECKERS: [&str; 10] = [
    "TCP_CHECK",
    "HTTP_GET",
    "SSL_GET",
    "SMTP_CHECK",
    "DNS_CHECK",
    "UDP_CHECK",
    "PING_CHECK",
    "MISC_CHECK",
    "FILE_CHECK",
    "BFD_CHECK",
];

/// Keywords of checkers, for suggestions.
const KEYWORDS: &[&str] = &[
    "connect_ip",
    "connect_port",
    "connect_timeout",
    "bindto",
    "bind_if",
    "bind_port",
    "fwmark",
    "retry",
    "delay_before_retry",
    "delay_loop",
    "warmup",
    "alpha",
    "url",
    "path",
    "digest",
    "status_code",
    "virtualhost",
    "regex",
    "helo_name",
    "misc_path",
    "payload",
    "require_reply",
];

/// What a UDP check without a payload sends; keepalived sends random bytes.
const PAYLOAD: &str = "52565320636865636b";

/// Values that a checker inherits from its server, and that from the service.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    /// Time from one attempt to the next.
    pub delay_loop: Option<Duration>,
    /// Time from a failure to the next attempt.
    pub delay_before_retry: Option<Duration>,
    /// Failures after the first.
    pub retry: Option<i64>,
    /// Most that the first attempt is put off.
    pub warmup: Option<Duration>,
    /// Time for an attempt.
    pub connect_timeout: Option<Duration>,
    /// Down until the first success.
    pub alpha: Option<bool>,
    /// Virtual host.
    pub host: Option<String>,
}

/// A check, complete but for the port that it may take from its server.
#[derive(Clone, Debug)]
pub struct Heir {
    /// Its keys.
    pub table: Table,
    /// Whether it needs a port.
    pub has_port: bool,
    /// Its keyword.
    pub id: usize,
}

/// Whether a keyword is a checker.
pub fn is_check(word: &str) -> bool {
    CHECKERS.contains(&word)
}

impl Mapper<'_> {
    /// The checks that a checker becomes.
    pub(super) fn check(&mut self, node: &Node, inherited: &Inherited) -> Vec<Heir> {
        let name = match node.keyword() {
            "TCP_CHECK" => "tcp",
            "HTTP_GET" => "http",
            "SSL_GET" => "https",
            "SMTP_CHECK" => "smtp",
            "DNS_CHECK" => "dns",
            "UDP_CHECK" => "udp",
            "PING_CHECK" => "ping",
            _ => return self.other_check(node, inherited),
        };
        let mut keys = Table::of("service.server.check", node);
        keys.add("type", Value::text(name));
        let mut own = inherited.clone();
        let mut special = Vec::new();
        for child in &node.children {
            if child.keyword() == "nb_get_retry" && !name.starts_with("http") {
                let note = "keepalived knows it in HTTP_GET and SSL_GET alone and ignores this, so does the import";
                self.report.changed(child, note);
            } else if !self.connection(child, &mut keys) && !self.pace_of_check(child, &mut own) {
                special.push(child);
            }
        }
        self.report
            .taken(node, &format!("service.server.check, type {name}"));
        let mut keys = paced(keys, name, &own);
        let tables = match name {
            "http" | "https" => self.pages(node, &special, &keys, &own),
            "smtp" => self.smtp(node, &special, keys),
            _ => {
                for child in special {
                    self.special(name, child, &mut keys);
                }
                if name == "udp" {
                    self.settle_udp(node, &mut keys);
                }
                vec![keys]
            }
        };
        let heir = |table| Heir {
            table,
            has_port: name != "ping",
            id: node.id,
        };
        tables.into_iter().map(heir).collect()
    }

    /// Where a check connects to and from.
    pub(super) fn connection(&mut self, node: &Node, keys: &mut Table) -> bool {
        let pair = match node.keyword() {
            "connect_ip" => self.address(node).map(|addr| ("address", address(addr))),
            "bindto" => self.address(node).map(|addr| ("source", address(addr))),
            "connect_port" => {
                let port = self.number(node, 1, 65_535);
                port.map(|port| ("port", Value::Integer(port)))
            }
            "bind_if" => {
                let name = self.word(node).map(str::to_owned);
                self.interfaces.extend(name.clone());
                name.map(|name| ("interface", Value::Text(name)))
            }
            "fwmark" => {
                let mark = self.number(node, 0, i64::from(u32::MAX));
                mark.map(|mark| ("fwmark", Value::Integer(mark)))
            }
            "bind_port" => {
                self.report
                    .ignored(node, "checks leave from a port of the kernel's choice");
                None
            }
            _ => return false,
        };
        if let Some((name, value)) = pair {
            self.put(keys, name, value, node);
        }
        true
    }

    /// How often a check is made.
    pub(super) fn pace_of_check(&mut self, node: &Node, own: &mut Inherited) -> bool {
        match node.keyword() {
            "alpha" => {
                own.alpha = node.arg(0).map_or(Some(true), boolean);
                self.report.taken(node, "service.server.check.alpha");
                true
            }
            "nb_get_retry" => {
                own.retry = self.number(node, 0, 1000).or(own.retry);
                self.report.taken(node, "retry of the check");
                true
            }
            _ => self.inheritance(node, own),
        }
    }

    /// `SSL`: keepalived shows a certificate of its own and verifies none.
    pub(super) fn tls(&mut self, node: &Node) {
        self.report.taken(node, "checks of type https");
        let has = |word| node.children.iter().any(|child| child.keyword() == word);
        let lacks = match () {
            () if has("password") => Some("a key with a password is not read: decrypt the file"),
            () if has("certificate") != has("key") => Some("certificate and key need each other"),
            () => None,
        };
        for child in &node.children {
            match child.keyword() {
                "ca" => self.report.ignored(
                    child,
                    "keepalived verifies nothing with it; verify and ca_file of a check do",
                ),
                word @ ("certificate" | "key" | "password") => {
                    let name = match word {
                        "certificate" => "cert_file",
                        _ => "key_file",
                    };
                    match (lacks, self.word(child)) {
                        (Some(why), _) => self.report.lost(child, why),
                        (None, Some(file)) => {
                            let file = Value::text(file);
                            self.own_certificate.insert(name, file);
                            let taken = format!("{name} of checks of type https");
                            self.report.taken(child, &taken);
                        }
                        (None, None) => {}
                    }
                }
                _ => self.elsewhere(child, &["ca", "certificate", "key", "password"]),
            }
        }
    }

    /// One check for each `url`.
    fn pages(
        &mut self,
        node: &Node,
        special: &[&Node],
        keys: &Table,
        own: &Inherited,
    ) -> Vec<Table> {
        let is_tls = node.keyword() == "SSL_GET";
        let mut keys = keys.clone();
        let mut out = Vec::new();
        if is_tls && !special.iter().any(|n| n.keyword() == "enable_sni") {
            let note = "the server name of the session (SNI) is sent where there is a virtual host";
            self.report.changed(node, note);
        }
        for (name, file) in self.own_certificate.iter().filter(|_| is_tls) {
            keys.add(name, file.clone());
        }
        for child in special {
            match child.keyword() {
                "url" => {}
                "http_protocol" => {
                    let version = self.word(child).map(str::to_ascii_lowercase);
                    let known = ["1.0", "1.0c", "1.1"];
                    match version.filter(|v| known.contains(&v.as_str())) {
                        Some(v) => self.put(&mut keys, "http_version", Value::Text(v), child),
                        None => self.report.lost(child, "no version; known: 1.0, 1.0C, 1.1"),
                    }
                }
                "fast_recovery" => self
                    .report
                    .taken(child, "always so: pages are checked at the same time"),
                "enable_sni" if is_tls => {
                    self.report
                        .taken(child, "always so: sni is the virtual host");
                }
                "sni_name" if is_tls => {
                    if let Some(name) = self.word(child) {
                        self.put(&mut keys, "sni", Value::text(name), child);
                    }
                }
                "tls_compliant" => self.report.ignored(child, "closing is always clean"),
                "enable_sni" => self.report.ignored(child, "there is no TLS in this check"),
                _ => self.elsewhere(child, KEYWORDS),
            }
        }
        let urls: Vec<&&Node> = special.iter().filter(|n| n.keyword() == "url").collect();
        for url in &urls {
            out.push(self.page(url, keys.clone(), own));
        }
        match urls.len() {
            0 => self.report.left_out(
                node,
                "without a url keepalived ignores the checker, so does the import",
            ),
            1 => self
                .report
                .changed(node, "the timeout is for the whole attempt"),
            n => {
                let note = format!(
                    "{n} checks, one for each url, made at the same time; the timeout is for a whole attempt"
                );
                self.report.changed(node, note);
            }
        }
        out
    }

    fn page(&mut self, url: &Node, mut table: Table, own: &Inherited) -> Table {
        self.report.taken(url, "service.server.check");
        table.ids.push(url.id);
        if let Some(host) = &own.host {
            table.add("host", Value::text(&**host));
        }
        let mut options = String::new();
        for child in &url.children {
            match child.keyword() {
                "path" => {
                    if let Some(path) = self.word(child) {
                        let path = Value::Texts(vec![path.to_owned()]);
                        self.put(&mut table, "paths", path, child);
                    }
                }
                "digest" => {
                    if let Some(digest) = self.word(child) {
                        self.put(&mut table, "digest", Value::text(digest), child);
                    }
                }
                "status_code" => {
                    let codes = Value::Texts(child.args().to_vec());
                    self.put(&mut table, "status", codes, child);
                }
                "virtualhost" => {
                    if let Some(host) = self.word(child) {
                        self.put(&mut table, "host", Value::text(host), child);
                    }
                }
                "regex" => {
                    let regex = words::command(&child.text).into_iter().nth(1);
                    match regex {
                        Some(regex) => {
                            self.put(&mut table, "regex", Value::Text(regex), child);
                            let note = "PCRE became Rust's syntax, which has no look-around and no back-references";
                            self.report.changed(child, note);
                        }
                        None => self.report.lost(child, "its value is missing"),
                    }
                }
                "regex_no_match" => {
                    let yes = Value::Boolean(true);
                    self.put(&mut table, "regex_no_match", yes, child);
                }
                "regex_min_offset" | "regex_max_offset" => {
                    let name = match child.keyword() {
                        "regex_min_offset" => "regex_min_offset",
                        _ => "regex_max_offset",
                    };
                    if let Some(offset) = self.number(child, 0, 1 << 20) {
                        self.put(&mut table, name, Value::Integer(offset), child);
                    }
                }
                "regex_options" => options += &self.regex_options(child),
                "regex_stack" => self.report.ignored(child, "RVS's matcher needs no stack"),
                "tls_compliant" => self.report.ignored(child, "closing is always clean"),
                _ => self.elsewhere(child, KEYWORDS),
            }
        }
        if !options.is_empty()
            && let Some(Value::Text(regex)) = table.get("regex")
        {
            let regex = format!("(?{options}){regex}");
            table.amend("regex", Value::Text(regex));
        }
        table
    }

    /// Flags of Rust's syntax for PCRE's options.
    fn regex_options(&mut self, node: &Node) -> String {
        let mut flags = String::new();
        for word in node.args() {
            match word.as_str() {
                "caseless" => flags.push('i'),
                "multiline" => flags.push('m'),
                "dotall" => flags.push('s'),
                "extended" => flags.push('x'),
                "ungreedy" => flags.push('U'),
                // The matcher has no such things to switch off, or no such speed to gain.
                "no_auto_capture" | "no_start_optimize" | "no_auto_possess" | "utf" | "ucp"
                | "no_dotstar_anchor" => {}
                other => self
                    .report
                    .lost(node, format!("option {other} has no counterpart")),
            }
        }
        self.report.taken(node, "flags in front of the regex");
        flags
    }

    /// One check, or one for each `host` block.
    fn smtp(&mut self, node: &Node, special: &[&Node], mut keys: Table) -> Vec<Table> {
        keys.add("helo_name", Value::text("smtpchecker.keepalived.org"));
        for child in special.iter().filter(|n| n.keyword() != "host") {
            match child.keyword() {
                "helo_name" => {
                    if let Some(name) = self.word(child) {
                        self.put(&mut keys, "helo_name", Value::text(name), child);
                    }
                }
                _ => self.elsewhere(child, KEYWORDS),
            }
        }
        self.report
            .changed(node, "the timeout is for the whole session");
        let mut out = Vec::new();
        for host in special.iter().filter(|n| n.keyword() == "host") {
            let mut table = keys.clone();
            table.ids.push(host.id);
            self.report.taken(host, "service.server.check");
            for child in &host.children {
                if !self.connection(child, &mut table) {
                    self.elsewhere(child, KEYWORDS);
                }
            }
            out.push(table);
        }
        match out.is_empty() {
            true => vec![keys],
            false => out,
        }
    }

    fn special(&mut self, name: &str, node: &Node, keys: &mut Table) {
        match (name, node.keyword()) {
            ("dns", "type") => {
                if let Some(kind) = self.word(node) {
                    let kind = Value::text(kind.to_ascii_uppercase());
                    self.put(keys, "query_type", kind, node);
                }
            }
            ("dns", "name") => {
                if let Some(name) = self.word(node) {
                    self.put(keys, "query_name", Value::text(name), node);
                }
            }
            ("udp", "payload") => match hexadecimal(node.args(), false) {
                Some(digits) => self.put(keys, "payload", Value::Text(digits), node),
                None => self.report.lost(node, "not hexadecimal"),
            },
            ("udp", "require_reply") => match hexadecimal(node.args(), true) {
                Some(digits) => self.put(keys, "reply", Value::Text(digits), node),
                None => self.report.lost(node, "not hexadecimal"),
            },
            ("udp", "min_reply_length") => {
                if let Some(len) = self.number(node, 0, 65_535) {
                    self.put(keys, "reply_min", Value::Integer(len), node);
                }
            }
            ("udp", "max_reply_length") => {
                if let Some(len) = self.number(node, 0, 65_535) {
                    self.put(keys, "reply_max", Value::Integer(len), node);
                }
            }
            _ => self.elsewhere(node, KEYWORDS),
        }
    }

    fn settle_udp(&mut self, node: &Node, keys: &mut Table) {
        if !keys.has("payload") {
            keys.add("payload", Value::text(PAYLOAD));
            self.report.changed(
                node,
                "\"RVS check\" is sent where keepalived sends random bytes",
            );
        }
        match keys.has("reply") {
            true if !keys.has("reply_max") => keys.add("reply_max", Value::Integer(255)),
            true => {}
            false => {
                for child in &node.children {
                    let name = match child.keyword() {
                        "min_reply_length" => "reply_min",
                        "max_reply_length" => "reply_max",
                        _ => continue,
                    };
                    keys.drop_key(name);
                    self.report
                        .changed(child, "does nothing without require_reply; left out");
                }
            }
        }
    }
}

/// Adds the pace: all of it is written, so that nothing depends on defaults.
pub fn paced(mut keys: Table, name: &str, own: &Inherited) -> Table {
    const DELAY_LOOP: Duration = Duration::from_secs(60);
    let delay_loop = own.delay_loop.unwrap_or(DELAY_LOOP);
    let before_retry = match name {
        "http" | "https" => Duration::from_secs(3),
        "dns" => delay_loop,
        _ => Duration::from_secs(1),
    };
    let before_retry = own.delay_before_retry.unwrap_or(before_retry);
    let retry = match name {
        "dns" => 3,
        "script" => 0,
        _ => 1,
    };
    let time = |time: Duration| Value::Text(duration(time));
    keys.add("delay_loop", time(delay_loop));
    let timeout = match name {
        "script" => delay_loop,
        _ => Duration::from_secs(5),
    };
    keys.add("timeout", time(own.connect_timeout.unwrap_or(timeout)));
    keys.add("retry", Value::Integer(own.retry.unwrap_or(retry)));
    keys.add("delay_before_retry", time(before_retry));
    if let Some(warmup) = own.warmup {
        keys.add("warmup", time(warmup));
    }
    if let Some(alpha) = own.alpha {
        keys.add("alpha", Value::Boolean(alpha));
    }
    keys
}

/// Keepalived's free form: pairs of digits within each word, a single one is a byte of its own.
fn hexadecimal(words: &[String], wild: bool) -> Option<String> {
    let mut out = String::new();
    for word in words {
        let digits: Vec<char> = word.chars().map(|c| c.to_ascii_lowercase()).collect();
        let fits = |c: &char| c.is_ascii_hexdigit() || (wild && *c == 'x');
        if !digits.iter().all(fits) {
            return None;
        }
        for pair in digits.chunks(2) {
            if let [single] = pair {
                out.extend(['0', *single]);
            } else {
                out.extend(pair);
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_in_pairs_within_a_word() {
        let words = |text: &str| words::split(text);
        let bytes = hexadecimal(&words("Ab12f 3 456 546443123"), false);
        assert_eq!(bytes.as_deref(), Some("ab120f0345065464431203"));
        assert_eq!(hexadecimal(&words("xF X"), true).as_deref(), Some("xf0x"));
        assert_eq!(hexadecimal(&words("xF"), false), None);
        assert_eq!(hexadecimal(&[], true).as_deref(), Some(""));
    }
}
