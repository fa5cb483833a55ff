//! Messages of both versions, byte by byte (`ip_vs_sync.c` of Linux 6.1).
//!
//! ```text
//! version 1                                version 0
//!  0 1 2 3                                  0 1 2 3
//! |0|id|size |                             |n|id|size |
//! |n|1 |0 0  |  n entries, each at a       n entries of 24 bytes, those with
//!               multiple of 4 bytes        sequence data of 48
//! ```
//!
//! Numbers are in network byte order, apart from the sequence data of version 0, which are in the
//! sender's. Nothing here allocates: [`Message::entries`] reads in place, [`Encoder`] writes into a
//! buffer of the caller's.

use super::{EngineData, Sequence, SyncEntry, flag};
use crate::addr::{Addr, Endpoint, Family};
use crate::helper::sequence::Adjustment;

/// Header of version 0, bytes.
const HEADER_0: usize = 4;
/// Header of version 1, bytes.
const HEADER_1: usize = 8;
/// An entry of version 0 without sequence data.
const ENTRY_0: usize = 24;
/// The fixed part of an IPv4 entry of version 1.
const ENTRY_V4: usize = 36;
/// The same of IPv6.
const ENTRY_V6: usize = 72;
/// Sequence data: three words for each direction.
const SEQUENCE: usize = 24;
/// Most entries that the count of a message can say.
pub const MAX_ENTRIES: u8 = u8::MAX;
/// Longest name of a persistence engine (`IP_VS_PENAME_MAXLEN`).
pub const MAX_NAME: usize = 16;
/// Longest entry: IPv6 with all options.
pub const MAX_ENTRY: usize = ENTRY_V6 + 2 + SEQUENCE + 2 + 255 + 2 + MAX_NAME;

/// Types of options.
mod option {
    pub const SEQUENCE: u8 = 1;
    pub const DATA: u8 = 2;
    pub const NAME: u8 = 3;
    /// With this bit an unknown option is passed over.
    pub const OPTIONAL: u8 = 0x40;
}

/// Format of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// The old one: IPv4 only, no timeouts, marks or engine data.
    V0,
    /// The one in use since Linux 2.6.39.
    #[default]
    V1,
}

/// Why a datagram is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than a header.
    Short(usize),
    /// Its size field differs from what there is.
    Size {
        /// What it says.
        says: u16,
        /// Bytes received.
        have: usize,
    },
}

/// Why an entry is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadEntry {
    /// It ends behind the message, or its length is less than it must be. Nothing after it can be
    /// read.
    Length,
    /// Of another format. Nothing after it can be read.
    Format,
    /// An option is too short, too long or there twice. Nothing after it can be read.
    Option,
    /// It has an option that must be understood and is not known.
    Unknown(u8),
    /// An IPv6 entry with an IPv4 address in it.
    Mapped,
}

impl BadEntry {
    /// Whether the rest of the message cannot be read.
    pub fn ends_message(self) -> bool {
        !matches!(self, BadEntry::Unknown(_) | BadEntry::Mapped)
    }
}

/// A datagram whose header makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its format.
    pub version: Version,
    /// Which group of balancers it is from.
    pub syncid: u8,
    /// Entries that it says it has.
    pub count: u8,
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn decode(bytes: &'a [u8]) -> Result<Message<'a>, Malformed> {
        let have = bytes.len();
        let &[first, syncid, a, b] = bytes.first_chunk().ok_or(Malformed::Short(have))?;
        let says = u16::from_be_bytes([a, b]);
        if usize::from(says) != have {
            return Err(Malformed::Size { says, have });
        }
        let (version, count) = match bytes.get(HEADER_0..HEADER_1) {
            Some(&[count, 1, 0, 0]) if first == 0 => (Version::V1, count),
            _ => (Version::V0, first),
        };
        Ok(Message {
            version,
            syncid,
            count,
            bytes,
        })
    }

    /// Its entries. After one that [ends the message](BadEntry::ends_message) none comes.
    pub fn entries(&self) -> Entries<'a> {
        Entries {
            version: self.version,
            left: self.count,
            bytes: self.bytes,
            at: match self.version {
                Version::V0 => HEADER_0,
                Version::V1 => HEADER_1,
            },
        }
    }
}

