//! Peers and links as they are listed.

use dataplane::time::Instant;

use super::link::Link;
use super::machine::Peer;
use crate::api::PeerView;

impl Peer {
    /// For `-L --daemon --json`.
    pub fn view(&self, now: Instant) -> PeerView {
        let last = self.tally.last;
        PeerView {
            addr: self.at.ip(),
            node: format!("{:012x}", self.hello.node),
            alive: !self.is_lost,
            heard_ms: now.since(self.heard).as_millis() as u64,
            connections: self.hello.connections,
            complete: self.is_complete(),
            in_step: self.is_in_step(),
            gaps: self.tally.gaps,
            missed: self.tally.missed,
            repairs: self.tally.repairs,
            transfers: self.tally.transfers,
            refreshes: self.tally.refreshes,
            copied: last.map_or(0, |copied| copied.entries),
            copied_ms: last.map_or(0, |copied| copied.took.as_millis() as u64),
        }
    }
}

impl Link {
    /// What is wrong with it, in lines for the operator.
    pub fn warnings(&self) -> Vec<String> {
        let view = self.view();
        let interface = &self.place().interface;
        let mut lines = Vec::new();
        // A view is empty until the first look.
        if !view.has_link && !view.peers.is_empty() {
            lines.push(format!(
                "synchronisation: {interface} is down; see ip link show {interface}"
            ));
        }
        for (addr, why) in view.refused.senders() {
            lines.push(format!(
                "synchronisation: hellos of {addr} on {interface} are not taken: {why}; give both \
                 nodes the same key_file, and the same time"
            ));
        }
        for peer in &view.peers {
            let addr = peer.at.ip();
            if peer.is_lost {
                lines.push(format!(
                    "synchronisation: nothing is heard of {addr} on {interface} any more; if it \
                     runs, check the link"
                ));
            } else if !peer.is_complete() {
                lines.push(format!(
                    "synchronisation: the table of {addr} has not come yet"
                ));
            } else if peer.has_gap() {
                lines.push(format!(
                    "synchronisation: messages of {addr} were lost and are asked for again"
                ));
            }
        }
        lines
    }
}
