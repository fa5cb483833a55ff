"""The kernel twin: what is not for a service goes to the host's own stack and comes back."""
import json
import signal

from lab import BACK, CLIENT, FRONT, VIPS, at, check, family_of, needs_guest_kernel, network, payload_sum, payloads, wait_for


def pings(space, address, count=5, options=()):
    result = space.run(["ping", "-n", "-q", "-c", count, "-i", "0.05", "-W", "2", *options, address], 30, fail=False)
    return result.stdout


@network(servers=1)
def test_ping_both_ways(lab):
    """ARP, ND and echo: the client reaches the balancer's addresses, the balancer reaches client and server."""
    lab.start()
    for address in (*FRONT, VIPS["nat"][0], VIPS["nat"][1]):
        out = pings(lab.client, address)
        check(" 0% packet loss" in out and "duplicates" not in out, f"client to {address}: {out}")
    for address in (*CLIENT, lab.servers[0].addr, lab.servers[0].addr6):
        out = pings(lab.lb, address)
        check(" 0% packet loss" in out and "duplicates" not in out, f"balancer to {address}: {out}")
    for address in FRONT:
        entry = lab.client.ip(f"neighbour show {address}")
        mac = lab.lb.run("cat /sys/class/net/tf0/address").stdout.strip()
        check(mac in entry, f"the client's neighbour entry of {address} is not the twin's MAC {mac}: {entry}")


@network(servers=1)
def test_tcp_to_the_balancer_itself(lab):
    """A session with the balancer's own address, as SSH would be: 1 MB each way through the twin."""
    lab.start()
    lab.peer(lab.lb, "digest.py", 2222, "balancer")
    for address in FRONT:
        answer = lab.client.run(["/usr/bin/python3", lab.peers / "upload.py", address, 2222, payloads() / "1m"], 40).stdout.split()
        check(answer == ["balancer", str(1 << 20), payload_sum("1m")], f"{address}: {answer}")
    lab.peer(lab.client, "digest.py", 2222, "client")
    answer = lab.lb.run(["/usr/bin/python3", lab.peers / "upload.py", CLIENT[0], 2222, payloads() / "1m"], 40).stdout.split()
    check(answer == ["client", str(1 << 20), payload_sum("1m")], f"from the balancer: {answer}")


@network(servers=1)
def test_multicast_reaches_the_twin(lab):
    """VRRP adverts (224.0.0.18, protocol 112) sent on the wire arrive at a program on the twin."""
    lab.start()
    report = lab.dir / "adverts.json"
    lab.peer(lab.lb, "adverts.py", "receive", "tf0", report)
    lab.peer(lab.client, "adverts.py", "send", "c0")
    wait_for("ten adverts", lambda: report.exists() and json.loads(report.read_text())["count"] >= 10)


@network(servers=1)
def test_port_without_service(lab):
    """A port of a VIP that has no service: the host's own stack refuses the connection."""
    lab.start()
    for vip in lab.service("nat"):
        result = lab.client.run(["curl", "-gsS", "-m", "10", f"http://{at(vip, 81)}/"], fail=False)
        check(result.returncode == 7, f"{vip}:81 should be refused at once: {result.returncode} {result.stderr}")


@network(servers=1)
def test_service_without_server(lab):
    """No destination: the client hears "port unreachable" at once, it does not wait."""
    lab.start()
    for vip in VIPS["nat"]:
        lab.adm(f"-A -t {at(vip, 80)} -s rr")
        result = lab.client.run(["curl", "-gsS", "-m", "10", f"http://{at(vip, 80)}/"], fail=False)
        check(result.returncode == 7, f"{vip}: curl says {result.returncode} {result.stderr}")


@network(servers=1)
def test_addresses_survive_a_crash(lab):
    """kill -9: the twin keeps its addresses and routes, its carrier is off; the next rvsd goes on."""
    lab.start()
    vips = lab.service("nat")
    saved = lab.adm("-Sn")
    lab.lb.ip("route add 10.55.0.0/24 via 10.1.0.2")
    lab.expect_all_servers(vips[0], 2)
    lab.rvsd.signal(signal.SIGKILL)
    lab.rvsd.wait()
    addresses = lab.lb.ip("address show tf0")
    check(VIPS["nat"][0] in addresses and VIPS["nat"][1] in addresses, f"addresses are gone: {addresses}")
    wait_for("the twin's carrier to go down", lambda: "NO-CARRIER" in lab.lb.ip("link show tf0"))
    lab.start(addresses=False)
    check(FRONT[0] in lab.lb.ip("address show tf0") and "10.55.0.0/24" in lab.lb.ip("route show"), "addresses or routes lost by the restart")
    lab.adm("-R", stdin=saved)
    for vip in vips:
        wait_for(f"an answer from {vip}", lambda: lab.client.curl(f"http://{at(vip, 80)}/", seconds=2) == "server 1")


