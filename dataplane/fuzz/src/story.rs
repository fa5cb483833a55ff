//! A worker and what happens to it.

use std::cell::Cell;
use std::time::Duration;

use dataplane::packet::Verdict;

use crate::bytes::Bytes;
use crate::notation;
use crate::rig::{Rig, memory_size};

/// Groups of rules; the first byte of a story says which are there.
const RULES: [&[&str]; 8] = [
    &[
        "-A -t 192.168.40.200:443 -s rr",
        "-a -t 192.168.40.200:443 -r 192.168.50.5:8443 -m",
        "-a -t 192.168.40.200:443 -r 192.168.50.6:443 -m -x 3",
    ],
    &[
        "-A -u 192.168.40.200:53 -s wrr -o",
        "-a -u 192.168.40.200:53 -r 192.168.50.5:5353 -m -w 3",
        "-A -u 192.168.40.201:443 -s wlc",
        "-a -u 192.168.40.201:443 -r 192.168.50.6:443 -m",
    ],
    &[
        "-A -t [fd40::200]:443 -s sed",
        "-a -t [fd40::200]:443 -r [fd50::5]:8443 -m",
        "-a -t [fd40::200]:443 -r [fd50::6]:443 -g",
    ],
    &[
        "-A -t 192.168.40.201:443 -s lc",
        "-a -t 192.168.40.201:443 -r 192.168.50.5:443 -i",
        "-a -t 192.168.40.201:443 -r 192.168.50.6:443 -i --tun-type gre --tun-csum",
        "-a -t 192.168.40.201:443 -r [fd50::6]:443 -i --tun-type gue --tun-port 6080",
    ],
    &[
        "-A --sctp-service 192.168.40.200:443 -s nq",
        "-a --sctp-service 192.168.40.200:443 -r 192.168.50.5:8443 -m",
    ],
    &[
        "-A -t 192.168.40.200:53 -s mh -p 30",
        "-a -t 192.168.40.200:53 -r 192.168.50.5:53 -m",
        "-a -t 192.168.40.200:53 -r 192.168.50.6:53 -m -w 0",
    ],
    &[
        "-A -u [fd40::200]:53 -s sh",
        "-a -u [fd40::200]:53 -r [fd50::5]:53 -i",
        "-a -u [fd40::200]:53 -r 192.168.50.6:53 -i --tun-type gre",
    ],
    &[
        "-A -t 192.168.40.200:21 -s rr",
        "-a -t 192.168.40.200:21 -r 192.168.50.5:21 -m",
    ],
];

/// Edits of them; those of services that are not there are left out.
const EDITS: [&str; 8] = [
    "-e -t 192.168.40.200:443 -r 192.168.50.5:8443 -m -w 0",
    "-e -t 192.168.40.200:443 -r 192.168.50.6:443 -m -w 2 -x 1",
    "-d -t 192.168.40.200:443 -r 192.168.50.6:443",
    "-a -t 192.168.40.200:443 -r 192.168.50.6:443 -g",
    "-e -t 192.168.40.201:443 -r 192.168.50.6:443 -i --tun-type gue --tun-port 6080",
    "-d -t [fd40::200]:443 -r [fd50::6]:443",
    "-d --sctp-service 192.168.40.200:443 -r 192.168.50.5:8443",
    "-e -t 192.168.40.200:53 -r 192.168.50.5:53 -m -w 0",
];

const CLIENTS: [&str; 4] = ["172.16.1.7", "172.16.1.8", "192.168.40.9", "127.0.0.1"];
const CLIENTS6: [&str; 4] = ["2001:db8::7", "2001:db8::8", "fd40::9", "fe80::1"];
const VIPS: [&str; 4] = [
    "192.168.40.200",
    "192.168.40.201",
    "192.168.40.1",
    "192.168.50.5",
];
const VIPS6: [&str; 4] = ["fd40::200", "fd40::1", "fd50::5", "ff02::1"];
const SERVERS: [&str; 2] = ["192.168.50.5", "192.168.50.6"];
const SERVERS6: [&str; 2] = ["fd50::5", "fd50::6"];
const PORTS: [u16; 8] = [443, 53, 8443, 5353, 21, 20, 0, 40000];
const GATEWAY: &str = "02:04:c0:a8:28:fe";

