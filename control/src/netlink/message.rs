//! What the kernel says, in our own words: routing-netlink messages as plain values.

use dataplane::addr::{Addr, Family, Mac};
use dataplane::route::{Prefix, Reject};

use super::wire::{
    Attributes, Frame, NLM_F_APPEND, NLM_F_REPLACE, read_text, read_u8, read_u16, read_u32,
};

/// The kernel's index of a network device.
pub type IfIndex = u32;

/// Table numbers that every kernel has.
pub const TABLE_MAIN: u32 = 254;
/// Addresses of this host, kept by the kernel.
pub const TABLE_LOCAL: u32 = 255;

/// One notification or one row of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A device appeared or changed.
    Link(Device),
    /// A device is gone.
    LinkGone(IfIndex),
    /// An address appeared or changed.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route appeared.
    Route(Route, Placement),
    /// A route is gone.
    RouteGone(Route),
    /// A nexthop object appeared or changed.
    NextHop(u32, NextHopObject),
    /// A nexthop object is gone.
    NextHopGone(u32),
    /// A neighbour appeared or changed.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Neighbour),
    /// An `ip rule` appeared.
    Rule(Rule),
    /// An `ip rule` is gone.
    RuleGone(Rule),
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: IfIndex,
    /// Its name.
    pub name: String,
    /// Its Ethernet address, zero if it has none.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
    /// Administratively up.
    pub admin_up: bool,
    /// Has a carrier.
    pub carrier: bool,
    /// The device it is enslaved to (a VRF or bridge), 0 for none.
    pub master: IfIndex,
    /// What it is.
    pub kind: DeviceKind,
}

/// What a device is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// An 802.1Q VLAN on another device.
    Vlan {
        /// That device.
        parent: IfIndex,
        /// The VLAN id.
        id: u16,
    },
    /// A MAC of its own on another device.
    Macvlan {
        /// That device.
        parent: IfIndex,
    },
    /// A VRF.
    Vrf {
        /// Its table.
        table: u32,
    },
    /// The loopback device.
    Loopback,
    /// Anything else.
    Other,
}

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The device.
    pub index: IfIndex,
    /// The address.
    pub addr: Addr,
    /// Length of its network's prefix.
    pub prefix_len: u8,
    /// Its scope, 0 (global) to 254 (host): less is wider.
    pub scope: u8,
    /// Whether the kernel would choose it as a source: no secondary (IPv4), not tentative,
    /// failed or deprecated (IPv6).
    pub preferred: bool,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// Forward.
    Unicast,
    /// Ours.
    Local,
    /// Ours too, but no address of ours: broadcast or anycast.
    Group,
    /// blackhole, unreachable, prohibit or throw.
    Reject(Reject),
}

/// One way of a route or nexthop object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    /// The device, 0 if the way cannot be mirrored (an encapsulation of the kernel's).
    pub index: IfIndex,
    /// The router, if the destination is not on the device's network.
    pub gateway: Option<Addr>,
    /// Its share, 1 to 65536.
    pub weight: u32,
}

/// The ways of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hops {
    /// A nexthop object.
    Object(u32),
    /// Written out.
    List(Vec<Hop>),
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The table it is in.
    pub table: u32,
    /// Its destination.
    pub prefix: Prefix,
    /// What it does.
    pub kind: RouteKind,
    /// Its metric: less is better.
    pub metric: u32,
    /// Preferred source address.
    pub source: Option<Addr>,
    /// Its own MTU.
    pub mtu: Option<u32>,
    /// Where to.
    pub hops: Hops,
}

/// Where a new route stands among those of the same prefix and metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Before them.
    First,
    /// In the place of one.
    Replace,
    /// After them.
    Last,
}

/// What a nexthop object stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHopObject {
    /// One way.
    Hop(Hop),
    /// Nothing gets through.
    Blackhole,
    /// Others, with their shares.
    Group(Vec<(u32, u32)>),
}

/// How far a neighbour's address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// The MAC may be used: reachable, stale, delay, probe, permanent.
    Usable(Mac),
    /// Being asked for.
    Incomplete,
    /// Did not answer.
    Failed,
}

