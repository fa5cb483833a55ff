"""The three ways to a server, over both families, with real programs."""
from lab import VIPS, at, check, lasts, network, payload_sum, payloads, wait_for


def answers_from_all(lab, mode):
    lab.start()
    for vip in lab.service(mode):
        lab.expect_all_servers(vip, requests=6)
        lab.expect_conns(6, vip)
        for server in lab.servers:
            lab.expect_conns(3, vip, server=server)


def test_nat(lab):
    """NAT: both servers answer in turn, and see the client's own address."""
    answers_from_all(lab, "nat")
    seen = {line.split()[0] for server in lab.servers for line in (lab.dir / server.short / "access.log").read_text().splitlines()}
    check({"10.1.0.2", "fd01::2"} <= seen, f"servers saw requests from {seen}")


def test_dr(lab):
    """Direct routing: only requests cross the balancer, answers come straight from the server."""
    answers_from_all(lab, "dr")
    for vip in VIPS["dr"]:
        row = lab.stats()[("TCP", at(vip, 80))]
        check(row[1] > 0 and row[2] == 0, f"{vip}: packets in, out = {row[1:3]}; none may go out through the balancer")


def test_tun(lab):
    """IP-in-IP: 4-in-4 and 6-in-6, decapsulated by the server."""
    answers_from_all(lab, "tun")


def test_tun_crosses_families(lab):
    """IP-in-IP to servers of the other family: 4-in-6 and 6-in-4."""
    lab.start()
    lab.decapsulate(lab.servers)
    for vip in VIPS["tun"]:
        lab.adm(f"-A -t {at(vip, 80)} -s rr")
        for server in lab.servers:
            lab.adm(f"-a -t {at(vip, 80)} -r {at(server.addr if ':' in vip else server.addr6, 80)} -i")
        lab.expect_all_servers(vip)


def test_nat_changes_the_port(lab):
    """NAT to another port of the server than the service's."""
    lab.start()
    for vip in VIPS["nat"]:
        lab.adm(f"-A -t {at(vip, 8080)} -s rr")
        for server in lab.servers:
            lab.adm(f"-a -t {at(vip, 8080)} -r {at(server.addr6 if ':' in vip else server.addr, 80)} -m")
        lab.expect_all_servers(vip, port=8080)


def udp(lab, mode):
    for server in lab.servers:
        lab.peer(server, "udp_echo.py", 7007, f"server {server.number}")
    lab.start()
    for vip in lab.service(mode, port=7007, protocol="udp"):
        for size in (16, 1400):
            got = lab.client.run(["/usr/bin/python3", lab.peers / "udp_ask.py", vip, 7007, 4, size], 30).stdout.splitlines()
            check(sorted(set(got)) == ["server 1", "server 2"], f"{vip}, {size} bytes: {got}")
        lab.expect_conns(8, vip, 7007, protocol="UDP")


def test_udp_nat(lab):
    """A UDP echo in NAT mode, small and large datagrams."""
    udp(lab, "nat")


def test_udp_dr(lab):
    """A UDP echo in DR mode."""
    udp(lab, "dr")


def test_udp_tun(lab):
    """A UDP echo in TUN mode."""
    udp(lab, "tun")


@lasts(600)
def test_downloads(lab):
    """64 KiB and 100 MB arrive intact in every mode and family."""
    lab.start()
    for mode in VIPS:
        for vip in lab.service(mode):
            lab.download(vip, "64k")
            lab.download(vip, "100m", 90)


def test_upload(lab):
    """10 MB from the client arrive intact: full-size packets towards the server in every mode."""
    for server in lab.servers:
        lab.peer(server, "digest.py", 9000, f"server-{server.number}")
    lab.start()
    for mode in VIPS:
        for vip in lab.service(mode, port=9000):
            answer = lab.client.run(["/usr/bin/python3", lab.peers / "upload.py", vip, 9000, payloads() / "10m"], 60).stdout.split()
            check(answer[1:] == [str(10 << 20), payload_sum("10m")], f"{mode} {vip}: server received {answer}")


def test_tun_path_mtu(lab):
    """A full-size packet does not fit with an outer header: the client is told 1480 (or 1460), and the transfer works."""
    for server in lab.servers:
        lab.peer(server, "digest.py", 9000, f"server-{server.number}")
    lab.start()
    for vip, overhead in zip(lab.service("tun", port=9000), (20, 40)):
        answer = lab.client.run(["/usr/bin/python3", lab.peers / "upload.py", vip, 9000, payloads() / "1m"], 60).stdout.split()
        check(answer[1:] == [str(1 << 20), payload_sum("1m")], f"{vip}: server received {answer}")
        route = lab.client.ip(f"route get {vip}")
        check(f"mtu {1500 - overhead}" in route, f"the client's path MTU to {vip} should be {1500 - overhead}: {route}")


@network(servers=1)
def test_client_behind_a_router(lab):
    """Replies go to any client through the route table: here one behind another router, over both families."""
    far = lab.space("far")
    lab.client.ip("link add r0 type veth peer name far0 netns " + far.name)
    lab.client.run("ethtool -K r0 tx off")
    far.run("ethtool -K far0 tx off")
    lab.client.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; ip link set r0 up; "
                  "ip address add 10.9.0.1/24 dev r0; ip address add fd09::1/64 dev r0 nodad")
    far.sh("ip link set far0 up; ip address add 10.9.0.2/24 dev far0; ip address add fd09::2/64 dev far0 nodad; "
           "ip route add default via 10.9.0.1; ip -6 route add default via fd09::1")
    lab.start()
    lab.lb.ip("route add 10.9.0.0/24 via 10.1.0.2")
    lab.lb.ip("-6 route add fd09::/64 via fd01::2")
    for vip in lab.service("nat"):
        wait_for(f"an answer from {vip}", lambda: far.curl(f"http://{at(vip, 80)}/", seconds=2) == "server 1")
