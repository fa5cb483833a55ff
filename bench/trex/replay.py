#!/usr/bin/python3
"""The loads of the TRex profiles from Debian's own dpdk-testpmd, for those without TRex: packets are written to a
capture file and replayed without end into a memif (or another port) that RVS has the other end of.

    replay.py --kind udp --flows 100000 --size 64 --seconds 10          against configs/trex-memif.toml
    replay.py --kind syn --flows 500000                                 opening segments
    replay.py --kind imix --vdev net_af_packet0,iface=t0
    replay.py --kind udp --write load.pcap                              the file only, for other tools

testpmd knows no rate: it sends as fast as the other side takes. What RVS took and lost is in `rvsadm status`; with
two memifs (--back) what came out at the servers' side is counted, too.
"""
import argparse
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
sys.path.insert(0, str(REPO / "control" / "tests" / "e2e"))
sys.dont_write_bytecode = True
from frames import clients, ethernet, tcp, udp, write_pcap  # noqa: E402

FCS = 4
IMIX = ((64, 28), (594, 16), (1518, 4))
# 14 + 20 + 8 bytes before the payload of a UDP packet.
UDP_HEADERS = 42


def frames(kind, flows, size, vip, port, dst, src, first="16.0.0.1"):
    """One frame for each flow. IMIX deals its sizes in proportion."""
    mix = [size]
    if kind == "imix":
        mix = [length for length, share in IMIX for _ in range(share)]
    for number, (host, sport) in enumerate(clients(flows, first, 1025)):
        if kind == "syn":
            packet = tcp(host, sport, vip, port)
        else:
            packet = udp(host, sport, vip, port, b"r" * (mix[number % len(mix)] - FCS - UDP_HEADERS))
        yield ethernet(dst, src, packet)


def memif(number, socket):
    return f"net_memif{number},role=client,id={number},bsize=2048,rsize=11,socket={socket},socket-abstract=no"


