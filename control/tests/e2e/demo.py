#!/usr/bin/python3
"""make demo: real HTTP requests from a client cross rvsd to real nginx servers, in NAT, DR and TUN mode.

Everything happens in network namespaces that are removed at the end, also after Ctrl-C or a failure.
It ends with status 0 only if every request was answered and rvsd's counters account for each one.
"""
import shlex
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
from lab import BIN, CLIENT, FRONT, METHOD, REPO, VIPS, Died, Failure, Lab, at, check, end_on_signals, need_build, \
    payload_sum, remove_leftovers, wait_for  # noqa: E402

CONFIG = REPO / "configs" / "demo.toml"
COLOUR = sys.stdout.isatty()


def title(text):
    print(f"\n\033[1m== {text}\033[0m" if COLOUR else f"\n== {text}", flush=True)


def say(text):
    for line in text.strip().splitlines():
        print(f"   {line.strip()}", flush=True)


def command(text):
    print(f"\033[36m$ {text}\033[0m" if COLOUR else f"$ {text}", flush=True)


def show(text):
    for line in text.rstrip().splitlines():
        print(f"  {line}", flush=True)


class Demo:
    def __init__(self, lab):
        self.lab, self.asked = lab, {}

    def adm(self, arguments):
        """Runs rvsadm, showing the command and its output."""
        command(f"rvsadm {arguments}")
        output = self.lab.adm(arguments)
        show(output)
        return output

    def get(self, vip, requests):
        """So many requests, each on a new connection; shows and returns who answered."""
        url = f"http://{at(vip, 80)}/"
        command(f"for i in $(seq {requests}); do curl -s '{url}'; done        # in the client's namespace")
        names = [self.lab.client.curl(url) for _ in range(requests)]
        show(", ".join(names))
        self.asked[vip] = self.asked.get(vip, 0) + requests
        return names

    def start(self):
        lab = self.lab
        command(f"rvsd {CONFIG.relative_to(REPO)}        # in the balancer's namespace, where ip_forward is 0")
        # The file's own paths, but private to this demo: another rvsd on this machine is not disturbed.
        private = lab.dir / "run"
        private.mkdir()
        lab.socket = private / "rvsd.sock"
        script = 'mkdir -p /run/rvs /run/dpdk; mount --bind "$1" /run/rvs; mount -t tmpfs none /run/dpdk; exec "$2" "$3"'
        lab.rvsd = lab.lb.spawn(["sh", "-ec", script, "sh", private, BIN / "rvsd", CONFIG], "rvsd")
        lab.wait_ready()
        say("""rvsd drives f0 and b0 with DPDK. For each it keeps a kernel twin, rvs-front and rvs-back: addresses
               and routes live there and are managed with `ip` as ever.""")
        for mode, vips in VIPS.items():
            for vip in vips:
                command(f"ip address add {vip}/{128 if ':' in vip else 32} dev rvs-front        # the {mode.upper()} service's address")
        lab.put_addresses("rvs-front", "rvs-back")

    def mode(self, mode, explanation):
        title({"nat": "NAT", "dr": "Direct routing", "tun": "IP-in-IP tunnel"}[mode])
        say(explanation)
        lab = self.lab
        if mode == "tun":
            command("decap.py        # in each server's namespace: takes the inner packet out of the tunnel")
            lab.decapsulate(lab.servers)
        for vip in VIPS[mode]:
            self.adm(f"-A -t {at(vip, 80)} -s rr")
            for server in lab.servers:
                self.adm(f"-a -t {at(vip, 80)} -r {at(server.addr6 if ':' in vip else server.addr, 80)} {METHOD[mode]}")
            names = self.get(vip, 6)
            want = {f"server {server.number}" for server in lab.servers}
            check(set(names) == want, f"{vip}: expected answers of {sorted(want)}, got {names}")
        self.adm("-Ln")

    def take_away(self):
        title("A server leaves while downloads run")
        lab, vip = self.lab, VIPS["nat"][0]
        leaving = lab.servers[0]
        real = at(leaving.addr, 80)
        url = f"http://{at(vip, 80)}/files/100m"
        command(f"curl -s --limit-rate 15M {url} | sha256sum        # six of them in the background")
        wait_for("the requests so far in the counters", lambda: lab.conns(vip) == self.asked[vip])
        started = lab.conns(vip, server=leaving)
        downloads = [lab.client.spawn(["sh", "-c", f"curl -gsSf --limit-rate 15M '{url}' | sha256sum"], "download") for _ in range(6)]
        self.asked[vip] += len(downloads)
        wait_for("a download on every server", lambda: lab.conns(vip) == self.asked[vip])
        inside = lab.conns(vip, server=leaving) - started
        check(inside > 0, "no download runs through the leaving server")
        say(f"{inside} of them run through {real}. Weight 0: it gets nothing new and keeps what it has.")
        self.adm(f"-e -t {at(vip, 80)} -r {real} -m -w 0")
        check(all(download.running() for download in downloads), "the downloads were over before the server was taken away")
        names = self.get(vip, 6)
        check("server 1" not in names, "the quiesced server answered a new request")
        wait_for("the last requests in the counters", lambda: lab.conns(vip) == self.asked[vip])
        self.adm(f"-Ln --stats --exact -t {at(vip, 80)}")
        check(lab.conns(vip, server=leaving) == started + inside, "a new connection reached the quiesced server")
        say(f"Conns of {real} stayed at {started + inside}: no new connection reached it. Now the downloads finish:")
        for download in downloads:
            check(download.wait(120) == 0 and payload_sum("100m") in download.output(), f"a download failed: {download.output()}")
        show(f"6 x 100 MB, all with checksum {payload_sum('100m')[:16]}…")
        self.adm(f"-d -t {at(vip, 80)} -r {real}")
        check("server 1" not in self.get(vip, 2), "the deleted server answered")

    def account(self):
        title("Every request is accounted for")
        for vip, requests in self.asked.items():
            wait_for(f"{requests} connections of {vip}, one for each request", lambda: self.lab.conns(vip) >= requests, 3)
            counted = self.lab.conns(vip)
            check(counted == requests, f"{vip}: {requests} requests, but rvsd counted {counted} connections")
        self.adm("-Ln --stats --exact")
        for setting in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            value = self.lab.lb.run(["cat", f"/proc/sys/{setting}"]).stdout.strip()
            check(value == "0", f"{setting} is {value}: the kernel may have forwarded")
        say(f"{sum(self.asked.values())} requests, {sum(self.asked.values())} connections counted by rvsd; the kernel forwards nothing here (ip_forward=0).")


