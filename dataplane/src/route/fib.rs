//! The forwarding table: prefix to target, target to next hops.
//!
//! Many prefixes share few targets, so a prefix holds a [`TargetId`], and a change of a nexthop
//! object or of a link that a million routes use is one change here.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;
use std::collections::HashMap;
use std::sync::Arc;

use super::LinkId;
use super::trie::Trie;
use crate::addr::{Addr, Family};

/// An address prefix; bits beyond its length are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    addr: Addr,
    len: u8,
}

impl Prefix {
    /// `addr/len`, cut to the length. `None` if the length is more than the family has bits.
    pub fn new(addr: Addr, len: u8) -> Option<Prefix> {
        let (bits, max) = key(addr);
        if len > max {
            return None;
        }
        let bits = if len == 0 {
            0
        } else {
            bits & (u128::MAX << (128 - len))
        };
        let addr = match addr.family() {
            Family::V4 => Addr::v4(((bits >> 96) as u32).to_be_bytes()),
            Family::V6 => Addr::v6(bits.to_be_bytes()),
        };
        Some(Prefix { addr, len })
    }

    /// The prefix that holds this address alone.
    pub fn host(addr: Addr) -> Prefix {
        Prefix {
            addr,
            len: key(addr).1,
        }
    }

    /// The first address.
    pub fn addr(&self) -> Addr {
        self.addr
    }

    /// Length in bits, 0 to 32 for IPv4 and 0 to 128 for IPv6.
    #[allow(clippy::len_without_is_empty)] // a length in bits, not of a collection
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether the address lies in it.
    pub fn contains(&self, addr: Addr) -> bool {
        addr.family() == self.addr.family()
            && Prefix::new(addr, self.len).is_some_and(|p| p == *self)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = String;

    /// `10.0.0.0/8`, `2001:db8::/32`; without a length, the one address.
    fn from_str(text: &str) -> Result<Prefix, String> {
        let (addr, len) = text
            .split_once('/')
            .map_or((text, None), |(a, l)| (a, Some(l)));
        let addr: IpAddr = addr
            .parse()
            .map_err(|_| format!("\"{text}\" is not a prefix"))?;
        let addr = Addr::from(addr);
        match len {
            None => Ok(Prefix::host(addr)),
            Some(len) => len
                .parse()
                .ok()
                .and_then(|len| Prefix::new(addr, len))
                .ok_or_else(|| {
                    format!(
                        "\"{text}\": the length is a number from 0 to {}",
                        key(addr).1
                    )
                }),
        }
    }
}

/// The address left-aligned in 128 bits, and how many bits its family has.
#[inline(always)]
fn key(addr: Addr) -> (u128, u8) {
    match addr.family() {
        Family::V4 => (u128::from(addr.bits_v4()) << 96, 32),
        Family::V6 => (u128::from_be_bytes(addr.octets()), 128),
    }
}

/// Number of a target, given by whoever builds the table; small and dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId(pub u32);

/// One way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// Where the packet leaves.
    pub link: LinkId,
    /// The router to send to; `None` if the destination itself is on the link.
    pub gateway: Option<Addr>,
    /// Largest IP packet: the route's MTU if it has one and it is smaller, else the link's.
    pub mtu: u16,
    /// Source of packets that the host itself sends this way (tunnel headers, ICMP errors): the
    /// route's preferred source, else the link's best address; unspecified if there is none.
    pub source: Addr,
}

/// Several ways, each with its share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NextHops {
    /// Each hop with the last hash that is its own, rising; the last is `u32::MAX`.
    hops: Box<[(u32, NextHop)]>,
}

impl NextHops {
    /// The hop whose share holds `hash`.
    #[inline]
    fn pick(&self, hash: u32) -> Option<&NextHop> {
        self.hops
            .iter()
            .find(|(last, _)| hash <= *last)
            .map(|(_, hop)| hop)
    }
}

/// What a route leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Target {
    /// Nothing usable (its devices are down): the next shorter prefix decides.
    #[default]
    Unusable,
    /// This host.
    Local,
    /// One next hop.
    Via(NextHop),
    /// One of several, by the flow's hash.
    Multipath(Arc<NextHops>),
    /// Not forwarded, by the operator's will.
    Reject(Reject),
    /// A device that is no twin.
    Foreign,
}

