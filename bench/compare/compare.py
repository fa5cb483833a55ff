#!/usr/bin/python3
"""RVS next to what else balances TCP on this machine: the same client, servers, cables and loads for each.

    compare.py [--seconds N] [--rounds N] [--only NAME...]

Systems: `direct` (no balancer, the middle machine only routes), `rvs` (NAT, af_packet ports), `nftables` (DNAT), `ipvs`
(the kernel's, NAT), `haproxy` and `nginx` (TCP proxies). What this kernel or system has not is named and left out.

Loads: `keepalive` (wrk, 64 connections that stay), `new` (wrk, each request on a new connection) and `bulk` (iperf3,
4 connections). Cables are veth pairs without offloads, as wires have none; so bulk figures of kernel paths are lower
than a host with TSO has them. Results: a table, target/compare/latest.json and target/compare/latest.png.
"""
import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "control" / "tests" / "e2e"), str(REPO / "bench")]
sys.dont_write_bytecode = True
from lab import (TARGET, VIPS, Failure, Lab, Skip, address_commands, at, end_on_signals, need_build,  # noqa: E402
                 remove_leftovers, wait_for)
from place import line, machine  # noqa: E402

VIP = VIPS["nat"][0]
HTTP, IPERF = 80, 5201
CONNECTIONS = 64
TICKS = os.sysconf("SC_CLK_TCK")


class System:
    """One way to balance. `start` makes VIP:80 and VIP:5201 work in the lab's middle namespace; `pids` are its programs."""

    name = ""

    def __init__(self, lab):
        self.lab = lab
        self.pids = []

    def start(self):
        raise NotImplementedError

    def host(self):
        return VIP

    def plain_addresses(self):
        """The kernel of the middle namespace has the ports itself and routes between them."""
        lb = self.lab.lb
        lb.sh("sysctl -qw net.ipv4.ip_forward=1")
        lb.batch(*address_commands("f0", "b0"))
        lb.batch("link set f0 up", "link set b0 up")

    def spawn(self, argv, name):
        program = self.lab.lb.spawn(argv, name)
        self.pids.append(program.pid)
        return program

    def cpu(self):
        """CPU seconds that its programs and their children have used."""
        return sum(process_cpu(pid) for pid in with_children(self.pids))


class Direct(System):
    name = "direct"

    def start(self):
        self.plain_addresses()

    def host(self):
        return self.lab.servers[0].addr


class Rvs(System):
    name = "rvs"

    def start(self):
        self.pids.append(self.lab.start().pid)
        for port, servers in services(self.lab):
            self.lab.service("nat", port=port, servers=servers, families=(4,))


class Nftables(System):
    name = "nftables"

    def start(self):
        need("nft")
        self.plain_addresses()
        rows = ""
        for port, servers in services(self.lab):
            chosen = ", ".join(f"{number} : {server.addr}" for number, server in enumerate(servers))
            rows += f"ip daddr {VIP} tcp dport {port} dnat to numgen inc mod {len(servers)} map {{ {chosen} }}\n"
        rules = f"""table ip balance {{
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                {rows}
            }}
        }}"""
        result = self.lab.lb.run(["nft", "-f", "-"], stdin=rules, fail=False)
        if result.returncode:
            raise Skip(f"nftables cannot do DNAT in this kernel: {result.stderr.strip().splitlines()[0]}")


class Ipvs(System):
    name = "ipvs"

    def start(self):
        subprocess.run(["modprobe", "-q", "ip_vs"], capture_output=True)
        if not Path("/proc/net/ip_vs").exists():
            raise Skip(f"this kernel ({platform.release()}) has no IPVS")
        need("ipvsadm")
        self.plain_addresses()
        for port, servers in services(self.lab):
            self.lab.lb.run(["ipvsadm", "-A", "-t", at(VIP, port), "-s", "rr"])
            for server in servers:
                self.lab.lb.run(["ipvsadm", "-a", "-t", at(VIP, port), "-r", at(server.addr, port), "-m"])


HAPROXY = """global
    maxconn 4000
    nbthread 1
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
"""


