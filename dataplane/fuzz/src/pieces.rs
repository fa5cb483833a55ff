//! Packets in pieces: those of one packet go one way, and what is remembered of them is bounded.

use std::collections::HashMap;
use std::time::Duration;

use dataplane::addr::Addr;
use dataplane::conn::HashKey;
use dataplane::flow::{Flow, Fragment};
use dataplane::fragments::{Fate, Fragments};
use dataplane::packet::{DropReason, Verdict};
use dataplane::service::Protocol;
use dataplane::time::Instant;

use crate::bytes::Bytes;
use crate::notation;
use crate::rig::Rig;
use crate::story::{check_counts, check_sent, memory, pass};

const RULES: [&str; 10] = [
    "-A -u 192.168.40.200:53 -s rr",
    "-a -u 192.168.40.200:53 -r 192.168.50.5:5353 -m",
    "-a -u 192.168.40.200:53 -r 192.168.50.6:53 -m",
    "-A -t 192.168.40.200:443 -s rr",
    "-a -t 192.168.40.200:443 -r 192.168.50.5:443 -g",
    "-a -t 192.168.40.200:443 -r 192.168.50.6:443 -i",
    "-A -u [fd40::200]:53 -s rr",
    "-a -u [fd40::200]:53 -r [fd50::5]:5353 -m",
    "-a -u [fd40::200]:53 -r [fd50::6]:53 -m",
    "-A -t [fd40::200]:443 -s rr -p 30",
];

/// What becomes of the rules; a packet that is under way then may go either way.
const EDITS: [&str; 4] = [
    "-e -u 192.168.40.200:53 -r 192.168.50.5:5353 -m -w 0",
    "-d -u 192.168.40.200:53 -r 192.168.50.6:53",
    "-a -t [fd40::200]:443 -r [fd50::5]:443 -m",
    "-e -t 192.168.40.200:443 -r 192.168.50.5:443 -i --tun-type gre",
];

/// How many pieces that overtook their first wait, at most.
const HELD: usize = 16;

/// One piece of a packet that was cut.
#[derive(Clone)]
struct Piece {
    packet: usize,
    port: u16,
    offset: usize,
    frame: Vec<u8>,
}

/// Where a packet's first piece went: port, destination's MAC and addresses.
type Way = (u16, Vec<u8>, Vec<u8>);

pub struct Pieces {
    rig: Rig,
    pool: Vec<Piece>,
    held: Vec<Piece>,
    /// Way of the first piece of each packet, once it went; how far it came when it was damaged
    /// or the rules were changed since.
    ways: Vec<Option<Way>>,
    is_plain: Vec<bool>,
}

impl Pieces {
    pub fn begin() -> Pieces {
        let mut rig = Rig::in_memory(memory());
        for rule in RULES {
            rig.ipvsadm(rule);
        }
        Pieces {
            rig,
            pool: Vec::new(),
            held: Vec::new(),
            ways: Vec::new(),
            is_plain: Vec::new(),
        }
    }

