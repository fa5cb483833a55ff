//! A worker's view of routing: the table, the links, the neighbours.

use std::sync::Arc;

use hashbrown::HashMap;

use super::failed::FailedHops;
use super::{Fib, Link, LinkId, Lookup, Neighbour, NeighbourId, Reject};
use crate::addr::{Addr, Mac};
use crate::packet::{Assist, PortId};
use crate::time::Instant;

/// Most links (ports and VLANs on them).
pub const MAX_LINKS: usize = 1024;

/// Ports whose NICs may help.
const MAX_ASSISTS: usize = 64;

/// All that is written into a frame or checked before it leaves: half a cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct ResolvedHop {
    /// Destination and source MAC, as they begin a frame.
    pub macs: [u8; 12],
    /// Where the frame leaves.
    pub port: PortId,
    /// VLAN id of the tag in the frame, 0 for none.
    pub vlan: u16,
    /// VLAN id of the tag that the NIC puts in, 0 for none.
    pub tci: u16,
    /// The link's MTU. A route may have a smaller one: [`Route::mtu`].
    pub mtu: u16,
    /// The link.
    pub link: u16,
    /// The link is up.
    pub up: bool,
    /// The neighbour exists.
    valid: bool,
    /// All of this and no tag in the frame: nothing more to ask before one leaves.
    pub is_plain: bool,
    /// The NIC works out UDP checksums.
    pub udp_sums: bool,
}

const _: () = assert!(size_of::<ResolvedHop>() == 32);

/// Why a destination cannot be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// It is this host.
    Local,
    /// No route.
    NoRoute,
    /// A blackhole, unreachable or prohibit route.
    Rejected(Reject),
    /// The route leaves by a device that is no twin.
    Foreign,
    /// The MAC is unknown; control is to be asked with `Event::Resolve`.
    NoNeighbour {
        /// The link it is on.
        link: LinkId,
        /// Gateway or destination.
        addr: Addr,
    },
    /// The link is down or unknown.
    PortDown,
}

/// A route with its neighbour found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// For [`Router::next_hop`].
    pub neighbour: NeighbourId,
    /// Largest IP packet on this route.
    pub mtu: u16,
    /// Source for packets of ours on this route, or unspecified.
    pub source: Addr,
}

/// Routing state of one worker. Allocates in `new` only.
#[derive(Debug)]
pub struct Router {
    fib: Arc<Fib>,
    links: Box<[Option<Link>]>,
    hops: Box<[ResolvedHop]>,
    /// Address of each neighbour, for removal from `ids`.
    addrs: Box<[Addr]>,
    ids: HashMap<(LinkId, Addr), NeighbourId>,
    failed: FailedHops,
    generation: u32,
    /// What the NICs of the first ports do.
    assists: [Assist; MAX_ASSISTS],
}

impl Router {
    /// No routes, no links, room for `max_neighbours`.
    pub fn new(max_neighbours: usize) -> Router {
        Router {
            fib: Arc::default(),
            links: vec![None; MAX_LINKS].into_boxed_slice(),
            hops: vec![ResolvedHop::default(); max_neighbours].into_boxed_slice(),
            addrs: vec![Addr::UNSPECIFIED; max_neighbours].into_boxed_slice(),
            // Twice the room: then tombstones are cleaned in place and it never grows.
            ids: HashMap::with_capacity(2 * max_neighbours),
            failed: FailedHops::default(),
            generation: 1,
            assists: [Assist::default(); MAX_ASSISTS],
        }
    }

    /// Has the NIC of a port do this from now on. Before its first link: hops that are known keep
    /// what they were made with. Ports beyond the 64th get no help.
    pub fn assist(&mut self, port: PortId, assist: Assist) {
        if let Some(slot) = self.assists.get_mut(usize::from(port.0)) {
            *slot = assist;
        }
    }

    /// What the NIC of a port does.
    fn assist_of(&self, link: Option<&Link>) -> Assist {
        let port = link.map_or(usize::MAX, |link| usize::from(link.port.0));
        self.assists.get(port).copied().unwrap_or_default()
    }

    /// Rises whenever an id got from [`Router::resolve`] may lead elsewhere now. A neighbour's
    /// new MAC does not count: its entry is changed in place. Never 0.
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// As [`Router::next_hop`], and only if frames to it are sent as they are.
    #[inline(always)]
    pub fn plain_hop(&self, id: NeighbourId) -> Option<&ResolvedHop> {
        self.hops.get(id.0 as usize).filter(|hop| hop.is_plain)
    }

    /// What is written into frames to this neighbour; `None` if it was deleted.
    #[inline(always)]
    pub fn next_hop(&self, id: NeighbourId) -> Option<&ResolvedHop> {
        self.hops.get(id.0 as usize).filter(|hop| hop.valid)
    }

    /// The neighbour that packets to `dst` go to.
    #[inline]
    pub fn resolve(&self, dst: Addr, hash: u32) -> Result<NeighbourId, Unresolved> {
        self.route(dst, hash).map(|route| route.neighbour)
    }

