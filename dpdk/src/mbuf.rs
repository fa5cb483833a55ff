//! Packet buffers: [`Mbuf`] owns one, [`Burst`] owns up to 32.
//!
//! An mbuf has exactly one owner in Rust. It is freed when that owner is dropped, and it is gone
//! from Rust once a queue or ring has accepted it, so it can be neither freed twice, nor leaked by
//! an early return, nor touched after it was sent.
//!
//! DPDK itself may share the bytes of an mbuf (reference count above one, indirect or external
//! buffers; bonding in broadcast mode makes such). Nobody may write into those, so they show
//! themselves as empty frames: every borrow of a data room goes through `Raw::room`, which checks.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering};

use arrayvec::ArrayVec;
use dataplane::packet::{Checked, Packet, PortId};
use dataplane::wire::{ethernet, ipv6};

use crate::ffi;

/// Packets handled at once.
pub const BURST: usize = 32;

/// Bytes a new mbuf keeps free in front of its frame.
pub const HEADROOM: u16 = ffi::RVS_HEADROOM as u16;

/// A pointer to an mbuf together with the promise that it is live and ours.
///
/// The fields are read at offsets that the C compiler computed for the release we build against
/// (`shim.h`), because their names and places differ between releases.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw(NonNull<ffi::rte_mbuf>);

impl Raw {
    /// # Safety
    /// `mbuf` must be a live mbuf that nobody else frees while the `Raw` is used.
    #[inline(always)]
    unsafe fn new(mbuf: NonNull<ffi::rte_mbuf>) -> Raw {
        Raw(mbuf)
    }

    #[inline(always)]
    fn get<T: Copy>(self, offset: ffi::rvs_mbuf_offset) -> T {
        // SAFETY: `new`'s caller promised a live mbuf; the offset is that of a field of type T, in
        // bounds and aligned. Only the owner writes these fields.
        unsafe { self.0.byte_add(offset as usize).cast::<T>().read() }
    }

    #[inline(always)]
    fn set<T: Copy>(self, offset: ffi::rvs_mbuf_offset, value: T) {
        // SAFETY: as in `get`.
        unsafe { self.0.byte_add(offset as usize).cast::<T>().write(value) }
    }

    #[inline(always)]
    fn buf_addr(self) -> *mut u8 {
        self.get(ffi::RVS_MBUF_BUF_ADDR)
    }

    #[inline(always)]
    fn start(self) -> u16 {
        self.get(ffi::RVS_MBUF_DATA_OFF)
    }

    #[inline(always)]
    fn len(self) -> u16 {
        self.get(ffi::RVS_MBUF_DATA_LEN)
    }

    #[inline(always)]
    fn wire_len(self) -> u32 {
        self.get(ffi::RVS_MBUF_PKT_LEN)
    }

    #[inline(always)]
    fn segments(self) -> u16 {
        self.get(ffi::RVS_MBUF_NB_SEGS)
    }

    #[inline(always)]
    fn flags(self) -> u64 {
        self.get(ffi::RVS_MBUF_OL_FLAGS)
    }

    /// Whether anybody else may see the bytes of the data room.
    #[inline(always)]
    fn is_shared(self) -> bool {
        // SAFETY: the field is a live, aligned u16; other owners change it atomically.
        let count = unsafe {
            AtomicU16::from_ptr(
                self.0
                    .byte_add(ffi::RVS_MBUF_REFCNT as usize)
                    .cast()
                    .as_ptr(),
            )
        };
        count.load(Ordering::Relaxed) != 1 || self.flags() & ffi::RVS_F_ATTACHED != 0
    }

    /// The whole data room; empty when it is shared.
    ///
    /// # Safety
    /// The caller owns the mbuf, hands out one such borrow at a time, and keeps the mbuf for 'a.
    #[inline(always)]
    unsafe fn room<'a>(self) -> &'a mut [u8] {
        if self.is_shared() {
            return &mut [];
        }
        let len: u16 = self.get(ffi::RVS_MBUF_BUF_LEN);
        // SAFETY: buf_addr spans buf_len bytes, fixed when the pool was made; the mbuf is direct and
        // its count is one (checked), so its owner, the caller, is the only one to reach them.
        unsafe { core::slice::from_raw_parts_mut(self.buf_addr(), usize::from(len)) }
    }

