//! The memory of the connection table: taken over from the process before, if it left one in a
//! file, or new.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant as WallClock;

use anyhow::{Context, Result, anyhow};
use control::clock;
use control::config::Config;
use control::model::Model;
use control::recovery::disk;
use dataplane::conn::{HashKey, Layout, Shard, image, region};
use dataplane::steering::Steering;
use dataplane::toeplitz::Toeplitz;
use dataplane::worker::{Places, Share, deal};
use dpdk::region::{Backing, Region, RegionError};
use rustix::fs::{FlockOperation, flock};
use tracing::{info, warn};

use crate::numa::Nodes;

/// What there is of the table of the process before.
pub enum Left {
    /// Its file, if it has one.
    File,
    /// Records of its connections, for this table. Its file is not to be touched before this
    /// process serves.
    Records(Box<Table>, Vec<u8>),
}

/// The connection table, ready for the workers.
pub struct Table {
    /// All shards, by number.
    pub shards: Vec<Shard>,
    /// The key by which connections are found.
    pub key: HashKey,
    /// If it was taken over: how packets are steered by the rules of now.
    pub steering: Option<Steering>,
    /// A file that is to have the name of another one once this process serves.
    pub renamed: Option<(PathBuf, PathBuf)>,
}

/// Whether a process that is about to take over can go on with the table as it lies in `used`, the
/// file of the one that serves.
pub fn fits(config: &Config, used: Option<&Path>, boot: [u8; 16]) -> bool {
    let named = config.state.table.as_deref();
    let Some(path) = named.filter(|path| Some(*path) == used) else {
        return false;
    };
    let layout = Layout::for_connections(config.workers.connections);
    let mut head = Vec::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(region::HEAD as u64).read_to_end(&mut head));
    read.is_ok() && region::examine(&head, boot) == Ok(layout)
}

/// Makes a new table. If the configuration names a file, it is made beside that.
///
/// # Errors
/// There is no memory for a table anywhere.
pub fn beside(config: &Config, boot: [u8; 16]) -> Result<Table> {
    let layout = Layout::for_connections(config.workers.connections);
    let beside = config.state.table.as_ref().and_then(|path| {
        let new = disk::with_suffix(path, ".new");
        let made = disk::remove(&new)
            .map_err(Into::into)
            .and_then(|()| map_file(&new, layout, boot));
        match made {
            Ok(region) => Some((region, new, path.clone())),
            Err(why) => {
                warn!(event = "table", "{why:#}; {IN_MEMORY}");
                None
            }
        }
    });
    let (region, renamed) = match beside {
        Some((region, new, path)) => (region, Some((new, path))),
        None => (map(&Backing::Anonymous, layout)?, None),
    };
    let mut table = create(region, layout, &Nodes::of(config), boot)?;
    table.renamed = renamed;
    Ok(table)
}

/// Puts the connections of `records` into a new table.
pub fn restore(mut table: Table, model: &mut Model, records: &[u8]) -> Table {
    let began = WallClock::now();
    let now = clock::now();
    let restored = image::decode(records, &mut table.shards, &table.key, now.ticks());
    let unbound = region::bind(&mut table.shards, |entry| model.bind(now, entry));
    info!(
        event = "table",
        connections = restored.entries,
        torn = restored.torn,
        lost = restored.lost,
        unbound,
        ms = began.elapsed().as_millis() as u64,
        "took over the connection table of the last run, one by one"
    );
    if restored.entries > 0 {
        model.expect_strays();
        table.steering = Some(model.steering());
    }
    table
}

const IN_MEMORY: &str = "the table is in memory that ends with rvsd, so connections will not outlive \
                         a crash (see [state])";

impl Table {
    /// Deals what was taken over to so many workers; `nics`: the keys by which NICs steer.
    pub fn deal(&mut self, workers: usize, nics: Option<&Toeplitz>) {
        let Some(steering) = &self.steering else {
            return;
        };
        let places = Places {
            key: self.key,
            steering,
            nics,
            shares: (0..workers).map(|n| Share::of(n, workers)).collect(),
        };
        let dealt = deal(&mut self.shards, &places);
        if dealt.moved + dealt.lost > 0 {
            info!(
                event = "table",
                moved = dealt.moved,
                lost = dealt.lost,
                "connections of the last run were moved to the workers of this one"
            );
        }
    }
}

