"""VRRP with Debian's keepalived on the same wire: who is master, how long a takeover takes, who says nothing any more."""
import signal
import time

from lab import check, need_programs, threads, wait_for
from pair import LINK_LOCAL, VIP, VIP6, Pair, down, instance, peer, skew


def pair(function):
    """Decorator: the test gets two nodes, a client and a recording of the wire."""
    def test():
        need_programs("keepalived")
        with Pair() as lab:
            try:
                function(lab, *lab.nodes)
            except BaseException:
                print(lab.dump())
                raise
    test.__doc__, test.__name__ = function.__doc__, function.__name__
    test.__module__ = function.__module__
    return test


def serves(lab, node, vip=VIP):
    """The client finds the address at this node."""
    lab.client.ip("neighbour flush all")
    mac = node.space.run(f"cat /sys/class/net/{node.device}/address").stdout.strip()
    wait_for(f"{vip} to answer", lambda: lab.client.run(["ping", "-n", "-c", "1", "-W", "1", vip], fail=False).returncode == 0)
    entry = lab.client.ip(f"neighbour show {vip}")
    check(mac in entry, f"{vip} is not at {node.name}: {entry}")


def realtime(node):
    """Real-time priorities of rvsd's threads by their names."""
    return {name: int(fields[37]) for name, fields in threads(node.program.pid)}


@pair
def test_master_before_keepalived(lab, a, b):
    """rvsd with the higher priority, keepalived behind it: crash, return, stop. Version 3, multicast, 100 ms."""
    b.keepalived(peer(100))
    wait_for("keepalived alone to be master", b.holds)
    start = time.monotonic()
    a.rvsd(instance(150))
    # It takes over from the lower master: by preemption, after listening.
    a.expect("MASTER")
    wait_for("keepalived to give way", lambda: not b.holds())
    check(a.holds(), "the address is not on the twin")
    # What an advert goes through does not wait for a core.
    wanted = {"rvs-vrrp": 50, "rvs-pump": 49, "rte-worker-1": 49, "rvs-checks": 0}
    wait_for("real-time priorities", lambda: wanted.items() <= realtime(a).items())
    serves(lab, a)
    lab.wait_advert(a, start)
    crashed = time.monotonic()
    a.crash()
    took = lab.takeover(a, b, crashed, down(100))
    print(f"      crash: {took:.3f} s, by the formula {down(100):.3f} s")
    serves(lab, b)
    a.start()
    wait_for("rvsd to be master again", lambda: a.instance()["state"] == "MASTER" and not b.holds())
    check(len([1 for line in a.space.ip("-br address show tf0").split() if line.startswith(VIP)]) == 1, "the address is there once")
    stopped = time.monotonic()
    a.stop()
    check(lab.adverts(a, stopped, zero=True), "no advert with priority 0 at the stop")
    took = lab.takeover(a, b, stopped, skew(100))
    print(f"      stop: {took:.3f} s, by the formula {skew(100):.3f} s")
    check(not a.holds(), "a stopped rvsd leaves its address on the twin")


@pair
def test_backup_of_keepalived(lab, a, b):
    """keepalived with the higher priority, rvsd behind it: crash and stop of keepalived, and its return."""
    b.keepalived(peer(150))
    wait_for("keepalived to be master", b.holds)
    a.rvsd(instance(100))
    a.expect("BACKUP")
    seen = wait_for("its master", lambda: a.instance()["master"] and a.instance())
    check((seen["master"], seen["master_priority"], seen["holds"]) == (b.addr, 150, False), seen)
    crashed = time.monotonic()
    b.crash()
    took = lab.takeover(b, a, crashed, down(100))
    print(f"      crash: {took:.3f} s, by the formula {down(100):.3f} s")
    serves_only = a.instance()
    check(serves_only["state"] == "MASTER" and serves_only["lease_ms"] is not None, serves_only)
    b.keepalived(peer(150))
    a.expect("BACKUP")
    wait_for("the address to leave the twin", lambda: not a.holds())
    # keepalived itself is the one that is asked now.
    serves(lab, b)
    stopped = time.monotonic()
    b.stop()
    took = lab.takeover(b, a, stopped, skew(100))
    print(f"      stop: {took:.3f} s, by the formula {skew(100):.3f} s")
    serves(lab, a)


