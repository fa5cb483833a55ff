//! Announcements into messages: one is open for each port, and goes when it is full or old.

use std::time::Duration;

use dataplane::addr::Endpoint;
use dataplane::sync::wire::{Encoder, NotWritten, Version};
use dataplane::sync::{EngineData, SyncEntry};
use dataplane::time::Instant;

/// How long an announcement waits for others to go with it. (The kernel's wait two to three.)
pub const AGE: Duration = Duration::from_secs(1);

/// Least room of a message: an IPv6 connection. (The kernel makes room for whatever comes.)
const LEAST: usize = 8 + 72;

/// The message of one port.
struct Open {
    encoder: Encoder,
    buffer: Vec<u8>,
    /// When its first entry came.
    since: Instant,
}

/// See the module.
pub struct Packer {
    syncid: u8,
    version: Version,
    open: Vec<Open>,
}

impl Packer {
    /// For so many ports. A message has room for one entry whatever `maxlen` says, and of the usual
    /// size for one with all options.
    pub fn new(ports: usize, syncid: u8, maxlen: u16, version: Version) -> Packer {
        let room = usize::from(maxlen).max(LEAST);
        let open = |_| Open {
            encoder: Encoder::new(version, syncid),
            buffer: vec![0; room],
            since: Instant(0),
        };
        Packer {
            syncid,
            version,
            open: (0..ports).map(open).collect(),
        }
    }

    /// Goes over to a version; messages of the other one are sent.
    pub fn set_version(&mut self, version: Version, mut send: impl FnMut(usize, &[u8])) {
        if version == self.version {
            return;
        }
        self.close(&mut send);
        self.version = version;
        for open in &mut self.open {
            open.encoder = Encoder::new(version, self.syncid);
        }
    }

    /// Puts an announcement into the message of its port, which `send` gets when it is full. False
    /// if the version has no words for it.
    pub fn push(
        &mut self,
        now: Instant,
        entry: &SyncEntry,
        engine: &EngineData<'_>,
        mut send: impl FnMut(usize, &[u8]),
    ) -> bool {
        let port = port_of(&entry.client, self.open.len());
        for _ in 0..2 {
            let Some(open) = self.open.get_mut(port) else {
                return false;
            };
            if open.encoder.is_empty() {
                open.since = now;
            }
            match open.encoder.push(&mut open.buffer, entry, engine) {
                Ok(()) => return true,
                Err(NotWritten::Impossible) => return false,
                Err(NotWritten::Full) => self.flush(port, &mut send),
            }
        }
        false
    }

    /// Sends what has waited long enough.
    pub fn tend(&mut self, now: Instant, mut send: impl FnMut(usize, &[u8])) {
        for port in 0..self.open.len() {
            if now.since(self.open[port].since) >= AGE {
                self.flush(port, &mut send);
            }
        }
    }

    /// Gives up what is open, however young.
    pub fn close(&mut self, mut send: impl FnMut(usize, &[u8])) {
        for port in 0..self.open.len() {
            self.flush(port, &mut send);
        }
    }

    fn flush(&mut self, port: usize, send: &mut impl FnMut(usize, &[u8])) {
        let Some(open) = self.open.get_mut(port) else {
            return;
        };
        if !open.encoder.is_empty() {
            let len = open.encoder.finish(&mut open.buffer);
            send(port, &open.buffer[..len]);
            open.encoder = Encoder::new(self.version, self.syncid);
        }
    }
}

/// Which of so many ports a connection goes by: always the same, so that what is told of it comes
/// in order.
fn port_of(client: &Endpoint, ports: usize) -> usize {
    let bytes = client.addr.octets();
    let hash = bytes.iter().fold(u32::from(client.port), |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u32::from(*byte))
    });
    (hash.wrapping_mul(0x9e37_79b1) >> 16) as usize % ports.max(1)
}

#[cfg(test)]
mod tests {
    use dataplane::addr::Addr;
    use dataplane::sync::wire::Message;

    use super::*;

