//! What is balanced: virtual services and their destinations, as validated by the control side.

mod destinations;

pub use self::destinations::{Destinations, Kept};

use crate::addr::{Endpoint, Family};

/// Stable number of a service, given by control; index of per-service state on every worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// Stable number of a destination, given by control; index of its counters on every worker.
/// It survives removal while connections are left (the kernel's trash).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestId(pub u32);

impl DestId {
    /// Of a connection without a destination.
    pub const NONE: DestId = DestId(u32::MAX);
}

/// Balanced transport protocols, by IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

impl Protocol {
    /// IP protocol number.
    #[inline(always)]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// From the IP protocol number.
    #[inline(always)]
    pub const fn from_number(n: u8) -> Option<Protocol> {
        match n {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            132 => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// Name as ipvsadm prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}

/// What a service is looked up by (`ip_vs_service_find`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKey {
    /// Packets to an endpoint.
    Endpoint {
        /// Transport protocol.
        protocol: Protocol,
        /// Virtual address and port; port 0 is every port that no other service has.
        endpoint: Endpoint,
    },
    /// Packets that a rule gave a firewall mark, whatever their protocol.
    Mark {
        /// Family of the packets.
        family: Family,
        /// The mark, never 0.
        mark: u32,
    },
}

impl ServiceKey {
    /// Key of a service with an address.
    pub const fn new(protocol: Protocol, endpoint: Endpoint) -> ServiceKey {
        ServiceKey::Endpoint { protocol, endpoint }
    }

    /// Family of its packets.
    pub fn family(&self) -> Family {
        match self {
            ServiceKey::Endpoint { endpoint, .. } => endpoint.addr.family(),
            ServiceKey::Mark { family, .. } => *family,
        }
    }

    /// Its protocol; a mark has none.
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            ServiceKey::Endpoint { protocol, .. } => Some(*protocol),
            ServiceKey::Mark { .. } => None,
        }
    }

    /// Its address and port; a mark has none.
    pub fn endpoint(&self) -> Option<Endpoint> {
        match self {
            ServiceKey::Endpoint { endpoint, .. } => Some(*endpoint),
            ServiceKey::Mark { .. } => None,
        }
    }

    /// Its port as the kernel has it: 0 for a mark.
    pub fn port(&self) -> u16 {
        self.endpoint().map_or(0, |e| e.port)
    }

    /// Its mark, 0 for none.
    pub fn mark(&self) -> u32 {
        match self {
            ServiceKey::Endpoint { .. } => 0,
            ServiceKey::Mark { mark, .. } => *mark,
        }
    }
}

/// How packets reach a destination. The numbers are the kernel's connection flags 0..=4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ForwardingMethod {
    /// NAT: the destination address and port are rewritten, replies come back through us.
    Masquerade = 0,
    /// The destination is this host: handed to the kernel.
    Local = 1,
    /// IP-in-IP: the packet is carried inside an outer one, replies go to the client directly.
    Tunnel = 2,
    /// Direct routing: only the destination MAC changes, replies go to the client directly.
    DirectRoute = 3,
    /// No destination: the packet goes to its own (`cache_bypass`). Connections have it, servers
    /// never do.
    Bypass = 4,
}

impl ForwardingMethod {
    /// From the number stored in entries.
    #[inline(always)]
    pub const fn from_number(n: u8) -> ForwardingMethod {
        match n {
            0 => ForwardingMethod::Masquerade,
            2 => ForwardingMethod::Tunnel,
            3 => ForwardingMethod::DirectRoute,
            4 => ForwardingMethod::Bypass,
            _ => ForwardingMethod::Local,
        }
    }

    /// Name in ipvsadm's listing.
    pub const fn name(self) -> &'static str {
        match self {
            ForwardingMethod::Masquerade => "Masq",
            ForwardingMethod::Local => "Local",
            ForwardingMethod::Tunnel => "Tunnel",
            ForwardingMethod::DirectRoute => "Route",
            ForwardingMethod::Bypass => "Bypass",
        }
    }
}

