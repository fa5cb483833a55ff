"""What VRRP does to the kernel's devices: virtual MACs, routes that come and go, interfaces whose changes count late."""
import time

from cases.vrrp_pair import prepared, service
from lab import check, wait_for
from pair import LINK_LOCAL, VIP, VIP6, instance, skew

VIRTUAL_MAC = "00:00:5e:00:01:33"
VIRTUAL_MAC6 = "00:00:5e:00:02:33"


def macvlans(node):
    """Devices for virtual MACs of a node, with their addresses."""
    rows = [line.split() for line in node.space.ip("-br address show").splitlines()]
    return {row[0].split("@")[0]: row[2:] for row in rows if row[0].startswith("vrrp")}


@prepared(servers=0)
def test_virtual_mac(lab, a, b):
    """The addresses live at the virtual MAC: adverts, announcements and answers bear it, and it moves with the role."""
    for node, priority in ((a, 150), (b, 100)):
        node.rvsd(instance(priority, extra="vmac = true")
                  + instance(priority, name="w", extra="vmac = true", vips=(f"{LINK_LOCAL}/64", f"{VIP6}/64")))
    for name in "vw":
        a.expect("MASTER", name)
        b.expect("BACKUP", name)
    held = macvlans(a)
    check(any(f"{VIP}/24" in rows for rows in held.values()), f"{VIP} is on no macvlan: {held}")
    check(not any(row.startswith(VIP) for rows in macvlans(b).values() for row in rows), "the backup holds the address")
    wait_for("announcements", lambda: lab.seen(kind="arp", port=a.wire, addr=VIP) and lab.seen(kind="na", port=a.wire, addr=VIP6))
    for family, mac, rows in ((4, VIRTUAL_MAC, lab.adverts(a)), (6, VIRTUAL_MAC6, lab.adverts(a)),
                              (4, VIRTUAL_MAC, lab.seen(kind="arp", port=a.wire, addr=VIP)),
                              (6, VIRTUAL_MAC6, lab.seen(kind="na", port=a.wire, addr=VIP6))):
        rows = [row for row in rows if (":" in (row.get("src") or row["addr"])) == (family == 6)]
        other = [row for row in rows if row["mac"] != mac]
        check(rows and not other, f"IPv{family} is said from another MAC than {mac}: {other[:2]}")

    def answers(vip):
        return lab.client.run(["ping", "-n", "-c", "1", "-W", "1", vip], fail=False).returncode == 0
    for vip, mac in ((VIP, VIRTUAL_MAC), (VIP6, VIRTUAL_MAC6)):
        wait_for(f"{vip} to answer", lambda: answers(vip))
        entry = lab.client.ip(f"neighbour show {vip}")
        check(mac in entry, f"{vip} is elsewhere: {entry}")
    stopped = time.monotonic()
    a.stop()
    lab.takeover(a, b, stopped, skew(100))
    # The hosts keep what they know: the MAC is the same, and the switch has learned where it is.
    for vip, mac in ((VIP, VIRTUAL_MAC), (VIP6, VIRTUAL_MAC6)):
        check(mac in lab.client.ip(f"neighbour show {vip}"), "the client forgot the MAC")
        wait_for(f"{vip} to answer at the other node", lambda: answers(vip))
    check(not macvlans(a), f"a stopped rvsd leaves {macvlans(a)}")


