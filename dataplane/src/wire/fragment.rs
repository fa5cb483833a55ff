//! Cutting a packet into fragments (RFC 791, 3.2; RFC 8200, 4.5).

use crate::wire::{ipv4, ipv6};

/// Most bytes of layer 2 before the IP header.
const MAX_L2: usize = 32;

/// Headers of an IPv6 fragment.
const V6_HEADERS: usize = ipv6::HEADER_LEN + ipv6::FRAGMENT_LEN;

/// Where offset and "more" stand in them.
const V6_FIELD: usize = ipv6::HEADER_LEN + 2;

/// The fragments of one packet, written one by one into buffers of the caller's.
///
/// ```
/// # use dataplane::wire::fragment::Fragments;
/// # fn send(_: &[u8]) {}
/// # let frame: &[u8] = &[];
/// # let mut buffer = [0u8; 2048];
/// if let Some(mut fragments) = Fragments::new(frame, 14, 1500) {
///     while fragments.next_len().is_some() {
///         if let Some(n) = fragments.write(&mut buffer) {
///             send(&buffer[..n]);
///         }
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    /// Layer 2 and IP header of the next fragment.
    head: [u8; MAX_L2 + ipv4::MAX_HEADER_LEN],
    l3: usize,
    head_len: usize,
    /// Payload not written yet.
    rest: &'a [u8],
    /// Most payload of one fragment but the last: a multiple of 8.
    step: usize,
    /// Most payload of the last fragment.
    room: usize,
    /// Offset of the next fragment in units of 8 bytes.
    offset: u16,
    is_v4: bool,
    /// The packet was itself a fragment with MF.
    more: bool,
}

impl<'a> Fragments<'a> {
    /// Cuts the packet that begins `l3` bytes into `frame` to fragments of at most `mtu` bytes
    /// (layer 3). Layer 2 is repeated before each. `None` if that is an IPv4 packet with DF, an
    /// IPv6 packet that does not begin with a fragment header (its identification is that of the
    /// pieces), no IP packet at all, or if the MTU leaves no room for 8 bytes.
    pub fn new(frame: &'a [u8], l3: usize, mtu: u16) -> Option<Fragments<'a>> {
        let ip = frame.get(l3..)?;
        if l3 > MAX_L2 {
            return None;
        }
        let is_v4 = match *ip.first()? >> 4 {
            4 => true,
            6 if *ip.get(6)? == ipv6::FRAGMENT => false,
            _ => return None,
        };
        let word = |at: usize| Some(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?]));
        let (header_len, total, offset, more) = if is_v4 {
            let field = word(6)?;
            if field & ipv4::DONT_FRAGMENT != 0 {
                return None;
            }
            let more = field & ipv4::MORE_FRAGMENTS != 0;
            let (len, total) = (ipv4::header_len(ip)?, usize::from(word(2)?));
            (len, total, field & ipv4::OFFSET_MASK, more)
        } else {
            let field = word(V6_FIELD)?;
            let total = ipv6::HEADER_LEN + usize::from(word(4)?);
            (V6_HEADERS, total, field >> 3, field & 1 != 0)
        };
        let room = usize::from(mtu).checked_sub(header_len)?;
        let step = room & !7;
        if step == 0 {
            return None;
        }
        let mut head = [0; MAX_L2 + ipv4::MAX_HEADER_LEN];
        let head_len = l3 + header_len;
        head.get_mut(..head_len)?
            .copy_from_slice(frame.get(..head_len)?);
        Some(Fragments {
            head,
            l3,
            head_len,
            rest: ip.get(header_len..total)?,
            step,
            room,
            offset,
            is_v4,
            more,
        })
    }

    /// Bytes of the next frame, `None` when all are written.
    pub fn next_len(&self) -> Option<usize> {
        (!self.rest.is_empty()).then(|| self.head_len + self.take())
    }

    /// Payload of the next fragment.
    fn take(&self) -> usize {
        if self.rest.len() <= self.room {
            self.rest.len()
        } else {
            self.step
        }
    }

    /// Writes the next frame to the beginning of `buffer` and returns its length; `None` when
    /// all are written or the buffer is too small (the fragment is not lost then).
    pub fn write(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let len = self.next_len()?;
        let (payload, rest) = self.rest.split_at_checked(self.take())?;
        let out = buffer.get_mut(..len)?;
        let more = self.more || !rest.is_empty();
        let ip = self.head.get_mut(self.l3..self.head_len)?;
        if self.is_v4 {
            let total = (ip.len() + payload.len()) as u16;
            let field = self.offset | if more { ipv4::MORE_FRAGMENTS } else { 0 };
            ip.get_mut(2..4)?.copy_from_slice(&total.to_be_bytes());
            ip.get_mut(6..8)?.copy_from_slice(&field.to_be_bytes());
            ipv4::fill_checksum(ip);
        } else {
            let len = (ipv6::FRAGMENT_LEN + payload.len()) as u16;
            let field = self.offset << 3 | u16::from(more);
            ip.get_mut(4..6)?.copy_from_slice(&len.to_be_bytes());
            ip.get_mut(V6_FIELD..V6_FIELD + 2)?
                .copy_from_slice(&field.to_be_bytes());
        }
        let (head, body) = out.split_at_mut_checked(self.head_len)?;
        head.copy_from_slice(self.head.get(..self.head_len)?);
        body.copy_from_slice(payload);
        if self.is_v4 && self.offset == 0 {
            blank_uncopied_options(
                self.head
                    .get_mut(self.l3 + ipv4::HEADER_LEN..self.head_len)?,
            );
        }
        self.rest = rest;
        self.offset = self.offset.wrapping_add((payload.len() / 8) as u16) & ipv4::OFFSET_MASK;
        Some(len)
    }
}

