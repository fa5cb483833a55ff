//! One virtual router: the state machine.
//!
//! ```text
//!                 start                     master down
//!     Init ───────────────────► Backup ─────────────────────► Master
//!      ▲ │ trackers unknown      ▲  │ ▲ ▲                     │ │ │
//!      │ └────► Waiting ─────────┘  │ │ └── higher priority, ─┘ │ │
//!      │            │               │ │     address lost,       │ │
//!      │            ▼        fault  │ │     held up             │ │ priority 0
//!      │          Fault ◄───────────┘ │                         │ │
//!      │            │ ▲  cleared      │                         │ │
//!      │            └─┼───────────────┘                         │ │
//!      │              └──────────────── priority 0, fault ──────┘ │
//!      └─────────────────────────────── stop ─────────────────────┘
//! ```
//!
//! [`Instance::handle`] takes what happened, [`Instance::next_timeout`] says when to come back
//! with [`Input::Timer`]. A driver hands in what was received before it hands in the time. Adverts
//! are judged in full before they touch anything, and the advert timer starts again only when an
//! advert is sent, so that nobody can silence a master by talking to it.

mod adverts;
mod backup;
mod facts;
mod heard;
mod lease;
mod master;
mod reload;
mod state;

pub use facts::Health;
pub use heard::HeardPeer;
pub use lease::Lease;
pub use state::{Announcements, Backup, Cause, Master, Role, State};

use core::net::IpAddr;

use crate::addr::Mac;
use crate::announce::Claim;
use crate::config::{Config, ConfigError, Key, Transport};
use crate::counters::Counters;
use crate::output::{Alarm, Announced, Output, Outputs};
use crate::packet::{Advert, Expected, Invalid, Received, Sender};
use crate::time::Instant;
use crate::timers::{self, AdvertInterval};
use crate::track::{Summary, effective_priority};
use facts::Facts;
use heard::Heard;
use master::Claims;

/// What happened to an instance.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// Told before [`Input::Start`]: a program that was killed was master of this, and its last
    /// adverts keep the peers waiting until then.
    Resume(Instant),
    /// It is to run.
    Start,
    /// A message for its virtual router id came in.
    Advert(Received<'a>),
    /// [`Instance::next_timeout`] may have come. Too early does no harm.
    Timer,
    /// The interface's state and MAC.
    Link {
        /// Up and running.
        is_up: bool,
        /// The interface's MAC.
        mac: Mac,
    },
    /// The address to send from; `None` if the interface has none. IPv6 takes a link-local one
    /// for multicast.
    Source(Option<IpAddr>),
    /// What the trackers come to.
    Track(Summary),
    /// Some frame came in on the interface: its receive path works.
    FrameHeard,
    /// A frame of somebody else came in since the interface came up: what it is plugged into lets
    /// frames pass.
    Arrived,
    /// Whether the node is to leave a living master alone for now, whatever its priority: it is not
    /// ready to go on with what that one does. A master that is gone is replaced all the same.
    Hold(bool),
    /// A master is to give up, so that another router takes over at once. With [`Input::Hold`] it
    /// leaves that one alone.
    HandOver,
    /// No advert of the last round could be sent.
    SendFailed,
    /// Somebody else removed one of our addresses.
    AddressLost(IpAddr),
    /// A frame said where an address is.
    Claimed(Claim),
    /// A new configuration for the same [`Key`].
    Reload(Box<Config>),
    /// It is to end.
    Stop,
    /// The sync group has something to say.
    Group(GroupOrder),
}

/// What a sync group tells a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupOrder {
    /// All members want to be master: be it.
    Promote,
    /// Another member ceased to be master: cease too.
    Yield,
    /// How the worst of the others is.
    Health(Health),
    /// Another member heard a lower master: announce as if it had been this one.
    Announce,
}

/// What a step meant to the other members of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Reaction {
    /// It ceased to be master.
    pub ceased: bool,
    /// It reacted to a master of lower priority.
    pub lower_master: bool,
}

