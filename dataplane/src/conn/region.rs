//! The memory region of the table: header, then 128 self-contained shards.
//!
//! The region is handed in from outside and may outlive the process. Nothing in it is a
//! pointer; its header says how it is laid out, so that a successor can refuse what it does
//! not understand.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::entry::Entry;
use super::hash::HashKey;
use super::index::{Bucket, Index, MOST, SLOTS};
use super::shard::Shard;
use super::template;
use super::wheel::HEADS;
use crate::service::DestId;
use crate::time::Ticks;

/// Number of shards.
pub const SHARDS: usize = 128;

/// Version of the layout; raised on any change of [`Entry`], [`Bucket`] or the order of parts.
pub const VERSION: u32 = 6;

const MAGIC: u64 = u64::from_be_bytes(*b"RVSTABLE");
const HEADER_BYTES: usize = 4096;

/// First bytes of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Header {
    magic: u64,
    version: u32,
    entry_bytes: u32,
    bucket_bytes: u32,
    shards: u32,
    connections: u32,
    entries_per_shard: u32,
    buckets_per_shard: u32,
    /// [`Entry::LAYOUT`]: where the fields of an entry lie.
    layout: u32,
    key: [u64; 4],
    boot_id: [u8; 16],
    /// Of all fields above.
    check: u64,
}

impl Header {
    fn new(layout: Layout, key: HashKey, boot_id: [u8; 16]) -> Header {
        let mut header = Header {
            magic: MAGIC,
            version: VERSION,
            entry_bytes: size_of::<Entry>() as u32,
            bucket_bytes: size_of::<Bucket>() as u32,
            shards: SHARDS as u32,
            connections: layout.connections,
            entries_per_shard: layout.entries_per_shard,
            buckets_per_shard: layout.buckets_per_shard,
            layout: Entry::LAYOUT,
            key: key.0,
            boot_id,
            check: 0,
        };
        header.check = header.sum();
        header
    }

    /// FNV-1a of everything but the check itself.
    fn sum(&self) -> u64 {
        let bytes = self.as_bytes();
        let fields = bytes.len() - size_of::<u64>();
        let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        bytes.iter().take(fields).fold(0xcbf2_9ce4_8422_2325, step)
    }

    /// Whether a table with this header can be taken over.
    fn examine(&self, boot_id: [u8; 16]) -> Result<Layout, RegionError> {
        let layout = Layout {
            connections: self.connections,
            entries_per_shard: self.entries_per_shard,
            buckets_per_shard: self.buckets_per_shard,
        };
        if self.magic != MAGIC
            || self.version != VERSION
            || self.entry_bytes as usize != size_of::<Entry>()
            || self.bucket_bytes as usize != size_of::<Bucket>()
            || self.shards as usize != SHARDS
            || self.layout != Entry::LAYOUT
            || !(1..=MOST).contains(&layout.entries_per_shard)
            || layout.buckets_per_shard == 0
        {
            return Err(RegionError::Foreign);
        }
        if self.boot_id != boot_id {
            return Err(RegionError::OtherBoot);
        }
        if self.check != self.sum() {
            return Err(RegionError::Damaged);
        }
        Ok(layout)
    }
}

/// Sizes of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Connections that the table is for.
    pub connections: u32,
    /// Entries of one shard: its share of the connections, and spare ones because the shares are
    /// only equal on average.
    pub entries_per_shard: u32,
    /// Buckets of one shard.
    pub buckets_per_shard: u32,
}

impl Layout {
    /// For `connections`. Connections fall into shards by hash: a shard's share of n varies by
    /// √n, so four times that is spare, and no shard is full before the table is (but for one
    /// table in hundreds). That is 5 % at a million connections and 18 % at 65536.
    ///
    /// Every entry may need two index slots (NAT); a bucket of twelve for 4.2 entries keeps the
    /// index at most 70 % full, so that one slot of forty is not in the bucket it belongs in.
    pub fn for_connections(connections: u32) -> Layout {
        let share = connections.div_ceil(SHARDS as u32).max(4);
        let entries_per_shard = share + 4 * share.isqrt();
        Layout {
            connections,
            entries_per_shard,
            buckets_per_shard: (entries_per_shard * 5).div_ceil(21),
        }
    }

