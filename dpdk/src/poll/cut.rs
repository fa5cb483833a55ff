//! Packets that are cut: TCP packets longer than the wire's MTU as they come in, IPv4 packets as they leave.

use dataplane::packet::{DropReason, PortId};
use dataplane::time::Instant;
use dataplane::wire::fragment::Fragments;
use dataplane::wire::segment::Segments;

use super::{Loop, Probe, Ways};
use crate::mbuf::{Burst, Mbuf};
use crate::mempool::Mempool;

/// Longest fragment: more than any MTU of an Ethernet port with its header.
const LONGEST_PIECE: usize = 16384;

/// Longest frame: more than an IP packet with layer 2 before it.
const LONGEST_FRAME: usize = 65536 + 32;

impl Loop {
    /// Copies frames to buffers of the usual size; TCP packets longer than `mtu` become segments.
    #[cold]
    pub(super) fn take_in_cut(
        &mut self,
        at: usize,
        now: Instant,
        received: &mut Burst,
        mtu: u16,
        probe: &mut impl Probe,
    ) {
        let mut copies = Burst::new();
        for mbuf in received.drain() {
            if mbuf.segments() == 1 {
                self.take_copies(at, now, &mut copies, mbuf.frame(), mtu, probe);
                continue;
            }
            let mut whole = [0u8; LONGEST_FRAME];
            let frame = mbuf.copy_to(&mut whole).and_then(|len| whole.get(..len));
            self.take_copies(at, now, &mut copies, frame.unwrap_or(&[]), mtu, probe);
        }
        if !copies.is_empty() {
            self.take_in(at, now, &mut copies, probe);
        }
    }

    fn take_copies(
        &mut self,
        at: usize,
        now: Instant,
        copies: &mut Burst,
        frame: &[u8],
        mtu: u16,
        probe: &mut impl Probe,
    ) {
        let Some(mut segments) = Segments::new(frame, mtu) else {
            let copy = self.pool.carry(frame);
            return self.take_copy(at, now, copies, copy, probe);
        };
        let mut piece = [0u8; LONGEST_PIECE];
        while let Some(len) = segments.write(&mut piece) {
            let copy = self.pool.carry(piece.get(..len).unwrap_or(&[]));
            self.take_copy(at, now, copies, copy, probe);
        }
    }

    fn take_copy(
        &mut self,
        at: usize,
        now: Instant,
        copies: &mut Burst,
        copy: Option<Mbuf>,
        probe: &mut impl Probe,
    ) {
        let Some(mbuf) = copy else {
            return self.end.counters.count_drop(DropReason::NoMbuf);
        };
        if copies.is_full() {
            self.take_in(at, now, copies, probe);
        }
        // There is room now.
        drop(copies.push(mbuf));
    }
}

impl Ways<'_> {
    /// Cuts an IPv4 packet to the MTU and queues the pieces.
    #[cold]
    pub(super) fn cut(&mut self, pool: &Mempool, port: PortId, mtu: u16, mbuf: &Mbuf) {
        let tag = mbuf.tag();
        if mbuf.segments() == 1 {
            return self.cut_frame(pool, port, mtu, mbuf.frame(), tag);
        }
        let mut whole = [0u8; LONGEST_FRAME];
        match mbuf.copy_to(&mut whole) {
            Some(len) => {
                let frame = whole.get(..len).unwrap_or(&[]);
                self.cut_frame(pool, port, mtu, frame, tag);
            }
            None => self.counters.count_drop(DropReason::FragmentFailed),
        }
    }

    /// `tag`: the one that the NIC puts into each piece.
    fn cut_frame(&mut self, pool: &Mempool, port: PortId, mtu: u16, frame: &[u8], tag: u16) {
        let counters = self.counters;
        // The core has just written the Ethernet header: 14 bytes, 18 with a tag.
        let l3 = if frame.get(12..14) == Some(&[0x81, 0]) {
            18
        } else {
            14
        };
        let mut piece = [0u8; LONGEST_PIECE];
        let Some(mut pieces) = Fragments::new(frame, l3, mtu) else {
            counters.count_drop(DropReason::FragmentFailed);
            return;
        };
        while pieces.next_len().is_some() {
            let made = pieces
                .write(&mut piece)
                .and_then(|len| pool.carry(piece.get(..len)?));
            match made {
                Some(mut copy) => {
                    copy.set_tag(tag);
                    self.send(port, copy);
                }
                None => {
                    counters.count_drop(DropReason::FragmentFailed);
                    return;
                }
            }
        }
    }
}