/// A virtual router.
#[derive(Debug)]
pub struct Instance {
    config: Config,
    /// Addresses as adverts name them.
    advertised: Vec<IpAddr>,
    state: State,
    facts: Facts,
    /// Effective priority.
    priority: u8,
    /// The master's interval: its own, or learned in version 3.
    interval: AdvertInterval,
    /// Until when it may be master again without listening first.
    resume_until: Option<Instant>,
    /// Adverts before this are ignored (start-up delay).
    listens_from: Instant,
    /// When it last looked at the time.
    looked: Instant,
    heard: Heard,
    claims: Claims,
    raised: Raised,
    counters: Counters,
    reaction: Reaction,
}

/// How long a switch's port may pass nothing after it came up, at least: a little less than a master is
/// waited for with adverts once a second.
const SETTLED: core::time::Duration = core::time::Duration::from_secs(3);

/// Alarms that were raised since the state or the master changed.
#[derive(Clone, Copy, Debug, Default)]
struct Raised {
    addresses: bool,
    interval: bool,
    own_address: bool,
    lower: bool,
}

impl Instance {
    /// An instance that was not started. `is_grouped`: a sync group says when it becomes master.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration.
    pub fn new(config: Config, is_grouped: bool) -> Result<Instance, Vec<ConfigError>> {
        config.check()?;
        Ok(Instance {
            advertised: config
                .addresses
                .iter()
                .map(|address| address.addr)
                .collect(),
            state: State::Init,
            facts: Facts::new(is_grouped),
            priority: config.priority,
            interval: config.interval,
            resume_until: None,
            listens_from: Instant::default(),
            looked: Instant::default(),
            heard: Heard::default(),
            claims: Claims::default(),
            raised: Raised::default(),
            counters: Counters::default(),
            reaction: Reaction::default(),
            config,
        })
    }

    /// Interface, family and virtual router id.
    pub fn key(&self) -> Key {
        self.config.key
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The state with its timers.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The effective priority.
    pub fn priority(&self) -> u8 {
        self.priority
    }

    /// Counters since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The routers heard, the latest last.
    pub fn heard(&self) -> &[HeardPeer] {
        self.heard.peers()
    }

    /// The lease under which the data plane may serve the addresses now.
    pub fn lease(&self) -> Option<Lease> {
        match &self.state {
            State::Master(master) => Some(master.lease),
            _ => None,
        }
    }

    /// How it is by itself, without its group.
    pub fn own_health(&self) -> Health {
        self.facts.own_health()
    }

    /// How the worst of the other members of its group is, as it was told.
    pub fn group_health(&self) -> Health {
        self.facts.group
    }

    /// Whether a sync group says when it becomes master.
    pub(crate) fn set_grouped(&mut self, is_grouped: bool) {
        self.facts.is_grouped = is_grouped;
    }

    /// Whether it is master, or its wait for one is over and only the group holds it back.
    pub fn wants_master(&self) -> bool {
        match &self.state {
            State::Master(_) => true,
            State::Backup(backup) => backup.wants_master,
            _ => false,
        }
    }

    /// Takes a step. The queue needs room for [`MAX_PER_STEP`](crate::output::MAX_PER_STEP)
    /// outputs. Time never runs backwards.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) -> Reaction {
        self.reaction = Reaction::default();
        match input {
            // Judged before anything else happens: a refused advert changes one counter.
            Input::Advert(received) => match self.judge(now, &received) {
                Ok(advert) => {
                    self.look(now, out);
                    self.advert(now, received.src, &advert, out);
                }
                Err(reason) => self.counters.invalid.raise(reason),
            },
            Input::FrameHeard => self.frame_heard(now, out),
            Input::Arrived => self.arrived(now),
            input => {
                self.look(now, out);
                self.act(now, input, out);
            }
        }
        self.reaction
    }