thread_local! {
    /// The connection table's memory, used by one story after another.
    static MEMORY: Cell<Option<(*mut u8, usize)>> = const { Cell::new(None) };
}

/// Zeroed memory for one rig.
pub(crate) fn memory() -> &'static mut [u8] {
    let (at, len) = MEMORY.get().unwrap_or_else(|| {
        let bytes = vec![0u8; memory_size()].leak();
        (bytes.as_mut_ptr(), bytes.len())
    });
    MEMORY.set(Some((at, len)));
    // SAFETY: `at` and `len` are of a vector that was leaked. A story is the only holder of the
    // slice and is dropped before the next one begins: both happen in one call of a target, and
    // this thread runs no two of them at a time.
    let bytes = unsafe { std::slice::from_raw_parts_mut(at, len) };
    bytes.fill(0);
    bytes
}

pub struct Story {
    rig: Rig,
    rules: u8,
    /// The last frames that went in and came out.
    recent: Vec<Vec<u8>>,
}

impl Story {
    /// The groups of rules whose bits are set, and some settings.
    pub fn begin(rules: u8, settings: u8) -> Story {
        let mut rig = Rig::in_memory(memory());
        for group in (0..8).filter(|i| rules >> i & 1 == 1) {
            for rule in RULES[group] {
                rig.ipvsadm(rule);
            }
        }
        rig.change_settings(|s| {
            s.sloppy_tcp = settings & 1 != 0;
            s.expire_nodest_conn = settings & 2 != 0;
            s.conn_reuse_mode = u32::from(settings >> 2 & 3);
            s.pmtu_disc = settings & 16 == 0;
            s.nat_icmp_send = settings & 32 != 0;
            s.schedule_icmp = settings & 64 != 0;
            s.icmp_ratelimit = 0;
        });
        if settings & 128 != 0 {
            rig.set_mtu(1, 1280);
        }
        Story {
            rig,
            rules,
            recent: Vec::new(),
        }
    }

