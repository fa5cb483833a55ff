"""A master that is killed and started again before anybody could notice goes on; later it comes back as a backup."""
import time

from cases.vrrp_pair import lasting, prepared, rows, slow_download, steady
from lab import check, wait_for
from pair import VIP, down


@prepared(servers=2, back=True)
def test_restart_in_time(lab, a, b):
    """kill -9 and a start 100 ms later: no change of roles, one master on the wire, connections go on."""
    lasting(lab)
    load = steady(lab)
    wait_for("some answers", lambda: len(rows(load)) > 10)
    download = slow_download(lab, "1m", 60)
    for turn in range(2):
        since = time.monotonic()
        a.crash()
        time.sleep(0.1)
        a.start()
        back = lab.wait_advert(a, since)
        print(f"      the next advert came {back['t'] - since:.3f} s after the kill")
        check(a.instance()["state"] == "MASTER" and a.instance()["cause"] == "resume", a.instance())
        wait_for("answers again", lambda: len([row for row in rows(load, back["t"] + 0.5) if row["ok"]]) > 5)
    time.sleep(down(99, 1))
    check(not lab.adverts(b, since), "the other node took over")
    check(b.instance()["counters"]["became-master"] == 0, b.instance()["counters"])
    check(download.wait(60) == 0, f"the download ended: {download.output()}")
    announced = [row for row in lab.seen(kind="arp", port=a.wire, addr=VIP) if row["t"] > since]
    check(announced, "the address was not announced again")
    load.stop()


@prepared(servers=2, back=True)
def test_restart_too_late(lab, a, b):
    """A start after the master-down interval finds another master, and is its backup until it may preempt."""
    lasting(lab)
    a.crash()
    b.expect("MASTER")
    since = time.monotonic()
    a.start()
    # It preempts in the end, but listens first.
    first = lab.wait_advert(a, since)["t"]
    started = min(row["t"] for row in lab.seen(kind="arp", port=a.wire, addr=a.addr) + [{"t": first}] if row["t"] > since)
    check(first - started > down(100, 1) * 0.8 or first - since > down(100, 1), f"it spoke {first - since:.3f} s after its start, without listening")
    check(a.instance()["cause"] != "resume", a.instance())
    a.expect("MASTER")
    # An orderly end leaves nothing to go on with.
    a.stop()
    b.expect("MASTER")
    b.stop()
    a.start()
    check(wait_for("a state", lambda: a.instance()["state"] in ("BACKUP", "FAULT")), a.instance())
