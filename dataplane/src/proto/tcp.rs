//! TCP as IPVS follows it (`ip_vs_proto_tcp.c`): eleven states moved by flags alone. Sequence
//! numbers and windows are not looked at.

use super::Direction;
use crate::settings::Timeouts;

/// FIN in the flags byte.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;

macro_rules! states {
    ($($variant:ident $number:literal $name:literal $timeout:literal $active:literal,)*) => {
        /// States with the kernel's numbers, which also travel in sync messages.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum State { $(#[doc = $name] $variant = $number,)* }

        impl State {
            /// Every state, in the order of the numbers.
            pub const ALL: [State; 11] = [$(State::$variant,)*];

            /// From the number; a number that no state has reads as [`State::None`].
            #[inline(always)]
            pub const fn from_number(n: u8) -> State {
                match n { $($number => State::$variant,)* _ => State::None }
            }

            /// Name as listings print it.
            pub const fn name(self) -> &'static str {
                match self { $(State::$variant => $name,)* }
            }

            /// Whether connections in it count as active (`tcp_state_active_table`).
            #[inline(always)]
            pub const fn is_active(self) -> bool {
                match self { $(State::$variant => $active,)* }
            }

            /// Timeout in seconds, before `--set`.
            const fn default_timeout(self) -> u32 {
                match self { $(State::$variant => $timeout,)* }
            }
        }
    };
}

//  variant     no. name          secs active
states! {
    None         0 "NONE"           2 false,
    Established  1 "ESTABLISHED"  900 true,
    SynSent      2 "SYN_SENT"     120 true,
    SynRecv      3 "SYN_RECV"      60 true,
    FinWait      4 "FIN_WAIT"     120 false,
    TimeWait     5 "TIME_WAIT"    120 false,
    Close        6 "CLOSE"         10 false,
    CloseWait    7 "CLOSE_WAIT"    60 false,
    LastAck      8 "LAST_ACK"      30 false,
    Listen       9 "LISTEN"       120 false,
    SynAck      10 "SYNACK"       120 true,
}

/// The state after a packet with these flags. RST goes before SYN, SYN before FIN, FIN before
/// ACK; a packet with none of the four leads to CLOSE.
#[inline(always)]
pub fn advance(state: State, direction: Direction, flags: u8) -> State {
    lookup(&NORMAL, state, direction, flags)
}

/// As [`advance`], with the table of the `secure_tcp` defence.
#[inline(always)]
pub fn advance_secure(state: State, direction: Direction, flags: u8) -> State {
    lookup(&SECURE, state, direction, flags)
}

/// How long a connection lives in this state after its last packet, in seconds. ESTABLISHED and
/// FIN_WAIT are configurable (`ipvsadm --set`), the others are fixed.
#[inline(always)]
pub const fn timeout_secs(state: State, timeouts: &Timeouts) -> u32 {
    match state {
        State::Established => timeouts.tcp,
        State::FinWait => timeouts.tcp_fin,
        other => other.default_timeout(),
    }
}

/// Whether a segment with these flags may open a connection: never with RST; with SYN, or with
/// anything if `sloppy`. A SYN-ACK may (active FTP through direct routing).
#[inline(always)]
pub const fn may_open(flags: u8, sloppy: bool) -> bool {
    flags & RST == 0 && (sloppy || flags & SYN != 0)
}

/// `[direction][state][FIN, SYN, RST, PSH, ACK]`: the event is looked up with the state, so a
/// packet costs one load and no branch. Rows beyond the last state are never read.
type Table = [[[State; 32]; 16]; 3];

#[inline(always)]
fn lookup(table: &Table, state: State, direction: Direction, flags: u8) -> State {
    table[direction as usize][state as usize & 15][flags as usize & 31]
}

/// Spreads the rows `[state][direction][SYN, FIN, ACK, RST]` over all combinations of flags.
const fn table(rows: &[[[State; 4]; 3]; 11]) -> Table {
    let mut out = [[[State::Close; 32]; 16]; 3];
    let mut i = 0;
    while i < 11 * 3 * 32 {
        let (state, direction, flags) = (i / 96, i / 32 % 3, (i % 32) as u8);
        let row = rows[state][direction];
        out[direction][state][flags as usize] = if flags & RST != 0 {
            row[3]
        } else if flags & SYN != 0 {
            row[0]
        } else if flags & FIN != 0 {
            row[1]
        } else if flags & ACK != 0 {
            row[2]
        } else {
            State::Close
        };
        i += 1;
    }
    out
}

use State::{
    Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI,
    SynAck as SA, SynRecv as SR, SynSent as SS, TimeWait as TW,
};

/// The ordinary table (`tcp_states`).
#[rustfmt::skip]
static NORMAL: Table = table(&[
    //                 INPUT             OUTPUT            INPUT_ONLY
    //                 SYN FIN ACK RST   SYN FIN ACK RST   SYN FIN ACK RST
    /* NONE        */ [[SR, CL, ES, CL], [SS, TW, ES, CL], [SR, CL, ES, CL]],
    /* ESTABLISHED */ [[ES, CW, ES, CL], [ES, FW, ES, CL], [ES, FW, ES, CL]],
    /* SYN_SENT    */ [[ES, SS, SS, CL], [SS, SS, SS, SS], [ES, SS, SS, CL]],
    /* SYN_RECV    */ [[SR, TW, ES, SR], [SR, TW, ES, CL], [SR, TW, ES, SR]],
    /* FIN_WAIT    */ [[SR, TW, FW, CL], [SS, FW, FW, CL], [SR, FW, FW, CL]],
    /* TIME_WAIT   */ [[SR, TW, TW, CL], [SS, TW, TW, TW], [SR, TW, TW, CL]],
    /* CLOSE       */ [[SR, CL, CL, CL], [SS, CL, CL, CL], [SR, CL, CL, CL]],
    /* CLOSE_WAIT  */ [[SR, CW, CW, CL], [SS, TW, CW, CL], [SR, CW, CW, CL]],
    /* LAST_ACK    */ [[SR, LA, CL, LA], [SS, LA, LA, CL], [SR, LA, CL, LA]],
    /* LISTEN      */ [[SR, LI, LI, LI], [LI, LI, ES, CL], [SR, LI, LI, LI]],
    /* SYNACK      */ [[SR, TW, ES, SR], [SR, TW, ES, CL], [SR, TW, ES, CL]],
]);

