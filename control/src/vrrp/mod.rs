//! VRRP: sockets, clock and kernel around the machines of the `vrrp` crate.
//!
//! They run on a thread of their own, whose timers come before everything else: nothing that control
//! does delays an advert. Control tells it the configuration ([`Routers::apply`]), hears of every
//! change ([`Routers::take`]), and shows how it stands ([`Routers::view`]).
//!
//! ```text
//!  frames ──► socket ─┐                      ┌─► socket: adverts, ARP, advertisements
//!  netlink ─► links ──┤                      ├─► kernel: addresses, routes, macvlans
//!  counters ► vitals ─┼─► vrrp::router ──────┤
//!  files ───► watcher ┘     (decides)        └─► Notice: control, notifications
//! ```

mod driver;
mod gate;
mod introduction;
mod kernel;
mod leases;
mod links;
mod macvlan;
mod memory;
mod plan;
mod scripts;
mod socket;
mod view;
mod vitals;
mod watcher;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};
use dataplane::lease::{Board, Slot};
use mio::Waker;
use vrrp::instance::{Cause, Role};
use vrrp::time::Instant;

pub use gate::{Gate, Ready};
pub use introduction::Introductions;
pub use leases::LeaseBook;
pub use memory::Place;
pub use vitals::Sources;

use crate::api::{VrrpInstanceView, VrrpView};
use crate::clock;
use crate::config::vrrp::Vrrp;
use crate::script::Scripts;
use driver::{Driver, Parts};
use memory::Memory;
use scripts::Timetable;
use vitals::Vitals;

/// What the thread is told.
enum Order {
    /// Run these instances, with their places on the board of leases.
    Apply(Arc<Vrrp>, BTreeMap<String, Slot>),
    /// Workers know that this host holds the addresses of this instance.
    Live(String),
    /// Leave living masters alone, or do not.
    Hold(bool),
    /// Masters give up and leave who takes over alone, or that is over.
    HandOver(bool),
    /// End.
    End,
    /// End without a word: another process goes on.
    Leave,
}

/// Something that happened, in order: what notifications are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An instance changed its state.
    Instance {
        /// Its name.
        instance: String,
        /// The sync group it is in.
        group: Option<String>,
        /// The state before.
        old: Role,
        /// The state now.
        new: Role,
        /// Why.
        cause: Cause,
        /// Its effective priority.
        priority: u8,
    },
    /// All members of a sync group came to have this state.
    Group {
        /// Its name.
        group: String,
        /// The state.
        new: Role,
    },
    /// An instance has put its addresses on their interfaces and waits for [`Routers::live`]
    /// before it announces them: what comes before the workers know would be the kernel's, which
    /// resets connections that it does not know.
    Holds {
        /// The instance.
        instance: String,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// An instance's effective priority changed.
    Priority {
        /// Its name.
        instance: String,
        /// Its state.
        state: Role,
        /// The priority now.
        priority: u8,
    },
    /// Something the operator should know; `lower-master` is keepalived's `MASTER_RX_LOWER_PRI`.
    Alarm {
        /// The instance.
        instance: String,
        /// [`vrrp::output::Alarm::name`].
        alarm: &'static str,
        /// One line, with what to do.
        text: String,
        /// The instance's effective priority.
        priority: u8,
    },
}

/// What the thread is started with.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// Signs of life of the data plane.
    pub sources: Sources,
    /// What runs scripts.
    pub scripts: Scripts,
    /// Gives the calling thread this real-time priority.
    pub realtime: Option<fn(u8) -> io::Result<()>>,
    /// Real-time priority of the threads that adverts go through while they rest: 0 as long as there
    /// is no virtual router.
    pub urgency: Arc<AtomicU8>,
    /// Where it is noted until when adverts keep the peers waiting.
    pub memory: Place,
}

/// The virtual routers of this host. They are given up when this is dropped: the last adverts have
/// left then.
pub struct Routers {
    orders: Sender<Order>,
    notices: Receiver<Notice>,
    driver: Arc<Waker>,
    view: Arc<Mutex<VrrpView>>,
    /// Of the thread; a later file does not change it.
    priority: u8,
    urgency: Arc<AtomicU8>,
    thread: Option<JoinHandle<String>>,
}

