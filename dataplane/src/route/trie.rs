//! A persistent longest-prefix-match trie: six bits per node, path-compressed, path-copied.
//!
//! A node at depth `d` (a multiple of six) holds the prefixes of length `d + 1 ..= d + 6` below
//! its key, and the root also the one of length 0. Prefixes of a node are numbered like a binary
//! heap, `1 << len | bits`, so the highest set bit of `prefixes & MATCHES[bits]` is the longest
//! match. Cloning a trie is one reference count; a change copies only the nodes on its path, and
//! not even those that no other snapshot holds.

use std::sync::Arc;

/// Bits looked at per node.
const STRIDE: u8 = 6;

/// For each six bits, the set of heap numbers of the prefixes that cover them.
const MATCHES: [u128; 64] = {
    let mut all = [0; 64];
    let mut bits = 0;
    while bits < 64 {
        let mut len = 0;
        while len <= STRIDE {
            all[bits] |= 1u128 << ((1 << len) | (bits >> (STRIDE - len)));
            len += 1;
        }
        bits += 1;
    }
    all
};

/// An immutable map from prefixes to numbers. Keys are left-aligned in 128 bits.
#[derive(Clone, Debug, Default)]
pub(super) struct Trie {
    root: Arc<Node>,
    len: usize,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// The bits above this node; only the first `depth` count, the others are zero.
    key: u128,
    /// Heap numbers of the prefixes that end here.
    prefixes: u128,
    /// Which of the 64 children exist.
    children: u64,
    /// Values of the prefixes, in the order of their numbers.
    values: Box<[u32]>,
    /// The children, in order. Their depth is at least `depth + STRIDE`.
    kids: Box<[Arc<Node>]>,
    depth: u8,
}

impl Trie {
    /// How many prefixes it holds.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Value and length of the longest prefix of `key`, of at most `limit` bits.
    #[inline]
    pub(super) fn lookup(&self, key: u128, limit: u8) -> Option<(u32, u8)> {
        let mut node = &*self.root;
        let mut best = None;
        loop {
            let bits = chunk(key, node.depth);
            let mut found = node.prefixes & MATCHES[bits];
            if limit < node.depth + STRIDE {
                // Numbers of prefixes of `n` bits are below `2 << n`.
                found &= (1u128 << (2u8 << (limit - node.depth))) - 1;
            }
            if found != 0 {
                best = Some((node, 127 - found.leading_zeros()));
            }
            let Some(kid) = node.kid(bits) else { break };
            if kid.depth >= limit || common_bits(kid.key, key) < kid.depth {
                break;
            }
            node = kid;
        }
        let (node, number) = best?;
        let value = *node.values.get(rank(node.prefixes, number))?;
        Some((value, node.depth + (31 - number.leading_zeros()) as u8))
    }

    /// The value of exactly this prefix.
    pub(super) fn get(&self, key: u128, len: u8) -> Option<u32> {
        let (value, found) = self.lookup(key, len)?;
        (found == len).then_some(value)
    }

    /// Adds or replaces a prefix; the bits of `key` after `len` are zero.
    pub(super) fn set(&mut self, key: u128, len: u8, value: u32) {
        let home = home_depth(len);
        let mut slot = &mut self.root;
        loop {
            let node = Arc::make_mut(slot);
            if node.depth == home {
                self.len += usize::from(node.set_prefix(number(key, len, home), value));
                return;
            }
            let bits = chunk(key, node.depth);
            let Some(kid) = node.kid(bits) else {
                let mut leaf = Node {
                    key: mask(key, home),
                    depth: home,
                    ..Node::default()
                };
                leaf.set_prefix(number(key, len, home), value);
                node.set_kid(bits, Arc::new(leaf));
                self.len += 1;
                return;
            };
            let (kid_key, kid_depth) = (kid.key, kid.depth);
            let meet = (common_bits(kid_key, key) / STRIDE * STRIDE)
                .min(kid_depth)
                .min(home);
            if meet < kid_depth {
                // The child's compressed path leaves ours half way: branch there.
                let branch = Node {
                    key: mask(key, meet),
                    depth: meet,
                    ..Node::default()
                };
                let old = node.replace_kid(bits, Arc::new(branch));
                let branch = Arc::make_mut(node.kid_mut(bits));
                branch.set_kid(chunk(kid_key, meet), old);
            }
            slot = node.kid_mut(bits);
        }
    }

    /// Removes a prefix; false if it was not there.
    pub(super) fn remove(&mut self, key: u128, len: u8) -> bool {
        if self.get(key, len).is_none() {
            return false;
        }
        remove_below(&mut self.root, key, len);
        self.len -= 1;
        true
    }

    /// Bytes that the nodes take, allocator overhead not counted.
    pub(super) fn memory(&self) -> usize {
        fn walk(node: &Node) -> usize {
            let own = size_of::<Node>()
                + 2 * size_of::<usize>()
                + size_of_val(&*node.values)
                + size_of_val(&*node.kids);
            own + node.kids.iter().map(|kid| walk(kid)).sum::<usize>()
        }
        walk(&self.root)
    }
}