    const fn heads_bytes() -> usize {
        (HEADS * 4).next_multiple_of(64)
    }

    fn shard_bytes(&self) -> usize {
        self.buckets_per_shard as usize * size_of::<Bucket>()
            + Layout::heads_bytes()
            + self.entries_per_shard as usize * size_of::<Entry>()
    }

    /// Bytes of the whole region.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + SHARDS * self.shard_bytes()
    }

    /// The shard that an offset in the region is in; the first for one in the header, and one beyond
    /// the last for what is behind them.
    pub fn shard_at(&self, offset: usize) -> usize {
        offset.saturating_sub(HEADER_BYTES) / self.shard_bytes()
    }

    /// Entries of the whole table, spare ones included.
    pub fn capacity(&self) -> u32 {
        self.entries_per_shard * SHARDS as u32
    }

    /// The layout in words, for `rvsd --print-layout`.
    pub fn describe(&self) -> String {
        let index = self.buckets_per_shard as f64 * size_of::<Bucket>() as f64
            / f64::from(self.entries_per_shard);
        let heads = Layout::heads_bytes() as f64 / f64::from(self.entries_per_shard);
        let each = self.bytes() as f64 / f64::from(self.capacity());
        let total = self.bytes() as f64 / f64::from(self.connections.max(1));
        format!(
            "connection table layout, version {VERSION}\n\
             shards                      {SHARDS:>12}\n\
             connections                 {:>12}\n\
             entries                     {:>12} (with spare ones: shards do not fill evenly)\n\
             entry                       {:>12} bytes (IPv4 packets touch the first 64)\n\
             index slot                  {:>12.1} bytes ({SLOTS} in a bucket of {})\n\
             index, per entry            {index:>12.1} bytes (two slots for NAT, one for DR and TUN)\n\
             timers, per entry           {heads:>12.1} bytes (list heads; the links lie in the entry)\n\
             entry, in all               {each:>12.1} bytes (limit 160)\n\
             connection, in all          {total:>12.1} bytes (with its part of the spare entries)\n\
             region                      {:>12} bytes\n",
            self.connections,
            self.capacity(),
            size_of::<Entry>(),
            size_of::<Bucket>() as f64 / SLOTS as f64,
            size_of::<Bucket>(),
            self.bytes(),
        )
    }
}

/// Why a region cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionError {
    /// Too small for its layout.
    Size {
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// Not 64-byte aligned.
    Alignment,
    /// Not a region of this version and these sizes.
    Foreign,
    /// Of another boot: its times mean nothing.
    OtherBoot,
    /// Its header contradicts itself.
    Damaged,
}

impl core::fmt::Display for RegionError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            RegionError::Size { need, have } => {
                write!(
                    f,
                    "connection region has {have} bytes but its layout needs {need}"
                )
            }
            RegionError::Alignment => write!(f, "connection region is not aligned to 64 bytes"),
            RegionError::Foreign => {
                write!(
                    f,
                    "connection region was made by another version or for other sizes"
                )
            }
            RegionError::OtherBoot => write!(f, "connection region is of an earlier boot"),
            RegionError::Damaged => write!(f, "the header of the connection region is damaged"),
        }
    }
}

impl core::error::Error for RegionError {}

/// Makes an empty table in `memory`, which must be zeroed and 64-byte aligned.
///
/// # Errors
/// `Size` and `Alignment`.
pub fn create(
    memory: &'static mut [u8],
    layout: Layout,
    key: HashKey,
    boot_id: [u8; 16],
    now: Ticks,
) -> Result<Vec<Shard>, RegionError> {
    let header = Header::new(layout, key, boot_id);
    let have = memory.len();
    if have < layout.bytes() {
        return Err(RegionError::Size {
            need: layout.bytes(),
            have,
        });
    }
    let (head, rest) = memory.split_at_mut(HEADER_BYTES);
    header
        .write_to_prefix(head)
        .map_err(|_| RegionError::Alignment)?;
    carve(rest, layout, key, now)
}

/// Bytes at the beginning of a region that [`examine`] asks for.
pub const HEAD: usize = size_of::<Header>();

