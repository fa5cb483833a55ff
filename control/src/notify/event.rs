//! What is told, and how it is written.

use std::fmt;
use std::net::IpAddr;

use serde_json::{Value, json};
use vrrp::instance::Role;

use crate::api::{ServerKey, ServiceKey};
use crate::config::vrrp::Vrrp;
use crate::config::{describe_server, describe_service};
use crate::health;
use crate::vrrp::Notice;

/// State of a virtual router or a sync group, with what keepalived tells besides states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouterState {
    /// It has the addresses.
    Master,
    /// It listens.
    Backup,
    /// It cannot be a router.
    Fault,
    /// The daemon ends.
    Stop,
    /// A reload took it away.
    Deleted,
    /// As a master it heard an advert of a lower priority.
    MasterRxLowerPri,
    /// The priority of a master changed.
    MasterPriority,
    /// The priority of a backup changed.
    BackupPriority,
}

impl RouterState {
    /// As keepalived writes it.
    pub const fn name(self) -> &'static str {
        match self {
            RouterState::Master => "MASTER",
            RouterState::Backup => "BACKUP",
            RouterState::Fault => "FAULT",
            RouterState::Stop => "STOP",
            RouterState::Deleted => "DELETED",
            RouterState::MasterRxLowerPri => "MASTER_RX_LOWER_PRI",
            RouterState::MasterPriority => "MASTER_PRIORITY",
            RouterState::BackupPriority => "BACKUP_PRIORITY",
        }
    }

    /// Whether it only tells of a priority.
    pub const fn is_priority(self) -> bool {
        matches!(
            self,
            RouterState::MasterPriority | RouterState::BackupPriority
        )
    }
}

impl fmt::Display for RouterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What may be wrong with connection synchronisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyncAlarm {
    /// Its interface has no carrier.
    Link,
    /// Nothing is heard of a node.
    Peer,
    /// What a node told was lost and could not be had again yet, or its table.
    Gap,
    /// What comes is not sealed with the key of this node; without a peer: messages of anybody.
    Key,
}

impl SyncAlarm {
    /// As the stream has it.
    pub const fn name(self) -> &'static str {
        match self {
            SyncAlarm::Link => "link",
            SyncAlarm::Peer => "peer",
            SyncAlarm::Gap => "gap",
            SyncAlarm::Key => "key",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// To a virtual router.
    Instance {
        /// Its name.
        name: String,
        /// What it is now.
        state: RouterState,
        /// Its effective priority.
        priority: u8,
    },
    /// To a sync group: all its members are this now.
    Group {
        /// Its name.
        name: String,
        /// What it is now.
        state: RouterState,
    },
    /// To a server: its checks.
    Server {
        /// Of which service.
        service: ServiceKey,
        /// Which server.
        server: ServerKey,
        /// Up or down.
        up: bool,
        /// Why it is down.
        why: Option<String>,
    },
    /// To a service: its quorum.
    Quorum {
        /// Which service.
        service: ServiceKey,
        /// Gained or lost.
        up: bool,
        /// Weight of the living servers.
        weight: u64,
        /// What is needed.
        quorum: u32,
        /// The sorry server that serves from now on.
        sorry: Option<ServerKey>,
    },
    /// To connection synchronisation: an alarm began or ended.
    Sync {
        /// Kernel interface.
        interface: String,
        /// What is wrong.
        alarm: SyncAlarm,
        /// With which node.
        peer: Option<IpAddr>,
        /// It is over.
        up: bool,
        /// More of what is wrong.
        why: Option<String>,
    },
}

impl From<&health::Event> for Event {
    fn from(event: &health::Event) -> Event {
        match event.clone() {
            health::Event::Server {
                service,
                server,
                up,
                why,
            } => Event::Server {
                service,
                server,
                up,
                why,
            },
            health::Event::Quorum {
                service,
                up,
                weight,
                quorum,
                sorry,
            } => Event::Quorum {
                service,
                up,
                weight,
                quorum,
                sorry,
            },
        }
    }
}

impl Event {
    /// What virtual routers tell, if it is for everyone. A router or a group that ends
    /// and is not in the configuration any more was deleted.
    pub fn of_notice(notice: &Notice, config: &Vrrp) -> Option<Event> {
        let is_known = |name: &str| config.instances.iter().any(|i| i.machine.name == name);
        let is_group = |name: &str| config.groups.iter().any(|group| group.name == name);
        let state = |role, is_known| match role {
            Role::Master => Some(RouterState::Master),
            Role::Backup => Some(RouterState::Backup),
            Role::Fault => Some(RouterState::Fault),
            Role::Stopped if is_known => Some(RouterState::Stop),
            Role::Stopped => Some(RouterState::Deleted),
            Role::Waiting => None,
        };
        let instance = |name: &String, state, priority| Event::Instance {
            name: name.clone(),
            state,
            priority,
        };
        Some(match notice {
            Notice::Instance {
                instance: name,
                new,
                priority,
                ..
            } => instance(name, state(*new, is_known(name))?, *priority),
            Notice::Group { group, new } => Event::Group {
                name: group.clone(),
                state: state(*new, is_group(group))?,
            },
            Notice::Priority {
                instance: name,
                state,
                priority,
            } => {
                let state = match state {
                    Role::Master => RouterState::MasterPriority,
                    Role::Backup => RouterState::BackupPriority,
                    _ => return None,
                };
                instance(name, state, *priority)
            }
            Notice::Alarm {
                instance: name,
                alarm: "lower-master",
                priority,
                ..
            } => instance(name, RouterState::MasterRxLowerPri, *priority),
            Notice::Alarm { .. } | Notice::Holds { .. } => return None,
        })
    }
}

/// What something happened to: its scripts run one after the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A virtual router.
    Instance(String),
    /// A sync group.
    Group(String),
    /// A service and its servers.
    Service(ServiceKey),
    /// Connection synchronisation.
    Sync,
}

