//! One connection: 128 bytes of plain old data, the same for both families.

pub mod image;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU32, Ordering, compiler_fence};

use zerocopy::{FromBytes, IntoBytes, KnownLayout};

use super::template;
use crate::addr::{Addr, Endpoint, Family};
use crate::forward::nat;
use crate::helper::sequence::Adjustment;
use crate::proto;
use crate::service::{DestId, ForwardingMethod, Protocol};
use crate::time::{Ticks, secs};

/// "No index".
pub const NIL: u32 = u32::MAX;

/// Bit of the protocol number of templates, which no balanced protocol's number has. They live in
/// a protocol space of their own, so that no packet's tuple, not even one with source port 0, is a
/// template's.
pub const TEMPLATE_SPACE: u8 = 0x40;

/// Value of [`Entry::valid`] in a live entry.
const VALID: u32 = 0x5256_5345;

/// Longest timeout of an entry, ticks: 31 days, and a template that is prolonged.
const LONGEST: u32 = secs(2_678_400 + 60);

/// Flag bits of [`Entry::flags`]; where the kernel has one, its number (`IP_VS_CONN_F_*`).
pub mod flag {
    /// Replies have not been seen: the INPUT-ONLY state tables apply.
    pub const NOOUTPUT: u16 = 0x0080;
    /// Counted as inactive.
    pub const INACTIVE: u16 = 0x0100;
    /// Sequence numbers of the real server are adjusted.
    pub const OUT_SEQ: u16 = 0x0200;
    /// The client's port is not known yet: passive FTP data.
    pub const NO_CPORT: u16 = 0x0800;
    /// A persistence template: no connection, but where new ones of a client go.
    pub const TEMPLATE: u16 = 0x1000;
    /// One-packet scheduling: never indexed.
    pub const ONE_PACKET: u16 = 0x2000;
    /// Controlled by another entry, which does not end before this one ([`super::Controller`]).
    pub const CONTROLLED: u16 = 0x4000;
    /// Client and virtual addresses are IPv6 (kept in the second line).
    pub const CLIENT_V6: u16 = 0x0001;
    /// The real server's address is IPv6.
    pub const DEST_V6: u16 = 0x0002;
    /// Linked into the half-open list instead of the wheel.
    pub const HALF_OPEN: u16 = 0x0004;
    /// A helper reads the payload: FTP control.
    pub const HELPER: u16 = 0x0010;
    /// Its reply tuple is not in the index yet: it is the youngest of its shard.
    pub const OWED: u16 = 0x0020;
    /// A younger connection has the same reply tuple, and gets the replies.
    pub const HIDDEN: u16 = 0x0040;
    /// When it was made an older connection had the same reply tuple.
    pub const HIDES: u16 = 0x8000;
    /// Made by connection synchronisation.
    pub const SYNCED: u16 = 0x0008;
}

/// Where the word of [`Entry::signature`] begins.
const SIGNATURE_AT: usize = 24;

/// Protocol, method, flags and state of an entry in one word, or a pattern of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature(u64);

impl Signature {
    /// The word of these four.
    pub const fn new(protocol: u8, method: u8, flags: u16, state: u8) -> Signature {
        let [low, high] = flags.to_ne_bytes();
        Signature(u64::from_ne_bytes([
            protocol, method, low, high, state, 0, 0, 0,
        ]))
    }

    /// What it is in the bits of `mask`.
    #[inline(always)]
    pub const fn masked(self, mask: Signature) -> Signature {
        Signature(self.0 & mask.0)
    }
}