/// What becomes of packets on a route that forwards nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reject {
    /// `blackhole`: dropped in silence.
    Blackhole,
    /// `unreachable`: answered with host unreachable (IPv6: no route).
    Unreachable,
    /// `prohibit`: answered with "administratively prohibited".
    Prohibit,
    /// `throw`: as if there were no route, whatever shorter prefixes say.
    Throw,
}

impl Target {
    /// A choice among weighted hops, as the kernel's hash threshold: each gets a stretch of the
    /// hash space in proportion to its weight. Weight 0 counts as 1.
    pub fn multipath(hops: &[(NextHop, u32)]) -> Target {
        match hops {
            [] => return Target::Unusable,
            [(hop, _)] => return Target::Via(*hop),
            _ => {}
        }
        let total: u64 = hops.iter().map(|(_, w)| u64::from(*w).max(1)).sum();
        let mut sum = 0;
        let bounds = hops.iter().map(|(hop, weight)| {
            sum += u64::from(*weight).max(1);
            let last = (u128::from(sum) << 32) / u128::from(total) - 1;
            (last as u32, *hop)
        });
        Target::Multipath(Arc::new(NextHops {
            hops: bounds.collect(),
        }))
    }

    /// All its next hops.
    pub fn hops(&self) -> impl Iterator<Item = &NextHop> {
        let (one, many): (Option<&NextHop>, &[(u32, NextHop)]) = match self {
            Target::Via(hop) => (Some(hop), &[]),
            Target::Multipath(hops) => (None, &hops.hops),
            _ => (None, &[]),
        };
        one.into_iter().chain(many.iter().map(|(_, hop)| hop))
    }
}

/// Answer of [`Fib::lookup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// The address is this host's.
    Local,
    /// By this hop.
    Via(&'a NextHop),
    /// Not forwarded, by the operator's will; never [`Reject::Throw`].
    Reject(Reject),
    /// Out of a device that is no twin.
    Foreign,
    /// No route.
    None,
}

/// One step of [`Fib::apply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets what a number stands for, for all routes that use it.
    Target(TargetId, Target),
    /// Adds or replaces a route. A number without a target is unusable.
    Put(Prefix, TargetId),
    /// Removes a route.
    Delete(Prefix),
    /// Adds or replaces a route that is asked before all others, as the kernel's `local` table.
    PutLocal(Prefix, TargetId),
    /// Removes a route that is asked before all others.
    DeleteLocal(Prefix),
}

/// Targets per piece: what one change of a target copies.
const PIECE: usize = 64;

/// One routing table of the kernel.
#[derive(Clone, Debug, Default)]
struct Table {
    v4: Trie,
    v6: Trie,
}

impl Table {
    #[inline(always)]
    fn trie(&self, family: Family) -> &Trie {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn set(&mut self, prefix: Prefix, id: TargetId) {
        self.trie_mut(prefix)
            .set(key(prefix.addr).0, prefix.len, id.0);
    }

    fn remove(&mut self, prefix: Prefix) {
        self.trie_mut(prefix).remove(key(prefix.addr).0, prefix.len);
    }

    fn get(&self, prefix: Prefix) -> Option<TargetId> {
        self.trie(prefix.addr.family())
            .get(key(prefix.addr).0, prefix.len)
            .map(TargetId)
    }

    fn trie_mut(&mut self, prefix: Prefix) -> &mut Trie {
        match prefix.addr.family() {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }
}

/// The forwarding table. Cloning is a few reference counts, and a clone is a snapshot: changes
/// of one are not seen by the other.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    /// Asked first; any match decides, as `ip rule` 0 does.
    local: Table,
    main: Table,
    targets: Arc<Vec<Arc<Vec<Target>>>>,
}

impl Fib {
    /// Where packets to `dst` go. `hash` chooses among equal ways and is uniform over flows.
    #[inline]
    pub fn lookup(&self, dst: Addr, hash: u32) -> Lookup<'_> {
        match self.find(dst) {
            None | Some(Target::Unusable | Target::Reject(Reject::Throw)) => Lookup::None,
            Some(Target::Local) => Lookup::Local,
            Some(Target::Via(hop)) => Lookup::Via(hop),
            Some(Target::Multipath(hops)) => hops.pick(hash).map_or(Lookup::None, Lookup::Via),
            Some(Target::Reject(reject)) => Lookup::Reject(*reject),
            Some(Target::Foreign) => Lookup::Foreign,
        }
    }

