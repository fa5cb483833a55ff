//! Reads one answer as it comes.

use md5::{Digest, Md5};

/// Longest head that is read, bytes.
const LONGEST_HEAD: usize = 64 * 1024;
/// Most header fields.
const FIELDS: usize = 128;
/// Longest line before a chunk, bytes.
const LONGEST_CHUNK_LINE: usize = 1024;
/// How much of a body is kept for an expression, bytes.
const KEPT: usize = 1 << 20;

#[derive(Debug, Default)]
enum Reading {
    /// Up to the blank line.
    #[default]
    Head,
    /// This many bytes more.
    Length(u64),
    /// To the end of the connection.
    Rest,
    /// The line with a chunk's size.
    ChunkSize,
    /// A chunk, its line end included.
    Chunk(u64),
    /// Fields after the last chunk.
    Trailer,
    Complete,
}

/// One answer. Memory is bounded whatever the server sends.
#[derive(Debug, Default)]
pub(super) struct Response {
    reading: Reading,
    /// Of a head or a chunk's line that is not complete.
    line: Vec<u8>,
    status: Option<u16>,
    hash: Option<Md5>,
    body: Option<Vec<u8>>,
}

impl Response {
    /// Computes the digest and keeps the body if asked to.
    pub(super) fn new(digest: bool, body: bool) -> Response {
        Response {
            hash: digest.then(Md5::new),
            body: body.then(Vec::new),
            ..Response::default()
        }
    }

    pub(super) fn status(&self) -> Option<u16> {
        self.status
    }

    pub(super) fn body(&self) -> &[u8] {
        self.body.as_deref().unwrap_or_default()
    }

    /// MD5 of the body in hexadecimal digits.
    pub(super) fn digest(&mut self) -> String {
        let bytes = self.hash.take().unwrap_or_default().finalize();
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Takes bytes of the answer; true once it is complete.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<bool, String> {
        while !bytes.is_empty() && !matches!(self.reading, Reading::Complete) {
            bytes = match self.reading {
                Reading::Head => self.read_head(bytes)?,
                Reading::Length(left) => {
                    let rest = self.read_body(bytes, left);
                    let left = left - (bytes.len() - rest.len()) as u64;
                    self.reading = body_of(left);
                    rest
                }
                Reading::Rest => self.read_body(bytes, u64::MAX),
                Reading::ChunkSize => self.read_chunk_size(bytes)?,
                Reading::Chunk(left) => self.read_chunk(bytes, left),
                Reading::Trailer => self.read_trailer(bytes)?,
                Reading::Complete => &[],
            };
        }
        Ok(matches!(self.reading, Reading::Complete))
    }

    /// The connection has ended: whether the answer is complete.
    pub(super) fn end(&mut self) -> bool {
        matches!(self.reading, Reading::Complete | Reading::Rest)
    }

    fn read_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let before = self.line.len();
        self.line.extend_from_slice(bytes);
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        let parsed = head
            .parse(&self.line)
            .map_err(|why| format!("not HTTP: {why}"))?;
        let httparse::Status::Complete(length) = parsed else {
            return match self.line.len() > LONGEST_HEAD {
                true => Err(format!("the head is longer than {LONGEST_HEAD} bytes")),
                false => Ok(&[]),
            };
        };
        let status = head.code.unwrap_or(0);
        self.reading = body_kind(status, head.headers)?;
        self.line.clear();
        // An interim answer (RFC 9110, 15.2) is followed by the one that counts.
        if !(100..200).contains(&status) {
            self.status = Some(status);
        }
        Ok(bytes.get(length - before..).unwrap_or_default())
    }

