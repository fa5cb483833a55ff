//! The frames: what a client or a real server would send, written into the buffers of a null port.
//!
//! A [`Visit`] is what differs between the packets of two connections, twelve bytes; the rest
//! comes from a template. Visits lie in memory in the (random) order in which connections are
//! to be hit, so that the generator itself reads straight on and costs little over a nanosecond.

use dataplane::packet::{Packet, Verdict};
use dpdk::poll::Probe;

use crate::audit::Expect;
use crate::rig::SERVERS;

/// SYN in the flags byte of TCP.
pub const SYN: u8 = 0x02;
/// ACK.
pub const ACK: u8 = 0x10;

/// The first of this many bursts is checked byte by byte after the walk.
const SAMPLE: u32 = 4096;

/// Packets of a burst.
const BURST: usize = 32;

/// A client's address (its last 32 bits) and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Host order.
    pub addr: u32,
    /// Host order.
    pub port: u16,
    /// Number of the real server that its connection was given; [`OPENS`] if this is its first
    /// packet.
    pub server: u8,
}

/// In the place of a real server's number: the packet opens a connection.
pub const OPENS: u8 = SERVERS as u8;

impl Client {
    /// The `i`-th client, all different: 10.0.0.0/8 (or the last 32 bits of an IPv6 address)
    /// and ports from 1024 on, scattered.
    pub fn number(i: u32) -> Client {
        // An odd factor modulo 2^38 is a bijection.
        let x = u64::from(i).wrapping_mul(0x1b_54a3_2d19_2ed3) & ((1 << 38) - 1);
        Client {
            addr: 0x0a00_0000 | (x >> 14) as u32,
            port: 1024 + (x & 0x3fff) as u16,
            server: 0,
        }
    }
}

/// A template's fields that are patched, all in network order.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    addr: [u8; 4],
    port: [u8; 2],
    ip_sum: [u8; 2],
    tcp_sum: [u8; 2],
    server: u8,
}

impl Visit {
    /// The client.
    pub fn client(&self) -> Client {
        Client {
            addr: u32::from_be_bytes(self.addr),
            port: u16::from_be_bytes(self.port),
            server: self.server,
        }
    }
}

/// Where a kind of frame is patched; `LEN` bytes long, FCS not counted.
pub trait Shape<const LEN: usize>: Copy + Send + 'static {
    /// Last four bytes of the client's address.
    const ADDR: usize;
    /// The client's port.
    const PORT: usize;
    /// IPv4 header checksum, 0 for none.
    const IP_SUM: usize;
    /// TCP checksum.
    const TCP_SUM: usize;
    /// The last 16 bits of the service's address are these bits of the client's port; 0: the
    /// template's service.
    const SERVICES: u16 = 0;

    /// Makes place in a template for what is patched there.
    fn clear(template: &mut [u8; LEN]) {
        if Self::SERVICES != 0 {
            template[SERVICE..SERVICE + 2].fill(0);
        }
    }

    /// The last 16 bits of the service's address.
    #[inline(always)]
    fn service(port: [u8; 2]) -> [u8; 2] {
        (u16::from_be_bytes(port) & Self::SERVICES).to_be_bytes()
    }
}

/// Where they lie in a frame of IPv4.
const SERVICE: usize = 32;

/// IPv4, from the client, to one of `SERVICES` + 1 services, which are a power of two.
#[derive(Clone, Copy, Debug)]
pub struct Spread<const SERVICES: u16>;

impl<const SERVICES: u16> Shape<LEN4> for Spread<SERVICES> {
    const ADDR: usize = Request4::ADDR;
    const PORT: usize = Request4::PORT;
    const IP_SUM: usize = Request4::IP_SUM;
    const TCP_SUM: usize = Request4::TCP_SUM;
    const SERVICES: u16 = SERVICES;
}

