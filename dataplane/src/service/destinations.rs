//! The destinations of a service, in order and by their endpoints.

use core::ops::{Deref, Range};
use core::slice;

use super::Destination;
use crate::addr::Endpoint;

/// A list that cannot be changed without what it is searched by. Made and dropped on the control
/// side.
#[derive(Clone, Debug, Default)]
pub struct Destinations {
    list: Vec<Destination>,
    /// Positions in the list, by endpoint.
    by_endpoint: Box<[u32]>,
    /// One more than the largest id.
    ids: u32,
    descent: Descent,
}

/// Which list this is, and which one it came from. A worker that has that one need not compare a
/// thousand destinations, none of which is in its caches.
#[derive(Clone, Copy, Debug, Default)]
struct Descent {
    /// No other list has it; 0 for none.
    number: u64,
    /// Number of the list before.
    before: u64,
    kept: Kept,
}

/// How many destinations at the beginning and at the end of a list are as they were in the list
/// before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    head: usize,
    /// None of those at the beginning.
    tail: usize,
    old_len: usize,
    len: usize,
}

impl Kept {
    /// All of it is new, or is to be looked at.
    pub fn nothing(old: &[Destination], new: &[Destination]) -> Kept {
        Kept {
            head: 0,
            tail: 0,
            old_len: old.len(),
            len: new.len(),
        }
    }

    /// Compares both lists.
    fn of(old: &[Destination], new: &[Destination]) -> Kept {
        let nothing = Kept::nothing(old, new);
        let same = |(a, b): &(&Destination, &Destination)| a == b;
        let head = old.iter().zip(new).take_while(same).count();
        let (old, new) = (old.iter().skip(head), new.iter().skip(head));
        let tail = old.rev().zip(new.rev()).take_while(same).count();
        Kept {
            head,
            tail,
            ..nothing
        }
    }

    /// Positions in the new list of those that are not kept.
    pub fn changed(self) -> Range<usize> {
        self.head..self.len - self.tail
    }

    /// Positions in the old list of those that are not kept.
    pub fn gone(self) -> Range<usize> {
        self.head..self.old_len - self.tail
    }

    /// Whether those at the end, too, stand where they stood.
    pub fn is_in_place(self) -> bool {
        self.len == self.old_len
    }

    /// Where a kept one at `at` of the new list stood in the old one.
    pub fn was(self, at: usize) -> Option<usize> {
        match at {
            _ if at < self.head => Some(at),
            _ if at + self.tail >= self.len => (at + self.old_len).checked_sub(self.len),
            _ => None,
        }
    }
}

impl PartialEq for Destinations {
    fn eq(&self, other: &Destinations) -> bool {
        self.list == other.list
    }
}

impl Eq for Destinations {}

impl Destinations {
    /// The same list, which says that it came after `before`. `number` is given once, and is not 0.
    pub fn numbered(mut self, number: u64, before: Option<&Destinations>) -> Destinations {
        self.descent = Descent {
            number,
            before: before.map_or(0, |before| before.descent.number),
            kept: before.map_or_else(Kept::default, |before| Kept::of(before, &self)),
        };
        self
    }

    /// What is as it was in `old`. Known if this came after it, looked at otherwise.
    pub fn kept_of(&self, old: &Destinations) -> Kept {
        if self.came_after(old) {
            self.descent.kept
        } else {
            Kept::of(old, self)
        }
    }

    /// Whether it is known that `before` was the list before this one.
    pub fn came_after(&self, before: &Destinations) -> bool {
        before.descent.number != 0 && before.descent.number == self.descent.before
    }

    /// One more than the largest [`DestId`](super::DestId) in it, 0 for an empty list.
    pub fn ids(&self) -> u32 {
        self.ids
    }

    /// The destination at an endpoint. The kernel looks through a hash table
    /// (`ip_vs_lookup_dest`, through all of a service's list).
    pub fn at(&self, endpoint: &Endpoint) -> Option<&Destination> {
        let of = |i: &u32| self.list.get(*i as usize);
        let first = self
            .by_endpoint
            .partition_point(|i| of(i).is_some_and(|dest| dest.endpoint < *endpoint));
        let found = self.by_endpoint.get(first).and_then(of)?;
        (found.endpoint == *endpoint).then_some(found)
    }

    /// Changes the list, which has no number then. Allocates.
    pub fn edit(&mut self, change: impl FnOnce(&mut Vec<Destination>)) {
        let mut list = core::mem::take(&mut self.list);
        change(&mut list);
        *self = list.into();
    }
}

impl From<Vec<Destination>> for Destinations {
    /// Allocates.
    fn from(list: Vec<Destination>) -> Destinations {
        let mut by_endpoint: Box<[u32]> = (0..).take(list.len()).collect();
        // Of two at one endpoint the first of the list is found.
        by_endpoint.sort_by_key(|&i| list[i as usize].endpoint);
        let ids = list.iter().map(|dest| dest.id.0.saturating_add(1)).max();
        Destinations {
            list,
            by_endpoint,
            ids: ids.unwrap_or(0),
            descent: Descent::default(),
        }
    }
}

