#!/usr/bin/python3
"""What a worker with nothing to do takes, and how late the first packet after a pause is.

    idle.py [--seconds N] [--pauses N] [--out FILE]      make bench-idle; root

rvsd runs between veth pairs in the namespaces of the end-to-end tests, with two workers if there are two cores.

CPU     of each worker's thread over some seconds without a packet, from the kernel's own account.
delay   A client asks a server over UDP, once after each pause and then at once again and again. What the first answer
        comes later than the later ones is what the pause costs: in rvsd, and in client, server and kernel. The same is
        measured on a way without rvsd and taken off. A request crosses rvsd twice, but its answer finds it awake.
"""
import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "control" / "tests" / "e2e"), str(REPO / "bench")]
sys.dont_write_bytecode = True
from lab import TARGET, VIPS, Failure, Lab, end_on_signals, need_build, remove_leftovers, wait_for  # noqa: E402
from place import line, machine  # noqa: E402

VIP, PORT = VIPS["nat"][0], 7007
# Most that is wanted: percent of a core, microseconds.
CPU, DELAY = 10.0, 200.0

# Runs in the client's namespace: [first, later] microseconds of each round, as JSON.
ASK = """
import json, socket, sys, time
host, port, rounds, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(5)
sock.connect((host, port))
def ask():
    began = time.perf_counter()
    sock.send(b"x")
    sock.recv(100)
    return (time.perf_counter() - began) * 1e6
for _ in range(20):
    ask()
found = []
for _ in range(rounds):
    time.sleep(pause)
    first = ask()
    found.append([first, min(ask() for _ in range(5))])
print(json.dumps(found))
"""


def worker_threads(pid):
    """{name and number: seconds on a CPU} of the lcores of workers."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        if "worker" in name:
            found[name] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return found


def idle_cpu(lab, seconds):
    """Percent of a core for each worker."""
    before, began = worker_threads(lab.rvsd.pid), time.monotonic()
    time.sleep(seconds)
    after, took = worker_threads(lab.rvsd.pid), time.monotonic() - began
    return [100 * (after[name] - before[name]) / took for name in sorted(after)]


def ask(lab, host, pauses):
    """Median microseconds that the first answer comes later, and that a later one takes."""
    out = lab.client.run(["/usr/bin/python3", "-c", ASK, host, PORT, pauses, 0.2], 60 + pauses).stdout
    rounds = json.loads(out)
    return statistics.median(first - later for first, later in rounds), statistics.median(later for _, later in rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="without a packet")
    parser.add_argument("--pauses", type=int, default=100, help="requests after a pause")
    parser.add_argument("--out", type=Path, default=TARGET / "bench" / "idle.json")
    options = parser.parse_args()
    need_build()
    end_on_signals()
    remove_leftovers()
    place = machine()
    print(line(place))
    cores = "[0, 1]" if (os.cpu_count() or 1) > 1 else "[0]"
    with Lab(servers=1) as lab:
        try:
            server = lab.servers[0]
            lab.peer(server, "udp_echo.py", PORT, "s")
            server.ip("rule add from 10.1.0.11 lookup 100")
            lab.start(worker=f"cores = {cores}")
            lab.service("nat", port=PORT, protocol="udp", families=(4,))
            wait_for("an answer", lambda: ask(lab, VIP, 1))
            time.sleep(1)
            loads = idle_cpu(lab, options.seconds)
            straight = ask(lab, "10.1.0.11", options.pauses)
            through = ask(lab, VIP, options.pauses)
        except Failure as failure:
            print(lab.dump())
            print(f"idle: {failure}", file=sys.stderr)
            return 1
    delay = through[0] - straight[0]
    rows = [{"name": f"CPU of idle worker {i}", "value": round(load, 2), "unit": "% of a core", "most": CPU} for i, load in enumerate(loads)]
    rows += [
        {"name": "first packet after a pause, later by", "value": round(delay, 1), "unit": "us", "most": DELAY},
        {"name": "the same without rvsd (taken off above)", "value": round(straight[0], 1), "unit": "us", "most": None},
        {"name": "request and answer without a pause", "value": round(through[1], 1), "unit": "us", "most": None},
        {"name": "the same without rvsd", "value": round(straight[1], 1), "unit": "us", "most": None},
    ]
    missed = False
    for row in rows:
        wanted = ""
        if row["most"] is not None:
            wanted = f"   {'pass' if row['value'] <= row['most'] else 'FAIL'}, {row['most']:g} wanted"
            missed |= row["value"] > row["most"]
        print(f"{row['name']:44} {row['value']:10.1f} {row['unit']}{wanted}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": place, "rows": rows}, indent=1) + "\n")
    print(options.out)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
