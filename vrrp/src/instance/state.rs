//! States with their timers, and why they change.

use core::fmt;
use core::net::IpAddr;

use super::lease::Lease;
use crate::time::Instant;

/// The state of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not running.
    Init,
    /// Started, but a tracker whose failure would be a fault has said nothing yet.
    Waiting,
    /// Cannot be a router now, for this reason.
    Fault(Cause),
    /// Listens for a master.
    Backup(Backup),
    /// Has the addresses.
    Master(Master),
}

impl State {
    /// The state without its timers.
    pub const fn role(&self) -> Role {
        match self {
            State::Init => Role::Stopped,
            State::Waiting => Role::Waiting,
            State::Fault(_) => Role::Fault,
            State::Backup(_) => Role::Backup,
            State::Master(_) => Role::Master,
        }
    }
}

/// A state without its timers, for logs, listings and notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Not running.
    Stopped,
    /// Waits for its trackers.
    Waiting,
    /// At fault.
    Fault,
    /// Listens.
    Backup,
    /// Has the addresses.
    Master,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Stopped => "STOP",
            Role::Waiting => "INIT",
            Role::Fault => "FAULT",
            Role::Backup => "BACKUP",
            Role::Master => "MASTER",
        })
    }
}

/// A backup's timers and what it knows of the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// When silence means that there is no master.
    pub master_down: Instant,
    /// A frame has to come in at this time or later for the silence to count: half of it, when
    /// an advert is missing already.
    pub proof_from: Instant,
    /// When a lower master's adverts are no longer accepted (`preempt_delay`).
    pub preempt_at: Option<Instant>,
    /// Silence lasted long enough, but the sync group was not ready.
    pub wants_master: bool,
    /// The router whose advert was last accepted, and its priority.
    pub master: Option<(IpAddr, u8)>,
}

impl Backup {
    pub(super) fn new(now: Instant, master_down: Instant) -> Backup {
        let mut backup = Backup {
            master_down,
            proof_from: now,
            preempt_at: None,
            wants_master: false,
            master: None,
        };
        backup.wait(now, master_down);
        backup
    }

    /// Starts to wait for silence until `master_down`.
    pub(super) fn wait(&mut self, now: Instant, master_down: Instant) {
        self.master_down = master_down;
        self.proof_from = now + master_down.since(now) / 2;
    }

    /// Moves the deadline, never closer.
    pub(super) fn listen_until(&mut self, at: Instant) {
        self.master_down = self.master_down.max(at);
    }
}

/// Announcements that are still due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcements {
    /// A second burst and its rounds.
    pub again: Option<(Instant, u8)>,
    /// The next refresh.
    pub refresh: Option<Instant>,
}

/// A master's timers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// When the next advert is due.
    pub next_advert: Instant,
    /// How long the data plane may serve.
    pub lease: Lease,
    /// Announcements to come.
    pub announcing: Announcements,
    /// When it last reacted to somebody's advert out of turn.
    pub reacted: Option<Instant>,
}

impl Master {
    pub(super) fn next_timeout(&self) -> Instant {
        let again = self.announcing.again.map(|(at, _)| at);
        [again, self.announcing.refresh]
            .into_iter()
            .flatten()
            .fold(self.next_advert, Instant::min)
    }
}

macro_rules! causes {
    ($($variant:ident $name:literal $doc:literal,)*) => {
        /// Why a state changed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause { $(#[doc = $doc] $variant,)* }

        impl Cause {
            /// Name in logs.
            pub const fn name(self) -> &'static str {
                match self { $(Cause::$variant => $name,)* }
            }
            /// One line for the operator.
            pub const fn help(self) -> &'static str {
                match self { $(Cause::$variant => $doc,)* }
            }
        }
    };
}

causes! {
    Start "start" "the instance was started",
    Trackers "trackers" "a tracker whose failure is a fault has not reported yet",
    Resume "resume" "the program was started again before the last adverts of the one before ran out",
    MasterDown "master-down" "no advert came for the master-down interval",
    HigherPriority "higher-priority" "an advert of a higher priority, or of the same from a higher address, came",
    LinkDown "link-down" "the interface is down",
    NoSource "no-source" "the interface has no address to send from",
    TrackerFault "tracker-fault" "a tracker reported a failure that is a fault",
    Deaf "deaf" "no frame at all was received: silence says nothing about the master",
    GroupFault "group-fault" "another member of the sync group is at fault",
    Group "group" "another member of the sync group changed its state",
    Cleared "cleared" "all faults are gone",
    AddressLost "address-lost" "somebody else removed one of the addresses",
    LeaseExpired "lease-expired" "no advert could be sent in time: the program was held up or sending fails",
    HandedOver "handed-over" "the operator had another router take over, for a pause of this one",
    Stop "stop" "the instance was stopped",
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
