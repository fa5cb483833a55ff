//! Netlink framing: messages, attributes, requests. Knows lengths, not meanings.
//!
//! Written here and not taken from a crate: the crates have no nexthop objects, and a full table
//! is a million messages that need no allocation to be read. Everything is in host byte order,
//! as netlink is, except where a name says otherwise.

/// `nlmsg_type` of replies.
pub const NLMSG_ERROR: u16 = 2;
/// End of a dump.
pub const NLMSG_DONE: u16 = 3;
/// The receive queue overflowed.
pub const NLMSG_OVERRUN: u16 = 4;

/// Request flags and flags of notifications (linux/netlink.h).
pub const NLM_F_REQUEST: u16 = 1;
/// Part of a dump.
pub const NLM_F_MULTI: u16 = 2;
/// The dump is inconsistent.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
/// Dump.
pub const NLM_F_DUMP: u16 = 0x300;
/// A new object replaced an old one.
pub const NLM_F_REPLACE: u16 = 0x100;
/// Create the object if it does not exist.
pub const NLM_F_CREATE: u16 = 0x400;
/// A new object came after its equals.
pub const NLM_F_APPEND: u16 = 0x800;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Attribute types carry two flags in their upper bits.
const TYPE_MASK: u16 = 0x3fff;

/// One netlink message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: of the request that it answers.
    pub sequence: u32,
    /// `nlmsg_pid`: port of the requester.
    pub port: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// The messages of one datagram; stops at the first that is malformed.
pub struct Frames<'a>(pub &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let len = read_u32(self.0, 0)? as usize;
        let body = self.0.get(HEADER..len)?;
        let frame = Frame {
            kind: read_u16(self.0, 4)?,
            flags: read_u16(self.0, 6)?,
            sequence: read_u32(self.0, 8)?,
            port: read_u32(self.0, 12)?,
            body,
        };
        self.0 = self.0.get(aligned(len)..).unwrap_or(&[]);
        Some(frame)
    }
}

/// Attributes as (type without flags, value); stops at the first that is malformed.
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes that follow a fixed header of `len` bytes.
    pub fn after(body: &'a [u8], len: usize) -> Attributes<'a> {
        Attributes(body.get(aligned(len)..).unwrap_or(&[]))
    }

    /// The first attribute of a type.
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        { self }.find_map(|(k, value)| (k == kind).then_some(value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let len = usize::from(read_u16(self.0, 0)?);
        let kind = read_u16(self.0, 2)? & TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(aligned(len)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// A request being written.
#[derive(Debug)]
pub struct Request(Vec<u8>);

impl Request {
    /// A message with its fixed header.
    pub fn new(kind: u16, flags: u16, sequence: u32, fixed: &[u8]) -> Request {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(fixed);
        bytes.resize(aligned(bytes.len()), 0);
        Request(bytes)
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Request {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }

    /// The finished message.
    pub fn finish(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

/// The byte at `at`.
pub fn read_u8(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// Two bytes at `at`.
pub fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Four bytes at `at`.
pub fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A text that ends at its first zero byte.
pub fn read_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back() {
        let bytes = Request::new(28, NLM_F_CREATE, 7, &[1, 2, 3, 4, 5])
            .with(1, b"ab")
            .with(2, &9u32.to_ne_bytes())
            .finish();
        let frames: Vec<_> = Frames(&bytes).collect();
        assert_eq!(frames.len(), 1);
        let f = frames[0];
        assert_eq!(
            (f.kind, f.flags, f.sequence),
            (28, NLM_F_CREATE | NLM_F_REQUEST, 7)
        );
        let attributes: Vec<_> = Attributes::after(f.body, 5).collect();
        assert_eq!(attributes, [(1, &b"ab"[..]), (2, &9u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn cut_messages_end_the_iteration() {
        let bytes = Request::new(28, 0, 7, &[0; 12]).with(1, b"abcd").finish();
        for len in 0..bytes.len() {
            assert_eq!(Frames(&bytes[..len]).count(), 0);
            let _ = Attributes(&bytes[..len]).count();
        }
        assert_eq!(
            Frames(&[0; 64]).count(),
            0,
            "a length of zero does not loop"
        );
        assert_eq!(Attributes(&[0; 64]).count(), 0);
    }
}