    const NONE: EngineData<'static> = EngineData {
        data: b"",
        name: b"",
    };

    fn entry(n: u32) -> SyncEntry {
        let [_, b, c, d] = n.to_be_bytes();
        SyncEntry {
            protocol: 6,
            flags: 0,
            state: 1,
            client: Endpoint::new(Addr::v4([10, b, c, d]), 40000),
            virtual_: Endpoint::new(Addr::v4([10, 0, 0, 1]), 80),
            dest: Endpoint::new(Addr::v4([10, 0, 0, 2]), 80),
            fwmark: 0,
            timeout: 900,
            sequence: None,
        }
    }

    fn at(ms: u64) -> Instant {
        Instant(1_000_000_000_000 + ms * 1_000_000)
    }

    fn counted(message: &[u8]) -> usize {
        Message::decode(message)
            .unwrap()
            .entries()
            .map(Result::unwrap)
            .count()
    }

    #[test]
    fn full_messages_go_at_once_and_others_after_a_second() {
        let mut packer = Packer::new(1, 7, 1472, Version::V1);
        let mut sent = Vec::new();
        for n in 0..100 {
            packer.push(at(0), &entry(n), &NONE, |_, m| sent.push(counted(m)));
        }
        assert_eq!(sent, [40, 40]);
        packer.tend(at(999), |_, m| sent.push(counted(m)));
        assert_eq!(sent.len(), 2);
        packer.tend(at(1000), |_, m| sent.push(counted(m)));
        assert_eq!(sent, [40, 40, 20]);
        packer.tend(at(9000), |_, m| sent.push(counted(m)));
        assert_eq!(sent.len(), 3, "nothing is sent twice");
        packer.push(at(9500), &entry(1), &NONE, |_, _| panic!("too soon"));
        packer.tend(at(10000), |_, _| panic!("too soon"));
        packer.tend(at(10500), |_, m| sent.push(counted(m)));
        assert_eq!(sent[3], 1);
    }

    #[test]
    fn short_messages_and_many_entries() {
        let mut packer = Packer::new(1, 0, 100, Version::V1);
        let mut sent = Vec::new();
        for n in 0..10 {
            packer.push(at(0), &entry(n), &NONE, |_, m| sent.push(m.len()));
        }
        assert_eq!(sent, [80; 4]);
        let mut packer = Packer::new(1, 0, 65507, Version::V1);
        let mut sent = Vec::new();
        for n in 0..600 {
            packer.push(at(0), &entry(n), &NONE, |_, m| sent.push(counted(m)));
        }
        assert_eq!(sent, [255, 255]);
    }

    #[test]
    fn connections_keep_to_their_port() {
        let mut packer = Packer::new(4, 0, 1472, Version::V1);
        let mut by_port = vec![Vec::new(); 4];
        for _ in 0..2 {
            for n in 0..400 {
                packer.push(at(0), &entry(n), &NONE, |port, m| {
                    by_port[port].push(m.to_vec())
                });
            }
        }
        packer.tend(at(2000), |port, m| by_port[port].push(m.to_vec()));
        let clients = |messages: &[Vec<u8>]| -> Vec<Endpoint> {
            let entries = messages
                .iter()
                .flat_map(|m| Message::decode(m).unwrap().entries());
            entries.map(|e| e.unwrap().0.client).collect()
        };
        let all: Vec<Vec<Endpoint>> = by_port.iter().map(|m| clients(m)).collect();
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 800);
        for (n, port) in all.iter().enumerate() {
            assert!(port.len() > 100, "port {n}: {}", port.len());
            let half = port.len() / 2;
            assert_eq!(port[..half], port[half..], "port {n}");
        }
    }

    #[test]
    fn another_version_begins_another_message() {
        let mut packer = Packer::new(1, 3, 1472, Version::V1);
        let mut sent: Vec<Version> = Vec::new();
        let version = |m: &[u8]| Message::decode(m).unwrap().version;
        packer.push(at(0), &entry(1), &NONE, |_, _| panic!("not full"));
        packer.set_version(Version::V0, |_, m| sent.push(version(m)));
        packer.push(at(0), &entry(2), &NONE, |_, _| panic!("not full"));
        packer.tend(at(2000), |_, m| sent.push(version(m)));
        assert_eq!(sent, [Version::V1, Version::V0]);
        let six = SyncEntry {
            client: Endpoint::new(Addr::v6([0x20; 16]), 1),
            virtual_: Endpoint::new(Addr::v6([0x21; 16]), 1),
            dest: Endpoint::new(Addr::v6([0x22; 16]), 1),
            ..entry(1)
        };
        assert!(!packer.push(at(0), &six, &NONE, |_, _| panic!("not full")));
    }
}
