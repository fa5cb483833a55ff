//! Protocols as IPVS follows them: states, timeouts, and who may open a connection.
//!
//! A connection's state is one byte. What it means depends on the protocol; the functions here
//! are the one place that knows, so a new protocol is a file, a variant of
//! [`Protocol`](crate::service::Protocol) and an arm in each `match` below.

pub mod sctp;
pub mod tcp;
pub mod udp;

use self::sctp::Chunks;
use crate::flow::Flow;
use crate::service::Protocol;
use crate::settings::{Settings, Timeouts};
use crate::time;

/// Which way a packet goes, and what of the connection passes by here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Client to server, replies pass here too.
    Input = 0,
    /// Server to client.
    Output = 1,
    /// Client to server, and no reply has been seen (direct routing, tunnels: `NOOUTPUT`).
    InputOnly = 2,
}

/// State of a connection before its first packet.
pub const INITIAL_STATE: u8 = 0;

/// Timeout of a connection for which no state machine has run yet, in ticks (3 s).
pub const INITIAL_TIMEOUT: u32 = time::secs(3);

/// The state after a packet. Both state and timeout are set on every packet, changed or not.
#[inline(always)]
pub fn advance(
    protocol: Protocol,
    state: u8,
    direction: Direction,
    tcp_flags: u8,
    chunks: Option<Chunks>,
) -> u8 {
    match protocol {
        Protocol::Tcp => tcp::advance(tcp::State::from_number(state), direction, tcp_flags) as u8,
        Protocol::Udp => udp::NORMAL,
        // Cut before the first chunk: the kernel forwards it and leaves the state alone.
        Protocol::Sctp => chunks.map_or(state, |chunks| {
            sctp::advance(sctp::State::from_number(state), direction, chunks) as u8
        }),
    }
}

/// How long a connection lives in this state after its last packet, in ticks.
#[inline(always)]
pub fn timeout_ticks(protocol: Protocol, state: u8, timeouts: &Timeouts) -> u32 {
    time::secs(match protocol {
        Protocol::Tcp => tcp::timeout_secs(tcp::State::from_number(state), timeouts),
        Protocol::Udp => timeouts.udp,
        Protocol::Sctp => sctp::State::from_number(state).timeout_secs(),
    })
}

/// Whether the state counts as active (`ActiveConn`); UDP never does.
#[inline(always)]
pub const fn is_active(protocol: Protocol, state: u8) -> bool {
    match protocol {
        Protocol::Tcp => tcp::State::from_number(state).is_active(),
        Protocol::Udp => false,
        Protocol::Sctp => sctp::State::from_number(state).is_active(),
    }
}

/// Whether a connection in this state shows that its real server answers, which assures the
/// template above it. UDP has no such state: there a reply shows it.
#[inline(always)]
pub const fn is_established(protocol: Protocol, state: u8) -> bool {
    match protocol {
        Protocol::Tcp => state == tcp::State::Established as u8,
        Protocol::Udp => false,
        Protocol::Sctp => state == sctp::State::Established as u8,
    }
}

/// What the `drop_entry` defence does with a connection (`todrop_entry`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Ends it.
    Drop,
    /// Ends it if it has been idle and saw few packets.
    DropIdle,
    /// Lets it be.
    Keep,
}

/// What the `drop_entry` defence does with a connection in this state.
pub const fn under_pressure(protocol: Protocol, state: u8) -> Pressure {
    match protocol {
        Protocol::Tcp => match tcp::State::from_number(state) {
            tcp::State::SynRecv | tcp::State::SynAck => Pressure::Drop,
            tcp::State::Established => Pressure::DropIdle,
            _ => Pressure::Keep,
        },
        Protocol::Udp => Pressure::DropIdle,
        Protocol::Sctp => match sctp::State::from_number(state) {
            sctp::State::Init1 | sctp::State::Init => Pressure::Drop,
            sctp::State::Established => Pressure::DropIdle,
            _ => Pressure::Keep,
        },
    }
}

/// Whether the protocol has a state of this number.
pub const fn is_state(protocol: Protocol, state: u8) -> bool {
    match protocol {
        Protocol::Tcp => tcp::State::from_number(state) as u8 == state,
        Protocol::Udp => state == udp::NORMAL,
        Protocol::Sctp => sctp::State::from_number(state) as u8 == state,
    }
}

