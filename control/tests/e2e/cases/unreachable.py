"""No way to a real server: the client is told, as a router tells it, and does not wait for nothing."""
from lab import BACK, VIPS, at, check, family_of, network, wait_for


def attempt(lab, vip, port, seconds=15):
    """curl's exit status and its words: 7 is refused by an ICMP error or RST, 28 is time-out."""
    result = lab.client.run(["curl", "-gsS", "--noproxy", "*", "-m", seconds, f"http://{at(vip, port)}/"], seconds + 10, fail=False)
    return result.returncode, result.stderr


@network(servers=1)
def test_silent_server(lab):
    """Nobody answers ARP or ND for the server's address: host unreachable for those who wait, and at once for the next."""
    lab.start()
    for vip, real in zip(VIPS["nat"], ("10.2.0.99", "fd02::99")):
        lab.adm(f"-A -t {at(vip, 80)} -s rr")
        lab.adm(f"-a -t {at(vip, 80)} -r {at(real, 80)} -m")
        for _ in range(2):
            status, words = attempt(lab, vip, 80)
            check(status == 7, f"{vip}: curl says {status} {words}")
    # A connection of a server that goes away hears of it, too.
    lab.adm("-C")
    vip = lab.service("dr", families=(4,))[0]
    lab.expect_all_servers(vip, 2)
    lab.servers[0].ip("link set s0 down")
    lab.lb.ip("neighbour flush dev tb0")
    wait_for("the server to be given up", lambda: attempt(lab, vip, 80)[0] == 7, 30)
    lab.servers[0].ip("link set s0 up")
    wait_for("it to come back", lambda: attempt(lab, vip, 80)[0] == 0, 20)


@network(servers=1)
def test_route_types(lab):
    """Routes of the kernel that lead nowhere: unreachable and prohibit are answered, blackhole is silent."""
    lab.start()
    for vip, nets in zip(VIPS["nat"], (("10.9.0.0/24", "10.9.1.0/24", "10.9.2.0/24"), ("fd09:0::/64", "fd09:1::/64", "fd09:2::/64"))):
        for port, (kind, net) in enumerate(zip(("unreachable", "prohibit", "blackhole"), nets), 81):
            lab.lb.ip(f"-{family_of(vip)} route add {kind} {net}")
            real = net.split("/")[0].replace(".0/", ".5/")
            real = real + "5" if ":" in real else real[:-1] + "5"
            lab.adm(f"-A -t {at(vip, port)} -s rr")
            lab.adm(f"-a -t {at(vip, port)} -r {at(real, port)} -m")
        for port in (81, 82):
            status, words = attempt(lab, vip, port)
            check(status == 7, f"{at(vip, port)}: curl says {status} {words}")
        before = lab.drops("blackhole")
        status, words = attempt(lab, vip, 83, 2)
        check(status == 28, f"{at(vip, 83)}: curl says {status} {words}")
        wait_for("the drop to be counted", lambda: lab.drops("blackhole") > before)
    # The balancer's own gateway goes on as before.
    check(lab.lb.run(f"ping -n -c 1 -W 2 {lab.servers[0].addr}", fail=False).returncode == 0, f"{BACK[0]} cannot reach its server")
