#!/usr/bin/python3
"""Hours in minutes: new flows, expiries and rule changes without pause, and nothing may add up.

    soaking.py [--seconds N] [--kills N]        builds labs of its own; make soak SECONDS=1800 KILLS=50

Requests on new connections, a stream of UDP packets from ever new ports and of TCP packets that open
connections and say no more go through rvsd, while servers come, go and change weight, services are
deleted and added, settings change and files are reloaded. Timeouts are short, so that entries expire as fast as they
come. A sample is taken each second: memory of the process, descriptors, threads, packets that found no buffer. Asserted
at the end: memory after the first part of the run does not grow, descriptors and threads are as many as before, the
pool never ran dry though far more packets came than it has buffers, every buffer is back (but for what rings of ports
may hold, and those held as many before the load), no connection is left, no request failed.

Then, in another lab, rvsd is killed so many times at random moments under load (cases/crash.py, `kills_under_load`).
"""
import argparse
import json
import random
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True
from lab import CLIENT, Failure, Lab, PATIENCE, VIPS, at, check, end_on_signals, need_build, remove_leftovers, wait_for  # noqa: E402

VIP = VIPS["nat"][0]
UDP_PORT, SILENT_PORT = 5300, 81
# Entries of the connection table. The half-open ones alone would be more, and so would those in TIME_WAIT: they make
# room. UDP takes 3000, more when the machine is busy, and a client that is held up for some seconds must still find its
# own: with 4096 entries 25 of 49,663 requests were refused.
CONNECTIONS = 12288
# Packets a second of each kind that opens connections.
PACE = 1500
# rvsd's pool. A kind of packet whose buffers were kept would have emptied it.
BUFFERS = 16383
# What memory may still grow by once the run has warmed up: KiB in all.
GROWTH = 512


def counted(ports, name):
    """A counter of all ports."""
    return sum(port["counters"][name] for port in ports)


class Samples:
    """What the process holds, second by second."""

    def __init__(self, lab):
        self.lab, self.rows = lab, []

    def take(self):
        process = Path(f"/proc/{self.lab.rvsd.pid}")
        memory = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        kib = {name: int(memory[name].split()[0]) for name in ("VmRSS", "RssAnon")}
        status = self.lab.status()
        workers, ports = status["workers"], status["ports"]
        row = {
            "at": time.monotonic(), "rss": kib["VmRSS"], "heap": kib["RssAnon"], "threads": int(memory["Threads"]),
            "files": len(list((process / "fd").iterdir())), "connections": sum(w["connections"] for w in workers),
            "no_buffer": counted(ports, "no-mbuf"),
            "held": sum(pool["size"] - pool["free"] for pool in status["buffers"]),
            "in_rings": sum(pool["rings"] for pool in status["buffers"]),
            "packets": counted(ports, "rx"),
        }
        self.rows.append(row)
        return row


def edits(lab, rng):
    """One change of rules, each kind in its turn by chance."""
    server = rng.choice(lab.servers)
    real = at(server.addr, 80)
    kind = rng.randrange(7)
    if kind == 0:
        lab.adm(f"-e -t {at(VIP, 80)} -r {real} -m -w {rng.randrange(1, 9)}")
    elif kind == 1:
        lab.adm(f"-E -t {at(VIP, 80)} -s {rng.choice(['rr', 'wrr', 'lc', 'wlc', 'sh', 'mh', 'sed', 'nq'])}")
    elif kind == 2:
        # Servers nobody is behind: their flows end nowhere.
        for number in range(20):
            lab.adm(f"-a -u {at(VIP, UDP_PORT)} -r 10.2.0.{100 + number}:{UDP_PORT} -m")
        for number in range(20):
            lab.adm(f"-d -u {at(VIP, UDP_PORT)} -r 10.2.0.{100 + number}:{UDP_PORT}")
    elif kind == 3:
        lab.adm(f"-D -t {at(VIP, SILENT_PORT)}")
        silent_service(lab)
    elif kind == 4:
        lab.adm(f"sysctl icmp_msgs_burst={rng.randrange(20, 80)} expire_nodest_conn={rng.randrange(2)}")
    elif kind == 5:
        lab.lb.ip(f"route replace 10.77.{rng.randrange(256)}.0/24 via {CLIENT[0]}")
        lab.lb.ip("route flush root 10.77.0.0/16")
    else:
        lab.adm("-Lnc")


def silent_service(lab):
    lab.adm(f"-A -t {at(VIP, SILENT_PORT)} -s wlc")
    for server in lab.servers:
        lab.adm(f"-a -t {at(VIP, SILENT_PORT)} -r {at(server.addr, SILENT_PORT)} -m")


