//! What nodes of RVS do for each other besides the kernel's protocol.
//!
//! Each says [hello](hello) once a second on a port of its own, so that they find each other, see
//! what was lost on the way, and notice when the link is gone. Over TCP a backup [asks](frame) a
//! master for its table when it joins, for what it missed, and now and then for what still lives. A
//! [`machine`] decides, a thread per [`link`] has the sockets, and [`copies`] come from the
//! workers by the control loop. A kernel node hears nothing of it.

pub mod copies;
pub mod counted;
mod exchange;
pub mod frame;
pub mod hello;
pub mod link;
pub mod machine;
mod news;
pub mod record;
mod view;

/// What UDP and TCP ports of the peers are above the port of the synchronisation: none of up to 64
/// sockets is there.
const ABOVE: u16 = 1000;

/// The UDP and TCP port of the peers beside a port of synchronisation.
pub const fn port_beside(port: u16) -> u16 {
    match port.checked_add(ABOVE) {
        Some(beside) => beside,
        None => port - ABOVE,
    }
}

#[cfg(test)]
mod tests;