@network(servers=1)
def test_sigterm_ends_cleanly(lab):
    """SIGTERM: status 0 within five seconds, no socket left, the twin stays without carrier."""
    lab.start()
    vip = lab.service("nat", families=(4,))[0]
    lab.expect_all_servers(vip, 2)
    lab.rvsd.signal(signal.SIGTERM)
    check(lab.rvsd.wait(5) == 0, f"exit status {lab.rvsd.process.returncode}")
    check(not lab.socket.exists(), "the admin socket was left behind")
    check("NO-CARRIER" in lab.lb.ip("link show tf0"), "the twin has a carrier but nobody serves it")
    lab.start(addresses=False)
    check(FRONT[0] in lab.lb.ip("address show tf0"), "addresses did not survive the restart")


@network(servers=1)
def test_nothing_is_forwarded_twice(lab):
    """Frames for another MAC on a promiscuous port are dropped and counted, not forwarded."""
    lab.start()
    vip = lab.service("dr", families=(4,))[0]
    lab.expect_all_servers(vip, 2)
    lab.client.ip(f"neighbour replace {vip} lladdr 02:00:00:00:99:99 dev c0 nud permanent")
    result = lab.client.run(["curl", "-gsS", "-m", "1", f"http://{vip}/"], fail=False)
    check(result.returncode == 28, f"a frame for another MAC was answered: {result}")
    wait_for("the drop to be counted", lambda: lab.drops("not-our-mac") > 0)
    lab.client.ip(f"neighbour delete {vip} dev c0")
    lab.expect_all_servers(vip, 1)
    lab.expect_conns(3, vip)                # the frame that was not ours made none


def test_transit_delays_no_advert(lab):
    """A server downloads through the balancer as its gateway; adverts keep their pace meanwhile."""
    lab.lb.sh("sysctl -qw net.ipv4.ip_forward=1")
    lab.start()
    lab.nginx(lab.client, "client")
    heard, told = lab.dir / "heard.json", lab.dir / "told.json"
    lab.peer(lab.lb, "adverts.py", "receive", "tf0", heard)
    lab.peer(lab.client, "adverts.py", "send", "c0")
    lab.peer(lab.client, "adverts.py", "receive", "c0", told)
    lab.peer(lab.lb, "adverts.py", "send", "tf0")
    # 1 GB is ten times 100 MB; what is not done after 20 s is not needed to fill the queues.
    loop = "for i in 1 2 3 4 5 6 7 8 9 10; do curl -sSf http://10.1.0.2/files/100m -o /dev/null; done"
    download = lab.servers[0].spawn(["timeout", "20", "sh", "-c", loop], "download")
    wait_for("the download to end", lambda: not download.running(), 60)
    for name, file in (("heard by the balancer", heard), ("heard by the client", told)):
        report = json.loads(file.read_text())
        check(report["count"] > 50, f"{name}: only {report['count']} adverts")
        check(report["longest_gap"] < 0.5, f"{name}: longest gap {report['longest_gap']} s of adverts sent each 0.1 s")
    # One interval is 0.1 s; VRRP gives up after three. The machine's own hiccups are inside the 0.5 s.


@needs_guest_kernel
@network(servers=1)
def test_vlan_on_the_twin(lab):
    """A service on a VLAN of the twin: requests and answers carry the tag. Needs 8021q."""
    lab.client.ip("link add link c0 name c0.7 type vlan id 7")
    lab.start()
    lab.client.sh("ip link set c0.7 up; ip address add 10.7.0.2/24 dev c0.7; ip address add fd07::2/64 dev c0.7 nodad")
    lab.lb.sh("ip link add link tf0 name tf0.7 type vlan id 7; ip link set tf0.7 up; "
              "ip address add 10.7.0.1/24 dev tf0.7; ip address add fd07::1/64 dev tf0.7 nodad; "
              "ip address add 10.7.0.100/32 dev tf0.7; ip address add fd07::100/128 dev tf0.7 nodad")
    server = lab.servers[0]
    for vip in ("10.7.0.100", "fd07::100"):
        lab.adm(f"-A -t {at(vip, 80)} -s rr")
        lab.adm(f"-a -t {at(vip, 80)} -r {at(server.addr6 if family_of(vip) == 6 else server.addr, 80)} -m")
        check(" 0% packet loss" in pings(lab.client, vip), f"no echo from {vip} on the VLAN")
        lab.expect_all_servers(vip, 3)
        lab.download(vip, "64k")


@network(servers=1)
def test_neighbours_are_warm(lab):
    """A server's neighbour entry is resolved before the first request, so that no first packet is lost."""
    lab.start()
    vips = lab.service("nat")
    for real in (lab.servers[0].addr, lab.servers[0].addr6):
        wait_for(f"the neighbour entry of {real}", lambda: "lladdr" in lab.lb.ip(f"neighbour show {real}"))
    for vip in vips:
        lab.client.curl(f"http://{at(vip, 80)}/", "-w", "\n%{time_connect}")
    check(lab.drops("no-neighbour") == 0, f"{lab.drops('no-neighbour')} packets were lost for want of a neighbour")
    check(BACK[0] in lab.lb.ip("address show tb0"), "twin tb0 lost its address")
