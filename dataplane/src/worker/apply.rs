//! Commands: each is applied whole between two bursts.

use core::ops::Range;
use std::sync::Arc;

use super::{Running, Worker};
use crate::addr::Endpoint;
use crate::command::{Command, ConnectionBatch, ConnectionView, DataRange, Outcome, Retired};
use crate::conn::entry::TEMPLATE_SPACE;
use crate::conn::{Entry, template};
use crate::proto;
use crate::schedule::{Loads, Predecessor, Scheduler};
use crate::service::{Destination, Kept, Protocol, ServiceId, VirtualService, Withdrawal};
use crate::time::{Instant, TICKS_PER_SECOND, Ticks};

impl Worker {
    /// Applies one command. What is no longer needed goes back to be freed by control.
    pub fn apply(&mut self, now: Instant, command: Command) -> Outcome {
        let mut retired = Retired::default();
        let command = match command {
            // They change nothing.
            Command::DumpConnections(mut batch) => {
                self.dump(now.ticks(), &mut batch);
                return Outcome::Connections(batch);
            }
            Command::CollectConnections(mut collection) => {
                self.collect(now.ticks(), &mut collection);
                return Outcome::Collected(collection);
            }
            Command::Nop => return Outcome::Done(retired),
            command => command,
        };
        self.core.begin_epoch();
        let done = match command {
            Command::PutService { service, scheduler } => {
                self.put_service(service, scheduler, &mut retired)
            }
            Command::DeleteService(id) => {
                self.delete_service(id, &mut retired);
                Ok(())
            }
            Command::PutRoles(roles) => {
                retired.roles = Some(core::mem::replace(&mut self.core.roles, roles));
                self.core.note_macs();
                self.strays.start(self.core.roles.steering().is_unsettled());
                Ok(())
            }
            Command::PutRole(entry) => {
                let table = Arc::get_mut(&mut self.core.roles);
                match table.map(|roles| roles.put(&entry)) {
                    Some(true) => Ok(()),
                    Some(false) => Err("the role table is full"),
                    None => Err("the role table is not this worker's alone"),
                }
            }
            Command::PutMarks(marks) => {
                retired.marks = Some(core::mem::replace(&mut self.core.marks, marks));
                Ok(())
            }
            Command::PutFib(fib) => {
                retired.fib = Some(self.core.router.put_fib(fib));
                Ok(())
            }
            Command::PutLink(id, link) => self.core.router.put_link(id, link),
            Command::PutNeighbour(id, neighbour) => {
                self.core.neighbours_learned = self.core.neighbours_learned.wrapping_add(1);
                self.core.router.put_neighbour(id, neighbour)
            }
            Command::DeleteNeighbour(id) => {
                self.core.router.delete_neighbour(id);
                Ok(())
            }
            Command::FailNeighbour(link, addr) => {
                // What waits for it is looked at again, and answered.
                self.core.neighbours_learned = self.core.neighbours_learned.wrapping_add(1);
                self.core.router.fail_neighbour(now, link, addr);
                Ok(())
            }
            Command::PutMacs(port, macs) => match self.core.macs.get_mut(port.0 as usize) {
                Some(slot) => {
                    retired.macs = Some(core::mem::replace(slot, macs));
                    self.core.note_macs();
                    Ok(())
                }
                None => {
                    retired.macs = Some(macs);
                    Err("port number beyond the ports of this worker")
                }
            },
            Command::PutLeases(leases) => {
                retired.leases = Some(self.watch.put(leases));
                // The old one is not freed here: it leaves with the retired.
                self.core.leases = self.watch.leases();
                Ok(())
            }
            Command::PutSettings(settings) => {
                self.core.use_settings(settings);
                self.judge();
                Ok(())
            }
            Command::StartCapture(capture) => {
                retired.capture = self.capture.replace(capture);
                Ok(())
            }
            Command::StopCapture => {
                retired.capture = self.capture.take();
                Ok(())
            }
            Command::StartMaster(outbox) => {
                retired.outbox = self.start_master(outbox);
                Ok(())
            }
            Command::StopMaster => {
                retired.outbox = self.stop_master();
                Ok(())
            }
            Command::PutConnections(batch) => {
                self.take_synced(now, &batch);
                retired.batch = Some(batch);
                Ok(())
            }
            Command::DumpConnections(_) | Command::CollectConnections(_) | Command::Nop => Ok(()),
        };
        match done {
            Ok(()) => Outcome::Done(retired),
            Err(why) => Outcome::Refused(why, retired),
        }
    }

