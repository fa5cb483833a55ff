//! The socket between a daemon and the one that follows it: frames of JSON, and descriptors that
//! come with them.
//!
//! A frame is its length (u32, big-endian) and that many bytes. Descriptors travel with the first
//! byte of a frame.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest frame, bytes: the rules of the largest configuration take a tenth of it.
const MAX_FRAME: usize = 1 << 30;

/// Most descriptors of a frame; the kernel takes 253.
pub const MAX_DESCRIPTORS: usize = 250;

/// How long the other side may take to read what was sent to it.
const SEND_PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other side has closed its end.
    #[error("the other side has ended")]
    Ended,
    /// Nothing came in time.
    #[error("nothing came in time")]
    Late,
    /// What came cannot be understood.
    #[error("what came cannot be understood: {0}")]
    Garbled(String),
    /// What came is understood, and does not go together with what is here.
    #[error("{0}")]
    Unfit(String),
    /// Of the socket.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One end.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    descriptors: Vec<OwnedFd>,
}

impl Wire {
    /// This end and the other.
    ///
    /// # Errors
    /// Of the system.
    pub fn pair() -> io::Result<(Wire, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Wire::new(ours)?, theirs.into()))
    }

    /// The end that a daemon is started with in the place of its standard input.
    ///
    /// # Errors
    /// Standard input is no socket.
    pub fn of_stdin() -> io::Result<Wire> {
        let end = rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?;
        rustix::net::sockopt::socket_type(&end)?;
        Wire::new(UnixStream::from(end))
    }

    fn new(stream: UnixStream) -> io::Result<Wire> {
        stream.set_write_timeout(Some(SEND_PATIENCE))?;
        Ok(Wire {
            stream,
            descriptors: Vec::new(),
        })
    }

    /// Another handle of the same end.
    ///
    /// # Errors
    /// Of the system.
    pub fn try_clone(&self) -> io::Result<Wire> {
        Wire::new(self.stream.try_clone()?)
    }

    /// Sends a message with descriptors, at most [`MAX_DESCRIPTORS`].
    ///
    /// # Errors
    /// The other side has ended, or does not read.
    pub fn send(&mut self, message: &impl Serialize, with: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = serde_json::to_vec(message).map_err(io::Error::other)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let frame = [&length.to_be_bytes(), &body[..]].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !with.is_empty() && !control.push(SendAncillaryMessage::ScmRights(with)) {
            return Err(io::Error::other("too many twins for one message"));
        }
        let sent = sendmsg(
            &self.stream,
            &[IoSlice::new(&frame)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        self.stream.write_all(frame.get(sent..).unwrap_or_default())
    }

    /// Waits for a message; `within` bounds the time for all of it.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn receive<T: DeserializeOwned>(
        &mut self,
        within: Option<Duration>,
    ) -> Result<T, WireError> {
        let until = within.map(|time| Instant::now() + time);
        let mut length = [0; 4];
        self.fill(&mut length, until)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(WireError::Garbled(format!("a frame of {length} bytes")));
        }
        let mut body = vec![0; length];
        self.fill(&mut body, until)?;
        serde_json::from_slice(&body).map_err(|e| WireError::Garbled(e.to_string()))
    }

    /// Sends bytes as they are, behind a message that tells their number.
    ///
    /// # Errors
    /// The other side has ended, or does not read.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits for so many bytes, as long as some come.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn receive_bytes(&mut self, length: usize) -> Result<Vec<u8>, WireError> {
        let mut bytes = vec![0; length];
        for part in bytes.chunks_mut(1 << 20) {
            self.fill(part, Some(Instant::now() + SEND_PATIENCE))?;
        }
        Ok(bytes)
    }

    /// The descriptors that have come, in order.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    fn fill(&mut self, mut bytes: &mut [u8], until: Option<Instant>) -> Result<(), WireError> {
        while !bytes.is_empty() {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(WireError::Late);
            }
            self.stream.set_read_timeout(left)?;
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                &self.stream,
                &mut [IoSliceMut::new(bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            let received = match received {
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => return Err(WireError::Late),
                Err(rustix::io::Errno::CONNRESET) => return Err(WireError::Ended),
                other => other.map_err(io::Error::from)?.bytes,
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    self.descriptors.extend(rights);
                }
            }
            if received == 0 {
                return Err(WireError::Ended);
            }
            bytes = bytes.get_mut(received..).unwrap_or_default();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn ends() -> (Wire, Wire) {
        let (ours, theirs) = Wire::pair().unwrap();
        (ours, Wire::new(UnixStream::from(theirs)).unwrap())
    }

    #[test]
    fn messages_arrive_with_their_descriptors() {
        let (mut ours, mut theirs) = ends();
        let (mut reader, writer) = io::pipe().unwrap();
        let long = "x".repeat(3 << 20);
        let sender = std::thread::spawn(move || {
            ours.send(&long, &[writer.as_fd()]).unwrap();
            ours.send(&7u32, &[]).unwrap();
        });
        assert_eq!(theirs.receive::<String>(None).unwrap().len(), 3 << 20);
        assert_eq!(theirs.receive::<u32>(None).unwrap(), 7);
        sender.join().unwrap();
        let got = theirs.take_descriptors();
        assert_eq!(got.len(), 1);
        let mut writer = std::fs::File::from(got.into_iter().next().unwrap());
        writer.write_all(b"through").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert!(matches!(theirs.receive::<u32>(None), Err(WireError::Ended)));
    }

    #[test]
    fn nobody_waits_for_ever_and_nonsense_is_refused() {
        let (mut ours, mut theirs) = ends();
        let short = Some(Duration::from_millis(20));
        assert!(matches!(ours.receive::<u32>(short), Err(WireError::Late)));
        theirs.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(matches!(
            ours.receive::<u32>(short),
            Err(WireError::Garbled(_))
        ));
        let (mut ours, mut theirs) = ends();
        theirs.send(&"text", &[]).unwrap();
        assert!(matches!(
            ours.receive::<u32>(short),
            Err(WireError::Garbled(_))
        ));
        // Half a frame is no frame.
        theirs.stream.write_all(&[0, 0, 0, 9, b'1']).unwrap();
        assert!(matches!(ours.receive::<u32>(short), Err(WireError::Late)));
    }
}
