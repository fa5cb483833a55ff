//! At which worker the packets of a client meet.
//!
//! Most services steer by the client's endpoint: its packets to the service and the replies to it
//! both show it. A persistent service has to meet all connections of a masked client, FTP and
//! marks those of a client's address, whatever the port. A reply shows no more than the real
//! server's endpoint and the client, so services that share a real server, or an address of
//! which one takes every port, form one *class*. All of a class steer by the widest mask that a
//! member needs; then request and reply agree without asking anybody.
//!
//! A change of rules may give an endpoint another mask while connections are open. They stay
//! where they are, and the class is *unsettled* for as long: what its owner does not know, the
//! other workers are asked for in turn before it counts as new.

use hashbrown::HashMap;

use crate::addr::{Addr, Endpoint, Family};
use crate::route::Prefix;
use crate::service::{Persistence, Protocol, ServiceKey};

/// Port of FTP's control connections.
const FTP: u16 = 21;

/// How packets of a class are steered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// What of the client's address counts, as bits of its sixteen bytes; its port does not.
    /// `None`: the whole endpoint.
    pub mask: Option<u128>,
    /// Connections may live where an earlier mask had them.
    pub unsettled: bool,
}

impl Class {
    const PLAIN: Class = Class {
        mask: None,
        unsettled: false,
    };
}

/// A service, or a real server that was deleted from one, and all that shows it in a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// By what its clients have to meet; `None`: the whole endpoint will do.
    pub mask: Option<u128>,
    /// Virtual and real endpoints with their IP protocol; port 0 is every port.
    pub endpoints: Vec<(u8, Endpoint)>,
    /// Destinations that rules give the service's mark.
    pub marked: Vec<Prefix>,
}

impl Member {
    /// What a service needs that has these real servers; `marked` is where its mark is given.
    pub fn of_service(
        key: &ServiceKey,
        persistence: Option<&Persistence>,
        servers: impl IntoIterator<Item = Endpoint>,
        marked: Vec<Prefix>,
    ) -> Member {
        let only = key.protocol();
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let protocols = protocols.map(|p| (p.number(), only.is_none_or(|only| only == p)));
        // One connection's data come to and from other ports than its own.
        let is_ftp = only == Some(Protocol::Tcp) && key.port() == FTP;
        let every_port = is_ftp || key.port() == 0;
        let by_address = every_port.then_some(u128::MAX);
        let servers = servers.into_iter().map(|real| {
            let port = if every_port { 0 } else { real.port };
            Endpoint::new(real.addr, port)
        });
        let virtual_ = key.endpoint().map(|vip| {
            let port = if every_port { 0 } else { vip.port };
            Endpoint::new(vip.addr, port)
        });
        let ends: Vec<Endpoint> = servers.chain(virtual_).collect();
        let endpoints = protocols
            .into_iter()
            .filter(|(_, counts)| *counts)
            .flat_map(|(protocol, _)| ends.iter().map(move |end| (protocol, *end)))
            .collect();
        Member {
            mask: persistence
                .map(|p| client_mask(key.family(), p.mask))
                .or(by_address),
            endpoints,
            marked,
        }
    }
}

/// The mask of a persistent service's clients as bits of an address's sixteen bytes.
fn client_mask(family: Family, mask: u32) -> u128 {
    match family {
        Family::V4 => !u128::from(u32::MAX) | u128::from(mask),
        Family::V6 => u128::MAX.checked_shl(128 - mask.min(128)).unwrap_or(0),
    }
}

/// An endpoint in the table.
type Key = (u8, Addr, u16);

/// Addresses from the first to the last one, as numbers.
type Range = (u128, u128);

/// Which endpoint is of which class. Read-only: control builds it anew on every change.
#[derive(Clone, Debug, Default)]
pub struct Steering {
    /// Endpoints; port 0 stands for every port of an address, and then no other one is there.
    exact: HashMap<Key, Class>,
    /// Marked addresses by family, sorted and apart from each other.
    marked: [Vec<(Range, Class)>; 2],
    /// Whether any class is another than [`Class::PLAIN`], and whether any is unsettled: workers ask
    /// when they take a table over, and have no time to look through it.
    is_classed: bool,
    is_unsettled: bool,
}

