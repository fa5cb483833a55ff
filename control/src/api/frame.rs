//! Framing of the admin socket: a length (u32, big-endian) in front of each JSON message.
//!
//! `rvsd` reads without blocking and feeds a [`FrameDecoder`]; `rvsadm` reads the same way with a
//! deadline. Both write with [`encode`]. No sockets here.

use serde::Serialize;
use thiserror::Error;

use super::{API_VERSION, ErrorKind, MAX_FRAME, Request, RequestFrame, Response, ServiceView};

/// Bytes of the length in front of each payload.
pub const HEADER: usize = 4;

/// Why a byte stream is not a sequence of frames. The stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The announced payload is larger than [`MAX_FRAME`].
    #[error("frame of {len} bytes is larger than the limit of {MAX_FRAME}")]
    TooLarge {
        /// Announced payload length.
        len: usize,
    },
}

/// Cuts a byte stream, arriving in pieces of any size, into frames.
///
/// Holds at most one frame and what the last `push` brought: the announced length is checked
/// before anything is kept for it.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    bytes: Vec<u8>,
    /// Where the next frame starts in `bytes`.
    start: usize,
}

impl FrameDecoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes as they were read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Payload of the next complete frame, `None` until more bytes arrive.
    ///
    /// # Errors
    /// `TooLarge` as soon as the length is seen, and on every later call.
    #[expect(
        clippy::should_implement_trait,
        reason = "a stream that waits is no iterator"
    )]
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let rest = &self.bytes[self.start..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*header) as usize;
        if len > MAX_FRAME {
            return Err(FrameError::TooLarge { len });
        }
        let Some(payload) = rest.get(..len) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.start += HEADER + len;
        Ok(Some(payload))
    }

    /// Whether the stream stopped inside a frame: at end of file this is half a message.
    pub fn is_partial(&self) -> bool {
        self.start < self.bytes.len()
    }
}

/// One message as a frame.
///
/// The caller keeps messages below [`MAX_FRAME`] (listings: [`encode_services`] and
/// [`ROWS_PER_FRAME`](super::ROWS_PER_FRAME)); a larger one is refused by the receiver.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message)
        .expect("API types are plain data with string keys, and a vector takes every write");
    let len = u32::try_from(frame.len() - HEADER).unwrap_or(u32::MAX);
    frame[..HEADER].copy_from_slice(&len.to_be_bytes());
    frame
}

/// A request as the frame a client of this version sends.
pub fn encode_request(request: Request) -> Vec<u8> {
    encode(&RequestFrame {
        version: API_VERSION,
        request,
    })
}

/// The request in a payload, or the answer that refuses it.
///
/// The version is looked at first, so that a client of another version is told so even if its
/// request means nothing here.
///
/// # Errors
/// [`Response::Error`] with `Version` or `Malformed`, ready to be sent.
pub fn decode_request(payload: &[u8]) -> Result<Request, Response> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let malformed = |err: serde_json::Error| Response::Error {
        error: ErrorKind::Malformed,
        message: format!("request cannot be read: {err}"),
    };
    let Versioned { version } = serde_json::from_slice(payload).map_err(malformed)?;
    if version != API_VERSION {
        return Err(Response::Error {
            error: ErrorKind::Version,
            message: format!(
                "rvsadm speaks API version {version}, rvsd {API_VERSION}; use the rvsadm that was installed with rvsd"
            ),
        });
    }
    let frame: RequestFrame = serde_json::from_slice(payload).map_err(malformed)?;
    Ok(frame.request)
}

/// A listing of services as frames: any number of [`Response::ServicesPart`], then
/// [`Response::Services`], each below [`MAX_FRAME`].
///
/// A service with more servers than a frame holds is continued in the next part under the same
/// key. The iterator encodes a frame when it is asked for one.
pub fn encode_services(
    table_size: u64,
    services: Vec<ServiceView>,
) -> impl Iterator<Item = Vec<u8>> {
    let mut rest = services.into_iter();
    let mut frames = ServiceFrames::new(table_size);
    std::iter::from_fn(move || frames.next(|| rest.next()))
}

/// A listing of services as frames, see [`encode_services`], from services that are made while
/// frames are asked for: no more than a frame of them is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFrames {
    table_size: u64,
    /// A service that did not fit into the last frame.
    carried: Option<ServiceView>,
    done: bool,
}

impl ServiceFrames {
    /// Before the first frame. `table_size`: slots of the connection table.
    pub fn new(table_size: u64) -> ServiceFrames {
        ServiceFrames {
            table_size,
            carried: None,
            done: false,
        }
    }

