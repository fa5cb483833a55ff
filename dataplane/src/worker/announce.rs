//! The master of connection synchronisation: after which packets backups are told of a connection
//! (`ip_vs_sync_conn`), and what they are told.
//!
//! Only packets from clients count. A change that a server's packet caused is told with the
//! client's next one.

use std::sync::Arc;

use super::{Core, Located, Worker};
use crate::addr::{Addr, Endpoint};
use crate::conn::entry::{TEMPLATE_SPACE, flag};
use crate::conn::{Controller, Entry, SHARDS, Shard};
use crate::packet::Verdict;
use crate::service::{Engine, ForwardingMethod, Protocol};
use crate::sync::decide::{Last, Pace, Subject};
use crate::sync::wire::Version;
use crate::sync::{self, Outbox, Sequence, SyncEntry};
use crate::time::{TICKS_PER_SECOND, Ticks};

/// Entries between a connection and the last one above it: FTP data, FTP control, template.
const LEVELS: usize = 3;

/// Flags of an entry that are told, in the bits that they have here.
const SAME: u16 = flag::NOOUTPUT | flag::INACTIVE | flag::OUT_SEQ | flag::NO_CPORT;
const _: () = {
    use sync::flag as told;
    assert!(SAME as u32 == told::NOOUTPUT | told::INACTIVE | told::OUT_SEQ | told::NO_CPORT);
};

/// Flags of an entry whose addresses are all IPv6.
const FAMILY_V6: u16 = flag::CLIENT_V6 | flag::DEST_V6;

/// Entries looked at in one step of a repair.
const REPAIR_SHARE: u32 = 32;

/// What a worker keeps while it is master.
pub(super) struct Master {
    outbox: Arc<Outbox>,
    /// Names this run in [`Told`].
    epoch: u16,
    /// Announcements were lost: what was told is told again from this shard and entry on.
    repair: Option<(usize, u32)>,
}

/// For each entry of each shard when it was told last ([`Last::pack`]). Not in the region: who takes
/// that over begins anew. The memory is touched where it is used first.
pub(super) struct Told {
    words: Box<[Box<[u64]>]>,
    epoch: u16,
}

impl Told {
    pub(super) fn new(shards: &[Shard]) -> Told {
        let zeros = |shard: &Shard| vec![0; shard.capacity() as usize].into_boxed_slice();
        Told {
            words: shards.iter().map(zeros).collect(),
            epoch: 0,
        }
    }

    fn at(&mut self, shard: usize, i: u32) -> Option<&mut u64> {
        self.words.get_mut(shard)?.get_mut(i as usize)
    }

    /// Notes how an entry stands that was made new or received.
    pub(super) fn put(&mut self, shard: usize, i: u32, last: Last) {
        let epoch = self.epoch;
        if let Some(word) = self.at(shard, i) {
            *word = last.pack(epoch);
        }
    }
}

impl Worker {
    /// Begins to announce; the outbox of an earlier run comes back.
    pub(super) fn start_master(&mut self, outbox: Arc<Outbox>) -> Option<Arc<Outbox>> {
        // 0 is memory that was never used.
        self.told.epoch = self.told.epoch.wrapping_add(1).max(1);
        let master = Master {
            outbox,
            epoch: self.told.epoch,
            repair: None,
        };
        let old = self.core.master.replace(master);
        self.core.set_pace();
        old.map(|master| master.outbox)
    }

    /// Announces nothing any more.
    pub(super) fn stop_master(&mut self) -> Option<Arc<Outbox>> {
        let old = self.core.master.take();
        self.core.set_pace();
        old.map(|master| master.outbox)
    }

    /// After a client's packet of this connection; gives its verdict back.
    #[inline(always)]
    pub(super) fn offered(&mut self, now: Ticks, at: usize, i: u32, verdict: Verdict) -> Verdict {
        if self.core.master.is_some() && verdict != Verdict::Wait {
            self.offer(now, at, i, None);
        }
        verdict
    }