/// A connection entry as it lies in the region. Addressed by index, holds no pointers.
///
/// The first cache line holds all that a packet of an IPv4 connection needs. IPv4 addresses are
/// kept as they are on the wire (`from_ne_bytes` of the four octets); ports and all other
/// numbers are in host order. Times are [`crate::time::Ticks`] of `CLOCK_BOOTTIME`.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout)]
#[repr(C, align(64))]
pub struct Entry {
    /// [`VALID`] while the entry is live; stored last, cleared first.
    valid: AtomicU32,
    // What a frame of either side is compared with lies together: source and destination address
    // are one word of eight bytes, the ports one of four.
    daddr: u32,
    caddr: u32,
    vaddr: u32,
    dport: u16,
    cport: u16,
    vport: u16,
    /// Largest IP packet on the route of replies and on its link.
    pub reply_mtu: u16,
    // Eight bytes that the usual path reads as one word: `Entry::signature`.
    protocol: u8,
    method: u8,
    /// [`flag`] bits.
    pub flags: u16,
    /// State number of the protocol's machine.
    pub state: u8,
    /// What the helper waits for (`ip_vs_conn.app_data`).
    pub helper: u8,
    /// How many entries it controls, if it is no template.
    controls: u16,
    /// When it expires unless another packet comes.
    pub deadline: u32,
    /// When its timer slot fires; never later than `deadline` needs.
    pub armed: u32,
    /// Timeout of the current state, ticks.
    pub timeout: u32,
    dest: u32,
    /// Packets from the client (the sync protocol counts them).
    pub in_pkts: u32,
    /// Route generation that `reply_hop` belongs to.
    pub route_generation: u32,
    /// Neighbour that replies to the client go to.
    pub reply_hop: u32,
    /// One's-complement delta of the address change, for the IPv4 header checksum (request).
    pub delta_l3: u16,
    /// The same of addresses and ports, for the transport checksum (request).
    pub delta_l4: u16,

    // Second cache line.
    caddr6: [u8; 16],
    vaddr6: [u8; 16],
    daddr6: [u8; 16],
    /// Next in the timer or free list.
    pub(super) next: u32,
    /// Previous in the timer list, or the list head's number with [`super::wheel::HEAD`] set.
    pub(super) prev: u32,
    /// Makes a table of another layout and size, so that tests can upgrade from one to the other.
    #[cfg(feature = "other-layout")]
    filler: [u32; 16],
    /// Firewall mark of the service, 0 for none.
    pub fwmark: u32,
    /// Of a connection: the entry that controls it, see [`Entry::controller`]. Otherwise index of
    /// its engine data if it is a template, or [`NIL`].
    pub extension: u32,
}

const _: () = {
    assert!(size_of::<Entry>() == 128 || cfg!(feature = "other-layout"));
    assert!(align_of::<Entry>() == 64);
    assert!(core::mem::offset_of!(Entry, caddr6) == 64);
    assert!(core::mem::offset_of!(Entry, protocol) == SIGNATURE_AT);
    assert!(core::mem::offset_of!(Entry, deadline) == SIGNATURE_AT + 8);
    assert!(core::mem::offset_of!(Entry, delta_l3) == 60);
    assert!(core::mem::offset_of!(Entry, next) == 112);
};

/// What identifies a connection and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewConnection {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Client.
    pub client: Endpoint,
    /// Virtual address and port.
    pub virtual_: Endpoint,
    /// Real server.
    pub dest: Endpoint,
    /// Its id.
    pub dest_id: DestId,
    /// How it is reached.
    pub method: ForwardingMethod,
    /// [`flag`] bits other than the families.
    pub flags: u16,
}

/// Two words that lie next to each other, as one.
#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// What identifies a persistence template and where it leads. Its client has no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewTemplate {
    /// IP protocol number, 0 for a mark's.
    pub protocol: u8,
    /// Client, masked.
    pub client: Addr,
    /// Stands in for engine data in the tuple, in the place of the client's port; 0 without.
    pub tag: u16,
    /// Virtual address and port, or the mark in the place of the address.
    pub virtual_: Endpoint,
    /// Real server.
    pub dest: Endpoint,
    /// Its id.
    pub dest_id: DestId,
    /// How it is reached.
    pub method: ForwardingMethod,
    /// Firewall mark of the service, 0 for none.
    pub fwmark: u32,
}

/// The entry that controls another one: its shard and its number there, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Controller(u32);

impl Controller {
    /// Bits of the entry's number; the other seven are the shard's.
    const ENTRY_BITS: u32 = 25;