/// Name of the state as `ipvsadm -Lnc` prints it.
pub const fn state_name(protocol: Protocol, state: u8) -> &'static str {
    match protocol {
        Protocol::Tcp => tcp::State::from_number(state).name(),
        Protocol::Udp => udp::NAME,
        Protocol::Sctp => sctp::State::from_number(state).name(),
    }
}

/// What a packet without a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Open a connection.
    Allowed,
    /// Not this one: it goes to the host, whose TCP answers with a reset.
    Refused,
    /// Its transport header is cut short: it is dropped.
    Short,
}

/// Whether a packet of a service may open a connection (`ip_vs_*_conn_schedule`): TCP with a
/// whole header, no RST, and SYN unless `sloppy_tcp`; UDP with a whole header; SCTP with a whole
/// header and that of a chunk, which is INIT, or anything but ABORT if `sloppy_sctp`. Packets from
/// source port 20 never do (`ip_vs_schedule`, active FTP data).
#[inline]
pub fn may_open(protocol: Protocol, flow: &Flow, settings: &Settings) -> Opening {
    if !flow.has_l4_header() {
        return Opening::Short;
    }
    let opens = match protocol {
        Protocol::Tcp => tcp::may_open(flow.tcp_flags, settings.sloppy_tcp),
        Protocol::Udp => true,
        Protocol::Sctp => match flow.chunks {
            Some(chunks) => sctp::may_open(chunks, settings.sloppy_sctp),
            None => return Opening::Short,
        },
    };
    if opens && flow.src_port != FTP_DATA {
        Opening::Allowed
    } else {
        Opening::Refused
    }
}

/// Whether a packet of a known connection may start it anew (`is_new_conn`, the reuse test):
/// TCP with SYN, a SYN-ACK too, and SCTP with INIT. A segment that is cut before the end of its
/// header does not, though its flags may be there.
#[inline(always)]
pub fn is_opening(flow: &Flow) -> bool {
    // Other protocols have neither flags nor chunks.
    flow.tcp_flags & tcp::SYN != 0 && flow.has_l4_header()
        || flow.chunks.is_some_and(Chunks::is_init)
}

const FTP_DATA: u16 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_has_one_state() {
        let t = Timeouts::default();
        for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
            assert_eq!(
                advance(Protocol::Udp, INITIAL_STATE, direction, 0xff, None),
                0
            );
        }
        assert_eq!(timeout_ticks(Protocol::Udp, 0, &t), time::secs(300));
        assert_eq!(state_name(Protocol::Udp, 0), "UDP");
        assert!(!is_active(Protocol::Udp, 0));
    }

    #[test]
    fn tcp_by_number() {
        let t = Timeouts {
            tcp: 10,
            tcp_fin: 20,
            udp: 30,
        };
        let state = advance(
            Protocol::Tcp,
            INITIAL_STATE,
            Direction::Input,
            tcp::SYN,
            None,
        );
        assert_eq!(state_name(Protocol::Tcp, state), "SYN_RECV");
        assert_eq!(timeout_ticks(Protocol::Tcp, state, &t), time::secs(60));
        assert!(is_active(Protocol::Tcp, state));
        assert!(!is_active(Protocol::Tcp, INITIAL_STATE));
        // A byte that no state has (a damaged region) reads as NONE.
        assert_eq!(state_name(Protocol::Tcp, 200), "NONE");
    }

    #[test]
    fn packets_that_open() {
        let syn_ack = Flow {
            tcp_flags: tcp::SYN | tcp::ACK,
            ..Flow::EMPTY
        };
        let chunk = |first| Flow {
            chunks: Some(Chunks {
                first,
                is_aborted_cookie: false,
            }),
            ..Flow::EMPTY
        };
        assert!(is_opening(&syn_ack) && is_opening(&chunk(sctp::chunk::INIT)));
        assert!(!is_opening(&Flow::EMPTY) && !is_opening(&chunk(0)));
    }

    #[test]
    fn sctp_without_a_chunk_stays_in_its_state_and_opens_nothing() {
        let established = sctp::State::Established as u8;
        let to = advance(Protocol::Sctp, established, Direction::Input, 0xff, None);
        assert_eq!(to, established);
        let flow = Flow {
            l4_len: 15,
            protocol: 132,
            ..Flow::EMPTY
        };
        let settings = Settings {
            sloppy_sctp: true,
            ..Settings::default()
        };
        assert_eq!(may_open(Protocol::Sctp, &flow, &settings), Opening::Short);
    }
}
