//! A worker: everything one core needs, as a value.
//!
//! [`Worker::process`] takes a burst through three passes. *Classify* parses each frame, decides
//! which end is the client and prefetches the index bucket. *Locate* reads the bucket and
//! prefetches the entry. *Handle* goes packet by packet in order of arrival: look up, or admit a
//! new connection, advance its state, forward.

mod admit;
mod announce;
mod answer;
mod apply;
mod bypass;
mod collect;
mod deal;
mod defence;
mod engine;
mod exit;
mod fragment;
mod ftp;
mod icmp;
mod ipsec;
mod lease;
mod overload;
mod passes;
mod persist;
mod pmtu;
mod probe;
mod share;
mod steer;
mod strays;
mod sweep;
mod synced;
mod timeouts;
mod transmit;
mod tunnel_error;
mod usual;

pub use self::deal::{Dealt, Places, deal};
pub use self::overload::{Backlog, PACKETS_EACH};
pub use self::share::Share;

use core::time::Duration;
use std::sync::Arc;

use arrayvec::ArrayVec;

use self::announce::{Master, Told};
use self::defence::Defences;
use self::overload::Overload;
use self::steer::{Found, Way};
use self::strays::Strays;
use self::sweep::Sweep;
use crate::addr::{Endpoint, Mac};
use crate::capture::Capture;
use crate::changes::{Changes, Watch};
use crate::command::Event;
use crate::conn::engine_data::{self, EngineData};
use crate::conn::entry::flag;
use crate::conn::index::REPLY;
use crate::conn::{Controller, Entry, HashKey, KeyHash, NIL, SHARDS, Shard, Side, template};
use crate::counters::{DestCounters, WorkerCounters};
use crate::dests::{self, DestState, Exit};
use crate::flow::{Flow, Parsed, PlainV6, Shape, octets};
use crate::fragments::{Fate, Fragments};
use crate::lease::Leases;
use crate::limit::{AnswerLimit, Bucket};
use crate::marks::Marks;
use crate::packet::{Assist, Attempt, DropReason, Packet, PortId, PuntClass, Verdict};
use crate::proto::{self, Direction, sctp, tcp};
use crate::punt;
use crate::roles::{MARKED, REAL, RoleTable, SET_BACK, VIRTUAL};
use crate::route::{Lookup, Router};
use crate::schedule::{Loads, Request, Scheduler};
use crate::service::{
    DestId, ForwardingMethod, Protocol, ServiceId, ServiceKey, ServiceTimeouts, VirtualService,
};
use crate::settings::Settings;
use crate::sync::decide::Pace;
use crate::team::{Counts, Team};
use crate::time::{Instant, Ticks};
use crate::toeplitz::Toeplitz;
use crate::wire::ipv4;

/// IP protocol number of TCP.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Rows of [`Core::timeouts`].
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// Most packets of one call.
pub const BURST: usize = 32;

/// Shards that are looked at together when several are due.
const GROUP: usize = 8;

/// Pause between two looks for expired connections; 128 of them take 16 ms.
const SHARD_PAUSE: Duration = Duration::from_micros(125);

/// What a second has of them.
const STEPS_PER_SECOND: u32 = (1_000_000_000 / SHARD_PAUSE.as_nanos()) as u32;

/// Capacities fixed at start, after which a worker never allocates.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Services.
    pub services: usize,
    /// Destinations, including deleted ones that still have connections.
    pub dests: usize,
    /// Neighbours.
    pub neighbours: usize,
    /// Ports.
    pub ports: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            services: 4096,
            dests: 65536,
            neighbours: 65536,
            ports: 64,
        }
    }
}

/// A service with the scheduler state that this worker keeps for it.
struct Running {
    service: Arc<VirtualService>,
    scheduler: Box<dyn Scheduler>,
}

/// One worker.
pub struct Worker {
    shards: Box<[Shard; SHARDS]>,
    core: Core,
    /// Next shard to look for expired connections in.
    expiry_at: usize,
    /// When.
    expiry_due: Instant,
    /// Round through the connections after a deletion.
    sweep: Sweep,
    strays: Strays,
    capture: Option<Box<Capture>>,
    /// Addresses that may be served for so long only.
    watch: lease::Watch,
    /// The table is more than the TLB reaches.
    is_far: bool,
    /// What backups were told of each entry.
    told: Told,
    /// The packets of a burst that were parsed in full, [`BURST`] places. Kept, so that a burst
    /// need not clear them.
    flows: Box<[Flow]>,
}

/// A worker without its shards, so that an entry and the rest can be borrowed side by side.
struct Core {
    key: HashKey,
    share: Share,
    /// How the NICs steer, if they do.
    nics: Option<Arc<Toeplitz>>,
    counters: Arc<WorkerCounters>,
    router: Router,
    roles: Arc<RoleTable>,
    marks: Arc<Marks>,
    services: hashbrown::HashMap<ServiceKey, ServiceId>,
    running: Box<[Option<Running>]>,
    dests: Box<[DestState]>,
    /// By destination: what the usual path needs of it.
    exits: Box<[Exit]>,
    /// Rises with everything that could make an exit another one.
    epoch: u32,
    /// Services whose engine looks at what their servers send.
    with_engine: Vec<ServiceId>,
    /// What engines keep beside templates.
    engine_data: EngineData,
    /// At which packets a connection may be due to be announced.
    pace: Pace,
    /// While backups are told of connections.
    master: Option<Master>,
    /// Destinations whose schedulers have to hear of it.
    changes: Changes,
    /// Next service whose scheduler is tended.
    tend_at: usize,
    settings: Settings,
    /// Timeout in ticks by protocol (TCP, UDP, SCTP) and state.
    timeouts: [[u32; 16]; 3],
    /// By destination: what its service has in place of those.
    own_timeouts: Box<[ServiceTimeouts]>,
    /// The first destination that has not heard of the common timeouts yet.
    timeouts_at: usize,
    macs: Box<[Box<[Mac]>]>,
    /// The first of each port as [`mac_word`] has it, and [`NO_MAC`] where there is none or its
    /// frames do not take the short way.
    own_macs: Box<[u64]>,
    /// Some class of the role table steers by other than the client's endpoint.
    is_steered: bool,
    /// By port and class: a flood on one port does not cost another its ARP.
    punt_limits: Box<[[Bucket; PuntClass::COUNT]]>,
    /// Those of [`Worker::watch`]: what they say about packets that no service takes.
    leases: Arc<Leases>,
    answers: AnswerLimit,
    defences: Defences,
    overload: Overload,
    events: ArrayVec<Event, 64>,
    /// Connections that do not know their client's port yet.
    ports_unknown: u32,
    /// Template that the packet at hand has shown to work.
    assured: Option<Controller>,
    /// Identification of packets we make.
    ip_id: u16,
    /// The same of IPv6 packets that are cut.
    fragment_id: u32,
    /// Path MTUs of tunnels.
    paths: pmtu::PathMtus,
    /// Packets that come in pieces.
    fragments: Fragments,
    /// First pieces seen.
    first_fragments: u32,
    /// Where the last one-packet connection went: it is over before its later pieces come.
    connected_once: Option<Fate>,
    neighbours_learned: u32,
    /// Whether packets may wait for next hops. Not the one that has waited long enough.
    is_patient: bool,
}

