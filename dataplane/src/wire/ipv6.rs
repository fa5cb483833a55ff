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
