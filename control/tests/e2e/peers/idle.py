#!/usr/bin/python3
"""Idle connections: one request on each at once, another on each at SIGTERM; which are still there.

    idle.py COUNT HOST...       writes "ready" after the first round; the last line is {"kept": N, "lost": [...]}
"""
import json
import signal
import socket
import sys


def ask(sock):
    """One request; its whole answer comes in one piece or a few."""
    sock.sendall(b"GET / HTTP/1.1\r\nHost: idle\r\n\r\n")
    data = b""
    while not data.endswith(b"\n") or b"\r\n\r\n" not in data or data.endswith(b"\r\n\r\n"):
        more = sock.recv(65536)
        if not more:
            raise OSError("closed")
        data += more
    return data


def main():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    socks = []
    for host in sys.argv[2:]:
        for _ in range(int(sys.argv[1])):
            sock = socket.create_connection((host, 80), 20)
            ask(sock)
            socks.append((host, sock))
    print("ready", flush=True)
    signal.sigwait([signal.SIGTERM])
    lost = []
    for host, sock in socks:
        try:
            ask(sock)
        except OSError as error:
            lost.append(f"{host}: {error}")
    print(json.dumps({"kept": len(socks) - len(lost), "lost": lost}), flush=True)


main()