@pair
def test_version_2_with_password(lab, a, b):
    """Version 2, PASS, 1 s: both speak the same; a wrong password is refused and counted, and changes nothing."""
    auth = 'version = 2\nauth = { type = "pass", password = "s3cr3t12" }'
    b.keepalived(peer(100, 1, 2, extra="authentication {\n auth_type PASS\n auth_pass s3cr3t12\n }"))
    a.rvsd(instance(150, "1s", extra=auth))
    a.expect("MASTER")
    wait_for("keepalived to give way", lambda: not b.holds())
    lab.peer(lab.client, "inject.py", "c0", "10.1.0.66", 51, "version=2", "interval=1", "auth=1", "password=wrong",
             f"vips={VIP}", "priority=200", ready=False)
    wait_for("the counter", lambda: a.instance()["invalid"].get("password") == 1)
    check(a.instance()["state"] == "MASTER", "a wrong password dethroned the master")
    crashed = time.monotonic()
    a.crash()
    took = lab.takeover(a, b, crashed, down(100, 1, 2))
    print(f"      crash: {took:.3f} s, by the formula {down(100, 1, 2):.3f} s")


@pair
def test_unicast(lab, a, b):
    """Version 3 to a peer's own address."""
    b.keepalived(peer(100, extra=f"unicast_src_ip {b.addr}\n unicast_peer {{\n {a.addr}\n }}"))
    a.rvsd(instance(150, extra=f'source = "{a.addr}"\npeers = [{{ addr = "{b.addr}" }}]'))
    a.expect("MASTER")
    wait_for("keepalived to give way", lambda: not b.holds())
    check({row["dst"] for row in lab.adverts(a)} == {b.addr}, "adverts to others than the peer")
    crashed = time.monotonic()
    a.crash()
    lab.takeover(a, b, crashed, down(100))
    a.start()
    a.expect("MASTER")
    wait_for("keepalived to give way again", lambda: not b.holds())
    serves(lab, a)


@pair
def test_ipv6(lab, a, b):
    """Version 3 over IPv6: addresses are announced by neighbour advertisements."""
    vips = (f"{LINK_LOCAL}/64", f"{VIP6}/64")
    b.keepalived(peer(100, vips=vips))
    a.rvsd(instance(150, vips=vips))
    a.expect("MASTER")
    wait_for("keepalived to give way", lambda: not b.holds(VIP6))
    check(a.holds(VIP6) and a.holds(LINK_LOCAL), "addresses on the twin")
    check(lab.seen(kind="na", port=a.wire, addr=VIP6), "no neighbour advertisement")
    serves(lab, a, VIP6)
    stopped = time.monotonic()
    a.stop()
    lab.takeover(a, b, stopped, skew(100))
    serves(lab, b, VIP6)


@pair
def test_priority_and_preemption(lab, a, b):
    """A tracked file lowers the priority below keepalived's; without preempt the way back waits for a failure."""
    state = lab.dir / "state"
    state.write_text("0\n")
    track = f'[[track.file]]\nname = "f"\npath = "{state}"\n'
    b.keepalived(peer(100))
    a.rvsd(instance(150, extra='preempt = false\ntrack = [{ kind = "file", name = "f", weight = -1 }]', rest=track))
    wait_for("keepalived to be master", b.holds)
    a.expect("BACKUP")
    b.stop()
    a.expect("MASTER")
    b.keepalived(peer(100))
    wait_for("keepalived to hear us", lambda: "Entering BACKUP STATE" in b.program.output())
    state.write_text("60\n")
    wait_for("the new priority", lambda: a.instance()["priority"] == 90)
    a.expect("BACKUP")
    wait_for("keepalived to be master", b.holds)
    state.write_text("0\n")
    wait_for("the old priority", lambda: a.instance()["priority"] == 150)
    time.sleep(1)
    check(a.instance()["state"] == "BACKUP" and b.holds(), "preempt = false took over")
    b.crash()
    a.expect("MASTER")


@pair
def test_tracked_script(lab, a, b):
    """A script that fails is a fault: the other takes over at once, and back when it succeeds again."""
    flag = lab.dir / "well"
    flag.touch()
    script = f'[[track.script]]\nname = "s"\ncommand = ["/usr/bin/test", "-e", "{flag}"]\ninterval = "200ms"\nuser = "root"\n'
    b.keepalived(peer(100))
    a.rvsd(instance(150, extra='track = [{ kind = "script", name = "s" }]', rest=script))
    a.expect("MASTER")
    wait_for("keepalived to give way", lambda: not b.holds())
    flag.unlink()
    a.expect("FAULT")
    wait_for("keepalived to be master", b.holds)
    check(lab.adverts(a, zero=True), "no advert with priority 0")
    flag.touch()
    a.expect("MASTER")
    check("tracked script failed: exit status 1" in a.program.output(), "the log does not say why")


