"""The classic pair: two rvsd, one virtual address, two web servers, a client that asks 20 times a second."""
import json
import os
import signal
import time

from cases.crash import state
from lab import at, check, in_lab, lasts, paced, wait_for
from pair import VIP, Pair, down, instance, skew

RATE, TIMEOUT = 20, 0.8
GATEWAY = "10.2.0.1"


def steady(lab, vip=VIP):
    """Asks `vip` at a steady rate from now on; the rows so far are `rows(load)`."""
    file = lab.dir / f"steady.{len(lab.programs)}.json"
    load = lab.peer(lab.client, "paced.py", file, RATE, TIMEOUT, f"http://{at(vip, 80)}/")
    load.file = file
    return load


def slow_download(lab, rate, seconds):
    """A download from the virtual address at this rate, which has begun; it may take so many seconds."""
    file = lab.dir / "slow"
    argv = ["curl", "-sSf", "-m", str(seconds), "-o", file, paced(VIP, rate)]
    download = lab.client.spawn(argv, "curl")
    wait_for("the download to begin", lambda: file.exists() and file.stat().st_size)
    return download


def rows(load, since=0):
    found = [json.loads(line) for line in load.file.read_text().splitlines() if line.endswith("}")]
    return [row for row in found if row["t"] >= since]


def outage(load, since):
    """How long requests failed after `since`: from the first that did to the last, and how many."""
    failed = sorted(row["t"] for row in rows(load, since) if not row["ok"])
    return (failed[-1] - failed[0] + 1 / RATE if failed else 0.0), len(failed)


def recovers(lab, load, since, seconds=10):
    """Waits until ten requests in a row were answered, the first of them begun after the last that failed."""
    def calm():
        last = sorted(rows(load, since), key=lambda row: row["t"])[-10:]
        return len(last) == 10 and all(row["ok"] for row in last) and last[0]["t"] > since + 0.3
    wait_for("ten answers in a row", calm, seconds)


def children(pid):
    """Processes that another one started."""
    with open(f"/proc/{pid}/task/{pid}/children") as listed:
        return [int(word) for word in listed.read().split()]


def service(method, vip=VIP, servers=(), kind="tcp"):
    text = (f'[[service]]\nprotocol = "tcp"\naddress = "{vip}"\nport = 80\nscheduler = "rr"\n'
            f'[[service.check]]\ntype = "{kind}"\ndelay_loop = "200ms"\ntimeout = "200ms"\nretry = 0\n')
    for server in servers:
        text += f'[[service.server]]\naddress = "{server.addr}"\nport = 80\nmethod = "{method}"\n'
    return text


def prepared(servers, back=False):
    """Decorator: a Pair with its dump on failure."""
    return in_lab(lambda: Pair(servers=servers, back=back))


def direct(lab, kind="tcp"):
    """Two rvsd in front of servers that answer clients themselves, with this kind of check."""
    a, b = lab.nodes
    for server in lab.servers:
        server.ip(f"address add {VIP}/32 dev lo")
    for node, priority in ((a, 100), (b, 99)):
        track = 'track = [{ kind = "workers" }]'
        node.rvsd(instance(priority, extra=track) + service("dr", servers=lab.servers, kind=kind))
    a.expect("MASTER")
    b.expect("BACKUP")
    wait_for("both servers", lambda: {lab.client.curl(f"http://{VIP}/", seconds=2) for _ in range(4)} == {"server 1", "server 2"})


def kept_state(lab, node):
    """The section [state] for a node: what outlives its rvsd."""
    return state(lab, lab.dir / f"{node.name}.state", lab.dir / f"{node.name}.table")


def lasting(lab):
    """Two rvsd with 1 s adverts, whose state outlives them, in front of servers that answer through them."""
    a, b = lab.nodes
    for node, priority in ((a, 100), (b, 99)):
        node.rvsd(instance(priority, "1s") + service("nat", servers=lab.servers), ports=("f0", "b0"), extra=kept_state(lab, node))
    for server in lab.servers:
        server.ip("route add default via 10.2.0.11")
    a.expect("MASTER")
    b.expect("BACKUP")


def fails(lab, node, load, what, fail):
    """Lets a web server fail: while the check has not seen it, its share of the requests fails, and none after."""
    since = time.monotonic()
    fail()
    wait_for("the check to fail", lambda: "down" in node.adm("health"))
    detected = time.monotonic() - since
    recovers(lab, load, since + detected)
    _, failed = outage(load, since)
    # Half of the requests were its share.
    check(failed <= (detected + TIMEOUT) * RATE / 2 + 2, f"{what}: {failed} requests failed, {detected:.2f} s to detect")
    print(f"      web server {what}: detected after {detected:.2f} s, {failed} requests failed")


@lasts(180)
@prepared(servers=2)
def test_direct_routing(lab, a, b):
    """DR: a web server stops and is unplugged, then the master crashes, freezes and stops; all come back."""
    direct(lab)
    load = steady(lab)
    wait_for("some answers", lambda: len(rows(load)) > 10)

    one = lab.servers[0]
    for what in ("stop", "unplug"):
        fails(lab, a, load, what, {"stop": lambda: one.nginx.signal(signal.SIGKILL),
                                   "unplug": lambda: lab.switch.ip(f"link set {one.short}.s0 down")}[what])
        if what == "stop":
            lab.nginx(one, "server 1")
        else:
            lab.switch.ip(f"link set {one.short}.s0 up")
        wait_for("the check to succeed", lambda: "down" not in a.adm("health"))

    for what in ("crash", "freeze", "stop"):
        since = time.monotonic()
        {"crash": a.crash, "freeze": lambda: a.program.signal(signal.SIGSTOP), "stop": a.stop}[what]()
        expected = skew(99) if what == "stop" else down(99)
        gap = lab.takeover(a, b, since, expected)
        recovers(lab, load, since + gap)
        took, failed = outage(load, since)
        check(failed <= (gap + 0.5) * RATE + 1, f"{what}: {failed} requests failed, {gap:.3f} s without a master")
        print(f"      master {what}: {gap:.3f} s without a master (formula {expected:.3f} s), {failed} requests failed")
        back = time.monotonic()
        if what == "freeze":
            a.program.signal(signal.SIGCONT)
        else:
            a.start()
        a.expect("MASTER")
        b.expect("BACKUP")
        recovers(lab, load, back)
        _, failed = outage(load, back)
        check(failed <= RATE / 2, f"{failed} requests failed when the master came back after the {what}")
    load.stop()


