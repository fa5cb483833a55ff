//! The destinations of a service, in order and by their endpoints.

use core::ops::Deref;
use core::slice;

use super::Destination;
use crate::addr::Endpoint;

/// A list that cannot be changed without what it is searched by. Made and dropped on the control
/// side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    list: Vec<Destination>,
    /// Positions in the list, by endpoint.
    by_endpoint: Box<[u32]>,
}

impl Destinations {
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

    /// Changes the list. Allocates.
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
        Destinations { list, by_endpoint }
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

    proptest! {
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