    /// Puts the two together; `None` for an entry beyond what a reference holds.
    pub fn new(shard: u8, entry: u32) -> Option<Controller> {
        let fits = shard < 128 && entry >> Controller::ENTRY_BITS == 0;
        fits.then_some(Controller(
            u32::from(shard) << Controller::ENTRY_BITS | entry,
        ))
    }

    /// Its shard.
    pub fn shard(self) -> usize {
        (self.0 >> Controller::ENTRY_BITS) as usize
    }

    /// Its number in the shard.
    pub fn entry(self) -> u32 {
        self.0 & ((1 << Controller::ENTRY_BITS) - 1)
    }
}

#[inline(always)]
fn word(addr: &Addr) -> u32 {
    u32::from_ne_bytes(addr.octets_v4())
}

impl Entry {
    /// Whether the entry is live.
    #[inline(always)]
    pub fn is_valid(&self) -> bool {
        self.valid.load(Ordering::Relaxed) == VALID
    }

    /// Fills the identity; the entry stays invalid until [`Entry::publish`].
    pub(super) fn fill(&mut self, new: &NewConnection) {
        *self = Entry {
            valid: AtomicU32::new(0),
            caddr: word(&new.client.addr),
            vaddr: word(&new.virtual_.addr),
            daddr: word(&new.dest.addr),
            cport: new.client.port,
            vport: new.virtual_.port,
            dport: new.dest.port,
            reply_mtu: 0,
            protocol: new.protocol.number(),
            method: new.method as u8,
            flags: new.flags,
            state: 0,
            helper: 0,
            controls: 0,
            deadline: 0,
            armed: 0,
            timeout: 0,
            dest: new.dest_id.0,
            in_pkts: 0,
            route_generation: 0,
            reply_hop: NIL,
            delta_l3: 0,
            delta_l4: 0,
            caddr6: new.client.addr.octets(),
            vaddr6: new.virtual_.addr.octets(),
            daddr6: new.dest.addr.octets(),
            next: NIL,
            prev: NIL,
            #[cfg(feature = "other-layout")]
            filler: [0; 16],
            fwmark: 0,
            extension: NIL,
        };
        if new.client.addr.family() == Family::V6 {
            self.flags |= flag::CLIENT_V6;
        }
        if new.dest.addr.family() == Family::V6 {
            self.flags |= flag::DEST_V6;
        }
    }

    /// Fills a template; it stays invalid until [`Entry::publish`].
    pub(super) fn fill_template(&mut self, new: &NewTemplate) {
        self.fill(&NewConnection {
            // Overwritten below.
            protocol: Protocol::Tcp,
            client: Endpoint::new(new.client, new.tag),
            virtual_: new.virtual_,
            dest: new.dest,
            dest_id: new.dest_id,
            method: new.method,
            flags: flag::TEMPLATE,
        });
        self.protocol = new.protocol | TEMPLATE_SPACE;
        self.fwmark = new.fwmark;
        self.reply_hop = 0;
    }

    /// A copy of what lies here. Always there: any bytes of this size are an entry.
    pub(super) fn copy(&mut self) -> Option<Entry> {
        Entry::read_from_bytes(self.as_mut_bytes()).ok()
    }

    /// Forgets the shard that it comes from; it is invalid until [`Entry::publish`].
    pub(super) fn begin_anew(&mut self) {
        self.valid = AtomicU32::new(0);
        self.flags &= !(flag::OWED | flag::HIDDEN | flag::HIDES);
        (self.next, self.prev) = (NIL, NIL);
    }

    /// Whether it is a persistence template.
    #[inline(always)]
    pub fn is_template(&self) -> bool {
        self.flags & flag::TEMPLATE != 0
    }

    /// Where the data of a template are that an engine made.
    pub fn engine_data(&self) -> Option<u32> {
        (self.is_template() && self.extension != NIL).then_some(self.extension)
    }