    /// One thing happens.
    pub fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.byte() % 8 {
            0 => {
                let port = u16::from(bytes.byte() & 1);
                let len = usize::from(bytes.word()) % 2048;
                let frame = bytes.slice(len).to_vec();
                self.inject(port, frame);
            }
            1 | 2 => self.packet(bytes),
            3 => self.changed(bytes),
            4 => self.icmp(bytes),
            5 => {
                let seconds = bytes.one_of(&[1u64, 3, 10, 61]);
                pass(&mut self.rig, Duration::from_secs(seconds));
            }
            6 => {
                let edit = bytes.one_of(&EDITS);
                // Protocol and address.
                let service = |rule: &str| {
                    let mut words = rule.split_whitespace().skip(1);
                    (
                        words.next().map(str::to_owned),
                        words.next().map(str::to_owned),
                    )
                };
                let there = |group: &&[&str]| {
                    let of_it = |rule: &&str| service(rule) == service(edit);
                    group.iter().any(of_it)
                };
                let at = RULES.iter().position(|group| there(&group));
                if at.is_some_and(|at| self.rules >> at & 1 == 1) {
                    self.rig.ipvsadm(edit);
                }
            }
            _ => {
                // What came out may go in at the other side.
                let frame = self.recall(bytes);
                self.inject(u16::from(bytes.byte() & 1), frame);
            }
        }
    }

    /// One of the last frames, the newest for 0.
    fn recall(&self, bytes: &mut Bytes<'_>) -> Vec<u8> {
        let back = usize::from(bytes.byte()) % self.recent.len().max(1);
        self.recent
            .iter()
            .rev()
            .nth(back)
            .cloned()
            .unwrap_or_default()
    }

    /// A well-formed packet of a client or of a server.
    pub fn packet(&mut self, bytes: &mut Bytes<'_>) {
        let kind = bytes.byte();
        let is_v4 = kind & 1 == 0;
        let from_server = kind & 2 != 0;
        let (client, virtual_, server) = if is_v4 {
            (
                bytes.one_of(&CLIENTS),
                bytes.one_of(&VIPS),
                bytes.one_of(&SERVERS),
            )
        } else {
            (
                bytes.one_of(&CLIENTS6),
                bytes.one_of(&VIPS6),
                bytes.one_of(&SERVERS6),
            )
        };
        let client_port = 40000 + u16::from(bytes.byte() & 3);
        let port = bytes.one_of(&PORTS);
        let flags = bytes.byte();
        let size = usize::from(bytes.byte()) * 6;
        let (eth, src, dst, sport, dport) = if from_server {
            let mac = if is_v4 {
                "02:04:c0:a8:32:05"
            } else {
                "02:10:..:05"
            };
            let eth = format!("eth {mac} > 52:54:..:02");
            (eth, server, client, port, client_port)
        } else {
            let eth = format!("eth {GATEWAY} > 52:54:..:01");
            (eth, client, virtual_, client_port, port)
        };
        let words = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
        let l4 = match kind >> 2 & 3 {
            0 | 1 => {
                let flags: Vec<_> = (0..8)
                    .filter(|i| flags >> i & 1 == 1)
                    .map(|i| words[i])
                    .collect();
                format!("tcp {sport} > {dport} {}", flags.join(" "))
            }
            2 => {
                let sum = if flags & 1 == 1 && is_v4 {
                    " csum none"
                } else {
                    ""
                };
                format!("udp {sport} > {dport}{sum}")
            }
            _ => {
                let mut segment = sport.to_be_bytes().to_vec();
                segment.extend(dport.to_be_bytes());
                segment.extend([0, 0, 0, 1, 0, 0, 0, 0, flags & 15, 0, 0, 4]);
                format!("data {}", notation::to_hex(&segment))
            }
        };
        let protocol = if kind >> 2 & 3 == 3 { " proto 132" } else { "" };
        let ttl = [64, 1, 2, 255][usize::from(kind >> 4 & 3)];
        let bits = if !is_v4 {
            ""
        } else if kind & 64 != 0 {
            " df"
        } else if kind & 128 != 0 && flags & 64 != 0 {
            " mf"
        } else {
            ""
        };
        let ip = if is_v4 { "ip" } else { "ip6" };
        let data = if kind >> 2 & 3 == 3 || size == 0 {
            String::new()
        } else {
            format!(" | bytes {size}")
        };
        let text = format!("{eth} | {ip} {src} > {dst} ttl {ttl}{bits}{protocol} | {l4}{data}");
        self.inject(u16::from(from_server), notation::build(&text));
    }

    /// A frame again, some of its bytes changed or its end cut off.
    fn changed(&mut self, bytes: &mut Bytes<'_>) {
        let how = bytes.byte();
        let mut frame = self.recall(bytes);
        for _ in 0..how >> 4 {
            let (at, value) = (usize::from(bytes.byte()), bytes.byte());
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if how & 2 != 0 {
            frame.truncate(usize::from(bytes.byte()));
        }
        if how & 4 != 0 {
            repair(&mut frame);
        }
        self.inject(u16::from(how >> 3 & 1), frame);
    }

    /// An ICMP message that quotes one of the last frames.
    pub fn icmp(&mut self, bytes: &mut Bytes<'_>) {
        let how = bytes.byte();
        let frame = self.recall(bytes);
        let mut quoted = frame.get(14..).unwrap_or(&[]).to_vec();
        for _ in 0..how >> 5 {
            let (at, value) = (usize::from(bytes.byte()), bytes.byte());
            if let Some(byte) = quoted.get_mut(at) {
                *byte = value;
            }
        }
        quoted.truncate(20 + usize::from(bytes.byte()) * 4);
        let (kind, code, word) = (bytes.byte() % 20, bytes.byte() % 8, bytes.word());
        let from_server = how & 2 != 0;
        let is_v4 = quoted.first().is_none_or(|b| b >> 4 != 6);
        let (ip, icmp, src, dst) = match (is_v4, from_server) {
            (true, false) => ("ip", "icmp", CLIENTS[0], bytes.one_of(&VIPS)),
            (true, true) => (
                "ip",
                "icmp",
                bytes.one_of(&SERVERS),
                bytes.one_of(&["172.16.1.7", "192.168.50.1"]),
            ),
            (false, false) => ("ip6", "icmp6", CLIENTS6[0], bytes.one_of(&VIPS6)),
            (false, true) => (
                "ip6",
                "icmp6",
                bytes.one_of(&SERVERS6),
                bytes.one_of(&["2001:db8::7", "fd50::1"]),
            ),
        };
        let eth = if from_server {
            "eth 02:04:c0:a8:32:05 > 52:54:..:02"
        } else {
            "eth 02:04:c0:a8:28:fe > 52:54:..:01"
        };
        let sum = if how & 4 != 0 { " csum bad" } else { "" };
        let data = if quoted.is_empty() {
            String::new()
        } else {
            format!(" | data {}", notation::to_hex(&quoted))
        };
        let text =
            format!("{eth} | {ip} {src} > {dst} | {icmp} {kind} {code} word {word}{sum}{data}");
        let frame = notation::build(&text);
        self.inject(u16::from(from_server), frame);
    }

    fn inject(&mut self, port: u16, frame: Vec<u8>) {
        let (verdict, out) = self.rig.inject(port, &frame);
        self.recent.push(frame);
        if let Verdict::Transmit(to) | Verdict::Fragment(to, _) = verdict {
            assert!(to.0 < 2, "sent by port {}, which there is not", to.0);
            check_sent(&out);
            self.recent.push(out);
        }
        while self.recent.len() > 16 {
            self.recent.remove(0);
        }
    }

    /// Counts agree with the table.
    pub fn end(mut self) {
        check_counts(&mut self.rig);
    }
}