/// Options without the "copied" bit stand in the first fragment only; in the others they become
/// no-operations, so that all headers have one length (`ip_options_fragment`).
fn blank_uncopied_options(options: &mut [u8]) {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let len = match kind {
            END => return,
            NOP => 1,
            _ => options.get(at + 1).map_or(0, |l| usize::from(*l)),
        };
        if len == 0 || (kind != NOP && len < 2) {
            return;
        }
        let Some(option) = options.get_mut(at..at + len) else {
            return;
        };
        if kind & COPIED == 0 {
            option.fill(NOP);
        }
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum;

    fn packet(options: &[u8], payload: usize, field: u16) -> Vec<u8> {
        let mut f = vec![0xee; 14];
        let header = 20 + options.len();
        f.extend([0x40 | (header / 4) as u8, 0]);
        f.extend(((header + payload) as u16).to_be_bytes());
        f.extend([0x12, 0x34]);
        f.extend(field.to_be_bytes());
        f.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        f.extend(options);
        f.extend((0..payload).map(|i| i as u8));
        ipv4::fill_checksum(&mut f[14..]);
        f
    }

    fn cut(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        let mut fragments = Fragments::new(frame, 14, mtu).unwrap();
        let mut out = Vec::new();
        while let Some(len) = fragments.next_len() {
            let mut buffer = vec![0; len];
            assert_eq!(fragments.write(&mut buffer[..len - 1]), None);
            assert_eq!(fragments.write(&mut buffer), Some(len));
            out.push(buffer);
        }
        out
    }

    /// Length, field and payload of a fragment, whose checksum is checked.
    fn read(f: &[u8]) -> (usize, u16, &[u8]) {
        let header = usize::from(f[14] & 15) * 4;
        assert!(checksum::is_valid(&f[14..14 + header]));
        assert_eq!(
            usize::from(u16::from_be_bytes([f[16], f[17]])),
            f.len() - 14
        );
        assert_eq!(f[18..20], [0x12, 0x34]);
        (
            f.len() - 14,
            u16::from_be_bytes([f[20], f[21]]),
            &f[14 + header..],
        )
    }

    #[test]
    fn as_the_kernel_cuts_a_tunnel_packet() {
        // 1520 bytes over 1500: 1500 with MF, then 20 + 20 at offset 185 * 8.
        let whole = packet(&[], 1500, 0);
        let pieces = cut(&whole, 1500);
        assert_eq!(pieces.len(), 2);
        assert_eq!((read(&pieces[0]).0, read(&pieces[0]).1), (1500, 0x2000));
        assert_eq!((read(&pieces[1]).0, read(&pieces[1]).1), (40, 185));
        assert_eq!(
            [read(&pieces[0]).2, read(&pieces[1]).2].concat(),
            whole[34..]
        );
    }

    #[test]
    fn a_packet_that_fits_stays_whole_and_a_fragment_keeps_its_place() {
        assert_eq!(cut(&packet(&[], 100, 0), 120), [packet(&[], 100, 0)]);
        let pieces = cut(&packet(&[], 64, 0x2000 | 100), 20 + 47);
        assert_eq!(
            pieces.iter().map(|p| read(p).1).collect::<Vec<_>>(),
            [0x2064, 0x2069]
        );
    }

    #[test]
    fn options_that_are_not_copied_are_blanked_later() {
        // Record route (not copied) of 7 bytes, then a copied option of 4, then end.
        let options = [7, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0, 0];
        let pieces = cut(&packet(&options, 40, 0), 32 + 16);
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[0][34..46], options);
        assert_eq!(pieces[1][34..46], [1, 1, 1, 1, 1, 1, 1, 0x94, 4, 0, 0, 0]);
        assert_eq!(pieces[2][34..46], pieces[1][34..46]);
        let data = pieces.iter().flat_map(|p| read(p).2.to_vec());
        assert!(data.eq((0..40).map(|i| i as u8)));
    }

    #[test]
    fn ipv6_is_cut_at_its_fragment_header() {
        let payload: Vec<u8> = (0..100).collect();
        let header = ipv6::Header {
            traffic_class: 0x2e,
            payload_len: 108,
            next: ipv6::FRAGMENT,
            hop_limit: 63,
            src: [1; 16],
            dst: [2; 16],
        };
        let mut whole = vec![0xee; 14];
        whole.extend(header.emit());
        whole.extend(ipv6::fragment_header(4, 0x0102_0304));
        whole.extend(&payload);
        let pieces = cut(&whole, 48 + 45);
        let lens: Vec<usize> = pieces.iter().map(|p| p.len() - 14 - 48).collect();
        assert_eq!(lens, [40, 40, 20]);
        for (i, (piece, len)) in pieces.iter().zip(&lens).enumerate() {
            let more = i != 2;
            let field = (i * 40) as u16 | u16::from(more);
            assert_eq!(piece[18..20], ((len + 8) as u16).to_be_bytes());
            assert_eq!(piece[54..56], [4, 0]);
            assert_eq!(piece[56..58], field.to_be_bytes());
            assert_eq!(piece[58..62], [1, 2, 3, 4]);
            assert_eq!(piece[..18], whole[..18]);
        }
        let data = pieces.iter().flat_map(|p| p[62..].to_vec());
        assert!(data.eq(payload));
        // Without such a header it stays whole: routers do not cut IPv6.
        whole[20] = 41;
        assert!(Fragments::new(&whole, 14, 100).is_none());
    }

    #[test]
    fn refusals() {
        assert!(Fragments::new(&packet(&[], 64, 0x4000), 14, 40).is_none());
        assert!(Fragments::new(&packet(&[], 64, 0), 14, 27).is_none());
        assert!(Fragments::new(&packet(&[], 64, 0), 14, 28).is_some());
        assert!(Fragments::new(&packet(&[], 64, 0)[..60], 14, 40).is_none());
        assert!(Fragments::new(&[0; 60], 40, 40).is_none());
        assert!(Fragments::new(&[], 14, 40).is_none());
    }
}