@prepared(servers=0)
def test_routes(lab, a, b):
    """Virtual routes are there where the master is, and nowhere else; a reload brings and takes them. So is the address,
    with label and scope."""
    routes = ('route = [{ to = "203.0.113.0/24", via = "10.1.0.2" }, '
              '{ to = "198.51.100.0/24", dev = "tf0", metric = 7, table = 100 }]')
    for node, priority in ((a, 150), (b, 100)):
        # An address of another scope cannot share a network with the interface's own.
        text = instance(priority, extra=routes, vips=(f"{VIP}/32",))
        node.rvsd(text.replace(f'"{VIP}/32"', f'"{VIP}/32", label = "tf0:web", scope = "link"'))
    a.expect("MASTER")
    b.expect("BACKUP")

    def rows():
        return [row for row in a.space.ip("-o address show tf0").splitlines() if f" {VIP}/32 " in row]
    row = wait_for("the address", rows)
    check(len(row) == 1 and "scope link" in row[0] and " tf0:web" in row[0], row)

    def has(node):
        return ("203.0.113.0/24 via 10.1.0.2 dev tf0 proto keepalived" in node.space.ip("route show"),
                "metric 7" in node.space.run("ip route show table 100", fail=False).stdout)
    wait_for("the routes of the master", lambda: has(a) == (True, True))
    check(has(b) == (False, False), f"the backup has routes: {b.space.ip('route show')}")
    a.config.write_text(a.config.read_text().replace("203.0.113.0/24", "192.0.2.0/24"))
    a.adm("reload")
    wait_for("the route of the new file", lambda: "192.0.2.0/24 via 10.1.0.2" in a.space.ip("route show"))
    check("203.0.113.0/24" not in a.space.ip("route show"), "the route of the old file is still there")
    check(a.instance()["counters"]["became-master"] == 1, "dethroned by a reload")
    a.stop()
    b.expect("MASTER")
    wait_for("the routes of the new master", lambda: has(b) == (True, True))
    check("192.0.2.0/24" not in a.space.ip("route show") and has(a) == (False, False), "a stopped rvsd leaves its routes")


@prepared(servers=0)
def test_rules(lab, a, b):
    """Routing rules are there where the master is; a reload exchanges them, and what a crash left is not added twice."""
    rules = ('rule = [{ priority = 100, from = "10.9.0.0/16", table = 100 }, '
             '{ priority = 101, iif = "tf0", fwmark = 16, fwmask = 240, table = 101, family = "ipv6" }]')
    for node, priority in ((a, 150), (b, 100)):
        node.rvsd(instance(priority, extra=rules))
    a.expect("MASTER")
    b.expect("BACKUP")

    def has(node):
        return node.space.ip("rule show"), node.space.ip("-6 rule show")
    first, second = "100:\tfrom 10.9.0.0/16 lookup 100 proto keepalived", "101:\tfrom all fwmark 0x10/0xf0 iif tf0 lookup 101 proto keepalived"
    wait_for("the rules of the master", lambda: first in has(a)[0] and second in has(a)[1])
    check("keepalived" not in "".join(has(b)), f"the backup has rules: {has(b)}")
    a.config.write_text(a.config.read_text().replace("10.9.0.0/16", "10.8.0.0/16"))
    a.adm("reload")
    wait_for("the rule of the new file", lambda: "from 10.8.0.0/16 lookup 100" in has(a)[0])
    check("10.9.0.0" not in has(a)[0], "the rule of the old file is still there")
    a.crash()
    b.expect("MASTER")
    wait_for("the rules of the new master", lambda: first in has(b)[0] and second in has(b)[1])
    a.start()
    a.expect("MASTER")
    wait_for("one rule of each", lambda: "".join(has(a)).count("keepalived") == 2)
    a.stop()
    check("keepalived" not in "".join(has(a)), "a stopped rvsd leaves its rules")


