//! The search for a packet's connection among several workers.
//!
//! A packet may belong to a connection in up to three ways, which are tried in order. For each the
//! role table tells the worker where such packets meet ([`Steering`](crate::steering::Steering)),
//! and there the connection is looked for. If the class is unsettled, the other workers look for
//! it too, one after another. What nobody has is new, and opened where the client's packets
//! meet.

use super::{Core, Kind, Located, NO_MAC, TCP, Worker, choose_side, ends, mac_word};
use crate::addr::{Addr, Endpoint, Mac};
use crate::conn::entry::flag;
use crate::conn::hash::digest_v4;
use crate::conn::{HashKey, KeyHash, SHARDS, Side};
use crate::flow::{Flow, Plain, Shape};
use crate::packet::{Attempt, DropReason, Packet, Verdict};
use crate::roles::STEERED;
use crate::steering::Class;
use crate::time::Instant;
use crate::toeplitz::Toeplitz;
use crate::wire::ipv4;

/// Where the packets of a tuple meet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meeting {
    /// Of the tuple; its shard is one of this worker's.
    pub(super) hash: KeyHash,
    /// The worker.
    pub(super) owner: u8,
    /// Others may have the connection.
    unsettled: bool,
}

/// One way in which a packet may belong to a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) side: Side,
    pub(super) protocol: u8,
    pub(super) client: Endpoint,
    pub(super) other: Endpoint,
}

/// All ways of a packet, in the order in which they are tried.
pub(super) type Ways = [Option<Way>; 3];

/// A reply, or an error about what a real server was sent.
pub(super) const REPLY: usize = 0;
/// A client's packet, or an error about a reply.
pub(super) const REQUEST: usize = 1;
/// An error about a client's packet in a tunnel of ours.
pub(super) const TUNNEL: usize = 2;

/// [`Attempt::step`] of a packet that belongs to no connection.
const NONE: u8 = TUNNEL as u8 + 2;
/// The same of a real server's packet that begins one (see [`Worker::open_outbound`]).
const OUTBOUND: u8 = NONE + 1;

/// What the search came to.
pub(super) enum Found {
    /// This connection, in that way.
    Here { way: usize, hash: KeyHash, i: u32 },
    /// It goes on elsewhere.
    Elsewhere(u8, Attempt),
    /// There is none, and this is the worker that opens one.
    Nowhere,
    /// As before, and a real server begins it.
    Outbound,
}

/// The ways of a packet with ports.
pub(super) fn ways_of(flow: &Flow, side: Side, both: bool) -> Ways {
    let way = |side| {
        let (client, other) = ends(flow, side);
        Way {
            side,
            protocol: flow.protocol,
            client,
            other,
        }
    };
    let is_reply = side == Side::Reply;
    let reply = is_reply.then(|| way(Side::Reply));
    let request = (!is_reply || both).then(|| way(Side::Request));
    [reply, request, None]
}

/// The shard whose owner has the connections of a tuple: `hash` is that of the tuple, `client` its
/// client.
#[inline]
pub(super) fn shard_of(
    key: &HashKey,
    nics: Option<&Toeplitz>,
    class: Class,
    hash: KeyHash,
    client: &Endpoint,
) -> u8 {
    match class.mask {
        None => {
            let by_nic = nics.and_then(|keys| keys.bucket(client));
            by_nic.unwrap_or(hash.shard)
        }
        Some(mask) => {
            let bits = u128::from_be_bytes(client.addr.octets()) & mask;
            let client = Addr::v6(bits.to_be_bytes());
            key.hash(0, &client, 0, &Addr::UNSPECIFIED, 0).shard
        }
    }
}

/// Looking for a connection in this way.
pub(super) fn attempt(way: usize, left: u8) -> Attempt {
    Attempt {
        step: way as u8 + 1,
        left,
    }
}

impl Worker {
    /// A packet that another worker handed over, with what was tried before.
    #[cold]
    pub fn process_attempt(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        attempt: Attempt,
    ) -> Verdict {
        if attempt == Attempt::START {
            let mut verdict = [Verdict::Drop(DropReason::Truncated)];
            self.process(now, core::slice::from_mut(packet), &mut verdict);
            return verdict[0];
        }
        let verdict = self.go_on(now, packet, attempt);
        self.watched(now, packet, verdict)
    }