/// A real server inside one service, with its effective weight (operator state, configured
/// weight and health are folded into it by control).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Stable id.
    pub id: DestId,
    /// Real address and port. Port 0: the packet's own port is kept.
    pub endpoint: Endpoint,
    /// Forwarding method given to new connections.
    pub method: ForwardingMethod,
    /// Effective weight; 0 = quiesced: no new connections.
    pub weight: u32,
    /// The last weight that was not 0, or 0 if there never was one: a server that is taken out
    /// for a while keeps its share of `mh`'s table.
    pub last_weight: u32,
    /// Upper threshold of active + inactive connections, 0 = none.
    pub upper: u32,
    /// Lower threshold, 0 = three quarters of `upper`.
    pub lower: u32,
    /// How packets are wrapped if `method` is a tunnel.
    pub tunnel: Tunnel,
}

/// What a tunnel is made of (`ip_vs_dest.tun_type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// IP in IP.
    #[default]
    IpIp,
    /// GUE: UDP with a four-byte header.
    Gue,
    /// GRE.
    Gre,
}

/// Checksum of the tunnel's own header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelChecksum {
    /// None.
    #[default]
    None,
    /// Over the whole packet.
    Full,
    /// GUE's remote checksum; packets that pass through have a full one.
    Remote,
}

/// How packets to a destination are wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// Kind of tunnel.
    pub kind: TunnelKind,
    /// UDP port of GUE, 0 for the others.
    pub port: u16,
    /// Checksum of GUE and GRE.
    pub checksum: TunnelChecksum,
}

/// Flags that a scheduler reads on each choice (`IP_VS_SVC_F_SCHED1`, `IP_VS_SVC_F_SCHED2`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SchedulerFlags {
    /// `sh-fallback`, `mh-fallback`: another destination for one that takes no connection.
    pub fallback: bool,
    /// `sh-port`, `mh-port`: the client's port counts too.
    pub port: bool,
}

/// A persistence engine: it tells clients apart by what is in their packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// The Call-ID of SIP messages in UDP.
    Sip,
}

impl Engine {
    /// All of them.
    pub const ALL: [Engine; 1] = [Engine::Sip];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Engine::Sip => "sip",
        }
    }

    /// The one of this name.
    pub fn find(name: &str) -> Option<Engine> {
        Engine::ALL.into_iter().find(|engine| engine.name() == name)
    }
}

/// Clients stay with their destination (`-p`, `-M`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// Timeout of templates, seconds.
    pub timeout: u32,
    /// IPv4: the netmask of clients that go together, host order. IPv6: its prefix length.
    pub mask: u32,
    /// What else tells clients apart (`--pe`).
    pub engine: Option<Engine>,
}

/// Timeouts of one service's connections in place of the common ones (`Settings::timeouts`), in
/// seconds; 0 is the common one. The kernel has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceTimeouts {
    /// TCP ESTABLISHED.
    pub tcp: u32,
    /// TCP FIN_WAIT.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
    /// SCTP ESTABLISHED.
    pub sctp: u32,
}

/// What of a service does not identify it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceOptions {
    /// One-packet scheduling (`-o`, UDP only).
    pub one_packet: bool,
    /// Flags of the scheduler (`-b`).
    pub flags: SchedulerFlags,
    /// Persistence.
    pub persistence: Option<Persistence>,
    /// Timeouts of its connections.
    pub timeouts: ServiceTimeouts,
}

/// A virtual service as the workers run it: immutable, replaced whole on any change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    /// Stable id.
    pub id: ServiceId,
    /// What it is looked up by.
    pub key: ServiceKey,
    /// Name of the scheduler, one of `schedule::SCHEDULERS`.
    pub scheduler: &'static str,
    /// Everything else that it was told.
    pub options: ServiceOptions,
    /// In the kernel's list order: the newest destination first. Schedulers depend on it.
    pub destinations: Destinations,
    /// Those that are out of service, of which the scheduler knows nothing, and what becomes of the
    /// connections that they have.
    pub withdrawn: Vec<(Destination, Withdrawal)>,
}

impl VirtualService {
    /// Every destination of which it may have connections.
    pub fn all(&self) -> impl Iterator<Item = (&Destination, Option<Withdrawal>)> {
        let listed = self.destinations.iter().map(|dest| (dest, None));
        let withdrawn = self.withdrawn.iter().map(|(dest, how)| (dest, Some(*how)));
        listed.chain(withdrawn)
    }
}

/// How a destination is out of service. Other than with weight 0, templates do not lead there, and
/// a packet that can go elsewhere does: one that opens a connection, and every one of a UDP flow.
/// The kernel has no such thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// It failed: established connections may go on while they can.
    Failed,
    /// Its time is over: what is left of its connections ends soon.
    Over,
}
