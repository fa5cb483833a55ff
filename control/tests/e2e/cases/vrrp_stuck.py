"""One thread of a master hangs and the others live: the address moves, and the old master's data plane keeps quiet."""
import time

from cases.vrrp_pair import direct, outage, prepared, recovers, rows, steady
from lab import check, wait_for
from pair import LINK_LOCAL, VIP, VIP6, down, instance


def hang(lab, node, thread):
    """Stops a thread of a node's rvsd; `stop()` of what is returned lets it go on."""
    return lab.peer(node.space, "freeze.py", node.program.pid, thread)


@prepared(servers=2)
def test_vrrp_thread(lab, a, b):
    """The thread that sends adverts hangs; workers and control do not. The lease ends before the other takes over."""
    direct(lab)
    load = steady(lab)
    wait_for("some answers", lambda: len(rows(load)) > 10)
    since = time.monotonic()
    frozen = hang(lab, a, "rvs-vrrp")
    gap = lab.takeover(a, b, since, down(99))
    recovers(lab, load, since + gap)
    _, failed = outage(load, since)
    print(f"      {gap:.3f} s without a master (formula {down(99):.3f} s), {failed} requests failed")
    # It still has the address, and is asked for it: by hosts that have not heard, and by ARP.
    check(a.holds(), "the address is gone: there is nothing to hold back")
    mac = a.space.run("cat /sys/class/net/tf0/address").stdout.strip()
    lab.client.ip(f"neighbour replace {VIP} lladdr {mac} dev c0 nud permanent")
    asked = time.monotonic()
    result = lab.client.run(["curl", "-sS", "-m", "1", f"http://{VIP}/"], fail=False)
    check(result.returncode == 28, f"the old master answered: {result.stdout}{result.stderr}")
    check(lab.client.run(["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", VIP], fail=False).returncode == 1, "its kernel answered")
    lab.client.ip(f"neighbour delete {VIP} dev c0")
    lab.client.run(["ping", "-n", "-c", "1", "-W", "1", VIP], fail=False)
    out = [row for row in lab.seen(port=a.wire) if row["t"] > asked and VIP in (row.get("addr"), row.get("src"))]
    check(not out, f"sent in the name of the address: {out[:3]}")
    drops = a.adm("--json status")
    check('"no-lease"' in drops, "no drop was counted as no-lease")
    frozen.stop()
    a.expect("MASTER")
    check(a.instance()["counters"]["held-up"] >= 1, a.instance()["counters"])
    b.expect("BACKUP")
    load.stop()


@prepared(servers=2)
def test_worker(lab, a, b):
    """The only worker hangs: adverts do not leave, the other takes over, and this one knows that it is not master."""
    direct(lab)
    load = steady(lab)
    wait_for("some answers", lambda: len(rows(load)) > 10)
    since = time.monotonic()
    frozen = hang(lab, a, "rte-worker")
    gap = lab.takeover(a, b, since, down(99))
    recovers(lab, load, since + gap)
    print(f"      {gap:.3f} s without a master (formula {down(99):.3f} s)")
    wait_for("the old master to give up", lambda: a.instance()["state"] in ("FAULT", "BACKUP") and not a.holds())
    wait_for("the address to answer", lambda: lab.client.curl(f"http://{VIP}/", seconds=2).startswith("server"))
    # What waited in the worker's queues when it hung does not leave now, in the name of an address that is another's.
    thawed = time.monotonic()
    frozen.stop()
    a.expect("MASTER")
    b.expect("BACKUP")
    first = lab.wait_advert(a, thawed)["t"]
    late = [row for row in lab.spoken(a, thawed) if row["t"] < first]
    check(not late, f"the worker that hung spoke before its node was master again: {late[:3]}")
    load.stop()


@prepared(servers=0)
def test_worker_of_a_backup(lab, a, b):
    """The only worker of a backup hangs: it hears no advert, and does not take that for a dead master."""
    a.rvsd(instance(150))
    a.expect("MASTER")
    b.rvsd(instance(100))
    b.expect("BACKUP")
    frozen = hang(lab, b, "rte-worker")
    b.expect("FAULT")
    time.sleep(2 * down(100))
    seen = b.instance()
    check(seen["state"] == "FAULT" and seen["counters"]["became-master"] == 0 and not b.holds(), seen)
    frozen.stop()
    b.expect("BACKUP")
    check(b.instance()["counters"]["became-master"] == 0, "it was master for a moment")
    check(a.instance()["counters"]["became-master"] == 1, "the master was disturbed")


@prepared(servers=2)
def test_control(lab, a, b):
    """The control loop hangs: adverts go on, requests are answered, nobody takes over."""
    direct(lab)
    load = steady(lab)
    wait_for("some answers", lambda: len(rows(load)) > 10)
    since = time.monotonic()
    frozen = hang(lab, a, "rvsd")
    time.sleep(1.5)
    frozen.stop()
    check(not lab.adverts(b, since), "the other took over")
    took, failed = outage(load, since)
    check(failed == 0, f"{failed} requests failed")
    check(a.instance()["counters"]["became-master"] == 1, "it was dethroned")
    load.stop()


@prepared(servers=2)
def test_unplugged(lab, a, b):
    """Only the data link is unplugged: the other takes over; plugged in again the node listens first."""
    direct(lab)
    load = steady(lab)
    wait_for("some answers", lambda: len(rows(load)) > 10)
    since = time.monotonic()
    lab.switch.ip(f"link set {a.wire} down")
    gap = lab.takeover(a, b, since, down(99))
    recovers(lab, load, since + gap)
    print(f"      {gap:.3f} s without a master (formula {down(99):.3f} s)")
    a.expect("FAULT")
    check(not a.holds(), "the address is still on the twin")
    check("virtual router v is at fault (link-down)" in a.adm("status"), a.adm("status"))
    wait_for("the address to answer", lambda: lab.client.curl(f"http://{VIP}/", seconds=2).startswith("server"))
    plugged = time.monotonic()
    lab.switch.ip(f"link set {a.wire} up")
    a.expect("MASTER")
    b.expect("BACKUP")
    first = lab.wait_advert(a, plugged)["t"]
    late = [row for row in lab.spoken(a, plugged) if row["t"] < first]
    check(not late, f"it spoke for the address before it was master again: {late[:3]}")
    load.stop()
    wait_for("the address to answer", lambda: lab.client.curl(f"http://{VIP}/", seconds=2).startswith("server"))


@prepared(servers=0)
def test_vrrp_thread_ipv6(lab, a, b):
    """The same over IPv6: no neighbour advertisement of the old node after the new one's first, though it is asked."""
    vips = (f"{LINK_LOCAL}/64", f"{VIP6}/64")
    for node, priority in ((a, 100), (b, 99)):
        node.rvsd(instance(priority, vips=vips))
    a.expect("MASTER")
    b.expect("BACKUP")
    since = time.monotonic()
    frozen = hang(lab, a, "rvs-vrrp")
    lab.takeover(a, b, since, down(99))
    first = lab.wait_advert(b, since)["t"]
    check(a.holds(VIP6), "the address is gone: there is nothing to hold back")
    mac = b.space.run("cat /sys/class/net/tf0/address").stdout.strip()

    def is_found():
        lab.client.ip("-6 neighbour flush dev c0")
        lab.client.run(["ping", "-n", "-c", "1", "-W", "1", VIP6], fail=False)
        return mac in lab.client.ip(f"-6 neighbour show {VIP6}")
    wait_for("the client to find the new node", is_found)
    late = lab.spoken(a, first)
    check(not late, f"the old node spoke: {late[:3]}")
    frozen.stop()
    a.expect("MASTER")