def main():
    began = time.monotonic()
    need_build()
    end_on_signals()
    remove_leftovers()
    title("RVS demo: a client, a balancer, three servers")
    say(f"""client {CLIENT[0]} {CLIENT[1]} ── f0 [rvsd] b0 ── servers 10.2.0.11-13, fd02::11-13; rvsd's own address there is {FRONT[0]}.
            All in network namespaces of this machine; no NIC and no hugepages are needed.""")
    made = not Path("/run/rvs").exists()
    try:
        with Lab(servers=3) as lab:
            say(f"rvsd and rvsadm are those of {shlex.quote(str(BIN))}.")
            demo = Demo(lab)
            try:
                demo.start()
                demo.mode("nat", """The balancer rewrites the destination to the server's address; answers come back through it.""")
                demo.mode("dr", """Only the MAC address changes. The servers hold the service's address on lo (without answering ARP
                                   for it) and answer the client directly: OutPkts stays 0.""")
                demo.mode("tun", """The packet travels to the server inside another IP packet; the server unpacks it and answers directly.""")
                demo.take_away()
                demo.account()
            except (Failure, Died):
                print("\n" + lab.dump(), file=sys.stderr)
                raise
    except (Failure, Died) as error:
        print(f"\ndemo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; everything is removed", file=sys.stderr)
        return 130
    finally:
        if made and Path("/run/rvs").exists():
            Path("/run/rvs").rmdir()
    title(f"done in {time.monotonic() - began:.0f} s; namespaces, twins and files are removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