/// IPv4, from the client.
#[derive(Clone, Copy, Debug)]
pub struct Request4;
/// IPv4, from the real server.
#[derive(Clone, Copy, Debug)]
pub struct Reply4;
/// IPv6, from the client.
#[derive(Clone, Copy, Debug)]
pub struct Request6;
/// IPv6, from the real server.
#[derive(Clone, Copy, Debug)]
pub struct Reply6;

/// A 64-byte frame on the wire, without its FCS.
pub const LEN4: usize = 60;
/// The smallest TCP segment over IPv6.
pub const LEN6: usize = 74;

impl Shape<LEN4> for Request4 {
    const ADDR: usize = 26;
    const PORT: usize = 34;
    const IP_SUM: usize = 24;
    const TCP_SUM: usize = 50;
}

impl Shape<LEN4> for Reply4 {
    const ADDR: usize = 30;
    const PORT: usize = 36;
    const IP_SUM: usize = 24;
    const TCP_SUM: usize = 50;
}

impl Shape<LEN6> for Request6 {
    const ADDR: usize = 34;
    const PORT: usize = 54;
    const IP_SUM: usize = 0;
    const TCP_SUM: usize = 70;
}

impl Shape<LEN6> for Reply6 {
    const ADDR: usize = 50;
    const PORT: usize = 56;
    const IP_SUM: usize = 0;
    const TCP_SUM: usize = 70;
}