/// Takes over the table that the configuration names, or makes one. Real servers of connections
/// that are there get their numbers from `model`.
///
/// # Errors
/// There is no memory for a table anywhere.
pub fn open(config: &Config, nodes: &Nodes, boot: [u8; 16], model: &mut Model) -> Result<Table> {
    let layout = Layout::for_connections(config.workers.connections);
    let Some(path) = &config.state.table else {
        return create(map(&Backing::Anonymous, layout)?, layout, nodes, boot);
    };
    let region = match map_file(path, layout, boot) {
        Ok(region) => region,
        Err(why) => {
            warn!(event = "table", "{why:#}; {IN_MEMORY}");
            return create(map(&Backing::Anonymous, layout)?, layout, nodes, boot);
        }
    };
    if region.is_new() {
        return create(region, layout, nodes, boot);
    }
    take_over(region, layout, nodes, boot, model)
}

fn take_over(
    region: Region,
    layout: Layout,
    nodes: &Nodes,
    boot: [u8; 16],
    model: &mut Model,
) -> Result<Table> {
    let began = WallClock::now();
    let now = clock::now();
    let bytes = region.into_bytes();
    nodes.place_table(bytes, layout);
    let found = region::attach(bytes, boot, now.ticks()).map_err(|why| anyhow!(why))?;
    let mut shards = found.shards;
    let unbound = region::bind(&mut shards, |entry| model.bind(now, entry));
    let connections: u64 = shards.iter().map(|shard| u64::from(shard.len())).sum();
    let steering = (connections > 0).then(|| {
        model.expect_strays();
        model.steering()
    });
    info!(
        event = "table",
        connections,
        torn = found.torn,
        unbound,
        ms = began.elapsed().as_millis() as u64,
        "took over the connection table of the last run"
    );
    let key = found.key;
    Ok(Table {
        shards,
        key,
        steering,
        renamed: None,
    })
}

fn map(backing: &Backing, layout: Layout) -> Result<Region> {
    // What is in a file is taken now: later the file system may be full, which kills.
    let prefault = matches!(backing, Backing::File(_));
    let region = Region::map(backing, layout.bytes(), prefault)
        .context("connection table; lower connections in [workers]")?;
    info!(pages = ?region.pages(), connections = layout.connections, "connection table mapped");
    Ok(region)
}

/// Maps the file of the table. One that cannot be taken over is removed before.
fn map_file(path: &Path, layout: Layout, boot: [u8; 16]) -> Result<Region> {
    let shown = path.display();
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let useless = match head(path).with_context(|| shown.to_string())? {
        None => None,
        Some(head) => match region::examine(&head, boot) {
            Ok(found) if found == layout => None,
            Ok(found) => Some(format!(
                "is for {} connections, not {}",
                found.connections, layout.connections
            )),
            Err(why) => Some(format!("cannot be taken over: {why}")),
        },
    };
    if let Some(why) = useless {
        warn!(
            event = "table",
            "{shown} {why}; the connection table starts empty"
        );
        remove(path)?;
    }
    let backing = Backing::File(path.to_owned());
    match map(&backing, layout) {
        // Cut short, or longer than it says.
        Err(why) if is_of_another_size(&why) => {
            warn!(
                event = "table",
                "{why:#}; the connection table starts empty"
            );
            remove(path)?;
            map(&backing, layout)
        }
        mapped => mapped,
    }
}

fn is_of_another_size(why: &anyhow::Error) -> bool {
    matches!(why.downcast_ref(), Some(RegionError::Size { .. }))
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| path.display().to_string())
}

/// The beginning of the file; `None` if there is no file, or nothing in it.
fn head(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    // The lock ends with this look; mapping takes it for good.
    if flock(&file, FlockOperation::NonBlockingLockShared).is_err() {
        return Err(io::Error::other("another rvsd uses it; give each its own"));
    }
    let mut head = Vec::new();
    file.take(region::HEAD as u64).read_to_end(&mut head)?;
    Ok((!head.is_empty()).then_some(head))
}

fn create(region: Region, layout: Layout, nodes: &Nodes, boot: [u8; 16]) -> Result<Table> {
    let mut random = [0u8; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .context("/dev/urandom")?;
    let mut key = [0u64; 4];
    for (word, bytes) in key.iter_mut().zip(random.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    }
    let key = HashKey(key);
    let now = clock::now().ticks();
    let bytes = region.into_bytes();
    nodes.place_table(bytes, layout);
    let shards = region::create(bytes, layout, key, boot, now).map_err(|why| anyhow!(why))?;
    Ok(Table {
        shards,
        key,
        steering: None,
        renamed: None,
    })
}
