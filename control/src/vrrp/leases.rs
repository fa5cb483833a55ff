//! Which instance has which place on the board of leases.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane::addr::Addr;
use dataplane::lease::{Board, Leases, Slot};

use crate::config::vrrp::Vrrp;

/// Most instances that were ever configured by different names since the start.
const PLACES: u16 = 4096;

/// Places by the names of instances; a name keeps its place.
#[derive(Debug)]
pub struct LeaseBook {
    board: Arc<Board>,
    places: BTreeMap<String, Slot>,
}

impl Default for LeaseBook {
    fn default() -> LeaseBook {
        LeaseBook {
            board: Arc::new(Board::new(PLACES)),
            places: BTreeMap::new(),
        }
    }
}

impl LeaseBook {
    /// The board.
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    /// Gives every instance a place; what the workers have to know.
    pub fn enter(&mut self, config: &Vrrp) -> Leases {
        let mut addresses = Vec::new();
        let mut closed = Vec::new();
        for instance in &config.instances {
            let next = Slot(self.places.len() as u16);
            let slot = *self
                .places
                .entry(instance.machine.name.clone())
                .or_insert(next);
            let of = instance.addresses.iter();
            let of = of.map(|address| Addr::from(address.addr.addr));
            let machine = &instance.machine;
            if !machine.accept && !machine.is_owner() {
                closed.extend(of.clone());
            }
            addresses.extend(of.map(|addr| (addr, slot)));
        }
        Leases::new(self.board(), addresses).closing(closed)
    }

    /// The places.
    pub fn places(&self) -> BTreeMap<String, Slot> {
        self.places.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::vrrp::{Address, Instance};
    use vrrp::addr::Family;
    use vrrp::config::{Config, Key, VirtualAddress};

    fn instance(name: &str, last: u8) -> Instance {
        let mut machine = Config::new(Key {
            interface: 0,
            family: Family::V4,
            vrid: last,
        });
        machine.name = name.to_owned();
        Instance {
            machine,
            interface: "e0".to_owned(),
            source: None,
            addresses: vec![Address {
                addr: VirtualAddress::host([10, 0, 0, last].into()),
                device: "e0".to_owned(),
                scope: 0,
                label: None,
            }],
            routes: Vec::new(),
            rules: Vec::new(),
            sends_from_base: false,
            tracks_interface: true,
            track: Vec::new(),
        }
    }

    #[test]
    fn a_name_keeps_its_place() {
        let mut book = LeaseBook::default();
        let config = |names: &[(&str, u8)]| Vrrp {
            instances: names
                .iter()
                .map(|(name, last)| instance(name, *last))
                .collect(),
            ..Vrrp::default()
        };
        book.enter(&config(&[("a", 1), ("b", 2)]));
        let before = book.places();
        let leases = book.enter(&config(&[("c", 3), ("b", 4)]));
        let places = book.places();
        assert_eq!((places["b"], places["c"]), (before["b"], Slot(2)));
        let now = dataplane::time::Instant(5);
        book.board().end(places["b"]);
        assert!(leases.has_ended(Addr::v4([10, 0, 0, 4]), now));
        let mut hermits = config(&[("a", 1), ("b", 2), ("owner", 3)]);
        for instance in &mut hermits.instances[1..] {
            instance.machine.accept = false;
        }
        hermits.instances[2].machine.priority = vrrp::config::OWNER;
        let closed = book.enter(&hermits);
        let is_closed = |last| closed.is_closed(Addr::v4([10, 0, 0, last]));
        // An owner's addresses are its own (RFC 5798, 6.1).
        assert_eq!([1, 2, 3].map(is_closed), [false, true, false]);
        assert!(
            !leases.has_ended(Addr::v4([10, 0, 0, 2]), now),
            "no longer its address"
        );
    }
}