    /// # Safety
    /// As for `room`.
    #[inline(always)]
    unsafe fn packet<'a>(self, port: PortId) -> Packet<'a> {
        // SAFETY: the caller's promise is passed on.
        let room = unsafe { self.room() };
        let mut packet = Packet::new(room, self.start(), self.len(), port);
        packet.wire_len = self.wire_len();
        packet.vlan_tci = self.tag();
        packet
    }

    /// What the NIC says about the frame.
    fn checked(self) -> Checked {
        let flags = self.flags();
        let transport = flags & ffi::RVS_F_RX_L4_MASK;
        Checked {
            ipv4: flags & ffi::RVS_F_RX_IPV4_MASK == ffi::RVS_F_RX_IPV4_GOOD,
            transport: transport == ffi::RVS_F_RX_L4_GOOD,
            partial: transport == ffi::RVS_F_RX_L4_PARTIAL,
        }
    }

    /// The tag that is not in the frame: of one that came and has not been sent on, or of one that
    /// is going to leave.
    #[inline(always)]
    fn tag(self) -> u16 {
        match self.flags() & ffi::RVS_F_RX_VLAN_STRIPPED {
            0 => 0,
            _ => self.get(ffi::RVS_MBUF_VLAN_TCI),
        }
    }

    /// Sets [`Raw::tag`]; a NIC that the frame is sent by puts it in.
    fn set_tag(self, tci: u16) {
        const BOTH: u64 = ffi::RVS_F_RX_VLAN_STRIPPED | ffi::RVS_F_TX_VLAN;
        let flags = self.flags();
        if tci != 0 {
            self.set(ffi::RVS_MBUF_VLAN_TCI, tci);
            self.set(ffi::RVS_MBUF_OL_FLAGS, flags | BOTH);
        } else if flags & BOTH != 0 {
            self.set(ffi::RVS_MBUF_OL_FLAGS, flags & !BOTH);
        }
    }

    /// Has the NIC work out the UDP checksum behind an IP header of so many bytes.
    #[cold]
    fn owe_udp_sum(self, ip_len: u8) {
        let version = match usize::from(ip_len) {
            ipv6::HEADER_LEN => ffi::RVS_F_TX_IPV6,
            _ => ffi::RVS_F_TX_IPV4,
        };
        let flags = self.flags() | ffi::RVS_F_TX_UDP_SUM | version;
        self.set(ffi::RVS_MBUF_OL_FLAGS, flags);
        // Bit fields: 7 bits of layer 2, then 9 of layer 3.
        let lengths = ethernet::HEADER_LEN as u64 | u64::from(ip_len) << 7;
        self.set(ffi::RVS_MBUF_TX_LENGTHS, lengths);
    }

    /// The next segment.
    fn next(self) -> Option<Raw> {
        let next: *mut ffi::rte_mbuf = self.get(ffi::RVS_MBUF_NEXT);
        // SAFETY: segments of a live mbuf are live, and owned with it.
        NonNull::new(next).map(|next| unsafe { Raw::new(next) })
    }

    /// Frees all segments but the first. The caller owns the mbuf and sets its length.
    #[cold]
    fn cut_tail(self) {
        // SAFETY: a live mbuf, whose segments nobody else holds.
        unsafe { ffi::rvs_mbuf_cut_tail(self.0.as_ptr()) }
    }

    /// Moves the frame within the room, cut to it. A shared mbuf is left alone. With `ends` the
    /// segments behind the first are freed; a frame of one segment has none.
    #[inline(always)]
    fn set_frame(self, start: u16, len: u16, ends: bool) {
        let old = self.len();
        if start == self.start() && len == old || self.is_shared() {
            return;
        }
        let room: u16 = self.get(ffi::RVS_MBUF_BUF_LEN);
        let start = start.min(room);
        let len = len.min(room - start);
        self.set(ffi::RVS_MBUF_DATA_OFF, start);
        self.set(ffi::RVS_MBUF_DATA_LEN, len);
        let rest = if self.segments() == 1 {
            0
        } else if ends {
            self.cut_tail();
            0
        } else {
            self.wire_len().saturating_sub(u32::from(old))
        };
        self.set(ffi::RVS_MBUF_PKT_LEN, rest + u32::from(len));
    }

