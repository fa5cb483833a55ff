//! FTP control connections through NAT: whatever both ends say, each sees a stream without holes.

use std::time::Duration;

use dataplane::packet::Verdict;

use crate::bytes::Bytes;
use crate::notation;
use crate::rig::Rig;
use crate::story::{check_counts, check_sent, memory, pass};

/// Client, virtual address and real server.
const V4: [&str; 3] = ["172.16.1.7", "192.168.40.200", "192.168.50.5"];
const V6: [&str; 3] = ["2001:db8::7", "fd40::200", "fd50::5"];

/// Whose segment it is.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Client,
    Server,
}

pub struct Dialogue {
    rig: Rig,
    is_v4: bool,
    /// Whether to wait until all is over: that takes long.
    waits: bool,
    ends: [&'static str; 3],
    /// The real server's control port.
    server_port: u16,
    /// The client's, another one for each control connection.
    client_port: u16,
    /// Next numbers: the client's, the server's as it counts, and the latter as the client sees them.
    client: u32,
    server: u32,
    seen: u32,
    /// Ports that were named last.
    named: [u16; 4],
    last: Vec<(From, Vec<u8>)>,
}

impl Dialogue {
    pub fn begin(bytes: &mut Bytes<'_>) -> Dialogue {
        let how = bytes.byte();
        let is_v4 = how & 3 != 3;
        let ends = if is_v4 { V4 } else { V6 };
        let server_port = if how & 4 == 0 { 21 } else { 2121 };
        let mut rig = Rig::in_memory(memory());
        let service = at(ends[1], 21);
        let persistent = if how & 8 == 0 { "" } else { " -p 30" };
        rig.ipvsadm(&format!("-A -t {service} -s rr{persistent}"));
        rig.ipvsadm(&format!(
            "-a -t {service} -r {} -m",
            at(ends[2], server_port)
        ));
        let mut dialogue = Dialogue {
            rig,
            is_v4,
            waits: how >> 4 == 15,
            ends,
            server_port,
            client_port: 40000,
            client: 0,
            server: 0,
            seen: 0,
            named: [50000; 4],
            last: Vec::new(),
        };
        dialogue.connect(bytes);
        dialogue
    }

    /// One more control connection.
    fn connect(&mut self, bytes: &mut Bytes<'_>) {
        self.client_port = self.client_port.wrapping_add(1).max(40001);
        self.client = u32::from(bytes.word()) << 16;
        self.server = u32::MAX - u32::from(bytes.word());
        self.seen = self.server;
        self.say(From::Client, "syn", b"", "");
        self.say(From::Server, "syn ack", b"", "");
        self.say(From::Client, "ack", b"", "");
    }

    pub fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.byte() % 8 {
            0 | 1 => {
                let text = self.text(From::Client, bytes);
                self.say(From::Client, "psh ack", &text, "");
            }
            2 | 3 => {
                let text = self.text(From::Server, bytes);
                self.say(From::Server, "psh ack", &text, "");
            }
            4 => {
                // Sent again, perhaps damaged.
                let back = usize::from(bytes.byte()) % self.last.len().max(1);
                let Some((from, mut frame)) = self.last.iter().rev().nth(back).cloned() else {
                    return;
                };
                for _ in 0..bytes.byte() >> 6 {
                    let (place, value) = (usize::from(bytes.word()), bytes.byte());
                    if let Some(byte) = frame.get_mut(place) {
                        *byte = value;
                    }
                }
                let (verdict, out) = self.rig.inject(port_of(from), &frame);
                if matches!(verdict, Verdict::Transmit(_)) {
                    check_sent(&out);
                }
            }
            5 => self.data(bytes),
            6 => {
                let seconds = bytes.one_of(&[1u64, 10, 61, 121]);
                pass(&mut self.rig, Duration::from_secs(seconds));
            }
            _ => match bytes.byte() % 8 {
                0 => self.connect(bytes),
                1 => self.say(From::Server, "fin ack", b"", ""),
                2 => self.say(From::Client, "fin ack", b"", ""),
                3 => self.say(From::Client, "rst", b"", ""),
                how => {
                    // Selective acknowledgements: their edges are whatever they are.
                    let edges = bytes.slice(usize::from(how - 3) * 8);
                    let mut options = vec![1, 1, 5, edges.len() as u8 + 2];
                    options.extend(edges);
                    options.resize(options.len().next_multiple_of(4), 0);
                    let options = format!(" options {}", notation::to_hex(&options));
                    self.say(From::Client, "ack", b"", &options);
                }
            },
        }
    }

