//! What an opener takes of what a sealer made.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_800_000_000_000;

fn ring(current: &[u8], previous: Option<&[u8]>) -> Ring {
    Ring {
        current: Some(Key::new(current)),
        previous: previous.map(Key::new),
    }
}

fn keys(current: &[u8]) -> Arc<Keys> {
    Arc::new(Keys::new(ring(current, None)))
}

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER: &[u8] = b"fedcba9876543210fedcba9876543210";

fn pair() -> (Sealer, Opener) {
    let keys = keys(KEY);
    let sealer = Sealer::new(Arc::clone(&keys), Purpose::Entries).unwrap();
    (sealer, Opener::new(keys, Purpose::Entries))
}

fn sealed(sealer: &mut Sealer, wall: u64, message: &[u8]) -> Vec<u8> {
    let mut bytes = message.to_vec();
    sealer.seal(wall, &mut bytes);
    bytes
}

/// The bytes of a sealed message, computed apart from this code (Python's `hmac`):
/// `hmac.digest(key, bytes([16]) + b"rvs sync entries" + covered, "sha256")[:16]`, and the hint
/// `sha256(b"rvs sync key" + key).digest()[:4]`.
#[test]
fn the_trailer_byte_by_byte() {
    let (mut sealer, _) = pair();
    sealer.sender = *b"sender-1";
    let bytes = sealed(&mut sealer, NOW, b"hello");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, VECTOR);
    assert_eq!(bytes.len(), 5 + TRAILER);
    assert_eq!(sealer.room(), TRAILER);
}

const VECTOR: &str = concat!(
    "68656c6c6f",       // the message
    "73656e6465722d31", // sender
    "0000000000000001", // number
    "000001a3185c5000", // time
    "fc62f8d4",         // key
    "52564131",         // RVA1
    "34cb83904c37e836b16733d0ff563670",
);

#[test]
fn what_was_sealed_is_opened_once() {
    let (mut sealer, mut opener) = pair();
    let first = sealed(&mut sealer, NOW, b"one");
    let second = sealed(&mut sealer, NOW + 1, b"two");
    let third = sealed(&mut sealer, NOW + 2, b"");
    assert_eq!(opener.open(NOW, &first), Ok(&b"one"[..]));
    assert_eq!(opener.open(NOW, &first), Err(Why::Replayed));
    // In another order than they were sent.
    assert_eq!(opener.open(NOW, &third), Ok(&b""[..]));
    assert_eq!(opener.open(NOW, &second), Ok(&b"two"[..]));
    assert_eq!(opener.open(NOW, &second), Err(Why::Replayed));
    assert_eq!(opener.open(NOW, &third), Err(Why::Replayed));
}

#[test]
fn what_was_not_sealed_for_this_is_not_taken() {
    let (mut sealer, mut opener) = pair();
    let keys = Arc::clone(&sealer.keys);
    let mut hello = Sealer::new(keys, Purpose::Hello).unwrap();
    for clear in [&b""[..], b"short", &[0; 47], &[0; 48], &[7; 1472]] {
        assert_eq!(opener.open(NOW, clear), Err(Why::Unsigned));
    }
    let bytes = sealed(&mut hello, NOW, b"entries");
    assert_eq!(opener.open(NOW, &bytes), Err(Why::Forged));
    let bytes = sealed(&mut sealer, NOW, b"entries");
    let mut stranger = Opener::new(self::keys(OTHER), Purpose::Entries);
    assert_eq!(stranger.open(NOW, &bytes), Err(Why::Key));
    // A refused message does not use up its number.
    assert_eq!(opener.open(NOW, &bytes), Ok(&b"entries"[..]));
}

#[test]
fn old_messages_and_other_clocks() {
    let tolerance = TOLERANCE.as_millis() as u64;
    let (mut sealer, mut opener) = pair();
    for (time, want) in [
        (NOW - tolerance - 1, false),
        (NOW - tolerance, true),
        (NOW + tolerance, true),
        (NOW + tolerance + 1, false),
        (0, false),
        (u64::MAX, false),
    ] {
        let bytes = sealed(&mut sealer, time, b"x");
        let opened = opener.open(NOW, &bytes);
        assert_eq!(opened.err(), (!want).then_some(Why::Stale), "{time}");
    }
}

/// A restarted sender is another one and begins anew; what it sent before is still known. A
/// restarted receiver takes what is fresh.
#[test]
fn restarts() {
    let (mut before, mut opener) = pair();
    let old: Vec<_> = (0..5).map(|_| sealed(&mut before, NOW, b"old")).collect();
    for bytes in &old {
        assert!(opener.open(NOW, bytes).is_ok());
    }
    let mut after = Sealer::new(Arc::clone(&before.keys), Purpose::Entries).unwrap();
    assert_ne!(after.sender, before.sender);
    assert!(opener.open(NOW, &sealed(&mut after, NOW, b"new")).is_ok());
    for bytes in &old {
        assert_eq!(opener.open(NOW, bytes), Err(Why::Replayed));
    }
    let mut fresh = Opener::new(Arc::clone(&before.keys), Purpose::Entries);
    assert!(fresh.open(NOW, &old[3]).is_ok());
    assert_eq!(fresh.open(NOW, &old[3]), Err(Why::Replayed));
    let late = NOW + TOLERANCE.as_millis() as u64 + 1;
    let mut later = Opener::new(Arc::clone(&before.keys), Purpose::Entries);
    assert_eq!(later.open(late, &old[4]), Err(Why::Stale));
}