    /// Asks the CPU for the first cache line of the frame.
    #[inline(always)]
    fn prefetch(self) {
        let first = self.buf_addr().wrapping_add(usize::from(self.start()));
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch has no effect a program can see, whatever the address.
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(first.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = first;
    }
}

/// One packet buffer, freed on drop.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<ffi::rte_mbuf>);

// SAFETY: an mbuf is plain memory with one owner; pools take it back from any thread.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// # Safety
    /// `mbuf` must be live, and the caller gives its ownership away.
    #[inline(always)]
    pub(crate) unsafe fn from_raw(mbuf: NonNull<ffi::rte_mbuf>) -> Mbuf {
        Mbuf(mbuf)
    }

    /// Gives the ownership away.
    #[inline(always)]
    fn into_raw(self) -> NonNull<ffi::rte_mbuf> {
        ManuallyDrop::new(self).0
    }

    #[inline(always)]
    fn raw(&self) -> Raw {
        // SAFETY: `self` owns the mbuf.
        unsafe { Raw::new(self.0) }
    }

    /// The frame as the core sees it. Changes of its start and length are lost; see
    /// [`Mbuf::set_frame`].
    #[inline]
    pub fn packet(&mut self, port: PortId) -> Packet<'_> {
        // SAFETY: `&mut self` is the only borrow and lives as long as the packet.
        unsafe { self.raw().packet(port) }
    }

    /// The bytes of the (first segment of the) frame; empty if DPDK shares the buffer.
    #[inline]
    pub fn frame(&self) -> &[u8] {
        let raw = self.raw();
        // SAFETY: `&self` excludes every mutable borrow; the slice is only read.
        let room: &[u8] = unsafe { raw.room() };
        let start = usize::from(raw.start());
        room.get(start..start + usize::from(raw.len()))
            .unwrap_or(&[])
    }

    /// Sets where the frame starts in the data room and how long it is, in bytes, cut to the room.
    #[inline]
    pub fn set_frame(&mut self, start: u16, len: u16) {
        self.raw().set_frame(start, len, false);
    }

    /// Replaces the frame by `bytes`, behind the usual headroom. False if they do not fit or DPDK
    /// shares the buffer, and then nothing changed.
    #[must_use]
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        let raw = self.raw();
        // SAFETY: `&mut self` is the only borrow.
        let room = unsafe { raw.room() };
        let start = usize::from(HEADROOM);
        let Some(target) = room.get_mut(start..start + bytes.len()) else {
            return false;
        };
        let Ok(len) = u16::try_from(bytes.len()) else {
            return false;
        };
        target.copy_from_slice(bytes);
        raw.set_frame(HEADROOM, len, true);
        true
    }

    /// Copies the frame, all segments of it, to the beginning of `target` and returns its length;
    /// `None` if it does not fit or its first segment is shared.
    #[must_use]
    pub fn copy_to(&self, target: &mut [u8]) -> Option<usize> {
        let mut end = self.frame().len();
        target.get_mut(..end)?.copy_from_slice(self.frame());
        let mut next = self.raw().next();
        while let Some(segment) = next {
            let len = usize::from(segment.len());
            let start = usize::from(segment.start());
            // SAFETY: the frame of a live segment lies within its data room, and while `self`
            // is borrowed nobody writes into it.
            let bytes = unsafe { core::slice::from_raw_parts(segment.buf_addr().add(start), len) };
            target.get_mut(end..end + len)?.copy_from_slice(bytes);
            end += len;
            next = segment.next();
        }
        (self.raw().wire_len() as usize == end).then_some(end)
    }

    /// Appends the segments of another frame.
    ///
    /// # Errors
    /// Gives it back when there would be too many segments.
    pub fn append(&mut self, tail: Mbuf) -> Result<(), Mbuf> {
        // SAFETY: two live mbufs of ours; on success the second belongs to the first.
        match unsafe { ffi::rvs_mbuf_chain(self.0.as_ptr(), tail.0.as_ptr()) } {
            0 => {
                let _ = tail.into_raw();
                Ok(())
            }
            _ => Err(tail),
        }
    }

    /// A number that whoever has the mbuf may keep in it; receiving and sending overwrite it.
    #[inline]
    pub fn mark(&self) -> u32 {
        self.raw().get(ffi::RVS_MBUF_MARK)
    }

    /// Sets [`Mbuf::mark`].
    #[inline]
    pub fn set_mark(&mut self, mark: u32) {
        self.raw().set(ffi::RVS_MBUF_MARK, mark);
    }

    /// The 802.1Q tag (TCI, host order) that is not in the frame, 0 for none.
    #[inline]
    pub fn tag(&self) -> u16 {
        self.raw().tag()
    }

    /// Sets [`Mbuf::tag`]: the NIC that the frame is sent by puts it in.
    #[inline]
    pub fn set_tag(&mut self, tci: u16) {
        self.raw().set_tag(tci);
    }

    /// Puts the tag that a NIC took out back into the frame. False if there is no room for it.
    #[must_use]
    pub fn put_tag_back(&mut self) -> bool {
        let raw = self.raw();
        let (tci, start) = (raw.tag(), usize::from(raw.start()));
        if tci == 0 {
            return true;
        }
        // SAFETY: `&mut self` is the only borrow.
        let room = unsafe { raw.room() };
        let from = start.checked_sub(ethernet::TAG_LEN);
        let Some(head) = from.and_then(|from| room.get_mut(from..start + 12)) else {
            return false;
        };
        if raw.len() < 12 {
            return false;
        }
        head.copy_within(ethernet::TAG_LEN.., 0);
        let [a, b] = ethernet::TYPE_VLAN.to_be_bytes();
        let [c, d] = tci.to_be_bytes();
        head[12..].copy_from_slice(&[a, b, c, d]);
        let tag = ethernet::TAG_LEN as u16;
        raw.set_frame(raw.start() - tag, raw.len() + tag, false);
        raw.set_tag(0);
        true
    }

    /// Length of the frame over all segments, bytes.
    #[inline]
    pub fn wire_len(&self) -> u32 {
        self.raw().wire_len()
    }

    /// Number of segments. [`Mbuf::frame`] is the first of them.
    #[inline]
    pub fn segments(&self) -> u16 {
        self.raw().segments()
    }

    /// Whether DPDK shares the bytes of this buffer, so that its frame reads as empty.
    #[inline]
    pub fn is_shared(&self) -> bool {
        self.raw().is_shared()
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `self` is the owner, and this is the end of it.
        unsafe { ffi::rvs_mbuf_free(self.0.as_ptr()) }
    }
}

