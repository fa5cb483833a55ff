//! SCTP as IPVS follows it (`ip_vs_proto_sctp.c`): fourteen states moved by the type of a
//! packet's first chunk. Verification tags and sequence numbers are not looked at.

use super::Direction;

/// Bytes of the common header; the first chunk follows (RFC 9260, 3).
pub const HEADER_LEN: usize = 12;
/// Bytes of a chunk's own header: type, flags, length.
pub const CHUNK_HEADER_LEN: usize = 4;

/// Chunk types (RFC 9260, 3.2) that the code names.
pub mod chunk {
    /// INIT.
    pub const INIT: u8 = 1;
    /// ABORT.
    pub const ABORT: u8 = 6;
    /// COOKIE ECHO.
    pub const COOKIE_ECHO: u8 = 10;
    /// COOKIE ACK.
    pub const COOKIE_ACK: u8 = 11;
}

/// What the states ask of a packet: its first chunk, and whether an ABORT stands behind a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// Type of the first chunk.
    pub first: u8,
    /// The first chunk is COOKIE ECHO or COOKIE ACK and the second one is ABORT.
    pub is_aborted_cookie: bool,
}

impl Chunks {
    /// Reads them from the bytes of a packet, common header first. `None` if it ends before the
    /// header of the first chunk.
    pub fn read(l4: &[u8]) -> Option<Chunks> {
        let chunks = l4.get(HEADER_LEN..)?;
        let [first, _, len_high, len_low] = *chunks.first_chunk::<CHUNK_HEADER_LEN>()?;
        let len = usize::from(u16::from_be_bytes([len_high, len_low]));
        let second = match first {
            chunk::COOKIE_ECHO | chunk::COOKIE_ACK if len >= CHUNK_HEADER_LEN => chunks
                // Chunks are padded to words (RFC 9260, 3.2).
                .get(len.next_multiple_of(4)..)
                .and_then(<[u8]>::first_chunk::<CHUNK_HEADER_LEN>),
            _ => None,
        };
        Some(Chunks {
            first,
            is_aborted_cookie: second.is_some_and(|header| header[0] == chunk::ABORT),
        })
    }

    /// Whether the packet asks for an association.
    #[inline(always)]
    pub const fn is_init(self) -> bool {
        self.first == chunk::INIT
    }

    /// Whether the first chunk ends the association at once.
    #[inline(always)]
    pub const fn is_abort(self) -> bool {
        self.first == chunk::ABORT
    }

    /// The column of the state table: data, acknowledgements, heartbeats and everything unknown
    /// are one event.
    const fn event(self) -> usize {
        match self.first {
            _ if self.is_aborted_cookie => 9,
            chunk::INIT => 1,
            2 => 2,
            chunk::COOKIE_ECHO => 3,
            chunk::COOKIE_ACK => 4,
            7 => 5,
            8 => 6,
            14 => 7,
            9 => 8,
            chunk::ABORT => 9,
            _ => 0,
        }
    }
}

macro_rules! states {
    ($($variant:ident $number:literal $name:literal $timeout:literal,)*) => {
        /// States with the kernel's numbers, which also travel in sync messages.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum State { $(#[doc = $name] $variant = $number,)* }

        impl State {
            /// Every state, in the order of the numbers.
            pub const ALL: [State; 14] = [$(State::$variant,)*];

            /// From the number; a number that no state has reads as [`State::None`].
            #[inline(always)]
            pub const fn from_number(n: u8) -> State {
                match n { $($number => State::$variant,)* _ => State::None }
            }

            /// Name as listings print it.
            pub const fn name(self) -> &'static str {
                match self { $(State::$variant => $name,)* }
            }

            /// How long a connection lives in it after its last packet, in seconds. None of
            /// them is configurable.
            pub const fn timeout_secs(self) -> u32 {
                match self { $(State::$variant => $timeout,)* }
            }
        }
    };
}

//  variant          no. name         secs
states! {
    None              0 "NONE"          2,
    Init1             1 "INIT1"         4,
    Init              2 "INIT"         61,
    CookieSent        3 "C-SENT"       61,
    CookieReplied     4 "C-REPLIED"    61,
    CookieWait        5 "C-WAIT"       61,
    Cookie            6 "COOKIE"       61,
    CookieEchoed      7 "C-ECHOED"     61,
    Established       8 "ESTABLISHED" 900,
    ShutdownSent      9 "S-SENT"       61,
    ShutdownReceived 10 "S-RECEIVED"   61,
    ShutdownAckSent  11 "S-ACK-SENT"   61,
    Rejected         12 "REJECTED"      4,
    Closed           13 "CLOSED"       61,
}

impl State {
    /// Whether connections in it count as active: ESTABLISHED only.
    #[inline(always)]
    pub const fn is_active(self) -> bool {
        matches!(self, State::Established)
    }
}

