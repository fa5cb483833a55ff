//! One instance, a clock that is turned by hand, and a transcript of what it puts out.

use std::net::IpAddr;
use std::time::Duration;

use vrrp::addr::{Family, Mac};
use vrrp::config::{Config, Key, VirtualAddress};
use vrrp::instance::{Input, Instance, Reaction, Role};
use vrrp::output::{Announced, Output, Outputs};
use vrrp::packet::{Auth, ChecksumForm, Outgoing, Received, Version};
use vrrp::time::Instant;
use vrrp::timers::AdvertInterval;
use vrrp::track::Summary;

use super::ip;

/// Address, MAC and key of the instance under test.
pub const OWN: &str = "10.77.0.2";
pub const MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
pub const KEY: Key = Key {
    interface: 7,
    family: Family::V4,
    vrid: 51,
};

/// Version 2, priority 100, 1 s, one address; nobody has to prove that the LAN is alive.
pub fn config() -> Config {
    let mut config = Config::new(KEY);
    config.version = Version::V2;
    config.addresses = vec![VirtualAddress::host(ip("10.77.0.100"))];
    config.needs_live_receive_path = false;
    config.announcing.refresh = Duration::ZERO;
    config
}

/// The same in version 3.
pub fn config_v3(millis: u64) -> Config {
    let mut config = config();
    config.version = Version::V3;
    config.interval = AdvertInterval::new(Version::V3, Duration::from_millis(millis)).unwrap();
    config
}

/// Version 3 over IPv6.
pub fn config_ipv6(millis: u64) -> Config {
    let key = Key {
        family: Family::V6,
        ..KEY
    };
    let addresses = ["fe80::100", "fd77::100"]
        .map(|a| VirtualAddress::host(ip(a)))
        .to_vec();
    let transport = Config::new(key).transport;
    Config {
        key,
        addresses,
        transport,
        ..config_v3(millis)
    }
}

/// An instance under test. Times are microseconds since its making.
pub struct Rig {
    pub instance: Instance,
    pub out: Outputs,
    pub now: Instant,
    pub reaction: Reaction,
}

/// Away from zero, where saturating arithmetic could hide something.
const START: Duration = Duration::from_secs(1_000);

impl Rig {
    /// An instance that is not started.
    pub fn new(config: Config) -> Rig {
        let instance = Instance::new(config, false).unwrap();
        let now = Instant::default() + START;
        Rig {
            instance,
            out: Outputs::new(10_000),
            now,
            reaction: Reaction::default(),
        }
    }

    /// A backup: link up, with a source, started. The transcript so far is thrown away.
    pub fn started(config: Config) -> Rig {
        let mut rig = Rig::new(config);
        rig.link(true);
        rig.give(Input::Source(Some(ip(OWN))));
        rig.give(Input::Start);
        rig.log();
        rig
    }

    /// A master of 4 seconds' standing (its first burst's echo is still to come).
    pub fn master(config: Config) -> Rig {
        let mut rig = Rig::started(config);
        rig.run_for(4_000_000);
        assert_eq!(rig.role(), Role::Master);
        rig.log();
        rig
    }

    pub fn give(&mut self, input: Input<'_>) {
        self.reaction = self.instance.handle(self.now, input, &mut self.out);
    }

    pub fn link(&mut self, is_up: bool) {
        self.give(Input::Link { is_up, mac: MAC });
    }

    pub fn track(&mut self, weight: i32, faults: u32, pending: u32) {
        self.give(Input::Track(Summary {
            weight,
            faults,
            pending,
        }));
    }

    /// An advert of this priority as a peer with our configuration sends it.
    pub fn advert(&mut self, priority: u8, src: &str) {
        self.advert_with(priority, src, |_| {});
    }

    pub fn advert_with(&mut self, priority: u8, src: &str, edit: impl FnOnce(&mut Outgoing<'_>)) {
        let config = self.instance.config().clone();
        let addresses: Vec<IpAddr> = config.addresses.iter().map(|a| a.addr).collect();
        let mut advert = Outgoing {
            version: config.version,
            vrid: config.key.vrid,
            priority,
            interval: config.interval,
            auth: Auth::None,
            form: ChecksumForm::Pseudo,
            addresses: &addresses,
            src: ip(src),
            dst: config.key.family.group(),
            ttl: 255,
        };
        edit(&mut advert);
        let packet = advert.packet(1);
        self.give(Input::Advert(Received::from_ip(&packet).unwrap()));
    }

    /// Runs all timers of the next so many microseconds, each when it is due.
    pub fn run_for(&mut self, micros: u64) {
        let end = self.now + Duration::from_micros(micros);
        while let Some(at) = self.instance.next_timeout().filter(|at| *at <= end) {
            assert!(at >= self.now, "a timer in the past was not acted on");
            self.now = at;
            self.give(Input::Timer);
        }
        self.now = end;
    }

    /// Lets time pass without calling the instance: the program is held up.
    pub fn freeze_for(&mut self, micros: u64) {
        self.now = self.now + Duration::from_micros(micros);
    }

    /// Microseconds until the master-down or advert timer.
    pub fn timer(&self) -> u64 {
        let at = match self.instance.state() {
            vrrp::instance::State::Backup(backup) => backup.master_down,
            vrrp::instance::State::Master(master) => master.next_advert,
            state => panic!("{state:?} has no timer"),
        };
        at.since(self.now).as_micros() as u64
    }

    pub fn role(&self) -> Role {
        self.instance.state().role()
    }

    /// What was put out since the last call, without leases.
    pub fn log(&mut self) -> Vec<String> {
        let mut log = Vec::new();
        while let Some((key, output)) = self.out.pop() {
            assert_eq!(key, self.instance.key());
            if !matches!(output, Output::Lease { .. }) {
                log.push(line(&output));
            }
        }
        log
    }

    /// The same in one text, for short ones.
    pub fn said(&mut self) -> String {
        self.log().join(", ")
    }
}

/// An output in a few words.
pub fn line(output: &Output) -> String {
    match output {
        Output::Send(datagram) => {
            let message = &datagram.message;
            match datagram.dst.is_multicast() {
                true => format!("send {}", message[2]),
                false => format!("send {} to {}", message[2], datagram.dst),
            }
        }
        Output::Lease { until } => format!("lease until {until:?}"),
        Output::AddAddresses {
            addresses, accept, ..
        } => {
            format!(
                "add {}{}",
                addresses.len(),
                if *accept { "" } else { " silently" }
            )
        }
        Output::RemoveAddresses(addresses) => format!("remove {}", addresses.len()),
        Output::Announce {
            what: Announced::VirtualAddresses,
            rounds,
        } => {
            format!("announce x{rounds}")
        }
        Output::Announce {
            what: Announced::Source(source),
            ..
        } => format!("announce {source}"),
        Output::State { role, cause, .. } => format!("{role} {cause}"),
        Output::GroupState { name, role } => format!("group {name} {role}"),
        Output::Priority(priority) => format!("priority {priority}"),
        Output::Alarm(alarm) => format!("alarm {}", alarm.name()),
    }
}