/// Up to 32 packet buffers in order. Receives, queues for one port, or collects what is to be
/// freed; the rest is freed (in one call) on drop.
#[derive(Debug)]
pub struct Burst {
    /// The first `len` are live mbufs owned by this burst; the others mean nothing.
    mbufs: [*mut ffi::rte_mbuf; BURST],
    len: usize,
}

// SAFETY: as for Mbuf.
unsafe impl Send for Burst {}

impl Default for Burst {
    fn default() -> Burst {
        Burst::new()
    }
}

impl Burst {
    /// An empty burst.
    pub const fn new() -> Burst {
        Burst {
            mbufs: [core::ptr::null_mut(); BURST],
            len: 0,
        }
    }

    /// Number of mbufs in it.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it holds 32.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.len == BURST
    }

    /// How many more fit.
    #[inline(always)]
    pub fn spare(&self) -> usize {
        BURST - self.len
    }

    /// Appends one.
    ///
    /// # Errors
    /// Gives it back when the burst is full.
    #[inline(always)]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        match self.mbufs.get_mut(self.len) {
            Some(slot) => {
                *slot = mbuf.into_raw().as_ptr();
                self.len += 1;
                Ok(())
            }
            None => Err(mbuf),
        }
    }

    /// Takes the last one out.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.len = self.len.checked_sub(1)?;
        let mbuf = NonNull::new(self.mbufs[self.len])?;
        // SAFETY: it was below `len`, so live and ours, and no longer is below `len`.
        Some(unsafe { Mbuf::from_raw(mbuf) })
    }

    /// Takes all of them out, first to last; the burst is empty at once. Those the iterator has not
    /// handed out when it is dropped are freed.
    #[inline(always)]
    pub fn drain(&mut self) -> Drain<'_> {
        let len = core::mem::take(&mut self.len);
        Drain {
            burst: self,
            next: 0,
            len,
        }
    }

    /// Frees all of them in one call.
    #[inline]
    pub fn free(&mut self) {
        let len = core::mem::take(&mut self.len);
        free_bulk(&mut self.mbufs[..len]);
    }

    /// Lends every frame to `work` as a [`Packet`] (same order, same number), then writes each
    /// packet's start and length back to its mbuf.
    ///
    /// A frame of several segments shows its first; `wire_len` tells of the rest, which follows it
    /// or is freed ([`Packet::drop_tail`]). A buffer that DPDK
    /// shares shows as an empty frame.
    #[inline]
    pub fn with_packets<R>(
        &mut self,
        port: PortId,
        work: impl FnOnce(&mut [Packet<'_>]) -> R,
    ) -> R {
        self.with_assisted_packets(port, false, work)
    }

    /// As [`Burst::with_packets`]; with `assisted` packets have what NICs say about them, and what is
    /// left to NICs is told to them.
    #[inline(always)]
    pub fn with_assisted_packets<R>(
        &mut self,
        port: PortId,
        assisted: bool,
        work: impl FnOnce(&mut [Packet<'_>]) -> R,
    ) -> R {
        let mut packets: ArrayVec<Packet<'_>, BURST> = ArrayVec::new();
        for raw in self.raws() {
            raw.prefetch();
            // SAFETY: `&mut self` outlives the packets; each mbuf is in the burst once, so no two
            // packets share a room. There are at most BURST of them, the capacity.
            unsafe { packets.push_unchecked(raw.packet(port)) };
        }
        if assisted {
            self.hear_nics(&mut packets);
        }
        let result = work(&mut packets);
        for (raw, packet) in self.raws().zip(&packets) {
            raw.set_frame(packet.start(), packet.len(), packet.wire_len == 0);
        }
        if assisted {
            self.tell_nics(&packets);
        }
        result
    }

    #[inline(never)]
    fn hear_nics(&self, packets: &mut [Packet<'_>]) {
        for (raw, packet) in self.raws().zip(packets) {
            packet.checked = raw.checked();
        }
    }

    #[inline(never)]
    fn tell_nics(&self, packets: &[Packet<'_>]) {
        for (raw, packet) in self.raws().zip(packets) {
            raw.set_tag(packet.vlan_tci);
            if packet.owed_udp != 0 {
                raw.owe_udp_sum(packet.owed_udp);
            }
        }
    }

    /// The marks of its mbufs, in their order.
    #[inline]
    pub fn marks(&self) -> impl Iterator<Item = u32> + '_ {
        self.raws().map(|raw| raw.get(ffi::RVS_MBUF_MARK))
    }

    #[inline(always)]
    fn raws(&self) -> impl Iterator<Item = Raw> + '_ {
        self.mbufs[..self.len].iter().map(|mbuf| {
            // SAFETY: the first `len` are live mbufs of ours, hence not null either.
            unsafe { Raw::new(NonNull::new_unchecked(*mbuf)) }
        })
    }

    /// Where the owned mbufs are, for a call that takes some of them from the front.
    #[inline(always)]
    pub(crate) fn as_mut_ptr(&mut self) -> *mut *mut ffi::rte_mbuf {
        self.mbufs.as_mut_ptr()
    }

    /// Where to put `spare` more; follow with [`Burst::grow`].
    #[inline(always)]
    pub(crate) fn spare_ptr(&mut self) -> *mut *mut ffi::rte_mbuf {
        self.mbufs[self.len..].as_mut_ptr()
    }

    /// # Safety
    /// `n` live mbufs, now owned by the burst, were written at `spare_ptr`.
    #[inline(always)]
    pub(crate) unsafe fn grow(&mut self, n: usize) {
        debug_assert!(n <= self.spare());
        self.len += n.min(self.spare());
    }

    /// # Safety
    /// The first `n` mbufs have got another owner.
    #[inline(always)]
    pub(crate) unsafe fn forget_front(&mut self, n: usize) {
        let n = n.min(self.len);
        if n < self.len {
            self.mbufs.copy_within(n..self.len, 0);
        }
        self.len -= n;
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        self.free();
    }
}

/// Iterator over the mbufs taken out of a [`Burst`].
#[derive(Debug)]
pub struct Drain<'a> {
    /// Its `len` is zero; `mbufs[next..len]` belong to the iterator.
    burst: &'a mut Burst,
    next: usize,
    len: usize,
}

impl Iterator for Drain<'_> {
    type Item = Mbuf;

    #[inline(always)]
    fn next(&mut self) -> Option<Mbuf> {
        if self.next == self.len {
            return None;
        }
        let mbuf = self.burst.mbufs[self.next];
        self.next += 1;
        // SAFETY: a live mbuf of the iterator's, handed out once as `next` has moved on.
        Some(unsafe { Mbuf::from_raw(NonNull::new_unchecked(mbuf)) })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len - self.next, Some(self.len - self.next))
    }
}