impl Steering {
    /// The classes of these services.
    pub fn build(members: &[Member]) -> Steering {
        let mut sets = Sets::new(members.len());
        let mut marked = [Family::V4, Family::V6].map(|family| join_ranges(members, family));
        for ranges in &marked {
            for (_, (of, others)) in ranges {
                others.iter().for_each(|other| sets.join(*of, *other));
            }
        }
        let ranges = |addr: &Addr| {
            let ranges = &marked[usize::from(addr.family() == Family::V6)];
            find_range(ranges, addr).map(|(_, (of, _))| *of)
        };
        // An address of which somebody takes every port is one endpoint.
        let whole: hashbrown::HashSet<(u8, Addr)> = members
            .iter()
            .flat_map(|m| &m.endpoints)
            .filter(|(_, end)| end.port == 0)
            .map(|(protocol, end)| (*protocol, end.addr))
            .collect();
        let mut first: HashMap<Key, usize> = HashMap::new();
        for (number, member) in members.iter().enumerate() {
            for (protocol, end) in &member.endpoints {
                let is_whole = whole.contains(&(*protocol, end.addr));
                let port = if is_whole { 0 } else { end.port };
                let other = *first.entry((*protocol, end.addr, port)).or_insert(number);
                sets.join(number, other);
                if let Some(of_range) = ranges(&end.addr) {
                    sets.join(number, of_range);
                }
            }
        }
        let mut masks: Vec<Option<u128>> = vec![None; members.len()];
        for (number, member) in members.iter().enumerate() {
            let of_set = &mut masks[sets.find(number)];
            *of_set = match (*of_set, member.mask) {
                (Some(a), Some(b)) => Some(a & b),
                (a, b) => a.or(b),
            };
        }
        let mut class = |number| Class {
            mask: masks[sets.find(number)],
            unsettled: false,
        };
        let steering = Steering {
            exact: first.iter().map(|(key, n)| (*key, class(*n))).collect(),
            marked: marked.each_mut().map(|ranges| {
                let all = ranges.drain(..);
                all.map(|(range, (of, _))| (range, class(of))).collect()
            }),
            ..Steering::default()
        };
        steering.summed_up()
    }

    fn summed_up(mut self) -> Steering {
        let is_classed = self.classes().any(|class| class != Class::PLAIN);
        let is_unsettled = self.classes().any(|class| class.unsettled);
        (self.is_classed, self.is_unsettled) = (is_classed, is_unsettled);
        self
    }

    /// The same after `before` was in force: what is steered in another way now is unsettled, and
    /// so is what was. `settled`: no connection is where an earlier table had it.
    #[must_use]
    pub fn after(mut self, before: &Steering, settled: bool) -> Steering {
        let moved = |old: &Class, new: &Class| old.unsettled && !settled || old.mask != new.mask;
        for ((protocol, addr, port), class) in &mut self.exact {
            class.unsettled = if *port == 0 {
                let mut old = before.of_address(*protocol, addr);
                old.any(|old| moved(&old, class))
            } else {
                let old = before.find(*protocol, addr, *port);
                old.is_some_and(|old| moved(&old, class))
            };
        }
        for (family, ranges) in [Family::V4, Family::V6].into_iter().zip(&mut self.marked) {
            for (range, class) in ranges {
                let mut old = before.of_range(family, *range);
                class.unsettled = old.any(|old| moved(&old, class));
            }
        }
        self.summed_up()
    }

    /// The same where endpoints unknown to the table before may have had connections, steered by
    /// their clients' endpoints: what is steered in another way now is unsettled.
    #[must_use]
    pub fn after_unknown(mut self) -> Steering {
        let marked = self.marked.iter_mut().flatten().map(|(_, class)| class);
        for class in self.exact.values_mut().chain(marked) {
            class.unsettled |= class.mask != Class::PLAIN.mask;
        }
        self.summed_up()
    }

    /// How packets to and from an endpoint are steered.
    pub fn class(&self, protocol: u8, addr: &Addr, port: u16) -> Class {
        self.find(protocol, addr, port).unwrap_or(Class::PLAIN)
    }

    /// Whether every endpoint is steered by its client's endpoint, and always was.
    pub fn is_plain(&self) -> bool {
        !self.is_classed
    }

    /// Whether some class is unsettled.
    pub fn is_unsettled(&self) -> bool {
        self.is_unsettled
    }