    /// The target of the longest prefix of `dst` that is usable.
    #[inline]
    pub fn find(&self, dst: Addr) -> Option<&Target> {
        self.find_in(&self.local, dst)
            .or_else(|| self.find_in(&self.main, dst))
    }

    #[inline]
    fn find_in(&self, table: &Table, dst: Addr) -> Option<&Target> {
        let (key, mut limit) = key(dst);
        let trie = table.trie(dst.family());
        loop {
            let (target, len) = trie.lookup(key, limit)?;
            match self.target(TargetId(target)) {
                None | Some(Target::Unusable) => limit = len.checked_sub(1)?,
                usable => return usable,
            }
        }
    }

    /// The table after one change.
    #[must_use]
    pub fn with(&self, change: Change) -> Fib {
        self.apply([change])
    }

    /// The table after these changes; this one stays as it is.
    #[must_use]
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) -> Fib {
        let mut fib = self.clone();
        for change in changes {
            fib.change(change);
        }
        fib
    }

    /// Makes one change in place. Nodes that a snapshot shares are copied, others are not.
    pub fn change(&mut self, change: Change) {
        match change {
            Change::Target(id, target) => self.set_target(id, target),
            Change::Put(prefix, id) => self.main.set(prefix, id),
            Change::Delete(prefix) => self.main.remove(prefix),
            Change::PutLocal(prefix, id) => self.local.set(prefix, id),
            Change::DeleteLocal(prefix) => self.local.remove(prefix),
        }
    }

    /// How many routes it holds.
    pub fn len(&self) -> usize {
        self.local.len() + self.main.len()
    }

    /// Whether it has no routes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the tries take, without the allocator's overhead. Walks everything.
    pub fn memory(&self) -> usize {
        [&self.local, &self.main]
            .iter()
            .map(|t| t.v4.memory() + t.v6.memory())
            .sum()
    }

    /// What a number stands for.
    #[inline]
    pub fn target(&self, id: TargetId) -> Option<&Target> {
        self.targets
            .get(id.0 as usize / PIECE)?
            .get(id.0 as usize % PIECE)
    }

    /// The target of exactly this prefix, set with [`Change::Put`].
    pub fn get(&self, prefix: Prefix) -> Option<TargetId> {
        self.main.get(prefix)
    }

    /// The target of exactly this prefix, set with [`Change::PutLocal`].
    pub fn get_local(&self, prefix: Prefix) -> Option<TargetId> {
        self.local.get(prefix)
    }

    fn set_target(&mut self, id: TargetId, target: Target) {
        let (piece, at) = (id.0 as usize / PIECE, id.0 as usize % PIECE);
        let pieces = Arc::make_mut(&mut self.targets);
        if pieces.len() <= piece {
            pieces.resize_with(piece + 1, Arc::default);
        }
        let piece = Arc::make_mut(&mut pieces[piece]);
        if piece.len() <= at {
            piece.resize(at + 1, Target::Unusable);
        }
        piece[at] = target;
    }
}

/// Builds a table from prefixes and targets, numbering equal targets once. For tests, benches
/// and start-up; the mirror numbers targets itself.
#[derive(Debug, Default)]
pub struct FibBuilder {
    fib: Fib,
    numbers: HashMap<Target, TargetId>,
}

impl FibBuilder {
    /// Nothing yet.
    pub fn new() -> FibBuilder {
        FibBuilder::default()
    }

    /// Adds or replaces a route.
    #[must_use]
    pub fn route(mut self, prefix: Prefix, target: Target) -> FibBuilder {
        self.add(prefix, target);
        self
    }

    /// Adds or replaces a route.
    pub fn add(&mut self, prefix: Prefix, target: Target) {
        let next = TargetId(self.numbers.len() as u32);
        let id = *self.numbers.entry(target.clone()).or_insert(next);
        if id == next {
            self.fib.change(Change::Target(id, target));
        }
        self.fib.change(Change::Put(prefix, id));
    }

