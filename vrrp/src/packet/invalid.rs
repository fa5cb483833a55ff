//! Why a received advert was refused.

macro_rules! reasons {
    ($($variant:ident $name:literal $doc:literal,)*) => {
        /// Why an advert was refused: the index of a counter and its name in listings. A refused
        /// advert changes nothing but this counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Invalid { $(#[doc = $doc] $variant,)* }

        impl Invalid {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Invalid] = &[$(Invalid::$variant,)*];
            /// Number of reasons.
            pub const COUNT: usize = Invalid::ALL.len();
            /// Name in listings and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Invalid::$variant => $name,)* }
            }
            /// One line for the operator: what it means.
            pub const fn help(self) -> &'static str {
                match self { $(Invalid::$variant => $doc,)* }
            }
        }
    };
}

// In the order in which they are looked for.
reasons! {
    Truncated "truncated" "shorter than its IP header or the VRRP header says, or a fragment",
    Protocol "protocol" "IP packet of another protocol than VRRP",
    UnknownVrid "unknown-vrid" "no instance with this virtual router id on the interface",
    NotListening "not-listening" "the instance is stopped, at fault or within its start-up delay",
    AuthHeader "auth-header" "carries an IPsec authentication header, which is not supported",
    Length "length" "length differs from what version and number of addresses imply",
    Ttl "ttl" "TTL or hop limit is not 255: a router forwarded it",
    Version "version" "VRRP version differs from the configured one",
    AuthType "auth-type" "authentication type differs from the configured one",
    Password "password" "wrong password",
    Interval "interval" "advert interval differs from the configured one (version 2), or is zero",
    Type "type" "not an advertisement",
    IpLength "ip-length" "total length of the IP header differs from the length of the message",
    Checksum "checksum" "checksum is wrong",
    Destination "destination" "multicast to a unicast instance or the reverse, or another group",
    OwnerIgnores "owner-ignores" "the address owner was told to ignore adverts",
    NotAPeer "not-a-peer" "sender is not among the configured unicast peers",
    PeerTtl "peer-ttl" "TTL or hop limit is outside the range configured for the peer",
    Busy "busy" "more adverts at once than the program fetched results of",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_explained() {
        for (i, reason) in Invalid::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(
                Invalid::ALL[..i]
                    .iter()
                    .all(|other| other.name() != reason.name())
            );
            assert!(!reason.help().is_empty());
        }
    }
}