    /// As [`Worker::process_attempt`], of a later attempt.
    fn go_on(&mut self, now: Instant, packet: &mut Packet<'_>, attempt: Attempt) -> Verdict {
        let mut flow = Flow::EMPTY;
        match flow.read(packet.frame(), packet.vlan_tci, packet.wire_len) {
            Shape::Ip => {}
            Shape::Fragment(_) => {
                return self.fragment(now, packet, &mut flow, attempt);
            }
            _ => return self.core.dropped(DropReason::Truncated),
        }
        if flow.is_icmp() {
            return self.icmp_error(now, packet, &flow, attempt);
        }
        if !flow.has_ports() {
            return self.ipsec(now, packet, &flow, attempt);
        }
        // What has lost its role meanwhile is the kernel's, as `admit` finds.
        let (side, both) = self.core.sides(&flow).unwrap_or((Side::Request, false));
        self.find_packet(now, packet, &flow, (side, both), attempt, false)
    }

    /// Looks for the connection of a packet with ports, or of the piece of one that has them, and
    /// takes it where it leads. `looked`: the first look of this attempt was in vain.
    #[cold]
    pub(super) fn find_packet(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        (side, both): (Side, bool),
        attempt: Attempt,
        looked: bool,
    ) -> Verdict {
        if flow.has_options && flow.is_v4 {
            let ip = packet.frame().get(flow.l3 as usize..).unwrap_or(&[]);
            if ipv4::is_source_routed(ip) {
                return self.core.dropped(DropReason::SourceRoute);
            }
        }
        let ways = ways_of(flow, side, both);
        let found = match attempt.step {
            OUTBOUND => Found::Outbound,
            _ => self.search(&ways, Some((packet, flow)), attempt, looked),
        };
        match found {
            Found::Here { way, hash, i } => {
                let side = if way == REPLY {
                    Side::Reply
                } else {
                    Side::Request
                };
                self.found(now, packet, flow, side, hash, i)
            }
            Found::Elsewhere(worker, attempt) => self.core.hand_over(worker, attempt),
            // Rules may have changed on the way from one worker to another.
            Found::Outbound => match self.open_outbound(now, packet, flow) {
                Some(verdict) => verdict,
                None => self.core.unknown_reply(now, packet, flow),
            },
            Found::Nowhere => match ways[REQUEST] {
                None => self.core.unknown_reply(now, packet, flow),
                Some(way) => {
                    let hash = self.core.meeting(&way).hash;
                    self.admit(now, packet, flow, hash)
                }
            },
        }
    }

    /// A packet of this connection.
    #[inline(always)]
    pub(super) fn found(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        side: Side,
        hash: KeyHash,
        i: u32,
    ) -> Verdict {
        let shard = &mut self.shards[hash.shard as usize % SHARDS];
        let is_read = shard.entry(i).is_some_and(|e| e.flags & flag::HELPER != 0);
        let verdict = match side {
            Side::Request => self.request(now, packet, flow, hash, i),
            Side::Reply if is_read => self.helped_reply(now, packet, flow, hash, i),
            Side::Reply => self.core.reply(now, shard, i, packet, flow),
        };
        self.assure();
        verdict
    }