    /// How many entries it controls (`n_control`). Templates have no replies, so the count takes
    /// the place of their neighbour.
    #[inline(always)]
    pub fn controls(&self) -> u32 {
        if self.is_template() {
            self.reply_hop
        } else {
            u32::from(self.controls)
        }
    }

    /// Counts one entry more or less that it controls.
    pub fn add_controls(&mut self, n: i32) {
        if self.is_template() {
            self.reply_hop = self.reply_hop.saturating_add_signed(n);
        } else {
            let count = i32::from(self.controls).saturating_add(n);
            self.controls = count.clamp(0, u16::MAX.into()) as u16;
        }
    }

    /// Forgets what a template controls, for counting anew.
    pub(super) fn clear_controls(&mut self) {
        if self.is_template() {
            self.reply_hop = 0;
        }
        self.controls = 0;
    }

    /// How sequence numbers of the real server are moved.
    pub fn adjustment(&self) -> Option<Adjustment> {
        if self.flags & flag::OUT_SEQ == 0 {
            return None;
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = self.daddr6;
        Some(Adjustment {
            at: u32::from_ne_bytes([a, b, c, d]),
            after: i32::from_ne_bytes([e, f, g, h]),
            before: i32::from_ne_bytes([i, j, k, l]),
        })
    }

    /// Keeps an adjustment, in the place of the long address that an IPv4 connection has not.
    /// False for IPv6, where nothing is ever rewritten in a stream.
    #[must_use]
    pub fn set_adjustment(&mut self, adjustment: &Adjustment) -> bool {
        if self.flags & (flag::CLIENT_V6 | flag::DEST_V6) != 0 {
            return false;
        }
        self.flags |= flag::OUT_SEQ;
        self.daddr6[..4].copy_from_slice(&adjustment.at.to_ne_bytes());
        self.daddr6[4..8].copy_from_slice(&adjustment.after.to_ne_bytes());
        self.daddr6[8..12].copy_from_slice(&adjustment.before.to_ne_bytes());
        true
    }

    /// The entry that controls this one.
    #[inline(always)]
    pub fn controller(&self) -> Option<Controller> {
        (self.flags & flag::CONTROLLED != 0).then_some(Controller(self.extension))
    }

    /// Puts the entry under another one, or frees it.
    pub fn set_controller(&mut self, controller: Option<Controller>) {
        match controller {
            Some(controller) => {
                self.flags |= flag::CONTROLLED;
                self.extension = controller.0;
            }
            None => {
                self.flags &= !flag::CONTROLLED;
                self.extension = NIL;
            }
        }
    }

    /// Takes a template out of use: nothing asks for these ports (`ip_vs_check_template`).
    pub(super) fn disable_template(&mut self) {
        self.vport = u16::MAX;
        self.dport = u16::MAX;
    }

    /// Where the fields lie, as a number: two builds that agree on it read each other's entries.
    pub const LAYOUT: u32 = {
        use core::mem::offset_of;
        let fields = [
            offset_of!(Entry, valid),
            offset_of!(Entry, caddr),
            offset_of!(Entry, vaddr),
            offset_of!(Entry, daddr),
            offset_of!(Entry, cport),
            offset_of!(Entry, vport),
            offset_of!(Entry, dport),
            offset_of!(Entry, reply_mtu),
            offset_of!(Entry, protocol),
            offset_of!(Entry, method),
            offset_of!(Entry, flags),
            offset_of!(Entry, state),
            offset_of!(Entry, helper),
            offset_of!(Entry, controls),
            offset_of!(Entry, deadline),
            offset_of!(Entry, armed),
            offset_of!(Entry, timeout),
            offset_of!(Entry, dest),
            offset_of!(Entry, in_pkts),
            offset_of!(Entry, route_generation),
            offset_of!(Entry, reply_hop),
            offset_of!(Entry, delta_l3),
            offset_of!(Entry, delta_l4),
            offset_of!(Entry, caddr6),
            offset_of!(Entry, vaddr6),
            offset_of!(Entry, daddr6),
            offset_of!(Entry, next),
            offset_of!(Entry, prev),
            offset_of!(Entry, fwmark),
            offset_of!(Entry, extension),
        ];
        let (mut sum, mut i) = (0x811c_9dc5_u32, 0);
        while i < fields.len() {
            sum = (sum ^ fields[i] as u32).wrapping_mul(0x0100_0193);
            i += 1;
        }
        sum
    };

    /// Whether a live entry that another process left was written to its end, and not damaged
    /// since. This costs the packet path nothing, because what is written once is there twice:
    /// the IPv4 words repeat the ends of the long addresses, and with NAT the checksum deltas
    /// repeat both endpoints of the service's side. What packets change is asked for its range.
    pub(super) fn is_whole(&self, now: Ticks) -> bool {
        let end_of = |long: &[u8; 16]| u32::from_ne_bytes(Addr::v6(*long).octets_v4());
        let is_twice = self.caddr == end_of(&self.caddr6)
            && self.vaddr == end_of(&self.vaddr6)
            && self.daddr == end_of(&self.daddr6);
        let family = |flag| match self.flags & flag == 0 {
            true => Family::V4,
            false => Family::V6,
        };
        let is_adjusted = self.flags & flag::OUT_SEQ != 0;
        let has_families = Addr::v6(self.caddr6).family() == family(flag::CLIENT_V6)
            && Addr::v6(self.vaddr6).family() == family(flag::CLIENT_V6)
            && (is_adjusted || Addr::v6(self.daddr6).family() == family(flag::DEST_V6));
        // A template's deltas are never made.
        let has_deltas = self.is_template()
            || self.method() != ForwardingMethod::Masquerade
            || nat::deltas(&self.virtual_(), &self.dest()) == (self.delta_l3, self.delta_l4);
        let is_known = match Protocol::from_number(self.protocol) {
            Some(protocol) => proto::is_state(protocol, self.state),
            None => self.is_template() && self.state <= template::ASSURED,
        };
        let in_time = |at: i64| at <= i64::from(LONGEST);
        self.makes_sense()
            && is_twice
            && has_families
            && has_deltas
            && is_known
            && self.method() as u8 == self.method
            && self.flags & flag::ONE_PACKET == 0
            && self.timeout != 0
            && in_time(self.timeout.into())
            && in_time(Ticks(self.deadline).since(now).into())
    }

    /// Whether a live entry can be what its fields say.
    pub(super) fn makes_sense(&self) -> bool {
        let number = self.protocol & !TEMPLATE_SPACE;
        let is_known = Protocol::from_number(number).is_some();
        self.is_template() == (self.protocol & TEMPLATE_SPACE != 0)
            && (is_known || (self.is_template() && number == 0))
    }

    /// Makes the entry live. Everything else must have been written before.
    #[inline]
    pub(super) fn publish(&self) {
        self.valid.store(VALID, Ordering::Release);
    }

    /// Ends its life, before anything else of it is touched. A process that is killed leaves
    /// what its program has stored so far: the order of the compiler is all that counts.
    #[inline]
    pub(super) fn retire(&self) {
        self.valid.store(0, Ordering::Release);
        compiler_fence(Ordering::SeqCst);
    }

    /// Gives it the number that its real server has now.
    pub(super) fn set_dest_id(&mut self, id: DestId) {
        self.dest = id.0;
    }

    /// Whether this is the connection of `client` with the virtual endpoint `other`.
    #[inline(always)]
    pub fn is_request_of(
        &self,
        protocol: u8,
        client: &Addr,
        client_port: u16,
        other: &Addr,
        other_port: u16,
    ) -> bool {
        if self.flags & flag::CLIENT_V6 == 0 {
            return self.caddr == word(client)
                && self.vaddr == word(other)
                && self.cport == client_port
                && self.vport == other_port
                && self.protocol == protocol
                && self.is_valid()
                && client.family() == crate::addr::Family::V4;
        }
        self.cport == client_port
            && self.vport == other_port
            && self.protocol == protocol
            && self.is_valid()
            && self.caddr6 == client.octets()
            && self.vaddr6 == other.octets()
    }

    /// Whether this is the connection of `client` with the real server `other`.
    #[inline(always)]
    pub fn is_reply_of(
        &self,
        protocol: u8,
        client: &Addr,
        client_port: u16,
        other: &Addr,
        other_port: u16,
    ) -> bool {
        if self.flags & flag::CLIENT_V6 == 0 {
            return self.caddr == word(client)
                && self.daddr == word(other)
                && self.cport == client_port
                && self.dport == other_port
                && self.protocol == protocol
                && self.is_valid()
                && client.family() == crate::addr::Family::V4;
        }
        self.cport == client_port
            && self.dport == other_port
            && self.protocol == protocol
            && self.is_valid()
            && self.caddr6 == client.octets()
            && self.daddr6 == other.octets()
    }

    /// Protocol, method, flags and state, read at once.
    #[inline(always)]
    pub fn signature(&mut self) -> Signature {
        // `&mut`, as the bytes of an atomic may be read as plain ones by their owner only.
        let bytes = self.as_mut_bytes();
        let word = bytes
            .get(SIGNATURE_AT..)
            .and_then(|rest| rest.first_chunk());
        Signature(word.map_or(0, |&word| u64::from_ne_bytes(word)))
    }

    /// Whether the entry lives and is the one of these IPv4 addresses and ports, as for
    /// [`Entry::is_request_of_v4`]; that it is an IPv4 connection of the protocol, the caller asks
    /// with [`Entry::signature`].
    #[inline(always)]
    pub fn has_request_tuple_v4(&self, client: u32, other: u32, ports: u32) -> bool {
        let addrs = pair(self.caddr, self.vaddr) ^ pair(client, other);
        let ports = (u32::from(self.cport) | u32::from(self.vport) << 16) ^ ports;
        addrs | u64::from(ports | self.is_dead()) == 0
    }

    /// Likewise for [`Entry::is_reply_of_v4`].
    #[inline(always)]
    pub fn has_reply_tuple_v4(&self, client: u32, other: u32, ports: u32) -> bool {
        let addrs = pair(self.daddr, self.caddr) ^ pair(other, client);
        let ports = (u32::from(self.dport) | u32::from(self.cport) << 16) ^ ports;
        addrs | u64::from(ports | self.is_dead()) == 0
    }

    /// Likewise for an IPv6 connection: source and destination address as they follow each other
    /// in the frame.
    #[inline(always)]
    pub fn has_request_tuple_v6(&self, addrs: &[u8; 32], ports: u32) -> bool {
        let ports = (u32::from(self.cport) | u32::from(self.vport) << 16) ^ ports;
        let (src, dst) = addrs.split_at(16);
        ports | self.is_dead() == 0 && self.caddr6 == *src && self.vaddr6 == *dst
    }

    /// Likewise for a reply, whose source is the real server.
    #[inline(always)]
    pub fn has_reply_tuple_v6(&self, addrs: &[u8; 32], ports: u32) -> bool {
        let ports = (u32::from(self.dport) | u32::from(self.cport) << 16) ^ ports;
        let (src, dst) = addrs.split_at(16);
        ports | self.is_dead() == 0 && self.daddr6 == *src && self.caddr6 == *dst
    }

    /// Zero while the entry is live.
    #[inline(always)]
    fn is_dead(&self) -> u32 {
        self.valid.load(Ordering::Relaxed) ^ VALID
    }

    /// IPv6 address of the real server.
    #[inline(always)]
    pub fn dest_v6(&self) -> &[u8; 16] {
        &self.daddr6
    }

    /// IPv6 virtual address.
    #[inline(always)]
    pub fn virtual_v6(&self) -> &[u8; 16] {
        &self.vaddr6
    }

    /// [`Entry::is_request_of`] for IPv4 addresses as they lie in the frame and both ports in
    /// one word, the source port (the client's) in its lower half: without a branch a field.
    #[inline(always)]
    pub fn is_request_of_v4(&self, protocol: u8, client: u32, other: u32, ports: u32) -> bool {
        let addrs = pair(self.caddr, self.vaddr) ^ pair(client, other);
        let ports = (u32::from(self.cport) | u32::from(self.vport) << 16) ^ ports;
        addrs | u64::from(ports | self.differs_v4(protocol)) == 0
    }

    /// [`Entry::is_reply_of`], likewise; the source port is the real server's.
    #[inline(always)]
    pub fn is_reply_of_v4(&self, protocol: u8, client: u32, other: u32, ports: u32) -> bool {
        let addrs = (self.caddr ^ client) | (self.daddr ^ other);
        let ports = (u32::from(self.dport) | u32::from(self.cport) << 16) ^ ports;
        addrs | ports | self.differs_v4(protocol) == 0
    }

    /// Zero for a live entry of an IPv4 client and this protocol.
    #[inline(always)]
    fn differs_v4(&self, protocol: u8) -> u32 {
        self.is_dead()
            | u32::from(self.protocol ^ protocol)
            | u32::from(self.flags & flag::CLIENT_V6)
    }

    /// Client endpoint.
    pub fn client(&self) -> Endpoint {
        Endpoint::new(
            self.address(flag::CLIENT_V6, self.caddr, &self.caddr6),
            self.cport,
        )
    }

    /// Virtual endpoint.
    pub fn virtual_(&self) -> Endpoint {
        Endpoint::new(
            self.address(flag::CLIENT_V6, self.vaddr, &self.vaddr6),
            self.vport,
        )
    }

    /// Real endpoint.
    pub fn dest(&self) -> Endpoint {
        Endpoint::new(
            self.address(flag::DEST_V6, self.daddr, &self.daddr6),
            self.dport,
        )
    }

    /// Client, virtual and real endpoint, from the long addresses: those of IPv4 stand there in
    /// their mapped form, so that it is not made again. Only that of the real server may have given its
    /// place to an adjustment.
    #[inline]
    pub fn endpoints(&self) -> (Endpoint, Endpoint, Endpoint) {
        let dest = match self.flags & flag::OUT_SEQ == 0 {
            true => Endpoint::new(Addr::v6(self.daddr6), self.dport),
            false => self.dest(),
        };
        (
            Endpoint::new(Addr::v6(self.caddr6), self.cport),
            Endpoint::new(Addr::v6(self.vaddr6), self.vport),
            dest,
        )
    }

    /// IPv4 address of the real server as on the wire.
    #[inline(always)]
    pub fn dest_v4(&self) -> [u8; 4] {
        self.daddr.to_ne_bytes()
    }

    /// IPv4 virtual address as on the wire.
    #[inline(always)]
    pub fn virtual_v4(&self) -> [u8; 4] {
        self.vaddr.to_ne_bytes()
    }

    /// Real port.
    #[inline(always)]
    pub fn dest_port(&self) -> u16 {
        self.dport
    }

    /// Virtual port.
    #[inline(always)]
    pub fn virtual_port(&self) -> u16 {
        self.vport
    }

    #[inline(always)]
    fn address(&self, v6: u16, v4: u32, long: &[u8; 16]) -> Addr {
        if self.flags & v6 == 0 {
            Addr::v4(v4.to_ne_bytes())
        } else {
            Addr::v6(*long)
        }
    }

    /// IP protocol number, with [`TEMPLATE_SPACE`] if it is a template.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Forwarding method, frozen when the connection was made.
    #[inline(always)]
    pub fn method(&self) -> ForwardingMethod {
        ForwardingMethod::from_number(self.method)
    }

    /// Its real server.
    #[inline(always)]
    pub fn dest_id(&self) -> DestId {
        DestId(self.dest)
    }

    /// The identity of a connection; a template has none.
    pub fn identity(&self) -> Option<NewConnection> {
        Some(NewConnection {
            protocol: Protocol::from_number(self.protocol)?,
            client: self.client(),
            virtual_: self.virtual_(),
            dest: self.dest(),
            dest_id: self.dest_id(),
            method: self.method(),
            flags: self.flags & !flag::OWED,
        })
    }
}