    fn put_service(
        &mut self,
        service: Arc<VirtualService>,
        mut scheduler: Box<dyn Scheduler>,
        retired: &mut Retired,
    ) -> Result<(), &'static str> {
        let core = &mut self.core;
        let id = service.id.0;
        let too_many = core.running.get(id as usize).is_none()
            || service.destinations.ids() as usize > core.dests.len()
            || (service.withdrawn.iter()).any(|(d, _)| core.dests.get(d.id.0 as usize).is_none());
        if too_many {
            retired.service = Some(service);
            retired.scheduler = Some(scheduler);
            return Err("more services or real servers than max_services, max_servers");
        }
        let old = core.running.get_mut(id as usize).and_then(Option::take);
        // A change of one of a thousand destinations looks at that one only: the state of each is
        // in lines that no cache has.
        let kept = kept_of(old.as_ref().map(|old| &*old.service), &service);
        let lost = old.as_ref().map(|old| others(&old.service, kept.gone()));
        for (gone, _) in lost.into_iter().flatten() {
            if let Some(state) = core.dests.get_mut(gone.id.0 as usize) {
                state.leave();
            }
        }
        for (dest, withdrawn) in others(&service, kept.changed()) {
            if let (Some(state), Some(counters)) = (
                core.dests.get_mut(dest.id.0 as usize),
                core.counters.dest(dest.id),
            ) {
                if state.addr != dest.endpoint.addr {
                    core.paths.forget(dest.id);
                }
                state.configure(
                    dest,
                    withdrawn,
                    counters,
                    core.changes.others(dest.id).total,
                );
                state.one_packet = service.options.one_packet;
            }
            core.put_own_timeouts(dest.id, service.options.timeouts);
        }
        let loses = |o: &Running| {
            let mut lost = others(&o.service, kept.gone());
            lost.any(|(d, _)| !core.is_available(d.id))
        };
        if core.settings.expire_nodest_conn && old.as_ref().is_some_and(loses) {
            self.sweep.start(1);
        }
        let is_over = |(_, how): &(_, Withdrawal)| *how == Withdrawal::Over;
        if service.withdrawn.iter().any(is_over) {
            // Templates may be met before the connections under them have ended.
            self.sweep.start(2);
        }
        let loads = Loads::new(&core.counters, &core.changes, service.id);
        let watch = scheduler.watch();
        match old {
            Some(mut old) => {
                let before = Predecessor {
                    service: &old.service,
                    scheduler: &mut *old.scheduler,
                    kept,
                };
                scheduler.start(&service, loads, Some(before));
                core.changes.follow(&old.service, kept, &service, watch);
                retired.scheduler = Some(old.scheduler);
                retired.service = Some(old.service);
            }
            None => {
                scheduler.start(&service, loads, None);
                core.changes.begin(&service, watch);
            }
        }
        core.services.insert(service.key, service.id);
        let number = service.id;
        if let Some(slot) = core.running.get_mut(id as usize) {
            *slot = Some(Running { service, scheduler });
        }
        core.note_engine(number);
        Ok(())
    }

    fn delete_service(&mut self, id: ServiceId, retired: &mut Retired) {
        let core = &mut self.core;
        let Some(old) = core.running.get_mut(id.0 as usize).and_then(Option::take) else {
            return;
        };
        for (gone, _) in old.service.all() {
            if let Some(state) = core.dests.get_mut(gone.id.0 as usize) {
                state.leave();
            }
        }
        core.note_engine(id);
        core.changes.end(&old.service);
        if core.services.get(&old.service.key) == Some(&id) {
            core.services.remove(&old.service.key);
        }
        if core.settings.expire_nodest_conn {
            self.sweep.start(1);
        }
        retired.service = Some(old.service);
        retired.scheduler = Some(old.scheduler);
    }

    /// Copies connections from the cursor on until the batch is full.
    fn dump(&self, now: Ticks, batch: &mut ConnectionBatch) {
        let mut cursor = batch.cursor;
        self.walk_table(&mut cursor, |_, _, entry| {
            if batch.rows.len() == batch.rows.capacity() {
                return false;
            }
            let Some(mut row) = view(entry, now) else {
                return true;
            };
            let data = entry.engine_data().map(|at| self.core.engine_data.get(at));
            let Ok(place) = copy_data(batch, data) else {
                return false;
            };
            row.data = place;
            batch.rows.push(row);
            true
        });
        batch.cursor = cursor;
    }
}

