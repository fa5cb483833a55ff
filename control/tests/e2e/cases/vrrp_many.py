"""Hundreds of virtual routers on one node."""
import json
import os
import time

from cases.vrrp_pair import prepared
from lab import check, lasts, threads, ticks, wait_for
from pair import down, instance

COUNT = 200
# Of one core, while nothing happens: adverts each second, sent or received.
SHARE = 0.25
EXPECTED = down(100, 1)


def cpu(node, thread="rvs-vrrp"):
    """Seconds of processor time that a thread of rvsd has used."""
    for name, fields in threads(node.program.pid):
        if name == thread:
            return ticks(fields) / os.sysconf("SC_CLK_TCK")
    raise AssertionError(f"{node.name} has no thread {thread}")


@lasts(180)
@prepared(servers=0)
def test_two_hundred_move(lab, a, b):
    """200 instances at 1 s: the thread stays cheap, and after a crash of the master all are at the other node in time."""
    def text(priority):
        return "".join(instance(priority, "1s", name=f"i{number}", vrid=number, vips=(f"10.1.1.{number}/16",))
                       for number in range(1, COUNT + 1))
    for node, priority in ((a, 150), (b, 100)):
        node.rvsd(text(priority))

    def states(node):
        view = json.loads(node.adm("--json vrrp"))
        found = {}
        for one in view["instances"]:
            found[one["state"]] = found.get(one["state"], 0) + 1
        return found
    wait_for("200 masters", lambda: states(a) == {"MASTER": COUNT}, 40)
    wait_for("200 backups", lambda: states(b) == {"BACKUP": COUNT})
    before, began = [cpu(node) for node in (a, b)], time.monotonic()
    time.sleep(5)
    took = time.monotonic() - began
    shares = [(cpu(node) - old) / took for node, old in zip((a, b), before)]
    print(f"      {COUNT} instances: master {shares[0]:.1%}, backup {shares[1]:.1%} of a core")
    check(max(shares) < SHARE, f"shares of a core: {shares}")
    a.crash()
    wait_for("200 masters at the other node", lambda: states(b) == {"MASTER": COUNT}, 15)
    last, first = {}, {}
    for row in lab.seen(kind="advert"):
        if row["port"] == a.wire:
            last[row["vrid"]] = row["t"]
        elif row["priority"]:
            first.setdefault(row["vrid"], row["t"])
    check(len(first) == COUNT, f"{len(first)} were advertised")
    took = sorted(first[vrid] - last[vrid] for vrid in first)
    print(f"      from the last advert of one to the first of the other: {took[0]:.3f} to {took[-1]:.3f} s (formula {EXPECTED:.3f} s)")
    check(took[0] > EXPECTED - 0.02 and took[-1] < EXPECTED + 0.5, f"{took[0]:.3f} to {took[-1]:.3f} s")
    held = b.space.ip("-br address show tf0").count("10.1.1.")
    check(held == COUNT, f"the new master holds {held} addresses")
