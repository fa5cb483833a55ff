//! Connections outside of their region: a record of fixed form for each, which stays the same when
//! the layout of [`Entry`] or the sizes of the table change.
//!
//! All numbers are little-endian, addresses and what adjusts sequence numbers as they lie in the
//! entry. Times are ticks of `CLOCK_BOOTTIME`, so a record counts only within its boot.

use core::sync::atomic::AtomicU32;
use std::collections::HashMap;

use super::{Controller, Entry, NIL, flag};
use crate::conn::{HashKey, Shard, template};
use crate::forward::nat;
use crate::service::ForwardingMethod;
use crate::time::Ticks;

/// Version of a record; raised on any change of it, of flags and of the numbers of states.
pub const VERSION: u32 = 1;

/// Bytes of a record.
pub const RECORD: usize = 88;

/// What an entry has only in its place.
const OF_PLACE: u16 = flag::OWED | flag::HIDDEN | flag::HIDES;

/// Writes the records of all live entries of a table, those whose replies others get before those.
pub fn encode<'a>(shards: impl Iterator<Item = (u8, &'a Shard)> + Clone) -> Vec<u8> {
    let mut records = Vec::new();
    for hidden in [true, false] {
        for (number, shard) in shards.clone() {
            for i in 0..shard.touched() {
                let meant = |e: &&Entry| e.is_valid() && (e.flags & flag::HIDDEN != 0) == hidden;
                if let Some(entry) = shard.entry(i).filter(meant)
                    && let Some(place) = Controller::new(number, i)
                {
                    write(entry, place, &mut records);
                }
            }
        }
    }
    records
}

fn write(entry: &Entry, place: Controller, records: &mut Vec<u8>) {
    let above = entry.controller().map_or(NIL, |above| above.0);
    let flags = entry.flags & !OF_PLACE;
    records.extend(place.0.to_le_bytes());
    records.extend(above.to_le_bytes());
    records.extend([entry.protocol, entry.method]);
    records.extend(flags.to_le_bytes());
    records.extend([entry.state, entry.helper]);
    for port in [entry.cport, entry.vport, entry.dport] {
        records.extend(port.to_le_bytes());
    }
    for number in [
        entry.deadline,
        entry.timeout,
        entry.in_pkts,
        entry.fwmark,
        0, // kept free
    ] {
        records.extend(number.to_le_bytes());
    }
    records.extend(entry.caddr6);
    records.extend(entry.vaddr6);
    records.extend(entry.daddr6);
}

/// Takes bytes off the front.
fn next<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// What a record says: where the entry was, what controlled it, and the entry.
fn read(mut record: &[u8]) -> Option<(u32, u32, Entry)> {
    let from = &mut record;
    let (place, above) = (
        u32::from_le_bytes(next(from)?),
        u32::from_le_bytes(next(from)?),
    );
    let [protocol, method] = next(from)?;
    let flags = u16::from_le_bytes(next(from)?);
    let [state, helper] = next(from)?;
    let mut port = || Some(u16::from_le_bytes(next(from)?));
    let (cport, vport, dport) = (port()?, port()?, port()?);
    let mut number = || Some(u32::from_le_bytes(next(from)?));
    let (deadline, timeout, in_pkts, fwmark) = (number()?, number()?, number()?, number()?);
    number()?;
    let (caddr6, vaddr6, daddr6): ([u8; 16], [u8; 16], [u8; 16]) =
        (next(from)?, next(from)?, next(from)?);
    // The last four bytes of the long one are the short one.
    let short = |long: [u8; 16]| {
        let [.., a, b, c, d] = long;
        u32::from_ne_bytes([a, b, c, d])
    };
    let mut entry = Entry {
        valid: AtomicU32::new(0),
        caddr: short(caddr6),
        vaddr: short(vaddr6),
        daddr: short(daddr6),
        cport,
        vport,
        dport,
        reply_mtu: 0,
        protocol,
        method,
        flags: flags & !(OF_PLACE | flag::CONTROLLED),
        state,
        helper,
        controls: 0,
        deadline,
        armed: deadline,
        timeout,
        dest: 0,
        in_pkts,
        route_generation: 0,
        reply_hop: NIL,
        delta_l3: 0,
        delta_l4: 0,
        caddr6,
        vaddr6,
        daddr6,
        next: NIL,
        prev: NIL,
        #[cfg(feature = "other-layout")]
        filler: [0; 16],
        fwmark,
        extension: NIL,
    };
    if entry.is_template() {
        entry.reply_hop = 0;
    } else if entry.method() == ForwardingMethod::Masquerade {
        (entry.delta_l3, entry.delta_l4) = nat::deltas(&entry.virtual_(), &entry.dest());
    }
    Some((place, above, entry))
}

/// What became of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Connections and templates that are in the table now.
    pub entries: u32,
    /// Records that make no sense.
    pub torn: u32,
    /// Those for which there was no room.
    pub lost: u32,
}

/// Puts the entries of `records` into an empty table, each where one worker alone looks for it, and
/// looks at each as at one of a table that is taken over.
pub fn decode(records: &[u8], shards: &mut [Shard], key: &HashKey, now: Ticks) -> Restored {
    let mut restored = Restored::default();
    let mut places = HashMap::new();
    let mut controlled = Vec::new();
    for record in records.chunks(RECORD) {
        let Some((was, above, entry)) = read(record).filter(|(.., entry)| entry.is_whole(now))
        else {
            restored.torn += 1;
            continue;
        };
        let (client, other) = (entry.client(), entry.virtual_());
        let hash = key.hash(
            entry.protocol(),
            &client.addr,
            client.port,
            &other.addr,
            other.port,
        );
        let shard = shards.get_mut(usize::from(hash.shard));
        let adopted = shard.and_then(|shard| shard.adopt(entry));
        match adopted.and_then(|i| Controller::new(hash.shard, i)) {
            Some(place) => {
                restored.entries += 1;
                places.insert(was, place);
                if above != NIL {
                    controlled.push((place, above));
                }
            }
            None => restored.lost += 1,
        }
    }
    for (place, above) in controlled {
        let shard = shards.get_mut(place.shard());
        if let Some(entry) = shard.and_then(|shard| shard.entry_mut(place.entry())) {
            entry.set_controller(places.get(&above).copied());
        }
    }
    // Timers, and replies that are owed.
    for shard in &mut *shards {
        shard.rebuild();
    }
    template::recount(shards);
    restored
}