    fn act(&mut self, now: Instant, input: Input<'_>, out: &mut Outputs) {
        match input {
            Input::Advert(_) | Input::FrameHeard | Input::Arrived => {}
            Input::Resume(until) => self.resume_until = Some(until),
            Input::Start => self.start(now, out),
            Input::Timer => self.timer(now, out),
            Input::Link { is_up, mac } => {
                self.facts.mac = mac;
                if self.facts.set_link(is_up, &self.config) {
                    self.facts.unproven_until = Some(now + (self.master_down() * 2).max(SETTLED));
                }
                self.evaluate(now, out);
            }
            Input::Source(source) => {
                self.facts.set_source(source, &self.config);
                self.evaluate(now, out);
            }
            Input::Track(summary) => {
                self.facts.track = summary;
                self.update_priority(now, out);
                self.evaluate(now, out);
            }
            Input::Hold(is_held) => self.facts.is_held = is_held,
            Input::HandOver => {
                if matches!(self.state, State::Master(_)) {
                    self.send_zero(out);
                    self.give_way(now, Cause::HandedOver, out);
                }
            }
            Input::SendFailed => {
                if let State::Master(master) = &mut self.state {
                    master.lease.take_back();
                    let until = master.lease.until().unwrap_or(now);
                    self.emit(Output::Lease { until }, out);
                }
            }
            Input::AddressLost(addr) => {
                let is_ours = self
                    .config
                    .all_addresses()
                    .any(|address| address.addr == addr);
                if is_ours && matches!(self.state, State::Master(_)) {
                    self.give_way(now, Cause::AddressLost, out);
                }
            }
            Input::Claimed(claim) => self.claimed(now, claim, out),
            Input::Reload(config) => self.reload(now, *config, out),
            Input::Stop => self.stop(now, out),
            Input::Group(order) => self.ordered(now, order, out),
        }
    }

