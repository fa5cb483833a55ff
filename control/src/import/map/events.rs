//! Scripts, mails and other things that are told of changes.

use super::Mapper;
use crate::import::document::Table;
use crate::import::tree::Node;

/// Not there yet.
const NO_SCRIPT: &str = "scripts for events are not supported yet by this version";
const NO_MAIL: &str = "mails are not supported yet by this version";
const NO_FIFO: &str = "FIFOs are not supported yet by this version";

impl Mapper<'_> {
    /// Of `global_defs`.
    pub(super) fn global_events(&mut self, node: &Node) -> bool {
        match node.keyword() {
            "router_id" => self
                .report
                .ignored(node, "only mails have the name of the host"),
            "notification_email"
            | "notification_email_from"
            | "smtp_server"
            | "smtp_helo_name"
            | "smtp_connect_timeout"
            | "smtp_alert"
            | "smtp_alert_vrrp"
            | "smtp_alert_checker"
            | "no_email_faults"
            | "no_checker_emails"
            | "rs_init_notifies" => self.report.ignored(node, NO_MAIL),
            "script_user" | "enable_script_security" => self.report.ignored(node, NO_SCRIPT),
            "notify_fifo"
            | "vrrp_notify_fifo"
            | "lvs_notify_fifo"
            | "notify_fifo_script"
            | "vrrp_notify_fifo_script"
            | "lvs_notify_fifo_script" => {
                self.report.lost(node, NO_FIFO);
            }
            "fifo_write_vrrp_states_on_reload" | "vrrp_notify_priority_changes" => {
                self.report.ignored(node, NO_FIFO);
            }
            _ => return false,
        }
        true
    }

    /// Of a `virtual_server`.
    pub(super) fn service_events(&mut self, node: &Node, _: &mut Table) -> bool {
        match node.keyword() {
            "quorum_up" | "quorum_down" => self.report.lost(node, NO_SCRIPT),
            "smtp_alert" => self.report.ignored(node, NO_MAIL),
            _ => return false,
        }
        true
    }

    /// Of a `real_server`.
    pub(super) fn server_events(&mut self, node: &Node, _: &mut Table) -> bool {
        match node.keyword() {
            "notify_up" | "notify_down" => self.report.lost(node, NO_SCRIPT),
            "smtp_alert" => self.report.ignored(node, NO_MAIL),
            _ => return false,
        }
        true
    }

    /// Of a `vrrp_instance` or `vrrp_sync_group`.
    pub(super) fn vrrp_events(&mut self, node: &Node, _: &mut Table) -> bool {
        match node.keyword() {
            "notify"
            | "notify_master"
            | "notify_backup"
            | "notify_fault"
            | "notify_stop"
            | "notify_deleted"
            | "notify_master_rx_lower_pri" => {
                self.report.lost(node, NO_SCRIPT);
            }
            "notify_priority_changes" => self.report.ignored(node, NO_FIFO),
            "smtp_alert" => self.report.ignored(node, NO_MAIL),
            _ => return false,
        }
        true
    }
}
