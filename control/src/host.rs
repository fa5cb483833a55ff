//! What the control loop needs of the mirror of the kernel's addresses, routes and neighbours.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use dataplane::addr::Addr;
use dataplane::route::LinkId;
use dataplane::time::Instant;
use mio::{Registry, Token};

use crate::update::Update;

/// A mirror of the host's network state. Its calls never block.
pub trait Host {
    /// Registers its socket; [`Host::on_readable`] is called when it is readable.
    ///
    /// # Errors
    /// Of epoll.
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()>;

    /// Reads what the kernel tells, a bounded amount; true if there is more.
    fn on_readable(&mut self, now: Instant) -> bool;

    /// Called when [`Host::next_timeout`] has come.
    fn on_timer(&mut self, now: Instant);

    /// When it wants to be called next.
    fn next_timeout(&self) -> Option<Instant>;

    /// What the workers have to be told since the last call.
    fn take_updates(&mut self) -> Vec<Update>;

    /// The addresses this host holds, if they changed since the last call.
    fn take_local_addresses(&mut self) -> Option<BTreeSet<IpAddr>>;

    /// A worker needs the MAC of this next hop.
    fn resolve(&mut self, now: Instant, link: LinkId, addr: Addr);

    /// Addresses of real servers that are new (true) or gone (false): their next hops are to be
    /// kept warm, or need not be any longer.
    fn change_servers(&mut self, now: Instant, servers: &[(IpAddr, bool)]);

    /// Whether everything the kernel has was read once, so that traffic can be served.
    fn is_synced(&self) -> bool;

    /// Whether the MAC of every next hop to a real server is known.
    fn is_warm(&self) -> bool;

    /// Numbers of mirrored routes and of neighbours with a known MAC.
    fn counts(&self) -> (u64, u64);

    /// Standing warnings: rules that are not mirrored and the like.
    fn warnings(&self) -> Vec<String>;
}

/// A host that never changes: for tests, and for runs without a kernel beneath.
#[derive(Debug, Default)]
pub struct FixedHost {
    local: Option<BTreeSet<IpAddr>>,
}

impl FixedHost {
    /// A host that holds these addresses.
    pub fn new(local: impl IntoIterator<Item = IpAddr>) -> FixedHost {
        FixedHost {
            local: Some(local.into_iter().collect()),
        }
    }
}

impl Host for FixedHost {
    fn register(&mut self, _registry: &Registry, _token: Token) -> io::Result<()> {
        Ok(())
    }
    fn on_readable(&mut self, _now: Instant) -> bool {
        false
    }
    fn on_timer(&mut self, _now: Instant) {}
    fn next_timeout(&self) -> Option<Instant> {
        None
    }
    fn take_updates(&mut self) -> Vec<Update> {
        Vec::new()
    }
    fn take_local_addresses(&mut self) -> Option<BTreeSet<IpAddr>> {
        self.local.take()
    }
    fn resolve(&mut self, _now: Instant, _link: LinkId, _addr: Addr) {}
    fn change_servers(&mut self, _now: Instant, _servers: &[(IpAddr, bool)]) {}
    fn is_synced(&self) -> bool {
        true
    }
    fn is_warm(&self) -> bool {
        true
    }
    fn counts(&self) -> (u64, u64) {
        (0, 0)
    }
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}
