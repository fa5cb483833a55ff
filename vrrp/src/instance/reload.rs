//! A new configuration without a gap: the state stays, addresses change by their difference.

use super::{Instance, State};
use crate::config::{Config, VirtualAddress};
use crate::output::{Announced, Output, Outputs};
use crate::packet::Version;
use crate::time::Instant;
use crate::track::effective_priority;

impl Instance {
    /// Takes over a configuration for the same key. One for another key, or one that does not
    /// pass [`Config::check`], is ignored. A master stays master and says so at once.
    pub(super) fn reload(&mut self, now: Instant, config: Config, out: &mut Outputs) {
        if config.key != self.config.key || config.check().is_err() {
            return;
        }
        let before = self.master_down();
        let old = core::mem::replace(&mut self.config, config);
        self.facts.configure(&self.config);
        self.advertised = self
            .config
            .addresses
            .iter()
            .map(|address| address.addr)
            .collect();
        let knows_master = matches!(&self.state, State::Backup(backup) if backup.master.is_some());
        if self.config.version == Version::V2 || !knows_master {
            self.interval = self.config.interval;
        }
        let priority = effective_priority(self.config.priority, self.facts.track.weight);
        if priority != self.priority {
            self.priority = priority;
            self.emit(Output::Priority(priority), out);
        }
        self.shift(now, before);
        if matches!(self.state, State::Master(_)) {
            self.change_addresses(now, &old, out);
        }
        self.evaluate(now, out);
    }

    fn change_addresses(&mut self, now: Instant, old: &Config, out: &mut Outputs) {
        let without = |from: &Config, other: &Config| -> Vec<VirtualAddress> {
            from.all_addresses()
                .filter(|a| !other.all_addresses().any(|b| b == *a))
                .copied()
                .collect()
        };
        let (gone, new) = (without(old, &self.config), without(&self.config, old));
        if !gone.is_empty() {
            self.emit(Output::RemoveAddresses(gone), out);
        }
        // At once: peers learn a new interval from it.
        self.send_advert(now, out);
        if !new.is_empty() {
            self.emit(self.addition(new), out);
            self.announce(
                Announced::VirtualAddresses,
                self.config.announcing.repeat,
                out,
            );
        }
    }
}