impl Routers {
    /// Starts the thread; `control` is rung when there are notices.
    ///
    /// # Errors
    /// Of sockets, epoll and threads.
    pub fn start(
        control: Arc<Waker>,
        surroundings: Surroundings,
        board: Arc<Board>,
        config: Arc<Vrrp>,
        places: BTreeMap<String, Slot>,
        is_held: bool,
    ) -> io::Result<Routers> {
        let (orders, taken) = unbounded();
        let (told, notices) = unbounded();
        let (watch, watched) = unbounded();
        let (saw, seen) = unbounded();
        let (ended, ends) = unbounded();
        let view = Arc::<Mutex<VrrpView>>::default();
        let vitals = Vitals::new(Instant(clock::now().0), surroundings.sources);
        let (driver, waker) = Driver::new(Parts {
            orders: taken,
            notices: told,
            control,
            watch,
            seen,
            vitals,
            scripts: Timetable::new(surroundings.scripts, ended),
            ended: ends,
            board,
            memory: Memory::open(surroundings.memory),
            view: Arc::clone(&view),
        })?;
        watcher::start(watched, saw, Arc::clone(&waker))?;
        let (realtime, priority) = (surroundings.realtime, config.rt_priority);
        let thread = std::thread::Builder::new().name("rvs-vrrp".to_owned()).spawn(move || {
            if let Some(raise) = realtime.filter(|_| priority > 0)
                && let Err(reason) = raise(priority)
            {
                tracing::info!(%reason, "VRRP runs without real-time priority (needs CAP_SYS_NICE)");
            }
            driver.run()
        })?;
        let routers = Routers {
            orders,
            notices,
            driver: waker,
            view,
            priority,
            urgency: surroundings.urgency,
            thread: Some(thread),
        };
        routers.hold(is_held);
        routers.apply(config, places);
        Ok(routers)
    }

    /// Runs these instances from now on; those that stay as they are go on undisturbed.
    pub fn apply(&self, config: Arc<Vrrp>, places: BTreeMap<String, Slot>) {
        let urgency = urgency(self.priority, !config.instances.is_empty());
        self.urgency.store(urgency, Ordering::Relaxed);
        self.order(Order::Apply(config, places));
    }

    /// Workers know that this host holds the addresses of this instance; see [`Notice::Holds`].
    pub fn live(&self, instance: String) {
        self.order(Order::Live(instance));
    }

    /// Whether living masters are to be left alone for now.
    pub fn hold(&self, is_held: bool) {
        self.order(Order::Hold(is_held));
    }

    /// Masters give up, and whoever takes over is left alone until this is called with false.
    pub fn hand_over(&self, begins: bool) {
        self.order(Order::HandOver(begins));
    }

    /// What happened since the last call, in order.
    pub fn take(&self) -> impl Iterator<Item = Notice> + '_ {
        self.notices.try_iter()
    }

    /// How everything stands, at most half a second old.
    pub fn view(&self) -> VrrpView {
        self.view
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What is wrong with instances, a line each.
    pub fn warnings(&self) -> Vec<String> {
        let view = self.view();
        let is_at_fault = view.instances.iter().filter(|i| i.state == "FAULT");
        let line = |i: &VrrpInstanceView| {
            let (name, cause) = (&i.name, &i.cause);
            format!("virtual router {name} is at fault ({cause}); see `rvsadm vrrp`")
        };
        is_at_fault.map(line).collect()
    }

    /// Gives everything up; what happened since the last [`Routers::take`].
    pub fn finish(mut self) -> Vec<Notice> {
        self.end();
        self.notices.try_iter().collect()
    }

    /// Ends without a word to the peers and leaves addresses where they are; until when adverts
    /// count, for the process that goes on ([`Place::inherited`]).
    pub fn leave(mut self) -> String {
        self.order(Order::Leave);
        let thread = self.thread.take();
        let left = thread.and_then(|thread| thread.join().ok());
        left.unwrap_or_default()
    }

    fn end(&mut self) {
        self.order(Order::End);
        if let Some(thread) = self.thread.take() {
            // One that panicked has told of it.
            let _ = thread.join();
        }
    }

    fn order(&self, order: Order) {
        // A thread that has ended needs no orders.
        let _ = self.orders.send(order);
        let _ = self.driver.wake();
    }
}

impl Drop for Routers {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end();
        }
    }
}

/// Real-time priority of what adverts go through: below that of the thread that makes them.
fn urgency(priority: u8, has_routers: bool) -> u8 {
    match (has_routers, priority) {
        (false, _) | (_, 0) => 0,
        (true, above) => (above - 1).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_adverts_go_through_is_below_their_thread_while_there_are_routers() {
        let with = [50, 2, 1, 0].map(|above| urgency(above, true));
        assert_eq!(with, [49, 1, 1, 0]);
        assert_eq!(urgency(50, false), 0);
    }
}