    /// After a usual packet that may be due: of an established connection, nearly always of one
    /// that nothing is above. (The place is read here again, so that the usual way need not keep it.)
    #[cold]
    #[inline(never)]
    pub(super) fn offer_usual(&mut self, now: Ticks, place: &Located) {
        let (at, i) = (usize::from(place.shard) % SHARDS, place.slot);
        let Worker {
            shards, told, core, ..
        } = self;
        let rules = &core.settings.sync;
        let Some(entry) = shards.get(at).and_then(|shard| shard.entry(i)) else {
            return;
        };
        if entry.flags & flag::CONTROLLED != 0 || rules.version == Version::V0 {
            return self.offer(now, at, i, None);
        }
        let (timeout, packets) = (entry.timeout, entry.in_pkts);
        if let Some(master) = &core.master
            && let Some(word) = told.at(at, i)
        {
            let mut last = Last::unpack(*word, master.epoch);
            if last.decide_established(rules, entry.state, timeout, packets, now) {
                *word = last.pack(master.epoch);
                core.put_out(entry);
            }
        }
    }

    /// An entry got another minute for those below it.
    #[cold]
    pub(super) fn offer_prolonged(&mut self, now: Ticks, at: usize, i: u32) {
        let is_prolonged = self
            .shards
            .get(at)
            .and_then(|shard| shard.entry(i))
            .is_some_and(|e| e.deadline == now.plus(e.timeout).0);
        if is_prolonged {
            let threshold = self.core.settings.sync.threshold;
            self.offer(now, at, i, Some(threshold));
        }
    }

    /// Tells of an entry if its packets make it due, then of those above it. `packets` in place of
    /// the entry's own count.
    #[inline(never)]
    fn offer(&mut self, now: Ticks, at: usize, i: u32, packets: Option<u32>) {
        // What the packet shows about a template is told with it.
        self.assure();
        let rules = self.core.settings.sync;
        let is_old = rules.version == Version::V0;
        let (mut at, mut i, mut packets) = (at, i, packets);
        for _ in 0..LEVELS {
            let Some(entry) = self.shards.get(at).and_then(|shard| shard.entry(i)) else {
                return;
            };
            let once = entry.flags & flag::ONE_PACKET != 0;
            if is_old && (once || entry.flags & flag::CLIENT_V6 != 0) {
                return;
            }
            let controller = entry.controller();
            let count = packets.unwrap_or(entry.in_pkts);
            let is_told = !once && self.tell(now, at, i, count);
            if is_old && !is_told {
                return;
            }
            let Some(above) = controller else { return };
            let Some(entry) = self.controlling(above) else {
                return;
            };
            packets = Some(rules.threshold);
            if entry.is_template() {
                entry.in_pkts = entry.in_pkts.wrapping_add(1);
                packets = Some(entry.in_pkts);
            }
            (at, i) = (above.shard(), above.entry());
        }
    }

    /// Tells of one entry if it is due.
    fn tell(&mut self, now: Ticks, at: usize, i: u32, packets: u32) -> bool {
        let Some(master) = &self.core.master else {
            return false;
        };
        let epoch = master.epoch;
        let rules = self.core.settings.sync;
        let Some(entry) = self.shards.get(at).and_then(|shard| shard.entry(i)) else {
            return false;
        };
        let subject = Subject {
            is_template: entry.is_template(),
            is_persistent: rules.persist_mode && self.is_persistent(entry.controller()),
            protocol: Protocol::from_number(entry.protocol()),
            state: entry.state,
            timeout: entry.timeout,
            packets,
        };
        let Some(word) = self.told.at(at, i) else {
            return false;
        };
        let mut last = Last::unpack(*word, epoch);
        if !last.decide(&rules, &subject, now) {
            return false;
        }
        *word = last.pack(epoch);
        self.put_out(at, i);
        true
    }

    /// Puts an entry into the outbox as it stands.
    fn put_out(&mut self, at: usize, i: u32) {
        if let Some(entry) = self.shards.get(at).and_then(|shard| shard.entry(i)) {
            self.core.put_out(entry);
        }
    }

    fn is_persistent(&self, mut above: Option<Controller>) -> bool {
        for _ in 0..LEVELS {
            let Some(at) = above else { return false };
            let Some(entry) = self
                .shards
                .get(at.shard())
                .and_then(|s| s.entry(at.entry()))
            else {
                return false;
            };
            if entry.is_template() {
                return true;
            }
            above = entry.controller();
        }
        false
    }