/// `UP` or `DOWN`.
pub const fn up_or_down(up: bool) -> &'static str {
    if up { "UP" } else { "DOWN" }
}

impl Event {
    /// What it happened to.
    pub fn subject(&self) -> Subject {
        match self {
            Event::Instance { name, .. } => Subject::Instance(name.clone()),
            Event::Group { name, .. } => Subject::Group(name.clone()),
            Event::Server { service, .. } | Event::Quorum { service, .. } => {
                Subject::Service(*service)
            }
            Event::Sync { .. } => Subject::Sync,
        }
    }

    /// Whether it is about VRRP; otherwise it is about servers.
    pub const fn is_vrrp(&self) -> bool {
        matches!(self, Event::Instance { .. } | Event::Group { .. })
    }

    /// A line of keepalived's FIFO, without its end; none for what keepalived does not have.
    pub fn line(&self) -> Option<String> {
        Some(match self {
            Event::Instance {
                name,
                state,
                priority,
            } => format!("INSTANCE \"{name}\" {state} {priority}"),
            Event::Group { name, state } => format!("GROUP \"{name}\" {state} 0"),
            Event::Server {
                service,
                server,
                up,
                ..
            } => {
                let (server, up) = (self::server(service, server), up_or_down(*up));
                format!("RS {server} {} {up}", virtual_server(service))
            }
            Event::Quorum { service, up, .. } => {
                format!("VS {} {}", virtual_server(service), up_or_down(*up))
            }
            Event::Sync { .. } => return None,
        })
    }

    /// A line of the stream, without its end. `time` is RFC 3339.
    pub fn json(&self, number: u64, time: &str) -> String {
        let mut line = json!({ "seq": number, "time": time });
        let body = match self {
            Event::Instance {
                name,
                state,
                priority,
            } => json!({
                "type": "instance", "name": name, "state": state.name(), "priority": priority,
            }),
            Event::Group { name, state } => json!({
                "type": "group", "name": name, "state": state.name(),
            }),
            Event::Server {
                service,
                server,
                up,
                why,
            } => json!({
                "type": "server", "service": describe_service(service),
                "server": describe_server(server), "state": up_or_down(*up), "reason": why,
            }),
            Event::Quorum {
                service,
                up,
                weight,
                quorum,
                sorry,
            } => json!({
                "type": "quorum", "service": describe_service(service),
                "state": up_or_down(*up), "weight": weight, "quorum": quorum,
                "sorry_server": sorry.as_ref().map(describe_server),
            }),
            Event::Sync {
                interface,
                alarm,
                peer,
                up,
                why,
            } => json!({
                "type": "sync", "alarm": alarm.name(), "interface": interface, "peer": peer,
                "state": up_or_down(*up), "reason": why,
            }),
        };
        if let (Value::Object(line), Value::Object(body)) = (&mut line, body) {
            line.extend(body.into_iter().filter(|(_, value)| !value.is_null()));
        }
        line.to_string()
    }

