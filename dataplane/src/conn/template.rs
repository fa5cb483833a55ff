//! Persistence templates: under which key a client's is kept (`ip_vs_sched_persist`).
//!
//! A template is an entry of the connection table with [`flag::TEMPLATE`](super::entry::flag).
//! It is found by the masked client, never by a packet's own tuple.

use super::engine_data;
use super::entry::{Entry, NIL, TEMPLATE_SPACE};
use super::hash::{HashKey, KeyHash};
use super::shard::Shard;
use crate::addr::{Addr, Endpoint, Family};
use crate::service::{Persistence, ServiceKey};

/// Port of FTP's control connections.
pub const FTP: u16 = 21;

/// What a template is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateKey {
    /// IP protocol number, 0 for a mark's.
    pub protocol: u8,
    /// Client, masked.
    pub client: Addr,
    /// Virtual address and port, or the mark in the place of the address.
    pub virtual_: Endpoint,
    /// Whether the template keeps the real server's port; otherwise it has 0.
    pub keeps_port: bool,
    /// Stands in for engine data, 0 without.
    pub tag: u16,
}

/// The address that a mark is written as: its four bytes in network order, in front.
fn mark_address(family: Family, mark: u32) -> Addr {
    match family {
        Family::V4 => Addr::v4(mark.to_be_bytes()),
        Family::V6 => Addr::v6((u128::from(mark) << 96).to_be_bytes()),
    }
}

/// A client's address without what the mask blanks.
pub fn masked(client: Addr, mask: u32) -> Addr {
    match client.family() {
        Family::V4 => Addr::v4((client.bits_v4() & mask).to_be_bytes()),
        Family::V6 => {
            let kept = 128 - mask.min(128);
            let bits = u128::from_be_bytes(client.octets());
            let mask = u128::MAX.checked_shl(kept).unwrap_or(0);
            Addr::v6((bits & mask).to_be_bytes())
        }
    }
}

impl TemplateKey {
    /// Key for a packet of `client` to `virtual_` that a service takes.
    pub fn of(
        service: &ServiceKey,
        persistence: &Persistence,
        protocol: u8,
        client: Addr,
        virtual_: Endpoint,
    ) -> TemplateKey {
        let client = masked(client, persistence.mask);
        let is_own_port = virtual_.port == service.port();
        let keeps_port = is_own_port && virtual_.port != FTP;
        let (protocol, virtual_) = match *service {
            ServiceKey::Mark { family, mark } if !is_own_port => {
                (0, Endpoint::new(mark_address(family, mark), 0))
            }
            _ if keeps_port => (protocol, virtual_),
            // One for all ports: FTP with its data, services on port 0.
            _ => (protocol, Endpoint::new(virtual_.addr, 0)),
        };
        TemplateKey {
            protocol,
            client,
            virtual_,
            keeps_port,
            tag: 0,
        }
    }

    /// The same for what an engine found in the packet.
    pub fn with_data(self, key: &HashKey, data: &[u8]) -> TemplateKey {
        let tag = engine_data::tag(key, data);
        TemplateKey { tag, ..self }
    }

    /// Where it is in the table. The shard follows from the masked client alone: whoever steers
    /// a client's packets to the owner of this shard has its templates there, too.
    pub fn hash(&self, key: &HashKey) -> KeyHash {
        let (protocol, v) = (self.protocol | TEMPLATE_SPACE, &self.virtual_);
        key.hash(protocol, &self.client, self.tag, &v.addr, v.port)
    }

    /// Finds the template in its shard, of several the one that `is_it` knows.
    pub fn find(
        &self,
        shard: &Shard,
        hash: KeyHash,
        is_it: impl Fn(&Entry) -> bool,
    ) -> Option<u32> {
        let client = Endpoint::new(self.client, self.tag);
        let protocol = self.protocol | TEMPLATE_SPACE;
        shard.lookup_one(hash, (protocol, &client, &self.virtual_), is_it)
    }
}

/// State of a template as `ipvsadm -Lnc` prints it.
pub const fn state_name(state: u8) -> &'static str {
    match state {
        ASSURED => "ASSURED",
        _ => "NONE",
    }
}

