"""A small network of namespaces with one rvsd in the middle.

              front 10.1.0.0/24  fd01::/64             back 10.2.0.0/24  fd02::/64

    client ── c0 ═╗                                           ╔═ s0 ── server 1   10.2.0.11  fd02::11
              .2  ╠═ front bridge ══ f0 [ rvsd ] b0 ══ back ══╬═ s0 ── server 2   10.2.0.12  fd02::12
                  ║                  .1          .1   bridge  ╚═ s0 ── server 3   10.2.0.13  fd02::13
                  ╚══ d0 of each server (.11, .12, .13): the way back in DR and TUN mode

Everything lives in namespaces with a prefix of this process (`rvs<pid>-`), except the files, which
live in one temporary directory. `Lab.close` removes all of it; it also runs after a failure or Ctrl-C.
The balancer's namespace has ip_forward=0, so no packet crosses it but through rvsd. f0 and b0 are
rvsd's; its kernel twins there are tf0 and tb0, and those carry the addresses.
"""
import ctypes
import functools
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
BIN = Path(os.environ.get("RVS_BIN", TARGET / "debug"))
PREFIX = f"rvs{os.getpid()}-"
# All deadlines are multiplied by this; raise it on a machine that does much else.
PATIENCE = float(os.environ.get("RVS_PATIENCE", "2"))

CLIENT = ("10.1.0.2", "fd01::2")
FRONT = ("10.1.0.1", "fd01::1")
BACK = ("10.2.0.1", "fd02::1")
# One virtual address of each family per forwarding method, so that all three can run side by side.
VIPS = {"nat": ("10.1.0.100", "fd01::100"), "dr": ("10.1.0.101", "fd01::101"), "tun": ("10.1.0.102", "fd01::102")}
METHOD = {"nat": "-m", "dr": "-g", "tun": "-i"}
DIRECT_TABLE = 100


class Failure(Exception):
    """A test did not see what it expected."""


class Died(Exception):
    """A program ended that should run."""


class Skip(Exception):
    """A test cannot run here; the text says what is missing."""


def server_addr(number, family=4):
    return f"10.2.0.{10 + number}" if family == 4 else f"fd02::{10 + number}"


def at(addr, port):
    """`addr:port` as rvsadm and curl write it."""
    return f"[{addr}]:{port}" if ":" in addr else f"{addr}:{port}"


def paced(addr, rate, size="10m"):
    """URL of a payload that the server sends at this rate, such as "200k". curl's own --limit-rate takes several times as
    much on a machine with nothing else to do, and catches up after a pause."""
    return f"http://{at(addr, 80)}/paced/{size}?rate={rate}"


def family_of(addr):
    return 6 if ":" in addr else 4


def full_length(addr):
    """Prefix length of a single address."""
    return 128 if ":" in addr else 32


def threads(pid):
    """(name, fields) of each thread of a process: /proc/PID/task/TID/stat from its third field (the state) on."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        name, fields = stat.read_text().split("(", 1)[1].rsplit(")", 1)
        yield name, fields.split()


def ticks(fields):
    """Processor time of a thread, in clock ticks."""
    return int(fields[11]) + int(fields[12])


def nodad(addr):
    """The word that makes an IPv6 address usable at once."""
    return " nodad" if ":" in addr else ""


def address_commands(front, back):
    """`ip` commands that give the twins the balancer's own addresses and the VIPs."""
    commands = []
    for device, addresses in ((front, FRONT), (back, BACK)):
        commands += [f"address add {addresses[0]}/24 dev {device}", f"address add {addresses[1]}/64 dev {device} nodad"]
    for vip in (vip for vips in VIPS.values() for vip in vips):
        commands.append(f"address add {vip}/{full_length(vip)} dev {front}{nodad(vip)}")
    return commands


def check(condition, message):
    if not condition:
        raise Failure(message)


def wait_for(what, probe, seconds=10):
    """Polls `probe` until it returns something true, and returns that. `what` names it on failure."""
    deadline = time.monotonic() + seconds * PATIENCE
    last = None
    while True:
        try:
            value = probe()
            if value:
                return value
            last = value
        except (Failure, OSError) as error:
            last = error
        if time.monotonic() > deadline:
            raise Failure(f"waited {seconds * PATIENCE:.0f} s for {what}; last: {last!r}")
        time.sleep(0.02)