    fn classes(&self) -> impl Iterator<Item = Class> + '_ {
        let marked = self.marked.iter().flatten().map(|(_, class)| *class);
        self.exact.values().copied().chain(marked)
    }

    fn find(&self, protocol: u8, addr: &Addr, port: u16) -> Option<Class> {
        let exact = |port| self.exact.get(&(protocol, *addr, port)).copied();
        let marked = || {
            let ranges = &self.marked[usize::from(addr.family() == Family::V6)];
            find_range(ranges, addr).map(|(_, class)| *class)
        };
        exact(port).or_else(|| exact(0)).or_else(marked)
    }

    /// All that was known about ports of an address.
    fn of_address(&self, protocol: u8, addr: &Addr) -> impl Iterator<Item = Class> + use<'_> {
        let addr = *addr;
        let any = self.find(protocol, &addr, 0);
        let exact = self.exact.iter();
        exact
            .filter(move |((p, a, _), _)| (*p, *a) == (protocol, addr))
            .map(|(_, class)| *class)
            .chain(any)
    }

    /// All that was known about addresses of a range.
    fn of_range(
        &self,
        family: Family,
        (first, last): Range,
    ) -> impl Iterator<Item = Class> + use<'_> {
        let is_in = move |addr: &Addr| {
            let bits = u128::from_be_bytes(addr.octets());
            addr.family() == family && (first..=last).contains(&bits)
        };
        let exact = self.exact.iter();
        let marked = self.marked[usize::from(family == Family::V6)].iter();
        exact
            .filter(move |((_, addr, _), _)| is_in(addr))
            .map(|(_, class)| *class)
            .chain(
                marked
                    .filter(move |((from, to), _)| *from <= last && first <= *to)
                    .map(|(_, class)| *class),
            )
    }
}

fn find_range<'a, T>(ranges: &'a [(Range, T)], addr: &Addr) -> Option<&'a (Range, T)> {
    let bits = u128::from_be_bytes(addr.octets());
    let at = ranges.partition_point(|((first, _), _)| *first <= bits);
    let found = ranges.get(at.checked_sub(1)?)?;
    (bits <= found.0.1).then_some(found)
}

/// A range of marked addresses: one member that it is of, and the others.
type OfMembers = (Range, (usize, Vec<usize>));

/// The marked addresses of a family. Prefixes are in each other or apart: the outermost ones.
fn join_ranges(members: &[Member], family: Family) -> Vec<OfMembers> {
    let mut all: Vec<(Range, usize)> = Vec::new();
    for (number, member) in members.iter().enumerate() {
        let of_family = member.marked.iter().filter(|p| p.addr().family() == family);
        all.extend(of_family.map(|prefix| (range(prefix), number)));
    }
    all.sort_unstable_by_key(|((first, last), _)| (*first, core::cmp::Reverse(*last)));
    let mut joined: Vec<OfMembers> = Vec::new();
    for (range, number) in all {
        match joined.last_mut() {
            Some(((_, last), (_, others))) if range.0 <= *last => others.push(number),
            _ => joined.push((range, (number, Vec::new()))),
        }
    }
    joined
}

