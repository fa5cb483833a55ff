//! `strict`: an instance as RFC 5798 has it, as keepalived's `vrrp_strict`.

use vrrp::addr::is_link_local;
use vrrp::config::Config as Machine;
use vrrp::packet::{Auth, Version};

use super::Notes;
use crate::config::file::Table;

/// Says what of an instance the RFC does not have.
pub(super) fn check(table: &Table, machine: &Machine, notes: &mut Notes<'_>) {
    let mut refuse = |key: &str, why: &str| {
        let line = if table.mentions(key) {
            table.line_of(key)
        } else {
            table.line
        };
        notes.mistake(line, format!("strict: {why}"));
    };
    if machine.auth != Auth::None {
        refuse("auth", "VRRP has no authentication; remove auth");
    }
    if table.mentions("peers") {
        refuse("peers", "adverts are multicast; remove peers");
    }
    if table.mentions("vmac_xmit_base") {
        refuse(
            "vmac_xmit_base",
            "adverts come from the virtual MAC; remove vmac_xmit_base",
        );
    }
    if table.mentions("preempt_delay") {
        refuse(
            "preempt_delay",
            "there is no delay of preemption; remove preempt_delay",
        );
    }
    if machine.down_timer_adverts != 3 {
        refuse(
            "down_timer_adverts",
            "three adverts may be missed; remove down_timer_adverts",
        );
    }
    if machine.starts_as_master && !machine.is_owner() {
        refuse(
            "initial_state",
            "only priority 255 begins as master; remove initial_state",
        );
    }
    match machine.addresses.first().map(|first| first.addr) {
        None => refuse("vip", "a virtual router has addresses; add a vip"),
        // RFC 5798, 5.2.9.
        Some(first) if first.is_ipv6() && !is_link_local(first) => {
            refuse(
                "vip",
                "the first IPv6 address has to be link-local; put one of fe80::/10 first",
            );
        }
        Some(_) => {}
    }
    // RFC 3768 knows no accept mode.
    if machine.version == Version::V2 && machine.accept && !machine.is_owner() {
        refuse("accept", "version 2 has no accept mode; remove accept");
    }
}
