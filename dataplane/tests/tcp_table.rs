//! Every cell of the TCP state tables against the kernel's, written down as text, and every
//! combination of flags against the rule of precedence.

use dataplane::proto::tcp::{self, State};
use dataplane::proto::{self, Direction};
use dataplane::service::Protocol;

/// State | INPUT: SYN FIN ACK RST | OUTPUT: the same | INPUT_ONLY: the same.
const NORMAL: &str = "
NO | SR CL ES CL | SS TW ES CL | SR CL ES CL
ES | ES CW ES CL | ES FW ES CL | ES FW ES CL
SS | ES SS SS CL | SS SS SS SS | ES SS SS CL
SR | SR TW ES SR | SR TW ES CL | SR TW ES SR
FW | SR TW FW CL | SS FW FW CL | SR FW FW CL
TW | SR TW TW CL | SS TW TW TW | SR TW TW CL
CL | SR CL CL CL | SS CL CL CL | SR CL CL CL
CW | SR CW CW CL | SS TW CW CL | SR CW CW CL
LA | SR LA CL LA | SS LA LA CL | SR LA CL LA
LI | SR LI LI LI | LI LI ES CL | SR LI LI LI
SA | SR TW ES SR | SR TW ES CL | SR TW ES CL
";

/// As above while `secure_tcp` is active.
const SECURE: &str = "
NO | SR CL ES CL | SS TW ES CL | SA CL ES CL
ES | ES CW ES CL | ES FW ES CL | ES FW ES CL
SS | ES SS SS CL | SS SS SS SS | ES SS SS CL
SR | SR TW SR SR | SA TW ES CL | SR TW ES SR
FW | SR TW FW CL | SS FW FW CL | SA FW FW CL
TW | SR TW TW CL | SS TW TW TW | SA TW TW CL
CL | SR CL CL CL | SS CL CL CL | SA CL CL CL
CW | SR CW CW CL | SS TW CW CL | SA CW CW CL
LA | SR LA CL LA | SS LA LA CL | SA LA CL LA
LI | SR LI LI LI | LI LI ES CL | SA LI LI LI
SA | SA SA SA CL | SA TW ES CL | SA TW ES CL
";

/// Short names in the order of the kernel's numbers.
const SHORT: [&str; 11] = [
    "NO", "ES", "SS", "SR", "FW", "TW", "CL", "CW", "LA", "LI", "SA",
];

const DIRECTIONS: [Direction; 3] = [Direction::Input, Direction::Output, Direction::InputOnly];

fn state(short: &str) -> State {
    let number = SHORT
        .iter()
        .position(|s| *s == short)
        .unwrap_or_else(|| panic!("{short}"));
    State::from_number(number as u8)
}

/// `[state][direction][SYN, FIN, ACK, RST]`.
fn parse(table: &str) -> Vec<Vec<Vec<State>>> {
    let rows: Vec<Vec<Vec<State>>> = table
        .trim()
        .lines()
        .enumerate()
        .map(|(i, line)| {
            let (from, cells) = line.split_once('|').unwrap();
            assert_eq!(from.trim(), SHORT[i]);
            cells
                .split('|')
                .map(|c| c.split_whitespace().map(state).collect())
                .collect()
        })
        .collect();
    assert_eq!(rows.len(), 11);
    assert!(
        rows.iter()
            .all(|r| r.len() == 3 && r.iter().all(|d| d.len() == 4))
    );
    rows
}

fn check(table: &str, advance: fn(State, Direction, u8) -> State) {
    let table = parse(table);
    for (from, row) in State::ALL.iter().zip(&table) {
        for (direction, cells) in DIRECTIONS.iter().zip(row) {
            for flags in 0..=255u8 {
                // RST, then SYN, then FIN, then ACK.
                let expected = [(tcp::RST, 3), (tcp::SYN, 0), (tcp::FIN, 1), (tcp::ACK, 2)]
                    .iter()
                    .find(|(bit, _)| flags & bit != 0)
                    .map_or(State::Close, |(_, column)| cells[*column]);
                let to = advance(*from, *direction, flags);
                assert_eq!(to, expected, "{} {direction:?} {flags:#04x}", from.name());
            }
        }
    }
}

#[test]
fn normal_table() {
    check(NORMAL, tcp::advance);
}

#[test]
fn secure_table() {
    check(SECURE, tcp::advance_secure);
}

#[test]
fn the_byte_that_connections_keep_goes_the_same_way() {
    for from in State::ALL {
        for direction in DIRECTIONS {
            for flags in 0..=255 {
                let to = proto::advance(Protocol::Tcp, from as u8, direction, flags, None);
                assert_eq!(to, tcp::advance(from, direction, flags) as u8);
            }
        }
    }
}

#[test]
fn names_numbers_and_activity() {
    let names = [
        "NONE",
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "SYNACK",
    ];
    for (number, name) in names.iter().enumerate() {
        let state = State::from_number(number as u8);
        assert_eq!((state as usize, state.name()), (number, *name));
        let active = ["ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK"].contains(name);
        assert_eq!(state.is_active(), active, "{name}");
    }
}