/// A neighbour of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The device.
    pub index: IfIndex,
    /// Its address.
    pub addr: Addr,
    /// What is known of it.
    pub state: Reachability,
}

/// A rule that chooses a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its family.
    pub family: Family,
    /// Its place in the order.
    pub priority: u32,
    /// The table it leads to, 0 for none.
    pub table: u32,
    /// It asks for nothing but, perhaps, a device.
    pub unconditional: bool,
    /// As `ip rule` prints it.
    pub text: String,
}

// Message types (linux/rtnetlink.h).
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTM_DELNEIGH: u16 = 29;
pub(crate) const RTM_GETNEIGH: u16 = 30;
pub(crate) const RTM_NEWRULE: u16 = 32;
pub(crate) const RTM_DELRULE: u16 = 33;
pub(crate) const RTM_GETRULE: u16 = 34;
pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;
pub(crate) const RTM_GETNEXTHOP: u16 = 106;

pub(crate) const AF_UNSPEC: u8 = 0;
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

/// Reads one message; `None` if it is of no interest or malformed.
pub fn parse(frame: &Frame<'_>) -> Option<Message> {
    let body = frame.body;
    Some(match frame.kind {
        RTM_NEWLINK => Message::Link(device(body)?),
        RTM_DELLINK => Message::LinkGone(device(body)?.index),
        RTM_NEWADDR => Message::Address(address(body)?),
        RTM_DELADDR => Message::AddressGone(address(body)?),
        RTM_NEWROUTE => Message::Route(route(body)?, placement(frame.flags)),
        RTM_DELROUTE => Message::RouteGone(route(body)?),
        RTM_NEWNEIGH => Message::Neighbour(neighbour(body)?),
        RTM_DELNEIGH => Message::NeighbourGone(neighbour(body)?),
        RTM_NEWRULE => Message::Rule(rule(body)?),
        RTM_DELRULE => Message::RuleGone(rule(body)?),
        RTM_NEWNEXTHOP => {
            let (id, object) = next_hop(body)?;
            Message::NextHop(id, object)
        }
        RTM_DELNEXTHOP => Message::NextHopGone(next_hop(body)?.0),
        _ => return None,
    })
}

/// In a dump (no flag set) rows come in the kernel's own order.
fn placement(flags: u16) -> Placement {
    if flags & NLM_F_REPLACE != 0 {
        Placement::Replace
    } else if flags & super::wire::NLM_F_CREATE != 0 && flags & NLM_F_APPEND == 0 {
        Placement::First
    } else {
        Placement::Last
    }
}

/// `struct ifinfomsg`: family, type u16 at 2, index at 4, flags at 8.
fn device(body: &[u8]) -> Option<Device> {
    const LEN: usize = 16;
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    const IFLA_LINK: u16 = 5;
    const IFLA_MASTER: u16 = 10;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_LINK_NETNSID: u16 = 37;
    const IFF_UP: u32 = 1;
    const IFF_LOOPBACK: u32 = 8;
    const IFF_LOWER_UP: u32 = 1 << 16;

    // Bridges send messages of their own about their ports.
    if read_u8(body, 0)? != AF_UNSPEC {
        return None;
    }
    let flags = read_u32(body, 8)?;
    let mut device = Device {
        index: read_u32(body, 4)?,
        name: String::new(),
        mac: Mac::default(),
        mtu: 0,
        admin_up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        master: 0,
        kind: DeviceKind::Other,
    };
    let (mut parent, mut info, mut elsewhere) = (0, None, false);
    for (kind, value) in Attributes::after(body, LEN) {
        match kind {
            IFLA_ADDRESS => device.mac = value.try_into().map(Mac).unwrap_or_default(),
            IFLA_IFNAME => device.name = read_text(value),
            IFLA_MTU => device.mtu = read_u32(value, 0)?,
            IFLA_LINK => parent = read_u32(value, 0)?,
            IFLA_MASTER => device.master = read_u32(value, 0)?,
            IFLA_LINKINFO => info = Some(value),
            IFLA_LINK_NETNSID => elsewhere = true,
            _ => {}
        }
    }
    if flags & IFF_LOOPBACK != 0 {
        device.kind = DeviceKind::Loopback;
    } else if let (Some(info), false) = (info, elsewhere) {
        device.kind = device_kind(info, parent);
    }
    Some(device)
}