def command(capture, vdevs, cores, prefix, buffers):
    main, worker = cores
    # The capture is port 0 and sends to port 1; what comes back from the servers' side (port 2) goes nowhere (port 3).
    devices = [f"net_pcap0,rx_pcap={capture},infinite_rx=1", *vdevs]
    if len(vdevs) == 2:
        devices.append("net_null0,no-rx=1")
    # Its output would stay in a buffer otherwise, while what it repeats of our commands does not.
    words = ["stdbuf", "-oL", "dpdk-testpmd", "--lcores", f"0@{main},1@{worker}", "--main-lcore", "0", "--no-huge", "-m", str(256 + buffers * 3 // 1024),
             "--no-pci", "--no-telemetry", f"--file-prefix={prefix}", *[f"--vdev={device}" for device in devices],
             "--", "--nb-cores=1", f"--total-num-mbufs={buffers}", "--forward-mode=io", "--burst=64", "--rxd=1024", "--txd=1024",
             "--no-lsc-interrupt", "--port-topology=paired", "-i"]
    return words


class Testpmd:
    """An interactive testpmd."""

    def __init__(self, words, log):
        self.log = log
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.said = b""
        self.asked = 0

    def until(self, text, seconds=60):
        """Reads until a text comes; returns what was said up to it."""
        deadline = time.monotonic() + seconds
        while text not in self.said:
            if not select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise SystemExit(f"replay: testpmd said nothing of {text.decode()!r} for {seconds} s: {self.said[-500:].decode(errors='replace')}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise SystemExit(f"replay: testpmd ended: {self.said[-800:].decode(errors='replace')}")
            self.said += data
        head, _, self.said = self.said.partition(text)
        return head.decode(errors="replace")

    def ask(self, words):
        """What a command says. Prompts are no end of it, as they come when they please; testpmd repeats what it reads
        when it has done with what came before, and so it repeats a word that it does not know."""
        self.asked += 1
        end = f"end-of-{self.asked}".encode()
        self.process.stdin.write(words.encode() + b"\n" + end + b"\n")
        self.process.stdin.flush()
        return self.until(end)

    def close(self):
        if self.process.poll() is None:
            try:
                self.process.stdin.write(b"stop\nquit\n")
                self.process.stdin.close()
                self.process.wait(10)
            except (OSError, subprocess.TimeoutExpired):
                self.process.kill()
                self.process.wait()


def counters(text):
    """{port: {"rx": packets, "tx": packets}} of `show port stats all`."""
    found = {}
    for part in re.split(r"NIC statistics for port (\d+)", text)[1:]:
        if part.isdigit():
            port = int(part)
        else:
            found[port] = {"rx": int(re.search(r"RX-packets:\s*(\d+)", part)[1]), "tx": int(re.search(r"TX-packets:\s*(\d+)", part)[1])}
    return found


def replay(options, capture, count):
    vdevs = [options.vdev or memif(0, options.socket)] + ([options.back_vdev or memif(1, options.socket)] if options.back else [])
    prefix = f"rvs-replay-{os.getpid()}"
    # The whole file is in buffers, and the rings have theirs.
    testpmd = Testpmd(command(capture, vdevs, options.cores, prefix, count + 16384), None)
    try:
        testpmd.until(b"testpmd> ")
        testpmd.ask("start")
        time.sleep(options.settle)
        before, began = counters(testpmd.ask("show port stats all")), time.monotonic()
        time.sleep(options.seconds)
        after, took = counters(testpmd.ask("show port stats all")), time.monotonic() - began
    finally:
        testpmd.close()
        shutil.rmtree(Path("/var/run/dpdk") / prefix, ignore_errors=True)
    if after[1]["tx"] == before[1]["tx"]:
        raise SystemExit("replay: the other side took nothing; is rvsd there, with link up at both memifs (rvsadm status)?")
    result = {"kind": options.kind, "flows": count, "size": options.size, "seconds": round(took, 2),
              "sent_per_second": round((after[1]["tx"] - before[1]["tx"]) / took)}
    if options.back:
        result["received_per_second"] = round((after[2]["rx"] - before[2]["rx"]) / took)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("udp", "syn", "imix"), default="udp")
    parser.add_argument("--flows", type=int, default=10_000, help="different clients; each takes a buffer of 2 KiB")
    parser.add_argument("--size", type=int, default=64, help="bytes with the FCS (udp)")
    parser.add_argument("--vip", default="10.1.0.100")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--mac", default="02:00:00:00:10:01", help="RVS' MAC on the clients' side")
    parser.add_argument("--source-mac", default="02:00:00:00:10:02")
    parser.add_argument("--socket", default="/run/rvs/trex.sock", help="socket of the memifs")
    parser.add_argument("--vdev", help="the clients' side as DPDK writes it, instead of memif 0")
    parser.add_argument("--back", action="store_true", help="take the servers' side (memif 1), too, and count what comes")
    parser.add_argument("--back-vdev", help="the servers' side as DPDK writes it")
    parser.add_argument("--cores", type=int, nargs=2, default=(0, 0), metavar=("MAIN", "WORKER"))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--settle", type=float, default=2, help="seconds before the count")
    parser.add_argument("--write", type=Path, help="write the capture file and end")
    options = parser.parse_args()
    made = frames(options.kind, options.flows, options.size, options.vip, options.port, options.mac, options.source_mac)
    if options.write:
        write_pcap(options.write, made)
        return 0
    if not shutil.which("dpdk-testpmd"):
        print("replay: dpdk-testpmd is not installed (Debian: dpdk-dev)", file=sys.stderr)
        return 2
    if not options.vdev and not Path(options.socket).exists():
        print(f"replay: there is no memif socket {options.socket}; start rvsd first (configs/trex-memif.toml)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as directory:
        capture = Path(directory) / "load.pcap"
        write_pcap(capture, made)
        print(json.dumps(replay(options, capture, options.flows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
