//! The command line as data: every command, option and word of `rvsadm`, one entry each.
//!
//! Parser ([`super::parse`]) and help ([`super::help`]) read these tables; a test walks them, so
//! that nothing is half added. Names, and which command takes which option, are ipvsadm's.

mod commands;
mod table;
mod words;

pub use commands::COMMANDS;
pub use table::OPTIONS;
pub use words::{WORDS, Word, WordSpec};

/// What is to be done: exactly one per line, and the first option of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `-A`.
    AddService,
    /// `-E`.
    EditService,
    /// `-D`.
    DeleteService,
    /// `-C`.
    Clear,
    /// `-R`.
    Restore,
    /// `-S`.
    Save,
    /// `-a`.
    AddServer,
    /// `-e`.
    EditServer,
    /// `-d`.
    DeleteServer,
    /// `-L`.
    List,
    /// `-Z`.
    Zero,
    /// `--set`.
    Set,
    /// `--start-daemon`.
    StartDaemon,
    /// `--stop-daemon`.
    StopDaemon,
    /// `-h`.
    Help,
    /// `-v`.
    Version,
}

/// A command as typed.
#[derive(Debug)]
pub struct CommandSpec {
    /// What it stands for.
    pub command: Command,
    /// Its letters; the first is shown in the help.
    pub short: &'static [char],
    /// Name behind `--`.
    pub long: &'static str,
    /// Name in messages.
    pub name: &'static str,
    /// Name of its argument, if it takes one.
    pub value: Option<&'static str>,
    /// Slots that must be given.
    pub requires: &'static [Slot],
    /// Whether this version carries it out.
    pub support: Support,
    /// Line for the help.
    pub help: &'static str,
}

/// What an option sets. Options of one slot exclude each other, a slot is set once, and messages
/// name it rather than the option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Not checked: any command takes it, any number of times.
    Free,
    /// `-n`.
    Numeric,
    /// `-c`.
    Connection,
    /// `-t`, `-u`, `--sctp-service`, `-f`.
    Service,
    /// `-s`.
    Scheduler,
    /// `-p`.
    Persistent,
    /// `-M`.
    Netmask,
    /// `-r`.
    Server,
    /// `-g`, `-i`, `-m`.
    Method,
    /// `-w`.
    Weight,
    /// `-x`.
    Upper,
    /// `-y`.
    Lower,
    /// `--mcast-interface`.
    McastInterface,
    /// `--timeout`.
    Timeout,
    /// `--daemon`.
    Daemon,
    /// `--stats`.
    Stats,
    /// `--rate`.
    Rate,
    /// `--thresholds`.
    Thresholds,
    /// `--persistent-conn`.
    PersistentConn,
    /// `--nosort`.
    NoSort,
    /// `--syncid`.
    SyncId,
    /// `--exact`.
    Exact,
    /// `-o`.
    OnePacket,
    /// `--pe`.
    Engine,
    /// `-b`.
    SchedFlags,
    /// `--mcast-group`.
    McastGroup,
    /// `--mcast-port`.
    McastPort,
    /// `--mcast-ttl`.
    McastTtl,
    /// `--sync-maxlen`.
    SyncMaxLen,
    /// `--tun-info`.
    TunInfo,
    /// `--tun-type`.
    TunType,
    /// `--tun-port`.
    TunPort,
    /// `--tun-nocsum`.
    TunNoCsum,
    /// `--tun-csum`.
    TunCsum,
    /// `--tun-remcsum`.
    TunRemCsum,
    /// `--conn-timeouts`, ours.
    ConnTimeouts,
    /// `--json`, ours.
    Json,
}

impl Slot {
    /// Name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Slot::Service => "service-address",
            Slot::Method => "forwarding-method",
            _ => OPTIONS
                .iter()
                .find(|o| o.slot == self)
                .map_or("", |o| o.long),
        }
    }
}

/// Whether this version carries an option out. All are parsed, so that mistakes are answered the
/// same way; the others are then refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It works.
    Now,
    /// It is refused.
    #[allow(dead_code, reason = "at present nothing is")]
    Later,
}

/// Whether an option takes an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// None; `--option=x` is an error.
    None,
    /// Always: the rest of the word, or the next word whatever it looks like.
    Required(&'static str),
    /// The rest of the word, or the next word unless it begins with a dash.
    Optional(&'static str),
}

/// An option as typed.
#[derive(Debug)]
pub struct OptionSpec {
    /// What it stands for.
    pub id: Opt,
    /// Its letter.
    pub short: Option<char>,
    /// Name behind `--`.
    pub long: &'static str,
    /// Its argument.
    pub value: Value,
    /// What it sets.
    pub slot: Slot,
    /// Commands that take it; unused for [`Slot::Free`].
    pub on: &'static [Command],
    /// Whether this version carries it out.
    pub support: Support,
    /// Line for the help.
    pub help: &'static str,
}

impl OptionSpec {
    /// As an operator would type it.
    pub fn typed(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}"),
            None => format!("--{}", self.long),
        }
    }
}

/// Every option; its entry in [`OPTIONS`] says what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opt {
    Numeric,
    Connection,
    TcpService,
    UdpService,
    SctpService,
    MarkService,
    Ipv6,
    Scheduler,
    Persistent,
    Netmask,
    Server,
    Route,
    Tunnel,
    Masq,
    Weight,
    Upper,
    Lower,
    McastInterface,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    Sort,
    SyncId,
    Exact,
    OnePacket,
    Engine,
    SchedFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxLen,
    TunInfo,
    TunType,
    TunPort,
    TunNoCsum,
    TunCsum,
    TunRemCsum,
    ConnTimeouts,
    Json,
    Socket,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_names_are_unique() {
        let mut letters: Vec<char> = OPTIONS.iter().filter_map(|o| o.short).collect();
        letters.extend(COMMANDS.iter().flat_map(|c| c.short));
        let mut names: Vec<&str> = OPTIONS.iter().map(|o| o.long).collect();
        names.extend(COMMANDS.iter().map(|c| c.long));
        let (all_letters, all_names) = (letters.len(), names.len());
        letters.sort_unstable();
        letters.dedup();
        names.sort_unstable();
        names.dedup();
        assert_eq!((letters.len(), names.len()), (all_letters, all_names));
    }

    #[test]
    fn options_of_one_slot_are_taken_by_the_same_commands() {
        for option in OPTIONS.iter().filter(|o| o.slot != Slot::Free) {
            let first = OPTIONS
                .iter()
                .find(|o| o.slot == option.slot)
                .expect("itself at least");
            assert_eq!(option.on, first.on, "--{}", option.long);
            assert!(!option.on.is_empty(), "--{}", option.long);
            assert!(!option.slot.name().is_empty(), "--{}", option.long);
        }
    }
}