    /// Goes on with the search at an attempt. `opening`: a packet that may be the first of a
    /// connection.
    pub(super) fn search(
        &mut self,
        ways: &Ways,
        opening: Option<(&Packet<'_>, &Flow)>,
        from: Attempt,
        mut looked: bool,
    ) -> Found {
        let (me, team) = (self.core.share.me(), self.core.share.team());
        // Whoever handed it over knows that the next look is ours; two workers whose tables
        // differ for a moment must not send it to and fro.
        let (mut is_here, mut left) = (from.step != 0, from.left);
        let first = usize::from(from.step).saturating_sub(1);
        for (at, way) in ways.iter().enumerate().skip(first) {
            let Some(way) = way else {
                (is_here, left, looked) = (false, 0, false);
                continue;
            };
            let meeting = self.core.meeting(way);
            if !is_here && meeting.owner != me {
                return Found::Elsewhere(meeting.owner, attempt(at, 0));
            }
            let hash = meeting.hash;
            let flow = opening.map(|(_, flow)| flow);
            let found = match looked {
                false => self.look(way, hash, flow),
                true => self.look_without_port(way, hash, flow),
            };
            if let Some((hash, i)) = found {
                return Found::Here { way: at, hash, i };
            }
            // Clients of a template that is where an earlier table had it stay with it.
            if left != 0
                && way.side == Side::Request
                && let Some((packet, flow)) = opening
                && self.has_template(packet, flow)
            {
                return Found::Nowhere;
            }
            let outbound = match opening {
                Some((packet, flow)) if way.side == Side::Reply => self.outbound(packet, flow),
                _ => None,
            };
            if left != 0 && outbound == Some(true) {
                return Found::Outbound;
            }
            let others = match left {
                0 if meeting.unsettled => team.saturating_sub(1),
                _ => left.saturating_sub(1),
            };
            if others != 0 {
                return Found::Elsewhere((me + 1) % team, attempt(at, others));
            }
            if outbound.is_some() {
                // Before it may be anything else, as in the kernel. Replies and requests of its
                // client meet at the same worker.
                let begins = Attempt {
                    step: OUTBOUND,
                    left: 0,
                };
                return match meeting.owner == me {
                    true => Found::Outbound,
                    false => Found::Elsewhere(meeting.owner, begins),
                };
            }
            (is_here, left, looked) = (false, 0, false);
        }
        match ways[REQUEST].map(|way| self.core.meeting(&way).owner) {
            Some(owner) if owner != me && from.step != NONE => {
                let none = Attempt {
                    step: NONE,
                    left: 0,
                };
                Found::Elsewhere(owner, none)
            }
            _ => Found::Nowhere,
        }
    }

    /// Which entry, and where.
    fn look(&mut self, way: &Way, hash: KeyHash, opening: Option<&Flow>) -> Option<(KeyHash, u32)> {
        let shard = self.shard(hash);
        match shard.lookup(hash, way.side, way.protocol, &way.client, &way.other) {
            Some(i) => Some((hash, i)),
            None => self.look_without_port(way, hash, opening),
        }
    }

    /// A connection whose client's port was not known before.
    fn look_without_port(
        &mut self,
        way: &Way,
        hash: KeyHash,
        opening: Option<&Flow>,
    ) -> Option<(KeyHash, u32)> {
        let flow = opening.filter(|flow| self.core.ports_unknown != 0 && flow.protocol == TCP)?;
        match way.side {
            Side::Request => self.fill_client_port(flow, hash),
            Side::Reply => None,
        }
    }

    /// Whether this worker has a template that the client's packet goes by.
    fn has_template(&mut self, packet: &Packet<'_>, flow: &Flow) -> bool {
        let template = self.core.template_of(packet.port, flow, packet.frame());
        template.is_some_and(|(key, data)| self.find_template(&key, data).is_some())
    }
}

impl Core {
    /// Notes the first MAC of each port for the short way through the first pass, which knows no
    /// classes.
    pub(super) fn note_macs(&mut self) {
        self.is_steered = self.share.team() > 1 && !self.roles.steering().is_plain();
        let is_plain = !self.is_steered;
        for (own, macs) in self.own_macs.iter_mut().zip(&self.macs) {
            *own = match macs.first() {
                Some(Mac([a, b, c, d, e, f])) if is_plain => {
                    u64::from_le_bytes([*a, *b, *c, *d, *e, *f, 0, 0])
                }
                _ => NO_MAC,
            };
        }
    }