def warm_up(seconds):
    """Until then tables, queues and caches may still be touched for the first time."""
    return max(8.0, seconds * 0.3)


def soak(lab, seconds, say=lambda text: None):
    """Runs the soak on a fresh lab and checks what is left. Returns the report."""
    lab.start(worker=f"connections = {CONNECTIONS}")
    lab.service("nat", families=(4,))
    lab.service("nat", port=UDP_PORT, protocol="udp", families=(4,))
    silent_service(lab)
    lab.adm("--set 5 2 2")
    lab.expect_all_servers(VIP, 4)
    samples, rng = Samples(lab), random.Random(1)
    began = time.monotonic()
    first = samples.take()
    load = lab.load(f"http://{at(VIP, 80)}/", threads=2)
    opener = lab.peer(lab.client, "opener.py", VIP, UDP_PORT, SILENT_PORT, PACE)
    changes = 0
    while time.monotonic() < began + seconds:
        due = time.monotonic() + 1
        edits(lab, rng)
        changes += 1
        row = samples.take()
        if len(samples.rows) % 60 == 0:
            say(f"{row['at'] - began:6.0f} s  {row['heap']} KiB heap  {row['rss']} KiB resident  {row['packets']} packets  "
                f"{row['connections']} connections  {row['files']} files")
        time.sleep(max(0.0, due - time.monotonic()))
    opened = json.loads(stop(opener))
    # One in a thousand: a connection to a service in the moment of its change of scheduler is none of these.
    report = load.finish()
    return verdict(lab, samples, first, began, seconds, {"changes": changes, "requests": report["ok"], **opened})


def stop(program):
    """SIGTERM; the last line that the program wrote."""
    program.signal(15)
    program.wait(10)
    return program.output().splitlines()[-1]


def verdict(lab, samples, first, began, seconds, report):
    last = samples.rows[-1]
    check(report["opened"] > 2 * CONNECTIONS, f"{report['opened']} flows are too few: the table has room for {CONNECTIONS}")
    lab.adm("sysctl expire_nodest_conn=1")
    lab.adm("-C")
    wait_for("every connection to go", lambda: samples.take()["connections"] == 0, 30)
    check(samples.rows[-1]["no_buffer"] == 0, f"packets found no buffer: {samples.rows[-1]}")
    check(report["opened"] > BUFFERS, f"only {report['opened']} flows were opened: too few to empty the pool")
    warm = [row for row in samples.rows if row["at"] >= began + warm_up(seconds)]
    check(len(warm) >= 4, f"only {len(warm)} samples after the warm-up")
    quarter = max(1, len(warm) // 4)
    early, late = (sorted(row["heap"] for row in part)[quarter // 2] for part in (warm[:quarter], warm[-quarter:]))
    report.update({"seconds": round(last["at"] - began), "packets": last["packets"],
                   "heap_kib": [early, late], "rss_kib": [first["rss"], last["rss"]]})
    check(late <= early + GROWTH, f"memory grew from {early} to {late} KiB: {[row['heap'] for row in samples.rows]}")
    # Packets that wait for a neighbour keep theirs for seconds.
    held = wait_for(f"buffers to come back, {first['held']} were held before the load",
                    lambda: samples.take()["held"] <= first["held"] and samples.rows[-1], 20)
    check(held["held"] <= held["in_rings"], f"{held['held']} buffers are not free; rings hold {held['in_rings']} at most")
    report["buffers_held"] = [first["held"], max(row["held"] for row in warm), held["held"]]
    for name in ("files", "threads"):
        # The connection that asked for the sample may be among them still.
        after = wait_for(f"{name} as before, {first[name]}", lambda name=name: samples.take()[name] <= first[name] and samples.rows[-1], 5)
        report[name] = after[name]
    return report


def say(text):
    print(text, flush=True)


def main():
    # It imports this module's neighbours; only the long run needs it.
    from cases.crash import kills_under_load
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--kills", type=int, default=50, help="a multiple of five; 0 for none")
    options = parser.parse_args()
    need_build()
    end_on_signals()
    remove_leftovers()
    phases = []
    if options.seconds:
        phases.append(lambda lab: say(f"soak: {json.dumps(soak(lab, options.seconds, say))}"))
    if options.kills:
        phases.append(lambda lab: kills_under_load(lab, options.kills // 5, say))
    for phase in phases:
        with Lab(servers=2) as lab:
            try:
                phase(lab)
            except Failure as failure:
                print(lab.dump())
                print(f"soak: {failure}")
                return 1
            except KeyboardInterrupt:
                print("interrupted; everything removed")
                return 130
    print("soak: done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