class Haproxy(System):
    name = "haproxy"

    def start(self):
        need("haproxy")
        self.plain_addresses()
        text = HAPROXY
        for port, servers in services(self.lab):
            text += f"listen on{port}\n    bind {VIP}:{port}\n    balance roundrobin\n"
            text += "".join(f"    server s{server.number} {server.addr}:{port}\n" for server in servers)
        config = self.lab.dir / "haproxy.cfg"
        config.write_text(text)
        self.spawn(["haproxy", "-db", "-f", config], "haproxy")


class Nginx(System):
    name = "nginx"
    MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

    def start(self):
        need("nginx")
        if not self.MODULE.exists():
            raise Skip("nginx has no stream module here: apt-get install libnginx-mod-stream")
        self.plain_addresses()
        directory = self.lab.dir / "proxy"
        directory.mkdir()
        text = f"load_module {self.MODULE}; daemon off; user root; worker_processes 1; pid {directory}/pid; error_log {directory}/err;\n"
        text += "events { worker_connections 4000; }\nstream {\n"
        for port, servers in services(self.lab):
            upstream = "".join(f" server {server.addr}:{port};" for server in servers)
            text += f"upstream u{port} {{{upstream} }}\nserver {{ listen {VIP}:{port}; proxy_pass u{port}; }}\n"
        config = directory / "nginx.conf"
        config.write_text(text + "}\n")
        self.spawn(["nginx", "-e", directory / "err", "-c", config], "nginx.proxy")


SYSTEMS = (Direct, Rvs, Nftables, Ipvs, Haproxy, Nginx)


def services(lab):
    """Ports and their servers. iperf3's connections have to meet at one server."""
    return ((HTTP, lab.servers), (IPERF, lab.servers[:1]))


def need(program):
    if not shutil.which(program):
        raise Skip(f"{program} is not installed")