    /// Some lines, most of which mean something.
    fn text(&mut self, from: From, bytes: &mut Bytes<'_>) -> Vec<u8> {
        let mut text = Vec::new();
        for _ in 0..=bytes.byte() % 3 {
            let how = bytes.byte();
            let port = bytes.word();
            self.named[usize::from(how >> 6)] = port;
            let [high, low] = port.to_be_bytes();
            let client = self.ends[0].replace('.', ",");
            let server = self.ends[2].replace('.', ",");
            let family = if self.is_v4 { 1 } else { 2 };
            let line = match (from, how % 8) {
                (From::Client, 0) => "PASV\r\n".to_owned(),
                (From::Client, 1) => "EPSV\r\n".to_owned(),
                (From::Client, 2) => format!("PORT {client},{high},{low}\r\n"),
                (From::Client, 3) => format!("EPRT |{family}|{}|{port}|\r\n", self.ends[0]),
                (From::Client, 4) => format!("epsv {family} \r\n"),
                (From::Server, 0) => format!("227 Passive ({server},{high},{low})\r\n"),
                (From::Server, 1) => format!("229 Extended (|||{port}|)\r\n"),
                (From::Server, 2) => format!("227 ({high:03},{low},1,2,{low},9)\r\n"),
                (From::Server, 3) => "230-".to_owned(),
                (_, 5) => {
                    text.resize(text.len() + usize::from(port % 1300), b'x');
                    "\r\n".to_owned()
                }
                (_, 6) => "\n".to_owned(),
                _ => {
                    text.extend(bytes.slice(usize::from(port) % 64));
                    continue;
                }
            };
            text.extend(line.bytes());
        }
        // An answer to a packet too long is not a segment.
        text.truncate(1400);
        text
    }

    /// A segment in its order, and what the other end sees of it.
    fn say(&mut self, from: From, flags: &str, text: &[u8], options: &str) {
        let [client, vip, server] = self.ends;
        let ip = if self.is_v4 { "ip" } else { "ip6" };
        let (eth, src, dst, ports, seq, ack) = match from {
            From::Client => (
                "eth 02:04:c0:a8:28:fe > 52:54:..:01",
                client,
                vip,
                format!("{} > 21", self.client_port),
                self.client,
                self.seen,
            ),
            From::Server => (
                "eth 02:04:c0:a8:32:05 > 52:54:..:02",
                server,
                client,
                format!("{} > {}", self.server_port, self.client_port),
                self.server,
                self.client,
            ),
        };
        let ack = if flags.contains("ack") { ack } else { 0 };
        let data = match text {
            b"" => String::new(),
            text => format!(" | data {}", notation::to_hex(text)),
        };
        let frame = notation::build(&format!(
            "{eth} | {ip} {src} > {dst} | tcp {ports} {flags} seq {seq} ack {ack}{options}{data}"
        ));
        let (verdict, out) = self.rig.inject(port_of(from), &frame);
        // An address that went by unchanged, because nobody had asked yet, does not come again.
        let told = from == From::Server && contains(text, b"227 ");
        if !told || !contains(&out, text) {
            self.last.push((from, frame));
        }
        if self.last.len() > 8 {
            self.last.remove(0);
        }
        // It is sent again when it gets lost.
        if !matches!(verdict, Verdict::Transmit(_)) {
            return;
        }
        check_sent(&out);
        let passed = Segment::read(&out);
        let one = u32::from(flags.contains("syn") || flags.contains("fin"));
        let len = text.len() as u32 + one;
        match from {
            From::Client if passed.dst_port == self.server_port => {
                assert_eq!(passed.text, text, "what the client says");
                assert_eq!(passed.seq, seq, "the client's numbers");
                if flags.contains("ack") {
                    assert_eq!(passed.ack, self.server, "what the client has seen");
                }
                self.client = self.client.wrapping_add(len);
            }
            From::Server if passed.dst_port == self.client_port => {
                assert_eq!(passed.seq, self.seen, "the server's numbers");
                if flags.contains("ack") {
                    assert_eq!(passed.ack, self.client, "what the server has seen");
                }
                if passed.text != text {
                    assert!(self.is_v4 && contains(text, b"227 "), "nothing is named");
                    assert!(contains(passed.text, b"192,168,40,200,"), "not our address");
                }
                self.server = self.server.wrapping_add(len);
                self.seen = self.seen.wrapping_add(passed.text.len() as u32 + one);
            }
            // Not of this connection any more.
            _ => {}
        }
    }

