//! Sequence numbers of a connection one direction of which was lengthened or shortened.
//!
//! Whoever replaces words in a TCP stream by longer ones has to move all numbers behind them, and
//! to move acknowledgements of the other side back. One change is remembered exactly, together
//! with the sum of all before it: that is enough for dialogues, in which the next change comes
//! after the last one was acknowledged (`vs_fix_seq`, `nf_ct_seqadj_set`).

use crate::wire::tcp;

/// What became of one direction of a connection. Numbers are the sender's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adjustment {
    /// Sequence number of the segment in which the last change was made.
    pub at: u32,
    /// Bytes that the receiver has more (or less) behind it.
    pub after: i32,
    /// Bytes that it had more up to there.
    pub before: i32,
}

/// Whether `a` comes behind `b` (RFC 9293, 3.4: modulo 2^32).
fn is_behind(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) as i32 <= -1
}

impl Adjustment {
    /// Notes that the segment at `seq` became longer by `by` bytes. A segment that is sent again
    /// is changed again, but counts once.
    #[must_use]
    pub fn changed(self, seq: u32, by: i32) -> Adjustment {
        if by == 0 || (self != Adjustment::default() && !is_behind(seq, self.at)) {
            return self;
        }
        Adjustment {
            at: seq,
            before: self.after,
            after: self.after.wrapping_add(by),
        }
    }

    /// A sequence number of the sender as the receiver is to see it.
    pub fn forward(&self, seq: u32) -> u32 {
        let by = if is_behind(seq, self.at) {
            self.after
        } else {
            self.before
        };
        seq.wrapping_add_signed(by)
    }

    /// An acknowledgement of the receiver as the sender is to see it.
    pub fn back(&self, ack: u32) -> u32 {
        let old = ack.wrapping_add_signed(self.before.wrapping_neg());
        if is_behind(old, self.at) {
            ack.wrapping_add_signed(self.after.wrapping_neg())
        } else {
            old
        }
    }

    /// Moves the sequence number in a TCP header of the sender. The checksum is left alone.
    pub fn move_sequence(&self, header: &mut [u8]) {
        change(header, SEQUENCE, |seq| self.forward(seq));
    }

    /// Moves the acknowledgement in a TCP header of the receiver, the selective ones too (RFC
    /// 2018, 3). The checksum is left alone.
    pub fn move_acknowledgements(&self, header: &mut [u8]) {
        if header.get(tcp::FLAGS).is_none_or(|flags| flags & ACK == 0) {
            return;
        }
        change(header, ACKNOWLEDGEMENT, |ack| self.back(ack));
        let mut at = tcp::HEADER_LEN;
        while let Some(&kind) = header.get(at) {
            let len = match (kind, header.get(at + 1)) {
                (END, _) => return,
                (NOP, _) => 1,
                (_, Some(&len @ 2..)) => usize::from(len),
                _ => return,
            };
            if kind == SACK && at + len <= header.len() {
                for edge in (at + 2..at + len).step_by(4).take((len - 2) / 4) {
                    change(header, edge, |edge| self.back(edge));
                }
            }
            at += len;
        }
    }
}

const ACK: u8 = 0x10;
/// Offset of the sequence number.
const SEQUENCE: usize = 4;
/// Offset of the acknowledgement.
const ACKNOWLEDGEMENT: usize = 8;
/// Kinds of options (RFC 9293, 3.1; RFC 2018).
const END: u8 = 0;
const NOP: u8 = 1;
const SACK: u8 = 5;

/// Replaces a number of four bytes, if it is there.
fn change(header: &mut [u8], at: usize, new: impl Fn(u32) -> u32) {
    if let Some(field) = header.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *field = new(u32::from_be_bytes(*field)).to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_behind_a_change_move() {
        let a = Adjustment::default().changed(1000, 3);
        assert_eq!(
            (a.forward(990), a.forward(1000), a.forward(1001)),
            (990, 1000, 1004)
        );
        // The changed segment had 50 bytes and has 53.
        assert_eq!(
            (a.back(1000), a.back(1053), a.back(1100)),
            (1000, 1050, 1097)
        );
        assert_eq!(a.changed(1000, 3), a, "sent again");
        assert_eq!(a.changed(900, 3), a, "an old one");
        let b = a.changed(2000, -5);
        assert_eq!(
            (b.forward(1500), b.forward(2000), b.forward(2050)),
            (1503, 2003, 2048)
        );
        assert_eq!(
            (b.back(1503), b.back(2003), b.back(2048)),
            (1500, 2000, 2050)
        );
    }

    #[test]
    fn around_the_end_of_the_numbers() {
        let a = Adjustment::default().changed(u32::MAX - 10, 4);
        assert_eq!(a.forward(5), 9);
        assert_eq!(a.back(9), 5);
        assert_eq!(a.back(u32::MAX - 10), u32::MAX - 10);
        assert_eq!(a.changed(5, 1).before, 4);
    }

    #[test]
    fn headers() {
        let a = Adjustment::default().changed(1000, 3);
        let mut header = [0u8; 40];
        header[4..8].copy_from_slice(&1050u32.to_be_bytes());
        a.move_sequence(&mut header);
        assert_eq!(header[4..8], 1053u32.to_be_bytes());
        // Two blocks behind two fillers; then a block that is cut.
        header[8..12].copy_from_slice(&1053u32.to_be_bytes());
        header[20..24].copy_from_slice(&[NOP, NOP, SACK, 18]);
        let edges = [1053u32, 1100, 990, 1000];
        for (place, edge) in header[24..].chunks_exact_mut(4).zip(edges) {
            place.copy_from_slice(&edge.to_be_bytes());
        }
        let untouched = header;
        a.move_acknowledgements(&mut header);
        assert_eq!(header, untouched, "no ACK flag, nothing acknowledged");
        header[tcp::FLAGS] = ACK;
        a.move_acknowledgements(&mut header);
        let number = |at: usize| u32::from_be_bytes(*header[at..].first_chunk().unwrap());
        assert_eq!(number(8), 1050);
        assert_eq!([24, 28, 32, 36].map(number), [1050, 1097, 990, 1000]);
        for len in 0..40 {
            a.move_acknowledgements(&mut { header }[..len]);
        }
        for len in 0..=255 {
            header[21] = len;
            a.move_acknowledgements(&mut { header });
        }
    }

    #[test]
    fn no_change_is_none() {
        let a = Adjustment::default().changed(7, 0);
        assert_eq!(a, Adjustment::default());
        assert_eq!((a.forward(u32::MAX), a.back(12)), (u32::MAX, 12));
    }
}