/// State of a template of which some connection was answered.
pub const ASSURED: u8 = 1;

/// Takes templates out of use whose engine data were kept outside the table that was taken over:
/// they are never found again, and their connections go on.
pub fn forget_data(shards: &mut [Shard]) {
    for shard in shards {
        for i in 0..shard.touched() {
            let is_lost = |e: &Entry| e.is_valid() && e.engine_data().is_some();
            if shard.entry(i).is_some_and(is_lost) {
                shard.disable_template(i);
                if let Some(entry) = shard.entry_mut(i) {
                    entry.extension = NIL;
                }
            }
        }
    }
}

/// Counts anew what templates and FTP control connections control, after a table was taken over: a connection that makes no
/// sense any more has ended without counting itself out.
pub fn recount(shards: &mut [Shard]) {
    let live = |shard: &Shard, i: u32| shard.entry(i).is_some_and(Entry::is_valid);
    for shard in &mut *shards {
        for i in 0..shard.touched() {
            if live(shard, i)
                && let Some(entry) = shard.entry_mut(i)
            {
                entry.clear_controls();
            }
        }
    }
    for at in 0..shards.len() {
        for i in 0..shards[at].touched() {
            if !live(&shards[at], i) {
                continue;
            }
            let Some(controller) = shards[at].entry(i).and_then(Entry::controller) else {
                continue;
            };
            let above = shards
                .get_mut(controller.shard())
                .and_then(|shard| shard.entry_mut(controller.entry()))
                .filter(|e| e.is_valid());
            match above {
                Some(above) => above.add_controls(1),
                None => {
                    if let Some(entry) = shards[at].entry_mut(i) {
                        entry.set_controller(None);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Protocol;

    const VIP: Addr = Addr::v4([10, 0, 0, 100]);
    const CLIENT: Addr = Addr::v4([10, 0, 1, 2]);

    fn key(service: ServiceKey, port: u16) -> TemplateKey {
        let persistence = Persistence {
            timeout: 60,
            mask: 0xffff_ff00,
            engine: None,
        };
        TemplateKey::of(&service, &persistence, 6, CLIENT, Endpoint::new(VIP, port))
    }

    fn tcp(port: u16) -> ServiceKey {
        ServiceKey::new(Protocol::Tcp, Endpoint::new(VIP, port))
    }

    /// The cases of `ip_vs_sched_persist` one by one.
    #[test]
    fn each_kind_of_service_has_its_key() {
        let mark = ServiceKey::Mark {
            family: Family::V4,
            mark: 9,
        };
        let nine = Addr::v4([0, 0, 0, 9]);
        for (service, port, want) in [
            (tcp(80), 80, (6, VIP, 80, true)),
            (tcp(21), 21, (6, VIP, 0, false)),
            (tcp(21), 40000, (6, VIP, 0, false)),
            (tcp(0), 80, (6, VIP, 0, false)),
            (mark, 80, (0, nine, 0, false)),
            // Port 0 is the port of a mark's service.
            (mark, 0, (6, VIP, 0, true)),
        ] {
            let k = key(service, port);
            let got = (k.protocol, k.virtual_.addr, k.virtual_.port, k.keeps_port);
            assert_eq!(got, want, "{service:?} {port}");
            assert_eq!(k.client, Addr::v4([10, 0, 1, 0]));
        }
    }

    #[test]
    fn masks_of_ipv6_are_prefixes() {
        let client: Addr = "2001:db8:1:2::5"
            .parse::<core::net::Ipv6Addr>()
            .unwrap()
            .into();
        for (mask, want) in [
            (128, "2001:db8:1:2::5"),
            (64, "2001:db8:1:2::"),
            (48, "2001:db8:1::"),
            (1, "::"),
        ] {
            assert_eq!(masked(client, mask).to_string(), want);
        }
        assert_eq!(mark_address(Family::V6, 12).to_string(), "0:c::");
    }

    #[test]
    fn no_balanced_protocol_is_in_the_space_of_templates() {
        for number in 0..=u8::MAX {
            if Protocol::from_number(number).is_some() {
                assert_eq!(number & TEMPLATE_SPACE, 0, "{number}");
            }
        }
    }
}