def _child_setup():
    """Runs in the child: it dies with us even if we are killed with -9."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Program:
    """A program we started. Its output goes to a file."""

    def __init__(self, name, argv, log, env=None):
        self.name, self.argv, self.log = name, argv, log
        with open(log, "ab") as out:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env,
                                            start_new_session=True, preexec_fn=_child_setup)

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process.poll() is None

    def signal(self, number):
        if self.running():
            os.kill(self.pid, number)

    def wait(self, seconds=10):
        try:
            return self.process.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} did not end within {seconds * PATIENCE:.0f} s") from None

    def stop(self, seconds=5):
        """SIGTERM, then SIGKILL to the whole session; returns the exit status."""
        if self.running():
            self.process.terminate()
            try:
                self.process.wait(seconds * PATIENCE)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return self.process.wait()

    def output(self):
        return Path(self.log).read_text(errors="replace")


class Namespace:
    def __init__(self, lab, name):
        self.lab, self.short, self.name = lab, name, PREFIX + name

    def argv(self, command):
        words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
        return ["ip", "netns", "exec", self.name] + words

    def run(self, command, seconds=20, fail=True, stdin=None):
        """Runs a command (a list, or a string without shell syntax) to its end."""
        return run(self.argv(command), seconds, fail, stdin)

    def sh(self, script, seconds=20):
        return self.run(["sh", "-ec", script], seconds).stdout

    def ip(self, arguments, fail=True):
        return run(["ip", "-n", self.name] + shlex.split(arguments), fail=fail).stdout

    def batch(self, *commands, options=()):
        """Several `ip` commands in one process (starting one costs much in the emulated host)."""
        run(["ip", *options, "-n", self.name, "-batch", "-"], stdin="\n".join(commands) + "\n")

    def spawn(self, command, name=None, env=None):
        return self.lab.spawn(self.argv(command), name or self.short, env)

    def curl(self, url, *options, seconds=15, fail=True):
        """One GET; returns the body. A failed request is a Failure with curl's own words."""
        result = self.run(["curl", "-gsS", "--noproxy", "*", "-m", int(seconds * PATIENCE), *options, url],
                          seconds + 5, fail=False)
        if fail and result.returncode:
            raise Failure(f"curl {url}: exit {result.returncode}: {result.stderr.strip()}")
        return result.stdout.strip()


def run(argv, seconds=20, fail=True, stdin=None):
    try:
        result = subprocess.run(argv, capture_output=True, text=True, errors="replace", input=stdin, timeout=seconds * PATIENCE,
                                stdin=subprocess.DEVNULL if stdin is None else None)
    except subprocess.TimeoutExpired:
        raise Failure(f"{shlex.join(argv)}: not done after {seconds * PATIENCE:.0f} s") from None
    if fail and result.returncode:
        raise Failure(f"{shlex.join(argv)}: exit {result.returncode}\n{result.stdout}{result.stderr}")
    return result


NGINX = """daemon off; user root; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.err;
events {{ worker_connections 1024; }}
http {{
    access_log {dir}/access.log; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    sendfile on; keepalive_requests 1000000;
    server {{
        listen 80; listen [::]:80;
        location = / {{ return 200 "{name}\\n"; }}
        location /files/ {{ alias {files}/; add_header X-Server "{name}"; }}
        location /paced/ {{ alias {files}/; add_header X-Server "{name}"; limit_rate $arg_rate; sendfile_max_chunk 8k; }}
    }}
}}
"""