/// Whether the region that begins with these bytes can be taken over, and what sizes it has.
///
/// # Errors
/// All of [`RegionError`] but `Alignment`.
pub fn examine(head: &[u8], boot_id: [u8; 16]) -> Result<Layout, RegionError> {
    let (need, have) = (HEAD, head.len());
    let read = Header::read_from_prefix(head);
    let (header, _) = read.map_err(|_| RegionError::Size { need, have })?;
    header.examine(boot_id)
}

/// A table that was taken over.
pub struct Attached {
    /// Its sizes.
    pub layout: Layout,
    /// The key by which its connections are found.
    pub key: HashKey,
    /// The shards.
    pub shards: Vec<Shard>,
    /// Entries that were dropped: half written when the process ended, or damaged since.
    pub torn: u32,
}

/// Takes over a table that an earlier process left in `memory`. Each live entry is looked at
/// ([`Entry::is_whole`]); index, timers, free lists and the counts of templates are made anew from
/// those that are whole. Nothing else in the memory is believed.
///
/// # Errors
/// All of [`RegionError`]; nothing was changed then.
pub fn attach(
    memory: &'static mut [u8],
    boot_id: [u8; 16],
    now: Ticks,
) -> Result<Attached, RegionError> {
    let have = memory.len();
    let (header, _) = Header::read_from_prefix(memory).map_err(|_| RegionError::Size {
        need: HEADER_BYTES,
        have,
    })?;
    let layout = header.examine(boot_id)?;
    if have < layout.bytes() {
        return Err(RegionError::Size {
            need: layout.bytes(),
            have,
        });
    }
    let (_, rest) = memory.split_at_mut(HEADER_BYTES);
    let key = HashKey(header.key);
    let mut shards = carve(rest, layout, key, now)?;
    let torn = shards.iter_mut().map(|shard| shard.recover(now)).sum();
    template::recount(&mut shards);
    Ok(Attached {
        layout,
        key,
        shards,
        torn,
    })
}

/// Gives each connection of a table that was taken over its real server as this process numbers
/// them; one that has none is dropped. How many were.
pub fn bind(shards: &mut [Shard], mut number: impl FnMut(&Entry) -> Option<DestId>) -> u32 {
    let mut dropped = 0;
    for shard in &mut *shards {
        for i in 0..shard.touched() {
            let Some(entry) = shard.entry_mut(i).filter(|entry| entry.is_valid()) else {
                continue;
            };
            match number(entry) {
                Some(id) => entry.set_dest_id(id),
                None => {
                    shard.remove(i);
                    dropped += 1;
                }
            }
        }
    }
    if dropped > 0 {
        template::recount(shards);
    }
    dropped
}

fn carve(
    mut rest: &'static mut [u8],
    layout: Layout,
    key: HashKey,
    now: Ticks,
) -> Result<Vec<Shard>, RegionError> {
    let mut shards = Vec::with_capacity(SHARDS);
    for _ in 0..SHARDS {
        let (shard, after) = rest.split_at_mut(layout.shard_bytes());
        rest = after;
        let buckets = layout.buckets_per_shard as usize * size_of::<Bucket>();
        let (buckets, shard) = shard.split_at_mut(buckets);
        let (heads, entries) = shard.split_at_mut(Layout::heads_bytes());
        let (heads, _) = heads.split_at_mut(HEADS * 4);
        shards.push(Shard::new(
            Index::new(<[Bucket]>::mut_from_bytes(buckets).map_err(|_| RegionError::Alignment)?),
            <[u32]>::mut_from_bytes(heads).map_err(|_| RegionError::Alignment)?,
            <[Entry]>::mut_from_bytes(entries).map_err(|_| RegionError::Alignment)?,
            key,
            layout.connections.div_ceil(SHARDS as u32),
            now,
        ));
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neighbours may be of different workers, which write all parts of theirs.
    #[test]
    fn shards_share_no_line() {
        for connections in [1, 1000, 65_536, 1_000_000, 10_000_000] {
            let layout = Layout::for_connections(connections);
            assert_eq!(HEADER_BYTES % 64, 0);
            assert_eq!(layout.shard_bytes() % 64, 0, "{connections}");
            assert_eq!(Layout::heads_bytes() % 64, 0);
        }
    }
}