    /// The first pass for plain frames while there are classes that steer in another way. `false`:
    /// it is none, or nobody's.
    pub(super) fn classify_steered(&self, packet: &Packet<'_>, at: &mut Located) -> bool {
        let Some(head) = packet.head::<{ Plain::HEADERS }>() else {
            return false;
        };
        let Some([a, b, c, d, e, f, ..]) = packet.frame().first_chunk::<14>() else {
            return false;
        };
        let macs = self.macs.get(packet.port.0 as usize);
        let is_own = macs.and_then(|macs| macs.first()) == Some(&Mac([*a, *b, *c, *d, *e, *f]));
        debug_assert!(!is_own || mac_word(head) != NO_MAC);
        let Some(plain) =
            Plain::read::<false>(head, packet.len(), packet.wire_len).filter(|_| is_own)
        else {
            return false;
        };
        let (src, dst) = (u32::from_be(plain.src), u32::from_be(plain.dst));
        let (src_port, dst_port) = (plain.src_port(), plain.dst_port());
        let (from, to) = (digest_v4(src, src_port), digest_v4(dst, dst_port));
        let roles = (self.roles.of_v4(TCP, from), self.roles.of_v4(TCP, to));
        let Some((side, _)) = choose_side(roles.0, roles.1) else {
            return false;
        };
        let is_steered = match side {
            Side::Request => roles.1,
            Side::Reply => roles.0,
        } & STEERED
            != 0;
        let (hash, owner) = if is_steered {
            let end = |addr: u32, port| Endpoint::new(Addr::v4(addr.to_be_bytes()), port);
            let (src, dst) = (end(src, src_port), end(dst, dst_port));
            let (client, other) = match side {
                Side::Request => (src, dst),
                Side::Reply => (dst, src),
            };
            let meeting = self.meeting(&Way {
                side,
                protocol: TCP,
                client,
                other,
            });
            (meeting.hash, meeting.owner)
        } else {
            let hash = match side {
                Side::Request => self.key.hash_v4(TCP, from, to),
                Side::Reply => self.key.hash_v4(TCP, to, from),
            };
            match self.share.plain_v4(hash.shard) {
                Ok(shard) => (KeyHash { shard, ..hash }, self.share.me()),
                Err(owner) => (hash, owner),
            }
        };
        if owner == self.share.me() {
            at.set_hash(hash);
            at.kind = Kind::plain_v4(side);
        } else {
            at.kind = Kind::Elsewhere(owner);
        }
        true
    }

    /// Which end of a flow is the client, and whether it may be the other one too. `None`:
    /// neither end is known.
    pub(super) fn sides(&self, flow: &Flow) -> Option<(Side, bool)> {
        let role = |addr, port| self.roles.of(flow.is_v4, flow.protocol, addr, port);
        choose_side(
            role(&flow.src, flow.src_port),
            role(&flow.dst, flow.dst_port),
        )
    }

    /// Who has the connections of a packet that a NIC took to this worker by mistake.
    pub(super) fn misled(&self, flow: &Flow, side: Side) -> Option<u8> {
        self.nics.as_ref()?;
        let (client, other) = ends(flow, side);
        let meeting = self.meeting(&Way {
            side,
            protocol: flow.protocol,
            client,
            other,
        });
        (meeting.owner != self.share.me()).then_some(meeting.owner)
    }

    /// Where the packets meet that belong to a connection in this way.
    pub(super) fn meeting(&self, way: &Way) -> Meeting {
        let Way {
            protocol,
            client: c,
            other: o,
            ..
        } = way;
        let hash = self.key.hash(*protocol, &c.addr, c.port, &o.addr, o.port);
        if self.share.team() == 1 {
            return Meeting {
                hash,
                owner: self.share.me(),
                unsettled: false,
            };
        }
        let class = self.roles.steering().class(*protocol, &o.addr, o.port);
        let shard = shard_of(&self.key, self.nics.as_deref(), class, hash, c);
        Meeting {
            hash: KeyHash {
                shard: self.share.mine(hash.shard),
                ..hash
            },
            owner: self.share.owner(shard),
            unsettled: class.unsettled,
        }
    }

    /// Where this worker keeps what is found by such a hash.
    pub(super) fn place(&self, hash: KeyHash) -> KeyHash {
        KeyHash {
            shard: self.share.mine(hash.shard),
            ..hash
        }
    }
}