/// See [`Message::entries`].
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    version: Version,
    left: u8,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(SyncEntry, EngineData<'a>), BadEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let read = match self.version {
            Version::V0 => read_old(rest),
            Version::V1 => read(rest),
        };
        let (len, entry) = match read {
            Ok(read) => read,
            Err(why) => (0, Err(why)),
        };
        // Entries of version 0 are multiples of 4 bytes anyway.
        self.at += len.next_multiple_of(4);
        if entry.is_err_and(BadEntry::ends_message) {
            self.left = 0;
        }
        Some(entry)
    }
}

type Read<'a> = (usize, Result<(SyncEntry, EngineData<'a>), BadEntry>);

/// Reads numbers from the front. Whoever makes one has checked that they are there; what is not
/// reads as zero.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((front, rest)) => {
                self.0 = rest;
                *front
            }
            None => [0; N],
        }
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    fn half(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    fn word(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn addr(&mut self, family: Family) -> Addr {
        match family {
            Family::V4 => Addr::v4(self.take()),
            Family::V6 => Addr::v6(self.take()),
        }
    }

    fn adjustment(&mut self, number: fn([u8; 4]) -> u32) -> Adjustment {
        let mut number = || number(self.take());
        Adjustment {
            at: number(),
            after: number() as i32,
            before: number() as i32,
        }
    }

    fn sequence(&mut self, number: fn([u8; 4]) -> u32) -> Sequence {
        Sequence {
            client: self.adjustment(number),
            server: self.adjustment(number),
        }
    }
}

fn read_old<'a>(bytes: &'a [u8]) -> Result<Read<'a>, BadEntry> {
    let fixed = bytes.get(..ENTRY_0).ok_or(BadEntry::Length)?;
    let mut fields = Reader(fixed);
    let _reserved = fields.byte();
    let protocol = fields.byte();
    let ports: [u16; 3] = [fields.half(), fields.half(), fields.half()];
    let addrs = [0; 3].map(|_: u8| fields.addr(Family::V4));
    let flags = u32::from(fields.half());
    let state = fields.half();
    let mut len = ENTRY_0;
    let mut sequence = None;
    if flags & flag::SEQUENCE != 0 {
        len += SEQUENCE;
        let data = bytes.get(ENTRY_0..len).ok_or(BadEntry::Length)?;
        sequence = Some(Reader(data).sequence(u32::from_ne_bytes));
    }
    let entry = SyncEntry {
        protocol,
        flags,
        state,
        client: Endpoint::new(addrs[0], ports[0]),
        virtual_: Endpoint::new(addrs[1], ports[1]),
        dest: Endpoint::new(addrs[2], ports[2]),
        fwmark: 0,
        timeout: 0,
        sequence,
    };
    Ok((len, Ok((entry, EngineData::default()))))
}

fn read<'a>(bytes: &'a [u8]) -> Result<Read<'a>, BadEntry> {
    let mut fields = Reader(bytes.get(..ENTRY_V4).ok_or(BadEntry::Length)?);
    let kind = fields.byte();
    let protocol = fields.byte();
    let sizes = fields.half();
    let len = usize::from(sizes & 0x0fff);
    let (family, fixed) = match kind {
        0 => (Family::V4, ENTRY_V4),
        kind if kind & 1 != 0 => (Family::V6, ENTRY_V6),
        _ => return Err(BadEntry::Format),
    };
    if sizes >> 12 != 0 {
        return Err(BadEntry::Format);
    }
    let whole = bytes.get(..len).ok_or(BadEntry::Length)?;
    let (fixed, options) = whole.split_at_checked(fixed).ok_or(BadEntry::Length)?;
    let mut fields = Reader(fixed.get(4..).unwrap_or(&[]));
    let flags = fields.word();
    let state = fields.half();
    let ports: [u16; 3] = [fields.half(), fields.half(), fields.half()];
    let fwmark = fields.word();
    let timeout = fields.word();
    let addrs = [0; 3].map(|_: u8| fields.addr(family));
    let mut entry = SyncEntry {
        protocol,
        flags,
        state,
        client: Endpoint::new(addrs[0], ports[0]),
        virtual_: Endpoint::new(addrs[1], ports[1]),
        dest: Endpoint::new(addrs[2], ports[2]),
        fwmark,
        timeout,
        sequence: None,
    };
    let mut engine = EngineData::default();
    match read_options(options, &mut entry, &mut engine) {
        Err(why) if why.ends_message() => return Err(why),
        Err(why) => return Ok((len, Err(why))),
        Ok(()) => {}
    }
    let is_pure = addrs.iter().all(|addr| addr.family() == family);
    let entry = match is_pure {
        true => Ok((entry, engine)),
        false => Err(BadEntry::Mapped),
    };
    Ok((len, entry))
}