    /// The neighbour that packets to `dst` go to, with the route's MTU and source.
    pub fn route(&self, dst: Addr, hash: u32) -> Result<Route, Unresolved> {
        let hop = match self.fib.lookup(dst, hash) {
            Lookup::Via(hop) => hop,
            Lookup::Local => return Err(Unresolved::Local),
            Lookup::Reject(reject) => return Err(Unresolved::Rejected(reject)),
            Lookup::Foreign => return Err(Unresolved::Foreign),
            Lookup::None => return Err(Unresolved::NoRoute),
        };
        if !self.link(hop.link).is_some_and(|link| link.up) {
            return Err(Unresolved::PortDown);
        }
        let addr = hop.gateway.unwrap_or(dst);
        match self.ids.get(&(hop.link, addr)) {
            Some(&neighbour) => Ok(Route {
                neighbour,
                mtu: hop.mtu,
                source: hop.source,
            }),
            None => Err(Unresolved::NoNeighbour {
                link: hop.link,
                addr,
            }),
        }
    }

    /// The route alone, whether or not the neighbour is known.
    #[inline]
    pub fn lookup(&self, dst: Addr, hash: u32) -> Lookup<'_> {
        self.fib.lookup(dst, hash)
    }

    /// A link, if it was set.
    #[inline]
    pub fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.get(id.0 as usize)?.as_ref()
    }

    /// The neighbour at this address of a link.
    pub fn neighbour(&self, link: LinkId, addr: Addr) -> Option<NeighbourId> {
        self.ids.get(&(link, addr)).copied()
    }

    /// Swaps the table; the old one goes back to control.
    #[must_use = "the worker may not free it"]
    pub fn put_fib(&mut self, fib: Arc<Fib>) -> Arc<Fib> {
        self.invalidate();
        std::mem::replace(&mut self.fib, fib)
    }

    /// Sets a link and renews the hops on it.
    ///
    /// # Errors
    /// The id is beyond [`MAX_LINKS`]; nothing changed.
    pub fn put_link(&mut self, id: LinkId, link: Link) -> Result<(), &'static str> {
        let slot = self
            .links
            .get_mut(id.0 as usize)
            .ok_or("link id beyond MAX_LINKS")?;
        *slot = Some(link);
        let assist = self.assist_of(Some(&link));
        for hop in self
            .hops
            .iter_mut()
            .filter(|hop| hop.valid && hop.link == id.0)
        {
            hop.set_link(id, Some(&link), assist);
        }
        self.invalidate();
        Ok(())
    }

    /// Sets a neighbour. A new MAC at the same address is changed in place.
    ///
    /// # Errors
    /// The id is beyond the capacity; nothing changed.
    pub fn put_neighbour(&mut self, id: NeighbourId, new: Neighbour) -> Result<(), &'static str> {
        let at = id.0 as usize;
        let link = self.link(new.link).copied();
        let assist = self.assist_of(link.as_ref());
        let (Some(hop), Some(addr)) = (self.hops.get_mut(at), self.addrs.get_mut(at)) else {
            return Err("neighbour id beyond the capacity");
        };
        let old = hop.valid.then_some((LinkId(hop.link), *addr));
        *addr = new.addr;
        hop.macs[..6].copy_from_slice(&new.mac.0);
        hop.valid = true;
        hop.set_link(new.link, link.as_ref(), assist);
        self.failed.remove(new.link, new.addr);
        if old == Some((new.link, new.addr)) {
            return Ok(());
        }
        if let Some(old) = old {
            self.forget(old, id);
            self.invalidate();
        }
        self.ids.insert((new.link, new.addr), id);
        Ok(())
    }

    /// Forgets a neighbour.
    pub fn delete_neighbour(&mut self, id: NeighbourId) {
        let at = id.0 as usize;
        let (Some(hop), Some(addr)) = (self.hops.get_mut(at), self.addrs.get(at)) else {
            return;
        };
        if !hop.valid {
            return;
        }
        let old = (LinkId(hop.link), *addr);
        *hop = ResolvedHop::default();
        self.forget(old, id);
        self.invalidate();
    }

    /// The kernel asked a next hop for its MAC and got no answer.
    pub fn fail_neighbour(&mut self, now: Instant, link: LinkId, addr: Addr) {
        self.failed.insert(now, link, addr);
    }

    /// Whether the kernel got no answer from this next hop a moment ago.
    pub fn is_failed(&self, now: Instant, link: LinkId, addr: Addr) -> bool {
        self.failed.contains(now, link, addr)
    }

    /// Removes an address from the map, unless it belongs to another id by now.
    fn forget(&mut self, old: (LinkId, Addr), id: NeighbourId) {
        if self.ids.get(&old) == Some(&id) {
            self.ids.remove(&old);
        }
    }

    fn invalidate(&mut self) {
        self.generation = self.generation.wrapping_add(1).max(1);
    }
}

impl ResolvedHop {
    /// Destination MAC.
    pub fn dmac(&self) -> Mac {
        let [a, b, c, d, e, f, ..] = self.macs;
        Mac([a, b, c, d, e, f])
    }