/// The state after a packet with these chunks.
pub fn advance(state: State, direction: Direction, chunks: Chunks) -> State {
    STATES[direction as usize][state as usize][chunks.event()]
}

/// Whether a packet may open a connection: with INIT, or with anything but ABORT if `sloppy`.
pub const fn may_open(chunks: Chunks, sloppy: bool) -> bool {
    chunks.is_init() || sloppy && !chunks.is_abort()
}

use State::{
    Closed as CL, Cookie as CO, CookieEchoed as CE, CookieReplied as CR, CookieSent as CS,
    CookieWait as CW, Established as ES, Init as IN, Init1 as I1, Rejected as RJ,
    ShutdownAckSent as SA, ShutdownReceived as SR, ShutdownSent as SS,
};

/// `[direction][state][event]` (`sctp_states`). Events: DATA and others, INIT, INIT ACK, COOKIE
/// ECHO, COOKIE ACK, SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE, ERROR, ABORT.
#[rustfmt::skip]
static STATES: [[[State; 10]; 14]; 3] = [
    // INPUT
    [
        //                DATA IN  IA  CE  CA  SD  SA  SC  ERR AB
        /* NONE        */ [ES, I1, CW, CR, ES, SR, CL, CL, CL, CL],
        /* INIT1       */ [I1, IN, CW, IN, I1, I1, IN, CL, I1, CL],
        /* INIT        */ [IN, IN, CW, IN, IN, IN, IN, CL, IN, CL],
        /* C-SENT      */ [CS, CS, CS, CR, CS, CS, CS, CS, CS, CL],
        /* C-REPLIED   */ [CR, CR, CR, CR, CR, CR, CR, CR, CR, CL],
        /* C-WAIT      */ [CW, CW, CO, CW, CW, CW, CW, CW, CW, RJ],
        /* COOKIE      */ [CO, CO, CO, CO, CO, CO, CO, CO, CO, CL],
        /* C-ECHOED    */ [CE, CE, CE, CE, ES, CE, CE, CE, CL, CL],
        /* ESTABLISHED */ [ES, ES, ES, ES, ES, SR, ES, ES, ES, CL],
        /* S-SENT      */ [SS, SS, SS, SS, SS, SS, CL, SS, SS, CL],
        /* S-RECEIVED  */ [SR, SR, SR, SR, SR, SR, SR, SR, SR, CL],
        /* S-ACK-SENT  */ [SA, SA, SA, SA, SA, SA, CL, CL, SA, CL],
        /* REJECTED    */ [RJ, IN, RJ, RJ, RJ, RJ, RJ, RJ, RJ, CL],
        /* CLOSED      */ [CL, IN, CL, CL, CL, CL, CL, CL, CL, CL],
    ],
    // OUTPUT
    [
        //                DATA IN  IA  CE  CA  SD  SA  SC  ERR AB
        /* NONE        */ [ES, CW, CS, CE, ES, SS, SA, CL, CL, CL],
        /* INIT1       */ [I1, CW, CS, CE, ES, SS, SA, I1, CL, RJ],
        /* INIT        */ [IN, CW, CS, CE, ES, SS, SA, IN, CL, CL],
        /* C-SENT      */ [CS, CW, CS, CE, ES, SS, SA, CS, CL, CL],
        /* C-REPLIED   */ [CR, CW, CR, CE, ES, SS, SA, CR, CL, CL],
        /* C-WAIT      */ [CW, CW, CW, CE, ES, SS, CW, CW, CW, CL],
        /* COOKIE      */ [CO, CW, CO, CE, ES, SS, CO, CO, CO, CL],
        /* C-ECHOED    */ [CE, CW, CE, CE, ES, SS, CE, CE, CE, CL],
        /* ESTABLISHED */ [ES, ES, ES, ES, ES, SS, ES, ES, ES, CL],
        /* S-SENT      */ [SS, CW, SS, SS, SS, SS, SA, SS, SS, CL],
        /* S-RECEIVED  */ [SR, CW, SR, SR, SR, SR, SA, SR, SR, CL],
        /* S-ACK-SENT  */ [SA, CW, SA, SA, SA, SA, SA, SA, SA, CL],
        /* REJECTED    */ [RJ, CW, RJ, RJ, RJ, RJ, RJ, RJ, RJ, CL],
        /* CLOSED      */ [CL, CW, CL, CL, CL, CL, CL, CL, CL, CL],
    ],
    // INPUT_ONLY
    [
        //                DATA IN  IA  CE  CA  SD  SA  SC  ERR AB
        /* NONE        */ [ES, I1, CE, ES, ES, SR, CL, CL, CL, CL],
        /* INIT1       */ [I1, IN, CE, ES, I1, I1, IN, CL, I1, CL],
        /* INIT        */ [IN, IN, CE, ES, IN, IN, IN, CL, IN, CL],
        /* C-SENT      */ [CS, IN, CE, ES, ES, CS, CS, CL, CS, CL],
        /* C-REPLIED   */ [CR, IN, CE, ES, ES, CR, CR, CL, CR, CL],
        /* C-WAIT      */ [ES, IN, CE, ES, CW, CW, CW, CW, CW, RJ],
        /* COOKIE      */ [CO, CO, CO, CO, ES, CO, CO, CO, CO, CL],
        /* C-ECHOED    */ [CE, CE, CE, CE, ES, CE, CE, CE, CE, CL],
        /* ESTABLISHED */ [ES, ES, ES, ES, ES, SR, CL, ES, ES, CL],
        /* S-SENT      */ [SS, SS, SS, SS, SS, SS, CL, SS, SS, CL],
        /* S-RECEIVED  */ [SR, SR, SR, SR, SR, SR, SR, CL, SR, CL],
        /* S-ACK-SENT  */ [SA, SA, SA, SA, SA, SA, CL, CL, SA, CL],
        /* REJECTED    */ [RJ, IN, RJ, RJ, RJ, RJ, RJ, RJ, RJ, CL],
        /* CLOSED      */ [CL, IN, CL, CL, CL, CL, CL, CL, CL, CL],
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of chunks: type and length of each.
    fn packet(chunks: &[(u8, u16)]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        for &(kind, len) in chunks {
            let at = bytes.len();
            bytes.extend([kind, 0]);
            bytes.extend(len.to_be_bytes());
            bytes.resize(at + usize::from(len).next_multiple_of(4).max(4), 0);
        }
        bytes
    }

    fn event(chunks: &[(u8, u16)]) -> usize {
        Chunks::read(&packet(chunks)).unwrap().event()
    }

    #[test]
    fn the_first_chunk_tells() {
        let events: Vec<_> = (0..=20).map(|kind| event(&[(kind, 4)])).collect();
        let known = [0, 1, 2, 0, 0, 0, 9, 5, 6, 8, 3, 4, 0, 0, 7];
        assert_eq!(events[..15], known);
        assert_eq!(events[15..], [0; 6]);
        assert_eq!(
            event(&[(0, 17), (6, 4)]),
            0,
            "an ABORT behind DATA is not looked for"
        );
    }

    #[test]
    fn an_abort_behind_a_cookie_counts() {
        for (cookie, column) in [(10, 3), (11, 4)] {
            assert_eq!(event(&[(cookie, 9), (6, 4)]), 9, "padded to twelve bytes");
            assert_eq!(event(&[(cookie, 8), (3, 16), (6, 4)]), column);
            assert_eq!(
                event(&[(cookie, 3), (6, 4)]),
                column,
                "no chunk is that short"
            );
            // A length beyond the packet.
            assert_eq!(event(&[(cookie, 4)]), column);
            let mut cut = packet(&[(cookie, 8), (6, 4)]);
            cut.truncate(HEADER_LEN + 8 + 3);
            assert_eq!(Chunks::read(&cut).unwrap().event(), column);
        }
    }

    #[test]
    fn a_short_packet_has_no_chunk() {
        assert_eq!(Chunks::read(&[0; 15]), None);
        assert_eq!(
            Chunks::read(&[0; 16]),
            Some(Chunks {
                first: 0,
                is_aborted_cookie: false
            })
        );
    }

    #[test]
    fn opening() {
        let chunks = |first| Chunks {
            first,
            is_aborted_cookie: false,
        };
        for first in 0..=20 {
            assert_eq!(may_open(chunks(first), false), first == chunk::INIT);
            assert_eq!(may_open(chunks(first), true), first != chunk::ABORT);
        }
    }

    #[test]
    fn lives_of_associations() {
        use Direction::{Input, Output};
        let walk = |steps: &[(Direction, u8)]| {
            steps
                .iter()
                .fold(State::None, |state, &(direction, first)| {
                    let is_aborted_cookie = false;
                    advance(
                        state,
                        direction,
                        Chunks {
                            first,
                            is_aborted_cookie,
                        },
                    )
                })
        };
        // Both directions pass by.
        let open = [(Input, 1), (Output, 2), (Input, 10), (Output, 11)];
        assert_eq!(walk(&open[..1]), I1);
        assert_eq!(walk(&open[..2]), CS);
        assert_eq!(walk(&open[..3]), CR);
        assert_eq!(walk(&open), ES);
        let close = [(Input, 7), (Output, 8)];
        assert_eq!(walk(&[&open[..], &close].concat()), SA);
        assert_eq!(walk(&[&open[..], &close, &[(Input, 14)]].concat()), CL);
        // Recorded from the kernel: a NAT connection of which only the client's packets pass.
        let recorded = [(Input, 1), (Input, 10), (Input, 14), (Input, 1)];
        assert_eq!(walk(&recorded[..2]), IN);
        assert_eq!(walk(&recorded[..2]).name(), "INIT");
    }
}
