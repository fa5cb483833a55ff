//! The short way of usual packets against the whole walk: whatever comes, both leave the same
//! frames, verdicts, entries and counters.

use std::time::Duration;

use dataplane::addr::Mac;
use dataplane::command::Command;
use dataplane::packet::{PortId, Verdict};
use support::notation::checksum;
use support::rig::{PORT_MACS, Rig};

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

struct Packet {
    port: u16,
    src: ([u8; 4], u16),
    dst: ([u8; 4], u16),
    flags: u8,
    ttl: u8,
    payload: usize,
    fragment: u16,
}

impl Packet {
    fn frame(&self) -> Vec<u8> {
        let total = (40 + self.payload) as u16;
        let mut ip = vec![0x45, 0];
        ip.extend(total.to_be_bytes());
        ip.extend([0, 1]);
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.ttl, 6, 0, 0]);
        ip.extend(self.src.0);
        ip.extend(self.dst.0);
        let sum = checksum(&[&ip]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
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
        let mac = PORT_MACS[usize::from(self.port)].0;
        let mut frame = [&mac[..], &[2, 0, 0, 0, 9, 9, 8, 0], &ip, &tcp].concat();
        frame.resize(frame.len().max(60), 0);
        frame
    }
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

#[test]
fn the_short_way_does_what_the_walk_does() {
    const ACK: u8 = 0x10;
    let servers = [11, 12].map(|n| [192, 168, 50, n]);
    let mut random = Random(1);
    let mut rigs = pair();
    let both = |rigs: &mut [Rig; 2], args: &str| rigs.iter_mut().for_each(|r| r.ipvsadm(args));
    for (vip, method) in [("10.0.0.1", "-m"), ("10.0.0.2", "-g"), ("10.0.0.3", "-i")] {
        both(&mut rigs, &format!("-A -t {vip}:80 -s rr"));
        let port = if method == "-m" { 8080 } else { 80 };
        for server in ["192.168.50.11", "192.168.50.12"] {
            both(
                &mut rigs,
                &format!("-a -t {vip}:80 -r {server}:{port} {method}"),
            );
        }
    }
    let mut sent = 0;
    for step in 0..100_000 {
        // One quiesced, one deleted and put back.
        match random.below(1000) {
            0 => {
                let weight = random.pick(&[0, 1, 1]);
                let edit = format!("-e -t 10.0.0.1:80 -r 192.168.50.11:8080 -m -w {weight}");
                both(&mut rigs, &edit);
            }
            1 => both(&mut rigs, "-d -t 10.0.0.1:80 -r 192.168.50.12:8080"),
            2..5 => both(&mut rigs, "-a -t 10.0.0.1:80 -r 192.168.50.12:8080 -m"),
            5 => {
                let own = random.pick(&["", " --conn-timeouts tcp=7"]);
                both(&mut rigs, &format!("-E -t 10.0.0.1:80 -s rr{own}"));
            }
            _ => {}
        }
        if random.one_in(2000) {
            let mtu = random.pick(&[1500, 1500, 1500, 100]);
            rigs.iter_mut().for_each(|r| r.set_mtu(1, mtu));
        }
        if random.one_in(2000) {
            let vlan = random.pick(&[0, 0, 0, 7]);
            rigs.iter_mut().for_each(|r| r.set_vlan(vlan));
        }
        if random.one_in(2000) {
            let tcp = random.pick(&[5, 900]);
            rigs.iter_mut()
                .for_each(|r| r.change_settings(|s| s.timeouts.tcp = tcp));
        }
        if random.one_in(50) {
            let pause = Duration::from_millis(random.pick(&[1, 10, 100, 1000, 1000, 1000, 9000]));
            for rig in &mut rigs {
                rig.now = rig.now + pause;
                for _ in 0..200 {
                    rig.worker.expire(rig.now, 64);
                }
            }
        }
        let client = (
            [10, 9, 0, random.below(3) as u8],
            1024 + random.below(4) as u16,
        );
        let vip = ([10, 0, 0, 1 + random.below(3) as u8], 80);
        let is_reply = random.one_in(3);
        let (port, src, dst) = if is_reply {
            (1, (random.pick(&servers), 8080), client)
        } else {
            (0, client, vip)
        };
        let packet = Packet {
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
            payload: random.pick(&[0, 0, 3, 100]),
            fragment: if random.one_in(20) {
                0x2000
            } else {
                random.pick(&[0, 0x4000])
            },
        };
        let mut frame = packet.frame();
        if random.one_in(20) {
            let at = random.below(54);
            frame[at] ^= 1 << random.below(8);
        }
        if random.one_in(50) {
            frame.truncate(random.below(60));
        }
        let tci = if random.one_in(20) { 7 } else { 0 };
        let [a, b] = &mut rigs;
        let outcome = a.inject_tagged(port, &frame, tci);
        assert_eq!(
            outcome,
            b.inject_tagged(port, &frame, tci),
            "step {step}: {frame:02x?}"
        );
        sent += usize::from(matches!(outcome.0, Verdict::Transmit(_)));
        if step % 50 == 0 {
            assert_eq!(state(a), state(b), "step {step}");
        }
    }
    assert!(sent > 50_000, "only {sent} packets were sent on");
}