/// Removes a prefix that exists at or below `slot` and folds up what became superfluous.
fn remove_below(slot: &mut Arc<Node>, key: u128, len: u8) {
    let home = home_depth(len);
    let node = Arc::make_mut(slot);
    if node.depth == home {
        node.remove_prefix(number(key, len, home));
        return;
    }
    let bits = chunk(key, node.depth);
    let kid = node.kid_mut(bits);
    remove_below(kid, key, len);
    if kid.prefixes != 0 {
        return;
    }
    match &*kid.kids {
        [] => node.remove_kid(bits),
        [only] => *kid = Arc::clone(only),
        _ => {}
    }
}

impl Node {
    fn kid(&self, bits: usize) -> Option<&Node> {
        if self.children >> bits & 1 == 0 {
            return None;
        }
        self.kids
            .get(rank(u128::from(self.children), bits as u32))
            .map(|k| &**k)
    }

    /// The child at `bits`, which exists.
    fn kid_mut(&mut self, bits: usize) -> &mut Arc<Node> {
        &mut self.kids[rank(u128::from(self.children), bits as u32)]
    }

    fn replace_kid(&mut self, bits: usize, kid: Arc<Node>) -> Arc<Node> {
        std::mem::replace(self.kid_mut(bits), kid)
    }

    fn set_kid(&mut self, bits: usize, kid: Arc<Node>) {
        insert(
            &mut self.kids,
            rank(u128::from(self.children), bits as u32),
            kid,
        );
        self.children |= 1 << bits;
    }

    fn remove_kid(&mut self, bits: usize) {
        remove(&mut self.kids, rank(u128::from(self.children), bits as u32));
        self.children &= !(1 << bits);
    }

    /// True if the prefix is new.
    fn set_prefix(&mut self, number: u32, value: u32) -> bool {
        let at = rank(self.prefixes, number);
        if self.prefixes >> number & 1 == 1 {
            self.values[at] = value;
            return false;
        }
        insert(&mut self.values, at, value);
        self.prefixes |= 1 << number;
        true
    }

    fn remove_prefix(&mut self, number: u32) {
        remove(&mut self.values, rank(self.prefixes, number));
        self.prefixes &= !(1 << number);
    }
}

/// The six bits that a node at `depth` looks at.
#[inline(always)]
fn chunk(key: u128, depth: u8) -> usize {
    ((key << depth) >> (128 - STRIDE)) as usize
}

/// How many set bits are below `bit`.
#[inline(always)]
fn rank(set: u128, bit: u32) -> usize {
    (set & ((1 << bit) - 1)).count_ones() as usize
}

/// The depth of the node that holds prefixes of this length.
fn home_depth(len: u8) -> u8 {
    len.saturating_sub(1) / STRIDE * STRIDE
}

/// The heap number of a prefix in its node.
fn number(key: u128, len: u8, depth: u8) -> u32 {
    let len = len - depth;
    1 << len | (chunk(key, depth) >> (STRIDE - len)) as u32
}

#[inline(always)]
fn common_bits(a: u128, b: u128) -> u8 {
    (a ^ b).leading_zeros() as u8
}

fn mask(key: u128, len: u8) -> u128 {
    if len == 0 {
        0
    } else {
        key & (u128::MAX << (128 - len))
    }
}

fn insert<T>(list: &mut Box<[T]>, at: usize, item: T) {
    let mut items = std::mem::take(list).into_vec();
    items.reserve_exact(1);
    items.insert(at, item);
    *list = items.into_boxed_slice();
}

fn remove<T>(list: &mut Box<[T]>, at: usize) {
    let mut items = std::mem::take(list).into_vec();
    items.remove(at);
    *list = items.into_boxed_slice();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> (u128, u8) {
        let (addr, len) = text.split_once('/').unwrap();
        let addr: std::net::Ipv6Addr = addr.parse().unwrap();
        let len = len.parse().unwrap();
        (mask(addr.to_bits(), len), len)
    }

    #[test]
    fn a_compressed_path_is_split_and_folded_again() {
        let mut trie = Trie::default();
        for (i, p) in ["2001:db8:1::/48", "2001:db8::/32", "2001:db8:1:2::3/128"]
            .iter()
            .enumerate()
        {
            let (k, l) = key(p);
            trie.set(k, l, i as u32);
        }
        let at = |t: &Trie, a: &str| t.lookup(key(&format!("{a}/128")).0, 128);
        assert_eq!(at(&trie, "2001:db8:1:2::3"), Some((2, 128)));
        assert_eq!(at(&trie, "2001:db8:1:2::4"), Some((0, 48)));
        assert_eq!(at(&trie, "2001:db8:2::"), Some((1, 32)));
        assert_eq!(at(&trie, "2001:db9::"), None);
        let before = trie.clone();
        for p in ["2001:db8:1::/48", "2001:db8::/32", "2001:db8:1:2::3/128"] {
            let (k, l) = key(p);
            assert!(trie.remove(k, l));
            assert!(!trie.remove(k, l));
        }
        assert_eq!((trie.len(), trie.root.children), (0, 0));
        assert_eq!(
            at(&before, "2001:db8:1:2::3"),
            Some((2, 128)),
            "the old snapshot is unharmed"
        );
    }

    #[test]
    fn zero_length_and_shorter_limits() {
        let mut trie = Trie::default();
        trie.set(0, 0, 7);
        let (k, l) = key("8000::/1");
        trie.set(k, l, 8);
        assert_eq!(trie.lookup(u128::MAX, 128), Some((8, 1)));
        assert_eq!(trie.lookup(u128::MAX, 0), Some((7, 0)));
        assert_eq!(trie.lookup(0, 128), Some((7, 0)));
    }
}
