//! Addresses of devices, for the choice of a source.

use std::collections::HashMap;

use dataplane::addr::{Addr, Family};

use super::message::{Address, IfIndex};

/// Scope of addresses that other hosts may see.
const SCOPE_GLOBAL: u8 = 0;

/// All addresses, by device, in the kernel's order.
#[derive(Debug, Default)]
pub struct Addresses {
    by_device: HashMap<IfIndex, Vec<Address>>,
}

impl Addresses {
    /// Sets an address; true if something changed.
    pub fn put(&mut self, new: Address) -> bool {
        let all = self.by_device.entry(new.index).or_default();
        match all.iter_mut().find(|a| is_same(a, &new)) {
            Some(old) if *old == new => return false,
            Some(old) => *old = new,
            None => all.push(new),
        }
        true
    }

    /// Forgets an address; true if it was there.
    pub fn remove(&mut self, gone: &Address) -> bool {
        let Some(all) = self.by_device.get_mut(&gone.index) else {
            return false;
        };
        let before = all.len();
        all.retain(|a| !is_same(a, gone));
        all.len() != before
    }

    /// Forgets the addresses for which `keep` is false; true if there were any.
    pub fn retain(&mut self, keep: impl Fn(&Address) -> bool) -> bool {
        let mut lost = false;
        for all in self.by_device.values_mut() {
            let before = all.len();
            all.retain(&keep);
            lost |= all.len() != before;
        }
        self.by_device.retain(|_, all| !all.is_empty());
        lost
    }

    /// Whether a device has an address of this family.
    pub fn any(&self, index: IfIndex, family: Family) -> bool {
        self.of(index, family).next().is_some()
    }

    /// The address that the host uses as a source on this device: the first of the widest
    /// scope; if it has none that others may see, one of another device among `others`.
    pub fn source(&self, index: IfIndex, family: Family, others: &[IfIndex]) -> Addr {
        let best = |index| {
            self.of(index, family)
                .filter(|a| a.preferred)
                .min_by_key(|a| a.scope)
        };
        let own = best(index);
        let borrowed = || {
            let mut all = others.iter().filter_map(|other| best(*other));
            all.find(|a| a.scope == SCOPE_GLOBAL)
        };
        match own {
            Some(a) if a.scope == SCOPE_GLOBAL => Some(a),
            _ => borrowed().or(own),
        }
        .map_or(Addr::UNSPECIFIED, |a| a.addr)
    }

    fn of(&self, index: IfIndex, family: Family) -> impl Iterator<Item = &Address> {
        let all = self.by_device.get(&index).map_or(&[][..], Vec::as_slice);
        all.iter().filter(move |a| a.addr.family() == family)
    }
}

fn is_same(a: &Address, b: &Address) -> bool {
    (a.index, a.addr, a.prefix_len) == (b.index, b.addr, b.prefix_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(index: IfIndex, last: u8, scope: u8, preferred: bool) -> Address {
        let addr = Addr::v4([10, 0, index as u8, last]);
        Address {
            index,
            addr,
            prefix_len: 24,
            scope,
            preferred,
        }
    }

    #[test]
    fn the_first_of_the_widest_scope_or_a_borrowed_one() {
        let mut a = Addresses::default();
        assert_eq!(a.source(1, Family::V4, &[]), Addr::UNSPECIFIED);
        a.put(address(1, 1, 253, true));
        a.put(address(2, 9, 0, true));
        assert_eq!(a.source(1, Family::V4, &[2]), Addr::v4([10, 0, 2, 9]));
        assert_eq!(a.source(1, Family::V4, &[]), Addr::v4([10, 0, 1, 1]));
        a.put(address(1, 2, 0, false));
        a.put(address(1, 3, 0, true));
        a.put(address(1, 4, 0, true));
        assert_eq!(a.source(1, Family::V4, &[2]), Addr::v4([10, 0, 1, 3]));
        assert!(a.remove(&address(1, 3, 0, true)));
        assert_eq!(a.source(1, Family::V4, &[2]), Addr::v4([10, 0, 1, 4]));
        assert_eq!(a.source(1, Family::V6, &[2]), Addr::UNSPECIFIED);
    }
}
