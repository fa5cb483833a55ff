//! VRRP as configured: names of interfaces and trackers, not yet the numbers of this moment.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use vrrp::addr::Family;
use vrrp::config::VirtualAddress;
use vrrp::track::LinkDelays;

/// Everything about VRRP in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vrrp {
    /// Real-time priority of the thread, 0 for none.
    pub rt_priority: u8,
    /// Longest wait before this node takes over from a living master.
    pub takeover_wait: Duration,
    /// How fast addresses are announced on an interface that is not named in `paces`.
    pub pace: Pace,
    /// On those that are.
    pub paces: BTreeMap<String, Pace>,
    /// Interfaces whose changes count late, by name.
    pub delays: BTreeMap<String, LinkDelays>,
    /// Virtual routers in the order of the file.
    pub instances: Vec<Instance>,
    /// Sync groups.
    pub groups: Vec<SyncGroup>,
    /// Scripts, by name.
    pub scripts: BTreeMap<String, Script>,
    /// Numbers in files, by name.
    pub files: BTreeMap<String, TrackedFile>,
    /// Processes, by name.
    pub processes: BTreeMap<String, Process>,
}

/// A virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The machine's configuration. The number of the interface in its key is 0 and its list of
    /// trackers empty: both are filled in when names are looked up.
    pub machine: vrrp::config::Config,
    /// Kernel interface that adverts cross.
    pub interface: String,
    /// Address to send from; `None` takes the interface's.
    pub source: Option<IpAddr>,
    /// How each of the machine's addresses is put on an interface, in the order of
    /// [`vrrp::config::Config::all_addresses`].
    pub addresses: Vec<Address>,
    /// Routes that go with the addresses.
    pub routes: Vec<Route>,
    /// Rules that go with them.
    pub rules: Vec<Rule>,
    /// Whether adverts are sent by the interface itself although addresses are at the virtual MAC.
    pub sends_from_base: bool,
    /// Whether the state of the interface counts.
    pub tracks_interface: bool,
    /// What the priority depends on.
    pub track: Vec<Track>,
}

/// A virtual address on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Address and prefix length.
    pub addr: VirtualAddress,
    /// The interface that gets it.
    pub device: String,
    /// `IFA_SCOPE` (RT_SCOPE_*).
    pub scope: u8,
    /// Label of an IPv4 address.
    pub label: Option<String>,
}

/// A route that is there while an instance is master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination; prefix length 0 is the default route.
    pub to: VirtualAddress,
    /// Next hop.
    pub via: Option<IpAddr>,
    /// Interface.
    pub device: Option<String>,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// Metric.
    pub metric: Option<u32>,
    /// Table.
    pub table: u32,
}

/// A rule that is there while an instance is master: which table routes what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The family of its addresses.
    pub family: Family,
    /// Its place among the rules, from 1.
    pub priority: u32,
    /// Packets from there.
    pub from: Option<VirtualAddress>,
    /// Packets for there.
    pub to: Option<VirtualAddress>,
    /// Packets that came in by this interface.
    pub iif: Option<String>,
    /// Packets of sockets that are bound to this interface.
    pub oif: Option<String>,
    /// Packets with this mark, under this mask.
    pub mark: Option<(u32, u32)>,
    /// The table that routes them.
    pub table: u32,
}

/// Least time between two announcements on one interface; zero for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Of gratuitous ARP.
    pub garp: Duration,
    /// Of neighbour advertisements.
    pub gna: Duration,
}

/// What an instance or a group depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// What.
    pub what: Tracked,
    /// As in [`vrrp::track::Tracked`].
    pub weight: i16,
    /// As in [`vrrp::track::Tracked`].
    pub reverse: bool,
}

/// Something that is tracked, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tracked {
    /// A kernel interface.
    Interface(String),
    /// One of [`Vrrp::scripts`].
    Script(String),
    /// One of [`Vrrp::files`].
    File(String),
    /// One of [`Vrrp::processes`].
    Process(String),
    /// The workers, the pump and the control loop of this daemon.
    Workers,
}

/// Instances that are master together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncGroup {
    /// Name for people.
    pub name: String,
    /// Names of its instances.
    pub instances: Vec<String>,
    /// Whether weights count.
    pub tracking_weight: bool,
    /// What all of them depend on.
    pub track: Vec<Track>,
}

/// A program whose exit code counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// Between two starts.
    pub interval: Duration,
    /// When it has to have ended.
    pub timeout: Duration,
    /// Successes in a row after which all is well.
    pub rise: u32,
    /// Failures in a row after which it is not.
    pub fall: u32,
    /// Whether it counts as failed at first.
    pub init_fail: bool,
    /// `user` or `user:group`.
    pub user: Option<String>,
}

/// A number in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedFile {
    /// The file.
    pub path: PathBuf,
    /// What to write into it at start, if there is no file.
    pub init: Option<i32>,
    /// Write `init` even if there is one.
    pub overwrite: bool,
}

/// Processes that have to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Name, or first word of the command line.
    pub command: String,
    /// Whether `command` is compared with the command line.
    pub full_command: bool,
    /// Arguments that it has to have.
    pub params: Option<Vec<String>>,
    /// How they are compared.
    pub matching: Matching,
    /// Least number.
    pub quorum: u32,
    /// Greatest number.
    pub quorum_max: u32,
    /// How long enough have to run.
    pub fork_delay: Duration,
    /// How long too few have to run.
    pub terminate_delay: Duration,
}

/// How the arguments of a process are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matching {
    /// These and no others.
    Exact,
    /// These first, and the last of them may go on (keepalived's `initial`).
    Initial,
    /// These first (keepalived's `partial`).
    Partial,
}