@prepared(servers=2)
def test_frozen_web_server(lab, a, b):
    """A web server that is frozen (SIGSTOP): its kernel still takes connections, so that a check has to ask for a page."""
    direct(lab, "http")
    load = steady(lab)
    wait_for("some answers", lambda: len(rows(load)) > 10)
    one = lab.servers[0]
    processes = [one.nginx.pid, *children(one.nginx.pid)]
    fails(lab, a, load, "freeze", lambda: [os.kill(pid, signal.SIGSTOP) for pid in processes])
    for pid in processes:
        os.kill(pid, signal.SIGCONT)
    wait_for("the check to succeed", lambda: "down" not in a.adm("health"))
    wait_for("answers of both", lambda: {row.get("by") for row in rows(load)[-20:] if row["ok"]} == {"server 1", "server 2"})
    load.stop()


@lasts(120)
@prepared(servers=2, back=True)
def test_masquerading(lab, a, b):
    """NAT: the servers' gateway floats with the virtual address, in a sync group."""
    for server in lab.servers:
        server.ip(f"route add default via {GATEWAY}")
    group = '[[vrrp.sync_group]]\nname = "g"\ninstances = ["v", "inside"]\n'
    for node, priority in ((a, 100), (b, 99)):
        inside = instance(priority, name="inside", vrid=52, vips=(f"{GATEWAY}/24",)).replace('"tf0"', '"tb0"')
        node.rvsd(instance(priority) + inside + group + service("nat", servers=lab.servers), ports=("f0", "b0"))
    for name in ("v", "inside"):
        a.expect("MASTER", name)
        b.expect("BACKUP", name)
    load = steady(lab)
    wait_for("answers of both", lambda: {row.get("by") for row in rows(load) if row["ok"]} == {"server 1", "server 2"})
    since = time.monotonic()
    # One side of the master is unplugged: it gives up the other, too.
    lab.switch.ip(f"link set {a.name}.b0 down")
    b.expect("MASTER", "v")
    b.expect("MASTER", "inside")
    a.expect("FAULT", "v")
    recovers(lab, load, since + 0.5)
    _, failed = outage(load, since)
    check(failed <= 2 * RATE, f"{failed} requests failed when the inside was unplugged")
    print(f"      inside unplugged: {failed} requests failed")
    lab.switch.ip(f"link set {a.name}.b0 up")
    a.expect("MASTER", "v", 20)
    a.expect("MASTER", "inside")
    since = time.monotonic()
    a.crash()
    b.expect("MASTER", "v")
    b.expect("MASTER", "inside")
    recovers(lab, load, since + 0.5)
    _, failed = outage(load, since)
    check(failed <= 2 * RATE, f"{failed} requests failed after the crash")
    print(f"      crash: {failed} requests failed")
    load.stop()


@prepared(servers=2)
def test_two_masters_of_two_addresses(lab, a, b):
    """Each node is master of one address and backup of the other's; the survivor has both."""
    other = "10.1.0.102"
    for server in lab.servers:
        for vip in (VIP, other):
            server.ip(f"address add {vip}/32 dev lo")
    for node, mine, theirs in ((a, 150, 100), (b, 100, 150)):
        pair = instance(mine) + instance(theirs, name="w", vrid=52, vips=(f"{other}/24",))
        node.rvsd(pair + service("dr", servers=lab.servers) + service("dr", other, lab.servers))
    a.expect("MASTER", "v")
    b.expect("MASTER", "w")
    for vip in (VIP, other):
        wait_for(f"{vip} to answer", lambda: lab.client.curl(f"http://{vip}/", seconds=2).startswith("server"))
    since = time.monotonic()
    b.stop()
    lab.takeover(b, a, since, skew(100), vrid=52)
    wait_for("the other address to answer", lambda: lab.client.curl(f"http://{other}/", seconds=2).startswith("server"))
    check(a.holds(VIP) and a.holds(other), "the survivor does not have both")


@prepared(servers=2)
def test_foreign_mac(lab, a, b):
    """A real server that answers ARP for the address (no arp_ignore) is named in an alarm, and announced against."""
    direct(lab)
    b.stop()
    one = lab.servers[0]
    mac = one.run("cat /sys/class/net/s0/address").stdout.strip()
    one.sh("sysctl -qw net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.s0.arp_ignore=0")
    since = time.monotonic()
    # It says so to everybody.
    lab.announce(one, "s0", VIP)
    alarm = wait_for("the alarm", lambda: [alarm for alarm in a.instance()["alarms"] if alarm["name"] == "foreign-mac"])
    check(mac in alarm[0]["last"] and VIP in alarm[0]["last"], alarm)
    check([row for row in lab.seen(kind="arp", port=a.wire, addr=VIP) if row["t"] > since], "not announced against")