    /// When to come back with [`Input::Timer`].
    ///
    /// A backup also comes back once an interval, so that a gap tells that it was held up.
    pub fn next_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Init | State::Waiting | State::Fault(_) => None,
            State::Backup(backup) => Some(
                backup
                    .master_down
                    .min(self.looked + self.interval.duration()),
            ),
            State::Master(master) => Some(master.next_timeout()),
        }
    }

    fn judge<'a>(&self, now: Instant, received: &Received<'a>) -> Result<Advert<'a>, Invalid> {
        let is_listening = matches!(self.state, State::Backup(_) | State::Master(_));
        if !is_listening || now < self.listens_from {
            return Err(Invalid::NotListening);
        }
        let sender = match &self.config.transport {
            Transport::Multicast { group } => Sender::Multicast(*group),
            Transport::Unicast {
                peers,
                check_source,
                ..
            } => Sender::Unicast {
                peers,
                check_source: *check_source,
            },
        };
        let expected = Expected {
            version: self.config.version,
            auth: self.config.auth,
            interval: self.config.interval,
            sender,
            owner_ignores: self.config.owner_ignores && self.config.is_owner(),
        };
        expected.check(received)
    }

    /// Notices that the program was held up, before anything is decided.
    ///
    /// A master whose lease ran out must not send: another one is there by now. A backup did not
    /// listen in the meantime, so that the silence means nothing.
    fn look(&mut self, now: Instant, out: &mut Outputs) {
        let gap = now.since(self.looked);
        self.looked = now;
        let down = self.master_down();
        match &mut self.state {
            State::Master(master) if now > master.lease.end() => {
                self.counters.held_up += 1;
                self.give_way(now, Cause::LeaseExpired, out);
            }
            State::Backup(backup) if gap > down => {
                self.counters.held_up += 1;
                backup.wait(now, backup.master_down.max(now + down));
            }
            State::Backup(backup) if gap > self.interval.duration() * 2 => {
                backup.listen_until(backup.master_down + gap);
            }
            _ => {}
        }
    }

    fn timer(&mut self, now: Instant, out: &mut Outputs) {
        match &self.state {
            State::Backup(backup) if now >= backup.master_down => self.silence(now, out),
            State::Master(_) => self.master_timer(now, out),
            _ => {}
        }
    }

    fn advert(&mut self, now: Instant, src: IpAddr, advert: &Advert<'_>, out: &mut Outputs) {
        self.counters.adverts_received += 1;
        self.counters.zero_received += u64::from(advert.priority == 0);
        self.facts.heard_at = Some(now);
        self.facts.unproven_until = None;
        let is_same = self.heard.note(now, src, advert, &self.advertised);
        match self.state {
            State::Backup(_) => self.advert_as_backup(now, src, advert),
            State::Master(_) => self.advert_as_master(now, src, advert, out),
            State::Init | State::Waiting | State::Fault(_) => {}
        }
        if !is_same {
            self.counters.address_mismatches += 1;
            self.raise(
                |raised| &mut raised.addresses,
                Alarm::AddressMismatch { peer: src },
                out,
            );
        }
        if advert.interval != self.config.interval {
            self.counters.interval_mismatches += 1;
            self.raise(
                |raised| &mut raised.interval,
                Alarm::IntervalMismatch { peer: src },
                out,
            );
        }
    }

    fn ordered(&mut self, now: Instant, order: GroupOrder, out: &mut Outputs) {
        match order {
            GroupOrder::Promote => {
                if matches!(self.state, State::Backup(_)) {
                    self.become_master(now, Cause::Group, out);
                }
            }
            GroupOrder::Yield => match &mut self.state {
                State::Master(_) => self.give_way(now, Cause::Group, out),
                State::Backup(backup) => backup.wants_master = false,
                _ => {}
            },
            GroupOrder::Health(health) => {
                self.facts.group = health;
                self.evaluate(now, out);
            }
            GroupOrder::Announce => self.announce_again(now, out),
        }
    }

    fn stop(&mut self, now: Instant, out: &mut Outputs) {
        if matches!(self.state, State::Master(_)) {
            self.send_zero(out);
            self.release(out);
        }
        if !matches!(self.state, State::Init) {
            self.enter(now, State::Init, Cause::Stop, out);
        }
    }

    /// `Master_Down_Interval` as things are.
    fn master_down(&self) -> core::time::Duration {
        let Config {
            version,
            down_timer_adverts,
            ..
        } = self.config;
        timers::master_down(version, self.priority, self.interval, down_timer_adverts)
    }

    fn update_priority(&mut self, now: Instant, out: &mut Outputs) {
        let before = self.master_down();
        let priority = effective_priority(self.config.priority, self.facts.track.weight);
        if priority != self.priority {
            self.priority = priority;
            self.shift(now, before);
            if self.state != State::Init {
                self.emit(Output::Priority(priority), out);
            }
        }
    }

    /// Moves a backup's deadline by what the master-down interval changed.
    fn shift(&mut self, now: Instant, before: core::time::Duration) {
        let after = self.master_down();
        if let State::Backup(backup) = &mut self.state {
            backup.master_down = (backup.master_down + after - before).max(now);
        }
    }

    /// Enters a state and tells of it.
    fn enter(&mut self, now: Instant, state: State, cause: Cause, out: &mut Outputs) {
        self.state = state;
        self.entered(now, cause, out);
    }

    fn entered(&mut self, now: Instant, cause: Cause, out: &mut Outputs) {
        let role = self.state.role();
        self.looked = now;
        self.raised = Raised::default();
        self.emit(
            Output::State {
                role,
                cause,
                priority: self.priority,
            },
            out,
        );
    }

    fn raise(&mut self, which: fn(&mut Raised) -> &mut bool, alarm: Alarm, out: &mut Outputs) {
        if !core::mem::replace(which(&mut self.raised), true) {
            self.emit(Output::Alarm(alarm), out);
        }
    }

    fn announce(&self, what: Announced, rounds: u8, out: &mut Outputs) {
        let is_empty =
            what == Announced::VirtualAddresses && self.config.all_addresses().next().is_none();
        if rounds > 0 && !is_empty {
            self.emit(Output::Announce { what, rounds }, out);
        }
    }

    fn emit(&self, output: Output, out: &mut Outputs) {
        out.push(self.config.key, output);
    }
}
