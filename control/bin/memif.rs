//! Sockets of memif ports: the driver refuses one that a process left which is no more.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use control::config::{Config, Device};

/// Removes sockets of memif servers at which nobody listens any more.
///
/// # Errors
/// One cannot be removed.
pub fn remove_dead_sockets(config: &Config) -> Result<()> {
    for port in &config.ports {
        if let Device::Memif {
            socket,
            server: true,
            ..
        } = &port.device
        {
            remove_if_dead(Path::new(socket))?;
        }
    }
    Ok(())
}

fn remove_if_dead(socket: &Path) -> Result<()> {
    // A socket of another type that somebody listens at says so; only a dead one refuses.
    let answer = UnixStream::connect(socket);
    if answer.is_err_and(|why| why.kind() == ErrorKind::ConnectionRefused) {
        fs::remove_file(socket)
            .with_context(|| format!("{}, left by a dead process", socket.display()))?;
        tracing::info!(socket = %socket.display(), "removed a memif socket that a dead process left");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};

    #[test]
    fn only_a_dead_socket_goes() {
        let path = std::env::temp_dir().join(format!("rvs-memif-{}", std::process::id()));
        let listener = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        net::listen(&listener, 1).unwrap();
        remove_if_dead(&path).unwrap();
        assert!(path.exists(), "somebody listens");
        drop(listener);
        remove_if_dead(&path).unwrap();
        assert!(!path.exists());
        remove_if_dead(&path).unwrap();
    }
}
