//! Gratuitous ARP and unsolicited neighbour advertisements.

use std::time::Duration;

use vrrp::addr::Mac;
use vrrp::announce;
use vrrp::config::Key;
use vrrp::output::Announced;
use vrrp::time::Instant;

use super::Driver;

/// How often it is looked up whether the host forwards IPv6.
const FORWARDING_PERIOD: Duration = Duration::from_secs(5);

impl Driver {
    pub(super) fn announce(&mut self, now: Instant, key: Key, what: Announced, rounds: u8) {
        let Some(slot) = self.slots.get(&key) else {
            return;
        };
        let config = &slot.config;
        let vmac = Mac::virtual_router(key.family, key.vrid);
        let mut frames = Vec::new();
        let is_router = forwards_ipv6(now, &mut self.is_router);
        match what {
            Announced::VirtualAddresses => {
                for address in &config.addresses {
                    let Some(port) = self.links.port(&address.device) else {
                        continue;
                    };
                    let at_vmac = config.machine.virtual_mac && address.device == config.interface;
                    let mac = if at_vmac { vmac } else { port.mac };
                    let frame = announce::frame(mac, address.addr.addr, is_router);
                    frames.push((port.index, frame));
                }
            }
            Announced::Source(addr) => {
                let mac = self.told.get(&key.interface).map(|told| told.mac);
                let frame = announce::frame(mac.unwrap_or_default(), addr, is_router);
                frames.push((key.interface, frame));
            }
        }
        for _ in 0..rounds {
            for (index, frame) in &frames {
                if let Some(socket) = self.sockets.get(index) {
                    // Lost as on the way: others follow.
                    let _ = socket.send(frame);
                }
            }
        }
    }
}

/// Whether the host forwards IPv6, looked up every few seconds.
fn forwards_ipv6(now: Instant, known: &mut (Instant, bool)) -> bool {
    if known.0 == Instant::default() || now.since(known.0) >= FORWARDING_PERIOD {
        let text = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding");
        *known = (now, text.is_ok_and(|text| text.trim() == "1"));
    }
    known.1
}