    /// A segment of a data connection.
    fn data(&mut self, bytes: &mut Bytes<'_>) {
        let how = bytes.byte();
        let named = self.named[usize::from(how & 3)];
        let other = 45000 + u16::from(bytes.byte() & 3);
        let [client, vip, server] = self.ends;
        let ip = if self.is_v4 { "ip" } else { "ip6" };
        let from = if how & 4 == 0 {
            From::Client
        } else {
            From::Server
        };
        // Passive ones go to the named port, active ones come from the port below the server's own.
        let below = self.server_port - 1;
        let (eth, src, dst, ports) = match (from, how & 8 == 0) {
            (From::Client, true) => ("01", client, vip, format!("{other} > {named}")),
            (From::Client, false) => ("01", client, vip, format!("{named} > 20")),
            (From::Server, true) => ("02", server, client, format!("{named} > {other}")),
            (From::Server, false) => ("02", server, client, format!("{below} > {named}")),
        };
        let flags = bytes.one_of(&["syn", "ack", "fin ack", "rst", "syn ack"]);
        let text = format!(
            "eth 02:04:c0:a8:28:fe > 52:54:..:{eth} | {ip} {src} > {dst} | tcp {ports} {flags}"
        );
        let frame = notation::build(&text);
        let (verdict, out) = self.rig.inject(port_of(from), &frame);
        if matches!(verdict, Verdict::Transmit(_)) {
            check_sent(&out);
            assert!(Segment::read(&out).text.is_empty());
        }
    }

    pub fn end(mut self) {
        check_counts(&mut self.rig);
        if !self.waits {
            return;
        }
        // Whatever was announced ends, and its control connection with it.
        for _ in 0..40 {
            pass(&mut self.rig, Duration::from_secs(60));
        }
        assert_eq!(self.rig.connections().len(), 0, "connections are left");
        check_counts(&mut self.rig);
    }
}

fn at(addr: &str, port: u16) -> String {
    match addr.contains(':') {
        true => format!("[{addr}]:{port}"),
        false => format!("{addr}:{port}"),
    }
}

fn port_of(from: From) -> u16 {
    match from {
        From::Client => 0,
        From::Server => 1,
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part == word)
}

/// A TCP segment that was sent.
struct Segment<'a> {
    dst_port: u16,
    seq: u32,
    ack: u32,
    text: &'a [u8],
}

impl Segment<'_> {
    /// Its checksum is right.
    fn read(frame: &[u8]) -> Segment<'_> {
        let ip = &frame[14..];
        let (addresses, tcp) = match ip[0] >> 4 {
            4 => {
                let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
                (&ip[12..20], &ip[usize::from(ip[0] & 15) * 4..total])
            }
            _ => {
                let len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
                (&ip[8..40], &ip[40..40 + len])
            }
        };
        let end = [0, 6, (tcp.len() >> 8) as u8, tcp.len() as u8];
        assert_eq!(
            notation::checksum(&[addresses, &end, tcp]),
            0,
            "TCP checksum"
        );
        let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
        Segment {
            dst_port: u16::from_be_bytes([tcp[2], tcp[3]]),
            seq: word(4),
            ack: word(8),
            text: &tcp[usize::from(tcp[12] >> 4) * 4..],
        }
    }
}