fn read_options<'a>(
    mut options: &'a [u8],
    entry: &mut SyncEntry,
    engine: &mut EngineData<'a>,
) -> Result<(), BadEntry> {
    let mut unknown = None;
    while let Some((&kind, rest)) = options.split_first() {
        let (&len, rest) = rest.split_first().ok_or(BadEntry::Option)?;
        let (data, rest) = rest
            .split_at_checked(usize::from(len))
            .filter(|_| len != 0)
            .ok_or(BadEntry::Option)?;
        let is_sound = match kind & !option::OPTIONAL {
            option::SEQUENCE => {
                let is_first = entry.sequence.is_none();
                entry.sequence = Some(Reader(data).sequence(u32::from_be_bytes));
                is_first && data.len() == SEQUENCE
            }
            option::DATA => core::mem::replace(&mut engine.data, data).is_empty(),
            option::NAME => {
                core::mem::replace(&mut engine.name, data).is_empty() && data.len() <= MAX_NAME
            }
            _ if kind & option::OPTIONAL != 0 => true,
            _ => {
                unknown = unknown.or(Some(kind));
                true
            }
        };
        if !is_sound {
            return Err(BadEntry::Option);
        }
        options = rest;
    }
    unknown.map_or(Ok(()), |kind| Err(BadEntry::Unknown(kind)))
}

/// Why an entry was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotWritten {
    /// The message is full: finish it and begin another.
    Full,
    /// It cannot be said in this version: IPv6 or engine data in version 0, addresses of several
    /// families, data or a name that are too long.
    Impossible,
}

/// Fills a buffer with one message, entry by entry.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    version: Version,
    syncid: u8,
    count: u8,
    /// Bytes of header and entries; the last one is not padded.
    len: usize,
}

impl Encoder {
    /// An empty message.
    pub fn new(version: Version, syncid: u8) -> Encoder {
        Encoder {
            version,
            syncid,
            count: 0,
            len: match version {
                Version::V0 => HEADER_0,
                Version::V1 => HEADER_1,
            },
        }
    }

    /// Whether it has no entry yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends an entry; `buffer` is the message's and no longer than it may become.
    ///
    /// # Errors
    /// See [`NotWritten`]; nothing was written then.
    pub fn push(
        &mut self,
        buffer: &mut [u8],
        entry: &SyncEntry,
        engine: &EngineData<'_>,
    ) -> Result<(), NotWritten> {
        let len = length(self.version, entry, engine).ok_or(NotWritten::Impossible)?;
        let from = self.len.next_multiple_of(4);
        let most = buffer.len().min(usize::from(u16::MAX));
        if self.count == MAX_ENTRIES || from + len > most {
            return Err(NotWritten::Full);
        }
        let place = buffer
            .get_mut(self.len..from + len)
            .ok_or(NotWritten::Full)?;
        let (padding, place) = place
            .split_at_mut_checked(from - self.len)
            .ok_or(NotWritten::Full)?;
        padding.fill(0);
        match self.version {
            Version::V0 => write_old(place, entry),
            Version::V1 => write(place, len, entry, engine),
        }
        self.len = from + len;
        self.count += 1;
        Ok(())
    }

    /// Writes the header; the message is the first so many bytes of the buffer.
    pub fn finish(&self, buffer: &mut [u8]) -> usize {
        let mut to = Writer(buffer);
        let size = self.len as u16;
        match self.version {
            Version::V0 => {
                to.put(&[self.count, self.syncid]);
                to.put(&size.to_be_bytes());
            }
            Version::V1 => {
                to.put(&[0, self.syncid]);
                to.put(&size.to_be_bytes());
                to.put(&[self.count, 1, 0, 0]);
            }
        }
        self.len
    }
}