class Lab:
    """`with Lab(servers=2) as lab:` builds the network; `lab.start()` starts rvsd and puts the addresses up."""

    def __init__(self, servers=2, label="", echo=None):
        self.programs, self.spaces, self.rvsd = [], [], None
        self.echo = echo or (lambda text: None)
        self.dir = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.dir.chmod(0o755)
        self.socket = self.dir / "rvsd.sock"
        self.config = self.dir / "rvsd.toml"
        self.peers = HERE / "peers"
        self.count = servers

    # ---- building and removing -------------------------------------------------------------

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception):
        self.close()

    def space(self, name):
        space = Namespace(self, name)
        run(["ip", "netns", "add", space.name])
        self.spaces.append(space)
        space.sh("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 "
                 "net.ipv6.conf.default.router_solicitations=0 net.ipv4.conf.all.rp_filter=0 "
                 "net.ipv4.conf.default.rp_filter=0 net.ipv4.ping_group_range='0 0'; ip link set lo up")
        return space

    def cable(self, space, device, bridge, *addresses, plain=True):
        """A veth from `space` to a port of `bridge`. `plain`: frames carry complete checksums, as on a wire.
        A veth otherwise leaves TCP and UDP checksums undone, and an af_packet port has no way to see that."""
        port = f"{space.short}.{device}"
        self.switch.batch(f"link add {port} type veth peer name {device} netns {space.name}", f"link set {port} master {bridge} up")
        if plain:
            space.run(f"ethtool -K {device} tx off")
        space.batch(f"link set {device} up", *[f"address add {address} dev {device}{nodad(address)}" for address in addresses])

    def build(self):
        self.build_switch()
        self.client = self.space("client")
        self.cable(self.client, "c0", "front", f"{CLIENT[0]}/24", f"{CLIENT[1]}/64")
        self.client.batch(f"route add 10.2.0.0/24 via {FRONT[0]}", f"route add fd02::/64 via {FRONT[1]}")
        self.build_balancers()
        self.servers = []
        for number in range(1, self.count + 1):
            self.add_server(number)

    def build_switch(self):
        self.switch = self.space("switch")
        # A switch looks at no IP header; Linux bridges may, and drop what is malformed.
        self.switch.sh("for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 > $f; done")
        for bridge in ("front", "back"):
            self.switch.batch(f"link add {bridge} type bridge mcast_snooping 0 forward_delay 0", f"link set {bridge} up")

    def build_balancers(self):
        self.lb = self.balancer_space("lb")

    def balancer_space(self, name):
        """A namespace with f0 and b0, whose kernel forwards nothing."""
        space = self.space(name)
        space.sh("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
        self.cable(space, "f0", "front")
        self.cable(space, "b0", "back")
        return space

    def add_server(self, number):
        """A namespace with nginx that says "server N" and serves /files/. Its default route is the balancer;
        answers from a DR or TUN address leave by d0, straight to the client."""
        space = self.space(f"server{number}")
        space.number = number
        space.addr, space.addr6 = server_addr(number), server_addr(number, 6)
        self.cable(space, "s0", "back", f"{space.addr}/24", f"{space.addr6}/64")
        space.sh("sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2")
        self.cable(space, "d0", "front", f"10.1.0.{10 + number}/32", f"fd01::{10 + number}/128")
        commands = [f"route add default via {BACK[0]}", f"route add default via {BACK[1]}",
                    f"route add 10.1.0.0/24 dev d0 table {DIRECT_TABLE}", f"route add fd01::/64 dev d0 table {DIRECT_TABLE}"]
        direct = VIPS["dr"] + VIPS["tun"]
        space.batch(*commands, *[f"address add {vip}/{full_length(vip)} dev lo" for vip in direct])
        for family in (4, 6):
            space.batch(*[f"rule add from {vip} lookup {DIRECT_TABLE}" for vip in direct if family_of(vip) == family], options=[f"-{family}"])
        self.nginx(space, f"server {number}")
        self.servers.append(space)
        return space

    def nginx(self, space, name):
        directory = self.dir / space.short
        directory.mkdir(exist_ok=True)
        config = directory / "nginx.conf"
        config.write_text(NGINX.format(dir=directory, name=name, files=payloads()))
        space.nginx = space.spawn(["nginx", "-e", directory / "nginx.err", "-c", config], f"nginx.{space.short}")
        wait_for(f"nginx of {space.short}", lambda: space.curl("http://127.0.0.1/", seconds=2) == name)
        return space.nginx

    def peer(self, space, program, *arguments, ready=True):
        """Starts one of the small programs in peers/; waits until it has written "ready"."""
        started = space.spawn(["/usr/bin/python3", "-I", "-S", HERE / "peers" / program, *arguments], f"{program}.{space.short}")
        if ready:
            wait_for(f"{program} in {space.short}", lambda: "ready" in started.output() or self._died(started))
        return started

    @staticmethod
    def _died(program):
        if not program.running():
            raise Died(f"{program.name} ended with status {program.process.returncode}: {program.output()[-600:]}")

    def spawn(self, argv, name, env=None):
        log = self.dir / f"{name}.{len(self.programs)}.log"
        program = Program(name, [str(word) for word in argv], log, env)
        self.programs.append(program)
        return program

    def close(self):
        """Stops what we started, by process id, and removes what we made. May be called twice."""
        with Uninterrupted():
            for program in reversed(self.programs):
                program.stop(2)
            self.programs.clear()
            for space in self.spaces:
                subprocess.run(["ip", "netns", "delete", space.name], capture_output=True)
            self.spaces.clear()
            for directory in Path("/run/dpdk").glob(f"{PREFIX}*"):
                shutil.rmtree(directory, ignore_errors=True)
            shutil.rmtree(self.dir, ignore_errors=True)

    # ---- rvsd ------------------------------------------------------------------------------

    def write_config(self, ports=None, services="", worker="", extra=""):
        """Writes the configuration file of this lab. `ports` replaces the two af_packet ports."""
        self.config.write_text(config_text(self.socket, PREFIX + "dpdk", ports or AF_PACKET_PORTS, services, worker, extra))

    def start(self, addresses=True, **config):
        """Starts rvsd (from the file `write_config` wrote, or writes one) and waits until it answers."""
        if config or not self.config.exists():
            self.write_config(**config)
        self.rvsd = self.lb.spawn([BIN / "rvsd", self.config], "rvsd")
        self.wait_ready()
        if addresses:
            self.put_addresses()
        return self.rvsd

    def wait_ready(self):
        wait_for("rvsd to answer `rvsadm status`",
                 lambda: self._died(self.rvsd) or self.adm_result("status").returncode == 0, 30)

    def put_addresses(self, front="tf0", back="tb0", space=None):
        """Addresses of the balancer and the VIPs, on the twins, by `ip`, as an operator would."""
        space = space or self.lb
        for device in (front, back):
            wait_for(f"twin {device}", lambda: space.run(f"ip link show {device}", fail=False).returncode == 0)
            space.ip(f"link set {device} up")
        space.batch(*address_commands(front, back))

    def adm_argv(self, arguments):
        words = shlex.split(arguments) if isinstance(arguments, str) else arguments
        return [str(BIN / "rvsadm"), "--socket", str(self.socket)] + words

    def adm_result(self, arguments, seconds=10, stdin=None):
        return run(self.adm_argv(arguments), seconds, fail=False, stdin=stdin)

    def adm(self, arguments, seconds=10, stdin=None):
        """One `rvsadm` command that has to succeed; returns its output."""
        self.echo(f"rvsadm {arguments}")
        result = self.adm_result(arguments, seconds, stdin)
        if result.returncode:
            raise Failure(f"rvsadm {arguments}: exit {result.returncode}\n{result.stdout}{result.stderr}")
        return result.stdout

    def service(self, mode, port=80, protocol="tcp", scheduler="rr", servers=None, families=(4, 6), options=""):
        """Adds the virtual service of a mode with all servers, and returns its addresses."""
        flag = "-t" if protocol == "tcp" else "-u"
        vips = [vip for vip in VIPS[mode] if family_of(vip) in families]
        for vip in vips:
            self.adm(f"-A {flag} {at(vip, port)} -s {scheduler} {options}".strip())
            for server in servers or self.servers:
                self.add_real(mode, vip, server, port, flag)
        if mode == "tun":
            self.decapsulate(servers or self.servers)
        return vips

    def add_real(self, mode, vip, server, port=80, flag="-t", weight=1):
        real = at(server.addr if family_of(vip) == 4 else server.addr6, port)
        self.adm(f"-a {flag} {at(vip, port)} -r {real} {METHOD[mode]} -w {weight}")

    def decapsulate(self, servers):
        for server in servers:
            if not hasattr(server, "decap"):
                server.decap = self.peer(server, "decap.py")

    def stats(self, arguments="-Ln --stats --exact"):
        """`-Ln --stats --exact` as {(proto, "vip:port"): Row, and (proto, "vip:port", "rip:port"): Row}."""
        rows, service = {}, None
        for line in self.adm_quiet(arguments).splitlines()[3:]:
            words = line.split()
            if words[0] == "->":
                rows[service + (words[1],)] = [int(word) for word in words[2:7]]
            else:
                service = (words[0], words[1])
                rows[service] = [int(word) for word in words[2:7]]
        return rows

    def conns(self, vip, port=80, server=None, protocol="TCP"):
        """Connections counted for a service, or for one of its servers."""
        key = (protocol, at(vip, port))
        if server is not None:
            key += (at(server.addr if family_of(vip) == 4 else server.addr6, port),)
        return self.stats().get(key, [0])[0]

    def expect_conns(self, count, vip, port=80, server=None, protocol="TCP"):
        """Waits until so many connections are counted: listings may lag behind the packets a little."""
        wait_for(f"{count} connections of {server.short if server else vip}, port {port}",
                 lambda: self.conns(vip, port, server, protocol) == count, 5)

    def adm_quiet(self, arguments):
        result = self.adm_result(arguments)
        if result.returncode:
            raise Failure(f"rvsadm {arguments}: exit {result.returncode}\n{result.stdout}{result.stderr}")
        return result.stdout

    def status(self):
        return json.loads(self.adm_quiet("--json status"))

    def drops(self, reason):
        return sum(drop["count"] for drop in self.status()["drops"] if drop["reason"] == reason)

    # ---- what a test asks of the network ---------------------------------------------------

    def answers(self, vip, requests=4, port=80):
        """The servers that answered so many requests, as a sorted list of distinct names."""
        return sorted({self.client.curl(f"http://{at(vip, port)}/") for _ in range(requests)})

    def expect_all_servers(self, vip, requests=4, port=80):
        want = [f"server {server.number}" for server in self.servers]
        got = self.answers(vip, requests, port)
        check(got == want, f"{vip}: answered by {got}, expected {want}")

    def download(self, vip, name, seconds=60):
        """Downloads a file of known content through the balancer and compares its checksum."""
        result = self.client.run(["sh", "-c", f"curl -gsSf -m {int(seconds * PATIENCE)} 'http://{at(vip, 80)}/files/{name}' | sha256sum"], seconds + 5)
        check(result.stdout.split()[0] == payload_sum(name), f"{name} from {vip} arrived damaged: {result.stdout}{result.stderr}")

    def load(self, *urls, threads=4):
        """Requests on new connections, one after another in each thread, until `finish`."""
        return Load(self, self.client, urls, threads)

    def dump(self):
        """What a reader wants to see after a failure."""
        text = []

        def section(title, body):
            text.append(f"---- {title}\n{body.rstrip()}\n")
        for arguments in ("status", "-Ln --stats --exact", "-Ln"):
            if self.rvsd and self.rvsd.running():
                result = self.adm_result(arguments, 5)
                section(f"rvsadm {arguments}", result.stdout + result.stderr)
        for space in self.spaces:
            if space.short != "switch":
                for what in ("address", "route", "-6 route", "neighbour"):
                    result = subprocess.run(["ip", "-n", space.name, "-br"] + what.split() if what == "address" else
                                            ["ip", "-n", space.name] + what.split(), capture_output=True, text=True)
                    section(f"{space.short}: ip {what}", result.stdout)
        for program in self.programs:
            if not program.name.startswith("nginx"):
                body = program.output() if Path(program.log).exists() else ""
                section(f"log of {program.name} (exit status {program.process.poll()})", "\n".join(body.splitlines()[-60:]))
        return "\n".join(text)


class Load:
    """peers/load.py at work. `report()` is the state so far; `finish()` stops it and returns the last one."""

    def __init__(self, lab, space, urls, threads):
        self.file = lab.dir / f"load.{len(lab.programs)}.json"
        self.program = lab.peer(space, "load.py", "--report", self.file, "--threads", threads, *urls)

    def report(self):
        return json.loads(self.file.read_text()) if self.file.exists() else {"ok": 0, "failed": 0, "by": {}, "errors": []}

    def answered(self, count, name=None, seconds=20):
        """Waits until `count` more requests were answered (by that server)."""
        def done():
            report = self.report()
            return report["by"].get(name, 0) if name else report["ok"]
        start = done()
        wait_for(f"{count} more answers{' by ' + name if name else ''}", lambda: done() >= start + count, seconds)

    def finish(self, failures=0):
        self.program.signal(signal.SIGTERM)
        try:
            self.program.wait(25)
        except Failure as failure:
            raise Failure(f"{failure}; {self.report()}") from None
        report = self.report()
        check(report["failed"] <= failures, f"{report['failed']} of {report['ok'] + report['failed']} requests failed: {report['errors']}")
        check(report["ok"] > 0, "the load answered no request at all")
        return report


class Uninterrupted:
    """Signals wait while we clean up."""

    def __enter__(self):
        self.old = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def __exit__(self, *exception):
        for number, handler in self.old.items():
            signal.signal(number, handler)


def end_on_signals():
    """SIGTERM and SIGHUP end the program as Ctrl-C does: through the `finally`s."""
    def end(number, frame):
        raise KeyboardInterrupt
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def remove_leftovers():
    """Removes namespaces and files of earlier runs that were killed with -9. Their processes died with them."""
    def dead(name):
        found = re.fullmatch(r"rvs(\d+)-.*", name)
        return found and not Path(f"/proc/{found.group(1)}").exists()
    for path in (Path(tempfile.gettempdir()), Path("/run/dpdk")):
        for entry in path.glob("rvs*-*"):
            if dead(entry.name):
                shutil.rmtree(entry, ignore_errors=True)
    spaces = Path("/run/netns")
    for entry in spaces.glob("rvs*-*") if spaces.exists() else ():
        if dead(entry.name):
            subprocess.run(["ip", "netns", "delete", entry.name], capture_output=True)


# ---- files to download -------------------------------------------------------------------------

SIZES = {"64k": 64 << 10, "1m": 1 << 20, "10m": 10 << 20, "100m": 100 << 20}


def payloads():
    """A directory with files of pseudo-random content and their checksums, made once and kept under target/."""
    directory = TARGET / "e2e" / "files"
    directory.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        path, total = directory / name, directory / f"{name}.sha256"
        if total.exists() and path.exists() and path.stat().st_size == size:
            continue
        part = path.with_suffix(f".{os.getpid()}")
        source, digest = random.Random(name), hashlib.sha256()
        with open(part, "wb") as out:
            for _ in range(0, size, 64 << 10):
                piece = source.randbytes(64 << 10)
                digest.update(piece)
                out.write(piece)
        part.rename(path)
        total.write_text(digest.hexdigest())
    return directory


def payload_sum(name):
    return (payloads() / f"{name}.sha256").read_text()


# ---- configuration -------------------------------------------------------------------------------

def port(name, device, twin=None):
    """A port of the configuration; `device` is its line, such as `af_packet = "f0"`."""
    return f'[[port]]\nname = "{name}"\n{device}\ntwin = "{twin or "t" + name}"\n'


AF_PACKET_PORTS = port("f0", 'af_packet = "f0"') + "\n" + port("b0", 'af_packet = "b0"')


def config_text(admin_socket, file_prefix, ports, services="", worker="", extra="", memory="no-huge"):
    return f"""[dpdk]
memory = "{memory}"
file_prefix = "{file_prefix}"

[workers]
max_routes = 20000
{worker}

{ports}
[admin]
socket = "{admin_socket}"
{extra}
{services}"""


def service_text(protocol, address, number, scheduler, servers):
    """A service of the configuration; `servers` are (address, port, method, weight)."""
    text = f'[[service]]\nprotocol = "{protocol}"\naddress = "{address}"\nport = {number}\nscheduler = "{scheduler}"\n'
    for real, real_port, method, weight in servers:
        text += f'[[service.server]]\naddress = "{real}"\nport = {real_port}\nmethod = "{method}"\nweight = {weight}\n'
    return text


def need_build():
    for program in ("rvsd", "rvsadm"):
        if not (BIN / program).exists():
            sys.exit(f"{BIN / program} is missing: run \"make build\" first")


def need_programs(*names):
    missing = [name for name in names if not shutil.which(name)]
    if missing:
        raise Skip(f"not installed: {', '.join(missing)}")


def network(**how):
    """Decorator: how the Lab of a test is built, e.g. `@network(servers=3)`."""
    def mark(function):
        function.network = how
        return function
    return mark


def in_lab(build):
    """Decorator: a test in the lab that `build()` makes; it gets the lab and its nodes. With the lab's dump on failure."""
    def mark(function):
        @functools.wraps(function)
        def test():
            with build() as lab:
                try:
                    function(lab, *lab.nodes)
                except BaseException:
                    print(lab.dump())
                    raise
        # It takes no parameter, whatever the function takes.
        del test.__wrapped__
        return test
    return mark


def lasts(seconds):
    """Decorator: a test that may take longer than two minutes."""
    def mark(function):
        function.seconds = seconds
        return function
    return mark


def needs_guest_kernel(function):
    """Decorator: a test that runs in the emulated host (cases/pci.py), whose kernel has what this one may lack."""
    function.inside = True
    return function


if os.geteuid() != 0:
    sys.exit("namespaces need root: run this as root")
