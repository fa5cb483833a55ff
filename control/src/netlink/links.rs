//! Devices of the kernel: which of them are twins, VLANs on twins, or neither.

use std::collections::{BTreeMap, HashMap};

use dataplane::addr::Mac;
use dataplane::packet::PortId;
use dataplane::route::{Link, LinkId, MAX_LINKS};

use super::message::{Device, DeviceKind, IfIndex};

/// A data port's kernel device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twin {
    /// The port.
    pub port: PortId,
    /// Name of the device.
    pub device: String,
}

/// Who holds a local address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A twin, or a VLAN or macvlan on it.
    Port(PortId),
    /// The loopback device, or a `local` route by it: held by the host as a whole.
    Host,
    /// A device that is no twin, by name.
    Device(String),
}

/// What a device is to the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A link, up or not.
    Link {
        /// Its id.
        id: LinkId,
        /// Frames can leave by it.
        up: bool,
        /// Its MTU.
        mtu: u16,
    },
    /// A device that is no twin.
    Foreign {
        /// Administratively up and with a carrier.
        up: bool,
    },
    /// Not there.
    Gone,
}

/// All devices, and the links among them. A twin's [`LinkId`] is its port's number; VLANs get
/// the numbers after the last port, and a removed VLAN's number is used again.
#[derive(Debug, Default)]
pub struct Links {
    twins: HashMap<String, PortId>,
    devices: BTreeMap<IfIndex, Device>,
    ids: HashMap<IfIndex, LinkId>,
    /// What workers were told, by link id.
    told: BTreeMap<LinkId, (IfIndex, Link)>,
}

impl Links {
    /// No device yet; these names are twins.
    pub fn new(twins: &[Twin]) -> Links {
        Links {
            twins: twins.iter().map(|t| (t.device.clone(), t.port)).collect(),
            ..Links::default()
        }
    }

    /// Sets a device; returns how it was before.
    pub fn put(&mut self, device: Device) -> Option<Device> {
        self.devices.insert(device.index, device)
    }

    /// Forgets a device.
    pub fn remove(&mut self, index: IfIndex) -> Option<Device> {
        self.devices.remove(&index)
    }

    /// Forgets the devices for which `keep` is false; true if there were any.
    pub fn retain(&mut self, keep: impl Fn(IfIndex) -> bool) -> bool {
        let before = self.devices.len();
        self.devices.retain(|index, _| keep(*index));
        self.devices.len() != before
    }

    /// A device.
    pub fn device(&self, index: IfIndex) -> Option<&Device> {
        self.devices.get(&index)
    }

    /// A device by name.
    pub fn by_name(&self, name: &str) -> Option<&Device> {
        self.devices.values().find(|d| d.name == name)
    }

    /// What a device is to the data plane.
    pub fn role(&self, index: IfIndex) -> Role {
        let Some(device) = self.devices.get(&index) else {
            return Role::Gone;
        };
        let up = device.admin_up && device.carrier;
        match self.ids.get(&index) {
            Some(id) => Role::Link {
                id: *id,
                up,
                mtu: mtu(device),
            },
            None => Role::Foreign { up },
        }
    }

    /// The link of a device.
    pub fn link(&self, index: IfIndex) -> Option<LinkId> {
        self.ids.get(&index).copied()
    }

    /// The device of a link.
    pub fn index(&self, link: LinkId) -> Option<IfIndex> {
        self.told
            .get(&link)
            .map(|(index, _)| *index)
            .filter(|index| *index != 0)
    }

    /// Whether frames can leave by a link.
    pub fn is_up(&self, link: LinkId) -> bool {
        self.told.get(&link).is_some_and(|(_, l)| l.up)
    }

    /// Who holds an address of this device.
    pub fn holder(&self, index: IfIndex) -> Holder {
        let Some(device) = self.devices.get(&index) else {
            return Holder::Host;
        };
        match (device.kind, self.port(device)) {
            (_, Some(port)) => Holder::Port(port),
            (DeviceKind::Loopback | DeviceKind::Vrf { .. }, _) => Holder::Host,
            _ => Holder::Device(device.name.clone()),
        }
    }

    /// The MACs of a port: the twin's and those of the VLANs and macvlans on it.
    pub fn macs(&self, port: PortId) -> Vec<Mac> {
        let of_port = self.devices.values().filter(|d| self.port(d) == Some(port));
        let mut macs: Vec<Mac> = of_port
            .map(|d| d.mac)
            .filter(|m| *m != Mac::default())
            .collect();
        macs.sort_unstable();
        macs.dedup();
        macs
    }

    /// The ports that have twins.
    pub fn ports(&self) -> impl Iterator<Item = PortId> {
        self.twins.values().copied()
    }

    /// Numbers the links anew and returns those that differ from what workers were told, a
    /// device that vanished as down. The second value is a warning for each VLAN that found no
    /// number.
    pub fn renumber(&mut self) -> (Vec<(LinkId, Link)>, Vec<String>) {
        let mut warnings = Vec::new();
        let wanted: Vec<(IfIndex, PortId, u16)> = self
            .devices
            .values()
            .filter_map(|d| self.tagged(d))
            .collect();
        self.ids
            .retain(|index, _| wanted.iter().any(|(w, _, _)| w == index));
        let mut used: std::collections::BTreeSet<LinkId> = self.ids.values().copied().collect();
        let first = self.twins.values().map(|p| p.0 + 1).max().unwrap_or(0);
        for (index, port, vlan) in &wanted {
            if self.ids.contains_key(index) {
                continue;
            }
            let free = match vlan {
                0 => Some(LinkId(port.0)),
                _ => (first..MAX_LINKS as u16)
                    .map(LinkId)
                    .find(|id| !used.contains(id)),
            };
            match free {
                Some(id) => {
                    used.insert(id);
                    self.ids.insert(*index, id);
                }
                None => warnings.push(format!(
                    "VLAN device {} is not mirrored: there are {MAX_LINKS} links already",
                    self.devices.get(index).map_or("", |d| &d.name)
                )),
            }
        }
        (self.changes(&wanted), warnings)
    }

