"""Flows without end: UDP packets and TCP SYNs from ever new ports and addresses, until SIGTERM.

    opener.py VIP UDP_PORT TCP_PORT PER_SECOND      so many of each; the last line says how many there were

The packets are written raw, with sources in 172.16.0.0/16 that nobody has, so nobody answers: the
connections stay half open and have to expire, or make room.
"""
import json
import signal
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from frames import tcp, udp  # noqa: E402


def main():
    vip, udp_port, tcp_port, pace = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    print("ready", flush=True)
    number, due = 0, time.monotonic()
    while not signal.sigtimedwait([signal.SIGTERM], max(0.0, due - time.monotonic())):
        for _ in range(max(1, pace // 20)):
            host, port = f"172.16.{number >> 8 & 255}.{number & 255}", 1024 + number // 65536 * 7 % 60000
            sock.sendto(udp(host, port, vip, udp_port, b"soak"), (vip, 0))
            sock.sendto(tcp(host, port, vip, tcp_port), (vip, 0))
            number += 1
        due = max(due + 0.05, time.monotonic() - 1)
    print(json.dumps({"opened": 2 * number}), flush=True)


main()
