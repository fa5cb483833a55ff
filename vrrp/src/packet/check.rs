//! The checks of an instance, in keepalived's order: the first that fails names the reason.

use core::net::IpAddr;

use super::advert::Raw;
use super::{Advert, Auth, Invalid, Received, Version};
use crate::timers::AdvertInterval;

/// What an instance demands of an advert.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The configured version.
    pub version: Version,
    /// The configured authentication; version 3 has none.
    pub auth: Auth,
    /// The configured interval, which version 2 insists on.
    pub interval: AdvertInterval,
    /// Who may send, and to where.
    pub sender: Sender<'a>,
    /// Whether this is an address owner that ignores adverts (RFC 5798, 6.4.3 has no such rule;
    /// keepalived's `owner_ignore_adverts`).
    pub owner_ignores: bool,
}

/// Who may send, and to where.
#[derive(Clone, Copy, Debug)]
pub enum Sender<'a> {
    /// Anybody on the link (TTL 255), to this group.
    Multicast(IpAddr),
    /// To a unicast address.
    Unicast {
        /// The configured peers.
        peers: &'a [Peer],
        /// Whether the sender must be one of `peers`.
        check_source: bool,
    },
}

/// A router that adverts are sent to by unicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub addr: IpAddr,
    /// Lowest TTL or hop limit that its adverts may have.
    pub min_ttl: u8,
    /// Highest TTL or hop limit that its adverts may have.
    pub max_ttl: u8,
}

impl Peer {
    /// A peer any number of hops away.
    pub const fn new(addr: IpAddr) -> Peer {
        Peer {
            addr,
            min_ttl: 0,
            max_ttl: 255,
        }
    }
}

/// The virtual router id of a message, for finding the instance that judges it.
///
/// # Errors
/// `Truncated`.
pub fn peek_vrid(received: &Received<'_>) -> Result<u8, Invalid> {
    Raw::read(received).map(|raw| raw.vrid)
}

impl Expected<'_> {
    /// Judges a message.
    ///
    /// # Errors
    /// The first check that fails, in keepalived's order.
    pub fn check<'a>(&self, received: &Received<'a>) -> Result<Advert<'a>, Invalid> {
        let raw = Raw::read(received)?;
        if received.authenticated {
            return Err(Invalid::AuthHeader);
        }
        raw.check_length()?;
        if matches!(self.sender, Sender::Multicast(_)) && received.ttl != 255 {
            return Err(Invalid::Ttl);
        }
        let version = self.version;
        if raw.version != Some(version) {
            return Err(Invalid::Version);
        }
        if version == Version::V2 {
            self.check_auth(&raw)?;
        }
        let interval = raw.interval(version)?;
        if version == Version::V2 && interval != self.interval {
            return Err(Invalid::Interval);
        }
        raw.check_type()?;
        raw.check_ip_length(version)?;
        let form = raw.checksum_form(version)?;
        self.check_destination(received)?;
        if self.owner_ignores {
            return Err(Invalid::OwnerIgnores);
        }
        self.check_peer(received)?;
        Ok(Advert {
            version,
            vrid: raw.vrid,
            priority: raw.priority,
            interval,
            form,
            addresses: raw.addresses(version),
        })
    }

    fn check_auth(&self, raw: &Raw<'_>) -> Result<(), Invalid> {
        let (kind, data) = raw.auth();
        if kind != self.auth.kind() {
            return Err(Invalid::AuthType);
        }
        match (self.auth, data) {
            (Auth::Password(_), None) => Err(Invalid::Password),
            (Auth::Password(ours), Some(theirs)) if !is_same(&ours, &theirs) => {
                Err(Invalid::Password)
            }
            _ => Ok(()),
        }
    }

    fn check_destination(&self, received: &Received<'_>) -> Result<(), Invalid> {
        let is_right = match self.sender {
            Sender::Multicast(group) => received.dst == group,
            Sender::Unicast { .. } => !received.dst.is_multicast(),
        };
        if is_right {
            Ok(())
        } else {
            Err(Invalid::Destination)
        }
    }

    fn check_peer(&self, received: &Received<'_>) -> Result<(), Invalid> {
        let Sender::Unicast {
            peers,
            check_source,
        } = self.sender
        else {
            return Ok(());
        };
        match peers.iter().find(|peer| peer.addr == received.src) {
            Some(peer) if !(peer.min_ttl..=peer.max_ttl).contains(&received.ttl) => {
                Err(Invalid::PeerTtl)
            }
            None if check_source => Err(Invalid::NotAPeer),
            _ => Ok(()),
        }
    }
}

/// Compares without telling by its time where the difference is.
fn is_same(a: &[u8; 8], b: &[u8; 8]) -> bool {
    a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