fn device_kind(info: &[u8], parent: IfIndex) -> DeviceKind {
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const IFLA_VLAN_ID: u16 = 1;
    const IFLA_VLAN_PROTOCOL: u16 = 5;
    const IFLA_VRF_TABLE: u16 = 1;
    const ETH_P_8021Q: [u8; 2] = [0x81, 0x00];

    let data = Attributes(info).find(IFLA_INFO_DATA).unwrap_or(&[]);
    let find = |kind| Attributes(data).find(kind);
    match Attributes(info)
        .find(IFLA_INFO_KIND)
        .map(read_text)
        .as_deref()
    {
        Some("vlan") if find(IFLA_VLAN_PROTOCOL).is_none_or(|p| p == ETH_P_8021Q) => {
            match find(IFLA_VLAN_ID).and_then(|v| read_u16(v, 0)) {
                Some(id) => DeviceKind::Vlan { parent, id },
                None => DeviceKind::Other,
            }
        }
        Some("macvlan") => DeviceKind::Macvlan { parent },
        Some("vrf") => match find(IFLA_VRF_TABLE).and_then(|v| read_u32(v, 0)) {
            Some(table) => DeviceKind::Vrf { table },
            None => DeviceKind::Other,
        },
        _ => DeviceKind::Other,
    }
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index at 4.
fn address(body: &[u8]) -> Option<Address> {
    const LEN: usize = 8;
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_FLAGS: u16 = 8;
    const IFA_F_SECONDARY: u32 = 0x01;
    const IFA_F_DADFAILED: u32 = 0x08;
    const IFA_F_DEPRECATED: u32 = 0x20;
    const IFA_F_TENTATIVE: u32 = 0x40;
    const UNUSED: u32 = IFA_F_SECONDARY | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE;

    let mut flags = u32::from(read_u8(body, 2)?);
    let (mut address, mut local) = (None, None);
    for (kind, value) in Attributes::after(body, LEN) {
        match kind {
            IFA_ADDRESS => address = addr(value),
            IFA_LOCAL => local = addr(value),
            IFA_FLAGS => flags = read_u32(value, 0)?,
            _ => {}
        }
    }
    Some(Address {
        index: read_u32(body, 4)?,
        // On a point-to-point device IFA_ADDRESS is the peer's.
        addr: local.or(address)?,
        prefix_len: read_u8(body, 1)?,
        scope: read_u8(body, 3)?,
        preferred: flags & UNUSED == 0,
    })
}

/// `struct rtmsg`: family, dst_len, src_len, tos, table, protocol, scope, type, flags at 8.
fn route(body: &[u8]) -> Option<Route> {
    const LEN: usize = 12;
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const RTA_PRIORITY: u16 = 6;
    const RTA_PREFSRC: u16 = 7;
    const RTA_METRICS: u16 = 8;
    const RTA_MULTIPATH: u16 = 9;
    const RTA_TABLE: u16 = 15;
    const RTA_VIA: u16 = 18;
    const RTA_ENCAP: u16 = 22;
    const RTA_NH_ID: u16 = 30;
    const RTAX_MTU: u16 = 2;
    const RTM_F_CLONED: u32 = 0x200;

    let family = family(read_u8(body, 0)?)?;
    // Cached routes, and routes for one source or type of service only, are not mirrored.
    if read_u32(body, 8)? & RTM_F_CLONED != 0 || read_u8(body, 2)? != 0 || read_u8(body, 3)? != 0 {
        return None;
    }
    let kind = match read_u8(body, 7)? {
        1 => RouteKind::Unicast,
        2 => RouteKind::Local,
        3 | 4 => RouteKind::Group,
        6 => RouteKind::Reject(Reject::Blackhole),
        7 => RouteKind::Reject(Reject::Unreachable),
        8 => RouteKind::Reject(Reject::Prohibit),
        9 => RouteKind::Reject(Reject::Throw),
        _ => return None,
    };
    let mut table = u32::from(read_u8(body, 4)?);
    let mut dst = match family {
        Family::V4 => Addr::v4([0; 4]),
        Family::V6 => Addr::UNSPECIFIED,
    };
    let (mut metric, mut source, mut mtu) = (0, None, None);
    let (mut object, mut list) = (None, None);
    let mut single = Hop {
        index: 0,
        gateway: None,
        weight: 1,
    };
    let mut encapsulated = false;
    for (kind, value) in Attributes::after(body, LEN) {
        match kind {
            RTA_DST => dst = addr(value)?,
            RTA_OIF => single.index = read_u32(value, 0)?,
            RTA_GATEWAY => single.gateway = addr(value),
            RTA_VIA => single.gateway = via(value),
            RTA_PRIORITY => metric = read_u32(value, 0)?,
            RTA_PREFSRC => source = addr(value),
            RTA_METRICS => {
                mtu = Attributes(value)
                    .find(RTAX_MTU)
                    .and_then(|v| read_u32(v, 0));
            }
            RTA_MULTIPATH => list = Some(multipath(value)),
            RTA_TABLE => table = read_u32(value, 0)?,
            RTA_ENCAP => encapsulated = true,
            RTA_NH_ID => object = read_u32(value, 0),
            _ => {}
        }
    }
    if encapsulated {
        single.index = 0;
    }
    Some(Route {
        table,
        prefix: Prefix::new(dst, read_u8(body, 1)?)?,
        kind,
        metric,
        source,
        mtu,
        hops: match object {
            Some(id) => Hops::Object(id),
            None => Hops::List(list.unwrap_or_else(|| vec![single])),
        },
    })
}

/// `struct rtnexthop`: length u16, flags, hops (weight - 1), index at 4; then attributes.
fn multipath(mut rest: &[u8]) -> Vec<Hop> {
    const LEN: usize = 8;
    const RTA_GATEWAY: u16 = 5;
    const RTA_VIA: u16 = 18;
    const RTA_ENCAP: u16 = 22;

    let mut hops = Vec::new();
    while let (Some(len), Some(weight), Some(index)) =
        (read_u16(rest, 0), read_u8(rest, 3), read_u32(rest, 4))
    {
        let Some(entry) = rest.get(..usize::from(len)).filter(|e| e.len() >= LEN) else {
            break;
        };
        let mut hop = Hop {
            index,
            gateway: None,
            weight: u32::from(weight) + 1,
        };
        for (kind, value) in Attributes::after(entry, LEN) {
            match kind {
                RTA_GATEWAY => hop.gateway = addr(value),
                RTA_VIA => hop.gateway = via(value),
                RTA_ENCAP => hop.index = 0,
                _ => {}
            }
        }
        hops.push(hop);
        rest = rest
            .get(usize::from(len).next_multiple_of(4)..)
            .unwrap_or(&[]);
    }
    hops
}

/// `struct nhmsg`, then attributes.
fn next_hop(body: &[u8]) -> Option<(u32, NextHopObject)> {
    const LEN: usize = 8;
    const NHA_ID: u16 = 1;
    const NHA_GROUP: u16 = 2;
    const NHA_BLACKHOLE: u16 = 4;
    const NHA_OIF: u16 = 5;
    const NHA_GATEWAY: u16 = 6;
    const NHA_ENCAP: u16 = 8;

    let mut id = None;
    let mut hop = Hop {
        index: 0,
        gateway: None,
        weight: 1,
    };
    let (mut group, mut blackhole, mut encapsulated) = (None, false, false);
    for (kind, value) in Attributes::after(body, LEN) {
        match kind {
            NHA_ID => id = read_u32(value, 0),
            NHA_GROUP => group = Some(next_hop_group(value)),
            NHA_BLACKHOLE => blackhole = true,
            NHA_OIF => hop.index = read_u32(value, 0)?,
            NHA_GATEWAY => hop.gateway = addr(value),
            NHA_ENCAP => encapsulated = true,
            _ => {}
        }
    }
    if encapsulated {
        hop.index = 0;
    }
    let object = match group {
        Some(members) => NextHopObject::Group(members),
        None if blackhole => NextHopObject::Blackhole,
        None => NextHopObject::Hop(hop),
    };
    Some((id?, object))
}

/// `struct nexthop_grp`: id, weight - 1, its upper byte, two reserved.
fn next_hop_group(value: &[u8]) -> Vec<(u32, u32)> {
    let member = |m: &[u8]| {
        let weight = u32::from(*m.get(4)?) | u32::from(*m.get(5)?) << 8;
        Some((read_u32(m, 0)?, weight + 1))
    };
    value.chunks_exact(8).filter_map(member).collect()
}

/// `struct ndmsg`: family, index at 4, state u16 at 8, flags at 10, type at 11.
fn neighbour(body: &[u8]) -> Option<Neighbour> {
    const LEN: usize = 12;
    const NDA_DST: u16 = 1;
    const NDA_LLADDR: u16 = 2;
    const NTF_PROXY: u8 = 8;
    const NUD_INCOMPLETE: u16 = 0x01;
    const NUD_FAILED: u16 = 0x20;
    /// Reachable, stale, delay, probe, permanent.
    const NUD_USABLE: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;

    family(read_u8(body, 0)?)?;
    if read_u8(body, 10)? & NTF_PROXY != 0 {
        return None;
    }
    let (mut dst, mut mac) = (None, None);
    for (kind, value) in Attributes::after(body, LEN) {
        match kind {
            NDA_DST => dst = addr(value),
            NDA_LLADDR => mac = value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    let dst = dst.filter(|dst| !dst.is_multicast())?;
    let state = match (read_u16(body, 8)?, mac) {
        (state, Some(mac)) if state & NUD_USABLE != 0 => Reachability::Usable(mac),
        (state, _) if state & NUD_FAILED != 0 => Reachability::Failed,
        (state, _) if state & NUD_INCOMPLETE != 0 || state == 0 => Reachability::Incomplete,
        _ => return None,
    };
    Some(Neighbour {
        index: read_u32(body, 4)?,
        addr: dst,
        state,
    })
}

/// `struct fib_rule_hdr`: family, dst_len, src_len, tos, table, two reserved, action, flags.
fn rule(body: &[u8]) -> Option<Rule> {
    const LEN: usize = 12;
    const FRA_DST: u16 = 1;
    const FRA_SRC: u16 = 2;
    const FRA_IIFNAME: u16 = 3;
    const FRA_PRIORITY: u16 = 6;
    const FRA_FWMARK: u16 = 10;
    const FRA_SUPPRESS_IFGROUP: u16 = 13;
    const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
    const FRA_TABLE: u16 = 15;
    const FRA_OIFNAME: u16 = 17;
    const FRA_L3MDEV: u16 = 19;
    const FRA_UID_RANGE: u16 = 20;
    const FRA_IP_PROTO: u16 = 22;
    const FRA_SPORT_RANGE: u16 = 23;
    const FRA_DPORT_RANGE: u16 = 24;
    const FR_ACT_TO_TBL: u8 = 1;
    const FIB_RULE_INVERT: u32 = 2;
    const NO_SUPPRESSION: u32 = u32::MAX;

    let family = family(read_u8(body, 0)?)?;
    let (dst_len, src_len, tos) = (read_u8(body, 1)?, read_u8(body, 2)?, read_u8(body, 3)?);
    let mut table = u32::from(read_u8(body, 4)?);
    let action = read_u8(body, 7)?;
    let mut priority = 0;
    let mut parts = vec![];
    let mut from = String::from("all");
    let mut vrf = false;
    let mut unconditional = dst_len == 0 && src_len == 0 && tos == 0 && action == FR_ACT_TO_TBL;
    if read_u32(body, 8)? & FIB_RULE_INVERT != 0 {
        unconditional = false;
        parts.push(String::from("not"));
    }
    let mut condition = |text: String, parts: &mut Vec<String>| {
        unconditional = false;
        parts.push(text);
    };
    for (kind, value) in Attributes::after(body, LEN) {
        match kind {
            FRA_PRIORITY => priority = read_u32(value, 0)?,
            FRA_TABLE => table = read_u32(value, 0)?,
            FRA_SRC => from = format!("{}/{src_len}", addr(value)?),
            FRA_DST => parts.push(format!("to {}/{dst_len}", addr(value)?)),
            FRA_IIFNAME => parts.push(format!("iif {}", read_text(value))),
            FRA_OIFNAME => parts.push(format!("oif {}", read_text(value))),
            FRA_L3MDEV => vrf = read_u8(value, 0)? != 0,
            FRA_FWMARK if read_u32(value, 0)? != 0 => {
                condition(format!("fwmark {:#x}", read_u32(value, 0)?), &mut parts);
            }
            FRA_SUPPRESS_PREFIXLEN if read_u32(value, 0)? != NO_SUPPRESSION => {
                let len = read_u32(value, 0)?;
                condition(format!("suppress_prefixlength {len}"), &mut parts);
            }
            FRA_SUPPRESS_IFGROUP if read_u32(value, 0)? != NO_SUPPRESSION => {
                condition(String::from("suppress_ifgroup"), &mut parts);
            }
            FRA_UID_RANGE => condition(String::from("uidrange"), &mut parts),
            FRA_IP_PROTO => condition(String::from("ipproto"), &mut parts),
            FRA_SPORT_RANGE => condition(String::from("sport"), &mut parts),
            FRA_DPORT_RANGE => condition(String::from("dport"), &mut parts),
            _ => {}
        }
    }
    let mut text = format!("from {from}");
    for part in &parts {
        text = format!("{text} {part}");
    }
    text = match action {
        _ if vrf => format!("{text} lookup [l3mdev-table]"),
        FR_ACT_TO_TBL => format!("{text} lookup {}", table_name(table)),
        2 => format!("{text} goto"),
        6 => format!("{text} blackhole"),
        7 => format!("{text} unreachable"),
        8 => format!("{text} prohibit"),
        other => format!("{text} action {other}"),
    };
    // VRFs need this one rule; which VRF is ours is the configuration's to say.
    let table = if vrf { 0 } else { table };
    Some(Rule {
        family,
        priority,
        table,
        unconditional,
        text,
    })
}

fn table_name(table: u32) -> String {
    match table {
        253 => String::from("default"),
        TABLE_MAIN => String::from("main"),
        TABLE_LOCAL => String::from("local"),
        number => number.to_string(),
    }
}

/// `struct rtvia`: family u16, then the address.
fn via(value: &[u8]) -> Option<Addr> {
    addr(value.get(2..)?)
}

fn addr(value: &[u8]) -> Option<Addr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(Addr::v4(v4));
    }
    value.try_into().ok().map(Addr::v6)
}

fn family(number: u8) -> Option<Family> {
    match number {
        AF_INET => Some(Family::V4),
        AF_INET6 => Some(Family::V6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Frames, Request};
    use super::*;

    fn parsed(kind: u16, flags: u16, fixed: &[u8], attributes: &[(u16, &[u8])]) -> Option<Message> {
        let request = Request::new(kind, flags, 0, fixed);
        let bytes = attributes
            .iter()
            .fold(request, |r, (k, v)| r.with(*k, v))
            .finish();
        let frame = Frames(&bytes).next().unwrap();
        for cut in 0..frame.body.len() {
            let _ = parse(&Frame {
                body: &frame.body[..cut],
                ..frame
            });
        }
        parse(&frame)
    }

    fn nested(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let request = Request::new(0, 0, 0, &[]);
        attributes
            .iter()
            .fold(request, |r, (k, v)| r.with(*k, v))
            .finish()[16..]
            .to_vec()
    }

    #[test]
    fn a_vlan_device() {
        let mut fixed = [0u8; 16];
        fixed[4..8].copy_from_slice(&9u32.to_ne_bytes());
        fixed[8..12].copy_from_slice(&(1u32 | 1 << 16).to_ne_bytes());
        let data = nested(&[(1, &100u16.to_ne_bytes()), (5, &[0x81, 0])]);
        let info = nested(&[(1, b"vlan\0"), (2, &data)]);
        let message = parsed(
            RTM_NEWLINK,
            0,
            &fixed,
            &[
                (3, b"lan.100\0"),
                (4, &1500u32.to_ne_bytes()),
                (5, &4u32.to_ne_bytes()),
                (18, &info),
            ],
        );
        let Some(Message::Link(device)) = message else {
            panic!("{message:?}")
        };
        assert_eq!(
            (device.index, device.name.as_str(), device.mtu),
            (9, "lan.100", 1500)
        );
        assert!(device.admin_up && device.carrier);
        assert_eq!(device.kind, DeviceKind::Vlan { parent: 4, id: 100 });
    }

    #[test]
    fn a_multipath_route_with_an_ipv6_gateway() {
        let v6 = Addr::from("fe80::1".parse::<std::net::Ipv6Addr>().unwrap());
        let via = [&10u16.to_ne_bytes()[..], &v6.octets()].concat();
        let hop = |weight: u8, index: u32, attribute: (u16, &[u8])| {
            let attributes = nested(&[attribute]);
            let len = 8 + attributes.len() as u16;
            [
                &len.to_ne_bytes()[..],
                &[0, weight],
                &index.to_ne_bytes(),
                &attributes,
            ]
            .concat()
        };
        let multipath = [hop(0, 3, (5, &[10, 0, 0, 1])), hop(4, 5, (18, &via))].concat();
        let fixed = [AF_INET, 8, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
        let message = parsed(
            RTM_NEWROUTE,
            super::super::wire::NLM_F_CREATE,
            &fixed,
            &[
                (1, &[10, 0, 0, 0]),
                (6, &20u32.to_ne_bytes()),
                (9, &multipath),
            ],
        );
        let Some(Message::Route(route, Placement::First)) = message else {
            panic!("{message:?}")
        };
        assert_eq!(
            (route.prefix.to_string().as_str(), route.metric),
            ("10.0.0.0/8", 20)
        );
        let first = Hop {
            index: 3,
            gateway: Some(Addr::v4([10, 0, 0, 1])),
            weight: 1,
        };
        let second = Hop {
            index: 5,
            gateway: Some(v6),
            weight: 5,
        };
        assert_eq!(route.hops, Hops::List(vec![first, second]));
    }

    #[test]
    fn a_nexthop_group() {
        let group = [
            &1u32.to_ne_bytes()[..],
            &[0, 0, 0, 0],
            &2u32.to_ne_bytes(),
            &[9, 1, 0, 0],
        ];
        let message = parsed(
            RTM_NEWNEXTHOP,
            0,
            &[0; 8],
            &[(1, &7u32.to_ne_bytes()), (2, &group.concat())],
        );
        let group = NextHopObject::Group(vec![(1, 1), (2, 266)]);
        assert_eq!(message, Some(Message::NextHop(7, group)));
    }

    #[test]
    fn neighbours_by_state() {
        let state = |state: u16, mac: &[u8]| {
            let mut fixed = [0u8; 12];
            fixed[0] = AF_INET;
            fixed[8..10].copy_from_slice(&state.to_ne_bytes());
            match parsed(RTM_NEWNEIGH, 0, &fixed, &[(1, &[10, 0, 0, 1]), (2, mac)]) {
                Some(Message::Neighbour(n)) => Some(n.state),
                None => None,
                other => panic!("{other:?}"),
            }
        };
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        for usable in [2, 4, 8, 16, 128] {
            assert_eq!(state(usable, &mac.0), Some(Reachability::Usable(mac)));
        }
        assert_eq!(state(0x20, &mac.0), Some(Reachability::Failed));
        assert_eq!(state(1, &[]), Some(Reachability::Incomplete));
        assert_eq!(
            state(0x40, &mac.0),
            None,
            "NOARP entries have nothing to resolve"
        );
    }

    #[test]
    fn rules_are_told_apart_and_printed() {
        let rule = |fixed: [u8; 12], attributes: &[(u16, &[u8])]| match parsed(
            RTM_NEWRULE,
            0,
            &fixed,
            attributes,
        ) {
            Some(Message::Rule(rule)) => rule,
            other => panic!("{other:?}"),
        };
        let plain = rule([AF_INET, 0, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0], &[]);
        assert!(plain.unconditional);
        assert_eq!(plain.text, "from all lookup main");
        let source = rule(
            [AF_INET, 0, 8, 0, 0, 0, 0, 1, 0, 0, 0, 0],
            &[
                (2, &[10, 0, 0, 0]),
                (15, &100u32.to_ne_bytes()),
                (6, &5u32.to_ne_bytes()),
            ],
        );
        assert!(!source.unconditional);
        assert_eq!(
            (source.priority, source.text.as_str()),
            (5, "from 10.0.0.0/8 lookup 100")
        );
    }
}
