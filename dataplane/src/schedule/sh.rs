//! sh: source hashing (`ip_vs_sh.c`): the client's address, with `sh-port` its port too, chooses
//! a bucket.

use super::hash::{self, hash_32};
use super::{Loads, Predecessor, Request, Scheduler, Seat};
use crate::service::VirtualService;

pub(super) const NAME: &str = "sh";

/// Logarithm of the table's size (`CONFIG_IP_VS_SH_TAB_BITS`).
const BITS: u32 = 8;
const SIZE: usize = 1 << BITS;

pub(super) fn new(service: &VirtualService, _: Seat) -> Box<dyn Scheduler> {
    let mut table = [0; SIZE];
    // Each takes as many buckets in a row as its weight says, but at least one: clients of a
    // server with weight 0 are refused, not moved (`ip_vs_sh_reassign`).
    let walk = (0..).zip(&service.destinations).cycle();
    let mut owners = walk.flat_map(|(at, d)| (0..d.weight.max(1)).map(move |_| at));
    for bucket in &mut table {
        *bucket = owners.next().unwrap_or(u32::MAX);
    }
    Box::new(SourceHashing { table })
}

/// List positions by bucket.
struct SourceHashing {
    table: [u32; SIZE],
}

impl SourceHashing {
    /// Whose bucket it is: the position, or whether nobody's (`Err(true)`) or that of one which
    /// takes no connection (`Err(false)`).
    fn owner(&self, request: &Request<'_>, bucket: usize) -> Result<usize, bool> {
        let at = self.table.get(bucket).map_or(usize::MAX, |&at| at as usize);
        match request.service.destinations.get(at) {
            None => Err(true),
            Some(d) if request.loads.usable(d) => Ok(at),
            Some(_) => Err(false),
        }
    }
}

impl Scheduler for SourceHashing {
    fn name(&self) -> &'static str {
        NAME
    }

    fn start(&mut self, _: &VirtualService, _: Loads<'_>, _: Option<Predecessor<'_>>) {}

    fn pick(&mut self, request: &Request<'_>) -> Option<usize> {
        let service = request.service;
        let home = hash_32(hash::client(service, request.flow), BITS) as usize;
        let found = self.owner(request, home);
        if found == Err(false) && service.options.flags.fallback {
            // Hashed again with an offset that begins at the first bucket, as the kernel does.
            let other = (0..SIZE)
                .map(|offset| self.owner(request, (offset + 2 * home) % SIZE))
                .find(|found| *found != Err(false));
            return other.and_then(Result::ok);
        }
        found.ok()
    }
}

#[cfg(test)]
mod tests {
    use crate::addr::Addr;
    use crate::schedule::fixture::Rig;

    /// Choices for clients 10.0.1.2 and so on.
    fn clients(rig: &mut Rig, n: u8) -> Vec<u32> {
        let of = |last| Addr::v4([10, 0, 1, last]);
        (2..2 + n)
            .map(|last| {
                rig.flow.src = of(last);
                rig.pick()
            })
            .collect()
    }

    #[test]
    fn as_the_kernel_chose() {
        let mut rig = Rig::new("sh", &[(11, 1), (12, 2), (13, 3)]);
        let chosen = [
            12, 11, 12, 11, 13, 11, 13, 13, 13, 13, 11, 13, 12, 13, 12, 13, 13, 12, 13, 12, 11, 12,
            11, 12, 12, 13, 12, 13, 12, 11, 13, 11, 13, 13, 13, 13, 13, 13, 12, 13,
        ];
        assert_eq!(clients(&mut rig, 40), chosen);
    }

    /// A quoted packet has no more than its ports.
    #[test]
    fn the_port_counts_however_the_client_is_known() {
        let mut rig = Rig::new("sh", &[(11, 1), (12, 1), (13, 1)]);
        rig.service.options.flags.port = true;
        let mut chosen = |l4_len| {
            rig.flow.l4_len = l4_len;
            let port = |port| {
                rig.flow.src_port = port;
                rig.pick()
            };
            (1030..1050).map(port).collect::<Vec<u32>>()
        };
        let of_packets = chosen(20);
        assert!([11, 12, 13].iter().all(|n| of_packets.contains(n)));
        assert_eq!(chosen(0), of_packets);
    }

    #[test]
    fn weight_0_refuses_its_clients() {
        let mut rig = Rig::new("sh", &[(11, 1), (12, 1), (13, 1)]);
        rig.edit(12, 0);
        let chosen = [0, 11, 13, 11, 0, 11, 13, 11, 13, 11, 11, 0];
        assert_eq!(clients(&mut rig, 12), chosen);
    }

    #[test]
    fn fallback_finds_whoever_is_left() {
        let mut rig = Rig::new("sh", &[(11, 1), (12, 1), (13, 1)]);
        rig.service.options.flags.fallback = true;
        rig.edit(12, 0);
        let chosen = clients(&mut rig, 200);
        assert!(chosen.iter().all(|c| [11, 13].contains(c)), "{chosen:?}");
        rig.overload(13, true);
        assert_eq!(clients(&mut rig, 40), [11; 40]);
        rig.edit(11, 0);
        assert_eq!(clients(&mut rig, 1), [0]);
    }

    #[test]
    fn the_port_counts_only_if_told() {
        let mut rig = Rig::new("sh", &[(11, 1), (12, 1), (13, 1)]);
        let ports = |rig: &mut Rig| {
            let mut chosen: Vec<_> = (40_000..40_100)
                .map(|port| {
                    rig.flow.src_port = port;
                    rig.pick()
                })
                .collect();
            chosen.sort_unstable();
            chosen.dedup();
            chosen.len()
        };
        assert_eq!(ports(&mut rig), 1);
        rig.service.options.flags.port = true;
        assert_eq!(ports(&mut rig), 3);
    }

    #[test]
    fn an_empty_service_has_nobody() {
        assert_eq!(Rig::new("sh", &[]).pick(), 0);
    }
}