/// Sum of the 16-bit words of `bytes`, folded.
pub fn sum(bytes: &[u8], start: u32) -> u32 {
    let mut sum = u64::from(start);
    for word in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([
            word[0],
            word.get(1).copied().unwrap_or(0),
        ]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u32
}

/// One template for each server, then those of packets that open connections; with client and
/// checksums zero.
pub type Templates<const LEN: usize> = [[u8; LEN]; 2 * SERVERS];

/// What to patch for each of `clients`, in their order, on top of `templates`.
pub fn visits<S: Shape<LEN>, const LEN: usize>(
    templates: &Templates<LEN>,
    clients: impl Iterator<Item = Client>,
) -> Vec<Visit> {
    let l4 = S::TCP_SUM - 16;
    let bases: [(u32, u32); 2 * SERVERS] = templates.each_ref().map(|t| {
        let (addrs, len) = if S::IP_SUM != 0 {
            (
                &t[26..34],
                usize::from(u16::from_be_bytes([t[16], t[17]])) - 20,
            )
        } else {
            (&t[22..54], usize::from(u16::from_be_bytes([t[18], t[19]])))
        };
        let pseudo = sum(addrs, 6 + len as u32);
        (sum(&t[14..34], 0), sum(&t[l4..l4 + len], pseudo))
    });
    clients
        .map(|c| {
            let (addr, port) = (c.addr.to_be_bytes(), c.port.to_be_bytes());
            let (ip, tcp) = bases[usize::from(c.server)];
            let service = S::service(port);
            let (ip, tcp) = (sum(&service, ip), sum(&service, tcp));
            Visit {
                addr,
                port,
                ip_sum: (!(sum(&addr, ip) as u16)).to_be_bytes(),
                tcp_sum: (!(sum(&port, sum(&addr, tcp)) as u16)).to_be_bytes(),
                server: c.server,
            }
        })
        .collect()
}

/// Writes the next frames into each burst and looks at samples of what becomes of them.
pub struct Generator<S, const LEN: usize> {
    templates: Templates<LEN>,
    visits: Vec<Visit>,
    next: usize,
    /// Where the current burst began.
    burst: usize,
    bursts: u32,
    expect: Expect,
    /// Frames written.
    pub packets: u64,
    /// Frames checked byte by byte.
    pub checked: u64,
    /// The first of them that was wrong.
    pub wrong: Option<String>,
    shape: core::marker::PhantomData<S>,
}

impl<S: Shape<LEN>, const LEN: usize> Generator<S, LEN> {
    /// A generator that goes round `clients` for ever.
    pub fn new(templates: Templates<LEN>, clients: &[Client], expect: Expect) -> Self {
        let whole = (1..=BURST)
            .find(|n| (clients.len() * n).is_multiple_of(BURST))
            .unwrap_or(BURST);
        let all = clients.iter().cycle().take(clients.len() * whole).copied();
        Generator {
            visits: visits::<S, LEN>(&templates, all),
            templates,
            next: 0,
            burst: 0,
            bursts: 0,
            expect,
            packets: 0,
            checked: 0,
            wrong: None,
            shape: core::marker::PhantomData,
        }
    }

    /// Visits of one round.
    pub fn round(&self) -> u64 {
        self.visits.len() as u64
    }

    /// How many of the first so many packets opened a connection.
    pub fn opened(&self, packets: u64) -> u64 {
        let opens = |visits: &[Visit]| visits.iter().filter(|v| v.server >= OPENS).count() as u64;
        let (rounds, rest) = (packets / self.round(), packets % self.round());
        rounds * opens(&self.visits) + opens(&self.visits[..rest as usize])
    }

    #[cold]
    #[inline(never)]
    fn check(&mut self, packets: &[Packet<'_>], verdicts: &[Verdict]) {
        let visits = &self.visits[self.burst..];
        for ((packet, verdict), visit) in packets.iter().zip(verdicts).zip(visits) {
            self.checked += 1;
            if let Err(why) = self.expect.check(packet.frame(), *verdict, &visit.client()) {
                self.wrong.get_or_insert(why);
            }
        }
    }
}

impl<S: Shape<LEN>, const LEN: usize> Probe for Generator<S, LEN> {
    #[inline(always)]
    fn received(&mut self, packets: &mut [Packet<'_>]) {
        if self.next + packets.len() > self.visits.len() {
            self.next = 0;
        }
        self.burst = self.next;
        self.next += packets.len();
        self.packets += packets.len() as u64;
        let visits = self.visits.get(self.burst..self.next).unwrap_or(&[]);
        for (packet, visit) in packets.iter_mut().zip(visits) {
            let Some(frame) = packet.frame_mut().first_chunk_mut::<LEN>() else {
                continue;
            };
            *frame = self.templates[usize::from(visit.server) % (2 * SERVERS)];
            frame[S::ADDR..S::ADDR + 4].copy_from_slice(&visit.addr);
            frame[S::PORT..S::PORT + 2].copy_from_slice(&visit.port);
            if S::SERVICES != 0 {
                frame[SERVICE..SERVICE + 2].copy_from_slice(&S::service(visit.port));
            }
            if S::IP_SUM != 0 {
                frame[S::IP_SUM..S::IP_SUM + 2].copy_from_slice(&visit.ip_sum);
            }
            frame[S::TCP_SUM..S::TCP_SUM + 2].copy_from_slice(&visit.tcp_sum);
        }
    }

    #[inline(always)]
    fn decided(&mut self, packets: &[Packet<'_>], verdicts: &[Verdict]) {
        self.bursts = self.bursts.wrapping_add(1);
        if self.bursts % SAMPLE == 1 {
            self.check(packets, verdicts);
        }
    }
}

/// Pseudo-random numbers (splitmix64): the same in every run.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// A number in 0..1.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts `items` into random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// `count` of `clients`, the k-th of them 1/k as likely as the first (Zipf, exponent 1).
    pub fn zipf(&mut self, clients: &[Client], count: usize) -> Vec<Client> {
        let mut total = 0.0;
        let bounds: Vec<f64> = (1..=clients.len())
            .map(|k| {
                total += 1.0 / k as f64;
                total
            })
            .collect();
        (0..count)
            .map(|_| {
                let x = self.fraction() * total;
                clients[bounds.partition_point(|&b| b < x).min(clients.len() - 1)]
            })
            .collect()
    }
}
