//! Bytes on their way to a client.

use std::io::{self, Write};

/// Bytes that were written before room is made of them.
const CHUNK: usize = 64 * 1024;

/// What a client is still to be sent. It holds little more than that: also of a long listing whose
/// reader is never quite done.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// Of them those that were written already.
    written: usize,
}

impl Output {
    /// Adds bytes at the end.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that are still to be written.
    pub fn unwritten(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Writes what `to` takes; how many bytes that were.
    ///
    /// # Errors
    /// Those of `to`, but for that it takes no more now.
    pub fn write_to(&mut self, to: &mut impl Write) -> io::Result<usize> {
        let before = self.unwritten();
        while self.unwritten() > 0 {
            match to.write(&self.bytes[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        let sent = before - self.unwritten();
        if self.unwritten() == 0 || self.written >= CHUNK {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then no more until it is asked again.
    struct Slow {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = bytes.len().min(self.room);
            self.room -= n;
            self.taken.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_never_done_costs_what_it_has_not_read() {
        let (mut output, mut sent) = (Output::default(), Vec::new());
        let mut slow = Slow {
            room: 0,
            taken: Vec::new(),
        };
        let frame = [7u8; 10_000];
        output.push(&frame);
        sent.extend_from_slice(&frame);
        for n in 0..1000u32 {
            let frame = [n as u8; 10_000];
            output.push(&frame);
            sent.extend_from_slice(&frame);
            slow.room = 10_000;
            assert_eq!(output.write_to(&mut slow).expect("no error"), 10_000);
            assert_eq!(output.unwritten(), 10_000);
            assert!(output.bytes.len() < 2 * CHUNK, "{}", output.bytes.len());
        }
        slow.room = usize::MAX;
        assert_eq!(output.write_to(&mut slow).expect("no error"), 10_000);
        assert!(output.bytes.is_empty() && slow.taken == sent);
    }
}