    /// Whether the last frame was made.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The next frame, with what `rest` gives; none after the last one.
    pub fn next(&mut self, mut rest: impl FnMut() -> Option<ServiceView>) -> Option<Vec<u8>> {
        /// Rows (services and servers) in a frame. A row is below 1 KiB of JSON.
        const ROWS: usize = MAX_FRAME / 1024 - 1;
        if self.done {
            return None;
        }
        let mut services = Vec::new();
        let mut room = ROWS;
        while room > 0 {
            let Some(mut service) = self.carried.take().or_else(&mut rest) else {
                self.done = true;
                break;
            };
            room -= 1;
            if service.servers.len() > room {
                let mut tail = service.clone();
                tail.servers = service.servers.split_off(room);
                self.carried = Some(tail);
            }
            room -= service.servers.len();
            services.push(service);
        }
        let table_size = self.table_size;
        Some(match self.done {
            true => encode(&Response::Services {
                table_size,
                services,
            }),
            false => encode(&Response::ServicesPart { services }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn frames(stream: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut decoder = FrameDecoder::new();
        let mut out = Vec::new();
        for bytes in stream.chunks(piece) {
            decoder.push(bytes);
            while let Some(frame) = decoder.next().expect("within the limit") {
                out.push(frame);
            }
        }
        assert!(!decoder.is_partial());
        out
    }

    #[test]
    fn pieces_of_any_size_give_the_same_frames() {
        let mut stream = encode_request(Request::Status);
        stream.extend(encode(&"second"));
        stream.extend([0, 0, 0, 0]);
        let whole = frames(&stream, stream.len());
        assert_eq!(whole.len(), 3);
        assert_eq!(decode_request(&whole[0]), Ok(Request::Status));
        for piece in 1..stream.len() {
            assert_eq!(frames(&stream, piece), whole);
        }
    }

    #[test]
    fn an_oversized_length_is_refused_before_its_bytes_arrive() {
        let mut decoder = FrameDecoder::new();
        decoder.push(&u32::to_be_bytes(MAX_FRAME as u32 + 1));
        assert_eq!(
            decoder.next(),
            Err(FrameError::TooLarge { len: MAX_FRAME + 1 })
        );
        assert_eq!(
            decoder.next(),
            Err(FrameError::TooLarge { len: MAX_FRAME + 1 })
        );
    }

    #[test]
    fn half_a_frame_is_visible_at_end_of_file() {
        let mut decoder = FrameDecoder::new();
        let frame = encode_request(Request::Diff);
        decoder.push(&frame[..frame.len() - 1]);
        assert_eq!(decoder.next(), Ok(None));
        assert!(decoder.is_partial());
    }

    #[test]
    fn a_foreign_version_is_named_even_if_the_request_is_unknown() {
        let refusal = |payload: &[u8]| match decode_request(payload) {
            Err(Response::Error { error, .. }) => error,
            other => panic!("not refused: {other:?}"),
        };
        assert_eq!(
            refusal(br#"{"version": 99, "request": {"op": "fly"}}"#),
            ErrorKind::Version
        );
        assert_eq!(
            refusal(br#"{"version": 1, "request": {"op": "fly"}}"#),
            ErrorKind::Malformed
        );
        assert_eq!(
            refusal(br#"{"request": {"op": "status"}}"#),
            ErrorKind::Malformed
        );
        assert_eq!(refusal(b"\xff\x00"), ErrorKind::Malformed);
    }

    fn service(port: u16, servers: usize) -> ServiceView {
        let addr = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"
            .parse()
            .expect("an address");
        let full = Stats {
            conns: u64::MAX,
            in_pkts: u64::MAX,
            out_pkts: u64::MAX,
            in_bytes: u64::MAX,
            out_bytes: u64::MAX,
        };
        let server = ServerView {
            key: ServerKey { addr, port },
            spec: ServerSpec {
                method: Method::Tunnel,
                weight: u32::MAX,
                upper: u32::MAX,
                lower: u32::MAX,
                tunnel: Tunnel {
                    kind: TunnelKind::Ipip,
                    port: u16::MAX,
                    checksum: TunnelChecksum::Remote,
                },
            },
            configured_weight: u32::MAX,
            origin: Origin::FileChanged,
            active: u32::MAX,
            inactive: u32::MAX,
            persistent: u32::MAX,
            stats: full,
            rates: full,
        };
        ServiceView {
            key: ServiceKey::new(Protocol::Tcp, addr, port),
            spec: ServiceSpec {
                scheduler: "a-scheduler-name".into(),
                ..ServiceSpec::default()
            },
            live: false,
            origin: Origin::FileChanged,
            stats: full,
            rates: full,
            servers: vec![server; servers],
        }
    }

    #[test]
    fn a_long_listing_is_split_below_the_limit_and_loses_nothing() {
        for sizes in [
            vec![],
            vec![0, 1, 2],
            vec![5000],
            vec![1022, 0, 3000, 1],
            vec![0; 3000],
        ] {
            let services: Vec<_> = sizes
                .iter()
                .zip(1..)
                .map(|(&n, port)| service(port, n))
                .collect();
            let mut got: Vec<(u16, usize)> = Vec::new();
            let mut frames = encode_services(4096, services).peekable();
            while let Some(frame) = frames.next() {
                assert!(frame.len() <= MAX_FRAME + HEADER, "{} bytes", frame.len());
                let part = match serde_json::from_slice(&frame[HEADER..]).expect("a response") {
                    Response::ServicesPart { services } if frames.peek().is_some() => services,
                    Response::Services {
                        table_size: 4096,
                        services,
                    } if frames.peek().is_none() => services,
                    other => panic!("unexpected frame {other:?}"),
                };
                for service in part {
                    match got.last_mut() {
                        Some((port, n)) if *port == service.key.port() => {
                            *n += service.servers.len()
                        }
                        _ => got.push((service.key.port(), service.servers.len())),
                    }
                }
            }
            let want: Vec<_> = (1..).zip(sizes).collect();
            assert_eq!(got, want);
        }
    }
}
