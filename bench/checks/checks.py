#!/usr/bin/python3
"""Health checks at full rate, and whether VRRP adverts stay on time next to them.

    checks.py [--seconds N] [--only NAME...] [--connections N] [--instances N]

One rvsd has a million connections in its table, virtual routers at 100 ms, and checks a thousand servers. All the
while connections are listed and the configuration is reloaded. Servers are addresses of the same namespace, where nginx
answers all of them. Runs: `idle` (no check), `tcp` (goal: 10,000 connections a second), `https` (1,000 sessions a second).

The next check of a server begins `delay_loop` after the last one ended, so what a check takes, with its waits for a core,
comes out of the rate. More servers are checked than the goal would need of checks that take no time.

Printed: checks a second as nginx counted them, how long one took on average, processor time of rvsd's threads and of nginx,
listings and reloads that were made, and how late adverts were: the time between two of them beyond 100 ms, by the kernel's time stamps, where the VRRP thread
sends them (on the twin) and at the switch. The goal is 5 ms at p99.9.
"""
import argparse
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "control" / "tests" / "e2e"))
sys.dont_write_bytecode = True
from cases.https import GOOD, certificates  # noqa: E402
from lab import (Lab, Skip, check, end_on_signals, need_build, need_programs, remove_leftovers, threads, ticks,  # noqa: E402
                 wait_for)
from pair import instance  # noqa: E402

VIP = "10.1.0.100"
INTERVAL = 0.1
GOAL_MS = 5.0
# Servers, their port, and checks a second that are to be made. The next check comes 95 to 100 ms after one.
CHECKS = {"tcp": (1200, 8080, 10_000), "https": (180, 8443, 1_000)}
DELAY = 0.0975
TICKS = os.sysconf("SC_CLK_TCK")

NGINX = """daemon off; user root; master_process off; pid {dir}/responder.pid; error_log {dir}/responder.err;
events {{ worker_connections 16384; }}
worker_rlimit_nofile 65536;
http {{
    access_log off; client_body_temp_path {dir}/rb; proxy_temp_path {dir}/rp;
    fastcgi_temp_path {dir}/rf; uwsgi_temp_path {dir}/ru; scgi_temp_path {dir}/rs;
    ssl_certificate {tls}/{name}.pem; ssl_certificate_key {tls}/{name}.key;
    server {{
        listen 8080 backlog=8192; listen 8443 ssl backlog=8192;
        location = /status {{ stub_status; }}
        location / {{ return 200 "ok\\n"; }}
    }}
}}
"""

FILLED = """
[[service]]
protocol = "udp"
address = "{vip}"
port = 9
scheduler = "rr"
[[service.server]]
address = "10.2.0.11"
method = "nat"
"""

CHECKED = """
[[service]]
protocol = "tcp"
address = "{vip}"
port = 80
scheduler = "wrr"
[[service.check]]
type = "{kind}"
port = {port}
delay_loop = "{delay}"
delay_before_retry = "{retry}"
timeout = "2s"
warmup = "1s"
"""

def servers(count):
    return [f"10.64.{n >> 8}.{n & 255}" for n in range(1, count + 1)]


def checked(kind, retry):
    """Checks of `kind`, at the rate of the goal."""
    count, port, _ = CHECKS[kind]
    text = CHECKED.format(vip=VIP, kind=kind, port=port, delay="100ms", retry=retry)
    return text + "".join(f'[[service.server]]\naddress = "{addr}"\nmethod = "nat"\n' for addr in servers(count))