/// What still counts an entry that was taken out of the table.
struct Bound {
    dest: DestId,
    is_active: bool,
    is_template: bool,
    controller: Option<Controller>,
}

/// What the first pass found out about a packet. Its first octet says what, so that one comparison
/// tells the usual packets.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    /// A TCP segment of plain shape over IPv4 from a client, looked for among the connections; its
    /// flow was not read.
    Request,
    /// The same from a server.
    Reply,
    /// The same as `Request` over IPv6.
    RequestV6,
    /// The same as `Reply` over IPv6.
    ReplyV6,
    /// Looked for among the connections; `Side` is tried first, then the other if `both`.
    Balance { side: Side, both: bool },
    /// An ICMP error that may belong to a connection.
    IcmpError,
    /// AH or ESP, which may follow a connection.
    Ipsec,
    /// Belongs to a connection that lives on this worker, or would.
    Elsewhere(u8),
    /// For the kernel twin.
    Kernel(PuntClass),
    /// Refused.
    Drop(DropReason),
    /// A piece of a packet.
    Fragment,
}

impl Kind {
    #[inline(always)]
    fn plain_v4(side: Side) -> Kind {
        match side {
            Side::Request => Kind::Request,
            Side::Reply => Kind::Reply,
        }
    }
}

#[derive(Clone, Copy)]
struct Located {
    kind: Kind,
    // A hash apart, so that no octets are between: 24 in all.
    shard: u8,
    bits: u64,
    /// Bucket of the index that the hash belongs in; [`NIL`]: nothing is looked for.
    home: u32,
    slot: u32,
}

impl Located {
    const EMPTY: Located = Located {
        kind: Kind::Drop(DropReason::Truncated),
        shard: 0,
        bits: 0,
        home: NIL,
        slot: NIL,
    };

    #[inline(always)]
    fn hash(&self) -> KeyHash {
        KeyHash {
            shard: self.shard,
            bits: self.bits,
        }
    }

    #[inline(always)]
    fn set_hash(&mut self, hash: KeyHash) {
        (self.shard, self.bits) = (hash.shard, hash.bits);
    }
}

/// What no [`mac_word`] is.
const NO_MAC: u64 = u64::MAX;

/// The destination MAC of a frame as a number.
#[inline(always)]
fn mac_word<const N: usize>(head: &[u8; N]) -> u64 {
    u64::from_le_bytes(octets(head, 0)) & 0xffff_ffff_ffff
}

/// The port that a burst came by, and the first of its MACs.
#[derive(Clone, Copy)]
struct Entrance {
    port: PortId,
    /// [`NO_MAC`] for none.
    mac: u64,
}

/// Client and other endpoint of a flow seen from one side.
#[inline(always)]
fn ends(flow: &Flow, side: Side) -> (Endpoint, Endpoint) {
    let src = Endpoint::new(flow.src, flow.src_port);
    let dst = Endpoint::new(flow.dst, flow.dst_port);
    match side {
        Side::Request => (src, dst),
        Side::Reply => (dst, src),
    }
}

/// Which end is the client by the roles of both. Replies first, as the kernel's OUT hook runs
/// before IN; the role of the destination is asked for only if that of the source leaves it open.
#[inline(always)]
fn side_of(src: u8, dst: impl FnOnce() -> u8) -> Option<Side> {
    if src & (VIRTUAL | REAL | SET_BACK) != 0 {
        return Some(Side::Reply);
    }
    if dst() & (VIRTUAL | MARKED) != 0 {
        return Some(Side::Request);
    }
    side_of_marked(src)
}

/// Of a marked address, whose replies may pass here, too.
#[cold]
fn side_of_marked(src: u8) -> Option<Side> {
    (src & MARKED != 0).then_some(Side::Reply)
}

/// The same, and whether it may be the other side, too.
fn choose_side(src: u8, dst: u8) -> Option<(Side, bool)> {
    let side = side_of(src, || dst)?;
    let both = side == Side::Reply && dst & (VIRTUAL | MARKED) != 0;
    Some((side, both))
}

impl Worker {
    /// The only worker: it owns all shards of a table.
    pub fn new(
        shards: Vec<Shard>,
        key: HashKey,
        limits: Limits,
        counters: Arc<WorkerCounters>,
        settings: Settings,
    ) -> Worker {
        Worker::with_share(Share::ALL, shards, key, limits, counters, settings)
    }