    fn set_link(&mut self, id: LinkId, link: Option<&Link>, assist: Assist) {
        self.link = id.0;
        self.udp_sums = assist.udp_sums;
        match link {
            Some(link) => {
                self.macs[6..].copy_from_slice(&link.mac.0);
                self.port = link.port;
                (self.vlan, self.tci) = match assist.tags {
                    true => (0, link.vlan),
                    false => (link.vlan, 0),
                };
                (self.mtu, self.up) = (link.mtu, link.up);
            }
            None => self.up = false,
        }
        self.is_plain = self.valid && self.up && self.vlan == 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FibBuilder, NextHop, Target};
    use super::*;

    const A: Addr = Addr::v4([10, 0, 0, 1]);
    const GATEWAY: Addr = Addr::v4([10, 0, 0, 254]);
    const FAR: Addr = Addr::v4([192, 0, 2, 1]);

    fn link(up: bool) -> Link {
        Link {
            port: PortId(3),
            vlan: 7,
            mac: Mac([2; 6]),
            mtu: 1400,
            up,
        }
    }

    fn neighbour(addr: Addr, last: u8) -> Neighbour {
        Neighbour {
            link: LinkId(0),
            addr,
            mac: Mac([2, 0, 0, 0, 0, last]),
        }
    }

    fn router() -> Router {
        let hop = |gateway| NextHop {
            link: LinkId(0),
            gateway,
            mtu: 1300,
            source: A,
        };
        let fib = FibBuilder::new()
            .route(
                "0.0.0.0/0".parse().unwrap(),
                Target::Via(hop(Some(GATEWAY))),
            )
            .route("10.0.0.0/24".parse().unwrap(), Target::Via(hop(None)))
            .route("10.0.0.9".parse().unwrap(), Target::Local)
            .build();
        let mut router = Router::new(4);
        assert!(router.put_fib(Arc::new(fib)).is_empty());
        router
    }

    #[test]
    fn resolves_gateways_and_on_link_destinations() {
        let mut r = router();
        assert_eq!(r.resolve(FAR, 0), Err(Unresolved::PortDown));
        r.put_link(LinkId(0), link(true)).unwrap();
        assert_eq!(
            r.resolve(FAR, 0),
            Err(Unresolved::NoNeighbour {
                link: LinkId(0),
                addr: GATEWAY
            })
        );
        r.put_neighbour(NeighbourId(1), neighbour(GATEWAY, 1))
            .unwrap();
        r.put_neighbour(NeighbourId(2), neighbour(A, 2)).unwrap();
        assert_eq!(
            r.route(FAR, 0),
            Ok(Route {
                neighbour: NeighbourId(1),
                mtu: 1300,
                source: A
            })
        );
        assert_eq!(r.resolve(A, 0), Ok(NeighbourId(2)));
        assert_eq!(
            r.resolve(Addr::v4([10, 0, 0, 9]), 0),
            Err(Unresolved::Local)
        );
        let hop = r.next_hop(NeighbourId(2)).unwrap();
        assert_eq!(
            (hop.dmac().0[5], hop.port, hop.vlan, hop.mtu, hop.up),
            (2, PortId(3), 7, 1400, true)
        );
    }

    #[test]
    fn only_a_new_mac_keeps_the_generation() {
        let mut r = router();
        r.put_link(LinkId(0), link(true)).unwrap();
        r.put_neighbour(NeighbourId(1), neighbour(GATEWAY, 1))
            .unwrap();
        let generation = r.generation();
        r.put_neighbour(NeighbourId(1), neighbour(GATEWAY, 9))
            .unwrap();
        assert_eq!(r.generation(), generation);
        assert_eq!(r.next_hop(NeighbourId(1)).unwrap().dmac().0[5], 9);
        r.put_link(LinkId(0), link(false)).unwrap();
        assert!(!r.next_hop(NeighbourId(1)).unwrap().up);
        assert_eq!(r.resolve(FAR, 0), Err(Unresolved::PortDown));
        r.put_link(LinkId(0), link(true)).unwrap();
        let generation = r.generation();
        r.delete_neighbour(NeighbourId(1));
        assert_ne!(r.generation(), generation);
        assert_eq!(r.next_hop(NeighbourId(1)), None);
        assert!(r.resolve(FAR, 0).is_err());
    }

    #[test]
    fn an_id_may_move_to_another_address() {
        let mut r = router();
        r.put_link(LinkId(0), link(true)).unwrap();
        r.put_neighbour(NeighbourId(1), neighbour(GATEWAY, 1))
            .unwrap();
        r.put_neighbour(NeighbourId(2), neighbour(GATEWAY, 2))
            .unwrap();
        r.delete_neighbour(NeighbourId(1));
        assert_eq!(
            r.resolve(FAR, 0),
            Ok(NeighbourId(2)),
            "the newer id owns the address"
        );
        let generation = r.generation();
        r.put_neighbour(NeighbourId(2), neighbour(A, 2)).unwrap();
        assert_ne!(r.generation(), generation);
        assert_eq!(r.neighbour(LinkId(0), GATEWAY), None);
        assert!(r.put_neighbour(NeighbourId(4), neighbour(A, 2)).is_err());
        assert!(r.put_link(LinkId(MAX_LINKS as u16), link(true)).is_err());
    }
}
