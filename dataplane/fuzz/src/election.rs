//! The fuzzer's bytes as a virtual router's life: adverts, whole and damaged, links, trackers,
//! claims, time.

use std::net::IpAddr;
use std::time::Duration;

use vrrp::addr::{Family, Mac};
use vrrp::announce::Claim;
use vrrp::config::{Config, Key, Preempt, Transport, VirtualAddress};
use vrrp::instance::{Input, Instance, State};
use vrrp::output::{MAX_PER_STEP, Output, Outputs};
use vrrp::packet::{Advert, Auth, ChecksumForm, Outgoing, Peer, Received, Version};
use vrrp::time::Instant;
use vrrp::timers::AdvertInterval;
use vrrp::track::Summary;

use crate::bytes::Bytes;

/// Any bytes to the decoders: what they accept says the same when it is sent again.
pub fn decode(data: &[u8]) {
    let _ = Claim::from_frame(data);
    let Ok(received) = Received::from_ip(data) else {
        return;
    };
    let Ok(advert) = Advert::decode(&received) else {
        return;
    };
    let addresses: Vec<IpAddr> = advert.addresses.iter().collect();
    let again = Outgoing {
        version: advert.version,
        vrid: advert.vrid,
        priority: advert.priority,
        interval: advert.interval,
        auth: Auth::None,
        form: advert.form,
        addresses: &addresses,
        src: received.src,
        dst: received.dst,
        ttl: received.ttl,
    };
    let packet = again.packet(1);
    let second = Received::from_ip(&packet).expect("our own packet");
    assert_eq!(second.declared, received.declared, "length");
    let second = Advert::decode(&second).expect("our own advert");
    assert_eq!(
        (second.vrid, second.priority, second.interval),
        (advert.vrid, advert.priority, advert.interval)
    );
    assert!(second.addresses.iter().eq(addresses.iter().copied()));
}

/// A virtual router lives as the bytes say.
pub fn live(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut life = Life::new(&mut bytes);
    while !bytes.is_empty() {
        life.step(&mut bytes);
    }
}

struct Life {
    instance: Instance,
    out: Outputs,
    now: Instant,
    addresses: Vec<IpAddr>,
}

impl Life {
    fn new(bytes: &mut Bytes<'_>) -> Life {
        let family = bytes.one_of(&[Family::V4, Family::V6]);
        let mut config = Config::new(Key {
            interface: 1,
            family,
            vrid: 51,
        });
        config.version = bytes.one_of(&[Version::V3, Version::V2]);
        config.priority = bytes.byte().max(1);
        config.down_timer_adverts = bytes.one_of(&[3, 1, 100]);
        let units = match config.version {
            Version::V2 => bytes.byte().into(),
            Version::V3 => bytes.word() & 0xfff,
        };
        if let Some(interval) = AdvertInterval::from_wire(config.version, units) {
            config.interval = interval;
        }
        let flags = bytes.byte();
        if config.priority < 255 {
            let delay = Duration::from_millis(bytes.word().into());
            config.preempt = bytes.one_of(&[Preempt::Now, Preempt::Never, Preempt::After(delay)]);
        }
        config.starts_as_master = flags & 1 != 0;
        config.answers_lower = flags & 2 == 0;
        config.advert_before_yielding = flags & 4 == 0;
        config.owner_ignores = flags & 8 != 0;
        config.needs_live_receive_path = flags & 16 != 0;
        let addresses: Vec<IpAddr> = (1..=bytes.byte() % 3).map(|i| host(family, i)).collect();
        config.addresses = addresses.iter().map(|a| VirtualAddress::host(*a)).collect();
        if flags & 32 != 0 {
            let peers = (10..13).map(|i| Peer::new(host(family, i))).collect();
            config.transport = Transport::Unicast {
                peers,
                ttl: 9,
                check_source: flags & 64 != 0,
            };
        }
        let now = Instant::default() + Duration::from_secs(1);
        let instance = Instance::new(config, flags & 128 != 0).expect("a good configuration");
        Life {
            instance,
            out: Outputs::new(0),
            now,
            addresses,
        }
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.byte() % 16 {
            0 => self.give(Input::Start),
            1 => self.give(Input::Stop),
            2 => {
                let input = Input::Link {
                    is_up: bytes.byte() & 3 != 0,
                    mac: Mac::default(),
                };
                self.give(input);
            }
            3 => {
                let source = bytes.byte();
                let family = self.instance.key().family;
                self.give(Input::Source((source != 0).then(|| host(family, source))));
            }
            4 => {
                let weight = i32::from(bytes.byte() as i8);
                let faults = u32::from(bytes.byte() & 3 == 3);
                self.give(Input::Track(Summary {
                    weight,
                    faults,
                    pending: 0,
                }));
            }
            5 => self.give(Input::FrameHeard),
            6 => self.give(Input::SendFailed),
            7 => {
                let addr = self.addresses.first().copied();
                let addr = addr.unwrap_or(host(Family::V4, 9));
                let claim = Claim {
                    addr,
                    mac: Mac([bytes.byte(); 6]),
                };
                self.give(Input::Claimed(claim));
            }
            8 => {
                let mut config = self.instance.config().clone();
                config.priority = bytes.byte().max(1);
                if config.priority == 255 {
                    config.preempt = Preempt::Now;
                }
                self.give(Input::Reload(Box::new(config)));
            }
            9 => self.freeze(bytes.word()),
            10..13 => self.advert(bytes),
            _ => self.pass(bytes.word()),
        }
    }