impl FromIterator<Destination> for Destinations {
    fn from_iter<I: IntoIterator<Item = Destination>>(list: I) -> Destinations {
        Vec::from_iter(list).into()
    }
}

impl Deref for Destinations {
    type Target = [Destination];

    fn deref(&self) -> &[Destination] {
        &self.list
    }
}

impl<'a> IntoIterator for &'a Destinations {
    type Item = &'a Destination;
    type IntoIter = slice::Iter<'a, Destination>;

    fn into_iter(self) -> slice::Iter<'a, Destination> {
        self.list.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::addr::Addr;
    use crate::schedule::fixture;

    /// Some endpoints, few enough that a search meets them.
    fn endpoint(n: u8) -> Endpoint {
        let addr = match n & 1 {
            0 => Addr::v4([10, 0, n >> 4, n >> 2 & 1]),
            _ => Addr::v6([n >> 2 & 3; 16]),
        };
        Endpoint::new(addr, u16::from(n >> 1 & 1))
    }

    fn ids(list: &[Destination]) -> Vec<u32> {
        list.iter().map(|dest| dest.id.0).collect()
    }

    fn list(listed: &[(u32, u32)]) -> Destinations {
        let dest = |&(id, weight): &(u32, u32)| fixture::dest(id, weight);
        listed.iter().map(dest).collect()
    }

    #[test]
    fn a_change_keeps_what_it_does_not_change() {
        let old = list(&[(5, 1), (4, 1), (3, 1), (2, 1)]).numbered(7, None);
        for (new, of_old, of_new) in [
            (vec![(5, 1), (4, 1), (3, 1), (2, 1)], vec![], vec![]),
            (
                vec![(6, 1), (5, 1), (4, 1), (3, 1), (2, 1)],
                vec![],
                vec![6],
            ),
            (vec![(5, 1), (4, 2), (3, 1), (2, 1)], vec![4], vec![4]),
            (vec![(5, 1), (4, 1), (2, 1)], vec![3], vec![]),
            (vec![], vec![5, 4, 3, 2], vec![]),
        ] {
            let new = list(&new).numbered(8, Some(&old));
            let kept = new.kept_of(&old);
            assert_eq!(kept, Kept::of(&old, &new));
            assert_eq!(ids(&old[kept.gone()]), of_old);
            assert_eq!(ids(&new[kept.changed()]), of_new);
        }
    }

    /// A worker may have seen another list last than the one that it is told of.
    #[test]
    fn only_the_list_before_is_believed_to_be() {
        let first = list(&[(1, 1), (2, 1), (3, 1)]).numbered(1, None);
        let second = list(&[(1, 1), (2, 2), (3, 1)]).numbered(2, Some(&first));
        let third = list(&[(1, 3), (2, 2), (3, 1)]).numbered(3, Some(&second));
        assert!(third.came_after(&second) && !third.came_after(&first));
        assert_eq!(third.kept_of(&second).changed(), 0..1);
        assert_eq!(third.kept_of(&first).changed(), 0..2);
        assert_eq!(third.kept_of(&third).changed(), 3..3);
        let mut edited = third.clone();
        edited.edit(|list| list[2].weight = 9);
        assert_eq!(edited.kept_of(&second).changed(), 0..3);
        assert_eq!(third.kept_of(&edited).changed(), 2..3);
        assert_eq!(third.ids(), 4);
        assert_eq!(Destinations::default().ids(), 0);
    }

    proptest! {
        /// What is kept is the same in both lists, and nothing is kept twice.
        #[test]
        fn what_is_kept_is_the_same(
            old in proptest::collection::vec((0u32..6, 0u32..2), 0..8),
            new in proptest::collection::vec((0u32..6, 0u32..2), 0..8),
        ) {
            let (old, new) = (list(&old), list(&new));
            let kept = Kept::of(&old, &new);
            prop_assert_eq!(kept.gone().len() + kept.head + kept.tail, old.len());
            prop_assert_eq!(kept.changed().len() + kept.head + kept.tail, new.len());
            for (at, dest) in new.iter().enumerate() {
                let was = kept.was(at);
                prop_assert_eq!(was.is_none(), kept.changed().contains(&at));
                prop_assert!(was.is_none_or(|was| !kept.gone().contains(&was)));
                prop_assert!(was.is_none_or(|was| old[was] == *dest));
            }
        }

        #[test]
        fn found_as_by_looking_at_each(ends: Vec<u8>, more: Vec<u8>, wanted: [u8; 16]) {
            let service = fixture::service("rr", &[(1, 1)]);
            let some = &service.destinations[0];
            let dest = |end: &u8| Destination { endpoint: endpoint(*end), ..some.clone() };
            let mut list: Destinations = ends.iter().map(dest).collect();
            list.edit(|list| list.splice(0..0, more.iter().map(dest)).for_each(drop));
            prop_assert_eq!(list.len(), ends.len() + more.len());
            for end in wanted {
                let at = endpoint(end);
                let first = list.iter().find(|dest| dest.endpoint == at);
                let same = |a: &Destination, b: &Destination| core::ptr::eq(a, b);
                let found = list.at(&at);
                prop_assert_eq!(found, first);
                prop_assert!(found.zip(first).is_none_or(|(a, b)| same(a, b)));
            }
        }
    }
}
