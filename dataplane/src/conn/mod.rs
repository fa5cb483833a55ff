//! The connection table: 128 shards in one memory region, each owned by one worker.

pub mod engine_data;
pub mod entry;
pub mod hash;
pub mod index;
pub mod prefetch;
pub mod region;
pub mod shard;
pub mod template;
pub mod wheel;

pub use entry::{Controller, Entry, NIL, NewConnection, NewTemplate, Signature, image};
pub use hash::{HashKey, KeyHash};
pub use region::{Layout, RegionError, SHARDS};
pub use shard::{Shard, Side};
