//! A borrowed frame and what becomes of it.

/// Index of a data port, dense from zero in the order of the configuration. Not DPDK's port id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PortId(pub u16);

/// What the NIC of a port does for the frames that leave by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assist {
    /// It takes the 802.1Q tag out of frames that come and puts [`Packet::vlan_tci`] into those that
    /// leave.
    pub tags: bool,
    /// It works out UDP checksums over the whole payload ([`Packet::owed_udp`]).
    pub udp_sums: bool,
}

/// What the NIC says about a frame that came. Without a word from it all are false, and the worker
/// looks itself; so it does at what the NIC finds wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// The checksum of the IPv4 header.
    pub ipv4: bool,
    /// The checksum of TCP, UDP or SCTP.
    pub transport: bool,
    /// The checksum of TCP or UDP is partial: its sender left it to hardware that there is none of
    /// ([`partial`](crate::partial)).
    pub partial: bool,
}

/// One frame seen in place: `room` is the whole data room of the buffer (headroom, frame,
/// tailroom), the frame is `room[start..start + len]` and begins with its Ethernet header.
///
/// The core may move `start` and change `len` (encapsulation, answers made in place); it can
/// neither free nor keep the buffer. Whoever made the packet reads `start` and `len` back.
#[derive(Debug)]
pub struct Packet<'a> {
    room: &'a mut [u8],
    start: u16,
    len: u16,
    /// The port the frame came in by.
    pub port: PortId,
    /// 802.1Q tag that the driver took out of the frame (TCI, host order), 0 for none. With
    /// [`Verdict::Transmit`]: the tag that the NIC of that port is to put in ([`Assist::tags`]).
    pub vlan_tci: u16,
    /// Whole length on the wire as it came; larger than `len` when the frame goes on in other
    /// buffers, which the core does not see and which follow it wherever it goes.
    pub wire_len: u32,
    /// What the NIC found right.
    pub checked: Checked,
    /// Bytes of the outer IP header when the NIC is to work out the checksum of the UDP header behind
    /// it, which holds the sum of the pseudo header ([`Assist::udp_sums`]); 0 if none is owed.
    pub owed_udp: u8,
}

impl<'a> Packet<'a> {
    /// Borrows a frame. `start + len` is cut to the room, so a wrong pair cannot be built.
    #[inline(always)]
    pub fn new(room: &'a mut [u8], start: u16, len: u16, port: PortId) -> Packet<'a> {
        let have = room.len().min(u16::MAX as usize);
        let (start, len) = match usize::from(start) + usize::from(len) <= have {
            true => (start, len),
            false => cut(start, len, have as u16),
        };
        Packet {
            room,
            start,
            len,
            port,
            vlan_tci: 0,
            wire_len: u32::from(len),
            checked: Checked::default(),
            owed_udp: 0,
        }
    }

    /// Offset of the frame in the room.
    #[inline(always)]
    pub fn start(&self) -> u16 {
        self.start
    }

    /// Length of the frame in bytes.
    #[inline(always)]
    pub fn len(&self) -> u16 {
        self.len
    }

    /// Whether the frame has no bytes.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The frame.
    #[inline(always)]
    pub fn frame(&self) -> &[u8] {
        // `new`, `push`, `pull` and `set_len` keep start + len within the room.
        self.room
            .get(self.start as usize..self.start as usize + self.len as usize)
            .unwrap_or(&[])
    }

    /// The frame, to be changed in place.
    #[inline(always)]
    pub fn frame_mut(&mut self) -> &mut [u8] {
        self.room
            .get_mut(self.start as usize..self.start as usize + self.len as usize)
            .unwrap_or(&mut [])
    }

    /// The first `N` bytes of the frame, `None` if it is shorter.
    #[inline(always)]
    pub fn head<const N: usize>(&self) -> Option<&[u8; N]> {
        if (self.len as usize) < N {
            return None;
        }
        let start = self.start as usize;
        self.room.get(start..start + N)?.first_chunk()
    }

    /// [`Packet::head`], to be changed in place.
    #[inline(always)]
    pub fn head_mut<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        if (self.len as usize) < N {
            return None;
        }
        let start = self.start as usize;
        self.room.get_mut(start..start + N)?.first_chunk_mut()
    }

