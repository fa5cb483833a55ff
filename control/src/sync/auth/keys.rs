//! Keys, the files that they are in, and the pair in use.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use ring::{digest, hmac};

/// Least bytes of a key: 128 bits if they are random.
const LEAST: usize = 16;
/// Most bytes of a key file.
const MOST: u64 = 4096;

/// Why a key file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BadKey {
    /// It cannot be read.
    #[error("key file {0}: {1}; make one: (umask 077; head -c 32 /dev/urandom | base64 > {0})", path.display(), why)]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// No file, but a directory or a device.
    #[error("key file {} is no regular file", .0.display())]
    NoFile(PathBuf),
    /// Others than its owner may read or write it.
    #[error("key file {0} is open to others (mode {mode:04o}); chmod 600 {0}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// So few bytes are soon guessed.
    #[error("key file {}: {bytes} bytes are too short for a key; at least {LEAST} random ones", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Bytes in it, without blanks at the end.
        bytes: usize,
    },
    /// More than a key can be.
    #[error("key file {} is longer than {MOST} bytes", .0.display())]
    Long(PathBuf),
}

/// A key. Equal if the bytes are; shown without them.
#[derive(Clone)]
pub struct Key {
    hmac: hmac::Key,
    /// Names the key in a message: of two keys the right one is tried. From its hash, so it tells
    /// nothing of it.
    pub(super) hint: [u8; 4],
    hash: [u8; 32],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({:08x})", u32::from_be_bytes(self.hint))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Key {}

impl Key {
    /// Of these bytes.
    pub fn new(bytes: &[u8]) -> Key {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"rvs sync key");
        context.update(bytes);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        let mut hint = [0; 4];
        hint.copy_from_slice(&hash[..4]);
        Key {
            hmac: hmac::Key::new(hmac::HMAC_SHA256, bytes),
            hint,
            hash,
        }
    }

    /// What a file has, without blanks and line ends behind it.
    ///
    /// # Errors
    /// See [`BadKey`].
    pub fn load(path: &Path) -> Result<Key, BadKey> {
        let unreadable = |why| BadKey::Unreadable {
            path: path.to_owned(),
            why,
        };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let status = file.metadata().map_err(unreadable)?;
        if !status.is_file() {
            return Err(BadKey::NoFile(path.to_owned()));
        }
        let mode = status.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(BadKey::Open {
                path: path.to_owned(),
                mode,
            });
        }
        let mut bytes = Vec::new();
        file.take(MOST + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        if bytes.len() as u64 > MOST {
            return Err(BadKey::Long(path.to_owned()));
        }
        let key = bytes.trim_ascii_end();
        if key.len() < LEAST {
            return Err(BadKey::Short {
                path: path.to_owned(),
                bytes: key.len(),
            });
        }
        Ok(Key::new(key))
    }

    /// HMAC-SHA256 over both.
    pub(super) fn code(&self, label: &[u8], covered: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.hmac);
        // No label is the beginning of another with a message behind it: its length goes first.
        context.update(&[label.len() as u8]);
        context.update(label);
        context.update(covered);
        context.sign()
    }

    /// Whether the code begins with `code`; takes as long whatever it is.
    pub(super) fn is_code(&self, label: &[u8], covered: &[u8], code: &[u8]) -> bool {
        let own = self.code(label, covered);
        let differing = own
            .as_ref()
            .iter()
            .zip(code)
            .fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

/// The keys in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// Messages are sealed with it. `None`: nothing is sealed, and all is taken.
    pub current: Option<Key>,
    /// Taken as well, while keys are exchanged.
    pub previous: Option<Key>,
}

impl Ring {
    /// Keys that are taken.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.current.iter().chain(&self.previous)
    }
}

/// Where the keys are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyFiles {
    /// `key_file`.
    pub current: Option<PathBuf>,
    /// `previous_key_file`.
    pub previous: Option<PathBuf>,
}

impl KeyFiles {
    /// Reads both.
    ///
    /// # Errors
    /// All that is wrong, each in a line.
    pub fn load(&self) -> Result<Ring, Vec<BadKey>> {
        let mut wrong = Vec::new();
        let mut load = |path: &Option<PathBuf>| {
            let key = Key::load(path.as_ref()?);
            key.map_err(|why| wrong.push(why)).ok()
        };
        let ring = Ring {
            current: load(&self.current),
            previous: load(&self.previous),
        };
        if wrong.is_empty() {
            Ok(ring)
        } else {
            Err(wrong)
        }
    }
}

/// The keys in use, shared with the threads that seal and open.
#[derive(Debug, Default)]
pub struct Keys(RwLock<Arc<Ring>>);

impl Keys {
    /// These.
    pub fn new(ring: Ring) -> Keys {
        Keys(RwLock::new(Arc::new(ring)))
    }

    /// Others from now on.
    pub fn set(&self, ring: Ring) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
    }

    /// Those of the moment.
    pub fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}