/// Which destinations are as they were, and have the same of their service.
fn kept_of(old: Option<&VirtualService>, new: &VirtualService) -> Kept {
    let of_service = |s: &VirtualService| (s.options.one_packet, s.options.timeouts);
    match old {
        Some(old) if of_service(old) == of_service(new) => {
            new.destinations.kept_of(&old.destinations)
        }
        Some(old) => Kept::nothing(&old.destinations, &new.destinations),
        None => Kept::nothing(&[], &new.destinations),
    }
}

/// These destinations of a service's list, and those out of service.
fn others(
    service: &VirtualService,
    which: Range<usize>,
) -> impl Iterator<Item = (&Destination, Option<Withdrawal>)> {
    let listed = service.destinations.len();
    let (all, rest) = (service.all(), service.all());
    all.take(which.end)
        .skip(which.start)
        .chain(rest.skip(listed))
}

/// Puts a row's engine data into the batch.
///
/// # Errors
/// They are for the next one: there is no room left.
fn copy_data(batch: &mut ConnectionBatch, data: Option<&[u8]>) -> Result<Option<DataRange>, ()> {
    let Some(data) = data else {
        return Ok(None);
    };
    let start = batch.data.len();
    if batch.data.capacity() - start < data.len() {
        // A batch without any room lists rows without data.
        return if batch.data.is_empty() {
            Ok(None)
        } else {
            Err(())
        };
    }
    batch.data.extend_from_slice(data);
    let len = data.len() as u16;
    Ok(Some(DataRange {
        start: start as u32,
        len,
    }))
}

fn view(entry: &Entry, now: Ticks) -> Option<ConnectionView> {
    if !entry.is_valid() {
        return None;
    }
    let protocol = Protocol::from_number(entry.protocol() & !TEMPLATE_SPACE);
    let state = match protocol {
        _ if entry.is_template() => template::state_name(entry.state),
        Some(protocol) => proto::state_name(protocol, entry.state),
        None => return None,
    };
    let left = Ticks(entry.deadline).since(now).max(0) as u32;
    Some(ConnectionView {
        protocol,
        client: match entry.client() {
            // It has none: see `NewTemplate::tag`.
            client if entry.is_template() => Endpoint { port: 0, ..client },
            client => client,
        },
        virtual_: entry.virtual_(),
        dest: entry.dest(),
        method: entry.method(),
        state,
        is_template: entry.is_template(),
        expires: left / TICKS_PER_SECOND,
        data: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::fixture;
    use crate::service::ServiceTimeouts;

    fn ids(service: &VirtualService, which: Range<usize>) -> Vec<u32> {
        others(service, which).map(|(d, _)| d.id.0).collect()
    }

    #[test]
    fn a_change_looks_at_what_it_changes() {
        let mut old = fixture::service("rr", &[(2, 1), (3, 1), (4, 1), (5, 1)]);
        old.withdrawn = vec![(fixture::dest(1, 1), Withdrawal::Failed)];
        let mut new = fixture::service("rr", &[(2, 1), (3, 1), (4, 2), (5, 1)]);
        let kept = kept_of(Some(&old), &new);
        assert_eq!(ids(&old, kept.gone()), [4, 1]);
        assert_eq!(ids(&new, kept.changed()), [4]);
        assert_eq!(ids(&new, kept_of(None, &new).changed()), [5, 4, 3, 2]);
        new.options.one_packet = true;
        let kept = kept_of(Some(&old), &new);
        assert_eq!(ids(&old, kept.gone()), [5, 4, 3, 2, 1]);
        assert_eq!(ids(&new, kept.changed()), [5, 4, 3, 2]);
        new.options.one_packet = false;
        new.options.timeouts = ServiceTimeouts::default();
        assert_eq!(kept_of(Some(&old), &new).gone(), 1..2);
    }
}
