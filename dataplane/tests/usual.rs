//! The short way of usual packets against the whole walk: whatever comes, both leave the same
//! frames, verdicts, entries and counters.

use std::collections::HashMap;
use std::time::Duration;

use dataplane::addr::Mac;
use dataplane::command::Command;
use dataplane::packet::{Assist, DropReason, Packet, PortId, Verdict};
use support::notation::checksum;
use support::rig::{PORT_MACS, Rig, on_the_wire};

mod support;

/// Pseudo-random numbers (splitmix64): a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A TCP segment over either family; addresses as on the wire.
struct Segment {
    port: u16,
    src: (Vec<u8>, u16),
    dst: (Vec<u8>, u16),
    flags: u8,
    ttl: u8,
    tos: u8,
    payload: usize,
    /// The fragment field of IPv4.
    fragment: u16,
}

impl Segment {
    fn ip(&self) -> Vec<u8> {
        let len = (20 + self.payload) as u16;
        if self.src.0.len() == 16 {
            let [version, rest] = [0x60 | self.tos >> 4, self.tos << 4];
            let mut ip = vec![version, rest, 0, 0];
            ip.extend(len.to_be_bytes());
            ip.extend([6, self.ttl]);
            return [ip, self.src.0.clone(), self.dst.0.clone()].concat();
        }
        let mut ip = vec![0x45, self.tos];
        ip.extend((len + 20).to_be_bytes());
        ip.extend([0, 1]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.ttl, 6, 0, 0]);
        ip.extend(&self.src.0);
        ip.extend(&self.dst.0);
        let sum = checksum(&[&ip]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip
    }

    fn frame(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.src.1.to_be_bytes());
        tcp.extend(self.dst.1.to_be_bytes());
        tcp.extend([
            0, 0, 0, 1, 0, 0, 0, 1, 0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0,
        ]);
        tcp.extend(vec![0x5a; self.payload]);
        let length = (tcp.len() as u16).to_be_bytes();
        let pseudo = [&self.src.0[..], &self.dst.0, &[0, 6], &length].concat();
        let sum = checksum(&[&pseudo, &tcp]);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let ethertype = if self.src.0.len() == 16 {
            [0x86, 0xdd]
        } else {
            [8, 0]
        };
        ethernet(self.port, ethertype, &[self.ip(), tcp].concat())
    }
}