/// Lets time pass at once, as a worker that was held up would see it.
pub(crate) fn pass(rig: &mut Rig, time: Duration) {
    rig.now = rig.now + time;
    // A round is 128 shards, eight a call.
    for _ in 0..17 {
        rig.worker.expire(rig.now, u32::MAX);
    }
}

pub(crate) fn check_counts(rig: &mut Rig) {
    let rows = rig.connections();
    let counters = &rig.counters;
    assert_eq!(
        counters.connections.get() as usize,
        rows.len(),
        "connections counted and listed"
    );
    let (mut total, mut active) = (0, 0);
    for dest in counters.dests.iter() {
        assert!(
            dest.active.get() <= dest.total.get(),
            "more active than all"
        );
        total += dest.total.get();
        active += dest.active.get();
    }
    assert!(
        total as usize <= rows.len(),
        "{total} connections of servers, {} in all",
        rows.len()
    );
    assert!(active <= total);
}

/// What leaves is a whole packet with a right header.
pub(crate) fn check_sent(frame: &[u8]) {
    let ip = frame.get(14..).expect("a frame has an Ethernet header");
    match ip.first().map(|b| b >> 4) {
        Some(4) => {
            let len = usize::from(ip[0] & 15) * 4;
            let head = ip.get(..len).expect("a whole IPv4 header");
            assert_eq!(notation::checksum(&[head]), 0, "IPv4 header checksum");
            let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            assert!(
                total <= ip.len() && total >= len,
                "total length {total} of {}",
                ip.len()
            );
            assert_ne!(ip[8], 0, "TTL 0 was sent");
        }
        Some(6) => {
            let head = ip.get(..40).expect("a whole IPv6 header");
            let total = 40 + usize::from(u16::from_be_bytes([head[4], head[5]]));
            assert!(total <= ip.len(), "payload length {total} of {}", ip.len());
            assert_ne!(head[7], 0, "hop limit 0 was sent");
        }
        other => panic!("sent a packet of IP version {other:?}"),
    }
}

/// Makes the IPv4 header checksum right, so that the packet gets further.
pub(crate) fn repair(frame: &mut [u8]) {
    let Some(ip) = frame.get_mut(14..) else {
        return;
    };
    let len = ip.first().map_or(0, |b| usize::from(b & 15) * 4);
    if len < 20 || ip.len() < len {
        return;
    }
    ip[10..12].fill(0);
    let sum = notation::checksum(&[&ip[..len]]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}