    /// [`Packet::head_mut`] for who knows that the frame is not shorter: nothing compares it.
    #[inline(always)]
    pub fn known_head_mut<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        let start = self.start as usize;
        self.room.get_mut(start..start + N)?.first_chunk_mut()
    }

    /// Grows the frame at its front by `n` bytes (their contents are undefined); false if the
    /// headroom is too small, and then nothing changed.
    #[inline]
    #[must_use]
    pub fn push(&mut self, n: u16) -> bool {
        if self.start < n || self.len.checked_add(n).is_none() {
            return false;
        }
        self.start -= n;
        self.len += n;
        true
    }

    /// Cuts `n` bytes off the front; false if the frame is shorter, and then nothing changed.
    #[inline]
    #[must_use]
    pub fn pull(&mut self, n: u16) -> bool {
        if self.len < n {
            return false;
        }
        self.start += n;
        self.len -= n;
        true
    }

    /// The frame ends with this buffer now: what was in others is of no use any more.
    #[inline]
    pub fn drop_tail(&mut self) {
        self.wire_len = 0;
    }

    /// Sets the length of the frame (its end moves); false if the room is too small.
    #[inline]
    #[must_use]
    pub fn set_len(&mut self, len: u16) -> bool {
        if self.start as usize + len as usize > self.room.len() {
            return false;
        }
        self.len = len;
        true
    }
}

/// What is left of a frame in a room of so many bytes.
#[cold]
fn cut(start: u16, len: u16, have: u16) -> (u16, u16) {
    let start = start.min(have);
    (start, len.min(have - start))
}

/// Classes of packets that go to the kernel twin. Each has its own queue and rate limit;
/// lower numbers are served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PuntClass {
    /// VRRP adverts: late ones make a backup take over. Whoever floods a LAN with ARP delays none.
    Advert = 0,
    /// ARP, neighbour discovery, LACP and LLDP.
    Control = 1,
    /// BGP sessions and BFD.
    Routing = 2,
    /// To an address of this host: checks and their answers, SSH, echo, admin sessions.
    Host = 3,
    /// Everything else, above all packets the kernel is to forward.
    Transit = 4,
}

impl PuntClass {
    /// Number of classes.
    pub const COUNT: usize = 5;
    /// All classes, first served first.
    pub const ALL: [PuntClass; 5] = [
        PuntClass::Advert,
        PuntClass::Control,
        PuntClass::Routing,
        PuntClass::Host,
        PuntClass::Transit,
    ];

    /// Name in listings.
    pub const fn name(self) -> &'static str {
        match self {
            PuntClass::Advert => "advert",
            PuntClass::Control => "control",
            PuntClass::Routing => "routing",
            PuntClass::Host => "host",
            PuntClass::Transit => "transit",
        }
    }
}

/// How far workers have come in the search for a packet's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What to look for next: 0 for a packet as it was received, then the ways in which it may
    /// belong to a connection, in order, and at last: it belongs to none, or begins one.
    pub step: u8,
    /// How many workers are to look for the same, this one included, before the next step; 0: this
    /// one should have it.
    pub left: u8,
}

impl Attempt {
    /// Nobody has looked yet.
    pub const START: Attempt = Attempt { step: 0, left: 0 };

    /// As a number below 2^16.
    pub fn bits(self) -> u32 {
        u32::from(self.step) << 8 | u32::from(self.left)
    }

    /// Back from [`Attempt::bits`].
    pub fn from_bits(bits: u32) -> Attempt {
        Attempt {
            step: (bits >> 8) as u8,
            left: bits as u8,
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the frame as it now is out of this port.
    Transmit(PortId),
    /// As `Transmit`, but the packet must be cut to this MTU (bytes of layer 3) first:
    /// [`Fragments`](crate::wire::fragment::Fragments).
    Fragment(PortId, u16),
    /// Hand it to the kernel twin of the port it came in by.
    Kernel(PuntClass),
    /// Free it; the reason has been counted.
    Drop(DropReason),
    /// Nothing was changed: its connection lives on another worker, or would. That worker goes on
    /// from `attempt` (`Worker::process_attempt`).
    HandOver {
        /// Number of the worker.
        worker: u8,
        /// How far the search has come.
        attempt: Attempt,
    },
    /// The packet was not changed or counted yet: the MAC of the next hop is being asked for. Keep
    /// it for a moment and process it again, else say so: `Worker::process_again`.
    Wait,
    /// Nothing was changed or counted yet: a later piece of a packet came before its first. Keep
    /// it for a moment and process it again; the last time, say so.
    Hold,
}

macro_rules! drop_reasons {
    ($($variant:ident $name:literal $doc:literal,)*) => {
        /// Why a packet was dropped: the index of a counter and its name in `rvsadm status`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $(#[doc = $doc] $variant,)* }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];
            /// Number of reasons.
            pub const COUNT: usize = DropReason::ALL.len();
            /// Name in listings, captures and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }
            /// One line for the operator: what it means.
            pub const fn help(self) -> &'static str {
                match self { $(DropReason::$variant => $doc,)* }
            }
        }
    };
}

