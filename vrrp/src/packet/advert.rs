//! A well-formed advert, seen in place.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message_size;
use super::{ADVERTISEMENT, AUTH_SIZE, ChecksumForm, HEADER_SIZE, Invalid, Received, Version};
use crate::PROTOCOL;
use crate::addr::Family;
use crate::checksum::Sum;
use crate::timers::AdvertInterval;

/// What a frame needs at least after its Ethernet header; shorter ones are padded.
const ETHERNET_MIN: usize = 46;

/// A well-formed advert; the addresses are still in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert<'a> {
    /// Version of the protocol.
    pub version: Version,
    /// Virtual router id.
    pub vrid: u8,
    /// Priority; 0 says that the master gives up.
    pub priority: u8,
    /// Time to the master's next advert.
    pub interval: AdvertInterval,
    /// What the checksum covered. `Pseudo` wherever there is only one way.
    pub form: ChecksumForm,
    /// The virtual addresses.
    pub addresses: Addresses<'a>,
}

impl<'a> Advert<'a> {
    /// Decodes an advert of any instance: what can be said without knowing what is configured.
    ///
    /// # Errors
    /// `Truncated`, `AuthHeader`, `Length`, `Version`, `Interval` (zero), `Type`, `IpLength`,
    /// `Checksum`.
    pub fn decode(received: &Received<'a>) -> Result<Advert<'a>, Invalid> {
        let raw = Raw::read(received)?;
        if received.authenticated {
            return Err(Invalid::AuthHeader);
        }
        raw.check_length()?;
        let version = raw.version.ok_or(Invalid::Version)?;
        let interval = raw.interval(version)?;
        raw.check_type()?;
        raw.check_ip_length(version)?;
        Ok(Advert {
            version,
            vrid: raw.vrid,
            priority: raw.priority,
            interval,
            form: raw.checksum_form(version)?,
            addresses: raw.addresses(version),
        })
    }
}

/// The fields of a message before they were judged, one method per check.
pub(super) struct Raw<'a> {
    received: Received<'a>,
    family: Family,
    pub version: Option<Version>,
    kind: u8,
    pub vrid: u8,
    pub priority: u8,
    count: u8,
    byte4: u8,
    byte5: u8,
}

impl<'a> Raw<'a> {
    /// Takes the header apart.
    pub fn read(received: &Received<'a>) -> Result<Raw<'a>, Invalid> {
        let header: &[u8; HEADER_SIZE] =
            received.message.first_chunk().ok_or(Invalid::Truncated)?;
        if Family::of(received.src) != Family::of(received.dst) {
            return Err(Invalid::Truncated);
        }
        let [first, vrid, priority, count, byte4, byte5, ..] = *header;
        Ok(Raw {
            received: *received,
            family: Family::of(received.src),
            version: Version::from_number(first >> 4),
            kind: first & 0x0f,
            vrid,
            priority,
            count,
            byte4,
            byte5,
        })
    }

    /// Bytes of the message by version and number of addresses.
    fn implied(&self, version: Version) -> usize {
        message_size(version, self.family, usize::from(self.count))
    }

    /// The buffer is as long as implied, or longer by the padding of a short Ethernet frame.
    /// Frames are padded to 46 bytes, and a VLAN tag taken off shortens the padding by 4.
    /// Versions that are not known have no length; they fail later.
    pub fn check_length(&self) -> Result<(), Invalid> {
        let Some(version) = self.version else {
            return Ok(());
        };
        let header = self.received.header_size;
        let (expected, actual) = (
            header + self.implied(version),
            header + self.received.message.len(),
        );
        let is_padding = actual > expected
            && actual <= ETHERNET_MIN
            && (actual - expected) % 4 == ETHERNET_MIN % 4;
        if actual == expected || is_padding {
            Ok(())
        } else {
            Err(Invalid::Length)
        }
    }

    /// Authentication type and data of version 2. Over IPv6 there is no data.
    pub fn auth(&self) -> (u8, Option<[u8; AUTH_SIZE]>) {
        let from = HEADER_SIZE + usize::from(self.count) * self.family.size();
        let tail = self
            .received
            .message
            .get(from..)
            .and_then(|tail| tail.first_chunk());
        (
            self.byte4,
            tail.copied().filter(|_| self.family == Family::V4),
        )
    }

    /// The interval, in the version's unit.
    pub fn interval(&self, version: Version) -> Result<AdvertInterval, Invalid> {
        let field = match version {
            Version::V2 => u16::from(self.byte5),
            Version::V3 => u16::from_be_bytes([self.byte4 & 0x0f, self.byte5]),
        };
        AdvertInterval::from_wire(version, field).ok_or(Invalid::Interval)
    }

    pub fn check_type(&self) -> Result<(), Invalid> {
        if self.kind == ADVERTISEMENT {
            Ok(())
        } else {
            Err(Invalid::Type)
        }
    }

    pub fn check_ip_length(&self, version: Version) -> Result<(), Invalid> {
        let implied = self.implied(version);
        if self.received.declared == implied && self.received.message.len() >= implied {
            Ok(())
        } else {
            Err(Invalid::IpLength)
        }
    }

    /// Which of the forms the checksum has; see [`ChecksumForm`].
    pub fn checksum_form(&self, version: Version) -> Result<ChecksumForm, Invalid> {
        let implied = self.implied(version);
        let message = self
            .received
            .message
            .get(..implied)
            .ok_or(Invalid::IpLength)?;
        let plain = Sum::default().with(message);
        let len = u16::try_from(implied).map_err(|_| Invalid::IpLength)?;
        let pseudo = plain.pseudo(self.received.src, self.received.dst, PROTOCOL, len);
        let is_ambiguous = (version, self.family) == (Version::V3, Family::V4);
        match (version, self.family) {
            (Version::V2, Family::V4) if plain.is_valid() => Ok(ChecksumForm::Pseudo),
            (Version::V2, Family::V4) => Err(Invalid::Checksum),
            _ if pseudo.is_valid() => Ok(ChecksumForm::Pseudo),
            _ if is_ambiguous && plain.is_valid() => Ok(ChecksumForm::Plain),
            _ => Err(Invalid::Checksum),
        }
    }

    /// The addresses; empty if the message is too short, which the length checks exclude.
    pub fn addresses(&self, version: Version) -> Addresses<'a> {
        let end = HEADER_SIZE + usize::from(self.count) * self.family.size();
        debug_assert!(end <= self.implied(version));
        let bytes = self
            .received
            .message
            .get(HEADER_SIZE..end)
            .unwrap_or_default();
        Addresses {
            family: self.family,
            bytes,
        }
    }
}

/// The virtual addresses of an advert, in its order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Addresses<'a> {
    family: Family,
    bytes: &'a [u8],
}

impl<'a> Addresses<'a> {
    /// Number of addresses.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.family.size()
    }

    /// Whether there are none, which is legal.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The addresses.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = IpAddr> + use<'a> {
        let family = self.family;
        self.bytes
            .chunks_exact(family.size())
            .map(move |bytes| match family {
                Family::V4 => {
                    let mut octets = [0; 4];
                    octets.copy_from_slice(bytes);
                    Ipv4Addr::from(octets).into()
                }
                Family::V6 => {
                    let mut octets = [0; 16];
                    octets.copy_from_slice(bytes);
                    Ipv6Addr::from(octets).into()
                }
            })
    }
}

impl fmt::Debug for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
