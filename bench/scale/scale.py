#!/usr/bin/python3
"""What rvsd takes as rules and connections grow: start, memory, rule changes, listings.

    scale.py [--quick] [--only rules|connections|transfer] [--out FILE]      make bench-scale; root

rvsd runs in a network namespace of its own between null ports that bring no packets, so that what is counted is its
own work. Four questions:

rules        start and memory with many services; how long a change takes until every worker runs it; what the longest
             command cost a worker (CPU time, from the worker's own counters); a look at all services; a reload.
connections  a table of ten million connections, taken over from a file as after a crash; a listing of all of them, the
             memory of both programs meanwhile, and for how long a worker did not look at its ports.
transfer     a standby that joins a node with a million connections: how long the whole table takes from one table into
             the other, by TCP over a veth pair, and what it costs both.

Prints a table, writes it as JSON with machine, kernel, DPDK and commit, and exits 1 if a bound is missed.
"""
import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "bench"))
sys.dont_write_bytecode = True
from place import line, machine  # noqa: E402

BIN = Path(os.environ.get("RVS_BIN", REPO / "target" / "v3" / "release"))

# Most that is wanted, in the units of the table.
CHANGE_MS, COMMAND_US, GROWTH_MB, TRANSFER_S = 5.0, 100.0, 32.0, 4.0


class Failure(Exception):
    """Something did not go as it must."""


class Client:
    """One connection to the admin socket, as rvsadm has it."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))

    def ask(self, op, **fields):
        payload = json.dumps({"version": 1, "request": {"op": op, **fields}}).encode()
        self.socket.sendall(struct.pack(">I", len(payload)) + payload)
        answer = self.read()
        if answer["kind"] == "error":
            raise Failure(f"{op}: {answer['message']}")
        return answer

    def read(self):
        (length,) = struct.unpack(">I", self.exactly(4))
        return json.loads(self.exactly(length))

    def exactly(self, size):
        parts = []
        while size:
            part = self.socket.recv(min(size, 1 << 20))
            if not part:
                raise Failure("rvsd closed the connection")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Results:
    """Rows of the table: what was measured, its figure, and the most that is wanted."""

    def __init__(self):
        self.rows = []

    def add(self, group, name, value, unit, most=None):
        self.rows.append({"group": group, "name": name, "value": round(value, 3), "unit": unit, "most": most})
        verdict = "" if most is None else f"   {'pass' if value <= most else 'FAIL'}, {most:g} wanted"
        print(f"{group:24} {name:44} {value:12.2f} {unit}{verdict}", flush=True)

    def missed(self):
        return [row for row in self.rows if row["most"] is not None and row["value"] > row["most"]]


class Daemon:
    """rvsd between null ports, in a namespace and a directory of its own."""

    def __init__(self, name, cores, connections, services, servers, rules, table=None, keep=False, space="", wire=None):
        """`wire` lays cables before it starts, given the name of its namespace."""
        self.space, self.wire = f"rvs-scale-{os.getpid()}{space}", wire
        self.dir = Path(tempfile.mkdtemp(prefix="rvs-scale-"))
        self.name, self.servers, self.process = name, servers, None
        self.config = self.dir / "rvsd.toml"
        state = [f'table = "{table}"'] if table else []
        if keep:
            state.append(f'directory = "{self.dir}"')
        self.head = f"""[dpdk]
