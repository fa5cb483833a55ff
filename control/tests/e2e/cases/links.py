"""What carries a port: jumbo frames, bonds of several devices, links that go down."""
from lab import BACK, PREFIX, at, check, config_text, network, payload_sum, payloads, port, wait_for

BOND = 'bond = { mode = "active-backup", members = ["b0", "b1"], primary = "b0" }'


def link(lab, name):
    return next(view["link"] for view in lab.status()["ports"] if view["name"] == name)


def announced(lab, space, device):
    """A tcpdump that ends with the first gratuitous ARP and the first unsolicited advertisement for the balancer's address."""
    ends = []
    arp = f"arp and src host {BACK[0]} and dst host {BACK[0]}"
    advertisement = f"icmp6 and ip6[40] = 136 and src host {BACK[1]} and dst host ff02::1"
    for pattern in (arp, advertisement):
        program = space.spawn(["tcpdump", "-Z", "root", "-n", "-l", "-i", device, "-c", "1", pattern], "tcpdump")
        wait_for("tcpdump", lambda: "listening on" in program.output() or lab._died(program))
        ends.append(program)
    return ends


@network(servers=2)
def test_failover_of_a_bond(lab):
    """The cable of the sending member is cut: requests go on by the other, which is announced; both cut: the twin has no carrier."""
    lab.cable(lab.lb, "b1", "back")
    lab.start(ports=port("f0", 'af_packet = "f0"') + port("b0", BOND))
    vip = lab.service("nat")[0]
    lab.expect_all_servers(vip, 4)
    programs = announced(lab, lab.servers[0], "s0")
    lab.switch.ip("link set lb.b0 down")
    wait_for("the announcements", lambda: all("1 packet captured" in program.output() for program in programs))
    wait_for("an answer by the other member", lambda: lab.client.curl(f"http://{at(vip, 80)}/", seconds=2))
    lab.expect_all_servers(vip, 4)
    lab.download(vip, "1m")
    check(link(lab, "b0"), "the bond has a link while one member has")
    lab.switch.ip("link set lb.b1 down")
    wait_for("the link to go down", lambda: not link(lab, "b0"))
    wait_for("the twin's carrier to go down", lambda: "NO-CARRIER" in lab.lb.ip("link show tb0"))
    lab.switch.ip("link set lb.b0 up")
    wait_for("the link to come up", lambda: link(lab, "b0"))
    wait_for("an answer by the first member", lambda: lab.client.curl(f"http://{at(vip, 80)}/", seconds=2))
    lab.switch.ip("link set lb.b1 up")
    lab.download(vip, "1m")


@network(servers=1)
def test_link_of_an_af_packet_port(lab):
    """A cut cable of an af_packet port shows as its link and its twin's carrier, though the driver knows no link."""
    lab.start()
    vip = lab.service("nat", families=(4,))[0]
    lab.expect_all_servers(vip, 2)
    check(link(lab, "b0"), "the link is down although the cable is in")
    lab.switch.ip("link set lb.b0 down")
    wait_for("the link to go down", lambda: not link(lab, "b0"))
    wait_for("the twin's carrier to go down", lambda: "NO-CARRIER" in lab.lb.ip("link show tb0"))
    lab.switch.ip("link set lb.b0 up")
    wait_for("an answer", lambda: lab.client.curl(f"http://{vip}/", seconds=2))


@network(servers=1)
def test_jumbo_frames(lab):
    """MTU 9000 from end to end: downloads and pings in frames of that size, through NAT and direct routing."""
    for space, device in [(lab.client, "c0"), (lab.switch, "client.c0"), (lab.switch, "front"), (lab.switch, "back"), (lab.switch, "lb.f0"), (lab.switch, "lb.b0")]:
        space.ip(f"link set {device} mtu 9000")
    for server in lab.servers:
        for device in ("s0", "d0"):
            server.ip(f"link set {device} mtu 9000")
            lab.switch.ip(f"link set {server.short}.{device} mtu 9000")
    jumbo = 'mtu = 9000\nrx_descriptors = 256\ntx_descriptors = 256\n'
    ports = port("f0", 'af_packet = "f0"') + jumbo + port("b0", 'af_packet = "b0"') + jumbo
    lab.config.write_text(config_text(lab.socket, PREFIX + "dpdk", ports).replace('memory = "no-huge"', 'memory = "no-huge"\nmemory_mb = 512'))
    lab.start()
    check([view["mtu"] for view in lab.status()["ports"]] == [9000, 9000], "the ports' MTU")
    for mode in ("nat", "dr"):
        for vip in lab.service(mode):
            lab.expect_all_servers(vip, 2)
            lab.download(vip, "10m")
    # Frames of 9000 bytes: far fewer packets than of 1500.
    def row():
        return lab.stats()[("TCP", at("10.1.0.100", 80))]
    wait_for("the statistics to show the download", lambda: row()[2] > 1000)
    row = row()
    check(row[4] / row[2] > 3000, f"{row[4]} bytes in {row[2]} packets from the server")
    lab.client.run("ping -n -c 2 -W 2 -M do -s 8972 10.1.0.1")
    check("mtu 9000" in lab.lb.ip("link show tf0"), "the twin's MTU")


@network(servers=1)
def test_peers_that_leave_work_to_their_hardware(lab):
    """TSO and checksum offload on in client and server, as on any host: big transfers both ways arrive whole."""
    lab.client.run("ethtool -K c0 tx on tso on gso on")
    for device in ("s0", "d0"):
        lab.servers[0].run(f"ethtool -K {device} tx on tso on gso on")
    fixup = "rx_gso_fixup = true\n"
    lab.start(ports=port("f0", 'af_packet = "f0"') + fixup + port("b0", 'af_packet = "b0"') + fixup)
    offloads = [view["offloads"] for view in lab.status()["ports"]]
    check(offloads == [["csum-fixup", "gso-fixup"]] * 2, f"in use: {offloads}")
    for vip in lab.service("nat"):
        lab.expect_all_servers(vip, 2)
        lab.download(vip, "10m")
    # The other way: an upload to a server.
    lab.peer(lab.servers[0], "digest.py", 2222, "server")
    for vip in lab.service("nat", port=2222):
        answer = lab.client.run(["/usr/bin/python3", lab.peers / "upload.py", vip, 2222, payloads() / "10m"], 60).stdout.split()
        check(answer == ["server", str(10 << 20), payload_sum("10m")], f"{vip}: {answer}")
    check(lab.drops("truncated") == 0 and lab.drops("too-big") == 0, "packets were too long for the port")