    /// An advert, perhaps damaged.
    fn advert(&mut self, bytes: &mut Bytes<'_>) {
        let config = self.instance.config();
        let advert = Outgoing {
            version: config.version,
            vrid: config.key.vrid,
            priority: bytes.byte(),
            interval: config.interval,
            auth: Auth::None,
            form: bytes.one_of(&[ChecksumForm::Pseudo, ChecksumForm::Plain]),
            addresses: &self.addresses,
            src: host(config.key.family, bytes.byte()),
            dst: match config.transport {
                Transport::Multicast { group } => group,
                Transport::Unicast { .. } => host(config.key.family, 5),
            },
            ttl: 255,
        };
        let mut packet = advert.packet(1);
        let damage = bytes.byte();
        if damage >= 128 {
            let at = usize::from(bytes.byte()) % packet.len();
            packet[at] ^= damage - 127;
        }
        if let Ok(received) = Received::from_ip(&packet) {
            self.give(Input::Advert(received));
        }
    }

    /// Lets time pass with every timer at its time, up to a number of them.
    fn pass(&mut self, millis: u16) {
        let end = self.now + Duration::from_millis(millis.into());
        for _ in 0..1_000 {
            let Some(at) = self.instance.next_timeout().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            self.give(Input::Timer);
            let next = self.instance.next_timeout();
            assert!(
                next.is_none_or(|next| next > self.now),
                "a timer that was not acted on"
            );
        }
        self.now = self.now.max(end);
    }

    /// Lets time pass without a timer.
    fn freeze(&mut self, millis: u16) {
        self.now = self.now + Duration::from_millis(millis.into());
        self.give(Input::Timer);
    }

    fn give(&mut self, input: Input<'_>) {
        let was_master = matches!(self.instance.state(), State::Master(_));
        let may_lose_lease = matches!(input, Input::SendFailed);
        self.instance.handle(self.now, input, &mut self.out);
        assert!(
            self.out.len() <= MAX_PER_STEP,
            "more than a step may put out"
        );
        let is_master = matches!(self.instance.state(), State::Master(_));
        let mut sent = 0;
        while let Some((_, output)) = self.out.pop() {
            match output {
                Output::Send(datagram) => {
                    let packet = datagram.packet(1);
                    let received = Received::from_ip(&packet).expect("our own packet");
                    let advert = Advert::decode(&received).expect("our own advert");
                    assert!(was_master || is_master, "only a master sends");
                    sent += u32::from(advert.priority > 0);
                }
                Output::AddAddresses { .. } => assert!(is_master && sent > 0),
                Output::Lease { .. } => assert!(sent > 0 || may_lose_lease),
                _ => {}
            }
        }
        let lease = self.instance.lease();
        assert_eq!(lease.is_some(), is_master);
        if !was_master && is_master {
            assert!(lease.is_some_and(|lease| lease.is_valid(self.now)));
        }
    }
}

/// A host on the link.
fn host(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 0, 0, number]),
        Family::V6 => IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, u16::from(number)]),
    }
}