    /// The table.
    pub fn build(self) -> Fib {
        self.fib
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn hop(link: u16) -> NextHop {
        NextHop {
            link: LinkId(link),
            gateway: None,
            mtu: 1500,
            source: Addr::UNSPECIFIED,
        }
    }

    fn addr(text: &str) -> Addr {
        prefix(text).addr()
    }

    #[test]
    fn longest_match_wins_and_families_are_apart() {
        let fib = FibBuilder::new()
            .route(prefix("0.0.0.0/0"), Target::Via(hop(1)))
            .route(prefix("10.0.0.0/8"), Target::Via(hop(2)))
            .route(prefix("10.1.2.3"), Target::Local)
            .route(prefix("10.9.0.0/16"), Target::Reject(Reject::Blackhole))
            .route(prefix("10.8.0.0/16"), Target::Foreign)
            .build();
        assert_eq!(fib.lookup(addr("1.1.1.1"), 0), Lookup::Via(&hop(1)));
        assert_eq!(fib.lookup(addr("10.1.2.4"), 0), Lookup::Via(&hop(2)));
        assert_eq!(fib.lookup(addr("10.1.2.3"), 0), Lookup::Local);
        assert_eq!(
            fib.lookup(addr("10.9.1.1"), 0),
            Lookup::Reject(Reject::Blackhole)
        );
        assert_eq!(fib.lookup(addr("10.8.1.1"), 0), Lookup::Foreign);
        assert_eq!(fib.lookup(addr("2001:db8::1"), 0), Lookup::None);
    }

    #[test]
    fn an_unusable_target_leaves_the_choice_to_the_shorter_prefix() {
        let fib = FibBuilder::new()
            .route(prefix("0.0.0.0/0"), Target::Via(hop(1)))
            .route(prefix("10.0.0.0/8"), Target::Via(hop(2)))
            .build();
        let id = fib.get(prefix("10.0.0.0/8")).unwrap();
        let down = fib.with(Change::Target(id, Target::Unusable));
        assert_eq!(down.lookup(addr("10.0.0.1"), 0), Lookup::Via(&hop(1)));
        assert_eq!(fib.lookup(addr("10.0.0.1"), 0), Lookup::Via(&hop(2)));
        let none = down.with(Change::Delete(prefix("0.0.0.0/0")));
        assert_eq!(none.lookup(addr("10.0.0.1"), 0), Lookup::None);
    }

    #[test]
    fn the_local_table_is_asked_first() {
        let mut fib = FibBuilder::new()
            .route(prefix("10.1.0.0/16"), Target::Via(hop(1)))
            .route(prefix("192.0.2.1"), Target::Local)
            .build();
        let local = fib.get(prefix("192.0.2.1")).unwrap();
        fib.change(Change::PutLocal(prefix("10.0.0.0/8"), local));
        assert_eq!(
            fib.lookup(addr("10.1.0.1"), 0),
            Lookup::Local,
            "shorter, but asked first"
        );
        fib.change(Change::DeleteLocal(prefix("10.0.0.0/8")));
        assert_eq!(fib.lookup(addr("10.1.0.1"), 0), Lookup::Via(&hop(1)));
    }

    #[test]
    fn hashes_spread_by_weight() {
        let target = Target::multipath(&[(hop(1), 1), (hop(2), 3), (hop(3), 0)]);
        let fib = FibBuilder::new().route(prefix("::/0"), target).build();
        let mut share = [0u32; 4];
        for i in 0..100_000u32 {
            match fib.lookup(addr("2001:db8::1"), i.wrapping_mul(0x9e37_79b1)) {
                Lookup::Via(hop) => share[usize::from(hop.link.0)] += 1,
                other => panic!("{other:?}"),
            }
        }
        for (i, want) in [(1, 20_000), (2, 60_000), (3, 20_000)] {
            assert!(share[i].abs_diff(want) < 500, "{share:?}");
        }
        assert!(matches!(fib.lookup(addr("::"), u32::MAX), Lookup::Via(h) if h.link.0 == 3));
    }

    #[test]
    fn prefixes_are_cut_and_printed() {
        assert_eq!(prefix("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(prefix("2001:db8::1/33").to_string(), "2001:db8::/33");
        assert_eq!(prefix("1.2.3.4/0").to_string(), "0.0.0.0/0");
        assert!(prefix("10.0.0.0/8").contains(addr("10.255.0.1")));
        assert!(!prefix("::/0").contains(addr("10.255.0.1")));
        assert!("10.0.0.0/33".parse::<Prefix>().is_err());
    }
}
