//! What a node says of itself once a second: a datagram beside the synchronisation messages, on a
//! port of its own where no kernel listens.
//!
//! ```text
//!  0      4  5     6      7       8     16    24   28    30        32        40           48
//! |"RVSH"|1 |flags|syncid|sockets|node |boot |run |tcp  |interval |sequence |connections |
//! |sockets × (messages sent, entries sent)                                                |
//! ```
//!
//! Numbers are in network byte order. Bytes 2 and 3 are the size field of a synchronisation message
//! and say more than any datagram has, so a node that takes this for one drops it.

/// First bytes.
const MAGIC: [u8; 4] = *b"RVSH";
/// Of the format. A node with another one is not spoken to.
pub const VERSION: u8 = 1;
/// Bytes before the counts.
const FIXED: usize = 48;
/// Most sockets that a daemon has.
pub const MAX_SOCKETS: usize = 64;
/// Longest hello, bytes.
pub const MAX: usize = FIXED + MAX_SOCKETS * 16;

mod flag {
    pub const MASTER: u8 = 1;
    pub const BACKUP: u8 = 2;
    pub const LEAVES: u8 = 4;
    pub const ALL: u8 = MASTER | BACKUP | LEAVES;
}

/// Messages and entries that a master has sent by one socket since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Messages.
    pub messages: u64,
    /// Entries in them.
    pub entries: u64,
}

/// A node, as it tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// It announces connections.
    pub is_master: bool,
    /// It takes over what others announce.
    pub is_backup: bool,
    /// It ends in order: its silence means nothing.
    pub leaves: bool,
    /// Group of balancers.
    pub syncid: u8,
    /// Which node: the MAC of its interface.
    pub node: u64,
    /// Which run of it: drawn at its start.
    pub boot: u64,
    /// Which of its masters: the counts begin anew with each.
    pub run: u32,
    /// TCP port that copies of its table are to be had at; 0: none.
    pub tcp_port: u16,
    /// Milliseconds to its next hello.
    pub interval_ms: u16,
    /// Number of this hello in its run.
    pub sequence: u64,
    /// Entries in its table.
    pub connections: u64,
    /// By socket, the first port first; empty without a master.
    pub sent: Vec<Sent>,
}

/// Why a datagram is no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHello {
    /// Something else altogether.
    Magic,
    /// Of this version.
    Version(u8),
    /// It has not the length that its number of sockets asks for, or too many sockets.
    Length(usize),
    /// Flags that are not known, or no interval.
    Value,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], NoHello> {
        let (front, rest) = (self.0.split_first_chunk()).ok_or(NoHello::Length(self.0.len()))?;
        self.0 = rest;
        Ok(*front)
    }

    fn long(&mut self) -> Result<u64, NoHello> {
        self.take().map(u64::from_be_bytes)
    }
}

impl Hello {
    /// Reads one.
    ///
    /// # Errors
    /// See [`NoHello`].
    pub fn decode(bytes: &[u8]) -> Result<Hello, NoHello> {
        let mut fields = Reader(bytes);
        if fields.take().map_err(|_| NoHello::Magic)? != MAGIC {
            return Err(NoHello::Magic);
        }
        let [version, flags, syncid, sockets] = fields.take()?;
        if version != VERSION {
            return Err(NoHello::Version(version));
        }
        let sockets = usize::from(sockets);
        if sockets > MAX_SOCKETS || bytes.len() != FIXED + sockets * 16 {
            return Err(NoHello::Length(bytes.len()));
        }
        let mut hello = Hello {
            is_master: flags & flag::MASTER != 0,
            is_backup: flags & flag::BACKUP != 0,
            leaves: flags & flag::LEAVES != 0,
            syncid,
            node: fields.long()?,
            boot: fields.long()?,
            run: fields.take().map(u32::from_be_bytes)?,
            tcp_port: fields.take().map(u16::from_be_bytes)?,
            interval_ms: fields.take().map(u16::from_be_bytes)?,
            sequence: fields.long()?,
            connections: fields.long()?,
            sent: Vec::new(),
        };
        if flags & !flag::ALL != 0 || hello.interval_ms == 0 {
            return Err(NoHello::Value);
        }
        for _ in 0..sockets {
            hello.sent.push(Sent {
                messages: fields.long()?,
                entries: fields.long()?,
            });
        }
        Ok(hello)
    }

    /// Writes it; of more than [`MAX_SOCKETS`] sockets the first ones.
    pub fn encode(&self) -> Vec<u8> {
        let sent = self.sent.get(..MAX_SOCKETS).unwrap_or(&self.sent);
        let mut flags = 0;
        for (is_set, bit) in [
            (self.is_master, flag::MASTER),
            (self.is_backup, flag::BACKUP),
            (self.leaves, flag::LEAVES),
        ] {
            flags |= if is_set { bit } else { 0 };
        }
        let mut bytes = Vec::with_capacity(FIXED + sent.len() * 16);
        bytes.extend(MAGIC);
        bytes.extend([VERSION, flags, self.syncid, sent.len() as u8]);
        bytes.extend(self.node.to_be_bytes());
        bytes.extend(self.boot.to_be_bytes());
        bytes.extend(self.run.to_be_bytes());
        bytes.extend(self.tcp_port.to_be_bytes());
        bytes.extend(self.interval_ms.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.connections.to_be_bytes());
        for socket in sent {
            bytes.extend(socket.messages.to_be_bytes());
            bytes.extend(socket.entries.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use dataplane::sync::wire::Message;
    use proptest::prelude::*;

    use super::*;

    fn any_hello() -> impl Strategy<Value = Hello> {
        let roles = (any::<bool>(), any::<bool>(), any::<bool>());
        let numbers = (any::<u8>(), any::<u64>(), any::<u64>(), any::<u32>());
        let rest = (any::<u16>(), 1u16.., any::<u64>(), any::<u64>());
        let sent = prop::collection::vec(any::<(u64, u64)>(), 0..=MAX_SOCKETS);
        (roles, numbers, rest, sent).prop_map(|(roles, numbers, rest, sent)| Hello {
            is_master: roles.0,
            is_backup: roles.1,
            leaves: roles.2,
            syncid: numbers.0,
            node: numbers.1,
            boot: numbers.2,
            run: numbers.3,
            tcp_port: rest.0,
            interval_ms: rest.1,
            sequence: rest.2,
            connections: rest.3,
            sent: (sent.into_iter())
                .map(|(messages, entries)| Sent { messages, entries })
                .collect(),
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(hello in any_hello()) {
            let bytes = hello.encode();
            prop_assert!(bytes.len() <= MAX);
            prop_assert_eq!(Hello::decode(&bytes), Ok(hello));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Hello::decode(&bytes);
        }

        /// One byte more, less or changed: read as what it then says, or refused.
        #[test]
        fn damage_is_survived(hello in any_hello(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = hello.encode();
            let at = at.index(bytes.len());
            prop_assert!(Hello::decode(&bytes[..at]).is_err());
            bytes[at] = byte;
            if let Ok(read) = Hello::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes.clone());
            }
            bytes.push(0);
            prop_assert!(Hello::decode(&bytes).is_err());
        }
    }

    /// A kernel at the port, of whatever version, drops it by its size; so do we.
    #[test]
    fn it_is_no_message() {
        for sockets in 0..=MAX_SOCKETS {
            let hello = Hello {
                interval_ms: 1000,
                sent: vec![Sent::default(); sockets],
                ..Hello::default()
            };
            assert!(Message::decode(&hello.encode()).is_err());
        }
    }
}
