//! A table that was taken over is dealt anew.
//!
//! Where a connection is kept depends on how many workers there are, on whether NICs steer, and on
//! the rules. All of that may be another one than in the run that left the table.

use std::collections::HashMap;

use super::Share;
use super::steer::shard_of;
use crate::addr::Endpoint;
use crate::conn::entry::{TEMPLATE_SPACE, flag};
use crate::conn::{Controller, Entry, HashKey, SHARDS, Shard, template};
use crate::service::Protocol;
use crate::steering::Steering;
use crate::toeplitz::Toeplitz;

/// How a team finds its connections.
pub struct Places<'a> {
    /// The key of the table.
    pub key: HashKey,
    /// How packets are steered by the rules that the team begins with.
    pub steering: &'a Steering,
    /// The keys of the NICs, if they steer.
    pub nics: Option<&'a Toeplitz>,
    /// As each worker sees it.
    pub shares: Vec<Share>,
}

/// What [`deal`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dealt {
    /// Connections and templates that have another place now.
    pub moved: u32,
    /// Those for which there was no room.
    pub lost: u32,
}

/// The IP protocol and the endpoint besides the client that tell how packets of an entry are
/// steered. A mark's template has no virtual address, but its servers have a class for every
/// protocol.
pub(super) fn steered_by(entry: &Entry) -> (u8, Endpoint) {
    match (entry.is_template(), entry.protocol() & !TEMPLATE_SPACE) {
        (false, protocol) => (protocol, entry.virtual_()),
        (true, 0) => (Protocol::Tcp.number(), entry.dest()),
        (true, protocol) => (protocol, entry.dest()),
    }
}

impl Places<'_> {
    /// The worker that owns a shard.
    fn owner(&self, shard: u8) -> u8 {
        self.shares.first().map_or(0, |share| share.owner(shard))
    }

    /// The shard in which an entry is looked for.
    fn shard(&self, entry: &Entry) -> u8 {
        let (c, v) = (entry.client(), entry.virtual_());
        let hash = self
            .key
            .hash(entry.protocol(), &c.addr, c.port, &v.addr, v.port);
        if self.shares.len() < 2 {
            return hash.shard;
        }
        let (protocol, other) = steered_by(entry);
        let class = self.steering.class(protocol, &other.addr, other.port);
        let meets = shard_of(&self.key, self.nics, class, hash, &c);
        let owner = usize::from(self.owner(meets));
        let mine = |share: &Share| share.mine(hash.shard);
        self.shares.get(owner).map_or(hash.shard, mine)
    }
}

/// Moves connections and templates to the shards in which a team looks for them, each with what
/// it controls.
pub fn deal(shards: &mut [Shard], places: &Places<'_>) -> Dealt {
    let mut dealt = Dealt::default();
    let mut moved = HashMap::new();
    // A shard may be full of what has to leave it: it gets its turn again.
    let mut last = false;
    loop {
        let (before, mut left) = (dealt.moved, 0);
        // Those whose replies a newer one gets come before that one.
        for hidden in [true, false] {
            for at in 0..shards.len().min(SHARDS) {
                for i in 0..shards[at].touched() {
                    let is_meant =
                        |e: &&Entry| e.is_valid() && (e.flags & flag::HIDDEN != 0) == hidden;
                    let live = shards[at].entry(i).filter(is_meant);
                    let Some(to) = live.map(|entry| usize::from(places.shard(entry))) else {
                        continue;
                    };
                    if to == at {
                        continue;
                    }
                    let has_room = shards.get(to).is_some_and(|s| s.len() < s.capacity());
                    if !has_room && !last {
                        left += 1;
                        continue;
                    }
                    match hand_over(shards, (at, i), to) {
                        Some((old, new)) => {
                            dealt.moved += 1;
                            moved.insert(old, new);
                        }
                        None => dealt.lost += 1,
                    }
                }
            }
        }
        if left == 0 {
            break;
        }
        last = dealt.moved == before;
    }
    if dealt != Dealt::default() {
        follow(shards, places, &moved);
    }
    dealt
}

/// Moves one entry; where it was and where it is. `None`: there was no room after all. It is taken
/// out first: a crash in between may lose it, and cannot double it.
fn hand_over(
    shards: &mut [Shard],
    (at, i): (usize, u32),
    to: usize,
) -> Option<(Controller, Controller)> {
    let entry = shards.get_mut(at)?.take(i)?;
    let j = shards.get_mut(to)?.adopt(entry)?;
    let place = |shard, i| Controller::new(u8::try_from(shard).ok()?, i);
    Some((place(at, i)?, place(to, j)?))
}

/// Puts entries under those that controlled them where they are now, and makes timers, index and
/// counts anew.
fn follow(shards: &mut [Shard], places: &Places<'_>, moved: &HashMap<Controller, Controller>) {
    for (at, shard) in (0..).zip(&mut *shards) {
        for i in 0..shard.touched() {
            let Some(entry) = shard.entry_mut(i).filter(|e| e.is_valid()) else {
                continue;
            };
            let Some(above) = entry.controller() else {
                continue;
            };
            let above = moved.get(&above).copied().unwrap_or(above);
            // One worker cannot count for another.
            let is_near = places.owner(above.shard() as u8) == places.owner(at);
            entry.set_controller(is_near.then_some(above));
        }
        shard.rebuild();
    }
    template::recount(shards);
}
