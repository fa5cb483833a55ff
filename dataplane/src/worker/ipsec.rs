//! AH and ESP: they have no ports and follow the ISAKMP connection, UDP 500 to 500, of the same
//! two addresses (`ah_esp_conn_in_get`, `ah_esp_conn_out_get`). They open no connection.

use super::{Worker, ends};
use crate::conn::Side;
use crate::flow::Flow;
use crate::packet::{Packet, Verdict};
use crate::service::Protocol;
use crate::time::Instant;

/// Port of ISAKMP (RFC 2408, 2.5.1), on both sides.
const ISAKMP: u16 = 500;

impl Worker {
    /// A packet of AH or ESP: with its connection if there is one, otherwise the kernel's.
    #[cold]
    pub(super) fn ipsec(&mut self, now: Instant, packet: &mut Packet<'_>, flow: &Flow) -> Verdict {
        // Replies first, as the kernel's OUT hook runs before IN.
        self.ipsec_of(now, packet, flow, &[Side::Reply, Side::Request])
    }

    /// As [`Worker::ipsec`], for connections seen from these sides.
    pub(super) fn ipsec_of(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        sides: &[Side],
    ) -> Verdict {
        let flow = Flow {
            src_port: ISAKMP,
            dst_port: ISAKMP,
            ..*flow
        };
        let udp = Protocol::Udp.number();
        for &side in sides {
            let (client, other) = ends(&flow, side);
            let key = &self.core.key;
            let hash = key.hash(udp, &client.addr, client.port, &other.addr, other.port);
            if let Some(worker) = self.core.share.elsewhere(hash.shard) {
                // Only what may have a connection there goes there.
                let known = self.core.roles.of(flow.is_v4, udp, &other.addr, other.port) != 0;
                if known {
                    return self.core.hand_over(worker, side == Side::Request);
                }
                continue;
            }
            let Some(i) = self.shard(hash).lookup(hash, side, udp, &client, &other) else {
                continue;
            };
            return match (side, self.shards.get_mut(hash.shard as usize)) {
                (Side::Reply, Some(shard)) => self.core.reply(now, shard, i, packet, &flow),
                _ => self.request(now, packet, &flow, hash, i),
            };
        }
        let class = self.core.class_of(&flow, packet.frame(), false);
        self.core.punt(now, packet.port, class)
    }
}
