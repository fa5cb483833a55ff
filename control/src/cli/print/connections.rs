//! Listing of connections, row by row as they arrive.

use std::io::{self, Write};

use super::endpoint::Endpoints;
use crate::api::{ConnectionRow, EngineData, Protocol};

/// Prints the two lines on top; `engine` adds the columns of persistence engines.
pub fn title(out: &mut dyn Write, engine: bool) -> io::Result<()> {
    let more = if engine {
        "        pe name          pe_data"
    } else {
        ""
    };
    writeln!(out, "IPVS connection entries")?;
    writeln!(
        out,
        "pro expire state       source             virtual            destination{more}"
    )
}

/// Prints one connection; `engine` as above.
pub fn row(
    out: &mut dyn Write,
    row: &ConnectionRow,
    engine: bool,
    endpoints: &Endpoints<'_>,
) -> io::Result<()> {
    let protocol = match row.protocol {
        Some(Protocol::Tcp) => "TCP",
        Some(Protocol::Udp) => "UDP",
        Some(Protocol::Sctp) => "SCTP",
        None => "IP",
    };
    // Ports of no protocol have no names; the original asks for TCP's.
    let named = row.protocol.unwrap_or(Protocol::Tcp);
    let expires = format!("{:02}:{:02}", row.expires / 60, row.expires % 60);
    let [client, service, server] =
        [row.client, row.virtual_, row.dest].map(|(addr, port)| endpoints.full(addr, port, named));
    let state = &row.state;
    write!(
        out,
        "{protocol:3} {expires:6} {state:11} {client:18} {service:18} "
    )?;
    match row.engine.as_ref().filter(|_| engine) {
        Some(EngineData { name, data }) => writeln!(out, "{server:16} {name:18} {data}"),
        None => writeln!(out, "{server}"),
    }
}