@prepared(servers=1)
def test_addresses_for_services_alone(lab, a, b):
    """accept = false: what no service takes is dropped, over IPv4 and IPv6; services, ARP and neighbour discovery work."""
    one = lab.servers[0]
    one.ip(f"address add {VIP}/32 dev lo")
    vips = (f"{LINK_LOCAL}/64", f"{VIP6}/64")
    a.rvsd(instance(150, extra="accept = false") + instance(150, name="w", vips=vips, extra="accept = false")
           + service("dr", servers=lab.servers))
    for name in "vw":
        a.expect("MASTER", name)
    wait_for("the service to answer", lambda: lab.client.curl(f"http://{VIP}/", seconds=2) == "server 1")
    mac = a.space.run("cat /sys/class/net/tf0/address").stdout.strip()
    for vip in (VIP, VIP6):
        lab.client.ip("neighbour flush all")
        asked = lab.client.run(["ping", "-n", "-c", "1", "-W", "1", vip], fail=False)
        check(asked.returncode == 1, f"{vip} answered: {asked.stdout}")
        check(mac in lab.client.ip(f"neighbour show {vip}"), f"{vip} was not found: {lab.client.ip('neighbour show')}")
    check(lab.client.run(["ping", "-n", "-c", "1", "-W", "1", a.addr], fail=False).returncode == 0, "the host's own address is closed")
    check('"not-accepted"' in a.adm("--json status"), "no drop was counted as not-accepted")
    a.config.write_text(a.config.read_text().replace("accept = false", "accept = true"))
    a.adm("reload")
    for vip in (VIP, VIP6):
        wait_for(f"{vip} to answer", lambda: lab.client.run(["ping", "-n", "-c", "1", "-W", "1", vip], fail=False).returncode == 0)


@prepared(servers=0)
def test_pace_of_announcements(lab, a, b):
    """garp_interval and gna_interval: never closer than that on the wire, and none after the addresses are given up."""
    vips = (f"{LINK_LOCAL}/64", f"{VIP6}/64")
    table = '[vrrp]\ngarp_interval = "100ms"\n[[vrrp.interface]]\nname = "tf0"\ngna_interval = "50ms"\n'
    many = tuple(f"10.1.0.{last}/24" for last in range(100, 110))
    a.rvsd(table + instance(150, vips=many) + instance(150, name="w", vrid=52, vips=vips))
    for name in "vw":
        a.expect("MASTER", name)

    def times(kind, addrs):
        rows = [row for addr in addrs for row in lab.seen(kind=kind, port=a.wire, addr=addr)]
        return sorted(row["t"] for row in rows)
    addrs = [vip.split("/")[0] for vip in many]
    wait_for("a good part of the burst", lambda: len(times("arp", addrs)) >= 20 and len(times("na", (LINK_LOCAL, VIP6))) >= 10)
    since = time.monotonic()
    a.stop()
    for kind, of, least in (("arp", addrs, 0.1), ("na", (LINK_LOCAL, VIP6), 0.05)):
        seen = times(kind, of)
        # Over all of them: one that was held up on this machine may be closer to the next.
        check(seen[-1] - seen[0] > (len(seen) - 1) * least * 0.9, f"{len(seen)} of {kind} within {seen[-1] - seen[0]:.3f} s")
        check(seen[-1] < since + 0.3, f"{kind} after the stop")


@prepared(servers=0)
def test_interface_delays(lab, a, b):
    """A link that is down for less than down_delay changes nothing; one that lasts is a fault until up_delay is over."""
    delays = '[[vrrp.interface]]\nname = "tf0"\ndown_delay = "1s"\nup_delay = "1s"\n'
    a.rvsd(instance(150, "1s", rest=delays))
    a.expect("MASTER")

    def plug(state):
        lab.switch.ip(f"link set {a.wire} {state}")
        return time.monotonic()
    plug("down")
    wait_for("the twin to lose its carrier", lambda: "NO-CARRIER" in a.space.ip("link show tf0"))
    plug("up")
    wait_for("the carrier", lambda: "LOWER_UP" in a.space.ip("link show tf0"))
    time.sleep(1.2)
    seen = a.instance()
    check((seen["state"], seen["counters"]["became-master"]) == ("MASTER", 1), f"a short loss counted: {seen}")
    since = plug("down")
    a.expect("FAULT")
    check(time.monotonic() - since > 0.9, "the loss counted before its delay")
    since = plug("up")
    wait_for("the end of the fault", lambda: a.instance()["state"] != "FAULT")
    check(time.monotonic() - since > 0.9, "the link counted as up before its delay")
    a.expect("MASTER")
