//! A connection table in a file, full: `rvsd` takes it over as it would that of a run before it.
//!
//! `bench --fill FILE --flows N` writes it. The connections are those of the rows: clients of
//! 10.0.0.0/8 at 203.0.113.1:80, behind NAT, whose real servers are 192.168.1.11 to .14, port 8080.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dataplane::addr::{Addr, Endpoint};
use dataplane::conn::{Layout, NewConnection, region};
use dataplane::forward::nat;
use dataplane::proto::tcp::State;
use dataplane::service::{DestId, ForwardingMethod, Protocol};
use dataplane::time::{Ticks, secs};
use dpdk::clock::Clock;
use dpdk::region::{Backing, Region};

use crate::rig::{self, Family, Method, SERVERS};
use crate::traffic::Client;

/// Until the connections end.
const LIFE: Duration = Duration::from_secs(8 * 3600);

/// Writes a table for `flows` connections with as many in it.
///
/// # Errors
/// The file cannot be made, or is there already.
pub fn run(path: &Path, flows: u32) -> Result<()> {
    let layout = Layout::for_connections(flows);
    let region = Region::map(&Backing::File(path.to_owned()), layout.bytes(), true)?;
    ensure!(region.is_new(), "{}: there is such a file", path.display());
    // Without DPDK the clock asks the kernel.
    let now = Clock::new(0).now().ticks();
    let memory = region.into_bytes();
    let mut shards = region::create(memory, layout, rig::KEY, boot_id()?, now)?;
    let life = secs(LIFE.as_secs() as u32);
    for n in 0..flows {
        let new = connection(n);
        let (client, virtual_) = (new.client, new.virtual_);
        let number = new.protocol.number();
        let hash = rig::KEY.hash(
            number,
            &client.addr,
            client.port,
            &virtual_.addr,
            virtual_.port,
        );
        let shard = shards.get_mut(usize::from(hash.shard)).context("shard")?;
        let full = || format!("a shard is full after {n} connections");
        let at = shard.insert(&new).with_context(full)?;
        let entry = shard.entry_mut(at).context("entry")?;
        entry.state = State::Established as u8;
        entry.timeout = life;
        // Not all in one slot of the wheel.
        entry.deadline = Ticks(now.0).plus(life - n % (life / 2)).0;
        (entry.delta_l3, entry.delta_l4) = nat::deltas(&virtual_, &new.dest);
        shard.rearm(at, false);
    }
    for shard in &mut shards {
        shard.settle();
    }
    println!(
        "{}: {flows} connections in {} MiB, {:.1} bytes each",
        path.display(),
        layout.bytes() >> 20,
        layout.bytes() as f64 / f64::from(flows)
    );
    Ok(())
}

fn connection(n: u32) -> NewConnection {
    let client = Client::number(n);
    let server = n as usize % SERVERS;
    let vip = Family::V4.vip(Method::Nat);
    NewConnection {
        protocol: Protocol::Tcp,
        client: Endpoint::new(Addr::v4(client.addr.to_be_bytes()), client.port),
        virtual_: Endpoint::new(
            Addr::v4([vip[0], vip[1], vip[2], vip[3]]),
            rig::VIRTUAL_PORT,
        ),
        dest: Endpoint::new(Addr::v4(rig::server4(server)), rig::REAL_PORT),
        dest_id: DestId(server as u32),
        method: ForwardingMethod::Masquerade,
        flags: 0,
    }
}

/// The boot that times in the table belong to, as `rvsd` reads it.
fn boot_id() -> Result<[u8; 16]> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).context(path)?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    Ok(u128::from_str_radix(&digits, 16)
        .context(path)?
        .to_be_bytes())
}
