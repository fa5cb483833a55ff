//! What a run must have left behind, or its figures count for nothing.

use anyhow::{Result, ensure};
use dataplane::addr::Mac;
use dataplane::counters::WorkerCounters;
use dataplane::packet::{PortId, Verdict};

use crate::rig::{self, Family, Method, Side};
use crate::traffic::{Client, OPENS, sum};

/// What frames of one kind look like after the walk. Everything is recomputed in full here, by
/// other code than the worker's.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// Addresses in the frame as it was received.
    pub family: Family,
    /// How it is forwarded.
    pub method: Method,
    /// Who sent it.
    pub side: Side,
    /// Whether the connection is new, so that any real server will do.
    pub is_new: bool,
}

impl Expect {
    /// Checks one frame.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, frame: &[u8], verdict: Verdict, client: &Client) -> Result<(), String> {
        self.compare(frame, verdict, client)
            .map_err(|why| format!("{why}; client {client:x?}, frame {frame:02x?}"))
    }

    fn compare(&self, frame: &[u8], verdict: Verdict, client: &Client) -> Result<(), String> {
        let is = |ok: bool, what: &str| {
            if ok {
                Ok(())
            } else {
                Err(format!("wrong {what}"))
            }
        };
        if verdict != Verdict::Transmit(PortId(1)) {
            return Err(format!("verdict {verdict:?}"));
        }
        let ethertype = match self.family {
            Family::V4 => [0x08, 0],
            Family::V6 => [0x86, 0xdd],
        };
        is(frame.get(12..14) == Some(&ethertype), "ethertype")?;
        is(frame.get(6..12) == Some(&rig::OUR_MACS[1].0), "source MAC")?;
        let dmac = frame.get(..6).unwrap_or(&[]);
        let mut ip = frame.get(14..).unwrap_or(&[]);
        if self.method == Method::Tunnel {
            is(ip.len() == 60, "length of the outer packet")?;
            is(
                ip[0] == 0x45 && ip[2..4] == 60u16.to_be_bytes() && ip[9] == 4,
                "outer header",
            )?;
            is(sum(&ip[..20], 0) == 0xffff, "outer checksum")?;
            let server = (0..rig::SERVERS).find(|&s| ip[16..20] == rig::server4(s));
            is(
                server.is_some_and(|s| self.is_server(client, s, dmac)),
                "outer destination",
            )?;
            ip = &ip[20..];
        }
        let (src, dst, ttl, tcp) = match self.family {
            Family::V4 => {
                is(ip.len() >= 40 && sum(&ip[..20], 0) == 0xffff, "IP checksum")?;
                (&ip[12..16], &ip[16..20], ip[8], &ip[20..40])
            }
            Family::V6 => {
                is(ip.len() >= 60, "length")?;
                (&ip[8..24], &ip[24..40], ip[7], &ip[40..60])
            }
        };
        is(ttl == 63, "TTL")?;
        is(
            sum(tcp, sum(dst, sum(src, 6 + 20))) == 0xffff,
            "TCP checksum",
        )?;
        let end =
            |addr: &[u8], port: &[u8]| (addr.to_vec(), u16::from_be_bytes([port[0], port[1]]));
        let (from, to) = (end(src, &tcp[..2]), end(dst, &tcp[2..4]));
        let (ours, theirs) = match self.side {
            Side::Request => (from, to),
            Side::Reply => (to, from),
        };
        is(
            ours == (self.family.client(client.addr), client.port),
            "client",
        )?;
        match (self.side, self.method) {
            (Side::Request, Method::Nat) => {
                is(theirs.1 == rig::REAL_PORT, "real port")?;
                let server = (0..rig::SERVERS).find(|&s| theirs.0 == self.family.server(s));
                is(
                    server.is_some_and(|s| self.is_server(client, s, dmac)),
                    "real server",
                )
            }
            (Side::Request, method) => {
                is(
                    theirs == (self.family.vip(method), rig::VIRTUAL_PORT),
                    "virtual endpoint",
                )?;
                let server = (0..rig::SERVERS).find(|&s| *dmac == rig::server_mac(s).0);
                is(
                    server.is_some_and(|s| self.is_server(client, s, dmac)),
                    "MAC",
                )
            }
            (Side::Reply, method) => {
                is(
                    theirs == (self.family.vip(method), rig::VIRTUAL_PORT),
                    "virtual endpoint",
                )?;
                is(dmac == rig::GATEWAY_MAC.0, "MAC")
            }
        }
    }

    /// Whether server `s` may be this client's, and `dmac` is its.
    fn is_server(&self, client: &Client, s: usize, dmac: &[u8]) -> bool {
        let Mac(mac) = rig::server_mac(s);
        let any = self.is_new || client.server >= OPENS;
        (any || usize::from(client.server) == s) && *dmac == mac
    }
}

/// Counters at one time.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Frames received.
    pub received: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames dropped or handed to the kernel.
    pub lost: u64,
    /// Connections expired or given up.
    pub ended: u64,
    /// Connections scheduled.
    pub connections: u64,
    /// Packets and bytes from clients.
    pub from_clients: (u64, u64),
    /// Packets and bytes to clients.
    pub to_clients: (u64, u64),
    /// Active connections.
    pub active: u64,
    /// All connections bound to a real server.
    pub bound: u64,
}

impl Totals {
    /// Sums a worker's counters over all real servers.
    pub fn of(counters: &WorkerCounters) -> Totals {
        let dests = || counters.dests.iter();
        let punted = counters.punted.iter().map(|c| c.get()).sum::<u64>();
        Totals {
            received: counters.rx_packets.get(),
            sent: counters.tx_packets.get(),
            lost: counters.drops.iter().map(|c| c.get()).sum::<u64>() + punted,
            ended: counters.expired.get() + counters.reclaimed.get(),
            connections: dests().map(|d| d.conns.get()).sum(),
            from_clients: (
                dests().map(|d| d.in_pkts.get()).sum(),
                dests().map(|d| d.in_bytes.get()).sum(),
            ),
            to_clients: (
                dests().map(|d| d.out_pkts.get()).sum(),
                dests().map(|d| d.out_bytes.get()).sum(),
            ),
            active: dests().map(|d| u64::from(d.active.get())).sum(),
            bound: dests().map(|d| u64::from(d.total.get())).sum(),
        }
    }

    /// Compares with the counters `before` a run of `packets` packets of `bytes` bytes (layer 3).
    ///
    /// # Errors
    /// The counter that does not fit.
    pub fn audit(&self, before: &Totals, side: Side, packets: u64, bytes: u64) -> Result<()> {
        let (mut clients, mut servers) = ((0, 0), (0, 0));
        *(match side {
            Side::Request => &mut clients,
            Side::Reply => &mut servers,
        }) = (packets, packets * bytes);
        let minus = |a: (u64, u64), b: (u64, u64)| (a.0 - b.0, a.1 - b.1);
        let pairs = [
            ("frames received", self.received - before.received, packets),
            ("frames sent", self.sent - before.sent, packets),
            ("frames dropped or punted", self.lost - before.lost, 0),
        ];
        for (what, have, want) in pairs {
            ensure!(
                have == want,
                "audit: {what}: counted {have}, should be {want}"
            );
        }
        for (what, have, want) in [
            (
                "packets and bytes from clients",
                minus(self.from_clients, before.from_clients),
                clients,
            ),
            (
                "packets and bytes to clients",
                minus(self.to_clients, before.to_clients),
                servers,
            ),
        ] {
            ensure!(
                have == want,
                "audit: {what}: counted {have:?}, should be {want:?}"
            );
        }
        Ok(())
    }
}
