//! What is told of changes: scripts, named pipes, mails.

use super::{Mapper, script};
use crate::import::document::{Table, Value};
use crate::import::tree::Node;

const MAILS: &str = "no mail is sent without both notification_email and smtp_server";

/// `[alert.smtp]`, `[notify]` and `[scripts]` on their way.
#[derive(Debug)]
pub struct Events {
    mail: Table,
    notify: Table,
    fifo: Table,
    scripts: Table,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            mail: Table::single("alert.smtp", "global_defs"),
            notify: Table::single("notify", "global_defs"),
            fifo: Table::single("notify.fifo", ""),
            scripts: Table::single("scripts", "global_defs"),
        }
    }
}

impl Mapper<'_> {
    /// Of `global_defs`.
    pub(super) fn global_events(&mut self, node: &Node) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let known = self.global_event(node, &mut events);
        self.events = events;
        known
    }

    fn global_event(&mut self, node: &Node, events: &mut Events) -> bool {
        let mail = &mut events.mail;
        match node.keyword() {
            "router_id" => self.put_word(node, "router_id", mail),
            "notification_email" => {
                let mut ids = vec![node.id];
                let mut to = Vec::new();
                for child in &node.children {
                    to.extend(child.words.iter().cloned());
                    ids.push(child.id);
                    self.report.taken(child, "alert.smtp.to");
                }
                mail.set_for("to", Value::Texts(to), &ids);
                self.report.taken(node, "alert.smtp.to");
            }
            "notification_email_from" => self.put_word(node, "from", mail),
            "smtp_server" => {
                if let Some(host) = node.arg(0) {
                    let port = node.arg(1).unwrap_or("25");
                    let server = match host.contains(':') {
                        true => format!("[{host}]:{port}"),
                        false => format!("{host}:{port}"),
                    };
                    self.put(mail, "server", Value::Text(server), node);
                }
            }
            "smtp_helo_name" => self.put_word(node, "helo_name", mail),
            "smtp_connect_timeout" => {
                use std::time::Duration;
                let (least, most) = (Duration::from_millis(10), Duration::from_secs(600));
                if let Some(time) = self.time(node, least, most) {
                    let value = Value::Text(super::values::duration(time));
                    self.put(mail, "connect_timeout", value, node);
                }
            }
            "smtp_alert" => {
                if let Some(yes) = self.flag(node) {
                    self.put(mail, "vrrp", Value::Boolean(yes), node);
                    self.put(mail, "checker", Value::Boolean(yes), node);
                }
            }
            "smtp_alert_vrrp" | "smtp_alert_checker" => {
                let name = match node.keyword() {
                    "smtp_alert_vrrp" => "vrrp",
                    _ => "checker",
                };
                if let Some(yes) = self.flag(node) {
                    self.put(mail, name, Value::Boolean(yes), node);
                }
            }
            "email_faults" => {
                if let Some(yes) = self.flag(node) {
                    self.put(mail, "faults", Value::Boolean(yes), node);
                }
            }
            "no_email_faults" => self.put(mail, "faults", Value::Boolean(false), node),
            "no_checker_emails" => self.report.taken(
                node,
                "always so: mails are about servers and not about their checks",
            ),
            "rs_init_notifies" => self
                .report
                .ignored(node, "what holds at the start is in rvsadm health"),
            "script_user" => {
                if let Some(user) = user(node.args()) {
                    self.put(&mut events.scripts, "user", Value::Text(user), node);
                }
            }
            "enable_script_security" => {
                let secure = Value::Boolean(true);
                self.put(&mut events.scripts, "secure", secure, node);
            }
            "notify_fifo" | "vrrp_notify_fifo" | "lvs_notify_fifo" => {
                let name = match node.keyword() {
                    "notify_fifo" => "all",
                    "vrrp_notify_fifo" => "vrrp",
                    _ => "lvs",
                };
                if let Some(path) = node.arg(0) {
                    self.put(&mut events.fifo, name, Value::text(path), node);
                }
                if node.arg(1).is_some() {
                    self.report.changed(node, "the pipe belongs to rvsd's user");
                }
            }
            "notify_fifo_script" | "vrrp_notify_fifo_script" | "lvs_notify_fifo_script" => self
                .report
                .lost(node, "start the reader of the pipe as a service of its own"),
            "vrrp_notify_priority_changes" => {
                if let Some(yes) = self.flag(node) {
                    let value = Value::Boolean(yes);
                    self.put(&mut events.notify, "priority_changes", value, node);
                }
            }
            "fifo_write_vrrp_states_on_reload" => self
                .report
                .ignored(node, "a reload that changes nothing is no event"),
            _ => return false,
        }
        true
    }

    fn put_word(&mut self, node: &Node, name: &'static str, table: &mut Table) {
        if let Some(word) = self.word(node) {
            self.put(table, name, Value::text(word), node);
        }
    }

    /// Writes what was gathered.
    pub(super) fn put_events(&mut self) {
        let events = std::mem::take(&mut self.events);
        if events.mail.has("to") && events.mail.has("server") {
            self.document.tables.push(events.mail);
        } else {
            for key in &events.mail.keys {
                for id in &key.ids {
                    self.report.ignored_id(*id, MAILS);
                }
            }
        }
        for table in [events.notify, events.fifo, events.scripts] {
            if !table.keys.is_empty() {
                self.document.tables.push(table);
            }
        }
    }

    /// A script of a change, as `name` of a table.
    fn put_script(&mut self, node: &Node, name: &'static str, table: &mut Table) {
        let Some((command, user)) = script::command_and_user(node) else {
            self.report.lost(node, "it names no program");
            return;
        };
        self.put(table, name, Value::Texts(command.words), node);
        if let Some(note) = command.note {
            self.report.changed(node, note);
        }
        let Some(user) = user else { return };
        match table.get("user") {
            Some(Value::Text(other)) if *other != user => self.report.changed(
                node,
                format!("it runs as {other}, as the scripts beside it do"),
            ),
            _ => drop(table.set("user", Value::Text(user), node)),
        }
    }

    /// Of a `virtual_server`; scripts go into `[service.notify]`.
    pub(super) fn service_events(&mut self, node: &Node, notify: &mut Table) -> bool {
        match node.keyword() {
            "quorum_up" => self.put_script(node, "quorum_up", notify),
            "quorum_down" => self.put_script(node, "quorum_down", notify),
            "smtp_alert" => self.report.ignored(
                node,
                "mails are about all services or none: alert.smtp.checker",
            ),
            _ => return false,
        }
        true
    }

    /// Of a `real_server`; scripts go into `[service.server.notify]`.
    pub(super) fn server_events(&mut self, node: &Node, notify: &mut Table) -> bool {
        match node.keyword() {
            "notify_up" => self.put_script(node, "up", notify),
            "notify_down" => self.put_script(node, "down", notify),
            "smtp_alert" => self.report.ignored(
                node,
                "mails are about all servers or none: alert.smtp.checker",
            ),
            _ => return false,
        }
        true
    }

    /// Of a `vrrp_instance` or `vrrp_sync_group`; scripts go into its `notify`.
    pub(super) fn vrrp_events(&mut self, node: &Node, notify: &mut Table) -> bool {
        let name = match node.keyword() {
            "notify" => "any",
            "notify_master" => "master",
            "notify_backup" => "backup",
            "notify_fault" => "fault",
            "notify_stop" => "stop",
            "notify_deleted" if node.args().is_empty() => {
                self.report
                    .taken(node, "always so: notify.any is told DELETED");
                return true;
            }
            "notify_deleted" => "deleted",
            "notify_master_rx_lower_pri" => "master_rx_lower_pri",
            "notify_priority_changes" => {
                self.report.ignored(
                    node,
                    "changes of priorities are told of all instances or of none: notify.priority_changes",
                );
                return true;
            }
            "smtp_alert" => {
                if self.flag(node) == Some(true) {
                    self.events.mail.add("vrrp", Value::Boolean(true));
                    self.report.changed(
                        node,
                        "mails are about all instances and groups or none: alert.smtp.vrrp",
                    );
                } else {
                    self.report
                        .ignored(node, "mails are about all instances or none");
                }
                return true;
            }
            _ => return false,
        };
        self.put_script(node, name, notify);
        true
    }
}

/// `user` or `user:group`.
pub fn user(words: &[String]) -> Option<String> {
    match words {
        [] => None,
        [user] => Some(user.clone()),
        [user, group, ..] => Some(format!("{user}:{group}")),
    }
}