memory = "no-huge"
memory_mb = 256
file_prefix = "{self.space}"
[workers]
cores = {cores}
connections = {connections}
max_services = {services + 64}
max_servers = {servers + 1024}
[[port]]
name = "p0"
null = {{}}
twin = "ts0"
[[port]]
name = "p1"
null = {{}}
twin = "ts1"
[state]
{chr(10).join(state)}
[admin]
socket = "{self.dir}/sock"
"""
        self.config.write_text(self.head + rules)

    def __enter__(self):
        subprocess.run(["ip", "netns", "add", self.space], check=True)
        if self.wire:
            self.wire(self.space)
        log = open(self.dir / "log", "wb")
        env = {key: value for key, value in os.environ.items() if key not in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY")}
        began = time.monotonic()
        self.process = subprocess.Popen(["ip", "netns", "exec", self.space, BIN / "rvsd", self.config],
                                        stdout=log, stderr=log, env=env)
        while not re.search(rb"serving \d+ services", (self.dir / "log").read_bytes()):
            if self.process.poll() is not None or time.monotonic() - began > 600:
                raise Failure(f"rvsd did not start:\n{self.log()[-3000:]}")
            time.sleep(0.02)
        self.started = time.monotonic() - began
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        subprocess.run(["ip", "netns", "del", self.space], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def log(self):
        return (self.dir / "log").read_text(errors="replace")

    def client(self):
        return Client(self.dir / "sock")

    def status(self):
        return self.client().ask("status")

    def memory(self, what="VmRSS"):
        """MB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+)", text)[1]) / 1024

    def own_memory(self):
        """MB without what is in files: the connection table is the workers', not what a listing takes."""
        return self.memory("RssAnon")

    def commands(self):
        """{kind: {count, cpu_us, slow (sums), longest_us (most)}} over all workers. Longest and slow ones are of the
        time since the workers take packets."""
        found = {}
        for worker in self.status()["workers"]:
            for command in worker["commands"]:
                sums = found.setdefault(command["name"], {"count": 0, "cpu_us": 0, "slow": 0, "longest_us": 0.0})
                for key in ("count", "cpu_us", "slow"):
                    sums[key] += command[key]
                sums["longest_us"] = max(sums["longest_us"], command["longest_us"])
        return found


