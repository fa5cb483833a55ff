//! Frames as they travel: each behind its length and, with a key, sealed.
//!
//! ```text
//!  0      4
//! |length | frame, trailer of the seal |
//! ```

use super::frame::{self, Frame};
use crate::sync::auth::{Opener, Sealer, TRAILER, wall};

/// Bytes of the length.
const LENGTH: usize = 4;

/// Longest frame with its trailer.
const MAX: usize = 8 + frame::MAX_PAYLOAD + TRAILER;

/// Both directions of all streams of a link, so that nothing is taken twice.
pub struct Seals {
    /// For what is sent.
    pub sealer: Sealer,
    /// For what comes.
    pub opener: Opener,
}

impl Seals {
    /// Appends one frame after the other, each as a record of its own, from bytes that are whole
    /// frames.
    pub fn write(&mut self, out: &mut Vec<u8>, frames: &[u8]) {
        let mut rest = frames;
        while let Ok(Some((_, len))) = frame::decode(rest) {
            let (one, after) = rest.split_at(len);
            let mut sealed = one.to_vec();
            self.sealer.seal(wall(), &mut sealed);
            out.extend((sealed.len() as u32).to_be_bytes());
            out.append(&mut sealed);
            rest = after;
        }
    }

    /// Reads the record at the front; with its frame, how many bytes it takes. `None`: more has to
    /// come.
    ///
    /// # Errors
    /// Why nothing after it can be read.
    pub fn read<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, String> {
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*length) as usize;
        if len > MAX {
            return Err(format!("a record of {len} bytes"));
        }
        let Some(sealed) = rest.get(..len) else {
            return Ok(None);
        };
        let whole = self
            .opener
            .open(wall(), sealed)
            .map_err(|why| why.to_string())?;
        match frame::decode(whole) {
            Ok(Some((frame, used))) if used == whole.len() => Ok(Some((frame, LENGTH + len))),
            Ok(_) => Err("a record that is not one frame".to_owned()),
            Err(why) => Err(format!("no frame: {why:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::sync::auth::{Keys, Purpose};

    fn seals() -> Seals {
        let keys = Arc::new(Keys::default());
        Seals {
            sealer: Sealer::new(Arc::clone(&keys), Purpose::Stream).unwrap(),
            opener: Opener::new(keys, Purpose::Stream),
        }
    }

    #[test]
    fn records_follow_each_other() {
        let mut seals = seals();
        let mut frames = Vec::new();
        let entries: Vec<u64> = (0..5).collect();
        for &entries in &entries {
            frame::encode(&mut frames, &Frame::End { entries, unsaid: 0 });
        }
        let mut bytes = Vec::new();
        seals.write(&mut bytes, &frames);
        let mut rest = &bytes[..];
        let mut read = Vec::new();
        while let Some((frame, len)) = seals.read(rest).unwrap() {
            let Frame::End { entries, .. } = frame else {
                panic!("{frame:?}");
            };
            read.push(entries);
            assert_eq!(seals.read(&rest[..len - 1]), Ok(None));
            rest = &rest[len..];
        }
        assert_eq!((read, rest.len()), (entries, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = seals().read(&bytes);
        }
    }
}