    /// A worker that owns these shards, in the order in which `share` deals them.
    ///
    /// # Panics
    /// They are not as many as that.
    pub fn with_share(
        share: Share,
        shards: Vec<Shard>,
        key: HashKey,
        limits: Limits,
        counters: Arc<WorkerCounters>,
        settings: Settings,
    ) -> Worker {
        let mut own = shards.into_iter();
        let mut shards: Vec<Shard> = (0..SHARDS as u8)
            .map(|shard| match share.elsewhere(shard) {
                Some(_) => Some(Shard::absent(key)),
                None => own.next(),
            })
            .map(|shard| shard.expect("as many shards as the share has"))
            .collect();
        assert!(own.next().is_none(), "more shards than the share has");
        template::forget_data(&mut shards);
        let shards: Box<[Shard; SHARDS]> = shards
            .try_into()
            .unwrap_or_else(|_| unreachable!("one for each number"));
        let watch = lease::Watch::default();
        let mut core = Core {
            key,
            share,
            nics: None,
            counters,
            router: Router::new(limits.neighbours),
            roles: Arc::default(),
            marks: Arc::default(),
            // Twice the room: tombstones are then cleaned in place and the map never grows.
            services: hashbrown::HashMap::with_capacity(2 * limits.services),
            running: (0..limits.services).map(|_| None).collect(),
            dests: vec![DestState::default(); limits.dests].into_boxed_slice(),
            exits: vec![Exit::NONE; limits.dests].into_boxed_slice(),
            epoch: 1,
            with_engine: Vec::with_capacity(limits.services),
            engine_data: EngineData::new(engine_data::CAPACITY),
            pace: Pace::NEVER,
            master: None,
            changes: Changes::new(limits.services, limits.dests),
            tend_at: 0,
            settings,
            timeouts: [[0; 16]; 3],
            own_timeouts: vec![ServiceTimeouts::default(); limits.dests].into_boxed_slice(),
            timeouts_at: 0,
            macs: (0..limits.ports).map(|_| Box::default()).collect(),
            own_macs: vec![NO_MAC; limits.ports].into_boxed_slice(),
            is_steered: false,
            punt_limits: vec![[Bucket::new(0, 0); PuntClass::COUNT]; limits.ports]
                .into_boxed_slice(),
            leases: watch.leases(),
            answers: AnswerLimit::new(&settings),
            defences: Defences::default(),
            overload: Overload::default(),
            events: ArrayVec::new(),
            ports_unknown: 0,
            assured: None,
            ip_id: 1,
            fragment_id: 0,
            paths: pmtu::PathMtus::new(limits.dests),
            fragments: Fragments::new(key),
            first_fragments: 0,
            connected_once: None,
            neighbours_learned: 0,
            is_patient: true,
        };
        core.use_settings(settings);
        while core.owes_timeouts() {
            core.tell_dests_timeouts();
        }
        let told = Told::new(&*shards);
        let is_far = Worker::is_far(&*shards);
        let mut worker = Worker {
            shards,
            core,
            expiry_at: 0,
            expiry_due: Instant(0),
            sweep: Sweep::default(),
            strays: Strays::default(),
            capture: None,
            watch,
            is_far,
            told,
            flows: vec![Flow::EMPTY; BURST].into_boxed_slice(),
        };
        let mut ports_unknown = 0;
        worker.for_each_connection(|e| {
            ports_unknown += u32::from(e.flags & flag::NO_CPORT != 0);
        });
        worker.core.ports_unknown = ports_unknown;
        worker.count_in_all();
        worker
    }

    /// All shards by number; those of other workers are empty.
    pub fn shards(&self) -> &[Shard] {
        &*self.shards
    }

    /// Counts what is in a table that was taken over. It was counted as new when it was made.
    fn count_in_all(&mut self) {
        let counters = &self.core.counters;
        let connections = self.shards.iter().map(|shard| u64::from(shard.len())).sum();
        counters.connections.set(connections);
        self.for_each_connection(|entry| {
            let Some(c) = counters.dest(entry.dest_id()) else {
                return;
            };
            if entry.is_template() {
                return dests::bind_template(c);
            }
            c.total.set(c.total.get().saturating_add(1));
            if entry.flags & flag::INACTIVE == 0 {
                c.active.set(c.active.get().saturating_add(1));
            }
        });
    }

    /// From now on clients meet where the NICs take them. Before the first packet, for all workers
    /// of a team; packets that come to another one all the same are handed over.
    pub fn steer_by_nics(&mut self, keys: Arc<Toeplitz>) {
        self.core.share = self.core.share.behind_nics();
        self.core.nics = Some(keys);
    }

    /// Leaves this to the NIC of a port from now on. Before the first link is known.
    pub fn assist(&mut self, port: PortId, assist: Assist) {
        self.core.router.assist(port, assist);
    }

    /// Goes by the connections of the whole team from now on when it schedules and when it looks
    /// at thresholds. Before the first packet.
    pub fn join(&mut self, team: Team) {
        self.core.changes.join(team);
        // The others hear of connections that were taken over.
        for (number, c) in (0..).zip(&self.core.counters.dests) {
            if c.total.get() > 0 {
                self.core.changes.note(DestId(number), Watch::Counts);
            }
        }
    }

