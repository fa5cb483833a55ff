//! What is left to the NIC of a port, of what it offers.

use control::config;
use dataplane::packet::Assist;
use dpdk::port::{Offloads, PortSetup};

/// Drivers of devices that are software: what they offer they do themselves, and not better than
/// the worker.
const SOFTWARE: &[&str] = &["net_tap", "net_bonding"];

/// Drivers whose other side, a program on this host, leaves checksums undone as soon as it hears
/// that they need not be right. The worker would have to make up for that.
const LEAVE_SUMS: &[&str] = &["net_virtio", "net_virtio_user", "net_vhost"];

/// What to ask of a port with this driver. `keeps_tags`: nothing on the way in loses a tag that was
/// taken out.
pub fn wanted(
    word: config::Offloads,
    keeps_tags: bool,
    driver: &str,
    offers: Offloads,
) -> Offloads {
    let all = Offloads::RX_IPV4_SUM
        .with(Offloads::RX_TRANSPORT_SUMS)
        .with(Offloads::TX_UDP_SUM);
    // A tag that was taken out must be put in again where the answer of a packet leaves.
    let tags = match offers.has(Offloads::TAGS) && keeps_tags {
        true => Offloads::TAGS,
        false => Offloads::NONE,
    };
    match word {
        config::Offloads::None => Offloads::NONE,
        config::Offloads::All => all.with(tags),
        config::Offloads::Auto if SOFTWARE.contains(&driver) => Offloads::NONE,
        config::Offloads::Auto if LEAVE_SUMS.contains(&driver) => all
            .without(Offloads::RX_IPV4_SUM)
            .without(Offloads::RX_TRANSPORT_SUMS)
            .with(tags),
        config::Offloads::Auto => all.with(tags),
    }
}

/// Whether a port with this driver is asked to keep what is urgent on a queue of its own. The PMD of
/// bonds would have to ask each member that ever joins.
pub fn wants_urgent(port: &config::Port, driver: &str) -> bool {
    let asked = match port.offloads {
        config::Offloads::None => false,
        config::Offloads::Auto => !SOFTWARE.contains(&driver),
        config::Offloads::All => true,
    };
    asked && port.members().is_empty() && !port.rx_gso_fixup
}

/// What the workers leave to the NIC.
pub fn assist(setup: &PortSetup) -> Assist {
    Assist {
        tags: setup.offloads.has(Offloads::TAGS),
        udp_sums: setup.offloads.has(Offloads::TX_UDP_SUM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a port that offers everything is asked for.
    fn asked(driver: &str, word: config::Offloads, keeps_tags: bool) -> Vec<&'static str> {
        let everything = Offloads::RX_IPV4_SUM
            .with(Offloads::RX_TRANSPORT_SUMS)
            .with(Offloads::TX_UDP_SUM)
            .with(Offloads::TAGS);
        wanted(word, keeps_tags, driver, everything)
            .names()
            .collect()
    }

    #[test]
    fn nics_do_it_and_software_does_not() {
        let all = [
            "rx-ipv4-sum",
            "rx-udp-sum",
            "rx-tcp-sum",
            "vlan-strip",
            "tx-udp-sum",
            "vlan-insert",
        ];
        assert_eq!(asked("net_ixgbe", config::Offloads::Auto, true), all);
        assert_eq!(asked("net_tap", config::Offloads::Auto, true), [""; 0]);
        assert_eq!(asked("net_tap", config::Offloads::All, true), all);
        assert_eq!(asked("net_ixgbe", config::Offloads::None, true), [""; 0]);
        assert_eq!(
            asked("net_ixgbe", config::Offloads::Auto, false),
            ["rx-ipv4-sum", "rx-udp-sum", "rx-tcp-sum", "tx-udp-sum"]
        );
        let sent = ["vlan-strip", "tx-udp-sum", "vlan-insert"];
        assert_eq!(asked("net_virtio", config::Offloads::Auto, true), sent);
        assert_eq!(asked("net_virtio", config::Offloads::All, true), all);
    }
}
