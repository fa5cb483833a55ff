//! Advertisements: the only message of VRRP.
//!
//! ```text
//!  0        1        2        3        4        5        6        7        8
//!  version  VRID     priority number   auth     interval checksum          addresses …
//!  | type                     of addr. type     (s)                        [8 bytes of auth data]
//!                                      0000 interval (cs)                  version 3: no auth
//! ```
//!
//! [`Received`] is a message with what its IP header said, [`Advert`] a well-formed one,
//! [`Expected`] what an instance demands of it, [`Invalid`] why it was refused, [`Outgoing`] one
//! to be sent. None of it allocates but the encoder's result.

mod advert;
mod check;
mod encode;
mod invalid;
mod received;

pub use advert::{Addresses, Advert};
pub use check::{Expected, Peer, Sender, peek_vrid};
pub use encode::{Outgoing, TRAFFIC_CLASS, ethernet, ip};
pub use invalid::Invalid;
pub use received::Received;

use core::fmt;

/// Bytes before the addresses.
pub const HEADER_SIZE: usize = 8;
/// Bytes of authentication data after the addresses of version 2 over IPv4.
pub const AUTH_SIZE: usize = 8;
/// `ADVERTISEMENT`, the only type (RFC 5798, 5.2.2).
pub const ADVERTISEMENT: u8 = 1;

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// RFC 3768, with the simple password of RFC 2338. Over IPv6 it is keepalived's own.
    V2,
    /// RFC 5798 and RFC 9568.
    V3,
}

impl Version {
    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Version::V2 => 2,
            Version::V3 => 3,
        }
    }

    /// The version of a number on the wire.
    pub const fn from_number(number: u8) -> Option<Version> {
        match number {
            2 => Some(Version::V2),
            3 => Some(Version::V3),
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// Authentication of version 2. It is no security: the password is sent in clear. It tells
/// clusters on one LAN apart.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub enum Auth {
    /// Type 0: eight zero bytes.
    #[default]
    None,
    /// Type 1: a password of up to eight bytes, padded with zeros.
    Password([u8; AUTH_SIZE]),
}

impl Auth {
    /// A password as keepalived takes it: what exceeds eight bytes is cut off.
    pub fn password(text: &str) -> Auth {
        let mut padded = [0; AUTH_SIZE];
        for (to, from) in padded.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Auth::Password(padded)
    }

    /// The type on the wire.
    pub const fn kind(self) -> u8 {
        match self {
            Auth::None => 0,
            Auth::Password(_) => 1,
        }
    }

    /// The data on the wire.
    pub const fn data(self) -> [u8; AUTH_SIZE] {
        match self {
            Auth::None => [0; AUTH_SIZE],
            Auth::Password(data) => data,
        }
    }
}

impl fmt::Debug for Auth {
    /// Never shows the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Auth::None => "None",
            Auth::Password(_) => "Password",
        })
    }
}

/// What the checksum of version 3 over IPv4 covers. RFC 5798 could be read both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChecksumForm {
    /// A pseudo-header and the message: keepalived.
    Pseudo,
    /// The message alone: RFC 9568, Cisco, Arista.
    Plain,
}

/// Which checksum form to send in version 3 over IPv4. Both are always accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ChecksumPolicy {
    /// With pseudo-header.
    #[default]
    Keepalived,
    /// Without.
    Rfc9568,
    /// As in the last valid advert heard, from that peer if there are several; keepalived's until
    /// then.
    Auto,
}

/// Bytes of a message: header, addresses and, in version 2 over IPv4, authentication data.
pub const fn message_size(version: Version, family: crate::addr::Family, count: usize) -> usize {
    let tail = match (version, family) {
        (Version::V2, crate::addr::Family::V4) => AUTH_SIZE,
        _ => 0,
    };
    HEADER_SIZE + count * family.size() + tail
}

/// Most addresses that one advert on a link of this MTU carries. A driver that has more moves the
/// rest to the unadvertised ones.
pub const fn max_addresses(version: Version, family: crate::addr::Family, mtu: usize) -> usize {
    let most =
        mtu.saturating_sub(family.header_size() + message_size(version, family, 0)) / family.size();
    if most > 255 { 255 } else { most }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Family;

    #[test]
    fn addresses_fit_the_link() {
        assert_eq!(max_addresses(Version::V2, Family::V4, 1500), 255);
        assert_eq!(max_addresses(Version::V2, Family::V4, 576), 135);
        assert_eq!(max_addresses(Version::V3, Family::V6, 1500), 90);
        assert_eq!(max_addresses(Version::V3, Family::V6, 20), 0);
    }

    #[test]
    fn passwords_are_cut_and_padded_and_never_shown() {
        assert_eq!(Auth::password("abc").data(), *b"abc\0\0\0\0\0");
        assert_eq!(Auth::password("s3cr3t12345"), Auth::Password(*b"s3cr3t12"));
        assert!(!format!("{:?}", Auth::password("abc")).contains("abc"));
    }
}
