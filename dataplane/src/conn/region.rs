//! The memory region of the table: header, then 128 self-contained shards.
//!
//! The region is handed in from outside and may outlive the process. Nothing in it is a
//! pointer; its header says how it is laid out, so that a successor can refuse what it does
//! not understand.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::entry::Entry;
use super::hash::HashKey;
use super::index::{Bucket, Index, SLOTS};
use super::shard::Shard;
use super::template;
use super::wheel::HEADS;
use crate::time::Ticks;

/// Number of shards.
pub const SHARDS: usize = 128;

/// Version of the layout; raised on any change of [`Entry`], [`Bucket`] or the order of parts.
pub const VERSION: u32 = 3;

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
    reserved: u32,
    key: [u64; 4],
    boot_id: [u8; 16],
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
    /// Every entry may need two index slots (NAT); a bucket of ten for 4.2 entries keeps the
    /// index at most 84 % full.
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
    let header = Header {
        magic: MAGIC,
        version: VERSION,
        entry_bytes: size_of::<Entry>() as u32,
        bucket_bytes: size_of::<Bucket>() as u32,
        shards: SHARDS as u32,
        connections: layout.connections,
        entries_per_shard: layout.entries_per_shard,
        buckets_per_shard: layout.buckets_per_shard,
        reserved: 0,
        key: key.0,
        boot_id,
    };
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

/// Takes over a table that an earlier process left in `memory`: index, timers and free lists
/// are rebuilt from the entries.
///
/// # Errors
/// All of [`RegionError`]; nothing was changed then.
pub fn attach(
    memory: &'static mut [u8],
    boot_id: [u8; 16],
    now: Ticks,
) -> Result<(Layout, Vec<Shard>), RegionError> {
    let have = memory.len();
    let (header, _) = Header::read_from_prefix(memory).map_err(|_| RegionError::Size {
        need: HEADER_BYTES,
        have,
    })?;
    let layout = Layout {
        connections: header.connections,
        entries_per_shard: header.entries_per_shard,
        buckets_per_shard: header.buckets_per_shard,
    };
    if header.magic != MAGIC
        || header.version != VERSION
        || header.entry_bytes as usize != size_of::<Entry>()
        || header.bucket_bytes as usize != size_of::<Bucket>()
        || header.shards as usize != SHARDS
        || layout.entries_per_shard == 0
        || layout.buckets_per_shard == 0
    {
        return Err(RegionError::Foreign);
    }
    if header.boot_id != boot_id {
        return Err(RegionError::OtherBoot);
    }
    if have < layout.bytes() {
        return Err(RegionError::Size {
            need: layout.bytes(),
            have,
        });
    }
    let (_, rest) = memory.split_at_mut(HEADER_BYTES);
    let mut shards = carve(rest, layout, HashKey(header.key), now)?;
    for shard in &mut shards {
        shard.rebuild();
    }
    template::recount(&mut shards);
    Ok((layout, shards))
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
