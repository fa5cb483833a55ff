//! Probes of health checks leave exactly as a client's packet does whose connection is with that
//! server.

use dataplane::packet::{DropReason, PortId, Verdict};
use dataplane::probe::Way;
use dataplane::service::{Tunnel, TunnelChecksum, TunnelKind};

mod support;
use support::notation;
use support::rig::{Rig, addr};

/// A SYN from the same address and port, and what it is made of when a worker has sent it on.
fn same_as_a_clients(vip: &str, packet: &str, real: &str, options: &str, tunnel: Option<Tunnel>) {
    let frame = notation::build(&format!("eth 02:04:c0:a8:28:fe > 52:54:..:01 | {packet}"));
    let mut rig = Rig::new();
    rig.ipvsadm(&format!("-A -t {vip} -s rr"));
    rig.ipvsadm(&format!("-a -t {vip} -r {real} {options}"));
    let (verdict, out) = rig.inject(0, &frame);
    assert_eq!(verdict, Verdict::Transmit(PortId(1)), "{options}");

    let server = support::rig::endpoint(real).addr;
    let way = Way { server, tunnel };
    let connections = rig.connections().len();
    let sent = rig.probe(&way.frame(&frame[14..]));
    assert_eq!(sent, (verdict, out), "{options}");
    // It is of no connection.
    assert_eq!(rig.connections().len(), connections);
    // Nor does it need the server to be in the table: one that failed may have left it.
    rig.ipvsadm(&format!("-D -t {vip}"));
    let (again, _) = rig.probe(&way.frame(&frame[14..]));
    assert_eq!(again, verdict, "without the service");
}

#[test]
fn a_probe_takes_the_way_of_a_clients_packet() {
    let v4 = "ip 192.168.40.9 > 192.168.40.200 df | tcp 4000 > 80 syn";
    let v6 = "ip6 fd40::9 > fd40::200 | tcp 4000 > 80 syn";
    let tunnel = |kind, port, checksum| {
        Some(Tunnel {
            kind,
            port,
            checksum,
        })
    };
    for (options, kind) in [
        ("-g", None),
        ("-i", tunnel(TunnelKind::IpIp, 0, TunnelChecksum::None)),
        (
            "-i --tun-type gre --tun-csum",
            tunnel(TunnelKind::Gre, 0, TunnelChecksum::Full),
        ),
        (
            "-i --tun-type gue --tun-port 6080 --tun-remcsum",
            tunnel(TunnelKind::Gue, 6080, TunnelChecksum::Remote),
        ),
    ] {
        same_as_a_clients("192.168.40.200:80", v4, "192.168.50.5:80", options, kind);
        same_as_a_clients("[fd40::200]:80", v6, "[fd50::5]:80", options, kind);
    }
}

#[test]
fn a_probe_that_has_no_way_is_dropped_without_an_answer() {
    let frame = notation::build(
        "eth 02:04:c0:a8:28:fe > 52:54:..:01 | ip 192.168.40.9 > 192.168.40.200 | tcp 4000 > 80 syn",
    );
    let packet = &frame[14..];
    let way = |text| Way {
        server: addr(text),
        tunnel: None,
    };
    let mut rig = Rig::new();
    for (server, reason) in [
        ("192.168.50.77", DropReason::NoNeighbour),
        ("192.168.50.1", DropReason::NoRoute),
    ] {
        let (verdict, _) = rig.probe(&way(server).frame(packet));
        assert_eq!(verdict, Verdict::Drop(reason), "{server}");
    }
    // The MAC of the first is asked for, so that the next one finds it.
    assert_eq!(rig.worker.take_events().len(), 1);
    let whole = way("192.168.50.77").frame(packet);
    for len in 0..whole.len() {
        let (verdict, _) = rig.probe(&whole[..len]);
        assert!(matches!(verdict, Verdict::Drop(_)), "{len} bytes");
    }
}