    /// One step of telling again what was told, after announcements were lost. It waits for room,
    /// and begins anew if it was the cause of a loss.
    pub(super) fn repair(&mut self) {
        let Some(master) = &mut self.core.master else {
            return;
        };
        let Some((at, from)) = master.repair.take() else {
            return;
        };
        if !master.outbox.is_half_empty() {
            master.repair = Some((at, from));
            return;
        }
        let epoch = master.epoch;
        let Some(shard) = self.shards.get(at) else {
            return;
        };
        let end = shard.touched().min(from + REPAIR_SHARE);
        let next = if end == shard.touched() {
            (at + 1, 0)
        } else {
            (at, end)
        };
        for i in from..end {
            let lives = |e: &Entry| e.is_valid();
            let is_live = (self.shards.get(at).and_then(|s| s.entry(i))).is_some_and(lives);
            let was_told = |word: &mut u64| Last::unpack(*word, epoch).was_told();
            if is_live && self.told.at(at, i).is_some_and(was_told) {
                self.put_out(at, i);
            }
        }
        if let Some(master) = &mut self.core.master
            && master.repair.is_none()
        {
            master.repair = Some(next);
        }
    }
}

impl Worker {
    /// Whether a backup's copy of an entry ends so many ticks too early: it was announced, or came
    /// from a master itself, and lives on since.
    pub(super) fn moved(&self, at: usize, i: u32, entry: &Entry, ticks: u32) -> bool {
        let Some(master) = &self.core.master else {
            return false;
        };
        let word = self
            .told
            .words
            .get(at)
            .and_then(|words| words.get(i as usize));
        let last = word.map(|word| Last::unpack(*word, master.epoch));
        match last.and_then(|last| last.behind(Ticks(entry.deadline))) {
            Some(behind) => behind >= ticks,
            None => entry.flags & flag::SYNCED != 0,
        }
    }
}

impl Core {
    /// Whether this worker tells backups of its connections.
    #[inline(always)]
    pub(super) fn is_master(&self) -> bool {
        self.master.is_some()
    }

    /// Puts an entry into the outbox as it stands.
    #[inline]
    fn put_out(&mut self, entry: &Entry) {
        if let Some(told) = announcement(entry)
            && let Some(master) = &mut self.master
        {
            let data = entry.engine_data().map(|at| self.engine_data.get(at));
            // There is one engine.
            if master
                .outbox
                .put(told, data.map(|data| (Engine::Sip, data)))
            {
                master.repair = Some((0, 0));
            }
        }
    }

    /// After a change of the rules or the role.
    pub(super) fn set_pace(&mut self) {
        self.pace = match &self.master {
            Some(_) => Pace::of(&self.settings.sync),
            None => Pace::NEVER,
        };
    }
}

/// An entry as it is told; `None` where the kernel's protocol has no words for it: addresses of
/// both families.
#[inline]
pub(super) fn announcement(entry: &Entry) -> Option<SyncEntry> {
    let (client, virtual_, dest) = entry.endpoints();
    let is_template = entry.is_template();
    let method = entry.method();
    let dest = match entry.flags & FAMILY_V6 {
        0 | FAMILY_V6 => dest,
        // Of a connection past the service there is no server.
        flag::DEST_V6 if method == ForwardingMethod::Bypass => Endpoint::new(Addr::v4([0; 4]), 0),
        _ => return None,
    };
    let mut flags = method as u32 | u32::from(entry.flags & SAME);
    if entry.flags & flag::SYNCED != 0 {
        flags |= sync::flag::SYNC;
    }
    if is_template {
        // What the kernel's templates take from their destination.
        flags |= sync::flag::TEMPLATE | sync::flag::INACTIVE;
        if method != ForwardingMethod::Masquerade {
            flags |= sync::flag::NOOUTPUT;
        }
    }
    Some(SyncEntry {
        protocol: entry.protocol() & !TEMPLATE_SPACE,
        flags,
        state: entry.state.into(),
        // In the place of a template's port stands what its engine data are found by.
        client: Endpoint {
            port: if is_template { 0 } else { client.port },
            ..client
        },
        virtual_,
        dest,
        fwmark: entry.fwmark,
        timeout: entry.timeout / TICKS_PER_SECOND,
        sequence: entry.adjustment().map(|server| Sequence {
            server,
            ..Sequence::default()
        }),
    })
}