    pub fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.byte() % 8 {
            0 | 1 => self.cut(bytes),
            2..=4 => {
                let how = bytes.byte();
                let Some(at) = usize::from(how).checked_rem(self.pool.len()) else {
                    return;
                };
                // One in four stays and comes again.
                let piece = match bytes.byte() & 3 {
                    0 => self.pool[at].clone(),
                    _ => self.pool.swap_remove(at),
                };
                self.arrive(piece);
            }
            5 => {
                let at = usize::from(bytes.byte());
                let Some(at) = at.checked_rem(self.pool.len()) else {
                    return;
                };
                let mut piece = self.pool[at].clone();
                self.is_plain[piece.packet] = false;
                for _ in 0..=bytes.byte() & 3 {
                    let (place, value) = (14 + usize::from(bytes.byte()), bytes.byte());
                    if let Some(byte) = piece.frame.get_mut(place) {
                        *byte = value;
                    }
                }
                crate::story::repair(&mut piece.frame);
                self.arrive(piece);
            }
            6 => {
                let seconds = bytes.one_of(&[1u64, 29, 31, 61]);
                pass(&mut self.rig, Duration::from_secs(seconds));
            }
            _ => {
                self.is_plain.fill(false);
                self.rig.ipvsadm(bytes.one_of(&EDITS));
            }
        }
    }

    /// One more packet, cut as the bytes say.
    fn cut(&mut self, bytes: &mut Bytes<'_>) {
        let how = bytes.byte();
        let is_v4 = how & 1 == 0;
        let from_server = how & 2 != 0;
        let client_port = 4000 + u16::from(how >> 5);
        let (client, vip, server) = match is_v4 {
            true => ("172.16.1.7", "192.168.40.200", "192.168.50.5"),
            false => ("2001:db8::7", "fd40::200", "fd50::5"),
        };
        let (kind, port) = match how & 4 {
            0 => ("udp", 53),
            _ => ("tcp", 443),
        };
        let (eth, src, dst, ports) = match from_server {
            false => ("04 > 52:54:..:01", client, vip, (client_port, port)),
            true => (
                "05 > 52:54:..:02",
                server,
                client,
                (if port == 53 { 5353 } else { port }, client_port),
            ),
        };
        let flags = if kind == "tcp" { " syn" } else { "" };
        let size = 16 + usize::from(bytes.byte()) * 5;
        let id = self.ways.len() + 1;
        let ip = match is_v4 {
            true => format!("ip {src} > {dst} id {id}"),
            false => format!("ip6 {src} > {dst} | fragment id {id}"),
        };
        let (sport, dport) = ports;
        let whole = notation::build(&format!(
            "eth 02:04:..:{eth} | {ip} | {kind} {sport} > {dport}{flags} | bytes {size}"
        ));
        let head = if is_v4 { 34 } else { 62 };
        let payload = &whole[head..];
        let mut offset = 0;
        while offset < payload.len() {
            let len = (8 + usize::from(bytes.byte()) * 8).min(payload.len() - offset);
            let more = offset + len < payload.len();
            let mut frame = whole[..head].to_vec();
            frame.extend(&payload[offset..offset + len]);
            let field = offset as u16 | u16::from(more);
            if is_v4 {
                let field = offset as u16 / 8 | u16::from(more) << 13;
                frame[16..18].copy_from_slice(&(20 + len as u16).to_be_bytes());
                frame[20..22].copy_from_slice(&field.to_be_bytes());
                crate::story::repair(&mut frame);
            } else {
                frame[18..20].copy_from_slice(&(8 + len as u16).to_be_bytes());
                frame[56..58].copy_from_slice(&field.to_be_bytes());
            }
            let port = u16::from(from_server);
            let packet = self.ways.len();
            self.pool.push(Piece {
                packet,
                port,
                offset,
                frame,
            });
            offset += len;
        }
        self.ways.push(None);
        self.is_plain.push(true);
    }

    /// As the poll loop does it.
    fn arrive(&mut self, piece: Piece) {
        let seen = self.rig.worker.first_fragments();
        self.inject(piece);
        if self.rig.worker.first_fragments() != seen {
            for piece in std::mem::take(&mut self.held) {
                self.inject(piece);
            }
        }
    }

    fn inject(&mut self, piece: Piece) {
        let (verdict, out) = self.rig.inject(piece.port, &piece.frame);
        let first = piece.offset == 0;
        match verdict {
            Verdict::Hold => {
                assert!(
                    !first || !self.is_plain[piece.packet],
                    "a first piece waits"
                );
                self.held.push(piece);
                if self.held.len() > HELD {
                    self.held.remove(0);
                }
            }
            Verdict::Transmit(port) => {
                check_sent(&out);
                let l3 = 14 + if out[14] >> 4 == 4 { 12 } else { 8 };
                let addresses = if out[14] >> 4 == 4 { 8 } else { 32 };
                let way = (port.0, out[..6].to_vec(), out[l3..l3 + addresses].to_vec());
                if !self.is_plain[piece.packet] {
                    return;
                }
                match &self.ways[piece.packet] {
                    _ if first => self.ways[piece.packet] = Some(way),
                    Some(before) => {
                        assert_eq!(*before, way, "a piece went another way than the first");
                        let tail = &piece.frame[piece.frame.len().min(62)..];
                        assert!(out.ends_with(tail), "the payload of a later piece");
                    }
                    None => panic!("a piece was sent before its first"),
                }
            }
            _ => {}
        }
    }

    pub fn end(mut self) {
        check_counts(&mut self.rig);
    }
}

/// As many as the table follows at once; more than that cannot be remembered.
const ROOM: usize = 4096;

/// The table of first pieces alone, against a map that forgets nothing.
pub fn table(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut table = Fragments::new(HashKey([1, 2, 3, 4]));
    // What was decided last, when, and how many bytes have passed since.
    let mut decided: HashMap<(u8, u32, bool), (u16, Instant)> = HashMap::new();
    let mut now = Instant::from_secs(1);
    while !bytes.is_empty() {
        let how = bytes.byte();
        let (host, id) = (bytes.byte() & 3, u32::from(bytes.byte()));
        let is_v4 = how & 1 == 0;
        let src = match is_v4 {
            true => Addr::v4([10, 0, 0, host]),
            false => Addr::v6([host; 16]),
        };
        let mut flow = Flow {
            src,
            dst: src,
            l4_len: 8 + u16::from(bytes.byte()) * 8,
            protocol: Protocol::Udp.number(),
            ..Flow::EMPTY
        };
        let mut piece = Fragment {
            id,
            offset: 0,
            more: true,
        };
        let key = (host, id, is_v4);
        match how >> 1 & 3 {
            0 => {
                // A fate that can be told from others.
                let owner = bytes.byte();
                table.decided(&flow, piece, Fate::Worker(owner), now);
                decided.insert(key, (u16::from(owner), now));
            }
            1 | 2 => {
                piece.offset = bytes.word() & !7;
                piece.more = how & 8 != 0;
                let fate = table.follow(&flow, piece, now);
                let Some(fate) = fate else { continue };
                let Some((owner, at)) = decided.get(&key) else {
                    panic!("nothing was decided about {key:?}");
                };
                assert_eq!(fate, Fate::Worker(*owner as u8));
                let limit = if is_v4 { 30 } else { 60 };
                assert!(now.since(*at) < Duration::from_secs(limit), "it is over");
            }
            _ if how & 0x18 == 0 => {
                // A flood: no more than there is room for is remembered, and the newest is.
                let mut left = 0;
                for n in 0..ROOM as u32 + 64 {
                    piece.id = 1000 + n;
                    table.decided(&flow, piece, Fate::Dropped(DropReason::Fragment), now);
                    piece.offset = 8;
                    assert!(table.follow(&flow, piece, now).is_some(), "the newest");
                    piece.offset = 0;
                }
                flow.l4_len = 8;
                piece.offset = 8;
                for n in 0..ROOM as u32 + 64 {
                    piece.id = 1000 + n;
                    left += usize::from(table.follow(&flow, piece, now).is_some());
                }
                assert!(left <= ROOM, "{left} packets are followed");
            }
            _ => now = now + Duration::from_millis(u64::from(bytes.word())),
        }
    }
}
