"""More packets than a worker has time for: a third port brings opening packets without end."""
import json
import time

from frames import clients, ethernet, tcp, write_pcap
from lab import AF_PACKET_PORTS, PATIENCE, at, check, lasts, network, port, wait_for

# What the driver gives the first pcap port.
MAC = "02:70:63:61:70:00"
# Twenty requests a second: what the connection asks for is the same with and without the flood. The flooded
# worker never rests, so on a busy machine it is the scheduler that takes its time; more would measure that.
SECONDS, PACE = 5, 20


def steady(lab, vip):
    out = lab.client.run(["/usr/bin/python3", lab.peers / "steady.py", vip, 80, SECONDS, PACE], 60).stdout
    return json.loads(out)["answered"]


def takewhile_short(measure, enough, times):
    """Measures until it is enough, at most so many times."""
    results = [measure()]
    while results[-1] < enough and len(results) < times:
        results.append(measure())
    return results


@lasts(180)
@network(servers=1)
def test_flood_of_opening_packets(lab):
    """An established connection keeps its pace, adverts are in time, rvsadm answers, and nothing leaks."""
    source = lab.dir / "flood.pcap"
    vip = "10.1.0.100"
    write_pcap(source, [ethernet(MAC, "02:00:00:00:0f:02", tcp(host, number, vip, 80)) for host, number in clients(2000)])
    calm_ports = AF_PACKET_PORTS
    flood_port = port("fl", f'pcap = {{ rx = "{source}", infinite = true }}')

    lab.start(ports=calm_ports)
    lab.service("nat", families=(4,))
    lab.expect_all_servers(vip, 2)
    alone = steady(lab, vip)
    saved = lab.adm("-Sn")
    lab.rvsd.stop()

    lab.write_config(ports=calm_ports + flood_port)
    lab.start(addresses=False)
    lab.adm("-R", stdin=saved)
    lab.lb.ip("link set tfl up")
    # The client's own connection is opened among millions of others: its first packet may have to be sent again.
    wait_for("opening packets to be refused", lambda: lab.drops("overload") > 1000)
    heard = lab.dir / "heard.json"
    lab.peer(lab.lb, "adverts.py", "receive", "tf0", heard)
    adverts = lab.peer(lab.client, "adverts.py", "send", "c0")
    before = lab.drops("overload")
    # Once is enough: this machine may have been somewhere else for a moment.
    during = max(takewhile_short(lambda: steady(lab, vip), 0.9 * alone, 3))
    check(during >= 0.9 * alone, f"an established connection got {during} answers under flood, {alone} without")
    refused = lab.drops("overload") - before
    check(refused > 1000, f"only {refused} opening packets were refused during the flood")

    asked = time.monotonic()
    lab.adm("-Ln")
    took = time.monotonic() - asked
    check(took < 2 * PATIENCE, f"rvsadm -Ln took {took:.1f} s under flood")
    adverts.stop()
    report = json.loads(heard.read_text())
    check(report["count"] >= 0.8 * SECONDS / 0.1, f"adverts were lost: {report}")
    # What this machine's own scheduler adds is in it, hence the patience.
    check(report["latest"] < 0.1 * PATIENCE, f"an advert was {report['latest']} s late: {report}")

    # Without the service the flood is the host's: nothing of it is kept.
    lab.adm("sysctl expire_nodest_conn=1")
    lab.adm(f"-D -t {at(vip, 80)}")
    wait_for("the connections to go", lambda: sum(w["connections"] for w in lab.status()["workers"]) == 0, 20)
    # Far more packets came than the pool has buffers, 16,383: it would be empty had one in ten been kept.
    ports = lab.status()["ports"]
    seen, lost = (sum(port["counters"][name] for port in ports) for name in ("rx", "no-mbuf"))
    check(seen > 10 * 16383 and lost == 0, f"{seen} packets received, {lost} lost for want of a buffer")
