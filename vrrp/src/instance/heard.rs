//! The routers that were heard.

use core::net::IpAddr;

use crate::packet::{Advert, ChecksumForm, Version};
use crate::time::Instant;
use crate::timers::AdvertInterval;

/// Most routers that are remembered; the one heard longest ago makes room.
const MAX_HEARD: usize = 16;

/// A router that sent valid adverts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeardPeer {
    /// Its address.
    pub addr: IpAddr,
    /// When it was last heard.
    pub at: Instant,
    /// Its priority then; 0 if it gave up.
    pub priority: u8,
    /// Its version.
    pub version: Version,
    /// Its interval.
    pub interval: AdvertInterval,
    /// The form of its checksums.
    pub form: ChecksumForm,
    /// Whether it has our addresses.
    pub same_addresses: bool,
}

/// All of them, the latest last.
#[derive(Debug, Default)]
pub(super) struct Heard {
    peers: Vec<HeardPeer>,
}

impl Heard {
    /// Remembers an advert; returns whether its addresses are `ours`.
    pub fn note(
        &mut self,
        now: Instant,
        addr: IpAddr,
        advert: &Advert<'_>,
        ours: &[IpAddr],
    ) -> bool {
        let same_addresses = is_same(advert, ours);
        match self.peers.iter().position(|peer| peer.addr == addr) {
            Some(known) => drop(self.peers.remove(known)),
            None if self.peers.len() == MAX_HEARD => drop(self.peers.remove(0)),
            None => {}
        }
        self.peers.push(HeardPeer {
            addr,
            at: now,
            priority: advert.priority,
            version: advert.version,
            interval: advert.interval,
            form: advert.form,
            same_addresses,
        });
        same_addresses
    }

    /// The latest last.
    pub fn peers(&self) -> &[HeardPeer] {
        &self.peers
    }

    /// The form of checksum that `dst` understands: its own if it was heard, the last heard one
    /// for a group.
    pub fn form_for(&self, dst: IpAddr) -> Option<ChecksumForm> {
        let peer = match dst.is_multicast() {
            true => self.peers.last(),
            false => self.peers.iter().find(|peer| peer.addr == dst),
        };
        peer.map(|peer| peer.form)
    }
}

/// Whether an advert names the same addresses, in any order.
fn is_same(advert: &Advert<'_>, ours: &[IpAddr]) -> bool {
    advert.addresses.len() == ours.len()
        && (advert.addresses.iter().eq(ours.iter().copied())
            || (advert.addresses.iter().all(|addr| ours.contains(&addr))
                && ours
                    .iter()
                    .all(|addr| advert.addresses.iter().any(|a| a == *addr))))
}