impl ExactSizeIterator for Drain<'_> {}

impl Drop for Drain<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.next < self.len {
            free_bulk(&mut self.burst.mbufs[self.next..self.len]);
        }
    }
}

/// Frees mbufs that no burst counts as its own any more.
#[inline]
fn free_bulk(mbufs: &mut [*mut ffi::rte_mbuf]) {
    if !mbufs.is_empty() {
        // SAFETY: both callers have first taken these live mbufs out of a burst's `len`.
        unsafe { ffi::rte_pktmbuf_free_bulk(mbufs.as_mut_ptr(), mbufs.len() as u32) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An mbuf made of plain memory: fields where the release has them, and a room behind it.
    #[repr(C, align(64))]
    struct Fake {
        header: [u8; 128],
        room: [u8; 256],
    }

    impl Fake {
        /// A frame of 60 bytes at 128, one segment, one owner.
        fn new() -> Box<Fake> {
            let mut fake = Box::new(Fake {
                header: [0; 128],
                room: [7; 256],
            });
            let room = fake.room.as_mut_ptr();
            let raw = fake.raw();
            raw.set(ffi::RVS_MBUF_BUF_ADDR, room);
            raw.set(ffi::RVS_MBUF_BUF_LEN, 256u16);
            raw.set(ffi::RVS_MBUF_DATA_OFF, 128u16);
            raw.set(ffi::RVS_MBUF_DATA_LEN, 60u16);
            raw.set(ffi::RVS_MBUF_PKT_LEN, 60u32);
            raw.set(ffi::RVS_MBUF_NB_SEGS, 1u16);
            raw.set(ffi::RVS_MBUF_REFCNT, 1u16);
            fake
        }

        fn raw(&mut self) -> Raw {
            // SAFETY: 128 bytes in which every field lies; the test is the only owner.
            unsafe { Raw::new(NonNull::from(self).cast()) }
        }
    }

    /// Length of the packet the mbuf shows.
    fn shown(raw: Raw) -> u16 {
        // SAFETY: the only borrow at this time.
        unsafe { raw.packet(PortId(0)) }.len()
    }

    #[test]
    fn shared_bytes_are_not_lent() {
        let mut fake = Fake::new();
        let raw = fake.raw();
        assert_eq!(shown(raw), 60);
        raw.set(ffi::RVS_MBUF_REFCNT, 2u16);
        assert_eq!(shown(raw), 0);
        raw.set_frame(0, 10, false);
        raw.set(ffi::RVS_MBUF_REFCNT, 1u16);
        assert_eq!((raw.start(), raw.len()), (128, 60), "left alone");
        for bit in [61, 62] {
            raw.set(ffi::RVS_MBUF_OL_FLAGS, 1u64 << bit);
            assert_eq!(shown(raw), 0, "indirect or external, bit {bit}");
        }
    }

    #[test]
    fn tags_count_only_if_they_were_taken_out() {
        let mut fake = Fake::new();
        let raw = fake.raw();
        raw.set(ffi::RVS_MBUF_VLAN_TCI, 100u16);
        // SAFETY: the only borrow at this time.
        assert_eq!(unsafe { raw.packet(PortId(0)) }.vlan_tci, 0);
        raw.set(ffi::RVS_MBUF_OL_FLAGS, ffi::RVS_F_RX_VLAN_STRIPPED);
        // SAFETY: the only borrow at this time.
        assert_eq!(unsafe { raw.packet(PortId(0)) }.vlan_tci, 100);
    }

    #[test]
    fn tags_of_nics_go_back_into_frames_for_the_kernel() {
        let mut fake = Fake::new();
        let raw = fake.raw();
        raw.set_tag(0x2007);
        assert_eq!(raw.tag(), 0x2007);
        assert_ne!(raw.flags() & ffi::RVS_F_TX_VLAN, 0);
        fake.room[128..140].copy_from_slice(b"ddddddssssss");
        fake.room[140..142].copy_from_slice(&[8, 0]);
        // SAFETY: live as long as `fake`, and never dropped: it belongs to no pool.
        let mut mbuf = ManuallyDrop::new(unsafe { Mbuf::from_raw(raw.0) });
        assert!(mbuf.put_tag_back());
        assert_eq!(mbuf.frame()[..18], *b"ddddddssssss\x81\x00\x20\x07\x08\x00");
        assert_eq!((raw.start(), raw.len(), raw.tag()), (124, 64, 0));
        assert_eq!(raw.flags() & ffi::RVS_F_TX_VLAN, 0);
        assert!(mbuf.put_tag_back(), "once");
        assert_eq!(raw.len(), 64);
        raw.set_frame(3, 60, true);
        raw.set_tag(1);
        assert!(!mbuf.put_tag_back(), "no room before it");
    }

    #[test]
    fn what_nics_found_counts_only_if_it_is_good() {
        let mut fake = Fake::new();
        let raw = fake.raw();
        assert_eq!(raw.checked(), Checked::default());
        raw.set(
            ffi::RVS_MBUF_OL_FLAGS,
            ffi::RVS_F_RX_IPV4_GOOD | ffi::RVS_F_RX_L4_GOOD,
        );
        let good = Checked {
            ipv4: true,
            transport: true,
            partial: false,
        };
        assert_eq!(raw.checked(), good);
        let bad = |mask: u64, good: u64| mask & !good;
        raw.set(
            ffi::RVS_MBUF_OL_FLAGS,
            bad(ffi::RVS_F_RX_IPV4_MASK, ffi::RVS_F_RX_IPV4_GOOD)
                | bad(ffi::RVS_F_RX_L4_MASK, ffi::RVS_F_RX_L4_GOOD),
        );
        assert_eq!(
            raw.checked(),
            Checked::default(),
            "wrong ones are looked at"
        );
        raw.set(
            ffi::RVS_MBUF_OL_FLAGS,
            ffi::RVS_F_RX_IPV4_MASK | ffi::RVS_F_RX_L4_PARTIAL,
        );
        let partial = Checked {
            partial: true,
            ..Checked::default()
        };
        assert_eq!(raw.checked(), partial);
    }

    #[test]
    fn frames_stay_in_the_room_and_lengths_agree() {
        let mut fake = Fake::new();
        let raw = fake.raw();
        raw.set_frame(200, 100, true);
        assert_eq!((raw.start(), raw.len(), raw.wire_len()), (200, 56, 56));
        raw.set_frame(300, 1, false);
        assert_eq!((raw.start(), raw.len(), raw.wire_len()), (256, 0, 0));
        // Two segments of 60 and 1000: the first grows by 20.
        let mut fake = Fake::new();
        let raw = fake.raw();
        raw.set(ffi::RVS_MBUF_NB_SEGS, 2u16);
        raw.set(ffi::RVS_MBUF_PKT_LEN, 1060u32);
        raw.set_frame(108, 80, false);
        assert_eq!((raw.start(), raw.len(), raw.wire_len()), (108, 80, 1080));
    }
}