/// Bytes that an entry takes; `None` if it cannot be said.
fn length(version: Version, entry: &SyncEntry, engine: &EngineData<'_>) -> Option<usize> {
    let family = entry.client.addr.family();
    let is_pure = [entry.virtual_, entry.dest]
        .iter()
        .all(|end| end.addr.family() == family);
    if !is_pure {
        return None;
    }
    let option = |len: usize| if len == 0 { 0 } else { 2 + len };
    match version {
        Version::V0 => {
            let has_sequence = entry.flags & flag::SEQUENCE != 0;
            let is_plain = family == Family::V4 && engine.data.is_empty();
            is_plain.then_some(if has_sequence {
                ENTRY_0 + SEQUENCE
            } else {
                ENTRY_0
            })
        }
        Version::V1 => {
            let fixed = match family {
                Family::V4 => ENTRY_V4,
                Family::V6 => ENTRY_V6,
            };
            let fits = engine.data.len() <= 255 && engine.name.len() <= MAX_NAME;
            let sequence = entry.sequence.map_or(0, |_| SEQUENCE);
            fits.then_some(
                fixed + option(sequence) + option(engine.data.len()) + option(engine.name.len()),
            )
        }
    }
}

/// Writes numbers from the front. Whoever makes one has seen to it that there is room.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        if let Some((front, rest)) = core::mem::take(&mut self.0).split_at_mut_checked(bytes.len())
        {
            front.copy_from_slice(bytes);
            self.0 = rest;
        }
    }

    fn addr(&mut self, addr: &Addr) {
        match addr.family() {
            Family::V4 => self.put(&addr.octets_v4()),
            Family::V6 => self.put(&addr.octets()),
        }
    }

    fn ends(&mut self, entry: &SyncEntry) -> [Endpoint; 3] {
        let ends = [entry.client, entry.virtual_, entry.dest];
        for end in ends {
            self.put(&end.port.to_be_bytes());
        }
        ends
    }

    fn sequence(&mut self, sequence: &Sequence, number: fn(u32) -> [u8; 4]) {
        for a in [sequence.client, sequence.server] {
            for word in [a.at, a.after as u32, a.before as u32] {
                self.put(&number(word));
            }
        }
    }

    fn option(&mut self, kind: u8, data: &[u8]) {
        if !data.is_empty() {
            self.put(&[kind, data.len() as u8]);
            self.put(data);
        }
    }
}

fn write_old(place: &mut [u8], entry: &SyncEntry) {
    let mut to = Writer(place);
    to.put(&[0, entry.protocol]);
    for end in to.ends(entry) {
        to.addr(&end.addr);
    }
    to.put(&((entry.flags & !flag::HASHED) as u16).to_be_bytes());
    to.put(&entry.state.to_be_bytes());
    if entry.flags & flag::SEQUENCE != 0 {
        to.sequence(&entry.sequence.unwrap_or_default(), u32::to_ne_bytes);
    }
}

fn write(place: &mut [u8], len: usize, entry: &SyncEntry, engine: &EngineData<'_>) {
    let mut to = Writer(place);
    let is_v6 = entry.client.addr.family() == Family::V6;
    to.put(&[u8::from(is_v6), entry.protocol]);
    to.put(&(len as u16).to_be_bytes());
    to.put(&(entry.flags & !flag::HASHED).to_be_bytes());
    to.put(&entry.state.to_be_bytes());
    let ends = to.ends(entry);
    to.put(&entry.fwmark.to_be_bytes());
    to.put(&entry.timeout.to_be_bytes());
    for end in ends {
        to.addr(&end.addr);
    }
    if let Some(sequence) = &entry.sequence {
        to.put(&[option::SEQUENCE, SEQUENCE as u8]);
        to.sequence(sequence, u32::to_be_bytes);
    }
    to.option(option::DATA, engine.data);
    to.option(option::NAME, engine.name);
}