class Bench:
    def __init__(self, lab, options):
        self.lab, self.options = lab, options
        self.tls = certificates(lab)

    def config(self, kind, retry="1s"):
        text = FILLED.format(vip=VIP) + (checked(kind, retry) if kind else "")
        numbers = range(1, self.options.instances + 1)
        return text + "".join(instance(200, name=f"v{n}", vrid=n, vips=(f"10.1.1.{n}/32",)) for n in numbers)

    def start(self):
        lab = self.lab
        # Every address of the network is one of this host.
        lab.lb.sh("sysctl -qw net.ipv4.ip_local_port_range='1024 65000' net.core.somaxconn=8192; "
                  "ip route add local 10.64.0.0/16 dev lo")
        config = lab.dir / "responder.conf"
        config.write_text(NGINX.format(dir=lab.dir, tls=self.tls, name=GOOD))
        self.responder = lab.lb.spawn(["nginx", "-e", lab.dir / "responder.err", "-c", config], "responder")
        wait_for("the responder", lambda: self.accepted() >= 0)
        lab.servers[0].run(["nft", "add table inet deaf; add chain inet deaf in { type filter hook input priority 0; }; "
                            "add rule inet deaf in udp dport 9 drop"])
        room = self.options.connections * 5 // 4
        lab.start(services=self.config(None), worker=f"connections = {room}\nmax_servers = 4096")
        lab.adm("--set 0 0 3600")

    def accepted(self):
        """Connections that the responder took, but for this one."""
        text = self.lab.lb.curl("http://127.0.0.1:8080/status", seconds=10)
        return int(text.splitlines()[2].split()[0])

    def fill(self):
        """UDP packets from ever new ports and addresses, until the table has as many connections."""
        wanted, made = self.options.connections, 0
        code = Path(__file__).resolve()
        while (have := self.count()) < wanted:
            check(made < 10 * wanted, f"the table has {have} connections of {wanted} after {made} packets")
            share = min(wanted - have, 100_000)
            self.lab.client.run(["/usr/bin/python3", code, "--fill", VIP, str(made), str(share)], seconds=300)
            made += share
            time.sleep(0.5)

    def count(self):
        return sum(worker["connections"] for worker in self.lab.status()["workers"])

    def run(self, kind):
        lab = self.lab
        text = lab.config.read_text()
        head = text[:text.index("\n[[service]]")]
        lab.config.write_text(head + self.config(kind))
        lab.adm("reload", seconds=30)
        sent, crossed = (lab.dir / f"{place}.{kind}" for place in ("sent", "crossed"))
        recorders = [lab.peer(lab.lb, "wire.py", sent, "tf0"), lab.peer(lab.switch, "wire.py", crossed)]
        time.sleep(5)
        stop, done = threading.Event(), {"listings": 0, "reloads": 0}

        def list_all():
            while not stop.is_set():
                subprocess.run(lab.adm_argv("-Lnc"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
                done["listings"] += 1

        def reload():
            while not stop.wait(1):
                lab.config.write_text(head + self.config(kind, ["1s", "2s"][done["reloads"] % 2]))
                lab.adm_quiet("reload")
                done["reloads"] += 1
        before, used, began = self.accepted(), self.used(), time.monotonic()
        threads = [threading.Thread(target=work) for work in (list_all, reload)]
        for thread in threads:
            thread.start()
        time.sleep(self.options.seconds)
        seconds, made = time.monotonic() - began, self.accepted() - before - 1
        stop.set()
        used = {name: (ticks - used.get(name, 0)) / TICKS / seconds for name, ticks in self.used().items()}
        for thread in threads:
            thread.join()
        for recorder in recorders:
            recorder.stop()
        self.report(kind, made / seconds, used, done,
                    {"sent": self.late(sent, began), "at the switch": self.late(crossed, began)})
        dead = [line for line in lab.adm_quiet("health").splitlines() if line.startswith("down")]
        if dead:
            print(f"  {len(dead)} servers count as down, the first: {dead[0]}")

    def used(self):
        """Processor time of rvsd's threads by their names, in ticks."""
        found = {}
        for name, fields in threads(self.lab.rvsd.pid):
            found[name] = found.get(name, 0) + ticks(fields)
        found["nginx"] = sum(ticks(fields) for _, fields in threads(self.responder.pid))
        return found

    def late(self, record, since):
        """Milliseconds that each advert came after its time."""
        last, late = {}, []
        for line in record.read_text().splitlines():
            row = json.loads(line) if line.endswith("}") else {}
            if row.get("kind") != "advert" or row["t"] < since:
                continue
            if row["vrid"] in last:
                late.append(max(0.0, (row["t"] - last[row["vrid"]] - INTERVAL) * 1000))
            last[row["vrid"]] = row["t"]
        return sorted(late)

    def report(self, kind, rate, used, done, late):
        goal = ""
        if kind:
            count, _, wanted = CHECKS[kind]
            goal = f" of {count} servers (goal of {wanted}: {'met' if rate >= wanted else 'missed'})"
            goal += f", {1000 * (count / rate - DELAY):.1f} ms each" if rate > 0 else ""
        print(f"{kind or 'idle'}: {rate:.0f} checks/s{goal}, {self.count()} connections, "
              f"{done['listings']} listings and {done['reloads']} reloads in {self.options.seconds} s", flush=True)
        threads = sorted(used.items(), key=lambda item: -item[1])[:6]
        print("  processor time: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in threads))
        for where, values in late.items():
            if not values:
                print(f"  {where}: no advert")
                continue
            at = {name: values[min(len(values) - 1, int(len(values) * share))]
                  for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("most", 1))}
            verdict = "met" if at["p99.9"] < GOAL_MS else "missed"
            print(f"  {where}: {len(values)} adverts late by ms: "
                  + ", ".join(f"{name} {value:.2f}" for name, value in at.items())
                  + f" (goal of {GOAL_MS:.0f} ms at p99.9: {verdict})", flush=True)


def send_packets(vip, first, count):
    """In the client's namespace: UDP packets without a checksum, each from another address or port."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    to = socket.inet_aton(vip)
    for number in range(first, first + count):
        source = struct.pack("!BBH", 172, 16 + (number >> 16 & 15), number & 0xffff)
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 32, 0, 0, 64, 17, 0, source, to)
        sock.sendto(head + struct.pack("!HHHH4s", 1024 + (number >> 20), 9, 12, 0, b"fill"), (vip, 0))
        # What comes faster than new connections are made is refused.
        if number % 100 == 99:
            time.sleep(0.002)


def main():
    if sys.argv[1:2] == ["--fill"]:
        return send_packets(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--only", nargs="+", choices=["idle", "tcp", "https"], default=["idle", "tcp", "https"])
    parser.add_argument("--connections", type=int, default=1_000_000)
    parser.add_argument("--instances", type=int, default=10)
    options = parser.parse_args()
    end_on_signals()
    need_build()
    remove_leftovers()
    try:
        need_programs("nginx", "openssl", "nft")
        with Lab(servers=1) as lab:
            bench = Bench(lab, options)
            bench.start()
            bench.fill()
            for name in options.only:
                bench.run(None if name == "idle" else name)
    except Skip as lacks:
        print(f"cannot run here: {lacks}")
    return None


main()
