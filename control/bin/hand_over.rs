//! The end of a process whose successor is prepared: the ports go over to it, or come back.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Result, anyhow};
use control::api::{ErrorKind, Response};
use control::clock;
use control::reactor::Parting;
use control::recovery::Recovery;
use control::upgrade::{Estate, Go, Launch, Successor};
use dataplane::time::Instant;

use crate::edge::{Edge, HandedOver};

/// How long a successor may take at least to bring its ports up and forward: NICs take seconds. If
/// these took long before, it has three times as long.
const SERVING: Duration = Duration::from_secs(20);
/// How long whoever ordered the upgrade may take to read how it went.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// Gives everything to the successor and ends; if that does not serve, this program is executed
/// anew and goes on.
///
/// # Errors
/// It cannot even be executed.
pub fn part(parting: Parting, edge: Edge, recovery: Recovery, launch: &Launch) -> Result<()> {
    let Parting {
        prepared,
        mut state,
        server,
        manager,
    } = parting;
    let (client, mut successor) = (prepared.client, prepared.successor);
    let expected = state.gaps.expected().unwrap_or_default();
    let within = SERVING.max(expected * 3);
    let mut estate = Estate::of(&state);
    tracing::info!(event = "upgrade", to = successor.version, "handing over");
    estate.leases = state.leave();
    recovery.let_go();
    let stopped = clock::now();
    // Ours, too, if the table ends with us and we have to go on.
    let mut records = Vec::new();
    let wants_records = successor.wants_records || launch.table.is_none();
    let served = edge
        .hand_over()
        .map_err(|why| format!("{why:#}"))
        .and_then(|over| {
            if wants_records {
                records = over.records();
            }
            dpdk::region::release_all();
            let counters = state.workers.counters();
            estate.statistics = Some(state.model.hand_over_statistics(counters));
            let twins = over.taps.iter();
            let go = Go {
                estate: estate.clone(),
                stopped: stopped.0,
                twins: twins.map(|tap| tap.name().to_owned()).collect(),
                records: match successor.wants_records {
                    true => records.len(),
                    false => 0,
                },
                admin: Some(server.path().to_owned()),
            };
            let listener = server.listener();
            let since = give(&mut successor, &go, &over, listener, &records, within)?;
            Ok((since.since(stopped), over))
        });
    let why = match served {
        Ok((gap, over)) => {
            manager.handed_over(successor.pid());
            let decided = prepared.decided.filter(|line| !line.is_empty());
            let before = decided.map(|line| line + "\n").unwrap_or_default();
            let text = format!(
                "{before}rvsd {} took over from {} (process {}); forwarding paused for {} ms",
                successor.version,
                state.version.version,
                successor.pid(),
                gap.as_millis()
            );
            tracing::info!(event = "upgrade", "{text}");
            server.say_last(client, &Response::Text { text }, LAST_ANSWER);
            // Nothing of it is ours to undo.
            std::mem::forget(over);
            return Ok(());
        }
        Err(why) => why,
    };
    // Dead before its ports are taken again.
    drop(successor);
    let message = format!("{why}\nthe old program takes the ports back");
    tracing::error!(event = "upgrade", "{message}");
    let answer = Response::Error {
        error: ErrorKind::Failed,
        message,
    };
    server.say_last(client, &answer, LAST_ANSWER);
    if launch.table.is_some() {
        records.clear();
    }
    Err(anyhow!(
        "the old program cannot be brought back: {}",
        launch.resume(&estate, &records)
    ))
}

/// Gives the successor what it waits for; since when it serves.
fn give(
    successor: &mut Successor,
    go: &Go,
    over: &HandedOver,
    listener: std::os::fd::BorrowedFd<'_>,
    records: &[u8],
    within: Duration,
) -> Result<Instant, String> {
    let twins = over.taps.iter().map(AsFd::as_fd);
    let descriptors: Vec<_> = twins.chain([listener]).collect();
    let records = records.get(..go.records).unwrap_or_default();
    successor.go(go, &descriptors, records, within).map(Instant)
}