def add_commands(results, group, before, after, only=None):
    """What commands cost a worker between two looks at its counters. The kernel counts interrupts, and the host of a
    virtual machine its own work, to the time of the thread that was there: one in a hundred may be longer for that."""
    for kind, cost in sorted(after.items()):
        earlier = before.get(kind, {"count": 0, "cpu_us": 0, "slow": 0})
        count = cost["count"] - earlier["count"]
        if not count or (only and kind not in only):
            continue
        results.add(group, f"{kind}: each of {count}", (cost["cpu_us"] - earlier["cpu_us"]) / count, "us of CPU", COMMAND_US)
        results.add(group, f"{kind}: longest", cost["longest_us"], "us of CPU")
        slow = cost["slow"] - earlier["slow"]
        results.add(group, f"{kind}: {COMMAND_US:.0f} us and more", slow, "times", max(1, count // 100))


def vip(service):
    return f"10.{100 + service // 1000 % 10}.{service // 250 % 4}.{service % 250 + 1}", 80 + service // 10_000


def server(service, number, per_service):
    """Of a pool of 50,000 addresses, so that servers share them as they do in practice."""
    n = (service * per_service + number) % 50_000
    return f"10.{200 + n // 25_000}.{n // 250 % 100}.{n % 250 + 1}", 8000 + service // 500 % 1000


def rules(services, per_service, scheduler="wlc", weight=1):
    """Of a configuration file. `weight` is that of the very first server."""
    lines = []
    for s in range(services):
        address, port = vip(s)
        lines.append(f'[[service]]\nprotocol = "tcp"\naddress = "{address}"\nport = {port}\nscheduler = "{scheduler}"\n')
        for n in range(per_service):
            address, port = server(s, n, per_service)
            own = weight if (s, n) == (0, 0) else 1
            lines.append(f'[[service.server]]\naddress = "{address}"\nport = {port}\nmethod = "nat"\nweight = {own}\n')
    return "".join(lines)


def timed(times, client, op, **fields):
    began = time.perf_counter()
    client.ask(op, **fields)
    times.setdefault(op, []).append((time.perf_counter() - began) * 1e3)


def change_rules(daemon, services, changes):
    """One change after the other; {kind of change: [milliseconds]}."""
    rng, client, times = random.Random(1), daemon.client(), {}
    for i in range(changes):
        address, port = vip(rng.randrange(services))
        service = {"protocol": "tcp", "addr": address, "port": port}
        key = {"addr": f"10.220.{i // 250}.{i % 250 + 1}", "port": 8080}
        spec = {"method": "masq", "weight": 1}
        timed(times, client, "add-server", service=service, server=key, spec=spec)
        timed(times, client, "edit-server", service=service, server=key, spec={**spec, "weight": 2})
        timed(times, client, "delete-server", service=service, server=key)
        fresh = {"protocol": "tcp", "addr": f"10.120.{i // 250}.{i % 250 + 1}", "port": 443}
        timed(times, client, "add-service", service=fresh, spec={"scheduler": "wlc"})
        timed(times, client, "delete-service", service=fresh)
        timed(times, client, "set-timeouts", tcp=900 + i % 2, tcp_fin=0, udp=0)
    return times


def measure_rules(results, args, services, per_service, changes, scheduler="wlc", keep=False):
    group = f"{services} x {per_service}" + (f" {scheduler}" if scheduler != "wlc" else "") + (", kept" if keep else "")
    text = rules(services, per_service, scheduler)
    with Daemon(group, args.cores, 65536, services, services * per_service, text, keep=keep) as daemon:
        results.add(group, "start until every worker serves", daemon.started, "s")
        results.add(group, "memory of rvsd", daemon.memory(), "MB")
        results.add(group, "most memory of rvsd while it started", daemon.memory("VmHWM"), "MB")
        before = daemon.commands()
        for op, times in change_rules(daemon, services, changes).items():
            times.sort()
            if keep:
                # Workers have it as soon as without; the answer says that it is on the disk.
                results.add(group, f"{op}: median until it is on the disk", statistics.median(times), "ms", CHANGE_MS)
            else:
                results.add(group, f"{op}: median until every worker runs it", statistics.median(times), "ms", CHANGE_MS)
            results.add(group, f"{op}: 99 of 100 within", times[len(times) * 99 // 100], "ms")
        add_commands(results, group, before, daemon.commands())
        if keep:
            return
        began = time.monotonic()
        listing = subprocess.run([BIN / "rvsadm", "--socket", daemon.dir / "sock", "-Ln"], stdout=subprocess.PIPE, check=True)
        rows = listing.stdout.count(b"\n") - 3
        if rows != services * (per_service + 1):
            raise Failure(f"rvsadm -Ln printed {rows} rows")
        results.add(group, f"rvsadm -Ln, {rows} rows", time.monotonic() - began, "s")
        for name, weight in (("nothing changed", 1), ("one weight changed", 2)):
            daemon.config.write_text(daemon.head + rules(services, per_service, scheduler, weight))
            began = time.monotonic()
            daemon.client().ask("reload", discard_live=False)
            results.add(group, f"reload, {name}", time.monotonic() - began, "s")
        results.add(group, "longest turn of the control loop", daemon.status()["control_turn_ms"], "ms")


class Watch(threading.Thread):
    """Takes the most memory of processes while something else goes on, by their own account."""

    def __init__(self, *probes):
        super().__init__(daemon=True)
        self.probes, self.most, self.over = probes, [0.0] * len(probes), threading.Event()

    def run(self):
        while not self.over.wait(0.05):
            for i, probe in enumerate(self.probes):
                with contextlib.suppress(OSError, TypeError):
                    self.most[i] = max(self.most[i], probe())

    def end(self):
        self.over.set()
        self.join()
        return self.most


def resident(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


SERVICE = """[[service]]
protocol = "tcp"
address = "203.0.113.1"
port = 80
scheduler = "rr"
""" + "".join(f'[[service.server]]\naddress = "192.168.1.{11 + n}"\nport = 8080\nmethod = "nat"\n' for n in range(4))


def measure_connections(results, args, connections):
    group = f"{connections} connections"
    need = connections * 170
    folder = Path(args.memory)
    free = shutil.disk_usage(folder).free
    if free < need * 1.2:
        print(f"{group}: left out, {folder} has {free >> 20} MiB free of the {need * 1.2 / (1 << 20):.0f} it takes")
        return
    table = folder / f"rvs-scale-{os.getpid()}"
    try:
        began = time.monotonic()
        subprocess.run([BIN / "bench", "--fill", table, "--flows", str(connections)], check=True, stdout=subprocess.DEVNULL)
        results.add(group, "filling the table by itself", time.monotonic() - began, "s")
        results.add(group, "bytes of memory for each", table.stat().st_size / connections, "bytes")
        with Daemon(group, args.cores, connections, 16, 64, SERVICE, table=table) as daemon:
            results.add(group, "start, with the table taken over", daemon.started, "s")
            held = sum(worker["connections"] for worker in daemon.status()["workers"])
            if held != connections:
                raise Failure(f"{held} connections were taken over of {connections}:\n{daemon.log()[-2000:]}")
            list_all(results, group, daemon, connections)
    finally:
        table.unlink(missing_ok=True)


def list_all(results, group, daemon, connections):
    time.sleep(2)
    gaps = [worker["long_gaps"] for worker in daemon.status()["workers"]]
    before = daemon.own_memory()
    began = time.monotonic()
    rvsadm = subprocess.Popen([BIN / "rvsadm", "--socket", daemon.dir / "sock", "-Lnc"], stdout=subprocess.PIPE)
    watch = Watch(daemon.own_memory, lambda: resident(rvsadm.pid))
    watch.start()
    rows, first = -2, None
    while block := rvsadm.stdout.read1(1 << 20):
        first = first or time.monotonic() - began
        rows += block.count(b"\n")
    took = time.monotonic() - began
    own, theirs = watch.end()
    if rvsadm.wait() or rows != connections:
        raise Failure(f"rvsadm -Lnc ended with {rvsadm.returncode} after {rows} rows of {connections}")
    results.add(group, "rvsadm -Lnc: first rows after", first * 1e3, "ms")
    results.add(group, "rvsadm -Lnc: all rows", took, "s")
    results.add(group, "rvsadm -Lnc: most memory of rvsadm", theirs, "MB", GROWTH_MB)
    results.add(group, "rvsadm -Lnc: growth of rvsd", max(0.0, own - before), "MB", GROWTH_MB)
    workers = daemon.status()["workers"]
    long = sum(worker["long_gaps"] for worker in workers) - sum(gaps)
    results.add(group, "looks at the ports 1 ms late and more", long, "times")
    results.add(group, "longest time without a look, wall clock", max(w["longest_gap_us"] for w in workers) / 1e3, "ms")
    add_commands(results, group, {}, daemon.commands(), only=["dump-connections"])


def ip(space, command):
    subprocess.run(["ip", "-n", space, *command.split()], check=True)


def sync(role):
    return f'[sync]\nrole = "{role}"\ninterface = "s0"\nsyncid = 7\n'


def cpu_seconds(daemon):
    """Of the threads that a transfer keeps busy: control and peers, without workers, which poll."""
    total = 0.0
    for task in Path(f"/proc/{daemon.process.pid}/task").iterdir():
        with contextlib.suppress(OSError):
            name = (task / "comm").read_text().strip()
            if name == "rvsd" or name.startswith("rvs-sync"):
                total += int((task / "schedstat").read_text().split()[0]) / 1e9
    return total


def measure_transfer(results, args, connections):
    """One worker each: with more they would take the time that they poll from each other on two cores."""
    group = f"transfer of {connections}"
    table = Path(args.memory) / f"rvs-scale-{os.getpid()}"

    def first(space):
        ip(space, "link add s0 type veth peer name s1")
        ip(space, "address add 10.3.0.1/24 dev s0")
        ip(space, "link set s0 up")

    def second(space):
        ip(active.space, f"link set s1 netns {space} name s0")
        ip(space, "address add 10.3.0.2/24 dev s0")
        ip(space, "link set s0 up")

    try:
        subprocess.run([BIN / "bench", "--fill", table, "--flows", str(connections)], check=True, stdout=subprocess.DEVNULL)
        one, other = ("[0]", "[1]") if (os.cpu_count() or 1) > 1 else ("[0]", "[0]")
        active = Daemon("active", one, connections, 16, 64, sync("master") + SERVICE, table=table, space="a", wire=first)
        with active:
            before = cpu_seconds(active)
            with Daemon("standby", other, connections, 16, 64, sync("backup") + SERVICE, space="b", wire=second) as standby:
                copied, until = None, time.monotonic() + 300
                while copied is None:
                    listing = subprocess.run([BIN / "rvsadm", "--socket", standby.dir / "sock", "-L", "--daemon", "--json"],
                                             stdout=subprocess.PIPE, check=True)
                    peers = [peer for daemon in json.loads(listing.stdout)["daemons"] for peer in daemon["peers"]]
                    copied = next((peer for peer in peers if peer["transfers"]), None)
                    if time.monotonic() > until:
                        raise Failure(f"no table came: {peers}\n{standby.log()[-2000:]}")
                    time.sleep(0.1)
                held, until = 0, time.monotonic() + 30
                while held != connections:
                    held = sum(worker["connections"] for worker in standby.status()["workers"])
                    if time.monotonic() > until:
                        raise Failure(f"{held} connections came of {connections}:\n{standby.log()[-2000:]}")
                    time.sleep(0.1)
                results.add(group, "from the question to the last entry", copied["copied_ms"] / 1e3, "s",
                            TRANSFER_S * connections / 1e6)
                results.add(group, "processor time beside workers, active", cpu_seconds(active) - before, "s")
                results.add(group, "processor time beside workers, standby", cpu_seconds(standby), "s")
                for side, daemon, kind in (("active", active, "collect-connections"), ("standby", standby, "put-connections")):
                    add_commands(results, f"{group}, {side}", {}, daemon.commands(), only=[kind])
    finally:
        table.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--only", choices=["rules", "connections", "transfer"])
    parser.add_argument("--changes", type=int, default=200, help="changes of each kind")
    parser.add_argument("--cores", default="[0, 1]" if (os.cpu_count() or 1) > 1 else "[0]", help="cores of the workers")
    parser.add_argument("--memory", default="/dev/shm", help="file system in memory for the connection table")
    parser.add_argument("--out", type=Path, default=REPO / "target" / "bench" / "scale.json")
    args = parser.parse_args()
    for program in ("rvsd", "rvsadm", "bench"):
        if not (BIN / program).exists():
            print(f"scale: {BIN}/{program} is missing; run make bench-scale", file=sys.stderr)
            return 2
    scale = 10 if args.quick else 1
    results, where = Results(), machine()
    print(line(where))
    try:
        if args.only in (None, "rules"):
            measure_rules(results, args, 1000 // scale, 10, args.changes)
            measure_rules(results, args, 10_000 // scale, 10, args.changes)
            measure_rules(results, args, 10_000 // scale, 10, args.changes, keep=True)
            measure_rules(results, args, 10_000 // scale, 100, args.changes)
            for scheduler in ("wlc", "wrr", "mh"):
                measure_rules(results, args, 1000 // scale, 1000, args.changes // 4, scheduler)
        if args.only in (None, "connections"):
            measure_connections(results, args, 10_000_000 // scale)
        if args.only in (None, "transfer"):
            measure_transfer(results, args, 1_000_000 // scale)
    except Failure as failure:
        print(f"scale: {failure}", file=sys.stderr)
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"machine": where, "rows": results.rows}, indent=1) + "\n")
    print(args.out)
    for row in results.missed():
        print(f"beyond what is wanted: {row['group']}: {row['name']}: {row['value']} {row['unit']}")
    return 1 if results.missed() else 0


if __name__ == "__main__":
    sys.exit(main())