@pair
def test_invalid_adverts(lab, a, b):
    """Adverts with something wrong raise one counter each and change nothing; the master's own keep their interval."""
    b.keepalived(peer(100))
    a.rvsd(instance(150))
    a.expect("MASTER")
    wait_for("keepalived to give way", lambda: not b.holds())
    start = time.monotonic()
    for reason, words in (("ttl", ["ttl=254"]), ("checksum", ["checksum=1"]), ("version", ["version=2", "interval=1"]),
                          ("type", ["type=2"]), ("length", ["count=2"]), ("interval", ["interval=0"])):
        lab.peer(lab.client, "inject.py", "c0", "10.1.0.66", 51, f"vips={VIP}", "repeat=20", "pause=0.01", *words, ready=False)
        wait_for(f"20 refused for {reason}", lambda: a.instance()["invalid"].get(reason) == 20)
    lab.peer(lab.client, "inject.py", "c0", "10.1.0.66", 52, f"vips={VIP}", ready=False)
    wait_for("the unknown router", lambda: "unknown-vrid" in a.adm("--json vrrp"))
    check(a.instance()["state"] == "MASTER" and not b.holds(), "an invalid advert changed something")
    check(a.instance()["counters"]["became-master"] == 1, "it was dethroned in between")
    times = [row["t"] for row in lab.adverts(a, start)]
    longest = max(later - earlier for earlier, later in zip(times, times[1:]))
    # Some intervals: other work shares the cores.
    check(longest < 0.5, f"the master was silent for {longest:.3f} s")


@pair
def test_frozen_master(lab, a, b):
    """SIGSTOP for longer than the others' patience: the other takes over; back again it listens before it speaks."""
    b.keepalived(peer(100))
    a.rvsd(instance(150))
    a.expect("MASTER")
    wait_for("keepalived to give way", lambda: not b.holds())
    frozen = time.monotonic()
    a.program.signal(signal.SIGSTOP)
    lab.takeover(a, b, frozen, down(100))
    serves(lab, b)
    time.sleep(0.5)
    thawed = time.monotonic()
    a.program.signal(signal.SIGCONT)
    # It was master and has the higher priority: it comes back, but as a backup that heard the other.
    a.expect("MASTER")
    first = lab.wait_advert(a, thawed)["t"]
    check(first - thawed > down(150) * 0.8, f"it spoke {first - thawed:.3f} s after it was thawed, without listening")
    answers = [row for row in lab.seen(kind="arp", port=a.wire, addr=VIP) if thawed < row["t"] < first]
    check(not answers, f"it answered for the address before it was master: {answers}")
    check(a.instance()["counters"]["held-up"] >= 1, a.instance()["counters"])


@pair
def test_first_and_last_router_by_a_reload(lab, a, b):
    """What adverts go through has real-time priority as long as there is a virtual router, whenever it came."""
    a.rvsd("")
    way = ("rvs-pump", "rte-worker-1")

    def priorities():
        found = realtime(a)
        return [found[name] for name in way]
    check(priorities() == [0, 0], f"without a virtual router: {realtime(a)}")
    text = a.config.read_text()
    a.config.write_text(text + instance(150))
    a.adm("reload")
    a.expect("MASTER")
    wait_for("real-time priorities", lambda: priorities() == [49, 49] and realtime(a).get("rvs-vrrp") == 50)
    a.config.write_text(text)
    a.adm("reload")
    wait_for("ordinary threads", lambda: priorities() == [0, 0])


@pair
def test_reload(lab, a, b):
    """A reload that changes nothing of an instance goes unnoticed; a new address comes without a gap."""
    b.keepalived(peer(100))
    a.rvsd(instance(150) + instance(150, name="w", vrid=52, vips=("10.1.0.102/24",)))
    a.expect("MASTER")
    a.expect("MASTER", "w")
    wait_for("the second burst of announcements", lambda: len(lab.seen(kind="arp", port=a.wire, addr=VIP)) >= 10)
    start = time.monotonic()
    text = a.config.read_text()
    a.config.write_text(text.replace("10.1.0.102/24", "10.1.0.103/24"))
    a.adm("reload")
    wait_for("the new address", lambda: a.holds("10.1.0.103") and not a.holds("10.1.0.102"))
    time.sleep(0.5)
    check(not [row for row in lab.seen(kind="arp", port=a.wire, addr=VIP) if row["t"] > start], "announced anew")
    check([row for row in lab.seen(kind="arp", port=a.wire, addr="10.1.0.103") if row["t"] > start], "not announced")
    for vrid in (51, 52):
        times = [row["t"] for row in lab.adverts(a, start - 1, vrid=vrid)]
        longest = max(later - earlier for earlier, later in zip(times, times[1:]))
        check(longest < 0.3, f"a gap of {longest:.3f} s in the adverts of {vrid}")
    check(a.instance("w")["counters"]["became-master"] == 1, "dethroned by a reload")