    fn changes(&mut self, wanted: &[(IfIndex, PortId, u16)]) -> Vec<(LinkId, Link)> {
        let mut now = BTreeMap::new();
        for (index, port, vlan) in wanted {
            if let (Some(id), Some(d)) = (self.ids.get(index), self.devices.get(index)) {
                let up = d.admin_up && d.carrier;
                let link = Link {
                    port: *port,
                    vlan: *vlan,
                    mac: d.mac,
                    mtu: mtu(d),
                    up,
                };
                now.insert(*id, (*index, link));
            }
        }
        for (id, (_, link)) in &self.told {
            now.entry(*id).or_insert((0, Link { up: false, ..*link }));
        }
        let changed = now
            .iter()
            .filter(|(id, new)| self.told.get(id) != Some(new));
        let changed = changed.map(|(id, (_, link))| (*id, *link)).collect();
        self.told = now;
        changed
    }

    /// All links, as workers were told.
    pub fn all(&self) -> impl Iterator<Item = (LinkId, Link)> {
        self.told.iter().map(|(id, (_, link))| (*id, *link))
    }

    /// Port and VLAN id of a device that is a link.
    fn tagged(&self, device: &Device) -> Option<(IfIndex, PortId, u16)> {
        if let Some(port) = self.twins.get(&device.name) {
            return Some((device.index, *port, 0));
        }
        match device.kind {
            DeviceKind::Vlan { parent, id } => {
                let parent = self.devices.get(&parent)?;
                self.twins
                    .get(&parent.name)
                    .map(|port| (device.index, *port, id))
            }
            _ => None,
        }
    }

    /// The port whose frames the device gets.
    fn port(&self, device: &Device) -> Option<PortId> {
        match device.kind {
            DeviceKind::Macvlan { parent } => self
                .devices
                .get(&parent)
                .and_then(|p| self.tagged(p))
                .map(|(_, port, _)| port),
            _ => self.tagged(device).map(|(_, port, _)| port),
        }
    }
}

fn mtu(device: &Device) -> u16 {
    u16::try_from(device.mtu).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: IfIndex, name: &str, kind: DeviceKind) -> Device {
        Device {
            index,
            name: name.into(),
            mac: Mac([2, 0, 0, 0, 0, index as u8]),
            mtu: 1500,
            admin_up: true,
            carrier: true,
            master: 0,
            kind,
        }
    }

    fn links() -> Links {
        let twin = |port, device: &str| Twin {
            port: PortId(port),
            device: device.into(),
        };
        Links::new(&[twin(0, "wan"), twin(1, "lan")])
    }

    #[test]
    fn twins_have_their_ports_numbers_and_vlans_those_after() {
        let mut l = links();
        l.put(device(5, "lan", DeviceKind::Other));
        l.put(device(2, "eth0", DeviceKind::Other));
        // A VLAN may be told of before its parent.
        l.put(device(7, "wan.9", DeviceKind::Vlan { parent: 8, id: 9 }));
        assert_eq!(l.renumber().0.len(), 1);
        l.put(device(8, "wan", DeviceKind::Other));
        l.put(device(9, "vmac", DeviceKind::Macvlan { parent: 8 }));
        let (changed, _) = l.renumber();
        let ids: Vec<_> = changed
            .iter()
            .map(|(id, l)| (id.0, l.port.0, l.vlan))
            .collect();
        assert_eq!(ids, [(0, 0, 0), (2, 0, 9)]);
        assert_eq!(l.role(2), Role::Foreign { up: true });
        assert_eq!(l.holder(7), Holder::Port(PortId(0)));
        assert_eq!(l.holder(9), Holder::Port(PortId(0)));
        assert_eq!(l.holder(2), Holder::Device("eth0".into()));
        assert_eq!(l.macs(PortId(0)).len(), 3);
        assert!(l.renumber().0.is_empty(), "nothing changed");
    }

    #[test]
    fn a_removed_vlan_goes_down_and_its_number_is_used_again() {
        let mut l = links();
        l.put(device(5, "lan", DeviceKind::Other));
        l.put(device(6, "lan.1", DeviceKind::Vlan { parent: 5, id: 1 }));
        l.renumber();
        l.remove(6);
        let (changed, _) = l.renumber();
        assert_eq!(changed.len(), 1);
        assert!(!changed[0].1.up);
        assert_eq!((l.role(6), l.index(LinkId(2))), (Role::Gone, None));
        assert!(l.renumber().0.is_empty(), "told once");
        l.put(device(7, "lan.2", DeviceKind::Vlan { parent: 5, id: 2 }));
        let (changed, _) = l.renumber();
        assert_eq!((changed[0].0, changed[0].1.vlan), (LinkId(2), 2));
    }
}
