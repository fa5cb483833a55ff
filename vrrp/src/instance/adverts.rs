//! Sending adverts.

use super::{Instance, State};
use crate::addr::{Family, Mac};
use crate::config::{Config, Transport};
use crate::output::{Datagram, Output, Outputs};
use crate::packet::{ChecksumForm, ChecksumPolicy, Outgoing};
use crate::time::Instant;
use crate::timers;

impl Instance {
    /// Sends a round with the effective priority, renews the lease and starts the advert timer
    /// again. The only place that does either.
    pub(super) fn send_advert(&mut self, now: Instant, out: &mut Outputs) {
        self.send_round(self.priority, out);
        self.counters.adverts_sent += 1;
        let length = self.lease_length();
        let interval = self.config.interval.duration();
        let State::Master(master) = &mut self.state else {
            return;
        };
        master.lease.renew(now, length);
        // Kept in step with the schedule, unless this one is out of turn or too late for that.
        let due = master.next_advert;
        let is_in_step = due <= now && due + interval > now;
        master.next_advert = if is_in_step { due } else { now } + interval;
        if let Some(until) = master.lease.until() {
            self.emit(Output::Lease { until }, out);
        }
    }

    /// Gives up: sends a round with priority 0.
    pub(super) fn send_zero(&mut self, out: &mut Outputs) {
        self.send_round(0, out);
        self.counters.zero_sent += 1;
    }

    /// How long one round of adverts carries; see [`super::Lease`].
    pub(super) fn lease_length(&self) -> core::time::Duration {
        let Config {
            version,
            interval,
            down_timer_adverts,
            ..
        } = self.config;
        timers::master_down(version, 255, interval, down_timer_adverts)
    }

    fn send_round(&self, priority: u8, out: &mut Outputs) {
        match &self.config.transport {
            Transport::Multicast { group } => self.send(priority, *group, 255, out),
            Transport::Unicast { peers, ttl, .. } => {
                for peer in peers {
                    self.send(priority, peer.addr, *ttl, out);
                }
            }
        }
    }

    fn send(&self, priority: u8, dst: core::net::IpAddr, ttl: u8, out: &mut Outputs) {
        // Without a source there never was a state to send in.
        let Some(src) = self.facts.source() else {
            return;
        };
        let form = match self.config.checksum {
            ChecksumPolicy::Keepalived => ChecksumForm::Pseudo,
            ChecksumPolicy::Rfc9568 => ChecksumForm::Plain,
            ChecksumPolicy::Auto => self.heard.form_for(dst).unwrap_or(ChecksumForm::Pseudo),
        };
        let advert = Outgoing {
            version: self.config.version,
            vrid: self.config.key.vrid,
            priority,
            interval: self.config.interval,
            auth: self.config.auth,
            form,
            addresses: &self.advertised,
            src,
            dst,
            ttl,
        };
        let message = advert.message();
        let virtual_mac = self.virtual_mac();
        self.emit(
            Output::Send(Datagram {
                src,
                dst,
                ttl,
                virtual_mac,
                message,
            }),
            out,
        );
    }

    pub(super) fn virtual_mac(&self) -> Option<Mac> {
        let (family, vrid): (Family, u8) = (self.config.key.family, self.config.key.vrid);
        self.config
            .virtual_mac
            .then(|| Mac::virtual_router(family, vrid))
    }
}