fn ethernet(port: u16, ethertype: [u8; 2], packet: &[u8]) -> Vec<u8> {
    let mac = PORT_MACS[usize::from(port)].0;
    let mut frame = [&mac[..], &[2, 0, 0, 0, 9, 9], &ethertype, packet].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A router on the servers' side says that an outer packet was too big for it.
fn too_big(outer: &[u8], mtu: u16) -> Vec<u8> {
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend(mtu.to_be_bytes());
    icmp.extend(outer);
    let sum = checksum(&[&icmp]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut ip = vec![0x45, 0];
    ip.extend((20 + icmp.len() as u16).to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, 1, 0, 0, 192, 168, 50, 77, 192, 168, 50, 1]);
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ethernet(1, [8, 0], &[ip, icmp].concat())
}

/// A frame as a worker gets it: with a tag that the driver took out, and so many bytes before it.
struct Arrival {
    port: u16,
    frame: Vec<u8>,
    tci: u16,
    headroom: usize,
    /// The NIC says whether its IPv4 header is right.
    checked: bool,
}

/// What became of a frame, and how it looks then.
fn process(rig: &mut Rig, burst: &[Arrival]) -> Vec<(Verdict, Vec<u8>)> {
    let mut rooms: Vec<Vec<u8>> = burst
        .iter()
        .map(|a| [&vec![0xa5; a.headroom][..], &a.frame, &[0xa5; 64]].concat())
        .collect();
    let mut packets: Vec<Packet<'_>> = rooms
        .iter_mut()
        .zip(burst)
        .map(|(room, a)| {
            let len = a.frame.len() as u16;
            let mut packet = Packet::new(room, a.headroom as u16, len, PortId(a.port));
            packet.vlan_tci = a.tci;
            packet.checked.ipv4 = a.checked && is_header_right(&a.frame);
            packet
        })
        .collect();
    let mut out = vec![Verdict::Drop(DropReason::Truncated); burst.len()];
    rig.worker.process(rig.now, &mut packets, &mut out);
    let frames: Vec<_> = packets
        .iter()
        .zip(&out)
        .map(|(packet, verdict)| on_the_wire(packet, *verdict))
        .collect();
    out.into_iter().zip(frames).collect()
}

/// Whether a NIC would find the header checksum of a frame right.
fn is_header_right(frame: &[u8]) -> bool {
    let len = frame.get(14).map_or(0, |first| usize::from(first & 15) * 4);
    let header = frame.get(14..14 + len).unwrap_or(&[]);
    frame.get(12..14) == Some(&[8, 0]) && len >= 20 && checksum(&[header]) == 0
}

/// One that goes the short way, and one that never does: the short way knows a port's first MAC.
fn pair() -> [Rig; 2] {
    let mut rigs = [Rig::new(), Rig::new()];
    for (port, mac) in (0..).map(PortId).zip(PORT_MACS) {
        rigs[1].apply(Command::PutMacs(
            port,
            Box::new([Mac([2, 0, 0, 0, 0, 0xee]), mac]),
        ));
    }
    rigs
}

fn state(rig: &Rig) -> String {
    let mut all = format!("{:?}\n", rig.counters);
    rig.worker
        .for_each_connection(|e| all += &format!("{e:?}\n"));
    all
}

const ACK: u8 = 0x10;

/// Something that happens between two bursts.
fn disturb(random: &mut Random, rigs: &mut [Rig; 2]) {
    let both = |rigs: &mut [Rig; 2], args: &str| rigs.iter_mut().for_each(|r| r.ipvsadm(args));
    // One quiesced, one deleted and put back.
    match random.below(250) {
        0 => {
            let weight = random.pick(&[0, 1, 1]);
            let edit = format!("-e -t 10.0.0.1:80 -r 192.168.50.11:8080 -m -w {weight}");
            both(rigs, &edit);
        }
        1 => both(rigs, "-d -t 10.0.0.1:80 -r 192.168.50.12:8080"),
        2..5 => both(rigs, "-a -t 10.0.0.1:80 -r 192.168.50.12:8080 -m"),
        5 => both(rigs, "-d -t 10.0.0.3:80 -r 192.168.50.12:80"),
        6..9 => both(rigs, "-a -t 10.0.0.3:80 -r 192.168.50.12:80 -i"),
        9 => {
            let mtu = random.pick(&[1500, 1500, 1500, 130]);
            rigs.iter_mut().for_each(|r| r.set_mtu(1, mtu));
        }
        10 => {
            let vlan = random.pick(&[0, 0, 0, 7]);
            rigs.iter_mut().for_each(|r| r.set_vlan(vlan));
        }
        11 => {
            let tcp = random.pick(&[5, 900]);
            rigs.iter_mut()
                .for_each(|r| r.change_settings(|s| s.timeouts.tcp = tcp));
        }
        12 => {
            let pmtu_disc = random.pick(&[true, true, false]);
            rigs.iter_mut()
                .for_each(|r| r.change_settings(|s| s.pmtu_disc = pmtu_disc));
        }
        14 => {
            let own = random.pick(&["", " --conn-timeouts tcp=7"]);
            both(rigs, &format!("-E -t 10.0.0.1:80 -s rr{own}"));
        }
        13 => {
            let last = random.pick(&[1, 2]);
            for rig in rigs.iter_mut() {
                rig.neighbour(1, "192.168.50.12", Mac([2, 4, 192, 168, 50, last]));
            }
        }
        _ => {}
    }
    if random.one_in(12) {
        let pause = random.pick(&[1, 10, 100, 1000, 1000, 1000, 9000, 20_000, 700_000]);
        for rig in rigs.iter_mut() {
            rig.now = rig.now + Duration::from_millis(pause);
            for _ in 0..200 {
                rig.worker.expire(rig.now, 64);
            }
        }
    }
}

fn arrival(random: &mut Random, outer: &[u8]) -> Arrival {
    let is_v6 = random.one_in(3);
    let long = |start: u16, last: u8| {
        let mut addr = vec![0; 16];
        addr[..2].copy_from_slice(&start.to_be_bytes());
        addr[15] = last;
        addr
    };
    let client = (random.below(3) as u8, 1024 + random.below(4) as u16);
    let vip = 1 + random.below(if is_v6 { 3 } else { 4 }) as u8;
    let server = random.pick(&[11, 12]);
    let (client, vip, server) = match is_v6 {
        true => (
            (long(0x2001, client.0), client.1),
            (long(0xfd00, vip), 80),
            (long(0xfd50, server), 8080),
        ),
        false => (
            (vec![10, 9, 0, client.0], client.1),
            (vec![10, 0, 0, vip], 80),
            (vec![192, 168, 50, server], 8080),
        ),
    };
    let (port, src, dst) = match random.one_in(3) {
        true => (1, server, client),
        false => (0, client, vip),
    };
    let segment = Segment {
        port,
        src,
        dst,
        flags: if random.one_in(5) {
            random.pick(&[0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x12, 0x11, 0x04, 0])
        } else {
            random.pick(&[ACK, 0x18])
        },
        ttl: if random.one_in(20) {
            random.pick(&[2, 1])
        } else {
            64
        },
        tos: random.pick(&[0, 0, 0, 0x10, 3, 0xff]),
        payload: random.pick(&[0, 0, 3, 100, 600]),
        fragment: if random.one_in(20) {
            0x2000
        } else {
            random.pick(&[0, 0x4000])
        },
    };
    let mut frame = segment.frame();
    let mut port = port;
    if !outer.is_empty() && random.one_in(500) {
        frame = too_big(outer, random.pick(&[560, 1400]));
        port = 1;
    }
    if random.one_in(20) {
        let at = random.below(74.min(frame.len()));
        frame[at] ^= 1 << random.below(8);
    }
    if random.one_in(50) {
        frame.truncate(random.below(60));
    }
    Arrival {
        port,
        frame,
        tci: if random.one_in(20) { 7 } else { 0 },
        headroom: random.pick(&[128, 128, 128, 24, 23, 20, 19, 0]),
        checked: false,
    }
}

#[test]
fn the_short_way_does_what_the_walk_does() {
    compare(1, pair(), false);
}

/// With a table that the TLB does not reach the passes follow each other in groups.
#[test]
fn it_does_so_in_a_far_table_too() {
    let mut rigs = pair();
    rigs[0].worker.ask_in_groups();
    compare(2, rigs, false);
}

/// NICs that look at header checksums, and take tags out and put them in: the same leaves.
#[test]
fn it_does_so_with_the_help_of_nics() {
    let assist = Assist {
        tags: true,
        udp_sums: true,
    };
    for (seed, far) in [(3, false), (4, true)] {
        let mut rigs = pair();
        rigs[0].assist(assist);
        // Generations count on alike.
        rigs[1].assist(Assist::default());
        if far {
            rigs[0].worker.ask_in_groups();
        }
        compare(seed, rigs, true);
    }
}

/// `assisted`: the first one has the help of NICs.
fn compare(seed: u64, mut rigs: [Rig; 2], assisted: bool) {
    let mut random = Random(seed);
    for (vip, method) in [
        ("10.0.0.1", "-m"),
        ("10.0.0.2", "-g"),
        ("10.0.0.3", "-i"),
        ("10.0.0.4", "-i --tun-type gre"),
        ("[fd00::1]", "-m"),
        ("[fd00::2]", "-g"),
        ("[fd00::3]", "-i"),
    ] {
        let is_v6 = vip.starts_with('[');
        let port = if method == "-m" { 8080 } else { 80 };
        for rig in &mut rigs {
            rig.ipvsadm(&format!("-A -t {vip}:80 -s rr"));
            for n in [11, 12] {
                let server = match is_v6 {
                    true => format!("[fd50::{:x}]", n),
                    false => format!("192.168.50.{n}"),
                };
                rig.ipvsadm(&format!("-a -t {vip}:80 -r {server}:{port} {method}"));
            }
        }
    }
    // By EtherType as received and protocol of the packet as sent.
    let mut sent = HashMap::<([u8; 2], u8), u32>::new();
    let mut outer = Vec::new();
    let mut tagged = 0;
    for step in 0..25_000 {
        disturb(&mut random, &mut rigs);
        let len = random.pick(&[1, 1, 1, 2, 3, 8, 12, 16, 17, 20, 24, 31, 32]);
        let mut burst: Vec<Arrival> = (0..len).map(|_| arrival(&mut random, &outer)).collect();
        let [a, b] = &mut rigs;
        if assisted {
            // A tag in the frame needs room before it that one in a descriptor does not.
            burst.iter_mut().for_each(|arrival| {
                (arrival.headroom, arrival.checked) = (128, true);
            });
        }
        let outcome = process(a, &burst);
        burst.iter_mut().for_each(|arrival| arrival.checked = false);
        let want = process(b, &burst);
        for ((got, want), arrival) in outcome.iter().zip(&want).zip(&burst) {
            assert_eq!(got, want, "step {step}: {:02x?}", arrival.frame);
            let (Verdict::Transmit(_), frame) = got else {
                continue;
            };
            if frame[12] == 0x81 {
                tagged += 1;
                continue;
            }
            let protocol = frame[if frame[12] == 8 { 23 } else { 20 }];
            let kind = ([arrival.frame[12], arrival.frame[13]], protocol);
            *sent.entry(kind).or_default() += 1;
            if frame[12] == 8 && frame[23] == 4 {
                outer = frame[14..].to_vec();
            }
        }
        if step % 50 == 0 {
            assert_eq!(state(a), state(b), "step {step}");
        }
    }
    assert!(tagged > 3000, "{tagged} with a tag");
    for kind in [
        ([8, 0], 6),
        ([8, 0], 4),
        ([8, 0], 47),
        ([0x86, 0xdd], 6),
        ([0x86, 0xdd], 41),
    ] {
        assert!(sent.get(&kind) > Some(&3000), "{kind:x?}: {sent:?}");
    }
}
