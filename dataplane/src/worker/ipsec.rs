//! AH and ESP: they have no ports and follow the ISAKMP connection, UDP 500 to 500, of the same
//! two addresses (`ah_esp_conn_in_get`, `ah_esp_conn_out_get`). They open no connection.

use super::Worker;
use super::steer::{self, Found, Way};
use crate::conn::Side;
use crate::flow::Flow;
use crate::packet::{Attempt, Packet, Verdict};
use crate::roles::SET_BACK;
use crate::service::Protocol;
use crate::time::Instant;

/// Port of ISAKMP (RFC 2408, 2.5.1), on both sides.
const ISAKMP: u16 = 500;

impl Worker {
    /// A packet of AH or ESP: with its connection if there is one, otherwise the kernel's.
    #[cold]
    pub(super) fn ipsec(
        &mut self,
        now: Instant,
        packet: &mut Packet<'_>,
        flow: &Flow,
        attempt: Attempt,
    ) -> Verdict {
        let flow = Flow {
            src_port: ISAKMP,
            dst_port: ISAKMP,
            ..*flow
        };
        let protocol = Protocol::Udp.number();
        // Replies first, as the kernel's OUT hook runs before IN.
        let mut ways = steer::ways_of(&Flow { protocol, ..flow }, Side::Reply, true);
        let is_alone = self.core.share.team() == 1;
        for way in &mut ways {
            *way = way.filter(|Way { other, side, .. }| {
                let roles = &self.core.roles;
                let roles = roles.of(flow.is_v4, protocol, &other.addr, other.port);
                let is_host_s = *side == Side::Request && roles & SET_BACK != 0;
                // Only what may have a connection elsewhere goes there.
                !is_host_s && (is_alone || roles != 0)
            });
        }
        match self.search(&ways, None, attempt, false) {
            Found::Here { way, hash, i } => {
                return match (way, self.shards.get_mut(hash.shard as usize)) {
                    (steer::REPLY, Some(shard)) => self.core.reply(now, shard, i, packet, &flow),
                    _ => self.request(now, packet, &flow, hash, i),
                };
            }
            Found::Elsewhere(worker, attempt) => return self.core.hand_over(worker, attempt),
            Found::Nowhere | Found::Outbound => {}
        }
        let class = self.core.class_of(&flow, packet.frame(), false);
        self.core.punt_unclaimed(now, packet, class)
    }
}