def with_children(pids):
    """These processes and all that came of them."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue    # it ended meanwhile
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def process_cpu(pid):
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def machine_cpu():
    """CPU seconds of the whole machine that were not idle."""
    fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS


UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


def parse_wrk(text):
    """Requests per second and latencies in milliseconds."""
    row = {"requests_per_second": float(re.search(r"Requests/sec:\s*([\d.]+)", text)[1])}
    for share, value, unit in re.findall(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s|m)$", text, re.M):
        row[f"p{share}_ms"] = round(float(value) * UNITS[unit], 3)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    row["errors"] = sum(map(int, errors.groups())) if errors else 0
    return row


def wrk(system, seconds, *options):
    lab = system.lab
    words = ["wrk", "-t", "1", "-c", CONNECTIONS, "-d", f"{seconds}s", "--latency", *options, f"http://{at(system.host(), 80)}/"]
    return parse_wrk(lab.client.run(words, seconds + 30).stdout)


def keepalive(system, seconds):
    return wrk(system, seconds)


def new(system, seconds):
    return wrk(system, seconds, "-H", "Connection: close")


def bulk(system, seconds):
    out = system.lab.client.run(["iperf3", "-J", "-c", system.host(), "-t", seconds, "-P", 4], seconds + 30, fail=False)
    report = json.loads(out.stdout)
    if "error" in report:
        raise Failure(f"iperf3: {report['error']}")
    return {"gbit_per_second": round(report["end"]["sum_received"]["bits_per_second"] / 1e9, 3)}


LOADS = {"keepalive": keepalive, "new": new, "bulk": bulk}


def measure(system, load, seconds):
    own, machine, began = system.cpu(), machine_cpu(), time.monotonic()
    row = LOADS[load](system, seconds)
    took = time.monotonic() - began
    return {**row, "own_cores": round((system.cpu() - own) / took, 3), "machine_cores": round((machine_cpu() - machine) / took, 3)}


def one_system(kind, options):
    """Rows by load of one system, in a lab of its own."""
    with Lab(servers=2) as lab:
        for server in lab.servers:
            server.spawn(["iperf3", "-s"], f"iperf3.{server.short}")
        system = kind(lab)
        system.start()
        # Several clients at a time from few addresses: ports of connections that are over come soon again.
        lab.client.sh("sysctl -qw net.ipv4.ip_local_port_range='1024 65000' net.ipv4.tcp_tw_reuse=1")
        wait_for(f"an answer through {system.name}", lambda: lab.client.curl(f"http://{at(system.host(), 80)}/", seconds=2))
        rows = {}
        for load in LOADS:
            rows[load] = measure(system, load, options.seconds)
            print(f"  {system.name:9} {load:10} {json.dumps(rows[load])}", flush=True)
            time.sleep(0.5)     # the ends of what was in flight
        return rows


def median_rows(rounds):
    """Of each figure the median of the rounds."""
    return {load: {key: statistics.median(one[load][key] for one in rounds if key in one[load]) for key in rounds[0][load]} for load in LOADS}


COLUMNS = (("keep-alive req/s", "keepalive", "requests_per_second", "{:,.0f}"), ("p50 ms", "keepalive", "p50_ms", "{:.2f}"),
           ("p99 ms", "keepalive", "p99_ms", "{:.2f}"), ("own CPU", "keepalive", "own_cores", "{:.2f}"),
           ("new conn/s", "new", "requests_per_second", "{:,.0f}"), ("p50 ms", "new", "p50_ms", "{:.2f}"), ("p99 ms", "new", "p99_ms", "{:.2f}"),
           ("own CPU", "new", "own_cores", "{:.2f}"), ("Gbit/s", "bulk", "gbit_per_second", "{:.2f}"), ("own CPU", "bulk", "own_cores", "{:.2f}"))


def table(report):
    lines = ["| system | " + " | ".join(heading for heading, *_ in COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for name, rows in report["systems"].items():
        lines.append(f"| {name} | " + " | ".join(write.format(rows[load][key]) if key in rows[load] else "-" for _, load, key, write in COLUMNS) + " |")
    lines += [f"\nleft out: {name}: {why}" for name, why in report["left_out"].items()]
    return "\n".join(lines)


def picture(report, path):
    program = next((TARGET / build / "bench" for build in ("release", "debug") if (TARGET / build / "bench").exists()), None)
    if not program:
        return False
    bars = [[f"{name} {what}", rows[load]["requests_per_second"]] for load, what in (("keepalive", "keep"), ("new", "new"))
            for name, rows in report["systems"].items()]
    m = report["machine"]
    drawing = {"title": "Requests per second, 64 connections: kept open (keep) and one each (new)", "y": "requests/s", "bars": bars,
               "note": f"{m['cpu']}; Linux {m['kernel']}; {m['commit']}; veth without offloads"}
    subprocess.run([program, "--plot", "-", "--picture", path], input=json.dumps(drawing), text=True, check=True)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=[kind.name for kind in SYSTEMS])
    options = parser.parse_args()
    need_build()
    for program in ("wrk", "iperf3"):
        if not shutil.which(program):
            sys.exit(f"compare: {program} is not installed; run .ci/install-deps compare")
    end_on_signals()
    remove_leftovers()
    rounds, report = {}, {"machine": machine(), "seconds": options.seconds, "rounds": options.rounds, "systems": {}, "left_out": {}}
    try:
        # Round by round, so that what else the machine does strikes all alike.
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", flush=True)
            for kind in SYSTEMS:
                if (options.only and kind.name not in options.only) or kind.name in report["left_out"]:
                    continue
                try:
                    rounds.setdefault(kind.name, []).append(one_system(kind, options))
                except Skip as reason:
                    report["left_out"][kind.name] = str(reason)
                except Failure as failure:
                    print(f"  {kind.name}: {failure}", flush=True)
                    if number == options.rounds - 1 and not rounds.get(kind.name):
                        report["left_out"][kind.name] = f"failed: {str(failure).splitlines()[0]}"
    except KeyboardInterrupt:
        print("interrupted; everything removed")
        return 130
    report["systems"] = {name: median_rows(done) for name, done in rounds.items() if done}
    out = TARGET / "compare"
    out.mkdir(parents=True, exist_ok=True)
    (out / "latest.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{line(report['machine'])}\n")
    print(table(report))
    drawn = picture(report, out / "latest.png")
    print(f"\n{out}/latest.json" + (f" {out}/latest.png" if drawn else "; no picture: cargo build -p bench first"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
