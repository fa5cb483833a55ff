//! What no virtual router can be: all mistakes at once, each with what to do.

use core::net::IpAddr;

use super::{Config, MAX_PEERS, Preempt, Transport};
use crate::addr::Family;
use crate::packet::{Auth, Version};
use crate::timers::AdvertInterval;

/// A mistake in a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Virtual router id 0.
    #[error("virtual router id 0 is reserved; use 1 to 255")]
    Vrid,
    /// Priority 0.
    #[error("priority 0 is reserved for giving up; use 1 to 254, or 255 for the address owner")]
    Priority,
    /// The interval does not fit the version.
    #[error("advert interval {interval} cannot be carried by version {version}; use {hint}")]
    Interval {
        /// What was configured.
        interval: AdvertInterval,
        /// The version.
        version: Version,
        /// What the version can carry.
        hint: &'static str,
    },
    /// No advert may be missed, or too many.
    #[error("down_timer_adverts {0} is out of range; use 1 to 100, 3 by the standard")]
    DownTimerAdverts(u8),
    /// A password that cannot be sent.
    #[error("a password needs VRRP version 2 over IPv4; remove it or use version 2")]
    Auth,
    /// Too many addresses for one advert.
    #[error("{0} addresses are more than the 255 an advert holds; move some to unadvertised")]
    TooManyAddresses(usize),
    /// An advertised address of the other family.
    #[error("address {0} is of the other family; move it to unadvertised or to its own instance")]
    AddressFamily(IpAddr),
    /// The same address twice.
    #[error("address {0} is listed twice; remove one")]
    DuplicateAddress(IpAddr),
    /// An impossible prefix length.
    #[error("prefix length {1} of address {0} is too long")]
    PrefixLength(IpAddr, u8),
    /// The group is no multicast address of the family.
    #[error("{0} is no multicast group of the instance's family; use {1}")]
    Group(IpAddr, IpAddr),
    /// Unicast without peers.
    #[error("unicast without peers reaches nobody; name at least one peer or use multicast")]
    NoPeers,
    /// Too many peers.
    #[error("{0} unicast peers are more than {MAX_PEERS}; use multicast or fewer")]
    TooManyPeers(usize),
    /// A peer that no advert can be sent to.
    #[error("unicast peer {0} is of the other family or no unicast address")]
    Peer(IpAddr),
    /// The same peer twice.
    #[error("unicast peer {0} is listed twice; remove one")]
    DuplicatePeer(IpAddr),
    /// An empty TTL range.
    #[error("peer {0}: min_ttl {1} is above max_ttl {2}")]
    PeerTtl(IpAddr, u8, u8),
    /// TTL 0.
    #[error("unicast TTL 0 never leaves the host; use 1 to 255")]
    Ttl,
    /// A source of the other family.
    #[error("source {0} is of the other family; use one of the addresses' family")]
    Source(IpAddr),
    /// An owner that is told to wait.
    #[error("the address owner (priority 255) always takes over; lower the priority or let it")]
    OwnerPreempt,
}