/// The steps of docs/sync.md: at each of them each node takes what each other one sends.
#[test]
fn keys_are_exchanged_without_a_gap() {
    let rings = [
        ring(KEY, None),
        ring(KEY, Some(OTHER)),
        ring(OTHER, Some(KEY)),
        ring(OTHER, None),
    ];
    let node = || {
        let keys = Arc::new(Keys::new(rings[0].clone()));
        let sealer = Sealer::new(Arc::clone(&keys), Purpose::Entries).unwrap();
        let opener = Opener::new(Arc::clone(&keys), Purpose::Entries);
        (keys, sealer, opener)
    };
    let (mut a, mut b) = (node(), node());
    for (step, next) in rings.iter().enumerate() {
        for who in 0..2 {
            [&a, &b][who].0.set(next.clone());
            let from_a = sealed(&mut a.1, NOW, b"a");
            let from_b = sealed(&mut b.1, NOW, b"b");
            assert!(b.2.open(NOW, &from_a).is_ok(), "step {step}, {who}");
            assert!(a.2.open(NOW, &from_b).is_ok(), "step {step}, {who}");
        }
    }
    // Who goes on with the old one alone is not heard any more.
    let mut late = Sealer::new(keys(KEY), Purpose::Entries).unwrap();
    let bytes = sealed(&mut late, NOW, b"late");
    assert_eq!(a.2.open(NOW, &bytes), Err(Why::Key));
}

#[test]
fn without_a_key_messages_are_as_they_are() {
    let keys = Arc::new(Keys::default());
    let mut sealer = Sealer::new(Arc::clone(&keys), Purpose::Entries).unwrap();
    let mut opener = Opener::new(keys, Purpose::Entries);
    let bytes = sealed(&mut sealer, NOW, b"clear");
    assert_eq!((bytes.as_slice(), sealer.room()), (&b"clear"[..], 0));
    for _ in 0..2 {
        assert_eq!(opener.open(NOW, &bytes), Ok(&b"clear"[..]));
    }
}

/// Senders are bounded; those that nothing can be replayed of make room.
#[test]
fn senders_come_and_go() {
    let (mut sealer, mut opener) = pair();
    let mut at = |opener: &mut Opener, n: usize, wall| {
        sealer.sender = (n as u64).to_be_bytes();
        let bytes = sealed(&mut sealer, wall, b"x");
        opener.open(wall, &bytes).map(<[u8]>::len)
    };
    for n in 0..SENDERS {
        assert_eq!(at(&mut opener, n, NOW), Ok(1));
    }
    assert_eq!(at(&mut opener, SENDERS, NOW), Err(Why::Crowded));
    assert_eq!(at(&mut opener, 17, NOW), Ok(1), "known ones go on");
    let later = NOW + 2 * TOLERANCE.as_millis() as u64;
    assert_eq!(at(&mut opener, SENDERS, later), Ok(1));
    assert_eq!(opener.senders.len(), 1);
}

#[test]
fn key_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8], mode: u32| -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let good = write("good", KEY, 0o600);
    let ended = write("ended", &[KEY, b" \r\n"].concat(), 0o400);
    assert_eq!(Key::load(&good).unwrap(), Key::load(&ended).unwrap());
    assert_ne!(Key::load(&good).unwrap(), Key::new(OTHER));
    let line = |path: PathBuf| Key::load(&path).unwrap_err().to_string();
    let says = |path: PathBuf, words: &str| {
        let line = line(path);
        assert!(line.contains(words) && !line.contains('\n'), "{line}");
    };
    says(dir.path().join("none"), "No such file");
    says(dir.path().to_owned(), "is no regular file");
    says(
        write("open", KEY, 0o640),
        "is open to others (mode 0640); chmod 600 ",
    );
    says(
        write("short", b"too short\n", 0o600),
        "9 bytes are too short",
    );
    says(write("long", &[b'x'; 4097], 0o600), "longer than 4096");
    let files = KeyFiles {
        current: Some(dir.path().join("none")),
        previous: Some(dir.path().join("open")),
    };
    assert_eq!(files.load().unwrap_err().len(), 2, "all mistakes at once");
    let files = KeyFiles {
        current: Some(good),
        previous: None,
    };
    assert_eq!(files.load().unwrap(), ring(KEY, None));
    assert!(!format!("{:?}", Key::new(KEY)).contains("0123456789"));
}

proptest! {
    /// One bit changed anywhere, or a message cut or longer: not taken.
    #[test]
    fn damaged_messages(
        message in proptest::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let (mut sealer, mut opener) = pair();
        let bytes = sealed(&mut sealer, NOW, &message);
        let mut other = bytes.clone();
        other[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(opener.open(NOW, &other).is_err());
        prop_assert!(opener.open(NOW, &bytes[..at.index(bytes.len())]).is_err());
        prop_assert!(opener.open(NOW, &[&bytes[..], &[0]].concat()).is_err());
        prop_assert!(opener.open(NOW, &[&[0], &bytes[..]].concat()).is_err());
        prop_assert_eq!(opener.open(NOW, &bytes), Ok(&message[..]));
    }

    /// Any bytes: nothing panics, nothing is taken.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let (_, mut opener) = pair();
        prop_assert!(opener.open(NOW, &bytes).is_err());
    }
}