    fn read_body<'a>(&mut self, bytes: &'a [u8], most: u64) -> &'a [u8] {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let (body, rest) = bytes.split_at(bytes.len().min(most));
        if let Some(hash) = &mut self.hash {
            hash.update(body);
        }
        if let Some(kept) = &mut self.body {
            let room = KEPT.saturating_sub(kept.len()).min(body.len());
            kept.extend(body.iter().take(room));
        }
        rest
    }

    /// Collects a line; what follows it, or nothing while it is not complete.
    fn read_line<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, String> {
        let end = bytes.iter().position(|b| *b == b'\n').map(|at| at + 1);
        let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        self.line.extend_from_slice(line);
        if self.line.len() > LONGEST_CHUNK_LINE {
            return Err(format!(
                "a chunk's line is longer than {LONGEST_CHUNK_LINE} bytes"
            ));
        }
        Ok(end.map(|_| rest))
    }

    fn read_chunk_size<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let Some(rest) = self.read_line(bytes)? else {
            return Ok(&[]);
        };
        let size = match httparse::parse_chunk_size(&self.line) {
            Ok(httparse::Status::Complete((_, size))) => size,
            _ => return Err("a chunk has no size".into()),
        };
        self.line.clear();
        self.reading = match size {
            0 => Reading::Trailer,
            size => Reading::Chunk(size.saturating_add(2)),
        };
        Ok(rest)
    }

    fn read_chunk<'a>(&mut self, bytes: &'a [u8], left: u64) -> &'a [u8] {
        let rest = match left > 2 {
            true => self.read_body(bytes, left - 2),
            false => bytes
                .get(left.min(bytes.len() as u64) as usize..)
                .unwrap_or_default(),
        };
        self.reading = match left - (bytes.len() - rest.len()) as u64 {
            0 => Reading::ChunkSize,
            left => Reading::Chunk(left),
        };
        rest
    }

    fn read_trailer<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let Some(rest) = self.read_line(bytes)? else {
            return Ok(&[]);
        };
        if self.line.trim_ascii().is_empty() {
            self.reading = Reading::Complete;
        }
        self.line.clear();
        Ok(rest)
    }
}

fn body_of(left: u64) -> Reading {
    match left {
        0 => Reading::Complete,
        left => Reading::Length(left),
    }
}

/// How the body after this head ends (RFC 9112, 6.3).
fn body_kind(status: u16, fields: &[httparse::Header<'_>]) -> Result<Reading, String> {
    if (100..200).contains(&status) {
        return Ok(Reading::Head);
    }
    if matches!(status, 204 | 304) {
        return Ok(Reading::Complete);
    }
    let field = |name: &str| {
        let found = fields.iter().find(|f| f.name.eq_ignore_ascii_case(name));
        found.map(|f| f.value.trim_ascii())
    };
    let chunked = |value: &[u8]| value.to_ascii_lowercase().ends_with(b"chunked");
    if field("Transfer-Encoding").is_some_and(chunked) {
        return Ok(Reading::ChunkSize);
    }
    let Some(length) = field("Content-Length") else {
        return Ok(Reading::Rest);
    };
    let length = core::str::from_utf8(length)
        .ok()
        .and_then(|text| text.parse().ok());
    length
        .map(body_of)
        .ok_or_else(|| "Content-Length is not a number".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interim_answer_is_not_the_answer() {
        let mut r = Response::new(false, true);
        let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!";
        assert_eq!(r.read(text), Ok(true));
        assert_eq!((r.status(), r.body()), (Some(200), &b"ok"[..]));
    }

    #[test]
    fn lengths_that_are_none_are_refused() {
        for length in ["x", "-1", "99999999999999999999"] {
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            assert!(
                Response::new(false, false).read(text.as_bytes()).is_err(),
                "{length}"
            );
        }
        let chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        assert!(Response::new(false, false).read(chunk).is_err());
        let huge = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx";
        assert_eq!(Response::new(true, true).read(huge), Ok(false));
    }

    #[test]
    fn memory_is_bounded() {
        let mut r = Response::new(true, true);
        r.read(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        for _ in 0..40 {
            r.read(&[b'x'; 1 << 16]).unwrap();
        }
        assert_eq!(r.body().len(), KEPT);
        assert!(r.end());
    }
}