    /// Subject and text of a mail; none for what is not mailed.
    pub fn mail(&self) -> Option<(String, String)> {
        Some(match self {
            Event::Instance {
                name,
                state,
                priority,
            } => {
                let state = mailed(*state)?;
                (
                    format!("VRRP Instance {name} - Entering {state} state"),
                    format!("Virtual router {name} is {state} now, with priority {priority}.\n"),
                )
            }
            Event::Group { name, state } => {
                let state = mailed(*state)?;
                (
                    format!("VRRP Group {name} - Entering {state} state"),
                    format!("All virtual routers of sync group {name} are {state} now.\n"),
                )
            }
            Event::Server {
                service,
                server,
                up,
                why,
            } => {
                let (rs, vs) = (self::server(service, server), virtual_server(service));
                let up = up_or_down(*up);
                let why = why.as_ref().map(|why| format!(": {why}"));
                (
                    format!("Realserver {rs} of virtual server {vs} - {up}"),
                    format!(
                        "Server {} of {} is {up} by its health checks{}.\n",
                        describe_server(server),
                        describe_service(service),
                        why.unwrap_or_default()
                    ),
                )
            }
            Event::Quorum {
                service,
                up,
                weight,
                quorum,
                sorry,
            } => {
                let state = up_or_down(*up);
                let sorry = sorry.as_ref().map(|server| {
                    format!("The sorry server {} serves.\n", describe_server(server))
                });
                (
                    format!("Virtualserver {} - {state}", virtual_server(service)),
                    format!(
                        "The living servers of {} weigh {weight}; the quorum is {quorum}.\n{}",
                        describe_service(service),
                        sorry.unwrap_or_default()
                    ),
                )
            }
            Event::Sync { .. } => return None,
        })
    }
}

fn mailed(state: RouterState) -> Option<RouterState> {
    use RouterState::{Backup, Fault, Master};
    matches!(state, Master | Backup | Fault).then_some(state)
}

fn virtual_server(service: &ServiceKey) -> String {
    match service {
        ServiceKey::Endpoint {
            protocol,
            addr,
            port,
        } => format!(
            "[{addr}]:{}:{port}",
            crate::config::protocol_name(*protocol)
        ),
        ServiceKey::Mark { mark, .. } => format!("FWM {mark}"),
    }
}

fn server(service: &ServiceKey, server: &ServerKey) -> String {
    // A service by mark has no protocol; keepalived leaves it out as well.
    match service.protocol() {
        Some(protocol) => format!(
            "[{}]:{}:{}",
            server.addr,
            crate::config::protocol_name(protocol),
            server.port
        ),
        None => format!("[{}]:{}", server.addr, server.port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Protocol;

    fn service() -> ServiceKey {
        ServiceKey::new(Protocol::Tcp, [192, 168, 201, 15].into(), 80)
    }

    fn down() -> Event {
        Event::Server {
            service: service(),
            server: ServerKey {
                addr: [10, 0, 0, 2].into(),
                port: 8080,
            },
            up: false,
            why: Some("status 503 for /".into()),
        }
    }

    #[test]
    fn lines_of_keepalived() {
        let instance = Event::Instance {
            name: "VI_1".into(),
            state: RouterState::Master,
            priority: 100,
        };
        assert_eq!(instance.line().unwrap(), "INSTANCE \"VI_1\" MASTER 100");
        let group = Event::Group {
            name: "G1".into(),
            state: RouterState::Fault,
        };
        assert_eq!(group.line().unwrap(), "GROUP \"G1\" FAULT 0");
        assert_eq!(
            down().line().unwrap(),
            "RS [10.0.0.2]:tcp:8080 [192.168.201.15]:tcp:80 DOWN"
        );
        let quorum = Event::Quorum {
            service: service(),
            up: true,
            weight: 3,
            quorum: 2,
            sorry: None,
        };
        assert_eq!(quorum.line().unwrap(), "VS [192.168.201.15]:tcp:80 UP");
    }

    #[test]
    fn lines_of_the_stream() {
        let line = down().json(7, "2026-11-22T13:00:00.123Z");
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            read,
            json!({
                "seq": 7, "time": "2026-11-22T13:00:00.123Z", "type": "server",
                "service": "tcp 192.168.201.15:80", "server": "10.0.0.2:8080",
                "state": "DOWN", "reason": "status 503 for /",
            })
        );
        let quorum = Event::Quorum {
            service: service(),
            up: true,
            weight: 3,
            quorum: 2,
            sorry: None,
        };
        assert!(!quorum.json(1, "").contains("sorry"));
        let lost = Event::Sync {
            interface: "eth1".into(),
            alarm: SyncAlarm::Peer,
            peer: Some([10, 0, 0, 2].into()),
            up: false,
            why: Some("nothing is heard".into()),
        };
        let read: Value = serde_json::from_str(&lost.json(8, "T")).unwrap();
        assert_eq!(
            read,
            json!({
                "seq": 8, "time": "T", "type": "sync", "alarm": "peer", "interface": "eth1",
                "peer": "10.0.0.2", "state": "DOWN", "reason": "nothing is heard",
            })
        );
        assert_eq!((lost.line(), lost.mail()), (None, None));
    }

    #[test]
    fn mails() {
        let (subject, body) = down().mail().unwrap();
        assert_eq!(
            subject,
            "Realserver [10.0.0.2]:tcp:8080 of virtual server [192.168.201.15]:tcp:80 - DOWN"
        );
        assert!(body.ends_with("is DOWN by its health checks: status 503 for /.\n"));
        let stop = Event::Instance {
            name: "VI_1".into(),
            state: RouterState::Stop,
            priority: 1,
        };
        assert_eq!(stop.mail(), None);
    }
}
