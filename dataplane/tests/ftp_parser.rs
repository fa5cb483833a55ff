//! The FTP parser and the sequence numbers, whatever comes.

use dataplane::addr::{Addr, Endpoint};
use dataplane::helper::ftp::{self, Command, Passive};
use dataplane::helper::sequence::Adjustment;
use proptest::collection::vec;
use proptest::prelude::*;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Bytes that look like a dialogue more often than not.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let words = prop_oneof![
        Just(b"227 ".to_vec()),
        Just(b"229 ".to_vec()),
        Just(b"PORT ".to_vec()),
        Just(b"EPRT ".to_vec()),
        Just(b"PASV".to_vec()),
        Just(b"EPSV".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"(".to_vec()),
        Just(b")".to_vec()),
        Just(b"|".to_vec()),
        Just(b",".to_vec()),
        any::<u32>().prop_map(|n| (n % 700).to_string().into_bytes()),
        any::<[u8; 6]>().prop_map(|b| b.map(|n| n.to_string()).join(",").into_bytes()),
        any::<u16>().prop_map(|n| format!("|||{n}|").into_bytes()),
        vec(any::<u8>(), 0..4),
    ];
    vec(words, 0..12).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_are_read(payload in nearly()) {
        for command in ftp::commands(&payload) {
            if let Command::Active(endpoint) = command {
                prop_assert_ne!(endpoint.port, 0);
            }
        }
        for asked in [Passive::Pasv, Passive::Epsv] {
            let Some(named) = ftp::named(&payload, asked) else { continue };
            prop_assert_ne!(named.port, 0);
            prop_assert_eq!(named.text.is_some(), asked == Passive::Pasv);
            if let Some(text) = named.text {
                // It is what a client would take for the endpoint, and nothing else.
                let line = [b"PORT ", &payload[text], b"\r\n"].concat();
                let [Command::Active(endpoint)] = ftp::commands(&line).collect::<Vec<_>>()[..]
                else { return Err(TestCaseError::fail("no endpoint")) };
                prop_assert_eq!(endpoint.port, named.port);
            }
        }
    }

    #[test]
    fn words_are_read_back(addr: [u8; 4], port in 1u16..) {
        let endpoint = Endpoint::new(Addr::v4(addr), port);
        let line = [b"PORT ", &ftp::words(&endpoint)[..], b"\r\n"].concat();
        prop_assert_eq!(ftp::commands(&line).next(), Some(Command::Active(endpoint)));
    }

    /// A conversation in which the words in the middle grow and shrink: the receiver sees one
    /// unbroken stream, and the sender is acknowledged what it sent.
    #[test]
    fn both_ends_agree(
        start: u32,
        segments in vec((1u32..1400, -40i32..40, any::<bool>(), any::<bool>()), 1..40),
    ) {
        let mut adjustment = Adjustment::default();
        let (mut seq, mut expected) = (start, start);
        let mut last: Option<(u32, u32, i32)> = None;
        for (len, by, changes, again) in segments {
            let by = if changes { by.max(1 - len as i32) } else { 0 };
            // Sent a second time: the same numbers, changed in the same way.
            if let (Some((seq, seen, by)), true) = (last, again) {
                adjustment = adjustment.changed(seq, by);
                prop_assert_eq!(adjustment.forward(seq), seen);
            }
            adjustment = adjustment.changed(seq, by);
            prop_assert_eq!(adjustment.forward(seq), expected);
            last = Some((seq, expected, by));
            seq = seq.wrapping_add(len);
            expected = expected.wrapping_add_signed(len as i32 + by);
            // The receiver acknowledges all that it has.
            prop_assert_eq!(adjustment.back(expected), seq);
        }
    }
}