fn range(prefix: &Prefix) -> Range {
    let bits = match prefix.addr().family() {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let first = u128::from_be_bytes(prefix.addr().octets());
    let hosts = 1u128
        .checked_shl(u32::from(bits - prefix.len()))
        .map_or(u128::MAX, |n| n - 1);
    (first, first | hosts)
}

/// Disjoint sets of members.
struct Sets(Vec<usize>);

impl Sets {
    fn new(count: usize) -> Sets {
        Sets((0..count).collect())
    }

    fn find(&mut self, mut at: usize) -> usize {
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TCP: u8 = 6;

    fn end(text: &str) -> Endpoint {
        let at: core::net::SocketAddr = text.parse().unwrap();
        Endpoint::new(at.ip().into(), at.port())
    }

    fn service(vip: &str, mask: Option<u32>, servers: &[&str]) -> Member {
        let key = ServiceKey::new(Protocol::Tcp, end(vip));
        let persistence = mask.map(|mask| Persistence {
            timeout: 60,
            mask,
            engine: None,
        });
        let servers = servers.iter().map(|s| end(s));
        Member::of_service(&key, persistence.as_ref(), servers, Vec::new())
    }

    fn mark(prefix: &str, servers: &[&str]) -> Member {
        let key = ServiceKey::Mark {
            family: Family::V4,
            mark: 1,
        };
        let servers = servers.iter().map(|s| end(s));
        Member::of_service(&key, None, servers, vec![prefix.parse().unwrap()])
    }

    fn mask(table: &Steering, at: &str) -> Option<u32> {
        let at = end(at);
        let class = table.class(TCP, &at.addr, at.port);
        class.mask.map(|mask| mask as u32)
    }

    #[test]
    fn plain_services_are_steered_by_the_clients_endpoint() {
        let table = Steering::build(&[
            service("10.0.0.1:80", None, &["10.1.0.1:80", "10.1.0.2:80"]),
            service("10.0.0.2:80", None, &["10.1.0.1:80"]),
        ]);
        assert!(table.is_plain());
        assert_eq!(mask(&table, "10.0.0.1:80"), None);
    }

    #[test]
    fn who_shares_a_server_shares_the_widest_mask() {
        let table = Steering::build(&[
            service("10.0.0.1:80", None, &["10.1.0.1:80", "10.1.0.2:80"]),
            service("10.0.0.2:80", Some(0xffff_ff00), &["10.1.0.2:80"]),
            service(
                "10.0.0.3:80",
                Some(0xffff_0000),
                &["10.1.0.2:80", "10.1.0.3:80"],
            ),
            service("10.0.0.4:80", Some(0xffff_fff0), &["10.1.0.4:80"]),
            service("10.0.0.5:80", None, &["10.1.0.2:81"]),
        ]);
        for at in ["10.0.0.1:80", "10.0.0.2:80", "10.1.0.1:80", "10.1.0.3:80"] {
            assert_eq!(mask(&table, at), Some(0xffff_0000), "{at}");
        }
        assert_eq!(mask(&table, "10.1.0.4:80"), Some(0xffff_fff0));
        assert_eq!(mask(&table, "10.1.0.2:81"), None);
        // Another protocol's.
        assert_eq!(table.class(17, &end("10.0.0.1:80").addr, 80), Class::PLAIN);
    }

    #[test]
    fn ftp_and_port_zero_take_whole_addresses() {
        let table = Steering::build(&[
            service("10.0.0.1:21", None, &["10.1.0.1:21"]),
            service("10.0.0.1:80", None, &["10.1.0.2:80"]),
            service("10.0.0.2:80", None, &["10.1.0.1:80"]),
            service("10.0.0.3:0", Some(0xffff_ff00), &["10.1.0.3:0"]),
            service("10.0.0.4:80", None, &["10.1.0.4:80"]),
        ]);
        for at in [
            "10.0.0.1:21",
            "10.0.0.1:40000",
            "10.1.0.1:20",
            "10.0.0.2:80",
            "10.1.0.2:80",
        ] {
            assert_eq!(mask(&table, at), Some(u32::MAX), "{at}");
        }
        for at in ["10.0.0.3:1", "10.1.0.3:65535"] {
            assert_eq!(mask(&table, at), Some(0xffff_ff00), "{at}");
        }
        assert_eq!(mask(&table, "10.0.0.4:80"), None);
    }

    #[test]
    fn marked_addresses_take_in_what_is_among_them() {
        let table = Steering::build(&[
            mark("10.0.0.0/24", &["10.1.0.1:0"]),
            mark("10.0.0.128/25", &["10.1.0.2:80"]),
            service("10.0.0.7:80", None, &["10.1.0.3:80"]),
            service("10.0.1.7:80", None, &["10.1.0.4:80"]),
        ]);
        let by_address = [
            "10.0.0.200:9",
            "10.0.0.7:80",
            "10.1.0.3:80",
            "10.1.0.1:5",
            "10.1.0.2:5",
        ];
        for at in by_address {
            assert_eq!(mask(&table, at), Some(u32::MAX), "{at}");
        }
        assert_eq!(mask(&table, "10.0.1.7:80"), None);
    }

    #[test]
    fn what_is_steered_in_another_way_is_unsettled_until_it_is_said_to_be_settled() {
        let one = service("10.0.0.1:80", None, &["10.1.0.1:80"]);
        let other = service("10.0.0.2:80", None, &["10.1.0.2:80"]);
        let sticky = service("10.0.0.3:80", Some(0xffff_ff00), &["10.1.0.1:80"]);
        let before = Steering::build(&[one.clone(), other.clone()]);
        let members = [one, other, sticky];
        let unsettled = |table: &Steering, at: &str| {
            let at = end(at);
            table.class(TCP, &at.addr, at.port).unsettled
        };
        let after = Steering::build(&members).after(&before, false);
        for (at, want) in [
            ("10.0.0.1:80", true),
            ("10.1.0.1:80", true),
            ("10.0.0.2:80", false),
            // New ones have no connections.
            ("10.0.0.3:80", false),
        ] {
            assert_eq!(unsettled(&after, at), want, "{at}");
        }
        let same = Steering::build(&members).after(&after, false);
        assert!(unsettled(&same, "10.0.0.1:80"));
        let settled = Steering::build(&members).after(&same, true);
        assert!(!settled.is_unsettled());
        // And back: plain, but not settled.
        let back = Steering::build(&members[..2]).after(&settled, true);
        assert!(unsettled(&back, "10.1.0.1:80") && !back.is_plain());
    }

    #[test]
    fn a_port_of_an_address_that_was_or_becomes_one_is_noticed() {
        let ftp = [service("10.0.0.1:21", None, &["10.1.0.1:21"])];
        let web = [service("10.0.0.1:80", None, &["10.1.0.1:80"])];
        let marked = [mark("10.0.0.0/24", &["10.1.9.9:0"])];
        let (ftp, web) = (Steering::build(&ftp), Steering::build(&web));
        let marked = Steering::build(&marked);
        assert!(ftp.clone().after(&web, true).is_unsettled());
        assert!(web.clone().after(&ftp, true).is_unsettled());
        assert!(marked.clone().after(&web, true).is_unsettled());
        assert!(web.after(&marked, true).is_unsettled());
    }

    fn any_end() -> impl Strategy<Value = Endpoint> {
        let port = prop::sample::select(vec![0u16, 20, 21, 80, 81, 5000]);
        (0u8..2, 0u8..4, port)
            .prop_map(|(net, host, port)| Endpoint::new(Addr::v4([10, net, 0, host]), port))
    }

    fn any_member() -> impl Strategy<Value = (ServiceKey, Vec<Endpoint>, Member)> {
        let mask = prop::option::of((8u32..=32).prop_map(|len| u32::MAX << (32 - len)));
        let servers = prop::collection::vec(any_end(), 0..3);
        let mark = prop::option::of((0u8..2, 0u8..4, 29u8..=32));
        (any_end(), mask, servers, mark, any::<bool>()).prop_map(
            |(vip, mask, servers, mark, udp)| {
                let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
                let (key, marked) = match mark {
                    None => (ServiceKey::new(protocol, vip), Vec::new()),
                    Some((net, host, len)) => {
                        let prefix = Prefix::new(Addr::v4([10, net, 0, host]), len);
                        let family = Family::V4;
                        (
                            ServiceKey::Mark { family, mark: 1 },
                            prefix.into_iter().collect(),
                        )
                    }
                };
                let persistence = mask.map(|mask| Persistence {
                    timeout: 9,
                    mask,
                    engine: None,
                });
                let member =
                    Member::of_service(&key, persistence.as_ref(), servers.clone(), marked);
                (key, servers, member)
            },
        )
    }

    proptest! {
        /// Whatever shows a service in a packet tells the same class, wide enough for it.
        #[test]
        fn requests_and_replies_agree(services in prop::collection::vec(any_member(), 1..8)) {
            let members: Vec<Member> = services.iter().map(|(.., m)| m.clone()).collect();
            let table = Steering::build(&members);
            for (key, servers, member) in &services {
                let every_port = key.port() == 0
                    || key.port() == 21 && key.protocol() == Some(Protocol::Tcp);
                let ports = |port: u16| if every_port { vec![1, 20, 80, 7000] } else { vec![port] };
                let mut seen = Vec::new();
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    if key.protocol().is_some_and(|p| p != protocol) {
                        continue;
                    }
                    let vip = key.endpoint().into_iter();
                    for end in servers.iter().copied().chain(vip) {
                        let ports = ports(end.port).into_iter();
                        seen.extend(ports.map(|p| table.class(protocol.number(), &end.addr, p)));
                    }
                    for prefix in &member.marked {
                        seen.push(table.class(protocol.number(), &prefix.addr(), 4000));
                    }
                }
                for class in &seen {
                    prop_assert_eq!(class, &seen[0]);
                    let (have, need) = (class.mask, member.mask);
                    prop_assert!(need.is_none_or(|need| have.is_some_and(|m| m & need == m)));
                }
            }
        }
    }
}
