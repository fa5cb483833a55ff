//! `-L --daemon`.

use std::io::{self, Write};

use crate::api::DaemonView;

/// A line for each daemon.
pub fn print(out: &mut dyn Write, daemons: &[DaemonView]) -> io::Result<()> {
    for daemon in daemons {
        writeln!(
            out,
            "{} sync daemon (mcast={}, syncid={}, maxlen={}, group={}, port={}, ttl={})",
            daemon.role.name(),
            daemon.interface,
            daemon.syncid,
            daemon.maxlen,
            daemon.group,
            daemon.port,
            daemon.ttl
        )?;
    }
    Ok(())
}