    /// Takes a burst of frames through the walk. `out[i]` is what becomes of `packets[i]`; at
    /// most [`BURST`] packets, the rest is left alone.
    pub fn process(&mut self, now: Instant, packets: &mut [Packet<'_>], out: &mut [Verdict]) {
        if self.watch.is_due(now) {
            return self.process_watched(now, packets, out);
        }
        self.process_free(now, packets, out);
    }

    /// As [`Worker::process`], without a look at leases.
    #[inline(always)]
    fn process_free(&mut self, now: Instant, packets: &mut [Packet<'_>], out: &mut [Verdict]) {
        if self.capture.is_some() {
            return self.process_captured(now, packets, out);
        }
        self.walk(now, packets, out);
    }

    /// Takes a packet that waited through the walk again; with `last` it may
    /// wait no longer. A capture has a copy from when it came, and gets another with the verdict
    /// that ends the wait.
    #[cold]
    pub fn process_again(&mut self, now: Instant, packet: &mut Packet<'_>, last: bool) -> Verdict {
        let mut capture = self.capture.take();
        if let Some(capture) = &mut capture {
            capture.received(now, 0, packet);
        }
        let mut verdict = [Verdict::Wait];
        self.core.is_patient = !last;
        self.process(now, core::slice::from_mut(packet), &mut verdict);
        self.core.is_patient = true;
        let [mut verdict] = verdict;
        match verdict {
            Verdict::Wait if last => verdict = self.core.dropped(DropReason::NoNeighbour),
            Verdict::Hold if last => verdict = self.give_up_fragment(now, packet),
            _ => {}
        }
        if let Some(capture) = &mut capture {
            match verdict {
                Verdict::Wait | Verdict::Hold => capture.undecided(0),
                _ => capture.decided(0, verdict),
            }
            if let Verdict::Transmit(port) | Verdict::Fragment(port, _) = verdict {
                capture.sent(now, port, packet);
            }
        }
        self.capture = capture;
        verdict
    }

    /// As [`Worker::process`], with copies of what came in and of what goes out.
    #[cold]
    fn process_captured(&mut self, now: Instant, packets: &mut [Packet<'_>], out: &mut [Verdict]) {
        if let Some(capture) = &mut self.capture {
            for (slot, packet) in packets.iter().take(BURST).enumerate() {
                capture.received(now, slot, packet);
            }
        }
        self.walk(now, packets, out);
        let Some(capture) = &mut self.capture else {
            return;
        };
        for (slot, (packet, verdict)) in packets.iter().zip(out).take(BURST).enumerate() {
            capture.decided(slot, *verdict);
            if let Verdict::Transmit(port) | Verdict::Fragment(port, _) = *verdict {
                capture.sent(now, port, packet);
            }
        }
    }

    /// Third pass for all that [`Worker::usual`] leaves alone.
    #[inline(always)]
    fn unusual(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        at: &mut Located,
        flow: &mut Flow,
    ) -> Verdict {
        match at.kind {
            Kind::Request | Kind::RequestV6 => {
                // It has a flow: what `Plain` reads is a packet.
                flow.read(packet.frame(), packet.vlan_tci, packet.wire_len);
                self.balance(now, packet, at, flow, Side::Request, false)
            }
            Kind::Reply | Kind::ReplyV6 => {
                flow.read(packet.frame(), packet.vlan_tci, packet.wire_len);
                let both = self.core.is_for_service(flow);
                self.balance(now, packet, at, flow, Side::Reply, both)
            }
            Kind::Balance { side, both } => self.balance(now, packet, at, flow, side, both),
            Kind::IcmpError => self.icmp_error(now, packet, flow, Attempt::START),
            Kind::Ipsec => self.ipsec(now, packet, flow, Attempt::START),
            Kind::Kernel(class) => self.core.punt_unclaimed(now, packet, class),
            Kind::Elsewhere(worker) => self.core.hand_over(worker, Attempt::START),
            Kind::Drop(reason) => self.core.dropped(reason),
            Kind::Fragment => self.fragment(now, packet, flow, Attempt::START),
        }
    }

    /// Frames that the kernel sends by a twin pass here on their way out: the answers of a
    /// local real server are given the virtual address back. All are transmitted, or handed to
    /// the worker that has the connection, which transmits them, but for those in the name of an
    /// address whose lease has ended.
    pub fn process_from_kernel(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        attempt: Attempt,
    ) -> Verdict {
        if let Some((worker, attempt)) = self.answer_of_kernel(now, packet, attempt) {
            return self.core.hand_over(worker, attempt);
        }
        if self.is_withheld(now, packet) {
            return self.core.dropped(DropReason::NoLease);
        }
        if let Some(capture) = &mut self.capture {
            capture.sent(now, packet.port, packet);
        }
        Verdict::Transmit(packet.port)
    }

    /// The worker that may have the connection, if that is another one.
    fn answer_of_kernel(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        attempt: Attempt,
    ) -> Option<(u8, Attempt)> {
        match Flow::parse(packet.frame(), packet.vlan_tci, packet.wire_len) {
            Parsed::Ip(flow) => self.whole_of_kernel(now, packet, &flow, attempt),
            Parsed::Fragment(flow, piece) => {
                self.fragment_of_kernel(now, packet, &flow, piece, attempt)
            }
            _ => None,
        }
    }

    fn whole_of_kernel(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        attempt: Attempt,
    ) -> Option<(u8, Attempt)> {
        if !flow.has_ports()
            || self
                .core
                .roles
                .of(flow.is_v4, flow.protocol, &flow.src, flow.src_port)
                == 0
        {
            return None;
        }
        let ways = steer::ways_of(flow, Side::Reply, false);
        match self.search(&ways, None, attempt, false) {
            Found::Here { hash, i, .. } => {
                let shard = &mut self.shards[hash.shard as usize % SHARDS];
                self.core.local_reply(now, shard, i, packet, flow);
                self.assure();
                None
            }
            Found::Elsewhere(worker, attempt) => Some((worker, attempt)),
            Found::Nowhere | Found::Outbound => None,
        }
    }

    #[inline(always)]
    fn shard(&self, hash: KeyHash) -> &Shard {
        &self.shards[hash.shard as usize % SHARDS]
    }

    /// A packet of a connection, or one that may become one.
    #[inline(always)]
    fn balance(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        at: &Located,
        flow: &Flow,
        side: Side,
        both: bool,
    ) -> Verdict {
        // As hosts and routers do by default (`accept_source_route`).
        if flow.has_options && flow.is_v4 {
            let ip = packet.frame().get(flow.l3 as usize..).unwrap_or(&[]);
            if ipv4::is_source_routed(ip) {
                return self.core.dropped(DropReason::SourceRoute);
            }
        }
        let shard = &mut self.shards[at.shard as usize % SHARDS];
        let addrs = (
            u32::from_ne_bytes(flow.src.octets_v4()),
            u32::from_ne_bytes(flow.dst.octets_v4()),
        );
        let ports = u32::from(flow.src_port) | u32::from(flow.dst_port) << 16;
        // The slot may be that of an older connection with the same reply tuple.
        let is_owed = side == Side::Reply && shard.is_owed();
        if is_owed {
            shard.settle();
        }
        let found = if flow.is_v4
            && !is_owed
            && shard.is_match_v4(at.slot, side, flow.protocol, addrs, ports)
        {
            Some(at.slot & !REPLY)
        } else {
            let (client, other) = ends(flow, side);
            shard.lookup(at.hash(), side, flow.protocol, &client, &other)
        };
        if let Some(i) = found {
            return self.found(now, packet, flow, side, at.hash(), i);
        }
        self.missed(now, packet, flow, side, both)
    }

    /// No connection: try the other side, admit, or leave it to the kernel.
    #[cold]
    fn missed(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        side: Side,
        both: bool,
    ) -> Verdict {
        if self.core.share.team() > 1 {
            let step = if side == Side::Reply {
                steer::REPLY
            } else {
                steer::REQUEST
            };
            let from = steer::attempt(step, 0);
            if let Some(owner) = self.core.misled(flow, side) {
                return self.core.hand_over(owner, from);
            }
            return self.find_packet(now, packet, flow, (side, both), from, true);
        }
        if side == Side::Reply
            && self.core.may_be_outbound(flow)
            && let Some(verdict) = self.open_outbound(now, packet, flow)
        {
            return verdict;
        }
        if side == Side::Reply && !both {
            return self.core.unknown_reply(now, packet, flow);
        }
        let (client, other) = ends(flow, Side::Request);
        let hash = self.core.key.hash(
            flow.protocol,
            &client.addr,
            client.port,
            &other.addr,
            other.port,
        );
        if both
            && let Some(i) =
                self.shard(hash)
                    .lookup(hash, Side::Request, flow.protocol, &client, &other)
        {
            return self.request(now, packet, flow, hash, i);
        }
        if self.core.ports_unknown != 0
            && flow.protocol == TCP
            && let Some((hash, i)) = self.fill_client_port(flow, hash)
        {
            return self.request(now, packet, flow, hash, i);
        }
        self.admit(now, packet, flow, hash)
    }

    /// A packet from a client that has a connection.
    #[inline(always)]
    fn request(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        hash: KeyHash,
        i: u32,
    ) -> Verdict {
        let Some(shard) = self.shards.get_mut(hash.shard as usize) else {
            return self.core.dropped(DropReason::TableFull);
        };
        let core = &mut self.core;
        let Some(entry) = shard.entry_mut(i) else {
            return core.dropped(DropReason::TableFull);
        };
        let id = entry.dest_id();
        let opens = proto::is_opening(flow);
        if opens
            || !core
                .dests
                .get(id.0 as usize)
                .is_some_and(|dest| dest.steady)
        {
            match core.starts_anew(entry, id, opens) {
                Ok(false) if id == DestId::NONE => {
                    return self.bypassed(now, packet, flow, hash, i);
                }
                Ok(false) => {}
                Ok(true) => {
                    let old = core.take_out(shard, i);
                    let verdict = self.admit(now, packet, flow, hash);
                    // The kernel ends the old one with its next timer tick: the scheduler and
                    // the thresholds still see it.
                    if let Some(old) = old {
                        self.count_out(&old);
                    }
                    return verdict;
                }
                Err(reason) => return core.dropped(reason),
            }
        }
        if let Some(wait) = core.awaits_hop(now, id) {
            return wait;
        }
        let verdict = if entry.flags & flag::HELPER != 0 {
            self.helped_request(now, packet, flow, hash, i)
        } else {
            core.pass_request(now, shard, i, packet, flow)
        };
        self.offered(now.ticks(), usize::from(hash.shard), i, verdict)
    }

    /// Expires connections that are due, with at most `budget` list steps. A shard is looked at
    /// every [`SHARD_PAUSE`], so that all of them are within the width of a timer slot, and at
    /// once again while it has more that is due.
    #[inline]
    pub fn expire(&mut self, now: Instant, budget: u32) {
        if now < self.expiry_due {
            return;
        }
        self.expire_shards(now, budget);
    }

    fn expire_shards(&mut self, now: Instant, mut budget: u32) {
        self.core.exchange(now);
        let ticks = now.ticks();
        // After a long sleep one round of all shards is owed, not every pause that was missed.
        let round = SHARD_PAUSE.as_nanos() as u64 * SHARDS as u64;
        self.expiry_due = self.expiry_due.max(Instant(now.0.saturating_sub(round)));
        // What is due in these shards is looked at in turns: ends touch much that is far away,
        // and that of one shard comes while the others have theirs.
        let mut group = ArrayVec::<usize, GROUP>::new();
        loop {
            if !self.sweep.is_idle() {
                self.sweep_on();
            }
            if !self.strays.is_idle() {
                self.look_for_strays();
            }
            if self.core.owes_timeouts() {
                self.core.tell_dests_timeouts();
            }
            if self.core.is_master() {
                self.repair();
            }
            self.defend(now, STEPS_PER_SECOND);
            group.push(self.expiry_at);
            self.expiry_at = (self.expiry_at + 1) % SHARDS;
            self.expiry_due = self.expiry_due + SHARD_PAUSE;
            self.core.tend(now);
            if group.is_full() || now < self.expiry_due {
                break;
            }
        }
        let next = self.expiry_at;
        let mut busy = group.clone();
        while !busy.is_empty() && budget > 0 {
            for &at in &busy {
                if let Some(shard) = self.shards.get(at) {
                    shard.prefetch_end(ticks);
                }
            }
            // Those of which nothing more is due are not looked at again. Also when the budget
            // is used up: no shard may keep the others waiting.
            busy.retain(|at| self.expire_next(*at, ticks, &mut budget));
        }
        for at in next..next + group.len() {
            if let Some(shard) = self.shards.get(at % SHARDS) {
                shard.prefetch_due();
            }
        }
    }

    /// Ends the next connection of a shard that is due; false if there is none.
    #[inline]
    fn expire_next(&mut self, at: usize, ticks: Ticks, budget: &mut u32) -> bool {
        let Some(shard) = self.shards.get_mut(at) else {
            return false;
        };
        let Some(i) = shard.next_due(ticks, budget) else {
            return false;
        };
        if !shard.prolong(i, ticks) {
            self.core.counters.expired.add(1);
            self.end(at, i);
        } else if self.core.is_master() {
            self.offer_prolonged(ticks, at, i);
        }
        true
    }

    /// Ends a connection or a template and counts it out. Nothing of it is left.
    fn end(&mut self, shard: usize, i: u32) {
        if let Some(place) = self.shards.get_mut(shard)
            && let Some(bound) = self.core.take_out(place, i)
        {
            self.count_out(&bound);
        }
    }

    /// Counts out what was taken out.
    fn count_out(&mut self, bound: &Bound) {
        let core = &self.core;
        if bound.is_template {
            dests::unbind_template(&core.counters, bound.dest);
        } else {
            let (dest, active) = (bound.dest, bound.is_active);
            dests::unbind(&core.dests, &core.counters, &core.changes, dest, active);
        }
        if let Some(controller) = bound.controller {
            self.release(controller);
        }
    }

    /// Whether [`Worker::take_events`] has any.
    #[inline(always)]
    pub fn has_events(&self) -> bool {
        !self.core.events.is_empty()
    }

    /// Events since the last call; the caller passes them on to control.
    pub fn take_events(&mut self) -> ArrayVec<Event, 64> {
        core::mem::take(&mut self.core.events)
    }

    /// Rises with every neighbour learned or given up: packets that wait may be worth another try.
    pub fn neighbours_learned(&self) -> u32 {
        self.core.neighbours_learned
    }

    /// The worker's counters.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.core.counters
    }

    /// Live connections.
    pub fn connections(&self) -> u32 {
        self.shards.iter().map(Shard::len).sum()
    }

    /// Visits every live connection, for audits.
    pub fn for_each_connection(&self, mut visit: impl FnMut(&Entry)) {
        for shard in self.shards.iter() {
            (0..shard.touched())
                .filter_map(|i| shard.entry(i))
                .filter(|e| e.is_valid())
                .for_each(&mut visit);
        }
    }
}

impl Core {
    /// First pass for a TCP segment of plain shape over IPv6; false for any other frame.
    #[inline(always)]
    fn classify_plain_v6(&self, packet: &Packet<'_>, at: &mut Located) -> bool {
        let own = self.own_macs.get(packet.port.0 as usize).copied();
        let Some(head) = packet.head::<{ PlainV6::HEADERS }>() else {
            return false;
        };
        let Some(plain) = PlainV6::read(head, packet.len(), packet.wire_len) else {
            return false;
        };
        if own != Some(mac_word(head)) {
            return false;
        }
        let (src, dst) = PlainV6::addrs(head);
        let src = Endpoint::new(src, plain.src_port());
        let dst = Endpoint::new(dst, plain.dst_port());
        let Some((side, hash)) = self.find_side_v6(TCP, &src, &dst) else {
            return false;
        };
        at.set_hash(hash);
        at.kind = match self.share.elsewhere(hash.shard) {
            Some(owner) => Kind::Elsewhere(owner),
            None => match side {
                Side::Request => Kind::RequestV6,
                Side::Reply => Kind::ReplyV6,
            },
        };
        true
    }

    /// First pass for all other frames.
    #[inline(never)]
    fn classify_any(&self, packet: &Packet<'_>, at: &mut Located, flow: &mut Flow) {
        if self.is_steered && self.classify_steered(packet, at) {
            return;
        }
        let frame = packet.frame();
        let Some(dst) = frame.first_chunk::<6>() else {
            at.kind = Kind::Drop(DropReason::Truncated);
            return;
        };
        let macs = self.macs.get(packet.port.0 as usize).map_or(&[][..], |m| m);
        let is_group = dst[0] & 1 == 1;
        // Dropped first and on every path: a promiscuous port must never forward twice.
        if !is_group && !macs.iter().any(|mac| mac.0 == *dst) {
            at.kind = Kind::Drop(DropReason::NotOurMac);
            return;
        }
        let shape = flow.read(frame, packet.vlan_tci, packet.wire_len);
        if shape != Shape::Ip {
            at.kind = self.classify_rest(packet, flow, shape);
            return;
        }
        if flow.has_ports()
            && !is_group
            && let Some((side, both)) = self.sides(flow)
        {
            let (client, other) = ends(flow, side);
            let meeting = self.meeting(&Way {
                side,
                protocol: flow.protocol,
                client,
                other,
            });
            at.set_hash(meeting.hash);
            at.kind = if meeting.owner == self.share.me() {
                Kind::Balance { side, both }
            } else {
                Kind::Elsewhere(meeting.owner)
            };
            return;
        }
        at.kind = if flow.is_icmp() && !is_group {
            Kind::IcmpError
        } else if flow.is_ipsec() && !is_group {
            Kind::Ipsec
        } else {
            Kind::Kernel(self.class_of(flow, frame, is_group))
        };
    }

    /// Whether a packet may be a client's by where it goes.
    fn is_for_service(&self, flow: &Flow) -> bool {
        let (addr, port) = (&flow.dst, flow.dst_port);
        let roles = self.roles.of(flow.is_v4, flow.protocol, addr, port);
        roles & (VIRTUAL | MARKED) != 0
    }

    /// Which end of a flow is the client, or most likely is, and the hash. `None`: neither end is
    /// known.
    #[inline(always)]
    fn find_side_v4(&self, protocol: u8, src: u64, dst: u64) -> Option<(Side, KeyHash)> {
        let role = |end| self.roles.of_v4(protocol, end);
        let side = side_of(role(src), || role(dst))?;
        let hash = match side {
            Side::Request => self.key.hash_v4(protocol, src, dst),
            Side::Reply => self.key.hash_v4(protocol, dst, src),
        };
        Some((side, hash))
    }

    /// The endpoints of IPv6 are no words.
    #[inline]
    fn find_side_v6(
        &self,
        protocol: u8,
        src: &Endpoint,
        dst: &Endpoint,
    ) -> Option<(Side, KeyHash)> {
        let role = |end: &Endpoint| self.roles.of(false, protocol, &end.addr, end.port);
        let side = side_of(role(src), || role(dst))?;
        let (client, other) = match side {
            Side::Request => (src, dst),
            Side::Reply => (dst, src),
        };
        Some((side, self.key.hash_v6(protocol, client, other)))
    }

    /// The first pass for what is not a whole IP packet.
    #[cold]
    fn classify_rest(&self, packet: &Packet<'_>, flow: &Flow, shape: Shape) -> Kind {
        match shape {
            Shape::NotIp { ethertype } => Kind::Kernel(punt::class_of_ethertype(ethertype)),
            Shape::Bad(reason) => Kind::Drop(reason),
            Shape::Ip => Kind::Kernel(self.class_of(flow, packet.frame(), false)),
            Shape::Fragment(_) => Kind::Fragment,
        }
    }

    fn class_of(&self, flow: &Flow, frame: &[u8], is_group: bool) -> PuntClass {
        let icmp = flow
            .is_icmp()
            .then(|| frame.get(flow.l4 as usize).copied())
            .flatten();
        punt::class_of(flow, icmp, || {
            is_group || matches!(self.router.lookup(flow.dst, 0), Lookup::Local)
        })
    }

    #[cold]
    fn hand_over(&self, worker: u8, attempt: Attempt) -> Verdict {
        self.counters.handed_over.add(1);
        Verdict::HandOver { worker, attempt }
    }

    #[inline]
    fn dropped(&self, reason: DropReason) -> Verdict {
        self.counters.count_drop(reason);
        Verdict::Drop(reason)
    }

    /// Hands a packet to the kernel twin unless its class is over its rate.
    #[cold]
    fn punt(&mut self, now: Instant, port: PortId, class: PuntClass) -> Verdict {
        let limits = self.punt_limits.get_mut(usize::from(port.0));
        if !limits.is_some_and(|limits| limits[class as usize].take(now)) {
            return self.dropped(DropReason::PuntLimited);
        }
        self.counters.punted[class as usize].add(1);
        Verdict::Kernel(class)
    }

    /// Counts a client's packet and sends it on.
    #[inline(always)]
    fn pass_request(
        &mut self,
        now: Instant,
        shard: &mut Shard,
        i: u32,
        packet: &mut Packet<'_>,
        flow: &Flow,
    ) -> Verdict {
        self.take_request(now, shard, i, flow);
        self.send_request(now, shard, i, packet, flow)
    }

    /// Counts a client's packet and runs the state machine.
    #[inline(always)]
    fn take_request(&mut self, now: Instant, shard: &mut Shard, i: u32, flow: &Flow) {
        let Some(entry) = shard.entry_mut(i) else {
            return;
        };
        if let Some(c) = self.counters.dest(entry.dest_id()) {
            c.in_pkts.add(1);
            c.in_bytes.add(u64::from(flow.l3_len));
        }
        entry.in_pkts = entry.in_pkts.wrapping_add(1);
        if let Some(half_open) = self.advance(entry, Side::Request, flow, now.ticks()) {
            shard.rearm(i, half_open);
        }
    }

    /// Sends a client's packet on that was counted.
    #[inline(always)]
    fn send_request(
        &mut self,
        now: Instant,
        shard: &Shard,
        i: u32,
        packet: &mut Packet<'_>,
        flow: &Flow,
    ) -> Verdict {
        let Some(entry) = shard.entry(i) else {
            return self.dropped(DropReason::TableFull);
        };
        let verdict = self.forward_request(now, packet, flow, entry);
        self.tend_exit(now, entry.dest_id());
        verdict
    }

    /// Runs the state machine and moves the deadline. `Some(half_open)` when the entry must be
    /// linked to another timer slot.
    #[inline(always)]
    fn advance(&mut self, entry: &mut Entry, side: Side, flow: &Flow, now: Ticks) -> Option<bool> {
        let direction = match side {
            Side::Reply => {
                entry.flags &= !flag::NOOUTPUT;
                Direction::Output
            }
            Side::Request if entry.flags & flag::NOOUTPUT != 0 => Direction::InputOnly,
            Side::Request => Direction::Input,
        };
        let is_tcp = flow.protocol == TCP;
        let (row, state) = if is_tcp {
            let state = if flow.has_l4_header() {
                let from = tcp::State::from_number(entry.state);
                match self.defences.secure_tcp {
                    false => tcp::advance(from, direction, flow.tcp_flags) as u8,
                    true => tcp::advance_secure(from, direction, flow.tcp_flags) as u8,
                }
            } else {
                // Cut before the flags: the kernel forwards it and leaves the state alone.
                entry.state
            };
            (timeouts::row_of(Protocol::Tcp), state)
        } else {
            let is_answer = side == Side::Reply && flow.protocol == Protocol::Udp.number();
            if is_answer && entry.flags & flag::CONTROLLED != 0 {
                self.assured = entry.controller();
            }
            other_state(flow, entry.state, direction)
        };
        let timeout = self.timeout(entry.dest_id(), row, state);
        let deadline = now.plus(timeout);
        let changed = state != entry.state;
        entry.timeout = timeout;
        entry.deadline = deadline.0;
        if changed {
            self.change_state(entry, state);
        }
        let half_open = is_tcp && state == tcp::State::SynRecv as u8;
        let is_linked_so = half_open == (entry.flags & flag::HALF_OPEN != 0);
        // A later deadline is noticed when the old slot fires; an earlier one cannot wait.
        let moved_closer = !deadline.reached(Ticks(entry.armed));
        // The half-open list is in order of deadlines, so whoever got a new one goes to its end.
        (half_open || !is_linked_so || moved_closer).then_some(half_open)
    }

    /// Enters a state: active and inactive connections are counted on changes only.
    #[inline(never)]
    fn change_state(&mut self, entry: &mut Entry, state: u8) {
        entry.state = state;
        let Some(protocol) = Protocol::from_number(entry.protocol()) else {
            return;
        };
        if entry.flags & flag::CONTROLLED != 0 && proto::is_established(protocol, state) {
            self.assured = entry.controller();
        }
        let active = proto::is_active(protocol, state);
        let was_active = entry.flags & flag::INACTIVE == 0;
        if active == was_active {
            return;
        }
        entry.flags ^= flag::INACTIVE;
        dests::turn(&self.counters, &self.changes, entry.dest_id(), active);
    }

    /// Takes an entry out of the table; its destination still counts it.
    #[must_use]
    fn take_out(&mut self, shard: &mut Shard, i: u32) -> Option<Bound> {
        let entry = shard.entry(i).filter(|entry| entry.is_valid())?;
        let bound = Bound {
            dest: entry.dest_id(),
            is_active: entry.flags & flag::INACTIVE == 0,
            is_template: entry.is_template(),
            controller: entry.controller(),
        };
        if entry.flags & flag::NO_CPORT != 0 {
            self.ports_unknown = self.ports_unknown.saturating_sub(1);
        }
        if let Some(at) = entry.engine_data() {
            self.engine_data.free(at);
        }
        shard.remove(i);
        self.counters
            .connections
            .set(self.counters.connections.get().saturating_sub(1));
        Some(bound)
    }

    /// Whether a connection's real server is no longer part of its service.
    fn is_deleted(&self, entry: &Entry) -> bool {
        let id = entry.dest_id();
        id != DestId::NONE && !self.is_available(id)
    }

    /// Whether a packet of a connection gets a new one: it opens one, or the real server is gone or
    /// out of service.
    #[cold]
    fn starts_anew(&self, entry: &Entry, id: DestId, opens: bool) -> Result<bool, DropReason> {
        let mut dest = self.dests.get(id.0 as usize).copied().unwrap_or_default();
        if id == DestId::NONE {
            // It needs none.
            (dest.available, dest.weight) = (true, 1);
        }
        // What controls others stays for them.
        let opens = opens && entry.controls() == 0;
        if opens && self.reschedules(entry, &dest) {
            return Ok(true);
        }
        match (dest.available, self.settings.expire_nodest_conn) {
            // Other than a stream, a flow of datagrams can go on elsewhere at any packet.
            (true, _) => Ok(dest.withdrawn.is_some() && entry.protocol() == UDP),
            (false, true) => Ok(true),
            (false, false) => Err(DropReason::DestinationGone),
        }
    }

    /// Whether an opening packet gets a new connection (`is_new_conn_expected` and
    /// `expire_nodest_conn` with weight 0; or the server is out of service).
    #[cold]
    fn reschedules(&self, entry: &Entry, dest: &DestState) -> bool {
        let is_quiet = self.settings.expire_nodest_conn && dest.weight == 0;
        if is_quiet || dest.withdrawn.is_some() {
            return true;
        }
        if entry.flags & flag::CONTROLLED != 0 {
            return false;
        }
        let mode = self.settings.conn_reuse_mode;
        if entry.protocol() != TCP {
            return mode != 0 && entry.state == sctp::State::Closed as u8;
        }
        match tcp::State::from_number(entry.state) {
            tcp::State::TimeWait | tcp::State::Close => mode != 0,
            tcp::State::FinWait => mode & 2 != 0 && entry.flags & flag::NOOUTPUT != 0,
            _ => false,
        }
    }

    fn use_settings(&mut self, settings: Settings) {
        self.settings = settings;
        self.set_pace();
        self.use_timeouts();
        // A tenth of a second's worth may come at once.
        let fresh = settings
            .punt_limits
            .map(|rate| Bucket::new(rate, (rate / 10).max(64)));
        self.punt_limits.fill(fresh);
        self.answers.set(&settings);
    }

    /// Tells the other workers of connections that came and went, and hears of theirs.
    fn exchange(&self, now: Instant) {
        let Some(team) = self.changes.team() else {
            return;
        };
        let own = |id| {
            let counts = |c: &DestCounters| Counts {
                active: c.active.get(),
                total: c.total.get(),
            };
            self.counters.dest(id).map_or(Counts::default(), counts)
        };
        team.exchange(now, own, |id| {
            dests::heard(&self.dests, &self.counters, &self.changes, id);
        });
    }

    /// Index of the destination that a service's scheduler chooses for a packet.
    fn pick(
        &mut self,
        now: Instant,
        service: ServiceId,
        flow: &Flow,
        is_quoted: bool,
    ) -> Option<usize> {
        // After a sleep, or while packets keep the loop from its other work.
        self.exchange(now);
        let running = self.running.get_mut(service.0 as usize)?.as_mut()?;
        running.scheduler.pick(&Request {
            service: &running.service,
            loads: Loads::new(&self.counters, &self.changes, service),
            flow,
            is_quoted,
            now,
            settings: &self.settings,
        })
    }

    /// Lets one scheduler do its periodic work; all have their turn within seconds.
    fn tend(&mut self, now: Instant) {
        let at = self.tend_at;
        self.tend_at = (at + 1) % self.running.len().max(1);
        if let Some(Some(running)) = self.running.get_mut(at) {
            running.scheduler.tend(now, &self.settings);
        }
    }
}

/// What to do with a connection's packet depends on its method; this names the local case.
fn is_local(method: ForwardingMethod) -> bool {
    method == ForwardingMethod::Local
}

/// The state after a packet that is not TCP, and the row of its timeouts.
#[inline]
fn other_state(flow: &Flow, state: u8, direction: Direction) -> (usize, u8) {
    let protocol = Protocol::from_number(flow.protocol).unwrap_or(Protocol::Udp);
    (
        timeouts::row_of(protocol),
        proto::advance(protocol, state, direction, 0, flow.chunks),
    )
}
