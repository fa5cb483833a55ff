#!/usr/bin/python3
"""make demo-ha: two rvsd share a virtual address; the one that has it crashes, freezes and stops while a client asks.

Everything happens in network namespaces that are removed at the end, also after Ctrl-C or a failure. The times are read
from the wire: from the last word of the old master to the first advert of the new one.
"""
import signal
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from lab import Died, Failure, check, end_on_signals, need_build, remove_leftovers  # noqa: E402
from demo import command, say, show, title  # noqa: E402
from pair import VIP, Pair, down, skew  # noqa: E402
from cases.vrrp_pair import RATE, direct, outage, recovers, rows, steady  # noqa: E402

EVENTS = (("crash", "kill -9 of rvsd", down), ("freeze", "kill -STOP of rvsd", down), ("stop", "kill -TERM of rvsd", skew))


def main():
    need_build()
    remove_leftovers()
    end_on_signals()
    title("Two load balancers, one virtual address")
    say(f"""Nodes a (priority 100) and b (99) run rvsd; both have a service on {VIP}:80 with two web servers in direct
            routing. Version 3, an advert every 100 ms. A client asks {RATE} times a second, each request tried once.""")
    with Pair(servers=2) as lab:
        a, b = lab.nodes
        direct(lab)
        load = steady(lab)
        command("rvsadm vrrp        # on node a")
        show(a.adm("vrrp"))
        summary = []
        for name, how, formula in EVENTS:
            title(f"The master's {name}: {how} on node a")
            since = time.monotonic()
            {"crash": a.crash, "freeze": lambda: a.program.signal(signal.SIGSTOP), "stop": a.stop}[name]()
            expected = formula(99)
            gap = lab.takeover(a, b, since, expected)
            recovers(lab, load, since + gap)
            _, failed = outage(load, since)
            summary.append((name, gap, expected, failed))
            say(f"Node b is master {gap * 1000:.0f} ms after node a's last word (by the formula {expected * 1000:.0f} ms).")
            say(f"Requests that failed: {failed}.")
            if name == "freeze":
                a.program.signal(signal.SIGCONT)
            else:
                a.start()
            a.expect("MASTER")
            b.expect("BACKUP")
            recovers(lab, load, time.monotonic())
            say("Node a is back, listened first, and has the higher priority: it has the address again.")
        load.stop()
        asked = rows(load)
        title("What it came to")
        show(f"{'event':<10}{'without a master':>18}{'by the formula':>16}{'failed requests':>17}")
        for name, gap, expected, failed in summary:
            show(f"{name:<10}{gap * 1000:>15.0f} ms{expected * 1000:>13.0f} ms{failed:>17}")
        lost = sum(1 for row in asked if not row["ok"])
        say(f"{len(asked)} requests in all, {lost} failed.")
        check(all(gap < expected + 0.5 for _, gap, expected, _ in summary), "a takeover took too long")


if __name__ == "__main__":
    try:
        main()
    except (Failure, Died) as failure:
        sys.exit(f"demo-ha: {failure}")
    except KeyboardInterrupt:
        sys.exit("demo-ha: interrupted")