impl Config {
    /// Everything that is wrong, in the order of the fields.
    ///
    /// # Errors
    /// At least one mistake.
    pub fn check(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        self.check_numbers(&mut errors);
        self.check_addresses(&mut errors);
        self.check_transport(&mut errors);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    fn check_numbers(&self, errors: &mut Vec<ConfigError>) {
        let mut refuse = |is_wrong: bool, error: ConfigError| {
            if is_wrong {
                errors.push(error);
            }
        };
        refuse(self.key.vrid == 0, ConfigError::Vrid);
        refuse(self.priority == 0, ConfigError::Priority);
        let hint = match self.version {
            Version::V2 => "whole seconds from 1s to 255s, or version 3",
            Version::V3 => "10ms to 40.95s in steps of 10ms, or version 2",
        };
        refuse(
            !self.interval.fits(self.version),
            ConfigError::Interval {
                interval: self.interval,
                version: self.version,
                hint,
            },
        );
        refuse(
            !(1..=100).contains(&self.down_timer_adverts),
            ConfigError::DownTimerAdverts(self.down_timer_adverts),
        );
        refuse(
            self.is_owner() && self.preempt != Preempt::Now,
            ConfigError::OwnerPreempt,
        );
        let has_auth = (self.version, self.key.family) == (Version::V2, Family::V4);
        refuse(!has_auth && self.auth != Auth::None, ConfigError::Auth);
    }

    fn check_addresses(&self, errors: &mut Vec<ConfigError>) {
        if self.addresses.len() > 255 {
            errors.push(ConfigError::TooManyAddresses(self.addresses.len()));
        }
        for address in &self.addresses {
            if Family::of(address.addr) != self.key.family {
                errors.push(ConfigError::AddressFamily(address.addr));
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        for address in self.all_addresses() {
            if address.prefix_len > Family::of(address.addr).bits() {
                errors.push(ConfigError::PrefixLength(address.addr, address.prefix_len));
            }
            if !seen.insert(address.addr) {
                errors.push(ConfigError::DuplicateAddress(address.addr));
            }
        }
    }

    fn check_transport(&self, errors: &mut Vec<ConfigError>) {
        let family = self.key.family;
        if let Some(source) = self.source.filter(|s| Family::of(*s) != family) {
            errors.push(ConfigError::Source(source));
        }
        let (peers, ttl) = match &self.transport {
            Transport::Multicast { group } => {
                if !group.is_multicast() || Family::of(*group) != family {
                    errors.push(ConfigError::Group(*group, family.group()));
                }
                return;
            }
            Transport::Unicast { peers, ttl, .. } => (peers, *ttl),
        };
        match peers.len() {
            0 => errors.push(ConfigError::NoPeers),
            1..=MAX_PEERS => {}
            n => errors.push(ConfigError::TooManyPeers(n)),
        }
        if ttl == 0 {
            errors.push(ConfigError::Ttl);
        }
        for (i, peer) in peers.iter().enumerate() {
            if Family::of(peer.addr) != family
                || peer.addr.is_multicast()
                || peer.addr.is_unspecified()
            {
                errors.push(ConfigError::Peer(peer.addr));
            }
            if peer.min_ttl > peer.max_ttl {
                errors.push(ConfigError::PeerTtl(peer.addr, peer.min_ttl, peer.max_ttl));
            }
            if peers[..i].iter().any(|other| other.addr == peer.addr) {
                errors.push(ConfigError::DuplicatePeer(peer.addr));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::super::{Key, VirtualAddress};
    use super::*;
    use crate::packet::Peer;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn config(family: Family) -> Config {
        let addr = match family {
            Family::V4 => ip("10.0.0.100"),
            Family::V6 => ip("fe80::100"),
        };
        let mut config = Config::new(Key {
            interface: 1,
            family,
            vrid: 51,
        });
        config.addresses = vec![VirtualAddress::host(addr)];
        config
    }

    fn errors(family: Family, edit: impl FnOnce(&mut Config)) -> Vec<ConfigError> {
        let mut config = config(family);
        edit(&mut config);
        config.check().err().unwrap_or_default()
    }

    #[test]
    fn each_mistake_is_named() {
        use ConfigError as E;
        assert_eq!(config(Family::V4).check(), Ok(()));
        assert_eq!(config(Family::V6).check(), Ok(()));
        let v4 = |edit: fn(&mut Config)| errors(Family::V4, edit);
        assert_eq!(v4(|c| c.key.vrid = 0), [E::Vrid]);
        assert_eq!(v4(|c| c.priority = 0), [E::Priority]);
        assert_eq!(v4(|c| c.down_timer_adverts = 0), [E::DownTimerAdverts(0)]);
        assert_eq!(
            v4(|c| c.down_timer_adverts = 101),
            [E::DownTimerAdverts(101)]
        );
        assert_eq!(v4(|c| c.auth = Auth::password("x")), [E::Auth]);
        assert_eq!(
            v4(|c| (c.auth, c.version) = (Auth::password("x"), Version::V2)),
            []
        );
        assert_eq!(
            v4(|c| (c.priority, c.preempt) = (255, Preempt::Never)),
            [E::OwnerPreempt]
        );
        assert_eq!(
            v4(|c| c.addresses[0].prefix_len = 33),
            [E::PrefixLength(ip("10.0.0.100"), 33)]
        );
        assert_eq!(
            v4(|c| c.source = Some(ip("fd00::1"))),
            [E::Source(ip("fd00::1"))]
        );
        let twice = VirtualAddress::host(ip("10.0.0.100"));
        assert_eq!(
            errors(Family::V4, |c| c.unadvertised.push(twice)),
            [E::DuplicateAddress(twice.addr)]
        );
        let other = VirtualAddress::host(ip("fd00::1"));
        assert_eq!(errors(Family::V4, |c| c.unadvertised.push(other)), []);
        assert_eq!(
            errors(Family::V4, |c| c.addresses.push(other)),
            [E::AddressFamily(other.addr)]
        );
        // RFC 5798, 5.2.9 wants a link-local address first; keepalived does not insist.
        assert_eq!(errors(Family::V6, |c| c.addresses.insert(0, other)), []);
        let quick = AdvertInterval::new(Version::V3, Duration::from_millis(250)).unwrap();
        assert!(matches!(
            errors(Family::V4, |c| (c.version, c.interval) =
                (Version::V2, quick))[..],
            [E::Interval { .. }]
        ));
    }

    #[test]
    fn transports_reach_somebody() {
        use ConfigError as E;
        let unicast = |peers: Vec<Peer>, ttl| {
            errors(Family::V4, |c| {
                c.transport = Transport::Unicast {
                    peers,
                    ttl,
                    check_source: true,
                };
            })
        };
        let peer = Peer::new(ip("10.0.0.2"));
        assert_eq!(unicast(vec![peer], 255), []);
        assert_eq!(unicast(vec![], 255), [E::NoPeers]);
        assert_eq!(unicast(vec![peer], 0), [E::Ttl]);
        assert_eq!(unicast(vec![peer, peer], 1), [E::DuplicatePeer(peer.addr)]);
        assert_eq!(
            unicast(vec![Peer::new(ip("fe80::2"))], 1),
            [E::Peer(ip("fe80::2"))]
        );
        let range = Peer {
            min_ttl: 9,
            max_ttl: 8,
            ..peer
        };
        assert_eq!(unicast(vec![range], 1), [E::PeerTtl(peer.addr, 9, 8)]);
        let many = (0..33).map(|i| Peer::new([10, 0, 1, i].into())).collect();
        assert_eq!(unicast(many, 1), [E::TooManyPeers(33)]);
        assert_eq!(
            errors(Family::V6, |c| {
                c.transport = Transport::Multicast {
                    group: ip("224.0.0.18"),
                };
            }),
            [E::Group(ip("224.0.0.18"), ip("ff02::12"))]
        );
    }
}
