//! A start while another process still serves: all that can be done without its ports, then the
//! wait for them.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;

use anyhow::{Context, Result};
use control::clock;
use control::config::Config;
use control::daemon::{self, Succession};
use control::netlink::Driver;
use control::recovery::{self, Recovery};
use control::server::{Limits, Server};
use control::twin::Guard;
use control::upgrade::{self, Handed, Kind, Launch, Measuring, Predecessor};
use dpdk::tap::Tap;

use crate::edge::{Ground, Mark, Taps};
use crate::table::{self, Left};
use crate::{Prelude, guard_name, mirrored};

/// Prepares to take over, and waits until the ports are free. `None`: it is not wanted any more.
///
/// # Errors
/// What is in the way; nothing has changed then.
pub fn prepare(
    config: &Config,
    predecessor: Predecessor,
    launch: Launch,
) -> Result<Option<Prelude>> {
    let boot = daemon::boot_id()?;
    let hello = &predecessor.hello;
    tracing::info!(
        event = "upgrade",
        from = hello.version,
        "getting ready to take over"
    );
    let kept = hello
        .estate
        .kept(config)
        .with_context(|| format!("the rules that rvsd {} keeps", hello.version))?;
    let early = recovery::with_kept(clock::now(), config, &kept)
        .context("services of the configuration")?;
    let mut host = Box::new(Driver::open(
        mirrored(config),
        config.kernel.netlink_buffer_kib,
    )?);
    upgrade::mirror(&mut *host).context("the kernel's addresses, routes and neighbours")?;
    let standing = guards(config)?;
    let mark = Mark {
        prefix: hello.prefix.clone(),
        scatter: hello.scatter,
    };
    let ground = Ground::beside(config, &mark)?;
    let rules = hello.estate.rules.clone();
    let fits = table::fits(config, hello.table.as_deref(), boot);
    let made = match fits {
        true => None,
        false => Some(table::beside(config, boot)?),
    };
    let version = env!("CARGO_PKG_VERSION");
    let Some(handed) = predecessor.wait(version, env!("RVS_COMMIT"), made.is_some())? else {
        tracing::info!(event = "upgrade", "not wanted any more");
        return Ok(None);
    };
    let Handed {
        mut wire,
        estate,
        stopped,
        twins,
        admin,
        records,
    } = handed;
    let left = match made {
        Some(table) => {
            let records = wire.receive_bytes(records).context("connections")?;
            Left::Records(Box::new(table), records)
        }
        None => Left::File,
    };
    let guards = standing
        .into_iter()
        .map(|(device, guard)| (device, ManuallyDrop::into_inner(guard)))
        .collect();
    let model = match estate.rules == rules {
        true => early,
        false => recovery::with_kept(clock::now(), config, &estate.kept(config)?)
            .context("services of the configuration")?,
    };
    let recovery = Recovery::inherit(config, boot, estate.kept(config)?, estate.leases.clone());
    let server = match admin {
        Some((path, listener)) if path == config.admin.socket => {
            Server::adopt(&path, listener, Limits::default())
                .with_context(|| format!("admin socket {}", path.display()))?
        }
        _ => daemon::open_socket(config)?,
    };
    let mut taps = Taps::new();
    for (name, descriptor) in twins {
        taps.insert(name.clone(), Tap::adopt(&name, descriptor)?);
    }
    Ok(Some(Prelude {
        ground,
        server,
        recovery,
        model,
        host,
        taps,
        left,
        guards,
        succession: Succession {
            launch,
            estate: Some(estate),
            gap: Measuring::new(Kind::Upgrade, stopped),
            on_open: Some(Box::new(move |now| {
                let gap = now.since(stopped);
                tracing::info!(
                    event = "upgrade",
                    gap_ms = gap.as_millis() as u64,
                    "took over"
                );
                wire.serving(now);
            })),
        },
    }))
}

/// The guards of the process that serves, by device. They are ours once it has handed over.
fn guards(config: &Config) -> Result<BTreeMap<String, ManuallyDrop<Guard>>> {
    let mut standing = BTreeMap::new();
    for port in &config.ports {
        for device in port.kernel_interfaces() {
            if let Some(guard) = Guard::standing(&guard_name(port, device), device)? {
                standing.insert(device.to_owned(), guard);
            }
        }
    }
    Ok(standing)
}
