//! IPv6 (RFC 8200): header fields and the chain of extension headers.

use crate::flow::Fragment;

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Smallest MTU of a link.
pub const MIN_MTU: u16 = 1280;
/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing.
pub const ROUTING: u8 = 43;
/// Next header: fragment.
pub const FRAGMENT: u8 = 44;
/// Bytes of a fragment header.
pub const FRAGMENT_LEN: usize = 8;
/// Next header: none follows.
pub const NO_NEXT: u8 = 59;
/// Next header: destination options.
pub const DEST_OPTIONS: u8 = 60;

/// Headers followed before a chain is given up; real packets have one or two.
const MAX_EXTENSIONS: usize = 8;

/// Whether the walk passes over this header.
#[inline(always)]
pub const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DEST_OPTIONS)
}

/// Where a chain of extension headers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Next header number there: a transport, or the extension header that could not be passed.
    pub protocol: u8,
    /// Its offset from the end of the fixed header; never more than the bytes given.
    pub offset: u16,
    /// The fragment header, if there was one.
    pub fragment: Option<Fragment>,
}

/// Follows the chain that begins with header `next` at `bytes[0]` (behind the fixed header).
///
/// It stops at the first header that is no extension, after a fragment header that is not the
/// first piece (what follows is payload), at a header that is cut short, at a routing header with
/// segments left (the destination is not the final one) and after a bounded number of headers.
pub fn walk(next: u8, bytes: &[u8]) -> Chain {
    let mut chain = Chain {
        protocol: next,
        offset: 0,
        fragment: None,
    };
    for _ in 0..MAX_EXTENSIONS {
        let here = bytes.get(chain.offset as usize..).unwrap_or(&[]);
        let Some(h) = here.first_chunk::<8>() else {
            break;
        };
        let len = match chain.protocol {
            FRAGMENT => {
                let field = u16::from_be_bytes([h[2], h[3]]);
                chain.fragment = Some(Fragment {
                    id: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
                    offset: field & 0xfff8,
                    more: field & 1 != 0,
                });
                8
            }
            ROUTING if h[3] != 0 => break,
            HOP_BY_HOP | ROUTING | DEST_OPTIONS => (u16::from(h[1]) + 1) * 8,
            _ => break,
        };
        if len as usize > here.len() || chain.offset.checked_add(len).is_none() {
            break;
        }
        chain.protocol = h[0];
        chain.offset += len;
        if chain.fragment.is_some_and(|f| f.offset != 0) {
            break;
        }
    }
    chain
}

/// A fixed header, as we write it. The flow label is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Traffic class.
    pub traffic_class: u8,
    /// Length of what follows the fixed header.
    pub payload_len: u16,
    /// What follows.
    pub next: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
}

impl Header {
    /// The header's bytes.
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut h = [0u8; HEADER_LEN];
        h[0] = 0x60 | self.traffic_class >> 4;
        h[1] = self.traffic_class << 4;
        h[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        h[6] = self.next;
        h[7] = self.hop_limit;
        h[8..24].copy_from_slice(&self.src);
        h[24..40].copy_from_slice(&self.dst);
        h
    }
}

/// A fragment header (RFC 8200, 4.5) with offset 0 and no more to come.
pub const fn fragment_header(next: u8, id: u32) -> [u8; FRAGMENT_LEN] {
    let [a, b, c, d] = id.to_be_bytes();
    [next, 0, 0, 0, a, b, c, d]
}

/// Traffic class of the packet that begins `ip`.
#[inline]
pub fn traffic_class(ip: &[u8]) -> Option<u8> {
    ip.first_chunk::<2>().map(|b| b[0] << 4 | b[1] >> 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains() {
        let tcp = Chain {
            protocol: 6,
            offset: 0,
            fragment: None,
        };
        assert_eq!(walk(6, &[]), tcp);
        // Hop-by-hop of 8 bytes, then destination options of 16, then UDP.
        let mut bytes = [0u8; 32];
        bytes[..2].copy_from_slice(&[DEST_OPTIONS, 0]);
        bytes[8..10].copy_from_slice(&[17, 1]);
        assert_eq!(
            walk(HOP_BY_HOP, &bytes),
            Chain {
                protocol: 17,
                offset: 24,
                fragment: None
            }
        );
        // Cut inside the second header: it ends there.
        let cut = walk(HOP_BY_HOP, &bytes[..23]);
        assert_eq!(
            cut,
            Chain {
                protocol: DEST_OPTIONS,
                offset: 8,
                fragment: None
            }
        );
        assert_eq!(walk(HOP_BY_HOP, &bytes[..7]).offset, 0);
        // A chain that never ends is given up.
        assert_eq!(walk(HOP_BY_HOP, &[0; 400]).protocol, HOP_BY_HOP);
    }

    #[test]
    fn a_routing_header_with_segments_left_is_not_passed() {
        assert_eq!(walk(ROUTING, &[6, 0, 0, 0, 0, 0, 0, 0]).protocol, 6);
        assert_eq!(walk(ROUTING, &[6, 0, 0, 1, 0, 0, 0, 0]).protocol, ROUTING);
    }

    #[test]
    fn fragments() {
        let first = walk(FRAGMENT, &[6, 0, 0, 1, 0, 0, 0, 9]);
        assert_eq!((first.protocol, first.offset), (6, 8));
        assert_eq!(
            first.fragment,
            Some(Fragment {
                id: 9,
                offset: 0,
                more: true
            })
        );
        // What follows in a later piece is payload, whatever it looks like.
        let later = walk(
            FRAGMENT,
            &[HOP_BY_HOP, 0, 5, 0xa8, 0, 0, 0, 9, 6, 0, 0, 0, 0, 0, 0, 0],
        );
        assert_eq!((later.protocol, later.offset), (HOP_BY_HOP, 8));
        assert_eq!(
            later.fragment,
            Some(Fragment {
                id: 9,
                offset: 0x5a8,
                more: false
            })
        );
    }

    #[test]
    fn emit() {
        let h = Header {
            traffic_class: 0x2f,
            payload_len: 300,
            next: 41,
            hop_limit: 7,
            src: [1; 16],
            dst: [2; 16],
        }
        .emit();
        assert_eq!(h[..8], [0x62, 0xf0, 0, 0, 1, 44, 41, 7]);
        assert_eq!(traffic_class(&h), Some(0x2f));
        assert_eq!((h[8], h[23], h[24], h[39]), (1, 1, 2, 2));
    }
}
