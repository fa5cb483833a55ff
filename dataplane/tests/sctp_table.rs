//! Every cell of the SCTP state tables against the kernel's, written down as text.

use dataplane::proto::sctp::{self, Chunks, State};
use dataplane::proto::{self, Direction};
use dataplane::service::Protocol;
use dataplane::settings::Timeouts;
use dataplane::time;

/// State DATA INIT INIT-ACK COOKIE-ECHO COOKIE-ACK SHUTDOWN SHUTDOWN-ACK SHUTDOWN-COMPLETE ERROR
/// ABORT, below the direction.
const TABLES: &str = "
# INPUT
NO ES I1 CW CR ES SR CL CL CL CL
I1 I1 IN CW IN I1 I1 IN CL I1 CL
IN IN IN CW IN IN IN IN CL IN CL
CS CS CS CS CR CS CS CS CS CS CL
CR CR CR CR CR CR CR CR CR CR CL
CW CW CW CO CW CW CW CW CW CW RJ
CO CO CO CO CO CO CO CO CO CO CL
CE CE CE CE CE ES CE CE CE CL CL
ES ES ES ES ES ES SR ES ES ES CL
SS SS SS SS SS SS SS CL SS SS CL
SR SR SR SR SR SR SR SR SR SR CL
SA SA SA SA SA SA SA CL CL SA CL
RJ RJ IN RJ RJ RJ RJ RJ RJ RJ CL
CL CL IN CL CL CL CL CL CL CL CL
# OUTPUT
NO ES CW CS CE ES SS SA CL CL CL
I1 I1 CW CS CE ES SS SA I1 CL RJ
IN IN CW CS CE ES SS SA IN CL CL
CS CS CW CS CE ES SS SA CS CL CL
CR CR CW CR CE ES SS SA CR CL CL
CW CW CW CW CE ES SS CW CW CW CL
CO CO CW CO CE ES SS CO CO CO CL
CE CE CW CE CE ES SS CE CE CE CL
ES ES ES ES ES ES SS ES ES ES CL
SS SS CW SS SS SS SS SA SS SS CL
SR SR CW SR SR SR SR SA SR SR CL
SA SA CW SA SA SA SA SA SA SA CL
RJ RJ CW RJ RJ RJ RJ RJ RJ RJ CL
CL CL CW CL CL CL CL CL CL CL CL
# INPUT-ONLY
NO ES I1 CE ES ES SR CL CL CL CL
I1 I1 IN CE ES I1 I1 IN CL I1 CL
IN IN IN CE ES IN IN IN CL IN CL
CS CS IN CE ES ES CS CS CL CS CL
CR CR IN CE ES ES CR CR CL CR CL
CW ES IN CE ES CW CW CW CW CW RJ
CO CO CO CO CO ES CO CO CO CO CL
CE CE CE CE CE ES CE CE CE CE CL
ES ES ES ES ES ES SR CL ES ES CL
SS SS SS SS SS SS SS CL SS SS CL
SR SR SR SR SR SR SR SR CL SR CL
SA SA SA SA SA SA SA CL CL SA CL
RJ RJ IN RJ RJ RJ RJ RJ RJ RJ CL
CL CL IN CL CL CL CL CL CL CL CL
";

/// Short names in the order of the kernel's numbers.
const SHORT: [&str; 14] = [
    "NO", "I1", "IN", "CS", "CR", "CW", "CO", "CE", "ES", "SS", "SR", "SA", "RJ", "CL",
];

/// Chunk types of the ten columns; the first one stands for every type without a column.
const COLUMNS: [u8; 10] = [0, 1, 2, 10, 11, 7, 8, 14, 9, 6];

fn state(short: &str) -> State {
    let number = SHORT.iter().position(|s| *s == short);
    State::from_number(number.unwrap_or_else(|| panic!("{short}")) as u8)
}

#[test]
fn every_cell() {
    let mut direction = Direction::Input;
    let mut cells = 0;
    for line in TABLES.trim().lines() {
        if let Some(title) = line.strip_prefix("# ") {
            direction = match title {
                "INPUT" => Direction::Input,
                "OUTPUT" => Direction::Output,
                "INPUT-ONLY" => Direction::InputOnly,
                other => panic!("{other}"),
            };
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let from = state(words[0]);
        assert_eq!(words.len(), 11, "{line}");
        for first in 0..=255 {
            let column = COLUMNS.iter().position(|c| *c == first).unwrap_or(0);
            let chunks = Chunks {
                first,
                is_aborted_cookie: false,
            };
            let got = sctp::advance(from, direction, chunks);
            assert_eq!(
                got,
                state(words[1 + column]),
                "{direction:?} {line}: {first}"
            );
            let aborted = Chunks {
                first,
                is_aborted_cookie: true,
            };
            let got = sctp::advance(from, direction, aborted);
            assert_eq!(
                got,
                state(words[10]),
                "{direction:?} {line}: ABORT behind {first}"
            );
            cells += 1;
        }
    }
    assert_eq!(cells, 3 * 14 * 256);
}

#[test]
fn names_timeouts_and_activity() {
    let want = [
        ("NONE", 2),
        ("INIT1", 4),
        ("INIT", 61),
        ("C-SENT", 61),
        ("C-REPLIED", 61),
        ("C-WAIT", 61),
        ("COOKIE", 61),
        ("C-ECHOED", 61),
        ("ESTABLISHED", 900),
        ("S-SENT", 61),
        ("S-RECEIVED", 61),
        ("S-ACK-SENT", 61),
        ("REJECTED", 4),
        ("CLOSED", 61),
    ];
    // `--set` does not reach SCTP.
    let timeouts = Timeouts {
        tcp: 1,
        tcp_fin: 1,
        udp: 1,
    };
    for (number, (name, secs)) in (0..).zip(want) {
        assert_eq!(State::from_number(number), State::ALL[number as usize]);
        assert_eq!(proto::state_name(Protocol::Sctp, number), name);
        let ticks = proto::timeout_ticks(Protocol::Sctp, number, &timeouts);
        assert_eq!(ticks, time::secs(secs), "{name}");
        assert_eq!(
            proto::is_active(Protocol::Sctp, number),
            number == 8,
            "{name}"
        );
    }
    assert_eq!(proto::state_name(Protocol::Sctp, 14), "NONE");
}