/// The table of `secure_tcp` (`tcp_states_dos`).
#[rustfmt::skip]
static SECURE: Table = table(&[
    //                 INPUT             OUTPUT            INPUT_ONLY
    //                 SYN FIN ACK RST   SYN FIN ACK RST   SYN FIN ACK RST
    /* NONE        */ [[SR, CL, ES, CL], [SS, TW, ES, CL], [SA, CL, ES, CL]],
    /* ESTABLISHED */ [[ES, CW, ES, CL], [ES, FW, ES, CL], [ES, FW, ES, CL]],
    /* SYN_SENT    */ [[ES, SS, SS, CL], [SS, SS, SS, SS], [ES, SS, SS, CL]],
    /* SYN_RECV    */ [[SR, TW, SR, SR], [SA, TW, ES, CL], [SR, TW, ES, SR]],
    /* FIN_WAIT    */ [[SR, TW, FW, CL], [SS, FW, FW, CL], [SA, FW, FW, CL]],
    /* TIME_WAIT   */ [[SR, TW, TW, CL], [SS, TW, TW, TW], [SA, TW, TW, CL]],
    /* CLOSE       */ [[SR, CL, CL, CL], [SS, CL, CL, CL], [SA, CL, CL, CL]],
    /* CLOSE_WAIT  */ [[SR, CW, CW, CL], [SS, TW, CW, CL], [SA, CW, CW, CL]],
    /* LAST_ACK    */ [[SR, LA, CL, LA], [SS, LA, LA, CL], [SA, LA, CL, LA]],
    /* LISTEN      */ [[SR, LI, LI, LI], [LI, LI, ES, CL], [SA, LI, LI, LI]],
    /* SYNACK      */ [[SA, SA, SA, CL], [SA, TW, ES, CL], [SA, TW, ES, CL]],
]);

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(direction: &[(Direction, u8)]) -> State {
        direction
            .iter()
            .fold(State::None, |s, &(d, f)| advance(s, d, f))
    }

    #[test]
    fn lives_of_connections() {
        use Direction::{Input, InputOnly, Output};
        let open = [(Input, SYN), (Output, SYN | ACK), (Input, ACK)];
        assert_eq!(walk(&open[..2]), SR);
        assert_eq!(walk(&open), ES);
        assert_eq!(walk(&[&open[..], &[(Input, FIN | ACK)]].concat()), CW);
        assert_eq!(
            walk(&[&open[..], &[(Input, FIN | ACK), (Output, FIN | ACK)]].concat()),
            TW
        );
        assert_eq!(
            walk(&[(InputOnly, SYN), (InputOnly, ACK), (InputOnly, FIN | ACK)]),
            FW
        );
        // A client's reset does not leave SYN_RECV.
        assert_eq!(walk(&[(Input, SYN), (Input, RST)]), SR);
    }

    /// The short way of the worker knows the normal table only: it is taken for packets without
    /// SYN that leave a state other than SYN_RECV as it is, and there the two agree.
    #[test]
    fn where_nothing_changes_the_secure_table_changes_nothing() {
        use Direction::{Input, InputOnly, Output};
        for state in State::ALL.into_iter().filter(|s| *s != SR) {
            for direction in [Input, Output, InputOnly] {
                for flags in (0..32).filter(|flags| flags & SYN == 0) {
                    if advance(state, direction, flags) == state {
                        assert_eq!(advance_secure(state, direction, flags), state);
                    }
                }
            }
        }
    }

    #[test]
    fn flag_priority() {
        use Direction::Input;
        assert_eq!(advance(ES, Input, RST | SYN | FIN | ACK), CL);
        assert_eq!(advance(CW, Input, SYN | FIN | ACK), SR);
        assert_eq!(advance(ES, Input, FIN | ACK | PSH), CW);
        assert_eq!(advance(ES, Input, PSH), CL);
        assert_eq!(advance(ES, Input, 0xe0), CL);
    }

    #[test]
    fn opening() {
        assert!(may_open(SYN, false) && may_open(SYN | ACK, false));
        assert!(!may_open(ACK, false) && may_open(ACK, true) && may_open(0, true));
        assert!(!may_open(RST, true) && !may_open(SYN | RST, true));
    }

    #[test]
    fn timeouts() {
        let t = Timeouts {
            tcp: 1,
            tcp_fin: 2,
            udp: 3,
        };
        let secs: Vec<_> = State::ALL.iter().map(|s| timeout_secs(*s, &t)).collect();
        assert_eq!(secs, [2, 1, 120, 60, 2, 120, 10, 60, 30, 120, 120]);
        for (i, s) in State::ALL.iter().enumerate() {
            assert_eq!(State::from_number(i as u8), *s);
        }
    }
}