drop_reasons! {
    NotOurMac "not-our-mac" "destination MAC is neither ours, a VRRP MAC of ours nor a group address",
    Truncated "truncated" "frame shorter than its headers say (cut by the port, or switch GRO/LRO off on its peer)",
    BadHeader "bad-header" "impossible IP header: version, header length or total length",
    BadChecksum "bad-checksum" "IPv4 header checksum is wrong",
    ShortTransport "short-transport" "transport header shorter than its protocol needs",
    NoCallId "no-call-id" "packet for a service with the engine sip that has no SIP Call-ID",
    Fragment "fragment" "impossible fragment (offset, length or kind), or one whose first piece was answered",
    FragmentEarly "fragment-early" "fragment for this host whose first piece did not come in time, or too many waited",
    PathMtu "path-mtu" "a router's message about the MTU of a tunnel: taken note of, nobody else needs it",
    NotAccepted "not-accepted" "for a virtual address that only its services may use (VRRP: accept = false)",
    NoLease "no-lease" "the virtual address is another router's by now, or this one's VRRP could not tell in time (VRRP)",
    NoDestination "no-destination" "service has no usable real server (answered with port unreachable)",
    DropPacket "drop-packet" "opening packet dropped by the drop_packet defence",
    Overload "overload" "opening packet refused because a receive queue stays deep: known connections go first (hits_first)",
    TableFull "table-full" "connection table is full of connections that are in use (raise `connections`)",
    DestinationGone "destination-gone" "connection's real server was deleted (expire_nodest_conn = 0)",
    NoRoute "no-route" "no route to the next hop (answered with host unreachable)",
    ForeignDevice "foreign-device" "the route leaves by a device that is no twin of a data port",
    Blackhole "blackhole" "the route is a blackhole route",
    Rejected "rejected" "the route is an unreachable or prohibit route (answered)",
    NoNeighbour "no-neighbour" "next hop's MAC is not known (answered with host unreachable once the kernel gave it up)",
    PortDown "port-down" "the port to send by has no link or is stopped",
    TtlExceeded "ttl-exceeded" "TTL or hop limit ran out (answered with time exceeded)",
    TooBig "too-big" "longer than the path MTU and must not be cut (answered with its MTU)",
    NoHeadroom "no-headroom" "no room in the buffer for the outer header",
    MartianSource "martian-source" "source or destination address cannot be forwarded (loopback or multicast source)",
    TransportChecksum "transport-checksum" "TCP checksum is wrong in a segment that a helper has to read (FTP)",
    SourceRoute "source-route" "IPv4 packet for a service whose sender wants to choose its way (source route option)",
    IcmpChecksum "icmp-checksum" "ICMP error for a connection has a wrong checksum",
    IcmpRateLimited "icmp-rate-limited" "an answer of ours was held back by the ICMP rate limit",
    NoReply "no-reply" "an ICMP error of ours could not be made for this packet (it is itself an error, or too short)",
    PuntLimited "punt-limited" "packet for the kernel was over the rate limit of its class",
    PuntQueueFull "punt-queue-full" "packet for the kernel met a full queue of its class",
    TwinFailed "twin-failed" "the kernel twin refused the frame",
    HandOverFull "hand-over-full" "the worker that has the connection did not take more packets: it is overloaded",
    TxFull "tx-full" "transmit queue of the port was full",
    NoMbuf "no-mbuf" "no packet buffer was left",
    FragmentFailed "fragment-failed" "packet could not be cut to the path MTU",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_small_and_names_unique() {
        assert!(size_of::<Verdict>() <= 8);
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i);
        }
    }

    #[test]
    fn room_is_respected() {
        let mut room = [0u8; 100];
        let mut p = Packet::new(&mut room, 20, 60, PortId(0));
        assert!(!p.push(21));
        assert!(p.push(20));
        assert_eq!((p.start(), p.len()), (0, 80));
        assert!(!p.set_len(101));
        assert!(p.pull(80));
        assert!(!p.pull(1));
        let q = Packet::new(&mut room, 90, 60, PortId(0));
        assert_eq!(q.len(), 10);
    }
}
